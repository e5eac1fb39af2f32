"""How any model learns from a batch: autograd, on any device, in mixed precision, in processes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet._checks import InputError
from spinalnet.training.evaluation import Metrics, count_correct, measure
from spinalnet.training.objective import criterion_for, mixer_for
from spinalnet.training.placement import (
    BatchSource,
    HasDepth,
    at_least_float32,
    batches_of,
    check_classes,
    check_fit,
    count_batches,
    evaluating,
    place,
)
from spinalnet.training.updates import MovingAverage, clip_gradients, new_optimizer

if TYPE_CHECKING:
    from spinalnet.training.config import TrainConfig
    from spinalnet.training.placement import Batch, Data, Task


@runtime_checkable
class BringsLearner(Protocol):
    """Training data that knows a quicker way to learn from it than batch by batch."""

    def learner(self, model: nn.Module, val: Data, config: TrainConfig) -> ModelLearner:
        """Return what `fit` trains `model` with."""
        ...


class ModelLearner:
    """What `loop.Loop` trains for `fit`: a model with its data, optimizer and averaged weights."""

    several_processes = True

    def __init__(self, model: nn.Module, train: Data, val: Data, config: TrainConfig) -> None:
        self.config, self.train, self.val = config, train, val
        self.placement = place(
            model, config.device, config.amp, config.channels_last, config.eval_batch_size
        )
        self.device = self.placement.device
        self.advice = "lower lr, set clip_norm, or use warmup_epochs"
        if self.placement.amp_dtype is torch.float16:
            self.advice += ", or amp=bf16"
        self.steps = count_batches(train, config.batch_size, "training data")
        count_batches(val, config.eval_batch_size, "validation data")
        if not isinstance(train, BatchSource):
            _check_iterable(train, config)
        self.model = self.placement.move(model)
        self.task: Task
        self.task, self.outputs = self._probe()
        self.criterion = criterion_for(config, self.task, train, self.outputs, self.placement)
        self.mix = mixer_for(config, self.outputs, self.placement)
        self.groups = _depth_groups(self.model, config)
        self.depth = self.groups_trained = len(self.groups)
        self.net = self._for_processes()
        self.restart_optimizer()
        half = self.placement.amp_dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.ema = MovingAverage(self.model, config.ema_decay) if config.ema_decay else None
        self.epoch = 0
        self.notes: list[str] = []

    def _probe(self) -> tuple[Task, int]:
        """Run one batch through the model without training it: do data and model fit?"""
        batches = batches_of(self.train, self.config.batch_size, self.placement)
        inputs, targets = next(iter(batches), (None, None))
        if inputs is None or targets is None or len(inputs) == 0:
            raise InputError("the training data is empty: fit needs at least one example.")
        with evaluating(self.model), self.placement.autocast():
            outputs = self.model(inputs)
        check_fit(outputs, targets, values=True)
        if self.config.mix != "none" and (targets.is_floating_point() or inputs.ndim != 4):
            raise InputError(
                f"mix={self.config.mix} mixes images and their classes, got inputs of shape "
                f"{tuple(inputs.shape)} and targets of type {targets.dtype}: leave it out."
            )
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise InputError("the model has no parameter to train: unfreeze some of it.")
        task: Task = "regression" if targets.is_floating_point() else "classification"
        return task, outputs.shape[-1]

    def _for_processes(self) -> nn.Module:
        """Return the model as it is called in training."""
        if _dist.world_size() == 1:
            return self.model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(self.model, device_ids=ids)

    def restart_optimizer(self) -> None:
        """Take a new optimizer, which remembers no gradients."""
        config = self.config
        groups: list[dict[str, Any]] = []
        for depth, parameters in enumerate(self.groups):
            factor = config.trunk_lr * config.layer_decay**depth if depth else 1.0
            spared = [p for p in parameters if p.ndim < 2 and not config.decay_norms]
            if spared:
                groups.append({"params": spared, "factor": factor, "weight_decay": 0.0})
                parameters = [p for p in parameters if p.ndim >= 2]
            if parameters:
                groups.append({"params": parameters, "factor": factor})
        self.optimizer = new_optimizer(config, groups)

    @contextmanager
    def all_released_after(self) -> Iterator[None]:
        """Let every depth group learn again after, as it did when the model came."""
        try:
            yield
        finally:
            for parameter in itertools.chain.from_iterable(self.groups):
                parameter.requires_grad_()

    def begin_epoch(self, epoch: int) -> None:
        """Seed the generators and let the depth groups of this epoch learn, the others rest."""
        self.epoch = epoch
        _seed_everything(self.config.seed, epoch)
        trained = self.config.groups_trained(epoch, self.depth)
        if trained != self.groups_trained:
            for depth, parameters in enumerate(self.groups):
                for parameter in parameters:
                    parameter.requires_grad_(depth < trained)
                    parameter.grad = None  # an old gradient would still move it
            self.groups_trained = trained
            self.net = self._for_processes()

    def batches(self) -> Iterator[Batch]:
        """Put the model in training mode and yield the batches of the epoch that can be used."""
        config = self.config
        self.model.train()
        _rest_frozen(self.model)
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if config.keep_statistics:
            of_head = set(self.groups[0])
            for norm in norms:
                norm.train(not of_head.isdisjoint(norm.parameters()))
        has_batch_norm = any(norm.training for norm in norms)
        fewest = _dist.world_size() * (2 if has_batch_norm else 1)
        reason = "it has fewer examples than there are processes"
        if has_batch_norm:
            reason = "batch normalisation cannot be trained on a single example"
        for inputs, targets in batches_of(
            self.train, config.batch_size, self.placement, shuffled_by=config, epoch=self.epoch
        ):
            if len(inputs) < fewest:
                self.notes = [
                    f"The last batch of an epoch ({len(inputs)}) is left out of training: {reason}."
                ]
            else:
                yield inputs, targets

    def find_gradients(self, step: int, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return (mean loss, right answers) of a batch, its gradients being in the parameters.

        Of several processes, each returns its share of both. Where images are mixed, an answer is
        right by as much as its class is in the mixture.
        """
        on_cpu = self.device.type == "cpu"
        inputs, targets = batch
        wanted = targets
        if self.mix is not None:
            if on_cpu:
                check_classes(targets, self.outputs)
            key = f"mix/{self.config.seed}/{self.epoch}/{step}"
            inputs, wanted = self.mix(key, inputs, targets)
        part = _dist.shard(wanted)
        with self.placement.autocast():
            outputs = self.net(_dist.shard(inputs))
        check_fit(outputs, _dist.shard(targets), values=on_cpu)
        outputs = at_least_float32(outputs)
        loss = self.criterion(outputs, part, wanted)
        self.optimizer.zero_grad()
        # The gradients of the processes will be averaged.
        self.scaler.scale(loss * _dist.world_size()).backward()
        is_class = self.task == "classification"
        return loss.detach(), count_correct(outputs, part) if is_class else None

    def update_weights(self, lr: float) -> None:
        """Make a step of the optimizer at the rate `lr` (of the head, where rates differ)."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
        clip_gradients(self.model.parameters(), self.config)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()

    @property
    def evaluated(self) -> nn.Module:
        """The model that is measured and kept: the averaged one, if there is one."""
        return self.model if self.ema is None else self.ema.model

    def measure(self) -> Metrics:
        """Return the metrics on the validation data."""
        _dist.copy_from_main(self.evaluated.buffers())
        return measure(self.evaluated, self.val, self.placement, sharded=True)

    def copy_weights(self) -> dict[str, Tensor]:
        """Return a copy on the CPU that shares no memory, with the model or within itself."""
        return {
            name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, tensor in self.evaluated.state_dict().items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds of model and optimizer."""
        return {
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, for the same model and settings."""
        try:
            self.model.load_state_dict(state["model"])
            if self.ema is not None:
                self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"the interrupted run trained another model than this {type(self.model).__name__}: "
                "give the same model, or choose another folder."
            ) from error
        self.scaler.load_state_dict(state["scaler"])


def _check_iterable(train: Any, config: TrainConfig) -> None:
    """Refuse what an iterable, which keeps its own order, cannot do."""
    if config.augment != "none":
        raise InputError(
            "augment needs training data with a batches() method; got "
            f"{type(train).__name__}: augment there, or pass augment='none'."
        )
    if _dist.world_size() > 1:
        raise InputError(
            "training with several processes needs data whose order the seed decides, with a "
            f"batches() method; got {type(train).__name__}."
        )


def _depth_groups(model: nn.Module, config: TrainConfig) -> list[list[nn.Parameter]]:
    """Return the parameters that may be trained, from the head down; one group if all alike."""
    if not config.uses_depth:
        return [[p for p in model.parameters() if p.requires_grad]]
    groups = model.depth_groups() if isinstance(model, HasDepth) else []
    groups = [[p for p in group if p.requires_grad] for group in groups]
    groups = [group for group in groups if group]
    if len(groups) < 2:
        raise InputError(
            "trunk_lr, layer_decay, head_epochs, unfreeze_every and keep_statistics need a "
            f"head and a trunk that both learn, which this {type(model).__name__} has "
            "not: leave them out, or give a model with depth_groups()."
        )
    last = config.groups_trained(config.epochs - 1, len(groups))
    if last < len(groups):
        raise InputError(
            f"unfreeze_every={config.unfreeze_every} reaches {last} of the {len(groups)} "
            f"depth groups within epochs={config.epochs}: lower it, or train longer."
        )
    return groups


def _rest_frozen(module: nn.Module) -> None:
    """Run parts that learn nothing as in evaluation: no dropout, and statistics stay as they are.

    A frozen trunk then makes the same features in every epoch, those it was trained to make.
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        module.eval()
        return
    for child in module.children():
        _rest_frozen(child)


def _seed_everything(seed: int, epoch: int) -> None:
    """Make what the global generators draw in an epoch a function of (seed, epoch, process)."""
    import numpy as np

    value = random.Random(f"{seed}/{epoch}/{_dist.rank()}").getrandbits(63)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (for augmentations of users that draw from it)
    torch.manual_seed(value)

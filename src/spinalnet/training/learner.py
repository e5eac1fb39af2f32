"""How any model learns from a batch: autograd, on any device, in mixed precision, in processes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet._checks import InputError
from spinalnet.randomness import generator_states, seed_generators, set_generator_states
from spinalnet.training import circumstances, trouble
from spinalnet.training.evaluation import Answers, Metrics, count_correct, measure
from spinalnet.training.objective import criterion_for, mixer_for
from spinalnet.training.parts import Parts
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


_Parallel = nn.parallel.DistributedDataParallel


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
        self.steps = count_batches(train, config.batch_size, "training data", shuffled=True)
        count_batches(val, config.eval_batch_size, "validation data")
        if not isinstance(train, BatchSource):
            _check_iterable(train, config)
        self.model = self.placement.move(model)
        self.task: Task
        self.task, self.outputs = self._probe()
        # What the last digits of a result depend on here.
        self.circumstances = circumstances.present(
            self.placement, next(self.model.parameters()).dtype, config.accumulate
        )
        self.criterion = criterion_for(config, self.task, train, self.outputs, self.placement)
        self.mix = mixer_for(config, self.outputs, self.placement)
        self.groups = _depth_groups(self.model, config)
        self.depth = self.groups_trained = len(self.groups)
        self.net = self._for_processes()
        self.notes: list[str] = []
        self._parts = Parts(config, self.device, self.notes)
        self.restart_optimizer()
        half = self.placement.amp_dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.ema = MovingAverage(self.model, config.ema_decay) if config.ema_decay else None
        self.epoch = 0
        self.answers = Answers()  # of the last validation
        self._silent: set[str] = set()  # what got no gradient at the end of the epoch before
        self._draws: Mapping[str, Any] | None = None  # generators to take up in this epoch

    def _probe(self) -> tuple[Task, int]:
        """Run one batch through the model without training it: do data and model fit?"""
        batches = batches_of(self.train, self.config.batch_size, self.placement)
        inputs, targets = next(iter(batches), (None, None))
        if inputs is None or targets is None or len(inputs) == 0:
            raise InputError("the training data is empty: fit needs at least one example.")
        with evaluating(self.model), self.placement.autocast():
            try:
                outputs = self.model(inputs)
            except Exception as error:
                if not trouble.is_of_memory(error):
                    raise
                outputs = None
            if outputs is None:  # it may fit in parts, which training decides
                inputs, targets = inputs[:1], targets[:1]
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
        return _Parallel(self.model, device_ids=ids)

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

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Put the model in training mode and yield the batches of the epoch that can be used.

        Of several processes, each gets the inputs of its rows, and all targets.

        Args:
            first: Number of the first batch to yield, from 0.
        """
        config = self.config
        self.model.train()
        _rest_frozen(self.model)
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if config.keep_statistics:
            of_head = set(self.groups[0])
            for norm in norms:
                norm.train(not of_head.isdisjoint(norm.parameters()))
        self._parts.prepare(normed=any(norm.training for norm in norms))
        batches = batches_of(
            self.train,
            config.batch_size,
            self.placement,
            shuffled_by=config,
            epoch=self.epoch,
            first=first,
            own=True,
        )
        if self._draws is not None:
            # What skips batches may have drawn: it is at its first now, where the states were kept.
            start = next(batches, None)
            batches = itertools.chain([] if start is None else [start], batches)
            set_generator_states(self._draws, self.device)
            self._draws = None
        for inputs, targets in batches:
            if len(targets) < self._parts.fewest:
                self._parts.note(
                    f"The last batch of an epoch ({len(targets)}) is left out of training: batch "
                    "normalisation cannot be trained on a single example."
                )
            else:
                yield inputs, targets

    def find_gradients(self, step: int, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return (mean loss, right answers) of a batch, its gradients being in the parameters.

        Of several processes, each returns its share of both. Where images are mixed, an answer is
        right by as much as its class is in the mixture.

        Raises:
            MemoryShort: If there is not enough memory.
        """
        inputs, targets = batch
        wanted = targets
        if self.mix is not None:
            if self.device.type == "cpu":
                check_classes(targets, self.outputs)
            key = f"mix/{self.config.seed}/{self.epoch}/{step}"
            inputs = _dist.gather_rows(inputs, len(targets))  # images are mixed with each other
            inputs, wanted = self.mix(key, inputs, targets)
            inputs = _dist.shard(inputs)
        if self._parts.divides:
            return self._parts.find(self._find_part, self.model, inputs, targets, wanted)
        try:
            return self._find_at_once(inputs, targets, wanted, wanted)
        except Exception as error:
            if not trouble.is_of_memory(error):
                raise
            raise self._parts.too_large(error, 1) from error

    def _find_at_once(
        self, inputs: Tensor, targets: Tensor, part: Tensor, wanted: Tensor, *, first: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Compute some rows of a batch.

        Args:
            inputs: Of these rows.
            targets: Theirs.
            part: What is wanted of them.
            wanted: What is wanted of the whole batch.
            first: Whether older gradients are dropped, and not added to.
        """
        with self.placement.autocast():
            outputs = self.net(inputs)
        check_fit(outputs, targets, values=self.device.type == "cpu")
        outputs = at_least_float32(outputs)
        loss = self.criterion(outputs, part, wanted)
        if not _dist.is_filler(len(wanted)):
            counted = count_correct(outputs, part)
        else:
            loss, counted = loss * 0.0, torch.zeros((), device=self.device)
        if first:
            self.optimizer.zero_grad()
        # The gradients of the processes will be averaged.
        self.scaler.scale(loss * _dist.world_size()).backward()
        is_class = self.task == "classification"
        return loss.detach(), counted if is_class else None

    def _find_part(
        self, inputs: Tensor, targets: Tensor, part: Tensor, wanted: Tensor, first: bool, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute a part of a batch; with the last one the processes add up their gradients."""
        net = self.net
        with nullcontext() if last or not isinstance(net, _Parallel) else net.no_sync():
            return self._find_at_once(inputs, targets, part, wanted, first=first)

    def is_finite(self, loss: Tensor) -> bool:
        """Return whether a step can be made: every process of a job comes to the same answer."""
        here = _dist.world_size() > 1 or bool(torch.isfinite(loss))
        if self.scaler.is_enabled():  # it looks at the gradients itself
            return here
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)])
        return here and bool(torch.isfinite(norms).all())

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
        """Return the metrics on the validation data.

        Raises:
            MemoryShort: If there is not enough memory.
        """
        _dist.copy_from_main(self.evaluated.buffers())
        self.answers = self.answers.afresh()
        try:
            return measure(
                self.evaluated, self.val, self.placement, sharded=True, answers=self.answers
            )
        except Exception as error:
            if not trouble.is_of_memory(error):
                raise
            raise trouble.MemoryShort(
                f"out of memory in validation{trouble.asked_for(error)}: lower eval_batch_size="
                f"{self.config.eval_batch_size}, or run fewer at a time (jobs=1)."
            ) from error

    def find_trouble(self, losses: Sequence[float]) -> list[str]:
        """Return what the user should know after an epoch.

        Args:
            losses: Mean loss of every epoch so far.
        """
        names, gradients = self._last_gradients()
        silent = trouble.silent(names, gradients) if gradients else set()
        both, self._silent = self._silent & silent, silent
        classes = self.outputs if self.task == "classification" else None
        self.answers.sum_over_processes(self.outputs, self.device)
        found = [
            trouble.of_silent(both) if both else "",
            trouble.of_losses(losses, classes),
            trouble.of_validation(self.answers) if classes else "",
        ]
        return [sentence for sentence in found if sentence]

    def answered(self) -> Tensor | None:
        """Return examples and answers of each class in the last validation, `(2, K)`, if any."""
        present, given = self.answers.present, self.answers.given
        return None if present is None or given is None else torch.stack([present, given]).cpu()

    def find_trouble_of_best(self, answered: Tensor) -> str:
        """Return what the user should know of the epoch that is kept, given its `answered`."""
        return trouble.of_answers(Answers(answered[0], answered[1]))

    def _last_gradients(self) -> tuple[list[str], list[Tensor]]:
        """Return the gradients of the last step, with the names of their parameters."""
        named = [(n, p.grad) for n, p in self.model.named_parameters() if p.grad is not None]
        return [name for name, _ in named], [gradient for _, gradient in named]

    def draws(self) -> dict[str, Any]:
        """Return what the rest of the running epoch will be drawn from."""
        return generator_states(self.device)

    def resume_draws(self, states: Mapping[str, Any]) -> None:
        """Take up what `draws` returned, when the next batches are made."""
        self._draws = states

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
            "circumstances": self.circumstances,
        }

    def are_finite(self) -> bool:
        """Return whether all weights are numbers that training can go on from."""
        weights = [p.detach() for p in self.model.parameters()]
        return all(bool(torch.isfinite(weight).all()) for weight in weights)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, for the same model and settings."""
        for sentence in circumstances.check_same(
            state.get("circumstances", {}), self.circumstances
        ):
            self._parts.note(sentence)
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
    """Make what the global generators draw in an epoch a function of (seed, epoch).

    Every process draws the same: for all rows of a batch, of which it takes its own.
    """
    seed_generators(random.Random(f"{seed}/{epoch}/0").getrandbits(63))

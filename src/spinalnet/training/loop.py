"""TODO(training.loop): split from train."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet import _dist
from spinalnet._checks import InputError, TrainingError
from spinalnet.training import runs
from spinalnet.training.config import SCHEDULES, Outcome, TrainConfig, parse_mix
from spinalnet.training.evaluation import Metrics, _count_correct, _measure, _Tally
from spinalnet.training.placement import (
    BatchSource,
    HasDepth,
    _amp_dtype,
    _at_least_float32,
    _batches,
    _check_classes,
    _check_fit,
    _count_batches,
    _evaluating,
    _Placement,
    _tensors,
    _wrap_for_processes,
)

if TYPE_CHECKING:
    from spinalnet.training.placement import Batch, Data, Phase, Task


@dataclass(frozen=True)
class Progress:
    """What `on_progress` is told: at every step, before validation, and after every epoch."""

    phase: Phase
    epoch: int  # from 1
    epochs: int
    step: int = 0  # from 1; steps of this epoch
    steps: int = 0
    loss: float | None = None  # of the training so far in this epoch
    row: Mapping[str, Any] | None = None  # the epoch's line of metrics, with phase "epoch"
    note: str = ""  # a sentence for the user, with phase "note"


@dataclass(frozen=True)
class FitResult:
    """A trained model and how it got there.

    `model` is the object given to `fit`, with the weights of `best_epoch`, in evaluation mode.
    `history` is one row per epoch: epoch (from 1), lr (of the last step; the head's, where rates
    differ), train_loss, val_loss, seconds, and train_accuracy, val_accuracy, or val_mae, val_r2.
    With gradual unfreezing, groups_trained is the number of depth groups that learned in it.
    """

    model: nn.Module
    task: Task
    val: Metrics  # of the best epoch
    best_epoch: int  # from 1
    history: tuple[dict[str, Any], ...]
    stopped: Literal["epochs", "early_stopping"]
    notes: tuple[str, ...] = ()  # sentences the user should see

    @property
    def epochs_run(self) -> int:
        """Epochs trained, those before an interruption and of earlier stages included."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Time spent in training and validation."""
        return sum(row["seconds"] for row in self.history)


class _Training:
    """Everything that changes while a model trains, saved and restored as one mapping."""

    def __init__(
        self,
        model: nn.Module,
        train: Data,
        val: Data,
        config: TrainConfig,
        device: torch.device,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.config, self.device, self.train, self.val = config, device, train, val
        self.on_progress = on_progress if _dist.is_main() else None
        self.schedule = SCHEDULES[config.schedule]
        self.placement = _Placement(
            device, _amp_dtype(config.amp, device), config.channels_last, config.eval_batch_size
        )
        self.steps = _count_batches(train, config.batch_size, "training data")
        _count_batches(val, config.eval_batch_size, "validation data")
        if config.augment != "none" and not isinstance(train, BatchSource):
            raise InputError(
                "augment needs training data with a batches() method; got "
                f"{type(train).__name__}: augment there, or pass augment='none'."
            )
        if _dist.world_size() > 1 and not isinstance(train, BatchSource):
            raise InputError(
                "training with several processes needs data whose order the seed decides, with a "
                f"batches() method; got {type(train).__name__}."
            )
        self.model = self.placement.move(model)
        self.task: Task
        self.task, self.outputs = self._probe()
        self.criterion = _criterion(config, self.task, train, self.outputs, self.placement)
        self.mix = _mixer(config, self.outputs, self.placement)
        self.groups = self._depth_groups()
        self.groups_trained = len(self.groups)
        self.net = _wrap_for_processes(self.model, device)
        self.optimizer = self._new_optimizer()
        self.scaler = torch.amp.GradScaler(
            device.type, enabled=self.placement.amp_dtype is torch.float16
        )
        self.ema = _Average(self.model, config.ema_decay) if config.ema_decay else None
        self.epochs_before = 0  # of earlier stages
        self.epoch = 0  # epochs of this stage that are finished
        self.held_lr = config.lr  # the rate that a schedule's `after` decides
        self.best_key: list[float] = []
        self.best_epoch = 0
        self.best_metrics: Metrics | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def _probe(self) -> tuple[Task, int]:
        """Run one batch through the model without training it: do data and model fit?"""
        batches = _batches(self.train, self.config.batch_size, self.placement)
        inputs, targets = next(iter(batches), (None, None))
        if inputs is None or targets is None or len(inputs) == 0:
            raise InputError("the training data is empty: fit needs at least one example.")
        with _evaluating(self.model), self.placement.autocast():
            outputs = self.model(inputs)
        _check_fit(outputs, targets, values=True)
        if self.config.mix != "none" and (targets.is_floating_point() or inputs.ndim != 4):
            raise InputError(
                f"mix={self.config.mix} mixes images and their classes, got inputs of shape "
                f"{tuple(inputs.shape)} and targets of type {targets.dtype}: leave it out."
            )
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise InputError("the model has no parameter to train: unfreeze some of it.")
        task: Task = "regression" if targets.is_floating_point() else "classification"
        return task, outputs.shape[-1]

    def _depth_groups(self) -> list[list[nn.Parameter]]:
        """Return the parameters that may be trained, from the head down; one group if all alike."""
        if not self.config.uses_depth:
            return [[p for p in self.model.parameters() if p.requires_grad]]
        groups = self.model.depth_groups() if isinstance(self.model, HasDepth) else []
        groups = [[p for p in group if p.requires_grad] for group in groups]
        groups = [group for group in groups if group]
        if len(groups) < 2:
            raise InputError(
                "trunk_lr, layer_decay, head_epochs, unfreeze_every and keep_statistics need a "
                f"head and a trunk that both learn, which this {type(self.model).__name__} has "
                "not: leave them out, or give a model with depth_groups()."
            )
        last = self.config.groups_trained(self.config.epochs - 1, len(groups))
        if last < len(groups):
            raise InputError(
                f"unfreeze_every={self.config.unfreeze_every} reaches {last} of the {len(groups)} "
                f"depth groups within epochs={self.config.epochs}: lower it, or train longer."
            )
        return groups

    def _new_optimizer(self) -> torch.optim.Optimizer:
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
        return _new_optimizer(config, groups)

    def _release(self, groups: int) -> None:
        """Let the first `groups` depth groups learn, and the others rest."""
        if groups != self.groups_trained:
            for depth, parameters in enumerate(self.groups):
                for parameter in parameters:
                    parameter.requires_grad_(depth < groups)
                    parameter.grad = None  # an old gradient would still move it
            self.groups_trained = groups
            self.net = _wrap_for_processes(self.model, self.device)

    @contextmanager
    def all_released_after(self) -> Iterator[None]:
        """Let every depth group learn again after, as it did when the model came."""
        try:
            yield
        finally:
            for parameter in itertools.chain.from_iterable(self.groups):
                parameter.requires_grad_()

    @property
    def epochs_done(self) -> int:
        """Epochs finished, those of earlier stages included."""
        return self.epochs_before + self.epoch

    @property
    def stopped(self) -> Literal["", "epochs", "early_stopping"]:
        config, groups = self.config, len(self.groups)
        if self.epoch >= config.epochs:
            return "epochs"
        # Patience begins when everything learns: a new depth group is a new chance.
        begins = next(e for e in range(config.epochs) if config.groups_trained(e, groups) == groups)
        best = max(self.best_epoch, self.epochs_before + begins)
        if config.early_stopping and self.epochs_done - best >= config.early_stopping:
            return "early_stopping"
        return ""

    def follow(self, stage: FitResult) -> None:
        """Count on from an earlier stage, whose best weights the model has now."""
        self.history, self.notes = list(stage.history), list(stage.notes)
        self.epochs_before = stage.epochs_run
        self.best_metrics, self.best_epoch = stage.val, stage.best_epoch
        self.best_key = [stage.val.score, -stage.val.loss]
        self.best_weights = _copy_weights(self.model)

    def progress(self, phase: Phase, **more: Any) -> Progress:
        """Return where the training is: in its running epoch, or after the one that has ended."""
        epoch = self.epochs_done + (phase != "epoch")
        return Progress(phase, epoch, self.epochs_before + self.config.epochs, **more)

    def tell(self, progress: Progress) -> None:
        if self.on_progress is not None:
            self.on_progress(progress)

    def note(self, sentence: str) -> None:
        """Say `sentence` to the user, once in a run."""
        if sentence not in self.notes:
            self.notes.append(sentence)
            self.tell(self.progress("note", note=sentence))

    def rate(self, step: int) -> float:
        """Return the learning rate of `step` (from 0) of the running epoch."""
        base, first, epochs = self.config.phase(self.epoch)
        start = self.epoch - first
        if self.schedule.after is not None:
            lr = self.held_lr
        else:
            lr = base * self.schedule.along(self.config, start + step / self.steps, epochs)
        if self.config.warmup_epochs:
            # One step ahead, so that the first step already moves.
            lr *= min(1.0, (start + (step + 1) / self.steps) / self.config.warmup_epochs)
        return lr

    def run_epoch(self) -> tuple[dict[str, Any], bool]:
        """Train and validate one epoch; return its row of metrics and whether it is the best."""
        began = time.perf_counter()
        _seed_everything(self.config.seed, self.epoch)
        self._release(self.config.groups_trained(self.epoch, len(self.groups)))
        row: dict[str, Any] = {"epoch": self.epochs_done + 1} | self._train_epoch()
        if self.config.head_epochs or self.config.unfreeze_every:
            row["groups_trained"] = self.groups_trained
        self.tell(self.progress("validate"))
        evaluated = self.model if self.ema is None else self.ema.model
        _dist.copy_from_main(evaluated.buffers())
        metrics = _measure(evaluated, self.val, self.placement, sharded=True)
        if not math.isfinite(metrics.loss):
            raise self._not_finite("validation loss", row["lr"])
        row["val_loss"] = metrics.loss
        if self.task == "classification":
            row["val_accuracy"] = metrics.accuracy
        else:
            row |= {"val_mae": metrics.mae, "val_r2": metrics.r2}

        key = [metrics.score, -metrics.loss]
        best_before = self.best_key[0] if self.best_key else -math.inf
        is_best = key > self.best_key
        if is_best:
            self.best_key, self.best_epoch, self.best_metrics = key, self.epochs_done + 1, metrics
            self.best_weights = _copy_weights(evaluated)
        self._set_next_rate(metrics.score, best_before)
        self.epoch += 1
        row["seconds"] = time.perf_counter() - began
        self.history.append(row)
        return row, is_best

    def _train_epoch(self) -> dict[str, Any]:
        # Asking a GPU for a number makes it wait; on the CPU the number is already there.
        tally = _Tally(fetch_every=1 if self.device.type == "cpu" else 50)
        lr = self.rate(0)
        for step, (inputs, targets) in enumerate(self.training_batches(self.epoch)):
            lr = self.rate(step)
            tally.add(*self.find_gradients(step, inputs, targets), len(targets))
            if not math.isfinite(tally.loss):
                raise self._not_finite("training loss", lr)
            self.update_weights(lr)
            if self.on_progress is not None:
                self.tell(self.progress("train", step=step + 1, steps=self.steps, loss=tally.mean))
        loss_sum, correct = tally.totals(self.device)
        if not math.isfinite(loss_sum):
            raise self._not_finite("training loss", lr)
        if tally.n == 0:
            raise _nothing_to_train_on()
        row = {"lr": lr, "train_loss": loss_sum / tally.n}
        classification = self.task == "classification"
        return row | ({"train_accuracy": correct / tally.n} if classification else {})

    def training_batches(self, epoch: int) -> Iterator[Batch]:
        """Put the model in training mode and yield the batches of an epoch that can be used."""
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
        for inputs, targets in _batches(
            self.train, config.batch_size, self.placement, shuffled_by=config, epoch=epoch
        ):
            if len(inputs) < fewest:
                self._note_left_out(len(inputs), has_batch_norm)
            else:
                yield inputs, targets

    def find_gradients(
        self, step: int, inputs: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return (mean loss, right answers) of a batch, its gradients being in the parameters.

        Of several processes, each returns its share of both. Where images are mixed, an answer is
        right by as much as its class is in the mixture.
        """
        on_cpu = self.device.type == "cpu"
        wanted = targets
        if self.mix is not None:
            if on_cpu:
                _check_classes(targets, self.outputs)
            key = f"mix/{self.config.seed}/{self.epoch}/{step}"
            inputs, wanted = self.mix(key, inputs, targets)
        part = _dist.shard(wanted)
        with self.placement.autocast():
            outputs = self.net(_dist.shard(inputs))
        _check_fit(outputs, _dist.shard(targets), values=on_cpu)
        outputs = _at_least_float32(outputs)
        loss = self.criterion(outputs, part, wanted)
        self.optimizer.zero_grad()
        # The gradients of the processes will be averaged.
        self.scaler.scale(loss * _dist.world_size()).backward()
        is_class = self.task == "classification"
        return loss.detach(), _count_correct(outputs, part) if is_class else None

    def update_weights(self, lr: float) -> None:
        """Make a step of the optimizer at the rate `lr` (of the head, where rates differ)."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        if self.config.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update()

    def _note_left_out(self, examples: int, has_batch_norm: bool) -> None:
        if has_batch_norm:
            reason = "batch normalisation cannot be trained on a single example"
        else:
            reason = "it has fewer examples than there are processes"
        self.note(f"The last batch of an epoch ({examples}) is left out of training: {reason}.")

    def _not_finite(self, what: str, lr: float) -> TrainingError:
        advice = "lower lr, set clip_norm, or use warmup_epochs"
        if self.placement.amp_dtype is torch.float16:
            advice += ", or amp=bf16"
        return TrainingError(
            f"the {what} is not finite in epoch {self.epochs_done + 1} at learning rate {lr:g}: "
            f"check the data for extreme values, {advice}."
        )

    def _set_next_rate(self, score: float, best_before: float) -> None:
        """Decide the next epoch's rate, and start the optimizer anew where asked to."""
        base, first, _ = self.config.phase(self.epoch)
        following, starts, _ = self.config.phase(min(self.epoch + 1, self.config.epochs - 1))
        if starts > first:
            self.held_lr = following
            self.optimizer = self._new_optimizer()
        elif self.schedule.after is not None:
            draw = random.Random(f"lr/{self.config.seed}/{self.epoch}").random()
            done = self.epoch + 1 - first
            rate = self.schedule.after(
                self.config, Outcome(done, base, self.held_lr, score, best_before, draw)
            )
            self.held_lr = rate.lr
            if rate.new_optimizer:
                self.optimizer = self._new_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return all that the remaining epochs depend on, as plain values and tensors."""
        assert self.best_metrics is not None
        return {
            "config": self.config.to_dict(),
            "epochs_before": self.epochs_before,
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "held_lr": self.held_lr,
            "best_key": self.best_key,
            "best_epoch": self.best_epoch,
            "best_metrics": dataclasses.asdict(self.best_metrics),
            "best_weights": self.best_weights,
            "notes": self.notes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of an interrupted run of the same model and settings."""
        if field := runs.first_difference(state["config"], self.config.to_dict()):
            name, old, new = field
            raise InputError(
                f"the interrupted run was trained with {name} = {old!r}, not {new!r}: repeat its "
                "settings to go on with it, or choose another folder."
            )
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
        self.epochs_before, self.epoch = state["epochs_before"], state["epoch"]
        self.held_lr = state["held_lr"]
        self.best_key, self.best_epoch = state["best_key"], state["best_epoch"]
        self.best_metrics = Metrics(**state["best_metrics"])
        self.best_weights, self.notes = state["best_weights"], list(state["notes"])

    def result(self) -> FitResult:
        """Put the best weights into the model and return it with its history."""
        assert self.best_metrics is not None
        self.model.load_state_dict(self.best_weights)
        return FitResult(
            model=self.model.eval(),
            task=self.task,
            val=self.best_metrics,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
            stopped=self.stopped or "epochs",
            notes=tuple(self.notes),
        )


def _nothing_to_train_on() -> InputError:
    return InputError("no batch could be trained on: give at least two training examples.")


class _Average:
    """A copy of a model whose weights follow it slowly (exponential moving average).

    Float buffers (the statistics of batch normalisation) are averaged like weights, as they
    belong to them; integer buffers are copied. The decay grows to its full value over the first
    steps, so that a short run is not held at its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.decay, self.updates = decay, 0
        pairs = [
            (ours.detach(), theirs.detach())
            for ours, theirs in zip(_tensors(self.model), _tensors(model), strict=True)
        ]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model as it is now."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        ours, theirs = [a for a, _ in self._averaged], [b for _, b in self._averaged]
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
        for mine, current in self._copied:
            mine.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy on the CPU that shares no memory, with the model or within itself."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


_OPTIMIZERS: dict[str, Callable[[TrainConfig], Callable[..., torch.optim.Optimizer]]] = {
    "adamw": lambda config: partial(torch.optim.AdamW, weight_decay=config.weight_decay),
    "adam": lambda config: partial(torch.optim.Adam, weight_decay=config.weight_decay),
    "sgd": lambda config: partial(
        torch.optim.SGD, weight_decay=config.weight_decay, momentum=config.momentum
    ),
}


def _new_optimizer(config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    create = _OPTIMIZERS[config.optimizer](config)
    try:
        return create(groups, lr=config.lr, fused=True)
    except RuntimeError:  # no fused kernel for this device or type of number
        return create(groups, lr=config.lr)


def _criterion(
    config: TrainConfig, task: Task, train: Data, classes: int, placement: _Placement
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return `loss(outputs, targets, all_targets)`.

    `outputs` and `targets` are one process's rows of the batch that has `all_targets`; the sum of
    the loss over the processes is the batch's mean loss.
    """
    if task == "regression":
        for name, unset in (("label_smoothing", 0.0), ("class_weights", "none")):
            if getattr(config, name) != unset:
                raise InputError(f"{name} needs classes, but the targets are numbers: unset it.")
        return lambda outputs, targets, all_targets: (
            F.mse_loss(outputs, targets, reduction="sum") / all_targets.numel()
        )
    weight = None
    if config.class_weights == "balanced":
        weight = _balanced_weights(train, classes, placement)

    def cross_entropy(outputs: Tensor, targets: Tensor, all_targets: Tensor) -> Tensor:
        summed = F.cross_entropy(
            outputs, targets, weight, reduction="sum", label_smoothing=config.label_smoothing
        )
        if weight is None:
            return summed / len(all_targets)
        mixed = all_targets.is_floating_point()
        return summed / (all_targets @ weight if mixed else weight[all_targets]).sum()

    return cross_entropy


def _mixer(
    config: TrainConfig, classes: int, placement: _Placement
) -> Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """Return `mix(key, images, targets)`: mixed images and their shares of each class `(B, K)`.

    Images are mixed with their neighbours in the batch, by torchvision; the draws depend on the key
    alone.
    """
    asked = parse_mix(config.mix)
    if not asked:
        return None
    from torchvision.transforms import v2

    kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    choice = v2.RandomChoice([kinds[name](alpha=a, num_classes=classes) for name, a in asked])

    def mix(key: str, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global stream
            torch.default_generator.manual_seed(random.Random(key).getrandbits(63))
            images, shares = choice(images, targets)
        if placement.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, shares

    return mix


def _balanced_weights(train: Data, classes: int, placement: _Placement) -> Tensor:
    """Return weights `(K,)` under which every class of the training data counts the same."""
    targets = getattr(train, "targets", None)
    if not isinstance(targets, Tensor):  # a source that does not know its targets without reading
        batches = _batches(train, placement.batch_size, placement)
        targets = torch.cat([targets.cpu() for _, targets in batches])
    counts = torch.bincount(targets.cpu(), minlength=classes)
    present = counts > 0
    weight = torch.ones(classes)
    weight[present] = counts.sum() / (present.sum() * counts[present])
    return weight.to(placement.device)


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

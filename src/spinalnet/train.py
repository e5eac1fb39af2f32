"""Training and evaluation: `fit(model, train, val, config)` and `evaluate(model, data)`.

`fit` never sees test data: the epoch, the learning rate and early stopping are decided on `val`.
All random draws of an epoch (data order, augmentation, dropout, rates) are functions of the seed
and the epoch, so a killed run goes on exactly where it was, and two models that are compared see
the same batches. This room knows no model and no data set: a model is any module that maps a batch
of inputs to logits `(B, K)` (integer targets) or to values shaped like the targets (float targets).

The settings and the learning-rate schedules are in `config`.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet import _dist, runs
from spinalnet._checks import InputError, TrainingError, check_positive, unknown_name
from spinalnet.config import SCHEDULES as SCHEDULES
from spinalnet.config import Outcome, TrainConfig, parse_mix

Task = Literal["classification", "regression"]
Phase = Literal["train", "validate", "epoch", "note"]
Batch = tuple[Tensor, Tensor]


@runtime_checkable
class BatchSource(Protocol):
    """Data that makes its own batches, in an order that (seed, epoch) alone decide."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augment: str = "none",
        channels_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield (inputs `(B, ...)`, targets `(B, ...)`) on `device`."""
        ...


@runtime_checkable
class HasDepth(Protocol):
    """A model that says which of its parameters are near its output, and which near its input."""

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return all parameters, in groups from the head down to the input."""
        ...


# A source, or any iterable of (inputs, targets) that can be gone through again: a DataLoader, a
# list of batches. An iterable keeps its own batch size and order.
Data = BatchSource | Iterable[Batch]


# ---------------------------------------------------------------------------------------------
# What comes out
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metrics:
    """How well a model does on some data. Fields of the other task are None.

    `loss` is the mean cross entropy (no smoothing, no weights), or the mean squared error.
    Accuracies are fractions. `confusion[i][j]` counts examples of class i predicted as class j.
    `mae` is the mean absolute error; `r2` the coefficient of determination (mean over outputs).
    """

    n: int
    loss: float
    accuracy: float | None = None
    top5_accuracy: float | None = None  # with more than 5 classes
    confusion: tuple[tuple[int, ...], ...] | None = None
    mae: float | None = None
    r2: float | None = None

    @property
    def score(self) -> float:
        """The number that epochs are compared by; higher is better."""
        return -self.loss if self.accuracy is None else self.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that apply, for JSON; the loss of a regression is `mse`."""
        if self.accuracy is None:
            return {"n": self.n, "mse": self.loss, "mae": self.mae, "r2": self.r2}
        values = {name: getattr(self, name) for name in ("n", "loss", "accuracy", "top5_accuracy")}
        if self.confusion is not None:
            values["confusion"] = [list(row) for row in self.confusion]
        return {name: value for name, value in values.items() if value is not None}


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


# ---------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    train: Data,
    val: Data,
    config: TrainConfig | None = None,
    *,
    out: runs.RunFolder | str | os.PathLike[str] | None = None,
    description: Mapping[str, Any] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    after: FitResult | None = None,
) -> FitResult:
    """Train `model` in place and leave in it the weights of the best epoch on `val`.

    The best epoch has the highest validation accuracy, among equals the lowest validation loss; in
    a regression the lowest mean squared error. The test data is not this function's business.

    Args:
        model: Maps inputs to logits `(B, K)`, or to values shaped like float targets.
        train: Training data; integer targets `(B,)` mean classification, float ones regression.
        val: Data for every choice made in training.
        config: How to train; the defaults without one.
        out: Run folder, or a path to make one at. An interrupted run in it goes on where its last
            finished epoch ended. `RunFolder.finish` is left to the caller, who has the result.
        description: Kept in the header of `model.safetensors`; see `RunFolder.save_model`.
        on_progress: Called at every step, in the main process; must be quick. What it raises ends
            the training.
        after: An earlier stage, with whose best weights `model` comes. The epochs of this stage are
            counted on from there, and the best epoch is that of both. A run that `out` has already
            begun knows it.

    Returns:
        The model, the history and the validation metrics of the best epoch.

    Raises:
        InputError: If data and model do not fit together, or `out` cannot be used.
        TrainingError: If the loss is no longer finite. The last finished epoch is in `out`.
    """
    config = config or TrainConfig()
    device = resolve_device(config.device)
    _dist.connect(device)
    if _dist.is_main() and out is not None and not isinstance(out, runs.RunFolder):
        out = runs.RunFolder.start(out, config.to_dict())
    _dist.barrier()
    run = runs.RunFolder(out) if isinstance(out, str | os.PathLike) else out
    if run is not None and runs.is_done(run.path):
        raise InputError(f"{run.path} holds a run that is done: use it, or choose another folder.")
    with _own_random_state(device), _kernel_choice(config, device):
        training = _Training(model, train, val, config, device, on_progress)
        state = None if run is None else run.load_state()
        if state is not None:
            training.load_state_dict(state)
        elif after is not None:
            training.follow(after)
        if run is not None:
            if _dist.is_main():
                run.keep_metrics(0 if state is None else training.epochs_done)
                for row in training.history:
                    run.append_metrics(row)
            if state is not None:
                training.history = run.metrics()[: training.epochs_done]
        with training.all_released_after():
            while not training.stopped:
                row, is_best = training.run_epoch()
                if run is not None and _dist.is_main():
                    run.append_metrics(row)
                    run.save_state(training.state_dict())
                    if is_best:
                        run.save_model(training.best_weights, description)
                training.tell(training.progress("epoch", row=row))
        if run is not None and _dist.is_main():
            # Again: a run killed between its state and its weights has only the state.
            run.save_model(training.best_weights, description)
        return training.result()


@contextmanager
def trial(model: nn.Module, train: Data, config: TrainConfig) -> Iterator[Callable[[float], float]]:
    """Make single steps of training, for what wants to watch them: no validation, nothing written.

    Args:
        model: As for `fit`; trained in place.
        train: Training data, gone through again and again.
        config: How to train; the rate of each step is the caller's.

    Yields:
        A function that makes one step at a rate and returns the batch's loss before it. A step
        with a loss that is not finite leaves the weights as they are.

    Raises:
        InputError: If data and model do not fit together.
    """
    device = resolve_device(config.device)
    with _own_random_state(device), _kernel_choice(config, device):
        training = _Training(model, train, train, config, device, None)

        def batches() -> Iterator[Batch]:
            while True:
                _seed_everything(config.seed, training.epoch)
                yielded = False
                for batch in training.training_batches(training.epoch):
                    yielded = True
                    yield batch
                if not yielded:
                    raise _nothing_to_train_on()
                training.epoch += 1

        endless = enumerate(batches())

        def step(lr: float) -> float:
            number, (inputs, targets) = next(endless)
            loss = float(training.find_gradients(number, inputs, targets)[0])
            if math.isfinite(loss):
                training.update_weights(lr)
            return loss

        yield step


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


class _Tally:
    """Sums over the steps of an epoch, fetched from the device once in `fetch_every` steps."""

    def __init__(self, fetch_every: int) -> None:
        self.fetch_every = fetch_every
        self.loss = self.correct = 0.0  # fetched so far
        self.n = self.n_fetched = 0
        self.pending: list[tuple[Tensor, Tensor | None, int]] = []

    def add(self, loss: Tensor, correct: Tensor | None, n: int) -> None:
        """Add a step: its mean loss, its number of right answers, its examples."""
        self.pending.append((loss, correct, n))
        self.n += n
        if len(self.pending) >= self.fetch_every:
            self._fetch()

    def _fetch(self) -> None:
        for loss, correct, n in self.pending:
            self.loss += loss.item() * n
            self.correct += 0 if correct is None else correct.item()
            self.n_fetched += n
        self.pending.clear()

    @property
    def mean(self) -> float | None:
        """The mean loss as far as it has been fetched."""
        return self.loss / self.n_fetched if self.n_fetched else None

    def totals(self, device: torch.device) -> tuple[float, float]:
        """Return the sums of loss and right answers over all steps and processes."""
        self._fetch()
        sums = torch.tensor([self.loss, self.correct], dtype=torch.float64)
        loss, correct = _dist.sum_over_processes(sums, device).tolist()
        return loss, correct


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


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


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


# ---------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    batch_size: int = 512,
    device: str | None = None,
    amp: str = "off",
    channels_last: bool = False,
) -> Metrics:
    """Measure `model` on `data`, in evaluation mode; its training flags are left as they were.

    Args:
        model: As for `fit`.
        data: Integer targets give accuracy and confusion, float targets squared and absolute error.
        batch_size: Examples per batch, where `data` is a source.
        device: auto, cpu, cuda or mps; None for where the model is.
        amp: Mixed precision: auto, off, bf16 or fp16.
        channels_last: Keep images channels-last in memory.

    Raises:
        InputError: If the data is empty or does not fit the model.
    """
    placement = _place(model, device, amp, channels_last, batch_size)
    _count_batches(data, batch_size, "data")
    return _measure(placement.move(model), data, placement, confusion=True)


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    data: Data | Iterable[Tensor] | Tensor,
    *,
    batch_size: int = 512,
    device: str | None = None,
    amp: str = "off",
    channels_last: bool = False,
) -> Tensor:
    """Return the model's outputs for all of `data`, in order, on the CPU.

    Args:
        model: As for `fit`.
        data: As for `fit`; or inputs alone: one tensor `(N, ...)`, or batches `(B, ...)` of them.
        batch_size: Examples per batch, where `data` is a source or a tensor.
        device: auto, cpu, cuda or mps; None for where the model is.
        amp: Mixed precision: auto, off, bf16 or fp16.
        channels_last: Keep images channels-last in memory.

    Returns:
        Logits or values, shape `(N, ...)`, float32 at least.

    Raises:
        InputError: If the data is empty.
    """
    placement = _place(model, device, amp, channels_last, batch_size)
    model = placement.move(model)
    batches = data.split(batch_size) if isinstance(data, Tensor) else data
    outputs = []
    with _evaluating(model):
        for inputs, _ in _batches(batches, batch_size, placement):
            with placement.autocast():
                outputs.append(_at_least_float32(model(inputs)).cpu())
    if not outputs:
        raise InputError("the data is empty: predict_logits needs at least one example.")
    return torch.cat(outputs)


@torch.no_grad()
def _measure(
    model: nn.Module,
    data: Data,
    placement: _Placement,
    *,
    confusion: bool = False,
    sharded: bool = False,
) -> Metrics:
    """Measure; with `sharded`, every process does its rows and all get the whole's metrics."""
    n, classes, regression = 0, 0, False
    sums: Tensor | None = None
    table: Tensor | None = None
    shift = torch.zeros(())  # near the targets, against cancellation in their variance
    with _evaluating(model):
        for inputs, all_targets in _batches(data, placement.batch_size, placement):
            regression = all_targets.is_floating_point()
            if n == 0 and regression:
                shift = (
                    all_targets.flatten(1).mean(0) if all_targets.ndim > 1 else all_targets.mean()
                )
            n += len(all_targets)
            targets = _dist.shard(all_targets) if sharded else all_targets
            with placement.autocast():
                outputs = model(_dist.shard(inputs) if sharded else inputs)
            _check_fit(outputs, targets, values=True)
            outputs = _at_least_float32(outputs)
            classes = outputs.shape[-1]
            if regression:
                batch_sums = _regression_sums(outputs, targets, shift)
            else:
                batch_sums = _classification_sums(outputs, targets)
                if confusion:
                    cells = targets * classes + outputs.argmax(1)
                    counts = torch.bincount(cells, minlength=classes**2).view(classes, classes)
                    table = counts if table is None else table + counts
            batch_sums = batch_sums.cpu().double()
            sums = batch_sums if sums is None else sums + batch_sums
    if sums is None:
        raise InputError("the data is empty: nothing to measure.")
    if sharded:
        sums = _dist.sum_over_processes(sums, placement.device)
    if regression:
        return _regression_metrics(n, sums)
    loss, accuracy, top5 = (sums / n).tolist()
    return Metrics(
        n=n,
        loss=loss,
        accuracy=accuracy,
        top5_accuracy=top5 if classes > 5 else None,
        confusion=None if table is None else tuple(tuple(row) for row in table.tolist()),
    )


def _classification_sums(logits: Tensor, targets: Tensor) -> Tensor:
    """Return (summed cross entropy, right answers, right answers among the first five)."""
    top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return torch.stack((loss, _count_correct(logits, targets), top5.sum()))


def _count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    answers = logits.detach().argmax(1)
    if targets.is_floating_point():  # shares of classes
        return targets.gather(1, answers[:, None]).sum()
    return (answers == targets).sum()


def _regression_sums(outputs: Tensor, targets: Tensor, shift: Tensor) -> Tensor:
    """Return `(4, outputs)`: sums of squared and absolute errors, targets, squared targets."""
    error = (outputs - targets).reshape(len(targets), -1)
    moved = targets.reshape(len(targets), -1) - shift
    return torch.stack(
        (error.square().sum(0), error.abs().sum(0), moved.sum(0), moved.square().sum(0))
    )


def _regression_metrics(n: int, sums: Tensor) -> Metrics:
    squared, absolute, total, total_squared = sums
    variation = (total_squared - total.square() / n).clamp_min(0.0)
    # A constant target leaves nothing to explain: 1 if met exactly, else 0, as in scikit-learn.
    r2 = torch.where(variation > 0, 1.0 - squared / variation, (squared == 0).double())
    return Metrics(
        n=n,
        loss=float(squared.mean() / n),
        mae=float(absolute.mean() / n),
        r2=float(r2.mean()),
    )


# ---------------------------------------------------------------------------------------------
# Where and how it runs
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Placement:
    """Device, precision and memory layout of a model and its batches."""

    device: torch.device
    amp_dtype: torch.dtype | None
    channels_last: bool
    batch_size: int  # where nothing is trained

    def move(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def autocast(self) -> AbstractContextManager[Any]:
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` (auto, cpu, cuda, mps) means here.

    Raises:
        InputError: If the device asked for by name is not here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, found in here.items() if found), "cpu")
    elif name not in {"cpu", *here}:
        raise unknown_name("device", name, ["auto", "cpu", *here])
    elif not here.get(name, True):
        raise InputError(f"there is no {name} device here: use device=auto or device=cpu.")
    return torch.device("cuda", _dist.local_rank()) if name == "cuda" else torch.device(name)


def _amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if amp == "fp16" and device.type != "cuda":
        raise InputError(f"amp=fp16 needs a CUDA device, not {device.type}: use amp=bf16 or off.")
    choices = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if amp not in choices:
        raise unknown_name("amp", amp, ["auto", *choices])
    return choices[amp]


def _place(
    model: nn.Module, device: str | None, amp: str, channels_last: bool, batch_size: int
) -> _Placement:
    check_positive("batch_size", batch_size)
    if device is None:
        first = next(iter(_tensors(model)), None)
        where = torch.device("cpu") if first is None else first.device
    else:
        where = resolve_device(device)
    return _Placement(where, _amp_dtype(amp, where), channels_last, batch_size)


def _wrap_for_processes(model: nn.Module, device: torch.device) -> nn.Module:
    if _dist.world_size() == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)


def _batches(
    data: Any,
    batch_size: int,
    placement: _Placement,
    *,
    shuffled_by: TrainConfig | None = None,
    epoch: int = 0,
) -> Iterator[Batch]:
    """Yield batches on the device; for training, in the order of `shuffled_by` and `epoch`."""
    if isinstance(data, BatchSource):
        options: dict[str, Any] = {"device": placement.device}
        if placement.channels_last:
            options["channels_last"] = True
        if shuffled_by is not None:
            options |= {"shuffle": True, "seed": shuffled_by.seed, "epoch": epoch}
            options["augment"] = shuffled_by.augment
        data = data.batches(batch_size, **options)
    for batch in data:
        inputs, targets = (batch, batch) if isinstance(batch, Tensor) else batch
        inputs = inputs.to(placement.device, non_blocking=True)
        if placement.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = targets.to(placement.device, non_blocking=True)
        yield inputs, targets if targets.is_floating_point() else targets.long()


def _count_batches(data: Data, batch_size: int, what: str) -> int:
    if isinstance(data, BatchSource):
        count = math.ceil(len(data) / batch_size)
    elif isinstance(data, Iterator) or not hasattr(data, "__len__"):
        raise InputError(
            f"the {what} must have a length and allow several passes, got {type(data).__name__}: "
            "give a source with batches(), a DataLoader of a sized data set, or a list of batches."
        )
    else:
        count = len(data)  # pyright: ignore[reportArgumentType]
    if count == 0:
        raise InputError(f"the {what} is empty: give at least one example.")
    return count


def _check_fit(outputs: Tensor, targets: Tensor, *, values: bool) -> None:
    """Check that outputs and targets may meet in a loss; with `values`, the class numbers too."""
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model must return one tensor, got {type(outputs).__name__}.")
    if targets.is_floating_point():
        if outputs.shape != targets.shape:
            raise InputError(
                f"outputs have shape {tuple(outputs.shape)} but targets {tuple(targets.shape)}: "
                "they must be equal; reshape the targets (nothing is broadcast)."
            )
        return
    if outputs.ndim != 2 or targets.ndim != 1 or len(outputs) != len(targets):
        raise InputError(
            f"class targets (B,) need logits (B, K), got targets {tuple(targets.shape)} and "
            f"outputs {tuple(outputs.shape)}: use float targets for a regression."
        )
    if values:
        _check_classes(targets, outputs.shape[1])


def _check_classes(targets: Tensor, classes: int) -> None:
    if len(targets) == 0:
        return
    low, high = targets.aminmax()
    if int(low) < 0 or int(high) >= classes:
        raise InputError(
            f"targets must be class numbers from 0 to {classes - 1} for this model, got {int(low)} "
            f"to {int(high)}: build it with more classes or mend the labels."
        )


def _at_least_float32(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


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


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own training flag comes back after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _seed_everything(seed: int, epoch: int) -> None:
    """Make what the global generators draw in an epoch a function of (seed, epoch, process)."""
    import numpy as np

    value = random.Random(f"{seed}/{epoch}/{_dist.rank()}").getrandbits(63)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 (for augmentations of users that draw from it)
    torch.manual_seed(value)


@contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were, whatever is seeded and drawn inside."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _kernel_choice(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Let CUDA search for fast kernels, or with `deterministic` use reproducible ones only."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if config.deterministic:
        if device.type == "cuda":  # cuBLAS is reproducible with a fixed workspace only
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    cudnn.benchmark = not config.deterministic
    cudnn.deterministic = config.deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)

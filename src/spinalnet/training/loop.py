"""The one training loop, of networks and of estimators: epochs of steps, rates, the best epoch.

What is trained, and how a step finds its gradients, is a `Learner`'s business: `ModelLearner` does
it by autograd for `fit`; an estimator brings its own for rows that stay in memory.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet._checks import InputError, TrainingError
from spinalnet.training.config import SCHEDULES, Outcome, TrainConfig
from spinalnet.training.evaluation import Metrics

if TYPE_CHECKING:
    from spinalnet.training.placement import Phase, Task


class Learner(Protocol):
    """What a loop trains. Batches are tuples of tensors, of which the second are the targets."""

    task: Task
    device: torch.device
    steps: int  # of an epoch
    depth: int  # groups of parameters that may be released in turn; 1 where all learn at once
    notes: list[str]  # what the user should know of the epoch
    advice: str  # what to do if the loss is not finite
    several_processes: bool  # whether every process of a job trains its rows of each batch

    def begin_epoch(self, epoch: int) -> None:
        """Prepare an epoch (from 0): all that is drawn in it is decided here."""
        ...

    def batches(self) -> Iterator[tuple[Any, ...]]:
        """Yield the batches of the epoch."""
        ...

    def find_gradients(self, step: int, batch: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
        """Return (mean loss, right answers if counted) of a batch; its gradients are in place."""
        ...

    def update_weights(self, lr: float) -> None:
        """Make a step of the optimizer at the rate `lr`."""
        ...

    def restart_optimizer(self) -> None:
        """Take a new optimizer, which remembers no gradients."""
        ...

    def measure(self) -> Metrics | None:
        """Return the metrics on held-out data; `None` without such data."""
        ...

    def copy_weights(self) -> Any:
        """Return a copy of the weights that `measure` has measured."""
        ...


class StepsTaken(NamedTuple):
    """What some steps found before they moved the weights.

    A loss that is not finite is the last one; then the weights are those before its step.
    """

    losses: list[float]  # mean of each step
    sizes: list[int]  # rows of each step
    correct: int  # right answers in all of them; of a classification


@runtime_checkable
class StepsLearner(Protocol):
    """A `Learner` that makes many steps in one call; then the loop asks it for no batches."""

    steps: int
    steps_at_once: int

    def train_steps(self, first: int, rates: Sequence[float]) -> StepsTaken:
        """Make steps from `first` (from 0) of the running epoch on, at these rates."""
        ...


@dataclass(frozen=True)
class Progress:
    """What `on_progress` is told: at every step, before validation, and after every epoch.

    While a frozen trunk computes features, steps are images.
    """

    phase: Phase
    epoch: int  # from 1
    epochs: int
    step: int = 0  # from 1; steps of this epoch
    steps: int = 0
    loss: float | None = None  # of the training so far in this epoch
    row: Mapping[str, Any] | None = None  # the epoch's line of metrics, with phase "epoch"
    note: str = ""  # a sentence for the user, with phase "note" or "features"


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


class Tally:
    """Sums over the steps of an epoch, fetched from the device once in `fetch_every` steps."""

    def __init__(self, fetch_every: int) -> None:
        self.fetch_every = fetch_every
        self.loss = self.correct = 0.0  # fetched so far
        self.n = self.n_fetched = 0
        self.counts = False  # whether right answers are counted
        self.pending: list[tuple[Tensor, Tensor | None, int]] = []

    def add(self, loss: Tensor, correct: Tensor | None, n: int) -> None:
        """Add a step: its mean loss, its number of right answers, its examples."""
        self.pending.append((loss, correct, n))
        self.n += n
        if len(self.pending) >= self.fetch_every:
            self.fetch()

    def fetch(self) -> None:
        """Bring the sums up to date."""
        for loss, correct, n in self.pending:
            self.loss += loss.item() * n
            if correct is not None:
                self.counts = True
                self.correct += correct.item()
            self.n_fetched += n
        self.pending.clear()

    @property
    def mean(self) -> float | None:
        """The mean loss as far as it has been fetched."""
        return self.loss / self.n_fetched if self.n_fetched else None


_STATE = ("epochs_before", "epoch", "held_lr", "best_key", "best_epoch", "best_weights", "notes")


class Loop:
    """Epochs of one stage of training; all that changes from epoch to epoch beside the weights."""

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.learner, self.config = learner, config
        self.on_progress = on_progress if _dist.is_main() else None
        self.schedule = SCHEDULES[config.schedule]
        # Patience begins when everything learns: a new depth group is a new chance.
        depth, epochs = learner.depth, range(config.epochs)
        self.patient_from = next(e for e in epochs if config.groups_trained(e, depth) == depth)
        self.epochs_before = 0  # of earlier stages
        self.epoch = 0  # epochs of this stage that are finished
        self.held_lr = config.lr  # the rate that a schedule's `after` decides
        self.best_key: list[float] = []
        self.best_epoch = 0
        self.best_metrics: Metrics | None = None
        self.best_weights: Any = None
        self.history: list[dict[str, Any]] = []
        self.notes: list[str] = []

    @property
    def epochs_done(self) -> int:
        """Epochs finished, those of earlier stages included."""
        return self.epochs_before + self.epoch

    @property
    def stopped(self) -> Literal["", "epochs", "early_stopping"]:
        """Why the training has ended; empty while it goes on."""
        if self.epoch >= self.config.epochs:
            return "epochs"
        since = max(self.best_epoch, self.epochs_before + self.patient_from)
        patience = self.config.early_stopping
        return "early_stopping" if patience and self.epochs_done - since >= patience else ""

    def follow(self, stage: FitResult) -> None:
        """Count on from an earlier stage, whose best weights the model has now."""
        self.history, self.notes = list(stage.history), list(stage.notes)
        self.epochs_before = stage.epochs_run
        self.best_metrics, self.best_epoch = stage.val, stage.best_epoch
        self.best_key = [stage.val.score, -stage.val.loss]
        self.best_weights = self.learner.copy_weights()

    def tell(self, phase: Phase, **more: Any) -> None:
        """Say where the training is: in its running epoch, or after the one that has ended."""
        if self.on_progress is not None:
            epoch = self.epochs_done + (phase != "epoch")
            self.on_progress(
                Progress(phase, epoch, self.epochs_before + self.config.epochs, **more)
            )

    def rate(self, step: int) -> float:
        """Return the learning rate of `step` (from 0) of the running epoch."""
        base, first, epochs = self.config.phase(self.epoch)
        start, steps = self.epoch - first, self.learner.steps
        if self.schedule.after is not None:
            lr = self.held_lr
        else:
            lr = base * self.schedule.along(self.config, start + step / steps, epochs)
        if self.config.warmup_epochs:
            # One step ahead, so that the first step already moves.
            lr *= min(1.0, (start + (step + 1) / steps) / self.config.warmup_epochs)
        return lr

    def run_epoch(self) -> tuple[dict[str, Any], bool]:
        """Train and measure one epoch; return its row of metrics and whether it is the best."""
        began = time.perf_counter()
        self.learner.begin_epoch(self.epoch)
        row: dict[str, Any] = {"epoch": self.epochs_done + 1} | self._train_epoch()
        if self.config.head_epochs or self.config.unfreeze_every:
            row["groups_trained"] = self.config.groups_trained(self.epoch, self.learner.depth)
        self.tell("validate")
        metrics = self.learner.measure()
        is_best = metrics is not None and self._judge(metrics, row)
        self.epoch += 1
        row["seconds"] = time.perf_counter() - began
        self.history.append(row)
        return row, is_best

    def _train_epoch(self) -> dict[str, Any]:
        learner = self.learner
        if isinstance(learner, StepsLearner):
            return self._train_at_once(learner)
        # Asking a GPU for a number makes it wait; on the CPU the number is already there.
        tally = Tally(fetch_every=1 if learner.device.type == "cpu" else 50)
        lr = self.rate(0)
        for step, batch in enumerate(learner.batches()):
            lr = self.rate(step)
            tally.add(*learner.find_gradients(step, batch), len(batch[1]))
            if not math.isfinite(tally.loss):
                raise self._not_finite("training loss", lr)
            learner.update_weights(lr)
            if self.on_progress is not None:
                self.tell("train", step=step + 1, steps=learner.steps, loss=tally.mean)
        tally.fetch()
        sums = tally.loss, tally.correct
        if learner.several_processes:
            local = torch.tensor(sums, dtype=torch.float64)
            sums = _dist.sum_over_processes(local, learner.device).tolist()
        if not math.isfinite(sums[0]):
            raise self._not_finite("training loss", lr)
        if tally.n == 0:
            raise nothing_to_train_on()
        for sentence in learner.notes:  # once in a run
            if sentence not in self.notes:
                self.notes.append(sentence)
                self.tell("note", note=sentence)
        row = {"lr": lr, "train_loss": sums[0] / tally.n}
        return row | ({"train_accuracy": sums[1] / tally.n} if tally.counts else {})

    def _train_at_once(self, learner: StepsLearner) -> dict[str, Any]:
        total, correct, seen, lr = 0.0, 0, 0, self.rate(0)
        for first in range(0, learner.steps, learner.steps_at_once):
            rates = [
                self.rate(step)
                for step in range(first, min(first + learner.steps_at_once, learner.steps))
            ]
            losses, sizes, right = learner.train_steps(first, rates)
            lr = rates[len(losses) - 1]
            if not math.isfinite(losses[-1]):
                raise self._not_finite("training loss", lr)
            total += sum(loss * size for loss, size in zip(losses, sizes, strict=True))
            seen, correct = seen + sum(sizes), correct + right
            if self.on_progress is not None:
                step, mean = first + len(losses), total / seen
                self.tell("train", step=step, steps=learner.steps, loss=mean)
        row = {"lr": lr, "train_loss": total / seen}
        by_class = self.learner.task == "classification"
        return row | ({"train_accuracy": correct / seen} if by_class else {})

    def _judge(self, metrics: Metrics, row: dict[str, Any]) -> bool:
        """Enter the metrics of an epoch and decide what follows; return whether it is the best."""
        if not math.isfinite(metrics.loss):
            raise self._not_finite("validation loss", row["lr"])
        row["val_loss"] = metrics.loss
        if self.learner.task == "classification":
            row["val_accuracy"] = metrics.accuracy
        else:
            row |= {"val_mae": metrics.mae, "val_r2": metrics.r2}
        key = [metrics.score, -metrics.loss]
        best_before = self.best_key[0] if self.best_key else -math.inf
        is_best = key > self.best_key
        if is_best:
            self.best_key, self.best_epoch, self.best_metrics = key, self.epochs_done + 1, metrics
            self.best_weights = self.learner.copy_weights()
        self._set_next_rate(metrics.score, best_before)
        return is_best

    def _not_finite(self, what: str, lr: float) -> TrainingError:
        return TrainingError(
            f"the {what} is not finite in epoch {self.epochs_done + 1} at learning rate {lr:g}: "
            f"check the data for extreme values, {self.learner.advice}."
        )

    def _set_next_rate(self, score: float, best_before: float) -> None:
        """Decide the next epoch's rate, and start the optimizer anew where asked to."""
        base, first, _ = self.config.phase(self.epoch)
        following, starts, _ = self.config.phase(min(self.epoch + 1, self.config.epochs - 1))
        if starts > first:
            self.held_lr = following
            self.learner.restart_optimizer()
        elif self.schedule.after is not None:
            draw = random.Random(f"lr/{self.config.seed}/{self.epoch}").random()
            done = self.epoch + 1 - first
            rate = self.schedule.after(
                self.config, Outcome(done, base, self.held_lr, score, best_before, draw)
            )
            self.held_lr = rate.lr
            if rate.new_optimizer:
                self.learner.restart_optimizer()

    def state_dict(self) -> dict[str, Any]:
        """Return what the remaining epochs depend on beside the learner's own state."""
        assert self.best_metrics is not None
        state = {name: getattr(self, name) for name in _STATE}
        metrics = dataclasses.asdict(self.best_metrics)
        return state | {"config": self.config.to_dict(), "best_metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of an interrupted run."""
        for name in _STATE:
            setattr(self, name, state[name])
        self.best_metrics = Metrics(**state["best_metrics"])

    def result(self, model: nn.Module) -> FitResult:
        """Put the best weights into the model and return it with its history."""
        assert self.best_metrics is not None
        model.load_state_dict(self.best_weights)
        return FitResult(
            model=model.eval(),
            task=self.learner.task,
            val=self.best_metrics,
            best_epoch=self.best_epoch,
            history=tuple(self.history),
            stopped=self.stopped or "epochs",
            notes=tuple(self.notes),
        )


def nothing_to_train_on() -> InputError:
    """Return the error of data of which no batch could be used."""
    return InputError("no batch could be trained on: give at least two training examples.")

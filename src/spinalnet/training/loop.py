"""The one training loop, of networks and of estimators: epochs of steps, rates, the best epoch.

What is trained, and how a step finds its gradients, is a `Learner`'s business: `ModelLearner` does
it by autograd for `fit`; an estimator brings its own for rows that stay in memory.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet._checks import InputError, TrainingError
from spinalnet.training import stopping
from spinalnet.training.config import SCHEDULES, Outcome, TrainConfig
from spinalnet.training.evaluation import Metrics
from spinalnet.training.learning import StepsLearner, Watched
from spinalnet.training.tally import Agreement, Tally

if TYPE_CHECKING:
    from spinalnet.training.learning import Learner
    from spinalnet.training.placement import Phase, Task


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
    last_loss: float | None = None  # of the epoch's last batch, with phase "validate"
    row: Mapping[str, Any] | None = None  # the epoch's line of metrics, with phase "epoch"
    best: bool = False  # whether the weights of that epoch are kept, as the best so far
    note: str = ""  # a sentence for the user, with phase "note", "features" or "tuning"


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


_STATE = ("epochs_before", "epoch", "held_lr", "best_key", "best_epoch", "best_weights", "notes")
_STATE_SINCE = {"within": None, "skipped": 0, "best_answered": None}  # of later versions
_now = time.monotonic
_MOST_SKIPPED = 50  # steps on end


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
        self.within: dict[str, Any] | None = None  # how far a running epoch has come, as it is kept
        self.skipped = 0  # steps left out as they were not finite
        self.best_answered: Tensor | None = None  # in the best epoch, see `Watched.answered`
        self.save: Callable[[], None] | None = None  # keeps the state; None where nothing is kept
        self.is_kept = False  # whether some process keeps it
        self._save_at = math.inf
        self._last_loss = math.nan  # of the last batch of the running epoch
        self._watched = learner if isinstance(learner, Watched) else None
        self._together = learner.several_processes and _dist.world_size() > 1
        self._agree = Agreement(learner.device)

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
            epochs = self.epochs_before + self.config.epochs
            epoch = min(epochs, self.epochs_done + (phase != "epoch"))
            self.on_progress(Progress(phase, epoch, epochs, **more))

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
        """Train and measure one epoch; return its row of metrics and whether it is the best.

        Raises:
            TrainingError: If the loss is not finite.
            Interrupted: If a signal was put off; the state is saved.
        """
        began = time.perf_counter()
        self._save_at = _now() + self.config.save_seconds
        if self.within is not None:
            began -= self.within["seconds"]
        self._began = began
        self.learner.begin_epoch(self.epoch)
        row: dict[str, Any] = {"epoch": self.epochs_done + 1} | self._train_epoch()
        if self.config.head_epochs or self.config.unfreeze_every:
            row["groups_trained"] = self.config.groups_trained(self.epoch, self.learner.depth)
        self.tell("validate", last_loss=self._last_loss)
        try:
            metrics = self.learner.measure()
        except stopping.Paused:
            self._keep(*self._trained)
            stopping.end_if_asked()
            raise
        self._tell_trouble(row)
        is_best = metrics is not None and self._judge(metrics, row)
        self.epoch += 1
        self.within = None
        row["seconds"] = time.perf_counter() - began
        self.history.append(row)
        return row, is_best

    def end_if_asked(self) -> None:
        """End the training between two epochs, the last of which is saved, if a signal came.

        Raises:
            Interrupted: If so.
        """
        if self.is_kept and (number := self._agree.at_once([float(stopping.asked)])[0]):
            stopping.asked = int(number)
            _dist.barrier()  # until it is saved: a process that ends takes the others along
            stopping.end_if_asked()

    def saved_in(self, folder: object) -> str:
        """Say in words what is saved; empty for nothing."""
        said = []
        if self.epoch:
            epochs = "epoch is" if self.epochs_done == 1 else "epochs are"
            said.append(f"{self.epochs_done} finished {epochs} saved")
        if self.within is not None:
            steps = f"{self.within['step']} of {self.learner.steps} steps"
            said.append(f"{steps} of epoch {self.epochs_done + 1} are saved")
        return f"{' and '.join(said)} in {folder}" if said else ""

    def note(self, sentence: str) -> None:
        """Tell the user something, once in a run."""
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)
            self.tell("note", note=sentence)

    def _tell_trouble(self, row: Mapping[str, Any]) -> None:
        if self._watched is not None:
            losses = [*(r["train_loss"] for r in self.history), row["train_loss"]]
            for sentence in self._watched.find_trouble(losses):
                self.note(sentence)

    def _train_epoch(self) -> dict[str, Any]:
        learner = self.learner
        if isinstance(learner, StepsLearner):
            return self._train_at_once(learner)
        # Asking a GPU for a number makes it wait; on the CPU the number is already there.
        tally = Tally(fetch_every=1 if learner.device.type == "cpu" else 50)
        first, lr = self._take_up(tally)
        step, on_end = first - 1, 0
        skips = self.config.on_nonfinite == "skip"
        for step, batch in enumerate(learner.batches(first), first):
            lr = self.rate(step)
            loss, correct = learner.find_gradients(step, batch)
            if skips and not learner.is_finite(loss):
                self.skipped, on_end = self.skipped + 1, on_end + 1
                if on_end >= min(_MOST_SKIPPED, learner.steps):
                    raise self._not_finite(f"training loss (for {on_end} steps on end)", lr)
            else:
                on_end = 0
                tally.add(loss, correct, len(batch[1]))
                # What one of several processes sees, the others hear of in `_look_up`.
                if not math.isfinite(tally.loss) and not self._together:
                    raise self._not_finite("training loss", lr)
                learner.update_weights(lr)
            if self.on_progress is not None:
                self.tell("train", step=step + 1, steps=learner.steps, loss=tally.mean)
            if self.is_kept and (self._together or stopping.asked or _now() >= self._save_at):
                self._look_up(step + 1, lr, tally)
        self._trained = step + 1, lr, tally
        sums = tally.sums()
        if learner.several_processes:
            local = torch.tensor(sums, dtype=torch.float64)
            sums = _dist.sum_over_processes(local, learner.device).tolist()
        if not math.isfinite(sums[0]):
            raise self._not_finite("training loss", lr)
        if tally.n == 0:
            raise nothing_to_train_on()
        for sentence in learner.notes:
            self.note(sentence)
        self._last_loss = sums[2]
        row = {"lr": lr, "train_loss": sums[0] / tally.n}
        return row | ({"train_accuracy": sums[1] / tally.n} if tally.counts else {})

    def _take_up(self, tally: Tally) -> tuple[int, float]:
        """Return (steps done, rate of the last) of an epoch that goes on, with its sums."""
        if self.within is None:
            return 0, self.rate(0)
        # The sums kept are those of all processes.
        tally.load(self.within["tally"], mine=_dist.is_main() or not self._together)
        return self.within["step"], self.within["lr"]

    def _look_up(self, step: int, lr: float, tally: Tally) -> None:
        """Look, between two steps, whether it is time to save, or to end.

        Args:
            step: Steps done in this epoch.
            lr: Of the last of them.
            tally: Sums over them, in this process.
        """
        number, is_time = stopping.asked, True
        if self._together:
            # What one process sees all must hear of, as none can make a step without the others.
            is_time = _dist.is_main() and _now() >= self._save_at
            heard = self._agree([number, is_time, not math.isfinite(tally.loss)], _now())
            if heard is None:
                return
            number, is_time, bad = int(heard[0]), bool(heard[1]), bool(heard[2])
            if bad:
                raise self._not_finite("training loss", lr)
        if number or is_time:
            self._keep(step, lr, tally)
        if number:
            stopping.asked = number
            self._leave()

    def _keep(self, step: int, lr: float, tally: Tally) -> None:
        """Save how far the running epoch has come."""
        assert self._watched is not None
        if self._together:
            # The main process, whose state is kept, takes the sums of all.
            local = torch.tensor(tally.sums(), dtype=torch.float64)
            loss, correct, last = _dist.sum_over_processes(local, self.learner.device).tolist()
            tally.load([loss, correct, tally.n, tally.counts, last], mine=_dist.is_main())
        if not self._watched.are_finite():
            raise self._not_finite("training loss, or a weight,", lr)
        seconds = time.perf_counter() - self._began
        self.within = {"step": step, "lr": lr, "tally": tally.state(), "seconds": seconds}
        self.within["draws"] = self._watched.draws()
        if self.save is not None:
            self.save()
        self._save_at = _now() + self.config.save_seconds

    def _leave(self) -> None:
        """End the training as a signal has asked; everything is saved."""
        _dist.barrier()
        stopping.end_if_asked()

    def _train_at_once(self, learner: StepsLearner) -> dict[str, Any]:
        tally = Tally(fetch_every=1)
        start, lr = self._take_up(tally)
        for first in range(start, learner.steps, learner.steps_at_once):
            rates = [
                self.rate(step)
                for step in range(first, min(first + learner.steps_at_once, learner.steps))
            ]
            losses, sizes, right = learner.train_steps(first, rates)
            lr = rates[len(losses) - 1]
            if not math.isfinite(losses[-1]):
                raise self._not_finite("training loss", lr)
            tally.loss += sum(loss * size for loss, size in zip(losses, sizes, strict=True))
            tally.n += sum(sizes)
            tally.correct += right
            tally.last = losses[-1]
            tally.n_fetched = tally.n
            if self.on_progress is not None:
                step = first + len(losses)
                self.tell("train", step=step, steps=learner.steps, loss=tally.mean)
            if self.is_kept and (stopping.asked or _now() >= self._save_at):
                self._look_up(first + len(losses), lr, tally)
        self._trained = learner.steps, lr, tally
        self._last_loss = tally.last
        row = {"lr": lr, "train_loss": tally.loss / tally.n}
        by_class = self.learner.task == "classification"
        return row | ({"train_accuracy": tally.correct / tally.n} if by_class else {})

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
            if self._watched is not None:
                self.best_answered = self._watched.answered()
        self._set_next_rate(metrics.score, best_before)
        return is_best

    def _not_finite(self, what: str, lr: float) -> TrainingError:
        skipping = kept = ""
        if self._watched is not None and self.config.on_nonfinite == "stop":
            skipping = "; on_nonfinite=skip leaves such steps out"
        if self.is_kept and (self.epochs_done or self.within is not None):
            kept = " The last good state is saved."
        return TrainingError(
            f"the {what} is not finite in epoch {self.epochs_done + 1} at learning rate {lr:g}: "
            f"check the data for extreme values, {self.learner.advice}{skipping}.{kept}"
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
        state = {name: getattr(self, name) for name in (*_STATE, *_STATE_SINCE)}
        metrics = None if self.best_metrics is None else dataclasses.asdict(self.best_metrics)
        return state | {"config": self.config.to_dict(), "best_metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the state of an interrupted run."""
        for name in _STATE:
            setattr(self, name, state[name])
        for name, value in _STATE_SINCE.items():
            setattr(self, name, state.get(name, value))
        metrics = state["best_metrics"]
        self.best_metrics = None if metrics is None else Metrics(**metrics)
        if self.within is not None and self._watched is not None:
            self._watched.resume_draws(self.within["draws"])

    def result(self, model: nn.Module) -> FitResult:
        """Put the best weights into the model and return it with its history."""
        assert self.best_metrics is not None
        if self.skipped:
            times = "step was" if self.skipped == 1 else "steps were"
            self.note(
                f"{self.skipped} {times} left out, as the loss or a gradient was not finite: "
                f"{self.learner.advice}, and look for extreme values in the data."
            )
        if self._watched is not None and self.best_answered is not None:
            self.note(self._watched.find_trouble_of_best(self.best_answered))
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

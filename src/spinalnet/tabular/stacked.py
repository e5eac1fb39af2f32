"""Many small nets on resident rows at once: steps without Python, each net with its own everything.

`train_together` trains seeds, folds, trials or members of an ensemble. Every net has its own
weights, rows or order of rows, dropout masks, learning rate and early stopping, and shares nothing
with the others but the call: it has the same bits whatever its companions, alone too.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, TrainingError
from spinalnet.data.order import batch_slices, epoch_order, stream_seed
from spinalnet.nn import form_of, why_no_form
from spinalnet.randomness import own_generators
from spinalnet.tabular.learner import Rows, RowsLearner
from spinalnet.training import steps
from spinalnet.training.learning import StepsTaken
from spinalnet.training.loop import Loop, Progress

if TYPE_CHECKING:
    from spinalnet.training import TrainConfig
    from spinalnet.training.placement import Task


def why_not(net: nn.Module, config: TrainConfig, x: Tensor) -> str | None:
    """Return why `net` is not trained by compiled steps, None if it is.

    Depends on this net, its settings and its rows `x` alone, so that a net takes the same way
    whatever is trained beside it.
    """
    if (reason := steps.why_not(config, x) or why_no_form(net)) is not None:
        return reason
    if any(p.dtype is not x.dtype for p in net.parameters()):
        return f"its parameters are not of the type of the rows, {x.dtype}"
    return None


class CompiledRowsLearner(RowsLearner):
    """`RowsLearner` where `why_not` has no reason: steps without Python.

    The optimizer is one of `torch.optim`, whose memory the steps write: its state dict is that of
    `RowsLearner`. Dropout draws its masks from a stream of its own, which (seed, epoch) decide.
    """

    steps_at_once = 64  # between two looks at the keyboard and the progress bar

    def __init__(
        self,
        net: nn.Module,
        config: TrainConfig,
        task: Task,
        rows: Rows,
        held_out: Rows | None = None,
    ) -> None:
        if (reason := why_not(net, config, rows[0])) is not None:
            raise InputError(f"this net is not trained by compiled steps: {reason}; use fit.")
        if rows[1].is_floating_point() == (task == "classification"):
            wanted = "integers" if task == "classification" else "floats"
            raise InputError(f"the targets of a {task} must be {wanted}, got {rows[1].dtype}.")
        form, parameters = form_of(net)
        steps.check_rows(form, *rows)
        super().__init__(net, config, task, rows, held_out)
        self._own = steps.VectorSteps(form, parameters, config)
        self._own.use_rows(*rows)
        self._batches = batch_slices(len(rows[0]), config.batch_size, True)
        self.closed, self.gradient = None, self._own.gradient
        self.vector = nn.Parameter(self._own.vector)
        self.restart_optimizer()

    def begin_epoch(self, epoch: int) -> None:
        """Draw the order of an epoch (from 0)."""
        seed = self.config.seed
        order = epoch_order(len(self.rows[0]), True, seed, epoch)
        self._own.begin_epoch(order, self._batches, stream_seed("dropout", seed, epoch))
        self.net.train()

    def train_steps(self, first: int, rates: Sequence[float]) -> StepsTaken:
        """Make steps of the epoch; see `learning.StepsLearner`."""
        before, memory = self._memory()
        taken = self._own.take(first, rates, before, memory)
        if (number := self.optimizer.state[self.vector].get("step")) is not None:
            number.fill_(before + len(rates))
        self.optimizer.param_groups[0]["lr"] = rates[-1]
        return taken

    def _memory(self) -> tuple[int, tuple[Tensor, Tensor | None]]:
        """Return how many steps the optimizer remembers, and what."""
        state = self.optimizer.state[self.vector]
        if self.config.optimizer == "sgd":
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(self._own.vector)
            return 0, (state["momentum_buffer"], None)
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(self._own.vector)
            state["exp_avg_sq"] = torch.zeros_like(self._own.vector)
        return int(state["step"]), (state["exp_avg"], state["exp_avg_sq"])


def rows_learner(
    net: nn.Module, config: TrainConfig, task: Task, rows: Rows, held_out: Rows | None = None
) -> RowsLearner:
    """Return what trains `net` alone: by compiled steps where `why_not` has no reason."""
    compiled = why_not(net, config, rows[0]) is None
    kind = CompiledRowsLearner if compiled else RowsLearner
    return kind(net, config, task, rows, held_out)


@dataclass(frozen=True)
class Trained:
    """What became of one of several nets: its best weights are in `net`, in evaluation mode."""

    net: nn.Module
    loop: Loop  # its history, best epoch and why it stopped
    optimizer_state: dict[str, Any]
    error: TrainingError | None = None  # why it was given up; its weights mean nothing then

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) whose weights these are."""
        return self.loop.best_epoch or self.loop.epochs_done


def train_together(
    nets: Sequence[nn.Module],
    configs: Sequence[TrainConfig],
    task: Task,
    rows: Rows | Sequence[Rows],
    held_out: Rows | Sequence[Rows] | None = None,
    *,
    threads: int = 1,
    on_progress: Callable[[int, Progress], None] | None = None,
) -> list[Trained]:
    """Train every net with its own settings, and put the weights of its best epoch into it.

    Args:
        nets: Their shapes may differ. One of which `why_not` has something to say is trained by
            `RowsLearner`, to its end while no other such net is: the same for it, but slower.
        configs: How each is trained: seed, rate, weight decay, epochs, patience are its own.
        task: "classification" or "regression".
        rows: Inputs `(N, D)`, targets and weights `(N,)` or `None`: for all, or for each net.
        held_out: The same for choosing the best epoch; without, the last one is kept.
        threads: How many nets with compiled steps are trained at the same time.
        on_progress: Told the net's number and its progress; with several threads, from them.

    Returns:
        What became of each, in their order. A net whose loss is not finite has an `error`; the
        others go on.

    Raises:
        InputError: If numbers or rows do not fit.
    """
    if len(nets) != len(configs) or len({id(net) for net in nets}) < len(nets):
        raise InputError(
            f"train_together needs {len(nets)} different nets with one config each, got "
            f"{len(configs)} configs; copy a net that is to be trained twice (copy.deepcopy)."
        )
    learners = [
        rows_learner(net, config, task, *own)
        for net, config, *own in zip(
            nets, configs, _each(rows, len(nets)), _each(held_out, len(nets)), strict=True
        )
    ]
    loops = [
        Loop(learner, config, None if on_progress is None else partial(on_progress, number))  # type: ignore[arg-type]
        for number, (learner, config) in enumerate(zip(learners, configs, strict=True))
    ]
    with concurrent.futures.ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(_train, learners, loops))


def _each(rows: Any, count: int) -> Sequence[Any]:
    """Return rows for each net."""
    if rows is None or isinstance(rows[0], Tensor):
        return [rows] * count
    if len(rows) != count:
        raise InputError(f"rows must be given once, or for each of the {count} nets: {len(rows)}.")
    return rows


def _train(learner: RowsLearner, loop: Loop) -> Trained:
    error = None
    # Compiled steps draw from no generator that others could use.
    compiled = isinstance(learner, CompiledRowsLearner)
    with nullcontext() if compiled else own_generators():
        if not compiled:
            torch.manual_seed(stream_seed("dropout", loop.config.seed))
        try:
            while not loop.stopped:
                row, is_best = loop.run_epoch()
                loop.tell("epoch", row=row, best=is_best)
        except TrainingError as caught:
            error = caught
    if loop.best_weights is not None:
        learner.load_weights(loop.best_weights)
    return Trained(learner.net, loop, learner.release(), error)

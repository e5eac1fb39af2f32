"""Several nets for one table: what they say together, and how each of them is trained."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, TrainingError
from spinalnet.randomness import own_generators
from spinalnet.tabular.learner import Rows
from spinalnet.tabular.stacked import rows_learner
from spinalnet.training.loop import Loop

if TYPE_CHECKING:
    from spinalnet.training import TrainConfig
    from spinalnet.training.placement import Task


class TableNet(nn.Module):
    """An embedding of the inputs, nets on it, and their average.

    The average of classifiers is that of their probabilities, as logits: its softmax is the mean of
    theirs. That of regressors is the mean of their values.

    Shape:
        input `(N, in_features)`, output `(N, out_features)`.
    """

    def __init__(self, embedding: nn.Module | None, nets: Sequence[nn.Module], task: Task) -> None:
        super().__init__()
        self.task: Task = task
        self.embedding = nn.Identity() if embedding is None else embedding
        self.members = nn.ModuleList(nets)
        first: Any = nets[0]
        outermost: Any = nets[0] if embedding is None else embedding
        self.in_features: int = outermost.in_features
        self.out_features: int = first.out_features

    def each(self, x: Tensor) -> Tensor:
        """Return the outputs of every member, `(members, N, out_features)`."""
        embedded = self.embedding(x)
        return torch.stack([net(embedded) for net in self.members])

    def forward(self, x: Tensor) -> Tensor:
        """Return the average of the members' outputs, `(N, out_features)`."""
        return average(self.each(x), self.task)


def average(outputs: Tensor, task: Task) -> Tensor:
    """Return what members say together, `(N, K)`, from the outputs of each, `(members, N, K)`."""
    if len(outputs) == 1:
        return outputs[0]
    if task == "regression":
        return outputs.mean(0)
    return outputs.log_softmax(-1).logsumexp(0) - math.log(len(outputs))


@dataclass
class Member:
    """One net of an estimator, and how it came about.

    Attributes:
        random_state: With which the estimator of a single net gets this very one.
        seed: Of its weights, its order of the rows and the rows held out.
        n_iter: Epochs run.
        best_epoch: The one whose weights it has.
        loss_curve: Training loss of every epoch.
        validation_scores: Score on the rows held out after every epoch; empty without such rows.
    """

    random_state: int
    seed: int
    n_iter: int = 0
    best_epoch: int = 0
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)


Optimizer = tuple[str, dict[str, Any]]
"""Name and state of an optimizer, for `partial_fit`."""


@dataclass
class Job:
    """What one call trains of a member: settings, which rows, and the seed of dropout.

    `train` and `held_out` are numbers of rows; None for all rows, and for none. `optimizer` is that
    of the call before, and after the training that of this one.
    """

    member: Member
    net: nn.Module
    config: TrainConfig
    seed: int
    train: Tensor | None = None
    held_out: Tensor | None = None
    optimizer: Optimizer | None = None


@dataclass(frozen=True)
class NetEpoch:
    """An epoch of one of the nets of an estimator, which learn one after another.

    Attributes:
        net: Its number, from 1.
        nets: How many there are.
        epoch: Number of the epoch, from 1.
        epochs: How many there are at most.
        row: Its losses, rate and, with rows held out, scores, as `Loop.history` has them.
        is_last: Whether the net is done.
        best: Whether its weights are kept: the best so far, or, with no rows held out, the last.
    """

    net: int
    nets: int
    epoch: int
    epochs: int
    row: Mapping[str, Any]
    is_last: bool
    best: bool


OnEpoch = Callable[[NetEpoch], None]
_listener: ContextVar[OnEpoch | None] = ContextVar("spinalnet_on_epoch", default=None)


@contextmanager
def hearing_epochs(on_epoch: OnEpoch) -> Iterator[None]:
    """Call `on_epoch` after every epoch of estimators that are fitted in the block.

    The signature of `fit` is scikit-learn's, and what a model is told to do is no part of it.
    """
    token = _listener.set(on_epoch)
    try:
        yield
    finally:
        _listener.reset(token)


class _KeptNets:
    """The nets of a fit that are done, in the order in which they were trained."""

    def __init__(
        self, done: Sequence[Mapping[str, Any]], on_net: Callable[[list[dict[str, Any]]], None]
    ) -> None:
        self._before, self._on_net = list(done), on_net
        self._done: list[dict[str, Any]] = []

    def take_up(self, job: Job) -> bool:
        """Let a job be as it was when its net was done; return whether it was."""
        place = len(self._done)
        if place >= len(self._before):
            return False
        state = dict(self._before[place])
        try:
            if state["member"]["seed"] != job.member.seed:
                raise KeyError("seed")
            job.net.load_state_dict(state["net"])
            job.member, job.optimizer = Member(**state["member"]), tuple(state["optimizer"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"net {place + 1} that was kept is none of this fit ({reason}): delete the folder "
                "of its run and start again."
            ) from error
        job.net.eval()
        self._done.append(state)
        return True

    def add(self, job: Job) -> None:
        """Take up a net that is done."""
        net = {name: tensor.detach().clone() for name, tensor in job.net.state_dict().items()}
        member = dataclasses.asdict(job.member)
        self._done.append({"member": member, "net": net, "optimizer": list(job.optimizer or ())})
        self._on_net(list(self._done))


_keeper: ContextVar[_KeptNets | None] = ContextVar("spinalnet_kept_nets", default=None)


@contextmanager
def keeping_nets(
    done: Sequence[Mapping[str, Any]], on_net: Callable[[list[dict[str, Any]]], None]
) -> Iterator[None]:
    """Take up the nets that are done of an estimator that is fitted in the block.

    It ends as one that was never interrupted, to the bit: a net depends on no other.

    Args:
        done: What `on_net` was last given when the same estimator was fitted to the same rows.
        on_net: Called when a net is done, with all that are: tensors, numbers, text and lists.

    Raises:
        InputError: If what is done is of another fit.
    """
    token = _keeper.set(_KeptNets(done, on_net))
    try:
        yield
    finally:
        _keeper.reset(token)


def train_members(jobs: Sequence[Job], rows: Rows, task: Task) -> None:
    """Train every member on its rows, from where it is to the last epoch of its settings.

    Args:
        jobs: One per member.
        rows: Embedded inputs, targets and weights of all rows.
        task: What is learned.

    Raises:
        TrainingError: If a loss or a weight is no longer finite.
    """
    on_epoch, kept = _listener.get(), _keeper.get()
    for number, job in enumerate(jobs):
        if kept is not None and kept.take_up(job):
            continue

        def tell(loop: Loop, row: Mapping[str, Any], best: bool, net: int = number + 1) -> None:
            if on_epoch is not None:
                done, most = loop.epochs_done, loop.config.epochs
                on_epoch(NetEpoch(net, len(jobs), done, most, row, bool(loop.stopped), best))

        _train(job, rows, task, tell)
        if kept is not None:
            kept.add(job)


def _some(rows: Rows, which: Tensor | None) -> Rows:
    if which is None:
        return rows
    x, targets, weights = rows
    return x[which], targets[which], None if weights is None else weights[which]


def _train(
    job: Job, rows: Rows, task: Task, tell: Callable[[Loop, Mapping[str, Any], bool], None]
) -> None:
    """Go on to the last epoch and keep the best."""
    member, net, config = job.member, job.net, job.config
    held_out = None if job.held_out is None else _some(rows, job.held_out)
    learner = rows_learner(net, config, task, _some(rows, job.train), held_out)
    if job.optimizer is not None and job.optimizer[0] == config.optimizer:
        # Its memory of gradients goes on; its settings are those that are asked for now.
        now, kept = learner.optimizer.state_dict(), job.optimizer[1]
        learner.optimizer.load_state_dict({**now, "state": kept["state"]})
    loop = Loop(learner, config)
    loop.epoch = member.n_iter
    with own_generators():
        torch.manual_seed(job.seed)
        while not loop.stopped:
            row, is_best = loop.run_epoch()
            tell(loop, row, is_best or held_out is None)
    member.n_iter, member.best_epoch = loop.epoch, loop.best_epoch or loop.epoch
    member.loss_curve += [row["train_loss"] for row in loop.history]
    if held_out is not None:
        learner.load_weights(loop.best_weights)
        by_class = task == "classification"
        member.validation_scores = [
            row["val_accuracy"] if by_class else -row["val_loss"] for row in loop.history
        ]
    job.optimizer = config.optimizer, learner.release()
    with torch.no_grad():  # the loss of the last step was that before its update
        finite = bool(torch.isfinite(net(learner.rows[0][:256])).all())
    if not finite:
        raise TrainingError(
            f"the outputs are not finite after epoch {member.n_iter} at learning rate "
            f"{config.lr:g}: check the data for extreme values, {learner.advice}."
        )

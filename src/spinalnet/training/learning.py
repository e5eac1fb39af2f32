"""What a loop trains: protocols of learners."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    import torch

    from spinalnet.training.evaluation import Metrics
    from spinalnet.training.placement import Task


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

    def batches(self, first: int = 0) -> Iterator[tuple[Any, ...]]:
        """Yield the batches of the epoch, from number `first` on."""
        ...

    def find_gradients(self, step: int, batch: tuple[Any, ...]) -> tuple[Tensor, Tensor | None]:
        """Return (mean loss, right answers if counted) of a batch; its gradients are in place."""
        ...

    def is_finite(self, loss: Tensor) -> bool:
        """Return whether the loss and all gradients are numbers a step can be made with."""
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


@runtime_checkable
class Watched(Protocol):
    """A `Learner` that can be left within an epoch, and says what goes wrong in it."""

    def draws(self) -> dict[str, Any]:
        """Return what the rest of the running epoch will be drawn from."""
        ...

    def resume_draws(self, states: Mapping[str, Any]) -> None:
        """Take up what `draws` returned, when the next batches are made."""
        ...

    def are_finite(self) -> bool:
        """Return whether all weights are numbers that training can go on from."""
        ...

    def find_trouble(self, losses: Sequence[float]) -> list[str]:
        """Return what the user should know after an epoch, given the losses of all so far."""
        ...

    def answered(self) -> Tensor | None:
        """Return examples and answers of each class in the last validation, `(2, K)`, if any."""
        ...

    def find_trouble_of_best(self, answered: Tensor) -> str:
        """Return what the user should know of the epoch that is kept, given its `answered`."""
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

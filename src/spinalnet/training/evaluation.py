"""How well a model does on some data: `evaluate`, `predict_logits`, and the metrics they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet import _dist
from spinalnet._checks import InputError
from spinalnet.training import stopping
from spinalnet.training.placement import (
    at_least_float32,
    batches_of,
    check_fit,
    count_batches,
    evaluating,
    place,
)

if TYPE_CHECKING:
    from spinalnet.training.placement import Data, Placement


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
    placement = place(model, device, amp, channels_last, batch_size)
    count_batches(data, batch_size, "data")
    return measure(placement.move(model), data, placement, confusion=True)


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
    placement = place(model, device, amp, channels_last, batch_size)
    model = placement.move(model)
    batches = data.split(batch_size) if isinstance(data, Tensor) else data
    outputs = []
    with evaluating(model):
        for inputs, _ in batches_of(batches, batch_size, placement):
            with placement.autocast():
                outputs.append(at_least_float32(model(inputs)).cpu())
    if not outputs:
        raise InputError("the data is empty: predict_logits needs at least one example.")
    return torch.cat(outputs)


@dataclass
class Answers:
    """What classes there were in some data, and what classes a model answered."""

    present: Tensor | None = None  # examples of each class
    given: Tensor | None = None  # answers of each class
    is_known: bool = False  # what classes there are; then only answers are counted

    def afresh(self) -> Answers:
        """Return what counts other answers to the same examples."""
        return Answers(self.present, None, self.present is not None)

    def add(self, targets: Tensor, answers: Tensor, classes: int) -> None:
        """Count the answers to some examples."""
        given = torch.bincount(answers, minlength=classes)
        self.given = given if self.given is None else self.given + given
        if not self.is_known:
            present = torch.bincount(targets, minlength=classes)
            self.present = present if self.present is None else self.present + present

    def sum_over_processes(self, classes: int, device: torch.device) -> None:
        """Add up what the processes have counted; to one alone it does nothing."""
        if _dist.world_size() > 1:
            none = torch.zeros(classes, dtype=torch.int64, device=device)
            counts = [none if c is None else c.to(device) for c in (self.present, self.given)]
            summed = _dist.sum_over_processes(torch.stack(counts), device)
            self.given = summed[1]
            self.present = self.present if self.is_known else summed[0]


@torch.no_grad()
def measure(
    model: nn.Module,
    data: Data,
    placement: Placement,
    *,
    confusion: bool = False,
    sharded: bool = False,
    answers: Answers | None = None,
) -> Metrics:
    """Measure the model.

    Args:
        model: As for `fit`.
        data: As for `evaluate`.
        placement: Where and how to compute.
        confusion: Whether to count every pair of classes.
        sharded: Whether every process does its rows, so that all get the metrics of the whole;
            and whether the caller takes up what a signal interrupts (`stopping.Paused`).
        answers: Counts of classes to fill, those of this process.
    """
    n, classes, regression = 0, 0, False
    sums: Tensor | None = None
    table: Tensor | None = None
    shift = torch.zeros(())  # near the targets, against cancellation in their variance
    with evaluating(model):
        for inputs, all_targets in batches_of(data, placement.batch_size, placement, own=sharded):
            if sharded and _dist.world_size() == 1:  # else all must come to the sums
                stopping.pause_if_asked()
            regression = all_targets.is_floating_point()
            if n == 0 and regression:
                shift = (
                    all_targets.flatten(1).mean(0) if all_targets.ndim > 1 else all_targets.mean()
                )
            n += len(all_targets)
            targets = _dist.shard(all_targets) if sharded else all_targets
            with placement.autocast():
                outputs = model(inputs)
            check_fit(outputs, targets, values=True)
            outputs = at_least_float32(outputs)
            classes = outputs.shape[-1]
            if sharded and _dist.is_filler(len(all_targets)):
                outputs, targets = outputs[:0], targets[:0]
            if regression:
                batch_sums = _regression_sums(outputs, targets, shift)
            else:
                chosen = outputs.argmax(1)
                batch_sums = _classification_sums(outputs, targets, chosen)
                if confusion:
                    cells = targets * classes + chosen
                    counts = torch.bincount(cells, minlength=classes**2).view(classes, classes)
                    table = counts if table is None else table + counts
                if answers is not None:
                    answers.add(targets, chosen, classes)
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


def _classification_sums(logits: Tensor, targets: Tensor, chosen: Tensor) -> Tensor:
    """Return (summed cross entropy, right answers, right answers among the first five)."""
    top5 = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
    loss = F.cross_entropy(logits, targets, reduction="sum")
    return torch.stack((loss, (chosen == targets).sum(), top5.sum()))


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Return how many rows have their target as the largest logit."""
    answers = logits.detach().argmax(1)
    if targets.is_floating_point():  # shares of classes
        return targets.gather(1, answers[:, None]).sum()
    return (answers == targets).sum()


def _regression_sums(outputs: Tensor, targets: Tensor, shift: Tensor) -> Tensor:
    """Return `(4, outputs)`: sums of squared and absolute errors, targets, squared targets."""
    error, moved = _columns(outputs - targets), _columns(targets) - shift
    return torch.stack(
        (error.square().sum(0), error.abs().sum(0), moved.sum(0), moved.square().sum(0))
    )


def _columns(values: Tensor) -> Tensor:
    return values.flatten(1) if values.ndim > 1 else values[:, None]


def _regression_metrics(n: int, sums: Tensor) -> Metrics:
    squared, absolute, total, total_squared = sums
    variation = (total_squared - total.square() / n).clamp_min(0.0)
    # A constant target leaves nothing to explain: 1 if met exactly, else 0, as in scikit-learn.
    r2 = torch.where(variation > 0, 1.0 - squared / variation, (squared == 0).double())
    return Metrics(
        n=n, loss=float(squared.mean() / n), mae=float(absolute.mean() / n), r2=float(r2.mean())
    )

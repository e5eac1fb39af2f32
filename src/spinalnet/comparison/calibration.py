"""How far the probabilities of a classifier can be trusted, and how every class fares.

* Negative log-likelihood: mean of -log p(true class), the cross entropy of training.
* Brier score: mean of the squared distance between the probabilities and the truth, summed over
  classes; 0 at best, 2 at worst (Brier, 1950).
* Expected calibration error: the confidence is the probability of the predicted class; in bins of
  confidence, the distance between mean confidence and accuracy, averaged by the bins' counts. With
  15 bins of equal width (Guo et al., 2017), and, "adaptive", with 15 bins of equal counts (Nguyen
  and O'Connor, 2015), which do not depend on how bunched the confidences are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinalnet.comparison.outputs import Outputs

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Predictions whose confidence lies in (low, high]: how many, and how often they are right."""

    low: float
    high: float
    count: int
    confidence: float  # mean; 0 in an empty bin
    accuracy: float  # 0 in an empty bin


@dataclass(frozen=True)
class Quality:
    """How good the probabilities of a classifier are; see the head of this file."""

    n: int
    accuracy: float
    top5_accuracy: float | None  # with more than 5 classes
    nll: float
    brier: float
    ece: float
    adaptive_ece: float
    bins: tuple[Bin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers, without the bins."""
        values = asdict(self)
        del values["bins"]
        return {name: value for name, value in values.items() if value is not None}


def quality(outputs: Outputs) -> Quality:
    """Score what a classifier said."""
    confidence = outputs.probabilities[:, 0].double()
    correct = outputs.correct
    bins = reliability(confidence, correct)
    truth = outputs.log_likelihood.double().exp()
    top5 = (outputs.classes[:, :5] == outputs.targets[:, None]).any(1).double().mean()
    return Quality(
        n=len(correct),
        accuracy=float(correct.double().mean()),
        top5_accuracy=float(top5) if outputs.num_classes > 5 else None,
        nll=float(-outputs.log_likelihood.double().mean()),
        brier=float((outputs.squares.double() - 2 * truth + 1).mean()),
        ece=calibration_error(bins),
        adaptive_ece=calibration_error(_equal_counts(confidence, correct)),
        bins=bins,
    )


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    """Count predictions in bins of equal width between 0 and 1.

    Args:
        confidence: Probability of the predicted class, `(N,)`.
        correct: Whether it is the true one, bool, `(N,)`.
        bins: Number of bins; a confidence on a border belongs to the lower one.
    """
    place = (confidence.double() * bins).ceil().long().sub(1).clamp(0, bins - 1)
    count = torch.bincount(place, minlength=bins)
    share = count.clamp(min=1)
    sums = [torch.bincount(place, x.double(), bins) / share for x in (confidence, correct)]
    return tuple(
        Bin(i / bins, (i + 1) / bins, int(count[i]), float(sums[0][i]), float(sums[1][i]))
        for i in range(bins)
    )


def _equal_counts(confidence: Tensor, correct: Tensor, bins: int = BINS) -> tuple[Bin, ...]:
    order = confidence.argsort(stable=True)
    parts = zip(
        confidence[order].tensor_split(bins), correct[order].tensor_split(bins), strict=True
    )
    return tuple(
        Bin(float(c[0]), float(c[-1]), len(c), float(c.mean()), float(right.double().mean()))
        for c, right in parts
        if len(c)
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the mean distance of confidence and accuracy, weighted by the bins' counts."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / max(total, 1)


def pooled(several: Sequence[Sequence[Bin]]) -> tuple[Bin, ...]:
    """Return the bins of all predictions of several classifiers together."""
    together = []
    for same in zip(*several, strict=True):
        count = sum(b.count for b in same)
        confidence, accuracy = (
            sum(b.count * value for b, value in zip(same, values, strict=True)) / max(count, 1)
            for values in ([b.confidence for b in same], [b.accuracy for b in same])
        )
        together.append(Bin(same[0].low, same[0].high, count, confidence, accuracy))
    return tuple(together)


@dataclass(frozen=True)
class ClassScore:
    """How one class fares. A share of nothing (a class never predicted) is 0."""

    precision: float  # of the examples predicted as it, the share that are it
    recall: float  # of the examples that are it, the share predicted as it
    f1: float  # their harmonic mean
    support: int  # examples that are it


def per_class(confusion: Sequence[Sequence[int]] | np.ndarray) -> tuple[ClassScore, ...]:
    """Score every class from counts; rows are true classes, columns predicted ones."""
    counts = np.asarray(confusion, dtype=np.int64)
    sums = (counts.diagonal(), counts.sum(1), counts.sum(0))
    right, support, predicted = (one.tolist() for one in sums)
    return tuple(
        ClassScore(
            precision=hits / max(said, 1),
            recall=hits / max(are, 1),
            f1=2 * hits / max(said + are, 1),
            support=are,
        )
        for hits, are, said in zip(right, support, predicted, strict=True)
    )

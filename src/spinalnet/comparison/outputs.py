"""What a classifier said about every test example, kept compactly, and how good that was.

The probabilities of an example are kept for its ten most probable classes, so that a file stays
small however many classes there are; what the scores need of the rest is kept as two numbers.

* Negative log-likelihood: mean of -log p(true class), the cross entropy of training.
* Brier score: mean of the squared distance between the probabilities and the truth, summed over
  classes; 0 at best, 2 at worst (Brier, 1950).
* Expected calibration error: the confidence is the probability of the predicted class; in bins of
  confidence, the distance between mean confidence and accuracy, averaged by the bins' counts. With
  15 bins of equal width (Guo et al., 2017), and, "adaptive", with 15 bins of equal counts (Nguyen
  and O'Connor, 2015), which do not depend on how bunched the confidences are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from spinalnet import files

OUTPUTS_FILE = "test-outputs.safetensors"  # in the folder of a run
BINS = 15
_KEPT = 10  # most probable classes of an example


@dataclass(frozen=True)
class Outputs:
    """What a classifier said about N examples.

    Attributes:
        targets: True classes, int64, `(N,)`.
        classes: The most probable classes, best first, int64, `(N, k)`, k at most 10.
        probabilities: Of those classes, float32, `(N, k)`.
        log_likelihood: Natural logarithm of the probability of the true class, float32, `(N,)`.
        squares: Sum of the squared probabilities of all classes, float32, `(N,)`.
        num_classes: Number of all classes.
        paths: File of every example; empty where there are none.
        shown: Rows of the worst mistakes, which have thumbnails, `(M,)`.
        thumbnails: Pixels of those examples, uint8, `(M, C, h, w)`.
    """

    targets: Tensor
    classes: Tensor
    probabilities: Tensor
    log_likelihood: Tensor
    squares: Tensor
    num_classes: int
    paths: tuple[str, ...] = ()
    shown: Tensor | None = None
    thumbnails: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, paths: Sequence[str] = ()) -> Outputs:
        """Make them of logits `(N, K)` and true classes `(N,)`."""
        parts = []
        for rows, true in zip(logits.split(8192), targets.split(8192), strict=True):
            log_p = rows.double().log_softmax(1)
            p = log_p.exp()
            best = p.topk(min(_KEPT, p.shape[1]), dim=1)
            likelihood = log_p.gather(1, true[:, None])[:, 0]
            parts.append(
                (best.indices, best.values.float(), likelihood.float(), p.square().sum(1).float())
            )
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return cls(targets, *columns, num_classes=logits.shape[1], paths=tuple(map(str, paths)))

    @property
    def predicted(self) -> Tensor:
        """The most probable class, `(N,)`."""
        return self.classes[:, 0]

    @property
    def correct(self) -> Tensor:
        """Whether that is the true class, `(N,)`."""
        return self.predicted == self.targets

    def worst(self, count: int) -> Tensor:
        """Return up to `count` rows of wrong predictions, the least probable truth first."""
        order = self.log_likelihood.argsort(stable=True)
        return order[~self.correct[order]][:count]

    def with_thumbnails(self, shown: Tensor, thumbnails: Tensor) -> Outputs:
        """Return the same with pixels of some rows."""
        return replace(self, shown=shown, thumbnails=thumbnails)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: some 70 bytes an example, its path and the thumbnails."""
        small = torch.int16 if self.num_classes < 2**15 else torch.int32
        tensors = {
            "targets": self.targets.to(small),
            "classes": self.classes.to(small),
            "probabilities": self.probabilities,
            "log_likelihood": self.log_likelihood,
            "squares": self.squares,
        }
        if self.paths:
            joined = bytearray("\0".join(self.paths).encode("utf-8", "surrogateescape"))
            tensors["paths"] = torch.frombuffer(joined, dtype=torch.uint8)
        if self.shown is not None and self.thumbnails is not None:
            tensors |= {"shown": self.shown.int(), "thumbnails": self.thumbnails}
        files.save_weights(path, tensors, {"num_classes": self.num_classes})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Outputs:
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing or damaged.
        """
        tensors, about = files.load_weights(path)
        paths = tensors.get("paths")
        shown = tensors.get("shown")
        return cls(
            tensors["targets"].long(),
            tensors["classes"].long(),
            tensors["probabilities"],
            tensors["log_likelihood"],
            tensors["squares"],
            num_classes=int(about["num_classes"]),
            paths=()
            if paths is None
            else tuple(paths.numpy().tobytes().decode("utf-8", "surrogateescape").split("\0")),
            shown=None if shown is None else shown.long(),
            thumbnails=tensors.get("thumbnails"),
        )


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


def per_class(confusion: Sequence[Sequence[int]]) -> tuple[ClassScore, ...]:
    """Score every class from counts; rows are true classes, columns predicted ones."""
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    return tuple(
        ClassScore(
            precision=row[k] / max(predicted[k], 1),
            recall=row[k] / max(sum(row), 1),
            f1=2 * row[k] / max(predicted[k] + sum(row), 1),
            support=sum(row),
        )
        for k, row in enumerate(confusion)
    )

"""What a model said about every test example, kept compactly, and how good that was.

Of a classifier the probabilities of an example are kept for its ten most probable classes, so that
a file stays small however many classes there are; what the scores need of the rest is kept as two
numbers. Of a regression predictions and targets are kept as they are. Both may carry `rows`, the
place of every test example in the whole data set, by which the parts that several models were
tested on (folds) can be `joined`.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError

OUTPUTS_FILE = "test-outputs.safetensors"  # in the folder of a run
BINS = 15
_KEPT = 10  # most probable classes of an example


@dataclass(frozen=True)
class Outputs:
    """What a classifier said about N examples.

    Where it said nothing (its logits were not finite), all numbers of the example are NaN.

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
        rows: Place of every example in the whole data set, int32, `(N,)`; None if not known.
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
    rows: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, paths: Sequence[str] = ()) -> Outputs:
        """Make them of logits `(N, K)` and true classes `(N,)`."""
        parts = []
        for rows, true in zip(logits.split(8192), targets.split(8192), strict=True):
            log_p = rows.double().log_softmax(1)
            p = log_p.exp()
            # Of equal probabilities topk puts any first: the predicted class is that of argmax.
            ranked = p.scatter(1, rows.argmax(1, keepdim=True), torch.inf)
            best = ranked.topk(min(_KEPT, p.shape[1]), dim=1).indices
            likelihood = log_p.gather(1, true[:, None])[:, 0]
            parts.append(
                (best, p.gather(1, best).float(), likelihood.float(), p.square().sum(1).float())
            )
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        return cls(targets, *columns, num_classes=logits.shape[1], paths=tuple(map(str, paths)))

    @classmethod
    def of_probabilities(cls, probabilities: Tensor, targets: Tensor) -> Outputs:
        """Make them of probabilities `(N, K)`, such as trees give, and true classes `(N,)`."""
        return cls.of(probabilities.double().log(), targets)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)

    @property
    def predicted(self) -> Tensor:
        """The most probable class, `(N,)`."""
        return self.classes[:, 0]

    @property
    def correct(self) -> Tensor:
        """Whether that is the true class, `(N,)`."""
        return self.predicted == self.targets

    @property
    def finite(self) -> Tensor:
        """Whether the model said something about an example, bool, `(N,)`."""
        return self.probabilities[:, 0].isfinite()

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
        if self.shown is not None and self.thumbnails is not None:
            tensors |= {"shown": self.shown.int(), "thumbnails": self.thumbnails}
        files.save_weights(path, tensors | _places(self), {"num_classes": self.num_classes})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Outputs:
        """Read what `save` wrote.

        Raises:
            InputError: If the file is missing, damaged, or of a regression.
        """
        said = load_outputs(path)
        if not isinstance(said, cls):
            raise InputError(f"{path} holds the outputs of a regression, not of a classification.")
        return said


@dataclass(frozen=True)
class RegressionOutputs:
    """What a regression said about N examples.

    Attributes:
        targets: True values, float32 or float64, `(N, outputs)`.
        predictions: What the model said, `(N, outputs)`; may hold numbers that are not finite.
        paths: As in `Outputs`.
        rows: As in `Outputs`.
    """

    targets: Tensor
    predictions: Tensor
    paths: tuple[str, ...] = ()
    rows: Tensor | None = None

    @classmethod
    def of(
        cls, predictions: Tensor, targets: Tensor, paths: Sequence[str] = ()
    ) -> RegressionOutputs:
        """Make them of predicted and true values, both `(N,)` or `(N, outputs)`."""
        said, true = (
            (values if values.dtype == torch.float64 else values.float()).reshape(len(values), -1)
            for values in (predictions, targets)
        )
        if said.shape != true.shape:
            raise InputError(
                "predictions and targets must have the same shape, got "
                f"{tuple(predictions.shape)} and {tuple(targets.shape)}."
            )
        return cls(true, said, tuple(map(str, paths)))

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)

    @property
    def finite(self) -> Tensor:
        """Whether all that the model said about an example are numbers, bool, `(N,)`."""
        return self.predictions.isfinite().all(1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: 8 or 16 bytes an example and output, and its path."""
        tensors = {"targets": self.targets, "predictions": self.predictions}
        files.save_weights(path, tensors | _places(self), {"task": "regression"})


AnyOutputs = Outputs | RegressionOutputs


def _places(outputs: AnyOutputs) -> dict[str, Tensor]:
    """Return what a file holds of where the examples come from."""
    tensors = {} if outputs.rows is None else {"rows": outputs.rows.int()}
    if outputs.paths:
        text = bytearray("\0".join(outputs.paths).encode("utf-8", "surrogateescape"))
        tensors["paths"] = torch.frombuffer(text, dtype=torch.uint8)
    return tensors


def load_outputs(path: str | os.PathLike[str]) -> AnyOutputs:
    """Read what `save` of either kind wrote.

    Raises:
        InputError: If the file is missing, or holds what no model can have said.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no file {path}: give the folder of a run that has trained.")
    try:
        tensors, about = files.load_weights(path)
    except InputError as error:
        raise _damaged(path, "it is not a file that a run has written") from error
    try:
        if about.get("task") == "regression":
            outputs = RegressionOutputs(
                tensors["targets"], tensors["predictions"], *_read_places(tensors)
            )
        else:
            outputs = _classification(tensors, about)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise _damaged(path, "a part of it is missing or is no table of numbers") from error
    checks = _checks_of(outputs)
    for what, holds in checks.items():
        if not holds():
            raise _damaged(path, what)
    return outputs


def _damaged(path: str | os.PathLike[str], reason: str) -> InputError:
    return InputError(
        f"{path} does not hold what a model said, or it is damaged ({reason}): delete the folder "
        "of this run and run it again."
    )


def _classification(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Outputs:
    shown = tensors.get("shown")
    paths, rows = _read_places(tensors)
    return Outputs(
        tensors["targets"].long(),
        tensors["classes"].long(),
        tensors["probabilities"],
        tensors["log_likelihood"],
        tensors["squares"],
        num_classes=int(about["num_classes"]),
        paths=paths,
        shown=None if shown is None else shown.long(),
        thumbnails=tensors.get("thumbnails"),
        rows=rows,
    )


def _read_places(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, ...], Tensor | None]:
    paths = tensors.get("paths")
    if paths is None:
        return (), tensors.get("rows")
    text = paths.numpy().tobytes().decode("utf-8", "surrogateescape")
    return tuple(text.split("\0")), tensors.get("rows")


def _checks_of(outputs: AnyOutputs) -> dict[str, Callable[[], bool]]:
    """Return what must hold of outputs that were read, by how its failure is told."""
    count = len(outputs.targets)

    def integers(values: Tensor, below: int) -> bool:
        return not values.numel() or (int(values.min()) >= 0 and int(values.max()) < below)

    checks: dict[str, Callable[[], bool]] = {
        "a file or row is not named for every example": lambda: (
            len(outputs.paths) in (0, count)
            and (outputs.rows is None or outputs.rows.shape == (count,))
        )
    }
    if isinstance(outputs, RegressionOutputs):
        return checks | {
            "predictions and targets differ in shape": lambda: (
                outputs.targets.ndim == 2 and outputs.predictions.shape == outputs.targets.shape
            ),
            "a target is not finite": lambda: bool(outputs.targets.isfinite().all()),
        }
    kept = min(_KEPT, outputs.num_classes)
    numbers = (outputs.probabilities, outputs.log_likelihood, outputs.squares)
    return checks | {
        "its tables differ in length": lambda: (
            outputs.classes.shape == outputs.probabilities.shape == (count, kept)
            and outputs.log_likelihood.shape == outputs.squares.shape == (count,)
        ),
        "a class is none": lambda: (
            integers(outputs.targets, outputs.num_classes)
            and integers(outputs.classes, outputs.num_classes)
        ),
        "a probability is none": lambda: all(
            # Where a model said nothing all its numbers are NaN; log 0 is minus infinity.
            bool((values.isnan() | ((values >= low) & (values <= high))).all())
            for values, low, high in zip(
                numbers, (0.0, -float("inf"), 0.0), (1.001, 0.001, 1.001), strict=True
            )
        ),
    }


def joined(parts: Sequence[AnyOutputs]) -> AnyOutputs:
    """Return the outputs of models that were tested on different examples (folds), in order of row.

    Raises:
        InputError: If rows are not known, an example was tested twice, or the kinds differ.
    """
    kinds = {(type(part), getattr(part, "num_classes", None)) for part in parts}
    rows = [part.rows for part in parts if part.rows is not None]
    if len(kinds) != 1 or len(rows) != len(parts):
        raise InputError("outputs can be joined if all are of one task and say their rows.")
    order = torch.cat(rows).long()
    if len(order.unique()) < len(order):
        raise InputError("outputs can be joined if no example is in two of them: give one repeat.")
    place = order.argsort()
    first = parts[0]
    names = [f.name for f in fields(first) if f.name not in ("num_classes", "paths", "shown")]
    columns = {
        name: torch.cat([getattr(part, name) for part in parts])[place]
        for name in names
        if name not in ("thumbnails", "rows")
    }
    paths = [path for part in parts for path in part.paths]
    paths = [paths[i] for i in place.tolist()] if len(paths) == len(order) else []
    return replace(
        first, **columns, rows=order[place].int(), paths=tuple(paths), **_NO_PIXELS[type(first)]
    )


_NO_PIXELS: dict[type, dict[str, None]] = {
    Outputs: {"shown": None, "thumbnails": None},
    RegressionOutputs: {},
}


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

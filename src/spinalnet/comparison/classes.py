"""What runs say of classes and probabilities: confusions, calibration, mistakes.

Confusions are in every run's result; the rest needs what the runs kept of each test example
(`outputs.Outputs`), and is left out for runs that kept nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spinalnet._checks import InputError
from spinalnet.comparison.calibration import Bin, ClassScore, Quality, per_class, pooled, quality
from spinalnet.comparison.finished import FinishedRuns, result_of
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs, pictures
from spinalnet.comparison.statistics import (
    PairedDifference,
    deviation,
    finite,
    mean,
    paired_difference,
)
from spinalnet.files import reading
from spinalnet.texts import shown
from spinalnet.training import RunRecord

if TYPE_CHECKING:
    import numpy as np

    from spinalnet.comparison.answer import Summary


@dataclass(frozen=True)
class Confusion:
    """Counts over all runs of one head, rows: true class, columns: predicted class."""

    head: str
    n: int
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def share(self, true: int, predicted: int) -> float:
        """Share of a true class's examples that got this prediction."""
        return self.counts[true][predicted] / (sum(self.counts[true]) or 1)


LARGEST_MATRIX = 30  # classes; beyond, cells are too small to read and pairs are listed


@dataclass(frozen=True)
class ClassRow:
    """One class: its scores averaged over runs, and the spread of F1 over them."""

    name: str
    score: ClassScore
    f1_std: float | None  # None for a single run


@dataclass(frozen=True)
class LayerShare:
    """What a layer of a spinal head adds to two logits of an image, on average over runs.

    Attributes:
        layer: Its number, from 1.
        slice: Number of the slice of the features that it sees beside the layer before it, from 1.
        predicted: Added to the logit of the class that the image was taken for.
        true: Added to that of its own class.
    """

    layer: int
    slice: int
    predicted: float
    true: float

    @property
    def lead(self) -> float:
        """How much it spoke for the wrong class, against the true one where negative."""
        return self.predicted - self.true


@dataclass(frozen=True)
class Mistake:
    """A test image that the runs of a head got wrong.

    Attributes:
        row: Its place in the test set.
        path: Its file, if it has one.
        true: Its class.
        predicted: The class that most runs took it for.
        probability: What they gave that class, on average over those runs.
        true_probability: Geometric mean over all runs of what they gave the true class.
        wrong: Number of runs that were wrong.
        pixels: Shape `(h, w)` or `(h, w, 3)`, uint8.
        layers: Of a spinal head what each layer added, over the runs that kept it and took the
            image for that class; empty of other heads. With the biases of the output row they add
            up to the logits.
    """

    row: int
    path: str | None
    true: str
    predicted: str
    probability: float
    true_probability: float
    wrong: int
    pixels: np.ndarray
    layers: tuple[LayerShare, ...] = ()

    @property
    def file_name(self) -> str:
        """Name of its file, without the folders, as one line of text; empty without a file."""
        return shown((self.path or "").replace("\\", "/").rsplit("/", 1)[-1])


@dataclass(frozen=True)
class HeadQuality:
    """What the finished runs of one head say.

    Attributes:
        head: Name of the head.
        n: Number of runs.
        confusion: Counts over all of them.
        classes: One row per class.
        means: accuracy, top5_accuracy, nll, and, from kept outputs, brier, ece, adaptive_ece: means
            over the runs; what is not known is not there.
        stds: Their sample standard deviations, where there are several runs.
        bins: Reliability of all predictions together; empty without kept outputs.
        differences: First head minus this one, paired by seed, by name of the number.
        mistakes: The worst, worst first; empty without kept outputs.
    """

    head: str
    n: int
    confusion: Confusion
    classes: tuple[ClassRow, ...]
    means: Mapping[str, float]
    stds: Mapping[str, float]
    bins: tuple[Bin, ...]
    differences: Mapping[str, PairedDifference]
    mistakes: tuple[Mistake, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON, without pictures."""
        interval = ("mean", "low", "high", "n", "p_value")
        return {
            "head": self.head,
            "n": self.n,
            "mean": dict(self.means),
            "std": dict(self.stds),
            "difference": {
                name: {key: getattr(d, key) for key in interval}
                for name, d in self.differences.items()
            },
            "classes": [
                {"class": row.name, **asdict(row.score), "f1_std": row.f1_std}
                for row in self.classes
            ],
            "reliability": [asdict(b) for b in self.bins],
            "most_wrong": [
                {key: value for key, value in vars(mistake).items() if key != "pixels"}
                | {"layers": [asdict(share) for share in mistake.layers]}
                for mistake in self.mistakes
            ],
        }


_COMPARED = ("nll", "brier", "ece")
MOST_SHOWN = 16
"""Images of a head that a report shows."""


def judge(comparison: FinishedRuns, summary: Summary) -> list[HeadQuality]:
    """Judge every head of a classification; a regression gives no rows."""
    judged: list[HeadQuality] = []
    first: dict[str, dict[str, float]] = {}
    for head in [head.head for head in summary.heads if head.n]:
        records = {
            seed: record
            for seed, record in comparison.runs[head].items()
            if result_of(record)["test"].get("confusion")
        }
        if not records:
            continue
        outputs = {
            seed: Outputs.load(record.path / OUTPUTS_FILE)
            for seed, record in records.items()
            if (record.path / OUTPUTS_FILE).exists()
        }
        scored = {seed: quality(said) for seed, said in outputs.items()}
        scored = {seed: found for seed, found in scored.items() if math.isfinite(found.ece)}
        values = _values(records, scored)
        matrices = [_matrix(record) for record in records.values()]
        confusion = _sum_confusions(head, matrices, result_of(next(iter(records.values()))))
        judged.append(
            HeadQuality(
                head=head,
                n=len(records),
                confusion=confusion,
                classes=_class_rows(matrices, confusion.names),
                means=_known(mean, values),
                stds=_known(deviation, values),
                bins=pooled([found.bins for found in scored.values()]),
                differences={
                    name: paired_difference(judged[0].head, head, first[name], values[name])
                    for name in _COMPARED
                    if judged and name in first and name in values
                },
                mistakes=_mistakes(
                    [outputs[seed] for seed in scored],
                    confusion.names,
                    _slices(result_of(next(iter(records.values())))),
                ),
            )
        )
        first = first or values
    return judged


def _values(
    records: Mapping[str, RunRecord], scored: Mapping[str, Quality]
) -> dict[str, dict[str, float]]:
    """Return the numbers of every run, by name and seed."""
    values: dict[str, dict[str, float | None]] = {}
    for name, kept in (("accuracy",) * 2, ("top5_accuracy",) * 2, ("nll", "loss")):
        values[name] = {
            seed: result_of(record)["test"].get(kept) for seed, record in records.items()
        }
    for name in ("brier", "ece", "adaptive_ece"):
        values[name] = {seed: getattr(found, name) for seed, found in scored.items()}
    usable = {
        name: {seed: kept[0] for seed, value in by_seed.items() if (kept := finite([value]))}
        for name, by_seed in values.items()
    }
    return {name: by_seed for name, by_seed in usable.items() if by_seed}


def _known(
    number: Callable[[Sequence[float]], float | None], values: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Take a number of the runs' values, where there is one."""
    found = {name: number([*by_seed.values()]) for name, by_seed in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _matrix(record: RunRecord) -> np.ndarray:
    """Return the confusion of a run, `(classes, classes)`: of many classes a list is slow."""
    with reading(record.path / "result.json"):
        try:
            return np.array(result_of(record)["test"]["confusion"], dtype=np.int64)
        except OverflowError:
            raise InputError("a count of the confusion must fit into 64 bits.") from None


def _sum_confusions(
    head: str, matrices: Sequence[np.ndarray], result: Mapping[str, Any]
) -> Confusion:
    """Sum the confusion matrices of the runs of a head, one of which has this result."""
    counts = tuple(map(tuple, np.sum(matrices, axis=0).tolist()))
    names = tuple(str(name) for name in result.get("class_names") or ())
    names = names if len(names) == len(counts) else tuple(map(str, range(len(counts))))
    return Confusion(head, len(matrices), names, counts)


def _class_rows(matrices: Sequence[np.ndarray], names: Sequence[str]) -> tuple[ClassRow, ...]:
    """Average the scores of every class over runs."""
    by_run = [per_class(matrix) for matrix in matrices]
    rows = []
    for name, scores in zip(names, zip(*by_run, strict=True), strict=True):
        average = ClassScore(
            precision=fmean(score.precision for score in scores),
            recall=fmean(score.recall for score in scores),
            f1=fmean(score.f1 for score in scores),
            support=scores[0].support,
        )
        rows.append(ClassRow(name, average, deviation([score.f1 for score in scores])))
    return tuple(rows)


def _slices(result: Mapping[str, Any]) -> list[int]:
    """Return the number of the slice that each layer of a head sees, from 1."""
    layers = (result.get("wiring") or {}).get("layers") or ()
    starts = sorted({layer["start"] for layer in layers})
    return [starts.index(layer["start"]) + 1 for layer in layers]


def _layers(
    several: Sequence[Outputs], row: int, guess: int, slices: Sequence[int]
) -> tuple[LayerShare, ...]:
    """Return what the layers added to two logits of an image, where runs took it for `guess`."""
    found = [
        outputs.shares[place]
        for outputs in several
        if outputs.shares is not None and outputs.explained is not None
        if int(outputs.predicted[row]) == guess
        for place in (outputs.explained == row).nonzero()[:, 0].tolist()
    ]
    if not found or {len(one) for one in found} != {len(slices)}:
        return ()
    means = torch.stack(found).double().mean(0).tolist()
    return tuple(
        LayerShare(layer + 1, number, *shares)
        for layer, (number, shares) in enumerate(zip(slices, means, strict=True))
    )


def _mistakes(
    several: Sequence[Outputs], names: Sequence[str], slices: Sequence[int]
) -> tuple[Mistake, ...]:
    """Find the images that the runs of a head got most wrong, on average over the runs."""
    kept = pictures(several)
    if not kept:
        return ()
    likelihood = torch.stack([o.log_likelihood for o in several]).mean(0)
    found = []
    for row in sorted(kept, key=lambda row: float(likelihood[row]))[:MOST_SHOWN]:
        target = int(several[0].targets[row])
        said = [(int(o.predicted[row]), float(o.probabilities[row, 0])) for o in several]
        wrong = [(guess, p) for guess, p in said if guess != target]
        ((guess, _),) = Counter(guess for guess, _ in wrong).most_common(1)
        found.append(
            Mistake(
                row=row,
                path=several[0].paths[row] if several[0].paths else None,
                true=names[target],
                predicted=names[guess],
                probability=fmean(p for other, p in wrong if other == guess),
                true_probability=float(likelihood[row].exp()),
                wrong=len(wrong),
                pixels=kept[row],
                layers=_layers(several, row, guess, slices),
            )
        )
    return tuple(found)


def confused_pairs(
    confusions: Sequence[Confusion], limit: int = 15
) -> list[tuple[str, str, list[float]]]:
    """The commonest mistakes: true class, predicted class, share of the true class by head."""
    names = confusions[0].names
    size = range(len(names))
    pairs = [
        (names[i], names[j], [confusion.share(i, j) for confusion in confusions])
        for i in size
        for j in size
        if i != j and any(confusion.counts[i][j] for confusion in confusions)
    ]
    return sorted(pairs, key=lambda pair: -sum(pair[2]))[:limit]

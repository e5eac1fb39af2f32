"""What can be said without looking at an example: the baseline that every model must beat.

It knows the training part only: how often every class is, or the mean and the median of the
targets. Where most of the test part is of one class its accuracy is high, which a note says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinalnet._checks import InputError, read_fields
from spinalnet.comparison.metrics import METRICS, Metric
from spinalnet.comparison.outputs import AnyOutputs, Outputs, RegressionOutputs

PREVALENT = 0.8
"""Share of one class in the test part above which accuracy says little."""

FEW = 10
"""Test examples of a class below which its share of a variance is known only roughly."""


@dataclass(frozen=True)
class Baseline:
    """What can be said without looking at an example, learned from the training part.

    Attributes:
        class_counts: Training examples of every class; None for a regression.
        mean: Mean of the training targets, one per output; None for a classification.
        median: Their medians.
    """

    class_counts: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    median: tuple[float, ...] | None = None

    @classmethod
    def of(cls, targets: Tensor, num_classes: int = 0) -> Baseline:
        """Learn it from training targets: classes `(N,)`, or values `(N,)` or `(N, outputs)`."""
        if not targets.is_floating_point():
            return cls(tuple(torch.bincount(targets, minlength=num_classes).tolist()))
        values = targets.double().reshape(len(targets), -1).cpu().numpy()
        return cls(
            mean=tuple(values.mean(0).tolist()), median=tuple(np.median(values, axis=0).tolist())
        )

    def to_dict(self) -> dict[str, list[Any]]:
        """Return plain data for `result.json`."""
        return {name: list(value) for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Baseline:
        """Make one of what `to_dict` returned.

        Raises:
            InputError: If it is anything else.
        """
        return cls(**read_fields(cls, kept, "field of a baseline"))


def baseline_outputs(
    outputs: AnyOutputs, baseline: Baseline, metric: str | Metric = "accuracy"
) -> AnyOutputs:
    """Return what the baseline would have said about the same examples.

    Of a classification, the shares of the classes in the training part, so that the most frequent
    one is predicted; a class without a training example counts as half of one. Of a regression,
    the mean of the training part, or its median, which has the least absolute error, for "mae".

    Args:
        outputs: What a model said.
        baseline: Of the training part.
        metric: What it is to be judged by.

    Raises:
        InputError: If the baseline is of other classes or outputs.
    """
    name = metric if isinstance(metric, str) else metric.name
    if isinstance(outputs, Outputs):
        counts = baseline.class_counts
        if counts is None or len(counts) != outputs.num_classes:
            raise InputError(
                f"the baseline of outputs for {outputs.num_classes} classes must have as many "
                f"counts, got {'none' if counts is None else len(counts)}."
            )
        shares = torch.tensor(counts).double().clamp(min=0.5)
        logits = shares.log().expand(len(outputs), -1)
        return Outputs.of(logits, outputs.targets)
    centre = baseline.median if name == "mae" else baseline.mean
    width = outputs.targets.shape[1]
    if centre is None or len(centre) != width:
        raise InputError(
            f"the baseline of {width} outputs must have a value for each, got "
            f"{'none' if centre is None else len(centre)}."
        )
    said = torch.tensor(centre, dtype=torch.float64).expand(len(outputs), -1)
    return RegressionOutputs.of(said, outputs.targets)


def prevalence(outputs: Outputs) -> tuple[int, float]:
    """Return the most frequent class of the test part and its share."""
    counts = torch.bincount(outputs.targets, minlength=outputs.num_classes)
    return int(counts.argmax()), int(counts.max()) / len(outputs)


def prevalence_note(
    outputs: Outputs, class_names: Sequence[str], metric: str | Metric = "accuracy"
) -> str | None:
    """Recommend balanced accuracy in a sentence, where one class makes accuracy say little."""
    largest, share = prevalence(outputs)
    name = metric if isinstance(metric, str) else metric.name
    if share <= PREVALENT or name != "accuracy":
        return None
    called = class_names[largest] if largest < len(class_names) else str(largest)
    return (
        f"{100 * share:.1f} % of the test examples are of class '{called}', so that a model which "
        "always says so has that accuracy: metric=balanced-accuracy counts all classes alike."
    )


def few_note(
    outputs: Outputs, class_names: Sequence[str], metric: str | Metric = "accuracy"
) -> str | None:
    """Say in a sentence where a metric that counts all classes alike rests on few test examples."""
    name = metric if isinstance(metric, str) else metric.name
    counts = torch.bincount(outputs.targets, minlength=outputs.num_classes)
    there = counts.masked_fill(counts == 0, len(outputs) + 1)
    smallest, fewest = int(there.argmin()), int(there.min())
    if fewest >= FEW or name not in ("balanced-accuracy", "auroc", "macro-f1"):
        return None
    called = class_names[smallest] if smallest < len(class_names) else str(smallest)
    return (
        f"class '{called}' has {fewest} test example{'s' if fewest > 1 else ''}, on which "
        f"{METRICS[name].title} rests as much as on those of every other class: how much it "
        "varies from test set to test set is known only roughly, and is probably told too small."
    )

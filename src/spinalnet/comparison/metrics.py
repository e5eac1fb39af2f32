"""The metrics a comparison can be about, each as a mean of contributions of the test examples.

The mean of the contributions is the metric, and their variance over the examples divided by the
number of examples is the metric's own variance over test sets. A loss is such a mean as it stands.
The others are linearised: every example contributes the metric plus its influence on it, which is
what a delete-one jackknife finds to first order. AUROC has the placement values of DeLong, DeLong
and Clarke-Pearson (Biometrics 44, 1988). Within a class of few examples the influences are widened
by sqrt(m / (m - 1)), so that the variance of AUROC and of balanced accuracy is the unbiased one.

As the contributions of two models on the same examples can be subtracted, `gaps` has all that an
interval for their difference needs: seeds by examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spinalnet._checks import InputError, unknown_name
from spinalnet.comparison.outputs import AnyOutputs, Outputs, RegressionOutputs

Task = Literal["classification", "regression"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A row of `METRICS`.

    Attributes:
        name: As `--metric` says it.
        title: As a column says it.
        key: Its name under "test" in `result.json`.
        task: Of what models.
        higher_is_better: Whether it is a score, not a loss.
        in_points: Whether it is a share, printed times 100.
        margin: Differences below it do not matter; a fraction of what the baseline loses where
            `relative`.
        contribute: What `contributions` calls when the outputs have the metric.
        why_not: Why finite outputs of the task may lack it; None where none does.
        relative: See `margin`.
    """

    name: str
    title: str
    key: str
    task: Task
    higher_is_better: bool
    in_points: bool
    margin: float
    contribute: Callable[[Any], Floats]
    why_not: Callable[[Any], str | None] | None = None
    relative: bool = False

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """What it cannot be below and above: shares and areas are 0 to 1, losses not below 0."""
        if not self.higher_is_better:
            return 0.0, None
        return (None if self.name == "r2" else 0.0), 1.0

    def contributions(self, outputs: AnyOutputs) -> Floats:
        """Return what every test example contributes; the mean is the metric.

        Args:
            outputs: What one model said of m examples.

        Returns:
            Shape `(m,)`; see the head of this file.

        Raises:
            InputError: If the metric is not `available`.
        """
        if (reason := self.available(outputs)) is not None:
            raise InputError(f"{reason}.")
        return self.contribute(outputs)

    def value(self, outputs: AnyOutputs) -> float:
        """Return the metric; errors as of `contributions`."""
        return float(self.contributions(outputs).mean())

    def available(self, outputs: AnyOutputs) -> str | None:
        """Return why these outputs lack this metric, without a full stop; None if they have it."""
        task = "classification" if isinstance(outputs, Outputs) else "regression"
        if task != self.task:
            return f"{self.name} is a metric of a {self.task}, and this is a {task}"
        lost = len(outputs) - int(outputs.finite.sum())
        if lost:
            return f"the model's outputs for {lost} of {len(outputs)} test examples are no numbers"
        return None if self.why_not is None else self.why_not(outputs)

    def default_margin(self, baseline: float | None = None) -> float:
        """Return the largest difference that does not matter, in units of the metric.

        Args:
            baseline: What the baseline has; needed for losses only.

        Raises:
            InputError: If it is needed and is not a positive number.
        """
        if not self.relative:
            return self.margin
        if baseline is None or not math.isfinite(baseline) or baseline <= 0:
            raise InputError(
                f"the margin of {self.name} is by default {100 * self.margin:g} % of what the "
                f"baseline loses, and that is {baseline}: give --margin."
            )
        return self.margin * baseline


# --- classification -------------------------------------------------------------------------------


def _accuracy(outputs: Outputs) -> Floats:
    return outputs.correct.numpy().astype(np.float64)


def _log_loss(outputs: Outputs) -> Floats:
    return -outputs.log_likelihood.double().numpy()


def _no_log_loss(outputs: Outputs) -> str | None:
    lost = int(outputs.log_likelihood.isinf().sum())
    if not lost:
        return None
    return f"log-loss is infinite: the true class of {lost} test examples has probability 0"


def _around(value: float, influence: Floats) -> Floats:
    """Return contributions whose mean is `value` but for rounding."""
    return value + (influence - influence.mean())


def _widening(count: int, total: int) -> float:
    """Return what makes the variance within a class, taken over all examples, the unbiased one."""
    return math.sqrt(count / (count - 1) * (total - 1) / total) if count > 1 else 1.0


def _balanced_accuracy(outputs: Outputs) -> Floats:
    targets, correct = outputs.targets.numpy(), _accuracy(outputs)
    _, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
    recall = np.bincount(place, correct) / counts
    m, classes = len(targets), len(counts)
    weight = np.array([_widening(count, m) * m / (classes * count) for count in counts.tolist()])
    return _around(float(recall.mean()), weight[place] * (correct - recall[place]))


def _macro_f1(outputs: Outputs) -> Floats:
    """Linearise the mean over the classes met, among the targets or predictions, of 2 TP / (P + S).

    Like scikit-learn's `f1_score(average="macro")`.
    """
    true, said, correct = outputs.targets.numpy(), outputs.predicted.numpy(), _accuracy(outputs)
    m, size = len(true), outputs.num_classes
    hits = np.bincount(true, 2 * correct, size) / m
    met = (np.bincount(true, minlength=size) + np.bincount(said, minlength=size)) / m
    there = met > 0
    f1 = np.divide(hits, met, out=np.zeros(size), where=there)
    pull = np.divide(f1, met, out=np.zeros(size), where=there)
    influence = 2 * correct / met[true] - pull[true] - pull[said]
    return _around(float(f1[there].mean()), influence / there.sum())


def _auroc(outputs: Outputs) -> Floats:
    """DeLong's placement values; the mean of one class against the rest over the classes there."""
    targets = outputs.targets.numpy()
    m = len(targets)
    there = [1] if outputs.num_classes == 2 else np.unique(targets).tolist()
    value, influence = 0.0, np.zeros(m)
    for k in there:
        score, of_class = _scores(outputs, k), targets == k
        above, below = score[of_class], score[~of_class]
        parts = (
            (of_class, _share_below(above, below)),
            (~of_class, 1 - _share_below(below, above)),
        )
        area = float(parts[0][1].mean())
        for rows, placements in parts:
            count = len(placements)
            influence[rows] += _widening(count, m) * m / count * (placements - placements.mean())
        value += area / len(there)
    return _around(value, influence / len(there))


def _share_below(values: Floats, others: Floats) -> Floats:
    """Return of every value the share of `others` below it, equal ones counted half."""
    ranked = np.sort(others)
    low = np.searchsorted(ranked, values, side="left")
    return (low + np.searchsorted(ranked, values, side="right")) / (2 * len(others))


def _scores(outputs: Outputs, k: int) -> Floats:
    """Return what orders the examples by the probability of class `k`, all classes being kept.

    Many probabilities are 1 in float32 although the rest, which is kept too, still differs.
    """
    is_k = outputs.classes == k
    p = outputs.probabilities.double()
    score = (p * is_k).sum(1)
    rest = (p * ~is_k).sum(1)
    return torch.where(score >= 1.0, 1 - rest.log(), score).numpy()


def _no_auroc(outputs: Outputs) -> str | None:
    kept = outputs.classes.shape[1]
    if kept < outputs.num_classes:
        return (
            f"auroc needs the probability of every class, and outputs keep the {kept} most "
            f"probable of {outputs.num_classes}"
        )
    if len(outputs.targets.unique()) < 2:
        return "auroc needs two classes in the test part, and it has one"
    return None


# --- regression -----------------------------------------------------------------------------------


def _errors(outputs: RegressionOutputs) -> Floats:
    return (outputs.predictions.double() - outputs.targets.double()).numpy()  # (m, outputs)


def _mse(outputs: RegressionOutputs) -> Floats:
    return np.square(_errors(outputs)).mean(1)


def _mae(outputs: RegressionOutputs) -> Floats:
    return np.abs(_errors(outputs)).mean(1)


def _r2(outputs: RegressionOutputs) -> Floats:
    """Linearise 1 - SSE / SST, the mean over outputs; a constant output counts 1 if met, else 0."""
    squared = np.square(_errors(outputs))
    true = outputs.targets.double().numpy()
    around = np.square(true - true.mean(0))
    sse, sst = squared.mean(0), around.mean(0)
    varies = _varies(true)
    ratio = np.divide(sse, sst, out=np.where(sse > 0, 1.0, 0.0), where=varies)
    influence = np.divide(ratio * around - squared, sst, out=np.zeros_like(around), where=varies)
    return _around(float((1 - ratio).mean()), influence.mean(1))


def _varies(true: Floats) -> NDArray[np.bool_]:
    return np.ptp(true, axis=0) > 0


def _no_r2(outputs: RegressionOutputs) -> str | None:
    if _varies(outputs.targets.double().numpy()).any():
        return None
    return "r2 needs targets that differ, and those of the test part are all the same"


def _share(name: str, title: str, contributions: Any, why_not: Any = None) -> Metric:
    """Return the row of a share of a classification: half a point does not matter."""
    key = name.replace("-", "_")
    return Metric(name, title, key, "classification", True, True, 0.005, contributions, why_not)


def _loss(
    name: str, title: str, key: str, task: Task, contributions: Any, why_not: Any = None
) -> Metric:
    """Return the row of a loss: a hundredth of what the baseline loses does not matter."""
    return Metric(name, title, key, task, False, False, 0.01, contributions, why_not, relative=True)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _share("accuracy", "accuracy", _accuracy),
        _share("balanced-accuracy", "balanced accuracy", _balanced_accuracy),
        _share("auroc", "AUROC", _auroc, _no_auroc),
        _share("macro-f1", "macro F1", _macro_f1),
        _loss("log-loss", "log-loss", "loss", "classification", _log_loss, _no_log_loss),
        _loss("mse", "MSE", "mse", "regression", _mse),
        _loss("mae", "MAE", "mae", "regression", _mae),
        Metric("r2", "R²", "r2", "regression", True, False, 0.01, _r2, _no_r2),
    )
}

DEFAULT_METRIC: dict[str, str] = {"classification": "accuracy", "regression": "mse"}
"""By task; of tables of numbers, see `default_metric`."""


def default_metric(task: str, *, table: bool = False) -> Metric:
    """Return what a comparison is about if nothing is asked for: of tables of numbers, R²."""
    return METRICS["r2" if table and task == "regression" else DEFAULT_METRIC[task]]


def find_metric(name: str, task: str | None = None) -> Metric:
    """Return the metric of this name.

    Args:
        name: A key of `METRICS`.
        task: "classification" or "regression", if it must be for one.

    Raises:
        InputError: If there is none, or it is for the other task.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    if task is not None and METRICS[name].task != task:
        fitting = ", ".join(metric.name for metric in METRICS.values() if metric.task == task)
        raise InputError(f"metric {name} is not for a {task}: choose one of {fitting}.")
    return METRICS[name]


def measured(outputs: AnyOutputs) -> dict[str, float]:
    """Return all metrics that these outputs have, by their name in `result.json`."""
    return {
        metric.key: metric.value(outputs)
        for metric in METRICS.values()
        if metric.available(outputs) is None
    }


# --- two models -----------------------------------------------------------------------------------


def gaps(
    metric: Metric, first: Sequence[AnyOutputs], other: Sequence[AnyOutputs]
) -> NDArray[np.float64]:
    """Return the contributions of one contestant minus another's, seed by seed.

    Args:
        metric: What they are judged by.
        first: Outputs of one model per seed, all on the same examples.
        other: Those of the other's models, of the same seeds in the same order.

    Returns:
        Seeds by examples, `(n, m)`. Positive where the first is better, also for a loss; the mean
        of a row is the difference of that seed.

    Raises:
        InputError: If they are not about the same examples, or the metric is not available.
    """
    if len(first) != len(other) or not first:
        raise InputError(
            "differences need as many outputs of one contestant as of the other, at least one, "
            f"got {len(first)} and {len(other)}."
        )
    for outputs in (*first[1:], *other):
        _check_same(first[0], outputs)
    sign = 1 if metric.higher_is_better else -1
    return np.stack(
        [
            sign * (metric.contributions(ours) - metric.contributions(theirs))
            for ours, theirs in zip(first, other, strict=True)
        ]
    )


def mcnemar_counts(first: Outputs, other: Outputs) -> tuple[int, int]:
    """Return how many examples the first alone got right, and how many the other alone.

    Raises:
        InputError: If they are not about the same examples.
    """
    _check_same(first, other)
    return (
        int((first.correct & ~other.correct).sum()),
        int((other.correct & ~first.correct).sum()),
    )


def _check_same(one: AnyOutputs, other: AnyOutputs) -> None:
    """See that two outputs are about the same test examples."""
    same = type(one) is type(other) and torch.equal(one.targets, other.targets)
    for name in ("rows", "num_classes"):
        ours, theirs = getattr(one, name, None), getattr(other, name, None)
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
            same = same and torch.equal(ours, theirs)
        elif ours is not None and theirs is not None:
            same = same and ours == theirs
    if not same:
        raise InputError(
            f"models are compared on the same test examples, and these were tested on others "
            f"({len(one)} and {len(other)}): keep one folder per data set, or run them again."
        )


_TITLES = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "top5_accuracy": "top-5 accuracy",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
    "adaptive_ece": "calibration error, bins of equal counts",
}


def title_of(key: str) -> str:
    """Return what a number of `result.json` is called for people."""
    if key in _TITLES or key not in METRICS:
        return _TITLES.get(key, key.replace("_", " "))
    return METRICS[key].title

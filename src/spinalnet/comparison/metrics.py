"""Metrics as means of what each test example contributes, and the constant predictor as baseline.

A metric's contributions are numbers, one an example, whose mean is the metric and whose spread is
its variance over test sets: of accuracy the right answers themselves, of a metric that is no mean
(AUROC, F1, R2) its first-order influence values (for AUROC the placement values of DeLong, DeLong
and Clarke-Pearson, Biometrics 44, 1988). So one piece of statistics serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from spinalnet._checks import InputError, unknown_name
from spinalnet.comparison.outputs import AnyOutputs, Outputs, RegressionOutputs

Values = np.ndarray[Any, np.dtype[np.float64]]
Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Metric:
    """One row of `METRICS`.

    Attributes:
        name: As it is asked for.
        title: As a table says it.
        task: "classification" or "regression".
        higher_is_better: Whether it is no loss.
        in_points: Whether it is a share, printed times 100.
        contributions: From outputs of N examples to `(N,)` numbers, whose mean is the metric.
        margin: Differences up to this are equal for all purposes; None: `relative_margin` of what
            the baseline loses.
    """

    name: str
    title: str
    task: Task
    higher_is_better: bool
    in_points: bool
    contributions: Callable[[Any], Values]
    margin: float | None

    def value(self, outputs: AnyOutputs) -> float:
        """Return the metric; NaN where the model said nothing of an example."""
        return float(self.contributions(outputs).mean())

    def why_not(self, outputs: AnyOutputs) -> str | None:
        """Return why it cannot be had of these outputs, or None."""
        if (self.task == "regression") != isinstance(outputs, RegressionOutputs):
            return f"{self.name} is a metric of a {self.task}"
        if not isinstance(outputs, Outputs):
            return None
        if self.name == "auroc":
            if len(outputs.targets.unique()) < 2:
                return "auroc needs two classes among the test examples"
            if outputs.classes.shape[1] < outputs.num_classes:
                return (
                    f"auroc needs the probabilities of all {outputs.num_classes} classes, of which "
                    f"the {outputs.classes.shape[1]} highest are kept"
                )
        return None

    def default_margin(self, baseline: float | None) -> float:
        """Return what counts as equal where nothing else was asked; `baseline` is its value."""
        if self.margin is not None:
            return self.margin
        return RELATIVE_MARGIN * abs(baseline) if baseline else RELATIVE_MARGIN


RELATIVE_MARGIN = 0.01
"""Share of what the baseline loses that counts as equal, of a metric without a natural scale."""


def _numbers(values: torch.Tensor) -> Values:
    return values.detach().double().numpy()


def _accuracy(outputs: Outputs) -> Values:
    return np.where(_numbers(outputs.finite) > 0, _numbers(outputs.correct), np.nan)


def _by_class(outputs: Outputs) -> list[tuple[Values, Values]]:
    """Return, for every class that is among the targets, who is it and who is taken for it."""
    targets, said = _numbers(outputs.targets), _numbers(outputs.predicted)
    return [((targets == k).astype(float), (said == k).astype(float)) for k in np.unique(targets)]


def _balanced_accuracy(outputs: Outputs) -> Values:
    right = _accuracy(outputs)
    parts = []
    for true, _ in _by_class(outputs):
        recall = float((right * true).sum() / true.sum())
        parts.append(recall + true / true.mean() * (right - recall))
    return np.mean(parts, axis=0)


def _macro_f1(outputs: Outputs) -> Values:
    """F1 = 2 TP / (predicted + true), of every class that is among the targets."""
    unsaid = np.where(_numbers(outputs.finite) > 0, 0.0, np.nan)
    parts = []
    for true, said in _by_class(outputs):
        both, either = 2 * true * said, true + said
        f1 = float(both.sum() / either.sum())
        parts.append(f1 + (both - f1 * either) / either.mean())
    return np.mean(parts, axis=0) + unsaid


def _placements(scores: Values, positive: Values) -> Values:
    """Return the contributions to the AUROC of scores of positive and negative examples."""
    from scipy.stats import rankdata

    is_positive = positive > 0
    ups, downs = int(is_positive.sum()), int((~is_positive).sum())
    ranks = rankdata(scores)  # ties in the middle: half a win
    won = np.empty(len(scores))
    # Share of the negatives below each positive, and of the positives above each negative.
    won[is_positive] = (ranks[is_positive] - rankdata(scores[is_positive])) / downs
    won[~is_positive] = 1 - (ranks[~is_positive] - rankdata(scores[~is_positive])) / ups
    auroc = float(won[is_positive].mean())
    share = np.where(is_positive, ups, downs) / len(scores)
    return auroc + (won - auroc) / share


def _auroc(outputs: Outputs) -> Values:
    """Of two classes that of the second; of more the mean of each against the rest."""
    full = torch.zeros(len(outputs.targets), outputs.num_classes, dtype=torch.float64)
    full.scatter_(1, outputs.classes, outputs.probabilities.double())
    targets = _numbers(outputs.targets)
    present = [k for k in np.unique(targets).astype(int) if (targets == k).sum() < len(targets)]
    classes = [1] if outputs.num_classes == 2 else present
    parts = [_placements(_numbers(full[:, k]), (targets == k).astype(float)) for k in classes]
    return np.mean(parts, axis=0) + np.where(_numbers(outputs.finite) > 0, 0.0, np.nan)


def _log_loss(outputs: Outputs) -> Values:
    return -_numbers(outputs.log_likelihood)


def _errors(outputs: RegressionOutputs) -> Values:
    return _numbers(outputs.predictions) - _numbers(outputs.targets)


def _mse(outputs: RegressionOutputs) -> Values:
    return np.square(_errors(outputs)).mean(axis=1)


def _mae(outputs: RegressionOutputs) -> Values:
    return np.abs(_errors(outputs)).mean(axis=1)


def _r2(outputs: RegressionOutputs) -> Values:
    """1 - squared errors over squared distances to the test mean, of every output; their mean."""
    squares = np.square(_errors(outputs))
    targets = _numbers(outputs.targets)
    spread = np.square(targets - targets.mean(axis=0))
    total = spread.mean(axis=0)
    if not np.all(total > 0):  # constant targets: R2 says nothing of them
        return np.full(len(targets), np.nan)
    score = 1 - squares.mean(axis=0) / total
    return (score + ((1 - score) * spread - squares) / total).mean(axis=1)


METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        Metric("accuracy", "accuracy", "classification", True, True, _accuracy, 0.005),
        Metric(
            "balanced-accuracy",
            "balanced accuracy",
            "classification",
            True,
            True,
            _balanced_accuracy,
            0.005,
        ),
        Metric("auroc", "AUROC", "classification", True, True, _auroc, 0.005),
        Metric("macro-f1", "macro F1", "classification", True, True, _macro_f1, 0.005),
        Metric("log-loss", "log loss", "classification", False, False, _log_loss, None),
        Metric("mse", "mse", "regression", False, False, _mse, None),
        Metric("mae", "mae", "regression", False, False, _mae, None),
        Metric("r2", "R²", "regression", True, False, _r2, 0.01),
    )
}


def find_metric(name: str) -> Metric:
    """Return the row of `METRICS`.

    Raises:
        InputError: If there is none.
    """
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def gaps(metric: Metric, first: Sequence[AnyOutputs], other: Sequence[AnyOutputs]) -> Values:
    """Return what each example contributes to first minus other, `(repetitions, examples)`.

    Positive means that the first is better, also where the metric is a loss.

    Raises:
        InputError: If the outputs are not all of the same examples.
    """
    reference = first[0].targets
    for outputs in (*first, *other):
        if outputs.targets.shape != reference.shape or not torch.equal(outputs.targets, reference):
            raise InputError("runs can be paired by examples if all were tested on the same ones.")
    sign = 1.0 if metric.higher_is_better else -1.0
    pairs = zip(first, other, strict=True)
    return sign * np.stack([metric.contributions(a) - metric.contributions(b) for a, b in pairs])


def describe_targets(targets: torch.Tensor, num_classes: int | None = None) -> dict[str, Any]:
    """Return what the constant predictor knows of the training part, for `result.json`."""
    if not targets.is_floating_point():
        return {"class_counts": torch.bincount(targets.long(), minlength=num_classes or 0).tolist()}
    values = targets.double().reshape(len(targets), -1)
    return {"mean": values.mean(0).tolist(), "median": values.quantile(0.5, dim=0).tolist()}


def baseline_outputs(
    outputs: AnyOutputs, baseline: Mapping[str, Any], metric: Metric
) -> AnyOutputs:
    """Return what the constant predictor of the training part would have said.

    It gives every class its share of the training part, and so predicts the most frequent one; of
    numbers the mean, or for the mean absolute error the median.

    Args:
        outputs: Of a model on the same examples.
        baseline: What `describe_targets` returned of the training part.
        metric: What it is judged by.
    """
    if isinstance(outputs, RegressionOutputs):
        constant = baseline["median" if metric.name == "mae" else "mean"]
        values = torch.tensor(constant, dtype=outputs.targets.dtype).expand_as(outputs.targets)
        return replace(outputs, predictions=values)
    counts = torch.tensor(baseline["class_counts"], dtype=torch.float64)
    shares = (counts + 1e-9) / (counts + 1e-9).sum()
    said = Outputs.of(shares.log().expand(len(outputs.targets), -1), outputs.targets)
    return replace(said, paths=outputs.paths, rows=outputs.rows)


def prevalence(outputs: Outputs) -> float:
    """Return the share of the most frequent class among the test examples."""
    return float(torch.bincount(outputs.targets).max()) / len(outputs.targets)


def default_metric(task: str, *, is_table: bool) -> str:
    """Return the metric of a task, where none is asked for."""
    if task == "classification":
        return "accuracy"
    return "r2" if is_table else "mse"


def measured(outputs: AnyOutputs) -> dict[str, float | None]:
    """Return every metric that these outputs allow, by name; None where it is not finite."""
    found = {}
    for name, metric in METRICS.items():
        if metric.why_not(outputs) is None:
            value = metric.value(outputs)
            found[name.replace("-", "_")] = value if np.isfinite(value) else None
    return found

"""From the outputs of finished runs to estimates: first row minus each other, and rows minus none.

What is known decides the method: of one test part for all units the contributions of its examples
(seeds crossed with examples), of folds and splits one value each, of runs whose outputs were not
kept the seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spinalnet.comparison import inference
from spinalnet.comparison.baseline import Baseline, baseline_outputs
from spinalnet.comparison.finished import FinishedRuns, result_of
from spinalnet.comparison.inference import Estimate
from spinalnet.comparison.metrics import Metric, gaps
from spinalnet.comparison.outputs import OUTPUTS_FILE, AnyOutputs, load_outputs

Values = Mapping[str, float]  # by name of unit


@dataclass(frozen=True)
class Evidence:
    """What the runs of a comparison say under one metric.

    Attributes:
        metric: What they are judged by.
        values: The metric by row and unit, where it is finite.
        outputs: What runs said of the test examples, by row and unit; only where all runs of a
            comparison kept it.
        unusable: Names of runs without a finite value.
    """

    metric: Metric
    values: Mapping[str, Values]
    outputs: Mapping[str, Mapping[str, AnyOutputs]]
    unusable: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the outputs are known."""
        return bool(self.outputs)

    def any_outputs(self) -> AnyOutputs | None:
        """Return the outputs of some run."""
        return next((o for by_unit in self.outputs.values() for o in by_unit.values()), None)


def gather(comparison: FinishedRuns, metric: Metric) -> Evidence:
    """Read what all runs said, as far as it was kept."""
    outputs: dict[str, dict[str, AnyOutputs]] = {}
    complete = True
    for row, records in comparison.runs.items():
        for unit, record in records.items():
            if (record.path / OUTPUTS_FILE).exists():
                outputs.setdefault(row, {})[unit] = load_outputs(record.path / OUTPUTS_FILE)
            else:
                complete = False
    values: dict[str, dict[str, float]] = {}
    unusable = []
    for row, records in comparison.runs.items():
        for unit, record in records.items():
            said = outputs.get(row, {}).get(unit)
            if said is not None:
                value = metric.value(said) if metric.available(said) is None else math.nan
            else:
                kept = result_of(record)["test"].get(metric.key)
                value = math.nan if kept is None else float(kept)
            if math.isfinite(value):
                values.setdefault(row, {})[unit] = value
            else:
                unusable.append(record.path.name)
    return Evidence(metric, values, outputs if complete else {}, tuple(unusable))


def estimate(
    comparison: FinishedRuns,
    evidence: Evidence,
    first: str,
    other: str,
    margin: float,
    *,
    stopping: bool,
    comparisons: int,
) -> Estimate | None:
    """Estimate first minus other (positive: the first is better); None without a common unit."""
    ours, theirs = evidence.values.get(first, {}), evidence.values.get(other, {})
    units = [unit for unit in comparison.units if unit in ours and unit in theirs]
    said = None
    if evidence.kept:
        said = (
            [evidence.outputs[first][unit] for unit in units],
            [evidence.outputs[other][unit] for unit in units],
        )
    sign = 1.0 if evidence.metric.higher_is_better else -1.0
    differences = {unit: sign * (ours[unit] - theirs[unit]) for unit in units}
    scale = max((abs(v) for unit in units for v in (ours[unit], theirs[unit])), default=0.0)
    return _estimate(
        comparison, evidence.metric, differences, said, margin, stopping, comparisons, scale
    )


def against_baseline(
    comparison: FinishedRuns, evidence: Evidence, row: str, margin: float
) -> Estimate | None:
    """Estimate a row minus the constant predictor of its training parts."""
    units = [unit for unit in comparison.units if unit in evidence.values.get(row, {})]
    records = comparison.runs[row]
    known = [result_of(records[unit]).get("baseline") for unit in units]
    if not evidence.kept or not all(known) or not units:
        return None
    said = [evidence.outputs[row][unit] for unit in units]
    constant = [
        baseline_outputs(outputs, Baseline.from_dict(kept), evidence.metric)
        for outputs, kept in zip(said, known, strict=True)
        if kept
    ]
    sign = 1.0 if evidence.metric.higher_is_better else -1.0
    levels = {u: evidence.metric.value(o) for u, o in zip(units, constant, strict=True)}
    differences = {unit: sign * (evidence.values[row][unit] - levels[unit]) for unit in units}
    scale = max(abs(evidence.values[row][unit]) for unit in units)
    return _estimate(
        comparison, evidence.metric, differences, (said, constant), margin, False, 1, scale
    )


def baseline_value(comparison: FinishedRuns, evidence: Evidence) -> float | None:
    """Return the mean metric of the constant predictor over the units of the first row."""
    row, records = next(iter(comparison.runs.items()))
    values = []
    for unit, record in records.items():
        kept = result_of(record).get("baseline")
        if not evidence.kept or not kept:
            return None
        said = baseline_outputs(
            evidence.outputs[row][unit], Baseline.from_dict(kept), evidence.metric
        )
        if evidence.metric.available(said) is None:
            values.append(evidence.metric.value(said))
    return float(np.mean(values)) if values else None


def _estimate(
    comparison: FinishedRuns,
    metric: Metric,
    differences: Values,
    said: tuple[Sequence[AnyOutputs], Sequence[AnyOutputs]] | None,
    margin: float,
    stopping: bool,
    comparisons: int,
    scale: float,
) -> Estimate | None:
    if not differences:
        return None
    unit = 1.0 if metric.name == "accuracy" else None
    drawn = {name: comparison.units[name].resample for name in differences}
    options: dict[str, Any] = {"comparisons": comparisons}
    if any(part is not None for part in drawn.values()):
        by_split: dict[str, list[float]] = {}
        for name, value in differences.items():
            part = drawn[name]
            by_split.setdefault(name if part is None else part.name, []).append(value)
        means = [float(np.mean(values)) for values in by_split.values()]
        overlap = next(part.overlap for part in drawn.values() if part is not None)
        examples = _number_tested(said)
        if len(means) < 2:
            return _one(means, margin)
        return inference.splits(
            means, overlap, margin, examples=examples, unit=unit, scale=scale, **options
        )
    if said is not None and _same_examples([*said[0], *said[1]]):
        found = gaps(metric, *said)
        if len(found) == 1:
            return inference.single(found[0], margin, unit=unit)
        return inference.crossed(found, margin, stopping=stopping, unit=unit, **options)
    values = list(differences.values())
    if len(values) < 2:
        return _one(values, margin)
    return inference.seeds_only(values, margin, stopping=stopping, scale=scale, **options)


def _one(values: Sequence[float], margin: float) -> Estimate:
    """Return the estimate of one unit whose examples are not known."""
    nothing = dict.fromkeys(
        (
            *("low", "high", "seeds_low", "seeds_high", "p_difference", "p_equal", "effect"),
            *("dominant", "resolution", "more", "fewest", "examples"),
        )
    )
    return Estimate(mean=values[0], n=1, margin=margin, method="single", **nothing)  # type: ignore[arg-type]


def _same_examples(several: Sequence[AnyOutputs]) -> bool:
    first = several[0]
    return len(first) > 1 and all(torch.equal(one.targets, first.targets) for one in several)


def _number_tested(said: tuple[Sequence[AnyOutputs], Sequence[AnyOutputs]] | None) -> int | None:
    """Return how many different examples were tested on."""
    if said is None or any(one.rows is None for one in said[0]):
        return None
    return len(torch.cat([one.rows for one in said[0] if one.rows is not None]).unique())

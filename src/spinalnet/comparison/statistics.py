"""TODO(comparison.statistics): split from summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

ALPHA = 0.05
"""Level of the tests; the intervals hold 1 - ALPHA."""

Outcome = Literal["better", "worse", "none", "untested"]


@dataclass(frozen=True)
class Difference:
    """The first head minus another, over the seeds that both finished.

    Attributes:
        minus: The head that is subtracted.
        of: The head it is subtracted from (the first head of the comparison).
        mean: Mean of the paired differences, in units of the metric; None without a pair.
        low: Lower end of the 95 % t interval; None if it cannot be formed.
        high: Upper end of the interval.
        n: Number of seeds that both heads finished.
        p_value: Of the paired t test, uncorrected; None if there is no test.
        p_holm: The same after Holm's correction over all comparisons of the report.
        outcome: What the evidence says of the first head. "untested": no test was possible.
        verdict: The same in words.
    """

    minus: str
    of: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    p_value: float | None
    p_holm: float | None
    outcome: Outcome
    verdict: str


@dataclass(frozen=True)
class Units:
    """How values of the metric are compared and printed."""

    metric: str
    test_size: int | None

    @property
    def higher_is_better(self) -> bool:
        """Whether it is an accuracy, not an error."""
        return self.metric == "accuracy"

    @property
    def decimals(self) -> int:
        """Decimals of a percentage: two from 1,000 test examples on, else one."""
        return 2 if (self.test_size or 0) > 1000 else 1

    def value(self, value: float | None, *, unit: bool = True) -> str:
        """Print a value; accuracies in per cent."""
        if value is None:
            return "–"
        if self.metric != "accuracy":
            return f"{value:.4g}"
        return f"{100 * value:.{self.decimals}f}" + (" %" if unit else "")

    def differences(self, *values: float) -> list[str]:
        """Print differences without unit; enough digits that one off zero does not read as 0."""
        if self.metric != "accuracy":
            return [f"{value:.3g}" for value in values]
        points = [100 * value for value in values]
        smallest = min((abs(p) for p in points if abs(p) > 1e-9), default=1.0)
        decimals = min(self.decimals + 2, max(self.decimals, math.ceil(-math.log10(smallest))))
        return [f"{0.0 if abs(p) <= 1e-9 else p:.{decimals}f}" for p in points]

    def amount(self, value: float) -> str:
        """Print one difference with its unit."""
        (text,) = self.differences(value)
        return f"{text} points" if self.metric == "accuracy" else f"{text} ({self.metric})"


def paired_difference(
    first: str, other: str, by_first: Mapping[int, float], by_other: Mapping[int, float]
) -> Difference:
    """Analyse one pair of heads; `_correct` adds outcome and verdict once all are known."""
    pairs = [by_first[seed] - by_other[seed] for seed in sorted(by_first.keys() & by_other.keys())]
    n = len(pairs)
    mean = math.fsum(pairs) / n if n else None
    low = high = p_value = None
    if mean is not None and n >= 2 and not _all_equal(pairs, [*by_first.values()]):
        from scipy.stats import t

        error = math.sqrt(math.fsum((d - mean) ** 2 for d in pairs) / (n - 1) / n)
        half_width = float(t.ppf(1 - ALPHA / 2, n - 1)) * error
        low, high = mean - half_width, mean + half_width
        p_value = float(2 * t.sf(abs(mean) / error, n - 1))
    return Difference(other, first, mean, low, high, n, p_value, None, "untested", "")


def _all_equal(differences: Sequence[float], values: Sequence[float]) -> bool:
    """Whether the differences are equal but for the rounding of the values they came from."""
    scale = max(abs(value) for value in [*values, *differences])
    return max(differences) - min(differences) <= 1e-9 * scale


def _correct(differences: Sequence[Difference], units: Units) -> list[Difference]:
    """Add Holm-corrected p-values, outcomes and verdicts to the differences of a report."""
    holm = _holm([d.p_value for d in differences])
    corrected = []
    for d, p_holm in zip(differences, holm, strict=True):
        outcome: Outcome = "untested"
        if d.mean is not None and p_holm is not None:
            wins = (d.mean > 0) == units.higher_is_better
            outcome = "none" if p_holm >= ALPHA else "better" if wins else "worse"
        verdict = _verdict(d, outcome, units)
        corrected.append(
            Difference(**{**asdict(d), "p_holm": p_holm, "outcome": outcome, "verdict": verdict})
        )
    return corrected


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction; comparisons without a test are not counted."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        corrected[i] = running
    return corrected


def _verdict(d: Difference, outcome: Outcome, units: Units) -> str:
    """Say in words what one comparison shows."""
    if d.mean is None:
        return "not comparable: no seed that both heads finished (n=0)"
    ahead = d.of if (d.mean > 0) == units.higher_is_better else d.minus
    if d.low is None or d.high is None:
        if d.n == 1:
            seen = f"{ahead} ahead by {units.amount(abs(d.mean))}" if d.mean else "no difference"
            return f"no verdict from a single seed: {seen} (n=1)"
        if abs(d.mean) < 1e-12:
            return f"identical results in every seed (n={d.n})"
        return (
            f"{ahead} is ahead by the same {units.amount(abs(d.mean))} in every seed; "
            f"without spread there is no interval and no test (n={d.n})"
        )
    if outcome == "none":
        corrected = " after the Holm correction" if (d.p_value or 0) < ALPHA else ""
        return f"no evidence of a difference{corrected} (n={d.n})"
    near, far = sorted((abs(d.low), abs(d.high)))  # both ends lie on the winner's side of zero
    mean, near, far = units.differences(abs(d.mean), near, far)
    unit = " points" if units.metric == "accuracy" else f" in {units.metric}"
    return f"{ahead} is better by {mean}{unit} (95 % interval {near} to {far}, n={d.n})"

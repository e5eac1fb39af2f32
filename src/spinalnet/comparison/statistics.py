"""Numbers over repeated runs: means, spread, t intervals, paired tests, Holm's correction.

Functions of plain values; how a number is printed and what a verdict is called stands in `wording`,
what a comparison concludes in `inference`. Runs are compared in pairs (members of a pair share
split, order of the data, augmentation and initial trunk), by Student's t on their differences,
first minus other. Repeats that draw their training and test rows from one table overlap, and their
mean varies more than that of independent ones: `overlap` widens interval and p-value accordingly
(the corrected resampled t test of Nadeau and Bengio, "Inference for the generalization error",
Machine Learning 52, 2003).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", int, str)

ALPHA = 0.05
"""Level of the tests; the intervals hold 1 - ALPHA."""


@dataclass(frozen=True)
class PairedDifference:
    """The first of two contestants minus the other, over the repeats that both finished.

    Attributes:
        minus: The one that is subtracted.
        of: The one it is subtracted from (the first of the comparison).
        mean: Mean of the paired differences, in units of the metric; None without a pair.
        low: Lower end of the 95 % t interval; None if it cannot be formed.
        high: Upper end of the interval.
        n: Number of pairs.
        p_value: Of the paired t test, uncorrected; None if there is no test.
    """

    minus: str
    of: str
    mean: float | None
    low: float | None
    high: float | None
    n: int
    p_value: float | None


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the values that are finite numbers."""
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def mean(values: Sequence[float]) -> float | None:
    """Return the mean; None of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1); None of fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def half_width(std: float, n: int, *, overlap: float = 0.0, level: float = 1 - ALPHA) -> float:
    """Return half of the t interval of a mean.

    Args:
        std: Sample standard deviation of the values.
        n: Their number, at least 2.
        overlap: Test rows over training rows, where each value is of another random split of one
            table; 0 for independent values.
        level: Probability of the interval.
    """
    from scipy.special import stdtrit  # scipy.stats takes half a second to import

    return float(stdtrit(n - 1, 0.5 + level / 2)) * std * math.sqrt(1 / n + overlap)


def two_sided_p(center: float, std: float, n: int, *, overlap: float = 0.0) -> float:
    """Return the two-sided p-value of a mean against 0; arguments as of `half_width`."""
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(center) / (std * math.sqrt(1 / n + overlap))))


def is_constant(gaps: Sequence[float], values: Sequence[float]) -> bool:
    """Return whether `gaps` are equal but for the rounding of the `values` they came from."""
    scale = max(abs(value) for value in [*values, *gaps])
    return max(gaps) - min(gaps) <= 1e-9 * scale


def paired_difference(
    of: str,
    minus: str,
    first: Mapping[Key, float | None],
    other: Mapping[Key, float | None],
    *,
    overlap: float = 0.0,
) -> PairedDifference:
    """Compare two contestants by the repeats (seeds, splits) that gave both a finite value.

    Without spread, or with fewer than two pairs, there is neither interval nor test.

    Args:
        of: Name of the first.
        minus: Name of the other.
        first: Its values by repeat.
        other: Those of the other.
        overlap: See `half_width`.
    """
    common = sorted(first.keys() & other.keys())
    paired = [pair for k in common if len(pair := finite([first[k], other[k]])) == 2]
    gaps = [a - b for a, b in paired]
    center, std, n = mean(gaps), deviation(gaps), len(gaps)
    if center is None or std is None or is_constant(gaps, [v for pair in paired for v in pair]):
        return PairedDifference(minus, of, center, None, None, n, None)
    half = half_width(std, n, overlap=overlap)
    p = two_sided_p(center, std, n, overlap=overlap)
    return PairedDifference(minus, of, center, center - half, center + half, n, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's step-down correction; comparisons without a test are not counted."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, (len(tested) - rank) * p))
        corrected[i] = running
    return corrected

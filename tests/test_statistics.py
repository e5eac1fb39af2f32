"""Intervals, paired tests and corrections against scipy, and what no test can judge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from spinalnet.comparison.statistics import deviation, half_width, holm, mean, paired_difference

FIRST, OTHER = [0.9, 0.8, 0.95, 0.85], [0.8, 0.78, 0.85, 0.8]


def difference(first, other, overlap=0.0):
    return paired_difference(
        "a", "b", dict(enumerate(first)), dict(enumerate(other)), overlap=overlap
    )


def test_the_interval_of_a_mean_is_scipys():
    low, high = stats.t.interval(0.9, 3, np.mean(FIRST), stats.sem(FIRST))
    half = half_width(deviation(FIRST), 4, level=0.9)
    assert (mean(FIRST) - half, mean(FIRST) + half) == pytest.approx((low, high))
    assert mean([]) is None
    assert deviation([0.5]) is None


def test_independent_repeats_give_the_paired_t_test():
    found, truth = difference(FIRST, OTHER), stats.ttest_rel(FIRST, OTHER)
    assert found.p_value == pytest.approx(truth.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(truth.confidence_interval(0.95)))


def test_repeats_that_share_rows_are_corrected_for_that():
    found = difference(FIRST, OTHER, overlap=1 / 3)
    gaps = np.subtract(FIRST, OTHER)
    error = gaps.std(ddof=1) * np.sqrt(1 / 4 + 1 / 3)
    assert found.mean == pytest.approx(gaps.mean())
    assert found.high == pytest.approx(gaps.mean() + stats.t.ppf(0.975, 3) * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(gaps.mean() / error, 3))


@pytest.mark.parametrize("overlap", [0.0, 1 / 3])
@pytest.mark.parametrize(
    ("first", "other"),
    [
        ([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]),  # equal but for rounding
        ([1e6 + 0.3, 2e6 + 0.3], [1e6, 2e6]),  # whose rounding is that of the values
        ([1.0, 1.0], [0.5, 0.5]),
        ([1.0, 1.0], [1.0, 1.0]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([0.9], [0.5]),
        ([], []),
    ],
)
def test_without_spread_there_is_no_test(first, other, overlap):
    found = difference(first, other, overlap)
    assert (found.low, found.high, found.p_value) == (None, None, None)


def test_only_repeats_with_two_finite_values_are_paired():
    broken = [0.9, math.nan, 0.95, math.inf, None, 0.85, 0.7]
    found = difference(broken, [0.8, 0.7, 0.85, 0.7, 0.7, 0.8, None])
    assert found.n == 3
    assert found.mean == pytest.approx((0.1 + 0.1 + 0.05) / 3)
    assert found.p_value is not None
    assert difference([math.nan, math.nan], [0.5, 0.6]).mean is None


def test_holm_by_hand():
    # Sorted: 0.01 * 3, 0.03 * 2, then 0.04 * 1 raised to its predecessor.
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]

"""What the paired differences of a comparison say: estimates, and the five verdicts.

A comparison gives gaps, first minus other, signed by the caller so that positive means that the
first is better. Four functions make an `Estimate` of them: `crossed` (seeds by test examples),
`seeds_only` (nothing known of the examples), `splits` (folds and repeated splits of one sample) and
`single` (one run each). `judge` corrects the estimates of one report for their number and names
every verdict:

* *better*, *worse*: a difference is seen; Holm's p-value of a mean of 0 is below 5 %.
* *equal*: a difference of the margin or more is excluded; Holm's p-value of that is below 5 %.
* *undecided*: neither, with the reason.
* *nothing-learned*: no model beats the baseline (`learned`), so that heads are not compared.

The margin is fixed before the data are seen. A claim of equality needs the 95 % interval, not the
90 % one of two one-sided tests, so that the interval printed shows the verdict: it is wrong 2.5 %
of the time at most where the true difference is the margin. docs/statistics.md has the formulas and
how often each verdict is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from spinalnet._checks import InputError, check_positive
from spinalnet.comparison import chance
from spinalnet.comparison.chance import STOPPING_SHARE, Array, Inversion, Squares, further
from spinalnet.comparison.statistics import ALPHA, holm, two_sided_p

Code = Literal["better", "worse", "equal", "undecided", "nothing-learned"]
Method = Literal["crossed", "seeds", "splits", "stopping", "single"]
Reason = Literal[
    "no-pairs",  # no unit was finished by both
    "no-spread",  # the gaps are constant, so that nothing says how they vary
    "single",  # one run each: two trained models, not two heads
    "correction",  # decided but for the number of comparisons
    "more-seeds",  # `Estimate.more` further ones would probably decide
    "more-splits",
    "test-set-too-small",  # no number would: all leave an interval wider than the margin
    "too-close",  # to 0 or to the margin: no affordable number would probably decide
]


@dataclass(frozen=True)
class Estimate:
    """One comparison before the correction for the number of comparisons.

    Attributes:
        mean: Mean gap, first minus other; positive where the first is better.
        n: Number of units (seeds, splits).
        examples: Number of test examples, if known.
        low: Lower end of the 95 % interval that the verdict uses: every mean whose test has a
            p-value of 5 % or more. None without a test, as all further numbers.
        high: Upper end.
        seeds_low: Lower end of the interval for another run on the same test set.
        seeds_high: Upper end.
        p_difference: Two-sided p-value of a true mean of 0.
        p_equal: p-value of a true mean of the margin or more on either side; below 5 % if and only
            if [low, high] lies inside (-margin, margin).
        effect: Mean over the standard deviation between units.
        dominant: Which of seeds and examples makes more of the mean's variance.
        resolution: Half-width that infinitely many seeds would leave on this test set.
        more: Further units that would probably decide: the estimated mean and variances are
            carried forward. 0 if it is decided; None if 10,000 would not do.
        fewest: Smallest number of units at which this method can decide at all.
        margin: Below this a difference counts as none.
        method: How it was made; "stopping" for seeds added until something was seen.
    """

    mean: float
    n: int
    examples: int | None
    low: float | None
    high: float | None
    seeds_low: float | None
    seeds_high: float | None
    p_difference: float | None
    p_equal: float | None
    effect: float | None
    dominant: Literal["seeds", "examples"] | None
    resolution: float | None
    more: int | None
    fewest: int | None
    margin: float
    method: Method

    @property
    def tested(self) -> bool:
        """Whether there is a test, and with it an interval."""
        return self.p_difference is not None


@dataclass(frozen=True)
class Judgement:
    """What a report says of one comparison.

    Attributes:
        code: The verdict on the first of the two.
        p_holm: p-value of the difference, corrected for the number of comparisons.
        p_equal_holm: p-value of the equality, corrected likewise.
        seen: Whether a difference is seen although it lies below the margin (code "equal").
        reason: Why it is undecided; None otherwise.
    """

    code: Code
    p_holm: float | None
    p_equal_holm: float | None
    seen: bool = False
    reason: Reason | None = None


def crossed(
    gaps: ArrayLike,
    margin: float,
    *,
    stopping: bool = False,
    unit: float | None = None,
    comparisons: int = 1,
) -> Estimate:
    """Estimate a mean difference over seeds and test examples, both of which could be others.

    Args:
        gaps: (n seeds, m examples), n and m at least 2. What each example adds to the metric of the
            first minus that of the other, under each seed; the means of the rows are the paired
            differences of the metric.
        margin: Below this a difference counts as none, in units of the gaps.
        stopping: Whether seeds were, or might have been, added after a look at the result.
        unit: The most one example can add in one run: 1 for accuracy. By default 1 where all gaps
            are -1, 0 or 1, else the most that one did on the mean of the seeds. Without it,
            identical predictions say nothing.
        comparisons: How many comparisons the report makes (for `more` and `fewest`).

    Raises:
        InputError: If an argument is not finite or too small.
    """
    values = _gaps(gaps, margin, ndim=2, least=2)
    n, m = values.shape
    unit = _unit(values, unit)
    method = "stopping" if stopping else "crossed"
    if _constant(values) and not (unit and not values.any()):
        return _untested(float(values.mean()), n, m, margin, method)
    found = Squares.of(values, unit)
    mean, level = float(found.mean), _level(comparisons)

    def test(k: int) -> Inversion:
        squares = found if k == n else found.extrapolated(k)
        return Inversion(mean, margin, lambda at: chance.p_value(squares, at, stopping=stopping))

    seed, example, rest = (float(part) for part in found.components())
    deviation = np.sqrt(float(found.seeds_at_least()) / m)
    around = _seeds_p(mean, deviation, n, stopping=stopping)
    seeds_low, seeds_high = Inversion(mean, margin, around).interval(ALPHA)
    return _tested(
        test(n),
        n=n,
        examples=m,
        method=method,
        seeds_low=seeds_low,
        seeds_high=seeds_high,
        effect=_effect(values.mean(1)),
        dominant=_dominant(seed / n + rest / (n * m), example / m),
        resolution=float(chance.resolution(found, ALPHA * (STOPPING_SHARE if stopping else 1))),
        more=further(test, n, level),
        fewest=chance.fewest_anytime(level * STOPPING_SHARE) if stopping else 2,
    )


def seeds_only(
    gaps: ArrayLike,
    margin: float,
    *,
    stopping: bool = False,
    scale: float = 0.0,
    comparisons: int = 1,
) -> Estimate:
    """Estimate a mean difference over seeds where nothing is known of the test examples.

    Args:
        gaps: (n seeds,), n at least 2: the paired differences of the metric.
        margin: Below this a difference counts as none, in units of the gaps.
        stopping: As of `crossed`.
        scale: Largest absolute value of what the gaps are differences of; gaps that are constant
            but for the rounding of these values have no spread.
        comparisons: As of `crossed`.

    Raises:
        InputError: If an argument is not finite or too small.
    """
    values = _gaps(gaps, margin, ndim=1, least=2)
    n, mean, level = len(values), float(values.mean()), _level(comparisons)
    method = "stopping" if stopping else "seeds"
    if _constant(values, scale):
        return _untested(mean, n, None, margin, method)
    deviation = float(values.std(ddof=1))

    def test(k: int) -> Inversion:
        return Inversion(mean, margin, _seeds_p(mean, deviation, k, stopping=stopping))

    low, high = test(n).interval(ALPHA)
    return _tested(
        test(n),
        n=n,
        method=method,
        seeds_low=low,
        seeds_high=high,
        effect=mean / deviation,
        more=further(test, n, level),
        fewest=chance.fewest_anytime(level) if stopping else 2,
    )


def splits(
    gaps: ArrayLike,
    overlap: float,
    margin: float,
    *,
    examples: int | None = None,
    unit: float | None = None,
    scale: float = 0.0,
    comparisons: int = 1,
) -> Estimate:
    """Estimate a mean difference over folds or repeated splits of one sample.

    The corrected resampled t of Nadeau and Bengio: splits share training examples, so that their
    mean varies by the variance of the splits times (1 / k + overlap). An approximation, which no
    number of splits makes exact.

    Args:
        gaps: (k splits,), k at least 2; several seeds of one split are averaged by the caller.
        overlap: Test examples over training examples of a split; 1 / (K - 1) for K folds.
        margin: Below this a difference counts as none, in units of the gaps.
        examples: How many different examples were tested on, over all splits.
        unit: The most one example can contribute (1 for accuracy). With `examples`, fewer than
            four of them decide nothing, as in `crossed`.
        scale: As of `seeds_only`.
        comparisons: As of `crossed`.

    Raises:
        InputError: If an argument is not finite or too small.
    """
    values = _gaps(gaps, margin, ndim=1, least=2)
    if not (np.isfinite(overlap) and overlap > 0):
        raise InputError(
            f"the overlap of splits must be above 0 (test over training examples), got {overlap!r}."
        )
    _check_unit(unit)
    k, mean = len(values), float(values.mean())
    if _constant(values, scale):
        return _untested(mean, k, examples, margin, "splits")
    deviation = float(values.std(ddof=1))

    def test(k: int) -> Inversion:
        known = {"m": examples, "unit": unit} if examples and unit else {}
        p = partial(chance.p_splits, mean, deviation, k=k, overlap=overlap, **known)
        return Inversion(mean, margin, p)

    return _tested(
        test(k),
        n=k,
        examples=examples,
        method="splits",
        effect=mean / deviation,
        more=further(test, k, _level(comparisons)),
        fewest=2,
    )


def single(gaps: ArrayLike, margin: float, *, unit: float | None = None) -> Estimate:
    """Estimate the difference of two trained models on other test examples; no verdict on heads.

    Args:
        gaps: (m examples,), m at least 2: what each adds to the metric of the first minus that of
            the other. Where all are -1, 0 or 1, the p-value of a difference is McNemar's exact one.
        margin: Below this a difference counts as none, in units of the gaps.
        unit: As of `crossed`.

    Raises:
        InputError: If an argument is not finite or too small.
    """
    values = _gaps(gaps, margin, ndim=1, least=2)
    unit = _unit(values[None], unit)
    if _constant(values) and not (unit and not values.any()):
        return _untested(float(values.mean()), 1, len(values), margin, "single")
    found = Squares.of(values[None], unit)
    mean = float(found.mean)
    test = Inversion(mean, margin, lambda at: chance.p_examples(found, at))
    more: dict[str, Any] = {"n": 1, "examples": len(values), "method": "single"}
    more |= {"effect": _effect(values), "dominant": "examples"}
    if not _counts(values):
        return _tested(test, **more)
    # Of two tests of one hypothesis the milder counts, and the interval does not contradict it.
    told = _tested(test, **more)
    exact = mcnemar(values > 0, values < 0)
    p = exact if told.p_difference is None else max(exact, told.p_difference)
    if p >= ALPHA and told.low is not None and told.high is not None:
        told = replace(told, low=min(told.low, 0.0), high=max(told.high, 0.0))
    return replace(told, p_difference=p)


def mcnemar(correct: ArrayLike, other: ArrayLike) -> float:
    """Return McNemar's exact two-sided p-value of two trained models on the same test examples.

    Args:
        correct: Whether the first is right, by example.
        other: The same of the other.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(correct, dtype=bool), np.asarray(other, dtype=bool)
    if first.shape != second.shape or first.ndim != 1:
        raise InputError(
            "both models must have been tested on the same examples, got shapes "
            f"{first.shape} and {second.shape}."
        )
    won, lost = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def learned(estimates: Sequence[Estimate | None]) -> list[bool]:
    """Return which models are shown to beat the baseline.

    Each estimate is that of a model minus the baseline (the mean, the most frequent class). The
    tests are one-sided, at 5 %, with Holm's correction over the models. Where a difference has no
    spread and thus no test, its sign decides: nothing speaks against it.
    """
    one_sided = [None if e is None or e.p_difference is None else _one_sided(e) for e in estimates]
    return [
        e is not None and e.mean > 0 and (p is None or p < ALPHA)
        for e, p in zip(estimates, holm(one_sided), strict=True)
    ]


def judge(estimates: Sequence[Estimate | None], *, learned: bool = True) -> list[Judgement]:
    """Return the verdicts of one report, corrected for their number.

    Holm's correction is made over the differences, and over the equalities. A mean is not at once 0
    and the margin or more away from it: of the two hypotheses of a comparison one is true at most,
    so that each correction has at most as many true ones as there are comparisons, and either kind
    of false claim appears in 5 % of the reports at most.

    Args:
        estimates: All comparisons of the report; None where no unit was finished by both.
        learned: Whether any model beats the baseline; if not, heads are not compared.
    """
    counted = [e if e is not None and e.method != "single" else None for e in estimates]
    differences = holm([None if e is None else e.p_difference for e in counted])
    equalities = holm([None if e is None else e.p_equal for e in counted])
    return [
        Judgement("nothing-learned", p, q) if not learned else _judged(e, p, q)
        for e, p, q in zip(estimates, differences, equalities, strict=True)
    ]


def _judged(estimate: Estimate | None, p: float | None, q: float | None) -> Judgement:
    if estimate is None or p is None or q is None:
        return Judgement("undecided", p, q, reason=_untested_because(estimate))
    if q < ALPHA:
        return Judgement("equal", p, q, seen=p < ALPHA)
    if p < ALPHA:
        return Judgement("better" if estimate.mean > 0 else "worse", p, q)
    return Judgement("undecided", p, q, reason=_undecided_because(estimate))


def _untested_because(estimate: Estimate | None) -> Reason:
    if estimate is None:
        return "no-pairs"
    return "single" if estimate.method == "single" else "no-spread"


def _undecided_because(estimate: Estimate) -> Reason:
    assert estimate.p_difference is not None
    assert estimate.p_equal is not None
    if min(estimate.p_difference, estimate.p_equal) < ALPHA:
        return "correction"
    if estimate.more is not None:
        return "more-splits" if estimate.method == "splits" else "more-seeds"
    if estimate.resolution is not None and estimate.resolution >= estimate.margin:
        return "test-set-too-small"
    return "too-close"


def _tested(
    test: Inversion, *, n: int, method: Method, p_difference: float | None = None, **known: Any
) -> Estimate:
    """Return an estimate with interval and p-values of `test`; what is not known is None."""
    low, high = test.interval(ALPHA)
    missing = ("examples", "seeds_low", "seeds_high", "dominant", "resolution", "more", "fewest")
    return Estimate(
        mean=test.mean,
        n=n,
        low=low,
        high=high,
        p_difference=test.difference() if p_difference is None else p_difference,
        p_equal=test.equal(),
        margin=test.margin,
        method=method,
        **dict.fromkeys(missing) | known,
    )


def _untested(mean: float, n: int, examples: int | None, margin: float, method: Method) -> Estimate:
    """Return an estimate without a test."""
    known = {"mean": mean, "n": n, "examples": examples, "margin": margin, "method": method}
    nothing = dict.fromkeys(field.name for field in fields(Estimate))
    return Estimate(**cast("Any", nothing | known))


def _seeds_p(mean: float, deviation: float, n: int, *, stopping: bool) -> Callable[[float], float]:
    """Return the p-value of every true mean for seeds alone."""

    def p(at: float) -> float:
        if not stopping:
            return two_sided_p(mean - at, deviation, n)
        statistic = (mean - at) / (deviation / np.sqrt(n))
        return min(1.0, 1 / float(chance.e_value(statistic, n)))

    return p


def _level(comparisons: int) -> float:
    return ALPHA / check_positive("comparisons", comparisons)


def _one_sided(estimate: Estimate) -> float:
    assert estimate.p_difference is not None
    half = estimate.p_difference / 2
    return half if estimate.mean > 0 else 1 - half


def _dominant(seeds: float, examples: float) -> Literal["seeds", "examples"]:
    return "seeds" if seeds >= examples else "examples"


def _effect(values: Array) -> float | None:
    return None if _constant(values) else float(values.mean() / values.std(ddof=1))


def _constant(values: Array, scale: float = 0.0) -> bool:
    """Return whether values are equal but for rounding, theirs or that of a larger `scale`."""
    return bool(np.ptp(values) <= 1e-9 * max(float(np.abs(values).max()), scale))


def _counts(values: Array) -> bool:
    return bool(np.isin(values, (-1.0, 0.0, 1.0)).all())


def _check_unit(unit: float | None) -> None:
    if unit is not None and not (np.isfinite(unit) and unit > 0):
        raise InputError(f"what one example can add must be a number above 0, got {unit!r}.")


def _unit(values: Array, unit: float | None) -> float:
    """Return what one example can add, (n, m); 0 if that is not known, as all gaps are 0."""
    _check_unit(unit)
    if unit is None and values.any() and _counts(values):
        return 1.0
    # Not the largest of all gaps: with more seeds that grows, and more seeds would say less.
    return max(unit or 0.0, float(np.abs(values.mean(0)).max()))


def _gaps(gaps: ArrayLike, margin: float, *, ndim: int, least: int) -> Array:
    """Return the gaps as numbers; raise `InputError` if they cannot be judged."""
    values = np.asarray(gaps, dtype=np.float64)
    if values.ndim != ndim or min(values.shape) < least:
        kind = "seeds by examples" if ndim == 2 else "one a unit"
        raise InputError(
            f"gaps must be an array of {ndim} axes ({kind}), at least {least} along each, got "
            f"shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"gaps must be finite numbers, got {int((~np.isfinite(values)).sum())} that are not; "
            "leave out the units whose metric is not finite."
        )
    if not (np.isfinite(margin) and margin > 0):
        raise InputError(f"the margin of equality must be a number above 0, got {margin!r}.")
    return values

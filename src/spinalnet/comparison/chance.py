"""Tests of a mean difference under two sources of chance: training seeds and test examples.

Every (seed, example) pair gives one gap: what that example adds to the first contestant's metric
minus the other's, under that seed. Seeds and examples are crossed, as readers and cases are in
diagnostic studies, and another run would draw both anew:

    gap[s, i] = mean + seed[s] + example[i] + rest[s, i]
    variance of the mean = s2_seed / n + s2_example / m + s2_rest / (n m)

From the mean squares of the two-way layout this is (MS_seed + MS_example - MS_rest) / (n m), here
never below either main term, with Satterthwaite's degrees of freedom (Hillis, "A marginal-mean
ANOVA approach for analyzing multireader multicase radiological imaging data", Statistics in
Medicine 33, 2014). `p_value` asks whether the true mean could be `at`, and is the largest of three
p-values, so that a claim needs all three:

* the crossed one. Under a mean further out than the one seen more examples would disagree, so the
  variance is that of the constrained estimate (the score test, as Tango's for paired proportions;
  Statistics in Medicine 17, 1998), not the one seen, which is 0 where no example disagrees;
* Student's t over the seeds' means, which is exact where the examples do not matter;
* the rule of three: a share x of the population, in which one contestant gains `unit` per example,
  is missing from a test set with probability (1 - x)^m. Fewer than four examples decide nothing.

With `stopping`, seeds were added until something was seen. Over seeds, t is then replaced by the
anytime-valid t (the e-process of `e_value`: a confidence sequence, right at all n at once). The one
test set serves all looks, and no number of seeds averages it away. The bound is

    |mean - at|^2 > h_seed(alpha / 3, n)^2 + h_example(alpha / 3)^2

A union bound proves h_seed(alpha / 2, n) + h_example(alpha / 2), which is up to 1.4 times as wide
and wrong in 0.1 to 2.4 % where 5 % are allowed. This one has no such proof: with normal gaps, known
example variance and a look after every seed up to 10,000, it is wrong in about 4 % at most,
whatever the two variances (benchmarks/verdict_errors.py, "stopped, normal gaps").

All functions take arrays (simulations call them with thousands of comparisons at once).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SEED_DF_WEIGHT = 1.5
"""What the seeds' mean square counts in Satterthwaite's degrees of freedom.

As it is (1), a small mean square between few seeds makes both the variance and its uncertainty too
small at once: where seeds and examples matter alike, 5.8 % of the 95 % intervals of five seeds
missed. With 1.5 it is 4.9 %, and those intervals are a twentieth wider.
"""

STOPPING_SHARE = 1 / 3
"""What part of the level each of the two bounds gets under stopping; see above."""

MOST = 10_000
"""Seeds or splits that `further` looks ahead."""

SMALLEST_P = 1e-12  # what the search for a p-value under stopping can tell from 0


@dataclass(frozen=True)
class Squares:
    """What the tests need of the gaps of `n` seeds by `m` examples; arrays over comparisons.

    Attributes:
        n: Number of seeds; 1 for a single run, which has mean square `examples` only.
        m: Number of test examples.
        mean: Mean of all gaps.
        seeds: Mean square between seeds: m times the variance of the seeds' means.
        examples: Mean square between examples: n times the variance of the examples' means.
        rest: Mean square of what neither explains.
        typical: What one disagreeing example adds, at the examples' means: sum of squares over sum
            of absolute values, one example of size `unit` added to what was seen.
        unit: The most that one example can add in one run.
    """

    n: int
    m: int
    mean: Array
    seeds: Array
    examples: Array
    rest: Array
    typical: Array
    unit: Array

    @classmethod
    def of_sums(
        cls, rows: Array, squares: Array, bars: Array, sizes: Array, *, m: int, unit: ArrayLike
    ) -> Squares:
        """Build from sums.

        Args:
            rows: Means of the gaps of every seed, (..., n).
            squares: Sum of the squares of all gaps, (...).
            bars: Sum over the examples of the squares of their mean gaps, (...).
            sizes: Sum over the examples of the absolute values of their mean gaps, (...).
            m: Number of examples.
            unit: See the class.
        """
        n, unit = rows.shape[-1], np.asarray(unit, dtype=np.float64)
        mean = rows.mean(-1)
        between_seeds = m * np.square(rows - mean[..., None]).sum(-1)
        between_examples = np.maximum(n * (bars - m * mean**2), 0.0)
        rest = np.maximum(squares - n * m * mean**2 - between_seeds - between_examples, 0.0)
        return cls(
            n=n,
            m=m,
            mean=mean,
            seeds=between_seeds / max(n - 1, 1),
            examples=between_examples / (m - 1),
            rest=rest / max((n - 1) * (m - 1), 1),
            typical=(bars + unit**2) / (sizes + unit),
            unit=unit,
        )

    @classmethod
    def of(cls, gaps: Array, unit: float) -> Squares:
        """Build from the gaps, (n seeds, m examples)."""
        bars = gaps.mean(0)
        # Sums about the mean: those of squares lose digits where the mean is large.
        found = cls.of_sums(
            gaps.mean(1),
            np.square(gaps).sum(),
            np.square(bars).sum(),
            np.abs(bars).sum(),
            m=gaps.shape[1],
            unit=unit,
        )
        n, m = gaps.shape
        about = gaps - gaps.mean()
        examples = n * np.square(about.mean(0)).sum()
        rest = np.square(about - about.mean(0) - about.mean(1)[:, None]).sum()
        return replace(
            found,
            examples=np.asarray(examples / (m - 1)),
            rest=np.asarray(rest / max((n - 1) * (m - 1), 1)),
        )

    def seeds_at_least(self) -> Array:
        """Return the mean square between seeds, at least what one example in one seed makes.

        Means of few seeds agree by accident, most of all where an accuracy counts few errors.
        """
        return np.maximum(self.seeds, self.unit**2 / (self.m * self.n))

    def components(self) -> tuple[Array, Array, Array]:
        """Return the variances of seed, example and rest, none below 0."""
        seed = np.maximum(self.seeds_at_least() - self.rest, 0.0) / self.m
        return seed, np.maximum(self.examples - self.rest, 0.0) / self.n, self.rest

    def extrapolated(self, n: int) -> Squares:
        """Return what `n` seeds would give on average, were the variances the estimated ones."""
        seed, example, rest = self.components()
        seeds, examples = self.m * seed + rest, n * example + rest
        return replace(self, n=n, seeds=seeds, examples=examples)


def _two_sided(statistic: Array, df: ArrayLike) -> Array:
    from scipy.special import stdtr

    return 2 * stdtr(df, -np.abs(statistic))


def _quantile(alpha: ArrayLike, df: ArrayLike) -> Array:
    """Return Student's t that is exceeded, on either side, with probability `alpha`."""
    from scipy.special import stdtrit

    return -stdtrit(df, np.asarray(alpha) / 2)


def _ratio(distance: Array, variance: Array) -> Array:
    """Return distance over deviation; 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / np.sqrt(variance))


def example_variance(found: Squares, at: float | Array) -> Array:
    """Return the part of the mean's variance that the examples make, if the true mean were `at`.

    Disagreements in favour of either side are two Poisson counts with total D and difference d.
    Their most likely total under another difference u is (D + sqrt(D^2 + 4 u (u - d))) / 2. For a
    mean between 0 and the one seen that would be less than D; there D is kept.
    """
    at = np.asarray(at, dtype=np.float64)
    total = found.examples / (found.n * found.typical)
    further = np.maximum(at * (at - found.mean), 0.0)
    return found.typical * (total + np.sqrt(total**2 + 4 * further)) / 2 / found.m


def e_value(statistic: ArrayLike, n: int, *, g: float = 1.0) -> Array:
    """Return the evidence of n values against mean 0, given their t, whatever n was stopped at.

    The Bayes factor of a normal effect of variance g (in units of the values' variance), with the
    scale integrated out: a non-negative martingale from 1 under the null, so that it ever exceeds
    1 / alpha with probability alpha at most.
    """
    t2, v, c = np.square(statistic), n - 1, 1 + n * g
    ratio = (1 + t2 / v) / (1 + t2 / (v * c))
    return np.asarray(ratio ** ((v + 1) / 2) / np.sqrt(c))


def anytime_t(n: ArrayLike, alpha: ArrayLike, *, g: float = 1.0) -> Array:
    """Return the t at which `e_value` is 1 / alpha; infinite where n is too small for that."""
    n = np.asarray(n, dtype=np.float64)
    v, c = n - 1, 1 + n * g
    r = (np.sqrt(c) / np.asarray(alpha, dtype=np.float64)) ** (2 / (v + 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(r < c, np.sqrt(v * (r - 1) / (1 - r / c)), np.inf)


def fewest_anytime(alpha: float) -> int:
    """Return the smallest n at which any t, however large, is evidence at level `alpha`."""
    return next(n for n in range(2, 1000) if np.isfinite(anytime_t(n, alpha)))


def half_width_anytime(found: Squares, at: float | Array, alpha: ArrayLike) -> Array:
    """Return how far the mean may lie from `at` with every number of seeds; see the module."""
    part = np.asarray(alpha) * STOPPING_SHARE
    deviation = np.sqrt(found.seeds_at_least() / (found.n * found.m))
    from_seeds = anytime_t(found.n, part) * deviation
    return np.hypot(from_seeds, half_width_examples(found, at, part))


def half_width_examples(found: Squares, at: float | Array, alpha: ArrayLike) -> Array:
    """Return how far the mean may lie from `at` for the sake of the test examples alone."""
    spread = _quantile(alpha, found.m - 1) * np.sqrt(example_variance(found, at))
    return np.maximum(spread, found.unit * (1 - (np.asarray(alpha) / 2) ** (1 / found.m)))


def resolution(found: Squares, alpha: float) -> Array:
    """Return the half-width that infinitely many seeds would leave, about a mean of 0.

    There the score interval is the root of the sum of squares of Student's and of t^2 `typical` / m
    (what it comes to where no example disagrees).
    """
    t, example = _quantile(alpha, found.m - 1), found.components()[1]
    spread = np.hypot(t * np.sqrt(example / found.m), t**2 * found.typical / found.m)
    return np.maximum(spread, found.unit * (1 - (alpha / 2) ** (1 / found.m)))


def p_examples(found: Squares, at: float | Array) -> Array:
    """Return the p-value of a true mean of `at` with the seeds as they are: another test set."""
    return _beyond_0(_p_examples, found, at)


def _p_examples(found: Squares, at: float | Array) -> Array:
    distance = np.abs(found.mean - at)
    p = _two_sided(_ratio(distance, example_variance(found, at)), found.m - 1)
    return np.maximum(p, p_missing(distance, found.unit, found.m))


def p_seeds(found: Squares, at: float | Array) -> Array:
    """Return the p-value of a true mean of `at` on this test set: other seeds."""
    variance = found.seeds_at_least() / (found.n * found.m)
    return _two_sided(_ratio(np.abs(found.mean - at), variance), found.n - 1)


def p_value(found: Squares, at: float | Array, *, stopping: bool = False) -> Array:
    """Return the two-sided p-value of a true mean of `at`: other seeds, another test set."""
    return _beyond_0(_p_anytime if stopping else _p_fixed, found, at)


def _beyond_0(
    p_of: Callable[[Squares, float | Array], Array], found: Squares, at: float | Array
) -> Array:
    """Return the p-value of `at`; beyond 0, seen from the mean, none is larger than that of 0.

    Gaps that are all much alike vary less than counts of disagreements can, and the variance under
    a mean on the other side of 0 would jump.
    """
    p = p_of(found, at)
    beyond = np.asarray(at * found.mean < 0)
    return np.where(beyond, np.minimum(p, p_of(found, 0.0)), p) if beyond.any() else p


def _p_fixed(found: Squares, at: float | Array) -> Array:
    distance = np.abs(found.mean - at)
    total, df = _crossed(found, example_variance(found, at) * found.n * found.m)
    # What is added under a mean further out is no estimate: it takes no degrees of freedom away.
    df = np.maximum(df, _crossed(found, found.examples)[1])
    crossed = _two_sided(_ratio(distance, total / (found.n * found.m)), df)
    p = np.maximum(crossed, p_seeds(found, at))
    return np.maximum(p, p_missing(distance, found.unit, found.m))


def _crossed(found: Squares, examples: Array) -> tuple[Array, Array]:
    """Return n m times the variance of the mean, and its degrees of freedom (Satterthwaite)."""
    n, m, seeds = found.n, found.m, found.seeds_at_least()
    both = seeds + examples - found.rest
    total = np.maximum(both, np.maximum(seeds, examples))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = SEED_DF_WEIGHT * seeds**2 / (n - 1) + examples**2 / (m - 1)
        df = total**2 / (terms + found.rest**2 / ((n - 1) * (m - 1)))
    df = np.maximum(df, min(n, m) - 1)
    return total, np.where(total > both, np.where(seeds >= examples, n - 1, m - 1), df)


def p_splits(
    mean: Any, deviation: Any, at: float, *, k: int, overlap: float, unit: float = 1.0, m: int = 0
) -> Any:
    """Return the p-value of a true mean of `at`, given k overlapping splits of one sample.

    The corrected resampled t (Nadeau and Bengio, "Inference for the generalization error", Machine
    Learning 52, 2003), and the rule of three over the m different examples that were tested on (0:
    not known).
    """
    distance = np.abs(mean - at)
    p = _two_sided(_ratio(distance, np.square(deviation) * (1 / k + overlap)), k - 1)
    return np.maximum(p, p_missing(distance, unit, m)) if m else p


def p_missing(distance: Any, unit: Any, m: int) -> Any:
    """Return twice the probability that m examples miss a share of the population.

    The share is the one which, at `unit` per example, makes a difference of `distance`.
    """
    return 2 * np.maximum(1 - distance / unit, 0.0) ** m


def _p_anytime(found: Squares, at: float | Array) -> Array:
    """Return the smallest level at which the mean lies outside the anytime bound, by bisection."""
    distance = np.abs(found.mean - at)
    low = np.full_like(distance, np.log(SMALLEST_P))
    high = np.zeros_like(distance)
    for _ in range(50):
        middle = (low + high) / 2
        outside = distance > half_width_anytime(found, at, np.exp(middle))
        low, high = np.where(outside, low, middle), np.where(outside, middle, high)
    return np.where(distance > half_width_anytime(found, at, 1.0), np.exp(high), 1.0)


@dataclass(frozen=True)
class Inversion:
    """A mean, and the p-value of every true mean that it might have: interval and two claims.

    Attributes:
        mean: What was seen.
        margin: Below this a difference counts as none.
        p: The p-value of a true mean; 1 at what was seen, and falling to both sides.
    """

    mean: float
    margin: float
    p: Callable[[float], Any]

    def difference(self) -> float:
        """Return the p-value of a true mean of 0."""
        return min(float(self.p(0.0)), 1.0)

    def equal(self) -> float:
        """Return the p-value of a true mean of the margin or more, on either side."""
        if abs(self.mean) >= self.margin:
            return 1.0
        return min(max(float(self.p(self.margin)), float(self.p(-self.margin))), 1.0)

    def decides(self, level: float) -> bool:
        """Return whether one of the two is excluded at this level."""
        return self.difference() < level or self.equal() < level

    def interval(self, alpha: float) -> tuple[float | None, float | None]:
        """Return the ends of the interval of all means not excluded; None where it has no end."""
        ends = [self._end(-1, alpha), self._end(1, alpha)]
        return (None, None) if None in ends else (ends[0], ends[1])

    def _end(self, side: int, alpha: float) -> float | None:
        from scipy.optimize import brentq

        def over(distance: float) -> float:
            return float(self.p(self.mean + side * distance)) - alpha

        reach = self.margin
        while over(reach) >= 0:
            reach *= 2
            if reach > 1e12 * self.margin + 1e12 * abs(self.mean):
                return None
        return self.mean + side * cast("float", brentq(over, 0.0, reach, xtol=1e-12 * reach))


def further(test: Callable[[int], Inversion], n: int, level: float) -> int | None:
    """Return the smallest number of further units at which a test decides; None beyond `MOST`."""
    if test(n).decides(level):
        return 0
    short, enough = n, n + 1
    while not test(enough).decides(level):
        if enough >= n + MOST:
            return None
        short, enough = enough, min(n + 2 * (enough - n), n + MOST)
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if test(middle).decides(level) else (middle, enough)
    return enough - n

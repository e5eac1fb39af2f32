"""What comparisons on several data sets say together: ranks, equivalence, chance of improvement.

Plain arrays in, plain numbers out. Scores are better the higher they are; of every data set what
counts is the mean over its units, and data sets count alike.

- Mean ranks with Friedman's test, and the critical difference of Nemenyi's (Demsar, "Statistical
  comparisons of classifiers over multiple data sets", JMLR 7, 2006).
- The Bayesian signed-rank test with a region of practical equivalence (Benavoli, Corani, Demsar,
  Zaffalon, "Time for a change", JMLR 18, 2017).
- The interquartile mean and the probability of improvement, with intervals of the bootstrap
  stratified by data set (Agarwal et al., "Deep reinforcement learning at the edge of the
  statistical precipice", NeurIPS 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spinalnet._checks import InputError

ROPE = 0.01
"""Half the width of the region of practical equivalence, in accuracy or R2."""

Scores = np.ndarray

PART = 200  # draws of the bootstrap at once


@dataclass(frozen=True)
class Ranks:
    """How heads rank over data sets.

    Attributes:
        mean: Mean rank of every head, 1 for the best; ties share theirs.
        p_value: Of Friedman's test that all rank alike; None with fewer than three heads.
        critical: Mean ranks further apart than this differ (Nemenyi, at 0.05).
        tables: Number of data sets on which all heads have a score.
    """

    mean: tuple[float, ...]
    p_value: float | None
    critical: float
    tables: int

    def cliques(self) -> list[tuple[int, ...]]:
        """Return the largest groups of heads, by place, whose ranks do not differ."""
        order = sorted(range(len(self.mean)), key=lambda head: self.mean[head])
        found: list[tuple[int, ...]] = []
        for start in range(len(order)):
            end = start
            while (
                end + 1 < len(order)
                and self.mean[order[end + 1]] - self.mean[order[start]] <= self.critical
            ):
                end += 1
            group = tuple(order[start : end + 1])
            if len(group) > 1 and not any(set(group) <= set(other) for other in found):
                found.append(group)
        return found


def ranks(scores: Scores) -> Ranks:
    """Rank heads over data sets.

    Args:
        scores: `(data sets, heads)`; a data set on which one is missing (NaN) is left out.

    Raises:
        InputError: If there are not two data sets and two heads.
    """
    from scipy import stats

    whole = np.asarray(scores, dtype=float)
    whole = whole[np.isfinite(whole).all(axis=1)]
    tables, heads = whole.shape
    if tables < 2 or heads < 2:
        raise InputError(
            f"ranks need two data sets with a score of every head, and two heads; got {tables} and "
            f"{heads}."
        )
    each = stats.rankdata(-whole, axis=1)
    p_value = None
    if heads > 2:
        alike = bool((each == each[:, :1]).all())
        p_value = 1.0 if alike else float(stats.friedmanchisquare(*whole.T).pvalue)
    quantile = float(stats.studentized_range.ppf(0.95, heads, np.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(heads * (heads + 1) / (6 * tables))
    return Ranks(tuple(each.mean(axis=0).tolist()), p_value, critical, tables)


@dataclass(frozen=True)
class Chances:
    """Probabilities that the first is better, both are equal for practical purposes, or worse."""

    better: float
    equal: float
    worse: float


def signed_rank(
    differences: Sequence[float], rope: float = ROPE, *, draws: int = 50_000, seed: int = 0
) -> Chances:
    """Ask of data sets like these whether the first head would be better, equal or worse.

    The differences `z` are given random weights `w` from a Dirichlet distribution, together with
    one more of 0 whose weight counts half (the prior). A draw is won by "better" if, of all pairs,
    those with `(z_i + z_j) / 2 > rope` have the greatest weight `w_i w_j`; likewise by the others.

    Args:
        differences: First minus second, one number per data set.
        rope: Half the width of the region of practical equivalence.
        draws: Number of draws.
        seed: Of the draws.

    Raises:
        InputError: If there is no difference, or it is no number.
    """
    z = np.asarray(differences, dtype=float)
    if not z.size or not np.isfinite(z).all():
        raise InputError("the signed-rank test needs a finite difference for every data set.")
    z = np.concatenate([[0.0], z])
    means = (z[:, None] + z[None, :]) / 2.0
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet([0.5, *np.ones(len(z) - 1)], size=draws)
    regions = (means > rope, np.abs(means) <= rope, means < -rope)
    shares = np.stack(
        [np.einsum("ni,ij,nj->n", weights, region.astype(float), weights) for region in regions]
    )
    won = np.bincount(shares.argmax(0), minlength=3) / draws
    return Chances(*map(float, won))


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def interquartile_mean(units: Sequence[Scores]) -> np.ndarray:
    """Return the mean of the middle half of all scores, `(..., units)` for each data set."""
    values = np.sort(np.concatenate([np.asarray(one, dtype=float) for one in units], axis=-1))
    size = values.shape[-1]
    cut = size // 4  # as scipy's trimmed mean, and rliable, cut it
    return values[..., cut : size - cut].mean(axis=-1)


def probability_of_improvement(first: Sequence[Scores], second: Sequence[Scores]) -> np.ndarray:
    """Return how probably a run of the first beats one of the second, on a data set of these.

    Args:
        first: Scores of the units of every data set, `(..., units)`.
        second: The same of the other head.
    """
    won = []
    for a, b in zip(map(np.asarray, first), map(np.asarray, second), strict=True):
        mine, other = a[..., :, None], b[..., None, :]
        won.append(((mine > other) + 0.5 * (mine == other)).mean(axis=(-2, -1)))
    return np.mean(won, axis=0)


def bootstrap(
    statistic: Callable[..., np.ndarray], *units: Sequence[Scores], draws: int = 2000, seed: int = 0
) -> Interval:
    """Return a statistic with its percentile interval: units are drawn anew, data set by data set.

    Args:
        statistic: Takes what `units` are, and returns a number; of scores `(draws, units)`, one for
            each draw.
        units: One sequence or more of the units of every data set, `(units,)` each.
        draws: Number of draws.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    arrays = [[np.asarray(one, dtype=float) for one in several] for several in units]
    drawn = [
        [one[generator.integers(len(one), size=(draws, len(one)))] for one in several]
        for several in arrays
    ]
    found = [  # in parts, since what is compared with all grows with the square of the units
        statistic(*([one[start : start + PART] for one in several] for several in drawn))
        for start in range(0, draws, PART)
    ]
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Interval(float(statistic(*arrays)), float(low), float(high))

"""Simulate comparisons whose truth is known, and count how often their verdicts are wrong.

    OMP_NUM_THREADS=1 python benchmarks/verdict_errors.py [--cells BEGINNING ...] [--out FILE]

Writes benchmarks/results/verdict-errors.json, from which docs/statistics.md is made. The same
command goes on where it was stopped.

Whether a head is right on an example, under a seed, is a probit model: the sum of what the example
is to all heads, what it is to this head, what the seed is to this head, and the rest, against a
threshold. The four variances sum to 1, so that the threshold sets the expected accuracy exactly;
two heads differ by exactly 0 or exactly the margin. Every comparison draws new seeds and a new test
set. Counted are:

* false differences ("better" or "worse") where the true difference is 0;
* false equalities where it is the margin;
* intervals that hold the difference, where it is the margin;
* equalities where it is 0: not an error, but what the method can do.

Cells, by the beginning of their names: "fixed" (a number of seeds fixed in advance), "stopped" (a
look after every seed from 3 to 60, counted if any look is wrong: no rule of stopping does worse),
"family" (one head against four, with Holm's correction: wrong if one of the four is), "splits"
(folds and repeated splits of one sample: real classifiers are fitted anew to fresh samples),
"losses" (gaps with long tails: Student's t with 3 degrees of freedom, and log-normal ones, whose
skewness the method does not allow for: these are told, not held to the criterion).

The criterion: an error rate is 5 % plus two Monte Carlo standard errors at most; an interval with
n fixed holds in 93 to 98 %. Of the many cells whose true rate is 5 %, one in forty exceeds that by
accident, so that a cell that does is drawn again with four times as many new comparisons; these
count, and what was found first stays beside it.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from command_line import new_parser
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from spinalnet.comparison.chance import (
    MOST,
    STOPPING_SHARE,
    Squares,
    anytime_t,
    half_width_anytime,
    p_splits,
    p_value,
)
from spinalnet.comparison.statistics import ALPHA, holm
from spinalnet.files import to_json, write_text
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "verdict-errors.json"
REPETITIONS = 10_000
SEEDS = (2, 3, 5, 10, 20)
LOOKS = range(3, 61)
AT_ONCE = 2_000_000  # latent numbers drawn at a time
FOUR = 4

Array = NDArray[Any]
Rates = dict[str, Any]
# Shares of the latent variance by seed, example (of one head) and rest; the other examples' effect
# is that of all heads.
GRID = list(product((0.0, 0.005, 0.05), (0.0, 0.05, 0.25), (0.05, 0.3)))
SOME = [(0.0, 0.0, 0.3), (0.0, 0.25, 0.05), (0.005, 0.05, 0.3), (0.005, 0.25, 0.05)]
SOME += [(0.05, 0.0, 0.05), (0.05, 0.25, 0.3)]


@dataclass(frozen=True)
class Probit:
    """A population of heads and examples."""

    m: int
    accuracy: float
    seed: float
    example: float
    rest: float
    margin: float

    def describe(self) -> Rates:
        return dict(vars(self))


def margin_of(m: int, accuracy: float) -> float:
    """Return a margin that can be decided on m examples: the default one, or a wider one."""
    if m >= 10_000 or (m >= 1000 and accuracy >= 0.99):
        return 0.005
    return {150: 0.05, 360: 0.03, 1000: 0.015}[m]


def draw(
    rng: np.random.Generator, world: Probit, count: int, seeds: int, others: int = 1
) -> Iterator[list[Array]]:
    """Yield latent values (c, seeds, m) of a head and of `others`, until `count` comparisons."""
    m, left = world.m, count
    shared = 1 - world.seed - world.example - world.rest
    scale = {k: np.float32(np.sqrt(v)) for k, v in (*vars(world).items(), ("shared", shared))}
    normal = partial(rng.standard_normal, dtype=np.float32)
    while left:
        c = min(left, max(1, AT_ONCE // (seeds * m)))
        left -= c
        common = scale["shared"] * normal((c, 1, m))
        heads = []
        for _ in range(1 + others):
            latent = normal((c, seeds, m))
            latent *= scale["rest"]
            latent += common + scale["example"] * normal((c, 1, m))
            latent += scale["seed"] * normal((c, seeds, 1))
            heads.append(latent)
        yield heads


def gaps_of(first: Array, other: Array, world: Probit, difference: float) -> Array:
    """Return whether the first is right minus whether the other is, in whole numbers."""
    right = first > -np.float32(ndtri(world.accuracy))
    other_right = other > -np.float32(ndtri(world.accuracy - difference))
    return right.view(np.int8) - other_right.view(np.int8)


class Sums:
    """The sums of `Squares`, seed after seed, over chunks of comparisons."""

    def __init__(self, numbers: tuple[int, ...] | range):
        self.numbers = numbers
        self.parts: dict[int, list[tuple[Array, ...]]] = {n: [] for n in numbers}

    def add(self, gaps: Array) -> None:
        rows = gaps.sum(2, dtype=np.int32)
        squares = np.abs(gaps).sum(2, dtype=np.int32).cumsum(1)
        total, done, m = np.zeros(gaps[:, 0].shape, np.int16), 0, gaps.shape[2]
        for n in self.numbers:
            total = total + gaps[:, done:n].sum(1, dtype=np.int16)
            done = n
            part = np.abs(total).astype(np.float32)
            sizes, bars = part.sum(1), np.einsum("ci,ci->c", part, part)
            self.parts[n].append((rows[:, :n] / m, squares[:, n - 1], bars / n**2, sizes / n))

    def squares(self, n: int, m: int) -> Squares:
        joined = [np.concatenate(part).astype(float) for part in zip(*self.parts[n], strict=True)]
        return Squares.of_sums(*joined, m=m, unit=1.0)


def equal_p(found: Squares, margin: float) -> Array:
    p = np.maximum(p_value(found, margin), p_value(found, -margin))
    return np.where(np.abs(found.mean) < margin, p, 1.0)


def simulate_fixed(rng: np.random.Generator, count: int, world: Probit) -> Rates:
    """Judge after a number of seeds that was fixed in advance."""
    null, margin = Sums(SEEDS), Sums(SEEDS)
    for first, other in draw(rng, world, count, max(SEEDS)):
        null.add(gaps_of(first, other, world, 0.0))
        margin.add(gaps_of(first, other, world, world.margin))
    rates: Rates = {"n": list(SEEDS)}
    for n in SEEDS:
        at_0, at_margin = null.squares(n, world.m), margin.squares(n, world.m)
        counts = {
            "false_difference": p_value(at_0, 0.0) < ALPHA,
            "false_equal": equal_p(at_margin, world.margin) < ALPHA,
            "coverage": p_value(at_margin, world.margin) >= ALPHA,
            "equal_at_0": equal_p(at_0, world.margin) < ALPHA,
            "difference_at_margin": p_value(at_margin, 0.0) < ALPHA,
        }
        for name, hits in counts.items():
            rates.setdefault(name, []).append(hits.mean())
    return rates


def outside(found: Squares, at: float, alpha: float) -> Array:
    """Return whether `at` is outside the anytime bounds, which is p < alpha without the search."""
    return np.abs(found.mean - at) > half_width_anytime(found, at, alpha)


def simulate_stopped(rng: np.random.Generator, count: int, world: Probit) -> Rates:
    """Look after every seed; anything wrong at any look counts."""
    names = ("false_difference", "false_equal", "missed", "equal_at_0", "plain_t")
    ever: dict[str, list[Array]] = {name: [] for name in names}
    for first, other in draw(rng, world, count, max(LOOKS)):
        null, margin = Sums(LOOKS), Sums(LOOKS)
        null.add(gaps_of(first, other, world, 0.0))
        margin.add(gaps_of(first, other, world, world.margin))
        hits = {name: np.zeros(len(first), bool) for name in names}
        for n in LOOKS:
            at_0, at_margin = null.squares(n, world.m), margin.squares(n, world.m)
            hits["false_difference"] |= outside(at_0, 0.0, ALPHA)
            hits["false_equal"] |= equal_by_bounds(at_margin, world.margin, ALPHA)
            hits["missed"] |= outside(at_margin, world.margin, ALPHA)
            hits["equal_at_0"] |= equal_by_bounds(at_0, world.margin, ALPHA)
            with np.errstate(divide="ignore", invalid="ignore"):
                t = np.abs(at_0.mean) / np.sqrt(at_0.seeds / (n * world.m))
            hits["plain_t"] |= 2 * stdtr(n - 1, -t) < ALPHA
        for name in names:
            ever[name].append(hits[name])
    rates = {name: [np.concatenate(parts).mean()] for name, parts in ever.items()}
    rates["coverage"] = [1 - rates.pop("missed")[0]]
    return {"looks": [min(LOOKS), max(LOOKS)]} | rates


def equal_by_bounds(found: Squares, margin: float, alpha: float) -> Array:
    beyond = outside(found, margin, alpha) & outside(found, -margin, alpha)
    return beyond & (np.abs(found.mean) < margin)


def simulate_normal(rng: np.random.Generator, count: int, example: float, level: float) -> Rates:
    """Look after every seed up to 10,000 at normal gaps, on a test set whose variance is known.

    The seeds' standard deviation is 1. Beside it, for the looks of the other cells: the bound, and
    Student's t on the seeds.
    """
    n = np.arange(min(LOOKS), MOST + 1, dtype=np.float64)
    seeds = anytime_t(n, level * STOPPING_SHARE)
    examples = -ndtri(level * STOPPING_SHARE / 2) * example
    student = -stdtrit(n - 1, level / 2)
    hits = {"false_difference": 0, "up_to_60": 0, "plain_t_up_to_60": 0}
    for start in range(0, count, 200):
        gaps = rng.standard_normal((min(200, count - start), MOST))
        mean = gaps.cumsum(1)[:, min(LOOKS) - 1 :] / n
        squares = np.square(gaps).cumsum(1)[:, min(LOOKS) - 1 :] - n * mean**2
        error = np.sqrt(squares / (n * (n - 1)))
        seen = np.abs(mean + example * rng.standard_normal((len(gaps), 1)))
        with np.errstate(invalid="ignore"):
            wrong = seen > np.hypot(seeds * error, examples)
        hits["false_difference"] += int(wrong.any(1).sum())
        hits["up_to_60"] += int(wrong[:, : len(LOOKS)].any(1).sum())
        hits["plain_t_up_to_60"] += int((seen > student * error)[:, : len(LOOKS)].any(1).sum())
    return {"looks": [min(LOOKS), MOST]} | {key: [value / count] for key, value in hits.items()}


def simulate_losses(rng: np.random.Generator, count: int, tails: str, m: int) -> Rates:
    """Judge gaps of losses with long tails, the margin half a standard deviation of one."""
    laws: dict[str, tuple[Callable[..., Array], float, float]] = {
        "student": (partial(rng.standard_t, 3), 0.0, 3.0),
        "log-normal": (partial(rng.lognormal, 0.0, 1.0), np.exp(0.5), np.e * (np.e - 1)),
    }
    law, center, variance = laws[tails]
    margin = float(np.sqrt(variance) / 2)
    names = ("false_difference", "false_equal", "held", "equal_at_0")
    hits = {name: np.zeros(len(SEEDS)) for name in names}
    for start in range(0, count, 100):
        c = min(100, count - start)
        parts = law((c, max(SEEDS), m)) + law((c, 1, m)) - 2 * center
        gaps = np.sqrt(0.5) * parts + 0.05 * rng.standard_normal((c, max(SEEDS), 1))
        for at, n in enumerate(SEEDS):
            at_0, at_margin = squares_of(gaps[:, :n]), squares_of(gaps[:, :n] + margin)
            mirrored = squares_of(margin - gaps[:, :n])
            hits["false_difference"][at] += (p_value(at_0, 0.0) < ALPHA).sum()
            hits["equal_at_0"][at] += (equal_p(at_0, margin) < ALPHA).sum()
            for found in (at_margin, mirrored):  # a skewed loss errs more on one side
                hits["false_equal"][at] += (equal_p(found, margin) < ALPHA).sum() / 2
                hits["held"][at] += (p_value(found, margin) >= ALPHA).sum() / 2
    rates: Rates = {name: (hit / count).tolist() for name, hit in hits.items()}
    rates["coverage"] = rates.pop("held")
    return {"n": list(SEEDS), "m": m, "margin": round(margin, 4)} | rates


def squares_of(gaps: Array) -> Squares:
    """Return the sums of gaps (c, n, m) that are no counts; one example adds what one does here."""
    bars = gaps.mean(1)
    sizes = np.abs(bars)
    squares = np.einsum("cni,cni->c", gaps, gaps)
    return Squares.of_sums(
        gaps.mean(2), squares, (bars**2).sum(1), sizes.sum(1), m=gaps.shape[2], unit=sizes.max(1)
    )


def simulate_family(rng: np.random.Generator, count: int, world: Probit) -> Rates:
    """Compare one head with four at once; wrong is a report in which any claim is."""
    cases = {"null": [0.0] * FOUR, "margin": [world.margin] * FOUR}
    cases["mixed"] = [0.0, 0.0, world.margin, world.margin]
    sums = {(case, k): Sums(SEEDS) for case in cases for k in range(FOUR)}
    for first, *others in draw(rng, world, count, max(SEEDS), FOUR):
        for (case, differences), (k, other) in product(cases.items(), enumerate(others)):
            sums[case, k].add(gaps_of(first, other, world, differences[k]))
    rates: Rates = {"n": list(SEEDS)}
    for n, (case, truth) in product(SEEDS, cases.items()):
        found = [sums[case, k].squares(n, world.m) for k in range(FOUR)]
        difference = corrected([p_value(one, 0.0) for one in found])
        equal = corrected([equal_p(one, world.margin) for one in found])
        is_0 = np.array(truth) == 0
        claimed = (difference < ALPHA) & (equal >= ALPHA)  # "equal" is said first
        wrong = {"difference": (claimed & is_0).any(1), "equal": ((equal < ALPHA) & ~is_0).any(1)}
        wrong["any"] = wrong["difference"] | wrong["equal"]
        for kind in {"null": ["difference"], "margin": ["equal"], "mixed": list(wrong)}[case]:
            rates.setdefault(f"{case}_false_{kind}", []).append(wrong[kind].mean())
    return rates


def corrected(p_values: list[Array]) -> Array:
    """Return Holm's p-values, (comparisons, hypotheses)."""
    table = np.stack(p_values, 1)
    out, maybe = np.ones(table.shape), (table < ALPHA).any(1)  # others stay above ALPHA
    for at in np.flatnonzero(maybe):
        out[at] = holm(table[at].tolist())
    return out


def simulate_family_stopped(rng: np.random.Generator, count: int, world: Probit) -> Rates:
    """Four comparisons and a look after every seed: Holm's first step, where all four are true."""
    wrong = {"null_false_difference": 0, "margin_false_equal": 0}
    for first, *others in draw(rng, world, count, max(LOOKS), FOUR):
        for name, truth in (("null_false_difference", 0.0), ("margin_false_equal", world.margin)):
            ever = np.zeros(len(first), bool)
            for other in others:
                sums = Sums(LOOKS)
                sums.add(gaps_of(first, other, world, truth))
                for n in LOOKS:
                    found = sums.squares(n, world.m)
                    if truth:
                        ever |= equal_by_bounds(found, world.margin, ALPHA / FOUR)
                    else:
                        ever |= outside(found, 0.0, ALPHA / FOUR)
            wrong[name] += int(ever.sum())
    return {"looks": [min(LOOKS), max(LOOKS)]} | {k: [v / count] for k, v in wrong.items()}


@dataclass(frozen=True)
class Scheme:
    """How one sample is split, over and over."""

    name: str
    folds: int  # 0: splits drawn at random
    repeats: int
    tested: float  # part of the sample

    def parts(self, rng: np.random.Generator, n: int) -> list[Array]:
        """Return which examples each split tests on."""
        if not self.folds:
            size = round(n * self.tested)
            return [np.sort(rng.permutation(n)[:size]) for _ in range(self.repeats)]
        return [
            np.sort(part)
            for _ in range(self.repeats)
            for part in np.array_split(rng.permutation(n), self.folds)
        ]


SCHEMES = [
    Scheme("5 folds", 5, 1, 1 / 5),
    Scheme("10 folds", 10, 1, 1 / 10),
    Scheme("5 folds x 3", 5, 3, 1 / 5),
    Scheme("5 splits of a quarter", 0, 5, 1 / 4),
    Scheme("20 splits of a quarter", 0, 20, 1 / 4),
    Scheme("10 splits of a tenth", 0, 10, 1 / 10),
]
FEATURES = 5
PAIRS = ("centroid", "lda", "lda against centroid")


def fit(x: Array, y: Array, kind: str) -> tuple[Array, Array]:
    """Return weights (c, d) and offset (c,) of nearest centroids, or of Fisher's discriminant."""
    positive = (y > 0)[..., None]
    count = positive.sum(1)
    up = (x * positive).sum(1) / np.maximum(count, 1)
    down = (x * ~positive).sum(1) / np.maximum(x.shape[1] - count, 1)
    w = up - down
    if kind == "lda":
        about = x - np.where(positive, up[:, None], down[:, None])
        covariance = about.transpose(0, 2, 1) @ about / x.shape[1] + 1e-3 * np.eye(x.shape[2])
        w = np.linalg.solve(covariance, w[..., None])[..., 0]
    return w, -(w * (up + down)).sum(1) / 2


def true_accuracy(w: Array, b: Array, center: Array, mixing: Array) -> Array:
    """Return the accuracy of fitted weights in the population."""
    along, spread = w @ center, np.linalg.norm(w @ mixing, axis=1)
    return (ndtr((along + b) / spread) + ndtr((along - b) / spread)) / 2


def split_gaps(
    rng: np.random.Generator, count: int, n: int, scheme: Scheme, pair: str, weaker: float
) -> tuple[Array, float]:
    """Return the gaps (count, k) of fresh samples, and the true difference of the two learners.

    Two learners of one kind each see features of their own, equally good or, the second's, `weaker`
    by a factor; of two kinds, they see the same features, which are correlated.
    """
    first, _, second = pair.partition(" against ")
    same = bool(second)
    center = np.full(FEATURES, 0.45) * np.linspace(1.5, 0.5, FEATURES)
    mixing = np.eye(FEATURES)
    if same:
        mixing = np.linalg.cholesky(0.4 * np.eye(FEATURES) + 0.6)
    gaps, truth, left = [], [], count
    while left:
        c = min(left, 500)
        left -= c
        y = rng.choice((-1.0, 1.0), (c, n))
        x = rng.standard_normal((c, n, FEATURES)) @ mixing.T + y[..., None] * center
        z = rng.standard_normal((c, n, FEATURES)) + y[..., None] * center * weaker
        found = []
        for part in scheme.parts(rng, n):
            train = np.setdiff1d(np.arange(n), part)
            right, expected = [], []
            for kind, seen, scale in ((first, x, 1.0), (second or first, x if same else z, weaker)):
                w, b = fit(seen[:, train], y[:, train], kind)
                score = np.einsum("cnd,cd->cn", seen[:, part], w) + b[:, None]
                right.append(((score > 0) == (y[:, part] > 0)).mean(1))
                here = center * (1.0 if same else scale)
                expected.append(true_accuracy(w, b, here, mixing))
            found.append(right[0] - right[1])
            truth.append((expected[0] - expected[1]).mean())
        gaps.append(np.stack(found, 1))
    return np.concatenate(gaps), float(np.mean(truth))


def simulate_splits(
    rng: np.random.Generator, count: int, n: int, scheme: Scheme, pair: str
) -> Rates:
    """Judge folds or splits; the margin is what the learners differ by where they are not equal."""
    overlap = scheme.tested / (1 - scheme.tested)
    tested = n if scheme.folds else round(n * (1 - (1 - scheme.tested) ** scheme.repeats))
    rates: Rates = {"scheme": scheme.name, "pair": pair, "examples": n}
    weaker = [1.0] if "against" in pair else [1.0, 0.8]
    for factor in weaker:
        gaps, truth = split_gaps(rng, count, n, scheme, pair, factor)
        mean, deviation = gaps.mean(1), gaps.std(1, ddof=1)

        known = {"k": gaps.shape[1], "overlap": overlap, "m": tested}
        p = partial(p_splits, mean, np.where(deviation < 1e-9, np.inf, deviation), **known)

        if factor == 1.0 and "against" not in pair:
            rates["false_difference"] = [(p(0.0) < ALPHA).mean()]
            continue
        margin = abs(truth)
        equal = np.where(np.abs(mean) < margin, np.maximum(p(margin), p(-margin)), 1.0) < ALPHA
        rates |= {"margin": margin, "false_equal": [equal.mean()]}
        rates["coverage"] = [(p(truth) >= ALPHA).mean()]
    return rates


@dataclass(frozen=True)
class Cell:
    """One simulation of the grid."""

    name: str
    about: Rates
    run: Callable[[np.random.Generator, int], Rates]


def cells() -> Iterator[Cell]:
    """Yield the grid."""
    for example, level in product(
        (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0, 3.0), (ALPHA, ALPHA / FOUR)
    ):
        about = {"example": example, "level": level}
        run = partial(simulate_normal, **about)
        yield Cell(f"stopped, normal gaps, example={example:g}, level={level:g}", about, run)
    grids: list[tuple[str, Any, Any, Any, Any]] = [
        ("fixed", simulate_fixed, (360, 150), (0.7, 0.9, 0.98, 0.995), GRID),
        ("stopped", simulate_stopped, (360, 150), (0.8, 0.98), SOME),
        ("family", simulate_family, (360,), (0.9, 0.98), SOME),
        ("fixed", simulate_fixed, (1000,), (0.9, 0.995), GRID),
        ("stopped", simulate_stopped, (1000,), (0.98,), SOME),
        ("family, stopped", simulate_family_stopped, (360,), (0.9, 0.98), SOME[2:4]),
        ("family", simulate_family, (1000,), (0.98,), SOME[2:4]),
        ("fixed", simulate_fixed, (10_000,), (0.9, 0.995), SOME[2:4]),
    ]
    for kind, function, sizes, accuracies, variances in grids:
        for m, accuracy, parts in product(sizes, accuracies, variances):
            world = Probit(m, accuracy, *parts, margin=margin_of(m, accuracy))
            names = ", ".join(f"{key}={value:g}" for key, value in vars(world).items())
            yield Cell(f"{kind}, {names}", world.describe(), partial(function, world=world))
    for tails, m in product(("student", "log-normal"), (50, 150, 1000)):
        yield Cell(f"losses, {tails}, m={m}", {}, partial(simulate_losses, tails=tails, m=m))
    for n, scheme, pair in product((100, 400), SCHEMES, PAIRS):
        if n == 100 or pair == "lda":
            run = partial(simulate_splits, n=n, scheme=scheme, pair=pair)
            yield Cell(f"splits, {pair}, {scheme.name}, n={n}", {}, run)


def limit(repetitions: int, level: float = ALPHA) -> float:
    """Return the level and two Monte Carlo standard errors."""
    return level + 2 * float(np.sqrt(level * (1 - level) / repetitions))


def exceeding(rates: Rates, repetitions: int) -> list[str]:
    """Return which error rates of a cell are above the criterion, and which coverages below it."""
    high = [
        key for key, value in rates.items() if "false" in key and max(value) > limit(repetitions)
    ]
    floor = 0.93 if "looks" not in rates else 1 - limit(repetitions)
    return high + [key for key in ("coverage",) if min(rates.get(key, [1])) < floor]


def simulate(cell: Cell, repetitions: int) -> Rates:
    """Run a cell, and once more with four times as many draws if it exceeds the criterion."""

    def once(again: int) -> Rates:
        seed, count = [zlib.crc32(cell.name.encode()), again], repetitions * (4 if again else 1)
        rates = cell.run(np.random.Generator(np.random.SFC64(seed)), count)
        rounded = {
            key: [round(float(x), 6) if isinstance(x, float) else x for x in value]
            if isinstance(value, list)
            else value
            for key, value in rates.items()
        }
        return {"repetitions": count} | rounded

    row = once(0)
    over = exceeding(cell.about | row, repetitions)
    if over:
        first = {key: row[key] for key in ("repetitions", *over)}
        row = once(1)
        row |= {"first": first, "exceeds": exceeding(cell.about | row, 4 * repetitions)}
    return {"cell": cell.name, **cell.about, **row}


def save(path: Path, record: Rates) -> None:
    """Write the record, one cell a line."""
    head = to_json({key: value for key, value in record.items() if key != "rows"})
    rows = ",\n".join("    " + json.dumps(row) for row in record["rows"])
    write_text(path, f'{head.rstrip()[:-1].rstrip()},\n  "rows": [\n{rows}\n  ]\n}}\n')


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--cells", nargs="+", default=[""], help="beginnings of names of cells")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--out", type=Path, default=RESULT, help="continued if it is there")
    arguments = parser.parse_args()
    record: Rates = {
        "benchmark": "verdict-errors",
        "command": "OMP_NUM_THREADS=1 python benchmarks/verdict_errors.py",
        "protocol": " ".join((__doc__ or "").split("\n\n", 2)[2].split()),
        "seeds": "SFC64 of (CRC-32 of the cell's name, 0; 1 for what is drawn again)",
        "environment": describe_environment(),
        "seconds": 0.0,
        "rows": [],
    }
    if arguments.out.exists():
        record |= {
            key: value
            for key, value in json.loads(arguments.out.read_text(encoding="utf-8")).items()
            if key in ("seconds", "rows")
        }
    done = {row["cell"] for row in record["rows"]}
    for cell in cells():
        if cell.name in done or not cell.name.startswith(tuple(arguments.cells)):
            continue
        started = time.process_time()
        row = simulate(cell, arguments.repetitions)
        record["rows"].append(row)
        record["seconds"] = round(record["seconds"] + time.process_time() - started, 1)
        save(arguments.out, record)
        print(json.dumps(row), f"{time.process_time() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()

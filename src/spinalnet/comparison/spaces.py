"""What is tried in tuning: one space that all nets share, and what each head has of its own.

A trial is a point of the unit cube, read off as settings. The points are a Latin hypercube (McKay,
Beckman and Conover, Technometrics 21, 1979): of every setting each of n equal parts is tried once,
in an order drawn at random and for every setting anew. So any trial could as well have been any
other (they are exchangeable), and the best of the first k says what k trials give. A setting that
several heads have is drawn from its name and the seed alone: they all try the same values of it,
and no head has the luckier draw.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinalnet._checks import check_positive, unknown_name


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, evenly or, with `log`, evenly in their logarithm.

    Attributes:
        low: The lower end.
        high: The upper end.
        log: Whether to go by factors.
        whole: Whether whole numbers are tried, both ends among them.
        least: Whether there is nothing below the lower end, which then is no edge.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    least: bool = False

    def at(self, place: float) -> float:
        """Return the number at a place between 0 and 1; to three digits, if it is not whole."""
        # Each whole number is as wide as the others: the ends lie half a step outside.
        low, high = (self.low - 0.5, self.high + 0.5) if self.whole else (self.low, self.high)
        value = low * (high / low) ** place if self.log else low + (high - low) * place
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        return float(f"{value:.3g}")

    def edge(self, value: float) -> str | None:
        """Return "low" or "high" if a value is that end, or within a twentieth of it."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        place = (value - low) / (high - low)
        if place <= 0.05:
            return None if self.least else "low"
        return "high" if place >= 0.95 else None

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.low:g} to {self.high:g}{', by factors' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of several values, in their order."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """Return the value at a place between 0 and 1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def edge(self, value: Any) -> str | None:
        """Return "low" or "high" if a value is the first or last of at least three."""
        if len(self.values) < 3 or value not in self.values:
            return None
        place = self.values.index(value)
        return "low" if place == 0 else "high" if place == len(self.values) - 1 else None

    def __str__(self) -> str:
        """Return it for people."""
        return ", ".join(map(str, self.values))


Space = Mapping[str, Range | Choice]

WIDTH = "width"
"""Name of a setting that multiplies the widths of the hidden layers a head starts from."""

SHARED: Space = {
    "lr": Range(3e-4, 3e-2, log=True),
    "weight_decay": Range(1e-5, 1.0, log=True),
    "dropout": Range(0.0, 0.3, least=True),
}
"""Tried by every net, over the same values."""

_WIDTH: Space = {WIDTH: Range(0.25, 4.0, log=True)}
_CHAIN: Space = {
    **_WIDTH,
    "num_layers": Range(2, 8, whole=True),
    "num_splits": Range(1, 4, whole=True, least=True),
}

SPACES: Mapping[str, Space] = {
    # A control searches over the spinal nets that it is made after: both over the same sizes.
    **{
        head: {**SHARED, **_CHAIN}
        for head in ("spinal", "spinal-shared", "unchained", "unchained-matched", "matched")
    },
    "mlp": {**SHARED, **_WIDTH},
    "mlp-paper": {**SHARED, **_WIDTH},
    "progressive": {**SHARED, **_WIDTH, "num_layers": Range(2, 8, whole=True)},
    "linear": SHARED,
    # Under the names that scikit-learn's trees give them; they share nothing with a net.
    "trees": {
        "learning_rate": Range(0.01, 0.3, log=True),
        "max_leaf_nodes": Range(4, 64, log=True, whole=True),
        "min_samples_leaf": Range(2, 50, log=True, whole=True),
        "l2_regularization": Range(1e-6, 10.0, log=True),
    },
    "lightgbm": {
        "learning_rate": Range(0.01, 0.3, log=True),
        "num_leaves": Range(4, 64, log=True, whole=True),
        "min_child_samples": Range(2, 50, log=True, whole=True),
        "reg_lambda": Range(1e-6, 10.0, log=True),
    },
    "xgboost": {
        "learning_rate": Range(0.01, 0.3, log=True),
        "max_depth": Range(2, 10, whole=True),
        "min_child_weight": Range(1.0, 50.0, log=True),
        "reg_lambda": Range(1e-6, 10.0, log=True),
    },
    "catboost": {
        "learning_rate": Range(0.01, 0.3, log=True),
        "depth": Range(2, 8, whole=True),
        "l2_leaf_reg": Range(0.1, 30.0, log=True),
    },
    "tabm": {
        "lr": Range(3e-4, 1e-2, log=True),
        "weight_decay": Range(1e-5, 0.1, log=True),
        "dropout": Range(0.0, 0.3, least=True),
    },
    "sklearn-mlp": {
        "learning_rate_init": Range(3e-4, 3e-2, log=True),
        "alpha": Range(1e-5, 1.0, log=True),
        "hidden_layer_sizes": Choice((25, 50, 100, 200, 400)),
    },
}
"""All that is tried of a head. A head that is not here has what all nets share."""


def space_of(head: str) -> Space:
    """Return all that is tried of a head, by name of the setting."""
    return SPACES.get(head, SHARED)


def sample(space: Space, trials: int, seed: int) -> list[dict[str, Any]]:
    """Return settings to try; the same for the same arguments.

    Args:
        space: What to try, see `space_of`.
        trials: How many.
        seed: Of the draw.

    Raises:
        InputError: If `trials` is not a positive number.
    """
    check_positive("trials", trials)
    columns = {}
    for name, part in space.items():
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
        places = (draw.permutation(trials) + draw.random(trials)) / trials
        columns[name] = [part.at(float(place)) for place in places]
    return [{name: column[k] for name, column in columns.items()} for k in range(trials)]


def draw(space: Space, trials: int, seed: int) -> list[dict[str, Any]]:
    """Return settings to try, each drawn apart from the others; arguments and errors as `sample`.

    The first of them are those that fewer trials have, so that more can be added later: the parts
    of a Latin hypercube depend on their number. The trials are exchangeable here too.
    """
    check_positive("trials", trials)
    columns = {}
    for name, part in space.items():
        places = np.random.default_rng([seed, zlib.crc32(name.encode())]).random(trials)
        columns[name] = [part.at(float(place)) for place in places]
    return [{name: column[k] for name, column in columns.items()} for k in range(trials)]


def edges(space: Space, settings: Mapping[str, Any]) -> list[str]:
    """Return which settings lie on an edge of the space, such as "lr (high)"."""
    for name in settings:
        if name not in space:
            raise unknown_name("setting of the space", name, space)
    found = {name: space[name].edge(value) for name, value in settings.items()}
    return [f"{name} ({edge})" for name, edge in found.items() if edge]


def best_of(values: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """Return the expected best of k of these trials, drawn without replacement, for k = 1 to all.

    The i-th smallest of n is the greatest of k with probability C(i - 1, k - 1) / C(n, k).
    """
    sign = 1.0 if higher_is_better else -1.0
    ordered = sorted(sign * value for value in values)
    n = len(ordered)
    return [
        sign * sum(math.comb(i, k - 1) / math.comb(n, k) * value for i, value in enumerate(ordered))
        for k in range(1, n + 1)
    ]


def still_rising(curve: Sequence[float], margin: float) -> bool:
    """Return whether an expected best still gained more than `margin` in its last third."""
    if len(curve) < 3:
        return True
    return abs(curve[-1] - curve[math.ceil(2 * len(curve) / 3) - 1]) > margin

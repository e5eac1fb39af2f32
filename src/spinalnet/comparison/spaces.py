"""What is tried in tuning: one space that all heads share, and what each head has of its own.

A trial is a point of the unit cube, read off as settings. The points are a scrambled Sobol sequence
in a random order: they fill the cube evenly, and their order says nothing, so that the first k of
them are as good as any k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spinalnet._checks import check_positive


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, evenly or, with `log`, evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    def at(self, place: float) -> float:
        """Return the number at a place between 0 and 1, to three digits."""
        if self.log:
            return float(f"{self.low * (self.high / self.low) ** place:.3g}")
        return float(f"{self.low + (self.high - self.low) * place:.3g}")

    def edge(self, value: float) -> str | None:
        """Return "low" or "high" if a value lies within a twentieth of that end."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = ((math.log(value) if self.log else value) - low) / (high - low)
        return "low" if place <= 0.05 else "high" if place >= 0.95 else None

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.low:g} to {self.high:g}{' (logarithmic)' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of several values, in their order."""

    values: tuple[Any, ...]

    def at(self, place: float) -> Any:
        """Return the value at a place between 0 and 1."""
        return self.values[min(int(place * len(self.values)), len(self.values) - 1)]

    def edge(self, value: Any) -> str | None:
        """Return "low" or "high" if a value is the first or last of at least three."""
        if len(self.values) < 3:
            return None
        place = self.values.index(value)
        return "low" if place == 0 else "high" if place == len(self.values) - 1 else None

    def __str__(self) -> str:
        """Return it for people."""
        return ", ".join(map(str, self.values))


Space = Mapping[str, Range | Choice]

SHARED: Space = {
    "lr": Range(3e-4, 3e-2, log=True),
    "weight_decay": Range(1e-5, 1e-1, log=True),
    "dropout": Choice((0.0, 0.1, 0.2, 0.3, 0.5)),
}
"""Tried by every head of a network, over the same values."""

WIDTH = "width"
"""Name of a setting that multiplies the widths a head starts from."""

_CHAIN: Space = {
    WIDTH: Choice((0.5, 1.0, 2.0, 4.0)),
    "num_layers": Choice((2, 4, 6, 8)),
    "num_splits": Choice((2, 3, 4)),
}
OWN: Mapping[str, Space] = {
    **dict.fromkeys(("spinal", "spinal-shared"), _CHAIN),
    "mlp": {WIDTH: Choice((0.5, 1.0, 2.0, 4.0))},
    "progressive": {WIDTH: Choice((0.5, 1.0, 2.0, 4.0))},
    # Those of scikit-learn's trees, which share nothing with a network.
    "trees": {
        "learning_rate": Range(0.01, 0.3, log=True),
        "max_leaf_nodes": Choice((7, 15, 31, 63)),
        "min_samples_leaf": Choice((5, 10, 20, 40)),
        "l2_regularization": Range(1e-6, 10.0, log=True),
    },
}
"""What a head has of its own. Controls (matched, unchained, ...) follow the first head's size, so
they have nothing here, and the linear map has no size."""


def space_of(head: str) -> Space:
    """Return all that is tried of a head."""
    return OWN["trees"] if head == "trees" else {**SHARED, **OWN.get(head, {})}


_DIMENSIONS = 16  # more than any space has


def sample(space: Space, trials: int, seed: int) -> list[dict[str, Any]]:
    """Return settings to try; the same for the same arguments.

    What heads share is drawn from the same points for all of them.
    """
    import numpy as np
    from scipy.stats import qmc

    check_positive("trials", trials)
    # As many dimensions for every head: the first of them are then the same points.
    sobol = qmc.Sobol(_DIMENSIONS, rng=np.random.default_rng(seed))
    points = sobol.random_base2(max(1, math.ceil(math.log2(trials))))
    order = np.random.default_rng([seed, 1]).permutation(len(points))[:trials]
    return [
        {name: part.at(float(row[place])) for place, (name, part) in enumerate(space.items())}
        for row in points[order]
    ]


def edges(space: Space, settings: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that lie on an edge of the space, with the edge."""
    found = {name: part.edge(settings[name]) for name, part in space.items() if name in settings}
    return [f"{name} ({edge})" for name, edge in found.items() if edge]


def best_of(values: Sequence[float], *, higher_is_better: bool) -> list[float]:
    """Return the expected best of k of these trials, drawn without replacement, for k = 1 to all.

    The i-th smallest of n is the best of k with probability C(i - 1, k - 1) / C(n, k).
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

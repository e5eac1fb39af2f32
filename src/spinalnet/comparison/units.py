"""The rows and columns of a comparison: contestants, and the units that all of them go through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from spinalnet.data import Resample


@dataclass(frozen=True)
class Unit:
    """One repetition of a comparison, which every head goes through: a seed, a fold, a split.

    Attributes:
        seed: Of the initial weights, the order of the data and, without `resample`, of the
            validation part.
        resample: The test part, where it is drawn anew; None for one test part for all units.
    """

    seed: int
    resample: Resample | None = None

    @property
    def name(self) -> str:
        """As it stands in the name of a run's folder: "seed3", "r0f2-seed0", "split4-seed0"."""
        seed = f"seed{self.seed}"
        return seed if self.resample is None else f"{self.resample.name}-{seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `result.json`."""
        return {**asdict(self), "name": self.name}


@dataclass(frozen=True)
class Contestant:
    """One row of a comparison: a head, with what it has of its own.

    Attributes:
        head: Row of `nn.HEADS`, or "trees" on a table.
        options: Options of the head, beside what all share.
        label: The row's name: the head, with its options as they were written.
        train: Settings of training, beside what all share (found by tuning).
    """

    head: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    train: Mapping[str, Any] = field(default_factory=dict)


def run_name(label: str, unit: Unit) -> str:
    """Return the name of the folder of the run of a row in a unit, which any file system takes."""
    return f"{re.sub(r'[^A-Za-z0-9_.=-]+', '_', label)}-{unit.name}"

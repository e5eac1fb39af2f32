"""Some settings of training and comparing under one name: `PRESETS`.

This file does not need torch, so that the command line can say what each of them sets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from spinalnet._checks import unknown_name


@dataclass(frozen=True)
class Preset:
    """One row of `PRESETS`: settings in place of the defaults, unless they are named.

    Attributes:
        images: Fields of a run on images.
        tables: Options of training on a table.
        seeds: Of a comparison on images.
        splits: Of a comparison on a table.
    """

    images: Mapping[str, Any]
    tables: Mapping[str, Any]
    seeds: int
    splits: int

    def in_words(self) -> str:
        """Return what it sets."""
        of_images, of_tables = (
            ", ".join(f"{name} {value}" for name, value in settings.items())
            for settings in (self.images, self.tables)
        )
        return f"images: {of_images}, seeds {self.seeds}; tables: {of_tables}, seeds {self.splits}"


PRESETS = {
    "quick": Preset({"epochs": 8}, {"ensemble_size": 2}, seeds=3, splits=3),
    "standard": Preset({"epochs": 20}, {"ensemble_size": 8}, seeds=5, splits=5),
    "thorough": Preset({"epochs": 40}, {"ensemble_size": 16}, seeds=10, splits=20),
}
"""Some settings by one name; "standard" are the defaults."""


def find_preset(name: str) -> Preset:
    """Return a row of `PRESETS`.

    Raises:
        InputError: If there is none.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


def of_images(preset: str | None, given: Collection[str]) -> dict[str, Any]:
    """Return the fields of a run on images that a preset sets and nobody has named.

    Raises:
        InputError: If there is no such preset.
    """
    if preset is None:
        return {}
    settings = find_preset(preset).images
    return {"preset": preset, **{k: v for k, v in settings.items() if k not in given}}


def of_tables(preset: str | None, given: Collection[str]) -> dict[str, Any]:
    """Return the options of training on a table that a preset sets and nobody has named.

    Raises:
        InputError: If there is no such preset.
    """
    settings = {} if preset is None else find_preset(preset).tables
    return {name: value for name, value in settings.items() if name not in given}


def count_units(preset: str | None, *, is_table: bool) -> int:
    """Return the seeds of a comparison on images, or the splits of one on a table.

    Raises:
        InputError: If there is no such preset.
    """
    row = find_preset(preset or "standard")
    return row.splits if is_table else row.seeds

"""Equal tuning: as many trials for every head, on validation data, with a seed of its own.

A trial is a run whose test part is not touched (`RunSpec.tested`), in a folder like any other, so
that it goes on where it was stopped and any engine can run it. What is found is then trained again
with fresh seeds. A control is tuned over the spinal nets that it is made after, over the same
sizes. How much a head still gained from its last trials is told beside it: a head whose curve still
rose was not tuned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, check_positive
from spinalnet.comparison import spaces
from spinalnet.comparison.engine import Cell, Failure
from spinalnet.comparison.metrics import find_metric
from spinalnet.comparison.question import ComparisonSpec
from spinalnet.comparison.schema import SCHEMA, read_mapping
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.units import Unit
from spinalnet.models import ModelSpec, zoo
from spinalnet.training import runs

TUNING_SEED = 100_000
"""Seed of all trials: no comparison counts its seeds so far."""

TUNING_FILE = "tuning.json"
_OF_TRAINING = ("lr", "weight_decay")  # settings of training; the others are the head's


@dataclass(frozen=True)
class Trial:
    """Settings that were tried, and the validation metric of the best epoch; None if it failed."""

    settings: Mapping[str, Any]
    value: float | None


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one row.

    Attributes:
        label: The row.
        space: What was tried, for people, by setting.
        trials: All trials, in the order in which they ran.
        chosen: The settings with the best validation metric; None if every trial failed.
        curve: Expected best of k of the trials that finished, for k = 1 to all of them.
        edges: Chosen settings that lie on an edge of the space.
        untuned: Whether the curve still rose by more than the margin in its last third.
    """

    label: str
    space: Mapping[str, str]
    trials: tuple[Trial, ...]
    chosen: Mapping[str, Any] | None
    curve: tuple[float, ...]
    edges: tuple[str, ...]
    untuned: bool

    def notes(self) -> list[str]:
        """Return what a reader must know, in sentences."""
        found = []
        if self.chosen is None:
            return [f"Every trial of {self.label} failed: it has its untuned settings."]
        if self.edges:
            found.append(
                f"What was chosen for {self.label} lies on an edge of what was tried: "
                f"{', '.join(self.edges)}. A wider space may hold better."
            )
        if self.untuned:
            found.append(
                f"{self.label} is untuned: its expected best still rose by more than the margin in "
                f"the last third of its {len(self.trials)} trials. Give more."
            )
        return found


def tune(
    question: ComparisonSpec,
    trials: int,
    folder: Path,
    run: Callable[[Sequence[Cell]], Sequence[Failure | None]],
    *,
    num_classes: int,
) -> tuple[ComparisonSpec, tuple[Tuned, ...]]:
    """Choose the settings of every row by the same number of trials.

    Args:
        question: What is compared. Its metric is what settings are judged by, on validation data.
        trials: Number of trials of every row.
        folder: Of the comparison; trials go to `tuning/` in it, what was found to `tuning.json`.
        run: Runs cells (`engine.run_cells` with its options).
        num_classes: Of the data.

    Returns:
        The question with the settings found, and what was found by row.

    Raises:
        InputError: If the test part is drawn anew in every unit: what is validation data in one
            unit is test data in another.
    """
    check_positive("tune", trials)
    if not isinstance(question.base, RunSpec) or question.folds:
        raise InputError(
            "tuning needs a test part that is the same for all units, or it would choose on what "
            "is tested elsewhere: leave out folds (a table is tuned inside each training part)."
        )
    planned = {label: _trials(question, label, trials, num_classes) for label in question.heads}
    cells = {
        label: [
            Cell(spec, folder / "tuning" / f"{spec.name}-trial{k}")
            for k, (_, spec) in enumerate(rows)
        ]
        for label, rows in planned.items()
    }
    run([cell for own in cells.values() for cell in own])
    found = []
    for label, rows in planned.items():
        values = [_value(cell.folder, question.metric) for cell in cells[label]]
        done = [Trial(settings, v) for (settings, _), v in zip(rows, values, strict=True)]
        found.append(tuned := _judged(question, label, done))
        if tuned.chosen is not None:
            best = next(spec for settings, spec in rows if settings == tuned.chosen)
            question = _with_settings(question, label, best, tuned.chosen)
    record = {"schema": SCHEMA, "seed": TUNING_SEED, "rows": [asdict(row) for row in found]}
    files.write_mapping(folder / TUNING_FILE, record)
    return question, tuple(found)


def _trials(
    question: ComparisonSpec, label: str, trials: int, num_classes: int
) -> list[tuple[dict[str, Any], RunSpec]]:
    """Return the settings that a row tries, and the run of each."""
    place = question.heads.index(label)
    plain = question.of_unit(Unit(TUNING_SEED))[place]
    assert isinstance(plain, RunSpec)
    space = spaces.space_of(plain.model.head)
    made = []
    for settings in spaces.sample(space, trials, TUNING_SEED):
        training = {name: settings[name] for name in _OF_TRAINING if name in settings}
        options = {name: value for name, value in settings.items() if name not in training}
        model = _with_options(plain.model, options, num_classes)
        train = replace(plain.train, **training)
        made.append((settings, replace(plain, model=model, train=train, tested=False)))
    return made


def _with_options(model: ModelSpec, settings: Mapping[str, Any], num_classes: int) -> ModelSpec:
    """Return a network with tried settings of its head; of a control those of its twin's size."""
    own = dict(model.head_options)
    size = {name: value for name, value in settings.items() if name != "dropout"}
    others = {name: value for name, value in settings.items() if name == "dropout"}
    if model.head in zoo.CONTROLS:
        twin = ModelSpec(model.name, own.get("match", "spinal"), own.get("match_options", {}))
        twin = _with_options(twin, size, num_classes)
        return replace(model, head_options={**own, "match_options": twin.head_options, **others})
    if (factor := size.pop(spaces.WIDTH, None)) is not None:
        width = zoo.starting_width(model, num_classes)
        if width is not None:
            size["hidden_features"] = _scaled(width, factor)
    return replace(model, head_options={**own, **size, **others})


def _scaled(width: int | Sequence[int], factor: float) -> int | tuple[int, ...]:
    if isinstance(width, int):
        return max(1, round(width * factor))
    return tuple(max(1, round(one * factor)) for one in width)


def _with_settings(
    question: ComparisonSpec, label: str, best: RunSpec, chosen: Mapping[str, Any]
) -> ComparisonSpec:
    """Return the question with what was found for a row."""
    training = {name: chosen[name] for name in _OF_TRAINING if name in chosen}
    own = dict(question.other.get(label, {}))
    own["head_options"] = dict(best.model.head_options)
    own["train"] = {**own.get("train", {}), **training}
    return replace(question, other={**question.other, label: own})


def _value(folder: Path, metric: str | None) -> float | None:
    """Return the validation metric of a trial; None if it failed."""
    if not runs.is_done(folder):
        return None
    val = (read_mapping(folder / "result.json") or {}).get("val") or {}
    name = metric or ("accuracy" if "accuracy" in val else "mse")
    value = val.get(find_metric(name).key)
    return float(value) if value is not None and math.isfinite(value) else None


def _judged(question: ComparisonSpec, label: str, trials: Sequence[Trial]) -> Tuned:
    base = question.base
    assert isinstance(base, RunSpec)
    name = question.metric or ("mse" if base.model.name == "regression-net" else "accuracy")
    metric = find_metric(name)
    values = [trial.value for trial in trials if trial.value is not None]
    row = question.rows[question.heads.index(label)]
    space = spaces.space_of(row.head)
    told = {name: str(part) for name, part in space.items()}
    if not values:
        return Tuned(label, told, tuple(trials), None, (), (), True)
    best = max(values) if metric.higher_is_better else min(values)
    chosen = next(trial.settings for trial in trials if trial.value == best)
    curve = spaces.best_of(values, higher_is_better=metric.higher_is_better)
    margin = question.margin or (best * metric.margin if metric.relative else metric.margin)
    return Tuned(
        label,
        told,
        tuple(trials),
        chosen,
        tuple(curve),
        tuple(spaces.edges(space, chosen)),
        spaces.still_rising(curve, margin),
    )

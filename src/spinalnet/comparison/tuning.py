"""Equal tuning: as many trials for every head, on validation data, with a seed of its own.

A trial is a run whose test part is not touched (`RunSpec.tested`), in a folder like any other, so
that it goes on where it was stopped and any engine can run it. What is found is then trained again
with fresh seeds. A control is tuned over the spinal nets that it is made after, over the same
sizes. How much a head still gained from its last trials is told beside it: a head whose curve still
rose was not tuned. Tables are tuned inside each run (`tables`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spinalnet import _dist, files
from spinalnet._checks import InputError, check_positive
from spinalnet.comparison import spaces
from spinalnet.comparison.cells import Cell, Failure
from spinalnet.comparison.engine import read_failure
from spinalnet.comparison.metrics import Metric, find_metric
from spinalnet.comparison.question import ComparisonSpec
from spinalnet.comparison.schema import SCHEMA, read_mapping
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.tuned import TRIALS_FOLDER, TUNING_FILE, Tuned, read_tuning
from spinalnet.comparison.units import Unit, run_name
from spinalnet.models import ModelSpec, assembly, zoo
from spinalnet.nn import head_arguments
from spinalnet.training import TrainConfig, runs

TUNING_SEED = 100_000
"""Seed of all trials; a comparison that has it among its seeds is not tuned."""

_OF_TRAINING = ("lr", "weight_decay")  # settings of training; the others are the head's


@dataclass(frozen=True)
class Trial:
    """One trial: the settings, their run, and where that goes."""

    settings: Mapping[str, Any]
    cell: Cell

    @property
    def model(self) -> ModelSpec:
        """The network that is tried."""
        assert isinstance(self.cell.spec, RunSpec)
        return self.cell.spec.model


def check_tuning(
    question: ComparisonSpec, trials: int, folder: Path, given: Collection[str] = ()
) -> None:
    """Refuse what cannot be tuned, before anything is written.

    Args:
        question: What is compared.
        trials: Number of trials of every row; 0 for none.
        folder: Of the comparison.
        given: Settings of training that were asked for by name.

    Raises:
        InputError: See above.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 0:
        raise InputError(f"tune must be a number of trials, or 0 for none, got {trials!r}.")
    if not isinstance(question.base, RunSpec):
        return
    kept = read_tuning(folder)
    if not trials:
        if kept is not None:
            raise InputError(
                f"{folder} holds a comparison whose settings were tuned: give tune={kept.trials} "
                "again, or choose another folder."
            )
        return
    if question.folds:
        raise InputError(
            "tune chooses on validation data that no unit may test on, but with folds every image "
            "is tested in some unit: leave out folds or tune."
        )
    if TUNING_SEED in {unit.seed for unit in question.units()}:
        raise InputError(f"the seed {TUNING_SEED} is that of tuning: begin with another seed.")
    if kept is not None and kept.trials > trials:
        raise InputError(
            f"{folder} was tuned by {kept.trials} trials of every head, and tune={trials} would "
            "leave some out: give at least as many, or choose another folder."
        )
    # With trials it is one whose `tuning.json` is gone, which they make again.
    was_tuned = kept is not None or (folder / TRIALS_FOLDER).is_dir()
    if not was_tuned and any(runs.is_run(path) for path in (folder / "runs").glob("*")):
        raise InputError(
            f"{folder} holds a comparison that was not tuned: leave out tune, or choose another "
            "folder."
        )
    for label in question.heads:
        if not space_of(question, label, given):
            raise InputError(
                f"nothing is left to tune for {label}, all of whose settings are given: leave one "
                "open, or leave out tune."
            )


def tune(
    question: ComparisonSpec,
    trials: int,
    folder: Path,
    run: Callable[[Sequence[Cell]], Sequence[Failure | None]],
    *,
    num_classes: int,
    given: Collection[str] = (),
) -> tuple[ComparisonSpec, tuple[Tuned, ...]]:
    """Choose the settings of every row by the same number of trials.

    Trials that are done, or failed in a way that would come again, are not repeated. The first
    trials of many are those of few, so that more can be given later; runs whose settings change
    with that are put aside, and the report tells it.

    Args:
        question: What is compared. Its metric is what settings are judged by, on validation data.
        trials: Number of trials of every row.
        folder: Of the comparison; trials go to `tuning/` in it, what was found to `tuning.json`.
        run: Runs cells (`engine.run_cells` with its options).
        num_classes: Of the data.
        given: Settings of training that were asked for by name, and are not tuned.

    Returns:
        The question with the settings found, and what was found by row.

    Raises:
        InputError: If it cannot be tuned, see `check_tuning`.
    """
    check_positive("tune", trials)
    check_tuning(question, trials, folder, given)
    plans = {
        label: _plan(question, label, trials, folder, num_classes, given)
        for label in question.heads
    }
    cells = [trial.cell for plan in plans.values() for trial in plan]
    for cell in cells:
        if runs.is_run(cell.folder):
            _open(cell)
    # All heads of a trial, then the next: an interrupt leaves about as many of each.
    in_turn = [plan[k].cell for k in range(trials) for plan in plans.values()]
    run([cell for cell in in_turn if not _is_settled(cell.folder)])
    found, records, tuned = question, [], []
    for label, plan in plans.items():
        row, record, best = _judged(question, label, plan, given)
        tuned.append(row)
        records.append(record)
        plain = question.of_unit(Unit(TUNING_SEED))[question.heads.index(label)]
        assert isinstance(plain, RunSpec)
        model, settings = (plain.model, {}) if best is None else (best.model, best.settings)
        found = _with_settings(found, label, model, settings)
    if _dist.is_main():
        _keep(folder, found, trials, records, _metric(question, plans).name)
    _dist.barrier()
    return found, tuple(tuned)


def trials_left(question: ComparisonSpec, trials: int, folder: Path) -> dict[str, int]:
    """Return how many trials of every row `tune` would still run."""
    rows = zip(question.heads, question.of_unit(Unit(TUNING_SEED)), strict=True)
    return {
        label: sum(not _is_settled(_trial_folder(folder, spec.name, k)) for k in range(trials))
        for label, spec in rows
    }


def _trial_folder(folder: Path, name: str, k: int) -> Path:
    return folder / TRIALS_FOLDER / f"{name}-trial{k}"


def space_of(
    question: ComparisonSpec, label: str, given: Collection[str] = ()
) -> dict[str, spaces.Range | spaces.Choice]:
    """Return what is tried of a row: what its head has, and nobody gave a value for."""
    spec = question.of_unit(Unit(TUNING_SEED))[question.heads.index(label)]
    assert isinstance(spec, RunSpec)
    defaults = TrainConfig()
    changed = {n for n in _OF_TRAINING if getattr(spec.train, n) != getattr(defaults, n)}
    fixed = {*given, *changed, *question.other.get(label, {}).get("train", {})}
    own = set(spec.model.head_options)
    sized = _sized(spec.model)
    accepted, accepted_by_sized = (head_arguments(_kind(m)) for m in (spec.model, sized))
    fixed |= own | set(sized.head_options)
    if {"hidden_features", "num_params"} & fixed:
        fixed.add(spaces.WIDTH)
    if "num_params" in own:  # the twin's size is of no account
        fixed |= {"num_layers", "num_splits"}
    open_to = {*_OF_TRAINING, *({"dropout"} & set(accepted)), *accepted_by_sized} - fixed
    if "hidden_features" in accepted_by_sized and spaces.WIDTH not in fixed:
        open_to.add(spaces.WIDTH)
    found = spaces.space_of(spec.model.head)
    return {name: part for name, part in found.items() if name in open_to}


def _sized(model: ModelSpec) -> ModelSpec:
    """Return the network whose size is tuned: of a control that of its twin."""
    if model.head not in assembly.CONTROLS:
        return model
    own = model.head_options
    return ModelSpec(model.name, own.get("match", "spinal"), own.get("match_options", {}))


def _kind(model: ModelSpec) -> str:
    return zoo.model_row(model.name).spinal if model.head == "spinal" else model.head


def _plan(
    question: ComparisonSpec,
    label: str,
    trials: int,
    folder: Path,
    num_classes: int,
    given: Collection[str],
) -> list[Trial]:
    """Return the trials of a row."""
    unit = Unit(TUNING_SEED)
    plain = question.of_unit(unit)[question.heads.index(label)]
    assert isinstance(plain, RunSpec)
    made = []
    for k, settings in enumerate(spaces.draw(space_of(question, label, given), trials, unit.seed)):
        training = {name: settings[name] for name in _OF_TRAINING if name in settings}
        options = {name: value for name, value in settings.items() if name not in training}
        model = _with_options(plain.model, options, num_classes)
        spec = replace(plain, model=model, train=replace(plain.train, **training), tested=False)
        made.append(Trial(settings, Cell(spec, _trial_folder(folder, spec.name, k))))
    return made


def _with_options(model: ModelSpec, settings: Mapping[str, Any], num_classes: int) -> ModelSpec:
    """Return a network with tried settings of its head; of a control those of its twin's size."""
    own = dict(model.head_options)
    size = {name: value for name, value in settings.items() if name != "dropout"}
    others = {name: value for name, value in settings.items() if name == "dropout"}
    if model.head in assembly.CONTROLS:
        twin = _with_options(_sized(model), size, num_classes)
        return replace(model, head_options={**own, "match_options": twin.head_options, **others})
    if (factor := size.pop(spaces.WIDTH, None)) is not None:
        width = assembly.starting_width(model, num_classes)
        if width is not None:
            size["hidden_features"] = _scaled(width, factor)
    return replace(model, head_options={**own, **size, **others})


def _scaled(width: int | Sequence[int], factor: float) -> int | tuple[int, ...]:
    if isinstance(width, int):
        return max(1, round(width * factor))
    return tuple(max(1, round(one * factor)) for one in width)


def _with_settings(
    question: ComparisonSpec, label: str, model: ModelSpec, chosen: Mapping[str, Any]
) -> ComparisonSpec:
    """Return the question with what was found for a row.

    All options of its head are written down: a control would else follow what was found for the
    first row, which was not tried with it.
    """
    training = {name: chosen[name] for name in _OF_TRAINING if name in chosen}
    own = dict(question.other.get(label, {}))
    own["head_options"] = dict(model.head_options)
    own["train"] = {**own.get("train", {}), **training}
    return replace(question, other={**question.other, label: own})


def _open(cell: Cell) -> None:
    """Refuse the folder of a trial that was begun with other settings."""
    runs.RunFolder.start(
        cell.folder, cell.spec.to_dict(), read=lambda kept: RunSpec.from_dict(kept).to_dict()
    )


def _is_settled(folder: Path) -> bool:
    """Whether a trial is done, or failed for its settings and would again."""
    if runs.is_done(folder):
        return True
    failure = read_failure(folder)
    return failure is not None and failure.kind in ("diverged", "input")


# --- what was found -------------------------------------------------------------------------------


def _validated(folder: Path) -> Mapping[str, Any]:
    """Return the validation metrics of a trial; empty if it failed."""
    if not runs.is_done(folder):
        return {}
    return (runs.read_result(folder) or {}).get("val") or {}


def _metric(question: ComparisonSpec, plans: Mapping[str, Sequence[Trial]]) -> Metric:
    """Return what settings are judged by: the comparison's metric, or the task's own."""
    if question.metric is not None:
        return find_metric(question.metric)
    known = (_validated(trial.cell.folder) for plan in plans.values() for trial in plan)
    return find_metric("mse" if any("accuracy" not in v for v in known if v) else "accuracy")


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None


def _judged(
    question: ComparisonSpec, label: str, plan: Sequence[Trial], given: Collection[str]
) -> tuple[Tuned, dict[str, Any], Trial | None]:
    """Return what was found for a row, that with every trial for `tuning.json`, and the best."""
    metric = _metric(question, {label: plan})
    said = [_validated(trial.cell.folder) for trial in plan]
    values = [_number(val.get(metric.key)) for val in said]
    sign = 1.0 if metric.higher_is_better else -1.0
    # Of equal metrics the lower loss, then the earlier trial.
    ranks = {
        k: (sign * value, -(_number(said[k].get("loss")) or 0.0), -k)
        for k, value in enumerate(values)
        if value is not None
    }
    space = space_of(question, label, given)
    done = [value for value in values if value is not None]
    first = max(ranks, key=lambda k: ranks[k]) if ranks else None
    best = None if first is None else plan[first]
    curve = tuple(spaces.best_of(done, higher_is_better=metric.higher_is_better))
    margin = 0.0 if first is None else _margin(question, metric, said[first])
    tuned = Tuned(
        label=label,
        space={name: str(part) for name, part in space.items()},
        trials=len(plan),
        failed=len(plan) - len(done),
        chosen=None if best is None else dict(best.settings),
        curve=curve,
        edges=() if best is None else tuple(spaces.edges(space, best.settings)),
        untuned=spaces.still_rising(curve, margin),
    )
    tried = []
    for trial, value in zip(plan, values, strict=True):
        failure = read_failure(trial.cell.folder)
        one = {"run": trial.cell.folder.name, "settings": dict(trial.settings), "value": value}
        tried.append(one | ({"reason": failure.reason} if failure else {}))
    return tuned, asdict(tuned) | {"tried": tried}, best


def _margin(question: ComparisonSpec, metric: Metric, val: Mapping[str, Any]) -> float:
    """Return what gain does not matter; of a loss without a margin a share of what is lost."""
    if question.margin is not None:
        return question.margin
    if not metric.relative:
        return metric.margin
    value, r2 = _number(val.get(metric.key)) or 0.0, _number(val.get("r2"))
    # The mean loses as much as there is variance: its loss is that of the model over 1 - R2.
    known = metric.key == "mse" and r2 is not None and r2 < 1.0
    return metric.margin * abs(value / (1.0 - r2) if known and r2 is not None else value)


# --- files ----------------------------------------------------------------------------------------


def _keep(
    folder: Path,
    question: ComparisonSpec,
    trials: int,
    records: Sequence[Mapping[str, Any]],
    metric: str,
) -> None:
    """Write `tuning.json`, and put runs with other settings aside."""
    before = read_tuning(folder)
    stale = _stale(folder, question)
    looked = set() if before is None else set(before.looked)
    if before is not None and before.trials < trials and any(map(runs.is_done, stale)):
        looked.add(before.trials)
    kept = (read_mapping(folder / TUNING_FILE) or {}).get("rows") or []
    others = [row for row in kept if row["label"] not in question.heads]  # their runs are there
    record = {
        "schema": SCHEMA,
        "seed": TUNING_SEED,
        "trials": trials,
        "metric": metric,
        "looked": sorted(looked),
        "rows": [*records, *others],
    }
    files.write_kept(folder / TUNING_FILE, record)
    for path in stale:  # last: a run that was killed here does it now
        target = folder / TRIALS_FOLDER / "before" / path.name
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        with files.writing(target):
            (folder / "timing.json").unlink(missing_ok=True)  # the heads have other sizes
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def _stale(folder: Path, question: ComparisonSpec) -> list[Path]:
    """Return the folders of runs whose settings are no longer those found."""
    found = []
    for label, spec in zip(question.heads, question.of_unit(question.units()[0]), strict=True):
        assert isinstance(spec, RunSpec)
        for path in sorted((folder / "runs").glob("*")):
            if not runs.is_run(path):
                continue
            held = RunSpec.from_dict(runs.read_config(path))
            if path.name == run_name(label, held.unit) and not _alike(held, spec):
                found.append(path)
    return found


def _alike(one: RunSpec, other: RunSpec) -> bool:
    """Whether two runs have the same tuned settings, as files hold them."""
    held = [
        json.dumps([spec.model.head_options, spec.train.lr, spec.train.weight_decay])
        for spec in (one, other)
    ]
    return json.loads(held[0]) == json.loads(held[1])

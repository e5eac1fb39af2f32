"""The runs of a comparison as their folder holds them: finished, failed, and missing ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, check_values, read_fields
from spinalnet.comparison.baseline import Baseline
from spinalnet.comparison.schema import read_mapping, with_present_heads
from spinalnet.comparison.times import heads_to_dict, read_costs
from spinalnet.comparison.tuned import TuningFile, read_tuning
from spinalnet.comparison.units import Unit, run_name
from spinalnet.comparison.wording import listing
from spinalnet.training import RunRecord
from spinalnet.training import runs as folders

FAILED_FILE = "failed.json"
"""In the folder of a run that failed: why; gone when it is tried again."""

LOOKS_FILE = "looks.json"
"""How often a comparison was looked at, and after how many units: see `note_look`."""

# What is read of the files of a comparison and of its runs.
_QUESTION = {
    "heads": str | tuple[str, ...] | None,
    "seeds": int | tuple[int, ...] | None,
    "units": tuple[str, ...] | None,
    "epochs": int | None,
    "command": str | None,
    "metric": str | None,
    "margin": float | None,
}
_RESULT = {
    **dict.fromkeys(("params", "head_params", "head_macs", "macs"), int | None),
    "seed": int,
    "head": str,
    **dict.fromkeys(("label", "data", "model", "selected_on"), str | None),
    "task": Literal["classification", "regression"] | None,
    "unit": Mapping | None,
    "test": Mapping,
    "val": Mapping | None,
    "baseline": Mapping | None,
    "wiring": Mapping | None,
    "train_seconds": float | None,
    "epochs_run": int | None,
    "notes": tuple[str, ...] | None,
    "class_names": tuple[str, ...] | None,
    # Of a tuned table:
    "trials": tuple[Mapping[str, Any], ...] | None,
    "chosen": Mapping | None,
    "edges": tuple[str, ...] | None,
}
_TEST = {
    "n": int | None,
    "confusion": tuple[tuple[int, ...], ...] | None,
    **dict.fromkeys(("accuracy", "mse", "loss", "top5_accuracy"), float | None),
}


@dataclass(frozen=True)
class FinishedRuns:
    """A comparison folder as read: finished runs by row and unit, and what is missing.

    Attributes:
        question: What was asked (`comparison.yaml`); empty for a folder of single runs.
        timing: What heads cost (`timing.json`).
        runs: Rows in order, the first of which is the one compared, to runs by name of unit.
        units: All units that ran or were asked for, by name.
        failed: Why a run failed, by row and name of unit.
        unfinished: Names of runs that were begun.
        absent: Names of runs that were not.
        command: What made the runs.
        looks: Numbers of units at which the comparison was looked at before, and whether seeds
            were added until something was seen.
        tuning: What tuning found (`tuning.json`); None without it, and of tables.
    """

    question: Mapping[str, Any]
    timing: Mapping[str, Any] | None
    runs: Mapping[str, Mapping[str, RunRecord]]
    units: Mapping[str, Unit]
    failed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    command: str | None = None
    looks: tuple[int, ...] = ()
    stopping: bool = False
    tuning: TuningFile | None = None

    @property
    def records(self) -> list[RunRecord]:
        """All finished runs."""
        return [record for by_unit in self.runs.values() for record in by_unit.values()]

    @property
    def results(self) -> list[Mapping[str, Any]]:
        """Their results."""
        return [result_of(record) for record in self.records]

    @property
    def is_table(self) -> bool:
        """Whether they are of a table."""
        return self.results[0].get("model") == "table"

    @property
    def seen(self) -> int:
        """Number of units of which a report can tell: the runs of two rows have ended there."""
        ended = [{*by_unit, *self.failed.get(row, {})} for row, by_unit in self.runs.items()]
        return max((len(ended[0] & other) for other in ended[1:]), default=0)

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that ran or were asked for."""
        return tuple(sorted({unit.seed for unit in self.units.values()}))


def result_of(record: RunRecord) -> Mapping[str, Any]:
    """Return the result of a run that is finished."""
    return record.result or {}


def metric_of(result: Mapping[str, Any]) -> str:
    """Return what a result is first judged by: "accuracy", or "mse" of a regression."""
    return "accuracy" if "accuracy" in result["test"] else "mse"


def read_folder(folder: Path) -> FinishedRuns:
    """Read the folder of a comparison, or of a single run, and see that its runs belong together.

    Raises:
        InputError: If there is no finished run, or the runs do not belong together.
    """
    question = read_mapping(folder / "comparison.yaml") or {}
    with files.reading(folder / "comparison.yaml"):
        check_values(question, _QUESTION)
    question = with_present_heads(
        {"schema": 3 if "units" in question else 2, **question}, question.get("model")
    )
    timing = read_mapping(folder / "timing.json")
    with files.reading(folder / "timing.json"):
        costs = read_costs(timing)
    if timing is not None:
        timing = {**timing, "heads": heads_to_dict(costs)}
    looks = read_mapping(folder / LOOKS_FILE) or {}
    with files.reading(folder / LOOKS_FILE):
        check_values(looks, {"looks": tuple[int, ...] | None, "stopping": bool | None})
    finished, units, unfinished, failed = _by_row_and_unit(folder)
    asked = question.get("heads") or []
    asked = asked.split(",") if isinstance(asked, str) else list(asked)
    # Without the question the spinal head, the subject of this package, is the first.
    found = [*asked, *sorted({*finished, *failed}, key=lambda head: (head != "spinal", head))]
    order = [head for head in dict.fromkeys(found) if head in finished or head in failed]
    units |= {name: _unit_named(name) for name in _units_asked(question) if name not in units}
    units = dict(sorted(units.items(), key=lambda pair: _place(*pair)))
    comparison = FinishedRuns(
        question,
        timing=timing,
        runs={head: _in_order(finished.get(head, {}), units) for head in order},
        units=units,
        failed=failed,
        unfinished=tuple(unfinished),
        # A report that is written again keeps the command that the last one was given.
        command=question.get("command")
        or (read_mapping(folder / "summary.json") or {}).get("command"),
        looks=tuple(looks.get("looks") or ()),
        stopping=bool(looks.get("stopping")),
        tuning=read_tuning(folder),
    )
    for key in ("data", "model", "task"):
        values = sorted({str(result.get(key)) for result in comparison.results})
        if len(values) > 1:
            raise InputError(
                f"the runs of a comparison must share their {key}, got {listing(values)} in "
                f"'{folder}'. Keep one folder per comparison."
            )
    absent = [
        run_name(head, unit)
        for head in asked or order
        for name, unit in units.items()
        if name not in finished.get(head, {}) and name not in failed.get(head, {})
    ]
    # Folders of earlier versions have the names that their heads had then.
    begun = {*unfinished, *_present_names(question, comparison, unfinished)}
    return replace(comparison, absent=tuple(name for name in absent if name not in begun))


def note_look(folder: Path, count: int, *, stopping: bool = False) -> None:
    """Write down that a comparison was looked at after so many units.

    Adding seeds after a look is peeking; from then on its intervals allow for it.

    Args:
        folder: Of the comparison.
        count: Number of units.
        stopping: Whether seeds are added until something is seen.
    """
    held = read_mapping(folder / LOOKS_FILE) or {}
    looks = sorted({*(held.get("looks") or ()), count})
    stopping = stopping or bool(held.get("stopping"))
    if held != (made := {"looks": looks, "stopping": stopping}):
        files.write_kept(folder / LOOKS_FILE, made)


_Found = tuple[
    dict[str, dict[str, RunRecord]], dict[str, Unit], list[str], dict[str, dict[str, str]]
]


def _by_row_and_unit(folder: Path) -> _Found:
    """Return the finished runs, their units, the names of the unfinished, and why others failed."""
    finished: dict[str, dict[str, RunRecord]] = {}
    units: dict[str, Unit] = {}
    failed: dict[str, dict[str, str]] = {}
    unfinished = []
    for path in folders.find_runs(folder):
        if "tuning" in path.relative_to(folder).parts:
            continue
        record = folders.load_run(path)
        if not record.done or record.result is None:
            kept = files.read_json(record.path / FAILED_FILE)
            if not isinstance(kept, Mapping):
                unfinished.append(record.path.name)
                continue
            with files.reading(record.path / FAILED_FILE):
                check_values(kept, {"label": str, "unit": Mapping, "reason": str})
                unit = _unit_of(kept)
            failed.setdefault(kept["label"], {})[unit.name] = kept["reason"]
            units[unit.name] = unit
            continue
        record = _present(record)
        _check(record)
        result = result_of(record)
        label, unit = result.get("label") or result["head"], _unit_of(result)
        if unit.name in finished.setdefault(label, {}):
            raise InputError(
                f"a comparison holds one run per head and seed, got '{record.path.name}' and "
                f"'{finished[label][unit.name].path.name}' for {label}, {unit.name}. Move one away."
            )
        finished[label][unit.name] = record
        units[unit.name] = unit
    if not finished:
        told = [reason for by_unit in failed.values() for reason in by_unit.values()]
        if told:
            raise InputError(f"every run in '{folder}' failed: {told[0]}")
        raise InputError(
            f"a report needs a finished run, found only unfinished ones in '{folder}' "
            f"({listing(unfinished)}). Finish them with the command that started them."
        )
    return finished, units, unfinished, failed


def _present(record: RunRecord) -> RunRecord:
    """Return a run of any version with its head called as now."""
    result = record.result
    if not isinstance(result, Mapping) or "label" in result or "head" not in result:
        return record
    named = {"schema": 2, "head": result["head"]}
    head = with_present_heads(named, result.get("model"))["head"]
    return replace(record, result={**result, "head": head})


def _present_names(
    question: Mapping[str, Any], comparison: FinishedRuns, names: Sequence[str]
) -> list[str]:
    """Return what unfinished runs of a folder are called now, if it is of an earlier version."""
    if "units" in question:
        return []
    model = comparison.results[0].get("model")
    return list(with_present_heads({"schema": 2, "names": list(names)}, model)["names"])


def _unit_of(result: Mapping[str, Any]) -> Unit:
    kept = result.get("unit") or {"seed": result.get("seed")}
    return Unit(**read_fields(Unit, {k: v for k, v in kept.items() if k != "name"}, "unit"))


def _unit_named(name: str) -> Unit:
    """Return a unit that was asked for but never ran: of its kind only the seed counts."""
    _, _, seed = name.rpartition("seed")
    return Unit(int(seed) if seed.isdigit() else 0)


def _units_asked(question: Mapping[str, Any]) -> list[str]:
    """Return the names of the units asked for: a list, or seeds, or a number N of seeds from 0."""
    if units := question.get("units"):
        return list(units)
    asked = question.get("seeds") or []
    seeds = range(asked) if isinstance(asked, int) else asked
    return [Unit(seed).name for seed in seeds]


def _place(name: str, unit: Unit) -> tuple[Any, ...]:
    """Return what units are ordered by."""
    drawn = unit.resample
    where = (0, 0) if drawn is None else (drawn.repeat, drawn.index)
    return (unit.seed, *where, name) if drawn is None or drawn.kind == "split" else (*where, name)


def _in_order(
    by_unit: Mapping[str, RunRecord], units: Mapping[str, Unit]
) -> Mapping[str, RunRecord]:
    return {name: by_unit[name] for name in units if name in by_unit}


def _check(record: RunRecord) -> None:
    """See that a finished run's files hold what is read of them."""
    with files.reading(record.path / "result.json"):
        check_values(record.result, _RESULT)
        _unit_of(result_of(record))
        for trial in result_of(record).get("trials") or ():
            check_values(trial, {"score": float | None})
        test = result_of(record)["test"]
        check_values(test, _TEST)
        for name in ("accuracy", "top5_accuracy"):
            if not 0.0 <= (test.get(name) or 0.0) <= 1.0:
                raise InputError(f"{name} must be a share from 0 to 1, got {test[name]!r}.")
        matrix = test.get("confusion") or []
        if (baseline := result_of(record).get("baseline")) is not None:
            Baseline.from_dict(baseline)
        if any(len(row) != len(matrix) for row in matrix):
            raise InputError("the confusion must be square.")
    with files.reading(record.path / "environment.json"):
        check_values(record.environment, {})

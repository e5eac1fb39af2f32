"""What tuning found, as `tuning.json` and the runs of a table hold it; nothing here trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, check_values, read_fields
from spinalnet.comparison import spaces
from spinalnet.comparison.metrics import find_metric
from spinalnet.comparison.schema import check_version, read_mapping
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.units import run_name
from spinalnet.comparison.wording import listing
from spinalnet.training import runs

TUNING_FILE = "tuning.json"
TRIALS_FOLDER = "tuning"
"""Of the runs of trials, in the folder of a comparison."""

_TRIED = {"run": str, "settings": Mapping, "value": float | None}
_TODO = "restore it from a copy, or delete it and run the same command again"


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one row of a comparison.

    Attributes:
        label: The row.
        space: What was tried, for people, by setting.
        trials: Number of trials, the failed ones among them.
        failed: How many of them failed.
        chosen: The settings that were best on validation data; None if every trial failed. On a
            table, where every unit is tuned inside its training rows, a list by unit.
        curve: Expected best of k of the trials that did not fail, in numbers of the metric, for
            k = 1 to all of them.
        edges: Chosen settings that lie on an edge of the space.
        untuned: Whether the curve still rose by more than the margin in its last third.
    """

    label: str
    space: Mapping[str, str]
    trials: int
    failed: int
    chosen: Mapping[str, Any] | None
    curve: tuple[float, ...]
    edges: tuple[str, ...]
    untuned: bool


@dataclass(frozen=True)
class TuningFile:
    """The content of `tuning.json`.

    Attributes:
        rows: What was found, by row.
        seed: Of all trials.
        trials: How many every row was given.
        metric: What settings were judged by, on validation data.
        looked: Numbers of trials after which runs were made that were later replaced: whoever gave
            more trials then may have seen a result.
    """

    rows: tuple[Tuned, ...]
    seed: int
    trials: int
    metric: str
    looked: tuple[int, ...] = ()


def tuning_notes(rows: Sequence[Tuned], file: TuningFile | None = None) -> list[str]:
    """Return what a reader must know of the tuning of these rows, in sentences."""
    notes = []
    if len(counts := {row.trials for row in rows}) > 1:
        notes.append(f"Not every head was given as many trials: {min(counts)} to {max(counts)}.")
    if lost := [row.label for row in rows if row.chosen is None]:
        notes.append(f"Every trial failed of {listing(lost)}: settings are those before tuning.")
    if failed := [f"{row.label} ({row.failed})" for row in rows if row.failed and row.chosen]:
        notes.append(f"Some trials failed, of {listing(failed)}.")
    told = {row.label: ", ".join(row.edges).replace("(", "").replace(")", "") for row in rows}
    if on_edge := [f"{label} ({edges})" for label, edges in told.items() if edges]:
        notes.append(
            f"What was chosen lies on an edge of what was tried for {listing(on_edge)}: a wider "
            "space may hold better."
        )
    if untuned := [row.label for row in rows if row.untuned]:
        notes.append(
            f"Untuned: {listing(untuned)}. The expected best still rose by more than the margin in "
            "the last third of the trials, or fewer than three finished: give more trials."
        )
    if file is not None and file.looked:
        before = ", ".join(map(str, file.looked))
        notes.append(
            f"Tuning was extended from {before} to {file.trials} trials when runs had been tested: "
            "those whose settings changed were made again, and whoever gave more trials may have "
            "known the result."
        )
    return notes


def read_tuning(folder: Path) -> TuningFile | None:
    """Return what tuning left in the folder of a comparison; None if it was not tuned.

    Raises:
        InputError: If the file is damaged.
    """
    kept = read_mapping(folder / TUNING_FILE)
    if kept is None:
        return None
    with files.reading(folder / TUNING_FILE):
        check_values(kept, {"rows": tuple[Mapping[str, Any], ...]})
        check_version(kept)
        for row in kept["rows"]:
            _check_chosen(row, kept.get("metric"))
        rows = tuple({k: v for k, v in row.items() if k != "tried"} for row in kept["rows"])
        known = {k: v for k, v in kept.items() if k != "schema"} | {"rows": rows}
        return TuningFile(**read_fields(TuningFile, known, "field"))


def _check_chosen(row: Mapping[str, Any], metric: Any) -> None:
    """See that what was chosen for a row is the best of what was tried.

    Raises:
        InputError: If not.
    """
    check_values(row, {"label": str, "tried": tuple[Mapping[str, Any], ...] | None})
    tried = row.get("tried") or ()
    for one in tried:
        check_values(one, _TRIED)
    done = [one for one in tried if one["value"] is not None]
    if not done:
        return
    best = max if find_metric(str(metric)).higher_is_better else min
    value = best(one["value"] for one in done)
    if not any(one["settings"] == row.get("chosen") for one in done if one["value"] == value):
        raise InputError(
            f"the settings chosen for {row['label']} are not the best that were tried: {_TODO}."
        )


def check_trials(folder: Path) -> None:
    """Hold what tuning left in the folder of a comparison against its trials and its runs.

    Raises:
        InputError: If it is gone, damaged, or tells of other settings or values than theirs.
    """
    kept = read_tuning(folder)
    if kept is None:
        raise files.DamagedFile(
            f"{folder / TUNING_FILE} is gone: restore it from a copy, or run the same command "
            "again."
        )
    key = find_metric(kept.metric).key
    for row in (read_mapping(folder / TUNING_FILE) or {})["rows"]:
        for one in row.get("tried") or ():
            trial = folder / TRIALS_FOLDER / one["run"]
            if not runs.is_done(trial):
                continue
            asked = _asked(trial)
            own = one["run"].startswith(f"{run_name(row['label'], asked.unit)}-trial")
            value = ((runs.read_result(trial) or {}).get("val") or {}).get(key)
            if not own or value != one["value"] or not _has(asked, one["settings"]):
                raise files.DamagedFile(
                    f"{folder / TUNING_FILE} tells otherwise of {trial.name} than its folder: "
                    f"{_TODO}."
                )
        for path in sorted((folder / "runs").glob("*")):
            if runs.is_run(path):
                asked = _asked(path)
                own = path.name == run_name(row["label"], asked.unit)
                if own and not _has(asked, row.get("chosen") or {}):
                    raise files.DamagedFile(
                        f"{folder / TUNING_FILE} tells of other settings than {path.name} has: run "
                        "the same command again, which trains that anew."
                    )


def _asked(run: Path) -> RunSpec:
    return RunSpec.from_dict(runs.read_config(run))


def _has(asked: RunSpec, settings: Mapping[str, Any]) -> bool:
    """Whether a run was asked for with these settings of training; those of the head follow."""
    own = {name: getattr(asked.train, name) for name in ("lr", "weight_decay")}
    return all(own[name] == value for name, value in settings.items() if name in own)


def of_table(
    label: str,
    head: str,
    results: Sequence[Mapping[str, Any]],
    margin: float | None,
    *,
    higher_is_better: bool,
) -> Tuned | None:
    """Join what the runs of a row of a table hold of their tuning; None if they were not tuned.

    The curve is the mean over units. An edge is named if it was chosen in more than half of them.
    """
    held = [result for result in results if result.get("trials")]
    if not held:
        return None
    space = spaces.space_of(head)
    chosen = [result.get("chosen") or {} for result in held]
    curves = []
    for result in held:
        values = [t["score"] for t in result["trials"] if t.get("score") is not None]
        curves.append(spaces.best_of(values, higher_is_better=higher_is_better))
    length = min(map(len, curves))
    curve = tuple(fmean(one[k] for one in curves) for k in range(length))
    counts = Counter(edge for result in held for edge in result.get("edges") or ())
    names = [name for name in space if any(name in one for one in chosen)]
    return Tuned(
        label=label,
        space={name: str(space[name]) for name in names},
        trials=max(len(result["trials"]) for result in held),
        failed=sum(t.get("score") is None for result in held for t in result["trials"]),
        chosen={name: [one.get(name) for one in chosen] for name in names},
        curve=curve,
        edges=tuple(edge for edge, count in counts.items() if 2 * count > len(held)),
        untuned=spaces.still_rising(curve, margin or 0.0),
    )

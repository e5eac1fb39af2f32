"""What tuning found, as `tuning.json` and the runs of a table hold it; nothing here trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from spinalnet import files
from spinalnet._checks import check_values, read_fields
from spinalnet.comparison import spaces
from spinalnet.comparison.schema import check_version, read_mapping
from spinalnet.comparison.wording import listing

TUNING_FILE = "tuning.json"


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
        rows = tuple({k: v for k, v in row.items() if k != "tried"} for row in kept["rows"])
        known = {k: v for k, v in kept.items() if k != "schema"} | {"rows": rows}
        return TuningFile(**read_fields(TuningFile, known, "field"))


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

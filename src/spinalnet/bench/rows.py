"""What a benchmark reports: ratios within one run, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet.timing import Timing
from spinalnet.training import describe_origin


@dataclass(frozen=True)
class Row:
    """One comparison: `ratio` is baseline time over ours (above 1: ours is faster)."""

    case: str
    baseline: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    rounds: int


def compare(
    case: str,
    baseline: str,
    unit: str,
    work: int,
    timings: Mapping[str, Timing],
    *,
    ours: str = "ours",
    shortest: bool = False,
) -> Row:
    """Compare `work` units of two timings of one run.

    Medians, or the shortest rounds where one is short enough to escape other work.
    """
    mine, theirs = timings[ours], timings[baseline]
    my_time, their_time = (t.minimum if shortest else t.median for t in (mine, theirs))
    (low, high), (their_low, their_high) = mine.quartiles, theirs.quartiles
    rates = work / my_time, work / their_time, their_time / my_time
    return Row(case, baseline, unit, *rates, (their_low / high, their_high / low), mine.rounds)


def rows_table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| case | against | ours | theirs | ratio (quartiles) |", "|---|---|--:|--:|--:|"]
    for row in rows:
        low, high = row.ratio_quartiles
        lines.append(
            f"| {row.case} | {row.baseline} | {row.ours:,.0f} {row.unit} "
            f"| {row.theirs:,.0f} {row.unit} | {row.ratio:.1f}x ({low:.1f} to {high:.1f}) |"
        )
    return "\n".join(lines)


def write_result(path: str | Path, name: str, protocol: str, rows: Sequence[Any]) -> None:
    """Write rows with the command, the machine and the protocol that made them."""
    record = {"benchmark": name, "protocol": protocol, **describe_origin()}
    files.write_mapping(path, {**record, "rows": [asdict(row) for row in rows]})

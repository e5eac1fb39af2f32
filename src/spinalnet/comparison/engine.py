"""Runs the cells of a comparison: here, in worker processes, on a Ray cluster, or as a script.

Whatever runs them and however many at a time, the results are the same bits: every run has its own
number of threads and its own generators, and nothing is shared but files. A run that fails is
told and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.comparison.table_spec import TableSpec
    from spinalnet.training import Progress, RunRecord

FAILED_FILE = "failed.json"
"""In the folder of a run that failed: why; gone when it is tried again."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid and the folder it goes to."""

    spec: RunSpec | TableSpec
    folder: Path


@dataclass(frozen=True)
class Failure:
    """Why a run did not finish: `kind` for programs, `reason` as one sentence."""

    kind: Literal["diverged", "memory", "killed", "input", "error"]
    reason: str


@dataclass(frozen=True)
class Event:
    """What happens to a cell: `progress` while it trains, `record` when done, `failure` if not."""

    cell: Cell
    kind: Literal["started", "progress", "done", "failed"]
    worker: int = 0
    progress: Progress | None = None
    record: RunRecord | None = None
    failure: Failure | None = None


def run_cells(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    threads: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Failure | None]:
    """Run every cell that is not done; return what failed, in the order of the cells.

    Args:
        cells: What to run, in this order as far as `jobs` allows.
        jobs: Worker processes at a time; with 1 all runs in this process.
        threads: Threads of each run on the CPU, whatever `jobs` is.
        engine: "local", or "ray": on the cluster at `ray_address`.
        ray_address: As `ray.init` takes it; None for a cluster on this machine.
        on_event: Called in this process.

    Raises:
        KeyboardInterrupt: Workers are stopped; what was finished stays.
    """
    raise NotImplementedError

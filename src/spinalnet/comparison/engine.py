"""Runs the cells of a comparison: here, in worker processes, or on a Ray cluster.

Whatever runs them and however many at a time, the results are the same bits: every run has its own
number of threads and its own generators, and nothing is shared but files. A run that fails is
told and the others go on; a disk that fails, or is full, ends them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinalnet import _dist, files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison.cells import Bench, Cell, Event, Failure, Load
from spinalnet.comparison.finished import FAILED_FILE
from spinalnet.data.images import usable_cpus
from spinalnet.training import runs
from spinalnet.training.placement import resolve_device

if TYPE_CHECKING:
    from spinalnet.training import Progress

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Effort:
    """How the runs of a comparison are made; nothing of it changes a result.

    Attributes:
        jobs: Runs at a time, or "auto"; see `jobs_for`.
        threads: Threads of each run on the CPU.
        engine: "local" or "ray".
        ray_address: See `run_cells`.
        storage: See `run_cells`.
        on_event: Told of every run that begins, goes on, ends or fails.
    """

    jobs: int | Literal["auto"] = "auto"
    threads: int = 1
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    on_event: Callable[[Event], None] | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        check_positive("threads", self.threads)
        if self.jobs != "auto":
            check_positive("jobs", self.jobs)
        if self.engine not in ENGINES:
            raise unknown_name("engine", self.engine, ENGINES)
        if self.ray_address is not None and self.engine != "ray":
            raise InputError("ray_address has no meaning without engine=ray: leave it out.")
        if self.storage is not None and self.engine != "ray":
            raise InputError("storage has no meaning without engine=ray: leave it out.")


class _Listener(BaseException):
    """Carries what a listener raises through a run, which takes every `Exception` for its own."""


def read_failure(folder: Path) -> Failure | None:
    """Return why the run of a folder failed, or None."""
    kept = files.read_json(folder / FAILED_FILE)
    if not isinstance(kept, Mapping):
        return None
    return Failure(kept.get("kind", "error"), str(kept.get("reason", "it is not known why.")))


def jobs_for(jobs: int | Literal["auto"], cells: int, threads: int, device: str) -> int:
    """Return how many runs to make at a time.

    Args:
        jobs: What is asked for; with "auto" as many as there are processors for, but one where
            they would share a GPU, and under `torchrun`, whose processes make each run together.
        cells: Number of runs.
        threads: Threads of each.
        device: As in `TrainConfig`.

    Raises:
        InputError: If it is no number, or several under `torchrun`.
    """
    if jobs != "auto":
        if check_positive("jobs", jobs) > 1 and _dist.world_size() > 1:
            raise InputError(
                "under torchrun all processes make each run together: leave out jobs, or torchrun."
            )
        return jobs
    if _dist.world_size() > 1 or resolve_device(device).type != "cpu":
        return 1
    return max(1, min(usable_cpus() // threads, cells))


def run_cells(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    threads: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    load: Load | None = None,
    bench: Bench | None = None,
    on_event: Callable[[Event], None] | None = None,
    storage: str | None = None,
    on_idle: Callable[[], None] | None = None,
) -> list[Failure | None]:
    """Run every cell that is not done; return what failed, in the order of the cells.

    Args:
        cells: What to run, in this order as far as `jobs` allows.
        jobs: Worker processes at a time; with 1 all runs in this process.
        threads: Threads of each run on the CPU, whatever `jobs` is.
        engine: "local", or "ray": on the cluster at `ray_address`.
        ray_address: As `ray.init` takes it; None for a cluster on this machine.
        load: What loads the data of a run on images; `load_splits` without it. Where `jobs` is
            above 1 it must be a function that other processes can import.
        bench: What runs them in this process, which may have data already.
        on_event: Called in this process.
        storage: Address of a folder (s3://bucket/folder) through which the machines of a cluster
            that share no disk pass the runs on; None where all see the folders of the cells.
        on_idle: Called when a worker has no more to do while others still run.

    Raises:
        InputError: If the engine cannot be had, or `load` cannot be sent to other processes.
        NotWritten: If a run cannot write its files. Workers are stopped; what was finished stays.
        KeyboardInterrupt: Workers are stopped; what was finished stays.
    """
    if engine not in ENGINES:
        raise unknown_name("engine", engine, ENGINES)
    check_positive("threads", threads)
    failures: list[Failure | None] = [None] * len(cells)

    def tell(index: int, kind: Any, worker: int = 0, outcome: Any = None) -> None:
        names = {"progress": "progress", "done": "record", "failed": "failure"}
        if kind == "failed":
            failures[index] = outcome
        if on_event is not None:
            more = {names[kind]: outcome} if kind in names else {}
            on_event(Event(cells[index], kind, worker, **more))

    bench = bench or Bench(load)
    if engine == "local" and check_positive("jobs", jobs) == 1:
        for index in range(len(cells)):
            _run_here(bench, cells[index], threads, index, tell)
        return failures
    todo = []
    for index, cell in enumerate(cells):
        if runs.is_done(cell.folder):
            _run_here(bench, cell, threads, index, tell)
        else:
            todo.append(index)
    if engine == "ray":
        from spinalnet.comparison import engine_ray
        from spinalnet.comparison.storage import Storage

        shared = None if storage is None else Storage(storage)
        engine_ray.run(cells, todo, jobs, threads, ray_address, load, tell, shared)
    elif todo:
        from spinalnet.comparison import workers

        workers.run(cells, todo, jobs, threads, load, tell, on_idle)
    return failures


def _run_here(
    bench: Bench, cell: Cell, threads: int, index: int, tell: Callable[..., None]
) -> None:
    if not runs.is_done(cell.folder):
        tell(index, "started")

    def on_step(_: object, progress: Progress) -> None:
        try:
            tell(index, "progress", 0, progress)
        except Exception as error:  # the listener's, not the run's
            raise _Listener(error) from error

    try:
        outcome = bench.attempt(cell, threads, on_step)
    except _Listener as error:
        raise error.args[0] from None
    tell(index, "failed" if isinstance(outcome, Failure) else "done", 0, outcome)

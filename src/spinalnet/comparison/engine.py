"""Runs the cells of a comparison: here, in worker processes, or on a Ray cluster.

Whatever runs them and however many at a time, the results are the same bits: every run has its own
number of threads and its own generators, and nothing is shared but files. A run that fails is
told and the others go on.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from spinalnet import _dist, files
from spinalnet._checks import InputError, TrainingError, check_positive
from spinalnet.comparison.building import load_splits
from spinalnet.comparison.finished import FAILED_FILE
from spinalnet.comparison.running import run_one
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.table_spec import TableSpec
from spinalnet.comparison.tables import run_table
from spinalnet.data import Splits
from spinalnet.training import Progress, RunRecord, runs

Spec = RunSpec | TableSpec
Load = Callable[[RunSpec], Splits]
Kind = Literal["diverged", "memory", "killed", "input", "error"]


@dataclass(frozen=True)
class Cell:
    """One run of a grid and the folder it goes to."""

    spec: Spec
    folder: Path


@dataclass(frozen=True)
class Failure:
    """Why a run did not finish: `kind` for programs, `reason` as one sentence."""

    kind: Kind
    reason: str
    trace: str = ""  # of an error that nobody expected


@dataclass(frozen=True)
class Event:
    """What happens to a cell.

    Attributes:
        cell: Which.
        kind: "waiting" for each before the first begins.
        worker: Number of the process, from 0.
        progress: While it trains.
        failure: If it has failed.
        record: If it is done.
        total: Number of cells of the grid, with "waiting".
    """

    cell: Cell
    kind: Literal["waiting", "started", "progress", "done", "failed"]
    worker: int = 0
    progress: Progress | None = None
    failure: Failure | None = None
    record: RunRecord | None = None
    total: int | None = None


OnEvent = Callable[[Event], None]


def run_cells(
    cells: Sequence[Cell],
    *,
    jobs: int = 1,
    threads: int | None = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    load: Load | None = None,
    on_event: OnEvent | None = None,
) -> list[Failure | None]:
    """Run every cell that is not done; return what failed, in the order of the cells.

    Args:
        cells: What to run, in this order as far as `jobs` allows.
        jobs: Worker processes at a time; with 1 all runs in this process.
        threads: Threads of each run on the CPU, whatever `jobs` is; None leaves them.
        engine: "local", or "ray": on the cluster at `ray_address`.
        ray_address: As `ray.init` takes it; None for a cluster on this machine.
        load: What loads the data of a run of images, in this process; `load_splits` without it.
        on_event: Called in this process.

    Raises:
        KeyboardInterrupt: Workers are stopped; what was finished stays.
    """
    check_positive("jobs", jobs)

    def tell(event: Event) -> None:
        if on_event is None:
            return
        if event.kind == "done":
            event = replace(event, record=runs.load_runs(event.cell.folder)[0])
        on_event(event)

    for cell in cells[:1]:
        tell(Event(cell, "waiting", total=len(cells)))
    found: dict[Path, Failure | None] = {}
    waiting = []
    for cell in cells:
        if runs.is_done(cell.folder):
            # Opened all the same: another question in this folder is refused.
            found[cell.folder] = run_cell(cell)
            tell(Event(cell, "done"))
        else:
            waiting.append(cell)
    if engine == "ray":
        from spinalnet.comparison.engine_ray import run_on_ray

        found |= run_on_ray(waiting, threads or 1, ray_address, tell)
    elif jobs == 1 or len(waiting) < 2:
        with limited_threads(threads):
            source = Source(load)
            for cell in waiting:
                tell(Event(cell, "started"))
                found[cell.folder] = failure = run_cell(
                    cell,
                    source,
                    lambda step, cell=cell: tell(Event(cell, "progress", progress=step)),
                )
                tell(Event(cell, "failed" if failure else "done", failure=failure))
    else:
        if load is not None:
            raise InputError("data loaded by a function stay in this process: use jobs=1.")
        found |= _Pool(min(jobs, len(waiting)), threads or 1, tell).run(waiting)
    return [found[cell.folder] for cell in cells]


def choose_jobs(jobs: int | Literal["auto"], threads: int, device: str) -> int:
    """Return how many runs at a time: as many as there are processors, on one GPU one.

    Raises:
        InputError: If `jobs` is neither "auto" nor a number above 0, or several in one `torchrun`.
    """
    from spinalnet.training.placement import resolve_device

    if jobs != "auto":
        check_positive("jobs", jobs)
        if jobs > 1 and _dist.world_size() > 1:
            raise InputError("jobs=1 under torchrun, whose processes train each run together.")
        return jobs
    if _dist.world_size() > 1 or resolve_device(device).type != "cpu":
        return 1
    return max(1, processors() // threads)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Let torch, BLAS and OpenMP use so many threads, and as before at the end."""
    import torch
    from threadpoolctl import threadpool_limits

    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


class Source:
    """Loads the data of runs, and keeps the last: all heads of a unit have the same."""

    def __init__(self, load: Load | None = None) -> None:
        self._load = load or load_splits
        self._key: Any = None
        self._splits: Splits | None = None

    def __call__(self, spec: RunSpec) -> Splits:
        """Return the data of a run."""
        key = data_key(spec)
        if self._splits is None or key != self._key:
            self._splits = None  # not two at a time in memory
            self._splits, self._key = self._load(spec), key
        return self._splits


def data_key(spec: Spec) -> Any:
    """Return what decides the data of a run: equal keys, equal data."""
    if isinstance(spec, TableSpec):
        return spec.table, spec.unit
    return spec.data, spec.train.seed, spec.model.name, bool(spec.model.pretrained)


def run_cell(
    cell: Cell, source: Source | None = None, on_progress: Callable[[Progress], None] | None = None
) -> Failure | None:
    """Run one cell in this process; what goes wrong is written to its folder and returned.

    Under `torchrun` it is raised instead: the other processes cannot go on alone.
    """
    failed = cell.folder / FAILED_FILE
    with contextlib.suppress(OSError):
        failed.unlink(missing_ok=True)
    try:
        if isinstance(cell.spec, TableSpec):
            heard = None if on_progress is None else lambda _, step: on_progress(step)
            run_table(cell.spec, cell.folder, on_progress=heard)
        elif runs.is_done(cell.folder):
            run_one(cell.spec, cell.folder)
        else:
            splits = (source or Source())(cell.spec)
            tell = None if on_progress is None else lambda _, step: on_progress(step)
            run_one(cell.spec, cell.folder, splits=splits, on_progress=tell)
    except Exception as error:
        if _dist.world_size() > 1:
            raise
        failure = _explain(error)
        if failure.kind == "input" and runs.is_done(cell.folder):
            raise  # the folder is finished and answers another question
        write_failure(cell, failure)
        return failure
    return None


def write_failure(cell: Cell, failure: Failure) -> None:
    """Leave word of a failure in the folder of its run."""
    spec = cell.spec
    head = spec.model.head if isinstance(spec, RunSpec) else spec.head
    unit = asdict(spec.unit) | {"name": spec.unit.name}
    about = {"label": spec.label or head, "unit": unit}
    if not runs.is_run(cell.folder):  # it failed before its settings were written
        runs.RunFolder.start(cell.folder, spec.to_dict())
    files.write_mapping(cell.folder / FAILED_FILE, asdict(failure) | about)


def read_failure(folder: Path) -> Failure | None:
    """Return why the run of a folder failed, or None."""
    record = files.read_json(folder / FAILED_FILE)
    if not isinstance(record, Mapping):
        return None
    return Failure(record.get("kind", "error"), str(record.get("reason", "it is not known why")))


def _explain(error: Exception) -> Failure:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, TrainingError):
        return Failure("diverged", text)
    if isinstance(error, InputError):
        return Failure("input", text)
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return Failure("memory", f"it does not fit in memory ({text[:200]}).")
    trace = "".join(traceback.format_exception(error))
    return Failure("error", f"{type(error).__name__}: {text[:300]}", trace)


# --- worker processes -----------------------------------------------------------------------------

_EVERY = 0.2  # seconds between two words on the progress of a run


def _work(pipe: Connection, threads: int) -> None:
    """Run cells as they come, until there are no more or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    source = Source()
    with limited_threads(threads):
        while (cell := pipe.recv()) is not None:
            last = 0.0

            def tell(step: Progress) -> None:
                nonlocal last
                now = time.monotonic()
                if step.phase in ("epoch", "note") or now - last > _EVERY:
                    last = now
                    pipe.send(("progress", step))

            pipe.send(("done", run_cell(cell, source, tell)))


def _end_with(parent: Any) -> None:
    """End this process when the parent has ended, however that was."""
    parent.join()
    os._exit(1)


@dataclass
class _Worker:
    """One process and what it is at."""

    number: int
    process: Any
    pipe: Connection
    cell: Cell | None = None
    key: Any = None


class _Pool:
    """Worker processes, which are given one cell after another.

    Processes are started afresh (spawned), which works alike on all systems and after any use of
    threads.
    """

    def __init__(self, jobs: int, threads: int, tell: OnEvent) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._threads = threads
        self._tell = tell
        self._jobs = jobs

    def run(self, cells: Sequence[Cell]) -> dict[Path, Failure | None]:
        """Run all cells; return what failed by folder."""
        waiting = list(cells)
        found: dict[Path, Failure | None] = {}
        workers = [self._start(number) for number in range(self._jobs)]
        try:
            for worker in workers:
                self._give(worker, waiting)
            while any(worker.cell is not None for worker in workers):
                busy = [worker for worker in workers if worker.cell is not None]
                ready = wait([*(w.pipe for w in busy), *(w.process.sentinel for w in busy)])
                for worker in busy:
                    if worker.pipe in ready or worker.process.sentinel in ready:
                        self._listen(worker, waiting, found)
        finally:
            for worker in workers:
                with contextlib.suppress(OSError, ValueError):
                    worker.pipe.send(None) if worker.cell is None else worker.process.terminate()
            for worker in workers:
                worker.process.join(5)
                if worker.process.is_alive():
                    worker.process.kill()
        return found

    def _start(self, number: int) -> _Worker:
        """Start a process; the libraries it loads see the number of threads from the start."""
        ours, theirs = self._context.Pipe()
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, str(self._threads)))
        try:
            process = self._context.Process(
                target=_work, args=(theirs, self._threads), daemon=True, name=f"worker {number}"
            )
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        return _Worker(number, process, ours)

    def _give(self, worker: _Worker, waiting: list[Cell]) -> None:
        """Give a worker the next cell, if there is one on data it has loaded such a one."""
        if not waiting:
            return
        same = (i for i, cell in enumerate(waiting) if data_key(cell.spec) == worker.key)
        worker.cell = waiting.pop(next(same, 0))
        worker.key = data_key(worker.cell.spec)
        try:
            worker.pipe.send(worker.cell)
        except OSError:  # it has died; `_listen` finds that out
            return
        self._tell(Event(worker.cell, "started", worker.number))

    def _listen(
        self, worker: _Worker, waiting: list[Cell], found: dict[Path, Failure | None]
    ) -> None:
        """Take one message of a worker, or notice that it has died."""
        cell = worker.cell
        assert cell is not None
        try:
            what, content = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            code = worker.process.exitcode
            by = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            failure = Failure(
                "killed",
                f"its process ended with {by}"
                + (" (often for want of memory: try fewer jobs)." if code == -9 else "."),
            )
            write_failure(cell, failure)
            worker.__dict__.update(self._start(worker.number).__dict__)
            what, content = "done", failure
        if what == "progress":
            self._tell(Event(cell, "progress", worker.number, progress=content))
            return
        found[cell.folder] = content
        worker.cell = None
        self._tell(Event(cell, "failed" if content else "done", worker.number, failure=content))
        self._give(worker, waiting)

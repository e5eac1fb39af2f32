"""Runs cells as tasks of a Ray cluster, whose machines share the folder or a storage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet import files
from spinalnet._checks import BackendUnavailable, InputError, install_extra
from spinalnet.comparison.cells import Bench, Cell, Failure, Load, keep_failure
from spinalnet.comparison.storage import Storage, scratch
from spinalnet.comparison.workers import pickled

if TYPE_CHECKING:
    from spinalnet.training import Progress, RunRecord

_TRIES = 3  # times that a run whose worker was killed is given to another one

_benches: dict[str, Bench] = {}  # of a worker, which keeps the data of its last run


_PUT_EVERY = 60.0  # seconds between two copies of an unfinished run into the storage


def _run_cell(
    cell: Cell, threads: int, load: Load | None, storage: Storage | None
) -> RunRecord | Failure | files.NotWritten:
    """Be a task: run a cell, on from where a worker that was killed has left it."""
    bench = _benches.setdefault("here", Bench(load))
    try:
        return _run_by(bench, cell, threads, storage)
    except files.NotWritten as error:
        return error  # as what Ray makes of it, it would be the death of a worker


def _run_by(bench: Bench, cell: Cell, threads: int, storage: Storage | None) -> RunRecord | Failure:
    if storage is None:
        return bench.attempt(cell, threads)
    name, last = _stored(cell), time.monotonic()
    with scratch() as folder:
        here = replace(cell, folder=Path(folder) / cell.folder.name)
        storage.get(name, here.folder)

        def put(_: object, progress: Progress) -> None:
            nonlocal last
            if progress.row is not None and time.monotonic() - last >= _PUT_EVERY:
                storage.put(here.folder, name)
                last = time.monotonic()

        outcome = bench.attempt(here, threads, put)
        storage.put(here.folder, name)
    return outcome if isinstance(outcome, Failure) else replace(outcome, path=cell.folder)


def _stored(cell: Cell) -> str:
    """Return the name of a cell in the storage."""
    return "/".join(cell.folder.parts[-2:])


def run(
    cells: Sequence[Cell],
    todo: Sequence[int],
    jobs: int,
    threads: int,
    address: str | None,
    load: Load | None,
    tell: Callable[..., None],
    storage: Storage | None = None,
) -> None:
    """Run the cells with these numbers as tasks; see `engine.run_cells`.

    The cluster decides how many run at a time; one that is started for this takes `jobs`.

    Raises:
        BackendUnavailable: If there is no Ray, or no cluster at the address.
        InputError: If the storage cannot be used.
        NotWritten: If a run cannot write its files.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise BackendUnavailable(f"engine=ray needs ray: {install_extra('ray')}.") from error
    if storage is not None:
        storage.check()
    for index in todo:
        pickled((cells[index], load))
    own = not ray.is_initialized()
    if own:
        _connect(ray, address, jobs * threads)
    task = ray.remote(_run_cell).options(
        num_cpus=threads, max_retries=_TRIES, scheduling_strategy="SPREAD"
    )
    waiting: dict[Any, int] = {}
    try:
        for index in todo:
            waiting[task.remote(cells[index], threads, load, storage)] = index
            tell(index, "started", index)
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=1.0)  # so that Ctrl-C is heard
            for reference in ready:
                index = waiting.pop(reference)
                outcome = _outcome(ray, reference, cells[index])
                if storage is not None:
                    storage.get(_stored(cells[index]), cells[index].folder)
                if isinstance(outcome, files.NotWritten):
                    raise outcome
                kind = "failed" if isinstance(outcome, Failure) else "done"
                tell(index, kind, index, outcome)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
        if own:
            ray.shutdown()


def _connect(ray: Any, address: str | None, cpus: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address is None:
            ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"no Ray cluster can be used at '{address or 'this machine'}' ({reason}): give its "
            "ray_address, or leave out engine=ray."
        ) from error


def _outcome(ray: Any, reference: Any, cell: Cell) -> RunRecord | Failure | files.NotWritten:
    """Return what a task has returned, or how its workers died."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
        failure = Failure("killed", f"its workers were ended {_TRIES + 1} times ({reason}).")
        keep_failure(cell, failure)
        return failure

"""The same cells on a Ray cluster: one task a run, results through a folder that all nodes see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spinalnet._checks import InputError

if TYPE_CHECKING:
    from spinalnet.comparison.engine import Cell, Event, Failure

RETRIES = 3
"""How often a run whose worker was lost is given to another one."""


def run_on_ray(
    cells: Sequence[Cell], threads: int, address: str | None, tell: Callable[[Event], None]
) -> dict[Path, Failure | None]:
    """Run cells as tasks of a cluster; return what failed by folder.

    Every task has `threads` processors. A run goes on in its folder where a lost worker left it.

    Args:
        cells: What to run; their folders must be seen by all nodes.
        threads: Processors of a task.
        address: Of the cluster; None for the one this process is in, or one on this machine.
        tell: Called here when a cell is begun, done or failed.

    Raises:
        InputError: If Ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "engine=ray needs Ray: install the extra (pip install 'spinalnet[ray]')."
        ) from error
    from spinalnet.comparison.engine import Event, Failure, write_failure

    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"the Ray cluster cannot be reached: {error}.") from error
    task = ray.remote(num_cpus=threads, max_retries=RETRIES)(_task)
    found: dict[Path, Failure | None] = {}
    try:
        pending = {
            task.options(name=cell.spec.name).remote(_absolute(cell), threads): cell
            for cell in cells
        }
        for cell in cells:
            tell(Event(cell, "started"))
        while pending:
            (first,), _ = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(first)
            try:
                failure = ray.get(first)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()
                failure = Failure("killed", f"its worker was lost ({reason[0] if reason else ''}).")
                write_failure(cell, failure)
            found[cell.folder] = failure
            tell(Event(cell, "failed" if failure else "done", failure=failure))
    finally:
        if ours:
            ray.shutdown()
    return found


def _absolute(cell: Cell) -> Cell:
    """Return a cell whose folder does not depend on where a worker runs."""
    from dataclasses import replace

    return replace(cell, folder=cell.folder.resolve())


def _task(cell: Cell, threads: int) -> Failure | None:
    """Run one cell in a worker of the cluster."""
    from spinalnet.comparison.engine import limited_threads, run_cell

    with limited_threads(threads):
        return run_cell(cell)

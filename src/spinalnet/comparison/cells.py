"""One run of a comparison and what runs it: its folder, its threads, and why it failed.

What starts several, here or elsewhere, is `engine`.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from spinalnet import _dist, files
from spinalnet._checks import InputError, TrainingError
from spinalnet.comparison import building, running
from spinalnet.comparison.finished import FAILED_FILE
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.tables import running as table_running
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.locks import FolderInUse
from spinalnet.training import runs, trouble

if TYPE_CHECKING:
    from spinalnet.data import Splits
    from spinalnet.training import Progress, RunRecord

_log = logging.getLogger(__name__)

Load = Callable[[RunSpec], "Splits"]
OnStep = Callable[["RunSpec | TableSpec", "Progress"], None]


@dataclass(frozen=True)
class Cell:
    """One run of a grid and the folder it goes to."""

    spec: RunSpec | TableSpec
    folder: Path

    @property
    def data_key(self) -> object:
        """What is equal where two runs use the same data, which is then read once."""
        spec = self.spec
        if isinstance(spec, TableSpec):
            return None  # a table is small
        return spec.data, spec.train.seed, spec.model.name, spec.model.pretrained


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


class Bench:
    """What runs cells in one process, one after another; it keeps the data of the last one."""

    def __init__(self, load: Load | None = None) -> None:
        self._load = load or building.load_splits
        self._key: object = None
        self._splits: Splits | None = None

    def keep(self, cell: Cell, splits: Splits) -> None:
        """Take data that were already loaded for a cell."""
        self._key, self._splits = cell.data_key, splits

    def run(self, cell: Cell, on_step: OnStep | None = None) -> RunRecord:
        """Run a cell; of one that is done return what is there.

        Raises:
            Exception: Whatever ends the run.
        """
        spec = cell.spec
        if isinstance(spec, TableSpec):
            return table_running.run_table(spec, cell.folder, on_progress=on_step)
        if not runs.is_done(cell.folder) and (self._splits is None or self._key != cell.data_key):
            self._splits = None  # two of them may not fit
            began = time.perf_counter()
            self.keep(cell, self._load(spec))
            _log.debug("%s: data read in %.1f s", spec.name, time.perf_counter() - began)
        return running.run_one(spec, cell.folder, splits=self._splits, on_progress=on_step)

    def attempt(
        self, cell: Cell, threads: int, on_step: OnStep | None = None
    ) -> RunRecord | Failure:
        """Run a cell with so many threads; where it fails, write why into its folder.

        Raises:
            NotWritten: If a file cannot be written: its disk is that of all runs, and a word on it
                would have no room.
        """
        mark = cell.folder / FAILED_FILE
        with files.writing(mark):
            mark.unlink(missing_ok=True)
        try:
            with pinned(threads):
                return self.run(cell, on_step)
        except FolderInUse as error:
            return explained(error)  # nothing is written there: it is another's
        except files.NotWritten:
            raise
        except Exception as error:
            if _dist.world_size() > 1:
                raise  # the other processes of the job would wait for this one
            failure = explained(error)
            keep_failure(cell, failure, "".join(traceback.format_exception(error)))
            return failure


def explained(error: BaseException) -> Failure:
    """Say in one sentence why a run ended."""
    sentence = " ".join(str(error).split())
    if isinstance(error, TrainingError):
        return Failure("diverged", sentence)
    if isinstance(error, trouble.MemoryShort):
        return Failure("memory", sentence)
    if trouble.is_of_memory(error):
        return Failure(
            "memory",
            f"it does not fit in memory{trouble.asked_for(error)}: lower batch_size, or run fewer "
            "at a time (jobs=1).",
        )
    if isinstance(error, InputError):
        return Failure("input", sentence)
    return Failure("error", f"{type(error).__name__}: {sentence}")


def keep_failure(cell: Cell, failure: Failure, details: str | None = None) -> None:
    """Write into the folder of a run why it failed; `details` are for who mends a bug."""
    spec = cell.spec
    head = spec.model.head if isinstance(spec, RunSpec) else spec.head
    told = asdict(failure) | {"label": spec.label or head, "unit": spec.unit.to_dict()}
    told |= {"traceback": details} if details and failure.kind == "error" else {}
    if not runs.is_run(cell.folder):  # it failed before its settings were written
        running.open_folder(cell.folder, spec)
    files.write_kept(cell.folder / FAILED_FILE, told)


_LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def thread_variables(threads: int) -> dict[str, str]:
    """Return what tells numerical libraries, when they are loaded, how many threads to use."""
    return dict.fromkeys(_LIBRARIES, str(threads))


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Compute with so many threads, in torch and in all libraries that are or will be loaded."""
    import threadpoolctl

    before = {name: os.environ.get(name) for name in _LIBRARIES}
    of_torch = torch.get_num_threads()
    os.environ.update(thread_variables(threads))
    try:
        with threadpoolctl.threadpool_limits(threads):
            torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(of_torch)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Worker processes on this machine: those who start them, and what they do.

A worker is a fresh Python, on every system, so that nothing depends on what the caller's process
holds and a script that calls `compare` needs no guard around it. Orders come through its standard
input and answers go through its standard output, as pickles. When the input ends, which is also
what happens when the caller dies of anything, the worker ends at once: files appear whole or not at
all, so this costs no more than the running epoch.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import IO, Any

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison.cells import Bench, Cell, Failure, Load, keep_failure, thread_variables
from spinalnet.training import stopping

_TELL_EVERY = 0.2  # seconds between two steps that the caller is told of
_SAVING = 20.0  # seconds that a worker has to finish a step and save, when all is to end
_POLL = 0.5  # seconds after which a waiting caller listens to Ctrl-C, where the system needs that


def start(module: str, function: str, threads: int) -> subprocess.Popen[bytes]:
    """Start a Python that calls a function of a module, with pipes to and from it.

    It is in a group of its own: Ctrl-C reaches the caller alone, who then ends it.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function} as f; f()"
    on_windows = sys.platform == "win32"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **thread_variables(threads)},
        start_new_session=not on_windows,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if on_windows else 0,
    )


def pickled(what: object) -> bytes:
    """Return an order as bytes.

    Raises:
        InputError: If another process could not read it.
    """
    try:
        return pickle.dumps(what)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _not_sent(str(error)) from error


def _not_sent(reason: str) -> InputError:
    return InputError(
        f"this comparison cannot be sent to other processes ({reason}): use jobs=1, or give "
        "functions and classes that stand in a module."
    )


class _Worker:
    """One worker as the caller sees it; what it says goes into `said`."""

    def __init__(
        self, number: int, threads: int, load: Load | None, said: queue.SimpleQueue[Any]
    ) -> None:
        self.number = number
        self.index: int | None = None  # of the cell it runs
        self.data_key: object = None
        self._said = said
        order = pickled((threads, load))
        self._process = start(__name__, "serve", threads)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._send(order)

    def _send(self, order: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # if it is dead, its listener tells
            self._process.stdin.write(order)
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while True:
            try:
                self._said.put((self, pickle.load(self._process.stdout)))
            except (EOFError, OSError, pickle.UnpicklingError, ValueError):
                self._said.put((self, None))
                return

    def run(self, index: int, cell: Cell) -> None:
        """Give it a cell."""
        order = pickled(cell)
        self.index, self.data_key = index, cell.data_key
        self._send(order)

    def ask_to_end(self) -> None:
        """Ask it to save what it does, and to end."""
        self._process.terminate()

    def wait_for_end(self, seconds: float) -> None:
        """Wait until it has ended, so long at most."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, seconds))

    def end(self) -> int:
        """End it, whatever it does; return its exit code, below 0 if a signal had ended it."""
        code = self._process.poll()
        if code is None:
            self._process.kill()
        ended = self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # what was written to a dead worker
                pipe.close()
        return ended


def run(
    cells: Sequence[Cell],
    todo: Sequence[int],
    jobs: int,
    threads: int,
    load: Load | None,
    tell: Callable[..., None],
    on_idle: Callable[[], None] | None = None,
) -> None:
    """Run the cells with these numbers in up to `jobs` workers; see `engine.run_cells`."""
    pending = list(todo)
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers: dict[int, _Worker] = {}

    def give(worker: _Worker) -> None:
        worker.index = None
        if not pending:
            workers.pop(worker.number).end()
            if workers and on_idle is not None:
                on_idle()
            return
        index = _next(pending, cells, worker, workers.values())
        pending.remove(index)
        worker.run(index, cells[index])
        tell(index, "started", worker.number)

    def hire(number: int) -> None:
        workers[number] = _Worker(number, threads, load, said)
        give(workers[number])

    try:
        for number in range(min(jobs, len(pending))):
            hire(number)
        while workers:
            try:
                worker, message = said.get(timeout=_POLL)
            except queue.Empty:
                continue
            if workers.get(worker.number) is not worker:
                continue  # the last words of one that was sent away
            index = worker.index
            if message is None:
                failure = _death(workers.pop(worker.number).end())
                if index is not None:
                    keep_failure(cells[index], failure)
                    tell(index, "failed", worker.number, failure)
                if pending:
                    hire(worker.number)
                continue
            kind, outcome = message
            if kind == "refused":
                raise _not_sent(outcome)
            if kind == "unwritten":
                raise outcome
            tell(index, kind, worker.number, outcome)
            if kind != "progress":
                give(worker)
    except (KeyboardInterrupt, stopping.Interrupted, files.NotWritten):
        _let_save(workers.values())
        raise
    finally:
        for worker in workers.values():
            worker.end()


def _let_save(workers: Iterable[_Worker]) -> None:
    """Let workers finish their steps and save them, within reason."""
    until = time.monotonic() + _SAVING
    for worker in workers:
        worker.ask_to_end()
    for worker in workers:
        worker.wait_for_end(until - time.monotonic())


def _next(pending: Sequence[int], cells: Sequence[Cell], worker: _Worker, workers: Any) -> int:
    """Choose the next cell: one on the data the worker has, else on data that no other has."""
    taken = {other.data_key for other in workers if other is not worker and other.index is not None}
    for index in pending:
        if worker.data_key is not None and cells[index].data_key == worker.data_key:
            return index
    for index in pending:
        if cells[index].data_key not in taken:
            return index
    return pending[0]


def _death(code: int) -> Failure:
    """Say how a worker died that should not have."""
    if code >= 0:
        return Failure("killed", f"its worker process ended with exit code {code}.")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    reason = f"its worker process was ended by {name}"
    if name == "SIGKILL":
        reason += ", as the system does when memory runs out: run fewer at a time (jobs=1)"
    return Failure("killed", f"{reason}.")


def serve() -> None:
    """Be a worker: run the cells that come in until no more can come, or a signal ends it."""
    stopping.install(speaks=False)
    try:
        _serve()
    except stopping.Interrupted as error:
        os._exit(stopping.exit_code(error))


def _serve() -> None:
    orders, answers = pipes()
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(orders, waiting), daemon=True).start()

    def answer(kind: str, outcome: object) -> None:
        try:
            pickle.dump((kind, outcome), answers)
            answers.flush()
        except OSError:
            os._exit(0)  # the caller has ended, which is no failure of the run

    def order() -> Any:
        if isinstance(got := waiting.get(), Exception):
            answer("refused", f"{type(got).__name__}: {got}")
        return got

    threads, load = order()
    bench = Bench(load)
    while True:
        cell = order()
        told = 0.0

        def on_step(_: object, progress: Any) -> None:
            nonlocal told
            now = time.monotonic()
            if progress.phase == "train" and now - told < _TELL_EVERY:
                return
            told = now
            answer("progress", progress)

        try:
            outcome = bench.attempt(cell, threads, on_step)
        except files.NotWritten as error:
            answer("unwritten", error)
            os._exit(0)  # no further run has a disk
        answer("failed" if isinstance(outcome, Failure) else "done", outcome)


def pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Take the standard input and output for orders and answers; prints go to the errors."""
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return orders, answers


def _receive(orders: IO[bytes], waiting: queue.SimpleQueue[Any]) -> None:
    """Take orders in; when they end, the caller has ended or wants an end: so does this process."""
    while True:
        try:
            waiting.put(pickle.load(orders))
        except EOFError:
            os._exit(0)
        except Exception as error:  # it names something that this process cannot import
            waiting.put(error)
            return

"""Signals that end a run: where there is something to save, it is saved first.

The library leaves signals alone; the command works within `answering`. What trains into a folder
finishes its step when one comes and saves (`deferred`); everything else is ended where it is. A
second signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# torchrun passes Ctrl-C on to processes that the terminal has told already.
_SAME_SECONDS = 2.0

asked = 0
"""The signal that asked for an end which is put off to the end of a step; 0 without one."""

saved: Callable[[], str] | None = None
"""Says what the last run that was trained into a folder has saved there."""

_deferring = 0
_speaks = True
_first: float | None = None  # when the first signal came


class Interrupted(BaseException):
    """A signal has ended the work. No `Exception`, so that nobody takes it for a run's failure.

    Nor a `KeyboardInterrupt`, for which libraries of command lines have a way of their own.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Paused(BaseException):
    """Ends what is not a step, such as validation, so that its caller saves and ends."""


def exit_code(error: BaseException) -> int:
    """Return the exit code of a command that an `Interrupted` or a `KeyboardInterrupt` ended."""
    return 128 + getattr(error, "number", signal.SIGINT)


def install(*, speaks: bool = True) -> dict[int, Any]:
    """Let signals that end a process end its work in order; those that are ignored stay so.

    Args:
        speaks: Whether this process says that it was stopped; a worker leaves that to its command.

    Returns:
        What answered them before.
    """
    global _speaks
    _speaks = speaks
    before = {number: signal.getsignal(number) for number in _ENDING}
    before = {number: how for number, how in before.items() if how is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, _on_signal)
    return before


@contextmanager
def answering() -> Iterator[None]:
    """Let signals end the work inside in order; see `install`.

    After it they do what they did before, as there is nothing left to raise into. Under `torchrun`
    they do nothing: it tells all processes to end as soon as one has, and kills those that do not.
    """
    global _first
    _first = None
    before = install()
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with suppress(OSError, ValueError):  # nobody reads it, or it is closed
                stream.flush()
        for number, how in before.items():
            signal.signal(number, signal.SIG_IGN if "RANK" in os.environ else how)


@contextmanager
def deferred(what: Callable[[], str] | None) -> Iterator[None]:
    """Put signals off inside: whoever makes steps looks at `asked` after each, saves and ends.

    Args:
        what: Says in a sentence what is saved; None to put nothing off.
    """
    global _deferring
    if what is None:
        yield
        return
    with saying(what):
        _deferring += 1
        try:
            yield
        finally:
            _deferring -= 1
    end_if_asked()  # one that came after the last step


@contextmanager
def saying(what: Callable[[], str]) -> Iterator[None]:
    """Let `what` say what is saved of the work inside, which a signal ends where it is."""
    global saved
    saved = what
    try:
        yield
    finally:
        said = what()
        saved = lambda: said  # noqa: E731 (what was trained must not be held in memory)


def end_if_asked() -> None:
    """End the work if a signal was put off. Everything is saved.

    Raises:
        Interrupted: If so.
    """
    global asked
    if number := asked:
        asked = 0
        raise Interrupted(number)


def pause_if_asked() -> None:
    """Leave work that repeats itself, such as validation, if a signal was put off.

    Raises:
        Paused: If so.
    """
    if asked:
        raise Paused


def leave(number: int, sentence: str = "") -> None:
    """End the process now, as the signal would have; a terminal gets its cursor back."""
    if sys.stderr is not None and sys.stderr.isatty():
        sentence = f"\x1b[?25h{sentence}"
    if sentence:
        os.write(2, sentence.encode())
    os._exit(128 + number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global asked, _first
    now = time.monotonic()
    if _first is not None:
        if "RANK" in os.environ and now - _first < _SAME_SECONDS:
            return
        leave(number)
    _first = now
    if _deferring:
        asked = number
    elif _imports(frame):
        # Half a library is of no use, and an exception in it comes out as something else.
        if locks := sys.modules.get("spinalnet.locks"):  # which takes long to load
            locks.abandon()
        leave(number, "stopped.\n" if _speaks else "")
    else:
        raise Interrupted(number)


def _imports(frame: FrameType | None) -> bool:
    """Return whether a module is being imported where a signal has come."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

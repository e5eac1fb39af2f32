"""The right to write into a folder, for one process at a time.

The kernel keeps it (`flock` on an open file), so that a process that ends, however it ends, gives
it up. On a file system without such locks the presence of a file is the lock: it names its process,
and is taken over when that process is seen to be gone, which it can be on its own machine only.
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ParamSpec, TypeVar

from spinalnet import _dist
from spinalnet._checks import InputError
from spinalnet.files import check_file, open_own, writing
from spinalnet.texts import from_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl: ModuleType | None = None

LOCK_FILE = ".lock"
_BY_NAME = ".lock-owner"  # where there is no flock
LOCK_FILES = (LOCK_FILE, _BY_NAME)
"""Names of files that may lie in a folder for the lock's sake."""

_LOOK_AGAIN = 0.2  # seconds between two looks of one who waits
_HALF_WRITTEN = 10.0  # seconds after which a lock file that names nobody is taken for a dead one's
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


Asked = ParamSpec("Asked")
Made = TypeVar("Made")


class FolderInUse(InputError):
    """Another process, or another thread of this one, writes into the folder."""


@dataclass
class _Held:
    thread: int
    times: int
    give_up: Callable[[], None]
    descriptor: int | None
    made: list[Path]  # folders that were not there, the innermost first

    def end(self) -> None:
        """Give it up, and remove the folders that nothing was written into."""
        self.give_up()
        for folder in self.made:
            with suppress(OSError):  # something was written there
                folder.rmdir()


_held: dict[str, _Held] = {}
_guard = threading.Lock()


class FolderLock:
    """The right to write into a folder, while the block runs.

    Who has it may take it again in the same thread, as a comparison and what it calls both do.
    A folder that is not there is made, and is gone again if nothing was written into it.

    Args:
        folder: The folder.
        shared: Several may have it at once, but not beside one who has it alone.
        wait: Wait until it can be had, else refuse.
        on_wait: Called once with a sentence if there is anything to wait for.

    Raises:
        FolderInUse: If another has it; the sentence names the process.
        InputError: If the folder cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        shared: bool = False,
        wait: bool = False,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.shared, self.wait, self.on_wait = shared, wait, on_wait
        self._key = os.path.realpath(self.folder)
        self._made: list[Path] = []

    def __enter__(self) -> FolderLock:
        told = False
        while (holder := self._try()) is not None:
            if not self.wait:
                raise FolderInUse(
                    f"{self.folder} is in use by {holder}: end it, wait for it with wait=True, or "
                    "choose another folder."
                )
            if not told and self.on_wait is not None:
                self.on_wait(f"waiting for {self.folder}, which is in use by {holder}.")
            told = True
            time.sleep(_LOOK_AGAIN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with _guard:
            if (held := _held.get(self._key)) is None:  # in a child, which never had it
                return
            held.times -= 1
            if held.times:
                return
            del _held[self._key]
            held.end()

    def _try(self) -> str | None:
        """Take the lock, or return who has it."""
        with _guard:
            if (held := _held.get(self._key)) is not None:
                if held.thread != threading.get_ident():
                    return "another thread of this process"
                held.times += 1
                return None
            holder, give_up, descriptor = self._take()
            if give_up is not None:
                _held[self._key] = _Held(threading.get_ident(), 1, give_up, descriptor, self._made)
            return holder

    def _take(self) -> tuple[str | None, Callable[[], None] | None, int | None]:
        """Return (who has it, or None; what gives it up; the open file), of the file's lock."""
        path = self.folder / LOCK_FILE
        while True:
            with writing(path):
                self._make_folder()
                try:
                    descriptor = open_own(path, os.O_RDWR)
                except FileNotFoundError:  # another has just removed the folder it had made
                    continue
            if fcntl is None:
                os.close(descriptor)
                return (*self._take_by_name(), None)
            how = fcntl.LOCK_SH if self.shared else fcntl.LOCK_EX
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in _NO_LOCKS:
                    return (*self._take_by_name(), None)
                return _named(_read(path)), None, None
            if _is(descriptor, path):
                _write_holder(descriptor)
                give_up = functools.partial(_give_up, descriptor, path, self.shared)
                return None, give_up, descriptor
            os.close(descriptor)  # who had it has removed the file: take the one that is there now

    def _make_folder(self) -> None:
        missing = []
        folder = self.folder
        while not folder.exists() and folder != folder.parent:
            missing.append(folder)
            folder = folder.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made = missing or self._made

    def _take_by_name(self) -> tuple[str | None, Callable[[], None] | None]:
        """Return (who has it, or None; what gives it up), where the file's presence is the lock."""
        path = self.folder / _BY_NAME
        while True:
            if self.shared and not path.exists():
                return None, lambda: None
            try:
                with writing(path):
                    descriptor = open_own(path, os.O_WRONLY | os.O_EXCL)
            except InputError as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
                told = _read(path)
                if not _is_gone(path, told):
                    known = _named(told)
                    return f"{known} (if that is no longer so, delete {path})", None
                _put_away(path, told)
                continue
            _write_holder(descriptor)
            os.close(descriptor)
            if self.shared:
                path.unlink(missing_ok=True)
                return None, lambda: None
            return None, lambda: _remove(path, self.folder / LOCK_FILE)


def abandon() -> None:
    """Give up all that this process has, which ends now, wherever it is."""
    for held in reversed(_held.values()):  # what lies in a folder before that folder
        held.end()


def writes_alone(function: Callable[Asked, Made]) -> Callable[Asked, Made]:
    """Let a function have the folder that it is given as `out` to itself.

    `out` is None, a path, or something with one. Of a job of several processes the main one alone
    writes, and takes the lock.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def alone(*args: Asked.args, **kwargs: Asked.kwargs) -> Made:
        out = signature.bind(*args, **kwargs).arguments.get("out")
        if out is None or not _dist.is_main():
            return function(*args, **kwargs)
        with FolderLock(getattr(out, "path", out)):
            return function(*args, **kwargs)

    return alone


def _is(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        named = path.lstat()
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _give_up(descriptor: int, path: Path, shared: bool) -> None:
    """Remove the lock's file, if nobody else has it too, and let go of it."""
    assert fcntl is not None
    with suppress(OSError):
        if shared:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(descriptor, path):
            path.unlink()
    os.close(descriptor)


def _remove(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


# --- who has it -----------------------------------------------------------------------------------


def _write_holder(descriptor: int) -> None:
    """Write who has the lock, for the sentence that another is told."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    words = [name or "python", *sys.argv[1:]]
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "boot": _boot(),
        "began": _began(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(words)[:200],
    }
    with suppress(OSError):  # a full disk does not make the lock any less
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(about).encode())


def _read(path: Path) -> dict[str, Any]:
    """Return who has a lock; empty if that cannot be read."""
    try:
        check_file(path)
        with path.open("rb") as file:
            held = from_json(file.read(4096))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def _named(told: dict[str, Any]) -> str:
    if not told:
        return "another process"
    words = f"process {told.get('pid')}"
    if told.get("host") != socket.gethostname():
        words += f" on {told.get('host')}"
    return f"{words} ({told.get('command')}), since {told.get('since')}"


def _is_gone(path: Path, told: dict[str, Any]) -> bool:
    """Whether the process that a lock file names has ended; of another machine never known."""
    pid = told.get("pid")
    if not isinstance(pid, int) or pid < 1:
        with suppress(OSError):
            return time.time() - path.stat().st_mtime > _HALF_WRITTEN
        return False
    if told.get("host") != socket.gethostname():
        return False
    if told.get("boot") != _boot():
        return True
    if os.name == "nt":  # signal 0 would end it there
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return told.get("began") != _began(pid)  # another process may have its number now


def _put_away(path: Path, told: dict[str, Any]) -> None:
    """Remove a dead process's lock file, unless another has put its own there meanwhile."""
    aside = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    with suppress(OSError):
        path.rename(aside)
        if _read(aside) != told:
            path.hardlink_to(aside)
        aside.unlink()


def _boot() -> str:
    """Return what is another after every start of the machine; empty if it does not say."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _began(pid: int) -> str:
    """Return when a process began, in the kernel's own units; empty if it does not say."""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()[19]
    return ""


def _after_fork() -> None:
    """Let go of the files of locks in a child, which would else keep them when the parent ends."""
    global _guard
    _guard = threading.Lock()
    for held in _held.values():
        if held.descriptor is not None:
            with suppress(OSError):
                os.close(held.descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""Every call by which a process changes files below some folders: counted, and one made to fail.

Calls are met where Python makes them: opening for writing, each write to the system, fsync, rename,
link, unlink, truncate, mkdir. A write that fails, or in which the process is killed, has written
half, as on a disk that is full.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

Act = Callable[[str, str], None]
_RANDOM = re.compile(r"[0-9a-f]{16,}|\d+")  # what differs in names of files of one kind


def kill(what: str, path: str) -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Act:
    """Return what lets a call fail with an error number."""

    def fail(what: str, path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return fail


class Meddling:
    """Meets the calls of this process, from `install` on.

    Args:
        folders: Below which calls count.
        at: Number, from 0, of the call that is met with `act`; -1 for none.
        act: What is done then.
        sites: Of calls, the first of which is met so instead.
        sticky: Whether all further calls that need room are met likewise.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        at: int = -1,
        act: Act = kill,
        *,
        sites: Collection[str] = (),
        sticky: bool = False,
    ) -> None:
        self.folders = tuple(f"{folder}{os.sep}" for folder in folders)
        self.at, self.act, self.wanted, self.sticky = at, act, frozenset(sites), sticky
        self.where: str | None = None  # the site of the call that was met
        self.sites: list[str] = []  # of all calls: which call, of which file
        self.made: list[str] = []  # files that were put in place, or removed: see `kept`
        self.removed: set[str] = set()

    def kept(self) -> list[str]:
        """Return the files that were put in place whole and that nothing has removed since."""
        return sorted({path for path in self.made if path not in self.removed})

    def _is_met(self, what: str, path: str) -> bool:
        if not f"{path}{os.sep}".startswith(self.folders):
            return False
        number = len(self.sites)
        site = f"{what} {_RANDOM.sub('*', os.path.basename(path))}"  # noqa: PTH119
        self.sites.append(site)
        if self.where is None and (number == self.at or site in self.wanted):
            self.where = site
            return True
        needs_room = what in ("open", "write", "fsync", "mkdir")
        return self.sticky and self.where is not None and needs_room

    def meet(self, what: str, path: Any) -> None:
        """Count a call, and act if it is the one."""
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 (the call's own path, unresolved)
        if self._is_met(what, name):
            self.act(what, name)

    def install(self) -> None:
        """Meet the calls of this process from now on."""
        real_open, meddling = io.open, self

        class Raw(io.FileIO):
            def write(self, data: Any, /) -> int | None:
                name = os.path.abspath(str(self.name))  # noqa: PTH100
                if meddling._is_met("write", name):
                    whole = bytes(data)
                    super().write(whole[: len(whole) // 2])
                    meddling.act("write", name)
                return super().write(data)

        def opened(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: Any = None,
            errors: Any = None,
            newline: Any = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            writes = any(letter in mode for letter in "wax+")
            name = "" if isinstance(file, int) else os.path.abspath(os.fsdecode(file))  # noqa: PTH100
            if not writes or not name.startswith(self.folders):
                return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
            self.meet("open", name)
            raw = Raw(name, mode.replace("b", "").replace("t", ""), opener=opener)
            if buffering == 0:
                return raw
            binary = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline)

        io.open = builtins.open = opened  # type: ignore[assignment]
        for name, place in (
            ("replace", 1),
            ("rename", 1),
            ("link", 1),
            ("unlink", 0),
            ("remove", 0),
            ("mkdir", 0),
            ("rmdir", 0),
        ):
            setattr(os, name, self._watched(name, place, getattr(os, name)))
        for name in ("fsync", "ftruncate"):
            setattr(os, name, self._watched_number(name, getattr(os, name)))
        real = os.open

        def low(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.meet("open", path)
            return real(path, flags, *rest, **more)

        os.open = low

    def _watched(self, name: str, place: int, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **options: Any) -> Any:
            if options.get("dir_fd") is None:
                self.meet(name, paths[place])
            result = real(*paths, **options)
            path = os.path.abspath(os.fsdecode(paths[place]))  # noqa: PTH100
            if name in ("replace", "link"):
                self.made.append(path)
                self.removed.discard(path)
                if name == "replace":
                    self.removed.add(os.path.abspath(os.fsdecode(paths[0])))  # noqa: PTH100
            elif name in ("unlink", "remove", "rename"):
                self.removed.add(os.path.abspath(os.fsdecode(paths[0])))  # noqa: PTH100
            return result

        return call

    def _watched_number(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, *more: Any) -> Any:
            number = file if isinstance(file, int) else file.fileno()
            self.meet(name, os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
            return real(file, *more)

        return call

"""Folders as they lie: the image files below them, and a tally of everything else there.

Entries are looked at by kind before anything is opened, for a pipe would never end; files whose
ending says image or something else are not opened at all, so that 100,000 of them cost seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from spinalnet.data import contents
from spinalnet.texts import shown

# What systems put into folders, by name in lower case; hidden folders are known by their dot.
_SYSTEM_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "lost+found"),
        *("$recycle.bin", "system volume information", "recycler", "__macosx", "__pycache__"),
    )
)
_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "icon\r", "ehthumbs.db", "picasa.ini"))


# One folder is a reason of its own: left out because it was asked for, or unused unasked.
ASKED_FOLDER, UNASKED_FOLDER = "-", "!"
_FOLDERS = (ASKED_FOLDER, UNASKED_FOLDER)


class Reason(NamedTuple):
    """Why something is not used, as it is counted: "2 hidden files", ".heic 8 (no reader)"."""

    one: str
    many: str = ""  # empty: the number stands behind, as with endings; or a mark of one folder
    why: str = ""

    def said(self, count: int) -> str:
        """Return it with its number."""
        if self.many in _FOLDERS:
            return f"{self.one} ({count} file{'s' * (count != 1)})"
        text = f"{count} {self.one if count == 1 else self.many}"
        text = text if self.many else f"{self.one} {count}"
        return f"{text} ({self.why})" if self.why else text


_HIDDEN = Reason("hidden file", "hidden files"), Reason("hidden folder", "hidden folders")
_SYSTEM = Reason("system file", "system files"), Reason("system folder", "system folders")
_ASKED = Reason("file left out by its name", "files left out by their names")
_SPECIAL = Reason("pipe, socket or device", "pipes, sockets or devices")
_DEAD = Reason("dead link", "dead links")
_LOOP = Reason("link that leads back up", "links that lead back up")
_SHOWN = 8  # reasons in a note, but for unused folders; the list in the run folder has all


@dataclass
class Tally:
    """What lies in a folder and is not used: by reason, paths with the number of files each."""

    reasons: dict[Reason, dict[str, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def add(self, reason: Reason, path: str, files: int = 1) -> None:
        """Put down a path; the same one again changes nothing."""
        self.reasons.setdefault(reason, {})[path] = files

    def below(self, folder: str) -> Tally:
        """Return what of it lies below a folder."""
        start, found = folder.rstrip(os.sep) + os.sep, Tally()
        for reason, paths in self.reasons.items():
            for path, files in paths.items():
                if path.startswith(start):
                    found.add(reason, path, files)
        return found

    def said(self) -> str:
        """Return the reasons with their numbers; empty if there are none.

        Folders that are not used although nobody asked for it come first, all of them by name; the
        others follow, the commonest first.
        """
        rows = [(reason, sum(paths.values()), len(paths)) for reason, paths in self.reasons.items()]
        order = {UNASKED_FOLDER: 0, ASKED_FOLDER: 2}
        rows.sort(key=lambda row: (order.get(row[0].many, 1), -row[1], row[0]))
        parts = [
            reason.said(files if reason.many in ("", *_FOLDERS) else n) for reason, files, n in rows
        ]
        named = max(_SHOWN, sum(reason.many == UNASKED_FOLDER for reason, _, _ in rows))
        if more := len(parts[named:]):
            parts[named:] = [f"{more} more kind{'s' * (more > 1)}"]
        return "; ".join(parts)

    def note(self) -> str:
        """Return one sentence on all of it."""
        files = sum(sum(paths.values()) for paths in self.reasons.values())
        if not files:
            return f"Not used: {self.said()}."
        return f"{files} file{'s' * (files != 1)} not used: {self.said()}."

    def listing(self) -> str:
        """Return a line for every path: the reason and the path."""
        return "".join(
            f"{reason.one}{f' ({reason.why})' if reason.why else ''}\t{shown(path)}\n"
            for reason, paths in sorted(self.reasons.items())
            for path in sorted(paths)
        )


class Level(NamedTuple):
    """What lies directly in one folder, sorted by name: folders, and image files."""

    folders: list[str]
    images: list[str]


@dataclass
class Walk:
    """Goes through folders and puts down what is not used.

    Attributes:
        ignore: Patterns of names of files and folders that are left out, such as "test" or
            "*_mask.png"; with a "/" in it a pattern stands for the path below `root`.
        root: The folder that paths in patterns begin at.
        tally: What is not used.
        met: Those of the patterns that something was left out by.
    """

    ignore: Sequence[str] = ()
    root: str = ""
    tally: Tally = field(default_factory=Tally)
    met: set[str] = field(default_factory=set)

    def level(self, folder: str) -> Level:
        """Return what lies directly in a folder."""
        found = Level([], [])
        for path, is_folder in self._entries(folder):
            (found.folders if is_folder else found.images).append(path)
        return found

    def images(self, folder: str) -> list[str]:
        """Return the image files below a folder, sorted folder by folder."""
        above = frozenset(identity(parent) for parent in Path(folder).resolve().parents)
        return list(self._below(folder, above))

    def holds_images(self, folder: str) -> bool:
        """Return whether there is an image below a folder, without putting anything down."""
        return any(True for _ in replace(self, tally=Tally())._below(folder, frozenset()))

    def counted(self, folder: str) -> int:
        """Return how many files lie below a folder that is not used, links not followed."""
        return sum(len(names) for _, _, names in os.walk(folder))

    def _below(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        """Yield the image files below `folder`, which lies in the folders `above`."""
        here = identity(folder)
        if here in above:
            self.tally.add(_LOOP, folder, 0)
            return
        for path, is_folder in self._entries(folder):
            if is_folder:
                yield from self._below(path, above | {here})
            else:
                yield path

    def _entries(self, folder: str) -> list[tuple[str, bool]]:
        """Return folders (True) and image files (False) in a folder, by name; tally the rest."""
        found = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                what = self._look(entry, folder)
                path = entry.name if folder == "." else entry.path  # "x", not "./x"
                if isinstance(what, bool):
                    found.append((path, what))
                else:
                    self.tally.add(what, path, self._files(what, path))
        return found

    def _files(self, what: Reason, path: str) -> int:
        """Return how many files a path stands for; those of a system or a hidden folder are 0."""
        if what in (_HIDDEN[1], _SYSTEM[1], _LOOP):
            return 0
        return self.counted(path) if what.many == ASKED_FOLDER else 1

    def _look(self, entry: os.DirEntry[str], folder: str) -> Reason | bool:
        """Return True for a folder, False for an image file, else why an entry is neither."""
        name = entry.name
        try:
            is_folder = entry.is_dir()
            is_file = not is_folder and entry.is_file()
        except PermissionError:
            raise
        except OSError:  # a link to itself
            is_folder = is_file = False
        if self.ignore and self._ignored(entry):
            return Reason(f"folder {shown(name)}/ left out", ASKED_FOLDER) if is_folder else _ASKED
        if name.startswith("."):
            return _HIDDEN[is_folder]
        if name.lower() in (_SYSTEM_FOLDERS if is_folder else _SYSTEM_FILES):
            return _SYSTEM[is_folder]
        if is_folder:
            return _LOOP if entry.is_symlink() and _leads_up(entry.path, folder) else True
        if not is_file and (not entry.is_symlink() or Path(entry.path).exists()):
            return _SPECIAL
        if not is_file and not name.lower().endswith(contents.SUFFIXES):
            return _DEAD  # one called as an image is refused, as an image that is not there
        usable, why = contents.judge(name, lambda: _head(entry.path))
        return False if usable else _by_ending(name, why)

    def _ignored(self, entry: os.DirEntry[str]) -> bool:
        below = os.path.relpath(entry.path, self.root or ".").replace(os.sep, "/")
        met = _matching(below, self.ignore)
        self.met |= met
        return bool(met)


def _matching(below: str, patterns: Sequence[str]) -> set[str]:
    """Return the patterns that a path below the root fits; without a "/" they stand for a name."""
    name = below.rpartition("/")[2]
    return {
        pattern
        for pattern in patterns
        if fnmatchcase(below if "/" in pattern.rstrip("/") else name, pattern.rstrip("/"))
    }


def ignored_by(path: str, root: str, patterns: Sequence[str]) -> set[str]:
    """Return the patterns that leave out a file below `root`, or a folder that it lies in."""
    below = os.path.relpath(path, root).replace(os.sep, "/")
    ends = [at for at, sign in enumerate(below) if sign == "/"] + [len(below)]
    return set().union(*(_matching(below[:end], patterns) for end in ends))


def instead(walk: Walk, folder: str) -> str:
    """Say what a folder without images holds, once it has been gone through."""
    there = walk.tally.below(folder)
    return f"not used there: {there.said()}" if there else "it is empty"


def _by_ending(name: str, why: str) -> Reason:
    dot = name.rfind(".")
    ending = name[dot:].lower() if dot > 0 else ""
    # A number or a sentence behind the last dot is no kind of file.
    if not 1 < len(ending) < 12 or ending[1:].isdecimal() or " " in ending:
        return Reason("file without an ending", "files without an ending", why)
    return Reason(shown(ending), why=why)


def _leads_up(link: str, folder: str) -> bool:
    """Return whether a link in a folder leads to the folder itself or to one above it."""
    target, here = os.path.realpath(link), os.path.realpath(folder)
    return os.path.commonpath([target, here]) == target


def _head(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 (a Path per file costs more than the call)
        return file.read(contents.HEAD)


def identity(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """Return what tells a folder from all others, whatever path leads to it."""
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino

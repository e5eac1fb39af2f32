"""Where the files of some data lie, and whether the files of another place are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spinalnet import files
from spinalnet.data import readers
from spinalnet.data.folders import permission_explained
from spinalnet.data.request import DataSpec

_ENDS = 4096  # bytes that are looked at, at the beginning and at the end of a file
_LOOKED_INTO = 2000  # files at most; of the others name and size are enough


@dataclass(frozen=True)
class Fingerprint:
    """What tells a folder of files from others, wherever it lies.

    Attributes:
        files: How many there are.
        bytes: Their sizes together.
        digest: Of all names, below the folder, and sizes, and of both ends of up to 2,000 of the
            files, evenly spread.
    """

    files: int
    bytes: int
    digest: str


def places_of(spec: DataSpec) -> list[Path]:
    """Return the folders or files that data is read from; empty for data made in memory."""
    row = spec.row
    if row is not None:
        return readers.places(row, spec.data_dir)
    folder = Path(spec.name)
    if spec.data_dir is not None and not folder.exists():
        folder = files.expanded(spec.data_dir) / spec.name
    return [folder] if folder.exists() else []


def fingerprint(spec: DataSpec) -> Fingerprint | None:
    """Return the fingerprint of the files that data is read from; None where there are none.

    Raises:
        InputError: If a folder cannot be read.
    """
    places = places_of(spec)
    if not places:
        return None
    with permission_explained():
        found = sorted(one for place in places for one in _files(place))
        digest = hashlib.blake2b(digest_size=16)
        step = max(1, len(found) // _LOOKED_INTO)
        total = 0
        for number, (name, path) in enumerate(found):
            size = os.stat(path).st_size  # noqa: PTH116 (a Path takes several times as long)
            digest.update(f"{size} ".encode() + os.fsencode(name) + b"\0")
            if number % step == 0:
                digest.update(_ends(path, size))
            total += size
    return Fingerprint(len(found), total, digest.hexdigest())


def _files(place: Path) -> Iterator[tuple[str, str]]:
    """Yield (name below the place, path) of every file in it that is not hidden."""
    if place.is_file():
        yield place.name, str(place)
        return
    top = str(place)
    for folder, below, names in os.walk(top, onerror=_refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 (as above)
            if not name.startswith(".") and os.path.isfile(path):  # noqa: PTH113
                yield os.path.relpath(path, top).replace(os.sep, "/"), path


def _refuse(error: OSError) -> None:
    raise error


def _ends(path: str, size: int) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 (as above)
        begin = file.read(_ENDS)
        file.seek(max(len(begin), size - _ENDS))
        return begin + file.read(_ENDS)

"""Run folders in a storage that machines share by an address (`s3://…`, `gs://…`, `file://…`).

Whoever runs a cell works in a folder of its own disk, takes up what lies in the storage, and puts
back what it has made. The mark of a finished run comes last both ways, so that a copy that was
interrupted is never taken for a finished one.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinalnet import files, locks
from spinalnet._checks import InputError
from spinalnet.training import runs


@dataclass(frozen=True)
class Storage:
    """A folder behind an address, as fsspec reads it.

    Attributes:
        address: Such as "s3://bucket/comparison"; its protocol's own package must be there.
    """

    address: str

    def _open(self) -> tuple[Any, str]:
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise InputError(f"storage '{self.address}' cannot be used: {error}") from error

    def check(self) -> None:
        """See that it can be written and read.

        Raises:
            InputError: If not.
        """
        if "://" not in self.address:
            raise InputError(
                f"storage must be an address such as s3://bucket/folder, got '{self.address}': a "
                "folder that all machines see under one path is given as out."
            )
        system, root = self._open()
        probe = f"{root}/.probe"
        try:
            system.makedirs(root, exist_ok=True)
            system.pipe_file(probe, b"spinalnet")
            system.cat_file(probe)
            system.rm_file(probe)
        except Exception as error:  # every protocol has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"storage '{self.address}' cannot be written and read ({reason})."
            ) from error

    def put(self, folder: Path, name: str) -> None:
        """Copy what a run folder holds to `name` in the storage."""
        system, root = self._open()
        held = (path.name for path in folder.iterdir() if path.is_file())
        names = sorted(name for name in held if name not in locks.LOCK_FILES)
        target = f"{root}/{name}"
        system.makedirs(target, exist_ok=True)
        for one in _mark_last([one for one in names if not files.is_aside(one)]):
            system.pipe_file(f"{target}/{one}", (folder / one).read_bytes())
        for path in _paths(system, target):  # such as the state of a run that is finished now
            if path.rpartition("/")[2] not in names:
                system.rm_file(path)

    def get(self, name: str, folder: Path) -> bool:
        """Copy `name` of the storage into a run folder; return whether there was anything."""
        system, root = self._open()
        found = {path.rpartition("/")[2]: path for path in _paths(system, f"{root}/{name}")}
        for one in _mark_last(sorted(found)):
            folder.mkdir(parents=True, exist_ok=True)
            files.write_bytes(folder / one, system.cat_file(found[one]))
        if found:
            for path in folder.iterdir():
                if path.is_file() and path.name not in (*found, *locks.LOCK_FILES):
                    path.unlink()
        return bool(found)


def _paths(system: Any, folder: str) -> list[str]:
    try:
        return [str(one["name"]) for one in system.ls(folder, detail=True) if one["type"] == "file"]
    except FileNotFoundError:
        return []


def _mark_last(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: name == runs.DONE_FILE)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder on this machine's disk, which is gone when it is closed."""
    return tempfile.TemporaryDirectory(prefix="spinalnet-")

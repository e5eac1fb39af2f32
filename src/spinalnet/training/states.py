"""`state.pt`: what an interrupted run needs to go on. The last two are kept, each with its digest.

The file is what `torch.save` writes, a zip archive; the digest of it stands in the archive's
comment, so that one rename brings both, and any version of torch reads it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from spinalnet import files

STATE_FILE = "state.pt"
BEFORE_FILE = "state-before.pt"
"""The state before the last, which is used where that is damaged."""

_COMMENT = b"spinalnet blake2b "
_SEAL = len(_COMMENT) + 32  # bytes of the whole comment
_END, _END_SIZE = b"PK\5\6", 22  # of an archive: its last record, with the comment's length last
_PIECE = 1 << 20


class _Hashed:
    """A file that remembers the digest of what is written to it, and what the system refused."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.last = file, hashlib.blake2b(digest_size=16), b""
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        self.last = (self.last + bytes(data[-_END_SIZE:]))[-_END_SIZE:]
        return written

    def flush(self) -> None:
        try:
            self.file.flush()
        except OSError as error:
            self.error = error
            raise

    def seal(self) -> None:
        """Put the digest into the comment of the archive that was written."""
        if self.last[:4] == _END and self.last[-2:] == b"\0\0":
            self.file.seek(-2, os.SEEK_END)
            comment = _COMMENT + self.digest.hexdigest().encode()
            self.file.write(struct.pack("<H", len(comment)) + comment)


def save(folder: Path, state: Mapping[str, Any], *, durable: bool = True) -> None:
    """Replace the state of a run; the one before stays beside it.

    Args:
        folder: Of the run.
        state: Tensors, numbers, strings, lists and dicts only.
        durable: As in `files.replacing`.

    Raises:
        InputError: If it cannot be written.
    """
    target, size = folder / STATE_FILE, _bytes_of(state)
    with files.replacing(target, durable=durable, size=size) as file:
        hashed = _Hashed(file)
        try:
            torch.save(dict(state), hashed)  # type: ignore[arg-type]  # writes and flushes only
            hashed.seal()
        except RuntimeError as error:  # how torch reports what the system has refused
            if hashed.error is not None:
                raise hashed.error from None
            refused = OSError(0, str(error).splitlines()[0])
            raise files.not_written(target, refused, size) from error
        file.flush()
        if target.exists():
            _keep(target)


def _keep(target: Path) -> None:
    """Give the state a second name, under which it stays when it is replaced."""
    aside = target.with_name(f".{BEFORE_FILE}.{secrets.token_hex(8)}.tmp")
    try:
        aside.hardlink_to(target)
        aside.replace(target.with_name(BEFORE_FILE))
        # Where a kill came between this and the new state both are one file already, and renaming
        # one name of a file to another of its names does nothing.
        aside.unlink(missing_ok=True)
    except OSError:  # a disk without such links, or one with a fault
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        with suppress(OSError):
            target.replace(target.with_name(BEFORE_FILE))


def exists(folder: Path) -> bool:
    """Return whether a state was ever saved, so that the run can go on."""
    return any((folder / name).exists() for name in (STATE_FILE, BEFORE_FILE))


def remove(folder: Path) -> None:
    """Remove the states of a run that is done.

    Raises:
        InputError: If they cannot be removed.
    """
    for name in (STATE_FILE, BEFORE_FILE):
        with files.writing(folder / name):
            (folder / name).unlink(missing_ok=True)


def load(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """Return what `save` was last given, tensors on the CPU, and what the user should know.

    Returns:
        (the newest state that is whole, or None if there never was one; sentences)

    Raises:
        InputError: If there is one, and none is whole.
    """
    wrong: list[str] = []
    for name in (STATE_FILE, BEFORE_FILE):
        path = folder / name
        if not path.exists():
            continue
        if path.is_symlink() or not path.is_file():
            raise files.DamagedFile(
                f"{path} is a link, or no file, which no run of ours has put there: delete it."
            )
        try:
            state, sealed = _read(path)
        except files.DamagedFile as error:
            wrong.append(str(error).rstrip("."))
            continue
        if wrong:
            told = f"{STATE_FILE} was damaged: the run went on from {BEFORE_FILE}, one save older."
            return state, [told]
        if not sealed:
            return state, [f"{name} had no digest, as an earlier version wrote it: used unchecked."]
        return state, []
    if wrong:
        raise files.DamagedFile(
            f"{'; '.join(wrong)}: no state is whole; delete the run's folder and start again."
        )
    return None, []


def check(path: Path) -> bool | None:
    """Return whether a state file matches its digest; None if it has none.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL - _END_SIZE))
        end = file.read()
        if end[-_END_SIZE:][:4] == _END and end[-2:] == b"\0\0":
            return None
        length, comment = end[-_SEAL - 2 : -_SEAL], end[-_SEAL:]
        if length != struct.pack("<H", _SEAL) or not comment.startswith(_COMMENT):
            return False
        digest, left = hashlib.blake2b(digest_size=16), size - _SEAL - 2
        file.seek(0)
        while left > 0 and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
        digest.update(b"\0\0")  # the length of the comment, which was not there yet
        return digest.hexdigest().encode() == comment[len(_COMMENT) :]


def _read(path: Path) -> tuple[dict[str, Any], bool]:
    """Return a state and whether it had a digest."""
    try:
        sealed = check(path)
        if sealed is False:
            raise files.DamagedFile(f"{path} is damaged (its content does not match its digest)")
        files.check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except files.DamagedFile:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise files.DamagedFile(
            f"{path} cannot be read ({type(error).__name__}): it is damaged or not ours"
        ) from error
    if not isinstance(state, dict):
        raise files.DamagedFile(f"{path} holds no state of a run: it is damaged or not ours")
    return state, sealed is not None


def _bytes_of(value: Any) -> int:
    """Return about how many bytes a state takes, for the sentence that says there is no room."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes_of, value.values())) + 64
    return sum(map(_bytes_of, value)) if isinstance(value, list | tuple) else 64

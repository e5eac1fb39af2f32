"""Files that appear whole or not at all, and are noticed when damaged; weights; the cache.

Several processes may write one file at once: each writes aside under a name of its own, and the
last one's content stays. Who writes many that belong together takes a `locks.FolderLock`. What is
read may come from anybody: it is data, never code, and whatever it holds costs no more than its
size and one sentence.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.texts import from_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl: ModuleType | None = None

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEADER_KEY = "spinalnet"  # of our JSON string among the metadata of a safetensors file
_DIGEST_KEY = "blake2b"  # of the digest in that JSON, and in files that are kept
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DamagedFile(InputError):
    """A file does not hold what was written to it."""


class NotWritten(InputError):
    """A file cannot be written: the disk is full or broken, or the folder not ours."""


def damaged(path: str | os.PathLike[str], what_to_do: str = "") -> DamagedFile:
    """Return the error for a file whose content does not match its digest."""
    todo = what_to_do or "restore it from a copy, or delete the folder of its run and run it again"
    return DamagedFile(f"{path} is damaged (its content does not match its digest): {todo}.")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path that a person named: `~` at its beginning is the home folder.

    A shell does so for most words, but not for `--out=~/runs`, a quoted path, or one in Python.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path's raises for an unknown user)


def cache_folder(kind: str) -> Path:
    """Return the user's folder for what can be fetched or computed again: "data", "features"."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spinalnet" / kind


def save_weights(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    description: Mapping[str, Any] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write weights and their description to one safetensors file, replacing it whole.

    The header holds a digest of both. `durable` is as in `replacing`.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    about = dict(description or {})
    about[_DIGEST_KEY] = _digest_of(tensors, json.dumps(about, allow_nan=False))
    data = save(tensors, metadata={_HEADER_KEY: json.dumps(about)})
    with replacing(path, durable=durable, size=len(data)) as file:
        file.write(data)


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights (on the CPU) and the description that `save_weights` wrote.

    Raises:
        InputError: If the file is missing or has no description of ours.
        DamagedFile: If it does not match its digest; an earlier version wrote none.
    """
    from safetensors import SafetensorError

    path = expanded(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: give the folder of a run that has trained.")
    try:
        tensors, header = _read_safetensors(path)
        description = from_json(header[_HEADER_KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not a checkpoint of spinalnet, or it is damaged ({error}): "
            "give a model.safetensors that a run has written."
        ) from error
    if isinstance(description, dict):
        digest = description.pop(_DIGEST_KEY, None)
        if digest not in (None, _digest_of(tensors, json.dumps(description))):
            raise damaged(path)
    return tensors, description


def digest_in(path: str | os.PathLike[str]) -> str | None:
    """Return the digest in the header of a file of weights; None if it says none."""
    from safetensors import SafetensorError, safe_open

    try:
        check_file(Path(path))
        with safe_open(path, framework="pt", device="cpu") as file:
            described = from_json((file.metadata() or {})[_HEADER_KEY])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    digest = described.get(_DIGEST_KEY) if isinstance(described, dict) else None
    return digest if isinstance(digest, str) else None


def digest_of(data: bytes) -> str:
    """Return the digest of some bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest_of(tensors: Mapping[str, Tensor], description: str) -> str:
    """Return a digest of names, kinds, shapes and numbers, and of the text that describes them."""
    import torch

    digest = hashlib.blake2b(description.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_file(path: Path) -> None:
    """See that something is a file: a pipe would be waited for.

    Raises:
        ValueError: If it is none.
    """
    if not path.is_file():
        raise ValueError(_what_is(path))


def check_archive(path: Path) -> None:
    """Refuse an archive that is larger when it is unpacked, which torch writes none of.

    Raises:
        ValueError: If it is; what is no archive at all may pass.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(part.file_size for part in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError("it is packed, and may be of any size when it is unpacked")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file."""
    from safetensors import safe_open

    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        return tensors, file.metadata() or {}


def write_mapping(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Replace a `.yaml` or `.json` file whole; in JSON, numbers that are not finite become null."""
    if Path(path).suffix == ".yaml":
        text = to_yaml(json.loads(json.dumps(values)))
    else:
        text = to_json(values)
    write_text(path, text)


def write_kept(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Replace a `.yaml` or `.json` file by which decisions are made later: it holds its digest.

    `checked` returns the same values, as every reader here does.
    """
    write_mapping(path, sealed(values))


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values and, last among them, the digest of the others."""
    others = unsealed(values)
    return {**others, _DIGEST_KEY: _digest_of_values(others)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without the digest that a file holds of them."""
    return {name: value for name, value in values.items() if name != _DIGEST_KEY}


def is_sealed(path: Path) -> bool:
    """Return whether a JSON file holds a digest, be it the right one.

    Raises:
        InputError: If it cannot be read.
    """
    return path.is_file() and f'"{_DIGEST_KEY}"' in read_text(path)


def checked(path: Path | str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a file without their digest, which an earlier version did not write.

    Raises:
        DamagedFile: If they are not those that it was made of.
    """
    digest = values.pop(_DIGEST_KEY, None)
    if digest not in (None, _digest_of_values(values)):
        raise damaged(path, "restore it from a copy, or delete it and run the same command again")
    return values


def _digest_of_values(values: Mapping[str, Any]) -> str:
    """Return the digest of what comes back from a file: lists, text as names, no NaN."""
    return digest_of(json.dumps(_strict(values), sort_keys=True).encode())


def to_json(values: Mapping[str, Any]) -> str:
    """Return strict JSON: numbers that are not finite become null."""
    text = _indented(_strict(values), "") + "\n"
    # File names may hold bytes that are no text; escaped like this they are JSON and come back.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _indented(value: Any, before: str) -> str:
    """Return strict JSON over several lines, but numbers of a list in one, as a person writes them.

    A line for each number makes the confusions of 300 classes ten times as slow to write.
    """
    inner = before + "  "
    if isinstance(value, Mapping) and value:
        rows = (f"{_plain_json(str(key))}: {_indented(one, inner)}" for key, one in value.items())
        return "{\n" + ",\n".join(inner + row for row in rows) + f"\n{before}}}"
    if isinstance(value, list | tuple) and not _NUMBERS.issuperset(map(type, value)):
        return "[\n" + ",\n".join(inner + _indented(one, inner) for one in value) + f"\n{before}]"
    return _plain_json(value)


_NUMBERS = {int, float, bool, type(None)}
_AS_THEY_ARE = {int, bool, str, type(None)}


def _plain_json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def write_rows(path: str | os.PathLike[str], values: Mapping[str, Any], *keys: str) -> None:
    """Write JSON in which each row of the lists `keys` is a line: a new row is a line of a diff.

    It holds its digest, as `write_kept` would write it.
    """
    values = sealed(values)
    head = {key: value for key, value in values.items() if key not in keys}
    text = json.dumps(_strict(head), indent=1, allow_nan=False).removesuffix("\n}")
    for key in keys:
        rows = ",\n".join("  " + json.dumps(_strict(row), allow_nan=False) for row in values[key])
        text += f',\n "{key}": [\n{rows}\n ]'
    write_text(path, text + "\n}\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file whole, as UTF-8, making its folder if need be.

    Raises:
        InputError: If it cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace a file whole, making its folder if need be.

    Raises:
        InputError: If it cannot be written.
    """
    with replacing(path, size=len(data)) as file:
        file.write(data)


@contextmanager
def replacing(
    path: str | os.PathLike[str], *, durable: bool = True, size: int | None = None
) -> Iterator[IO[bytes]]:
    """Open a file that becomes `path` when the block ends, and vanishes if it fails.

    A reader, or a crash, finds the old content or the new. The folder is made if need be, and what
    a process killed while it wrote the same file has left aside is removed.

    Args:
        path: The file.
        durable: Wait until it is on the disk, which takes milliseconds; without, the machine
            losing power may lose it, while the process may end as it likes.
        size: Bytes that will be written, for the sentence that says there is no room; where it is
            not given, those that were.

    Raises:
        InputError: If it cannot be written.
    """
    path = expanded(path)
    with writing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(path)
        aside, file = _open_aside(path)
        try:
            with file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
                if fcntl is not None:
                    aside.replace(path)  # under its lock, or another might take it for a dead one's
            if fcntl is None:
                aside.replace(path)  # Windows renames no open file
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _open_aside(path: Path) -> tuple[Path, IO[bytes]]:
    """Open the file that becomes `path`, locked for as long as it is open."""
    while True:
        # A name of its own, which nobody can guess: another process may be writing the same file
        # right now, and "x" neither follows a link that lies there nor opens a file that does.
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        file = aside.open("xb")
        if fcntl is None:
            return aside, file
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            taken = True
        except OSError:  # a file system without locks, where nothing is taken for dead
            taken = False
        else:
            taken = not aside.exists()
        if not taken:
            return aside, file
        file.close()  # another took it for a dead one's in the moment before it was locked


def _remove_dead(path: Path) -> None:
    """Remove what processes that were killed in `replacing` a file have left: nobody has its lock.

    A run's folder is cleaned when the run is taken up. This is for files that lie among a user's
    own, where no name but this file's is ours.
    """
    if fcntl is None:
        return
    of_this = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.tmp")
    with suppress(OSError), os.scandir(path.parent) as entries:
        left = [entry.path for entry in entries if of_this.fullmatch(entry.name)]
        for name in left:
            with suppress(OSError):  # its writer lives, or there are no locks; it costs room only
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name)  # noqa: PTH108 (what scandir gave)
                finally:
                    os.close(descriptor)


_CLONE = 0x40049409  # of Linux: let two files share their bytes until one of them is changed


def clone(source: Path, target: Path) -> None:
    """Replace a file by a copy of another, which shares its bytes where the disk can do that.

    Raises:
        InputError: If it cannot be written.
    """
    with source.open("rb") as read, replacing(target, size=source.stat().st_size) as file:
        try:
            if fcntl is None:
                raise OSError
            fcntl.ioctl(file.fileno(), _CLONE, read.fileno())
        except OSError:  # another disk, or one that cannot
            shutil.copyfileobj(read, file, 1 << 20)


def write_figure(path: str | os.PathLike[str], drawn: Axes | Figure) -> None:
    """Replace a PNG file by a figure of matplotlib's, or the one that axes are on.

    Raises:
        InputError: If it cannot be written.
    """
    with replacing(path) as file:
        drawn.figure.savefig(file, format="png", dpi=110)  # type: ignore[union-attr]


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file of a folder for writing in place; it is made if need be.

    Raises:
        OSError: If what lies there is a link, a second name of a file that may lie anywhere, or no
            file at all: whoever has put it there would have us write elsewhere, or wait for ever.
    """
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | os.O_CREAT | safe, 0o666)
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode) and about.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ELOOP, "it is no file of its own, but another name of one, or a pipe")


def is_aside(name: str) -> bool:
    """Return whether a file of this name is what a process killed in `replacing` left."""
    return name.startswith(".") and name.endswith(".tmp")


def remove_asides(folder: Path) -> None:
    """Remove what processes killed in `replacing` left in a folder that nobody else writes to."""
    for path in folder.iterdir():
        if is_aside(path.name):
            with suppress(OSError):  # it costs room only
                path.unlink()


def flush_to_disk(file: IO[Any]) -> None:
    """Return when what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn a failed write, of so many bytes, into one sentence."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error, size) from error


@contextmanager
def writing_cache() -> Iterator[None]:
    """Say where the cache is that cannot be written."""
    try:
        yield
    except NotWritten as error:
        raise NotWritten(f"{error} (XDG_CACHE_HOME says where the cache is.)") from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it is whose content cannot be used."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error


def not_written(path: Path, error: OSError, size: int | None = None) -> NotWritten:
    """Return the error for a file, of so many bytes, that cannot be written."""
    reason = error.strerror or str(error)
    if error.errno == errno.ELOOP and os.path.lexists(path):  # see `open_own`
        reason = "it is a link" if path.is_symlink() else reason
        return NotWritten(
            f"cannot write {path}: {reason}, which is not written through: remove it."
        )
    if error.errno not in _NO_ROOM:
        return NotWritten(
            f"cannot write {path}: {reason}. Choose a folder that can be written, or free some "
            "space."
        )
    needed = "" if size is None else f", {size:,} bytes needed"
    with suppress(OSError):
        needed += f", {shutil.disk_usage(path.parent).free:,} free"
    return NotWritten(
        f"cannot write {path}: {reason}{needed}. Make room and run the same command again; what "
        "was written before is whole."
    )


def to_yaml(value: Any) -> str:
    """Return plain values as YAML, in their order."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


_LARGEST = 64 * 2**20  # bytes of a text file


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8.

    Raises:
        InputError: If it cannot be read, is too large, or is no text.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path} cannot be read: {_what_is(path)}.")
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} cannot be read: it is larger than {_LARGEST:,} bytes.")
        data = path.read_bytes()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError(f"{path} cannot be read: it is text in UTF-16; save it as UTF-8.")
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: it is damaged ({error}).") from error


def _what_is(path: Path) -> str:
    """Say what lies in the place of a file."""
    if path.is_dir():
        return "it is a folder"
    return "it is no file" if path.exists() else "there is no such file"


def read_json(path: Path, *, digest: str | None = None) -> dict[str, Any] | None:
    """Return the mapping that a JSON file holds; None if there is no such file.

    Args:
        path: The file.
        digest: What `digest_of` must say of it.

    Raises:
        InputError: If it is damaged, or holds no mapping.
    """
    if not path.is_file():
        return None
    text = read_text(path)
    if digest is not None and digest != digest_of(text.encode()):
        raise damaged(path)
    try:
        held = from_json(text)
    except ValueError as error:
        raise InputError(f"{path} cannot be read: it is damaged ({error}).") from error
    if not isinstance(held, dict):
        raise InputError(
            f"{path} cannot be used: a mapping of names to values belongs there, got "
            f"{reprlib.repr(held)}."
        )
    return checked(path, held)


def _strict(value: Any) -> Any:
    """Return `value` with numbers that JSON has no word for replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if _AS_THEY_ARE.issuperset(map(type, value)):  # a confusion of many classes has thousands
            return list(value)
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

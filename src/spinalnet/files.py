"""Files that appear whole or not at all, weights with their description, the cache.

Several processes may write one file at once: each writes aside under a name of its own, and the
last one's content stays.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor

from spinalnet._checks import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADER_KEY = "spinalnet"  # of our JSON string among the metadata of a safetensors file


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

    `durable` is as in `replacing`.
    """
    from safetensors.torch import save

    header = {_HEADER_KEY: json.dumps(description or {}, allow_nan=False)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    with replacing(path, durable=durable) as file:
        file.write(save(tensors, metadata=header))


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights (on the CPU) and the description that `save_weights` wrote.

    Raises:
        InputError: If the file is missing, damaged, or has no description of ours.
    """
    from safetensors import SafetensorError

    path = expanded(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: give the folder of a run that has trained.")
    try:
        tensors, header = _read_safetensors(path)
        description = json.loads(header[_HEADER_KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not a checkpoint of spinalnet, or it is damaged ({error}): "
            "give a model.safetensors that a run has written."
        ) from error
    return tensors, description


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


def to_json(values: Mapping[str, Any]) -> str:
    """Return strict JSON: numbers that are not finite become null."""
    text = json.dumps(_strict(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    # File names may hold bytes that are no text; escaped like this they are JSON and come back.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that becomes `path` when the block ends, and vanishes if it fails.

    A reader, or a crash, finds the old content or the new. The folder is made if need be.

    Args:
        path: The file.
        durable: Wait until it is on the disk, which takes milliseconds; without, the machine
            losing power may lose it, while the process may end as it likes.

    Raises:
        InputError: If it cannot be written.
    """
    path = expanded(path)
    # A name of its own: another process may be writing the same file right now.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("xb") as file:
                yield file
                if durable:
                    flush_to_disk(file)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def write_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Replace a PNG file by a figure of matplotlib's.

    Raises:
        InputError: If it cannot be written.
    """
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=110)


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
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into one sentence."""
    try:
        yield
    except OSError as error:
        raise not_written(path, error.strerror or str(error)) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it is whose content cannot be used."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path} cannot be used: {error}") from error


def not_written(path: Path, reason: str) -> InputError:
    """Return the error for a file that cannot be written."""
    return InputError(
        f"cannot write {path}: {reason}. Choose a folder that can be written, or free some space."
    )


def to_yaml(value: Any) -> str:
    """Return plain values as YAML, in their order."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> Any:
    """Return the plain values that YAML holds.

    Raises:
        yaml.YAMLError: If it is none.
    """
    import yaml

    # The same loader in C, where the library was built with it, takes a tenth of the time.
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None if there is no such file.

    Raises:
        InputError: If it is damaged.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: it is damaged.") from error


def _strict(value: Any) -> Any:
    """Return `value` with numbers that JSON has no word for replaced by None."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

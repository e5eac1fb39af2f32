"""TODO(files): split from runs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from spinalnet._checks import InputError

_HEADER_KEY = "spinalnet"  # of our JSON string among the metadata of a safetensors file


def save_weights(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and their description to one safetensors file, replacing it whole."""
    from safetensors.torch import save

    header = {_HEADER_KEY: json.dumps(description or {}, allow_nan=False)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    data = save(tensors, metadata=header)
    _write(Path(path), lambda file: file.write(data))


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights (on the CPU) and the description that `save_weights` wrote.

    Raises:
        InputError: If the file is missing, damaged, or has no description of ours.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file {path}: give the folder of a run that has trained.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        description = json.loads(header[_HEADER_KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is not a checkpoint of spinalnet, or it is damaged ({error}): "
            "give a model.safetensors that a run has written."
        ) from error
    return tensors, description


def write_mapping(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Replace a `.yaml` or `.json` file whole; in JSON, numbers that are not finite become null."""
    if Path(path).suffix == ".yaml":
        text = _to_yaml(json.loads(json.dumps(values)))
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
    _write(Path(path), lambda file: file.write(data))


def _to_yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _read_json(path: Path) -> dict[str, Any] | None:
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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a file that becomes `path` when the block ends, and vanishes if it fails.

    A reader, or a crash, finds the old content or the new. The folder is made if need be.

    Raises:
        InputError: If it cannot be written.
    """
    path = Path(path)
    aside = _aside(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                yield file
                _flush_to_disk(file)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Replace `path` whole with what `write` writes."""
    try:
        with replacing(path) as file:
            write(file)
    except RuntimeError as error:  # how torch.save reports a full disk
        raise _not_written(path, str(error).splitlines()[0]) from error


def _flush_to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failed write into one sentence."""
    try:
        yield
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error


def _not_written(path: Path, reason: str) -> InputError:
    return InputError(
        f"cannot write {path}: {reason}. Choose a folder that can be written, or free some space."
    )

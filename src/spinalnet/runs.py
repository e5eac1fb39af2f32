"""The folder of one training run: what was asked, where, how it went, and what came out.

| File | Written | Holds |
| --- | --- | --- |
| `config.yaml` | first | everything that was asked for; a changed request is refused |
| `environment.json` | at the start | versions, processor, commit, start time |
| `metrics.jsonl` | after every epoch | one JSON object a line |
| `model.safetensors` | at every new best epoch | the best weights, and what is needed to use them |
| `state.pt` | after every epoch | what an interrupted run needs to go on; gone when done |
| `test-outputs.safetensors` | at the end | what a classifier said of each example (see `scores`) |
| `result.json` | at the end | the measured result, strict JSON |
| `DONE` | last | nothing: its presence says that the rest is complete |

Files appear whole or not at all (written aside, then renamed), except `metrics.jsonl`, whose torn
last line is dropped when the run is taken up again. Nothing here needs the code of a model.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from spinalnet import _kernels
from spinalnet._checks import InputError

_MARK = "# A spinalnet run: what was asked for. Do not edit.\n"
_HEADER_KEY = "spinalnet"  # of our JSON string among the metadata of a safetensors file


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says, for reports. `result` is None until the run is done."""

    path: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    result: dict[str, Any] | None
    done: bool


class RunFolder:
    """One run's folder, open for writing. Make one with `RunFolder.start`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def start(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunFolder:
        """Create the folder of a run, or take up the folder of an interrupted one.

        Args:
            path: A new or empty folder, or that of a run with the same `config`.
            config: Everything that decides the result; plain values, lists and dicts.

        Raises:
            InputError: If the folder holds something else, or a run with another `config` (the
                first differing field is named), or cannot be written.
        """
        run = cls(path)
        wanted = json.loads(json.dumps(config))  # what comes back from a file: lists, no tuples
        if is_run(run.path):
            # A changed request is refused: the rows before and after would not belong together.
            kept = _read_config(run.path)
            if field := first_difference(kept, wanted):
                name, old, new = field
                raise InputError(
                    f"{run.path} holds a run with {name} = {old!r}, not {new!r}: repeat its "
                    "settings to go on with it, or choose another folder."
                )
        else:
            _check_empty(run.path)
            write_text(run.path / "config.yaml", _MARK + _to_yaml(wanted))
        if not (run.path / "environment.json").exists():
            write_mapping(run.path / "environment.json", describe_environment())
        return run

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one epoch's line to `metrics.jsonl`; it is on the disk when this returns."""
        line = json.dumps(row, allow_nan=False) + "\n"
        target = self.path / "metrics.jsonl"
        with _writing(target), target.open("a", encoding="utf-8") as file:
            file.write(line)
            _flush_to_disk(file)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the complete rows of `metrics.jsonl`, oldest first."""
        return _read_metrics(self.path)

    def keep_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Drop a torn line and the rows after the first `epochs`; return the rows kept.

        Raises:
            InputError: If fewer than `epochs` rows are there.
        """
        rows = self.metrics()[:epochs]
        if len(rows) < epochs:
            raise InputError(
                f"{self.path / 'metrics.jsonl'} should have {epochs} rows but has {len(rows)}: "
                "the run was damaged; delete the folder and start again."
            )
        if epochs or (self.path / "metrics.jsonl").exists():
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            write_text(self.path / "metrics.jsonl", text)
        return rows

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Replace `state.pt`. `state` holds tensors, numbers, strings, lists and dicts only."""
        _write(self.path / "state.pt", lambda file: torch.save(dict(state), file))

    def has_state(self) -> bool:
        """Return whether `save_state` was ever called, so that the run can go on."""
        return (self.path / "state.pt").exists()

    def load_state(self) -> dict[str, Any] | None:
        """Return what `save_state` was last given, tensors on the CPU; None without one.

        Raises:
            InputError: If `state.pt` cannot be read.
        """
        target = self.path / "state.pt"
        if not self.has_state():
            return None
        try:
            return torch.load(target, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise InputError(
                f"{target} cannot be read ({type(error).__name__}): it is damaged or not ours; "
                "delete the run's folder and start again."
            ) from error

    def save_model(
        self, state_dict: Mapping[str, Tensor], description: Mapping[str, Any] | None = None
    ) -> None:
        """Replace `model.safetensors`.

        Args:
            state_dict: The weights by name. No two may share memory.
            description: What is needed to use them (model, class names, normalisation, ...), as
                plain values; kept as JSON in the file's header.
        """
        save_weights(self.path / "model.safetensors", state_dict, description)

    def load_model(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights and the description of `model.safetensors`."""
        return load_weights(self.path / "model.safetensors")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, then `DONE`; remove `state.pt`. Numbers not finite become null."""
        write_mapping(self.path / "result.json", result)
        write_text(self.path / "DONE", "")
        # After DONE: a run killed between the two must not lose what it needs to go on.
        with _writing(self.path / "state.pt"):
            (self.path / "state.pt").unlink(missing_ok=True)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a run."""
    try:
        with (Path(path) / "config.yaml").open(encoding="utf-8", errors="replace") as file:
            return file.readline() == _MARK
    except OSError:
        return False


def is_done(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a run that is complete."""
    return is_run(path) and (Path(path) / "DONE").exists()


def load_runs(folder: str | os.PathLike[str]) -> list[RunRecord]:
    """Return every run in `folder` (itself one, or at any depth), complete or not, by path.

    Raises:
        InputError: If there is no such folder, no run in it, or a run's file is unreadable.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give the folder of a run or of several.")
    paths = sorted(file.parent for file in root.rglob("config.yaml") if is_run(file.parent))
    if not paths:
        raise InputError(f"{root} holds no run: give the folder that --out named.")
    return [
        RunRecord(
            path=path,
            config=_read_config(path),
            environment=_read_json(path / "environment.json") or {},
            metrics=_read_metrics(path),
            result=_read_json(path / "result.json") if is_done(path) else None,
            done=is_done(path),
        )
        for path in paths
    ]


def first_difference(
    kept: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    """Return the first field that differs as (dotted name, kept value, wanted value), or None."""
    for key in [*kept, *(key for key in wanted if key not in kept)]:
        old, new = kept.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if inner := first_difference(old, new, f"{prefix}{key}."):
                return inner
        elif old != new:
            return f"{prefix}{key}", old, new
    return None


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
        text = json.dumps(_strict(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text)


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


def describe_environment() -> dict[str, Any]:
    """Return what a result may depend on besides the request: versions, processor, commit."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "spinalnet": _version("spinalnet"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "numpy": _version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": _kernels.instruction_set() or f"none: {_kernels.UNAVAILABLE}",
        "cuda_device": cuda,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the checkout this file runs from; None when installed elsewhere."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _check_empty(path: Path) -> None:
    try:
        # An aside file of ours is what a run killed in its first moments leaves.
        found = next((e.name for e in path.iterdir() if not _is_aside(e.name)), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot use {path} as a run's folder: {error.strerror}.") from error
    if found is not None:
        raise InputError(
            f"{path} is not empty (it holds '{found}') and not a run of spinalnet: "
            "choose a new or empty folder."
        )


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path / 'config.yaml'} cannot be read: it is damaged.") from error
    return config or {}


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


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows up to the first line that is torn."""
    target = path / "metrics.jsonl"
    rows: list[dict[str, Any]] = []
    if target.exists():
        for line in target.read_bytes().splitlines(keepends=True):
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(row, dict):
                break
            rows.append(row)
    return rows


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


def _is_aside(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


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

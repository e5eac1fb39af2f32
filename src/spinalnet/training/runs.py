"""The folder of one training run: what was asked, where, how it went, and what came out.

| File | Written | Holds |
| --- | --- | --- |
| `config.yaml` | first | everything that was asked for; a changed request is refused |
| `environment.json` | at the start | versions, processor, commit, start time |
| `data-fingerprint.json` | at the start | by what the files of its data are known elsewhere |
| `metrics.jsonl` | after every epoch | one JSON object a line |
| `model.safetensors` | at every new best epoch | the best weights, and what is needed to use them |
| `state.pt` | after every epoch | what an interrupted run needs to go on; gone when done |
| `test-outputs.safetensors` | at the end | what a classifier said of each example |
| `result.json` | at the end | the measured result, strict JSON |
| `DONE` | last | nothing: its presence says that the rest is complete |

Files appear whole or not at all (written aside, then renamed), except `metrics.jsonl`, whose torn
last line is dropped when the run is taken up again, as is what a killed one left aside. A process
may end at any moment; a machine that loses power loses at most the last seconds of a run. Nothing
here needs the code of a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.training.environment import describe_environment

_MARK = "# A spinalnet run: what was asked for. Do not edit.\n"


DONE_FILE = "DONE"
"""The mark of a run that is complete."""


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
        self.path = files.expanded(path)

    @classmethod
    def start(
        cls,
        path: str | os.PathLike[str],
        config: Mapping[str, Any],
        read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> RunFolder:
        """Create the folder of a run, or take up the folder of an interrupted one.

        Args:
            path: A new or empty folder, or that of a run with the same `config`.
            config: Everything that decides the result; plain values, lists and dicts.
            read: Returns the `config` of a folder, which may be of an older version, as it would be
                written now.

        Raises:
            InputError: If the folder holds something else, or a run with another `config` (the
                first differing field is named), or cannot be written.
        """
        run = cls(path)
        wanted = _plain(config)
        if run.path.is_dir():  # what an interruption left while it was made
            files.remove_asides(run.path)
        if is_run(run.path):
            # A changed request is refused: the rows before and after would not belong together.
            with files.reading(run.path / "config.yaml"):
                kept = _plain(read(_read_config(run.path)))
            if field := first_difference(kept, wanted):
                name, old, new = field
                raise InputError(
                    f"{run.path} holds a run with {name} = {old!r}, not {new!r}: repeat its "
                    "settings to go on with it, or choose another folder."
                )
        else:
            _check_empty(run.path)
            files.write_text(run.path / "config.yaml", _MARK + files.to_yaml(wanted))
        if not (run.path / "environment.json").exists():
            files.write_mapping(run.path / "environment.json", describe_environment())
        return run

    def replace_config(self, config: Mapping[str, Any]) -> None:
        """Replace `config.yaml`, where what is asked for is the same and only written otherwise."""
        files.write_text(self.path / "config.yaml", _MARK + files.to_yaml(_plain(config)))

    def append_metrics(self, row: Mapping[str, Any], *, durable: bool = True) -> None:
        """Add one epoch's line to `metrics.jsonl`; if `durable` it is on the disk after."""
        line = json.dumps(row, allow_nan=False) + "\n"
        target = self.path / "metrics.jsonl"
        with files.writing(target), target.open("a", encoding="utf-8") as file:
            file.write(line)
            if durable:
                files.flush_to_disk(file)

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
            files.write_text(self.path / "metrics.jsonl", text)
        return rows

    def save_state(self, state: Mapping[str, Any], *, durable: bool = True) -> None:
        """Replace `state.pt`. `state` holds tensors, numbers, strings, lists and dicts only."""
        target = self.path / "state.pt"
        try:
            with files.replacing(target, durable=durable) as file:
                torch.save(dict(state), file)
        except RuntimeError as error:  # how torch reports a full disk
            raise files.not_written(target, str(error).splitlines()[0]) from error

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
        self,
        state_dict: Mapping[str, Tensor],
        description: Mapping[str, Any] | None = None,
        *,
        durable: bool = True,
    ) -> None:
        """Replace `model.safetensors`.

        Args:
            state_dict: The weights by name. No two may share memory.
            description: What is needed to use them (model, class names, normalisation, ...), as
                plain values; kept as JSON in the file's header.
            durable: As in `files.replacing`.
        """
        path = self.path / "model.safetensors"
        files.save_weights(path, state_dict, description, durable=durable)

    def load_model(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights and the description of `model.safetensors`."""
        return files.load_weights(self.path / "model.safetensors")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, then `DONE`; remove `state.pt`. Numbers not finite become null."""
        files.write_mapping(self.path / "result.json", result)
        files.write_text(self.path / DONE_FILE, "")
        # After DONE: a run killed between the two must not lose what it needs to go on.
        with files.writing(self.path / "state.pt"):
            (self.path / "state.pt").unlink(missing_ok=True)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a run."""
    try:
        config = files.expanded(path) / "config.yaml"
        with config.open(encoding="utf-8", errors="replace") as file:
            return file.readline() == _MARK
    except OSError:
        return False


def is_done(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a run that is complete."""
    return is_run(path) and (files.expanded(path) / DONE_FILE).exists()


def load_runs(folder: str | os.PathLike[str]) -> list[RunRecord]:
    """Return every run in `folder` (itself one, or at any depth), complete or not, by path.

    Raises:
        InputError: If there is no such folder, no run in it, or a run's file is unreadable.
    """
    root = files.expanded(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give the folder of a run or of several.")
    paths = sorted(file.parent for file in root.rglob("config.yaml") if is_run(file.parent))
    if not paths:
        raise InputError(f"{root} holds no run: give the folder of a run or of several.")
    return [
        RunRecord(
            path=path,
            config=_read_config(path),
            environment=files.read_json(path / "environment.json") or {},
            metrics=_read_metrics(path),
            result=files.read_json(path / "result.json") if is_done(path) else None,
            done=is_done(path),
        )
        for path in paths
    ]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what comes back from a file: lists, no tuples."""
    return json.loads(json.dumps(config))


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


def _check_empty(path: Path) -> None:
    try:
        # An aside file of ours is what a run killed in its first moments leaves.
        found = next((e.name for e in path.iterdir() if not files.is_aside(e.name)), None)
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
        config = files.from_yaml((path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path / 'config.yaml'} cannot be read: it is damaged.") from error
    return config or {}


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

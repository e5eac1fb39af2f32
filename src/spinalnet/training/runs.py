"""The folder of one training run: what was asked, where, how it went, and what came out.

| File | Written | Holds |
| --- | --- | --- |
| `config.yaml` | first | everything that was asked for; a changed request is refused |
| `environment.json` | at the start | versions, processor, commit, start time |
| `data-fingerprint.json` | at the start | by what the files of its data are known elsewhere |
| `metrics.jsonl` | after every epoch | one JSON object a line |
| `model.safetensors` | at every new best epoch | the best weights, and what is needed to use them |
| `state.pt` | after every epoch | what an interrupted run needs to go on; gone when done |
| `state-before.pt` | with it | the state before, used where the last one is damaged |
| `test-outputs.safetensors` | at the end | what a classifier said of each example |
| `result.json` | at the end | the measured result, strict JSON |
| `DONE` | last | a digest of every other file: its presence says that they are complete |

Files appear whole or not at all (written aside, then renamed), except `metrics.jsonl`, whose torn
last line is dropped when the run is taken up again, as is what a killed one left aside. A process
may end at any moment; a machine that loses power loses at most the last seconds of a run. One
process at a time writes (`locks.FolderLock`). What is read must match its digest; what is not read
may be damaged. Nothing here needs the code of a model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from spinalnet import _dist, files, locks
from spinalnet._checks import InputError
from spinalnet.texts import from_json, from_yaml, is_text, shown
from spinalnet.training import states
from spinalnet.training.environment import describe_environment

_MARK = "# A spinalnet run: what was asked for. Do not edit.\n"


_ROWS_KEY = "metrics"  # in a state: the rows that it was saved with

CONFIG_FILE, METRICS_FILE, RESULT_FILE = "config.yaml", "metrics.jsonl", "result.json"
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
        self.notes: list[str] = []  # what the user should know of what was found there
        self._rows: _Rows | None = None  # of its metrics, once they are written to
        self._sealed: Any = None  # what the state that was loaded says of them

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
                first differing field is named), cannot be written, or a name is no text.
            FolderInUse: If another process writes into it.
        """
        run = cls(path)
        wanted = _plain(config)
        _check_names(run.path, wanted)
        if not _dist.is_main() and is_run(run.path):
            run._check_same(wanted, read)
            return run  # the main process of the job has begun it, and alone writes
        if is_done(run.path):
            run._check_same(wanted, read)
            states.remove(run.path)  # which a kill between the mark and this has left
            return run
        with locks.FolderLock(run.path):
            if run.path.is_dir():  # what an interruption left while it was made
                files.remove_asides(run.path)
            if is_run(run.path):
                run._check_same(wanted, read)
            else:
                _check_empty(run.path)
                files.write_text(run.path / CONFIG_FILE, _MARK + files.to_yaml(wanted))
            if not (run.path / "environment.json").exists():
                files.write_kept(run.path / "environment.json", describe_environment())
        return run

    def replace_config(
        self, config: Mapping[str, Any], others: Mapping[str, Callable[[], None]]
    ) -> None:
        """Replace `config.yaml`, where what is asked for is the same and only written otherwise.

        Args:
            config: The same, as it is written now.
            others: Names of files that change with it, and what writes them; may be called again.
        """
        digests, mark = read_digests(self.path), self.path / DONE_FILE
        # Killed in between, the files are some without a digest.
        left = {name: digests[name] for name in digests if name not in (CONFIG_FILE, *others)}
        if digests:
            files.write_kept(mark, {"digests": left})
        for write in others.values():
            write()
        files.write_text(self.path / CONFIG_FILE, _MARK + files.to_yaml(_plain(config)))
        if digests:
            files.write_kept(mark, {"digests": _digests(self.path)})

    def _check_same(
        self, wanted: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    ) -> None:
        """Refuse a changed request: the rows before and after would not belong together."""
        kept = read_config(self.path)
        with files.reading(self.path / CONFIG_FILE):
            kept = _plain(read(kept))
        if field := first_difference(kept, wanted):
            name, old, new = field
            raise InputError(
                f"{self.path} holds a run with {name} = {old!r}, not {new!r}: repeat its "
                "settings to go on with it, or choose another folder."
            )

    def _check_there(self) -> None:
        """Refuse to make the folder of a run anew that was removed while the run went on."""
        if not is_run(self.path):
            raise InputError(
                f"{self.path} is gone, or is no folder of a run any more: it was removed or "
                "replaced while the run went on. Run the same command again to begin anew."
            )

    @contextmanager
    def there(self) -> Iterator[None]:
        """Write into the folder of the run, as long as it is there.

        Raises:
            InputError: If it was removed, before or while something was written.
        """
        self._check_there()
        try:
            yield
        except InputError:
            self._check_there()  # removed just now, which is the reason then
            raise

    def append_metrics(self, *rows: Mapping[str, Any], durable: bool = True) -> None:
        """Add a line for each epoch to `metrics.jsonl`; if `durable` they are on the disk after."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        target = self.path / METRICS_FILE
        written = self._written_rows()
        with (
            self.there(),
            files.writing(target, len(lines)),
            open(target, "a", encoding="utf-8", opener=files.open_own) as file,
        ):
            file.write(lines)
            if durable:
                files.flush_to_disk(file)
        written.add(lines.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """Return the complete rows of `metrics.jsonl`, oldest first."""
        return _rows_of(_metrics_bytes(self.path))

    def keep_metrics(self, epochs: int) -> list[dict[str, Any]]:
        """Drop a torn line and the rows after the first `epochs`; return the rows kept.

        Raises:
            InputError: If fewer than `epochs` rows are there, or not of the epochs from 1 on, or
                not those that were there when the state was saved.
        """
        rows = self.metrics()[:epochs]
        _check_rows(self.path, rows, epochs)
        if epochs:
            self.check_rows()
        if epochs or (self.path / METRICS_FILE).exists():
            text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
            with self.there():
                files.write_text(self.path / METRICS_FILE, text)
        self._rows = None
        return rows

    def check_rows(self) -> None:
        """See that the rows are those that the state was saved with; an earlier version says none.

        Raises:
            DamagedFile: If they are not those of the state that was loaded.
        """
        sealed = self._sealed
        if not isinstance(sealed, Mapping) or type(sealed.get("count")) is not int:
            return
        lines = _lines(_metrics_bytes(self.path))[: sealed["count"]]
        if files.digest_of(b"".join(lines)) != sealed.get("digest"):
            target = self.path / METRICS_FILE
            raise files.damaged(target, "delete the folder of the run and start again")

    def _written_rows(self) -> _Rows:
        """Return the digest of the rows that are there."""
        if self._rows is None:
            self._rows = _Rows()
            self._rows.add(_metrics_bytes(self.path))
        return self._rows

    def save_state(
        self, state: Mapping[str, Any], *, rows: int | None = None, durable: bool = True
    ) -> None:
        """Replace `state.pt`.

        Args:
            state: Tensors, numbers, strings, lists and dicts only.
            rows: How many rows of metrics belong to it; all that are there without a number.
            durable: As in `files.replacing`.
        """
        belonging = self._written_rows() if rows is None else _Rows()
        if rows is not None:
            belonging.add(b"".join(_lines(_metrics_bytes(self.path))[:rows]))
        sealed = {_ROWS_KEY: belonging.to_dict()}
        with self.there():
            states.save(self.path, {**state, **sealed}, durable=durable)

    def has_state(self) -> bool:
        """Return whether `save_state` was ever called, so that the run can go on."""
        return states.exists(self.path)

    def load_state(self) -> dict[str, Any] | None:
        """Return what `save_state` was last given, tensors on the CPU; None without one.

        Where that is damaged it is the state before, and a sentence in `notes` says so.

        Raises:
            InputError: If neither can be read.
        """
        state, notes = states.load(self.path)
        self.notes += notes
        self._sealed = None if state is None else state.pop(_ROWS_KEY, None)
        return state

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
        with self.there():
            files.save_weights(path, state_dict, description, durable=durable)

    def load_model(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights and the description of `model.safetensors`."""
        return files.load_weights(self.path / "model.safetensors")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write `result.json`, then `DONE`; remove the states. Numbers not finite become null."""
        with self.there():
            files.write_mapping(self.path / RESULT_FILE, result)
            files.write_kept(self.path / DONE_FILE, {"digests": _digests(self.path)})
        # After DONE: a run killed between the two must not lose what it needs to go on.
        states.remove(self.path)


class _Rows:
    """How many rows of metrics were written, and a digest of them, which grows with them."""

    def __init__(self) -> None:
        self.count, self.digest = 0, hashlib.blake2b(digest_size=16)

    def add(self, lines: bytes) -> None:
        """Take up rows."""
        self.count += lines.count(b"\n")
        self.digest.update(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in a state."""
        return {"count": self.count, "digest": self.digest.hexdigest()}


def is_run(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a run."""
    try:
        config = files.expanded(path) / CONFIG_FILE
        if not config.is_file():  # a pipe would be waited for
            return False
        with config.open(encoding="utf-8", errors="replace") as file:
            return file.readline(len(_MARK)) == _MARK
    except OSError:
        return False


def is_done(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a run that is complete."""
    return is_run(path) and (files.expanded(path) / DONE_FILE).exists()


def load_runs(folder: str | os.PathLike[str]) -> list[RunRecord]:
    """Return every run in `folder` (itself one, or at any depth), complete or not, by path.

    Raises:
        InputError: If there is no such folder, no run in it, or a run's file is damaged.
    """
    return [load_run(path) for path in find_runs(folder)]


def find_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folder of every run in `folder` (itself one, or at any depth), sorted.

    Raises:
        InputError: If there is no such folder, or no run in it.
    """
    root = files.expanded(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: give the folder of a run or of several.")
    paths = sorted(file.parent for file in root.rglob(CONFIG_FILE) if is_run(file.parent))
    if not paths:
        raise InputError(f"{root} holds no run: give the folder of a run or of several.")
    return paths


def load_run(path: str | os.PathLike[str]) -> RunRecord:
    """Return one run, complete or not.

    Raises:
        InputError: If one of its files is damaged.
    """
    path = Path(path)
    done, digests = is_done(path), read_digests(path)
    environment = path / "environment.json"
    result = read_result(path)
    record = RunRecord(
        path=path,
        config=read_config(path),
        environment=files.read_json(environment, digest=digests.get(environment.name)) or {},
        metrics=_read_metrics(path, digests.get(METRICS_FILE)),
        result=result,
        done=done,
    )
    if record.metrics:
        epochs = (result or {}).get("epochs_run")
        wanted = epochs if type(epochs) is int else len(record.metrics)
        _check_rows(path, record.metrics, wanted)
    return record


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what was asked of a run, and read nothing else of it.

    Raises:
        InputError: If it is damaged.
    """
    target = Path(path) / CONFIG_FILE
    text = files.read_text(target)
    if read_digests(path).get(CONFIG_FILE, digest := files.digest_of(text.encode())) != digest:
        raise files.damaged(target)
    try:
        config = from_yaml(text)
    except ValueError as error:
        raise InputError(f"{target} cannot be read: it is damaged ({error}).") from error
    if not isinstance(config, dict | None):
        raise InputError(f"{target} must hold a mapping of names to values: it is damaged.")
    return config or {}


def read_result(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what came out of a run, and read nothing else of it; None until it is done.

    Raises:
        InputError: If it is damaged.
    """
    if not is_done(path):
        return None
    target = Path(path) / RESULT_FILE
    digest = read_digests(path).get(RESULT_FILE)
    result = files.read_json(target, digest=digest)
    if result is None and digest is not None:
        raise files.DamagedFile(f"{target} is gone: delete the folder of its run and run it again.")
    return result


def read_digests(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the digest of every file of a finished run; of an earlier version there are none.

    Of a file of weights it is the one in its header.

    Raises:
        DamagedFile: If the file that holds them is damaged: emptied, cut off, or changed.
    """
    target = Path(path) / DONE_FILE
    if not target.exists():
        return {}
    if target.is_file() and not target.stat().st_size and not _has_digests(target.parent):
        return {}
    try:
        held = (files.read_json(target) or {}).get("digests")
    except InputError:
        held = None
    if not isinstance(held, dict) or not all(isinstance(one, str) for one in held.values()):
        raise files.DamagedFile(
            f"{target} is damaged, so that nobody knows whether the run is whole: restore it from "
            "a copy, or delete the folder of its run and run it again."
        )
    return held


def _has_digests(path: Path) -> bool:
    """Whether a version has written the files of a run that also put their digests into `DONE`."""
    try:
        if files.is_sealed(path / "environment.json"):
            return True
    except InputError:
        pass  # of either
    return any(files.digest_in(one) is not None for one in path.glob("*.safetensors"))


def digest_of_file(path: Path) -> str | None:
    """Return the digest of a file of a run, as `read_digests` has it; None if it is not there."""
    if not path.is_file():
        return None
    of_weights = files.digest_in(path) if path.suffix == ".safetensors" else None
    return of_weights or files.digest_of(path.read_bytes())


def _digests(path: Path) -> dict[str, str]:
    """Return the digests of what a run has written."""
    passed = (DONE_FILE, states.STATE_FILE, states.BEFORE_FILE)
    names = sorted(one.name for one in path.iterdir() if one.is_file())
    kept = [name for name in names if name not in passed and not name.startswith(".")]
    return {name: str(digest_of_file(path / name)) for name in kept}


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


OF_TRACKERS = ("tensorboard", "wandb")
"""Folders that trackers make in that of a run, of whose beginning they are told first."""


def _check_names(path: Path, config: Any) -> None:
    """Refuse names that are no text: neither the configuration nor the weights could be read."""
    inside = [str(path), config]
    for one in inside:  # which grows
        if isinstance(one, Mapping):
            inside += one.values()
        elif isinstance(one, list):
            inside += one
        elif isinstance(one, str) and not is_text(one):
            raise InputError(
                f"'{shown(one)}' is no UTF-8 text, so that a run could not be read again: rename "
                "it, or make a link to it with another name and give that."
            )


def _check_empty(path: Path) -> None:
    try:
        # An aside file of ours is what a run killed in its first moments leaves.
        ours = (*locks.LOCK_FILES, *OF_TRACKERS)
        names = (entry.name for entry in path.iterdir())
        found = next((one for one in names if not files.is_aside(one) and one not in ours), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot use {path} as a run's folder: {error.strerror}.") from error
    if found is not None:
        raise InputError(
            f"{path} is not empty (it holds '{found}') and not a run of spinalnet: "
            "choose a new or empty folder."
        )


def _metrics_bytes(path: Path) -> bytes:
    target = path / METRICS_FILE
    try:
        return target.read_bytes() if target.is_file() else b""
    except OSError as error:
        raise InputError(f"{target} cannot be read: {error.strerror}.") from error


def _read_metrics(path: Path, digest: str | None) -> list[dict[str, Any]]:
    data = _metrics_bytes(path)
    if digest is not None and digest != files.digest_of(data):
        raise files.damaged(path / METRICS_FILE)
    return _rows_of(data)


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _rows_of(data: bytes) -> list[dict[str, Any]]:
    """Return the rows up to the first line that is torn."""
    rows: list[dict[str, Any]] = []
    for line in _lines(data):
        try:
            row = from_json(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def _check_rows(path: Path, rows: list[dict[str, Any]], epochs: int) -> None:
    """See that there is a row for every epoch, in order."""
    target, then = path / METRICS_FILE, "the run was damaged; delete the folder and start again."
    if len(rows) != epochs:
        raise files.DamagedFile(f"{target} should have {epochs} rows but has {len(rows)}: {then}")
    for place, row in enumerate(rows):
        if row.get("epoch") != place + 1:
            raise files.DamagedFile(
                f"{target} should have epoch {place + 1} in line {place + 1}, but has "
                f"{row.get('epoch')!r}: {then}"
            )

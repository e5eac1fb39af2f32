"""Trackers of experiments, each through its own client: a row in `TRACKERS`.

Where they send things is theirs to say, by their own variables (`MLFLOW_TRACKING_URI`,
`WANDB_MODE`, ...). What they are told is what the run folders hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet._checks import InputError, unknown_name
from spinalnet.comparison.watching import STOPPED, Watcher

if TYPE_CHECKING:
    from spinalnet.comparison.answer import Summary

Tell = Callable[[str], None]

_PROJECT = "spinalnet"
_PLACES = ("epoch", "net", "nets", "epochs", "epoch_of_net")  # of a line of metrics


@dataclass(frozen=True)
class TrackerRow:
    """One tracker: how its client is opened for a folder, and the package that it needs."""

    open: Callable[[Path], Watcher]
    package: str
    summary: str


class Guarded(Watcher):
    """A tracker that ends no run: when it fails, that is told once, and it is told nothing more."""

    def __init__(self, name: str, watcher: Watcher, tell: Tell) -> None:
        self._name, self._watcher, self._tell, self._failed = name, watcher, tell, False

    def _pass(self, what: str, *about: Any, **more: Any) -> None:
        if self._failed:
            return
        try:
            getattr(self._watcher, what)(*about, **more)
        except Exception as error:
            self._failed = True
            self._tell(
                f"{self._name} is told nothing more, for it failed ({_said(error)}); the run goes "
                "on, and its folder has everything."
            )

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        """See `Watcher`."""
        self._pass("run_started", run, config)

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        """See `Watcher`."""
        self._pass("epoch_ended", run, row, best=best)

    def best_found(self, run: str, row: Mapping[str, Any]) -> None:
        """See `Watcher`."""
        self._pass("best_found", run, row)

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        """See `Watcher`."""
        self._pass("run_finished", run, result)

    def run_failed(self, run: str, reason: str) -> None:
        """See `Watcher`."""
        self._pass("run_failed", run, reason)

    def comparison_finished(self, summary: Summary, folder: Path) -> None:
        """See `Watcher`."""
        self._pass("comparison_finished", summary, folder)

    def close(self) -> None:
        """See `Watcher`."""
        self._pass("close")


def _said(error: Exception) -> str:
    """Return the beginning of what an error says, in a line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return what of a line of metrics can be drawn."""
    return {
        key: float(value)
        for key, value in row.items()
        if key not in _PLACES and type(value) in (int, float) and math.isfinite(value)
    }


def tested(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a result under the names that trackers show."""
    test = numbers(result.get("test") or {})
    found = {f"test_{key}": value for key, value in test.items()}
    return found | numbers(
        {
            key: result.get(key)
            for key in ("best_epoch", "train_seconds", "head_params", "head_macs")
        }
    )


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return settings without nesting: {"train.lr": 0.01, ...}."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


class _TensorBoard(Watcher):
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._folder = SummaryWriter, folder / "tensorboard"
        self._writers: dict[str, Any] = {}

    def _of(self, run: str) -> Any:
        if run not in self._writers:
            self._writers[run] = self._make(str(self._folder / run))
        return self._writers[run]

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        rows = "\n".join(f"    {key}: {value}" for key, value in flat(config).items())
        self._of(run).add_text("config", rows)

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        for key, value in numbers(row).items():
            self._of(run).add_scalar(key, value, row["epoch"])
        self._of(run).flush()

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        writer = self._of(run)
        for key, value in tested(result).items():
            writer.add_scalar(key, value, int(result.get("epochs_run") or 0))
        self._writers.pop(run).close()

    def run_failed(self, run: str, reason: str) -> None:
        writer = self._of(run)
        writer.add_text("failed", reason)
        self._writers.pop(run).close()

    def comparison_finished(self, summary: Summary, folder: Path) -> None:
        self._of("answer").add_text("answer", summary.verdict)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _MLflow(Watcher):
    def __init__(self, folder: Path) -> None:
        self._client = import_module("mlflow.tracking").MlflowClient()
        found = self._client.get_experiment_by_name(folder.name)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(folder.name)
        )
        self._ids: dict[str, str] = {}

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        made = self._client.create_run(self._experiment, run_name=run)
        self._ids[run] = made.info.run_id
        for key, value in flat(config).items():
            self._client.log_param(made.info.run_id, key, str(value)[:500])

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        for key, value in numbers(row).items():
            self._client.log_metric(self._ids[run], key, value, step=int(row["epoch"]))

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        if run not in self._ids:  # it was done before
            return
        for key, value in tested(result).items():
            self._client.log_metric(self._ids[run], key, value)
        self._client.set_terminated(self._ids.pop(run))

    def run_failed(self, run: str, reason: str) -> None:
        if run in self._ids:
            self._client.set_tag(self._ids[run], "reason", reason)
            ended = "KILLED" if reason.startswith(STOPPED) else "FAILED"
            self._client.set_terminated(self._ids.pop(run), ended)

    def comparison_finished(self, summary: Summary, folder: Path) -> None:
        self._client.set_experiment_tag(self._experiment, "answer", summary.headline)


class _Sessions(Watcher):
    """Trackers whose clients give an object for every run: `log`, then `finish`."""

    def __init__(self, folder: Path) -> None:
        self._group = folder.name
        self._runs: dict[str, Any] = {}

    def _open(self, run: str, config: dict[str, Any]) -> Any:
        raise NotImplementedError

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        self._runs[run] = self._open(run, flat(config))

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        self._runs[run].log({"epoch": row["epoch"], **numbers(row)})

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        if run in self._runs:
            self._runs[run].log(tested(result))
            self._runs.pop(run).finish()

    def run_failed(self, run: str, reason: str) -> None:
        if run in self._runs:
            self._runs.pop(run).finish()

    def close(self) -> None:
        for run in [*self._runs]:
            self._runs.pop(run).finish()


class _Wandb(_Sessions):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._init = import_module("wandb").init
        self._folder = folder

    def _open(self, run: str, config: dict[str, Any]) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._init(
            project=_PROJECT,
            group=self._group,
            name=run,
            config=config,
            dir=str(self._folder),
            reinit="create_new",
        )

    def run_failed(self, run: str, reason: str) -> None:
        if run in self._runs:
            self._runs[run].summary["reason"] = reason
            self._runs.pop(run).finish(exit_code=1)  # else it is told as a success


class _Trackio(_Sessions):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._init = import_module("trackio").init

    def _open(self, run: str, config: dict[str, Any]) -> Any:
        return self._init(project=self._group, name=run, config=config, embed=False)


TRACKERS: dict[str, TrackerRow] = {
    "tensorboard": TrackerRow(
        _TensorBoard, "tensorboard", "files in FOLDER/tensorboard: tensorboard --logdir FOLDER"
    ),
    "mlflow": TrackerRow(
        _MLflow,
        "mlflow-skinny",
        "where MLFLOW_TRACKING_URI says; without it in a local database, which mlflow-skinny alone "
        "does not know, only the whole mlflow",
    ),
    "wandb": TrackerRow(_Wandb, "wandb", "Weights & Biases; WANDB_MODE=offline for files alone"),
    "trackio": TrackerRow(_Trackio, "trackio", "a local database: trackio show"),
}


def open_trackers(names: str, folder: Path, tell: Tell) -> list[Watcher]:
    """Start the clients of trackers.

    Args:
        names: Rows of `TRACKERS` with commas between.
        folder: Of the comparison or run: its name groups the runs there.
        tell: Called with a sentence if a tracker fails, which then is told nothing more: what it
            is told stands in the run folders too, and no run ends for it.

    Raises:
        InputError: If there is no such tracker, its package is missing, or it cannot be opened.
    """
    found: list[Watcher] = []
    for name in filter(None, (one.strip() for one in names.split(","))):
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        try:
            client = TRACKERS[name].open(folder)
        except ImportError as error:
            package = TRACKERS[name].package
            raise InputError(
                f"logging to {name} needs {package}, which is not installed: pip install {package}."
            ) from error
        except Exception as error:  # its server cannot be reached, or its settings are wrong
            raise InputError(
                f"{name} cannot be opened ({_said(error)}); where it keeps things: "
                f"{TRACKERS[name].summary}. Mend that, or leave {name} out."
            ) from error
        found.append(Guarded(name, client, tell))
    return found

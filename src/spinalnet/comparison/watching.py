"""What happens in runs, told to whoever wants to know: a function of the user's, or a tracker.

A `Watcher` has a method for each thing that happens; `compare(..., watch=[...])` calls them in the
main process. `trackers` has those that pass it on to TensorBoard, MLflow, Weights & Biases and
trackio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spinalnet.comparison.answer import Summary
    from spinalnet.comparison.cells import Event
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.comparison.tables.spec import TableSpec
    from spinalnet.training import Progress

    OnProgress = Callable[[Any, Progress], None]


class Watcher:
    """Told what happens in runs; override what you care about.

    Runs are known by name ("spinal-seed0"); several may go on at once. What a method raises ends
    the run, as an error of the training would.
    """

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        """A run begins, or goes on after an interruption; `config` is its `config.yaml`."""

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        """An epoch ended; `row` is its line of metrics, `best` if its weights are kept."""

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        """A run is done; `result` is its `result.json`."""

    def run_failed(self, run: str, reason: str) -> None:
        """A run ended without a result."""

    def comparison_finished(self, summary: Summary, folder: Path) -> None:
        """All runs of a comparison have ended, and its report is in `folder`."""

    def close(self) -> None:
        """Nothing follows."""


class _Run:
    """What is known of a run that goes on: its best epoch so far, by the rule of `fit`."""

    def __init__(self) -> None:
        self.best: tuple[float, float] | None = None
        self.net: Any = None

    def is_best(self, row: Mapping[str, Any]) -> bool:
        if row.get("net") != self.net:  # of several nets of a table each has its own best
            self.net, self.best = row.get("net"), None
        if row.get("val_loss") is None:  # nothing is held out: the last is kept
            return True
        loss = float(row["val_loss"])
        score = row.get("val_accuracy")
        key = (-loss if score is None else float(score), -loss)
        better = self.best is None or key > self.best
        if better:
            self.best = key
        return better


class Watching:
    """Several watchers as one: the `on_event` of a comparison, the `on_progress` of a run."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = tuple(watchers)
        self._runs: dict[str, _Run] = {}

    def __bool__(self) -> bool:
        return bool(self.watchers)

    def on_event(self, event: Event) -> None:
        """Pass on what happens to a cell."""
        name, spec = event.cell.folder.name, event.cell.spec  # trials are told apart by folder
        if event.kind == "started":
            self.started(name, spec)
        elif event.kind == "progress" and event.progress is not None:
            self.on_progress(name, event.progress, spec)
        elif event.kind == "done" and event.record is not None:
            self.finished(name, event.record.result or {})
        elif event.kind == "failed" and event.failure is not None:
            self._runs.pop(name, None)
            self._tell("run_failed", name, event.failure.reason)

    def started(self, name: str, spec: RunSpec | TableSpec) -> None:
        """A run begins, if that was not told yet."""
        if name not in self._runs:
            self._runs[name] = _Run()
            self._tell("run_started", name, spec.to_dict())

    def on_progress(self, name: str, progress: Progress, spec: RunSpec | TableSpec) -> None:
        """Pass on the end of an epoch; steps are nobody's business here."""
        if progress.row is None:
            return
        self.started(name, spec)
        best = self._runs[name].is_best(progress.row)
        self._tell("epoch_ended", name, progress.row, best=best)

    def before(self, on_progress: OnProgress) -> OnProgress:
        """Return what tells the watchers of a run, and then `on_progress`."""

        def tell(spec: RunSpec | TableSpec, progress: Progress) -> None:
            self.on_progress(spec.name, progress, spec)
            on_progress(spec, progress)

        return tell if self else on_progress

    def finished(self, name: str, result: Mapping[str, Any]) -> None:
        """A run is done."""
        self._runs.pop(name, None)
        self._tell("run_finished", name, result)

    def concluded(self, summary: Summary, folder: Path) -> None:
        """A comparison is done."""
        self._tell("comparison_finished", summary, folder)

    def close(self) -> None:
        """Nothing follows."""
        self._tell("close")

    def _tell(self, what: str, *about: Any, **more: Any) -> None:
        for watcher in self.watchers:
            getattr(watcher, what)(*about, **more)


def both(
    on_event: Callable[[Event], None] | None, watching: Watching
) -> Callable[[Event], None] | None:
    """Return what tells a listener and the watchers."""
    if not watching:
        return on_event

    def tell(event: Event) -> None:
        watching.on_event(event)
        if on_event is not None:
            on_event(event)

    return tell

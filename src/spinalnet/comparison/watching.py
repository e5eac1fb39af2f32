"""What happens in runs, told to whoever wants to know: a function of the user's, or a tracker.

A `Watcher` has a method for each thing that happens; `compare(..., watch=...)` calls them in the
main process. A function is called with the same as a `WatchEvent`. `trackers` has watchers that
pass it on to TensorBoard, MLflow, Weights & Biases and trackio.
"""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinalnet._checks import InputError

if TYPE_CHECKING:
    from spinalnet.comparison.answer import Summary
    from spinalnet.comparison.cells import Event
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.comparison.tables.spec import TableSpec
    from spinalnet.training import Progress

    OnProgress = Callable[[Any, Progress], None]

Kind = Literal[
    "run_started", "epoch_ended", "best_found", "run_finished", "run_failed", "comparison_finished"
]


class Watcher:
    """Told what happens in runs; override what you care about.

    Runs are known by name ("spinal-seed0"); several may go on at once. What a method raises ends
    the run, as an error of the training would.
    """

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        """A run begins, or goes on after an interruption; `config` is its `config.yaml`."""

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        """An epoch ended; `row` is its line of metrics, `best` if its weights are kept."""

    def best_found(self, run: str, row: Mapping[str, Any]) -> None:
        """The epoch that ended is the best so far; told after `epoch_ended`, with the same row.

        Of a table each of the nets has its own best. Where nothing is held out to choose by, the
        last epoch is kept, and each is the best when it ends.
        """

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        """A run is done; `result` is its `result.json`."""

    def run_failed(self, run: str, reason: str) -> None:
        """A run ended without a result; of one that a signal has ended, "stopped by SIGINT"."""

    def comparison_finished(self, summary: Summary, folder: Path) -> None:
        """All runs of a comparison have ended, and its report is in `folder`."""

    def close(self) -> None:
        """Nothing follows."""


@dataclass(frozen=True)
class WatchEvent:
    """What a function given as `watch` is told.

    Attributes:
        kind: Name of the method of `Watcher` that is told the same.
        run: Name of the run; empty when a comparison is finished.
        data: Settings of the run that started, the row of metrics of an epoch or of the new best,
            the result of the run that is finished, or the reason of one that failed, as
            `{"reason": ...}`; of a comparison its answer, `summary.to_dict()`.
        best: Whether the weights of the epoch that ended are kept.
        summary: The answer, when a comparison is finished.
        folder: Where its report is, then.
    """

    kind: Kind
    run: str = ""
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)
    best: bool = False
    summary: Summary | None = field(default=None, repr=False)
    folder: Path | None = None


Hearer = Watcher | Callable[[WatchEvent], object]
Watch = Hearer | Sequence[Hearer]


class _Listener(Watcher):
    """A function of the user's, told everything as events."""

    def __init__(self, hear: Callable[[WatchEvent], object]) -> None:
        self._hear = hear

    def run_started(self, run: str, config: Mapping[str, Any]) -> None:
        self._hear(WatchEvent("run_started", run, config))

    def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
        self._hear(WatchEvent("epoch_ended", run, row, best))

    def best_found(self, run: str, row: Mapping[str, Any]) -> None:
        self._hear(WatchEvent("best_found", run, row, best=True))

    def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
        self._hear(WatchEvent("run_finished", run, result))

    def run_failed(self, run: str, reason: str) -> None:
        self._hear(WatchEvent("run_failed", run, {"reason": reason}))

    def comparison_finished(self, summary: Summary, folder: Path) -> None:
        told = summary.to_dict()
        self._hear(WatchEvent("comparison_finished", "", told, summary=summary, folder=folder))


def watchers_of(watch: Watch) -> tuple[Watcher, ...]:
    """Return watchers, of functions those that call them.

    Args:
        watch: A `Watcher`, a function of one `WatchEvent`, or several of them.

    Raises:
        InputError: If one is neither, or the function takes something else.
    """
    given = [watch] if isinstance(watch, Watcher) or callable(watch) else watch
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        given = [given]
    return tuple(map(_watcher_of, given))


def _watcher_of(one: Any) -> Watcher:
    if isinstance(one, Watcher):
        return one
    if isinstance(one, type) and issubclass(one, Watcher):
        raise InputError(f"watch must be a watcher, not its class: give {one.__name__}().")
    if not callable(one):
        named = " (trackers by name: comparison.trackers.open_trackers)" * isinstance(one, str)
        raise InputError(
            f"watch must be a spinalnet.Watcher, or a function of one event, got {one!r}{named}."
        )
    try:
        inspect.signature(one).bind(None)
    except ValueError:  # one of Python's own, which does not say what it takes
        pass
    except TypeError as error:
        raise InputError(
            f"watch must be a function of one event, a spinalnet.WatchEvent, got {one!r} ({error})."
        ) from error
    return _Listener(one)


class Watching:
    """Several watchers as one: the `on_event` of a comparison, the `on_progress` of a run.

    Args:
        watch: See `watchers_of`, also for errors.
    """

    def __init__(self, watch: Watch) -> None:
        self.watchers = watchers_of(watch)
        self._begun: set[str] = set()

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
            self.failed(name, event.failure.reason)

    def started(self, name: str, spec: RunSpec | TableSpec) -> None:
        """A run begins, if that was not told yet."""
        if name not in self._begun:
            self._begun.add(name)
            self._tell("run_started", name, spec.to_dict())

    def on_progress(self, name: str, progress: Progress, spec: RunSpec | TableSpec) -> None:
        """Pass on the end of an epoch; steps are nobody's business here."""
        if progress.row is None:
            return
        self.started(name, spec)
        self._tell("epoch_ended", name, progress.row, best=progress.best)
        if progress.best:
            self._tell("best_found", name, progress.row)

    def before(self, on_progress: OnProgress) -> OnProgress:
        """Return what tells the watchers of a run, and then `on_progress`."""

        def tell(spec: RunSpec | TableSpec, progress: Progress) -> None:
            self.on_progress(spec.name, progress, spec)
            on_progress(spec, progress)

        return tell if self else on_progress

    @contextmanager
    def of_run(
        self, spec: RunSpec | TableSpec, on_progress: OnProgress | None
    ) -> Iterator[OnProgress | None]:
        """Give what tells of a run, and then `on_progress`; tell of the end if it is an error."""
        if not self:
            yield on_progress
            return
        with self.to_the_end():
            self.started(spec.name, spec)
            yield self.before(on_progress or (lambda spec, progress: None))

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Tell of the end of runs that have begun, if it is an error or a signal; then close."""
        try:
            yield
        except BaseException as error:
            for name in sorted(self._begun):
                self.failed(name, _reason(error))
            raise
        finally:
            self._tell("close")

    def finished(self, name: str, result: Mapping[str, Any]) -> None:
        """A run is done."""
        self._begun.discard(name)
        self._tell("run_finished", name, result)

    def failed(self, name: str, reason: str) -> None:
        """A run ended without a result."""
        self._begun.discard(name)
        self._tell("run_failed", name, reason)

    def concluded(self, summary: Summary, folder: Path) -> None:
        """A comparison is done."""
        self._tell("comparison_finished", summary, folder)

    def _tell(self, what: str, *about: Any, **more: Any) -> None:
        for watcher in self.watchers:
            getattr(watcher, what)(*about, **more)


STOPPED = "stopped by "
"""How the reason of a run that failed begins if a signal has ended it, such as that of Ctrl-C."""


def _reason(error: BaseException) -> str:
    """Return why a run ended, in a line."""
    from spinalnet.training import stopping

    if isinstance(error, KeyboardInterrupt | stopping.Interrupted):
        number = getattr(error, "number", signal.SIGINT)
        return f"{STOPPED}{signal.Signals(number).name}"
    return " ".join(str(error).split()) or type(error).__name__


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

"""What commands say while they run and when they are done.

Runs are told to a `Reporter`, a watcher like those of `--log`: a line for every epoch where there
is no terminal, lines of JSON with --json. On a terminal bars are drawn instead.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from spinalnet.cli.output import answer, err_console, manner, note, tell
from spinalnet.cli.root import as_options

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from spinalnet.comparison.cells import Event
    from spinalnet.comparison.planning import Plan
    from spinalnet.comparison.watching import Watching
    from spinalnet.training import loop, runs

_BETWEEN_LINES = 30.0  # seconds, where there is no terminal to draw a bar on
_BETWEEN_SHORT = 1.0  # seconds between epochs of a net on a table that are told; they are many


def reporter(*, bars: bool, scored: bool = True, ends: bool = True) -> Any:
    """Return a watcher that tells what happens in runs.

    Args:
        bars: Whether epochs are drawn already.
        scored: Whether scores mean anything; those of random data do not.
        ends: Whether people are told of the end of a run here.
    """
    from spinalnet.comparison.watching import Watcher

    class Reporter(Watcher):
        """Tells what happens in runs."""

        def __init__(self) -> None:
            self._epochs: dict[str, int | None] = {}  # of runs that were begun
            self._told: dict[str, float] = {}  # when an epoch of a table was last told

        def run_started(self, run: str, config: Mapping[str, Any]) -> None:
            epochs = (config.get("train") or {}).get("epochs")
            self._epochs[run] = epochs and epochs + (config.get("probe_epochs") or 0)
            tell("run_started", run=run, config=config)

        def epoch_ended(self, run: str, row: Mapping[str, Any], *, best: bool) -> None:
            of = f"/{epochs}" if (epochs := self._epochs.get(run)) else ""
            text = f"{run}: epoch {row['epoch']}{of}"
            if "net" in row:
                text = f"{run}: {_of_net(row)}"
            if scored and (score := _score(row)):
                text += f", {score}"
            silent = bars or not self._is_due(run, row)
            tell("epoch_ended", "" if silent else text, run=run, row=row, best=best)

        def _is_due(self, run: str, row: Mapping[str, Any]) -> bool:
            """Whether an epoch gets a line: all of images, of a table the last and some between."""
            now = time.monotonic()
            due = "net" not in row or row["is_last"]
            due = due or now - self._told.setdefault(run, now) >= _BETWEEN_SHORT
            if due:
                self._told[run] = now
            return due

        def run_finished(self, run: str, result: Mapping[str, Any]) -> None:
            text = f"{run}: {_said(result, scored)}" if ends and run in self._epochs else ""
            tell("run_finished", text, run=run, result=result)  # of one that was done no text

        def run_failed(self, run: str, reason: str) -> None:
            reason = as_options(reason)
            tell("failed", f"{run}: {reason}", level=logging.ERROR, run=run, reason=reason)

    return Reporter()


def _of_net(row: Mapping[str, Any]) -> str:
    """Say which epoch of which net of a table a row is of."""
    net = f"net {row['net']}/{row['nets']}, " if row["nets"] > 1 else ""
    return f"{net}epoch {row['epoch_of_net']}/{row['epochs']}"


class _Phases:
    """Tells notes, of the features that frozen trunks compute now and then, and of trials."""

    def __init__(self, *, bars: bool) -> None:
        self._bars, self._said = bars, -math.inf

    def __call__(self, step: loop.Progress) -> None:
        """Hear of a step of training."""
        if step.phase == "note":
            print_note(step.note)
        elif step.phase == "features":
            now = time.monotonic()
            if step.step == step.steps or now - self._said >= _BETWEEN_LINES:
                self._said = now
                text = "" if self._bars else step.note
                tell("phase", text, phase="features", done=step.step, of=step.steps)
        elif step.phase == "tuning":
            text = "" if self._bars else step.note
            tell("phase", text, phase="tuning", done=step.epoch, of=step.epochs - 1)


class _Grid:
    """A bar over the whole grid and a line for each worker."""

    def __init__(self, bars: Progress, total: int, *, scored: bool = True) -> None:
        self.bars, self.total, self.ended, self.scored = bars, total, 0, scored
        self.grid = bars.add_task("runs", total=total, count="", detail="")
        self.lines: dict[int, TaskID] = {}
        self.shares: dict[int, float] = {}  # how far the run of each worker has come

    def __call__(self, event: Event) -> None:
        """Hear of an event."""
        if event.kind == "progress" and event.progress is not None:
            self.step(event.worker, event.cell.spec.name, event.progress)
        elif event.kind == "started":
            self.shares[event.worker] = 0.0
            self._line(event.worker, description=event.cell.spec.name, completed=0, detail="")
        else:
            begun = self.shares.pop(event.worker, None) is not None
            self.ended += begun
            self.total -= not begun  # it was done before, which says nothing of the time left
        self.bars.update(
            self.grid,
            total=self.total,
            completed=self.ended + sum(self.shares.values()),
            count=f"{self.ended}/{self.total}",
        )

    def _line(self, worker: int, **fields: Any) -> None:
        if worker not in self.lines:
            self.lines[worker] = self.bars.add_task("", total=1, count="", detail="")
        self.bars.update(self.lines[worker], **fields)

    def step(self, worker: int, name: str, step: loop.Progress) -> None:
        """Hear of a step of training."""
        if step.phase == "features":
            share = step.step / step.steps if step.steps else 0.0
            self._line(worker, description="features", completed=share, detail=step.note)
        if step.phase in ("note", "features"):
            return
        of_epoch = step.step / step.steps if step.steps else float(step.phase == "epoch")
        self.shares[worker] = share = (step.epoch - 1 + of_epoch) / max(step.epochs, 1)
        fields: dict[str, Any] = {"completed": share}
        if step.row is not None and self.scored:
            fields["detail"] = _score(step.row)
        where = f"epoch {step.epoch}/{step.epochs}"
        if step.phase == "tuning":
            where = f"trial {step.epoch}/{step.epochs - 1}"
        elif step.row is not None and "net" in step.row:
            where = _of_net(step.row)
        self._line(worker, description=f"{name} {where}", **fields)


@contextmanager
def _bars() -> Iterator[Progress | None]:
    """Draw bars on standard error; none without a terminal, or where they are not wanted."""
    from rich import progress

    if not err_console.is_terminal or manner.as_json or manner.quiet:
        yield None
        return
    wide = err_console.width >= 100
    columns = [
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=40 if wide else 12),
        progress.TextColumn("{task.fields[count]}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[detail]}", markup=False),
    ]
    if not wide:  # what is left is a line at 60 columns
        del columns[3:5]
    with progress.Progress(
        *columns, console=err_console, transient=True, refresh_per_second=5
    ) as bars:
        yield bars


def _score(row: Mapping[str, Any]) -> str:
    """Return the validation score of an epoch for a line."""
    from spinalnet.comparison.wording import plain_number

    if "val_accuracy" in row:
        return f"val accuracy {row['val_accuracy']:.4f}"
    return f"val loss {plain_number(row['val_loss'])}" if "val_loss" in row else ""


@contextmanager
def show_progress(total: int, *, scored: bool = True) -> Iterator[Callable[[Event], None]]:
    """Show how far `total` runs have come; see `reporter` for `scored`."""
    from spinalnet.comparison.watching import Watching

    with _bars() as bars:
        grid = None if bars is None else _Grid(bars, total, scored=scored)
        watching = Watching([reporter(bars=bars is not None, scored=scored)])
        phases = _Phases(bars=bars is not None)

        def hear(event: Event) -> None:
            watching.on_event(event)
            if event.progress is not None:
                phases(event.progress)
            if grid is not None:
                grid(event)

        yield hear


class ShownRun:
    """Told how far one run has come and that it ended, which `print_run` shows."""

    def __init__(self, name: str, bars: Progress | None) -> None:
        from spinalnet.comparison.watching import Watching

        self._name = name
        self._grid = None if bars is None else _Grid(bars, 1)
        if bars is not None and self._grid is not None:
            bars.update(self._grid.grid, visible=False)
        self._told = Watching([reporter(bars=bars is not None, ends=False)])
        self._phases = _Phases(bars=bars is not None)

    def __call__(self, spec: Any, step: loop.Progress) -> None:
        """Hear of a step of training."""
        self._told.on_progress(self._name, step, spec)
        self._phases(step)
        if self._grid is not None:
            self._grid.step(0, self._name, step)

    def finished(self, result: Mapping[str, Any]) -> None:
        """Hear of the end."""
        self._told.finished(self._name, result)


@contextmanager
def show_run(name: str) -> Iterator[ShownRun]:
    """Show how far one run has come."""
    with _bars() as bars:
        yield ShownRun(name, bars)


@contextmanager
def counting(tasks: Mapping[str, int | None], unit: str) -> Iterator[Callable[..., None]]:
    """Show how far tasks have come, in a bar or a line now and then.

    Args:
        tasks: How much of each there is, where that is known.
        unit: Of what.

    Yields:
        What hears of (task, done), or of a task of which one more is done.
    """
    counts, said = dict.fromkeys(tasks, 0), dict.fromkeys(tasks, time.monotonic())
    with _bars() as bars:
        ids = {} if bars is None else {
            name: bars.add_task(name, total=total, count="", detail="")
            for name, total in tasks.items()
        }  # fmt: skip

        def hear(task: str, done: int | None = None) -> None:
            counts[task] = counts[task] + 1 if done is None else done
            text, now = f"{counts[task]} {unit}", time.monotonic()
            if bars is not None:
                bars.update(ids[task], completed=counts[task], count=text)
            elif counts[task] == tasks[task] or now - said[task] >= _BETWEEN_LINES:
                said[task] = now
                tell("phase", f"{task}: {text}", phase=task, done=counts[task])

        yield hear


@contextmanager
def watched(names: str, folder: Path) -> Iterator[Watching]:
    """Open the trackers of `--log`; nobody watches without it, or in a process beside the main."""
    from spinalnet import _dist
    from spinalnet.comparison.watching import Watching

    watchers = []
    if names and _dist.is_main():
        from spinalnet.comparison.trackers import open_trackers

        watchers = open_trackers(names, folder, print_note)
    watching = Watching(watchers)
    with watching.to_the_end():
        yield watching


@contextmanager
def alone_in(folder: Path, wait: bool) -> Iterator[None]:
    """Have a folder to this command alone; with `wait`, say so and wait until it can be had."""
    from spinalnet import _dist, locks
    from spinalnet.training import runs

    if not _dist.is_main() or (runs.is_done(folder) and not wait):  # which is not written to
        yield
        return
    with locks.FolderLock(folder, wait=wait, on_wait=print_note):
        yield


def print_note(text: str) -> None:
    """Print a note; the library's arguments are called as the options of the command."""
    note(as_options(text))


def print_run(record: runs.RunRecord) -> None:
    """Give a finished run as the answer of a command."""
    from spinalnet.comparison.finished import result_of

    result = result_of(record)
    line = f"{record.path.name}: {_said(result)}"
    answer({"run": record.path, "result": result}, line, f"Run folder: {record.path}")


def _said(result: Mapping[str, Any], scored: bool = True) -> str:
    """Return a result in a line."""
    from spinalnet.comparison.wording import NONE, plain_number

    told = []
    for part in ("val", "test"):  # a trial of tuning has no test, a table no validation
        held = (result.get(part) or {}) if scored else {}
        metric = "accuracy" if "accuracy" in held else "mse"
        if metric in held:
            known = held[metric]
            value = f"{known:.4f}" if metric == "accuracy" and known is not None else None
            value = value or (NONE if known is None else plain_number(known))
            epoch = result.get("best_epoch")
            chosen = f" (epoch {epoch})" if part == "val" and epoch else ""
            told.append(f"{part} {metric} {value}{chosen}")
            if held.get("r2") is not None:  # which says more than an error in somebody's units
                told.append(f"{part} R² {held['r2']:.4f}")
    if not scored:
        told.append("it fits, on random data")
    if result.get("train_seconds") is not None:
        told.append(f"{result['train_seconds']:.1f} s")
    return ", ".join(told)


def plan_in_words(plan: Plan, name: str = "") -> tuple[dict[str, Any], list[Any]]:
    """Return what a comparison would do and cost, for `answer`: for programs, and for people.

    Args:
        plan: Of the comparison.
        name: That of its data in a study.
    """
    from spinalnet.comparison.planning import in_words
    from spinalnet.comparison.wording import as_rich

    sentences, columns, rows = in_words(plan)
    table = as_rich(columns, rows, f"what would run{name and f' on {name}'}")
    return {"data": name, "plan": plan, "text": " ".join(sentences)}, [table, *sentences]


def print_report(folder: Path, metric: str | None = None, margin: float | None = None) -> None:
    """Write the report of a folder and give its gist."""
    from spinalnet import _dist
    from spinalnet.comparison import write_report

    if _dist.is_main():
        write_report(folder, metric=metric, margin=margin)
        print_answer(folder)


def print_answer(folder: Path, give: Callable[..., None] = answer) -> None:
    """Give the gist of a report that was written, as the answer of a command or a part of it."""
    from spinalnet import _dist
    from spinalnet.comparison import load_summary
    from spinalnet.comparison.findings import short_rows
    from spinalnet.comparison.wording import as_rich, short_verdict

    if not _dist.is_main():
        return
    summary = load_summary(folder / "summary.json")
    what = "table" if summary.is_table else f"{summary.model}, selected on {summary.selected_on}"
    lines: list[Any] = [Text(summary.headline, "bold")]
    if summary.code != "nothing-learned":
        lines += [
            f"- {short_verdict(head.difference, summary.wording)}"
            for head in summary.heads[1:]
            if head.difference is not None
        ]
    for line in summary.notes:
        print_note(line)
    page = folder / "report.html"
    told = {"folder": folder, "report": page, "summary": summary.to_dict()}
    table = as_rich(*short_rows(summary), f"{summary.data}, {what}")
    give(told, table, *lines, f"Report: {page}")

"""What commands say while they run and when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spinalnet.cli.root import as_options, err_console, out_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from spinalnet.comparison.cells import Event, Failure
    from spinalnet.comparison.planning import Plan
    from spinalnet.comparison.spec import OnProgress
    from spinalnet.comparison.watching import Watching
    from spinalnet.training import loop, runs


def _bars() -> Progress:
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.fields[count]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[detail]}"),
    )
    return progress.Progress(*columns, console=err_console, transient=True, refresh_per_second=5)


_BETWEEN_LINES = 30.0  # seconds, where there is no terminal to draw a bar on


class _Grid:
    """A bar over the whole grid and a line for each worker; a printed line for each ended run."""

    def __init__(self, bars: Progress, total: int) -> None:
        self.bars, self.total, self.ended = bars, total, 0
        self.grid = bars.add_task("runs", total=total, count="", detail="")
        self.lines: dict[int, TaskID] = {}
        self.shares: dict[int, float] = {}  # how far the run of each worker has come
        self.told: set[str] = set()
        self.said = time.monotonic()  # the last line on features

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
            if event.record is not None:
                print_run(event.record)
            if event.failure is not None:
                print_failure(event.cell.spec.name, event.failure)
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
        if step.phase == "note":
            if step.note not in self.told:
                self.told.add(step.note)
                print_note(step.note)
            return
        if step.phase == "features":
            share = step.step / step.steps if step.steps else 0.0
            self._line(worker, description="features", completed=share, detail=step.note)
            now = time.monotonic()
            if not self.bars.console.is_terminal and now - self.said >= _BETWEEN_LINES:
                self.said = now
                err_console.print(step.note, highlight=False)
            return
        of_epoch = step.step / step.steps if step.steps else float(step.phase == "epoch")
        self.shares[worker] = share = (step.epoch - 1 + of_epoch) / max(step.epochs, 1)
        fields: dict[str, Any] = {"completed": share}
        if step.row is not None:
            fields["detail"] = _score(step.row)
        self._line(worker, description=f"{name} epoch {step.epoch}/{step.epochs}", **fields)


def _score(row: Mapping[str, Any]) -> str:
    """Return the validation score of an epoch for a line."""
    shown = "val_accuracy" if "val_accuracy" in row else "val_loss"
    return f"{shown.replace('_', ' ')} {row[shown]:.4f}" if shown in row else ""


@contextmanager
def show_progress(total: int) -> Iterator[Callable[[Event], None]]:
    """Show a bar over `total` runs and a line for each worker, on standard error."""
    with _bars() as bars:
        yield _Grid(bars, total)


@contextmanager
def show_run(name: str) -> Iterator[OnProgress]:
    """Show the progress of one run."""
    with _bars() as bars:
        grid = _Grid(bars, 1)
        bars.update(grid.grid, visible=False)
        yield lambda _, step: grid.step(0, name, step)


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
    try:
        yield watching
    finally:
        watching.close()


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
    """Print a note on standard error; file names in it may hold brackets, which are no markup."""
    err_console.print(f"[yellow]note[/] {escape(as_options(text))}", highlight=False)


def print_failure(name: str, failure: Failure) -> None:
    """Print that a run has failed, and why."""
    err_console.print(
        f"[red]failed[/] {escape(name)}: {escape(as_options(failure.reason))}",
        highlight=False,
        soft_wrap=True,
    )


def print_run(record: runs.RunRecord) -> None:
    """Print one line on a finished run."""
    from spinalnet.comparison.finished import result_of
    from spinalnet.comparison.wording import NONE

    result = result_of(record)
    told = []
    for part in ("val", "test"):  # a trial of tuning has no test, a table no validation
        held = result.get(part) or {}
        metric = "accuracy" if "accuracy" in held else "mse"
        if metric in held:
            value = NONE if held[metric] is None else f"{held[metric]:.4f}"
            epoch = result.get("best_epoch")
            chosen = f" (epoch {epoch})" if part == "val" and epoch else ""
            told.append(f"{part} {metric} {value}{chosen}")
            if held.get("r2") is not None:  # which says more than an error in somebody's units
                told.append(f"{part} R² {held['r2']:.4f}")
    told.append(f"{result['train_seconds']:.1f} s")
    err_console.print(f"{record.path.name}: {', '.join(told)}", highlight=False)


def print_plan(plan: Plan) -> None:
    """Print what a comparison would do and cost."""
    from spinalnet.comparison.planning import in_words
    from spinalnet.comparison.wording import as_rich

    sentences, columns, rows = in_words(plan)
    out_console.print(as_rich(columns, rows, "what would run"))
    for sentence in sentences:
        out_console.print(sentence, highlight=False, soft_wrap=True)


def print_report(folder: Path, metric: str | None = None, margin: float | None = None) -> None:
    """Write the report of a folder and print its gist."""
    from spinalnet import _dist
    from spinalnet.comparison import write_report

    if _dist.is_main():
        write_report(folder, metric=metric, margin=margin)
        print_answer(folder)


def print_answer(folder: Path) -> None:
    """Print the gist of a report that was written."""
    from spinalnet import _dist
    from spinalnet.comparison import load_summary
    from spinalnet.comparison.findings import short_rows
    from spinalnet.comparison.wording import as_rich, short_verdict

    if not _dist.is_main():
        return
    summary = load_summary(folder / "summary.json")
    what = "table" if summary.is_table else f"{summary.model}, selected on {summary.selected_on}"
    out_console.print(as_rich(*short_rows(summary), f"{summary.data}, {what}"))
    out_console.print(f"[bold]{escape(summary.headline)}[/]", highlight=False)
    if summary.code != "nothing-learned":
        for head in summary.heads[1:]:
            if head.difference is not None:
                line = short_verdict(head.difference, summary.wording)
                out_console.print(f"- {escape(line)}", highlight=False)
    for line in summary.notes:
        print_note(line)
    out_console.print(f"Report: {folder / 'report.html'}", highlight=False, soft_wrap=True)

"""What commands say while they run and when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from spinalnet.cli.root import as_options, err_console, out_console

if TYPE_CHECKING:
    from spinalnet.comparison.spec import OnProgress, RunSpec
    from spinalnet.training import loop, runs

_BETWEEN_LINES = 30.0  # seconds, where there is no terminal to draw a bar on


@contextmanager
def show_progress(total_runs: int) -> Iterator[tuple[OnProgress, Callable[[], None]]]:
    """Show a bar over all runs and one over the steps of the present run, on standard error."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[detail]}"),
    )
    with progress.Progress(
        *columns, console=err_console, transient=True, refresh_per_second=5
    ) as bars:
        over_runs = bars.add_task("runs", total=total_runs, detail="", visible=total_runs > 1)
        over_steps = bars.add_task("epoch", total=None, detail="")

        said = time.monotonic()

        def on_progress(spec: RunSpec, step: loop.Progress) -> None:
            nonlocal said
            if step.phase == "note":
                bars.console.print(f"[yellow]note[/] {escape(step.note)}")
                return
            if step.phase == "features":
                bars.update(
                    over_steps, description="features", completed=step.step, total=step.steps
                )
                now = time.monotonic()
                if not bars.console.is_terminal and now - said >= _BETWEEN_LINES:
                    said = now
                    bars.console.print(step.note, highlight=False)
                return
            detail = ""
            if step.row is not None:
                shown = "val_accuracy" if "val_accuracy" in step.row else "val_loss"
                detail = f"{shown.replace('_', ' ')} {step.row[shown]:.4f}"
            bars.update(
                over_steps,
                description=f"{spec.name} epoch {step.epoch}/{step.epochs}",
                completed=step.step,
                total=step.steps or None,
            )
            if detail:
                bars.update(over_steps, detail=detail)

        def run_done() -> None:
            bars.advance(over_runs)
            bars.update(over_steps, detail="")

        yield on_progress, run_done


def print_note(text: str) -> None:
    """Print a note on standard error; file names in it may hold brackets, which are no markup."""
    err_console.print(f"[yellow]note[/] {escape(as_options(text))}", highlight=False)


def print_run(record: runs.RunRecord) -> None:
    """Print one line on a finished run."""
    from spinalnet.comparison.finished import metric_of, result_of
    from spinalnet.comparison.wording import NONE

    result = result_of(record)
    metric = metric_of(result)
    val, test = (
        NONE if (value := result[part][metric]) is None else f"{value:.4f}"
        for part in ("val", "test")
    )
    err_console.print(
        f"{record.path.name}: val {metric} {val} (epoch {result['best_epoch']}), "
        f"test {metric} {test}, {result['train_seconds']:.1f} s",
        highlight=False,
    )


def print_report(folder: Path, command: str | None = None) -> None:
    """Write the report of a folder and print its gist."""
    from spinalnet import _dist
    from spinalnet.comparison import load_summary, write_report
    from spinalnet.comparison.findings import head_rows
    from spinalnet.comparison.wording import as_rich

    if not _dist.is_main():
        return
    page = write_report(folder, command=command)
    summary = load_summary(folder / "summary.json")
    title = f"{summary.data}, {summary.model}, selected on {summary.selected_on}"
    out_console.print(as_rich(*head_rows(summary), title))
    for head in summary.heads[1:]:
        if head.difference is not None:
            out_console.print(
                f"{summary.heads[0].head} against {head.head}: [bold]{head.difference.verdict}[/]",
                highlight=False,
            )
    for line in summary.notes:
        out_console.print(f"[yellow]note[/] {escape(line)}", highlight=False)
    out_console.print(f"Report: {page}", highlight=False, soft_wrap=True)

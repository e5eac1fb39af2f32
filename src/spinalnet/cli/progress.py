"""What commands say while they run and when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from spinalnet.cli.root import as_options, err_console, out_console

if TYPE_CHECKING:
    from spinalnet.comparison import ComparisonSpec
    from spinalnet.comparison.comparing import How
    from spinalnet.comparison.engine import Event
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
    from spinalnet.comparison.finished import result_of
    from spinalnet.comparison.wording import NONE

    result = result_of(record)
    parts = []
    for part in ("val", "test"):
        held = result.get(part) or {}
        metric = "accuracy" if "accuracy" in held else "mse"
        if metric in held:
            value = NONE if held[metric] is None else f"{held[metric]:.4f}"
            epoch = f" (epoch {result['best_epoch']})" if part == "val" else ""
            parts.append(f"{part} {metric} {value}{epoch}")
    err_console.print(
        f"{record.path.name}: {', '.join(parts)}, {result['train_seconds']:.1f} s", highlight=False
    )


@contextmanager
def show_cells() -> Iterator[Callable[[Event], None]]:
    """Show a bar over the runs of a comparison and a line for every worker, on standard error.

    Without a terminal a line is printed for every run that is done.
    """
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[detail]}"),
    )
    with progress.Progress(
        *columns, console=err_console, transient=True, refresh_per_second=5
    ) as bars:
        over_runs = bars.add_task("runs", total=0, detail="")
        lines: dict[int, Any] = {}
        seen: set[Path] = set()

        def count(event: Event) -> None:
            if event.total is not None:
                bars.update(over_runs, total=event.total)
            if event.cell.folder not in seen and event.kind in ("done", "failed"):
                seen.add(event.cell.folder)
                bars.update(over_runs, completed=len(seen))

        def on_event(event: Event) -> None:
            count(event)
            name = event.cell.spec.name
            if event.kind == "started":
                if event.worker not in lines:
                    lines[event.worker] = bars.add_task(name, total=None, detail="")
                bars.reset(lines[event.worker], description=name, detail="", total=None)
            elif event.kind == "progress" and event.progress is not None:
                step = event.progress
                if step.phase == "note":
                    bars.console.print(f"[yellow]note[/] {escape(step.note)}")
                    return
                line = lines.get(event.worker)
                if line is None:
                    return
                done = step.epoch - 1 + (step.step / step.steps if step.steps else 0)
                if step.phase == "epoch":
                    done = step.epoch
                bars.update(line, completed=round(done, 1), total=step.epochs)
                if step.row is not None:
                    shown = "val_accuracy" if "val_accuracy" in step.row else "val_loss"
                    value = f"{shown.replace('_', ' ')} {step.row[shown]:.4f}"
                    bars.update(line, detail=value)
            elif event.kind == "failed" and event.failure is not None:
                err_console.print(
                    f"[red]failed[/] {escape(name)}: {escape(event.failure.reason)}",
                    highlight=False,
                )
            elif event.kind == "done" and event.record is not None:
                print_run(event.record)

        yield on_event


def print_answer(folder: Path) -> bool:
    """Print the gist of the report of a folder; return whether a run has failed."""
    from spinalnet import _dist
    from spinalnet.comparison import load_summary
    from spinalnet.comparison.findings import short_rows
    from spinalnet.comparison.wording import as_rich, short_verdict

    if not _dist.is_main():
        return False
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
    return any(head.failed for head in summary.heads)


def print_plan(question: ComparisonSpec, folder: Path, how: How) -> None:
    """Print what a comparison would run, how long and how large."""
    from spinalnet.comparison.planning import plan
    from spinalnet.comparison.wording import as_rich

    found = plan(question, folder, how)
    out_console.print(as_rich(*found.rows(), "Nothing was written."))
    for line in found.sentences():
        out_console.print(line, highlight=False)


def print_script(
    question: ComparisonSpec, folder: Path, arguments: list[str], threads: int
) -> None:
    """Write a Slurm array script for the runs of a comparison, and print it."""
    from spinalnet.comparison.planning import slurm_script

    path = slurm_script(question, folder, arguments, threads)
    out_console.print(path.read_text(encoding="utf-8"), highlight=False, markup=False)
    err_console.print(f"Script: {path}", highlight=False, soft_wrap=True)

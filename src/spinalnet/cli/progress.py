"""TODO(cli.progress): split from cli."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from spinalnet.cli.root import err_console, out_console

if TYPE_CHECKING:
    from spinalnet.comparison import spec as spec_module
    from spinalnet.training import loop, runs


@contextmanager
def _progress(total_runs: int) -> Iterator[tuple[spec_module.OnProgress, Callable[[], None]]]:
    """Show a bar over all runs and one over the steps of the present run, on standard error."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=err_console, transient=True, refresh_per_second=5) as bars:
        over_runs = bars.add_task("runs", total=total_runs, detail="", visible=total_runs > 1)
        over_steps = bars.add_task("epoch", total=None, detail="")

        def on_progress(spec: spec_module.RunSpec, step: loop.Progress) -> None:
            if step.phase == "note":
                bars.console.print(f"[yellow]note[/] {escape(step.note)}")
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


def _note(note: str) -> None:
    # File names may hold brackets, which are no markup.
    err_console.print(f"[yellow]note[/] {escape(note)}", highlight=False)


def _say(record: runs.RunRecord) -> None:
    result = record.result or {}
    metric = "accuracy" if "accuracy" in result["test"] else "mse"
    err_console.print(
        f"{record.path.name}: val {metric} {result['val'][metric]:.4f} "
        f"(epoch {result['best_epoch']}), test {metric} {result['test'][metric]:.4f}, "
        f"{result['train_seconds']:.1f} s",
        highlight=False,
    )


def _report(folder: Path, command: str | None = None) -> None:
    from spinalnet import _dist
    from spinalnet.comparison import summary, wording
    from spinalnet.comparison.report import page as page_module

    if not _dist.is_main():
        return
    page = page_module.write_report(folder, command=command)
    found = summary.summarize(folder)
    out_console.print(wording.result_table(found))
    for head in found.heads[1:]:
        if head.difference is not None:
            out_console.print(
                f"{found.heads[0].head} against {head.head}: [bold]{head.difference.verdict}[/]",
                highlight=False,
            )
    for note in found.notes:
        out_console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    out_console.print(f"Report: {page}", highlight=False, soft_wrap=True)

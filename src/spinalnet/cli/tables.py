"""`spinalnet compare` on a table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from spinalnet.cli.progress import print_note
from spinalnet.cli.root import err_console, out_console


def compare_table_command(
    source: str,
    target: str | None,
    task: str,
    names: tuple[str, ...] | None,
    repeats: int,
    tune: bool,
    seed: int,
    out: Path | None,
) -> None:
    """Compare models (all of them, if `names` is None) on a table, keep the result, print it."""
    from rich.progress import Progress

    from spinalnet import _dist
    from spinalnet.comparison import table_summary, tables
    from spinalnet.comparison.schema import check_folder
    from spinalnet.comparison.wording import as_rich
    from spinalnet.data import frames

    models = tuple(tables.CONTENDERS) if names is None else names
    table = frames.load_table(source, target, task)
    folder = out or Path("runs") / f"compare-{table.name.replace(':', '-')}"
    check_folder(folder, "table", table.name)
    for line in table.notes:
        print_note(line)
    with Progress(console=err_console, transient=True) as bars:
        bar = bars.add_task(table.name, total=repeats * len(models))
        result = tables.compare_table(
            table,
            models,
            repeats=repeats,
            tune=tune,
            seed=seed,
            on_score=lambda model, repeat, score: bars.advance(bar),
        )
    if _dist.is_main():
        command = "spinalnet " + shlex.join(sys.argv[1:])
        table_summary.write_results(result, folder, command)
    title = f"{result.table}: {result.metric} on {result.repeats} splits"
    out_console.print(as_rich(*table_summary.table_rows(result), title))
    out_console.print(result.verdict, highlight=False)
    for line in result.notes[len(table.notes) :]:
        print_note(line)
    out_console.print(f"Results: {folder}", highlight=False, soft_wrap=True)

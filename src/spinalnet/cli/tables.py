"""TODO(cli.tables): split from cli."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from spinalnet.cli.progress import _note
from spinalnet.cli.root import err_console, out_console


def _compare_table(
    source: str,
    target: str | None,
    task: str,
    names: tuple[str, ...],
    repeats: int,
    tune: bool,
    seed: int,
    out: Path | None,
) -> None:
    from rich.progress import Progress

    from spinalnet import _dist
    from spinalnet.comparison import tables
    from spinalnet.data import frames

    models = names or tuple(tables.CONTENDERS)
    table = frames.load_table(source, target, task)
    for note in table.notes:
        _note(note)
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
    folder = out or Path("runs") / f"compare-{table.name.replace(':', '-')}"
    if _dist.is_main():
        tables.write_results(result, folder, command="spinalnet " + shlex.join(sys.argv[1:]))
    out_console.print(tables.result_table(result))
    out_console.print(result.verdict, highlight=False)
    out_console.print(f"Results: {folder}", highlight=False, soft_wrap=True)

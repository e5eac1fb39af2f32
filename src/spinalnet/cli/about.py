"""Commands that say what there is, and how fast."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import unknown_name
from spinalnet.cli.root import app, err_console, out_console


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List data sets, networks, heads, augmentations and schedules."""
    from spinalnet.data import AUGMENTATIONS, DATASETS
    from spinalnet.models import MODELS
    from spinalnet.nn import HEADS
    from spinalnet.training import SCHEDULES

    tables: dict[str, dict[str, str]] = {
        "data sets": {name: row.summary for name, row in DATASETS.items()},
        "models": {name: row.summary for name, row in MODELS.items()},
        "heads": {name: row.summary for name, row in HEADS.items()},
        "augmentations": {
            name: (inspect.getdoc(step) or "").splitlines()[0]
            for name, step in AUGMENTATIONS.items()
        },
        "schedules": {name: row.summary for name, row in SCHEDULES.items()},
    }
    if as_json:
        print(json.dumps(tables, indent=2))
        return
    from rich.table import Table

    for title, rows in tables.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, summary in rows.items():
            table.add_row(f"[bold]{name}[/]", summary)
        out_console.print(table, "")


@app.command("bench")
def bench_command(
    names: Annotated[
        list[str], typer.Argument(help="Benchmarks: augment, epoch, heads, steps, export.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for NAME.json result files.")] = None,
    threads: Annotated[int, typer.Option(help="Compute threads.", min=1)] = 1,
) -> None:
    """Time against baselines written here, in turns within one run; report ratios."""
    import torch

    from spinalnet.bench import BENCHMARKS, write_result

    for name in names:
        if name not in BENCHMARKS:
            raise unknown_name("benchmark", name, BENCHMARKS)
    torch.set_num_threads(threads)
    for name in names:
        benchmark = BENCHMARKS[name]
        rows = benchmark.run()
        print(benchmark.show(rows), flush=True)
        if out is not None:
            write_result(out / f"{name}.json", name, benchmark.protocol, rows)
            err_console.print(f"{out / name}.json", highlight=False)


@app.command("env")
def env_command() -> None:
    """Print versions, hardware and compute backends, for a bug report or a result file."""
    from spinalnet.training import environment

    out_console.print_json(json.dumps(environment.describe_environment()))

"""Commands that say what there is, and how fast."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import unknown_name
from spinalnet.cli import names as complete
from spinalnet.cli.output import answer, answer_part, listed, say
from spinalnet.cli.root import KNOW, app

_KINDS = ("datasets", "models", "heads", "augmentations", "schedules")  # in the order of the list


@app.command("list", rich_help_panel=KNOW)
def list_command(
    what: Annotated[
        str | None,
        typer.Argument(
            help=f"One kind alone: {', '.join(_KINDS)}.", autocompletion=complete.of(_KINDS)
        ),
    ] = None,
) -> None:
    """List data sets, networks, heads, augmentations and schedules."""
    if what is not None and what not in _KINDS:
        raise unknown_name("kind of names", what, _KINDS)
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
    if what is not None:
        title = list(tables)[_KINDS.index(what)]
        tables = {title: tables[title]}
    shown = [
        part for title, rows in tables.items() for part in (listed((), rows.items(), title), "")
    ]
    answer(tables, *shown)


@app.command("bench", rich_help_panel=KNOW)
def bench_command(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Benchmarks: augment, epoch, heads, steps, export.",
            autocompletion=complete.one("benchmarks"),
        ),
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
    found = {}
    for name in names:
        benchmark = BENCHMARKS[name]
        rows = found[name] = benchmark.run()
        answer_part("measured", {"benchmark": name, "rows": rows}, benchmark.show(rows))
        if out is not None:
            write_result(out / f"{name}.json", name, benchmark.protocol, rows)
            say(f"{out / name}.json")
    answer({"benchmarks": found})


@app.command("env", rich_help_panel=KNOW)
def env_command() -> None:
    """Print versions, hardware and compute backends, for a bug report or a result file."""
    from rich.json import JSON

    from spinalnet.training import environment

    found = environment.describe_environment()
    answer(found, JSON.from_data(found))

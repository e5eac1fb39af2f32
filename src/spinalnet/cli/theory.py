"""Commands that run the paper's theory."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from spinalnet.cli.options import TASKS, RunFolder, option
from spinalnet.cli.output import answer
from spinalnet.cli.root import PAPER, App, Group, app

theory_app = App(
    help="The paper's theory as experiments: conversion, approximation, sensitivities.", cls=Group
)
app.add_typer(theory_app, name="theory", rich_help_panel=PAPER)

TheoryOut = Annotated[Path, typer.Option(help="Folder for figures and numbers.")]


@theory_app.command("approximate")
def approximate_command(
    target: Annotated[
        str,
        option(
            "Options", "The function.", choices=("sum", "sin-sum", "product", "ripple", "saddle")
        ),
    ] = "saddle",
    features: Annotated[int, typer.Option(help="Number of inputs.", min=2)] = 2,
    splits: Annotated[int, typer.Option(help="Number of slices.", min=2)] = 2,
    seeds: Annotated[int, typer.Option(help="Random hidden layers per point.", min=1)] = 5,
    out: TheoryOut = Path("runs/theory-approximate"),
) -> None:
    """Draw the universality proof, and the error of its construction by depth and width."""
    from spinalnet.theory import approximation

    best = approximation.study_approximation(target, features, out, num_splits=splits, seeds=seeds)
    line = (
        f"{best.layers} layers of width {best.width}: rms error {best.rms_error:.4f} of the "
        f"target's spread. Figures: {out}"
    )
    answer({"folder": out, "best": best}, line)


@theory_app.command("sensitivity")
def sensitivity_command(
    source: Annotated[
        str, typer.Argument(help="Table: csv, parquet, arrow, or sklearn:NAME.", metavar="TABLE")
    ],
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    task: Annotated[str, option("Options", "What is predicted.", choices=TASKS)] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    out: TheoryOut = Path("runs/theory-sensitivity"),
) -> None:
    """Train a spinal net on a table and say which inputs matter, by its exact Jacobian."""
    from spinalnet.comparison import explaining
    from spinalnet.comparison.wording import as_rich
    from spinalnet.data import frames

    table = frames.load_table(source, target, task)
    records = explaining.explain_table(table, out, seed=seed).records()
    title = f"{table.name}: derivatives of the outputs by the standardised inputs"
    rows = [[v if isinstance(v, str) else f"{v:.4f}" for v in row.values()] for row in records[:20]]
    shown = as_rich(list(records[0]), rows, title)
    answer({"folder": out, "rows": records}, shown, f"All rows and the figure: {out}")


@theory_app.command("explain")
def explain_command(
    run: RunFolder,
    examples: Annotated[int, typer.Option(help="Number of test images.", min=1, max=12)] = 4,
    wrong: Annotated[bool, typer.Option("--wrong", help="Wrongly classified ones only.")] = False,
    out: TheoryOut = Path("runs/theory-explain"),
) -> None:
    """Draw which slice at which layer spoke for which class, for test images of a run."""
    from spinalnet.comparison import explaining

    figure = explaining.explain_run(run, out, examples=examples, wrong=wrong)
    answer({"figure": figure}, f"Figure: {figure}")


@theory_app.command("convert")
def convert_head_command(
    run: RunFolder,
    splits: Annotated[int, typer.Option(help="Number of slices.", min=1)] = 2,
    width: Annotated[int | None, typer.Option(help="Width of the spinal layers.", min=1)] = None,
    epochs: Annotated[int, typer.Option(help="Of fine-tuning.", min=1)] = 20,
    seeds: Annotated[int, typer.Option(help="Repeats of fine-tuning.", min=1)] = 3,
    out: TheoryOut = Path("runs/theory-convert"),
) -> None:
    """Turn the dense head of a run into a spinal one of the same function, then make it narrower.

    Shows accuracy against multiply-accumulates: pruned, pruned and fine-tuned, and trained from
    scratch in the same shape. The trunk stays as it is.
    """
    from spinalnet.comparison import explaining
    from spinalnet.comparison.wording import as_rich

    found = explaining.shrink_run(
        run, out, num_splits=splits, hidden_features=width, epochs=epochs, seeds=seeds
    )
    rows = [
        [
            *(f"{row.width}", f"{row.macs}"),
            *(f"{fmean(v):.4f}" for v in (row.pruned, row.tuned, row.scratch)),
        ]
        for row in found.rows
    ]
    header = ("width", "MACs", "pruned", "fine-tuned", "from scratch")
    title = "Test accuracy by width of the spinal head (mean over seeds)"
    line = (
        f"Dense head: {found.dense:.4f} with {found.dense_macs} MACs; converted: "
        f"{found.converted:.4f}, largest difference of a logit on test images "
        f"{found.largest_difference:.1e}. Figure: {out / 'trade-off.png'}"
    )
    answer({"folder": out, "shrinking": found}, as_rich(header, rows, title), line)

"""TODO(cli.theory): split from cli."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import InputError, unknown_name
from spinalnet.cli.options import RunFolder
from spinalnet.cli.root import app, out_console

theory_app = typer.Typer(
    help="The paper's theory as experiments: conversion, approximation, sensitivities.",
    no_args_is_help=True,
)
app.add_typer(theory_app, name="theory")

TheoryOut = Annotated[Path, typer.Option(help="Folder for figures and numbers.")]


@theory_app.command("approximate")
def approximate_command(
    target: Annotated[
        str, typer.Option(help="Function: sum, sin-sum, product, ripple or saddle.")
    ] = "saddle",
    features: Annotated[int, typer.Option(help="Number of inputs.", min=2)] = 2,
    splits: Annotated[int, typer.Option(help="Number of slices.", min=2)] = 2,
    seeds: Annotated[int, typer.Option(help="Random hidden layers per point.", min=1)] = 5,
    out: TheoryOut = Path("runs/theory-approximate"),
) -> None:
    """Draw the universality proof, and the error of its construction by depth and width."""
    from spinalnet import files
    from spinalnet.theory import approximation, drawings

    if target not in approximation.TARGETS:
        raise unknown_name("target", target, approximation.TARGETS)
    errors = approximation.approximation_errors(
        approximation.TARGETS[target], features, num_splits=splits, seeds=seeds
    )
    out.mkdir(parents=True, exist_ok=True)
    drawings.draw_proof().savefig(out / "proof.png", dpi=110)
    title = f"'{target}' of {features} inputs on [-1, 1], {splits} slices: error by construction"
    drawings.draw_errors(errors, title).savefig(out / "errors.png", dpi=110)
    rows = [
        {"width": width, "layers": layers, "rms_errors": values}
        for width, found in errors.items()
        for layers, values in found
    ]
    numbers = {"target": target, "features": features, "splits": splits, "errors": rows}
    files.write_text(out / "errors.json", json.dumps(numbers, indent=1) + "\n")
    best = min(rows, key=lambda row: sum(row["rms_errors"]))
    out_console.print(
        f"{best['layers']} layers of width {best['width']}: rms error "
        f"{sum(best['rms_errors']) / seeds:.4f} of the target's spread. Figures: {out}",
        highlight=False,
        soft_wrap=True,
    )


@theory_app.command("sensitivity")
def sensitivity_command(
    source: Annotated[
        str, typer.Argument(help="Table: csv, parquet, arrow, or sklearn:NAME.", metavar="TABLE")
    ],
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    task: Annotated[str, typer.Option(help="classification, regression or auto.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    out: TheoryOut = Path("runs/theory-sensitivity"),
) -> None:
    """Train a spinal net on a table and say which inputs matter, by its exact Jacobian."""
    import csv
    import io

    from spinalnet import files
    from spinalnet.data import frames
    from spinalnet.tabular import estimators
    from spinalnet.theory import sensitivity

    table = frames.load_table(source, target, task)
    kind = (
        estimators.SpinalClassifier
        if table.task == "classification"
        else estimators.SpinalRegressor
    )
    model = kind(random_state=seed).fit(table.X, table.y)
    outputs = [str(name) for name in getattr(model, "classes_", ())] or None
    found = sensitivity.sensitivities(
        model.module_, model.prepare(table.X), inputs=model.prepared_names(), outputs=outputs
    )
    out.mkdir(parents=True, exist_ok=True)
    sensitivity.draw_sensitivities(found).savefig(out / "sensitivity.png", dpi=110)
    records = found.records()
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    files.write_text(out / "sensitivity.csv", buffer.getvalue())
    from rich.table import Table

    shown = Table(title=f"{table.name}: derivatives of the outputs by the standardised inputs")
    for name in records[0]:
        shown.add_column(name)
    for record in records[:20]:
        shown.add_row(*(v if isinstance(v, str) else f"{v:.4f}" for v in record.values()))
    out_console.print(shown)
    out_console.print(f"All rows and the figure: {out}", highlight=False, soft_wrap=True)


@theory_app.command("explain")
def explain_command(
    run: RunFolder,
    examples: Annotated[int, typer.Option(help="Number of test images.", min=1, max=12)] = 4,
    wrong: Annotated[bool, typer.Option("--wrong", help="Wrongly classified ones only.")] = False,
    out: TheoryOut = Path("runs/theory-explain"),
) -> None:
    """Draw which slice at which layer spoke for which class, for test images of a run."""
    import torch

    from spinalnet.comparison.trained import load_trained
    from spinalnet.nn.layers import SpinalNet
    from spinalnet.theory import sensitivity

    trained = load_trained(run)
    if not isinstance(trained.model.head, SpinalNet):
        raise InputError(f"explain needs a run with a spinal head, {run} has another one.")
    images, targets = next(iter(trained.load_data().test.batches(512)))
    with torch.no_grad():
        features = trained.model.trunk(images)
        if wrong:
            rows = (trained.model.head(features).argmax(1) != targets).nonzero()[:, 0][:examples]
        else:
            rows = torch.arange(min(examples, len(targets)))
    if len(rows) == 0:
        raise InputError("no test image of the first 512 is classified wrongly.")
    figure = sensitivity.draw_explanations(
        trained.model.head,
        features[rows],
        trained.info.class_names,
        images=images[rows],
        targets=targets[rows].tolist(),
    )
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "explanations.png", dpi=110)
    out_console.print(f"Figure: {out / 'explanations.png'}", highlight=False, soft_wrap=True)


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
    from spinalnet import files
    from spinalnet.comparison.trained import load_trained
    from spinalnet.theory import drawings, narrowing
    from spinalnet.training import environment

    trained = load_trained(run)
    data = trained.load_data()
    found = narrowing.shrink(
        trained.model,
        data.train,
        data.val,
        data.test,
        num_splits=splits,
        hidden_features=width,
        epochs=epochs,
        seeds=seeds,
    )
    out.mkdir(parents=True, exist_ok=True)
    lines = {
        name: [(row.macs, getattr(row, name)) for row in found.rows]
        for name in ("pruned", "tuned", "scratch")
    }
    labels = {
        "pruned": "converted, pruned",
        "tuned": "pruned, fine-tuned",
        "scratch": "from scratch",
    }
    figure = drawings.draw_trade_off(
        {labels[name]: rows for name, rows in lines.items()}, (found.dense_macs, found.dense)
    )
    figure.savefig(out / "trade-off.png", dpi=110)
    numbers = dataclasses.asdict(found) | {"environment": environment.describe_environment()}
    files.write_text(out / "trade-off.json", json.dumps(numbers, indent=1) + "\n")
    from rich.table import Table

    shown = Table(title="Test accuracy by width of the spinal head (mean over seeds)")
    for name in ("width", "MACs", "pruned", "fine-tuned", "from scratch"):
        shown.add_column(name, justify="right")
    for row in found.rows:
        means = [f"{sum(v) / len(v):.4f}" for v in (row.pruned, row.tuned, row.scratch)]
        shown.add_row(str(row.width), str(row.macs), *means)
    out_console.print(shown)
    out_console.print(
        f"Dense head: {found.dense:.4f} with {found.dense_macs} MACs; converted: "
        f"{found.converted:.4f}, largest difference of a logit on test images "
        f"{found.largest_difference:.1e}. Figure: {out / 'trade-off.png'}",
        highlight=False,
        soft_wrap=True,
    )

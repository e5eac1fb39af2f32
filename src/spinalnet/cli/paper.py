"""Commands of the paper's experiments: recipes, their runs, data sets, the original's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import InputError, unknown_name
from spinalnet.cli.options import DataDir, Download, HeadOption, ImageSize, Wait, head_options
from spinalnet.cli.progress import alone_in, print_answer, show_progress
from spinalnet.cli.root import app, as_options, err_console, out_console


@app.command("convert")
def convert_command(
    old: Annotated[Path, typer.Argument(help="Weights trained by the original's scripts (.pth).")],
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Network (see 'spinalnet list').")],
    head: Annotated[str | None, typer.Option(help="Head, if not the one in the file.")] = None,
    wiring: Annotated[
        str | None,
        typer.Option(
            metavar="chain|reused|shared|tiled",
            help="How the layers of a spinal head run, where the file leaves it open.",
        ),
    ] = None,
    activation: Annotated[
        str | None, typer.Option(help="Activation: relu, leaky_relu, ...; the scripts' own.")
    ] = None,
    num_splits: Annotated[
        int | None, typer.Option(help="Slices of the features; read from the shapes.", min=1)
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Dropout of the head; the scripts' own.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, comma separated.")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Means it normalised pixels (0 to 1) with, as 0.48,0.45,0.4.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="The deviations.")] = None,
    in_channels: Annotated[
        int | None,
        typer.Option(help="1: grey images, 3: colour; of rows of numbers their length.", min=1),
    ] = None,
    image_size: ImageSize = None,
    head_option: HeadOption = None,
) -> None:
    """Turn weights trained by the original's scripts into a checkpoint of ours."""
    from spinalnet.paper import convert_checkpoint

    given = {"activation": activation, "num_splits": num_splits, "dropout": dropout}
    assumed: list[str] = []
    converted = convert_checkpoint(
        old,
        model,
        out,
        head=head,
        wiring=wiring,
        in_channels=in_channels,
        image_size=image_size,
        class_names=None if classes is None else [name.strip() for name in classes.split(",")],
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        on_assumption=assumed.append,
        **head_options(head_option) | {k: v for k, v in given.items() if v is not None},
    )
    params = sum(parameter.numel() for parameter in converted.parameters())
    err_console.print(f"{out}: {model}, {params:,} parameters", highlight=False, soft_wrap=True)
    for sentence in assumed:
        told = as_options(sentence)
        err_console.print(f"  {told}", highlight=False, soft_wrap=True, markup=False)


def _numbers(option: str, text: str | None) -> list[float] | None:
    """Return the numbers of an option, separated by commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} must be numbers with commas between, got '{text}'.") from error


@app.command("recipes")
def recipes_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    results: Annotated[Path, typer.Option(help="Folder of kept records.")] = Path(
        "results/recipes"
    ),
    page: Annotated[
        Path | None, typer.Option(help="Write the page of all records to this file.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """List every experiment of the original, with its status."""
    from spinalnet import files
    from spinalnet.paper import records
    from spinalnet.paper.experiments import experiments_page

    if page is not None:
        files.write_text(page, experiments_page(results))
        err_console.print(f"{page}", highlight=False, soft_wrap=True)
        return
    rows = records.describe_recipes(results, data_dir)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table(box=None)
    for column in ("recipe", "epochs", "printed"):
        table.add_column(column, no_wrap=True)
    table.add_column("status")
    for row in rows:
        printed = f"{row['printed'][0]['value']:g}" if row["printed"] else "–"
        table.add_row(f"[bold]{row['name']}[/]", f"{row['epochs']}", printed, row["status"])
    out_console.print(table)


@app.command("reproduce")
def reproduce_command(
    pattern: Annotated[
        str, typer.Argument(help="Recipe or pattern, such as 'regression-*'.", metavar="NAME")
    ],
    protocol: Annotated[
        str, typer.Option(help="honest: chosen on validation data. paper: as the original did.")
    ] = "honest",
    seeds: Annotated[int, typer.Option(help="Number of paired seeds.", min=1)] = 5,
    budget: Annotated[
        str, typer.Option(help="smoke: two steps; short: a part; full: the original's length.")
    ] = "full",
    out: Annotated[Path, typer.Option(help="Folder for the folders of recipes.")] = Path(
        "runs/recipes"
    ),
    data_dir: DataDir = None,
    download: Download = None,
    keep: Annotated[
        Path | None, typer.Option(help="Also keep the record in this folder (results/recipes).")
    ] = None,
    wait: Wait = False,
) -> None:
    """Run experiments of the original; the same command again continues."""
    from spinalnet import _dist
    from spinalnet.paper import records, study
    from spinalnet.paper.protocol import prepare, run_request
    from spinalnet.paper.recipes import find_recipes, regression

    chosen = find_recipes(pattern)
    asked = {"seeds": seeds, "data_dir": data_dir, "download": download}
    for request in [prepare(r, protocol, budget, **asked) for r in chosen]:
        err_console.print(f"[bold]{request.recipe.name}[/]", highlight=False)
        total = seeds * len(request.heads)
        with alone_in(out / request.name, wait), show_progress(total) as on_event:
            folder = run_request(request, out, on_event=on_event)
        if budget != "smoke":
            print_answer(folder)
        if keep is not None and _dist.is_main():
            err_console.print(f"{records.keep_record(folder, keep)}", highlight=False)
    drawn = budget != "smoke" and any(recipe.name in regression.STUDY for recipe in chosen)
    if drawn and _dist.is_main():
        folder, names = (out, "*/recipe.json") if keep is None else (keep, "*.json")
        figure = study.draw_regression_study(
            records.load_records(folder, names), folder / "regression.png"
        )
        err_console.print(f"{figure or ''}", highlight=False)


@app.command("datasets")
def datasets_command(
    get: Annotated[str | None, typer.Option(help="Fetch this data set.")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where every data set is from, its size and licence, and whether it is here."""
    from spinalnet.data import catalog, listing, readers

    if get is not None:
        if get not in catalog.DATASETS:
            raise unknown_name("dataset", get, catalog.DATASETS)
        readers.ensure_present(catalog.DATASETS[get], data_dir, download=True)
        err_console.print(f"{get} is here.", highlight=False)
        return
    rows = listing.describe_datasets(data_dir)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table(box=None)
    for column in ("data set", "here"):
        table.add_column(column, no_wrap=True)
    for column in ("size", "licence", "from", "to get it"):
        table.add_column(column)
    for row in rows:
        here = "[green]yes[/]" if row["present"] else "no"
        table.add_row(
            *(f"[bold]{row['name']}[/]", here, row["size"], row["licence"], row["source"]),
            "" if row["present"] else row["get"],
        )
    out_console.print(table)

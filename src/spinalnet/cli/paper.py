"""Commands of the paper's experiments: recipes, their runs, data sets, the original's weights."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from spinalnet._checks import InputError, unknown_name
from spinalnet.cli import names as complete
from spinalnet.cli.options import (
    DataDir,
    Download,
    HeadOption,
    ImageSize,
    Wait,
    head_options,
    option,
)
from spinalnet.cli.output import answer, answer_part, listed, say
from spinalnet.cli.progress import alone_in, print_answer, show_progress
from spinalnet.cli.root import KNOW, PAPER, app, as_options


@app.command("convert", rich_help_panel=PAPER)
def convert_command(
    old: Annotated[Path, typer.Argument(help="Weights trained by the original's scripts (.pth).")],
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (.safetensors).")],
    model: Annotated[
        str,
        typer.Option(
            help="Network (spinalnet list).", metavar="NAME", autocompletion=complete.one("models")
        ),
    ],
    head: Annotated[
        str | None,
        typer.Option(
            help="Head, if not the one in the file.",
            metavar="NAME",
            autocompletion=complete.one("heads"),
        ),
    ] = None,
    wiring: Annotated[
        str | None,
        option(
            "Options",
            "How the layers of a spinal head run, where the file leaves it open.",
            choices=("chain", "reused", "shared", "tiled"),
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
    say(f"{out}: {model}, {params:,} parameters")
    told = [as_options(sentence) for sentence in assumed]
    for sentence in told:
        say(f"  {sentence}")
    answer({"file": out, "params": params, "assumed": told})


def _numbers(option: str, text: str | None) -> list[float] | None:
    """Return the numbers of an option, separated by commas."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} must be numbers with commas between, got '{text}'.") from error


@app.command("recipes", rich_help_panel=PAPER)
def recipes_command(
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of kept records. Default: results/recipes, if it is here, else what the "
            "package knows of them.",
            metavar="FOLDER",
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the page of all records to this file (.md or .html).")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """List every experiment of the original, and recipes of our own, with their status."""
    from spinalnet import files
    from spinalnet.paper import records
    from spinalnet.paper.experiments import experiments_page

    if page is not None and page.suffix.lower() in (".html", ".htm"):
        from spinalnet.paper.overview import write_overview

        answer({"page": write_overview(page, results or records.RESULTS)}, f"{page}")
        return
    if page is not None:
        files.write_text(page, experiments_page(results or records.RESULTS))
        answer({"page": page}, f"{page}")
        return
    rows = records.describe_recipes(results, data_dir)
    shown = [
        (
            row["name"],
            f"{row['epochs']}",
            f"{row['printed'][0]['value']:g}" if row["printed"] else "–",
            "our own; " * row["ours"] + row["status"],
        )
        for row in rows
    ]
    table = listed(("recipe", "epochs", "printed", "status"), shown)
    where = "What was found: docs/experiments.md, or spinalnet recipes --json"
    answer({"recipes": rows}, table, where)


@app.command("reproduce", rich_help_panel=PAPER)
def reproduce_command(
    pattern: Annotated[
        str,
        typer.Argument(
            help="Recipe or pattern, such as 'regression-*'.",
            metavar="NAME",
            autocompletion=complete.one("recipes"),
        ),
    ],
    protocol: Annotated[
        str,
        option(
            "Options",
            "honest: chosen on validation data. paper: as the original did.",
            choices=("honest", "paper"),
        ),
    ] = "honest",
    seeds: Annotated[int, typer.Option(help="Number of paired seeds.", min=1)] = 5,
    budget: Annotated[
        str,
        option(
            "Options",
            "smoke: two steps; short: a part; full: the original's length.",
            choices=("smoke", "short", "full"),
        ),
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

    chosen = find_recipes(pattern, of_original=protocol == "paper")
    asked = {"seeds": seeds, "data_dir": data_dir, "download": download}
    folders = []
    for request in [prepare(r, protocol, budget, **asked) for r in chosen]:
        say(request.recipe.name)
        total = seeds * len(request.heads)
        scored = budget != "smoke"
        with alone_in(out / request.name, wait), show_progress(total, scored=scored) as on_event:
            folder = run_request(request, out, on_event=on_event)
        if scored:
            print_answer(folder, functools.partial(answer_part, "recipe_finished"))
        folders.append(folder)
        if keep is not None and _dist.is_main():
            say(f"{records.keep_record(folder, keep)}")
    drawn = budget != "smoke" and any(recipe.name in regression.STUDY for recipe in chosen)
    if drawn and _dist.is_main():
        folder, names = (out, "*/recipe.json") if keep is None else (keep, "*.json")
        figure = study.draw_regression_study(
            records.load_records(folder, names), folder / "regression.png"
        )
        if figure is not None:
            say(f"{figure}")
    if _dist.is_main():
        from spinalnet.paper.overview import write_overview

        page = write_overview(out / "report.html", out, "*/recipe.json")
        answer({"folders": folders, "report": page}, f"All recipes here: {page}")


@app.command("datasets", rich_help_panel=KNOW)
def datasets_command(
    get: Annotated[
        str | None,
        typer.Option(
            help="Fetch this data set.", metavar="NAME", autocompletion=complete.one("datasets")
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Say where every data set is from, its size and licence, and whether it is here."""
    from spinalnet.data import catalog, listing, readers

    if get is not None:
        if get not in catalog.DATASETS:
            raise unknown_name("dataset", get, catalog.DATASETS)
        readers.ensure_present(catalog.DATASETS[get], data_dir, download=True)
        answer({"dataset": get, "present": True}, f"{get} is here.")
        return
    rows = listing.describe_datasets(data_dir)
    shown = [
        (
            *(row["name"], "yes" if row["present"] else "no", row["size"], row["licence"]),
            *(row["source"], "" if row["present"] else row["get"]),
        )
        for row in rows
    ]
    header = ("data set", "here", "size", "licence", "from", "to get it")
    answer({"datasets": rows}, listed(header, shown))

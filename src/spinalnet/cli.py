"""The `spinalnet` command.

torch is imported inside the commands, never at the top, so that `--help` and a typing mistake
answer at once. The training options of `train` and `compare` are made from the fields of
`TrainConfig`: one more field is one more option.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

import spinalnet
from spinalnet._checks import InputError, SpinalnetError, unknown_name
from spinalnet.config import TrainConfig

if TYPE_CHECKING:
    from spinalnet import experiment, runs, train

app = typer.Typer(
    help="SpinalNet: train, compare and use spinal heads. Start with: spinalnet compare digits",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
out_console = Console()
err_console = Console(stderr=True)

Data = Annotated[
    str, typer.Argument(help="Name of a data set (see 'spinalnet list') or a folder of images.")
]
DataDir = Annotated[
    str | None, typer.Option(help="Where the data set's files are. Without it: a cache, filled.")
]
Download = Annotated[
    bool | None,
    typer.Option("--download/--no-download", help="Fetch missing data. Default: into the cache."),
]
Model = Annotated[str, typer.Option(help="Network (see 'spinalnet list').")]
ImageSize = Annotated[
    int | None, typer.Option(help="Side in pixels that images are brought to.", min=1)
]
Channels = Annotated[
    int | None, typer.Option("--in-channels", help="1: grey images, 3: colour.", min=1, max=3)
]
Limit = Annotated[int | None, typer.Option(help="Use only so many training images.", min=1)]
HeadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--head-option",
        metavar="NAME=VALUE",
        help="Option of the (first) head, repeatable: hidden_features=16, num_layers=8.",
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(help="Folder of a finished run, or a checkpoint file.", metavar="RUN")
]


def _train_parameters() -> list[inspect.Parameter]:
    """Return one keyword-only parameter per field of `TrainConfig`, as typer reads them."""
    parameters = []
    for option in dataclasses.fields(TrainConfig):
        about = option.metadata
        if option.name == "phases":
            continue  # a list of pairs: for recipes and Python
        kind = type(option.default)
        choices = about["choices"]
        help_text = about["help"] + (f" One of: {', '.join(choices)}." if choices else "")
        flag = "--" + option.name.replace("_", "-")
        names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        parameters.append(
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=Annotated[
                    kind, typer.Option(*names, help=help_text, rich_help_panel="Training")
                ],
            )
        )
    return parameters


def with_training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of `TrainConfig`; it receives them as `training`."""
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "training"
    ]
    names = [parameter.name for parameter in _train_parameters()]

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        training = TrainConfig(**{name: values.pop(name) for name in names})
        try:
            command(**values, training=training)
        except KeyboardInterrupt:
            err_console.print(
                "stopped; the same command continues from the last finished epoch.",
                highlight=False,
            )
            raise typer.Exit(130) from None

    wrapper.__signature__ = inspect.Signature([*own, *_train_parameters()])  # type: ignore[attr-defined]
    return wrapper


def _head_options(pairs: list[str] | None) -> dict[str, Any]:
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--head-option must look like NAME=VALUE, got '{pair}'.")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--head-option {name} has an unreadable value '{value}'.") from error
    return options


@contextmanager
def _progress(total_runs: int) -> Iterator[tuple[experiment.OnProgress, Callable[[], None]]]:
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

        def on_progress(spec: experiment.RunSpec, step: train.Progress) -> None:
            if step.phase == "note":
                bars.console.print(f"[yellow]note[/] {step.note}")
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


def _say(record: runs.RunRecord) -> None:
    result = record.result or {}
    metric = "accuracy" if "accuracy" in result["test"] else "mse"
    err_console.print(
        f"{record.path.name}: val {metric} {result['val'][metric]:.4f} "
        f"(epoch {result['best_epoch']}), test {metric} {result['test'][metric]:.4f}, "
        f"{result['train_seconds']:.1f} s",
        highlight=False,
    )


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List data sets, networks, heads, augmentations and schedules."""
    from spinalnet.augment import AUGMENTATIONS
    from spinalnet.data import DATASETS
    from spinalnet.models import MODELS
    from spinalnet.nn import HEADS
    from spinalnet.train import SCHEDULES

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


@app.command("train")
@with_training_options
def train_command(
    data: Data,
    *,
    model: Model = "mnist-cnn",
    head: Annotated[str, typer.Option(help="Head (see 'spinalnet list').")] = "spinal",
    head_option: HeadOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
    data_dir: DataDir = None,
    download: Download = None,
    image_size: ImageSize = None,
    in_channels: Channels = None,
    limit: Limit = None,
    training: TrainConfig,
) -> None:
    """Train one network; the same command again continues an interrupted run."""
    from spinalnet import experiment, runs

    spec = experiment.RunSpec(
        data=data,
        model=model,
        head=head,
        head_options=_head_options(head_option),
        train=training,
        data_dir=data_dir,
        image_size=image_size,
        in_channels=in_channels,  # type: ignore[arg-type]
        limit=limit,
    )
    folder = out or Path("runs") / f"{Path(data).name}-{model}-{spec.name}"
    if runs.is_done(folder):
        err_console.print(f"{folder} is already done; nothing to train.", highlight=False)
    splits = experiment.load_splits(spec, download=download)
    for note in splits.info.notes:
        err_console.print(f"[yellow]note[/] {note}", highlight=False)
    with _progress(1) as (on_progress, _):
        record = experiment.run_one(spec, folder, splits=splits, on_progress=on_progress)
    _say(record)
    err_console.print(f"Run folder: {folder}", highlight=False, soft_wrap=True)


@app.command("compare")
@with_training_options
def compare_command(
    data: Data,
    *,
    model: Model = "mnist-cnn",
    heads: Annotated[
        str, typer.Option(help="Heads, comma separated; the first is compared with each other.")
    ] = "spinal,mlp,matched,linear",
    seeds: Annotated[int, typer.Option(help="Number of paired seeds.", min=1)] = 5,
    head_option: HeadOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
    data_dir: DataDir = None,
    download: Download = None,
    image_size: ImageSize = None,
    in_channels: Channels = None,
    limit: Limit = None,
    training: TrainConfig,
) -> None:
    """Answer "does a spinal head help on this data, and what does it cost?".

    Trains every head with the same seeds (same split, data order, augmentation draws and initial
    trunk), chooses epochs on validation data, tests once, and writes a table and a report.
    """
    from spinalnet import experiment

    base = experiment.RunSpec(
        data=data,
        model=model,
        head_options=_head_options(head_option),
        train=training,
        data_dir=data_dir,
        image_size=image_size,
        in_channels=in_channels,  # type: ignore[arg-type]
        limit=limit,
    )
    names = tuple(name.strip() for name in heads.split(",") if name.strip())
    question = experiment.Comparison(replace_head(base, names), names, seeds)
    folder = out or Path("runs") / f"compare-{Path(data).name}-{model}"
    with _progress(seeds * len(names)) as (on_progress, run_done):

        def on_run(_: experiment.RunSpec, record: runs.RunRecord) -> None:
            _say(record)
            run_done()

        experiment.compare(
            question, folder, download=download, on_progress=on_progress, on_run=on_run
        )
    _report(folder, command="spinalnet " + shlex.join(sys.argv[1:]))


def replace_head(base: experiment.RunSpec, names: tuple[str, ...]) -> experiment.RunSpec:
    """Return `base` with the first of the heads to compare."""
    return dataclasses.replace(base, head=names[0]) if names else base


def _report(folder: Path, command: str | None = None) -> None:
    from spinalnet import report

    page = report.write_report(folder, command=command)
    summary = report.summarize(folder)
    out_console.print(report.result_table(summary))
    for head in summary.heads[1:]:
        if head.difference is not None:
            out_console.print(
                f"{summary.heads[0].head} against {head.head}: [bold]{head.difference.verdict}[/]",
                highlight=False,
            )
    for note in summary.notes:
        out_console.print(f"[yellow]note[/] {note}", highlight=False)
    out_console.print(f"Report: {page}", highlight=False, soft_wrap=True)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison.")],
) -> None:
    """Write the summary, plots and page of a comparison again from its run folders."""
    _report(folder)


@app.command("evaluate")
def evaluate_command(
    run: RunFolder,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes.")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a trained model on the test part of its own or of other data."""
    from spinalnet import experiment

    metrics = experiment.evaluate_run(run, data, data_dir)
    if as_json:
        print(json.dumps(metrics.to_dict()))
        return
    values = {name: value for name, value in metrics.to_dict().items() if name != "confusion"}
    for name, value in values.items():
        out_console.print(f"{name:>14}  {value:.4f}" if name != "n" else f"{name:>14}  {value}")


@app.command("predict")
def predict_command(
    run: RunFolder,
    paths: Annotated[list[Path], typer.Argument(help="Images or folders of images.")],
    out: Annotated[Path | None, typer.Option(help="CSV file; standard output without it.")] = None,
) -> None:
    """Classify images: a CSV with path, class, and one probability per class."""
    from spinalnet import experiment

    count = experiment.write_predictions(run, paths, out)
    if out is not None:
        err_console.print(f"{count} predictions: {out}", highlight=False, soft_wrap=True)


@app.command("convert")
def convert_command(
    old: Annotated[Path, typer.Argument(help="Weights trained by the original's scripts (.pth).")],
    out: Annotated[Path, typer.Argument(help="Checkpoint to write (.safetensors).")],
    model: Annotated[str, typer.Option(help="Network (see 'spinalnet list').")],
    head: Annotated[str | None, typer.Option(help="Head, if not the one in the file.")] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, comma separated.")] = None,
    in_channels: Channels = None,
    image_size: ImageSize = None,
    head_option: HeadOption = None,
) -> None:
    """Turn weights trained by the original's scripts into a checkpoint of ours."""
    from spinalnet.original import convert_checkpoint

    converted = convert_checkpoint(
        old,
        model,
        out,
        head=head,
        in_channels=in_channels,
        input_size=image_size,
        class_names=None if classes is None else [name.strip() for name in classes.split(",")],
        **_head_options(head_option),
    )
    params = sum(parameter.numel() for parameter in converted.parameters())
    err_console.print(f"{out}: {model}, {params:,} parameters", highlight=False, soft_wrap=True)


@app.command("bench")
def bench_command(
    names: Annotated[list[str], typer.Argument(help="Benchmarks: augment, epoch.")],
    out: Annotated[Path | None, typer.Option(help="Folder for NAME.json result files.")] = None,
    threads: Annotated[int, typer.Option(help="Compute threads.", min=1)] = 1,
) -> None:
    """Time against baselines written here, in turns within one run; report ratios."""
    import torch
    from rich.table import Table

    from spinalnet import bench

    torch.set_num_threads(threads)
    known = {name: (protocol, run) for name, protocol, run in bench.tables()}
    for name in names:
        if name not in known:
            raise unknown_name("benchmark", name, known)
    for name in names:
        protocol, run = known[name]
        rows = run()
        table = Table("case", "against", "unit", "ours", "theirs", "ratio", "quartiles", title=name)
        for row in rows:
            low, high = row.ratio_quartiles
            table.add_row(
                *(row.case, row.baseline, row.unit, f"{row.ours:,.0f}", f"{row.theirs:,.0f}"),
                *(f"{row.ratio:.1f}x", f"{low:.1f} to {high:.1f}"),
            )
        out_console.print(table)
        if out is not None:
            bench.write_result(out / f"{name}.json", name, protocol, rows)
            err_console.print(f"{out / name}.json", highlight=False)


@app.command("env")
def env_command() -> None:
    """Print versions, hardware and compute backends, for a bug report or a result file."""
    from spinalnet import runs

    out_console.print_json(json.dumps(runs.describe_environment()))


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
    from spinalnet import reproduce, runs

    if page is not None:
        runs.write_text(page, reproduce.experiments_page(results))
        err_console.print(f"{page}", highlight=False, soft_wrap=True)
        return
    rows = reproduce.describe_recipes(results, data_dir)
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
) -> None:
    """Run experiments of the original; the same command again continues."""
    from spinalnet import recipes, reproduce

    chosen = recipes.find_recipes(pattern)
    for recipe in chosen:
        reproduce.check_ready(recipe, protocol, budget, data_dir, download=download)
    for recipe in chosen:
        err_console.print(f"[bold]{recipe.name}[/]", highlight=False)
        count = seeds * reproduce.count_heads(recipe, protocol)
        with _progress(count) as (on_progress, run_done):

            def on_run(
                _: experiment.RunSpec, record: runs.RunRecord, done: Callable[[], None] = run_done
            ) -> None:
                _say(record)
                done()

            folder = reproduce.run_recipe(
                recipe.name,
                protocol=protocol,
                seeds=seeds,
                budget=budget,
                out=out,
                data_dir=data_dir,
                download=download,
                on_progress=on_progress,
                on_run=on_run,
            )
        if budget != "smoke":
            _report(folder)
        if keep is not None and budget != "smoke":
            err_console.print(f"{reproduce.keep_record(folder, keep)}", highlight=False)


@app.command("datasets")
def datasets_command(
    get: Annotated[str | None, typer.Option(help="Fetch this data set.")] = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say where every data set is from, its size and licence, and whether it is here."""
    from spinalnet import data, reproduce

    if get is not None:
        if get not in data.DATASETS:
            raise unknown_name("dataset", get, data.DATASETS)
        data.check_present(data.DATASETS[get], data_dir, download=True)
        err_console.print(f"{get} is here.", highlight=False)
        return
    rows = reproduce.describe_datasets(data_dir)
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


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(spinalnet.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command; a mistake of the user ends in one sentence and exit code 2."""
    try:
        app()
    except SpinalnetError as error:
        err_console.print(f"[red]error[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)

"""The `spinalnet` command.

torch is imported inside the commands, never at the top, so that `--help` and a typing mistake
answer at once. The training options of `train` and `compare` are made from the fields of
`TrainConfig`: one more field is one more option.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

import spinalnet
from spinalnet._checks import InputError, SpinalnetError, unknown_name
from spinalnet.config import TrainConfig

if TYPE_CHECKING:
    from spinalnet import experiment, images, runs, train

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
Backbone = Annotated[
    str | None,
    typer.Option(
        help="Pre-trained network instead of --model: efficientnet_lite0, or any of torchvision "
        "or timm (torchvision:NAME, timm:NAME).",
        rich_help_panel="Transfer",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="File of weights of the network, instead of the published ones.",
        rich_help_panel="Transfer",
    ),
]
Freeze = Annotated[
    bool,
    typer.Option(
        "--freeze",
        help="Train the head only, on features that the network makes once.",
        rich_help_panel="Transfer",
    ),
]
ProbeEpochs = Annotated[
    int,
    typer.Option(
        help="First train the head so long on features of the plain images, then everything.",
        min=0,
        rich_help_panel="Transfer",
    ),
]
ProbeLr = Annotated[
    float,
    typer.Option(help="Learning rate of the --probe-epochs.", rich_help_panel="Transfer"),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side in pixels that images are brought to.", min=1)
]
Channels = Annotated[
    int | None, typer.Option("--in-channels", help="1: grey images, 3: colour.", min=1, max=3)
]
Limit = Annotated[int | None, typer.Option(help="Use only so many training images.", min=1)]
OnBadImage = Annotated[
    str,
    typer.Option(
        metavar="error|skip",
        help="Image files that cannot be used: refuse (all in one report), or leave out.",
    ),
]
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

ALL_HEADS = "spinal,mlp,matched,linear"


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


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `train`, `compare` and `lr-find` all ask of a run."""

    data: Data
    model: Model = "mnist-cnn"
    backbone: Backbone = None
    weights: Weights = None
    freeze: Freeze = False
    head_option: HeadOption = None
    data_dir: DataDir = None
    download: Download = None
    image_size: ImageSize = None
    in_channels: Channels = None
    limit: Limit = None
    on_bad_image: OnBadImage = "error"
    training: TrainConfig  # one option per field

    def spec(self, **fields: Any) -> experiment.RunSpec:
        """Return the run asked for; `fields` are those that one command alone knows."""
        from spinalnet import experiment

        model = self.model
        if self.backbone is not None:
            from spinalnet.backbones import find_backbone

            model = find_backbone(self.backbone).name
        if self.freeze and self.backbone is None and self.weights is None:
            raise InputError(
                "--freeze keeps what a network has learned: give --backbone or --weights."
            )
        return experiment.RunSpec(
            data=self.data,
            model=model,
            pretrained=self.backbone is not None if self.weights is None else str(self.weights),
            trunk="frozen" if self.freeze else None,
            head_options=_head_options(self.head_option),
            train=self.training,
            data_dir=self.data_dir,
            image_size=self.image_size,
            in_channels=self.in_channels,  # type: ignore[arg-type]
            limit=self.limit,
            on_bad_image=self.on_bad_image,  # type: ignore[arg-type]
            **fields,
        )


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of `RunOptions` and of `TrainConfig`; it receives `asked`."""

    def parameters_of(function: Callable[..., Any], without: str) -> list[inspect.Parameter]:
        found = inspect.signature(function, eval_str=True).parameters
        return [parameter for name, parameter in found.items() if name != without]

    training = _train_parameters()
    shared = parameters_of(RunOptions, without="training")
    own = parameters_of(command, without="asked")

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        def take(parameters: list[inspect.Parameter]) -> dict[str, Any]:
            return {parameter.name: values.pop(parameter.name) for parameter in parameters}

        asked = RunOptions(training=TrainConfig(**take(training)), **take(shared))
        try:
            command(asked, **values)
        except KeyboardInterrupt:
            err_console.print(
                "stopped; the same command continues from the last finished epoch.",
                highlight=False,
            )
            raise typer.Exit(130) from None

    # In the help, a command's own options come behind those of the network.
    place = [parameter.name for parameter in shared].index("head_option")
    parameters = [*shared[:place], *own, *shared[place:], *training]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
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
@with_run_options
def train_command(
    asked: RunOptions,
    *,
    probe_epochs: ProbeEpochs = 0,
    probe_lr: ProbeLr = 3e-3,
    head: Annotated[str, typer.Option(help="Head (see 'spinalnet list').")] = "spinal",
    out: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
) -> None:
    """Train one network; the same command again continues an interrupted run."""
    from spinalnet import experiment, runs

    spec = asked.spec(head=head, probe_epochs=probe_epochs, probe_lr=probe_lr)
    folder = out or Path("runs") / f"{Path(spec.data).name}-{spec.model}-{spec.name}"
    if runs.is_done(folder):
        err_console.print(f"{folder} is already done; nothing to train.", highlight=False)
    splits = experiment.load_splits(spec, download=asked.download)
    for note in splits.info.notes:
        _note(note)
    with _progress(1) as (on_progress, _):
        record = experiment.run_one(spec, folder, splits=splits, on_progress=on_progress)
    _say(record)
    err_console.print(f"Run folder: {folder}", highlight=False, soft_wrap=True)


@app.command("compare")
@with_run_options
def compare_command(
    asked: RunOptions,
    *,
    probe_epochs: ProbeEpochs = 0,
    probe_lr: ProbeLr = 3e-3,
    heads: Annotated[
        str, typer.Option(help="Heads, comma separated; the first is compared with each other.")
    ] = ALL_HEADS,
    seeds: Annotated[int, typer.Option(help="Number of paired seeds.", min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Tables: column to predict.", rich_help_panel="Tables")
    ] = None,
    task: Annotated[
        str,
        typer.Option(help="Tables: classification, regression, or auto.", rich_help_panel="Tables"),
    ] = "auto",
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Tables: every model chooses settings inside the training rows.",
            rich_help_panel="Tables",
        ),
    ] = False,
) -> None:
    """Answer "does a spinal head help on this data, and what does it cost?".

    Images: trains every head with the same seeds (same split, data order, augmentation draws and
    initial trunk), chooses epochs on validation data, tests once, and writes a table and a report.

    Tables (csv, tsv, parquet, arrow, or sklearn:NAME): scores a spinal net, a dense net of its
    size, a linear model and boosted trees on --seeds repeated splits. Of the other options --out,
    --heads (spinal, dense, linear, trees) and --seed apply.
    """
    from spinalnet import tables

    if tables.is_table(asked.data) or target is not None:
        _compare_table(asked.data, target, task, heads, seeds, tune, asked.training.seed, out)
        return
    from spinalnet import experiment

    base = asked.spec(probe_epochs=probe_epochs, probe_lr=probe_lr)
    names = tuple(name.strip() for name in heads.split(",") if name.strip())
    question = experiment.Comparison(replace_head(base, names), names, seeds)
    folder = out or Path("runs") / f"compare-{Path(base.data).name}-{base.model}"
    with _progress(seeds * len(names)) as (on_progress, run_done):

        def on_run(_: experiment.RunSpec, record: runs.RunRecord) -> None:
            _say(record)
            run_done()

        experiment.compare(
            question, folder, download=asked.download, on_progress=on_progress, on_run=on_run
        )
    _report(folder, command="spinalnet " + shlex.join(sys.argv[1:]))


@app.command("lr-find")
@with_run_options
def lr_find_command(
    asked: RunOptions,
    *,
    heads: Annotated[str, typer.Option(help="Heads, comma separated.")] = "spinal",
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Steps at rising rates.", min=10)] = 100,
    out: Annotated[Path | None, typer.Option(help="Folder of figure and numbers.")] = None,
) -> None:
    """Try rising learning rates for some steps and suggest one; no weights are kept.

    The suggestion is a tenth of the rate at which the smoothed training loss is lowest.
    """
    from rich.progress import Progress

    from spinalnet import experiment, lrfind, runs

    base = asked.spec()
    names = tuple(name.strip() for name in heads.split(",") if name.strip())
    question = experiment.Comparison(replace_head(base, names), names, seeds=1)
    with Progress(console=err_console, transient=True) as bars:
        shown = {name: bars.add_task(name, total=steps) for name in names}
        found = experiment.find_rates(
            question,
            download=asked.download,
            lowest=lowest,
            highest=highest,
            steps=steps,
            on_step=lambda head, done, _: bars.update(shown[head], completed=done),
        )
    folder = out or Path("runs") / f"lr-find-{Path(base.data).name}-{base.model}"
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{Path(base.data).name}, {base.model}: rates rising over {steps} steps"
    lrfind.draw_range_tests(found, title).savefig(folder / "lr-find.png", dpi=110)
    numbers = {
        "command": "spinalnet " + shlex.join(sys.argv[1:]),
        "run": base.to_dict(),
        "heads": {name: test.to_dict() for name, test in found.items()},
        "environment": runs.describe_environment(),
    }
    runs.write_mapping(folder / "lr-find.json", numbers)
    for name, test in found.items():
        end = "it diverged" if test.diverged else "the range ended"
        out_console.print(
            f"{name}: --lr {test.suggestion:.1e} (a tenth of {test.lowest:.1e}, where the loss is "
            f"lowest; it falls fastest at {test.steepest:.1e}; at {test.rates[-1]:.1e} {end})",
            highlight=False,
            soft_wrap=True,
        )
    out_console.print(f"Figure: {folder / 'lr-find.png'}", highlight=False, soft_wrap=True)


def _compare_table(
    source: str,
    target: str | None,
    task: str,
    heads: str,
    repeats: int,
    tune: bool,
    seed: int,
    out: Path | None,
) -> None:
    from rich.progress import Progress

    from spinalnet import tables

    asked = () if heads == ALL_HEADS else tuple(name.strip() for name in heads.split(","))
    models = asked or tuple(tables.CONTENDERS)
    table = tables.load_table(source, target, task)
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
    tables.write_results(result, folder, command="spinalnet " + shlex.join(sys.argv[1:]))
    out_console.print(tables.result_table(result))
    out_console.print(result.verdict, highlight=False)
    out_console.print(f"Results: {folder}", highlight=False, soft_wrap=True)


def replace_head(base: experiment.RunSpec, names: tuple[str, ...]) -> experiment.RunSpec:
    """Return `base` with the first of the heads to compare."""
    return dataclasses.replace(base, head=names[0]) if names else base


def _report(folder: Path, command: str | None = None) -> None:
    from spinalnet import _dist, report, summary

    if not _dist.is_main():
        return
    page = report.write_report(folder, command=command)
    found = summary.summarize(folder)
    out_console.print(summary.result_table(found))
    for head in found.heads[1:]:
        if head.difference is not None:
            out_console.print(
                f"{found.heads[0].head} against {head.head}: [bold]{head.difference.verdict}[/]",
                highlight=False,
            )
    for note in found.notes:
        out_console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    out_console.print(f"Report: {page}", highlight=False, soft_wrap=True)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison, or of one run.")],
) -> None:
    """Write the summary, plots and page of a comparison, or of one run, from its files."""
    _report(folder)


@app.command("evaluate")
def evaluate_command(
    run: RunFolder,
    data: Annotated[str | None, typer.Option(help="Other data with the same classes.")] = None,
    data_dir: DataDir = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or mps. Default: the run's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a trained model on the test part of its own or of other data, class by class."""
    from spinalnet import predict

    evaluation = predict.evaluate_run(run, data, data_dir, device=device)
    if as_json:
        print(json.dumps(evaluation.to_dict()))
        return
    for name, value in evaluation.metrics.items():
        if name != "confusion":
            shown = f"{value:.4f}" if name != "n" else f"{value}"
            out_console.print(f"{name:>14}  {shown}", highlight=False)
    if evaluation.classes:
        from spinalnet.summary import class_table

        out_console.print("", class_table(evaluation.classes))


def _standard_input() -> Iterator[bytes]:
    """Yield what comes in as it comes in; a buffered reader would wait for more."""
    while chunk := os.read(sys.stdin.fileno(), 1 << 16):
        yield chunk


@app.command("predict")
def predict_command(
    run: RunFolder,
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Images, folders of images, or - for paths on standard input, one a line or "
            "separated by NUL (find -print0)."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File (.csv, .jsonl); standard output without it.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="csv|jsonl", help="Default: by --out's ending, or csv."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="So many of the most probable classes.", min=1)] = 1,
    all_probabilities: Annotated[
        bool | None,
        typer.Option(
            "--all-probabilities/--no-all-probabilities",
            help="Probability of every class. Default: with up to 20 classes.",
        ),
    ] = None,
    on_bad_image: OnBadImage = "error",
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.", min=1)] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Classify images, any number of them; rows are written as they are made.

    With bad files the exit code is 2, after one report of all of them, and --out is not written;
    with --on-bad-image skip they are listed, the others written, and the exit code is 0.
    """
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from spinalnet import predict

    if on_bad_image not in ("error", "skip"):
        raise InputError(f"--on-bad-image must be error or skip, got '{on_bad_image}'.")
    skipped = 0

    def leave_out(bad: images.BadImage) -> None:
        nonlocal skipped
        skipped += 1
        _note(f"left out: '{bad.path}' {bad.reason}.")

    named = (path for path in paths if path != "-")
    piped = predict.read_paths(_standard_input()) if "-" in paths else ()
    columns = (SpinnerColumn(), TextColumn("{task.completed} images"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=err_console, transient=True) as bar:
            task = bar.add_task("predict", total=None)
            count = predict.write_predictions(
                run,
                itertools.chain(named, piped),
                out,
                form=form,  # type: ignore[arg-type]  # checked there
                top_k=top_k,
                all_probabilities=all_probabilities,
                batch_size=batch_size,
                device=device,
                on_bad_image=leave_out if on_bad_image == "skip" else None,
                on_row=lambda _: bar.advance(task),
            )
    except KeyboardInterrupt:
        err_console.print("stopped; nothing was written." if out else "stopped.", highlight=False)
        raise typer.Exit(130) from None
    if out is not None:
        also = f", {skipped} files left out" if skipped else ""
        said = f"{count} predictions{also}: {out}"
        err_console.print(said, highlight=False, soft_wrap=True, markup=False)


@app.command("export")
def export_command(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(help="File to write: .onnx, or .pt2 (torch.export).")],
    inputs: Annotated[
        str | None,
        typer.Option(
            help="uint8-hwc or uint8-chw: images as bytes; float: images on the 0..1 scale, "
            "channels first, or rows. Default: uint8-hwc for images, float for rows.",
        ),
    ] = None,
    output: Annotated[str, typer.Option(help="logits, or probabilities.")] = "logits",
    normalize: Annotated[
        bool,
        typer.Option(
            "--normalize/--no-normalize", help="Whether the file normalises its inputs itself."
        ),
    ] = True,
    opset: Annotated[
        int | None, typer.Option(help="Version of the ONNX operators. Default: 18.")
    ] = None,
) -> None:
    """Write a trained model as a file that runs without this package, and check its answers."""
    from spinalnet import export

    options: dict[str, Any] = {"inputs": inputs, "output": output, "normalize": normalize}
    if out.suffix == ".onnx":
        exported = export.export_onnx(run, out, **options, opset=opset or export.OPSET)
    elif out.suffix == ".pt2" and opset is None:
        exported = export.export_program(run, out, **options)
    else:
        raise InputError(f"the file must end in .onnx, or in .pt2 without --opset, got '{out}'.")
    shape = ", ".join(map(str, exported.inputs))
    out_console.print(
        f"{out}: inputs {exported.dtype} ({shape}), {exported.output} out, "
        f"{sum(exported.nodes.values())} operations, {out.stat().st_size:,} bytes; differs from "
        f"the model by {exported.largest_difference:.1e}",
        highlight=False,
        soft_wrap=True,
    )


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
        if keep is not None:
            err_console.print(f"{reproduce.keep_record(folder, keep)}", highlight=False)
    if budget != "smoke" and any(recipe.data.startswith("regression") for recipe in chosen):
        folder, files = (out, "*/recipe.json") if keep is None else (keep, "*.json")
        figure = reproduce.draw_regression_study(
            reproduce.load_records(folder, files), folder / "regression.png"
        )
        err_console.print(f"{figure or ''}", highlight=False)


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
    from spinalnet import diagrams, runs, theory

    if target not in theory.TARGETS:
        raise unknown_name("target", target, theory.TARGETS)
    errors = theory.approximation_errors(
        theory.TARGETS[target], features, num_splits=splits, seeds=seeds
    )
    out.mkdir(parents=True, exist_ok=True)
    diagrams.draw_proof().savefig(out / "proof.png", dpi=110)
    title = f"'{target}' of {features} inputs on [-1, 1], {splits} slices: error by construction"
    diagrams.draw_errors(errors, title).savefig(out / "errors.png", dpi=110)
    rows = [
        {"width": width, "layers": layers, "rms_errors": values}
        for width, found in errors.items()
        for layers, values in found
    ]
    numbers = {"target": target, "features": features, "splits": splits, "errors": rows}
    runs.write_text(out / "errors.json", json.dumps(numbers, indent=1) + "\n")
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

    from spinalnet import estimators, runs, sensitivity, tables

    table = tables.load_table(source, target, task)
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
    runs.write_text(out / "sensitivity.csv", buffer.getvalue())
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

    from spinalnet import experiment, sensitivity
    from spinalnet.nn import SpinalNet

    trained = experiment.load_trained(run)
    if not isinstance(trained.model.head, SpinalNet):
        raise InputError(f"explain needs a run with a spinal head, {run} has another one.")
    splits = experiment.load_splits(trained.spec)
    test = splits.test.normalized_by(trained.info.mean, trained.info.std)
    images, targets = next(iter(test.batches(512)))
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
    from spinalnet import diagrams, experiment, narrowing, runs

    trained = experiment.load_trained(run)
    data = experiment.load_splits(trained.spec)
    parts = [
        part.normalized_by(trained.info.mean, trained.info.std)
        for part in (data.train, data.val, data.test)
    ]
    found = narrowing.shrink(
        trained.model, *parts, num_splits=splits, hidden_features=width, epochs=epochs, seeds=seeds
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
    figure = diagrams.draw_trade_off(
        {labels[name]: rows for name, rows in lines.items()}, (found.dense_macs, found.dense)
    )
    figure.savefig(out / "trade-off.png", dpi=110)
    numbers = dataclasses.asdict(found) | {"environment": runs.describe_environment()}
    runs.write_text(out / "trade-off.json", json.dumps(numbers, indent=1) + "\n")
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


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(spinalnet.__version__)
        raise typer.Exit


def _hush_other_processes() -> None:
    """Let the main process alone speak, where `torchrun` has started several."""
    if "RANK" in os.environ:  # the room needs torch, which takes its time
        from spinalnet import _dist

        out_console.quiet = err_console.quiet = not _dist.is_main()


def main() -> None:
    """Run the command; a mistake of the user ends in one sentence and exit code 2."""
    _hush_other_processes()
    try:
        app()
    except SpinalnetError as error:
        err_console.quiet = False  # it may be the mistake of one process alone
        err_console.print(f"[red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)

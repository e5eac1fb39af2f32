"""Commands that train, compare and report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinalnet._checks import InputError, unknown_name
from spinalnet.cli.options import ProbeEpochs, ProbeLr, RunOptions, head_options, with_run_options
from spinalnet.cli.progress import (
    print_answer,
    print_note,
    print_plan,
    print_run,
    print_script,
    show_cells,
    show_progress,
)
from spinalnet.cli.root import app, err_console, out_console

if TYPE_CHECKING:
    from spinalnet.comparison import RunSpec


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
    from spinalnet.comparison import building, running
    from spinalnet.training import runs

    spec = asked.spec(head=head, probe_epochs=probe_epochs, probe_lr=probe_lr)
    folder = out or Path("runs") / f"{_label(spec)}-{spec.name}"
    if runs.is_done(folder):
        err_console.print(f"{folder} is already done; nothing to train.", highlight=False)
    splits = building.load_splits(spec, download=asked.download)
    for note in splits.info.notes:
        print_note(note)
    with show_progress(1) as (on_progress, _):
        record = running.run_one(spec, folder, splits=splits, on_progress=on_progress)
    print_run(record)
    err_console.print(f"Run folder: {folder}", highlight=False, soft_wrap=True)


def _panel(name: str, text: str, **more: Any) -> Any:
    return typer.Option(help=text, rich_help_panel=name, **more)


@app.command("compare")
@with_run_options
def compare_command(
    asked: RunOptions,
    *,
    probe_epochs: ProbeEpochs = 0,
    probe_lr: ProbeLr = 3e-3,
    heads: Annotated[
        str | None,
        typer.Option(
            help="Heads, comma separated; the first is compared with each other. A head may have "
            "options of its own: spinal,spinal:num_layers=8,mlp. Without it: spinal, unchained, "
            "matched, mlp and linear, and for tables trees."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Paired seeds; for tables random splits. Default 5, with folds 1.", min=1
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the comparison.")] = None,
    metric: Annotated[
        str | None,
        _panel(
            "Answer",
            "What heads are judged by: accuracy, balanced-accuracy, auroc, "
            "macro-f1, log-loss, mse, mae, r2. Default: accuracy, mse, for tables of numbers r2.",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        _panel(
            "Answer",
            "Differences up to this are equal for all purposes. "
            "Default: 0.005 (half a point), 0.01 of R².",
        ),
    ] = None,
    until_decided: Annotated[
        bool,
        _panel(
            "Answer", "Add seeds until every comparison is decided; the intervals allow for it."
        ),
    ] = False,
    max_seeds: Annotated[int, _panel("Answer", "Where --until-decided stops.", min=2)] = 30,
    folds: Annotated[
        int, _panel("Answer", "Draw the test part from all examples, in so many folds.", min=0)
    ] = 0,
    repeats: Annotated[int, _panel("Answer", "How often the folds are drawn.", min=1)] = 1,
    group: Annotated[
        str | None,
        _panel(
            "Answer",
            "No group lies in two parts: for tables a column, for folders "
            "of images a pattern over the file names, such as 'patient(\\d+)'.",
        ),
    ] = None,
    tune: Annotated[
        int,
        _panel(
            "Answer",
            "Trials by which every head's settings are chosen first, the same "
            "number for each, on validation data.",
            min=0,
        ),
    ] = 0,
    jobs: Annotated[
        str, _panel("Scale", "Runs at a time, or auto: as many as there are processors.")
    ] = "auto",
    threads: Annotated[
        int, _panel("Scale", "Threads of each run on the CPU; results depend on it.", min=1)
    ] = 1,
    engine: Annotated[
        str, _panel("Scale", "local, ray (a Ray cluster), or print (a script for Slurm).")
    ] = "local",
    ray_address: Annotated[str | None, _panel("Scale", "Address of the Ray cluster.")] = None,
    dry_run: Annotated[
        bool, _panel("Scale", "Say what would run, how long and how large; write nothing.")
    ] = False,
    only: Annotated[
        str | None,
        _panel(
            "Scale",
            "Run the one cell of this name, and no report (--engine print writes such commands).",
        ),
    ] = None,
    target: Annotated[str | None, _panel("Tables", "Column to predict.")] = None,
    task: Annotated[str, _panel("Tables", "classification, regression, or auto.")] = "auto",
    time: Annotated[
        str | None,
        _panel("Tables", "Column of times: nothing is trained on rows later than the test part."),
    ] = None,
) -> None:
    """Answer "does a spinal head help on this data, and what does it cost?".

    Images: trains every head with the same seeds (same split, data order, augmentation draws and
    initial trunk), chooses epochs on validation data, tests once.

    Tables (csv, tsv, parquet, arrow, or sklearn:NAME): fits every head to the same rows of random
    splits, with boosted trees beside them.

    The answer is one of five: better, worse, equal within the margin, undecided, nothing learned.
    The same command runs what is missing; more seeds or heads extend the comparison.
    """
    from spinalnet.comparison import ComparisonSpec, comparing
    from spinalnet.comparison.question import DEFAULT_HEADS, TABLE_HEADS
    from spinalnet.data import frames

    is_table = frames.is_table(asked.data) or (target is not None and Path(asked.data).is_file())
    if is_table:
        from spinalnet.comparison import TableSpec

        asked.refuse(asked.given - _OF_TABLES, f"for a table ('{asked.data}')")
        base = TableSpec(
            asked.data,
            target,
            task,  # type: ignore[arg-type]
            group,
            time,
            head_options=head_options(asked.head_option),
            tune=tune,
            metric=metric,
            seed=asked.training.seed,
        )
    else:
        asked.refuse({"target", "task", "time"}, f"for '{asked.data}', which is no table")
        base = asked.spec(probe_epochs=probe_epochs, probe_lr=probe_lr, group=group)
    rows = heads or (TABLE_HEADS if is_table else DEFAULT_HEADS)
    count = seeds or (1 if folds else 5)
    question = ComparisonSpec(base, rows, count, folds, repeats, metric, margin)  # type: ignore[arg-type]
    folder = out or comparing.default_folder(question)
    command = "spinalnet " + shlex.join(sys.argv[1:])
    how = _how(jobs, threads, engine, ray_address, asked.download)
    if tune and not is_table and (dry_run or only is not None or engine == "print"):
        raise InputError(
            "tune chooses the settings before the runs are known: it does not go with dry_run, "
            "only or engine print. --jobs and --engine ray run trials side by side."
        )
    if dry_run:
        print_plan(question, folder, how)
        return
    if engine == "print":
        print_script(question, folder, sys.argv[1:], threads)
        return
    with show_cells() as on_event:
        if only is not None:
            failure = comparing.run_only(question, folder, only, how, on_event=on_event)
        else:
            comparing.answer(
                question,
                folder,
                how,
                until=max_seeds if until_decided else None,
                trials=0 if is_table else tune,
                given=asked.given,
                on_event=on_event,
                command=command,
            )
            failure = None
    if only is None:
        failure = print_answer(folder)
    if failure:
        raise typer.Exit(1)


def _how(
    jobs: str, threads: int, engine: str, ray_address: str | None, download: bool | None
) -> Any:
    from spinalnet.comparison.comparing import How

    if engine not in ("local", "ray", "print"):
        raise unknown_name("engine", engine, ("local", "ray", "print"))
    if jobs != "auto" and not jobs.isdigit():
        raise InputError(f"--jobs must be a number of runs at a time, or auto; got '{jobs}'.")
    number: Any = "auto" if jobs == "auto" else int(jobs)
    return How(number, threads, "ray" if engine == "ray" else "local", ray_address, download)


_OF_TABLES = frozenset(
    (
        *("data", "target", "task", "time", "group", "tune", "heads", "head_option", "seeds"),
        *("seed", "out", "metric", "margin", "folds", "repeats", "jobs", "threads", "engine"),
        *("ray_address", "dry_run", "only", "until_decided", "max_seeds"),
    )
)

# What decides how long training goes on, and at which rate.
_NOT_OF_STEPS = {"epochs", "lr", "schedule", "warmup_epochs", "step_size", "gamma", "divide_by"}
_NOT_OF_STEPS |= {"redraw_power", "ties_improve", "restart_from", "early_stopping", "ema_decay"}


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

    from spinalnet import _dist, files
    from spinalnet.comparison import ComparisonSpec, running
    from spinalnet.training import environment, lrfind

    asked.refuse(_NOT_OF_STEPS, "for single steps at rising rates")
    base = asked.spec()
    question = ComparisonSpec(base, heads, seeds=1)  # type: ignore[arg-type]
    with Progress(console=err_console, transient=True) as bars:
        shown = {name: bars.add_task(name, total=steps) for name in question.heads}
        found = running.find_rates(
            question,
            download=asked.download,
            lowest=lowest,
            highest=highest,
            steps=steps,
            on_step=lambda head, done, _: bars.update(shown[head], completed=done),
        )
    if not _dist.is_main():
        return
    folder = out or Path("runs") / f"lr-find-{_label(base)}"
    title = f"{Path(base.data.name).name}, {base.model.name}: rates rising over {steps} steps"
    files.write_figure(folder / "lr-find.png", lrfind.draw_range_tests(found, title))
    numbers = {
        "command": "spinalnet " + shlex.join(sys.argv[1:]),
        "run": base.to_dict(),
        "heads": {name: test.to_dict() for name, test in found.items()},
        "environment": environment.describe_environment(),
    }
    files.write_mapping(folder / "lr-find.json", numbers)
    for name, test in found.items():
        end = "it diverged" if test.diverged else "the range ended"
        out_console.print(
            f"{name}: --lr {test.suggestion:.1e} (a tenth of {test.lowest:.1e}, where the loss is "
            f"lowest; it falls fastest at {test.steepest:.1e}; at {test.rates[-1]:.1e} {end})",
            highlight=False,
            soft_wrap=True,
        )
    out_console.print(f"Figure: {folder / 'lr-find.png'}", highlight=False, soft_wrap=True)


def _label(spec: RunSpec) -> str:
    """Return what folders of runs on this data with this network are named after."""
    return f"{Path(spec.data.name).name}-{spec.model.name}"


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison, or of one run.")],
    metric: Annotated[str | None, typer.Option(help="Judge by another metric.")] = None,
    margin: Annotated[
        float | None, typer.Option(help="Take other differences for equal; the report says so.")
    ] = None,
) -> None:
    """Write the summary, plots and page of a comparison, or of one run, from its files."""
    from spinalnet.comparison import write_report

    write_report(folder, metric=metric, margin=margin)
    print_answer(folder)

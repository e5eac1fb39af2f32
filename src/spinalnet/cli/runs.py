"""Commands that train, look for a learning rate, and report."""

from __future__ import annotations

import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinalnet._checks import InputError
from spinalnet.cli import names as complete
from spinalnet.cli.options import (
    NETWORK,
    OUTPUT,
    Group,
    Log,
    ProbeEpochs,
    ProbeLr,
    RunOptions,
    Target,
    TaskOf,
    TimeColumn,
    Wait,
    head_options,
    option,
    with_run_options,
)
from spinalnet.cli.output import answer, say
from spinalnet.cli.progress import (
    alone_in,
    counting,
    print_note,
    print_report,
    print_run,
    reporter,
    show_run,
    watched,
)
from spinalnet.cli.root import ASK, USE, app
from spinalnet.training.presets import of_tables

if TYPE_CHECKING:
    from spinalnet.comparison import RunSpec
    from spinalnet.training.runs import RunRecord


HeadOf = Annotated[
    str,
    option(
        NETWORK,
        "Head (spinalnet list), or mymodule:MyHead, your own.",
        metavar="NAME",
        autocompletion=complete.one("heads"),
    ),
]


@app.command("train", rich_help_panel=ASK)
@with_run_options
def train_command(
    asked: RunOptions,
    *,
    probe_epochs: ProbeEpochs = 0,
    probe_lr: ProbeLr = 3e-3,
    head: HeadOf = "spinal",
    out: Annotated[Path | None, option(OUTPUT, "Folder of the run.", metavar="FOLDER")] = None,
    target: Target = None,
    task: TaskOf = "auto",
    group: Group = None,
    time: TimeColumn = None,
    wait: Wait = False,
    log: Log = "",
) -> None:
    """Train one model; the same command again continues an interrupted run.

    On images a network; on a table (csv, tsv, parquet, arrow, or sklearn:NAME) the model that
    --head names, on three quarters of the rows, with the rest as its test part.
    """
    from spinalnet.comparison import asking, building, moved, running
    from spinalnet.nn import is_own, use_head
    from spinalnet.training import runs

    asked.check_labels(is_table := asking.names_table(asked.data, target))
    if is_table:
        of_table: dict[str, Any] = {"target": target, "task": task, "group": group, "time": time}
        of_table["ignore"] = tuple(asked.ignore or ())
        _train_on_table(asked, head, out, wait, log, **of_table)
        return
    asked.refuse_of_tables({"target", "time"})
    of_data = {"task": task, "group": group}
    if is_own(head):
        use_head(head)
    spec = asked.spec(head=head, probe_epochs=probe_epochs, probe_lr=probe_lr, **of_data)
    folder = out or Path("runs") / f"{_label(spec)}-{spec.name}"
    if runs.is_done(folder):  # its data may be gone
        note = moved.follow(folder, spec)
        record = running.run_one(spec, folder)
        _say_done(record, note)
        return
    moved.check_there(folder, spec.data)
    with watched(log, folder) as trackers, alone_in(folder, wait):
        if note := moved.follow(folder, spec):
            print_note(note)
        splits = building.load_splits(spec, download=asked.download)
        for note in filter(None, (spec.chosen, *splits.info.notes)):
            print_note(note)
        with show_run(spec.name) as shown:
            watch = trackers.watchers
            record = running.run_one(spec, folder, splits=splits, on_progress=shown, watch=watch)
            shown.finished(record.result or {})
    print_run(record)


def _say_done(record: RunRecord, note: str | None = None) -> None:
    """Give a run that was done before as the answer."""
    reporter(bars=False).run_finished(record.path.name, record.result or {})
    say(f"{record.path} is already done; nothing to train. {note or ''}".rstrip())
    print_run(record)


_OF_IMAGES = {"model", "backbone", "weights", "freeze", "data_dir", "download", "image_size"}
_OF_IMAGES |= {"in_channels", "limit", "on_bad_image", "pixel_range", "probe_epochs", "probe_lr"}
_OF_IMAGES |= {"on_duplicate"}
_OF_IMAGES |= {"labels", "image_column", "label_column", "split_column"}


def _train_on_table(
    asked: RunOptions, head: str, out: Path | None, wait: bool, log: str, **of_table: Any
) -> None:
    """Fit one model to a table and leave its folder."""
    from spinalnet import _dist
    from spinalnet.comparison import TableSpec, asking
    from spinalnet.comparison.tables import rows as table_rows
    from spinalnet.comparison.tables import running as table_running
    from spinalnet.comparison.tables.spec import training_of
    from spinalnet.training import runs

    asked.refuse(_OF_IMAGES, f"for a table ('{asked.data}')")
    training = {
        field.name: getattr(asked.training, field.name)
        for field in fields(asked.training)
        if field.name in asked.given
    }
    shared = training_of(training, head)
    options = {**shared.pop("head_options", {}), **head_options(asked.head_option)}
    shared["train"] |= of_tables(asked.preset, {*shared["train"], *options})
    of_table["preset"] = asked.preset or ""
    spec = TableSpec(asked.data, head=head, head_options=options, **shared, **of_table)
    if not _dist.is_main():
        return  # one process fits a table
    folder = out or asking.default_run_folder(spec)
    if runs.is_done(folder):  # its table may be gone
        # It refuses another question in the same folder.
        _say_done(table_running.run_table(spec, folder))
        return
    with watched(log, folder) as trackers, alone_in(folder, wait):
        for note in table_rows.rows_of(spec).table.notes:
            print_note(note)
        with show_run(spec.name) as shown:
            watch = trackers.watchers
            record = table_running.run_table(spec, folder, on_progress=shown, watch=watch)
            shown.finished(record.result or {})
    print_run(record)
    if reason := (record.result or {}).get("model_not_kept"):
        print_note(f"the model is not kept as data, and is fitted again when used: {reason}.")


# What decides how long training goes on, and at which rate.
_NOT_OF_STEPS = {"epochs", "lr", "schedule", "warmup_epochs", "step_size", "gamma", "divide_by"}
_NOT_OF_STEPS |= {"redraw_power", "ties_improve", "restart_from", "early_stopping", "ema_decay"}
_NOT_OF_STEPS |= {"on_nonfinite", "save_every"}


@app.command("lr-find", rich_help_panel=ASK)
@with_run_options
def lr_find_command(
    asked: RunOptions,
    *,
    heads: Annotated[
        str,
        option(
            NETWORK,
            "Heads, comma separated.",
            metavar="NAMES",
            autocompletion=complete.several("heads"),
        ),
    ] = "spinal",
    lowest: Annotated[float, option("Steps", "Learning rate of the first step.")] = 1e-6,
    highest: Annotated[float, option("Steps", "Learning rate of the last step.")] = 10.0,
    steps: Annotated[int, option("Steps", "Steps at rising rates.", min=10)] = 100,
    out: Annotated[
        Path | None, option(OUTPUT, "Folder of figure and numbers.", metavar="FOLDER")
    ] = None,
) -> None:
    """Try rising learning rates for some steps and suggest one; no weights are kept.

    The suggestion is a tenth of the rate at which the smoothed training loss is lowest.
    """
    from spinalnet import _dist, files
    from spinalnet.comparison import ComparisonSpec, asking, running
    from spinalnet.comparison.question import read_heads, use_heads
    from spinalnet.training import environment, lrfind

    unused = {"preset", *_NOT_OF_STEPS} & asked.typed
    asked.refuse(unused, "for single steps at rising rates")
    if asking.names_table(asked.data):
        raise InputError(
            f"lr-find is for networks on images, and '{asked.data}' is a table, whose models have "
            f"a rate of their own: spinalnet train {shlex.quote(asked.data)} --lr RATE sets "
            "another."
        )
    base = asked.spec()
    use_heads(heads)
    question = ComparisonSpec(base, tuple(row.label for row in read_heads(heads)), seeds=1)
    with counting(dict.fromkeys(question.heads, steps), "steps") as tell:
        found = running.find_rates(
            question,
            download=asked.download,
            lowest=lowest,
            highest=highest,
            steps=steps,
            on_step=lambda head, done, _: tell(head, done),
        )
    if not _dist.is_main():
        return
    if base.chosen:
        print_note(base.chosen)
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
    lines = [
        f"{name}: --lr {test.suggestion:.1e} (a tenth of {test.lowest:.1e}, where the loss is "
        f"lowest; it falls fastest at {test.steepest:.1e}; at {test.rates[-1]:.1e} "
        f"{'it diverged' if test.diverged else 'the range ended'})"
        for name, test in found.items()
    ]
    figure = folder / "lr-find.png"
    suggested = {name: test.suggestion for name, test in found.items()}
    answer({"folder": folder, "lr": suggested}, *lines, f"Figure: {figure}")


def _label(spec: RunSpec) -> str:
    """Return what folders of runs on this data with this network are named after."""
    return f"{Path(spec.data.name).name}-{spec.model.name}"


@app.command("report", rich_help_panel=USE)
def report_command(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder of a comparison, or of one run.", autocompletion=complete.runs),
    ],
    metric: Annotated[
        str | None,
        typer.Option(
            help="Judge by another metric; the report says that it was chosen afterwards.",
            metavar="NAME",
            autocompletion=complete.one("metrics"),
        ),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Take other differences for equal; the report says so.")
    ] = None,
) -> None:
    """Write the summary, plots and page of a comparison, or of one run, from its files."""
    print_report(folder, metric, margin)

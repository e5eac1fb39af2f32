"""The command that answers: `spinalnet compare`."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spinalnet._checks import InputError, TrainingError
from spinalnet.cli import names as complete
from spinalnet.cli.options import (
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
    option,
    with_run_options,
)
from spinalnet.cli.output import answer, complain, say
from spinalnet.cli.progress import (
    alone_in,
    plan_in_words,
    print_answer,
    print_note,
    show_progress,
    watched,
)
from spinalnet.cli.root import ASK, app, as_options

if TYPE_CHECKING:
    from spinalnet.comparison import ComparisonSpec
    from spinalnet.comparison.cells import Event, Load
    from spinalnet.comparison.engine import Effort


_ANSWER, _ENGINE = "Comparison", "Engine"
Folds = Annotated[
    int, option(_ANSWER, "Draw the test part from all examples, in so many folds; 0: as it is.")
]
Repeats = Annotated[int, option(_ANSWER, "How often all folds are drawn.")]
Metric = Annotated[
    str | None,
    option(
        _ANSWER,
        "What is compared, such as accuracy, auroc, log-loss, r2.",
        metavar="NAME",
        autocompletion=complete.one("metrics"),
    ),
]
Margin = Annotated[
    float | None,
    option(
        _ANSWER,
        "Differences up to this count as equal, in the metric's own numbers (0.005 is half a "
        "point of accuracy).",
    ),
]
UntilDecided = Annotated[
    bool, option(_ANSWER, "Add seeds until every comparison is decided.", "--until-decided")
]
MaxSeeds = Annotated[int | None, option(_ANSWER, "Most seeds of --until-decided; 30 without it.")]
Tune = Annotated[int, option(_ANSWER, "Trials in which each head's settings are chosen.")]
Jobs = Annotated[
    str,
    option(
        _ENGINE,
        "Runs at a time. auto: as many as there are processors, one on a GPU.",
        metavar="N|auto",
    ),
]
Threads = Annotated[int, option(_ENGINE, "Threads of each run on the CPU.")]
Engine = Annotated[
    str,
    option(
        _ENGINE,
        "local; ray: on a Ray cluster; print: write a script for Slurm and run nothing.",
        choices=("local", "ray", "print"),
    ),
]
RayAddress = Annotated[
    str | None, option(_ENGINE, "Address of a Ray cluster; without it, one on this machine.")
]
StorageOf = Annotated[
    str | None,
    option(
        _ENGINE,
        "Address (s3://bucket/folder) through which the machines of a Ray cluster that share no "
        "disk pass the runs on.",
        "--storage",
        metavar="URL",
    ),
]
DryRun = Annotated[
    bool, option(_ENGINE, "Show what would run, and what it costs; write nothing.", "--dry-run")
]
Only = Annotated[str | None, option(_ENGINE, "Make this one run.", metavar="NAME", hidden=True)]

_OF_IMAGES = {"model", "backbone", "weights", "freeze", "data_dir", "download"}
_OF_IMAGES |= {"image_size", "in_channels", "limit", "on_bad_image", "probe_epochs", "probe_lr"}
_OF_IMAGES |= {"on_duplicate"}
_OF_IMAGES |= {"labels", "image_column", "label_column", "split_column"}
_OF_IMAGES |= {"pixel_range"}


@app.command("compare", rich_help_panel=ASK)
@with_run_options
def compare_command(
    asked: RunOptions,
    *,
    probe_epochs: ProbeEpochs = 0,
    probe_lr: ProbeLr = 3e-3,
    heads: Annotated[
        str | None,
        option(
            _ANSWER,
            "Heads, comma separated, options of their own behind a colon: "
            "spinal,spinal:num_layers=8,mlp; mymodule:MyHead for a class of your own. The first is "
            "compared with each other. Default: spinal,unchained,matched,mlp,linear, and trees on "
            "tables.",
            metavar="NAMES",
            autocompletion=complete.several("heads"),
        ),
    ] = None,
    seeds: Annotated[int, option(_ANSWER, "Number of paired seeds; tables: of splits.")] = 5,
    out: Annotated[
        Path | None, option(OUTPUT, "Folder of the comparison.", metavar="FOLDER")
    ] = None,
    folds: Folds = 0,
    repeats: Repeats = 1,
    metric: Metric = None,
    margin: Margin = None,
    group: Group = None,
    until_decided: UntilDecided = False,
    max_seeds: MaxSeeds = None,
    tune: Tune = 0,
    target: Target = None,
    task: TaskOf = "auto",
    time: TimeColumn = None,
    jobs: Jobs = "auto",
    threads: Threads = 1,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    storage: StorageOf = None,
    dry_run: DryRun = False,
    only: Only = None,
    wait: Wait = False,
    log: Log = "",
) -> None:
    """Answer "does a spinal head help on this data, and what does it cost?".

    Images: every head is trained with the same seeds (same split, data order, augmentation draws
    and initial trunk), epochs are chosen on validation data, and the test data is used once.

    Tables (csv, tsv, parquet, arrow, or sklearn:NAME): every head, and boosted trees, on --seeds
    random splits, or on --folds.

    The same command again continues: finished runs stay, failed ones are tried again.
    """
    from spinalnet.comparison import asking, building, planning
    from spinalnet.comparison.engine import Effort
    from spinalnet.comparison.question import read_heads, use_heads
    from spinalnet.training import TrainConfig

    shared = {"folds": folds, "repeats": repeats, "metric": metric, "margin": margin}
    shared |= {"group": group, "time": time, "tune": tune, "preset": asked.preset}
    units = seeds if "seeds" in asked.given else None  # None: those of the preset
    if heads is not None:
        use_heads(heads)
    asked.check_labels(is_table := asking.names_table(asked.data, target))
    if is_table:
        if asked.head_option:
            own, *others = [row.label for row in read_heads(heads or "spinal,mlp")]
            rows = f"{own}{',' if ':' in own else ':'}{','.join(asked.head_option)}"
            raise InputError(
                "--head-option has no meaning in a comparison of tables, where options stand "
                f"behind a head: --heads {shlex.quote(','.join([rows, *others]))}."
            )
        of_images = _OF_IMAGES | {field.name for field in fields(TrainConfig)} - {"seed"}
        asked.refuse(of_images, f"for a table ('{asked.data}')")
        own = {"target": target, "task": task, "seed": asked.training.seed}
        own |= {"ignore": tuple(asked.ignore or ())}
        question = asking.ask(asked.data, heads, units, **own, **shared)
    else:
        asked.refuse_of_tables({"target", "time"})
        base = asked.spec(task=task, probe_epochs=probe_epochs, probe_lr=probe_lr)
        question = asking.ask(base, heads, units, **shared)
    most = asking.check_worth_asking(question, until_decided, max_seeds)
    chosen: Any = "local" if engine == "print" else engine
    effort = Effort(read_jobs(jobs), threads, chosen, ray_address, None, storage)
    folder = asking.default_folder(question) if out is None else out
    load = functools.partial(building.load_splits, download=asked.download)
    trials = 0 if question.is_of_table else tune
    if trials and (only is not None or engine == "print"):
        beside = "--engine print" if engine == "print" else "--only"
        raise InputError(
            f"--tune chooses the settings before the runs are known, and {beside} needs them: "
            "leave out one of the two (--jobs and --engine ray run trials side by side)."
        )
    if dry_run:
        plan = planning.plan(question, folder, effort, load, trials=trials, given=asked.given)
        told, shown = plan_in_words(plan)
        answer(told, *shown)
        _tell_chosen(question)
    elif only is not None:
        _run_only(only, question, folder, effort, load)
    else:
        with alone_in(folder, wait):
            if engine == "print":
                _print_script(question, folder, effort, load)
            else:
                _run(question, folder, effort, load, most, trials, asked.given, log)


def read_jobs(jobs: str) -> int | Literal["auto"]:
    """Return what --jobs says.

    Raises:
        InputError: If it is neither a number nor "auto".
    """
    if jobs == "auto":
        return "auto"
    if not jobs.isdecimal() or int(jobs) < 1:
        raise InputError(f"--jobs must be a number from 1, or auto, got '{jobs}'.")
    return int(jobs)


def _run(
    question: ComparisonSpec,
    folder: Path,
    effort: Effort,
    load: Load,
    max_seeds: int | None,
    trials: int,
    given: Collection[str],
    log: str,
) -> None:
    """Run everything, print the answer; what has failed makes the exit code 1."""
    from spinalnet.comparison import Comparison, comparing
    from spinalnet.comparison.watching import both
    from spinalnet.training import runs

    cells = comparing.cells_of(question, folder)
    done = sum(runs.is_done(cell.folder) for cell in cells)
    begun = f"{done} of {len(cells)} runs are done already." if done else ""
    total = len(cells) + trials * len(question.heads)
    with _failing(), watched(log, folder) as watching, show_progress(total) as on_event:
        comparing.run_comparison(
            question,
            folder,
            replace(effort, on_event=both(_after_telling(question, begun, on_event), watching)),
            load=load,
            command="spinalnet " + shlex.join(sys.argv[1:]),
            max_seeds=max_seeds,
            trials=trials,
            given=given,
        )
        if watching:
            watching.concluded(Comparison.load(folder).summary, folder)
    print_answer(folder)
    if Comparison.load(folder).failed:
        raise typer.Exit(1)


def _tell_chosen(question: ComparisonSpec) -> None:
    """Say which network was taken, if nobody has named one."""
    if chosen := getattr(question.base, "chosen", ""):
        print_note(chosen)


def _after_telling(
    question: ComparisonSpec, begun: str, on_event: Callable[[Event], None]
) -> Callable[[Event], None]:
    """Return what hears of events, and says before the first one what is done and which network.

    By then all has been refused that can be, and a refusal is one sentence.
    """
    told = False

    def hear(event: Event) -> None:
        nonlocal told
        if not told:
            told = True
            if begun:
                say(begun)
            _tell_chosen(question)
        on_event(event)

    return hear


def _run_only(
    name: str, question: ComparisonSpec, folder: Path, effort: Effort, load: Load
) -> None:
    """Make one run."""
    from spinalnet.comparison import comparing

    with show_progress(1) as on_event:
        effort = replace(effort, on_event=on_event)
        failure = comparing.run_only(name, question, folder, effort, load)
    reason = None if failure is None else failure.reason
    answer({"folder": folder, "only": name, "failed": reason})
    if failure is not None:
        raise typer.Exit(1)


@contextmanager
def _failing() -> Iterator[None]:
    """End with exit code 1 where no run has finished."""
    try:
        yield
    except TrainingError as error:
        complain(as_options(str(error)))
        raise typer.Exit(1) from None


def _print_script(question: ComparisonSpec, folder: Path, effort: Effort, load: Load) -> None:
    """Write the script of an array of jobs, and print it."""
    from spinalnet import files
    from spinalnet.comparison import comparing, slurm
    from spinalnet.comparison.cells import Bench

    comparing.prepare(question, comparing.checked_folder(folder), load, Bench(load))
    names = [spec.name for spec in question.cells()]
    text = slurm.script_of(names, _without_engine(sys.argv[1:], folder), folder, effort.threads)
    files.write_text(folder / "slurm.sh", text)
    answer({"script": text, "file": folder / "slurm.sh"}, text.rstrip())
    say(f"Submit it: bash {folder / 'slurm.sh'}")


def _without_engine(arguments: list[str], folder: Path) -> list[str]:
    """Return the command's arguments without what chooses the engine, with the folder."""
    kept: list[str] = []
    skip = False
    for word in arguments:
        if skip:
            skip = False
        elif word in ("--engine", "--jobs"):
            skip = True
        elif not word.startswith(("--engine=", "--jobs=")):
            kept.append(word)
    named = any(word == "--out" or word.startswith("--out=") for word in kept)
    return kept if named else [*kept, "--out", str(folder)]

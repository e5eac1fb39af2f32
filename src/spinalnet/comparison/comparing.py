"""`compare`: from data and heads to an answer, whatever the data is.

Everything that can be refused is refused before the first file is written. Called again with the
same question the finished runs stay, the unfinished go on and the failed are tried again; more
seeds or heads extend the comparison.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinalnet import _dist, files, locks
from spinalnet._checks import InputError, SpinalnetError, TrainingError, unknown_name
from spinalnet.comparison import building, engine, moved, running
from spinalnet.comparison.asking import Source, ask, check_worth_asking, default_folder
from spinalnet.comparison.cells import Bench, Cell, Event, Failure, Load
from spinalnet.comparison.cost import MeasurementError, Stopwatches, are_equal, time_heads
from spinalnet.comparison.engine import Effort
from spinalnet.comparison.finished import LOOKS_FILE, note_look
from spinalnet.comparison.metrics import default_metric, find_metric
from spinalnet.comparison.question import ComparisonSpec, use_heads
from spinalnet.comparison.report import draw_figures, write_report
from spinalnet.comparison.result import Comparison
from spinalnet.comparison.schema import check_folder, read_mapping
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.summary import is_decided
from spinalnet.comparison.tables import running as table_running
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.comparison.times import SCHEMA as TIMES_SCHEMA
from spinalnet.comparison.tuning import check_tuning
from spinalnet.comparison.tuning import tune as tune_heads
from spinalnet.comparison.watching import Watch, Watching, both
from spinalnet.comparison.wording import listing
from spinalnet.models import use_model
from spinalnet.models.zoo import is_own_model
from spinalnet.training import runs

if TYPE_CHECKING:
    from spinalnet.data import Splits


_log = logging.getLogger(__name__)


def compare(
    data: Source | ComparisonSpec,
    heads: str | Iterable[str] | None = None,
    seeds: int | None = None,
    *,
    model: str | None = None,
    target: str | None = None,
    out: str | Path | None = None,
    folds: int = 0,
    repeats: int = 1,
    metric: str | None = None,
    margin: float | None = None,
    group: str | None = None,
    time: str | None = None,
    until_decided: bool = False,
    max_seeds: int | None = None,
    tune: int = 0,
    jobs: int | Literal["auto"] = "auto",
    threads: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    storage: str | None = None,
    download: bool | None = None,
    preset: str | None = None,
    command: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    watch: Watch = (),
    **options: Any,
) -> Comparison:
    """Answer "does a spinal head help on this data, and what does it cost?".

    Args:
        data: Name of a data set, folder of images, table (a file, `sklearn:NAME`, or a `Table`), a
            `RunSpec` or `TableSpec` that all runs share, or the whole question.
        heads: Rows, such as "spinal,mlp,spinal:num_layers=8"; the first is compared with each of
            the others. "mymodule:MyHead" is a head of your own, see `nn.use_head`.
        seeds: Number of paired seeds; of a table without folds the number of random splits; 5
            without it, or what `preset` says.
        model: The network, for images: a name of `list_models()`, or "mymodule:MyNet", a network
            of your own, see `models.use_model`. Without one "mnist-cnn", and for
            a folder of colour photographs of more than 64 pixels a pre-trained one, frozen, if
            there is one; the notes say which.
        target: The column to predict, for tables.
        out: Folder of the comparison; `runs/compare-<data>-<model>` without one.
        folds: Draw the test part from all examples, in so many folds.
        repeats: How often all folds are drawn.
        metric: What is compared; the task's own without one.
        margin: Differences up to this are equal for all purposes, in the metric's own numbers.
        group: What must not lie in two parts: a column, or a pattern over the names of images.
        time: Column of a table by which nothing is trained on the future.
        until_decided: Add seeds until every comparison is decided, or `max_seeds` are reached.
        max_seeds: See `until_decided`; 30 without it.
        tune: Trials by which every head's settings are chosen first, on validation data; 0 for
            none. What is asked for by name (lr, head options) is not tuned.
        jobs: Runs at a time; "auto" for as many as there are processors, and one on a GPU.
        threads: Threads of each run on the CPU.
        engine: "local", or "ray" for a cluster.
        ray_address: As `ray.init` takes it; None for a cluster on this machine.
        storage: Address of a folder (s3://bucket/folder) that passes runs between the machines of a
            cluster that share no disk.
        download: Whether missing data may be fetched.
        preset: Settings by one name, those that are given apart: "quick", "standard", "thorough"
            (see `training.presets.PRESETS`).
        command: Kept with the result as what made it.
        on_event: Told of every run that begins, goes on, ends or fails.
        watch: Told the same as plain data, of every epoch and of every new best: a function of a
            `WatchEvent`, a `Watcher`, or several of them.
        options: Fields of a run, such as epochs=20, lr=1e-3, limit=1000, seed=100; for images with
            a table of labels labels=TABLE, label_column=..., task="regression" (see `DataSpec`).

    Raises:
        InputError: If anything asked for is impossible, before anything is written.
        TrainingError: If no run finished.
    """
    watching = Watching(watch)
    if isinstance(data, ComparisonSpec):
        given = {"model": model, "target": target, "heads": heads, "preset": preset, **options}
        if unused := sorted(name for name, value in given.items() if value is not None):
            raise InputError(f"the question knows {', '.join(unused)}: leave them out.")
        question = data
    else:
        if heads is not None:
            heads = heads if isinstance(heads, str) else tuple(heads)
            use_heads(heads)
        if model is not None and is_own_model(model):
            use_model(model)
        question = ask(
            *(data, heads, seeds),
            **{"model": model, "target": target, "folds": folds, "repeats": repeats},
            **{"metric": metric, "margin": margin, "group": group, "time": time, "tune": tune},
            **{"preset": preset, "download": download},
            **options,
        )
    most = check_worth_asking(question, until_decided, max_seeds)
    folder = default_folder(question) if out is None else out
    with watching.to_the_end():
        folder = run_comparison(
            question,
            folder,
            Effort(jobs, threads, engine, ray_address, both(on_event, watching), storage),
            load=functools.partial(building.load_splits, download=download),
            command=command,
            max_seeds=most,
            trials=0 if isinstance(question.base, TableSpec) else tune,
            given=options,
        )
        found = Comparison.load(folder)
        watching.concluded(found.summary, folder)
    return found


@locks.writes_alone
def run_comparison(
    question: ComparisonSpec,
    out: str | Path,
    effort: Effort | None = None,
    *,
    load: Load | None = None,
    command: str | None = None,
    timed: bool = True,
    reported: bool = True,
    max_seeds: int | None = None,
    decided: Callable[[Path], bool] | None = None,
    trials: int = 0,
    given: Collection[str] = (),
) -> Path:
    """Run every head in every unit, time the heads side by side, and write the report.

    Args:
        question: What to compare.
        out: Folder of the comparison; runs go to `runs/<head>-<unit>/` in it.
        effort: How the runs are made.
        load: What loads the data of a run on images; `load_splits` without it.
        command: Kept with the result as what made it.
        timed: Whether to time the heads, which takes a few seconds.
        reported: Whether to write the report.
        max_seeds: Add seeds until every comparison is decided, up to so many.
        decided: Whether the comparison in a folder is decided; by its summary without it.
        trials: Trials by which every head's settings are chosen first, for images.
        given: Settings that were asked for by name, which tuning leaves alone.

    Returns:
        The folder.

    Raises:
        InputError: If anything asked for is impossible, before anything is written.
        FolderInUse: If another process writes into `out`.
        TrainingError: If no run finished.
    """
    effort = effort or Effort()
    out, load = checked_folder(out), load or building.load_splits
    bench = Bench(load)
    if max_seeds is not None:  # one that had gone on beyond its first seeds goes on from there
        looks = (read_mapping(out / LOOKS_FILE) or {}).get("looks") or []
        most = min(max([question.seeds, *looks]), max_seeds)
        question = replace(question, seeds=max(question.seeds, most))
    check_tuning(question, trials, out, given)
    if trials:
        _log.info(
            "tuning: %d trials of each of %d heads",
            *(trials, len(question.heads)),
            extra={"phase": "tuning"},
        )
        question = _tuned(question, trials, out, effort, load, bench, given)
    splits = prepare(question, out, load, bench, timed=timed)
    if _dist.is_main():
        files.remove_asides(out)
    watches = None
    if timed and splits is not None and _dist.is_main() and not _is_known(question.heads, out):
        watches = Stopwatches(device=_device(question))
    with watches or contextlib.nullcontext():
        failed = _run_units(question, out, effort, load, bench, watches)
        while max_seeds is not None and question.seeds < max_seeds:
            if _dist.is_main():
                note_look(out, question.seeds, stopping=True)
            if question.seeds > 1 and (decided or is_decided)(out):
                break
            question = replace(question, seeds=question.seeds + 1)
            _write_question(out, question)
            failed |= _run_units(question, out, effort, load, bench, watches)
        if _dist.is_main():
            if command is not None:
                _note(out, command=command)
            if not any(runs.is_done(cell.folder) for cell in cells_of(question, out)):
                name, failure = next(iter(failed.items()))
                raise TrainingError(f"no run finished; {name}: {failure.reason}")
            if max_seeds is not None:
                note_look(out, question.seeds, stopping=True)
            _conclude(question, out, splits, watches, command, reported=reported)
    _dist.barrier()
    return out


def _conclude(
    question: ComparisonSpec,
    out: Path,
    splits: Splits | None,
    watches: Stopwatches | None,
    command: str | None,
    *,
    reported: bool,
) -> None:
    """Time the heads and write the report, of which the figures are drawn while those load."""
    if watches is not None:
        watches.load()
    drawn = draw_figures(out) if reported else None
    if watches is not None and splits is not None:
        _time(question, out, splits, watches)
    if reported:
        _log.info("writing the report", extra={"phase": "report"})
        write_report(out, command=command, drawn=drawn)


TIMING = "timing"
"""What `run_only` takes for the times of the heads, beside the names of runs."""


def run_only(
    name: str, question: ComparisonSpec, out: str | Path, effort: Effort, load: Load
) -> Failure | None:
    """Run one cell, or time the heads, as a task of an array of jobs does.

    Returns:
        Why it failed, if it did.

    Raises:
        InputError: If there is no such cell, or anything asked for is impossible.
    """
    out = checked_folder(out)
    cells = {cell.spec.name: cell for cell in cells_of(question, out)}
    if name not in (*cells, TIMING):
        raise unknown_name("run of this comparison", name, [*cells, TIMING])
    bench = Bench(load)
    chosen = [cells[name]] if name in cells else []
    with locks.FolderLock(out, shared=True):  # with the other tasks of the array
        splits = prepare(question, out, load, bench, chosen)
        if not chosen:
            if splits is not None:
                _time(question, out, splits)
            return None
        effort_here = {"threads": effort.threads, "on_event": effort.on_event}
        return engine.run_cells(chosen, bench=bench, **effort_here)[0]


def checked_folder(out: str | Path) -> Path:
    """Return the folder of a comparison as a path.

    Raises:
        InputError: If it is an address, and not a path, or what would be written below it would
            lie elsewhere.
    """
    if re.match("[A-Za-z][A-Za-z0-9+.-]+:/", str(out)):  # a Path has lost one of the slashes
        raise InputError(
            f"out must be a folder on a disk, got '{out}': give an address as storage, through "
            "which the machines of a Ray cluster pass the runs on."
        )
    out = files.expanded(out)
    for place in (out, out / "runs", out / "tuning"):
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            linked = next((one for one in entries if one.is_symlink() and one.is_dir()), None)
            if linked is not None:
                raise InputError(
                    f"{linked.path} is a link to a folder elsewhere, where a comparison neither "
                    "writes nor looks for its runs: put the folder itself there, or choose another."
                )
    return out


def cells_of(question: ComparisonSpec, out: Path) -> list[Cell]:
    """Return every run of a comparison with its folder, all heads of a unit before the next."""
    return [Cell(spec, out / "runs" / spec.name) for spec in question.cells()]


def prepare(
    question: ComparisonSpec,
    out: Path,
    load: Load,
    bench: Bench,
    only: Sequence[Cell] | None = None,
    *,
    timed: bool = False,
) -> Splits | None:
    """Refuse what cannot be, and only then write what is asked; return the first unit's data.

    Where everything is done no data are loaded: they may be gone, and reading them takes time.

    Args:
        question: What is asked.
        out: Folder of the comparison.
        load: What loads data.
        bench: Is given the data.
        only: What will be run, where others run the rest at the same time; None for all.
        timed: Whether the heads are to be timed, which takes the data.

    Raises:
        InputError: If the folder holds another comparison, the data cannot be used, a network
            cannot be built, or the folder cannot be written.
    """
    check_same_question(question, out)
    cells = cells_of(question, out)
    splits = None
    finished = _task_of_finished(question, cells, out, timed=timed) if only is None else None
    if isinstance(question.base, RunSpec) and finished is None:
        moved.check_there(out, question.base.data)
    if finished is not None:
        _check_judging(question, finished)
    elif isinstance(question.base, TableSpec):
        task = table_running.check_specs([c.spec for c in cells if isinstance(c.spec, TableSpec)])
        _check_judging(question, task)
    else:
        splits = _first_splits(question, cells[0], load)
        _check_judging(question, splits.info.task)
        bench.keep(cells[0], splits)
    for cell in cells if only is None else only:
        if runs.is_run(cell.folder):
            running.open_folder(cell.folder, cell.spec)
    begun = (out / "comparison.yaml").exists()
    if _dist.is_main() and not (begun and only is not None):
        if splits is not None:
            assert isinstance(question.base, RunSpec)
            moved.keep_data(out, question.base.data)
            running.keep_left_out(out, splits, begun=begun)
            moved.keep_labels(out, question.base.data, begun=begun)
        _write_question(out, question)
    _dist.barrier()
    return splits


def _task_of_finished(
    question: ComparisonSpec, cells: Sequence[Cell], out: Path, *, timed: bool
) -> str | None:
    """Return the task of a comparison in which nothing is left to do; None for any other."""
    if timed and not question.is_of_table and not _is_known(question.heads, out):
        return None
    if not all(runs.is_done(cell.folder) for cell in cells):
        return None
    result = runs.read_result(cells[0].folder) or {}
    return str(result["task"]) if "task" in result else None


def _check_judging(question: ComparisonSpec, task: str) -> None:
    """Refuse a metric of the other task, and a margin that no difference can reach."""
    asked = question.metric
    metric = find_metric(asked, task) if asked else default_metric(task, table=question.is_of_table)
    if question.margin is not None and metric.in_points and question.margin >= 1:
        raise InputError(
            f"a margin of {metric.name} is a share below 1, got {question.margin:g}: 0.02 is two "
            "points."
        )


def _first_splits(question: ComparisonSpec, first: Cell, load: Load) -> Splits:
    """Load the data of the first unit, and see that every head can be built for it."""
    assert isinstance(first.spec, RunSpec)
    splits = load(first.spec)
    seen: list[tuple[str, RunSpec, Any]] = []
    with building.one_after_another(first.spec.train):
        for label, spec in zip(question.heads, question.of_unit(question.units()[0]), strict=True):
            assert isinstance(spec, RunSpec)
            try:
                head = building.build_model(spec, splits.info).head
            except SpinalnetError:
                raise
            except (MemoryError, RuntimeError):
                continue  # too large for this machine: told in its row, and the others run
            for other, one, built in seen:
                if one.train == spec.train and are_equal(head, built):
                    raise InputError(
                        f"heads must differ, but {other} and {label} are the same network here: "
                        "leave one out."
                    )
            seen.append((label, spec, head))
    return splits


_FIXED = ("folds", "metric", "margin")


def check_same_question(question: ComparisonSpec, out: Path) -> None:
    """See that a folder holds no other comparison.

    Raises:
        InputError: If it does; what differs is named.
    """
    base = question.base
    if isinstance(base, TableSpec):
        check_folder(out, "table", base.table)
    else:
        check_folder(out, "data", base.data.name)
    kept = read_mapping(out / "comparison.yaml")
    if kept is None:
        return
    wanted = question.to_dict()
    before = [str(head) for head in kept.get("heads") or ()]
    if before and (before[0] != question.heads[0] or not set(before) <= set(question.heads)):
        raise InputError(
            f"{out} holds a comparison of {', '.join(before)}: name them all, the first one first, "
            f"and further ones behind them, or choose another folder for {listing(question.heads)}."
        )
    for name in _FIXED:
        if name in kept and kept[name] != wanted[name]:
            raise InputError(
                f"{out} holds a comparison with {name} = {kept[name]!r}, not {wanted[name]!r}: "
                "what decides is fixed before the runs are seen; choose another folder."
            )


def _write_question(out: Path, question: ComparisonSpec) -> None:
    """Write what is asked; what was noted beside it stays."""
    if not _dist.is_main():
        return
    kept = read_mapping(out / "comparison.yaml") or {}
    noted = {name: kept[name] for name in ("command",) if name in kept}
    files.write_kept(out / "comparison.yaml", {**question.to_dict(), **noted})


def _note(out: Path, **values: Any) -> None:
    kept = read_mapping(out / "comparison.yaml") or {}
    files.write_kept(out / "comparison.yaml", {**kept, **values})


def _tuned(
    question: ComparisonSpec,
    trials: int,
    out: Path,
    effort: Effort,
    load: Load,
    bench: Bench,
    given: Collection[str],
) -> ComparisonSpec:
    """Return the question with the settings that tuning found."""
    check_same_question(question, out)
    splits = _first_splits(question, cells_of(question, out)[0], load)
    found, _ = tune_heads(
        question,
        trials,
        out,
        lambda cells: _run_cells(question, cells, effort, load, bench),
        num_classes=splits.info.num_classes or 1,
        given=given,
    )
    return found


def _run_units(
    question: ComparisonSpec,
    out: Path,
    effort: Effort,
    load: Load,
    bench: Bench,
    watches: Stopwatches | None = None,
) -> dict[str, Failure]:
    """Run what is missing; return what failed, by name."""
    cells = cells_of(question, out)
    failures = _run_cells(question, cells, effort, load, bench, watches)
    return {
        cell.spec.name: failure
        for cell, failure in zip(cells, failures, strict=True)
        if failure is not None
    }


def _run_cells(
    question: ComparisonSpec,
    cells: Sequence[Cell],
    effort: Effort,
    load: Load,
    bench: Bench,
    watches: Stopwatches | None = None,
) -> list[Failure | None]:
    device = _device(question)
    missing = sum(not runs.is_done(cell.folder) for cell in cells)
    return engine.run_cells(
        cells,
        jobs=engine.jobs_for(effort.jobs, missing, effort.threads, device),
        threads=effort.threads,
        engine=effort.engine,
        ray_address=effort.ray_address,
        storage=effort.storage,
        load=load,
        bench=bench,
        on_event=effort.on_event,
        on_idle=None if watches is None else functools.partial(watches.load, beside_others=True),
    )


def _device(question: ComparisonSpec) -> str:
    base = question.base
    return base.train.device if isinstance(base, RunSpec) else "cpu"


def _timed_heads(question: ComparisonSpec, out: Path) -> tuple[str, ...]:
    """Return the heads that have a finished run."""
    finished = {
        cell.spec.label or _head(cell.spec)
        for cell in cells_of(question, out)
        if runs.is_done(cell.folder)
    }
    return tuple(label for label in question.heads if label in finished)


def _is_known(heads: Collection[str], out: Path) -> bool:
    timing = read_mapping(out / "timing.json") or {}
    known: Mapping[str, Any] = timing.get("heads") or {}
    return set(heads) <= set(known) and timing.get("schema") == TIMES_SCHEMA


def _time(
    question: ComparisonSpec, out: Path, splits: Splits, watches: Stopwatches | None = None
) -> None:
    """Time the heads that have a finished run, if that is not done."""
    heads = _timed_heads(question, out)
    if _is_known(heads, out) or heads[0] != question.heads[0]:  # its controls follow the first
        return
    other = {label: own for label, own in question.other.items() if label in heads}
    _log.info("timing %d heads side by side", len(heads), extra={"phase": "timing"})
    try:
        measured = time_heads(replace(question, heads=heads, other=other), splits, watches=watches)
    except (MeasurementError, MemoryError, RuntimeError):
        return  # the runs are whole without it
    files.write_kept(out / "timing.json", measured)


def _head(spec: RunSpec | TableSpec) -> str:
    return spec.head if isinstance(spec, TableSpec) else spec.model.head

"""`compare`: from data and heads to an answer, whatever the data is.

What a head costs is measured after its runs; what the runs say stands in `summary`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinalnet import _dist, files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison import engine, tables
from spinalnet.comparison.building import build_model, load_splits, one_after_another
from spinalnet.comparison.cost import time_heads
from spinalnet.comparison.engine import Cell, Load, OnEvent
from spinalnet.comparison.question import DEFAULT_HEADS, TABLE_HEADS, ComparisonSpec
from spinalnet.comparison.running import keep_left_out
from spinalnet.comparison.schema import check_folder
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.table_spec import TableSpec
from spinalnet.comparison.tuning import check_tuning, tune
from spinalnet.training import placement, runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from spinalnet.comparison.result import Comparison
    from spinalnet.data import Splits, Table

MOST_SEEDS = 30
"""Where `until_decided` stops, if nothing else is asked."""


@dataclass(frozen=True)
class How:
    """How the runs of a comparison are made; none of it changes a result.

    Attributes:
        jobs: Runs at a time; "auto": as many as there are processors, on a GPU one.
        threads: Threads of a run on the CPU; None leaves them as they are.
        engine: "local" or "ray".
        ray_address: Of the cluster, as `ray.init` takes it.
        download: Whether missing data may be fetched.
    """

    jobs: int | Literal["auto"] = "auto"
    threads: int | None = 1
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    download: bool | None = None


def compare(
    data: str | Path | Table | ComparisonSpec,
    heads: str | Iterable[str] | None = None,
    seeds: int = 5,
    *,
    target: str | None = None,
    out: str | Path | None = None,
    folds: int = 0,
    repeats: int = 1,
    metric: str | None = None,
    margin: float | None = None,
    until_decided: bool = False,
    max_seeds: int = MOST_SEEDS,
    tune: int = 0,
    jobs: int | Literal["auto"] = "auto",
    threads: int | None = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    download: bool | None = None,
    on_event: OnEvent | None = None,
    command: str | None = None,
    **options: Any,
) -> Comparison:
    """Answer "does a spinal head help on this data, and what does it cost?".

    Trains every head in every unit (a seed, a fold, a random split), chooses epochs on validation
    data, tests once, and says of the first head against each other one of five things: better,
    worse, equal within the margin, undecided, or that nothing was learned. Called again with the
    same arguments it runs what is missing; more seeds or heads extend it.

    Args:
        data: Name of a data set, folder of images, table (`sklearn:NAME`, a file, or a `Table`);
            or a `ComparisonSpec`, which says all up to `margin`.
        heads: Rows, with commas or as a list: "spinal,spinal:num_layers=8,mlp"; the first is
            compared with each of the others. By default the spinal head, its controls (unchained,
            matched), the fully connected layers it replaces, a linear map, and on tables trees.
        seeds: Number of paired seeds; of random splits on a table.
        target: Column to predict of a table.
        out: Folder of the comparison; by default `runs/compare-<data>-<model>`.
        folds: Draw the test part in so many folds of all examples; 0 for the data's own.
        repeats: How often the folds are drawn.
        metric: Row of `METRICS`.
        margin: Differences up to this are equal for all purposes (0.005: half a point).
        until_decided: Add seeds until every comparison is decided, or `max_seeds` are run. The
            intervals allow for looking after every seed.
        max_seeds: See `until_decided`.
        tune: Number of trials by which every head's settings are chosen first, on validation data;
            what is asked for by name (lr, head options) is not tuned.
        jobs: Runs at a time; "auto": as many as there are processors, on a GPU one.
        threads: Threads of each run on the CPU. Results depend on it, on `jobs` they do not.
        engine: "local", or "ray": on the cluster at `ray_address`.
        ray_address: As `ray.init` takes it.
        download: Whether missing data may be fetched; by default into the package's cache only.
        on_event: Called when a run is begun, goes on, is done or has failed.
        command: The command that a report names.
        options: Fields of `RunSpec` and its parts (model=, epochs=, lr=, image_size=, backbone
            weights ...), or of `TableSpec` (task=, group=, time=).

    Returns:
        The answer, with the runs it rests on.

    Raises:
        InputError: If anything asked for is impossible, before anything is written.

    Example:
        >>> found = compare("digits", seeds=2, epochs=1, limit=100, jobs=1)  # doctest: +SKIP
        >>> found.verdict  # doctest: +SKIP
    """
    from spinalnet.comparison.result import Comparison

    if isinstance(data, ComparisonSpec):
        question = data
    else:
        base = _base(data, target, tune, options)
        rows = heads
        if rows is None:
            rows = TABLE_HEADS if isinstance(base, TableSpec) else DEFAULT_HEADS
        question = ComparisonSpec(
            base,
            rows,
            seeds,
            folds,
            repeats,
            metric,
            margin,  # type: ignore[arg-type]
        )
    folder = default_folder(question) if out is None else Path(out)
    how = How(jobs, threads, engine, ray_address, download)
    answer(
        question,
        folder,
        how,
        until=max_seeds if until_decided else None,
        trials=0 if isinstance(question.base, TableSpec) else tune,
        given=options,
        on_event=on_event,
        command=command,
    )
    return Comparison.load(folder)


def _base(
    data: str | Path | Table, target: str | None, trials: int, options: Mapping[str, Any]
) -> RunSpec | TableSpec:
    from spinalnet.data import Table, is_table

    if isinstance(data, Table):
        return TableSpec(data.name, frame=data, tune=trials, **options)
    name = str(data)
    if is_table(name) or (target is not None and Path(name).is_file()):
        return TableSpec(name, target, tune=trials, **options)
    if target is not None:
        raise InputError(f"target names a column of a table, but '{name}' is none: leave it out.")
    return RunSpec.of(name, **options)


def default_folder(question: ComparisonSpec) -> Path:
    """Return the folder of a comparison that names none."""
    base = question.base
    if isinstance(base, TableSpec):
        return Path("runs") / f"compare-{Path(base.table).stem.replace(':', '-')}"
    return Path("runs") / f"compare-{Path(base.data.name).name}-{base.model.name.replace(':', '-')}"


def answer(
    question: ComparisonSpec,
    out: Path,
    how: How = How(),
    *,
    until: int | None = None,
    trials: int = 0,
    given: Collection[str] = (),
    on_event: OnEvent | None = None,
    command: str | None = None,
) -> Path:
    """Run a comparison and write its report; see `compare`.

    Args:
        question: What to compare.
        out: Its folder.
        how: How to run it.
        until: Most seeds to add until every comparison is decided; None for the seeds asked for.
        trials: Trials of tuning for every row of images.
        given: Settings that were asked for by name, which tuning leaves alone.
        on_event: See `compare`.
        command: See `compare`.

    Returns:
        The page of the report.
    """
    from spinalnet.comparison.report import write_report
    from spinalnet.comparison.summary import is_decided, note_look

    if len(question.heads) < 2:
        raise InputError(
            f"there is nothing to compare with {question.heads[0]}: name another head, for example "
            f"{question.heads[0]},mlp; 'train' trains one alone."
        )
    if until is not None:
        check_positive("max_seeds", until)
        if question.folds or isinstance(question.base, TableSpec):
            raise InputError(
                "until_decided adds independent seeds; folds and random splits share their rows "
                "and are not independent: leave it out, or give repeats or seeds."
            )
        if until < question.seeds:
            raise InputError(f"max_seeds must be at least seeds={question.seeds}, got {until}.")
    check_tuning(question, trials, out, given)
    if trials:
        question = _tuned(question, trials, out, how, given, on_event)
    run_question(question, out, how, on_event=on_event)
    while until is not None and question.seeds < until:
        if _dist.is_main():
            note_look(out, question.seeds, stopping=True)
        if question.seeds > 1 and is_decided(out):
            break
        question = replace(question, seeds=question.seeds + 1)
        run_question(question, out, how, on_event=on_event)
    if _dist.is_main():
        if until is not None:
            note_look(out, question.seeds, stopping=True)
        return write_report(out, command=command)
    return out / "report.html"


def run_question(
    question: ComparisonSpec,
    out: str | Path,
    how: How = How(),
    *,
    load: Load | None = None,
    on_event: OnEvent | None = None,
    timed: bool = True,
) -> Path:
    """Run every cell of a comparison, then time its heads side by side.

    Everything that can be refused is refused before the first file is written.

    Args:
        question: What to compare.
        out: Folder of the comparison; runs go to `runs/` in it.
        how: How to run it.
        load: What loads the data of a run; `load_splits` without it. Then all runs are made here.
        on_event: See `compare`.
        timed: Whether to time the heads of images, which takes a few seconds.

    Returns:
        The folder, ready for `write_report`.
    """
    out = Path(out)
    cells = [Cell(spec, out / "runs" / spec.name) for spec in question.cells()]
    source = load or functools.partial(load_splits, download=how.download)
    splits = check_question(question, out, source)
    for cell in cells:
        if runs.is_run(cell.folder):
            open_run(cell.folder, cell.spec)
    if _dist.is_main():
        if splits is not None:
            keep_left_out(out, splits, begun=(out / "comparison.yaml").exists())
        files.write_mapping(out / "comparison.yaml", question.to_dict())
    _run(cells, question, how, load, on_event)
    if timed and splits is not None and _dist.is_main() and not (out / "timing.json").exists():
        files.write_mapping(out / "timing.json", time_heads(question, splits))
    _dist.barrier()
    return out


def run_only(
    question: ComparisonSpec, out: Path, name: str, how: How, *, on_event: OnEvent | None = None
) -> engine.Failure | None:
    """Run one cell of a comparison, by its name, and no report; return why it failed.

    Raises:
        InputError: If there is none of this name.
    """
    cells = {spec.name: Cell(spec, out / "runs" / spec.name) for spec in question.cells()}
    if name not in cells:
        raise unknown_name("run of this comparison", name, cells)
    (failure,) = _run([cells[name]], question, replace(how, jobs=1), None, on_event)
    return failure


def _run(
    cells: Sequence[Cell],
    question: ComparisonSpec,
    how: How,
    load: Load | None,
    on_event: OnEvent | None,
) -> list[engine.Failure | None]:
    base = question.base
    device = base.train.device if isinstance(base, RunSpec) else "cpu"
    on_cpu = placement.resolve_device(device).type == "cpu"
    jobs = 1 if load is not None else engine.choose_jobs(how.jobs, how.threads or 1, device)
    if load is None and jobs == 1:
        load = functools.partial(load_splits, download=how.download)
    return engine.run_cells(
        cells,
        jobs=jobs,
        threads=how.threads if on_cpu else None,
        engine=how.engine,
        ray_address=how.ray_address,
        load=load,
        on_event=on_event,
    )


def check_question(
    question: ComparisonSpec, out: Path, load: Callable[[RunSpec], Splits]
) -> Splits | None:
    """Refuse what is impossible; return the data of the first unit of images.

    Raises:
        InputError: If the folder belongs to another comparison, the data are missing or unusable,
            or a head cannot be built on them.
    """
    base = question.base
    specs = question.of_unit(question.units()[0])
    if isinstance(base, TableSpec):
        check_folder(out, "table", base.table)
        tables.check_specs([one for one in question.cells() if isinstance(one, TableSpec)])
        return None
    check_folder(out, "data", base.data.name)
    images = [one for one in specs if isinstance(one, RunSpec)]
    splits = load(images[0])
    with one_after_another(base.train):
        for one in images:
            build_model(one, splits.info)
    return splits


def open_run(folder: Path, spec: RunSpec | TableSpec) -> runs.RunFolder:
    """Open the folder of a run; refuse that of another one.

    Raises:
        InputError: If the folder was begun with other settings.
    """
    kind = type(spec)
    return runs.RunFolder.start(
        folder, spec.to_dict(), read=lambda kept: kind.from_dict(kept).to_dict()
    )


def _tuned(
    question: ComparisonSpec,
    trials: int,
    out: Path,
    how: How,
    given: Collection[str],
    on_event: OnEvent | None,
) -> ComparisonSpec:
    """Return the question with the settings that tuning found."""
    splits = check_question(question, out, functools.partial(load_splits, download=how.download))
    assert splits is not None
    found, _ = tune(
        question,
        trials,
        out,
        lambda cells: _run(cells, question, how, None, on_event),
        num_classes=splits.info.num_classes or 1,
        given=given,
    )
    return found

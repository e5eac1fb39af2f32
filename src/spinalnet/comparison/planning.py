"""What a comparison would do and cost, from a few measured steps of every head; nothing is kept."""

from __future__ import annotations

import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from spinalnet._checks import InputError
from spinalnet.comparison import building, comparing, engine, running, tuning, workers
from spinalnet.comparison.cells import Bench, Cell, Load, pinned
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data import ArrayDataset
from spinalnet.nn import count_params
from spinalnet.training import evaluate, fitting, runs

if TYPE_CHECKING:
    from spinalnet.comparison.question import ComparisonSpec
    from spinalnet.data import Splits
    from spinalnet.models import ImageModel

_STEPS = 5  # measured, after one that is not
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Measured:
    """What a few steps of a head have shown.

    Attributes:
        seconds: Of a whole run, as far as steps and passes over held-out data can tell.
        step_seconds: Of one step of training; None where there are no steps to see.
        disk: Bytes that a finished run keeps; while it trains it takes up to four times as much.
        memory: Peak of the process so far, in bytes; on a GPU that of its memory. None where the
            system does not tell.
    """

    seconds: float
    step_seconds: float | None
    disk: int
    memory: int | None


@dataclass(frozen=True)
class RowPlan:
    """One head of the grid: which units are done, which are missing, and what one costs.

    Attributes:
        label: The row's name.
        done: Units whose run is finished.
        missing: The others.
        measured: What a run costs; of a head that is tuned, one with its settings before.
        trials: Trials of tuning that come before.
    """

    label: str
    done: tuple[str, ...]
    missing: tuple[str, ...]
    measured: Measured
    trials: int = 0

    @property
    def seconds(self) -> float:
        """Time of all that is missing, one after another."""
        return self.measured.seconds * (len(self.missing) + self.trials)


@dataclass(frozen=True)
class Plan:
    """What the same command without `dry_run` would do.

    Attributes:
        folder: Where it would go.
        rows: One for each head.
        jobs: Runs at a time.
        seconds: Estimated time of all that is missing.
        memory: Bytes that each of the `jobs` takes at its peak; None if the system does not tell.
        disk: Bytes that the missing runs will keep.
    """

    folder: Path
    rows: tuple[RowPlan, ...]
    jobs: int
    seconds: float
    memory: int | None
    disk: int


def plan(
    question: ComparisonSpec,
    out: str | Path,
    effort: engine.Effort,
    load: Load,
    *,
    trials: int = 0,
    given: Collection[str] = (),
) -> Plan:
    """Measure a few steps of every head in a process of its own, as a worker is one.

    Args:
        question: What is compared.
        out: Folder of the comparison.
        effort: How it would run.
        load: Reads the data of a run.
        trials: Of tuning on images, for every head.
        given: Settings that were asked for by name, and are not tuned.

    Raises:
        InputError: If what is asked is impossible, as in `compare`.
    """
    out = comparing.checked_folder(out)
    comparing.check_same_question(question, out)
    tuning.check_tuning(question, trials, out, given)
    left = tuning.trials_left(question, trials, out) if trials else {}
    first = question.of_unit(question.units()[0])
    measured = _in_a_worker(first, effort.threads, load)
    cells = comparing.cells_of(question, out)
    done = {cell.spec.name for cell in cells if runs.is_done(cell.folder)}
    for cell in cells:
        # With other settings it is refused, as it will be; those of tuning are found meanwhile.
        if cell.spec.name in done and not trials:
            running.open_folder(cell.folder, cell.spec)
    rows = []
    for place, (label, costs) in enumerate(zip(question.heads, measured, strict=True)):
        own = cells[place :: len(question.heads)]
        rows.append(
            RowPlan(
                label,
                tuple(c.spec.unit.name for c in own if c.spec.name in done),
                tuple(c.spec.unit.name for c in own if c.spec.name not in done),
                costs,
                left.get(label, 0),
            )
        )
    base = question.base
    device = base.train.device if isinstance(base, RunSpec) else "cpu"
    missing = len(cells) - len(done)
    cells_left = missing + sum(left.values())
    jobs = engine.jobs_for(effort.jobs, cells_left, effort.threads, device)
    peaks = [row.measured.memory for row in rows if row.measured.memory is not None]
    return Plan(
        folder=out,
        rows=tuple(rows),
        jobs=jobs,
        seconds=sum(row.seconds for row in rows) / jobs,
        memory=max(peaks, default=None),
        disk=sum(row.measured.disk * len(row.missing) for row in rows),
    )


def _in_a_worker(specs: Sequence[RunSpec | TableSpec], threads: int, load: Load) -> list[Measured]:
    order = workers.pickled((specs, threads, load))
    with workers.start(__name__, "serve", threads) as process:
        try:
            said, _ = process.communicate(order)
        except BaseException:  # a signal: nobody wants the answer any more
            process.kill()
            raise
    if process.returncode or not said:
        raise InputError(
            f"the heads could not be measured: the process ended with code {process.returncode}."
        )
    outcome = pickle.loads(said)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def serve() -> None:
    """Be the process that measures."""
    orders, answers = workers.pipes()
    specs, threads, load = pickle.load(orders)
    try:
        with pinned(threads):
            outcome: Any = _measure(specs, load)
    except Exception as error:
        outcome = error
    with suppress(BrokenPipeError):  # the caller was stopped
        pickle.dump(outcome, answers)
        answers.flush()


def _measure(specs: Sequence[RunSpec | TableSpec], load: Load) -> list[Measured]:
    found = []
    splits: Splits | None = None
    made: _Made | None = None  # the heads of a question share their trunk
    for spec in specs:
        if isinstance(spec, TableSpec):
            found.append(_whole_run(spec))
            continue
        splits = splits or load(spec)
        model = building.build_model(spec, splits.info)
        if spec.model.freeze and made is None:
            made = _some_features(model.trunk, splits, spec.train.batch_size)
        found.append(_few_steps(spec, splits, model, made if spec.model.freeze else None))
    return found


class _Made(NamedTuple):
    """Features for one batch, and how many seconds those of one image take."""

    batch: ArrayDataset
    seconds: float


_IMAGES = 16  # whose features are made; a whole batch of a large network takes minutes


def _some_features(trunk: nn.Module, splits: Splits, batch_size: int) -> _Made:
    """Make the features of a few images, repeated to a batch: steps take as long with them."""
    rows = torch.arange(min(_IMAGES, batch_size, len(splits.train)))
    few: Any = splits.train.subset(rows)
    inputs, targets = next(iter(few.batches(len(rows), device="cpu", shuffle=False)))
    found: list[torch.Tensor] = []
    with torch.no_grad():
        seconds = _seconds(lambda: found.append(trunk.eval()(inputs)))
    again = torch.arange(batch_size) % len(rows)
    return _Made(ArrayDataset(found[0][again], targets[again]), seconds / len(rows))


def _whole_run(spec: TableSpec) -> Measured:
    """Make a run on a table, which takes seconds, in a folder that vanishes."""
    with tempfile.TemporaryDirectory() as folder:
        cell = Cell(spec, Path(folder) / "run")
        seconds = _seconds(lambda: Bench().run(cell))
        disk = sum(path.stat().st_size for path in cell.folder.rglob("*") if path.is_file())
    return Measured(seconds, None, disk, _peak_memory("cpu"))


def _few_steps(
    spec: RunSpec, splits: Splits, model: ImageModel, features: _Made | None
) -> Measured:
    """Make a few steps of a run on images, and a pass over some held-out data.

    Args:
        spec: The run.
        splits: Its data.
        model: Its network.
        features: What a trunk makes that stays as it is; None if it learns.
    """
    config = spec.train
    params = count_params(model)
    sizes = {name: len(getattr(splits, name)) for name in ("train", "val", "test")}
    train: Any = splits.train
    made = 0.0  # seconds for features of all images, made once
    trained: Any = model
    if features is not None:
        train, made = features.batch, features.seconds * sum(sizes.values())
        trained = running.head_alone(model)
    with fitting.trial(trained, train, config) as step:
        step(config.lr)
        per_step = _seconds(lambda: [step(config.lr) for _ in range(_STEPS)]) / _STEPS
    shown = train.subset(torch.arange(min(len(train), 4 * config.batch_size)))
    per_example = _seconds(
        lambda: evaluate(trained, shown, batch_size=config.eval_batch_size, device=config.device)
    ) / len(shown)
    steps = -(-sizes["train"] // config.batch_size)
    epoch = steps * per_step + sizes["val"] * per_example
    seconds = made + (config.epochs + spec.probe_epochs) * epoch + sizes["test"] * per_example
    kept = params.head if spec.model.freeze else params.total
    said = sizes["test"] * (8 + 12 * min(max(splits.info.num_classes, 1), 10))
    return Measured(seconds, per_step, _FLOAT * kept + said, _peak_memory(config.device))


def _seconds(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _peak_memory(device: str) -> int | None:
    """Return the peak so far of this process, or of its part of the GPU's memory, in bytes."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def in_words(plan: Plan) -> tuple[list[str], list[str], list[list[str]]]:
    """Return what a plan says: sentences, the columns of its table, and the rows."""
    columns = ["head", "done", "missing", "step", "run", "disk"]
    rows = [
        [
            row.label,
            str(len(row.done)),
            _units(row.missing),
            "–" if row.measured.step_seconds is None else _time(row.measured.step_seconds),
            _time(row.measured.seconds),
            _bytes(row.measured.disk),
        ]
        for row in plan.rows
    ]
    missing = sum(len(row.missing) for row in plan.rows)
    together = f", {plan.jobs} at a time" if plan.jobs > 1 else ""
    sentences = [
        f"{missing} of {missing + sum(len(row.done) for row in plan.rows)} runs are missing in "
        f"{plan.folder}. They would take about {_time(plan.seconds)}{together}, and keep "
        f"{_bytes(plan.disk)} (a run takes up to four times its own while it trains)."
    ]
    if trials := sum(row.trials for row in plan.rows):
        columns.insert(3, "trials")
        for cells, row in zip(rows, plan.rows, strict=True):
            cells.insert(3, str(row.trials))
        sentences.append(
            f"The {trials} trials of tuning that come first are counted in the time, each as a run "
            "of the head before tuning: a wider one takes longer, a narrower one less."
        )
    if plan.memory is not None:
        sentences.append(
            f"A worker takes {_bytes(plan.memory)} of memory in a step of training, its data "
            f"included; {plan.jobs} take {_bytes(plan.jobs * plan.memory)}."
        )
    return sentences, columns, rows


def _units(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)}" + (f" ({shown}{', ...' * (len(names) > 3)})" if names else "")


_UNITS: Mapping[str, float] = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3}


def _time(seconds: float) -> str:
    unit = next((unit for unit, size in _UNITS.items() if seconds >= size), "ms")
    return f"{seconds / _UNITS[unit]:.3g} {unit}"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("GB is the last unit")

"""One run on a table: fit to the training rows of a unit, and score once on its test rows.

All heads of a unit get the same rows. With `tune`, each chooses its settings in the same number of
trials, by cross-validation inside the training rows (nested: the test rows decide nothing).

The folder of a run holds its model as data (`store`), and the settings that fit it again bit
by bit (`refit`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spinalnet import files, locks
from spinalnet._checks import InputError
from spinalnet.comparison import spaces
from spinalnet.comparison.baseline import Baseline
from spinalnet.comparison.calibration import quality
from spinalnet.comparison.metrics import measured
from spinalnet.comparison.outputs import (
    OUTPUTS_FILE,
    AnyOutputs,
    Outputs,
    RegressionOutputs,
    load_outputs,
)
from spinalnet.comparison.tables import store as table_store
from spinalnet.comparison.tables.fitting import estimator_of, fit, predicted, warm_up
from spinalnet.comparison.tables.rows import TableRows, digest, load, rows_of
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.comparison.tables.tuning import metric_of, tune, tuned_space
from spinalnet.comparison.watching import Watching
from spinalnet.tabular.ensemble import NetEpoch, hearing_epochs, keeping_nets
from spinalnet.training import Progress, describe_environment, runs, stopping

if TYPE_CHECKING:
    from spinalnet.comparison.watching import Watch
    from spinalnet.data import Table
    from spinalnet.training.placement import Phase


def check_specs(specs: Sequence[TableSpec]) -> str:
    """Refuse whatever is impossible in any of these runs; write nothing. Return the task.

    Raises:
        InputError: If the table cannot be had or divided, a head or an option is impossible, or
            two heads are the same.
    """
    drawn: dict[Any, TableRows] = {}  # all heads of a unit have the same rows
    built: dict[str, tuple[type, str]] = {}
    task = ""
    for spec in specs:
        key = (
            spec.table,
            spec.target,
            spec.group,
            spec.time,
            spec.ignore,
            spec.unit,
            spec.tune > 0,
        )
        if key not in drawn:
            drawn[key] = rows_of(spec)
        _check(spec, drawn[key])
        task = drawn[key].table.task
        label = spec.label or spec.head
        if spec.unit == specs[0].unit:
            estimator = estimator_of(spec, drawn[key])
            what = type(estimator), repr(sorted(estimator.get_params().items(), key=str))
            for other, known in built.items():
                if known == what:
                    raise InputError(
                        f"heads must differ, but {other} and {label} are the same model here: "
                        "leave one out."
                    )
            built[label] = what
    return task


OnTable = Callable[[TableSpec, Progress], None]


_BETWEEN_WRITES = 1.0  # seconds: an epoch of a table can take less time than a line of its own


class _Told:
    """Tells how far a run has come: the trials of its tuning and its fit are fits, one by one.

    What is told of an epoch is written down too, as `metrics.jsonl` of the run.
    """

    def __init__(
        self, spec: TableSpec, folder: runs.RunFolder, on_progress: OnTable | None, epochs: int = 0
    ) -> None:
        self._spec, self._on_progress, self._fits = spec, on_progress, spec.tune + 1
        self._done, self.epochs = 0, epochs
        self._folder, self._written = folder, time.monotonic()
        self._rows: list[dict[str, Any]] = []  # not written yet

    def trial(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """A trial of tuning is done."""
        self._done = number = len(trials)
        told = f"{self._spec.name}: trial {number} of {self._spec.tune}"
        self._tell("tuning", number, step=1, steps=1, note=told)

    def epoch(self, found: NetEpoch) -> None:
        """An epoch of one of the nets is over."""
        self.epochs += 1
        # Of all nets together: what draws a line by epoch must not go back.
        row = {**found.row, "epoch": self.epochs, "net": found.net, "epoch_of_net": found.epoch}
        self._rows.append({name: value for name, value in row.items() if value is not None})
        if time.monotonic() - self._written >= _BETWEEN_WRITES:
            self.write()
        row |= {"nets": found.nets, "epochs": found.epochs, "is_last": found.is_last}
        share = (found.net - 1 + (found.epoch / found.epochs if not found.is_last else 1)) * 1000
        steps = {"step": round(share), "steps": 1000 * found.nets}
        self._tell("epoch", self._done + 1, row=row, best=found.best, **steps)

    def write(self) -> None:
        """Write what was heard of epochs."""
        if self._rows:
            self._folder.append_metrics(*self._rows, durable=False)
        self._rows, self._written = [], time.monotonic()

    def note(self, sentence: str) -> None:
        """The user should know something."""
        self._tell("note", self._done + 1, note=sentence)

    def done(self) -> None:
        """All is."""
        self._tell("epoch", self._fits, step=1, steps=1)

    def _tell(self, phase: Phase, fit: int, **more: Any) -> None:
        if self._on_progress is not None:
            self._on_progress(self._spec, Progress(phase, fit, self._fits, **more))


class _Kept:
    """What is done of a run, in its state: trials and nets, from which it goes on.

    They are those of a run without an interruption, to the bit, where table, versions and threads
    are the same; otherwise the run begins anew.

    Attributes:
        trials: Of tuning, that are done.
        nets: States of the nets that are done; see `keeping_nets`.
        seconds: That they took: of tuning, and of the fit.
        epochs: Of those nets.
        said: What of it is saved, in words; empty for nothing.
        notes: Sentences on how it was found.
    """

    def __init__(self, folder: runs.RunFolder, table: Table) -> None:
        self._folder, self._written = folder, -math.inf
        self._of = {"table": digest(table)} | {
            name: value
            for name, value in _environment().items()
            if name not in ("started", "commit", "host")
        }
        self.trials: list[dict[str, Any]] = []
        self.nets: list[dict[str, Any]] = []
        self.seconds, self.epochs = [0.0, 0.0], 0
        self._began, self._is_new, self.said = time.perf_counter(), False, ""
        self.notes: list[str] = []
        state = folder.load_state()
        if state is None or state.get("of") != json.dumps(self._of):
            return
        try:
            self.trials, self.seconds = json.loads(state["trials"]), list(state["seconds"])
            self.nets, self.epochs = state["nets"], int(state["epoch"])
            self.notes += folder.notes
            self._tell()
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the state in {folder.path} is none that this version can go on from: delete the "
                "folder and start again."
            ) from error

    def begin(self) -> None:
        """Tuning, or the fit, begins here."""
        self._began = time.perf_counter()

    def trial(self, trials: Sequence[Mapping[str, Any]]) -> None:
        """A trial of tuning is done."""
        self._is_new = self._is_new or len(trials) > len(self.trials)
        self.trials = [dict(trial) for trial in trials]
        self._since(0)

    def net(self, nets: list[dict[str, Any]]) -> None:
        """A net is done."""
        self.nets, self._is_new = nets, True
        self.epochs = sum(net["member"]["n_iter"] for net in nets)
        self._since(1)

    def since_begun(self) -> float:
        """Return the seconds of the whole fit, also those before an interruption."""
        return self.seconds[1] + time.perf_counter() - self._began

    def _since(self, place: int) -> None:
        now = time.perf_counter()
        self.seconds[place] += now - self._began
        self._began = now
        if now - self._written >= _BETWEEN_WRITES:
            self.write()
            self._written = now

    def write(self) -> None:
        """Write what is done, whose epochs stand in the metrics."""
        if not self._is_new:
            return
        state = {"of": json.dumps(self._of), "trials": json.dumps(self.trials)}
        state |= {"seconds": self.seconds, "nets": self.nets, "epoch": self.epochs}
        self._folder.save_state(state, rows=self.epochs, durable=False)
        self._is_new = False
        self._tell()

    def _tell(self) -> None:
        counts = (("trial", len(self.trials)), ("net", len(self.nets)))
        told = [f"{count} finished {name}{'s' * (count > 1)}" for name, count in counts if count]
        verb = "is" if len(self.trials) + len(self.nets) == 1 else "are"
        self.said = f"{' and '.join(told)} {verb} saved in {self._folder.path}" if told else ""


def _check(spec: TableSpec, rows: TableRows) -> None:
    """Refuse an impossible option, a metric of the other task, and nothing to tune."""
    estimator_of(spec, rows)
    metric_of(spec, rows)
    if spec.tune:
        tuned_space(spec)


def run_table(
    spec: TableSpec, folder: str | Path, *, on_progress: OnTable | None = None, watch: Watch = ()
) -> runs.RunRecord:
    """Fit to the training rows, score once on the test rows, and leave a complete run folder.

    A finished run with the same settings is returned as it is; an unfinished one goes on after the
    last of its trials and nets that is done, where the table, the versions of libraries and the
    number of threads are the same, and else begins anew. Equal settings give equal bits, whatever
    runs beside it, at the same number of threads.

    Args:
        spec: What to run.
        folder: Folder of the run.
        on_progress: Called with the spec after every trial of tuning, after every epoch of the nets
            of the fit, and after the fit; trials and fit are counted as epochs.
        watch: Told of every epoch and of the end, as `compare` tells; not of a run that is done.

    Raises:
        InputError: If anything asked for is impossible, before anything is written; or if the
            folder holds something else.
        FolderInUse: If another process writes into the folder.
        TrainingError: If the loss is no longer finite, with `tune` in every trial.
    """
    watching = Watching(watch)
    if runs.is_done(folder):
        return _finished(spec, files.expanded(folder))
    with locks.FolderLock(folder), watching.of_run(spec, on_progress) as tell:
        record = _run(spec, folder, tell)
        watching.finished(spec.name, record.result or {})
    return record


def _run(spec: TableSpec, folder: str | Path, on_progress: OnTable | None) -> runs.RunRecord:
    """Do what `run_table` says, alone in the folder."""
    rows = rows_of(spec)
    _check(spec, rows)
    begun, kept = _begin(spec, folder, rows.table)
    told = _Told(spec, begun, on_progress, kept.epochs)
    for sentence in kept.notes:
        told.note(sentence)

    def tried(trials: Sequence[Mapping[str, Any]]) -> None:
        kept.trial(trials)
        told.trial(trials)

    def learned(nets: list[dict[str, Any]]) -> None:
        told.write()  # before the state that says that they are done
        kept.net(nets)

    with stopping.saying(lambda: kept.said):
        try:
            trials, chosen = tune(spec, rows, tried, kept.trials) if spec.tune else ([], None)
            warm_up(spec, rows, chosen)
            kept.begin()
            with hearing_epochs(told.epoch), keeping_nets(kept.nets, learned):
                estimator = fit(estimator_of(spec, rows, chosen), rows, rows.train)
        except BaseException:
            told.write()  # of a fit that failed too: they show how
            kept.write()
            raise
        told.write()
        tune_seconds, seconds = kept.seconds[0], kept.since_begun()
        outputs = predicted(estimator, rows, rows.test)
        with begun.there():
            outputs.save(begun.path / OUTPUTS_FILE)
            not_kept = _keep(estimator, spec, rows, outputs, begun.path)
        result = _result(spec, rows, outputs, getattr(estimator, "module_", None))
        result |= {"model_kept": not_kept is None, "model_not_kept": not_kept}
        result |= {"train_seconds": seconds, "trials": trials, "chosen": chosen}
        result |= {"epochs_run": told.epochs} if told.epochs else {}
        result["notes"] += kept.notes
        if chosen is not None:
            space = tuned_space(spec)
            result["space"] = {name: str(part) for name, part in space.items()}
            result |= {"edges": spaces.edges(space, chosen), "tune_seconds": tune_seconds}
        begun.finish(result)
        kept.said = ""
    told.done()
    return runs.load_run(begun.path)


def _keep(
    estimator: Any, spec: TableSpec, rows: TableRows, outputs: AnyOutputs, folder: Path
) -> str | None:
    """Write the model as data, read it, and ask it about the test rows; return what is wrong.

    What does not give the same answers again is not kept: it can be fitted again.

    Raises:
        NotWritten: If there is no room for it.
    """
    about = table_store.describe(spec, rows)
    try:
        table_store.save(estimator, about, rows.features(rows.test[:1]), folder)
        kept, _ = table_store.load(folder / table_store.MODEL_FILE)
        if same_answers(predicted(kept, rows, rows.test), outputs):
            return None
        reason = "what was kept answers differently"
    except files.NotWritten:
        raise  # with room it can be kept, and the run goes on
    except (TypeError, AttributeError, InputError) as error:
        reason = str(error).rstrip(".")
    table_store.save_without(about, reason, folder)
    return reason


def refit(folder: str | Path, table: Table | None = None) -> Any:
    """Return the trained estimator of a run, fitted again to the same rows.

    Args:
        folder: Of a finished run on a table.
        table: The table, where it was given in memory and not as a file.

    Returns:
        The estimator; of a net, its weights are those in the folder, bit by bit.

    Raises:
        InputError: If there is no such run, its table is gone, or what comes out is not what the
            folder holds, because the table or a library has changed.
    """
    folder = files.expanded(folder)
    if not runs.is_done(folder):
        raise InputError(f"{folder} holds no finished run: give the folder of one on a table.")
    record = runs.load_runs(folder)[0]
    with files.reading(folder / "config.yaml"):
        spec = replace(TableSpec.from_dict(record.config), frame=table)
    rows = rows_of(spec)
    result = record.result or {}
    with _threads(record.environment.get("threads")):
        estimator = fit(estimator_of(spec, rows, result.get("chosen")), rows, rows.train)
        same = _same(estimator, rows, folder)
    why = None
    if result.get("table_digest") != digest(rows.table):
        why = "its table has changed since"
    elif not same:
        now = _environment()
        changed = [
            f"{name} was {record.environment.get(name)} and is {value}"
            for name, value in now.items()
            if name not in _CHANGES and record.environment.get(name) != value
        ]
        why = "; ".join(changed) or "something else than the versions of libraries has changed"
    if why is not None:
        raise InputError(
            f"fitting again does not give the model of {folder}: {why}. Run the comparison again "
            "in a new folder."
        )
    return estimator


_CHANGES = ("started", "commit", "threads")  # of the environment, without an effect here


@contextmanager
def _threads(count: object) -> Iterator[None]:
    """Compute with the number of threads that a run had."""
    now = torch.get_num_threads()
    try:
        if isinstance(count, int) and count > 0:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(now)


def _same(estimator: Any, rows: TableRows, folder: Path) -> bool:
    """Whether an estimator is that of a folder: by its weights, or what it says of the test."""
    net = getattr(estimator, "module_", None)
    if net is not None:
        kept, _ = runs.RunFolder(folder).load_model()
        have = net.state_dict()
        # An earlier version kept the weights alone, under their bare names.
        start = "module_." if "module_." + next(iter(have)) in kept else ""
        return all(
            start + name in kept and torch.equal(kept[start + name], value)
            for name, value in have.items()
        )
    kept = load_outputs(folder / OUTPUTS_FILE)
    said = predicted(estimator, rows, rows.test)
    names = ("predictions",) if isinstance(kept, RegressionOutputs) else ("classes", "squares")
    return type(kept) is type(said) and all(
        torch.equal(getattr(kept, name), getattr(said, name)) for name in names
    )


def same_answers(one: AnyOutputs, other: AnyOutputs) -> bool:
    """Whether two models say the same of the same rows, but for the last bits of a sum."""
    if isinstance(one, RegressionOutputs) and isinstance(other, RegressionOutputs):
        return _close(one.predictions, other.predictions)
    if isinstance(one, Outputs) and isinstance(other, Outputs):
        return _close(one.probabilities, other.probabilities)
    return False


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=1e-6, atol=1e-9, equal_nan=True
    )


def _finished(spec: TableSpec, folder: Path) -> runs.RunRecord:
    """Return a run that is done; refuse another one."""
    _open(spec, folder)
    record = runs.load_runs(folder)[0]
    if spec.frame is not None:
        kept = (record.result or {}).get("table_digest")
        table = load(spec)
        if kept != digest(table):
            raise InputError(
                f"{folder} holds a run on another table called '{table.name}': choose another "
                "folder, or give this table a name of its own."
            )
    return record


def _open(spec: TableSpec, folder: str | Path) -> runs.RunFolder:
    return runs.RunFolder.start(
        folder, spec.to_dict(), read=lambda kept: TableSpec.from_dict(kept).to_dict()
    )


def _begin(spec: TableSpec, folder: str | Path, table: Table) -> tuple[runs.RunFolder, _Kept]:
    """Open the folder of a run, which goes on after what is done of it, here and now."""
    begun = _open(spec, folder)
    kept = _Kept(begun, table)
    begun.keep_metrics(kept.epochs)
    files.write_kept(begun.path / "environment.json", _environment())
    return begun, kept


def _environment() -> dict[str, Any]:
    return describe_environment() | {name: version(name) for name in ("scikit-learn", "scipy")}


def _confusion(outputs: Outputs) -> list[list[int]]:
    """Count rows by true class (first index) and predicted class."""
    classes = outputs.num_classes
    cells = outputs.targets * classes + outputs.predicted
    return torch.bincount(cells, minlength=classes**2).view(classes, classes).tolist()


def scores_of(outputs: AnyOutputs) -> dict[str, Any]:
    """Return the metrics of a model on rows, as they stand under "test" in `result.json`."""
    test: dict[str, Any] = {"n": len(outputs), **measured(outputs)}
    if isinstance(outputs, Outputs):
        scores = quality(outputs).to_dict()
        del scores["nll"]  # is the loss
        test |= scores | {"confusion": _confusion(outputs)}
    return test


def _result(
    spec: TableSpec, rows: TableRows, outputs: AnyOutputs, net: torch.nn.Module | None
) -> dict[str, Any]:
    """Return the content of `result.json`, but for times and trials."""
    from spinalnet.nn import LossGradient, count_macs, count_params, wiring_in

    table = rows.table
    targets = torch.from_numpy(rows.numbers(rows.train))
    params = macs = gradients = wiring = None
    if net is not None:
        wiring = wiring_in(net)
        params = count_params(net).total
        macs = count_macs(net, (net.in_features,)).total  # type: ignore[arg-type]
        trained: Any = getattr(net, "members", [net])[0]  # of an ensemble, all are alike
        gradients = "closed form" if LossGradient.why_not(trained) is None else "autograd"
    return {
        "model": "table",
        "head": spec.head,
        "label": spec.label or spec.head,
        "data": table.name,
        "seed": spec.seed,
        "unit": {"seed": spec.seed, "resample": spec.to_dict()["resample"], "name": spec.unit.name},
        "task": table.task,
        "class_names": [str(name) for name in rows.classes],
        "baseline": Baseline.of(targets, len(rows.classes)).to_dict(),
        "params": params,
        "head_params": params,
        "macs": macs,
        "head_macs": macs,
        "wiring": wiring and wiring.to_dict(),
        "rows": len(table.y),
        "columns": table.X.shape[1],
        "outputs": rows.outputs,
        "train_size": len(rows.train),
        "val": {},
        "test": scores_of(outputs),
        # One fit's wall seconds are in `train_seconds`; how its gradients came is a part of that.
        "gradients": gradients,
        "selected_on": "training",
        "table_digest": digest(table),
        "notes": list(table.notes),
    }

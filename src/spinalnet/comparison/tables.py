"""One run on a table: fit to the training rows of a unit, score once on the others.

Every head gets the same rows. With `tune`, each chooses its settings by cross-validation inside the
training rows (nested: the test rows decide nothing), in the same number of trials.

A run folder holds all that is needed to have the model again: its settings, which refit it bit by
bit (`refit`), and of a network the weights to check that by.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet import files
from spinalnet._checks import InputError, unknown_name
from spinalnet.comparison import spaces
from spinalnet.comparison.baseline import Baseline
from spinalnet.comparison.metrics import default_metric, find_metric, measured
from spinalnet.comparison.outputs import OUTPUTS_FILE, AnyOutputs, Outputs, RegressionOutputs
from spinalnet.comparison.table_spec import TableSpec
from spinalnet.data import Table, draw_parts, load_table
from spinalnet.training import Progress, RunRecord, runs

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def _net(kind: str, options: Mapping[str, Any], task: str, seed: int) -> Any:
    from spinalnet import tabular

    return getattr(tabular, kind + ("Classifier" if task == "classification" else "Regressor"))(
        **options, random_state=seed
    )


def _trees(options: Mapping[str, Any], task: str, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = (
        HistGradientBoostingClassifier
        if task == "classification"
        else HistGradientBoostingRegressor
    )
    return kind(**{"categorical_features": "from_dtype", **options}, random_state=seed)


@dataclass(frozen=True)
class TableHead:
    """One head of tables.

    `build(options, task, seed)` makes an estimator; `follows` says that its size is that of the
    spinal net of the comparison.
    """

    summary: str
    build: Callable[[Mapping[str, Any], str, int], Any]
    follows: bool = False


def _kind(name: str, **fixed: Any) -> Callable[[Mapping[str, Any], str, int], Any]:
    return lambda options, task, seed: _net(name, {**fixed, **options}, task, seed)


TABLE_MODELS: dict[str, TableHead] = {
    "spinal": TableHead("spinal net, 4 layers of 16, 2 slices", _kind("Spinal")),
    "unchained": TableHead("spinal without the chain", _kind("Unchained"), follows=True),
    "unchained-matched": TableHead(
        "the same with the spinal net's parameter count", _kind("Unchained"), follows=True
    ),
    "matched": TableHead(
        "one hidden layer, as many parameters as spinal", _kind("Dense"), follows=True
    ),
    "mlp": TableHead("one hidden layer of 64", _kind("Dense")),
    # Logistic or ridge-like regression with the same encoding and the same loop.
    "linear": TableHead("no hidden layer", _kind("Dense", hidden_features=(), lr=3e-2)),
    "trees": TableHead("scikit-learn's histogram gradient boosting", _trees),
}


_NETS_SHAPE = ("hidden_features", "num_layers", "num_splits")
_FLAVOUR = ("norm", "dropout", "activation")


def make_estimator(spec: TableSpec, task: str, settings: Mapping[str, Any] | None = None) -> Any:
    """Return the untrained estimator of a run, with tried `settings` over its own options.

    Raises:
        InputError: If there is no such head, or it has no such option.
    """
    row = _row(spec.head)
    options = {**_following(spec), **spec.head_options}
    for name, value in (settings or {}).items():
        if name == spaces.WIDTH:
            width = options.get("hidden_features", 16 if spec.head.startswith("spinal") else 64)
            options["hidden_features"] = max(1, round(value * width))
        else:
            options[name] = value
    known = row.build({}, task, 0).get_params(deep=False)
    for name in options:
        if name not in known or name == "random_state":
            known = [one for one in known if one != "random_state"]
            raise unknown_name(f"option of head '{spec.head}' on a table", name, known)
    return row.build(options, task, spec.seed)


def _following(spec: TableSpec) -> dict[str, Any]:
    """Return the options by which a control takes the size of the spinal net it follows."""
    flavour = {name: spec.follows[name] for name in _FLAVOUR if name in spec.follows}
    size = {name: spec.follows[name] for name in _NETS_SHAPE if name in spec.follows}
    if spec.head == "unchained":
        return size | flavour
    if spec.head in ("matched", "unchained-matched"):
        size.pop("hidden_features", None)
        known = {} if spec.head == "matched" else size
        names = (*_NETS_SHAPE, *_FLAVOUR, "share_weights")
        match = {name: value for name, value in spec.follows.items() if name in names}
        return {**known, **flavour, "match": match}
    return {}


def _row(head: str) -> TableHead:
    if head not in TABLE_MODELS:
        raise unknown_name("head of tables", head, TABLE_MODELS)
    return TABLE_MODELS[head]


@dataclass(frozen=True)
class Parts:
    """A table and the rows of a unit."""

    table: Table  # without the columns of groups and times
    train: np.ndarray
    test: np.ndarray
    groups: np.ndarray | None
    times: np.ndarray | None
    classes: tuple[Any, ...]

    def of(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Return features and targets of some rows."""
        return pick(self.table.X, rows), pick(self.table.y, rows)

    def labels(self, rows: np.ndarray) -> Any:
        """Return the targets of rows as numbers: of classes their places in `classes`."""
        import numpy as np

        y = np.asarray(pick(self.table.y, rows))
        if self.table.task == "regression":
            return y.astype(np.float64)
        return np.searchsorted(np.asarray(self.classes), y)


def pick(values: Any, rows: Any) -> Any:
    """Return some rows of an array or a data frame."""
    return values.iloc[rows] if hasattr(values, "iloc") else values[rows]


@functools.lru_cache(maxsize=2)
def _read(table: str, target: str | None, task: str) -> Table:
    return load_table(table, target, task)


def load_parts(spec: TableSpec) -> Parts:
    """Return the table of a run and its training and test rows.

    Raises:
        InputError: If the table cannot be read or divided so.
    """
    import numpy as np

    table = spec.frame or _read(spec.table, spec.target, spec.task)
    X, columns = table.X, {}
    for what, name in (("group", spec.group), ("time", spec.time)):
        if name is None:
            continue
        if not hasattr(X, "columns") or name not in X.columns:
            known = [str(column) for column in getattr(X, "columns", [])]
            raise unknown_name(f"column ({what})", name, known)
        columns[what] = np.asarray(X[name])
        X = X.drop(columns=name) if hasattr(X, "iloc") else X.drop(name)
    table = replace(table, X=X)
    _check_table(table)
    by_class = table.task == "classification"
    strata = np.asarray(table.y) if by_class else None
    groups, times = columns.get("group"), columns.get("time")
    try:
        train, test = draw_parts(
            spec.resample, len(table.y), strata=strata, groups=groups, times=times
        )
    except InputError as error:
        raise InputError(f"{table.name}: {error}") from error
    if len(test) < 2 and not by_class:
        raise InputError(f"{table.name}: R² needs at least 2 test rows: give more rows.")
    if by_class and len(np.unique(strata[train])) < 2:  # type: ignore[index]
        raise InputError(f"{table.name}: the training rows of {spec.unit.name} are of one class.")
    classes = tuple(np.unique(strata).tolist()) if by_class else ()  # type: ignore[arg-type]
    return Parts(table, train, test, groups, times, classes)


def _check_table(table: Table) -> None:
    import numpy as np

    rows = len(table.y)
    if rows < 8:
        raise InputError(f"{table.name} has {rows} rows; at least 8 are needed to compare on.")
    if table.task == "regression":
        values = np.asarray(table.y, dtype=float).reshape(rows, -1)
        lost = rows - int(np.isfinite(values).all(axis=1).sum())
        if lost:
            raise InputError(f"the target of {table.name} is not finite in {lost} rows.")
        if np.any(values.std(axis=0) == 0):
            raise InputError(f"the target of {table.name} is constant: there is nothing to learn.")
        return
    found = np.unique(np.asarray(table.y)).tolist()
    if len(found) < 2:
        raise InputError(f"the target of {table.name} has only one class, {found[0]!r}.")


def check_specs(specs: Sequence[TableSpec]) -> None:
    """Refuse what is impossible in any run, before one begins.

    Raises:
        InputError: If a head, an option, the table or its division is impossible.
    """
    for spec in specs:
        parts = load_parts(spec)
        make_estimator(spec, parts.table.task)


def run_table(
    spec: TableSpec, out: str | Path, *, on_progress: Callable[[Progress], None] | None = None
) -> RunRecord:
    """Fit to the training rows, score once on the test rows, and leave a complete run folder.

    A finished run with the same settings is returned as it is; an unfinished one is done again.

    Args:
        spec: What to run.
        out: Folder of the run.
        on_progress: Called with every trial of tuning that is done.

    Raises:
        InputError: If anything asked for is impossible.
    """
    folder = runs.RunFolder.start(
        out, spec.to_dict(), read=lambda kept: TableSpec.from_dict(kept).to_dict()
    )
    if runs.is_done(out):
        return runs.load_runs(out)[0]
    parts = load_parts(spec)
    trials, chosen = [], None
    if spec.tune:
        trials, chosen = _tune(spec, parts, on_progress)
    estimator = make_estimator(spec, parts.table.task, chosen)
    began = time.perf_counter()
    estimator = fit(estimator, parts, parts.train)
    seconds = time.perf_counter() - began
    outputs = predicted(estimator, parts, parts.test)
    outputs.save(folder.path / OUTPUTS_FILE)
    if (net := getattr(estimator, "module_", None)) is not None:
        folder.save_model(net.state_dict(), {"table": parts.table.name, "head": spec.head})
    result = _result(spec, parts, outputs, net)
    folder.finish(result | {"train_seconds": seconds, "trials": trials, "chosen": chosen})
    return runs.load_runs(folder.path)[0]


def refit(folder: str | Path) -> Any:
    """Return the trained estimator of a run: fit again to the same rows, with the same settings.

    Raises:
        InputError: If the folder holds no finished run on a table, or what comes out is not what
            it holds (another version of a library, or a changed table).
    """
    import torch

    record = runs.load_runs(folder)[0]
    if not record.done or record.result is None:
        raise InputError(f"{folder} is not finished: run the comparison again.")
    with files.reading(Path(folder) / "config.yaml"):
        spec = TableSpec.from_dict(record.config)
    parts = load_parts(spec)
    estimator = make_estimator(spec, parts.table.task, record.result.get("chosen"))
    estimator = fit(estimator, parts, parts.train)
    if (net := getattr(estimator, "module_", None)) is not None:
        kept, _ = runs.RunFolder(folder).load_model()
        for name, value in net.state_dict().items():
            if name not in kept or not torch.equal(kept[name], value):
                raise InputError(
                    f"fitting again gives other weights than {folder} holds: its table or a "
                    "library has changed (environment.json says which versions it had)."
                )
    return estimator


def fit(estimator: Any, parts: Parts, rows: np.ndarray) -> Any:
    """Return the estimator fitted to some rows; one for each output where it knows but one."""
    from sklearn.multioutput import MultiOutputRegressor

    X, y = parts.of(rows)
    if getattr(y, "ndim", 1) > 1 and not hasattr(estimator, "make_net"):
        estimator = MultiOutputRegressor(estimator)
    with warnings.catch_warnings():
        # A category of the test rows that the training rows lack is met as unknown.
        warnings.filterwarnings("ignore", "Found unknown categories")
        return estimator.fit(X, y)


def predicted(estimator: Any, parts: Parts, rows: np.ndarray) -> AnyOutputs:
    """Return what a fitted estimator says of some rows."""
    import numpy as np
    import torch

    X, _ = parts.of(rows)
    targets = torch.from_numpy(np.ascontiguousarray(parts.labels(rows)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found unknown categories")
        if parts.table.task == "regression":
            said = torch.from_numpy(np.asarray(estimator.predict(X), dtype=np.float64))
            found: AnyOutputs = RegressionOutputs.of(said, targets)
        else:
            known = np.searchsorted(np.asarray(parts.classes), estimator.classes_)
            p = torch.zeros(len(rows), len(parts.classes), dtype=torch.float64)
            p[:, torch.from_numpy(known)] = torch.from_numpy(
                np.asarray(estimator.predict_proba(X), dtype=np.float64)
            )
            # A class that the training rows lack is not impossible: its loss is finite.
            found = Outputs.of_probabilities(p.clamp(min=1e-12), targets.long())
    return replace(found, rows=torch.from_numpy(rows).int())


def _tune(
    spec: TableSpec, parts: Parts, on_progress: Callable[[Progress], None] | None
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Try settings by three folds of the training rows; return all trials, and the best."""
    task = parts.table.task
    metric = find_metric(spec.metric, task) if spec.metric else default_metric(task, table=True)
    folds = _inner_folds(parts)
    trials: list[dict[str, Any]] = []
    for k, settings in enumerate(spaces.sample(spaces.space_of(spec.head), spec.tune, spec.seed)):
        scores = []
        for train, val in folds:
            estimator = make_estimator(spec, parts.table.task, _known(spec, settings))
            said = predicted(fit(estimator, parts, train), parts, val)
            scores.append(metric.value(said) if metric.available(said) is None else None)
        finite = [score for score in scores if score is not None]
        value = sum(finite) / len(finite) if len(finite) == len(scores) else None
        trials.append({"settings": settings, "value": value})
        if on_progress is not None:
            on_progress(Progress("train", k + 1, spec.tune, k + 1, spec.tune))
    done = [trial for trial in trials if trial["value"] is not None]
    if not done:
        return trials, None
    sign = 1 if metric.higher_is_better else -1
    best = max(done, key=lambda trial: sign * trial["value"])
    return trials, _known(spec, best["settings"])


def _known(spec: TableSpec, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the estimator of a head does not have."""
    known = {*_row(spec.head).build({}, "regression", 0).get_params(deep=False), spaces.WIDTH}
    return {name: value for name, value in settings.items() if name in known}


def _inner_folds(parts: Parts) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return places in the table of three folds of the training rows, by the same rules."""
    import numpy as np

    from spinalnet.data import Resample

    rows = parts.train
    by_class = parts.table.task == "classification"
    given = {
        "strata": np.asarray(parts.labels(rows)) if by_class else None,
        "groups": None if parts.groups is None else parts.groups[rows],
        "times": None if parts.times is None else parts.times[rows],
    }
    found = [draw_parts(Resample("fold", i, 3), len(rows), **given) for i in range(3)]
    return [(rows[train], rows[val]) for train, val in found]


def _result(
    spec: TableSpec, parts: Parts, outputs: AnyOutputs, net: nn.Module | None
) -> dict[str, Any]:
    """Return the content of `result.json`, but for times and trials."""
    import torch

    from spinalnet.nn import count_macs, count_params

    targets = torch.as_tensor(parts.labels(parts.train))
    params = macs = None
    if net is not None:
        params = count_params(net).total
        macs = count_macs(net, (net.in_features,)).total
    unit = {"seed": spec.seed, "resample": spec.to_dict()["resample"], "name": spec.unit.name}
    columns = parts.table.X.shape[1]
    return {
        "model": "table",
        "head": spec.head,
        "label": spec.label or spec.head,
        "data": parts.table.name,
        "seed": spec.seed,
        "unit": unit,
        "task": parts.table.task,
        "baseline": Baseline.of(targets, len(parts.classes)).to_dict(),
        "class_names": [str(name) for name in parts.classes],
        "params": params,
        "head_params": params,
        "macs": macs,
        "head_macs": macs,
        "rows": len(parts.table.y),
        "columns": columns,
        "train_size": len(parts.train),
        "val": {},
        "test": {"n": len(parts.test), **measured(outputs)},
        "selected_on": "training",
        "notes": list(parts.table.notes),
        "versions": {"scikit-learn": version("scikit-learn")},
    }

"""Does a spinal net help on a table? Repeated splits, with dense nets and trees beside it.

Every repeat splits the rows anew (stratified by class), gives all models the same training rows
and scores them once on the rest. With `tune`, every model, the trees included, chooses its settings
from a small grid by cross-validation inside the training rows (nested: the test rows decide
nothing). The dense net has as many parameters as the spinal one.

The repeats share rows, so their differences are not independent: interval and p-value are those of
the corrected resampled t test, and what counts as evidence is corrected for the number of models
(see `statistics`).
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison.table_summary import ModelScore, TableComparison, summarize_table
from spinalnet.training import describe_environment

if TYPE_CHECKING:
    from spinalnet.data.frames import Table, Task


@dataclass(frozen=True)
class Contender:
    """One row of the result table.

    `build(task, seed, size)` makes an estimator; `size` is the parameter count of the spinal net
    with its in and out features, for models that match it. `grid(task)` is what `tune` tries.
    """

    summary: str
    build: Callable[[Task, int, tuple[int, int, int] | None], Any]
    grid: Mapping[str, Sequence[Any]]


def _spinal(task: Task, seed: int, size: tuple[int, int, int] | None) -> Any:
    from spinalnet.tabular import estimators

    kind = estimators.SpinalClassifier if task == "classification" else estimators.SpinalRegressor
    return kind(random_state=seed)


def _dense(task: Task, seed: int, size: tuple[int, int, int] | None) -> Any:
    from spinalnet.nn import matched_mlp
    from spinalnet.tabular import estimators

    assert size is not None
    params, in_features, out_features = size
    width = matched_mlp(in_features, out_features, params).hidden_features
    kind = estimators.DenseClassifier if task == "classification" else estimators.DenseRegressor
    return kind(width, random_state=seed)


def _trees(task: Task, seed: int, size: tuple[int, int, int] | None) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    if task == "classification":
        return HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed)
    trees = HistGradientBoostingRegressor(categorical_features="from_dtype", random_state=seed)
    return MultiOutputRegressor(trees) if size is not None and size[2] > 1 else trees


def _linear(task: Task, seed: int, size: tuple[int, int, int] | None) -> Any:
    from spinalnet.tabular import estimators

    # No hidden layer: logistic or ridge-like regression with the same encoding and engine.
    kind = estimators.DenseClassifier if task == "classification" else estimators.DenseRegressor
    return kind((), lr=3e-2, random_state=seed)


_NET_GRID = {"lr": (1e-3, 3e-3), "dropout": (0.0, 0.2)}

CONTENDERS: dict[str, Contender] = {
    "spinal": Contender("spinal net, 4 layers of 16, 2 slices", _spinal, _NET_GRID),
    "dense": Contender("one hidden layer, as many parameters as spinal", _dense, _NET_GRID),
    "linear": Contender(
        "no hidden layer", _linear, {"lr": (1e-2, 1e-1), "weight_decay": (0.01, 1.0)}
    ),
    "trees": Contender(
        "scikit-learn's histogram gradient boosting",
        _trees,
        {"learning_rate": (0.03, 0.1), "max_leaf_nodes": (7, 31)},
    ),
}


@dataclass
class _Tally:
    """What one model has done on the splits so far."""

    scores: list[float] = field(default_factory=list)
    seconds: float = 0.0
    chosen: Counter[str] = field(default_factory=Counter)
    params: int | None = None

    def add(self, estimator: Any, table: Table, train: Any, test: Any) -> float:
        """Fit an estimator to the training rows and score it on the others."""
        began = time.perf_counter()
        with warnings.catch_warnings():
            # A test class or category that the training rows lack is met as unknown.
            warnings.filterwarnings("ignore", "Found unknown categories")
            estimator.fit(_rows(table.X, train), _rows(table.y, train))
            self.seconds += time.perf_counter() - began
            self.scores.append(float(estimator.score(_rows(table.X, test), _rows(table.y, test))))
        if hasattr(estimator, "best_estimator_"):
            settings = estimator.best_params_.items()
            self.chosen[", ".join(f"{k.split('__')[-1]}={v:g}" for k, v in settings)] += 1
            estimator = estimator.best_estimator_
        if (module := getattr(estimator, "module_", None)) is not None:
            self.params = sum(p.numel() for p in module.parameters())
        return self.scores[-1]

    def row(self, name: str, *, tuned: bool) -> ModelScore:
        """Return it as a row of the result."""
        seconds = self.seconds / len(self.scores)
        chosen = dict(self.chosen) if tuned else None
        return ModelScore(name, tuple(self.scores), self.params, seconds, chosen)


def compare_table(
    table: Table,
    models: Sequence[str] = ("spinal", "dense", "linear", "trees"),
    *,
    repeats: int = 10,
    test_fraction: float = 0.25,
    tune: bool = False,
    seed: int = 0,
    on_score: Callable[[str, int, float], None] | None = None,
) -> TableComparison:
    """Score models on repeated splits of a table.

    Args:
        table: See `load_table`.
        models: Rows of `CONTENDERS`; the first is compared with each of the others.
        repeats: Number of splits.
        test_fraction: Share of the rows that scores, the others train.
        tune: Whether every model chooses its settings by 3-fold cross-validation within the
            training rows.
        seed: Of the first split; the others count on.
        on_score: Called with model, repeat (from 0) and score.

    Raises:
        InputError: If a name is unknown or the table has too few rows.
    """
    check_positive("repeats", repeats)
    for name in models:
        if name not in CONTENDERS:
            raise unknown_name("model", name, CONTENDERS)
    if not models or len(set(models)) < len(models):
        raise InputError(
            "models must be at least one name, and differ, for example spinal and trees; got "
            f"{', '.join(models) or 'none'}."
        )
    _check_rows(table, test_fraction, tune)
    tallies = {name: _Tally() for name in models}
    for repeat in range(repeats):
        train, test = _split(table, test_fraction, seed + repeat)
        size = _spinal_size(table, train)
        for name, tally in tallies.items():
            estimator = CONTENDERS[name].build(table.task, seed + repeat, size)
            if tune:
                estimator = _tuned(estimator, name, seed + repeat, table.task)
            score = tally.add(estimator, table, train, test)
            if on_score is not None:
                on_score(name, repeat, score)
    return summarize_table(
        TableComparison(
            table=table.name,
            task=table.task,
            rows=len(table.y),
            columns=table.X.shape[1],
            outputs=1 if table.y.ndim == 1 else table.y.shape[1],
            metric="accuracy" if table.task == "classification" else "R²",
            repeats=repeats,
            test_fraction=test_fraction,
            tuned=tune,
            seed=seed,
            models=tuple(tally.row(name, tuned=tune) for name, tally in tallies.items()),
            verdict="",
            notes=table.notes,
            environment=describe_environment() | {"scikit-learn": version("scikit-learn")},
        )
    )


def _rows(values: Any, index: Any) -> Any:
    return values.iloc[index] if hasattr(values, "iloc") else values[index]


def _check_rows(table: Table, test_fraction: float, tune: bool) -> None:
    import numpy as np

    if not 0.0 < test_fraction < 1.0:
        raise InputError(f"test_fraction must be in (0, 1), got {test_fraction!r}.")
    rows = len(table.y)
    fewest = 8 if tune else 4
    if rows * min(test_fraction, 1 - test_fraction) < 1 or rows < fewest:
        raise InputError(
            f"{table.name} has {rows} rows: too few to split off {test_fraction:g} for the test; "
            f"at least {fewest} are needed."
        )
    if table.task != "classification":
        if math.ceil(rows * test_fraction) < 2:
            raise InputError(
                f"R² needs at least 2 test rows, got {table.name} with {rows} rows, of which "
                f"{test_fraction:g} are for the test: give more rows."
            )
        finite = np.isfinite(np.asarray(table.y, dtype=float)).reshape(rows, -1).all(axis=1)
        if not finite.all():
            raise InputError(
                f"the target of {table.name} is not finite in {rows - finite.sum()} rows: leave "
                "them out."
            )
        return
    found, counts = np.unique(table.y, return_counts=True)
    names = found.tolist()  # plain values, for the sentences
    if len(names) < 2:
        raise InputError(f"the target of {table.name} has only one class, {names[0]!r}.")
    needed = 4 if tune else 2
    if counts.min() < needed:
        few = names[counts.argmin()]
        raise InputError(
            f"class {few!r} of {table.name} has {counts.min()} rows, but a split needs {needed} of "
            "each class: drop rare classes, join them, or use task=regression for numbers."
        )


def _split(table: Table, test_fraction: float, seed: int) -> tuple[Any, Any]:
    import numpy as np
    from sklearn.model_selection import train_test_split

    labels = table.y if table.task == "classification" else None
    try:
        train, test = train_test_split(
            np.arange(len(table.y)), test_size=test_fraction, random_state=seed, stratify=labels
        )
    except ValueError as error:
        raise InputError(f"{table.name} cannot be split: {error}") from error
    return train, test


def _spinal_size(table: Table, train: Any) -> tuple[int, int, int]:
    """Return parameters, inputs and outputs of the default spinal net on these rows."""
    net = _spinal(table.task, 0, None).set_params(epochs=1)
    net.fit(_rows(table.X, train), _rows(table.y, train))
    module = net.module_
    return sum(p.numel() for p in module.parameters()), module.in_features, module.out_features


def _tuned(estimator: Any, name: str, seed: int, task: Task) -> Any:
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold

    folds = (StratifiedKFold if task == "classification" else KFold)(
        3, shuffle=True, random_state=seed
    )
    prefix = "estimator__" if hasattr(estimator, "estimator") else ""
    grid = {prefix + key: list(values) for key, values in CONTENDERS[name].grid.items()}
    return GridSearchCV(estimator, grid, cv=folds)

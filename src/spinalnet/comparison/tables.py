"""Does a spinal net help on a table? Repeated splits, with dense nets and trees beside it.

Every repeat splits the rows anew (stratified by class), gives all models the same training rows
and scores them once on the rest. With `tune`, every model, the trees included, chooses its settings
from a small grid by cross-validation inside the training rows (nested: the test rows decide
nothing). The dense net has as many parameters as the spinal one.

The repeats share rows, so their differences are not independent; the interval and the p-value are
those of the corrected resampled t test (Nadeau and Bengio, "Inference for the generalization
error", Machine Learning 52, 2003), which is wider than the usual one.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet import files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.training import environment as environment_module

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
    from spinalnet.nn.dense import matched_mlp
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


@dataclass(frozen=True)
class Difference:
    """Spinal minus another model, over the repeats.

    Attributes:
        mean: Mean difference of the scores.
        low: Lower end of the corrected 95 % interval; None with a single repeat.
        high: Upper end.
        p_value: Of the corrected t test.
        verdict: "better", "worse", or "no difference" at the 5 % level, for the spinal net.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    verdict: str


@dataclass(frozen=True)
class ModelScore:
    """One row of the result.

    Attributes:
        model: Row of `CONTENDERS`.
        scores: Test score of every repeat: accuracy, or the coefficient of determination.
        mean: Their mean.
        std: Their sample standard deviation; None with a single repeat.
        params: Parameters of the network, if it is one.
        fit_seconds: Mean time to fit (tuning included).
        chosen: With `tune`, how often each setting was chosen.
        difference: None for the first model.
    """

    model: str
    scores: tuple[float, ...]
    mean: float
    std: float | None
    params: int | None
    fit_seconds: float
    chosen: Mapping[str, int] | None
    difference: Difference | None


@dataclass(frozen=True)
class TableComparison:
    """What `compare_table` found; `to_dict` is the content of `summary.json`."""

    table: str
    task: Task
    rows: int
    columns: int
    outputs: int
    metric: str
    repeats: int
    test_fraction: float
    tuned: bool
    seed: int
    models: tuple[ModelScore, ...]
    verdict: str
    notes: tuple[str, ...]
    environment: Mapping[str, Any]
    command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


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
    if not 0.0 < test_fraction < 1.0:
        raise InputError(f"test_fraction must be in (0, 1), got {test_fraction!r}.")
    for name in models:
        if name not in CONTENDERS:
            raise unknown_name("model", name, CONTENDERS)
    _check_rows(table, test_fraction, tune)
    scores: dict[str, list[float]] = {name: [] for name in models}
    seconds: dict[str, float] = dict.fromkeys(models, 0.0)
    chosen: dict[str, dict[str, int]] = {name: {} for name in models}
    params: dict[str, int | None] = dict.fromkeys(models)
    for repeat in range(repeats):
        train, test = _split(table, test_fraction, seed + repeat)
        size = _spinal_size(table, train)
        for name in models:
            estimator = CONTENDERS[name].build(table.task, seed + repeat, size)
            if tune:
                estimator = _tuned(estimator, name, seed + repeat, table.task)
            began = time.perf_counter()
            with warnings.catch_warnings():
                # A test class or category that the training rows lack is met as unknown.
                warnings.filterwarnings("ignore", "Found unknown categories")
                estimator.fit(_rows(table.X, train), _rows(table.y, train))
                seconds[name] += time.perf_counter() - began
                score = float(estimator.score(_rows(table.X, test), _rows(table.y, test)))
            scores[name].append(score)
            if tune:
                key = ", ".join(
                    f"{k.split('__')[-1]}={v:g}" for k, v in estimator.best_params_.items()
                )
                chosen[name][key] = chosen[name].get(key, 0) + 1
                estimator = estimator.best_estimator_
            module = getattr(estimator, "module_", None)
            if module is not None:
                params[name] = sum(p.numel() for p in module.parameters())
            if on_score is not None:
                on_score(name, repeat, score)
    share = test_fraction / (1.0 - test_fraction)
    rows = [
        ModelScore(
            name,
            tuple(scores[name]),
            sum(scores[name]) / repeats,
            _std(scores[name]),
            params[name],
            seconds[name] / repeats,
            chosen[name] if tune else None,
            None if name == models[0] else _difference(scores[models[0]], scores[name], share),
        )
        for name in models
    ]
    result = TableComparison(
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
        models=tuple(rows),
        verdict="",
        notes=table.notes,
        environment=environment_module.describe_environment()
        | {"scikit-learn": version("scikit-learn")},
    )
    return replace(result, verdict=_verdict(result))


def _rows(values: Any, index: Any) -> Any:
    return values.iloc[index] if hasattr(values, "iloc") else values[index]


def _check_rows(table: Table, test_fraction: float, tune: bool) -> None:
    import numpy as np

    rows = len(table.y)
    fewest = 8 if tune else 4
    if rows * min(test_fraction, 1 - test_fraction) < 1 or rows < fewest:
        raise InputError(
            f"{table.name} has {rows} rows: too few to split off {test_fraction:g} for the test; "
            f"at least {fewest} are needed."
        )
    if table.task != "classification":
        return
    names, counts = np.unique(table.y, return_counts=True)
    if len(names) < 2:
        raise InputError(f"the target of {table.name} has only one class, {names[0]!r}.")
    needed = 4 if tune else 2
    if counts.min() < needed:
        few = names[counts.argmin()]
        raise InputError(
            f"class {few!r} of {table.name} has {counts.min()} rows, but a split needs {needed} of "
            "each class: drop rare classes, join them, or use --task regression for numbers."
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


def _std(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _difference(first: Sequence[float], other: Sequence[float], share: float) -> Difference:
    """Compare by the corrected resampled t test; `share` is test rows over training rows."""
    from scipy.stats import t

    gaps = [a - b for a, b in zip(first, other, strict=True)]
    mean, std = sum(gaps) / len(gaps), _std(gaps)
    if std is None:
        return Difference(mean, None, None, None, "one repeat: no test")
    error = std * math.sqrt(1 / len(gaps) + share)
    if error == 0.0:
        same = mean == 0.0
        return Difference(
            mean, mean, mean, 1.0 if same else 0.0, "no difference" if same else _sign(mean)
        )
    half = float(t.ppf(0.975, len(gaps) - 1)) * error
    p_value = 2 * float(t.sf(abs(mean) / error, len(gaps) - 1))
    verdict = _sign(mean) if p_value < 0.05 else "no difference"
    return Difference(mean, mean - half, mean + half, p_value, verdict)


def _sign(mean: float) -> str:
    return "better" if mean > 0 else "worse"


def _verdict(result: TableComparison) -> str:
    best = max(result.models, key=lambda row: row.mean)
    first = result.models[0]
    text = (
        f"On {result.table} ({result.rows} rows) the highest mean {result.metric} is that of "
        f"{best.model}: {_score(best)}."
    )
    parts = [
        f"{row.difference.verdict} than {row.model}"
        if row.difference.verdict in ("better", "worse")
        else f"not distinguishable from {row.model}"
        for row in result.models[1:]
        if row.difference is not None and row.difference.p_value is not None
    ]
    return f"{text} {first.model} ({_score(first)}) is {'; '.join(parts)}." if parts else text


def _score(row: ModelScore) -> str:
    return f"{row.mean:.3f}" if row.std is None else f"{row.mean:.3f} ± {row.std:.3f}"


def result_table(result: TableComparison) -> Any:
    """Return the result as a `rich` table."""
    from rich.table import Table as RichTable

    first = result.models[0].model
    shown = RichTable(title=f"{result.table}: {result.metric} on {result.repeats} splits")
    for name in ("model", result.metric, f"{first} minus it", "p", "parameters", "fit, s"):
        shown.add_column(name, justify="left" if name == "model" else "right")
    for row in result.models:
        shown.add_row(*_cells(row))
    return shown


def _cells(row: ModelScore) -> tuple[str, ...]:
    gap = row.difference
    interval = p_value = ""
    if gap is not None:
        interval = f"{gap.mean:+.3f}"
        if gap.low is not None and gap.high is not None:
            interval += f" [{gap.low:+.3f}, {gap.high:+.3f}]"
        p_value = "" if gap.p_value is None else f"{gap.p_value:.3f}"
    params = "" if row.params is None else str(row.params)
    return row.model, _score(row), interval, p_value, params, f"{row.fit_seconds:.2f}"


def markdown(result: Mapping[str, Any]) -> str:
    """Return one result, as `summary.json` holds it, as a section of a Markdown page."""
    rows = [_model_score(row) for row in result["models"]]
    tuned = (
        "settings chosen by 3-fold cross-validation inside the training rows"
        if result["tuned"]
        else "default settings"
    )
    lines = [
        f"## {result['table']}{', tuned' if result['tuned'] else ''}",
        "",
        f"{result['task'].capitalize()}, {result['rows']} rows, {result['columns']} columns, "
        f"{result['outputs']} target(s). {result['repeats']} splits, {result['test_fraction']:.0%} "
        f"of the rows for the test, seeds from {result['seed']}; {tuned}.",
        "",
        f"| model | {result['metric']} | {rows[0].model} minus it | p | parameters | fit, s |",
        "|---|---|---|---|---|---|",
        *("| " + " | ".join(_cells(row)) + " |" for row in rows),
        "",
        result["verdict"],
        *(f"Note: {note}" for note in result["notes"]),
        "",
    ]
    if result.get("command"):
        lines += [f"Command: `{result['command']}`", ""]
    return "\n".join(lines)


def _model_score(row: Mapping[str, Any]) -> ModelScore:
    gap = row["difference"]
    return ModelScore(**{**row, "difference": None if gap is None else Difference(**gap)})


def write_results(result: TableComparison, folder: str | Path, command: str | None = None) -> Path:
    """Write `summary.json`, `scores.csv` and `scores.png`; return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    result = replace(result, command=command)
    text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False)
    files.write_text(folder / "summary.json", text + "\n")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["seed", *(row.model for row in result.models)])
    for repeat in range(result.repeats):
        values = [f"{row.scores[repeat]:.6f}" for row in result.models]
        writer.writerow([result.seed + repeat, *values])
    files.write_text(folder / "scores.csv", buffer.getvalue())
    figure = draw([result.to_dict()])
    figure.savefig(folder / "scores.png", dpi=110)
    return folder


def draw(results: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the scores of every repeat, one panel per table, and the means; return the figure."""
    from matplotlib.figure import Figure

    columns = min(3, len(results))
    lines = math.ceil(len(results) / columns)
    figure = Figure(figsize=(4.2 * columns, 0.9 + 2.3 * lines), layout="constrained")
    for index, result in enumerate(results):
        axes = figure.add_subplot(lines, columns, index + 1)
        names = [row["model"] for row in result["models"]]
        for place, row in enumerate(result["models"]):
            scores = row["scores"]
            spread = [
                place + 0.22 * ((i / max(1, len(scores) - 1)) - 0.5) for i in range(len(scores))
            ]
            colour = "tab:orange" if place == 0 else "tab:gray"
            axes.plot(scores, spread, "o", color=colour, alpha=0.45, markersize=4, zorder=1)
            axes.plot([row["mean"]], [place], "|", color="black", markersize=16, zorder=2)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.margins(y=0.15)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(result["table"].removeprefix("sklearn:"), fontsize=10)
        axes.set_xlabel(result["metric"], fontsize=9)
        axes.tick_params(labelsize=8)
    return figure

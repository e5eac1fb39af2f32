"""What a table's model depends on, column by column, in the units of its target.

Two measures, over the test rows of its run or the rows of another table. Both ask the whole model,
so that they are of the columns as the table has them, not of the numbers an encoder makes of them:

- *effect*, of every column and every model: how far a prediction moves, on average, when the row's
  value is exchanged for that of another row drawn at random. In the units of the target, or in
  probability. It says how much the model uses the column (not how much the target depends on it:
  columns that say the same share their effect).
- *slope*, of a column of numbers in a net: the derivative of the prediction by the column, in units
  of the target per unit of the column. The mean says in which direction it works, the standard
  deviation how much that differs from row to row. Trees are constant between their splits and have
  none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison import TableModel
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.tables.heads import head_row
from spinalnet.comparison.wording import as_csv
from spinalnet.deploy.saved import table_model
from spinalnet.deploy.tables import rows_to_ask
from spinalnet.panels import axes_of, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 1000  # more would not change a mean's second digit
_STEP = 1e-4  # of a column's standard deviation, to both sides: a net is evaluated in float64


@dataclass(frozen=True)
class ColumnEffect:
    """What one output does with one column.

    Attributes:
        output: Name of the target, or a class.
        column: Name of the column.
        kind: What it holds: "number", "category", ...
        effect: Mean absolute change of the output by another row's value.
        error: Standard error of `effect` over the exchanges.
        slope: Mean derivative by the column, per unit of both; None where there is none.
        slope_std: Its standard deviation over the rows.
    """

    output: str
    column: str
    kind: str
    effect: float
    error: float
    slope: float | None = None
    slope_std: float | None = None


@dataclass(frozen=True)
class TableExplanation:
    """What a model depends on.

    Attributes:
        effects: One for every output and column; columns of most effect first.
        rows: Number of rows asked.
        unit: What effects are in: "units of the target" or "probability".
    """

    effects: tuple[ColumnEffect, ...]
    rows: int
    unit: str

    def records(self) -> list[dict[str, Any]]:
        """Return one plain mapping per effect."""
        return [asdict(effect) for effect in self.effects]


def explain_table_model(
    run: str | Path | TableModel,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    exchanges: int = 5,
    seed: int = 0,
    tell: Tell | None = None,
) -> TableExplanation:
    """Say which columns the model of a table depends on, how much and in which direction.

    Args:
        run: Folder of a run or of a comparison, its `model.safetensors`, or the model.
        out: Folder for `effects.csv` and `effects.png`; None to write nothing.
        data: A table whose rows are asked, in place of the run's test rows.
        exchanges: How often every row's value is exchanged for another's.
        seed: Of the rows that are drawn.
        tell: Called with a sentence for everything the user should know.

    Raises:
        InputError: If the rows cannot be had, or are fewer than two.
    """
    model = run if isinstance(run, TableModel) else table_model(run, tell)
    X = rows_to_ask(model, data, tell)
    rng = np.random.default_rng(seed)
    if len(X) > MOST_ROWS:
        X = _pick(X, np.sort(rng.choice(len(X), MOST_ROWS, replace=False)))
    if len(X) < 2:
        raise InputError(f"an explanation needs at least 2 rows, got {len(X)}.")
    outputs, shown = _outputs(model)
    base = model.answers(X)[:, shown]
    found: list[ColumnEffect] = []
    for place, column in enumerate(model.about.columns):
        name = column.name or f"x{place + 1}"
        moved = np.stack(
            [
                np.abs(model.answers(_exchanged(X, place, rng))[:, shown] - base).mean(0)
                for _ in range(exchanges)
            ]
        )
        errors = moved.std(0, ddof=1) / exchanges**0.5 if exchanges > 1 else moved[0] * 0
        slopes = _slopes(model, X, place, shown) if column.kind in ("number", "boolean") else None
        for k, output in enumerate(outputs):
            effect = ColumnEffect(
                output, name, column.kind, float(moved[:, k].mean()), float(errors[k])
            )
            if slopes is not None:
                mean, std = float(slopes[:, k].mean()), float(slopes[:, k].std())
                effect = ColumnEffect(
                    output, name, column.kind, effect.effect, effect.error, mean, std
                )
            found.append(effect)
    unit = "probability" if model.task == "classification" else "units of the target"
    explanation = TableExplanation(_ordered(found, outputs), len(X), unit)
    if out is not None:
        files.write_text(files.expanded(out) / "effects.csv", as_csv(explanation.records()))
        files.write_figure(files.expanded(out) / "effects.png", draw_effects(explanation, model))
    return explanation


def slope_text(effect: ColumnEffect) -> str:
    """Return a slope for a table of text; nothing where there is none."""
    if effect.slope is None or effect.slope_std is None:
        return ""
    return f"{effect.slope:.3g} ± {effect.slope_std:.2g}"


def _outputs(model: TableModel) -> tuple[list[str], list[int]]:
    """Return names of the outputs, and their places: of two classes the second says all."""
    if model.task == "classification":
        names = list(model.class_names)
        return (names, list(range(len(names)))) if len(names) > 2 else (names[1:], [1])
    outputs = model.about.outputs
    names = list(model.about.targets) or [f"output {k + 1}" for k in range(outputs)]
    return names, list(range(outputs))


def _ordered(found: list[ColumnEffect], outputs: Sequence[str]) -> tuple[ColumnEffect, ...]:
    """Put the columns of most effect over all outputs first."""
    total: dict[str, float] = {}
    for effect in found:
        total[effect.column] = total.get(effect.column, 0.0) + effect.effect
    order = {name: place for place, name in enumerate(outputs)}
    return tuple(sorted(found, key=lambda one: (order[one.output], -total[one.column], one.column)))


def _pick(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows].reset_index(drop=True) if hasattr(X, "iloc") else X[rows]


def _exchanged(X: Any, place: int, rng: np.random.Generator) -> Any:
    """Return the rows with one column's values moved to other rows."""
    # A cycle: no row keeps its own value, which a permutation allows.
    order = rng.permutation(len(X))
    source = np.empty(len(X), dtype=np.int64)
    source[order] = np.roll(order, 1)
    if not hasattr(X, "iloc"):
        moved = np.array(X, dtype=np.float64)
        moved[:, place] = moved[source, place]
        return moved
    moved = X.copy()
    name = X.columns[place]
    moved[name] = X[name].iloc[source].array
    return moved


def _slopes(model: TableModel, X: Any, place: int, shown: Sequence[int]) -> np.ndarray | None:
    """Return the derivative of every output by a column of numbers in every row, `(N, K)`."""
    if not head_row(model.about.head).kind:
        return None
    values = np.asarray(X.iloc[:, place] if hasattr(X, "iloc") else X[:, place], dtype=np.float64)
    there = np.isfinite(values)
    spread = float(values[there].std()) if there.any() else 0.0
    if spread == 0.0:
        return None
    step = _STEP * spread
    sides = [
        model.answers(_with_column(_pick(X, np.flatnonzero(there)), place, values[there] + move))
        for move in (step, -step)
    ]
    return (sides[0] - sides[1])[:, shown] / (2 * step)


def _with_column(X: Any, place: int, values: np.ndarray) -> Any:
    if not hasattr(X, "iloc"):
        changed = np.array(X, dtype=np.float64)
        changed[:, place] = values
        return changed
    changed = X.copy()
    changed[X.columns[place]] = values
    return changed


def draw_effects(
    explanation: TableExplanation, model: TableModel, *, ax: Axes | None = None
) -> Axes:
    """Draw the effect of the columns that matter most, a panel for each output.

    Args:
        explanation: What `explain_table` found.
        model: Of what.
        ax: Axes in whose place the panels are drawn; new ones without.
    """
    outputs = list(dict.fromkeys(effect.output for effect in explanation.effects))[:6]
    columns = list(dict.fromkeys(effect.column for effect in explanation.effects))[:20]
    size = (1.2 + 3.4 * len(outputs), 0.9 + 0.26 * len(columns))
    ax = axes_of(ax, size)
    beside = panels(ax, 1, len(outputs), sharey=True)[0]
    by_place = {(one.output, one.column): one for one in explanation.effects}
    for axes, output in zip(beside, outputs, strict=True):
        shown = [by_place[output, column] for column in columns]
        axes.barh(
            columns, [one.effect for one in shown], xerr=[one.error for one in shown], color="C0"
        )
        axes.set_title(output, fontsize=9, loc="left")
        axes.set_xlabel(f"mean change, {explanation.unit}", fontsize=8)
        axes.tick_params(labelsize=8)
    beside[0].invert_yaxis()
    title = "change of the prediction by another row's value"
    beside[0].set_title(
        f"{model.about.data}, {model.about.head}: {title}\n{outputs[0]}", fontsize=9, loc="left"
    )
    return ax

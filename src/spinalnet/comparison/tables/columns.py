"""The columns a table's model was fitted to, and how another table is brought to them.

A model meets its columns by name: in another order, with others between them, with levels it has
never seen and with missing values. What it cannot do without is named.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinalnet._checks import InputError, some
from spinalnet.data.columns import (
    NOTHING,
    check_names,
    dates,
    has_offsets,
    is_frame,
    kind_of,
    numbers,
    texts,
    told_offsets,
)


@dataclass(frozen=True)
class Column:
    """One column a model takes.

    Attributes:
        name: Its name; "" in an array, whose columns have places only.
        kind: "number", "boolean", "date", "category" or "text".
        levels: Values of a category as text, where they are few.
        order: What comes first in dates written as 3/4/2026, "day" or "month", as the training
            found; None where its dates were written otherwise, or an earlier version kept it.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()
    order: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {"name": self.name, "kind": self.kind, "levels": list(self.levels)}
        return plain if self.order is None else {**plain, "order": self.order}

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Column:
        """Read what `to_dict` gave."""
        levels, order = tuple(map(str, held["levels"])), held.get("order")
        return cls(str(held["name"]), str(held["kind"]), levels, order and str(order))


_FEW = 1000  # levels that a header keeps

Tell = Callable[[str], None]


def columns_of(X: Any, date_orders: Mapping[str, str] | None = None) -> tuple[Column, ...]:
    """Describe the columns of a table that a model was fitted to.

    Args:
        X: Its features.
        date_orders: As `Table` has them.
    """
    if not is_frame(X):
        return tuple(Column("", "number") for _ in range(np.shape(X)[1]))
    found = []
    for name in X.columns:
        kind = kind_of(str(name), X[name])
        levels: list[str] = []
        if kind == "category":
            levels = sorted({level for level in texts(X[name]) if level is not None})
        order = (date_orders or {}).get(str(name)) if kind == "date" else None
        few = tuple(levels) if len(levels) <= _FEW else ()
        found.append(Column(str(name), kind, few, order))
    return tuple(found)


def align(
    X: Any,
    columns: Sequence[Column],
    *,
    data: str,
    also: Sequence[str] = (),
    tell: Tell | None = None,
) -> Any:
    """Return a table with the columns of a model: its names, its order, its types.

    Args:
        X: A data frame, or of a model without names an array.
        columns: What the model takes.
        data: What the table is called in sentences.
        also: Columns that may be there and are no features, such as the target.
        tell: Called with a sentence for everything the user should know.

    Raises:
        InputError: If a column is missing, or holds what it cannot hold; both named.
    """
    tell = tell or (lambda _: None)
    if not is_frame(X):
        return _array(X, columns, data)
    import pandas as pd

    given = [str(name) for name in X.columns]
    check_names(given, data)
    if not columns[0].name:
        return _by_place(X, columns, also, data, tell)
    wanted = [column.name for column in columns]
    if lacking := [name for name in wanted if name not in given]:
        raise _missing(lacking, given, data)
    if more := [name for name in given if name not in {*wanted, *also}]:
        tell(f"{data}: columns that the model does not know are ignored: {some(more, 5)}.")
    real = dict(zip(given, X.columns, strict=True))
    made = {column.name: _typed(X[real[column.name]], column, data, tell) for column in columns}
    return pd.DataFrame(made)


def _missing(lacking: Sequence[str], given: Sequence[str], data: str) -> InputError:
    has = f"it has {some(given, 10)}"
    if len(lacking) > 1:
        named = some([f"'{name}'" for name in lacking], 5)
        return InputError(
            f"{data} lacks the columns {named}, which the model takes; {has}. Add them; they may "
            "be empty where nothing is known."
        )
    near = difflib.get_close_matches(lacking[0], given, n=1, cutoff=0.6)
    hint = f" (is it '{near[0]}'?)" if near else ""
    return InputError(
        f"{data} lacks the column '{lacking[0]}', which the model takes{hint}; {has}. Add it; it "
        "may be empty where nothing is known."
    )


def _array(X: Any, columns: Sequence[Column], data: str) -> np.ndarray:
    values = np.asarray(X)
    if columns[0].name:
        names = some([column.name for column in columns], 10)
        raise InputError(f"{data} must be a data frame with the columns {names}.")
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise InputError(
            f"{data} must have {len(columns)} columns, as the table of the training had, got shape "
            f"{values.shape}."
        )
    return values


def _by_place(
    X: Any, columns: Sequence[Column], also: Sequence[str], data: str, tell: Tell
) -> np.ndarray:
    """Take the columns of a frame as they stand, for a model whose table had no names."""
    left = [name for name in X.columns if str(name) not in also]
    if len(left) != len(columns):
        raise InputError(
            f"{data} has {len(left)} columns, but the model was trained on an array of "
            f"{len(columns)} without names: give them in that order."
        )
    tell(f"{data}: the model's columns have no names; they are taken in their order.")
    values = np.column_stack([numbers(str(name), X[name]) for name in left])
    if np.isnan(values).any():
        rows, places = np.nonzero(np.isnan(values))
        raise InputError(
            f"column '{left[places[0]]}' of {data} has no value in row {rows[0] + 1}: a model of "
            "an array knows no missing values."
        )
    return values


def _typed(held: Any, column: Column, data: str, tell: Tell) -> Any:
    """Return the values of a column as the encoder of its kind knows them."""
    if column.kind in ("number", "boolean"):
        return numbers(column.name, held)
    if column.kind == "date":
        found = dates(column.name, held, column.order)
        if has_offsets(held):
            tell(f"{data}: {told_offsets(column.name)}")
        return found
    values = np.empty(len(held), dtype=object)
    known = set(column.levels)
    # A file of text says "NA" for what is not there, which the training table has as a gap.
    values[:] = [None if one in NOTHING and one not in known else one for one in texts(held)]
    if column.levels:
        new = sorted({one for one in values if one is not None and one not in known})
        if new:
            tell(
                f"{data}: column '{column.name}' has values that the model has never seen, "
                f"{some([repr(one) for one in new], 3)}: they count as unknown."
            )
    return values

"""The columns a table's model was fitted to, and how another table is brought to them.

A model meets its columns by name: in another order, with others between them, with levels it has
never seen and with missing values. What it cannot do without is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinalnet._checks import InputError, some, unknown_name
from spinalnet.data.columns import column_kind, is_frame

_TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Column:
    """One column a model takes.

    Attributes:
        name: Its name; "" in an array, whose columns have places only.
        kind: "number", "category", "date", or "other" (what the encoder alone knows).
        values: Kind of a category's values: "text", "whole", "number", "truth" or "mixed".
        levels: The values themselves as text, where they are few.
    """

    name: str
    kind: str
    values: str = ""
    levels: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "values": self.values,
            "levels": list(self.levels),
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Column:
        """Read what `to_dict` gave."""
        return cls(held["name"], held["kind"], held["values"], tuple(held["levels"]))


_FEW = 1000  # levels that a header keeps


def columns_of(X: Any) -> tuple[Column, ...]:
    """Describe the columns of a table as it is fitted to."""
    if not is_frame(X):
        return tuple(Column("", "number") for _ in range(np.shape(X)[1]))
    return tuple(_describe(str(name), X[name]) for name in X.columns)


def _describe(name: str, column: Any) -> Column:
    if column.dtype.kind == "M" or hasattr(column.dtype, "tz"):
        return Column(name, "date")
    try:
        if column_kind(name, column.dtype) == "numeric":
            return Column(name, "number")
    except ValueError:
        return Column(name, "other")
    held = column.cat.categories if hasattr(column, "cat") else column.dropna().unique()
    values = [value for value in held if not _is_missing(value)]
    found = {_kind_of(value) for value in values}
    levels = sorted({str(value) for value in values}) if len(values) <= _FEW else ()
    return Column(name, "category", found.pop() if len(found) == 1 else "mixed", tuple(levels))


def _is_missing(value: Any) -> bool:
    nothing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return nothing or (isinstance(value, float) and value != value)


def _kind_of(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "truth"
    if isinstance(value, int | np.integer):
        return "whole"
    if isinstance(value, float | np.floating):
        return "number"
    return "text" if isinstance(value, str) else "mixed"


Tell = Callable[[str], None]


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
    if hasattr(X, "to_pandas") and not hasattr(X, "iloc"):
        X = X.to_pandas()
    X = X.rename(columns=str)
    given = [str(name) for name in X.columns]
    if len(set(given)) < len(given):
        twice = sorted({name for name in given if given.count(name) > 1})
        raise InputError(f"{data} has two columns called '{twice[0]}': rename one of them.")
    if not columns[0].name:
        return _by_place(X, columns, also, data, tell)
    wanted = [column.name for column in columns]
    if lacking := [name for name in wanted if name not in given]:
        raise _missing(lacking, given, data)
    if more := [name for name in given if name not in {*wanted, *also}]:
        tell(f"{data}: columns that the model does not know are ignored: {some(more, 5)}.")
    return _typed(X[wanted], columns, data, tell)


def _missing(lacking: Sequence[str], given: Sequence[str], data: str) -> InputError:
    if len(lacking) > 1:
        named = ", ".join(f"'{name}'" for name in lacking[:5])
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        return InputError(
            f"{data} lacks the columns {named}{more}, which the model takes; it has "
            f"{some(given, 10)}. Add them; they may be empty where nothing is known."
        )
    near = str(unknown_name("column", lacking[0], given)).partition("; ")[2].partition("?")
    hint = f" ({near[0]}?)" if near[1] else ""
    return InputError(
        f"{data} lacks the column '{lacking[0]}', which the model takes{hint}; it has "
        f"{some(given, 10)}. Add it; it may be empty where nothing is known."
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
    left = [name for name in X.columns if name not in also]
    if len(left) != len(columns):
        raise InputError(
            f"{data} has {len(left)} columns, but the model was trained on an array of "
            f"{len(columns)} without names: give them in that order."
        )
    tell(f"{data}: the model's columns have no names; they are taken in their order.")
    named = [Column(str(name), "number") for name in left]
    values = _typed(X[left], named, data, tell).to_numpy(dtype=np.float64)
    if np.isnan(values).any():
        rows, places = np.nonzero(np.isnan(values))
        raise InputError(
            f"column '{left[places[0]]}' of {data} has no value in row {rows[0] + 1}: a model of "
            "an array knows no missing values."
        )
    return values


def _typed(X: Any, columns: Sequence[Column], data: str, tell: Tell) -> Any:
    import pandas as pd

    made = {}
    for column in columns:
        held = X[column.name]
        if column.kind == "number":
            made[column.name] = _numbers(held, column, data)
        elif column.kind == "date":
            made[column.name] = _dates(held, column, data)
        elif column.kind == "category":
            made[column.name] = _categories(held, column, data, tell)
        else:
            made[column.name] = held
    return pd.DataFrame(made, index=pd.RangeIndex(len(X)) if not made else None).reset_index(
        drop=True
    )


def _numbers(held: Any, column: Column, data: str) -> np.ndarray:
    """Return a column as numbers; true and false are 1 and 0."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(held.dtype):
        values = held.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        plain = held.astype(object).map(
            lambda value: (
                _TRUTHS.get(value.strip().lower(), value) if isinstance(value, str) else value
            )
        )
        gone = held.isna().to_numpy() | (plain.map(lambda value: value == "")).to_numpy()
        read: Any = pd.to_numeric(plain, errors="coerce")
        values = read.to_numpy(dtype=np.float64, na_value=np.nan)
        if (wrong := np.flatnonzero(np.isnan(values) & ~gone)).size:
            raise InputError(
                f"column '{column.name}' of {data} must hold numbers, got "
                f"{held.iloc[wrong[0]]!r} in row {wrong[0] + 1}: mend it, or leave it empty."
            )
    if (wrong := np.flatnonzero(np.isinf(values))).size:
        raise InputError(
            f"column '{column.name}' of {data} is infinite in row {wrong[0] + 1}: mend it, or "
            "leave it empty."
        )
    return values


def _dates(held: Any, column: Column, data: str) -> Any:
    import pandas as pd

    if held.dtype.kind == "M" or hasattr(held.dtype, "tz"):
        return held.array
    found = pd.to_datetime(held, errors="coerce", format="ISO8601")
    if (wrong := np.flatnonzero(found.isna().to_numpy() & held.notna().to_numpy())).size:
        raise InputError(
            f"column '{column.name}' of {data} must hold dates (2026-01-31), got "
            f"{held.iloc[wrong[0]]!r} in row {wrong[0] + 1}: mend it, or leave it empty."
        )
    return found.array


def _categories(held: Any, column: Column, data: str, tell: Tell) -> Any:
    """Return a column as categories whose values are of the kind that the model knows."""
    import pandas as pd

    gone = held.isna().to_numpy()
    values = [None if missing else value for value, missing in zip(held, gone, strict=True)]
    values = [None if value is None else _as_kind(value, column.values) for value in values]
    if column.levels:
        known = set(column.levels)
        new = sorted({str(v) for v in values if v is not None and str(v) not in known})
        if new:
            tell(
                f"{data}: column '{column.name}' has values that the model has never seen, "
                f"{some([repr(one) for one in new], 3)}: they count as unknown."
            )
    plain = np.empty(len(values), dtype=object)
    plain[:] = values
    return pd.Categorical(plain)


def _as_kind(value: Any, kind: str) -> Any:
    """Return a value as text or as a number, where that is what the model knows."""
    if kind == "text" and not isinstance(value, str):
        whole = isinstance(value, float | np.floating) and float(value).is_integer()
        return str(int(value)) if whole else str(value)
    try:
        if kind == "whole" and float(value) == int(float(value)):
            return int(float(value))
        if kind == "number":
            return float(value)
    except (TypeError, ValueError, OverflowError):
        return value
    if kind == "truth" and isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    return value

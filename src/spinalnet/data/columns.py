"""What a column of a data frame holds, and its values in plain NumPy: pandas and polars alike.

A column is numbers, booleans, dates, categories or text. Its type decides; where that says only
"objects" or "text", its values do.
"""

from __future__ import annotations

import datetime
import math
import numbers as abstract
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from spinalnet._checks import InputError, some

MOST_EXACT = 2**53
"""Whole numbers up to it are the same in float64."""

MOST_WHOLE = 2**63 - 1
"""The largest whole number of int64."""

OFFSET = re.compile(r":\d{2}.*(Z|[+-]\d{2}:?(\d{2})?)$")
"""The end of a time that is written with its offset from UTC."""

Kind = Literal["number", "boolean", "date", "category", "text"]

MOST_LEVELS = 100
"""More different values than that are text: a net would need an input for each of them."""

FEW_LEVELS = 20
"""Up to so many different values are categories, however few rows there are."""

NOTHING = frozenset(
    {"#N/A", "#NA", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "<NA>", "NONE"}
)
"""Words for a missing value, in a column of features; in a target they may be classes."""

_UNUSABLE = {
    "list": "a list",
    "large_list": "a list",
    "fixed_size_list": "a list",
    "array": "a list",
    "struct": "several values",
    "map": "a mapping",
    "binary": "bytes",
    "large_binary": "bytes",
    "fixed_size_binary": "bytes",
    "duration": "a length of time",
    "timedelta64": "a length of time",
    "time": "a time of day",
    "time32": "a time of day",
    "time64": "a time of day",
    "period": "a period",
}

_WAYS = {
    "a length of time": "turn it into a number (of seconds, say) or drop it",
    "a time of day": "turn it into a number (of hours, say) or drop it",
    "a period": "turn it into dates or drop it",
    "bytes": "turn it into text or numbers, or drop it",
}

_HELD: tuple[tuple[tuple[type, ...], str], ...] = (
    ((bytes, bytearray, memoryview), "bytes"),
    ((dict,), "a mapping"),
    ((list, tuple, set, frozenset, np.ndarray), "a list"),
    ((datetime.timedelta, np.timedelta64), "a length of time"),
    ((datetime.time,), "a time of day"),
)


def is_frame(X: Any) -> bool:
    """Return whether `X` has named columns that each have a type (pandas, polars)."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def check_names(names: Iterable[Any], where: str) -> None:
    """Refuse columns of one name, which nothing could tell apart.

    Raises:
        InputError: It names them.
    """
    counts: dict[str, int] = {}
    for name in names:
        counts[str(name)] = counts.get(str(name), 0) + 1
    if twice := [f"'{name}'" for name, count in counts.items() if count > 1]:
        raise InputError(
            f"the columns of {where} must have different names, but several are called "
            f"{some(twice, 5)}: rename or drop them."
        )


def column_of(X: Any, name: Any, place: int) -> Any:
    """Return a column of a frame or an array: by its name where that is text, else by its place."""
    if isinstance(X, np.ndarray):
        return X[:, place]
    if isinstance(name, str):
        return X[name]
    return X.iloc[:, place]


def column_kind(name: str, dtype: Any) -> str:
    """Return "numeric", "date" or "categorical" (objects too) for the type of a column.

    Raises:
        InputError: If a column of this type is of no use, as one of lists.
    """
    kind = _kind_of_type(name, dtype)
    if kind in ("number", "boolean"):
        return "numeric"
    return "date" if kind == "date" else "categorical"


def kind_of(name: str, column: Any) -> Kind:
    """Return what a column holds.

    Args:
        name: Its name, for sentences.
        column: Of a frame of pandas or polars.

    Raises:
        InputError: If it is of no use, as one of lists.
    """
    kind = _kind_of_type(name, column.dtype)
    if kind is not None:
        return kind
    values = [value for value in objects(column) if value is not None]
    kind = _kind_of_values(name, values)
    if kind is not None:
        return kind
    levels = len({text_of(value) for value in values})
    few = levels <= FEW_LEVELS or (levels <= MOST_LEVELS and 2 * levels <= len(values))
    return "category" if few else "text"


def _kind_of_type(name: str, dtype: Any) -> Kind | None:
    """Return what a type says; None where the values must."""
    shown = str(dtype).lower()
    base = shown.split("[")[0].split("(")[0].split("<")[0].strip()
    if base.startswith("complex"):
        raise InputError(f"Complex data not supported: column {name!r} has type {dtype}.")
    if base in _UNUSABLE:
        _refuse(name, f"type {dtype}", _UNUSABLE[base])
    if base in ("category", "categorical", "enum", "dictionary"):
        return "category"
    if base in ("bool", "boolean"):
        return "boolean"
    if base in ("datetime", "datetime64", "date", "date32", "date64", "timestamp"):
        return "date"
    if base in ("object", "str", "string", "large_string", "utf8", "string_view"):
        return None
    if base in ("null", "decimal", "decimal128", "decimal256", "double", "halffloat", "sparse"):
        return "number"
    if re.fullmatch(r"(u?int|float)\d*", base):
        return "number"
    return _refuse(name, f"type {dtype}", "neither numbers, categories, dates nor text")


def _kind_of_values(name: str, values: list[Any]) -> Kind | None:
    """Return what objects are alike, None if they are text or a mixture."""
    types = set(map(type, values))
    for kind in types:
        for refused, what in _HELD:
            if issubclass(kind, refused):
                _refuse(name, f"values of type {kind.__name__}", what)
        if kind.__name__ == "Period":
            _refuse(name, "values of type Period", "a period")
        if issubclass(kind, complex | np.complexfloating) and not issubclass(kind, float):
            raise InputError(f"Complex data not supported: column {name!r} holds {kind.__name__}.")
    if all(issubclass(kind, bool | np.bool_) for kind in types):
        return "boolean" if types else "number"  # an empty column is a number never seen
    if all(issubclass(kind, abstract.Number | Decimal) for kind in types):
        mixed = any(issubclass(kind, bool) for kind in types)
        return None if mixed else "number"
    if all(issubclass(kind, datetime.date | np.datetime64) for kind in types):
        return "date"
    return None


def _refuse(name: str, has: str, what: str) -> Any:
    way = _WAYS.get(what, "turn it into columns of numbers, dates or text, or drop it")
    raise InputError(f"column {name!r} has {has}, which is {what} in each row: {way}.")


def objects(column: Any) -> list[Any]:
    """Return the values of a column as Python's own, missing ones as None."""
    if hasattr(column, "isna"):  # pandas has several kinds of missing
        gone = np.asarray(column.isna(), dtype=bool)
        pairs = zip(column.tolist(), gone, strict=True)
        return [None if missing else value for value, missing in pairs]
    return [None if value != value else value for value in column.to_list()]


def as_objects(values: list[Any]) -> Any:
    """Return an array of objects, `(N,)`, whatever they are."""
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def text_of(value: Any) -> str:
    """Return a value as text, the same for 1, 1.0 and "1", as a gap makes floats of integers."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float | np.floating | Decimal) and value == value and value % 1 == 0:
        return str(int(value))
    return str(value)


def texts(column: Any) -> list[str | None]:
    """Return the values of a column as text, missing ones as None."""
    return [None if value is None else text_of(value) for value in objects(column)]


def coded(column: Any) -> tuple[np.ndarray, list[str]]:
    """Return a place in a list of texts for every value of a column, `(N,)`; -1 for a gap."""
    if hasattr(column, "cat") and hasattr(column, "isna"):
        return column.cat.codes.to_numpy(np.int64), list(map(text_of, column.cat.categories))
    values = texts(column)
    levels = [level for level in dict.fromkeys(values) if level is not None]
    places: dict[str | None, int] = {level: place for place, level in enumerate(levels)}
    places[None] = -1
    return np.fromiter(map(places.__getitem__, values), np.int64, len(values)), levels


def numbers(name: str, column: Any) -> np.ndarray:
    """Return a column of numbers or booleans as float64, missing values as NaN.

    Raises:
        InputError: If a value is no number, or is infinite; it names the column, value and row.
    """
    if isinstance(column, np.ndarray):
        values = column.astype(np.float64)
    elif hasattr(column, "isna") and column.dtype != object:
        try:
            values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            values = _each(name, objects(column))
    elif hasattr(column, "isna") or not column.dtype.is_numeric():
        values = _each(name, objects(column))
    else:
        found = column.to_list()  # without pyarrow, which polars' own conversion of gaps wants
        values = np.asarray([np.nan if v is None else v for v in found], dtype=np.float64)
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise InputError(
            f"column '{name}' holds infinity or a value too large for float64 in "
            f"{rows_in_words(infinite)}: leave those rows out, or mend their values."
        )
    return values


def as_float(value: Any) -> float:
    """Return a number as a float; one of hundreds of digits is infinite, as in float64."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


_WORDS = {"true": 1.0, "false": 0.0}


def _each(name: str, values: Iterable[Any]) -> np.ndarray:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(np.nan if value is None else as_float(value))
        except (TypeError, ValueError):
            said = str(value).strip().lower()
            word = _WORDS.get(said) if said else np.nan  # an empty cell of a frame of objects
            if word is None:
                raise InputError(
                    f"column '{name}' must hold numbers, got {value!r} in row {row + 1}: mend it, "
                    "or leave it empty."
                ) from None
            found.append(word)
    return np.asarray(found, dtype=np.float64)


def dates(name: str, column: Any, order: str | None = None) -> np.ndarray:
    """Return a column of dates as `datetime64[us]`, missing ones as NaT.

    Times with an offset from UTC, or a time zone, become UTC, as they do when a file of text is
    read; those without one stay as they are.

    Args:
        name: Its name, for sentences.
        column: Of a frame of pandas or polars.
        order: "day" or "month": what comes first in text such as 3/4/2026. None if text must be
            ISO 8601 (2026-01-31, 2026-01-31T12:00), which is read in any case.

    Raises:
        InputError: If a value is no date; it names the column, value and row.
    """
    if getattr(column.dtype, "tz", None) is not None and hasattr(column, "dt"):
        column = column.dt.tz_convert(None)
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "M":
        return column.to_numpy(dtype="datetime64[us]")
    found = np.empty(len(column), dtype="datetime64[us]")
    for row, value in enumerate(objects(column)):
        found[row] = _date(name, row, value, order)
    return found


_WRITTEN = re.compile(
    r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})"
    r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2})(\.\d{1,6})?)?)?"
)


def _from_text(text: str, order: str | None) -> datetime.datetime:
    """Return a date that is ISO 8601, or has the year first, or the day or the month as told.

    Raises:
        ValueError: If it is none.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None or (len(found[1]) == 4 and found[2] == "-"):
        return datetime.datetime.fromisoformat(text)
    first, last = int(found[1]), int(found[4])
    if len(found[1]) == 4:
        year, month, day = first, int(found[3]), last
    elif len(found[1]) > 2 or len(found[4]) not in (2, 4) or order is None:
        raise ValueError(text)
    else:
        # Two digits are those of 1969 to 2068, as everywhere.
        year = last if len(found[4]) == 4 else last + (1900 if last > 68 else 2000)
        day, month = (first, int(found[3])) if order == "day" else (int(found[3]), first)
    hour, minute, second = (int(part or 0) for part in found.group(5, 6, 7))
    part = round(float(found[8] or 0) * 1e6)
    return datetime.datetime(year, month, day, hour, minute, second, part)


def _date(name: str, row: int, value: Any, order: str | None) -> Any:
    if value is None or (isinstance(value, str) and value.strip() in {"", *NOTHING}):
        return np.datetime64("NaT", "us")
    if isinstance(value, str):
        try:
            value = _from_text(value.strip(), order)
        except ValueError:
            how = "2026-01-31"
            if order is not None:
                shown = "31/1/2026" if order == "day" else "1/31/2026"
                how = f"{how}, or with the {order} first, as in training: {shown}"
            raise InputError(
                f"column '{name}' must hold dates ({how}), got {value!r} in row {row + 1}: "
                "mend it, or leave it empty."
            ) from None
    if isinstance(value, datetime.datetime):
        value = _in_utc(name, row, value)
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]")
    if not isinstance(value, datetime.date):
        raise InputError(f"column '{name}' must hold dates, got {value!r} in row {row + 1}.")
    return np.datetime64(value, "us")


def _in_utc(name: str, row: int, value: datetime.datetime) -> datetime.datetime:
    if value.utcoffset() is None:
        return value.replace(tzinfo=None)
    try:
        return value.astimezone(datetime.UTC).replace(tzinfo=None)
    except OverflowError:
        raise InputError(
            f"column '{name}' must hold dates that lie in the years 1 to 9999 of UTC, got "
            f"'{value}' in row {row + 1}: mend it, or leave it empty."
        ) from None


def has_offsets(column: Any) -> bool:
    """Return whether a column of dates has times with an offset from UTC, which `dates` applies."""
    if getattr(column.dtype, "tz", None) is not None:
        return True
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "M":
        return False
    return any(
        OFFSET.search(value.strip()) if isinstance(value, str) else _is_aware(value)
        for value in objects(column)
    )


def _is_aware(value: Any) -> bool:
    return isinstance(value, datetime.datetime) and value.utcoffset() is not None


def told_offsets(name: str) -> str:
    """Return a sentence about a column that `has_offsets`."""
    return f"Times of column '{name}' have offsets: they are read as UTC."


def rows_in_words(places: Any, most: int = 3) -> str:
    """Return places counted from 0 as rows for a sentence, counted from 1: "2 rows (4, 7)"."""
    rows = [int(place) + 1 for place in places]
    shown = ", ".join(map(str, rows[:most])) + (", …" if len(rows) > most else "")
    return f"{len(rows)} row{'s' * (len(rows) > 1)} ({shown})"

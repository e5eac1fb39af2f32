"""Cells of text as numbers, truths, dates or text, column by column, each decision told."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spinalnet._checks import some
from spinalnet.data.columns import (
    FEW_LEVELS,
    MOST_EXACT,
    MOST_WHOLE,
    NOTHING,
    has_offsets,
    rows_in_words,
    told_offsets,
)

PLACEHOLDERS = frozenset({"?", "-", "--", ".", "*", "…", "..."})
"""Signs that among numbers stand for a missing value."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+|[+-]?\d+|[+-]?\d{1,3}(\.\d{3})+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?|[+-]?\d+(\.\d+)?")
_WHOLE = re.compile(r"[+-]?\d+")
_POINTS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+")
_CURRENCIES = "$€£¥₹"
_MINUS = str.maketrans({"\u2212": "-", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2019": "'"})
_DECORATED = re.compile(
    rf"(?P<minus>[+-]?)\s*(?P<before>[{_CURRENCIES}]?)\s*(?P<sign>[+-]?)"
    r"(?P<digits>\d{1,3}(?:(?P<mark>[' ])\d{3}(?:(?P=mark)\d{3})*)(?:[.,]\d+)?|\d[\d.,]*|\.\d+)"
    rf"\s*(?P<after>[%{_CURRENCIES}]?)"
)
_DATE = re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ]\d{1,2}:\d{2}.*)?")
_TRUTHS = {"true": True, "false": False}
_MOSTLY = 0.5


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, written with a point."""
    return _NUMBER.fullmatch(cell.strip()) is not None


@dataclass
class _Told:
    """Columns by what was decided about them; one sentence for each decision."""

    dates: list[str] = field(default_factory=list)
    orders: dict[str, str] = field(default_factory=dict)
    comma: list[str] = field(default_factory=list)
    thousands: list[str] = field(default_factory=list)
    signs: dict[str, list[str]] = field(default_factory=dict)
    nothing: dict[str, list[str]] = field(default_factory=dict)
    each: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        made = []
        if self.comma:
            made.append(f"Numbers with a decimal comma: {_columns(self.comma)}.")
        if self.thousands:
            made.append(f"Numbers with marks between thousands: {_columns(self.thousands)}.")
        for sign, names in self.signs.items():
            made.append(f"Numbers without their '{sign}': {_columns(names)}.")
        if self.dates:
            made.append(f"Read as dates: {_columns(self.dates)}.")
        for word, names in self.nothing.items():
            made.append(f"'{word}' counts as missing: {_columns(names)}.")
        return made + self.each


def _columns(names: list[str]) -> str:
    return f"column{'s' * (len(names) > 1)} {some([repr(name) for name in names], 5)}"


def typed(
    cells: Any,
    separator: str,
    notes: list[str],
    *,
    text: Collection[str] = (),
    targets: Collection[str] = (),
) -> tuple[Any, dict[str, str]]:
    """Return a frame of typed columns, and what comes first in the dates of some.

    That is "day" or "month", for every column whose dates begin with one of them.

    Args:
        cells: Frame of text, "" where there is none.
        separator: What stood between them; where it is no comma, a comma may stand for a point.
        notes: Gets a sentence for every decision.
        text: Columns that stay text.
        targets: Columns in which words such as 'NA' stay, since they may be classes.
    """
    import pandas as pd

    told = _Told()
    stripped = {name: cells[name].str.strip().astype(object) for name in cells.columns}
    comma = any(
        _comma_in(_held(stripped[name]), separator) for name in cells.columns if name not in text
    )
    made = {}
    for name in cells.columns:
        column = stripped[name]
        if name in text:
            made[name] = column.mask(column == "", None)
        elif name in targets:
            made[name] = _typed_target(column, comma, separator, name, told)
        else:
            made[name] = _typed_one(name, column, comma, separator, told)
    notes += told.notes()
    return pd.DataFrame(made), told.orders


def _held(column: Any) -> Any:
    """Return the cells of features that hold a value."""
    return column[(column != "") & ~column.isin(NOTHING)]


def _comma_in(held: Any, separator: str) -> bool:
    """Return whether a comma stands for a point, and cannot be one between thousands."""
    certain = separator != "," or not _all(_THOUSANDS, held)
    return certain and _all(_COMMA, held) and _has(",", held)


def _all(pattern: re.Pattern[str], held: Any) -> bool:
    return len(held) > 0 and all(map(pattern.fullmatch, held.unique()))


def _has(sign: str, held: Any) -> bool:
    return any(sign in cell for cell in held.unique())


def _typed_target(column: Any, comma: bool, separator: str, name: str, told: _Told) -> Any:
    """Return a target: numbers if all of it is, but for gaps; else text as it stands."""
    held = _held(column)
    # A few of '10 %' are classes, and keep their names.
    many = held.nunique() > FEW_LEVELS
    numbers = _numbers(name, held, comma, separator, told, dressed=many)
    words = column[(column != "") & column.isin(NOTHING)]
    if numbers is not None:
        if len(words):
            told.nothing.setdefault(words.iloc[0], []).append(name)
        return _with_gaps(numbers, column.index)
    if len(words):
        told.each.append(
            f"'{words.iloc[0]}' in the target column '{name}' is a class "
            f"({rows_in_words(words.index)}): leave the cells empty where nothing is known."
        )
    held = column[column != ""]
    truths = held.str.lower()
    if len(held) and truths.isin(_TRUTHS).all():
        return truths.map(_TRUTHS).reindex(column.index)
    return column.mask(column == "", None)


def _typed_one(name: str, column: Any, comma: bool, separator: str, told: _Told) -> Any:
    held = _held(column)
    for word in column[column.isin(NOTHING)].unique():
        told.nothing.setdefault(word, []).append(name)
    if len(held) == 0:
        return np.full(len(column), np.nan)
    numbers = _numbers(name, held, comma, separator, told)
    if numbers is None:
        numbers = _without_placeholders(name, held, comma, separator, told)
    if numbers is not None:
        return _with_gaps(numbers, column.index)
    truths = held.str.lower()
    if truths.isin(_TRUTHS).all():
        made = truths.map(_TRUTHS)
        return made.astype(bool) if len(held) == len(column) else made.reindex(column.index)
    found = _dates(name, held, comma, told)
    if found is not None:
        return found.reindex(column.index)
    return held.reindex(column.index)


def _numbers(
    name: str, held: Any, comma: bool, separator: str, told: _Told, *, dressed: bool = True
) -> Any:
    """Return numbers of cells that all are some, also with a currency and the like, else None."""
    if len(held) == 0:
        return None
    # Between commas, a cell without one is as it is elsewhere: 1.234 is no thousand.
    if comma and _all(_COMMA, held) and (separator != "," or _has(",", held)):
        if _has(",", held):
            told.comma.append(name)
        if _all(_POINTS, held):
            told.thousands.append(name)
        plain = held.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
        if _has(",", held) or _has(".", held):
            return _as_numbers(plain)
    if _all(_NUMBER, held):
        return _as_numbers(held)
    if separator == "," and _all(_THOUSANDS, held):
        told.thousands.append(name)
        return _as_numbers(held.str.replace(",", "", regex=False))
    plain = _undecorated(name, held, told) if dressed else None
    if plain is None:
        return None
    return _numbers(name, plain, comma or _comma_in(plain, separator), separator, told)


def _undecorated(name: str, held: Any, told: _Told) -> Any:
    """Return the cells without a currency, a sign for per cent, or marks between thousands.

    Only if all of them are numbers then, and all that have a sign have the same: '5 %' is 5, beside
    '$5' it stays text. None if there is nothing to take away.
    """
    plain, signs, marks = {}, set(), False
    for cell in held.unique():
        found = _DECORATED.fullmatch(cell.translate(_MINUS))
        if found is None or (found["minus"] and found["sign"]):
            return None
        if found["before"] and found["after"]:
            return None
        signs |= {found["before"] or found["after"]} - {""}
        digits = found["digits"]
        if found["mark"]:
            marks, digits = True, digits.replace(found["mark"], "")
        plain[cell] = (found["minus"] or found["sign"]) + digits
    if len(signs) > 1 or all(cell == new for cell, new in plain.items()):
        return None
    made = held.map(plain)
    if any("," in cell.partition(".")[0] and "." in cell for cell in plain.values()):
        if not _all(_THOUSANDS, made):
            return None
        marks, made = True, made.str.replace(",", "", regex=False)  # 1,234.50 is no 1.23
    if not (_all(_NUMBER, made) or _all(_COMMA, made) or _all(_THOUSANDS, made)):
        return None
    for sign in signs:
        told.signs.setdefault(sign, []).append(name)
    if marks:
        told.thousands.append(name)
    return made


def _as_numbers(held: Any) -> Any:
    import pandas as pd

    # Python's own reading of a number is exact, that of faster parsers is not always.
    if not all(map(_WHOLE.fullmatch, held.unique())):
        return pd.Series(list(map(float, held)), index=held.index)
    found = list(map(int, held))
    fits = max(map(abs, found)) <= MOST_WHOLE
    return pd.Series(found, index=held.index, dtype=np.int64 if fits else object)


def _with_gaps(numbers: Any, index: Any) -> Any:
    """Return numbers with gaps; whole ones that float64 would round stay whole, as objects."""
    gaps = len(numbers) < len(index)
    if gaps and numbers.dtype.kind == "i" and numbers.abs().max() > MOST_EXACT:
        numbers = numbers.astype(object)
    return numbers.reindex(index)


def _without_placeholders(name: str, held: Any, comma: bool, separator: str, told: _Told) -> Any:
    """Return numbers where all that is none stands for nothing; tell what keeps it from that."""
    rest = held[~held.isin(PLACEHOLDERS)]
    numbers = _numbers(name, rest, comma, separator, told) if len(rest) < len(held) else None
    if numbers is not None:
        for word in held[held.isin(PLACEHOLDERS)].unique():
            told.nothing.setdefault(word, []).append(name)
        return numbers
    wrong = not_numbers(held)
    if 0 < len(wrong) < _MOSTLY * len(held):
        told.each.append(
            f"Column '{name}' is text, since {wrong.iloc[0]!r} in row {wrong.index[0] + 1} is no "
            f"number ({len(wrong)} of {len(held)} cells are none)."
        )
    return None


def not_numbers(held: Any) -> Any:
    """Return the cells that are no numbers, with a point or a comma in them."""
    wrong = {
        cell for cell in held.unique() if not (_NUMBER.fullmatch(cell) or _COMMA.fullmatch(cell))
    }
    return held[held.isin(wrong)]


def look_like_dates(held: Any) -> bool:
    """Return whether all cells are written as dates."""
    return _all(_DATE, held)


def _date_formats(first: str, comma: bool) -> list[str]:
    """Return the formats that a date may be written in, the likeliest first."""
    if re.match(r"\d{4}-", first):
        return ["ISO8601"]
    sign = next(sign for sign in "-./" if sign in first)
    year_first = re.match(r"\d{4}", first) is not None
    month_first, day_first = f"%m{sign}%d{sign}%Y", f"%d{sign}%m{sign}%Y"
    both = [day_first, month_first] if sign != "/" or comma else [month_first, day_first]
    formats = [f"%Y{sign}%m{sign}%d"] if year_first else both
    if sign == "/" and re.match(r"\d{1,2}/\d{1,2}/\d\d(\D|$)", first):
        formats = [form.replace("%Y", "%y") for form in formats]
    return [form + time for form in formats for time in ("", " %H:%M", " %H:%M:%S")]


def _dates(name: str, held: Any, comma: bool, told: _Told) -> Any:
    """Return dates of cells that all are some, else None; tell what keeps it from that."""
    import pandas as pd

    as_dates = held.isin({cell for cell in held.unique() if _DATE.fullmatch(cell)})
    if as_dates.sum() <= _MOSTLY * len(held):
        return None
    fitting, fewest, example = [], held, held[as_dates].iloc[0]
    for form in _date_formats(example, comma):
        found = pd.to_datetime(held, format=form, errors="coerce", utc=form == "ISO8601")
        wrong = held[found.isna() | ~as_dates]
        if len(wrong) == 0:
            fitting.append((form, found))
        elif len(wrong) < len(fewest):
            fewest = wrong
    if not fitting:
        if len(fewest) < _MOSTLY * len(held):
            told.each.append(
                f"Column '{name}' is text, since {fewest.iloc[0]!r} in row {fewest.index[0] + 1} "
                f"is no date like {example!r} ({len(fewest)} of {len(held)} cells are "
                "none): mend the cells or leave them empty to have dates."
            )
        return None
    form, found = fitting[0]
    told.dates.append(name)
    doubtful = len(fitting) > 1
    known = form.startswith(("%d", "%m")) and not (doubtful and found.equals(fitting[1][1]))
    if known:
        told.orders[name] = "day" if form.startswith("%d") else "month"
    if known and doubtful:
        told.each.append(
            f"Dates of column '{name}' are read with the {told.orders[name]} first, "
            f"{held.iloc[0]!r} as {found.iloc[0]:%Y-%m-%d}; write "
            f"{found.iloc[0]:%Y-%m-%d} to be sure."
        )
    if form == "ISO8601":
        if has_offsets(held):
            told.each.append(told_offsets(name))
        return found.dt.tz_localize(None)
    return found

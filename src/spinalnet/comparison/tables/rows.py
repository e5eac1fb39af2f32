"""The table of a run, and which of its rows train and which test: read, drawn and checked.

What cannot be compared on is refused here in one sentence, before anything is written.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spinalnet._checks import InputError
from spinalnet.data import Resample, Table, draw_parts, load_table
from spinalnet.data.columns import column_kind, is_frame, rows_in_words

if TYPE_CHECKING:
    from spinalnet.comparison.tables.spec import TableSpec

FEWEST_ROWS = 10
"""Rows below which a test part is a row or two, whose score says nothing."""

INNER_FOLDS = 3
"""Parts of the training rows, each of which scores the trials of tuning once."""


@dataclass(frozen=True)
class TableRows:
    """A table, and which of its rows train and which test.

    Attributes:
        table: The features without the columns of groups and times, which stand beside them.
        train: Numbers of the training rows, rising.
        test: Numbers of the test rows, rising.
        classes: Of a classification all classes of the table, sorted; of a regression none.
    """

    table: Table
    train: np.ndarray
    test: np.ndarray
    classes: tuple[Any, ...]

    @property
    def outputs(self) -> int:
        """Number of values to predict of a row; of a classification one."""
        return 1 if np.ndim(self.table.y) == 1 else np.shape(self.table.y)[1]

    def features(self, rows: np.ndarray) -> Any:
        """Return the features of some rows, as the table holds them."""
        return _pick(self.table.X, rows)

    def targets(self, rows: np.ndarray) -> Any:
        """Return the targets of some rows, as the table holds them."""
        return _pick(self.table.y, rows)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Return the targets of some rows as numbers: of classes their places in `classes`."""
        values = np.asarray(self.targets(rows))
        if self.table.task == "regression":
            return values.astype(np.float64)
        return np.searchsorted(np.asarray(self.classes), values).astype(np.int64)

    def inner(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (training rows, scoring rows) of every fold of tuning: numbers in the table.

        They are parts of `train`, drawn by the same rules as train and test.
        """
        return [self._part(Resample("fold", k, INNER_FOLDS)) for k in range(INNER_FOLDS)]

    def _part(self, resample: Resample) -> tuple[np.ndarray, np.ndarray]:
        rows = self.train
        train, test = _draw(self.table, resample, rows, "the cross-validation of tune")
        return rows[train], rows[test]


def _pick(values: Any, rows: np.ndarray) -> Any:
    return values.iloc[rows] if hasattr(values, "iloc") else values[rows]


@dataclass(frozen=True)
class _Loaded:
    """What was loaded last in this process: many runs ask for one table."""

    asked: tuple[Any, ...]
    table: Table
    source: Any = None  # held, so that no other frame takes its identity


_last: _Loaded | None = None


def load(spec: TableSpec) -> Table:
    """Return the table of a run.

    Raises:
        InputError: If it cannot be read, or lacks a column.
    """
    global _last
    frame = spec.frame
    asked: tuple[Any, ...] = (spec.group, spec.time, spec.ignore)
    if frame is not None:
        asked = (*asked, id(frame))
    else:
        asked = (*asked, spec.table, spec.target, spec.task)
        path = Path(spec.table)
        if path.is_file():  # one that has changed is another
            state = path.stat()
            asked = (*asked, str(path.absolute()), state.st_mtime_ns, state.st_size)
    if _last is None or _last.asked != asked:
        columns: Any = {"group": spec.group, "time": spec.time, "ignore": spec.ignore}
        if frame is not None:
            table = frame.ready(**columns)
        else:
            table = load_table(spec.table, spec.target, spec.task, **columns)
        _last = _Loaded(asked, table, frame)
    return _last.table


def rows_of(spec: TableSpec) -> TableRows:
    """Load the table of a run and draw its training and test rows.

    Raises:
        InputError: If the table cannot be had, or be compared on, or be divided so.
    """
    table = load(spec)
    _check_table(table, spec.resample, tuned=spec.tune > 0)
    every = np.arange(len(table.y))
    train, test = _draw(table, spec.resample, every, spec.unit.name)
    classes = ()
    if table.task == "classification":
        classes = tuple(np.unique(np.asarray(table.y)).tolist())
    rows = TableRows(table, train, test, classes)
    if spec.tune:
        rows.inner()
    return rows


def digest(table: Table) -> str:
    """Return a short text that differs for tables that differ in any value."""
    found = hashlib.blake2b(digest_size=8)
    columns = [table.y, table.groups, table.times]
    if is_frame(table.X):
        found.update(repr([str(name) for name in table.X.columns]).encode())
        columns += [table.X[name] for name in table.X.columns]
    else:
        columns.append(table.X)
    for column in columns:
        if hasattr(column, "cat"):
            found.update(repr(column.cat.categories.tolist()).encode())
            column = column.cat.codes
        values = np.asarray(column)
        if values.dtype.kind == "O":
            found.update(repr(values.tolist()).encode())
        else:
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _draw(
    table: Table, resample: Resample, among: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a part of some rows; see that it can be learned from and scored."""
    y = np.asarray(table.y)[among]
    by_class = table.task == "classification"
    try:
        train, test = draw_parts(
            resample,
            len(among),
            strata=y if by_class else None,
            groups=None if table.groups is None else np.asarray(table.groups)[among],
            times=None if table.times is None else np.asarray(table.times)[among],
        )
    except InputError as error:
        raise InputError(f"{table.name} cannot be divided ({where}): {error}") from error
    if by_class:
        _check_classes(table, y[train], y[test], where)
        return train, test
    if len(test) < 2:
        raise InputError(
            f"R² needs at least 2 test rows, got {len(test)} of {table.name} ({where}): give more "
            "rows, or fewer folds."
        )
    values = y[train].astype(float).reshape(len(train), -1)
    if len(train) < 2 or np.any(values.max(axis=0) == values.min(axis=0)):
        raise InputError(
            f"the target of {table.name} is constant in the training rows ({where}): there is "
            "nothing to learn there. Give more rows, or fewer folds."
        )
    return train, test


def _check_classes(table: Table, train: np.ndarray, test: np.ndarray, where: str) -> None:
    known = np.unique(train)
    lacking = np.setdiff1d(test, known).tolist()
    ways = "drop rare classes, join them, or give more rows"
    if table.groups is not None:
        ways += ", or fewer folds, so that no class is that of a few groups alone"
    elif table.times is not None:
        ways += ", or fewer folds, so that no class first comes up when it is tested"
    if lacking:
        raise InputError(
            f"class {lacking[0]!r} of {table.name} is in the test rows but not in the training "
            f"rows ({where}), where nobody can learn it: {ways}."
        )
    if len(known) < 2:
        raise InputError(
            f"the training rows of {table.name} have only one class, {known.tolist()[0]!r} "
            f"({where}): {ways}."
        )


def _check_table(table: Table, resample: Resample, *, tuned: bool) -> None:
    """Refuse a table that cannot be compared on, whichever rows are drawn."""
    rows = len(table.y)
    if len(table.X) != rows:
        raise InputError(f"{table.name} has {len(table.X)} rows of features but {rows} targets.")
    fewest = max(FEWEST_ROWS, resample.count)
    part = resample.fraction if resample.kind == "split" else 1 / resample.count
    if rows < fewest or rows * min(part, 1 - part) < 1:
        divided = f"into {resample.count} folds"
        if resample.kind == "split":
            divided = f"so that {part:g} of them are for the test"
        inside = " and the training rows for tune" if tuned else ""
        raise InputError(
            f"{table.name} has {rows} rows: too few to divide {divided}{inside}; at least "
            f"{fewest} are needed."
        )
    if resample.kind == "split" and resample.index >= rows:
        raise InputError(
            f"{table.name} must have at least as many rows as there are splits, got {rows} rows "
            f"and split {resample.index + 1}: ask for fewer seeds, or give more rows."
        )
    _check_features(table)
    y = np.asarray(table.y)
    if y.ndim > 2 or (y.ndim == 2 and table.task == "classification"):
        raise InputError(
            f"the target of {table.name} must be a column (rows), or for a regression several "
            f"(rows, outputs), got shape {y.shape}."
        )
    if table.task == "classification":
        _check_counts(table.name, y, tuned=tuned)
        return
    finite = np.isfinite(y.astype(float)).reshape(rows, -1).all(axis=1)
    if not finite.all():
        lost = int(rows - finite.sum())
        raise InputError(
            f"the target of {table.name} is not finite in "
            f"{rows_in_words(np.flatnonzero(~finite))}: leave "
            f"{'them' if lost > 1 else 'it'} out."
        )


def _check_counts(name: str, y: np.ndarray, *, tuned: bool) -> None:
    if y.dtype.kind in "fO" and (missing := sum(map(_is_missing, y.tolist()))):
        raise InputError(
            f"the target of {name} has no class in {missing} row{'s' * (missing > 1)}: leave "
            f"{'them' if missing > 1 else 'it'} out."
        )
    try:
        found, counts = np.unique(y, return_counts=True)
    except TypeError as error:
        raise InputError(
            f"the classes of {name} must be all text or all numbers: turn them into text."
        ) from error
    names = found.tolist()  # plain values, for the sentences
    if len(names) < 2:
        raise InputError(f"the target of {name} has only one class, {names[0]!r}.")
    needed = 4 if tuned else 2
    if counts.min() < needed:
        few = int(counts.min())
        raise InputError(
            f"class {names[counts.argmin()]!r} of {name} has {few} row{'s' * (few > 1)}, but a "
            f"training and a test part{' with tune' if tuned else ''} need {needed} of each class: "
            "drop rare classes, join them, or use task=regression for numbers."
        )


def _is_missing(value: Any) -> bool:
    nothing = value is None or type(value).__name__ in ("NAType", "NaTType")
    return nothing or (isinstance(value, float) and value != value)


def _check_features(table: Table) -> None:
    """Refuse numbers that are infinite, and in a bare array those that are missing."""
    X = table.X
    if not is_frame(X):
        values = np.asarray(X)
        if values.ndim != 2 or values.dtype.kind not in "fiub":
            raise InputError(
                f"the features of {table.name} must be a data frame, or numbers (rows, columns), "
                f"got {values.dtype} of shape {values.shape}."
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"the features of {table.name} hold numbers that are not finite: in an array that "
                "is more often a mistake than a missing value, which a data frame may hold."
            )
        return
    for name, dtype in zip(X.columns, X.dtypes, strict=True):
        if column_kind(str(name), dtype) != "numeric":
            continue
        infinite = np.flatnonzero(np.isinf(np.asarray(X[name], dtype=float)))
        if len(infinite):
            raise InputError(
                f"column '{name}' of {table.name} holds infinite numbers in "
                f"{rows_in_words(infinite)}: leave those rows out, or mend their values."
            )

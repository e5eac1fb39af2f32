"""What the user of a table should look at: columns that give the target away, or say nothing.

Nothing is changed here; every finding is a sentence that names the column.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from spinalnet._checks import some

_FEWEST = 20
"""Rows below which anything can look like anything."""

_IDENTIFIER = re.compile(r"(^|[^a-z])(id|uid|uuid|key|nr|no|number|index)$", re.IGNORECASE)
_WEIGHT = re.compile(r"wgt|weight|(^|_)wt($|_)", re.IGNORECASE)
_UNRELATED = 0.05


def notes_on(X: Any, y: Any, task: str) -> list[str]:
    """Return sentences about columns, and about rows that repeat others.

    Args:
        X: Frame of pandas as `Table.ready` makes it.
        y: Classes or values `(N,)`, or values `(N, outputs)`.
        task: "classification" or "regression".
    """
    y = np.asarray(y)
    if len(X) < _FEWEST or len(X) != len(y):
        return []
    if task == "classification" and y.ndim == 1:
        y = _codes(y)
    if y.dtype.kind not in "iuf" or not np.isfinite(y).all():
        return []
    notes = [note for name in X.columns for note in _on_column(str(name), X[name], y, task)]
    repeated = int(X.assign(**{"": _codes(y)}).duplicated().sum())
    if repeated:
        notes.append(
            f"{repeated} row{'s repeat' if repeated > 1 else ' repeats'} an earlier one, target "
            "included: where one trains and its copy tests, memory is scored. Drop copies, or keep "
            "them together with group=."
        )
    return notes


def _codes(y: np.ndarray) -> np.ndarray:
    """Return a number for every different target."""
    import pandas as pd

    if y.ndim > 1:
        return np.unique(y, axis=0, return_inverse=True)[1].reshape(-1)
    return pd.factorize(y)[0]


def _on_column(name: str, column: Any, y: np.ndarray, task: str) -> list[str]:
    if column.dtype.kind == "O":  # text and categories
        found = _identifier_of_text(name, column)
        return found or _copy_of_text(name, column, y, task)
    values = _as_numbers(column)
    if not np.isfinite(values).all() or values.min() == values.max():
        return []
    gives_away = y.ndim == 1 and _orders(values, y, task)
    counts_rows = len(np.unique(values)) == len(values) and np.ptp(values) == len(values) - 1
    if counts_rows and _is_sorted(values):
        told = (
            f"Column '{name}' counts the rows: it says nothing about a new one; "
            f"leave it out{_how(name)}."
        )
        if y.ndim == 1 and _in_blocks(y, task):
            told = (
                f"Column '{name}' counts the rows, which are sorted by the target: it gives the "
                f"target away here and says nothing about a new row; leave it out{_how(name)}."
            )
        return [told]
    whole = bool((values == np.round(values)).all())
    named = _IDENTIFIER.search(name) is not None
    if whole and (counts_rows or (named and len(np.unique(values)) > 0.9 * len(values))):
        return [_looks_like_identifier(name)]
    if gives_away:
        return [_gives_away(name)]
    large = whole and values.min() > 0 and np.median(values) >= 100
    if large and _WEIGHT.search(name) and _related(values, y, task) < _UNRELATED:
        return [
            f"Column '{name}' looks like a survey weight, how many people a row stands for: it "
            f"describes no row; leave it out{_how(name)}, or give it as sample_weight."
        ]
    return []


def _as_numbers(column: Any) -> np.ndarray:
    if column.dtype.kind == "M":
        values = column.to_numpy(dtype="datetime64[us]")
        return np.where(np.isnat(values), np.nan, values.astype(np.int64).astype(float))
    return column.to_numpy(dtype=float, na_value=np.nan)


def _how(name: str) -> str:
    """Say with which argument a column is left out."""
    return f" (ignore={name})" if re.fullmatch(r"[\w+-]+", name) else f" (ignore='{name}')"


def _looks_like_identifier(name: str) -> str:
    return (
        f"Column '{name}' looks like an identifier, with a value of its own in (nearly) every row: "
        f"it says nothing about a new one; leave it out{_how(name)}."
    )


def _gives_away(name: str) -> str:
    return (
        f"Column '{name}' gives the target away: alone it predicts every row. Leave it out"
        f"{_how(name)} if it would not be known beforehand."
    )


def _identifier_of_text(name: str, column: Any) -> list[str]:
    held = column.dropna().astype(str)
    if len(held) < _FEWEST or held.nunique() <= 0.99 * len(held):
        return []
    return [] if held.str.contains(r"\s").mean() > 0.5 else [_looks_like_identifier(name)]


def _copy_of_text(name: str, column: Any, y: np.ndarray, task: str) -> list[str]:
    """Tell of levels of which each has one target only, and rows enough that it is no chance."""
    import pandas as pd

    if y.ndim > 1:
        return []
    targets = pd.Series(_codes(y))
    levels = column.astype(object).reset_index(drop=True)
    counts: Any = targets.groupby(levels.fillna("")).agg(["nunique", "count"])
    alone = int(counts["nunique"].to_numpy().max()) == 1 and counts["count"].mean() >= 3
    return [_gives_away(name)] if alone and targets.nunique() > 1 else []


def _is_sorted(values: np.ndarray) -> bool:
    steps = np.diff(values)
    return bool((steps > 0).all() or (steps < 0).all())


def _in_blocks(y: np.ndarray, task: str) -> bool:
    """Whether rows are sorted by the target."""
    if task == "classification":
        return int((y[1:] != y[:-1]).sum()) == len(np.unique(y)) - 1
    steps = np.diff(y)
    return bool((steps >= 0).all() or (steps <= 0).all())


def _orders(values: np.ndarray, y: np.ndarray, task: str) -> bool:
    """Whether a column alone predicts the target: one class between limits, or along a line."""
    order = np.argsort(values, kind="stable")
    if task == "regression":
        y = y.astype(float)
        spread = values.std() * y.std()
        if not spread:
            return False
        along = float(((values - values.mean()) * (y - y.mean())).mean() / spread)
        return abs(along) > 1 - 1e-9
    if not _in_blocks(y[order], task):
        return False
    ends = np.flatnonzero(y[order][1:] != y[order][:-1])
    return bool((values[order][ends] < values[order][ends + 1]).all())


def _related(values: np.ndarray, y: np.ndarray, task: str) -> float:
    """Return the largest rank correlation of a column with the target or one of its classes."""
    import pandas as pd

    if y.ndim > 1:
        targets = list(y.T)
    elif task == "regression":
        targets = [y]
    else:
        targets = [y == one for one in range(min(20, int(y.max()) + 1))]
    ranks = pd.Series(values).rank().to_numpy()
    found = [
        np.corrcoef(ranks, pd.Series(one).rank().to_numpy())[0, 1]
        for one in targets
        if len(np.unique(one)) > 1
    ]
    return float(np.max(np.abs(found), initial=0.0))


def empty_columns(X: Any) -> list[str]:
    """Return the names of columns without any value."""
    return [str(name) for name in X.columns if X[name].isna().all()]


def told_empty(names: list[str]) -> list[str]:
    """Return a sentence about columns without any value, none if there are none."""
    if not names:
        return []
    several = len(names) > 1
    shown = some([f"'{name}'" for name in names], 5)
    return [
        f"Column{'s' * several} {shown} {'have' if several else 'has'} no value in any row: "
        f"{'they are' if several else 'it is'} no feature{'s' * several}."
    ]


def told_text(X: Any) -> list[str]:
    """Return a sentence about columns with too many different values for categories."""
    names = [str(c) for c in X.columns if X[c].dtype.kind == "O" and not hasattr(X[c], "cat")]
    if not names:
        return []
    several = "s" * (len(names) > 1)
    return [
        f"Text, not categories, for its many different values: column{several} "
        f"{some([repr(name) for name in names], 5)}."
    ]

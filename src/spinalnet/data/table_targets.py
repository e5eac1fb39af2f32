"""What a table is to predict: the columns by name, their values, and whether they are classes."""

from __future__ import annotations

import unicodedata
from typing import Any, Literal

import numpy as np

from spinalnet._checks import InputError, unknown_name
from spinalnet.data.columns import (
    MOST_WHOLE,
    as_float,
    as_objects,
    check_names,
    kind_of,
    objects,
    rows_in_words,
)
from spinalnet.data.typed_columns import look_like_dates, not_numbers

Task = Literal["classification", "regression"]


def names_in(target: str) -> set[str]:
    """Return every name that a target may mean: itself, and what it may be a list of."""
    pieces = target.split(",")
    names = {target, *pieces, *(piece.strip() for piece in pieces)}
    return names | {unicodedata.normalize(form, one) for form in ("NFC", "NFD") for one in names}


def find_targets(target: str, columns: list[str], hint: str) -> list[str]:
    """Return the columns that a target names: one exactly, else several with commas between."""
    found = find_columns(target, columns, hint=hint)
    check_names(found, "the target")
    return found


def find_columns(
    names: str, columns: list[str], what: str = "column", *, hint: str = ""
) -> list[str]:
    """Return the columns that a text names: one exactly, else several with commas between.

    Args:
        names: The text.
        columns: All there are.
        what: What such a column is called in sentences.
        hint: Said behind the refusal of a name that is none.

    Raises:
        InputError: If there is no such column.
    """

    def find(name: str) -> str | None:
        plain = unicodedata.normalize("NFC", name)
        same = [one for one in columns if unicodedata.normalize("NFC", one) == plain]
        return name if name in columns else same[0] if same else None

    if (exact := find(names)) is not None:
        return [exact]
    found = []
    for piece in names.split(","):
        name = find(piece) or find(piece.strip())
        if name is None:
            error = unknown_name(what, piece.strip(), columns)
            raise InputError(f"{error} {hint}") if hint else error
        found.append(name)
    return found


def check_typo(name: str, column: Any, task: str) -> None:
    """Refuse dates, and a word among numbers, which would make a regression a classification."""
    import pandas as pd

    if task == "classification" or column.dtype.kind != "O":
        return
    held = pd.Series([str(value) for value in column], index=column.index)
    if look_like_dates(held):
        raise InputError(
            f"the target column '{name}' holds dates ({held.iloc[0]}): turn them into a number (of "
            "days, say) to predict; if these are classes, use task=classification."
        )
    wrong = not_numbers(held)
    if not len(wrong) or (task == "auto" and 2 * len(wrong) > len(held)):
        return
    right = held.drop(wrong.index).str.replace(",", ".")
    rest = pd.Series(pd.to_numeric(right, errors="coerce")).dropna()
    if task == "auto" and (rest.empty or detect_task(rest) == "classification"):
        return
    raise InputError(
        f"the target column '{name}' holds numbers, but {wrong.iloc[0]!r} in row "
        f"{wrong.index[0] + 1}{_and_more(len(wrong) - 1)}: mend the cell or leave it empty; if "
        "these are classes, use task=classification."
    )


def _and_more(count: int) -> str:
    return f" (and {count} more like it)" if count > 0 else ""


def typed_targets(y: Any, names: list[str]) -> Any:
    """Return targets as numbers of NumPy where they are numbers; refuse dates and infinity."""
    import pandas as pd

    made = {}
    for name in names:
        column = y[name]
        kind = kind_of(name, column)
        if kind == "date":
            raise InputError(
                f"the target column '{name}' holds dates: turn them into a number (of days, say) "
                "to predict."
            )
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"
        if kind == "number":
            values = column.to_numpy() if plain else _numbers_or_infinity(column)
            if infinite := np.isinf(values.astype(float)).sum():
                places = column.index[np.isinf(values.astype(float))]
                raise InputError(
                    f"the target column '{name}' is infinite in {rows_in_words(places)}: leave "
                    f"{'them' if infinite > 1 else 'it'} out, or mend "
                    f"{'their values' if infinite > 1 else 'its value'}."
                )
        else:
            values = column.to_numpy() if plain else as_objects(objects(column))
        made[name] = pd.Series(values, index=column.index)
    return pd.DataFrame(made)


def _numbers_or_infinity(column: Any) -> Any:
    """Return numbers of any type as float64; whole ones stay whole.

    Those that int64 cannot hold, and that float64 would make equal, are text, as classes are.
    """
    held = objects(column)
    whole = all(isinstance(value, int) for value in held)
    if whole and max(map(abs, held)) <= MOST_WHOLE:
        return np.asarray(held, dtype=np.int64)
    found = np.asarray(list(map(as_float, held)), dtype=np.float64)
    if whole and len(np.unique(found)) < len(set(held)):
        return as_objects(list(map(str, held)))
    return found


def target_values(y: Any, task: str) -> Any:
    """Return classes as whole numbers or text, `(N,)`; values as float64, `(N,)` or `(N, outputs)`.

    Raises:
        InputError: If the task takes no such target.
    """
    if task == "classification":
        if y.ndim > 1:
            raise InputError("a classification has one target column; task=regression takes many.")
        values = y.to_numpy()
        if values.dtype.kind == "f" and (values == np.round(values)).all():
            values = values.astype(np.int64)  # whole ones that stood beside gaps
        return values if values.dtype.kind in "iu" else y.astype(str).to_numpy()
    try:
        return y.to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(
            "a regression needs a target of numbers; use task=classification."
        ) from error


def detect_task(y: Any) -> Task:
    """Say whether a target column (or several) holds classes or numbers to predict."""
    import pandas as pd

    columns = [y] if y.ndim == 1 else [y[name] for name in y.columns]
    if len(columns) > 1:
        return "regression"
    column = columns[0]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return "classification"
    values = column.to_numpy(dtype=float)
    whole = bool((values == values.round()).all())
    few = len(set(values.tolist())) <= max(2, min(20, len(values) // 10))
    return "classification" if whole and few else "regression"

"""What a column of a data frame holds: numbers or categories."""

from __future__ import annotations

from typing import Any


def is_frame(X: Any) -> bool:
    """Return whether `X` has named columns that each have a type (pandas, polars)."""
    return hasattr(X, "columns") and hasattr(X, "dtypes")


def column_kind(name: str, dtype: Any) -> str:
    """Return "numeric" or "categorical" for the type of a pandas or polars column."""
    if hasattr(dtype, "is_numeric"):  # polars
        if dtype.is_numeric() or str(dtype) == "Boolean":
            return "numeric"
        if str(dtype).split("(")[0] in {"String", "Categorical", "Enum"}:
            return "categorical"
    else:
        import pandas as pd

        if pd.api.types.is_complex_dtype(dtype):
            raise ValueError(f"Complex data not supported: column {name!r} has type {dtype}.")
        if pd.api.types.is_numeric_dtype(dtype):
            return "numeric"
        kinds = pd.CategoricalDtype, pd.StringDtype
        if isinstance(dtype, kinds) or pd.api.types.is_object_dtype(dtype):
            return "categorical"
    raise ValueError(
        f"Column {name!r} has type {dtype}, which is neither a number nor a category. Turn it into "
        "numbers (a date into days, for example) or drop it."
    )

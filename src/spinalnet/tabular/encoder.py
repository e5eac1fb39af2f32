"""Tables as numbers: imputed, one-hot encoded, standardised."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from spinalnet.data.columns import column_kind, is_frame


def _numbers(column: Any) -> np.ndarray:
    """Return a numeric column as float64, missing values as NaN."""
    if hasattr(column, "to_list") and not hasattr(column, "iloc"):  # polars
        values = [math.nan if value is None else value for value in column.to_list()]
        return np.asarray(values, dtype=np.float64)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _categories(column: Any) -> np.ndarray:
    """Return a categorical column as objects, missing values as None."""
    plain = np.empty(len(column), dtype=object)
    if hasattr(column, "isna"):  # pandas has several kinds of missing
        plain[:] = [
            None if gone else value for value, gone in zip(column, column.isna(), strict=True)
        ]
    else:
        plain[:] = column.to_list()
    return plain


class Encoder:
    """Turns `X` into standardised numbers: numeric columns first, then the categories.

    Fitted once; scikit-learn's imputer, encoder and scaler do the work.
    """

    def __init__(self, X: Any, weights: np.ndarray | None) -> None:
        self.imputer: SimpleImputer | None = None
        self.one_hot: OneHotEncoder | None = None
        self.numeric: list[str] | None = None
        self.categorical: list[str] = []
        if is_frame(X):
            kinds = [column_kind(str(c), t) for c, t in zip(X.columns, X.dtypes, strict=True)]
            named = list(zip(X.columns, kinds, strict=True))
            self.numeric = [name for name, kind in named if kind == "numeric"]
            self.categorical = [name for name, kind in named if kind == "categorical"]
            # The mark of a missing value stays visible as a column of its own.
            self.imputer = SimpleImputer(
                strategy="median", add_indicator=True, keep_empty_features=True
            )
            if self.numeric:
                self.imputer.fit(self._numeric_values(X))
            if self.categorical:
                self.one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
                self.one_hot.fit(self._categorical_values(X))
        values = self._imputed(X)
        self.scaler = StandardScaler()
        if values.shape[1]:
            self.scaler.fit(values, sample_weight=weights)

    def _numeric_values(self, X: Any) -> np.ndarray:
        if not is_frame(X):
            return X
        assert self.numeric is not None
        columns = [_numbers(X[name]) for name in self.numeric]
        values = np.column_stack(columns) if columns else np.empty((len(X), 0))
        if np.isinf(values).any():
            raise ValueError("Input X contains infinity or a value too large for dtype('float64').")
        return values

    def _categorical_values(self, X: Any) -> np.ndarray:
        if not is_frame(X):
            raise ValueError(
                f"X must be a data frame with the columns {', '.join(map(str, self.categorical))}, "
                f"as in fit, got {type(X).__name__}."
            )
        return np.column_stack([_categories(X[name]) for name in self.categorical])

    def _imputed(self, X: Any) -> np.ndarray:
        values = self._numeric_values(X)
        if self.imputer is not None and values.shape[1]:
            values = self.imputer.transform(values)
        return np.asarray(values)

    def names(self, columns: list[str]) -> list[str]:
        """Return a name for every number that `transform` makes, given those of the columns."""
        if self.numeric is None:
            return columns
        names = [str(name) for name in self.numeric]
        if self.imputer is not None and names:
            names = [
                str(name).replace("missingindicator_", "missing ")
                for name in self.imputer.get_feature_names_out(names)
            ]
        if self.one_hot is None:
            return names
        categories = [str(name) for name in self.categorical]
        return names + [str(name) for name in self.one_hot.get_feature_names_out(categories)]

    def transform(self, X: Any) -> np.ndarray:
        """Return the numbers, `(N, features)`."""
        categories = None if self.one_hot is None else self._categorical_values(X)
        values = self._imputed(X)
        if values.shape[1]:
            values = np.asarray(self.scaler.transform(values))
        if self.one_hot is None:
            return values
        return np.hstack([values, np.asarray(self.one_hot.transform(categories))])

"""Tables as numbers: every column by what it holds, gaps filled, all of it standardised.

What is learned is plain data (`Encoder.state`): text, numbers, lists and arrays, so that it can be
written to any file and computed elsewhere without this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler

from spinalnet._checks import InputError, some
from spinalnet.data.columns import check_names, column_of, is_frame
from spinalnet.tabular.column_encodings import ENCODINGS, Encoding, encoding_of, fit_encoding


@dataclass(frozen=True)
class EncodedColumn:
    """Where a column of a table went.

    Attributes:
        kind: "number", "boolean", "date", "category" or "text".
        name: Its name in the table; in an array its place.
        outputs: Its places among the numbers that `transform` makes; empty if it says nothing.
        encoding: How it is encoded, with what it has learned; None for a column of an array,
            which is only standardised.
    """

    kind: str
    name: str | int
    outputs: slice
    encoding: Encoding | None


class Encoder:
    """Turns `X` into standardised numbers: numbers first, then dates, categories and text.

    A bare array holds numbers only, which are standardised. The columns of a frame are found by
    their names.

    Attributes:
        columns: The columns in the order of what `transform` makes.
        mean: What is subtracted from every number, `(features,)`; 0 where nothing is scaled.
        scale: What it is divided by then, `(features,)`.
        by_name: Whether it was fitted to a frame, in which a gap is a missing value.
    """

    def __init__(self, X: Any, weights: np.ndarray | None) -> None:
        """Learn from a frame or an array, with a weight of every row or None.

        Raises:
            InputError: If a column is of no use, or infinite, or none says anything.
        """
        self.by_name = is_frame(X)
        encodings: list[Encoding] = []
        if self.by_name:
            check_names(X.columns, "X")
            for place, name in enumerate(X.columns):
                name = _plain_name(name)
                encodings.append(fit_encoding(name, place, column_of(X, name, place)))
            encodings.sort(key=lambda one: list(ENCODINGS).index(one.kind))
        self._place(encodings, 0 if self.by_name else X.shape[1])
        kept = self._scaled()
        if not len(kept):
            raise InputError(
                "X must have a column that holds a value, but all of them are empty: "
                f"{some(list(X.columns), 5)}."
            )
        self.mean, self.scale = np.zeros(len(kept)), np.ones(len(kept))
        if kept.any():
            scaler = StandardScaler().fit(self._raw(X, scaled=True), sample_weight=weights)
            self.mean[kept], self.scale[kept] = scaler.mean_, scaler.scale_

    def _place(self, encodings: list[Encoding], width: int) -> None:
        """Give every column its places."""
        self.columns: list[EncodedColumn] = [
            EncodedColumn("number", place, slice(place, place + 1), None) for place in range(width)
        ]
        begin = 0
        for one in encodings:
            outputs = slice(begin, begin + one.width)
            self.columns.append(EncodedColumn(one.kind, one.name, outputs, one))
            begin = outputs.stop

    def _scaled(self) -> np.ndarray:
        """Return which numbers are standardised, `(features,)`."""
        parts = [
            np.full(c.outputs.stop - c.outputs.start, c.encoding is None or c.encoding.scaled)
            for c in self.columns
        ]
        return np.concatenate(parts)

    @property
    def needs_frame(self) -> bool:
        """Whether it was fitted to more than numbers, so that no array can stand for the frame."""
        return any(column.kind not in ("number", "boolean") for column in self.columns)

    def _raw(self, X: Any, *, scaled: bool = False) -> np.ndarray:
        """Return what the columns make, `(rows, features)`; `scaled`: what is then standardised."""
        # In one order of memory: sums over it round by that, and a frame is to be as its array.
        if not self.by_name:
            return np.ascontiguousarray(X)
        X = self._frame(X)
        parts = [
            column.encoding.encode(column_of(X, column.name, column.encoding.place))
            for column in self.columns
            if column.encoding is not None and (column.encoding.scaled or not scaled)
        ]
        return np.ascontiguousarray(np.hstack(parts))

    def _frame(self, X: Any) -> Any:
        """Return a frame, or an array of numbers that may stand for it."""
        if is_frame(X):
            return X
        if self.needs_frame:
            others = [c.name for c in self.columns if c.kind not in ("number", "boolean")]
            raise InputError(
                f"X must be a data frame with the columns {', '.join(map(str, others))}, as in "
                f"fit, got {type(X).__name__}."
            )
        return np.asarray(X)

    def transform(self, X: Any) -> np.ndarray:
        """Return the numbers, `(rows, features)`; float32 of a float32 array, else float64.

        Raises:
            InputError: If a value is not what its column held; column and row are named.
        """
        raw = self._raw(X)
        made = raw.copy() if raw is X else raw
        if made.dtype.kind != "f":
            made = made.astype(np.float64)
        made -= self.mean.astype(made.dtype)
        made /= self.scale.astype(made.dtype)
        return made

    def shared(self, X: Any) -> Any:
        """Return the same columns for models that standardise nothing: trees, for one.

        Returns:
            A frame of pandas: numbers as they are, with gaps as NaN; dates and text as the numbers
            they are for nets; categories as categories, with the levels a net knows. Columns
            without a value in fit are not in it. An array comes back as it is.
        """
        if not self.by_name:
            return X
        import pandas as pd

        frame, made = self._frame(X), {}
        for column in sorted((c for c in self.columns if c.encoding), key=_place_of):
            assert column.encoding is not None
            found = column.encoding.shared(column_of(frame, column.name, column.encoding.place))
            for name, values in found.items():
                # A part of a date may be called as another column is: 'day month' beside 'day'.
                made[name if name not in made else f"{name} #{len(made)}"] = values
        return pd.DataFrame(made)

    def names(self, columns: list[str]) -> list[str]:
        """Return a name for every number that `transform` makes, given those of the columns."""
        if not self.by_name:
            return columns
        return [name for c in self.columns if c.encoding for name in c.encoding.names()]

    def state(self) -> dict[str, Any]:
        """Return all that was learned: dicts, lists, str, int, float, bool, None and arrays."""
        return {
            "version": 1,
            "by_name": self.by_name,
            "columns": [c.encoding.state() for c in self.columns if c.encoding is not None],
            "mean": self.mean,
            "scale": self.scale,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Encoder:
        """Return an encoder from `state()`, whose `transform` gives the same bits.

        Raises:
            InputError: If a newer version wrote it.
        """
        if type(state["version"]) is not int or state["version"] != 1:
            raise InputError(
                f"the encoding must be of version 1, got {state['version']}: update spinalnet."
            )
        made = cls.__new__(cls)
        made.by_name = state["by_name"]
        made.mean, made.scale = np.asarray(state["mean"]), np.asarray(state["scale"])
        encodings = [encoding_of(one) for one in state["columns"]]
        made._place(encodings, 0 if made.by_name else len(made.mean))
        return made


def _plain_name(name: Any) -> str | int:
    if isinstance(name, str):
        return str(name)
    if isinstance(name, int | np.integer) and not isinstance(name, bool):
        return int(name)
    raise InputError(f"columns must have names that are text, got {name!r}: rename it.")


def _place_of(column: EncodedColumn) -> int:
    return 0 if column.encoding is None else column.encoding.place

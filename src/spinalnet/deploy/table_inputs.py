"""The columns of a table inside an ONNX graph: one input each, encoded as the model's encoder does.

Numbers and categories come as they lie in the table. A date comes as its parts, unscaled (days
since 1970, month, ...), a text as the numbers that the encoder makes of it: no operator of ONNX
reads a date or hashes letters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spinalnet._checks import InputError
from spinalnet.data.columns import column_of, texts
from spinalnet.deploy.table_graph import Graph
from spinalnet.tabular.encoder import Encoder

OUTSIDE = {"date": "comes as its parts", "text": "comes as the numbers made of it"}
"""Kinds of columns whose encoding no operator can do, and what is done."""


@dataclass(frozen=True)
class TableInputs:
    """The inputs of a graph.

    Attributes:
        encoder: What they stand for.
        names: Name of every input, in order: those of the columns, and of parts of columns.
        kinds: "number" or "text" of every input.
        outside: Columns whose encoding is not in the graph, by kind.
        values: Results of the graph by name of input, `(N, 1)`.
    """

    encoder: Encoder
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    outside: Mapping[str, str]
    values: Mapping[str, str]

    @classmethod
    def of(cls, graph: Graph, encoder: Encoder, columns: Sequence[str]) -> TableInputs:
        """Add the inputs to a graph.

        Args:
            graph: Where to.
            encoder: Of the model.
            columns: Names of the columns of an array, which the encoder does not know.

        Raises:
            InputError: If a category has an empty text among its levels beside missing values,
                which come as an empty text.
        """
        kinds: dict[str, str] = {}
        outside: dict[str, str] = {}
        for column in encoder.columns:
            one = column.encoding
            if one is None:
                kinds[columns[int(column.name)]] = "number"
            elif one.width and column.kind == "category":
                if "" in one.levels and one.missing:
                    raise InputError(
                        f"column '{column.name}' has both empty texts and missing values, which an "
                        "exported model cannot tell apart: give the empty texts a name."
                    )
                kinds[str(column.name)] = "text"
            elif one.width:
                if column.kind in OUTSIDE:
                    outside[str(column.name)] = column.kind
                kinds |= dict.fromkeys(_parts(one), "number")
        values = {name: graph.input(name, kind) for name, kind in kinds.items()}
        return cls(encoder, tuple(kinds), tuple(kinds.values()), outside, values)

    def feeds(self, X: Any) -> dict[str, np.ndarray]:
        """Return what the inputs get for the rows of a table: float64 or text, `(N, 1)`."""
        found: dict[str, np.ndarray] = {}
        for column in self.encoder.columns:
            one = column.encoding
            if one is None:
                found[self.names[int(column.name)]] = np.asarray(X, dtype=np.float64)[
                    :, int(column.name)
                ]
            elif one.width and column.kind == "category":
                said = ["" if text is None else text for text in texts(_column(X, column))]
                found[str(column.name)] = np.array(said, dtype=object)
            elif one.width:
                found |= one.shared(_column(X, column))
        return {name: values.reshape(-1, 1) for name, values in found.items()}

    def encoded(self, graph: Graph) -> str:
        """Add the encoding; return its numbers, standardised, `(N, features)` float64."""
        parts = [self._encoded_column(graph, column) for column in self.encoder.columns]
        whole = graph.add("Concat", *(part for part in parts if part is not None), axis=1)
        centred = graph.add("Sub", whole, graph.constant(self.encoder.mean[None], np.float64))
        return graph.add("Div", centred, graph.constant(self.encoder.scale[None], np.float64))

    def _encoded_column(self, graph: Graph, column: Any) -> str | None:
        one = column.encoding
        if one is None:
            return self.values[self.names[int(column.name)]]
        if not one.width:
            return None
        if column.kind == "category":
            return _one_hot(graph, self.values[str(column.name)], one)
        parts = [self.values[name] for name in _parts(one)]
        if column.kind == "text":
            return graph.add("Concat", *parts, axis=1)
        medians = [one.median] if column.kind in ("number", "boolean") else list(one.medians)
        gone = [graph.add("IsNaN", part) for part in parts]
        filled = [
            graph.add("Where", mark, graph.constant([[median]], np.float64), part)
            for mark, median, part in zip(gone, medians, parts, strict=True)
        ]
        if one.missing:
            filled.append(graph.cast(gone[0], "double"))
        return graph.add("Concat", *filled, axis=1)

    def shared(self, graph: Graph, name: str, categories: Sequence[Any] | None) -> str:
        """Add a column as trees get it: a number, or the code of a category.

        Args:
            graph: Where to.
            name: Name of the column in what `Encoder.shared` returns.
            categories: Of a category the values that the trees know, in the order of their codes;
                everything else, and a missing value, has the code after them.
        """
        if categories is None:
            return self.values[name]
        one = next(column.encoding for column in self.encoder.columns if str(column.name) == name)
        assert one is not None
        codes = {str(value): code for code, value in enumerate(categories)}
        other = len(codes)
        rare = codes.get(one.rare_name(), other) if one.rare else other
        known = {level: codes.get(level, other) for level in one.levels}
        return graph.lookup(self.values[name], {"": other, **known}, rare)


def _parts(encoding: Any) -> list[str]:
    """Return the names of the numbers that stand for a column, its mark of a gap left out."""
    return [name for name in encoding.names() if name != f"missing {encoding.name}"]


def _column(X: Any, column: Any) -> Any:
    return column_of(X, column.name, column.encoding.place)


def _one_hot(graph: Graph, value: str, one: Any) -> str:
    """Add 1 in the place of the level of every row, `(N, width)`; all else is rare, or nothing."""
    count = len(one.levels)
    table = np.zeros((count + 2, one.width))
    table[np.arange(count), np.arange(count)] = 1.0
    if one.rare:
        table[count, count] = 1.0  # what is rare or unknown
    if one.missing:
        table[count + 1, -1] = 1.0
    known = {level: place for place, level in enumerate(one.levels)}
    codes = graph.lookup(value, {"": count + 1, **known}, count)
    flat = graph.add("Reshape", codes, graph.constant([-1], np.int64))
    return graph.add("Gather", graph.constant(table), flat, axis=0)

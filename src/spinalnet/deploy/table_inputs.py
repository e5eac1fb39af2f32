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

OUTSIDE = {
    "date": "a date comes as its parts, unscaled",
    "text": "a text comes as the numbers that the model makes of it",
}
"""Kinds of columns whose encoding no operator can do, and what is done."""


@dataclass(frozen=True)
class TableInputs:
    """The inputs of a graph.

    Attributes:
        encoder: What they stand for; None for trees of an array.
        names: Name of every input, in order: those of the columns, and of parts of columns.
        kinds: What every input takes: "number" (float64) or "text", `(N, 1)`; "numbers" (float64),
            `(N, width)`.
        outside: Kinds of the columns whose encoding is not in the graph.
        values: Results of the graph by name of input.
    """

    encoder: Encoder | None
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    outside: Mapping[str, str]
    values: Mapping[str, str]

    @classmethod
    def of(cls, graph: Graph, encoder: Encoder | None, columns: Sequence[str]) -> TableInputs:
        """Add the inputs to a graph.

        Args:
            graph: Where to.
            encoder: Of the model; None for trees of an array, which take it as it is.
            columns: Names of the columns of an array, which the encoder does not know.

        Raises:
            InputError: If a category has an empty text among its levels beside missing values,
                which come as an empty text.
        """
        kinds: dict[str, str] = {}
        outside: dict[str, str] = {}
        widths: dict[str, int] = {}
        if encoder is None or not encoder.by_name:
            kinds = dict.fromkeys(columns, "number")
        for one in _encodings(encoder):
            if one.kind == "category":
                if "" in one.levels and one.missing:
                    raise InputError(
                        f"column '{one.name}' has both empty texts and missing values, which an "
                        "exported model cannot tell apart: give the empty texts a name."
                    )
                kinds[str(one.name)] = "text"
            else:
                if one.kind in OUTSIDE:
                    outside[str(one.name)] = one.kind
                if one.kind == "text":
                    kinds[_text_name(one)] = "numbers"
                    widths[_text_name(one)] = one.width
                else:
                    kinds |= dict.fromkeys(_parts(one), "number")
        values = {
            name: graph.input(name, kind, widths.get(name, 1)) for name, kind in kinds.items()
        }
        return cls(encoder, tuple(kinds), tuple(kinds.values()), outside, values)

    def feeds(self, X: Any) -> dict[str, np.ndarray]:
        """Return what the inputs get for the rows of a table, shaped and typed as `kinds` says."""
        if self.encoder is None or not self.encoder.by_name:
            rows = np.asarray(X, dtype=np.float64)
            return {name: rows[:, [place]] for place, name in enumerate(self.names)}
        found: dict[str, np.ndarray] = {}
        for one in _encodings(self.encoder):
            column = column_of(X, one.name, one.place)
            if one.kind == "category":
                said = ["" if text is None else text for text in texts(column)]
                found[str(one.name)] = np.array(said, dtype=object)[:, None]
            elif one.kind == "text":
                found[_text_name(one)] = one.encode(column)
            else:
                found |= {name: values[:, None] for name, values in one.shared(column).items()}
        return found

    def encoded(self, graph: Graph) -> str:
        """Add the encoding; return its numbers, standardised, `(N, features)` float64."""
        assert self.encoder is not None
        if self.encoder.by_name:
            parts = [self._encoded_column(graph, one) for one in _encodings(self.encoder)]
        else:
            parts = list(self.values.values())
        whole = graph.add("Concat", *parts, axis=1)
        centred = graph.add("Sub", whole, graph.constant(self.encoder.mean[None], np.float64))
        return graph.add("Div", centred, graph.constant(self.encoder.scale[None], np.float64))

    def _encoded_column(self, graph: Graph, one: Any) -> str:
        if one.kind == "category":
            return _one_hot(graph, self.values[str(one.name)], one)
        if one.kind == "text":
            return self.values[_text_name(one)]
        parts = [self.values[name] for name in _parts(one)]
        medians = [one.median] if one.kind in ("number", "boolean") else list(one.medians)
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
        for text in _encodings(self.encoder):
            if text.kind == "text" and name in text.names():
                place = graph.constant([text.names().index(name)], np.int64)
                return graph.add("Gather", self.values[_text_name(text)], place, axis=1)
        if categories is None:
            return self.values[name]
        one = next(one for one in _encodings(self.encoder) if str(one.name) == name)
        codes = {str(value): code for code, value in enumerate(categories)}
        other = len(codes)
        rare = other
        if one.rare:
            rare = codes.get(one.names()[len(one.levels)].removeprefix(f"{one.name}_"), other)
        known = {level: codes.get(level, other) for level in one.levels}
        return graph.lookup(self.values[name], {"": other, **known}, rare)


def _encodings(encoder: Encoder | None) -> list[Any]:
    """Return the encodings of a frame's columns that say anything, in their order."""
    if encoder is None:
        return []
    found = [column.encoding for column in encoder.columns]
    return [one for one in found if one is not None and one.width]


def _parts(encoding: Any) -> list[str]:
    """Return the names of the numbers that stand for a column, its mark of a gap left out."""
    return [name for name in encoding.names() if name != f"missing {encoding.name}"]


def _text_name(encoding: Any) -> str:
    return f"{encoding.name} text"


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

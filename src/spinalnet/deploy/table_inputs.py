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
        names: Name of every input, in order: those of the columns, and of parts of columns. A part
            whose name a column has is marked with the kind of its own: `when month (date)`.
        kinds: What every input takes: "number" (float64) or "text", `(N, 1)`; "numbers" (float64),
            `(N, width)`.
        outside: Kinds of the columns whose encoding is not in the graph.
        values: Results of the graph by name of input.
        named: Names of inputs by column and part, for columns of a frame.
    """

    encoder: Encoder | None
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    outside: Mapping[str, str]
    values: Mapping[str, str]
    named: Mapping[tuple[str, str], str]

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
        encodings = _encodings(encoder)
        named = _distinct(encodings)
        for one in encodings:
            if one.kind == "category" and "" in one.levels and one.missing:
                raise InputError(
                    f"column '{one.name}' has both empty texts and missing values, which an "
                    "exported model cannot tell apart: give the empty texts a name."
                )
            if one.kind in OUTSIDE:
                outside[str(one.name)] = one.kind
            for part in _parts(one):
                name = named[str(one.name), part]
                kinds[name] = {"category": "text", "text": "numbers"}.get(one.kind, "number")
                widths[name] = one.width if one.kind == "text" else 1
        values = {
            name: graph.input(name, kind, widths.get(name, 1)) for name, kind in kinds.items()
        }
        return cls(encoder, tuple(kinds), tuple(kinds.values()), outside, values, named)

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
                parts = {str(one.name): np.array(said, dtype=object)[:, None]}
            elif one.kind == "text":
                parts = {_text_name(one): one.encode(column)}
            else:
                parts = {part: values[:, None] for part, values in one.shared(column).items()}
            found |= {self.named[str(one.name), part]: values for part, values in parts.items()}
        return found

    def _value(self, one: Any, part: str) -> str:
        """Return the result of the graph for a part of a column."""
        return self.values[self.named[str(one.name), part]]

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
            return _one_hot(graph, self._value(one, str(one.name)), one)
        if one.kind == "text":
            return self._value(one, _text_name(one))
        parts = [self._value(one, part) for part in _parts(one)]
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
        if self.encoder is None or not self.encoder.by_name:
            return self.values[name]
        one, name = _by_shared_name(_encodings(self.encoder))[name]
        if one.kind == "text":
            place = graph.constant([one.names().index(name)], np.int64)
            return graph.add("Gather", self._value(one, _text_name(one)), place, axis=1)
        if categories is None:
            return self._value(one, name)
        codes = {str(value): code for code, value in enumerate(categories)}
        other = len(codes)
        rare = other
        if one.rare:
            rare = codes.get(one.names()[len(one.levels)].removeprefix(f"{one.name}_"), other)
        known = {level: codes.get(level, other) for level in one.levels}
        return graph.lookup(self._value(one, name), {"": other, **known}, rare)


def _encodings(encoder: Encoder | None) -> list[Any]:
    """Return the encodings of a frame's columns that say anything, in their order."""
    if encoder is None:
        return []
    found = [column.encoding for column in encoder.columns]
    return [one for one in found if one is not None and one.width]


def _parts(encoding: Any) -> list[str]:
    """Return the names of what is put in for a column: numbers without a mark of gaps, text."""
    if encoding.kind == "category":
        return [str(encoding.name)]
    if encoding.kind == "text":
        return [_text_name(encoding)]
    return [name for name in encoding.names() if name != f"missing {encoding.name}"]


def _shared_names(encoding: Any) -> list[str]:
    """Return the names of the columns that `Encoding.shared` makes."""
    return encoding.names() if encoding.kind == "text" else _parts(encoding)


def _by_shared_name(encodings: Sequence[Any]) -> dict[str, tuple[Any, str]]:
    """Return column and own name of everything that `Encoder.shared` makes, by the name there."""
    found: dict[str, tuple[Any, str]] = {}
    for one in sorted(encodings, key=lambda one: one.place):
        for name in _shared_names(one):
            found[name if name not in found else f"{name} #{len(found)}"] = one, name
    return found


def _distinct(encodings: Sequence[Any]) -> dict[tuple[str, str], str]:
    """Return a name of its own for every part of a column; a whole column keeps its own."""
    taken = {str(one.name) for one in encodings if str(one.name) in _parts(one)}
    named: dict[tuple[str, str], str] = {}
    for one in encodings:
        for part in _parts(one):
            name = part
            if part != str(one.name):
                while name in taken:
                    name = f"{name} ({one.kind})"
                taken.add(name)
            named[str(one.name), part] = name
    return named


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

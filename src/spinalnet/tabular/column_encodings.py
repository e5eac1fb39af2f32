"""How one column of a table becomes numbers: what it learns, as plain data, and what it makes.

Every encoding is a small frozen class. `fit(name, place, column)` learns it; `encode` gives the
inputs of a net, `(rows, width)` in float64, before they are standardised; `shared` gives what any
other model gets: one named column for every number, categories still categories, and gaps still
gaps where they are numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from spinalnet.data.columns import Kind, coded, dates, kind_of, numbers

MOST_INPUTS = 100
"""Most levels of a category that get an input of their own; the others share one."""

DATE_PARTS = ("elapsed", "month", "day", "weekday", "hour")
"""Numbers of a date: days since 1970-01-01; the month, its day, the weekday (Monday 0); hours."""

TEXT_WIDTH = 30
"""Numbers that a text becomes."""

HASHED = 4096
"""Places that the n-grams of a text are hashed into."""

GRAMS = (3, 4)
"""Fewest and most letters of an n-gram."""

_TEXT_ROWS = 5000  # different texts that the components are found from: bounds time and memory
_TEXT_LETTERS = 500  # of every text, for the same reason
_CHUNK = 4096


@dataclass(frozen=True)
class Encoding:
    """What all encodings share.

    Attributes:
        name: Column of the table that is read.
        place: Its place among the columns.
    """

    name: str | int
    place: int

    kind: ClassVar[Kind]
    scaled: ClassVar[bool] = True
    """Whether the inputs are standardised one by one afterwards."""

    @property
    def width(self) -> int:
        """Number of inputs."""
        return len(self.names())

    def names(self) -> list[str]:
        """Return a name for every input."""
        raise NotImplementedError

    def encode(self, column: Any) -> np.ndarray:
        """Return the inputs, `(rows, width)`, float64; errors name the column and the row."""
        raise NotImplementedError

    def shared(self, column: Any) -> dict[str, Any]:
        """Return columns for other models: numbers `(rows,)`, or a `pandas.Categorical`."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """Return the encoding as plain data."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in plain.items()}
        return {"kind": self.kind, **plain}


@dataclass(frozen=True)
class Numbers(Encoding):
    """Numbers; a gap becomes the median, and has a mark of its own where gaps were learned from.

    Attributes:
        median: Median of what was learned from; None if there was no number, and then no input.
        missing: Whether a gap was among it.
    """

    median: float | None
    missing: bool
    kind: ClassVar[Kind] = "number"

    @classmethod
    def fit(cls, name: str | int, place: int, column: Any) -> Numbers:
        """Learn from a column."""
        values = numbers(str(name), column)
        gone = np.isnan(values)
        median = None if gone.all() else float(np.median(values[~gone]))
        return cls(name, place, median, bool(gone.any()))

    def names(self) -> list[str]:
        """Return a name for every input."""
        if self.median is None:
            return []
        return [str(self.name), *([f"missing {self.name}"] if self.missing else [])]

    def encode(self, column: Any) -> np.ndarray:
        """Return the number, and 1 for a gap."""
        if self.median is None:
            return np.empty((len(column), 0))
        return _filled(numbers(str(self.name), column)[:, None], [self.median], self.missing)

    def shared(self, column: Any) -> dict[str, Any]:
        """Return the numbers, a gap as NaN."""
        if self.median is None:
            return {}
        return {str(self.name): numbers(str(self.name), column)}


@dataclass(frozen=True)
class Booleans(Numbers):
    """Truth as numbers: 0, 1, and gaps as numbers have them."""

    kind: ClassVar[Kind] = "boolean"


@dataclass(frozen=True)
class Dates(Encoding):
    """Dates as numbers: those of `DATE_PARTS` that were not always the same, and gaps as usual.

    Attributes:
        parts: Names of the numbers.
        medians: What a gap becomes.
        missing: Whether a gap was among what was learned from.
    """

    parts: tuple[str, ...]
    medians: tuple[float, ...]
    missing: bool
    kind: ClassVar[Kind] = "date"

    @classmethod
    def fit(cls, name: str | int, place: int, column: Any) -> Dates:
        """Learn from a column."""
        values = _date_numbers(dates(str(name), column))
        gone = np.isnan(values[:, 0])
        known = values[~gone]
        kept = [i for i in range(len(DATE_PARTS)) if len(known) and np.ptp(known[:, i]) > 0]
        kept = kept or ([0] if len(known) else [])
        medians = tuple(float(np.median(known[:, i])) for i in kept)
        parts = tuple(DATE_PARTS[i] for i in kept)
        return cls(name, place, parts, medians, bool(gone.any()))

    def names(self) -> list[str]:
        """Return a name for every input."""
        if not self.parts:
            return []
        marks = [f"missing {self.name}"] if self.missing else []
        return [f"{self.name} {part}" for part in self.parts] + marks

    def _numbers(self, column: Any) -> np.ndarray:
        every = _date_numbers(dates(str(self.name), column))
        return every[:, [DATE_PARTS.index(part) for part in self.parts]]

    def encode(self, column: Any) -> np.ndarray:
        """Return the parts, and 1 for a gap."""
        if not self.parts:
            return np.empty((len(column), 0))
        return _filled(self._numbers(column), self.medians, self.missing)

    def shared(self, column: Any) -> dict[str, Any]:
        """Return the parts, gaps as NaN."""
        values = self._numbers(column) if self.parts else np.empty((len(column), 0))
        return {f"{self.name} {part}": values[:, i] for i, part in enumerate(self.parts)}


@dataclass(frozen=True)
class Categories(Encoding):
    """An input for every level, 1 where it is the row's.

    Levels met once only share an input, and so do those beyond the `MOST_INPUTS` most frequent;
    a level that was never met counts among them. Where there are none such, it gets only zeros.

    Attributes:
        levels: Values as text, sorted.
        rare: Whether there is an input for rare and unknown levels.
        missing: Whether there is one for gaps, since there were some.
    """

    levels: tuple[str, ...]
    rare: bool
    missing: bool
    kind: ClassVar[Kind] = "category"
    scaled: ClassVar[bool] = False

    @classmethod
    def fit(cls, name: str | int, place: int, column: Any) -> Categories:
        """Learn from a column."""
        codes, values = coded(column)
        missing = bool((codes < 0).any())
        counts: Counter[str] = Counter()
        for level, count in zip(
            values, np.bincount(codes[codes >= 0], minlength=len(values)), strict=True
        ):
            if count:
                counts[level] += int(count)
        order = sorted(counts, key=lambda level: (-counts[level], level))
        often = [level for level in order[:MOST_INPUTS] if counts[level] > 1]
        if len(order) - len(often) == 1 and len(order) <= MOST_INPUTS:
            often = order  # a class of one level is that level
        levels = tuple(sorted(often))
        return cls(name, place, levels, len(often) < len(order), missing)

    def _rare_name(self) -> str:
        """Return a name for what is rare that is no level's."""
        name = "(rare)"
        while name in self.levels:
            name = f"({name})"
        return name

    def names(self) -> list[str]:
        """Return a name for every input."""
        shown = [*self.levels, *([self._rare_name()] if self.rare else [])]
        marks = [f"missing {self.name}"] if self.missing and shown else []
        return [f"{self.name}_{level}" for level in shown] + marks

    def codes(self, column: Any) -> np.ndarray:
        """Return the place of every value among the levels, `(rows,)`.

        A rare or unknown one has the place after them; where nothing is rare, an unknown one has
        -1. A gap has -2.
        """
        known = {level: i for i, level in enumerate(self.levels)}
        other = len(self.levels) if self.rare else -1
        codes, values = coded(column)
        places = [*(known.get(level, other) for level in values), -2]
        return np.asarray(places, dtype=np.int64)[codes]  # the last place is that of a gap

    def encode(self, column: Any) -> np.ndarray:
        """Return 1 in the place of the level of every row."""
        codes, width = self.codes(column), self.width
        made = np.zeros((len(codes), width))
        if self.missing and width:
            codes = np.where(codes == -2, width - 1, codes)
        rows = np.flatnonzero(codes >= 0)
        made[rows, codes[rows]] = 1.0
        return made

    def shared(self, column: Any) -> dict[str, Any]:
        """Return categories; gaps, and what is unknown where nothing is rare, have none."""
        import pandas as pd

        if not self.width:
            return {}
        levels = [*self.levels, *([self._rare_name()] if self.rare else [])]
        codes = np.maximum(self.codes(column), -1)
        return {str(self.name): pd.Categorical.from_codes(codes, categories=levels)}


@dataclass(frozen=True)
class Text(Encoding):
    """Text as numbers: its hashed n-grams of letters, on the directions that vary the most.

    The state is one matrix. A library's string encoder (skrub's) is no better off with two seconds
    of importing it and a vocabulary to keep; hashing knows every word, those never met included.

    Attributes:
        components: `(width, HASHED)`, float32.
        mean: Of every number over different texts, `(width,)`.
        scale: Largest spread of one; the same for all, so that what varies little stays small.
    """

    components: np.ndarray
    mean: np.ndarray
    scale: float
    kind: ClassVar[Kind] = "text"
    scaled: ClassVar[bool] = False

    @classmethod
    def fit(cls, name: str | int, place: int, column: Any) -> Text:
        """Learn from a column: directions by a truncated singular value decomposition."""
        from sklearn.utils.extmath import randomized_svd

        codes, values = coded(column)
        different: list[str] = sorted({*values, *([""] if (codes < 0).any() else [])})
        if len(different) > _TEXT_ROWS:
            drawn = np.random.default_rng(0).choice(len(different), _TEXT_ROWS, replace=False)
            different = [different[i] for i in np.sort(drawn)]
        grams = _grams(different)
        width = min(TEXT_WIDTH, len(different))
        _, strength, found = randomized_svd(grams, width, random_state=0)
        found = found[strength > 1e-6 * max(1e-12, strength[0])].astype(np.float32)
        numbers = np.asarray(grams @ found.T, dtype=np.float64)
        spread = numbers.std(axis=0).max(initial=0.0)
        return cls(name, place, found, numbers.mean(axis=0), float(spread) or 1.0)

    def names(self) -> list[str]:
        """Return a name for every input."""
        return [f"{self.name} text {i + 1}" for i in range(len(self.components))]

    def encode(self, column: Any) -> np.ndarray:
        """Return the numbers of every text; those of a gap are those of no text."""
        codes, values = coded(column)
        values = [*values, ""]  # the last place is that of a gap
        made = np.empty((len(values), len(self.components)))
        for start in range(0, len(values), _CHUNK):
            part = slice(start, start + _CHUNK)
            made[part] = _grams(values[part]) @ self.components.T
        return ((made - self.mean) / self.scale)[codes]

    def shared(self, column: Any) -> dict[str, Any]:
        """Return the numbers, each under its name."""
        return dict(zip(self.names(), self.encode(column).T, strict=True))


ENCODINGS: dict[Kind, Any] = {
    "number": Numbers,
    "boolean": Booleans,
    "date": Dates,
    "category": Categories,
    "text": Text,
}


def fit_encoding(name: str | int, place: int, column: Any) -> Encoding:
    """Learn the encoding of a column, of the kind that it holds; errors name it."""
    return ENCODINGS[kind_of(str(name), column)].fit(name, place, column)


def encoding_of(state: Mapping[str, Any]) -> Encoding:
    """Return an encoding from its plain data."""
    given = {key: value for key, value in state.items() if key != "kind"}
    return ENCODINGS[state["kind"]](
        **{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    )


def _filled(values: np.ndarray, medians: Sequence[float], mark: bool) -> np.ndarray:
    """Put medians into gaps; add a column of marks."""
    gone = np.isnan(values)
    filled = np.where(gone, np.asarray(medians), values)
    return np.hstack([filled, gone[:, :1].astype(float)]) if mark else filled


def _date_numbers(values: np.ndarray) -> np.ndarray:
    """Return `DATE_PARTS` of dates, `(rows, parts)`, NaN where there is none."""
    gone = np.isnat(values)
    values = np.where(gone, np.datetime64(0, "us"), values)
    day, month = values.astype("datetime64[D]"), values.astype("datetime64[M]")
    number = day.astype(np.int64)
    hours = (values - day).astype(np.int64) / 3_600_000_000
    made = np.column_stack(
        [
            number + hours / 24,
            month.astype(np.int64) % 12 + 1,
            (day - month.astype("datetime64[D]")).astype(np.int64) + 1,
            (number + 3) % 7,  # 1970-01-01 was a Thursday
            hours,
        ]
    ).astype(float)
    made[gone] = np.nan
    return made


def _grams(values: Sequence[str]) -> Any:
    """Return the hashed n-grams of texts, a sparse matrix `(texts, HASHED)`."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=GRAMS, n_features=HASHED)
    return hashing.transform([value[:_TEXT_LETTERS] for value in values])

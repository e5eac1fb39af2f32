"""What is asked of a comparison: heads x units, each cell of which is one run.

A head is named with what it has of its own, so that two variants of one head can be compared:
"spinal", "spinal:num_layers=8", "mlp:hidden_features=100,activation=gelu". A unit is a seed (one
test part for all), or a fold or random split (the test part drawn anew), with a seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison.metrics import METRICS
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.comparison.units import Contestant, Unit
from spinalnet.data import Resample
from spinalnet.nn import HEADS, is_own, use_head
from spinalnet.texts import from_yaml

DEFAULT_HEADS = ("spinal", "unchained", "matched", "mlp", "linear")
MOST_UNITS = 10_000
"""More seeds, folds and repeats are a slip of the finger, and the list of runs must fit memory."""
TABLE_HEADS = (*DEFAULT_HEADS, "trees")
"""The heads of a comparison of tables, where none are named."""


def read_head(text: str) -> Contestant:
    """Read "HEAD" or "HEAD:NAME=VALUE,NAME=VALUE", values as in YAML; HEAD may be "module:Name".

    Raises:
        InputError: If it is neither.
    """
    head, colon, rest = (part.strip() for part in text.partition(":"))
    name, again, options_of = rest.partition(":")
    if head not in HEADS and is_own(f"{head}:{name}"):
        head, colon, rest = f"{head}:{name}", again, options_of
    pairs = [pair.strip() for pair in _outside_brackets(rest)] if colon else []
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise InputError(
                f"a head with options of its own looks like spinal:num_layers=8, got '{text}'."
            )
        try:
            read = from_yaml(value)
        except ValueError as error:
            raise InputError(f"'{text}' has an unreadable value '{value}'.") from error
        options[name] = tuple(read) if isinstance(read, list) else read
    head = {"dense": "matched"}.get(head, head)  # what tables called it in earlier versions
    written = ",".join(sorted(pair.replace(" ", "") for pair in pairs))
    return Contestant(head, options, f"{head}:{written}" if written else head)


def read_heads(heads: str | Iterable[str]) -> tuple[Contestant, ...]:
    """Read rows in a list with commas, or one by one.

    A comma also stands between the options of one row: what has a `=` and no head before it
    belongs to the row before.

    Raises:
        InputError: If one cannot be read, none is named, or two are the same.
    """
    if isinstance(heads, str):
        texts: list[str] = []
        for part in _outside_brackets(heads):
            if "=" in part and ":" not in part.partition("=")[0] and texts:
                texts[-1] += f",{part.strip()}"
            elif part.strip():
                texts.append(part.strip())
        heads = texts
    rows = tuple(read_head(text) for text in heads)
    if not rows:
        raise InputError("heads must name at least two heads, for example spinal,mlp.")
    for i, row in enumerate(rows):
        if any(row.head == other.head and row.options == other.options for other in rows[:i]):
            raise InputError(f"heads must differ, got {row.label} twice.")
    return rows


def use_heads(heads: str | Iterable[str]) -> None:
    """Use the heads of their own that a person names in rows; see `nn.use_head`.

    Raises:
        InputError: If one cannot be used.
    """
    for row in read_heads(heads):
        if is_own(row.head):
            use_head(row.head)


def _outside_brackets(text: str) -> list[str]:
    """Split at the commas that stand in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


_OWN = ("head_options", "neck", "train")


@dataclass(frozen=True)
class ComparisonSpec:
    """A question: which of these heads is better on this data, over how many repetitions?

    Attributes:
        base: The run that all share; its head, seed and test part are replaced in turn.
        heads: Rows, see `read_head`; the first is compared with each of the others.
        seeds: Number of paired seeds, counted from the seed of `base`; of a table without folds
            the number of random splits.
        folds: Draw the test part from all examples, in so many folds; 0 for the data's own.
        repeats: How often all folds are drawn.
        metric: Row of `METRICS`; None for the task's own.
        margin: Differences up to this are equal for all purposes, in the metric's own numbers
            (0.005 is half a point of accuracy); None for the metric's own.
        other: What one row has of its own, by label: `head_options`, `neck`, `train`.

    Raises:
        InputError: If a head is unknown or named twice, a number is out of range, there are more
            than `MOST_UNITS`, or the runs would not be comparable.
    """

    base: RunSpec | TableSpec
    heads: tuple[str, ...] = DEFAULT_HEADS
    seeds: int = 5
    folds: int = 0
    repeats: int = 1
    metric: str | None = None
    margin: float | None = None
    other: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive("seeds", self.seeds)
        check_positive("repeats", self.repeats)
        rows = read_heads(self.heads)
        object.__setattr__(self, "heads", tuple(row.label for row in rows))
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"folds must be at least 2, or 0 for none, got {self.folds}.")
        if self.repeats > 1 and not self.folds:
            raise InputError("repeats repeat the folds: give folds, or more seeds.")
        if isinstance(self.base, TableSpec) and self.base.time is not None and not self.folds:
            raise InputError(
                "a time column orders the rows, so that random splits would train on the future: "
                "give folds, each of which is tested on what comes after."
            )
        count = self.seeds * max(1, self.folds) * self.repeats
        if count > MOST_UNITS:
            raise InputError(
                f"a comparison has at most {MOST_UNITS:,} units, got {count:,}: give fewer seeds, "
                "folds or repeats."
            )
        if self.metric is not None and self.metric not in METRICS:
            raise unknown_name("metric", self.metric, METRICS)
        if self.margin is not None and not 0.0 < self.margin < float("inf"):
            raise InputError(f"margin must be a number above 0, got {self.margin!r}.")
        for label, own in self.other.items():
            if label not in self.heads:
                raise unknown_name("head with fields of its own", label, self.heads)
            for name in own:
                if name not in _OWN:
                    raise unknown_name(f"field of head '{label}'", name, _OWN)
        self.of_unit(self.units()[0])  # an unknown head is told now

    @property
    def rows(self) -> tuple[Contestant, ...]:
        """The heads, read."""
        return read_heads(self.heads)

    @property
    def is_of_table(self) -> bool:
        """Whether it is asked of a table."""
        return isinstance(self.base, TableSpec)

    def units(self) -> list[Unit]:
        """Return all repetitions, in the order in which they run."""
        first = self.base.unit.seed
        seeds = range(first, first + self.seeds)
        if self.folds:
            return [
                Unit(seed, Resample("fold", index, self.folds, repeat))
                for seed in seeds
                for repeat in range(self.repeats)
                for index in range(self.folds)
            ]
        if isinstance(self.base, TableSpec):  # a table has no test part of its own
            return [Unit(seed, Resample("split", seed)) for seed in seeds]
        return [Unit(seed) for seed in seeds]

    def of_unit(self, unit: Unit) -> list[RunSpec | TableSpec]:
        """Return the runs of one unit, one for each head.

        The head options of `base` belong to the first row, and its controls ("matched",
        "unchained", "unchained-matched") follow it; the others keep the paper's.
        """
        rows = [self._own(row) for row in self.rows]
        base = self.base
        if isinstance(base, TableSpec) and base.tune:  # tuned for what it is judged by
            base = replace(base, metric=self.metric)
        found = [base.as_cell(row, unit, rows[0]) for row in rows]
        return [
            replace(spec, model=replace(spec.model, neck=own["neck"]))
            if isinstance(spec, RunSpec) and "neck" in (own := self.other.get(label, {}))
            else spec
            for label, spec in zip(self.heads, found, strict=True)
        ]

    def _own(self, row: Contestant) -> Contestant:
        """Return a row with what `other` says of it."""
        own = self.other.get(row.label, {})
        options = {**row.options, **own.get("head_options", {})}
        return replace(row, options=options, train=own.get("train", {}))

    def cells(self) -> list[RunSpec | TableSpec]:
        """Return every run, all heads of one unit before the next unit."""
        return [spec for unit in self.units() for spec in self.of_unit(unit)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `comparison.yaml`."""
        return {
            **self.base.question(),
            "heads": list(self.heads),
            "units": [unit.name for unit in self.units()],
            "seeds": sorted({unit.seed for unit in self.units()}),
            "folds": self.folds,
            "repeats": self.repeats,
            "metric": self.metric,
            "margin": self.margin,
            "other": {label: dict(own) for label, own in self.other.items()},
        }

"""What a comparison says, as an object: its rows, their differences, and the answer.

`summary` makes it of the files of runs; `summary.json` holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, read_fields
from spinalnet.comparison import times
from spinalnet.comparison.earlier import said_anew
from spinalnet.comparison.schema import SCHEMA, check_version, earlier_overlap, is_earlier, upgraded
from spinalnet.comparison.tuned import Tuned
from spinalnet.comparison.wording import Units


@dataclass(frozen=True)
class Difference:
    """The first row of a comparison minus another, and what is concluded of it.

    All numbers are in those of the metric (of a loss, below 0 means that the first is better). For
    the others see `inference.Estimate`, whose names they have.

    Attributes:
        of: The first.
        minus: The other.
        mean: Mean of the paired differences; None without a pair.
        low: Lower end of the 95 % interval that the verdict uses, other seeds and another test set.
        high: Upper end.
        seeds_low: Lower end of the interval for other seeds on the same test set.
        seeds_high: Upper end.
        n: Number of pairs.
        examples: Number of test examples, if they are known.
        p_value: Of no difference, uncorrected.
        p_holm: The same after Holm's correction over all comparisons of the report.
        p_equal: Of a difference of the margin or more, uncorrected.
        p_equal_holm: The same corrected.
        effect: Mean over the standard deviation between units.
        dominant: Which of seeds and examples makes more of the uncertainty.
        resolution: Half-width that infinitely many seeds would leave on this test set.
        more: Further units that would probably decide.
        fewest: Smallest number of units that can decide at all.
        margin: Differences up to this are equal for all purposes.
        method: How the interval was made.
        seen: Whether a difference is seen although it is below the margin.
        code: The answer: better, worse, equal, undecided, nothing-learned.
        reason: Why it is undecided, as a word for programs.
        verdict: The answer as a sentence.
    """

    of: str
    minus: str
    mean: float | None
    n: int
    low: float | None = None
    high: float | None = None
    seeds_low: float | None = None
    seeds_high: float | None = None
    examples: int | None = None
    p_value: float | None = None
    p_holm: float | None = None
    p_equal: float | None = None
    p_equal_holm: float | None = None
    effect: float | None = None
    dominant: str | None = None
    resolution: float | None = None
    more: int | None = None
    fewest: int | None = None
    margin: float | None = None
    method: str | None = None
    seen: bool = False
    code: str = "undecided"
    reason: str | None = None
    verdict: str = ""


@dataclass(frozen=True)
class HeadSummary:
    """One row of the result table.

    Attributes:
        head: The row's name: a head, maybe with options of its own.
        params: Parameters of the whole model, if it is a network; `head_params` of the head alone.
        head_params: See `params`.
        head_macs: Multiply-accumulates of the head per example; `macs` of the whole model.
        macs: See `head_macs`.
        n: Number of finished runs.
        mean: Mean of the test metric over the finished runs (shares are fractions).
        std: Sample standard deviation (n - 1); None for a single run.
        values: Test metric by unit, in the order of `Summary.units`; None where there is no run.
        train_seconds_mean: Mean wall time of training.
        inference_us: Measured head time per batch, microseconds; None if it was not measured.
        training_us: The same for forward and backward.
        difference: First row minus this; None for the first.
        failed: Why runs of this row failed, by unit.
        chosen: What tuning chose, by setting; of a table a list by unit.
        cost: Further measured costs by name (`cost.time_heads`).
    """

    head: str
    params: int | None
    head_params: int | None
    head_macs: int | None
    macs: int | None
    n: int
    mean: float | None
    std: float | None
    values: tuple[float | None, ...]
    train_seconds_mean: float | None
    inference_us: float | None
    training_us: float | None
    difference: Difference | None
    failed: Mapping[str, str] | None = None
    chosen: Mapping[str, Any] | None = None
    cost: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Summary:
    """All that the tables print; `to_dict` is the content of `summary.json`.

    Attributes:
        data: Name of the data set or table.
        model: Name of the model; "table" of a table.
        epochs: Epochs asked for (fewer may have run: see early stopping).
        seeds: All seeds of the comparison.
        metric: Row of `METRICS`.
        selected_on: What chose the epoch that is tested: "validation" or "test".
        test_size: Number of test examples (of one unit).
        heads: One row per head; the first is the one the others are compared with.
        verdict: One paragraph, whose first sentence is the answer.
        notes: What makes these numbers weaker than they look.
        timing: Device, threads, batch size and repeats of the head times.
        environment: Software and hardware of the runs.
        command: The command that made the runs.
        units: Names of all units, in order.
        unit_kind: "seed", "fold" or "split".
        task: "classification" or "regression".
        margin: Differences up to this are equal for all purposes.
        baseline: The metric of the constant predictor; None if it is not known.
        prevalence: Share of the most frequent class in the test part.
        code: The answer, where all comparisons have the same; "mixed" where they differ.
        cheapest: The cheapest of the rows shown equal to the first, the first included.
        headline: The answer in one sentence.
        looks: Numbers of units after which the comparison was looked at before.
        stopping: Whether the intervals allow for adding seeds after a look.
        methods: How the numbers were made and what they mean.
        tuning: What tuning found, a row each; empty without it.
        largest_test: Number of test examples of the largest unit, where that of the smallest, which
            is `test_size`, is another.
    """

    data: str
    model: str
    epochs: int | None
    seeds: tuple[int, ...]
    metric: str
    selected_on: str
    test_size: int | None
    heads: tuple[HeadSummary, ...]
    verdict: str
    notes: tuple[str, ...]
    timing: Mapping[str, Any] | None
    environment: Mapping[str, Any]
    command: str | None
    units: tuple[str, ...] = ()
    unit_kind: Literal["seed", "fold", "split"] = "seed"
    task: str = "classification"
    margin: float | None = None
    baseline: float | None = None
    prevalence: float | None = None
    code: str | None = None
    cheapest: str | None = None
    headline: str = ""
    looks: tuple[int, ...] = ()
    stopping: bool = False
    methods: tuple[str, ...] = ()
    tuning: tuple[Tuned, ...] = ()
    largest_test: int | None = None

    @property
    def counted(self) -> tuple[str, ...]:
        """The units that the answer rests on: with a result of the first row and of another."""
        columns = list(zip(*(head.values for head in self.heads), strict=True))
        if len(columns) != len(self.units):  # of an earlier version
            return self.units
        least = min(2, len(self.heads))
        found = [
            unit
            for unit, values in zip(self.units, columns, strict=True)
            if values[0] is not None and sum(value is not None for value in values) >= least
        ]
        return tuple(found) or self.units

    @property
    def is_table(self) -> bool:
        """Whether it is of a table."""
        return self.model == "table"

    @property
    def wording(self) -> Units:
        """How its numbers are printed."""
        kind = "model" if self.is_table else "head"
        return Units(self.metric, self.test_size, kind, self.unit_kind)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Summary:
        """Make one of what `to_dict` returned, also in an earlier version.

        Raises:
            InputError: If a later version wrote it, or it is mangled, or no summary.
            DamagedFile: If it holds a digest, as a file that somebody read himself does, and does
                not match it.
        """
        check_version(record)
        record = files.checked("the summary", dict(record))
        try:
            made = cls(**read_fields(cls, upgraded(record, HeadSummary, Difference), "field"))
            if is_earlier(record):
                made = said_anew(made, earlier_overlap(record), Difference)
            made = _without_earlier_times(made)
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise InputError(f"this is no summary of an earlier version: {reason}.") from error
        return made


def _without_earlier_times(summary: Summary) -> Summary:
    """Return a summary without times of heads that an earlier version measured; see `times`."""
    if summary.timing is None or check_version(summary.timing, times.SCHEMA) == times.SCHEMA:
        return summary
    memory = ("peak_memory_bytes", "fit_quartiles")
    heads = [
        replace(
            head,
            inference_us=None,
            training_us=None,
            cost={k: v for k, v in (head.cost or {}).items() if k in memory} or None,
        )
        for head in summary.heads
    ]
    return replace(summary, heads=tuple(heads))

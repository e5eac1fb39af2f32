"""What the runs of a comparison say: a row per head, paired differences, and the five answers.

Only files are read (`result.json`, `test-outputs.safetensors`, `comparison.yaml`, `timing.json`),
never a model or a data set, so a summary can be made years after the runs. It is one for images,
frozen features and tables; what the numbers mean stands in `inference`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from spinalnet._checks import InputError, read_fields
from spinalnet.comparison.baseline import few_note, prevalence, prevalence_note
from spinalnet.comparison.findings import (
    headline,
    method_notes,
    missing_notes,
    paragraphs,
    warnings,
)
from spinalnet.comparison.finished import FinishedRuns, metric_of, note_look, read_folder, result_of
from spinalnet.comparison.inference import Estimate, judge, learned
from spinalnet.comparison.judging import (
    Evidence,
    against_baseline,
    baseline_value,
    estimate,
    gather,
)
from spinalnet.comparison.metrics import Metric, default_metric, find_metric
from spinalnet.comparison.outputs import Outputs
from spinalnet.comparison.schema import SCHEMA, earlier_overlap, is_earlier, load, upgraded
from spinalnet.comparison.statistics import ALPHA, deviation, finite, holm, mean, paired_difference
from spinalnet.comparison.tuned import Tuned, of_table, tuning_notes
from spinalnet.comparison.wording import Units, listing, verdict

BASELINE = "baseline"
"""Name of the row of the constant predictor."""

__all__ = ["is_decided", "load_summary", "note_look", "summarize", "summarize_runs"]


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
            InputError: If a later version wrote it, or it is mangled.
            KeyError: If it is no summary.
        """
        made = cls(**read_fields(cls, upgraded(record, HeadSummary, Difference), "field"))
        return _said_anew(made, earlier_overlap(record)) if is_earlier(record) else made


def summarize(
    folder: str | Path, *, metric: str | None = None, margin: float | None = None
) -> Summary:
    """Read a comparison folder and analyse it.

    Args:
        folder: The folder that `compare` wrote (run folders in `runs/`).
        metric: Row of `METRICS`; None for the one asked for, or the task's own.
        margin: Differences up to this are equal for all purposes; None for the one asked for, or
            the metric's own.

    Returns:
        A row per head, paired differences with intervals, the answer, and notes.

    Raises:
        InputError: If there is no finished run, or the runs do not belong together.
    """
    return summarize_runs(read_folder(Path(folder)), None, metric=metric, margin=margin)


def is_decided(folder: str | Path) -> bool:
    """Return whether every comparison has an answer, allowing for a look after every unit."""
    read = replace(read_folder(Path(folder)), stopping=True)
    summary = summarize_runs(read, None)
    found = [head.difference for head in summary.heads[1:]]
    return all(d is not None and d.code != "undecided" for d in found)


def summarize_runs(
    comparison: FinishedRuns,
    command: str | None,
    *,
    metric: str | None = None,
    margin: float | None = None,
) -> Summary:
    """Analyse what `read_folder` returned; see `summarize`."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise InputError(f"margin must be a number above 0, got {margin!r}.")
    results = comparison.results
    row = _metric(comparison, metric)
    evidence = gather(comparison, row)
    first, *others = comparison.runs
    if not evidence.values:
        raise InputError(
            f"no run has a finite test {row.name} ({listing(evidence.unusable)}). Train again."
        )
    level = baseline_value(comparison, evidence)
    if margin is not None and not 0.0 < margin < math.inf:
        raise InputError(f"margin must be a number above 0, got {margin!r}.")
    asked = comparison.question.get("margin") if margin is None else margin
    limit = asked if asked is not None else _default_margin(row, level, evidence)
    stopping = _stopping(comparison)
    estimates = [
        estimate(
            comparison,
            evidence,
            first,
            other,
            limit,
            stopping=stopping,
            comparisons=max(1, len(others)),
        )
        for other in others
    ]
    beaten = [against_baseline(comparison, evidence, head, limit) for head in comparison.runs]
    is_learned = any(learned(beaten)) or all(one is None for one in beaten)
    sizes = sorted({int(r["test"]["n"]) for r in results if r["test"].get("n")})
    kind = _unit_kind(comparison)
    units = Units(row.name, sizes[0] if len(sizes) == 1 else None, _kind(comparison), kind)
    if kind != "seed" and sizes:
        units = replace(units, test_size=sizes[0])
    differences = [
        _difference(first, other, found, judged, row, units)
        for other, found, judged in zip(
            others, estimates, judge(estimates, learned=is_learned), strict=True
        )
    ]
    tuning = _tuning(comparison, row, limit)
    heads = tuple(
        _head_summary(head, comparison, evidence, difference, tuning)
        for head, difference in zip(comparison.runs, [None, *differences], strict=True)
    )
    summary = Summary(
        data=str(results[0].get("data")),
        model=str(results[0].get("model")),
        epochs=_epochs(comparison),
        seeds=comparison.seeds,
        metric=row.name,
        selected_on=" and ".join(
            sorted({str(result.get("selected_on", "validation")) for result in results})
        ),
        test_size=units.test_size,
        heads=heads,
        verdict="",
        notes=(),
        timing=_without_heads(comparison.timing),
        environment=_common([record.environment for record in comparison.records]),
        command=command or comparison.command,
        units=tuple(comparison.units),
        unit_kind=kind,
        task=str(results[0].get("task", "classification")),
        margin=limit,
        baseline=level,
        prevalence=_prevalence(evidence),
        code=_code(differences),
        cheapest=_cheapest(heads),
        looks=tuple(look for look in comparison.looks if look < len(comparison.units)),
        stopping=stopping,
        tuning=tuning,
    )
    summary = replace(summary, headline=headline(summary))
    return replace(
        summary,
        verdict=" ".join([summary.headline, *paragraphs(summary)]),
        notes=tuple(_notes(comparison, evidence, summary, sizes, asked)),
        methods=tuple(method_notes(summary)),
    )


def _metric(comparison: FinishedRuns, asked: str | None) -> Metric:
    """Return what is asked for, now or in the question, or the task's own."""
    results = comparison.results
    task = str(results[0].get("task") or "classification")
    name = asked or comparison.question.get("metric")
    if name:
        return find_metric(name, task)
    if comparison.is_table:
        return default_metric(task, table=True)
    return find_metric(metric_of(results[0]))


def _default_margin(metric: Metric, level: float | None, evidence: Evidence) -> float:
    if not metric.relative:
        return metric.margin
    if level:
        return metric.default_margin(level)
    # Of runs of an earlier version, whose baseline is not known: of what the first row loses.
    values = next(iter(evidence.values.values())).values()
    return metric.margin * (max(map(abs, values)) or 1.0)


def _stopping(comparison: FinishedRuns) -> bool:
    """Return whether seeds were, or might have been, added after a look at the result."""
    if _unit_kind(comparison) != "seed":
        return False
    count = len(comparison.units)
    return comparison.stopping or any(1 < look < count for look in comparison.looks)


def _unit_kind(comparison: FinishedRuns) -> Literal["seed", "fold", "split"]:
    kinds: set[Literal["fold", "split"]] = {
        unit.resample.kind for unit in comparison.units.values() if unit.resample is not None
    }
    return next(iter(kinds)) if kinds else "seed"


def _kind(comparison: FinishedRuns) -> str:
    return "model" if comparison.is_table else "head"


def _difference(
    first: str, other: str, found: Estimate | None, judged: Any, metric: Metric, units: Units
) -> Difference:
    """Join an estimate and its judgement, in the numbers of the metric."""
    made = Difference(
        first,
        other,
        None,
        0,
        code=judged.code,
        reason=judged.reason,
        seen=judged.seen,
        p_holm=judged.p_holm,
        p_equal_holm=judged.p_equal_holm,
    )
    if found is not None:
        names = {one.name for one in fields(Estimate)} & {one.name for one in fields(Difference)}
        known: dict[str, Any] = {name: getattr(found, name) for name in names}
        known["p_value"] = found.p_difference
        if not metric.higher_is_better:  # estimates are positive where the first is better
            known |= {
                name: None if known[other] is None else -known[other]
                for name, other in (
                    ("mean", "mean"),
                    ("low", "high"),
                    ("high", "low"),
                    ("seeds_low", "seeds_high"),
                    ("seeds_high", "seeds_low"),
                    ("effect", "effect"),
                )
            }
        made = replace(made, **known)
    return replace(made, verdict=verdict(made, units))


def _tuning(comparison: FinishedRuns, metric: Metric, margin: float) -> tuple[Tuned, ...]:
    """Return what tuning found for the rows: of images for all units, of a table within each."""
    if comparison.tuning is not None:
        return tuple(row for row in comparison.tuning.rows if row.label in comparison.runs)
    found = []
    for label, by_unit in comparison.runs.items():
        results = [result_of(record) for record in by_unit.values()]
        head = str(results[0]["head"]) if results else ""
        better = metric.higher_is_better
        found.append(of_table(label, head, results, margin, higher_is_better=better))
    return tuple(row for row in found if row is not None)


def _head_summary(
    head: str,
    comparison: FinishedRuns,
    evidence: Evidence,
    difference: Difference | None,
    tuning: Sequence[Tuned] = (),
) -> HeadSummary:
    by_unit = evidence.values.get(head, {})
    results = [result_of(record) for record in comparison.runs[head].values()]
    known = results[0] if results else {}
    values = finite(by_unit.values())
    times = ((comparison.timing or {}).get("heads") or {}).get(head) or {}
    return HeadSummary(
        head=head,
        **{name: known.get(name) for name in ("params", "head_params", "head_macs", "macs")},
        n=len(values),
        mean=mean(values),
        std=deviation(values),
        values=tuple(by_unit.get(unit) for unit in comparison.units),
        train_seconds_mean=mean(finite(r.get("train_seconds") for r in results)),
        inference_us=times.get("inference"),
        training_us=times.get("training"),
        difference=difference,
        failed=dict(comparison.failed.get(head, {})) or None,
        chosen=next((row.chosen for row in tuning if row.label == head), None),
        cost={k: v for k, v in times.items() if k not in ("inference", "training")} or None,
    )


def _code(differences: Sequence[Difference]) -> str | None:
    codes = {d.code for d in differences}
    return None if not codes else codes.pop() if len(codes) == 1 else "mixed"


def _cheapest(heads: Sequence[HeadSummary]) -> str | None:
    """Return the cheapest of the rows shown equal to the first: MACs, then parameters, then time.

    None if no other is shown equal to it.
    """
    first, *others = heads
    equal = [head for head in others if head.difference and head.difference.code == "equal"]
    if not equal:
        return None
    far = float("inf")

    def price(head: HeadSummary) -> tuple[float, ...]:
        found = (head.head_macs, head.head_params, head.inference_us)
        return tuple(far if value is None else value for value in found)

    return min([first, *equal], key=price).head


def _prevalence(evidence: Evidence) -> float | None:
    said = evidence.any_outputs()
    return prevalence(said)[1] if isinstance(said, Outputs) else None


def _notes(
    comparison: FinishedRuns,
    evidence: Evidence,
    summary: Summary,
    sizes: Sequence[int],
    asked: float | None,
) -> list[str]:
    results = comparison.results
    notes = missing_notes(comparison, evidence.unusable)
    said = evidence.any_outputs()
    if isinstance(said, Outputs):
        names = [str(name) for name in results[0].get("class_names") or ()]
        told = [note(said, names, summary.metric) for note in (prevalence_note, few_note)]
        notes += filter(None, told)
    notes += tuning_notes(summary.tuning, comparison.tuning)
    mixed = [key for key, value in summary.environment.items() if isinstance(value, list)]
    if mixed:
        notes.append(f"The runs were not made alike: they differ in {listing(mixed)}.")
    notes += dict.fromkeys(str(note) for result in results for note in result.get("notes") or [])
    before = comparison.question.get("margin")
    if asked is not None and asked != before:
        notes.append(
            "The margin was given when the report was written, not before the runs: whoever chose "
            "it may have known the result."
        )
    if not evidence.kept:
        notes.append(
            "Not all runs kept what they said of each test example (those of an earlier version "
            "did not): the intervals cover the seeds only."
        )
    return [*notes, *warnings(summary, sizes)]


def _without_heads(timing: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {k: v for k, v in timing.items() if k != "heads"} if timing else None


def _epochs(comparison: FinishedRuns) -> int | None:
    """Epochs asked for: as the question says, else the longest run."""
    asked = comparison.question.get("epochs")
    ran = [result["epochs_run"] for result in comparison.results if result.get("epochs_run")]
    return int(asked) if asked else max(ran, default=None)


def _common(environments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all runs share; entries that differ are listed, of the start times the first."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for environment in environments for key in environment):
        seen = [environment.get(key) for environment in environments]
        distinct = [value for i, value in enumerate(seen) if value not in seen[:i]]
        merged[key] = distinct[0] if len(distinct) == 1 else distinct
    if isinstance(started := merged.get("started"), list):
        merged["started"] = min(filter(None, started), default=None)
    return merged


def _said_anew(summary: Summary, overlap: float) -> Summary:
    """Return a summary of an earlier version in the words of this one.

    Its intervals knew no margin, and those of images only the seeds: a difference may have been
    seen, equality was never asked.

    Args:
        summary: As `upgraded` reads it.
        overlap: Test over training examples where the units are splits of one table; else 0.
    """
    first, *others = summary.heads
    found = []
    for head in others:
        kept = [dict(zip(summary.units, one.values, strict=True)) for one in (first, head)]
        paired = paired_difference(first.head, head.head, *kept, overlap=overlap)
        found.append(head.difference or Difference(**asdict(paired)))
    corrected = holm([d.p_value for d in found])
    differences = []
    for d, p in zip(found, corrected, strict=True):
        code, reason = "undecided", "no-margin"
        if d.mean is None or p is None:
            reason = "no-pairs" if d.mean is None else "single" if d.n == 1 else "no-spread"
        elif p < ALPHA:
            wins = (d.mean > 0) == summary.wording.higher_is_better
            code, reason = "better" if wins else "worse", None
        method = "splits" if overlap else "seeds"
        d = replace(d, p_holm=p, code=code, reason=reason, method=method)
        differences.append(replace(d, verdict=verdict(d, summary.wording)))
    heads = [replace(h, difference=d) for h, d in zip(others, differences, strict=True)]
    made = replace(summary, heads=(first, *heads), code=_code(differences))
    told = "from an earlier version" + ("" if overlap else ": seeds only")
    answer = headline(made).removesuffix(").") + f"; {told})."
    verdicts = [f"Against {d.minus}: {d.verdict}." for d in differences]
    return replace(made, headline=answer, verdict=" ".join([answer, *verdicts]))


def load_summary(path: str | Path) -> Summary:
    """Read a `summary.json` that `write_report` left, without the runs it was made from.

    Raises:
        InputError: If the file is missing or is not a summary.
    """
    return load(path, Summary.from_dict, "summary")

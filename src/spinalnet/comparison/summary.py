"""What the runs of a comparison say: a row per head, paired differences, and the five answers.

Only files are read (`result.json`, `test-outputs.safetensors`, `comparison.yaml`, `timing.json`),
never a model or a data set, so a summary can be made years after the runs. It is one for images,
frozen features and tables; what the numbers mean stands in `inference`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

from spinalnet._checks import InputError, some
from spinalnet.comparison.answer import Difference, HeadSummary, Summary
from spinalnet.comparison.baseline import few_note, prevalence, prevalence_note
from spinalnet.comparison.findings import (
    common_code,
    headline,
    method_notes,
    missing_notes,
    paragraphs,
    warnings,
)
from spinalnet.comparison.finished import FinishedRuns, metric_of, read_folder, result_of
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
from spinalnet.comparison.schema import load
from spinalnet.comparison.statistics import deviation, finite, mean
from spinalnet.comparison.tuned import Tuned, of_table, tuning_notes
from spinalnet.comparison.wording import Units, listing, verdict
from spinalnet.files import DamagedFile, expanded

__all__ = ["is_decided", "load_summary", "summarize", "summarize_runs"]


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
    return summarize_runs(read_folder(expanded(folder)), None, metric=metric, margin=margin)


def is_decided(folder: str | Path) -> bool:
    """Return whether every comparison has an answer, allowing for a look after every unit."""
    read = replace(read_folder(expanded(folder)), stopping=True)
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
    if not evidence.values:
        raise InputError(
            f"no run has a finite test {row.title}: {some(evidence.unusable, 3)}. Train again, or "
            "choose another metric."
        )
    level = baseline_value(comparison, evidence)
    asked = margin
    if margin is None and row == _metric(comparison, None):  # else it is in another one's numbers
        asked = comparison.question.get("margin")
    limit = asked if asked is not None else _default_margin(row, level, evidence)
    sizes = sorted({int(r["test"]["n"]) for r in results if r["test"].get("n")})
    units = _units(comparison, row, sizes)
    differences = _differences(comparison, evidence, limit, units)
    tuning = _tuning(comparison, row, limit)
    heads = tuple(
        _head_summary(head, comparison, evidence, difference, tuning)
        for head, difference in zip(comparison.runs, [None, *differences], strict=True)
    )
    selected_on = {str(result.get("selected_on", "validation")) for result in results}
    summary = Summary(
        data=str(results[0].get("data")),
        model=str(results[0].get("model")),
        epochs=_epochs(comparison),
        seeds=comparison.seeds,
        metric=row.name,
        selected_on=" and ".join(sorted(selected_on)),
        test_size=units.test_size,
        largest_test=sizes[-1] if units.test_size and len(sizes) > 1 else None,
        heads=heads,
        verdict="",
        notes=(),
        timing=_without_heads(comparison.timing),
        environment=_common([record.environment for record in comparison.records]),
        command=command or comparison.command,
        units=tuple(comparison.units),
        unit_kind=_unit_kind(comparison),
        task=str(results[0].get("task", "classification")),
        margin=limit,
        baseline=level,
        prevalence=_prevalence(evidence),
        code=common_code(differences),
        cheapest=_cheapest(heads),
        looks=tuple(look for look in comparison.looks if look < comparison.seen),
        stopping=_stopping(comparison),
        tuning=tuning,
    )
    return _told(summary, _notes(comparison, evidence, summary, sizes, asked))


def _told(summary: Summary, notes: Sequence[str]) -> Summary:
    """Return a summary with what it says in words."""
    summary = replace(summary, headline=headline(summary))
    return replace(
        summary,
        verdict=" ".join([summary.headline, *paragraphs(summary)]),
        notes=tuple(notes),
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
    return comparison.stopping or any(1 < look < comparison.seen for look in comparison.looks)


def _unit_kind(comparison: FinishedRuns) -> Literal["seed", "fold", "split"]:
    kinds: set[Literal["fold", "split"]] = {
        unit.resample.kind for unit in comparison.units.values() if unit.resample is not None
    }
    return next(iter(kinds)) if kinds else "seed"


def _units(comparison: FinishedRuns, metric: Metric, sizes: Sequence[int]) -> Units:
    """Return how the numbers are printed; of parts drawn anew, the smallest stands for all."""
    kind = _unit_kind(comparison)
    known = len(sizes) == 1 or (kind != "seed" and bool(sizes))
    what = "model" if comparison.is_table else "head"
    return Units(metric.name, sizes[0] if known else None, what, kind)


def _differences(
    comparison: FinishedRuns, evidence: Evidence, margin: float, units: Units
) -> list[Difference]:
    """Compare the first row with each of the others."""
    first, *others = comparison.runs
    stopping, count = _stopping(comparison), max(1, len(others))
    estimates = [
        estimate(comparison, evidence, first, other, margin, stopping=stopping, comparisons=count)
        for other in others
    ]
    beaten = [against_baseline(comparison, evidence, head, margin) for head in comparison.runs]
    is_learned = any(learned(beaten)) or all(one is None for one in beaten)
    judged = judge(estimates, learned=is_learned)
    return [
        _difference(first, other, found, said, evidence.metric, units)
        for other, found, said in zip(others, estimates, judged, strict=True)
    ]


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
        if metric.in_points:  # no two shares differ by more than all
            for name in ("low", "high", "seeds_low", "seeds_high"):
                if known[name] is not None:
                    known[name] = min(1.0, max(-1.0, known[name]))
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
    cost = {k: v for k, v in times.items() if k not in ("inference", "training")}
    seconds = finite(r.get("train_seconds") for r in results)
    if len(seconds) > 1:
        low, _, high = quantiles(seconds, n=4, method="inclusive")
        cost["fit_quartiles"] = [low, high]
    return HeadSummary(
        head=head,
        **{name: known.get(name) for name in ("params", "head_params", "head_macs", "macs")},
        n=len(values),
        mean=mean(values),
        std=deviation(values),
        values=tuple(by_unit.get(unit) for unit in comparison.units),
        train_seconds_mean=mean(seconds),
        inference_us=times.get("inference"),
        training_us=times.get("training"),
        difference=difference,
        failed=dict(comparison.failed.get(head, {})) or None,
        chosen=next((row.chosen for row in tuning if row.label == head), None),
        cost=cost or None,
    )


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
    if summary.metric != (fixed := _metric(comparison, None).name):
        notes.append(
            f"The metric {summary.metric} was chosen when the report was written, not before the "
            f"runs (they were to be judged by {fixed}): whoever chose it may have known the result."
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
    """Epochs asked for: as the question says, else the longest run; None for tables.

    The nets of a table's run count theirs together, and stop when they are done.
    """
    if comparison.is_table:
        return None
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


def load_summary(path: str | Path) -> Summary:
    """Read a `summary.json` that `write_report` left, without the runs it was made from.

    Raises:
        InputError: If the file is missing or is not a summary.
    """
    return load(path, Summary.from_dict, "summary")


def check_told(folder: Path, *, need_runs: bool = True) -> None:
    """See that the summary in a folder tells the results of the runs in it.

    Args:
        folder: Of a comparison.
        need_runs: Whether runs that cannot be read are an error, or nothing is checked.

    Raises:
        InputError: If it counts or tells others.
    """
    told = load_summary(folder / "summary.json")
    try:
        now = {head.head: head for head in summarize(folder, metric=told.metric).heads}
    except InputError:
        if need_runs:
            raise
        return
    check_counted(folder, {name: head.n for name, head in now.items()})
    for head in told.heads:
        same = now.get(head.head)
        if same is not None and same.n == head.n and not _is_close(head.mean, same.mean):
            raise DamagedFile(
                f"{folder / 'summary.json'} tells another result of {head.head} than its runs: "
                "`spinalnet report` writes it anew."
            )


def check_counted(folder: Path, done: Mapping[str, int]) -> None:
    """See that the summary counts no more runs of a head than are done.

    Raises:
        InputError: If it does, or cannot be read.
    """
    for head in load_summary(folder / "summary.json").heads:
        if head.n > (here := done.get(head.head, 0)):
            raise DamagedFile(
                f"{folder / 'summary.json'} counts {head.n} run{'s' * (head.n > 1)} of "
                f"{head.head}, of which {here} {'is' if here == 1 else 'are'} done: the command of "
                "the comparison goes on with the others, or `spinalnet report` writes it anew."
            )


def _is_close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)

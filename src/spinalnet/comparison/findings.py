"""What a comparison says, in sentences, notes and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from spinalnet.comparison.statistics import ALPHA
from spinalnet.comparison.wording import (
    NONE,
    VERDICTS,
    Units,
    interval,
    listing,
    three_digits,
    time_ratio,
)

if TYPE_CHECKING:
    from spinalnet.comparison.answer import Difference, HeadSummary, Summary
    from spinalnet.comparison.finished import FinishedRuns


def common_code(differences: Sequence[Difference]) -> str | None:
    """Return the answer of all comparisons, "mixed" where they differ, None where there is none."""
    codes = {d.code for d in differences}
    return None if not codes else codes.pop() if len(codes) == 1 else "mixed"


def headline(summary: Summary) -> str:
    """Return the answer in one sentence: which of the five it is, against whom, on how much."""
    units, first = summary.wording, summary.heads[0]
    known = [head.difference for head in summary.heads[1:] if head.difference]
    on = _on_what(summary)
    if not known:
        return f"{first.head} reaches {_score(first, units)} ({on})."
    if all(d.code == "nothing-learned" for d in known):
        level = "" if summary.baseline is None else f" of {units.value(summary.baseline)}"
        return (
            f"Nothing learned: no {units.kind} is shown to beat the baseline {units.title}{level}, "
            f"so the {units.kind}s are not compared ({on})."
        )
    parts = []
    for code, text in (
        ("better", "better than {}"),
        ("worse", "worse than {}"),
        ("equal", "equal to {} within " + units.amount(summary.margin or 0.0)),
    ):
        if names := [d.minus for d in known if d.code == code]:
            parts.append(text.format(listing(names)))
    open_ = [d.minus for d in known if d.code not in ("better", "worse", "equal")]
    if first.mean is None:
        return f"Undecided: no run of {first.head} has a result to compare ({on})."
    if not parts:
        return (
            f"Undecided: {first.head} is shown neither better, worse nor equal to "
            f"{listing(open_, 'or')} ({on})."
        )
    found = f"{first.head} is {listing(parts)}"
    if open_:
        found += f"; undecided against {listing(open_)}"
    return f"{found} ({on})."


def repeated(summary: Summary) -> str:
    """Return how often all was repeated: "5 seeds", "4 of 5 folds, 3 seeds each"."""
    count, asked = (len(_repetitions(units, summary)) for units in (summary.counted, summary.units))
    where = f"{count} {f'of {asked} ' if count < asked else ''}{summary.unit_kind}"
    where += "s" if asked != 1 else ""
    if len(summary.units) > asked:
        where += f", {len(summary.seeds)} seeds each"
    return where


def _repetitions(units: Sequence[str], summary: Summary) -> set[str]:
    """Return what is repeated: several seeds of one fold are averaged, and are one repetition."""
    return {u if summary.unit_kind == "seed" else u.rpartition("-")[0] for u in units}


def _on_what(summary: Summary) -> str:
    where = repeated(summary)
    if summary.test_size:
        to = f" to {summary.largest_test:,}" if summary.largest_test else ""
        several = summary.unit_kind != "seed" and len(_repetitions(summary.units, summary)) > 1
        each = " each" if several else ""
        where += f", {summary.test_size:,}{to} test examples{each}"
    return where


def _score(head: HeadSummary, units: Units) -> str:
    spread = "" if head.std is None else f" ± {units.differences(head.std)[0]}"
    value = units.value(head.mean, unit=False)
    return f"a test {units.title} of {value}{spread}{' %' if units.in_points else ''}"


def paragraphs(summary: Summary) -> list[str]:
    """Return what follows the headline: the cheapest of equals, and each comparison with its cost.

    Where nothing was learned, nothing follows.
    """
    if summary.code == "nothing-learned":
        return []
    first, *others = summary.heads
    units = summary.wording
    found = []
    if summary.cheapest is not None:
        found.append(
            f"Of those shown equal the cheapest is {summary.cheapest} (fewest multiplications, "
            "then parameters, then time)."
        )
    if others and first.mean is not None:
        found.append(f"{first.head} reaches {_score(first, units)}.")
    found += [_against(first, head, head.difference, units) for head in others if head.difference]
    return found


def _against(first: HeadSummary, other: HeadSummary, d: Difference, units: Units) -> str:
    sentences = [f"Against {other.head}: {d.verdict}."]
    if d.seeds_low is not None and d.seeds_high is not None and d.dominant:
        low, high = units.differences(d.seeds_low, d.seeds_high)
        part = "the seeds" if d.dominant == "seeds" else "the test examples"
        sentences.append(
            f"For other seeds on this very test set the interval is {low} to {high}; most of the "
            f"uncertainty is that of {part}."
        )
    if d.resolution is not None and d.code != "equal":
        sentences.append(f"This test set resolves {units.amount(d.resolution)} at best.")
    sentences.append(_cost(first, other))
    return " ".join(filter(None, sentences))


def _cost(first: HeadSummary, other: HeadSummary) -> str:
    """Tell what the first head costs of the other; times only where they certainly differ."""
    ratios = {
        "parameters": _over(first.head_params, other.head_params),
        "multiplications": _over(first.head_macs, other.head_macs),
        "inference time": _certain(other, "inference_ratio"),
        "training-step time": _certain(other, "training_ratio"),
    }
    known = [f"{ratio} times the {name}" for name, ratio in ratios.items() if ratio is not None]
    return f"{first.head} takes {listing(known)} of {other.head}." if known else ""


def _over(first: float | None, other: float | None) -> str | None:
    return f"{first / other:.2f}" if first and other else None


def _certain(head: HeadSummary, name: str) -> str | None:
    """Return a ratio of times whose interval excludes 1, first over this row, as in the table."""
    found = (head.cost or {}).get(name)
    if not isinstance(found, Mapping) or found.get("low") is None:
        return None
    return None if float(found["low"]) <= 1.0 <= float(found["high"]) else time_ratio(found)


def missing_notes(comparison: FinishedRuns, unusable: Sequence[str]) -> list[str]:
    """Say which runs are not counted, and why."""
    notes = []
    for head, by_unit in comparison.failed.items():
        reasons: dict[str, list[str]] = {}
        for unit, reason in by_unit.items():
            reasons.setdefault(reason.rstrip("."), []).append(unit)
        for reason, units in reasons.items():
            notes.append(f"{head} failed in {listing(units)}: {reason}.")
    for names, what in (
        (comparison.unfinished, "unfinished and left out"),
        (comparison.absent, "missing"),
        (unusable, "without a finite test result and left out"),
    ):
        if names:
            one = len(names) == 1
            notes.append(
                f"{len(names)} {'run is' if one else 'runs are'} {what}: {listing(names)}."
            )
    if notes:
        notes.append("Differences use only the units that both heads of a pair finished.")
    return notes


def warnings(summary: Summary, sizes: Sequence[int]) -> list[str]:
    """Say what makes the numbers weaker than they look."""
    kind = summary.unit_kind
    tested = _tested(summary)
    notes = []
    if "test" in summary.selected_on.split():
        notes.append(
            "Selected on test: the reported epoch was chosen by the test result, "
            "so the figures are optimistic."
        )
    if summary.stopping:
        before = [look for look in summary.looks if look < len(summary.units)]
        at = f" (at {listing(before)})" if before else ""
        notes.append(
            f"Seeds were added after a look at the result{at}, so the "
            "intervals are those that hold after any number of looks, and wider."
        )
    elif summary.looks and kind != "seed" and tested:
        notes.append(
            f"More {kind}s were added after a look at the result, for which these "
            "intervals do not allow."
        )
    if len(sizes) > 1 and kind == "seed":
        notes.append(f"The runs were tested on different numbers of examples: {listing(sizes)}.")
    if len(summary.heads) > 1 and all(head.n == 1 for head in summary.heads):
        notes.append(
            f"One {kind} per {summary.wording.kind}: how much a result changes from one to the "
            "next is unknown, so nothing can be concluded; use at least 5."
        )
    fewest = min((d.n for d in tested), default=0)
    if 2 <= fewest < 5:
        notes.append(
            f"With {fewest} pairs an interval is wide and leans on the differences being normally "
            "distributed; use at least 5 before drawing conclusions."
        )
    return notes


def method_notes(summary: Summary) -> list[str]:
    """Say how the numbers were made and what they mean."""
    units, tested = summary.wording, _tested(summary)
    first, size = summary.heads[0], summary.test_size
    notes = [_about_intervals(tested[0], units)] if tested else []
    if len(summary.heads) > 1 and summary.margin is not None:
        notes.append(
            f"Differences up to {units.amount(summary.margin)} count as none (the margin). Equal "
            "means that the 95 % interval lies inside it; where no difference is seen but the "
            "interval is wider, the answer is undecided: no evidence of a difference is none of "
            "equality."
        )
    if len(tested) > 1:
        notes.append(
            f"{len(tested)} comparisons are made: what counts as better, worse or equal is "
            f"corrected for that (Holm, at {ALPHA}); each interval is that of its comparison alone."
        )
    if summary.baseline is not None:
        notes.append(
            f"Baseline: what is known of the training part alone, without looking at an example, "
            f"has a test {units.title} of {units.value(summary.baseline)}."
        )
    if units.metric == "accuracy" and size and first.mean is not None:
        error = math.sqrt(max(0.0, first.mean * (1 - first.mean)) / size)
        notes.append(
            f"The test set has {size:,} examples: one is worth {100 / size:.2g} points, and the "
            f"binomial standard error of a single accuracy near {units.value(first.mean)} is "
            f"{100 * error:.2g} points."
        )
    return [*notes, *([about] if (about := times_note(summary)) else [])]


def _tested(summary: Summary) -> list[Difference]:
    known = [head.difference for head in summary.heads[1:] if head.difference]
    return [d for d in known if d.low is not None and d.n > 1]


def _about_intervals(d: Difference, units: Units) -> str:
    pairs = f"of the differences paired by {units.repeat}, first minus other"
    if d.method == "splits":
        return (
            f"Intervals are 95 % intervals {pairs}, by the corrected resampled t test of Nadeau "
            f"and Bengio, as the {units.repeat}s share examples; it is an approximation."
        )
    if d.method == "seeds" or d.examples is None:
        return (
            f"Intervals are 95 % t intervals {pairs}. All runs share one test set, so they cover "
            "the randomness of training (the seed) only, not the sampling of the test set."
        )
    return (
        f"Intervals are 95 % intervals {pairs}, for another run on this training set and another "
        "test set of this size: seeds and test examples both count as drawn at random."
    )


def times_note(summary: Summary) -> str:
    """Say how the times of heads were measured, and what their ratios are; empty without any."""
    timing = summary.timing
    if not timing or not any(head.inference_us or head.training_us for head in summary.heads):
        return ""
    batch, device, threads = (timing.get(k, "?") for k in ("batch_size", "device", "threads"))
    text = (
        f"Head times are microseconds per batch of {batch} on {device} with "
        f"{threads} thread{'' if threads == 1 else 's'}: the head alone, inference and training "
        "step"
    )
    processes = timing.get("processes")
    if processes:
        text += f", medians over {processes} processes"
    text += "."
    if _ratios(summary, "inference_ratio") or _ratios(summary, "training_ratio"):
        text += (
            f" {_of_first(summary)}: heads take turns, and each is held against the first in the "
            "same turn; the mean over processes of the median ratio of each, with a 95 % interval "
            "over processes. What slows both is in neither, so it may differ from the ratio of two "
            "medians."
        )
    return text


def _of_first(summary: Summary) -> str:
    return f"{summary.heads[0].head} over this"


def _ratios(summary: Summary, name: str) -> bool:
    return any((head.cost or {}).get(name) for head in summary.heads)


def head_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return the result as text: header (lines split at newlines) and one row per head.

    What the comparison says comes first, so that a narrow screen shows it beside the names.
    """
    heads = summary.heads
    name, *costs = _first_columns(summary)
    if any(head.params not in (None, head.head_params) for head in heads):
        costs.insert(1, ("params,\nnetwork", [_count(head.params) for head in heads]))
    if any(head.inference_us or head.training_us for head in heads):
        for title, mode in (("inference,\nµs", "inference"), ("training\nstep, µs", "training")):
            times = [three_digits(getattr(head, f"{mode}_us")) for head in heads]
            costs.append((title, times))
            if _ratios(summary, ratio := f"{mode}_ratio"):
                ratios = [time_ratio((head.cost or {}).get(ratio)) for head in heads[1:]]
                what = "inference" if mode == "inference" else "training step"
                costs.append((f"{_of_first(summary)},\n{what}", ["", *ratios]))
    memory = [(head.cost or {}).get("peak_memory_bytes") for head in heads]
    if any(memory):
        shown = [NONE if one is None else f"{one / 2**20:,.3g}" for one in memory]
        costs.append(("peak\nmemory,\nMiB", shown))
    costs.append(("train\nseconds", [three_digits(head.train_seconds_mean) for head in heads]))
    scores, *answers, counts = _answer_columns(summary)
    return _as_rows([name, *answers, scores, counts, *costs], summary)


def short_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return what fits a terminal of 80 characters; the report holds the rest."""
    first = _first_columns(summary)
    if max(len(head.head) for head in summary.heads) > _LONG:
        first = first[:1]
    return _as_rows([*first, *_answer_columns(summary)], summary)


_LONG = 17  # letters of a name beside which no column of costs has room
_Column = tuple[str, list[str]]
_BASELINE = "baseline"


def _first_columns(summary: Summary) -> list[_Column]:
    heads = summary.heads
    columns = [(summary.wording.kind, [head.head for head in heads])]
    if any(head.head_params is not None for head in heads):
        columns.append(("params,\nhead", [_count(head.head_params) for head in heads]))
    if any(head.head_macs is not None for head in heads):
        columns.append(("MACs,\nhead", [_count(head.head_macs) for head in heads]))
    return columns


def _answer_columns(summary: Summary) -> list[_Column]:
    units, heads = summary.wording, summary.heads
    title = f"{units.title}{', %' if units.in_points else ''}\n(mean ± std)"
    columns = [(title, [units.mean(head.mean, head.std) for head in heads])]
    known = [head.difference for head in heads]
    if len(heads) > 1:
        unit = ", points" if units.in_points else ""
        title = f"{heads[0].head} minus this\n(95 % interval){unit}"
        columns.append((title, [interval(d, units.differences) if d else "" for d in known]))
        if summary.code != "nothing-learned":
            columns.append(("answer", [VERDICTS[d.code].word if d else "" for d in known]))
    counts = [
        f"{head.n} of {head.n + len(head.failed)}" if head.failed else str(head.n) for head in heads
    ]
    columns.append(("n", counts))
    return columns


def _as_rows(columns: list[_Column], summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Turn columns into a header and rows, with one of the constant predictor."""
    header = [title for title, _ in columns]
    rows = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]
    if summary.baseline is not None:
        value = summary.wording.value(summary.baseline, unit=False)
        rows.append(
            [
                _BASELINE if i == 0 else value if "(mean ± std)" in title else ""
                for i, title in enumerate(header)
            ]
        )
    return header, rows


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"

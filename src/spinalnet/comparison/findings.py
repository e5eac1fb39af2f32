"""What a comparison of heads says, in sentences, notes and rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spinalnet.comparison.statistics import ALPHA, Difference
from spinalnet.comparison.wording import Units, interval, listing, three_digits

if TYPE_CHECKING:
    from spinalnet.comparison.finished import FinishedRuns
    from spinalnet.comparison.summary import HeadSummary, Summary


def findings(data: str, model: str, heads: Sequence[HeadSummary], units: Units) -> list[str]:
    """Say what the first head reaches, then weigh its gain and cost against each other head."""
    first, *others = heads
    spread = "one seed"
    if first.std is not None:
        spread = f"standard deviation {units.differences(first.std)[0]}, n={first.n}"
    score = (
        f"{units.value(first.mean)} test accuracy"
        if units.metric == "accuracy"
        else f"a test {units.metric} of {units.value(first.mean)}"
    )
    return [
        f"On {data} with {model}, the {first.head} head reaches {score} ({spread}).",
        *(_against(first, h, h.difference, units) for h in others if h.difference),
    ]


def _against(first: HeadSummary, other: HeadSummary, d: Difference, units: Units) -> str:
    sentences = [f"Against {other.head}: {d.verdict}."]
    if d.outcome == "none" and d.mean is not None and d.low is not None and d.high is not None:
        mean, low, high = units.differences(d.mean, d.low, d.high)
        unit = " points" if units.metric == "accuracy" else ""
        sentences.append(
            f"The mean difference is {mean}{unit} (95 % interval {low} to {high}); "
            f"with these seeds and this spread, one below {units.amount((d.high - d.low) / 2)} "
            "would not have counted as evidence."
        )
    one_example = 1 / units.test_size if units.metric == "accuracy" and units.test_size else 0.0
    if d.outcome in ("better", "worse") and abs(d.mean or 0.0) < one_example:
        sentences.append("That is less than one test example.")
    ratios = {
        "parameters": _over(first.head_params, other.head_params),
        "MACs": _over(first.head_macs, other.head_macs),
        "inference time": _over(first.inference_us, other.inference_us),
        "training-step time": _over(first.training_us, other.training_us),
    }
    known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if known:
        costs = listing([f"{ratio:.2f} times the {name}" for name, ratio in known.items()])
        sentences.append(f"The {first.head} head takes {costs} of the {other.head} head.")
        if whole := _over(first.train_seconds_mean, other.train_seconds_mean):
            sentences.append(f"Training the whole network takes {whole:.2f} times as long.")
        sentences.append(_weigh(first.head, d, known, units))
    return " ".join(sentence for sentence in sentences if sentence)


def _weigh(first: str, d: Difference, ratios: Mapping[str, float], units: Units) -> str:
    """One sentence on gain against cost; ratios within 5 % count as equal."""
    saved = listing([name for name, ratio in ratios.items() if ratio < 0.95])
    paid = listing([name for name, ratio in ratios.items() if ratio > 1.05])
    if d.outcome == "untested":
        return ""
    if d.outcome == "none":
        if saved and paid:
            return f"The choice is one of cost: {first} saves {saved} and pays in {paid}."
        if paid:
            return f"What {first} pays in {paid} buys nothing that these runs can show."
        if saved:
            loss = -(d.low or 0.0) if units.higher_is_better else (d.high or 0.0)
            allowed = f"; the interval still allows one of {units.amount(loss)}" if loss > 0 else ""
            return f"The saving in {saved} comes without a loss that these runs can show{allowed}."
        return "At about equal cost these runs give no reason to prefer either."
    if not saved and not paid:
        return "The cost is about equal."
    if d.outcome == "better":
        with_saving = f"comes with a saving in {saved}" if saved else ""
        with_price = f"is paid for in {paid}" if paid else ""
        return f"The gain {' and '.join(filter(None, [with_saving, with_price]))}."
    if saved:
        return f"The loss buys a saving in {saved}{f', at a price in {paid}' if paid else ''}."
    return f"It costs more {paid} as well: nothing in these runs speaks for {first}."


def _over(first: float | None, other: float | None) -> float | None:
    return first / other if first and other else None


def missing_notes(comparison: FinishedRuns, unusable: Sequence[str]) -> list[str]:
    """Say which runs are not counted."""
    notes = []
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
        notes.append("Differences use only the seeds that both heads of a pair finished.")
    return notes


def method_notes(
    heads: Sequence[HeadSummary],
    units: Units,
    selected: Sequence[str],
    sizes: Sequence[int],
    timing: Mapping[str, Any] | None,
) -> list[str]:
    """What a reader must know of the method to judge the numbers."""
    notes = []
    if timing:
        batch, device = timing.get("batch_size", "?"), timing.get("device", "?")
        notes.append(
            f"Head times are microseconds per batch of {batch} on {device} with "
            f"{timing.get('threads', '?')} thread(s): the head alone, inference and training step."
        )
    if "test" in selected:
        notes.append(
            "Selected on test: the reported epoch was chosen by the test result, "
            "so the figures are optimistic."
        )
    tested = [h.difference for h in heads if h.difference and h.difference.p_value is not None]
    if tested:
        notes.append(
            "Intervals are 95 % t intervals of the differences paired by seed, first head minus "
            "other. All runs share one test set, so they cover the randomness of training "
            "(the seed) only, not the sampling of the test set."
        )
    if len(tested) > 1:
        notes.append(
            f"{len(tested)} comparisons are made: a difference counts as evidence only if its "
            f"Holm-corrected p-value is below {ALPHA}; each interval is that of its comparison "
            "alone."
        )
    if len(sizes) > 1:
        notes.append(f"The runs were tested on different numbers of examples: {listing(sizes)}.")
    if units.metric == "accuracy" and units.test_size:
        mean, size = heads[0].mean, units.test_size
        error = math.sqrt(mean * (1 - mean) / size)
        notes.append(
            f"The test set has {size:,} examples: one is worth {100 / size:.2g} points, and the "
            f"binomial standard error of a single accuracy near {units.value(mean)} is "
            f"{100 * error:.2g} points."
        )
    if all(head.n == 1 for head in heads):
        notes.append(
            "One seed per head: how much a result changes from seed to seed is unknown, so "
            "nothing can be concluded; use at least 5 seeds."
        )
    fewest = min((d.n for d in tested), default=0)
    if 2 <= fewest < 5:
        notes.append(
            f"With {fewest} pairs an interval is wide and leans on the differences being normally "
            "distributed; use at least 5 seeds before drawing conclusions."
        )
    return notes


def head_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return the result as text: header (lines split at newlines) and one row per head."""
    units = summary.units
    timed = any(head.inference_us or head.training_us for head in summary.heads)
    compared = len(summary.heads) > 1
    score = "accuracy,\n%" if summary.metric == "accuracy" else f"{summary.metric}\n"
    unit = ",\npoints" if summary.metric == "accuracy" else ""
    header = ["head", "params", "head\nMACs"]
    if timed:
        header.append("head time,\nµs (inf. /\ntrain.)")
    header.append(f"{score} (mean\n± std)")
    if compared:
        header.append(f"{summary.heads[0].head} minus\nthis (95 % interval{unit})")
    header += ["n", "train\nseconds"]
    rows = []
    for head in summary.heads:
        row = [head.head, f"{head.params:,}", f"{head.head_macs:,}"]
        if timed:
            row.append(f"{three_digits(head.inference_us)} / {three_digits(head.training_us)}")
        row.append(units.mean(head.mean, head.std))
        if compared:
            row.append(interval(head.difference, units.differences))
        rows.append([*row, str(head.n), three_digits(head.train_seconds_mean)])
    return header, rows

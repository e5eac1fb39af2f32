"""TODO(comparison.wording): split from summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from spinalnet.comparison.outputs import ClassScore
from spinalnet.comparison.statistics import Units

if TYPE_CHECKING:
    from rich.table import Table

    from spinalnet.comparison.statistics import Difference
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


def listing(items: Iterable[object]) -> str:
    """Join as in a sentence: "a, b and c"."""
    *head, last = [str(item) for item in items] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def table_cells(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """The result table as text: header (lines split at newlines) and one row per head."""
    units = Units(summary.metric, summary.test_size)
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
            row.append(f"{_number(head.inference_us)} / {_number(head.training_us)}")
        std = "" if head.std is None else f" ± {units.differences(head.std)[0]}"
        row.append(units.value(head.mean, unit=False) + std)
        if compared:
            row.append(_difference_cell(head.difference, units))
        rows.append([*row, str(head.n), _number(head.train_seconds_mean)])
    return header, rows


def _difference_cell(d: Difference | None, units: Units) -> str:
    if d is None or d.mean is None:
        return "–"
    if d.low is None or d.high is None:
        (mean,) = units.differences(d.mean)
        return f"{mean} (no interval, n={d.n})"
    mean, low, high = units.differences(d.mean, d.low, d.high)
    return f"{mean} ({low} to {high})"


def _number(value: float | None) -> str:
    """Print a time with about three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def result_table(summary: Summary) -> Table:
    """Return the result table for the terminal, captioned with the setting."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    header, rows = table_cells(summary)
    table = Table(
        title=f"{summary.data}, {summary.model}, selected on {summary.selected_on}",
        box=SIMPLE_HEAD,  # with no rules between columns the table fits 80 characters
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in header:
        is_name = column == "head"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(summary: Summary) -> str:
    """Return the result table as GitHub Markdown, without a trailing newline."""
    header, rows = table_cells(summary)
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [[column.replace("\n", " ") for column in header], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def class_table(classes: Mapping[str, ClassScore]) -> Table:
    """Return precision, recall, F1 and support by class, for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("class", "precision", "recall", "F1", "support"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in classes.items():
        shares = [f"{share:.4f}" for share in (row.precision, row.recall, row.f1)]
        table.add_row(escape(name), *shares, f"{row.support}")
    return table

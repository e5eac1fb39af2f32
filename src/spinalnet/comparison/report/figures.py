"""The figures of what is compared: differences, learning curves, the metric against cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from spinalnet.comparison.finished import FinishedRuns
from spinalnet.comparison.metrics import METRICS
from spinalnet.comparison.report import drawing
from spinalnet.comparison.report.drawing import Drawn, Theme, clip, series
from spinalnet.comparison.statistics import finite, half_width
from spinalnet.comparison.wording import VERDICTS, per_cent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from spinalnet.comparison.answer import HeadSummary, Summary


Curves = dict[str, dict[int, list[float]]]  # head: epoch: values of the seeds


def differences(summary: Summary) -> Drawn:
    """Paired differences with both intervals and the margin as a band: who is better, or equal."""

    def paint(figure: Figure, theme: Theme) -> None:
        paint_differences(figure.add_subplot(), theme, summary)

    of_seeds = any(h.difference and h.difference.seeds_low is not None for h in summary.heads)
    lines = " (thin line), and that for other seeds on the same test set (thick line)"
    caption = (
        f"{summary.heads[0].head} minus each other: the mean of the paired differences with its "
        f"95 % interval{lines if of_seeds else ''}. An interval that leaves out 0 shows a "
        "difference; one inside the band (the margin) shows that there is none worth the name."
    )
    height = 1.3 + 0.42 * len(summary.heads)
    return drawing.draw("differences", "Differences", caption, (drawing.WIDTH, height), paint)


def paint_differences(axes: Axes, theme: Theme, summary: Summary) -> None:
    """Draw the differences of a comparison on axes."""
    units = summary.wording
    scale = 100.0 if units.in_points else 1.0
    known = [head.difference for head in summary.heads[1:] if head.difference]
    unit = "points" if units.in_points else units.title
    better = "right" if units.higher_is_better else "left"
    label = f"{summary.heads[0].head} minus the other, {unit} (better to the {better})"
    drawing.label_axes(axes, theme, label, "")
    if summary.margin:
        edge = summary.margin * scale
        axes.axvspan(-edge, edge, color=theme.series[2], alpha=0.14, linewidth=0)
    axes.axvline(0, color=theme.ink, linewidth=0.9)
    for place, d in enumerate(known):
        if d.mean is None:
            continue
        colour = theme.series[_PLACE_OF_CODE.get(d.code, 6)]
        for low, high, width in ((d.low, d.high, 1.6), (d.seeds_low, d.seeds_high, 5.0)):
            if low is not None and high is not None and math.isfinite(low + high):
                ends = [scale * low, scale * high]
                axes.plot(ends, [place, place], color=colour, linewidth=width, alpha=0.75)
        (point,) = axes.plot([scale * d.mean], [place], "o", color=colour, markersize=7)
        drawing.tip(point, f"{d.of} against {d.minus}: {d.verdict}")
    axes.set_yticks(
        range(len(known)), [f"{clip(d.minus, 28)}\n{VERDICTS[d.code].word}" for d in known]
    )
    axes.set_ylim(len(known) - 0.4, -0.6)


MOST_POINTS = 600
"""Points of a drawn curve, which is no wider: of more epochs neighbours are drawn as one."""

_PLACE_OF_CODE = {"better": 2, "worse": 1, "equal": 0}  # of the theme's series; else grey


def learning_curves(comparison: FinishedRuns, summary: Summary) -> Drawn | None:
    """Validation curves: mean over units, band from the worst to the best; None without epochs."""
    found = find_curves(comparison, summary)
    if found is None:
        return None
    cut = found.cut

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        paint_curves(axes, theme, found, summary)
        drawing.legend(figure, axes, theme)

    caption = f"{found.label.capitalize()} per epoch"
    if found.over:
        caption += f": mean over {found.over}, band from the lowest to the highest; a thin line "
        caption += "where some had already stopped"
    caption += "."
    caption += " The axis leaves out the steep start." if cut else ""
    if max(map(len, found.by_head.values())) > MOST_POINTS:
        caption += " Neighbouring epochs are drawn as one, with the mean and range of all."
    return drawing.draw("learning_curves", "Learning curves", caption, (drawing.WIDTH, 3.8), paint)


@dataclass(frozen=True)
class FoundCurves:
    """Validation curves by head, and how they are best shown."""

    key: str
    by_head: Curves
    limits: tuple[float, float]
    left: float | None
    cut: bool
    over: str

    @property
    def label(self) -> str:
        """What is drawn, in words."""
        part, _, metric = self.key.partition("_")
        return f"{'training' if part == 'train' else 'validation'} {metric}"


def find_curves(comparison: FinishedRuns, summary: Summary) -> FoundCurves | None:
    """Return the validation curves of all runs; None if they have no epochs."""
    rows = [row for record in comparison.records for row in record.metrics]
    if not rows:
        return None
    key = f"val_{summary.metric}"
    # Of tables there may be rows held out, or none.
    known = {name for row in rows for name, value in row.items() if value is not None}
    key = next((name for name in (key, "val_loss", "train_loss") if name in known), key)
    top = 1.0 if key == "val_accuracy" else None
    curves: Curves = {head.head: {} for head in summary.heads}
    for head, by_epoch in curves.items():
        for record in comparison.runs[head].values():
            for row in record.metrics:
                if row.get(key) is not None:
                    epoch = row.get("epoch_of_net") or row["epoch"]  # nets learn one by one
                    by_epoch.setdefault(int(epoch), []).append(float(row[key]))
    epochs = sorted({epoch for by_epoch in curves.values() for epoch in by_epoch})
    # The first steep epochs would flatten all that follows; the axis may cut them.
    settled = epochs[len(epochs) // 3 :]
    shown = [v for by_epoch in curves.values() for e in settled for v in by_epoch.get(e, [])]
    everything = [v for by_epoch in curves.values() for vs in by_epoch.values() for v in vs]
    limits = _limits(shown, top)
    cut = any(not limits[0] <= v <= limits[1] for v in everything)
    seen = [e for by in curves.values() for e, vs in by.items() if limits[0] < max(vs) < limits[1]]
    left = max(epochs[0], min(seen, default=1) - 1) if cut and len(epochs) > 1 else None
    over = [f"{summary.unit_kind}s"] if len(summary.units) > 1 else []
    over += ["nets"] if len({row.get("net") for row in rows}) > 1 else []
    return FoundCurves(key, curves, limits, left, cut, " and ".join(over))


def paint_curves(axes: Axes, theme: Theme, found: FoundCurves, summary: Summary) -> None:
    """Draw validation curves on axes."""
    from matplotlib.ticker import MaxNLocator

    drawing.label_axes(axes, theme, "epoch", found.label)
    for i, (head, by_epoch) in enumerate(found.by_head.items()):
        if by_epoch:
            _paint_curve(axes, head, by_epoch, series(theme, i))
    setting = f"{clip(summary.data, 32)}, {summary.model}"
    setting += f": mean and range over {found.over}" if found.over else ""
    axes.set_title(setting, color=theme.ink, loc="left", fontsize=10)
    axes.set_ylim(*found.limits)
    if found.left is not None:
        axes.set_xlim(left=found.left)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if found.key == "val_accuracy":
        axes.yaxis.set_major_formatter(lambda share, _: per_cent(share))


def _paint_curve(
    axes: Axes, head: str, by_epoch: Mapping[int, Sequence[float]], style: dict[str, Any]
) -> None:
    epochs = sorted(by_epoch)
    together = math.ceil(len(epochs) / MOST_POINTS)
    groups = [epochs[start : start + together] for start in range(0, len(epochs), together)]
    xs = [group[-1] for group in groups]
    values = [[value for epoch in group for value in by_epoch[epoch]] for group in groups]
    means, lows, highs = (list(map(of, values)) for of in (fmean, min, max))
    most = len(by_epoch[epochs[0]])
    full = [x for x in xs if len(by_epoch[x]) == most]
    marker = "o" if len(xs) == 1 else None
    axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(xs, means, **style, linewidth=1, alpha=0.6)
    (line,) = axes.plot(full, means[: len(full)], **style, linewidth=2, marker=marker, label=head)
    drawing.tip(line, f"{head}: {fmean(by_epoch[epochs[-1]]):.4g} in epoch {epochs[-1]}")


def _limits(
    values: Sequence[float], top: float | None = None, bottom: float | None = None
) -> tuple[float, float]:
    """Axis limits around the values with a margin, beyond `top` and `bottom` by a dot's radius."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    low, high, dot = low - margin, high + margin, 0.3 * margin
    return (
        low if bottom is None else max(low, bottom - dot),
        high if top is None else min(high, top + dot),
    )


@dataclass(frozen=True)
class Cost:
    """One of the costs a head is drawn against: its label, and its value and range."""

    label: str
    value: Callable[[HeadSummary], float | None]
    spread: Callable[[HeadSummary], Sequence[float] | None] = lambda head: None


COSTS: dict[str, Cost] = {
    "parameters": Cost("parameters of the head", lambda head: head.head_params),
    "macs": Cost("multiplications per example", lambda head: head.head_macs),
    "inference": Cost(
        "inference, µs per batch",
        lambda head: head.inference_us,
        lambda head: (head.cost or {}).get("inference_quartiles"),
    ),
    "fit": Cost(
        "seconds of a run's fit",
        lambda head: head.train_seconds_mean,
        lambda head: (head.cost or {}).get("fit_quartiles"),
    ),
}


def metric_against_cost(summary: Summary) -> Drawn | None:
    """Test metric against what the head costs: every unit, mean and its interval."""
    timed = any(head.inference_us for head in summary.heads)
    costs = [
        cost
        for name, cost in COSTS.items()
        if len([head for head in summary.heads if head.mean is not None and cost.value(head)]) > 1
        # Runs that train side by side disturb each other, but trees have no other time.
        and not (name == "fit" and timed)
    ]
    if not costs:
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
        for axes, cost in zip(panels, costs, strict=True):
            paint_against_cost(axes, theme, summary, cost)
            axes.label_outer()
        # Trees have no parameters, so that not every panel names every head.
        whole = max(panels, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
        drawing.legend(figure, whole, theme)

    units = summary.wording
    title = f"{units.title.capitalize() if units.in_points else units.title} against cost"
    caption = (
        f"Each faint dot is one run; the large dot is the mean over {units.repeat}s with its 95 % "
        "t interval. Runs are paired, so overlap of these intervals says nothing about a "
        "difference: the answers above do. Heads of about equal cost are drawn slightly apart."
    )
    if any(cost.spread(head) for cost in costs for head in summary.heads):
        caption += " The line across a time joins its quartiles."
    return drawing.draw("cost", title, caption, (1.4 + 3.2 * len(costs), 4.0), paint)


def paint_against_cost(axes: Axes, theme: Theme, summary: Summary, cost: Cost) -> None:
    """Draw the metric of every head over one of its costs on axes."""
    rows = [head for head in summary.heads if head.mean is not None and cost.value(head)]
    xs = [float(cost.value(head) or 1) for head in rows]
    units = summary.wording
    bounds = METRICS[units.metric].bounds
    columns = [_Column(head, x, bounds) for head, x in zip(rows, _apart(xs), strict=True)]
    across = {
        column.name: [column.x * q / float(cost.value(head) or 1) for q in cost.spread(head) or ()]
        for head, column in zip(rows, columns, strict=True)
    }
    # With two seeds an interval can be far wider than the data; it may leave the axes.
    values = [v for column in columns for v in column.values]
    spread = max(values) - min(values) or abs(values[0]) or 1.0
    least, most = min(values) - spread, max(values) + spread
    ends = [min(max(end, least), most) for column in columns for end in column.interval]
    drawing.label_axes(axes, theme, cost.label, f"test {units.title}")
    _scale_by_counts(axes, [*xs, *chain.from_iterable(across.values())])
    axes.set_ylim(*_limits([*values, *ends], bounds[1], bounds[0]))
    if units.in_points:
        axes.yaxis.set_major_formatter(lambda share, _: per_cent(share))
    places = {head.head: place for place, head in enumerate(summary.heads)}
    for head, column in zip(rows, columns, strict=True):
        colour = series(theme, places[head.head])["color"]
        if shifted := across[head.head]:
            axes.plot(shifted, [column.mean] * 2, color=colour, linewidth=1.2)
        point = _paint_column(axes, column, colour)
        mean = units.value(column.mean)
        drawing.tip(point, f"{head.head}: {mean}, {_short(float(cost.value(head) or 1))}")


def scores(summary: Summary) -> Drawn:
    """The metric of every unit and row, and the means."""

    def paint(figure: Figure, theme: Theme) -> None:
        paint_scores(figure.add_subplot(), theme, summary)

    caption = f"Each dot is one {summary.unit_kind}; the line is the mean."
    height = 1.2 + 0.42 * len(summary.heads)
    return drawing.draw("scores", "Spread of the runs", caption, (drawing.WIDTH, height), paint)


def paint_scores(axes: Axes, theme: Theme, summary: Summary) -> None:
    """Draw the metric of every unit and row on axes."""
    units = summary.wording
    drawing.label_axes(axes, theme, f"test {units.title}", "")
    for place, row in enumerate(summary.heads):
        values = finite(row.values)
        apart = max(1, len(values) - 1)
        spread = [place + 0.24 * (i / apart - 0.5) for i in range(len(values))]
        colour = series(theme, place)["color"]
        axes.plot(values, spread, "o", color=colour, alpha=0.5, markersize=5)
        if row.mean is not None:
            axes.plot([row.mean], [place], "|", color=theme.ink, markersize=18, markeredgewidth=2)
    axes.set_yticks(range(len(summary.heads)), [clip(row.head, 28) for row in summary.heads])
    axes.set_ylim(len(summary.heads) - 0.4, -0.6)
    if units.in_points:
        axes.xaxis.set_major_formatter(lambda share, _: per_cent(share))


class _Column:
    """One head at its place on the axis of parameters; its interval ends where its metric does."""

    def __init__(
        self, head: HeadSummary, x: float, bounds: tuple[float | None, float | None]
    ) -> None:
        self.name, self.x, self.mean = head.head, x, head.mean or 0.0
        self.values = finite(head.values)
        error = 0.0 if head.std is None else half_width(head.std, head.n)
        least, most = bounds
        low, high = self.mean - error, self.mean + error
        self.interval = (
            low if least is None else max(low, min(least, self.mean)),
            high if most is None else min(high, max(most, self.mean)),
        )


def _scale_by_counts(axes: Axes, xs: Sequence[float]) -> None:
    """Give the x axis a log scale around the counts."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ticks = (1, 2, 5) if max(xs) > 3 * min(xs) else (1, 1.5, 2, 3, 5, 7)
    ticks = (1,) if max(xs) > 300 * min(xs) else ticks
    axes.set_xscale("log")
    axes.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
    axes.xaxis.set_major_locator(LogLocator(subs=ticks))
    axes.xaxis.set_major_formatter(lambda x, _: _short(x))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _paint_column(axes: Axes, column: _Column, colour: str) -> Line2D:
    """Draw the runs, the interval and the mean of a head; return the mean."""
    from matplotlib.transforms import ScaledTranslation

    scale = axes.get_figure().dpi_scale_trans  # type: ignore[union-attr]
    beside = axes.transData + ScaledTranslation(-7 / 72, 0, scale)
    xs = [column.x] * len(column.values)
    axes.scatter(xs, column.values, s=20, color=colour, alpha=0.4, linewidth=0, transform=beside)
    low, high = column.interval
    error = [[column.mean - low], [high - column.mean]] if high > low else None
    axes.errorbar(column.x, column.mean, yerr=error, color=colour, capsize=4, linewidth=1.8)
    (point,) = axes.plot(column.x, column.mean, "o", color=colour, markersize=7, label=column.name)
    return point


def _apart(xs: Sequence[float]) -> list[float]:
    """Move near neighbours on a log axis apart, so that their columns do not cover each other."""
    logs = [math.log(x) for x in xs]
    gap = 0.035 * (max(logs) - min(logs) + 2 * math.log(1.6))
    order = sorted(range(len(xs)), key=lambda i: logs[i])
    for _ in range(100):
        for a, b in pairwise(order):
            short = max(0.0, gap - (logs[b] - logs[a]))
            logs[a], logs[b] = logs[a] - short / 2, logs[b] + short / 2
    return [math.exp(log) for log in logs]


def _short(value: float) -> str:
    """Print a count for an axis: 500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"

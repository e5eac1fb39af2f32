"""The figures of a report, each drawn for a light and for a dark page."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from spinalnet.comparison.classes import LARGEST_MATRIX, Confusion, HeadQuality, confused_pairs
from spinalnet.comparison.statistics import ALPHA
from spinalnet.comparison.summary import FinishedRuns, Summary
from spinalnet.comparison.wording import listing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A plot drawn for a light and a dark page, with the text that stands for it."""

    name: str
    title: str
    caption: str
    light: bytes  # PNG
    dark: bytes


@dataclass(frozen=True)
class _Theme:
    """Colours of a page. The series are told apart with any common colour blindness."""

    ground: str
    ink: str
    grid: str
    heat: tuple[str, str]  # of nothing, of all
    series: tuple[str, ...]  # Okabe and Ito's palette, brightened on the dark ground


_LIGHT = _Theme(
    ground="#ffffff",
    ink="#1f2328",
    grid="#d8dee4",
    heat=("#ffffff", "#0b4f8a"),
    series=("#0072b2", "#d55e00", "#009e73", "#b65f94", "#c98500", "#3ba3dc", "#6b6b6b"),
)
_DARK = _Theme(
    ground="#14181d",
    ink="#e6edf3",
    grid="#313a44",
    heat=("#14181d", "#6cc0ff"),
    series=("#4fb0e8", "#ff8a3d", "#2cc79b", "#e39ac4", "#f2bd3f", "#a4d8f5", "#b5b5b5"),
)
_DASHES = ("solid", "dashed", "dotted")


def _draw(
    name: str,
    title: str,
    caption: str,
    size: tuple[float, float],
    paint: Callable[..., None],
    dpi: int = 160,
) -> Drawn:
    """Run `paint(figure, theme)` on an empty figure of `size` inches, once per theme."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    images = []
    for theme in (_LIGHT, _DARK):
        # A Figure of its own, without pyplot: no global state, no display, nothing to close.
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
        figure = Figure(figsize=size, dpi=dpi, layout=layout, facecolor=theme.ground)
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A class name in a script the font lacks is drawn as boxes; the page has it in full.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            paint(figure, theme)
            figure.savefig(buffer, format="png", metadata={"Software": None})
        images.append(buffer.getvalue())
    return Drawn(name, title, caption, *images)


def _axes(axes: Axes, theme: _Theme, x: str, y: str) -> None:
    """Give axes their labels and the theme's colours."""
    axes.set_facecolor(theme.ground)
    axes.set_xlabel(x, color=theme.ink)
    axes.set_ylabel(y, color=theme.ink)
    axes.tick_params(which="both", colors=theme.ink, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes, theme: _Theme) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        frameon=False,
        labelcolor=theme.ink,
    )


def _series(theme: _Theme, i: int) -> dict[str, Any]:
    turn, colour = divmod(i, len(theme.series))
    return {"color": theme.series[colour], "linestyle": _DASHES[turn % len(_DASHES)]}


def learning_curves(comparison: FinishedRuns, summary: Summary) -> Drawn:
    """Validation curves: mean over seeds, band from the worst to the best seed."""
    from matplotlib.ticker import MaxNLocator

    rows = [row for record in comparison.records for row in record.metrics]
    key = f"val_{summary.metric}"
    if not any(row.get(key) is not None for row in rows):
        key = "val_loss"
    is_share = key == "val_accuracy"
    curves: dict[str, dict[int, list[float]]] = {head.head: {} for head in summary.heads}
    for head, by_epoch in curves.items():
        for record in comparison.runs[head].values():
            for row in record.metrics:
                if row.get(key) is not None:
                    by_epoch.setdefault(int(row["epoch"]), []).append(float(row[key]))
    epochs = sorted({epoch for by_epoch in curves.values() for epoch in by_epoch})
    # The first steep epochs would flatten all that follows; the axis may cut them.
    settled = epochs[len(epochs) // 3 :]
    shown = [v for by_epoch in curves.values() for e in settled for v in by_epoch.get(e, [])]
    everything = [v for by_epoch in curves.values() for vs in by_epoch.values() for v in vs]
    limits = _limits(shown, top=1.0 if is_share else None)
    cut = any(not limits[0] <= v <= limits[1] for v in everything)
    seen = [e for by in curves.values() for e, vs in by.items() if limits[0] < max(vs) < limits[1]]

    setting = f"{_clip(summary.data, 32)}, {summary.model}: mean and range over seeds"

    def paint(figure: Figure, theme: _Theme) -> None:
        axes = figure.add_subplot()
        _axes(axes, theme, "epoch", f"validation {key.removeprefix('val_')}")
        for i, (head, by_epoch) in enumerate(curves.items()):
            xs = sorted(by_epoch)
            means = [math.fsum(by_epoch[x]) / len(by_epoch[x]) for x in xs]
            lows, highs = [min(by_epoch[x]) for x in xs], [max(by_epoch[x]) for x in xs]
            style = _series(theme, i)
            full = [x for x in xs if len(by_epoch[x]) == len(by_epoch[xs[0]])]
            axes.fill_between(xs, lows, highs, color=style["color"], alpha=0.16, linewidth=0)
            axes.plot(xs, means, **style, linewidth=1, alpha=0.6)
            axes.plot(
                full,
                means[: len(full)],
                **style,
                linewidth=2,
                marker="o" if len(xs) == 1 else None,
                label=head,
            )
        axes.set_title(setting, color=theme.ink, loc="left", fontsize=10)
        axes.set_ylim(*limits)
        if cut and len(epochs) > 1:
            axes.set_xlim(left=max(epochs[0], min(seen, default=1) - 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if is_share:
            axes.yaxis.set_major_formatter(_per_cent)
        _legend(figure, axes, theme)

    caption = (
        "Validation result per epoch: mean over seeds, band from the lowest to the highest seed"
        "; a thin line where some seeds had already stopped."
    )
    caption += " The axis leaves out the steep start." if cut else ""
    return _draw("learning_curves", "Learning curves", caption, (6.4, 4.2), paint)


def _limits(values: Sequence[float], top: float | None = None) -> tuple[float, float]:
    """Axis limits around the values with a margin, not far above `top`."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    high = high + margin
    return low - margin, high if top is None else min(high, top + 0.1 * margin)


def metric_against_params(summary: Summary) -> Drawn:
    """Test metric against the parameters of the head: every seed, mean and its interval."""
    from matplotlib.ticker import LogLocator, NullFormatter
    from matplotlib.transforms import ScaledTranslation
    from scipy.stats import t

    xs = [max(1, head.head_params) for head in summary.heads]
    places = _apart(xs)
    errors = [
        0.0
        if head.std is None
        else float(t.ppf(1 - ALPHA / 2, head.n - 1)) * head.std / math.sqrt(head.n)
        for head in summary.heads
    ]
    seeds = [[v for v in head.values if v is not None] for head in summary.heads]
    is_share = summary.metric == "accuracy"
    ends = [h.mean + s * e for h, e in zip(summary.heads, errors, strict=True) for s in (-1, 1)]
    # With two seeds an interval can be far wider than the data; it may leave the axes.
    values = [v for vs in seeds for v in vs]
    spread = max(values) - min(values) or abs(values[0]) or 1.0
    ends = [min(max(end, min(values) - spread), max(values) + spread) for end in ends]
    limits = _limits([*values, *ends], top=1.0 if is_share else None)

    ticks = (1, 2, 5) if max(xs) > 3 * min(xs) else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)
    ticks = (1,) if max(xs) > 300 * min(xs) else ticks
    setting = f"{_clip(summary.data, 32)}, {summary.model}: test {summary.metric} by head"

    def paint(figure: Figure, theme: _Theme) -> None:
        axes = figure.add_subplot()
        _axes(axes, theme, "parameters of the head", f"test {summary.metric}")
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 1.6, max(xs) * 1.6)
        axes.set_title(setting, color=theme.ink, loc="left", fontsize=10)
        axes.set_ylim(*limits)
        axes.xaxis.set_major_locator(LogLocator(subs=ticks))
        axes.xaxis.set_major_formatter(lambda x, _: _short(x))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if is_share:
            axes.yaxis.set_major_formatter(_per_cent)
        for i, head in enumerate(summary.heads):
            colour = _series(theme, i)["color"]
            axes.scatter(
                [places[i]] * len(seeds[i]),
                seeds[i],
                s=20,
                color=colour,
                alpha=0.4,
                linewidth=0,
                transform=axes.transData + ScaledTranslation(-7 / 72, 0, figure.dpi_scale_trans),
            )
            axes.errorbar(
                places[i],
                head.mean,
                yerr=errors[i] or None,
                color=colour,
                marker="o",
                markersize=7,
                capsize=4,
                linewidth=1.8,
            )
        points = [(x, head.mean, head.head) for x, head in zip(places, summary.heads, strict=True)]
        columns = [
            (x, min([*vs, h.mean - e]), max([*vs, h.mean + e]))
            for x, vs, h, e in zip(places, seeds, summary.heads, errors, strict=True)
        ]
        _name_points(figure, axes, theme, points, columns)

    title = f"{summary.metric.capitalize() if is_share else summary.metric} against parameters"
    caption = (
        "Each faint dot is one run; the large dot is the mean over seeds with its 95 % t interval. "
        "Seeds are paired, so overlap of these intervals says nothing about a difference: "
        "the table does. Heads of about equal size are drawn slightly apart."
    )
    return _draw("accuracy_vs_params", title, caption, (6.4, 4.2), paint)


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


def _name_points(
    figure: Figure,
    axes: Axes,
    theme: _Theme,
    points: Sequence[tuple[float, float, str]],
    columns: Sequence[tuple[float, float, float]],
) -> None:
    """Write each point's name at the nearest place where it covers nothing.

    Args:
        figure: The figure, with everything but the names.
        axes: Its axes, scales and limits final.
        theme: Colours.
        points: (x, y, name) in data units.
        columns: (x, lowest y, highest y): what must stay visible.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # lays out, so that data can be turned into pixels
    figure.set_layout_engine("none")
    pixel = axes.transData.transform
    point = figure.dpi / 72
    taken = []
    for x, low, high in columns:
        (left, bottom), (_, top) = pixel((x, low)), pixel((x, high))
        taken.append(Bbox.from_extents(left - 10 * point, bottom, left + 5 * point, top))
    frame = axes.get_window_extent()
    places: list[tuple[int, int, Literal["left", "right"]]] = [
        (9 if side > 0 else -13, reach * direction, "left" if side > 0 else "right")
        for reach in range(0, 120, 6)
        for direction in (1, -1)
        for side in (1, -1)
    ]
    for x, y, name in points:
        label = axes.annotate(
            name,
            (x, y),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=theme.ink,
            fontweight="bold",
        )
        for dx, dy, align in places:
            label.set_position((dx, dy))
            label.set_horizontalalignment(align)
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(taken):
                break
        else:
            label.set_position((9, 0))
            label.set_horizontalalignment("left")
        taken.append(label.get_window_extent())


def _per_cent(value: float, _: object = None) -> str:
    """Print a share as a percentage on an axis."""
    return f"{100 * value:.6g} %"


def _short(value: float) -> str:
    """Print a count for an axis: 500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def confusion_figure(confusions: Sequence[Confusion]) -> Drawn:
    """Confusion matrices side by side; with many classes the commonest mistakes instead."""
    counted = listing([f"{c.head} (n={c.n})" for c in confusions])
    if len(confusions[0].names) > LARGEST_MATRIX:
        return _draw(
            "confusion",
            "Most confused classes",
            f"The commonest mistakes, as share of the true class's test examples, all runs of "
            f"{counted}.",
            (6.4, 5.2),
            lambda figure, theme: _paint_pairs(figure, theme, confusions),
        )
    panel = 4.6 if len(confusions[0].names) <= 12 else 7.0  # inches
    return _draw(
        "confusion",
        "Confusion matrices",
        f"Counts over all runs of {counted}; shading by the share of the true class, on a "
        "square-root scale so that rare mistakes show.",
        (panel * len(confusions), panel + 0.3),
        lambda figure, theme: _paint_matrices(figure, theme, confusions),
    )


def _paint_pairs(figure: Figure, theme: _Theme, confusions: Sequence[Confusion]) -> None:
    pairs = confused_pairs(confusions)
    axes = figure.add_subplot()
    _axes(axes, theme, "share of the true class", "")
    thick = 0.8 / len(confusions)
    for i, confusion in enumerate(confusions):
        places = [row + thick * (i - (len(confusions) - 1) / 2) for row in range(len(pairs))]
        shares = [shares[i] for _, _, shares in pairs]
        colour = _series(theme, i)["color"]
        axes.barh(places, shares, height=0.9 * thick, color=colour, label=confusion.head)
    axes.set_yticks(range(len(pairs)), [f"{_clip(a)} → {_clip(b)}" for a, b, _ in pairs])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(_per_cent)
    _legend(figure, axes, theme)


def _paint_matrices(figure: Figure, theme: _Theme, confusions: Sequence[Confusion]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    colours = LinearSegmentedColormap.from_list("heat", theme.heat)
    norm = PowerNorm(0.5, vmin=0.0, vmax=1.0)
    panels = figure.subplots(1, len(confusions), squeeze=False)[0]
    for axes, confusion in zip(panels, confusions, strict=True):
        size = range(len(confusion.names))
        shares = [[confusion.share(i, j) for j in size] for i in size]
        _axes(axes, theme, "predicted", "true")
        axes.grid(visible=False)
        axes.imshow(shares, cmap=colours, norm=norm)
        axes.set_title(f"{confusion.head} (n={confusion.n})", color=theme.ink, fontsize=11)
        names = [_clip(name) for name in confusion.names]
        size_of_names, size_of_counts = (9, 8) if len(names) <= 12 else (8, 130 / len(names))
        upright = max(map(len, names)) > 2
        axes.set_xticks(size, names, rotation=90 if upright else 0, fontsize=size_of_names)
        axes.set_yticks(size, names, fontsize=size_of_names)
        for i in size:
            for j in size:
                if count := confusion.counts[i][j]:
                    ink = theme.ground if norm(shares[i][j]) > 0.5 else theme.ink
                    axes.text(
                        j,
                        i,
                        f"{count}",
                        color=ink,
                        ha="center",
                        va="center",
                        fontsize=size_of_counts,
                    )


def _clip(name: str, length: int = 16) -> str:
    """Shorten a name for a plot, keeping both ends; a dollar sign is a dollar sign, not maths."""
    clipped = name if len(name) <= length else f"{name[: length - 8]}…{name[-7:]}"
    return clipped.replace("$", r"\$")


def reliability_figure(heads: Sequence[HeadQuality]) -> Drawn:
    """Accuracy by confidence, and how many predictions there are of each, head by head."""
    runs = listing([f"{head.head} (n={head.n})" for head in heads])
    columns = min(len(heads), 4)
    rows = math.ceil(len(heads) / columns)
    most = max(b.count / sum(c.count for c in head.bins) for head in heads for b in head.bins)

    def paint(figure: Figure, theme: _Theme) -> None:
        grid = figure.subplots(
            2 * rows,
            columns,
            squeeze=False,
            sharex=True,
            height_ratios=[3, 1] * rows,
        )
        for place in range(columns * rows):
            row, column = divmod(place, columns)
            upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
            if place >= len(heads):
                upper.set_axis_off()
                lower.set_axis_off()
                continue
            _paint_reliability(upper, lower, theme, heads[place], place)
            lower.set_ylim(0, 1.05 * most)
            if column:
                upper.set_ylabel("")
                lower.set_ylabel("")

    return _draw(
        "reliability",
        "Reliability",
        f"Of all test predictions of {runs}, in bins of the probability of the predicted class: "
        "how many are right (above; on the dotted line the probabilities say what they mean, below "
        "it the model is too sure), and the share of the predictions in each bin (below).",
        (max(3.0 * columns, 4.2), 4.2 * rows),
        paint,
    )


def _paint_reliability(
    upper: Axes, lower: Axes, theme: _Theme, head: HeadQuality, place: int
) -> None:
    from matplotlib.ticker import MaxNLocator

    colour = _series(theme, place)["color"]
    filled = [b for b in head.bins if b.count]
    total = sum(b.count for b in filled)
    width = head.bins[0].high - head.bins[0].low
    _axes(upper, theme, "", "right")
    _axes(lower, theme, "probability of the predicted class", "share")
    upper.plot([0, 1], [0, 1], color=theme.ink, linestyle="dotted", linewidth=1)
    middles = [(b.low + b.high) / 2 for b in filled]
    upper.bar(middles, [b.accuracy for b in filled], 0.9 * width, color=colour, alpha=0.35)
    upper.plot(
        [b.confidence for b in filled],
        [b.accuracy for b in filled],
        color=colour,
        marker="o",
        markersize=4,
        linewidth=1.4,
    )
    lower.bar(middles, [b.count / total for b in filled], 0.9 * width, color=colour)
    error = f"ECE {100 * head.means['ece']:.1f} %"
    upper.set_title(f"{_clip(head.head)}: {error}", color=theme.ink, loc="left", fontsize=10)
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
        axis.set_major_formatter(_per_cent)
    lower.set_xticks([0, 0.25, 0.5, 0.75, 1])
    lower.tick_params(axis="x", pad=8)
    lower.yaxis.set_major_locator(MaxNLocator(3))
    for axes in (upper, lower):
        axes.tick_params(labelsize=8)


def mistakes_figure(name: str, head: HeadQuality) -> Drawn:
    """A contact sheet of the worst mistakes of one head."""
    mistakes = head.mistakes
    columns = min(len(mistakes), 8)
    rows = math.ceil(len(mistakes) / columns)

    def paint(figure: Figure, theme: _Theme) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, mistake in zip(grid.flat, mistakes, strict=False):
            small = mistake.pixels.shape[0] < 64
            axes.imshow(
                mistake.pixels,
                cmap="gray",
                vmin=0,
                vmax=255,
                interpolation="nearest" if small else "antialiased",
            )
            true, predicted = _clip(mistake.true, 13), _clip(mistake.predicted, 11)
            said = f"{true}{between}→ {predicted}\n{100 * mistake.probability:.0f} %"
            axes.set_title(said, color=theme.ink, fontsize=8, linespacing=1.15)

    longest = max(len(m.true) + len(m.predicted) for m in mistakes)
    between, lines = (" ", 2) if longest <= 12 else ("\n", 3)
    wide = max(1.2 * columns, 4.2)
    return _draw(
        name,
        f"Most wrong: {head.head}",
        "The test images whose true class seemed least probable, on average over "
        f"{head.n} run{'s' if head.n > 1 else ''}; worst first. True class → predicted class, and "
        "the probability given to the latter.",
        (wide, (1.2 + 0.16 * lines) * rows),
        paint,
        dpi=110,  # photographs take much room
    )

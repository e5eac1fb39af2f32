"""The figures of what runs say of classes: confusions, reliability, the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spinalnet.comparison.classes import LARGEST_MATRIX, Confusion, HeadQuality, confused_pairs
from spinalnet.comparison.report import drawing
from spinalnet.comparison.report.drawing import Drawn, Theme, clip, series
from spinalnet.comparison.wording import listing, per_cent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def confusion_figure(confusions: Sequence[Confusion]) -> Drawn:
    """Confusion matrices side by side; with many classes the commonest mistakes instead."""
    counted = listing([f"{c.head} (n={c.n})" for c in confusions])
    if len(confusions[0].names) > LARGEST_MATRIX:
        return drawing.draw(
            "confusion",
            "Most confused classes",
            f"The commonest mistakes, as share of the true class's test examples, all runs of "
            f"{counted}.",
            (6.4, 5.2),
            lambda figure, theme: _paint_pairs(figure, theme, confusions),
        )
    panel = 4.6 if len(confusions[0].names) <= 12 else 7.0  # inches
    return drawing.draw(
        "confusion",
        "Confusion matrices",
        f"Counts over all runs of {counted}; shading by the share of the true class, on a "
        "square-root scale so that rare mistakes show.",
        (panel * len(confusions), panel + 0.3),
        lambda figure, theme: _paint_matrices(figure, theme, confusions),
    )


def _paint_pairs(figure: Figure, theme: Theme, confusions: Sequence[Confusion]) -> None:
    pairs = confused_pairs(confusions)
    axes = figure.add_subplot()
    drawing.label_axes(axes, theme, "share of the true class", "")
    thick = 0.8 / len(confusions)
    for i, confusion in enumerate(confusions):
        places = [row + thick * (i - (len(confusions) - 1) / 2) for row in range(len(pairs))]
        shares = [shares[i] for _, _, shares in pairs]
        colour = series(theme, i)["color"]
        axes.barh(places, shares, height=0.9 * thick, color=colour, label=confusion.head)
    axes.set_yticks(range(len(pairs)), [f"{clip(a)} → {clip(b)}" for a, b, _ in pairs])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(lambda share, _: per_cent(share))
    drawing.legend(figure, axes, theme)


def _paint_matrices(figure: Figure, theme: Theme, confusions: Sequence[Confusion]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    colours = LinearSegmentedColormap.from_list("heat", theme.heat)
    norm = PowerNorm(0.5, vmin=0.0, vmax=1.0)
    panels = figure.subplots(1, len(confusions), squeeze=False)[0]
    for axes, confusion in zip(panels, confusions, strict=True):
        size = range(len(confusion.names))
        shares = [[confusion.share(i, j) for j in size] for i in size]
        drawing.label_axes(axes, theme, "predicted", "true")
        axes.grid(visible=False)
        axes.imshow(shares, cmap=colours, norm=norm)
        axes.set_title(f"{confusion.head} (n={confusion.n})", color=theme.ink, fontsize=11)
        names = [clip(name) for name in confusion.names]
        size_of_names, size_of_counts = (9, 8) if len(names) <= 12 else (8, 130 / len(names))
        style = {"ha": "center", "va": "center", "fontsize": size_of_counts}
        upright = max(map(len, names)) > 2
        axes.set_xticks(size, names, rotation=90 if upright else 0, fontsize=size_of_names)
        axes.set_yticks(size, names, fontsize=size_of_names)
        for i in size:
            for j in size:
                if count := confusion.counts[i][j]:
                    ink = theme.ground if norm(shares[i][j]) > 0.5 else theme.ink
                    axes.text(j, i, f"{count}", color=ink, **style)


def reliability_figure(heads: Sequence[HeadQuality]) -> Drawn:
    """Accuracy by confidence, and how many predictions there are of each, head by head."""
    runs = listing([f"{head.head} (n={head.n})" for head in heads])
    columns = min(len(heads), 4)
    rows = math.ceil(len(heads) / columns)
    most = max(b.count / sum(c.count for c in head.bins) for head in heads for b in head.bins)

    def paint(figure: Figure, theme: Theme) -> None:
        ratios = [3, 1] * rows
        grid = figure.subplots(2 * rows, columns, squeeze=False, sharex=True, height_ratios=ratios)
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

    return drawing.draw(
        "reliability",
        "Reliability",
        f"Of all test predictions of {runs}, in bins of the probability of the predicted class: "
        "how many are right (above; on the dotted line the probabilities say what they mean, below "
        "it the model is too sure), and the share of the predictions in each bin (below).",
        (max(3.0 * columns, 4.2), 4.2 * rows),
        paint,
    )


def _paint_reliability(
    upper: Axes, lower: Axes, theme: Theme, head: HeadQuality, place: int
) -> None:
    from matplotlib.ticker import MaxNLocator

    colour = series(theme, place)["color"]
    filled = [b for b in head.bins if b.count]
    total = sum(b.count for b in filled)
    width = head.bins[0].high - head.bins[0].low
    drawing.label_axes(upper, theme, "", "right")
    drawing.label_axes(lower, theme, "probability of the predicted class", "share")
    upper.plot([0, 1], [0, 1], color=theme.ink, linestyle="dotted", linewidth=1)
    middles = [(b.low + b.high) / 2 for b in filled]
    right = [b.accuracy for b in filled]
    upper.bar(middles, right, 0.9 * width, color=colour, alpha=0.35)
    said = [b.confidence for b in filled]
    upper.plot(said, right, color=colour, marker="o", markersize=4, linewidth=1.4)
    lower.bar(middles, [b.count / total for b in filled], 0.9 * width, color=colour)
    error = f"ECE {per_cent(head.means['ece'], '.1f')}"
    upper.set_title(f"{clip(head.head)}: {error}", color=theme.ink, loc="left", fontsize=10)
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    for axis in (upper.yaxis, lower.yaxis, lower.xaxis):
        axis.set_major_formatter(lambda share, _: per_cent(share))
    lower.set_xticks([0, 0.25, 0.5, 0.75, 1])
    lower.tick_params(axis="x", pad=8)
    lower.yaxis.set_major_locator(MaxNLocator(3))
    for axes in (upper, lower):
        axes.tick_params(labelsize=8)


_SIDE, _BELOW = 1.0, 0.08  # of a picture, and the room below it, in inches


def mistakes_figure(name: str, head: HeadQuality) -> Drawn:
    """A contact sheet of the worst mistakes of one head."""
    mistakes = head.mistakes
    columns = min(len(mistakes), 8)
    rows = math.ceil(len(mistakes) / columns)

    def paint(figure: Figure, theme: Theme) -> None:
        # One pair of axes for all, in inches: one for each takes ten times as long to draw.
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for i, mistake in enumerate(mistakes):
            row, column = divmod(i, columns)
            middle, bottom = (column + 0.5) * wide / columns, (row + 1) * tall - _BELOW
            high, across = mistake.pixels.shape[:2]
            scale = _SIDE / max(high, across)
            left, top = middle - across * scale / 2, bottom - high * scale
            axes.imshow(
                mistake.pixels,
                **{"cmap": "gray", "vmin": 0, "vmax": 255, "aspect": "auto"},
                interpolation="nearest" if high < 64 else "antialiased",
                extent=(left, left + across * scale, bottom, top),
            )
            true, predicted = clip(mistake.true, 13), clip(mistake.predicted, 11)
            said = f"{true}{between}→ {predicted}\n{per_cent(mistake.probability, '.0f')}"
            if mistake.path is not None:
                said += f"\n{clip(mistake.file_name, 17)}"
            style = {"ha": "center", "va": "bottom", "fontsize": 8, "linespacing": 1.15}
            axes.text(middle, bottom - _SIDE - 0.06, said, color=theme.ink, **style)
        axes.set(xlim=(0, wide), ylim=(tall * rows, 0))

    longest = max(len(m.true) + len(m.predicted) for m in mistakes)
    between, lines = (" ", 2) if longest <= 12 else ("\n", 3)
    lines += any(m.path is not None for m in mistakes)
    wide, tall = max(1.2 * columns, 4.2), 1.2 + 0.16 * lines
    return drawing.draw(
        name,
        f"Most wrong: {head.head}",
        "The test images whose true class seemed least probable, on average over "
        f"{head.n} run{'s' if head.n > 1 else ''}; worst first. True class → predicted class, "
        "the probability given to the latter, and the file where there is one.",
        (wide, tall * rows),
        paint,
        dpi=110,  # photographs take much room
        laid_out=False,
    )

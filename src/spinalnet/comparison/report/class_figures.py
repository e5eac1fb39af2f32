"""The figures of what runs say of classes: confusions, reliability, the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet.comparison.classes import (
    LARGEST_MATRIX,
    Confusion,
    HeadQuality,
    Mistake,
    confused_pairs,
)
from spinalnet.comparison.report import drawing
from spinalnet.comparison.report.drawing import Drawn, Theme, clip, fold, series
from spinalnet.comparison.residuals import HeadResiduals, Residual
from spinalnet.comparison.wording import listing, per_cent
from spinalnet.texts import readable

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
            (drawing.WIDTH, 5.2),
            lambda figure, theme: _paint_pairs(figure, theme, confusions),
        )
    panel = 4.6 if len(confusions[0].names) <= 12 else 7.0  # inches
    return drawing.draw(
        "confusion",
        "Confusion matrices" if len(confusions) > 1 else "Confusion matrix",
        f"Counts over all runs of {counted}; shading by the share of the true class, on a "
        "square-root scale so that rare mistakes show.",
        (panel * len(confusions), panel + (-0.4 if len(confusions[0].names) in _ROOM else 0.3)),
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
    panels = figure.subplots(1, len(confusions), squeeze=False)[0]
    for axes, confusion in zip(panels, confusions, strict=True):
        paint_confusion(axes, theme, confusion)


_ROOM = {1: 24, 2: 15, 3: 10}  # letters beside each other below a cell, by the number of classes


def paint_confusion(axes: Axes, theme: Theme, confusion: Confusion) -> None:
    """Draw a confusion matrix on axes: counts, shaded by the share of the true class."""
    from matplotlib.patches import Rectangle

    size = range(len(confusion.names))
    drawing.label_axes(axes, theme, "predicted", "true")
    axes.grid(visible=False)
    axes.set_title(f"{confusion.head} (n={confusion.n})", color=theme.ink, fontsize=11)
    room = _ROOM.get(len(confusion.names))
    names = [clip(name) if room is None else fold(name, room) for name in confusion.names]
    size_of_names, size_of_counts = (9, 8) if len(names) <= 12 else (8, 130 / len(names))
    style = {"ha": "center", "va": "center", "fontsize": size_of_counts}
    for i in size:
        for j in size:
            count, share = confusion.counts[i][j], confusion.share(i, j)
            if not count:
                continue
            # On a square-root scale, so that rare mistakes show.
            cell = Rectangle((j - 0.5, i - 0.5), 1, 1, color=theme.heat, alpha=math.sqrt(share))
            cell.set_linewidth(0)
            said = f"{confusion.names[i]} predicted as {confusion.names[j]}"
            drawing.tip(axes.add_patch(cell), f"{said}: {count} ({per_cent(share)})")
            axes.text(j, i, f"{count}", color=theme.ground if share > 0.25 else theme.ink, **style)
    axes.spines[:].set(visible=True, color=theme.grid)
    upright = room is None and max(map(len, names)) > 2
    axes.set_xticks(size, names, rotation=90 if upright else 0, fontsize=size_of_names)
    axes.set_yticks(size, names, fontsize=size_of_names)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")


def reliability_figure(heads: Sequence[HeadQuality]) -> Drawn:
    """Accuracy by confidence, and how many predictions there are of each, head by head."""
    runs = listing([f"{head.head} (n={head.n})" for head in heads])
    rows = math.ceil(len(heads) / 4)
    columns = math.ceil(len(heads) / rows)  # 3 and 2 panels of 5, not 4 and 1
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
            if place + columns >= len(heads):  # nothing below it, maybe in a row of its own
                lower.tick_params(axis="x", labelbottom=True)
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


_SHARP = 64  # pictures of fewer pixels a side are shown as squares, and kept without loss


def mistakes(head: HeadQuality | HeadResiduals) -> list[dict[str, Any]]:
    """What a head got most wrong, for the page: picture, what it is and was taken for, file."""
    if isinstance(head, HeadResiduals):
        return [
            _picture(image, _values(image.true), _values(image.predicted)) for image in head.images
        ]
    leads = [abs(share.lead) for one in head.mistakes for share in one.layers]
    return [
        _picture(one, one.true, one.predicted, f", {per_cent(one.probability, '.0f')}")
        | {"spoken": _spoken(one, max(leads, default=0.0) or 1.0)}
        for one in head.mistakes
    ]


BARS = 60
"""Half the width of the bars that say which layer spoke for which class, in their own units."""


def _spoken(mistake: Mistake, most: float) -> dict[str, Any] | None:
    """Say which layer spoke for the wrong class, and which for the true one; None if not known.

    Args:
        mistake: An image.
        most: What makes a bar of full length.
    """
    if not mistake.layers:
        return None
    bars = []
    for share in mistake.layers:
        length = BARS * abs(share.lead) / most
        bars.append(
            {
                "left": BARS - (length if share.lead < 0 else 0),
                "length": length,
                "wrong": share.lead > 0,
                "title": f"layer {share.layer}, slice {share.slice}: {share.predicted:+.2f} for "
                f"{mistake.predicted}, {share.true:+.2f} for {mistake.true}",
            }
        )
    loudest = max(mistake.layers, key=lambda share: share.lead)
    said = f"layer {loudest.layer} (slice {loudest.slice}) most: {loudest.lead:+.1f}"
    return {"bars": bars, "said": said if loudest.lead > 0 else "no layer: the biases decide"}


def _values(values: Sequence[float]) -> str:
    return "; ".join(f"{value:.4g}" for value in values)


def _picture(image: Mistake | Residual, true: str, said: str, more: str = "") -> dict[str, Any]:
    import base64
    import io

    from PIL import Image

    picture, buffer = Image.fromarray(image.pixels.squeeze()), io.BytesIO()
    small = max(picture.size) < _SHARP
    form = {"format": "PNG"} if small else {"format": "JPEG", "quality": 85}
    picture.save(buffer, **form)
    content = base64.b64encode(buffer.getvalue()).decode()
    return {
        "source": f"data:image/{form['format'].lower()};base64,{content}",
        "small": small,
        "title": f"{true} taken for {said}",
        "caption": f"{true} → {said}{more}",
        "file": image.path and readable(Path(image.path).name),
        "spoken": None,
    }

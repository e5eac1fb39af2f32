"""What was published beside what was found: a figure, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from spinalnet.comparison import wording
from spinalnet.comparison.published import Published, PublishedValue
from spinalnet.comparison.report import drawing
from spinalnet.comparison.report.drawing import Drawn, Theme, clip
from spinalnet.comparison.statistics import deviation
from spinalnet.comparison.wording import digits, per_cent, plus_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def published_figure(rows: Sequence[tuple[str, PublishedValue]], in_points: bool) -> Drawn | None:
    """Draw published numbers and what was found here; None where nothing can be compared.

    Args:
        rows: Label and number, from above to below.
        in_points: Whether they are shares.
    """
    known = [(label, one) for label, one in rows if one.here]
    if not known:
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        paint_published(axes, theme, known, in_points)
        drawing.legend(figure, axes, theme)

    caption = (
        "Each faint dot is one run here, the line is their mean; the diamond is what was published."
    )
    height = 1.5 + 0.42 * len(known)
    size = (drawing.WIDTH, height)
    return drawing.draw("published", "Published and found", caption, size, paint)


def paint_published(
    axes: Axes, theme: Theme, rows: Sequence[tuple[str, PublishedValue]], in_points: bool
) -> None:
    """Draw published numbers and runs on axes."""
    drawing.label_axes(axes, theme, rows[0][1].what, "")
    for place, (label, one) in enumerate(rows):
        here = list(one.here)
        named = place == 0
        (dots,) = axes.plot(
            *(here, [place] * len(here), "o"),
            **{"color": theme.series[0], "alpha": 0.5, "markersize": 5},
            label="found here" if named else None,
        )
        axes.plot([fmean(here)], [place], "|", color=theme.ink, markersize=16, markeredgewidth=2)
        (diamond,) = axes.plot(
            *([one.value], [place], "D"),
            **{"color": theme.series[1], "markersize": 7},
            label="published" if named else None,
        )
        drawing.tip(dots, f"{label}: {_spread(here, in_points)} here")
        drawing.tip(diamond, f"{label}: {_value(one.value, in_points)} published")
    axes.set_yticks(range(len(rows)), [clip(label, 28) for label, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    if in_points:
        axes.xaxis.set_major_formatter(lambda share, _: per_cent(share))


def published_cells(published: Published) -> tuple[list[str], list[list[str]]]:
    """The table of published numbers as text: header, and a row per number."""
    rows = [
        [
            one.head,
            _value(one.value, published.in_points),
            _spread(one.here, published.in_points) if one.here else "not measured",
            one.what,
            one.where,
        ]
        for one in published.values
    ]
    return ["head", "published", "found here", "of what", "where"], rows


def _value(value: float, in_points: bool) -> str:
    return digits(".2f", 100)(value)[0] + " %" if in_points else f"{value:.4g}"


def _spread(values: Sequence[float], in_points: bool) -> str:
    show = digits(".2f", 100) if in_points else digits(".3g")
    text = plus_minus(fmean(values), deviation(list(values)), show)
    return f"{text}{' %' if in_points else ''} (n={len(values)})" if values else wording.NONE

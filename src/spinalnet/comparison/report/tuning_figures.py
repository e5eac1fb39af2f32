"""What a report shows of tuning: the expected best by number of trials, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spinalnet.comparison.report import drawing
from spinalnet.comparison.report.drawing import Drawn, Theme, clip, series
from spinalnet.comparison.wording import per_cent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spinalnet.comparison.answer import Summary


def tuning(summary: Summary) -> Drawn | None:
    """The expected best of k trials against k, head by head; None if nothing was tuned."""
    if not any(row.curve for row in summary.tuning):
        return None

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        paint_tuning(axes, theme, summary)
        drawing.legend(figure, axes, theme)

    caption = (
        "The best validation result to be expected of so many trials, drawn from those that were "
        "made. Where a line still rises at its end, more trials would probably find better, and "
        "the head was not tuned; it is dashed if it rose by more than the margin in its last third."
    )
    caption += " Mean over units." if summary.is_table else ""
    return drawing.draw("tuning", "Tuning", caption, (drawing.WIDTH, 3.8), paint)


def paint_tuning(axes: Axes, theme: Theme, summary: Summary) -> None:
    """Draw the expected best of k trials of every head on axes."""
    from matplotlib.ticker import MaxNLocator

    units = summary.wording
    drawing.label_axes(axes, theme, "trials", f"best validation {units.title}, expected")
    places = {head.head: place for place, head in enumerate(summary.heads)}
    for row in summary.tuning:
        if not row.curve:
            continue
        style = {"color": series(theme, places[row.label])["color"]}
        style["linestyle"] = "dashed" if row.untuned else "solid"
        # Heads that share a colour are told apart by the shape of their points.
        style["marker"] = "osD^"[places[row.label] // len(theme.series) % 4]
        counts = range(1, len(row.curve) + 1)
        name = clip(row.label, 20)
        axes.plot(counts, row.curve, **style, markersize=3.5, linewidth=1.8, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if units.in_points:
        axes.yaxis.set_major_formatter(lambda share, _: per_cent(share))


def tuning_cells(summary: Summary) -> tuple[list[str], list[list[str]]] | None:
    """The table of tuning as text: header, and a row per head; None if nothing was tuned."""
    if not summary.tuning:
        return None
    names = list(dict.fromkeys(name for row in summary.tuning for name in row.space))
    spaces: dict[str, str] = {}
    for row in summary.tuning:
        spaces |= dict(row.space)
    header = ["head", "trials", "best,\nvalidation"]
    header += [f"{name.replace('_', ' ')}\n({spaces[name]})" for name in names]
    rows = []
    for row in summary.tuning:
        count = f"{row.trials} ({row.failed} failed)" if row.failed else str(row.trials)
        best = summary.wording.value(row.curve[-1], unit=False) if row.curve else ""
        edges = {edge.partition(" ")[0] for edge in row.edges}
        cells = [_cell(row.chosen or {}, name) + ("*" if name in edges else "") for name in names]
        label = f"{row.label} (untuned)" if row.untuned else row.label
        rows.append([label, count, best, *cells])
    return header, rows


def _cell(chosen: Mapping[str, Any], name: str) -> str:
    """Print what was chosen; of a table the range over units."""
    value = chosen.get(name)
    if value is None:
        return ""
    if not isinstance(value, list | tuple):
        return _number(value)
    known = [one for one in value if one is not None]
    try:
        low, high = _number(min(known)), _number(max(known))
    except (TypeError, ValueError):
        return ", ".join(sorted({str(one) for one in known}))
    return low if low == high else f"{low} to {high}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

"""Axes to draw on: those that are given, or new ones; and several panels in the place of one.

Every function that draws takes `ax` and returns it. New axes are those of a `Figure` of their own,
without pyplot: no global state, no display, nothing to close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spinalnet._checks import InputError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return axes as they are, or new ones on a figure of `size` inches.

    Raises:
        InputError: If something else is given.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if ax is None:
        return Figure(figsize=size, layout="constrained").add_subplot()
    if not isinstance(ax, Axes):
        raise InputError(
            f"ax must be axes of matplotlib, such as plt.subplots()[1], got a {type(ax).__name__}."
        )
    return ax


def panels(ax: Axes, rows: int, columns: int, **layout: Any) -> np.ndarray:
    """Return panels `(rows, columns)` in the place of axes, which show nothing then.

    Their title would lie under the panels: it goes into that of the first.

    Args:
        ax: Axes, in a grid of subplots or anywhere else.
        rows: Below each other.
        columns: Beside each other.
        layout: width_ratios, sharex and sharey, as `Figure.subplots` takes them.
    """
    from matplotlib.gridspec import GridSpec

    shared = {name: layout.pop(name) for name in ("sharex", "sharey") if name in layout}
    ax.set_axis_off()
    place = ax.get_subplotspec()
    if place is not None:
        grid = place.subgridspec(rows, columns, **layout)
    else:
        box = ax.get_position()
        sides = {"left": box.x0, "right": box.x1, "bottom": box.y0, "top": box.y1}
        grid = GridSpec(rows, columns, ax.figure, **sides, **layout)  # type: ignore[arg-type]
    return grid.subplots(**shared, squeeze=False)

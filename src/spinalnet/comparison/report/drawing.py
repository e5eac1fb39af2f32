"""How every figure of a report is drawn: twice, for a light and for a dark page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
class Theme:
    """Colours of a page. The series are told apart with any common colour blindness."""

    ground: str
    ink: str
    grid: str
    heat: tuple[str, str]  # of nothing, of all
    series: tuple[str, ...]  # Okabe and Ito's palette, brightened on the dark ground


LIGHT = Theme(
    ground="#ffffff",
    ink="#1f2328",
    grid="#d8dee4",
    heat=("#ffffff", "#0b4f8a"),
    series=("#0072b2", "#d55e00", "#009e73", "#b65f94", "#c98500", "#3ba3dc", "#6b6b6b"),
)
DARK = Theme(
    ground="#14181d",
    ink="#e6edf3",
    grid="#313a44",
    heat=("#14181d", "#6cc0ff"),
    series=("#4fb0e8", "#ff8a3d", "#2cc79b", "#e39ac4", "#f2bd3f", "#a4d8f5", "#b5b5b5"),
)
_DASHES = ("solid", "dashed", "dotted")


def draw(
    name: str,
    title: str,
    caption: str,
    size: tuple[float, float],
    paint: Callable[..., None],
    dpi: int = 160,
    *,
    laid_out: bool = True,
) -> Drawn:
    """Run `paint(figure, theme)` on an empty figure of `size` inches, once per theme.

    With `laid_out` the axes find their places by what stands beside them; else `paint` has placed
    them.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    images: list[bytes] = []
    places: list[Any] = []  # of the axes
    for theme in (LIGHT, DARK):
        # A Figure of its own, without pyplot: no global state, no display, nothing to close.
        figure = Figure(figsize=size, dpi=dpi, facecolor=theme.ground)
        if laid_out and not images:
            figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # A class name in a script the font lacks is drawn as boxes; the page has it in full.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            paint(figure, theme)
            for axes, place in zip(figure.axes, places, strict=bool(places)):
                axes.set_position(place, which="original")
            figure.savefig(buffer, format="png", metadata={"Software": None})
        # Colours change no place, and to find the places takes half of the time of a figure.
        places = [axes.get_position(original=True) for axes in figure.axes]
        images.append(buffer.getvalue())
    return Drawn(name, title, caption, *images)


def label_axes(axes: Axes, theme: Theme, x: str, y: str) -> None:
    """Give axes their labels and the theme's colours."""
    axes.set_facecolor(theme.ground)
    axes.set_xlabel(x, color=theme.ink)
    axes.set_ylabel(y, color=theme.ink)
    axes.tick_params(which="both", colors=theme.ink, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)


def legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    """Name the lines of `axes` below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 4),
        frameon=False,
        labelcolor=theme.ink,
    )


def series(theme: Theme, i: int) -> dict[str, Any]:
    """Return colour and dashes of the i-th of several lines."""
    turn, colour = divmod(i, len(theme.series))
    return {"color": theme.series[colour], "linestyle": _DASHES[turn % len(_DASHES)]}


def clip(name: str, length: int = 16) -> str:
    """Shorten a name for a plot, keeping both ends; a dollar sign is a dollar sign, not maths."""
    clipped = name if len(name) <= length else f"{name[: length - 8]}…{name[-7:]}"
    return clipped.replace("$", r"\$")

"""How every figure of a report is drawn: once, as SVG in the colours of the page around it.

Matplotlib draws in the colours of a light page. In the page these become the variables of its style
sheet (`--ink`, `--s0`, ...), so that one drawing serves light and dark; text stays text, in the
reader's own fonts. What `tip` was called on shows its numbers when pointed at.
"""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours of a page. The series are told apart with any common colour blindness."""

    ground: str
    ink: str
    grid: str
    heat: str  # of all, in a matrix of shares; of nothing: the ground
    series: tuple[str, ...]  # Okabe and Ito's palette, brightened on the dark ground

    def variables(self) -> dict[str, str]:
        """Return the colours by their names in the page's style sheet."""
        several = {f"s{i}": colour for i, colour in enumerate(self.series)}
        return {"ground": self.ground, "ink": self.ink, "grid": self.grid, "heat": self.heat} | (
            several
        )


LIGHT = Theme(
    ground="#ffffff",
    ink="#1f2328",
    grid="#d8dee4",
    heat="#0b4f8a",
    series=("#0072b2", "#d55e00", "#009e73", "#b65f94", "#c98500", "#3ba3dc", "#6b6b6b"),
)
DARK = Theme(
    ground="#14181d",
    ink="#e6edf3",
    grid="#313a44",
    heat="#6cc0ff",
    series=("#4fb0e8", "#ff8a3d", "#2cc79b", "#e39ac4", "#f2bd3f", "#a4d8f5", "#b5b5b5"),
)
WIDTH = 5.2
"""Of a figure of one panel, in inches: a phone shows it whole, with letters that can be read."""

_SMALLEST = 0.7  # of its size that a figure shrinks to; a wider one scrolls
_DASHES = ("solid", "dashed", "dotted")
_VARIABLES = {colour: name for name, colour in LIGHT.variables().items()}
_TIP = "tip:"


@dataclass(frozen=True)
class Drawn:
    """A plot, with the text that stands for it.

    Attributes:
        name: Of its file, and of its place in the page.
        title: A few words.
        caption: What it shows, and how it is read.
        svg: A file of its own, for a light ground.
    """

    name: str
    title: str
    caption: str
    svg: str

    @cached_property
    def inline(self) -> str:
        """The drawing as an element of the page: its colours, its fonts, names of its own."""
        element = self.svg[self.svg.index("<svg") :]
        element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
        # A style sheet inside would be one of the whole page.
        element = re.sub(r"<style.*?</style>", "", element, flags=re.DOTALL)
        width = re.search(r'viewBox="0 0 ([\d.]+)', element)
        described = f'role="img" aria-labelledby="title-{self.name}"'
        size = float(width[1]) * 4 / 3 if width else 0.0
        style = f"max-width: {size:.0f}px; min-width: {_SMALLEST * size:.0f}px" if width else ""
        element = re.sub(
            r' width="[^"]*pt" height="[^"]*pt"', f' {described} style="{style}"', element, count=1
        )
        # Names are of the whole page too, and the next figure has a patch_1 again.
        element = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{self.name}-", element)
        element = re.sub(
            '#[0-9a-f]{6}(?=[;"])',
            lambda found: f"var(--{_VARIABLES[found[0]]})" if found[0] in _VARIABLES else found[0],
            element,
        )
        return re.sub(r"(font: [^;\"]*?px) [^;\"]*", r"\1 system-ui, sans-serif", element)


def draw(
    name: str, title: str, caption: str, size: tuple[float, float], paint: Callable[..., None]
) -> Drawn:
    """Run `paint(figure, theme)` on an empty figure of `size` inches."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # A Figure of its own, without pyplot: no global state, no display, nothing to close.
    figure = Figure(figsize=size, dpi=72, facecolor=LIGHT.ground)
    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    # The same runs give the same bytes: names inside are hashes of what they name.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The width of a class name in a script the font lacks is a guess; its text is not.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        paint(figure, LIGHT)
        # Saving would draw all of it once more, to find where things go.
        ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1).execute(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Drawn(name, title, caption, _with_tips(buffer.getvalue()))


def tip(artist: Artist, text: str) -> None:
    """Show `text` when a reader points at something drawn."""
    artist.set_gid(_TIP + text)


def _with_tips(svg: str) -> str:
    """Turn the marks that `tip` left into the element that viewers show."""
    return re.sub(rf'<g id="{_TIP}([^"]*)">', r"<g><title>\1</title>", svg)


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


def fold(name: str, width: int) -> str:
    """Break a name into at most three lines of so many letters, where it is longer shortened."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in name)
    width = width // 2 if 2 * wide > len(name) else width
    shortened = name if len(name) <= 3 * width else f"{name[: 2 * width]}…{name[1 - width :]}"
    lines = textwrap.wrap(shortened, width) or [name]
    if len(lines) > 3:  # words leave room at the ends of lines
        lines = [shortened[i : i + width] for i in range(0, len(shortened), width)]
    return "\n".join(lines).replace("$", r"\$")


def clip(name: str, length: int = 16) -> str:
    """Shorten a name for a plot, keeping both ends; a dollar sign is a dollar sign, not maths."""
    clipped = name if len(name) <= length else f"{name[: length - 8]}…{name[-7:]}"
    return clipped.replace("$", r"\$")

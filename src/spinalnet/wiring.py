"""What feeds what in a head, as plain data, and its drawing to scale.

Heads say it themselves (`SpinalNet.wiring`). It is kept with a result, so that a report can draw a
head without making it. The drawing is SVG in the colours of the page around it, or its own; or it
is made on axes of matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from spinalnet._checks import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class WiredLayer:
    """One layer, and what it sees.

    Attributes:
        width: Number of its outputs.
        start: First input feature it sees.
        stop: The one after the last; equal to `start` if it sees none.
        earlier: Numbers of the layers it sees, from 0.
    """

    width: int
    start: int
    stop: int
    earlier: tuple[int, ...] = ()


@dataclass(frozen=True)
class Wiring:
    """What feeds what in a head.

    Attributes:
        in_features: Number of input features.
        out_features: Number of outputs.
        layers: The hidden layers in order.
        seen: Numbers of the layers that the output row sees.
        sees_input: Whether it sees the input itself.
        params: Number of parameters.
    """

    in_features: int
    out_features: int
    layers: tuple[WiredLayer, ...]
    seen: tuple[int, ...]
    sees_input: bool
    params: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one input."""
        widths = [layer.width for layer in self.layers]
        hidden = sum(
            layer.width * (layer.stop - layer.start + sum(widths[i] for i in layer.earlier))
            for layer in self.layers
        )
        seen = sum(widths[i] for i in self.seen) + self.sees_input * self.in_features
        return hidden + seen * self.out_features

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Wiring:
        """Read what `to_dict` gave.

        Raises:
            InputError: If it is something else.
        """
        try:
            layers = tuple(
                WiredLayer(**{**row, "earlier": tuple(row["earlier"])}) for row in given["layers"]
            )
            found = cls(**{**given, "layers": layers, "seen": tuple(given["seen"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError("this is no description of a head's wiring.") from error
        counts = [found.in_features, found.out_features, found.params]
        for place, layer in enumerate(layers):
            counts += [layer.width, layer.start, layer.stop]
            if any(not isinstance(one, int) or not 0 <= one < place for one in layer.earlier):
                raise InputError("this is no description of a head's wiring.")
        known = all(isinstance(one, int) and 0 <= one < len(layers) for one in found.seen)
        if not known or any(not isinstance(one, int) or one < 0 for one in counts):
            raise InputError("this is no description of a head's wiring.")
        return found


def wired(
    head: Any,
    in_features: int,
    out_features: int,
    layers: Sequence[WiredLayer],
    *,
    stacked: bool = False,
    sees_input: bool = False,
) -> Wiring:
    """Describe a module whose output row sees all layers, or, if stacked, the last alone."""
    seen = tuple(range(len(layers)))[-1 if stacked else 0 :]
    params = sum(parameter.numel() for parameter in head.parameters())
    return Wiring(in_features, out_features, tuple(layers), seen, sees_input or not layers, params)


# --- the drawing ----------------------------------------------------------------------------------

_LARGEST = 10  # layers that are all drawn; of more the first and the last ones
_FIRST, _LAST = 6, 2
_ROW = 34  # height of a layer's place
_GAP = 9  # at least, between two layers: an arrow that can be seen
_TOP, _LOW = 46, 26  # room for the title, and for what stands below
_INPUT, _LAYER, _OUTPUT, _BAR = 70, 200, 330, 14  # left edges, and the width of a bar
_TRUNK, _BLOCK = 8, 34  # left edge and width of the block before a head
_SEEN = 12  # height of a head's longest bar, at least, where several have one scale
_WIDTH = 420
_COLOURS = {
    "ink": "var(--ink, #1f2328)",
    "soft": "var(--soft, #59636e)",
    "grid": "var(--grid, #d8dee4)",
    "input": "var(--s6, #6b6b6b)",
    "layer": "var(--s0, #0072b2)",
    "chain": "var(--s1, #d55e00)",
    "output": "var(--s2, #009e73)",
}
_INK = _COLOURS["ink"]


@dataclass(frozen=True)
class Network:
    """The network around a head, as far as a drawing of the head says of it.

    Attributes:
        params: Number of its parameters, with those of the head.
        macs: Multiply-accumulates for one input; None if they are not known.
        trunk_params: Number of parameters of what stands before the head; 0 to draw none.
    """

    params: int
    macs: int | None = None
    trunk_params: int = 0


@dataclass(frozen=True)
class _Bar:
    """The trunk, a part of the input, a layer, or the output row; `tip` says what it is."""

    x: float
    top: float
    height: float
    colour: str
    tip: str
    opacity: float = 1
    width: float = _BAR

    @property
    def shown(self) -> float:
        """Its height, that it can be seen."""
        return max(self.height, 2.5)


@dataclass(frozen=True)
class _Fan:
    """Everything of one bar to everything of another: from (x, a) to (to, b)."""

    x: float
    a: tuple[float, float]
    to: float
    b: tuple[float, float]
    colour: str

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The four of them, around."""
        (a, b), (c, d) = self.a, self.b
        return [(self.x, a), (self.to, c), (self.to, d), (self.x, b)]


@dataclass(frozen=True)
class _Label:
    """What is written in the middle below something, or from `x` on."""

    x: float
    y: float
    text: str
    middle: bool = True


@dataclass(frozen=True)
class _Arrow:
    """From a layer to the next, downwards."""

    x: float
    top: float
    bottom: float


_Shape = _Bar | _Fan | _Label | _Arrow


def common_scale(wirings: Sequence[Wiring]) -> float | None:
    """Return the height of one number at which heads can be drawn beside each other.

    Returns:
        None if one would be too small to be seen beside the others: each has its own then.
    """
    scales = [_own_scale(wiring) for wiring in wirings]
    least = min(scales, default=1.0)
    seen = all(_largest(wiring) * least >= _SEEN for wiring in wirings)
    return least if seen else None


def draw_wiring(
    wiring: Wiring, title: str, *, network: Network | None = None, scale: float | None = None
) -> Drawing:
    """Draw a head's wiring to scale, as an `<svg>` element.

    Args:
        wiring: What feeds what.
        title: Written above it.
        network: What it is the head of.
        scale: Height of one number; without it the largest there is room for.
    """
    height, said, shapes = _laid_out(wiring, network, scale)
    text = escape(title)
    return Drawing(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'role="img" aria-label="{text}: {said}" style="max-width: {_WIDTH}px" '
        'font-family="system-ui, sans-serif" font-size="11">'
        f'<text x="0" y="14" font-size="14" font-weight="600" fill="{_INK}">{text}</text>'
        f'<text x="0" y="30" fill="{_COLOURS["soft"]}">{said}</text>'
        + "".join(map(_as_svg, shapes))
        + "</svg>"
    )


class Drawing(str):
    """An `<svg>` element as text, which a notebook shows as what it draws."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def paint_wiring(ax: Axes, wiring: Wiring, title: str, network: Network | None = None) -> None:
    """Draw the same on axes, which are made as wide and high as the drawing is."""
    from matplotlib import rcParams
    from matplotlib.patches import Polygon, Rectangle

    height, said, shapes = _laid_out(wiring, network)
    ink = rcParams["text.color"]
    ax.set_title(f"{title}\n{said}", fontsize="medium", loc="left", parse_math=False)
    left, top = (0, _TOP - 16) if network and network.trunk_params else (_INPUT - 50, _TOP - 6)
    ax.set(xlim=(left, _OUTPUT + _BAR + 50), ylim=(height, top), aspect="equal")
    ax.set_axis_off()
    for shape in shapes:
        match shape:
            case _Bar():
                place, fill = (shape.x, shape.top), _plain(shape.colour)
                ax.add_patch(
                    Rectangle(
                        place, shape.width, shape.shown, color=fill, alpha=shape.opacity, lw=0
                    )
                )
            case _Fan():
                ax.add_patch(Polygon(shape.corners, color=_plain(shape.colour), alpha=0.13, lw=0))
            case _Label():
                side = "center" if shape.middle else "left"
                ax.text(
                    shape.x, shape.y, shape.text, ha=side, va="baseline", fontsize="small",
                    color=ink,
                )  # fmt: skip
            case _Arrow():
                ax.annotate(
                    "", (shape.x, shape.bottom), (shape.x, shape.top),
                    arrowprops={"arrowstyle": "->", "color": _plain("chain"), "shrinkA": 0,
                                "shrinkB": 0},
                )  # fmt: skip


def _plain(colour: str) -> str:
    """Return a colour without the page that may have another."""
    return _COLOURS[colour].split(", ")[1].rstrip(")")


def _laid_out(
    wiring: Wiring, network: Network | None = None, scale: float | None = None
) -> tuple[float, str, list[_Shape]]:
    """Return the height of a drawing, its second line, and what is drawn, the lowest first."""
    scale = _own_scale(wiring) if scale is None else scale
    parts = _chain(wiring, scale) if _is_chained(wiring) else _stack(wiring, scale)
    if network is not None and network.trunk_params:
        parts = [*_trunk(wiring, network, scale), *parts]
    return _TOP + _LOW + _high(wiring), _counts(wiring, network), parts


def _counts(wiring: Wiring, network: Network | None) -> str:
    if network is None:
        return f"{wiring.params:,} parameters, {wiring.macs:,} multiplications"
    params = f"{wiring.params:,} of {network.params:,} parameters"
    if network.macs is None:
        return f"{params}, {wiring.macs:,} multiplications of the head"
    return f"{params}, {wiring.macs:,} of {network.macs:,} multiplications"


def _is_chained(wiring: Wiring) -> bool:
    """Whether layers stand below each other, all seen by the output row."""
    return 1 < len(wiring.layers) == len(wiring.seen)


def _high(wiring: Wiring) -> float:
    """Return how much room all bars have."""
    return _height(_rows(len(wiring.layers)) if _is_chained(wiring) else [])


def _largest(wiring: Wiring) -> int:
    """Return how many numbers the longest bar has."""
    return max(wiring.in_features, wiring.out_features, *(one.width for one in wiring.layers))


def _own_scale(wiring: Wiring) -> float:
    """Return the largest height of one number that there is room for."""
    high = _high(wiring)
    if not _is_chained(wiring):
        return high / _largest(wiring)
    # Layers stand below each other, with room for an arrow between.
    widest = max(layer.width for layer in wiring.layers)
    of_layers = (high / len(_rows(len(wiring.layers))) - _GAP) / widest
    return min(high / max(wiring.in_features, wiring.out_features), of_layers)


def _trunk(wiring: Wiring, network: Network, scale: float) -> list[_Shape]:
    """The rest of a network, one block before the inputs, which has no scale."""
    high = _high(wiring)
    half = max(wiring.in_features * scale, 2.5) / 2
    inputs = _TOP + high / 2 - half, _TOP + high / 2 + half
    told = f"trunk: {_counted(network.trunk_params, 'parameter')}"
    tip = told
    if network.macs is not None:
        tip += f", {_counted(network.macs - wiring.macs, 'multiplication')}"
    return [
        _Fan(_TRUNK + _BLOCK, (_TOP, _TOP + high), _INPUT, inputs, "input"),
        _Bar(_TRUNK, _TOP, high, "input", tip, 0.3, _BLOCK),
        _Label(0, _TOP - 4, told, middle=False),
    ]


def _as_svg(shape: _Shape) -> str:
    match shape:
        case _Bar():
            return (
                f'<rect x="{shape.x}" y="{shape.top:.1f}" width="{shape.width}" '
                f'height="{shape.shown:.1f}" rx="1.5" fill="{_COLOURS[shape.colour]}" '
                f'fill-opacity="{shape.opacity}"><title>{escape(shape.tip)}</title></rect>'
            )
        case _Fan():
            points = " ".join(f"{x},{y:.1f}" for x, y in shape.corners)
            return (
                f'<polygon points="{points}" fill="{_COLOURS[shape.colour]}" fill-opacity="0.13"/>'
            )
        case _Label():
            side = "middle" if shape.middle else "start"
            return (
                f'<text x="{shape.x}" y="{shape.y:.1f}" text-anchor="{side}" fill="{_INK}">'
                f"{shape.text}</text>"
            )
        case _Arrow():
            return (
                f'<path d="M{shape.x},{shape.top:.1f} L{shape.x},{shape.bottom:.1f} '
                f'm-3.5,-5 l3.5,5 l3.5,-5" fill="none" stroke="{_COLOURS["chain"]}" '
                'stroke-width="1.6"/>'
            )


def _rows(count: int) -> list[int | None]:
    """Return the layers that are drawn, and None for those between."""
    if count <= _LARGEST:
        return list(range(count))
    return [*range(_FIRST), None, *range(count - _LAST, count)]


def _height(rows: Sequence[int | None]) -> float:
    return max(_ROW * len(rows), 3.2 * _ROW)


def _chain(wiring: Wiring, scale: float) -> list[_Shape]:
    """Layers below each other between the input on the left and the output row on the right."""
    rows = _rows(len(wiring.layers))
    high = _height(rows)
    in_top = _TOP + (high - wiring.in_features * scale) / 2
    middles = {
        layer: _TOP + high * (place + 0.5) / len(rows)
        for place, layer in enumerate(rows)
        if layer is not None
    }
    out_high = max(wiring.out_features * scale, 2.5)
    out_top = _TOP + (high - out_high) / 2
    back: list[_Shape] = []
    front: list[_Shape] = []
    edges = sorted({edge for layer in wiring.layers for edge in (layer.start, layer.stop)})
    slices = [(a, b) for a, b in pairwise(edges) if b > a]
    for k, (a, b) in enumerate(slices):
        tip = _inputs(a, b)
        shade = 0.9 if k % 2 == 0 else 0.55
        front.append(_Bar(_INPUT, in_top + a * scale, (b - a) * scale - 1, "input", tip, shade))
    for i, middle in middles.items():
        layer = wiring.layers[i]
        half = max(layer.width * scale, 2.5) / 2
        ends = middle - half, middle + half
        if layer.stop > layer.start:
            seen = in_top + layer.start * scale, in_top + layer.stop * scale
            back.append(_Fan(_INPUT + _BAR, seen, _LAYER, ends, "layer"))
        if i in wiring.seen:
            back.append(_Fan(_LAYER + _BAR, ends, _OUTPUT, (out_top, out_top + out_high), "output"))
        if i - 1 in layer.earlier and i - 1 in middles:
            before = middles[i - 1] + max(wiring.layers[i - 1].width * scale, 2.5) / 2
            back.append(_Arrow(_LAYER + _BAR / 2, before, ends[0]))
        front.append(_Bar(_LAYER, ends[0], 2 * half, "layer", _tip(i, layer)))
    if None in rows:
        left_out = len(wiring.layers) - _FIRST - _LAST
        y = _TOP + high * (_FIRST + 0.5) / len(rows) + 4
        front.append(_Label(_LAYER + _BAR / 2, y, f"… {left_out} more"))
    told = _counted(wiring.out_features, "output")
    front.append(_Bar(_OUTPUT, out_top, out_high, "output", told))
    widths = {layer.width for layer in wiring.layers}
    each = f" of {widths.pop():,}" if len(widths) == 1 else ""
    if wiring.sees_input:
        each += ", each sees all before"
    low = _TOP + high + 16
    return [
        *back,
        *front,
        _Label(_INPUT + _BAR / 2, low, _counted(wiring.in_features, "input")),
        _Label(_LAYER + _BAR / 2, low, _counted(len(wiring.layers), "layer") + each),
        _Label(_OUTPUT + _BAR / 2, low, _counted(wiring.out_features, "output")),
    ]


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _inputs(start: int, stop: int) -> str:
    if stop - start == 1:
        return f"input {start:,}"
    return f"inputs {start:,} to {stop - 1:,}"


def _tip(i: int, layer: WiredLayer) -> str:
    seen = []
    if layer.stop > layer.start:
        seen.append(_inputs(layer.start, layer.stop))
    if layer.earlier:
        numbers = [n + 1 for n in layer.earlier]
        several = f"layers 1 to {numbers[-1]}" if len(numbers) > 1 else f"layer {numbers[0]}"
        seen.append(several)
    return f"layer {i + 1}: {layer.width:,} wide, sees {' and '.join(seen)}"


def _stack(wiring: Wiring, scale: float) -> list[_Shape]:
    """Layers beside each other, each of which sees all of the one before."""
    sizes = [wiring.in_features, *(layer.width for layer in wiring.layers), wiring.out_features]
    high = _height([])
    places = [_INPUT + (_OUTPUT - _INPUT) * i / (len(sizes) - 1) for i in range(len(sizes))]
    colours = ["input", *["layer"] * len(wiring.layers), "output"]
    names = [
        _counted(wiring.in_features, "input"),
        *(f"{layer.width:,} wide" for layer in wiring.layers),
        _counted(wiring.out_features, "output"),
    ]
    ends = []
    for size in sizes:
        half = max(size * scale, 2.5) / 2
        ends.append((_TOP + high / 2 - half, _TOP + high / 2 + half))
    drawn: list[_Shape] = [
        _Fan(places[i] + _BAR, ends[i], places[i + 1], ends[i + 1], colours[i + 1])
        for i in range(len(sizes) - 1)
    ]
    for x, (top, bottom), colour, name in zip(places, ends, colours, names, strict=True):
        drawn.append(_Bar(x, top, bottom - top, colour, name))
        drawn.append(_Label(x + _BAR / 2, _TOP + high + 16, name))
    return drawn

"""Heads drawn: their wiring, which they say themselves, to scale."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, overload

from torch import nn

from spinalnet._checks import InputError
from spinalnet.panels import axes_of
from spinalnet.wiring import Drawing, Network, Wiring, draw_wiring, paint_wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def wiring_in(model: nn.Module) -> Wiring | None:
    """Return the wiring of the first head in a model, such as that of an ensemble's first member.

    Returns:
        None if there is none that is one chain, or one stack, of layers.
    """
    wiring = getattr(model, "wiring", None)
    if callable(wiring):  # of a head that is none of these, a part is not the whole
        return found if isinstance(found := wiring(), Wiring) else None
    return next(filter(None, map(wiring_in, model.children())), None)


def _around(model: nn.Module, wiring: Wiring) -> Network | None:
    """Return the network around the head that is drawn; None of a head alone."""
    if callable(getattr(model, "wiring", None)):
        return None
    params = sum(parameter.numel() for parameter in model.parameters())
    counted: Any = getattr(model, "total_macs", None)  # what counts knows the layers, and they this
    macs: int | None = None if counted is None else counted()
    # Of an ensemble the rest is further heads, and stands before none.
    trunk = 0 if hasattr(model, "members") else params - wiring.params
    return Network(params, macs, trunk)


def _named(model: nn.Module, network: Network | None) -> str:
    """Return what a drawing of the head in a model is called."""
    kind = type(model).__name__
    if network is None:
        return kind
    name = getattr(model, "name", "")
    return f"head of {kind} {name}" if name and isinstance(name, str) else f"head of {kind}"


@overload
def spine_diagram(head: nn.Module, title: str = "") -> Drawing: ...
@overload
def spine_diagram(head: nn.Module, title: str = "", *, ax: Axes) -> Axes: ...
@overload
def spine_diagram(head: nn.Module, title: str = "", *, ax: Axes | None) -> Drawing | Axes: ...
def spine_diagram(head: nn.Module, title: str = "", *, ax: Axes | None = None) -> Drawing | Axes:
    """Draw a head, or the head of a network, to scale.

    Of a network, what stands before the head is one block, and the counts are the head's of all.

    Args:
        head: A `SpinalNet`, another head that is one chain or one stack, or a network with one.
        title: Written above it; without one the name of its class, or of the network's.
        ax: Axes of matplotlib to draw it on.

    Returns:
        The axes, or without any an `<svg>` element as text, which is a file of its own, and which a
        notebook shows as a picture.

    Raises:
        InputError: If there is no such head.
    """
    if not isinstance(head, nn.Module):
        raise InputError(f"head must be a torch.nn.Module, got a {type(head).__name__}.")
    wiring = wiring_in(head)
    if wiring is None:
        raise InputError(f"a {type(head).__name__} is not one chain of layers: it is not drawn.")
    network = _around(head, wiring)
    title = title or _named(head, network)
    if ax is None:
        return draw_wiring(wiring, title, network=network)
    ax = axes_of(ax, (1, 1))
    paint_wiring(ax, wiring, title, network)
    return ax


class Drawn:
    """What draws the head in a module, for modules that are heads or have one."""

    @overload
    def spine_diagram(self) -> Drawing: ...
    @overload
    def spine_diagram(self, *, ax: Axes) -> Axes: ...
    @overload
    def spine_diagram(self, *, ax: Axes | None) -> Drawing | Axes: ...
    def spine_diagram(self, *, ax: Axes | None = None) -> Drawing | Axes:
        """Draw the head to scale: what each layer sees, and what it feeds.

        Args:
            ax: Axes of matplotlib to draw it on.

        Returns:
            See `spinalnet.spine_diagram`, also for errors.
        """
        assert isinstance(self, nn.Module)
        return spine_diagram(self, ax=ax)

    def _repr_html_(self) -> str:
        """Show the drawing in a notebook, with what `repr` says below it."""
        assert isinstance(self, nn.Module)
        return as_html(self)


def as_html(model: nn.Module, title: str = "") -> str:
    """Return what a notebook shows of a model: the head in it, if that can be drawn, and `repr`."""
    drawing = "" if wiring_in(model) is None else spine_diagram(model, title)
    return f"{drawing}<pre>{escape(repr(model))}</pre>"

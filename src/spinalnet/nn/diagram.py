"""Heads drawn: their wiring, which they say themselves, to scale."""

from __future__ import annotations

from torch import nn

from spinalnet._checks import InputError
from spinalnet.wiring import Wiring, draw_wiring


def wiring_in(model: nn.Module) -> Wiring | None:
    """Return the wiring of the first head in a model, such as that of an ensemble's first member.

    Returns:
        None if there is none that is one chain, or one stack, of layers.
    """
    for module in model.modules():
        wiring = getattr(module, "wiring", None)
        if callable(wiring) and isinstance(found := wiring(), Wiring):
            return found
    return None


def spine_diagram(head: nn.Module, title: str = "") -> str:
    """Draw a head, or the head of a network, to scale.

    Args:
        head: A `SpinalNet`, another head that is one chain or one stack, or a network with one.
        title: Written above it; the name of its class without one.

    Returns:
        An `<svg>` element, which is a file of its own too.

    Raises:
        InputError: If there is no such head.
    """
    wiring = wiring_in(head)
    if wiring is None:
        raise InputError(f"a {type(head).__name__} is not one chain of layers: it is not drawn.")
    return draw_wiring(wiring, title or type(head).__name__)

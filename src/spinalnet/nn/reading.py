"""Whether matrix and bias say what a linear map computes, or only a call does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from spinalnet.nn.backends import hooked
from spinalnet.nn.flat import FlatLinear

_READ = {nn.Linear, FlatLinear}


def why_called(module: nn.Module) -> str | None:
    """Return why only a call says what a linear map computes; None if its matrix and bias do.

    They say it of an `nn.Linear`, also of a parametrized one, whose matrix is a property. They do
    not for a module put around or in the place of one (adapters, quantization), for a subclass
    with a `forward` of its own, or where a hook listens, which may change what passes.
    """
    if hooked(module):
        return f"{type(module).__name__} has hooks, or another forward than its class"
    kind = type(module)
    if kind in _READ or (isinstance(module, nn.Linear) and kind.forward is nn.Linear.forward):
        return None
    return f"{kind.__name__} is not a plain nn.Linear"


def all_plain(modules: Sequence[nn.Module]) -> bool:
    """Return whether nothing needs to be asked about any of them: the quick answer."""
    return {type(module) for module in modules} <= _READ and not hooked(*modules)


def has_bias(module: Any) -> bool:
    """Return whether a linear map has a bias, without making a view of it."""
    if isinstance(module, FlatLinear):
        return "bias" in module.places
    return module.bias is not None


def matrices(linears: Sequence[nn.Module]) -> tuple[list[Tensor], list[Tensor] | None]:
    """Return weights and biases of linear maps, which may be pieces of one parameter."""
    maps: Any = linears
    first = maps[0]
    if isinstance(first, FlatLinear) and all(
        isinstance(m, FlatLinear) and m.net is first.net for m in maps
    ):
        pieces = first.net.flat_pieces()
        weights = [pieces[m.places["weight"]] for m in maps]
        return weights, [pieces[m.places["bias"]] for m in maps if "bias" in m.places] or None
    weights, biases = [m.weight for m in maps], [m.bias for m in maps]
    return weights, None if biases[0] is None else biases

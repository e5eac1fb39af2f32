"""Reads a network of fully connected layers, where its parts say all that it computes.

What a module computes is what its `forward` does, so only modules whose `forward` is known are
read: `Linear`, `Sequential`, `MLPHead`, `LinearHead`, batch norms, the activations of `PIECES`,
and what does nothing in evaluation mode. They are followed in the order in which they are called;
whatever else may change a value on its way is refused by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.nn import LinearHead, MLPHead, Normed, backends, gradients
from spinalnet.nn.activations import Activation, make_activation
from spinalnet.theory.pieces import PIECES, piece_of


@dataclass(frozen=True)
class Dense:
    """One fully connected layer: `activation(weight x + bias)`, in float64.

    Attributes:
        weight: Shape `(n, inputs)`.
        bias: Shape `(n,)`.
        size: Sum of the absolute values of what the bias was summed of, `(n,)`. A batch norm may
            subtract a mean nearly as large as the bias before it: little is left of the sum, but
            not of its rounding.
        steps: How many more operations than those of a linear map compute it.
        activation: None for an output row.
    """

    weight: Tensor
    bias: Tensor
    size: Tensor
    steps: int = 0
    activation: nn.Module | None = None


@dataclass(frozen=True)
class Plain:
    """A network that was read: its layers, type and device."""

    layers: list[Dense]
    dtype: torch.dtype
    device: torch.device


_NORM_STEPS = 8  # root, quotient, products and differences of a batch norm, with some to spare


# What the forward of a container calls, one after the other: those whose code this file knows.
_PARTS: dict[type[nn.Module], tuple[str, ...]] = {
    MLPHead: ("layers", "output_dropout", "output"),
    LinearHead: ("dropout", "output"),
    Normed: ("norm",),
}
_DROPOUTS = (nn.Dropout, nn.AlphaDropout)
_LEAVES = (*_DROPOUTS, nn.Flatten, nn.BatchNorm1d, *PIECES)
_UNDERSTOOD = (
    "Linear, Sequential, MLPHead, LinearHead, BatchNorm1d, Dropout, AlphaDropout, Flatten, "
    + ", ".join(kind.__name__ for kind in PIECES)
)
# A subclass that redefines one of these may compute anything.
_CALLS = (
    *("__call__", "_wrapped_call_impl", "_call_impl", "_slow_forward", "forward"),
    *("__getattr__", "__getattribute__", "__iter__"),
)


def _computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Return whether a module is of this class, or of a subclass that only constructs it."""
    kind = type(module)
    same = all(getattr(kind, name, None) is getattr(base, name, None) for name in _CALLS)
    # The matrix is an attribute of the instance, unless a subclass makes it a property.
    return isinstance(module, base) and same and not hasattr(kind, "weight")


def _refused(where: str, module: nn.Module, why: str) -> InputError:
    name = type(module).__name__
    part = f"part '{where}' ({name})" if where else f"the module ({name})"
    return InputError(f"{part} cannot be converted: {why}.")


def _calls(module: nn.Module, where: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield what is called, with its place, leaf by leaf in the order of the calls.

    A module that is used twice comes twice.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"a part must be a module, got {module!r} at '{where}'.")
    if nn.utils.parametrize.is_parametrized(module):
        raise _refused(
            where,
            module,
            "it is parametrized; remove that first (torch.nn.utils.parametrize."
            "remove_parametrizations)",
        )
    if any(type(p) is nn.parameter.UninitializedParameter for p in module._parameters.values()):
        raise _refused(where, module, "it has no size yet; call it once with an example")
    if backends.hooked(module) or "_call_impl" in module.__dict__:
        raise _refused(
            where,
            module,
            "it has hooks, or another forward than its class; remove them (weight norm and pruning "
            "have a remove of their own)",
        )
    inside = f"{where}." if where else ""
    if _computes_as(module, nn.Sequential):
        for name, part in module._modules.items():
            yield from _calls(part, inside + name)  # type: ignore[arg-type] # None is refused
    elif type(module) in _PARTS:
        for name in _PARTS[type(module)]:
            part = getattr(module, name)
            if isinstance(module, Normed) and type(part) is not nn.BatchNorm1d:
                raise _refused(inside + name, part, "only batch norms are fixed maps of a neuron")
            yield from _calls(part, inside + name)
    elif _computes_as(module, nn.Linear) or type(module) in _LEAVES:
        yield where, module
    elif isinstance(module, nn.Linear | nn.Sequential | MLPHead):
        raise _refused(where, module, "it has a forward, or attributes, of its own; merge them")
    else:
        raise _refused(where, module, f"only these are understood: {_UNDERSTOOD}")


def _values(where: str, module: nn.Module, *tensors: Tensor | None) -> None:
    """Raise `InputError` where tensors are not plain finite real numbers."""
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
            raise _refused(where, module, "its numbers are quantized, sparse or of another kind")
        if tensor.is_meta:
            raise _refused(where, module, "it is on the device 'meta' and has no numbers yet")
        if tensor.dtype not in (torch.float32, torch.float64):
            raise _refused(
                where, module, f"it is of type {tensor.dtype}; convert it in float32 or float64"
            )
        if not bool(tensor.isfinite().all()):
            raise _refused(where, module, "it holds NaN or infinite numbers")


def _linear(where: str, leaf: nn.Linear, before: Dense | None) -> Dense:
    _values(where, leaf, leaf.weight, leaf.bias)
    weight, given = leaf.weight.detach().double(), leaf.bias
    if weight.ndim != 2 or (given is not None and given.shape != weight.shape[:1]):
        raise _refused(where, leaf, "its matrix and its bias do not fit together")
    if weight.numel() == 0:
        raise _refused(where, leaf, f"it maps {leaf.in_features} to {leaf.out_features} features")
    if before is not None and weight.shape[1] != len(before.bias):
        raise _refused(
            where,
            leaf,
            f"it takes {weight.shape[1]} features where the layer before it gives "
            f"{len(before.bias)}",
        )
    bias = weight.new_zeros(len(weight)) if given is None else given.detach().double()
    return Dense(weight, bias, bias.abs())


def _normed(where: str, norm: nn.BatchNorm1d, last: Dense) -> Dense:
    _values(where, norm, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    if norm.num_features != len(last.bias):
        raise _refused(
            where,
            norm,
            f"it takes {norm.num_features} features where the layer before it gives "
            f"{len(last.bias)}",
        )
    if norm.training:
        raise _refused(where, norm, "it is in training mode, where no map is fixed; call eval()")
    scale, shift = gradients.folded_batch_norm(norm)
    beta = torch.zeros_like(shift) if norm.bias is None else norm.bias.detach().double()
    size = scale.abs() * last.size + (shift - beta).abs() + beta.abs()
    steps = last.steps + _NORM_STEPS
    return Dense(scale[:, None] * last.weight, scale * last.bias + shift, size, steps)


def dense_layers(module: nn.Module, activation: Activation | None) -> Plain:
    """Return the layers of a network, batch norms folded in.

    A linear map that another follows directly is a hidden layer with the identity. An identity
    after the last of several is left out.

    Args:
        module: Linear maps, each with its batch norm and activation, in containers that only call
            one part after the other.
        activation: Of the last linear map, if it has none.

    Raises:
        InputError: If a part of the module may compute anything else, by its place and name.
    """
    layers: list[Dense] = []
    used: list[Tensor] = []
    for where, leaf in _calls(module, ""):
        used += [t for t in leaf._parameters.values() if t is not None]
        last = layers[-1] if layers else None
        # An identity does not stand in the way of what follows it.
        closed = last is not None and type(last.activation) not in (type(None), nn.Identity)
        if isinstance(leaf, nn.Linear):
            if last is not None and last.activation is None:
                layers[-1] = replace(last, activation=nn.Identity())
            layers.append(_linear(where, leaf, last))
        elif type(leaf) in _DROPOUTS:
            if leaf.training and leaf.p > 0:  # type: ignore[operator]
                raise _refused(where, leaf, "it is in training mode and drops values; call eval()")
        elif isinstance(leaf, nn.Flatten):
            if leaf.start_dim not in (1, -1) or leaf.end_dim not in (1, -1):
                raise _refused(where, leaf, "it flattens other dimensions than those of an example")
        elif isinstance(leaf, nn.Identity) and (last is None or closed):
            continue
        elif last is None or closed:
            raise _refused(where, leaf, "it must follow a Linear of its own")
        elif isinstance(leaf, nn.BatchNorm1d):
            layers[-1] = _normed(where, leaf, last)
        else:
            piece_of(leaf)
            _values(where, leaf, *leaf._parameters.values())
            layers[-1] = replace(last, activation=leaf)
    if not layers:
        raise InputError("the module has no Linear: nothing to convert.")
    if len(kinds := {f"{tensor.dtype} on {tensor.device}" for tensor in used}) > 1:
        raise InputError(f"the parameters must be of one type on one device, got {sorted(kinds)}.")
    if len(layers) > 1 and isinstance(layers[-1].activation, nn.Identity):
        layers[-1] = replace(layers[-1], activation=None)
    return Plain(_with_activation(layers, activation), used[0].dtype, used[0].device)


def _with_activation(layers: list[Dense], activation: Activation | None) -> list[Dense]:
    if activation is not None:
        if layers[-1].activation is not None:
            raise InputError("activation must be left out for a module that ends with one.")
        given = make_activation(activation)
        piece_of(given)
        layers[-1] = replace(layers[-1], activation=given)
    if len(layers) == 1 and layers[0].activation is None:
        raise InputError(
            "a single Linear is no hidden layer: pass activation=, or a module with an output row."
        )
    return layers

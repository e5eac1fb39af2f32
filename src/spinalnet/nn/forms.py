"""A net as a chain that the extension trains by itself: which nets are one, and how."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.kernels.trainer import ChainForm, Places
from spinalnet.nn import backends
from spinalnet.nn.dense import LinearHead, MLPHead
from spinalnet.nn.layers import SpinalNet
from spinalnet.nn.loss_gradient import LossGradient
from spinalnet.nn.reading import why_called
from spinalnet.nn.unchained import UnchainedNet

_SERVED = (SpinalNet, UnchainedNet, MLPHead, LinearHead)


def why_no_form(net: nn.Module) -> str | None:
    """Return why `net` is no chain that is trained step by step without Python; None if it is one.

    Depends on nothing but the net.
    """
    if type(net) not in _SERVED:
        names = ", ".join(kind.__name__ for kind in _SERVED)
        return f"{type(net).__name__} is none of {names}"
    if any(isinstance(m, nn.BatchNorm1d | nn.LayerNorm) for m in net.modules()):
        return "norms mix the rows or the neurons of a batch"
    heard = next((m for m in net.modules() if backends.hooked(m)), None)
    if heard is not None:
        return f"a hook listens to its {type(heard).__name__}"
    maps = _maps(net)
    if maps is None:
        return "it is not one hidden layer"
    for linear in maps:
        if (reason := why_called(linear)) is not None:
            return f"a linear map is called as a module: {reason}"
        if type(linear) is not nn.Linear or linear._parameters.get("weight") is None:
            return "a matrix is parametrized, or a piece of one parameter"
    own = [p for linear in maps for p in linear._parameters.values() if p is not None]
    known = set(map(id, own))
    if len(known) < len(own) or any(id(p) not in known for p in net.parameters()):
        return "a parameter is shared by two maps, or is not one of a linear map"
    if not all(p.requires_grad for p in own):
        return "a parameter is frozen"
    if len({(p.dtype, p.device) for p in own}) > 1:
        return "its parameters are not of one type on one device"
    if len({linear.bias is None for linear in maps[:-1]}) > 1:
        return "only some of its layers have a bias"
    dropout = net.dropout if isinstance(net, LinearHead) else net.get_submodule("output_dropout")
    if type(dropout) is not nn.Dropout:
        return f"there is a {type(dropout).__name__} in the place of dropout"
    return _why_not_own(net)


def _why_not_own(net: nn.Module) -> str | None:
    """Return what speaks against this kind of net."""
    if isinstance(net, LinearHead):
        return None
    slope = backends.slope_of(_activation(net))
    if slope is None or slope < 0:
        return f"its activation is {_activation(net)}, not relu, leaky relu or the identity"
    if isinstance(net, UnchainedNet) and len(set(net.widths)) > 1:
        return "its layers differ in width"
    if isinstance(net, SpinalNet):
        spine = net.spine
        if spine.share_weights and len(set(spine.split_sizes)) > 1:
            return "a matrix is shared by slices of unequal length"
    return None


def _activation(net: Any) -> Any:
    if isinstance(net, SpinalNet):
        return net.spine.activation
    return net.activation if isinstance(net, UnchainedNet) else net.layers[0][-1]


def _maps(net: Any) -> list[Any] | None:
    """Return its linear maps in the order of `LossGradient`, the output row last."""
    if isinstance(net, SpinalNet):
        return [*net.spine.layers, net.output]
    if isinstance(net, UnchainedNet):
        return [*net.slices, net.output]
    if isinstance(net, LinearHead):
        return [net.output]
    blocks = [list(block) for block in net.layers]
    if len(blocks) != 1:
        return None
    *before, linear, _ = blocks[0]
    if not all(type(m) is nn.Dropout for m in before) or not isinstance(linear, nn.Linear):
        return None
    return [linear, net.output]


def form_of(net: nn.Module) -> tuple[ChainForm, list[Tensor]]:
    """Return `net` as a chain, and its parameters in the order of the vector that holds them.

    Raises:
        InputError: If it is none; see `why_no_form`.
    """
    if (reason := why_no_form(net)) is not None:
        raise InputError(f"this net is not trained by compiled steps: {reason}; use fit.")
    maps: list[Any] = _maps(net) or []
    parameters: list[Tensor] = list(net.parameters())
    if LossGradient.why_not(net) is None:  # so that an optimizer's memory fits both
        parameters = [linear.weight for linear in maps[:-1]]
        parameters += [linear.bias for linear in maps[:-1] if linear.bias is not None]
        parameters += [p for p in (maps[-1].weight, maps[-1].bias) if p is not None]
    start, at, spared = 0, {}, []
    for parameter in parameters:
        at[id(parameter)] = start
        if parameter.dim() == 1:
            spared.append((start, parameter.numel()))
        start += parameter.numel()

    def places(linear: Any, row: int = 0) -> Places:
        bias = -1 if linear.bias is None else at[id(linear.bias)] + row
        columns = linear.in_features
        return Places(at[id(linear.weight)] + row * columns, bias, columns, columns)

    any_net: Any = net
    output: Any = maps[-1]
    dropout = output_dropout = 0.0
    layers: list[Places]
    splits = 1
    if isinstance(net, LinearHead):
        form = (output.in_features, output.out_features, 1, 0, False, 1.0)
        dropout = net.dropout.p
        return ChainForm(
            *form, (places(output),), None, dropout, output_dropout, tuple(spared)
        ), parameters
    output_dropout = any_net.output_dropout.p
    if isinstance(net, SpinalNet):
        width, splits = net.spine.hidden_features, net.spine.num_splits
        layers = [places(linear) for linear in net.spine.linears()]
        dropout = net.spine.dropout
    elif isinstance(net, UnchainedNet):
        width, splits = net.hidden_features, net.num_splits
        layers = [
            places(net.slices[layer % splits], layer // splits * width)
            for layer in range(net.num_layers)
        ]
        dropout = net.dropout
    else:
        width, layers = maps[0].out_features, [places(maps[0])]
        first = any_net.layers[0][0]
        dropout = first.p if isinstance(first, nn.Dropout) else 0.0
    slope = backends.slope_of(_activation(net))
    assert slope is not None
    return ChainForm(
        any_net.in_features,
        width,
        splits,
        output.out_features,
        isinstance(net, UnchainedNet),
        float(slope),
        tuple(layers),
        places(output),
        dropout,
        output_dropout,
        tuple(spared),
    ), parameters

"""Derivatives of spinal nets in closed form: by the inputs, by the hidden values, by the weights.

With `z_l` the pre-activation of layer `l`, `D_l = diag(phi'(z_l))` (times the norm's derivative),
`S_l` the selection of its slice and `C_l` its columns of the output row::

    dh_l/dx = G_l = D_l (A_l S_l + B_l G_(l-1))            G_0 = D_0 A_0 S_0
    dy/dh_l = V_l = C_l + V_(l+1) D_(l+1) B_(l+1)          V_(L-1) = C_(L-1)
    dy/dx   = sum_l C_l G_l = sum_l V_l D_l A_l S_l

Both forms of the last line are the same sum in another order; `jacobian` takes the one with fewer
operations. The gradient of a loss by the weights follows the second recursion, with the loss's
gradient in place of the rows of `C`: `LossGradient` does one training step's worth of it without
the bookkeeping of automatic differentiation, which costs more than the arithmetic in small nets.

All derivatives are those of evaluation mode except where said otherwise. Batch norms count with
their running statistics.

Source: Kabir et al., arXiv:2007.03347, supplementary; Pizarroso, Portela, Munoz, "NeuralSens",
arXiv:2002.11423.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.kernels.reference import spinal_reference
from spinalnet.nn import backends
from spinalnet.nn.layers import SpinalLayer, SpinalNet, check_read
from spinalnet.nn.variants import TiledSpinalNet


def _gelu_slope(act: Any, z: Tensor, h: Tensor) -> Tensor:
    if act.approximate == "none":
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(z / math.sqrt(2))) + z * density
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    t = torch.tanh(inner)
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * math.sqrt(2 / math.pi) * (1 + 0.134145 * z * z)


def _silu_slope(act: Any, z: Tensor, h: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 + z * (1 - s))


def _mish_slope(act: Any, z: Tensor, h: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(z))
    return t + z * torch.sigmoid(z) * (1 - t * t)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848

# The supplementary prints three of these wrong: tanh without the square, ELU with `a` for z > 0,
# arctan as 1 / (1 + e^z).
SLOPES: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Tensor]] = {
    nn.Identity: lambda act, z, h: torch.ones_like(z),
    nn.ReLU: lambda act, z, h: (z > 0).to(z.dtype),
    nn.LeakyReLU: lambda act, z, h: torch.where(z > 0, torch.ones_like(z), act.negative_slope),
    nn.PReLU: lambda act, z, h: torch.where(z > 0, torch.ones_like(z), act.weight),
    nn.ELU: lambda act, z, h: torch.where(z > 0, torch.ones_like(z), h + act.alpha),
    nn.SELU: lambda act, z, h: torch.where(
        z > 0, torch.full_like(z, _SELU_SCALE), h + _SELU_SCALE * _SELU_ALPHA
    ),
    nn.GELU: _gelu_slope,
    nn.SiLU: _silu_slope,
    nn.Mish: _mish_slope,
    nn.Tanh: lambda act, z, h: 1 - h * h,
    nn.Sigmoid: lambda act, z, h: h * (1 - h),
    nn.Softplus: lambda act, z, h: torch.where(
        act.beta * z > act.threshold, torch.ones_like(z), torch.sigmoid(act.beta * z)
    ),
}
"""Derivative of each activation from the module, its argument `z` and its value `h`."""


def slope(activation: nn.Module, z: Tensor, h: Tensor) -> Tensor:
    """Return the elementwise derivative of `activation` at `z`, given its value `h`.

    A module that is not in `SLOPES` is differentiated automatically.

    Raises:
        InputError: If the activation mixes neurons (softmax), so that there is no such derivative.
    """
    if type(activation) in SLOPES and not backends.hooked(activation):
        return SLOPES[type(activation)](activation, z, h)
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        value = activation(at)
        if value.shape != z.shape or not torch.equal(activation(z[..., :1]), value[..., :1]):
            raise InputError(
                f"the activation must act on each neuron alone, got {type(activation).__name__}."
            )
        return torch.autograd.grad(value.sum(), at)[0]


def linears_of(spine: SpinalLayer) -> list[nn.Linear]:
    """Return the linear map that serves each layer, a shared one once per layer.

    Raises:
        InputError: If a layer is more than its matrix and its bias.
    """
    check_read(spine)
    return [linear for linear in spine.linears() if isinstance(linear, nn.Linear)]


def folded_batch_norm(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return (scale, shift), float64, such that the norm in evaluation mode is scale * z + shift.

    Raises:
        InputError: If the norm keeps no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise InputError("a batch norm without running statistics is no fixed map; track them.")
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale = (var + norm.eps).rsqrt()
    shift = -mean * scale
    if norm.affine:
        weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
        scale, shift = weight * scale, weight * shift + bias
    return scale, shift


@dataclass(frozen=True)
class _Link:
    """What layer `l` did to one batch: its derivative from pre-activation to output.

    `slope` `(N, H)` is phi' times what a batch norm multiplies by. A layer norm, which mixes the
    neurons, leaves its normalised values, its gain and 1 / std here.
    """

    slope: Tensor
    layer_norm: tuple[Tensor, Tensor, Tensor] | None = None  # values (N, H), gain (H,), (N, 1)

    def pull(self, rows: Tensor) -> Tensor:
        """Return `rows @ D` for rows `(N, K, H)`."""
        rows = rows * self.slope[:, None, :]
        if self.layer_norm is None:
            return rows
        values, gain, rstd = self.layer_norm
        rows, values = rows * gain, values[:, None, :]
        mixed = rows.mean(-1, keepdim=True) + values * (rows * values).mean(-1, keepdim=True)
        return (rows - mixed) * rstd[:, None, :]

    def push(self, columns: Tensor) -> Tensor:
        """Return `D @ columns` for columns `(N, H, D)`."""
        if self.layer_norm is not None:
            values, gain, rstd = self.layer_norm
            values = values[:, :, None]
            mixed = columns.mean(1, keepdim=True)
            mixed = mixed + values * (columns * values).mean(1, keepdim=True)
            columns = (columns - mixed) * (gain * rstd)[:, :, None]
        return columns * self.slope[:, :, None]


def _link(norm: nn.Module | None, activation: nn.Module, z: Tensor) -> tuple[_Link, Tensor]:
    """Return the derivative of `activation(norm(z))` and its value."""
    if norm is not None and backends.hooked(norm):
        raise InputError(
            f"no closed form for a {type(norm).__name__} with hooks; remove them, or differentiate "
            "the net automatically."
        )
    if norm is None:
        h = activation(z)
        return _Link(slope(activation, z, h)), h
    if isinstance(norm, nn.BatchNorm1d):
        scale, shift = (value.to(z.dtype) for value in folded_batch_norm(norm))
        z = scale * z + shift
        h = activation(z)
        return _Link(slope(activation, z, h) * scale), h
    if isinstance(norm, nn.LayerNorm):
        var, mean = torch.var_mean(z, dim=-1, correction=0, keepdim=True)
        rstd = (var + norm.eps).rsqrt()
        normalized = (z - mean) * rstd
        gain = torch.ones_like(z[0]) if norm.weight is None else norm.weight
        z = norm(z)
        h = activation(z)
        return _Link(slope(activation, z, h), (normalized, gain, rstd)), h
    raise InputError(f"no closed form for a {type(norm).__name__}; use 'batch', 'layer' or None.")


@dataclass(frozen=True)
class _Pass:
    """One batch through the chain: links, and `A_l`, `B_l` of each layer."""

    links: list[_Link]
    from_slice: list[Tensor]
    from_previous: list[Tensor]
    slices: tuple[slice, ...]


def _run(spine: SpinalLayer, rows: Tensor) -> _Pass:
    check_read(spine)
    weights, biases = spine.chain()
    links: list[_Link] = []

    def activation(z: Tensor) -> Tensor:
        norm = spine.norms[len(links)] if len(spine.norms) else None
        link, value = _link(norm, spine.activation, z)
        links.append(link)
        return value

    spinal_reference(rows, weights, biases, num_splits=spine.num_splits, activation=activation)
    slices = spine.slices
    from_slice = [
        weight[:, : part.stop - part.start] for weight, part in zip(weights, slices, strict=True)
    ]
    from_previous = [weight[:, -spine.hidden_features :] for weight in weights]
    return _Pass(links, from_slice, from_previous, slices)


def _rows(net: nn.Module, x: Tensor) -> Tensor:
    features = net.in_features
    if x.ndim != 2 or x.shape[1] != features:
        raise InputError(f"x must have shape (N, {features}), got {tuple(x.shape)}.")
    return x


def _influence(net: SpinalNet, trace: _Pass) -> list[Tensor]:
    """Return `V_l = dy/dh_l`, `(N, K, H)` each, from the last layer back to the first."""
    batch = len(trace.links[0].slope)
    columns = net.output.weight.detach().split(net.spine.hidden_features, dim=1)
    backward = [columns[-1].expand(batch, -1, -1)]
    for layer in range(net.spine.num_layers - 2, -1, -1):
        pulled = trace.links[layer + 1].pull(backward[-1])
        backward.append(columns[layer] + pulled @ trace.from_previous[layer + 1])
    return backward[::-1]


@torch.no_grad()
def hidden_influence(net: SpinalNet, x: Tensor) -> list[Tensor]:
    """Return `dy/dh_l` for every layer: how the outputs follow its neurons, chain included.

    Args:
        net: A spinal net.
        x: Inputs `(N, D)`.

    Returns:
        One tensor `(N, K, H)` per layer.

    Raises:
        InputError: If a layer or the output row is more than its matrix and its bias.
    """
    check_read(net)
    return _influence(net, _run(net.spine, chain_input(net, _rows(net, x))))


def chain_input(net: nn.Module, x: Tensor) -> Tensor:
    """Return the input as the chain sees it (repeated, in the compatibility wiring)."""
    if not isinstance(net, TiledSpinalNet):
        return x
    wide = net.spine.in_features
    return x.repeat(1, -(-wide // net.in_features))[:, :wide]


def _untiled(net: nn.Module, wide: Tensor) -> Tensor:
    """Add up the derivatives by all copies of a feature."""
    if not isinstance(net, TiledSpinalNet):
        return wide
    feature = torch.arange(wide.shape[-1], device=wide.device) % net.in_features
    return wide.new_zeros(*wide.shape[:-1], net.in_features).index_add_(-1, feature, wide)


@torch.no_grad()
def jacobian(net: SpinalNet | SpinalLayer, x: Tensor) -> Tensor:
    """Return the exact derivative of all outputs by all inputs, row by row.

    Args:
        net: A spinal net, or a spinal layer (then of its hidden outputs).
        x: Inputs `(N, D)`.

    Returns:
        `J[n, k, i] = dy_k / dx_i` at row `n`. Shape `(N, out_features, D)`.

    Raises:
        InputError: If a layer or the output row is more than its matrix and its bias (an adapter
            around it, quantized, with a hook): there the net can be differentiated automatically.

    Cost: about `N * L * H * (H + D / S) * K` MACs for few outputs.
    """
    if not isinstance(net, SpinalNet | SpinalLayer):
        raise InputError(f"net must be a SpinalNet or a SpinalLayer, got {type(net).__name__}.")
    check_read(net)
    rows = chain_input(net, _rows(net, x))
    if isinstance(net, SpinalLayer):
        return _forward_jacobian(net, rows)
    if net.out_features > net.in_features:
        return _untiled(net, net.output.weight @ _forward_jacobian(net.spine, rows))
    return _untiled(net, _backward_jacobian(net, rows))


def _forward_jacobian(spine: SpinalLayer, rows: Tensor) -> Tensor:
    """Return all `G_l`, `(N, L * H, D)`."""
    trace = _run(spine, rows)
    hidden = spine.hidden_features
    result = rows.new_empty(len(rows), spine.out_features, rows.shape[1])
    previous: Tensor | None = None
    for layer, link in enumerate(trace.links):
        columns = rows.new_zeros(len(rows), hidden, rows.shape[1])
        if previous is not None:
            torch.matmul(trace.from_previous[layer], previous, out=columns)
        columns[:, :, trace.slices[layer]] += trace.from_slice[layer]
        previous = link.push(columns)
        result[:, layer * hidden : (layer + 1) * hidden] = previous
    return result


def _backward_jacobian(net: SpinalNet, rows: Tensor) -> Tensor:
    """Return `sum_l V_l D_l A_l S_l`, `(N, K, D)`, one matrix product per slice."""
    trace = _run(net.spine, rows)
    influence = _influence(net, trace)
    splits = net.spine.num_splits
    parts = []
    for split in range(splits):
        layers = range(split, net.spine.num_layers, splits)
        pulled = torch.cat([trace.links[i].pull(influence[i]) for i in layers], dim=-1)
        parts.append(pulled @ torch.cat([trace.from_slice[i] for i in layers]))
    return torch.cat(parts, dim=-1)

"""The paper's universality argument as functions: dense layers turned into spinal ones.

`to_spinal` rewrites a trained network of fully connected layers as a spinal net that computes the
same function on a bounded box of inputs. A spinal neuron sees one slice only, so a target neuron
`phi(W x + b)` is spread over one layer per slice: all but the last are *adders* that carry the
partial sum `W_1 x_1 + ... + W_s x_s` on through a region where `phi` is affine, the last one adds
its own slice and the target's bias. `w` target neurons side by side need `num_splits` spinal layers
of width `w`; the next `w` follow below, with zero weights between the groups.

How an adder stays affine depends on the activation (`pieces.PIECES` is the one table):

* identity: everywhere;
* relu, leaky_relu, prelu, elu, selu: on the positive half line, reached by a bias taken from the
  bounds and subtracted again in the next layer. Exact;
* softplus, gelu, silu, mish: affine to the last bit far enough out on the positive half line;
* sigmoid, tanh: in a small neighbourhood of 0, `|z| <= epsilon`; the error is of second order.

`convert` also returns a bound of the error on the box, rounding included.

Outside the box an adder of the second and third kind leaves its affine half line: with relu its
partial sum is clipped at the smallest value it has inside the box, and the result departs from the
dense one by at most the clipped amount times the outgoing weights. Choose the bounds accordingly.

Source: Kabir et al., "SpinalNet: Deep Neural Network with Gradual Input", arXiv:2007.03347,
supplementary material; Hornik, "Some new results on neural network approximation" (1993).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive
from spinalnet.nn import SpinalLayer, SpinalNet, gradients
from spinalnet.nn.activations import Activation
from spinalnet.theory.pieces import interval, jumps, piece_of, ray_start
from spinalnet.theory.plain import Dense, dense_layers
from spinalnet.theory.ranges import Arithmetic, Carry, Values

Bounds = tuple[Any, Any]


def bounds_of(inputs: Tensor, slack: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the box that holds all rows of `inputs`, widened on each side.

    Args:
        inputs: Shape `(N, D)`.
        slack: How much wider than the data, as a share of each feature's range, on both sides.
    """
    if inputs.ndim != 2 or len(inputs) == 0:
        raise InputError(f"inputs must be (N, D) with N >= 1, got shape {tuple(inputs.shape)}.")
    low, high = inputs.detach().double().aminmax(dim=0)
    return low - slack * (high - low), high + slack * (high - low)


def _check_bounds(bounds: Bounds, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    try:
        low, high = (
            torch.as_tensor(side, dtype=torch.float64, device=device).expand(features)
            for side in bounds
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"bounds must be (low, high), each a number or {features} numbers."
        ) from error
    if not bool((low <= high).all()) or not bool((high - low).isfinite().all()):
        raise InputError("bounds must be finite, with low <= high for every feature.")
    return low, high


@dataclass(frozen=True)
class Conversion:
    """A converted network and what is known about it.

    Attributes:
        model: `SpinalNet`, or for several hidden layers a `Sequential` of `SpinalLayer`s and a
            final `SpinalNet`; dtype and device of the original, in evaluation mode.
        error_bound: Largest possible difference from the original in evaluation mode, per output,
            on inputs `(N, in_features)` from the box, rounding in both included, where products
            have the precision of their type (no autocast, no TF32). Shape `(out_features,)`,
            float64.
        low: Lower end of the box. Shape `(in_features,)`.
        high: Upper end of the box.
    """

    model: SpinalNet | nn.Sequential
    error_bound: Tensor
    low: Tensor
    high: Tensor


def to_spinal(
    module: nn.Module,
    num_splits: int,
    bounds: Bounds,
    *,
    hidden_features: int | None = None,
    activation: Activation | None = None,
    epsilon: float | None = None,
) -> SpinalNet | nn.Sequential:
    """Return the spinal net that computes what `module` computes, on a box of inputs.

    The same as `convert(...).model`; see there.

    Example:
        >>> dense = nn.Sequential(nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 3)).double()
        >>> net = to_spinal(dense, num_splits=3, bounds=(-1, 1), hidden_features=4)
        >>> x = torch.rand(5, 7).double() * 2 - 1
        >>> bool((net(x) - dense(x)).abs().max() < 1e-9)
        True
    """
    return convert(
        module,
        num_splits,
        bounds,
        hidden_features=hidden_features,
        activation=activation,
        epsilon=epsilon,
    ).model


def convert(
    module: nn.Module,
    num_splits: int,
    bounds: Bounds,
    *,
    hidden_features: int | None = None,
    activation: Activation | None = None,
    epsilon: float | None = None,
) -> Conversion:
    """Turn fully connected layers into a spinal net of the same function, with an error bound.

    Args:
        module: A `Linear` (with `activation`), an `MLPHead`, or a `Sequential` of linear layers,
            batch norms (folded in, with their running statistics), activations and dropouts (left
            out), nothing of it in training mode where that makes a difference. Without an output
            row the result returns the activations of the last hidden layer.
        num_splits: Number of slices of the input of every hidden layer.
        bounds: `(low, high)` of the inputs: numbers, or one per feature; see `bounds_of`. The
            boxes of later hidden layers follow by interval arithmetic.
        hidden_features: Width `w` of the spinal layers; a dense layer of `n` neurons becomes
            `num_splits * ceil(n / w)` of them. `None`: as wide as the dense layer, which is the
            shallowest form.
        activation: Of a `Linear` that has none yet.
        epsilon: For sigmoid and tanh, the largest pre-activation of an adder. Small values
            approximate better until rounding takes over; `None` is where the two meet.

    Raises:
        InputError: If the module has a part whose `forward`, hooks or numbers may compute anything
            else (by its place and name), or the bounds or a number cannot serve.
    """
    check_positive("num_splits", num_splits)
    if hidden_features is not None:
        check_positive("hidden_features", hidden_features)
    found = dense_layers(module, activation)
    layers = found.layers
    numbers = Arithmetic.of(found.dtype)
    # Where the truncation, epsilon^2 / 12, meets the rounding, 2 unit / epsilon.
    small = (24 * numbers.unit) ** (1 / 3) if epsilon is None else epsilon
    if not 0.0 < small <= 1.0:
        raise InputError(f"epsilon must be in (0, 1], got {epsilon!r}.")
    low, high = _check_bounds(bounds, layers[0].weight.shape[1], found.device)
    make = {"device": found.device, "dtype": found.dtype}

    hidden = layers[:-1] if layers[-1].activation is None else layers
    values = Values(low, high, torch.zeros_like(low), torch.arange(len(low)), len(low))
    spines: list[SpinalLayer] = []
    for dense in hidden:
        spine, values = _spine(dense, values, num_splits, hidden_features, small, numbers, make)
        spines.append(spine)

    net, error = _with_output(spines[-1], values, layers[-1], numbers)
    model = net if len(spines) == 1 else nn.Sequential(*spines[:-1], net).eval()
    return Conversion(model, error, low, high)


def _check_range(values: Tensor, numbers: Arithmetic) -> None:
    if not bool((values < numbers.largest / 8).all()):
        raise InputError(
            "weights and bounds must keep all values inside the range of the numbers, but sums may "
            f"reach {float(values.max()):.1g}: give narrower bounds, or convert in float64."
        )


def _with_output(
    spine: SpinalLayer, values: Values, last: Dense, numbers: Arithmetic
) -> tuple[SpinalNet, Tensor]:
    """Return the net of `spine` and the output row, and the largest error of its outputs."""
    neurons = len(values.columns)
    weight, bias, size = last.weight, last.bias, last.size
    if last.activation is not None:  # there is no output row: hand the neurons on
        weight, bias = torch.eye(neurons).to(weight), weight.new_zeros(neurons)
        size = bias
    reach = weight.abs() @ values.reach + size
    _check_range(reach, numbers)
    terms = neurons + last.steps
    error = weight.abs() @ values.error + 2 * numbers.rounding(terms) * reach
    error = error + 2 * numbers.flushed(terms, values.reach)
    anchor = next(spine.parameters())
    net = SpinalNet(
        spine.in_features,
        len(weight),
        spine.hidden_features,
        spine.num_layers,
        num_splits=spine.num_splits,
        device=anchor.device,
        dtype=anchor.dtype,
    ).eval()
    net.spine = spine
    with torch.no_grad():
        net.output.weight.zero_()
        net.output.weight[:, values.columns] = weight.to(anchor.dtype)
        net.output.bias.copy_(bias)
    return net, error


def _spine(
    dense: Dense,
    inputs: Values,
    num_splits: int,
    hidden_features: int | None,
    epsilon: float,
    numbers: Arithmetic,
    make: dict[str, Any],
) -> tuple[SpinalLayer, Values]:
    """Build the spinal layer that contains the neurons of `dense`, and say what it computes."""
    activation = dense.activation
    assert activation is not None
    piece = piece_of(activation)
    neurons = len(dense.weight)
    width = min(hidden_features or neurons, neurons)
    groups = math.ceil(neurons / width)
    spine = SpinalLayer(
        inputs.width,
        width,
        groups * num_splits,
        num_splits=num_splits,
        activation=lambda: copy.deepcopy(activation),
        **make,
    ).eval()
    scatter = dense.weight.new_zeros(neurons, inputs.width)
    scatter[:, inputs.columns] = dense.weight
    slices = spine.slices[:num_splits]

    linears = gradients.linears_of(spine)
    carry = Carry.start(dense.weight)
    ray = ray_start(piece, activation, numbers.unit)
    everywhere = torch.zeros(3, inputs.width).to(scatter)
    everywhere[:, inputs.columns] = torch.stack([inputs.low, inputs.high, inputs.error])
    low, high, input_error = everywhere
    with torch.no_grad():
        for parameter in spine.layers.parameters():
            parameter.zero_()
        for split, part in enumerate(slices):
            last = split == num_splits - 1
            following = carry.add(
                scatter[:, part], low[part], high[part], input_error[part], width, numbers
            )
            if last:
                gain, shift = torch.ones(neurons).to(scatter), dense.bias
            else:
                following = following.through(piece, activation, ray, epsilon, numbers)
                gain, shift = following.gain, following.shift
            own = gain[:, None] * scatter[:, part]
            chain = gain * carry.back if split else None
            _write(linears[split::num_splits], own, chain, shift + gain * carry.offset)
            carry = following

    low, high = carry.low + dense.bias, carry.high + dense.bias
    exact = interval(activation, piece, low, high)
    # Both the spinal and the dense pre-activation are rounded; `carry.size` bounds their terms.
    size = carry.size + dense.size
    _check_range(size, numbers)
    terms = inputs.width + width + dense.steps
    rounded = numbers.rounding(terms) * size + numbers.flushed(terms, inputs.reach)
    off = carry.error + 2 * rounded
    error = piece.steepest(activation) * off + jumps(piece, activation, low - off, high + off)
    error = error + 8 * numbers.unit * torch.maximum(exact[0].abs(), exact[1].abs())
    error = error + 2 * numbers.tiny
    index = torch.arange(neurons)
    columns = ((index // width + 1) * num_splits - 1) * width + index % width
    return spine, Values(*exact, error, columns, spine.out_features)


def _write(linears: Sequence[nn.Linear], own: Tensor, chain: Tensor | None, bias: Tensor) -> None:
    """Write the rows of all target neurons for one slice into its layers, a group into each."""
    size = own.shape[1]
    for group, linear in enumerate(linears):
        rows = slice(group * linear.out_features, (group + 1) * linear.out_features)
        used = len(bias[rows])
        linear.weight[:used, :size] = own[rows]
        if chain is not None:
            linear.weight[:used, size : size + used] = torch.diag(chain[rows])
        linear.bias[:used] = bias[rows]

"""The paper's universality argument as functions: dense layers turned into spinal ones.

`to_spinal` rewrites a trained network of fully connected layers as a spinal net that computes the
same function on a bounded box of inputs. A spinal neuron sees one slice only, so a target neuron
`phi(W x + b)` is spread over one layer per slice: all but the last are *adders* that carry the
partial sum `W_1 x_1 + ... + W_s x_s` on through a region where `phi` is affine, the last one adds
its own slice and the target's bias. `w` target neurons side by side need `num_splits` spinal layers
of width `w`; the next `w` follow below, with zero weights between the groups.

How an adder stays affine depends on the activation (`_PIECES` is the one table):

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive
from spinalnet.nn import MLPHead, Normed, SpinalLayer, SpinalNet, backends, gradients, why_called
from spinalnet.nn.activations import Activation, make_activation

Bounds = tuple[Any, Any]


@dataclass(frozen=True)
class _Piece:
    """Where an activation is affine, and what its error analysis needs.

    Attributes:
        kind: "line": everywhere; "ray": for z >= 0 (`margin` says how far out); "point": near 0.
        slope: Slope of the affine piece.
        steepest: Largest absolute slope anywhere.
        smooth: Whether a ray is affine only in the limit.
        third: For a point: largest absolute third derivative.
        turning: Arguments at which the activation has a minimum or a kink.
    """

    kind: Literal["line", "ray", "point"]
    slope: Callable[[Any], float] = lambda act: 1.0
    steepest: Callable[[Any], float] = lambda act: 1.0
    smooth: bool = False
    third: float = 0.0
    turning: tuple[float, ...] = (0.0,)


_SELU_SCALE = 1.0507009873554805
_SELU_STEEPEST = 1.7580993408473766  # scale * alpha, the slope just below zero

_PIECES: dict[type[nn.Module], _Piece] = {
    nn.Identity: _Piece("line"),
    nn.ReLU: _Piece("ray"),
    nn.LeakyReLU: _Piece("ray", steepest=lambda act: max(1.0, abs(act.negative_slope))),
    nn.PReLU: _Piece("ray", steepest=lambda act: max(1.0, float(act.weight.abs().max()))),
    nn.ELU: _Piece("ray", steepest=lambda act: max(1.0, abs(act.alpha))),
    nn.SELU: _Piece("ray", lambda act: _SELU_SCALE, lambda act: _SELU_STEEPEST),
    nn.Softplus: _Piece("ray", smooth=True),
    nn.GELU: _Piece("ray", steepest=lambda act: 1.13, smooth=True, turning=(-0.7518,)),
    nn.SiLU: _Piece("ray", steepest=lambda act: 1.1, smooth=True, turning=(-1.2785,)),
    nn.Mish: _Piece("ray", steepest=lambda act: 1.09, smooth=True, turning=(-1.1924,)),
    nn.Sigmoid: _Piece("point", lambda act: 0.25, lambda act: 0.25, third=0.125),
    nn.Tanh: _Piece("point", third=2.0),
}


_KNOWN = ", ".join(kind.__name__ for kind in _PIECES)


def _piece(activation: nn.Module) -> _Piece:
    if type(activation) not in _PIECES:
        raise InputError(
            f"the activation must have a known affine piece, got {type(activation).__name__}: use "
            f"one of {_KNOWN}."
        )
    if isinstance(activation, nn.PReLU) and activation.num_parameters > 1:
        raise InputError("a PReLU with one slope per neuron cannot be shared by the layers.")
    return _PIECES[type(activation)]


def _ray_start(piece: _Piece, activation: nn.Module, unit: float) -> tuple[float, float]:
    """Return (where the ray starts, how far the activation is from it there and beyond)."""
    if not piece.smooth:
        return 0.0, 0.0
    start = 2.0  # from here on all smooth rows approach their line monotonically
    while True:
        value = torch.tensor(start, dtype=torch.float64)
        deviation = abs(float(copy.deepcopy(activation).double()(value)) - start)
        if deviation <= unit:
            return start, deviation
        start += 1.0


@dataclass(frozen=True)
class _Dense:
    """One fully connected layer: `activation(weight x + bias)`, in float64."""

    weight: Tensor
    bias: Tensor
    activation: nn.Module | None = None


_SKIPPED = (nn.Dropout, nn.AlphaDropout, nn.Flatten)


def _dense_layers(module: nn.Module, activation: Activation | None) -> list[_Dense]:
    """Read the layers of a Linear, MLPHead or Sequential, batch norms folded in."""
    if not isinstance(module, nn.Linear | nn.Sequential | MLPHead):
        raise InputError(
            "only a Linear, an MLPHead or a Sequential of linear layers can be converted, "
            f"got {type(module).__name__}."
        )
    known = [kind.forward for kind in (nn.Sequential, MLPHead, Normed)]
    for owner in module.modules():
        # What stands between its parts and the input may do anything with them: an adapter.
        if any(owner.children()) and (type(owner).forward not in known or backends.hooked(owner)):
            raise InputError(
                f"a {type(owner).__name__} with parts of its own, or with hooks, cannot be "
                "converted; merge the adapter, remove the parametrization or the hook."
            )
    layers: list[_Dense] = []
    for leaf in (m for m in module.modules() if not any(m.children())):
        if isinstance(leaf, nn.Linear):
            reason = why_called(leaf)
            if reason is not None:
                raise InputError(
                    f"a linear map that is more than its matrix and its bias cannot be converted: "
                    f"{reason}; remove the hook, or merge the adapter."
                )
            weight = leaf.weight.detach().double()
            bias = torch.zeros(len(weight)) if leaf.bias is None else leaf.bias.detach()
            layers.append(_Dense(weight, bias.to(weight)))
        elif isinstance(leaf, _SKIPPED):
            continue  # not there in evaluation mode
        elif not layers or (last := layers[-1]).activation is not None:
            raise InputError(
                f"every {type(leaf).__name__} must follow a Linear of its own; give a Sequential "
                "of Linear, norm and activation in this order."
            )
        elif isinstance(leaf, nn.BatchNorm1d):
            scale, shift = gradients.folded_batch_norm(leaf)
            layers[-1] = _Dense(scale[:, None] * last.weight, scale * last.bias + shift)
        elif type(leaf) in _PIECES:
            _piece(leaf)
            layers[-1] = replace(last, activation=leaf)
        else:
            raise InputError(
                f"a {type(leaf).__name__} has no exact spinal form; known activations: {_KNOWN}."
            )
    if not layers:
        raise InputError("the module has no Linear: nothing to convert.")
    if activation is not None:
        if layers[-1].activation is not None:
            raise InputError("activation must be left out for a module that ends with one.")
        layers[-1] = replace(layers[-1], activation=make_activation(activation))
    if len(layers) == 1 and layers[0].activation is None:
        raise InputError(
            "a single Linear is no hidden layer: pass activation=, or a module with an output row."
        )
    return layers


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
            on the box, rounding in both included. Shape `(out_features,)`, float64.
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
            out). Without an output row the result returns the activations of the last hidden layer.
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
        InputError: If the module, the bounds or a number cannot serve.
    """
    check_positive("num_splits", num_splits)
    if hidden_features is not None:
        check_positive("hidden_features", hidden_features)
    layers = _dense_layers(module, activation)
    anchor = next(module.parameters())
    unit = torch.finfo(anchor.dtype).eps / 2
    # Where the truncation, epsilon^2 / 12, meets the rounding, 2 unit / epsilon.
    small = (24 * unit) ** (1 / 3) if epsilon is None else epsilon
    if not 0.0 < small <= 1.0:
        raise InputError(f"epsilon must be in (0, 1], got {epsilon!r}.")
    low, high = _check_bounds(bounds, layers[0].weight.shape[1], anchor.device)
    make = {"device": anchor.device, "dtype": anchor.dtype}

    hidden = layers[:-1] if layers[-1].activation is None else layers
    values = _Values(low, high, torch.zeros_like(low), torch.arange(len(low)), len(low))
    spines: list[SpinalLayer] = []
    for dense in hidden:
        spine, values = _spine(dense, values, num_splits, hidden_features, small, unit, make)
        spines.append(spine)

    net, error = _with_output(spines[-1], values, layers[-1], unit)
    model = net if len(spines) == 1 else nn.Sequential(*spines[:-1], net).eval()
    return Conversion(model, error, low, high)


def _with_output(
    spine: SpinalLayer, values: _Values, last: _Dense, unit: float
) -> tuple[SpinalNet, Tensor]:
    """Return the net of `spine` and the output row, and the largest error of its outputs."""
    neurons = len(values.columns)
    weight, bias = last.weight, last.bias
    if last.activation is not None:  # there is no output row: hand the neurons on
        weight, bias = torch.eye(neurons).to(weight), torch.zeros(neurons).to(bias)
    reach = weight.abs() @ values.reach + bias.abs()
    error = weight.abs() @ values.error + 2 * _rounding(neurons, unit) * reach
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


def _rounding(terms: int, unit: float) -> float:
    """Relative error of a sum of so many products, computed in any order (Higham's gamma)."""
    return (terms + 3) * unit / (1 - (terms + 3) * unit)


@dataclass(frozen=True)
class _Values:
    """What is known about the inputs of a layer: of the wanted ones, and where they stand.

    `low`, `high`, `error` `(n,)`: range of the exact values and how far the computed ones may be
    off. `columns` `(n,)`: their places among the `width` inputs; the others (adders) get weight 0.
    """

    low: Tensor
    high: Tensor
    error: Tensor
    columns: Tensor
    width: int

    @property
    def reach(self) -> Tensor:
        """Largest absolute computed value."""
        return torch.maximum(self.low.abs(), self.high.abs()) + self.error


def _spine(
    dense: _Dense,
    inputs: _Values,
    num_splits: int,
    hidden_features: int | None,
    epsilon: float,
    unit: float,
    make: dict[str, Any],
) -> tuple[SpinalLayer, _Values]:
    """Build the spinal layer that contains the neurons of `dense`, and say what it computes."""
    activation = dense.activation
    assert activation is not None
    piece = _piece(activation)
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
    carry = _Carry.start(dense.weight)
    ray = _ray_start(piece, activation, unit) if piece.kind == "ray" else (0.0, 0.0)
    everywhere = torch.zeros(3, inputs.width).to(scatter)
    everywhere[:, inputs.columns] = torch.stack([inputs.low, inputs.high, inputs.error])
    low, high, input_error = everywhere
    with torch.no_grad():
        for parameter in spine.layers.parameters():
            parameter.zero_()
        for split, part in enumerate(slices):
            last = split == num_splits - 1
            following = carry.add(
                scatter[:, part], low[part], high[part], input_error[part], width, unit
            )
            if last:
                gain, shift = torch.ones(neurons).to(scatter), dense.bias
            else:
                following = following.through(piece, activation, ray, epsilon, unit)
                gain, shift = following.gain, following.shift
            own = gain[:, None] * scatter[:, part]
            chain = gain * carry.back if split else None
            _write(linears[split::num_splits], own, chain, shift + gain * carry.offset)
            carry = following

    exact = _interval(activation, piece, carry.low + dense.bias, carry.high + dense.bias)
    # Both the spinal and the dense pre-activation are rounded; `carry.size` bounds their terms.
    size = carry.size + dense.bias.abs()
    error = piece.steepest(activation) * (
        carry.error + 2 * _rounding(inputs.width + width, unit) * size
    )
    error = error + 8 * unit * torch.maximum(exact[0].abs(), exact[1].abs())
    index = torch.arange(neurons)
    columns = ((index // width + 1) * num_splits - 1) * width + index % width
    return spine, _Values(*exact, error, columns, spine.out_features)


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


@dataclass(frozen=True)
class _Carry:
    """The partial sums of all target neurons as some layer hands them on, `(n,)` each.

    The partial sum is `back * h + offset` of that layer's output `h`; its range is `low` to `high`,
    `error` how far off it may be, `size` the largest sum of absolute terms so far. `gain` and
    `shift` made the pre-activation `gain * sum + shift`.
    """

    low: Tensor
    high: Tensor
    error: Tensor
    size: Tensor
    gain: Tensor
    shift: Tensor
    back: Tensor
    offset: Tensor
    terms: int

    @classmethod
    def start(cls, weight: Tensor) -> _Carry:
        zero, one = torch.zeros(len(weight)).to(weight), torch.ones(len(weight)).to(weight)
        return cls(zero, zero, zero, zero, one, zero, zero, zero, 0)

    def add(
        self, weight: Tensor, low: Tensor, high: Tensor, error: Tensor, width: int, unit: float
    ) -> _Carry:
        """Add a slice with these weights `(n, s)` and ranges of its inputs `(s,)`."""
        at_low, at_high = weight * low, weight * high
        reach = torch.maximum(low.abs(), high.abs()) + error
        return replace(
            self,
            low=self.low + torch.minimum(at_low, at_high).sum(1),
            high=self.high + torch.maximum(at_low, at_high).sum(1),
            error=self.error + weight.abs() @ error,
            size=self.size + weight.abs() @ reach + 2 * self.offset.abs(),
            gain=torch.ones_like(self.gain),
            shift=torch.zeros_like(self.shift),
            terms=len(low) + width + 1,
        )

    def through(
        self,
        piece: _Piece,
        activation: nn.Module,
        ray: tuple[float, float],
        epsilon: float,
        unit: float,
    ) -> _Carry:
        """Pass the sum through an adder: affine there and back."""
        slope = piece.slope(activation)
        one = torch.ones_like(self.low)
        deviation: Tensor | float = 0.0
        at_zero = 0.0
        if piece.kind == "line":
            gain, shift = one, 0 * one
        elif piece.kind == "ray":
            # The error of the sum so far must not push it over the edge either.
            gain, shift = one, ray[0] - self.low + self.error
            deviation = ray[1] / slope
        else:
            at_zero = 0.5 if isinstance(activation, nn.Sigmoid) else 0.0
            half = (self.high - self.low) / 2
            gain = epsilon / torch.where(half > 0, half, one)
            shift = -gain * (self.high + self.low) / 2
            deviation = piece.third / 6 * (epsilon + gain * self.error) ** 3 / (slope * gain)
        back = 1 / (slope * gain)
        offset = -shift / gain - at_zero * back
        # Terms of the pre-activation and values of the activation, in units of the sum.
        largest = self.size + shift.abs() / gain + at_zero * back
        steep = piece.steepest(activation) / slope
        rounding = steep * _rounding(self.terms, unit) * largest + 8 * unit * largest
        error = self.error + deviation + rounding
        return replace(self, error=error, gain=gain, shift=shift, back=back, offset=offset)


def _interval(
    activation: nn.Module, piece: _Piece, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the range of the activation over [low, high], elementwise."""
    with torch.no_grad():
        at = copy.deepcopy(activation).to(low)
        points = [low, high, *(low.clamp_min(turn).minimum(high) for turn in piece.turning)]
        values = torch.stack([at(point) for point in points])
    slack = 1e-6 if piece.smooth else 0.0  # turning points are given to four digits
    return values.amin(0) - slack, values.amax(0) + slack

"""The control that takes the chain away and leaves everything else of a spinal net."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet._checks import InputError, check_positive, check_probability
from spinalnet.kernels.reference import split_sizes
from spinalnet.nn.activations import Activation, make_activation, make_norms
from spinalnet.nn.diagram import Drawn
from spinalnet.wiring import WiredLayer, Wiring, wired


class UnchainedNet(Drawn, nn.Module):
    """A spinal net without the chain: layer `l` sees its slice of the input and nothing else.

    Slices, widths, norms, dropout and the output row are those of `SpinalNet` with the same
    arguments, so a difference between the two is what the chain does. Every logit is a sum of
    functions of one slice each: what two slices say together, this net cannot learn.

    Layers that share a slice are one linear map, so that a pass costs what its multiplications say.

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer, or a width for each of them.
        num_layers: Number of layers.
        num_splits: Number of slices the layers cycle through, as in `SpinalLayer`.
        activation: Name or module factory; one instance serves all layers.
        norm: `"batch"`, `"layer"` or `None`; each layer has its own.
        dropout: Probability of dropping an input of a layer, drawn anew for each.
        output_dropout: The same for the output row; `None` means equal to `dropout`.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        InputError: If a number is out of range or a name unknown.

    Example:
        >>> UnchainedNet(320, 10, hidden_features=8, num_layers=6)(torch.randn(4, 320)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int | Sequence[int],
        num_layers: int = 4,
        *,
        num_splits: int = 2,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float = 0.0,
        output_dropout: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.num_layers = check_positive("num_layers", num_layers)
        self.widths = _widths(hidden_features, num_layers)
        self.hidden_features = max(self.widths)
        self.num_splits = min(check_positive("num_splits", num_splits), num_layers)
        self.dropout = check_probability("dropout", dropout)
        self.split_sizes = split_sizes(in_features, self.num_splits)
        self.slices = nn.ModuleList(
            nn.Linear(size, sum(self._widths_of(split)), bias, device, dtype)
            for split, size in enumerate(self.split_sizes)
        )
        self.norms = nn.ModuleList(
            one for width in self.widths for one in make_norms(norm, width, 1, device, dtype)
        )
        self.activation = make_activation(activation)
        row_dropout = dropout if output_dropout is None else output_dropout
        self.output_dropout = nn.Dropout(check_probability("output_dropout", row_dropout))
        self.output = nn.Linear(sum(self.widths), out_features, bias, device, dtype)

    def _widths_of(self, split: int) -> list[int]:
        """Return the widths of the layers that see a slice."""
        return list(self.widths[split :: self.num_splits])

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        if x.shape[-1] != self.in_features:
            raise InputError(
                f"the last dimension of x must be in_features={self.in_features}, "
                f"got shape {tuple(x.shape)}."
            )
        rows = x.reshape(-1, self.in_features)
        parts = zip(self.slices, rows.split(self.split_sizes, dim=-1), strict=True)
        by_slice = [
            self._layers_of(linear, part, self._widths_of(split))
            for split, (linear, part) in enumerate(parts)
        ]
        hidden = [
            by_slice[layer % self.num_splits][layer // self.num_splits]
            for layer in range(self.num_layers)
        ]
        if self.norms:
            hidden = [norm(z) for norm, z in zip(self.norms, hidden, strict=True)]
        logits = self.output(self.output_dropout(self.activation(torch.cat(hidden, dim=-1))))
        return logits.reshape(*x.shape[:-1], self.out_features)

    def wiring(self) -> Wiring:
        """Return what feeds what, as plain data."""
        ends = [*accumulate(self.split_sizes)]
        slices = [(end - size, end) for end, size in zip(ends, self.split_sizes, strict=True)]
        layers = [WiredLayer(w, *slices[i % len(slices)]) for i, w in enumerate(self.widths)]
        return wired(self, self.in_features, self.out_features, layers)

    def _layers_of(
        self, linear: nn.Module, part: Tensor, widths: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Return the sums of all layers that see a slice."""
        widths = list(widths)
        if not (self.training and self.dropout > 0):
            return linear(part).split(widths, dim=-1)
        weights = linear.weight.split(widths)  # type: ignore[union-attr, operator]
        bias = linear.bias
        biases = [None] * len(weights) if bias is None else bias.split(widths)  # type: ignore[union-attr, operator]
        return tuple(
            F.linear(F.dropout(part, self.dropout), weight, own)
            for weight, own in zip(weights, biases, strict=True)
        )


def _widths(hidden_features: int | Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Return the width of each layer."""
    given = [hidden_features] * num_layers if isinstance(hidden_features, int) else hidden_features
    widths = tuple(check_positive("hidden_features", width) for width in given)
    if len(widths) != num_layers:
        raise InputError(
            f"hidden_features must be one width or one for each of the {num_layers} layers, "
            f"got {len(widths)}."
        )
    return widths


def matched_unchained(
    in_features: int,
    out_features: int,
    num_params: int,
    num_layers: int = 4,
    *,
    num_splits: int = 2,
    activation: Activation = "relu",
    norm: str | None = None,
    dropout: float = 0.0,
    output_dropout: float | None = None,
    bias: bool = True,
    device: Any = None,
    dtype: Any = None,
) -> UnchainedNet:
    """Return an `UnchainedNet` whose parameter count is nearest to `num_params`.

    The control for size beside the one for wiring: what the chain costs in parameters goes into
    wider layers. The widths of the layers differ by one neuron at most (the first ones are the
    wider), so the count is off by at most half of what one neuron has: its slice, its bias and
    norm, and its column of the output row. For the head of the paper's MNIST network that is
    86 of 8,620 parameters, 1 %.

    Raises:
        InputError: If even one neuron in every layer has more than twice `num_params`.
    """
    check_positive("num_params", num_params)
    splits = min(check_positive("num_splits", num_splits), check_positive("num_layers", num_layers))
    sizes = split_sizes(in_features, splits)
    per_neuron = out_features + (1 if bias else 0) + (2 if norm is not None else 0)
    costs = [sizes[layer % splits] + per_neuron for layer in range(num_layers)]
    wanted = num_params - (out_features if bias else 0)
    width = max(1, wanted // sum(costs))
    rest = wanted - width * sum(costs)
    wider = min(range(num_layers + 1), key=lambda count: abs(rest - sum(costs[:count])))
    if rest < -num_params:
        raise InputError(
            f"no unchained net of {num_layers} layers on {in_features} features and "
            f"{out_features} outputs is near {num_params} parameters (the smallest has "
            f"{num_params - rest}): take fewer layers."
        )
    return UnchainedNet(
        in_features,
        out_features,
        [width + 1] * wider + [width] * (num_layers - wider),
        num_layers,
        num_splits=num_splits,
        activation=activation,
        norm=norm,
        dropout=dropout,
        output_dropout=output_dropout,
        bias=bias,
        device=device,
        dtype=dtype,
    )

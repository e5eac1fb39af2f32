"""The control that takes the chain away and leaves everything else of a spinal net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet._checks import InputError, check_positive, check_probability
from spinalnet.kernels.reference import split_sizes
from spinalnet.nn.activations import Activation, make_activation, make_norms


class UnchainedNet(nn.Module):
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
        hidden_features: Width of every layer.
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
        hidden_features: int,
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
        self.hidden_features = check_positive("hidden_features", hidden_features)
        self.num_layers = check_positive("num_layers", num_layers)
        self.num_splits = min(check_positive("num_splits", num_splits), num_layers)
        self.dropout = check_probability("dropout", dropout)
        self.split_sizes = split_sizes(in_features, self.num_splits)
        layers = [len(range(split, num_layers, self.num_splits)) for split in self.splits]
        self.slices = nn.ModuleList(
            nn.Linear(size, count * hidden_features, bias, device, dtype)
            for size, count in zip(self.split_sizes, layers, strict=True)
        )
        self.norms = nn.ModuleList(make_norms(norm, hidden_features, num_layers, device, dtype))
        self.activation = make_activation(activation)
        row_dropout = dropout if output_dropout is None else output_dropout
        self.output_dropout = nn.Dropout(check_probability("output_dropout", row_dropout))
        self.output = nn.Linear(num_layers * hidden_features, out_features, bias, device, dtype)

    @property
    def splits(self) -> range:
        """Numbers of the slices."""
        return range(self.num_splits)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        if x.shape[-1] != self.in_features:
            raise InputError(
                f"the last dimension of x must be in_features={self.in_features}, "
                f"got shape {tuple(x.shape)}."
            )
        rows = x.reshape(-1, self.in_features)
        parts = zip(self.slices, rows.split(self.split_sizes, dim=-1), strict=True)
        by_slice = [self._layers_of(linear, part) for linear, part in parts]
        hidden = [
            by_slice[layer % self.num_splits][layer // self.num_splits]
            for layer in range(self.num_layers)
        ]
        if self.norms:
            hidden = [norm(z) for norm, z in zip(self.norms, hidden, strict=True)]
        logits = self.output(self.output_dropout(self.activation(torch.cat(hidden, dim=-1))))
        return logits.reshape(*x.shape[:-1], self.out_features)

    def _layers_of(self, linear: nn.Module, part: Tensor) -> tuple[Tensor, ...]:
        """Return the sums of all layers that see a slice."""
        width = self.hidden_features
        if not (self.training and self.dropout > 0):
            return linear(part).split(width, dim=-1)
        weights = linear.weight.split(width)  # type: ignore[union-attr, operator]
        bias = linear.bias
        biases = [None] * len(weights) if bias is None else bias.split(width)  # type: ignore[union-attr, operator]
        return tuple(
            F.linear(F.dropout(part, self.dropout), weight, own)
            for weight, own in zip(weights, biases, strict=True)
        )

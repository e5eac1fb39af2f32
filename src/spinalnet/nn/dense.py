"""The heads that a spinal head is compared with: linear, fully connected, densely connected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive, check_probability
from spinalnet.nn.activations import make_activation, make_norms
from spinalnet.nn.diagram import Drawn
from spinalnet.wiring import WiredLayer, Wiring, wired

if TYPE_CHECKING:
    from spinalnet.nn.activations import Activation


class LinearHead(Drawn, nn.Module):
    """One linear map, with dropout before it if asked for.

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        dropout: float = 0.0,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.dropout = nn.Dropout(check_probability("dropout", dropout))
        self.output = nn.Linear(in_features, out_features, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        return self.output(self.dropout(x))

    def wiring(self) -> Wiring:
        """Return what feeds what, as plain data."""
        return wired(self, self.in_features, self.out_features, ())


class Normed(nn.Module):
    """Apply a norm over the last dimension, whatever leading dimensions there are."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Norm `(..., features)` over the features."""
        return self.norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class MLPHead(Drawn, nn.Module):
    """Fully connected layers of any widths: what a spinal head replaces.

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Widths of the hidden layers, one number or a sequence.
        activation: Name or module factory, a fresh instance per layer.
        norm: `"batch"`, `"layer"` or `None`.
        dropout: Probability before every linear map, or one probability for each of them
            (hidden layers and output row).
        output_dropout: Overrides the probability before the output row.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int | Sequence[int] = 512,
        *,
        activation: Activation = "relu",
        norm: str | None = None,
        dropout: float | Sequence[float] = 0.0,
        output_dropout: float | None = None,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        widths = [hidden_features] if isinstance(hidden_features, int) else list(hidden_features)
        for width in widths:
            check_positive("hidden_features", width)
        rates = (
            [float(dropout)] * (len(widths) + 1)
            if isinstance(dropout, int | float)
            else [float(rate) for rate in dropout]
        )
        if len(rates) != len(widths) + 1:
            raise InputError(
                f"dropout must be one number or {len(widths) + 1} (hidden layers and output), "
                f"got {len(rates)}."
            )
        if output_dropout is not None:
            rates[-1] = output_dropout
        self.in_features = check_positive("in_features", in_features)
        self.out_features = check_positive("out_features", out_features)
        self.hidden_features = tuple(widths)
        blocks: list[nn.Module] = []
        for rate, inputs, width in zip(rates, [in_features, *widths], widths, strict=False):
            block: list[nn.Module] = []
            if check_probability("dropout", rate):
                block.append(nn.Dropout(rate))
            block.append(nn.Linear(inputs, width, bias, device, dtype))
            block += map(Normed, make_norms(norm, width, 1, device, dtype))
            block.append(make_activation(activation))
            blocks.append(nn.Sequential(*block))
        self.layers = nn.Sequential(*blocks)
        self.output_dropout = nn.Dropout(check_probability("output_dropout", rates[-1]))
        self.output = nn.Linear([in_features, *widths][-1], out_features, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        return self.output(self.output_dropout(self.layers(x)))

    def wiring(self) -> Wiring:
        """Return what feeds what, as plain data."""
        layers = [
            WiredLayer(width, 0, 0 if i else self.in_features, (i - 1,) if i else ())
            for i, width in enumerate(self.hidden_features)
        ]
        return wired(self, self.in_features, self.out_features, layers, stacked=True)


class ProgressiveNet(Drawn, nn.Module):
    """Densely connected chain: every layer sees the whole input and all earlier layers.

    The Progressive SpinalNet of the same authors; not a split network. Layer 1 sees the input as
    it is, all later layers and the output row see one dropped copy of it (a single mask).

    Shape:
        input `(..., in_features)`, output logits `(..., out_features)`.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer.
        num_layers: Number of hidden layers.
        activation: Name or module factory; one instance serves all layers.
        norm: `"batch"`, `"layer"` or `None`.
        input_dropout: Probability of dropping a feature in the shared copy of the input.
        dropout: Probability before every hidden linear map.
        output_dropout: The same before the output row; `None` means equal to `dropout`.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 4,
        *,
        activation: Activation = "relu",
        norm: str | None = None,
        input_dropout: float = 0.2,
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
        self.input_dropout = nn.Dropout(check_probability("input_dropout", input_dropout))
        self.dropout = nn.Dropout(check_probability("dropout", dropout))
        self.output_dropout = nn.Dropout(
            check_probability(
                "output_dropout", dropout if output_dropout is None else output_dropout
            )
        )
        self.layers = nn.ModuleList(
            [
                nn.Linear(
                    in_features + layer * hidden_features, hidden_features, bias, device, dtype
                )
                for layer in range(num_layers)
            ]
        )
        self.norms = nn.ModuleList(make_norms(norm, hidden_features, num_layers, device, dtype))
        self.activation = make_activation(activation)
        self.output = nn.Linear(
            in_features + num_layers * hidden_features, out_features, bias, device, dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        rows = x.reshape(-1, self.in_features)
        seen = rows
        dropped = self.input_dropout(rows)
        for index, linear in enumerate(self.layers):
            z = linear(self.dropout(seen))
            if self.norms:
                z = self.norms[index](z)
            hidden = self.activation(z)
            seen = torch.cat([dropped if index == 0 else seen, hidden], dim=-1)
        logits = self.output(self.output_dropout(seen))
        return logits.reshape(*x.shape[:-1], self.out_features)

    def wiring(self) -> Wiring:
        """Return what feeds what, as plain data."""
        layers = [
            WiredLayer(self.hidden_features, 0, self.in_features, tuple(range(i)))
            for i in range(self.num_layers)
        ]
        return wired(self, self.in_features, self.out_features, layers, sees_input=True)


def matched_mlp(
    in_features: int,
    out_features: int,
    num_params: int,
    *,
    activation: Activation = "relu",
    norm: str | None = None,
    dropout: float = 0.0,
    output_dropout: float | None = None,
    bias: bool = True,
    device: Any = None,
    dtype: Any = None,
) -> MLPHead:
    """Return a one-hidden-layer `MLPHead` whose parameter count is nearest to `num_params`.

    The control of every comparison: same features in, same budget, no spine.

    Raises:
        InputError: If even one hidden neuron has more than twice `num_params`.
    """
    check_positive("num_params", num_params)
    per_neuron = in_features + out_features + (1 if bias else 0) + (2 if norm is not None else 0)
    fixed = out_features if bias else 0
    width = max(1, round((num_params - fixed) / per_neuron))
    if per_neuron * width + fixed > 2 * num_params:
        raise InputError(
            f"no MLP on {in_features} features and {out_features} outputs is near "
            f"{num_params} parameters (the smallest has {per_neuron + fixed})."
        )
    return MLPHead(
        in_features,
        out_features,
        width,
        activation=activation,
        norm=norm,
        dropout=dropout,
        output_dropout=output_dropout,
        bias=bias,
        device=device,
        dtype=dtype,
    )

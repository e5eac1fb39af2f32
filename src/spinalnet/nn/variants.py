"""Special wirings: chains at several depths, and two of the original's that no net should have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.layers import SpinalLayer, SpinalNet, check_last_dimension

if TYPE_CHECKING:
    from spinalnet.nn.activations import Activation


class MultiTapSpinalNet(nn.Module):
    """One spinal chain per tap of a trunk, and two fully connected layers over all of them.

    The head of the paper's "Arch2": features taken at several depths of a network each run
    through a chain of their own; the outputs of all layers of all chains feed one hidden layer.

    Shape:
        input `(..., in_features)`, the taps side by side; output logits `(..., out_features)`.

    Args:
        in_features: Number of input features, the sum of `tap_features`.
        out_features: Number of outputs.
        hidden_features: Width of every layer in every chain.
        tap_features: Number of features of each tap, in their order in the input.
        layers_per_tap: Length of each chain.
        top_features: Width of the hidden layer over all chains.
        num_splits: See `SpinalLayer`, as `norm` and `dropout`.
        activation: Name or module factory, in the chains and in the hidden layer.
        norm: `"batch"`, `"layer"` or `None`.
        dropout: Probability of dropping an input of a chain's layer.
        output_dropout: The same for the two layers on top; `None` means equal to `dropout`.
        bias: Whether the linear maps have a bias.
        device: Where the parameters are made.
        dtype: Type of the parameters.

    Raises:
        InputError: If the taps do not add up to `in_features` or have not one length each.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        *,
        tap_features: Sequence[int],
        layers_per_tap: Sequence[int],
        top_features: int = 50,
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
        if sum(tap_features) != in_features:
            raise InputError(
                f"tap_features must add up to in_features={in_features}, got {[*tap_features]}."
            )
        if len(layers_per_tap) != len(tap_features):
            raise InputError(
                f"layers_per_tap must have one number for each of the {len(tap_features)} taps, "
                f"got {[*layers_per_tap]}."
            )
        self.in_features = in_features
        self.out_features = out_features
        self.tap_features = tuple(tap_features)
        chains = [
            SpinalLayer(
                features,
                hidden_features,
                num_layers,
                num_splits=num_splits,
                activation=activation,
                norm=norm,
                dropout=dropout,
                bias=bias,
                device=device,
                dtype=dtype,
            )
            for features, num_layers in zip(tap_features, layers_per_tap, strict=True)
        ]
        self.chains = nn.ModuleList(chains)
        self.top = MLPHead(
            sum(chain.out_features for chain in chains),
            out_features,
            top_features,
            activation=activation,
            norm=norm,
            dropout=dropout if output_dropout is None else output_dropout,
            bias=bias,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        check_last_dimension(x, self.in_features)
        taps = x.split(self.tap_features, dim=-1)
        hidden = [chain(tap) for chain, tap in zip(self.chains, taps, strict=True)]
        return self.top(torch.cat(hidden, dim=-1))

    def wiring(self) -> None:
        """Return nothing: it is several chains, and `Wiring` describes one."""


class TiledSpinalNet(SpinalNet):
    """Compatibility: a spinal net whose slices fall as in the paper's customizable module.

    There a slice is `round(in_features / num_splits)` wide (halves to the even number), layer `l`
    takes the `l`-th such piece of the input, and an input too short for all layers is appended
    to itself. Where `num_splits` divides `in_features` and `num_layers` is at least `num_splits`
    this is `SpinalNet`. Elsewhere features go unseen (8 features, 4 splits, 3 layers: the last
    two) or slices drift and wrap around (7 features, 2 splits): use it for weights trained that
    way, and `SpinalNet` for everything else.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain.
        num_splits: Number that `in_features` is divided by to get the width of a slice.
        options: All other arguments of `SpinalNet`.

    Raises:
        InputError: If a slice would be empty, that is, if no output could depend on the input.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 4,
        *,
        num_splits: int = 2,
        **options: Any,
    ) -> None:
        check_positive("in_features", in_features)
        check_positive("num_layers", num_layers)
        width = round(in_features / check_positive("num_splits", num_splits))
        if width == 0:
            raise InputError(
                f"num_splits={num_splits} leaves slices of no features for in_features="
                f"{in_features}, so that nothing would depend on the input. Lower num_splits."
            )
        # Piece `l` starts at feature `l * width`, counted around: after `period` pieces the
        # first one comes again, so one period of pieces is all that the chain has to see.
        period = min(num_layers, in_features // math.gcd(in_features, width))
        super().__init__(
            period * width, out_features, hidden_features, num_layers, num_splits=period, **options
        )
        self.in_features = in_features

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(..., in_features)` to logits `(..., out_features)`."""
        check_last_dimension(x, self.in_features)
        return super().forward(self.spread(x))

    def spread(self, x: Tensor) -> Tensor:
        """Return the input as the chain sees it: appended to itself as often as needed."""
        copies = -(-self.spine.in_features // self.in_features)
        tiled = x if copies == 1 else torch.cat([x] * copies, dim=-1)
        return tiled[..., : self.spine.in_features]


class ReusedSpinalNet(SpinalNet):
    """Compatibility: a spinal net in which some layers run with the weights of an earlier one.

    Two scripts of the paper allocate six layers but call the third and fourth again in place of
    the fifth and sixth (`reuse=[(4, 2), (5, 3)]`). That is another network than the one described,
    wanted only to use weights trained that way. Layers that never run are not allocated.

    Args:
        in_features: Number of input features.
        out_features: Number of outputs.
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain.
        reuse: Pairs of a layer, counted from 0, and the earlier layer whose weights it takes.
        options: All other arguments of `SpinalNet` but `share_weights`; norms are not shared.

    Raises:
        InputError: If `reuse` names a layer that is not earlier or sees slices of another width.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int,
        num_layers: int = 6,
        *,
        reuse: Sequence[tuple[int, int]],
        **options: Any,
    ) -> None:
        super().__init__(
            in_features, out_features, hidden_features, num_layers, share_weights=False, **options
        )
        linears = [layer for layer in self.spine.layers if isinstance(layer, nn.Linear)]
        for layer, earlier in sorted(reuse):
            if not 0 <= earlier < layer < num_layers:
                raise InputError(
                    f"reuse must pair a layer below {num_layers} with an earlier one, "
                    f"got ({layer}, {earlier})."
                )
            if linears[layer].weight.shape != linears[earlier].weight.shape:
                raise InputError(
                    f"layer {layer} cannot reuse layer {earlier}: their weights have the shapes "
                    f"{tuple(linears[layer].weight.shape)} and "
                    f"{tuple(linears[earlier].weight.shape)}."
                )
            linears[layer] = linears[earlier]
        distinct = list(dict.fromkeys(linears))
        self.spine.layers = nn.ModuleList(distinct)
        self.spine.schedule = tuple(distinct.index(linear) for linear in linears)

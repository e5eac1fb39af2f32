"""The recurrence from torch operations: the slow truth, the grouped path, slice sizes, MACs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from spinalnet._checks import InputError, check_positive

Elementwise = Callable[[Tensor], Tensor]


def split_sizes(in_features: int, num_splits: int) -> tuple[int, ...]:
    """Return the lengths of `num_splits` contiguous slices that cover `in_features` exactly.

    The lengths differ by at most one, longer slices first (9 features in 2 slices: 5 and 4),
    so no feature is dropped and none is used twice.

    Raises:
        InputError: If `num_splits` is not in [1, in_features].

    Example:
        >>> split_sizes(9, 2)
        (5, 4)
    """
    check_positive("in_features", in_features)
    check_positive("num_splits", num_splits)
    if num_splits > in_features:
        raise InputError(
            f"num_splits must be between 1 and in_features={in_features}, got {num_splits}. "
            "Lower num_splits or give more features."
        )
    # To torch.compile both may be symbols, for which there is no divmod.
    short, longer = in_features // num_splits, in_features % num_splits
    return tuple(short + (split < longer) for split in range(num_splits))


def layer_slices(in_features: int, num_layers: int, num_splits: int) -> tuple[slice, ...]:
    """Return which columns of the input each layer sees.

    Raises:
        InputError: If `num_splits` is not in [1, in_features].

    Example:
        >>> [(part.start, part.stop) for part in layer_slices(9, 3, 2)]
        [(0, 5), (5, 9), (0, 5)]
    """
    sizes = split_sizes(in_features, num_splits)
    starts = [sum(sizes[:split]) for split in range(num_splits)]
    parts = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return tuple(parts[layer % num_splits] for layer in range(num_layers))


def segments(
    in_features: int, hidden_features: int, num_layers: int, num_splits: int
) -> list[tuple[int, ...]]:
    """Return the parts that the input of each layer consists of: slice and previous layer."""
    parts = layer_slices(in_features, num_layers, num_splits)
    sizes = [part.stop - part.start for part in parts]
    return [(size, hidden_features) if layer else (size,) for layer, size in enumerate(sizes)]


def spinal_macs(
    in_features: int,
    hidden_features: int,
    num_layers: int,
    num_splits: int = 2,
    out_features: int = 0,
) -> int:
    """Return the multiply-accumulates of one row through the chain and `out_features` outputs."""
    inputs = segments(in_features, hidden_features, num_layers, num_splits)
    return hidden_features * (sum(map(sum, inputs)) + num_layers * out_features)


def piecewise(slope: float) -> Elementwise:
    """Return the activation `z if z > 0 else slope * z`."""
    if slope == 0:
        return torch.relu
    return _identity if slope == 1 else partial(F.leaky_relu, negative_slope=slope)


def _identity(z: Tensor) -> Tensor:
    return z


def spinal_reference(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    activation: Elementwise,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compute the chain as the paper writes it: slice, concatenate, linear, norm, activation.

    The slow truth that every other backend is tested against. Arguments as in `spinal`, except
    that `activation` must be callable.
    """
    width = weights[0].shape[0]
    return spinal_called(
        x,
        [
            partial(F.linear, weight=weight, bias=bias)
            for weight, bias in zip(weights, biases or [None] * len(weights), strict=True)
        ],
        slice_columns=[w.shape[1] - (width if i else 0) for i, w in enumerate(weights)],
        num_splits=num_splits,
        activation=activation,
        norms=norms,
        dropout_masks=dropout_masks,
    )


def spinal_called(
    x: Tensor,
    layers: Sequence[Elementwise],
    *,
    slice_columns: Sequence[int],
    num_splits: int,
    activation: Elementwise,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compute the chain by calling its layers, whatever they do with their input.

    Modules that are more than a matrix and a bias (wrapped by an adapter, quantized, listened to
    by a hook) come here as they are.

    Args:
        x: Shape `(B, D)`.
        layers: One per layer of the chain; maps `(B, columns)` to `(B, H)`.
        slice_columns: How many columns of the slice each layer takes; a shorter slice is padded
            with zeros, which is how a matrix serves slices of unequal length.
        num_splits: As in `spinal`, as the following ones.
        activation: Must be callable.
        norms: One per layer.
        dropout_masks: One per layer, for the input before it is padded.
    """
    slices = x.split(split_sizes(x.shape[-1], num_splits), dim=-1)
    hidden: list[Tensor] = []
    for index, (layer, columns) in enumerate(zip(layers, slice_columns, strict=True)):
        seen = slices[index % num_splits]
        mask = None if dropout_masks is None else dropout_masks[index]
        size = seen.shape[-1]
        if mask is not None:
            seen = seen * mask[..., :size]
        parts = [seen]
        if columns > size:
            parts.append(seen.new_zeros(*seen.shape[:-1], columns - size))
        if hidden:
            parts.append(hidden[-1] if mask is None else hidden[-1] * mask[..., size:])
        z = layer(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        if norms is not None:
            z = norms[index](z)
        hidden.append(activation(z))
    return torch.cat(hidden, dim=-1)


def spinal_packed(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    activation: Elementwise,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compute the chain with one matrix product per slice plus the small sequential part.

    `A_l s` of all layers that share a slice is known before the chain starts, so it is one
    product per slice; only `B_l h` is sequential. That is another order of operations than the
    reference's, hence a loop of its own. With dropout each layer masks the slice anew, so its
    product stays its own. Plain torch operations: differentiates twice, exports, compiles and runs
    on every device and dtype. Arguments as in `spinal_reference`.
    """
    num_layers, hidden_features = len(weights), weights[0].shape[0]
    sizes = split_sizes(x.shape[-1], num_splits)
    slices = x.split(sizes, dim=-1)
    projected: list[Tensor | None] = [None] * num_layers
    if dropout_masks is None:
        for split in range(min(num_splits, num_layers)):
            layers = range(split, num_layers, num_splits)
            # A shared matrix applied to the same slice is one product, however often it is used.
            distinct = list({id(weights[layer]): weights[layer] for layer in layers}.values())
            column = {id(weight): index for index, weight in enumerate(distinct)}
            packed = torch.cat([weight[:, : sizes[split]] for weight in distinct])
            products = F.linear(slices[split], packed).split(hidden_features, dim=-1)
            for layer in layers:
                projected[layer] = products[column[id(weights[layer])]]

    hidden: list[Tensor] = []
    for layer, weight in enumerate(weights):
        size = sizes[layer % num_splits]
        mask = None if dropout_masks is None else dropout_masks[layer]
        z = projected[layer]
        if z is None:
            assert mask is not None
            z = F.linear(slices[layer % num_splits] * mask[..., :size], weight[:, :size])
        if biases is not None:
            z = z + biases[layer]
        if hidden:
            previous = hidden[-1] if mask is None else hidden[-1] * mask[..., size:]
            z = z + F.linear(previous, weight[:, -hidden_features:])
        if norms is not None:
            z = norms[layer](z)
        hidden.append(activation(z))
    return torch.cat(hidden, dim=-1)

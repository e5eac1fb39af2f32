"""Forward and backward on tensors: the kernels, and the matrix products around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spinalnet.kernels.triton.launching import launch, padded, plan_backward, plan_forward
from spinalnet.kernels.triton.programs import forward_kernel, hidden_gradient_kernel

# num_splits, slope, has biases, has an output row
Settings = tuple[int, float, bool, bool]


def unpack(parameters: Sequence[Tensor], settings: Settings) -> tuple[Any, ...]:
    """Return weights, biases, output matrix and output bias (empty or None where absent)."""
    _, _, has_biases, has_output = settings
    rest = list(parameters)
    out_bias = rest.pop() if has_output and rest[-1].dim() == 1 else None
    out_weight = rest.pop() if has_output else None
    layers = len(rest) // 2 if has_biases else len(rest)
    return rest[:layers], rest[layers:], out_weight, out_bias


class Group(NamedTuple):
    """The layers that share a slice, which stand side by side wherever order is ours to choose."""

    layers: range
    size: int
    columns: slice  # of x
    places: slice  # of sums, before the activation, and of their gradients


def groups_of(features: int, num_splits: int, layers: int, width: int) -> list[Group]:
    """Return the groups of layers, one for each slice that any layer sees."""
    short, longer = features // num_splits, features % num_splits
    groups = []
    column = place = 0
    for split in range(min(num_splits, layers)):
        shared = range(split, layers, num_splits)
        size, end = short + (split < longer), place + len(shared) * width
        groups.append(Group(shared, size, slice(column, column + size), slice(place, end)))
        column, place = column + size, end
    return groups


def _stacked(weights: Sequence[Tensor], group: Group, kind: torch.dtype) -> Tensor:
    """Return what the layers of a group do with their slice as one matrix."""
    return torch.cat([weights[layer][:, : group.size] for layer in group.layers]).to(kind)


def forward(
    x: Tensor,
    parameters: Sequence[Tensor],
    settings: Settings,
    keep_hidden: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the hidden outputs, empty unless kept, and the logits, of no columns without a row."""
    num_splits, slope, _, _ = settings
    weights, biases, out_weight, out_bias = unpack(parameters, settings)
    (rows, features), width, layers = x.shape, weights[0].shape[0], len(weights)
    outputs = 0 if out_weight is None else out_weight.shape[0]
    hidden = x.new_empty((rows, layers * width) if keep_hidden else (0,), dtype=kind)
    logits = x.new_empty(rows, outputs, dtype=kind)
    if not rows:
        return hidden, logits
    plan = plan_forward(rows, features, width, layers, kind)
    projected = hidden
    if plan.source == "cublas":
        projected = x.new_empty(rows, layers * width, dtype=kind)
        same = x.to(kind)
        for group in groups_of(features, num_splits, layers, width):
            # Into memory of ours: autocast does not touch such products, and they need no copy.
            torch.mm(
                same[:, group.columns],
                _stacked(weights, group, kind).t(),
                out=projected[:, group.places],
            )
    launch(
        forward_kernel,
        x.device,
        plan,
        rows,
        x,
        projected,
        tuple(weights),
        tuple(biases),
        hidden if out_weight is None else out_weight,
        hidden if out_bias is None else out_bias,
        hidden,
        logits,
        rows,
        x.stride(0),
        FEATURES=features,
        WIDTH=width,
        LAYERS=layers,
        SPLITS=num_splits,
        COLUMNS=tuple(weight.shape[1] for weight in weights),
        OUTPUTS=outputs,
        SLOPE=slope,
        HAS_BIAS=len(biases) > 0,
        HAS_OUT_BIAS=out_bias is not None,
        KEEP_HIDDEN=keep_hidden,
        SOURCE=plan.source,
        BLOCK_COLUMNS=plan.columns,
        BLOCK_WIDTH=padded(width),
        # Triton deals the longer side of the first product out to the warps, and so on down the
        # chain: after 16 rows by 16 outputs every warp would compute all of a wide layer.
        BLOCK_OUTPUTS=padded(outputs, 32 if plan.rows < padded(width) else 16),
    )
    return hidden, logits


def backward(
    x: Tensor,
    parameters: Sequence[Tensor],
    settings: Settings,
    hidden: Tensor,
    gradient: Tensor,
    wants_x: bool,
    wants_parameters: bool,
) -> list[Tensor]:
    """Return the gradient of x, if wanted, and those of the parameters as `take_apart` takes them.

    No two of them share memory: operators may not return views of one another.
    """
    num_splits, slope, has_biases, _ = settings
    weights, _, out_weight, out_bias = unpack(parameters, settings)
    (rows, features), width, layers = x.shape, weights[0].shape[0], len(weights)
    kind = hidden.dtype
    gradient = gradient.to(kind).contiguous()
    dz = torch.empty_like(hidden)
    if rows:
        launch(
            hidden_gradient_kernel,
            x.device,
            plan_backward(rows, features, width, layers, kind),
            rows,
            gradient,
            tuple(weights),
            hidden if out_weight is None else out_weight,
            hidden,
            dz,
            rows,
            WIDTH=width,
            LAYERS=layers,
            SPLITS=num_splits,
            COLUMNS=tuple(weight.shape[1] for weight in weights),
            OUTPUTS=0 if out_weight is None else out_weight.shape[0],
            SLOPE=slope,
            BLOCK_WIDTH=padded(width),
            BLOCK_OUTPUTS=padded(0 if out_weight is None else out_weight.shape[0]),
        )
    groups = groups_of(features, num_splits, layers, width)
    found = []
    if wants_x:
        # With fewer layers than slices some features are seen by nobody.
        make = x.new_zeros if len(groups) < num_splits else x.new_empty
        x_gradient = make(x.shape, dtype=kind)
        for group in groups:
            torch.mm(
                dz[:, group.places],
                _stacked(weights, group, kind),
                out=x_gradient[:, group.columns],
            )
        found.append(x_gradient.to(x.dtype))
    if not wants_parameters:
        return found
    same = x.to(kind)
    by_layer = hidden.view(rows, layers, width)
    for group in groups:
        count, handed_on = len(group.layers), width if layers > 1 else 0
        here = dz[:, group.places]
        both = dz.new_empty(count, width, group.size + handed_on)
        torch.mm(
            here.t(), same[:, group.columns], out=both.view(count * width, -1)[:, : group.size]
        )
        first = 1 if group.layers[0] == 0 else 0  # it has nobody before it
        if count > first:
            before = by_layer[:, group.layers[first] - 1 : layers - 1 : num_splits]
            torch.bmm(
                here.unflatten(1, (count, width))[:, first:].permute(1, 2, 0),
                before.transpose(0, 1),
                out=both[first:, :, group.size :],
            )
        found.append(both.to(weights[0].dtype))
    if has_biases:
        # float32 sums, as everywhere.
        found.append(dz.sum(0, dtype=torch.float32).to(weights[0].dtype))
    if out_weight is not None:
        row = gradient.new_empty(out_weight.shape)
        found.append(torch.mm(gradient.t(), hidden, out=row).to(out_weight.dtype))
        if out_bias is not None:
            found.append(gradient.sum(0, dtype=torch.float32).to(out_bias.dtype))
    return found


def take_apart(
    found: Sequence[Tensor], features: int, parameters: Sequence[Tensor], settings: Settings
) -> list[Tensor]:
    """Return one gradient per parameter from what `backward` found."""
    num_splits, _, has_biases, has_output = settings
    weights, _, _, _ = unpack(parameters, settings)
    width, layers = weights[0].shape[0], len(weights)
    groups = groups_of(features, num_splits, layers, width)
    of_weights, of_biases = [weights[0]] * layers, [weights[0]] * layers
    for group, both in zip(groups, found, strict=False):
        for index, layer in enumerate(group.layers):
            columns = weights[layer].shape[1]
            gradient = both[index]
            if layer == 0:
                gradient = gradient[:, : group.size].contiguous()
            elif columns > gradient.shape[1]:
                # Shared by slices of unequal length: the short one has no last column.
                gap = gradient.new_zeros(width, columns - gradient.shape[1])
                parts = gradient[:, : group.size], gap, gradient[:, group.size :]
                gradient = torch.cat(parts, dim=1)
            of_weights[layer] = gradient
    rest = list(found[len(groups) :])
    if has_biases:
        pieces = iter(rest.pop(0).split(width))
        for group in groups:
            for layer in group.layers:
                of_biases[layer] = next(pieces)
    return [*of_weights, *(of_biases if has_biases else ()), *(rest if has_output else ())]

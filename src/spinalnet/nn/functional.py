"""The recurrence as a function: arguments checked, a backend chosen, masks drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spinalnet._checks import InputError, check_positive
from spinalnet.kernels.masks import Masks, can_draw
from spinalnet.kernels.plan import check_chain, check_matrices
from spinalnet.kernels.reference import piecewise, segments
from spinalnet.nn.backends import (
    BACKENDS,
    SpinalCall,
    choose_backend,
    describe_call,
    eager,
    slope_of,
)
from spinalnet.randomness import draw_rows

if TYPE_CHECKING:
    from spinalnet.kernels.plan import Layout, Plans
    from spinalnet.kernels.reference import Elementwise


class Arguments(NamedTuple):
    """What `spinal` is given besides x and the backend; see there."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor] | None
    num_splits: int
    activation: Elementwise | None = None
    negative_slope: float | None = None
    norms: Sequence[Elementwise] | None = None
    dropout_masks: Sequence[Tensor] | None = None
    output: tuple[Tensor, Tensor | None] | None = None
    output_mask: Sequence[Tensor] | None = None


def spinal(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    activation: Elementwise | None = None,
    negative_slope: float | None = None,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
    output: tuple[Tensor, Tensor | None] | None = None,
    output_mask: Sequence[Tensor] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Run a spinal chain and return the outputs of all its layers side by side, or the logits.

    Args:
        x: Input features. Shape `(B, D)`, any floating dtype.
        weights: One matrix per layer, `(H, D_0)` for the first and `(H, D_s + H)` for the others,
            slice columns first. A matrix shared between layers is passed once per layer, with
            as many slice columns as the longest slice.
        biases: One vector `(H,)` per layer, or `None`.
        num_splits: Number of contiguous slices that the layers cycle through.
        activation: Elementwise function applied to every layer; `None` for the one that
            `negative_slope` says, relu without it.
        negative_slope: Says that the activation is `z if z > 0 else slope * z`: 0 for relu, 1 for
            the identity. With an `activation` it is a promise, which fused backends need: it must
            compute just that. Not needed for those whose slope is known, such as `torch.relu` and
            `nn.LeakyReLU`.
        norms: One module per layer, applied between the linear map and the activation.
        dropout_masks: One already scaled keep mask `(B, D_s + H)` per layer input, see
            `draw_masks`.
        output: Matrix `(K, L * H)` and bias `(K,)` or `None` of an output row.
        output_mask: The same as `dropout_masks` for the input of the output row: one mask
            `(B, L * H)`, in a sequence.
        backend: Name from `BACKENDS`, or `None` to choose (see `choose_backend`).

    Returns:
        Hidden outputs of all layers, shape `(B, L * H)`; with `output` its logits `(B, K)`.

    Raises:
        InputError: If shapes, dtypes, devices or numbers do not fit, whatever the backend (under
            `torch.compile`, torch's own messages); if activation and slope contradict each
            other, or the backend is unknown.
        BackendUnavailable: If the backend asked for cannot serve this call.
    """
    given = Arguments(
        weights,
        biases,
        num_splits,
        activation,
        negative_slope,
        norms,
        dropout_masks,
        output,
        output_mask,
    )
    return run(x, given, backend)


def run(
    x: Tensor,
    given: Arguments,
    backend: str | None = None,
    plans: Plans | None = None,
    flat: tuple[Tensor, Layout] | None = None,
) -> Tensor:
    """Do what `spinal` says, for a module that keeps something from call to call.

    Args:
        x: Shape `(B, D)`.
        given: The other arguments of `spinal`.
        backend: As in `spinal`.
        plans: Kept by a module from call to call, so that the compiled kernels need not look at
            every parameter from scratch. Never changes the result.
        flat: The one parameter that holds all weights and biases, and where. A fused backend then
            differentiates by it alone, which costs less than by each of them.
    """
    if x.dim() != 2:
        raise InputError(f"x must have shape (batch, features), got {tuple(x.shape)}.")
    # A compiler or exporter looks at its own shapes, which may be symbols.
    checked = not torch.compiler.is_compiling() and not torch._C._is_tracing()
    if checked:
        _check_counts(given)
    given = _agreed(given)
    call = describe_call(
        x,
        given.weights,
        num_splits=given.num_splits,
        negative_slope=given.negative_slope,
        norms=given.norms,
        masked=given.dropout_masks is not None or given.output_mask is not None,
        bits=all(
            masks is None or isinstance(masks, Masks)
            for masks in (given.dropout_masks, given.output_mask)
        ),
    )
    choice = choose_backend(call, backend)
    chosen = BACKENDS[choice.name]
    if checked:
        # One that keeps a plan checks when it makes one, once for many calls.
        _check_shapes(x, given, call, parameters=not chosen.keeps)
    arguments: dict[str, Any] = {
        "num_splits": given.num_splits,
        "norms": given.norms,
        "dropout_masks": given.dropout_masks,
    }
    if chosen.keeps:
        arguments.update(plans=plans, flat=flat)
    if chosen.fused:
        arguments.update(
            negative_slope=given.negative_slope, output=given.output, output_mask=given.output_mask
        )
        return chosen.run(x, given.weights, given.biases, **arguments)
    hidden = chosen.run(x, given.weights, given.biases, activation=given.activation, **arguments)
    if given.output is None:
        return hidden
    if given.output_mask is not None:
        hidden = hidden * given.output_mask[0]
    return F.linear(hidden, *given.output)


def _agreed(given: Arguments) -> Arguments:
    """Fill in the activation and its slope: of none given, relu. No biases are `None`."""
    if given.biases is not None and not len(given.biases):
        given = given._replace(biases=None)
    activation, slope = given.activation, given.negative_slope
    if activation is None:
        slope = 0.0 if slope is None else float(slope)
        return given._replace(activation=piecewise(slope), negative_slope=slope)
    own = slope_of(activation)
    if own is None or own == slope:
        return given
    if slope is not None:
        raise InputError(
            f"negative_slope must be the slope of the activation, which is {own}, got "
            f"{slope}; leave one of the two out."
        )
    return given._replace(negative_slope=own)


def _check_counts(given: Arguments) -> None:
    weights = given.weights
    check_matrices(weights)
    check_positive("num_splits", given.num_splits)
    slope, output = given.negative_slope, given.output
    if slope is not None and not (isinstance(slope, Real) and math.isfinite(slope)):
        raise InputError(f"negative_slope must be a finite number, or None, got {slope!r}.")
    if output is not None and (len(output) not in (1, 2) or output[0] is None):
        raise InputError(
            "output must be the matrix of the output row and its bias or None, got "
            f"{len(output)} entries{' and no matrix' if output and output[0] is None else ''}."
        )
    if output is None and given.output_mask is not None:
        raise InputError("output_mask needs an output row to mask; give output, or leave it out.")
    for name, each in (("norms", given.norms), ("dropout_masks", given.dropout_masks)):
        if each is not None and len(each) != len(weights):
            raise InputError(
                f"{name} must be one for each of the {len(weights)} weights, got {len(each)}; "
                "give as many, or None."
            )


def _check_shapes(x: Tensor, given: Arguments, call: SpinalCall, *, parameters: bool) -> None:
    width, layers, splits = call.hidden_features, call.num_layers, given.num_splits
    for index, norm in enumerate(given.norms or ()):
        if (features := getattr(norm, "num_features", width)) != width:
            raise InputError(
                f"norms[{index}] must be of {width} features, one for every row of "
                f"weights[{index}], got {features}."
            )
    if parameters:
        check_chain(
            call.in_features,
            None if torch._C._is_any_autocast_enabled() else x.dtype,
            x.device,
            given.weights,
            given.biases or (),
            [tensor for tensor in given.output or () if tensor is not None],
            splits,
        )
    if given.dropout_masks is not None:
        inputs = segments(call.in_features, width, layers, splits)
        _check_masks("dropout_masks", given.dropout_masks, x, inputs)
    if given.output_mask is not None:
        _check_masks("output_mask", given.output_mask, x, [(width,) * layers])


def _check_masks(
    name: str, masks: Sequence[Tensor], x: Tensor, inputs: list[tuple[int, ...]]
) -> None:
    """Check that masks fit the inputs that they are for, which consist of these parts."""
    rows = x.shape[0]
    if isinstance(masks, Masks):
        if masks.words.shape[0] != rows or [*masks.segments] != inputs:
            raise InputError(
                f"{name} must be drawn for {rows} rows of the segments {inputs}, got "
                f"{masks.words.shape[0]} rows of {[*masks.segments]}; draw them for this x."
            )
        return
    if len(masks) != len(inputs):
        raise InputError(f"{name} must be {len(inputs)} masks, got {len(masks)}.")
    for index, (mask, parts) in enumerate(zip(masks, inputs, strict=True)):
        shape = (rows, sum(parts))
        if mask.shape != shape or mask.device != x.device:
            raise InputError(
                f"{name}[{index}] must have shape {shape} on {x.device}, got "
                f"{tuple(mask.shape)} on {mask.device}; draw them for this x (draw_masks)."
            )
        if torch.promote_types(mask.dtype, x.dtype) != x.dtype:
            raise InputError(
                f"{name}[{index}] must have the dtype of x, {x.dtype}, got {mask.dtype}."
            )


def draws_bits(x: Tensor) -> bool:
    """Return whether `draw_masks` draws bits for `x`."""
    return not torch.compiler.is_compiling() and can_draw(x) and eager(x)


def draw_masks(x: Tensor, inputs: Sequence[tuple[int, ...]], dropout: float) -> Sequence[Tensor]:
    """Return dropout masks whose kept entries are already scaled up, for the rows of `x`.

    Where the compiled kernels can read them, they are bits (`Masks`).

    Args:
        x: Tensor `(B, ...)` on the right device, of the right dtype.
        inputs: For every mask the columns of its factor, in parts: a layer's slice and (not the
            first) the previous layer; for the output row every layer.
        dropout: Probability of a zero.
    """
    if draws_bits(x):
        return Masks(x.shape[0], inputs, dropout, x.dtype)
    widths = [sum(parts) for parts in inputs]
    return keep_mask(x, sum(widths), dropout).split(widths, dim=-1)


def keep_mask(like: Tensor, width: int, dropout: float) -> Tensor:
    """Return a dropout mask `(B, width)` whose kept entries are already scaled up.

    From uniform numbers: on the CPU torch draws these four times as fast as it does `bernoulli_`,
    and drawing is most of what dropout costs.

    Args:
        like: Tensor `(B, ...)` on the right device, of the right dtype.
        width: Number of columns.
        dropout: Probability of a zero.
    """
    keep = 1.0 - dropout
    # In float32: half precision has too few values for a probability.
    drawn = draw_rows(lambda rows: torch.rand(rows, width, device=like.device), like.shape[0])
    return (drawn < keep).to(like.dtype).div_(keep)

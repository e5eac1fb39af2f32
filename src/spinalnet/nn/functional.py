"""TODO(nn.functional): split from ops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels import masks as masks_module
from spinalnet.kernels import plan
from spinalnet.nn.backends import (
    BACKENDS,
    Masks,
    _eager,
    _forced,
    choose_backend,
    describe_call,
    slope_of,
)
from spinalnet.nn.reference import split_sizes

if TYPE_CHECKING:
    from spinalnet.nn.backends import Layout, Memo
    from spinalnet.nn.reference import Elementwise


def _identity(z: Tensor) -> Tensor:
    return z


@lru_cache(maxsize=64)
def _piecewise(slope: float) -> Elementwise:
    if slope == 0:
        return torch.relu
    return _identity if slope == 1 else partial(F.leaky_relu, negative_slope=slope)


def _agreed(
    activation: Elementwise | None, negative_slope: float | None
) -> tuple[Elementwise, float | None]:
    """Return the activation and its slope, of which at least one was given, or neither for relu."""
    if activation is None:
        slope = 0.0 if negative_slope is None else float(negative_slope)
        # A cache is opaque to the compiler.
        make = _piecewise.__wrapped__ if torch.compiler.is_compiling() else _piecewise
        return make(slope), slope
    own = slope_of(activation)
    if own is None or negative_slope is None:
        return activation, negative_slope if own is None else own
    if own != negative_slope:
        raise InputError(
            f"negative_slope must be the slope of the activation, which is {own}, got "
            f"{negative_slope}; leave one of the two out."
        )
    return activation, own


def _check_counts(
    num_layers: int, norms: Sequence[Any] | None, masks: Sequence[Any] | None
) -> None:
    for name, given in (("norms", norms), ("dropout_masks", masks)):
        if given is not None and len(given) != num_layers:
            raise InputError(
                f"{name} must be one for each of the {num_layers} weights, got {len(given)}; "
                "give as many, or None."
            )


def _check_masks(
    name: str, masks: Sequence[Tensor], x: Tensor, segments: list[tuple[int, ...]]
) -> None:
    """Check that masks fit the inputs that they are for, which consist of these parts."""
    rows = x.shape[0]
    if isinstance(masks, Masks):
        if masks.words.shape[0] != rows or [*masks.segments] != segments:
            raise InputError(
                f"{name} must be drawn for {rows} rows of the segments {segments}, got "
                f"{masks.words.shape[0]} rows of {[*masks.segments]}; draw them for this x."
            )
        return
    if len(masks) != len(segments):
        raise InputError(f"{name} must be {len(segments)} masks, got {len(masks)}.")
    for index, (mask, parts) in enumerate(zip(masks, segments, strict=True)):
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
    return not torch.compiler.is_compiling() and masks_module.can_draw(x) and _eager(x)


def draw_masks(x: Tensor, segments: Sequence[tuple[int, ...]], dropout: float) -> Sequence[Tensor]:
    """Return dropout masks whose kept entries are already scaled up, for the rows of `x`.

    Where the compiled kernels can read them, they are bits (`Masks`).

    Args:
        x: Tensor `(B, ...)` on the right device, of the right dtype.
        segments: For every mask the columns of its factor, in parts: a layer's slice and (not the
            first) the previous layer; for the output row every layer.
        dropout: Probability of a zero.
    """
    if draws_bits(x):
        return Masks(x.shape[0], segments, dropout, x.dtype)
    widths = [sum(parts) for parts in segments]
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
    return (torch.rand(like.shape[0], width, device=like.device) < keep).to(like.dtype).div_(keep)


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
    flat: tuple[Tensor, Layout] | None = None,
    memo: Memo | None = None,
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
        flat: The one parameter that holds all of the above, and where. A fused backend then
            differentiates by it alone, which costs less than by each of them.
        memo: Kept by a module from call to call, so that the compiled kernels need not look at
            every parameter from scratch. Never changes the result.
        backend: Name from `BACKENDS`, or `None` to choose (see `choose_backend`).

    Returns:
        Hidden outputs of all layers, shape `(B, L * H)`; with `output` its logits `(B, K)`.

    Raises:
        InputError: If shapes, dtypes, devices or numbers do not fit, whatever the backend; if
            activation and slope contradict each other, or the backend is unknown.
        BackendUnavailable: If the backend asked for cannot serve this call.
    """
    if x.dim() != 2:
        raise InputError(f"x must have shape (batch, features), got {tuple(x.shape)}.")
    activation, negative_slope = _agreed(activation, negative_slope)
    # A compiler or exporter looks at its own shapes, which may be symbols.
    checked = not torch.compiler.is_compiling() and not torch._C._is_tracing()
    if checked:
        if not len(weights) or weights[0].dim() != 2:
            got = tuple(weights[0].shape) if len(weights) else "none"
            raise InputError(
                f"weights must be matrices (hidden features, columns), one per layer, got {got}."
            )
        _check_counts(len(weights), norms, dropout_masks)
    call = describe_call(
        x,
        weights,
        num_splits=num_splits,
        negative_slope=negative_slope,
        norms=norms,
        masked=dropout_masks is not None or output_mask is not None,
        bits=all(
            masks is None or isinstance(masks, Masks) for masks in (dropout_masks, output_mask)
        ),
    )
    choice = choose_backend(call, backend)
    chosen = BACKENDS[choice.name]
    if checked:
        if choice.name != "cpp":  # which checks when it makes a plan, once for many calls
            plan.check_chain(
                call.in_features,
                None if torch._C._is_any_autocast_enabled() else x.dtype,
                x.device,
                weights,
                biases or (),
                [tensor for tensor in output if tensor is not None] if output else (),
                num_splits,
            )
        if call.masked:
            width = call.hidden_features
            if dropout_masks is not None:
                sizes = split_sizes(call.in_features, num_splits)
                parts = [sizes[layer % num_splits] for layer in range(call.num_layers)]
                segments = [(size, width) if i else (size,) for i, size in enumerate(parts)]
                _check_masks("dropout_masks", dropout_masks, x, segments)
            if output_mask is not None:
                _check_masks("output_mask", output_mask, x, [(width,) * call.num_layers])
    if chosen.fused:
        result = chosen.run(
            x,
            weights,
            biases,
            num_splits=num_splits,
            negative_slope=negative_slope,
            norms=norms,
            dropout_masks=dropout_masks,
            output=output,
            output_mask=output_mask,
            flat=flat,
            memo=memo,
        )
        free = backend is None and _forced.get() is None
        repeatable = choice.name == "cpp" and norms is None and not call.masked
        if memo is not None and free and repeatable:
            memo.may_repeat(x)
        return result
    hidden = chosen.run(
        x,
        weights,
        biases,
        num_splits=num_splits,
        activation=activation,
        norms=norms,
        dropout_masks=dropout_masks,
    )
    if output is None:
        return hidden
    return F.linear(hidden if output_mask is None else hidden * output_mask[0], *output)


def again(owner: object, x: Tensor, memo: Memo) -> Tensor | None:
    """Return what `owner(x)` must be, if `memo` knows a call like it, else None.

    Saves finding out once more what the call depends on and which backend serves it, which takes
    longer than a small head computes.
    """
    if torch.compiler.is_compiling() or _forced.get() is not None or not _eager(x):
        return None
    return None if torch._C._is_any_autocast_enabled() else memo.again(owner, x)

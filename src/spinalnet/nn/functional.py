"""TODO(nn.functional): split from ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels import masks as masks_module
from spinalnet.nn.backends import BACKENDS, Masks, _eager, _forced, choose_backend, describe_call

if TYPE_CHECKING:
    from spinalnet.nn.backends import Layout, Memo
    from spinalnet.nn.reference import Elementwise


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
    activation: Elementwise = torch.relu,
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
        activation: Elementwise function applied to every layer.
        negative_slope: Set it to promise that `activation` is `z if z > 0 else slope * z`: 0 for
            relu, 1 for the identity. Fused backends need that promise.
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
        InputError: If the shapes do not fit or the backend is unknown.
        BackendUnavailable: If the backend asked for cannot serve this call.
    """
    if x.dim() != 2:
        raise InputError(f"x must have shape (batch, features), got {tuple(x.shape)}.")
    if activation is torch.relu:
        negative_slope = 0.0
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

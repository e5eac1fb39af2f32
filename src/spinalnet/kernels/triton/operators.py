"""The passes as PyTorch sees them: an autograd function, the same as operators, and the call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spinalnet.kernels.triton import passes
from spinalnet.kernels.triton.launching import MAX_WIDTH
from spinalnet.kernels.triton.passes import Settings, groups_of, take_apart, unpack


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "the triton kernels have no second derivative; compute under "
            "spinalnet.use_backend('packed'), which has."
        )


class _Chain(torch.autograd.Function):
    """Forward and backward of the chain in eager mode."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, settings: Settings, kind: torch.dtype, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        hidden, logits = passes.forward(x, parameters, settings, True, kind)
        ctx.settings = settings
        ctx.save_for_backward(hidden, x, *parameters)
        return logits if settings[3] else hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        _refuse_second_derivative()
        hidden, x, *parameters = ctx.saved_tensors
        _, _, wants_x, *wanted = ctx.needs_input_grad
        found = passes.backward(x, parameters, ctx.settings, hidden, gradient, wants_x, any(wanted))
        x_gradient = found.pop(0) if wants_x else None
        if not any(wanted):
            return None, None, x_gradient, *(None for _ in parameters)
        gradients = take_apart(found, x.shape[1], parameters, ctx.settings)
        return None, None, x_gradient, *gradients


# The same as operators, for torch.compile and what it does with CUDA graphs.


@torch.library.custom_op("spinalnet::triton_forward", mutates_args=())
def _forward_operator(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    keep_hidden: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    settings = num_splits, slope, has_biases, has_output
    return passes.forward(x, parameters, settings, keep_hidden, kind)


@_forward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    keep_hidden: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    settings = num_splits, slope, has_biases, has_output
    weights, _, out_weight, _ = unpack(parameters, settings)
    shape = (x.shape[0], len(weights) * weights[0].shape[0]) if keep_hidden else (0,)
    outputs = 0 if out_weight is None else out_weight.shape[0]
    return x.new_empty(shape, dtype=kind), x.new_empty(x.shape[0], outputs, dtype=kind)


@torch.library.custom_op("spinalnet::triton_backward", mutates_args=())
def _backward_operator(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    hidden: Tensor,
    gradient: Tensor,
    wants_x: bool,
    wants_parameters: bool,
) -> list[Tensor]:
    settings = num_splits, slope, has_biases, has_output
    return passes.backward(x, parameters, settings, hidden, gradient, wants_x, wants_parameters)


@_backward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    hidden: Tensor,
    gradient: Tensor,
    wants_x: bool,
    wants_parameters: bool,
) -> list[Tensor]:
    settings = num_splits, slope, has_biases, has_output
    weights, _, out_weight, out_bias = unpack(parameters, settings)
    width, layers, like = weights[0].shape[0], len(weights), weights[0]
    found = [x.new_empty(x.shape)] if wants_x else []
    if wants_parameters:
        for group in groups_of(x.shape[1], num_splits, layers, width):
            columns = group.size + (width if layers > 1 else 0)
            found.append(like.new_empty(len(group.layers), width, columns))
        if has_biases:
            found.append(like.new_empty(layers * width))
        found += [
            torch.empty_like(tensor) for tensor in (out_weight, out_bias) if tensor is not None
        ]
    return found


def _save_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, parameters, *settings, _, _ = inputs
    ctx.settings = settings
    ctx.set_materialize_grads(False)  # mostly one of the two outputs is used
    ctx.save_for_backward(output[0], x, *parameters)


def _operator_backward(ctx: Any, of_hidden: Tensor | None, of_logits: Tensor | None) -> Any:
    hidden, x, *parameters = ctx.saved_tensors
    num_splits, slope, has_biases, has_output = ctx.settings
    wants_x, wanted = ctx.needs_input_grad[:2]
    some = any(wanted) if isinstance(wanted, list | tuple) else bool(wanted)
    settings, of_row, gradient = ctx.settings, [], of_logits
    if not has_output or of_hidden is not None or of_logits is None:
        # The kernels take one gradient: that of the hidden outputs, to which the row adds here.
        weights, biases, *row = unpack(parameters, ctx.settings)
        row = [tensor for tensor in row if tensor is not None]
        gradient = hidden.new_zeros(hidden.shape) if of_hidden is None else of_hidden
        of_row = [torch.zeros_like(tensor) for tensor in row]
        if has_output and of_logits is not None:
            gradient = gradient + of_logits @ row[0].to(of_logits.dtype)
            found = (of_logits.t() @ hidden, of_logits.sum(0))
            of_row = [part.to(own.dtype) for part, own in zip(found, row, strict=False)]
        parameters, settings = [*weights, *biases], (num_splits, slope, has_biases, False)
    found = _backward_operator(x, parameters, *settings, hidden, gradient, wants_x, some)
    x_gradient, *rest = found if wants_x else [None, *found]
    gradients = None
    if some:
        gradients = [*take_apart(rest, x.shape[1], parameters, settings), *of_row]
    return x_gradient, gradients, None, None, None, None, None, None


_forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)


def spinal_triton(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    negative_slope: float,
    norms: None = None,
    dropout_masks: None = None,
    output: tuple[Tensor, Tensor | None] | None = None,
    output_mask: None = None,
) -> Tensor:
    """Compute hidden outputs, or with `output` the logits. Arguments as in `nn.functional.spinal`.

    Norms and masks are `None`: `nn.backends.choose_backend` makes sure of it.
    """
    row = output if output is not None and output[0].shape[0] <= MAX_WIDTH else None
    last = [] if row is None else [tensor for tensor in row if tensor is not None]
    parameters = [tensor.contiguous() for tensor in (*weights, *(biases or ()), *last)]
    kind = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
    elif any(tensor.dtype != kind for tensor in parameters):
        raise RuntimeError(f"x is {kind}, but not all parameters are.")
    if x.stride(1) != 1:
        x = x.contiguous()  # rows may be apart, a row's features not
    settings = num_splits, float(negative_slope), biases is not None, row is not None
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters))
    if torch.compiler.is_compiling():
        keep_hidden = wants_grad or row is None
        hidden, logits = _forward_operator(x, parameters, *settings, keep_hidden, kind)
        result = hidden if row is None else logits
    elif wants_grad:
        result = _Chain.apply(settings, kind, x, *parameters)  # type: ignore[assignment]
    else:
        hidden, logits = passes.forward(x, parameters, settings, row is None, kind)
        result = hidden if row is None else logits
    return result if output is None or row is not None else F.linear(result, *output)

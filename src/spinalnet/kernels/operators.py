"""TODO(kernels.operators): split from _kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spinalnet.kernels.chain import Memo, _backward, _forward
from spinalnet.kernels.plan import _unit_rows, _unpacked


@torch.library.custom_op("spinalnet::forward", mutates_args=())
def _forward_operator(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    settings = _unpacked(positions), num_splits, slope
    parameters = [parameter.contiguous() for parameter in parameters]
    x, memo = _unit_rows(x), Memo()
    known = memo.find(x, parameters, settings)
    hidden, result = _forward(memo, known, x, parameters, keep_hidden=True)
    assert hidden is not None
    return hidden, x.new_empty(0) if result is hidden else result


@_forward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    layout = _unpacked(positions)
    width = parameters[layout.weights[0]].shape[0]
    hidden = x.new_empty(x.shape[0], len(layout.weights) * width)
    if not layout.output:
        return hidden, x.new_empty(0)
    return hidden, x.new_empty(x.shape[0], parameters[layout.output[0]].shape[0])


@torch.library.custom_op("spinalnet::backward", mutates_args=())
def _backward_operator(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
    hidden: Tensor,
    gradient: Tensor,
) -> list[Tensor]:
    settings = _unpacked(positions), num_splits, slope
    x_gradient, *gradients = [tensor.new_empty(tensor.shape) for tensor in [x, *parameters]]
    x, parameters = _unit_rows(x), [parameter.contiguous() for parameter in parameters]
    memo = Memo()
    known = memo.find(x, parameters, settings)
    _backward(memo, known, x, parameters, hidden, gradient, x_gradient, gradients)
    return [x_gradient, *gradients]


@_backward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
    hidden: Tensor,
    gradient: Tensor,
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in [x, *parameters]]


def _save_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, parameters, *ctx.settings = inputs
    ctx.save_for_backward(output[0], x, *parameters)


def _operator_backward(ctx: Any, of_hidden: Tensor, of_logits: Tensor) -> Any:
    hidden, x, *parameters = ctx.saved_tensors
    has_output = len(_unpacked(ctx.settings[0]).output) > 0
    x_gradient, *gradients = _backward_operator(
        x, parameters, *ctx.settings, hidden, of_logits if has_output else of_hidden
    )
    return x_gradient, gradients, None, None, None


_forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)

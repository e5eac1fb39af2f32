"""TODO(kernels.operators): split from _kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spinalnet.kernels.chain import Memo, _backward, _forward
from spinalnet.kernels.plan import _packed, _unit_rows, _unpacked


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
    layout = settings[0]
    served = {*layout.weights, *layout.biases, *layout.output}
    x_gradient = x.new_empty(x.shape)
    gradients = [
        tensor.new_empty(tensor.shape) if place in served else tensor.new_zeros(tensor.shape)
        for place, tensor in enumerate(parameters)
    ]
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
    ctx.set_materialize_grads(False)  # mostly one of the two outputs is used
    ctx.save_for_backward(output[0], x, *parameters)


def _operator_backward(ctx: Any, of_hidden: Tensor | None, of_logits: Tensor | None) -> Any:
    hidden, x, *parameters = ctx.saved_tensors
    positions, *rest = ctx.settings
    layout = _unpacked(positions)
    tied = {*layout.output} & {*layout.weights, *layout.biases}
    if layout.output and of_hidden is None and of_logits is not None and not tied:
        x_gradient, *gradients = _backward_operator(
            x, parameters, positions, *rest, hidden, of_logits
        )
        return x_gradient, gradients, None, None, None
    # The kernels take one gradient: that of the hidden outputs, to which the output row adds here.
    gradient = hidden.new_zeros(hidden.shape) if of_hidden is None else of_hidden
    if layout.output and of_logits is not None:
        gradient = gradient + of_logits @ parameters[layout.output[0]]
    chain = _packed(layout._replace(output=()))
    x_gradient, *gradients = _backward_operator(x, parameters, chain, *rest, hidden, gradient)
    if layout.output and of_logits is not None:
        of_row = (of_logits.t() @ hidden, of_logits.sum(0))
        for place, part in zip(layout.output, of_row, strict=False):
            gradients[place] = gradients[place] + part  # a bias may also be that of a layer
    return x_gradient, gradients, None, None, None


_forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)

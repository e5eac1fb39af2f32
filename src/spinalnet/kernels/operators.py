"""The chain as operators of torch's, for `torch.compile`.

An operator takes no tuples and mistakes empty lists of numbers for lists of tensors: the layout
travels as one list of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spinalnet.kernels.chain import Pass, backward, forward
from spinalnet.kernels.plan import Layout, Plans, shared, unit_rows


def positions_of(layout: Layout) -> list[int]:
    """Return a layout without shapes as one list of numbers."""
    weights, biases, output, _ = layout
    return [len(weights), len(biases), *weights, *biases, *output]


def _layout(positions: list[int]) -> Layout:
    num_weights, num_biases, *rest = positions
    biases_end = num_weights + num_biases
    return Layout(
        tuple(rest[:num_weights]), tuple(rest[num_weights:biases_end]), tuple(rest[biases_end:])
    )


def spinal_operator(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Sequence[Tensor],
    num_splits: int,
    slope: float,
) -> Tensor:
    """Compute hidden outputs, or with an `output` row the logits, by one operator."""
    parameters, layout = shared(weights, biases, output)
    hidden, logits = forward_operator(x, parameters, positions_of(layout), num_splits, slope)
    return logits if output else hidden


@torch.library.custom_op("spinalnet::forward", mutates_args=())
def forward_operator(
    x: Tensor, parameters: list[Tensor], positions: list[int], num_splits: int, slope: float
) -> tuple[Tensor, Tensor]:
    """Return the hidden outputs and the logits, which are empty without an output row."""
    settings = _layout(positions), num_splits, slope
    parameters = [parameter.contiguous() for parameter in parameters]
    x, plans = unit_rows(x), Plans()
    known = plans.find(x, parameters, settings)
    result, seen = forward(plans, known, x, parameters)
    return seen.hidden, result if known.has_output else x.new_empty(0)


@forward_operator.register_fake
def _(
    x: Tensor, parameters: list[Tensor], positions: list[int], num_splits: int, slope: float
) -> tuple[Tensor, Tensor]:
    layout = _layout(positions)
    width = parameters[layout.weights[0]].shape[0]
    hidden = x.new_empty(x.shape[0], len(layout.weights) * width)
    if not layout.output:
        return hidden, x.new_empty(0)
    return hidden, x.new_empty(x.shape[0], parameters[layout.output[0]].shape[0])


@torch.library.custom_op("spinalnet::backward", mutates_args=())
def backward_operator(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
    hidden: Tensor,
    gradient: Tensor,
) -> list[Tensor]:
    """Return the gradients of x and of every parameter for that of the result."""
    settings = _layout(positions), num_splits, slope
    layout = settings[0]
    served = {*layout.weights, *layout.biases, *layout.output}
    x_gradient = x.new_empty(x.shape)
    gradients = [
        tensor.new_empty(tensor.shape) if place in served else tensor.new_zeros(tensor.shape)
        for place, tensor in enumerate(parameters)
    ]
    x, parameters = unit_rows(x), [parameter.contiguous() for parameter in parameters]
    plans = Plans()
    seen = Pass(plans.find(x, parameters, settings), None, hidden)
    backward(plans, seen, x, parameters, gradient, x_gradient, gradients)
    return [x_gradient, *gradients]


@backward_operator.register_fake
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
    layout = _layout(positions)
    tied = {*layout.output} & {*layout.weights, *layout.biases}
    if layout.output and of_hidden is None and of_logits is not None and not tied:
        x_gradient, *gradients = backward_operator(
            x, parameters, positions, *rest, hidden, of_logits
        )
        return x_gradient, gradients, None, None, None
    # The kernels take one gradient: that of the hidden outputs, to which the output row adds here.
    gradient = hidden.new_zeros(hidden.shape) if of_hidden is None else of_hidden
    if layout.output and of_logits is not None:
        gradient = gradient + of_logits @ parameters[layout.output[0]]
    chain = positions_of(layout._replace(output=()))
    x_gradient, *gradients = backward_operator(x, parameters, chain, *rest, hidden, gradient)
    if layout.output and of_logits is not None:
        of_row = (of_logits.t() @ hidden, of_logits.sum(0))
        for place, part in zip(layout.output, of_row, strict=False):
            gradients[place] = gradients[place] + part  # a bias may also be that of a layer
    return x_gradient, gradients, None, None, None


forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)

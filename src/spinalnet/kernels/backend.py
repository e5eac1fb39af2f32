"""TODO(kernels.backend): split from _kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spinalnet.kernels.chain import Memo, _Chain, _forward
from spinalnet.kernels.derivatives import _is_fixed
from spinalnet.kernels.operators import _forward_operator
from spinalnet.kernels.plan import (
    Layout,
    _distinct,
    _packed,
    _readable,
    _unit_rows,
    _unit_strides,
    check_chain,
)
from spinalnet.kernels.regularized import Regularization, _folded, _RegularizedChain

if TYPE_CHECKING:
    from spinalnet.kernels.masks import Masks


def _shared(
    weights: Sequence[Tensor], biases: Sequence[Tensor], output: Sequence[Tensor]
) -> tuple[list[Tensor], Layout]:
    """Return every parameter once, and the layout.

    One that a layer shares with the output row is there twice, for the kernels add up what the
    layers find, and write what the output row does.
    """
    parameters: list[Tensor] = []

    def position(tensor: Tensor) -> int:
        for index, parameter in enumerate(parameters):
            if parameter is tensor:
                return index
        parameters.append(tensor)
        return len(parameters) - 1

    of_layers = [tuple(map(position, group)) for group in (weights, biases)]
    row = [
        tensor.view_as(tensor) if any(tensor is known for known in parameters) else tensor
        for tensor in output
    ]
    return parameters, Layout(of_layers[0], of_layers[1], tuple(map(position, row)))


def spinal_cpp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    negative_slope: float,
    norms: Sequence[nn.BatchNorm1d] | None = None,
    dropout_masks: Masks | None = None,
    output: tuple[Tensor, Tensor | None] | None = None,
    output_mask: Masks | None = None,
    flat: tuple[Tensor, Layout] | None = None,
    memo: Memo | None = None,
) -> Tensor:
    """Compute hidden outputs, or with `output` the logits, by the compiled kernels.

    Arguments as in `ops.spinal`, except that `norms` are batch norms and masks are bits;
    `ops.choose_backend` makes sure of it.
    """
    last = [tensor for tensor in output if tensor is not None] if output else []
    parameters = [*weights, *biases, *last] if biases else [*weights, *last]
    if torch.compiler.is_compiling():
        parameters, layout = _shared(weights, biases or (), last)
        hidden, logits = _forward_operator(
            x, parameters, _packed(layout), num_splits, negative_slope
        )
        return logits if last else hidden

    memo = memo or Memo()
    if flat is not None:
        parameters, layout = [_unit_strides(flat[0])], flat[1]
    else:
        layout = memo.layout(parameters)
        if layout is not None and not all(map(_readable, parameters)):
            layout = None
    if layout is None:
        # Before the strides, of which a tensor of another rank has other ones.
        check_chain(x.shape[1], x.dtype, x.device, weights, biases or (), last, num_splits)
        weights = [_unit_strides(weight) for weight in weights]
        biases = [_unit_strides(bias) for bias in biases or ()]
        last = [_unit_strides(tensor) for tensor in last]
        parameters = [*weights, *biases, *last]
        if len(set(map(id, parameters))) == len(parameters):
            layout = _distinct(len(weights), len(biases), len(last))
        else:
            parameters, layout = _shared(weights, biases, last)
    x = _unit_rows(x)
    known = memo.find(x, parameters, (layout, num_splits, negative_slope))
    step = None
    if norms is not None or dropout_masks is not None or output_mask is not None:
        step = Regularization(dropout_masks, output_mask, norms)
    differentiated = [x, *parameters, *(step.affine if step else ())]
    wants_grad = torch.is_grad_enabled() and True in [
        tensor.requires_grad for tensor in differentiated if tensor is not None
    ]
    folds = norms is not None and all(map(_is_fixed, norms)) and not wants_grad
    if step is not None and not (folds and dropout_masks is None and output_mask is None):
        result: Tensor = _RegularizedChain.apply(memo, known, step, *differentiated)  # type: ignore[assignment]
    elif wants_grad:
        result = _Chain.apply(memo, known, x, *parameters)  # type: ignore[assignment]
    else:
        folded = None if norms is None else _folded(norms, x.dtype)
        _, result = _forward(memo, known, x, parameters, keep_hidden=False, norms=folded)
    return result

"""The backend "cpp": which of the kernels' ways serves a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spinalnet.kernels.chain import infer, track
from spinalnet.kernels.operators import spinal_operator
from spinalnet.kernels.plan import (
    Layout,
    Plans,
    Served,
    check_chain,
    distinct,
    readable,
    shared,
    unit_rows,
    unit_strides,
)
from spinalnet.kernels.regularized import Regularization, affine_of, folded, is_fixed

if TYPE_CHECKING:
    from spinalnet.kernels.masks import Masks


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
    plans: Plans | None = None,
    flat: tuple[Tensor, Layout] | None = None,
) -> Tensor:
    """Compute hidden outputs, or with `output` the logits, by the compiled kernels.

    Arguments as in `spinal`, except that `norms` are batch norms and masks are bits, of which
    `choose_backend` makes sure. `plans` are kept by a module from call to call; `flat` is the one
    parameter that holds all others, and where, which is then the only one differentiated by.
    """
    last = [tensor for tensor in output if tensor is not None] if output else []
    if torch.compiler.is_compiling():
        return spinal_operator(x, weights, biases or (), last, num_splits, negative_slope)
    plans = plans or Plans()
    if flat is not None:
        parameters, layout = [unit_strides(flat[0])], flat[1]
    else:
        parameters, layout = _parameters(plans, x, weights, biases or (), last, num_splits)
    x = unit_rows(x)
    known = plans.find(x, parameters, (layout, num_splits, negative_slope))
    affine = affine_of(norms)
    tensors = [*parameters, *affine]
    wants_grad = torch.is_grad_enabled() and True in [
        tensor.requires_grad for tensor in (x, *tensors) if tensor is not None
    ]
    masked = dropout_masks is not None or output_mask is not None
    if not masked and not wants_grad and all(map(is_fixed, norms or ())):
        vectors = None if norms is None else folded(norms, weights[0].shape[0], x.dtype)
        result = infer(plans, known, x, parameters, vectors)
    else:
        step = None
        if masked or norms is not None:
            step = Regularization(dropout_masks, output_mask, norms, x.dtype, weights[0].shape[0])
        result = track(plans, known, step, x, tensors)
    if not masked and norms is None:
        plans.served = Served(plans.known or known, parameters, x.shape)
    return result


def _parameters(
    plans: Plans,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    last: Sequence[Tensor],
    num_splits: int,
) -> tuple[list[Tensor], Layout]:
    """Return what the kernels read, and where it is; checked, unless the last call had the same."""
    parameters = [*weights, *biases, *last]
    layout = plans.layout(parameters)
    if layout is not None and all(map(readable, parameters)):
        return parameters, layout
    # Before the strides, of which a tensor of another rank has other ones.
    check_chain(x.shape[1], x.dtype, x.device, weights, biases, last, num_splits)
    groups = [[unit_strides(tensor) for tensor in group] for group in (weights, biases, last)]
    parameters = [tensor for group in groups for tensor in group]
    if len(set(map(id, parameters))) == len(parameters):
        return parameters, distinct(len(weights), len(biases), len(last))
    return shared(*groups)

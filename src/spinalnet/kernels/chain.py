"""The chain in eager mode: the kernels' forward and backward, and the autograd function around.

Eager mode calls the extension with addresses; an operator registered with torch (`operators`) would
take 100 us more per training step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels.plan import contiguous_like, unit_rows, unit_strides
from spinalnet.kernels.reference import piecewise, spinal_reference

if TYPE_CHECKING:
    from spinalnet.kernels.plan import Known, Plans, Served, Settings
    from spinalnet.kernels.regularized import Regularization


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One batch through the chain: what backward needs besides x and the parameters."""

    known: Known
    step: Regularization | None
    hidden: Tensor
    sums: Tensor | None = None  # with norms: what they were given
    statistics: Tensor | None = None  # with norms: mean and 1 / std of the batch


def _described(x: Tensor) -> tuple[int, int, int, int]:
    return x.shape[0], x.data_ptr(), x.stride(0), torch.get_num_threads()


def forward(
    plans: Plans,
    known: Known,
    x: Tensor,
    parameters: list[Tensor],
    step: Regularization | None = None,
) -> tuple[Tensor, Pass]:
    """Return the result, logits or hidden outputs, and what `backward` needs."""
    while True:
        hidden = x.new_empty(x.shape[0], known.hidden)
        result = x.new_empty(x.shape[0], known.outputs) if known.has_output else hidden
        logits = result.data_ptr() if known.has_output else 0
        where = (*_described(x), hidden.data_ptr(), logits)
        sums = statistics = None
        if step is None:
            done = known.plan.forward(parameters, *where, None)
        else:
            if step.norms is not None:
                sums = x.new_empty(x.shape[0], known.hidden)
                statistics = x.new_empty(2, known.hidden)
            arguments = step.arguments(sums, statistics)
            done = known.plan.forward_regularized(parameters, *where, *arguments)
        if done:
            return result, Pass(known, step, hidden, sums, statistics)
        known = plans.renew(x, parameters, known.settings)  # a parameter has moved


def backward(
    plans: Plans,
    seen: Pass,
    x: Tensor,
    parameters: Sequence[Tensor],
    gradient: Tensor,
    x_gradient: Tensor | None,
    gradients: Sequence[Tensor] | None,
    affine_gradients: Sequence[Tensor | None] = (),
) -> None:
    """Write the gradients of x, of the parameters and of the norms' vectors, where wanted.

    Raises:
        InputError: If the parameters have other shapes than in the forward pass.
    """
    gradient, pieces = unit_rows(gradient.resolve_neg()), [*map(unit_strides, parameters)]
    known, step = seen.known, seen.step
    while True:
        where = (
            *_described(x),
            seen.hidden.data_ptr(),
            0,
            gradient.data_ptr(),
            gradient.stride(0),
            0 if x_gradient is None else x_gradient.data_ptr(),
            None if gradients is None else [part.data_ptr() for part in gradients],
        )
        if step is None:
            done = known.plan.backward(pieces, *where)
        else:
            arguments = step.arguments(seen.sums, seen.statistics, affine_gradients)
            done = known.plan.backward_regularized(pieces, *where, *arguments)
        if done:
            return
        known = plans.renew(x, pieces, known.settings)  # a parameter has moved
        if (known.hidden, known.outputs) != (seen.known.hidden, seen.known.outputs):
            raise InputError(
                "a parameter was given data of another shape between forward and backward; call "
                "backward first."
            )


def infer(
    plans: Plans,
    known: Known,
    x: Tensor,
    parameters: list[Tensor],
    folded: list[float | int] | None = None,
) -> Tensor:
    """Return the result alone: with an output row the hidden outputs never reach memory."""
    while (result := _attempt(known, x, parameters, folded)) is None:
        known = plans.renew(x, parameters, known.settings)  # a parameter has moved
    return result


def _attempt(
    known: Known, x: Tensor, parameters: list[Tensor], folded: list[float | int] | None = None
) -> Tensor | None:
    rows = x.shape[0]
    result = x.new_empty(rows, known.outputs)
    address = result.data_ptr()
    hidden, logits = (0, address) if known.has_output else (address, 0)
    threads = torch.get_num_threads()
    done = known.plan.forward(
        parameters, rows, x.data_ptr(), x.stride(0), threads, hidden, logits, folded
    )
    return result if done else None


def track(
    plans: Plans,
    known: Known,
    step: Regularization | None,
    x: Tensor,
    tensors: Sequence[Tensor | None],
) -> Tensor:
    """Return the result, differentiable by x and by `tensors`: parameters, then norms' vectors."""
    return _Chain.apply(plans, known, step, x, *tensors)  # type: ignore[return-value]


def again(plans: Plans, served: Served, x: Tensor) -> Tensor | None:
    """Return what a call served before gives for another `x` of its shape and type.

    None if x lies elsewhere, or the data of a parameter have moved: the long way mends it, or says
    what is wrong.
    """
    if not x.is_cpu or x.stride(1) != 1:
        return None
    parameters = served.parameters
    if torch.is_grad_enabled() and (
        x.requires_grad or True in [parameter.requires_grad for parameter in parameters]
    ):
        try:
            return track(plans, served.known, None, x, parameters)
        except InputError:
            return None
    return _attempt(served.known, x, parameters)


class _Chain(torch.autograd.Function):
    """Forward and backward of the chain in eager mode; the norms' vectors follow the parameters."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        plans: Plans,
        known: Known,
        step: Regularization | None,
        x: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        result, seen = forward(plans, known, x, [*tensors[: len(known.ids)]], step)
        ctx.plans, ctx.known, ctx.step = plans, seen.known, step
        ctx.save_for_backward(seen.hidden, seen.sums, seen.statistics, x, *tensors)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        hidden, sums, statistics, x, *tensors = ctx.saved_tensors
        known, step, wanted = ctx.known, ctx.step, ctx.needs_input_grad[3:]
        count = len(known.ids)
        parameters, affine = tensors[:count], tensors[count:]
        if torch.is_grad_enabled():
            inputs = [x, *tensors]
            targets = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
            output = _differentiable(x, parameters, known.settings, step, affine)
            found = iter(torch.autograd.grad(output, targets, gradient, create_graph=True))
            return None, None, None, *[next(found) if want else None for want in wanted]
        x_gradient = x.new_empty(*x.shape) if wanted[0] else None
        gradients: list[Tensor] | None = None
        if True in wanted[1 : 1 + count]:
            # The last first, as autograd would: freed in the order of the parameters, they leave
            # the heap from its top in portions that malloc keeps, where all at once are given back
            # to the system and have to be mapped again, a microsecond per page.
            gradients = [contiguous_like(parameter) for parameter in reversed(parameters)][::-1]
        of_affine = [None if vector is None else torch.empty_like(vector) for vector in affine]
        seen = Pass(known, step, hidden, sums, statistics)
        backward(ctx.plans, seen, x, parameters, gradient, x_gradient, gradients, of_affine)
        return None, None, None, x_gradient, *(gradients or [None] * count), *of_affine


def _differentiable(
    x: Tensor,
    parameters: list[Tensor],
    settings: Settings,
    step: Regularization | None,
    affine: Sequence[Tensor | None],
) -> Tensor:
    """Compute the same from torch operations, for derivatives of the gradients.

    Slower, but right: the kernels have no second derivative. `affine` are gain and bias of every
    norm of `step`, as the call had them.
    """
    layout, num_splits, slope = settings
    pieces = layout.pieces(parameters)
    weights, biases, output = ([pieces[i] for i in group] for group in layout[:3])
    hidden = spinal_reference(
        x,
        weights,
        biases or None,
        num_splits=num_splits,
        activation=piecewise(slope),
        norms=None if step is None else step.functions(affine),
        dropout_masks=None if step is None else step.masks,
    )
    if step is not None and step.output_mask is not None:
        hidden = hidden * step.output_mask[0]
    return F.linear(hidden, *output) if output else hidden

"""TODO(kernels.regularized): split from _kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet.kernels.derivatives import _differentiable, _is_fixed
from spinalnet.kernels.plan import _check_vector, _contiguous_like, _unit_rows, _unit_strides

if TYPE_CHECKING:
    from spinalnet.kernels.chain import Memo
    from spinalnet.kernels.masks import Masks
    from spinalnet.kernels.plan import _Known


class Regularization:
    """What a training step adds to a chain.

    Args:
        masks: Of the inputs of every layer, in segments slice and (not the first) previous layer.
        output_mask: Of the input of the output row, one segment for every layer.
        norms: One batch norm for every layer, in any mode.
    """

    def __init__(
        self,
        masks: Masks | None,
        output_mask: Masks | None,
        norms: Sequence[nn.BatchNorm1d] | None,
    ) -> None:
        self.masks, self.output_mask, self.norms = masks, output_mask, norms
        # Gain and bias of every norm, or None.
        self.affine = [
            # Past `nn.Module.__getattr__`, which takes longer than a layer computes.
            norm._parameters[name]
            for norm in norms or ()
            for name in ("weight", "bias")
        ]
        self._mask_arguments: list[float | int] = []
        for drawn in (masks, output_mask):
            self._mask_arguments += (
                (0, 0, 1.0)
                if drawn is None
                else (drawn.words.data_ptr(), drawn.words_per_row, drawn.scale)
            )
        self._norm_arguments: list[float | int] = []

    def begin(self, dtype: torch.dtype) -> None:
        """Look where the vectors of the norms are, for one pass forward and one backward."""
        changed = []
        for layer, norm in enumerate(self.norms or ()):
            buffers, fixed = norm._buffers, _is_fixed(norm)
            tracked = fixed or norm.track_running_stats
            running = (buffers["running_mean"], buffers["running_var"]) if tracked else (None, None)
            counted = None if fixed or not tracked else buffers["num_batches_tracked"]
            momentum = norm.momentum
            if momentum is None:  # the mean of all batches, this one included
                momentum = 0.0 if counted is None else 1.0 / (1.0 + float(counted))
            self._norm_arguments += [
                _address(vector, norm.num_features, dtype)
                for vector in (*self.affine[2 * layer : 2 * layer + 2], *running)
            ]
            counter = 0 if counted is None else _address(counted, 1, torch.int64)
            self._norm_arguments += (counter, 0, 0, momentum, norm.eps, fixed)
            changed += [v for v in (*running, counted) if v is not None and not fixed]
        if changed:
            torch.autograd.graph.increment_version(changed)  # the kernels write past torch

    def arguments(
        self,
        sums: Tensor | None,
        statistics: Tensor | None,
        gradients: Sequence[Tensor | None] = (),
    ) -> list[Any]:
        """Describe the step to `_native`, `gradients` being those of `affine`."""
        if sums is None or statistics is None:
            return [*self._mask_arguments, 0, 0, None]
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                self._norm_arguments[10 * (i // 2) + 5 + i % 2] = gradient.data_ptr()
        pointers = sums.data_ptr(), statistics.data_ptr()
        return [*self._mask_arguments, *pointers, self._norm_arguments]


def _address(vector: Tensor | None, size: int, dtype: torch.dtype) -> int:
    if vector is None:
        return 0
    if vector.dtype is not dtype or vector.numel() != size or not vector.is_cpu:
        _check_vector(vector, size, dtype)  # says what is wrong
    return vector.data_ptr()


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What backward needs of a regularized step, besides x and the parameters."""

    known: _Known
    step: Regularization
    hidden: Tensor
    sums: Tensor | None
    statistics: Tensor | None


def _forward_regularized(
    memo: Memo, known: _Known, step: Regularization, x: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, _Seen]:
    """Compute the result, logits or hidden outputs, of a step with dropout or batch norm."""
    rows, has_output = x.shape[0], len(known.settings[0].output) > 0
    hidden = x.new_empty(rows, known.hidden)
    result = x.new_empty(rows, known.outputs) if has_output else hidden
    sums = statistics = None
    if step.norms is not None:
        sums, statistics = x.new_empty(rows, known.hidden), x.new_empty(2, known.hidden)
    step.begin(x.dtype)
    while not known.plan.forward_regularized(
        parameters,
        rows,
        x.data_ptr(),
        x.stride(0),
        torch.get_num_threads(),
        hidden.data_ptr(),
        result.data_ptr() if has_output else 0,
        *step.arguments(sums, statistics),
    ):
        known = memo.renew(x, parameters, known.settings)  # a parameter has moved
    return result, _Seen(known, step, hidden, sums, statistics)


def _backward_regularized(
    memo: Memo,
    seen: _Seen,
    x: Tensor,
    parameters: list[Tensor],
    gradient: Tensor,
    x_gradient: Tensor | None,
    gradients: Sequence[Tensor] | None,
    affine_gradients: Sequence[Tensor | None] = (),
) -> None:
    """Write the gradients of x, of the parameters and of the norms' vectors, where wanted."""
    gradient, known = _unit_rows(gradient), seen.known
    parameters = [*map(_unit_strides, parameters)]
    while not known.plan.backward_regularized(
        parameters,
        x.shape[0],
        x.data_ptr(),
        x.stride(0),
        torch.get_num_threads(),
        seen.hidden.data_ptr(),
        0,
        gradient.data_ptr(),
        gradient.stride(0),
        0 if x_gradient is None else x_gradient.data_ptr(),
        None if gradients is None else [part.data_ptr() for part in gradients],
        *seen.step.arguments(seen.sums, seen.statistics, affine_gradients),
    ):
        known = memo.renew(x, parameters, known.settings)  # a parameter has moved


class _RegularizedChain(torch.autograd.Function):
    """A training step with dropout or batch norm in eager mode."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, memo: Memo, known: _Known, step: Regularization, x: Tensor, *tensors: Tensor
    ) -> Tensor:
        result, seen = _forward_regularized(memo, known, step, x, [*tensors[: known.count]])
        ctx.memo, ctx.known, ctx.step = memo, seen.known, step
        ctx.save_for_backward(seen.hidden, seen.sums, seen.statistics, x, *tensors)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        hidden, sums, statistics, x, *tensors = ctx.saved_tensors
        seen = _Seen(ctx.known, ctx.step, hidden, sums, statistics)
        count, wanted = seen.known.count, ctx.needs_input_grad[3:]
        parameters, affine = tensors[:count], tensors[count:]
        if torch.is_grad_enabled():
            inputs = [x, *tensors]
            targets = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
            output = _differentiable(x, parameters, seen.known.settings, seen.step, affine)
            found = iter(torch.autograd.grad(output, targets, gradient, create_graph=True))
            return None, None, None, *[next(found) if want else None for want in wanted]
        x_gradient = x.new_empty(*x.shape) if wanted[0] else None
        gradients: list[Tensor] | None = None
        if True in wanted[1 : 1 + count]:
            gradients = [_contiguous_like(parameter) for parameter in parameters]
        of_affine = [None if vector is None else torch.empty_like(vector) for vector in affine]
        _backward_regularized(
            ctx.memo, seen, x, parameters, gradient, x_gradient, gradients, of_affine
        )
        of_parameters = gradients or [None] * count
        return None, None, None, x_gradient, *of_parameters, *of_affine


def _folded(norms: Sequence[nn.BatchNorm1d], dtype: torch.dtype) -> list[float | int]:
    """Describe eval-mode batch norms to `_native`, which folds them anew in every call."""
    described: list[float | int] = []
    for norm in norms:
        for vector in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            described.append(_address(vector, norm.num_features, dtype))
        described.append(norm.eps)
    return described

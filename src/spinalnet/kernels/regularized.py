"""What a training step with dropout or batch norm tells the extension besides the chain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinalnet._checks import InputError

if TYPE_CHECKING:
    from spinalnet.kernels.masks import Masks
    from spinalnet.kernels.reference import Elementwise


class _BatchNorm(NamedTuple):
    """One norm as `csrc/module.cpp` reads it, in this order; addresses are 0 for what is absent."""

    gain: int
    bias: int
    running_mean: int
    running_var: int
    num_batches: int
    gain_gradient: int
    bias_gradient: int
    momentum: float
    eps: float
    fixed: bool


class Regularization:
    """What one training step adds to a chain; looks up where the vectors of the norms are.

    Args:
        masks: Of the inputs of every layer, in segments slice and (not the first) previous layer.
        output_mask: Of the input of the output row, one segment for every layer.
        norms: One batch norm for every layer, in any mode.
        dtype: The one computed in.
        width: H, the elements of every vector of a norm.

    Raises:
        InputError: If a vector of a norm is not of that type, contiguous, on the CPU.
    """

    def __init__(
        self,
        masks: Masks | None,
        output_mask: Masks | None,
        norms: Sequence[nn.BatchNorm1d] | None,
        dtype: torch.dtype,
        width: int = 0,
    ) -> None:
        self.masks, self.output_mask, self.norms = masks, output_mask, norms
        self._described = [_described(norm, width, dtype) for norm in norms or ()]
        self._masks: list[float | int] = []
        for drawn in (masks, output_mask):
            self._masks += (
                (0, 0, 1.0)
                if drawn is None
                else (drawn.words.data_ptr(), drawn.words_per_row, drawn.scale)
            )

    def arguments(
        self,
        sums: Tensor | None,
        statistics: Tensor | None,
        gradients: Sequence[Tensor | None] = (),
    ) -> tuple[object, ...]:
        """Describe the step to the extension, `gradients` being those of `affine_of(norms)`."""
        if sums is None or statistics is None:
            return *self._masks, 0, 0, None
        addresses = [0 if gradient is None else gradient.data_ptr() for gradient in gradients]
        pairs = zip(addresses[::2], addresses[1::2], strict=True)
        described = self._described
        if gradients:
            described = [
                norm._replace(gain_gradient=gain, bias_gradient=bias)
                for norm, (gain, bias) in zip(described, pairs, strict=True)
            ]
        values = [value for norm in described for value in norm]
        return *self._masks, sums.data_ptr(), statistics.data_ptr(), values

    def functions(self, affine: Sequence[Tensor | None]) -> list[Elementwise] | None:
        """Return the norms as functions that leave their running statistics as they are.

        Args:
            affine: Gain and bias of every norm, as the call had them.
        """
        if self.norms is None:
            return None
        return [
            partial(
                F.batch_norm,
                running_mean=norm.running_mean if is_fixed(norm) else None,
                running_var=norm.running_var if is_fixed(norm) else None,
                weight=affine[2 * layer],
                bias=affine[2 * layer + 1],
                training=not is_fixed(norm),
                eps=norm.eps,
            )
            for layer, norm in enumerate(self.norms)
        ]


def affine_of(norms: Sequence[nn.BatchNorm1d] | None) -> list[Tensor | None]:
    """Return gain and bias of every norm, or `None`."""
    # Past `nn.Module.__getattr__`, which takes longer than a layer computes.
    return [norm._parameters[name] for norm in norms or () for name in ("weight", "bias")]


def is_fixed(norm: nn.BatchNorm1d) -> bool:
    """Whether a norm uses its running statistics, not those of the batch."""
    return not norm.training and norm._buffers["running_mean"] is not None


def _described(norm: nn.BatchNorm1d, size: int, dtype: torch.dtype) -> _BatchNorm:
    """Describe a norm, whose running statistics the kernels are about to move."""
    buffers, fixed = norm._buffers, is_fixed(norm)
    tracked = fixed or norm.track_running_stats
    mean = buffers["running_mean"] if tracked else None
    variance = buffers["running_var"] if tracked else None
    counted = None if fixed or not tracked else buffers["num_batches_tracked"]
    momentum = norm.momentum
    if momentum is None:  # the mean of all batches, this one included
        momentum = 0.0 if counted is None else 1.0 / (1.0 + float(counted))
    changed = [v for v in (mean, variance, counted) if v is not None and not fixed]
    if changed:
        torch.autograd.graph.increment_version(changed)  # the kernels write past torch
    parameters = norm._parameters
    return _BatchNorm(
        gain=_address(parameters["weight"], size, dtype),
        bias=_address(parameters["bias"], size, dtype),
        running_mean=_address(mean, size, dtype),
        running_var=_address(variance, size, dtype),
        num_batches=_address(counted, 1, torch.int64),
        gain_gradient=0,
        bias_gradient=0,
        momentum=momentum,
        eps=norm.eps,
        fixed=fixed,
    )


def folded(norms: Sequence[nn.BatchNorm1d], size: int, dtype: torch.dtype) -> list[float | int]:
    """Describe eval-mode batch norms to the extension, which folds them anew in every call.

    It trusts that every vector has `size` elements, H of the chain.
    """
    described: list[float | int] = []
    for norm in norms:
        buffers, own = norm._buffers, norm._parameters
        vectors = buffers["running_mean"], buffers["running_var"], own["weight"], own["bias"]
        described += [_address(vector, size, dtype) for vector in vectors]
        described.append(norm.eps)
    return described


def _address(vector: Tensor | None, size: int, dtype: torch.dtype) -> int:
    if vector is None:
        return 0
    fits = vector.numel() == size and vector.is_contiguous()
    if not fits or vector.dtype is not dtype or not vector.is_cpu:
        raise InputError(
            f"a vector of a norm must be a contiguous {dtype} vector of {size} elements on the "
            f"CPU, got {vector.dtype} {tuple(vector.shape)} on {vector.device}."
        )
    return vector.data_ptr()

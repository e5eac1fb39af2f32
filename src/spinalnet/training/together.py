"""A batch that is computed in parts, by processes or one after another, as if it were whole.

Random draws are made for the whole batch and each part takes its rows; the statistics of batch
normalisation are those of all processes. Layers that draw or normalise through
`torch.nn.functional` or with a tensor per row, as torch's, torchvision's and timm's do, need not
know of it. Not covered: dropout inside fused attention, and `nn.AlphaDropout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spinalnet import _dist, randomness
from spinalnet.randomness import BatchPart, draw_rows, part_of_batch


@contextmanager
def in_part(part: BatchPart, real: bool) -> Iterator[None]:
    """Compute a part of a batch inside.

    Args:
        part: Which rows it has.
        real: Whether they count; see `_dist.is_filler`.
    """
    with part_of_batch(part), _WholeBatch(real):
        yield


# What multiplies by a random mask: applied to ones it is the mask.
_MASKS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
_FILLS = tuple(getattr(Tensor, f"{name}_") for name in ("bernoulli", "uniform", "normal"))
_LIKE = (torch.rand_like, torch.randn_like)
_MADE = (torch.rand, torch.randn)


class _WholeBatch(TorchFunctionMode):
    """Answers for torch where it draws for rows, or takes statistics of rows."""

    def __init__(self, real: bool) -> None:
        super().__init__()
        self.real = real

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MASKS:
            return _masked(func, *args, **kwargs)
        if func is F.batch_norm and _dist.world_size() > 1:
            return _batch_norm(self.real, *args, **kwargs)
        if func in _FILLS and _has_rows(args[0].shape):
            filled = args[0]
            return filled.copy_(
                draw_rows(lambda n: func(_ones(filled, n), *args[1:], **kwargs), len(filled))
            )
        if func in _LIKE and _has_rows(args[0].shape):
            like = args[0]
            return draw_rows(lambda n: func(_ones(like, n), *args[1:], **kwargs), len(like))
        if func in _MADE and args and not {"generator", "out"} & kwargs.keys():
            shape = tuple(args[0]) if isinstance(args[0], list | tuple) else args
            if _has_rows(shape):
                return draw_rows(lambda n: func((n, *shape[1:]), **kwargs), shape[0])
        return func(*args, **kwargs)


def _has_rows(shape: Any) -> bool:
    """Return whether a tensor of this shape has something for each row that is here."""
    part = randomness.batch_part
    return part is not None and len(shape) > 0 and shape[0] == len(part.rows)


def _ones(like: Tensor, rows: int) -> Tensor:
    """Return ones for so many rows that lie in memory as those of `like`."""
    ones = like.new_ones((rows, *like.shape[1:]))
    last = torch.channels_last
    if like.dim() == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=last):
        ones = ones.contiguous(memory_format=last)
    return ones


def _masked(
    func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0.0 or not input.dim():
        return func(input, p, training, inplace)
    mask = draw_rows(lambda n: func(_ones(input, n), p, True), len(input))
    return input.mul_(mask) if inplace else input * mask


def _batch_norm(
    real: bool,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `F.batch_norm` does, with the statistics of the rows of all processes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    output, mean, var, count = _Normalise.apply(input, weight, bias, eps, real)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            unbiased = var * (count / (count - 1).clamp_min(1.0))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return output


class _Normalise(torch.autograd.Function):
    """Batch normalisation over the rows of all processes, whichever device they compute on."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, real: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims, shape = [0, *range(2, x.dim())], (1, -1) + (1,) * (x.dim() - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        own_mean = wide.mean(dims)
        squares = (wide - own_mean.view(shape)).square().sum(dims)
        count = torch.full_like(own_mean[:1], wide.numel() // wide.shape[1] if real else 0)
        own = torch.cat([count, own_mean, squares if real else torch.zeros_like(squares)])
        all_own = [torch.empty_like(own) for _ in range(_dist.world_size())]
        dist.all_gather(all_own, own)
        # Merged about the common mean (Chan, 1979): sums of squares alone lose digits.
        counts, means, spreads = torch.stack(all_own).split([1, *[len(own_mean)] * 2], dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (spreads.sum(0) + (counts * (means - mean).square()).sum(0)) / total
        rate = (var + eps).rsqrt()
        normed = (wide - mean.view(shape)) * rate.view(shape)
        output = normed if weight is None else normed * weight.view(shape)
        output = output if bias is None else output + bias.view(shape)
        ctx.save_for_backward(normed, rate, weight, total)
        ctx.real = real
        ctx.mark_non_differentiable(mean, var, total)
        return output.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        normed, rate, weight, total = ctx.saved_tensors
        dims, shape = [0, *range(2, normed.dim())], (1, -1) + (1,) * (normed.dim() - 2)
        grad = grads[0].to(normed.dtype)
        of_bias, of_weight = grad.sum(dims), (grad * normed).sum(dims)
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        # Rows that do not count had no part in the statistics, and so learn nothing from them.
        passed = torch.zeros_like(grad)
        if ctx.real:
            common = (sums / total).view(2, *shape)
            factor = rate if weight is None else rate * weight
            passed = (grad - common[0] - normed * common[1]) * factor.view(shape)
        return (
            passed.to(grads[0].dtype),
            None if weight is None else of_weight.to(weight.dtype),
            of_bias if ctx.needs_input_grad[2] else None,
            None,
            None,
        )

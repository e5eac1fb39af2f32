"""The bilinear image warp as one compiled operation on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels.native import extension


def can_warp(images: Tensor) -> bool:
    """Whether `warp` takes these images; torch operations take all others."""
    return (
        extension is not None
        and images.is_cpu
        and images.dtype in (torch.uint8, torch.float32)
        and not images.requires_grad
        and not torch.compiler.is_compiling()
    )


class CoordinateMap(Protocol):
    """What `warp` reads of a map; see `data.warps`."""

    @property
    def matrix(self) -> Tensor:
        """From places in the result to places in the image."""
        ...

    @property
    def box(self) -> Tensor | None:
        """What lies outside of it is black."""
        ...

    @property
    def projective(self) -> bool:
        """Whether lines that are parallel may meet."""
        ...

    @property
    def nearest(self) -> bool:
        """Whether the nearest pixel is copied."""
        ...


def warp(images: Tensor, maps: Sequence[CoordinateMap]) -> Tensor:
    """Warp a batch of images by a chain of coordinate maps, with one sampling.

    Args:
        images: uint8, or float32; see `can_warp`. Shape `(B, C, H, W)`.
        maps: At least one, in the order in which they act on the image.

    Returns:
        The same shape: in the dtype of `images` if the first map is nearest, else float32, uint8
        counting as 0..1 in steps of 1/255.

    Raises:
        InputError: If a map does not have one matrix (and box) per image.
    """
    images = images.contiguous()
    held: list[Tensor] = []  # keeps what is pointed to alive

    def address(tensor: Tensor | None, *shape: int) -> int:
        if tensor is None:
            return 0
        if tensor.shape != (len(images), *shape) or not tensor.is_cpu:
            raise InputError(
                f"a map needs a tensor of shape {(len(images), *shape)} on the CPU, got "
                f"{tuple(tensor.shape)} on {tensor.device}."
            )
        held.append(tensor.to(torch.float32).contiguous())
        return held[-1].data_ptr()

    chain = tuple(
        (address(step.matrix, 3, 3), address(step.box, 4), step.projective, step.nearest)
        for step in maps
    )
    kept = images.dtype if maps[0].nearest else torch.float32
    target = torch.empty_like(images, dtype=kept)
    extension.warp(
        images.data_ptr(),
        images.dtype is torch.uint8,
        tuple(images.shape),
        target.data_ptr(),
        torch.get_num_threads(),
        chain,
    )
    return target

"""Random rectangles of whole batches made black, so that no single part of a picture decides."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from spinalnet.data.warps import is_identity, require, uniform


def draw_patches(
    batch: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> Tensor:
    """Draw boxes (top, left, height, width) to erase, smaller than the image. `(B, 4)`.

    As torchvision: ten tries per image, the first that fits counts; if none does, no height.
    """
    tries = (batch, 10)
    area = uniform(*scale, tries, generator) * (height * width)
    aspect = uniform(math.log(ratio[0]), math.log(ratio[1]), tries, generator).exp_()
    heights, widths = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (heights < height) & (widths < width)
    first = fits.float().argmax(1, keepdim=True)  # the first of equal maxima
    box_height = heights.gather(1, first)[:, 0] * fits.any(1)
    box_width = widths.gather(1, first)[:, 0].clamp(max=width)
    place = uniform(0.0, 1.0, (batch, 2), generator)
    room = torch.stack([height - box_height, width - box_width], 1)
    # min: rounding can lift the product of a number below one to the next integer.
    corner = torch.minimum((place * (room + 1)).floor_(), room)
    return torch.stack([corner[:, 0], corner[:, 1], box_height, box_width], 1)


def _blackened(
    images: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Return images black in a rectangle each, from its first row and column to before its last."""
    height, width = images.shape[2:]
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    inside_rows = (y >= rows[0][:, None]) & (y < rows[1][:, None])
    inside_columns = (x >= columns[0][:, None]) & (x < columns[1][:, None])
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0)


def random_erasing(
    p: float = 0.5,
    scale_low: float = 0.02,
    scale_high: float = 0.33,
    ratio_low: float = 0.3,
    ratio_high: float = 3.3,
) -> Callable[[Tensor, Generator], Tensor]:
    """Blacken, with probability `p`, a rectangle of random area and aspect ratio somewhere inside.

    As `torchvision.transforms.RandomErasing(p, scale, ratio, value=0)` before normalisation.

    Source: Zhong et al., "Random Erasing Data Augmentation", arXiv:1708.04896.
    """
    require(0 <= p <= 1, "erasing: p must be in [0, 1]", p)
    scale, ratio = (scale_low, scale_high), (ratio_low, ratio_high)
    require(
        0 < scale_low <= scale_high <= 1, "erasing: scales must satisfy 0 < low <= high <= 1", scale
    )
    require(0 < ratio_low <= ratio_high, "erasing: ratios must satisfy 0 < low <= high", ratio)
    if p == 0:
        return is_identity

    def erase(images: Tensor, generator: Generator) -> Tensor:
        batch, _, height, width = images.shape
        chosen = uniform(0, 1, (batch,), generator) < p
        top, left, box_height, box_width = draw_patches(
            batch, height, width, scale, ratio, generator
        ).unbind(1)
        box_height = box_height * chosen
        return _blackened(images, (top, top + box_height), (left, left + box_width))

    return erase


def random_cutout(share: float = 0.5) -> Callable[[Tensor, Generator], Tensor]:
    """Blacken a square of `share` of the shorter side about a random pixel; it may hang over.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", arXiv:1708.04552.
    """
    require(0 <= share <= 2, "cutout: share must be in [0, 2]", share)
    if share == 0:
        return is_identity

    def cut(images: Tensor, generator: Generator) -> Tensor:
        batch, _, height, width = images.shape
        side = max(1, round(share * min(height, width)))
        place = uniform(0, 1, (2, batch), generator)
        top, left = (
            (place[axis] * size).floor_().clamp_(max=size - 1) - side // 2
            for axis, size in enumerate((height, width))
        )
        return _blackened(images, (top, top + side), (left, left + side))

    return cut

"""Geometry of whole batches: coordinate maps, one sampling for several of them, their random draws.

What `augment` makes its geometric steps of; coordinates and draws are torchvision's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from spinalnet._checks import InputError
from spinalnet.kernels import warp
from spinalnet.randomness import draw_rows


def require(condition: bool, rule: str, got: object) -> None:
    """Raise `InputError` with `rule` unless `condition` holds."""
    if not condition:
        raise InputError(f"{rule}, got {got}.")


def is_identity(images: Tensor, generator: Generator) -> Tensor:
    """Return the images as they are."""
    return images


def to_float(images: Tensor) -> Tensor:
    """Bring uint8 images to float32 on the 0..1 scale; leave float images alone."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw uniformly from [low, high), for images along the first dimension."""
    device = generator.device
    draw = draw_rows(
        lambda rows: torch.rand((rows, *shape[1:]), generator=generator, device=device), shape[0]
    )
    return draw if (low, high) == (0, 1) else draw.mul_(high - low).add_(low)


def per_image(values: Tensor) -> Tensor:
    """Shape `(B,)` for broadcasting over `(B, C, H, W)`."""
    return values.view(-1, 1, 1, 1)


# Coordinates are in pixels with the centre of the first pixel at (0.5, 0.5), so that an image of
# width W spans 0..W. A map takes OUTPUT coordinates to INPUT coordinates.


@dataclass(frozen=True)
class Map:
    """One coordinate map per image.

    Attributes:
        matrix: Homographies in homogeneous (x, y, 1). Shape `(B, 3, 3)`.
        box: Bounds (x_low, y_low, x_high, y_high) that read coordinates are clamped to, so that
            nothing outside a crop is seen. Shape `(B, 4)`, or `None`.
        projective: Whether the last row can be other than (0, 0, 1).
        nearest: Whether the pixel that is hit is taken as it is, without interpolation.
    """

    matrix: Tensor
    box: Tensor | None = None
    projective: bool = False
    nearest: bool = False


def _warp(images: Tensor, maps: Sequence[Map]) -> Tensor:
    """Apply `maps` in order (the first acts on the image first) with one sampling of the image.

    Nearest maps come last: what they hit is a pixel of the picture before them, so that one
    sampling gives exactly what one sampling per map would. If the first map is nearest, so is the
    sampling, and the dtype is kept. A map without a finite answer reads black.
    """
    if warp.can_warp(images):
        return warp.warp(images, maps)
    return _sample(images, *_locate(images, maps), nearest=maps[0].nearest)


def _apply(matrix: Tensor, x: Tensor, y: Tensor, projective: bool) -> tuple[Tensor, Tensor]:
    """Map coordinates `x`, `y`, each broadcastable to `(B, H, W)`."""
    rows = [[matrix[:, i, j].view(-1, 1, 1) for j in range(3)] for i in range(3)]
    # Summed so that a column of x and a row of y meet only once, in the last addition. The compiled
    # warp adds in this order too: rounding to a pixel goes the same way there.
    new_x, new_y = (row[0] * x + (row[1] * y + row[2]) for row in rows[:2])
    if projective:
        scale = (rows[2][0] * x + (rows[2][1] * y + rows[2][2])).reciprocal_()
        new_x, new_y = new_x * scale, new_y * scale
    return new_x, new_y


def _locate(images: Tensor, maps: Sequence[Map]) -> tuple[Tensor, Tensor]:
    """Return where the pixels of the result read the image: x and y, `(B, H, W)`, NaN: nowhere."""
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=torch.float32).add_(0.5).view(1, 1, -1)
    y = torch.arange(height, device=images.device, dtype=torch.float32).add_(0.5).view(1, -1, 1)
    for step in reversed(maps):  # from the output back to the image
        x, y = _apply(step.matrix, x, y, step.projective)
        if step.box is not None:
            x_low, y_low, x_high, y_high = (bound.view(-1, 1, 1) for bound in step.box.unbind(1))
            x, y = x.clamp(x_low, x_high), y.clamp(y_low, y_high)
        if step.nearest:  # on to the centre of the pixel; there is none off the canvas
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            x, y = (torch.where(inside, value.floor() + 0.5, math.nan) for value in (x, y))
    shape = (len(images), height, width)
    return x.expand(shape), y.expand(shape)


def _sample(images: Tensor, x: Tensor, y: Tensor, *, nearest: bool) -> Tensor:
    """Read images at coordinates, black where these are outside or NaN."""
    height, width = images.shape[2:]
    if nearest:  # at centres of pixels, or nowhere
        column, row = (value.nan_to_num(nan=0.5).long() for value in (x, y))
        place = (row * width + column).flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
        pixels = images.flatten(2).gather(2, place).view(images.shape)
        return pixels.masked_fill(x.isnan().unsqueeze(1), 0)
    images = to_float(images)
    # One pixel off the image is black already; farther, whole numbers would overflow.
    x, y = (
        value.clamp(-1, size + 1).nan_to_num(nan=-1.0) for value, size in ((x, width), (y, height))
    )
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], 3)
    return functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


@dataclass(frozen=True)
class Warp:
    """A geometric step: callable on its own, and open to being merged with its neighbours.

    A nearest step copies pixels of the picture before it, so it can always be merged with the steps
    before it, exactly. An interpolating one may be merged with interpolating ones before it, unless
    one of these pushes content off the canvas AND it reads from beyond the canvas: one warp would
    then bring back what two warps have lost.

    Attributes:
        draw: `(batch, height, width, generator) -> Map`.
        loses_content: Whether parts of the image may leave the canvas.
        reads_outside: Whether the output may show what lies beyond the canvas.
        nearest: Whether its maps are nearest.
    """

    draw: Callable[[int, int, int, Generator], Map]
    loses_content: bool
    reads_outside: bool
    nearest: bool = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Warp `images` by this step alone."""
        return WarpChain((self,))(images, generator)


@dataclass(frozen=True)
class WarpChain:
    """Geometric steps applied in order with a single sampling of the image."""

    steps: tuple[Warp, ...]

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Warp `images` by a draw of every step."""
        batch, _, height, width = images.shape
        return _warp(images, [step.draw(batch, height, width, generator) for step in self.steps])

    def can_take(self, step: Warp) -> bool:
        """Whether `step` may be merged as the last of the chain."""
        if step.nearest:
            return True
        brings_back = step.reads_outside and any(s.loses_content for s in self.steps)
        return not brings_back and not any(s.nearest for s in self.steps)


@functools.lru_cache(maxsize=64)
def constant(device: torch.device, *rows: tuple[float, ...]) -> Tensor:
    """Return a small float32 matrix; making one anew would cost as much as using it."""
    return torch.tensor(rows, device=device)


def quad_to_rectangle(corners: Tensor, height: int, width: int) -> Tensor:
    """Return the homographies that take four corners to those of the rectangle.

    The rectangle is (0, 0)..(width - 1, height - 1), as in torchvision. In closed form, without a
    linear system and without a division: with p = (x, y, 1) for the corners and x for the cross
    product, u is zero on the line p3 x p0 and v on p0 x p1, and both are one at p2; the line
    p1 x p3 completes the denominator. The weights of the three lines are products of what they
    give at p2.

    Args:
        corners: Top left, top right, bottom right, bottom left, as (x, y). Shape `(B, 4, 2)`.
        height: Image height.
        width: Image width.

    Returns:
        Matrices, up to scale. Shape `(B, 3, 3)`.

    Source: P. Heckbert, Fundamentals of Texture Mapping and Image Warping (1989), section 2.2.3,
    its inverse written with lines.
    """
    p0, p1, p2, p3 = functional.pad(corners, (0, 1), value=1.0).unbind(1)
    three = torch.stack([p3, p0, p1], 1)
    lines = torch.linalg.cross(three, three.roll(-1, 1))  # p3 x p0, p0 x p1, p1 x p3
    at_p2 = (lines * p2.unsqueeze(1)).sum(2)
    weights = at_p2.roll(1, 1) * at_p2.roll(-1, 1)  # for each line, of the other two
    weights *= constant(corners.device, (-1.0, -1.0, 1.0))
    rows = lines * weights.unsqueeze(2)
    rows[:, 2] = rows.sum(1)
    return rows * constant(corners.device, (width - 1.0,), (height - 1.0,), (1.0,))


def rotation_about_centre(
    degrees: Tensor, height: int, width: int, shift: Tensor | None = None
) -> Tensor:
    """Return the maps of a counter-clockwise rotation followed by a shift of the image.

    Args:
        degrees: Angles. Shape `(B,)`.
        height: Image height.
        width: Image width.
        shift: How far the picture moves, (x, y) in pixels. Shape `(B, 2)`, or `None`.

    Returns:
        Matrices from output to input coordinates. Shape `(B, 3, 3)`.
    """
    radians = (degrees * (math.pi / 180)).view(-1, 1, 1)
    x, y = width / 2, height / 2
    device = degrees.device
    by_cos = constant(device, (1.0, 0.0, -x), (0.0, 1.0, -y), (0.0, 0.0, 0.0))
    by_sin = constant(device, (0.0, -1.0, y), (1.0, 0.0, -x), (0.0, 0.0, 0.0))
    fixed = constant(device, (0.0, 0.0, x), (0.0, 0.0, y), (0.0, 0.0, 1.0))
    matrix = torch.addcmul(fixed, radians.cos(), by_cos).addcmul_(radians.sin(), by_sin)
    if shift is not None:
        matrix[:, :2, 2] -= (matrix[:, :2, :2] * shift.unsqueeze(1)).sum(2)
    return matrix


def box_to_full(boxes: Tensor, height: int, width: int) -> Map:
    """Return the maps that enlarge boxes (top, left, height, width), shape `(B, 4)`, to full size.

    Reading is clamped to the centres of the box's own border pixels, as resizing a crop does.
    """
    top, left, box_height, box_width = boxes.float().unbind(1)
    zero, one = torch.zeros_like(top), torch.ones_like(top)
    entries = [
        *(box_width / width, zero, left),
        *(zero, box_height / height, top),
        *(zero, zero, one),
    ]
    bounds = [left + 0.5, top + 0.5, left + box_width - 0.5, top + box_height - 0.5]
    return Map(torch.stack(entries, 1).view(-1, 3, 3), torch.stack(bounds, 1))


def draw_corners(
    batch: int, height: int, width: int, distortion: float, generator: Generator
) -> Tensor:
    """Draw where the corners go: inwards by whole pixels, each axis on its own. `(B, 4, 2)`."""
    device = generator.device
    right, bottom = width - 1.0, height - 1.0
    at_rest = constant(device, (0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom))
    reach = constant(device, tuple(float(int(distortion * (n // 2))) for n in (width, height)))
    signs = constant(device, (1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))
    inward = uniform(0, 1, (batch, 4, 2), generator).mul_(reach + 1).floor_()
    # minimum: rounding can lift the product of a number below one to the next integer.
    return torch.addcmul(at_rest, signs, torch.minimum(inward, reach))


def draw_boxes(
    batch: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> Tensor:
    """Draw crop boxes (top, left, height, width) of random area and aspect ratio. `(B, 4)`.

    As torchvision: ten tries per image, the first that fits counts; if none does, the largest
    centred box whose aspect ratio is allowed.
    """
    tries = (batch, 10)
    area = uniform(*scale, tries, generator) * (height * width)
    aspect = uniform(math.log(ratio[0]), math.log(ratio[1]), tries, generator).exp_()
    widths, heights = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = fits.float().argmax(1, keepdim=True)  # the first of equal maxima
    any_fits = fits.any(1)
    spare_width, spare_height = width, height
    if width / height < ratio[0]:
        spare_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        spare_width = round(height * ratio[1])
    box_width = torch.where(any_fits, widths.gather(1, first)[:, 0], spare_width)
    box_height = torch.where(any_fits, heights.gather(1, first)[:, 0], spare_height)
    place = uniform(0.0, 1.0, (batch, 2), generator)
    room = torch.stack([height - box_height, width - box_width], 1)
    # min: rounding can lift the product of a number below one to the next integer.
    random_place = torch.minimum((place * (room + 1)).floor_(), room)
    corner = torch.where(any_fits[:, None], random_place, (room / 2).floor_())
    return torch.stack([corner[:, 0], corner[:, 1], box_height, box_width], 1)

"""Random image transforms for whole batches, on the device, with one draw per image.

Every transform is a function `(images, generator) -> images` and a pure function of its two
arguments. Distributions are torchvision's, which the tests check draw by draw, and so is the
interpolation: rotations and affine maps copy the nearest pixel, the others are bilinear. Two things
differ, both on purpose:

- Neighbouring geometric steps become ONE warp (one sampling, not one per step) wherever that gives
  the same picture; see `_Warp`.
- Pixels half outside the image fade to black once; torchvision, on tensors and with an explicit
  `fill`, fades them twice (its result for `fill=None` is the one here), and on image objects does
  not fade them at all.

On the CPU the compiled kernels warp, where they are installed (`_kernels.warp`); elsewhere torch
operations give the same coordinates, bit by bit, and the same values up to rounding.

Images are uint8 `(B, C, H, W)`, or float on the 0..1 scale. Crops, flips and rotations keep the
dtype; everything that computes with pixel values returns float32 on the 0..1 scale. What lies
outside the image is 0 (black), so augment before normalising.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from spinalnet import _kernels
from spinalnet._checks import InputError, unknown_name

Transform = Callable[[Tensor, Generator], Tensor]

# Raised when the same seed begins to give other images: part of the key of what is kept of them.
STREAM = 2


def _to_float(images: Tensor) -> Tensor:
    """Bring uint8 images to float32 on the 0..1 scale; leave float images alone."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Draw uniformly from [low, high)."""
    draw = torch.rand(shape, generator=generator, device=generator.device)
    return draw if (low, high) == (0, 1) else draw.mul_(high - low).add_(low)


def _per_image(values: Tensor) -> Tensor:
    """Shape `(B,)` for broadcasting over `(B, C, H, W)`."""
    return values.view(-1, 1, 1, 1)


# --- geometry: where does each output pixel read? -------------------------------------------------
# Coordinates are in pixels with the centre of the first pixel at (0.5, 0.5), so that an image of
# width W spans 0..W. A map takes OUTPUT coordinates to INPUT coordinates.


@dataclass(frozen=True)
class _Map:
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


def _warp(images: Tensor, maps: Sequence[_Map]) -> Tensor:
    """Apply `maps` in order (the first acts on the image first) with one sampling of the image.

    Nearest maps come last: what they hit is a pixel of the picture before them, so that one
    sampling gives exactly what one sampling per map would. If the first map is nearest, so is the
    sampling, and the dtype is kept. A map without a finite answer reads black.
    """
    if _kernels.can_warp(images):
        return _kernels.warp(images, maps)
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


def _locate(images: Tensor, maps: Sequence[_Map]) -> tuple[Tensor, Tensor]:
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
    images = _to_float(images)
    # One pixel off the image is black already; farther, whole numbers would overflow.
    x, y = (
        value.clamp(-1, size + 1).nan_to_num(nan=-1.0) for value, size in ((x, width), (y, height))
    )
    grid = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], 3)
    return functional.grid_sample(
        images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


@dataclass(frozen=True)
class _Warp:
    """A geometric step: callable on its own, and open to being merged with its neighbours.

    A nearest step copies pixels of the picture before it, so it can always be merged with the steps
    before it, exactly. An interpolating one may be merged with interpolating ones before it, unless
    one of these pushes content off the canvas AND it reads from beyond the canvas: one warp would
    then bring back what two warps have lost.

    Attributes:
        draw: `(batch, height, width, generator) -> _Map`.
        loses_content: Whether parts of the image may leave the canvas.
        reads_outside: Whether the output may show what lies beyond the canvas.
        nearest: Whether its maps are nearest.
    """

    draw: Callable[[int, int, int, Generator], _Map]
    loses_content: bool
    reads_outside: bool
    nearest: bool = False

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        return _WarpChain((self,))(images, generator)


@dataclass(frozen=True)
class _WarpChain:
    """Geometric steps applied in order with a single sampling of the image."""

    steps: tuple[_Warp, ...]

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        batch, _, height, width = images.shape
        return _warp(images, [step.draw(batch, height, width, generator) for step in self.steps])

    def can_take(self, step: _Warp) -> bool:
        """Whether `step` may be merged as the last of the chain."""
        if step.nearest:
            return True
        brings_back = step.reads_outside and any(s.loses_content for s in self.steps)
        return not brings_back and not any(s.nearest for s in self.steps)


@functools.lru_cache(maxsize=64)
def _constant(device: torch.device, *rows: tuple[float, ...]) -> Tensor:
    """Return a small float32 matrix; making one anew would cost as much as using it."""
    return torch.tensor(rows, device=device)


def _quad_to_rectangle(corners: Tensor, height: int, width: int) -> Tensor:
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
    weights *= _constant(corners.device, (-1.0, -1.0, 1.0))
    rows = lines * weights.unsqueeze(2)
    rows[:, 2] = rows.sum(1)
    return rows * _constant(corners.device, (width - 1.0,), (height - 1.0,), (1.0,))


def _rotation_about_centre(
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
    by_cos = _constant(device, (1.0, 0.0, -x), (0.0, 1.0, -y), (0.0, 0.0, 0.0))
    by_sin = _constant(device, (0.0, -1.0, y), (1.0, 0.0, -x), (0.0, 0.0, 0.0))
    fixed = _constant(device, (0.0, 0.0, x), (0.0, 0.0, y), (0.0, 0.0, 1.0))
    matrix = torch.addcmul(fixed, radians.cos(), by_cos).addcmul_(radians.sin(), by_sin)
    if shift is not None:
        matrix[:, :2, 2] -= (matrix[:, :2, :2] * shift.unsqueeze(1)).sum(2)
    return matrix


def _box_to_full(boxes: Tensor, height: int, width: int) -> _Map:
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
    return _Map(torch.stack(entries, 1).view(-1, 3, 3), torch.stack(bounds, 1))


# --- draws ----------------------------------------------------------------------------------------


def _draw_corners(
    batch: int, height: int, width: int, distortion: float, generator: Generator
) -> Tensor:
    """Draw where the corners go: inwards by whole pixels, each axis on its own. `(B, 4, 2)`."""
    device = generator.device
    right, bottom = width - 1.0, height - 1.0
    at_rest = _constant(device, (0.0, 0.0), (right, 0.0), (right, bottom), (0.0, bottom))
    reach = _constant(device, tuple(float(int(distortion * (n // 2))) for n in (width, height)))
    signs = _constant(device, (1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))
    inward = _uniform(0, 1, (batch, 4, 2), generator).mul_(reach + 1).floor_()
    # minimum: rounding can lift the product of a number below one to the next integer.
    return torch.addcmul(at_rest, signs, torch.minimum(inward, reach))


def _draw_boxes(
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
    area = _uniform(*scale, tries, generator) * (height * width)
    aspect = _uniform(math.log(ratio[0]), math.log(ratio[1]), tries, generator).exp_()
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
    place = _uniform(0.0, 1.0, (batch, 2), generator)
    room = torch.stack([height - box_height, width - box_width], 1)
    # min: rounding can lift the product of a number below one to the next integer.
    random_place = torch.minimum((place * (room + 1)).floor_(), room)
    corner = torch.where(any_fits[:, None], random_place, (room / 2).floor_())
    return torch.stack([corner[:, 0], corner[:, 1], box_height, box_width], 1)


# --- the steps ------------------------------------------------------------------------------------


def _require(condition: bool, rule: str, got: object) -> None:
    """Raise `InputError` with `rule` unless `condition` holds."""
    if not condition:
        raise InputError(f"{rule}, got {got}.")


def _is_identity(images: Tensor, generator: Generator) -> Tensor:
    """Return the images as they are."""
    return images


def random_perspective(distortion: float = 0.5, p: float = 0.5) -> Transform:
    """Move the four corners inwards by up to `distortion` of half the size, with probability `p`.

    As `torchvision.transforms.RandomPerspective(distortion, p)`.
    """
    _require(0 <= distortion <= 1, "perspective: distortion must be in [0, 1]", distortion)
    _require(0 <= p <= 1, "perspective: p must be in [0, 1]", p)
    if distortion == 0 or p == 0:
        return _is_identity

    def draw(batch: int, height: int, width: int, generator: Generator) -> _Map:
        corners = _draw_corners(batch, height, width, distortion, generator)
        matrix = _quad_to_rectangle(corners, height, width)
        chosen = _uniform(0, 1, (batch, 1, 1), generator) < p
        as_it_is = _constant(matrix.device, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        return _Map(torch.where(chosen, matrix, as_it_is), projective=True)

    # Corners move inwards only, so the whole image stays on the canvas.
    return _Warp(draw, loses_content=False, reads_outside=True)


def random_rotation(degrees: float) -> Transform:
    """Rotate about the centre by an angle uniform in `[-degrees, degrees]`.

    As `torchvision.transforms.RandomRotation(degrees)`: pixels are copied, not interpolated.
    """
    return random_affine(degrees, 0.0)


def random_affine(degrees: float, translate: float = 0.1) -> Transform:
    """Rotate by up to `degrees`, then shift by whole pixels up to `translate` of each side.

    As `torchvision.transforms.RandomAffine(degrees, (translate, translate))`: pixels are copied,
    not interpolated.
    """
    _require(0 <= degrees <= 180, "rotation: degrees must be in [0, 180]", degrees)
    _require(0 <= translate <= 1, "affine: translate must be in [0, 1]", translate)
    if degrees == 0 and translate == 0:
        return _is_identity

    def draw(batch: int, height: int, width: int, generator: Generator) -> _Map:
        angles = _uniform(-degrees, degrees, (batch,), generator)
        shift = None
        if translate:
            reach = _constant(angles.device, (translate * width, translate * height))
            shift = (_uniform(-1, 1, (batch, 2), generator) * reach).round_()
        return _Map(_rotation_about_centre(angles, height, width, shift), nearest=True)

    return _Warp(draw, loses_content=True, reads_outside=True, nearest=True)


def random_resized_crop(
    scale_low: float = 0.08,
    scale_high: float = 1.0,
    ratio_low: float = 3 / 4,
    ratio_high: float = 4 / 3,
) -> Transform:
    """Cut a box of random area and aspect ratio and resize it to the size of the image.

    As `torchvision.transforms.RandomResizedCrop(size, scale, ratio)` with the image's own size.
    """
    _require(
        0 < scale_low <= scale_high <= 1,
        "resized-crop: scales must satisfy 0 < low <= high <= 1",
        (scale_low, scale_high),
    )
    _require(
        0 < ratio_low <= ratio_high,
        "resized-crop: ratios must satisfy 0 < low <= high",
        (ratio_low, ratio_high),
    )

    def draw(batch: int, height: int, width: int, generator: Generator) -> _Map:
        scale, ratio = (scale_low, scale_high), (ratio_low, ratio_high)
        return _box_to_full(
            _draw_boxes(batch, height, width, scale, ratio, generator), height, width
        )

    return _Warp(draw, loses_content=True, reads_outside=False)


def random_zoom_crop(large: float, small: float) -> Transform:
    """Enlarge by `large / small` and cut a window of the old size at a random place.

    For images that were loaded at `small` pixels a side, what
    `torchvision.transforms.Resize(large)` and `RandomCrop(small)` do to larger ones.
    """
    whole = float(large).is_integer() and float(small).is_integer()
    _require(
        whole and 0 < small <= large, "zoom-crop: needs whole large >= small > 0", (large, small)
    )
    if small == large:
        return _is_identity

    def draw(batch: int, height: int, width: int, generator: Generator) -> _Map:
        room = int(large - small) + 1
        place = torch.randint(0, room, (batch, 2), generator=generator, device=generator.device)
        scale = place.new_tensor([height, width]) / large  # pixels of the image per enlarged one
        corner = place * scale
        size = (scale * small).expand(batch, 2)
        enlarge = _box_to_full(torch.cat([corner, size], 1), height, width).matrix
        # Unlike a resized crop, the window is cut last: its border pixels blend with neighbours.
        whole_image = corner.new_tensor([0.5, 0.5, width - 0.5, height - 0.5])
        return _Map(enlarge, whole_image.expand(batch, 4))

    return _Warp(draw, loses_content=True, reads_outside=False)


def random_crop(padding: float = 4) -> Transform:
    """Pad by `padding` black pixels on every side and cut a window of the old size.

    As `torchvision.transforms.RandomCrop(size, padding=padding)` with the image's own size.
    """
    whole = float(padding).is_integer() and padding >= 0
    _require(whole, "crop: padding must be an integer >= 0", padding)
    pad = int(padding)
    if pad == 0:
        return _is_identity

    def crop(images: Tensor, generator: Generator) -> Tensor:
        batch, _, height, width = images.shape
        padded = functional.pad(images, (pad, pad, pad, pad))
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2P+1, 2P+1, H, W)
        place = torch.randint(
            0, 2 * pad + 1, (2, batch), generator=generator, device=generator.device
        )
        return windows[torch.arange(batch, device=images.device), :, place[0], place[1]]

    return crop


def _random_flip(name: str, p: float, dim: int) -> Transform:
    """Mirror each image along `dim` with probability `p`."""
    _require(0 <= p <= 1, f"{name}: p must be in [0, 1]", p)
    if p == 0:
        return _is_identity

    def flip(images: Tensor, generator: Generator) -> Tensor:
        chosen = _uniform(0, 1, (len(images),), generator) < p
        return torch.where(_per_image(chosen), images.flip(dim), images)

    return flip


def random_horizontal_flip(p: float = 0.5) -> Transform:
    """Mirror left and right with probability `p`."""
    return _random_flip("flip", p, -1)


def random_vertical_flip(p: float = 0.5) -> Transform:
    """Mirror top and bottom with probability `p`."""
    return _random_flip("vertical-flip", p, -2)


def random_brightness(strength: float) -> Transform:
    """Multiply all values by a factor uniform in `[max(0, 1 - strength), 1 + strength]`.

    As `torchvision.transforms.ColorJitter(brightness=strength)`.
    """
    _require(strength >= 0, "brightness: strength must be >= 0", strength)
    if strength == 0:
        return _is_identity

    def brighten(images: Tensor, generator: Generator) -> Tensor:
        factor = _uniform(max(0.0, 1 - strength), 1 + strength, (len(images),), generator)
        return (_to_float(images) * _per_image(factor)).clamp_(0, 1)

    return brighten


def random_contrast(strength: float) -> Transform:
    """Move all values away from, or to, the mean grey of the image by a random factor.

    As `torchvision.transforms.ColorJitter(contrast=strength)`. That class, given several strengths,
    also shuffles their order; here the order is that of the spec.
    """
    _require(strength >= 0, "contrast: strength must be >= 0", strength)
    if strength == 0:
        return _is_identity

    def change(images: Tensor, generator: Generator) -> Tensor:
        images = _to_float(images)
        factor = _per_image(
            _uniform(max(0.0, 1 - strength), 1 + strength, (len(images),), generator)
        )
        grey = images
        if images.shape[1] == 3:  # luma of ITU-R BT.601
            weights = images.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
            grey = (images * weights).sum(1, keepdim=True)
        mean = grey.mean((1, 2, 3), keepdim=True)
        return (mean + (images - mean) * factor).clamp_(0, 1)

    return change


def _image_by_image(step: Callable[[Tensor], Tensor]) -> Transform:
    """Let a transform of torchvision's, which draws once a call, draw once an image."""

    def transform(images: Tensor, generator: Generator) -> Tensor:
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        # It draws from the global stream of the CPU, wherever the images are.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(seed))
            return torch.stack([step(image) for image in images]) if len(images) else images

    return transform


def random_colors(
    brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.1
) -> Transform:
    """Change brightness, contrast, saturation and hue: torchvision's `ColorJitter`, per image.

    Slower than `brightness` and `contrast` alone, which take the whole batch at once.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast)):
        _require(0 <= value < math.inf, f"color-jitter: {name} must be >= 0", value)
    _require(0 <= saturation < math.inf, "color-jitter: saturation must be >= 0", saturation)
    _require(0 <= hue <= 0.5, "color-jitter: hue must be in [0, 0.5]", hue)
    if brightness == contrast == saturation == hue == 0:
        return _is_identity
    from torchvision.transforms.v2 import ColorJitter

    return _image_by_image(ColorJitter(brightness, contrast, saturation, hue))


def rand_augment(num_ops: float = 2, magnitude: float = 9) -> Transform:
    """Apply `num_ops` random operations of one strength (0 to 30): torchvision's `RandAugment`.

    Source: Cubuk et al., "RandAugment", arXiv:1909.13719.
    """
    _require(
        num_ops in range(1, 15) and magnitude in range(31),
        "rand-augment: num_ops must be an integer from 1 to 14, magnitude one from 0 to 30",
        (num_ops, magnitude),
    )
    from torchvision.transforms.v2 import InterpolationMode, RandAugment

    bilinear = InterpolationMode.BILINEAR
    return _image_by_image(RandAugment(int(num_ops), int(magnitude), interpolation=bilinear))


def trivial_augment() -> Transform:
    """Apply one random operation of random strength: torchvision's `TrivialAugmentWide`.

    Source: Müller and Hutter, "TrivialAugment", arXiv:2103.10158.
    """
    from torchvision.transforms.v2 import InterpolationMode, TrivialAugmentWide

    return _image_by_image(TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))


AUGMENTATIONS: dict[str, Callable[..., Transform]] = {
    "perspective": random_perspective,
    "rotation": random_rotation,
    "affine": random_affine,
    "resized-crop": random_resized_crop,
    "zoom-crop": random_zoom_crop,
    "crop": random_crop,
    "flip": random_horizontal_flip,
    "vertical-flip": random_vertical_flip,
    "brightness": random_brightness,
    "contrast": random_contrast,
    "color-jitter": random_colors,
    "rand-augment": rand_augment,
    "trivial-augment": trivial_augment,
}


def _parse_step(text: str) -> Transform:
    """Make the transform of one step such as `"rotation:10"`."""
    name, _, rest = text.partition(":")
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, ["none", *AUGMENTATIONS])
    factory = AUGMENTATIONS[name]
    try:
        arguments = [float(number) for number in rest.split(",")] if rest else []
        inspect.signature(factory).bind(*arguments)
    except (ValueError, TypeError) as error:
        parameters = ",".join(inspect.signature(factory).parameters)
        raise InputError(
            f"augmentation '{name}' takes numbers as '{name}:{parameters}', got '{text}'."
        ) from error
    return factory(*arguments)


@functools.lru_cache(maxsize=64)  # data sources ask again for every batch
def build_augment(spec: str) -> Transform:
    """Return the transform that a spec stands for.

    Args:
        spec: `"none"`, or steps of `AUGMENTATIONS` joined by `+`, each with optional numbers:
            `"perspective+rotation:10"`, `"crop:4+flip"`, `"rotation:10+resized-crop:0.95,1"`.
            They act in this order.

    Returns:
        A function `(images, generator) -> images`. Images are uint8 `(B, C, H, W)` or float on the
        0..1 scale; the generator must be on their device.

    Raises:
        InputError: If a step is unknown or its numbers are wrong.
    """
    if spec == "none":
        return _is_identity
    steps: list[Transform | _WarpChain] = []
    for text in spec.split("+"):
        step = _parse_step(text.strip())
        if step is _is_identity:
            continue
        last = steps[-1] if steps else None
        if not isinstance(step, _Warp):
            steps.append(step)
        elif isinstance(last, _WarpChain) and last.can_take(step):
            steps[-1] = _WarpChain((*last.steps, step))
        else:
            steps.append(_WarpChain((step,)))

    def augment(images: Tensor, generator: Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return images

    return augment

"""Random image transforms for whole batches, on the device, with one draw per image.

Every transform is a function `(images, generator) -> images` and a pure function of its two
arguments. Distributions are torchvision's, which the tests check draw by draw, and so is the
interpolation: rotations and affine maps copy the nearest pixel, the others are bilinear. Two things
differ, both on purpose:

- Neighbouring geometric steps become ONE warp (one sampling, not one per step) wherever that gives
  the same picture; see `warps.Warp`.
- Pixels half outside the image fade to black once; torchvision, on tensors and with an explicit
  `fill`, fades them twice (its result for `fill=None` is the one here), and on image objects does
  not fade them at all.

On the CPU the compiled kernels warp, where they are installed (`kernels.warp`); elsewhere torch
operations give the same coordinates, bit by bit, and the same values up to rounding.

Images are uint8 `(B, C, H, W)`, or float on the 0..1 scale. Crops, flips, rotations and erasing
keep the dtype; everything that computes with pixel values returns float32 on the 0..1 scale. What
lies outside the image or is erased is 0 (black), so augment before normalising.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

from spinalnet._checks import InputError, unknown_name
from spinalnet.data.erasing import random_cutout, random_erasing
from spinalnet.data.warps import (
    Map,
    Warp,
    WarpChain,
    box_to_full,
    constant,
    draw_boxes,
    draw_corners,
    is_identity,
    per_image,
    quad_to_rectangle,
    require,
    rotation_about_centre,
    to_float,
    uniform,
)
from spinalnet.randomness import draw_rows, own_generators

Transform = Callable[[Tensor, Generator], Tensor]

# How `TrainConfig.augment` begins in a repetition of the paper's procedure on photographs.
ORIGINAL = "original:"

# Raised when the same seed begins to give other images: part of the key of what is kept of them.
STREAM = 2


def random_perspective(distortion: float = 0.5, p: float = 0.5) -> Transform:
    """Move the four corners inwards by up to `distortion` of half the size, with probability `p`.

    As `torchvision.transforms.RandomPerspective(distortion, p)`.
    """
    require(0 <= distortion <= 1, "perspective: distortion must be in [0, 1]", distortion)
    require(0 <= p <= 1, "perspective: p must be in [0, 1]", p)
    if distortion == 0 or p == 0:
        return is_identity

    def draw(batch: int, height: int, width: int, generator: Generator) -> Map:
        corners = draw_corners(batch, height, width, distortion, generator)
        matrix = quad_to_rectangle(corners, height, width)
        chosen = uniform(0, 1, (batch, 1, 1), generator) < p
        as_it_is = constant(matrix.device, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        return Map(torch.where(chosen, matrix, as_it_is), projective=True)

    # Corners move inwards only, so the whole image stays on the canvas.
    return Warp(draw, loses_content=False, reads_outside=True)


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
    require(0 <= degrees <= 180, "rotation: degrees must be in [0, 180]", degrees)
    require(0 <= translate <= 1, "affine: translate must be in [0, 1]", translate)
    if degrees == 0 and translate == 0:
        return is_identity

    def draw(batch: int, height: int, width: int, generator: Generator) -> Map:
        angles = uniform(-degrees, degrees, (batch,), generator)
        shift = None
        if translate:
            reach = constant(angles.device, (translate * width, translate * height))
            shift = (uniform(-1, 1, (batch, 2), generator) * reach).round_()
        return Map(rotation_about_centre(angles, height, width, shift), nearest=True)

    return Warp(draw, loses_content=True, reads_outside=True, nearest=True)


def random_resized_crop(
    scale_low: float = 0.08,
    scale_high: float = 1.0,
    ratio_low: float = 3 / 4,
    ratio_high: float = 4 / 3,
) -> Transform:
    """Cut a box of random area and aspect ratio and resize it to the size of the image.

    As `torchvision.transforms.RandomResizedCrop(size, scale, ratio)` with the image's own size.
    """
    require(
        0 < scale_low <= scale_high <= 1,
        "resized-crop: scales must satisfy 0 < low <= high <= 1",
        (scale_low, scale_high),
    )
    require(
        0 < ratio_low <= ratio_high,
        "resized-crop: ratios must satisfy 0 < low <= high",
        (ratio_low, ratio_high),
    )

    def draw(batch: int, height: int, width: int, generator: Generator) -> Map:
        scale, ratio = (scale_low, scale_high), (ratio_low, ratio_high)
        return box_to_full(draw_boxes(batch, height, width, scale, ratio, generator), height, width)

    return Warp(draw, loses_content=True, reads_outside=False)


def random_zoom_crop(large: float, small: float) -> Transform:
    """Enlarge by `large / small` and cut a window of the old size at a random place.

    For images that were loaded at `small` pixels a side, what
    `torchvision.transforms.Resize(large)` and `RandomCrop(small)` do to larger ones.
    """
    whole = float(large).is_integer() and float(small).is_integer()
    require(
        whole and 0 < small <= large, "zoom-crop: needs whole large >= small > 0", (large, small)
    )
    if small == large:
        return is_identity

    def draw(batch: int, height: int, width: int, generator: Generator) -> Map:
        room = int(large - small) + 1
        on = {"generator": generator, "device": generator.device}
        place = draw_rows(lambda rows: torch.randint(0, room, (rows, 2), **on), batch)
        scale = place.new_tensor([height, width]) / large  # pixels of the image per enlarged one
        corner = place * scale
        size = (scale * small).expand(batch, 2)
        enlarge = box_to_full(torch.cat([corner, size], 1), height, width).matrix
        # Unlike a resized crop, the window is cut last: its border pixels blend with neighbours.
        whole_image = corner.new_tensor([0.5, 0.5, width - 0.5, height - 0.5])
        return Map(enlarge, whole_image.expand(batch, 4))

    return Warp(draw, loses_content=True, reads_outside=False)


def random_crop(padding: float = 4) -> Transform:
    """Pad by `padding` black pixels on every side and cut a window of the old size.

    As `torchvision.transforms.RandomCrop(size, padding=padding)` with the image's own size.
    """
    whole = float(padding).is_integer() and padding >= 0
    require(whole, "crop: padding must be an integer >= 0", padding)
    pad = int(padding)
    if pad == 0:
        return is_identity

    def crop(images: Tensor, generator: Generator) -> Tensor:
        batch, _, height, width = images.shape
        padded = functional.pad(images, (pad, pad, pad, pad))
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2P+1, 2P+1, H, W)
        on = {"generator": generator, "device": generator.device}
        place = draw_rows(lambda rows: torch.randint(0, 2 * pad + 1, (2, rows), **on), batch, dim=1)
        return windows[torch.arange(batch, device=images.device), :, place[0], place[1]]

    return crop


def _random_flip(name: str, p: float, dim: int) -> Transform:
    """Mirror each image along `dim` with probability `p`."""
    require(0 <= p <= 1, f"{name}: p must be in [0, 1]", p)
    if p == 0:
        return is_identity

    def flip(images: Tensor, generator: Generator) -> Tensor:
        chosen = uniform(0, 1, (len(images),), generator) < p
        return torch.where(per_image(chosen), images.flip(dim), images)

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
    require(strength >= 0, "brightness: strength must be >= 0", strength)
    if strength == 0:
        return is_identity

    def brighten(images: Tensor, generator: Generator) -> Tensor:
        factor = uniform(max(0.0, 1 - strength), 1 + strength, (len(images),), generator)
        return (to_float(images) * per_image(factor)).clamp_(0, 1)

    return brighten


def random_contrast(strength: float) -> Transform:
    """Move all values away from, or to, the mean grey of the image by a random factor.

    As `torchvision.transforms.ColorJitter(contrast=strength)`. That class, given several strengths,
    also shuffles their order; here the order is that of the spec.
    """
    require(strength >= 0, "contrast: strength must be >= 0", strength)
    if strength == 0:
        return is_identity

    def change(images: Tensor, generator: Generator) -> Tensor:
        images = to_float(images)
        factor = per_image(uniform(max(0.0, 1 - strength), 1 + strength, (len(images),), generator))
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
        with own_generators():
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
        require(0 <= value < math.inf, f"color-jitter: {name} must be >= 0", value)
    require(0 <= saturation < math.inf, "color-jitter: saturation must be >= 0", saturation)
    require(0 <= hue <= 0.5, "color-jitter: hue must be in [0, 0.5]", hue)
    if brightness == contrast == saturation == hue == 0:
        return is_identity
    from torchvision.transforms.v2 import ColorJitter

    return _image_by_image(ColorJitter(brightness, contrast, saturation, hue))


def rand_augment(num_ops: float = 2, magnitude: float = 9) -> Transform:
    """Apply `num_ops` random operations of one strength (0 to 30): torchvision's `RandAugment`.

    Source: Cubuk et al., "RandAugment", arXiv:1909.13719.
    """
    require(
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
    "erasing": random_erasing,
    "cutout": random_cutout,
    "brightness": random_brightness,
    "contrast": random_contrast,
    "color-jitter": random_colors,
    "rand-augment": rand_augment,
    "trivial-augment": trivial_augment,
}


_ONE_BY_ONE = ("color-jitter", "rand-augment", "trivial-augment")


def draws_in_turn(spec: str) -> bool:
    """Return whether what a spec draws for an image depends on the images before it in a batch."""
    return any(step.split(":")[0].strip() in _ONE_BY_ONE for step in spec.split("+"))


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
        return is_identity
    if spec.startswith(ORIGINAL):
        raise InputError(
            f"the images of this run went through the original's own transforms "
            f"({spec.removeprefix(ORIGINAL)}), which 'spinalnet reproduce --protocol paper' alone "
            "applies."
        )
    steps: list[Transform | WarpChain] = []
    for text in spec.split("+"):
        step = _parse_step(text.strip())
        if step is is_identity:
            continue
        last = steps[-1] if steps else None
        if not isinstance(step, Warp):
            steps.append(step)
        elif isinstance(last, WarpChain) and last.can_take(step):
            steps[-1] = WarpChain((*last.steps, step))
        else:
            steps.append(WarpChain((step,)))

    def augment(images: Tensor, generator: Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return images

    return augment

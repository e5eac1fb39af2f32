"""Pictures as the original's scripts made them: image by image, with Pillow, in the scripts' order.

The honest protocol brings every image to one size and augments whole batches; here a photograph is
stretched, turned and cut as the transforms of a script say, at the sizes they say. They are written
in the words of `--augment`, with the sizes that only pictures of any shape need:

    resize:H,W          stretched to this height and width
    resize:S            the shorter side to S, the shape kept
    crop:S  centre-crop:S  resized-crop:S,LOW,HIGH
    rotation:D  affine:D,T  perspective  flip  vertical-flip
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Generator, Tensor

from spinalnet._checks import InputError
from spinalnet.data import ArrayDataset, FolderDataset, normalize
from spinalnet.data.images import usable_cpus
from spinalnet.data.opening import opened
from spinalnet.data.order import batch_slices, epoch_order, stream_seed

Step = Callable[[Any, Generator], Any]


# Draws are made in torchvision's order, one after the other: from one state of a generator both
# make the same picture.


def _between(low: float, high: float, generator: Generator) -> float:
    return torch.empty(1).uniform_(low, high, generator=generator).item()


def _whole(low: int, high: int, generator: Generator) -> int:
    """Draw a whole number from `low` to before `high`."""
    return int(torch.randint(low, high, (1,), generator=generator))


def _resize(height: float, width: float = 0) -> Step:
    from PIL import Image

    def resize(image: Any, generator: Generator) -> Any:
        size = int(width), int(height)
        if not width:
            short, long = sorted(image.size)
            longer = int(height * long / short)
            size = (int(height), longer) if image.width <= image.height else (longer, int(height))
        return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)

    return resize


def _window(image: Any, left: int, top: int, side: int) -> Any:
    return image.crop((left, top, left + side, top + side))


def _crop(side: float) -> Step:
    def crop(image: Any, generator: Generator) -> Any:
        if min(image.size) < side:
            raise InputError(f"a window of {side:g} pixels needs larger images, got {image.size}.")
        top, left = (
            _whole(0, size - int(side) + 1, generator) for size in (image.height, image.width)
        )
        return _window(image, left, top, int(side))

    return crop


def _centre_crop(side: float) -> Step:
    def crop(image: Any, generator: Generator) -> Any:
        left, top = (round((size - side) / 2.0) for size in image.size)
        return _window(image, left, top, int(side))

    return crop


_RATIO = (3 / 4, 4 / 3)


def _box(
    width: int, height: int, scale: tuple[float, float], generator: Generator
) -> tuple[int, int, int, int]:
    """Draw left, top, width and height of a box of random area and aspect ratio."""
    for _ in range(10):
        area = width * height * _between(*scale, generator)
        low, high = torch.tensor(_RATIO).log().tolist()
        ratio = torch.empty(1).uniform_(low, high, generator=generator).exp().item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = _whole(0, height - h + 1, generator)
            return _whole(0, width - w + 1, generator), top, w, h
    w, h = width, height
    if width / height < _RATIO[0]:
        h = round(width / _RATIO[0])
    elif width / height > _RATIO[1]:
        w = round(height * _RATIO[1])
    return (width - w) // 2, (height - h) // 2, w, h


def _resized_crop(side: float, low: float = 0.08, high: float = 1.0) -> Step:
    from PIL import Image

    def crop(image: Any, generator: Generator) -> Any:
        left, top, width, height = _box(image.width, image.height, (low, high), generator)
        window = image.crop((left, top, left + width, top + height))
        return window.resize((int(side), int(side)), Image.Resampling.BILINEAR)

    return crop


def _rotation(degrees: float) -> Step:
    from PIL import Image

    def rotate(image: Any, generator: Generator) -> Any:
        return image.rotate(_between(-degrees, degrees, generator), Image.Resampling.NEAREST)

    return rotate


def _affine(degrees: float, translate: float) -> Step:
    from torchvision.transforms import functional

    def move(image: Any, generator: Generator) -> Any:
        angle = _between(-degrees, degrees, generator)
        shift = [
            round(_between(-translate * size, translate * size, generator)) for size in image.size
        ]
        return functional.affine(image, angle, shift, 1.0, [0.0, 0.0])

    return move


def _perspective(distortion: float = 0.5, p: float = 0.5) -> Step:
    from torchvision.transforms import functional

    def tilt(image: Any, generator: Generator) -> Any:
        if _between(0, 1, generator) >= p:
            return image
        width, height = image.size
        x, y = (int(distortion * (size // 2)) for size in image.size)
        near = (0, x + 1), (0, y + 1)
        far = (width - x - 1, width), (height - y - 1, height)
        ranges = [(near[0], near[1]), (far[0], near[1]), (far[0], far[1]), (near[0], far[1])]
        corners = [[_whole(low, high, generator) for low, high in pair] for pair in ranges]
        right, bottom = width - 1, height - 1
        at_rest = [[0, 0], [right, 0], [right, bottom], [0, bottom]]
        return functional.perspective(image, at_rest, corners)

    return tilt


def _flip(vertical: bool) -> Callable[[], Step]:
    from PIL import Image

    ways = Image.Transpose
    way = ways.FLIP_TOP_BOTTOM if vertical else ways.FLIP_LEFT_RIGHT

    def flip(image: Any, generator: Generator) -> Any:
        return image.transpose(way) if _between(0, 1, generator) < 0.5 else image

    return lambda: flip


def build_pictures(spec: str) -> Step:
    """Return what makes of a picture of Pillow's the one that a script trains or tests on.

    Args:
        spec: Steps joined by `+`; see the top of this file.
    """
    makers: dict[str, Callable[..., Step]] = {
        "resize": _resize,
        "crop": _crop,
        "centre-crop": _centre_crop,
        "resized-crop": _resized_crop,
        "rotation": _rotation,
        "affine": _affine,
        "perspective": _perspective,
        "flip": _flip(vertical=False),
        "vertical-flip": _flip(vertical=True),
    }
    steps = []
    for text in spec.split("+"):
        name, _, numbers = text.partition(":")
        steps.append(makers[name](*map(float, filter(None, numbers.split(",")))))

    def make(image: Any, generator: Generator) -> Any:
        for step in steps:
            image = step(image, generator)
        return image

    return make


class Pictures:
    """A part of a data set whose pictures go through the transforms of a script.

    Args:
        part: The images, as they are.
        train: Transforms of training, used where batches are augmented.
        test: Transforms of validation and test.
        channels: 1 for grey, 3 for colour.
        side: Height and width of what comes out.
    """

    def __init__(
        self, part: ArrayDataset | FolderDataset, train: str, test: str, channels: int, side: int
    ) -> None:
        self.part, self.train, self.test = part, train, test
        self.channels, self.side = channels, side
        self.mean, self.std = part.mean, part.std
        self.targets, self.paths = part.targets, part.paths

    def __len__(self) -> int:
        return len(self.part)

    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> Pictures:
        """Return the same pictures normalised by other constants."""
        twin = copy.copy(self)
        twin.mean, twin.std = tuple(mean), tuple(std)
        return twin

    def subset(self, indices: torch.Tensor) -> Pictures:
        """Return the pictures at `indices` as a part of their own."""
        part = self.part.subset(indices)
        chosen = Pictures(part, self.train, self.test, self.channels, self.side)
        return chosen.normalized_by(self.mean, self.std)

    def _picture(self, row: int) -> Any:
        from PIL import Image

        mode = "L" if self.channels == 1 else "RGB"
        if isinstance(self.part, ArrayDataset):
            pixels = self.part.inputs[row].permute(1, 2, 0).numpy()
            return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert(mode)
        path = self.part.paths[row]
        try:
            with opened(path) as (image, _):  # Paper: the orientation is not looked at
                return image.convert(mode)
        except Exception as error:  # decoders raise almost anything on broken files
            raise InputError(f"image '{path}' cannot be decoded ({error}).") from error

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augment: str = "none",
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every sample once; arguments and results as in `ArrayDataset.batches`.

        With any `augment` but "none" the transforms of training act, otherwise those of the test.

        Raises:
            InputError: If an image cannot be decoded.
        """
        make = build_pictures(self.test if augment == "none" else self.train)
        order = epoch_order(len(self), shuffle, seed, epoch)
        mean, std = (c * self.channels if len(c) == 1 else c for c in (self.mean, self.std))

        def made(row: int) -> Tensor:
            import numpy as np

            generator = torch.Generator().manual_seed(stream_seed("picture", seed, epoch, row))
            pixels = np.array(make(self._picture(row), generator))
            return torch.from_numpy(pixels).view(self.side, self.side, self.channels)

        kept = torch.channels_last if channels_last else torch.contiguous_format
        for rows, pixels in _ahead(
            made, [order[s] for s in batch_slices(len(self), batch_size, shuffle)]
        ):
            x = normalize(pixels.permute(0, 3, 1, 2).to(device), mean, std)
            yield x.contiguous(memory_format=kept), self.targets[rows].to(device)


def _ahead(
    made: Callable[[int], Tensor], batches: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (rows, what is made of them) of each batch; threads make two of them ahead."""
    waiting: deque[tuple[Tensor, list[Future[Tensor]]]] = deque()
    pool = ThreadPoolExecutor(usable_cpus(), thread_name_prefix="spinalnet-pictures")

    def first() -> tuple[Tensor, Tensor]:
        rows, tasks = waiting.popleft()
        return rows, torch.stack([task.result() for task in tasks])

    try:
        for rows in batches:
            waiting.append((rows, [pool.submit(made, row) for row in rows.tolist()]))
            if len(waiting) > 2:
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)

"""A few training images as the network sees them, plain and augmented, kept with a run.

They are one picture in the run's folder, which `result.json` describes: what a report shows must
not need the data.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import SpinalnetError, read_fields
from spinalnet.data import Splits
from spinalnet.data.images import fit_to
from spinalnet.data.order import stream_seed
from spinalnet.training import TrainConfig

COUNT = 6
_LARGEST = 256  # pixels a side that are kept of an image
SHARP = 64  # pictures of fewer pixels a side are kept without loss, and shown as squares
_GAP = 128  # grey of the lines between images, which a light and a dark page show alike


@dataclass(frozen=True)
class Samples:
    """What the picture of a run shows: a column per image, plain above, augmented below.

    Attributes:
        file: Its name in the run's folder.
        labels: Class, or value, of each image.
        side: Pixels a side of what the network sees.
        augment: Augmentation of the lower row; "none" where there is no lower row.
        mix: How training mixes several images, which is not shown; "none" if it does not.
    """

    file: str
    labels: tuple[str, ...]
    side: int
    augment: str
    mix: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` reads it."""
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Samples:
        """Read what `to_dict` gave.

        Raises:
            InputError: If it is something else.
        """
        return cls(**read_fields(cls, given, "field"))


def keep_samples(folder: Path, splits: Splits, config: TrainConfig) -> Samples | None:
    """Write the picture of a run; None where there are no images, or one cannot be read.

    The images are the same for all runs on the same training part, whatever they train.

    Args:
        folder: Of the run.
        splits: Its data.
        config: How it trains.
    """
    shape = splits.info.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        return None
    generator = torch.Generator().manual_seed(stream_seed("samples"))
    rows = torch.randperm(len(splits.train), generator=generator)[:COUNT]
    part = splits.train.subset(rows)
    try:
        strips = [_pixels(part, augment) for augment in dict.fromkeys(("none", config.augment))]
    except (SpinalnetError, OSError):
        return None  # a file is gone by now: the run is none the worse
    side = strips[0].shape[-1]
    name, content = _encoded(torch.stack(strips), side)
    files.write_bytes(folder / name, content)
    targets = splits.info.in_units(part.targets).flatten().tolist()
    names = splits.info.class_names
    labels = tuple(names[int(one)] if names else f"{one:.4g}" for one in targets)
    return Samples(name, labels, side, config.augment, config.mix)


def _pixels(part: Any, augment: str) -> Tensor:
    """Return the images of a part as the network gets them, in bytes, `(N, C, H, W)`."""
    (batch, _), *_ = part.batches(len(part), augment=augment)
    if part.mean:
        std, mean = (torch.tensor(one).view(1, -1, 1, 1) for one in (part.std, part.mean))
        batch = batch * std + mean
    return batch.clamp(0, 1).mul(255).round().byte().contiguous()


def _encoded(strips: Tensor, side: int) -> tuple[str, bytes]:
    """Return name and content of the picture of `(rows, N, C, H, W)`."""
    from PIL import Image

    if side > _LARGEST:
        strips = fit_to(strips.flatten(0, 1), _LARGEST).unflatten(0, strips.shape[:2])
    gap = max(1, strips.shape[-1] // 32)
    row_count, count, channels, height, width = strips.shape
    sheet = torch.full(
        (channels, row_count * (height + gap) - gap, count * (width + gap) - gap), _GAP
    ).byte()
    for row, strip in enumerate(strips):
        for column, pixels in enumerate(strip):
            top, left = row * (height + gap), column * (width + gap)
            sheet[:, top : top + height, left : left + width] = pixels
    array = sheet.permute(1, 2, 0).numpy()
    image, buffer = Image.fromarray(array[..., 0] if channels == 1 else array), io.BytesIO()
    if side < SHARP:
        image.save(buffer, format="PNG", optimize=True)
        return "samples.png", buffer.getvalue()
    image.save(buffer, format="JPEG", quality=85)
    return "samples.jpg", buffer.getvalue()

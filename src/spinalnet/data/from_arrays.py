"""From the arrays of a named data set to a pool of parts, in memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.data import parts, readers
from spinalnet.data.batches import ArrayDataset, DatasetInfo
from spinalnet.data.catalog import DatasetRow
from spinalnet.data.images import channel_statistics, fit_to
from spinalnet.data.request import DataSpec


def _suspicions(row: DatasetRow, train_images: Tensor, test_images: Tensor) -> list[str]:
    """Say what speaks against the files being those of `row`.

    MNIST, Fashion-MNIST and KMNIST have the same file names, so a wrong folder reads smoothly.
    """
    notes = []
    sizes = (len(train_images), len(test_images))
    if sizes != row.sizes:
        notes.append(
            f"The files hold {sizes[0]} training and {sizes[1]} test images; the full set has "
            f"{row.sizes[0]} and {row.sizes[1]}."
        )
    mean = channel_statistics(train_images)[0][0]
    if row.mean and abs(mean - row.mean[0]) > 0.01:
        notes.append(
            f"The training images have mean {mean}, where '{row.name}' has {row.mean[0]}; check "
            "that the folder holds the right files."
        )
    return notes


def _to_channels(images: Tensor, channels: int) -> Tensor:
    """Repeat grey as colour without copying, or mix colour to grey (luma of ITU-R BT.601)."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    parts = images.split(4096)
    return torch.cat([(p * weights).sum(1, keepdim=True).round().to(torch.uint8) for p in parts])


def pool_of_arrays(
    row: DatasetRow, files: readers.Arrays, spec: DataSpec, memory_budget: int
) -> parts.Pool:
    """Make a pool of a named data set that is in memory."""
    if spec.group is not None:
        raise InputError(
            f"group is a pattern over the names of image files, and those of '{row.name}' have "
            "none: leave it out."
        )
    (train_x, train_y), (test_x, test_y) = (files.parts[part] for part in ("train", "test"))
    if row.reader == "regression":
        shape = tuple(train_x.shape[1:])
        info = DatasetInfo(row.name, "regression", (), shape, (), (), row.notes)
        train, test = ArrayDataset(train_x, train_y), ArrayDataset(test_x, test_y)
        return _drawn(parts.Pool(info, train, test, None, row.val_fraction), spec)
    notes = [*_suspicions(row, train_x, test_x), *files.notes, *row.notes]
    native, size = train_x.shape[-1], spec.image_size or train_x.shape[-1]
    channels = spec.in_channels or train_x.shape[1]
    mean, std = row.mean, row.std
    if channels != train_x.shape[1]:
        train_x, test_x = _to_channels(train_x, channels), _to_channels(test_x, channels)
        mean, std = (mean * 3, std * 3) if channels == 3 else channel_statistics(train_x)
    resize = None
    if size != native:
        notes.append(f"Images are resized from {native}x{native} to {size}x{size}.")
        needed = (len(train_x) + len(test_x)) * channels * size * size
        if size > native and needed > memory_budget:
            resize = size  # batch by batch: small images stay small in memory
        else:
            train_x, test_x = fit_to(train_x, size), fit_to(test_x, size)
    train, test = (
        ArrayDataset(x, y, mean, std, resize) for x, y in ((train_x, train_y), (test_x, test_y))
    )
    shape = (channels, size, size)
    info = DatasetInfo(row.name, "classification", files.classes, shape, mean, std, tuple(notes))
    return _drawn(parts.Pool(info, train, test, None, row.val_fraction), spec)


def _drawn(pool: parts.Pool, spec: DataSpec) -> parts.Pool:
    """Draw the parts of a data set in memory anew, if that is asked for."""
    if spec.resample is None:
        return pool
    assert isinstance(pool.train, ArrayDataset)
    assert isinstance(pool.test, ArrayDataset)
    whole, info = pool.train.joined(pool.test), pool.info
    drawn = parts.divide(whole.targets, info.class_names, spec.resample)
    what = "images" if info.class_names else "examples"
    note = parts.divided_note(spec.resample, ("train", "test"), len(whole), len(drawn.test), what)
    return replace(
        pool,
        **drawn.of(whole),
        info=replace(info, notes=(*info.notes, note)),
        test_rows=torch.from_numpy(drawn.test),
    )

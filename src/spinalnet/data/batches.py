"""The parts of a data set and the batches that leave them, from memory or from files."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from spinalnet import _dist
from spinalnet._checks import InputError
from spinalnet.data.augment import build_augment, draws_in_turn
from spinalnet.data.depths import Depths
from spinalnet.data.images import BadImage, BadImagesError, fit_to, read_batches, usable_cpus
from spinalnet.data.order import batch_slices, epoch_order, stream_seed
from spinalnet.randomness import BatchPart, part_of_batch

Units = tuple[float, float]
"""Mean and standard deviation of the values of a regression on images."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a model, a checkpoint and a report need to know about a data set.

    Attributes:
        name: Name in `DATASETS`, or the folder's own name.
        task: `"classification"` or `"regression"`.
        class_names: Class names in label order; empty for regression.
        input_shape: Shape of one sample, `(C, H, W)` for images, `(F,)` for tables.
        mean: Mean per channel on the 0..1 scale, subtracted from every batch.
        std: Standard deviation per channel on the 0..1 scale.
        notes: Sentences the user must see, such as a limit or an unusual split.
        units: Of a regression on images: (mean, standard deviation) of the values, in which the
            model is trained and answers; None where it does so in the values themselves.
        pixel_range: The values that became black and white, where image files have more than 8 bits
            per channel; None where none has.
    """

    name: str
    task: Literal["classification", "regression"]
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    units: Units | None = None
    pixel_range: tuple[float, float] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes (0 for regression)."""
        return len(self.class_names)

    def in_units(self, values: Tensor) -> Tensor:
        """Return answers or targets `(N, 1)` of a regression in the units of the data."""
        if self.units is None:
            return values
        mean, std = self.units
        return (values.double() * std + mean).float()


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; `test` is for one final evaluation only.

    `left_out` lists the image files that cannot be used: the parts are as if they were not there.
    `unused` names, a line each, what else lies in the folder of the data and is in no part;
    `copies` the pictures that are there twice, left out or not.
    `test_rows` holds the places of the test examples among all examples, int64, where the parts
    were drawn anew from all; None where the test part is the data's own.
    """

    train: ArrayDataset | FolderDataset
    val: ArrayDataset | FolderDataset
    test: ArrayDataset | FolderDataset
    info: DatasetInfo
    left_out: tuple[BadImage, ...] = ()
    test_rows: Tensor | None = None
    unused: str = ""
    copies: str = ""

    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> Splits:
        """Return the same samples normalised by other constants than the data's own."""
        return replace(
            self,
            train=self.train.normalized_by(mean, std),
            val=self.val.normalized_by(mean, std),
            test=self.test.normalized_by(mean, std),
            info=replace(self.info, mean=tuple(mean), std=tuple(std)),
        )

    def standardized(self, units: Units | None = None) -> Splits:
        """Return the samples of a regression with their values less `mean`, over `std`.

        Args:
            units: (mean, std); None for those of the training part.
        """
        if units is None:
            values = self.train.targets.double()
            # Of equal values any unit does.
            units = float(values.mean()), float(values.std(correction=0)) or 1.0
        mean, std = units

        def moved(part: ArrayDataset | FolderDataset) -> ArrayDataset | FolderDataset:
            return part.with_targets(((part.targets.double() - mean) / std).float())

        return replace(
            self,
            train=moved(self.train),
            val=moved(self.val),
            test=moved(self.test),
            info=replace(self.info, units=units),
        )


# Small batches are augmented several at a time, up to this many values (256 images of 28 x 28): a
# warp costs a fixed amount per call that 64 such images do not outweigh.
_AUGMENT_TOGETHER = 256 * 28 * 28


Share = tuple[int, int]  # this process's number, and the number of processes
_ALL: Share = (0, 1)


class _Group:
    """Neighbouring batches that are made in one go.

    Args:
        number: Its number in the epoch: what is drawn depends on it.
        batches: Where its batches lie in the epoch.
        skipped: Its first batches that are not asked for.
        share: Whose rows of the batches are made.
        whole: Whether all rows must be made all the same, as their draws hang together.
    """

    def __init__(
        self, number: int, batches: list[slice], skipped: int, share: Share, whole: bool
    ) -> None:
        self.number, self.batches, self.skipped = number, batches, skipped
        first = batches[0].start
        self.rows = slice(first, batches[-1].stop)
        self.made = self.part = None  # all
        self._own = (
            None
            if share == _ALL
            else [
                [rows.start - first + row for row in _dist.own_rows(rows.stop - rows.start, *share)]
                for rows in batches
            ]
        )
        if self._own is not None and not whole:
            self.made = torch.tensor([row for rows in self._own for row in rows])
            self.part = BatchPart(self.rows.stop - first, self.made)

    def cut(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Cut what was made back into batches: own rows of `x`, all rows of `y`."""
        at = 0
        for number, rows in enumerate(self.batches):
            start, stop = rows.start - self.rows.start, rows.stop - self.rows.start
            if self._own is None:
                mine = x[start:stop]
            elif self.made is None:
                mine = x[self._own[number]]
            else:
                mine = x[at : at + len(self._own[number])]
                at += len(mine)
            if number >= self.skipped:
                yield mine, y[start:stop]


def _groups(
    batches: list[slice], values_per_sample: int, augment: str, first: int, share: Share
) -> list[_Group]:
    """Return the groups that hold the batches from number `first` on."""
    together = 1
    if augment != "none" and batches:
        values = (batches[0].stop - batches[0].start) * values_per_sample
        together = max(1, _AUGMENT_TOGETHER // values)
    whole = draws_in_turn(augment)
    return [
        _Group(number, batches[start : start + together], max(0, first - start), share, whole)
        for number, start in enumerate(range(0, len(batches), together))
        if start + together > first
    ]


@functools.lru_cache(maxsize=64)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], unit: float, ndim: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / std in units of the stored values, shaped for `(B, C, ...)`."""
    shape = (-1,) + (1,) * (ndim - 2)
    values = torch.tensor([mean, std], dtype=torch.float64) * unit
    return (
        values[0].to(device, torch.float32).view(shape),
        values[1].reciprocal().to(device, torch.float32).view(shape),
    )


def normalize(inputs: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `(inputs - mean) / std` as float32.

    Args:
        inputs: Shape `(B, C, ...)`; uint8 counts as 0..1 in steps of 1/255.
        mean: One value per channel, on the 0..1 scale; empty for no normalisation.
        std: One value per channel; empty for no normalisation.
    """
    unit = 255.0 if inputs.dtype == torch.uint8 else 1.0
    if not mean:
        return inputs.float() / unit
    centre, scale = _constants(tuple(mean), tuple(std), unit, inputs.ndim, inputs.device)
    if inputs.ndim == 4 and inputs.stride(1) == 1 < inputs.shape[1]:
        # Channels innermost: as rows of pixels with the constants repeated, vector units have more
        # than three numbers in a row to work on.
        rows = inputs.permute(0, 2, 3, 1).flatten(2)
        centre, scale = (c.flatten().repeat(inputs.shape[3]) for c in (centre, scale))
        rows = rows.to(torch.float32, copy=True).sub_(centre).mul_(scale)
        return rows.unflatten(2, (-1, inputs.shape[1])).permute(0, 3, 1, 2)
    return inputs.to(torch.float32, copy=True).sub_(centre).mul_(scale)


def _finish(
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    augment: str,
    key: tuple[int, ...],
    channels_last: bool,
) -> Tensor:
    """Augment (before normalisation, so that fill is black) and normalise."""
    if augment != "none":
        generator = torch.Generator(inputs.device).manual_seed(stream_seed("augment", *key))
        inputs = build_augment(augment)(inputs.contiguous(), generator)
    inputs = normalize(inputs, mean, std)
    last = channels_last and inputs.ndim == 4
    return inputs.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class ArrayDataset:
    """Samples that live on the device: uint8 images or float features.

    Args:
        inputs: Images, uint8 or float, shape `(N, C, H, W)`; or features, float, `(N, F)`.
        targets: Class indices (int64) or regression targets (float), `N` rows.
        mean: Mean per channel or feature (uint8 images: on the 0..1 scale); empty for none.
        std: Standard deviation per channel or feature; empty for none.
        size: Side that uint8 images are resized to, batch by batch; `None` to leave them.
        paths: The file of every sample, if they were read from files; empty if not.

    Raises:
        InputError: If the lengths differ, or `mean` and `std` do not fit the inputs.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        size: int | None = None,
        paths: Sequence[str] = (),
    ) -> None:
        if len(inputs) != len(targets):
            raise InputError(
                f"inputs and targets must have the same length, got {len(inputs)} and "
                f"{len(targets)}."
            )
        if inputs.ndim < 2:
            raise InputError(f"inputs must be (N, F) or (N, C, H, W), got {tuple(inputs.shape)}.")
        if len(mean) != len(std) or (mean and len(mean) not in (1, inputs.shape[1])):
            raise InputError(
                f"mean and std must have one value per channel ({inputs.shape[1]}), got "
                f"{len(mean)} and {len(std)}."
            )
        self.inputs = inputs
        self.targets = targets if targets.is_floating_point() else targets.long()
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.size = size
        self.paths = list(paths)
        self._on_device: tuple[torch.device, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> ArrayDataset:
        """Return the same samples normalised by other constants (those of a trained model)."""
        twin = copy.copy(self)
        twin.mean, twin.std = tuple(mean), tuple(std)
        return twin

    def with_targets(self, targets: Tensor) -> ArrayDataset:
        """Return the same samples with other targets, one for each."""
        twin = copy.copy(self)
        twin.targets, twin._on_device = targets, None
        return twin

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices` as a data set of their own."""
        paths = [self.paths[i] for i in indices.tolist()] if self.paths else ()
        return ArrayDataset(
            self.inputs[indices], self.targets[indices], self.mean, self.std, self.size, paths
        )

    def joined(self, other: ArrayDataset) -> ArrayDataset:
        """Return the samples of both, these first, normalised as these are."""
        inputs, targets = (
            torch.cat(pair) for pair in ((self.inputs, other.inputs), (self.targets, other.targets))
        )
        paths = [*self.paths, *other.paths]
        return ArrayDataset(inputs, targets, self.mean, self.std, self.size, paths)

    def _resident(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return inputs and targets on `device`, moved at the first call only."""
        if self._on_device is None or self._on_device[0] != device:
            self._on_device = (device, self.inputs.to(device), self.targets.to(device))
        return self._on_device[1:]

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
        first: int = 0,
        share: Share = _ALL,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every sample once; order and augmentation depend on (seed, epoch) alone.

        Args:
            batch_size: Samples per batch. The last batch may be smaller; with `shuffle`, a
                single left-over sample joins the batch before it.
            device: Where the samples live and the batches are made.
            shuffle: Whether to draw a new order for this epoch.
            seed: Seed of order and augmentation.
            epoch: Epoch number, part of both streams.
            augment: Augmentation spec, see `data.augment.build_augment`.
            channels_last: Whether image batches get the channels-last memory format.
            first: Number of the batch to begin with, from 0.
            share: (k, n): make the inputs that process k of n computes, see `_dist.own_rows`.

        Yields:
            Inputs, float32, normalised, `(B, C, H, W)` or `(B, F)`; targets, `(B,)`, with `share`
            those of all processes.
        """
        inputs, targets = self._resident(torch.device(device))
        order = epoch_order(len(self), shuffle, seed, epoch).to(inputs.device) if shuffle else None
        batches = batch_slices(len(self), batch_size, shuffle)
        shape = inputs.shape[1:] if self.size is None else (inputs.shape[1], self.size, self.size)
        for group in _groups(batches, math.prod(shape), augment, first, share):
            index = group.rows if order is None else order[group.rows]
            made = index
            if group.made is not None:
                rows = group.made.to(inputs.device)
                made = rows + group.rows.start if order is None else order[group.rows][rows]
            key = (seed, epoch, group.number)
            x = inputs[made] if self.size is None else fit_to(inputs[made], self.size)
            with part_of_batch(group.part):
                x = _finish(x, self.mean, self.std, augment, key, channels_last)
            yield from group.cut(x, targets[index])


MEND = "remove or replace {them}"


def without(values: Tensor, bad: Sequence[tuple[int, BadImage]]) -> Tensor:
    """Return `values` without the rows in `bad`."""
    if not bad:
        return values
    keep = torch.ones(len(values), dtype=torch.bool)
    keep[[row for row, _ in bad]] = False
    return values[keep]


class FolderDataset:
    """Image files decoded by threads as they are needed.

    For folders that do not fit in memory; same batches, in the same order and with the same
    augmentation, as an `ArrayDataset` of the decoded images.

    Args:
        paths: Image files.
        targets: Class indices, `(N,)`, or values, float, `(N, 1)`.
        channels: 1 (grey) or 3 (RGB).
        size: Height and width of the decoded images.
        mean: Mean per channel on the 0..1 scale; empty for none.
        std: Standard deviation per channel on the 0..1 scale; empty for none.
        num_workers: Threads that decode ahead, at most one per processor; 0 for none.
        pixel_range: How files with more than 8 bits per channel are scaled; see `data.depths`.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        targets: Tensor,
        channels: int,
        size: int,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        num_workers: int = 2,
        pixel_range: tuple[float, float] | None = None,
    ) -> None:
        if len(paths) != len(targets):
            raise InputError(
                f"paths and targets must have the same length, got {len(paths)} and {len(targets)}."
            )
        self.paths = [os.fspath(path) for path in paths]  # a Path takes several times the memory
        self.targets = targets if targets.is_floating_point() else targets.long()
        self.channels = channels
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.num_workers = num_workers
        self.pixel_range = pixel_range

    def __len__(self) -> int:
        return len(self.paths)

    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> FolderDataset:
        """Return the same samples normalised by other constants (those of a trained model)."""
        twin = copy.copy(self)
        twin.mean, twin.std = tuple(mean), tuple(std)
        return twin

    def with_targets(self, targets: Tensor) -> FolderDataset:
        """Return the same samples with other targets, one for each."""
        twin = copy.copy(self)
        twin.targets = targets
        return twin

    def subset(self, indices: Tensor) -> FolderDataset:
        """Return the samples at `indices` as a data set of their own."""
        return FolderDataset(
            [self.paths[i] for i in indices.tolist()],
            self.targets[indices],
            self.channels,
            self.size,
            self.mean,
            self.std,
            self.num_workers,
            self.pixel_range,
        )

    def joined(self, other: FolderDataset) -> FolderDataset:
        """Return the samples of both, these first, read and normalised as these are."""
        twin = copy.copy(self)
        twin.paths = [*self.paths, *other.paths]
        twin.targets = torch.cat([self.targets, other.targets])
        return twin

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
        first: int = 0,
        share: Share = _ALL,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every sample once; arguments and results as in `ArrayDataset.batches`.

        Raises:
            InputError: If an image cannot be decoded.
        """
        device = torch.device(device)
        order = epoch_order(len(self), shuffle, seed, epoch)
        batches = batch_slices(len(self), batch_size, shuffle)
        groups = _groups(batches, self.channels * self.size**2, augment, first, share)
        rows = [order[group.rows] for group in groups]
        made = [
            chosen if group.made is None else chosen[group.made]
            for chosen, group in zip(rows, groups, strict=True)
        ]
        read = read_batches(
            ([self.paths[i] for i in chosen.tolist()] for chosen in made),
            self.channels,
            self.size,
            min(self.num_workers, usable_cpus()),
            pinned=device.type == "cuda",
            depths=Depths(self.pixel_range),
        )
        with contextlib.closing(read):  # threads end with the epoch, however it ends
            for group, chosen, (pixels, bad) in zip(groups, rows, read, strict=True):
                if bad:
                    raise BadImagesError([what for _, what in bad], MEND)
                key = (seed, epoch, group.number)
                x = pixels.to(device, non_blocking=True)
                with part_of_batch(group.part):
                    x = _finish(x, self.mean, self.std, augment, key, channels_last)
                y = self.targets[chosen].to(device, non_blocking=True)
                yield from group.cut(x, y)

"""Data sets: where they are found, how they are split, and how batches leave them.

`load_dataset` returns `Splits(train, val, test, info)`. Validation always comes from the training
data, by a stratified, seeded split; the test set is the same for every seed. Small data sets stay
on the device as uint8 tensors (`ArrayDataset`); a folder of images that does not fit the memory
budget streams from disk (`FolderDataset`) behind the same `batches` iterator. Order and
augmentation are pure functions of (seed, epoch, position), so a resumed run, and both members
of a pair, see the same batches.

What the named data sets are stands in `catalog`; how their files are read, here (`READERS`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import hashlib
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.augment import build_augment
from spinalnet.catalog import DATASETS as DATASETS
from spinalnet.catalog import DatasetSpec as DatasetSpec
from spinalnet.images import (
    BadImage,
    BadImagesError,
    FoundImages,
    find_bad,
    fit_to,
    has_parts,
    index_folder,
    permission_explained,
    read_all,
    read_batches,
    same_content,
    usable_cpus,
)
from spinalnet.images import iter_images as iter_images

# --- what a data set is ---------------------------------------------------------------------------


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
    """

    name: str
    task: Literal["classification", "regression"]
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes (0 for regression)."""
        return len(self.class_names)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; `test` is for one final evaluation only.

    `left_out` lists the image files that cannot be used: the parts are as if they were not there.
    """

    train: ArrayDataset | FolderDataset
    val: ArrayDataset | FolderDataset
    test: ArrayDataset | FolderDataset
    info: DatasetInfo
    left_out: tuple[BadImage, ...] = ()


# --- batches --------------------------------------------------------------------------------------


def _stream_seed(*key: int | str) -> int:
    """Return a 63-bit seed that differs, without patterns, for every key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _order(num_samples: int, shuffle: bool, seed: int, epoch: int) -> Tensor:
    """Return the order of one epoch; drawn on the CPU so that it is the same on every device."""
    if not shuffle:
        return torch.arange(num_samples)
    generator = torch.Generator().manual_seed(_stream_seed("order", seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def _batch_slices(num_samples: int, batch_size: int, shuffle: bool) -> list[slice]:
    """Cut an epoch into batches of `batch_size`; the last one may be smaller."""
    check_positive("batch_size", batch_size)
    starts = list(range(0, num_samples, batch_size))
    # A single left-over sample has no variance, and batch norm cannot train on it: while
    # shuffling (training) it joins the batch before.
    if shuffle and batch_size > 1 and len(starts) > 1 and num_samples - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num_samples], strict=True)]


# Small batches are augmented several at a time, up to this many values (256 images of 28 x 28): a
# warp costs a fixed amount per call that 64 such images do not outweigh.
_AUGMENT_TOGETHER = 256 * 28 * 28


def _groups(batches: list[slice], values_per_sample: int, augment: str) -> list[list[slice]]:
    """Group neighbouring batches that are made in one go."""
    together = 1
    if augment != "none" and batches:
        values = (batches[0].stop - batches[0].start) * values_per_sample
        together = max(1, _AUGMENT_TOGETHER // values)
    return [batches[start : start + together] for start in range(0, len(batches), together)]


def _cut(x: Tensor, y: Tensor, group: list[slice]) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a group of batches, made in one go, back into its batches."""
    first = group[0].start
    for rows in group:
        yield x[rows.start - first : rows.stop - first], y[rows.start - first : rows.stop - first]


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
        generator = torch.Generator(inputs.device).manual_seed(_stream_seed("augment", *key))
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
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every sample once; order and augmentation depend on (seed, epoch) alone.

        Args:
            batch_size: Samples per batch. The last batch may be smaller; with `shuffle`, a
                single left-over sample joins the batch before it.
            device: Where the samples live and the batches are made.
            shuffle: Whether to draw a new order for this epoch.
            seed: Seed of order and augmentation.
            epoch: Epoch number, part of both streams.
            augment: Augmentation spec, see `spinalnet.augment.build_augment`.
            channels_last: Whether image batches get the channels-last memory format.

        Yields:
            Inputs, float32, normalised, `(B, C, H, W)` or `(B, F)`; targets, `(B,)`.
        """
        inputs, targets = self._resident(torch.device(device))
        order = _order(len(self), shuffle, seed, epoch).to(inputs.device) if shuffle else None
        batches = _batch_slices(len(self), batch_size, shuffle)
        shape = inputs.shape[1:] if self.size is None else (inputs.shape[1], self.size, self.size)
        for number, group in enumerate(_groups(batches, math.prod(shape), augment)):
            rows = slice(group[0].start, group[-1].stop)
            index = rows if order is None else order[rows]
            key = (seed, epoch, number)
            x = inputs[index] if self.size is None else fit_to(inputs[index], self.size)
            x = _finish(x, self.mean, self.std, augment, key, channels_last)
            yield from _cut(x, targets[index], group)


# --- images on disk -------------------------------------------------------------------------------

_MEND = "remove or replace {them}"


def read_image(path: str | os.PathLike[str], info: DatasetInfo) -> Tensor:
    """Read one image file exactly as the images of the data set were made.

    Args:
        path: The image file.
        info: The data set a model was trained on (stored in its checkpoint).

    Returns:
        Pixels, uint8, `info.input_shape`; pass a batch of them through `normalize`.

    Raises:
        InputError: If the file is missing, unreadable, corrupt or not an image.
    """
    pixels, bad = read_images([path], info)
    if bad:
        raise BadImagesError(bad)
    return pixels[0]


def read_images(
    paths: Sequence[str | os.PathLike[str]], info: DatasetInfo
) -> tuple[Tensor, list[BadImage]]:
    """Read image files, on all processors, exactly as the images of the data set were made.

    Args:
        paths: Image files.
        info: The data set a model was trained on (stored in its checkpoint).

    Returns:
        Pixels, uint8, `(N, *info.input_shape)`, of the files that can be used, in their order; and
        the others, each with its reason.
    """
    if len(info.input_shape) != 3:
        raise InputError(f"'{info.name}' holds features, not images, so files cannot be used.")
    pixels, bad = read_all([os.fspath(path) for path in paths], *info.input_shape[:2])
    return _without(pixels, bad), [what for _, what in bad]


def _without(values: Tensor, bad: Sequence[tuple[int, BadImage]]) -> Tensor:
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
        targets: Class indices, `(N,)`.
        channels: 1 (grey) or 3 (RGB).
        size: Height and width of the decoded images.
        mean: Mean per channel on the 0..1 scale; empty for none.
        std: Standard deviation per channel on the 0..1 scale; empty for none.
        num_workers: Threads that decode ahead, at most one per processor; 0 for none.
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
    ) -> None:
        if len(paths) != len(targets):
            raise InputError(
                f"paths and targets must have the same length, got {len(paths)} and {len(targets)}."
            )
        self.paths = [os.fspath(path) for path in paths]  # a Path takes several times the memory
        self.targets = targets.long()
        self.channels = channels
        self.size = size
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.num_workers = num_workers

    def __len__(self) -> int:
        return len(self.paths)

    def normalized_by(self, mean: Sequence[float], std: Sequence[float]) -> FolderDataset:
        """Return the same samples normalised by other constants (those of a trained model)."""
        twin = copy.copy(self)
        twin.mean, twin.std = tuple(mean), tuple(std)
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
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every sample once; arguments and results as in `ArrayDataset.batches`.

        Raises:
            InputError: If an image cannot be decoded.
        """
        device = torch.device(device)
        order = _order(len(self), shuffle, seed, epoch)
        batches = _batch_slices(len(self), batch_size, shuffle)
        groups = _groups(batches, self.channels * self.size**2, augment)
        rows = [order[group[0].start : group[-1].stop] for group in groups]
        read = read_batches(
            ([self.paths[i] for i in chosen.tolist()] for chosen in rows),
            self.channels,
            self.size,
            min(self.num_workers, usable_cpus()),
            pinned=device.type == "cuda",
        )
        with contextlib.closing(read):  # threads end with the epoch, however it ends
            for number, (group, (pixels, bad)) in enumerate(zip(groups, read, strict=True)):
                if bad:
                    raise BadImagesError([what for _, what in bad], _MEND)
                key = (seed, epoch, number)
                x = pixels.to(device, non_blocking=True)
                x = _finish(x, self.mean, self.std, augment, key, channels_last)
                y = self.targets[rows[number]].to(device, non_blocking=True)
                yield from _cut(x, y, group)


# --- stratified choice ----------------------------------------------------------------------------


def _stratified(
    targets: Tensor, total: int, *key: int | str, keep_train: int
) -> tuple[Tensor, Tensor]:
    """Pick `total` indices with every class in proportion; return (picked, rest), sorted.

    Every class gives at least one sample and keeps at least `keep_train`, even where that makes
    the picked ones more or fewer than `total`.
    """
    generator = torch.Generator().manual_seed(_stream_seed(*key))
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
    _, counts = torch.unique(targets, return_counts=True)
    most = counts - keep_train
    ideal = counts.double() * total / len(targets)
    quota = torch.minimum(ideal.floor().long().clamp(min=1), most)
    while quota.sum() < min(total, int(most.sum())):  # the largest remainders get what is left
        quota[torch.where(quota < most, ideal - quota, -torch.inf).argmax()] += 1
    while quota.sum() > max(total, len(counts)):
        quota[torch.where(quota > 1, ideal - quota, torch.inf).argmin()] -= 1
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(targets)) - torch.repeat_interleave(starts, counts)
    chosen = rank < torch.repeat_interleave(quota, counts)
    return by_class[chosen].sort().values, by_class[~chosen].sort().values


# --- reading the named data sets ------------------------------------------------------------------


@dataclass(frozen=True)
class _Arrays:
    """A data set as read into memory, part by part.

    Attributes:
        classes: Class names in label order; empty for a regression.
        parts: (Inputs, targets) of "train" and "test".
        notes: What was found on the way.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[Tensor, Tensor]]
    notes: tuple[str, ...] = ()


def list_datasets() -> list[str]:
    """Return the names `load_dataset` knows besides folders of images."""
    return list(DATASETS)


def _read_digits(spec: DatasetSpec, roots: Sequence[Path]) -> _Arrays:
    """Read scikit-learn's digits."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # 16 grey levels plus zero become 0..255.
    images = (torch.as_tensor(bunch.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    targets = torch.as_tensor(bunch.target).long()
    # The set has no test part of its own: a fifth is set apart, the same one for every seed.
    test, train = _stratified(targets, round(0.2 * len(targets)), "digits test", keep_train=1)
    parts = {part: (images[i], targets[i]) for part, i in (("train", train), ("test", test))}
    return _Arrays(spec.class_names, parts)


def _read_idx(path: Path) -> Tensor:
    """Read an IDX file, gzipped or not, of bytes or 32-bit integers."""
    import numpy as np

    types = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, rank = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{rank}I", raw, 4)
        values = np.frombuffer(raw, types[kind], offset=4 + 4 * rank).reshape(shape)
        if zero != 0:
            raise ValueError("bad magic number")
    except PermissionError:
        raise
    except (OSError, EOFError, ValueError, KeyError, struct.error) as error:
        raise InputError(
            f"'{path}' is not a complete IDX file; delete it and fetch the data again."
        ) from error
    native = values.astype(values.dtype.newbyteorder("="))
    return torch.from_numpy(native)


def _find_idx(spec: DatasetSpec, folders: Iterable[Path]) -> list[Path] | None:
    """Return the four files (images and labels of train and test) from the first full folder."""
    names = [
        f"{p}-{kind}" for p in spec.prefixes for kind in ("images-idx3-ubyte", spec.label_suffix)
    ]
    for folder in folders:
        found = [p for n in names for p in (folder / n, folder / f"{n}.gz") if p.is_file()]
        by_name = {p.name.removesuffix(".gz"): p for p in reversed(found)}
        if len(by_name) == len(names):
            return [by_name[name] for name in names]
    return None


def _read_idx_dataset(spec: DatasetSpec, roots: Sequence[Path]) -> _Arrays | None:
    """Read a data set kept in IDX files."""
    files = _find_idx(spec, roots)
    if files is None:
        return None
    values = [_read_idx(file) for file in files]
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for part, k in (("train", 0), ("test", 2)):
        images, labels = values[k], values[k + 1]
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: class, then its origin
        if images.ndim != 3 or len(images) != len(labels) or len(images) == 0:
            raise InputError(
                f"'{files[k]}' and '{files[k + 1]}' must hold the same number of images and "
                f"labels, got shapes {tuple(images.shape)} and {tuple(labels.shape)}."
            )
        labels = labels.long() - spec.first_label
        if labels.min() < 0 or labels.max() >= len(spec.class_names):
            raise InputError(
                f"'{files[k + 1]}' must hold labels of {len(spec.class_names)} classes from "
                f"{spec.first_label} on; these are not the files of '{spec.name}'."
            )
        if spec.transposed:
            images = images.transpose(1, 2)
        parts[part] = images[:, None].contiguous(), labels
    notes = ("The files hold the images transposed; here they are upright.",)
    return _Arrays(spec.class_names, parts, notes if spec.transposed else ())


def _find_path(spec: DatasetSpec, roots: Sequence[Path]) -> Path | None:
    """Return the first of the row's paths that is there."""
    return next((r / path for r in roots for path in spec.paths if (r / path).exists()), None)


def _make_torchvision(spec: DatasetSpec, root: Path, train: bool, download: bool) -> Any:
    """Make the torchvision object of one part; it checks the files' checksums."""
    from torchvision import datasets

    by_name = {"split": "train" if train else "test"}
    asks_by_name = spec.torchvision_name in ("SVHN", "STL10", "Flowers102")
    part: dict[str, Any] = by_name if asks_by_name else {"train": train}
    if spec.torchvision_name == "Caltech101":
        part = {}  # it has no parts
    make: Callable[..., Any] = getattr(datasets, str(spec.torchvision_name))
    return make(root, **part, download=download, **dict(spec.torchvision_options))


def _read_torchvision(spec: DatasetSpec, roots: Sequence[Path]) -> _Arrays | None:
    """Read a data set that torchvision holds as one array of images."""
    found = _find_path(spec, roots)
    if found is None:
        return None
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    classes = spec.class_names
    for part in ("train", "test"):
        try:
            held = _make_torchvision(spec, found.parent, part == "train", download=False)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"the files of '{spec.name}' in '{found.parent}' are incomplete or damaged; delete "
                "them and fetch them again."
            ) from error
        images = torch.as_tensor(held.data)
        if images.shape[-1] == 3:  # CIFAR: channels last
            images = images.permute(0, 3, 1, 2)
        labels = held.targets if hasattr(held, "targets") else held.labels
        parts[part] = images.contiguous(), torch.as_tensor(labels).long()
        classes = classes or tuple(held.classes)
    return _Arrays(classes, parts)


def _read_flowers(spec: DatasetSpec, roots: Sequence[Path]) -> FoundImages | None:
    """List the photographs of Flowers-102 with the authors' three parts."""
    from scipy.io import loadmat

    found = _find_path(spec, roots)
    if found is None:
        return None
    try:
        rows = loadmat(found / "setid.mat", squeeze_me=True)
        labels = torch.as_tensor(loadmat(found / "imagelabels.mat", squeeze_me=True)["labels"])
        numbers = {
            part: torch.as_tensor(rows[key]).long()
            for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        }
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InputError(
            f"'{found}' must hold jpg/, setid.mat and imagelabels.mat of Flowers-102; delete it "
            "and fetch it again."
        ) from error
    parts = {
        part: (
            [str(found / "jpg" / f"image_{number:05d}.jpg") for number in chosen.tolist()],
            labels[chosen - 1].long() - 1,
        )
        for part, chosen in numbers.items()
    }
    return FoundImages(spec.class_names, parts)


def _read_folder(spec: DatasetSpec, roots: Sequence[Path]) -> FoundImages | None:
    """List the images of a data set that lies as a folder: one below the roots, or a root."""
    found = _find_path(spec, roots) or next(
        (root for root in roots if root.is_dir() and has_parts(root)), None
    )
    return None if found is None else index_folder(found, spec.exclude)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "regression-product": lambda x: x.prod(1, keepdim=True),
    "regression-sin-product": lambda x: x.prod(1, keepdim=True).sin(),
    "regression-sum": lambda x: x.sum(1, keepdim=True),
    "regression-sin-sum": lambda x: x.sum(1, keepdim=True).sin(),
}


def _draw_regression(spec: DatasetSpec, roots: Sequence[Path]) -> _Arrays:
    """Draw a regression set of the paper: its 1,000 samples, and fresh ones to test on."""
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for (part, count), seed in zip(
        (("train", spec.sizes[0]), ("test", spec.sizes[1])), (0, _stream_seed("fresh")), strict=True
    ):
        generator = torch.Generator().manual_seed(seed)
        # Paper: eight separate draws after seed 0, then the noise.
        columns = [torch.randn(count, 1, generator=generator) for _ in range(spec.image_shape[0])]
        inputs = torch.cat(columns, 1)
        # Paper: noise of shape (count,) spreads over a (count, 1) target; the shape here does not.
        noise = 0.2 * torch.rand(count, 1, generator=generator)
        parts[part] = inputs, _FUNCTIONS[spec.name](inputs) + noise
    return _Arrays((), parts)


READERS: dict[str, Callable[[DatasetSpec, Sequence[Path]], _Arrays | FoundImages | None]] = {
    "digits": _read_digits,
    "idx": _read_idx_dataset,
    "torchvision": _read_torchvision,
    "flowers": _read_flowers,
    "folder": _read_folder,
    "regression": _draw_regression,
}


def _roots(spec: DatasetSpec, data_dir: Path | None) -> list[Path]:
    """Return the folders that the files of a data set may lie in."""
    root = data_dir or _default_cache()
    name = spec.torchvision_name
    below = [root, root / "raw", *([root / name / "raw", root / name] if name else [])]
    return below if data_dir else [*below, *map(Path, spec.system_dirs)]


def is_present(spec: DatasetSpec, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Return whether the files of a data set are there, without reading them."""
    roots = _roots(spec, None if data_dir is None else Path(data_dir).expanduser())
    if spec.reader in ("digits", "regression"):
        return True
    if spec.reader == "idx":
        return _find_idx(spec, roots) is not None
    has_root = spec.reader == "folder" and data_dir is not None and has_parts(roots[0])
    return has_root or _find_path(spec, roots) is not None


def check_present(
    spec: DatasetSpec,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool | None = None,
) -> None:
    """Fetch a data set that is missing, if that is allowed and possible.

    Args:
        spec: The data set.
        data_dir: As in `load_dataset`.
        download: As in `load_dataset`.

    Raises:
        InputError: If it is missing still; the sentence says how to get it.
    """
    if is_present(spec, data_dir):
        return
    root = None if data_dir is None else Path(data_dir).expanduser()
    allowed = root is None if download is None else download
    if allowed and spec.torchvision_name is not None:
        _download(spec, root or _default_cache())
        return
    roots = _roots(spec, root)
    places = ", ".join(map(str, roots if spec.reader == "idx" else roots[:1]))
    ways = "pass the folder that holds them (--data-dir)"
    if spec.reader == "idx":
        ways = "pass the folder that holds its IDX files (--data-dir)"
    if spec.torchvision_name is not None:
        ways += ", or download it (--download)"
    raise InputError(
        f"no files of '{spec.name}' found in {places}; "
        + "; ".join(filter(None, [ways, spec.hint]))
        + "."
    )


def _download(spec: DatasetSpec, root: Path) -> None:
    """Fetch and check the files of a data set with torchvision's own downloader."""
    for train in (True, False):
        try:
            _make_torchvision(spec, root, train, download=True)
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            hint = f"; {spec.hint}" if spec.hint else ""
            reason = str(error).splitlines()[0]
            kind = "IDX files" if spec.reader == "idx" else "files"
            raise InputError(
                f"downloading '{spec.name}' to '{root}' failed ({reason}); check the network, or "
                f"copy its {kind} there and pass that folder as data_dir (--data-dir){hint}."
            ) from error


def _default_cache() -> Path:
    """Return the package's own data folder, where downloads go unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spinalnet" / "data"


# --- folders of images ----------------------------------------------------------------------------

_FOLDER_SIZE = 64  # default height and width: small enough to train on two cores
_TEST_FRACTION = 0.2
_STATISTICS_IMAGES = 512  # enough for two digits of mean and std when a folder is streamed


def _channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images, on the 0..1 scale."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        centre = (share * levels).sum()
        spread = (share * (levels - centre) ** 2).sum().sqrt()
        mean.append(round(centre.item(), 4))
        # A folder of blank images has no spread; one grey level keeps the division harmless.
        std.append(round(max(spread.item(), 1 / 255), 4))
    return tuple(mean), tuple(std)


@dataclass(frozen=True)
class _Pool:
    """A data set before validation is split off."""

    info: DatasetInfo
    train: ArrayDataset | FolderDataset
    test: ArrayDataset | FolderDataset
    val: ArrayDataset | FolderDataset | None
    val_fraction: float
    left_out: tuple[BadImage, ...] = ()


def _usable(
    found: FoundImages, bad: dict[str, list[tuple[int, BadImage]]], on_bad_image: str
) -> FoundImages:
    """Return `found` without the files that cannot be used, or refuse them all in one report."""
    files = [what for rows in bad.values() for _, what in rows]
    if not files:
        return found
    if on_bad_image == "error":
        raise BadImagesError(files, f"{_MEND}, or leave such files out (--on-bad-image skip)")
    total = sum(len(paths) for paths, _ in found.parts.values())
    parts = {}
    for part, (paths, targets) in found.parts.items():
        left_out = {row for row, _ in bad[part]}
        kept = [path for row, path in enumerate(paths) if row not in left_out]
        parts[part] = kept, _without(targets, bad[part])
    named = ", ".join(f"'{path}'" for path, _ in files[:3])
    more = f" and {len(files) - 3} more (bad-images.txt lists all)" if len(files) > 3 else ""
    note = f"{len(files)} of {total} image files cannot be used and are left out: {named}{more}."
    return FoundImages(found.classes, parts, (*found.notes, note))


def _check_classes(found: FoundImages) -> list[str]:
    """Check that every class can be split; return notes on parts without some class."""
    notes = []
    counts = {
        part: torch.bincount(targets, minlength=len(found.classes)).tolist()
        for part, (_, targets) in found.parts.items()
    }
    for part, numbers in counts.items():
        missing = [name for name, n in zip(found.classes, numbers, strict=True) if n == 0]
        if missing and part != "train":
            notes.append(f"The {part} part has no images of {', '.join(missing)}.")
    needed = 1 if "val" in counts else 2 if "test" in counts else 3
    for name, number in zip(found.classes, counts["train"], strict=True):
        if number < needed:
            raise InputError(
                f"class '{name}' has {number} training image(s), but {needed} are needed to split "
                "it; add images or remove the class folder."
            )
    return notes


def _leak_notes(data: dict[str, ArrayDataset | FolderDataset]) -> list[str]:
    """Return a note if test images stand among those that training and its choices see."""
    seen = [path for part, source in data.items() if part != "test" for path in source.paths]
    twins = same_content(seen, data["test"].paths)
    if not twins:
        return []
    return [
        f"{len(twins)} of the {len(data['test'])} test images are also in train or val, byte for "
        f"byte ('{twins[0][1]}' is '{twins[0][0]}'): the test result flatters."
    ]


def _load_files(
    name: str,
    found: FoundImages,
    image_size: int | None,
    in_channels: int | None,
    memory_budget: int,
    num_workers: int,
    on_bad_image: str,
) -> _Pool:
    """Make a pool of image files, in memory if they fit."""
    _check_classes(found)  # before the reading, which can take long, and again after it
    size, channels = image_size or _FOLDER_SIZE, in_channels or 3
    needed = sum(len(paths) for paths, _ in found.parts.values()) * channels * size * size
    bad: dict[str, list[tuple[int, BadImage]]] = {}
    pixels: dict[str, Tensor] = {}
    for part, (paths, _) in found.parts.items():
        if needed <= memory_budget:
            pixels[part], bad[part] = read_all(paths, channels, size)
            pixels[part] = _without(pixels[part], bad[part])
        else:
            # What is left out must be known before the first epoch, so then all is decoded once.
            bad[part] = find_bad(paths, thorough=on_bad_image == "skip")
    found = _usable(found, bad, on_bad_image)
    notes = [*found.notes, *_check_classes(found)]
    data: dict[str, ArrayDataset | FolderDataset] = {
        part: ArrayDataset(pixels[part], targets, paths=paths)
        if pixels
        else FolderDataset(paths, targets, channels, size, num_workers=num_workers)
        for part, (paths, targets) in found.parts.items()
    }
    if "test" not in data:
        whole = data["train"]
        total = round(_TEST_FRACTION * len(whole))
        test, train = _stratified(whole.targets, total, "test", keep_train=2)
        data = {"train": whole.subset(train), "test": whole.subset(test)}
        notes.append(
            f"The folder has no test part: {len(test)} of its {len(whole)} images, the same for "
            "every seed, are set apart as the test set."
        )
    notes += _leak_notes(data)
    notes.append(
        f"Images are cut to their centre square and resized to {size}x{size}"
        + ("." if image_size else " (choose with image_size, --image-size).")
    )
    train = data["train"]
    if isinstance(train, ArrayDataset):
        sample = train.inputs
    else:
        notes.append(
            f"Images stream from disk: decoded they need {needed / 2**30:.1f} GiB, more than the "
            f"memory budget of {memory_budget / 2**30:.1f} GiB."
        )
        chosen = train.paths[:: max(1, len(train) // _STATISTICS_IMAGES)]
        sample, unreadable = read_all(chosen, channels, size)
        if unreadable:
            raise BadImagesError([what for _, what in unreadable], _MEND)
    mean, std = _channel_statistics(sample)
    info = DatasetInfo(
        name, "classification", found.classes, (channels, size, size), mean, std, tuple(notes)
    )
    data = {part: source.normalized_by(mean, std) for part, source in data.items()}
    files = tuple(what for rows in bad.values() for _, what in rows)
    return _Pool(info, data["train"], data["test"], data.get("val"), 0.1, files)


# --- the door -------------------------------------------------------------------------------------


def _suspicions(spec: DatasetSpec, train_images: Tensor, test_images: Tensor) -> list[str]:
    """Say what speaks against the files being those of `spec`.

    MNIST, Fashion-MNIST and KMNIST have the same file names, so a wrong folder reads smoothly.
    """
    notes = []
    sizes = (len(train_images), len(test_images))
    if sizes != spec.sizes:
        notes.append(
            f"The files hold {sizes[0]} training and {sizes[1]} test images; the full set has "
            f"{spec.sizes[0]} and {spec.sizes[1]}."
        )
    mean = _channel_statistics(train_images)[0][0]
    if abs(mean - spec.mean[0]) > 0.01:
        notes.append(
            f"The training images have mean {mean}, where '{spec.name}' has {spec.mean[0]}; check "
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


def _load_arrays(
    spec: DatasetSpec,
    files: _Arrays,
    image_size: int | None,
    in_channels: int | None,
    memory_budget: int,
) -> _Pool:
    """Make a pool of a named data set that is in memory."""
    (train_x, train_y), (test_x, test_y) = (files.parts[part] for part in ("train", "test"))
    if spec.reader == "regression":
        shape = tuple(train_x.shape[1:])
        info = DatasetInfo(spec.name, "regression", (), shape, (), (), spec.notes)
        train, test = ArrayDataset(train_x, train_y), ArrayDataset(test_x, test_y)
        return _Pool(info, train, test, None, spec.val_fraction)
    notes = [*_suspicions(spec, train_x, test_x), *files.notes, *spec.notes]
    native, size = train_x.shape[-1], image_size or train_x.shape[-1]
    channels = in_channels or train_x.shape[1]
    mean, std = spec.mean, spec.std
    if channels != train_x.shape[1]:
        train_x, test_x = _to_channels(train_x, channels), _to_channels(test_x, channels)
        mean, std = (mean * 3, std * 3) if channels == 3 else _channel_statistics(train_x)
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
    info = DatasetInfo(spec.name, "classification", files.classes, shape, mean, std, tuple(notes))
    return _Pool(info, train, test, None, spec.val_fraction)


def _resolve_folder(spec: str, data_dir: Path | None) -> Path:
    """Return the folder of images that `spec` names, alone or below `data_dir`."""
    folder = Path(spec).expanduser()
    if data_dir is not None and not folder.exists() and (data_dir / spec).is_dir():
        return data_dir / spec
    looks_like_path = folder.exists() or len(folder.parts) != 1 or spec.startswith((".", "~"))
    if not looks_like_path:
        raise InputError(
            f"{unknown_name('dataset', spec, DATASETS)} A folder of images is given by its path; "
            "there is none of this name."
        )
    return folder


def load_dataset(
    spec: str | os.PathLike[str] | DatasetSpec,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    *,
    image_size: int | None = None,
    in_channels: Literal[1, 3] | None = None,
    val_fraction: float | None = None,
    limit: int | None = None,
    download: bool | None = None,
    memory_budget: int = 2 * 2**30,
    num_workers: int = 16,
    on_bad_image: Literal["error", "skip"] = "error",
) -> Splits:
    """Load a data set and split it into a training, a validation and a test part.

    The test part is the data set's own, or one set apart that is the same for every seed.
    Validation comes from the training images, stratified, by `seed`.

    Args:
        spec: A name from `list_datasets()`, a row such as `DATASETS["mnist"]`, or the path of a
            folder of images: `DIR/<class>/*`, or `DIR/train/<class>/*` with `val` and `test`
            beside it or not. With `train` and `val` alone, `val` is the test set.
        data_dir: Where a named data set's files are (`DIR`, `DIR/raw` or
            `DIR/<torchvision name>/raw`), or where a relative folder of images is.
        seed: Seed of the validation split and of `limit`.
        image_size: Height and width; by default the native size, 64 for folders.
        in_channels: 1 for grey, 3 for colour; by default as the data set is, 3 for folders.
        val_fraction: Share of the training images used for validation; by default the data set's
            own (a tenth for most). Without effect on a folder with its own `val` and `test`.
        limit: Train on this many images only, in the classes' proportions.
        download: Whether missing files may be fetched; by default only if `data_dir` is not given,
            into the package's cache folder.
        memory_budget: Bytes of decoded images up to which a folder is held in memory.
        num_workers: Threads that decode a folder that is not; at most one per processor.
        on_bad_image: Whether image files that cannot be used are refused, all in one report, or
            left out as if they were not there, and listed in `Splits.left_out`. Where images
            stream from disk, "error" looks at the beginning and the end of every file, and a fault
            in between is met in training; "skip" decodes every file once.

    Returns:
        The splits. `info.notes` says in sentences what a reader of results must know.

    Raises:
        InputError: If the data set is unknown, missing, incomplete, corrupt or cannot be split.

    Example:
        >>> splits = load_dataset("digits")
        >>> len(splits.train), len(splits.val), len(splits.test)
        (1222, 216, 359)
    """
    if image_size is not None:
        check_positive("image_size", image_size)
    if in_channels not in (None, 1, 3):
        raise InputError(f"in_channels must be 1 or 3, got {in_channels!r}.")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must be between 0 and 1, got {val_fraction!r}.")
    if on_bad_image not in ("error", "skip"):
        raise InputError(f"on_bad_image must be error or skip, got {on_bad_image!r}.")
    root = None if data_dir is None else Path(data_dir).expanduser()
    row = spec if isinstance(spec, DatasetSpec) else DATASETS.get(os.fspath(spec), spec)
    with permission_explained():
        if isinstance(row, DatasetSpec):
            check_present(row, root, download=download)
            name, files = row.name, READERS[row.reader](row, _roots(row, root))
        else:
            folder = _resolve_folder(os.fspath(row), root)
            name, files = folder.resolve().name, index_folder(folder)
        if files is None:  # the folder was there, but not all that belongs in it
            raise InputError(f"the files of '{name}' are incomplete; fetch them again.")
        if isinstance(files, FoundImages):
            if isinstance(row, DatasetSpec):
                files = replace(files, notes=(*files.notes, *row.notes))
            pool = _load_files(
                name, files, image_size, in_channels, memory_budget, num_workers, on_bad_image
            )
        else:
            assert isinstance(row, DatasetSpec)
            pool = _load_arrays(row, files, image_size, in_channels, memory_budget)

    train, val = pool.train, pool.val
    # A regression has no classes to keep in proportion: one class of all.
    strata = torch.zeros(len(train)) if pool.info.task == "regression" else train.targets
    if val is None:
        total = round((val_fraction or pool.val_fraction) * len(train))
        rows, rest = _stratified(strata, total, "val", seed, keep_train=1)
        train, val, strata = train.subset(rest), train.subset(rows), strata[rest]
    info = pool.info
    if limit is not None and limit < len(train):
        check_positive("limit", limit)
        if limit < info.num_classes:
            raise InputError(
                f"limit must leave an image of each of the {info.num_classes} classes, got {limit}."
            )
        rows, _ = _stratified(strata, limit, "limit", seed, keep_train=0)
        note = f"Training uses {limit} of {len(train)} images; validation and test are complete."
        train, info = train.subset(rows), replace(info, notes=(*info.notes, note))
    return Splits(train, val, pool.test, info, pool.left_out)

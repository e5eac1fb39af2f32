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

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.data.batches import _MEND, ArrayDataset, DatasetInfo, FolderDataset, Splits, _without
from spinalnet.data.catalog import DATASETS, DatasetSpec
from spinalnet.data.images import (
    BadImage,
    BadImagesError,
    FoundImages,
    find_bad,
    fit_to,
    index_folder,
    permission_explained,
    read_all,
    same_content,
)
from spinalnet.data.order import stratified
from spinalnet.data.readers import READERS, _roots, check_present

if TYPE_CHECKING:
    from spinalnet.data.readers import _Arrays


def list_datasets() -> list[str]:
    """Return the names `load_dataset` knows besides folders of images."""
    return list(DATASETS)


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
        test, train = stratified(whole.targets, total, "test", keep_train=2)
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
        rows, rest = stratified(strata, total, "val", seed, keep_train=1)
        train, val, strata = train.subset(rest), train.subset(rows), strata[rest]
    info = pool.info
    if limit is not None and limit < len(train):
        check_positive("limit", limit)
        if limit < info.num_classes:
            raise InputError(
                f"limit must leave an image of each of the {info.num_classes} classes, got {limit}."
            )
        rows, _ = stratified(strata, limit, "limit", seed, keep_train=0)
        note = f"Training uses {limit} of {len(train)} images; validation and test are complete."
        train, info = train.subset(rows), replace(info, notes=(*info.notes, note))
    return Splits(train, val, pool.test, info, pool.left_out)

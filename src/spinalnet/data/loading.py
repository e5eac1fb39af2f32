"""From what is asked (`DataSpec`) to `Splits(train, val, test, info)`.

Validation always comes from the training data, by a stratified, seeded split; the test set is the
same for every seed, unless a `Resample` draws it anew from all examples. Small data sets stay on
the device as uint8 tensors (`ArrayDataset`); a folder of images that does not fit the memory budget
streams from disk (`FolderDataset`) behind the same `batches` iterator. Order and augmentation are
pure functions of (seed, epoch, position), so a resumed run, and both members of a pair, see the
same batches.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError, check_positive, some, unknown_name
from spinalnet.data import doubles, parts, readers
from spinalnet.data.batches import (
    MEND,
    ArrayDataset,
    DatasetInfo,
    FolderDataset,
    Splits,
    Units,
    without,
)
from spinalnet.data.catalog import DATASETS, DatasetRow
from spinalnet.data.depths import Depths, PixelRange, check_range
from spinalnet.data.folders import FoundImages, index_folder, index_labelled, permission_explained
from spinalnet.data.frames import BUNDLED
from spinalnet.data.images import BadImage, BadImagesError, find_bad, fit_to, read_all
from spinalnet.data.labels import TASKS, Labels, Task, find_labelled
from spinalnet.data.resampling import Resample
from spinalnet.texts import shown


@dataclass(frozen=True)
class DataSpec:
    """Which data, at which size.

    Attributes:
        name: Name of a data set, or the path of a folder of images.
        data_dir: Where a named data set's files are (`DIR`, `DIR/raw` or
            `DIR/<torchvision name>/raw`), or where a relative folder of images is.
        image_size: Side in pixels that images are brought to; `None` for the data's own, 64 for
            folders, or the model's where the data's is too small for it.
        in_channels: 1 for grey, 3 for colour; `None` for the data's own, 3 for folders.
        limit: Train on this many examples only, in the classes' proportions.
        on_bad_image: Whether image files that cannot be used are refused ("error"), all in one
            report, or left out as if they were not there ("skip").
        resample: Draw the test part from all examples; None for the data's own test part.
        group: A regular expression over the paths of image files below the data's folder (see
            `parts.groups_of`): what it matches is the group, of which all lie in one part. With
            `labels` it may be a column of theirs.
        ignore: Names of files and folders that are left out of a folder of images, comma separated;
            "*" stands for any text: "test,*_mask.png".
        on_duplicate: Whether pictures that are there twice are told ("keep"), or left out ("skip")
            by the rule that stands in `copies`.
        labels: A table that says what is to be predicted of which image of the folder; see
            `labels.Labels` for this and the following.
        image_column: Its column that names the files.
        label_column: Its column of labels.
        split_column: Its column of parts: train, val, test.
        task: "classification", "regression", or "auto".
        pixel_range: Values that become black and white in image files with more than 8 bits per
            channel; None for 0 and 65535 of 16-bit files (see `data.depths`).

    Raises:
        InputError: If a value is impossible.
    """

    name: str
    data_dir: str | None = None
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    limit: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    resample: Resample | None = None
    group: str | None = None
    ignore: str | None = None
    on_duplicate: Literal["keep", "skip"] = "keep"
    labels: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    task: Task = "auto"
    pixel_range: PixelRange | None = None

    def __post_init__(self) -> None:
        for name in ("name", "data_dir"):  # two ways to write a path are one request
            if str(getattr(self, name)).startswith("~"):
                object.__setattr__(self, name, str(files.expanded(getattr(self, name))))
        self._check_labels()
        for name in ("image_size", "limit"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.in_channels not in (None, 1, 3):
            raise InputError(f"in_channels must be 1 or 3, got {self.in_channels!r}.")
        if self.on_bad_image not in ("error", "skip"):
            raise InputError(f"on_bad_image must be error or skip, got {self.on_bad_image!r}.")
        if self.on_duplicate not in ("keep", "skip"):
            raise InputError(f"on_duplicate must be keep or skip, got {self.on_duplicate!r}.")
        check_range(self.pixel_range)
        if self.group is not None and self.labels is None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise InputError(
                    f"group must be a regular expression, such as 'patient(\\d+)', got "
                    f"'{self.group}': {error}."
                ) from error

    def _check_labels(self) -> None:
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        if self.labels is not None:
            object.__setattr__(self, "labels", os.fspath(self.labels))  # as a file holds it
            if self.row is not None:
                raise InputError(
                    f"labels belong to a folder of images, and '{self.name}' is a data set with "
                    "its own: leave them out, or give the folder."
                )
            return
        given = [f"{name}={getattr(self, name)}" for name in _OF_LABELS if getattr(self, name)]
        if self.task != "auto":
            given.append(f"task={self.task}")
        if given:
            raise InputError(
                f"{given[0]} says how labels=TABLE is read, which is not given: name the table, or "
                f"leave out {given[0].partition('=')[0]}."
            )

    @property
    def ignored(self) -> tuple[str, ...]:
        """The patterns in `ignore`."""
        return tuple(filter(None, map(str.strip, (self.ignore or "").split(","))))

    @property
    def row(self) -> DatasetRow | None:
        """The row of `DATASETS`; None if this is a folder."""
        return DATASETS.get(self.name)


_OF_LABELS = ("image_column", "label_column", "split_column")


def list_datasets() -> list[str]:
    """Return the names `load_dataset` knows besides folders of images."""
    return list(DATASETS)


_FOLDER_SIZE = 64  # default height and width: small enough to train on two cores
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


def _usable(
    found: FoundImages, bad: dict[str, list[tuple[int, BadImage]]], on_bad_image: str
) -> FoundImages:
    """Return `found` without the files that cannot be used, or refuse them all in one report."""
    files = [what for rows in bad.values() for _, what in rows]
    if not files:
        return found
    if on_bad_image == "error":
        raise BadImagesError(files, f"{MEND}, or leave such files out with on_bad_image=skip")
    total = sum(len(paths) for paths, _ in found.parts.values())
    usable = {}
    for part, (paths, targets) in found.parts.items():
        left_out = {row for row, _ in bad[part]}
        kept = [path for row, path in enumerate(paths) if row not in left_out]
        usable[part] = kept, without(targets, bad[part])
    if len(files) == total:
        raise InputError(
            f"none of the {total} image files can be used: '{shown(files[0].path)}' "
            f"{files[0].reason}{', and so on' * (total > 1)}."
        )
    named = ", ".join(f"'{shown(path)}'" for path, _ in files[:3])
    more = f" and {len(files) - 3} more (bad-images.txt lists all)" if len(files) > 3 else ""
    note = f"{len(files)} of {total} image files cannot be used and are left out: {named}{more}."
    return replace(found, parts=usable, notes=(*found.notes, note))


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
            called = found.names.get(part, part)
            called = "" if called.lower() == part else f" ({called}/)"
            notes.append(f"The {part} part{called} has no images of {', '.join(missing)}.")
    needed = 1 if "val" in counts else 2 if "test" in counts else 3
    few = [(c, n) for c, n in zip(found.classes, counts["train"], strict=True) if n < needed]
    if few:
        said = some([f"'{name}' has {number}" for name, number in few], 20)
        said = (
            f"class {said} training image(s)"
            if len(few) == 1
            else (f"{len(few)} classes have too few training images ({said})")
        )
        raise InputError(
            f"{said}, but {needed} are needed to split {'it' if len(few) == 1 else 'them'}; add "
            f"images or remove the class folder{'s' * (len(few) > 1)}."
        )
    return notes


def _check_found(found: FoundImages, spec: DataSpec) -> tuple[list[str], dict[str, np.ndarray]]:
    """See that the files can be divided; return notes, and the groups of every part if any."""
    paths = {part: paths for part, (paths, _) in found.parts.items()}
    groups = parts.grouped_by_part(paths, found.folder, spec.group, found.groups)
    notes = _check_classes(found) if found.classes else []
    if "test" not in found.parts:
        parts.divide(found.parts["train"][1], found.classes, spec.resample, groups.get("train"))
    return notes, groups


def _read_files(
    found: FoundImages,
    spec: DataSpec,
    size: int,
    channels: int,
    streamed_by: int | None,
    depths: Depths,
) -> tuple[FoundImages, dict[str, parts.Part], tuple[BadImage, ...]]:
    """Read the files, or see that they can be read where so many threads stream them.

    Returns:
        The files that can be used, the parts of them, and the others.
    """
    bad: dict[str, list[tuple[int, BadImage]]] = {}
    pixels: dict[str, Tensor] = {}
    for part, (paths, _) in found.parts.items():
        if streamed_by is None:
            pixels[part], bad[part] = read_all(paths, channels, size, depths)
            pixels[part] = without(pixels[part], bad[part])
        else:
            # What is left out must be known before the first epoch, so then all is decoded once.
            bad[part] = find_bad(paths, thorough=spec.on_bad_image == "skip", depths=depths)
    found = _usable(found, bad, spec.on_bad_image)
    data: dict[str, parts.Part] = {
        part: ArrayDataset(pixels[part], targets, paths=paths)
        if streamed_by is None
        else FolderDataset(paths, targets, channels, size, (), (), streamed_by, spec.pixel_range)
        for part, (paths, targets) in found.parts.items()
    }
    return found, data, tuple(what for rows in bad.values() for _, what in rows)


def _load_files(
    name: str, found: FoundImages, spec: DataSpec, memory_budget: int, num_workers: int
) -> parts.Pool:
    """Make a pool of image files, in memory if they fit."""
    brought = tuple(found.parts)
    found = found if spec.resample is None else found.pooled()
    _check_found(found, spec)  # before the reading, which can take long, and again after it
    size, channels = spec.image_size or _FOLDER_SIZE, spec.in_channels or 3
    needed = sum(len(paths) for paths, _ in found.parts.values()) * channels * size * size
    streamed = needed > memory_budget
    depths = Depths(spec.pixel_range)
    streamed_by = num_workers if streamed else None
    found, data, files = _read_files(found, spec, size, channels, streamed_by, depths)
    pixel_range = depths.settled()
    found, settled = _settle_copies(found, data, spec, pixel_range)
    data, files = settled.data, (*files, *settled.left_out)
    checked, groups = _check_found(found, spec)
    notes, of_train, rows = [*found.notes, *checked], groups.get("train"), None
    if "test" not in data:
        whole = data["train"]
        drawn = parts.divide(whole.targets, found.classes, spec.resample, of_train)
        data = drawn.of(whole)
        notes.append(parts.divided_note(spec.resample, brought, len(whole), len(drawn.test)))
        notes += parts.absent_notes(data["test"], found.classes) if found.classes else []
        if spec.resample is not None:
            rows = torch.from_numpy(drawn.test)
        elif spec.on_duplicate == "keep":
            notes += doubles.settle_parts(data, pixel_range, skip=False, given=False).notes
        of_train = None if of_train is None else of_train[drawn.train]
    notes += settled.notes
    notes += parts.group_notes(spec.group, groups)
    notes.append(
        f"Images are cut to their centre square and resized to {size}x{size}"
        + ("." if spec.image_size else " (choose with image_size).")
    )
    if found.classes:
        notes += parts.imbalance_notes(data["train"].targets, found.classes)
    if streamed:
        notes.append(
            f"Images stream from disk: decoded they need {needed / 2**30:.1f} GiB, more than the "
            f"memory budget of {memory_budget / 2**30:.1f} GiB."
        )
    if pixel_range is not None and not depths.any_deep:
        notes.append(
            "The pixel range changes nothing here: no file has more than 8 bits per channel."
        )
    elif pixel_range is not None:
        low, high = pixel_range
        notes.append(
            f"In files with more than 8 bits per channel {_in_digits(low)} becomes black and "
            f"{_in_digits(high)} white."
        )
        if depths.beyond:
            notes.append(
                f"Values outside of it are cut off in {len(depths.beyond)} of the files, in the "
                f"worst {max(depths.beyond):.2g} % of them: a wider pixel range keeps them."
            )
    mean, std = _channel_statistics(_sample(data["train"], channels, size))
    task = "classification" if found.classes else "regression"
    shape = channels, size, size
    more = {"notes": tuple(notes), "pixel_range": pixel_range}
    info = DatasetInfo(name, task, found.classes, shape, mean, std, **more)
    data = {part: source.normalized_by(mean, std) for part, source in data.items()}
    return parts.Pool(
        *(info, data["train"], data["test"], data.get("val"), 0.1, files, of_train, rows),
        unused=found.unused.listing(),
        copies=settled.copies,
    )


def _in_digits(value: float) -> str:
    """Return a pixel value as people write it: 2000000, not 2e+06."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:g}"


def _settle_copies(
    found: FoundImages, data: dict[str, parts.Part], spec: DataSpec, pixel_range: PixelRange | None
) -> tuple[FoundImages, doubles.Settled]:
    """Look for pictures that are there twice; return what is left, as files and as parts."""
    skip, redrawn = spec.on_duplicate == "skip", spec.resample is not None
    if "test" in data:
        settled = doubles.settle_parts(data, pixel_range, skip=skip)
    else:
        groups = _check_found(found, spec)[1].get("train")
        settled = doubles.settle_whole(
            data["train"], pixel_range, skip=skip, redrawn=redrawn, groups=groups
        )
    left = {part: (list(source.paths), source.targets) for part, source in settled.data.items()}
    return replace(found, parts=left), settled


def _sample(train: parts.Part, channels: int, size: int) -> Tensor:
    """Return pixels that stand for those of a part, which may lie in files."""
    if isinstance(train, ArrayDataset):
        return train.inputs
    chosen = train.paths[:: max(1, len(train) // _STATISTICS_IMAGES)]
    pixels, unreadable = read_all(chosen, channels, size, Depths(train.pixel_range))
    if unreadable:
        raise BadImagesError([what for _, what in unreadable], MEND)
    return pixels


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
    mean = _channel_statistics(train_images)[0][0]
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


def _load_arrays(
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


def _refuse_of_files(spec: DataSpec, row: DatasetRow) -> None:
    """Refuse what has a meaning for folders of images alone."""
    if spec.ignored:
        raise InputError(
            f"ignore names files of a folder of images, not of '{row.name}': leave it out."
        )
    if spec.on_duplicate == "skip" and row.reader not in ("folder", "flowers"):
        raise InputError(
            f"on_duplicate compares image files, and '{row.name}' has none: leave it out."
        )


def find_folder(spec: DataSpec) -> Path:
    """Return the folder of images that is asked for, alone or below `data_dir`.

    Raises:
        InputError: If a bare name is neither a data set nor a folder.
    """
    folder = Path(spec.name).expanduser()
    if spec.data_dir is not None and not folder.exists():
        below = Path(spec.data_dir).expanduser() / spec.name
        if below.is_dir():
            return below
    looks_like_path = folder.exists() or len(folder.parts) != 1 or spec.name.startswith((".", "~"))
    if not looks_like_path:
        if spec.name in BUNDLED:
            raise InputError(
                f"'{spec.name}' is a table that comes with scikit-learn: sklearn:{spec.name}."
            )
        raise InputError(
            f"{unknown_name('dataset', spec.name, DATASETS)} A folder of images is given by its "
            "path; there is none of this name."
        )
    return folder


def _index(folder: Path, spec: DataSpec) -> FoundImages:
    """Find the images of a folder, with the labels that folders or a table give them."""
    if spec.labels is None:
        return index_folder(folder, spec.ignored)
    found = find_labelled(folder, labels_of(spec), keep_missing=spec.on_bad_image == "skip")
    if "val" not in found.parts or "test" in found.parts or spec.resample is not None:
        return found
    by_part = {"train": found.parts["train"], "test": found.parts["val"]}
    note = (
        f"{spec.labels} has no test part: its validation rows are the untouched test set, and "
        "validation images are split from train."
    )
    return replace(found, parts=by_part, notes=(*found.notes, note))


def labels_of(spec: DataSpec) -> Labels:
    """Return the labels that are asked for; `spec.labels` is given."""
    columns = (getattr(spec, name) for name in _OF_LABELS)
    return Labels(
        spec.labels or "", *columns, group=spec.group, task=spec.task, ignore=spec.ignored
    )


def load_labelled(
    spec: DataSpec, known: DatasetInfo, *, num_workers: int = 16
) -> tuple[parts.Part, tuple[str, ...]]:
    """Load all images that a table names, to evaluate a model on them.

    Of a table with a column of parts (`spec.split_column`) it is the rows of its test part.

    Args:
        spec: The folder and its labels.
        known: What the model was trained on: it says classes or units, size and normalisation.
        num_workers: As for `load`.

    Returns:
        The images in the order of the table, with targets as the model knows them, and sentences
        for the user.

    Raises:
        InputError: If files are missing or cannot be used, or a class is unknown to the model.
    """
    channels, size, _ = known.input_shape
    skip = spec.on_bad_image == "skip"
    with permission_explained():
        found = find_labelled(
            find_folder(spec),
            labels_of(replace(spec, group=None)),
            classes=known.class_names,
            task=known.task,
            keep_missing=skip,
        )
        depths = Depths(known.pixel_range)
        found, data, _ = _read_files(found, spec, size, channels, num_workers, depths)
        depths.settled(by_model=True)
    part = data["test"].normalized_by(known.mean, known.std)
    if known.units is not None:
        mean, std = known.units
        part = part.with_targets(((part.targets.double() - mean) / std).float())
    return part, found.notes


def load(
    spec: DataSpec,
    seed: int = 0,
    *,
    row: DatasetRow | None = None,
    constants: tuple[Sequence[float], Sequence[float]] | None = None,
    val_fraction: float | None = None,
    download: bool | None = None,
    memory_budget: int = 2 * 2**30,
    num_workers: int = 16,
    units: Units | None = None,
) -> Splits:
    """Load what is asked for and split it into a training, a validation and a test part.

    The test part is the data set's own, or one set apart that is the same for every seed; with
    `spec.resample` all examples, whatever part they come from, are divided anew. Validation comes
    from the training images, stratified, by `seed`. With `spec.group` no group lies in two parts.

    Args:
        spec: The data: a name from `list_datasets()`, or a folder of images: `DIR/<class>/*`, or
            `DIR/train/<class>/*` with `val` and `test` beside it or not. With `train` and `val`
            alone, `val` is the test set.
        seed: Seed of the validation split and of `limit`.
        row: What the name means, if not its row of `DATASETS`.
        constants: (mean, std) per channel to normalise by, instead of the data's own.
        val_fraction: Share of the training images used for validation; by default the data set's
            own (a tenth for most). Without effect on a folder with its own `val` and `test`.
        download: Whether missing files may be fetched; by default only if `data_dir` is not given,
            into the package's cache folder.
        memory_budget: Bytes of decoded images up to which a folder is held in memory. Where images
            stream from disk, on_bad_image "error" looks at the beginning and the end of every file,
            and a fault in between is met in training; "skip" decodes every file once.
        num_workers: Threads that decode a folder that is not; at most one per processor.
        units: Of a regression on images: (mean, std) of the values, instead of the data's own.

    Returns:
        The splits. `info.notes` says in sentences what a reader of results must know.

    Raises:
        InputError: If the data set is unknown, missing, incomplete, corrupt or cannot be split.
    """
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(f"val_fraction must be between 0 and 1, got {val_fraction!r}.")
    pool = load_pool(
        spec, row=row, download=download, memory_budget=memory_budget, num_workers=num_workers
    )
    splits = pool.split(spec.limit, seed, val_fraction, units)
    return splits if constants is None else splits.normalized_by(*constants)


def load_pool(
    spec: DataSpec,
    *,
    row: DatasetRow | None = None,
    download: bool | None = None,
    memory_budget: int = 2 * 2**30,
    num_workers: int = 16,
) -> parts.Pool:
    """Load what is asked for, without splitting validation off; arguments as for `load`."""
    row = row or spec.row
    with permission_explained():
        if row is None:
            folder = find_folder(spec)
            name, found = folder.resolve().name, _index(folder, spec)
        else:
            _refuse_of_files(spec, row)
            name, found = row.name, readers.read(row, spec.data_dir, download=download)
        if isinstance(found, FoundImages):
            return _load_files(name, found, spec, memory_budget, num_workers)
        assert row is not None
        return _load_arrays(row, found, spec, memory_budget)


def load_scored(
    spec: DataSpec,
    classes: Sequence[str],
    constants: tuple[Sequence[float], Sequence[float]],
    *,
    memory_budget: int = 2 * 2**30,
    num_workers: int = 16,
) -> tuple[parts.Part, DatasetInfo]:
    """Load what a model of known classes is to be scored on: a folder of images, nothing split off.

    Args:
        spec: The folder, with size and channels. Of one with parts the test part is taken, else the
            validation part; of any other all images. Classes may be missing in it.
        classes: Names that the model knows, in label order.
        constants: (mean, std) per channel to normalise by.
        memory_budget: As for `load`.
        num_workers: As for `load`.

    Returns:
        The images with their classes, and what they are; `notes` say which images.

    Raises:
        InputError: If the folder is missing, has no classes or other ones, or files are unusable.
    """
    size, channels = spec.image_size or _FOLDER_SIZE, spec.in_channels or 3
    with permission_explained():
        folder = find_folder(spec)
        found = index_labelled(folder, classes, spec.ignored)
        needed = len(found.parts["test"][0]) * channels * size * size
        threads = num_workers if needed > memory_budget else None
        depths = Depths(spec.pixel_range)
        found, data, _ = _read_files(found, spec, size, channels, threads, depths)
        depths.settled(by_model=True)
    shape, mean, std = (channels, size, size), tuple(constants[0]), tuple(constants[1])
    info = DatasetInfo(
        folder.resolve().name, "classification", tuple(classes), shape, mean, std, found.notes
    )
    return data["test"].normalized_by(mean, std), info


def load_dataset(
    spec: str | os.PathLike[str] | DatasetRow,
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
    resample: Resample | None = None,
    group: str | None = None,
    ignore: str | None = None,
    on_duplicate: Literal["keep", "skip"] = "keep",
    labels: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    task: Task = "auto",
    pixel_range: PixelRange | None = None,
) -> Splits:
    """Load a data set by its name, row or path: `load` with the fields of `DataSpec` as arguments.

    Example:
        >>> splits = load_dataset("digits")
        >>> len(splits.train), len(splits.val), len(splits.test)
        (1222, 216, 359)
    """
    row = spec if isinstance(spec, DatasetRow) else None
    name = spec.name if isinstance(spec, DatasetRow) else os.fspath(spec)
    folder = None if data_dir is None else os.fspath(data_dir)
    return load(
        DataSpec(
            *(name, folder, image_size, in_channels, limit, on_bad_image, resample, group),
            ignore=ignore,
            on_duplicate=on_duplicate,
            labels=None if labels is None else os.fspath(labels),
            image_column=image_column,
            label_column=label_column,
            split_column=split_column,
            task=task,
            pixel_range=pixel_range,
        ),
        seed,
        row=row,
        val_fraction=val_fraction,
        download=download,
        memory_budget=memory_budget,
        num_workers=num_workers,
    )

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
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from spinalnet._checks import InputError
from spinalnet.data import from_arrays, from_files, parts, readers
from spinalnet.data.batches import DatasetInfo, Splits, Units
from spinalnet.data.catalog import DATASETS, DatasetRow
from spinalnet.data.depths import Depths, PixelRange
from spinalnet.data.folders import FoundImages, index_labelled, permission_explained
from spinalnet.data.labels import Task, find_labelled
from spinalnet.data.request import DataSpec, find_folder, labels_of
from spinalnet.data.resampling import Resample


def list_datasets() -> list[str]:
    """Return the names `load_dataset` knows besides folders of images."""
    return list(DATASETS)


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
        found, data, _ = from_files.read_files(found, spec, size, channels, num_workers, depths)
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
            name, found = folder.resolve().name, from_files.index(folder, spec)
        else:
            _refuse_of_files(spec, row)
            name, found = row.name, readers.read(row, spec.data_dir, download=download)
        if isinstance(found, FoundImages):
            return from_files.pool_of_files(name, found, spec, memory_budget, num_workers)
        assert row is not None
        return from_arrays.pool_of_arrays(row, found, spec, memory_budget)


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
    size, channels = spec.image_size or from_files.FOLDER_SIZE, spec.in_channels or 3
    with permission_explained():
        folder = find_folder(spec)
        found = index_labelled(folder, classes, spec.ignored)
        needed = len(found.parts["test"][0]) * channels * size * size
        threads = num_workers if needed > memory_budget else None
        depths = Depths(spec.pixel_range)
        found, data, _ = from_files.read_files(found, spec, size, channels, threads, depths)
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

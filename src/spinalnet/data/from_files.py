"""From the image files that were found to a pool of parts, in memory or streamed from disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spinalnet._checks import InputError, some
from spinalnet.data import doubles, parts
from spinalnet.data.batches import MEND, ArrayDataset, DatasetInfo, FolderDataset, without
from spinalnet.data.depths import Depths, PixelRange
from spinalnet.data.folders import FoundImages, index_folder
from spinalnet.data.images import BadImage, BadImagesError, channel_statistics, find_bad, read_all
from spinalnet.data.labels import find_labelled
from spinalnet.data.request import DataSpec, labels_of
from spinalnet.texts import shown

FOLDER_SIZE = 64  # default height and width: small enough to train on two cores
_STATISTICS_IMAGES = 512  # enough for two digits of mean and std when a folder is streamed


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


def read_files(
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


def pool_of_files(
    name: str, found: FoundImages, spec: DataSpec, memory_budget: int, num_workers: int
) -> parts.Pool:
    """Make a pool of image files, in memory if they fit."""
    brought = tuple(found.parts)
    found = found if spec.resample is None else found.pooled()
    _check_found(found, spec)  # before the reading, which can take long, and again after it
    size, channels = spec.image_size or FOLDER_SIZE, spec.in_channels or 3
    needed = sum(len(paths) for paths, _ in found.parts.values()) * channels * size * size
    streamed = needed > memory_budget
    depths = Depths(spec.pixel_range)
    streamed_by = num_workers if streamed else None
    found, data, files = read_files(found, spec, size, channels, streamed_by, depths)
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
        + ("." if spec.image_size else " (image_size sets it).")
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
    mean, std = channel_statistics(_sample(data["train"], channels, size))
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


def index(folder: Path, spec: DataSpec) -> FoundImages:
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

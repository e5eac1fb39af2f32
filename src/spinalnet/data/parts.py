"""What of a data set is trained on, validated on and tested on, and what a reader must know of it.

The parts that a data set brings are kept, or all its examples are pooled and drawn anew
(`resampling`). Validation always comes out of the training part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spinalnet._checks import InputError, some
from spinalnet.data.batches import ArrayDataset, DatasetInfo, FolderDataset, Splits, Units
from spinalnet.data.images import BadImage
from spinalnet.data.order import stratified
from spinalnet.data.resampling import Resample, Rows, draw_parts, set_apart, validation_rows

Part = ArrayDataset | FolderDataset

_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Pool:
    """A data set before validation is split off.

    Attributes:
        info: What it is.
        train: What may be trained on or validated on.
        test: The test part.
        val: The validation part, where the data brings one.
        val_fraction: Share of `train` to validate on, where it brings none.
        left_out: Image files that cannot be used.
        groups: Group of each training example, where groups were asked for.
        test_rows: Places of the test examples among all, where they were drawn from all.
        unused: What else lies in the folder of the data, a line each.
        copies: Pictures that are there twice, a line each.
    """

    info: DatasetInfo
    train: Part
    test: Part
    val: Part | None
    val_fraction: float
    left_out: tuple[BadImage, ...] = ()
    groups: np.ndarray | None = None
    test_rows: Tensor | None = None
    unused: str = ""
    copies: str = ""

    def split(
        self, limit: int | None, seed: int, val_fraction: float | None, units: Units | None = None
    ) -> Splits:
        """Split validation off the training part, where it has no part of its own; limit the rest.

        Args:
            limit: Training examples to keep, or None for all.
            seed: Seed of both draws.
            val_fraction: Share of the training part to validate on; None for the data's own.
            units: Of a regression on images: mean and standard deviation of the values; None for
                those of the training part.

        Raises:
            InputError: If `limit` leaves a class without examples, or no group can be spared.
        """
        train, val, info = self.train, self.val, self.info
        # A regression has no classes to keep in proportion: one class of all.
        regression = info.task == "regression"
        strata = torch.zeros(len(train), dtype=torch.long) if regression else train.targets
        if val is None:
            rest, rows = validation_rows(
                np.arange(len(train)),
                val_fraction or self.val_fraction,
                seed,
                strata=strata.numpy(),
                groups=self.groups,
            )
            train, val, strata = _at(train, rest), _at(train, rows), strata[rest]
        if limit is not None and limit < len(train):
            if limit < info.num_classes:
                raise InputError(
                    f"limit must leave an image of each of the {info.num_classes} classes, got "
                    f"{limit}."
                )
            chosen, _ = stratified(strata, limit, "limit", seed, keep_train=0)
            what = "images" if len(info.input_shape) == 3 else "examples"
            note = (
                f"Training uses {limit} of {len(train)} {what}; validation and test are complete."
            )
            train, info = train.subset(chosen), replace(info, notes=(*info.notes, note))
        lists = self.unused, self.copies
        splits = Splits(train, val, self.test, info, self.left_out, self.test_rows, *lists)
        # Values of images are learned in units of their spread, as those of tables are.
        return splits.standardized(units) if regression and len(info.input_shape) == 3 else splits


def _at(part: Part, rows: Rows) -> Part:
    return part.subset(torch.from_numpy(rows))


@dataclass(frozen=True)
class Division:
    """Which examples of a whole are for training, and which for the test."""

    train: Rows
    test: Rows

    def of(self, whole: Part) -> dict[str, Part]:
        """Return both parts."""
        return {"train": _at(whole, self.train), "test": _at(whole, self.test)}


def divide(
    targets: Tensor,
    classes: Sequence[str],
    resample: Resample | None,
    groups: np.ndarray | None = None,
) -> Division:
    """Draw the test part of a whole: what `resample` asks for, else the same one for every seed.

    Args:
        targets: Class indices, `(N,)`, or, without `classes`, values.
        classes: Names, for errors; none of a regression.
        resample: See `draw_parts`.
        groups: Group of each example.

    Raises:
        InputError: If it cannot be drawn.
    """
    n = len(targets)
    if resample is None:
        of_class = targets.numpy() if classes else np.zeros(n, dtype=np.int64)
        test, train = set_apart(
            of_class, round(_TEST_FRACTION * n), "test", groups=groups, keep_train=2
        )
        return Division(train, test)
    strata = np.asarray(classes)[targets.numpy()] if classes else None
    return Division(*draw_parts(resample, n, strata=strata, groups=groups))


def divided_note(
    resample: Resample | None, brought: Sequence[str], n: int, tested: int, what: str = "images"
) -> str:
    """Say how the test part came about: in words that are the same for all units of a comparison.

    Args:
        resample: How it was drawn.
        brought: Names of the parts that the data brings.
        n: Number of examples.
        tested: Number of test examples.
        what: What the examples are.
    """
    if resample is None:
        return (
            f"The folder has no test part: {tested} of its {n} images, the same for every seed, "
            "are set apart as the test set."
        )
    together = f"all {n} {what}"
    if len(brought) > 1:
        together += f", whichever of its {len(brought)} parts they lie in"
    if resample.kind == "fold":
        return f"{resample.count} folds over {together}."
    return f"Random test parts of {100 * resample.fraction:.3g} % of {together}."


def absent_notes(test: Part, classes: Sequence[str]) -> list[str]:
    """Return a note if a class has no test images."""
    counts = torch.bincount(test.targets, minlength=len(classes)).tolist()
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    return [f"The test part has no images of {', '.join(absent)}."] if absent else []


# --- groups of image files ------------------------------------------------------------------------


def groups_of(paths: Sequence[str], folder: str, pattern: str) -> np.ndarray:
    r"""Return the group of every image file.

    Args:
        paths: The files.
        folder: Folder of the data set, below which they lie.
        pattern: Regular expression that is searched for in the path below `folder`, with "/"
            between folders. What its first parentheses match is the group's name, without
            parentheses the whole match: `patient(\d+)`, `^[^/]+/[^_]+`.

    Raises:
        InputError: If it matches some of them not.
    """
    search = re.compile(pattern).search
    named, unmatched = [], []
    for path in paths:
        below = os.path.relpath(path, folder).replace(os.sep, "/")
        match = search(below)
        name = match and match.group(1 if match.re.groups else 0)
        named.append(name)
        if name is None:
            unmatched.append(f"'{below}'")
    if unmatched:
        raise InputError(
            f"group must match the name of every image: '{pattern}' does not match "
            f"{len(unmatched)} of {len(paths)} ({some(unmatched, 3)}); widen the pattern, or move "
            "those files away."
        )
    return np.asarray(named, dtype=str)


def grouped_by_part(
    parts: Mapping[str, Sequence[str]],
    folder: str,
    pattern: str | None,
    column: Mapping[str, str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the group of every image of every part; nothing without a pattern.

    Args:
        parts: The files of every part.
        folder: As for `groups_of`, as the pattern.
        pattern: Where `column` says the groups, the name of that column.
        column: Group of every path.

    Raises:
        InputError: If a file has no group, or a group lies in two parts.
    """
    if pattern is None:
        return {}
    if column is None:
        found = {part: groups_of(paths, folder, pattern) for part, paths in parts.items()}
    else:
        found = {part: np.array([column[p] for p in paths]) for part, paths in parts.items()}
    names = list(found)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = np.intersect1d(found[first], found[second]).tolist()
            if both:
                raise InputError(
                    f"no group may lie in two parts, but {len(both)} of '{pattern}' "
                    f"{'lies' if len(both) == 1 else 'lie'} in {first} and in {second} "
                    f"({some(both, 3)}): ask for folds, which draw the parts anew, mend the "
                    "folder, or leave out group."
                )
    return found


def group_notes(pattern: str | None, groups: Mapping[str, np.ndarray]) -> list[str]:
    """Say how many groups there are."""
    if pattern is None:
        return []
    count = len(np.unique(np.concatenate(list(groups.values()))))
    return [f"'{pattern}' makes {count} groups of images, none of which lies in two parts."]


# --- classes of unequal size ----------------------------------------------------------------------

_IMBALANCE = 10


def imbalance_notes(targets: Tensor, classes: Sequence[str]) -> list[str]:
    """Return a note if a class has over ten times the training images of another; none, none."""
    if not classes:
        return []
    counts = torch.bincount(targets, minlength=len(classes))
    most, least = int(counts.argmax()), int(counts.argmin())
    if counts[most] <= _IMBALANCE * counts[least] or not counts[least]:
        return []
    return [
        f"Classes are unequal by 1 to {counts[most] / counts[least]:.0f}: '{classes[most]}' has "
        f"{counts[most]} training images, '{classes[least]}' {counts[least]}. Options that help: "
        "class_weights=balanced in training, metric=balanced-accuracy in a comparison."
    ]

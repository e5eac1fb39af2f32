"""What is done about copies of pictures in the parts of a data set: told, or left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from spinalnet.data import copies
from spinalnet.data.batches import ArrayDataset, FolderDataset
from spinalnet.data.copies import Pictures
from spinalnet.data.depths import PixelRange
from spinalnet.data.images import BadImage
from spinalnet.data.likeness import looks_of, looks_of_files

Part = ArrayDataset | FolderDataset


_TOO_MANY = (
    "Pictures that are nearly the same are not looked for: there are too many files that are not "
    "in memory. Those that are the same byte for byte are."
)


class Settled(NamedTuple):
    """The parts of a data set after copies were looked for.

    Attributes:
        data: What is left of every part: all of it, or all but copies.
        notes: Sentences the user must see.
        left_out: Files that are left out.
        copies: Every copy that was found, a line each.
    """

    data: dict[str, Part]
    notes: list[str]
    left_out: tuple[BadImage, ...] = ()
    copies: str = ""


def pictures(
    part: Part, pixel_range: PixelRange | None, groups: np.ndarray | None = None
) -> Pictures:
    """Return the files of a part, with what they look like.

    Args:
        part: The files; what is in memory is the centre of each, so they are decoded again, small,
            unless they are too many for it.
        pixel_range: As for `looks_of_files`.
        groups: As in `Pictures`.
    """
    looks = looks_of_files(part.paths, pixel_range)
    if looks is None and isinstance(part, ArrayDataset):
        looks = looks_of(part.inputs)
    return Pictures(part.paths, part.targets, looks, groups)


def settle_whole(
    whole: Part,
    pixel_range: PixelRange | None = None,
    *,
    skip: bool,
    redrawn: bool,
    groups: np.ndarray | None = None,
) -> Settled:
    """Look for copies in a whole that the test part is drawn from.

    Args:
        whole: All examples.
        pixel_range: As for `looks_of_files`.
        skip: Whether copies are left out, before anything is drawn.
        redrawn: Whether every example is tested in some fold or split. Otherwise copies that lie
            on both sides of the one test part are told by `settle_parts`, once it is drawn.
        groups: Group of every example; copies within one never lie in two parts.
    """
    where = pictures(whole, pixel_range, groups)
    twins = copies.within(where)
    notes, listed = _unsearched(whole, where), copies.listing(twins, where)
    if not skip:
        effect = copies.TESTED if redrawn else ""
        notes += copies.label_notes(twins, where, "images", _BOTH)
        notes += copies.copy_notes(twins, where, "images", effect)
        return Settled({"train": whole}, notes, copies=listed)
    out = copies.doomed(twins, where)
    notes += copies.label_notes(twins, where, "images")
    notes += copies.skipped_note([(f"of {len(whole)} images", len(out))])
    return Settled({"train": _without(whole, out)}, notes, tuple(what for _, what in out), listed)


_BOTH = "; on_duplicate=skip leaves out every such picture"


def settle_parts(
    data: Mapping[str, Part],
    pixel_range: PixelRange | None = None,
    *,
    skip: bool,
    given: bool = True,
) -> Settled:
    """Look for copies in and between what is trained or validated on and what is tested on.

    Args:
        data: The parts, "test" among them; it is never changed.
        pixel_range: As for `looks_of_files`.
        skip: Whether copies are left out of the others.
        given: Whether the data came in parts, so that `settle_whole` has not looked within them.
    """
    parts, test = dict(data), pictures(data["test"], pixel_range)
    names = [name for name in data if name != "test"]
    seen = [pictures(data[name], pixel_range) for name in names]
    others = seen[0] if len(seen) == 1 else seen[0].joined(seen[1])
    leaks = copies.across(test, others)
    notes = copies.leak_notes(leaks, test, others, advice=not skip)
    if not given:
        return Settled(parts, notes)
    notes = [*(_unsearched(data["test"], test) or _unsearched(data[names[0]], others)), *notes]
    inside, tested = copies.within(others), copies.within(test)
    advice = "" if skip else _BOTH
    notes += copies.label_notes(inside, others, "training images", advice)
    notes += copies.label_notes(tested, test, "test images")
    listed = copies.listing(leaks, others, test)
    listed += copies.listing(inside, others) + copies.listing(tested, test)
    if not skip:
        notes += copies.copy_notes(inside, others, "training images")
        return Settled(parts, notes, copies=listed)
    out = dict(copies.doomed(inside, others))
    doubled = len(out)
    out |= dict(copies.doomed_across(leaks, test, others))
    notes += copies.skipped_note(
        [("that test images have in train or val", len(leaks)), ("within train", doubled)]
    )
    start = 0
    for name in names:
        rows = [
            (row - start, out[row]) for row in sorted(out) if 0 <= row - start < len(data[name])
        ]
        parts[name] = _without(data[name], rows)
        start += len(data[name])
    return Settled(parts, notes, tuple(out[row] for row in sorted(out)), listed)


def _unsearched(part: Part, where: Pictures) -> list[str]:
    """Return a note if files are so many that only their bytes were compared."""
    return [_TOO_MANY] * (isinstance(part, FolderDataset) and where.looks is None)


def _without(part: Part, out: list[tuple[int, BadImage]]) -> Part:
    if not out:
        return part
    keep = torch.ones(len(part), dtype=torch.bool)
    keep[[row for row, _ in out]] = False
    return part.subset(keep.nonzero()[:, 0])

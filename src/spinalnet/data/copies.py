"""The same picture in two files: which, how it is known, and what is done about it.

The rule where copies are left out: a given test part never changes, so of a picture in train (or
val) and in test the training copy goes; of a file that is there twice, the first stays; of one that
is there under two labels, none stays in training, for nobody knows which label is right. Where the
test part is drawn from the whole, the copies go before it is drawn.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spinalnet.data.images import BadImage, read_all
from spinalnet.data.likeness import Looks, alike
from spinalnet.texts import shown

How = Literal["bytes", "pixels", "look"]
_HOW = {
    "bytes": "byte for byte",
    "pixels": "pixel for pixel",
    "look": "re-encoded, resized, cut or slightly changed",
}


class Twin(NamedTuple):
    """A file that holds the picture of another; both are rows of what was searched."""

    row: int
    of: int
    how: How
    agrees: bool  # both have the same label


@dataclass(frozen=True)
class Pictures:
    """Image files that are searched for copies.

    Attributes:
        paths: The files.
        targets: Class indices or values, `(N,)`.
        looks: What they look like; None where only their bytes are compared.
        groups: Group of each; copies within a group are not told, since no part divides it.
    """

    paths: Sequence[str]
    targets: Tensor
    looks: Looks | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def joined(self, other: Pictures) -> Pictures:
        """Return both, these first."""
        both = self.looks is not None and other.looks is not None
        return Pictures(
            [*self.paths, *other.paths],
            torch.cat([self.targets, other.targets]),
            self.looks.joined(other.looks) if both else None,  # type: ignore[union-attr,arg-type]
        )


def across(test: Pictures, others: Pictures) -> list[Twin]:
    """Return the pictures of `others` (rows) that are in `test` too (`of`)."""
    keys = _byte_keys([*test.paths, *others.paths])
    n, first = len(test), {}
    for row in range(n):
        first.setdefault(keys[row], row)
    found: dict[int, tuple[int, How]] = {
        row: (first[key], "bytes")
        for row, key in enumerate(keys[n:])
        if key is not None and key in first
    }
    if test.looks is not None and others.looks is not None:
        near = alike(test.looks, others.looks)
        _add_near(found, near, test.paths, others.paths)
    return _twins(found, test, others)


def within(pictures: Pictures) -> list[Twin]:
    """Return the pictures that an earlier file holds too."""
    first: dict[bytes, int] = {}
    found: dict[int, tuple[int, How]] = {}
    for row, key in enumerate(_byte_keys(pictures.paths)):
        if key is not None and first.setdefault(key, row) != row:
            found[row] = first[key], "bytes"
    if pictures.looks is not None:
        _add_near(found, alike(pictures.looks), pictures.paths, pictures.paths)
    twins = _twins(found, pictures, pictures)
    groups = pictures.groups
    return [t for t in twins if groups is None or groups[t.row] != groups[t.of]]


def _twins(found: dict[int, tuple[int, How]], first: Pictures, second: Pictures) -> list[Twin]:
    return [
        Twin(row, of, how, bool((first.targets[of] == second.targets[row]).all()))
        for row, (of, how) in sorted(found.items())
    ]


_MOST_DECODED = 200  # pairs that are decoded to see whether their pixels are the same


def _add_near(
    found: dict[int, tuple[int, How]], near: np.ndarray, first: Sequence[str], second: Sequence[str]
) -> None:
    """Put down pictures that look alike, and whether their pixels are the same."""
    rows = [row for row in np.flatnonzero(near >= 0).tolist() if row not in found]
    for row in rows:
        found[row] = int(near[row]), "look"
    # A JPEG is no other's pixels but by its bytes, or those of one with other metadata.
    for start in range(0, min(len(rows), _MOST_DECODED), 64):
        some = rows[start : start + 64]
        pairs = [
            read_all([paths[i] for i in at], 3, 256)
            for paths, at in ((second, some), (first, [int(near[row]) for row in some]))
        ]
        for k, row in enumerate(some):
            if not pairs[0][1] and not pairs[1][1] and torch.equal(pairs[0][0][k], pairs[1][0][k]):
                found[row] = found[row][0], "pixels"


# --- bytes ----------------------------------------------------------------------------------------

_PIECE = 4096


def _byte_keys(paths: Sequence[str]) -> list[bytes | None]:
    """Return a digest of the bytes of every file that another one may share, None for the rest.

    Only files of a size that occurs twice are opened, and only those that agree in a piece from
    their middle are read: of 100,000 bitmaps of one size, few.
    """
    sizes = [os.stat(path).st_size for path in paths]  # noqa: PTH116
    keys: list[bytes | None] = [f"{size}".encode() for size in sizes]
    for whole in (False, True):
        counts = Counter(keys)
        for row, (path, size) in enumerate(zip(paths, sizes, strict=True)):
            key = keys[row]
            if key is not None and counts[key] < 2:
                keys[row] = None
            elif key is not None:
                keys[row] = key + _digest(path, size, whole)
    counts = Counter(keys)
    return [key if key is not None and counts[key] > 1 else None for key in keys]


def _digest(path: str, size: int, whole: bool) -> bytes:
    with Path(path).open("rb") as file:
        if not whole:
            file.seek(max(0, (size - _PIECE) // 2))
        content = file.read() if whole else file.read(_PIECE)
    return hashlib.blake2b(content, digest_size=16).digest()


# --- what is said and done ------------------------------------------------------------------------


def _how(twins: Sequence[Twin]) -> str:
    """Say how copies are known to be some: "byte for byte", or with numbers."""
    counts = Counter(twin.how for twin in twins)
    if len(counts) == 1:
        return _HOW[twins[0].how]
    return ", ".join(f"{counts[how]} {said}" for how, said in _HOW.items() if counts[how])


def leak_notes(
    twins: Sequence[Twin], test: Pictures, others: Pictures, *, advice: bool = True
) -> list[str]:
    """Return notes on test images that training and its choices see.

    Args:
        twins: What `across` has found.
        test: The test part.
        others: What is trained and validated on.
        advice: Whether they stay there, and the option that leaves them out is named.
    """
    notes = []
    for agrees in (True, False):
        some = [twin for twin in twins if twin.agrees == agrees]
        if not some:
            continue
        of = len({twin.of for twin in some})
        pair = f"'{shown(test.paths[some[0].of])}' is '{shown(others.paths[some[0].row])}'"
        count = f"{of} of the {len(test)} test images {'is' if of == 1 else 'are'} also in train or"
        if not advice:
            said = "" if agrees else ": one of the labels is wrong"
        elif agrees:
            said = f": the test result flatters{_ADVICE}"
        else:
            said = f": one of the labels is wrong, and the test result means less{_ADVICE}"
        under = "" if agrees else " under another label"
        notes.append(f"{count} val{under}, {_how(some)} ({pair}){said}.")
    return notes


_ADVICE = "; on_duplicate=skip leaves the training copies out"


TESTED = ", and one may be tested that was trained on: the test results flatter"


def copy_notes(
    twins: Sequence[Twin], where: Pictures, what: str, effect: str | None = None
) -> list[str]:
    """Return a note if images are there twice under one label.

    Args:
        twins: What `within` has found.
        where: Where.
        what: What its files are called: "training images".
        effect: What follows from it; None: that it counts again in training.
    """
    twins = [twin for twin in twins if twin.agrees]
    if not twins:
        return []
    pair = f"'{shown(where.paths[twins[0].row])}' is '{shown(where.paths[twins[0].of])}'"
    one = len(twins) == 1
    are = "is a copy of another" if one else "are copies of others"
    effect = f", and count{'s' * one} again" if effect is None else effect
    return [
        f"{len(twins)} of the {len(where)} {what} {are}, {_how(twins)} ({pair}){effect}; "
        f"on_duplicate=skip leaves {'it' if one else 'them'} out."
    ]


def label_notes(twins: Sequence[Twin], where: Pictures, what: str, advice: str = "") -> list[str]:
    """Return a note if a picture is there under two labels.

    Args:
        twins: What `within` has found.
        where: Where.
        what: What its files are called: "training images".
        advice: What helps.
    """
    twins = [twin for twin in twins if not twin.agrees]
    if not twins:
        return []
    pairs = [f"'{shown(where.paths[t.row])}' is '{shown(where.paths[t.of])}'" for t in twins[:3]]
    more = f" and {len(twins) - 3} more" if len(twins) > 3 else ""
    return [
        f"{len(twins)} of the {len(where)} {what} {'is' if len(twins) == 1 else 'are'} there under "
        f"another label too, {_how(twins)} ({', '.join(pairs)}{more}): one of the labels is "
        f"wrong{advice}."
    ]


def listing(twins: Sequence[Twin], where: Pictures, of: Pictures | None = None) -> str:
    """Return a line for every copy: whose, how it is known, and whether the labels agree."""
    return "".join(
        f"'{shown(where.paths[twin.row])}' is '{shown((of or where).paths[twin.of])}': "
        f"{_HOW[twin.how]}{'' if twin.agrees else ', under another label'}\n"
        for twin in twins
    )


def doomed(twins: Sequence[Twin], where: Pictures) -> list[tuple[int, BadImage]]:
    """Return what of `within` is left out: later copies, and all of a picture with two labels."""
    out = {twin.row: twin.of for twin in twins}
    disputed = {twin.of for twin in twins if not twin.agrees}
    for twin in twins:
        if twin.of in disputed:
            out.setdefault(twin.of, twin.row)
    return _left_out(out, where.paths, where.paths)


def doomed_across(
    twins: Sequence[Twin], test: Pictures, others: Pictures
) -> list[tuple[int, BadImage]]:
    """Return what of `across` is left out: the copies that would be trained or validated on."""
    return _left_out({twin.row: twin.of for twin in twins}, others.paths, test.paths)


def _left_out(
    out: dict[int, int], paths: Sequence[str], of: Sequence[str]
) -> list[tuple[int, BadImage]]:
    return [
        (row, BadImage(paths[row], f"is left out: it is the picture of '{shown(of[other])}'"))
        for row, other in sorted(out.items())
    ]


def skipped_note(parts: Sequence[tuple[str, int]]) -> list[str]:
    """Return a note on the copies that are left out, by where they were, with their number."""
    said = [f"{count} {what}" for what, count in parts if count]
    if not said:
        return []
    return [
        f"Copies of other pictures are left out ({' and '.join(said)}): bad-images.txt lists them."
    ]

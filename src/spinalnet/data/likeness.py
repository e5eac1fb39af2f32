"""Pictures that look alike: the same one re-encoded, resized, or with another tone here and there.

Of every picture 64 bits are kept, whether brightness rises from each of 8 x 9 cells to the next
(a difference hash), and a thumbnail of 16 x 16. Two are alike if few bits differ and the thumbnails
agree: the bits make the search quick, the thumbnails make it sure.

The limits below were chosen on photographs and on drawings of one kind of thing. Of 199 photographs
of insects (64 x 64) 98 in 100 are found again after JPEG at quality 50 to 95 and after halving, 90
at a quarter of the size, 80 with a hundredth cut off every side, 6 with three hundredths; none is
taken for another. Of the 10,000 test images of CIFAR-10 7 are found among its 50,000 training
images, all of the same class and, looked at, the same pictures. Of 5,000 test images of
Fashion-MNIST 3 are found, the same garments indeed, and of MNIST none: with a limit of 0.2, two in
five pairs of trousers would be, hence the stricter one for what is grey or on an empty ground.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spinalnet.data.depths import Depths, PixelRange
from spinalnet.data.images import fit_to, read_batches, usable_cpus

_BITS, _BITS_STRICT = 5, 3  # that may differ
# How far thumbnails may be apart, as a share of their contrast: pictures that are full of detail
# and colour, and others. Things on an empty ground are alike without being the same.
_APART_RICH, _APART = 0.2, 0.07
_DETAIL, _COLOUR = 0.8, 4.0  # share of cells where brightness changes; levels between channels
_PLAIN = 5.0  # standard deviation in grey levels; below, there is nothing to tell pictures by
_SMALLEST = 16  # side of images that can be told apart
_SIDE = 32  # that files are decoded to where they are not in memory
_MOST_FILES = 50_000  # that are decoded for it alone; as many as some minutes take
_TOGETHER = 1 << 21  # pairs compared at once
_TRIED = 16  # thumbnails compared with one picture per piece of the code


class Looks(NamedTuple):
    """What of N pictures is compared.

    Attributes:
        codes: Difference hashes, uint64, `(N,)`.
        thumbnails: uint8, `(N, C, 16, 16)`.
        limits: How far the same picture may be apart, float32, `(N,)`; 0 for one that is too plain
            to be told from others.
    """

    codes: np.ndarray
    thumbnails: np.ndarray
    limits: np.ndarray

    def joined(self, other: Looks) -> Looks:
        """Return both, these first."""
        return Looks(*map(np.concatenate, zip(self, other, strict=True)))


def looks_of(pixels: Tensor) -> Looks | None:
    """Return the looks of images, uint8, `(N, C, H, W)`; None if they are too small to tell."""
    if min(pixels.shape[2:]) < _SMALLEST:
        return None
    if not len(pixels):
        none = np.zeros((0, 1, 16, 16), np.uint8)
        return Looks(np.zeros(0, np.uint64), none, np.zeros(0, np.float32))
    parts = [_look(part) for part in pixels.split(512)]
    return Looks(*map(np.concatenate, zip(*parts, strict=True)))


# Cells that lie together are often alike: spread, so that no piece of a code is all of one corner.
_SPREAD = np.arange(64) * 37 % 64


def _shrunk(images: Tensor, height: int, width: int) -> Tensor:
    """Return the means over `height` x `width` cells, `(N, C, height, width)`."""
    down, across = _shares(images.shape[2], height), _shares(images.shape[3], width)
    return down @ images @ across.mT


@functools.cache
def _shares(length: int, cells: int) -> Tensor:
    """Return which share of its cell every pixel of a line has, `(cells, length)`."""
    borders = torch.linspace(0, length, cells + 1)
    begins = torch.arange(length)
    ends = torch.minimum(borders[1:, None], begins + 1)
    return (ends - torch.maximum(borders[:-1, None], begins)).clamp(min=0) * (cells / length)


def _look(pixels: Tensor) -> Looks:
    if min(pixels.shape[2:]) > _SIDE:
        pixels = fit_to(pixels, _SIDE)  # bytes are resized quickly
    values = pixels.contiguous().float()
    grey = values
    if pixels.shape[1] == 3:
        grey = 0.299 * values[:, :1] + 0.587 * values[:, 1:2] + 0.114 * values[:, 2:]
    cells = _shrunk(grey, 8, 9)[:, 0]
    rises = (cells[..., 1:] - cells[..., :-1]).flatten(1)
    # A rise of less than a level is noise of the encoder.
    bits = np.ascontiguousarray((rises > 1).numpy()[:, _SPREAD])
    codes = np.packbits(bits, axis=1).view(">u8")[:, 0]
    small = _shrunk(values, 16, 16)
    colour = (small - small.mean(1, keepdim=True)).abs().mean((1, 2, 3))
    rich = ((rises.abs() > 2).float().mean(1) >= _DETAIL) & (colour >= _COLOUR)
    limits = torch.where(rich, _APART_RICH, _APART)
    limits[cells.flatten(1).std(1) < _PLAIN] = 0.0
    thumbnails = small.round().to(torch.uint8).numpy()
    return Looks(codes.astype(np.uint64), thumbnails, limits.numpy())


_known: dict[bytes, Looks] = {}


def looks_of_files(paths: Sequence[str], pixel_range: PixelRange | None = None) -> Looks | None:
    """Return the looks of image files, which are decoded for it, small; None if they are too many.

    Files that have not changed since are not decoded again.
    """
    if len(paths) > _MOST_FILES:
        return None
    digest = hashlib.blake2b(repr(pixel_range).encode(), digest_size=16)
    for path in paths:
        status = os.stat(path)  # noqa: PTH116
        digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    key = digest.digest()
    if key not in _known:
        pixels = torch.empty(len(paths), 3, _SIDE, _SIDE, dtype=torch.uint8)
        batches = (paths[start : start + 64] for start in range(0, len(paths), 64))
        start = 0
        depths = Depths(pixel_range)
        for batch, bad in read_batches(batches, 3, _SIDE, usable_cpus(), depths=depths):
            for row, _ in bad:
                batch[row] = 0  # met again, and told, when it is to be used
            pixels[start : start + len(batch)] = batch
            start += len(batch)
        looks = looks_of(pixels)
        assert looks is not None  # they are of _SIDE
        _known[key] = looks
    return _known[key]


def alike(first: Looks, second: Looks | None = None) -> np.ndarray:
    """Return, for every picture of `second`, one of `first` that looks like it, or -1.

    Without `second`: for every picture an earlier one of the same.

    Pictures whose codes differ in at most 5 bits agree in at least one of six pieces of 10 or 11
    bits, so only those that share a piece are compared.

    Returns:
        Rows of `first`, int64, `(len(second),)`.
    """
    within = second is None
    other = first if second is None else second
    found = np.full(len(other.codes), -1, dtype=np.int64)
    rows = np.flatnonzero(first.limits)
    for piece in range(_BITS + 1):
        keys = _piece(first.codes[rows], piece)
        order = rows[np.argsort(keys, kind="stable")]
        keys.sort(kind="stable")
        open_ = np.flatnonzero((found < 0) & (other.limits > 0))
        wanted = _piece(other.codes[open_], piece)
        low, high = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, "right")
        for chunk in _chunks(high - low):
            i, j = _pairs(order, low[chunk], high[chunk], open_[chunk])
            close = np.bitwise_count(first.codes[i] ^ other.codes[j]) <= _bits(first, other, i, j)
            close &= (i < j) if within else True
            _take(found, first, other, i[close], j[close])
    return found


def _piece(codes: np.ndarray, piece: int) -> np.ndarray:
    """Return one of the pieces that codes are cut into."""
    begin, end = (64 * k // (_BITS + 1) for k in (piece, piece + 1))
    return (codes >> np.uint64(begin)) & np.uint64((1 << (end - begin)) - 1)


def _chunks(counts: np.ndarray) -> list[slice]:
    """Cut rows into stretches of about `_TOGETHER` pairs."""
    ends = np.cumsum(counts)
    if not len(ends):
        return []
    borders = np.searchsorted(ends, np.arange(_TOGETHER, ends[-1] + _TOGETHER, _TOGETHER))
    cuts = np.unique([0, *(borders + 1).clip(max=len(counts)), len(counts)]).tolist()
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def _pairs(
    order: np.ndarray, low: np.ndarray, high: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return every row with each of its candidates, which lie from `low` to `high` in `order`."""
    counts = high - low
    begins = np.repeat(low - (np.cumsum(counts) - counts), counts)
    return order[begins + np.arange(counts.sum())], np.repeat(rows, counts)


def _limits(first: Looks, other: Looks, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return how far each two pictures may be apart: as far as the stricter of both allows."""
    return np.minimum(first.limits[i], other.limits[j])


def _bits(first: Looks, other: Looks, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return in how many bits the codes of each two pictures may differ."""
    return np.where(_limits(first, other, i, j) < _APART_RICH, _BITS_STRICT, _BITS)


def _take(found: np.ndarray, first: Looks, other: Looks, i: np.ndarray, j: np.ndarray) -> None:
    """Note down for each picture `j` the best of its candidates `i`, if it is good enough."""
    bits = np.bitwise_count(first.codes[i] ^ other.codes[j])
    order = np.lexsort((i, bits, j))
    i, j = i[order], j[order]
    starts = np.flatnonzero(np.r_[True, j[1:] != j[:-1]]) if len(j) else np.zeros(0, np.int64)
    place = np.arange(len(j)) - np.repeat(starts, np.diff(np.r_[starts, len(j)]))
    i, j = i[place < _TRIED], j[place < _TRIED]
    apart = np.concatenate(
        [
            _apart(first.thumbnails[i[k : k + 8192]], other.thumbnails[j[k : k + 8192]])
            for k in range(0, len(i), 8192)
        ]
        or [np.zeros(0)]
    )
    for k in np.flatnonzero(apart < _limits(first, other, i, j))[
        ::-1
    ].tolist():  # of several, the first stays
        found[j[k]] = i[k]


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how far thumbnails are apart, but for brightness, as a share of their contrast."""
    x, y = (values.astype(np.float32).reshape(*values.shape[:2], 256) for values in (one, other))
    x, y = (values - values.mean(2, keepdims=True) for values in (x, y))
    apart, *contrasts = (np.sqrt(np.square(v).mean((1, 2))) for v in (x - y, x, y))
    return apart / np.maximum(np.minimum(*contrasts), 1e-6)

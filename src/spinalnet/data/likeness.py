"""Pictures that look alike: the same one re-encoded, resized, stretched, cut or in grey.

Of every picture 64 bits are kept, whether brightness rises from each of 8 x 9 cells to the next
(a difference hash), and the whole squeezed to 32 x 32. Two are alike if few bits differ and
thumbnails of 16 x 16 agree: the bits make the search quick, the thumbnails make it sure. Squeezed
to a square, a picture is the same in every shape; the bits of its centre square, and of what is
left when borders are cut off, find one that was cut.

How surely, `benchmarks/copies.py` measures, and docs/photographs.md tells: of photographs of
insects nearly all copies that were encoded again, resized, stretched or turned grey are found, most
of those that were cut on every side, few that were cut on one, none that were mirrored; no other is
taken for one. Of 10 million pairs of pictures of CIFAR-10 one is found if borders are looked at:
two versions of the same picture.

The limits are stricter for what is grey or on an empty ground: with one of 0.2, two in five pairs
of the trousers of Fashion-MNIST would be taken for others.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spinalnet.data.depths import Depths, PixelRange
from spinalnet.data.images import read_squeezed, squeezed, usable_cpus

_BITS, _BITS_STRICT = 5, 3  # that may differ
# How far thumbnails may be apart, as a share of their contrast: pictures that are full of detail,
# one of them in colour, and others. Things on an empty ground are alike without being the same.
_APART_RICH, _APART = 0.2, 0.07
_DETAIL, _COLOUR = 0.8, 4.0  # share of cells where brightness changes; levels between channels
_PLAIN = 5.0  # standard deviation in grey levels; below, there is nothing to tell pictures by
_CUT = (0.01, 0.025, 0.04, 0.055, 0.07, 0.085, 0.1)  # off every side
_NETWORKS = 1 / 16  # off every side of the centre square: 224 of 256 pixels
_SMALL = 64  # shorter side of pictures that nobody cuts borders off
_GREY = 1.5  # levels between channels of a picture in grey, but for noise of the encoder
_SMALLEST = 16  # side of images that can be told apart
_DECODED = 64  # side that files are decoded to
_SIDE = 32  # side of what is kept of them
_MOST_FILES = 50_000  # that are decoded for it alone; as many as some minutes take
_TOGETHER = 1 << 21  # pairs compared at once
_TRIED = 16  # thumbnails compared with one picture per piece of the code


class Looks(NamedTuple):
    """What of N pictures is compared.

    Attributes:
        codes: Difference hashes of the whole and of its inner parts, uint64, `(N, V)`.
        boxes: What is seen of the picture in each, as shares of its height and width: top, bottom,
            left and right, float32, `(N, V, 4)`.
        seen: Whether the inner parts are looked at: not of pictures that are small anyway, `(N,)`.
        small: The whole, squeezed to a square, uint8, `(N, C, S, S)`.
        colour: How far channels lie apart, in levels, float32, `(N,)`.
        limits: How far the same picture may be apart where it has colour, float32, `(N,)`; 0 for
            one that is too plain to be told from others by its look.
        prints: Digests of the pixels at the size that is looked at, uint64, `(N,)`; 0 for a picture
            of one colour. By them those that are too plain are known again, where nothing changed.
    """

    codes: np.ndarray
    boxes: np.ndarray
    seen: np.ndarray
    small: np.ndarray
    colour: np.ndarray
    limits: np.ndarray
    prints: np.ndarray

    def joined(self, other: Looks) -> Looks:
        """Return both, these first."""
        return Looks(*map(np.concatenate, zip(self, other, strict=True)))

    def thumbnails(self, rows: np.ndarray, view: int) -> Tensor:
        """Return what some pictures show in a view, `(n, C, 16, 16)`, levels."""
        small, boxes = torch.from_numpy(self.small[rows]), torch.from_numpy(self.boxes[rows, view])
        return _means(small.float(), 16, 16, boxes)


def looks_of(pixels: Tensor, shapes: Sequence[tuple[int, int]] | None = None) -> Looks | None:
    """Return the looks of images, uint8, `(N, C, H, W)`; None if they are too small to tell.

    Args:
        pixels: The images, squeezed to a square if they are none.
        shapes: Their true widths and heights; None if they are as they seem.
    """
    if min(pixels.shape[2:]) < _SMALLEST:
        return None
    if not len(pixels):
        blank = _look(pixels.new_zeros(1, *pixels.shape[1:]), torch.ones(1, 2))
        return Looks(*(field[:0] for field in blank))
    if shapes is None:
        shapes = [(pixels.shape[3], pixels.shape[2])] * len(pixels)
    sides = torch.tensor(shapes, dtype=torch.float32).view(-1, 2)
    pairs = zip(pixels.split(512), sides.split(512), strict=True)
    return Looks(*map(np.concatenate, zip(*(_look(*pair) for pair in pairs), strict=True)))


def _boxes(sides: Tensor) -> Tensor:
    """Return what is looked at of pictures of these widths and heights, `(N, V, 4)`.

    That is the whole, the centre square, what networks are often given of it, and what is left when
    borders are cut off all four sides.
    """
    cuts = torch.tensor([0.0, 0.0, 0.0, *_CUT])
    low = cuts.view(1, -1, 1).repeat(len(sides), 1, 2)  # of height and of width
    square = sides.amin(1, keepdim=True) / sides.flip(1)
    low[:, 1] = (1 - square) / 2
    low[:, 2] = (1 - square * (1 - 2 * _NETWORKS)) / 2
    return torch.stack([low[..., 0], 1 - low[..., 0], low[..., 1], 1 - low[..., 1]], 2)


def _means(images: Tensor, height: int, width: int, boxes: Tensor) -> Tensor:
    """Return the means over `height` x `width` cells of a box in each, `(N, C, height, width)`."""
    down = _shares(images.shape[2], height, boxes[:, :2])
    across = _shares(images.shape[3], width, boxes[:, 2:])
    return down[:, None] @ images @ across[:, None].mT


def _shares(length: int, cells: int, ends: Tensor) -> Tensor:
    """Return which share of its cell every pixel of a line has, `(N, cells, length)`."""
    low, high = ends[:, :1] * length, ends[:, 1:] * length
    borders = low + (high - low) * torch.linspace(0, 1, cells + 1)
    begins = torch.arange(length)
    stops = torch.minimum(borders[:, 1:, None], begins + 1)
    shares = (stops - torch.maximum(borders[:, :-1, None], begins)).clamp(min=0)
    return shares / shares.sum(2, keepdim=True)


# Cells that lie together are often alike: spread, so that no piece of a code is all of one corner.
_SPREAD = np.arange(64) * 37 % 64


def _grey(images: Tensor) -> Tensor:
    """Return the brightness of colour images, `(N, 1, H, W)`; grey ones as they are."""
    if images.shape[1] == 1:
        return images
    return (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _look(pixels: Tensor, sides: Tensor) -> Looks:
    if min(pixels.shape[2:]) > _DECODED:
        pixels = squeezed(pixels, _DECODED)  # bytes are resized quickly
    values = pixels.contiguous().float()
    grey = _grey(values)
    boxes = _boxes(sides)
    cells = [_means(grey, 8, 9, boxes[:, view])[:, 0] for view in range(boxes.shape[1])]
    rises = [(one[..., 1:] - one[..., :-1]).flatten(1) for one in cells]
    # A rise of less than a level is noise of the encoder.
    bits = (np.ascontiguousarray((one > 1).numpy()[:, _SPREAD]) for one in rises)
    codes = np.stack([np.packbits(one, axis=1).view(">u8")[:, 0] for one in bits], 1)
    detail = (rises[0].abs() > 2).float().mean(1)
    colour = (values - values.mean(1, keepdim=True)).abs().mean((1, 2, 3))
    limits = torch.full_like(detail, _APART)
    limits[detail >= _DETAIL] = _APART_RICH
    limits[cells[0].flatten(1).std(1) < _PLAIN] = 0.0
    small = squeezed(pixels, _SIDE) if min(pixels.shape[2:]) > _SIDE else pixels
    seen = sides.amin(1) > _SMALL
    return Looks(
        codes,
        boxes.numpy(),
        seen.numpy(),
        small.numpy(),
        colour.numpy(),
        limits.numpy(),
        np.array([_print(one) for one in pixels.contiguous().numpy()], dtype=np.uint64),
    )


def _print(pixels: np.ndarray) -> int:
    """Return a digest of the pixels of a picture, 0 if there is but one value in each channel."""
    if (pixels == pixels[:, :1, :1]).all():
        return 0
    return int.from_bytes(hashlib.blake2b(pixels.tobytes(), digest_size=8).digest(), "big")


_known: dict[tuple[str, int, int, PixelRange | None], Looks] = {}


def looks_of_files(paths: Sequence[str], pixel_range: PixelRange | None = None) -> Looks | None:
    """Return the looks of image files, which are decoded for it, small; None if they are too many.

    Files that have not changed since are not decoded again. Those that cannot be are like no other.
    """
    if len(paths) > _MOST_FILES:
        return None
    depths, keys = Depths(pixel_range), []
    for path in paths:
        status = os.stat(path)  # noqa: PTH116
        keys.append((path, status.st_size, status.st_mtime_ns, pixel_range))

    def look(some: Sequence[tuple[str, int, int, PixelRange | None]]) -> None:
        pixels = torch.zeros(len(some), 3, _DECODED, _DECODED, dtype=torch.uint8)
        shapes = [(_DECODED, _DECODED)] * len(some)
        for row, (path, *_) in enumerate(some):
            # A file that cannot be decoded is met again, and told, when it is to be used.
            with contextlib.suppress(Exception):
                decoded, shapes[row] = read_squeezed(path, _DECODED, depths)
                pixels[row] = decoded.permute(2, 0, 1)
        looks = looks_of(pixels, shapes)
        assert looks is not None  # they are not too small
        for row, key in enumerate(some):
            _known[key] = Looks(*(field[row : row + 1] for field in looks))

    new = list(dict.fromkeys(key for key in keys if key not in _known))
    with ThreadPoolExecutor(usable_cpus()) as pool:
        list(pool.map(look, (new[start : start + 64] for start in range(0, len(new), 64))))
    if not keys:
        return looks_of(torch.zeros(0, 3, _DECODED, _DECODED, dtype=torch.uint8))
    return Looks(*map(np.concatenate, zip(*(_known[key] for key in keys), strict=True)))


def alike(first: Looks, second: Looks | None = None) -> np.ndarray:
    """Return, for every picture of `second`, one of `first` that looks like it, or -1.

    Without `second`: for every picture an earlier one of the same.

    Pictures whose codes differ in at most 5 bits agree in at least one of six pieces of 10 or 11
    bits, so only those that share a piece are compared. The whole of each picture is compared with
    the whole and the inner parts of the other.

    Returns:
        Rows of `first`, int64, `(len(second),)`.
    """
    within = second is None
    other = first if second is None else second
    found = _same(first.prints, other.prints, within)
    inner = range(1, first.codes.shape[1])
    for views in [(0, 0), *((view, 0) for view in inner), *((0, view) for view in inner)]:
        side = _Side(first, views[0]), _Side(other, views[1])
        rows = side[0].rows
        for piece in range(_BITS + 1):
            keys = _piece(side[0].codes[rows], piece)
            order = rows[np.argsort(keys, kind="stable")]
            keys.sort(kind="stable")
            open_ = side[1].rows[found[side[1].rows] < 0]
            wanted = _piece(side[1].codes[open_], piece)
            low, high = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, "right")
            for chunk in _chunks(high - low):
                i, j = _pairs(order, low[chunk], high[chunk], open_[chunk])
                close = _differing(*side, i, j) <= _bits(*side, i, j)
                close &= (i < j) if within else True
                _take(found, *side, i[close], j[close])
    return found


def _same(first: np.ndarray, other: np.ndarray, within: bool) -> np.ndarray:
    """Return for every print of `other` the first row of `first` that has it, or -1."""
    found = np.full(len(other), -1, dtype=np.int64)
    if len(first) and len(other):
        known, rows = np.unique(first, return_index=True)
        at = np.searchsorted(known, other).clip(max=len(known) - 1)
        same = (known[at] == other) & (other != 0)
        same &= (rows[at] < np.arange(len(other))) if within else True
        found[same] = rows[at][same]
    return found


class _Side:
    """Pictures in one view: `rows` are those that can be told apart in it."""

    def __init__(self, looks: Looks, view: int) -> None:
        self.looks, self.view = looks, view
        self.codes, self.limits = looks.codes[:, view], looks.limits
        can = looks.limits > 0
        self.rows = np.flatnonzero(can & looks.seen if view else can)


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


def _limits(first: _Side, other: _Side, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return how far each two pictures may be apart: as far as the stricter of both allows.

    Where both have little colour, it is the strict limit: drawings of one kind of thing are alike.
    """
    limits = np.minimum(first.limits[i], other.limits[j])
    coloured = np.maximum(first.looks.colour[i], other.looks.colour[j]) >= _COLOUR
    return np.where(coloured, limits, np.minimum(limits, np.float32(_APART)))


def _bits(first: _Side, other: _Side, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return in how many bits the codes of each two pictures may differ."""
    return np.where(_limits(first, other, i, j) < _APART_RICH, _BITS_STRICT, _BITS)


def _differing(first: _Side, other: _Side, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    return np.bitwise_count(first.codes[i] ^ other.codes[j])


def _take(found: np.ndarray, first: _Side, other: _Side, i: np.ndarray, j: np.ndarray) -> None:
    """Note down for each picture `j` the best of its candidates `i`, if it is good enough."""
    order = np.lexsort((i, _differing(first, other, i, j), j))
    i, j = i[order], j[order]
    starts = np.flatnonzero(np.r_[True, j[1:] != j[:-1]]) if len(j) else np.zeros(0, np.int64)
    place = np.arange(len(j)) - np.repeat(starts, np.diff(np.r_[starts, len(j)]))
    i, j = i[place < _TRIED], j[place < _TRIED]
    apart = np.concatenate(
        [_apart(first, other, i[k : k + 4096], j[k : k + 4096]) for k in range(0, len(i), 4096)]
        or [np.zeros(0)]
    )
    for k in np.flatnonzero(apart < _limits(first, other, i, j))[
        ::-1
    ].tolist():  # of several, the first stays
        found[j[k]] = i[k]


def _apart(first: _Side, other: _Side, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return how far thumbnails are apart, but for brightness, as a share of their contrast.

    Where one of the two has colour and the other none, it is how far they are apart in grey.
    """
    x, y = first.looks.thumbnails(i, first.view), other.looks.thumbnails(j, other.view)
    colourless = [side.looks.colour[rows] < _GREY for side, rows in ((first, i), (other, j))]
    if (mixed := torch.from_numpy(colourless[0] != colourless[1])).any():
        x, y = (torch.where(mixed.view(-1, 1, 1, 1), _grey(v), v) for v in (x, y))
    x, y = (v.flatten(2) - v.flatten(2).mean(2, keepdim=True) for v in (x, y))
    apart, *contrasts = (v.square().mean((1, 2)).sqrt() for v in (x - y, x, y))
    return (apart / torch.minimum(*contrasts).clamp(min=1e-6)).numpy()

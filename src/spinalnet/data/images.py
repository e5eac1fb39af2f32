"""Image files: checked, and decoded by threads to square uint8 pixels.

Everything that makes pixels of a file is in `read_pixels`, whoever asks: training in memory,
training from disk, prediction. Decoders release Python's lock, so threads use every processor,
write into the batch they fill, and need no copies of anything.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spinalnet._checks import InputError
from spinalnet.data import contents
from spinalnet.data.depths import Depths, is_deep, to_8_bits
from spinalnet.data.opening import SIDEWAYS, opened, turned
from spinalnet.texts import shown

# Whatever is computed from pixels and kept (features of a frozen network) is kept under this name
# too: a change of `read_pixels` that changes pixels changes it.
RECIPE = "draft-2,centre-square,bilinear-antialias,one-range-2,inks"

_DRAFT_MARGIN = 2  # times the wanted size; what less costs is measured in benchmarks/images.py
_CHUNK = 8  # images per task of a thread: the hand-over is then a small share of the work
_BATCHES_AHEAD = 2


# --- files that cannot be used --------------------------------------------------------------------


class BadImage(NamedTuple):
    """An image file that cannot be used, and why: `'{path}' {reason}` is a sentence."""

    path: str
    reason: str


class BadImagesError(InputError):
    """Image files cannot be used; the message lists every one of them, `bad` holds them.

    `advice` says what to do with them, with `{them}` for the files.
    """

    def __init__(self, bad: Sequence[BadImage], advice: str = "") -> None:
        self.bad = tuple(bad)
        advice = advice and "; " + advice.format(them="it" if len(bad) == 1 else "them")
        if len(bad) == 1:
            message = f"image '{shown(bad[0].path)}' {bad[0].reason}{advice}."
        else:
            message = f"{len(bad)} image files cannot be used{advice}:\n{bad_list(bad)}"
        super().__init__(message.rstrip())


def bad_list(bad: Iterable[BadImage]) -> str:
    """Return one line per file."""
    return "".join(f"'{shown(path)}' {reason}\n" for path, reason in bad)


def _reason(error: Exception, path: str) -> str:
    """Say what an exception of a decoder means."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, FileNotFoundError):
        return "does not exist"
    if isinstance(error, PermissionError):
        return "cannot be read: permission denied"
    if isinstance(error, UnidentifiedImageError):
        return contents.unread(path)
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "is a link to itself"
    said = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return f"is refused ({said})"
    return f"cannot be decoded ({said})"


# --- pixels of one file ---------------------------------------------------------------------------


def fit_to(images: Tensor, size: int) -> Tensor:
    """Bring uint8 images `(..., C, H, W)` to `size` x `size`.

    The largest centred square is cut out and resized (bilinear, antialiased), the usual "shorter
    side, then centre crop": shapes are kept, where stretching both sides would turn circles into
    ellipses, and every image comes out in the same size whatever its format.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    left, top, right, bottom = _centre_square(width, height)
    square = images[..., top:bottom, left:right]
    return squeezed(square if square.ndim == 4 else square[None], size).view(
        *images.shape[:-2], size, size
    )


def squeezed(batch: Tensor, size: int) -> Tensor:
    """Bring uint8 images `(N, C, H, W)` to `size` x `size`, all of them; other shapes stretch."""
    if batch.shape[-2:] == (size, size):
        return batch
    # Only the CPU resizes bytes.
    work = torch.uint8 if batch.device.type == "cpu" else torch.float32
    parts = [
        functional.interpolate(part.to(work), (size, size), mode="bilinear", antialias=True)
        for part in batch.split(4096)
    ]
    resized = torch.cat(parts) if len(parts) > 1 else parts[0]
    return resized if work == torch.uint8 else resized.round_().clamp_(0, 255).to(torch.uint8)


def _centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the largest centred square."""
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    return left, top, left + short, top + short


def _to_mode(image: Any, channels: int) -> Any:
    """Convert a PIL image of any mode of 8 bits to grey (1 channel) or RGB (3)."""
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        # On white, as viewers show it; dropping alpha would reveal whatever hides beneath.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


# Paper without ink, read the wrong way round, is covered with all four inks: 400 % in all. Printers
# hold less than 340 %, so that readings with more of it than a stray pixel are no prints.
_TOO_MUCH_INK, _STRAY = 3.5 * 255, 1e-3


def _true_inks(image: Any) -> Any:
    """Return a CMYK JPEG with its inks the right way round.

    Photographs for print hold them inverted, which Adobe's marker says. Without it Pillow, as
    browsers do, takes that for granted; where this cannot be and the opposite can, it is not so.
    """
    import numpy as np
    from PIL import ImageChops

    if image.format != "JPEG" or image.mode != "CMYK" or "adobe" in image.info:
        return image
    inks = np.asarray(image).sum(2, dtype=np.int32)
    as_read, inverted = (
        (total > _TOO_MUCH_INK).mean() > _STRAY for total in (inks, 4 * 255 - inks)
    )
    return ImageChops.invert(image) if as_read and not inverted else image


def read_pixels(path: str, channels: int, size: int, depths: Depths | None = None) -> Tensor:
    """Decode one image file, the first frame if it has several, as a camera held upright sees it.

    Args:
        path: The file.
        channels: 1 for grey, 3 for colour.
        size: Height and width.
        depths: How files with more than 8 bits are scaled; what is found is noted there.

    Returns:
        uint8, `(size, size, channels)`.

    Raises:
        Exception: Whatever the decoder raises; `_reason` says what it means.
    """
    return _decoded(path, channels, size, depths, _centre_square)[0]


def read_squeezed(
    path: str, size: int, depths: Depths | None = None
) -> tuple[Tensor, tuple[int, int]]:
    """Decode one image file and bring all of it to a square, whatever its shape; in colour.

    Arguments and errors are those of `read_pixels`.

    Returns:
        uint8, `(size, size, 3)`; width and height of the upright picture.
    """
    return _decoded(path, 3, size, depths, lambda width, height: (0, 0, width, height))


def _decoded(
    path: str,
    channels: int,
    size: int,
    depths: Depths | None,
    cut: Callable[[int, int], tuple[int, int, int, int]],
) -> tuple[Tensor, tuple[int, int]]:
    """Return what `cut` takes of a picture in a square, and the picture's width and height."""
    import numpy as np

    with opened(path) as (image, orientation):
        full = image.size
        # JPEG decodes at 1/2, 1/4 or 1/8 much faster; the margin leaves something to resize.
        image.draft("L" if channels == 1 else "RGB", (_DRAFT_MARGIN * size, _DRAFT_MARGIN * size))
        if is_deep(image):
            image = to_8_bits(image, depths or Depths())
        image = turned(_true_inks(image), orientation)
        box = cut(*image.size)
        if box != (0, 0, *image.size):
            image = image.crop(box)
        pixels = torch.from_numpy(np.array(_to_mode(image, channels)))
    # As a batch of one, which torch recognises as channels-last: half the time to resize.
    batch = pixels.view(1, *pixels.shape[:2], channels).permute(0, 3, 1, 2)
    upright = full[::-1] if orientation in SIDEWAYS else full
    return squeezed(batch, size)[0].permute(1, 2, 0), upright


# --- pixels of many files -------------------------------------------------------------------------


def usable_cpus() -> int:
    """Return how many processors this process may use, which a container may limit."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _fill(out: Tensor, paths: Sequence[str], depths: Depths | None) -> list[tuple[int, BadImage]]:
    """Decode files into the rows of `out` `(n, H, W, C)`; return (row, what is wrong with it)."""
    bad = []
    for row, path in enumerate(paths):
        try:
            if not os.path.isfile(path) and os.path.exists(path):  # noqa: PTH110, PTH113 (quicker)
                bad.append((row, BadImage(path, "is a folder, a pipe or a device, not a file")))
                continue  # which might never end
            out[row] = read_pixels(path, out.shape[3], out.shape[1], depths)
        except Exception as error:  # decoders raise almost anything on broken files
            bad.append((row, BadImage(path, _reason(error, path))))
    return bad


def read_batches(
    batches: Iterable[Sequence[str]],
    channels: int,
    size: int,
    threads: int,
    pinned: bool = False,
    depths: Depths | None = None,
) -> Generator[tuple[Tensor, list[tuple[int, BadImage]]], None, None]:
    """Decode batches of files, in their order, some batches ahead of who uses them.

    Threads end, and what they have not begun is dropped, when the iterator is closed, whether at
    its end, by an error or by an interruption.

    Args:
        batches: Paths of each batch.
        channels: 1 for grey, 3 for colour.
        size: Height and width.
        threads: Threads that decode; 0 to decode in the caller's, without reading ahead.
        pinned: Whether batches are made in page-locked memory, for CUDA.
        depths: As for `read_pixels`.

    Yields:
        Pixels, uint8, `(B, C, H, W)` in channels-last memory, with rows of any content where a
        file cannot be used; and those rows, with what is wrong.
    """

    def empty(paths: Sequence[str]) -> Tensor:
        return torch.empty(len(paths), size, size, channels, dtype=torch.uint8, pin_memory=pinned)

    if threads == 0:
        for paths in batches:
            out = empty(paths)
            bad = _fill(out, paths, depths)
            yield out.permute(0, 3, 1, 2), bad
        return
    ahead: deque[tuple[Tensor, list[tuple[int, Future[list[tuple[int, BadImage]]]]]]] = deque()

    def finished() -> tuple[Tensor, list[tuple[int, BadImage]]]:
        out, tasks = ahead.popleft()
        bad = [(start + row, what) for start, task in tasks for row, what in task.result()]
        return out.permute(0, 3, 1, 2), bad

    pool = ThreadPoolExecutor(threads, thread_name_prefix="spinalnet-images")
    try:
        for paths in batches:
            out = empty(paths)
            tasks = []
            for start in range(0, len(paths), _CHUNK):
                rows = slice(start, start + _CHUNK)
                tasks.append((start, pool.submit(_fill, out[rows], paths[rows], depths)))
            ahead.append((out, tasks))
            if len(ahead) > _BATCHES_AHEAD:
                yield finished()
        while ahead:
            yield finished()
    finally:
        pool.shutdown(cancel_futures=True)


def read_all(
    paths: Sequence[str], channels: int, size: int, depths: Depths | None = None
) -> tuple[Tensor, list[tuple[int, BadImage]]]:
    """Decode image files to one tensor; arguments as for `read_pixels`.

    Returns:
        Pixels, uint8, `(N, C, H, W)`, with rows of any content where a file cannot be used; and
        those rows, with what is wrong.
    """
    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    starts = range(0, len(paths), 64)
    batches = (paths[start : start + 64] for start in starts)
    bad = []
    for start, (pixels, wrong) in zip(
        starts, read_batches(batches, channels, size, usable_cpus(), depths=depths), strict=True
    ):
        images[start : start + len(pixels)] = pixels
        bad += [(start + row, what) for row, what in wrong]
    return images, bad


# How files of these formats end. Bytes may follow; then a file is decoded to be sure.
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


def _defect(path: str, thorough: bool, depths: Depths) -> BadImage | None:
    """Return what is wrong with a file as far as its beginning and its end say, or all of it."""
    try:
        with opened(path, whole=False) as (image, _):
            end = _ENDS.get(str(image.format), b"")
        with Path(path).open("rb") as file:
            file.seek(-len(end), os.SEEK_END)
            unsure = thorough or not end or is_deep(image) or file.read() != end
        if unsure:
            read_pixels(path, 3, 32, depths)
    except Exception as error:  # decoders raise almost anything on broken files
        return BadImage(path, _reason(error, path))
    return None


_checked: dict[
    tuple[Any, ...], tuple[list[tuple[int, BadImage]], list[int], list[float], bool]
] = {}


def find_bad(
    paths: Sequence[str], *, thorough: bool, depths: Depths | None = None
) -> list[tuple[int, BadImage]]:
    """Find files that cannot be used without keeping any pixels.

    Args:
        paths: Image files.
        thorough: Whether to decode every file. Otherwise its header and its last bytes are looked
            at, which finds what is empty, cut off or no image, at a tenth of the time; files with
            more than 8 bits per channel are decoded all the same, because all of them decide how
            they are scaled.
        depths: As for `read_pixels`.

    Returns:
        Places in `paths`, with what is wrong there. Files that have not changed since are not
        looked at again.
    """
    depths = depths or Depths()
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with contextlib.suppress(OSError):  # the check will tell
            status = os.stat(path)  # noqa: PTH116 (a Path per file costs more than the call)
            digest.update(os.fsencode(path))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    key = digest.hexdigest(), thorough, depths.pixel_range, depths.alone
    if key not in _checked:
        starts = range(0, len(paths), 256)
        found_by_all = Depths(depths.pixel_range, alone=depths.alone)

        def look(start: int) -> list[tuple[int, BadImage]]:
            places = range(start, len(paths))[:256]
            found = ((i, _defect(paths[i], thorough, found_by_all)) for i in places)
            return [(i, what) for i, what in found if what is not None]

        with ThreadPoolExecutor(usable_cpus()) as pool:
            bad = [row for rows in pool.map(look, starts) for row in rows]
        _checked[key] = bad, found_by_all.peaks, found_by_all.beyond, found_by_all.any_deep
    bad, peaks, beyond, any_deep = _checked[key]
    depths.peaks += peaks
    depths.beyond += beyond
    depths.any_deep |= any_deep
    return bad


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
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

"""What the images of a folder look like, from some of them: colour or grey, small or large."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spinalnet._checks import InputError
from spinalnet.data.folders import iter_images
from spinalnet.data.opening import opened

_SAMPLE = 64
_GREY = ("1", "L", "LA", "La", "I", "F")


@dataclass(frozen=True)
class Looks:
    """What images look like.

    Attributes:
        side: Median of the shorter sides, in pixels.
        is_colour: Whether most are stored in colour.
    """

    side: int
    is_colour: bool


def look_at(folder: Path) -> Looks | None:
    """Return what the images below a folder look like; None if none can be read."""
    try:
        files = [str(path) for path in iter_images([folder])]
    except (InputError, OSError):
        return None  # whoever loads them tells
    return _of_files(files[:: max(1, len(files) // _SAMPLE)])


def _of_files(paths: Sequence[str]) -> Looks | None:
    headers = list(_headers(paths))
    if not headers:
        return None
    side = statistics.median_low(min(size) for size, _ in headers)
    return Looks(side, 2 * sum(colour for _, colour in headers) > len(headers))


def _headers(paths: Iterable[str]) -> Iterable[tuple[tuple[int, int], bool]]:
    for path in paths:
        try:
            with opened(path, whole=False) as (image, _):
                yield image.size, not image.mode.startswith(_GREY) or image.mode == "LAB"
        except Exception:  # decoders raise almost anything on broken files
            continue

"""What a file holds, told by its first bytes: which kind of image, and whether it is read here.

The one place that knows kinds of image files. What Pillow cannot read by itself is read by a
plugin where one is installed (`pillow-heif`, `pillow-jxl-plugin`), which is then made known to it.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from pathlib import Path

HEAD = 64  # bytes that are enough to tell

# Endings that are believed: such files are not opened before they are decoded.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

# Endings of what lies beside images and holds none: not opened either, there may be one per image.
_NO_IMAGES = (
    *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html", ".py"),
    *(".mat", ".npy", ".npz", ".pt", ".pth", ".zip", ".tar", ".gz", ".mp4", ".avi", ".mov", ".svg"),
)

# Their first bytes are those of a TIFF, of which Pillow would read the small preview alone.
_RAW = (*(".nef", ".cr2", ".cr3", ".crw", ".arw", ".dng", ".orf", ".rw2", ".raf", ".pef", ".srw"),)

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")


def kind_of(head: bytes, suffix: str = "") -> str | None:
    """Return which kind of image begins so, None if none that is known.

    Args:
        head: The first `HEAD` bytes of a file, all of a shorter one.
        suffix: Its ending, in lower case: TGA has no mark of its own.
    """
    for kind, begins in _MARKS.items():
        if begins(head):
            return kind
    return "TGA" if suffix in (".tga", ".icb", ".vda", ".vst") and _is_targa(head) else None


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


def _is_bitmap(head: bytes) -> bool:
    # Two letters could begin a text; the size of the header behind them could not.
    sizes = (12, 40, 52, 56, 64, 108, 124)
    return head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in sizes


def _brands(head: bytes) -> list[bytes]:
    """Return the brands of an ISO media file, its own and those it is compatible with."""
    if head[4:8] != b"ftyp":
        return []
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return [head[8:12], *(head[i : i + 4] for i in range(16, end - 3, 4))]


def _is_heif(head: bytes) -> bool:
    brands = _brands(head)
    return bool(brands) and (brands[0] in _HEIF_BRANDS or brands[0] in (b"mif1", b"msf1"))


def _is_targa(head: bytes) -> bool:
    return (
        len(head) >= 18
        and head[1] in (0, 1)
        and head[2] in (1, 2, 3, 9, 10, 11)
        and head[16] in (1, 8, 15, 16, 24, 32)
        and any(head[12:14])
        and any(head[14:16])
    )


_MARKS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _starts(b"\xff\xd8\xff"),
    "PNG": _starts(b"\x89PNG\r\n\x1a\n"),
    "GIF": _starts(b"GIF87a", b"GIF89a"),
    "BMP": _is_bitmap,
    "TIFF": _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "WebP": lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP",
    "PNM": lambda head: re.match(rb"P[1-6]\s+(#|\d)", head) is not None,
    "AVIF": lambda head: bool({b"avif", b"avis"} & set(_brands(head))),
    "HEIC": _is_heif,
    "JPEG XL": _starts(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "JPEG 2000": _starts(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
}


@functools.cache
def lacking(kind: str) -> str | None:
    """Return why a kind of image cannot be read here, with what helps; None if it can be.

    A plugin that reads it is made known to Pillow.
    """
    from PIL import features

    known = {"AVIF": "avif", "JPEG 2000": "jpg_2000", "WebP": "webp"}
    if known.get(kind) in features.get_supported():
        return None
    plugins = {
        "AVIF": ("pillow_avif", "pillow-avif-plugin"),
        "HEIC": ("pillow_heif", "pillow-heif"),
        "JPEG XL": ("pillow_jxl", "pillow-jxl-plugin"),
    }
    if kind not in plugins:
        return "Pillow is built without it" if kind in known else None
    module, package = plugins[kind]
    try:
        plugin = importlib.import_module(module)
        if kind == "HEIC":  # the others make themselves known
            plugin.register_heif_opener()
    except Exception:  # a plugin that is broken is as good as none
        return f"no reader: pip install {package}"
    return None


def judge(name: str, head: Callable[[], bytes]) -> tuple[bool, str]:
    """Return whether a file is an image that can be read here, and if not why, where that is known.

    Args:
        name: Its name.
        head: Reads its first bytes; called only where the ending does not say what it is.

    Raises:
        OSError: If it cannot be read.
    """
    name = name.lower()
    if name.endswith(SUFFIXES):
        return True, ""
    if name.endswith(_RAW):
        return False, "camera raw: export as JPEG or TIFF"
    if name.endswith(("~", ".bak", ".tmp", ".part", ".partial", ".crdownload", ".download")):
        return False, "backup or unfinished"
    if name.endswith(_NO_IMAGES):
        return False, ""
    dot = name.rfind(".")
    kind = kind_of(head(), name[dot:] if dot > 0 else "")
    reason = lacking(kind) if kind else ""
    return reason is None, reason or ""


def unread(path: str) -> str:
    """Say what a file is that Pillow does not know: `'{path}' {this}` is a sentence."""
    with Path(path).open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "is empty"
    kind = kind_of(head)
    if kind is None:
        return "is not an image"
    if reason := lacking(kind):
        return f"is {kind} ({reason})"
    return f"begins as {kind} files do, but cannot be decoded: damaged, or of a rare variant"


def prepare() -> None:
    """Make every plugin that is installed known to Pillow, whatever a file is called."""
    for kind in _MARKS:
        lacking(kind)

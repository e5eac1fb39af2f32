"""Image files opened so that nothing in them counts but pixels and how the camera was held.

What people's cameras, editors and servers write beside the pixels is often mistyped, cut off or
huge, and decoders refuse whole files for it. So a copy without it is what the decoder gets to see:
segments of JPEG, chunks of PNG and tags of TIFF that no pixel depends on are left out, nothing is
written anew. The orientation is read by itself on the way.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

# The decoder speaks through Python's warnings and its own logger, from any thread: of metadata, and
# of images so large that they might be an attack (twice as large they are refused). Neither belongs
# on the terminal of somebody who trains a network. A filter that is set and taken back around each
# image would not do: it is the whole process's, and every change makes old warnings appear again.
_SILENT = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
logging.getLogger("PIL").addHandler(logging.NullHandler())


def _silence() -> None:
    if _SILENT not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def opened(path: str, *, whole: bool = True) -> Iterator[tuple[Any, int]]:
    """Open an image file.

    Args:
        path: The file.
        whole: Whether its pixels are wanted; without it, JPEG and PNG are read up to them only.

    Yields:
        The Pillow image, not yet decoded, and its orientation as EXIF counts it: 1 for upright, up
        to 8 (see `turned`).

    Raises:
        Exception: Whatever the decoder raises if the file is missing or no image.
    """
    from PIL import Image

    _silence()
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (a Path per file costs more)
        raise OSError("it is no file, but a folder, pipe, socket or device")  # a pipe would wait
    with Path(path).open("rb") as file:
        start = file.read(12)
        file.seek(0)
        content, orientation = file, None
        if start.startswith(_JPEG):
            content, orientation = _jpeg(file, whole)
        elif start.startswith(_PNG):
            content, orientation = _png(file, whole)
        elif start[:4] in _TIFF_STARTS:
            content, orientation = _tiff(file)
        elif start[4:12] in (b"ftypavif", b"ftypavis"):
            content = io.BytesIO(_UNREAD_EXIF.sub(rb"\1none", file.read(), count=8))
        with Image.open(content) as image:
            if orientation is None:
                orientation = _of_info(image.info)
            yield image, orientation


SIDEWAYS = (5, 6, 7, 8)  # orientations that swap width and height


def turned(image: Any, orientation: int) -> Any:
    """Return an image as a camera held upright sees it."""
    from PIL import Image

    ways = Image.Transpose
    way = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }.get(orientation)
    return image if way is None else image.transpose(way)


# --- orientation ----------------------------------------------------------------------------------

_ORIENTATION = 0x0112
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # types of tags that may hold it
_IN_XMP = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|>)\s*([1-8])""")


def _of_exif(data: bytes) -> int | None:
    """Return the orientation in EXIF data, a small TIFF file; None if there is no sound one."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (offset,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, offset)
        for place in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(order + "HHI", data, place)
            if tag == _ORIENTATION and kind in _INTEGERS and number == 1:
                (value,) = struct.unpack_from(order + _INTEGERS[kind], data, place + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:  # cut off before it
        pass
    return None


def _of_xmp(data: bytes) -> int | None:
    found = _IN_XMP.search(data)
    return int(found[1]) if found else None


def _of_info(info: dict[Any, Any]) -> int:
    """Return the orientation in what the decoder of another format has set aside."""
    exif, xmp = info.get("exif"), info.get("xmp")
    return (
        (_of_exif(exif) if isinstance(exif, bytes) else None)
        or (_of_xmp(xmp) if isinstance(xmp, bytes) else None)
        or 1
    )


# --- JPEG -----------------------------------------------------------------------------------------

_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_START_OF_SCAN, _END = 0xDA, 0xD9
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def _decides_colours(code: int, body: bytes) -> bool:
    """Whether a segment of an application says how colours are stored, and is long enough to."""
    jfif = code == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (code == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)


def _jpeg(file: IO[bytes], whole: bool) -> tuple[IO[bytes], int]:
    """Return a JPEG file without the segments of applications and without comments."""
    kept, exif, xmp = [file.read(2)], None, None
    while byte := file.read(1):
        if byte != b"\xff":  # stray bytes between segments, which decoders skip too
            continue
        while (mark := file.read(1)) == b"\xff":
            pass
        code = mark[0] if mark else _END
        if code == 0:
            continue
        kept.append(b"\xff" + mark)
        if code in _ALONE:
            continue
        if code == _END:
            break
        size = file.read(2)
        body = file.read(max(0, int.from_bytes(size, "big") - 2))
        if 0xE0 <= code <= 0xEF or code == 0xFE:
            if code == 0xE1 and exif is None and body.startswith(_EXIF):
                exif = _of_exif(body)
            elif code == 0xE1 and xmp is None and body.startswith(_XMP):
                xmp = _of_xmp(body)
            if not _decides_colours(code, body):
                kept.pop()
                continue
        kept += [size, body]
        if code == _START_OF_SCAN:
            break
    if whole:
        kept.append(file.read())
    return io.BytesIO(b"".join(kept)), exif or xmp or 1


# --- PNG ------------------------------------------------------------------------------------------

_LONGEST_TEXT = 2**20  # of what is unpacked to look for the orientation


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _LONGEST_TEXT)
    except zlib.error:
        return b""


def _of_text(kind: bytes, body: bytes) -> tuple[int | None, int | None]:
    """Return the orientations that a chunk of text states as EXIF and as XMP."""
    name, _, rest = body.partition(b"\0")
    if kind == b"iTXt" and name == b"XML:com.adobe.xmp":
        text = rest[2:].split(b"\0", 2)[-1]
        return None, _of_xmp(_unpacked(text) if rest[:1] == b"\1" else text)
    if kind in (b"tEXt", b"zTXt") and name == b"Raw profile type exif":
        text = _unpacked(rest[1:]) if kind == b"zTXt" else rest
        digits = b"".join(text.split(b"\n")[3:])  # after an empty line, the name and the length
        try:
            return _of_exif(bytes.fromhex(digits.decode("ascii"))), None
        except ValueError:
            return None, None
    return None, None


def _png(file: IO[bytes], whole: bool) -> tuple[IO[bytes], int]:
    """Return a PNG file without the chunks that decoders may skip, but for transparency.

    Those of animations go too: what is left is the still image that every decoder shows.
    """
    kept, exif, xmp = [file.read(8)], None, None
    few = 0  # largest grey of 2 or 4 bits, if it is such a file
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IDAT" and not whole:
            kept.append(head)
            break
        if kind[0] & 0x20 and kind != b"tRNS":
            if whole and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                body = file.read(length)
                if kind == b"eXIf":
                    exif = exif or _of_exif(body)
                else:
                    as_exif, as_xmp = _of_text(kind, body)
                    exif, xmp = exif or as_exif, xmp or as_xmp
                file.seek(4, io.SEEK_CUR)
            else:
                file.seek(length + 4, io.SEEK_CUR)
            continue
        body = file.read(length + 4)
        if kind == b"IHDR":
            bits, colours = body[8:10].ljust(2, b"\0")
            few = 2**bits - 1 if colours == 0 and bits in (2, 4) else 0
        elif kind == b"tRNS" and few:
            body = _clear_grey(body, few)
        kept += [head, body]
        if kind == b"IEND":
            break
    else:
        kept.append(head)
    return io.BytesIO(b"".join(kept)), exif or xmp or 1


def _clear_grey(body: bytes, largest: int) -> bytes:
    """Return the transparent grey of 2 or 4 bits as one of 8, which Pillow compares pixels with."""
    if len(body) != 6:  # damaged: the decoder says how
        return body
    grey = struct.pack(">H", min(body[1], largest) * 255 // largest)
    return grey + struct.pack(">I", zlib.crc32(b"tRNS" + grey))


# --- TIFF and AVIF --------------------------------------------------------------------------------

_TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}

# Tags that pixels depend on; see TIFF 6.0 and its supplements.
_TIFF_PIXELS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284),  # size, bits, colours, strips
    *(292, 293, 317, 320, 322, 323, 324, 325),  # fax, predictor, palette, tiles
    *(332, 338, 339, 347),  # inks, further samples, kind of numbers, tables of JPEG
    *(512, 513, 514, 515, 517, 518, 519, 520, 521),  # JPEG as it was before
    *(529, 530, 531, 532),  # luma and chroma
    *(34925, 50674),  # LZMA, LERC
}


def _tiff(file: IO[bytes]) -> tuple[IO[bytes], int]:
    """Return a TIFF file with those tags of its first page alone that pixels depend on."""
    content = io.BytesIO(file.read())
    data = content.getbuffer()
    order, is_big = _TIFF_STARTS[bytes(data[:4])], data[2:4].tobytes().strip(b"\0") == b"+"
    first, entry, counted = (8, 20, "Q") if is_big else (4, 12, "H")
    pointer = "Q" if is_big else "I"
    orientation = None
    try:
        (offset,) = struct.unpack_from(order + pointer, data, first)
        (count,) = struct.unpack_from(order + counted, data, offset)
        start = offset + struct.calcsize(counted)
        end = start + count * entry
        if end + struct.calcsize(pointer) > len(data):
            raise struct.error("the tags are cut off")
        kept = []
        for place in range(start, end, entry):
            tag, kind = struct.unpack_from(order + "HH", data, place)
            if tag in _TIFF_PIXELS:
                kept.append(bytes(data[place : place + entry]))
            elif tag == _ORIENTATION and kind in _INTEGERS:
                at = place + entry - struct.calcsize(pointer)
                (value,) = struct.unpack_from(order + _INTEGERS[kind], data, at)
                orientation = value if 1 <= value <= 8 else None
        struct.pack_into(order + counted, data, offset, len(kept))
        tags = b"".join(kept) + bytes(struct.calcsize(pointer))  # and no further page
        data[start : start + len(tags)] = tags
    except struct.error:  # damaged where the pixels are: the decoder says how
        pass
    data.release()
    return content, orientation or 1


# AVIF states how it is turned in its own words, which the decoder repeats as EXIF; EXIF itself does
# not count there. An item of an unknown type is not looked at.
_UNREAD_EXIF = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)

"""Sound pixels are used: whatever lies beside them in the file, and however deep they are."""

from __future__ import annotations

import io
import os
import random
import runpy
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor
from typer.testing import CliRunner

import spinalnet
from spinalnet._checks import InputError
from spinalnet.cli.root import app
from spinalnet.comparison.running import run_one
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.trained import load_trained
from spinalnet.data import images, opening
from spinalnet.data.batches import FolderDataset
from spinalnet.data.depths import Depths
from spinalnet.data.images import BadImagesError
from spinalnet.data.loading import load_dataset
from spinalnet.deploy.evaluation import evaluate_run
from spinalnet.deploy.predict import predict_images
from spinalnet.models import features
from spinalnet.training import TrainConfig

SIDE = 16


def pixels(path: Path, channels: int = 3, depths: Depths | None = None) -> Tensor:
    return images.read_pixels(str(path), channels, SIDE, depths)


def scene(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """A picture that looks different however it is turned; smooth, so that JPEG keeps it."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 9, columns * 7, 255 - rows * 4 - columns * 6], 2).astype(np.uint8)


def encoded(kind: str, pixels: np.ndarray | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0} | options
    elif kind in ("WEBP", "AVIF"):
        options = {"lossless": True} | options if kind == "WEBP" else {"quality": 100} | options
    Image.fromarray(scene() if pixels is None else pixels).save(buffer, kind, **options)
    return buffer.getvalue()


# --- what lies beside the pixels, written by hand -------------------------------------------------

Tag = tuple[int, int, int, bytes]  # number, type, count, four bytes of value or offset


def tags(order: str, entries: list[Tag], at: int = 8) -> bytes:
    """A directory of tags that begins at byte `at`, without one that follows."""
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    return struct.pack(order + "H", len(entries)) + body + bytes(4)


def exif(order: str, entries: list[Tag]) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, 8) + tags(order, entries)


def orientation(order: str, value: int, kind: int = 3) -> Tag:
    code = {1: "Bxxx", 3: "Hxx", 4: "I", 8: "hxx", 9: "i"}[kind]
    return 0x0112, kind, 1, struct.pack(order + code, value)


def with_segment(jpeg: bytes, code: int, body: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def with_chunk(png: bytes, kind: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    place = png.index(before) - 4
    return png[:place] + chunk(kind, body) + png[place:]


def riff(chunks: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp_with_exif(data: bytes) -> bytes:
    """An extended WebP file: header, lossless pixels, EXIF."""
    plain = encoded("WEBP")
    size = struct.unpack_from("<I", plain, 16)[0]
    assert plain[12:16] == b"VP8L"
    side = struct.pack("<I", SIDE - 1)[:3]
    header = b"\x08\0\0\0" + side + side
    return riff([(b"VP8X", header), (b"VP8L", plain[20 : 20 + size]), (b"EXIF", data)])


def tiff(order: str, entries: list[Tag], *, packed: bool = False, big: bool = False) -> bytes:
    """A TIFF file of `scene` with further tags."""
    strip = scene().tobytes()
    strip = zlib.compress(strip) if packed else strip
    start = 16
    bits = struct.pack(order + "3H", 8, 8, 8)
    pixels_at, bits_at = start, start + len(strip)
    own = [
        (256, 3, 1, SIDE),
        (257, 3, 1, SIDE),
        (258, 3, 3, bits_at),
        (259, 3, 1, 8 if packed else 1),
        (262, 3, 1, 2),
        (273, 4, 1, pixels_at),
        (277, 3, 1, 3),
        (278, 3, 1, SIDE),
        (279, 4, 1, len(strip)),
    ]
    mark = b"II" if order == "<" else b"MM"
    place = bits_at + len(bits) + len(strip) % 2
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, place)
        rows = [
            (tag, struct.pack(order + "HHQ", tag, kind, count) + value + bytes(4))
            for tag, kind, count, value in entries
        ]
        for tag, kind, count, value in own:
            code = "3H2x" if tag == 258 else "H6x" if kind == 3 else "Q" if count > 1 else "I4x"
            numbers = (8, 8, 8) if tag == 258 else (value,)
            packed_row = struct.pack(order + "HHQ" + code, tag, kind, count, *numbers)
            rows.append((tag, packed_row))
        body = struct.pack(order + "Q", len(rows)) + b"".join(row for _, row in sorted(rows))
        return head + strip + bits + bytes(len(strip) % 2) + body + bytes(8)
    head = mark + struct.pack(order + "HI", 42, place) + bytes(8)
    short = {
        tag: struct.pack(order + ("I" if kind == 4 or count > 1 else "Hxx"), value)
        for tag, kind, count, value in own
    }
    rows = [(tag, kind, count, short[tag]) for tag, kind, count, _ in own]
    return head + strip + bits + bytes(len(strip) % 2) + tags(order, [*rows, *entries], place)


# A file of each kind that holds EXIF, given its order of bytes and tags.
CARRIERS: dict[str, Callable[[str, list[Tag]], bytes]] = {
    "x.jpg": lambda order, entries: with_segment(
        encoded("JPEG"), 0xE1, b"Exif\0\0" + exif(order, entries)
    ),
    "x.png": lambda order, entries: with_chunk(encoded("PNG"), b"eXIf", exif(order, entries)),
    "late.png": lambda order, entries: with_chunk(
        encoded("PNG"), b"eXIf", exif(order, entries), b"IEND"
    ),
    "x.webp": lambda order, entries: webp_with_exif(exif(order, entries)),
    "x.tif": tiff,
    "packed.tif": lambda order, entries: tiff(order, entries, packed=True),
    "big.tif": lambda order, entries: tiff(order, entries, big=True),
}


def upright(array: np.ndarray, turn: int) -> np.ndarray:
    """What a picture stored in orientation `turn` shows."""
    return {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, -1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array),
    }[turn]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# Pillow reads no large TIFF files in big-endian order.
@pytest.mark.parametrize(
    ("name", "order"),
    [(name, o) for name in CARRIERS for o in "<>" if (name, o) != ("big.tif", ">")],
)
def test_every_orientation_of_every_format_is_read_by_itself(tmp_path, name, order):
    plain = pixels(write(tmp_path / name, CARRIERS[name](order, [])))
    if name != "x.jpg":
        assert np.array_equal(plain, scene())
    for turn in range(1, 9):
        for kind in (1, 3, 4, 8, 9):
            data = CARRIERS[name](order, [orientation(order, turn, kind)])
            found = pixels(write(tmp_path / name, data))
            assert np.array_equal(found, upright(plain.numpy(), turn)), (turn, kind)
    for value in (0, 9, 77):  # no orientation
        data = CARRIERS[name](order, [orientation(order, value)])
        assert torch.equal(pixels(write(tmp_path / name, data)), plain)


def garbled(draw: random.Random, order: str) -> Tag:
    """A tag of any type but the one it should have, with a count and a value of any size."""
    known = (0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825)
    others = (0x0103 + 0x8000, 0x829A, 0x9003, 0x927C, 0xA005, 0xC4A5, 0xEA1C, 33723, 34665, 700)
    number = draw.choice([*known, *others])
    count = draw.choice([0, 1, 2, 5, 1000, 2**31, 2**32 - 1])
    return number, draw.randrange(0, 15), count, draw.randbytes(4)


@pytest.mark.parametrize("name", CARRIERS)
def test_no_mistyped_tag_makes_an_image_bad(tmp_path, name):
    draw = random.Random(name)
    truth = {}
    refused = 0
    for _ in range(300):
        order = draw.choice("<" if name == "big.tif" else "<>")
        if order not in truth:
            clean = CARRIERS[name](order, [orientation(order, 6)])
            truth[order] = pixels(write(tmp_path / name, clean))
        data = CARRIERS[name](order, [orientation(order, 6), garbled(draw, order)])
        path = write(tmp_path / name, data)
        assert torch.equal(pixels(path), truth[order])
        assert images._defect(str(path), False, Depths()) is None
        if name.endswith(("jpg", "png")):
            try:
                with Image.open(path) as image:
                    ImageOps.exif_transpose(image, in_place=True)
            except Exception:  # whatever it is
                refused += 1
    if name in ("x.jpg", "x.png"):
        assert refused > 0, "the tags would not have hurt anyway"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_cut_off_anywhere_does_no_harm(tmp_path, kind):
    if kind == "AVIF":
        pytest.importorskip("PIL._avif")
    whole = exif("<", [(0x010F, 2, 4, b"abc\0"), orientation("<", 6), (0x0131, 2, 4, b"abc\0")])
    make = {
        "JPEG": lambda data: with_segment(encoded("JPEG"), 0xE1, b"Exif\0\0" + data),
        "PNG": lambda data: with_chunk(encoded("PNG"), b"eXIf", data),
        "WEBP": webp_with_exif,
        "AVIF": lambda data: with_exif_in_avif(data.ljust(len(whole), b"\xff")),
    }[kind]
    plain = pixels(write(tmp_path / "x", encoded(kind)))
    turned = upright(plain.numpy(), 6)
    for length in range(len(whole) + 1):
        found = pixels(write(tmp_path / "x", make(whole[:length])))
        # The second of three entries of 12 bytes, of which the last two are not used; in AVIF only
        # what its own boxes say counts.
        complete = length >= 8 + 2 + 24 - 2 and kind != "AVIF"
        assert np.array_equal(found, turned if complete else plain), length


def with_exif_in_avif(data: bytes) -> bytes:
    """An AVIF file whose EXIF item holds anything."""
    mark = exif("<", [(0x010F, 2, 4, b"\x01\x02\x03\x04"), *[(0x0131, 2, 4, b"wxyz")] * 2])
    whole = encoded("AVIF", exif=mark)
    assert len(data) == len(mark)
    assert whole.count(mark) == 1
    return whole.replace(mark, data)


def test_the_way_an_avif_file_is_turned_is_applied(tmp_path):
    pytest.importorskip("PIL._avif")
    stored = Image.Exif()
    stored[0x0112] = 6
    plain = pixels(write(tmp_path / "x.avif", encoded("AVIF")))
    found = pixels(write(tmp_path / "x.avif", encoded("AVIF", exif=stored)))
    assert np.array_equal(found, upright(plain.numpy(), 6))


XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"></x:xmpmeta>'


def test_an_orientation_in_other_places_is_found(tmp_path):
    """As XMP, and as ImageMagick writes EXIF into PNG files."""
    jpeg, png = encoded("JPEG"), encoded("PNG")
    xmp = with_segment(jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    plain, found = (pixels(write(tmp_path / "x.jpg", data)) for data in (jpeg, xmp))
    assert np.array_equal(found, upright(plain.numpy(), 6))
    key = b"XML:com.adobe.xmp\0"
    profile = exif(">", [orientation(">", 6)])
    text = (
        b"\nexif\n" + str(len(profile)).encode().rjust(8) + b"\n" + profile.hex().encode() + b"\n"
    )
    for kind, body in (
        (b"iTXt", key + b"\0\0\0\0" + XMP),
        (b"iTXt", key + b"\1\0\0\0" + zlib.compress(XMP)),
        (b"tEXt", b"Raw profile type exif\0" + text),
        (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)),
    ):
        path = write(tmp_path / "x.png", with_chunk(png, kind, body))
        assert np.array_equal(pixels(path), upright(scene(), 6)), kind
    # What EXIF says counts before XMP.
    both = with_segment(xmp, 0xE1, b"Exif\0\0" + exif("<", [orientation("<", 3)]))
    found = pixels(write(tmp_path / "x.jpg", both))
    assert np.array_equal(found, upright(plain.numpy(), 3))


SEGMENTS = {
    "JFIF cut off": (0xE0, b"JFIF\0\1"),
    "Adobe cut off": (0xEE, b"Adobe\0"),
    "a name without end": (0xED, b"Photoshop 3.0\x008BIM\x03\xed\xff"),
    "a resolution cut off": (0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x02ab"),
    "an ICC profile without number": (0xE2, b"ICC_PROFILE\0\1"),
    "pages of no kind": (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + b"\x01\xb0" * 40),
    "FlashPix": (0xE2, b"FPXR\0\xff"),
    "XMP of no language": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<<<"),
    "a comment": (0xFE, b"\xff\xd8\xff\xd9"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_no_segment_of_an_application_makes_a_jpeg_bad(tmp_path, name):
    plain = pixels(write(tmp_path / "x.jpg", encoded("JPEG")))
    path = write(tmp_path / "x.jpg", with_segment(encoded("JPEG"), *SEGMENTS[name]))
    assert torch.equal(pixels(path), plain)
    assert images.find_bad([str(path)], thorough=False) == []


CHUNKS = {
    "text of 2 MB": (b"tEXt", b"Comment\0" + b"x" * 2**21),
    "packed text of 2 MB": (b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 2**21)),
    "text of the world of 2 MB": (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"x" * 2**21)),
    "an ICC profile of 2 MB": (b"iCCP", b"a\0\0" + zlib.compress(b"x" * 2**21)),
    "text packed in no known way": (b"zTXt", b"Comment\0\7abc"),
    "an ICC profile packed in no known way": (b"iCCP", b"a\0\7abc"),
    "gamma cut off": (b"gAMA", b"\0"),
    "colours cut off": (b"cHRM", b"\0\0"),
    "a size cut off": (b"pHYs", b"\0"),
    "an empty intent": (b"sRGB", b""),
    "an animation cut off": (b"acTL", b"\0"),
    "an animation of no frames": (b"acTL", bytes(8)),
    "a frame out of place": (b"fcTL", b"\xff" * 26),
    "a chunk nobody knows": (b"zzZz", b"\xff" * 9),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("name", CHUNKS)
def test_no_chunk_beside_the_pixels_makes_a_png_bad(tmp_path, name, before):
    path = write(tmp_path / "x.png", with_chunk(encoded("PNG"), *CHUNKS[name], before))
    assert np.array_equal(pixels(path), scene())
    assert images.find_bad([str(path)], thorough=False) == []
    broken_sum = bytearray(path.read_bytes())
    place = broken_sum.index(CHUNKS[name][0]) + 4 + len(CHUNKS[name][1])
    broken_sum[place] ^= 255
    assert np.array_equal(pixels(write(path, bytes(broken_sum))), scene())


def test_damaged_pixels_stay_damaged(tmp_path):
    """What is left out must not hide what is wrong."""
    for kind in ("JPEG", "PNG", "TIFF"):
        whole = encoded(kind, np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
        path = write(tmp_path / "x", whole[: len(whole) * 2 // 3])
        assert images._defect(str(path), True, Depths()) is not None, kind
    assert images._defect(str(write(tmp_path / "x", b"\xff\xd8\xff")), False, Depths()) is not None


def test_metadata_garbled_at_random_never_changes_pixels(tmp_path):
    draw = random.Random(1)
    jpeg, png = encoded("JPEG"), encoded("PNG")
    truth = {"x.jpg": pixels(write(tmp_path / "x.jpg", jpeg)), "x.png": torch.from_numpy(scene())}
    for number in range(300):
        code = draw.choice([*range(0xE0, 0xF0), 0xFE])
        start = draw.choice(
            [b"", b"JFIF\0", b"Exif\0\0II*\0", b"MPF\0", b"ICC_PROFILE\0", b"FPXR\0"]
        )
        body = start + draw.randbytes(draw.randrange(40))
        assert torch.equal(
            pixels(write(tmp_path / "x.jpg", with_segment(jpeg, code, body))), truth["x.jpg"]
        ), number
        kind = draw.choice([b"gAMA", b"tIME", b"eXIf", b"iCCP", b"zTXt", b"iTXt", b"acTL", b"pHYs"])
        path = write(tmp_path / "x.png", with_chunk(png, kind, draw.randbytes(draw.randrange(40))))
        assert torch.equal(pixels(path), truth["x.png"]), number


# --- what the decoder would say -------------------------------------------------------------------


def test_a_large_image_is_read_without_a_warning(tmp_path, monkeypatch):
    """Warnings are errors in these tests; a size that might be an attack is one in Pillow."""
    path = write(tmp_path / "x.png", encoded("PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    assert np.array_equal(pixels(path), scene())


def test_nothing_of_the_decoder_reaches_the_terminal(tmp_path):
    palette = Image.fromarray(scene()).quantize(16)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    write(tmp_path / "mpo.jpg", with_segment(encoded("JPEG"), *SEGMENTS["pages of no kind"]))
    write(
        tmp_path / "exif.jpg", with_segment(encoded("JPEG"), 0xE1, b"Exif\0\0II*\0\x08\0\0\0\x09")
    )
    write(tmp_path / "apng.png", with_chunk(encoded("PNG"), *CHUNKS["an animation of no frames"]))
    write(
        tmp_path / "x.tif", tiff("<", [(0x011A, 5, 3, b"\xff\xff\0\0"), (700, 1, 2**30, b"abcd")])
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pathlib, sys; from PIL import Image\n"
            "from spinalnet.data.images import read_pixels\n"
            "from spinalnet.data.photographs import look_at\n"
            "Image.MAX_IMAGE_PIXELS = 200\n"
            "assert look_at(pathlib.Path(sys.argv[1]).parent) is not None\n"
            "for path in sys.argv[1:]: read_pixels(path, 3, 16)",
            *map(str, sorted(tmp_path.iterdir())),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- inks -----------------------------------------------------------------------------------------


def without_adobe(jpeg: bytes) -> bytes:
    place = jpeg.index(b"\xff\xee")
    return jpeg[:place] + jpeg[place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big") :]


# Marked as inverted, and not so: nobody can tell that.
@pytest.mark.parametrize(("marked", "inverted"), [(True, True), (False, True), (False, False)])
def test_inks_are_read_the_right_way_round_where_it_can_be_told(tmp_path, marked, inverted):
    rgb = scene()
    rgb[:4] = 255  # paper
    inks = Image.fromarray(rgb).convert("CMYK")
    buffer = io.BytesIO()
    # Pillow stores inks inverted, and says so by Adobe's marker.
    (inks if inverted else ImageChops.invert(inks)).save(buffer, "JPEG", quality=100)
    data = buffer.getvalue() if marked else without_adobe(buffer.getvalue())
    found = pixels(write(tmp_path / "x.jpg", data)).int()
    assert (found - torch.from_numpy(rgb).int()).abs().float().mean() < 6
    # The program that export writes beside a network reads them alike.
    program = runpy.run_path(str(Path(spinalnet.__file__).parent / "deploy" / "standalone.py"))
    alone = torch.from_numpy(program["preprocess"](tmp_path / "x.jpg")[0].copy()).int()
    truth = images.read_pixels(str(tmp_path / "x.jpg"), 3, 64).int()
    assert (alone - truth).abs().float().mean() < 1


# --- more than 8 bits -----------------------------------------------------------------------------


def png16(values: np.ndarray, colour: int, **chunks: bytes) -> bytes:
    """A PNG file of 16 bits: colour type 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    between = b"".join(chunk(kind.encode(), body) for kind, body in chunks.items())
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + end


def deep(bits: int, channels: int, seed: int = 0) -> np.ndarray:
    shape = (SIDE, SIDE) if channels == 1 else (SIDE, SIDE, channels)
    values = np.random.default_rng(seed).integers(0, 2**bits, shape)
    values.flat[0] = 2**bits - 1
    return values


def tif_of(
    planes: list[np.ndarray], order: str = "<", *, packed: bool = False, **stated: int
) -> bytes:
    """A TIFF file of these arrays, one strip each.

    Args:
        planes: `(SIDE, SIDE)` or `(SIDE, SIDE, channels)`.
        order: Of its bytes.
        packed: Whether it is compressed.
        stated: `zero_is` (0 white, 1 black, 2 RGB, 5 CMYK) and `numbers` (1 unsigned, 2 signed,
            3 floating-point).
    """
    strips = [np.ascontiguousarray(one, one.dtype.newbyteorder(order)).tobytes() for one in planes]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    many = len(planes) > 1
    channels = len(planes) if many else (*planes[0].shape, 1)[2]
    rows: dict[int, tuple[str, list[int]]] = {
        256: ("H", [SIDE]),
        257: ("H", [SIDE]),
        258: ("H", [8 * planes[0].dtype.itemsize] * channels),
        259: ("H", [8 if packed else 1]),
        262: ("H", [stated.get("zero_is", 1)]),
        273: ("I", [8 + sum(map(len, strips[:number])) for number in range(len(strips))]),
        277: ("H", [channels]),
        278: ("H", [SIDE]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [2 if many else 1]),
        339: ("H", [stated.get("numbers", 1)] * channels),
    }
    body, entries = b"".join(strips), []
    for tag, (code, numbers) in rows.items():
        value = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(value) > 4:
            body += bytes(len(body) % 2) + value
            value = struct.pack(order + "I", 8 + len(body) - len(value))
        entries.append((tag, 3 if code == "H" else 4, len(numbers), value.ljust(4, b"\0")))
    body += bytes(len(body) % 2)
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, 8 + len(body)) + body + tags(order, entries)


def tif16(values: np.ndarray, packed: bool) -> bytes:
    """A TIFF file of three 16-bit channels, little-endian."""
    return tif_of([values.astype("u2")], packed=packed, zero_is=2)


def planes16(values: np.ndarray, order: str) -> bytes:
    """The same, one channel after the other."""
    return tif_of([values[..., k].astype("u2") for k in range(3)], order, zero_is=2)


def ppm16(values: np.ndarray, largest: int = 65535, *, plain: bool = False) -> bytes:
    """A colour PPM file of more than 8 bits, plain in digits."""
    head = f"P{3 if plain else 6} {SIDE} {SIDE} {largest}\n".encode()
    if plain:
        return head + b"# a word\n" + " ".join(map(str, values.flatten())).encode()
    return head + values.astype(">u2").tobytes()


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(((values - low) / (high - low)).clip(0, 1) * 255).astype(np.uint8)


DEEP: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "grey.png": (1, lambda values: png16(values, 0)),
    "rgb.png": (3, lambda values: png16(values, 2)),
    "alpha.png": (4, lambda values: png16(values, 6)),
    "rgb.tif": (3, lambda values: tif16(values, packed=False)),
    "packed.tif": (3, lambda values: tif16(values, packed=True)),
    "planes.tif": (3, lambda values: planes16(values, "<")),
    "planes of the other order.tif": (3, lambda values: planes16(values, ">")),
    "rgb.ppm": (3, ppm16),
    "plain.ppm": (3, lambda values: ppm16(values, plain=True)),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_range_scales_every_kind_of_deep_file_alike(tmp_path, name, bits):
    channels, make = DEEP[name]
    values = deep(bits, channels)
    if channels == 4:
        values[..., 3] = 65535
    path = write(tmp_path / name, make(values))
    found = pixels(path, 1 if channels == 1 else 3, Depths((0, 2**bits - 1)))
    truth = scaled(values, 0, 2**bits - 1)
    if bits == 16:  # colour is cut to its upper byte
        error = found.numpy().astype(int) - truth.reshape(SIDE, SIDE, -1)[..., :3]
        assert np.abs(error).max() <= 1
    else:
        assert np.array_equal(found, truth.reshape(SIDE, SIDE, -1)[..., :3])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u2", "f4"])
def test_zero_is_white_where_a_deep_file_says_so(tmp_path, kind, packed):
    values = deep(12, 1)
    planes, numbers = [values.astype(kind)], 3 if kind == "f4" else 1
    truth = scaled(values, 0, 4095)
    for zero_is in (0, 1):
        data = tif_of(planes, packed=packed, zero_is=zero_is, numbers=numbers)
        found = pixels(write(tmp_path / "x.tif", data), 1, Depths((0, 4095)))[..., 0]
        assert np.array_equal(found, truth if zero_is else 255 - truth)


def test_signed_bytes_have_no_agreed_range_and_32_bits_may_be_unsigned(tmp_path):
    values = np.arange(-128, 128).reshape(SIDE, SIDE)
    path = write(tmp_path / "x.tif", tif_of([values.astype("i1")], numbers=2))
    with pytest.raises(ValueError, match=r"signed .* no agreed range"):
        pixels(path)
    found = pixels(path, 1, Depths((-128, 127)))[..., 0]
    assert np.array_equal(found, scaled(values, -128, 127))
    values = np.linspace(0, 2**32 - 1, SIDE * SIDE).reshape(SIDE, SIDE)
    write(path, tif_of([values.astype("u4")]))
    found = pixels(path, 1, Depths((0, 2**32 - 1)))[..., 0]
    assert np.array_equal(found, scaled(values, 0, 2**32 - 1))


MISREAD = {
    "zero is white": lambda: tif_of([deep(16, 1).astype("u2")], zero_is=0),
    "planes": lambda: planes16(deep(16, 3), "<"),
    "signed bytes": lambda: tif_of([deep(7, 1).astype("i1")], numbers=2),
    "unsigned 32 bits": lambda: tif_of([deep(16, 1).astype("u4")]),
}


@pytest.mark.parametrize("kind", MISREAD)
def test_the_program_beside_an_exported_file_refuses_what_pillow_misreads(tmp_path, kind):
    program = runpy.run_path(str(Path(spinalnet.__file__).parent / "deploy" / "standalone.py"))
    with pytest.raises(ValueError, match="save it with 8 bits"):
        program["preprocess"](write(tmp_path / "x.tif", MISREAD[kind]()))
    for plain in (tif_of([deep(16, 1).astype("u2")]), tif16(deep(16, 3), packed=True)):
        program["preprocess"](write(tmp_path / "x.tif", plain))


def test_prints_of_16_bits_are_not_washed_out(tmp_path):
    """Of 12 bits in 16 no ink would be left."""
    inks = deep(12, 4)
    path = write(tmp_path / "x.tif", tif_of([inks.astype("u2")], zero_is=5))
    depths = Depths()
    pixels(path, depths=depths)
    with pytest.raises(InputError, match="none a value above"):
        depths.settled()
    with pytest.raises(ValueError, match="only the upper 8 bits can be read"):
        pixels(path, depths=Depths((0, 4095)))
    write(path, tif_of([(inks * 16).astype("u2")], zero_is=5))
    truth = Image.frombytes("CMYK", (SIDE, SIDE), (inks // 16).astype("u1").tobytes())
    assert np.array_equal(pixels(path), np.asarray(truth.convert("RGB")))


@pytest.mark.parametrize("plain", [False, True])
def test_a_ppm_file_says_what_is_white_in_it(tmp_path, plain):
    values = deep(12, 3)
    found = pixels(write(tmp_path / "x.ppm", ppm16(values, 4095, plain=plain)))
    assert np.array_equal(found, scaled(values, 0, 4095))
    cut = ppm16(values, 4095, plain=plain)[: 900 if plain else -1]
    ((_, bad),) = images.find_bad([str(write(tmp_path / "x.ppm", cut))], thorough=False)
    assert "truncated" in bad.reason


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_grey_of_few_bits_is_white(tmp_path, bits):
    values = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 2**bits
    digits = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(digits.reshape(SIDE, -1).astype(np.uint8), axis=1)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    for clear in range(2**bits):
        between = chunk(b"tRNS", struct.pack(">H", clear)) + chunk(b"IDAT", body)
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + chunk(b"IEND", b"")
        found = pixels(write(tmp_path / "x.png", png), 1)[..., 0]
        truth = np.where(values == clear, 255, values * 255 // (2**bits - 1))
        assert np.array_equal(found, truth), clear


def test_grey_with_alpha_of_16_bits_is_scaled_and_shown_on_white(tmp_path):
    values = np.dstack([deep(12, 1), np.full((SIDE, SIDE), 65535)])
    values[:4, :, 1] = 0
    found = pixels(write(tmp_path / "x.png", png16(values, 4)), 1, Depths((0, 4095)))[..., 0]
    assert (found[:4] == 255).all()
    assert np.array_equal(found[4:], scaled(values[4:, :, 0], 0, 4095))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_16_bits_is_white(tmp_path, channels):
    values = deep(16, channels)
    clear = np.atleast_1d(values[5, 5])
    near = clear.copy()
    near[-1] ^= 1  # differs in the lower byte alone
    values[6, 6] = near if channels == 3 else near[0]
    mark = struct.pack(f">{channels}H", *clear)
    path = write(tmp_path / "x.png", png16(values, 0 if channels == 1 else 2, tRNS=mark))
    found = pixels(path, channels)
    assert (found[5, 5] == 255).all()
    assert np.array_equal(found[6, 6], scaled(near, 0, 65535))


def folder_of(tmp_path: Path, make: Callable[[int], bytes], ending: str = "png") -> Path:
    for k, name in enumerate(("a", "b")):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        for i in range(6):
            write(tmp_path / "data" / name / f"{i}.{ending}", make(10 * k + i))
    return tmp_path / "data"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("bits", "name"), [(12, "grey.png"), (12, "rgb.png"), (10, "rgb.tif")])
def test_twelve_bits_in_sixteen_are_refused_with_the_range_that_fits(
    tmp_path, bits, name, streamed
):
    channels, make = DEEP[name]
    folder = folder_of(tmp_path, lambda k: make(deep(bits, channels, k)), name[-3:])
    options = {"image_size": SIDE, "memory_budget": 0 if streamed else 2**30}
    with pytest.raises(InputError) as told:
        load_dataset(folder, **options)
    said = str(told.value)
    assert said.startswith("12 image files have 16 bits per channel, but none a value above ")
    assert f"--pixel-range), which is (0, {2**bits - 1}) for data of {bits} bits" in said
    assert "\n" not in said
    splits = load_dataset(folder, **options, pixel_range=(0, 2**bits - 1))
    assert splits.info.pixel_range == (0, 2**bits - 1)
    note = f"In files with more than 8 bits per channel 0 becomes black and {2**bits - 1} white."
    assert note in splits.info.notes
    batch, _ = next(iter(splits.normalized_by((), ()).test.batches(1)))
    path = splits.test.paths[0]
    number = 10 * "ab".index(Path(path).parent.name) + int(Path(path).stem)
    truth = scaled(deep(bits, channels, number), 0, 2**bits - 1).reshape(SIDE, SIDE, -1)
    assert np.array_equal(
        (batch[0] * 255).round().permute(1, 2, 0), np.broadcast_to(truth, (16, 16, 3))
    )


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("deep_one", [False, True])
def test_a_range_without_a_deep_file_is_told(tmp_path, streamed, deep_one):
    signed = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE), 99, np.int32)).save(signed, "TIFF")
    folder = folder_of(tmp_path, lambda k: encoded("PNG"))
    if deep_one:
        write(folder / "a" / "x.tif", signed.getvalue())
    options = {"image_size": SIDE, "memory_budget": 0 if streamed else 2**30}
    for _ in range(2):  # the second time files are not looked at again
        notes = load_dataset(folder, **options, pixel_range=(0, 4095)).info.notes
        told = "The pixel range changes nothing here: no file has more than 8 bits per channel."
        assert (told in notes) != deep_one
        assert any("4095 white" in note for note in notes) == deep_one
    assert told not in load_dataset(folder_of(tmp_path / "8", lambda k: encoded("PNG"))).info.notes


def test_a_dark_image_among_bright_ones_is_what_it_is(tmp_path):
    folder = folder_of(tmp_path, lambda k: png16(deep(8 if k == 3 else 16, 1, k), 0))
    info = load_dataset(folder, image_size=SIDE).info
    assert info.pixel_range == (0, 65535)
    assert (
        load_dataset(folder_of(tmp_path / "8", lambda k: encoded("PNG"))).info.pixel_range is None
    )


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("dtype", "low", "high", "kind"),
    [
        (np.int16, -1000, 3000, "signed or 32-bit"),
        (np.int32, 0, 100_000, "signed or 32-bit"),
        (np.float32, -1, 1, "32-bit float"),
    ],
)
def test_other_numbers_are_refused_unless_their_range_is_stated(
    tmp_path, dtype, low, high, kind, streamed
):
    def values(k: int) -> np.ndarray:
        return np.random.default_rng(k).uniform(1.2 * low, 1.2 * high, (SIDE, SIDE)).astype(dtype)

    def make(k: int) -> bytes:
        buffer = io.BytesIO()
        if dtype == np.int16:
            array = values(k)
            Image.frombytes("I;16", (SIDE, SIDE), array.tobytes()).save(
                buffer, "TIFF", tiffinfo={339: 2}
            )
        else:
            Image.fromarray(values(k)).save(buffer, "TIFF")
        return buffer.getvalue()

    folder = folder_of(tmp_path, make, "tif")
    options = {"image_size": SIDE, "in_channels": 1, "memory_budget": 0 if streamed else 2**30}
    with pytest.raises(BadImagesError, match=f"{kind} pixels have no agreed range") as told:
        load_dataset(folder, **options)
    assert len(told.value.bad) == 12
    assert "pixel_range=(LOW, HIGH) (--pixel-range)" in told.value.bad[0].reason
    splits = load_dataset(folder, **options, pixel_range=(low, high)).normalized_by((), ())
    batch, _ = next(iter(splits.test.batches(1)))
    path = splits.test.paths[0]
    number = 10 * "ab".index(Path(path).parent.name) + int(Path(path).stem)
    truth = scaled(values(number).astype(float), low, high)
    assert np.array_equal((batch[0, 0] * 255).round(), truth)


@pytest.mark.parametrize("wrong", [(4095, 0), (0, 0), (0,), (0, float("nan")), "ab", 3])
def test_a_range_that_is_none_is_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="pixel_range must be the values that become black"):
        load_dataset(tmp_path, pixel_range=wrong)


def test_a_model_scales_as_its_training_images_were(tmp_path):
    folder = folder_of(tmp_path, lambda k: png16(deep(12, 1, k) // (1 + k // 10), 0))
    spec = RunSpec.of(
        str(folder),
        "mnist-cnn",
        image_size=28,
        in_channels=1,
        pixel_range=(0, 4095),
        train=TrainConfig(epochs=1, device="cpu"),
    )
    run_one(spec, tmp_path / "run")
    for given in (tmp_path / "run", tmp_path / "run" / "model.safetensors"):
        trained = load_trained(given)
        assert trained.info.pixel_range == (0, 4095)
        assert trained.spec.data.pixel_range in (None, (0, 4095))
        assert trained.load_data(str(folder)).info.pixel_range == (0, 4095)
    # One file is scaled as all were: it says the same as its 8-bit twin.
    values = deep(12, 1, 99)
    write(tmp_path / "deep.png", png16(values, 0))
    Image.fromarray(scaled(values, 0, 4095)).save(tmp_path / "shallow.png")
    one, other = predict_images(tmp_path / "run", [tmp_path / "deep.png", tmp_path / "shallow.png"])
    assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_model_of_8_bits_refuses_what_would_be_black(tmp_path):
    rng = np.random.default_rng(0)
    folder = folder_of(
        tmp_path, lambda k: encoded("PNG", rng.integers(0, 256, (SIDE, SIDE), np.uint8))
    )
    spec = RunSpec.of(
        str(folder), image_size=28, in_channels=1, train=TrainConfig(epochs=1, device="cpu")
    )
    run_one(spec, tmp_path / "run")
    write(tmp_path / "dark.png", png16(deep(12, 1), 0))
    write(tmp_path / "bright.png", png16(deep(16, 1), 0))
    assert len(list(predict_images(tmp_path / "run", [tmp_path / "bright.png"]))) == 1
    with pytest.raises(BadImagesError, match="its 16-bit values end at 4095, nearly black"):
        list(predict_images(tmp_path / "run", [tmp_path / "dark.png"]))
    dark = folder_of(tmp_path / "new", lambda k: png16(deep(12, 1, k), 0))
    table = "image,label\n" + "".join(f"{name}/0.png,{name}\n" for name in "ab")
    labels = write(tmp_path / "labels.csv", table.encode())
    for options in ({}, {"labels": str(labels)}):
        with pytest.raises(InputError, match=r"none a value above 409\d.* knows no scale but that"):
            evaluate_run(tmp_path / "run", str(dark), device="cpu", **options)
    bright = folder_of(tmp_path / "full", lambda k: png16(deep(16, 1, k), 0))
    assert evaluate_run(tmp_path / "run", str(bright), device="cpu").metrics["n"] == 12


def test_the_decoder_sees_no_second_copy_of_an_image_without_metadata(tmp_path):
    """Nothing is written anew: what is left is, byte for byte, what was there."""
    jpeg = encoded("JPEG")
    noisy = with_segment(jpeg, 0xE1, b"Exif\0\0" + exif("<", [orientation("<", 6)]))
    for whole in (jpeg, noisy):
        with opening.opened(str(write(tmp_path / "x.jpg", whole))) as (image, turn):
            image.fp.seek(0)
            assert image.fp.read() == jpeg
            assert turn == (1 if whole is jpeg else 6)


def test_the_range_is_an_option_of_the_command(tmp_path):
    folder = str(folder_of(tmp_path, lambda k: png16(deep(12, 1, k), 0)))
    words = ["train", folder, "--image-size", "28", "--in-channels", "1", "--epochs", "1"]
    words += ["--device", "cpu", "--out", str(tmp_path / "run")]
    with pytest.raises(InputError, match="--pixel-range must be two numbers LOW,HIGH, got '4095'"):
        CliRunner().invoke(app, [*words, "--pixel-range", "4095"], catch_exceptions=False)
    with pytest.raises(InputError, match=r"none a value above 4095.*--pixel-range"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(app, [*words, "--pixel-range", "0,4095"], catch_exceptions=False)
    assert done.exit_code == 0
    assert load_trained(tmp_path / "run").info.pixel_range == (0, 4095)


def test_features_of_another_scale_are_other_features(tmp_path):
    path = str(write(tmp_path / "x.png", png16(deep(12, 1), 0)))

    def keys(scale: tuple[float, float] | None) -> list[bytes]:
        part = FolderDataset([path], torch.tensor([0]), 1, SIDE, pixel_range=scale)
        return features._sample_keys(part)

    assert keys(None) == keys(None)
    assert len({keys(scale)[0] for scale in (None, (0, 4095), (0, 1023))}) == 3


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\x01\x01\x11\0\xff\xd9",
            "begins as JPEG files do",
        ),
        # An older Pillow takes it for a TIFF without pixels.
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", ("begins as TIFF files do", "cannot be decoded")),
        (b"GIF89a\x10\0\x10\0\x80", "begins as GIF files do"),
        (b"<html>", "is not an image"),
    ],
)
def test_a_file_of_a_variant_that_is_not_decoded_is_not_called_no_image(tmp_path, data, said):
    ((_, bad),) = images.find_bad([str(write(tmp_path / "x.jpg", data))], thorough=False)
    assert bad.reason.startswith(said)


TIFFS = [
    *[
        ("RGB", how)
        for how in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma")
    ],
    *[("RGB", how) for how in ("zstd", "tiff_deflate")],
    *[("L", how) for how in ("raw", "tiff_lzw", "jpeg", "packbits")],
    *[("1", how) for how in ("raw", "group3", "group4", "tiff_ccitt", "packbits")],
    *[(mode, "tiff_lzw") for mode in ("P", "PA", "LA", "RGBA", "CMYK", "LAB", "I;16", "I", "F")],
    *[(mode, "raw") for mode in ("P", "PA", "LA", "RGBA", "CMYK", "LAB", "I;16", "YCbCr")],
]


@pytest.mark.parametrize(("mode", "how"), TIFFS)
def test_tags_that_are_left_out_change_no_pixel_of_any_kind_of_tiff(tmp_path, mode, how):
    image = Image.fromarray(scene(37, 53))
    if mode == "LAB":
        image = Image.merge("LAB", image.split())
    elif mode in ("I;16", "I", "F"):
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        image = (
            image
            if mode == "I;16"
            else Image.fromarray(np.asarray(image).astype({"I": "i4", "F": "f4"}[mode]))
        )
    else:
        image = image.convert("RGBA").convert(mode) if mode == "PA" else image.convert(mode)
    path = tmp_path / "x.tif"
    try:
        # A predictor is a tag that pixels depend on.
        more = {317: 2} if how == "tiff_lzw" and mode in ("RGB", "L", "RGBA") else {}
        words = {270: "a word", 305: "a program", 274: 1}
        image.save(path, compression=how, tiffinfo=words | more)
        Image.open(path).load()
    except (OSError, KeyError, ValueError) as error:
        pytest.skip(f"this Pillow does not write it, or not so that it can read it: {error}")
    with Image.open(path) as truth:
        truth.load()
        with opening.opened(str(path)) as (found, turn):
            found.load()
            assert (found.mode, found.size, turn) == (truth.mode, truth.size, 1)
            assert found.tobytes() == truth.tobytes()


@pytest.mark.parametrize("options", [{"tile": True}, {"big_tiff": True}, {"planar": True}])
def test_tiled_large_and_planar_tiff_files_stay_readable(tmp_path, options):
    """Written by hand: Pillow writes none of these."""
    order, side = "<", SIDE
    planes = np.ascontiguousarray(scene().transpose(2, 0, 1))
    if "big_tiff" in options:
        data = tiff("<", [orientation("<", 1)], packed=True, big=True)
    else:
        planar = "planar" in options
        bodies = [plane.tobytes() for plane in planes] if planar else [scene().tobytes()]
        start = 8
        places = [start + sum(map(len, bodies[:k])) for k in range(len(bodies))]
        end = start + sum(map(len, bodies))
        extra = struct.pack("<3H", 8, 8, 8) + bytes(2)
        at = {"bits": end, "places": end + 8, "sizes": end + 8 + 4 * len(bodies)}
        extra += struct.pack(f"<{len(bodies)}I", *places)
        extra += struct.pack(f"<{len(bodies)}I", *map(len, bodies))
        many = len(bodies) > 1
        where = [(324, 325)] if "tile" in options else [(273, 279)]
        entries = [
            (256, 3, 1, side),
            (257, 3, 1, side),
            (258, 3, 3, at["bits"]),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
            (277, 3, 1, 3),
            (284, 3, 1, 2 if planar else 1),
            (where[0][0], 4, len(bodies), at["places"] if many else places[0]),
            (where[0][1], 4, len(bodies), at["sizes"] if many else len(bodies[0])),
        ]
        entries += (
            [(322, 3, 1, side), (323, 3, 1, side)] if "tile" in options else [(278, 3, 1, side)]
        )
        rows = [(tag, kind, count, struct.pack("<I", value)) for tag, kind, count, value in entries]
        body = b"".join(bodies) + extra
        data = (
            b"II"
            + struct.pack("<HI", 42, 8 + len(body))
            + body
            + tags(order, [*rows, (700, 1, 9, b"abcd")])
        )
    path = write(tmp_path / "x.tif", data)
    assert np.array_equal(pixels(path), scene())


def test_a_pipe_with_the_name_of_an_image_does_not_wait_for_ever(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    (tmp_path / "y.jpg").mkdir()
    paths = [str(tmp_path / name) for name in ("x.jpg", "y.jpg", "z.jpg")]
    reasons = [bad.reason for _, bad in images.find_bad(paths, thorough=False)]
    assert (
        reasons[:2]
        == ["cannot be decoded (it is no file, but a folder, pipe, socket or device)"] * 2
    )
    assert reasons[2] == "does not exist"

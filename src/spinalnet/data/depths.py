"""Images of more than 8 bits per channel: one scale for a whole data set, never one per image.

The rule. Files of 8 bits are what they are. Everything deeper is scaled by one range of values for
all files of the data set, its low end black, its high end white, what lies beyond clipped:

- 0 to 65535 for unsigned 16-bit files, unless told otherwise. If no file of the set has a value in
  the upper half (12-bit data in 16-bit files end at 4095), all would become nearly black: refused,
  with the range that would fit.
- signed, 32-bit and floating-point files have no agreed range: refused until one is stated.

What a TIFF file says of its values (signed, zero is white, one channel after the other) and Pillow
does not look at, or not at every depth, counts here.

The range is part of what is known of the data (`DatasetInfo.pixel_range`), of the checkpoint, and
so of every later prediction.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

from spinalnet._checks import InputError

PixelRange = tuple[float, float]

FULL: PixelRange = (0.0, 65535.0)
_UPPER_HALF = 32768
_VISIBLE = 4096  # a sixteenth of the range: below it, an image ends as 16 of 256 greys
# Decoded to their upper 8 bits.
_SIXTEENTHS = {"RGB;16", "RGBA;16", "RGBa;16", "RGBX;16", "LA;16", "CMYK;16"}
_WAY_OUT = "say which values are black and white with pixel_range=(LOW, HIGH) (--pixel-range)"


def check_range(pixel_range: Sequence[float] | None) -> None:
    """Refuse a range that is none.

    Raises:
        InputError: If it is not two finite numbers, the lower one first.
    """
    if pixel_range is None:
        return
    try:
        low, high = map(float, pixel_range)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not (low < high and high - low < float("inf")):
        raise InputError(
            "pixel_range must be the values that become black and white, the lower one first, such "
            f"as (0, 4095), got {pixel_range!r}."
        )


class Depths:
    """How deep files are scaled, and what has been found in those read so far.

    Args:
        pixel_range: What becomes black and white; None for the rule above.
        alone: Whether files are read without the set they belong to, as in prediction by a model
            that has seen none with more than 8 bits: then the rule above is applied to each.
    """

    def __init__(self, pixel_range: PixelRange | None = None, *, alone: bool = False) -> None:
        self.pixel_range = pixel_range
        self.alone = alone
        self.peaks: list[int] = []  # largest value of every unsigned 16-bit file
        self.beyond: list[float] = []  # percent of values outside the range, if any
        self.any_deep = False  # whether a file had more than 8 bits, of whatever kind

    @property
    def low_high(self) -> PixelRange:
        """What becomes black and white."""
        return self.pixel_range or FULL

    def saw(self, peak: int) -> None:
        """Take note of the largest value of an unsigned 16-bit file.

        Raises:
            ValueError: If the file is read alone and would be nearly black.
        """
        if self.pixel_range is None and self.alone and 0 < peak < _VISIBLE:
            raise ValueError(
                f"its 16-bit values end at {peak}, nearly black on the scale of 0 to 65535, and "
                "the model knows no other; save it with 8 bits"
            )
        self.peaks.append(peak)

    def settled(self, *, by_model: bool = False) -> PixelRange | None:
        """Return the range of the set whose files have been read; None if none was deep.

        Args:
            by_model: Whether a model that is trained says the range, so that none can be stated.

        Raises:
            InputError: If 16-bit files use less than half of their range.
        """
        if self.pixel_range is not None or not self.peaks:
            return self.pixel_range
        peak = max(self.peaks)
        if peak >= _UPPER_HALF or peak == 0:
            return FULL
        bits = next(bits for bits in (8, 10, 12, 14, 15) if peak < 2**bits)
        said = (
            f"{len(self.peaks)} image file{'s have' if len(self.peaks) > 1 else ' has'} 16 bits "
            f"per channel, but none a value above {peak}, so that all would be too dark, or black"
        )
        if by_model:
            raise InputError(
                f"{said}, and the model knows no scale but that of 0 to 65535; save them with 8 "
                "bits, or train on such files."
            )
        raise InputError(
            f"{said}: {_WAY_OUT}, which is "
            f"(0, {2**bits - 1}) for data of {bits} bits, and (0, 65535) if they are so dark."
        )


def _coding(image: Any) -> str:
    """Return how the pixels lie in the file, in Pillow's words, such as "RGB;16B"."""
    if not image.tile:
        return ""
    coding = image.tile[0][3]
    return str(coding[0] if isinstance(coding, tuple) and coding else coding)


# Tags of TIFF: bits of each channel, whether zero is white, whether planes lie one after the other,
# and whether values are signed.
_BITS, _ZERO_IS, _PLANES, _NUMBERS = 258, 262, 284, 339
_WHITE, _APART, _UNSIGNED, _SIGNED = 0, 2, 1, 2


def _tag(image: Any, number: int, default: int) -> int:
    """Return the first value of a tag of a TIFF file, what it stands for without it elsewhere."""
    value = image.tag_v2.get(number, default) if image.format == "TIFF" else default
    return value[0] if isinstance(value, tuple) else value


def _has_signed_bytes(image: Any) -> bool:
    return image.mode == "L" and _tag(image, _NUMBERS, _UNSIGNED) == _SIGNED


def _has_deep_planes(image: Any) -> bool:
    """Whether 16-bit channels lie one after the other as they are, which Pillow takes for bytes."""
    apart = _tag(image, _PLANES, 1) == _APART and _tag(image, _BITS, 1) == 16
    return apart and len(_coding(image)) == 1


def _largest_of_ppm(image: Any) -> int:
    """Return the value that is white in a colour PPM file of more than 8 bits, 0 in all others."""
    if image.format != "PPM" or image.mode != "RGB" or not image.tile:
        return 0
    *_, args = image.tile[0]
    largest = args[-1] if isinstance(args, tuple) else args
    return largest if isinstance(largest, int) and largest > 255 else 0


def is_deep(image: Any) -> bool:
    """Whether an image that was opened, but not decoded, has other values than 0 to 255."""
    return (
        image.mode == "F"
        or image.mode.startswith("I")
        or _coding(image)[:-1] in _SIXTEENTHS
        or _has_signed_bytes(image)
        or _has_deep_planes(image)
        or bool(_largest_of_ppm(image))
    )


def to_8_bits(image: Any, depths: Depths) -> Any:
    """Decode a deep image and scale it to 8 bits, grey or colour, with white for transparency.

    Raises:
        ValueError: If its values have no agreed range, or no part in the range that was stated.
    """
    import numpy as np
    from PIL import Image

    depths.any_deep = True
    if largest := _largest_of_ppm(image):
        values = _values_of_ppm(image, largest)
        depths.saw(int(values.max()))
        return Image.fromarray(_scaled(values, depths))
    signed_bytes = _has_signed_bytes(image)
    if not signed_bytes and image.mode not in ("F", "I") and not image.mode.startswith("I;"):
        return _colour(image, depths)
    # Earlier versions of Pillow read 16-bit PNG files, and still read PGM files, to 32 bits.
    unsigned = image.mode.startswith("I;") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if not unsigned and depths.pixel_range is None:
        kind = "32-bit float" if image.mode == "F" else "signed or 32-bit"
        raise ValueError(f"{kind} pixels have no agreed range; save it with 8 bits, or {_WAY_OUT}")
    values = np.asarray(image)
    if signed_bytes:
        values = values.view(np.int8)
    elif image.mode == "I" and (_tag(image, _BITS, 0), _tag(image, _NUMBERS, 1)) == (32, _UNSIGNED):
        values = values.view(np.uint32)  # Pillow has no other mode for them
    if unsigned:
        depths.saw(int(values.max()))
    grey = _scaled(values, depths)
    if _tag(image, _ZERO_IS, 1) == _WHITE:  # Pillow turns 8 bits round, and no others
        grey = 255 - grey
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey = np.where(values == clear, np.uint8(255), grey)
    return Image.fromarray(grey)


def _scaled(values: Any, depths: Depths) -> Any:
    """Scale values of any type to bytes."""
    import numpy as np

    low, high = depths.low_high
    if outside := float(((values < low) | (values > high)).mean()):
        depths.beyond.append(100 * outside)
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return _table(low, high)[values]
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are no finite numbers")
    shares = (values.astype(np.float64) - low) / (high - low)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _table(low: float, high: float) -> Any:
    """Return the byte of every 16-bit value: looking it up takes a tenth of computing it."""
    import numpy as np

    shares = (np.arange(65536) - low) / (high - low)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)


def _colour(image: Any, depths: Depths) -> Any:
    """Decode an image of several 16-bit channels.

    Pillow keeps the upper byte of each, which is all that the full scale needs. For another one,
    and to compare with the transparent colour, the lower bytes are decoded too.
    """
    import numpy as np
    from PIL import Image

    clear = image.info.pop("transparency", None)
    exact = depths.low_high != FULL or clear is not None
    lower = _lower_bytes(image) if exact else None
    if _has_deep_planes(image):
        order = _order(image)
        image.tile = [_coded(tile, f"{tile[3][0]};16{order}") for tile in image.tile]
    image.load()
    upper = np.asarray(image)
    colours = upper if image.mode == "CMYK" else upper[..., :3]
    if lower is None:
        depths.saw(int(colours.max()) * 257)
        return image
    values = colours.astype(np.uint16) * 256 + lower
    depths.saw(int(values.max()))
    scaled = _scaled(values, depths)
    if clear is not None:
        scaled[(values == np.asarray(clear)).all(2)] = 255
    return Image.fromarray(np.dstack([scaled, upper[..., 3:]]))


def _values_of_ppm(image: Any, largest: int) -> Any:
    """Return a PPM file of more than 8 bits on the scale of 16, as Pillow reads grey ones."""
    import numpy as np

    width, height = image.size
    decoder, _, start, _ = image.tile[0]
    image.fp.seek(start)
    content = image.fp.read()
    if decoder == "ppm_plain":
        words = re.sub(rb"#[^\r\n]*", b"", content).split()
        values = np.array(words[: 3 * width * height], dtype=np.int64)
    else:
        values = np.frombuffer(content[: min(len(content) // 2 * 2, 6 * width * height)], ">u2")
    if values.size < 3 * width * height:
        raise OSError("image file is truncated")
    if values.min() < 0 or values.max() > largest:
        raise ValueError(f"it holds values outside of the 0 to {largest} that it states")
    shares = values.reshape(height, width, 3) / largest
    return np.rint(shares * 65535).astype(np.uint16)


def _order(image: Any) -> str:
    """Return in which order the bytes of a TIFF file lie, as Pillow calls it."""
    return "L" if image.tag_v2.prefix == b"II" else "B"


def _coded(tile: Any, coding: str) -> Any:
    """Return a piece of an image for the decoder, its pixels taken to lie in another way."""
    *rest, args = tile
    rest.append((coding, *args[1:]) if isinstance(args, tuple) else coding)
    return tuple(rest) if type(tile) is tuple else type(tile)(*rest)  # named since Pillow 11


def _lower_bytes(image: Any) -> Any:
    """Decode the lower byte of each colour of an image, which stays as it is."""
    import numpy as np
    from PIL import Image

    coding = _coding(image)
    kind, order = coding[:-1], coding[-1]
    other = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    if kind == "LA;16":  # grey and alpha, two bytes each, taken as four channels
        coding = "RGBA"
    elif kind in ("RGB;16", "RGBA;16"):
        coding = kind + other[order]
    elif _has_deep_planes(image):
        coding = ""
    else:
        raise ValueError(
            f"of channels stored as {coding} only the upper 8 bits can be read, and the pixel "
            "range asks for more; save it with 8 bits"
        )
    image.fp.seek(0)
    twin: Any
    with Image.open(io.BytesIO(image.fp.read())) as twin:
        swapped = f";16{other[_order(image)]}" if not coding else ""
        twin.tile = [_coded(tile, coding or tile[3][0] + swapped) for tile in twin.tile]
        twin.load()
        pixels = np.array(twin)
    return pixels[..., 1:2] if coding == "RGBA" else pixels[..., :3]

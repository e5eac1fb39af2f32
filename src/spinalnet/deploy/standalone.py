"""Bring photographs to what the network beside this file takes; needs Pillow and NumPy alone.

    python THIS_FILE photo.jpg ...

classifies them where onnxruntime is installed. In a program: `session()` is the network, if its
file is the one that this was written with; `preprocess(path)` is the input of one photograph, and
several are `np.concatenate([preprocess(path) for path in paths])`.

The steps are those of `spinalnet predict`: upright as the camera was held, transparency on white,
the largest centred square, resized (bilinear, antialiased). Written with the network by spinalnet;
the numbers below are the network's.
"""

from __future__ import annotations

import hashlib
import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

# --- of this network ---
MODEL: str = "model.onnx"
DIGEST: str = ""  # BLAKE2b of that file, 16 bytes; "" lets any file pass
SIDE: int = 64
CHANNELS: int = 3  # 1: grey, 3: colour
INPUTS: str = "uint8-hwc"  # or "uint8-chw", or "float": on the 0..1 scale, channels first
MEAN: tuple[float, ...] = ()  # of each channel, where the network does not normalise by itself
STD: tuple[float, ...] = ()
PIXEL_RANGE: tuple[float, float] | None = None  # black and white of files with more than 8 bits
OUTPUT: str = "probabilities"  # or "logits", or "values"
CLASSES: tuple[str, ...] = ()
# --- to here ---


def preprocess(path: str | Path) -> np.ndarray:
    """Return the input for one photograph: a batch of one, as `INPUTS` says."""
    with Image.open(path) as image:
        # JPEG is decoded at a fraction of its size where twice the wanted one is left.
        image.draft("L" if CHANNELS == 1 else "RGB", (2 * SIDE, 2 * SIDE))
        image = _upright(_true_inks(_to_8_bits(image)), image.info.get("exif", b""))
        short = min(image.size)
        left, top = ((size - short) // 2 for size in image.size)
        image = _to_mode(image.crop((left, top, left + short, top + short)))
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(image).reshape(1, SIDE, SIDE, CHANNELS)
    if INPUTS == "uint8-hwc":
        return pixels
    pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if INPUTS == "uint8-chw":
        return pixels
    scaled = pixels.astype(np.float32) / 255
    if MEAN:
        mean, std = (np.asarray(one, np.float32).reshape(1, -1, 1, 1) for one in (MEAN, STD))
        scaled = (scaled - mean) / std
    return scaled


def _true_inks(image: Any) -> Any:
    """Return a CMYK JPEG without Adobe's marker with its inks the right way round.

    As a rule they lie inverted. Where over a thousandth of the pixels then held more ink than any
    print, and none the other way round, they do not.
    """
    if image.mode != "CMYK" or image.format != "JPEG" or "adobe" in image.info:
        return image
    inks = np.asarray(image).sum(2, dtype=np.int32)
    as_read, inverted = ((ink > 3.5 * 255).mean() > 1e-3 for ink in (inks, 4 * 255 - inks))
    return ImageChops.invert(image) if as_read and not inverted else image


def _upright(image: Any, exif: bytes) -> Any:
    """Turn an image as its EXIF orientation says; nothing else in EXIF is looked at."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    ways = Image.Transpose
    turns = {
        2: ways.FLIP_LEFT_RIGHT,
        3: ways.ROTATE_180,
        4: ways.FLIP_TOP_BOTTOM,
        5: ways.TRANSPOSE,
        6: ways.ROTATE_270,
        7: ways.TRANSVERSE,
        8: ways.ROTATE_90,
    }
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == 0x0112 and kind == 3:
                (value,) = struct.unpack_from(f"{order}H", exif, place + 8)
                return image.transpose(turns[value]) if value in turns else image
    except struct.error:  # no EXIF, or cut off before it says
        pass
    return image


def _refuse_misread(image: Any) -> None:
    """Refuse TIFF files whose values Pillow hands out as others: inverted, unsigned or as noise."""
    if image.format != "TIFF":
        return
    bits, numbers = image.tag_v2.get(258, (1,))[0], image.tag_v2.get(339, (1,))[0]
    zero_is_white, apart = image.tag_v2.get(262) == 0, image.tag_v2.get(284) == 2
    if (bits > 8 and (zero_is_white or apart)) or (bits, numbers) in ((8, 2), (32, 1)):
        raise ValueError("Pillow does not read the values of this TIFF file; save it with 8 bits")


def _to_8_bits(image: Any) -> Any:
    """Scale an image of more than 8 bits per channel, grey, by the range of the training images."""
    _refuse_misread(image)
    if image.mode != "F" and not image.mode.startswith("I"):
        coding = str(image.tile[0][3]) if image.tile else ""
        if ";16" in coding and PIXEL_RANGE not in (None, (0.0, 65535.0)):
            raise ValueError("16-bit colours are decoded to 8 bits here; save the file with 8 bits")
        return image
    low, high = PIXEL_RANGE or (0.0, 65535.0)
    shares = (np.asarray(image).astype(np.float64) - low) / (high - low)
    return Image.fromarray(np.rint(shares.clip(0, 1) * 255).astype(np.uint8))


def _to_mode(image: Any) -> Any:
    """Show transparency on white, and convert to grey or colour."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if CHANNELS == 1 else "RGB")


def probabilities(answers: np.ndarray) -> np.ndarray:
    """Return the probability of each class, of the answers of the network `(N, classes)`."""
    if OUTPUT != "logits":
        return answers
    powers = np.exp(answers - answers.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def session() -> Any:
    """Return the network, in ONNX Runtime, that lies beside this file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the one that this was written with.
    """
    import onnxruntime  # pyright: ignore[reportMissingImports]

    path = Path(__file__).with_name(MODEL)
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"{MODEL} is not there, or is no file.")
    content = path.read_bytes()
    if DIGEST and hashlib.blake2b(content, digest_size=16).hexdigest() != DIGEST:
        raise ValueError(
            f"{MODEL} is damaged, or not the file that this program was written with: export the "
            'network again, or set DIGEST = "" in this program if you have changed the file.'
        )
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def main() -> int:
    """Classify the files that stand on the command line; return 2 where one cannot be."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may hold what it has no sign for
            stream.reconfigure(errors="backslashreplace")
    if not sys.argv[1:]:
        sys.stderr.write(f"give the photographs: python {Path(__file__).name} photo.jpg ...\n")
        return 2
    try:
        network = session()
    except Exception as error:  # also what ONNX Runtime raises, which has no common class
        sys.stderr.write(f"the network cannot be used: {error}\n")
        return 2
    code = 0
    for path in sys.argv[1:]:
        try:
            inputs = preprocess(path)
        except Exception as error:  # decoders raise what they like
            sys.stderr.write(f"{path} cannot be read: {error}\n")
            code = 2
            continue
        answers = np.asarray(network.run(None, {"inputs": inputs})[0])
        if CLASSES:
            row = probabilities(answers)[0]
            said = f"{CLASSES[row.argmax()]} ({row.max():.4f})"
        else:
            said = ", ".join(f"{value:g}" for value in answers[0])
        sys.stdout.write(f"{path}: {said}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

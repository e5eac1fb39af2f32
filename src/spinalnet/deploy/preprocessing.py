"""The program that brings photographs to what an exported network takes, written beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from spinalnet import files
from spinalnet.data import DatasetInfo

_TEMPLATE = Path(__file__).with_name("standalone.py")


def write_preprocessing(
    model: str | os.PathLike[str],
    content: bytes,
    info: DatasetInfo,
    inputs: str,
    output: str,
    *,
    normalized: bool,
) -> Path:
    """Write `standalone.py` with the numbers of a network beside its file; return where.

    Args:
        model: The file of the network, such as `photos.onnx`; the program is then
            `photos_preprocess.py`.
        content: Of that file, whose digest the program holds: it asks no other network.
        info: What the network was trained on.
        inputs: What the file takes: "uint8-hwc", "uint8-chw" or "float".
        output: What it answers with.
        normalized: Whether the file normalises by itself.

    Raises:
        InputError: If it cannot be written.
    """
    model = Path(model)
    channels, side, _ = info.input_shape
    numbers = {
        "MODEL": model.name,
        "DIGEST": files.digest_of(content),
        "SIDE": side,
        "CHANNELS": channels,
        "INPUTS": inputs,
        "MEAN": () if normalized else tuple(info.mean),
        "STD": () if normalized else tuple(info.std),
        "PIXEL_RANGE": info.pixel_range,
        "OUTPUT": output,
        "CLASSES": tuple(info.class_names),
    }
    text = _TEMPLATE.read_text(encoding="utf-8")
    for name, value in numbers.items():
        # What stands behind the value, a comment, stays.
        line = re.search(rf"^{name}: [^=]+ = (.+?)(  #.*)?$", text, re.MULTILINE)
        assert line is not None, name
        text = text[: line.start(1)] + repr(value) + text[line.end(1) :]
    if re.fullmatch(r"[\w.-]+", model.stem):  # nothing that would end a docstring
        text = text.replace("THIS_FILE", f"{model.stem}_preprocess.py")
    target = model.with_name(f"{model.stem}_preprocess.py")
    files.write_text(target, text)
    return target

"""Classify photographs with an exported model: numpy, pillow and onnxruntime, nothing else.

spinalnet export runs/photos photos.onnx --output probabilities     # once, where it was trained
python serve_onnx.py photos.onnx a.jpg b.png                        # anywhere
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("model")
parser.add_argument("images", nargs="+")
asked = parser.parse_args()

session = onnxruntime.InferenceSession(asked.model)
about = session.get_modelmeta().custom_metadata_map
names = json.loads(about["class_names"])
height, width, channels = json.loads(about["input_shape"])


def pixels(path: str) -> np.ndarray:
    """Read an image as the model's training did: upright, its centre square, resized."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8).reshape(1, height, width, channels)


for path in asked.images:
    probabilities = np.asarray(session.run(None, {"inputs": pixels(path)})[0])[0]
    best = int(probabilities.argmax())
    print(f"{path}: {names[best]} ({probabilities[best]:.3f})")

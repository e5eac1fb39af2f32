"""Measure how surely the same photograph is known again: copies found, and others taken for one.

    python benchmarks/copies.py --data-dir data

Every photograph of `data/hymenoptera/val` is copied in each way and looked for among all 398 of the
folder. Found is one whose counterpart is the photograph itself; *false* is one that is taken for a
picture which neither is it nor looks like it as it stands. Then false finds among pairs of pictures
of CIFAR-10, first as they are used (small pictures are compared as a whole) and then as if they
were large, so that their inner parts are looked at too; those pairs are listed, to be looked at.

Writes `benchmarks/results/copies.json`. Nothing is drawn at random.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import new_parser
from PIL import Image, ImageEnhance, ImageOps

from spinalnet.data import likeness
from spinalnet.files import write_mapping
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "copies.json"
KNOWN, LOOKED_FOR = 5_000, 2_000  # pictures of CIFAR-10's training and test part

Way = Callable[[Image.Image], Image.Image]


def encoded(image: Image.Image, quality: int) -> Image.Image:
    """Return the image after JPEG at a quality."""
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def shrunk(image: Image.Image, by: int) -> Image.Image:
    """Return the image with sides divided by a number."""
    return image.resize((max(1, image.width // by), max(1, image.height // by)))


def cut(image: Image.Image, share: float) -> Image.Image:
    """Return the image without a share of its width and height on each side."""
    left, top = round(image.width * share), round(image.height * share)
    return image.crop((left, top, image.width - left, image.height - top))


def cut_left(image: Image.Image, share: float) -> Image.Image:
    """Return the image without a share of its width on the left."""
    return image.crop((round(image.width * share), 0, *image.size))


def centre(image: Image.Image) -> Image.Image:
    """Return the centre square."""
    side = min(image.size)
    return ImageOps.fit(image, (side, side))


def as_networks_see_it(image: Image.Image) -> Image.Image:
    """Return 224 of 256 pixels of the centre square."""
    return centre(image).resize((256, 256)).crop((16, 16, 240, 240))


WAYS: dict[str, Way] = {
    "as it is, encoded at quality 95": lambda image: image,
    "JPEG at quality 50": lambda image: encoded(image, 50),
    "JPEG at quality 20": lambda image: encoded(image, 20),
    "half the size": lambda image: shrunk(image, 2),
    "a quarter of the size": lambda image: shrunk(image, 4),
    "stretched to a square": lambda image: image.resize((256, 256)),
    "stretched to 16:9": lambda image: image.resize((480, 270)),
    "in grey": lambda image: image.convert("L"),
    "1 % cut off every side": lambda image: cut(image, 0.01),
    "5 % cut off every side": lambda image: cut(image, 0.05),
    "10 % cut off every side": lambda image: cut(image, 0.10),
    "5 % cut off every side, in grey": lambda image: cut(image, 0.05).convert("L"),
    "5 % cut off every side, stretched to a square": lambda image: cut(image, 0.05).resize(
        (256, 256)
    ),
    "its centre square": centre,
    "224 of 256 pixels of its centre square": as_networks_see_it,
    "brightened by 15 %": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "5 % cut off the left": lambda image: cut_left(image, 0.05),
    "mirrored": ImageOps.mirror,
}


def copied(files: list[Path], way: Way, folder: Path) -> list[str]:
    """Write a copy of every file; return the paths."""
    paths = []
    for number, file in enumerate(files):
        path = folder / f"{number}.jpg"
        with Image.open(file) as image:
            way(ImageOps.exif_transpose(image).convert("RGB")).save(path, quality=95)
        paths.append(str(path))
    return paths


def search_photographs(folder: Path) -> dict[str, Any]:
    """Return by way how many copies are found among all photographs, and how many wrongly."""
    files, wanted = sorted(folder.rglob("*.jpg")), sorted((folder / "val").rglob("*.jpg"))
    known = likeness.looks_of_files([str(file) for file in files])
    assert known is not None
    twins = likeness.alike(known)  # the folder holds pictures twice
    rows = np.array([files.index(file) for file in wanted])
    same = np.where(twins[rows] >= 0, twins[rows], rows)
    found = {}
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as home:
            looks = likeness.looks_of_files(copied(wanted, way, Path(home)))
        assert looks is not None
        taken = likeness.alike(known, looks)
        as_one = np.where((taken >= 0) & (twins[taken] >= 0), twins[taken], taken)
        right = as_one == same
        found[name] = {"found": int(right.sum()), "false": int(((taken >= 0) & ~right).sum())}
        print(f"{name}: {found[name]}", flush=True)
    return {"photographs": len(files), "looked_for": len(wanted), "by_way": found}


def pixels_of(folder: Path, count: int) -> tuple[list[Path], torch.Tensor]:
    """Return files evenly taken from a folder and their pixels, uint8, `(N, C, H, W)`."""
    files = sorted(folder.rglob("*.jpg"))
    files = files[:: len(files) // count][:count]
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return files, torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def search_others(folder: Path) -> dict[str, Any]:
    """Return which of the pairs of pictures of CIFAR-10 are taken for the same."""
    found: dict[str, Any] = {}
    (files, known), (others, wanted) = (
        pixels_of(folder / part, count) for part, count in (("train", KNOWN), ("test", LOOKED_FOR))
    )
    for name, sides in (("as they are", None), ("inner parts too", (256, 256))):
        looks = [
            likeness.looks_of(pixels, None if sides is None else [sides] * len(pixels))
            for pixels in (known, wanted)
        ]
        assert looks[0] is not None
        taken = likeness.alike(looks[0], looks[1])
        found[name] = [
            [str(files[row].relative_to(folder)), str(others[i].relative_to(folder))]
            for i, row in enumerate(taken)
            if row >= 0
        ]
        print(f"CIFAR-10, {name}: {found[name]}", flush=True)
    return {"pairs": len(known) * len(wanted), "taken_for_the_same": found}


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the folders are")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        "benchmark": "copies",
        "command": "python benchmarks/copies.py --data-dir data",
        "protocol": "every photograph of hymenoptera/val copied in each way and looked for among "
        "all of the folder; pairs of CIFAR-10's training and test part; no random numbers",
        "environment": describe_environment(),
        "copies": search_photographs(arguments.data_dir / "hymenoptera"),
        "others": search_others(arguments.data_dir / "cifar10"),
    }
    write_mapping(arguments.out, record)


if __name__ == "__main__":
    main()

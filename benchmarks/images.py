"""Time the reading of images against torchvision's ImageFolder in a DataLoader, and check pixels.

    python benchmarks/images.py DIR_OF_PHOTOGRAPHS

Its photographs are DIR_OF_PHOTOGRAPHS/train/CLASS/*. Writes benchmarks/results/images.json.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from command_line import existing_folder, new_parser
from PIL import Image
from torchvision import datasets, transforms

from spinalnet import files, timing
from spinalnet.bench.rows import Row, compare
from spinalnet.data import folders, images
from spinalnet.data.batches import FolderDataset
from spinalnet.training import environment

RESULT = Path(__file__).parent / "results" / "images.json"
BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROTOCOL = (
    "one pass over the files, decoded, brought to size x size and normalised, in batches of 32 on "
    "the CPU; theirs: ImageFolder with Resize, CenterCrop, ToTensor, Normalize in a DataLoader "
    "whose worker processes stay alive; ours: as many threads; torch computes with one thread; "
    "both ways in turns, medians, quartiles of the ratio"
)


def enlarge(source: Path, target: Path, factor: int, count: int) -> None:
    """Write `count` photographs, their centre squares, `factor` times as large.

    Squares, so that no half pixel is lost in finding their centre after decoding at a fraction.
    """
    for path in itertools.islice(folders.iter_images([source]), count):
        (target / "photographs").mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            square = image.convert("RGB").crop(images._centre_square(*image.size))
        large = square.resize((256 * factor, 256 * factor), Image.Resampling.BICUBIC)
        large.save(target / "photographs" / path.name, quality=90)


def epoch(batches: Any) -> None:
    for _ in batches:
        pass


def measure(name: str, folder: Path, size: int, workers: int) -> Row:
    """Time one pass, ours against theirs."""
    recipe = transforms.Compose(
        [
            transforms.Resize(round(size * 256 / 224)),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    theirs = torch.utils.data.DataLoader(
        datasets.ImageFolder(folder, recipe),
        batch_size=BATCH,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    paths = [str(path) for path in folders.iter_images([folder])]
    ours = FolderDataset(paths, torch.zeros(len(paths)), 3, size, MEAN, STD, workers)
    baseline = "ImageFolder + DataLoader"
    timings = timing.interleave(
        {
            "ours": lambda: epoch(ours.batches(BATCH, channels_last=True)),
            baseline: lambda: epoch(theirs),
        },
        seconds=8.0,
        min_rounds=5,
    )
    return compare(
        f"{name}, to {size} x {size}, {workers} workers", baseline, "images/s", len(paths), timings
    )


def differences(folder: Path, size: int) -> list[dict[str, float]]:
    """Compare draft decoding at several margins with full decoding, and time it."""
    paths = [str(path) for path in folders.iter_images([folder])][:60]

    def read(margin: float) -> torch.Tensor:
        with mock.patch.object(images, "_DRAFT_MARGIN", margin):
            return torch.stack([images.read_pixels(path, 3, size) for path in paths]).float()

    margins = (1, 1.5, 2, 3, 10_000)
    truth = read(10_000)
    timings = timing.interleave(
        {str(margin): lambda margin=margin: read(margin) for margin in margins},
        seconds=8.0,
        min_rounds=3,
    )
    rows = []
    for margin in margins[:-1]:
        error = read(margin) - truth
        rows.append(
            {
                "size": size,
                "margin": margin,
                "mean_difference": error.abs().mean().item(),
                "p99_difference": error.abs().flatten()[::17].quantile(0.99).item(),
                "time_of_full": timings[str(margin)].median / timings["10000"].median,
            }
        )
    return rows


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("photographs", type=existing_folder, help="folder with train/CLASS/*")
    folder = parser.parse_args().photographs / "train"
    if not folder.is_dir():
        parser.error(f"there is no folder '{folder}'")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        large = Path(scratch)
        enlarge(folder, large, factor=4, count=48)
        rows = []
        for name, source, size in (
            ("photographs of 256 pixels", folder, 64),
            ("photographs of 256 pixels", folder, 224),
            ("photographs of 1024 pixels", large, 224),
        ):
            for workers in (0, 1, 2):
                rows.append(measure(name, source, size, workers))
                print(rows[-1], flush=True)
        draft = [row for size in (128, 224) for row in differences(large, size)]
    for row in draft:
        print(row, flush=True)
    record = {
        "benchmark": "images",
        "protocol": PROTOCOL,
        **environment.describe_origin(),
        "rows": [vars(row) for row in rows],
        "draft": draft,
    }
    files.write_mapping(RESULT, record)


if __name__ == "__main__":
    main()

"""Measure memory and time of scanning and streaming folders of 10,000 and 100,000 small images.

    python benchmarks/many_files.py

Writes benchmarks/results/many-files.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from command_line import existing_folder, new_parser
from PIL import Image

from spinalnet import files
from spinalnet.training import environment

RESULT = Path(__file__).parent / "results" / "many-files.json"
COUNTS = (10_000, 100_000)
CLASSES, DISTINCT = 20, 200
PROTOCOL = (
    f"{CLASSES} classes, {DISTINCT} distinct JPEGs of 24 x 24 pixels under hard links, one process "
    "per size with nothing else in it; peak resident memory of the process, which torch's import "
    "alone is the base of; scanning is load_dataset with memory_budget=0 (find the files, check "
    "their beginning and end, split, look for copies); the epoch is shuffled, batch 256, 24 x 24"
)


def write_folder(folder: Path, count: int) -> None:
    """Write the folder; the same picture is never in two classes."""
    rng = np.random.default_rng(0)
    for k in range(DISTINCT):
        home = folder / f"class-{k % CLASSES:02}"
        home.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((24, 24), Image.Resampling.BICUBIC)
        image.save(home / f"photograph-{k:06}.jpg", quality=80)
        for copy in range(k + DISTINCT, count, DISTINCT):
            os.link(home / f"photograph-{k:06}.jpg", home / f"photograph-{copy:06}.jpg")


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(folder: Path) -> dict[str, float]:
    """Load and stream one folder in this process."""
    from spinalnet.data.loading import load_dataset

    base = peak_mib()
    start = time.perf_counter()
    splits = load_dataset(folder, image_size=24, memory_budget=0)
    loaded, at_load = time.perf_counter(), peak_mib()
    seen = sum(len(y) for _, y in splits.train.batches(256, shuffle=True))
    return {
        "files": sum(map(len, (splits.train, splits.val, splits.test))),
        "scan_seconds": loaded - start,
        "epoch_seconds": time.perf_counter() - loaded,
        "epoch_images": seen,
        "base_mib": base,
        "scan_mib": at_load - base,
        "epoch_mib": peak_mib() - at_load,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "folder",
        type=existing_folder,
        nargs="?",
        help="measure this one in this process, print what is found and write nothing",
    )
    alone = parser.parse_args().folder
    if alone is not None:
        print(json.dumps(measure(alone)))
        return
    rows = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            write_folder(Path(folder), count)
            done = subprocess.run(
                [sys.executable, __file__, folder], capture_output=True, text=True, check=True
            )
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    record = {
        "benchmark": "many-files",
        "protocol": PROTOCOL,
        **environment.describe_origin(),
        "rows": rows,
    }
    files.write_mapping(RESULT, record)


if __name__ == "__main__":
    main()

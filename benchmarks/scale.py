"""Time training one network by several processes, write benchmarks/results/scale.json.

python benchmarks/scale.py [--sizes 1,2] [--rounds N]

The same global batch on one process and on several of this machine, each with one thread, talking
through gloo. Wall time needs as many idle cores as processes; processor time, added up over the
processes, says what the sharing itself costs, whatever else runs. Numbers of processes take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from command_line import new_parser
from PIL import Image

from spinalnet import _dist, files
from spinalnet.data import ArrayDataset, FolderDataset
from spinalnet.models import create_model
from spinalnet.training import TrainConfig, describe_origin, fit

RESULT = Path(__file__).parent / "results" / "scale.json"
EPOCHS = 3  # the first warms up
PROTOCOL = (
    "one thread for each process, gloo on one machine, the same global batch; wall time of an "
    "epoch, and processor time of all processes together, medians of epochs after the first and of "
    "rounds in which the numbers of processes take turns"
)


def random_images(n: int, channels: int, side: int) -> ArrayDataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, side, side), generator=generator)
    return ArrayDataset(pixels.to(torch.uint8), torch.arange(n) % 10, (0.5,), (0.25,))


def photographs(folder: Path, n: int) -> FolderDataset:
    """Return files that take as long to decode as to train on; decoded in the process's thread."""
    if _dist.is_main() and not folder.exists():
        folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        for number in range(n):
            coarse = torch.rand(1, 3, 12, 16, generator=generator)
            fine = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic")[0]
            pixels = fine.clamp(0, 1).mul(255).to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=90)
    _dist.barrier()
    paths = [folder / f"{number:04}.jpg" for number in range(n)]
    return FolderDataset(paths, torch.arange(n) % 10, 3, 32, (0.5,) * 3, (0.25,) * 3, num_workers=0)


Share = tuple[int, int]
CASES = ("mnist-cnn, 28x28", "cifar-resnet10-half, 32x32, batch norm", "JPEG files, decoded")


def job(case: str, folder: Path) -> None:
    """Train as one process of a job; write what it took."""
    torch.set_num_threads(1)
    _dist.connect(torch.device("cpu"))
    if case == CASES[0]:
        model, data = create_model("mnist-cnn", 10), random_images(4096, 1, 28)
    elif case == CASES[1]:
        model = create_model("cifar-resnet10-half", 10)
        data = random_images(256, 3, 32)
    else:
        model = create_model("cifar-cnn", 10)
        data = photographs(folder / "photographs", 384)
    config = TrainConfig(epochs=EPOCHS, batch_size=128, device="cpu", augment="flip")
    marks: list[tuple[float, float]] = []

    def mark() -> None:
        _dist.barrier()
        marks.append((time.perf_counter(), time.process_time()))

    class Marked:
        """The data, with a mark where an epoch begins."""

        def __len__(self) -> int:
            return len(data)

        def batches(
            self, batch_size: int, *, epoch: int = 0, share: Share = (0, 1), **options: Any
        ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            if options.get("shuffle"):
                mark()
            yield from data.batches(batch_size, epoch=epoch, share=share, **options)

    fit(model, Marked(), random_images(10, 1 if case == CASES[0] else 3, model_side(case)), config)
    mark()
    spent = [
        [after[k] - before[k] for k in (0, 1)] for before, after in itertools.pairwise(marks[1:])
    ]
    files.write_mapping(folder / f"spent-{_dist.rank()}.json", {"epochs": spent})


def model_side(case: str) -> int:
    return 28 if case == CASES[0] else 32


def run(case: str, size: int, folder: Path) -> tuple[float, float]:
    """Return wall time, and processor time of all, of an epoch of a job, in seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, "--job", case, "--folder", str(folder)]
    processes = [
        subprocess.Popen(
            command,
            env=environment | (shared | {"RANK": rank, "LOCAL_RANK": rank} if size > 1 else {}),
        )
        for rank in map(str, range(size))
    ]
    if any([process.wait() for process in processes]):  # noqa: C419 (all are waited for)
        raise SystemExit(f"{case}: a process has failed.")
    spent = [json.loads((folder / f"spent-{k}.json").read_text())["epochs"] for k in range(size)]
    epochs = range(len(spent[0]))
    wall = statistics.median(max(own[e][0] for own in spent) for e in epochs)
    return wall, statistics.median(sum(own[e][1] for own in spent) for e in epochs)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--sizes", default="1,2", help="numbers of processes, with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", help=argparse.SUPPRESS)  # one of the processes
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job is not None:
        job(asked.job, asked.folder)
        return
    sizes = [int(size) for size in asked.sizes.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            found: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
            for _ in range(asked.rounds):
                for size in sizes:
                    found[size].append(run(case, size, Path(scratch)))
            medians = {
                size: [statistics.median(one[k] for one in times) for k in (0, 1)]
                for size, times in found.items()
            }
            for size in sizes:
                wall, processor = medians[size]
                row = {
                    "case": case,
                    "processes": size,
                    "wall_seconds": wall,
                    "processor_seconds": processor,
                    "speedup": medians[sizes[0]][0] / wall,
                    "efficiency": medians[sizes[0]][1] / processor,
                }
                rows.append(row)
                print(row, flush=True)
    load = os.getloadavg()[0]
    record = {"protocol": PROTOCOL, "load_average": load, "rows": rows}
    files.write_mapping(RESULT, record | describe_origin())


if __name__ == "__main__":
    main()

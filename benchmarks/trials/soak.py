"""One process that trains, is stopped, goes on, predicts and reports, for as long as there is time.

Memory and open files are counted after every round; what counts is their slope, of a straight line
through all rounds after the first fifth.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spinalnet import RunSpec, run_one, write_predictions, write_report
from trials import scenarios
from trials.record import Record

HEADS = ("spinal", "unchained", "mlp", "linear")


class Stop(Exception):
    """Ends a run in its middle."""


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Make rounds until the time is up; enter the slopes."""
    place = scenarios.prepare(folder)
    torch.set_num_threads(1)
    draw = random.Random(record.seed())
    began, seen = time.monotonic(), []
    while not record.is_over and not (quick and len(seen) >= 3):
        _round(draw, place, folder / "run")
        gc.collect()
        seen.append((time.monotonic() - began, *_counted()))
        record.save(now=False)
    kept = np.array(seen[len(seen) // 5 :])
    minutes = kept[:, 0] / 60
    slopes = [
        float(np.polyfit(minutes, kept[:, k], 1)[0]) if len(kept) > 2 else 0.0 for k in (1, 2)
    ]
    row = {
        "rounds": len(seen),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "megabytes_at_first": round(float(kept[0, 1]), 1),
        "megabytes_at_last": round(float(kept[-1, 1]), 1),
        "megabytes_a_minute": round(slopes[0], 3),
        "files_at_first": int(kept[0, 2]),
        "files_at_last": int(kept[-1, 2]),
        "files_a_minute": round(slopes[1], 4),
        "threads_at_last": threading.active_count(),
    }
    record.put("one process", **row)
    if kept[-1, 2] > kept[0, 2]:
        record.tell(f"open files grew from {kept[0, 2]:.0f} to {kept[-1, 2]:.0f}")


def _round(draw: random.Random, place: Path, out: Path) -> None:
    """Train a network, stop in an epoch, go on, and use what came of it."""
    shutil.rmtree(out, ignore_errors=True)
    spec = RunSpec.of(
        "digits",
        head=draw.choice(HEADS),
        limit=120,
        epochs=3,
        device="cpu",
        seed=draw.randrange(99),
    )
    where = draw.randrange(1, 4)

    def stop(_: Any, progress: Any) -> None:
        if (progress.phase, progress.epoch) == ("train", where):
            raise Stop

    try:
        run_one(spec, out, on_progress=stop)
    except Stop:
        run_one(spec, out)
    write_predictions(out, [place / "new"], out.with_name("said.csv"))
    write_report(out)


def _counted() -> tuple[float, int]:
    """Return the megabytes that this process has, and its open files."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))  # noqa: PTH208

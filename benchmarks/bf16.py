"""Is a network trained in bf16 on the CPU as good as one in float32, and how much sooner done?

    python benchmarks/bf16.py --model vgg5 --epochs 5 --data-dir data

Each pair is two runs of one seed that differ in nothing but `amp`: same split, order and initial
weights. Both are measured on the test images in float32. The answer is that of a comparison: over
seeds and test images, against its margin. `amp=auto` may choose bf16 on a CPU only where this says
"equal" (or better) and the ratio of the times says that it pays.

Runs are kept in --runs, in worker processes with one thread each; the same command goes on where
it was stopped. Processors without bf16 instructions make it many times slower than float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from spinalnet import RunSpec
from spinalnet.comparison.cells import Cell, Event
from spinalnet.comparison.engine import jobs_for, run_cells
from spinalnet.comparison.inference import crossed, judge
from spinalnet.comparison.metrics import default_metric
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs, load_outputs
from spinalnet.files import write_mapping
from spinalnet.training import RunRecord, load_runs, runs
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "bf16.json"
PRECISIONS = ("bf16", "off")
SEEDS = 5


def cells_of(asked: argparse.Namespace) -> list[Cell]:
    """Return all runs, the two of a pair beside each other."""
    return [
        Cell(spec, asked.runs / f"{data}-{asked.model}-{head}" / f"{amp}-seed{seed}")
        for seed in range(asked.seeds)
        for data in asked.data.split(",")
        for head in asked.heads.split(",")
        for amp in PRECISIONS
        for spec in [
            RunSpec.of(
                data, asked.model, head=head, seed=seed, amp=amp, epochs=asked.epochs
            ).having(limit=asked.limit, data_dir=asked.data_dir, device="cpu")
        ]
    ]


def finished(folder: Path, amp: str) -> Iterator[RunRecord]:
    """Yield the finished runs of a precision, by seed."""
    for path in sorted(folder.glob(f"{amp}-seed*"), key=lambda one: int(one.name.split("seed")[1])):
        if runs.is_done(path):
            yield load_runs(path)[0]


def row_of(folder: Path) -> dict[str, Any] | None:
    """Return what the finished pairs of a folder say; None for fewer than two."""
    found = [{run.path.name.split("-")[1]: run for run in finished(folder, a)} for a in PRECISIONS]
    seeds = [seed for seed in found[0] if seed in found[1]]
    if len(seeds) < 2:
        return None
    results = [[run.result or {} for run in (one[s] for s in seeds)] for one in found]
    right = [np.stack([_right(one[seed]) for seed in seeds]) for one in found]
    margin = default_metric("classification").margin
    assert margin is not None
    estimate = crossed(right[0] - right[1], margin)
    seconds = [[result["train_seconds"] / result["epochs_run"] for result in of] for of in results]
    return {
        "case": folder.name,
        "seeds": len(seeds),
        "test_examples": right[0].shape[1],
        "accuracy": {a: float(r.mean()) for a, r in zip(PRECISIONS, right, strict=True)},
        "bf16_minus_float32": estimate.mean,
        "interval": [estimate.low, estimate.high],
        "margin": margin,
        "verdict": judge([estimate])[0].code,
        "epoch_seconds": {a: median(s) for a, s in zip(PRECISIONS, seconds, strict=True)},
        "speed": median(b / a for a, b in zip(*seconds, strict=True)),
    }


def _right(run: RunRecord) -> np.ndarray:
    """Return which test examples a run classified right, as 0 and 1."""
    said = load_outputs(run.path / OUTPUTS_FILE)
    assert isinstance(said, Outputs)
    return (said.classes[:, 0] == said.targets).numpy().astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="mnist,fashion-mnist")
    parser.add_argument("--data-dir", help="where their files are")
    parser.add_argument("--model", default="vgg5")
    parser.add_argument("--heads", default="spinal")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--limit", type=int, help="of training images; for a trial")
    parser.add_argument("--jobs", default="auto")
    parser.add_argument("--runs", type=Path, default=Path("runs/bf16"))
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    cells = cells_of(asked)

    def on_event(event: Event) -> None:
        if event.kind == "failed":
            raise SystemExit(f"{event.cell.folder}: {event.failure}")
        if event.kind != "done":
            return
        folders = dict.fromkeys(cell.folder.parent for cell in cells)
        rows = [row for folder in folders if (row := row_of(folder)) is not None]
        record = {
            "benchmark": "bf16",
            "command": f"python benchmarks/bf16.py --model {asked.model} --epochs {asked.epochs}"
            + (f" --limit {asked.limit}" if asked.limit else ""),
            "protocol": "runs of one seed that differ in amp alone, one thread each, side by side; "
            "tested in float32; interval over seeds and test images; epoch chosen on validation",
            "rows": rows,
            "environment": describe_environment(),
        }
        write_mapping(asked.out, record)
        print(f"{event.cell.folder}: done", *rows, sep="\n", flush=True)

    jobs = jobs_for("auto" if asked.jobs == "auto" else int(asked.jobs), len(cells), 1, "cpu")
    run_cells(cells, jobs=jobs, threads=1, on_event=on_event)


if __name__ == "__main__":
    main()

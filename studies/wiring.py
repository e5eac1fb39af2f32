"""E1, the wiring: what do the chain, the slices and the hidden layer do on a small CNN?

    python studies/wiring.py --data-dir data [--only mnist] [--jobs 2]

Design, fixed before a run of it was made (Fashion-MNIST's spinal, unchained, matched, mlp and
linear runs exist already: those of `results/fashion-mnist.json`, with the same settings. They are
taken over as they are):

- Data: MNIST, Fashion-MNIST, CIFAR-10 at 32 px (JPEG copies), each with its own test part.
- Network: `mnist-cnn`, 8 epochs, the default rates, which `benchmarks/default_rate.py` chose on
  validation parts with seeds that no run here has: 1e-2 for grey images, 3e-3 for colour (before a
  result on CIFAR-10 was kept; at 1e-2 half of the heads learn nothing there). The epoch is chosen
  on validation.
- Seeds 0 to 9, paired. One look, at ten seeds.
- Confirmatory, Holm over these three: spinal minus unchained (the chain), minus mlp (the fully
  connected layer it replaces), minus linear (any hidden layer). Margin: half a point of accuracy.
- Exploratory, told with intervals and without a verdict: matched, spinal-shared, progressive.

Every run is a folder, finished ones are kept, and the same command continues. The result goes to
`results/studies/wiring-<data>.json`.
"""

from __future__ import annotations

import argparse
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet.comparison import ComparisonSpec, RunSpec, building
from spinalnet.comparison.cells import Event
from spinalnet.comparison.comparing import run_comparison
from spinalnet.comparison.defaults import COLOUR_RATE
from spinalnet.comparison.engine import Effort
from spinalnet.comparison.finished import FinishedRuns, read_folder
from spinalnet.comparison.summary import summarize_runs
from spinalnet.training import TrainConfig

CONFIRMATORY = ("unchained", "mlp", "linear")
EXPLORATORY = ("matched", "spinal-shared", "progressive")
HEADS = ("spinal", "unchained", "matched", "mlp", "linear", "spinal-shared", "progressive")
SEEDS, EPOCHS, MARGIN = 10, 8, 0.005
DATA: dict[str, dict[str, Any]] = {
    "mnist": {"data": "mnist"},
    "fashion-mnist": {"data": "fashion-mnist"},
    "cifar10-32px": {"data": "cifar10", "folder": True},
}


def question(name: str, data_dir: Path) -> ComparisonSpec:
    """Return what is asked of one data set."""
    row = DATA[name]
    train = TrainConfig(epochs=EPOCHS)
    if row.get("folder"):
        train = TrainConfig(epochs=EPOCHS, lr=COLOUR_RATE)
        spec = RunSpec.of(str(data_dir / row["data"]), "mnist-cnn", train=train, image_size=32)
    else:
        spec = RunSpec.of(row["data"], "mnist-cnn", train=train, data_dir=str(data_dir))
    return ComparisonSpec(spec, HEADS, seeds=SEEDS)


def with_rows(read: FinishedRuns, others: tuple[str, ...]) -> FinishedRuns:
    """Return the comparison of spinal with some of the rows alone."""
    rows = ("spinal", *(row for row in others if row in read.runs))
    failed = {row: why for row, why in read.failed.items() if row in rows}
    return replace(read, runs={row: read.runs[row] for row in rows}, failed=failed)


def analyse(folder: Path, command: str) -> dict[str, Any]:
    """Return the answers of the three pairs, and the exploratory rows without one."""
    read = read_folder(folder)
    confirmatory = summarize_runs(with_rows(read, CONFIRMATORY), command, margin=MARGIN)
    explored = summarize_runs(with_rows(read, EXPLORATORY), command, margin=MARGIN).to_dict()
    for head in explored["heads"]:
        for said in ("code", "reason", "verdict", "seen", "p_holm", "p_equal_holm"):
            (head["difference"] or {}).pop(said, None)
    kept = ("heads", "metric", "seeds", "test_size")
    return {
        "study": "wiring",
        "command": command,
        "confirmatory": confirmatory.to_dict(),
        "exploratory": {name: explored[name] for name in kept},
    }


def _tell(event: Event) -> None:
    if event.kind in ("done", "failed"):
        why = f": {event.failure.reason}" if event.failure else ""
        print(f"{event.cell.folder.name} {event.kind}{why}", flush=True)


def main() -> None:
    """Run what is missing and write what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--only", choices=DATA, help="one data set")
    parser.add_argument("--jobs", type=int, default=1)
    asked = parser.parse_args()
    for name in [asked.only] if asked.only else DATA:
        folder = asked.runs / f"wiring-{name}"
        command = f"python studies/wiring.py --only {name}"
        effort = Effort(jobs=asked.jobs, on_event=_tell)
        load = functools.partial(building.load_splits, download=False)
        asks = question(name, asked.data_dir)
        run_comparison(asks, folder, effort, load=load, command=command)
        out = Path("results/studies") / f"wiring-{name}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_mapping(out, analyse(folder, command))
        print(f"wrote {out}")


if __name__ == "__main__":
    main()

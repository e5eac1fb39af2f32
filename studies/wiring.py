"""E1, the wiring: what do the chain, the slices and the hidden layer do on a small CNN?

    OMP_NUM_THREADS=1 python studies/wiring.py --data-dir data [--only mnist]   # goes on
    python studies/wiring.py --draw                       # answers and figure of what is there

**Design**, fixed before a run of it was kept:

* Data: MNIST, Fashion-MNIST and CIFAR-10 at 32 pixels (JPEG copies), each with its own test part.
* Network: `mnist-cnn`, 8 epochs, the default rates, which `benchmarks/default_rate.py` chose on
  validation parts with seeds that no run here has: 1e-2 for grey images, 3e-3 for colour. The epoch
  is chosen on validation.
* Heads: spinal, unchained (the same without its chain), mlp (the paper's layer), linear; to be told
  without a verdict also matched (a hidden layer of as many parameters), spinal-shared and
  progressive.
* Seeds 100 to 109, paired, which no earlier comparison has had. One look, at ten seeds.

**Confirmatory questions** of each data set by itself, Holm over its three: spinal minus unchained
(the chain), minus mlp (the layer it replaces), minus linear (any hidden layer), crossed over seeds
and test images. Margin: half a point of accuracy. The other heads get no verdict.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Record, Row

from spinalnet import files
from spinalnet.comparison import ComparisonSpec, RunSpec, building, run_one
from spinalnet.comparison.defaults import COLOUR_RATE
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.data import Splits
from spinalnet.training import TrainConfig

ASKED, OTHERS = ("unchained", "mlp", "linear"), ("matched", "spinal-shared", "progressive")
HEADS = ("spinal", *ASKED, *OTHERS)
SEEDS, EPOCHS, MARGIN = tuple(range(100, 110)), 8, 0.005
DATA: dict[str, dict[str, Any]] = {
    "mnist": {},
    "fashion-mnist": {},
    "cifar10-32px": {"folder": "cifar10", "image_size": 32, "lr": COLOUR_RATE},
}
KEY = ("data", "seed", "head")


def question(name: str, data_dir: Path) -> ComparisonSpec:
    """Return all runs of one data set."""
    row = dict(DATA[name])
    own = {"lr": row.pop("lr")} if "lr" in row else {}
    folder = row.pop("folder", None)
    data = name if folder is None else str(data_dir / folder)
    train = TrainConfig(epochs=EPOCHS, seed=SEEDS[0], device="cpu", **own)
    spec = RunSpec.of(data, "mnist-cnn", train=train, data_dir=str(data_dir), **row)
    return ComparisonSpec(spec, HEADS, seeds=len(SEEDS))


def cell(key: tuple[str, int, str], asked: ComparisonSpec, splits: Splits, folder: Path) -> Row:
    """Make one run, and return its row; a run that was left half way goes on."""
    began = time.perf_counter()
    name, seed, head = key
    unit = asked.of_unit(asked.units()[SEEDS.index(seed)])
    specs = [one for one in unit if isinstance(one, RunSpec)]
    spec = next(one for one in specs if one.label == head or one.model.head == head)
    assert spec.train.seed == seed
    done = run_one(spec, folder / f"{name}-{head}-{seed}", splits=splits)
    result = done.result or {}
    outputs = Outputs.load(done.path / OUTPUTS_FILE)
    hits = (outputs.correct & outputs.finite).numpy().astype(float)
    return dict(zip(KEY, key, strict=True)) | {
        "head_params": result["head_params"],
        "head_macs": result["head_macs"],
        "best_epoch": result["best_epoch"],
        "val": [result["val"]["accuracy"]],
        "test": [float(hits.mean())],
        "examples": len(hits),
        "right": common.packed(hits),
        "seconds": round(time.perf_counter() - began, 1),
    }


def keys(only: str | None = None) -> list[tuple[str, int, str]]:
    """Return all runs, seed by seed, those of the questions before the others."""
    names = [only] if only else list(DATA)
    return [
        (name, seed, head)
        for name in names
        for heads in (("spinal", *ASKED), OTHERS)
        for seed in SEEDS
        for head in heads
    ]


def hits_of(record: Record, name: str) -> dict[str, np.ndarray]:
    """Return right and wrong `(seeds, examples)` of the heads whose every seed is there."""
    found = {}
    for head in HEADS:
        rows = [row for row in record["cells"] if (row["data"], row["head"]) == (name, head)]
        if {row["seed"] for row in rows} >= set(SEEDS):
            rows.sort(key=lambda row: row["seed"])
            found[head] = common.unpacked([row["right"] for row in rows], rows[0]["examples"])
    return {head: hits.astype(float) for head, hits in found.items()}


def answers(record: Record) -> list[Row]:
    """Return the answers of every data set whose runs are all there; and the others' intervals."""
    from spinalnet.comparison import inference

    found: list[Row] = []
    for name in DATA:
        hits = hits_of(record, name)
        if not {"spinal", *ASKED} <= hits.keys():
            continue
        gaps = {
            head: inference.crossed(hits["spinal"] - other, MARGIN)
            for head, other in hits.items()
            if head != "spinal"
        }
        asked = [{"data": name, "other": other} for other in ASKED]
        found += common.judged(asked, [gaps[other] for other in ASKED])
        found += [
            {"data": name, "other": other, "verdict": None}
            | {"difference": gap.mean, "low": gap.low, "high": gap.high}
            for other, gap in gaps.items()
            if other in OTHERS
        ]
    return found


def draw(record: Record, path: Path) -> None:
    """Draw the accuracies of all runs, a panel for each data set."""
    from matplotlib.figure import Figure

    names = [name for name in DATA if any(row["data"] == name for row in record["cells"])]
    figure = Figure(figsize=(1.2 + 3.6 * max(1, len(names)), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names):  # noqa: B905
        for place, head in enumerate(HEADS):
            rows = [row for row in record["cells"] if (row["data"], row["head"]) == (name, head)]
            if not rows:  # of another time
                continue
            values = [100 * row["test"][0] for row in rows]
            apart: Any = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0]
            axes.plot(values, place + np.array(apart), "o", ms=4, alpha=0.5, color=f"C{place}")
            axes.plot([statistics.fmean(values)], [place], "|", ms=18, mew=2, color="0.2")
        axes.set_yticks(range(len(HEADS)), HEADS)
        axes.set_ylim(len(HEADS) - 0.5, -0.5)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("test accuracy, % (dots: seeds; line: mean)", fontsize=8)
        common.plain(axes, grid="x")
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while runs are added to the file."""
    return {"data": DATA, "heads": HEADS, "epochs": EPOCHS, "seeds": SEEDS, "margin": MARGIN}


@functools.cache
def _splits(name: str, seed: int, data_dir: Path) -> tuple[ComparisonSpec, Splits]:
    asked = question(name, data_dir)
    spec = asked.of_unit(asked.units()[SEEDS.index(seed)])[0]
    assert isinstance(spec, RunSpec)
    return asked, building.load_splits(spec, download=False)


def _compute(key: tuple[str, int, str], data_dir: Path, runs: Path) -> Row:
    name, seed, _ = key
    if _splits.cache_info().currsize > 1:
        _splits.cache_clear()  # the data of one seed at a time
    return cell(key, *_splits(name, seed, data_dir), runs)


def _complete(record: Record, run: common.Run) -> None:
    compute = functools.partial(_compute, data_dir=run.data_dir, runs=Path("runs") / "wiring")
    common.complete(record, run, KEY, keys(run.only), compute)


STUDY = common.Study(
    "wiring", __doc__ or "", design, _complete, answers, draw, needs_data=True, parts=tuple(DATA)
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

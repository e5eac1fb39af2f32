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
* Seeds 100 to 109, paired, which no earlier comparison on MNIST or Fashion-MNIST
  has had (those of CIFAR-10 on frozen features had them too). One look, at ten seeds.

**Confirmatory questions** of each data set by itself, Holm over its three: spinal minus unchained
(the chain), minus mlp (the layer it replaces), minus linear (any hidden layer), crossed over seeds
and test images. Margin: half a point of accuracy. The other heads get no verdict.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import common
import networks
import numpy as np
from common import Record, Row

from spinalnet.comparison import ComparisonSpec, RunSpec
from spinalnet.comparison.defaults import COLOUR_RATE
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
    rows = [row for row in record["cells"] if row["data"] == name]
    hits = {
        head: networks.hits_of([row for row in rows if row["head"] == head], SEEDS)
        for head in HEADS
    }
    return {head: found for head, found in hits.items() if found is not None}


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
    networks.draw(record["cells"], list(DATA), HEADS, lambda row: row["head"], path)


def design() -> Record:
    """Return what must not change while runs are added to the file."""
    return {"data": DATA, "heads": HEADS, "epochs": EPOCHS, "seeds": SEEDS, "margin": MARGIN}


def _compute(key: tuple[str, int, str], data_dir: Path) -> Row:
    name, seed, head = key
    spec = networks.run_of(question(name, data_dir), SEEDS.index(seed), head)
    assert spec.train.seed == seed
    return networks.row_of(dict(zip(KEY, key, strict=True)), spec, Path("runs") / "wiring")


def _complete(record: Record, run: common.Run) -> None:
    compute = functools.partial(_compute, data_dir=run.data_dir)
    common.complete(record, run, KEY, keys(run.only), compute)


STUDY = common.Study(
    "wiring", __doc__ or "", design, _complete, answers, draw, needs_data=True, parts=tuple(DATA)
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

"""E9, the paper's networks for small grey images: VGG-5 and Arch2, with a spinal head and without.

    OMP_NUM_THREADS=1 python studies/paper_networks.py --data-dir data [--only arch2]    # goes on
    python studies/paper_networks.py --draw               # answers and figure of what is there

**Design**, fixed before a run of it was made:

* Networks and data: `vgg5` on Fashion-MNIST in bf16; `arch2`, the smaller network of the paper's
  MNIST family, on MNIST and on Fashion-MNIST in float32. The paper trains for 200 epochs and more;
  these are short, for a CPU: 8 epochs, one-cycle up to 1e-3, which is what is usual for AdamW;
  nothing was tuned. The epoch is chosen on validation. At full length, which needs a GPU:
  `spinalnet reproduce fashion-mnist-vgg5` (docs/claims.md has hours).
* Heads: spinal, and mlp (the paper's own fully connected layer, with the same dropout).
* Seeds 400 to 402, paired, which no comparison has had. One look, at three.

**Confirmatory questions**: spinal minus mlp, for each network and data set, crossed over seeds and
test images; Holm over those of a network. Margin: half a point of accuracy.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import common
import networks
from common import Record, Row

from spinalnet.comparison import ComparisonSpec, RunSpec
from spinalnet.training import TrainConfig

TASKS: dict[str, dict[str, Any]] = {
    "vgg5": {"data": ("fashion-mnist",), "amp": "bf16"},
    "arch2": {"data": ("mnist", "fashion-mnist"), "amp": "off"},
}
HEADS, SEEDS, MARGIN = ("spinal", "mlp"), (400, 401, 402), 0.005
EPOCHS, RATE = 8, 1e-3
KEY = ("data", "model", "seed", "head")

Key = tuple[str, str, int, str]  # see KEY


def keys(only: str | None = None) -> list[Key]:
    """Return all runs, the two of a pair beside each other."""
    return [
        (data, model, seed, head)
        for model in ([only] if only else TASKS)
        for seed in SEEDS
        for data in TASKS[model]["data"]
        for head in HEADS
    ]


def answers(record: Record) -> list[Row]:
    """Return the answers of every network whose runs are all there."""
    from spinalnet.comparison import inference

    found: list[Row] = []
    for model, task in TASKS.items():
        hits = {
            (data, head): networks.hits_of(
                [r for r in record["cells"] if (r["data"], r["model"], r["head"]) == key], SEEDS
            )
            for data in task["data"]
            for head in HEADS
            for key in [(data, model, head)]
        }
        there = {key: found for key, found in hits.items() if found is not None}
        if len(there) == len(hits):
            asked = [{"data": data, "model": model, "other": "mlp"} for data in task["data"]]
            gaps = [there[data, "spinal"] - there[data, "mlp"] for data in task["data"]]
            found += common.judged(asked, [inference.crossed(gap, MARGIN) for gap in gaps])
    return found


def draw(record: Record, path: Path) -> None:
    """Draw the accuracies of all runs, a panel for each data set."""
    panels = list(dict.fromkeys(data for task in TASKS.values() for data in task["data"]))
    kinds = [f"{model}, {head}" for model in TASKS for head in HEADS]
    networks.draw(record["cells"], panels, kinds, lambda r: f"{r['model']}, {r['head']}", path)


def design() -> Record:
    """Return what must not change while runs are added to the file."""
    return {
        "tasks": TASKS,
        "heads": HEADS,
        "epochs": EPOCHS,
        "rate": RATE,
        "seeds": SEEDS,
        "margin": MARGIN,
    }


def question(data: str, model: str, data_dir: Path) -> ComparisonSpec:
    """Return all runs of one network on one data set."""
    train = TrainConfig(
        epochs=EPOCHS,
        lr=RATE,
        schedule="one-cycle",
        amp=TASKS[model]["amp"],
        seed=SEEDS[0],
        device="cpu",
    )
    spec = RunSpec.of(data, model, train=train, data_dir=str(data_dir))
    return ComparisonSpec(spec, HEADS, seeds=len(SEEDS))


def _compute(key: Key, data_dir: Path) -> Row:
    data, model, seed, head = key
    spec = networks.run_of(question(data, model, data_dir), SEEDS.index(seed), head)
    assert spec.train.seed == seed
    own: Row = dict(zip(KEY, key, strict=True))
    return networks.row_of(own, spec, Path("runs") / "paper_networks")


def _complete(record: Record, run: common.Run) -> None:
    compute = functools.partial(_compute, data_dir=run.data_dir)
    common.complete(record, run, KEY, keys(run.only), compute)


STUDY = common.Study(
    "paper_networks",
    __doc__ or "",
    design,
    _complete,
    answers,
    draw,
    needs_data=True,
    parts=tuple(TASKS),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

"""Is a network trained in bf16 on the CPU as good as one in float32, and how much sooner done?

    OMP_NUM_THREADS=1 python studies/precision.py --data-dir data [--only vgg5]    # goes on
    python studies/precision.py --draw                    # answers and figure of what is there

`amp=auto` may choose bf16 on a CPU only where this says *equal* (or better) and the ratio of the
times says that it pays. Without bf16 instructions in the processor it is many times slower than
float32.

**Design**, fixed before a run of it was made:

* Data: all of MNIST and all of Fashion-MNIST.
* Networks: `cifar-resnet10-half` and `vgg5`, with a spinal head, 3 epochs, one-cycle up to 1e-3,
  which is what is usual for AdamW; nothing was tuned. The epoch is chosen on validation.
* Runs: pairs of one seed that differ in nothing but `amp`: same split, order and initial weights.
  The two of a pair are made one after the other. All are tested in float32.
* Seeds 300 to 304, which no comparison has had. One look, at five.

**Confirmatory questions**, for each network on each data set: bf16 minus float32, crossed over
seeds and test images, Holm over the two data sets of a network. Margin: half a point of accuracy.
"""

from __future__ import annotations

import functools
import statistics
import sys
from pathlib import Path

import common
import networks
from common import Record, Row

from spinalnet.comparison import RunSpec

DATA, PRECISIONS = ("mnist", "fashion-mnist"), ("bf16", "off")
MODELS, EPOCHS = ("cifar-resnet10-half", "vgg5"), 3
TRAIN = {"epochs": EPOCHS, "schedule": "one-cycle", "lr": 1e-3}
SEEDS, MARGIN = tuple(range(300, 305)), 0.005
KEY = ("data", "model", "seed", "amp")

Key = tuple[str, str, int, str]  # see KEY


def keys(only: str | None = None) -> list[Key]:
    """Return all runs, the two of a pair beside each other."""
    return [
        (data, model, seed, amp)
        for model in ([only] if only else MODELS)
        for seed in SEEDS
        for data in DATA
        for amp in PRECISIONS
    ]


def answers(record: Record) -> list[Row]:
    """Return the answers of every network whose runs are all there, and what bf16 saves."""
    from spinalnet.comparison import inference

    found: list[Row] = []
    for model in MODELS:
        asked, gaps = [], []
        for data in DATA:
            rows = {
                amp: [r for r in record["cells"] if (r["data"], r["model"], r["amp"]) == key]
                for amp in PRECISIONS
                for key in [(data, model, amp)]
            }
            hits = {amp: networks.hits_of(of, SEEDS) for amp, of in rows.items()}
            low, full = hits["bf16"], hits["off"]
            if low is None or full is None:
                break
            seconds = [{row["seed"]: row["train_seconds"] for row in of} for of in rows.values()]
            speed = statistics.median(seconds[1][seed] / seconds[0][seed] for seed in SEEDS)
            asked.append({"data": data, "model": model, "speed": round(speed, 2)})
            gaps.append(inference.crossed(low - full, MARGIN))
        else:
            found += common.judged(asked, gaps)
    return found


def draw(record: Record, path: Path) -> None:
    """Draw the accuracies of all runs, a panel for each data set."""
    kinds = [f"{model}, {amp}" for model in MODELS for amp in ("bf16", "float32")]
    told = {"off": "float32"}
    networks.draw(
        record["cells"],
        DATA,
        kinds,
        lambda row: f"{row['model']}, {told.get(row['amp'], row['amp'])}",
        path,
    )


def design() -> Record:
    """Return what must not change while runs are added to the file."""
    return {"data": DATA, "models": MODELS, "train": TRAIN, "seeds": SEEDS, "margin": MARGIN}


def _compute(key: Key, data_dir: Path) -> Row:
    data, model, seed, amp = key
    spec = RunSpec.of(data, model, seed=seed, amp=amp, device="cpu", data_dir=str(data_dir))
    own: Row = dict(zip(KEY, key, strict=True))
    return networks.row_of(own, spec.having(**TRAIN), Path("runs") / "precision")


def _complete(record: Record, run: common.Run) -> None:
    compute = functools.partial(_compute, data_dir=run.data_dir)
    common.complete(record, run, KEY, keys(run.only), compute)


STUDY = common.Study(
    "precision", __doc__ or "", design, _complete, answers, draw, needs_data=True, parts=MODELS
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

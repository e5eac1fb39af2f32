"""Are heads as good on features that a frozen network made in bf16 as on those made in float32?

    OMP_NUM_THREADS=1 python studies/half_features.py --data-dir data   # goes on; features are kept
    python studies/half_features.py --draw                # answers and figure of what is there

Features in bf16 differ by up to a tenth of the largest one, so whether they will do is a question
about heads. `spinalnet` may compute features in bf16 by itself only where this says *equal*.

**Design**, fixed before a run of it was made:

* Images: those of `studies/transfer.py`: CIFAR-10 (JPEG copies) at 224 pixels through the package's
  EfficientNet-Lite0 (weights of ImageNet), frozen; a pool of 600 training images of each class,
  5,000 test images.
* Heads as there, `spinal`, `mlp` and `linear`, without dropout: 300 images of each class, drawn by
  the seed, 15 epochs of AdamW at 3e-3, the last epoch counts. Nothing was tuned.
* Pairs of one seed that differ in nothing but the features, which are those of one engine in
  training and in testing: `torch-folded-bf16`, or one of full precision.
* Seeds 600 to 619, which no comparison on these images has had. One look, at twenty.

**Confirmatory questions**, for each head: bf16 minus float32, crossed over seeds and test images,
Holm over the three. Margin: half a point of accuracy.
"""

from __future__ import annotations

import functools
import sys
import time
from pathlib import Path

import common
from common import Record, Row
from frozen_heads import EPOCHS, TEST, drawn, features, trained

IMAGES, SETTING, MARGIN = 300, (3e-3, 0.0), 0.005
HEADS, ENGINES = ("spinal", "mlp", "linear"), ("torch-folded-bf16", "auto")
SEEDS = tuple(range(600, 620))
KEY = ("head", "engine")

Key = tuple[str, str]  # see KEY


def keys() -> list[Key]:
    """Return all cells, the two of a head beside each other."""
    return [(head, engine) for head in HEADS for engine in ENGINES]


def _compute(key: Key, data_dir: Path) -> Row:
    began = time.perf_counter()
    head, engine = key
    of, hits = features(data_dir / "cifar10", few=True, engine=engine), []
    for seed in SEEDS:
        data = drawn(of, IMAGES, seed)
        net, _ = trained(head, data, SETTING, seed, EPOCHS[IMAGES])
        hits.append(common.right(net, data[2]))
    return dict(zip(KEY, key, strict=True)) | {
        "test": [round(float(hit.mean()), 5) for hit in hits],
        "right": [common.packed(hit) for hit in hits],
        "seconds": round(time.perf_counter() - began, 1),
    }


def answers(record: Record) -> list[Row]:
    """Return the answers; none while a cell is missing."""
    from spinalnet.comparison import inference

    hits: dict[Key, list[str]] = {}
    for row in record["hits"]:
        hits.setdefault((row["head"], row["engine"]), []).append(row["right"])
    if not set(keys()) <= hits.keys():
        return []
    gaps = []
    for head in HEADS:
        low, full = (common.unpacked(hits[head, engine], TEST).astype(float) for engine in ENGINES)
        gaps.append(inference.crossed(low - full, MARGIN))
    return common.judged([{"head": head} for head in HEADS], gaps)


def draw(record: Record, path: Path) -> None:
    """Draw the difference of every pair, a row for each head."""
    from matplotlib.figure import Figure

    from spinalnet import files

    by = common.keyed(record["cells"], KEY)
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    heads = [head for head in HEADS if all((head, engine) in by for engine in ENGINES)]
    for place, head in enumerate(heads):
        low, full = (by[head, engine]["test"] for engine in ENGINES)
        gaps = [100 * (a - b) for a, b in zip(low, full, strict=True)]
        axes.plot(gaps, [place] * len(gaps), "o", ms=4, alpha=0.6)
    axes.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.92", zorder=0)
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(heads)), heads)
    axes.set_ylim(len(heads) - 0.5, -0.5)
    axes.set_xlabel("bf16 minus float32, points of test accuracy (band: what counts as equal)")
    common.plain(axes, grid="x")
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "images": IMAGES,
        "epochs": EPOCHS[IMAGES],
        "setting": SETTING,
        "heads": HEADS,
        "engines": ENGINES,
        "seeds": SEEDS,
        "margin": MARGIN,
    }


def _complete(record: Record, run: common.Run) -> None:
    for engine in ENGINES:  # before there are several processes
        features(run.data_dir / "cifar10", few=True, engine=engine)
    compute = functools.partial(_compute, data_dir=run.data_dir)
    common.complete(record, run, KEY, keys(), compute, STUDY.rows)


STUDY = common.Study(
    "half_features",
    __doc__ or "",
    design,
    _complete,
    answers,
    draw,
    needs_data=True,
    rows=("cells", "hits"),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

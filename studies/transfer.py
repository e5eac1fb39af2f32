"""Does a spinal head help where examples are few? Heads on frozen features, tuned equally.

    OMP_NUM_THREADS=1 python studies/transfer.py --data-dir data   # resumes; features are kept
    python studies/transfer.py --draw                     # answers and figure of what is there

The paper puts spinal heads on pre-trained networks, and calls them better in transfer learning. The
comparison of `results/cifar10-features-again.json` answers for all of CIFAR-10, with the package's
defaults. Here the heads are tuned, each with the same number of tries, and the examples are few.

**Design**, fixed before a test image was scored:

* Images: CIFAR-10 (JPEG copies) at 224 pixels through the package's EfficientNet-Lite0 (weights of
  ImageNet), frozen. Drawn once: of the package's training part 600 images of each class,
  the pool; of its validation part 100 of each class; of the test images 500 of each class.
* Training sets: 10, 30, 100 and 300 images of each class, drawn of the pool by the seed. Features
  are centred one by one and scaled by one number, both of the training set.
* Heads, as of the package's defaults: `spinal` (two slices, 4 layers of 20), `unchained` (the same
  without its chain), `matched` (a hidden layer with as many parameters), `mlp` (a hidden layer of
  512), `linear`.
* Training: AdamW, batches of 64, cosine, 50, 50, 30 and 15 epochs by the number of images; the last
  epoch counts. For every head and number of images the setting is chosen of six (rates 1e-3, 3e-3,
  1e-2; dropout 0 or 0.5 before every layer) by the mean accuracy on the 1,000 validation images of
  seeds 1000 and 1001. Then 20 fresh seeds (0 to 19).

**Confirmatory questions**, margin 1 point, Holm over the nine: spinal minus unchained, minus mlp
and minus linear, with 10, 30 and 100 images of each class, crossed over seeds and test images.
Everything else is exploratory and gets no verdict.

For half an hour of the first run this file asked about 10 and 30 images alone. That this was before
any test image had been scored cannot be shown, so the nine of before that run count.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import common
from common import Data, Record, Row
from few_images import EPOCHS, HEADS, POOL, TEST, VAL, Setting, drawn, features, trained

from spinalnet import files

MARGIN = 0.01
SETTINGS = tuple((rate, dropout) for rate in (1e-3, 3e-3, 1e-2) for dropout in (0.0, 0.5))
TUNING_SEEDS, SEEDS = (1000, 1001), tuple(range(20))
ASKED, OTHERS = (10, 30, 100), ("unchained", "mlp", "linear")
KEY = ("images", "head")


def cell(key: tuple[int, str], of: Data, epochs: int | None = None) -> Row:
    """Choose the setting, train with the seeds, and measure: one row of the results."""
    began = time.perf_counter()
    images, head = key
    length = epochs or EPOCHS[images]

    def score(settings: Sequence[Setting], seeds: Sequence[int]) -> list[float]:
        found = []
        for setting, seed in zip(settings, seeds, strict=True):
            data = drawn(of, images, seed)
            net, broken = trained(head, images, data, setting, seed, length)
            # A setting at which training breaks off is one that nobody takes.
            found.append(0.0 if broken else float(common.right(net, data[1]).mean()))
        return found

    setting, scores = common.best_setting(SETTINGS, TUNING_SEEDS, score)
    hits, params = [], 0
    for seed in SEEDS:
        data = drawn(of, images, seed)
        net, _ = trained(head, images, data, setting, seed, length)
        hits.append(common.right(net, data[2]))
        params = sum(p.numel() for p in net.parameters())
    return dict(zip(KEY, key, strict=True)) | {
        "params": params,
        "rate": setting[0],
        "dropout": setting[1],
        "tuning": {
            f"{rate:g}, dropout {dropout:g}": round(score, 4)
            for (rate, dropout), score in zip(SETTINGS, scores, strict=True)
        },
        "test": [round(float(hit.mean()), 5) for hit in hits],
        "right": [common.packed(hit) for hit in hits],
        "seconds": round(time.perf_counter() - began, 1),
    }


def keys() -> list[tuple[int, str]]:
    """Return all cells, those of the questions first."""
    found = [(images, head) for images in EPOCHS for head in HEADS]
    return sorted(found, key=lambda key: (key[0] not in ASKED or key[1] == "matched", key[0]))


def answers(record: Record) -> list[Row]:
    """Return the answers to the confirmatory questions; none while a cell is missing."""
    from spinalnet.comparison import inference

    hits: dict[tuple[int, str], list[str]] = {}
    for row in record["hits"]:
        hits.setdefault((row["images"], row["head"]), []).append(row["right"])
    if not {(images, head) for images in ASKED for head in ("spinal", *OTHERS)} <= hits.keys():
        return []
    asked, estimates = [], []
    for images in ASKED:
        for other in OTHERS:
            one, two = (
                common.unpacked(hits[images, head], TEST).astype(float)
                for head in ("spinal", other)
            )
            estimates.append(inference.crossed(one - two, MARGIN))
            asked.append({"images": images, "other": other})
    return common.judged(asked, estimates)


def draw(record: Record, path: Path) -> None:
    """Draw accuracy by the number of images, and the difference to each other head."""
    from matplotlib.figure import Figure

    by = common.keyed(record["cells"], KEY)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, head in enumerate(HEADS):
        sizes = [images for images in EPOCHS if (images, head) in by]
        values = [[100 * v for v in by[images, head]["test"]] for images in sizes]
        if sizes:
            common.line(left, sizes, values, color=f"C{index}", label=head)
        both = [images for images in sizes if (images, "spinal") in by]
        if head == "spinal" or not both:
            continue
        gaps = [
            [
                100 * (a - b)
                for a, b in zip(*(by[n, h]["test"] for h in ("spinal", head)), strict=True)
            ]
            for n in both
        ]
        means = [statistics.fmean(some) for some in gaps]
        spreads = [statistics.stdev(some) / len(some) ** 0.5 for some in gaps]
        places = [n * 1.06 ** (index - 2) for n in both]
        look = {"fmt": "o-", "ms": 4, "lw": 1, "color": f"C{index}"}
        right.errorbar(places, means, [2 * s for s in spreads], label=f"minus {head}", **look)
    right.axhline(0, color="0.4", lw=1)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(list(EPOCHS), [f"{images:,}" for images in EPOCHS])
        axes.minorticks_off()
        axes.set_xlabel("training images of each class")
        axes.legend(fontsize=8)
        common.plain(axes)
    left.set_ylabel("test accuracy, % (median; band: all seeds)", fontsize=8)
    right.set_ylabel(
        "spinal minus another, points\n(mean ± 2 standard errors of seeds)", fontsize=8
    )
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "pool": POOL,
        "val": VAL,
        "test": TEST,
        "epochs": {str(images): epochs for images, epochs in EPOCHS.items()},
        "heads": HEADS,
        "settings": SETTINGS,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "margin": MARGIN,
    }


def _compute(key: tuple[int, str], data_dir: Path) -> Row:
    return cell(key, features(data_dir))


def _complete(record: Record, run: common.Run) -> None:
    features(run.data_dir)  # before there are several processes, which share them then
    compute = functools.partial(_compute, data_dir=run.data_dir)
    common.complete(record, run, KEY, keys(), compute, STUDY.rows)


STUDY = common.Study(
    "transfer",
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

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

While the cells were computed this file came to ask about 10 and 30 images alone (a71d512), and so
six answers were published. 31 hours later, with all numbers known, the three questions about 100
images were put back (46e6cc7): that they had been taken out before a test image was scored cannot
be shown, so the nine of before the run count.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import common
from common import Record, Row
from frozen_heads import (
    EPOCHS,
    HEADS,
    KEY,
    POOL,
    SEEDS,
    TEST,
    TUNING_SEEDS,
    VAL,
    answered,
    cell,
    draw_sizes,
    features,
)

MARGIN = 0.01
SETTINGS = tuple((rate, dropout) for rate in (1e-3, 3e-3, 1e-2) for dropout in (0.0, 0.5))
ASKED = (10, 30, 100)


def keys() -> list[tuple[int, str]]:
    """Return all cells, those of the questions first."""
    found = [(images, head) for images in EPOCHS for head in HEADS]
    return sorted(found, key=lambda key: (key[0] not in ASKED or key[1] == "matched", key[0]))


def answers(record: Record) -> list[Row]:
    """Return the answers to the confirmatory questions; none while a cell is missing."""
    return answered(record, ASKED, TEST, MARGIN)


def draw(record: Record, path: Path) -> None:
    """Draw accuracy by the number of images, and the difference to each other head."""
    draw_sizes(record, path, tuple(EPOCHS))


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
    return cell(key, features(data_dir / "cifar10", few=True), EPOCHS[key[0]], SETTINGS)


def _complete(record: Record, run: common.Run) -> None:
    # Before there are several processes, which share them then.
    features(run.data_dir / "cifar10", few=True)
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

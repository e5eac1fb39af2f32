"""Do tuned heads on frozen features differ where examples are many? 1,000 and all of each class.

    OMP_NUM_THREADS=1 python studies/transfer_large.py --data-dir data    # resumes
    python studies/transfer_large.py --draw               # answers and figure of what is there

`studies/transfer.py` goes up to 300 images of each class of CIFAR-10; this goes on from there.

**Design**, fixed in a commit before its first run:

* Images, network and heads are those of `studies/transfer.py`, but all images of a part: 45,000 for
  training (4,500 of each class), 5,000 for validation, and the 10,000 test images.
* Training sets: 1,000 images of each class, drawn by the seed, and all 4,500. AdamW, batches of 64,
  cosine, 10 and 8 epochs; the last epoch counts.
* For every head and number of images the setting is chosen of eight (rates 3e-4, 1e-3, 3e-3, 1e-2;
  dropout 0 or 0.5 before every layer) by the mean accuracy on the validation images of seeds 1000
  and 1001. Then 20 fresh seeds (0 to 19).

**Confirmatory questions**, margin half a point (there are more test images than in
`studies/transfer.py`), Holm over the six: spinal minus unchained, minus mlp and minus linear, with
1,000 and 4,500 images of each class, crossed over seeds and test images. Everything else is
exploratory and gets no verdict. Known beforehand was what untuned heads do on all images
(`results/cifar10-features-again.json`): half a point behind the mlp, equal to unchained.
"""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path

import common
from common import Record, Row
from frozen_heads import HEADS, KEY, SEEDS, TUNING_SEEDS, answered, cell, draw_sizes, features

MARGIN = 0.005
SETTINGS = tuple(itertools.product((3e-4, 1e-3, 3e-3, 1e-2), (0.0, 0.5)))  # rate, dropout
EPOCHS = {1_000: 10, 4_500: 8}  # by images of each class
TEST = 10_000


def answers(record: Record) -> list[Row]:
    """Return the answers to the confirmatory questions; none while a cell is missing."""
    return answered(record, tuple(EPOCHS), TEST, MARGIN)


def draw(record: Record, path: Path) -> None:
    """Draw accuracy by the number of images, and the difference to each other head."""
    draw_sizes(record, path, tuple(EPOCHS))


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "test": TEST,
        "epochs": {str(images): epochs for images, epochs in EPOCHS.items()},
        "heads": HEADS,
        "settings": SETTINGS,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "margin": MARGIN,
    }


def _compute(key: tuple[int, str], data_dir: Path) -> Row:
    of = features(data_dir / "cifar10", few=False)
    return cell(key, of, EPOCHS[key[0]], SETTINGS)


def _complete(record: Record, run: common.Run) -> None:
    features(run.data_dir / "cifar10", few=False)  # before there are several processes
    compute = functools.partial(_compute, data_dir=run.data_dir)
    keys = itertools.product(EPOCHS, HEADS)
    common.complete(record, run, KEY, keys, compute, STUDY.rows)


STUDY = common.Study(
    "transfer_large",
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

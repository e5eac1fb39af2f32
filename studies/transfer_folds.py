"""Heads on a frozen network and 398 photographs, tuned inside every fold, tested in repeated folds.

    OMP_NUM_THREADS=1 python studies/transfer_folds.py --data-dir data    # resumes
    python studies/transfer_folds.py --draw               # answers and figure of what is there

`spinalnet compare data/hymenoptera --folds 5` (docs/transfer.md) has each photograph tested once,
with heads of the package's defaults: its intervals are as wide as five folds make them. Here are
ten times as many folds, and the settings of every head are chosen anew in each of them.

**Design**, fixed in a commit before its first run:

* Photographs: all of hymenoptera (ants and bees; the published parts together) at 224 pixels
  through the package's EfficientNet-Lite0 (weights of ImageNet), frozen. Scaled as in
  `studies/transfer.py`, by what a head is trained on.
* Heads: those of `studies/transfer.py`.
* Ten times five folds by class, the same for all heads.
* Tuning, inside the training photographs of every fold: each of eight settings (rates 3e-4, 1e-3,
  3e-3, 1e-2; dropout 0 or 0.5) is trained on three quarters of them and scored on the others, twice
  (seeds 1000 and 1001 draw both); the best mean accuracy counts, of equal ones the lower loss. With
  it the head is trained on all training photographs, with seeds 0 and 1, and tested.
* Training: AdamW, batches of 64, cosine, 50 epochs, the last of which counts.

**Confirmatory questions**, margin 1 point (four photographs), Holm over the three: spinal minus
unchained, minus mlp and minus linear, by the corrected resampled t over the fifty folds, the two
seeds of a fold averaged. Everything else is exploratory and gets no verdict. Known beforehand was
the comparison named above, where all three are undecided, the spinal head behind by 0.4 to 0.9.
"""

from __future__ import annotations

import functools
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import Data, Part, Record, Row
from frozen_heads import HEADS, OTHERS, TUNING_SEEDS, Setting, features, scaled, trained
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch.nn.functional import cross_entropy

from spinalnet import files

REPEATS, FOLDS, SEEDS = tuple(range(10)), 5, (0, 1)
SETTINGS = tuple(itertools.product((3e-4, 1e-3, 3e-3, 1e-2), (0.0, 0.5)))  # rate, dropout
EPOCHS, CLASSES, MARGIN = 50, 2, 0.01
KEY = ("repeat", "head")


@functools.cache
def photographs(data_dir: Path) -> Part:
    """Return the features of all photographs, and their classes."""
    parts = features(data_dir / "hymenoptera", few=False)
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def fold(head: str, of: Part, train: np.ndarray, test: np.ndarray, epochs: int) -> Row:
    """Return the setting that is best inside `train`, and how a head with it does on `test`."""

    def taken(rows: Any) -> Part:
        return of[0][rows], of[1][rows]

    def after(data: Data, setting: Setting, seed: int) -> tuple[torch.nn.Module, bool]:
        return trained(head, data, setting, seed, epochs, CLASSES)

    def score(settings: Sequence[Setting], seeds: Sequence[int]) -> list[float]:
        found = []
        for setting, seed in zip(settings, seeds, strict=True):
            most, rest = train_test_split(
                train, test_size=0.25, stratify=of[1][train], random_state=seed
            )
            data = scaled(taken(most), taken(rest))
            net, broken = after(data, setting, seed)
            loss = float(cross_entropy(common.outputs(net, data[1][0]), data[1][1]))
            # The loss only decides between equal accuracies, which differ by whole photographs.
            accuracy = float(common.right(net, data[1]).mean())
            found.append(-1.0 if broken else accuracy - 1e-6 * min(loss, 1e3))
        return found

    setting, _ = common.best_setting(SETTINGS, TUNING_SEEDS, score)
    data = scaled(taken(train), taken(test))
    nets = [after(data, setting, seed)[0] for seed in SEEDS]
    accuracies = [float(common.right(net, data[1]).mean()) for net in nets]
    return {"setting": setting, "test": round(statistics.fmean(accuracies), 6)}


def cell(key: tuple[int, str], of: Part, epochs: int = EPOCHS) -> Row:
    """Return the five folds of one time for a head: one row of the results."""
    began = time.perf_counter()
    repeat, head = key
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat).split(of[0], of[1])
    found = [fold(head, of, train, test, epochs) for train, test in parts]
    return dict(zip(KEY, key, strict=True)) | {
        "examples": len(of[1]),
        "settings": [row["setting"] for row in found],
        "test": [row["test"] for row in found],
        "seconds": round(time.perf_counter() - began, 1),
    }


def _gaps(record: Record, other: str) -> list[float]:
    """Return spinal minus another head, fold by fold, as far as both are there."""
    by = common.keyed(record["cells"], KEY)
    times = [n for n in REPEATS if {(n, "spinal"), (n, other)} <= by.keys()]
    pairs = [(by[n, "spinal"]["test"], by[n, other]["test"]) for n in times]
    return [one - two for pair in pairs for one, two in zip(*pair, strict=True)]


def answers(record: Record) -> list[Row]:
    """Return the answers to the confirmatory questions; none while a cell is missing."""
    from spinalnet.comparison import inference

    gaps = {other: _gaps(record, other) for other in OTHERS}
    told = _gaps(record, "matched")
    if min(map(len, gaps.values())) < len(REPEATS) * FOLDS:
        return []
    examples = record["cells"][0]["examples"]
    estimates = [
        inference.splits(own, 1 / (FOLDS - 1), MARGIN, examples=examples, unit=1.0)
        for own in (*gaps.values(), told)
    ]
    *asked, one = estimates
    answered = common.judged([{"other": other} for other in gaps], asked)
    matched = {"other": "matched", "verdict": None, "difference": one.mean}
    return [*answered, matched | {"low": one.low, "high": one.high}]


def draw(record: Record, path: Path) -> None:
    """Draw the difference to each other head: every time's mean of five folds, and their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    others = [head for head in HEADS if head != "spinal"]
    for place, other in enumerate(others):
        if gaps := _gaps(record, other):
            means = 100 * np.reshape(gaps, (-1, FOLDS)).mean(1)
            axes.plot(means, [place] * len(means), "o", ms=4, alpha=0.5, color=f"C{place}")
            axes.plot(means.mean(), place, "|", ms=18, mew=2, color=f"C{place}")
    axes.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.92", zorder=0)
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(others)), [f"minus {head}" for head in others])
    axes.set_ylim(len(others) - 0.5, -0.5)
    axes.set_xlabel("points of accuracy; dots: five folds each, line: mean, band: equal")
    common.plain(axes, grid="x")
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "repeats": REPEATS,
        "folds": FOLDS,
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "heads": HEADS,
        "settings": SETTINGS,
        "tuning_seeds": TUNING_SEEDS,
        "margin": MARGIN,
    }


def _compute(key: tuple[int, str], data_dir: Path) -> Row:
    return cell(key, photographs(data_dir))


def _complete(record: Record, run: common.Run) -> None:
    photographs(run.data_dir)  # before there are several processes
    compute = functools.partial(_compute, data_dir=run.data_dir)
    common.complete(record, run, KEY, itertools.product(REPEATS, HEADS), compute)


STUDY = common.Study(
    "transfer_folds", __doc__ or "", design, _complete, answers, draw, needs_data=True
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

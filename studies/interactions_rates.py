"""Do two answers about the chain hang on rates that two seeds chose? They are chosen by more here.

    OMP_NUM_THREADS=1 python studies/interactions_rates.py --data-dir data    # resumes
    python studies/interactions_rates.py --draw           # answers and figure of what is there

In `studies/interactions_again.py` a spinal net was ahead of plain deep nets on a product of four
inputs, and of the same without its chain on the pixels of CIFAR-10. The rate of every net had been
chosen by two seeds there. Two seeds do not see that a third of the others fail at a rate, and on
the pixels the two wirings took different rates, each by little.

**Design**, fixed in a commit before its first run. What is not said here is as it is there. Fresh
seeds again: 200 to 219 for functions, 200 to 209 for images. Rates: 3e-4, 1e-3, 3e-3, 1e-2, 3e-2,
chosen by the mean validation accuracy of seeds 1200 to 1209 for functions, and of the first five of
them for images.

* `order`: the product of four inputs across two slices, 16,000 examples: spinal, matched, deep-3,
  deep-6.
* `colour`: the pixels of CIFAR-10, as they are and in one random order, so that no slice is a
  colour: spinal, unchained, matched.

**Confirmatory questions**, margin 1 point, Holm over the five: spinal minus matched, deep-3 and
deep-6 on the product, over seeds; spinal minus unchained on the pixels in either order, crossed
over seeds and test images. Everything else is exploratory and gets no verdict.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict, replace
from pathlib import Path

import common
import interactions
import interactions_again as again
import torch
from common import Part, Record, Row
from interactions import KEY, MARGIN, TEST, Question

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEEDS = {"functions": tuple(range(1200, 1210)), "images": tuple(range(1200, 1205))}
SEEDS = {"functions": tuple(range(200, 220)), "images": tuple(range(200, 210))}
FOUR = "4 across, 16,000 examples"
ORDERS = ("pixels", "pixels in random order")
QUESTIONS: tuple[Question, ...] = (
    *(("order", FOUR, other) for other in ("matched", *again.DEEP)),
    *(("colour", order, "unchained") for order in ORDERS),
)


def tasks() -> list[again.Overlapping]:
    """Return all tasks."""
    by = {task.name: task for task in again.tasks()}
    nets = ("spinal", "unchained", "matched")
    pixels = [replace(by["pixels"], name=name, inputs=name, nets=nets) for name in ORDERS]
    return [by[FOUR], *pixels]


@functools.cache
def images(inputs: str, data_dir: Path) -> tuple[Part, Part]:
    """Return the pixels of CIFAR-10, in one random order if that is asked for."""
    train, test = again.images("pixels", data_dir)
    if inputs == "pixels":
        return train, test
    order = torch.randperm(train[0].shape[1], generator=torch.Generator().manual_seed(0))
    return (train[0][:, order], train[1]), (test[0][:, order], test[1])


def draw(record: Record, path: Path) -> None:
    """Draw accuracies on the product, and on the pixels."""
    groups = {"order": [FOUR], "colour": list(ORDERS)}
    nets = ("spinal", "unchained", "matched", *again.DEEP)
    interactions.draw_groups(record["cells"], path, groups, nets)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "tasks": [asdict(task) for task in tasks()],
        "rates": RATES,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "epochs": interactions.EPOCHS,
        "test": TEST,
        "margin": MARGIN,
    }


def _compute(key: tuple[str, str, str], data_dir: Path) -> Row:
    group, name, net = key
    task = next(one for one in tasks() if (one.group, one.name) == (group, name))
    draw: interactions.Draw = again.drawn
    if task.inputs:
        draw = functools.partial(interactions.drawn_of, images(task.inputs, data_dir))
    kind = task.kind
    epochs, seeds, tuning = interactions.EPOCHS[kind], SEEDS[kind], TUNING_SEEDS[kind]
    return interactions.cell(net, task, draw, epochs, seeds, again.built, RATES, tuning)


def _complete(record: Record, run: common.Run) -> None:
    keys = ((task.group, task.name, net) for task in tasks() for net in task.nets)
    common.complete(record, run, KEY, keys, functools.partial(_compute, data_dir=run.data_dir))


STUDY = common.Study(
    "interactions_rates",
    __doc__ or "",
    design,
    _complete,
    lambda record: interactions.answers(record["cells"], QUESTIONS),
    draw,
    needs_data=True,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

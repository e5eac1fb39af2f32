"""What the chain is for, asked again of what only had been seen: orders, overlaps, links, colours.

    OMP_NUM_THREADS=1 python studies/interactions_again.py --data-dir data    # resumes
    python studies/interactions_again.py --draw           # answers and figure of what is there

`studies/interactions.py` found by the way that a spinal net learns products of three and four
inputs from fewer examples than one hidden layer, and did not find out whether any deep net does;
it had no overlapping slices, no other images than Fashion-MNIST, and rates that were often chosen
at the upper end of those tried.

**Design**, fixed in a commit before its first run. What is not said here is as it is there: drawn
examples, numbers of images, epochs, the choice of the epoch and of the rate, margin, nets. Seeds
are fresh: 100 to 119 for functions, 100 to 109 for images, and 1100 and 1101 for the rates, which
go up to 0.3.

* `order`: a product of three inputs across two slices with 4,000 examples, one of four with 16,000,
  and the sum of three products across with 4,000. Beside spinal (6 layers of 8) and matched,
  `deep-3` and `deep-6`: the widest plain nets of three and of six equal hidden layers with at most
  as many parameters as spinal.
* `overlap`: two slices that share none, 4 or 10 of the 20 inputs, which lie in the middle; products
  of the first input with the last (never in one slice), of the first with the eleventh, and of the
  tenth with the eleventh (both in both slices as soon as they overlap).
* `links`: a product of the first input with the last, ten slices in layers that see each once,
  twice, three times; two slices in 2 and 4 layers. Width 8.
* `colour`: CIFAR-10 (JPEG copies, 32 pixels) as pixels, colour by colour, so that a slice is red
  and the upper half of green, and behind the first and the second convolution of `mnist-cnn`,
  trained as there with the rate for colour images (3e-3).

**Confirmatory questions**, margin 1 point, Holm over the twelve; everything else is exploratory and
gets no verdict:

1. to 6. Spinal minus matched, minus deep-3 and minus deep-6, on the product of three inputs and on
   that of four: over seeds.
7. and 8. Spinal minus unchained with slices that share 4 inputs, on the tenth with the eleventh and
   on the first with the last: over seeds.
9. to 12. Spinal minus unchained and minus linear, on the pixels of CIFAR-10 and behind the second
   convolution: crossed over seeds and test images.
"""

from __future__ import annotations

import functools
import itertools
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import common
import interactions
import torch
from common import Data, Part, Record, Row
from interactions import ALL, KEY, MARGIN, TEST, WIRINGS, Question, Task
from torch import Tensor, nn

from spinalnet.data import ArrayDataset, FolderDataset
from spinalnet.nn import MLPHead, SpinalNet
from spinalnet.training import TrainConfig

RATES, TUNING_SEEDS = (*interactions.RATES, 3e-1), (1100, 1101)
SEEDS = {"functions": tuple(range(100, 120)), "images": tuple(range(100, 110))}
DEEP = {"deep-3": 3, "deep-6": 6}  # hidden layers
COLOURS = ("pixels", "first convolution", "second convolution")
Images = ArrayDataset | FolderDataset
FIRST, LAST, COLOUR_RATE = 0, interactions.FEATURES - 1, 3e-3


@dataclass(frozen=True)
class Overlapping(Task):
    """A task whose two slices share `shared` inputs in the middle."""

    shared: int = 0

    def columns(self) -> Tensor:
        """Return which inputs the slices hold, one slice after the other."""
        half = (interactions.FEATURES + self.shared) // 2
        every = torch.arange(interactions.FEATURES)
        return torch.cat([every[:half], every[-half:]])


def tasks() -> list[Overlapping]:
    """Return all tasks."""
    by = {task.name: task for task in interactions.tasks() if task.group in ("kind", "examples")}
    asked = (
        ("3 across, 4,000 examples", by["3 across, 4,000 examples"]),
        ("4 across, 16,000 examples", by["4 across, 16,000 examples"]),
        ("three of 2 across, 4,000 examples", by["three of 2 across"]),
    )
    found = [
        Overlapping(
            "order", name, task.terms, examples=task.examples, nets=("spinal", "matched", *DEEP)
        )
        for name, task in asked
    ]
    pairs = (("first with last", LAST), ("first with eleventh", 10), ("tenth with eleventh", 10))
    for shared, (name, other) in itertools.product((0, 4, 10), pairs):
        one = 9 if name.startswith("tenth") else FIRST
        words = f"{shared} shared, {name}"
        terms = ((1.0, (one, other)),)
        found.append(Overlapping("overlap", words, terms, nets=WIRINGS, shared=shared))
    for splits, layers in ((10, 10), (10, 20), (10, 30), (2, 2), (2, 4)):
        name = f"{splits} slices, {layers} layers"
        terms = ((1.0, (FIRST, LAST)),)
        found.append(
            Overlapping("links", name, terms, splits=splits, layers=layers, nets=("spinal",))
        )
    found += [
        Overlapping("colour", inputs, inputs=inputs, examples=10_000, nets=ALL)
        for inputs in COLOURS
    ]
    return found


def drawn(task: Task, seed: int) -> Data:
    """Return what a seed draws of a function, the inputs of both slices where they overlap."""
    data = interactions.drawn(task, seed)
    if not isinstance(task, Overlapping) or not task.shared:
        return data
    which = task.columns()
    parts = [(x[:, which], y) for x, y in data]
    return parts[0], parts[1], parts[2]


@functools.cache
def images(inputs: str, data_dir: Path) -> tuple[Part, Part]:
    """Return the training images behind the first 10,000, and the test images, as inputs."""
    from spinalnet import create_model, fit, load_dataset

    splits = load_dataset(str(data_dir / "cifar10"), image_size=32)

    def together(part: Images, *, shuffle: bool = False) -> Part:
        pairs = list(part.batches(1_000, shuffle=shuffle))
        x, y = zip(*pairs, strict=True)
        return torch.cat(x), torch.cat(y)

    # In one random order, for the folder lies there class by class.
    train, test = together(splits.train, shuffle=True), together(splits.test)
    trunk: nn.Module = nn.Flatten()
    if "convolution" in inputs:
        model = create_model("mnist-cnn", 10, head="linear", seed=77, in_channels=3, image_size=32)
        first = ArrayDataset(train[0][:10_000], train[1][:10_000])
        held_out = ArrayDataset(*together(splits.val))
        fit(model, first, held_out, TrainConfig(epochs=3, seed=77, lr=COLOUR_RATE))
        parts = list(model.trunk.children())
        trunk = nn.Sequential(*parts[: 3 if inputs.startswith("first") else 7], nn.Flatten())
    trunk.eval()
    found = []
    for (x, y), start in ((train, 10_000), (test, 0)):
        with torch.no_grad():
            x = torch.cat([trunk(some) for some in x[start:].split(1_000)])
        found.append((x, y[start:]))
    return found[0], found[1]


def built(net: str, task: Task, features: int, classes: int, seed: int) -> nn.Module:
    """Return a fresh net of the package."""
    if net not in DEEP:
        return interactions.built(net, task, features, classes, seed)
    spinal = SpinalNet(features, classes, task.width, task.layers, num_splits=task.splits)
    most, width = count(spinal), 1
    while count(MLPHead(features, classes, [width + 1] * DEEP[net])) <= most:
        width += 1
    torch.manual_seed(seed)
    return MLPHead(features, classes, [width] * DEEP[net])


def count(net: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in net.parameters())


QUESTIONS: tuple[Question, ...] = (
    *(
        ("order", name, other)
        for name in ("3 across, 4,000 examples", "4 across, 16,000 examples")
        for other in ("matched", *DEEP)
    ),
    ("overlap", "4 shared, tenth with eleventh", "unchained"),
    ("overlap", "4 shared, first with last", "unchained"),
    *(
        ("colour", name, other)
        for name in ("pixels", "second convolution")
        for other in ("unchained", "linear")
    ),
)


def draw(record: Record, path: Path) -> None:
    """Draw accuracies by order, by what the slices share, and by what the inputs are."""
    groups = {
        group: [task.name for task in tasks() if task.group == group]
        for group in ("order", "overlap", "colour")
    }
    interactions.draw_groups(record["cells"], path, groups, (*ALL, *DEEP))


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "tasks": [asdict(task) for task in tasks()],
        "rates": RATES,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "epochs": interactions.EPOCHS,
        "val": interactions.VAL,
        "test": TEST,
        "margin": MARGIN,
    }


def _compute(key: tuple[str, str, str], data_dir: Path) -> Row:
    group, name, net = key
    task = next(one for one in tasks() if (one.group, one.name) == (group, name))
    draw: interactions.Draw = drawn
    if task.inputs:
        of = images(task.inputs, data_dir)
        draw = functools.partial(interactions.drawn_of, of)
    epochs, seeds = interactions.EPOCHS[task.kind], SEEDS[task.kind]
    return interactions.cell(net, task, draw, epochs, seeds, built, RATES, TUNING_SEEDS)


def _complete(record: Record, run: common.Run) -> None:
    keys = ((task.group, task.name, net) for task in tasks() for net in task.nets)
    common.complete(record, run, KEY, keys, functools.partial(_compute, data_dir=run.data_dir))


STUDY = common.Study(
    "interactions_again",
    __doc__ or "",
    design,
    _complete,
    lambda record: interactions.answers(record["cells"], QUESTIONS),
    draw,
    needs_data=True,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

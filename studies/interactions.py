"""What is the chain for? Interactions within and across slices, their strength, and trunks.

    OMP_NUM_THREADS=1 python studies/interactions.py --data-dir data   # resumes, minutes
    python studies/interactions.py --draw                 # answers and figure of what is there

Without its chain a spinal net is a sum of functions of one slice each, so that it cannot compute an
interaction between slices (`docs/theory.md` has the proof). Here is measured what that is worth.

**Design**, fixed before a test example was scored:

* Functions: 20 independent standard normal inputs; the class is whether a function of them is
  positive. Everything is drawn anew by each seed: examples (4,000 for training, 1,000 for
  validation, 10,000 for testing), initial weights, the order of the examples.
* Groups of tasks: `kind` (a sum, products of 2 to 4 inputs within one slice and across two, the sum
  of three products across); `strength` (the root of 1 - s times an input, plus the root of s times
  a product across, with and without noise of the size of the whole); `slices` (2, 4, 5 and 10 of
  them, ten layers, a product within the first, and one of the first with the last slice); `depth`
  (2 to 12 layers of about as many multiplications); `examples` (1,000 to 64,000).
* `images`: Fashion-MNIST, 10,000 images for training and 2,000 for validation, drawn by the seed
  from the package's training part without its first 10,000; all 10,000 test images. Inputs are the
  pixels, the pixels in one random order, and what the trunk of `mnist-cnn` makes of them after its
  first and its second convolution. The trunk was trained with a linear head on those first 10,000
  (at most 3 epochs, the best on the package's validation part, seed 77) and stays as it is.
  Centred by feature, scaled by one number, both of the training part.
* Nets: `spinal` (two slices, 6 layers of 8 where nothing else is said), `unchained` (no chain),
  `matched` (a hidden layer with as many parameters as spinal), `mlp` (a hidden layer of 50),
  `linear`. The package's modules, the package's defaults but for the rate and the epochs: 60 for
  functions, 20 for images; the best epoch on validation counts.
* The rate is chosen for every net and task of 3e-4, 1e-3, 3e-3, 1e-2, 3e-2 and 1e-1 by the mean
  validation accuracy of seeds 1000 and 1001. Then 20 fresh seeds (0 to 19) for functions, 10 for
  images.

**Confirmatory questions**, margin 1 point, Holm over the eight; everything else is exploratory and
gets no verdict:

1. to 4. Spinal minus unchained on a sum, on a product within a slice, on a product across slices,
   and on three products across: over seeds.
5. to 8. Spinal minus unchained and minus linear, on pixels and behind the second convolution:
   crossed over seeds and test images.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import Data, Part, Record, Row, packed, right, unpacked
from torch import nn

from spinalnet import files
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, matched_mlp
from spinalnet.training import TrainConfig

RATES, TUNING_SEEDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1000, 1001)
FEATURES, VAL, TEST, MARGIN = 20, 1_000, 10_000, 0.01
EPOCHS = {"functions": 60, "images": 20}
SEEDS = {"functions": tuple(range(20)), "images": tuple(range(10))}
ALL = ("spinal", "unchained", "matched", "mlp", "linear")
WIRINGS = ("spinal", "unchained")
KEY = ("group", "task", "net")


@dataclass(frozen=True)
class Task:
    """One thing to learn, and the shape of the spinal net that does.

    Attributes:
        group: Of the groups at the head of the file.
        name: Its name in the group.
        terms: What is added up: a weight, and the numbers of the inputs that are multiplied.
        noise: Standard deviation of what is added to the function before its sign is taken.
        examples: For training.
        inputs: Of `images`: which ones; the function is not used then.
        splits: Number of slices.
        layers: Number of spinal layers.
        width: Neurons of a layer.
        nets: Which nets.
    """

    group: str
    name: str
    terms: tuple[tuple[float, tuple[int, ...]], ...] = ()
    noise: float = 0.0
    examples: int = 4_000
    inputs: str = ""
    splits: int = 2
    layers: int = 6
    width: int = 8
    nets: tuple[str, ...] = ALL

    @property
    def kind(self) -> str:
        """Key of `EPOCHS` and `SEEDS`."""
        return "images" if self.inputs else "functions"


def _product(*numbers: int) -> tuple[tuple[float, tuple[int, ...]], ...]:
    return ((1.0, numbers),)


def tasks() -> list[Task]:
    """Return all tasks; features 0 to 9 are the first of two slices."""
    half = FEATURES // 2
    found = [
        Task("kind", "sum", tuple((1.0, (i,)) for i in range(FEATURES))),
        Task("kind", "2 within", _product(0, 1)),
        Task("kind", "2 across", _product(0, half)),
        Task("kind", "3 within", _product(0, 1, 2)),
        Task("kind", "3 across", _product(0, 1, half)),
        Task("kind", "4 within", _product(0, 1, 2, 3)),
        Task("kind", "4 across", _product(0, 1, half, half + 1)),
        Task("kind", "three of 2 across", tuple((1.0, (i, half + i)) for i in range(3))),
    ]
    for inputs in ("pixels", "pixels in random order", "first convolution", "second convolution"):
        found.append(Task("images", inputs, inputs=inputs, examples=10_000))
    for noise in (0.0, 1.0):
        for share in (0.1, 0.25, 0.5, 0.75):
            terms = (((1 - share) ** 0.5, (1,)), (share**0.5, (0, half)))
            name = f"{share:.0%} across" + (", noisy" if noise else "")
            found.append(Task("strength", name, terms, noise))
    for splits in (2, 4, 5, 10):
        for where, other in (("within", 1), ("first with last", FEATURES - 1)):
            name = f"{splits} slices, {where}"
            found.append(
                Task("slices", name, _product(0, other), splits=splits, layers=10, nets=WIRINGS)
            )
    for layers, width in ((2, 20), (3, 14), (6, 8), (12, 5)):
        for name in ("2 across", "three of 2 across"):
            terms = next(task.terms for task in found if task.name == name)
            name = f"{layers} layers of {width}, {name}"
            found.append(Task("depth", name, terms, layers=layers, width=width, nets=WIRINGS))
    for order in (2, 3, 4):
        numbers = (0, half, 1, half + 1)[:order]
        for examples in (1_000, 4_000, 16_000, 64_000):
            name = f"{order} across, {examples:,} examples"
            nets = ("spinal", "matched")
            found.append(Task("examples", name, _product(*numbers), examples=examples, nets=nets))
    return found


def drawn(task: Task, seed: int) -> Data:
    """Return what a seed draws of a function."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for examples in (task.examples, VAL, TEST):
        x = torch.randn(examples, FEATURES, generator=generator)
        value = sum(weight * x[:, list(which)].prod(1) for weight, which in task.terms)
        value = value + task.noise * torch.randn(examples, generator=generator)
        parts.append((x, (value > 0).long()))
    return parts[0], parts[1], parts[2]


@functools.cache
def images(inputs: str, data_dir: Path) -> tuple[Part, Part]:
    """Return the training images behind the first 10,000, and the test images, as inputs."""
    from spinalnet import create_model, fit, load_dataset
    from spinalnet.data import ArrayDataset

    splits = load_dataset("fashion-mnist", data_dir=data_dir, download=False)
    assert isinstance(splits.train, ArrayDataset)
    assert isinstance(splits.test, ArrayDataset)
    train, test = splits.train, splits.test
    first = ArrayDataset(train.inputs[:10_000], train.targets[:10_000])
    trunk: nn.Module = nn.Flatten()
    if "convolution" in inputs:
        model = create_model("mnist-cnn", 10, head="linear", seed=77)
        fit(model, first, splits.val, TrainConfig(epochs=3, seed=77))
        parts = list(model.trunk.children())
        trunk = nn.Sequential(*parts[: 3 if inputs.startswith("first") else 7], nn.Flatten())
    found = []
    order = torch.randperm(784, generator=torch.Generator().manual_seed(0))
    trunk.eval()
    for part, start in ((train, 10_000), (test, 0)):
        x, y = part.inputs[start:].float(), part.targets[start:]
        with torch.no_grad():
            x = torch.cat([trunk(some) for some in x.split(1_000)])
        found.append((x[:, order] if "random" in inputs else x, y))
    return found[0], found[1]


def drawn_images(task: Task, seed: int, data_dir: Path) -> Data:
    """Return what a seed draws of the images."""
    return drawn_of(images(task.inputs, data_dir), task, seed)


def drawn_of(of: tuple[Part, Part], task: Task, seed: int) -> Data:
    """Return what a seed draws of images for training, and the test images."""
    (x, y), (test_x, test_y) = of
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, val = order[: task.examples], order[task.examples : task.examples + 2_000]
    middle = x[train].mean(0)
    spread = (x[train] - middle).std()
    parts = [(x[train], y[train]), (x[val], y[val]), (test_x, test_y)]
    scaled = [((own - middle) / spread, targets) for own, targets in parts]
    return scaled[0], scaled[1], scaled[2]


def built(net: str, task: Task, features: int, classes: int, seed: int) -> nn.Module:
    """Return a fresh net of the package."""
    torch.manual_seed(seed)
    if net == "unchained":
        return UnchainedNet(features, classes, task.width, task.layers, num_splits=task.splits)
    spinal = SpinalNet(features, classes, task.width, task.layers, num_splits=task.splits)
    if net == "spinal":
        return spinal
    if net == "matched":
        return matched_mlp(features, classes, sum(p.numel() for p in spinal.parameters()))
    return MLPHead(features, classes, 50) if net == "mlp" else LinearHead(features, classes)


Draw = Callable[[Task, int], Data]


Build = Callable[[str, Task, int, int, int], nn.Module]


def trained(
    net: str,
    task: Task,
    draw: Draw,
    seeds: Sequence[int],
    rates: Sequence[float],
    epochs: int,
    build: Build = built,
) -> tuple[list[nn.Module], list[float]]:
    """Return nets at their best epoch and its validation accuracy, one for each (seed, rate)."""
    datas = [draw(task, seed) for seed in seeds]
    classes = int(datas[0][0][1].max()) + 1
    nets = [
        build(net, task, d[0][0].shape[1], classes, s) for d, s in zip(datas, seeds, strict=True)
    ]
    pairs = zip(rates, seeds, strict=True)
    configs = [TrainConfig(epochs=epochs, lr=rate, seed=seed) for rate, seed in pairs]
    broken = common.train(nets, configs, datas)
    accuracies = [float(right(n, d[1]).mean()) for n, d in zip(nets, datas, strict=True)]
    # A rate at which training breaks off is one that nobody takes.
    return nets, [0.0 if bad else a for bad, a in zip(broken, accuracies, strict=True)]


def cell(
    net: str,
    task: Task,
    draw: Draw,
    epochs: int,
    seeds: Sequence[int],
    build: Build = built,
    rates: Sequence[float] = RATES,
    tuning_seeds: Sequence[int] = TUNING_SEEDS,
) -> Row:
    """Choose the rate, train with the seeds, and measure: one row of the results."""
    began = time.perf_counter()

    def score(tried: Sequence[float], by: Sequence[int]) -> list[float]:
        return trained(net, task, draw, by, tried, epochs, build)[1]

    rate, by_rate = common.best_setting(rates, tuning_seeds, score)
    nets, _ = trained(net, task, draw, seeds, [rate] * len(seeds), epochs, build)
    hits = [right(own, draw(task, seed)[2]) for own, seed in zip(nets, seeds, strict=True)]
    row: Row = {
        "group": task.group,
        "task": task.name,
        "net": net,
        "params": sum(p.numel() for p in nets[0].parameters()),
        "rate": rate,
        "tuning": {f"{r:g}": round(a, 4) for r, a in zip(rates, by_rate, strict=True)},
        "test": [round(float(hit.mean()), 5) for hit in hits],
        "seconds": round(time.perf_counter() - began, 1),
    }
    if task.inputs:  # the same test images under every seed: they are crossed with the seeds
        row["right"] = [packed(hit) for hit in hits]
    return row


Question = tuple[str, str, str]  # see KEY; of the net that spinal is compared with
QUESTIONS: tuple[Question, ...] = (
    *(("kind", name, "unchained") for name in ("sum", "2 within", "2 across", "three of 2 across")),
    *(
        ("images", name, other)
        for name in ("pixels", "second convolution")
        for other in ("unchained", "linear")
    ),
)


def answers(rows: list[Row], questions: Sequence[Question] = QUESTIONS) -> list[Row]:
    """Return the answers to the confirmatory questions; none while a cell is missing."""
    from spinalnet.comparison import inference

    by = common.keyed(rows, KEY)
    if not {(g, t, n) for g, t, other in questions for n in ("spinal", other)} <= by.keys():
        return []
    estimates = []
    for group, name, other in questions:
        pair = by[group, name, "spinal"], by[group, name, other]
        if "right" in pair[0]:  # the same test images under every seed
            first, second = (unpacked(row["right"], TEST).astype(float) for row in pair)
            estimates.append(inference.crossed(first - second, MARGIN))
        else:
            gaps = np.subtract(*(row["test"] for row in pair))
            estimates.append(inference.seeds_only(gaps, MARGIN))
    asked: list[Row] = [{"group": g, "task": t, "other": other} for g, t, other in questions]
    return common.judged(asked, estimates)


def draw_figure(rows: list[Row], path: Path) -> None:
    """Draw accuracies by kind of interaction, by its strength, and by what the inputs are."""
    groups = {
        group: [t.name for t in tasks() if t.group == group and "noisy" not in t.name]
        for group in ("kind", "strength", "images")
    }
    draw_groups(rows, path, groups, ALL)


def draw_groups(
    rows: list[Row], path: Path, groups: Mapping[str, Sequence[str]], nets: Sequence[str]
) -> None:
    """Draw accuracies of nets, a panel for each group of tasks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(groups), width_ratios=[len(names) for names in groups.values()])
    by = common.keyed(rows, KEY)
    for axes, (group, names) in zip(panels, groups.items(), strict=True):
        for index, net in enumerate(nets):
            found = [(at, by[group, n, net]) for at, n in enumerate(names) if (group, n, net) in by]
            places = [at + 0.13 * (index - len(nets) // 2) for at, _ in found]
            means = [100 * statistics.fmean(row["test"]) for _, row in found]
            spread = [
                [100 * abs(end(row["test"]) - statistics.fmean(row["test"])) for _, row in found]
                for end in (min, max)
            ]
            axes.errorbar(places, means, spread, fmt="o", ms=4, lw=1, color=f"C{index}", label=net)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
        axes.set_xlim(-0.6, len(names) - 0.4)
        common.plain(axes)
    panels[0].set_ylabel("test accuracy, %\n(mean; bars: all seeds)")
    shown: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside upper center", fontsize=8, ncols=len(shown)
    )
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "tasks": [asdict(task) for task in tasks()],
        "rates": list(RATES),
        "tuning_seeds": list(TUNING_SEEDS),
        "seeds": {kind: list(seeds) for kind, seeds in SEEDS.items()},
        "epochs": EPOCHS,
        "features": FEATURES,
        "val": VAL,
        "test": TEST,
        "margin": MARGIN,
    }


def _compute(key: tuple[str, str, str], data_dir: Path) -> Row:
    group, name, net = key
    task = next(one for one in tasks() if (one.group, one.name) == (group, name))
    draw: Draw = functools.partial(drawn_images, data_dir=data_dir) if task.inputs else drawn
    return cell(net, task, draw, EPOCHS[task.kind], SEEDS[task.kind])


def _complete(record: Record, run: common.Run) -> None:
    keys = ((task.group, task.name, net) for task in tasks() for net in task.nets)
    common.complete(record, run, KEY, keys, functools.partial(_compute, data_dir=run.data_dir))


STUDY = common.Study(
    "interactions",
    __doc__ or "",
    design,
    _complete,
    lambda record: answers(record["cells"]),
    lambda record, path: draw_figure(record["cells"], path),
    needs_data=True,
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

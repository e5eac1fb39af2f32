"""Heads on features of a frozen network, for the studies that train such heads.

What is drawn, and how a head is trained on it, is told in `studies/transfer.py`.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import common
import torch
from common import Data, Part, Record, Row
from torch import nn

from spinalnet import InputError, files
from spinalnet.data import ArrayDataset, FolderDataset
from spinalnet.data.order import stratified
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, matched_mlp
from spinalnet.training import TrainConfig

POOL, VAL, TEST, CLASSES = 6_000, 1_000, 5_000, 10
EPOCHS = {10: 50, 30: 50, 100: 30, 300: 15}  # by images of each class
HEADS = ("spinal", "unchained", "mlp", "linear", "matched")
OTHERS = ("unchained", "mlp", "linear")  # those of the questions
TUNING_SEEDS, SEEDS = (1000, 1001), tuple(range(20))
KEY = ("images", "head")  # images of each class

Setting = tuple[float, float]  # rate, dropout
Images = ArrayDataset | FolderDataset


def _few(part: Images, total: int, name: str) -> Images:
    rows, _ = stratified(part.targets, total, "transfer", name, keep_train=0)
    return part.subset(rows)


@functools.cache
def features(folder: Path, *, few: bool, engine: str = "auto") -> Data:
    """Return the features of the images for training, validation and testing.

    Args:
        folder: Of the images.
        few: Whether these are the pool and the images for validation and testing that are drawn
            once, or all of each part.
        engine: What computes them, see `spinalnet.models.features.frozen_splits`.

    Raises:
        InputError: If that engine does not fit.
    """
    from spinalnet.comparison import building
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.models.features import frozen_splits
    from spinalnet.models.surgery import freeze_except_head_

    spec = RunSpec.of(str(folder), "efficientnet_lite0", pretrained=True, image_size=224)
    splits = building.load_splits(spec, download=False)
    if few:
        splits = replace(
            splits,
            train=_few(splits.train, POOL, "train"),
            val=_few(splits.val, VAL, "val"),
            test=_few(splits.test, TEST, "test"),
        )
    model = freeze_except_head_(building.build_model(spec, splits.info))
    made = frozen_splits(model.get_submodule("trunk"), splits, engine=engine, threads=1)
    if engine not in ("auto", made.engine):
        raise InputError(f"{engine} does not fit: {made.engine} would take its place.")
    parts = [
        (torch.cat([x for x, _ in part.batches(1_000)]).float(), part.targets)
        for part in (made.train, made.val, made.test)
    ]
    return parts[0], parts[1], parts[2]


def drawn(of: Data, images: int, seed: int) -> Data:
    """Return so many training examples of each class, and what they are judged on, all scaled."""
    (pool, targets), *others = of
    rows, _ = stratified(targets, images * CLASSES, "transfer", seed, images, keep_train=0)
    return scaled((pool[rows], targets[rows]), *others)


def scaled(train: Part, *others: Part) -> Data:
    """Return parts, centred feature by feature and scaled by one number, both of the first one."""
    middle = train[0].mean(0)
    spread = (train[0] - middle).std()
    found = [((x - middle) / spread, targets) for x, targets in (train, *others)]
    return found[0], found[1], found[-1]


def built(head: str, inputs: int, classes: int, dropout: float, seed: int) -> nn.Module:
    """Return a fresh head of the package."""
    torch.manual_seed(seed)
    if head == "unchained":
        return UnchainedNet(inputs, classes, 20, 4, dropout=dropout)
    if head == "mlp":
        return MLPHead(inputs, classes, 512, dropout=dropout)
    if head == "linear":
        return LinearHead(inputs, classes, dropout=dropout)
    spinal = SpinalNet(inputs, classes, 20, 4, dropout=dropout)
    if head == "spinal":
        return spinal
    params = sum(p.numel() for p in spinal.parameters())
    return matched_mlp(inputs, classes, params, dropout=dropout)


def trained(
    head: str, data: Data, setting: Setting, seed: int, epochs: int, classes: int = CLASSES
) -> tuple[nn.Module, bool]:
    """Return a head after its last epoch, and whether its training broke off."""
    rate, dropout = setting
    net = built(head, data[0][0].shape[1], classes, dropout, seed)
    config = TrainConfig(epochs=epochs, lr=rate, seed=seed)
    (broken,) = common.train([net], [config], [data], choose_epoch=False)
    return net, broken


def cell(
    key: tuple[int, str],
    of: Data,
    epochs: int,
    settings: Sequence[Setting],
    tuning_seeds: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> Row:
    """Choose the setting, train with the seeds, and measure: one row of the results.

    Args:
        key: See `KEY`.
        of: What training images are drawn of, and those for validation and testing.
        epochs: Of every training.
        settings: What validation chooses from.
        tuning_seeds: Those that it chooses by; `TUNING_SEEDS` without them.
        seeds: Those of the runs that are told; `SEEDS` without them.
    """
    began = time.perf_counter()
    images, head = key

    def score(tried: Sequence[Setting], its_seeds: Sequence[int]) -> list[float]:
        found = []
        for setting, seed in zip(tried, its_seeds, strict=True):
            data = drawn(of, images, seed)
            net, broken = trained(head, data, setting, seed, epochs)
            # A setting at which training breaks off is one that nobody takes.
            found.append(0.0 if broken else float(common.right(net, data[1]).mean()))
        return found

    setting, scores = common.best_setting(settings, tuning_seeds or TUNING_SEEDS, score)
    hits, params = [], 0
    for seed in seeds or SEEDS:
        data = drawn(of, images, seed)
        net, _ = trained(head, data, setting, seed, epochs)
        hits.append(common.right(net, data[2]))
        params = sum(p.numel() for p in net.parameters())
    return dict(zip(KEY, key, strict=True)) | {
        "params": params,
        "rate": setting[0],
        "dropout": setting[1],
        "tuning": {
            f"{rate:g}, dropout {dropout:g}": round(score, 4)
            for (rate, dropout), score in zip(settings, scores, strict=True)
        },
        "test": [round(float(hit.mean()), 5) for hit in hits],
        "right": [common.packed(hit) for hit in hits],
        "seconds": round(time.perf_counter() - began, 1),
    }


def answered(record: Record, sizes: Sequence[int], examples: int, margin: float) -> list[Row]:
    """Return the answers with these numbers of training images, and the intervals of `matched`.

    Args:
        record: What a file holds; while a cell of a question is missing there are no answers.
        sizes: Numbers of training images of each class that are asked about.
        examples: Test images.
        margin: Below this a difference counts as none.
    """
    from spinalnet.comparison import inference

    hits: dict[tuple[int, str], list[str]] = {}
    for row in record["hits"]:
        hits.setdefault((row["images"], row["head"]), []).append(row["right"])
    if not {(images, head) for images in sizes for head in ("spinal", *OTHERS)} <= hits.keys():
        return []

    def gap(images: int, other: str) -> inference.Estimate:
        one, two = (
            common.unpacked(hits[images, head], examples).astype(float)
            for head in ("spinal", other)
        )
        return inference.crossed(one - two, margin)

    asked = [{"images": images, "other": other} for images in sizes for other in OTHERS]
    found = common.judged(asked, [gap(row["images"], row["other"]) for row in asked])
    told = [(images, gap(images, "matched")) for images in sizes if (images, "matched") in hits]
    return found + [
        {"images": images, "other": "matched", "verdict": None}
        | {"difference": one.mean, "low": one.low, "high": one.high}
        for images, one in told
    ]


def draw_sizes(record: Record, path: Path, numbers: Sequence[int]) -> None:
    """Draw accuracy by these numbers of images, and the difference to each other head."""
    from matplotlib.figure import Figure

    by = common.keyed(record["cells"], KEY)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, head in enumerate(HEADS):
        sizes = [images for images in numbers if (images, head) in by]
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
        axes.set_xticks(list(numbers), [f"{images:,}" for images in numbers])
        axes.minorticks_off()
        axes.set_xlabel("training images of each class")
        axes.legend(fontsize=8)
        common.plain(axes)
    left.set_ylabel("test accuracy, % (median; band: all seeds)", fontsize=8)
    right.set_ylabel(
        "spinal minus another, points\n(mean ± 2 standard errors of seeds)", fontsize=8
    )
    files.write_figure(path, figure)

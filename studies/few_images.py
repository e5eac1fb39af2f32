"""Heads on frozen features of a few images of CIFAR-10, for the studies that train such heads.

What is drawn, and how a head is trained on it, is told in `studies/transfer.py`.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import common
import torch
from common import Data, Part
from torch import nn

from spinalnet import InputError
from spinalnet.data import ArrayDataset, FolderDataset
from spinalnet.data.order import stratified
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, matched_mlp
from spinalnet.training import TrainConfig

POOL, VAL, TEST, CLASSES = 6_000, 1_000, 5_000, 10
EPOCHS = {10: 50, 30: 50, 100: 30, 300: 15}  # by images of each class
HEADS = ("spinal", "unchained", "mlp", "linear", "matched")

Setting = tuple[float, float]  # rate, dropout
Images = ArrayDataset | FolderDataset


def _few(part: Images, total: int, name: str) -> Images:
    rows, _ = stratified(part.targets, total, "transfer", name, keep_train=0)
    return part.subset(rows)


@functools.cache
def features(data_dir: Path, engine: str = "auto") -> Data:
    """Return the features of the pool, of the images for validation and of those for testing.

    Args:
        data_dir: Folder of the data.
        engine: What computes them, see `spinalnet.models.features.frozen_splits`.

    Raises:
        InputError: If that engine does not fit.
    """
    from spinalnet.comparison import building
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.models.features import frozen_splits
    from spinalnet.models.surgery import freeze_except_head_

    folder = str(data_dir / "cifar10")
    spec = RunSpec.of(folder, "efficientnet_lite0", pretrained=True, image_size=224)
    splits = building.load_splits(spec, download=False)
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
    x = pool[rows]
    middle = x.mean(0)
    spread = (x - middle).std()

    def scaled(part: Part) -> Part:
        return (part[0] - middle) / spread, part[1]

    val, test = map(scaled, others)
    return scaled((x, targets[rows])), val, test


def built(head: str, inputs: int, dropout: float, seed: int) -> nn.Module:
    """Return a fresh head of the package."""
    torch.manual_seed(seed)
    if head == "unchained":
        return UnchainedNet(inputs, CLASSES, 20, 4, dropout=dropout)
    if head == "mlp":
        return MLPHead(inputs, CLASSES, 512, dropout=dropout)
    if head == "linear":
        return LinearHead(inputs, CLASSES, dropout=dropout)
    spinal = SpinalNet(inputs, CLASSES, 20, 4, dropout=dropout)
    if head == "spinal":
        return spinal
    params = sum(p.numel() for p in spinal.parameters())
    return matched_mlp(inputs, CLASSES, params, dropout=dropout)


def trained(
    head: str, images: int, data: Data, setting: Setting, seed: int, epochs: int
) -> tuple[nn.Module, bool]:
    """Return a head after its last epoch, and whether its training broke off."""
    rate, dropout = setting
    net = built(head, data[0][0].shape[1], dropout, seed)
    config = TrainConfig(epochs=epochs, lr=rate, seed=seed)
    (broken,) = common.train([net], [config], [data], choose_epoch=False)
    return net, broken

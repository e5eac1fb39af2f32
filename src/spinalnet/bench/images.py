"""Augmentation and whole training epochs against torchvision, called per image as scripts do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from spinalnet import timing
from spinalnet.bench import longhand
from spinalnet.bench.rows import Row, compare
from spinalnet.data import ArrayDataset, load_dataset
from spinalnet.models import create_model
from spinalnet.nn import SpinalNet
from spinalnet.training import TrainConfig, fit


def _digits(count: int) -> ArrayDataset:
    """Return `count` real digits at 28 x 28 (repeated)."""
    pool = load_dataset("digits", image_size=28).train
    assert isinstance(pool, ArrayDataset)
    return pool.subset(torch.arange(count) % len(pool))


def _classic() -> dict[str, list[Any]]:
    """Return the pipelines of the paper's scripts by the names of ours."""
    from torchvision import transforms as t

    turn = t.RandomRotation(10, fill=0)
    return {
        "none": [],
        "perspective+rotation:10": [t.RandomPerspective(), turn],
        "rotation:10+resized-crop:0.95,1": [turn, t.RandomResizedCrop(28, scale=(0.95, 1.0))],
        "crop:4+flip": [t.RandomCrop(28, padding=4), t.RandomHorizontalFlip()],
    }


class _PerSample(Dataset[tuple[Any, int]]):
    """A data set as torchvision's: an image object per index, transformed one by one."""

    def __init__(self, source: ArrayDataset, steps: list[Any]) -> None:
        from PIL import Image
        from torchvision import transforms as t

        self.images = [Image.fromarray(image[0].numpy()) for image in source.inputs]
        self.targets = source.targets.tolist()
        self.transform = t.Compose([*steps, t.ToTensor(), t.Normalize((0.3,), (0.35,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.targets[index]


def _drain(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


def bench_augment(*, batch_size: int = 64, count: int = 1280, seconds: float = 6.0) -> list[Row]:
    """Images per second through each augmentation, against torchvision called per sample."""
    source, baseline, rows = _digits(count), "torchvision per sample", []
    for augment, steps in _classic().items():
        classic = partial(_drain, DataLoader(_PerSample(source, steps), batch_size, shuffle=True))

        def ours(augment: str = augment) -> None:
            _drain(source.batches(batch_size, shuffle=True, augment=augment))

        timings = timing.interleave({"ours": ours, baseline: classic}, seconds=seconds)
        rows.append(compare(augment, baseline, "images/s", count, timings))
    return rows


def _script(network: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[Any]) -> None:
    network.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        loss.item()  # the scripts log it


class _Tensors:
    """All images as one normalised float tensor in memory, gone through in a new order."""

    def __init__(self, source: ArrayDataset, batch_size: int) -> None:
        self.images = (source.inputs.float() / 255 - 0.3) / 0.35
        self.targets, self.batch_size = source.targets, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.images)).split(self.batch_size):
            yield self.images[rows], self.targets[rows]


def _longhand(model: str) -> nn.Module:
    """Return a network as a script writes it: torch's layers, and the paper's loop for its head."""
    if model == "mnist-cnn":
        return longhand.LonghandCNN()
    net = create_model(model, 10, head="spinal")
    assert isinstance(net.head, SpinalNet)
    return nn.Sequential(net.trunk, longhand.LonghandHead(net.head, dropout=0.5, norm=True))


_SCRIPT, _LOOP = "classic script", "plain tensor loop"
_IMAGES = 6400
_EPOCHS = (  # network, augmentation, our precision, baseline, one in so many of the images
    ("mnist-cnn", "none", "off", _SCRIPT, 1),
    ("mnist-cnn", "perspective+rotation:10", "off", _SCRIPT, 1),
    ("mnist-cnn", "none", "off", _LOOP, 1),
    ("vgg5", "none", "off", _SCRIPT, 10),
    ("vgg5", "none", "off", _LOOP, 10),
    ("vgg5", "none", "bf16", _SCRIPT, 20),
    ("vgg5", "none", "bf16", _LOOP, 20),
)
# At least: an epoch of the small CNN is so short that a slow spell of the machine fills a few.
_ROUNDS = {"mnist-cnn": 30, "vgg5": 7}
EPOCH_PROTOCOL = (
    "one training epoch of spinal networks, batch 64, both sides in turns; the classic script "
    "transforms image by image, the plain loop slices a tensor; scripts compute in float32; 6,400 "
    "images, of VGG-5 640, in bf16 320; digits at 28 x 28, repeated"
)


def bench_epoch(*, batch_size: int = 64, count: int = _IMAGES, seconds: float = 12.0) -> list[Row]:
    """Training images per second of whole networks: a script's loop against `fit`.

    The classic script transforms image by image; the plain loop slices one tensor in memory. Same
    network, batch size and optimiser (SGD with momentum), and as like an augmentation as there is.
    Ours is one whole epoch of `fit` with its metrics, less the validation that the scripts do not
    do. Of a short epoch, what `fit` does once weighs more: the tenth of an epoch of MNIST is long
    enough. bf16 is ours alone: it is asked for by name, and the scripts compute in float32.
    """
    rows = []
    for name, augment, amp, baseline, share in _EPOCHS:
        source = _digits(max(count // share, 2))
        loader = _Tensors(source, batch_size)
        if baseline == _SCRIPT:
            steps = _classic()[augment]
            loader = DataLoader(_PerSample(source, steps), batch_size, shuffle=True)
        network = _longhand(name)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.5)
        config = TrainConfig(
            epochs=1,
            batch_size=batch_size,
            optimizer="sgd",
            lr=0.01,
            momentum=0.5,
            schedule="constant",
            augment=augment,
            channels_last=True,
            device="cpu",
            amp=amp,
        )
        model, two = create_model(name, 10, head="spinal"), source.subset(torch.arange(2))
        ways = {
            "ours": partial(fit, model, source, two, config),
            baseline: partial(_script, network, optimizer, loader),
        }
        timings = timing.interleave(ways, seconds=seconds, min_rounds=_ROUNDS[name])
        case = f"{name}, {augment}" + (f", {amp}" if amp != "off" else "")
        rows.append(compare(case, baseline, "images/s", len(source), timings))
    return rows

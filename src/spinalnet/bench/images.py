"""Augmentation and whole training epochs against torchvision, called per image as scripts do."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from spinalnet import timing
from spinalnet.bench import longhand
from spinalnet.bench.rows import Row, compare
from spinalnet.data import ArrayDataset, load_dataset
from spinalnet.models import create_model
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


def bench_epoch(*, batch_size: int = 64, count: int = 1280, seconds: float = 12.0) -> list[Row]:
    """Training images per second of the small CNN: the classic script's loop against `fit`.

    Same network, batch size, optimiser (SGD with momentum) and augmentation. Ours is one whole
    epoch of `fit` with its metrics, less the validation that the classic loop does not do.
    """
    source, baseline, rows = _digits(count), "classic script", []
    two = source.subset(torch.arange(2))
    for augment in ("none", "perspective+rotation:10"):
        loader = DataLoader(_PerSample(source, _classic()[augment]), batch_size, shuffle=True)
        network = longhand.LonghandCNN()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.5)
        classic = partial(_script, network, optimizer, loader)
        model = create_model("mnist-cnn", 10, head="spinal")
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
        )

        ours = partial(fit, model, source, two, config)
        timings = timing.interleave({"ours": ours, baseline: classic}, seconds=seconds)
        rows.append(compare(f"mnist-cnn, {augment}", baseline, "images/s", count, timings))
    return rows

"""Benchmarks: ratios within one run, against baselines written here in the plainest way.

Absolute times on a shared machine mean little; every row times its baseline in turn with ours and
reports the ratio. Results go to JSON with hardware and versions, and tables in the docs are made
from those files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import runs, timing, train
from spinalnet.config import TrainConfig
from spinalnet.data import ArrayDataset, load_dataset
from spinalnet.models import create_model


@dataclass(frozen=True)
class Row:
    """One comparison: `ratio` is baseline time over ours (above 1: ours is faster)."""

    case: str
    baseline: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    rounds: int


def write_result(path: str | Path, name: str, protocol: str, rows: list[Any]) -> None:
    """Write rows with the machine and the protocol that made them."""
    runs.write_mapping(
        path,
        {
            "benchmark": name,
            "protocol": protocol,
            "environment": runs.describe_environment(),
            "rows": [asdict(row) for row in rows],
        },
    )


def _row(case: str, baseline: str, unit: str, work: int, timings: dict[str, timing.Timing]) -> Row:
    ours, theirs = timings["ours"], timings[baseline]
    return Row(
        case=case,
        baseline=baseline,
        unit=unit,
        ours=work / ours.median,
        theirs=work / theirs.median,
        ratio=theirs.median / ours.median,
        ratio_quartiles=(
            theirs.quartiles[0] / ours.quartiles[1],
            theirs.quartiles[1] / ours.quartiles[0],
        ),
        rounds=ours.rounds,
    )


def _images(count: int) -> tuple[Tensor, Tensor, ArrayDataset]:
    """Return `count` real digits at 28 x 28 (repeated), their targets, and our data set of them."""
    pool = load_dataset("digits", image_size=28).train
    assert isinstance(pool, ArrayDataset)
    index = torch.arange(count) % len(pool)
    source = pool.subset(index)
    return source.inputs, source.targets, source


# The paper's scripts: one torchvision pipeline call per image, collated by a DataLoader.
_CLASSIC: dict[str, Callable[[Any], list[Any]]] = {
    "none": lambda transforms: [],
    "perspective+rotation:10": lambda transforms: [
        transforms.RandomPerspective(),
        transforms.RandomRotation(10, fill=(0,)),
    ],
    "rotation:10+resized-crop:0.95,1": lambda transforms: [
        transforms.RandomRotation(10, fill=(0,)),
        transforms.RandomResizedCrop(28, scale=(0.95, 1.0)),
    ],
    "crop:4+flip": lambda transforms: [
        transforms.RandomCrop(28, padding=4),
        transforms.RandomHorizontalFlip(),
    ],
}


class _PerSample(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A data set as torchvision's: an image object per index, transformed one by one."""

    def __init__(self, images: Tensor, targets: Tensor, augment: str) -> None:
        from PIL import Image
        from torchvision import transforms

        self.images = [Image.fromarray(image[0].numpy()) for image in images]
        self.targets = targets.tolist()
        self.transform = transforms.Compose(
            [
                *_CLASSIC[augment](transforms),
                transforms.ToTensor(),
                transforms.Normalize((0.3,), (0.35,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.targets[index]


def _classic_loader(
    images: Tensor, targets: Tensor, augment: str, batch_size: int
) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(
        _PerSample(images, targets, augment), batch_size=batch_size, shuffle=True
    )


def bench_augment(*, batch_size: int = 64, count: int = 1280, seconds: float = 6.0) -> list[Row]:
    """Images per second through each augmentation, against torchvision called per sample."""
    images, targets, source = _images(count)
    rows = []
    for augment in _CLASSIC:
        loader = _classic_loader(images, targets, augment, batch_size)

        def classic(loader: Any = loader) -> None:
            for _ in loader:
                pass

        def ours(augment: str = augment) -> None:
            for _ in source.batches(batch_size, shuffle=True, augment=augment):
                pass

        timings = timing.interleave(
            {"ours": ours, "torchvision per sample": classic}, seconds=seconds
        )
        rows.append(_row(augment, "torchvision per sample", "images/s", count, timings))
    return rows


class _LonghandSpinalCNN(nn.Module):
    """The spinal MNIST CNN in the plainest PyTorch: slice, concatenate, linear, activate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d(0.5)
        self.first = nn.Linear(160, 8)
        self.later = nn.ModuleList([nn.Linear(168, 8) for _ in range(5)])
        self.last = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.max_pool2d(self.conv1(x), 2))
        x = torch.relu(torch.max_pool2d(self.drop(self.conv2(x)), 2)).flatten(1)
        halves = x[:, :160], x[:, 160:]
        hidden = [torch.relu(self.first(halves[0]))]
        for index, layer in enumerate(self.later, start=1):
            hidden.append(torch.relu(layer(torch.cat([halves[index % 2], hidden[-1]], dim=1))))
        return self.last(torch.cat(hidden, dim=1))


def bench_epoch(*, batch_size: int = 64, count: int = 1280, seconds: float = 12.0) -> list[Row]:
    """Training images per second of the small CNN: the classic script's loop against `fit`.

    Same network, batch size, optimiser (SGD with momentum) and augmentation. Ours is one whole
    epoch of `fit` with its metrics, less the validation that the classic loop does not do.
    """
    images, targets, source = _images(count)
    rows = []
    for augment in ("none", "perspective+rotation:10"):
        loader = _classic_loader(images, targets, augment, batch_size)
        network = _LonghandSpinalCNN()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.5)

        def classic(
            loader: Any = loader, network: nn.Module = network, optimizer: Any = optimizer
        ) -> None:
            network.train()
            for x, y in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()
                loss.item()  # the scripts log it

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
        one = source.subset(torch.arange(2))

        def ours(
            model: nn.Module = model, config: TrainConfig = config, one: ArrayDataset = one
        ) -> None:
            train.fit(model, source, one, config)

        timings = timing.interleave({"ours": ours, "classic script": classic}, seconds=seconds)
        rows.append(_row(f"mnist-cnn, {augment}", "classic script", "images/s", count, timings))
    return rows


def tables() -> Iterator[tuple[str, str, Callable[[], list[Row]]]]:
    """Yield (name, protocol, function) of every benchmark whose rows are `Row`."""
    yield (
        "augment",
        "28 x 28 images, batch 64; both sides in turns; medians, quartiles of the ratio",
        bench_augment,
    )
    yield (
        "epoch",
        "one training epoch of the spinal MNIST CNN, batch 64; both sides in turns",
        bench_epoch,
    )

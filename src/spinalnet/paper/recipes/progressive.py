"""Progressive SpinalNet: on pixels, on VGG-5, and on a pretrained WideResNet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.paper.recipes.row import BEST_VALIDATION, TEST_MAXIMUM, Recipe
from spinalnet.paper.recipes.settings import (
    CALTECH_PARTS,
    MNIST_SGD,
    REDRAW,
    WARPS,
    cut,
    standard,
    wide,
)

_FOLDER = "ProgressiveSpinalNet"
_REDRAW = replace(REDRAW, lr=0.005, batch_size=64, epochs=200, augment=WARPS)
_HEADS = ("progressive", "spinal", "mlp-paper")


def _vgg5(data: str, *, script: str, defects: tuple[str, ...] = (), **own: Any) -> Recipe:
    return Recipe(
        name=f"progressive-{data}",
        sources=(f"{_FOLDER}/{script}.py",),
        data=data,
        model="vgg5",
        selection=TEST_MAXIMUM,
        heads=_HEADS,
        original_heads=("progressive",),
        constants="mnist",
        defects=("A9", "A17", "A23", "A24", "B1", "B3", *defects),
        short=(3, 6_000),
        **own,
    )


def _transfer(
    data: str, *, script: str, epochs: int, lr: float = 0.0008, batch: int = 16, **own: Any
) -> Recipe:
    heads = {"heads": ("progressive", "spinal", "linear"), "original_heads": ("progressive",)}
    return Recipe(
        name=f"progressive-{data}",
        sources=(f"{_FOLDER}/Transfer_Learning_{script}",),
        data=data,
        selection=BEST_VALIDATION,
        pictures=standard(230, 224),
        notes=("As published the script ends in an error; this is what it set out to do.",),
        **wide(batch, cut(230, 224), 224, (lr, epochs)) | heads | own,
    )


ROWS = (
    Recipe(
        name="progressive-mnist",
        sources=(f"{_FOLDER}/Vanila_MNIST_ProgressiveSpinalNet.py",),
        data="mnist",
        model="mnist-pixels",
        train=replace(MNIST_SGD, lr=0.001, epochs=50),
        selection=TEST_MAXIMUM,
        heads=_HEADS,
        original_heads=("progressive",),
        constants="mnist",
        defects=("A9", "A24"),
    ),
    _vgg5("kmnist", script="KMNIST", train=_REDRAW, original_seeds="torch 1"),
    _vgg5("emnist-digits", script="EMNIST_DIGITS", train=replace(_REDRAW, epochs=50)),
    _vgg5(
        "emnist-letters",
        script="EMNIST_Letters",
        train=replace(_REDRAW, batch_size=50),
        defects=("A22",),
        outputs=62,
        options={"progressive": {"hidden_features": 128}},
    ),
    _vgg5(
        "qmnist",
        script="QMNIST_010",
        train=replace(_REDRAW, lr=0.0008, epochs=100),
        defects=("B20",),
        options={"progressive": {"hidden_features": 64, "norm": "batch", "dropout": 0.5}},
        notes=("The script goes on from a checkpoint nobody else has; this does not.",),
    ),
    _transfer("bird-225", script="Birds", epochs=10, outputs=250, defects=("A17", "B3", "B16")),
    _transfer(
        "caltech-101",
        script="Caltech101",
        lr=0.001,
        epochs=16,
        parts=CALTECH_PARTS,
        options={"progressive": {"hidden_features": 200, "input_dropout": 0.35}},
        defects=("A17", "B3", "B17"),
    ),
    _transfer("fruits-360", script="Fruits360", epochs=10, defects=("A17", "B3", "B19")),
    _transfer(
        "stl10",
        script="STL10",
        batch=8,
        epochs=50,
        outputs=250,
        defects=("A17", "B3", "A19", "B18"),
    ),
)

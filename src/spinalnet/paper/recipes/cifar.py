"""CIFAR-10 and CIFAR-100, trained from scratch: CNN, ResNet and VGG."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.paper.recipes.row import TEST_MAXIMUM, Recipe
from spinalnet.paper.recipes.settings import ADAM, REDRAW

_CROP = "crop:4+flip"
_CNN = replace(ADAM, epochs=160, augment=_CROP)
_REDRAWN = replace(REDRAW, augment=_CROP, ties_improve=True)
_RESNET = replace(_REDRAWN, lr=1e-3, batch_size=200, epochs=160, redraw_power=5.0)
_VGG = replace(_REDRAWN, lr=1e-4, batch_size=100, epochs=200)


def _resnet(data: str, *, source: str, depth: int, width: int) -> Recipe:
    return Recipe(
        name=f"{data}-resnet",
        sources=(source,),
        data=data,
        model=f"cifar-resnet{depth}-half",
        train=_RESNET,
        selection=TEST_MAXIMUM,
        heads=("spinal", "linear"),
        options={"spinal": {"hidden_features": width}},
        necks={"linear": "vector"},
        constants="cifar100",
        original_seeds="torch 0, python 0",
        defects=("A9", "A15", "A16", "A17", "A23", "B1", "C4"),
    )


def _vgg(data: str, *, source: str, **own: Any) -> Recipe:
    return Recipe(
        name=f"{data}-vgg",
        sources=(source,),
        data=data,
        model="cifar-vgg19-bn",
        selection=TEST_MAXIMUM,
        original_seeds="torch 0, python 0",
        defects=("A9", "A15", "A23", "A24", "B1", "C4"),
        **own,
    )


ROWS = (
    Recipe(
        name="cifar10-cnn-default",
        sources=("CIFAR-10/CNN_dropout_CIFAR10.py",),
        data="cifar10",
        model="cifar-cnn",
        train=replace(_CNN, schedule="cnn-a"),
        selection=TEST_MAXIMUM,
        original_heads=("mlp-paper",),
        original_seeds="torch 0, python 0",
        defects=("A9", "A14"),
    ),
    Recipe(
        name="cifar10-cnn",
        sources=("CIFAR-10/CNN_dropout_SpinalFC_CIFAR10.py",),
        data="cifar10",
        model="cifar-cnn",
        train=_CNN,
        selection=TEST_MAXIMUM,
        original_heads=("spinal",),
        original_seeds="torch 1, python 1",
        defects=("A9", "A13", "A14"),
        notes=("The written rule (a third of the rate without improvement) never acts.",),
    ),
    Recipe(
        name="cifar100-cnn",
        sources=("CIFAR-100/CNN_dropout_Default_and_SpinalFC_CIFAR100.py",),
        data="cifar100",
        model="cifar-cnn",
        train=replace(
            _CNN, batch_size=200, schedule="divide-on-plateau", divide_by=3.0, ties_improve=True
        ),
        selection=TEST_MAXIMUM,
        options={"spinal": {"hidden_features": 256}},
        original_seeds="torch 1, python 1",
        defects=("A9", "C4"),
    ),
    _resnet(
        "cifar10", source="CIFAR-10/ResNet_default_and_SpinalFC_CIFAR10.py", depth=18, width=256
    ),
    _resnet(
        "cifar100", source="CIFAR-100/ResNet_Default_and_SpinalFC_CIFAR100.py", depth=34, width=512
    ),
    _vgg("cifar10", source="CIFAR-10/VGG_default_and_SpinalFC_CIFAR10.py", train=_VGG),
    _vgg(
        "cifar100",
        source="CIFAR-100/VGG_Default_and_SpinalFC_CIFAR_100.py",
        train=replace(_VGG, batch_size=200),
        constants="cifar100",
    ),
)

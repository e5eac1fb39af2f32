"""MNIST and its relatives: the CNN, Arch2 and VGG-5."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.paper.recipes.row import EVERY_EPOCH, TEST_MAXIMUM, Recipe, printed
from spinalnet.paper.recipes.settings import MNIST_SGD, REDRAW, WARPS

_FASHION_WARPS = "rotation:10+resized-crop:0.95,1"
_LEADERBOARD = "public leaderboard entries of the authors"


def _cnn(data: str, *, suffix: str = "MNIST", **own: Any) -> tuple[Recipe, Recipe]:
    """Return the rows of the script with the spinal head and of that with the usual one."""
    spinal = "EMNIST_Digits" if suffix == "EMNIST" else suffix
    row = Recipe(
        name=f"{data}-cnn",
        sources=(f"MNIST/SpinalNet_{spinal}.py",),
        data=data,
        model="mnist-cnn",
        train=MNIST_SGD,
        selection=EVERY_EPOCH,
        original_heads=("spinal",),
        constants="mnist",
        defects=("A9", "A17", "C1", "C5"),
        short=(2, 12_000),
        **own,
    )
    return row, replace(
        row,
        name=f"{row.name}-default",
        sources=(f"MNIST/default_pytorch_{suffix}.py",),
        original_heads=("mlp-paper",),
    )


_EDITED = ("The script names this data set as one to put in by editing it.",)
_CNN = (
    *_cnn("mnist"),
    *_cnn("emnist-digits", suffix="EMNIST", options={"spinal": {"hidden_features": 10}}),
    *_cnn("kmnist", notes=_EDITED),
    *_cnn("qmnist", notes=_EDITED),
    *_cnn("fashion-mnist", notes=_EDITED),
)

_RESTART = replace(MNIST_SGD, epochs=200, schedule="restart-sgd", redraw_power=3.0)
_CONSTANT = replace(MNIST_SGD, epochs=200, lr=0.1, augment=WARPS)


def _arch2(data: str, *, script: str, defects: tuple[str, ...], **own: Any) -> Recipe:
    fields: dict[str, Any] = {
        "train": _CONSTANT,
        "options": {"spinal": {"hidden_features": 50}},
        "constants": "mnist",
        "original_seeds": "torch 0 and 1",
    }
    return Recipe(
        name=f"{data}-arch2",
        sources=(f"MNIST/Arch2_{script}.py",),
        data=data,
        model="arch2",
        selection=TEST_MAXIMUM,
        original_heads=("spinal",),
        defects=(*defects, "B1"),
        notes=("The paper has no counterpart; here it has as many hidden neurons.",),
        short=(5, 12_000),
        **fields | own,
    )


_ARCH2 = (
    _arch2(
        "mnist",
        script="MNIST",
        train=replace(_RESTART, restart_from=100, augment=WARPS),
        options={"spinal": {"hidden_features": 30}},
        defects=("A9", "A12", "B4"),
        original_seeds="none",
    ),
    _arch2(
        "fashion-mnist",
        script="Fashion_MNIST",
        train=replace(_RESTART, lr=0.005, restart_from=50, augment=_FASHION_WARPS),
        options={"spinal": {"hidden_features": 300}},
        defects=("A9", "A12", "A17"),
        constants="half",
        original_seeds="torch 1",
    ),
    _arch2("emnist-digits", script="EMNIST_Digits", defects=("A9", "A11", "A17", "C11")),
    _arch2("kmnist", script="KMNIST", defects=("A9", "A11", "A17")),
    _arch2("qmnist", script="QMNIST", defects=("A9", "A11", "A17")),
)


def _vgg5(data: str, *, source: str, defects: tuple[str, ...] = (), **own: Any) -> Recipe:
    fashion = data == "fashion-mnist"
    augment = _FASHION_WARPS if fashion else WARPS
    return Recipe(
        name=f"{data}-vgg5",
        sources=(source,),
        data=data,
        model="vgg5",
        train=replace(REDRAW, lr=0.005, batch_size=100, epochs=200, augment=augment),
        selection=TEST_MAXIMUM,
        constants="half" if fashion else "mnist",
        defects=("A9", "A17", "A23", "A24", "B1", "C2", "C4", *defects),
        short=(3, 6_000),
        **own,
    )


ROWS = (
    *_CNN,
    *_ARCH2,
    _vgg5("mnist", source="MNIST_VGG/MNIST_VGG_and_SpinalVGG.py"),
    _vgg5(
        "emnist-digits", source="MNIST_VGG/EMNIST_digits_VGG_and _SpinalVGG.py", defects=("C11",)
    ),
    _vgg5(
        "emnist-letters",
        source="MNIST_VGG/EMNIST_letters_VGG_and _SpinalVGG.py",
        defects=("A22", "C11"),
        outputs=62,
        printed=printed(_LEADERBOARD, {"spinal": 0.9588, "mlp-paper": 0.9586}),
    ),
    _vgg5("kmnist", source="MNIST_VGG/KMNIST_VGG_and_SpinalVGG.py", original_seeds="torch 1"),
    _vgg5("qmnist", source="MNIST_VGG/QMNIST_VGG_and _SpinalVGG.py"),
    _vgg5("fashion-mnist", source="MNIST_VGG/FashionMNIST_VGG_and _SpinalVGG.py"),
    _vgg5(
        "emnist-balanced",
        source="EMNIST-Balanced (no script)",
        defects=("A32", "C11"),
        printed=printed(_LEADERBOARD, {"spinal": 0.9105}),
        notes=("No script was published; this is that of EMNIST letters.",),
    ),
)

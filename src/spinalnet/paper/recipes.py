"""Every experiment of the original repository as one row of `RECIPES`.

A row stands for one script, notebook or target: the data, the network, the heads, how it was
trained, what decided its result, what it printed, and which of its defects are known
(docs/paper-vs-code.md). `reproduce` runs them; this room reads nothing and trains nothing, so that
the list is there without loading torch.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from spinalnet._checks import InputError
from spinalnet.data.catalog import DATASETS
from spinalnet.training.config import TrainConfig

# What decided, in the original, which epoch is reported.
SELECTION = {
    "max over epochs of the test accuracy": "test",
    "max over epochs of the accuracy on the second folder": "test",
    "test accuracy at the best validation accuracy": "validation",
    "minimum over epochs of the last mini-batch's training loss": "training",
    "none": "validation",
}
_P_MAX, _P_MAX_TL, _P_VAL, _LAST_BATCH, _NONE = SELECTION

# Normalisation constants of the original, (mean, std). The honest protocol uses those of the data,
# or of the published weights.
CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((), ()),
    "mnist": ((0.1307,), (0.3081,)),
    "half": ((0.5,), (0.5,)),
    "cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cinic": (
        (0.47889522, 0.47227842, 0.43047404),
        (0.24205776, 0.23828046, 0.25874835),
    ),
}


@dataclass(frozen=True)
class Printed:
    """A number that the original printed: what it is, its value, and where it stands."""

    what: str
    value: float
    where: str


@dataclass(frozen=True)
class Recipe:
    """One experiment of the original.

    Attributes:
        name: What `spinalnet reproduce` is given.
        sources: The files of the original that it stands for.
        data: Row of `DATASETS`.
        model: Row of `models.MODELS`.
        train: The original's training settings, augmentation included.
        protocol: How the original chose what it reported; see `SELECTION`.
        heads: The heads compared; the first is the subject.
        original_heads: Those that the original really trained, all of `heads` if empty.
        options: Options per head, where they are not those of the model's row.
        necks: Neck per head in the original, where it was not the same for all.
        image_size: Side that images are brought to; `None` for the data's own.
        in_channels: 3 where grey images were used as colour; `None` for the data's own.
        constants: The original's normalisation; see `CONSTANTS`.
        pretrained: Whether the trunk starts from published ImageNet weights.
        original_seeds: How the original seeded it.
        outputs: Outputs of the original's network, where not the number of classes.
        printed: What the original printed.
        defects: Items of docs/paper-vs-code.md that touch it.
        notes: What else a reader must know.
        short: (epochs, training images) of the short budget; a tenth and a fifth if `None`.
    """

    name: str
    sources: tuple[str, ...]
    data: str
    model: str
    train: TrainConfig
    protocol: str
    heads: tuple[str, ...] = ("spinal", "mlp")
    original_heads: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    necks: Mapping[str, str] = field(default_factory=dict)
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    constants: str = "none"
    pretrained: bool = False
    original_seeds: str = "none"
    outputs: int | None = None
    printed: tuple[Printed, ...] = ()
    defects: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    short: tuple[int, int] | None = None

    @property
    def selected_on(self) -> str:
        """What decided in the original: "test", "validation" or "training"."""
        return SELECTION[self.protocol]

    @property
    def is_demonstration(self) -> bool:
        """Whether the original had no data to train on."""
        return self.protocol == _NONE

    @property
    def gpu_hours(self) -> float:
        """Rough hours of one run (one head, one seed) on a GPU that sustains 10 TFLOP/s."""
        macs, reference = MACS[self.model]
        size = self.image_size or DATASETS[self.data].image_shape[-1]
        per_image = macs * (size / reference) ** 2 * 3 * 2  # forward and twice that back; 2 FLOPs
        return self.train.epochs * DATASETS[self.data].sizes[0] * per_image / 10e12 / 3600


# Multiply-accumulates of one input at one side, with the paper's head: (MACs, side).
MACS: dict[str, tuple[float, int]] = {
    "regression-net": (14e3, 8),
    "mnist-pixels": (0.5e6, 28),
    "mnist-cnn": (0.47e6, 28),
    "arch2": (1.1e6, 28),
    "vgg5": (161e6, 28),
    "cifar-cnn": (134e6, 32),
    "cifar-resnet18-half": (152e6, 32),
    "cifar-resnet34-half": (304e6, 32),
    "cifar-vgg19-bn": (399e6, 32),
    "alexnet": (0.66e9, 224),
    "resnet18": (1.8e9, 224),
    "resnext50_32x4d": (4.2e9, 224),
    "vgg19_bn": (19.5e9, 224),
    "wide_resnet101_2": (22.8e9, 224),
    "vit_large_patch16_224": (61.6e9, 224),
}


# --- the table -----------------------------------------------------------------------------------
# Training settings that several rows share. The original trains in single precision, without weight
# decay.

_PLAIN = TrainConfig(schedule="constant", amp="off")
_MNIST_SGD = replace(_PLAIN, optimizer="sgd", lr=0.01, momentum=0.5, batch_size=64, epochs=8)
_WARPS = "perspective+rotation:10"
_FASHION_WARPS = "rotation:10+resized-crop:0.95,1"
# Adam whose rate is redrawn after an epoch without improvement.
_REDRAW = replace(_PLAIN, optimizer="adam", schedule="redraw")


def _adam(lr: float, batch: int, epochs: int, schedule: str = "constant") -> TrainConfig:
    return replace(
        _PLAIN, optimizer="adam", lr=lr, batch_size=batch, epochs=epochs, schedule=schedule
    )


def _fine_tune(batch: int, augment: str, *phases: tuple[float, int]) -> TrainConfig:
    """SGD with momentum 0.9 and a tenth of the rate every 7 epochs, anew in every phase."""
    return TrainConfig(
        optimizer="sgd",
        momentum=0.9,
        schedule="step",
        step_size=7,
        gamma=0.1,
        batch_size=batch,
        augment=augment,
        phases=phases,
        amp="off",
    )


def _std(large: int, small: int) -> str:
    """Resize to `large`, rotate, cut `small`, flip: images are loaded at `small` here."""
    return f"rotation:15+zoom-crop:{large},{small}+flip"


def _bare(width: int) -> dict[str, Any]:
    return {"hidden_features": width, "num_layers": 4, "norm": None, "dropout": 0.0}


def _dropout_norm(width: int) -> dict[str, Any]:
    return {"hidden_features": width, "num_layers": 4, "norm": "batch", "dropout": 0.5}


def _regression() -> Iterator[Recipe]:
    # (minimum loss at epochs 100 and 200) of the spinal and of the dense net.
    minima = {
        "product": ((0.003966, 0.002217), (0.003875, 0.003875)),
        "sin-product": ((0.000910, 0.000910), (0.003403, 0.001554)),
        "sum": ((0.001007, 0.000855), (0.001178, 0.000887)),
        "sin-sum": ((0.001912, 0.001219), (0.001918, 0.001086)),
    }
    source = "Regression/Regression_NN_and_SpinalNet.py"
    for target, values in minima.items():
        printed = tuple(
            Printed(
                f"{head}: minimum loss of a last mini-batch in {epochs} epochs",
                value,
                f"{source} (docstring); paper, Table I",
            )
            for head, pair in zip(("spinal", "mlp"), values, strict=True)
            for epochs, value in zip((100, 200), pair, strict=True)
        )
        row = Recipe(
            f"regression-{target}",
            (source,),
            f"regression-{target}",
            "regression-net",
            _adam(0.01, 64, 200),
            _LAST_BATCH,
            original_seeds="torch 0",
            printed=printed,
            defects=("A1", "A3", "A4", "A24"),
            notes=(
                "The printed number is the training loss of a batch of 40, not an error on data "
                "that was not trained on; the mean squared error on 20,000 fresh points is.",
            ),
        )
        yield row
        yield replace(
            row,
            name=f"{row.name}-reused",
            heads=("spinal-reused", "mlp"),
            notes=(*row.notes, "The script's wiring: layers 3 and 4 also run as layers 5 and 6."),
        )


def _mnist() -> Iterator[Recipe]:
    for data, constants in (
        ("mnist", "mnist"),
        ("emnist-digits", "mnist"),
        ("kmnist", "mnist"),
        ("qmnist", "mnist"),
        ("fashion-mnist", "mnist"),
    ):
        emnist = data == "emnist-digits"
        suffix = "EMNIST" if emnist else "MNIST"
        spinal = "MNIST/SpinalNet_EMNIST_Digits.py" if emnist else "MNIST/SpinalNet_MNIST.py"
        edited = data not in ("mnist", "emnist-digits")
        row = Recipe(
            f"{data}-cnn",
            (spinal,),
            data,
            "mnist-cnn",
            _MNIST_SGD,
            _P_MAX,
            original_heads=("spinal",),
            options={"spinal": {"hidden_features": 10}} if emnist else {},
            constants=constants,
            defects=("A9", "A17", "C1", "C5"),
            notes=("The script names this data set as one to put in by editing it.",)
            if edited
            else (),
            short=(2, 12_000),
        )
        yield row
        yield replace(
            row,
            name=f"{data}-cnn-default",
            sources=(f"MNIST/default_pytorch_{suffix}.py",),
            original_heads=("mlp",),
        )


def _arch2() -> Iterator[Recipe]:
    restart = replace(_MNIST_SGD, epochs=200, schedule="restart-sgd", redraw_power=3.0)
    constant = replace(_MNIST_SGD, epochs=200, lr=0.1, augment=_WARPS)
    shared: dict[str, Any] = {"model": "arch2", "protocol": _P_MAX, "heads": ("spinal", "mlp")}
    for data, script, config, width, constants, seeds, defects in (
        (
            "mnist",
            "Arch2_MNIST",
            replace(restart, restart_from=100, augment=_WARPS),
            30,
            "mnist",
            "none",
            ("A9", "A12", "B4"),
        ),
        (
            "fashion-mnist",
            "Arch2_Fashion_MNIST",
            replace(restart, lr=0.005, restart_from=50, augment=_FASHION_WARPS),
            300,
            "half",
            "torch 1",
            ("A9", "A12", "A17"),
        ),
        (
            "emnist-digits",
            "Arch2_EMNIST_Digits",
            constant,
            50,
            "mnist",
            "torch 0 and 1",
            ("A9", "A11", "A17", "C11"),
        ),
        ("kmnist", "Arch2_KMNIST", constant, 50, "mnist", "torch 0 and 1", ("A9", "A11", "A17")),
        ("qmnist", "Arch2_QMNIST", constant, 50, "mnist", "torch 0 and 1", ("A9", "A11", "A17")),
    ):
        yield Recipe(
            f"{data}-arch2",
            (f"MNIST/{script}.py",),
            data,
            train=config,
            original_heads=("spinal",),
            options={"spinal": {"hidden_features": width}},
            constants=constants,
            original_seeds=seeds,
            defects=(*defects, "B1"),
            notes=("The paper has no counterpart; here it has as many hidden neurons.",),
            short=(5, 12_000),
            **shared,
        )


def _vgg5() -> Iterator[Recipe]:
    leaderboard = "public leaderboard entries of the authors"
    rows: tuple[tuple[str, str | None, str, dict[str, Any]], ...] = (
        ("mnist", "MNIST_VGG_and_SpinalVGG", "mnist", {}),
        ("emnist-digits", "EMNIST_digits_VGG_and _SpinalVGG", "mnist", {}),
        (
            "emnist-letters",
            "EMNIST_letters_VGG_and _SpinalVGG",
            "mnist",
            {
                "outputs": 62,
                "printed": (
                    Printed("spinal: test accuracy", 0.9588, leaderboard),
                    Printed("mlp: test accuracy", 0.9586, leaderboard),
                ),
            },
        ),
        ("kmnist", "KMNIST_VGG_and_SpinalVGG", "mnist", {"original_seeds": "torch 1"}),
        ("qmnist", "QMNIST_VGG_and _SpinalVGG", "mnist", {}),
        ("fashion-mnist", "FashionMNIST_VGG_and _SpinalVGG", "half", {}),
        (
            "emnist-balanced",
            None,
            "mnist",
            {
                "printed": (Printed("spinal: test accuracy", 0.9105, leaderboard),),
                "notes": ("No script was published; this is that of EMNIST letters.",),
            },
        ),
    )
    for data, script, constants, more in rows:
        warps = _FASHION_WARPS if data == "fashion-mnist" else _WARPS
        yield Recipe(
            f"{data}-vgg5",
            (f"MNIST_VGG/{script}.py",) if script else ("EMNIST-Balanced (no script)",),
            data,
            "vgg5",
            replace(_REDRAW, lr=0.005, batch_size=100, epochs=200, augment=warps),
            _P_MAX,
            constants=constants,
            defects=(
                *("A9", "A17", "A23", "A24", "B1", "C2", "C4"),
                *(("A22",) if data == "emnist-letters" else ()),
                *(("A32",) if data == "emnist-balanced" else ()),
                *(("C11",) if data.startswith("emnist") else ()),
            ),
            short=(3, 6_000),
            **more,
        )


def _cifar() -> Iterator[Recipe]:
    crop = "crop:4+flip"
    cnn = replace(_adam(1e-3, 100, 160), augment=crop)
    resnet = replace(
        _REDRAW,
        **{"lr": 1e-3, "batch_size": 200, "epochs": 160, "augment": crop},
        redraw_power=5.0,
        ties_improve=True,
    )
    vgg = replace(_REDRAW, lr=1e-4, batch_size=100, epochs=200, augment=crop, ties_improve=True)
    yield Recipe(
        "cifar10-cnn-default",
        ("CIFAR-10/CNN_dropout_CIFAR10.py",),
        "cifar10",
        "cifar-cnn",
        replace(cnn, schedule="cnn-a"),
        _P_MAX,
        original_heads=("mlp",),
        original_seeds="torch 0, python 0",
        defects=("A9", "A14"),
    )
    yield Recipe(
        "cifar10-cnn",
        ("CIFAR-10/CNN_dropout_SpinalFC_CIFAR10.py",),
        "cifar10",
        "cifar-cnn",
        cnn,
        _P_MAX,
        original_heads=("spinal",),
        original_seeds="torch 1, python 1",
        defects=("A9", "A13", "A14"),
        notes=("The written rule (a third of the rate without improvement) never acts.",),
    )
    yield Recipe(
        "cifar100-cnn",
        ("CIFAR-100/CNN_dropout_Default_and_SpinalFC_CIFAR100.py",),
        "cifar100",
        "cifar-cnn",
        replace(
            cnn, batch_size=200, schedule="divide-on-plateau", divide_by=3.0, ties_improve=True
        ),
        _P_MAX,
        options={"spinal": {"hidden_features": 256}},
        original_seeds="torch 1, python 1",
        defects=("A9", "C4"),
    )
    for data, depth, width, folder, script in (
        ("cifar10", 18, 256, "CIFAR-10", "ResNet_default_and_SpinalFC_CIFAR10"),
        ("cifar100", 34, 512, "CIFAR-100", "ResNet_Default_and_SpinalFC_CIFAR100"),
    ):
        yield Recipe(
            f"{data}-resnet",
            (f"{folder}/{script}.py",),
            data,
            f"cifar-resnet{depth}-half",
            resnet,
            _P_MAX,
            heads=("spinal", "linear"),
            options={"spinal": {"hidden_features": width}},
            necks={"linear": "vector"},
            constants="cifar100",
            original_seeds="torch 0, python 0",
            defects=("A9", "A15", "A16", "A17", "A23", "B1", "C4"),
        )
    for data, constants, batch, script in (
        ("cifar10", "none", 100, "CIFAR-10/VGG_default_and_SpinalFC_CIFAR10"),
        ("cifar100", "cifar100", 200, "CIFAR-100/VGG_Default_and_SpinalFC_CIFAR_100"),
    ):
        yield Recipe(
            f"{data}-vgg",
            (f"{script}.py",),
            data,
            "cifar-vgg19-bn",
            replace(vgg, batch_size=batch),
            _P_MAX,
            constants=constants,
            original_seeds="torch 0, python 0",
            defects=("A9", "A15", "A23", "A24", "B1", "C4"),
        )


def _test(value: float, where: str, what: str = "spinal: test accuracy") -> tuple[Printed, ...]:
    return (Printed(what, value, where),)


def _wide(**changes: Any) -> dict[str, Any]:
    """Return what the recipes on a pretrained WideResNet share."""
    return {
        "model": "wide_resnet101_2",
        "heads": ("spinal", "linear"),
        "original_heads": ("spinal",),
        "pretrained": True,
        "constants": "cifar100",
    } | changes


def _transfer() -> Iterator[Recipe]:
    folder = "Transfer Learning/Transfer_Learning"
    docstring = "docstring of the script"
    yield Recipe(
        "transfer-bird225",
        (f"{folder}_Bird225.py",),
        "bird-225",
        train=_fine_tune(24, _std(230, 224), (0.001, 25)),
        protocol=_P_VAL,
        options={"spinal": _dropout_norm(1024)},
        image_size=224,
        printed=(
            *_test(0.9956, docstring),
            *_test(0.9902, docstring, "VGG19_bn, spinal: test accuracy"),
            *_test(0.9867, docstring, "VGG19_bn, its own layers: test accuracy"),
        ),
        defects=("A17", "A19", "B3", "B6"),
        **_wide(),
    )
    for name, data, defects in (
        ("transfer-cifar10", "cifar10", ("A5", "A9", "A17", "A19", "A32", "B3")),
        ("transfer-svhn", "svhn", ("A5", "A9", "A10", "A17", "A19", "A32", "B3", "B5", "B7")),
    ):
        svhn = data == "svhn"
        config = _fine_tune(28, _std(272, 256).removesuffix("+flip" if svhn else ""), (0.001, 50))
        script = "SVHN" if svhn else "CIFAR10"
        printed = ((0.9787, "WideResNet, spinal"),)
        if not svhn:
            printed = ((0.9822, "WideResNet, linear"), (0.9812, "WideResNet, spinal"))
        yield Recipe(
            name,
            (f"{folder}_{script}.py",),
            data,
            "vgg19_bn",
            config,
            _P_MAX_TL,
            original_heads=("mlp",),
            options={"spinal": _bare(20)},
            image_size=256,
            constants="cifar100",
            pretrained=True,
            outputs=1000,
            printed=tuple(
                Printed(f"{what}: test accuracy", value, docstring) for value, what in printed
            ),
            defects=defects,
            notes=(
                "The script puts its spinal head where VGG never looks and trains the network's "
                "own classifier with 1,000 outputs; the printed numbers are of other backbones.",
                *(
                    ("The script stretches the images to 272 x 320 first; here they stay square.",)
                    if svhn
                    else ()
                ),
            ),
        )
    yield Recipe(
        "transfer-cifar100",
        (f"{folder}_CIFAR100.py",),
        "cifar100",
        train=_fine_tune(24, _std(272, 256), (0.001, 50)),
        protocol=_P_MAX_TL,
        options={"spinal": _dropout_norm(512)},
        image_size=256,
        printed=(
            *_test(0.8834, docstring),
            *_test(0.8404, docstring, "ResNet101 at 128 pixels, spinal: test accuracy"),
            *_test(0.9703, docstring, "CIFAR-10, ResNet101 at 128 pixels, spinal: test accuracy"),
            *_test(0.9812, docstring, "CIFAR-10, spinal: test accuracy"),
        ),
        defects=("A9", "A17", "A19", "A20", "B3"),
        **_wide(),
    )
    yield Recipe(
        "transfer-cinic10",
        (f"{folder}_CINIC10.py",),
        "cinic-10",
        train=_fine_tune(9, _std(456, 448), (0.01, 20), (0.001, 20)),
        protocol=_P_VAL,
        options={"spinal": _bare(20)},
        image_size=448,
        printed=_test(0.9360, docstring),
        defects=("A18", "A21", "B3", "B12"),
        **_wide(constants="cinic"),
    )
    yield Recipe(
        "transfer-caltech101",
        (f"{folder}_Caltech101.py",),
        "caltech-101",
        train=_fine_tune(30, _std(230, 224), (0.001, 20)),
        protocol=_P_VAL,
        options={"spinal": _bare(1024)},
        image_size=224,
        printed=(
            *_test(0.9611, docstring, "linear: test accuracy"),
            *_test(0.9640, docstring),
            *_test(0.9687, docstring, "spinal with dropout and norm: test accuracy"),
        ),
        defects=("A7", "A17", "B3", "B15"),
        notes=("The script trains the linear head; the spinal one is commented out.",),
        **_wide(original_heads=("linear",)),
    )
    yield Recipe(
        "transfer-fruits360",
        (f"{folder}_Fruits360.py",),
        "fruits-360",
        train=_fine_tune(224, "rotation:15+resized-crop+flip+vertical-flip", (0.01, 20)),
        protocol=_P_MAX_TL,
        options={"spinal": _bare(131)},
        image_size=128,
        printed=_test(0.9999, "public run named in the README"),
        defects=("A9", "A17", "B7"),
        **_wide(),
    )
    yield Recipe(
        "transfer-mnist",
        (f"{folder}_MNIST.py",),
        "mnist",
        "vgg19_bn",
        _fine_tune(128, "rotation:10+zoom-crop:120,112+perspective", (0.01, 10), (0.001, 10)),
        _P_VAL,
        original_heads=("spinal",),
        options={"spinal": _dropout_norm(1024)},
        image_size=112,
        in_channels=3,
        constants="mnist",
        pretrained=True,
        defects=("A8", "A17", "A18", "A30", "B14"),
    )
    yield Recipe(
        "transfer-flowers102",
        (f"{folder}_Oxford102flower.py",),
        "flowers-102",
        train=_fine_tune(8, _std(464, 448), (0.001, 50)),
        protocol=_P_MAX_TL,
        options={"spinal": _bare(102)},
        image_size=448,
        printed=(
            *_test(0.9939, docstring, "linear: accuracy on the selection data"),
            *_test(0.9930, docstring, "spinal: accuracy on the selection data"),
            *_test(0.9914, docstring, "spinal with dropout and norm: the same"),
        ),
        defects=("A9", "A17", "A19", "B3"),
        **_wide(),
    )
    yield Recipe(
        "transfer-stl10",
        (f"{folder}_STL10.py",),
        "stl10",
        train=_fine_tune(24, _std(272, 256), (0.001, 20)),
        protocol=_P_MAX_TL,
        options={"spinal": _dropout_norm(512)},
        image_size=256,
        printed=_test(0.9823, docstring),
        defects=("A9", "A10", "A17", "B3"),
        **_wide(),
    )
    yield Recipe(
        "transfer-cars",
        (f"{folder}_Stanford_Cars.py",),
        "stanford-cars",
        train=_fine_tune(9, _std(456, 448), (0.001, 25), (0.0001, 25)),
        protocol=_P_MAX_TL,
        options={"spinal": _bare(196)},
        image_size=448,
        printed=_test(0.9335, docstring),
        defects=("A9", "A17", "A18", "B3"),
        **_wide(),
    )
    hymenoptera = Recipe(
        "transfer-hymenoptera",
        (f"{folder}_hymenoptera.py",),
        "hymenoptera",
        "resnet18",
        _fine_tune(4, "resized-crop+flip", (0.001, 25)),
        _P_MAX_TL,
        heads=("spinal", "linear"),
        original_heads=("spinal",),
        image_size=224,
        constants="imagenet",
        pretrained=True,
        defects=("A2", "A9", "B3"),
    )
    yield hymenoptera
    yield replace(
        hymenoptera,
        name="transfer-hymenoptera-reused",
        heads=("spinal-reused", "linear"),
        original_heads=("spinal-reused",),
        notes=("The script's wiring: layers 3 and 4 also run as layers 5 and 6.",),
    )


def _notebooks() -> Iterator[Recipe]:
    folder = "Jupyter Notebooks"
    logged = "output of the notebook"
    yield Recipe(
        "notebook-monkeys",
        (f"{folder}/alexnet-spinalnet-fc-tl-10-monkey.ipynb",),
        "monkeys",
        "alexnet",
        _fine_tune(40, "rotation:15+resized-crop+flip+vertical-flip", (0.01, 10), (0.01, 10)),
        _P_MAX_TL,
        heads=("spinal", "linear"),
        original_heads=("spinal",),
        options={"spinal": _bare(20)},
        image_size=300,
        constants="cifar100",
        pretrained=True,
        printed=_test(0.922794, logged, "spinal: accuracy on the selection data"),
        defects=("A9", "A17", "A33", "B15"),
    )
    yield Recipe(
        "notebook-caltech101",
        (f"{folder}/spinalnet-caltech101.ipynb",),
        "caltech-101",
        train=_fine_tune(64, _std(230, 224), (0.01, 5), (0.001, 5)),
        protocol=_P_VAL,
        options={"spinal": _bare(101)},
        image_size=224,
        printed=_test(0.9676, logged),
        defects=("A17", "A18", "B15"),
        **_wide(),
    )
    yield Recipe(
        "notebook-cifar10",
        (f"{folder}/spinalnet-cifar10-97-5+.ipynb",),
        "cifar10",
        train=_fine_tune(56, _std(272, 256), (0.01, 5), (0.001, 5), (0.0001, 5)),
        protocol=_P_MAX_TL,
        options={"spinal": _bare(20)},
        image_size=256,
        printed=_test(0.9760, logged),
        defects=("A9", "A17", "A18"),
        **_wide(),
    )
    yield Recipe(
        "notebook-cifar100",
        (f"{folder}/spinalnet-cifar100.ipynb",),
        "cifar100",
        train=_fine_tune(56, _std(272, 256), (0.01, 5), (0.001, 5), (0.0001, 5)),
        protocol=_P_VAL,
        options={"spinal": _bare(200)},
        image_size=256,
        printed=_test(0.8631, logged),
        defects=("A17", "A18", "A30", "B14"),
        **_wide(),
    )
    yield Recipe(
        "notebook-stl10",
        (f"{folder}/stl-10-spinalnet.ipynb",),
        "stl10",
        train=_fine_tune(24, _std(272, 256), (0.0005, 20)),
        protocol=_P_VAL,
        options={"spinal": _dropout_norm(512)},
        image_size=256,
        printed=_test(0.9856, logged),
        defects=("A17", "A30", "B3", "B14"),
        **_wide(),
    )
    yield Recipe(
        "notebook-fashion-mnist",
        (f"{folder}/transfer-learning-on-fashion-mnist-dataset.ipynb",),
        "fashion-mnist",
        train=_fine_tune(200, "flip+affine:10,0.2+resized-crop:0.95,1", (0.01, 5), (0.001, 5)),
        protocol=_P_VAL,
        options={"spinal": {**_bare(1024), "activation": "identity"}},
        image_size=112,
        in_channels=3,
        printed=_test(0.9476, logged),
        defects=("A8", "A17", "A18", "A30", "B14"),
        notes=("The notebook's head has no activation, so it is one affine map.",),
        **_wide(constants="half"),
    )
    yield Recipe(
        "notebook-mnist",
        (f"{folder}/transfer-learning-on-mnist-with-vgg.ipynb",),
        "mnist",
        "vgg19_bn",
        _fine_tune(128, "rotation:10+zoom-crop:120,112+perspective", (0.01, 10), (0.001, 10)),
        _P_VAL,
        original_heads=("spinal",),
        options={"spinal": _dropout_norm(1024)},
        image_size=112,
        in_channels=3,
        constants="mnist",
        pretrained=True,
        printed=_test(0.9975, logged),
        defects=("A17", "A18", "A30", "B14"),
    )
    versus = f"{folder}/SpinalNet_vs_2L_FC"
    yield Recipe(
        "notebook-flowers102-mlp",
        (f"{versus}/pytorch-transfer-learning-oxford-102-2-layer-fc.ipynb",),
        "flowers-102",
        "resnext50_32x4d",
        _fine_tune(
            64,
            "rotation:30+zoom-crop:230,224+flip+vertical-flip",
            (0.01, 10),
            (0.001, 30),
        ),
        _P_MAX_TL,
        original_heads=("mlp",),
        options={"spinal": _bare(102)},
        image_size=224,
        constants="cifar100",
        pretrained=True,
        printed=_test(0.976773, logged, "mlp: accuracy on the selection data"),
        defects=("A6", "A9", "A17", "A18"),
    )
    yield Recipe(
        "notebook-flowers102",
        (f"{versus}/spinalnet-oxford-102-flower.ipynb",),
        "flowers-102",
        train=_fine_tune(
            16,
            "rotation:15+zoom-crop:468,448+flip+vertical-flip",
            (0.01, 10),
            (0.001, 30),
        ),
        protocol=_P_MAX_TL,
        options={"spinal": _bare(102)},
        image_size=448,
        printed=_test(0.991443, logged, "linear: accuracy on the selection data"),
        defects=("A6", "A9", "A17", "A18"),
        notes=("Called SpinalNet, the notebook trains a linear head.",),
        **_wide(original_heads=("linear",)),
    )


def _customizable() -> Iterator[Recipe]:
    folder = "Customizable Model"
    stl10 = Recipe(
        "customizable-stl10",
        (f"{folder}/Customizable-SpinalNet-on-STL-10.ipynb",),
        "stl10",
        "wide_resnet101_2",
        _fine_tune(24, _std(272, 256), (0.001, 5), (0.0001, 10)),
        _P_VAL,
        heads=("spinal", "linear"),
        original_heads=("spinal",),
        options={"spinal": {**_bare(512), "num_splits": 2, "num_layers": 10}},
        image_size=256,
        constants="cifar100",
        pretrained=True,
        printed=_test(0.9839, "output of the notebook"),
        defects=("A17", "A18", "A25", "A26", "A27", "A30", "B8", "B9"),
    )
    yield stl10
    yield Recipe(
        "customizable-mnist",
        (f"{folder}/spinalnettorch.py",),
        "mnist",
        "mnist-pixels",
        replace(_adam(1e-3, 100, 10), augment="none"),
        _P_MAX,
        options={
            "spinal": {"hidden_features": 50, "num_splits": 2, "num_layers": 10, "norm": None},
            "mlp": {"hidden_features": 500, "norm": None},
        },
        constants="mnist",
        defects=("A25", "A26", "A27", "B8", "B9"),
        notes=(
            "Ours: the customizable net of the original on pixels, because its own example needs "
            "STL-10 and a GPU. There is no printed number.",
        ),
    )
    yield Recipe(
        "customizable-demo",
        (f"{folder}/spinalnet-arbitrary-size-investigation.ipynb",),
        "mnist",
        "mnist-pixels",
        replace(_PLAIN, epochs=1),
        _NONE,
        options={
            "spinal": {
                "hidden_features": 30,
                "num_splits": 4,
                "num_layers": 15,
                "activation": "leaky_relu",
                "norm": None,
            }
        },
        printed=(Printed("width of all hidden outputs side by side", 450, "output"),),
        defects=("A25", "A26", "A27"),
        notes=("A demonstration on random input; the original has nothing to train on.",),
    )


def _shared() -> Iterator[Recipe]:
    folder = "Others/Other Papers/SpinalNet SW"
    logged = "output of the notebook"
    shared: dict[str, Any] = {
        "data": "stl10",
        "protocol": _P_VAL,
        "heads": ("spinal-shared", "spinal", "linear"),
        "original_heads": ("spinal-shared",),
        "constants": "cifar100",
        "pretrained": True,
        "defects": ("A17", "A25", "A26", "A30", "B3", "C8", "C9"),
    }

    def widths(width: int) -> dict[str, Any]:
        size = {"hidden_features": width, "num_layers": 8, "num_splits": 8}
        return {"spinal-shared": size, "spinal": {**size, "norm": None, "dropout": 0.0}}

    yield Recipe(
        "shared-stl10-wideresnet",
        (f"{folder}: WideResNet-101",),
        model="wide_resnet101_2",
        train=_fine_tune(24, _std(272, 256), (0.001, 5), (0.0001, 10)),
        options=widths(20),
        image_size=256,
        printed=_test(0.9845, logged, "spinal-shared: test accuracy"),
        **shared,
    )
    for width, value in ((10, 0.995875), (20, 0.996375), (50, 0.996375), (100, 0.996625)):
        yield Recipe(
            f"shared-stl10-vit-{width}",
            (f"{folder}: Transformer, width {width}",),
            model="vit_large_patch16_224",
            train=_fine_tune(30, _std(244, 224), (0.0005, 2)),
            options=widths(width),
            image_size=224,
            printed=_test(value, logged, "spinal-shared: test accuracy"),
            **shared,
        )


def _progressive() -> Iterator[Recipe]:
    folder = "ProgressiveSpinalNet"
    heads = ("progressive", "spinal", "mlp")
    yield Recipe(
        "progressive-mnist",
        (f"{folder}/Vanila_MNIST_ProgressiveSpinalNet.py",),
        "mnist",
        "mnist-pixels",
        replace(_MNIST_SGD, lr=0.001, epochs=50),
        _P_MAX,
        heads=heads,
        original_heads=("progressive",),
        constants="mnist",
        defects=("A9", "A24"),
    )
    rows: tuple[tuple[str, str, float, int, int, dict[str, Any]], ...] = (
        ("kmnist", "KMNIST.py", 0.005, 64, 200, {"original_seeds": "torch 1"}),
        ("emnist-digits", "EMNIST_DIGITS.py", 0.005, 64, 50, {}),
        (
            "emnist-letters",
            "EMNIST_Letters.py",
            0.005,
            50,
            200,
            {"outputs": 62, "options": {"progressive": {"hidden_features": 128}}},
        ),
        (
            "qmnist",
            "QMNIST_010.py",
            0.0008,
            64,
            100,
            {
                "options": {
                    "progressive": {"hidden_features": 64, "norm": "batch", "dropout": 0.5}
                },
                "notes": ("The script goes on from a checkpoint nobody else has; this does not.",),
            },
        ),
    )
    for data, script, lr, batch, epochs, more in rows:
        yield Recipe(
            f"progressive-{data}",
            (f"{folder}/{script}",),
            data,
            "vgg5",
            replace(_REDRAW, lr=lr, batch_size=batch, epochs=epochs, augment=_WARPS),
            _P_MAX,
            heads=heads,
            original_heads=("progressive",),
            constants="mnist",
            defects=(
                *("A9", "A17", "A23", "A24", "B1", "B3"),
                *(("A22",) if data == "emnist-letters" else ()),
                *(("B20",) if data == "qmnist" else ()),
            ),
            short=(3, 6_000),
            **more,
        )
    transfer: tuple[tuple[str, str, int, float, int, dict[str, Any], tuple[str, ...]], ...] = (
        ("bird-225", "Birds", 16, 0.0008, 10, {"outputs": 250}, ("B16",)),
        (
            "caltech-101",
            "Caltech101",
            16,
            0.001,
            16,
            {"options": {"progressive": {"hidden_features": 200, "input_dropout": 0.35}}},
            ("B17",),
        ),
        ("fruits-360", "Fruits360", 16, 0.0008, 10, {}, ("B19",)),
        ("stl10", "STL10", 8, 0.0008, 50, {"outputs": 250}, ("A19", "B18")),
    )
    for data, script, batch, lr, epochs, own, defects in transfer:
        yield Recipe(
            f"progressive-{data}",
            (f"{folder}/Transfer_Learning_{script}",),
            data,
            "wide_resnet101_2",
            _fine_tune(batch, _std(230, 224), (lr, epochs)),
            _P_VAL,
            heads=("progressive", "spinal", "linear"),
            original_heads=("progressive",),
            image_size=224,
            constants="cifar100",
            pretrained=True,
            defects=("A17", "B3", *defects),
            notes=("As published the script ends in an error; this is what it set out to do.",),
            **own,
        )


_FAMILIES: tuple[Callable[[], Iterator[Recipe]], ...] = (
    _regression,
    _mnist,
    _arch2,
    _vgg5,
    _cifar,
    _transfer,
    _notebooks,
    _customizable,
    _shared,
    _progressive,
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for family in _FAMILIES for recipe in family()}


# --- finding -------------------------------------------------------------------------------------


def list_recipes() -> list[str]:
    """Return the names that `run_recipe` knows."""
    return list(RECIPES)


def find_recipes(pattern: str) -> list[Recipe]:
    """Return the recipes that a name or a pattern such as `mnist-*` stands for.

    The first word of several names, such as `regression`, stands for all of them but the
    compatibility variants (`...-reused`), which a pattern includes.

    Raises:
        InputError: If there is none; the nearest names are in the sentence.
    """
    found = [recipe for name, recipe in RECIPES.items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        found = [
            recipe
            for name, recipe in RECIPES.items()
            if name.startswith(f"{pattern}-") and not name.endswith("-reused")
        ]
    if found:
        return found
    near = difflib.get_close_matches(pattern, RECIPES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise InputError(f"unknown recipe '{pattern}'; {hint}See 'spinalnet recipes'.")

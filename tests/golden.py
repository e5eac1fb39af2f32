"""Golden numbers of every network of the paper's scripts, computed from the original classes.

Parameter counts cannot tell whether slices and concatenations are in the right order. So every
network was also run in float64 and evaluation mode on weights that follow from the names of its
tensors (`tensor`), and its outputs are kept here. The names and shapes are written out
independently of the package, so that reading them is tested too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def unit_values(key: str, count: int) -> np.ndarray:
    """`count` values in [-0.5, 0.5) that depend on the letters of `key` only."""
    seed = sum(key.encode("ascii")) % 97
    index = np.arange(1, count + 1, dtype=np.uint32)
    # Arithmetic modulo 2**32 is what unsigned 32-bit integers do.
    a = index * np.uint32(2654435761) + np.uint32(40503 * seed)
    b = (a ^ (a >> np.uint32(15))) * np.uint32(2246822519)
    c = b ^ (b >> np.uint32(13))
    return c / 2.0**32 - 0.5


def tensor(key: str, shape: Sequence[int]) -> Tensor:
    """Return the golden value of the tensor `key`, float64 (a counter: int64)."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(tuple(shape), dtype=torch.int64)
    count = int(np.prod(shape))
    v = unit_values(key, count)
    if key == "input":
        v *= 2
    elif len(shape) >= 2:
        v *= (24 / (count // shape[0])) ** 0.5
    elif key.endswith("running_var"):
        v = 1 + 0.5 * v
    elif key.endswith("weight"):
        v = 1 + 0.2 * v
    else:
        v *= 0.2
    return torch.from_numpy(v.reshape(tuple(shape)))


def state_dict(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Golden tensors for the original's names and shapes."""
    return {key: tensor(key, shape) for key, shape in shapes.items()}


# Shapes of the original modules.


def linear(prefix: str, outputs: int, inputs: int) -> Shapes:
    return {f"{prefix}.weight": (outputs, inputs), f"{prefix}.bias": (outputs,)}


def conv(prefix: str, outputs: int, inputs: int, side: int = 3, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{prefix}.weight": (outputs, inputs, side, side)}
    return shapes | ({f"{prefix}.bias": (outputs,)} if bias else {})


def norm(prefix: str, width: int) -> Shapes:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{part}": (width,) for part in parts} | {f"{prefix}.num_batches_tracked": ()}


def merge(parts: Iterable[Shapes]) -> Shapes:
    return {key: shape for part in parts for key, shape in part.items()}


def chain(names: Sequence[str], output: str, first: int, width: int, classes: int) -> Shapes:
    """A spinal chain with equal slices of `first` features."""
    layers = [linear(n, width, first + (width if i else 0)) for i, n in enumerate(names)]
    return merge([*layers, linear(output, classes, len(names) * width)])


def suffixed(name: str, count: int) -> list[str]:
    return [name, *(f"{name}_{i}" for i in range(1, count))]


def numbered(count: int) -> list[str]:
    return [f"fc{i}" for i in range(1, count + 1)]


def spinal_layers(position: int, count: int = 4) -> list[str]:
    return [f"fc_spinal_layer{i}.{position}" for i in range(1, count + 1)]


def bare(features: int, width: int, classes: int) -> Shapes:
    return chain(spinal_layers(0), "fc_out.0", features // 2, width, classes)


def dropout(features: int, width: int, classes: int) -> Shapes:
    return chain(spinal_layers(1), "fc_out.1", features // 2, width, classes)


def dropout_norm(features: int, width: int, classes: int) -> Shapes:
    shapes = dropout(features, width, classes)
    return shapes | merge(norm(f"fc_spinal_layer{i}.2", width) for i in (1, 2, 3, 4))


def affine(features: int, width: int, classes: int) -> Shapes:
    return chain(["layer1", "layer2", "layer3", "layer4"], "_out", features // 2, width, classes)


def custom(features: int, splits: int, width: int, layers: int, classes: int) -> Shapes:
    return chain(numbered(layers), "fcx", round(features / splits), width, classes)


def shared(features: int, width: int, classes: int) -> Shapes:
    first = features // 8
    return merge(
        [
            linear("fc1", width, first),
            linear("fc2", width, first + width),
            linear("fcx", classes, 8 * width),
        ]
    )


def progressive(
    features: int, width: int, classes: int, position: int = 0, norms: bool = False
) -> Shapes:
    layers = [
        linear(name, width, features + i * width) for i, name in enumerate(spinal_layers(position))
    ]
    extra = [norm(n, width) for n in spinal_layers(position + 1)] if norms else []
    return merge([*layers, *extra, linear(f"fc_out.{position}", classes, features + 4 * width)])


def mlp(names: Sequence[str], *widths: int) -> Shapes:
    pairs = zip(names, widths[1:], widths[:-1], strict=True)
    return merge(linear(name, outputs, inputs) for name, outputs, inputs in pairs)


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{key}": shape for key, shape in shapes.items()}


MNIST_TRUNK = conv("conv1", 10, 1, 5) | conv("conv2", 20, 10, 5)
VGG5_TRUNK = merge(
    conv(f"l{block}.{3 * i}", width, inputs) | norm(f"l{block}.{3 * i + 1}", width)
    for block, pairs in enumerate(
        (
            ((64, 1), (64, 64)),
            ((128, 64), (128, 128)),
            ((256, 128), (256, 256), (256, 256)),
            ((256, 256), (256, 256), (256, 256)),
        ),
        1,
    )
    for i, (width, inputs) in enumerate(pairs)
)
CIFAR_CNN_TRUNK = prefixed(
    "conv_layer",
    merge(
        [
            conv("0", 32, 3) | norm("1", 32) | conv("3", 64, 32),
            conv("6", 128, 64) | norm("7", 128) | conv("9", 128, 128),
            conv("13", 256, 128) | norm("14", 256) | conv("16", 256, 256),
        ]
    ),
)


def arch2(width: int) -> Shapes:
    def tap(name: str, half: int, layers: int) -> Shapes:
        shapes = chain(suffixed(name, layers), "unused", half, width, 1)
        return {key: shape for key, shape in shapes.items() if not key.startswith("unused")}

    taps = tap("fc1", 160, 8) | tap("fcp", 720, 8) | tap("fcp2", 392, 10)
    return MNIST_TRUNK | taps | linear("fc2", 50, 26 * width) | linear("fc3", 10, 50)


def resnet_trunk(*blocks: int) -> Shapes:
    parts = [conv("conv1", 32, 3, bias=False), norm("bn", 32)]
    inputs = 32
    for stage, count in enumerate(blocks):
        width = 32 * 2**stage
        for i in range(count):
            name = f"conv{stage + 2}_x.{i}"
            parts += [conv(f"{name}.conv1", width, inputs, bias=False), norm(f"{name}.bn1", width)]
            parts += [conv(f"{name}.conv2", width, width, bias=False), norm(f"{name}.bn2", width)]
            if inputs != width:
                parts.append(conv(f"{name}.downsample.0", width, inputs, bias=False))
                parts.append(norm(f"{name}.downsample.1", width))
            inputs = width
    return merge(parts)


def vgg_trunk(*convs: int) -> Shapes:
    parts: list[Shapes] = []
    position, inputs = 0, 3
    for width, count in zip((64, 128, 256, 512, 512), convs, strict=True):
        for _ in range(count):
            parts += [conv(f"features.{position}", width, inputs)]
            parts += [norm(f"features.{position + 1}", width)]
            position, inputs = position + 3, width
        position += 1
    return merge(parts)


@dataclass(frozen=True)
class Numbers:
    """Counts, and outputs of the golden run: sample 0, sample 1, sum of all absolute values."""

    params: int
    head_params: int
    buffers: int
    trunk_macs: int
    head_macs: int
    first: tuple[float, ...]
    second: tuple[float, ...]
    abs_sum: float


@dataclass(frozen=True)
class Case:
    """One network: how it is built here, what its tensors are called there.

    `model` is a row of `MODELS`, or the number of input features of a head on its own. `dead` is
    the number of parameters that the original allocates but never uses.
    """

    table: str
    model: str | int
    num_classes: int
    head: str
    shapes: Shapes
    options: dict[str, Any] = field(default_factory=dict)
    log_softmax: bool = False
    dead: int = 0

    @property
    def numbers(self) -> Numbers:
        return NUMBERS[self.table]


def _vgg5_cases() -> list[Case]:
    cases = []
    for classes, title in ((10, "10 classes"), (62, "62 outputs (letters)")):
        stack = linear("1", 512, 256) | norm("2", 512) | linear("5", classes, 512)
        shapes = VGG5_TRUNK | prefixed("classifier", stack)
        cases.append(
            Case(f"VGG-5 default, {title}", "vgg5", classes, "mlp-paper", shapes, log_softmax=True)
        )
        shapes = VGG5_TRUNK | dropout_norm(256, 128, classes)
        cases.append(
            Case(f"VGG-5 spinal, {title}", "vgg5", classes, "spinal", shapes, log_softmax=True)
        )
    return cases


def _cifar_cases() -> list[Case]:
    cases = []
    for classes, width, resnet_width in ((10, 128, 256), (100, 256, 512)):
        data = f"CIFAR-{classes}"
        shapes = CIFAR_CNN_TRUNK | prefixed(
            "fc_layer", mlp(["1", "3", "6"], 4096, 1024, 512, classes)
        )
        cases.append(Case(f"CNN default, {data}", "cifar-cnn", classes, "mlp-paper", shapes))
        shapes = CIFAR_CNN_TRUNK | dropout(4096, width, classes)
        options = {"hidden_features": width}
        table = f"CNN spinal w={width}, {data}"
        cases.append(Case(table, "cifar-cnn", classes, "spinal", shapes, options))
        for depth, blocks in ((18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))):
            model = f"cifar-resnet{depth}-half"
            trunk = resnet_trunk(*blocks)
            shapes = trunk | linear("fc_layer", classes, 256)
            table = f"ResNet{depth} {data}"
            cases.append(Case(table, model, classes, "linear", shapes, {"neck": "vector"}))
            head = chain(suffixed("fc1", 4), "fc_layer", 256, resnet_width, classes)
            options = {"hidden_features": resnet_width}
            cases.append(Case(f"Spinal{table}", model, classes, "spinal", trunk | head, options))
        for depth, convs in (
            (11, (1, 1, 2, 2, 2)),
            (13, (2, 2, 2, 2, 2)),
            (16, (2, 2, 3, 3, 3)),
            (19, (2, 2, 4, 4, 4)),
        ):
            model = f"cifar-vgg{depth}-bn"
            trunk = vgg_trunk(*convs)
            head = prefixed("classifier", mlp(["0", "3", "6"], 512, 4096, 4096, classes))
            table = f"VGG{depth}_bn {data}"
            cases.append(Case(table, model, classes, "mlp-paper", trunk | head))
            head = dropout(512, 512, classes)
            cases.append(Case(f"spinal {table}", model, classes, "spinal", trunk | head))
    shapes = resnet_trunk(1, 1, 1, 1) | linear("fc_layer", 10, 256)
    table = "ResNet [1,1,1,1] CIFAR-10 (built, never trained)"
    return [*cases, Case(table, "cifar-resnet10-half", 10, "linear", shapes, {"neck": "vector"})]


def _custom_case(
    features: int, splits: int, width: int, layers: int, classes: int, activation: str = "relu"
) -> Case:
    return Case(
        f"custom({features},{splits},{width},{layers},{classes})",
        features,
        classes,
        "spinal-tiled",
        custom(features, splits, width, layers, classes),
        {
            "hidden_features": width,
            "num_layers": layers,
            "num_splits": splits,
            "activation": activation,
        },
    )


def _shared_case(table: str, features: int, width: int) -> Case:
    options = {"hidden_features": width, "num_layers": 8, "num_splits": 8}
    return Case(table, features, 10, "spinal-shared", shared(features, width, 10), options)


def _progressive_head_case(table: str, width: int, classes: int) -> Case:
    shapes = progressive(2048, width, classes)
    return Case(table, 2048, classes, "progressive", shapes, {"hidden_features": width})


CASES = [
    Case(
        "regression spinal (8 inputs)",
        "regression-net",
        1,
        "spinal-reused",
        custom(8, 2, 50, 6, 1),
        dead=5_500,
    ),
    Case(
        "regression dense 8-200-100-1",
        "regression-net",
        1,
        "mlp-paper",
        mlp(["0", "2", "4"], 8, 200, 100, 1),
    ),
    Case(
        "MNIST CNN default (10)",
        "mnist-cnn",
        10,
        "mlp-paper",
        MNIST_TRUNK | mlp(["fc1", "fc2"], 320, 50, 10),
        log_softmax=True,
    ),
    Case(
        "MNIST CNN spinal, w=8",
        "mnist-cnn",
        10,
        "spinal",
        MNIST_TRUNK | chain(suffixed("fc1", 6), "fc2", 160, 8, 10),
        log_softmax=True,
    ),
    Case(
        "EMNIST-Digits CNN spinal, w=10",
        "mnist-cnn",
        10,
        "spinal",
        MNIST_TRUNK | chain(suffixed("fc1", 6), "fc2", 160, 10, 10),
        {"hidden_features": 10},
        log_softmax=True,
    ),
    *(
        Case(
            f"Arch2 w={width} ({data})",
            "arch2",
            10,
            "spinal",
            arch2(width),
            {"hidden_features": width},
            log_softmax=True,
        )
        for width, data in ((30, "MNIST"), (50, "EMNIST-Digits, KMNIST, QMNIST"), (300, "Fashion"))
    ),
    *_vgg5_cases(),
    *_cifar_cases(),
    _custom_case(200, 4, 30, 15, 7, "leaky_relu"),
    _custom_case(2048, 2, 512, 10, 10),
    _custom_case(11, 4, 3, 4, 2),
    _custom_case(10, 4, 3, 6, 2),
    _custom_case(2048, 2, 20, 30, 10),
    *(_shared_case(f"Transformer on STL-10 (HL_width={w})", 1024, w) for w in (10, 20, 50, 100)),
    _shared_case("WideResNet-101 on STL-10", 2048, 20),
    Case(
        "Progressive vanilla MNIST",
        "mnist-pixels",
        10,
        "progressive",
        progressive(784, 128, 10, norms=True),
        log_softmax=True,
    ),
    Case(
        "Progressive VGG-5 KMNIST = EMNIST-Digits",
        "vgg5",
        10,
        "progressive",
        VGG5_TRUNK | progressive(256, 64, 10),
        log_softmax=True,
    ),
    Case(
        "Progressive VGG-5 EMNIST-Letters",
        "vgg5",
        62,
        "progressive",
        VGG5_TRUNK | progressive(256, 128, 62),
        {"hidden_features": 128},
        log_softmax=True,
    ),
    Case(
        "Progressive VGG-5 QMNIST",
        "vgg5",
        10,
        "progressive",
        VGG5_TRUNK | progressive(256, 64, 10, position=1, norms=True),
        {"norm": "batch", "dropout": 0.5},
        log_softmax=True,
    ),
    _progressive_head_case("Progressive head Birds = STL-10 (2048 in)", 1024, 250),
    _progressive_head_case("Progressive head Caltech-101", 200, 101),
    _progressive_head_case("Progressive head Fruits-360", 1024, 131),
]

# VGG-5 with other numbers of classes: (classes, head, params, head_params, head_macs).
VGG5_CLASSES = (
    (26, "mlp-paper", 3_654_362, 145_946, 144_384),
    (26, "spinal", 3_637_978, 129_562, 128_000),
    (27, "mlp-paper", 3_654_875, 146_459, 144_896),
    (27, "spinal", 3_638_491, 130_075, 128_512),
    (47, "mlp-paper", 3_665_135, 156_719, 155_136),
    (47, "spinal", 3_648_751, 140_335, 138_752),
)

# The regression net with all six layers running once each, on the same golden weights.
REGRESSION_CORRECTED = (-0.12134567310536785, -0.07273937431729789)


@dataclass(frozen=True)
class HeadRow:
    """One head of the transfer scripts (several scripts share some)."""

    flavour: str
    in_features: int
    width: int
    num_classes: int
    params: int
    buffers: int
    macs: int
    first: tuple[float, ...]
    abs_sum: float

    @property
    def dead(self) -> int:
        """Parameters that the original allocates but never uses."""
        return 2_620 if self.flavour == "hymenoptera" else 0

    def shapes(self) -> Shapes:
        sizes = (self.in_features, self.width, self.num_classes)
        if self.flavour == "mlp":
            return mlp(["0", "3", "6"], self.in_features, 4096, 4096, self.num_classes)
        if self.flavour == "two-layer":
            return mlp(["0", "2", "4"], self.in_features, 204, 204, self.num_classes)
        if self.flavour == "linear":
            return {"weight": (self.num_classes, self.in_features), "bias": (self.num_classes,)}
        if self.flavour == "hymenoptera":
            return custom(self.in_features, 2, self.width, 6, self.num_classes)
        return {"bare": bare, "dropout+norm": dropout_norm, "affine": affine}[self.flavour](*sizes)


def flavour(name: str, width: int) -> tuple[str, dict[str, Any]]:
    """Return the head, and its options, that a flavour of the transfer scripts means here."""
    spinal = {"hidden_features": width, "num_layers": 4, "norm": None, "dropout": 0.0}
    leaky = {"hidden_features": width, "num_layers": 6, "activation": "leaky_relu"}
    return {
        "bare": ("spinal", spinal),
        "dropout+norm": ("spinal", {**spinal, "norm": "batch", "dropout": 0.5}),
        "affine": ("spinal", {**spinal, "activation": "identity"}),
        "ten-layer": ("spinal", {**spinal, "num_layers": 10}),
        "shared": ("spinal-shared", {"hidden_features": width, "num_layers": 8, "num_splits": 8}),
        "hymenoptera": ("spinal-reused", {**leaky, "reuse": ((4, 2), (5, 3))}),
        "mlp": ("mlp-paper", {"hidden_features": (4096, 4096), "dropout": (0.0, 0.5, 0.5)}),
        "two-layer": ("mlp-paper", {"hidden_features": (204, 204), "dropout": 0.0}),
        "linear": ("linear", {"dropout": 0.0}),
    }[name]


# Backbones without their classifier: (params, buffers, feature width, {image side: MACs}).
BACKBONES: dict[str, tuple[int, int, int, dict[int, int]]] = {
    "wide_resnet101_2": (
        124_837_696,
        137_960,
        2048,
        {
            112: 5_841_104_896,
            128: 7_428_898_816,
            224: 22_751_002_624,
            256: 29_715_595_264,
            448: 91_004_010_496,
        },
    ),
    "resnext50_32x4d": (22_979_904, 68_277, 2048, {224: 4_228_431_872}),
    "resnet101": (42_500_160, 105_448, 2048, {128: 2_546_728_960}),
    "resnet18": (11_176_512, 9_620, 512, {224: 1_813_561_344}),
    "vgg19_bn": (
        20_035_392,
        11_024,
        25088,
        {112: 4_877_107_200, 224: 19_508_428_800, 256: 25_480_396_800},
    ),
    "alexnet": (2_469_696, 0, 9216, {224: 655_566_528, 300: 1_143_264_000}),
    # The patch embedding and the linear maps; attention products are not counted.
    "vit_large_patch16_224": (303_301_632, 0, 1024, {224: 154_140_672 + 59_492_007_936}),
}


@dataclass(frozen=True)
class RunRow:
    """Totals of the network that one transfer experiment really trains."""

    backbone: str
    size: int
    flavour: str
    width: int
    num_classes: int
    params: int
    macs: int

    @property
    def dead(self) -> int:
        """Parameters that the original allocates but never uses."""
        return 2_620 if self.flavour == "hymenoptera" else 0


RUNS = [
    RunRow(
        "wide_resnet101_2", 224, "dropout+norm", 1024, 225, 133_111_841, 22_759_264_256
    ),  # Bird225
    RunRow(
        "wide_resnet101_2", 256, "dropout+norm", 512, 100, 127_932_324, 29_718_683_648
    ),  # CIFAR100
    RunRow("wide_resnet101_2", 448, "bare", 20, 10, 124_921_706, 91_004_094_416),  # CINIC10
    RunRow("wide_resnet101_2", 224, "linear", 0, 101, 125_044_645, 22_751_209_472),  # Caltech101
    RunRow("wide_resnet101_2", 128, "bare", 131, 131, 125_495_054, 7_429_555_519),  # Fruits360
    RunRow(
        "vgg19_bn", 112, "dropout+norm", 1024, 10, 74_614_602, 4_931_674_112
    ),  # MNIST and the MNIST notebook
    RunRow(
        "wide_resnet101_2", 448, "bare", 102, 102, 125_328_826, 91_004_501_116
    ),  # Oxford102flower
    RunRow(
        "wide_resnet101_2", 256, "dropout+norm", 512, 10, 127_747_914, 29_718_499_328
    ),  # STL10 and stl-10 notebook
    RunRow("wide_resnet101_2", 448, "bare", 196, 196, 125_910_404, 91_005_082_224),  # Stanford_Cars
    RunRow("resnet18", 224, "hymenoptera", 5, 2, 11_184_409, 1_813_569_209),  # hymenoptera
    RunRow("alexnet", 300, "bare", 20, 10, 2_840_426, 1_143_634_640),  # alexnet monkey notebook
    RunRow(
        "wide_resnet101_2", 224, "bare", 101, 101, 125_323_304, 22_751_487_727
    ),  # caltech101 notebook
    RunRow(
        "wide_resnet101_2", 256, "bare", 20, 10, 124_921_706, 29_715_679_184
    ),  # cifar10 notebook
    RunRow(
        "wide_resnet101_2", 256, "bare", 200, 100, 125_857_796, 29_716_614_464
    ),  # cifar100 notebook
    RunRow(
        "wide_resnet101_2", 112, "affine", 1024, 10, 132_222_794, 5_848_485_888
    ),  # fashion-mnist notebook
    RunRow(
        "wide_resnet101_2", 448, "linear", 0, 102, 125_046_694, 91_004_219_392
    ),  # spinalnet-oxford-102-flower notebook (re
    RunRow(
        "resnext50_32x4d", 224, "two-layer", 0, 102, 23_460_630, 4_228_912_088
    ),  # 2-layer-fc oxford notebook
    RunRow(
        "wide_resnet101_2", 256, "ten-layer", 512, 10, 132_496_202, 29_723_248_640
    ),  # Customizable STL-10 notebook
    RunRow(
        "wide_resnet101_2", 256, "shared", 20, 10, 124_849_986, 29_715_640_624
    ),  # SpinalNet SW WideResNet notebook
    RunRow(
        "vgg19_bn", 256, "mlp", 0, 1000, 143_678_248, 25_604_030_464
    ),  # CIFAR10, SVHN (see defects: head never c
    RunRow(
        "vit_large_patch16_224", 224, "shared", 10, 10, 303_305_122, 59_646_160_348
    ),  # Transformer on STL-10 (HL_width=10)
    RunRow(
        "vit_large_patch16_224", 224, "shared", 20, 10, 303_308_802, 59_646_173_488
    ),  # Transformer on STL-10 (HL_width=20)
    RunRow(
        "vit_large_patch16_224", 224, "shared", 50, 10, 303_321_042, 59_646_221_308
    ),  # Transformer on STL-10 (HL_width=50)
    RunRow(
        "vit_large_patch16_224", 224, "shared", 100, 10, 303_345_442, 59_646_329_008
    ),  # Transformer on STL-10 (HL_width=100)
]

HEADS = [
    HeadRow("bare", 2048, 20, 10, 84_010, 0, 83_920, (0.7532242856, -0.3033638909), 12.23080363),
    HeadRow("bare", 2048, 101, 101, 485_608, 0, 485_103, (0.3457971426, -0.6406499239), 138.595904),
    HeadRow("bare", 2048, 102, 102, 491_130, 0, 490_620, (2.18823451, 0.5412646799), 149.7060712),
    HeadRow("bare", 2048, 131, 131, 657_358, 0, 656_703, (0.1499749191, 1.499650138), 168.3312629),
    HeadRow(
        "bare", 2048, 196, 196, 1_072_708, 0, 1_071_728, (1.273380084, 1.011975309), 272.6395011
    ),
    HeadRow(
        "bare", 2048, 200, 100, 1_020_100, 0, 1_019_200, (0.8975526295, 1.147419466), 141.060505
    ),
    HeadRow(
        "bare", 2048, 1024, 101, 7_757_925, 0, 7_753_728, (1.753875723, 0.03909708667), 127.5991197
    ),
    HeadRow("bare", 9216, 20, 10, 370_730, 0, 370_640, (0.5304569789, -0.146793241), 13.88131911),
    HeadRow(
        "bare", 25088, 20, 10, 1_005_610, 0, 1_005_520, (0.6073807952, 0.2612362177), 19.20479005
    ),
    HeadRow(
        "dropout+norm", 2048, 20, 10, 84_170, 164, 83_920, (-1.59684889, -0.3497408414), 17.9547446
    ),
    HeadRow(
        "dropout+norm",
        2048,
        101,
        101,
        486_416,
        812,
        485_103,
        (-1.708404237, -0.9431182346),
        149.5035282,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        102,
        102,
        491_946,
        820,
        490_620,
        (-0.7144799345, -1.999100046),
        148.8607127,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        131,
        131,
        658_406,
        1_052,
        656_703,
        (-1.520062155, -0.9323530717),
        197.2983839,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        196,
        196,
        1_074_276,
        1_572,
        1_071_728,
        (-0.9084823018, 1.089407415),
        266.5711714,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        512,
        10,
        2_910_218,
        4_100,
        2_904_064,
        (-0.5616607665, -2.02901997),
        13.79111328,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        512,
        100,
        3_094_628,
        4_100,
        3_088_384,
        (-0.5616607665, -2.02901997),
        138.0810178,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        1024,
        10,
        7_393_290,
        8_196,
        7_380_992,
        (0.0061382988, 1.6140251),
        13.11621859,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        1024,
        101,
        7_766_117,
        8_196,
        7_753_728,
        (0.0061382988, 1.6140251),
        132.4260257,
    ),
    HeadRow(
        "dropout+norm",
        2048,
        1024,
        225,
        8_274_145,
        8_196,
        8_261_632,
        (0.0061382988, 1.6140251),
        304.8580322,
    ),
    HeadRow(
        "dropout+norm",
        9216,
        20,
        10,
        370_890,
        164,
        370_640,
        (-0.7993877802, 0.05323160533),
        10.87258878,
    ),
    HeadRow(
        "dropout+norm",
        25088,
        20,
        10,
        1_005_770,
        164,
        1_005_520,
        (0.2469663535, -1.482325373),
        12.54637762,
    ),
    HeadRow(
        "dropout+norm",
        25088,
        1024,
        10,
        54_579_210,
        8_196,
        54_566_912,
        (-0.1285008801, -0.2220114185),
        11.27256816,
    ),
    HeadRow(
        "affine",
        2048,
        1024,
        10,
        7_385_098,
        0,
        7_380_992,
        (-0.4369271684, -1.397871001),
        17.98682093,
    ),
    HeadRow(
        "affine",
        25088,
        1024,
        10,
        54_571_018,
        0,
        54_566_912,
        (-1.053139582, 1.162969263),
        20.75534876,
    ),
    HeadRow("hymenoptera", 512, 5, 2, 7_897, 0, 7_865, (0.8092717201, 0.05000215597), 1.678455894),
    HeadRow(
        "mlp", 512, 0, 10, 18_923_530, 0, 18_915_328, (-0.02830254297, 0.1014794531), 16.14688949
    ),
    HeadRow(
        "mlp", 512, 0, 100, 19_292_260, 0, 19_283_968, (-0.02830254297, 0.1014794531), 137.0453895
    ),
    HeadRow(
        "mlp", 512, 0, 101, 19_296_357, 0, 19_288_064, (-0.02830254297, 0.1014794531), 138.9943246
    ),
    HeadRow(
        "mlp", 512, 0, 102, 19_300_454, 0, 19_292_160, (-0.02830254297, 0.1014794531), 139.3604761
    ),
    HeadRow(
        "mlp", 512, 0, 131, 19_419_267, 0, 19_410_944, (-0.02830254297, 0.1014794531), 185.1715107
    ),
    HeadRow(
        "mlp", 512, 0, 196, 19_685_572, 0, 19_677_184, (-0.02830254297, 0.1014794531), 276.5782935
    ),
    HeadRow(
        "mlp", 512, 0, 225, 19_804_385, 0, 19_795_968, (-0.02830254297, 0.1014794531), 321.0266069
    ),
    HeadRow(
        "mlp", 9216, 0, 10, 54_575_114, 0, 54_566_912, (0.1252755423, -0.749821399), 13.15323955
    ),
    HeadRow(
        "two-layer", 2048, 0, 102, 480_726, 0, 480_216, (-1.008807337, -0.4911342851), 128.2083867
    ),
    HeadRow("linear", 512, 0, 2, 1_026, 0, 1_024, (), 0.0),
    HeadRow("linear", 2048, 0, 10, 20_490, 0, 20_480, (), 0.0),
    HeadRow("linear", 2048, 0, 100, 204_900, 0, 204_800, (), 0.0),
    HeadRow("linear", 2048, 0, 101, 206_949, 0, 206_848, (), 0.0),
    HeadRow("linear", 2048, 0, 102, 208_998, 0, 208_896, (), 0.0),
    HeadRow("linear", 2048, 0, 131, 268_419, 0, 268_288, (), 0.0),
    HeadRow("linear", 2048, 0, 196, 401_604, 0, 401_408, (), 0.0),
    HeadRow("linear", 2048, 0, 225, 461_025, 0, 460_800, (), 0.0),
    HeadRow("linear", 9216, 0, 10, 92_170, 0, 92_160, (), 0.0),
    HeadRow("linear", 25088, 0, 10, 250_890, 0, 250_880, (), 0.0),
]

NUMBERS: dict[str, Numbers] = {
    "regression spinal (8 inputs)": Numbers(
        14_301, 14_301, 0, 0, 14_000, (-0.02715877377,), (-0.3489208347,), 0.3760796084
    ),
    "regression dense 8-200-100-1": Numbers(
        22_001, 22_001, 0, 0, 21_700, (1.905010993,), (0.6635193896,), 2.568530383
    ),
    "MNIST CNN default (10)": Numbers(
        21_840,
        16_560,
        0,
        464_000,
        16_500,
        (-10.33254405, -3.940446476, -4.132326963, -4.244363862),
        (-9.492697716, -3.633509883),
        88.07153403,
    ),
    "MNIST CNN spinal, w=8": Numbers(
        13_818,
        8_538,
        0,
        464_000,
        8_480,
        (-3.177317996, -1.972681776, -8.674156508, -4.083650942),
        (-5.424919965, -1.183554901),
        94.87485247,
    ),
    "EMNIST-Digits CNN spinal, w=10": Numbers(
        16_050,
        10_770,
        0,
        464_000,
        10_700,
        (-4.240744149, -3.26858632, -3.931799905, -3.017947542),
        (-4.709393766, -3.082504448),
        94.68158815,
    ),
    "Arch2 w=30 (MNIST)": Numbers(
        395_120,
        389_840,
        0,
        464_000,
        389_000,
        (-5.953715719, -3.379845704, -2.075894142, -0.2379931462),
        (-5.727666381, -2.360514747),
        79.87770279,
    ),
    "Arch2 w=50 (EMNIST-Digits, KMNIST, QMNIST)": Numbers(
        677_640,
        672_360,
        0,
        464_000,
        671_000,
        (-5.88321027, -3.652519092, -3.302440815, -4.161244728),
        (-5.482817159, -3.12343917),
        80.52768746,
    ),
    "Arch2 w=300 (Fashion)": Numbers(
        5_761_640,
        5_756_360,
        0,
        464_000,
        5_748_500,
        (-2.406326835, -4.804200708, -3.262413346, -3.919600071),
        (-2.950310644, -3.520600219),
        62.9126386,
    ),
    "VGG-5 default, 10 classes": Numbers(
        3_646_154,
        137_738,
        4_875,
        160_883_712,
        136_192,
        (-1.242152451, -2.103866401, -6.840795671, -3.8910551),
        (-1.276603739, -2.125570599),
        70.21967861,
    ),
    "VGG-5 spinal, 10 classes": Numbers(
        3_629_770,
        121_354,
        4_878,
        160_883_712,
        119_808,
        (-5.079926594, -4.587081305, -3.405311321, -1.723504311),
        (-4.886111281, -4.057577603),
        66.97024719,
    ),
    "VGG-5 default, 62 outputs (letters)": Numbers(
        3_672_830,
        164_414,
        4_875,
        160_883_712,
        162_816,
        (-2.865282642, -3.726996592, -8.463925862, -5.514185291),
        (-2.923941157, -3.772908017),
        660.9129734,
    ),
    "VGG-5 spinal, 62 outputs (letters)": Numbers(
        3_656_446,
        148_030,
        4_878,
        160_883_712,
        146_432,
        (-6.849228934, -6.356383645, -5.174613661, -3.492806651),
        (-6.828913305, -6.000379627),
        692.2844168,
    ),
    "CNN default, CIFAR-10": Numbers(
        5_852_170,
        4_725_258,
        835,
        133_005_312,
        4_723_712,
        (2.467168745, 4.101430704, -0.9126761309, 1.703850039),
        (2.75865376, 3.694970358),
        32.24367549,
    ),
    "CNN spinal w=128, CIFAR-10": Numbers(
        2_230_282,
        1_103_370,
        835,
        133_005_312,
        1_102_848,
        (-1.67989714, -3.692447453, 3.044429704, 2.336253854),
        (-1.217329755, -3.89582792),
        50.57024535,
    ),
    "CNN default, CIFAR-100": Numbers(
        5_898_340,
        4_771_428,
        835,
        133_005_312,
        4_769_792,
        (2.467168745, 4.101430704, -0.9126761309, 1.703850039),
        (2.75865376, 3.694970358),
        403.3186509,
    ),
    "CNN spinal w=256, CIFAR-100": Numbers(
        3_524_196,
        2_397_284,
        835,
        133_005_312,
        2_396_160,
        (-3.550234206, 5.523037642, -0.6564989567, -1.198445202),
        (-3.810903584, 5.188237406),
        390.4327005,
    ),
    "ResNet18 CIFAR-10": Numbers(
        3_141_674,
        2_570,
        4_820,
        151_879_680,
        2_560,
        (-72.61192061, 14.6163936, -18.91871744, -71.65007433),
        (-68.30495899, 5.528844466),
        1088.590759,
    ),
    "SpinalResNet18 CIFAR-10": Numbers(
        3_609_130,
        470_026,
        4_820,
        151_879_680,
        468_992,
        (-77.16876441, -51.29229888, -67.21033867, 59.95340916),
        (-8.632676686, -24.64484192),
        1019.765438,
    ),
    "ResNet34 CIFAR-10": Numbers(
        5_670_570,
        2_570,
        8_548,
        302_874_624,
        2_560,
        (-9198.092199, 3666.765707, -2392.276233, -3168.09419),
        (-6945.519065, 4121.958957),
        88997.16829,
    ),
    "SpinalResNet34 CIFAR-10": Numbers(
        6_138_026,
        470_026,
        8_548,
        302_874_624,
        468_992,
        (-2479.665849, -2953.265238, -1359.304029, 5306.464392),
        (-3927.43629, -3318.685889),
        44562.16103,
    ),
    "ResNet18 CIFAR-100": Numbers(
        3_164_804,
        25_700,
        4_820,
        151_879_680,
        25_600,
        (-72.61192061, 14.6163936, -18.91871744, -71.65007433),
        (-68.30495899, 5.528844466),
        12307.64173,
    ),
    "SpinalResNet18 CIFAR-100": Numbers(
        4_656_772,
        1_517_668,
        4_820,
        151_879_680,
        1_515_520,
        (-11.20878827, 35.78351024, -16.37578444, 22.14759251),
        (-14.3630713, 82.81700577),
        8028.985969,
    ),
    "ResNet34 CIFAR-100": Numbers(
        5_693_700,
        25_700,
        8_548,
        302_874_624,
        25_600,
        (-9198.092199, 3666.765707, -2392.276233, -3168.09419),
        (-6945.519065, 4121.958957),
        807265.5968,
    ),
    "SpinalResNet34 CIFAR-100": Numbers(
        7_185_668,
        1_517_668,
        8_548,
        302_874_624,
        1_515_520,
        (970.1900555, 4302.390887, -1658.961677, 1914.387642),
        (-2354.40244, 5997.100896),
        530578.6199,
    ),
    "ResNet [1,1,1,1] CIFAR-10 (built, never trained)": Numbers(
        1_573_034,
        2_570,
        2_892,
        76_382_208,
        2_560,
        (-12.02948833, 11.01365441, -4.639490045, -25.21314958),
        (-18.03275459, 7.871881423),
        230.2202539,
    ),
    "VGG11_bn CIFAR-10": Numbers(
        28_149_514,
        18_923_530,
        5_512,
        152_764_416,
        18_915_328,
        (-3.723623175, 1.76944341, 1.100065268, -0.9749443626),
        (-3.291199239, 1.154161291),
        29.58356701,
    ),
    "spinal VGG11_bn CIFAR-10": Numbers(
        10_559_242,
        1_333_258,
        5_512,
        152_764_416,
        1_331_200,
        (1.276390085, -1.886875827, -0.7887166963, -1.367333234),
        (1.350860677, -1.49187058),
        26.7472723,
    ),
    "VGG13_bn CIFAR-10": Numbers(
        28_334_410,
        18_923_530,
        5_898,
        228_261_888,
        18_915_328,
        (-3.355012367, 0.01915758614, 0.9834293427, -0.3322382586),
        (-3.383422516, 0.1315789268),
        23.45402216,
    ),
    "spinal VGG13_bn CIFAR-10": Numbers(
        10_744_138,
        1_333_258,
        5_898,
        228_261_888,
        1_331_200,
        (0.3181296923, -3.966498465, -2.153379013, -1.19127129),
        (0.2431894192, -4.140584624),
        39.2721145,
    ),
    "VGG16_bn CIFAR-10": Numbers(
        33_646_666,
        18_923_530,
        8_461,
        313_196_544,
        18_915_328,
        (-1.566952936, -0.2901128213, 0.3106520134, -0.9829774415),
        (-1.745379395, -0.05302530425),
        16.91814584,
    ),
    "spinal VGG16_bn CIFAR-10": Numbers(
        16_056_394,
        1_333_258,
        8_461,
        313_196_544,
        1_331_200,
        (0.2931893209, -3.26954273, -0.9795459452, -1.747481573),
        (0.2279806801, -3.27911117),
        24.14503153,
    ),
    "VGG19_bn CIFAR-10": Numbers(
        38_958_922,
        18_923_530,
        11_024,
        398_131_200,
        18_915_328,
        (-1.244742994, 0.4890189089, 0.5324472415, -0.303888198),
        (-1.227756441, 0.43779018),
        7.549184633,
    ),
    "spinal VGG19_bn CIFAR-10": Numbers(
        21_368_650,
        1_333_258,
        11_024,
        398_131_200,
        1_331_200,
        (-0.1819779451, -1.69037371, -0.07150059689, -1.088335466),
        (-0.1942757116, -1.673066345),
        14.49960142,
    ),
    "VGG11_bn CIFAR-100": Numbers(
        28_518_244,
        19_292_260,
        5_512,
        152_764_416,
        19_283_968,
        (-3.723623175, 1.76944341, 1.100065268, -0.9749443626),
        (-3.291199239, 1.154161291),
        284.6317128,
    ),
    "spinal VGG11_bn CIFAR-100": Numbers(
        10_743_652,
        1_517_668,
        5_512,
        152_764_416,
        1_515_520,
        (1.276390085, -1.886875827, -0.7887166963, -1.367333234),
        (1.350860677, -1.49187058),
        278.2960132,
    ),
    "VGG13_bn CIFAR-100": Numbers(
        28_703_140,
        19_292_260,
        5_898,
        228_261_888,
        19_283_968,
        (-3.355012367, 0.01915758614, 0.9834293427, -0.3322382586),
        (-3.383422516, 0.1315789268),
        333.3247162,
    ),
    "spinal VGG13_bn CIFAR-100": Numbers(
        10_928_548,
        1_517_668,
        5_898,
        228_261_888,
        1_515_520,
        (0.3181296923, -3.966498465, -2.153379013, -1.19127129),
        (0.2431894192, -4.140584624),
        329.0211576,
    ),
    "VGG16_bn CIFAR-100": Numbers(
        34_015_396,
        19_292_260,
        8_461,
        313_196_544,
        19_283_968,
        (-1.566952936, -0.2901128213, 0.3106520134, -0.9829774415),
        (-1.745379395, -0.05302530425),
        193.6238508,
    ),
    "spinal VGG16_bn CIFAR-100": Numbers(
        16_240_804,
        1_517_668,
        8_461,
        313_196_544,
        1_515_520,
        (0.2931893209, -3.26954273, -0.9795459452, -1.747481573),
        (0.2279806801, -3.27911117),
        199.1494079,
    ),
    "VGG19_bn CIFAR-100": Numbers(
        39_327_652,
        19_292_260,
        11_024,
        398_131_200,
        19_283_968,
        (-1.244742994, 0.4890189089, 0.5324472415, -0.303888198),
        (-1.227756441, 0.43779018),
        113.1771041,
    ),
    "spinal VGG19_bn CIFAR-100": Numbers(
        21_553_060,
        1_517_668,
        11_024,
        398_131_200,
        1_515_520,
        (-0.1819779451, -1.69037371, -0.07150059689, -1.088335466),
        (-0.1942757116, -1.673066345),
        139.6533106,
    ),
    "custom(200,4,30,15,7)": Numbers(
        38_707,
        38_707,
        0,
        0,
        38_250,
        (-0.6172551891, -1.314523819, 0.3777815105, 0.2367743487),
        (-1.328764589, -0.9261225905),
        11.96316122,
    ),
    "custom(2048,2,512,10,10)": Numbers(
        7_658_506,
        7_658_506,
        0,
        0,
        7_653_376,
        (-0.9793492442, -0.09017303854, 1.486098395, -0.9271973252),
        (1.255145916, -0.109292185),
        19.7197424,
    ),
    "custom(11,4,3,4,2)": Numbers(
        101, 101, 0, 0, 87, (1.297058931, 1.30550144), (0.3180918768, 0.4802922566), 3.400944505
    ),
    "custom(10,4,3,6,2)": Numbers(
        137,
        137,
        0,
        0,
        117,
        (0.7731465986, -0.1489951909),
        (0.09252535909, -0.6500946535),
        1.664761802,
    ),
    "custom(2048,2,20,30,10)": Numbers(
        632_610,
        632_610,
        0,
        0,
        632_000,
        (-2.709939216, -0.7133721846, 0.5162296912, -0.5461419873),
        (-0.506800127, -0.2839108372),
        15.61185438,
    ),
    "Transformer on STL-10 (HL_width=10)": Numbers(
        3_490,
        3_490,
        0,
        0,
        11_740,
        (0.1652897289, 0.2779003441, 1.647080377, -0.7210054045),
        (-0.146538778, 0.1244148409),
        11.85921051,
    ),
    "Transformer on STL-10 (HL_width=20)": Numbers(
        7_170,
        7_170,
        0,
        0,
        24_880,
        (-0.269097882, 0.962021604, -1.28356933, -1.150494251),
        (-0.9263668145, -0.1709067186),
        14.47921263,
    ),
    "Transformer on STL-10 (HL_width=50)": Numbers(
        19_410,
        19_410,
        0,
        0,
        72_700,
        (-0.8536086363, -0.6960756369, 0.3284750321, -0.3162926619),
        (0.2749380941, -1.07978912),
        14.6506698,
    ),
    "Transformer on STL-10 (HL_width=100)": Numbers(
        43_810,
        43_810,
        0,
        0,
        180_400,
        (-0.8439795557, 0.03792373945, 0.846293588, -1.973967338),
        (-0.2441965797, 1.094805602),
        13.33510435,
    ),
    "WideResNet-101 on STL-10": Numbers(
        12_290,
        12_290,
        0,
        0,
        45_360,
        (-1.385940595, -0.4906832669, -2.917429087, 0.2042017169),
        (-1.771576758, 0.909027846),
        17.68691921,
    ),
    "Progressive vanilla MNIST": Numbers(
        514_218,
        514_218,
        1_028,
        0,
        512_672,
        (-3.259395605, -2.074815243, -1.512801285, -2.411462214),
        (-2.501956162, -2.792871407),
        54.71266963,
    ),
    "Progressive VGG-5 KMNIST = EMNIST-Digits": Numbers(
        3_603_914,
        95_498,
        3_850,
        160_883_712,
        95_232,
        (-0.8498475775, -1.738816509, -1.784223547, -2.356326198),
        (-0.6358784416, -1.756231468),
        63.2616228,
    ),
    "Progressive VGG-5 EMNIST-Letters": Numbers(
        3_785_982,
        277_566,
        3_850,
        160_883_712,
        276_992,
        (-5.499731346, -6.377690185, -2.981318679, -5.593627749),
        (-5.040184881, -6.514001725),
        668.329262,
    ),
    "Progressive VGG-5 QMNIST": Numbers(
        3_604_426,
        96_010,
        4_366,
        160_883_712,
        95_232,
        (-4.110156502, -2.57532937, -1.580338512, -1.598682428),
        (-3.435741481, -2.356507299),
        56.34646046,
    ),
    "Progressive head Birds = STL-10 (2048 in)": Numbers(
        16_220_410,
        16_220_410,
        0,
        0,
        16_216_064,
        (0.4568006991, -1.277247427, -0.233958745, 1.635896712),
        (1.085578292, 1.104115311),
        351.9133222,
    ),
    "Progressive head Caltech-101": Numbers(
        2_166_949,
        2_166_949,
        0,
        0,
        2_166_048,
        (-0.3902681305, -0.5667697229, -1.882038218, 0.3839130113),
        (0.08707655249, 0.7288223477),
        130.6313936,
    ),
    "Progressive head Fruits-360": Numbers(
        15_489_155,
        15_489_155,
        0,
        0,
        15_484_928,
        (0.4568006991, -1.277247427, -0.233958745, 1.635896712),
        (1.085578292, 1.104115311),
        180.0268116,
    ),
}

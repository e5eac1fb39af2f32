"""The paper's networks, and one of our own: a trunk makes features, any head goes on top of it.

`MODELS` is the one table. A row says how the trunk is built and which options the paper gave
each head; head sizes are computed from the trunk's real output, so any large enough image and
any number of classes fit. `assembly.create_model` builds from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from spinalnet._checks import InputError, unknown_name
from spinalnet.models import backbones, surgery
from spinalnet.models.trunks import (
    PAPER_WEIGHTS,
    PooledPositions,
    arch2_trunk,
    cifar_cnn_trunk,
    cifar_vgg_trunk,
    half_resnet_trunk,
    mnist_cnn_trunk,
    no_trunk,
    resnet9_trunk,
    torchvision_trunk,
    vgg5_trunk,
    vit_trunk,
)
from spinalnet.own_code import is_own, not_in_use


@dataclass(frozen=True)
class ModelRow:
    """One row of `MODELS`.

    Attributes:
        trunk: Builds the trunk from the number of input channels.
        input_shape: The paper's `(C, H, W)`, or `(F,)` for rows of numbers; `()` for a network of
            the user's own, which does not say (`own_models`).
        min_size: Smallest image side that leaves at least one feature position.
        heads: The paper's options per head name. "mlp" is derived from "mlp-paper", and other
            heads from the spinal one: see `mlp_options` and `_first_options`. Where there are none,
            the spinal head is the one of `replace_head_`.
        summary: One line for people.
        spinal: The row of `nn.HEADS` that "spinal" means on this trunk.
        necks: How a trunk that ends in a map makes features of it, the default first.
        zero_head_bias: The biases of the head start at zero.
        pretrained: The trunk can start from published ImageNet weights, or from a file of weights.
        published: Full name of the backbone whose published weights those are.
        mean: Mean per channel that published weights expect images normalised by, where that is
            known; otherwise the data's own is used.
        std: The same for the standard deviation.
    """

    trunk: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    min_size: int
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""
    spinal: str = "spinal"
    necks: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    zero_head_bias: bool = False
    pretrained: bool = False
    published: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def _vit(name: str, summary: str) -> ModelRow:
    shared = {"hidden_features": 20, "num_layers": 8, "num_splits": 8}
    return ModelRow(
        trunk=vit_trunk(name),
        input_shape=(3, 224, 224),
        min_size=16,
        heads={"spinal": shared, "spinal-shared": shared},
        pretrained=True,
        published=f"timm:{name}",
        summary=summary,
    )


# The paper compares a spinal head on 2 x 2 positions (1,024 features) with a linear map on one
# (256 features): heads and pooling change at once, and the comparison measures the pooling. Here
# every head gets the 2 x 2 positions; the paper's plain network is head="linear", neck="vector".
_RESNET_NECKS: dict[str, Callable[[], nn.Module]] = {
    "positions": lambda: PooledPositions(2),
    "vector": lambda: PooledPositions(1),
}
_RESNET_HEADS = {"spinal": {"hidden_features": 256, "num_layers": 4, "num_splits": 4}}


def _half_resnet(depth: int, *blocks: int) -> ModelRow:
    return ModelRow(
        trunk=half_resnet_trunk(*blocks),
        input_shape=(3, 32, 32),
        min_size=9,
        heads=_RESNET_HEADS,
        necks=_RESNET_NECKS,
        zero_head_bias=True,
        summary=f"{depth} layers, half as wide as a ResNet and without its last ReLUs (CIFAR)",
    )


_FULLY_CONNECTED = {"hidden_features": (4096, 4096), "dropout": (0.0, 0.5, 0.5)}


def _cifar_vgg(depth: int, *convs: int) -> ModelRow:
    return ModelRow(
        trunk=cifar_vgg_trunk(*convs),
        input_shape=(3, 32, 32),
        min_size=32,
        heads={
            "spinal": {"hidden_features": 512, "num_layers": 4, "dropout": 0.5},
            "mlp-paper": _FULLY_CONNECTED,
        },
        summary=f"VGG with {depth} layers and batch norm for 32 x 32 images (CIFAR)",
    )


def _backbone(
    name: str, classifier: str, min_size: int, size: int, **heads: Mapping[str, Any]
) -> ModelRow:
    return ModelRow(
        trunk=torchvision_trunk(name, classifier),
        input_shape=(3, size, size),
        min_size=min_size,
        heads={"mlp-paper": _FULLY_CONNECTED, **{k.replace("_", "-"): v for k, v in heads.items()}},
        pretrained=True,
        published=f"torchvision:{name}",
        summary=f"torchvision's {name} (transfer learning)",
    )


# The three flavours of the transfer scripts. A fourth has no activation at all, which makes the
# head one linear map: it is the bare one with activation="identity".
_BARE = {"hidden_features": 20, "num_layers": 4}
_DROPOUT_NORM = {"hidden_features": 512, "num_layers": 4, "norm": "batch", "dropout": 0.5}
_LEAKY = {"hidden_features": 5, "num_layers": 6, "activation": "leaky_relu"}
# The original's layers 5 and 6 run with the weights of layers 3 and 4 (counted from 1).
_REUSE = {"reuse": ((4, 2), (5, 3))}

MODELS: dict[str, ModelRow] = {
    "mnist-cnn": ModelRow(
        trunk=mnist_cnn_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 8, "num_layers": 6},
            "mlp-paper": {"hidden_features": 50, "output_dropout": 0.5},
        },
        summary="two 5x5 convolutions (paper: MNIST)",
    ),
    "arch2": ModelRow(
        trunk=arch2_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 30, "layers_per_tap": (10, 8, 8)},
            # The counterpart by the paper's rule: as many hidden neurons as all chains have.
            "mlp-paper": {"hidden_features": (780, 50)},
        },
        spinal="spinal-taps",
        summary="a spinal chain each on pixels, first and second convolution (paper: MNIST family)",
    ),
    "mnist-pixels": ModelRow(
        trunk=no_trunk,
        input_shape=(1, 28, 28),
        min_size=2,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "norm": "batch"},
            "progressive": {"hidden_features": 128, "norm": "batch"},
            "mlp-paper": {"hidden_features": 512, "norm": "batch"},
        },
        summary="no convolutions: the head sees the pixels (Progressive SpinalNet: MNIST)",
    ),
    "vgg5": ModelRow(
        trunk=vgg5_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "norm": "batch", "dropout": 0.5},
            "mlp-paper": {"hidden_features": 512, "norm": "batch", "dropout": 0.5},
            "progressive": {"hidden_features": 64},
        },
        summary="ten 3x3 convolutions in four blocks (paper: MNIST family, state of the art rows)",
    ),
    "cifar-cnn": ModelRow(
        trunk=cifar_cnn_trunk,
        input_shape=(3, 32, 32),
        min_size=8,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "dropout": 0.1},
            "mlp-paper": {"hidden_features": (1024, 512), "dropout": (0.1, 0.0, 0.1)},
        },
        summary="six 3x3 convolutions in three blocks (paper: CIFAR)",
    ),
    "cifar-resnet10-half": _half_resnet(10, 1, 1, 1, 1),
    "cifar-resnet18-half": _half_resnet(18, 2, 2, 2, 2),
    "cifar-resnet34-half": _half_resnet(34, 3, 4, 6, 3),
    "cifar-vgg11-bn": _cifar_vgg(11, 1, 1, 2, 2, 2),
    "cifar-vgg13-bn": _cifar_vgg(13, 2, 2, 2, 2, 2),
    "cifar-vgg16-bn": _cifar_vgg(16, 2, 2, 3, 3, 3),
    "cifar-vgg19-bn": _cifar_vgg(19, 2, 2, 4, 4, 4),
    # Not the paper's: what a small modern network reaches. The spinal head has the size of the one
    # that VGG-5 has on as many features; as there is no dropout in the usual ResNet-9, it has none.
    "resnet9": ModelRow(
        trunk=resnet9_trunk(),
        input_shape=(1, 28, 28),
        min_size=8,
        heads={"spinal": {"hidden_features": 128, "num_layers": 4}},
        summary="ResNet-9, 32 channels wide, for images of 28 or 32 pixels (not the paper's)",
    ),
    "alexnet": _backbone("alexnet", "classifier", 63, 300, spinal=_BARE),
    "resnet18": _backbone(
        "resnet18", "fc", 32, 224, spinal=_LEAKY, spinal_reused={**_LEAKY, **_REUSE}
    ),
    "resnet101": _backbone("resnet101", "fc", 32, 128, spinal=_DROPOUT_NORM),
    "resnext50_32x4d": _backbone(
        "resnext50_32x4d", "fc", 32, 224, spinal=_BARE, mlp_paper={"hidden_features": (204, 204)}
    ),
    "vgg19_bn": _backbone(
        "vgg19_bn", "classifier", 32, 112, spinal={**_DROPOUT_NORM, "hidden_features": 1024}
    ),
    "wide_resnet101_2": _backbone(
        "wide_resnet101_2",
        "fc",
        32,
        224,
        spinal=_DROPOUT_NORM,
        progressive={"hidden_features": 1024},
        spinal_shared={"hidden_features": 20, "num_layers": 8, "num_splits": 8},
    ),
    "vit_tiny_patch16_224": _vit("vit_tiny_patch16_224", "timm's vision transformer ViT-Ti/16"),
    "vit_large_patch16_224": _vit(
        "vit_large_patch16_224",
        "timm's vision transformer ViT-L/16 (shared-weight spinal heads: STL-10)",
    ),
    "regression-net": ModelRow(
        trunk=no_trunk,
        input_shape=(8,),
        min_size=1,
        heads={
            "spinal": {**_LEAKY, "hidden_features": 50},
            "spinal-reused": {**_LEAKY, "hidden_features": 50, **_REUSE},
            "mlp-paper": {"hidden_features": (200, 100), "activation": "leaky_relu"},
        },
        summary="no trunk: the head sees rows of numbers (paper: regression)",
    ),
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows, besides backbones."""
    return sorted(MODELS)


def is_own_model(name: str) -> bool:
    """Return whether a name is that of a network of the user's own: "mymodule:MyNet"."""
    return is_own(name) and not backbones.is_backbone(name)


def model_row(name: str, num_classes: int = 2) -> ModelRow:
    """Return the row of `MODELS`, or the row that a backbone (`timm:NAME`, ...) would have there.

    Args:
        name: Row of `MODELS`, or full name of a backbone (`backbones.find_backbone`).
        num_classes: Number of outputs, which the width of a backbone's spinal head depends on.

    Raises:
        InputError: If there is neither, or it is a network of the user's own that is not in use:
            see `own_models.use_model`. It is not imported here, where names come from files, too.
    """
    of_any_trunk = {"spinal": surgery.spinal_options(num_classes)}
    if name in MODELS:
        row = MODELS[name]
        return row if row.heads else replace(row, heads=of_any_trunk)
    if is_own_model(name):
        raise not_in_use(name, "model")
    if not backbones.is_backbone(name):
        raise unknown_name("model", name, MODELS)
    backbone = backbones.find_backbone(name)
    return ModelRow(
        trunk=functools.partial(backbones.build_trunk, backbone.name),
        input_shape=backbone.input_shape,
        min_size=1,  # not declared anywhere: told when the trunk is tried
        heads=of_any_trunk,
        pretrained=True,
        published=backbone.name,
        summary=f"{backbone.name} (transfer learning)",
        mean=backbone.mean,
        std=backbone.std,
    )


def spare_parameters(name: str) -> int:
    """Return how many parameters a network may make beside its own while it is built.

    A backbone comes with a classifier, which is removed: the largest published ones have more than
    a hundred million parameters there. A network of the user's own may be cut from one.
    """
    return 2**20 if name in MODELS and not is_own_model(name) else 2**28


def check_weights_here(name: str, way: str = "give a file of them with pretrained=FILE") -> None:
    """See that the published weights of a network can be had without a network.

    Args:
        name: Row of `MODELS`, or full name of a backbone; one without such weights needs none.
        way: What else may be done, for the sentence.

    Raises:
        InputError: If not, or there is no such network.
    """
    published = model_row(name).published
    which = PAPER_WEIGHTS if name in MODELS else "DEFAULT"
    if published and not backbones.is_here(published, which):
        raise InputError(
            f"the published weights of '{name}' are not here, and they must not be fetched: allow "
            f"it with download=True, or {way}."
        )

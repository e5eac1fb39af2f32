"""The paper's networks: a trunk that makes features, and any head on top of it.

`MODELS` is the one table. A row says how the trunk is built and which options the paper gave
each head; head sizes are computed from the trunk's real output, so any large enough image and
any number of classes fit. `create_model` builds from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.nn import make_head


class ImageModel(nn.Module):
    """Trunk and head: images `(B, C, H, W)` to features `(B, F)` to logits `(B, num_classes)`."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(B, num_classes)`."""
        return self.head(self.trunk(images))


@dataclass(frozen=True)
class ModelSpec:
    """One row of `MODELS`.

    Attributes:
        trunk: Builds the trunk from the number of input channels.
        input_shape: The paper's `(C, H, W)`.
        min_size: Smallest image side that leaves at least one feature position.
        heads: The paper's options per head name; other heads get their own defaults.
        summary: One line for people.
    """

    trunk: Callable[[int], nn.Module]
    input_shape: tuple[int, int, int]
    min_size: int
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""


def _mnist_cnn_trunk(in_channels: int) -> nn.Module:
    # Paper: pooling comes before the activation (the two commute for ReLU and max pooling).
    return nn.Sequential(
        nn.Conv2d(in_channels, 10, kernel_size=5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, kernel_size=5),
        nn.Dropout2d(0.5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
    )


def _vgg5_trunk(in_channels: int) -> nn.Module:
    # "VGG-5" is the paper's name; there are ten convolutions in four blocks.
    layers: list[nn.Module] = []
    for widths in ((64, 64), (128, 128), (256, 256, 256), (256, 256, 256)):
        for width in widths:
            conv = nn.Conv2d(in_channels, width, kernel_size=3, padding=1)
            nn.init.normal_(conv.weight, std=(2.0 / (9 * width)) ** 0.5)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten())


MODELS: dict[str, ModelSpec] = {
    "mnist-cnn": ModelSpec(
        trunk=_mnist_cnn_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 8, "num_layers": 6},
            "mlp": {"hidden_features": 50, "output_dropout": 0.5},
        },
        summary="two 5x5 convolutions (paper: MNIST)",
    ),
    "vgg5": ModelSpec(
        trunk=_vgg5_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "norm": "batch", "dropout": 0.5},
            "mlp": {"hidden_features": 512, "norm": "batch", "dropout": 0.5},
        },
        summary="ten 3x3 convolutions in four blocks (paper: MNIST family, state of the art rows)",
    ),
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows."""
    return sorted(MODELS)


def head_options(
    model: str, head: str, num_classes: int, in_features: int, **overrides: Any
) -> dict[str, Any]:
    """Return the options for `head` on `model`: the paper's where it has them, then `overrides`.

    A head the paper never put on this trunk starts from the spinal head's size and flavour (norm,
    dropout, activation), so that a comparison changes the wiring and nothing else. `matched` gets
    the parameter count of the spinal head, or of the head `match` with its `match_options`.
    """
    paper = MODELS[model].heads
    if head in paper:
        return {**paper[head], **overrides}
    spinal = dict(paper["spinal"])
    flavour = {
        key: value
        for key, value in spinal.items()
        if key in ("norm", "dropout", "output_dropout", "activation")
    }
    if head == "matched":
        twin_head = overrides.pop("match", "spinal")
        twin_overrides = overrides.pop("match_options", {})
        if "num_params" not in overrides:
            twin_options = head_options(
                model, twin_head, num_classes, in_features, **twin_overrides
            )
            with torch.device("meta"):
                twin = make_head(twin_head, in_features, num_classes, **twin_options)
            flavour["num_params"] = sum(p.numel() for p in twin.parameters())
        return {**flavour, **overrides}
    if head in ("spinal-shared", "progressive"):
        return {**spinal, **overrides}
    if head == "linear":
        rate = flavour.get("output_dropout", flavour.get("dropout"))
        return {**({} if rate is None else {"dropout": rate}), **overrides}
    return {**flavour, **overrides}


def create_model(
    name: str,
    num_classes: int,
    in_channels: int | None = None,
    input_size: int | None = None,
    head: str = "spinal",
    *,
    seed: int | None = None,
    **options: Any,
) -> ImageModel:
    """Build a network of the paper with the head of your choice.

    Args:
        name: Row of `MODELS` (see `list_models`).
        num_classes: Number of outputs.
        in_channels: Channels of the images; the paper's number if `None`.
        input_size: Side of the (square) images in pixels; the paper's if `None`.
        head: Name of a head (see `spinalnet.nn.HEADS`).
        seed: Initialise from this seed without touching the global generator. The trunk is made
            first and the head from a stream of its own, so models that differ only in the head
            have the same trunk, bit by bit.
        options: Options of the head; they override the paper's.

    Returns:
        The model. Input `(B, in_channels, input_size, input_size)`, output logits
        `(B, num_classes)`.

    Raises:
        InputError: If a name is unknown or the images are too small for the trunk.

    Example:
        >>> model = create_model("mnist-cnn", num_classes=10, head="spinal")
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    spec = MODELS[name]
    check_positive("num_classes", num_classes)
    channels = spec.input_shape[0] if in_channels is None else in_channels
    size = spec.input_shape[1] if input_size is None else input_size
    check_positive("in_channels", channels)
    if size < spec.min_size:
        raise InputError(
            f"model '{name}' needs images of at least {spec.min_size} x {spec.min_size} pixels, "
            f"got {size} x {size}. Enlarge them with image_size={spec.input_shape[1]}."
        )
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        trunk = spec.trunk(channels)
        trunk.eval()
        with torch.no_grad():
            in_features = trunk(torch.zeros(1, channels, size, size)).shape[1]
        trunk.train()
        if seed is not None:
            torch.manual_seed(seed + 1_000_003)
        chosen = head_options(name, head, num_classes, in_features, **options)
        return ImageModel(trunk, make_head(head, in_features, num_classes, **chosen))

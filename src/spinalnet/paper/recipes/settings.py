"""Training settings and sizes of heads that rows of several files share.

The original trains in single precision, without weight decay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.training import TrainConfig

PLAIN = TrainConfig(schedule="constant", amp="off")
MNIST_SGD = replace(PLAIN, optimizer="sgd", lr=0.01, momentum=0.5, batch_size=64, epochs=8)
ADAM = replace(PLAIN, optimizer="adam", lr=1e-3, batch_size=100)
# The rate is redrawn after an epoch without improvement.
REDRAW = replace(PLAIN, optimizer="adam", schedule="redraw")
# SGD with a tenth of the rate every 7 epochs, anew in every phase.
STEPS = TrainConfig(
    optimizer="sgd", momentum=0.9, schedule="step", step_size=7, gamma=0.1, amp="off"
)
WARPS = "perspective+rotation:10"

# Parts of the redistributions that the original trained on: Caltech-101 with train, eval and test;
# Flowers with train and valid (a third part of 819 is not used there).
CALTECH_PARTS = (6_162, 820, 1_695)
FLOWER_PARTS = (6_552, 818)


def fine_tuned(
    batch: int, augment: str, side: int, *phases: tuple[float, int], **own: Any
) -> dict[str, Any]:
    """Return the fields of a row that fine-tunes published weights on images of this side."""
    train = replace(STEPS, batch_size=batch, augment=augment, phases=phases)
    return {"train": train, "image_size": side, "pretrained": True, "constants": "cifar100"} | own


def wide(*settings: Any, **own: Any) -> dict[str, Any]:
    """Return the same for a WideResNet whose spinal head is compared with a linear one."""
    heads = {"heads": ("spinal", "linear"), "original_heads": ("spinal",)}
    return fine_tuned(*settings, **{"model": "wide_resnet101_2"} | heads | own)


def standard(large: int, small: int, test: str | None = None) -> tuple[str, str]:
    """Return the pictures of most scripts: stretched to `large`, rotated, cut to `small`, flipped.

    Args:
        large: Side that they are stretched to.
        small: Side of the windows.
        test: Transforms of validation and test; stretched to `small` without them.
    """
    train = f"resize:{large},{large}+rotation:15+crop:{small}+flip"
    return train, test or f"resize:{small},{small}"


def cut(large: int, small: int) -> str:
    """Return the augmentation nearest to `standard` for images that were loaded at `small`."""
    return f"rotation:15+zoom-crop:{large},{small}+flip"


def bare(width: int) -> dict[str, Any]:
    """Return the options of a spinal head of four layers and nothing else."""
    return {"hidden_features": width, "num_layers": 4, "norm": None, "dropout": 0.0}


def dropout_norm(width: int) -> dict[str, Any]:
    """Return the options of the same with dropout and batch norm in every layer."""
    return {"hidden_features": width, "num_layers": 4, "norm": "batch", "dropout": 0.5}


_MNIST_WARPS = "rotation:10+zoom-crop:120,112+perspective"
VGG_ON_MNIST = fine_tuned(
    *(128, _MNIST_WARPS, 112, (0.01, 10), (0.001, 10)),
    data="mnist",
    model="vgg19_bn",
    original_heads=("spinal",),
    options={"spinal": dropout_norm(1024)},
    in_channels=3,
    constants="mnist",
    pictures=("resize:120+rotation:10+crop:112+perspective", "resize:112"),
)
"""Fields of the two rows that fine-tune VGG-19 on MNIST."""

"""Recipes of our own, beside the original's: what its best numbers are held against.

A small modern network and what is usual to train one with, where the original took VGG-5 and Arch2
for 200 epochs and more. Nothing of it was tuned: the rate lies between 1e-3 and 1e-2, as is usual
for AdamW in one cycle, and the rest are the values that others print.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spinalnet.paper.recipes.row import BEST_VALIDATION, Recipe
from spinalnet.training import TrainConfig

_ONE_CYCLE = TrainConfig(
    batch_size=128,
    optimizer="adamw",
    lr=5e-3,
    schedule="one-cycle",
    weight_decay=0.05,
    decay_norms=False,
    label_smoothing=0.1,
    ema_decay=0.995,  # half an epoch of the MNIST family
    amp="bf16",
)


def _resnet9(data: str, *, epochs: int, augment: str, **own: Any) -> Recipe:
    return Recipe(
        name=f"{data}-resnet9",
        data=data,
        model="resnet9",
        train=replace(_ONE_CYCLE, epochs=epochs, augment=augment),
        selection=BEST_VALIDATION,
        heads=("spinal", "linear"),
        **own,
    )


ROWS = (
    _resnet9("mnist", epochs=35, augment="rotation:10+crop:2"),
    _resnet9(
        "fashion-mnist",
        epochs=60,
        augment="crop:2+flip+erasing",
        notes=(
            "studies/accuracy.py answers for an image with the mean over it and its mirror image, "
            "as 'spinalnet evaluate RUN --tta flip' does; here it is the image alone.",
        ),
    ),
)

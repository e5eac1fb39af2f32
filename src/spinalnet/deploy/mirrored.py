"""An image and its mirror image: one answer out of two, where a picture means the same either way.

For photographs of things it often helps a little and costs a second forward pass. A digit, a
letter or a sign that is mirrored is another one, or none.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, unknown_name
from spinalnet.comparison import TrainedModel

Tta = Literal["none", "flip"]
TTA: tuple[Tta, ...] = ("none", "flip")
"""What may be averaged over at test time."""


class MirrorAveraged(nn.Module):
    """A model that answers for an image with the mean of its answers for it and its mirror image.

    Args:
        model: Gives logits of classes, or values.
        classes: Whether they are logits: then probabilities are averaged, and their logarithms
            returned, whose softmax they are. Values are averaged as they are.

    Shape:
        images `(B, C, H, W)`, output `(B, K)`.
    """

    def __init__(self, model: nn.Module, *, classes: bool) -> None:
        super().__init__()
        self.model = model
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean answer."""
        answers = torch.stack([self.model(images), self.model(images.flip(-1))]).float()
        if not self.classes:
            return answers.mean(0)
        return answers.log_softmax(-1).logsumexp(0) - math.log(2)


def with_tta(trained: TrainedModel, tta: str) -> tuple[nn.Module, str | None]:
    """Return what answers in place of a model at test time, and what the user should know.

    Args:
        trained: A model of images.
        tta: A row of `TTA`: "none" for the model itself, "flip" for the mean over an image and its
            mirror image.

    Raises:
        InputError: If there is no such averaging, or the model is not one of images.
    """
    if tta not in TTA:
        raise unknown_name("averaging at test time (tta)", tta, TTA)
    if tta == "none":
        return trained.model, None
    if len(trained.info.input_shape) != 3:
        raise InputError(f"tta={tta} mirrors images, and this model takes rows: leave it out.")
    note = None
    if "flip" not in trained.spec.train.augment:
        note = (
            "tta=flip averages over every image and its mirror image, which this model was not "
            "trained on (augment=flip): it suits photographs, not digits, letters or signs."
        )
    return MirrorAveraged(trained.model, classes=trained.info.task == "classification"), note

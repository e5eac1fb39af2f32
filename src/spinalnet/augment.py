"""Batched, per-sample random image transforms on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spinalnet._checks import unknown_name

Transform = Callable[[Tensor, torch.Generator], Tensor]

AUGMENTATIONS: dict[str, Callable[..., Transform]] = {}


def build_augment(spec: str) -> Transform | None:
    """Return the transform a spec such as `"crop:4+flip"` stands for, `None` for `"none"`."""
    if spec == "none":
        return None
    raise unknown_name("augmentation", spec, ["none", *AUGMENTATIONS])

"""What is asked of a network: `ModelSpec`, the third of a run that visits this wing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from spinalnet._checks import unknown_name
from spinalnet.nn.heads import HEADS


@dataclass(frozen=True)
class ModelSpec:
    """Which network, with which head.

    Attributes:
        name: Row of `models.MODELS`, or full name of a backbone (`timm:NAME`, ...).
        head: Row of `nn.HEADS`.
        head_options: Options of the head that override the paper's.
        neck: How the trunk's last map becomes features, where the model has a choice.
        pretrained: Start the trunk from published weights, or from those in the file of this path.
        freeze: Train the head only, on features that the trunk makes once (see `features`).

    Raises:
        InputError: If there is no such head.
    """

    name: str = "mnist-cnn"
    head: str = "spinal"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    neck: str | None = None
    pretrained: bool | str = False
    freeze: bool = False

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise unknown_name("head", self.head, HEADS)

    def control(self) -> ModelSpec:
        """Return the same network with an MLP of the size of this head: "matched"."""
        twin = {"match": self.head, "match_options": dict(self.head_options)}
        return replace(self, head="matched", head_options=twin)

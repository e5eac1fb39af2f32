"""What the estimators' constructors take: how a net is trained, and which net it is.

Mixins of fields, so that every option has its default in one place; `dataclass` writes the
constructors from them, which is where scikit-learn looks for the parameters of an estimator.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import torch
from torch import nn

from spinalnet._checks import InputError, unknown_name
from spinalnet.nn import MLPHead, SpinalNet, make_head
from spinalnet.nn.activations import Activation
from spinalnet.training import SCHEDULES, TrainConfig


@dataclass(eq=False, repr=False, kw_only=True)
class TrainingOptions:
    """The options of training, under the names that scikit-learn's own networks use."""

    epochs: int = 100
    batch_size: int = 64
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    clip_norm: float = 0.0
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 20
    random_state: Any = None
    device: str = "cpu"

    def train_config(self, seed: int, **changes: Any) -> TrainConfig:
        """Return the options as settings of the loop, which name the patience `early_stopping`.

        Raises:
            InputError: If a value is impossible; the sentence names it.
        """
        for name in ("epochs", "batch_size", "n_iter_no_change"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Integral) or value < 1:
                raise InputError(f"{name} must be an integer >= 1, got {value!r}.")
        if not 0.0 < self.validation_fraction < 1.0:
            raise InputError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}."
            )
        settings: dict[str, Any] = {
            "epochs": int(self.epochs),
            "batch_size": int(self.batch_size),
            "early_stopping": int(self.n_iter_no_change) if self.early_stopping else 0,
        }
        for name in ("optimizer", "lr", "weight_decay", "schedule", "clip_norm"):
            settings[name] = getattr(self, name)
        config = TrainConfig(seed=seed, **settings | changes)
        if SCHEDULES[config.schedule].after is not None:
            raise InputError(
                f"schedule '{config.schedule}' follows the validation score of fit; use one "
                f"of {', '.join(name for name, row in SCHEDULES.items() if row.after is None)}."
            )
        return config


@dataclass(eq=False, repr=False)
class NetOptions:
    """The options that both kinds of net have."""

    _: KW_ONLY
    activation: Activation = "relu"
    norm: str | None = None
    dropout: float = 0.0

    def make_net(self, in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
        """Return the net with random weights."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class SpinalOptions(NetOptions):
    """A spinal net; `num_splits` is at most the number of inputs."""

    hidden_features: int = 16
    num_layers: int = 4
    _: KW_ONLY
    num_splits: int = 2
    share_weights: bool = False

    def make_net(self, in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
        """Return the net with random weights."""
        options = {field.name: getattr(self, field.name) for field in fields(SpinalOptions)}
        options["num_splits"] = min(self.num_splits, in_features)
        return SpinalNet(in_features, out_features, dtype=dtype, **options)


CONTROLS = ("unchained", "unchained-matched", "matched")


@dataclass(eq=False, repr=False)
class ControlOptions(SpinalOptions):
    """What a spinal net is compared with: the other options are those of that spinal net.

    `control` is "unchained" (its slices, widths and output row without the chain),
    "unchained-matched" (the same with as many parameters) or "matched" (one fully connected hidden
    layer, as many parameters).
    """

    _: KW_ONLY
    control: str = "unchained"

    def make_net(self, in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
        """Return the net with random weights."""
        if self.control not in CONTROLS:
            raise unknown_name("control", str(self.control), CONTROLS)
        options: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(NetOptions)
        }
        chain = {"num_layers": self.num_layers, "num_splits": min(self.num_splits, in_features)}
        if self.control == "unchained":
            options |= chain | {"hidden_features": self.hidden_features}
        else:
            with torch.device("meta"):
                twin = super().make_net(in_features, out_features, dtype)
            options["num_params"] = sum(parameter.numel() for parameter in twin.parameters())
            if self.control == "unchained-matched":
                options |= chain
        return make_head(self.control, in_features, out_features, dtype=dtype, **options)


@dataclass(eq=False, repr=False)
class DenseOptions(NetOptions):
    """A fully connected net; `hidden_features` is one width, or one for each hidden layer."""

    hidden_features: int | Sequence[int] = 64

    def make_net(self, in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
        """Return the net with random weights."""
        options = {field.name: getattr(self, field.name) for field in fields(DenseOptions)}
        return MLPHead(in_features, out_features, dtype=dtype, **options)

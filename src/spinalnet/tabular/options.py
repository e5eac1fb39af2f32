"""What the estimators' constructors take: how a net is trained, and which net it is.

Mixins of fields, so that every option has its default in one place; `dataclass` writes the
constructors from them, which is where scikit-learn looks for the parameters of an estimator.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import torch
from torch import nn

from spinalnet._checks import InputError
from spinalnet.nn import MLPHead, SpinalNet, UnchainedNet, matched_mlp, matched_unchained
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


@dataclass(eq=False, repr=False)
class UnchainedOptions(NetOptions):
    """A spinal net without its chain; with `match` of the width that has as many parameters.

    `match` holds the options of the spinal net whose number of parameters it shall have.
    """

    hidden_features: int = 16
    num_layers: int = 4
    _: KW_ONLY
    num_splits: int = 2
    match: Mapping[str, Any] | None = None

    def make_net(self, in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
        """Return the net with random weights."""
        options: dict[str, Any] = {name: getattr(self, name) for name in _FLAVOUR}
        options |= {"num_splits": min(self.num_splits, in_features), "dtype": dtype}
        if self.match is None:
            width = self.hidden_features
            return UnchainedNet(in_features, out_features, width, self.num_layers, **options)
        size = spinal_size(in_features, out_features, self.match)
        return matched_unchained(in_features, out_features, size, self.num_layers, **options)


@dataclass(eq=False, repr=False)
class DenseOptions(NetOptions):
    """A fully connected net; `hidden_features` is one width, or one for each hidden layer.

    With `match`, the options of a spinal net, it has one hidden layer and as many parameters.
    """

    hidden_features: int | Sequence[int] = 64
    _: KW_ONLY
    match: Mapping[str, Any] | None = None

    def make_net(self, in_features: int, out_features: int, dtype: torch.dtype) -> nn.Module:
        """Return the net with random weights."""
        options: dict[str, Any] = {name: getattr(self, name) for name in _FLAVOUR}
        if self.match is None:
            return MLPHead(in_features, out_features, self.hidden_features, dtype=dtype, **options)
        size = spinal_size(in_features, out_features, self.match)
        return matched_mlp(in_features, out_features, size, dtype=dtype, **options)


_FLAVOUR = ("activation", "norm", "dropout")


def spinal_size(in_features: int, out_features: int, options: Mapping[str, Any]) -> int:
    """Return the number of parameters of the net of `SpinalOptions` with these options."""
    with torch.device("meta"):
        net = SpinalOptions(**options).make_net(in_features, out_features, torch.float32)
    return sum(parameter.numel() for parameter in net.parameters())

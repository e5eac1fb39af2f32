"""What the estimators' constructors take: how a net is trained, and which net it is.

Mixins of fields, so that every option has its default in one place; `dataclass` writes the
constructors from them, which is where scikit-learn looks for the parameters of an estimator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.nn import MLPHead, SpinalNet, make_head
from spinalnet.nn.activations import Activation
from spinalnet.tabular.embedding import parse_embedding
from spinalnet.training import SCHEDULES, TrainConfig


def _plain(value: Any) -> Any:
    """Return numbers of NumPy as Python's, which they are as good as; sequences too."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


HELD_OUT_FROM = 50
"""Rows from which on "auto" holds some out: what fewer say of an epoch would be chance."""

LARGE = 5000
"""Rows from which on a table has epochs of many steps."""


def by_size(rows: int) -> dict[str, int]:
    """Return what is not given of epochs, batch_size and n_iter_no_change, by the number of rows.

    `benchmarks/table_defaults.py` chose what stands here for tables of up to some thousand rows.
    Larger ones have larger batches and less patience, so that they are done in seconds.
    """
    if rows < LARGE:
        return {"epochs": 100, "batch_size": 64, "n_iter_no_change": 20}
    return {"epochs": 100, "batch_size": 256, "n_iter_no_change": 10}


@dataclass(eq=False, repr=False, kw_only=True)
class TrainingOptions:
    """The options of training, under the names that scikit-learn's own networks use."""

    ensemble_size: int = 8
    embedding: str | None = "quantile+piecewise"
    num_bins: int = 16
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str = "adamw"
    lr: float = 3e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    clip_norm: float = 0.0
    early_stopping: bool | str = "auto"
    validation_fraction: float = 0.1
    n_iter_no_change: int | None = None
    random_state: Any = None
    device: str = "cpu"

    def count_members(self) -> int:
        """Return how many nets are averaged.

        Raises:
            InputError: If that is not a number of nets.
        """
        return check_positive("ensemble_size", _plain(self.ensemble_size))

    def holds_out(self, rows: int) -> bool:
        """Return whether rows are held out for early stopping."""
        if self.early_stopping == "auto":
            return rows >= HELD_OUT_FROM
        return bool(self.early_stopping)

    def train_config(self, seed: int, rows: int = 1000, **changes: Any) -> TrainConfig:
        """Return the options as settings of the loop, which name the patience `early_stopping`.

        Args:
            seed: Of the order of the rows.
            rows: Number of rows, which decides what is not given.
            **changes: What is different from the options.

        Raises:
            InputError: If a value is impossible; the sentence names it.
        """
        self.count_members()
        check_positive("num_bins", _plain(self.num_bins))
        parse_embedding(self.embedding)
        chosen = by_size(rows)
        for name in chosen:
            value = _plain(getattr(self, name))
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be an integer >= 1, got {value!r}.")
            chosen[name] = value
        if not isinstance(self.early_stopping, bool | np.bool_) and self.early_stopping != "auto":
            raise InputError(
                f"early_stopping must be True, False or 'auto', got {self.early_stopping!r}."
            )
        if not 0.0 < self.validation_fraction < 1.0:
            raise InputError(
                f"validation_fraction must be in (0, 1), got {self.validation_fraction!r}."
            )
        patience = chosen.pop("n_iter_no_change")
        settings: dict[str, Any] = {
            **chosen,
            "early_stopping": patience if self.holds_out(rows) else 0,
        }
        for name in ("optimizer", "lr", "weight_decay", "schedule", "clip_norm"):
            settings[name] = _plain(getattr(self, name))
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


def _at_most(num_splits: Any, in_features: int) -> Any:
    """Return the number of slices; what is no number is refused by the net."""
    return min(num_splits, in_features) if isinstance(num_splits, int) else num_splits


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
        options = {field.name: _plain(getattr(self, field.name)) for field in fields(SpinalOptions)}
        options["num_splits"] = _at_most(options["num_splits"], in_features)
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
            field.name: _plain(getattr(self, field.name)) for field in fields(NetOptions)
        }
        num_splits = _at_most(_plain(self.num_splits), in_features)
        chain = {"num_layers": _plain(self.num_layers), "num_splits": num_splits}
        if self.control == "unchained":
            options |= chain | {"hidden_features": _plain(self.hidden_features)}
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
        options = {field.name: _plain(getattr(self, field.name)) for field in fields(DenseOptions)}
        return MLPHead(in_features, out_features, dtype=dtype, **options)

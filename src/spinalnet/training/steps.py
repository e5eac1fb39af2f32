"""Compiled training steps of one net: its parameters as one vector, its rows, its optimizer.

What of `TrainConfig` they serve is said here. Which nets they serve is said by whoever knows nets
and hands over a `ChainForm`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels import trainer
from spinalnet.training.learning import StepsTaken

if TYPE_CHECKING:
    from spinalnet.training.config import TrainConfig
    from spinalnet.training.placement import Task

# What a net is trained with beyond this has no compiled steps.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "label_smoothing": (0.0,),
    "class_weights": ("none",),
    "ema_decay": (0.0,),
    "mix": ("none",),
    "on_nonfinite": ("stop",),
    "amp": ("auto", "off"),
    "device": ("auto", "cpu"),
}


def why_not(config: TrainConfig, x: Tensor) -> str | None:
    """Return why there are no compiled steps for such settings and rows; None if there are."""
    if (reason := trainer.why_not(x)) is not None:
        return reason
    if config.uses_depth:
        return "its parts are to learn at different rates or times"
    for name, served in _PLAIN.items():
        if (value := getattr(config, name)) not in served:
            return f"there is no compiled step with {name}={value}"
    return None


class VectorSteps:
    """Steps of one net on rows that stay in memory.

    Args:
        form: The net.
        parameters: Those of the net, in the order of `form`; they become pieces of one vector.
        config: How to train.
    """

    def __init__(
        self, form: trainer.ChainForm, parameters: Sequence[Tensor], config: TrainConfig
    ) -> None:
        self.form, self.config = form, config
        self.vector = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.vector)
        self.parts = [parameter.numel() for parameter in parameters]
        for parameter, values in zip(parameters, self.vector.split(self.parts), strict=True):
            parameter.data = values.view_as(parameter)
            parameter.grad = None
        self.rule = trainer.UpdateRule(
            config.optimizer,
            config.weight_decay,
            config.decay_norms,
            config.momentum,
            clip_norm=config.clip_norm,
        )

    def use_rows(self, x: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        """Take the following steps on these rows; see `check_rows`."""
        rows = check_rows(self.form, x, targets, weights)
        self._trainer = trainer.Trainer(self.form, rows, self.rule, self.vector, self.gradient)

    def begin_epoch(self, order: Tensor, batches: Sequence[slice], seed: int) -> None:
        """Take up what an epoch draws.

        Args:
            order: All rows in the order of the epoch.
            batches: Of every step the stretch of `order`, one behind the other.
            seed: Of the dropout masks.
        """
        self._order, self._seed = order.contiguous(), seed
        self._sizes = [part.stop - part.start for part in batches]
        self._starts = [0, *itertools.accumulate(self._sizes)]

    def take(
        self, first: int, rates: Sequence[float], before: int, memory: tuple[Tensor, Tensor | None]
    ) -> StepsTaken:
        """Make steps of the epoch from `first` on.

        Args:
            first: From 0.
            rates: Of each step.
            before: Steps that filled `memory`.
            memory: Of the optimizer, see `Trainer.steps`.
        """
        stop = first + len(rates)
        losses, correct = self._trainer.steps(
            self._order[self._starts[first] : self._starts[stop]],
            self._sizes[first:stop],
            rates,
            memory=memory,
            before=before,
            first=first,
            seed=self._seed,
            threads=torch.get_num_threads(),
        )
        return StepsTaken(losses, self._sizes[first : first + len(losses)], correct)


def check_rows(
    form: trainer.ChainForm, x: Tensor, targets: Tensor, weights: Tensor | None
) -> trainer.TrainingRows:
    """Return rows as the extension reads them, which trusts what it is given.

    Args:
        form: The net.
        x: Inputs `(N, D)`.
        targets: Classes `(N,)`, or values `(N, K)`.
        weights: Weights of the rows `(N,)`, or `None`.

    Raises:
        InputError: If they fit neither the net nor each other.
    """
    outputs = form.outputs or form.width
    task: Task = "regression" if targets.is_floating_point() else "classification"
    if x.dim() != 2 or x.shape[1] != form.features or not len(x):
        raise InputError(
            f"the rows must be (N, {form.features}) with N > 0, got {tuple(x.shape)}; give the "
            "features that the net was made for."
        )
    shape = (len(x),) if task == "classification" else (len(x), outputs)
    if targets.shape != shape:
        raise InputError(
            f"the targets of a {task} must be {shape}, got {tuple(targets.shape)}; give one "
            "class, or one value of every output, for each row."
        )
    if task == "classification":
        low, high = (int(number) for number in targets.aminmax())
        if low < 0 or high >= outputs:
            raise InputError(
                f"the targets must be classes from 0 to {outputs - 1}, got {low} to {high}; give "
                "the net as many outputs as there are classes."
            )
    if weights is not None and weights.shape != (len(x),):
        raise InputError(
            f"the weights must be one for each of {len(x)} rows, got {tuple(weights.shape)}."
        )
    return trainer.TrainingRows(
        x if x.stride(1) == 1 else x.contiguous(),
        targets.long().contiguous() if task == "classification" else targets.to(x).contiguous(),
        None if weights is None else weights.to(x).contiguous(),
    )

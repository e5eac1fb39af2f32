"""Whole training steps of a small net in one call of the extension.

A step of such a net is mostly not its multiplications: Python, autograd and an optimizer that
visits tensor by tensor take longer. The extension gathers a batch, goes forward and backward and
moves the weights, for as many steps as it is told, touching nothing but what belongs to this net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spinalnet.kernels.native import DTYPES, UNAVAILABLE, extension


class Places(NamedTuple):
    """Where a linear map lies in the vector of all parameters, in numbers from its start."""

    weight: int
    bias: int  # -1: none
    stride: int  # from one row of the matrix to the next
    columns: int


@dataclass(frozen=True)
class ChainForm:
    """A net as the extension trains it: layers of equal width that see slices, and an output row.

    Without an output row its one layer is the result, and the slope is 1: a linear map.
    """

    features: int
    width: int
    splits: int
    outputs: int  # columns of the output row; 0: none
    unchained: bool  # no layer sees the one before it
    slope: float
    layers: tuple[Places, ...]
    output: Places | None
    dropout: float
    output_dropout: float
    spared: tuple[tuple[int, int], ...]  # biases in the vector: (start, numbers)


@dataclass(frozen=True)
class UpdateRule:
    """How weights move: the numbers of `torch.optim`."""

    name: str  # "adamw", "adam" or "sgd"
    weight_decay: float = 0.0
    decays_biases: bool = True
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    clip_norm: float = 0.0


class TrainingRows(NamedTuple):
    """All rows of which batches are made: inputs, classes or values, weights of the rows."""

    x: Tensor  # (N, D), rows contiguous
    targets: Tensor  # (N,) int64, or (N, K) of the type of x
    weights: Tensor | None  # (N,) of the type of x


_RULES = ("adamw", "adam", "sgd")


def why_not(x: Tensor) -> str | None:
    """Return why nets of such inputs are not trained here; None if they are."""
    if extension is None:
        return UNAVAILABLE
    if x.device.type != "cpu":
        return f"the data is on {x.device}, the compiled steps run on the CPU"
    if x.dtype not in DTYPES:
        return f"the compiled steps compute in float32 and float64, not in {x.dtype}"
    return None


class Trainer:
    """Makes training steps of one net.

    Args:
        form: The net.
        rows: All rows.
        rule: How weights move.
        vector: All parameters, contiguous; written by `steps`.
        gradient: A vector as long; holds the gradient of the last step.
    """

    def __init__(
        self,
        form: ChainForm,
        rows: TrainingRows,
        rule: UpdateRule,
        vector: Tensor,
        gradient: Tensor,
    ) -> None:
        x, targets, weights = rows
        self._held = rows, vector, gradient  # the extension is given addresses
        self._double = x.dtype is torch.float64
        none = Places(-1, -1, 0, 0)
        output = form.output or none
        self._net = (
            *(form.features, form.width, len(form.layers), form.splits, form.outputs),
            *(int(form.unchained), form.slope, output.weight, output.bias, output.stride),
            *(1.0 - form.dropout, 1.0 - form.output_dropout),
        )
        self._layers = tuple(number for layer in form.layers for number in layer)
        by_class = not targets.is_floating_point()
        self._data = (
            *(x.data_ptr(), x.stride(0)),
            *(targets.data_ptr() if by_class else 0, 0 if by_class else targets.data_ptr()),
            0 if weights is None else weights.data_ptr(),
        )
        self._vectors = vector.numel(), vector.data_ptr(), gradient.data_ptr()
        self._stretches = _stretches(form, rule, vector.numel())
        self._rule = rule

    def steps(
        self,
        order: Tensor,
        sizes: Sequence[int],
        rates: Sequence[float],
        *,
        memory: tuple[Tensor, Tensor | None],
        before: int,
        first: int,
        seed: int,
        threads: int = 1,
    ) -> tuple[list[float], int]:
        """Make a step for each of `sizes`; stop before one whose loss is not finite.

        Args:
            order: Which rows, for one step behind the other, int64, contiguous.
            sizes: Rows of each step.
            rates: Learning rate of each step.
            memory: Of the optimizer: running mean of the gradient (or velocity) and, not of sgd,
                of its square; written.
            before: Steps that filled `memory`.
            first: Steps of the epoch before these; masks depend on it and on `seed`.
            seed: Of the dropout masks.
            threads: How many may be used; the result has the same bits for any number.

        Returns:
            The mean loss of every step, before it; and how many rows were answered right. If the
            last loss is not finite, the weights are those before its step.
        """
        rule = self._rule
        schedule = torch.tensor(rates, dtype=torch.float64)
        losses = torch.empty(len(rates), dtype=torch.float64)
        mean, square = memory
        made, correct = extension.train(
            self._double,
            self._net,
            self._layers,
            (*self._data, order.data_ptr()),
            tuple(sizes),
            (*self._vectors, mean.data_ptr(), 0 if square is None else square.data_ptr()),
            self._stretches,
            (
                *(_RULES.index(rule.name), schedule.data_ptr(), losses.data_ptr()),
                *(rule.weight_decay, *rule.betas, rule.epsilon, rule.momentum, rule.clip_norm),
                *(before, seed, first, threads),
            ),
        )
        return losses[: made + 1].tolist(), correct


def _stretches(form: ChainForm, rule: UpdateRule, count: int) -> tuple[int, ...]:
    """Return (start, numbers, whether it decays) of neighbouring parameters, all in one tuple."""
    spared = [] if rule.decays_biases or not rule.weight_decay else sorted(form.spared)
    found: list[int] = []
    start = 0
    for begin, numbers in [*spared, (count, 0)]:
        if begin > start:
            found += start, begin - start, 1
        if numbers:
            found += begin, numbers, 0
        start = begin + numbers
    return tuple(found)

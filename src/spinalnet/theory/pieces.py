"""Where each activation is affine, how steep it is, and where it turns: what a conversion needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.nn import backends


@dataclass(frozen=True)
class Piece:
    """Where an activation is affine, and what its error analysis needs.

    Attributes:
        kind: "line": everywhere; "ray": for z >= 0 (`ray_start` says how far out); "point": near 0.
        slope: Slope of the affine piece.
        steepest: Largest absolute slope anywhere.
        smooth: Whether a ray is affine only in the limit.
        third: For a point: largest absolute third derivative.
        turning: Arguments at which the activation has a minimum or a kink.
        jump: (Where, how high) what is computed jumps; a softplus passes to its line by a jump.
    """

    kind: Literal["line", "ray", "point"]
    slope: Callable[[Any], float] = lambda act: 1.0
    steepest: Callable[[Any], float] = lambda act: 1.0
    smooth: bool = False
    third: float = 0.0
    turning: tuple[float, ...] = (0.0,)
    jump: Callable[[Any], tuple[float, float]] = lambda act: (0.0, 0.0)


_SELU_SCALE = 1.0507009873554805
_SELU_STEEPEST = 1.7580993408473766  # scale * alpha, the slope just below zero


def _softplus_jump(act: nn.Softplus) -> tuple[float, float]:
    return act.threshold / act.beta, math.log1p(math.exp(-act.threshold)) / act.beta


PIECES: dict[type[nn.Module], Piece] = {
    nn.Identity: Piece("line"),
    nn.ReLU: Piece("ray"),
    nn.LeakyReLU: Piece("ray", steepest=lambda act: max(1.0, abs(act.negative_slope))),
    nn.PReLU: Piece("ray", steepest=lambda act: max(1.0, float(act.weight.abs().max()))),
    nn.ELU: Piece("ray", steepest=lambda act: max(1.0, abs(act.alpha))),
    nn.SELU: Piece("ray", lambda act: _SELU_SCALE, lambda act: _SELU_STEEPEST),
    nn.Softplus: Piece("ray", smooth=True, jump=_softplus_jump),
    nn.GELU: Piece("ray", steepest=lambda act: 1.13, smooth=True, turning=(-0.7518,)),
    nn.SiLU: Piece("ray", steepest=lambda act: 1.1, smooth=True, turning=(-1.2785,)),
    nn.Mish: Piece("ray", steepest=lambda act: 1.09, smooth=True, turning=(-1.1924,)),
    nn.Sigmoid: Piece("point", lambda act: 0.25, lambda act: 0.25, third=0.125),
    nn.Tanh: Piece("point", third=2.0),
}


_KNOWN = ", ".join(kind.__name__ for kind in PIECES)


def piece_of(activation: nn.Module) -> Piece:
    """Return the row of an activation.

    Raises:
        InputError: If it is none of `PIECES`, has hooks, or options for which its row is not true.
    """
    name = type(activation).__name__
    if type(activation) not in PIECES:
        raise InputError(
            f"the activation must have a known affine piece, got {name}: use one of {_KNOWN}."
        )
    if backends.hooked(activation):
        raise InputError(
            f"the activation {name} has hooks, or another forward than its class: remove them."
        )
    if isinstance(activation, nn.PReLU) and activation.num_parameters > 1:
        raise InputError("a PReLU with one slope per neuron cannot be shared by the layers.")
    if isinstance(activation, nn.Softplus) and not (
        activation.beta >= 0.01 and 0 <= activation.threshold <= 100
    ):
        raise InputError(
            "a Softplus must have beta >= 0.01 and a threshold from 0 to 100, got "
            f"{activation.beta:g} and {activation.threshold:g}."
        )
    piece = PIECES[type(activation)]
    if not math.isfinite(piece.steepest(activation)):
        raise InputError(f"the slope of the {name} must be finite, got {activation}.")
    return piece


def ray_start(piece: Piece, activation: nn.Module, unit: float) -> tuple[float, float]:
    """Return (where the ray starts, how far the activation is from it there and beyond)."""
    if piece.kind != "ray" or not piece.smooth:
        return 0.0, 0.0
    exact = copy.deepcopy(activation).double()
    start = 2.0  # from here on all smooth rows approach their line monotonically
    while True:
        deviation = abs(float(exact(torch.tensor(start, dtype=torch.float64))) - start)
        if deviation <= unit:
            return start, deviation
        start += 1.0


def interval(
    activation: nn.Module, piece: Piece, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the range of the activation over [low, high], elementwise."""
    with torch.no_grad():
        at = copy.deepcopy(activation).to(low)
        points = [low, high, *(low.clamp_min(turn).minimum(high) for turn in piece.turning)]
        values = torch.stack([at(point.clone()) for point in points])
    slack = 1e-6 if piece.smooth else 0.0  # turning points are given to four digits
    slack += piece.jump(activation)[1]
    return values.amin(0) - slack, values.amax(0) + slack


def jumps(piece: Piece, activation: nn.Module, low: Tensor, high: Tensor) -> Tensor:
    """Return how far the activation may jump between two arguments in [low, high], elementwise."""
    where, height = piece.jump(activation)
    return torch.where((low <= where) & (where <= high), height, 0.0).to(low)

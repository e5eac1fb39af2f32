"""What is known of values as the layers of a conversion hand them on: ranges and errors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spinalnet.theory.pieces import Piece


@dataclass(frozen=True)
class Arithmetic:
    """How numbers of a type are rounded.

    Attributes:
        unit: Largest relative error of one operation.
        tiny: Smallest number with that error; what is smaller may be taken for 0.
        largest: Largest number.
    """

    unit: float
    tiny: float
    largest: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Arithmetic:
        """Return that of a type of numbers."""
        info = torch.finfo(dtype)
        return cls(info.eps / 2, info.tiny, info.max)

    def rounding(self, terms: int) -> float:
        """Relative error of a sum of so many products, computed in any order (Higham's gamma)."""
        return (terms + 3) * self.unit / (1 - (terms + 3) * self.unit)

    def flushed(self, terms: int, reach: Tensor) -> float:
        """Absolute error of such a sum from weights and products too small to be represented."""
        return self.tiny * (terms + float(reach.sum()))


@dataclass(frozen=True)
class Values:
    """What is known about the inputs of a layer: of the wanted ones, and where they stand.

    `low`, `high`, `error` `(n,)`: range of the exact values and how far the computed ones may be
    off. `columns` `(n,)`: their places among the `width` inputs; the others (adders) get weight 0.
    """

    low: Tensor
    high: Tensor
    error: Tensor
    columns: Tensor
    width: int

    @property
    def reach(self) -> Tensor:
        """Largest absolute computed value."""
        return torch.maximum(self.low.abs(), self.high.abs()) + self.error


@dataclass(frozen=True)
class Carry:
    """The partial sums of all target neurons as some layer hands them on, `(n,)` each.

    The partial sum is `back * h + offset` of that layer's output `h`; its range is `low` to `high`,
    `error` how far off it may be, `size` the largest sum of absolute terms so far. `gain` and
    `shift` made the pre-activation `gain * sum + shift`, a sum of `terms` products, of which
    `flushed` may be too small to be represented.
    """

    low: Tensor
    high: Tensor
    error: Tensor
    size: Tensor
    gain: Tensor
    shift: Tensor
    back: Tensor
    offset: Tensor
    terms: int
    flushed: float

    @classmethod
    def start(cls, weight: Tensor) -> Carry:
        """Return the sums before the first slice, for target neurons of these weights."""
        zero, one = weight.new_zeros(len(weight)), weight.new_ones(len(weight))
        return cls(zero, zero, zero, zero, one, zero, zero, zero, 0, 0.0)

    def add(
        self,
        weight: Tensor,
        low: Tensor,
        high: Tensor,
        error: Tensor,
        width: int,
        numbers: Arithmetic,
    ) -> Carry:
        """Add a slice with these weights `(n, s)` and ranges of its inputs `(s,)`."""
        at_low, at_high = weight * low, weight * high
        reach = torch.maximum(low.abs(), high.abs()) + error
        terms = len(low) + width + 1
        return replace(
            self,
            low=self.low + torch.minimum(at_low, at_high).sum(1),
            high=self.high + torch.maximum(at_low, at_high).sum(1),
            error=self.error + weight.abs() @ error,
            size=self.size + weight.abs() @ reach + 2 * self.offset.abs(),
            gain=torch.ones_like(self.gain),
            shift=torch.zeros_like(self.shift),
            terms=terms,
            flushed=numbers.flushed(terms, reach),
        )

    def through(
        self,
        piece: Piece,
        activation: nn.Module,
        ray: tuple[float, float],
        epsilon: float,
        numbers: Arithmetic,
    ) -> Carry:
        """Pass the sum through an adder: affine there and back."""
        slope = piece.slope(activation)
        one = torch.ones_like(self.low)
        deviation: Tensor | float = 0.0
        at_zero = 0.0
        if piece.kind == "line":
            gain, shift = one, 0 * one
        elif piece.kind == "ray":
            # The error of the sum so far must not push it over the edge either.
            gain, shift = one, ray[0] - self.low + self.error
            deviation = ray[1] / slope
        else:
            at_zero = 0.5 if isinstance(activation, nn.Sigmoid) else 0.0
            half = (self.high - self.low) / 2
            gain = epsilon / torch.where(half > 0, half, one)
            shift = -gain * (self.high + self.low) / 2
            deviation = piece.third / 6 * (epsilon + gain * self.error) ** 3 / (slope * gain)
        back = 1 / (slope * gain)
        offset = -shift / gain - at_zero * back
        # Terms of the pre-activation and values of the activation, in units of the sum.
        largest = self.size + shift.abs() / gain + at_zero * back
        steep = piece.steepest(activation) / slope
        rounding = steep * numbers.rounding(self.terms) * largest + 8 * numbers.unit * largest
        # What is lost in the pre-activation and in the value, in the same units.
        flushed = self.flushed * (steep / gain + back)
        error = self.error + deviation + rounding + flushed
        return replace(self, error=error, gain=gain, shift=shift, back=back, offset=offset)

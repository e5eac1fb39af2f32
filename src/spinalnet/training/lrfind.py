"""Which learning rate? Smith's range test: a rate that rises with every batch until training fails.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv:1506.01186; smoothing
and the rule to stop are those of fastai.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from spinalnet._checks import InputError, check_positive
from spinalnet.panels import axes_of
from spinalnet.training import fitting, placement
from spinalnet.training.config import TrainConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MEMORY = 0.9  # of the smoothed loss: about the last ten batches
_DIVERGED = 4.0  # times the lowest smoothed loss


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw, batch by batch.

    Attributes:
        rates: Learning rate of each step, rising by one factor.
        losses: Training loss of each step, before the step is made.
        smoothed: The same as an exponential mean over about ten steps.
        diverged: Whether it ended early, the loss having risen far above its lowest value.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool

    @property
    def lowest(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        return self.rates[min(range(len(self.rates)), key=self.smoothed.__getitem__)]

    @property
    def steepest(self) -> float:
        """The rate, up to the lowest loss, at which the smoothed loss falls fastest."""
        before = self.rates.index(self.lowest)
        falls = {k: self.smoothed[k - 1] - self.smoothed[k + 1] for k in range(1, before)}
        return self.rates[max(falls, key=falls.__getitem__)] if falls else self.lowest / 10

    @property
    def suggestion(self) -> float:
        """A tenth of the rate with the lowest loss: near the edge, with some room."""
        return self.lowest / 10

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        found = {name: getattr(self, name) for name in ("suggestion", "steepest", "lowest")}
        return found | dataclasses.asdict(self)


def range_test(
    model: nn.Module,
    data: placement.Data,
    config: TrainConfig | None = None,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    on_step: Callable[[int, int], None] | None = None,
) -> RangeTest:
    """Train a copy of `model` for some batches at rising rates; the model itself stays as it is.

    Args:
        model: As for `fit`.
        data: Training data, gone through as often as needed.
        config: How to train; schedule, warm-up, freezing by epoch and averaging are left out.
        lowest: Rate of the first step.
        highest: Rate of the last step.
        steps: Number of steps, if the loss does not diverge earlier.
        on_step: Called with (steps done, steps).

    Raises:
        InputError: If the range is none, or data and model do not fit together.
    """
    check_positive("steps", steps)
    if not 0.0 < lowest < highest < math.inf or steps < 10:
        raise InputError(
            "a range test needs 0 < lowest < highest and at least 10 steps, got "
            f"lowest={lowest:g}, highest={highest:g}, steps={steps}."
        )
    config = dataclasses.replace(
        config or TrainConfig(), phases=(), head_epochs=0, unfreeze_every=0, ema_decay=0.0
    )
    with fitting.trial(copy.deepcopy(model), data, config) as step:
        rates: list[float] = []
        losses: list[float] = []
        smoothed: list[float] = []
        mean, diverged = 0.0, False
        for number in range(steps):
            rate = lowest * (highest / lowest) ** (number / (steps - 1))
            loss = step(rate)
            mean = _MEMORY * mean + (1.0 - _MEMORY) * loss
            value = mean / (1.0 - _MEMORY ** (number + 1))
            diverged = not math.isfinite(loss) or value > _DIVERGED * min(smoothed, default=value)
            if diverged:
                break
            rates.append(rate)
            losses.append(loss)
            smoothed.append(value)
            if on_step is not None:
                on_step(number + 1, steps)
    if not rates:
        raise InputError("the loss is not finite from the start: check the data and the model.")
    return RangeTest(tuple(rates), tuple(losses), tuple(smoothed), diverged)


def draw_range_tests(tests: Mapping[str, RangeTest], title: str, *, ax: Axes | None = None) -> Axes:
    """Draw smoothed losses over rates, one line per test, with the suggestions marked.

    Args:
        tests: Of each head, by its name.
        title: Above it.
        ax: Axes to draw on; new ones without.
    """
    axes = axes_of(ax, (7, 4.2))
    for k, (name, found) in enumerate(tests.items()):
        axes.plot(found.rates, found.losses, color=f"C{k}", alpha=0.2, linewidth=0.8)
        axes.plot(found.rates, found.smoothed, color=f"C{k}", label=name)
        near = min(found.rates, key=lambda rate: abs(math.log(rate / found.suggestion)))
        axes.plot(near, found.smoothed[found.rates.index(near)], "o", color=f"C{k}")
    start = max(found.smoothed[0] for found in tests.values())
    low = min(min(found.smoothed) for found in tests.values())
    axes.set_ylim(low - 0.1 * (start - low), start + 0.5 * (start - low))  # what fails goes far up
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    axes.legend(frameon=False, title="o: suggested")
    axes.grid(alpha=0.25)
    return axes

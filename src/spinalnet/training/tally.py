"""What is counted in an epoch, and what processes tell each other in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spinalnet import _dist

_EVERY = 0.5  # seconds between two times that processes ask each other


class Tally:
    """Sums over the steps of an epoch, fetched from the device once in `fetch_every` steps."""

    def __init__(self, fetch_every: int) -> None:
        self.fetch_every = fetch_every
        self.loss = self.correct = 0.0  # fetched so far
        self.last = 0.0  # mean loss of the last step fetched
        self.n = self.n_fetched = 0
        self.counts = False  # whether right answers are counted
        self.pending: list[tuple[Tensor, Tensor | None, int]] = []

    def add(self, loss: Tensor, correct: Tensor | None, n: int) -> None:
        """Add a step: its mean loss, its number of right answers, its examples."""
        self.pending.append((loss, correct, n))
        self.n += n
        if len(self.pending) >= self.fetch_every:
            self.fetch()

    def fetch(self) -> None:
        """Bring the sums up to date."""
        for loss, correct, n in self.pending:
            self.last = loss.item()
            self.loss += self.last * n
            if correct is not None:
                self.counts = True
                self.correct += correct.item()
            self.n_fetched += n
        self.pending.clear()

    @property
    def mean(self) -> float | None:
        """The mean loss as far as it has been fetched."""
        return self.loss / self.n_fetched if self.n_fetched else None

    def sums(self) -> list[float]:
        """Return what the processes of a job add up: losses, right answers, the last loss."""
        self.fetch()
        return [self.loss, self.correct, self.last]

    def state(self) -> list[Any]:
        """Return the sums so far."""
        self.fetch()
        return [self.loss, self.correct, self.n, self.counts, self.last]

    def load(self, state: Sequence[Any], *, mine: bool = True) -> None:
        """Count on from what `state` returned.

        Args:
            state: That; of an earlier version without the last loss.
            mine: Whether its sums are this process's; of several, they are the main one's.
        """
        loss, correct, self.n, self.counts, *last = state
        sums = [loss, correct, last[0] if last else 0.0]
        self.loss, self.correct, self.last = sums if mine else (0.0, 0.0, 0.0)
        self.n_fetched = self.n


class Agreement:
    """What processes that make the same steps tell each other, every half second or so."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._left = 1  # steps until they ask
        self._steps, self._since = 0, 0.0

    def at_once(self, values: list[float]) -> list[float]:
        """Return the largest of each value over all processes, which all must ask for."""
        return _dist.most_of_all(values, self.device)

    def __call__(self, values: Sequence[float], now: float) -> list[float] | None:
        """Return the largest of each value, if it is time for that; called after every step."""
        self._left -= 1
        self._steps += 1
        if self._left > 0:
            return None
        # The main process, whose clock counts, says after how many steps they ask again.
        each = (now - self._since) / self._steps if self._since else _EVERY
        following = max(1, min(100, round(_EVERY / max(each, 1e-6))))
        own = float(following if _dist.is_main() else 0)
        heard = self.at_once([*map(float, values), own])
        self._left, self._steps, self._since = int(heard[-1]), 0, now
        return heard

"""Numbers as a net likes them: the first module of a table's net, fitted to the training rows.

A standardised number is a poor input: one outlier stretches its scale, and a narrow net bends it in
few places. The parts of an embedding each map all numeric inputs, and stand side by side:

- "clip": centred on the median, divided by the quartiles' distance, and smoothly bounded, as in
  Holzmüller et al., "Better by default", arXiv:2407.04491;
- "quantile": what a normal variable has at the same quantile, by linear pieces between knots;
- "piecewise": how far the number has come through each bin between its quantiles, as in Gorishniy
  et al., "On embeddings for numerical features in tabular deep learning", arXiv:2203.05556;
- "periodic": sines and cosines of frequencies drawn once, of the same paper;
- "linear": the number as it is.

All are fixed once fitted, and no row's value passes more than one bin beyond the training rows. So
training embeds the rows once, and a net's gradients keep their closed form: what is learned of an
embedding is the first layer on it. Inputs with two values at most (categories, marks of what is
missing) go past it as they are. Its state are plain tensors, in the net's state dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spinalnet._checks import unknown_name

FREQUENCIES, SPREAD = 8, 0.5
"""Of "periodic": how many per input, and the standard deviation they are drawn with."""

QUANTILE_KNOTS = 64

_FAR = 1e9  # scales from the centre; (1e9 / 3) ** 2 + 1 is (1e9 / 3) ** 2 in float64


class _Bins(nn.Module):
    """How far each number has come through each of its bins: 0 before, 1 behind, linear within.

    The first and the last bin of a number go on for their own length outside.
    """

    column: Tensor
    left: Tensor
    width: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, knots: Sequence[np.ndarray]) -> None:
        super().__init__()
        counts = [len(at) - 1 for at in knots]
        column = np.repeat(np.arange(len(knots)), counts)
        left = np.concatenate([at[:-1] for at in knots])
        width = np.concatenate([np.diff(at) for at in knots])
        low, high = np.zeros(len(left)), np.ones(len(left))
        last = np.cumsum(counts) - 1
        low[last + 1 - np.array(counts)] = -1.0
        high[last] = 2.0
        for name, values in (("column", column), ("left", left), ("width", width)):
            self.register_buffer(name, torch.from_numpy(values))
        self.register_buffer("low", torch.from_numpy(low))
        self.register_buffer("high", torch.from_numpy(high))
        self.out_features = len(left)

    def forward(self, numbers: Tensor) -> Tensor:
        """Map `(N, C)` to `(N, bins of all)`."""
        come = (numbers.index_select(1, self.column) - self.left) / self.width
        return torch.minimum(torch.maximum(come, self.low), self.high)


class _Quantile(nn.Module):
    """The normal variable of the same quantile, `(N, C)` to `(N, C)`."""

    rises: Tensor
    start: Tensor

    def __init__(self, knots: Sequence[np.ndarray], heights: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.bins = _Bins(knots)
        rises = torch.zeros(self.bins.out_features, len(knots), dtype=torch.float64)
        step = torch.from_numpy(np.concatenate([np.diff(at) for at in heights]))
        rises[torch.arange(len(step)), self.bins.column] = step
        self.register_buffer("rises", rises)
        self.register_buffer("start", torch.from_numpy(np.array([at[0] for at in heights])))
        self.out_features = len(knots)

    def forward(self, numbers: Tensor) -> Tensor:
        """Map `(N, C)` to `(N, C)`."""
        return self.bins(numbers) @ self.rises + self.start


class _Clip(nn.Module):
    """Centred and scaled by quantiles, and smoothly bounded to (-3, 3)."""

    center: Tensor
    scale: Tensor

    def __init__(self, center: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("center", torch.from_numpy(center))
        self.register_buffer("scale", torch.from_numpy(scale))
        self.out_features = len(center)

    def forward(self, numbers: Tensor) -> Tensor:
        """Map `(N, C)` to `(N, C)`."""
        # Far out the bound is reached to the last bit, and a square would overflow to a bound of 0.
        z = ((numbers - self.center) / self.scale).clamp(-_FAR, _FAR)
        return z * torch.rsqrt(1.0 + (z / 3.0) ** 2)


class _Periodic(nn.Module):
    """Sines and cosines of each number, `(N, C)` to `(N, 2 * frequencies * C)`."""

    angular: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        drawn = np.random.default_rng(0).normal(0.0, SPREAD, (columns, FREQUENCIES))
        self.register_buffer("angular", torch.from_numpy(2.0 * np.pi * drawn))
        self.out_features = 2 * drawn.size

    def forward(self, numbers: Tensor) -> Tensor:
        """Map `(N, C)` to `(N, 2 * frequencies * C)`."""
        angle = (numbers[:, :, None] * self.angular).flatten(1)
        return torch.cat((angle.sin(), angle.cos()), dim=1)


class _Linear(nn.Module):
    """The numbers as they are."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.out_features = columns

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the numbers."""
        return numbers


class NumericalEmbedding(nn.Module):
    """The parts of an embedding of some inputs side by side, then all other inputs as they are.

    Shape:
        input `(N, in_features)`, output `(N, out_features)`.
    """

    columns: Tensor
    rest: Tensor

    def __init__(
        self, in_features: int, columns: Sequence[int], parts: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        rest = [column for column in range(in_features) if column not in set(columns)]
        self.in_features = in_features
        self.register_buffer("columns", torch.tensor(list(columns), dtype=torch.long))
        self.register_buffer("rest", torch.tensor(rest, dtype=torch.long))
        self.parts = nn.ModuleList(parts)
        self.out_features: int = sum(_width(part) for part in parts) + len(rest)

    def forward(self, x: Tensor) -> Tensor:
        """Embed `(N, in_features)`."""
        numbers = x.index_select(1, self.columns)
        embedded = [part(numbers) for part in self.parts]
        if len(self.rest):
            embedded.append(x.index_select(1, self.rest))
        return torch.cat(embedded, dim=1)


def _width(part: Any) -> int:
    return part.out_features


def _quantiles(values: np.ndarray, at: Any, weights: Any) -> np.ndarray:
    """Return values of the rows at quantiles.

    A row of weight 2 counts as two rows, which the usual interpolation does not know.
    """
    return np.quantile(values, at, weights=weights, method="inverted_cdf")


def _weighted_knots(values: np.ndarray, weights: np.ndarray | None, bins: int) -> np.ndarray:
    """Return the distinct values at evenly spaced quantiles, the ends included."""
    at = np.linspace(0.0, 1.0, bins + 1)
    return np.unique(_quantiles(values, at, weights))


def _heights(values: np.ndarray, weights: Any, knots: np.ndarray) -> np.ndarray:
    """Return the normal quantile of every knot, from the middle of its rank among the rows."""
    from scipy.special import ndtri

    order = np.argsort(values, kind="stable")
    ordered = values[order]
    parts = np.ones(len(values)) if weights is None else weights[order]
    come = np.concatenate([[0.0], np.cumsum(parts) / np.sum(parts)])
    below = come[np.searchsorted(ordered, knots, side="left")]
    through = come[np.searchsorted(ordered, knots, side="right")]
    return ndtri(np.clip((below + through) / 2.0, 1e-3, 1.0 - 1e-3))


PARTS = ("clip", "quantile", "piecewise", "periodic", "linear")


def parse_embedding(kind: str | None) -> tuple[str, ...]:
    """Return the names of the parts that a text such as "quantile+piecewise" names.

    Raises:
        InputError: If one is unknown.
    """
    names = () if kind is None else tuple(str(kind).split("+"))
    for name in names:
        if name not in PARTS:
            raise unknown_name("part of an embedding", name, PARTS)
    return names


def fit_embedding(
    kind: str | None,
    x: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    bins: int = 16,
    numeric: np.ndarray | None = None,
) -> NumericalEmbedding | None:
    """Return the embedding fitted to rows, float64; None where there is nothing to embed.

    Args:
        kind: Parts joined by "+", see `PARTS`; None for none.
        x: Encoded training rows `(N, in_features)`.
        weights: Weight of each row `(N,)`.
        bins: Of "piecewise", at most.
        numeric: Which inputs are numbers `(in_features,)`; None for all. Of these, the ones with
            more than two values are embedded.

    Raises:
        InputError: If a part is unknown.
    """
    names = parse_embedding(kind)
    if not names:
        return None
    columns = [
        index
        for index in range(x.shape[1])
        if (numeric is None or numeric[index]) and _several(x[:, index])
    ]
    if not columns:
        return None
    numbers = np.asarray(x[:, columns], dtype=np.float64)

    def knots_of(count: int) -> list[np.ndarray]:
        return [_weighted_knots(column, weights, count) for column in numbers.T]

    def make(name: str) -> nn.Module:
        if name == "piecewise":
            return _Bins(knots_of(bins))
        if name == "quantile":
            knots = knots_of(QUANTILE_KNOTS)
            heights = [
                _heights(column, weights, at) for column, at in zip(numbers.T, knots, strict=True)
            ]
            return _Quantile(knots, heights)
        if name == "clip":
            return _Clip(*_robust_scale(numbers, weights))
        return _Periodic(len(columns)) if name == "periodic" else _Linear(len(columns))

    return NumericalEmbedding(x.shape[1], columns, [make(name) for name in names])


def _several(values: np.ndarray) -> bool:
    """Whether there are more than two values."""
    others = values[values != values[0]]
    return len(others) > 0 and bool((others != others[0]).any())


def _robust_scale(numbers: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return medians, and what the quartiles' distance of a normal variable is made one by."""
    low, center, high = (
        np.array([_quantiles(column, at, weights) for column in numbers.T])
        for at in (0.25, 0.5, 0.75)
    )
    scale = (high - low) / 1.349
    spread = (numbers.max(0) - numbers.min(0)) / 2.0  # where most rows have one value
    return center, np.where(scale > 0, scale, spread)


def embedding_like(kind: str | None, state: Mapping[str, Tensor]) -> NumericalEmbedding:
    """Return an embedding into which `load_state_dict(state)` goes.

    Args:
        kind: What it was fitted with.
        state: The state dict of one.
    """
    names = parse_embedding(kind)
    columns, rest = state["columns"], state["rest"]

    def bins_like(prefix: str) -> list[np.ndarray]:
        counts = torch.bincount(state[f"{prefix}column"], minlength=len(columns))
        return [np.arange(float(count) + 1.0) for count in counts.tolist()]

    def make(index: int, name: str) -> nn.Module:
        prefix = f"parts.{index}."
        if name == "piecewise":
            return _Bins(bins_like(prefix))
        if name == "quantile":
            knots = bins_like(f"{prefix}bins.")
            return _Quantile(knots, knots)
        if name == "clip":
            return _Clip(np.zeros(len(columns)), np.ones(len(columns)))
        return _Periodic(len(columns)) if name == "periodic" else _Linear(len(columns))

    parts = [make(index, name) for index, name in enumerate(names)]
    return NumericalEmbedding(len(columns) + len(rest), columns.tolist(), parts)

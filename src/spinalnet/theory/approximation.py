"""Approximation by construction: the universality proof as a net, and its error by depth and width.

No training: random hidden weights, the output row by least squares, then `conversion.to_spinal`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import check_positive, unknown_name
from spinalnet.nn import MLPHead, SpinalNet
from spinalnet.theory import drawings
from spinalnet.theory.conversion import to_spinal
from spinalnet.training import describe_origin


@dataclass(frozen=True)
class Approximation:
    """A spinal net that approximates a function, and how well it does.

    Attributes:
        net: The spinal net of `num_splits * groups` layers of width `hidden_features`.
        dense: The network of one hidden layer that it contains.
        groups: Number of groups of `num_splits` layers (pairs, for two slices).
        hidden_features: Width.
        rms_error: Root mean square error on fresh points of the box, as a share of the target's
            standard deviation.
        max_error: Largest error on those points, same unit.
        conversion_error: Largest difference between `net` and `dense` on those points, absolute.
    """

    net: SpinalNet
    dense: MLPHead
    groups: int
    hidden_features: int
    rms_error: float
    max_error: float
    conversion_error: float


def approximate(
    target: Callable[[Tensor], Tensor],
    in_features: int,
    *,
    groups: int,
    hidden_features: int,
    num_splits: int = 2,
    bounds: tuple[float, float] = (-1.0, 1.0),
    samples: int = 4096,
    seed: int = 0,
) -> Approximation:
    """Approximate `target` by the construction of the universality proof.

    A dense network of `groups * hidden_features` relu neurons with random hidden weights is
    fitted by least squares (no training, no luck with a learning rate), then converted: `groups *
    num_splits` spinal layers of width `hidden_features`.

    Args:
        target: Maps `(N, D)` to `(N,)`, float64.
        in_features: Number of inputs `D`.
        groups: Groups of `num_splits` layers: the depth.
        hidden_features: The width.
        num_splits: Number of slices.
        bounds: The box, the same for all inputs.
        samples: Points to fit on, and as many fresh ones to judge on.
        seed: Of the points and the hidden weights.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = bounds
    points = low + (high - low) * torch.rand(
        2, samples, in_features, generator=generator, dtype=torch.float64
    )
    neurons = check_positive("groups", groups) * check_positive("hidden_features", hidden_features)
    dense = MLPHead(in_features, 1, neurons, dtype=torch.float64).eval()
    with torch.no_grad():
        _set_kinks(dense, bounds, generator)
        _fit_output(dense, points[0], target(points[0]))
        net = to_spinal(dense, num_splits, bounds, hidden_features=hidden_features)
        assert isinstance(net, SpinalNet)
        wanted = target(points[1])
        got, reference = net(points[1])[:, 0], dense(points[1])[:, 0]
    error, spread = got - wanted, wanted.std()
    return Approximation(
        net,
        dense,
        groups,
        hidden_features,
        float(error.square().mean().sqrt() / spread),
        float(error.abs().max() / spread),
        float((got - reference).abs().max()),
    )


def _set_kinks(dense: MLPHead, bounds: tuple[float, float], generator: torch.Generator) -> None:
    """Put the kinks of the hidden neurons at random places in the box, in random directions."""
    hidden = next(module for module in dense.layers.modules() if isinstance(module, nn.Linear))
    low, high = bounds
    shape = hidden.weight.shape
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight /= weight.norm(dim=1, keepdim=True)
    centres = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    hidden.weight.copy_(weight)
    hidden.bias.copy_(-(weight * centres).sum(1))


def _fit_output(dense: MLPHead, x: Tensor, y: Tensor) -> None:
    """Set the output row by least squares."""
    features = torch.cat([dense.layers(x), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    # A little ridge: near-equal neurons would get huge weights of opposite sign.
    ridge = 1e-9 * len(x) * torch.eye(features.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(features.T @ features + ridge, features.T @ y[:, None])[:, 0]
    dense.output.weight.copy_(solution[None, :-1])
    dense.output.bias.copy_(solution[-1:])


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(-1),
    "sin-sum": lambda x: torch.sin(torch.pi * x.sum(-1)),
    "product": lambda x: x.prod(-1),
    "ripple": lambda x: torch.cos(2 * torch.pi * x.square().sum(-1)),
    "saddle": lambda x: torch.sin(torch.pi * x[..., 0]) * torch.cos(torch.pi * x[..., -1]),
}
"""Functions on the box for `approximate`, by name."""


def approximation_errors(
    target: Callable[[Tensor], Tensor],
    in_features: int,
    *,
    groups: Sequence[int] = (1, 2, 4, 8, 16, 32),
    widths: Sequence[int] = (1, 2, 4, 8, 16),
    num_splits: int = 2,
    seeds: int = 5,
) -> dict[int, list[tuple[int, list[float]]]]:
    """Return the rms errors by width: `{width: [(layers, [error of each seed]), ...]}`."""
    check_positive("seeds", seeds)

    def errors(depth: int, width: int) -> list[float]:
        options: Any = {"groups": depth, "hidden_features": width, "num_splits": num_splits}
        found = (approximate(target, in_features, seed=seed, **options) for seed in range(seeds))
        return [one.rms_error for one in found]

    return {width: [(n * num_splits, errors(n, width)) for n in groups] for width in widths}


@dataclass(frozen=True)
class Construction:
    """A depth and a width, and the rms error of each seed as a share of the target's spread."""

    width: int
    layers: int
    rms_errors: list[float]

    @property
    def rms_error(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.rms_errors)


def study_approximation(
    target: str, in_features: int, out: str | Path, *, num_splits: int = 2, seeds: int = 5
) -> Construction:
    """Draw the proof and the errors of its construction by depth and width; write the numbers.

    Args:
        target: Name of a row of `TARGETS`.
        in_features: Number of inputs.
        out: Folder for `proof.png`, `errors.png` and `errors.json`.
        num_splits: Number of slices.
        seeds: Random hidden layers per point.

    Returns:
        The construction with the smallest error.

    Raises:
        InputError: If there is no such target, or a number cannot serve.
    """
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    errors = approximation_errors(TARGETS[target], in_features, num_splits=num_splits, seeds=seeds)
    rows = [Construction(w, layers, found) for w in errors for layers, found in errors[w]]
    title = f"'{target}' of {in_features} inputs on [-1, 1], {num_splits} slices: "
    files.write_figure(files.expanded(out) / "proof.png", drawings.draw_proof())
    drawn = drawings.draw_errors(errors, title + "error by construction")
    files.write_figure(files.expanded(out) / "errors.png", drawn)
    numbers = {"target": target, "features": in_features, "splits": num_splits}
    numbers |= {"errors": [asdict(row) for row in rows]}
    files.write_mapping(files.expanded(out) / "errors.json", numbers | describe_origin())
    return min(rows, key=lambda row: row.rms_error)

"""TODO(theory.approximation): split from theory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spinalnet._checks import check_positive
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.layers import SpinalNet
from spinalnet.theory.conversion import to_spinal


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
    hidden, output = dense.layers[0][0], dense.output  # type: ignore[index]
    with torch.no_grad():
        # Kinks at random places in the box, in random directions.
        weight = torch.randn(neurons, in_features, generator=generator, dtype=torch.float64)
        weight /= weight.norm(dim=1, keepdim=True)
        centres = low + (high - low) * torch.rand(
            neurons, in_features, generator=generator, dtype=torch.float64
        )
        hidden.weight.copy_(weight)
        hidden.bias.copy_(-(weight * centres).sum(1))
        ones = torch.ones(samples, 1, dtype=torch.float64)
        features = torch.cat([dense.layers(points[0]), ones], dim=1)
        # A little ridge: near-equal neurons would get huge weights of opposite sign.
        gram = features.T @ features + 1e-9 * samples * torch.eye(neurons + 1, dtype=torch.float64)
        solution = torch.linalg.solve(gram, features.T @ target(points[0])[:, None])[:, 0]
        output.weight.copy_(solution[None, :-1])
        output.bias.copy_(solution[-1:])
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
    return {
        width: [
            (
                depth * num_splits,
                [
                    approximate(
                        target,
                        in_features,
                        groups=depth,
                        hidden_features=width,
                        num_splits=num_splits,
                        seed=seed,
                    ).rms_error
                    for seed in range(check_positive("seeds", seeds))
                ],
            )
            for depth in groups
        ]
        for width in widths
    }

"""The paper's equations written out by hand in NumPy, independent of the package.

h_1 = act(A_1 s_1 + b_1);  h_l = act(A_l s_l + B_l h_(l-1) + b_l);  y = [h_1 | ... | h_L].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def slices(in_features: int, num_splits: int) -> list[range]:
    """Contiguous near-equal feature ranges, the longer ones first."""
    bounds = [0]
    for split in range(num_splits):
        extra = 1 if split < in_features % num_splits else 0
        bounds.append(bounds[-1] + in_features // num_splits + extra)
    return [range(bounds[i], bounds[i + 1]) for i in range(num_splits)]


def spinal_longhand(
    x: Array,
    weights: Sequence[Array],
    biases: Sequence[Array] | None,
    num_splits: int,
    act: Callable[[Array], Array],
) -> Array:
    """Row by row, neuron by neuron."""
    parts = slices(x.shape[1], num_splits)
    out = []
    for row in x:
        hidden: list[Array] = []
        for layer, weight in enumerate(weights):
            feed = [row[i] for i in parts[layer % num_splits]]
            if layer:
                feed += list(hidden[-1])
            z = np.zeros(weight.shape[0])
            for neuron in range(weight.shape[0]):
                z[neuron] = 0.0 if biases is None else biases[layer][neuron]
                for j, value in enumerate(feed):
                    z[neuron] += weight[neuron, j] * value
            hidden.append(act(z))
        out.append(np.concatenate(hidden))
    return np.array(out).reshape(len(x), sum(w.shape[0] for w in weights))

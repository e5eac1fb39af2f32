"""TODO(kernels.derivatives): split from _kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from spinalnet.kernels.plan import Settings
    from spinalnet.kernels.regularized import Regularization


def _differentiable(
    x: Tensor,
    parameters: list[Tensor],
    settings: Settings,
    step: Regularization | None = None,
    affine: Sequence[Tensor | None] = (),
) -> Tensor:
    """Compute the same from torch operations, for derivatives of the gradients.

    `affine` are gain and bias of every norm of `step`, as the call had them.
    """
    layout, num_splits, slope = settings
    pieces = layout.pieces(parameters)
    slices = x.tensor_split(num_splits, dim=1)  # longer slices first, as ours
    masks = None if step is None else step.masks
    hidden: list[Tensor] = []
    for layer, index in enumerate(layout.weights):
        seen, weight = slices[layer % num_splits], pieces[index]
        mask = None if masks is None else masks[layer]
        bias = pieces[layout.biases[layer]] if layout.biases else None
        seen = seen if mask is None else seen * mask[:, : seen.shape[1]]
        z = F.linear(seen, weight[:, : seen.shape[1]], bias)
        if hidden:
            before = hidden[-1] if mask is None else hidden[-1] * mask[:, seen.shape[1] :]
            z = z + F.linear(before, weight[:, -weight.shape[0] :])
        if step is not None and step.norms is not None:
            norm = step.norms[layer]
            fixed = _is_fixed(norm)
            running = (norm.running_mean, norm.running_var) if fixed else (None, None)
            gain, bias = affine[2 * layer : 2 * layer + 2]
            z = F.batch_norm(z, *running, gain, bias, not fixed, 0.0, norm.eps)
        hidden.append(F.relu(z) if slope == 0 else F.leaky_relu(z, slope))
    output = torch.cat(hidden, dim=1)
    if step is not None and step.output_mask is not None:
        output = output * step.output_mask[0]
    return F.linear(output, *[pieces[i] for i in layout.output]) if layout.output else output


def _is_fixed(norm: nn.BatchNorm1d) -> bool:
    """Whether a norm uses its running statistics, not those of the batch."""
    return not norm.training and norm._buffers["running_mean"] is not None

"""The chain for a caller that needs no autograd, because it knows the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from spinalnet.kernels.chain import Pass, backward, forward
from spinalnet.kernels.plan import Plans, shared
from spinalnet.kernels.regularized import Regularization

if TYPE_CHECKING:
    from spinalnet.kernels.masks import Masks


class UntrackedChain:
    """Forward and backward of a chain with an output row, past autograd.

    Args:
        weights: One matrix per layer, as `biases` and `output` as in `spinal`, rows contiguous.
        biases: One vector per layer, or none.
        output: Matrix and bias of the output row.
        num_splits: Number of slices.
        negative_slope: Of the activation, 1 for the identity.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        output: Sequence[Tensor],
        *,
        num_splits: int,
        negative_slope: float,
    ) -> None:
        self.parameters, layout = shared(weights, biases, output)
        self._settings = layout, num_splits, negative_slope
        self._plans = Plans()
        self._seen: Pass | None = None

    def forward(
        self, x: Tensor, masks: Masks | None = None, output_mask: Masks | None = None
    ) -> Tensor:
        """Return the logits `(B, K)` for `x` `(B, D)`, dropping what the masks say."""
        known = self._plans.find(x, self.parameters, self._settings)
        step = None
        if masks is not None or output_mask is not None:
            step = Regularization(masks, output_mask, None, x.dtype)
        logits, self._seen = forward(self._plans, known, x, self.parameters, step)
        return logits

    def backward(self, x: Tensor, gradient: Tensor, gradients: Sequence[Tensor]) -> None:
        """Overwrite `gradients` with those by each of `parameters`, in their order.

        Args:
            x: Input of the last `forward`.
            gradient: Of the loss by the logits. Shape `(B, K)`.
            gradients: Contiguous tensors like `parameters`.
        """
        seen, self._seen = self._seen, None
        assert seen is not None, "backward comes after forward"
        backward(self._plans, seen, x, self.parameters, gradient, None, gradients)

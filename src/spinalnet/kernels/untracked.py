"""TODO(kernels.untracked): split from _kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from spinalnet.kernels.backend import _shared
from spinalnet.kernels.chain import Memo, _backward, _forward
from spinalnet.kernels.regularized import (
    Regularization,
    _backward_regularized,
    _forward_regularized,
    _Seen,
)

if TYPE_CHECKING:
    from spinalnet.kernels.masks import Masks


class UntrackedChain:
    """Forward and backward for a caller that needs no autograd, because it knows the gradients.

    Args:
        weights: One matrix per layer, as `biases` and `output` as in `ops.spinal`, rows contiguous.
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
        self.parameters, layout = _shared(weights, biases, output)
        self._settings = layout, num_splits, negative_slope
        self._memo = Memo()
        self._seen: _Seen | Tensor | None = None

    def forward(
        self, x: Tensor, masks: Masks | None = None, output_mask: Masks | None = None
    ) -> Tensor:
        """Return the logits `(B, K)` for `x` `(B, D)`, dropping what the masks say."""
        known = self._memo.find(x, self.parameters, self._settings)
        if masks is None and output_mask is None:
            self._seen, logits = _forward(self._memo, known, x, self.parameters, keep_hidden=True)
        else:
            step = Regularization(masks, output_mask, None)
            logits, self._seen = _forward_regularized(self._memo, known, step, x, self.parameters)
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
        if isinstance(seen, _Seen):
            _backward_regularized(self._memo, seen, x, self.parameters, gradient, None, gradients)
        else:
            known = self._memo.find(x, self.parameters, self._settings)
            _backward(self._memo, known, x, self.parameters, seen, gradient, None, gradients)

"""What lets a head read maps instead of rows of features."""

from __future__ import annotations

from torch import Tensor, nn


class PositionHead(nn.Module):
    """A head in place of a 1x1 convolution: it reads the channels of every position of a map.

    Shape:
        input `(B, in_features, H, W)`, output `(B, out_features, H, W)`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits of every position."""
        return self.head(maps.movedim(1, -1)).movedim(-1, 1)


class PooledHead(nn.Module):
    """A head in place of a classifier that pools a map itself: it reads the mean over positions.

    Shape:
        input `(B, in_features, H, W)`, output `(B, out_features)`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: Tensor) -> Tensor:
        """Return the logits of the pooled map."""
        return self.head(maps.mean((2, 3)))

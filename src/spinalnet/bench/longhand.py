"""The baselines: the paper's equations as somebody writes them who has only the paper.

Halves of the input, concatenation, a linear map at a time. A test compares them with the paper's
equations written out neuron by neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from spinalnet.nn import SpinalNet


def linear_maps(half: int, width: int, count: int) -> list[nn.Linear]:
    """Return fresh maps for a chain: of `half` inputs, the later ones of `width` more."""
    return [nn.Linear(half + width * (index > 0), width) for index in range(count)]


class LonghandChain(nn.Module):
    """Spinal layers, each fed one half of the input and the last output.

    Args:
        layers: Their linear maps; the first takes the first half, and so tells how long it is.
        dropout: Probability of dropping an input of any of them.
        norm: Whether batch norm precedes every activation.
    """

    def __init__(
        self, layers: Sequence[nn.Linear], dropout: float = 0.0, norm: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.first_half = layers[0].in_features
        self.out_features = sum(layer.out_features for layer in layers)
        # What is not asked for takes no time.
        self.drop = nn.Dropout(dropout) if dropout else None
        norms = [nn.BatchNorm1d(layer.out_features) for layer in layers]
        self.norms = nn.ModuleList(norms) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, D)` to the outputs of all layers side by side, `(B, L * H)`."""
        halves = x[:, : self.first_half], x[:, self.first_half :]
        hidden: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            seen = halves[index % 2]
            if hidden:
                seen = torch.cat([seen, hidden[-1]], dim=1)
            if self.drop is not None:
                seen = self.drop(seen)
            z = layer(seen)
            if self.norms is not None:
                z = self.norms[index](z)
            hidden.append(torch.relu(z))
        return torch.cat(hidden, dim=1)


class LonghandHead(nn.Module):
    """A chain of `net`'s own linear maps, and its output row.

    Args:
        net: Whose parameters are used.
        dropout: Probability of dropping an input of any linear map.
        norm: Whether batch norm, with parameters of its own, precedes every activation.
    """

    def __init__(self, net: SpinalNet, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        layers = cast("list[nn.Linear]", list(net.spine.layers))
        self.chain = LonghandChain(layers, dropout, norm)
        self.output = net.output

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, in_features)` to logits `(B, out_features)`."""
        hidden = self.chain(x)
        return self.output(hidden if self.chain.drop is None else self.chain.drop(hidden))


class LonghandCNN(nn.Module):
    """The spinal MNIST CNN, with its parameters in the order of `create_model("mnist-cnn", 10)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d(0.5)
        self.chain = LonghandChain(linear_maps(160, 8, 6))
        self.output = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(B, 1, 28, 28)` to logits `(B, 10)`."""
        x = torch.relu(torch.max_pool2d(self.conv1(x), 2))
        x = torch.relu(torch.max_pool2d(self.drop(self.conv2(x)), 2)).flatten(1)
        return self.output(self.chain(x))

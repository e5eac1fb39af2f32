"""Norms that keep their statistics: what `model.train()` must not wake in a frozen trunk.

`requires_grad_(False)` stops gradients, but a batch norm in training mode still moves its mean and
variance, and normalises by the batch instead of by them. A norm that rests stays in evaluation,
whatever mode its model is put in, as long as none of its parameters learns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Self

from torch import nn


class Resting(nn.Module):
    """Mixed into the class of a norm: training mode reaches it only when its parameters learn."""

    def train(self, mode: bool = True) -> Self:
        """Enter training or evaluation mode, but evaluation alone while nothing here learns."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Copy and pickle as the class it was made of, for its own is made when needed."""
        return _made_of, (type(self).__mro__[2],), self.__getstate__()


def rest_(model: nn.Module, besides: Sequence[nn.Module] = ()) -> None:
    """Keep the running statistics of every norm in a model as they are, from now on.

    Names of the state and what is printed stay. To let a norm learn again, give its parameters
    `requires_grad_(True)` and call `model.train()`.

    Args:
        model: The model.
        besides: Parts of it that learn.
    """
    learning = {part for whole in besides for part in whole.modules()}
    for part in model.modules():
        if part in learning or isinstance(part, Resting) or not _has_statistics(part):
            continue
        part.__class__ = _resting(type(part))
        part.train(part.training)


def _has_statistics(module: nn.Module) -> bool:
    return any(name.startswith("running_") for name, _ in module.named_buffers(recurse=False))


@functools.cache
def _resting(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of a norm that rests; it goes by the name of the class itself."""
    same = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (Resting, kind), same)


def _made_of(kind: type[nn.Module]) -> nn.Module:
    resting = _resting(kind)
    return resting.__new__(resting)

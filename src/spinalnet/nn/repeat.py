"""A module's last call, computed again without finding out anew what it depends on.

Finding that out, and which backend serves it, takes longer than a small head computes
(`docs/kernels.md`). A module's `forward` asks its `Repeat`, which either knows that nothing has
changed and goes straight to the kernels, or calls the module's `compute`. This is the one file
that looks into the dictionaries of modules: what `nn.Module` keeps there is all that can change.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spinalnet.kernels import chain
from spinalnet.kernels.native import extension
from spinalnet.kernels.plan import Plans, Served
from spinalnet.nn.backends import GLOBAL_HOOKS, HOOKS, is_free

# Attributes of the modules of a chain that decide what a call computes.
_ATTRIBUTES = {"training", "dropout", "num_splits", "schedule", "p", "negative_slope"}


class Computes(Protocol):
    """A module that says what its call computes."""

    def compute(self, x: Tensor) -> Tensor:
        """Return what `forward(x)` returns, from scratch."""
        ...


class _Last(NamedTuple):
    owner: object
    watch: Any  # holds as long as nothing has changed
    served: Served
    shape: torch.Size  # of x
    dtype: torch.dtype


class Repeat:
    """Computes the calls of one module, a known one straight. Copies and pickles are empty."""

    __slots__ = ("_last", "plans")

    def __init__(self) -> None:
        self.plans = Plans()
        self._last: _Last | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Repeat, ()

    def __call__(self, owner: Computes, x: Tensor) -> Tensor:
        """Return what `owner.compute(x)` does."""
        if not is_free(x):
            return owner.compute(x)
        if self._last is not None:
            known_owner, watch, served, shape, dtype = self._last
            if owner is known_owner and x.shape == shape and x.dtype is dtype and watch.holds():
                result = chain.again(self.plans, served, x)
                if result is not None:
                    return result
        self.plans.served = None
        result = owner.compute(x)
        self._remember(owner)
        return result

    def _remember(self, owner: Computes) -> None:
        served, last = self.plans.served, self._last
        # Unless another thread called in between, or the kernels did not serve it.
        if served is None or served.known.ids != tuple(map(id, served.parameters)):
            return
        if last is not None and last.owner is owner and last.watch.holds():
            watch = last.watch
        else:
            entries, empty = _dependencies(owner)
            seen = {id(value) for _, _, value in entries}
            if not seen.issuperset(served.known.ids):
                return  # a parameter was computed for the call, or copied
            watch = extension.Watch(entries, empty)
        self._last = _Last(owner, watch, served, served.shape, served.known.dtype)


Entries = list[tuple[dict[str, Any], str, Any]]


def _dependencies(owner: Any) -> tuple[Entries, list[dict[Any, Any]]]:
    """Return on what a call of `owner` depends, as dictionaries of its modules.

    Those that hold a value under a key (an Ellipsis: that hold nothing there), and those that must
    stay empty.
    """
    entries: Entries = []
    empty: list[dict[Any, Any]] = [*GLOBAL_HOOKS]
    module: nn.Module
    for module in owner.modules():
        own = module.__dict__
        for held in (module._parameters, module._modules):
            entries += [(held, key, value) for key, value in held.items()]
        entries += [(own, key, own[key]) for key in own.keys() & _ATTRIBUTES]
        if not module._modules:
            empty.append(module._modules)
        # Not of the owner, whose hooks nn.Module calls around `forward`, nor of lists.
        if module is not owner and not isinstance(module, nn.ModuleList):
            entries += [(own, "forward", ...), *((own, name, own[name]) for name in HOOKS)]
            empty += [own[name] for name in HOOKS]
    return entries, empty

"""What moves weights: the table of optimizers, clipping, and an average that follows them."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet.training.placement import tensors_of

if TYPE_CHECKING:
    from spinalnet.training.config import TrainConfig

_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
# What torch wraps in marks for its compiler, and which a run calls.
_MARKED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@functools.cache
def _unmarked(kind: type[torch.optim.Optimizer]) -> type[torch.optim.Optimizer]:
    """Return an optimizer's class with the same arithmetic that does not load torch's compiler.

    The first call of a marked method imports the compiler, which takes as long as importing torch
    itself, and every later one asks it whether it is at work. Steps here are never compiled.
    """
    bare_step = inspect.unwrap(kind.step)

    @torch.no_grad()
    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        return bare_step(self, closure)

    methods = {name: inspect.unwrap(getattr(kind, name)) for name in _MARKED}
    return type(kind.__name__, (kind,), {**methods, "step": step})


def new_optimizer(config: TrainConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimizer of `config` for groups of parameters, fused where there is a kernel."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        options["momentum"] = config.momentum
    kind: Any = _unmarked(_OPTIMIZERS[config.optimizer])
    try:
        return kind(groups, fused=True, **options)
    except RuntimeError:  # no fused kernel for this device or type of number
        return kind(groups, **options)


def clip_gradients(parameters: Iterable[Tensor], config: TrainConfig) -> None:
    """Scale all gradients down together, where their norm is above `config.clip_norm`.

    The numbers are those of `nn.utils.clip_grad_norm_`, which takes four times as long for one
    vector.
    """
    if not config.clip_norm:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    scale = norm.add_(1e-6).reciprocal_().mul_(config.clip_norm).clamp_(max=1.0)
    torch._foreach_mul_(gradients, scale)


class MovingAverage:
    """A copy of a model whose weights follow it slowly (exponential moving average).

    Float buffers (the statistics of batch normalisation) are averaged like weights, as they
    belong to them; integer buffers are copied. The decay grows to its full value over the first
    steps, so that a short run is not held at its initial weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self.decay, self.updates = decay, 0
        ours, theirs = ([t.detach() for t in tensors_of(m)] for m in (self.model, model))
        pairs = list(zip(ours, theirs, strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the model as it is now."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        ours, theirs = [a for a, _ in self._averaged], [b for _, b in self._averaged]
        torch._foreach_lerp_(ours, theirs, 1.0 - decay)
        for mine, current in self._copied:
            mine.copy_(current)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and how far it has come."""
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])

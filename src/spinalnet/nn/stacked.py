"""Nets of equal shape as one module, with a leading dimension for the nets: `stack_models`.

For training loops of one's own and for a GPU, where one call on E nets costs little more than on
one. It computes with batched matrix products, whose roundings may depend on how many nets there
are; `tabular.stacked.train_together` is the way whose members have the same bits in any company.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.nn.flat import FlatLinear


def _why_not(models: Sequence[nn.Module]) -> str | None:
    if not models:
        return "there are none"
    if len({id(model) for model in models}) < len(models):
        return "one is there twice; copy it (copy.deepcopy)"
    first = models[0]
    if any(isinstance(module, FlatLinear) for module in first.modules()):
        return "their parameters are one; stack first"
    if any(True for _ in first.buffers()):
        return "they keep statistics (batch norm), which such a call cannot update"
    for number, model in enumerate(models[1:], 1):
        # What a module prints are its options: equal wiring, activation and dropout.
        if type(model) is not type(first) or repr(model) != repr(first):
            return f"model {number} is built otherwise than model 0"
        for (name, p), (other, q) in itertools.zip_longest(
            first.named_parameters(), model.named_parameters(), fillvalue=("", torch.empty(0))
        ):
            if (name, p.shape, p.dtype, p.device) != (other, q.shape, q.dtype, q.device):
                return f"parameter {name or other} of model {number} is unlike that of model 0"
    return None


class StackedModel(nn.Module):
    """E nets as one. Every parameter of a member is here with E in front, under the same name.

    Shape:
        input `(B, ...)`, the same for all, or `(E, B, ...)`, each its own; output `(E, B, ...)`.

    Args:
        models: The members; their values are copied.

    Raises:
        InputError: If they do not have equal shapes, or keep statistics.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        if (reason := _why_not(models)) is not None:
            raise InputError(f"models to be stacked must be different nets of one shape: {reason}.")
        super().__init__()
        self.size = len(models)
        self.net = copy.deepcopy(models[0])
        members = [dict(model.named_parameters()) for model in models]
        for name, parameter in list(self.net.named_parameters()):
            stacked = torch.stack([member[name].detach() for member in members])
            self._place(self.net, name, nn.Parameter(stacked, parameter.requires_grad))

    @staticmethod
    def _place(net: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Put `parameter` wherever the net has the one called `name`, which may be tied."""
        old = net.get_parameter(name)
        for module in net.modules():
            for own, value in module._parameters.items():
                if value is old:
                    module._parameters[own] = parameter

    def forward(self, x: Tensor, *, shared: bool | None = None) -> Tensor:
        """Map `(B, D)` or `(E, B, D)` to `(E, B, K)`.

        Args:
            x: Rows for all, or E times rows.
            shared: Whether all nets see the same rows; by default if `x` has two dimensions.
                Say so of inputs with more.
        """
        shared = x.dim() == 2 if shared is None else shared
        if not shared and x.shape[:1] != (self.size,):
            raise InputError(
                f"rows of their own must come as ({self.size}, B, ...), got {tuple(x.shape)}; "
                "pass shared=True for rows that all nets see."
            )

        def one(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
            return torch.func.functional_call(self.net, parameters, (rows,))

        call = torch.func.vmap(one, in_dims=(0, None if shared else 0), randomness="different")
        return call(dict(self.net.named_parameters()), x)

    def unstack(self) -> list[nn.Module]:
        """Return the members as they are now, each with memory of its own."""
        members = []
        for number in range(self.size):
            member = copy.deepcopy(self.net)
            for name, parameter in list(member.named_parameters()):
                own = nn.Parameter(parameter.detach()[number].clone(), parameter.requires_grad)
                self._place(member, name, own)
            members.append(member.train(self.training))
        return members


def stack_models(models: Sequence[nn.Module]) -> StackedModel:
    """Return nets of equal shape as one module with a leading dimension for the nets.

    Example:
        >>> stack = stack_models([SpinalNet(8, 2, 5) for _ in range(3)])
        >>> stack(torch.randn(4, 8)).shape, stack(torch.randn(3, 4, 8)).shape
        (torch.Size([3, 4, 2]), torch.Size([3, 4, 2]))
    """
    return StackedModel(models)

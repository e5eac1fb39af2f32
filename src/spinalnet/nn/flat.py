"""One parameter in the place of many: what `SpinalNet.flatten_parameters` makes of its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.kernels.plan import Layout


class FlatLinear(nn.Linear):
    """A linear map whose matrix and bias are pieces of the one parameter of its net.

    Takes everything over from `linear` but its parameters. In state dicts it is a linear map like
    any other.

    Args:
        linear: The map in whose place it stands.
        net: The net that holds the parameter.
        places: Of "weight" and "bias", if there is one, in the parameter.
    """

    net: FlatStorage
    places: dict[str, int]

    def __init__(self, linear: nn.Linear, net: FlatStorage, places: dict[str, int]) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which would make parameters
        # Past `nn.Module.__setattr__`: the net that holds this map is no submodule of it.
        self.__dict__.update(linear.__dict__, _parameters={}, net=net, places=places)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The matrix, a view of the net's parameter. Shape `(out_features, in_features)`."""
        return self.net.flat_piece(self.places["weight"])

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """The bias, a view of the net's parameter. Shape `(out_features,)`."""
        return self.net.flat_piece(self.places["bias"]) if "bias" in self.places else None

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.places:
            piece = getattr(self, name)
            destination[prefix + name] = piece if keep_vars else piece.detach()

    def _load_from_state_dict(  # type: ignore[override]
        self, state_dict: Any, prefix: str, local_metadata: Any, *reports: Any
    ) -> None:
        # For the time of the call the pieces are what torch expects to copy into. Even with
        # `assign=True` they are: a piece cannot be another tensor.
        self._parameters.update({name: getattr(self, name).detach() for name in self.places})
        metadata = {**local_metadata, "assign_to_params_buffers": False}
        try:
            super()._load_from_state_dict(state_dict, prefix, metadata, *reports)
        finally:
            self._parameters.clear()


class FlatStorage(nn.Module):
    """A net that can keep the parameters of its linear maps in one, `flat`."""

    # Of the pieces of `flat`, which lie one behind the other; none before `flatten_`.
    _shapes: tuple[tuple[int, ...], ...] = ()

    def flatten_(self, linears: Sequence[nn.Module]) -> list[FlatLinear]:
        """Move the parameters of these maps into `flat`; return what to put in their places.

        Raises:
            InputError: If they do not have their own matrices and biases (parametrized, tied,
                replaced), all of one type, on one device, frozen together or not at all.
        """
        parameters: list[Tensor] = []
        flattened: list[FlatLinear] = []
        for linear in linears:
            own = {name: p for name, p in linear._parameters.items() if p is not None}
            if type(linear) is not nn.Linear or "weight" not in own:
                raise InputError(
                    "flatten_parameters needs layers that are nn.Linear with parameters of their "
                    f"own, got {linear}; undo what replaced or parametrized it."
                )
            places = {name: len(parameters) + index for index, name in enumerate(own)}
            flattened.append(FlatLinear(linear, self, places))
            parameters += own.values()
        kinds = {(p.dtype, p.device, p.requires_grad) for p in parameters}
        if len(kinds) > 1 or len(set(map(id, parameters))) < len(parameters):
            raise InputError(
                "flatten_parameters needs parameters of one type on one device, all of them frozen "
                "or none, and no two tied; flatten first and freeze then."
            )
        self._shapes = tuple(tuple(p.shape) for p in parameters)
        self.flat = nn.Parameter(
            torch.cat([p.detach().flatten() for p in parameters]), parameters[0].requires_grad
        )
        return flattened

    @property
    def is_flat(self) -> bool:
        """Whether the net has a parameter `flat`."""
        return bool(self._shapes)

    def flat_piece(self, place: int) -> Tensor:
        """Return one matrix or bias."""
        shape, start = self._shapes[place], sum(map(math.prod, self._shapes[:place]))
        return self.flat[start : start + math.prod(shape)].view(shape)

    def flat_pieces(self) -> list[Tensor]:
        """Return all of them by one operation: by itself each has a gradient as long as `flat`."""
        return Layout((), (), (), self._shapes).pieces([self.flat])

    def flat_parts(
        self, linears: Sequence[nn.Module], output: nn.Module
    ) -> tuple[Tensor, Layout] | None:
        """Return the parameter, and where in it a chain is; None if it does not hold all of it."""
        maps = [m for m in (*linears, output) if isinstance(m, FlatLinear) and m.net is self]
        if len(maps) <= len(linears):
            return None  # somebody put another module in the place of one
        *places, last = [m.places for m in maps]
        if len({place for m in maps for place in m.places.values()}) < len(self._shapes):
            return None  # the kernels would not write the gradient of a stretch nobody uses
        weights = tuple([own["weight"] for own in places])
        biases = tuple([own["bias"] for own in places if "bias" in own])
        return self.flat, Layout(weights, biases, tuple(last.values()), self._shapes)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(prefix + "flat", None)  # saved by the layers, each its own

    def _load_from_state_dict(  # type: ignore[override]
        self,
        state_dict: Any,
        prefix: str,
        metadata: Any,
        strict: bool,
        missing_keys: list[str],
        *reports: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing_keys, *reports)
        if prefix + "flat" in missing_keys:
            missing_keys.remove(prefix + "flat")

"""Activations and norms by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from spinalnet._checks import InputError, unknown_name

Activation = str | Callable[[], nn.Module]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

NORMS: dict[str, Callable[..., nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def make_activation(activation: Activation) -> nn.Module:
    """Return a module from a name in `ACTIVATIONS`, a module factory, or a module as it is."""
    if isinstance(activation, nn.Module):
        return activation
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        return ACTIVATIONS[activation]()
    module = activation() if callable(activation) else None
    if not isinstance(module, nn.Module):
        raise InputError(
            "activation must be a name or a function without arguments that returns a module, "
            f"got {activation!r}."
        )
    return module


def make_norms(
    norm: str | None, features: int, count: int, device: Any, dtype: Any
) -> list[nn.Module]:
    """Return `count` norms of that name in `NORMS`, none for `None`."""
    if norm is None:
        return []
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    return [NORMS[norm](features, device=device, dtype=dtype) for _ in range(count)]

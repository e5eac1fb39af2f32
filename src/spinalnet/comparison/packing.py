"""Nested values as JSON and tensors, and back: what a fitted model is, without a pickle.

Mappings, lists, text and numbers become JSON; arrays become tensors that it names. Objects are of
classes that the caller lists by name, and become what they hold. Anything else is refused, so that
a file never holds what could only be read by running code it names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinalnet._checks import InputError

_MARK = "$"  # begins the only key of a mapping that stands for something else
_PLAIN = (str, bool, int, type(None))


Kinds = Mapping[str, type]


def pack(value: Any, prefix: str, kinds: Kinds | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Return (what JSON can hold, tensors by name).

    Args:
        value: None, text, numbers, types of numbers, arrays and tensors; lists, tuples and mappings
            of these.
        prefix: Begins the names of the tensors.
        kinds: Classes whose objects are taken apart, by the name that stands for them: with their
            own `state()`, else by their attributes.

    Raises:
        TypeError: If anything else is among them; where it stands is named.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(value, prefix, tensors, kinds or {}), tensors


def _pack(value: Any, place: str, tensors: dict[str, Tensor], kinds: Kinds) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, np.ndarray | Tensor):
        return _pack_array(value, place, tensors, kinds)
    if isinstance(value, Mapping):
        named = all(isinstance(key, str) and not key.startswith(_MARK) for key in value)
        if named:
            inner = value.items()
            return {key: _pack(one, f"{place}.{key}", tensors, kinds) for key, one in inner}
        pairs = [[key, one] for key, one in value.items()]
        return {"$pairs": _pack(pairs, place, tensors, kinds)}
    if isinstance(value, list | tuple):
        packed = [_pack(one, f"{place}.{i}", tensors, kinds) for i, one in enumerate(value)]
        return packed if isinstance(value, list) else {"$tuple": packed}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"$dtype": np.dtype(value).str, "as_type": isinstance(value, type)}
    for name, kind in kinds.items():
        if type(value) is kind:
            made: Any = value
            state = made.state() if hasattr(kind, "from_state") else vars(value)
            return {"$object": name, "state": _pack(dict(state), place, tensors, kinds)}
    raise TypeError(f"{place} is a {type(value).__name__}, which is no plain value.")


def _pack_array(
    value: np.ndarray | Tensor, place: str, tensors: dict[str, Tensor], kinds: Kinds
) -> Any:
    if isinstance(value, Tensor):
        tensors[place] = value.detach().cpu().clone()
        return {"$tensor": place}
    kind = value.dtype.kind
    if kind in "OUS":
        held = _pack(value.ravel().tolist(), place, tensors, kinds)
        return {"$values": held, "shape": [*value.shape], "dtype": value.dtype.str}
    if kind not in "biufmM":
        raise TypeError(f"{place} is an array of {value.dtype}, which is no plain value.")
    plain = value.astype(value.dtype.newbyteorder("="))
    if kind in "mM":
        plain = plain.view(np.int64)
    elif kind == "u" and value.dtype.itemsize > 1:  # torch knows few operations on these
        plain = plain.astype(np.int64)
    tensors[place] = torch.from_numpy(np.ascontiguousarray(plain).reshape(value.shape).copy())
    return {"$array": place, "dtype": value.dtype.newbyteorder("=").str}


def unpack(value: Any, tensors: Mapping[str, Tensor], kinds: Kinds | None = None) -> Any:
    """Return what `pack` was given, by the same `kinds`.

    Raises:
        InputError: If it is not what `pack` made.
    """
    try:
        return _unpack(value, tensors, kinds or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the file is damaged ({type(error).__name__}: {error}).") from error


def _unpack(value: Any, tensors: Mapping[str, Tensor], kinds: Kinds) -> Any:
    def inner(held: Any) -> Any:
        return _unpack(held, tensors, kinds)

    if isinstance(value, list):
        return [inner(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(inner(one) for one in value["$tuple"])
    if "$pairs" in value:
        return dict(inner(value["$pairs"]))
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$dtype" in value:
        dtype = np.dtype(value["$dtype"])
        return dtype.type if value["as_type"] else dtype
    if "$array" in value:
        array, dtype = tensors[value["$array"]].numpy(), np.dtype(value["dtype"])
        return array.view(dtype) if dtype.kind in "mM" else array.astype(dtype)
    if "$values" in value:
        held = np.empty(len(value["$values"]), dtype=object)
        held[:] = inner(value["$values"])
        return held.astype(np.dtype(value["dtype"])).reshape(value["shape"])
    if "$object" in value:
        kind, state = kinds[value["$object"]], inner(value["state"])
        if hasattr(kind, "from_state"):
            return kind.from_state(state)  # type: ignore[attr-defined]
        made = object.__new__(kind)
        vars(made).update(state)
        return made
    return {key: inner(one) for key, one in value.items()}

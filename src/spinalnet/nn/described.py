"""A head as plain data, its class and the arguments that make it anew, and out of it again.

The arguments are read from the head as it is, not kept from when it was made: what was changed
since is in them, or the head is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, unknown_name
from spinalnet.nn.activations import ACTIVATIONS
from spinalnet.nn.dense import LinearHead, MLPHead, Normed, ProgressiveNet
from spinalnet.nn.heads import HEADS, make_head
from spinalnet.nn.layers import SpinalLayer, SpinalNet
from spinalnet.nn.own_heads import MADE_AS
from spinalnet.nn.unchained import UnchainedNet
from spinalnet.nn.variants import MultiTapSpinalNet, ReusedSpinalNet, TiledSpinalNet
from spinalnet.own_code import is_own

_CLASS = "class"  # beside the arguments


def describe_head(head: nn.Module) -> dict[str, Any]:
    """Return the class of a head and the arguments that make it anew, as plain data.

    Args:
        head: Of this package, of a class that inherits from one and changes nothing of what it
            computes, or one of your own that was made by its name (see `use_head`).

    Raises:
        InputError: If it is none of these, has an activation without a name, or was changed since
            it was made so that its arguments do not describe it.
    """
    if MADE_AS in vars(head):
        given = dict(vars(head)[MADE_AS])
        if not _is_plain(given):
            raise InputError(
                f"the head '{given[_CLASS]}' was made with options that are no plain data, so it "
                "cannot be written: give numbers, names and lists of them."
            )
    else:
        kind = _kind_of(head)
        try:
            given = {_CLASS: kind.__name__, **_READERS[kind](head)}
        except (AttributeError, IndexError, TypeError) as error:
            raise _changed(head, "its parts are others") from error
    with torch.device("meta"):
        twin = make_described(given)
    wanted, there = (
        {key: tuple(value.shape) for key, value in one.state_dict().items()} for one in (twin, head)
    )
    if wanted != there:
        differs = next(key for key in {**wanted, **there} if wanted.get(key) != there.get(key))
        raise _changed(head, f"see '{differs}'")
    if not getattr(head, "is_flat", False):  # of which linear maps are of another class
        parts = [repr(one).partition("(")[2] for one in (twin, head)]
        if parts[0] != parts[1]:
            raise _changed(head, "its parts are others")
    return given


def _changed(head: nn.Module, why: str) -> InputError:
    return InputError(
        f"a {type(head).__name__} that was changed since it was made ({why}) is not described by "
        "its arguments: put the change into a class of your own."
    )


def make_described(given: Mapping[str, Any]) -> nn.Module:
    """Make a head of what `describe_head` returned, with weights of its own.

    Raises:
        InputError: If there is no such class, an argument is unknown or impossible, or it is a head
            of the user's own that is not in use.
    """
    options = dict(given)
    name = str(options.pop(_CLASS, "SpinalNet"))
    if is_own(name):
        return make_head(name, options.pop("in_features"), options.pop("out_features"), **options)
    kinds = {kind.__name__: kind for kind in _READERS}
    if name not in kinds:
        raise unknown_name("class of heads", name, kinds)
    try:
        return kinds[name](**options)
    except TypeError as error:
        raise InputError(f"it describes no {name}: {str(error).splitlines()[0]}.") from error


def _kind_of(head: nn.Module) -> type[nn.Module]:
    """Return the class of this package that says what a head computes."""
    for kind in type(head).__mro__:
        if kind in _READERS:
            same = all(getattr(type(head), n) is getattr(kind, n) for n in ("forward", "__init__"))
            if same:
                return kind
            break
    names = [name for name, row in HEADS.items() if is_own(name) and row.options is type(head)]
    place = names[0] if names else "mymodule:MyHead"
    raise InputError(
        f"a {type(head).__name__} is not described by the arguments of a head of this package: "
        f"make it by its place, spinalnet.nn.use_head('{place}') and then "
        f"spinalnet.make_head('{place}', ...), or give the folder of a run."
    )


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


# --- what is read of each class -------------------------------------------------------------------


def _activation(module: nn.Module) -> str:
    names = [name for name, make in ACTIVATIONS.items() if repr(make()) == repr(module)]
    if not names:
        raise InputError(
            f"the activation {module!r} has no name, by which it could be made anew: use one of "
            f"{', '.join(ACTIVATIONS)}."
        )
    return names[0]


def _norm(modules: Any) -> str | None:
    """Return the name of the norm of some modules; None without any."""
    first = next(iter(modules), None)
    return None if first is None else {"BatchNorm1d": "batch"}.get(type(first).__name__, "layer")


def _sizes(head: Any) -> dict[str, Any]:
    return {"in_features": head.in_features, "out_features": head.out_features}


def _chain(spine: SpinalLayer) -> dict[str, Any]:
    return {
        "activation": _activation(spine.activation),
        "norm": _norm(spine.norms),
        "dropout": spine.dropout,
    }


def _spinal(net: Any) -> dict[str, Any]:
    return {
        **_sizes(net),
        "hidden_features": net.spine.hidden_features,
        "num_layers": net.spine.num_layers,
        "num_splits": net.spine.num_splits,
        **_chain(net.spine),
        "output_dropout": float(net.output_dropout.p),
        "share_weights": net.spine.share_weights,
        "bias": net.output.bias is not None,
    }


def _tiled(net: Any) -> dict[str, Any]:
    # Several numbers of splits make slices of one width, and so one net.
    width = net.spine.split_sizes[0]
    splits = range(1, 2 * net.in_features + 1)
    found = next(n for n in splits if round(net.in_features / n) == width)
    return {**_spinal(net), "num_splits": found}


def _reused(net: Any) -> dict[str, Any]:
    schedule = net.spine.schedule
    first = [schedule.index(layer) for layer in schedule]
    found = _spinal(net)
    del found["share_weights"]
    return {**found, "reuse": [[k, earlier] for k, earlier in enumerate(first) if earlier < k]}


def _unchained(net: Any) -> dict[str, Any]:
    return {
        **_sizes(net),
        "hidden_features": list(net.widths),
        "num_layers": net.num_layers,
        "num_splits": net.num_splits,
        "activation": _activation(net.activation),
        "norm": _norm(net.norms),
        "dropout": net.dropout,
        "output_dropout": float(net.output_dropout.p),
        "bias": net.output.bias is not None,
    }


def _mlp(net: Any) -> dict[str, Any]:
    blocks = list(net.layers)
    rates = [next((part.p for part in b if isinstance(part, nn.Dropout)), 0.0) for b in blocks]
    norms = [part.norm for block in blocks for part in block if isinstance(part, Normed)]
    found = {
        **_sizes(net),
        "hidden_features": list(net.hidden_features),
        "norm": _norm(norms),
        "dropout": [*rates, float(net.output_dropout.p)],
        "bias": net.output.bias is not None,
    }
    return found | ({"activation": _activation(blocks[0][-1])} if blocks else {})


def _linear(net: Any) -> dict[str, Any]:
    return {**_sizes(net), "dropout": net.dropout.p, "bias": net.output.bias is not None}


def _progressive(net: Any) -> dict[str, Any]:
    return {
        **_sizes(net),
        "hidden_features": net.hidden_features,
        "num_layers": net.num_layers,
        "activation": _activation(net.activation),
        "norm": _norm(net.norms),
        "input_dropout": net.input_dropout.p,
        "dropout": net.dropout.p,
        "output_dropout": net.output_dropout.p,
        "bias": net.output.bias is not None,
    }


def _taps(net: Any) -> dict[str, Any]:
    chains = list(net.chains)
    return {
        **_sizes(net),
        "hidden_features": chains[0].hidden_features,
        "tap_features": list(net.tap_features),
        "layers_per_tap": [chain.num_layers for chain in chains],
        "top_features": net.top.hidden_features[0],
        "num_splits": max(chain.num_splits for chain in chains),
        **_chain(chains[0]),
        "output_dropout": float(net.top.output_dropout.p),
        "bias": net.top.output.bias is not None,
    }


_READERS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    SpinalNet: _spinal,
    TiledSpinalNet: _tiled,
    ReusedSpinalNet: _reused,
    UnchainedNet: _unchained,
    MLPHead: _mlp,
    LinearHead: _linear,
    ProgressiveNet: _progressive,
    MultiTapSpinalNet: _taps,
}


def largest_size(value: Any) -> int:
    """Return the largest whole number of a description, which no weights can be smaller than."""
    if isinstance(value, Mapping):
        return max(map(largest_size, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(largest_size, value), default=0)
    return value if isinstance(value, int) else 0


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Put weights into a module, in their own number type, and return it in evaluation mode.

    Raises:
        InputError: If they do not fit; the first that does not is named.
    """
    there = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    for key in {**there, **given}:
        if there.get(key) != given.get(key):
            said = {name: one.get(key, "none") for name, one in (("is", there), ("has", given))}
            raise InputError(
                f"'{key}' is {said['has']} among the weights, but {said['is']} in the "
                f"{type(module).__name__}."
            )
    first = next((value for value in weights.values() if value.is_floating_point()), None)
    if first is not None:
        module.to(first.dtype)
    module.load_state_dict(dict(weights))
    return module.eval()

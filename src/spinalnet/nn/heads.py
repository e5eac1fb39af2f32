"""The one table of heads by name, and how one is built from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from spinalnet._checks import InputError, unknown_name
from spinalnet.nn.dense import LinearHead, MLPHead, ProgressiveNet, matched_mlp
from spinalnet.nn.layers import SpinalNet
from spinalnet.nn.unchained import UnchainedNet, matched_unchained
from spinalnet.nn.variants import MultiTapSpinalNet, ReusedSpinalNet, TiledSpinalNet
from spinalnet.own_code import is_own, not_in_use


def _shared(in_features: int, out_features: int, hidden_features: int, **options: Any) -> SpinalNet:
    return SpinalNet(in_features, out_features, hidden_features, **options, share_weights=True)


@dataclass(frozen=True)
class HeadRow:
    """One head: how it is built, the class whose arguments it takes too, one line for people."""

    build: Callable[..., nn.Module]
    options: Callable[..., nn.Module]
    summary: str


HEADS: dict[str, HeadRow] = {
    "spinal": HeadRow(SpinalNet, SpinalNet, "chain of narrow layers, each fed a slice"),
    "unchained": HeadRow(UnchainedNet, UnchainedNet, "spinal without the chain: slices alone"),
    "unchained-matched": HeadRow(
        matched_unchained, matched_unchained, "the same with the spinal head's parameter count"
    ),
    "spinal-shared": HeadRow(_shared, SpinalNet, "spinal with one matrix for all later layers"),
    "mlp": HeadRow(MLPHead, MLPHead, "fully connected layers of the paper's widths"),
    "mlp-paper": HeadRow(MLPHead, MLPHead, "the same with the paper's own dropout and norm"),
    "matched": HeadRow(matched_mlp, matched_mlp, "MLP with the spinal head's parameter count"),
    "linear": HeadRow(LinearHead, LinearHead, "one linear map"),
    "progressive": HeadRow(ProgressiveNet, ProgressiveNet, "dense chain: every layer sees all"),
    "spinal-taps": HeadRow(MultiTapSpinalNet, MultiTapSpinalNet, "a spinal chain for every tap"),
    "spinal-tiled": HeadRow(
        TiledSpinalNet, SpinalNet, "compatibility: slices of the original customizable module"
    ),
    "spinal-reused": HeadRow(ReusedSpinalNet, SpinalNet, "compatibility: layers that run twice"),
}


def head_row(name: str) -> HeadRow:
    """Return the row of a head.

    Raises:
        InputError: If there is none, or it is a head of the user's own that is not in use: see
            `own_heads.use_head`. It is not imported here, where names come from files, too.
    """
    if name in HEADS:
        return HEADS[name]
    if is_own(name):
        raise not_in_use(name, "head")
    raise unknown_name("head", name, HEADS)


def head_arguments(name: str) -> dict[str, inspect.Parameter]:
    """Return the options that head `name` takes, by name.

    Raises:
        InputError: If there is no such head.
    """
    row = head_row(name)
    decided = ["share_weights"] if row.build in (_shared, ReusedSpinalNet) else []
    given = {"in_features", "out_features", *decided}
    parameters = {**inspect.signature(row.options).parameters}
    parameters.update(inspect.signature(row.build).parameters)  # its own ones and other defaults
    return {
        option: value
        for option, value in parameters.items()
        if option not in given and value.kind is not inspect.Parameter.VAR_KEYWORD
    }


def make_head(name: str, in_features: int, out_features: int, **options: Any) -> nn.Module:
    """Build the head `name` of `HEADS`; `options` are its class's keyword arguments.

    Raises:
        InputError: If the name or an option is unknown, or a needed option is missing.
    """
    arguments = head_arguments(name)
    for option, value in options.items():
        if option not in arguments:
            raise unknown_name(f"option of head '{name}'", option, arguments)
        usual = arguments[option].default
        if isinstance(usual, bool) and not isinstance(value, bool):
            raise InputError(
                f"{option} of head '{name}' must be true or false, got {value!r}."
            )  # the text "no" would count as true
        if isinstance(usual, float) and isinstance(value, str | bool):
            raise InputError(f"{option} of head '{name}' must be a number, got {value!r}.")
    missing = [
        option
        for option, argument in arguments.items()
        if argument.default is inspect.Parameter.empty and option not in options
    ]
    if missing:
        raise InputError(f"head '{name}' needs the option {', '.join(missing)}.")
    return HEADS[name].build(in_features, out_features, **options)

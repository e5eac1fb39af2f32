"""Heads of the user's own, by the place where they are written: "mymodule:MyHead".

See `own_code`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from spinalnet import own_code
from spinalnet._checks import InputError
from spinalnet.nn.heads import HEADS, HeadRow
from spinalnet.randomness import own_generators

MADE_AS = "_spinalnet_made_as"  # attribute of a head: how it was made


def use_head(place: str) -> None:
    """Import a head and make it a row of `HEADS`, under the name of its place.

    The module may be installed or lie in the current folder. The head is a class of modules, or a
    function that returns one, with `in_features` and `out_features` as its first arguments and
    options with names behind them; it maps `(B, in_features)` to `(B, out_features)`.

    Args:
        place: Module and name, as "mymodule:MyHead" or "package.module:MyHead".

    Raises:
        InputError: If there is no such module or name in it, or its arguments do not fit.
    """
    if place in HEADS:
        return
    made = own_code.imported(place, "head", ["in_features", "out_features"])
    build = functools.partial(_build, made, place)
    HEADS[place] = HeadRow(build, made, own_code.summary(made, place))


def _build(
    made: Callable[..., Any], place: str, in_features: int, out_features: int, **options: Any
) -> nn.Module:
    """Build a head and see, without touching a generator, that it does what a head does."""
    head = made(in_features, out_features, **options)
    if not isinstance(head, nn.Module):
        raise InputError(f"head '{place}' must make a torch.nn.Module, got {type(head).__name__}.")
    trains = head.training
    head.eval()
    try:
        like = next(head.parameters(), torch.zeros(0))
        with own_generators(), torch.no_grad():
            shape = tuple(head(like.new_zeros(2, in_features)).shape)
    except (RuntimeError, TypeError, AttributeError, ValueError, IndexError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"head '{place}' must take an input of shape (B, in_features); of (2, {in_features}) "
            f"it says: {reason}."
        ) from error
    finally:
        head.train(trains)
    if shape != (2, out_features):
        raise InputError(
            f"head '{place}' must return (B, out_features): of an input of shape "
            f"(2, {in_features}) it makes {shape} instead of (2, {out_features})."
        )
    sizes = {"in_features": in_features, "out_features": out_features}
    head.__dict__[MADE_AS] = {"class": place, **sizes, **options}
    return head

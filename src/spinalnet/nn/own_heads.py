"""Heads of the user's own, by the place where they are written: "mymodule:MyHead".

To import a module is to run its code. A person who names a head to a command or to `compare` wants
that; a name that stands in a file of a run, which a stranger may have sent, is only looked up among
the heads in use.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from spinalnet._checks import InputError
from spinalnet.nn.heads import HEADS, HeadRow, is_own
from spinalnet.randomness import own_generators

_FIRST = ["in_features", "out_features"]
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
    if not is_own(place):
        raise InputError(f"a head of your own is named as mymodule:MyHead, got '{place}'.")
    module, _, name = place.partition(":")
    found = getattr(_imported(module, place), name, None)
    if not callable(found):
        raise InputError(
            f"head '{place}' cannot be used: module '{module}' has no class or function '{name}'."
        )
    made: Callable[..., Any] = found
    _check_arguments(made, place)
    build = functools.partial(_build, made, place)
    HEADS[place] = HeadRow(build, made, (inspect.getdoc(made) or place).splitlines()[0])


def _imported(module: str, place: str) -> ModuleType:
    """Return a module, looked for in the current folder last."""
    here = os.path.realpath(".")
    if here not in map(os.path.realpath, sys.path):
        sys.path.append(here)  # last: nothing there may stand before a library's module
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "\0")
        why = f"there is no module '{module}', neither installed nor in {here}"
        raise InputError(f"head '{place}' cannot be used: {why if missing else error}.") from error


def _check_arguments(made: Callable[..., Any], place: str) -> None:
    parameters = list(inspect.signature(made).parameters.values())
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = [one.name for one in parameters[:2] if one.kind in by_place]
    rest = [one for one in parameters[2:] if one.kind is inspect.Parameter.VAR_POSITIONAL]
    if first != _FIRST or rest:
        raise InputError(
            f"head '{place}' must take in_features and out_features first and options by name "
            f"behind them, but takes {inspect.signature(made)}."
        )


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

"""Code of the user's own, by the place where it is written: "mymodule:MyHead", "mymodule:MyNet".

To import a module is to run its code. A person who names a head or a network to a command or to
`compare` wants that; a name that stands in a file of a run, which a stranger may have sent, is only
looked up among what is in use.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from spinalnet._checks import InputError

_SAMPLE = {"head": "mymodule:MyHead", "model": "mymodule:MyNet"}


def is_own(name: str) -> bool:
    """Return whether a name is that of code of the user's own: "mymodule:MyHead"."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name) is not None


def imported(place: str, kind: str, first: Sequence[str]) -> Callable[..., Any]:
    """Import the class or function at a place. The module is installed, or in the current folder.

    Args:
        place: Module and name, as "mymodule:MyHead" or "package.module:MyHead".
        kind: What it makes, "head" or "model".
        first: The arguments that it must take first.

    Raises:
        InputError: If there is no such module or name in it, its code fails, or it takes other
            arguments.
    """
    if not is_own(place):
        raise InputError(f"a {kind} of your own is named as {_SAMPLE[kind]}, got '{place}'.")
    module, _, name = place.partition(":")
    made = getattr(_module(module, place, kind), name, None)
    if not callable(made):
        raise InputError(
            f"{kind} '{place}' cannot be used: module '{module}' has no class or function '{name}'."
        )
    parameters = list(inspect.signature(made).parameters.values())
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [one.name for one in parameters[: len(first)] if one.kind in by_place]
    rest = [one for one in parameters[len(first) :] if one.kind is inspect.Parameter.VAR_POSITIONAL]
    if taken != list(first) or rest:
        raise InputError(
            f"{kind} '{place}' must take {' and '.join(first)} first and options by name behind "
            f"{'it' if len(first) == 1 else 'them'}, but takes {inspect.signature(made)}."
        )
    return made


def not_in_use(name: str, kind: str) -> InputError:
    """Return the error of code that a file names, and nobody else has."""
    return InputError(
        f"{kind} '{name}' is its author's code, which is never run because a file names it: if "
        f"you trust it, put --own-{kind} {name} before the command (spinalnet --own-{kind} ... "
        f"predict ...), or in Python call "
        f"spinalnet.{'nn' if kind == 'head' else 'models'}.use_{kind}('{name}') first."
    )


def summary(made: Callable[..., Any], place: str) -> str:
    """Return the first line of what its author says of it, for people."""
    return (inspect.getdoc(made) or place).splitlines()[0]


def said(error: Exception) -> str:
    """Return what an error of such code says, as the end of a sentence."""
    words = " ".join((str(error).strip() or repr(error)).split())
    named = type(error).__name__
    return (words if isinstance(error, RuntimeError) else f"{named}: {words}")[:240].rstrip(".")


def _module(module: str, place: str, kind: str) -> ModuleType:
    """Return a module, looked for in the current folder last."""
    here = os.path.realpath(".")
    if here not in map(os.path.realpath, sys.path):
        sys.path.append(here)  # last: nothing there may stand before a library's module
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "\0")
        why = f"there is no module '{module}', neither installed nor in {here}"
        raise InputError(
            f"{kind} '{place}' cannot be used: {why if missing else error}."
        ) from error
    except Exception as error:  # it may do anything
        raise InputError(
            f"{kind} '{place}' cannot be used: importing module '{module}' fails ({said(error)})."
        ) from error

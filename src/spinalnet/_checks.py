"""Errors that are the user's to mend, and the few argument checks every room shares.

The command line turns any `SpinalnetError` into one sentence and exit code 2; anything else
is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpinalnetError(Exception):
    """Base of all errors that one sentence explains and the user can mend."""


class InputError(SpinalnetError, ValueError):
    """An argument, a file or a data set is not what it must be."""


class SurgeryError(SpinalnetError, ValueError):
    """A model's classifier cannot be found or replaced without guessing."""


class BackendUnavailable(SpinalnetError, RuntimeError):
    """A compute path was asked for by name but cannot run here."""


class TrainingError(SpinalnetError, RuntimeError):
    """Training cannot go on (for example: the loss is not finite)."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is in no table, with the nearest one that is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return InputError(f"unknown {kind} '{name}'; {hint}Known: {', '.join(known)}.")


def check_positive(name: str, value: int) -> int:
    """Return `value` if it is an integer >= 1, else raise `InputError` naming the argument."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be an integer >= 1, got {value!r}.")
    return value


def check_probability(name: str, value: float) -> float:
    """Return `value` if 0 <= value < 1, else raise `InputError` naming the argument."""
    if not 0.0 <= value < 1.0:
        raise InputError(f"{name} must be in [0, 1), got {value!r}.")
    return float(value)

"""Errors that are the user's to mend, and the few argument checks every wing shares.

The command line turns any `SpinalnetError` into one sentence and exit code 2; anything else
is a bug and keeps its traceback.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


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


MOST_LISTED = 60  # names that a sentence lists where the nearest one can be told


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """Return the error for a name that is in no table, with the nearest one that is."""
    name, known = str(name), sorted(known)
    # The beginning of a name is a near miss of it, however long the rest is.
    longer = [one for one in known if len(name) >= 3 and one.startswith(name)]
    near = sorted(longer, key=len)[:1] or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near and len(known) > MOST_LISTED:
        return InputError(f"unknown {kind} '{name}'; did you mean '{near[0]}'?")
    hint = f"did you mean '{near[0]}'? Known: " if near else "known: "
    return InputError(f"unknown {kind} '{name}'; {hint}{', '.join(known)}.")


def install_extra(extra: str) -> str:
    """Return the words for how an extra is installed: from a checkout, until there is a release."""
    return f"pip install '.[{extra}]' in a checkout of spinalnet"


def pandas_for(what: str) -> Any:
    """Return pandas, which no core part needs.

    Raises:
        InputError: If it is not installed; `what` begins the sentence.
    """
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise InputError(
            f"{what} needs pandas, which is not installed: {install_extra('tables')}."
        ) from error


def missing_gradio() -> InputError:
    """Return what to say where the demo's page cannot be drawn."""
    return InputError(f"the demo needs Gradio, which is not installed: {install_extra('demo')}.")


def some(names: Sequence[object], most: int) -> str:
    """Return names for a sentence, the first `most` of them: "a, b and 7 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


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


def read_fields(kind: type, values: object, what: str) -> dict[str, Any]:
    """Return what a file holds as arguments of a dataclass: names known, none missing, types right.

    Args:
        kind: The dataclass; a field that is one itself is made from a mapping of its own.
        values: What YAML or JSON gave. An integer is a number too, and so is text such as "1e-3",
            as which YAML reads a number without a point.
        what: What a field is called in the sentence of an error.

    Raises:
        InputError: If a name is unknown (the nearest is named) or missing, or a value wrong.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"a {what} belongs in a mapping of names to values, got {values!r}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = _hints_of(kind)
    for name in values:
        if name not in fields:
            raise unknown_name(what, str(name), fields)
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise InputError(f"the {what} '{name}' is missing; known: {', '.join(fields)}.")
    return read_values(values, hints, what)


def read_values(
    values: Mapping[str, Any], hints: Mapping[str, Any], what: str = "value"
) -> dict[str, Any]:
    """Return values of a file as the types of their names; one of no type as it is.

    Raises:
        InputError: If a value is of another type.
    """
    read: dict[str, Any] = {}
    for name, value in values.items():
        try:
            read[name] = _as(hints.get(name, Any), value, f"{what} of {name}")
        except TypeError as error:
            raise InputError(f"{name} must be {error}, got {value!r}.") from error
    return read


def check_values(values: object, wanted: Mapping[str, Any]) -> None:
    """See that what a file holds is a mapping with these names, each of its type; others may stay.

    Args:
        values: What YAML or JSON gave.
        wanted: Types by name, as `read_fields` knows them; what may be missing may be None.

    Raises:
        InputError: If it is no mapping, or a value is wrong.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"a mapping of names to values belongs there, got {reprlib.repr(values)}.")
    for name, hint in wanted.items():
        try:
            _as(hint, values.get(name), name)
        except TypeError as error:
            got = reprlib.repr(values[name]) if name in values else "nothing"
            raise InputError(f"{name} must be {error}, got {got}.") from error


@functools.cache
def _hints_of(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields; to find them takes longer than to read a file."""
    return typing.get_type_hints(kind)


_KINDS = {
    int: "an integer",
    bool: "true or false",
    str: "text",
    float: "a number",
    type(None): "null",
}


_PLAIN_LISTS = {(kind, ...) for kind in (int, bool, str)}


def _as(hint: Any, value: Any, what: str) -> Any:
    """Return `value` as a `hint`; a `TypeError` says what it must be."""
    if hint is Any:
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        return hint(**read_fields(hint, value, what))
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        reasons = []
        for one in inner:
            try:
                return _as(one, value, what)
            except TypeError as error:
                reasons.append(str(error))
        raise TypeError(" or ".join(reasons))
    if origin is typing.Literal:
        fits, wanted = value in inner, " or ".join(map(str, inner))
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError("a list")
        if inner in _PLAIN_LISTS and set(map(type, value)) <= {inner[0]}:
            return tuple(value)  # a confusion of many classes has millions of these
        of_each = inner[:1] * len(value) if inner[1:] == (...,) else inner
        if len(of_each) != len(value):
            raise TypeError(f"a list of {len(of_each)}")
        try:
            return tuple(map(_as, of_each, value, [what] * len(value)))
        except TypeError as error:
            raise TypeError(f"a list, each entry {error}") from error
    elif origin is float:
        try:
            return float(value if not isinstance(value, bool) else "")
        except (TypeError, ValueError):
            fits, wanted = False, _KINDS[float]
    elif origin in _KINDS:
        fits, wanted = type(value) is origin, _KINDS[origin]
    elif origin is list:
        fits, wanted = isinstance(value, list), "a list"
    else:
        fits, wanted = isinstance(value, Mapping), "a mapping"
        if fits and inner:
            try:
                return {key: _as(inner[1], entry, what) for key, entry in value.items()}
            except TypeError as error:
                raise TypeError(f"a mapping, each entry {error}") from error
    if not fits:
        raise TypeError(wanted)
    return value

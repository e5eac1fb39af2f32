"""What is promised: the public names with their signatures, and the command with its options.

    python tests/public_api.py   # writes tests/public_api.txt anew

A change of that file is a change of what others build on: it is looked at line by line, and goes
into CHANGELOG.md (docs/releasing.md says which version it makes).
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

import spinalnet
from spinalnet.cli import root

FILE = Path(__file__).with_suffix(".txt")
WINGS = (
    *("nn", "data", "training", "models", "tabular", "theory", "comparison", "deploy", "paper"),
)


def describe() -> str:
    """Return the whole as text: a line for every name, method and option."""
    parts = {
        "spinalnet": [
            line for name in spinalnet.__all__ for line in _of(name, getattr(spinalnet, name))
        ],
        **{f"spinalnet.{wing}": list(_of_wing(wing)) for wing in WINGS},
        "command": list(_of_command(get_command(root.app), "spinalnet")),
    }
    return "\n\n".join("\n".join([f"# {title}", *lines]) for title, lines in parts.items()) + "\n"


def _of_wing(wing: str) -> Iterator[str]:
    """What a wing's face offers beyond the package's own; methods stand with the class there."""
    face = importlib.import_module(f"spinalnet.{wing}")
    offered = getattr(face, "__all__", None) or [
        name
        for name, value in vars(face).items()
        if not name.startswith("_") and not inspect.ismodule(value) and _is_ours(value)
    ]
    for name in sorted({*offered} - {*spinalnet.__all__}):
        yield next(_of(name, getattr(face, name)))


def _is_ours(value: Any) -> bool:
    return not (inspect.isclass(value) or inspect.isfunction(value)) or value.__module__.startswith(
        "spinalnet"
    )


def _of(name: str, value: Any) -> Iterator[str]:
    """A name, and of a class what it has of its own."""
    if not callable(value):
        yield f"{name}: {type(value).__name__}"
        return
    yield f"{name}{_signature(value)}"
    if not inspect.isclass(value) or issubclass(value, enum.Enum):
        return
    own = {
        attribute: found
        for kind in reversed(value.__mro__)
        if kind.__module__.startswith("spinalnet")
        for attribute, found in vars(kind).items()
        if not attribute.startswith("_")
    }
    for attribute, found in sorted(own.items()):
        if isinstance(found, property):
            yield f"{name}.{attribute}: property"
        elif isinstance(found, staticmethod | classmethod) or inspect.isfunction(found):
            yield f"{name}.{attribute}{_signature(getattr(value, attribute))}"


def _signature(value: Any) -> str:
    """Arguments as they are called: their names, order and defaults; types are for checkers."""
    try:
        signature = inspect.signature(value)
    except ValueError:  # an error class
        return "(...)"
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    text = re.sub(r"<(?:function|class) '?([\w.]+)'?(?: at 0x\w+)?>", r"\1", text)
    return re.sub(r"<[^<>]* object at 0x\w+>|<factory>", "...", text)


def _of_command(command: Any, words: str) -> Iterator[str]:
    """A command and its options, without their help."""
    if hasattr(command, "commands"):
        for parameter in command.params:
            yield f"{words} {_option(parameter)}"
        for name, inner in sorted(command.commands.items()):
            yield from _of_command(inner, f"{words} {name}")
        return
    for parameter in command.params:
        yield f"{words} {_option(parameter)}"


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"{parameter.name.upper()}{'...' if parameter.nargs == -1 else ''}"
    return "/".join([*parameter.opts, *parameter.secondary_opts])


if __name__ == "__main__":
    FILE.write_text(describe(), encoding="utf-8")
    print(f"wrote {FILE}")

"""The reference pages of the site: public names from docstrings, commands from their help.

What is public stands in tests/public_api.txt, which a test holds to the package: there is no second
list here. The pages are Sphinx's own directives, in docs/reference/, which is not committed.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AGREED = Path(__file__).parents[1] / "tests" / "public_api.txt"
TITLES = {
    "spinalnet": "What most programs need",
    "spinalnet.nn": "The layer and what it is compared with",
    "spinalnet.data": "Data sets, folders, tables",
    "spinalnet.training": "Training and run folders",
    "spinalnet.models": "Networks",
    "spinalnet.tabular": "Nets for tables",
    "spinalnet.theory": "Theory",
    "spinalnet.comparison": "Comparisons",
    "spinalnet.deploy": "Using a trained model",
    "spinalnet.paper": "The paper's experiments",
}


def public_names(text: str | None = None) -> dict[str, dict[str, list[str]]]:
    """Return the public names by module, each with the public attributes it has."""
    text = AGREED.read_text(encoding="utf-8") if text is None else text
    found: dict[str, dict[str, list[str]]] = {}
    for part in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        module, *lines = part.splitlines()
        if module == "command":
            continue
        names = found.setdefault(module, {})
        for line in filter(None, lines):
            name, _, attribute = re.split(r"[(:]", line, maxsplit=1)[0].partition(".")
            names.setdefault(name, [])
            if attribute:
                names[name].append(attribute)
    return {module: names for module, names in found.items() if names}


def pages() -> dict[str, str]:
    """Return the text of every page of the reference by the name of its file."""
    modules = public_names()
    return {
        "index.rst": _index(modules),
        **{f"{module}.rst": _module(module, names) for module, names in modules.items()},
        "command.rst": _command_page(),
    }


def write(folder: Path) -> None:
    """Write the pages that have changed into a folder, and take away what is none of them."""
    folder.mkdir(exist_ok=True)
    made = pages()
    for path in folder.glob("*.rst"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# --- names ----------------------------------------------------------------------------------------


def _index(modules: dict[str, dict[str, list[str]]]) -> str:
    words = (
        "Every public name with its arguments, out of its docstring, and every command with all "
        "its options. What is not named here may change at any time; what a version promises of "
        "the rest says :doc:`../releasing`."
    )
    entries = [*modules, "command"]
    rows = [
        f"   * - :doc:`{module}`\n     - {TITLES[module]}\n     - {_listed(module, names)}"
        for module, names in modules.items()
    ]
    table = (
        ".. list-table::\n   :header-rows: 1\n\n   * - module\n     - holds\n     - names\n"
        + "\n".join(rows)
    )
    toc = ".. toctree::\n   :hidden:\n\n" + "\n".join(f"   {entry}" for entry in entries)
    command = "The command line: :doc:`command`."
    return "\n\n".join([_title("Reference"), words, table, command, toc]) + "\n"


def _listed(module: str, names: dict[str, list[str]]) -> str:
    return ", ".join(f":py:obj:`~{module}.{name}`" for name in names)


def _module(module: str, names: dict[str, list[str]]) -> str:
    face = importlib.import_module(module)
    parts = [_title(f"{module}: {TITLES[module][0].lower()}{TITLES[module][1:]}")]
    for name, attributes in names.items():
        parts.append(_entry(f"{module}.{name}", getattr(face, name), attributes))
    return "\n\n".join(parts) + "\n"


def _entry(path: str, value: Any, attributes: list[str]) -> str:
    """Return the directives of one name."""
    if isinstance(value, dict):
        return _registry(path, value)
    if inspect.isclass(value):
        lines = [f".. autoclass:: {path}"]
        if attributes:
            lines.append(f"   :members: {', '.join(attributes)}")
        return "\n".join(lines)
    return f".. autofunction:: {path}"


def _registry(path: str, rows: dict[str, Any]) -> str:
    """Return a table of names that options and arguments take."""
    lines = [f".. py:data:: {path}", "", "   Rows by name:", ""]
    for name, row in rows.items():
        about = _about(row)
        lines.append(f"   - ``{name}``" + (f": {about}" if about else ""))
    return "\n".join(lines)


def _about(row: Any) -> str:
    """Return what a row says of itself in one line."""
    said = getattr(row, "summary", None) or getattr(row, "about", None)
    if not isinstance(said, str):
        if not (inspect.isfunction(row) or inspect.isclass(row)):
            return ""
        said = (inspect.getdoc(row) or "").split("\n\n", maxsplit=1)[0]
    return _escaped(" ".join(said.split()))


# --- the command ----------------------------------------------------------------------------------


def _command_page() -> str:
    from typer.main import get_command

    from spinalnet.cli import root

    group = get_command(root.app)
    words = (
        "What ``spinalnet COMMAND --help-all`` shows, of every command. ``--help`` shows the "
        "options of every day. What all commands have in common is told in :doc:`../terminal`."
    )
    context = group.make_context("spinalnet", [], resilient_parsing=True)
    return "\n\n".join([_title("The command"), words, *_commands(group, context)]) + "\n"


def _commands(command: Any, context: Any) -> Iterator[str]:
    from spinalnet.cli import help

    for name, inner in command.commands.items():
        if inner.hidden:
            continue
        below = inner.make_context(name, [], parent=context, resilient_parsing=True)
        path = below.command_path
        yield f".. _command-{path.replace(' ', '-')}:"
        yield _title(path, "-")
        yield from (_escaped(" ".join(one.split())) for one in (inner.help or "").split("\n\n"))
        if hasattr(inner, "commands"):
            yield from _commands(inner, below)
            continue
        for title, rows in help.sections(inner, below, everything=True):
            lines = [f".. rubric:: {title}", ""]
            for flags, about in rows:
                lines += [f"``{' '.join(flags.plain.split())}``"]
                lines += [f"   {_escaped(about.plain) or '–'}", ""]
            yield "\n".join(lines)


# --- text -----------------------------------------------------------------------------------------


def _title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}"


def _escaped(text: str) -> str:
    """Return plain words as reStructuredText that shows them, options as code."""
    parts = re.split(r"(?<![\w-])(--[a-z][\w-]*)", text)
    return "".join(
        f"``{part}``" if i % 2 else re.sub(r"([\\*|_`])", r"\\\1", part)
        for i, part in enumerate(parts)
    )

"""Help pages: options in groups, in the order of their use, at any width.

Of a command with many options a page shows those of every day (`EVERYDAY`), and --help-all all.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from spinalnet.cli.output import out_console

# By command, the options that its page shows, in the order of their use; the others stand under
# --help-all. Of a command that is not named here all are shown.
EVERYDAY = {
    "compare": (
        *("heads", "seeds", "until_decided", "tune", "metric", "dry_run", "jobs"),
        *("preset", "model", "backbone", "freeze", "epochs", "target", "labels", "out"),
    ),
    "train": (
        *("head", "preset", "model", "backbone", "freeze"),
        *("epochs", "lr", "augment", "device", "seed"),
        *("target", "labels", "out", "config"),
    ),
    "lr-find": (
        *("heads", "steps", "lowest", "highest", "model", "backbone", "freeze"),
        *("batch_size", "optimizer", "augment", "device", "out"),
    ),
}

_ALWAYS = ("help_all", "help")  # of every page
_FIRST, _LAST = ("Arguments", "Comparison", "Options", "Network", "Training"), "Output"
_STACKED_BELOW = 72  # columns: two columns of text would be a word wide
_WIDEST_NAME = 34
_INDENT = (0, 0, 0, 4)


def show(command: Any, ctx: Any, *, everything: bool = False) -> None:
    """Print the page of a command or of a group of commands."""
    words = [one.metavar or (one.name or "").upper() for one in _arguments(command, ctx)]
    words += ["COMMAND ..."] if getattr(command, "commands", None) else []
    usage = " ".join([ctx.command_path, "[OPTIONS]", *words])
    out_console.print(Padding(Text(f"Usage: {usage}", "bold"), (1, 1, 0, 1)))
    if command.help:
        out_console.print(Padding(_prose(command.help), (1, 1, 1, 1)))
    wide = out_console.width >= _STACKED_BELOW
    shown = list(visible(command, ctx, everything=everything))
    commands = _commands(command, ctx)
    longest = max((name.cell_len for rows in commands.values() for name, _ in rows), default=0)
    for name, rows in commands.items():
        _print_panel(name, rows, wide, longest)
    for name, rows in sections(command, ctx, everything=everything):
        _print_panel(name, rows, wide)
    hidden = len(list(visible(command, ctx, everything=True))) - len(shown)
    if hidden:
        line = f" {hidden} more options: {ctx.command_path} --help-all"
        out_console.print(Text(line, "dim"))
        out_console.print()


def sections(
    command: Any, ctx: Any, *, everything: bool
) -> list[tuple[str, list[tuple[Text, Text]]]]:
    """Return the panels of a page: of each its title, and for every parameter names and words."""
    shown = list(visible(command, ctx, everything=everything))
    return [
        (title, [(_names(one), _about(one)) for one in params])
        for title, params in _in_panels(shown)
    ]


def visible(command: Any, ctx: Any, *, everything: bool) -> Iterable[Any]:
    """Yield the parameters that the page of a command shows, in their order."""
    params = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    chosen = EVERYDAY.get(command.name or "")
    if chosen is None or everything:
        yield from params
        return
    by_name = {one.name: one for one in params}
    yield from _arguments(command, ctx)
    yield from (by_name[name] for name in (*chosen, *_ALWAYS) if name in by_name)


def _arguments(command: Any, ctx: Any) -> list[Any]:
    return [one for one in command.get_params(ctx) if one.param_type_name == "argument"]


def _panel(param: Any) -> str:
    if param.param_type_name == "argument":
        return "Arguments"
    if param.name == "help":
        return _LAST
    return getattr(param, "rich_help_panel", None) or "Options"


def _in_panels(params: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Return parameters by panel: those everybody looks for first, what is common to all last."""
    panels: dict[str, list[Any]] = {name: [] for name in _FIRST}
    for one in params:
        panels.setdefault(_panel(one), []).append(one)
    last = panels.pop(_LAST, [])
    return [(name, rows) for name, rows in (*panels.items(), (_LAST, last)) if rows]


def _commands(command: Any, ctx: Any) -> dict[str, list[tuple[Text, Text]]]:
    panels: dict[str, list[tuple[Text, Text]]] = {}
    for name in getattr(command, "commands", {}):
        one = command.get_command(ctx, name)
        if one is None or one.hidden:
            continue
        summary = " ".join(inspect.cleandoc(one.help or "").split("\n\n")[0].split())
        row = Text(name, "bold cyan"), Text(summary)
        panels.setdefault(getattr(one, "rich_help_panel", None) or "Commands", []).append(row)
    return panels


def _names(param: Any) -> Text:
    """Return what is written for a parameter: its flags and what belongs behind them."""
    if param.param_type_name == "argument":
        return Text(param.metavar or (param.name or "").upper(), "bold cyan")
    name = Text(", ".join(sorted(param.opts, key=len, reverse=True)), "bold cyan")
    if param.secondary_opts:  # below it --no-this
        name.append(f"\n{param.secondary_opts[0]}")
    if kind := behind(param):
        name.append(f" {kind}", "not bold yellow")
    return name


_KINDS = {
    **{"int": "N", "integer": "N", "integer range": "N", "float": "X", "float range": "X"},
    **{"Path": "PATH", "path": "PATH", "file": "PATH", "str": "TEXT", "text": "TEXT"},
}


def behind(param: Any) -> str:
    """Return what stands behind the name of an option: N, PATH, or its choices."""
    if getattr(param, "is_flag", False):
        return ""
    if param.metavar:
        return param.metavar
    # typer has had two ways to say what a parameter takes
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    kind = getattr(annotation, "__name__", "") or getattr(getattr(param, "type", ""), "name", "")
    return _KINDS.get(kind, "TEXT")


def _about(param: Any) -> Text:
    """Return what a parameter is for, and what holds without it."""
    text = Text(" ".join((getattr(param, "help", None) or "").split()))
    default = param.default
    if param.required and param.param_type_name == "option":
        text.append(" [required]", "red")
    if getattr(param, "is_flag", False):
        default = "on" if default is True and param.secondary_opts else None
    if default not in (None, "", [], ()) and getattr(param, "show_default", True):
        if callable(default) or "Default" in text.plain:
            return text
        text.append(f" [{default}]", "dim")
    return text


def _prose(text: str) -> Group:
    """Return the paragraphs of a docstring."""
    paragraphs = [" ".join(one.split()) for one in inspect.cleandoc(text).split("\n\n")]
    spaced = [part for one in paragraphs for part in (Text(one), Text(""))]
    return Group(*spaced[:-1])


def _print_panel(
    title: str, rows: Sequence[tuple[Text, Text]], wide: bool, longest: int = 0
) -> None:
    if wide:
        body: Any = Table.grid(padding=(0, 2, 0, 0))
        longest = longest or max(len(line) for name, _ in rows for line in name.plain.split("\n"))
        body.add_column(width=min(longest, _WIDEST_NAME), overflow="fold")
        body.add_column(ratio=1)
        for row in rows:
            body.add_row(*row)
    else:
        body = Group(
            *(part for name, about in rows for part in (name, Padding(about, (0, 0, 0, 4))))
        )
    out_console.print(Panel(body, title=title, title_align="left", border_style="dim"))

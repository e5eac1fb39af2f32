"""The `spinalnet` command.

torch is imported inside the commands, never at the top, so that `--help` and a typing mistake
answer at once. The training options of `train` and `compare` are made from the fields of
`TrainConfig`: one more field is one more option.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.markup import escape

import spinalnet
from spinalnet._checks import SpinalnetError


class _Command(typer.core.TyperCommand):
    """A command whose paths may begin with `~`, which no shell expands in `--out=~/runs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command, as ever."""
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            named = getattr(parameter.type, "name", "") in ("path", "file", "directory")
            value = ctx.params.get(parameter.name or "")
            if named and value is not None:
                several = isinstance(value, list | tuple)
                ctx.params[parameter.name] = (
                    type(value)(map(_expanded, value)) if several else _expanded(value)
                )
        return rest


def _expanded(path: Any) -> Any:
    """Return a path, of whatever type it is, with `~` as the home folder."""
    return type(path)(os.path.expanduser(path))  # noqa: PTH111 (`files` needs torch)


class App(typer.Typer):
    """An application of such commands."""

    def command(self, *args: Any, **options: Any) -> Any:
        """Register a command."""
        return super().command(*args, **{"cls": _Command, **options})


app = App(
    help="SpinalNet: train, compare and use spinal heads. Start with: spinalnet compare digits",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
out_console = Console()
err_console = Console(stderr=True)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(spinalnet.__version__)
        raise typer.Exit


def _hush_other_processes() -> None:
    """Let the main process alone speak, where `torchrun` has started several."""
    if "RANK" in os.environ:  # `_dist` needs torch, which takes its time
        from spinalnet import _dist

        out_console.quiet = err_console.quiet = not _dist.is_main()


def as_options(sentence: str) -> str:
    """Return a sentence of the library, which speaks of arguments, in the words of the command.

    An argument is known by an underscore in its name, or by a value: `name=value`.
    """
    command = typer.main.get_command(app)
    for word in sys.argv[1:]:
        command = getattr(command, "commands", {}).get(word, command)
    flags = {p.name: p.opts[0] for p in command.params if p.param_type_name == "option" and p.name}
    if "weights" in flags:  # the only option that is called otherwise than its argument
        flags["pretrained"] = flags["weights"]
    names = "|".join(sorted(flags, key=len, reverse=True))

    def in_words(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if value is None:
            return flags[name] if "_" in name else name
        return flags[name] if value == "True" else f"{flags[name]} {value}"

    pattern = rf"(?<![\w'\"/.-])(?P<name>{names})\b(?:=(?P<value>[\w:+-]+(?:\.\w+)*))?(?![\w'\"/=])"
    return re.sub(pattern, in_words, sentence)


def main() -> None:
    """Run the command; a mistake of the user ends in one sentence and exit code 2."""
    _hush_other_processes()
    try:
        app()
    except SpinalnetError as error:
        err_console.quiet = False  # it may be the mistake of one process alone
        err_console.print(
            f"[red]error[/] {escape(as_options(str(error)))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)

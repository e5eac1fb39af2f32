"""The `spinalnet` command.

torch is imported inside the commands, never at the top, so that `--help` and a typing mistake
answer at once. The training options of `train` and `compare` are made from the fields of
`TrainConfig`: one more field is one more option.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

import spinalnet
from spinalnet._checks import SpinalnetError

_Function = TypeVar("_Function", bound=Callable[..., Any])


class App(typer.Typer):
    """An application whose paths may begin with `~`, which no shell expands in `--out=~/runs`."""

    def command(self, *args: Any, **options: Any) -> Callable[[_Function], _Function]:
        """Register a command: what it declares as a path reaches it with the home folder in it."""
        register = super().command(*args, **options)

        def decorate(function: _Function) -> _Function:
            @functools.wraps(function)
            def with_home(*given: Any, **values: Any) -> Any:
                return function(*given, **{name: _expanded(v) for name, v in values.items()})

            register(with_home)
            return function

        return decorate


def _expanded(value: Any) -> Any:
    """Return a path, or several, with `~` as the home folder, and all else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))  # noqa: PTH111 (Path's raises for unknown users)
    return value


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
    own_head: Annotated[
        list[str] | None,
        typer.Option(
            help="A head of your own, mymodule:MyHead, that a run was trained with, repeatable. "
            "Its module is imported: name only what you trust."
        ),
    ] = None,
) -> None:
    if version:
        print(spinalnet.__version__)
        raise typer.Exit
    if own_head:
        from spinalnet.nn import use_head

        for place in own_head:
            use_head(place)


@contextmanager
def _of_processes() -> Iterator[None]:
    """Explain errors of a job of several processes, one of which has ended."""
    if "RANK" not in os.environ:
        yield
        return
    from spinalnet import _dist

    with _dist.telling_of_lost():
        yield


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


# What is left of a command that was stopped where it trained nothing into a folder of its own.
_KEPT = {
    "compare": "finished runs are kept",
    "reproduce": "finished runs are kept",
    "train": "nothing is saved yet; the same command begins anew",
}


def say_stopped(error: BaseException) -> None:
    """Say in one sentence what a stopped command leaves, and what continues it."""
    from spinalnet.training import stopping

    known = getattr(typer.main.get_command(app), "commands", {})
    command = next((word for word in sys.argv[1:] if word in known), "")
    number = getattr(error, "number", signal.SIGINT)
    why = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    saved = stopping.saved() if stopping.saved is not None and command != "lr-find" else ""
    again = "the same command"
    if "RANK" not in os.environ:  # else it is the command that started all processes
        again = f"'{shlex.join(['spinalnet', *sys.argv[1:]])}'"
    if command in ("compare", "reproduce"):
        kept = f"{_KEPT[command]}{', and ' + saved if saved else ''}"
        sentence = f"stopped{why}; the same command continues: {kept}."
    elif saved:
        sentence = f"stopped{why}; {saved}; {again} continues."
    else:
        kept = _KEPT.get(command, "nothing is kept of it; the same command begins anew")
        sentence = f"stopped{why}; {kept}."
    err_console.print(escape(sentence), highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command.

    A mistake of the user ends in one sentence and exit code 2; a signal in one sentence and 128
    more than its number.
    """
    from spinalnet.training import stopping

    _hush_other_processes()
    stopping.install()
    try:
        with _of_processes():
            app()
    except SpinalnetError as error:
        err_console.quiet = False  # it may be the mistake of one process alone
        err_console.print(
            f"[red]error[/] {escape(as_options(str(error)))}", highlight=False, soft_wrap=True
        )
        sys.exit(getattr(error, "exit_code", 2))
    except (MemoryError, RuntimeError) as error:
        from spinalnet.training import trouble

        if not trouble.is_of_memory(error):
            raise
        err_console.print(
            f"[red]error[/] out of memory{trouble.asked_for(error)}: lower --batch-size or "
            "--eval-batch-size, or run fewer at a time (--jobs 1).",
            highlight=False,
            soft_wrap=True,
        )
        sys.exit(2)
    except (KeyboardInterrupt, stopping.Interrupted) as error:
        say_stopped(error)
        sys.exit(stopping.exit_code(error))

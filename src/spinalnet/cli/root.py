"""The `spinalnet` command.

torch is imported inside the commands, never at the top, so that `--help` and a typing mistake
answer at once. What all commands have in common is here: `App.command` gives each of them the
options of how it speaks, paths with `~`, and an end in one sentence.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import reprlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.table import Table
from typer.core import TyperCommand, TyperGroup

import spinalnet
from spinalnet._checks import SpinalnetError
from spinalnet.cli import advice, help, output
from spinalnet.cli.output import complain, out_console
from spinalnet.texts import in_options

_Function = TypeVar("_Function", bound=Callable[..., Any])
# What the parser raises; typer brings its own or click's, by its version.
_WrongUse: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


# Groups of commands on the page of all.
ASK, USE, KNOW, PAPER = "Ask and train", "Use a model", "What there is", "The paper"


class Command(TyperCommand):
    """A command whose help page is ours."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        help.show(self, ctx)


class Group(TyperGroup):
    """Commands under one name, which alone says what one can do."""

    suggest_commands = False  # see `advice`

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; without any, show what there is."""
        if not args and not ctx.resilient_parsing:
            _welcome() if ctx.parent is None else help.show(self, ctx)
            raise typer.Exit
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        help.show(self, ctx)


def _show_all(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        help.show(ctx.command, ctx, everything=True)
        raise typer.Exit


def _common(
    *,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Lines of JSON on standard output: what happens, then the answer.",
            rich_help_panel="Output",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="The answer alone.", rich_help_panel="Output")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Also what goes on meanwhile.", rich_help_panel="Output"
        ),
    ] = False,
    help_all: Annotated[
        bool,
        typer.Option(
            "--help-all",
            help="Show all options.",
            is_eager=True,
            callback=_show_all,
            rich_help_panel="Output",
        ),
    ] = False,
) -> None:
    """Hold the options that every command has."""


class App(typer.Typer):
    """An application whose commands all speak, and end, in the same manner.

    Paths may begin with `~`, which no shell expands in `--out=~/runs`.
    """

    def command(self, *args: Any, **options: Any) -> Callable[[_Function], _Function]:
        """Register a command: it is given what is its own, and no option of `_common`."""
        register = super().command(*args, cls=Command, **options)
        common = inspect.signature(_common, eval_str=True).parameters

        def decorate(function: _Function) -> _Function:
            signature = inspect.signature(function, eval_str=True)

            @functools.wraps(function)
            def run(*given: Any, **values: Any) -> Any:
                how = {name: values.pop(name, False) for name in common if name != "help_all"}
                values.pop("help_all", None)
                own = {name: _expanded(value) for name, value in values.items()}
                with output.speaking(**how):
                    try:
                        return function(*given, **own)
                    except KeyboardInterrupt as error:  # a signal goes on to `main`
                        say_stopped(error)
                        raise typer.Exit(130) from None

            parameters = [*signature.parameters.values(), *common.values()]
            run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
            register(run)
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
    help="Does a spinal head help on your data, and what does it cost? Start with: spinalnet "
    "compare digits",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

# What one can do, in ten lines.
_WELCOME = (
    ("compare digits", "does a spinal head help?"),
    ("compare ./photos", "a folder for each class"),
    ("compare t.csv --target y", "a table"),
    ("train ./photos --out a", "train one model"),
    ("predict a ./new", "and use it"),
    ("demo a", "try it in a browser"),
    ("list", "data, networks, heads"),
    ("recipes", "the paper's experiments"),
    ("--help", "every command"),
)


def _welcome() -> None:
    """Say what one can do."""
    lines = Table.grid(padding=(0, 1, 0, 0))
    for words, about in _WELCOME:
        lines.add_row(f"spinalnet [bold]{words}[/]", about)
    out_console.print("The SpinalNet head, compared honestly on your data.")
    out_console.print(lines, highlight=False)


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
    own_model: Annotated[
        list[str] | None,
        typer.Option(help="A network of your own, mymodule:MyNet, in the same way."),
    ] = None,
) -> None:
    if version:
        print(spinalnet.__version__)
        raise typer.Exit
    if own_head:
        from spinalnet.nn import use_head

        for place in own_head:
            use_head(place)
    if own_model:
        from spinalnet.models import use_model

        for place in own_model:
            use_model(place)


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

        output.hush(not _dist.is_main())


@functools.cache
def command() -> Any:
    """Return the command with all of its commands, which takes a tenth of a second to make."""
    return typer.main.get_command(app)


def as_options(sentence: str) -> str:
    """Return a sentence of the library, which speaks of arguments, in the words of the command.

    What it is told of a run, such as by `report`, is in the words of the commands that make runs.
    """
    asked = command()
    makers = [asked.commands[name] for name in ("compare", "train")]
    for word in sys.argv[1:]:
        asked = getattr(asked, "commands", {}).get(word, asked)
    flags = {
        p.name: p.opts[0]
        for one in (*makers, asked)
        for p in one.params
        if p.param_type_name == "option" and p.name
    }
    if "weights" in flags:  # the only option that is called otherwise than its argument
        flags["pretrained"] = flags["weights"]
    return in_options(sentence, flags)


# What is left of a command that was stopped where it trained nothing into a folder of its own.
_UNFINISHED = "the epochs that are done of unfinished ones (of a table, the nets)"
_KEPT = {"train": "nothing is saved yet; the same command begins anew"}


def say_stopped(error: BaseException) -> None:
    """Say in one sentence what a stopped command leaves, and what continues it."""
    from spinalnet.training import stopping

    known = getattr(command(), "commands", {})
    name = next((word for word in sys.argv[1:] if word in known), "")
    number = getattr(error, "number", signal.SIGINT)
    why = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    saved = stopping.saved() if stopping.saved is not None and name != "lr-find" else ""
    again = "the same command"
    if "RANK" not in os.environ:  # else it is the command that started all processes
        again = f"'{shlex.join(['spinalnet', *sys.argv[1:]])}'"
    if name in ("compare", "reproduce"):
        kept = f"finished runs are kept, and {saved or _UNFINISHED}"
        sentence = f"stopped{why}; {again} continues: {kept}."
    elif saved:
        sentence = f"stopped{why}; {saved}; {again} continues."
    else:
        kept = _KEPT.get(name, "nothing is kept of it; the same command begins anew")
        sentence = f"stopped{why}; {kept}."
    output.say_now(sentence)


def main() -> None:
    """Run the command.

    A mistake of the user ends in one sentence and exit code 2; a signal in one sentence and 128
    more than its number.
    """
    from spinalnet.training import stopping

    _hush_other_processes()
    try:
        with stopping.answering(), _of_processes():
            code = command()(prog_name="spinalnet", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except _WrongUse as error:
        complain(advice.explain(error, command(), sys.argv[1:]))
        sys.exit(2)
    except SpinalnetError as error:
        output.hush(False)  # it may be the mistake of one process alone
        complain(as_options(str(error)))
        sys.exit(getattr(error, "exit_code", 2))
    except (MemoryError, RuntimeError) as error:
        from spinalnet.training import trouble

        if not trouble.is_of_memory(error):
            raise
        complain(
            f"out of memory{trouble.asked_for(error)}: lower --batch-size or --eval-batch-size, or "
            "run fewer at a time (--jobs 1)."
        )
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        complain(f"{reprlib.repr(error.filename)} names no file or folder: {error.strerror}.")
        sys.exit(2)
    except (KeyboardInterrupt, stopping.Interrupted) as error:
        say_stopped(error)
        sys.exit(stopping.exit_code(error))

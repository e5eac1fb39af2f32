"""The one place where the command says something.

What is told while a command runs (notes, phases, epochs, what has failed) goes through the
`logging` module, as what the library itself says does: logger "spinalnet". `speaking` hangs one
handler on it, which prints on standard error or, with --json, writes lines of JSON on standard
output. What a command answers goes through `answer`.

Text may be anybody's, such as the name of a file: it is never read as markup.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from spinalnet.texts import readable

out_console = Console()
err_console = Console(stderr=True)

_log = logging.getLogger("spinalnet.cli")
_STYLES = {"note": "yellow", "failed": "red", "error": "red"}


@dataclass
class Manner:
    """How the present command speaks.

    Attributes:
        as_json: Lines of JSON on standard output, and nothing else there.
        quiet: The answer alone, and what has failed.
        verbose: Also what the library does meanwhile, with the time of day.
        noted: Notes that were told.
        result: The answer in lines of JSON, which is the last of them, whatever is told behind it.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    noted: set[str] = dataclasses.field(default_factory=set)
    result: Mapping[str, Any] | None = None


manner = Manner()


@contextmanager
def speaking(*, as_json: bool, quiet: bool, verbose: bool) -> Iterator[None]:
    """Speak so until the command has ended; what other programs log is theirs."""
    logger, handler = logging.getLogger("spinalnet"), _Handler()
    before = dataclasses.replace(manner), logger.level, logger.propagate
    manner.__dict__.update(vars(Manner(as_json, quiet, verbose)))
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        if manner.result is not None:
            write_json("result", manner.result)
        logger.removeHandler(handler)
        old, level, logger.propagate = before
        logger.setLevel(level)
        manner.__dict__.update(vars(old))


class _Handler(logging.Handler):
    """Prints a record, or writes it as a line of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        phase = getattr(record, "phase", None)
        kind = getattr(record, "event", "phase" if phase else "message")
        if manner.as_json:
            told = {"phase": phase} if phase else {}
            write_json(kind, told | getattr(record, "data", {}) | ({"text": text} if text else {}))
        elif text:
            line = Text()
            if manner.verbose:
                line.append(f"{_time_of_day(record)} ", "dim")
            if kind in _STYLES:
                line.append(f"{kind} ", _STYLES[kind])
            _print(err_console, line.append(readable(text)))


def _time_of_day(record: logging.LogRecord) -> str:
    return logging.Formatter(datefmt="%H:%M:%S").formatTime(record, "%H:%M:%S")


def tell(event: str, text: str = "", *, level: int = logging.INFO, **data: Any) -> None:
    """Tell that something has happened; without a text only those who read JSON hear of it."""
    _log.log(level, "%s", text, extra={"event": event, "data": data})


def note(text: str) -> None:
    """Tell what the user should know, once."""
    if text not in manner.noted:
        manner.noted.add(text)
        tell("note", text)


def say(text: str, **data: Any) -> None:
    """Say a line beside the answer, on standard error."""
    tell("message", text, **data)


def answer(result: Mapping[str, Any], *shown: Any) -> None:
    """Give what the command was asked for, once: as a table and lines, or as the last line of JSON.

    Args:
        result: The same for programs.
        shown: For people: text, which is no markup, and anything else that rich can print.
    """
    if manner.as_json:
        assert manner.result is None, "one answer for a command; parts of it are `answer_part`"
        manner.result = result
        return
    _show(shown)


def answer_part(event: str, part: Mapping[str, Any], *shown: Any) -> None:
    """Give a part of an answer as soon as it is known; the whole `answer` follows.

    Args:
        event: What kind of line it is for programs.
        part: See `answer`.
        shown: See `answer`.
    """
    if manner.as_json:
        write_json(event, part)
        return
    _show(shown)


def _show(shown: Iterable[Any]) -> None:
    for one in shown:
        _print(out_console, _text(one) if isinstance(one, str) else one)


def listed(header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Any:
    """Return rows for the terminal; where their columns would be a word wide, one below another.

    Args:
        header: What the columns are; empty for none. The first one names a row.
        rows: Text, which is no markup.
        title: Of all.
    """
    rows = list(rows)
    narrow = out_console.width < 20 * len(rows[0] if rows else header)
    if narrow and len(header) > 2:
        lines = [_text(title, "bold")] if title else []
        for name, *cells in rows:
            told = [(label, cell) for label, cell in zip(header[1:], cells, strict=True) if cell]
            lines += [_text(name, "bold"), *(_text(f"  {label}: {cell}") for label, cell in told)]
        return Group(*lines)
    table = Table(
        title=_text(title, "italic") if title else None,
        title_justify="left",
        box=None,
        show_header=bool(header),
        pad_edge=False,
    )
    for place in range(len(rows[0]) if rows else len(header)):
        table.add_column(Text(header[place]) if header else "", no_wrap=place == 0)
    for name, *cells in rows:
        table.add_row(_text(name, "bold"), *map(_text, cells))
    return table


def write_json(event: str, data: Mapping[str, Any]) -> None:
    """Write a line of JSON on standard output; numbers that are not finite become null."""
    if out_console.quiet:  # a process beside the main one
        return
    line = json.dumps(_plain({"event": event, **data}), allow_nan=False)
    print(line, file=sys.stdout, flush=True)


def complain(text: str) -> None:
    """Say what is wrong, in one sentence, before or instead of everything else."""
    if manner.as_json or "--json" in sys.argv[1:]:
        write_json("error", {"text": text})
    line = Text().append("error ", "red").append(readable(text))
    _print(err_console, line)


def say_now(text: str) -> None:
    """Say a line on standard error, however the command speaks: it ends here."""
    if manner.as_json:
        write_json("message", {"text": text})
    _print(err_console, _text(text))


def hush(quiet: bool) -> None:
    """Let this process say nothing: another one speaks."""
    out_console.quiet = err_console.quiet = quiet


def _text(text: str, style: str = "") -> Text:
    return Text(readable(text), style)


def _print(console: Console, shown: Any) -> None:
    """Print; lines of text are broken between words.

    Whole stay those with a path, which one copies, and in a file what is told meanwhile.
    """
    if not isinstance(shown, Text):
        console.print(shown)
        return
    whole = "/" in shown.plain or (console.stderr and not console.is_terminal)
    console.print(shown, highlight=False, soft_wrap=whole)


def _plain(value: Any) -> Any:
    """Return a value as strict JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return value

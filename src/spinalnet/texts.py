"""Text that anybody may have written: read as data (YAML, JSON), and shown as what it is."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import reprlib
from array import array
from collections.abc import Mapping
from typing import Any

_DEEPEST = 60  # of lists and mappings in one another; ours have six
_LARGEST = 2**64  # whole number; seeds have 63 bits


def from_yaml(text: str) -> Any:
    """Return the plain values that YAML holds: what JSON could hold too.

    Raises:
        ValueError: If it is no YAML, is nested too deep, has aliases (a few lines of which stand
            for gigabytes), names one thing twice, has a number that the versions of YAML read
            differently, or holds anything else, such as a date.
    """
    import yaml

    # It builds what is nested by calling itself, so depth is counted first.
    loader = _loader()
    try:
        if not _is_harmless(text):
            depth = 0
            for event in yaml.parse(text, loader):
                if isinstance(event, yaml.CollectionStartEvent):
                    depth += 1
                    if depth > _DEEPEST:
                        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
                elif isinstance(event, yaml.CollectionEndEvent):
                    depth -= 1
                elif isinstance(event, yaml.AliasEvent):
                    raise ValueError("it has aliases (*name), which are not read")
        return _plain(yaml.load(text, loader))
    except (yaml.YAMLError, RecursionError) as error:
        if "nesting depth" in str(error):  # of libyaml, which looks ahead further than we count
            raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from error
        raise ValueError(" ".join(str(error).split()) or "it is no YAML") from error
    except (LookupError, AttributeError, TypeError) as error:  # of `!!int ""`, `!!bool "q"`
        raise ValueError("a value is not what its tag (!!) says") from error


@functools.cache
def _loader() -> Any:
    """Return the safe loader, which here refuses a name that stands twice in a mapping.

    The same loader in C, where the library was built with it, takes a tenth of the time.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        name, line = reprlib.repr(key.value), key.start_mark.line + 1
                        raise ValueError(f"the name {name} stands there again in line {line}")
                    seen.add(key.value)
            return super().construct_mapping(node, deep)

        def construct_number(self, node: Any) -> int | float:
            whole = node.tag == "tag:yaml.org,2002:int"
            if _AMBIGUOUS.search(node.value) if whole else ":" in node.value:
                raise ValueError(
                    f"{node.value} in line {node.start_mark.line + 1} is another number to some "
                    "(8 for 010, 90 for 1:30): write it without a zero before it or a colon, or "
                    "in quotes if it is text"
                )
            return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)

    for kind in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_number)
    return Loader


_AMBIGUOUS = re.compile(r"^[-+]?0[0-9_]|:")


def _is_harmless(text: str) -> bool:
    """Return whether YAML has no alias, and can be built by a function that calls itself.

    A level of nesting has a bracket, or begins further right than the one around it; a list may
    begin where the mapping around it does.
    """
    longest = max(map(len, re.split("[\r\n]", text)))
    return "*" not in text and 2 * longest + text.count("[") + text.count("{") < 500


def from_json(text: str | bytes, *, nan: float | None = math.nan) -> Any:
    """Return the plain values that JSON holds.

    Args:
        text: The JSON.
        nan: What stands for numbers that are not finite, for which JSON has no word.

    Raises:
        ValueError: If it is no JSON, or nested too deep.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return _plain(_decoder(nan).decode(text))
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels") from error


@functools.cache
def _decoder(nan: float | None) -> json.JSONDecoder:
    """Return what reads JSON; to make one takes longer than to read a line of metrics."""
    return json.JSONDecoder(parse_constant=lambda _: nan)


def _plain(value: Any) -> Any:
    """Return a value that holds nothing but what JSON holds.

    Raises:
        ValueError: If it does.
    """
    layer = [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for one in layer:
            kind = type(one)
            if kind is dict:
                for key in one:
                    if type(key) is not str:
                        raise ValueError(f"names must be text, got {reprlib.repr(key)}")
                inner.extend(one.values())
            elif kind is list:
                if not _is_counts(one):
                    inner.extend(one)
            elif kind is int:
                if abs(one) > _LARGEST:
                    raise ValueError("it holds a whole number of more than 64 bits")
            elif one is not None and kind not in (str, float, bool):
                raise ValueError(f"a {kind.__name__} is no plain value")
        if not inner:
            return value
        layer = inner
    raise ValueError(f"it is nested deeper than {_DEEPEST} levels")


def _is_counts(row: list[Any]) -> bool:
    """Return whether a list holds nothing but whole numbers that fit into 64 bits.

    Confusions of many classes have millions: a row is looked at as a whole, by a loop in C.
    """
    try:
        array("q", row)
    except (TypeError, OverflowError):
        return False
    return True


def spreadsheet_cell(value: Any) -> Any:
    """Return what stands in a CSV file for a value: text that a spreadsheet would run is quoted.

    A cell that begins with one of `= + - @`, a tab or a new line is a formula to spreadsheets,
    whoever has chosen the name of the file or the class that stands there. Numbers are left as they
    are.
    """
    if not isinstance(value, str) or not value.startswith(_RUN_AS_FORMULA):
        return value
    return value if _NUMBERS.fullmatch(value) else f"'{value}"


_RUN_AS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = r"(-|[-+]?\d+(\.\d*)?(e[-+]?\d+)?)"  # or a hyphen where there is none
_NUMBERS = re.compile(rf"{_NUMBER}( {_NUMBER})*", re.ASCII)


def readable(text: str) -> str:
    r"""Return text that can be written anywhere: a byte of a file name that is no text is `\xff`.

    Python holds such a byte as half of a pair of UTF-16, which no encoding takes.
    """
    text = _NO_TEXT.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_NO_TEXT = re.compile("[\udc80-\udcff]")


def is_text(name: str) -> bool:
    """Return whether a name can be written as UTF-8."""
    return not _HALF.search(name)


_HALF = re.compile("[\ud800-\udfff]")


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as one line of text, whatever bytes its name holds."""
    text = readable(os.fspath(path))
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def in_options(sentence: str, flags: Mapping[str, str]) -> str:
    """Return a sentence that speaks of arguments in the words of a command.

    An argument is known by an underscore in its name, or by a value: `name=value`. What stands
    right behind a colon or a comma is an option of a head: `spinal:lr=0.1`.

    Args:
        sentence: Any.
        flags: The options by the names of their arguments.
    """
    names = "|".join(sorted(flags, key=len, reverse=True))

    def in_words(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        if value is None:
            return flags[name] if "_" in name else name
        return flags[name] if value == "True" else f"{flags[name]} {value}"

    pattern = (
        rf"(?<![\w'\"/.,:-])(?P<name>{names})\b(?:=(?P<value>[\w:+-]+(?:\.\w+)*))?(?![\w'\"/=])"
    )
    return re.sub(pattern, in_words, sentence)

"""What the command lines of the benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with a script's docstring, line by line as it is."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def existing_folder(text: str) -> Path:
    """Return an argument as a folder (`type=` of an argument).

    Raises:
        argparse.ArgumentTypeError: If there is none of that name.
    """
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder '{text}'")
    return path

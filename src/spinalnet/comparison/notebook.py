"""What a notebook shows of a trained model: what it is, what its run reached, the drawn head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, some
from spinalnet.comparison.metrics import title_of
from spinalnet.comparison.passed_on import config_of

_MOST = 10  # names of classes or columns


def test_of(source: Path | None) -> dict[str, float]:
    """Return the test metrics of the run that a model was read from; nothing where none is known.

    Args:
        source: Folder of the run or of a model that was passed on, or a file in one.
    """
    if source is None:
        return {}
    folder = source if source.is_dir() else source.parent
    try:
        known = files.read_json(folder / "result.json") or config_of(folder) or {}
    except InputError:  # it is damaged, which is told where the run is asked for
        return {}
    test = known.get("test")
    found = test if isinstance(test, Mapping) else {}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def names_of(names: Sequence[Any]) -> str:
    """Return names for a row, their number first."""
    return f"{len(names)}: {some(names, _MOST)}" if names else ""


def as_html(title: str, rows: Mapping[str, Any], test: Mapping[str, float], drawing: str) -> str:
    """Return a title, the drawn head and a table of what is known.

    Args:
        title: Of all.
        rows: What is said, by name; what is empty is left out.
        test: The metrics of its run.
        drawing: Of its head, as an element; empty if it is not drawn.
    """
    shown = {name: str(value) for name, value in rows.items() if value not in (None, "", ())}
    scores = [f"{title_of(key)} {value:.4g}" for key, value in test.items() if key != "n"]
    if scores:
        count = f" ({int(test['n']):,} examples)" if "n" in test else ""
        shown[f"test of its run{count}"] = ", ".join(scores)
    body = "".join(
        f'<tr><th style="text-align: left" scope="row">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in shown.items()
    )
    return f"<p><b>{escape(title)}</b></p>{drawing}<table><tbody>{body}</tbody></table>"

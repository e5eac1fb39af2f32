"""What a word on the command line may be completed to, without loading torch.

The names stand in `names.json`, which `python docs/tables.py` writes from the tables themselves; a
test holds it against them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

Complete = Callable[[str], list[str]]

_FILE = Path(__file__).with_name("names.json")
_MARKS = ("DONE", "comparison.yaml")  # of a finished run, of a comparison


@functools.cache
def known() -> dict[str, list[str]]:
    """Return the names of each kind: "datasets", "models", "heads", ..."""
    return json.loads(_FILE.read_text(encoding="utf-8"))


def all_names() -> dict[str, list[str]]:
    """Return what `names.json` must hold, from the tables; loads torch."""
    from spinalnet.bench import BENCHMARKS
    from spinalnet.comparison.metrics import METRICS
    from spinalnet.comparison.tables.heads import TABLE_MODELS
    from spinalnet.comparison.trackers import TRACKERS
    from spinalnet.data import AUGMENTATIONS, DATASETS
    from spinalnet.data.frames import BUNDLED
    from spinalnet.data.table_files import ENDINGS
    from spinalnet.models import MODELS
    from spinalnet.nn import HEADS
    from spinalnet.paper.recipes import RECIPES

    tables = {
        "datasets": [*DATASETS, *(f"sklearn:{name}" for name in BUNDLED)],
        "models": MODELS,
        "heads": dict.fromkeys([*HEADS, *TABLE_MODELS]),
        "recipes": RECIPES,
        "augmentations": AUGMENTATIONS,
        "metrics": METRICS,
        "benchmarks": BENCHMARKS,
        "trackers": TRACKERS,
        "table_endings": ENDINGS,
    }
    return {kind: list(names) for kind, names in tables.items()}


def one(kind: str) -> Complete:
    """Return what completes a name."""
    return lambda incomplete: [name for name in known()[kind] if name.startswith(incomplete)]


def several(kind: str) -> Complete:
    """Return what completes the last of several names with commas between."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in known()[kind] if name.startswith(last)]

    return complete


def of(choices: tuple[str, ...]) -> Complete:
    """Return what completes one of a few words."""
    return lambda incomplete: [word for word in choices if word.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Complete the folder of a run or a comparison; without any, the shell offers files."""
    folder = Path(incomplete or "runs/")
    if not incomplete.endswith("/") and incomplete:
        folder = folder.parent
    try:
        below = sorted(one for pattern in ("*", "*/*", "*/runs/*") for one in folder.glob(pattern))
        found = [str(one) for one in below if any((one / mark).is_file() for mark in _MARKS)]
    except OSError:
        return []
    return [one for one in found if one.startswith(incomplete)][:100]

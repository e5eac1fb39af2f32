"""The 28 tables on which the estimators' defaults are chosen and judged, in two halves.

On the development half (`DEVELOPMENT`) settings are tried, `benchmarks/table_defaults.py`; the
other one (`DECIDING`) is looked at by `benchmarks/table_reach.py` alone, when the defaults are
fixed. The halves were drawn once, from `SEED`, before anything was run on them: within each task
the names were sorted and shuffled, and the first half of them (rounded down for classifications,
up for regressions) is for development.

The tables `sklearn:NAME` come with scikit-learn. The others are files `NAME.csv` of one folder with
a `catalog.csv` of the columns table, target and task; all are well known (UCI, StatLib, OpenML).
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

SEED = 14

CLASSIFICATIONS = (
    *("adult", "breast-cancer-recurrence", "german-credit", "glass", "horse-colic", "hypothyroid"),
    *("ionosphere", "mammography", "phoneme", "pima-diabetes", "sklearn:breast_cancer"),
    *("sklearn:digits", "sklearn:iris", "sklearn:wine", "soybean"),
)
REGRESSIONS = (
    *(
        "abalone",
        "auto-imports",
        "auto-mpg",
        "body-fat",
        "cpu",
        "housing",
        "meta",
        "quake",
        "servo",
    ),
    *("sklearn:diabetes", "sklearn:linnerud", "wine-quality-red", "wine-quality-white"),
)


def draw_halves(seed: int = SEED) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the development half and of the deciding half, each sorted."""
    generator = random.Random(seed)
    development: list[str] = []
    for names, count in (
        (CLASSIFICATIONS, len(CLASSIFICATIONS) // 2),
        (REGRESSIONS, -(-len(REGRESSIONS) // 2)),
    ):
        shuffled = sorted(names)
        generator.shuffle(shuffled)
        development += shuffled[:count]
    rest = {*CLASSIFICATIONS, *REGRESSIONS} - set(development)
    return tuple(sorted(development)), tuple(sorted(rest))


DEVELOPMENT = (
    *("abalone", "adult", "auto-mpg", "german-credit", "housing", "hypothyroid", "ionosphere"),
    *("mammography", "quake", "servo", "sklearn:diabetes", "sklearn:wine", "soybean"),
    "wine-quality-white",
)
DECIDING = (
    *("auto-imports", "body-fat", "breast-cancer-recurrence", "cpu", "glass", "horse-colic"),
    *("meta", "phoneme", "pima-diabetes", "sklearn:breast_cancer", "sklearn:digits"),
    *("sklearn:iris", "sklearn:linnerud", "wine-quality-red"),
)


def sources(names: tuple[str, ...], folder: Path) -> dict[str, dict[str, str]]:
    """Return the arguments of `load_table` for every name: source, and of files target and task."""
    with (folder / "catalog.csv").open(encoding="utf-8") as file:
        catalog = {row["table"]: row for row in csv.DictReader(file)}
    found = {}
    for name in names:
        if name.startswith("sklearn:"):
            found[name] = {"source": name}
            continue
        row = catalog[name]
        source = str(folder / f"{name}.csv")
        found[name] = {"source": source, "target": row["target"], "task": row["task"]}
    return found

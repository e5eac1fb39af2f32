"""E7, tables: does the answer on 28 tables change when every head is tuned with as many trials?

    OMP_NUM_THREADS=1 python studies/tables.py --data-dir data [--only servo]    # goes on
    python studies/tables.py --draw                       # answers and figure of what is there

`benchmarks/tables.py` compares on the same tables with the package's defaults, of which half of the
tables had a part in the choice. Here each head's settings are chosen anew in every split.

**Design**, fixed before a run of it was kept:

* Tables: the 28 of `benchmarks/table_halves.py`; of one with more than 5,000 rows 5,000, drawn
  once. Columns without any value are left out.
* Heads: spinal, unchained (the same without its chain), mlp (one hidden layer), linear; to be told
  without a verdict also matched (one hidden layer of as many parameters), trees (scikit-learn's
  histogram gradient boosting) and tabm (with the settings it comes with, untuned: a fit of it takes
  as long as a hundred of the others). One net each, not the estimators' ensemble of eight, which
  is the same for all and hides what the wiring does; trees and TabM are ensembles by themselves.
* Splits: five at random (seeds 600 to 604, the same for all heads), three quarters to train on, a
  quarter to test on; classes in equal parts where that can be.
* Tuning: inside the training rows of every split, 16 settings for each head, a Latin hypercube over
  the ranges of docs/tuning.md, of which those that heads share are the same. Each is trained on
  three quarters of these rows and scored on the others, with a seed of its own; of equal scores the
  lower loss decides. The best one is then trained on all training rows, and scored once on the test
  rows.
* Score: accuracy, or R2, of which a split's is taken to be at least -1.

**Confirmatory questions**: over the tables, spinal minus unchained, minus mlp, minus linear, by the
Bayesian signed-rank test with a region of practical equivalence of 0.01: the answer is *better*,
*equal* or *worse* if it has a probability of at least 0.95, else undecided. One look, when all
tables are there. Everything else is exploratory and gets no verdict.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Record, Row
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from spinalnet import SpinalnetError
from spinalnet.comparison.across import signed_rank
from spinalnet.comparison.spaces import sample, space_of
from spinalnet.comparison.tables.heads import head_row, make_estimator, tuned_options

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import table_halves
import table_reach

TABLES = tuple(sorted((*table_halves.DEVELOPMENT, *table_halves.DECIDING)))
ASKED, OTHERS = ("unchained", "mlp", "linear"), ("matched", "trees", "tabm")
HEADS = ("spinal", *ASKED, *OTHERS)
SPLITS, TRIALS, ROWS = tuple(range(600, 605)), 16, 5_000
ROPE, SURE, LOWEST = 0.01, 0.95, -1.0
APART = 1_000  # seeds of the trials: what is found there must also do with other weights
KEY = ("table", "head")

Trial = tuple[float, float]  # score, loss
Parts = tuple[np.ndarray, np.ndarray]  # rows


@functools.lru_cache(maxsize=1)
def load(folder: Path, name: str) -> Any:
    """Return a table, or 5,000 rows of it."""
    table = table_reach.load(folder, name)
    if len(table.y) <= ROWS:
        return table
    rows = np.random.default_rng(ROWS).permutation(len(table.y))[:ROWS]
    return dataclasses.replace(table, X=_rows(table.X, rows), y=table.y[rows])


def _rows(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def parts_of(rows: np.ndarray, labels: np.ndarray | None, seed: int) -> Parts:
    """Return three quarters of some rows and the others, by class where that can be."""
    own = None if labels is None else labels[rows]
    if own is not None and np.unique(own, return_counts=True)[1].min() < 2:
        own = None
    one, two = train_test_split(rows, test_size=0.25, random_state=seed, stratify=own)
    return np.asarray(one), np.asarray(two)


def settings_of(head: str, seed: int) -> list[dict[str, Any]]:
    """Return what is tried of a head in a split."""
    if head == "tabm":
        return [{}]
    alone = {"ensemble_size": 1} if head_row(head).kind and head != "linear" else {}
    return [
        tuned_options(head, {}, settings) | alone
        for settings in sample(space_of(head), TRIALS, seed)
    ]


def score(table: Any, head: str, options: Mapping[str, Any], parts: Parts, seed: int) -> Trial:
    """Fit on the first part of some rows, and return the score and the loss on the other."""
    train, test = parts
    outputs = 1 if np.ndim(table.y) == 1 else table.y.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trial that does not converge is scored as it is
        model = make_estimator(head, options, table.task, seed, outputs=outputs)
        model.fit(_rows(table.X, train), table.y[train])
        X, y = _rows(table.X, test), table.y[test]
        found = float(model.score(X, y))
        if table.task != "classification":
            return max(found, LOWEST), -found
        if not np.isin(y, model.classes_).all():
            return found, math.inf
        chances = np.clip(model.predict_proba(X), 1e-15, None)
        chances /= chances.sum(1, keepdims=True)
        return found, float(log_loss(y, chances, labels=model.classes_))


def tuned(table: Any, head: str, seed: int) -> tuple[dict[str, Any], float | None, float]:
    """Choose settings inside the training rows of a split, and score them on the test rows.

    Returns:
        The settings, their score in the choice (None if there was none), and that on the test rows.

    Raises:
        SpinalnetError: If no trial could be scored.
    """
    labels = table.y if table.task == "classification" else None
    outer = parts_of(np.arange(len(table.y)), labels, seed)
    inner = parts_of(outer[0], labels, seed)
    tried = settings_of(head, seed)
    if len(tried) == 1:
        return tried[0], None, score(table, head, tried[0], outer, seed)[0]
    trials: list[tuple[Trial, dict[str, Any]]] = []
    for options in tried:
        try:
            found, loss = score(table, head, options, inner, seed + APART)
        except (ValueError, SpinalnetError):  # settings that nobody takes
            continue
        if math.isfinite(found):
            trials.append(((found, -loss), options))
    if not trials:
        raise SpinalnetError(f"no settings of {head} could be scored.")
    (val, _), best = max(trials, key=lambda trial: trial[0])
    return best, val, score(table, head, best, outer, seed)[0]


def keys() -> list[tuple[str, str]]:
    """Return all cells: those of the questions first, TabM, which takes longest, last."""
    by_head = [("spinal", *ASKED), ("matched", "trees"), ("tabm",)]
    return [(table, head) for heads in by_head for table in TABLES for head in heads]


def scores(record: Record) -> dict[str, dict[str, float]]:
    """Return the mean scores of the heads on every table."""
    found: dict[str, dict[str, float]] = {}
    for row in record["cells"]:
        if row["test"]:
            found.setdefault(row["table"], {})[row["head"]] = statistics.fmean(row["test"])
    return found


def answers(record: Record) -> list[Row]:
    """Return the answers over all tables once they are there, and the others' chances."""
    by_table, found = scores(record), []
    for other in (*ASKED, *OTHERS):
        both = [own for own in by_table.values() if {"spinal", other} <= own.keys()]
        gaps = [own["spinal"] - own[other] for own in both]
        if len(gaps) < len(TABLES):
            continue
        chances = dataclasses.asdict(signed_rank(gaps, ROPE))
        sure = next((name for name, chance in chances.items() if chance >= SURE), "undecided")
        found.append(
            {"other": other, "verdict": sure if other in ASKED else None, "tables": len(gaps)}
            | {"difference": statistics.fmean(gaps), **chances}
        )
    return found


def draw(record: Record, path: Path) -> None:
    """Draw, for every table, by how much each head is behind or ahead of spinal."""
    from matplotlib.figure import Figure

    from spinalnet import files

    by_table = {name: own for name, own in scores(record).items() if "spinal" in own}
    others = [head for head in HEADS[1:] if any(head in own for own in by_table.values())]
    figure = Figure(figsize=(2.2 + 1.7 * max(1, len(others)), 1 + 0.2 * len(by_table)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, max(1, len(others)), sharey=True, squeeze=False)[0]
    names = sorted(by_table)
    for axes, other in zip(panels, others, strict=False):
        axes.axvspan(-ROPE, ROPE, color="0.9", lw=0)
        axes.axvline(0, color="0.6", lw=0.8)
        for place, name in enumerate(names):
            if other in by_table[name]:
                gap = by_table[name]["spinal"] - by_table[name][other]
                axes.plot(max(-0.1, min(0.1, gap)), place, "o", ms=4, color="C0")
        axes.set_xlim(-0.105, 0.105)
        axes.set_title(f"spinal minus {other}", loc="left", fontsize=8)
        axes.tick_params(labelsize=7)
        common.plain(axes, grid="x")
    panels[0].set_yticks(range(len(names)), names, fontsize=7)
    panels[0].invert_yaxis()
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to the file."""
    return {
        **{"tables": TABLES, "heads": HEADS, "splits": SPLITS, "trials": TRIALS, "rows": ROWS},
        **{"rope": ROPE, "sure": SURE},
    }


def _compute(key: tuple[str, str], folder: Path) -> Row:
    began, (name, head) = time.perf_counter(), key
    table = load(folder, name)
    row: Row = {**dict(zip(KEY, key, strict=True)), "task": table.task}
    try:
        found = [tuned(table, head, seed) for seed in SPLITS]
    except (ValueError, SpinalnetError) as error:
        row |= {"failed": str(error).splitlines()[0], "val": [], "test": []}
    else:
        row |= {
            "chosen": [options for options, _, _ in found],
            "val": [None if val is None else round(val, 5) for _, val, _ in found],
            "test": [round(test, 5) for _, _, test in found],
        }
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def _complete(record: Record, run: common.Run) -> None:
    compute = functools.partial(_compute, folder=run.data_dir / "tables")
    now = functools.partial(_is_of, run.only)
    common.complete(record, run, KEY, keys(), compute, now=now)


def _is_of(only: str | None, key: tuple[str, str]) -> bool:
    return only in (None, key[0])


STUDY = common.Study(
    "tables", __doc__ or "", design, _complete, answers, draw, needs_data=True, parts=TABLES
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

"""Choose the defaults of the tables' estimators on the development half, for all nets alike.

    python benchmarks/table_defaults.py --tables FOLDER   # of the files of table_halves.py

Every setting is tried with all four nets (spinal, unchained, matched, mlp) on the development half
of `table_halves.py`, in the training rows of four splits, of which each net sees two on
small tables (under `SMALL` training rows) and one on others: three quarters of the rows train, the
rest validate. The test rows of these splits, and the deciding half, are not touched. Of the largest
tables a sample of the rows is taken (`SAMPLED`).

The rule: stage by stage, every variation is compared with the settings chosen so far. What counts
is its gain, the mean over tables of the difference in accuracy or R^2 (of which each is taken to be
at least -1), itself a mean over nets and splits. The variation with the highest gain is taken if
its gain is at least `LEAST` and above its standard error over tables, or else nothing is changed.
Some stages look at small tables and others apart.

Results are appended one by one to `runs/table-defaults.jsonl`; the same command goes on where it
was stopped, and writes `benchmarks/results/table-defaults.json` at the end of every stage.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import table_halves
import torch
from command_line import existing_folder, new_parser
from sklearn.metrics import log_loss

from spinalnet.comparison.tables.heads import make_estimator
from spinalnet.data import load_table
from spinalnet.files import write_mapping
from spinalnet.tabular.learner import RowsLearner
from spinalnet.training import Metrics
from spinalnet.training.environment import describe_origin

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "table-defaults.json"
LINES = ROOT / "runs" / "table-defaults.jsonl"
HEADS = ("spinal", "unchained", "matched", "mlp")
REFERENCES = ("trees", "ridge", "linear", "sklearn-mlp")  # told beside, they choose nothing
SPLITS = {head: 1000 + index for index, head in enumerate(HEADS)}  # nothing else uses these
SAMPLED = {
    **{"adult": 4000, "mammography": 4000},
    **{"wine-quality-white": 3000, "abalone": 3000, "hypothyroid": 3000},
}
SMALL = 1000
LEAST = 0.002

Settings = Mapping[str, Any]

START: Settings = {
    "ensemble_size": 2,
    "embedding": None,
    "early_stopping": False,
    "epochs": 100,
    "batch_size": 64,
    "lr": 3e-3,
    "weight_decay": 1e-2,
    "validation_fraction": 0.1,
    "n_iter_no_change": 20,
}
"""The defaults before, but for two nets averaged in place of one: chance matters less."""

TENTH: Settings = {"early_stopping": "auto", "validation_fraction": 0.1}
EMBEDDINGS = ("clip", "quantile", "piecewise", "linear+piecewise", "quantile+piecewise")

STAGES: tuple[tuple[str, tuple[str, ...], Mapping[str, Settings]], ...] = (
    (
        "embedding and early stopping",  # one for tables of every size
        ("all",),
        {
            "a tenth held out": TENTH,
            "a fifth held out": {"early_stopping": "auto", "validation_fraction": 0.2},
            **{name: {"embedding": name} for name in EMBEDDINGS},
            **{f"{name}, a tenth held out": {"embedding": name, **TENTH} for name in EMBEDDINGS},
        },
    ),
    (
        "rate and decay",
        ("all",),
        {
            "lr 0.001": {"lr": 1e-3},
            "lr 0.01": {"lr": 1e-2},
            "weight decay 0.1": {"weight_decay": 0.1},
            "dropout 0.1": {"dropout": 0.1},
            "chosen by loss": {"select": "loss"},
        },
    ),
    (
        "length",
        ("small", "larger"),
        {"patience 40": {"n_iter_no_change": 40}, "batch 256": {"batch_size": 256}},
    ),
    ("ensemble", ("all",), {"8 nets": {"ensemble_size": 8}}),
)
"""Name, for which tables each is chosen apart, and variations by name."""


def rows_of(name: str, count: int, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows train and which validate, inside the training rows of a split."""
    order = np.random.default_rng([table_halves.SEED, split]).permutation(count)
    order = order[: SAMPLED.get(name, count)]
    training = order[: 3 * len(order) // 4]  # the rest would test
    validated = len(training) // 4
    return training[validated:], training[:validated]


@contextmanager
def _by_loss() -> Iterator[None]:
    """Let epochs be compared by their loss, in a classification too."""
    usual = RowsLearner.measure

    def measure(learner: RowsLearner) -> Metrics | None:
        found = usual(learner)
        return None if found is None else dataclasses.replace(found, accuracy=None)

    RowsLearner.measure = measure  # type: ignore[method-assign]
    try:
        yield
    finally:
        RowsLearner.measure = usual  # type: ignore[method-assign]


def score(table: Any, name: str, head: str, settings: Settings, split: int) -> dict[str, float]:
    """Fit once; return the score on the validation rows and the seconds of the fit."""
    train, val = rows_of(name, len(table.y), split)
    options = dict(settings)
    if head in REFERENCES:
        options = {}
    chosen_by_loss = options.pop("select", "score") == "loss"
    model = make_estimator(head, options, table.task, split)
    began = time.perf_counter()
    with warnings.catch_warnings(), _by_loss() if chosen_by_loss else nullcontext():
        warnings.simplefilter("ignore")
        model.fit(_part(table.X, train), table.y[train])
        seconds = time.perf_counter() - began
        X, y = _part(table.X, val), table.y[val]
        found = {"score": float(model.score(X, y)), "seconds": seconds}
        if table.task == "classification" and np.isin(y, model.classes_).all():
            found["loss"] = float(log_loss(y, model.predict_proba(X), labels=model.classes_))
    return found


def _part(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


class Trials:
    """All fits so far, by what was fitted; new ones are appended as they come."""

    def __init__(self, folder: Path, path: Path = LINES) -> None:
        self.path = path
        self.tables = {
            name: load_table(**arguments)
            for name, arguments in table_halves.sources(table_halves.DEVELOPMENT, folder).items()
        }
        for name, table in self.tables.items():  # a column without any value is no news
            if hasattr(table.X, "dropna"):
                kept = table.X.dropna(axis=1, how="all")
                self.tables[name] = dataclasses.replace(table, X=kept)
        self.found: dict[str, dict[str, float]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.found[entry["key"]] = entry["found"]

    def of(self, name: str, head: str, settings: Settings, split: int) -> dict[str, float]:
        """Return what a fit gave, fitting if nobody has."""
        what = {} if head in REFERENCES else {key: settings[key] for key in sorted(settings)}
        key = json.dumps([name, head, split, what])
        if key not in self.found:
            self.found[key] = score(self.tables[name], name, head, settings, split)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "found": self.found[key]}) + "\n")
        return self.found[key]

    def is_small(self, name: str) -> bool:
        """Return whether a table has so few training rows that it is fitted more often."""
        return len(rows_of(name, len(self.tables[name].y), 0)[0]) < SMALL

    def splits(self, name: str, head: str) -> tuple[int, ...]:
        """Return the splits that a head is tried on."""
        if head not in SPLITS:
            return tuple(SPLITS.values())
        every = (*SPLITS.values(), *SPLITS.values())
        first = every.index(SPLITS[head])
        return every[first : first + (2 if self.is_small(name) else 1)]

    def mean(self, name: str, settings: Settings, what: str = "score", heads: Any = HEADS) -> float:
        """Return a table's mean over nets and splits."""
        low = -1.0 if what == "score" else -math.inf
        return fmean(
            max(low, self.of(name, head, settings, split).get(what, math.nan))
            for head in heads
            for split in self.splits(name, head)
        )


def gains(trials: Trials, names: list[str], now: Mapping[str, Settings], changes: Settings) -> Any:
    """Return the gain of a variation on every table."""
    return {
        name: trials.mean(name, {**now[name], **changes}) - trials.mean(name, now[name])
        for name in names
    }


def choose(
    trials: Trials,
    names: list[str],
    now: Mapping[str, Settings],
    variations: Mapping[str, Settings],
) -> tuple[str | None, dict[str, Any]]:
    """Return the variation that the rule takes, if any, and what was seen of all."""
    seen: dict[str, Any] = {}
    for label, changes in variations.items():
        by_table = gains(trials, names, now, changes)
        error = stdev(by_table.values()) / math.sqrt(len(by_table))
        seen[label] = {"gain": fmean(by_table.values()), "error": error, "tables": by_table}
        print(f"  {label}: {seen[label]['gain']:+.4f} (standard error {error:.4f})", flush=True)
    best = max(seen, key=lambda label: seen[label]["gain"])
    gain, error = seen[best]["gain"], seen[best]["error"]
    return (best if gain >= max(LEAST, error) else None), seen


def run(trials: Trials) -> Iterator[dict[str, Any]]:
    """Yield what is known after every stage."""
    small = {name: trials.is_small(name) for name in trials.tables}
    now: dict[str, Settings] = dict.fromkeys(trials.tables, START)
    stages: list[dict[str, Any]] = []
    for stage, groups, variations in STAGES:
        for group in groups:
            names = [
                n for n in trials.tables if group in ("all", "small" if small[n] else "larger")
            ]
            print(f"{stage}, {group} tables:", flush=True)
            best, seen = choose(trials, names, now, variations)
            print(f"  taken: {best}", flush=True)
            stages.append({"stage": stage, "group": group, "taken": best, "variations": seen})
            if best is not None:
                now |= {name: {**now[name], **variations[best]} for name in names}
        yield {
            "start": dict(START),
            "stages": stages,
            "chosen": {
                group: next(dict(now[name]) for name in now if small[name] == which)
                for group, which in (("small", True), ("larger", False))
            },
            "tables": {
                name: {head: trials.mean(name, now[name], heads=(head,)) for head in HEADS}
                for name in now
            },
        }


def save(found: Mapping[str, Any]) -> None:
    """Write what is known."""
    rule = {"small": SMALL, "least": LEAST}
    how = {"splits": SPLITS, "sampled": SAMPLED, "rule": rule}
    write_mapping(RESULT, {**found, **how, **describe_origin()})


def main() -> None:
    """Try what has not been tried, and write what it says."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--tables", type=existing_folder, required=True, help="folder with catalog.csv"
    )
    torch.set_num_threads(1)
    trials = Trials(parser.parse_args().tables)
    found: dict[str, Any] = {"tables": {}}
    for found in run(trials):
        save(found)
    for name, row in found["tables"].items():  # last of all, as they choose nothing
        row |= {head: trials.mean(name, START, heads=(head,)) for head in REFERENCES}
    sizes = found["chosen"]["small"], found["chosen"]["larger"]
    losses = {}
    for name, table in trials.tables.items():
        if table.task == "classification":
            settings = sizes[not trials.is_small(name)]
            means = {
                head: trials.mean(name, settings, "loss", (head,)) for head in (*HEADS, *REFERENCES)
            }
            losses[name] = {head: None if math.isnan(x) else x for head, x in means.items()}
    save({**found, "losses": losses})


if __name__ == "__main__":
    main()

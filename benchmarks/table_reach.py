"""Judge the estimators' defaults on the deciding half of the tables, which chose nothing.

    python benchmarks/table_reach.py --tables FOLDER   # of the files of table_halves.py
    python docs/tables.py                              # then, the table of docs/tables.md

Every head with its defaults, on `SPLITS` random splits of every table of `table_halves.DECIDING`
(three quarters train, a quarter tests; classes in equal parts where that can be), the same splits
for all heads. What counts is accuracy or R^2, its mean over the splits of a table, of which each is
taken to be at least -1, so that one split of twenty rows is not the whole answer.

Heads are compared over tables by the Bayesian signed-rank test (Benavoli, Corani, Demsar, Zaffalon,
"Time for a change", JMLR 18, 2017) with a region of practical equivalence of `ROPE`: the
probabilities that over tables like these spinal is better, equal for practical purposes, or worse.
`docs/tables.md` says what was promised of them.

Fits are appended one by one to `runs/table-reach.jsonl`; the same command goes on where it was
stopped, and a fit whose head's options or whose table has changed is done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import table_halves
import torch
from command_line import existing_folder, new_parser
from scipy.stats import rankdata
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import train_test_split

from spinalnet._checks import SpinalnetError
from spinalnet.comparison.across import signed_rank
from spinalnet.comparison.tables.heads import TABLE_MODELS, make_estimator
from spinalnet.data import load_table
from spinalnet.files import write_mapping
from spinalnet.training.environment import describe_origin

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "table-reach.json"
LINES = ROOT / "runs" / "table-reach.jsonl"
SPLITS = 10
ROPE = 0.01
FIRST = "spinal"
HEADS = (FIRST, "unchained", "matched", "mlp", "linear", "ridge", "sklearn-mlp", "trees")
WHERE_INSTALLED = ("tabm", "lightgbm", "xgboost", "catboost")


def parts(table: Any, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those to test on."""
    labels = table.y if table.task == "classification" else None
    if labels is not None and np.unique(labels, return_counts=True)[1].min() < 2:
        labels = None
    rows = np.arange(len(table.y))
    train, test = train_test_split(rows, test_size=0.25, random_state=split, stratify=labels)
    return np.asarray(train), np.asarray(test)


def _rows(X: Any, rows: np.ndarray) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def fit_once(table: Any, head: str, split: int) -> dict[str, Any]:
    """Return the scores on the test rows of a split, and the seconds of the fit."""
    train, test = parts(table, split)
    outputs = 1 if np.ndim(table.y) == 1 else table.y.shape[1]
    model = make_estimator(head, {}, table.task, split, outputs=outputs)
    X, y = _rows(table.X, test), table.y[test]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.perf_counter()
        try:
            model.fit(_rows(table.X, train), table.y[train])
        except (ValueError, SpinalnetError) as error:  # told in the result, the others go on
            return {"failed": str(error).splitlines()[0]}
        found: dict[str, Any] = {"seconds": time.perf_counter() - began}
        found["score"] = float(model.score(X, y))
        if table.task == "classification":
            found["balanced"] = float(balanced_accuracy_score(y, model.predict(X)))
            if np.isin(y, model.classes_).all():
                probabilities = np.clip(model.predict_proba(X), 1e-15, None)
                probabilities /= probabilities.sum(1, keepdims=True)
                found["loss"] = float(log_loss(y, probabilities, labels=model.classes_))
    return found


def digest(table: Any, head: str) -> str:
    """Return what tells whether a fit is still that of this table and these options."""
    options = make_estimator(head, {}, table.task, 0).get_params()
    parts_of = [repr(sorted(options.items(), key=lambda pair: pair[0])), repr(np.asarray(table.y))]
    parts_of.append(repr(table.X.describe()) if hasattr(table.X, "describe") else repr(table.X))
    return hashlib.sha256("\n".join(parts_of).encode()).hexdigest()[:16]


def installed(heads: Sequence[str]) -> list[str]:
    """Return those of the heads whose library is there; the others are told."""
    found = []
    for head in heads:
        if head not in TABLE_MODELS:
            continue
        try:
            make_estimator(head, {}, "classification", 0)
        except SpinalnetError as error:
            print(error, flush=True)
        else:
            found.append(head)
    return found


def load(folder: Path, name: str) -> Any:
    """Return a table; its columns without any value are left out, which not all heads take."""
    table = load_table(**table_halves.sources((name,), folder)[name])
    if hasattr(table.X, "dropna"):
        table = dataclasses.replace(table, X=table.X.dropna(axis=1, how="all"))
    return table


def collect(folder: Path, heads: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
    """Do all fits that have not been done; return all."""
    done: dict[str, dict[str, Any]] = {}
    if LINES.exists():
        for line in LINES.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            done[entry["key"]] = entry
    found = []
    for name in names:
        table = load(folder, name)
        for head in heads:
            state = digest(table, head)
            for split in range(SPLITS):
                key = json.dumps([name, head, split, state])
                if key not in done:
                    entry = {"key": key, "table": name, "head": head, "split": split}
                    entry |= fit_once(table, head, split)
                    done[key] = entry
                    LINES.parent.mkdir(parents=True, exist_ok=True)
                    with LINES.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(entry) + "\n")
                found.append(done[key])
        print(name, flush=True)
    return found


def summary(fits: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> dict[str, Any]:
    """Return means by table, ranks, and what the test says of the first head and each other."""
    names = sorted({fit["table"] for fit in fits})

    def mean(name: str, head: str, what: str = "score") -> float | None:
        low = -1.0 if what == "score" else -np.inf
        own = [fit for fit in fits if (fit["table"], fit["head"]) == (name, head)]
        values = [max(low, fit[what]) for fit in own if what in fit]
        return fmean(values) if len(values) == len(own) == SPLITS else None

    means = {name: {head: mean(name, head) for head in heads} for name in names}
    complete = [n for n in names if all(value is not None for value in means[n].values())]
    scores = np.array([[means[n][head] for head in heads] for n in complete], dtype=float)
    ranks = rankdata(-scores, axis=1)
    against = {}
    for head in heads:
        if head == FIRST:
            continue
        pairs = [(means[n][FIRST], means[n][head]) for n in names]
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        chances = signed_rank(differences, ROPE)
        better, equal, worse = chances.better, chances.equal, chances.worse
        against[head] = {
            **{"better": better, "equal": equal, "worse": worse, "tables": len(differences)},
            "mean_difference": fmean(differences),
            "wins": sum(value > ROPE for value in differences),
            "losses": sum(value < -ROPE for value in differences),
        }
    return {
        "heads": list(heads),
        "tables": means,
        **{
            f"{what}_by_table": {n: {head: mean(n, head, what) for head in heads} for n in names}
            for what in ("balanced", "loss", "seconds")
        },
        "mean_ranks": dict(zip(heads, ranks.mean(0).tolist(), strict=True)),
        "ranked_tables": len(complete),
        "against": against,
        "failed": {
            f"{fit['table']}/{fit['head']}/{fit['split']}": fit["failed"]
            for fit in fits
            if "failed" in fit
        },
    }


def main() -> None:
    """Fit what has not been fitted, and write what it says."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--tables", type=existing_folder, required=True, help="folder with catalog.csv"
    )
    parser.add_argument("--heads", default="", help="some heads only, with commas; writes nothing")
    parser.add_argument("--only", default="", help="some tables only, with commas; writes nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    heads = given.heads.split(",") if given.heads else [*HEADS, *WHERE_INSTALLED]
    names = given.only.split(",") if given.only else list(table_halves.DECIDING)
    heads = installed(heads)
    found = summary(collect(given.tables, heads, names), heads)
    if given.heads or given.only:
        print(json.dumps(found, indent=1))
        return
    found |= {"splits": SPLITS, "rope": ROPE, **describe_origin()}
    write_mapping(RESULT, found)
    print(json.dumps({name: found[name] for name in ("mean_ranks", "against")}, indent=1))


if __name__ == "__main__":
    main()

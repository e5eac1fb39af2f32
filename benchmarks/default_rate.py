"""Choose the default learning rate on validation data, for all heads alike.

Every head is trained with the default settings at every rate, on the training part of the data sets
given, with seeds that no reported table uses; what counts is the validation accuracy of the best
epoch. The test parts are not touched. The default is the rate with the highest mean over heads,
seeds and data sets.

    python benchmarks/default_rate.py --data digits,mnist,fashion-mnist --data-dir data

Runs are appended one by one; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from spinalnet import RunSpec, TrainConfig, fit
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.question import DEFAULT_HEADS
from spinalnet.files import write_mapping
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "default-rate.json"
LIMITS = {"mnist": 2000, "fashion-mnist": 2000}  # of training images; others are used whole
HEADS = DEFAULT_HEADS
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (1000, 1001, 1002)
VALIDATED = 2000  # images at most: enough to tell half a point between means over heads and seeds


def validate(data: str, head: str, lr: float, seed: int, data_dir: str | None) -> float:
    """Train once; return the validation accuracy of the best epoch."""
    spec = RunSpec.of(
        data, head=head, lr=lr, seed=seed, limit=LIMITS.get(data), data_dir=data_dir, device="cpu"
    )
    splits = load_splits(spec)
    val = splits.val
    if len(val) > VALIDATED:
        val = val.subset(torch.arange(VALIDATED))
    found = fit(build_model(spec, splits.info), splits.train, val, spec.train)
    assert found.val.accuracy is not None
    return found.val.accuracy


def summary(runs: list[dict[str, Any]], data: list[str]) -> dict[str, Any]:
    """Return the mean validation accuracy by rate, of all and of every head; and the choice."""

    def mean(lr: float, head: str | None = None) -> float | None:
        values = [r["accuracy"] for r in runs if r["lr"] == lr and head in (None, r["head"])]
        return fmean(values) if values else None

    means = {lr: mean(lr) for lr in RATES}
    complete = len(runs) == len(data) * len(HEADS) * len(RATES) * len(SEEDS)
    return {
        "mean": {f"{lr:g}": value for lr, value in means.items()},
        "by_head": {head: {f"{lr:g}": mean(lr, head) for lr in RATES} for head in HEADS},
        "chosen": max(RATES, key=lambda lr: means[lr] or 0.0) if complete else None,
        "default": TrainConfig().lr,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data", default="digits,mnist,fashion-mnist", help="data sets, comma separated"
    )
    parser.add_argument("--data-dir", help="where their files are")
    parser.add_argument(
        "--out", type=Path, default=RESULT, help="result file, continued if it is there"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "benchmark": "default-rate",
        "command": f"python benchmarks/default_rate.py --data {arguments.data}",
        "protocol": "validation accuracy of the best epoch, default settings but for the rate; "
        f"seeds {SEEDS[0]} to {SEEDS[-1]}, which no table uses; no test part is touched",
        "environment": describe_environment(),
        "data": arguments.data.split(","),
        "runs": [],
    }
    if arguments.out.exists():
        record = json.loads(arguments.out.read_text(encoding="utf-8"))
    done = {(r["data"], r["head"], r["lr"], r["seed"]) for r in record["runs"]}
    names: list[str] = record["data"]
    every = ((s, d, r, h) for s in SEEDS for d in names for r in RATES for h in HEADS)
    for seed, data, lr, head in every:
        if (data, head, lr, seed) in done:
            continue
        accuracy = validate(data, head, lr, seed, arguments.data_dir)
        row = {"data": data, "head": head, "lr": lr, "seed": seed, "accuracy": accuracy}
        record["runs"].append(row)
        record["summary"] = summary(record["runs"], record["data"])
        write_mapping(arguments.out, record)
        print(f"{data} {head} {lr:g} seed {seed}: {accuracy:.4f}", flush=True)
    print(json.dumps(record["summary"], indent=1))


if __name__ == "__main__":
    main()

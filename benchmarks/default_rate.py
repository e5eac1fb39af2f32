"""Choose the default learning rate on validation data, for all heads alike.

Every head is trained with the default settings at every rate, on the training part of the data sets
given, with seeds that no reported table uses; what counts is the validation accuracy of the best
epoch. The test parts are not touched. The default is the rate with the highest mean over heads,
seeds and data sets.

    python benchmarks/default_rate.py --images grey --data-dir data
    python benchmarks/default_rate.py --images colour --data-dir data

Grey images and colour photographs are two questions: what learns colour photographs from scratch
needs a lower rate. `data/cifar10` and `data/hymenoptera` are folders of photographs.

Runs are appended one by one; the same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from command_line import new_parser

from spinalnet import RunSpec, TrainConfig, fit
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.defaults import COLOUR_RATE
from spinalnet.comparison.question import DEFAULT_HEADS
from spinalnet.data import Splits
from spinalnet.files import write_mapping
from spinalnet.training.environment import describe_environment

RESULTS = Path(__file__).parent / "results"
HEADS = DEFAULT_HEADS
VALIDATED = 2000  # images at most: enough to tell half a point between means over heads and seeds
LIMIT = 2000  # training images at most, for speed


@dataclass(frozen=True)
class Images:
    """One kind of images that has a default rate of its own.

    Attributes:
        data: Options of a run by the name of the data.
        rates: Those that are tried.
        seeds: That no table uses.
        default: The one that is in use.
        result: The file of the runs.
    """

    data: dict[str, dict[str, Any]]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    default: float
    result: Path


KINDS = {
    "grey": Images(
        {"digits": {}, "mnist": {"limit": LIMIT}, "fashion-mnist": {"limit": LIMIT}},
        (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        (1000, 1001, 1002),
        TrainConfig().lr,
        RESULTS / "default-rate.json",
    ),
    "colour": Images(
        {"cifar10": {"limit": LIMIT, "image_size": 32}, "hymenoptera": {"image_size": 64}},
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        (1000, 1001),
        COLOUR_RATE,
        RESULTS / "default-rate-colour.json",
    ),
}


@functools.lru_cache(maxsize=1)
def parts(kind: str, data: str, seed: int, data_dir: str) -> Splits:
    """Return the data of a seed, read once for all heads and rates."""
    options = {"seed": seed, "data_dir": data_dir, **KINDS[kind].data[data]}
    if "image_size" in options:  # a folder of photographs
        data = str(Path(options.pop("data_dir")) / data)
    return load_splits(RunSpec.of(data, "mnist-cnn", **options))


def validate(splits: Splits, head: str, lr: float, seed: int) -> float:
    """Train once; return the validation accuracy of the best epoch."""
    spec = RunSpec.of("digits", "mnist-cnn", head=head, lr=lr, seed=seed, device="cpu")
    val = splits.val
    if len(val) > VALIDATED:
        val = val.subset(torch.arange(VALIDATED))
    found = fit(build_model(spec, splits.info), splits.train, val, spec.train)
    assert found.val.accuracy is not None
    return found.val.accuracy


def summary(kind: Images, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean validation accuracy by rate, of all and of every head; and the choice."""

    def mean(lr: float, head: str | None = None) -> float | None:
        values = [r["accuracy"] for r in runs if r["lr"] == lr and head in (None, r["head"])]
        return fmean(values) if values else None

    means = {lr: mean(lr) for lr in kind.rates}
    complete = len(runs) == len(kind.data) * len(HEADS) * len(kind.rates) * len(kind.seeds)
    return {
        "mean": {f"{lr:g}": value for lr, value in means.items()},
        "by_head": {head: {f"{lr:g}": mean(lr, head) for lr in kind.rates} for head in HEADS},
        "chosen": max(kind.rates, key=lambda lr: means[lr] or 0.0) if complete else None,
        "default": kind.default,
    }


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--images", choices=KINDS, default="grey", help="which default")
    parser.add_argument("--data-dir", default="data", help="where their files are")
    parser.add_argument("--out", type=Path, help="result file, continued if it is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kind = KINDS[arguments.images]
    out = arguments.out or kind.result
    command = f"python benchmarks/default_rate.py --images {arguments.images}"
    record: dict[str, Any] = {
        "benchmark": "default-rate",
        "command": command,
        "protocol": "validation accuracy of the best epoch, default settings but for the rate; "
        f"seeds {kind.seeds[0]} to {kind.seeds[-1]}, which no table uses; no test part is touched",
        "environment": describe_environment(),
        "data": kind.data,
        "runs": [],
    }
    if out.exists():
        record = json.loads(out.read_text(encoding="utf-8"))
    done = {(r["data"], r["head"], r["lr"], r["seed"]) for r in record["runs"]}
    every = ((s, d, r, h) for s in kind.seeds for d in kind.data for r in kind.rates for h in HEADS)
    for seed, data, lr, head in every:
        if (data, head, lr, seed) in done:
            continue
        splits = parts(arguments.images, data, seed, arguments.data_dir)
        accuracy = validate(splits, head, lr, seed)
        row = {"data": data, "head": head, "lr": lr, "seed": seed, "accuracy": accuracy}
        record["runs"].append(row)
        write_mapping(out, record)
        print(f"{data} {head} {lr:g} seed {seed}: {accuracy:.4f}", flush=True)
    record |= {"command": command, "summary": summary(kind, record["runs"])}
    write_mapping(out, record)
    print(json.dumps(record["summary"], indent=1))


if __name__ == "__main__":
    main()

"""Choose the default learning rate on validation data, for all heads alike.

Every head is trained with the default settings at every rate, on the training part of the data sets
given, with seeds that no reported table uses; what counts is the validation accuracy of the best
epoch. The test parts are not touched. The default is the rate with the highest mean over heads,
seeds and data sets.

    python benchmarks/default_rate.py --images grey --data-dir data
    python benchmarks/default_rate.py --images colour --data-dir data
    python benchmarks/default_rate.py --images frozen --data-dir data

Grey images, colour photographs and features of a frozen network are three questions: what learns
colour photographs from scratch needs a lower rate, and so may heads on features. `data/cifar10` and
`data/hymenoptera` are folders of photographs. Of the frozen EfficientNet-Lite0 at 224 pixels, as
many training images are taken of CIFAR-10 as folders of photographs have.

Runs are appended one by one; the same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from command_line import new_parser

from spinalnet import RunSpec, TrainConfig, fit
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.defaults import COLOUR_RATE, FROZEN_RATE
from spinalnet.comparison.question import DEFAULT_HEADS
from spinalnet.comparison.running import head_alone
from spinalnet.data import DatasetInfo
from spinalnet.files import write_mapping
from spinalnet.models.features import frozen_splits
from spinalnet.models.surgery import freeze_except_head_
from spinalnet.training.environment import describe_environment

RESULTS = Path(__file__).parent / "results"
HEADS = DEFAULT_HEADS
LIMIT = 2000  # training images at most, for speed
FROZEN = "efficientnet_lite0"


@dataclass(frozen=True)
class Images:
    """One kind of images that has a default rate of its own.

    Attributes:
        data: Options of a run by the name of the data; what follows a blank tells sizes apart.
        rates: Those that are tried.
        seeds: That no table uses.
        default: The one that is in use.
        result: The file of the runs.
        network: What is trained; the frozen one gives features.
        validated: Validation images at most, the first ones; 0 for all. Of grey images 2,000 are
            enough to tell half a point between means; a folder lies there class by class.
    """

    data: dict[str, dict[str, Any]]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    default: float
    result: Path
    network: str = "mnist-cnn"
    validated: int = 0


KINDS = {
    "grey": Images(
        {"digits": {}, "mnist": {"limit": LIMIT}, "fashion-mnist": {"limit": LIMIT}},
        (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        (1000, 1001, 1002),
        TrainConfig().lr,
        RESULTS / "default-rate.json",
        validated=2_000,
    ),
    "colour": Images(
        {"cifar10": {"limit": LIMIT, "image_size": 32}, "hymenoptera": {"image_size": 64}},
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        (1000, 1001),
        COLOUR_RATE,
        RESULTS / "default-rate-colour.json",
    ),
    "frozen": Images(
        {f"cifar10 {n}": {"limit": n, "image_size": 224} for n in (300, 1_000, 3_000, 10_000)},
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        (1000, 1001, 1002),
        FROZEN_RATE,
        RESULTS / "default-rate-frozen.json",
        FROZEN,
    ),
}


def run_of(kind: Images, data: str, seed: int, data_dir: str, **more: Any) -> RunSpec:
    """Return a run of a kind."""
    options = {"seed": seed, "device": "cpu", "data_dir": data_dir, **kind.data[data], **more}
    name = data.split()[0]
    if "image_size" in options:  # a folder of photographs
        name = str(Path(options.pop("data_dir")) / name)
    if kind.network == FROZEN:
        options |= {"pretrained": True, "freeze": True}
    return RunSpec.of(name, kind.network, **options)


Parts = tuple[DatasetInfo, Any, Any]  # for training and for validation


@functools.lru_cache(maxsize=1)
def parts(kind: str, data: str, seed: int, data_dir: str) -> Parts:
    """Return the data of a seed, read once for all heads and rates; features of a frozen one."""
    spec = run_of(KINDS[kind], data, seed, data_dir)
    splits = load_splits(spec)
    if validated := KINDS[kind].validated:
        splits = replace(splits, val=splits.val.subset(torch.arange(len(splits.val))[:validated]))
    if KINDS[kind].network != FROZEN:
        return splits.info, splits.train, splits.val
    splits = replace(splits, test=splits.test.subset(torch.arange(1)))  # is not looked at
    model = freeze_except_head_(build_model(spec, splits.info))
    made = frozen_splits(model.get_submodule("trunk"), splits, threads=1)
    return splits.info, made.train, made.val


def validate(parts: Parts, spec: RunSpec) -> float:
    """Train once; return the validation accuracy of the best epoch."""
    info, train, val = parts
    model = build_model(spec, info)
    found = fit(head_alone(model) if spec.model.freeze else model, train, val, spec.train)
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
        given = parts(arguments.images, data, seed, arguments.data_dir)
        accuracy = validate(given, run_of(kind, data, seed, arguments.data_dir, head=head, lr=lr))
        row = {"data": data, "head": head, "lr": lr, "seed": seed, "accuracy": accuracy}
        record["runs"].append(row)
        write_mapping(out, record)
        print(f"{data} {head} {lr:g} seed {seed}: {accuracy:.4f}", flush=True)
    record |= {"command": command, "summary": summary(kind, record["runs"])}
    write_mapping(out, record)
    print(json.dumps(record["summary"], indent=1))


if __name__ == "__main__":
    main()

"""The paper's four regressions, on data drawn anew: who learns what, and from how many examples?

    OMP_NUM_THREADS=1 python studies/regression.py        # resumes; finished cells are skipped
    python studies/regression.py --draw                   # answers and figure of what is there

The paper's Table I gives a spinal net a smaller error than a dense one on the sum, the product, the
sine of the sum and the sine of the product of eight normal inputs, with 1,000 examples. The table
holds the smallest loss of a last mini-batch of training. Here the error is that on fresh points.

**Design**, fixed before a test point was scored:

* Data: the paper's recipe, drawn anew by each seed: eight independent standard normal inputs, a
  target of them plus 0.2 times a uniform number. `n` examples in all, of which a tenth validates;
  20,000 fresh ones to test on, the same for all nets and both `n` of a seed.
* Nets: the paper's two, `spinal` (two slices, 6 layers of 50) and `mlp` (hidden layers of 200 and
  100); `unchained`, the same as spinal without its chain; `matched`, one hidden layer of as many
  parameters as spinal; `linear`. Leaky relu, as in the paper.
* Beside them: what predicts the mean of the training targets (`mean`), and the noise floor: the
  variance of the noise, 0.04 / 12, below which no expected error is.
* Training: the package's defaults (AdamW, batches of 64, cosine), the best epoch on validation; 100
  epochs for 1,000 examples, 20 for 10,000. The rate is chosen for every net, function and n of
  1e-3, 3e-3 and 1e-2 by the mean logarithm of the validation error of seeds 1000 and 1001. Then 20
  fresh seeds (0 to 19).
* A product of normal numbers has heavy tails: a few points make most of a mean squared error. So
  errors are compared by their ratio on the same points: differences are those of the natural
  logarithm, paired by seed. A net has *learnt* something if its error is below that of `mean` in at
  least 15 of 20 seeds, which happens by chance once in 50 times.
* `examples`: the functions that are products, and products of the first 2, 4 and 6 inputs, with
  1,000 to 1,000,000 examples, spinal and mlp, seeds 0 to 4, the rate by seed 1000 alone; 100, 20, 6
  and 2 epochs. Exploratory. The n from which on a function is *learnt well* is the least with a
  median R2 (1 minus the error of the net over that of `mean`) of at least a half.

**Confirmatory questions**, margin a tenth (the logarithm of 1.1): spinal against unchained, mlp
and linear, for each of the four functions; Holm over the twelve of one n, with 1,000 (the paper's)
and with 10,000 examples. Where neither net of a pair has learnt anything, that is the answer.
Everything else is exploratory and gets no verdict.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import Data, Record, Row
from torch import Tensor, nn

from spinalnet import files
from spinalnet.data.order import stream_seed
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, matched_mlp
from spinalnet.training import TrainConfig

INPUTS, TEST, NOISE, MARGIN = 8, 20_000, 0.2, math.log(1.1)
FLOOR = NOISE**2 / 12
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(1, keepdim=True),
    "sin-sum": lambda x: x.sum(1, keepdim=True).sin(),
    "product": lambda x: x.prod(1, keepdim=True),
    "sin-product": lambda x: x.prod(1, keepdim=True).sin(),
    "product of 2": lambda x: x[:, :2].prod(1, keepdim=True),
    "product of 4": lambda x: x[:, :4].prod(1, keepdim=True),
    "product of 6": lambda x: x[:, :6].prod(1, keepdim=True),
}
PAPER = ("sum", "sin-sum", "product", "sin-product")
NETS = ("spinal", "unchained", "mlp", "linear", "matched")
EPOCHS = {1_000: 100, 10_000: 20, 100_000: 6, 1_000_000: 2}
RATES, LEARNT = (1e-3, 3e-3, 1e-2), 15
KEY = ("group", "function", "examples", "net")


@dataclass(frozen=True)
class Group:
    """Cells of one kind: which, and by which seeds."""

    functions: tuple[str, ...]
    examples: tuple[int, ...]
    nets: tuple[str, ...]
    tuning_seeds: tuple[int, ...]
    seeds: tuple[int, ...]


GROUPS = {
    "paper": Group(PAPER, (1_000, 10_000), NETS, (1000, 1001), tuple(range(20))),
    "examples": Group(
        ("product of 2", "product of 4", "product of 6", "sin-product", "product"),
        tuple(EPOCHS),
        ("spinal", "mlp"),
        (1000,),
        tuple(range(5)),
    ),
}

Key = tuple[str, str, int, str]  # see KEY


def _points(function: str, examples: int, generator: torch.Generator) -> common.Part:
    x = torch.randn(examples, INPUTS, generator=generator)
    return x, FUNCTIONS[function](x) + NOISE * torch.rand(examples, 1, generator=generator)


def drawn(function: str, examples: int, seed: int) -> Data:
    """Return what a seed draws."""
    learn = torch.Generator().manual_seed(stream_seed("regression", seed, examples))
    fresh = torch.Generator().manual_seed(stream_seed("regression", seed, "fresh"))
    x, y = _points(function, examples, learn)
    held = examples // 10
    return (x[held:], y[held:]), (x[:held], y[:held]), _points(function, TEST, fresh)


def built(net: str, seed: int) -> nn.Module:
    """Return a fresh net of the package."""
    torch.manual_seed(seed)
    shape: Any = {"activation": "leaky_relu"}
    if net == "unchained":
        return UnchainedNet(INPUTS, 1, 50, 6, **shape)
    if net == "mlp":
        return MLPHead(INPUTS, 1, (200, 100), **shape)
    if net == "linear":
        return LinearHead(INPUTS, 1)
    spinal = SpinalNet(INPUTS, 1, 50, 6, **shape)
    if net == "spinal":
        return spinal
    return matched_mlp(INPUTS, 1, sum(p.numel() for p in spinal.parameters()), **shape)


def of_mean(data: Data) -> float:
    """Return the error on the test points of the mean of the training targets."""
    return float((data[0][1].double().mean() - data[2][1].double()).square().mean())


def trained(
    net: str,
    function: str,
    examples: int,
    rates: Sequence[float],
    seeds: Sequence[int],
    epochs: int,
) -> tuple[list[nn.Module], list[Data], list[bool]]:
    """Return nets at their best epoch, their data, and of which the training broke off."""
    datas = [drawn(function, examples, seed) for seed in seeds]
    nets = [built(net, seed) for seed in seeds]
    pairs = zip(rates, seeds, strict=True)
    configs = [TrainConfig(epochs=epochs, lr=rate, seed=seed) for rate, seed in pairs]
    return nets, datas, common.train(nets, configs, datas)


def cell(key: Key, epochs: int | None = None) -> Row:
    """Choose the rate, train with the seeds, and measure: one row of the results."""
    began = time.perf_counter()
    name, function, examples, net = key
    group, length = GROUPS[name], epochs or EPOCHS[examples]

    def score(rates: Sequence[float], seeds: Sequence[int]) -> list[float]:
        nets, datas, broken = trained(net, function, examples, rates, seeds, length)
        of = zip(nets, datas, broken, strict=True)
        # A rate at which training breaks off is one that nobody takes.
        return [-math.inf if bad else -_log_error(n, d[1]) for n, d, bad in of]

    rate, scores = common.best_setting(RATES, group.tuning_seeds, score)
    errors, means, params = [], [], 0
    for seed in group.seeds:  # one at a time: a million examples need their memory
        (own,), (data,), _ = trained(net, function, examples, [rate], [seed], length)
        errors.append(common.mean_squared_error(own, data[2]))
        means.append(of_mean(data))
        params = sum(p.numel() for p in own.parameters())
    return dict(zip(KEY, key, strict=True)) | {
        "params": params,
        "rate": rate,
        "tuning": {
            f"{r:g}": float(f"{math.exp(-s):.4g}") if math.isfinite(s) else None
            for r, s in zip(RATES, scores, strict=True)
        },
        "test": [float(f"{value:.5g}") for value in errors],
        "mean": [float(f"{value:.5g}") for value in means],
        "seconds": round(time.perf_counter() - began, 1),
    }


def _log_error(net: nn.Module, part: common.Part) -> float:
    return math.log(common.mean_squared_error(net, part))


def keys() -> list[Key]:
    """Return all cells: those of the paper's n that are asked about, then the cheap ones first."""
    found = [
        (name, function, examples, net)
        for name, group in GROUPS.items()
        for examples in group.examples
        for function in group.functions
        for net in group.nets
    ]

    def place(key: Key) -> tuple[bool, int]:
        name, _, examples, net = key
        asked = name == "paper" and examples == 1_000 and net != "matched"
        runs = len(GROUPS[name].seeds) + len(RATES) * len(GROUPS[name].tuning_seeds)
        steps = runs * examples * EPOCHS[examples]
        return not asked, steps * (6 if net == "mlp" else 1)  # two hidden layers take so long

    return sorted(found, key=place)


def has_learnt(row: Row) -> bool:
    """Return whether a net's error is below that of the mean, in so many seeds."""
    return sum(e < m for e, m in zip(row["test"], row["mean"], strict=True)) >= LEARNT


def r_squared(row: Row) -> list[float]:
    """Return the share of the mean predictor's error that a net takes away, by seed."""
    return [1 - e / m for e, m in zip(row["test"], row["mean"], strict=True)]


def answers(record: Record) -> list[Row]:
    """Return the answers to the confirmatory questions, of each n whose cells are all there."""
    from spinalnet.comparison import inference

    by = common.keyed(record["cells"], KEY)
    found: list[Row] = []
    for examples in GROUPS["paper"].examples:
        pairs = [(f, other) for f in PAPER for other in ("unchained", "mlp", "linear")]
        wanted = {("paper", f, examples, net) for f, other in pairs for net in ("spinal", other)}
        if not wanted <= by.keys():
            continue
        asked, estimates, learnt = [], [], []
        for function, other in pairs:
            rows = [by["paper", function, examples, net] for net in ("spinal", other)]
            one, two = (np.log(row["test"]) for row in rows)
            estimates.append(inference.seeds_only(two - one, MARGIN))
            asked.append({"function": function, "examples": examples, "other": other})
            learnt.append(any(map(has_learnt, rows)))
        found += common.judged(asked, estimates, learnt)
    return found


def draw(record: Record, path: Path) -> None:
    """Draw the errors of the four functions, and R2 by the number of examples."""
    from matplotlib.figure import Figure

    by = common.keyed(record["cells"], KEY)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    seen = {(n, f) for group, f, n, _ in by if group == "paper"}
    places = [(n, f) for n in GROUPS["paper"].examples for f in PAPER if (n, f) in seen]
    for index, net in enumerate(NETS):
        found = [
            (at, by["paper", f, n, net])
            for at, (n, f) in enumerate(places)
            if ("paper", f, n, net) in by
        ]
        shares = [
            [e / m for e, m in zip(row["test"], row["mean"], strict=True)] for _, row in found
        ]
        middles = [statistics.median(some) for some in shares]
        bars = [
            [abs(end(some) - middle) for some, middle in zip(shares, middles, strict=True)]
            for end in (min, max)
        ]
        at = [place + 0.13 * (index - 2) for place, _ in found]
        left.errorbar(at, middles, bars, fmt="o", ms=4, lw=1, label=net)
    left.axhline(1, color="0.4", lw=1)
    left.set_yscale("log")
    left.set_xticks(
        range(len(places)), [f"{f}\n{n:,}" for n, f in places], rotation=35, ha="right", fontsize=8
    )
    left.set_ylabel(
        "error on fresh points / that of the mean\n(median; bars: all seeds)", fontsize=8
    )
    left.legend(fontsize=7, ncols=2)
    group = GROUPS["examples"]
    for index, function in enumerate(group.functions):
        for net, style in (("spinal", "-"), ("mlp", ":")):
            sizes = [n for n in group.examples if ("examples", function, n, net) in by]
            if sizes:
                values = [r_squared(by["examples", function, n, net]) for n in sizes]
                look: dict[str, Any] = {"color": f"C{index}", "ls": style}
                common.line(right, sizes, values, label=f"{function}, {net}", **look)
    right.set_xscale("log")
    right.set_ylim(-0.3, 1.02)
    right.set_xlabel("examples")
    right.set_ylabel("R2 on fresh points (median; band: all seeds)", fontsize=8)
    if right.get_legend_handles_labels()[0]:
        right.legend(fontsize=6)
    for axes in (left, right):
        common.plain(axes)
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "groups": {name: asdict(group) for name, group in GROUPS.items()},
        "epochs": {str(n): epochs for n, epochs in EPOCHS.items()},
        "rates": RATES,
        "test": TEST,
        "noise": NOISE,
        "learnt": LEARNT,
        "margin": MARGIN,
    }


def _complete(record: Record, run: common.Run) -> None:
    common.complete(record, run, KEY, keys(), cell)


STUDY = common.Study("regression", __doc__ or "", design, _complete, answers, draw)

if __name__ == "__main__":
    sys.exit(STUDY.main())

"""Is universality of use? Error by depth of trained spinal nets, beside constructed ones.

    OMP_NUM_THREADS=1 python studies/universality.py [--only constructed]    # goes on
    python studies/universality.py --draw                 # answers and figure of what is there

The paper claims that a spinal net of small width and large depth approximates any continuous
function, as a net of one large layer does. `spinalnet.theory.approximation` builds such nets
without training: random hidden neurons, the output row by least squares, converted. Here is
measured whether training finds what exists.

**Design**, fixed before a test point was scored:

* Functions, of the package's `TARGETS`, on the box [-1, 1] of one or two inputs, without noise:
  `ripple` of one input (cos(2 pi x^2)), `saddle` (sin(pi x) cos(pi y)) and `ripple` of two
  (cos(2 pi (x^2 + y^2))). With two inputs each is a slice; with one the only slice is seen by all.
* Points: 4,096 for training and 4,096 for testing, drawn by the seed, the same ones for trained and
  constructed nets; 1,024 more for validation.
* Nets of 2, 4, 8, 16, 32 and 64 layers: `spinal` of width 8 and of width 4, trained; `constructed`,
  the same shapes by `approximate`; `unchained` of width 8, trained (no chain: a sum of functions of
  one input each); `matched`, one hidden layer of as many parameters as spinal of width 8, trained.
* Training: the package's defaults (AdamW, batches of 64, cosine) for 100 epochs, the best epoch on
  validation. The rate is chosen for every net, depth and function of 3e-4, 1e-3, 3e-3, 1e-2 and
  3e-2 by the mean logarithm of the validation error of seeds 1000 and 1001. Then seeds 0 to 9.
* Error: root mean square on the test points, as a share of the function's standard deviation there.
  Differences are those of its natural logarithm, paired by seed.

**Confirmatory questions**, of width 8, margin a quarter (the logarithm of 1.25), for each of the
three functions, Holm over the nine; everything else is exploratory and gets no verdict:

1. Is a trained spinal net of 32 layers better than one of 4?
2. Is a trained spinal net of 32 layers better than the constructed one of 32?
3. Is a trained spinal net of 32 layers better than the matched hidden layer?
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from common import Data, Record, Row
from torch import nn

from spinalnet import files
from spinalnet.nn import SpinalNet, UnchainedNet, matched_mlp
from spinalnet.theory.approximation import TARGETS, approximate
from spinalnet.training import TrainConfig

FUNCTIONS = (("ripple", 1), ("saddle", 2), ("ripple", 2))
DEPTHS = (2, 4, 8, 16, 32, 64)
NETS = (
    ("spinal", 8),
    ("constructed", 8),
    ("matched", 8),
    ("unchained", 8),
    ("spinal", 4),
    ("constructed", 4),
)
RATES, TUNING_SEEDS, SEEDS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (1000, 1001), tuple(range(10))
POINTS, VAL, EPOCHS, MARGIN = 4_096, 1_024, 100, math.log(1.25)
KEY = ("target", "inputs", "net", "width", "layers")

Key = tuple[str, int, str, int, int]  # see KEY


def drawn(target: str, inputs: int, seed: int) -> Data:
    """Return the points of a seed: those of `approximate`, and some for validation."""
    function = TARGETS[target]
    generator = torch.Generator().manual_seed(seed)
    train, test = 2 * torch.rand(2, POINTS, inputs, generator=generator, dtype=torch.float64) - 1
    val = 2 * torch.rand(VAL, inputs, generator=generator, dtype=torch.float64) - 1
    parts = [(x.float(), function(x)[:, None].float()) for x in (train, val, test)]
    return parts[0], parts[1], parts[2]


def built(key: Key, seed: int) -> nn.Module:
    """Return a fresh net of the package."""
    _, inputs, net, width, layers = key
    torch.manual_seed(seed)
    if net == "unchained":
        return UnchainedNet(inputs, 1, width, layers, num_splits=inputs)
    spinal = SpinalNet(inputs, 1, width, layers, num_splits=inputs)
    if net == "spinal":
        return spinal
    return matched_mlp(inputs, 1, sum(p.numel() for p in spinal.parameters()))


def error(net: nn.Module, part: common.Part) -> float:
    """Return the root mean square error as a share of the function's standard deviation."""
    return math.sqrt(common.mean_squared_error(net, part)) / float(part[1].double().std())


def trained(
    key: Key, rates: Sequence[float], seeds: Sequence[int], epochs: int = EPOCHS
) -> tuple[list[nn.Module], list[Data], list[bool]]:
    """Return nets at their best epoch, their data, and of which the training broke off."""
    datas = [drawn(key[0], key[1], seed) for seed in seeds]
    nets = [built(key, seed) for seed in seeds]
    pairs = zip(rates, seeds, strict=True)
    configs = [TrainConfig(epochs=epochs, lr=rate, seed=seed) for rate, seed in pairs]
    return nets, datas, common.train(nets, configs, datas)


def cell(key: Key, epochs: int = EPOCHS) -> Row:
    """Choose the rate, train with the seeds, and measure: one row of the results."""
    began = time.perf_counter()
    target, inputs, net, width, layers = key
    row: Row = dict(zip(KEY, key, strict=True))
    if net == "constructed":
        errors = []
        for seed in SEEDS:
            groups, function = layers // inputs, TARGETS[target]
            shape: Any = {"groups": groups, "hidden_features": width, "num_splits": inputs}
            made = approximate(function, inputs, samples=POINTS, seed=seed, **shape)
            errors.append(made.rms_error)
            row["params"] = sum(p.numel() for p in made.net.parameters())
    else:

        def score(rates: Sequence[float], seeds: Sequence[int]) -> list[float]:
            nets, datas, broken = trained(key, rates, seeds, epochs)
            of = zip(nets, datas, broken, strict=True)
            # A rate at which training breaks off is one that nobody takes.
            return [-math.inf if bad else -math.log(error(n, d[1])) for n, d, bad in of]

        rate, scores = common.best_setting(RATES, TUNING_SEEDS, score)
        nets, datas, _ = trained(key, [rate] * len(SEEDS), SEEDS, epochs)
        errors = [error(net, data[2]) for net, data in zip(nets, datas, strict=True)]
        row |= {
            "params": sum(p.numel() for p in nets[0].parameters()),
            "rate": rate,
            "tuning": {
                f"{r:g}": round(math.exp(-s), 5) if math.isfinite(s) else None
                for r, s in zip(RATES, scores, strict=True)
            },
        }
    return row | {
        "test": [float(f"{value:.4g}") for value in errors],
        "seconds": round(time.perf_counter() - began, 1),
    }


def keys() -> list[Key]:
    """Return all cells, those of the questions first, then those of the width that they are of."""
    every = [(*of, *net, layers) for net in NETS for layers in DEPTHS for of in FUNCTIONS]
    asked = {key for question in questions() for key in question[1:]}
    return sorted(every, key=lambda key: (key not in asked, key[3] != 8, key[4] > 32))


def questions() -> list[tuple[str, Key, Key]]:
    """Return what is asked, the net that may be better, and the other."""
    found = []
    for of in FUNCTIONS:
        first = (*of, "spinal", 8, 32)
        found += [
            ("32 layers against 4", first, (*of, "spinal", 8, 4)),
            ("trained against constructed", first, (*of, "constructed", 8, 32)),
            ("spinal against one hidden layer", first, (*of, "matched", 8, 32)),
        ]
    return found


def answers(record: Record) -> list[Row]:
    """Return the answers to the confirmatory questions; none while a cell is missing."""
    from spinalnet.comparison import inference

    by = common.keyed(record["cells"], KEY)
    if not {key for question in questions() for key in question[1:]} <= by.keys():
        return []
    asked, estimates = [], []
    for words, first, other in questions():
        one, two = (np.log(by[key]["test"]) for key in (first, other))
        estimates.append(inference.seeds_only(two - one, MARGIN))
        asked.append({"asked": words, "target": first[0], "inputs": first[1]})
    return common.judged(asked, estimates)


def draw(record: Record, path: Path) -> None:
    """Draw the errors by depth, a panel for each function."""
    from matplotlib.figure import Figure

    by = common.keyed(record["cells"], KEY)
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, len(FUNCTIONS), sharey=True)
    colours = {"spinal": "C0", "constructed": "C1", "matched": "C2", "unchained": "C3"}
    for axes, of in zip(panels, FUNCTIONS, strict=True):
        for net, width in NETS:
            depths = [layers for layers in DEPTHS if (*of, net, width, layers) in by]
            if not depths:
                continue
            values = [by[(*of, net, width, layers)]["test"] for layers in depths]
            look: dict[str, Any] = {"ls": "-" if width == 8 else ":", "color": colours[net]}
            words = f"{net}, {width} wide" if net in ("spinal", "constructed") else net
            common.line(axes, depths, values, label=words, **look)
        axes.set_title(f"{of[0]}, {of[1]} input{'s' * (of[1] > 1)}", fontsize=10)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axes.set_xlabel("layers")
        common.plain(axes, grid="both")
    panels[0].set_ylabel("error / spread of the function (median; band: all seeds)", fontsize=8)
    panels[0].legend(fontsize=7)
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "functions": FUNCTIONS,
        "nets": NETS,
        "depths": DEPTHS,
        "rates": RATES,
        "tuning_seeds": TUNING_SEEDS,
        "seeds": SEEDS,
        "points": POINTS,
        "val": VAL,
        "epochs": EPOCHS,
        "margin": MARGIN,
    }


def _complete(record: Record, run: common.Run) -> None:
    common.complete(record, run, KEY, keys(), cell, now=lambda key: run.only in (None, key[2]))


STUDY = common.Study(
    "universality",
    __doc__ or "",
    design,
    _complete,
    answers,
    draw,
    parts=tuple(dict.fromkeys(net for net, _ in NETS)),
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

"""Time training many small nets at once, write benchmarks/results/stacked.json.

python benchmarks/stacked.py [--seconds S]

Heads on 50,000 resident rows of features, ten seeds: by `fit` batch by batch, one net after the
other, against `train_together`. Nets of tables, eight at once: against one, by the same and by
`RowsLearner`. Ways take turns, on one thread, whose processor time is measured, so that waiting for
other work on the machine does not count.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from command_line import new_parser
from torch import Tensor, nn

from spinalnet import files
from spinalnet.bench.heads import HEAD_CASES
from spinalnet.data.batches import ArrayDataset
from spinalnet.kernels import native
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, matched_mlp
from spinalnet.tabular.learner import RowsLearner
from spinalnet.tabular.stacked import CompiledRowsLearner, train_together, why_not
from spinalnet.training import TrainConfig, describe_origin
from spinalnet.training.learner import ModelLearner

RESULT = Path(__file__).parent / "results" / "stacked.json"
STEPS = 10  # of every net in a round
ROWS, SEEDS, MEMBERS = 50_000, 10, 8

HEADS: dict[str, Callable[[], nn.Module]] = {
    "spinal 1280 / 20x4": lambda: SpinalNet(1280, 10, 20, 4),
    "unchained 1280 / 20x4": lambda: UnchainedNet(1280, 10, 20, 4),
    "matched": lambda: matched_mlp(1280, 10, 53_290),
    "mlp 1280 / 512": lambda: MLPHead(1280, 10, 512),
    "linear": lambda: LinearHead(1280, 10),
}


@dataclass(frozen=True)
class Row:
    """One comparison: microseconds of a step of every net together, medians."""

    case: str
    baseline: str
    nets: int
    ours: float
    theirs: float
    ratio: float
    target: str
    ratio_of_minima: float
    rounds: int


def batch_by_batch(learners: list[Any], count: int = STEPS) -> Callable[[], None]:
    """Return a call that makes `count` steps of one net after the other, as `loop.Loop` does."""

    def endless(learner: Any) -> Iterator[Any]:
        for epoch in itertools.count():
            learner.begin_epoch(epoch)
            yield from learner.batches()

    streams = [endless(learner) for learner in learners]

    def steps() -> None:
        for learner, stream in zip(learners, streams, strict=True):
            for step in range(count):
                loss, correct = learner.find_gradients(step, next(stream))
                float(loss)
                if correct is not None:
                    float(correct)
                learner.update_weights(1e-3)

    return steps


def at_once(learners: list[CompiledRowsLearner], count: int = STEPS) -> Callable[[], None]:
    """Return a call that makes `count` compiled steps of one net after the other."""
    for learner in learners:
        learner.begin_epoch(0)
    starts = itertools.cycle(range(0, learners[0].steps - count + 1, count))

    def steps() -> None:
        first = next(starts)
        for learner in learners:
            learner.train_steps(first, [1e-3] * count)

    return steps


def as_fit(
    net: nn.Module, x: Tensor, targets: Tensor, batch: int, count: int
) -> tuple[Callable[[], None], str]:
    """Return a call that makes `count` steps of a head as `fit` makes them, and which way that is.

    `fit` trains heads on features in memory by compiled steps where there are any.
    """
    task = "regression" if targets.is_floating_point() else "classification"
    config, rows = TrainConfig(batch_size=batch, lr=1e-4), (x, targets, None)
    if why_not(net, config, x) is None:
        return at_once([CompiledRowsLearner(net, config, task, rows)], count), "compiled"
    held_out = ArrayDataset(x[:64], targets[:64])
    learner = ModelLearner(net, ArrayDataset(x, targets), held_out, config)
    return batch_by_batch([learner], count), "batch by batch"


def in_turns(
    ways: dict[str, Callable[[], None]], seconds: float, min_rounds: int = 12
) -> dict[str, list[float]]:
    """Return the processor time of every round of each way."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    names, order, began = list(ways), random.Random(0), time.perf_counter()
    for way in ways.values():
        way()  # allocates
    while time.perf_counter() - began < seconds or len(samples[names[0]]) < min_rounds:
        order.shuffle(names)
        for name in names:
            start = time.thread_time()
            ways[name]()
            samples[name].append(time.thread_time() - start)
    return samples


def compared(
    case: str, ours: str, baseline: str, nets: int, target: str, times: dict[str, list[float]]
) -> Row:
    """Compare two ways that were timed in turns."""
    medians, minima = (
        [1e6 * of(times[name]) / STEPS for name in (ours, baseline)]
        for of in (statistics.median, min)
    )
    return Row(
        case,
        baseline,
        nets,
        *medians,
        ratio=medians[1] / medians[0],
        target=target,
        ratio_of_minima=minima[1] / minima[0],
        rounds=len(times[ours]),
    )


def heads(seconds: float) -> list[Row]:
    """Ten seeds of every head on the same features, batch 64."""
    x, targets = torch.randn(ROWS, 1280), torch.randint(0, 10, (ROWS,))
    train, val = ArrayDataset(x, targets), ArrayDataset(x[:64], targets[:64])
    configs = [TrainConfig(batch_size=64, lr=1e-3, seed=seed) for seed in range(SEEDS)]
    found = []
    for name, make in HEADS.items():
        ours = [
            CompiledRowsLearner(make(), config, "classification", (x, targets, None))
            for config in configs
        ]
        ways = {
            "ours": at_once(ours),
            "fit, batch by batch": batch_by_batch(
                [ModelLearner(make(), train, val, config) for config in configs]
            ),
            "RowsLearner": batch_by_batch(
                [
                    RowsLearner(make(), config, "classification", (x, targets, None))
                    for config in configs
                ]
            ),
        }
        times = in_turns(ways, seconds)
        aim = ">= 3" if name.startswith(("spinal", "mlp")) else ""
        for baseline, target in (("fit, batch by batch", aim), ("RowsLearner", "")):
            found.append(compared(name, "ours", baseline, SEEDS, target, times))
            print(found[-1], flush=True)
    return found


def tables(seconds: float) -> list[Row]:
    """Eight nets of a table against one of them, batch 128: here a ratio is to be small."""
    x, targets = torch.randn(5_000, 8), torch.randint(0, 2, (5_000,))
    rows = x, targets, None
    configs = [TrainConfig(batch_size=128, lr=1e-3, seed=seed) for seed in range(MEMBERS)]

    def made(kind: type, count: int) -> list:
        return [
            kind(SpinalNet(8, 2, 50, 6), config, "classification", rows)
            for config in configs[:count]
        ]

    ways = {
        "eight": at_once(made(CompiledRowsLearner, MEMBERS)),
        "one, compiled": at_once(made(CompiledRowsLearner, 1)),
        "one, RowsLearner": batch_by_batch(made(RowsLearner, 1)),
        "one, fit": batch_by_batch(
            [ModelLearner(SpinalNet(8, 2, 50, 6), ArrayDataset(x, targets),
                          ArrayDataset(x[:64], targets[:64]), configs[0])]
        ),
    }  # fmt: skip
    times = in_turns(ways, seconds)
    found = []
    for baseline in list(ways)[1:]:
        target = "<= 2.5" if baseline == "one, RowsLearner" else ""
        name = "table, 8 / 50x6: time of eight over that of"
        found.append(compared(name, baseline, "eight", MEMBERS, target, times))
        found[-1] = replace(found[-1], baseline=baseline)
        print(found[-1], flush=True)
    return found


def promised(seconds: float) -> list[Row]:
    """A head against the layers it replaces, both as `fit` trains them on features in memory.

    Whole steps, without a gradient for x, which features do not need. The target is 1.15 times the
    ratio of multiplications.
    """
    found = []
    for case, batch in itertools.product(HEAD_CASES[:4], (28, 64, 100, 1024)):
        x, targets = torch.randn(40 * batch, case.in_features), torch.randint(0, 10, (40 * batch,))
        config, rows = TrainConfig(batch_size=batch, lr=1e-4), (x, targets, None)
        sizes = case.in_features, case.out_features
        mlp = MLPHead(*sizes, case.mlp) if case.mlp else LinearHead(*sizes)
        nets = {"spinal": case.spinal(), "MLP": mlp}
        ways = {
            name: at_once([CompiledRowsLearner(net, config, "classification", rows)])
            for name, net in nets.items()
        }
        times = in_turns(ways, seconds / 10)
        spinal, fully_connected = case.macs()
        target = f"<= {1.15 * spinal / fully_connected:.2f}"
        row = compared(f"{case.name}, batch {batch}", "MLP", "spinal", 1, target, times)
        found.append(replace(row, baseline="MLP, by the same"))
        print(found[-1], flush=True)
    return found


def same_bits() -> None:
    """Refuse to time what is wrong: a member alone and among ten."""
    x, targets = torch.randn(500, 1280), torch.randint(0, 10, (500,))
    configs = [TrainConfig(epochs=2, seed=seed) for seed in range(3)]
    states = []
    for chosen in (configs, configs[1:2]):
        nets = []
        for config in chosen:
            torch.manual_seed(config.seed)
            nets.append(SpinalNet(1280, 10, 20, 4))
        done = train_together(nets, chosen, "classification", (x, targets, None))
        states.append(done[min(1, len(chosen) - 1)].net.state_dict())
    for name, value in states[0].items():
        if not torch.equal(value, states[1][name]):
            raise SystemExit(f"{name} depends on the companions: no time is reported.")


def main() -> None:
    """Measure and write the rows."""
    parser = new_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="Of every comparison.")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    same_bits()
    rows = [*tables(seconds), *promised(seconds), *heads(seconds)]
    protocol = (
        "One thread; microseconds of its processor time for one step of all nets together, medians "
        f"of rounds of {STEPS} steps, ways in turns. Ratios of ten seeds: theirs over ours; of "
        "tables, the time of eight nets over that of one; of single heads, that of spinal over the "
        "MLP's. "
        f"Kernels for {native.instruction_set()}, inner loop at "
        f"{native.peak_gflops():.0f} GFLOP/s."
    )
    record = {"benchmark": "stacked", "protocol": protocol, **describe_origin()}
    files.write_mapping(RESULT, {**record, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()

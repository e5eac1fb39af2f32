"""Time the heads, write benchmarks/results/{heads,heads-fit,steps}.json and docs/speed.md.

python benchmarks/heads.py [--table-only | --fit-only]
"""

from __future__ import annotations

import itertools
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from command_line import new_parser

from spinalnet import bench
from spinalnet.bench.heads import TRAINING_SLACK, keeps_promise
from spinalnet.kernels import native
from spinalnet.nn import LinearHead, MLPHead

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "heads.json"
FIT_RESULT = RESULTS / "heads-fit.json"
PAGE = ROOT / "docs" / "speed.md"
BEGIN, END = "<!-- table: heads -->", "<!-- end of table -->"

# How many times faster than naive small batches of narrow heads were to be.
AIM = {"inference": 5.0, "training": 3.5}
SMALL_BATCH, NARROW = 100, 128


def measure() -> None:
    torch.set_num_threads(1)
    protocol = (
        "one thread; all ways in turns within a row, shortest round in microseconds per batch; "
        "training is forward, square().mean() and backward with a gradient for x too, the "
        "loss alone taken off; parity with the float64 reference checked first; kernels for "
        f"{native.instruction_set()}, inner loop at {native.peak_gflops():.0f} GFLOP/s"
    )
    rows: list[bench.HeadTimes] = []
    for case in bench.HEAD_CASES:
        large = case.hidden_features >= 512  # seconds per step of its MLP
        rows += bench.bench_heads(
            [case],
            seconds=0.6,
            min_rounds=4 if large else 20,
            compile_batches=(64,) if case.hidden_features == 8 else (),
        )
        print(bench.heads_table(rows[-12:]), flush=True)
        bench.write_result(RESULT, "heads", protocol, rows)
    steps = bench.BENCHMARKS["steps"]
    found = steps.run()
    print(steps.show(found), flush=True)
    bench.write_result(RESULTS / "steps.json", "steps", f"one thread; {steps.protocol}", found)


@dataclass(frozen=True)
class FitTimes:
    """A head and its MLP, each trained as `fit` trains heads on features in memory.

    Microseconds of processor time for a whole step: rows gathered, forward, loss, backward without
    a gradient for x, AdamW. Shortest rounds, and the medians beside them.
    """

    head: str
    batch: int
    mac_ratio: float
    spinal: float
    mlp: float
    of_mlp: float
    medians: tuple[float, float]
    ways: tuple[str, str]  # "compiled" or "batch by batch"
    rounds: int

    @property
    def kept(self) -> bool:
        """Whether the head keeps what its multiplications promise."""
        return keeps_promise("training", self.of_mlp, self.mac_ratio)


def measure_fit(seconds: float = 2.0) -> None:
    """Time every head against its MLP as `fit` runs both."""
    import stacked  # beside this file; not needed to make the table

    torch.set_num_threads(1)
    rows: list[FitTimes] = []
    for case, batch in itertools.product(bench.HEAD_CASES, (1, 28, 64, 100, 1024, 4096)):
        steps = 64 if batch <= 100 else 8 if batch <= 1024 else 2  # `fit` makes 64 per call
        examples = max(2 * steps * batch, 2000)
        x = torch.randn(examples, case.in_features)
        targets = torch.randn(examples, 1)
        if case.out_features > 1:
            targets = torch.randint(0, case.out_features, (examples,))
        sizes = case.in_features, case.out_features
        mlp = MLPHead(*sizes, case.mlp) if case.mlp else LinearHead(*sizes)
        made = [stacked.as_fit(net, x, targets, batch, steps) for net in (case.spinal(), mlp)]
        calls = {"spinal": made[0][0], "mlp": made[1][0]}
        times = stacked.in_turns(calls, seconds, min_rounds=3 if case.hidden_features >= 512 else 8)
        best, middle = (
            [1e6 * of(times[name]) / steps for name in calls] for of in (min, statistics.median)
        )
        spinal_macs, mlp_macs = case.macs()
        rows.append(
            FitTimes(
                head=case.name,
                batch=batch,
                mac_ratio=spinal_macs / mlp_macs,
                spinal=best[0],
                mlp=best[1],
                of_mlp=best[0] / best[1],
                medians=(middle[0], middle[1]),
                ways=(made[0][1], made[1][1]),
                rounds=len(times["spinal"]),
            )
        )
        print(fit_table(rows[-1:]).splitlines()[-1], flush=True)
        protocol = (
            "one thread; whole steps as `fit` makes them of features in memory, the head and its "
            "MLP in turns; shortest round, microseconds of processor time per step; kernels for "
            f"{native.instruction_set()}, inner loop at {native.peak_gflops():.0f} GFLOP/s"
        )
        bench.write_result(FIT_RESULT, "heads-fit", protocol, rows)


def fit_table(rows: list[FitTimes]) -> str:
    lines = [
        "| head, as `fit` trains it | batch | µs a step | its MLP | of MLP | at most | kept |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        slow = " (batch by batch)"
        spinal, mlp = (slow if way != "compiled" else "" for way in row.ways)
        lines.append(
            f"| {row.head} | {row.batch} | {row.spinal:,.0f}{spinal} | {row.mlp:,.0f}{mlp} "
            f"| {row.of_mlp:.2f} | {TRAINING_SLACK * row.mac_ratio:.2f} "
            f"| {'yes' if row.kept else '**no**'} |"
        )
    return "\n".join(lines)


def fit_section() -> str:
    """The table of steps as `fit` makes them, if it was measured."""
    if not FIT_RESULT.exists():
        return ""
    entries = json.loads(FIT_RESULT.read_text(encoding="utf-8"))["rows"]
    rows = [FitTimes(**entry) for entry in entries]
    missed = [f"{row.head}: {row.batch}" for row in rows if not row.kept]
    return (
        f"{fit_table(rows)}\n\n- training, as `fit` runs it: the promise is kept in "
        f"{len(rows) - len(missed)} of {len(rows)} rows"
        + (f"; missed (head: batch) {', '.join(missed)}" if missed else "")
        + ".\n\n"
    )


def kept(row: bench.HeadTimes, over_mlp: float) -> bool:
    """Whether a head keeps what its multiplications promise."""
    return keeps_promise(row.mode, over_mlp, row.mac_ratio)


def summary(rows: list[bench.HeadTimes]) -> str:
    lines = []
    for mode in ("inference", "training"):
        mine = [row for row in rows if row.mode == mode]
        for how in ("as built", "one parameter"):
            missed = [
                f"{row.head}: {row.batch}"
                for row in mine
                if not kept(row, row.over_mlp if how == "as built" else row.flat_over_mlp)
            ]
            lines.append(
                f"- {mode}, {how}: the promise is kept in {len(mine) - len(missed)} of {len(mine)} "
                f"rows" + (f"; missed (head: batch) {', '.join(missed)}" if missed else "") + "."
            )
        slower = [f"{row.head}: {row.batch}" for row in mine if not is_fastest(row)]
        if slower:
            lines.append(
                f"- {mode}: naive or packed was faster by over 5 % in {', '.join(slower)}."
            )
        lines.append(against_naive(mine, mode))
    return "\n".join(lines)


def is_fastest(row: bench.HeadTimes) -> bool:
    us = row.microseconds
    return us["spinal"] <= 1.05 * min(us["naive"], us["packed"])


def against_naive(mine: list[bench.HeadTimes], mode: str) -> str:
    """Say how often the aim is reached, and how often nothing could reach it."""
    narrow = {case.name for case in bench.HEAD_CASES if case.hidden_features <= NARROW}
    small = [row for row in mine if row.batch <= SMALL_BATCH and row.head in narrow]
    built, flat = (
        sum(row.microseconds["naive"] >= AIM[mode] * row.microseconds[way] for row in small)
        for way in ("spinal", "flat")
    )
    beyond = [
        f"{row.head}: {row.batch}"
        for row in small
        if AIM[mode] * time_of_macs(row) > row.microseconds["naive"]
    ]
    reached = (
        f"- {mode}, batches up to {SMALL_BATCH}, w <= {NARROW}: {AIM[mode]:g} times faster than "
        f"naive in {built} of {len(small)} rows as built, in {flat} with one parameter."
    )
    if not beyond:
        return reached
    return (
        f"{reached} In {len(beyond)} of the {len(small)} no implementation can be on this "
        "processor: the multiplications alone, at the full rate of the inner loop, take more than "
        f"1 / {AIM[mode]:g} of naive's time ({', '.join(beyond)})."
    )


def time_of_macs(row: bench.HeadTimes) -> float:
    """Microseconds that the row's multiplications take at the full rate of the inner loop."""
    return row.peak_fraction * row.microseconds["spinal"]


def section() -> str:
    """The part of the page that is made from the result file."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    rows = [bench.HeadTimes(**row) for row in result["rows"]]
    return f"{BEGIN}\n\n{bench.heads_table(rows)}\n\n{summary(rows)}\n\n{fit_section()}{END}"


def write_table() -> None:
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(head + section() + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    parser = new_parser(__doc__)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--table-only", action="store_true", help="measure nothing, write the page")
    some.add_argument("--fit-only", action="store_true", help="only heads as `fit` trains them")
    asked = parser.parse_args()
    if not asked.table_only:
        if not asked.fit_only:
            measure()
        measure_fit()
    if PAGE.exists():
        write_table()


if __name__ == "__main__":
    main()

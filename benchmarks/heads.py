"""Time the heads, write benchmarks/results/{heads,steps}.json and the table in docs/kernels.md.

python benchmarks/heads.py [--table-only]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from spinalnet import bench
from spinalnet.kernels import native

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "heads.json"
PAGE = ROOT / "docs" / "kernels.md"
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


def kept(row: bench.HeadTimes, over_mlp: float) -> bool:
    """Whether a head takes no longer than its multiplications promise (training: 15 % slack)."""
    slack = 1.15 if row.mode == "training" and row.mac_ratio < 1 else 1.0
    return over_mlp <= slack * row.mac_ratio


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
    return f"{BEGIN}\n\n{bench.heads_table(rows)}\n\n{summary(rows)}\n\n{END}"


def write_table() -> None:
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(head + section() + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    if "--table-only" not in sys.argv:
        measure()
    if PAGE.exists():
        write_table()

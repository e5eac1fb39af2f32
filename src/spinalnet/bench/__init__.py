"""Benchmarks: ratios within one run, against baselines written here in the plainest way.

Absolute times on a shared machine mean little; every row times its baseline in turn with ours and
reports the ratio. Tables in the docs are made from the JSON files written here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from spinalnet.bench.exporting import bench_export
from spinalnet.bench.heads import (
    HEAD_CASES,
    HeadCase,
    HeadTimes,
    bench_heads,
    bench_steps,
    check_head_parity,
    heads_table,
)
from spinalnet.bench.images import EPOCH_PROTOCOL, bench_augment, bench_epoch
from spinalnet.bench.rows import rows_table, write_result


@dataclass(frozen=True)
class Benchmark:
    """One row of `BENCHMARKS`: what is measured how, and how its rows are shown (Markdown)."""

    protocol: str
    run: Callable[[], list[Any]]
    show: Callable[[list[Any]], str] = rows_table


BENCHMARKS: dict[str, Benchmark] = {
    "augment": Benchmark(
        "28 x 28 images, batch 64; both sides in turns; medians, quartiles of the ratio",
        bench_augment,
    ),
    "epoch": Benchmark(EPOCH_PROTOCOL, bench_epoch),
    "heads": Benchmark(
        "all ways in turns within a row, shortest round in microseconds per batch; training is "
        "forward, square().mean() and backward with a gradient for x too, the loss alone taken "
        "off; parity with the float64 reference checked first",
        partial(bench_heads, seconds=0.6),
        heads_table,
    ),
    "export": Benchmark(
        "ONNX Runtime (ours) and torch in turns within a row, inference; the exported model's "
        "answers compared with torch's first; shortest round of about a millisecond, quartiles of "
        "the ratio over all rounds",
        bench_export,
    ),
    "steps": Benchmark(
        "whole training steps of heads: zero_grad, forward, square().mean(), backward with a "
        "gradient for x too, fused Adam; all ways in turns; shortest rounds, quartiles of ratios",
        bench_steps,
    ),
}

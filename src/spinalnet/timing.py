"""Timing that survives a noisy machine: cases take turns, and only ratios within one run count."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds per call over all rounds of one case."""

    median: float
    quartiles: tuple[float, float]
    minimum: float
    rounds: int
    calls_per_round: int


def take_turns(
    cases: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    min_rounds: int = 7,
    device: str | torch.device = "cpu",
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Time all `cases` in turns, so that a slow spell of the machine hits each of them alike.

    The order changes from round to round, always in the same way: what a case leaves behind in the
    caches and on the heap must not fall to the same neighbour every time.

    Every round calls each case often enough to last about a millisecond. Kernels on a CUDA device
    are waited for.

    Args:
        cases: Name to function; the result is thrown away.
        seconds: Time to spend in all, exceeded only to reach `min_rounds`.
        min_rounds: Fewest rounds.
        device: Where the cases run.

    Returns:
        Seconds per call in every round, and the calls of a round, by name.
    """
    on_cuda = torch.device(device).type == "cuda"

    def wait() -> None:
        if on_cuda:
            torch.cuda.synchronize(device)

    def clock(case: Callable[[], object], calls: int) -> float:
        wait()
        start = time.perf_counter()
        for _ in range(calls):
            case()
        wait()
        return (time.perf_counter() - start) / calls

    calls: dict[str, int] = {}
    for name, case in cases.items():
        clock(case, 3)  # first calls allocate, choose kernels and compile
        calls[name] = max(1, min(1000, round(1e-3 / max(clock(case, 1), 1e-7))))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    names, order, rounds = list(cases), random.Random(0), 0
    start = time.perf_counter()
    while cases and (rounds < min_rounds or time.perf_counter() - start < seconds):
        order.shuffle(names)
        for name in names:
            samples[name].append(clock(cases[name], calls[name]))
        rounds += 1
    return samples, calls


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    min_rounds: int = 7,
    device: str | torch.device = "cpu",
) -> dict[str, Timing]:
    """Time all `cases` with `take_turns`; return the summary of each."""
    samples, calls = take_turns(cases, seconds=seconds, min_rounds=min_rounds, device=device)
    timings = {}
    for name, values in samples.items():
        low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
        timings[name] = Timing(
            statistics.median(values), (low, high), min(values), len(values), calls[name]
        )
    return timings

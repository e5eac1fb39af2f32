"""What was measured of the cost of heads, as `timing.json` holds it, and what may be said of it.

The file, schema 3 (`cost.time_heads` writes it, `read_costs` reads it and what earlier versions
wrote):

    {"schema": 3, "device": "cpu", "threads": 1, "batch_size": 64, "processes": 5, "rounds": 31,
     "unit": "us per batch", "memory_of": "network", "seconds": 7.1,
     "heads": {
       "spinal": {                                   by label, the first row first
         "inference": 82.1,                          median, microseconds a batch, of the head alone
         "training": 300.4,                          forward and backward
         "inference_quartiles": [80.9, 84.0], "training_quartiles": [297.0, 310.2],
         "inference_ratio": null, "training_ratio": null,
         "peak_memory_bytes": 5201904                of a training step; null if not measured
       },
       "mlp": {                                      the time of the first row over this one's
         ..., "inference_ratio": {"ratio": 1.31, "low": 1.22, "high": 1.41}, ...
       }}}

Times of earlier versions, of schema 2 or of none, hold what it takes to switch a module between
training and evaluation, which is as much as a small spinal head takes. They are not read, only the
memory beside them is, and a comparison that goes on measures anew.

A machine is slower at one time than at another, and a process than the next by how it happens to
lie in memory. Therefore two heads are compared within a round, in which they take turns, and
rounds within a process; and the interval of a ratio resamples whole processes.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from spinalnet._checks import check_values
from spinalnet.comparison.schema import check_version

SCHEMA = 3
MODES = ("inference", "training")
_RESAMPLES = 4000  # random ones, where all cannot be gone through


@dataclass(frozen=True)
class RatioInterval:
    """The time of the first head over another's: an estimate and its 95 % interval."""

    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class HeadCost:
    """What a head was measured to cost.

    Attributes:
        inference_us: Median microseconds of a batch, of the head alone; None if not measured.
        training_us: The same, forward and backward.
        inference_quartiles: Of the rounds of all processes; None in files of earlier versions.
        training_quartiles: The same.
        inference_ratio: Of the first head to this one; None for the first itself, or where one
            process alone was measured.
        training_ratio: The same.
        peak_memory_bytes: Most bytes in use at a time in a training step; None if not measured.
    """

    inference_us: float | None = None
    training_us: float | None = None
    inference_quartiles: tuple[float, float] | None = None
    training_quartiles: tuple[float, float] | None = None
    inference_ratio: RatioInterval | None = None
    training_ratio: RatioInterval | None = None
    peak_memory_bytes: int | None = None


def time_verdict(ratio: RatioInterval | None) -> Literal["faster", "slower"] | None:
    """Say whether the first head is faster or slower than the other; None if that is open."""
    if ratio is None or ratio.low <= 1.0 <= ratio.high:
        return None
    return "faster" if ratio.high < 1.0 else "slower"


def paired_ratio(
    first: Sequence[Sequence[float]], other: Sequence[Sequence[float]]
) -> RatioInterval | None:
    """Return the ratio of two heads' times with a bootstrap interval over processes.

    Each process gives the median of its rounds' log ratios, and the estimate is their mean.
    Processes are resampled with all their rounds, in every possible way where there are few. What
    the percentiles of so few lack is made up for: they are moved outward by
    t(n - 1) / z * sqrt(n / (n - 1)), as Student's t asks for of n processes; without that, 3
    processes give intervals that hold the truth in 75 % of cases, and 5 in 83 %.

    Args:
        first: Seconds of the rounds of each process, `(processes, rounds)`.
        other: The same of the other head, in the same rounds.

    Returns:
        The interval; None for fewer than two processes.
    """
    medians = [
        statistics.median(math.log(a / b) for a, b in zip(ours, theirs, strict=True))
        for ours, theirs in zip(first, other, strict=True)
    ]
    n = len(medians)
    if n < 2:
        return None
    from scipy.special import ndtri, stdtrit

    centre = statistics.fmean(medians)
    means = sorted(_resampled_means(medians))
    low = means[math.ceil(0.025 * len(means)) - 1]
    high = means[math.ceil(0.975 * len(means)) - 1]
    widen = float(stdtrit(n - 1, 0.975) / ndtri(0.975)) * math.sqrt(n / (n - 1))
    return RatioInterval(
        math.exp(centre),
        math.exp(centre - widen * (centre - low)),
        math.exp(centre + widen * (high - centre)),
    )


def _resampled_means(values: Sequence[float]) -> list[float]:
    """Return the means of all resamples of few values, or of many random ones."""
    n = len(values)
    if n**n <= _RESAMPLES:
        return [statistics.fmean(drawn) for drawn in itertools.product(values, repeat=n)]
    import numpy as np

    drawn = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))
    return np.asarray(values)[drawn].mean(1).tolist()


def cost_of_rounds(
    seconds: Mapping[str, Sequence[Mapping[str, Sequence[float]]]],
    peak_memory: Mapping[str, int | None],
) -> dict[str, HeadCost]:
    """Summarise what was measured.

    Args:
        seconds: By mode, for each process the seconds of its rounds by label, the first row first.
        peak_memory: Bytes by label.
    """
    found: dict[str, dict[str, Any]] = {label: {} for label in seconds[MODES[0]][0]}
    first = next(iter(found))
    for mode in MODES:
        for label, cost in found.items():
            rounds = [process[label] for process in seconds[mode]]
            every = [1e6 * value for process in rounds for value in process]
            low, middle, high = statistics.quantiles(every, n=4, method="inclusive")
            cost[f"{mode}_us"], cost[f"{mode}_quartiles"] = middle, (low, high)
            if label != first:
                ours = [process[first] for process in seconds[mode]]
                cost[f"{mode}_ratio"] = paired_ratio(ours, rounds)
    return {
        label: HeadCost(**cost, peak_memory_bytes=peak_memory.get(label))
        for label, cost in found.items()
    }


def heads_to_dict(costs: Mapping[str, HeadCost]) -> dict[str, Any]:
    """Return plain values, as they stand under "heads" in `timing.json`."""
    found = {}
    for label, cost in costs.items():
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(cost).items()}
        medians = {mode: values.pop(f"{mode}_us") for mode in MODES}
        found[label] = {**medians, **values}
    return found


_QUARTILES = tuple[float, float] | None
_COST = {
    **dict.fromkeys(MODES, float | None),
    **{f"{mode}_quartiles": _QUARTILES for mode in MODES},
    **{f"{mode}_ratio": Mapping | None for mode in MODES},
    "peak_memory_bytes": int | None,
}


def read_costs(timing: Mapping[str, Any] | None) -> dict[str, HeadCost]:
    """Read what `timing.json` holds of each head, by label; nothing if there is no such file.

    Raises:
        InputError: If it is of a later version or of none, or not what such a file holds.
    """
    values = timing or {}
    version = check_version(values, SCHEMA)
    check_values(values, {"heads": Mapping | None})
    found = {}
    for label, cost in (values.get("heads") or {}).items():
        check_values(cost or {}, _COST)
        cost = dict(cost or {})
        if version < SCHEMA:
            cost = {"peak_memory_bytes": cost.get("peak_memory_bytes")}
        for name, value in cost.items():
            if name.endswith("_ratio") and value is not None:
                check_values(value, dict.fromkeys(("ratio", "low", "high"), float))
                cost[name] = RatioInterval(*(value[key] for key in ("ratio", "low", "high")))
            elif name.endswith("_quartiles") and value is not None:
                cost[name] = tuple(value)
        medians = {f"{mode}_us": cost.pop(mode, None) for mode in MODES}
        known = {name: cost.get(name) for name in _COST if name not in MODES}
        found[label] = HeadCost(**medians, **known)
    return found

"""Nested tuning on a table: the settings of one run, chosen inside its training rows.

What is tried stands in `spaces`. It is all done again for every unit, so that the test rows of a
unit decide nothing about its settings, and another unit's luck neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from spinalnet._checks import InputError, TrainingError
from spinalnet.comparison import spaces
from spinalnet.comparison.metrics import Metric, default_metric, find_metric, measured
from spinalnet.comparison.outputs import joined
from spinalnet.comparison.tables.fitting import estimator_of, fit, predicted
from spinalnet.comparison.tables.rows import TableRows
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data.order import stream_seed


def metric_of(spec: TableSpec, rows: TableRows) -> Metric:
    """Return what trials are chosen by.

    Raises:
        InputError: If the metric that is asked for is one of the other task.
    """
    task = rows.table.task
    return find_metric(spec.metric, task) if spec.metric else default_metric(task, table=True)


def tuned_space(spec: TableSpec) -> spaces.Space:
    """Return what is tried of a head: all that it was not given.

    Raises:
        InputError: If that is nothing.
    """
    given = {*spec.train, *spec.head_options}
    if "hidden_features" in given:
        given.add(spaces.WIDTH)
    space = {name: part for name, part in spaces.space_of(spec.head).items() if name not in given}
    if not space:
        raise InputError(
            f"nothing is left to tune of head '{spec.head}': leave out tune or some of its options."
        )
    return space


def tune(
    spec: TableSpec,
    rows: TableRows,
    done: Callable[[Sequence[Mapping[str, Any]]], None],
    known: Sequence[Mapping[str, Any]] = (),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Try settings by cross-validation inside the training rows.

    Args:
        spec: The run.
        rows: Its rows, of which those to train on alone are looked at.
        done: Called with the trials that are done.
        known: Trials of the same run that are done, which are not made again.

    Returns:
        Every trial: its settings, its score by the metric of the comparison on all scoring rows
        together, and its loss, which decides between equal scores; and the best settings.

    Raises:
        TrainingError: If no trial has a finite score.
    """
    metric = metric_of(spec, rows)
    # Not the seed of the run: what is found there must also do with other weights.
    seed = stream_seed("tune", spec.seed, spec.unit.name) % 2**31
    folds = rows.inner()
    trials: list[dict[str, Any]] = []
    for settings in spaces.sample(tuned_space(spec), spec.tune, seed):
        before = known[len(trials)] if len(trials) < len(known) else None
        found = before or _try(spec, rows, settings, seed, folds, metric)
        trials.append({**found, "settings": settings})
        done(trials)
    finite = [trial for trial in trials if trial["score"] is not None]
    if not finite:
        raise TrainingError(
            f"no trial of tune came to a finite score with head '{spec.head}': give more rows, or "
            "leave out tune."
        )
    sign = 1 if metric.higher_is_better else -1
    best = max(finite, key=lambda trial: (sign * trial["score"], -trial["loss"]))
    return trials, best["settings"]


def _try(
    spec: TableSpec,
    rows: TableRows,
    settings: Mapping[str, Any],
    seed: int,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    metric: Metric,
) -> dict[str, Any]:
    """Score settings on all folds of the training rows; None where the training came to nothing."""
    try:
        said: Any = [
            predicted(fit(estimator_of(spec, rows, settings, seed), rows, train), rows, test)
            for train, test in folds
        ]
    except TrainingError as error:
        return {"score": None, "loss": None, "reason": str(error)}
    outputs = joined(said)
    if (reason := metric.available(outputs)) is not None:
        return {"score": None, "loss": None, "reason": reason}
    numbers = measured(outputs)
    loss = numbers.get("loss", numbers.get("mse", float("inf")))
    return {"score": numbers[metric.key], "loss": loss}

"""The estimator of a run on a table: made, fitted to some rows, and asked about others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.comparison.outputs import AnyOutputs, Outputs, RegressionOutputs
from spinalnet.comparison.tables.heads import head_row, make_estimator, tuned_options
from spinalnet.comparison.tables.rows import TableRows
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data.columns import is_frame


def options_of(spec: TableSpec, chosen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return all options of the estimator: shared, the row's own, and those of a trial."""
    row = head_row(spec.head)
    shared = {name: v for name, v in spec.train.items() if row.kind and name not in row.fixed}
    return tuned_options(spec.head, {**shared, **spec.head_options}, chosen or {})


def estimator_of(
    spec: TableSpec,
    rows: TableRows,
    chosen: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Any:
    """Return the untrained estimator of a run, with the settings of a trial if they are `chosen`.

    Raises:
        InputError: If an option or its value is impossible.
    """
    task, seed = rows.table.task, spec.seed if seed is None else seed
    return make_estimator(spec.head, options_of(spec, chosen), task, seed, outputs=rows.outputs)


@contextmanager
def quiet() -> Iterator[None]:
    """Run trees on as many threads as nets, and meet what is expected in silence."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with (
        warnings.catch_warnings(),
        threadpool_limits(torch.get_num_threads()),
        np.errstate(divide="ignore"),  # the logarithm of no probability at all
    ):
        # A category of the test rows that the training rows lack is met as unknown.
        warnings.filterwarnings("ignore", "Found unknown categories")
        # Other libraries' models are taken as they come, with the length that they have.
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        yield


def fit(estimator: Any, rows: TableRows, train: np.ndarray) -> Any:
    """Return an estimator fitted to some rows.

    Raises:
        InputError: If it does not take these data, or its options do not fit them.
        TrainingError: If the loss is no longer finite.
    """
    with quiet():
        try:
            return _fed(estimator, rows).fit(rows.features(train), rows.targets(train))
        except ValueError as error:  # what an estimator says of data or options
            if isinstance(error, InputError):
                raise
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"{type(estimator).__name__} cannot be fitted to {rows.table.name}: {reason}."
            ) from error


def _fed(estimator: Any, rows: TableRows) -> Any:
    """Give a model of another library the columns of a frame as the nets know them."""
    from spinalnet.comparison.tables.on_columns import OnColumns

    bare = type(estimator).__module__.startswith("sklearn.") and is_frame(rows.table.X)
    return OnColumns(estimator) if bare else estimator


_warm: set[Any] = set()  # what this process has fitted before


def warm_up(spec: TableSpec, rows: TableRows, chosen: Mapping[str, Any] | None) -> None:
    """Fit once in passing, so that the seconds of a fit are not those of loading libraries."""
    key = (head_row(spec.head).kind, spec.head, rows.table.task)
    if key in _warm:
        return
    _warm.add(key)
    row = head_row(spec.head)
    short = {"epochs": 1} if row.kind else row.brief
    briefly = replace(spec, head_options={**spec.head_options, **short})
    fit(estimator_of(briefly, rows, chosen), rows, rows.train)


def predicted(estimator: Any, rows: TableRows, test: np.ndarray) -> AnyOutputs:
    """Return what a fitted estimator says of some rows, whose numbers in the table it keeps."""
    targets = torch.from_numpy(rows.numbers(test))
    found = outputs_of(estimator, rows.features(test), targets, rows.table.task, rows.classes)
    return replace(found, rows=torch.from_numpy(test).int())


def outputs_of(
    estimator: Any, X: Any, targets: Tensor, task: str, classes: Sequence[Any]
) -> AnyOutputs:
    """Return what a fitted estimator says of rows whose targets are known.

    Args:
        estimator: A classifier, which may know a part of the classes only, or a regressor.
        X: Features as it takes them.
        targets: Values, or places in `classes`.
        task: "classification" or "regression".
        classes: All classes, sorted.
    """
    with quiet():
        if task == "regression":
            values = torch.from_numpy(np.asarray(estimator.predict(X), dtype=np.float64))
            return RegressionOutputs.of(values, targets)
        logs = torch.full((len(targets), len(classes)), -torch.inf, dtype=torch.float64)
        known = np.searchsorted(np.asarray(classes), estimator.classes_)
        logs[:, torch.from_numpy(known)] = torch.from_numpy(
            np.asarray(estimator.predict_log_proba(X), dtype=np.float64)
            if hasattr(estimator, "predict_log_proba")
            else np.log(np.asarray(estimator.predict_proba(X), dtype=np.float64))
        )
        return Outputs.of(logs, targets)

"""A trained model of a table out of its folder, ready for another table with the same columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spinalnet import files
from spinalnet._checks import InputError, some
from spinalnet.comparison.notebook import as_html, names_of, test_of
from spinalnet.comparison.outputs import AnyOutputs
from spinalnet.comparison.passed_on import file_of
from spinalnet.comparison.tables import running as table_running
from spinalnet.comparison.tables import store as table_store
from spinalnet.comparison.tables.columns import Tell, align
from spinalnet.comparison.tables.fitting import outputs_of, quiet
from spinalnet.comparison.tables.rows import digest, rows_of
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.comparison.tables.store import MODEL_FILE, Description
from spinalnet.nn import spine_diagram, wiring_in
from spinalnet.training import runs


@dataclass(frozen=True)
class TableModel:
    """A model with what it needs to read another table, to name classes and to answer in units.

    Attributes:
        estimator: What answers: an estimator of scikit-learn's interface.
        about: The columns it takes, and what it predicts.
        spec: The run it comes from; None for a file without its folder.
        source: Where it lies.
        refitted: Whether it was fitted again, since its folder does not hold it as data; then why.
    """

    estimator: Any = field(repr=False)
    about: Description
    spec: TableSpec | None
    source: Path
    refitted: str | None = None

    def _repr_html_(self) -> str:
        """Show in a notebook what it is, what its run reached, and the drawn head of its nets."""
        about = self.about
        module = getattr(self.estimator, "module_", None)
        rows = {
            "model": about.head,
            "data": about.data,
            "columns": names_of([column.name for column in about.columns]),
            "predicts": ", ".join(about.targets),
            "task": about.task,
            "classes": names_of(self.class_names),
            "read from": self.source,
        }
        drawing = ""
        if isinstance(module, nn.Module) and wiring_in(module) is not None:
            drawing = spine_diagram(module, about.head)
        return as_html(f"{about.head} on {about.data}", rows, test_of(self.source), drawing)

    @property
    def task(self) -> str:
        """Either "classification" or "regression"."""
        return self.about.task

    @property
    def classes(self) -> tuple[Any, ...]:
        """The classes, as the table has them, sorted; of a regression none."""
        found = getattr(self.estimator, "classes_", None)
        return () if found is None else tuple(np.asarray(found).tolist())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as text."""
        return tuple(str(name) for name in self.classes)

    def aligned(self, X: Any, *, data: str = "the table", tell: Tell | None = None) -> Any:
        """Return a table with the columns of the model: its names, its order, its types.

        Args:
            X: A data frame; of a model without names of columns also an array.
            data: What the table is called in sentences.
            tell: Called with a sentence for everything the user should know.

        Raises:
            InputError: If a column is missing, or holds what it cannot hold; both named.
        """
        return align(X, self.about.columns, data=data, also=self.about.targets, tell=tell)

    def predict(self, X: Any) -> np.ndarray:
        """Return classes `(N,)`, or values in the units of the target: `(N,)` or `(N, outputs)`.

        Args:
            X: A data frame with the columns of the training, in any order.

        Raises:
            InputError: As for `aligned`.
        """
        ready = self.aligned(X)
        with quiet():
            return np.asarray(self.estimator.predict(ready))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, `(N, classes)`, in the order of `classes`.

        Raises:
            InputError: As for `aligned`; or if it is a regression.
        """
        if self.task != "classification":
            raise InputError("a regression has no probabilities: ask predict for its values.")
        return self.answers(self.aligned(X))

    def answers(self, X: Any) -> np.ndarray:
        """Return probabilities `(N, classes)` or values `(N, outputs)` of rows.

        Args:
            X: As `aligned` gives it.
        """
        with quiet():
            if self.task == "classification":
                return np.asarray(self.estimator.predict_proba(X), dtype=np.float64)
            values = np.asarray(self.estimator.predict(X), dtype=np.float64)
            return values.reshape(len(values), -1)

    def outputs(self, X: Any, y: Any) -> AnyOutputs:
        """Return what the model says of rows whose targets are known, for metrics.

        Args:
            X: As `aligned` gives it.
            y: Classes `(N,)`, or values `(N,)` or `(N, outputs)`.

        Raises:
            InputError: If a class is none of the model's.
        """
        if self.task == "regression":
            targets = torch.from_numpy(np.array(y, dtype=np.float64))
            return outputs_of(self.estimator, X, targets, self.task, self.classes)
        names = {name: place for place, name in enumerate(self.class_names)}
        said = [_as_name(value, names) for value in np.asarray(y).tolist()]
        if unknown := sorted({one for one in said if one not in names}):
            raise InputError(
                f"the target holds {some([repr(one) for one in unknown], 3)}, but the model knows "
                f"{some(self.class_names, 10)}: leave such rows out."
            )
        places = torch.tensor([names[one] for one in said], dtype=torch.int64)
        return outputs_of(self.estimator, X, places, self.task, self.classes)

    def test_rows(self) -> tuple[Any, Any]:
        """Return (features, targets) of the rows that its run kept for the test.

        Raises:
            InputError: If its table is not there any more.
        """
        if self.spec is None:
            raise InputError(
                f"{self.source} is a file without the folder of its run, which knows the test "
                "rows: give data."
            )
        rows = rows_of(self.spec)
        result = runs.read_result(self.source) or {}
        if result.get("table_digest") != digest(rows.table):
            raise InputError(
                f"the table {rows.table.name} of {self.source} has changed since the training, and "
                "so have its test rows: give data."
            )
        return rows.features(rows.test), rows.targets(rows.test)


def _as_name(value: Any, names: Mapping[str, int]) -> str:
    """Return the text of a class; whole numbers have no decimals, whatever they are stored as."""
    if isinstance(value, float) and value.is_integer() and str(value) not in names:
        return str(int(value))
    return str(value)


def is_table_run(path: str | Path) -> bool:
    """Return whether a path is the folder of a run on a table, or the file of its model."""
    path = file_of(path)
    if path.is_file():
        return path.suffix == ".safetensors" and table_store.is_table_model(
            files.load_weights(path)[1]
        )
    if not runs.is_run(path):
        return False
    return "table" in runs.read_config(path)


def load_table_model(path: str | Path, table: Any = None) -> TableModel:
    """Read the model of a finished run on a table.

    Nets and boosted trees lie in the folder as data. What does not (a model of another library, or
    of an earlier version of this package) is fitted again to its training rows.

    Args:
        path: Folder of the run, or one that `save_pretrained` wrote; or `model.safetensors`.
        table: The table, where it was given in memory and has to be fitted to again.

    Raises:
        InputError: If there is no such model, its file is damaged, or it must be fitted again and
            its table is gone or has changed.
    """
    path = file_of(path)
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        estimator, about = table_store.load(path)
        if estimator is None:
            raise InputError(f"{path} does not hold its model ({about.not_kept}): give its folder.")
        return TableModel(estimator, about, None, path)
    if not runs.is_done(folder):
        raise InputError(f"{folder} holds no finished run: give the folder of one on a table.")
    with files.reading(folder / "config.yaml"):
        spec = TableSpec.from_dict(runs.read_config(folder))
    file, why = folder / MODEL_FILE, "an earlier version kept no model that can be used by itself"
    if file.exists() and table_store.is_table_model(files.load_weights(file)[1]):
        estimator, about = table_store.load(file)
        if estimator is not None:
            return TableModel(estimator, about, spec, folder)
        why = about.not_kept or why
    rows = rows_of(replace(spec, frame=table))
    estimator = table_running.refit(folder, table)
    return TableModel(estimator, table_store.describe(spec, rows), spec, folder, why)

"""Using the model of a table: what it says about the rows of another table.

A new table is brought to the columns of the training by name. Its rows are counted from 1, without
the header; in this order predictions are written.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison import TableModel
from spinalnet.comparison.tables.columns import Tell
from spinalnet.data import frames
from spinalnet.deploy.predict import FEW_CLASSES, Format, form_of, writable
from spinalnet.deploy.saved import table_model
from spinalnet.files import expanded
from spinalnet.texts import spreadsheet_cell

_AT_ONCE = 65536  # rows that are encoded at a time


@dataclass(frozen=True)
class RowPrediction:
    """What a model says about one row of a table.

    Attributes:
        row: Its number, from 1.
        probabilities: Of every class; of a regression none.
        values: In the units of the target; of a classification none.
    """

    row: int
    probabilities: tuple[float, ...] = ()
    values: tuple[float, ...] = ()


def read_new(model: TableModel, source: str | Path, tell: Tell | None = None) -> Any:
    """Return a table as a data frame, without asking for a target.

    Args:
        model: Whose columns of text and categories are read as they are written: 007 stays 007;
            and so are dates, if the training found out whether their day or month comes first.
        source: The table: a file, or `sklearn:NAME`.
        tell: Called with every note on how the file was read.

    Raises:
        InputError: If it cannot be read.
    """
    if str(source).startswith("sklearn:"):
        return frames.load_table(str(source)).X
    columns = model.about.columns
    text = [one.name for one in columns if one.kind in ("category", "text") or one.order]
    if any(isinstance(name, str) for name in model.classes):
        text += model.about.targets
    frame, notes = frames.read_frame(expanded(source), text=text)
    if tell is not None:
        for note in notes:
            tell(f"{Path(source).name}: {note}")
    return frame


def rows_to_ask(model: TableModel, data: str | Path | None, tell: Tell | None = None) -> Any:
    """Return rows as a model takes them: of a table, or the test rows of its own run.

    Raises:
        InputError: If the table cannot be read, lacks a column, or is gone.
    """
    if data is None:
        return model.test_rows()[0]
    name = Path(str(data)).name
    return model.aligned(read_new(model, data, tell), data=name, tell=tell)


def predict_rows(
    model: TableModel, X: Any, *, data: str = "the table", tell: Tell | None = None
) -> Iterator[RowPrediction]:
    """Yield what a model says about the rows of a table, in their order.

    Args:
        model: What `spinalnet.load` returned.
        X: A data frame with the columns of the training, in any order, others beside them.
        data: What the table is called in sentences.
        tell: Called with a sentence for everything the user should know.

    Raises:
        InputError: If a column is missing, or holds what it cannot hold; both named.
    """
    ready = model.aligned(X, data=data, tell=tell)
    for begin in range(0, len(ready), _AT_ONCE):
        rows = slice(begin, begin + _AT_ONCE)
        part = ready.iloc[rows] if hasattr(ready, "iloc") else ready[rows]
        for number, said in enumerate(model.answers(part).tolist(), begin + 1):
            if model.task == "classification":
                yield RowPrediction(number, probabilities=tuple(said))
            else:
                yield RowPrediction(number, values=tuple(said))


def write_table_predictions(
    run: str | Path | TableModel,
    source: str | Path,
    out: str | Path | None = None,
    *,
    form: Format | None = None,
    top_k: int = 1,
    all_probabilities: bool | None = None,
    keep: Sequence[str] = (),
    tell: Tell | None = None,
    on_row: Callable[[RowPrediction], None] | None = None,
) -> int:
    """Write what a model says about the rows of a table.

    CSV has the columns row, those of `keep`, prediction; of classes also probability, then
    `prediction_2`, `probability_2`, ... up to `top_k`, then `p_CLASS` for every class. Of a
    regression of several targets it has `prediction_TARGET` for each. JSONL has one object a line
    with the same names, `top` (pairs of class and probability) and `probabilities` (by class).

    Args:
        run: Folder of a run or of a comparison, its `model.safetensors`, or the model.
        source: The table: a file, or `sklearn:NAME`.
        out: File that is replaced when all is written; standard output if None.
        form: csv or jsonl; without it the ending of `out` says so, else CSV.
        top_k: Write so many of the most probable classes.
        all_probabilities: Write every class's probability; by default with up to 20 classes.
        keep: Columns of the table that are written beside the predictions, such as an identifier.
        tell: Called with a sentence for everything the user should know.
        on_row: Called after every row.

    Returns:
        The number of rows.

    Raises:
        InputError: If the table cannot be read or lacks a column, a column to keep has the name of
            one that is written, or `out` cannot be written.
    """
    form = form_of(out, form)
    model = run if isinstance(run, TableModel) else table_model(run, tell)
    frame = read_new(model, source, tell)
    kept = _kept(frame, keep, str(source))
    sheet = _Sheet(model, top_k, all_probabilities)
    _check_keep(keep, ["row", *(sheet.header() if form == "csv" else sheet.keys())], str(source))
    data = Path(str(source)).name
    _tell_of_target(model, frame, keep, data, tell)
    rows = predict_rows(model, frame, data=data, tell=tell)
    first = next(rows, None)  # what is wrong is said before anything is written
    count = 0
    with writable(out, form) as file:
        writer = csv.writer(file, lineterminator="\n")
        if form == "csv":
            writer.writerow(map(spreadsheet_cell, ["row", *keep, *sheet.header()]))
        while first is not None:
            beside = [column[count] for column in kept]
            if form == "csv":
                cells = ["" if value is None else value for value in beside]
                writer.writerow(map(spreadsheet_cell, [first.row, *cells, *sheet.cells(first)]))
            else:
                record = {"row": first.row, **dict(zip(keep, beside, strict=True))}
                record |= sheet.record(first)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
            if on_row is not None:
                on_row(first)
            first = next(rows, None)
    return count


def _kept(frame: Any, keep: Sequence[str], source: str) -> list[list[Any]]:
    """Return the columns that are written beside the predictions, as plain values."""
    columns = [str(name) for name in getattr(frame, "columns", ())]
    for name in keep:
        if name not in columns:
            raise unknown_name(f"column of {source}", name, columns)
    return [[_plain(value) for value in frame[name].tolist()] for name in keep]


def _check_keep(keep: Sequence[str], written: Sequence[str], source: str) -> None:
    """Refuse columns that would be written twice under one name."""
    for place, name in enumerate(keep):
        if name in written:
            raise InputError(
                f"keep must name columns that are not written anyway, got '{name}', "
                f"the name of a column of the predictions: rename it in {source}, or leave it out."
            )
        if name in keep[:place]:
            raise InputError(
                f"keep must name every column once, got '{name}' twice: leave one out."
            )


def _plain(value: Any) -> Any:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)


def _tell_of_target(
    model: TableModel, frame: Any, keep: Sequence[str], data: str, tell: Tell | None
) -> None:
    there = [name for name in model.about.targets if name in getattr(frame, "columns", ())]
    unused = [name for name in there if name not in keep]
    if unused and tell is not None:
        tell(
            f"{data} holds the target {', '.join(unused)}, which is not used; `evaluate` scores "
            "the model on it, --keep writes it beside the predictions."
        )


class _Sheet:
    """The columns of the predictions of one model."""

    def __init__(self, model: TableModel, top_k: int, every: bool | None) -> None:
        self.names = model.class_names
        self.top_k = min(check_positive("top_k", top_k), max(len(self.names), 1))
        self.every = len(self.names) <= FEW_CLASSES if every is None else every
        outputs = model.about.outputs
        self.targets = model.about.targets or tuple(str(k + 1) for k in range(outputs))
        if model.task == "regression" and (top_k > 1 or every):
            raise InputError(
                "a regression predicts values, not classes: leave out top_k and all_probabilities."
            )

    def header(self) -> list[str]:
        if not self.names:
            return ["prediction"] if len(self.targets) == 1 else [
                f"prediction_{name}" for name in self.targets
            ]  # fmt: skip
        more = [f"{what}_{i}" for i in range(2, self.top_k + 1) for what in _COLUMNS]
        return [*_COLUMNS, *more, *(f"p_{name}" for name in self.names if self.every)]

    def cells(self, row: RowPrediction) -> list[str]:
        if not self.names:
            return [f"{value:.10g}" for value in row.values]
        top = [cell for name, p in self._top(row) for cell in (name, f"{p:.6f}")]
        return [*top, *(f"{p:.6f}" for p in row.probabilities if self.every)]

    def keys(self) -> list[str]:
        """Return the names in `record`."""
        if not self.names:
            return ["prediction"]
        top = ["top"] if self.top_k > 1 else []
        return [*_COLUMNS, *top, *(["probabilities"] if self.every else [])]

    def record(self, row: RowPrediction) -> dict[str, Any]:
        if not self.names:
            if len(self.targets) == 1:
                return {"prediction": row.values[0]}
            return {"prediction": dict(zip(self.targets, row.values, strict=True))}
        top = [[name, round(p, 6)] for name, p in self._top(row)]
        record: dict[str, Any] = {"prediction": top[0][0], "probability": top[0][1]}
        if self.top_k > 1:
            record["top"] = top
        if self.every:
            pairs = zip(self.names, row.probabilities, strict=True)
            record["probabilities"] = {name: round(p, 6) for name, p in pairs}
        return record

    def _top(self, row: RowPrediction) -> list[tuple[str, float]]:
        order = np.argsort(-np.asarray(row.probabilities), kind="stable")[: self.top_k]
        return [(self.names[place], row.probabilities[place]) for place in order]


_COLUMNS = ("prediction", "probability")

"""The answer as an object: what `compare` returns, and what a folder holds."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet._checks import InputError, pandas_for, unknown_name
from spinalnet.comparison import outputs, wording
from spinalnet.comparison.answer import Difference, Summary
from spinalnet.comparison.findings import head_rows
from spinalnet.comparison.finished import FinishedRuns, note_look, read_folder, result_of
from spinalnet.comparison.metrics import find_metric
from spinalnet.comparison.report import drawing, figures, tuning_figures, write_report
from spinalnet.comparison.summary import summarize_runs
from spinalnet.files import expanded, write_bytes
from spinalnet.panels import axes_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from spinalnet.comparison.tables.model import TableModel
    from spinalnet.comparison.trained import TrainedModel


@dataclass(frozen=True)
class Comparison:
    """A comparison that has run: its answer, its numbers, its models.

    Attributes:
        folder: Where it lies; `Comparison.load` reads it back.
        summary: All numbers (`summary.json`).
        runs: The runs as read.
        metric: Judged by this, where it is not what was asked for.
        margin: The same for what counts as equal.
    """

    folder: Path
    summary: Summary
    runs: FinishedRuns
    metric: str | None = None
    margin: float | None = None

    @classmethod
    def load(
        cls, folder: str | Path, *, metric: str | None = None, margin: float | None = None
    ) -> Comparison:
        """Read the folder of a comparison.

        Args:
            folder: What `compare` wrote.
            metric: Judge by this row of `METRICS`, not by the one asked for.
            margin: Take this for equal, not what was asked for.

        Raises:
            InputError: If there is no finished run, or the runs do not belong together.
        """
        folder = expanded(folder)
        read = read_folder(folder)
        summary = summarize_runs(read, None, metric=metric, margin=margin)
        if len(summary.heads) > 1:
            with suppress(InputError):  # a folder that can only be read cannot be extended either
                note_look(folder, read.seen)
        return cls(folder, summary, read, metric, margin)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        return self.summary.headline

    @property
    def code(self) -> str | None:
        """better, worse, equal, undecided or nothing-learned; mixed where heads differ in that."""
        return self.summary.code

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The first row minus each other."""
        return tuple(head.difference for head in self.summary.heads if head.difference)

    def to_frame(self) -> pd.DataFrame:
        """Return a row per head as a data frame of pandas, the difference in columns of its own.

        Raises:
            InputError: If pandas is not installed; so do all others that return a frame.
        """
        pd = pandas_for("to_frame()")

        rows = []
        for head in self.summary.heads:
            row = {
                key: value
                for key, value in vars(head).items()
                if key not in ("difference", "values", "cost", "failed", "chosen")
            }
            if head.difference is not None:
                known = vars(head.difference)
                row |= {f"difference_{k}": v for k, v in known.items() if k not in ("of", "minus")}
            rows.append(row)
        return pd.DataFrame(rows).set_index("head")

    def scores(self) -> pd.DataFrame:
        """Return the test metric of every unit (rows) and head (columns)."""
        pd = pandas_for("scores()")

        columns = {head.head: head.values for head in self.summary.heads}
        return pd.DataFrame(columns, index=pd.Index(self.summary.units, name="unit"))

    def predictions(
        self,
        head: str | None = None,
        *,
        unit: str | None = None,
        seed: int | None = None,
        repeat: int = 0,
    ) -> outputs.AnyOutputs:
        """Return what was said of test examples by models that had not seen them.

        Of folds it is every example, said by the model of its fold; else give the unit.

        Args:
            head: Row of the comparison; the first by default.
            unit: One unit, such as "seed0": what its run said of its test examples.
            seed: Of folds with several seeds, whose models; the first by default.
            repeat: Of repeated folds, which repetition.

        Raises:
            InputError: If there is no such unit, none is named where there are no folds, a fold
                has no finished run, or the runs kept no outputs.
        """
        label = self._row(head)
        found = self.runs.runs[label]
        if unit is not None:
            if unit not in found:
                raise unknown_name(f"finished unit of {label}", unit, found)
            chosen = [unit]
        else:
            chosen = self._folds_of(label, seed, repeat)
        said = [outputs.load_outputs(found[name].path / outputs.OUTPUTS_FILE) for name in chosen]
        return outputs.joined(said) if unit is None else said[0]

    def predictions_frame(
        self,
        head: str | None = None,
        *,
        unit: str | None = None,
        seed: int | None = None,
        repeat: int = 0,
    ) -> pd.DataFrame:
        """Return the same as a data frame of pandas, a row per test example.

        Of classes it has the columns `path` (of files), `true`, `prediction`, `probability`, and
        one for every class, with its name (after `p_` where that is the name of another column); of
        more than ten classes only the ten most probable of an example are kept, the others are NaN.
        Of a regression it has `true` and `prediction`, counted where there are several targets.

        Args:
            head: As for `predictions`, which says of the others and of errors, too.
            unit: The same.
            seed: The same.
            repeat: The same.
        """
        import numpy as np

        pd = pandas_for("predictions_frame()")
        said = self.predictions(head, unit=unit, seed=seed, repeat=repeat)
        index = None if said.rows is None else pd.Index(said.rows.numpy(), name="row")
        first: dict[str, Any] = {"path": list(said.paths)} if said.paths else {}
        if isinstance(said, outputs.RegressionOutputs):
            several = said.targets.shape[1] > 1
            for name, values in (("true", said.targets), ("prediction", said.predictions)):
                for k, column in enumerate(values.numpy().T, 1):
                    first[f"{name}_{k}" if several else name] = column
            return pd.DataFrame(first, index=index)
        result = result_of(next(iter(self.runs.runs[self._row(head)].values())))
        names = [str(name) for name in result.get("class_names") or range(said.num_classes)]
        first["true"] = [names[k] for k in said.targets.tolist()]
        first["prediction"] = [names[k] for k in said.predicted.tolist()]
        first["probability"] = said.probabilities[:, 0].numpy()
        every = np.full((len(said), len(names)), np.nan, dtype=np.float32)
        np.put_along_axis(every, said.classes.numpy(), said.probabilities.numpy(), axis=1)
        columns = outputs.class_columns(names, first)
        return pd.DataFrame(first | dict(zip(columns, every.T, strict=True)), index=index)

    def _folds_of(self, label: str, seed: int | None, repeat: int) -> list[str]:
        """Return the units of all folds of one seed and repetition."""
        units = self.runs.units
        if self.summary.unit_kind != "fold":
            raise InputError(
                f"there are no folds whose predictions could be joined: name a unit, such as "
                f"unit='{next(iter(units))}'."
            )
        wanted = self.runs.seeds[0] if seed is None else seed
        names = [
            name
            for name, unit in units.items()
            if unit.seed == wanted and unit.resample and unit.resample.repeat == repeat
        ]
        if not names:
            raise InputError(f"there are no folds of seed {wanted} and repeat {repeat}.")
        if missing := [name for name in names if name not in self.runs.runs[label]]:
            raise InputError(f"{label} has no finished run of {', '.join(missing)}.")
        return names

    @property
    def failed(self) -> dict[str, str]:
        """Why runs did not finish, by row and unit."""
        return {
            f"{row}-{unit}": reason
            for row, by_unit in self.runs.failed.items()
            for unit, reason in by_unit.items()
        }

    def best_run(self) -> Path:
        """Return the folder of the run with the best validation metric.

        Of a table, which has no validation part to choose by, it is the first unit of the row with
        the best mean.
        """
        if self.summary.is_table:
            metric = find_metric(self.summary.metric)
            sign = 1 if metric.higher_is_better else -1
            rows = [row for row in self.summary.heads if row.mean is not None]
            best = max(rows, key=lambda row: sign * (row.mean or 0.0))
            return next(iter(self.runs.runs[best.head].values())).path

        def rank(record: Any) -> tuple[float, float]:
            val = result_of(record).get("val") or {}
            known = {name: value for name, value in val.items() if isinstance(value, int | float)}
            worst = {"mse": math.inf, "loss": math.inf} | known
            return float(known.get("accuracy", -worst["mse"])), -float(worst["loss"])

        return max(self.runs.records, key=rank).path

    def best(self) -> TrainedModel | TableModel:
        """Return the model of `best_run`: its `predict` of a table takes a data frame."""
        if self.summary.is_table:
            from spinalnet.comparison.tables.model import load_table_model

            return load_table_model(self.best_run())
        from spinalnet.comparison.trained import load_trained

        return load_trained(self.best_run())

    def report(self, path: str | Path | None = None) -> Path:
        """Write the page, its tables and figures into the folder; return the page.

        Args:
            path: Copy the page there; it is one file without external parts.
        """
        page = write_report(self.folder, metric=self.metric, margin=self.margin)
        if path is None:
            return page
        write_bytes(path, page.read_bytes())
        return expanded(path)

    def plot_differences(self, ax: Axes | None = None) -> Axes:
        """Draw the paired differences with both intervals and the margin; return the axes."""
        return self._plot(ax, figures.paint_differences)

    def plot_scores(self, ax: Axes | None = None) -> Axes:
        """Draw the metric of every unit and head; return the axes."""
        return self._plot(ax, figures.paint_scores)

    def plot_cost(self, ax: Axes | None = None, by: str = "parameters") -> Axes:
        """Draw the metric against a cost of the head; return the axes.

        Args:
            ax: Axes to draw on; new ones without them.
            by: `parameters`, `macs`, `inference` (microseconds per batch) or `fit` (seconds of a
                run, as long as it took beside whatever ran).

        Raises:
            InputError: If there is no such cost, or it was not measured.
        """
        if by not in figures.COSTS:
            raise unknown_name("cost", by, list(figures.COSTS))
        cost = figures.COSTS[by]
        if not any(cost.value(head) for head in self.summary.heads):
            raise InputError(f"{cost.label} of these heads is not known.")
        return self._plot(
            ax, lambda axes, theme, said: figures.paint_against_cost(axes, theme, said, cost)
        )

    def plot_curves(self, ax: Axes | None = None) -> Axes:
        """Draw validation curves, mean and range over units; return the axes.

        Raises:
            InputError: If the runs have no epochs, as those of trees.
        """
        found = figures.find_curves(self.runs, self.summary)
        if found is None:
            raise InputError("these runs have no epochs, so there are no curves.")
        return self._plot(
            ax, lambda axes, theme, summary: figures.paint_curves(axes, theme, found, summary)
        )

    def plot_tuning(self, ax: Axes | None = None) -> Axes:
        """Draw the expected best of k trials against k; return the axes.

        Raises:
            InputError: If nothing was tuned.
        """
        if not self.summary.tuning:
            raise InputError("nothing was tuned in this comparison: give tune, or --tune.")
        return self._plot(ax, tuning_figures.paint_tuning)

    def _plot(self, ax: Axes | None, paint: Callable[..., object]) -> Axes:
        ax = axes_of(ax, (6.4, 4.2))
        paint(ax, drawing.LIGHT, self.summary)
        return ax

    def _row(self, head: str | None) -> str:
        known = [row.head for row in self.summary.heads]
        if head is None:
            return known[0]
        if head not in known:
            raise unknown_name("row", head, known)
        return head

    def __repr__(self) -> str:
        """Return the answer and the table as text."""
        header, rows = head_rows(self.summary)
        named = [[wording.as_plain_markdown(name), *cells] for name, *cells in rows]
        return f"{self.verdict}\n\n{wording.as_markdown(header, named)}"

    def _repr_html_(self) -> str:
        """Return the answer, one chip a comparison, and the table, for notebooks."""
        header, rows = head_rows(self.summary)
        chips = " ".join(
            f"<b>{html.escape(d.minus)}</b>: {wording.VERDICTS[d.code].word}"
            for d in self.differences
        )
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        return (
            f"<p><b>{html.escape(self.verdict)}</b></p><p>{chips}</p>"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

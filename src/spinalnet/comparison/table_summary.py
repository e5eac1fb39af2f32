"""What a comparison on a table says: scores by split, corrected differences, a verdict in words.

Only values are read, never a model, so files of results can be read and shown years after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, read_fields
from spinalnet.comparison import wording
from spinalnet.comparison.schema import SCHEMA, load, upgraded
from spinalnet.comparison.statistics import Difference, deviation, finite, mean, paired_difference
from spinalnet.comparison.wording import Units, digits, plus_minus

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class ModelScore:
    """One row of the result.

    Attributes:
        model: Row of `tables.CONTENDERS`.
        values: Test score of every repeat: accuracy, or the coefficient of determination; None
            where it was not finite.
        params: Parameters of the network, if it is one.
        fit_seconds: Mean time to fit (tuning included).
        chosen: With `tune`, how often each setting was chosen.
        mean: Mean of the values; None without any.
        std: Their sample standard deviation; None with a single one.
        difference: Of the first model minus this; None for the first.
    """

    model: str
    values: tuple[float | None, ...]
    params: int | None
    fit_seconds: float
    chosen: Mapping[str, int] | None
    mean: float | None = None
    std: float | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class TableComparison:
    """What `compare_table` found; `to_dict` is the content of `summary.json`."""

    table: str
    task: Literal["classification", "regression"]
    rows: int
    columns: int
    outputs: int
    metric: str
    repeats: int
    test_fraction: float
    tuned: bool
    seed: int
    models: tuple[ModelScore, ...]
    verdict: str
    notes: tuple[str, ...]
    environment: Mapping[str, Any]
    command: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> TableComparison:
        """Make one of what `to_dict` returned; what an earlier version found is judged anew.

        Raises:
            InputError: If a later version wrote it, or it is mangled.
            KeyError: If it is no summary.
        """
        found = cls(**read_fields(cls, upgraded(record, "models", ModelScore), "field"))
        return found if "schema" in record else summarize_table(found)


def load_table_summary(path: str | Path) -> TableComparison:
    """Read a `summary.json` that `write_results` left.

    Raises:
        InputError: If the file is missing or is not one.
    """
    return load(path, TableComparison.from_dict, "summary of a table")


def summarize_table(result: TableComparison) -> TableComparison:
    """Return `result` with means, differences and verdict made of the values of its models.

    The splits share rows: the differences are corrected for that, and for their number.

    Raises:
        InputError: If no model has a finite score.
    """
    overlap = result.test_fraction / (1.0 - result.test_fraction)
    by_split = [dict(enumerate(row.values)) for row in result.models]
    names = [row.model for row in result.models]
    differences = wording.judged(
        [
            paired_difference(names[0], name, by_split[0], other, overlap=overlap)
            for name, other in zip(names[1:], by_split[1:], strict=True)
        ],
        Units(result.metric, kind="model", repeat="split"),
    )
    models, notes = [], list(result.notes)
    for row, difference in zip(result.models, [None, *differences], strict=True):
        kept = finite(row.values)
        values = tuple(next(iter(finite([value])), None) for value in row.values)
        models.append(
            replace(row, values=values, mean=mean(kept), std=deviation(kept), difference=difference)
        )
        if lost := len(row.values) - len(kept):
            notes.append(
                f"{lost} of the scores of {row.model} {'is' if lost == 1 else 'are'} not finite "
                "and left out; differences use only the splits that both models of a pair finished."
            )
    result = replace(result, models=tuple(models), notes=tuple(dict.fromkeys(notes)))
    return replace(result, verdict=_findings(result))


_SCORE = digits(".3f")


def _findings(result: TableComparison) -> str:
    """Say which model is best on average, and how the first stands against each other."""
    known = [(row.mean, row) for row in result.models if row.mean is not None]
    if not known:
        raise InputError(f"no model has a finite {result.metric} on {result.table}. Fit again.")
    _, best = max(known, key=lambda pair: pair[0])
    first = result.models[0]
    text = (
        f"On {result.table} ({result.rows} rows) the highest mean {result.metric} is that of "
        f"{best.model}: {plus_minus(best.mean, best.std, _SCORE)}."
    )
    compared = [row.difference for row in result.models[1:] if row.difference is not None]
    parts = [_standing(d) for d in compared if d.n != 1]
    score = plus_minus(first.mean, first.std, _SCORE)
    return f"{text} {first.model} ({score}) is {'; '.join(parts)}." if parts else text


def _standing(d: Difference) -> str:
    """Complete "spinal is ..."."""
    if d.outcome in ("better", "worse"):
        return f"{d.outcome} than {d.minus}"
    if d.outcome == "none":
        return f"not distinguishable from {d.minus}"
    if d.mean is None:
        return f"not comparable with {d.minus}"
    if abs(d.mean) < 1e-12:
        return f"identical to {d.minus} in every split"
    side = "ahead of" if d.mean > 0 else "behind"
    return f"{side} {d.minus} by the same in every split, which no test can judge"


def table_rows(result: TableComparison) -> tuple[list[str], list[list[str]]]:
    """Return the result as text: header and one row per model."""
    first = result.models[0].model
    header = ["model", result.metric, f"{first} minus it", "p", "p\n(Holm)", "parameters", "fit, s"]
    rows = []
    for row in result.models:
        d = row.difference
        compared = ["", "", ""]
        if d is not None:
            compared = [
                wording.interval(d, digits("+.3f")),
                wording.p_value(d.p_value),
                wording.p_value(d.p_holm),
            ]
        params = "" if row.params is None else str(row.params)
        score = plus_minus(row.mean, row.std, _SCORE)
        rows.append([row.model, score, *compared, params, f"{row.fit_seconds:.2f}"])
    return header, rows


def write_results(result: TableComparison, folder: str | Path, command: str | None = None) -> Path:
    """Write `summary.json`, `scores.csv` and `scores.png`; return the folder."""
    folder = Path(folder)
    result = replace(result, command=command)
    files.write_mapping(folder / "summary.json", result.to_dict())
    splits = [
        {"seed": result.seed + k}
        | {
            row.model: "" if (value := row.values[k]) is None else f"{value:.6f}"
            for row in result.models
        }
        for k in range(result.repeats)
    ]
    files.write_text(folder / "scores.csv", wording.as_csv(splits))
    files.write_figure(folder / "scores.png", draw([result]))
    return folder


def draw(results: Sequence[TableComparison]) -> Figure:
    """Draw the scores of every repeat, one panel per table, and the means; return the figure."""
    from matplotlib.figure import Figure

    columns = min(3, len(results))
    lines = math.ceil(len(results) / columns)
    figure = Figure(figsize=(4.2 * columns, 0.9 + 2.3 * lines), layout="constrained")
    for index, result in enumerate(results):
        axes = figure.add_subplot(lines, columns, index + 1)
        for place, row in enumerate(result.models):
            scores = finite(row.values)
            apart = max(1, len(scores) - 1)
            spread = [place + 0.22 * (i / apart - 0.5) for i in range(len(scores))]
            colour = "tab:orange" if place == 0 else "tab:gray"
            axes.plot(scores, spread, "o", color=colour, alpha=0.45, markersize=4, zorder=1)
            if row.mean is not None:
                axes.plot([row.mean], [place], "|", color="black", markersize=16, zorder=2)
        axes.set_yticks(range(len(result.models)), [row.model for row in result.models])
        axes.invert_yaxis()
        axes.margins(y=0.15)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(result.table.removeprefix("sklearn:"), fontsize=10)
        axes.set_xlabel(result.metric, fontsize=9)
        axes.tick_params(labelsize=8)
    return figure

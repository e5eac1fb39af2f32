"""Turn the run folders of a comparison into tables, plots and one self-contained page.

Only files are read, never a model or a data set, so a report can be rebuilt years after the runs.
What the numbers mean stands in `summary`, `classification` and `scores`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spinalnet.comparison import classes
from spinalnet.comparison.classes import HeadQuality
from spinalnet.comparison.report import figures
from spinalnet.comparison.report.figures import Drawn
from spinalnet.comparison.statistics import Units
from spinalnet.comparison.summary import FinishedRuns, Summary, read_folder, summarize_runs
from spinalnet.comparison.wording import findings, table_cells
from spinalnet.files import write_bytes


def write_report(folder: str | Path, command: str | None = None) -> Path:
    """Write tables, plots and the report page into the folder of a comparison, or of one run.

    Everything is rendered before the first file is written, and the same runs give the same
    page; an existing report is replaced.

    Args:
        folder: The folder that `--out` named.
        command: The command to print in the report; None takes it from `comparison.yaml` or
            the report that is replaced.

    Returns:
        Path of `report.html`, one page without external parts. Beside it lie `summary.json`,
        `summary.csv` and the figures as PNG; for classification also `classification.json` and
        `per_class.csv`.

    Raises:
        InputError: If there is no finished run, the runs do not belong together, or the folder
            cannot be written.
    """
    folder = Path(folder)
    comparison = read_folder(folder)
    summary = summarize_runs(comparison, command)
    judged = classes.judge(comparison, summary)
    drawn = _figures(comparison, summary, judged)
    record = summary.as_dict()
    files = {
        "summary.json": _json(record),
        "summary.csv": _csv([_summary_row(head) for head in record["heads"]]),
        **{f"{figure.name}.png": figure.light for figure in drawn},
        "report.html": _page(summary, drawn, judged).encode(),
    }
    if judged:
        rows = [head.as_dict() for head in judged]
        files["classification.json"] = _json({"data": summary.data, "heads": rows})
        files["per_class.csv"] = _csv(
            [{"head": head["head"], **row} for head in rows for row in head["classes"]]
        )
    for name, content in files.items():
        write_bytes(folder / name, content)
    return folder / "report.html"


def _figures(
    comparison: FinishedRuns, summary: Summary, judged: Sequence[HeadQuality]
) -> list[Drawn]:
    """Draw what there is to draw."""
    drawn = [figures.learning_curves(comparison, summary)]
    if len(summary.heads) > 1:
        drawn.append(figures.metric_against_params(summary))
    if judged:
        drawn.append(figures.confusion_figure([head.confusion for head in judged[:2]]))
    if calibrated := [head for head in judged if head.bins]:
        drawn.append(figures.reliability_figure(calibrated))
    for head in judged[:2]:
        if head.mistakes:
            drawn.append(figures.mistakes_figure(f"most_wrong_{head.head}", head))
    return drawn


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()


def _summary_row(head: Mapping[str, Any]) -> dict[str, Any]:
    """One head as a row: the difference is spread over columns, lists are left to the JSON."""
    row = {key: value for key, value in head.items() if not isinstance(value, dict | list)}
    row.pop("difference", None)
    for key in ("of", "mean", "low", "high", "n", "p_value", "p_holm", "outcome", "verdict"):
        row[f"difference_{key}"] = (head["difference"] or {}).get(key)
    return row


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


_PROBABILITIES = {  # name of a number: its column
    "accuracy": "top‑1,\n%",
    "top5_accuracy": "top‑5,\n%",
    "nll": "neg. log-\nlikelihood",
    "brier": "Brier\nscore",
    "ece": "ECE, %",
    "adaptive_ece": "adaptive\nECE, %",
}
_FEW_ROWS = 30  # classes that the page lists; beyond, only those with the lowest F1


def _probability_cells(judged: Sequence[HeadQuality]) -> tuple[list[str], list[list[str]]]:
    """The table of probabilities as text: header, and a row per head."""
    names = [name for name in _PROBABILITIES if any(name in head.means for head in judged)]
    compared = [name for name in ("nll", "ece") if any(name in h.differences for h in judged)]
    header = ["head", *(_PROBABILITIES[name] for name in names)]
    header += [f"{judged[0].head} minus\nthis, {name.upper()}" for name in compared]
    rows = []
    for head in judged:
        row = [head.head]
        for name in names:
            mean, std = head.means.get(name), head.stds.get(name)
            spread = "" if std is None or name not in ("nll", "ece") else f" ± {_cell(name, std)}"
            row.append("–" if mean is None else _cell(name, mean) + spread)
        for name in compared:
            d = head.differences.get(name)
            if d is None or d.mean is None or d.low is None or d.high is None:
                row.append("–")
            else:
                mean, low, high = (_cell(name, value) for value in (d.mean, d.low, d.high))
                row.append(f"{mean} ({low} to {high})")
        rows.append(row)
    return header, rows


def _cell(name: str, value: float) -> str:
    is_share = _PROBABILITIES[name].endswith("%")
    return f"{100 * value:.1f}" if is_share else f"{value:.3f}"


def _class_cells(judged: Sequence[HeadQuality]) -> tuple[list[str], list[list[str]]]:
    """The table of classes as text, of the first two heads: header, and a row per class."""
    shown = judged[:2]
    header = ["class", "test\nexamples"]
    for head in shown:
        of = f"{head.head}\n" if len(shown) > 1 else ""
        header += [f"{of}precision", f"{of}recall", f"{of}F1"]
    order = range(len(shown[0].classes))
    if len(order) > _FEW_ROWS:
        order = sorted(order, key=lambda k: shown[0].classes[k].score.f1)[:_FEW_ROWS]
    rows = []
    for k in order:
        row = [shown[0].classes[k].name, f"{shown[0].classes[k].score.support:,}"]
        for head in shown:
            score, std = head.classes[k].score, head.classes[k].f1_std
            f1 = f"{100 * score.f1:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")
            row += [f"{100 * score.precision:.1f}", f"{100 * score.recall:.1f}", f1]
        rows.append(row)
    return header, rows


def _page(summary: Summary, drawn: Sequence[Drawn], judged: Sequence[HeadQuality]) -> str:
    """Fill the template: one HTML page with everything inside."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    units = Units(summary.metric, summary.test_size)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode()
    template = (
        files("spinalnet.comparison.report")
        .joinpath("templates/report.html.j2")
        .read_text(encoding="utf-8")
    )
    header, rows = table_cells(summary)
    confusions = [head.confusion for head in judged[:2]]
    many = bool(confusions) and len(confusions[0].names) > classes.LARGEST_MATRIX
    return environment.from_string(template).render(
        summary=summary,
        findings=findings(summary.data, summary.model, summary.heads, units),
        header=header,
        rows=list(zip(rows, summary.heads, strict=True)),
        by_seed=[
            (seed, [units.value(head.values[i], unit=False) for head in summary.heads])
            for i, seed in enumerate(summary.seeds)
        ],
        p_value=lambda p: "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        figures=drawn,
        probabilities=_probability_cells(judged) if judged else None,
        calibrated=any(head.bins for head in judged),
        classes=_class_cells(judged) if judged else None,
        classes_left_out=max(0, len(judged[0].classes) - _FEW_ROWS) if judged else 0,
        confused_heads=[confusion.head for confusion in confusions],
        pairs=classes.confused_pairs(confusions) if many else [],
    )

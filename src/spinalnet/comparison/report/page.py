"""Turn the run folders of a comparison into tables, plots and one self-contained page.

Only files are read, never a model or a data set, so a report can be rebuilt years after the runs.
What the numbers mean stands in `summary`, `classes` and `outputs`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spinalnet.comparison import classes, wording
from spinalnet.comparison.answer import HeadSummary, Summary
from spinalnet.comparison.classes import ClassRow, HeadQuality
from spinalnet.comparison.findings import head_rows, paragraphs, repeated, times_note
from spinalnet.comparison.finished import FinishedRuns, note_look, read_folder, result_of
from spinalnet.comparison.next_steps import NextStep, next_steps
from spinalnet.comparison.published import Published, read_published
from spinalnet.comparison.report import (
    class_figures,
    drawing,
    figures,
    published_figures,
    tuning_figures,
)
from spinalnet.comparison.report.drawing import Drawn
from spinalnet.comparison.residuals import HeadResiduals, largest_residuals
from spinalnet.comparison.samples import SHARP, Samples
from spinalnet.comparison.schema import SCHEMA, check_replaceable
from spinalnet.comparison.summary import summarize_runs
from spinalnet.comparison.wording import Show, digits, interval, plus_minus
from spinalnet.files import expanded, reading, sealed, to_json, write_bytes
from spinalnet.texts import in_options
from spinalnet.training.config import TrainConfig
from spinalnet.wiring import Network, Wiring, common_scale, draw_wiring

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def write_report(
    folder: str | Path,
    command: str | None = None,
    *,
    metric: str | None = None,
    margin: float | None = None,
    drawn: Sequence[Drawn] | None = None,
) -> Path:
    """Write tables, plots and the report page into the folder of a comparison, or of one run.

    Everything is rendered before the first file is written, and the same runs give the same
    page; an existing report is replaced.

    Args:
        folder: The folder of a comparison or of one run.
        command: The command to print in the report; None takes it from `comparison.yaml` or
            the report that is replaced.
        metric: See `summarize`.
        margin: See `summarize`.
        drawn: What `draw_figures` has returned for the same runs, metric and margin.

    Returns:
        Path of `report.html`, one page without external parts. Beside it lie `summary.json`,
        `summary.csv` and the figures as SVG; for classification also `classification.json` and
        `per_class.csv`, for a regression on images `residuals.json`.

    Raises:
        InputError: If there is no finished run, the runs do not belong together, a later version
            has written the report there, or the folder cannot be written.
    """
    folder = expanded(folder)
    check_replaceable(folder)
    comparison = read_folder(folder)
    summary = summarize_runs(comparison, command, metric=metric, margin=margin)
    judged = classes.judge(comparison, summary)
    residuals = largest_residuals(comparison, summary)
    drawn = list(_figures(comparison, summary, judged) if drawn is None else drawn)
    cost = figures.metric_against_cost(summary) if len(summary.heads) > 1 else None
    if cost is not None:  # by the differences
        drawn.insert(1, cost)
    published = read_published(folder)
    if published is not None:
        labelled = [(one.head, one) for one in published.values]
        beside = published_figures.published_figure(labelled, published.in_points)
        drawn += [] if beside is None else [beside]
    steps = next_steps(comparison, summary, folder)
    record = summary.to_dict()
    rows = [_summary_row(head, summary.metric) for head in record["heads"]]
    by_unit = [
        {"unit": unit}
        | {
            head.head: "" if (value := head.values[i]) is None else f"{value:.6f}"
            for head in summary.heads
        }
        for i, unit in enumerate(summary.units)
    ]
    contents = {
        "summary.json": to_json(sealed(record)).encode(),
        "summary.csv": wording.as_csv(rows).encode(),
        "scores.csv": wording.as_csv(by_unit).encode(),
        **{f"{figure.name}.svg": figure.svg.encode() for figure in drawn},
        "report.html": _page(
            *(summary, drawn, judged, residuals, steps, _spines(comparison)),
            **{"samples": _samples(comparison), "published": published},
        ).encode(),
    }
    if residuals:
        heads = [head.to_dict() for head in residuals]
        record = {"schema": SCHEMA, "data": summary.data, "heads": heads}
        contents["residuals.json"] = to_json(record).encode()
    if judged:
        heads = [head.to_dict() for head in judged]
        classification = {"schema": SCHEMA, "data": summary.data, "heads": heads}
        of_classes = [{"head": head["head"], **row} for head in heads for row in head["classes"]]
        contents["classification.json"] = to_json(classification).encode()
        contents["per_class.csv"] = wording.as_csv(of_classes).encode()
    for name, content in contents.items():
        write_bytes(folder / name, content)
    if len(summary.heads) > 1:
        note_look(folder, comparison.seen)
    return folder / "report.html"


def draw_figures(folder: str | Path) -> list[Drawn]:
    """Draw the figures of a comparison's report, none of which shows a time.

    Raises:
        InputError: As `write_report`.
    """
    comparison = read_folder(expanded(folder))
    summary = summarize_runs(comparison, None)
    return _figures(comparison, summary, classes.judge(comparison, summary))


def _figures(
    comparison: FinishedRuns, summary: Summary, judged: Sequence[HeadQuality]
) -> list[Drawn]:
    """Draw what there is to draw."""
    drawn = [figures.learning_curves(comparison, summary)]
    if len(summary.heads) > 1:
        drawn = [
            figures.differences(summary),
            figures.scores(summary) if summary.is_table else None,
            *drawn,
            tuning_figures.tuning(summary),
        ]
    drawn = [one for one in drawn if one is not None]
    if judged:
        drawn.append(class_figures.confusion_figure([head.confusion for head in judged[:2]]))
    if calibrated := [head for head in judged if head.bins]:
        drawn.append(class_figures.reliability_figure(calibrated))
    return drawn


def _spines(comparison: FinishedRuns) -> tuple[list[str], bool]:
    """Draw the heads whose runs say what feeds what in them.

    Returns:
        The drawings, and whether they have one scale.
    """
    found = {}
    for head, by_unit in comparison.runs.items():
        results = map(result_of, by_unit.values())
        result = next((one for one in results if one.get("wiring")), None)
        if result is not None:
            found[head] = Wiring.from_dict(result["wiring"]), result
    scale = common_scale([wiring for wiring, _ in found.values()])
    drawn = []
    for head, (wiring, result) in found.items():
        nets = round((result["head_params"] or 0) / max(wiring.params, 1))
        network = None
        if nets <= 1 and (trunk := result.get("trunk_params")):
            network = Network(result["params"], result["macs"], trunk)
        title = f"{head}, one of {nets} nets" if nets > 1 else head
        drawn.append(draw_wiring(wiring, title, network=network, scale=scale))
    return drawn, scale is not None


def _samples(comparison: FinishedRuns) -> dict[str, Any] | None:
    """Return the training images that the first run with any has kept, for the page."""
    for record in comparison.records:
        kept = result_of(record).get("samples")
        if not kept:
            continue
        with reading(record.path / "result.json"):
            found = Samples.from_dict(kept)
        path = record.path / Path(found.file).name
        if path.exists():
            return _sample_strip(found, path)
    return None


def _sample_strip(samples: Samples, path: Path) -> dict[str, Any]:
    count, side = len(samples.labels), samples.side
    title = f"{count} training images at {side} x {side} pixels"
    caption = f"Training images as the network sees them, at {side} × {side} pixels"
    if samples.augment != "none":
        title += f", plain above, augmented by {samples.augment} below"
        caption += (
            f": plain above, and below as one epoch sees them, augmented by {samples.augment}"
        )
    caption += "."
    if samples.mix != "none":
        caption += f" Training mixes several of them ({samples.mix}), which is not shown."
    kind = "png" if path.suffix == ".png" else "jpeg"
    content = base64.b64encode(path.read_bytes()).decode()
    return {
        "source": f"data:image/{kind};base64,{content}",
        "small": side < SHARP,
        "title": title,
        "caption": caption,
        "labels": samples.labels,
    }


def _summary_row(head: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """One head as a row, its numbers named after the metric, the difference spread over columns."""
    values = "accuracies" if metric == "accuracy" else f"{metric}_values"
    names = {"mean": f"{metric}_mean", "std": f"{metric}_std", "values": values}
    nested = ("difference", "cost", "failed", "chosen")
    row = {names.get(key, key): value for key, value in head.items() if key not in nested}
    row[values] = " ".join("-" if value is None else f"{value:.6g}" for value in head["values"])
    for key in _OF_DIFFERENCE:
        row[f"difference_{key}"] = (head["difference"] or {}).get(key)
    return row


_OF_DIFFERENCE = (
    *("of", "mean", "low", "high", "seeds_low", "seeds_high", "n", "p_value", "p_holm", "p_equal"),
    *("p_equal_holm", "effect", "margin", "resolution", "code", "reason", "verdict"),
)

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
    compared = [name for name in ("nll", "ece") if any(name in h.differences for h in judged)]
    # What is compared stands first, its difference beside it: a narrow screen shows no more.
    names = [name for name in _PROBABILITIES if any(name in head.means for head in judged)]
    names.sort(key=lambda name: name not in compared)
    header = ["head"]
    for name in names:
        header.append(_PROBABILITIES[name])
        if name in compared:
            header.append(f"{judged[0].head} minus\nthis, {name.upper()}")
    rows = []
    for head in judged:
        row = [head.head]
        for name in names:
            std = head.stds.get(name) if name in ("nll", "ece") else None
            row.append(plus_minus(head.means.get(name), std, _show(name)))
            if name in compared:
                d = head.differences.get(name)
                found = d is not None and d.low is not None
                row.append(interval(d, _show(name)) if found else wording.NONE)
        rows.append(row)
    return header, rows


def _show(name: str) -> Show:
    """How a number of `_PROBABILITIES` is printed."""
    return _SHARE if _PROBABILITIES[name].endswith("%") else digits(".3f")


_SHARE = digits(".1f", 100)


def _class_cells(judged: Sequence[HeadQuality]) -> tuple[list[str], list[list[str]]]:
    """The table of classes as text, of the first two heads: header, and a row per class."""
    shown = judged[:2]
    header = ["class", "test\nexamples"]
    for head in shown:
        of = f"{head.head}\n" if len(shown) > 1 else ""
        header += [f"{of}precision", f"{of}recall", f"{of}F1"]

    def cells(row: ClassRow) -> list[str]:
        shares = _SHARE(row.score.precision, row.score.recall)
        return [*shares, plus_minus(row.score.f1, row.f1_std, _SHARE)]

    order = range(len(shown[0].classes))
    if len(order) > _FEW_ROWS:
        order = sorted(order, key=lambda k: shown[0].classes[k].score.f1)[:_FEW_ROWS]
    rows = []
    for k in order:
        row = shown[0].classes[k]
        several = [cell for head in shown for cell in cells(head.classes[k])]
        rows.append([row.name, f"{row.score.support:,}", *several])
    return header, rows


_TEMPLATES = "spinalnet.comparison.report"


def environment(*packages: str) -> Environment:
    """Return the templates of pages, and those of other packages."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (_TEMPLATES, *packages)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["foldable"] = _foldable
    return made


def _foldable(cell: str) -> Markup:
    """Return a cell that a narrow screen breaks before its interval, and nowhere else."""
    from markupsafe import Markup, escape

    value, _, rest = cell.partition(" (")
    if " to " not in rest:
        return escape(cell)
    return escape(value) + Markup(' <br class="narrow">(') + escape(rest)


def _of_its_cost(first: HeadSummary, other: HeadSummary) -> str:
    """Say what the first head costs of another: multiplications, else the seconds of training."""
    if first.head_macs and other.head_macs:
        return f"{_two_digits(first.head_macs / other.head_macs)}× its multiplications"
    if first.train_seconds_mean and other.train_seconds_mean:
        ours, theirs = (wording.three_digits(head.train_seconds_mean) for head in (first, other))
        return f"trains in {theirs}\u00a0s, {first.head} in {ours}\u00a0s"
    return ""


def _notes(summary: Summary) -> list[str]:
    """Return what is to be known: by options where `compare` made the runs, else in plain words."""
    named = [*(one.name for one in fields(TrainConfig)), *_OF_DATA, "metric"]
    called = {name: name.replace("_", " ") for name in named}
    if (summary.command or "").startswith("spinalnet compare "):
        called = {name: "--" + name.replace("_", "-") for name in named}
    return [in_options(note, called) for note in [*summary.notes, *summary.methods]]


_OF_DATA = ("image_size", "in_channels", "on_bad_image", "on_duplicate", "pixel_range")


def _two_digits(ratio: float) -> str:
    return f"{ratio:.2g}" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f}"


def _page(
    summary: Summary,
    drawn: Sequence[Drawn],
    judged: Sequence[HeadQuality],
    residuals: Sequence[HeadResiduals],
    steps: Sequence[NextStep],
    spines: tuple[Sequence[str], bool],
    *,
    samples: Mapping[str, Any] | None,
    published: Published | None,
) -> str:
    """Fill the template: one HTML page with everything inside."""
    units = summary.wording
    header, rows = head_rows(summary)
    confusions = [head.confusion for head in judged[:2]]
    many = bool(confusions) and len(confusions[0].names) > classes.LARGEST_MATRIX
    mistakes = [
        (head, pictures)
        for head in (*judged[:2], *residuals[:2])
        if (pictures := class_figures.mistakes(head))
    ]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            summary=summary,
            findings=paragraphs(summary),
            times=times_note(summary),
            notes=_notes(summary),
            verdicts=wording.VERDICTS,
            header=header,
            rows=rows,
            compared=[
                (head.difference, _of_its_cost(summary.heads[0], head))
                for head in summary.heads
                if head.difference
            ],
            multiplied=any("×" in _of_its_cost(summary.heads[0], h) for h in summary.heads[1:]),
            units=units,
            repeated=repeated(summary),
            by_unit=[
                (unit, [units.value(head.values[i], unit=False) for head in summary.heads])
                for i, unit in enumerate(summary.units)
            ],
            p_value=wording.p_value,
            per_cent=wording.per_cent,
            next_steps=steps,
            spines=spines[0],
            one_scale=spines[1],
            samples=samples,
            published=published,
            published_cells=published and published_figures.published_cells(published),
            main=next((figure for figure in drawn if figure.name == "differences"), None),
            beside=next((figure for figure in drawn if figure.name == "published"), None),
            figures=[f for f in drawn if f.name not in ("differences", "published")],
            colours={"light": drawing.LIGHT.variables(), "dark": drawing.DARK.variables()},
            mistakes=mistakes,
            spoken=any(picture["spoken"] for _, pictures in mistakes for picture in pictures),
            bars=class_figures.BARS,
            residuals=bool(residuals),
            tuning=tuning_figures.tuning_cells(summary),
            probabilities=_probability_cells(judged) if judged else None,
            calibrated=any(head.bins for head in judged),
            classes=_class_cells(judged) if judged else None,
            classes_left_out=max(0, len(judged[0].classes) - _FEW_ROWS) if judged else 0,
            confused_heads=[confusion.head for confusion in confusions],
            pairs=classes.confused_pairs(confusions) if many else [],
        )
    )

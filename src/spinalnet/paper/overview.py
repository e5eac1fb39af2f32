"""The page of all recipes in a browser: what the original printed, and what was found.

`experiments` makes the same of the same records in Markdown.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison.report import drawing, page
from spinalnet.comparison.report.drawing import Drawn, Theme
from spinalnet.comparison.wording import VERDICTS, listing
from spinalnet.paper.experiments import (
    how_made,
    not_run_rows,
    overview_rows,
    result_rows,
    title_of,
    tried_rows,
)
from spinalnet.paper.recipes import RECIPES
from spinalnet.paper.records import Record, load_records, published_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spinalnet.comparison.answer import Difference


class _Compared(NamedTuple):
    """A head of the original against one beside it, in an honest record."""

    record: Record
    difference: Difference
    is_of_original: bool  # else it is a control of ours

    @property
    def recipe(self) -> str:
        """Its name, with what a reader must know of a run that was not whole."""
        short = "" if self.record.budget == "full" else f" ({self.record.budget})"
        return f"{self.record.recipe}{short}"


def overview_page(results: str | Path, files_of: str = "*.json") -> str:
    """Return the page of the records in a folder, one HTML file with everything inside.

    Args:
        results: The folder.
        files_of: Which files in it are records.

    Raises:
        InputError: If there is none, or one cannot be read.
    """
    kept = load_records(results, files_of)
    if not kept:
        raise InputError(
            f"no record of a recipe lies in '{results}': make some with spinalnet reproduce."
        )
    records = [record for record in kept if record.budget != "smoke"]
    tried = [record for record in kept if record.budget == "smoke"]
    run = [name for name in RECIPES if any(record.recipe == name for record in records)]
    compared = _compared(records)
    shown = (
        differences(compared, metric="accuracy"),
        differences(compared, metric="mse"),
        _published(records),
    )
    rows = [[*row[:2], _answer_of(compared, *row[:2]), *row[2:]] for row in _rows(run, records)]
    return (
        page.environment("spinalnet.paper")
        .get_template("recipes.html.j2")
        .render(
            headline=headline(compared),
            chips=_chips(compared),
            count=len(run),
            total=len(RECIPES),
            drawings=[one for one in shown if one is not None],
            colours={"light": drawing.LIGHT.variables(), "dark": drawing.DARK.variables()},
            header=["recipe", "head", "answer (honest)", "printed", "paper protocol", "honest"],
            rows=rows,
            sections=[_section(name, records) for name in run],
            tried=tried_rows(tried),
            not_run=not_run_rows([one for one in RECIPES.values() if one.name not in run]),
        )
    )


def write_overview(out: str | Path, results: str | Path, files_of: str = "*.json") -> Path:
    """Write the page of the records in a folder to a file; return it."""
    files.write_text(out, overview_page(results, files_of))
    return files.expanded(out)


def _rows(run: Sequence[str], records: Sequence[Record]) -> list[list[str]]:
    return [row for name in run for row in overview_rows(RECIPES[name], records)]


def _compared(records: Sequence[Record]) -> list[_Compared]:
    """Return the comparisons of honest records; a full one stands for a short one beside it."""
    full = {record.recipe for record in records if _is_honest(record) and record.budget == "full"}
    return [
        _Compared(record, head.difference, head.head in RECIPES[record.recipe].heads)
        for record in records
        if _is_honest(record) and (record.budget == "full" or record.recipe not in full)
        for head in record.summary.heads[1:]
        if head.difference is not None
    ]


def _is_honest(record: Record) -> bool:
    return record.protocol == "honest"


def headline(compared: Sequence[_Compared]) -> str:
    """Return the answer of all recipes in one sentence."""
    rivals = [one.difference for one in compared if one.is_of_original]
    if not rivals:
        return "No recipe has been run honestly with two heads: nothing is compared yet."
    counts = [
        f"{word} in {count}"
        for code, word in (("better", "better"), ("worse", "worse"), ("equal", "equal"))
        if (count := sum(d.code == code for d in rivals))
    ]
    open_ = sum(d.code not in ("better", "worse", "equal") for d in rivals)
    counts += [f"undecided in {open_}"] if open_ else []
    return (
        f"Run honestly against the head that it was to replace, the spinal head is "
        f"{listing(counts)} of {len(rivals)} recipes."
    )


def _chips(compared: Sequence[_Compared]) -> list[tuple[str, str, str]]:
    """Return word, colour and anchor of every comparison with the original's own rival."""
    return [
        (
            f"{one.recipe}: {VERDICTS[one.difference.code].word}",
            VERDICTS[one.difference.code].colour,
            one.record.recipe,
        )
        for one in compared
        if one.is_of_original
    ]


def _answer_of(compared: Sequence[_Compared], recipe: str, head: str) -> str:
    found = [c for c in compared if (c.record.recipe, c.difference.minus) == (recipe, head)]
    return VERDICTS[found[0].difference.code].word if found else ""


# --- figures --------------------------------------------------------------------------------------


def differences(compared: Sequence[_Compared], metric: str) -> Drawn | None:
    """Draw all differences of one metric; None without any.

    Those of accuracies are in points; errors have their own unit on each target, and are drawn as
    shares of the other head's mean.
    """
    rows = [
        one
        for one in compared
        if one.record.summary.metric == metric and one.difference.low is not None
    ]
    if not rows:
        return None
    by_class = metric == "accuracy"

    def paint(figure: Figure, theme: Theme) -> None:
        _paint_differences(figure.add_subplot(), theme, rows, by_class=by_class)

    caption = (
        "The spinal head minus the other in every honest run, with the 95 % interval; an interval "
        "that leaves out 0 is a difference beyond chance before the correction for several "
        "comparisons, and the colour says what is left of it. Far longer intervals than all others "
        "leave the picture. "
    )
    caption += (
        "To the right the spinal head is better."
        if by_class
        else "As a share of the other's error: to the left the spinal head is better."
    )
    name, title = ("accuracy", "Accuracies") if by_class else ("errors", "Regressions")
    size = (drawing.WIDTH, 1.3 + 0.4 * len(rows))
    return drawing.draw(f"differences-{name}", f"{title}: differences", caption, size, paint)


_LONGEST = 5  # times the usual reach of an interval that is drawn whole
_PLACE_OF_CODE = {"better": 2, "worse": 1, "equal": 0}  # of the theme's series; else grey


def _paint_differences(
    axes: Axes, theme: Theme, rows: Sequence[_Compared], *, by_class: bool
) -> None:
    unit = "points" if by_class else "% of its error"
    drawing.label_axes(axes, theme, f"spinal minus the other, {unit}", "")
    axes.axvline(0, color=theme.ink, linewidth=0.9)
    reach = []
    for place, one in enumerate(rows):
        d, scale = one.difference, 100.0
        if not by_class:
            summary = one.record.summary
            other = next(head for head in summary.heads if head.head == d.minus)
            scale /= other.mean or 1.0
        low, mean, high = (scale * float(end or 0.0) for end in (d.low, d.mean, d.high))
        reach.append(max(abs(low), abs(high)))
        colour = theme.series[_PLACE_OF_CODE.get(d.code, 6)]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8)
        (point,) = axes.plot([mean], [place], "o", color=colour, markersize=6)
        drawing.tip(point, f"{one.record.recipe}: {d.verdict}")
    labels = [f"{drawing.clip(one.recipe, 34)}\nminus {one.difference.minus}" for one in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    edge = 1.1 * min(max(reach), _LONGEST * statistics.median(reach))
    axes.set_xlim(-edge, edge)


def _published(records: Sequence[Record]) -> Drawn | None:
    """Draw what was printed and what the same procedure gave here, of accuracies."""
    from spinalnet.comparison.report.published_figures import published_figure

    rows = [
        (f"{record.recipe}: {one.head}", one)
        for record in records
        if record.protocol == "paper" and record.summary.metric == "accuracy"
        for one in published_of(record).values
    ]
    return published_figure(rows, in_points=True)


# --- sections -------------------------------------------------------------------------------------


class _Section(NamedTuple):
    """The part of the page on one recipe."""

    name: str
    summary: str
    parts: list[tuple[str, str, list[str], list[list[str]], list[str]]]


def _section(name: str, records: Sequence[Record]) -> _Section:
    own = [record for record in records if record.recipe == name]
    told = [
        f"{record.protocol}: {record.summary.headline}" for record in own if record.summary.headline
    ]
    parts = []
    for record in own:
        published = published_of(record)
        header, rows = result_rows(record)
        notes = [*record.summary.notes, *record.summary.methods]
        parts.append(
            (title_of(record), how_made(record), header, rows, [*published.setting, *notes])
        )
    return _Section(name, " ".join(told), parts)

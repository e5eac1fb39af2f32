"""The page of a study: ranks with their critical difference, chances, and every data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spinalnet.comparison.report import drawing, page
from spinalnet.comparison.report.drawing import Drawn, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from spinalnet.comparison.across import Ranks
    from spinalnet.comparison.study import Study


def study_page(study: Study, command: str | None) -> tuple[str, list[Drawn]]:
    """Return the page of a study, and its drawings."""
    drawings = [by_data_set(study)]
    if study.ranks is not None:
        drawings.insert(0, critical_difference(study.heads, study.ranks))
    header = ["data set", "metric", *study.heads]
    rows = [
        [name, study.metrics[name], *(f"{row[head]:.4f}" for head in study.heads)]
        for name, row in study.means.items()
    ]
    text = (
        page.environment()
        .get_template("study.html.j2")
        .render(
            study=study,
            drawings=drawings,
            colours={"light": drawing.LIGHT.variables(), "dark": drawing.DARK.variables()},
            header=header,
            rows=rows,
            pairs=_pair_cells(study),
            answers=_answer_cells(study),
            middle=[
                [head, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"]
                for head, found in study.middle.items()
            ],
            command=command,
        )
    )
    return text, drawings


def _pair_cells(study: Study) -> tuple[list[str], list[list[str]]]:
    header = ["against", "P(better)", f"P(within {study.rope:g})", "P(worse)", "mean difference"]
    header += ["a run beats one of it", "asked"]
    rows = []
    for pair in study.pairs:
        chances = pair.chances
        cells = (
            ["–"] * 3
            if chances is None
            else [f"{one:.3f}" for one in (chances.better, chances.equal, chances.worse)]
        )
        mean = sum(pair.differences.values()) / len(pair.differences)
        improvement = pair.improvement
        won = "–"
        if improvement is not None:
            won = f"{improvement.value:.2f} ({improvement.low:.2f} to {improvement.high:.2f})"
        asked = "confirmatory" if pair.confirmatory else "exploratory"
        rows.append([pair.minus, *cells, f"{mean:+.4f}", won, asked])
    return header, rows


def _answer_cells(study: Study) -> tuple[list[str], list[list[str]]]:
    chosen = [pair for pair in study.pairs if pair.confirmatory]
    header = ["data set", *(f"against {pair.minus}" for pair in chosen)]
    rows = [[name, *(pair.answers.get(name, "–") for pair in chosen)] for name in study.means]
    return header, rows


def critical_difference(heads: tuple[str, ...], ranks: Ranks) -> Drawn:
    """Mean ranks on a line; a bar joins heads whose ranks do not differ."""

    def paint(figure: Figure, theme: Theme) -> None:
        paint_ranks(figure.add_subplot(), theme, heads, ranks)

    caption = (
        f"Mean ranks over {ranks.tables} data sets, 1 is best. A bar joins heads that are not "
        f"shown to differ: those less than {ranks.critical:.2f} apart (Nemenyi's critical "
        "difference at 0.05)."
    )
    if ranks.p_value is not None:
        caption += f" Friedman's test that all rank alike: p = {ranks.p_value:.2g}."
    height = 1.0 + 0.3 * len(heads)
    return drawing.draw("ranks", "Ranks", caption, (drawing.WIDTH, height), paint)


def paint_ranks(axes: Axes, theme: Theme, heads: tuple[str, ...], ranks: Ranks) -> None:
    """Draw mean ranks and cliques on axes."""
    drawing.label_axes(axes, theme, "mean rank", "")
    order = sorted(range(len(heads)), key=lambda head: ranks.mean[head])
    for place, head in enumerate(order):
        colour = theme.series[0 if head == 0 else 6]
        (point,) = axes.plot(ranks.mean[head], place, "o", color=colour, markersize=7)
        drawing.tip(point, f"{heads[head]}: mean rank {ranks.mean[head]:.2f}")
    for clique in ranks.cliques():
        places = [order.index(head) for head in clique]
        middle = min(ranks.mean[head] for head in clique)
        most = max(ranks.mean[head] for head in clique)
        axes.plot([middle, most], [max(places) + 0.35] * 2, color=theme.ink, linewidth=2.4)
    axes.set_yticks(range(len(order)), [drawing.clip(heads[head], 28) for head in order])
    axes.set_ylim(len(order) - 0.3, -0.6)
    axes.set_xlim(1 - 0.1, len(heads) + 0.1)


def by_data_set(study: Study) -> Drawn:
    """The first head minus every other, data set by data set."""
    from matplotlib.ticker import MaxNLocator

    def paint(figure: Figure, theme: Theme) -> None:
        axes = figure.add_subplot()
        drawing.label_axes(axes, theme, f"{study.heads[0]} minus the other", "")
        names = list(study.means)
        axes.axvspan(-study.rope, study.rope, color=theme.series[2], alpha=0.14, linewidth=0)
        axes.axvline(0, color=theme.ink, linewidth=0.9)
        for i, pair in enumerate(study.pairs):
            style = drawing.series(theme, i + 1)
            shift = 0.5 * ((i + 0.5) / len(study.pairs) - 0.5)
            values = [pair.differences[name] for name in names]
            places = [place + shift for place in range(len(names))]
            axes.plot(values, places, "o", color=style["color"], markersize=4.5, label=pair.minus)
        axes.set_yticks(range(len(names)), [drawing.clip(name, 28) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        drawing.legend(figure, axes, theme)

    caption = (
        "Mean differences, to the right where the first is better. In the band they are equal for "
        "practical purposes."
    )
    height = 1.5 + 0.32 * len(study.means)
    return drawing.draw(
        "by_data_set", "Data set by data set", caption, (drawing.WIDTH, height), paint
    )

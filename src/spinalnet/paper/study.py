"""The regression study in one figure: four targets, every head, every seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spinalnet import files
from spinalnet.comparison.statistics import ALPHA, deviation, finite, half_width, mean
from spinalnet.panels import axes_of, panels
from spinalnet.paper.recipes import regression
from spinalnet.paper.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOISE_VARIANCE = 0.2**2 / 12  # of the noise 0.2 U that is added to every target


def draw_regression_study(records: Iterable[Record], path: str | Path) -> Path | None:
    """Draw the honest records of the regression recipes side by side, as a PNG file.

    Returns:
        The file, or None if no such record is there.
    """
    targets = {
        record.recipe.removeprefix("regression-"): {
            head.head: finite(head.values) for head in record.summary.heads
        }
        for record in records
        if record.protocol == "honest"
        and record.budget != "smoke"
        and record.recipe in regression.STUDY
    }
    if not targets:
        return None
    files.write_figure(path, _draw(targets, _NOISE_VARIANCE))
    return files.expanded(path)


def _draw(targets: Mapping[str, Mapping[str, Sequence[float]]], floor: float) -> Axes:
    """Draw error bars of heads on several targets: means, t intervals, and every seed as a dot.

    Args:
        targets: Target to (head to mean squared errors on fresh data, one per seed).
        floor: Variance of the noise: no predictor can do better.
    """
    ax = axes_of(None, (3 * len(targets), 3.6))
    beside = panels(ax, 1, len(targets))[0]
    for axes, (target, heads) in zip(beside, targets.items(), strict=True):
        for place, values in enumerate(heads.values()):
            center, std, n = mean(values), deviation(values), len(values)
            axes.bar(place, center, width=0.65, color=f"C{place}", alpha=0.5)
            axes.plot([place] * n, values, "o", color=f"C{place}", markersize=3, alpha=0.7)
            if std is not None:
                half = half_width(std, n)
                axes.errorbar(place, center, half, color="black", capsize=4, linewidth=1.2)
        axes.axhline(floor, color="gray", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(heads)), list(heads))
        axes.set_title(target, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    beside[0].set_ylabel("mean squared error on fresh data")
    ax.figure.supxlabel(  # type: ignore[union-attr]
        f"bars: means with {1 - ALPHA:.0%} t intervals over seeds; dots: seeds; "
        f"dotted: noise variance {floor:.5f}",
        fontsize=8,
    )
    return ax

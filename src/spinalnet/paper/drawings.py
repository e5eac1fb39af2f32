"""The drawing of the regression study."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_regression(
    panels: Mapping[str, Mapping[str, Sequence[float]]], floor: float, level: float = 0.95
) -> Figure:
    """Draw error bars of heads on several targets: means, t intervals, and every seed as a dot.

    Args:
        panels: Target to (head to mean squared errors on fresh data, one per seed).
        floor: Variance of the noise: no predictor can do better.
        level: Confidence of the intervals (Student's t over seeds).
    """
    from matplotlib.figure import Figure
    from scipy import stats

    figure = Figure(figsize=(3 * len(panels), 3.6), layout="constrained")
    for axes, (target, heads) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for place, values in enumerate(heads.values()):
            mean, n = statistics.mean(values), len(values)
            axes.bar(place, mean, width=0.65, color=f"C{place}", alpha=0.5)
            axes.plot([place] * n, values, "o", color=f"C{place}", markersize=3, alpha=0.7)
            if n > 1:
                half = stats.t.ppf(0.5 + level / 2, n - 1) * statistics.stdev(values) / n**0.5
                axes.errorbar(place, mean, half, color="black", capsize=4, linewidth=1.2)
        axes.axhline(floor, color="gray", linestyle=":", linewidth=1)
        axes.set_xticks(range(len(heads)), list(heads))
        axes.set_title(target, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("mean squared error on fresh data")
    figure.supxlabel(
        f"bars: means with {level:.0%} t intervals over seeds; dots: seeds; "
        f"dotted: noise variance {floor:.5f}",
        fontsize=8,
    )
    return figure

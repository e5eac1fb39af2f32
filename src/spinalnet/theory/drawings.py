"""Drawings of the universality proof, approximation errors, a trade-off, the regression study.

They take plain numbers and draw with matplotlib's `Figure`, which needs no display.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INPUT, _TARGET, _ADDER, _OUTPUT = "#4c72b0", "#dd8452", "#f2d5bd", "#55a868"


def draw_proof() -> Figure:
    """Draw the proof in four panels: a dense layer of 2 and of 4 neurons and their spinal forms.

    The inputs come in two slices. An adder (pale) carries the first slice's sum down to the neuron
    that finishes it; between the pairs nothing is carried.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.4), layout="constrained")
    panels = figure.subplots(2, 2)
    _draw_dense(panels[0][0], 2, "(a) a dense hidden layer of 2 neurons")
    _draw_spinal(panels[0][1], 1, "(b) the same function: a pair of spinal layers of width 2")
    _draw_dense(panels[1][0], 4, "(c) 4 neurons")
    _draw_spinal(panels[1][1], 2, "(d) the same function: two pairs, still of width 2")
    handles = [
        _marker(_INPUT, "input"),
        _marker(_ADDER, "adder: affine on the box, weight 0 to the output"),
        _marker(_TARGET, "hidden neuron of the dense layer"),
        _marker(_OUTPUT, "output"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _marker(colour: str, label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], marker="o", color="none", markerfacecolor=colour, markersize=10,
                  markeredgecolor="black", label=label)  # fmt: skip


def _node(axes: Any, x: float, y: float, colour: str, text: str = "") -> tuple[float, float]:
    from matplotlib.patches import Circle

    axes.add_patch(Circle((x, y), 0.17, facecolor=colour, edgecolor="black", zorder=3, linewidth=1))
    axes.text(x, y, text, ha="center", va="center", fontsize=8, zorder=4)
    return x, y


def _edge(axes: Any, a: tuple[float, float], b: tuple[float, float], **style: Any) -> None:
    axes.plot(
        [a[0], b[0]], [a[1], b[1]], **({"color": "gray", "linewidth": 0.9, "zorder": 1} | style)
    )


def _inputs(axes: Any, top: float, bottom: float) -> dict[str, list[tuple[float, float]]]:
    """Place two slices of two inputs each."""
    step = (top - bottom) / 3
    places = [_node(axes, 0.0, top - i * step, _INPUT, "") for i in range(4)]
    for name, part in (("a", places[:2]), ("b", places[2:])):
        y = (part[0][1] + part[1][1]) / 2
        axes.text(-0.32, y, f"$x_{name}$", ha="right", va="center", fontsize=11)
    return {"a": places[:2], "b": places[2:]}


def _finish(axes: Any, title: str, top: float) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_aspect("equal")
    axes.set_xlim(-0.8, 5.0)
    axes.set_ylim(-0.5, top + 0.4)
    axes.set_axis_off()


def _draw_dense(axes: Any, neurons: int, title: str) -> None:
    top = 4.2
    slices = _inputs(axes, top, 0.0)
    output = _node(axes, 4.2, top / 2, _OUTPUT, "y")
    for j in range(neurons):
        hidden = _node(axes, 2.1, top - (j + 0.5) * top / neurons, _TARGET, str(j + 1))
        for part, colour in (("a", "#8da0cb"), ("b", "#a6761d")):
            for place in slices[part]:
                _edge(axes, place, hidden, color=colour)
        _edge(axes, hidden, output, color="black")
        axes.text(
            (hidden[0] + output[0]) / 2, (hidden[1] + output[1]) / 2 + 0.14, f"$v_{j + 1}$",
            fontsize=9, ha="center",
        )  # fmt: skip
    _finish(axes, title, top)


def _draw_spinal(axes: Any, pairs: int, title: str) -> None:
    top, layers = 4.2, 2 * pairs
    slices = _inputs(axes, top, 0.0)
    output = _node(axes, 4.2, top / 2, _OUTPUT, "y")
    previous: list[tuple[float, float]] = []
    for layer in range(layers):
        adder = layer % 2 == 0
        y = top - (layer + 0.5) * top / layers
        first = layer // 2 * 2
        row = []
        for j in range(2):
            label = f"$\\Sigma_{first + j + 1}$" if adder else str(first + j + 1)
            node = _node(axes, 1.7 + 0.75 * j, y, _ADDER if adder else _TARGET, label)
            for place in slices["a" if adder else "b"]:
                _edge(axes, place, node, color="#8da0cb" if adder else "#a6761d", alpha=0.8)
            if not adder:
                _edge(axes, previous[j], node, color="black", linewidth=2.2)
                middle = (previous[j][1] + node[1]) / 2
                axes.text(node[0] + 0.08, middle, "1", fontsize=9, va="center", fontweight="bold")
                _edge(axes, node, output, color="black")
            row.append(node)
        if adder and previous:
            axes.text(
                2.08, (previous[0][1] + y) / 2, "0", fontsize=9, color="firebrick", va="center",
                ha="center", fontweight="bold",
            )  # fmt: skip
            for above, below in zip(previous, row, strict=True):
                _edge(axes, above, below, color="firebrick", linestyle=":", linewidth=1.2)
        previous = row
    _finish(axes, title, top)


def draw_errors(errors: Mapping[int, Sequence[tuple[int, Sequence[float]]]], title: str) -> Figure:
    """Draw the error against the depth, a line per width, and against the number of neurons.

    Args:
        errors: `theory.approximation_errors`: by width, (layers, errors of all seeds).
        title: What was approximated.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for index, (width, rows) in enumerate(errors.items()):
        layers = [depth for depth, _ in rows]
        middle = [statistics.median(values) for _, values in rows]
        low, high = [min(v) for _, v in rows], [max(v) for _, v in rows]
        colour = f"C{index}"
        left.plot(layers, middle, "o-", color=colour, markersize=4, label=f"width {width}")
        left.fill_between(layers, low, high, color=colour, alpha=0.15)
        right.plot([d * width for d in layers], middle, "o-", color=colour, markersize=4)
    for axes, label in ((left, "spinal layers"), (right, "neurons (layers × width)")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("rms error / std of the target")
    left.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def draw_trade_off(
    lines: Mapping[str, Sequence[tuple[int, Sequence[float]]]], reference: tuple[int, float]
) -> Figure:
    """Draw accuracy against the head's MACs.

    Args:
        lines: Name to (MACs, accuracies of all seeds), for example pruned, fine-tuned, scratch.
        reference: MACs and accuracy of the dense head that was converted.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (name, rows) in enumerate(lines.items()):
        macs = [count for count, _ in rows]
        means = [statistics.mean(values) for _, values in rows]
        low, high = [min(v) for _, v in rows], [max(v) for _, v in rows]
        axes.plot(macs, means, "o-", color=f"C{index}", markersize=4, label=name)
        axes.fill_between(macs, low, high, color=f"C{index}", alpha=0.15)
    axes.plot(*reference, "*", color="black", markersize=13, label="the dense head")
    axes.axhline(reference[1], color="gray", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("multiply-accumulates of the head, per example")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure

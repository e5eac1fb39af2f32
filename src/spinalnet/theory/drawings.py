"""Drawings: the universality proof, errors, a trade-off, sensitivities, explanations.

Each takes `ax`, axes to draw on, in whose place panels stand where there are several; without it
new ones are made. It returns them; `files.write_figure` writes the figure that they are on.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spinalnet.panels import axes_of, panels
from spinalnet.theory.sensitivity import explain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spinalnet.nn import SpinalNet
    from spinalnet.theory.sensitivity import Sensitivities

_INPUT, _TARGET, _ADDER, _OUTPUT = "#4c72b0", "#dd8452", "#f2d5bd", "#55a868"


def _tidy(axes: Any, **grid: Any) -> None:
    axes.grid(alpha=0.3, **grid)
    axes.spines[["top", "right"]].set_visible(False)


def draw_proof(*, ax: Axes | None = None) -> Axes:
    """Draw the proof in four panels: a dense layer of 2 and of 4 neurons and their spinal forms.

    The inputs come in two slices. An adder (pale) carries the first slice's sum down to the neuron
    that finishes it; between the pairs nothing is carried.
    """
    ax = axes_of(ax, (11, 8.4))
    grid = panels(ax, 2, 2)
    _draw_dense(grid[0][0], 2, "(a) a dense hidden layer of 2 neurons")
    _draw_spinal(grid[0][1], 1, "(b) the same function: a pair of spinal layers of width 2")
    _draw_dense(grid[1][0], 4, "(c) 4 neurons")
    _draw_spinal(grid[1][1], 2, "(d) the same function: two pairs, still of width 2")
    handles = [
        _marker(_INPUT, "input"),
        _marker(_ADDER, "adder: affine on the box, weight 0 to the output"),
        _marker(_TARGET, "hidden neuron of the dense layer"),
        _marker(_OUTPUT, "output"),
    ]
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.02)}
    ax.legend(handles=handles, ncols=4, fontsize=9, frameon=False, **below)
    return ax


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


def draw_errors(
    errors: Mapping[int, Sequence[tuple[int, Sequence[float]]]],
    title: str,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the error against the depth, a line per width, and against the number of neurons.

    Args:
        errors: `approximation_errors`: by width, (layers, errors of all seeds).
        title: What was approximated.
        ax: See above.
    """
    ax = axes_of(ax, (9.5, 3.9))
    left, right = panels(ax, 1, 2, sharey=True)[0]
    for index, (width, rows) in enumerate(errors.items()):
        colour, middle = f"C{index}", [statistics.median(values) for _, values in rows]
        _draw_band(left, rows, middle, colour, f"width {width}")
        neurons = [layers * width for layers, _ in rows]
        right.plot(neurons, middle, "o-", color=colour, markersize=4)
    for axes, label in ((left, "spinal layers"), (right, "neurons (layers × width)")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        _tidy(axes, which="both")
    left.set_ylabel("rms error / std of the target")
    left.legend(fontsize=8)
    left.set_title(title, fontsize=10, loc="left")
    return ax


def _draw_band(axes: Any, rows: Any, middle: Sequence[float], colour: str, label: str) -> None:
    """Draw (x, values) as a line through `middle` with a band from the least to the greatest."""
    places = [place for place, _ in rows]
    low, high = [min(values) for _, values in rows], [max(values) for _, values in rows]
    axes.plot(places, middle, "o-", color=colour, markersize=4, label=label)
    axes.fill_between(places, low, high, color=colour, alpha=0.15)


def draw_trade_off(
    lines: Mapping[str, Sequence[tuple[int, Sequence[float]]]],
    reference: tuple[int, float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw accuracy against the head's MACs.

    Args:
        lines: Name to (MACs, accuracies of all seeds), for example pruned, fine-tuned, scratch.
        reference: MACs and accuracy of the dense head that was converted.
        ax: See above.
    """
    axes = axes_of(ax, (7, 4.2))
    for index, (name, rows) in enumerate(lines.items()):
        _draw_band(axes, rows, [statistics.mean(values) for _, values in rows], f"C{index}", name)
    axes.plot(*reference, "*", color="black", markersize=13, label="the dense head")
    axes.axhline(reference[1], color="gray", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("multiply-accumulates of the head, per example")
    axes.set_ylabel("test accuracy")
    _tidy(axes, which="both")
    axes.legend(fontsize=8)
    return axes


def draw_sensitivities(summary: Sensitivities, top: int = 12, *, ax: Axes | None = None) -> Axes:
    """Draw the most important inputs: mean against spread, and mean absolute per output.

    Args:
        summary: What `sensitivities` found.
        top: Number of inputs.
        ax: See above.
    """
    order = summary.importance().argsort(descending=True, stable=True)[:top].tolist()
    names = [summary.inputs[i] for i in order]
    ax = axes_of(ax, (9.5, 1.6 + 0.3 * len(order)))
    left, right = panels(ax, 1, 2, width_ratios=(1.0, 1.1))[0]
    outputs = len(summary.outputs)
    height = 0.8 / outputs
    for k, name in enumerate(summary.outputs):
        places = [row - 0.4 + height * (k + 0.5) for row in range(len(order))]
        values = [float(summary.mean_absolute[k, i]) for i in order]
        left.barh(places, values, height, label=name)
        for row, i in enumerate(order):
            point = float(summary.mean[k, i]), float(summary.std[k, i])
            right.plot(*point, "o", color=f"C{k % 10}", markersize=5, alpha=0.8)
            if row < 3:
                right.annotate(
                    summary.inputs[i], point, (4, 3), textcoords="offset points", fontsize=7
                )
    left.set_yticks(range(len(order)), names, fontsize=8)
    left.invert_yaxis()
    left.set_xlabel("mean |dy/dx|: how much it matters")
    if 1 < outputs <= 12:
        left.legend(fontsize=8, loc="lower right")
    right.axvline(0, color="gray", linewidth=0.8)
    right.set_xlabel("mean of dy/dx: its direction")
    right.set_ylabel("standard deviation: how non-linear")
    right.margins(0.12)
    right.set_ylim(bottom=0)
    for axes in (left, right):
        _tidy(axes)
    return ax


def draw_explanations(
    net: SpinalNet,
    x: Tensor,
    class_names: Sequence[str],
    *,
    images: Tensor | None = None,
    targets: Sequence[int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which slice at which layer spoke for which class, one row per example.

    Args:
        net: A spinal net.
        x: Its inputs, a few rows `(N, D)`.
        class_names: Names of the outputs.
        images: What the rows show, `(N, C, H, W)` in 0..1 or 0..255, drawn beside them.
        targets: The true classes.
        ax: See above.
    """
    shares = explain(net, x).double().cpu()
    bias = torch.zeros(net.out_features) if net.output.bias is None else net.output.bias
    bias = bias.detach().double().cpu()
    best = (shares.sum(1) + bias).argmax(1).tolist()
    wide = max(6.5, 2.6 + 0.62 * net.out_features)
    ax = axes_of(ax, (wide, 0.5 + (0.5 + 0.27 * (net.spine.num_layers + 2)) * len(x)))
    ratios = [4.0] if images is None else [1.0, 4.0]
    grid = panels(ax, len(x), len(ratios), width_ratios=ratios)
    reach = float(shares.abs().max()) or 1.0
    shown = None
    for row, axes in enumerate(grid[:, -1]):
        names = class_names if row == len(x) - 1 else [""] * net.out_features
        shown = _draw_shares(axes, net, shares[row], bias, reach, names)
        says = f"says {class_names[best[row]]}"
        if targets is not None:
            true = int(targets[row])
            says += ", right" if true == best[row] else f", is {class_names[true]}"
        axes.set_title(says, fontsize=8, loc="left", pad=3)
        if images is not None:
            _show_image(grid[row][0], images[row])
            if images[row].numel() == net.in_features and images.shape[1] == 1:
                _mark_slices(grid[row][0], net, images.shape[-1])
    assert shown is not None
    beside = grid[:, -1].tolist()
    ax.figure.colorbar(shown, ax=beside, label="share in the logit", fraction=0.03)
    return ax


def _draw_shares(
    axes: Any, net: SpinalNet, shares: Tensor, bias: Tensor, reach: float, names: Sequence[str]
) -> Any:
    """Draw the shares `(L, K)` of one example, the bias, and their sums; return the image."""
    logits = shares.sum(0) + bias
    table = torch.cat([shares, bias[None], torch.full_like(bias, torch.nan)[None]])
    shown = axes.imshow(table.numpy(), cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    layers, best = len(shares), int(logits.argmax())
    for k, logit in enumerate(logits.tolist()):
        axes.text(
            k, layers + 1, f"{logit:.1f}", ha="center", va="center", fontsize=7,
            fontweight="bold" if k == best else "normal",
        )  # fmt: skip
    labels = [f"layer {i + 1}, slice {i % net.spine.num_splits + 1}" for i in range(layers)]
    axes.set_yticks(range(layers + 2), [*labels, "bias", "logit (sum)"], fontsize=7)
    axes.set_xticks(range(len(bias)), names, fontsize=7)
    axes.tick_params(length=0)
    return shown


def _show_image(axes: Any, image: Tensor) -> None:
    pixels = image.detach().float().cpu()
    pixels = (pixels - pixels.min()) / (pixels.max() - pixels.min()).clamp_min(1e-9)
    pixels = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    axes.imshow(pixels.numpy(), cmap="gray")
    axes.set_axis_off()


def _mark_slices(axes: Any, net: SpinalNet, width: int) -> None:
    """Draw where one slice of the pixels ends and the next begins."""
    end = 0
    for index, size in enumerate(net.spine.split_sizes):
        axes.text(
            -0.7, (end + size / 2) / width - 0.5, f"slice {index + 1}", fontsize=6, rotation=90,
            ha="right", va="center",
        )  # fmt: skip
        end += size
        row, column = divmod(end, width)
        if end < net.in_features:
            steps = (
                [(-0.5, row + 0.5), (column - 0.5, row + 0.5)] if column else [(-0.5, row - 0.5)]
            )
            steps += [(column - 0.5, row - 0.5), (width - 0.5, row - 0.5)]
            axes.plot(*zip(*steps, strict=True), color="tab:orange", linewidth=1.4)

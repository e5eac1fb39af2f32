"""What the outputs of a spinal net depend on: by input, and by layer of the spine.

`sensitivities` summarises the exact Jacobian over many rows (the NeuralSens measures): the mean
says in which direction an input works, the standard deviation how much that changes from row to row
(nothing, for a linear model), the mean absolute value how much the input matters.

`explain` uses what only this architecture offers: the logits are a sum with one term per layer,
`y = C_0 h_0 + ... + C_(L-1) h_(L-1) + d`, so every layer, which sees one slice of the input next to
the layer before it, has its exact share in every logit.

Source: Pizarroso, Portela, Munoz, "NeuralSens", arXiv:2002.11423; Kabir et al., arXiv:2007.03347.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.nn.gradients import chain_input, jacobian
from spinalnet.nn.layers import SpinalNet
from spinalnet.nn.reading import why_called

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Sensitivities:
    """Summary of the Jacobian over rows.

    Attributes:
        inputs: Names of the inputs `(D,)`.
        outputs: Names of the outputs `(K,)`.
        rows: Number of rows.
        mean: Mean of dy_k/dx_i. Shape `(K, D)`.
        std: Its standard deviation (population). Shape `(K, D)`.
        mean_absolute: Mean of its absolute value. Shape `(K, D)`.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    rows: int
    mean: Tensor
    std: Tensor
    mean_absolute: Tensor

    def importance(self) -> Tensor:
        """Return the root mean square over outputs of `mean_absolute`, `(D,)`."""
        return self.mean_absolute.square().mean(0).sqrt()

    def records(self) -> list[dict[str, Any]]:
        """Return one plain mapping per output and input, most important inputs first."""
        order = self.importance().argsort(descending=True, stable=True).tolist()
        return [
            {
                "output": self.outputs[k],
                "input": self.inputs[i],
                "mean": float(self.mean[k, i]),
                "std": float(self.std[k, i]),
                "mean_absolute": float(self.mean_absolute[k, i]),
            }
            for k in range(len(self.outputs))
            for i in order
        ]


def sensitivities(
    net: nn.Module,
    x: Tensor,
    *,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    batch_size: int = 1024,
) -> Sensitivities:
    """Summarise the derivatives of all outputs by all inputs over the rows of `x`.

    A `SpinalNet` is differentiated by the closed recursion, any other module automatically, and so
    is one whose layers are more than matrices (adapters, hooks).

    Args:
        net: Maps `(N, D)` to `(N, K)`, row by row; taken in evaluation mode.
        x: Rows, in the units the net sees. Shape `(N, D)`.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        batch_size: Rows whose Jacobians are in memory at once.
    """
    if x.ndim != 2 or len(x) == 0:
        raise InputError(f"x must be (N, D) with N >= 1, got shape {tuple(x.shape)}.")
    training = net.training
    net.eval()
    try:
        parts = [
            # Layers that are more than a matrix have no closed form.
            jacobian(net, rows)
            if isinstance(net, SpinalNet) and net.why_called() is None
            else _autograd(net, rows)
            for rows in x.split(batch_size)
        ]
    finally:
        net.train(training)
    found = torch.cat(parts).double()
    names_in = tuple(inputs or (f"x{i + 1}" for i in range(found.shape[2])))
    names_out = tuple(outputs or (f"y{k + 1}" for k in range(found.shape[1])))
    if (len(names_out), len(names_in)) != found.shape[1:]:
        raise InputError(
            f"names must fit {found.shape[2]} inputs and {found.shape[1]} outputs, got "
            f"{len(names_in)} and {len(names_out)}."
        )
    return Sensitivities(
        names_in,
        names_out,
        len(found),
        found.mean(0),
        found.std(0, correction=0),
        found.abs().mean(0),
    )


def _autograd(net: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = net(x)
        columns = [
            torch.autograd.grad(column.sum(), x, retain_graph=True)[0]
            for column in outputs.unbind(1)
        ]
    return torch.stack(columns, dim=1)


@torch.no_grad()
def explain(net: SpinalNet, x: Tensor) -> Tensor:
    """Return the share of every layer in every logit.

    Args:
        net: A spinal net, taken in evaluation mode.
        x: Its inputs `(N, D)` (for an image network the features its trunk returns).

    Returns:
        Contributions `C_l h_l`, shape `(N, L, K)`. Their sum over the layers plus the output bias
        is the logits.
    """
    if not isinstance(net, SpinalNet):
        raise InputError(f"net must be a SpinalNet, got {type(net).__name__}.")
    reason = why_called(net.output)
    if reason is not None:
        raise InputError(
            f"the matrix of the output row does not say what it computes, for {reason}; remove "
            "the hook, or merge the adapter."
        )
    training = net.training
    net.eval()
    try:
        hidden = net.spine(chain_input(net, x))
    finally:
        net.train(training)
    layers, width = net.spine.num_layers, net.spine.hidden_features
    weight = net.output.weight.view(net.out_features, layers, width)
    return torch.einsum("nlh,klh->nlk", hidden.view(len(x), layers, width), weight)


# --- drawings -------------------------------------------------------------------------------------


def draw_sensitivities(summary: Sensitivities, top: int = 12) -> Figure:
    """Draw the most important inputs: mean against spread, and mean absolute per output."""
    from matplotlib.figure import Figure

    order = summary.importance().argsort(descending=True, stable=True)[:top].tolist()
    names = [summary.inputs[i] for i in order]
    figure = Figure(figsize=(9.5, 1.6 + 0.3 * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.1))
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
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_explanations(
    net: SpinalNet,
    x: Tensor,
    class_names: Sequence[str],
    *,
    images: Tensor | None = None,
    targets: Sequence[int] | None = None,
) -> Figure:
    """Draw which slice at which layer spoke for which class, one row per example.

    Args:
        net: A spinal net.
        x: Its inputs, a few rows `(N, D)`.
        class_names: Names of the outputs.
        images: What the rows show, `(N, C, H, W)` in 0..1 or 0..255, drawn beside them.
        targets: The true classes.
    """
    from matplotlib.figure import Figure

    shares = explain(net, x).double().cpu()
    bias = torch.zeros(net.out_features) if net.output.bias is None else net.output.bias
    bias = bias.detach().double().cpu()
    logits = shares.sum(1) + bias
    layers, splits = net.spine.num_layers, net.spine.num_splits
    figure = Figure(
        figsize=(
            max(6.5, 2.6 + 0.62 * net.out_features),
            0.5 + (0.5 + 0.27 * (layers + 2)) * len(x),
        ),
        layout="constrained",
    )
    grid = figure.subplots(
        len(x), 2 if images is not None else 1, squeeze=False, **_widths(images is not None)
    )
    reach = float(shares.abs().max()) or 1.0
    labels = [f"layer {i + 1}, slice {i % splits + 1}" for i in range(layers)]
    shown = None
    for row in range(len(x)):
        axes = grid[row][-1]
        table = torch.cat([shares[row], bias[None], torch.full_like(bias, torch.nan)[None]])
        shown = axes.imshow(table.numpy(), cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
        best = int(logits[row].argmax())
        for k in range(net.out_features):
            weight = "bold" if k == best else "normal"
            axes.text(
                k, layers + 1, f"{logits[row, k]:.1f}", ha="center", va="center", fontsize=7,
                fontweight=weight,
            )  # fmt: skip
        axes.set_yticks(range(layers + 2), [*labels, "bias", "logit (sum)"], fontsize=7)
        names = class_names if row == len(x) - 1 else [""] * net.out_features
        axes.set_xticks(range(net.out_features), names, fontsize=7)
        axes.tick_params(length=0)
        says = f"says {class_names[best]}"
        if targets is not None:
            true = int(targets[row])
            says += ", right" if true == best else f", is {class_names[true]}"
        axes.set_title(says, fontsize=8, loc="left", pad=3)
        if images is not None:
            _show_image(grid[row][0], images[row])
            if images[row].numel() == net.in_features and images.shape[1] == 1:
                _mark_slices(grid[row][0], net, images.shape[-1])
    assert shown is not None
    figure.colorbar(shown, ax=grid[:, -1].tolist(), label="share in the logit", fraction=0.03)
    return figure


def _widths(with_images: bool) -> dict[str, Any]:
    return {"width_ratios": (1.0, 4.0)} if with_images else {}


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

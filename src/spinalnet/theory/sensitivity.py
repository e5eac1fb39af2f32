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
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.nn import SpinalNet, chain_input, jacobian, why_called


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
    scale: Tensor | None = None,
    batch_size: int = 1024,
) -> Sensitivities:
    """Summarise the derivatives of all outputs by all inputs over the rows of `x`.

    A `SpinalNet` is differentiated by the closed recursion, any other module automatically, and so
    is one whose layers are more than matrices (adapters, hooks).

    Derivatives are in the net's units. The net of a table's estimator sees standardised inputs,
    and that of a regressor predicts standardised targets: `sensitivities(estimator.module_,
    estimator.prepare(X))` is in standard deviations per standard deviation, not in the units of the
    table. `scale=torch.from_numpy(estimator.target_scaler_.scale_)` gives the target's units;
    `deploy.table_explain` answers in the units of both.

    Args:
        net: Maps `(N, D)` to `(N, K)`, row by row; taken in evaluation mode.
        x: Rows, in the units the net sees. Shape `(N, D)`.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        scale: What a unit of each output is worth, `(K,)`: that of a regression's targets, where
            the net predicts standardised ones. None for the net's own units.
        batch_size: Rows whose Jacobians are in memory at once.

    Raises:
        InputError: If `net` is no module, as an estimator is none, or `x` no tensor of rows; or
            names or scale do not fit.
    """
    if not isinstance(net, nn.Module):
        raise InputError(
            f"net must be a torch module, got {type(net).__name__}: of an estimator of tables give "
            "net=estimator.module_ and x=estimator.prepare(X)."
        )
    _check_tensor(x)
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
    if scale is not None:
        if scale.shape != found.shape[1:2]:
            raise InputError(
                f"scale must have {found.shape[1]} numbers, one per output, got shape "
                f"{tuple(scale.shape)}."
            )
        found = found * scale.to(found)[:, None]
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


def _check_tensor(x: Any) -> None:
    if not isinstance(x, Tensor):
        raise InputError(
            f"x must be a tensor of rows (N, D), got {type(x).__name__}: torch.as_tensor makes one "
            "of an array."
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

    Raises:
        InputError: If `net` is none, its output row is more than a matrix, or `x` does not fit.
    """
    if not isinstance(net, SpinalNet):
        raise InputError(f"net must be a SpinalNet, got {type(net).__name__}.")
    reason = why_called(net.output)
    if reason is not None:
        raise InputError(
            f"the matrix of the output row does not say what it computes, for {reason}; remove "
            "the hook, or merge the adapter."
        )
    _check_tensor(x)
    if x.ndim != 2 or x.shape[1] != net.in_features:
        raise InputError(
            f"x must be (N, {net.in_features}), one row per example, got shape {tuple(x.shape)}: "
            "give one row as x[None], and flatten leading dimensions."
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

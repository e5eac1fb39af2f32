"""A model layer by layer: shapes, parameters, multiplications, and how a chain is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import pandas_for
from spinalnet.nn.counting import macs_by_module
from spinalnet.nn.layers import SpinalLayer


@dataclass(frozen=True)
class SummaryRow:
    """One layer.

    Attributes:
        name: Its path in the model.
        kind: Its class.
        shape: Of its output for one input, without the batch dimension.
        params: Its parameters.
        macs: Multiply-accumulates for one input.
        path: How a chain is computed (`SpinalLayer.backend_choice`); empty for other layers.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: int
    path: str = ""


@dataclass(frozen=True)
class ModelSummary:
    """What `summary` found; prints as a table.

    Attributes:
        rows: The layers in the order in which they are called.
        params: Parameters of the whole model.
        macs: Multiply-accumulates for one input.
        reasons: Why a chain takes its path, by its name.
    """

    rows: tuple[SummaryRow, ...]
    params: int
    macs: int
    reasons: dict[str, str]

    def cells(self) -> list[list[str]]:
        """Return the table as text, with a line of names and one of sums."""
        lines = [["layer", "kind", "output", "parameters", "multiplications", "path"]]
        for row in self.rows:
            shape = " x ".join(map(str, row.shape))
            lines.append([row.name, row.kind, shape, f"{row.params:,}", f"{row.macs:,}", row.path])
        return [*lines, ["all", "", "", f"{self.params:,}", f"{self.macs:,}", ""]]

    def to_frame(self) -> Any:
        """Return the rows as a frame of pandas; an `InputError` says what to do without it."""
        return pandas_for("to_frame()").DataFrame([asdict(row) for row in self.rows])

    def __str__(self) -> str:
        """Return the table, and why chains take their paths."""
        lines = self.cells()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = {0, 1, 2, 5}
        told = [
            "  ".join(
                cell.ljust(width) if place in left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*told, *(f"{name}: {why}" for name, why in self.reasons.items())])

    def _repr_html_(self) -> str:
        head, *body = [[escape(cell) for cell in line] for line in self.cells()]
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in body)
        return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{rows}</table>"


def summary(model: nn.Module, input_shape: Sequence[int]) -> ModelSummary:
    """Return a model layer by layer.

    Args:
        model: Any module that maps one tensor; run once in eval mode on zeros.
        input_shape: Shape of one input, for example `(1, 28, 28)`.

    Raises:
        InputError: If the model does not take such an input; the layer is named.

    Example:
        >>> from spinalnet import SpinalNet
        >>> found = summary(SpinalNet(320, 10, hidden_features=8, num_layers=6), (320,))
        >>> [(row.name, row.params, row.macs) for row in found.rows]
        [('spine', 8048, 8000), ('output', 490, 480)]
    """
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def seen(module: nn.Module, output: Tensor) -> None:
        shapes.setdefault(module, tuple(output.shape[1:]))

    macs = macs_by_module(model, input_shape, seen)
    rows, reasons, chains = [], {}, ()
    for name, module in model.named_modules():
        chain = isinstance(module, SpinalLayer)
        if name.startswith(chains) if chains else False:
            continue  # a part of a chain, which is one row
        params = sum(parameter.numel() for parameter in module.parameters())
        if not chain and (any(True for _ in module.children()) or not params):
            continue
        path = ""
        if chain:
            chains = (*chains, f"{name}.")
            choice = module.backend_choice(_like(module))
            path, reasons[name] = choice.name, choice.reason
        kind = type(module).__name__
        shape = shapes.get(module, ())
        rows.append(SummaryRow(name, kind, shape, params, macs.get(module, 0), path))
    total = sum(parameter.numel() for parameter in model.parameters())
    return ModelSummary(tuple(rows), total, sum(macs.values()), reasons)


def _like(chain: SpinalLayer) -> Tensor:
    """Return one row of inputs as the chain takes them."""
    anchor = next(chain.parameters())
    return torch.zeros(1, chain.in_features, dtype=anchor.dtype, device=anchor.device)

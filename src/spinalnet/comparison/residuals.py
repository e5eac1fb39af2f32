"""The images whose values the runs of a regression predicted worst, head by head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from spinalnet.comparison.classes import MOST_SHOWN
from spinalnet.comparison.finished import FinishedRuns
from spinalnet.comparison.outputs import OUTPUTS_FILE, RegressionOutputs, load_outputs, pictures

if TYPE_CHECKING:
    import numpy as np

    from spinalnet.comparison.answer import Summary


@dataclass(frozen=True)
class Residual:
    """One test image and what the runs of a head made of it.

    Attributes:
        row: Its place in the test set.
        path: Its file, if it has one.
        true: Its values, in their own units.
        predicted: The means of what the runs said, in the same units.
        pixels: Shape `(h, w)` or `(h, w, 3)`, uint8.
    """

    row: int
    path: str | None
    true: tuple[float, ...]
    predicted: tuple[float, ...]
    pixels: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON, without the picture."""
        values = {"true": list(self.true), "predicted": list(self.predicted)}
        gaps = [said - true for said, true in zip(self.predicted, self.true, strict=True)]
        return {"row": self.row, "path": self.path, **values, "residual": gaps}


@dataclass(frozen=True)
class HeadResiduals:
    """The images that a head got most wrong, worst first, on average over its `n` runs."""

    head: str
    n: int
    images: tuple[Residual, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for strict JSON."""
        images = [image.to_dict() for image in self.images]
        return {"head": self.head, "n": self.n, "largest_residuals": images}


def largest_residuals(comparison: FinishedRuns, summary: Summary) -> list[HeadResiduals]:
    """Find them for every head whose runs kept thumbnails; tables and classes give none."""
    if summary.task != "regression":
        return []  # without reading a thousand files to find that out
    found: list[HeadResiduals] = []
    for head in [head.head for head in summary.heads if head.n]:
        files = [record.path / OUTPUTS_FILE for record in comparison.runs[head].values()]
        several = [load_outputs(file) for file in files if file.exists()]
        kept = [one for one in several if isinstance(one, RegressionOutputs)]
        if images := _largest(kept):
            found.append(HeadResiduals(head, len(kept), images))
    return found


def _largest(several: Sequence[RegressionOutputs]) -> tuple[Residual, ...]:
    kept = pictures(several)
    if not kept:
        return ()
    first = several[0]
    said = torch.stack([outputs.predictions.double() for outputs in several]).mean(0)
    distances = torch.stack([outputs.distances for outputs in several]).mean(0)
    rows = [row for row in kept if bool(said[row].isfinite().all())]
    rows.sort(key=lambda row: (-float(distances[row]), row))
    return tuple(
        Residual(
            row=row,
            path=first.paths[row] if first.paths else None,
            true=tuple(first.targets[row].tolist()),
            predicted=tuple(said[row].tolist()),
            pixels=kept[row],
        )
        for row in rows[:MOST_SHOWN]
    )

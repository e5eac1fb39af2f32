"""What the studies of whole networks share: a run is a row, with right and wrong of every image.

A run takes minutes and its folder many megabytes, so a row of each is kept in the file of its
study: its accuracies, and one bit for every test image, which is all that the answers need. A run
that was stopped half way goes on from its folder; one whose row is there is not made again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Row

from spinalnet.comparison import ComparisonSpec, RunSpec, building, run_one
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.data import Splits


def run_of(asked: ComparisonSpec, seed: int, head: str) -> RunSpec:
    """Return one run of a comparison, by the number of its seed and the name of its head."""
    unit = asked.of_unit(asked.units()[seed])
    specs = [one for one in unit if isinstance(one, RunSpec)]
    return next(one for one in specs if one.label == head or one.model.head == head)


_last: list[tuple[Any, Splits]] = []  # the data of the run made last, and what they are of


def splits_of(spec: RunSpec) -> Splits:
    """Return the data of a run, which stay in memory until a run with others is made."""
    wanted = (spec.data, spec.unit)
    if not _last or _last[0][0] != wanted:
        _last.clear()  # not two of them in memory
        _last.append((wanted, building.load_splits(spec, download=False)))
    return _last[0][1]


def row_of(key: Mapping[str, Any], spec: RunSpec, folder: Path) -> Row:
    """Make a run, or end one that was left half way, and return its row.

    Args:
        key: What tells the row from others.
        spec: The run.
        folder: Where it is kept; named by the key within it.
    """
    began = time.perf_counter()
    path = folder / "-".join(map(str, key.values()))
    done = run_one(spec, path, splits=splits_of(spec))
    result = done.result or {}
    outputs = Outputs.load(done.path / OUTPUTS_FILE)
    hits = (outputs.correct & outputs.finite).numpy().astype(float)
    return dict(key) | {
        "head_params": result["head_params"],
        "head_macs": result["head_macs"],
        "best_epoch": result["best_epoch"],
        "val": [result["val"]["accuracy"]],
        "test": [float(hits.mean())],
        "examples": len(hits),
        "right": common.packed(hits),
        "train_seconds": round(result["train_seconds"], 1),
        "seconds": round(time.perf_counter() - began, 1),
    }


def hits_of(rows: Sequence[Row], seeds: Sequence[int]) -> np.ndarray | None:
    """Return right and wrong `(seeds, examples)` of rows; None while a seed is lacking."""
    by_seed = {row["seed"]: row for row in rows}
    if not set(seeds) <= by_seed.keys():
        return None
    texts = [by_seed[seed]["right"] for seed in seeds]
    return common.unpacked(texts, by_seed[seeds[0]]["examples"]).astype(float)


def draw(
    rows: Sequence[Row],
    panels: Sequence[str],
    kinds: Sequence[str],
    kind_of: Callable[[Row], str],
    path: Path,
) -> None:
    """Draw the test accuracy of every run, a panel for each data set and a line for each kind.

    Args:
        rows: The runs; `data` names the panel of each.
        panels: All that may be drawn, in their order.
        kinds: The lines of a panel, from above.
        kind_of: Returns the line of a row.
        path: The figure.
    """
    from matplotlib.figure import Figure

    from spinalnet import files

    names = [name for name in panels if any(row["data"] == name for row in rows)] or [""]
    figure = Figure(figsize=(1.2 + 3.6 * len(names), 1 + 0.34 * len(kinds)), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for place, kind in enumerate(kinds):
            values = [
                100 * row["test"][0] for row in rows if row["data"] == name and kind_of(row) == kind
            ]
            if not values:  # of another time
                continue
            apart: Any = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [0]
            axes.plot(values, place + np.array(apart), "o", ms=4, alpha=0.5, color=f"C{place}")
            axes.plot([statistics.fmean(values)], [place], "|", ms=18, mew=2, color="0.2")
        axes.set_yticks(range(len(kinds)), kinds)
        axes.set_ylim(len(kinds) - 0.5, -0.5)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("test accuracy, % (dots: seeds; line: mean)", fontsize=8)
        common.plain(axes, grid="x")
    files.write_figure(path, figure)

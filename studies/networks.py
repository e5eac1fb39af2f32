"""What the studies of whole networks share: a run is a row, with right and wrong of every image.

A run takes minutes and its folder many megabytes, so a row of each is kept in the file of its
study: its accuracies, and one bit for every test image, which is all that the answers need; what a
network said of the image too, where several are to answer together. A run that was stopped half way
goes on from its folder; one whose row is there is not made again.
"""

from __future__ import annotations

import base64
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Row

from spinalnet.comparison import ComparisonSpec, RunSpec, building, load_trained, run_one, running
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.data import Splits
from spinalnet.deploy.mirrored import with_tta


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


def row_of(
    key: Mapping[str, Any], spec: RunSpec, folder: Path, *, tta: str = "none", joins: bool = False
) -> Row:
    """Make a run, or end one that was left half way, and return its row.

    Args:
        key: What tells the row from others.
        spec: The run.
        folder: Where it is kept; named by the key within it.
        tta: What it answers with on validation and test images, see `deploy.mirrored`; it chooses
            its epoch without. With "flip" the row also tells how it does "alone", without.
        joins: Whether the row holds what the network "said", for `together`.
    """
    began = time.perf_counter()
    path = folder / "-".join(map(str, key.values()))
    splits = splits_of(spec)
    done = run_one(spec, path, splits=splits)
    result = done.result or {}
    outputs, val = Outputs.load(done.path / OUTPUTS_FILE), result["val"]["accuracy"]
    more: Row = {}
    if tta != "none":
        more["alone"] = [result["test"]["accuracy"]]
        outputs, val = _averaged(done.path, spec, splits, tta)
    if joins:
        more["said"] = said_of(outputs)
    hits = (outputs.correct & outputs.finite).numpy().astype(float)
    return dict(key) | {
        "head_params": result["head_params"],
        "head_macs": result["head_macs"],
        "best_epoch": result["best_epoch"],
        "val": [val],
        "test": [float(hits.mean())],
        "examples": len(hits),
        "right": common.packed(hits),
        "train_seconds": round(result["train_seconds"], 1),
        "seconds": round(time.perf_counter() - began, 1),
        **more,
    }


def _averaged(path: Path, spec: RunSpec, splits: Splits, tta: str) -> tuple[Outputs, float]:
    """Return what a finished run says of the test part, averaged, and its validation accuracy."""
    trained = load_trained(path)
    model, _ = with_tta(trained, tta)
    told, _ = running.measure(model, splits.val, spec.train, trained.info)
    _, outputs = running.measure(model, splits.test, spec.train, trained.info)
    assert isinstance(outputs, Outputs)
    return outputs, told["accuracy"]


def said_of(outputs: Outputs) -> str:
    """Return the probabilities of up to ten classes in thousandths, as a short text.

    Those of an image begin with that of its true class and go on in a circle, so that the text
    needs no other to tell who is right.
    """
    classes = outputs.num_classes
    assert classes <= outputs.classes.shape[1], "Outputs keeps the ten most probable ones"
    places = (outputs.classes - outputs.targets[:, None]) % classes
    table = outputs.probabilities.new_zeros(len(outputs), classes)
    table.scatter_(1, places, outputs.probabilities.nan_to_num(0.0))
    # The low bytes of all numbers before the high ones: most of the latter are 0.
    whole = (1000 * table).round().numpy().astype("<u2")
    planes = whole.reshape(-1, 1).view(np.uint8).T.tobytes()
    return base64.b85encode(zlib.compress(planes, 9)).decode()


def together(texts: Sequence[str], examples: int) -> np.ndarray:
    """Return 1 where several networks together are right, `(N,)`, else 0: by mean probability.

    Args:
        texts: What `said_of` returned for each, of the same examples.
        examples: Their number.
    """
    total = np.sum([_thousandths(text, examples) for text in texts], axis=0, dtype=int)
    return (total[:, 0] > total[:, 1:].max(1)).astype(float)


def _thousandths(text: str, examples: int) -> np.ndarray:
    planes = np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8)
    whole = np.ascontiguousarray(planes.reshape(2, -1).T).view("<u2")
    return whole.reshape(examples, -1)


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

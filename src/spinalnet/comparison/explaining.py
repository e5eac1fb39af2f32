"""The theory on what was trained: a table's inputs, a run's layers, a run's head made narrower."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison.trained import load_trained
from spinalnet.comparison.wording import as_csv
from spinalnet.data import frames
from spinalnet.nn import SpinalNet
from spinalnet.theory import drawings
from spinalnet.theory.narrowing import Shrinking, shrink
from spinalnet.theory.sensitivity import Sensitivities, sensitivities
from spinalnet.training import describe_origin


def explain_table(table: frames.Table, out: str | Path, *, seed: int = 0) -> Sensitivities:
    """Train a spinal net on a table and say which inputs matter, by its exact Jacobian.

    Args:
        table: What to train on; see `frames.load_table`.
        out: Folder for `sensitivity.png` and `sensitivity.csv`; a regression's numbers are in the
            unit of its target, per standard deviation of an input.
        seed: Seed of the training.
    """
    from spinalnet.tabular import SpinalClassifier, SpinalRegressor

    kind = SpinalClassifier if table.task == "classification" else SpinalRegressor
    model = kind(random_state=seed).fit(table.X, table.y)
    outputs = [str(name) for name in getattr(model, "classes_", ())] or None
    scaler = getattr(model, "target_scaler_", None)  # of a regression, which predicts in its units
    found = sensitivities(
        model.module_,
        model.prepare(table.X),
        inputs=model.prepared_names(),
        outputs=outputs,
        scale=None if scaler is None else torch.from_numpy(scaler.scale_),
    )
    files.write_figure(files.expanded(out) / "sensitivity.png", drawings.draw_sensitivities(found))
    files.write_text(files.expanded(out) / "sensitivity.csv", as_csv(found.records()))
    return found


def explain_run(
    run: str | Path, out: str | Path, *, examples: int = 4, wrong: bool = False
) -> Path:
    """Draw which slice at which layer spoke for which class, for test images of a run.

    Args:
        run: Folder of a run with a spinal head.
        out: Folder for `explanations.png`.
        examples: Number of test images.
        wrong: Take images that are classified wrongly.

    Returns:
        The figure's file.

    Raises:
        InputError: If the head is another one, or no image is left.
    """
    trained = load_trained(run)
    head = trained.model.head
    if not isinstance(head, SpinalNet):
        raise InputError(f"explain needs a run with a spinal head, {run} has another one.")
    images, targets = next(iter(trained.load_data().test.batches(512)))
    with torch.no_grad():
        features = trained.model.trunk(images)
        candidates = torch.ones_like(targets, dtype=torch.bool)
        if wrong:
            candidates = head(features).argmax(1) != targets
    rows = candidates.nonzero()[:examples, 0]
    if len(rows) == 0:
        raise InputError("no test image of the first 512 is classified wrongly.")
    drawn = drawings.draw_explanations(
        head,
        features[rows],
        trained.info.class_names,
        images=images[rows],
        targets=targets[rows].tolist(),
    )
    path = files.expanded(out) / "explanations.png"
    files.write_figure(path, drawn)
    return path


def shrink_run(
    run: str | Path,
    out: str | Path,
    *,
    num_splits: int = 2,
    hidden_features: int | None = None,
    epochs: int = 20,
    seeds: int = 3,
) -> Shrinking:
    """Turn the dense head of a run into a spinal one of the same function, then make it narrower.

    Args:
        run: Folder of a run with a dense head; its trunk stays as it is.
        out: Folder for `trade-off.png` and `trade-off.json`.
        num_splits: Number of slices.
        hidden_features: Width of the converted head; None: as wide as the dense layer.
        epochs: Of fine-tuning and of training from scratch.
        seeds: Number of runs of each.
    """
    trained = load_trained(run)
    data = trained.load_data()
    found = shrink(
        trained.model,
        *(data.train, data.val, data.test),
        num_splits=num_splits,
        hidden_features=hidden_features,
        epochs=epochs,
        seeds=seeds,
    )
    lines = {
        "converted, pruned": [(row.macs, row.pruned) for row in found.rows],
        "pruned, fine-tuned": [(row.macs, row.tuned) for row in found.rows],
        "from scratch": [(row.macs, row.scratch) for row in found.rows],
    }
    drawn = drawings.draw_trade_off(lines, (found.dense_macs, found.dense))
    files.write_figure(files.expanded(out) / "trade-off.png", drawn)
    numbers = asdict(found) | describe_origin()
    files.write_mapping(files.expanded(out) / "trade-off.json", numbers)
    return found

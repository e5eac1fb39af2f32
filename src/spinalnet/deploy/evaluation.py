"""How good a trained model is on a data set: on its own test part, or on other data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, unknown_name
from spinalnet.comparison import TableModel, TrainedModel, load_trained, moved
from spinalnet.comparison.calibration import ClassScore, per_class
from spinalnet.comparison.loading import run_of
from spinalnet.comparison.running import measure
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.tables.running import scores_of
from spinalnet.comparison.trained import refuse_for_own
from spinalnet.data import DataSpec, frames
from spinalnet.deploy.mirrored import with_tta
from spinalnet.deploy.saved import is_of_table, table_model
from spinalnet.deploy.tables import read_new


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on the test part of a data set.

    Attributes:
        data: Name of the data set.
        metrics: As under "test" in a run's `result.json`.
        classes: Score of every class by name; empty for a regression.
        tta: What answers were averaged over: "none", or "flip" (see `mirrored`).
    """

    data: str
    metrics: dict[str, Any]
    classes: dict[str, ClassScore]
    tta: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        classes = {name: asdict(row) for name, row in self.classes.items()}
        averaged = {"tta": self.tta} if self.tta != "none" else {}
        return self.metrics | averaged | ({"classes": classes} if classes else {})


def evaluate_run(
    run: str | Path,
    data: str | None = None,
    data_dir: str | None = None,
    *,
    device: str | None = None,
    labels: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    on_bad_image: Literal["error", "skip"] | None = None,
    ignore: str | None = None,
    tta: str = "none",
    tell: Callable[[str], None] | None = None,
) -> Evaluation:
    """Evaluate the model of a run on the test part of its own data, or on other data.

    Args:
        run: Folder of a run or of a comparison, whose best run is taken, or a checkpoint file.
        data: Another data set with the same classes: a name, whose test part is taken; a folder of
            images, all of it, or its test part if it has parts, where classes may be missing; for
            the model of a table another table, all of it. Of a folder with the same files as the
            data of the run the run's own test part is taken.
        data_dir: Where that data set's files are.
        device: auto, cpu, cuda or mps; None for the run's.
        labels: A table of labels of the images in the folder (`data`, or that of the run): all
            that it names are taken.
        image_column: Its column that names the files; that of training without it.
        label_column: Its column of labels; that of training without it.
        split_column: Its column of parts, of which the test part is taken.
        on_bad_image: For `data` or `labels`: refuse image files that cannot be used ("error"), or
            leave them out ("skip"); that of the run without it.
        ignore: Names of files and folders of the folder `data` that are left out, comma separated.
        tta: "flip" to average over every image and its mirror image; "none" for the answer of
            the image alone, as in the run's own result.
        tell: Called with a sentence for everything the user should know.

    Raises:
        InputError: If the other data has other classes, or files that `labels` names are missing.
    """
    if is_of_table(run):
        given: dict[str, Any] = {"data_dir": data_dir, "device": device, "labels": labels}
        given |= {"tta": None if tta == "none" else tta}
        given |= {"image_column": image_column, "label_column": label_column}
        given |= {"split_column": split_column, "on_bad_image": on_bad_image, "ignore": ignore}
        for name in [name for name, value in given.items() if value is not None]:
            raise InputError(f"{name}={given[name]} has no meaning for a table: leave it out.")
        return evaluate_table(run, data, tell=tell)
    found = run_of(run, tell)
    trained = load_trained(found)
    file = found if found.is_file() else found / "model.safetensors"
    if tell is not None and files.digest_in(file) is None:
        tell(f"{file} has no digest, as an earlier version wrote it: it is used unchecked.")
    model, note = with_tta(trained, tta)
    if note and tell is not None:
        tell(note)
    if labels is None and data is not None and _is_own(found, trained, data, data_dir):
        given = {"on_bad_image": on_bad_image, "ignore": ignore}
        refuse_for_own({name: value for name, value in given.items() if value is not None})
        own = replace(trained.spec.data, name=str(data), data_dir=data_dir)
        splits = replace(trained, spec=trained.spec.having(data=own)).load_data(device=device)
        part, name = splits.test, splits.info.name
        notes: tuple[str, ...] = (
            f"'{data}' holds the same files as the data of the run, by their names, sizes and "
            "samples of their contents: the run's own test part is scored, not all images.",
            *splits.info.notes,
        )
    elif labels is None:
        how: dict[str, Any] = {"on_bad_image": on_bad_image, "ignore": ignore}
        part, info = trained.load_test(data, data_dir, device, **how)
        name, notes = info.name, info.notes if data is not None else ()
    else:
        columns = {"image_column": image_column, "label_column": label_column}
        asked = {"labels": str(labels), **columns, "split_column": split_column, "ignore": ignore}
        part, notes = trained.load_labelled(asked, data, data_dir, on_bad_image=on_bad_image)
        name = Path(labels).name
    if tell is not None:
        for told in notes:
            # Nothing is trained here, so there is nothing to leave copies out of.
            tell(re.sub(r"; on_duplicate=skip leaves (out [^;.]*|[^;.]* out)", "", told))
    config = replace(trained.spec.train, device=device or trained.spec.train.device)
    metrics, _ = measure(model, part, config, trained.info)
    rows = per_class(metrics["confusion"]) if "confusion" in metrics else ()
    classes = dict(zip(trained.info.class_names, rows, strict=False))
    return Evaluation(name, metrics, classes, tta)


def _is_own(run: Path, trained: TrainedModel, data: str, data_dir: str | None) -> bool:
    """Return whether a folder holds the data of a run, in another place than the run names."""
    if run.is_file():  # a checkpoint alone does not know how the data was split
        return False
    return moved.is_own_elsewhere(run, trained.spec.data, DataSpec(str(data), data_dir))


def evaluate_table(
    run: str | Path | TableModel, data: str | Path | None = None, *, tell: Tell | None = None
) -> Evaluation:
    """Evaluate the model of a table on the test rows of its own run, or on another table.

    Args:
        run: Folder of a run or of a comparison, its `model.safetensors`, or the model.
        data: Another table with the same columns and the target; all its rows are taken.
        tell: Called with a sentence for everything the user should know.

    Raises:
        InputError: If the table is gone or has changed, or `data` lacks a column or the target, or
            has other classes.
    """
    model = run if isinstance(run, TableModel) else table_model(run, tell)
    if data is None:
        X, y, name = *model.test_rows(), model.about.data
    else:
        name = Path(str(data)).name
        X, y = _with_target(model, data, name, tell)
    outputs = model.outputs(X, y)
    metrics = scores_of(outputs)
    rows = per_class(metrics["confusion"]) if "confusion" in metrics else ()
    classes = dict(zip(model.class_names, rows, strict=False))
    return Evaluation(name, metrics, classes)


def _with_target(
    model: TableModel, data: str | Path, name: str, tell: Tell | None
) -> tuple[Any, Any]:
    """Return (aligned features, targets) of the rows of a table that have a target."""
    if str(data).startswith("sklearn:"):
        table = frames.load_table(str(data))
        return model.aligned(table.X, data=name, tell=tell), table.y
    frame = read_new(model, data, tell)
    targets = list(model.about.targets)
    if not targets:
        raise InputError(f"the model does not know the name of its target: {name} cannot be used.")
    for target in targets:
        if target not in frame.columns:
            raise unknown_name(f"column of {name} (the target)", target, map(str, frame.columns))
    there = frame[targets].notna().all(axis=1)
    if not there.all() and tell is not None:
        tell(f"{name}: {int((~there).sum())} rows without a target are left out.")
    if not there.any():
        raise InputError(f"no row of {name} has a target.")
    frame = frame[there].reset_index(drop=True)
    X = model.aligned(frame, data=name, tell=tell)
    y = frame[targets[0]] if len(targets) == 1 else frame[targets]
    if model.task == "classification":
        return X, y.to_numpy(dtype=object)
    try:
        return X, y.to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"the target of {name} must be numbers: {error}.") from error

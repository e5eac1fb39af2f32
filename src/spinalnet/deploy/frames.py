"""Predictions as a frame: a row per image or row of a table, the classes as columns."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spinalnet._checks import pandas_for
from spinalnet.comparison import TableModel, TrainedModel, load
from spinalnet.comparison.outputs import class_columns
from spinalnet.deploy.predict import predict_images
from spinalnet.deploy.tables import predict_rows, read_new

if TYPE_CHECKING:
    import pandas as pd


def predict_frame(
    run: str | Path | TrainedModel | TableModel, data: Any, **options: Any
) -> pd.DataFrame:
    """Return what a model says as a frame of pandas.

    Of classes it has the columns `prediction`, `probability`, and one for every class, with its
    name (after `p_` where that is the name of another column); of a regression `prediction`, or
    one column for each of several targets, with its name.

    Args:
        run: Folder of a run, of a comparison or of a model that was passed on, a checkpoint file,
            or what `spinalnet.load` returned.
        data: Of a model of images one file or folder, or several: the index is their paths. Of one
            of a table a frame, whose index is kept, or a file.
        options: Of images those of `predict_images`, such as batch_size, device and tta.

    Raises:
        InputError: If images or columns cannot be used; see `predict_images` and
            `TableModel.predict`. If pandas is not installed.
    """
    pd = pandas_for("predict_frame()")
    model = run if isinstance(run, TrainedModel | TableModel) else load(run)
    if isinstance(model, TableModel):
        if isinstance(data, str | Path):
            data = read_new(model, data)
        rows = list(predict_rows(model, data, **options))
        names, index = model.class_names, getattr(data, "index", None)
        said = np.array([one.probabilities or one.values for one in rows], dtype=np.float64)
        if model.task == "regression":
            targets = model.about.targets if model.about.outputs > 1 else ("prediction",)
            columns = targets or range(1, model.about.outputs + 1)
            return pd.DataFrame(said.reshape(len(rows), -1), index=index, columns=list(columns))
        return _of_classes(said, names, model.classes, index)
    paths: Iterable[str | Path] = data
    found = list(predict_images(model, paths, **options))
    index = pd.Index([str(one.path) for one in found], name="path")
    if model.info.task == "regression":
        return pd.DataFrame({"prediction": [one.value for one in found]}, index=index)
    names = model.info.class_names
    return _of_classes(np.array([one.probabilities for one in found]), names, names, index)


def _of_classes(said: np.ndarray, names: Any, classes: Any, index: Any) -> pd.DataFrame:
    """Return the frame of probabilities `(N, classes)`; `classes` are what is predicted."""
    import pandas as pd

    said = said.reshape(len(said), len(names))
    best = said.argmax(1) if len(said) else np.zeros(0, dtype=np.int64)
    first = {
        "prediction": np.array(classes, dtype=None)[best],
        "probability": said[np.arange(len(said)), best],
    }
    columns = class_columns(names, first)
    every = {column: said[:, place] for place, column in enumerate(columns)}
    return pd.DataFrame(first | every, index=index)

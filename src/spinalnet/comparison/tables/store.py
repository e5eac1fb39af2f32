"""The fitted model of a table in one file, `model.safetensors`, and out of it again.

Weights and the encoder's numbers are tensors; everything else is JSON in the file's header. Nets
are kept as they are, boosted trees as arrays (`Forest`). A model that cannot be kept so is not kept
at all: the file says why, and the run's own settings fit it again (`tables.refit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison import packing
from spinalnet.comparison.layered import LayeredEstimator, Several
from spinalnet.comparison.tables.columns import Column, columns_of
from spinalnet.comparison.tables.forest import Forest, ForestEstimator
from spinalnet.comparison.tables.heads import estimator_class, head_row
from spinalnet.comparison.tables.rows import TableRows
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.nn import made_for
from spinalnet.randomness import own_generators

MODEL_FILE = "model.safetensors"
FORMAT = "table"


@dataclass(frozen=True)
class Description:
    """What a model of a table knows beside its numbers; in the header of its file.

    Attributes:
        data: Name of the table.
        task: "classification" or "regression".
        head: Row of `TABLE_MODELS`.
        targets: Names of the columns that it predicts; of a table without names none.
        outputs: Number of values it predicts of a row; of a classification one.
        columns: What it takes, in order.
        not_kept: Why it is not kept as data, so that it must be fitted again; None if it is.
    """

    data: str
    task: str
    head: str
    targets: tuple[str, ...]
    outputs: int
    columns: tuple[Column, ...]
    not_kept: str | None = None
    packed: Mapping[str, Any] = field(default_factory=dict, repr=False)


def describe(spec: TableSpec, rows: TableRows) -> Description:
    """Return the description of a model fitted to a table."""
    targets = rows.table.targets if len(rows.table.targets) == rows.outputs else ()
    columns = columns_of(rows.table.X, rows.table.date_orders)
    return Description(rows.table.name, rows.table.task, spec.head, targets, rows.outputs, columns)


def save(estimator: Any, about: Description, X: Any, folder: Path) -> None:
    """Write `model.safetensors`.

    Args:
        estimator: Fitted to a table.
        about: What it is.
        X: Some rows of that table.
        folder: Of the run.

    Raises:
        TypeError: If something in the model is no plain data, so that it cannot be kept.
        InputError: If it is a model of scikit-learn whose arrays cannot be found; or if the file
            cannot be written.
    """
    if not head_row(about.head).kind:
        estimator = _in_columns(estimator, X)
    header, tensors = _taken_apart(estimator)
    _write(about, header, tensors, folder)


def _as_arrays(estimator: Any, encoder: Any, names: Sequence[str]) -> Any:
    """Return a model of another library as arrays with its methods.

    Args:
        estimator: The fitted model, maybe with an encoder of its own before it.
        encoder: What makes the columns it takes; None where it takes the table's.
        names: Names of those columns; of an array none.

    Raises:
        InputError: If it is of a kind that is not known here.
    """
    if hasattr(estimator, "estimators_"):  # one for each value of a regression
        parts = [_as_arrays(one, encoder, names) for one in estimator.estimators_]
        return Several(tuple(parts))
    if hasattr(estimator, "encoder_") and hasattr(estimator, "model_"):
        return LayeredEstimator.of(
            estimator.encoder_,
            estimator.model_,
            classes=getattr(estimator, "classes_", None),
            center=getattr(estimator, "center_", None),
            scale=getattr(estimator, "scale_", None),
        )
    if type(estimator).__name__.startswith("HistGradientBoosting"):
        forest = Forest.of(estimator, names)
        return ForestEstimator(forest, getattr(estimator, "classes_", None), encoder)
    raise InputError(f"a {type(estimator).__name__} cannot be written as plain arrays.")


def _in_columns(estimator: Any, X: Any) -> Any:
    """Return a model of another library as arrays, on the columns of a table."""
    if hasattr(estimator, "encoder_") and hasattr(estimator, "estimator_"):
        encoder = estimator.encoder_
        names = list(map(str, encoder.shared(X).columns))
        return _as_arrays(estimator.estimator_, encoder, names)
    names = [str(name) for name in getattr(X, "columns", ())]
    return _as_arrays(estimator, None, names)


def save_without(about: Description, reason: str, folder: Path) -> None:
    """Write `model.safetensors` of a model that is not kept: what it is, and why."""
    _write(about, {"not_kept": reason}, {}, folder)


def _write(
    about: Description, header: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path
) -> None:
    known = {
        "format": FORMAT,
        "data": about.data,
        "task": about.task,
        "head": about.head,
        "targets": list(about.targets),
        "outputs": about.outputs,
        "columns": [column.to_dict() for column in about.columns],
    }
    files.save_weights(folder / MODEL_FILE, tensors, known | dict(header))


def is_table_model(header: object) -> bool:
    """Return whether the header of a file is that of a table's model."""
    return isinstance(header, Mapping) and header.get("format") == FORMAT


def load(path: Path) -> tuple[Any, Description]:
    """Read a file that `save` wrote.

    Returns:
        The estimator, None where it is not kept; and its description.

    Raises:
        InputError: If it is no such file, or damaged.
    """
    tensors, header = files.load_weights(path)
    with files.reading(path):
        if not is_table_model(header):
            raise InputError("it holds no model of a table that can be used by itself.")
        try:
            about = Description(
                *(str(header["data"]), str(header["task"]), str(header["head"])),
                tuple(header["targets"]),
                int(header["outputs"]),
                tuple(Column.from_dict(column) for column in header["columns"]),
                header.get("not_kept"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"it is damaged ({type(error).__name__}: {error}).") from error
        if about.not_kept is not None:
            return None, about
        return _put_together(about, header, tensors), about


def _kinds() -> dict[str, type]:
    """Return the classes whose objects a file may name."""
    from sklearn.preprocessing import StandardScaler

    from spinalnet.tabular.encoder import Encoder

    return {
        "Encoder": Encoder,
        "StandardScaler": StandardScaler,
        "Forest": Forest,
        "ForestEstimator": ForestEstimator,
        "LayeredEstimator": LayeredEstimator,
        "Several": Several,
    }


def _taken_apart(estimator: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of an estimator."""
    if isinstance(estimator, ForestEstimator | LayeredEstimator | Several):
        packed, tensors = packing.pack(estimator, "arrays", _kinds())
        return {"arrays": packed}, tensors
    params = estimator.get_params(deep=False)
    fitted, modules, tensors = {}, {}, {}
    for name, value in vars(estimator).items():
        if name in params or name.endswith("optimizer_state"):
            continue
        if isinstance(value, nn.Module) and not name.startswith("_"):
            weights = value.state_dict()
            first = next(iter(value.parameters()))
            modules[name] = {
                "in_features": getattr(value, "in_features", None),
                "out_features": getattr(value, "out_features", None),
                "dtype": str(first.dtype).removeprefix("torch."),
            }
            tensors |= {f"{name}.{key}": tensor for key, tensor in weights.items()}
            continue
        try:
            fitted[name], found = packing.pack(value, name, _kinds())
        except TypeError:
            continue  # for training on; a model that cannot answer without it is not kept
        tensors |= found
    given, found = packing.pack(params, "params", _kinds())
    return {"params": given, "fitted": fitted, "modules": modules}, tensors | found


def _put_together(
    about: Description, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Any:
    if "arrays" in header:
        return packing.unpack(header["arrays"], tensors, _kinds())
    try:
        estimator = estimator_class(about.head, about.task)(
            **packing.unpack(header["params"], tensors, _kinds())
        )
        for name, value in header["fitted"].items():
            setattr(estimator, name, packing.unpack(value, tensors, _kinds()))
        for name, shape in header["modules"].items():
            start = f"{name}."
            weights = {
                key.removeprefix(start): value
                for key, value in tensors.items()
                if key.startswith(start)
            }
            with (
                made_for(weights),
                own_generators(),
            ):  # whose draws are lost, and must not be another's
                module = _untrained(estimator, shape, weights)
            module.load_state_dict(weights)
            setattr(estimator, name, module.eval())
    except (
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        ValueError,
    ) as error:
        if isinstance(error, InputError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"its content does not make a '{about.head}' ({type(error).__name__}: {reason})."
        ) from error
    return estimator


def _untrained(estimator: Any, shape: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    """Return the net of an estimator, whose weights are to be loaded."""
    if hasattr(estimator, "module_like"):
        return estimator.module_like(weights)
    dtype = getattr(torch, shape["dtype"])
    return estimator.make_net(shape["in_features"], shape["out_features"], dtype)

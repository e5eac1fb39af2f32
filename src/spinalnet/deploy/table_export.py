"""Export of a table's model to ONNX: raw columns in, classes and probabilities, or values, out.

The file has one input for each column and holds the encoding of numbers, categories and missing
values, the net or the trees, and the units of the target. Nothing is kept that has not answered
about the test rows as the model does, and about rows with gaps and unknown levels.
"""

from __future__ import annotations

import collections
import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import spinalnet
from spinalnet import files
from spinalnet._checks import InputError, SpinalnetError, some
from spinalnet.comparison import TableModel
from spinalnet.comparison.layered import LayeredEstimator, Several
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.tables.forest import ForestEstimator
from spinalnet.deploy.export import OPSET, OPSETS, TOLERANCE, exporting, import_for_export
from spinalnet.deploy.saved import table_model
from spinalnet.deploy.table_graph import ML, ML_OPSET, Graph, add_forest, add_layers, add_net
from spinalnet.deploy.table_inputs import OUTSIDE, TableInputs
from spinalnet.deploy.tables import rows_to_ask

MOST_CHECKED = 2000  # rows

_FAR = 1e15  # standard deviations

_UNIT = {"classification": "a probability", "regression": "the target's standard deviation"}


@dataclass(frozen=True)
class TableExported:
    """What was written.

    Attributes:
        path: The file.
        inputs: Kind of every input by name, see `TableInputs.kinds`.
        outputs: Names of the outputs: of classes the label and the probabilities, else the values.
        nodes: Number of operations by kind.
        outside: Columns whose encoding is not in the file, by kind; see `TableInputs`.
        rows: Number of rows that were asked of both.
        largest_difference: Of any answer from the model's: of probabilities as it is, of values as
            a part of the standard deviation of their target.
        precision: "float32" or "float64": what the net computes in.
    """

    path: Path
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    nodes: Mapping[str, int]
    outside: Mapping[str, str]
    rows: int
    largest_difference: float
    precision: str


def export_table(
    run: str | os.PathLike[str] | TableModel,
    path: str | os.PathLike[str],
    *,
    data: str | Path | None = None,
    opset: int = OPSET,
    tell: Tell | None = None,
) -> TableExported:
    """Write the model of a table as an ONNX file, and compare it with the model.

    Args:
        run: Folder of a run or of a comparison, its `model.safetensors`, or the model.
        path: File to write, usually `*.onnx`.
        data: A table to compare on, in place of the test rows of the run.
        opset: Version of the ONNX operators, 18 to 23.
        tell: Called with a sentence for everything the user should know, such as columns whose
            encoding cannot be put inside.

    Raises:
        InputError: If a package is missing, the model is of a kind that cannot be exported, its
            rows cannot be had, or the file cannot be written.
        SpinalnetError: If the exported model answers differently; nothing is written then.
    """
    if opset not in OPSETS:
        raise InputError(f"opset must be in {OPSETS[0]} to {OPSETS[-1]}, got {opset}.")
    onnx, onnxruntime = import_for_export("onnx"), import_for_export("onnxruntime")
    import_for_export("onnxscript")
    model = run if isinstance(run, TableModel) else table_model(os.fspath(run), tell)
    X = rows_to_ask(model, data, tell)
    X = X.iloc[:MOST_CHECKED] if hasattr(X, "iloc") else X[:MOST_CHECKED]
    refused = ""
    for precision in ("float32", "float64"):
        built = _build(onnx, model, opset, precision)
        content = built.content
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        difference, rows = _check(session, built, model, X)
        if difference <= TOLERANCE:
            break
        refused = (
            f"the exported model differs from the original by {difference:.1e} of "
            f"{_UNIT[model.task]} on {rows} rows, {TOLERANCE:.0e} is allowed: nothing was written."
        )
    else:
        raise SpinalnetError(refused)
    files.write_bytes(path, content)
    if tell is not None and (outside := built.inputs.outside):
        for kind in sorted(set(outside.values())):
            names = [f"'{name}'" for name, of in outside.items() if of == kind]
            tell(
                f"not in the file: the encoding of {some(names, 5)}; {OUTSIDE[kind]} (see "
                "docs/export.md)."
            )
    inputs = dict(zip(built.inputs.names, built.inputs.kinds, strict=True))
    return TableExported(
        *(files.expanded(path), inputs, built.outputs, built.nodes),
        *(dict(built.inputs.outside), rows, difference, precision),
    )


def onnx_inputs(run: str | os.PathLike[str] | TableModel, X: Any) -> dict[str, np.ndarray]:
    """Return what an exported model takes for the rows of a table, by name of input.

    Where no date and no text is among the columns, it is the columns themselves.

    Args:
        run: As for `export_table`.
        X: A data frame with the columns of the training.

    Raises:
        InputError: If a column is missing, or holds what it cannot hold; both named.
    """
    model = run if isinstance(run, TableModel) else table_model(os.fspath(run))
    graph = Graph(import_for_export("onnx"))
    return TableInputs.of(graph, _encoder_of(model), _names(model)).feeds(model.aligned(X))


def _names(model: TableModel) -> list[str]:
    return [column.name or f"x{k + 1}" for k, column in enumerate(model.about.columns)]


@dataclass(frozen=True)
class _Built:
    """A graph, and what was made of it."""

    content: bytes
    inputs: TableInputs
    outputs: tuple[str, ...]
    nodes: Mapping[str, int] = field(repr=False)


def _build(onnx: Any, model: TableModel, opset: int, precision: str) -> _Built:
    graph = Graph(onnx)
    inputs = TableInputs.of(graph, _encoder_of(model), _names(model))
    said = _answers(graph, model, inputs, opset, precision)
    outputs = _finish(graph, model, said, set(inputs.names))
    made = onnx.helper.make_graph(graph.nodes, "spinalnet", graph.inputs, outputs, graph.constants)
    proto = onnx.helper.make_model(
        made,
        opset_imports=[onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(ML, ML_OPSET)],
        ir_version=10 if opset < 22 else 11,
    )
    proto.producer_name, proto.producer_version = "spinalnet", spinalnet.__version__
    onnx.helper.set_model_props(proto, _metadata(model, inputs))
    onnx.checker.check_model(proto)
    nodes = dict(collections.Counter(node.op_type for node in graph.nodes))
    return _Built(
        proto.SerializeToString(), inputs, tuple(output.name for output in outputs), nodes
    )


def _metadata(model: TableModel, inputs: TableInputs) -> dict[str, str]:
    """Return what the file says about itself; values other than names are JSON."""
    about = model.about
    return {
        "spinalnet": spinalnet.__version__,
        "torch": torch.__version__,
        "data": about.data,
        "head": about.head,
        "task": about.task,
        "targets": json.dumps(list(about.targets), ensure_ascii=False),
        "class_names": json.dumps(list(model.class_names), ensure_ascii=False),
        "inputs": json.dumps(
            dict(zip(inputs.names, inputs.kinds, strict=True)), ensure_ascii=False
        ),
        "encoded_outside": json.dumps(dict(inputs.outside), ensure_ascii=False),
    }


def _encoder_of(model: TableModel) -> Any:
    estimator = model.estimator
    if isinstance(estimator, Several):
        estimator = estimator.parts[0]  # all were fitted to the same rows
    for name in ("encoder_", "encoder"):
        if (found := getattr(estimator, name, None)) is not None:
            return found
    if isinstance(estimator, ForestEstimator):
        return None  # trees of an array take it as it is
    raise InputError(
        f"a '{model.about.head}' ({type(estimator).__name__}) cannot be exported here: use its own "
        "library, or a head that is a net, linear, or trees."
    )


def _answers(
    graph: Graph, model: TableModel, inputs: TableInputs, opset: int, precision: str
) -> str:
    """Add the model; return its logits or sums `(N, K)`, or its values, float64."""
    estimator = model.estimator
    if isinstance(estimator, Several):
        parts = [replace(model, estimator=part) for part in estimator.parts]
        said = [_answers(graph, part, inputs, opset, precision) for part in parts]
        return graph.add("Concat", *said, axis=1)
    if isinstance(estimator, ForestEstimator):
        forest = estimator.forest
        names = inputs.names
        columns = [
            inputs.shared(graph, one.name or names[one.place], one.categories)
            for one in forest.columns
        ]
        sums = add_forest(graph, forest, columns)
        return graph.add("Exp", sums) if forest.link == "exp" else sums
    rows = inputs.encoded(graph)
    if isinstance(estimator, LayeredEstimator):
        said = add_layers(graph, rows, estimator)
        if estimator.center is not None and estimator.scale is not None:
            said = _in_units(graph, said, estimator.center, estimator.scale)
        return said
    net = copy.deepcopy(estimator.module_).to(getattr(torch, precision)).cpu().eval()
    if precision == "float32" and model.task == "classification":
        # float32 ends at 3e38; far below it every class is decided.
        bounds = [graph.constant(bound, np.float64) for bound in (-_FAR, _FAR)]
        rows = graph.add("Clip", rows, *bounds)
    rows = graph.cast(rows, "float" if precision == "float32" else "double")
    said = graph.cast(_add_module(graph, net, rows, opset), "double")
    scaler = getattr(estimator, "target_scaler_", None)
    if scaler is not None:
        constant = getattr(estimator, "constant_outputs_", False)
        said = _in_units(graph, said, scaler.mean_, np.where(constant, 0.0, scaler.scale_))
    return said


def _in_units(graph: Graph, said: str, center: np.ndarray, scale: np.ndarray) -> str:
    scaled = graph.add("Mul", said, graph.constant(np.asarray(scale)[None], np.float64))
    return graph.add("Add", scaled, graph.constant(np.asarray(center)[None], np.float64))


def _add_module(graph: Graph, net: nn.Module, rows: str, opset: int) -> str:
    """Add a net of torch's, `(N, features)` to `(N, K)`."""
    net.requires_grad_(False)
    width = int(getattr(net, "in_features"))  # noqa: B009 (of a module any attribute may be a tensor)
    sample = torch.zeros(2, width, dtype=next(iter(net.parameters())).dtype)
    with exporting():
        program = torch.onnx.export(
            net,
            (sample,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("N")},),
            input_names=["rows"],
            output_names=["said"],
            opset_version=opset,
            verbose=False,
        )
        assert program is not None
        optimizer = import_for_export("onnxscript.optimizer")
        optimizer.fold_constants(program.model, input_size_limit=2**40, output_size_limit=2**40)
        optimizer.remove_unused_nodes(program.model)
    return add_net(graph, program.model_proto, rows)


def _finish(graph: Graph, model: TableModel, said: str, taken: set[str]) -> list[Any]:
    """Add what the file answers; return its outputs."""
    helper, kinds = graph.onnx.helper, graph.onnx.TensorProto

    def named(name: str) -> str:
        while name in taken:  # a column of this name
            name = f"predicted_{name}"
        return name

    if model.task == "regression":
        values = named("values")
        graph.put("Identity", [said], [values])
        return [helper.make_tensor_value_info(values, kinds.DOUBLE, ["N", model.about.outputs])]
    classes = model.classes
    single = isinstance(model.estimator, ForestEstimator | LayeredEstimator) and len(classes) == 2
    if single:  # one sum for the second class
        said = graph.add("Concat", graph.add("Sub", said, said), said, axis=1)
    label, probabilities = named("label"), named("probabilities")
    double = graph.add("Softmax", said, axis=1)
    graph.put("Cast", [double], [probabilities], to=kinds.FLOAT)
    best = graph.add("ArgMax", said, axis=1, keepdims=0)
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in classes)
    values = graph.constant(list(classes), np.int64) if whole else graph.constant(
        np.array(model.class_names, dtype=object)
    )  # fmt: skip
    graph.put("Gather", [values, best], [label], axis=0)
    kind = kinds.INT64 if whole else kinds.STRING
    return [
        helper.make_tensor_value_info(label, kind, ["N"]),
        helper.make_tensor_value_info(probabilities, kinds.FLOAT, ["N", len(classes)]),
    ]


def _check(session: Any, built: _Built, model: TableModel, X: Any) -> tuple[float, int]:
    """Return (largest difference from the model, number of rows), also of rows with gaps."""
    asked = [X, *_harder(model, X)]
    largest, rows, unit = 0.0, 0, np.ones(1)
    for place, part in enumerate(asked):
        truth = model.answers(part)
        if place == 0 and model.task == "regression":
            unit = _units(model.estimator, truth)
        found = session.run(None, built.inputs.feeds(part))
        # float64 itself has no finer steps.
        steps = 8 * np.finfo(np.float64).eps * np.abs(truth)
        difference = float((np.abs(found[-1] - truth) / np.maximum(unit, steps / TOLERANCE)).max())
        if found[-1].shape != truth.shape or not np.isfinite(difference):
            return float("inf"), rows
        if model.task == "classification":
            difference = max(difference, _wrong_labels(found[0], truth, model))
        largest, rows = max(largest, difference), rows + len(truth)
    return largest, rows


def _units(estimator: Any, said: np.ndarray) -> np.ndarray:
    """Return what a difference of each value is measured by, `(outputs,)`.

    Args:
        estimator: Of a regression. Where it knows the spread of its targets, it is that.
        said: Its values, `(N, outputs)`, whose spread serves otherwise.
    """
    if isinstance(estimator, Several):
        parts = [_units(one, said[:, [k]]) for k, one in enumerate(estimator.parts)]
        return np.concatenate(parts)
    scaler = getattr(estimator, "target_scaler_", None)
    found = getattr(scaler, "scale_", getattr(estimator, "scale", None))
    spread = said.std(axis=0) if found is None else np.broadcast_to(found, said.shape[1])
    return np.where(spread > 0, spread, np.maximum(np.abs(said).max(axis=0), 1e-300))


def _wrong_labels(labels: np.ndarray, truth: np.ndarray, model: TableModel) -> float:
    """Return 1 if a label is wrong, and not for two classes that are as probable."""
    ordered = np.sort(truth, axis=1)
    sure = ordered[:, -1] - ordered[:, -2] > 2 * TOLERANCE
    names = np.array(model.class_names, dtype=object)[truth.argmax(axis=1)]
    said = np.array([str(label) for label in labels.tolist()], dtype=object)
    return float((said[sure] != names[sure]).any())


def _harder(model: TableModel, X: Any) -> list[Any]:
    """Return rows with a gap in each column in turn, and with levels that nobody has seen."""
    if not hasattr(X, "iloc"):
        return []
    few: Any = X.iloc[:20].reset_index(drop=True)
    made = []
    for column in model.about.columns:
        changes: list[Callable[[Any], Any]] = [lambda held: [None] * len(held)]
        if column.kind == "category":
            changes.append(lambda held: ["a level nobody has seen"] * len(held))
        for change in changes:
            changed = few.copy()
            changed[column.name] = change(changed[column.name])
            made.append(changed)
    return [model.aligned(part) for part in made]

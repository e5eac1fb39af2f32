"""An ONNX graph written node by node: what the export of tables is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spinalnet.comparison.layered import LayeredEstimator
from spinalnet.comparison.tables.forest import Forest

ML = "ai.onnx.ml"
ML_OPSET = 3  # trees of float64; onnxruntime >= 1.12 reads it


class Graph:
    """Nodes, constants and inputs in the making; names of results are made here."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.inputs: list[Any] = []
        self._made = 0

    def name(self, of: str = "v") -> str:
        """Return a name that nothing has yet."""
        self._made += 1
        return f":{of}{self._made}"  # no column begins so

    def input(self, name: str, kind: str, width: int = 1) -> str:
        """Add an input `(N, width)`, of text if `kind` is "text", else of float64."""
        proto = self.onnx.TensorProto
        dtype = proto.STRING if kind == "text" else proto.DOUBLE
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, dtype, ["N", width]))
        return name

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Add a constant; return its name."""
        array = np.asarray(values, dtype=dtype)
        if array.dtype.kind in "UO":
            array = array.astype(object)
        name = self.name("c")
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its result."""
        result = self.name(operator.lower())
        self.put(operator, inputs, [result], domain=domain, **attributes)
        return result

    def put(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """Add a node whose results have names; its own is that of the first.

        Without names ONNX Runtime 1.20 calls what it fuses alike, and refuses the graph.
        """
        self.nodes.append(
            self.onnx.helper.make_node(
                *(operator, list(inputs), list(outputs), outputs[0]), domain=domain, **attributes
            )
        )

    def cast(self, value: str, dtype: str) -> str:
        """Return a value as "float", "double" or "int64"."""
        kinds = self.onnx.TensorProto
        to = {"float": kinds.FLOAT, "double": kinds.DOUBLE, "int64": kinds.INT64}[dtype]
        return self.add("Cast", value, to=to)

    def lookup(self, value: str, places: Mapping[str, int], other: int) -> str:
        """Return a number for every text, `(N, 1)` int64; `other` for those not in `places`."""
        return self.add(
            "LabelEncoder",
            value,
            domain=ML,
            keys_strings=list(places),
            values_int64s=list(places.values()),
            default_int64=other,
        )


def add_layers(graph: Graph, rows: str, layers: LayeredEstimator) -> str:
    """Add matrices and what lies between them, `(N, features)` to `(N, K)`, float64."""
    kinds = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}
    for place, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
        product = graph.add("MatMul", rows, graph.constant(weight, np.float64))
        rows = graph.add("Add", product, graph.constant(np.asarray(bias)[None], np.float64))
        if place + 1 < len(layers.weights) and layers.activation in kinds:
            rows = graph.add(kinds[layers.activation], rows)
    return rows


def add_net(graph: Graph, net: Any, rows: str) -> str:
    """Add a graph of one input and one output; return that output."""
    names = {net.graph.input[0].name: rows}

    def named(name: str) -> str:
        if name and name not in names:
            names[name] = graph.name("net")
        return names.get(name, "")

    for weight in net.graph.initializer:
        weight.name = named(weight.name)
        graph.constants.append(weight)
    for node in net.graph.node:
        node.input[:] = [named(name) for name in node.input]
        node.output[:] = [named(name) for name in node.output]
        node.name, node.doc_string = node.output[0], ""
        del node.metadata_props[:]
        graph.nodes.append(node)
    return names[net.graph.output[0].name]


def add_forest(graph: Graph, forest: Forest, features: Sequence[str]) -> str:
    """Add trees; return the sums `(N, K)`, float64.

    A split of categories becomes a split of a number: whether the category is among those that go
    left, which is looked up for all splits at once.

    Args:
        graph: Where to.
        forest: The trees.
        features: For every column of the forest its number `(N, 1)` float64, or of a column of
            categories its codes `(N, 1)` int64, whose last one is unknown or missing.
    """
    threshold = forest.threshold.copy()
    by_set = forest.subset >= 0
    parts = list(features)
    width = 0
    numbers: list[str] = []
    places = np.zeros(len(forest.columns), dtype=np.int64)
    for place, (column, value) in enumerate(zip(forest.columns, parts, strict=True)):
        if column.categories is None:
            places[place] = width
            numbers.append(value)
            width += 1
    own = forest.feature.copy()
    feature = np.where(by_set, 0, places[own])
    for place, column in enumerate(forest.columns):
        mine = by_set & (own == place)
        if column.categories is None or not mine.any():
            continue
        sets, which = np.unique(forest.subset[mine], return_inverse=True)
        table = forest.members[sets][:, : len(column.categories)].T.astype(np.float64)
        table = np.vstack([table, np.full((1, len(sets)), np.nan)])
        flat = graph.add("Reshape", parts[place], graph.constant([-1], np.int64))
        numbers.append(graph.add("Gather", graph.constant(table), flat, axis=0))
        feature[mine] = width + which
        threshold[mine] = 0.5
        width += len(sets)
    rows = graph.add("Concat", *numbers, axis=1) if len(numbers) > 1 else numbers[0]
    return graph.cast(_trees(graph, forest, rows, feature, threshold, by_set), "double")


def _trees(
    graph: Graph, forest: Forest, rows: str, feature: Any, threshold: Any, by_set: Any
) -> str:
    """Add the operator of trees."""
    ends = np.append(forest.roots[1:], len(forest.feature))
    tree = np.repeat(np.arange(len(forest.roots)), ends - forest.roots)
    start = forest.roots[tree]
    own = np.arange(len(tree))
    leaf = forest.left == own
    # One that goes left where a mark is 1 asks whether it is at least a half.
    modes = np.where(leaf, "LEAF", np.where(by_set, "BRANCH_GTE", "BRANCH_LEQ"))
    helper = graph.onnx.numpy_helper
    return graph.add(
        "TreeEnsembleRegressor",
        rows,
        domain=ML,
        n_targets=len(forest.start),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values_as_tensor=helper.from_array(forest.start.astype(np.float64), "base"),
        nodes_treeids=tree.tolist(),
        nodes_nodeids=(own - start).tolist(),
        nodes_featureids=np.where(leaf, 0, feature).tolist(),
        nodes_modes=modes.tolist(),
        nodes_values_as_tensor=helper.from_array(np.where(leaf, 0.0, threshold), "splits"),
        nodes_truenodeids=np.where(leaf, 0, forest.left - start).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, forest.right - start).tolist(),
        nodes_missing_value_tracks_true=np.where(leaf, 0, forest.missing_left).astype(int).tolist(),
        target_treeids=tree[leaf].tolist(),
        target_nodeids=(own - start)[leaf].tolist(),
        target_ids=forest.output[tree][leaf].tolist(),
        target_weights_as_tensor=helper.from_array(forest.value[leaf], "weights"),
    )

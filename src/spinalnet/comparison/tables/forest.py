"""Boosted trees as plain arrays: read out of scikit-learn's, kept in a file, and asked again.

scikit-learn keeps its models as pickles, which run code when they are read and belong to one
version of it. What a boosted tree computes is a few numbers per node; with these a folder gives
the same answers without scikit-learn's classes. They stand in attributes that scikit-learn does
not promise to keep, so whoever makes a `Forest` compares its answers with those of the estimator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from spinalnet._checks import InputError
from spinalnet.data.columns import is_frame

_AT_ONCE = 1 << 21  # pairs of row and tree in memory at a time
_LINKS = {"squared_error": "identity", "absolute_error": "identity", "quantile": "identity"}
_LINKS |= {"gamma": "exp", "poisson": "exp", "log_loss": "softmax"}


@dataclass(frozen=True)
class Column:
    """What a forest asks of one column.

    Attributes:
        name: Its name; of an array "".
        place: Its place among the columns of the table.
        categories: Its values, whose numbers the trees know; None for a column of numbers.
    """

    name: str
    place: int
    categories: tuple[Any, ...] | None = None

    def numbers(self, X: Any) -> np.ndarray:
        """Return the column of `X` as the trees know it: float64, NaN for missing or unknown."""
        if not is_frame(X):
            return np.asarray(X)[:, self.place].astype(np.float64)
        column = X[self.name]
        if self.categories is None:
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        codes = {value: float(code) for code, value in enumerate(self.categories)}
        gone = column.isna().to_numpy()
        found = [
            np.nan if missing else codes.get(value, np.nan)
            for value, missing in zip(column, gone, strict=True)
        ]
        return np.array(found, dtype=np.float64)


@dataclass(frozen=True)
class Forest:
    """Boosted trees of one output or of several classes.

    Nodes of all trees stand one after another; `left` and `right` are places among all of them.

    Attributes:
        columns: What the trees split by, in the order of their features.
        link: How a sum becomes an answer: "identity", "exp", or "softmax" (of one sum: logistic).
        start: What every sum begins with, `(K,)`.
        roots: First node of every tree, `(T,)`.
        output: Which sum a tree adds to, `(T,)`.
        feature: Column a node asks, `(M,)`.
        threshold: Numbers up to it go left, `(M,)`.
        missing_left: Whether a missing value goes left, `(M,)`.
        left: Next node, `(M,)`; of a leaf itself.
        right: Next node, `(M,)`; of a leaf itself.
        subset: Row of `members` whose categories go left, `(M,)`; -1 for a split of numbers.
        value: What a leaf adds, `(M,)`.
        members: Whether a category is in a subset, `(subsets, categories)`.
    """

    columns: tuple[Column, ...]
    link: str
    start: np.ndarray
    roots: np.ndarray
    output: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    subset: np.ndarray
    value: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, estimator: Any, names: Sequence[str]) -> Forest:
        """Read a fitted HistGradientBoosting model.

        Args:
            estimator: The classifier or regressor.
            names: Names of the table's columns; empty for an array.

        Raises:
            InputError: If this version of scikit-learn keeps its trees otherwise.
        """
        try:
            columns = _columns(estimator, names)
            trees = [(k, tree) for stage in estimator._predictors for k, tree in enumerate(stage)]
            link = _LINKS[estimator.loss]
            start = np.asarray(estimator._baseline_prediction, dtype=np.float64).reshape(-1)
            return cls(columns, link, start, **_nodes(trees))
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(
                "the trees of this version of scikit-learn cannot be read as numbers "
                f"({type(error).__name__}: {error})."
            ) from error

    def state(self) -> dict[str, Any]:
        """Return plain values and arrays."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        held["columns"] = [[one.name, one.place, one.categories] for one in self.columns]
        return held

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Forest:
        """Read what `state` gave."""
        columns = tuple(
            Column(name, place, None if values is None else tuple(values))
            for name, place, values in state["columns"]
        )
        return cls(**{**state, "columns": columns})

    def raw(self, X: Any) -> np.ndarray:
        """Return the sums over the trees, `(N, K)`."""
        values = np.column_stack([column.numbers(X) for column in self.columns])
        sums = np.repeat(self.start[None], len(values), axis=0)
        step = max(1, _AT_ONCE // max(len(self.roots), 1))
        for begin in range(0, len(values), step):
            leaves = self._leaves(values[begin : begin + step])
            for k in range(sums.shape[1]):
                sums[begin : begin + step, k] += leaves[:, self.output == k].sum(axis=1)
        return sums

    def _leaves(self, values: np.ndarray) -> np.ndarray:
        """Return what every tree says of every row, `(N, T)`."""
        rows = np.arange(len(values))[:, None]
        at = np.repeat(self.roots[None], len(values), axis=0)
        while True:
            asked = values[rows, self.feature[at]]
            gone = np.isnan(asked)
            codes = np.where(gone, 0, asked).astype(np.int64)
            subset = self.subset[at]
            if self.members.size:
                # The numbers of other columns are no categories: whatever they pick is not taken.
                inside = self.members[subset, codes.clip(0, self.members.shape[1] - 1)]
            else:
                inside = np.zeros_like(gone)
            goes_left = np.where(subset >= 0, inside, asked <= self.threshold[at])
            goes_left = np.where(gone, self.missing_left[at], goes_left)
            after = np.where(goes_left, self.left[at], self.right[at])
            if np.array_equal(after, at):
                return self.value[at]
            at = after

    def answers(self, X: Any) -> np.ndarray:
        """Return probabilities `(N, classes)`, or values `(N, 1)`."""
        sums = self.raw(X)
        if self.link == "identity":
            return sums
        if self.link == "exp":
            return np.exp(sums)
        if sums.shape[1] == 1:
            second = 1 / (1 + np.exp(-sums))
            return np.hstack([1 - second, second])
        powers = np.exp(sums - sums.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ForestEstimator:
    """A forest with the methods of the estimator it was read from.

    Attributes:
        forest: The trees.
        classes_: The classes, sorted; None of a regression.
        encoder: What makes the columns that the trees take; None where they take the table's.
    """

    forest: Forest
    classes_: np.ndarray | None = None
    encoder: Any = None

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, `(N, classes)`."""
        return self.forest.answers(X if self.encoder is None else self.encoder.shared(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return classes `(N,)`, or values `(N,)`."""
        answers = self.predict_proba(X)
        return answers[:, 0] if self.classes_ is None else self.classes_[answers.argmax(axis=1)]


def _columns(estimator: Any, names: Sequence[str]) -> tuple[Column, ...]:
    """Return the columns in the order of the trees' features: categories come first."""
    count = estimator.n_features_in_
    all_names = list(names) or [""] * count
    flags = getattr(estimator, "is_categorical_", None)
    if estimator._preprocessor is None:
        if flags is not None and np.any(flags):
            raise ValueError("categories without a table of them")
        return tuple(Column(all_names[place], place) for place in range(count))
    _, encoder, chosen = estimator._preprocessor.transformers_[0]
    places = np.arange(count)
    chosen = np.asarray(chosen)
    first = places[chosen] if chosen.dtype == bool else chosen
    found = [
        Column(all_names[place], int(place), tuple(_without_missing(values)))
        for place, values in zip(first, encoder.categories_, strict=True)
    ]
    rest = [place for place in places if place not in set(first.tolist())]
    return (*found, *(Column(all_names[place], int(place)) for place in rest))


def _without_missing(values: Any) -> list[Any]:
    plain = np.asarray(values, dtype=object).tolist()
    return [value for value in plain if value is not None and value == value]


def _nodes(trees: list[tuple[int, Any]]) -> dict[str, np.ndarray]:
    """Put the nodes of all trees one after another."""
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("feature", "threshold", "missing_left", "left", "right", "value")
    }
    subsets, members, roots = [], [np.zeros((0, 256), dtype=bool)], []
    nodes_before = subsets_before = 0
    for _, tree in trees:
        nodes, bits = tree.nodes, np.asarray(tree.raw_left_cat_bitsets, dtype=np.uint32)
        own = np.arange(len(nodes))
        leaf, by_class = nodes["is_leaf"].astype(bool), nodes["is_categorical"].astype(bool)
        roots.append(nodes_before)
        parts["feature"].append(np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64))
        parts["threshold"].append(nodes["num_threshold"].astype(np.float64))
        parts["missing_left"].append(nodes["missing_go_to_left"].astype(bool))
        for side in ("left", "right"):
            after = np.where(leaf, own, nodes[side].astype(np.int64))
            parts[side].append(after + nodes_before)
        parts["value"].append(nodes["value"].astype(np.float64))
        place = nodes["bitset_idx"].astype(np.int64) + subsets_before
        subsets.append(np.where(by_class & ~leaf, place, -1))
        shifts = np.arange(32, dtype=np.uint32)
        members.append(((bits[:, :, None] >> shifts) & 1).astype(bool).reshape(len(bits), 256))
        nodes_before, subsets_before = nodes_before + len(nodes), subsets_before + len(bits)
    found = {name: np.concatenate(values) for name, values in parts.items()}
    found |= {"subset": np.concatenate(subsets), "members": np.concatenate(members)}
    output = np.array([k for k, _ in trees], dtype=np.int64)
    return found | {"roots": np.array(roots, dtype=np.int64), "output": output}

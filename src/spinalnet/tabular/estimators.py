"""Spinal nets for tables, as scikit-learn estimators, and dense ones trained by the same code.

`SpinalClassifier` and `SpinalRegressor` follow the scikit-learn interface in full; so do
`DenseClassifier` and `DenseRegressor`, whose one difference is the network, which makes a
comparison fair. Inputs are standardised inside, regression targets too. A data frame (pandas or
polars) may hold categories and missing values: they are encoded and imputed inside. In a bare array
a NaN is refused, since there it is a bug more often than a missing value.

By default numbers are embedded (`tabular.embedding`), several nets are trained on different parts
of the rows and averaged (`tabular.ensemble`), and the number of rows decides how long
(`tabular.options`); `benchmarks/table_defaults.py` says what was tried.

Training computes in the precision of `X` (float32 stays float32, all else is float64), prediction
in float64. On the CPU the same `random_state` gives the same bits.

The training loop is that of `fit`, with a step of its own (`tabular.learner`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_array

from spinalnet._checks import InputError
from spinalnet.tabular.base import NetEstimator
from spinalnet.tabular.ensemble import average
from spinalnet.tabular.options import ControlOptions, DenseOptions, SpinalOptions


@dataclass(eq=False, repr=False)
class _Classifier(ClassifierMixin, NetEstimator):
    _task = "classification"
    _: KW_ONLY
    class_weight: Any = None

    def _check_y(self, y: Any) -> np.ndarray:
        y = column_or_1d(y, warn=True)
        if np.asarray(y).dtype.kind == "f":  # a NaN is named as what it is, not as a class
            assert_all_finite(y, input_name="y", estimator_name=type(self).__name__)
        check_classification_targets(y)
        return np.asarray(y)

    def _prepare_targets(self, y: np.ndarray, weights: np.ndarray | None) -> None:
        self.classes_ = unique_labels(y)
        self._num_outputs = len(self.classes_)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes in the data, but the "
                f"data contains only one class: {self.classes_[0]!r}"
            )

    def _encode_targets(self, y: np.ndarray) -> np.ndarray:
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y has classes that were not in the first call: {unknown.tolist()}; pass all of "
                "them as `classes` there."
            )
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _class_weights(self, y: np.ndarray, every: np.ndarray) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        if not isinstance(self.class_weight, Mapping):
            return compute_sample_weight(self.class_weight, y)
        known = set(np.unique(every).tolist())
        unknown = [label for label in self.class_weight if label not in known]
        if unknown:
            raise InputError(
                f"class_weight must name classes of y, and {unknown!r} are none of "
                f"{sorted(known)!r}: leave them out, or mend their names."
            )
        present = set(np.unique(y).tolist())  # rows of weight 0 are gone
        given = {label: _class_weight(label, w) for label, w in self.class_weight.items()}
        weights = compute_sample_weight({c: w for c, w in given.items() if c in present}, y)
        if not weights.any():
            raise InputError("class_weight must leave some class of y a weight above 0.")
        return weights

    def partial_fit(
        self, X: Any, y: Any, classes: Sequence[Any] | None = None, sample_weight: Any = None
    ) -> Any:
        """Go through these rows once, continuing from where the last call ended.

        The first call decides the encoding of `X` (means, categories) and needs all classes.

        Args:
            X: As for `fit`.
            y: Classes `(N,)`.
            classes: All classes that will ever come; needed in the first call.
            sample_weight: Weight of each row `(N,)`.

        Returns:
            The estimator.
        """
        if self.class_weight is not None:
            raise ValueError(
                "class_weight is not used by partial_fit, which does not know the other rows: "
                "pass the weights as sample_weight."
            )
        if not hasattr(self, "module_"):
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
        elif classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, `(N, classes)`, in the order of `classes_`.

        The probabilities of the members are averaged.
        """
        return average(self._each(X), "classification").softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        return average(self._each(X), "classification").log_softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of every row, `(N,)`."""
        best = average(self._each(X), "classification").argmax(1).numpy()
        return self.classes_[best]


def _class_weight(label: Any, weight: Any) -> float:
    try:
        value = float(weight)
    except (TypeError, ValueError):
        value = -1.0
    if not 0.0 <= value < np.inf:
        raise InputError(
            f"class_weight must have a finite number >= 0 for every class, got {weight!r} for "
            f"{label!r}."
        )
    return value


class _Regressor(RegressorMixin, NetEstimator):
    _task = "regression"

    def _check_y(self, y: Any) -> np.ndarray:
        numeric: Any = np.float64  # scikit-learn's stubs know dtypes by name only
        y = check_array(y, ensure_2d=False, dtype=numeric, input_name="y", estimator=self)
        if y.ndim > 2:
            raise ValueError(f"y must be (N,) or (N, outputs), got shape {y.shape}.")
        return y

    def _prepare_targets(self, y: np.ndarray, weights: np.ndarray | None) -> None:
        columns = y.reshape(len(y), -1)
        self._y_ndim = y.ndim
        self.n_outputs_ = self._num_outputs = columns.shape[1]
        self.target_scaler_: Any = StandardScaler().fit(columns, sample_weight=weights)
        # By the values, as a mean of equal values need not be that value to the last bit.
        constant = np.ptp(columns, axis=0) == 0
        self.target_scaler_.mean_[constant] = columns[0, constant]
        self.target_scaler_.scale_[constant] = 1.0
        self.constant_outputs_ = constant
        if len(y) > 1 and constant.any():
            warnings.warn(
                "y is constant (in at least one output): the model can only repeat that value.",
                UserWarning,
                stacklevel=4,
            )

    def _encode_targets(self, y: np.ndarray) -> np.ndarray:
        columns = y.reshape(len(y), -1)
        if columns.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {columns.shape[1]} outputs, expected {self.n_outputs_}.")
        # In a later call of partial_fit a value that was constant may change.
        self.constant_outputs_ &= (columns == self.target_scaler_.mean_).all(axis=0)
        return np.asarray(self.target_scaler_.transform(columns))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Go through these rows once, continuing from where the last call ended.

        The first call decides the encoding of `X` and the scale of `y`: make it a fair sample.

        Args:
            X: As for `fit`.
            y: Values `(N,)` or `(N, outputs)`.
            sample_weight: Weight of each row `(N,)`.

        Returns:
            The estimator.
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(
        self, X: Any, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return the predicted values, shaped like the `y` of `fit`: the mean of the members.

        Args:
            X: As for `fit`.
            return_std: Whether to return the standard deviation of the members' values too, of the
                same shape and unit. It says how far nets of other seeds and other rows held out
                agree, not how far the values lie from the truth; 0 for a single net.
        """
        each = self._each(X).numpy()
        values = np.asarray(self.target_scaler_.inverse_transform(each.mean(0)))
        values[:, self.constant_outputs_] = self.target_scaler_.mean_[self.constant_outputs_]
        spread = each.std(0) * self.target_scaler_.scale_
        spread[:, self.constant_outputs_] = 0.0
        if self._y_ndim == 1:
            values, spread = values[:, 0], spread[:, 0]
        return (values, spread) if return_std else values


@dataclass(eq=False, repr=False)
class SpinalClassifier(SpinalOptions, _Classifier):
    """A spinal net that classifies the rows of a table.

    Args:
        hidden_features: Width of every layer in the chain.
        num_layers: Length of the chain.
        num_splits: Number of slices of the (encoded) inputs that the layers cycle through; at most
            as many as there are inputs.
        share_weights: All layers but the first share one matrix.
        activation: Name from `nn.ACTIVATIONS` or a module factory.
        norm: "batch", "layer" or None.
        dropout: Probability of dropping an input of a layer, the output row's included.
        ensemble_size: Number of nets, each with weights, order of rows and rows held out of its
            own; their predictions are averaged.
        embedding: What numbers are turned into: parts joined by "+" of "clip", "quantile",
            "piecewise", "periodic" and "linear" (see `tabular.embedding`); None for standardised
            numbers.
        num_bins: Largest number of bins of "piecewise".
        epochs: Passes over the data, at most; None: by the number of rows.
        batch_size: Rows per step; None: by the number of rows.
        optimizer: "adamw", "adam" or "sgd".
        lr: Base learning rate.
        weight_decay: Weight decay; decoupled with adamw, L2 otherwise.
        schedule: "cosine", "constant", "one-cycle" or "step", see `training.config.SCHEDULES`.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        early_stopping: Hold out rows, stop when they are predicted no better, and keep the best
            weights. "auto": where there are rows enough.
        validation_fraction: Share of the rows held out, of all classes alike.
        n_iter_no_change: Epochs without a new best that end the training; None: by the number of
            rows.
        class_weight: Mapping of class to weight, or "balanced".
        random_state: Seed or generator of every random draw.
        device: cpu, cuda, mps or auto. For small tables the CPU is the fastest.

    Attributes:
        module_: What was trained, a `torch.nn.Module` on standardised inputs (`prepare`): the
            embedding, the nets, and their average. Of one net without an embedding, that net.
        members_: Of every net a dict: `random_state` (a single net with it is this very one),
            `seed`, `n_iter`, `best_epoch`, `loss_curve`, `validation_scores`.
        classes_: The classes, sorted.
        n_features_in_: Number of columns of `X`.
        feature_names_in_: Their names, if `X` had names.
        n_iter_: Epochs that the first net was trained; `best_epoch_` the one whose weights it has.
        loss_curve_: Its training loss of every epoch; `loss_` the last.
        validation_scores_: Its accuracy on the rows held out, if there were any.

    Raises:
        ValueError: At `fit`, if data or parameters cannot serve; scikit-learn's own messages where
            it has them.
        TrainingError: If the loss is no longer finite.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> SpinalClassifier(epochs=50, random_state=0).fit(X, y).score(X, y) > 0.9
        True
    """


@dataclass(eq=False, repr=False)
class SpinalRegressor(SpinalOptions, _Regressor):
    """A spinal net that predicts one or several numbers for the rows of a table.

    Arguments and attributes are those of `SpinalClassifier`, without `class_weight` and `classes_`.
    Targets are standardised for training, and so are `loss_curve_` and `validation_scores_` (there
    minus the mean squared error). `n_outputs_` is the number of values predicted per row.
    """


@dataclass(eq=False, repr=False)
class DenseClassifier(DenseOptions, _Classifier):
    """Fully connected layers in all else like `SpinalClassifier`: the fair comparison.

    Arguments and attributes are those of `SpinalClassifier`, except that `hidden_features` is the
    width of the hidden layer, or a sequence with the widths of several.
    """


@dataclass(eq=False, repr=False)
class DenseRegressor(DenseOptions, _Regressor):
    """Fully connected layers in all else like `SpinalRegressor`: the fair comparison.

    Arguments and attributes are those of `SpinalRegressor`, except that `hidden_features` is the
    width of the hidden layer, or a sequence with the widths of several.
    """


@dataclass(eq=False, repr=False)
class ControlClassifier(ControlOptions, _Classifier):
    """A net to compare `SpinalClassifier` with, made after it: what the chain does, or its size.

    Arguments and attributes are those of `SpinalClassifier`, and describe the spinal net; `control`
    says what is made of it: "unchained", the same slices, widths and output row without the chain;
    "unchained-matched", the same as wide as gives it the spinal net's number of parameters; or
    "matched", one fully connected hidden layer with that number. `share_weights` matters for that
    number only.
    """


@dataclass(eq=False, repr=False)
class ControlRegressor(ControlOptions, _Regressor):
    """A net to compare `SpinalRegressor` with, made after it: see `ControlClassifier`."""

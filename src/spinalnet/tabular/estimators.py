"""Spinal nets for tables, as scikit-learn estimators, and dense ones trained by the same code.

`SpinalClassifier` and `SpinalRegressor` follow the scikit-learn interface in full; so do
`DenseClassifier` and `DenseRegressor`, whose one difference is the network, which makes a
comparison fair. Inputs are standardised inside, regression targets too. A data frame (pandas or
polars) may hold categories and missing values: they are encoded and imputed inside, by
scikit-learn's own tools. In a bare array a NaN is refused, since there it is a bug more often than
a missing value.

Training computes in the precision of `X` (float32 stays float32, all else is float64), prediction
in float64. On the CPU the same `random_state` gives the same bits.

The training loop is that of `fit`, with a step of its own (`tabular.learner`).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import assert_all_finite, check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor

from spinalnet.data.columns import is_frame
from spinalnet.randomness import own_generators
from spinalnet.tabular.encoder import Encoder
from spinalnet.tabular.learner import Rows, RowsLearner
from spinalnet.tabular.options import (
    ControlOptions,
    DenseOptions,
    NetOptions,
    SpinalOptions,
    TrainingOptions,
)
from spinalnet.training.loop import Loop
from spinalnet.training.placement import resolve_device

if TYPE_CHECKING:
    from spinalnet.training import TrainConfig
    from spinalnet.training.placement import Task


class _NetEstimator(NetOptions, TrainingOptions, BaseEstimator):
    """What all four estimators share: validation, encoding, training, and prediction."""

    _task: Task
    _num_outputs: int  # set by `_prepare_targets`
    n_features_in_: int  # set by scikit-learn's validation

    def _check_y(self, y: Any) -> np.ndarray:
        raise NotImplementedError

    def _prepare_targets(self, y: np.ndarray, weights: np.ndarray | None) -> None:
        raise NotImplementedError

    def _encode_targets(self, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _class_weights(self, y: np.ndarray) -> np.ndarray | None:
        return None

    # -- data in --

    def _check_X(self, X: Any, *, reset: bool) -> Any:
        """Return a frame as it is, anything else as a numeric array without NaN."""
        if not is_frame(X):
            encoder = None if reset else getattr(self, "encoder_", None)
            nan_allowed = encoder is not None and encoder.by_name
            finite = "allow-nan" if nan_allowed else True
            if encoder is not None and encoder.needs_frame:
                validate_data(self, X, reset=False, skip_check_array=True)
                return X  # refused by the encoder, which names the columns
            return validate_data(
                self, X, reset=reset, dtype=[np.float64, np.float32], ensure_all_finite=finite
            )
        if len(X) == 0 or len(X.columns) == 0:
            what = "sample" if len(X) == 0 else "feature"
            raise ValueError(
                f"Found array with 0 {what}(s) (shape={tuple(X.shape)}) while a minimum of 1 is "
                "required."
            )
        validate_data(self, X, reset=reset, skip_check_array=True)
        return X

    def _checked(
        self, X: Any, y: Any, sample_weight: Any, *, reset: bool
    ) -> tuple[Any, np.ndarray, np.ndarray | None]:
        """Validate; drop rows of weight zero, which must not count anywhere."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        X = self._check_X(X, reset=reset)
        y = self._check_y(y)
        check_consistent_length(X, y)
        if sample_weight is None:
            return X, y, None
        like = np.empty((len(y), 1))
        weights = _check_sample_weight(sample_weight, like, dtype=np.float64)
        if (weights < 0).any():
            raise ValueError("Negative values in data passed to `sample_weight`.")
        if not weights.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        kept = np.flatnonzero(weights)
        if len(kept) < len(weights):
            X = X.iloc[kept] if hasattr(X, "iloc") else X[kept]
            y, weights = y[kept], weights[kept]
        return X, y, weights

    def _rows(self, X: Any, y: np.ndarray, weights: np.ndarray | None) -> Rows:
        """Return inputs, targets and weights of mean 1, where and as training wants them."""
        dtype = torch.float32 if getattr(X, "dtype", None) == np.float32 else torch.float64
        if hasattr(self, "module_"):  # in later calls of partial_fit
            dtype = next(self.module_.parameters()).dtype
        device = resolve_device(self.device)
        x = torch.from_numpy(np.ascontiguousarray(self.encoder_.transform(X))).to(device, dtype)
        targets = torch.from_numpy(self._encode_targets(y))
        targets = targets.to(device, dtype if targets.is_floating_point() else None)
        if weights is None:
            return x, targets, None
        return x, targets, torch.from_numpy(weights / weights.mean()).to(device, dtype)

    # -- training --

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train from scratch.

        Args:
            X: Array `(N, features)`, or a data frame, whose categories and missing values are
                encoded.
            y: Classes or labels `(N,)`; values `(N,)` or `(N, outputs)` for a regressor.
            sample_weight: Weight of each row `(N,)`; multiplied with the class weights. A row of
                weight 2 counts as if it were there twice, one of weight 0 as if it were not.

        Returns:
            The estimator.
        """
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = self.train_config(seed)
        X, y, weights = self._checked(X, y, sample_weight, reset=True)
        by_class = self._class_weights(y)
        if by_class is not None:
            weights = by_class if weights is None else weights * by_class
        for name in ("module_", "_optimizer_state", "validation_scores_"):
            self.__dict__.pop(name, None)
        self._prepare_targets(y, weights)
        self.encoder_ = Encoder(X, weights)
        rows, held_out = self._rows(X, y, weights), None
        if self.early_stopping:
            rows, held_out = self._split(rows, seed)
        self._start(seed, rows[0])
        return self._train(config, seed, rows, held_out)

    def _start(self, seed: int, x: Tensor) -> None:
        with own_generators():
            torch.manual_seed(seed)
            net = self.make_net(x.shape[1], self._num_outputs, x.dtype)
        self.module_ = net.to(x.device)
        self.n_iter_, self.best_epoch_ = 0, 0
        self.loss_curve_: list[float] = []

    def _train(
        self, config: TrainConfig, seed: int, rows: Rows, held_out: Rows | None = None
    ) -> Any:
        """Go on to the last epoch of `config` and keep the best; `seed` is that of dropout."""
        learner = RowsLearner(self.module_, config, self._task, rows, held_out)
        if (state := getattr(self, "_optimizer_state", None)) is not None:
            learner.optimizer.load_state_dict(state)
        loop = Loop(learner, config)
        loop.epoch = self.n_iter_
        with own_generators():
            torch.manual_seed(seed)
            while not loop.stopped:
                loop.run_epoch()
        self.n_iter_, self.best_epoch_ = loop.epoch, loop.best_epoch or loop.epoch
        self.loss_curve_ += [row["train_loss"] for row in loop.history]
        self.loss_ = self.loss_curve_[-1]
        if held_out is not None:
            learner.load_weights(loop.best_weights)
            by_class = self._task == "classification"
            self.validation_scores_ = [
                row["val_accuracy"] if by_class else -row["val_loss"] for row in loop.history
            ]
        self._optimizer_state = learner.release()
        return self

    def _split(self, rows: Rows, seed: int) -> tuple[Rows, Rows]:
        """Hold out rows for early stopping, of all classes alike."""
        x, targets, weights = rows
        labels = targets.cpu().numpy() if self._task == "classification" else None
        try:
            parts = train_test_split(
                np.arange(len(x)),
                test_size=self.validation_fraction,
                random_state=seed,
                stratify=labels,
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping cannot hold out {self.validation_fraction:g} of n_samples="
                f"{len(x)}: {error} Give more rows or set early_stopping=False."
            ) from error
        train, val = (
            (x[part], targets[part], None if weights is None else weights[part]) for part in parts
        )
        return train, val

    def _partial_fit(
        self, X: Any, y: Any, sample_weight: Any, classes: Sequence[Any] | None = None
    ) -> Any:
        first = not hasattr(self, "module_")
        X, y, weights = self._checked(X, y, sample_weight, reset=first)
        if first:
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self._prepare_targets(y if classes is None else np.asarray(classes), weights)
            self.encoder_ = Encoder(X, weights)
        rows = self._rows(X, y, weights)
        seed = getattr(self, "_seed", 0)
        done = 0 if first else self.n_iter_
        config = self.train_config(seed, schedule="constant", early_stopping=0, epochs=done + 1)
        if first:
            self._start(seed, rows[0])
        return self._train(config, seed + done, rows)

    # -- use --

    def prepare(self, X: Any) -> Tensor:
        """Return the encoded, standardised inputs of the network, `(N, features)`, float64."""
        check_is_fitted(self)
        X = self._check_X(X, reset=False)
        return torch.from_numpy(np.ascontiguousarray(self.encoder_.transform(X), dtype=np.float64))

    def prepared_names(self) -> list[str]:
        """Return names for the columns of `prepare`."""
        check_is_fitted(self)
        columns = getattr(self, "feature_names_in_", None)
        names = [f"x{i + 1}" for i in range(self.n_features_in_)]
        return self.encoder_.names(names if columns is None else [str(name) for name in columns])

    @torch.no_grad()
    def _outputs(self, X: Any) -> np.ndarray:
        x = self.prepare(X)
        # In double precision a row's result does not depend on the rows beside it.
        net = copy.deepcopy(self.module_).cpu().double().eval()
        return torch.cat([net(part) for part in x.split(65536)]).numpy()


@dataclass(eq=False, repr=False)
class _Classifier(ClassifierMixin, _NetEstimator):
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

    def _class_weights(self, y: np.ndarray) -> np.ndarray | None:
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, Mapping):
            present = {c: w for c, w in self.class_weight.items() if c in set(y.tolist())}
            return compute_sample_weight(present, y)
        return compute_sample_weight(self.class_weight, y)

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
        """Return the probability of every class, `(N, classes)`, in the order of `classes_`."""
        return torch.from_numpy(self._outputs(X)).softmax(1).numpy()

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        return torch.from_numpy(self._outputs(X)).log_softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of every row, `(N,)`."""
        best = self._outputs(X).argmax(1)
        return self.classes_[best]


class _Regressor(RegressorMixin, _NetEstimator):
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
        self.target_scaler_ = StandardScaler().fit(columns, sample_weight=weights)
        if len(y) > 1 and not np.all(self.target_scaler_.var_):
            warnings.warn(
                "y is constant (in at least one output): the model can only repeat that value.",
                UserWarning,
                stacklevel=4,
            )

    def _encode_targets(self, y: np.ndarray) -> np.ndarray:
        columns = y.reshape(len(y), -1)
        if columns.shape[1] != self.n_outputs_:
            raise ValueError(f"y has {columns.shape[1]} outputs, expected {self.n_outputs_}.")
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

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted values, shaped like the `y` of `fit`."""
        values = self._outputs(X)
        values = self.target_scaler_.inverse_transform(values)
        return values[:, 0] if self._y_ndim == 1 else values


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
        epochs: Passes over the data.
        batch_size: Rows per step.
        optimizer: "adamw", "adam" or "sgd".
        lr: Base learning rate.
        weight_decay: Weight decay; decoupled with adamw, L2 otherwise.
        schedule: "cosine", "constant", "one-cycle" or "step", see `training.config.SCHEDULES`.
        clip_norm: Largest norm of the gradient; 0 for no limit.
        early_stopping: Hold out rows, stop when they are predicted no better, and keep the best
            weights.
        validation_fraction: Share of the rows held out, of all classes alike.
        n_iter_no_change: Epochs without a new best that end the training.
        class_weight: Mapping of class to weight, or "balanced".
        random_state: Seed or generator of every random draw.
        device: cpu, cuda, mps or auto. For small tables the CPU is the fastest.

    Attributes:
        module_: The trained network, a `torch.nn.Module` on standardised inputs (`prepare`).
        classes_: The classes, sorted.
        n_features_in_: Number of columns of `X`.
        feature_names_in_: Their names, if `X` had names.
        n_iter_: Epochs run; `best_epoch_` the one whose weights were kept.
        loss_curve_: Training loss of every epoch; `loss_` the last.
        validation_scores_: Accuracy on the held-out rows, with early_stopping.

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

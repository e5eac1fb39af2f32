"""Linear models and scikit-learn's MLP as matrices, on the numbers that nets get too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spinalnet._checks import InputError

_ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
    "logistic": lambda x: 1 / (1 + np.exp(-x)),
}


@dataclass(frozen=True)
class LayeredEstimator:
    """Matrices with the methods of the estimator they were read from.

    Attributes:
        encoder: What makes numbers of the columns.
        weights: One matrix per layer, `(in, out)`.
        biases: One vector per layer, `(out,)`.
        activation: Between layers: "identity", "relu", "tanh" or "logistic".
        center: Of a regression what is added to its values, `(outputs,)`; else None.
        scale: Of a regression what its values are multiplied with, `(outputs,)`; else None.
        classes_: The classes, sorted; None of a regression.
        flat: Whether a regression answers `(N,)`, not `(N, outputs)`.
    """

    encoder: Any
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: str
    center: np.ndarray | None = None
    scale: np.ndarray | None = None
    classes_: np.ndarray | None = None
    flat: bool = True

    @classmethod
    def of(
        cls,
        encoder: Any,
        model: Any,
        *,
        classes: np.ndarray | None = None,
        center: Any = None,
        scale: Any = None,
    ) -> LayeredEstimator:
        """Read a fitted linear model or MLP of scikit-learn's.

        Args:
            encoder: What makes its numbers of the columns.
            model: The fitted model.
            classes: The classes, sorted; None for a regression.
            center: Of a regression: mean of its targets, whose distances from it are predicted.
            scale: Of a regression: in this unit.

        Raises:
            InputError: If it is another kind of model.
        """
        if hasattr(model, "coefs_"):
            weights, biases = tuple(model.coefs_), tuple(model.intercepts_)
            activation = model.activation
        elif hasattr(model, "coef_") and hasattr(model, "intercept_"):
            weights = (np.atleast_2d(np.asarray(model.coef_)).T,)
            biases = (np.broadcast_to(model.intercept_, weights[0].shape[1]).copy(),)
            activation = "identity"
        else:
            raise InputError(f"a {type(model).__name__} is not made of matrices alone.")
        if activation not in _ACTIVATIONS:
            raise InputError(f"the activation '{activation}' is unknown here.")
        flat = classes is None and np.ndim(center) == 0

        def vector(one: Any) -> np.ndarray | None:
            return None if one is None else np.atleast_1d(np.asarray(one))

        return cls(
            *(encoder, weights, biases, activation, vector(center), vector(scale)), classes, flat
        )

    def raw(self, X: Any) -> np.ndarray:
        """Return what the last layer says, `(N, K)`."""
        values = np.asarray(self.encoder.transform(X), dtype=np.float64)
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = values @ weight + bias
            if place + 1 < len(self.weights):
                values = _ACTIVATIONS[self.activation](values)
        return values

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of `predict_proba`."""
        sums = self.raw(X)
        if sums.shape[1] == 1:
            sums = np.hstack([np.zeros_like(sums), sums])
        return sums - np.logaddexp.reduce(sums, axis=1, keepdims=True)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, `(N, classes)`."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return classes `(N,)`, or values shaped like the targets of the fit."""
        if self.classes_ is not None:
            return self.classes_[self.predict_log_proba(X).argmax(axis=1)]
        assert self.center is not None
        assert self.scale is not None
        values = self.raw(X) * self.scale + self.center
        return values[:, 0] if self.flat else values


@dataclass(frozen=True)
class Several:
    """One regressor for each of several values.

    Attributes:
        parts: They, in the order of the values.
    """

    parts: tuple[Any, ...]

    def predict(self, X: Any) -> np.ndarray:
        """Return the values, `(N, parts)`."""
        return np.column_stack([part.predict(X) for part in self.parts])

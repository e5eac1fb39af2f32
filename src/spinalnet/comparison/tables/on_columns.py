"""A model of another library on the same columns as the nets, in the form such models take."""

from __future__ import annotations

from typing import Any

import numpy as np


class OnColumns:
    """Trees and the like on what the nets know of a frame: see `Encoder.shared`.

    Dates and text are the numbers that nets get, rare levels are one, a column that was empty in
    the training rows is left out; categories stay categories and gaps stay gaps.

    Args:
        estimator: A classifier or regressor that takes frames with categories and gaps.

    Attributes:
        encoder_: What was learned of the columns.
        estimator_: The fitted estimator, on `encoder_.shared(X)`.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any) -> OnColumns:
        """Learn the columns, then fit.

        Raises:
            InputError: If a column is of no use, or none holds a value.
        """
        from sklearn.base import clone

        from spinalnet.tabular.encoder import Encoder

        self.encoder_ = Encoder(X, None)
        model: Any = clone(self.estimator)
        self.estimator_ = model.fit(self.encoder_.shared(X), y)
        if hasattr(self.estimator_, "classes_"):
            self.classes_ = self.estimator_.classes_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return classes or values."""
        return self.estimator_.predict(self.encoder_.shared(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, `(N, classes)`."""
        return self.estimator_.predict_proba(self.encoder_.shared(X))

    def score(self, X: Any, y: Any) -> float:
        """Return the accuracy, or R²."""
        return self.estimator_.score(self.encoder_.shared(X), y)

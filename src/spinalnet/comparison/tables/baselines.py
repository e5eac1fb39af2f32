"""Models of other libraries, as they come, on the same encoding of the columns as the nets."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning

from spinalnet._checks import InputError
from spinalnet.tabular.encoder import Encoder


def find_class(place: str, head: str) -> Any:
    """Return a class of a library, `"module:Class"`.

    Raises:
        InputError: If the library is not installed.
    """
    module, name = place.split(":")
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        library = error.name or module
        raise InputError(
            f"head '{head}' needs {library}, which is not installed: pip install {library}, or "
            "leave the head out."
        ) from error


def options_of(kind: Any) -> list[str]:
    """Return the names of what a class's constructor takes."""
    parameters = inspect.signature(kind).parameters.values()
    names = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):  # the rest is said by an instance alone
        names += [name for name in kind().get_params() if name not in names]
    return names


class Encoded(BaseEstimator):
    """An estimator on the numbers that the nets get, and a regression's targets standardised.

    Args:
        model: The estimator.
        classifies: Whether it is a classifier.

    Attributes:
        encoder_: What makes numbers of the columns.
        model_: The fitted estimator.
        classes_: Classes in the order of the model's class numbers.
        center_: What is subtracted from a regression's targets.
        scale_: What they are divided by then.
    """

    def __init__(self, model: Any, classifies: bool = True) -> None:
        self.model = model
        self.classifies = classifies

    def __sklearn_tags__(self) -> Any:
        """Be known as what the model is."""
        tags = super().__sklearn_tags__()
        tags.estimator_type = "classifier" if self.classifies else "regressor"
        return tags

    def fit(self, X: Any, y: Any) -> Encoded:
        """Fit the encoding, then the model."""
        self.encoder_ = Encoder(X, None)
        self.model_: Any = clone(self.model)
        y = np.asarray(y)
        if self.classifies:
            self.classes_, y = np.unique(y, return_inverse=True)
        else:
            spread = y.std(axis=0)
            self.center_, self.scale_ = y.mean(axis=0), np.where(spread > 0, spread, 1.0)
            y = (y - self.center_) / self.scale_
        with warnings.catch_warnings():
            # Ending after the iterations that are its default is how it comes.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model_.fit(self.encoder_.transform(X), y)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return classes, or values in the unit of `y`."""
        said = np.asarray(self.model_.predict(self.encoder_.transform(X)))
        if self.classifies:
            return self.classes_[said.reshape(len(said)).astype(int)]
        return said * self.scale_ + self.center_

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of every class, `(N, classes)`."""
        return np.asarray(self.model_.predict_proba(self.encoder_.transform(X)))

    def score(self, X: Any, y: Any) -> float:
        """Return the accuracy, or R^2."""
        from sklearn.metrics import accuracy_score, r2_score

        return float((accuracy_score if self.classifies else r2_score)(y, self.predict(X)))

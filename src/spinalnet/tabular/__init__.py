"""Spinal and dense nets for tables, as scikit-learn estimators."""

from typing import TYPE_CHECKING

from spinalnet._lazy import attach

if TYPE_CHECKING:
    from spinalnet.tabular.estimators import (
        ControlClassifier,
        ControlRegressor,
        DenseClassifier,
        DenseRegressor,
        SpinalClassifier,
        SpinalRegressor,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "estimators": "ControlClassifier ControlRegressor DenseClassifier DenseRegressor "
        "SpinalClassifier SpinalRegressor"
    },
)  # pyright: ignore[reportUnsupportedDunderAll]

"""Spinal and dense nets for tables, as scikit-learn estimators."""

from typing import TYPE_CHECKING

from spinalnet._lazy import attach

if TYPE_CHECKING:
    from spinalnet.tabular.estimators import (
        DenseClassifier,
        DenseRegressor,
        SpinalClassifier,
        SpinalRegressor,
        UnchainedClassifier,
        UnchainedRegressor,
    )

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "estimators": "DenseClassifier DenseRegressor SpinalClassifier SpinalRegressor "
        "UnchainedClassifier UnchainedRegressor"
    },
)  # pyright: ignore[reportUnsupportedDunderAll]

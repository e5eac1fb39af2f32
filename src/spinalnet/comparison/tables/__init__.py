"""The half of a comparison that is about tables: asking, rows, estimators, runs, fitted models."""

from typing import TYPE_CHECKING

from spinalnet._lazy import attach

if TYPE_CHECKING:
    from spinalnet.comparison.tables.running import run_table

__getattr__, __dir__, __all__ = attach(__name__, {"running": "run_table"})  # pyright: ignore[reportUnsupportedDunderAll]

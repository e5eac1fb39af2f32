"""`compare`: from data and heads to an answer, whatever the data is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from spinalnet.comparison.engine import Event
    from spinalnet.comparison.question import ComparisonSpec
    from spinalnet.comparison.result import Comparison
    from spinalnet.data import Table


def compare(
    data: str | Path | Table | ComparisonSpec,
    heads: str | Iterable[str] | None = None,
    seeds: int = 5,
    *,
    model: str = "mnist-cnn",
    target: str | None = None,
    out: str | Path | None = None,
    folds: int = 0,
    repeats: int = 1,
    metric: str | None = None,
    margin: float | None = None,
    until_decided: bool = False,
    max_seeds: int = 30,
    tune: int = 0,
    jobs: int | Literal["auto"] = "auto",
    threads: int = 1,
    engine: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    **options: Any,
) -> Comparison:
    """Answer "does a spinal head help on this data, and what does it cost?"."""
    raise NotImplementedError

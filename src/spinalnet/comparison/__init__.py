"""One run, many runs, what they say, and the report."""

from typing import TYPE_CHECKING

from spinalnet._lazy import attach

if TYPE_CHECKING:
    from spinalnet.comparison.answer import Summary
    from spinalnet.comparison.comparing import compare
    from spinalnet.comparison.loading import load
    from spinalnet.comparison.question import ComparisonSpec
    from spinalnet.comparison.report import write_report
    from spinalnet.comparison.result import Comparison
    from spinalnet.comparison.running import run_one
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.comparison.summary import load_summary, summarize
    from spinalnet.comparison.tables.model import TableModel
    from spinalnet.comparison.tables.spec import TableSpec
    from spinalnet.comparison.trained import TrainedModel, load_trained
    from spinalnet.comparison.watching import Watcher, WatchEvent

# When first used: a process that times heads needs none of these.
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "answer": "Summary",
        "comparing": "compare",
        "loading": "load",
        "question": "ComparisonSpec",
        "report": "write_report",
        "result": "Comparison",
        "running": "run_one",
        "spec": "RunSpec",
        "summary": "load_summary summarize",
        "tables.model": "TableModel",
        "tables.spec": "TableSpec",
        "trained": "TrainedModel load_trained",
        "watching": "WatchEvent Watcher",
    },
)  # pyright: ignore[reportUnsupportedDunderAll]

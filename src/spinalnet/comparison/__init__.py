"""One run, many runs, what they say, and the report."""

from spinalnet.comparison.report import (
    write_report,
)
from spinalnet.comparison.running import (
    TrainedModel,
    compare,
    load_trained,
    run_one,
)
from spinalnet.comparison.spec import (
    Comparison,
    RunSpec,
)
from spinalnet.comparison.summary import (
    Summary,
    load_summary,
    summarize,
)
from spinalnet.comparison.tables import (
    compare_table,
)

__all__ = [
    "Comparison",
    "RunSpec",
    "Summary",
    "TrainedModel",
    "compare",
    "compare_table",
    "load_summary",
    "load_trained",
    "run_one",
    "summarize",
    "write_report",
]

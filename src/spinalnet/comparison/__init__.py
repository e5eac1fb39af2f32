"""One run, many runs, what they say, and the report."""

from spinalnet.comparison.answer import Summary
from spinalnet.comparison.comparing import compare
from spinalnet.comparison.loading import load
from spinalnet.comparison.question import ComparisonSpec
from spinalnet.comparison.report import write_report
from spinalnet.comparison.result import Comparison
from spinalnet.comparison.running import run_one
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.summary import load_summary, summarize
from spinalnet.comparison.table_model import TableModel
from spinalnet.comparison.table_spec import TableSpec
from spinalnet.comparison.trained import TrainedModel, load_trained

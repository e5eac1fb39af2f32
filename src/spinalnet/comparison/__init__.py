"""One run, many runs, what they say, and the report."""

from spinalnet.comparison.report import write_report
from spinalnet.comparison.running import compare, run_one
from spinalnet.comparison.spec import Comparison, RunSpec
from spinalnet.comparison.summary import Summary, load_summary, summarize
from spinalnet.comparison.tables import compare_table
from spinalnet.comparison.trained import TrainedModel, load_trained

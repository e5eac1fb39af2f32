"""The page of a comparison: figures and one self-contained file."""

from spinalnet.comparison.report.page import draw_figures, write_report

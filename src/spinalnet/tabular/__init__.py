"""TODO face of tabular."""

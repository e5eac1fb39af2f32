"""TODO face of report."""

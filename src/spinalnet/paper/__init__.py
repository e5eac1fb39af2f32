"""TODO face of paper."""

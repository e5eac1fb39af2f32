"""TODO face of data."""

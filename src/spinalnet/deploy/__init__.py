"""TODO face of deploy."""

"""TODO face of theory."""

"""TODO face of comparison."""

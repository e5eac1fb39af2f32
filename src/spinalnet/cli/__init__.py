"""TODO face of cli."""

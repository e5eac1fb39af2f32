"""TODO face of nn."""

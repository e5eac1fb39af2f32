"""TODO face of models."""

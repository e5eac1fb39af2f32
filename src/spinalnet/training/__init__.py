"""TODO face of training."""

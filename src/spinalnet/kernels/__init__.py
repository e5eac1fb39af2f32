"""TODO face of kernels."""

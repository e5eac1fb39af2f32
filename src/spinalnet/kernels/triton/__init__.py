"""The spinal chain on an NVIDIA GPU: one Triton kernel forward, one for the hidden gradients.

Checked in Triton's interpreter (`TRITON_INTERPRET=1`) on the CPU and compiled for compute
capability 9.0 (`tests/test_gpu_compile.py`); not run on a card yet (`benchmarks/gpu.py` would check
and time it there). So `nn.backends.choose_backend` takes this path only when asked for it by name,
and its plans are what register counts and bytes suggest, not what was measured.
"""

from spinalnet.kernels.triton.launching import MAX_LAYERS, MAX_WIDTH, why_not
from spinalnet.kernels.triton.operators import spinal_triton

__all__ = ["MAX_LAYERS", "MAX_WIDTH", "spinal_triton", "why_not"]

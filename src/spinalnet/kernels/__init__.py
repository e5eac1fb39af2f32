"""The spinal chain as compiled operations, one module for the CPU and one for NVIDIA GPUs.

The wing below everything: it takes tensors and knows no spinal modules. `reference` is the truth
from torch operations; `native` loads the extension (`csrc/`), `plan` describes parameters to it,
`masks` draws dropout as bits, `chain` is forward and backward, `regularized` what dropout and batch
norm add, `backend` the way in, `untracked` the same past autograd, `operators` for
`torch.compile`, `warp` the image warp, `triton` the GPU path.
"""

"""The spinal chain as compiled operations, one module for the CPU and one for NVIDIA GPUs.

The wing below everything: it takes tensors and knows no modules. `native` loads the extension
(`csrc/`), `plan` describes parameters to it, `masks` draws dropout as bits, `chain` and
`regularized` are its autograd functions, `operators` the same for `torch.compile`, `warp` the image
warp, `triton` the GPU path.
"""

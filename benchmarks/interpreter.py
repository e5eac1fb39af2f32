"""Triton's interpreter, repaired where it does not compute what a card does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def repair_bfloat16() -> bool:
    """Let the interpreter multiply bfloat16 and round to it; say whether that was possible.

    As it is, it multiplies the bits as integers, and cuts them off unrounded.
    """
    import triton.language as tl
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    if not (hasattr(builder, "create_dot") and hasattr(builder, "cast_impl")):
        return False  # of another version
    plain, plain_cast = builder.create_dot, builder.cast_impl

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain(self, widened(a), widened(b), *rest)

    def cast_impl(self: Any, source: Any, kind: Any) -> Any:
        if source.dtype.scalar != tl.float32 or kind.scalar != tl.bfloat16:
            return plain_cast(self, source, kind)
        rounded = torch.from_numpy(source.data).bfloat16().view(torch.int16)
        return interpreter.TensorHandle(rounded.numpy().view(np.uint16), tl.bfloat16)

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    return True

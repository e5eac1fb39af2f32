"""Which calls the kernels serve, how a call is cut into programs, and their start."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
import triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Wider layers fill a matrix unit by themselves: nothing is left to gain over cuBLAS.
MAX_WIDTH = 128
# The layers are unrolled: 16 compile in 10 s of one core, 32 in a minute and more.
MAX_LAYERS = 16
MAX_NEURONS = 1024  # of all layers, padded
# 3.2 has no tuples as arguments, 3.3 cannot carry them through a loop.
TOO_OLD = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4)


def padded(width: int, least: int = 16) -> int:
    """Return the padded size of a matrix unit's operand."""
    return max(least, triton.next_power_of_2(width))


class Plan(NamedTuple):
    """How a call is cut into programs.

    Attributes:
        source: Where the slices' products come from: "slices", "layers" or "cublas" (`programs`).
        rows: Rows of a program.
        columns: Columns of x in a step of a program that reads them.
        warps: Warps of a program.
        stages: Steps whose loads are under way at a time.
        precision: How float32 is multiplied.
    """

    source: str
    rows: int
    columns: int
    warps: int
    stages: int = 3
    precision: str = "tf32x3"


FEW_ROWS = 8192  # below, blocks of 64 rows would leave multiprocessors without work


def plan_forward(rows: int, features: int, width: int, layers: int, kind: torch.dtype) -> Plan:
    """Return how the forward kernel cuts a call."""
    block, few = padded(width), rows < FEW_ROWS
    if block * layers <= 128:
        return Plan("slices", 16, 64, 4) if few else Plan("slices", 64, 32, 4)
    warps = 8 if block > 64 or kind == torch.float32 else 4
    source = "cublas" if features > 2 * width * layers else "layers"
    return Plan(source, 16 if few else 64, 32, warps)


def plan_backward(rows: int, features: int, width: int, layers: int, kind: torch.dtype) -> Plan:
    """Return how the backward kernel cuts a call."""
    block, few = padded(width), rows < FEW_ROWS
    if block >= 64 and kind == torch.float32:
        return Plan("", 16 if few else 32, 0, 8)  # 64 rows would not fit into the registers
    return Plan("", 16 if few else 64, 0, 8 if block > 64 else 4)


def launch_options(plan: Plan) -> dict[str, Any]:
    """Return what a plan says to a kernel and to Triton."""
    return {
        "BLOCK_ROWS": plan.rows,
        "PRECISION": plan.precision,
        "num_warps": plan.warps,
        "num_stages": plan.stages,
        "enable_fp_fusion": True,  # Triton is about to change the default
    }


def launch(
    kernel: Any, device: torch.device, plan: Plan, rows: int, *given: Any, **known: Any
) -> None:
    """Run `kernel` over `rows` rows on the device of its tensors."""
    launch = kernel[(triton.cdiv(rows, plan.rows),)]
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(*given, **known, **launch_options(plan))
    else:
        launch(*given, **known, **launch_options(plan))


def why_not(device: str, dtype: torch.dtype, width: int, layers: int = 1) -> str | None:
    """Return why this call cannot be served, or None."""
    if TOO_OLD:
        return f"Triton {triton.__version__} is too old for tuples of tensors; torch 2.8 brings 3.4"
    if device != "cuda" and not INTERPRETED:
        return f"the tensors are on {device}, not on a CUDA device"
    if dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not in {dtype}"
    if width > MAX_WIDTH:
        return f"layers wider than {MAX_WIDTH} are left to cuBLAS"
    if layers > MAX_LAYERS or layers * padded(width) > MAX_NEURONS:
        return f"{layers} layers of {width} take minutes to compile"
    return None

"""The Triton kernels compiled for a card, on a machine that has none.

Triton's wheel brings the assembler: a stand-in for the driver says which card is meant, and the
package's own calls compile instead of being launched. The interpreter (`test_triton.py`) shows what
the kernels compute, but takes things the compiler does not.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from spinalnet.nn import SpinalNet

triton = pytest.importorskip("triton")
from spinalnet.kernels.triton import launching, passes, spinal_triton  # noqa: E402

HOPPER = 90


def assembler() -> str | None:
    """Return why nothing can be compiled here, or None."""
    if launching.INTERPRETED:
        return "the interpreter is on (TRITON_INTERPRET)"
    if torch.cuda.is_available():
        return "there is a card: benchmarks/gpu.py compiles for it"
    if "nvidia" not in triton.backends.backends:
        return "this triton has no compiler for NVIDIA cards"
    if not list(Path(triton.__file__).parent.glob("backends/nvidia/bin/ptxas*")):
        return "this triton brings no ptxas"
    return launching.why_not("cuda", torch.float32, 1)


REASON = assembler()
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

Compiled = list[tuple[str, Any]]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiled:
    """Compile every kernel that is about to be launched; the list holds them."""
    from triton.backends.compiler import GPUTarget
    from triton.backends.driver import DriverBase

    names = {name: lambda *_: None for name in DriverBase.__abstractmethods__}
    names |= {
        "__init__": lambda _: None,
        "get_current_target": lambda _: GPUTarget("cuda", HOPPER, 32),
        "get_current_device": lambda _: 0,
        "get_current_stream": lambda *_: 0,
    }
    stand_in = type("StandIn", (DriverBase,), names)
    found: Compiled = []

    def compile_only(
        kernel: Any, _: object, plan: Any, rows: int, *given: Any, **known: Any
    ) -> None:
        options = launching.launch_options(plan)
        built = kernel.warmup(*given, **known, **options, grid=(1,))
        found.append((kernel.fn.__name__, built))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(passes, "launch", compile_only)
    driver = triton.runtime.driver
    monkeypatch.setattr(driver, "_active" if hasattr(driver, "_active") else "active", stand_in())
    return found


def stack_bytes(cubin: bytes, folder: Path) -> int:
    """Return the bytes per thread that did not fit into registers."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.check_output([tool, "--dump-resource-usage", file], text=True)
    return max(int(found) for found in re.findall(r"STACK:(\d+)", usage))


def check(found: Compiled, kernels: int, folder: Path, most_stack: int = 64) -> None:
    assert len(found) == kernels
    for name, kernel in found:
        # Exact float32 would have no matrix units, and take minutes.
        assert "wgmma.mma_async" in kernel.asm["ptx"] or "mma.sync" in kernel.asm["ptx"], name
        assert stack_bytes(kernel.asm["cubin"], folder) <= most_stack, name


def both_passes(net: SpinalNet, x: torch.Tensor, *, alone: bool = False) -> None:
    weights, biases = net.spine.chain()
    row = (net.output.weight, net.output.bias)
    y = spinal_triton(
        x,
        weights,
        biases,
        num_splits=net.spine.num_splits,
        negative_slope=0.01,
        output=None if alone else row,
    )
    y.sum().backward()
    for tensor in (x, *weights, *(biases or ()), *(() if alone else row)):
        if tensor is None:
            continue
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape
        assert tensor.grad.dtype == tensor.dtype


# rows, features, width, layers, splits, outputs (0: hidden layers alone), bias, shared, dtype
FAST = [
    (5, 9, 5, 4, 2, 3, True, False, torch.float32),
    (5, 9, 5, 4, 2, 0, False, False, torch.float16),
    (3, 3, 8, 5, 3, 2, False, True, torch.bfloat16),
]
SLOW = [
    (5, 9, 5, 4, 2, 3, True, False, torch.bfloat16),
    (3, 7, 4, 1, 1, 2, True, False, torch.float32),
    *(
        (rows, features, width, layers, 2, outputs, True, False, dtype)
        for features, width, layers, outputs in (
            (320, 8, 6, 10),
            (256, 128, 4, 10),
            (2048, 20, 4, 10),
            (1440, 50, 8, 10),
            (8, 50, 6, 1),
            (37, 17, 7, 0),
            (9, 1, 16, 100),
        )
        for rows in (64, 9000)
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
    ),
]


@pytest.mark.parametrize("case", [*FAST, *(pytest.param(c, marks=pytest.mark.slow) for c in SLOW)])
def test_both_kernels_compile(case: tuple[Any, ...], compiled: Compiled, tmp_path: Path) -> None:
    rows, features, width, layers, splits, outputs, bias, shared, dtype = case
    net = SpinalNet(
        features,
        max(outputs, 1),
        width,
        layers,
        num_splits=splits,
        bias=bias,
        share_weights=shared,
        dtype=dtype,
    )
    x = torch.randn(rows, features, dtype=dtype, requires_grad=True)
    both_passes(net, x, alone=outputs == 0)
    with torch.no_grad():
        spinal_triton(x, *net.spine.chain(), num_splits=net.spine.num_splits, negative_slope=0.0)
    check(compiled, 3, tmp_path, 64 if case in FAST else 4096)


@pytest.mark.parametrize("source", ["layers", "cublas"])
def test_the_other_plans_compile(
    source: str, compiled: Compiled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = launching.Plan(source, 32, 32, 4)
    monkeypatch.setattr(passes, "plan_forward", lambda *_: plan)
    net = SpinalNet(40, 3, 8, 5)
    both_passes(net, torch.randn(4, 40, requires_grad=True))
    check(compiled, 2, tmp_path)


def test_autocast_reads_the_parameters_as_they_are(compiled: Compiled, tmp_path: Path) -> None:
    net = SpinalNet(40, 3, 8, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        both_passes(net, torch.randn(4, 40, requires_grad=True))
    check(compiled, 2, tmp_path)
    assert ".f32" in compiled[0][1].asm["ptx"]


def test_one_compilation_serves_every_number_of_rows(compiled: Compiled, tmp_path: Path) -> None:
    net = SpinalNet(9, 3, 4, 2)
    for rows in (1, 7, 16, 64):
        both_passes(net, torch.randn(rows, 9, requires_grad=True))
    check(compiled, 8, tmp_path)
    for name in ("forward_kernel", "hidden_gradient_kernel"):
        assert len({kernel.hash for kind, kernel in compiled if kind == name}) == 1, name

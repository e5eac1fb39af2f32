"""The Triton kernels in Triton's own interpreter: it must be chosen before triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spinalnet.nn import backends, layers

pytest.importorskip("triton")


def run_interpreted(arguments: list[str]) -> None:
    script = Path(__file__).with_name("triton_interpreted.py")
    path = [str(script.parents[1] / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
    result = subprocess.run(
        [sys.executable, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all agree" in result.stdout


def test_kernels_match_the_reference_in_the_interpreter() -> None:
    run_interpreted([])


def test_without_a_cuda_device_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    call = layers.SpinalLayer(8, 4).call(torch.randn(2, 8))
    reason = backends.BACKENDS["triton"].why_not(call)
    assert reason is not None
    assert "CUDA" in reason

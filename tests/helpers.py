"""One tolerance table and one comparison for the whole test-suite; small images; runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

# Relative root-mean-square error against the float64 truth.
TOL = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    """Root-mean-square difference over root-mean-square of `expected` (1 if that is 0)."""
    actual, expected = actual.double(), expected.double()
    scale = expected.square().mean().sqrt() if expected.numel() else torch.tensor(0.0)
    error = (actual - expected).square().mean().sqrt() if expected.numel() else torch.tensor(0.0)
    return float(error / scale) if scale > 0 else float(error)


def assert_close(name: str, actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Compare with the tolerance of `dtype`; the message names the tensor."""
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape} != {expected.shape}"
    error = relative_rms(actual, expected)
    assert error <= TOL[dtype], f"{name}: relative RMS error {error:.2e} > {TOL[dtype]:.0e}"


def write_images(folder: Path, counts: Mapping[str, int], size: tuple[int, int] = (20, 16)) -> None:
    """Write PNG images of one colour each, all different, `counts[class]` per class folder."""
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            tone = sum(map(ord, str(folder.name))) % 97
            Image.new("RGB", size, (i * 5, k * 20, tone)).save(folder / name / f"{i:03}.png")


def no_times(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run has written without what a clock has said."""
    return {key: value for key, value in numbers.items() if key not in ("seconds", "train_seconds")}


needs_whole_graphs = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12),
    reason="torch.compile of 2.11 and before cannot read a context variable",
)

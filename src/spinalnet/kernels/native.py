"""Finding the compiled extension, or the reason why it cannot be used.

The extension is built when the package is installed. Without a compiler it is left out, and
`UNAVAILABLE` says so; as it does with `SPINALNET_KERNELS=off` in the environment, which rules the
extension out, and in a checkout whose sources have changed since it was built.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import time
from pathlib import Path
from typing import Any

import torch

from spinalnet._checks import BackendUnavailable, InputError


def _load() -> tuple[Any, str | None]:
    """Return the extension; or None, and why."""
    switch = os.environ.get("SPINALNET_KERNELS", "on")
    if switch not in ("on", "off"):
        raise InputError(f"SPINALNET_KERNELS must be 'on' or 'off', got '{switch}'.")
    if switch == "off":
        return None, "the compiled kernels are switched off (SPINALNET_KERNELS=off)"
    try:
        native = importlib.import_module("spinalnet.kernels._native")
    except ImportError as error:
        return None, f"the compiled kernels are not installed ({error})"
    sources = _digest_of_sources()
    if sources is not None and sources != getattr(native, "SOURCES", None):
        return None, (
            "the compiled kernels were built from other sources than those beside them; build them "
            "again (docs/kernels.md, Building and checking)"
        )
    return native, None


def _digest_of_sources() -> str | None:
    """Return what CMakeLists.txt computes of the C++ files; None where none are installed."""
    folder = Path(__file__).parent / "csrc"
    files = sorted([*folder.glob("*.cpp"), *folder.glob("*.h"), *folder.glob("CMakeLists.txt")])
    listing = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files
    )
    return hashlib.sha256(listing.encode()).hexdigest() if files else None


extension, UNAVAILABLE = _load()

DTYPES = (torch.float32, torch.float64)


def instruction_set() -> str | None:
    """Return which build of the kernels this processor runs, None without the extension."""
    return None if extension is None else extension.instruction_set()


def peak_gflops(repeats: int = 500, trials: int = 500) -> float:
    """Return 10^9 operations per second of one thread in the kernels' inner loop, at its best.

    Raises:
        BackendUnavailable: Without the extension.
    """
    if UNAVAILABLE is not None:
        raise BackendUnavailable(f"there is no inner loop to measure: {UNAVAILABLE}.")
    best = 0.0
    for _ in range(trials):
        start = time.perf_counter()
        macs = extension.exercise_tile(repeats)
        best = max(best, 2e-9 * macs / (time.perf_counter() - start))
    return best

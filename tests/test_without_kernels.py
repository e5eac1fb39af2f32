"""The package without its compiled kernels: switched off, or of other sources.

`SPINALNET_KERNELS=off python -m pytest` runs all other tests that way. As a script, this file
trains a net and prints what came out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spinalnet import SpinalNet, use_backend
from spinalnet.kernels import native as native_module

needs_extension = pytest.mark.skipif(
    importlib.util.find_spec("spinalnet.kernels._native") is None,
    reason="the compiled kernels are not installed",
)


def run(*arguments: str, kernels: str = "off") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SPINALNET_KERNELS": kernels, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def two_steps() -> tuple[list[float], str, str]:
    """Train a small net; return what it says then, the backend of its layer, and the reason."""
    torch.manual_seed(0)
    net = SpinalNet(9, 2, 4)
    x, target = torch.randn(20, 9), torch.randn(20, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), target).backward()
        optimizer.step()
    choice = net.spine.backend_choice(x)
    return net(x).flatten().tolist(), choice.name, choice.reason


def test_switched_off_it_trains_the_same_and_names_the_reason() -> None:
    done = run(__file__)
    assert done.returncode == 0, done.stderr
    found, name, reason = json.loads(done.stdout)
    assert name == "reference"
    assert "switched off (SPINALNET_KERNELS=off)" in reason
    with use_backend("reference"):
        expected, *_ = two_steps()
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_environment_says_that_they_are_off() -> None:
    done = run("-m", "spinalnet", "env")
    assert "switched off (SPINALNET_KERNELS=off)" in json.loads(done.stdout)["kernels"]


def test_the_switch_is_on_or_off() -> None:
    done = run("-m", "spinalnet", "env", kernels="0")
    assert done.returncode == 2
    assert "SPINALNET_KERNELS must be 'on' or 'off', got '0'." in done.stderr


def test_their_benchmark_is_refused() -> None:
    done = run("-c", "from spinalnet.kernels.native import peak_gflops; peak_gflops()")
    assert "BackendUnavailable: there is no inner loop to measure: the compiled" in done.stderr


@needs_extension
@pytest.mark.skipif(os.environ.get("SPINALNET_KERNELS") == "off", reason="switched off")
def test_an_extension_that_is_here_is_used() -> None:
    # All of its own tests are left out if it is not, such as after a change without a build.
    assert native_module.UNAVAILABLE is None


@needs_extension
def test_an_extension_of_other_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINALNET_KERNELS", "on")
    monkeypatch.setattr(native_module, "__file__", str(tmp_path / "native.py"))
    native, reason = native_module._load()
    assert native is not None  # no sources there, as in an installed package
    assert reason is None
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "threads.cpp").write_text("// Changed.")
    native, reason = native_module._load()
    assert native is None
    assert reason is not None
    assert "built from other sources than those beside them; build them again" in reason


if __name__ == "__main__":
    sys.stdout.write(json.dumps(two_steps()))

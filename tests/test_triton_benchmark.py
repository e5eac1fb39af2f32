"""The benchmark of the Triton kernels runs without a card, in the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
def test_a_dry_run_does_every_step(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    out = tmp_path / "gpu.json"
    result = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "gpu.py"), "--dry-run", "--out", str(out)],
        env=os.environ | {"PYTHONPATH": str(root / "src"), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["command"] == "python benchmarks/gpu.py --dry-run"
    assert record["hardware"] == "none, dry run"
    assert not record["skipped"]
    results = record["results"]
    assert {line["step"] for line in results} == {
        "environment",
        "checks",
        "inference",
        "training",
        "compiled",
        "variants",
        "epochs",
    }
    assert not [line for line in results if "error" in line or not line.get("passed", True)]
    lines = out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(results)
    assert {"card", "driver", "torch", "triton", "commit"} <= json.loads(lines[-1]).keys()

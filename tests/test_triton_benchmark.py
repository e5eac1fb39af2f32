"""The benchmark of the Triton kernels runs without a card, in the interpreter."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from test_data import write_dataset

pytest.importorskip("triton")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu() -> dict[str, Any]:
    """What the script defines for a card."""
    return runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))


@pytest.fixture
def session(gpu: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session of ten minutes without a card."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return gpu["Session"](tmp_path / "gpu.json", 10.0, "unknown")


def test_forty_heads_are_checked_in_three_types(gpu: dict[str, Any]) -> None:
    heads = (*gpu["HEADS"], *gpu["STACKED"][1:], *gpu["ODD_HEADS"])
    assert len({head.name for head in heads}) == len(heads) == 40
    assert len(gpu["KINDS"]) == 3
    for odd in (
        lambda head: head.flat,
        lambda head: head.shared,
        lambda head: not head.bias,
        lambda head: head.outputs == 0,
        lambda head: head.features == head.splits > 1,
        lambda head: head.layers == 1,
        lambda head: head.layers == 16,
        lambda head: head.slope == 1,
        lambda head: 0 < head.slope < 1,
        lambda head: head.width % 2,
    ):
        assert any(map(odd, heads))


def test_jobs_hold_every_head_once_and_wide_ones_alone(gpu: dict[str, Any]) -> None:
    jobs = list(gpu["jobs_of"](gpu["ODD_HEADS"], torch.float16, False))
    found = [gpu["Head"](**fields) for job in jobs for fields in job["heads"]]
    assert tuple(found) == gpu["ODD_HEADS"]
    assert len(jobs) < len(found)
    assert all(
        len(job["heads"]) == 1 or sum(head["layers"] for head in job["heads"]) <= 20 for job in jobs
    )
    assert all(len(job["heads"]) == 1 for job in gpu["jobs_of"](gpu["HEADS"], torch.float16, True))


def test_quartiles_lie_between_the_samples(gpu: dict[str, Any]) -> None:
    low, middle, high = gpu["quartiles"]([1.0, 101.0])  # the other method says -24 and 126
    assert 1.0 <= low <= middle <= high <= 101.0
    assert gpu["quartiles"]([3.0, 1.0, 2.0])[1] == 2.0


def test_memory_is_poisoned_inside_and_only_there(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu["poisoned"].__wrapped__.__globals__, "DEVICE", "cpu")
    with gpu["poisoned"]():
        for made in (torch.empty(9), torch.zeros(2).new_empty(9), torch.empty_like(torch.ones(9))):
            assert made.isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


def test_heads_are_checked_in_poisoned_memory(
    gpu: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = gpu["check_head"].__globals__
    monkeypatch.setitem(names, "DEVICE", "cpu")
    monkeypatch.setitem(names, "check", lambda *_: {"found": torch.empty(3)})
    *checked, last = gpu["check_head"](gpu["HEADS"][0], torch.float32, False)
    assert len(checked) == len(gpu["CHECKED_ROWS"])
    assert all(line["found"].isnan().all() for line in checked)
    assert last["compiled"] == []


def test_a_piece_is_skipped_when_too_little_time_is_left(session: Any) -> None:
    session.longest = 30.0
    session.end -= 600 - 44  # 44 s are left
    with session.piece("training", "one") as go:
        assert not go
    session.end += 2
    with session.piece("training", "two") as go:
        assert go
    with session.piece("training", "long", 60.0) as go:
        assert not go
    assert session.skipped == ["training: one", "training: long"]


def test_an_error_ends_its_piece_alone_and_every_result_is_written_as_it_comes(
    session: Any,
) -> None:
    session.add("training", head="one")
    with session.piece("training", "two"):
        raise RuntimeError("out of registers")
    lines = [json.loads(line) for line in session.lines.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["head"] == "one"
    assert lines[1]["error"] == "RuntimeError: out of registers"


def test_pairs_that_do_not_fit_are_not_begun(
    gpu: dict[str, Any], session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu["pairs"].__globals__, "DEVICE", "cpu")
    write_dataset(tmp_path / "MNIST" / "raw", "mnist")
    session.end -= 600 - 25  # less than 200 epochs take
    gpu["pairs"](session, tmp_path, 100_000)
    assert not session.results
    [said] = session.skipped
    assert said.startswith("pairs: mnist spinal, seed 0 and what follows: 100000 epochs of ")


def test_data_that_is_missing_is_a_sentence(
    gpu: dict[str, Any], session: Any, tmp_path: Path
) -> None:
    gpu["pairs"](session, tmp_path, None)
    assert session.skipped == [
        f"pairs: {name}: the files of {name} are not in the folder that --data-dir names."
        for name in ("mnist", "fashion-mnist")
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)  # half a minute of work, on a busy machine several
def test_a_dry_run_does_every_step(tmp_path: Path) -> None:
    for name, folder in (("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")):
        write_dataset(tmp_path / folder / "raw", name)
    out = tmp_path / "gpu.json"
    script = ROOT / "benchmarks" / "gpu.py"
    result = subprocess.run(
        [sys.executable, str(script), "--dry-run", "--out", str(out), "--data-dir", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
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
        "stacked",
        "epochs",
        "pairs",
    }
    checked = [line for line in results if line["step"] == "checks" and "rows" in line]
    assert {"float32", "bfloat16", "float16"} <= {line["kind"] for line in checked}
    assert any(", flat" in line["head"] for line in checked)
    runs = [(r["data"], r["head"], r["seed"]) for r in results if r["step"] == "pairs"]
    heads = "spinal", "unchained", "mlp"
    assert runs == [(data, head, 0) for data in ("mnist", "fashion-mnist") for head in heads]
    quartiles = [pair for line in results for pair in line.get("quartiles", {}).values()]
    assert quartiles
    assert min(map(min, quartiles)) >= 0
    assert not [line for line in results if "error" in line or not line.get("passed", True)]
    lines = out.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(results)
    assert {"card", "driver", "torch", "triton", "commit"} <= json.loads(lines[-1]).keys()

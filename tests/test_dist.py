"""Several processes leave what one leaves: one set of files, one voice, the same numbers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from spinalnet import ComparisonSpec, RunSpec, _dist
from spinalnet.cli import output, root
from spinalnet.comparison import comparing

QUESTION = ComparisonSpec(
    RunSpec.of(
        "regression-sum", "regression-net", epochs=2, batch_size=50, device="cpu", limit=200
    ),
    ("spinal", "mlp"),
    seeds=1,
)


@pytest.mark.parametrize(("rank", "order"), [("0", ["block", "wait"]), ("1", ["wait", "block"])])
def test_the_main_process_goes_first(monkeypatch, rank, order):
    seen: list[str] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(_dist.dist, "barrier", lambda: seen.append("wait"))
    with _dist.main_first():
        seen.append("block")
    assert seen == order


def test_only_the_main_process_speaks_and_any_may_complain(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for console in (output.out_console, output.err_console):
        monkeypatch.setattr(console, "quiet", False)
    for rank, spoken in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        root._hush_other_processes()
        output.answer({}, "a result")
        assert bool(capsys.readouterr().out) == spoken
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["spinalnet", "evaluate", "nowhere"])
    with pytest.raises(SystemExit):
        root.main()
    assert "nowhere is not the folder of a run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    words = "compare regression-sum --model regression-net --heads spinal,mlp --seeds 1 --limit 200"
    words += f" --epochs 2 --batch-size 50 --device cpu --out {tmp_path / 'two'}"
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "spinalnet", *words.split()],
            env={**os.environ, **job, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    assert "report.html" in said[0][0]
    assert said[1][0] == ""
    comparing.run_comparison(QUESTION, tmp_path / "one", timed=False)
    made = {path.name for path in (tmp_path / "two").iterdir()}
    assert made >= {"comparison.yaml", "timing.json", "summary.json", "report.html", "runs"}
    for head in QUESTION.heads:
        one, two = (tmp_path / side / f"runs/{head}-seed0" for side in ("one", "two"))
        assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
        alone, together = (json.loads((run / "result.json").read_text()) for run in (one, two))
        for part in ("train", "val", "test"):
            assert together.pop(part) == pytest.approx(alone.pop(part), rel=1e-4), part
        assert alone.pop("train_seconds") > 0
        assert together.pop("train_seconds") > 0
        assert together == alone

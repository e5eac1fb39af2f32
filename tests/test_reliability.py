"""`benchmarks/reliability.py` in short: each part tries something, and finds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from trials import record, reports

from spinalnet import write_report

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux only")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "reliability.py"


def tried(out: Path, *words: str) -> dict[str, Any]:
    """Return what was found, by part."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--out", str(out), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = json.loads(out.read_text())["parts"]
    assert [found["found"] for found in parts.values()] == [[] for _ in parts]
    return parts


def counted(part: dict[str, Any], name: str) -> float:
    return sum(row.get(name, 0) for row in part["rows"].values())


def test_kills_and_faults_do_no_harm(tmp_path):
    parts = tried(tmp_path / "found.json", "--parts", "kill,faults")
    # One of each command for certain: what is killed after a time may have ended by then.
    assert counted(parts["kill"], "at_a_call") >= counted(parts["kill"], "continued") >= 1
    assert counted(parts["faults"], "sites_tried") == 3


def test_what_several_processes_find_of_one_part_is_added(tmp_path):
    path = tmp_path / "found.json"
    one = record.Record("kill", path)
    one.add("train", kills=1, tried=[3])
    one.tell("this")
    one.save()
    two = record.Record("kill", path)
    assert (one.seed(), two.seed(), one.seed()) == (1, 2, 3)
    one.add("train", kills=2, tried=[4])
    two.add("train", kills=4)
    two.worst("export", seconds=2.5)
    record.Record("disk", path, afresh=True).add("train", tries=1)  # was not saved
    for each in (two, one, two):
        each.save()
    found = json.loads(path.read_text())["parts"]
    assert found["kill"]["rows"] == {
        "train": {"kills": 7, "tried": [3, 4]},
        "export": {"seconds": 2.5},
    }
    assert found["kill"]["found"] == ["this"]
    assert (found["kill"]["seeds"], found["disk"]["rows"]) == (3, {})
    record.Record("kill", path, afresh=True).save()
    assert json.loads(path.read_text())["parts"]["kill"]["rows"] == {}


def test_a_page_of_many_runs_and_of_many_epochs_stays_small(tmp_path):
    reports.make_many(tmp_path / "many", 20)
    reports.make_long(tmp_path / "long", 5000)
    for name in ("many", "long"):
        assert write_report(tmp_path / name).stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_in_short(tmp_path):
    parts = tried(tmp_path / "found.json")
    assert counted(parts["disk"], "tries") + counted(parts["disk"], "not_tried") == 2
    assert counted(parts["mutate"], "files") > 30
    assert counted(parts["writers"], "pairs") == 2
    assert counted(parts["limits"], "tries") == 2
    assert counted(parts["soak"], "rounds") == 3
    again = tried(tmp_path / "found.json", "--parts", "faults")  # adds to what was found
    assert counted(again["faults"], "faults") > counted(parts["faults"], "faults")
    assert again["kill"] == parts["kill"]

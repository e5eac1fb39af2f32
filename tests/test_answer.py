"""`spinalnet.compare`: one answer for images, folders, frozen features and tables, as an object."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import spinalnet
from helpers import command, write_images
from spinalnet.cli.root import app
from spinalnet.comparison.report.figures import metric_against_cost
from spinalnet.comparison.schema import read_mapping

CODES = {"better", "worse", "equal", "undecided", "nothing-learned"}
QUICK: dict[str, Any] = {"seeds": 2, "jobs": 1}
ONE_EPOCH: dict[str, Any] = {"epochs": 1, "limit": 200, "device": "cpu", **QUICK}


def check(found: spinalnet.Comparison, heads: tuple[str, ...], tmp_path: Path) -> None:
    """See that an answer holds all it promises."""
    assert [row.head for row in found.summary.heads] == list(heads)
    assert found.code in {*CODES, "mixed"}
    assert found.verdict == found.summary.headline
    assert found.verdict.endswith(").")
    assert {d.code for d in found.differences} <= CODES
    assert [d.minus for d in found.differences] == list(heads[1:])
    frame, scores = found.to_frame(), found.scores()
    assert list(frame.index) == list(scores.columns) == list(heads)
    assert len(scores) == 2
    assert frame["mean"].tolist() == pytest.approx(scores.mean().tolist())
    gaps = scores[heads[0]] - scores[heads[1]]
    assert frame["difference_mean"].iloc[1] == pytest.approx(gaps.mean())
    own = Figure().add_subplot()
    for plot in (found.plot_differences, found.plot_scores, found.plot_cost):
        assert plot().figure is not own.figure
        assert plot(own) is own
    assert len(found.plot_differences().get_yticks()) == len(heads) - 1
    html = found._repr_html_()
    assert html.count("<tr>") == len(repr(found).splitlines()) - 3
    assert found.verdict in repr(found)
    page = found.report(tmp_path / "page.html")
    assert found.verdict.replace("'", "&#39;") in page.read_text(encoding="utf-8")
    assert spinalnet.Comparison.load(found.folder).summary == found.summary


def test_compare_answers_twice_and_extends(tmp_path: Path) -> None:
    found = spinalnet.compare("digits", "spinal,mlp", out=tmp_path / "c", **ONE_EPOCH)
    check(found, ("spinal", "mlp"), tmp_path)
    stamp = (tmp_path / "c" / "runs" / "mlp-seed0" / "DONE").stat().st_mtime_ns
    wider = spinalnet.compare(
        "digits", ["spinal", "mlp", "spinal:num_layers=3"], out=tmp_path / "c", **ONE_EPOCH
    )
    check(wider, ("spinal", "mlp", "spinal:num_layers=3"), tmp_path)
    assert (tmp_path / "c" / "runs" / "mlp-seed0" / "DONE").stat().st_mtime_ns == stamp
    assert wider.best().model is not None
    assert wider.plot_curves().get_xlabel() == "epoch"
    with pytest.raises(spinalnet.InputError, match="holds a comparison"):
        spinalnet.compare("sklearn:iris", "matched,linear", out=tmp_path / "c", **QUICK)
    assert (read_mapping(tmp_path / "c" / "comparison.yaml") or {})["data"] == "digits"


def test_compare_answers_on_a_folder_and_on_frozen_features(tmp_path: Path) -> None:
    write_images(tmp_path / "set", {"a": 16, "b": 16})
    for name, options in (("all", {}), ("frozen", {"freeze": True})):
        found = spinalnet.compare(
            tmp_path / "set",
            ("spinal", "linear"),
            out=tmp_path / name,
            **{**ONE_EPOCH, "limit": None, "image_size": 28, "in_channels": 1, **options},
        )
        check(found, ("spinal", "linear"), tmp_path)


def test_compare_answers_on_a_table(tmp_path: Path) -> None:
    for _ in range(2):
        found = spinalnet.compare(
            "sklearn:iris", "matched,linear,trees", out=tmp_path / "t", **QUICK
        )
        check(found, ("matched", "linear", "trees"), tmp_path)
    assert found.summary.unit_kind == "split"
    assert found.plot_curves().get_ylabel() == "validation accuracy"
    assert found.plot_cost(by="fit").get_xlabel() == "seconds of a run's fit"
    page = (tmp_path / "t" / "report.html").read_text(encoding="utf-8")
    assert "seconds of a run's fit" in page  # trees have nothing else that it can be held against
    drawn = metric_against_cost(found.summary)
    assert drawn is not None
    assert all(f">{head}</text>" in drawn.svg for head in ("matched", "linear", "trees"))
    assert found.best() is not None
    # Also before its first report is the folder that of a table.
    (tmp_path / "t" / "summary.json").unlink()
    with pytest.raises(spinalnet.InputError, match="comparison on the table 'sklearn:iris'"):
        spinalnet.compare("digits", "spinal,mlp", out=tmp_path / "t", **ONE_EPOCH)


def test_the_terminal_is_80_wide_and_names_whom_each_line_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = spinalnet.compare("digits", "spinal,mlp,linear", out=tmp_path / "c", **ONE_EPOCH)
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("Report:"))
    for name in ("spinal", "mlp", "linear"):
        (row,) = [line for line in lines if line.startswith(f"{name} ")]
        assert "…" not in row
    for d in found.differences:
        assert any(line.startswith(f"- {d.minus}: ") for line in lines)
    assert "Nadeau" not in done.output
    assert "binomial" not in done.output


def test_a_dry_run_writes_nothing_and_printed_commands_do_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", "digits", "--heads", "spinal,mlp", "--seeds", "2", "--epochs", "1"]
    words += ["--limit", "200", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "--dry-run", "--out", "dry"])
    assert done.exit_code == 0, done.output
    assert list(tmp_path.iterdir()) == []
    for end in (["--engine", "print"], ["--only", "mlp-seed1"]):
        assert command(*words, "--out", "printed", *end).returncode == 0
    assert not (tmp_path / "printed" / "runs" / "spinal-seed0").exists()
    script = (tmp_path / "printed" / "slurm.sh").read_text(encoding="utf-8")
    # The script calls the command, and here one that writes down how it was called.
    called = tmp_path / "bin" / "spinalnet"
    called.parent.mkdir()
    called.write_text('#!/bin/bash\nprintf "%s\\n" "$@" >> called\necho >> called\n')
    called.chmod(0o755)
    path = f"{called.parent}{os.pathsep}{os.environ['PATH']}"
    for number in range(4):  # what each task of the array does
        task = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number), "PATH": path}
        subprocess.run(["bash", "printed/slurm.sh"], env=task, check=True, capture_output=True)
    tasks = [task.split("\n") for task in Path("called").read_text().split("\n\n")[:-1]]
    assert len(tasks) == 4
    for task in tasks:
        assert command(*task).returncode == 0, task
    assert "--only" in script
    here = spinalnet.compare("digits", "spinal,mlp", out=tmp_path / "here", **ONE_EPOCH)
    assert spinalnet.Comparison.load("printed").scores().equals(here.scores())


def test_frames_without_pandas_are_a_sentence_before_any_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    layers = spinalnet.summary(spinalnet.SpinalNet(20, 2, hidden_features=4), (20,))
    found = object.__new__(spinalnet.Comparison)
    for what, frame in (
        ("to_frame()", layers.to_frame),
        ("to_frame()", found.to_frame),
        ("scores()", found.scores),
        ("predictions_frame()", found.predictions_frame),
        ("predict_frame()", lambda: spinalnet.predict_frame("nowhere", [])),
    ):
        with pytest.raises(spinalnet.SpinalnetError, match=r"needs pandas.*\[tables\]") as caught:
            frame()
        assert str(caught.value).startswith(what)

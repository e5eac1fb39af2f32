"""The study of tuned tables: its cells, what may choose, and what it answers over tables."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "tables.py")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "catalog.csv").write_text("table,target,task\n")
    return tmp_path


def small(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    short = {"TABLES": ("sklearn:iris",), "SPLITS": (600, 601), "TRIALS": 2} | changed
    for name, value in short.items():
        monkeypatch.setitem(study.keys.__globals__, name, value)


def test_a_cell_is_kept_and_the_same_command_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch, ASKED=("linear",), OTHERS=(), HEADS=("spinal", "linear"))
    out = folder / "found.json"
    monkeypatch.setitem(
        study.keys.__globals__,
        "keys",
        lambda: [("sklearn:iris", head) for head in ("spinal", "linear")],
    )
    words = ["--data-dir", str(folder), "--out", str(out)]
    assert study.STUDY.main(words) == 0
    found = json.loads(out.read_text())
    assert [row["head"] for row in found["cells"]] == ["spinal", "linear"]
    for row in found["cells"]:
        assert len(row["test"]) == len(row["val"]) == len(row["chosen"]) == 2
        assert all(0.5 < score <= 1 for score in row["test"])
    means = [np.mean(row["test"]) for row in found["cells"]]
    (answer,) = found["answers"]
    assert answer["difference"] == pytest.approx(means[0] - means[1], abs=1e-4)
    monkeypatch.setitem(study.keys.__globals__, "tuned", lambda *_: pytest.fail("made again"))
    assert study.STUDY.main(words) == 0
    assert json.loads(out.read_text())["cells"] == found["cells"]


def test_test_rows_choose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def score(table: Any, head: str, options: Any, parts: Any, seed: int) -> tuple[float, float]:
        seen.append(parts)
        return 1.0, float(options["lr"])  # the lower rate has the lower loss

    monkeypatch.setitem(study.keys.__globals__, "score", score)
    table = study.load(folder / "tables", "sklearn:iris")
    best, val, test = study.tuned(table, "spinal", 600)
    *trials, (train, held_out) = seen
    assert len(trials) == 2
    for parts in trials:
        assert not np.intersect1d(np.concatenate(parts), held_out).size
        assert not np.intersect1d(*parts).size
        assert set(np.concatenate(parts)) == set(train)
    assert best["lr"] == min(one["lr"] for one in study.settings_of("spinal", 600))
    assert (val, test, best["ensemble_size"]) == (1.0, 1.0, 1)


def test_all_nets_try_the_same_rates() -> None:
    rates = {
        head: [one["lr"] for one in study.settings_of(head, 600)]
        for head in ("spinal", "unchained", "mlp", "linear", "matched")
    }
    assert len({tuple(one) for one in rates.values()}) == 1
    assert len(rates["spinal"]) == study.TRIALS


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.0, "equal"), (0.05, "better"), (-0.05, "worse"), (0.01, "undecided")]
)
def test_the_answer_is_that_of_all_tables(gap: float, verdict: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.004, len(study.TABLES))
    cells = [
        {"table": table, "head": head, "test": [0.8 + (gap + shift) * (head == "spinal")]}
        for table, shift in zip(study.TABLES, noise, strict=True)
        for head in ("spinal", "unchained", "trees")
    ]
    found = {one["other"]: one for one in study.answers({"cells": cells})}
    assert found["unchained"]["verdict"] == verdict
    assert found["trees"]["verdict"] is None
    assert study.answers({"cells": cells[:-3]}) == []

"""Studies of whole networks: their runs, kept one by one, and what they answer."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from spinalnet import load_runs

ROOT = Path(__file__).parents[1]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "wiring.py")))
precision = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "precision.py")))
paper = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "paper_networks.py")))


def test_a_run_is_kept_as_a_row_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = study.keys.__globals__
    monkeypatch.setitem(names, "DATA", {"digits": {}})
    monkeypatch.setitem(names, "SEEDS", (100, 101))
    monkeypatch.setitem(names, "HEADS", ("spinal", "matched"))
    monkeypatch.setitem(names, "ASKED", ("matched",))
    monkeypatch.setitem(names, "OTHERS", ())
    monkeypatch.setitem(names, "EPOCHS", 1)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "wiring.json"
    words = ["--data-dir", "data", "--out", str(out)]
    assert study.STUDY.main(words) == 0
    found = json.loads(out.read_text())
    keys = [(row["data"], row["seed"], row["head"]) for row in found["cells"]]
    assert keys == [("digits", seed, head) for seed in (100, 101) for head in ("spinal", "matched")]
    for row in found["cells"]:
        run = tmp_path / "runs" / "wiring" / f"digits-{row['seed']}-{row['head']}"
        result = json.loads((run / "result.json").read_text())
        assert row["test"] == [pytest.approx(result["test"]["accuracy"])]
        assert result["head"] == row["head"]
    one, two = (
        np.array([row["test"][0] for row in found["cells"] if row["head"] == head])
        for head in ("spinal", "matched")
    )
    (answer,) = found["answers"]
    assert answer["difference"] == pytest.approx(float((one - two).mean()))
    # What stands in the file is not made again, also where the folders of the runs are gone.
    monkeypatch.setattr(names["networks"], "run_one", lambda *_, **__: pytest.fail("made again"))
    assert study.STUDY.main(words) == 0
    assert json.loads(out.read_text())["cells"] == found["cells"]


def made_up(right: dict[str, float], examples: int = 2000) -> dict[str, Any]:
    """A record whose heads are right with these chances."""
    draw = np.random.default_rng(0)
    packed = sys.modules["common"].packed
    return {
        "cells": [
            {
                "data": "mnist",
                "seed": seed,
                "head": head,
                "examples": examples,
                "right": packed((draw.random(examples) < chance).astype(float)),
            }
            for seed in study.SEEDS
            for head, chance in right.items()
        ]
    }


def test_three_are_asked_and_the_others_get_no_verdict() -> None:
    right = dict.fromkeys(study.HEADS, 0.9) | {"linear": 0.7}
    found = {one["other"]: one for one in study.answers(made_up(right))}
    assert list(found) == [*study.ASKED, *study.OTHERS]
    assert found["linear"]["verdict"] == "better"
    assert found["linear"]["difference"] == pytest.approx(0.2, abs=0.02)
    assert found["unchained"]["verdict"] == "undecided"
    assert all(found[other]["verdict"] is None for other in study.OTHERS)
    del right["mlp"]
    assert study.answers(made_up(right)) == []


def test_the_figure_shows_the_heads_that_have_runs(tmp_path: Path) -> None:
    record = made_up(dict.fromkeys(("spinal", "mlp"), 0.9))
    for cell in record["cells"]:
        cell["test"] = [0.9]
    study.draw(record, tmp_path / "wiring.png")
    assert (tmp_path / "wiring.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("of", "changed", "kinds"),
    [
        (precision, {"DATA": ("digits",), "MODELS": ("mnist-cnn",)}, ("bf16", "off")),
        (paper, {"TASKS": {"mnist-cnn": {"data": ("digits",), "amp": "off"}}}, ("spinal", "mlp")),
    ],
    ids=["precision", "paper networks"],
)
def test_pairs_of_a_seed_differ_in_one_thing_and_are_answered(
    of: SimpleNamespace,
    changed: dict[str, Any],
    kinds: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = of.keys.__globals__
    seeds = of.SEEDS[:2]
    short: dict[str, Any] = {"SEEDS": seeds, "EPOCHS": 1}
    short |= {"TRAIN": {**names["TRAIN"], "epochs": 1}} if "TRAIN" in names else {}
    for name, value in (changed | short).items():
        monkeypatch.setitem(names, name, value)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "found.json"
    assert of.STUDY.main(["--data-dir", "data", "--out", str(out)]) == 0
    assert out.with_suffix(".png").stat().st_size > 1000
    found = json.loads(out.read_text())
    asked = [(row["seed"], row.get("amp") or row["head"]) for row in found["cells"]]
    assert asked == [(seed, kind) for seed in seeds for kind in kinds]
    (answer,) = found["answers"]
    scores: dict[str, list[float]] = {kind: [] for kind in kinds}
    for row, (_, kind) in zip(found["cells"], asked, strict=True):
        scores[kind] += row["test"]
    means = [float(np.mean(scores[kind])) for kind in kinds]
    assert answer["difference"] == pytest.approx(means[0] - means[1])
    runs = tmp_path / "runs" / names["STUDY"].name
    paths = [runs / f"digits-mnist-cnn-{seed}-{kind}" for seed, kind in asked]
    configs = [load_runs(path)[0].config for path in paths]
    assert [one["train"]["seed"] for one in configs] == [seed for seed, _ in asked]
    for one in configs:
        one["train"].pop("seed")
    differ = {
        name
        for part in ("data", "model", "train")
        for name in configs[0][part]
        if configs[0][part][name] != configs[1][part][name]
    }
    assert differ == ({"amp"} if of is precision else {"head"})

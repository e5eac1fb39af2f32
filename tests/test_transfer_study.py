"""The study of transfer: its training sets, its heads, and what it answers of right and wrong."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "transfer.py")))
half = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "half_features.py")))
few = SimpleNamespace(**study.drawn.__globals__)


def made_up(inputs: int = 12) -> Any:
    """Features whose class lies in their first ten numbers."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for size in (400, 200, 300):
        y = torch.arange(size) % few.CLASSES
        x = 0.5 * torch.randn(size, inputs, generator=generator) + 7
        x[torch.arange(size), y] += 3
        parts.append((x, y))
    return tuple(parts)


def test_a_seed_draws_so_many_of_each_class_and_scales_by_them_alone() -> None:
    of = made_up()
    (x, y), (val, _), (test, _) = study.drawn(of, 5, 3)
    assert y.bincount().tolist() == [5] * 10
    assert x.mean(0).abs().max() < 1e-5
    assert float(x.std()) == pytest.approx(1, abs=0.01)
    scale = (of[2][0][1] - of[2][0][0]) / (test[1] - test[0])
    assert torch.allclose(scale, scale[0])  # one number for all features
    assert len(val) == 200
    again, other = study.drawn(of, 5, 3), study.drawn(of, 5, 4)
    assert torch.equal(again[0][0], x)
    assert not torch.equal(other[0][0], x)


def test_heads_are_those_of_the_comparison_of_all_images() -> None:
    whole = json.loads((ROOT / "results/cifar10-features-again.json").read_text("utf-8"))
    params = {head["head"]: head["head_params"] for head in whole["heads"]}
    found = {
        head: sum(p.numel() for p in few.built(head, 1280, 0.5, 0).parameters())
        for head in study.HEADS
    }
    assert found == params


def test_a_cell_takes_the_best_setting_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    names = study.cell.__globals__
    monkeypatch.setitem(names, "SEEDS", (0, 1))
    monkeypatch.setitem(names, "SETTINGS", ((1e-6, 0.0), (1e-2, 0.0)))
    of = made_up()
    row = study.cell((10, "spinal"), of, epochs=30)
    assert (row["rate"], row["dropout"]) == (1e-2, 0.0)
    assert min(row["test"]) > 0.9
    tried = row["tuning"]
    assert tried["0.01, dropout 0"] > 0.9 > tried["1e-06, dropout 0"]
    hits = study.common.unpacked(row["right"], len(of[2][1]))
    assert hits.mean(1).tolist() == pytest.approx(row["test"], abs=1e-5)
    # Dropout is of the setting, and the last epoch counts: the same again, bit by bit.
    data = study.drawn(of, 10, 0)
    one, two = (
        study.trained("mlp", 10, data, (1e-2, dropout), 0, 3)[0].output.weight
        for dropout in (0.0, 0.5)
    )
    assert not torch.equal(one, two)


def test_the_answers_follow_from_the_hits() -> None:
    wrong = {"spinal": 1_000, "unchained": 1_005, "mlp": 750, "linear": 1_250}
    hits = []
    for images in study.ASKED:
        for head, count in wrong.items():
            for seed in study.SEEDS:
                right = np.ones(study.TEST)
                right[:count] = 0
                right[4_000 + seed * 7] = 0
                text = study.common.packed(right)
                hits.append({"images": images, "head": head, "seed": seed, "right": text})
    found = study.answers({"hits": hits, "cells": []})
    verdicts = {(a["images"], a["other"]): a["verdict"] for a in found}
    assert len(verdicts) == 9
    for images in study.ASKED:
        assert verdicts[images, "unchained"] == "equal"
        assert verdicts[images, "mlp"] == "worse"
        assert verdicts[images, "linear"] == "better"
    assert study.answers({"hits": hits[20:], "cells": []}) == []
    assert {(n, h) for n in study.ASKED for h in wrong} <= set(study.keys())


def test_the_two_precisions_are_told_apart_by_their_pairs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names, of, asked = half._compute.__globals__, made_up(), []

    def features(data_dir: Path, engine: str) -> Any:
        asked.append(engine)
        worse = 30.0 if engine == "torch-folded-bf16" else 0.0
        return tuple((x + worse * torch.randn_like(x), y) for x, y in of)

    monkeypatch.setitem(names, "features", features)
    for name, value in (("IMAGES", 10), ("SEEDS", (600, 601, 602)), ("TEST", 300)):
        monkeypatch.setitem(names, name, value)
    monkeypatch.setitem(names, "EPOCHS", {10: 100})
    record: dict[str, Any] = {"cells": [], "hits": []}
    wanted = half.keys()
    for key in wanted:
        assert half.answers(record) == []
        row = half._compute(key, tmp_path)
        own = {"head": key[0], "engine": key[1]}
        record["hits"] += [own | {"right": text} for text in row.pop("right")]
        record["cells"].append(row)
    assert asked == ["torch-folded-bf16", "auto"] * 3
    found = half.answers(record)
    assert [one["head"] for one in found] == ["spinal", "mlp", "linear"]
    assert all(one["verdict"] == "worse" for one in found)
    half.draw(record, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000

"""The studies of transfer: training sets, folds, heads, and what is answered of right and wrong."""

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
few = SimpleNamespace(**study.cell.__globals__)
folds = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "transfer_folds.py")))
large = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "transfer_large.py")))


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
    (x, y), (val, _), (test, _) = few.drawn(of, 5, 3)
    assert y.bincount().tolist() == [5] * 10
    assert x.mean(0).abs().max() < 1e-5
    assert float(x.std()) == pytest.approx(1, abs=0.01)
    scale = (of[2][0][1] - of[2][0][0]) / (test[1] - test[0])
    assert torch.allclose(scale, scale[0])  # one number for all features
    assert len(val) == 200
    again, other = few.drawn(of, 5, 3), few.drawn(of, 5, 4)
    assert torch.equal(again[0][0], x)
    assert not torch.equal(other[0][0], x)


def test_heads_are_those_of_the_comparison_of_all_images() -> None:
    whole = json.loads((ROOT / "results/cifar10-features-again.json").read_text("utf-8"))
    params = {head["head"]: head["head_params"] for head in whole["heads"]}
    found = {
        head: sum(p.numel() for p in few.built(head, 1280, few.CLASSES, 0.5, 0).parameters())
        for head in study.HEADS
    }
    assert found == params


def test_a_cell_takes_the_best_setting_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(study.cell.__globals__, "SEEDS", (0, 1))
    of = made_up()
    row = study.cell((10, "spinal"), of, 30, ((1e-6, 0.0), (1e-2, 0.0)))
    assert (row["rate"], row["dropout"]) == (1e-2, 0.0)
    assert min(row["test"]) > 0.9
    tried = row["tuning"]
    assert tried["0.01, dropout 0"] > 0.9 > tried["1e-06, dropout 0"]
    hits = study.common.unpacked(row["right"], len(of[2][1]))
    assert hits.mean(1).tolist() == pytest.approx(row["test"], abs=1e-5)
    # Dropout is of the setting, and the last epoch counts: the same again, bit by bit.
    data = few.drawn(of, 10, 0)
    one, two = (
        few.trained("mlp", data, (1e-2, dropout), 0, 3)[0].output.weight for dropout in (0.0, 0.5)
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
    assert len(verdicts) == len(found) == 9
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

    def features(folder: Path, *, few: bool, engine: str) -> Any:
        assert (folder, few) == (tmp_path / "cifar10", True)
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


def told(examples: int, classes: int, of: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features of which one for each class tells it."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(examples) % classes
    x = torch.randn(examples, of, generator=generator)
    x[torch.arange(examples), y] += 6
    return x, y


def test_a_fold_chooses_without_its_test_photographs() -> None:
    x, y = told(120, 2)
    train, test = np.arange(90), np.arange(90, 120)
    row = folds.fold("linear", (x, y), train, test, 8)
    assert row["test"] > 0.95
    # With other photographs to test on, the choice and the training are the same.
    other = y.clone()
    other[90:] = 1 - other[90:]
    turned = folds.fold("linear", (x, other), train, test, 8)
    assert turned["setting"] == row["setting"]
    assert turned["test"] == pytest.approx(1 - row["test"])


def test_folds_test_every_photograph_once_and_are_the_same_for_all_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, np.ndarray, np.ndarray]] = []

    def fold(head: str, of: Any, train: np.ndarray, test: np.ndarray, epochs: int) -> dict:
        seen.append((head, train, test))
        return {"setting": (1e-3, 0.0), "test": 0.5}

    monkeypatch.setitem(folds.cell.__globals__, "fold", fold)
    of = told(101, 2)
    for head in ("spinal", "mlp"):
        folds.cell((3, head), of)
    folds.cell((4, "spinal"), of)
    tests = [test for _, _, test in seen]
    for start in (0, 5, 10):
        assert sorted(np.concatenate(tests[start : start + 5])) == list(range(101))
    for one, other in zip(tests[:5], tests[5:10], strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(tests[0], tests[10])
    assert all(not set(train) & set(test) for _, train, test in seen)


def made_up_folds(gap: float) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    return {
        "cells": [
            {
                "repeat": repeat,
                "head": head,
                "examples": 398,
                "test": list(0.9 + (head == "spinal") * gap + 0.01 * draw.normal(size=5)),
            }
            for repeat in folds.REPEATS
            for head in folds.HEADS
        ]
    }


def test_answers_over_folds() -> None:
    for gap, verdict in ((0.05, "better"), (-0.05, "worse")):
        record = made_up_folds(gap)
        found = folds.answers(record)
        *found, told = found
        assert told["other"] == "matched"  # not asked
        assert told["verdict"] is None
        assert [one["other"] for one in found] == list(folds.OTHERS)
        for one in found:
            assert one["verdict"] == verdict
            assert one["difference"] == pytest.approx(gap, abs=0.01)
            # Fifty folds of one sample say far less than fifty samples would.
            assert one["high"] - one["low"] > 2 * 2 * 0.0141 * 0.25**0.5 * 0.8
    record["cells"].pop()  # of matched, about which nothing is asked
    assert folds.answers(record)
    record["cells"] = [cell for cell in record["cells"] if cell["repeat"] != 9]
    assert folds.answers(record) == []


def test_a_size_is_tuned_on_validation_and_scored_on_the_test_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(large.cell.__globals__, "SEEDS", (0, 1))
    train, val, test = told(600, 10), told(80, 10), told(70, 10)
    row = large.cell((20, "linear"), (train, val, test), 3, ((1e-3, 0.0), (1e-1, 0.5)))
    assert len(row["tuning"]) == 2
    assert f"{row['rate']:g}, dropout {row['dropout']:g}" == max(
        row["tuning"], key=row["tuning"].get
    )
    assert [row["images"], row["head"], len(row["test"])] == [20, "linear", 2]
    hits = large.common.unpacked(row["right"], 70)
    assert hits.mean(1) == pytest.approx(row["test"], abs=1e-5)
    # What the test images are cannot change the choice.
    wrong = (test[0], (test[1] + 1) % 10)
    again = large.cell((20, "linear"), (train, val, wrong), 3, ((1e-3, 0.0), (1e-1, 0.5)))
    assert again["tuning"] == row["tuning"]
    assert again["test"] != row["test"]

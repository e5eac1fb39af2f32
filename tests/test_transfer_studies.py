"""Heads on features of a frozen network: what the studies draw, choose and answer."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
folds = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "transfer_folds.py")))
large = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "transfer_large.py")))


def features(examples: int, classes: int, of: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of which one for each class tells it."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(examples) % classes
    x = torch.randn(examples, of, generator=generator)
    x[torch.arange(examples), y] += 6
    return x, y


def test_a_fold_chooses_without_its_test_photographs() -> None:
    x, y = features(120, 2)
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
    of = features(101, 2)
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


def made_up(gap: float) -> dict[str, Any]:
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
        record = made_up(gap)
        found = folds.answers(record)
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
    train, val, test = features(600, 10), features(80, 10), features(70, 10)
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

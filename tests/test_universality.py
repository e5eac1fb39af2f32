"""The study of trained universality asks what it says, of nets that see the same points."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spinalnet.theory.approximation import TARGETS, approximate

ROOT = Path(__file__).parents[1]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "universality.py")))


def test_trained_and_constructed_nets_are_judged_on_the_same_points() -> None:
    made = approximate(TARGETS["saddle"], 2, groups=4, hidden_features=8, seed=3)
    _, _, (x, y) = study.drawn("saddle", 2, 3)
    assert study.error(made.net.float(), (x, y)) == pytest.approx(made.rms_error, rel=1e-3)
    assert study.cell(("saddle", 2, "constructed", 8, 8))["test"][3] == pytest.approx(
        made.rms_error, rel=1e-3
    )
    other = study.drawn("saddle", 2, 4)
    assert not torch.equal(other[0][0], study.drawn("saddle", 2, 3)[0][0])
    assert not torch.equal(other[0][0], other[2][0])


def test_a_function_is_learnt_and_the_best_rate_is_taken() -> None:
    tried: list[float] = []
    settings = [1e-2, 3e-3]

    def score(rates: list[float], seeds: list[int]) -> list[float]:
        tried.extend(rates)
        return [-abs(rate - 3e-3) - seed for rate, seed in zip(rates, seeds, strict=True)]

    best, means = study.common.best_setting(settings, (0, 1), score)
    assert best == 3e-3
    assert tried == [1e-2, 1e-2, 3e-3, 3e-3]
    assert means == pytest.approx([-0.507, -0.5])
    nets, datas, broken = study.trained(("ripple", 1, "spinal", 8, 8), [1e-2], [0], epochs=10)
    assert broken == [False]
    assert study.error(nets[0], datas[0][2]) < 0.3  # the mean of the function has 1
    matched, spinal = (
        sum(p.numel() for p in study.built(("saddle", 2, net, 8, 16), 0).parameters())
        for net in ("matched", "spinal")
    )
    assert matched == pytest.approx(spinal, rel=0.02)


def test_answers_wait_for_all_cells_and_go_by_the_logarithm() -> None:
    factors = {"spinal": 1.0, "constructed": 3.0, "matched": 1.02}

    def row(key: tuple) -> dict:
        error = 0.01 * factors[key[2]] * (2 if key[4] == 4 else 1)
        noise = np.random.default_rng(len(str(key))).normal(0, 0.02, len(study.SEEDS))
        return dict(zip(study.KEY, key, strict=True)) | {"test": (error * np.exp(noise)).tolist()}

    wanted = {key for question in study.questions() for key in question[1:]}
    assert wanted <= set(study.keys())
    rows = [row(key) for key in sorted(wanted)]
    assert study.answers({"cells": rows[1:]}) == []
    found = study.answers({"cells": rows})
    assert [a["verdict"] for a in found] == 3 * ["better", "better", "equal"]
    assert found[1]["difference"] == pytest.approx(np.log(3), abs=0.05)

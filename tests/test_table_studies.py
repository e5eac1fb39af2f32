"""Tables: how the defaults are chosen and judged."""

from __future__ import annotations

import runpy
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spinalnet.comparison.across import signed_rank

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a command defines."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def test_the_halves_are_those_that_the_seed_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = script("table_halves", monkeypatch)
    assert halves["draw_halves"]() == (halves["DEVELOPMENT"], halves["DECIDING"])
    every = {*halves["DEVELOPMENT"], *halves["DECIDING"]}
    assert len(every) == 28
    assert every == {*halves["CLASSIFICATIONS"], *halves["REGRESSIONS"]}


def simulated(z: list[float], rope: float, draws: int) -> list[float]:
    """The signed-rank test as its paper writes it, pair by pair."""
    generator = np.random.default_rng(11)
    won = [0, 0, 0]
    values = [0.0, *z]
    for _ in range(draws):
        # A Dirichlet variable is gamma variables divided by their sum.
        gammas = [generator.gamma(0.5), *(generator.gamma(1.0) for _ in z)]
        w = [gamma / sum(gammas) for gamma in gammas]
        theta = [0.0, 0.0, 0.0]
        for i, first in enumerate(values):
            for j, second in enumerate(values):
                place = 0 if first + second > 2 * rope else 2 if first + second < -2 * rope else 1
                theta[place] += w[i] * w[j]
        won[theta.index(max(theta))] += 1
    return [count / draws for count in won]


@pytest.mark.parametrize(
    "z",
    [
        [0.03, 0.02, -0.01, 0.005, 0.0, 0.04],
        [-0.03, -0.02, 0.015, 0.002, -0.011],
        [0.001, -0.002, 0.009, 0.02],
    ],
)
def test_the_signed_rank_test_is_its_paper_s(z: list[float]) -> None:
    found = astuple(signed_rank(z, 0.01))
    assert np.allclose(found, simulated(z, 0.01, 4000), atol=0.04)
    assert sum(found) == pytest.approx(1.0)
    turned = astuple(signed_rank([-value for value in z], 0.01))
    assert np.allclose(turned, found[::-1], atol=0.02)


def test_clear_differences_are_clear() -> None:
    assert signed_rank([0.1] * 14).better > 0.99
    assert signed_rank([-0.1] * 14).worse > 0.99
    assert signed_rank([0.004, -0.004] * 7).equal > 0.99


def test_a_summary_ranks_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    reach = script("table_reach", monkeypatch)
    scores = {
        "a": {"spinal": 0.9, "trees": 0.8},
        "b": {"spinal": 0.7, "trees": 0.75},
        "c": {"spinal": 0.6, "trees": -50.0},
    }
    fits = [
        {"table": name, "head": head, "split": split, "score": value, "seconds": 1.0}
        for name, row in scores.items()
        for head, value in row.items()
        for split in range(reach["SPLITS"])
    ]
    fits[-1] = {"table": "c", "head": "trees", "split": 9, "failed": "no rows"}
    found = reach["summary"](fits, ["spinal", "trees"])
    assert found["tables"]["a"] == pytest.approx({"spinal": 0.9, "trees": 0.8})
    assert found["tables"]["c"]["trees"] is None
    assert found["mean_ranks"] == {"spinal": 1.5, "trees": 1.5}
    assert found["ranked_tables"] == 2
    against = found["against"]["trees"]
    assert (against["wins"], against["losses"], against["tables"]) == (1, 1, 2)
    assert against["mean_difference"] == pytest.approx(0.025)
    assert found["failed"] == {"c/trees/9": "no rows"}

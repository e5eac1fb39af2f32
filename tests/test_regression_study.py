"""The study of the paper's regressions draws the paper's data, and answers by ratios of errors."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spinalnet import create_model, load_dataset

ROOT = Path(__file__).parents[1]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "regression.py")))


@pytest.mark.parametrize("function", study.PAPER)
def test_functions_and_noise_are_those_of_the_recipe(function: str) -> None:
    part = load_dataset(f"regression-{function}").test
    noise = part.targets - study.FUNCTIONS[function](part.inputs)
    assert float(noise.min()) > -1e-5
    assert float(noise.max()) < study.NOISE + 1e-5
    assert float(noise.var()) == pytest.approx(study.FLOOR, rel=0.05)


def test_data_are_drawn_anew_by_each_seed_and_tested_on_the_same_points() -> None:
    small, large = (study.drawn("product", n, 5) for n in (1_000, 10_000))
    assert [len(x) for x, _ in small] == [900, 100, 20_000]
    assert torch.equal(small[2][1], large[2][1])
    assert not torch.equal(small[0][0], study.drawn("product", 1_000, 6)[0][0])
    x, y = study.drawn("product of 4", 1_000, 0)[0]
    assert 0 <= float((y - x[:, :4].prod(1, keepdim=True)).min()) < 0.01


def test_nets_are_the_paper_s() -> None:
    counts = {net: sum(p.numel() for p in study.built(net, 0).parameters()) for net in study.NETS}
    for net, head in (("spinal", "spinal"), ("mlp", "mlp-paper")):
        model = create_model("regression-net", 1, head=head)
        assert counts[net] == sum(p.numel() for p in model.parameters())
    assert counts["matched"] == pytest.approx(counts["spinal"], rel=0.01)


def test_a_sum_is_learnt_and_a_product_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    names = study.cell.__globals__
    few = study.Group(study.PAPER, (1_000,), study.NETS, (1000,), (0, 1, 2))
    monkeypatch.setitem(names, "GROUPS", {"paper": few})
    monkeypatch.setitem(names, "LEARNT", 3)
    rows = {f: study.cell(("paper", f, 1_000, "linear")) for f in ("sum", "product")}
    assert study.has_learnt(rows["sum"])
    assert not study.has_learnt(rows["product"])
    assert min(study.r_squared(rows["sum"])) > 0.99
    assert np.mean(rows["sum"]["test"]) == pytest.approx(study.FLOOR, rel=0.3)
    assert rows["sum"]["mean"][0] == pytest.approx(8, rel=0.1)


def test_answers_are_of_ratios_and_know_what_learnt_nothing() -> None:
    factor = {"spinal": 1.0, "unchained": 1.02, "mlp": 0.5, "linear": 3.0}

    def row(function: str, net: str) -> dict:
        generator = np.random.default_rng(sum(map(ord, function + net)))
        tail = np.exp(np.random.default_rng(7).normal(0, 3, 20))  # of the points: all nets have it
        own = np.exp(generator.normal(0, 0.02, 20)) * factor[net]
        mean = tail * (0.1 if function == "product" else 100)
        key = dict(zip(study.KEY, ("paper", function, 1_000, net), strict=True))
        return key | {"test": list(own * tail), "mean": list(mean)}

    rows = [row(f, net) for f in study.PAPER for net in factor]
    found = study.answers({"cells": rows})
    assert len(found) == 12
    verdicts = {(a["function"], a["other"]): a["verdict"] for a in found}
    for function in ("sum", "sin-sum", "sin-product"):
        assert verdicts[function, "unchained"] == "equal"
        assert verdicts[function, "mlp"] == "worse"
        assert verdicts[function, "linear"] == "better"
    assert {v for (f, _), v in verdicts.items() if f == "product"} == {"nothing-learned"}
    assert study.answers({"cells": rows[1:]}) == []

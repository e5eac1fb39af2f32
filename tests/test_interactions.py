"""The study of the chain draws what it says, goes on where it stopped, answers from its file."""

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
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "interactions.py")))
again = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "interactions_again.py")))


def task(group: str, name: str) -> Any:
    return next(t for t in study.tasks() if (t.group, t.name) == (group, name))


def test_tasks_lie_within_or_across_slices() -> None:
    for one in study.tasks():
        slices = one.splits
        for _, numbers in one.terms:
            places = {number * slices // study.FEATURES for number in numbers}
            if "within" in one.name or len(numbers) == 1:
                assert len(places) == 1, one
            elif "across" in one.name:
                assert len(places) == 2, one
            else:
                assert places == {0, slices - 1}, one
    names = [(t.group, t.name) for t in study.tasks()]
    assert len(set(names)) == len(names)
    assert {(g, t) for g, t, _ in study.QUESTIONS} <= set(names)


@pytest.mark.parametrize("name", ["sum", "2 across", "three of 2 across"])
def test_the_class_is_the_sign_of_the_function(name: str) -> None:
    own = task("kind", name)
    (x, y), _, (test_x, _) = study.drawn(own, 3)
    half = study.FEATURES // 2
    value = {
        "sum": lambda: x.sum(1),
        "2 across": lambda: x[:, 0] * x[:, half],
        "three of 2 across": lambda: (x[:, :3] * x[:, half : half + 3]).sum(1),
    }[name]()
    assert torch.equal(y, (value > 0).long())
    assert 0.45 < float(y.float().mean()) < 0.55
    assert not torch.equal(x[:100], test_x[:100])
    assert torch.equal(study.drawn(own, 3)[2][0], test_x)  # a seed draws the same again
    assert not torch.equal(study.drawn(own, 4)[2][0], test_x)


def test_noise_hides_the_function_and_shares_add_up() -> None:
    noisy, plain = task("strength", "50% across, noisy"), task("strength", "50% across")
    assert sum(weight**2 for weight, _ in plain.terms) == pytest.approx(1)
    (x, y), *_ = study.drawn(noisy, 0)
    (same, clean), *_ = study.drawn(plain, 0)
    assert torch.equal(x, same)
    assert 0.6 < float((y == clean).float().mean()) < 0.9


def test_compared_wirings_cost_about_as_much() -> None:
    from spinalnet import count_macs

    macs = {
        (t.layers, t.width): count_macs(study.built("spinal", t, 20, 2, 0), (20,)).total
        for t in study.tasks()
        if t.group == "depth"
    }
    assert max(macs.values()) < 1.15 * min(macs.values())
    own = task("kind", "sum")
    counts = {
        net: sum(p.numel() for p in study.built(net, own, 20, 2, 0).parameters())
        for net in study.ALL
    }
    assert counts["matched"] == pytest.approx(counts["spinal"], rel=0.05)


def test_the_chain_carries_a_product_and_hits_are_packed() -> None:
    own = task("kind", "2 across")
    found = {}
    for net in ("spinal", "unchained"):
        nets, val = study.trained(net, own, study.drawn, (0,), (1e-2,), 15)
        hits = study.right(nets[0], study.drawn(own, 0)[2])
        found[net] = float(hits.mean())
        assert np.array_equal(study.unpacked([study.packed(hits)], len(hits))[0], hits)
        assert abs(val[0] - found[net]) < 0.06
    assert found["spinal"] > 0.9
    assert found["unchained"] < 0.55


def test_a_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str, str]] = []

    def cell(net: str, own: Any, *rest: object) -> dict:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((own.group, own.name, net))
        return {"group": own.group, "task": own.name, "net": net, "test": [0.5], "seconds": 0.0}

    names = study._complete.__globals__
    monkeypatch.setitem(names, "cell", cell)
    out = tmp_path / "out.json"
    run = study.common.Run(tmp_path, out)
    record = {"cells": [], "environments": [{}]}
    with pytest.raises(KeyboardInterrupt):
        study._complete(record, run)
    half = json.loads(out.read_text())
    assert [(row["group"], row["task"], row["net"]) for row in half["cells"]] == made
    made.clear()
    with pytest.raises(KeyboardInterrupt):
        study._complete(half, run)
    assert len(json.loads(out.read_text())["cells"]) == 4
    assert study.answers(half["cells"]) == []  # nothing is concluded while something is missing


def test_what_is_committed_is_of_this_design_and_answers_follow() -> None:
    record = json.loads((study.common.RESULTS / "interactions.json").read_text("utf-8"))
    assert record["design"] == json.loads(json.dumps(study.design()))
    for row in record["cells"]:
        if "right" in row:
            means = study.unpacked(row["right"], study.TEST).mean(1)
            assert means.tolist() == pytest.approx(row["test"], abs=1e-5)
    again = study.answers(record["cells"])
    assert [a["verdict"] for a in again] == [a["verdict"] for a in record["answers"]]
    for one, other in zip(again, record["answers"], strict=True):
        assert one["difference"] == pytest.approx(other["difference"])


def test_overlapping_slices_hold_the_inputs_in_the_middle_both() -> None:
    by = {one.name: one for one in again.tasks() if one.group == "overlap"}
    assert len(by) == 9
    for one in by.values():
        (x, y), *_ = again.drawn(one, 100)
        (plain, same), *_ = study.drawn(one, 100)
        assert torch.equal(y, same)
        assert x.shape[1] == 20 + one.shared
        slices = [set(part.tolist()) for part in one.columns().chunk(2)]
        assert len(slices[0] & slices[1]) == one.shared
        assert slices[0] | slices[1] == set(range(20))
        if one.shared:
            assert torch.equal(x, plain[:, one.columns()])
        ((_, numbers),) = one.terms
        together = any(set(numbers) <= part for part in slices)
        assert together == (one.shared > 0 and not one.name.endswith("first with last"))


def test_without_a_chain_a_product_is_learnt_where_slices_share_its_inputs() -> None:
    by = {one.name: one for one in again.tasks()}
    found = {}
    for name in ("4 shared, tenth with eleventh", "0 shared, tenth with eleventh"):
        nets, _ = study.trained("unchained", by[name], again.drawn, (100,), (1e-2,), 15)
        found[name[0]] = float(study.right(nets[0], again.drawn(by[name], 100)[2]).mean())
    assert found["4"] > 0.9
    assert found["0"] < 0.55


def test_deep_nets_are_the_widest_of_at_most_as_many_parameters() -> None:
    own = again.tasks()[0]
    most = again.count(again.built("spinal", own, 20, 2, 0))
    for net, layers in again.DEEP.items():
        deep = again.built(net, own, 20, 2, 0)
        assert len(deep.hidden_features) == layers
        assert len(set(deep.hidden_features)) == 1
        wider = again.MLPHead(20, 2, [deep.hidden_features[0] + 1] * layers)
        assert again.count(deep) <= most < again.count(wider)


def test_what_is_asked_again_is_a_cell() -> None:
    cells = {(one.group, one.name, net) for one in again.tasks() for net in one.nets}
    for group, name, other in again.QUESTIONS:
        assert {(group, name, "spinal"), (group, name, other)} <= cells
    assert len(again.QUESTIONS) == 12
    assert not set(again.SEEDS["functions"]) & {*study.SEEDS["functions"], *again.TUNING_SEEDS}

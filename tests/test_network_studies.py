"""Studies of whole networks: their runs, kept one by one, and what they answer."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spinalnet import load_runs
from spinalnet.comparison import load_trained
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs
from spinalnet.models import MODELS
from spinalnet.models.trunks import resnet9_trunk
from spinalnet.paper import RECIPES

ROOT = Path(__file__).parents[1]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "wiring.py")))
precision = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "precision.py")))
paper = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "paper_networks.py")))
accuracy = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "accuracy.py")))


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


@pytest.fixture
def short_recipe(monkeypatch: pytest.MonkeyPatch) -> str:
    """A recipe on digits with a narrow net, one epoch long, in the place of the study's."""
    names = accuracy.keys.__globals__
    recipe = RECIPES["fashion-mnist-resnet9"]
    train = replace(recipe.train, epochs=1, amp="off")
    monkeypatch.setitem(RECIPES, recipe.name, replace(recipe, data="digits", train=train))
    narrow = replace(MODELS["resnet9"], trunk=resnet9_trunk(2))
    monkeypatch.setitem(MODELS, "resnet9", narrow)
    task = {"recipe": recipe.name, "tta": "flip", "best": 0.01, "margin": 0.25}
    monkeypatch.setitem(names, "TASKS", {"digits": task})
    monkeypatch.setitem(names, "SEEDS", accuracy.SEEDS[:2])
    return recipe.name


def test_a_recipe_of_our_own_is_held_against_the_best_number_of_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_recipe: str
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "found.json"
    words = ["--data-dir", "data", "--out", str(out)]
    assert accuracy.STUDY.main(words) == 0
    found = json.loads(out.read_text())
    seeds = accuracy.SEEDS[:2]
    assert [(row["seed"], row["head"]) for row in found["cells"]] == [
        (seed, head) for seed in seeds for head in ("spinal", "linear")
    ]
    (answer,) = found["answers"]
    for head in ("spinal", "linear"):
        rows = [row for row in found["cells"] if row["head"] == head]
        assert answer["means"][head] == pytest.approx(np.mean([row["test"] for row in rows]))
        # What an image and its mirror image are answered, by the weights that are kept.
        p, targets = [], torch.empty(0)
        for row in rows:
            path = tmp_path / "runs" / "accuracy" / f"digits-{row['seed']}-{head}"
            assert load_runs(path)[0].config["train"] == {
                **RECIPES[short_recipe].train.to_dict(),
                "seed": row["seed"],
            }
            trained = load_trained(path)
            images, targets = next(trained.load_data().test.batches(1000))
            with torch.no_grad():
                both = [trained.model(view).softmax(1) for view in (images, images.flip(-1))]
            p.append((both[0] + both[1]) / 2)
            assert row["test"] == [
                pytest.approx(float((p[-1].argmax(1) == targets).float().mean()))
            ]
            plain = Outputs.load(path / OUTPUTS_FILE).correct.float().mean()
            assert row["alone"] == [pytest.approx(float(plain))]
        mean = (p[0] + p[1]).argmax(1) == targets
        assert answer["together"][head] == pytest.approx(float(mean.float().mean()), abs=2 / 359)
    difference = answer["means"]["spinal"] - answer["means"]["linear"]
    assert answer["difference"] == pytest.approx(difference)
    assert answer["reached"]
    assert len(found["cells"][0]["said"]) < 20 * 359
    # The page shows both tables when there are runs.
    monkeypatch.syspath_prepend(ROOT / "docs")
    blocks = runpy.run_path(str(ROOT / "docs" / "study_blocks.py"))
    monkeypatch.setitem(blocks["accuracy"].__globals__, "record", lambda name: found)
    mean = f"{100 * answer['means']['spinal']:.2f}"
    assert f"| digits | 1.00 | {mean}: **reached** | " in blocks["BLOCKS"]["accuracy-answers"]()
    assert f"| digits | spinal | {mean} ± " in blocks["BLOCKS"]["accuracy"]()
    assert "4 of 4 runs." in blocks["BLOCKS"]["accuracy"]()
    # A recipe that was changed is another study.
    changed = replace(RECIPES[short_recipe].train, lr=0.1)
    monkeypatch.setitem(RECIPES, short_recipe, replace(RECIPES[short_recipe], train=changed))
    assert accuracy.STUDY.main(words) == 2


def test_a_best_number_is_reached_by_the_mean_of_the_spinal_heads() -> None:
    packed, said_of = sys.modules["common"].packed, sys.modules["networks"].said_of
    examples = 10_000

    def row(head: str, seed: int, wrong: range) -> dict[str, Any]:
        hits = np.ones(examples)
        hits[list(wrong)] = 0
        targets = torch.arange(examples) % 10
        logits = 3.0 * torch.nn.functional.one_hot(
            (targets + torch.tensor(1 - hits)).long() % 10, 10
        )
        outputs = Outputs.of(logits, targets)
        assert np.array_equal(outputs.correct.numpy(), hits > 0)
        own = {"data": "mnist", "head": head, "seed": seed, "examples": examples}
        return own | {"right": packed(hits), "said": said_of(outputs), "test": [hits.mean()]}

    def answered(wrong: int) -> dict[str, Any]:
        wrongs = {"spinal": [range(wrong), range(28), range(28, 56)], "linear": [range(40)] * 3}
        cells = [
            row(head, seed, those)
            for head, of in wrongs.items()
            for seed, those in zip(accuracy.SEEDS, of, strict=True)
        ]
        assert accuracy.answers({"cells": cells[:-1]}) == []
        (answer,) = accuracy.answers({"cells": cells})
        return answer

    exact = answered(28)
    assert exact["means"] == {"spinal": pytest.approx(0.9972), "linear": pytest.approx(0.996)}
    assert exact["reached"]
    # Two of the three are wrong in the same 28 images, the third is outvoted in its own.
    assert exact["together"] == {"spinal": 0.9972, "linear": 0.996}
    assert not answered(29)["reached"]


def test_what_several_networks_say_is_kept_compactly() -> None:
    said_of, together = (getattr(sys.modules["networks"], name) for name in ("said_of", "together"))
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(10, (10_000,), generator=generator)
    right = torch.nn.functional.one_hot(targets, 10)
    # As a net of 95 % says it: all but sure, and unlike from class to class.
    logits = [4 * right + 1.3 * torch.randn(10_000, 10, generator=generator) for _ in range(3)]
    outputs = [Outputs.of(one, targets) for one in logits]
    texts = [said_of(one) for one in outputs]
    assert max(map(len, texts)) < 200_000
    mean = sum(one.double().softmax(1) for one in logits)
    expected = (mean.argmax(1) == targets).numpy()
    assert 0.9 < expected.mean() < 0.9999
    assert abs(together(texts, 10_000) - expected).sum() <= 3  # ties in thousandths
    alone = abs(together(texts[:1], 10_000) - outputs[0].correct.numpy()).sum()
    assert alone <= 10
    silent = Outputs.of(torch.full((2, 10), torch.nan), targets[:2])
    assert together([said_of(silent)] * 3, 2).tolist() == [0, 0]

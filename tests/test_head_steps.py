"""Heads on features in memory: `fit` trains them by compiled steps, and nothing else changes."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spinalnet.data.batches import ArrayDataset
from spinalnet.kernels import native
from spinalnet.models import head_steps
from spinalnet.models.assembly import ImageModel
from spinalnet.models.features import FeatureDataset
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet
from spinalnet.training import TrainConfig, fit
from spinalnet.training.learner import ModelLearner

pytestmark = pytest.mark.skipif(
    native.extension is None, reason="the compiled kernels are not installed"
)

HEADS = {
    "spinal": lambda **o: SpinalNet(12, 3, 5, 4, **o),
    "unchained": lambda **o: UnchainedNet(12, 3, 5, 4, **o),
    "mlp": lambda **o: MLPHead(12, 3, 9, **o),
    "linear": lambda **o: LinearHead(12, 3, **o),
}
CONFIGS = {
    "adamw": TrainConfig(epochs=4, batch_size=16, lr=0.01, weight_decay=0.1, decay_norms=False),
    "sgd": TrainConfig(epochs=4, batch_size=16, lr=0.1, optimizer="sgd", clip_norm=0.5),
    "plateau": TrainConfig(epochs=4, batch_size=16, lr=0.01, schedule="divide-on-plateau"),
    "restart": TrainConfig(epochs=4, batch_size=16, lr=0.01, phases=((0.01, 2), (0.001, 2))),
}


def data(views: int = 1, count: int = 70) -> tuple[list[torch.Tensor], torch.Tensor]:
    targets = torch.randint(0, 3, (count,))
    return [torch.randn(count, 12) + targets[:, None] for _ in range(views)], targets


def model(kind: str, **options: Any) -> ImageModel:
    return ImageModel(nn.Identity(), HEADS[kind](**options), "features")


class InTurn:
    """The same views as a source that knows no quicker way."""

    def __init__(self, views: list[torch.Tensor], targets: torch.Tensor) -> None:
        self.targets, self.views = targets, [ArrayDataset(view, targets) for view in views]

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, batch_size: int, *, epoch: int = 0, **options: Any) -> Any:
        return self.views[epoch % len(self.views)].batches(batch_size, epoch=epoch, **options)


def numbers(history: Any) -> list[list[float]]:
    return [[value for key, value in row.items() if key != "seconds"] for row in history]


@pytest.mark.parametrize("count", [17, 65])
def test_a_single_row_left_over_joins_the_batch_before(count: int) -> None:
    (views, targets), ((val,), val_targets) = data(1, count), data(1, 30)
    held_out, config = ArrayDataset(val, val_targets), CONFIGS["adamw"]
    ours = model("spinal")
    theirs = copy.deepcopy(ours)
    steps: list[tuple[int, int]] = []

    def tell(progress: Any) -> None:
        if progress.phase == "train":
            steps.append((progress.step, progress.steps))

    found = fit(ours, FeatureDataset(views, targets), held_out, config)
    expected = fit(theirs, InTurn(views, targets), held_out, config, on_progress=tell)
    for mine, other in zip(numbers(found.history), numbers(expected.history), strict=True):
        assert mine == pytest.approx(other, abs=2e-5)
    batches = count // config.batch_size
    assert steps == [(step + 1, batches) for _ in range(4) for step in range(batches)]


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("kind", HEADS)
def test_fit_finds_the_same_as_batch_by_batch(kind: str, settings: str, tmp_path: Path) -> None:
    config = CONFIGS[settings]
    (views, targets), ((val,), val_targets) = data(2), data(1, 30)
    held_out = ArrayDataset(val, val_targets)
    ours = model(kind)
    theirs = copy.deepcopy(ours)
    quick, slow = FeatureDataset(views, targets), InTurn(views, targets)
    assert isinstance(quick.learner(ours, held_out, config), head_steps.HeadLearner)
    found = fit(ours, quick, held_out, config, out=tmp_path / "ours")
    expected = fit(theirs, slow, held_out, config, out=tmp_path / "theirs")
    assert found.best_epoch == expected.best_epoch
    assert [list(row) for row in found.history] == [list(row) for row in expected.history]
    for mine, other in zip(numbers(found.history), numbers(expected.history), strict=True):
        assert mine == pytest.approx(other, abs=2e-5)
    states = ours.state_dict(), theirs.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], atol=2e-4), name
    places = {p.untyped_storage().data_ptr() for p in ours.parameters()}
    assert len(places) == len(list(ours.parameters()))  # each has memory of its own again
    kept = [torch.load(tmp_path / one / "state.pt") for one in ("ours", "theirs")]
    memory = [state["optimizer"]["state"] for state in kept]
    assert memory[0].keys() == memory[1].keys()
    for index in memory[0]:
        assert memory[0][index].keys() == memory[1][index].keys()
        for name, value in memory[0][index].items():
            assert torch.allclose(value, memory[1][index][name], atol=1e-3), name


@pytest.mark.parametrize("settings", CONFIGS)
def test_an_interrupted_run_goes_on_bit_by_bit(settings: str, tmp_path: Path) -> None:
    config = CONFIGS[settings]
    (views, targets), ((val,), val_targets) = data(2), data(1, 30)
    train, held_out = FeatureDataset(views, targets), ArrayDataset(val, val_targets)
    whole = model("spinal", dropout=0.2)
    begun, again = copy.deepcopy(whole), copy.deepcopy(whole)
    expected = fit(whole, train, held_out, config)

    def stop(progress: Any) -> None:
        if progress.phase == "train" and progress.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(begun, train, held_out, config, out=tmp_path / "run", on_progress=stop)
    found = fit(again, train, held_out, config, out=tmp_path / "run")
    assert numbers(found.history) == numbers(expected.history)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_run_that_was_begun_batch_by_batch_goes_on(tmp_path: Path) -> None:
    (views, targets), ((val,), val_targets) = data(), data(1, 30)
    config, held_out = CONFIGS["adamw"], ArrayDataset(val, val_targets)
    whole = model("spinal")
    begun, again = copy.deepcopy(whole), copy.deepcopy(whole)
    fit(whole, InTurn(views, targets), held_out, config)

    def stop(progress: Any) -> None:
        if progress.phase == "epoch" and progress.epoch == 2:
            raise KeyboardInterrupt

    slow = InTurn(views, targets)
    with pytest.raises(KeyboardInterrupt):
        fit(begun, slow, held_out, config, out=tmp_path / "run", on_progress=stop)
    fit(again, FeatureDataset(views, targets), held_out, config, out=tmp_path / "run")
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, again.state_dict()[name], atol=2e-5), name


def test_a_regression_is_trained_so_too() -> None:
    x, val = torch.randn(70, 12), torch.randn(30, 12)
    targets, wanted = x[:, :3] * 2, val[:, :3] * 2
    config = CONFIGS["adamw"]
    ours = model("spinal")
    theirs = copy.deepcopy(ours)
    held_out = ArrayDataset(val, wanted)
    found = fit(ours, FeatureDataset([x], targets), held_out, config)
    expected = fit(theirs, InTurn([x], targets), held_out, config)
    assert [list(row) for row in found.history] == [list(row) for row in expected.history]
    for mine, other in zip(numbers(found.history), numbers(expected.history), strict=True):
        assert mine == pytest.approx(other, abs=2e-5)


def test_what_has_no_compiled_steps_is_trained_batch_by_batch() -> None:
    (views, targets), ((val,), val_targets) = data(), data(1, 30)
    train, held_out = FeatureDataset(views, targets), ArrayDataset(val, val_targets)
    rows, config = (views[0], targets), CONFIGS["adamw"]
    for kind, options, changes, reason in (
        ("spinal", {"norm": "batch"}, {}, "norms"),
        ("mlp", {}, {"label_smoothing": 0.1}, "label_smoothing"),
        ("mlp", {}, {"amp": "bf16"}, "amp=bf16"),
    ):
        net, own = model(kind, **options), dataclasses.replace(config, epochs=2, **changes)
        assert reason in (head_steps.why_not(net, own, rows) or "")
        assert type(train.learner(net, held_out, own)) is ModelLearner
        fit(net, train, held_out, own)
    heard = model("mlp")
    heard.register_forward_hook(lambda *_: None)
    assert head_steps.why_not(heard, config, rows) is not None
    column = (views[0], torch.randn(70))
    assert "one column per output" in (head_steps.why_not(model("mlp"), config, column) or "")

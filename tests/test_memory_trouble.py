"""Trouble with memory and numbers: survived, or ended in a sentence that says what to try."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spinalnet import SpinalNet, TrainingError
from spinalnet.comparison.cells import explained
from spinalnet.data import ArrayDataset
from spinalnet.training import RunFolder, TrainConfig, fit
from spinalnet.training.trouble import MemoryShort


def rows(n: int = 70, classes: int = 4, seed: int = 0) -> ArrayDataset:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(n) % classes
    x = torch.randn(n, 12, generator=generator)
    x[:, :4] += 2 * nn.functional.one_hot(targets % 4, 4)
    return ArrayDataset(x, targets)


class Narrow(nn.Module):
    """Has memory for so many rows at once, as a GPU that is nearly full."""

    def __init__(self, room: int, *, norm: bool = False, backward: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(12, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.head = SpinalNet(16, 4, hidden_features=6, num_layers=3, dropout=0.2)
        self.room, self.backward, self.most = room, backward, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not self.backward:
            self.check(len(x))
        hidden = nn.functional.dropout(self.norm(self.first(x)).relu(), 0.2, self.training)
        if self.training and self.backward:
            hidden.register_hook(lambda g: self.check(len(g)))
        return self.head(hidden)

    def check(self, count: int) -> None:
        if count > self.room:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: "
                f"you tried to allocate {count * 2**30} bytes. Error code 12 (Cannot allocate)"
            )
        self.most = max(self.most, count)


def trained(room: int, **options: Any) -> tuple[Any, Narrow]:
    made = {name: options.pop(name) for name in ("norm", "backward") if name in options}
    model = Narrow(room, **made)
    config = TrainConfig(**{"epochs": 3, "batch_size": 32, "device": "cpu", **options})
    return fit(model, rows(), rows(20, seed=1), config), model


@pytest.mark.parametrize("backward", [False, True])
def test_short_memory_divides_batches_and_the_result_is_the_same(backward: bool) -> None:
    whole, _ = trained(1000)
    found, model = trained(9, batch_size="auto", backward=backward)
    assert model.most == 8
    assert TrainConfig(batch_size="auto") == TrainConfig(accumulate=0)  # type: ignore[arg-type]
    whole, _ = trained(1000, batch_size=64)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    losses = [[row["train_loss"] for row in one.history] for one in (found, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    said = [note for note in found.notes if note.startswith("Memory is short")]
    assert len(said) == 3  # by two, by four, by eight
    assert "(64 GiB at once): batches of 64 are computed in 2 parts" in said[0]
    assert "accumulate=8 begins so" in said[2]


@pytest.mark.parametrize("parts", [2, 3, 32])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_batches_in_parts_give_the_gradients_of_whole_ones(parts: int, clip: float) -> None:
    whole, _ = trained(1000, clip_norm=clip)
    found, model = trained(math.ceil(32 / parts), clip_norm=clip, accumulate=parts)
    assert model.most == math.ceil(32 / parts)
    assert not any("atch normalisation" in note for note in found.notes)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_that_batch_norm_is_an_exception_is_told() -> None:
    found, model = trained(8, accumulate=4, norm=True)
    assert model.most == 8
    assert sum("statistics from each part of a batch" in note for note in found.notes) == 1
    found, _ = trained(8, accumulate=0, norm=True)
    assert sum("statistics from each part of a batch" in note for note in found.notes) == 1


def test_memory_that_does_not_do_is_one_sentence_with_the_batch_size() -> None:
    with pytest.raises(MemoryShort, match=r"at batch_size=32 \(32 GiB at once\): set accumulate=2"):
        trained(16)
    with pytest.raises(MemoryShort, match=r"at batch_size=32 in 2 parts \(16 GiB at once\)"):
        trained(8, accumulate=2)
    with pytest.raises(MemoryShort, match="not even the smallest parts fit") as error:
        trained(0, accumulate=0)
    failure = explained(error.value)
    assert (failure.kind, failure.reason) == ("memory", str(error.value))


def test_memory_that_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    """With a real limit, and the command."""
    code = """
import resource, sys, torch
import spinalnet.comparison.running, spinalnet.data.readers, sklearn.datasets
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 400 * 2**20, -1))
from spinalnet.cli.root import main
main()
"""
    words = ["train", "digits", "--limit", "1200", "--batch-size", "1200", "--epochs", "1"]
    words += ["--model", "vgg5", "--device", "cpu", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error out of memory in training at --batch-size 1200 (")
    assert "set --accumulate 2" in last
    assert "--batch-size auto" in last


def test_validation_out_of_memory_names_its_own_option() -> None:
    class Wide(Narrow):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not self.training and len(x) > 70:
                raise MemoryError
            return super().forward(x)

    config = TrainConfig(epochs=1, device="cpu")
    with pytest.raises(MemoryShort, match="in validation: lower eval_batch_size=512"):
        fit(Wide(1000), rows(), rows(100), config)


# --- numbers --------------------------------------------------------------------------------------


class Poisoned(nn.Module):
    """Gives a loss that is not finite wherever an input is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def with_poison(*places: int) -> ArrayDataset:
    data = rows()
    for place in places:
        data.inputs[place] = math.nan
    return data


def test_a_step_that_is_not_finite_can_be_left_out_and_is_counted() -> None:
    config = TrainConfig(epochs=3, batch_size=16, on_nonfinite="skip", device="cpu", lr=0.1)
    found = fit(Poisoned(), with_poison(3), rows(20, seed=1), config)
    assert all(torch.isfinite(value).all() for value in found.model.state_dict().values())
    assert found.val.accuracy is not None
    assert found.val.accuracy > 0.5
    note = "3 steps were left out, as the loss or a gradient was not finite"
    assert sum(one.startswith(note) for one in found.notes) == 1
    # With the longhand: every other batch of the same order, by a loop of one's own.
    model = Poisoned()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    steps = 5
    for epoch in range(3):
        for step, (x, y) in enumerate(with_poison(3).batches(16, shuffle=True, epoch=epoch)):
            at = (epoch * steps + step) / (3 * steps)
            optimizer.param_groups[0]["lr"] = 0.1 * 0.5 * (1 + math.cos(math.pi * at))
            if not torch.isfinite(x).all():
                continue
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    if found.best_epoch == 3:
        torch.testing.assert_close(found.model.net.weight, model.net.weight)


def test_a_run_of_nothing_but_bad_steps_ends() -> None:
    config = TrainConfig(epochs=3, batch_size=16, on_nonfinite="skip", device="cpu")
    with pytest.raises(TrainingError, match=r"not finite in epoch 1 .*|5 steps on end"):
        fit(Poisoned(), with_poison(*range(70)), rows(20), config)


def test_a_gradient_that_is_not_finite_is_left_out_too() -> None:
    class Sharp(Poisoned):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # The square root of zero has a finite value and an infinite slope.
            root = (self.net(x) * (x[:, :1] != 9.0)).abs().sqrt()
            return root

    data = rows()
    data.inputs[5] = 9.0
    config = TrainConfig(epochs=2, batch_size=16, on_nonfinite="skip", device="cpu")
    found = fit(Sharp(), data, rows(20, seed=1), config)
    assert any(note.startswith("2 steps were left out") for note in found.notes)
    with pytest.raises(TrainingError, match="loss is not finite"):
        fit(Sharp(), data, rows(20, seed=1), TrainConfig(epochs=2, batch_size=16, device="cpu"))


def test_without_skipping_the_last_good_state_is_kept(tmp_path: Path) -> None:
    """Also where epochs are saved within: weights that are not numbers are not saved."""
    calls = itertools.count()

    class Late(Poisoned):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            if self.training and next(calls) == 13:
                # A gradient that is not finite, with a loss that is.
                y.register_hook(lambda g: g * math.nan)
            return y

    config = TrainConfig(epochs=4, batch_size=16, save_every="0.000001s", device="cpu")
    with pytest.raises(TrainingError, match="is not finite in epoch 3"):
        fit(Late(), rows(), rows(20, seed=1), config, out=tmp_path)
    state = RunFolder(tmp_path).load_state()
    assert state is not None
    assert (state["epoch"], state["within"]["step"]) == (2, 3)
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def notes_of(model: nn.Module, train: ArrayDataset, val: ArrayDataset, **options: Any) -> list[str]:
    config = TrainConfig(**{"epochs": 3, "batch_size": 16, "lr": 0.1, "device": "cpu", **options})
    return list(fit(model, train, val, config).notes)


def test_a_class_that_is_never_predicted_is_named() -> None:
    class Blind(Poisoned):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return y if self.training else y - 100.0 * torch.tensor([0.0, 0.0, 1.0, 0.0])

    (note,) = notes_of(Blind(), rows(), rows(40, seed=1))
    assert note.startswith("Class 2 (of 4) was never predicted in the best epoch")
    assert "hold 10 examples of it" in note
    assert "class_weights=balanced" in note
    assert notes_of(Blind(), rows(), rows(16, seed=1)) == []  # too few to mean anything
    assert notes_of(Poisoned(), rows(), rows(40, seed=1)) == []


def test_units_that_are_all_dead_are_explained() -> None:
    torch.manual_seed(0)
    dead = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        dead[0].bias.fill_(-1000.0)
    notes = notes_of(dead, rows(), rows(40, seed=1), lr=1e-4)
    (note,) = [note for note in notes if "learned nothing" in note]
    assert note.startswith("0.weight, 2.weight learned nothing for two epochs")
    assert "every unit of a ReLU is dead" in note
    assert "Lower lr" in note


def test_units_of_a_head_on_features_that_are_all_dead_are_explained() -> None:
    from spinalnet.models.features import FeatureDataset
    from spinalnet.training.learning import StepsLearner
    from spinalnet.training.loop import Loop

    data = rows()
    head = SpinalNet(12, 4, hidden_features=4, num_layers=2, activation="relu")
    with torch.no_grad():
        for linear in head.spine.linears():
            linear.bias.fill_(-1000.0)
    features = FeatureDataset([data.inputs], data.targets)
    config = TrainConfig(epochs=3, batch_size=16, device="cpu", lr=1e-4)
    learner = features.learner(head, features, config)
    assert isinstance(learner, StepsLearner)
    loop = Loop(learner, config)
    with learner.all_released_after():
        while not loop.stopped:
            loop.run_epoch()
    assert any("learned nothing for two epochs" in note for note in loop.notes)


def test_validation_data_of_one_class_are_told() -> None:
    val = rows(20, seed=1)
    val.targets[:] = 3
    notes = notes_of(Poisoned(), rows(), val)
    assert any("hold one class only (class 3, 20 examples)" in note for note in notes)


def test_a_loss_that_explodes_is_told() -> None:
    notes = notes_of(Poisoned(), rows(), rows(40, seed=1), lr=300.0, optimizer="sgd", momentum=0.99)
    assert any(note.startswith("The training loss has exploded") for note in notes)
    assert not any("exploded" in note for note in notes_of(Poisoned(), rows(), rows(40, seed=1)))

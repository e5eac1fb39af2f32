import copy
import dataclasses
import itertools
import json
import math
import os
import random
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from helpers import Started
from spinalnet import _dist
from spinalnet._checks import InputError, TrainingError
from spinalnet.training import runs
from spinalnet.training.config import TrainConfig
from spinalnet.training.evaluation import Metrics, evaluate, predict_logits
from spinalnet.training.fitting import fit
from spinalnet.training.loop import Progress
from spinalnet.training.placement import bf16_instructions
from spinalnet.training.updates import clip_gradients

CLASSES = 3


class Source:
    """Examples in memory, in an order that (seed, epoch) decide; remembers what it was asked."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets
        self.asked = []

    def __len__(self):
        return len(self.inputs)

    def batches(
        self,
        batch_size,
        *,
        device="cpu",
        shuffle=False,
        seed=0,
        epoch=0,
        augment="none",
        channels_last=False,
    ):
        self.asked.append((batch_size, shuffle, seed, epoch, augment, channels_last))
        order = torch.arange(len(self))
        if shuffle:
            generator = torch.Generator().manual_seed(seed * 1000 + epoch)
            order = torch.randperm(len(self), generator=generator)
        for index in order.split(batch_size):
            yield self.inputs[index].to(device), self.targets[index].to(device)


def classes_source(n=48, seed=0, features=8):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, features, generator=generator)
    return Source(inputs, inputs[:, :CLASSES].argmax(1))


def regression_source(n=48, seed=0, outputs=2):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 8, generator=generator)
    return Source(inputs, inputs[:, :outputs] * 2 + 1)


def mlp(outputs=CLASSES, *, norm=False, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Linear(8, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, outputs)]
    if norm:
        layers.insert(1, nn.BatchNorm1d(32))
    return nn.Sequential(*layers)


@pytest.fixture
def one_thread():
    """Sums are split by the number of threads: bit equality with another process needs one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Deep(nn.Module):
    """A trunk of two stages with all that must rest when frozen, and a head."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.low = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.high = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.ReLU())
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.high(self.low(x)))

    def depth_groups(self):
        return [list(part.parameters()) for part in (self.head, self.high, self.low)]


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_with(model=None, data=None, on_progress=None, **options):
    """Fit a small network with `options`; return the result."""
    options = {"epochs": 2, "batch_size": 16, "lr": 0.01, "schedule": "constant"} | options
    data = data or classes_source()
    model, config = model or mlp(), TrainConfig(**options)
    return fit(model, data, classes_source(seed=1), config, on_progress=on_progress)


def lrs(result):
    return [row["lr"] for row in result.history]


# Learning


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_64_examples_are_learned_by_heart(optimizer):
    generator = torch.Generator().manual_seed(0)
    data = Source(
        torch.randn(64, 8, generator=generator), torch.randint(CLASSES, (64,), generator=generator)
    )
    lr = 0.2 if optimizer == "sgd" else 0.02
    config = TrainConfig(epochs=150, batch_size=16, lr=lr, optimizer=optimizer)
    torch.manual_seed(0)
    result = fit(nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 3)), data, data, config)
    assert evaluate(result.model, data).accuracy == 1.0
    assert result.task == "classification"


def test_a_regression_is_learned():
    data, unseen = regression_source(), regression_source(seed=1)
    result = fit(mlp(2), data, unseen, TrainConfig(epochs=80, batch_size=16, lr=0.02))
    assert result.task == "regression"
    assert evaluate(result.model, unseen).r2 > 0.95
    assert set(result.history[0]) == {
        *("epoch", "lr", "train_loss", "val_loss", "val_mae", "val_r2", "seconds")
    }
    assert result.val.loss == min(row["val_loss"] for row in result.history)


def test_a_row_holds_what_its_names_say():
    data, val = classes_source(16), classes_source(40, seed=1)
    model = mlp()
    start = evaluate(model, data)
    result = fit(model, data, val, TrainConfig(epochs=1, batch_size=16, lr=0.01))
    (row,) = result.history
    assert set(row) == {
        *("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
    }
    # One step an epoch: the training loss is that of the weights before it.
    assert row["train_loss"] == pytest.approx(start.loss)
    assert row["train_accuracy"] == pytest.approx(start.accuracy)
    end = evaluate(model, val)
    assert (row["val_loss"], row["val_accuracy"]) == (end.loss, end.accuracy)
    assert row["epoch"] == 1
    assert row["seconds"] > 0.0


def test_training_matches_a_plain_torch_loop():
    data = classes_source(50)
    model, reference = mlp(seed=3), mlp(seed=3)
    fit(model, data, data, TrainConfig(epochs=1, batch_size=16, optimizer="sgd", lr=0.1))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for step, (inputs, targets) in enumerate(data.batches(16, shuffle=True)):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 4))
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(inputs), targets).backward()
        optimizer.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


# The best epoch


def test_the_best_weights_survive_a_ruinous_later_phase(tmp_path):
    val = classes_source(seed=1)
    config = TrainConfig(
        phases=((0.05, 10), (50.0, 3)), batch_size=16, optimizer="sgd", schedule="constant"
    )
    model = mlp()
    result = fit(model, classes_source(), val, config, out=tmp_path)
    accuracies = [row["val_accuracy"] for row in result.history]
    assert result.best_epoch <= 10
    assert accuracies[-1] < result.val.accuracy == max(accuracies)
    assert result.model is model
    assert not model.training
    measured = evaluate(model, val)
    assert dataclasses.replace(measured, confusion=None) == result.val
    assert same(runs.RunFolder(tmp_path).load_model()[0], model.state_dict())


def test_ties_in_accuracy_go_to_the_lower_loss():
    result = train_with(epochs=30)
    best = max(result.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert result.best_epoch == best["epoch"]
    ties = [row for row in result.history if row["val_accuracy"] == best["val_accuracy"]]
    assert len(ties) > 1


def test_a_model_that_is_never_right_still_returns_its_best_trained_epoch():
    val = Source(torch.zeros(4, 8), torch.full((4,), 2))
    model = mlp()
    nn.init.constant_(model[-1].bias, 0.0)
    with torch.no_grad():
        model[-1].bias[2] = -100.0
    before = weights_of(model)
    result = fit(model, classes_source(), val, TrainConfig(epochs=2, batch_size=16))
    assert result.val.accuracy == 0.0
    assert not same(before, model.state_dict())


# Options: each has its effect


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd"},
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"optimizer": "adam", "weight_decay": 0.5},
        {"optimizer": "sgd", "weight_decay": 0.5},
        {"optimizer": "sgd", "momentum": 0.0},
        {"batch_size": 8},
        {"lr": 0.02},
        {"schedule": "cosine"},
        {"warmup_epochs": 1.0},
        {"schedule": "step", "step_size": 1},
        {"schedule": "step", "step_size": 1, "gamma": 0.5},
        {"phases": [[0.01, 1], [0.01, 1]]},
        {"weight_decay": 0.5, "decay_norms": False},
        {"clip_norm": 0.1},
        {"label_smoothing": 0.2},
        {"class_weights": "balanced"},
        {"ema_decay": 0.9},
        {"amp": "bf16"},
        {"seed": 1},
    ],
    ids=str,
)
def test_every_option_changes_the_result(options):
    data = classes_source()
    data.targets[:30] = 0  # uneven classes
    plain = weights_of(train_with(data=data).model)
    if options.get("optimizer") == "sgd" and len(options) > 1:
        plain = weights_of(train_with(data=data, optimizer="sgd").model)
    assert not same(plain, train_with(data=data, **options).model.state_dict())


def test_clipping_bounds_the_step():
    model = mlp()
    before = weights_of(model)
    train_with(model, epochs=1, batch_size=48, optimizer="sgd", lr=1.0, clip_norm=1e-3)
    moved = sum((model.state_dict()[n] - before[n]).square().sum() for n in before).sqrt()
    assert moved == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("limit", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("shapes", [[(40,)], [(3, 4), (4,), (2,)]])
def test_clipping_is_that_of_torch(limit, shapes):
    ours = [nn.Parameter(torch.zeros(shape)) for shape in [*shapes, (5,)]]
    for parameter in ours[:-1]:  # one is at rest
        parameter.grad = torch.randn(parameter.shape)
    theirs = [copy.deepcopy(parameter) for parameter in ours]
    for a, b in zip(ours[:-1], theirs, strict=False):
        b.grad = a.grad.clone()
    clip_gradients(ours, TrainConfig(clip_norm=limit))
    nn.utils.clip_grad_norm_(theirs, limit or math.inf)
    assert ours[-1].grad is None
    for a, b in zip(ours[:-1], theirs, strict=False):
        assert torch.equal(a.grad, b.grad)


def test_label_smoothing_is_in_the_training_loss_only():
    data = classes_source(16)
    model = mlp()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(
            model(data.inputs), data.targets, label_smoothing=0.3
        )
    result = fit(model, data, data, TrainConfig(epochs=1, batch_size=16, label_smoothing=0.3))
    assert result.history[0]["train_loss"] == pytest.approx(float(expected))
    assert result.val.loss == pytest.approx(evaluate(model, data).loss)


def test_balanced_class_weights_equal_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    data = classes_source(30)
    data.targets = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)
    weight = compute_class_weight("balanced", classes=np.arange(3), y=data.targets.numpy())
    model = mlp()
    with torch.no_grad():
        expected = nn.functional.cross_entropy(
            model(data.inputs), data.targets, weight=torch.tensor(weight, dtype=torch.float32)
        )
    config = TrainConfig(epochs=1, batch_size=30, class_weights="balanced")
    result = fit(model, data, data, config)
    assert result.history[0]["train_loss"] == pytest.approx(float(expected))


def test_balanced_weights_are_the_same_whether_targets_are_known_or_read():
    data = classes_source(30)
    config = TrainConfig(epochs=1, batch_size=30, class_weights="balanced")
    known = fit(mlp(), data, data, config).history[0]["train_loss"]
    (batch,) = data.batches(30, shuffle=True)
    assert fit(mlp(), [batch], data, config).history[0]["train_loss"] == pytest.approx(known)


def test_classes_without_examples_do_not_break_balanced_weights():
    data = Source(torch.randn(16, 8), torch.arange(16) % 2)
    config = TrainConfig(epochs=1, class_weights="balanced", label_smoothing=0.1)
    assert math.isfinite(fit(mlp(), data, data, config).history[0]["train_loss"])


def test_averaged_weights_follow_their_rule_with_buffers():
    data = classes_source(32)
    model = mlp(norm=True)
    seen = [weights_of(model)]

    def watch(progress):
        if progress.phase == "train":
            seen.append(weights_of(model))

    config = TrainConfig(epochs=1, batch_size=8, lr=0.05, schedule="constant", ema_decay=0.3)
    result = fit(model, data, data, config, on_progress=watch)
    expected = seen[0]
    for updates, current in enumerate(seen[1:], start=1):
        decay = min(0.3, updates / (updates + 9))
        for name, tensor in current.items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
            else:
                expected[name] = tensor
    for name, tensor in result.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert evaluate(result.model, data).loss == pytest.approx(result.val.loss)


def test_bf16_trains_under_autocast_and_keeps_float32_weights():
    seen = []
    model = mlp()
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    result = train_with(model, amp="bf16", epochs=20)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert result.val.accuracy > 0.6


@pytest.mark.parametrize(
    ("found", "known"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "amx_bf16, avx512_bf16"),
        ({"amx_bf16": False, "avx512_bf16": False}, "none"),
        ({"bf16": True, "sve_bf16": False}, "bf16"),
        ({"architecture": "another"}, None),
        (None, None),
    ],
)
def test_bf16_on_a_processor_without_it_is_told_before_the_first_step(found, known, monkeypatch):
    if found is None:  # as in older torch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert bf16_instructions() == known
    for amp, is_told in (("bf16", known == "none"), ("off", False)):
        told: list[Progress] = []
        result = train_with(amp=amp, epochs=1, on_progress=told.append)
        assert (told[0].phase == "note") is is_told
        assert sum("no bf16 instructions" in note for note in result.notes) == is_told


def test_channels_last_reaches_the_filters_and_the_data():
    inputs = torch.randn(16, 3, 6, 6)
    data = Source(inputs, torch.arange(16) % CLASSES)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES))
    layouts = []
    model[0].register_forward_pre_hook(
        lambda module, args: layouts.append(
            args[0].is_contiguous(memory_format=torch.channels_last)
            and module.weight.is_contiguous(memory_format=torch.channels_last)
        )
    )
    fit(model, data, data, TrainConfig(epochs=1, channels_last=True))
    assert layouts
    assert all(layouts)
    assert all(options[-1] for options in data.asked)


def test_early_stopping_counts_epochs_without_a_new_best():
    result = train_with(epochs=50, lr=1e-12, optimizer="sgd", early_stopping=3)
    assert result.stopped == "early_stopping"
    assert result.epochs_run == result.best_epoch + 3
    assert train_with(early_stopping=3).stopped == "epochs"


def test_deterministic_mode_is_on_inside_and_restored_after():
    seen = []

    def watch(progress):
        seen.append(
            (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic)
        )

    data = classes_source()
    fit(mlp(), data, data, TrainConfig(epochs=1, deterministic=True), on_progress=watch)
    assert set(seen) == {(True, True)}
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_the_source_is_asked_for_seed_epoch_and_augmentation_in_training_only():
    data, val = classes_source(), classes_source(seed=1)
    config = TrainConfig(epochs=2, batch_size=16, eval_batch_size=7, seed=5, augment="flip")
    fit(mlp(), data, val, config)
    trained = [options for options in data.asked if options[1]]
    assert trained == [(16, True, 5, epoch, "flip", True) for epoch in (0, 1)]
    assert set(val.asked) == {(7, False, 0, 0, "none", True)}


# Seeds


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    results = []
    for _ in range(2):
        results.append(weights_of(train_with(mlp(dropout=0.5)).model))
        torch.rand(3)
    assert same(*results)
    assert not same(results[0], train_with(mlp(dropout=0.5), seed=1).model.state_dict())


def test_fit_seeds_all_three_generators_and_gives_them_back():
    draws = []

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    def states():
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return random.getstate(), numpy, torch.get_rng_state().tolist()

    def watch(progress):
        if progress.phase == "validate":
            draws.append(draw())

    data = classes_source()
    for _ in range(2):
        model = mlp()
        draw()
        before = states()
        fit(model, data, data, TrainConfig(epochs=2), on_progress=watch)
        assert states() == before
        draw()
    assert draws[:2] == draws[2:]
    assert all(first != second for first, second in zip(*draws[:2], strict=True))


# Learning rate


def curve(epochs, **options):
    return lrs(train_with(epochs=epochs, batch_size=48, optimizer="sgd", lr=0.1, **options))


def test_open_schedules_follow_their_formulas():
    assert curve(4, schedule="constant") == [0.1] * 4
    assert curve(5, schedule="step", step_size=2) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])
    expected = [0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert curve(4, schedule="cosine") == pytest.approx(expected)
    assert curve(4, schedule="constant", warmup_epochs=4) == pytest.approx(
        [0.025, 0.05, 0.075, 0.1]
    )
    warm = curve(6, schedule="cosine", warmup_epochs=2)
    assert warm == pytest.approx(
        [0.05, 0.1, *(0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4))]
    )
    cycle = curve(10, schedule="one-cycle")
    assert cycle[0] == pytest.approx(0.1 / 25)
    assert cycle[3] == max(cycle) == pytest.approx(0.1)
    assert cycle[-1] < 0.1 / 15


def test_warm_up_moves_within_an_epoch():
    seen = train_with(epochs=1, batch_size=12, lr=0.1, warmup_epochs=2)
    assert lrs(seen) == pytest.approx([0.05])  # after the fourth of eight steps


def test_phases_restart_schedule_and_optimizer():
    phases = ((0.1, 3), (0.01, 2))
    result = train_with(phases=phases, batch_size=48, optimizer="sgd", schedule="step", step_size=2)
    assert lrs(result) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01])
    # With momentum, the first step of a phase is a plain gradient step.
    data = classes_source()
    model = mlp()
    seen = []

    def watch(progress):
        if progress.phase in ("train", "validate"):
            seen.append(weights_of(model))

    config = TrainConfig(
        phases=((0.1, 2), (0.1, 1)), batch_size=48, optimizer="sgd", schedule="constant"
    )
    fit(model, data, data, config, on_progress=watch)
    previous, current = seen[2], seen[4]
    model.load_state_dict(previous)
    model.zero_grad()
    nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(current[name], previous[name] - 0.1 * parameter.grad)


# Mixtures


def pictures(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, 6, 6, generator=generator)
    return Source(images, images.mean((2, 3)).argmax(1))


class Watching(nn.Module):
    """A linear classifier of pictures that keeps what it was shown in training."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(108, CLASSES)
        self.shown = []

    def forward(self, images):
        if self.training:
            self.shown.append(images.clone())
        return self.linear(images.flatten(1))


def mixed_fit(model=None, data=None, **options):
    options = {"epochs": 2, "batch_size": 12, "lr": 0.01, "channels_last": False} | options
    data = data or pictures()
    return fit(model or Watching(), data, pictures(seed=1), TrainConfig(**options))


def test_mixup_blends_pictures_and_classes_alike():
    data, model = pictures(12), Watching()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"epochs": 1, "label_smoothing": 0.1, "class_weights": "balanced"}
    result = mixed_fit(model, data, mix="mixup:1", **options)
    ((images, targets),) = data.batches(12, shuffle=True)
    (shown,) = model.shown
    share = ((shown - images.roll(1, 0)) / (images - images.roll(1, 0))).median()
    assert 0.02 < share < 0.98
    torch.testing.assert_close(shown, share * images + (1 - share) * images.roll(1, 0))
    classes = nn.functional.one_hot(targets, CLASSES).float()
    shares = share * classes + (1 - share) * classes.roll(1, 0)
    plain = Watching()
    plain.load_state_dict(start)
    logits = plain(shown).detach()
    counts = torch.bincount(targets, minlength=CLASSES)
    weight = 12 / (CLASSES * counts)
    loss = nn.functional.cross_entropy(logits, shares, weight, label_smoothing=0.1, reduction="sum")
    (row,) = result.history
    assert row["train_loss"] == pytest.approx(float(loss / (shares @ weight).sum()), rel=1e-4)
    right = shares[torch.arange(12), logits.argmax(1)].mean()
    assert row["train_accuracy"] == pytest.approx(float(right), rel=1e-4)


def test_cutmix_pastes_a_box_of_the_neighbour():
    data, model = pictures(12), Watching()
    mixed_fit(model, data, mix="cutmix:1", epochs=1)
    ((images, _),) = data.batches(12, shuffle=True)
    (shown,) = model.shown
    pasted = (shown != images).any(1)
    assert torch.equal(shown.movedim(1, -1)[pasted], images.roll(1, 0).movedim(1, -1)[pasted])
    assert (pasted == pasted[0]).all()
    assert 0 < pasted[0].sum() < 36


def test_mixtures_depend_on_seed_epoch_and_batch_and_on_nothing_else():
    class Drawing(Watching):
        def forward(self, images):
            torch.rand(3)
            return super().forward(images)

    first, second, other = Watching(), Drawing(), Watching()
    mixed_fit(first, mix="both")
    mixed_fit(second, mix="both")
    mixed_fit(other, mix="both", seed=1)
    assert len(first.shown) == 4
    for ours, theirs, another in zip(first.shown, second.shown, other.shown, strict=True):
        assert torch.equal(ours, theirs)
        assert not torch.equal(ours, another)
    plain, mixed = Watching(), Watching()
    mixed_fit(plain)
    mixed_fit(mixed, mix="mixup:1")
    shares = {
        round(((ours - images.roll(1, 0)) / (images - images.roll(1, 0))).median().item(), 4)
        for ours, images in zip(mixed.shown, plain.shown, strict=True)
    }
    assert len(shares) == 4  # two epochs of two batches


@pytest.mark.parametrize("options", [{"mix": "mixup:0.2"}, {"mix": "both"}, {"mix": "cutmix"}])
def test_mixing_changes_training_and_not_validation(options):
    plain, mixed = Watching(), Watching()
    mixed_fit(plain)
    mixed_fit(mixed, **options, amp="bf16")
    assert not same(weights_of(plain), weights_of(mixed))
    val = pictures(seed=1)
    result = mixed_fit(Watching(), **options, ema_decay=0.5, early_stopping=1)
    assert evaluate(result.model, val).loss == pytest.approx(result.val.loss)


@pytest.mark.parametrize("data", [classes_source(), regression_source(outputs=3)])
def test_what_cannot_be_mixed_is_refused(data):
    with pytest.raises(InputError, match="mixes images and their classes, got inputs of shape"):
        fit(mlp(), data, data, TrainConfig(mix="mixup"))


# Depth: parts of a model trained differently


def weights_by_epoch(model, data, config):
    """Fit, and return the weights after every epoch, those before the first included."""
    seen = [weights_of(model)]

    def watch(progress):
        if progress.phase == "validate":
            seen.append(weights_of(model))

    return fit(model, data, data, config, on_progress=watch), seen


def moved(before, after):
    """Return the parts of a `Deep` that differ in anything, statistics of norms included."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_rates_fall_with_depth():
    data, model = classes_source(), Deep()
    model.high[2].p = 0.0
    before = weights_of(model)
    model.train()
    nn.functional.cross_entropy(model(data.inputs), data.targets).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.load_state_dict(before)
    options = {"optimizer": "sgd", "lr": 0.1, "schedule": "constant", "batch_size": 48, "epochs": 1}
    result = fit(model, data, data, TrainConfig(**options, trunk_lr=0.5, layer_decay=0.4))
    for name, gradient in gradients.items():
        factor = {"head": 1.0, "high": 0.5 * 0.4, "low": 0.5 * 0.4**2}[name.split(".")[0]]
        expected = before[name] - 0.1 * factor * gradient
        torch.testing.assert_close(model.state_dict()[name], expected)
    assert result.history[0]["lr"] == pytest.approx(0.1)  # the head's


def test_the_head_warms_up_while_the_trunk_rests():
    config = TrainConfig(epochs=4, batch_size=16, lr=0.01, head_epochs=2)
    result, seen = weights_by_epoch(Deep(), classes_source(), config)
    parts = [moved(a, b) for a, b in itertools.pairwise(seen)]
    assert parts == [{"head"}, {"head"}, {"head", "high", "low"}, {"head", "high", "low"}]
    assert [row["groups_trained"] for row in result.history] == [1, 1, 3, 3]
    assert all(parameter.requires_grad for parameter in result.model.parameters())


@pytest.mark.parametrize(("head_epochs", "trained"), [(0, [1, 1, 2, 2, 3]), (1, [1, 2, 2, 3, 3])])
def test_depth_groups_are_released_in_turn(head_epochs, trained):
    config = TrainConfig(
        epochs=5,
        batch_size=16,
        lr=0.01,
        weight_decay=0.1,
        unfreeze_every=2,
        head_epochs=head_epochs,
    )
    result, seen = weights_by_epoch(Deep(), classes_source(), config)
    assert [row["groups_trained"] for row in result.history] == trained
    parts = [moved(a, b) for a, b in itertools.pairwise(seen)]
    assert parts == [set(["head", "high", "low"][:count]) for count in trained]


def test_what_was_frozen_before_stays_frozen():
    model = Deep()
    model.low.requires_grad_(False)
    before = weights_of(model)
    config = TrainConfig(epochs=3, batch_size=16, lr=0.01, unfreeze_every=1)
    result = fit(model, classes_source(), classes_source(), config)
    assert [row["groups_trained"] for row in result.history] == [1, 2, 2]
    assert moved(before, weights_of(model)) == {"head", "high"}
    assert not any(parameter.requires_grad for parameter in model.low.parameters())


def test_an_interrupted_warm_up_leaves_a_model_that_can_learn():
    def interrupt(progress):
        raise KeyboardInterrupt

    model = Deep()
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            classes_source(),
            classes_source(),
            TrainConfig(epochs=2, head_epochs=1),
            on_progress=interrupt,
        )
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_statistics_can_be_kept_while_the_trunk_learns():
    data, model = classes_source(33), Deep()
    model.head = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, CLASSES))
    before = weights_of(model)
    fit(model, data, data, TrainConfig(epochs=2, batch_size=16, lr=0.01, keep_statistics=True))
    for name, value in before.items():
        kept = "running" in name and not name.startswith("head")
        if "num_batches" not in name:
            assert torch.equal(model.state_dict()[name], value) == kept, name
    model.low[1].bias.requires_grad_(False)  # its weight still learns
    fit(model, data, data, TrainConfig(epochs=1, batch_size=16, lr=0.01, keep_statistics=True))
    assert torch.equal(model.low[1].running_mean, before["low.1.running_mean"])


def test_biases_and_norms_can_be_spared_from_weight_decay():
    data, plain, spared = classes_source(), Deep(), Deep()
    options = {"optimizer": "sgd", "lr": 0.1, "batch_size": 48, "epochs": 1}
    fit(plain, data, data, TrainConfig(**options))
    fit(spared, data, data, TrainConfig(**options, weight_decay=0.5, decay_norms=False))
    for name, parameter in spared.named_parameters():
        assert torch.equal(parameter, plain.get_parameter(name)) == (parameter.ndim == 1), name


def test_patience_begins_when_everything_learns():
    options = {"epochs": 9, "lr": 1e-12, "early_stopping": 2, "schedule": "constant"}
    data = classes_source()
    for depth, epochs in (({"head_epochs": 4}, 6), ({"unfreeze_every": 2}, 6), ({}, 3)):
        model = Deep()
        model.low[1] = model.high[1] = nn.Identity()  # statistics move without being trained
        result = fit(model, data, data, TrainConfig(**options, **depth))
        assert (result.stopped, result.epochs_run) == ("early_stopping", epochs), depth


def test_phases_and_depth_go_together():
    config = TrainConfig(
        phases=((0.1, 2), (0.01, 2)),
        optimizer="sgd",
        schedule="constant",
        head_epochs=1,
        layer_decay=0.5,
        batch_size=16,
    )
    result, seen = weights_by_epoch(Deep(), classes_source(), config)
    assert lrs(result) == [0.1, 0.1, 0.01, 0.01]
    best = seen[result.best_epoch]
    assert same(result.model.state_dict(), best)
    assert moved(seen[0], seen[1]) == {"head"}


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (mlp(), {"trunk_lr": 0.1}, "need a head and a trunk that both learn.*Sequential has not"),
        (Deep().requires_grad_(False), {"layer_decay": 0.5}, "no parameter to train"),
        (Deep(), {"unfreeze_every": 2, "epochs": 4}, "reaches 2 of the 3 depth groups"),
    ],
)
def test_depth_that_is_not_there_is_one_sentence(model, options, sentence):
    with pytest.raises(InputError, match=sentence):
        fit(model, classes_source(), classes_source(), TrainConfig(**{"epochs": 3} | options))


# Stages


def test_a_later_stage_counts_on_and_the_best_of_both_is_kept(tmp_path):
    data, val = classes_source(), classes_source(seed=1)
    model = mlp()
    first = fit(model, data, val, TrainConfig(epochs=3, batch_size=16, lr=0.02))
    weights = weights_of(model)
    ruin = TrainConfig(epochs=2, batch_size=16, lr=50.0, optimizer="sgd")
    both = fit(model, data, val, ruin, out=tmp_path, after=first)
    assert [row["epoch"] for row in both.history] == [1, 2, 3, 4, 5]
    assert both.history[:3] == first.history
    assert (both.best_epoch, both.val) == (first.best_epoch, first.val)
    assert same(weights_of(model), weights)
    assert same(runs.RunFolder(tmp_path).load_model()[0], weights)
    assert runs.RunFolder(tmp_path).metrics() == list(both.history)
    better = fit(model, data, val, TrainConfig(epochs=9, batch_size=16, lr=0.02), after=first)
    assert better.best_epoch > 3
    assert better.val.score >= first.val.score


def test_a_later_stage_is_resumed_bit_for_bit(tmp_path):
    data = classes_source()

    def stages(out, on_progress=None):
        model = Deep()
        first = None
        if out is None or not runs.RunFolder(out).has_state():
            first = fit(model, data, data, TrainConfig(epochs=2, batch_size=16, early_stopping=9))
        config = TrainConfig(epochs=3, batch_size=16, early_stopping=2, unfreeze_every=1)
        return fit(model, data, data, config, out=out, after=first, on_progress=on_progress)

    def interrupt(progress):
        assert progress.epochs == 5
        if progress.phase == "train" and progress.epoch == 4:
            raise KeyboardInterrupt

    straight = stages(None)
    with pytest.raises(KeyboardInterrupt):
        stages(tmp_path, interrupt)
    assert len(runs.RunFolder(tmp_path).metrics()) == 3
    resumed = stages(tmp_path)
    assert same(resumed.model.state_dict(), straight.model.state_dict())
    assert resumed.best_epoch == straight.best_epoch
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in straight.history]
    assert rows_without_seconds(tmp_path) == rows


def test_redraw_draws_from_the_seed_and_only_without_improvement():
    options = {"epochs": 25, "schedule": "redraw", "lr": 0.05, "optimizer": "sgd"}
    result = train_with(**options)
    assert lrs(result) == lrs(train_with(**options))
    assert lrs(result) != lrs(train_with(**options, seed=1))
    best, kept, drawn = -1.0, 0, 0
    for row, following in zip(result.history, result.history[1:], strict=False):
        if row["val_accuracy"] > best:
            best, kept = row["val_accuracy"], kept + 1
            assert following["lr"] == row["lr"]
        else:
            drawn += 1
            assert following["lr"] != row["lr"]
            assert following["lr"] < 0.05
    assert kept > 1
    assert drawn > 5


def test_divide_on_plateau_divides_in_training():
    rates = curve(4, schedule="divide-on-plateau", weight_decay=0.0, clip_norm=1e-12)
    assert rates == pytest.approx([0.1, 0.1, 0.1 / 3, 0.1 / 9])


# Bad input


def test_a_batch_of_one_is_left_out_where_batch_norm_trains_and_said_once():
    said = []
    data = classes_source(33)
    config = TrainConfig(epochs=3, batch_size=16)
    result = fit(mlp(norm=True), data, data, config, on_progress=lambda p: said.append(p.note))
    assert len(result.notes) == 1
    assert [note for note in said if note] == list(result.notes)
    assert "batch normalisation" in result.notes[0]
    assert int(result.model[1].num_batches_tracked) == 2 * result.best_epoch
    assert not any("left out" in note for note in fit(mlp(), data, data, config).notes)


def test_one_example_alone_with_batch_norm_is_refused():
    data = classes_source(1)
    with pytest.raises(InputError, match="at least two training examples"):
        fit(mlp(norm=True), data, data, TrainConfig(epochs=1))


@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4, 1), (4,)), ((4, 2), (4, 1))])
def test_regression_shapes_never_broadcast(shapes):
    outputs, targets = shapes
    model = nn.Linear(8, outputs[1] if len(outputs) > 1 else 1)
    if len(outputs) == 1:
        model = nn.Sequential(model, nn.Flatten(0))
    data = Source(torch.randn(4, 8), torch.randn(targets))
    for act in (lambda: evaluate(model, data), lambda: fit(model, data, data, TrainConfig())):
        with pytest.raises(InputError, match=r"outputs have shape \(4.*nothing is broadcast"):
            act()


@pytest.mark.parametrize(
    ("train", "val", "sentence"),
    [
        (classes_source(0), classes_source(), "training data is empty"),
        (classes_source(), classes_source(0), "validation data is empty"),
        ([], classes_source(), "training data is empty"),
        (iter([1]), classes_source(), "allow several passes"),
        (Source(torch.ones(9, 8), torch.full((9,), 3)), classes_source(), "from 0 to 2.* got 3"),
        (Source(torch.ones(9, 8), torch.full((9,), -1)), classes_source(), "got -1"),
        (classes_source(), Source(torch.ones(9, 8), torch.full((9,), 3)), "from 0 to 2.* got 3"),
        (Source(torch.ones(9, 8), torch.ones(9, 3).long()), classes_source(), "need logits"),
    ],
)
def test_unfit_data_is_one_sentence(train, val, sentence):
    with pytest.raises(InputError, match=sentence):
        fit(mlp(), train, val, TrainConfig(epochs=1))


def test_a_class_beyond_the_model_in_a_later_batch_is_one_sentence():
    data = classes_source()
    data.targets[-1] = 7
    with pytest.raises(InputError, match="from 0 to 2 for this model, got 0 to 7"):
        fit(mlp(), data, classes_source(), TrainConfig(epochs=1, batch_size=16))


def test_a_frozen_model_is_refused_and_a_frozen_part_stays():
    data = classes_source()
    model = mlp()
    before = weights_of(model[0])
    model[0].requires_grad_(False)
    fit(model, data, data, TrainConfig(epochs=1, weight_decay=0.1))
    assert same(before, model[0].state_dict())
    with pytest.raises(InputError, match="no parameter to train"):
        fit(mlp().requires_grad_(False), data, data, TrainConfig(epochs=1))


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}])
def test_options_for_classes_are_refused_in_a_regression(option):
    data = regression_source()
    with pytest.raises(InputError, match="needs classes"):
        fit(mlp(2), data, data, TrainConfig(**option))


def test_devices_and_precisions_that_are_not_here_are_refused():
    data = classes_source()
    with pytest.raises(InputError, match="fp16 needs a CUDA device"):
        fit(mlp(), data, data, TrainConfig(amp="fp16", device="cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no cuda device"):
            fit(mlp(), data, data, TrainConfig(device="cuda"))
    with pytest.raises(InputError, match="unknown device 'cdua'; did you mean 'cuda'"):
        evaluate(mlp(), data, device="cdua")


# Plain iterables


def test_a_data_loader_works_as_data():
    data = classes_source()
    tensors = torch.utils.data.TensorDataset(data.inputs, data.targets)
    loader = torch.utils.data.DataLoader(tensors, batch_size=16, shuffle=True)
    results = [
        weights_of(fit(mlp(), loader, loader, TrainConfig(epochs=3, lr=0.01)).model)
        for _ in range(2)
    ]
    assert same(*results)
    with pytest.raises(InputError, match="augment needs"):
        fit(mlp(), loader, loader, TrainConfig(augment="flip"))


def test_a_list_of_batches_equals_the_source():
    data = classes_source()
    assert evaluate(mlp(), data, batch_size=16) == evaluate(mlp(), list(data.batches(16)))


# Evaluation


def test_classification_metrics_equal_scikit_learn():
    from sklearn import metrics as oracle

    inputs = torch.randn(203, 8)
    data = Source(inputs, torch.randint(7, (203,)))
    model = mlp(7)
    ours = evaluate(model, data, batch_size=50)
    with torch.no_grad():
        logits = model(inputs)
    truth, probabilities = data.targets.numpy(), logits.double().softmax(1).numpy()
    assert ours.n == 203
    assert ours.accuracy == pytest.approx(
        oracle.accuracy_score(truth, probabilities.argmax(1)), abs=1e-12
    )
    assert ours.loss == pytest.approx(oracle.log_loss(truth, probabilities), rel=1e-5)
    assert ours.top5_accuracy == pytest.approx(
        oracle.top_k_accuracy_score(truth, probabilities, k=5), abs=1e-12
    )
    confusion = oracle.confusion_matrix(truth, probabilities.argmax(1), labels=range(7))
    assert ours.confusion == tuple(tuple(row) for row in confusion.tolist())
    assert json.loads(json.dumps(ours.to_dict()))["confusion"] == confusion.tolist()
    assert evaluate(mlp(), classes_source()).top5_accuracy is None


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("outputs", [1, 3])
def test_regression_metrics_equal_scikit_learn(outputs, shift):
    from sklearn import metrics as oracle

    inputs = torch.randn(101, 8)
    data = Source(inputs, inputs[:, :outputs] * torch.arange(1.0, outputs + 1) + shift)
    model = mlp(outputs)
    with torch.no_grad():
        model[-1].bias += shift
        predicted = model(inputs).numpy()
    truth = data.targets.numpy()
    ours = evaluate(model, data, batch_size=32)
    assert ours.loss == pytest.approx(oracle.mean_squared_error(truth, predicted), rel=1e-4)
    assert ours.mae == pytest.approx(oracle.mean_absolute_error(truth, predicted), rel=1e-4)
    assert ours.r2 == pytest.approx(oracle.r2_score(truth, predicted), rel=1e-4)
    assert ours.to_dict() == {"n": 101, "mse": ours.loss, "mae": ours.mae, "r2": ours.r2}


def test_r2_of_a_constant_target_is_a_number():
    data = Source(torch.randn(5, 8), torch.full((5, 1), 3.0))
    assert evaluate(mlp(1), data).r2 == 0.0
    exact = nn.Linear(8, 1)
    nn.init.zeros_(exact.weight)
    nn.init.constant_(exact.bias, 3.0)
    assert evaluate(exact, data).r2 == 1.0


def test_evaluation_leaves_every_training_flag_and_statistic():
    model = mlp(norm=True).train()
    model[1].eval()
    flags, weights = [m.training for m in model.modules()], weights_of(model)
    evaluate(model, classes_source())
    predict_logits(model, classes_source())
    assert [m.training for m in model.modules()] == flags
    assert same(weights, model.state_dict())


def test_predict_logits_takes_sources_tensors_and_batches():
    data, model = classes_source(), mlp(norm=True).eval()
    with torch.no_grad():
        expected = model(data.inputs)
    for given in (data, data.inputs, list(data.inputs.split(10)), list(data.batches(7))):
        torch.testing.assert_close(predict_logits(model, given, batch_size=20), expected)
    low = predict_logits(model, data, amp="bf16")
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, expected, rtol=0.05, atol=0.05)
    with pytest.raises(InputError, match="empty"):
        predict_logits(model, [])


# Progress


def test_progress_is_told_at_every_step_and_epoch():
    told = []
    data = classes_source(40)
    result = fit(mlp(), data, data, TrainConfig(epochs=2, batch_size=16), on_progress=told.append)
    assert all(isinstance(progress, Progress) for progress in told)
    assert [(p.phase, p.epoch, p.step) for p in told if p.phase != "note"] == [
        (phase, epoch, step)
        for epoch in (1, 2)
        for phase, step in [("train", 1), ("train", 2), ("train", 3), ("validate", 0), ("epoch", 0)]
    ]
    assert {p.steps for p in told if p.phase == "train"} == {3}
    assert told[2].loss == pytest.approx(result.history[0]["train_loss"])
    assert [p.row for p in told if p.phase == "epoch"] == list(result.history)


# Failure, interruption, resumption

CAREFUL = {  # everything that carries state from epoch to epoch
    "epochs": 5,
    "batch_size": 16,
    "lr": 0.02,
    "schedule": "redraw",
    "ema_decay": 0.5,
    "clip_norm": 1.0,
    "seed": 3,
}


def careful_fit(out, on_progress=None, **options):
    deep = TrainConfig(**CAREFUL | options).uses_depth
    model = Deep() if deep else mlp(norm=True, dropout=0.3)
    config = TrainConfig(**CAREFUL | options)
    return fit(
        model,
        classes_source(40),
        classes_source(n=2, seed=1),
        config,
        out=out,
        on_progress=on_progress,
    )


def kill_in_third_epoch(progress):
    if progress.phase == "train" and (progress.epoch, progress.step) == (3, 2):
        os.kill(os.getpid(), signal.SIGKILL)


def interrupt_in_third_epoch(progress):
    if progress.phase == "train" and (progress.epoch, progress.step) == (3, 2):
        raise KeyboardInterrupt


def rows_without_seconds(path):
    rows = [json.loads(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def check_resumed(straight, path):
    assert len(runs.RunFolder(path).metrics()) == 2
    result = careful_fit(path)
    assert same(result.model.state_dict(), straight.model.state_dict())
    expected = [{k: v for k, v in row.items() if k != "seconds"} for row in straight.history]
    assert rows_without_seconds(path) == expected
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5]
    assert (result.best_epoch, result.val) == (straight.best_epoch, straight.val)
    assert same(runs.RunFolder(path).load_model()[0], straight.model.state_dict())


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    straight = careful_fit(None)
    assert len(set(lrs(straight))) > 1
    with pytest.raises(KeyboardInterrupt):
        careful_fit(tmp_path, interrupt_in_third_epoch)
    check_resumed(straight, tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "restart-sgd", "optimizer": "sgd"},
        {"phases": ((0.02, 2), (0.1, 3))},
        {"trunk_lr": 0.3, "layer_decay": 0.5, "weight_decay": 0.1, "decay_norms": False},
        {"head_epochs": 3, "class_weights": "balanced"},
        {"unfreeze_every": 1, "optimizer": "sgd", "phases": ((0.02, 3), (0.1, 2))},
        {"unfreeze_every": 2, "head_epochs": 1, "amp": "bf16", "layer_decay": 0.7},
    ],
    ids=str,
)
def test_every_kind_of_training_is_resumed_bit_for_bit(tmp_path, options):
    straight = careful_fit(None, **options)
    with pytest.raises(KeyboardInterrupt):
        careful_fit(tmp_path, interrupt_in_third_epoch, **options)
    resumed = careful_fit(tmp_path, **options)
    assert len(straight.history) == 5
    assert lrs(resumed) == lrs(straight)
    assert same(resumed.model.state_dict(), straight.model.state_dict())


def test_a_killed_process_goes_on_bit_for_bit(tmp_path, one_thread):
    code = f"import test_train as t; t.careful_fit({str(tmp_path)!r}, t.kill_in_third_epoch)"
    assert Started(code=code).ended().returncode == -signal.SIGKILL
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "lr"')  # torn by the kill
    check_resumed(careful_fit(None), tmp_path)


def test_a_row_without_its_state_is_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        careful_fit(tmp_path, interrupt_in_third_epoch)
    runs.RunFolder(tmp_path).append_metrics({"epoch": 3, "val_loss": 9.0})
    result = careful_fit(tmp_path)
    assert [row["epoch"] for row in rows_without_seconds(tmp_path)] == [1, 2, 3, 4, 5]
    assert result.history[2]["val_loss"] != 9.0


def test_a_trained_run_is_not_trained_again_and_a_done_one_is_refused(tmp_path):
    first = careful_fit(tmp_path)
    told = []
    again = careful_fit(tmp_path, told.append)
    assert told == []
    assert same(first.model.state_dict(), again.model.state_dict())
    assert (again.history, again.val) == (first.history, first.val)
    runs.RunFolder(tmp_path).finish({})
    with pytest.raises(InputError, match="is done"):
        careful_fit(tmp_path)


def test_a_run_stopped_early_stays_stopped(tmp_path):
    options = {"lr": 1e-12, "early_stopping": 1, "ema_decay": 0.0, "schedule": "constant"}
    first = careful_fit(tmp_path, **options)
    assert first.stopped == "early_stopping"
    assert careful_fit(tmp_path, **options).epochs_run == first.epochs_run


def test_a_changed_request_or_model_is_refused_on_resumption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        careful_fit(tmp_path / "run", interrupt_in_third_epoch)
    with pytest.raises(InputError, match=r"clip_norm = 1\.0, not 2\.0"):
        careful_fit(tmp_path / "run", clip_norm=2.0)
    open_run = runs.RunFolder(tmp_path / "run")  # with a config of its own
    with pytest.raises(InputError, match=r"clip_norm = 1\.0, not 2\.0"):
        careful_fit(open_run, clip_norm=2.0)
    data = classes_source()
    with pytest.raises(InputError, match="trained another model"):
        fit(nn.Linear(8, CLASSES), data, data, TrainConfig(**CAREFUL), out=tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    data = classes_source()

    def poison(progress):
        if progress.phase == "epoch" and progress.epoch == 2:
            data.inputs[5] = math.inf

    config = TrainConfig(epochs=5, batch_size=16, lr=0.01, schedule="constant")
    model = mlp()
    with pytest.raises(TrainingError, match=r"training loss .* epoch 3 at learning rate 0\.01"):
        fit(model, data, classes_source(seed=1), config, out=tmp_path, on_progress=poison)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    run = runs.RunFolder(tmp_path)
    assert run.load_state()["epoch"] == 2
    assert all(tensor.isfinite().all() for tensor in run.load_state()["model"].values())
    assert all(tensor.isfinite().all() for tensor in run.load_model()[0].values())
    assert len(run.metrics()) == 2


def test_weights_ruined_by_the_last_step_do_not_reach_the_checkpoint(tmp_path):
    data = classes_source()
    config = TrainConfig(epochs=2, batch_size=48, lr=1e38, optimizer="sgd", schedule="constant")
    with pytest.raises(TrainingError, match=r"validation loss .* epoch 1"):
        fit(mlp(), data, data, config, out=tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / "state.pt").exists()


def test_the_description_is_in_the_checkpoint(tmp_path):
    data = classes_source()
    config = TrainConfig(epochs=1)
    fit(mlp(), data, data, config, out=tmp_path, description={"class_names": ["a", "b", "c"]})
    assert runs.RunFolder(tmp_path).load_model()[1] == {"class_names": ["a", "b", "c"]}


def test_shared_weights_can_be_checkpointed(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, CLASSES))
    model[2].weight = model[0].weight
    data = classes_source()
    result = fit(model, data, data, TrainConfig(epochs=1, ema_decay=0.5), out=tmp_path)
    assert same(runs.RunFolder(tmp_path).load_model()[0], result.model.state_dict())


# Scores


def test_metrics_score_orders_epochs():
    assert Metrics(n=1, loss=0.5, accuracy=0.7).score == 0.7
    assert Metrics(n=1, loss=0.5, mae=0.1, r2=0.0).score == -0.5


# Several processes


def distributed_fit(out):
    """Train as one of the processes that the environment describes."""
    data = classes_source(51)  # a last batch of 3 rows: one process gets 2, the other 1
    data.targets[:20] = 0
    config = TrainConfig(
        epochs=3,
        batch_size=16,
        lr=0.02,
        clip_norm=1.0,
        class_weights="balanced",
        ema_decay=0.5,
        head_epochs=1,
        layer_decay=0.5,
    )
    model = Deep(seed=2)
    # Statistics of batches and dropout differ by process, by nature.
    model.low[1] = model.high[1] = model.high[2] = nn.Identity()
    return fit(model, data, classes_source(33, seed=1), config, out=out)


def test_two_processes_equal_one(tmp_path, one_thread):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    code = f"import test_train; test_train.distributed_fit({str(tmp_path)!r})"
    processes = [Started(code=code, **job, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    assert [process.ended().returncode for process in processes] == [0, 0]
    one = distributed_fit(None)
    run = runs.RunFolder(tmp_path)
    for row, expected in zip(run.metrics(), one.history, strict=True):
        for name in row.keys() - {"seconds"}:
            assert row[name] == pytest.approx(expected[name], rel=1e-5), name
    weights = run.load_model()[0]
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shards_partition_every_batch(monkeypatch, size):
    batch, rows = torch.arange(11), []
    for rank in range(size):
        monkeypatch.setenv("WORLD_SIZE", str(size))
        monkeypatch.setenv("RANK", str(rank))
        rows += _dist.shard(batch).tolist()
    assert sorted(rows) == batch.tolist()


def test_several_processes_need_an_order_that_the_seed_decides(monkeypatch):
    monkeypatch.setattr(_dist, "connect", lambda device: None)
    monkeypatch.setattr(_dist, "barrier", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    batches = list(classes_source().batches(16))
    with pytest.raises(InputError, match="whose order the seed decides"):
        fit(mlp(), batches, batches, TrainConfig())

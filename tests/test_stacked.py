"""Compiled training steps: against autograd and torch.optim, and bit by bit against alone."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from spinalnet._checks import InputError
from spinalnet.data.order import batch_slices, epoch_order, stream_seed
from spinalnet.kernels import masks, native, trainer
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, matched_unchained
from spinalnet.tabular.learner import RowsLearner
from spinalnet.tabular.stacked import CompiledRowsLearner, rows_learner, train_together, why_not
from spinalnet.training import TrainConfig
from spinalnet.training.loop import Loop
from spinalnet.training.updates import new_optimizer

needs_extension = pytest.mark.skipif(
    native.extension is None, reason="the compiled kernels are not installed"
)
pytestmark = needs_extension

Make = Callable[..., nn.Module]
NETS: dict[str, Make] = {
    "spinal": lambda **o: SpinalNet(11, 3, 5, 4, **o),
    "long": lambda **o: SpinalNet(40, 3, 8, 6, num_splits=3, **o),
    "one layer": lambda **o: SpinalNet(11, 3, 5, 1, **o),
    "shared": lambda **o: SpinalNet(12, 3, 5, 4, share_weights=True, **o),
    "leaky": lambda **o: SpinalNet(11, 3, 5, 4, activation="leaky_relu", **o),
    "unchained": lambda **o: UnchainedNet(11, 3, 5, 5, num_splits=3, **o),
    "mlp": lambda **o: MLPHead(11, 3, 7, **o),
    "wide mlp": lambda **o: MLPHead(40, 3, 70, activation="identity", **o),
    "linear": lambda **o: LinearHead(11, 3, **o),
}


def some_rows(net: Any, task: str, weighted: bool, count: int = 45) -> Any:
    dtype = next(net.parameters()).dtype
    x = torch.randn(count, net.in_features, dtype=dtype)
    if task == "classification":
        targets = torch.randint(0, net.out_features, (count,))
    else:
        targets = torch.randn(count, net.out_features, dtype=dtype)
    return x, targets, torch.rand(count, dtype=dtype) if weighted else None


def losses_of(outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    if targets.is_floating_point():
        losses = (outputs - targets).square().mean(1)
    else:
        losses = F.cross_entropy(outputs, targets, reduction="none")
    return (losses if weights is None else losses * weights).mean()


def longhand(
    net: nn.Module,
    config: TrainConfig,
    rows: Any,
    outputs_of: Callable[[Tensor, int, int], Tensor] | None = None,
) -> list[float]:
    """Train as anybody would write it; return the mean loss of every epoch."""
    x, targets, weights = rows
    spared = [] if config.decay_norms else [p for p in net.parameters() if p.ndim < 2]
    others = [p for p in net.parameters() if not any(p is one for one in spared)]
    groups: list[dict[str, Any]] = [{"params": others}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    optimizer = new_optimizer(config, groups)
    means = []
    for epoch in range(config.epochs):
        order, total = epoch_order(len(x), True, config.seed, epoch), 0.0
        for step, part in enumerate(batch_slices(len(x), config.batch_size, True)):
            chosen = order[part]
            outputs = net(x[chosen]) if outputs_of is None else outputs_of(x[chosen], epoch, step)
            own = None if weights is None else weights[chosen]
            loss = losses_of(outputs, targets[chosen], own)
            optimizer.zero_grad()
            loss.backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm)
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        means.append(total / len(x))
    return means


def difference(first: nn.Module, second: nn.Module) -> float:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", NETS)
def test_steps_are_those_of_autograd_and_torch(kind: str, bias: bool, task: str) -> None:
    net = NETS[kind](bias=bias, dtype=torch.float64)
    twin, rows = copy.deepcopy(net), some_rows(net, task, weighted=bias)
    config = TrainConfig(epochs=3, batch_size=16, lr=0.02, schedule="constant", seed=5)
    expected = longhand(twin, config, rows)
    (done,) = train_together([net], [config], task, rows)  # type: ignore[arg-type]
    assert [row["train_loss"] for row in done.loop.history] == pytest.approx(expected, abs=1e-12)
    assert difference(net, twin) < 1e-12
    assert done.net is net
    assert not net.training
    assert done.best_epoch == 3


@pytest.mark.parametrize("decay_norms", [True, False])
@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_every_optimizer_is_that_of_torch(
    optimizer: str, clip_norm: float, decay_norms: bool
) -> None:
    for kind in ("spinal", "unchained", "linear"):
        net = NETS[kind](dtype=torch.float64)
        twin, rows = copy.deepcopy(net), some_rows(net, "classification", weighted=False)
        config = TrainConfig(
            epochs=3,
            batch_size=16,
            optimizer=optimizer,
            lr=0.05,
            schedule="constant",
            weight_decay=0.1,
            clip_norm=clip_norm,
            decay_norms=decay_norms,
        )
        longhand(twin, config, rows)
        train_together([net], [config], "classification", rows)
        assert difference(net, twin) < 1e-12, kind


def drawn(seed: int, step: int, which: int, rows: int, segments: Any, dropout: float) -> list[Any]:
    """Return the masks of a step as numbers, by the same generator, seeded as the steps seed it."""
    z = (seed + 0x9E3779B97F4A7C15 * (2 * step + which)) % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ z >> shift) * factor % 2**64
    made = masks.Masks(rows, segments, dropout, torch.float64)
    native.extension.draw(z ^ z >> 31, 1 - dropout, made.words.data_ptr(), made.words.numel())
    return list(made)


@pytest.mark.parametrize("dropout", [(0.3, 0.3), (0.0, 0.4), (0.25, 0.0)])
@pytest.mark.parametrize("kind", ["spinal", "long", "unchained", "mlp", "linear"])
def test_dropout_is_that_of_the_masks_drawn_from_the_seed(
    kind: str, dropout: tuple[float, float]
) -> None:
    inside, last = dropout
    options = (
        {"dropout": inside} if kind == "linear" else {"dropout": inside, "output_dropout": last}
    )
    net: Any = NETS[kind](**options, dtype=torch.float64)
    twin, rows = copy.deepcopy(net), some_rows(net, "classification", weighted=False)
    config = TrainConfig(epochs=2, batch_size=13, lr=0.02, schedule="constant", seed=9)
    outputs = {"spinal": _spinal, "long": _spinal, "unchained": _unchained, "mlp": _mlp}
    compute = outputs.get(kind, _linear)

    def masked(x: Tensor, epoch: int, step: int) -> Tensor:
        seed = stream_seed("dropout", config.seed, epoch)

        def draw(which: int, segments: Any, rate: float) -> list[Any]:
            if rate == 0.0:
                return [1.0] * len(segments)
            return drawn(seed, step, which, len(x), segments, rate)

        return compute(twin, x, draw, inside, last)

    longhand(twin, config, rows, masked)
    train_together([net], [config], "classification", rows)
    assert difference(net, twin) < 1e-12


def _spinal(net: Any, x: Tensor, draw: Any, inside: float, last: float) -> Tensor:
    spine = net.spine
    width = spine.hidden_features
    own = draw(0, spine.input_parts, inside)
    hidden: list[Tensor] = []
    for layer, part in enumerate(spine.slices):
        seen = x[:, part] if not hidden else torch.cat([x[:, part], hidden[-1]], 1)
        hidden.append(spine.activation(spine.layers[layer](seen * own[layer])))
    (row,) = draw(1, [(width,) * spine.num_layers], last)
    return net.output(torch.cat(hidden, 1) * row)


def _unchained(net: Any, x: Tensor, draw: Any, inside: float, last: float) -> Tensor:
    parts, width = x.split(net.split_sizes, 1), net.hidden_features
    own = draw(0, [(parts[i % net.num_splits].shape[1],) for i in range(net.num_layers)], inside)
    hidden = []
    for layer in range(net.num_layers):
        split, place = layer % net.num_splits, layer // net.num_splits * width
        linear = net.slices[split]
        weight, bias = (t[place : place + width] for t in (linear.weight, linear.bias))
        hidden.append(F.linear(parts[split] * own[layer], weight, bias))
    (row,) = draw(1, [(width,) * net.num_layers], last)
    return net.output(net.activation(torch.cat(hidden, 1)) * row)


def _mlp(net: Any, x: Tensor, draw: Any, inside: float, last: float) -> Tensor:
    *_, linear, activation = net.layers[0]
    (own,) = draw(0, [(x.shape[1],)], inside)
    (row,) = draw(1, [(linear.out_features,)], last)
    return net.output(activation(linear(x * own)) * row)


def _linear(net: Any, x: Tensor, draw: Any, inside: float, last: float) -> Tensor:
    (own,) = draw(0, [(x.shape[1],)], inside)
    return net.output(x * own)


member = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(NETS)),
        "dropout": st.sampled_from([0.0, 0.2]),
        "seed": st.integers(0, 5),
        "lr": st.sampled_from([0.001, 0.02]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "batch_size": st.integers(1, 50),
        "early_stopping": st.integers(0, 2),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
    }
)


@given(st.lists(member, min_size=2, max_size=4), st.integers(1, 3), st.randoms())
@settings(max_examples=25)
def test_a_member_has_the_same_bits_whatever_its_companions(
    members: list[dict[str, Any]], threads: int, shuffled: Any
) -> None:
    def prepared(given: dict[str, Any]) -> tuple[Any, TrainConfig, Any, Any]:
        options = dict(given)
        torch.manual_seed(options["seed"])
        net = NETS[options.pop("kind")](dropout=options.pop("dropout"))
        config = TrainConfig(epochs=3, **options)
        return (
            net,
            config,
            some_rows(net, "classification", True),
            some_rows(net, "classification", False, 20),
        )

    def trained(chosen: list[dict[str, Any]], threads: int) -> list[Any]:
        made = [prepared(given) for given in chosen]
        nets, configs, rows, held_out = (list(each) for each in zip(*made, strict=True))
        return train_together(nets, configs, "classification", rows, held_out, threads=threads)

    order = list(range(len(members)))
    shuffled.shuffle(order)
    together = trained([members[i] for i in order], threads)
    for place, number in enumerate(order):
        (alone,) = trained([members[number]], 1)
        same = together[place]
        for p, q in zip(alone.net.parameters(), same.net.parameters(), strict=True):
            assert torch.equal(p, q)
        assert alone.best_epoch == same.best_epoch
        without_times = [
            [{k: v for k, v in row.items() if k != "seconds"} for row in one.loop.history]
            for one in (alone, same)
        ]
        assert without_times[0] == without_times[1]


def test_a_net_whose_loss_is_not_finite_is_given_up_and_the_others_go_on() -> None:
    torch.manual_seed(0)
    nets = [SpinalNet(11, 3, 5, 4, activation="identity") for _ in range(3)]
    alone = copy.deepcopy(nets[2])
    rows = some_rows(nets[0], "regression", False)
    config = TrainConfig(epochs=4, batch_size=8, optimizer="sgd", lr=0.01, schedule="constant")
    wild = dataclasses.replace(config, lr=1e6)
    first, lost, last = train_together(nets, [config, wild, config], "regression", rows)
    assert first.error is None
    assert last.error is None
    assert "training loss is not finite" in str(lost.error)
    assert "learning rate 1e+06" in str(lost.error)
    train_together([alone], [config], "regression", rows)
    assert difference(nets[2], alone) == 0
    assert len(last.loop.history) == 4


@pytest.mark.parametrize("switched_off", [True, False])
def test_what_has_no_compiled_steps_has_the_same_bits_in_any_company_too(
    switched_off: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if switched_off:
        monkeypatch.setattr(trainer, "extension", None)
        monkeypatch.setattr(trainer, "UNAVAILABLE", "switched off")
    norm = None if switched_off else "batch"
    made = [SpinalNet(11, 3, 5, 4, dropout=0.3), SpinalNet(11, 3, 6, 4, dropout=0.3, norm=norm)]
    alone = copy.deepcopy(made[1])
    rows = some_rows(made[0], "classification", True)
    assert why_not(alone, TrainConfig(), rows[0]) is not None
    configs = [TrainConfig(epochs=2, batch_size=8, seed=seed) for seed in range(2)]
    torch.manual_seed(1)
    train_together(made, configs, "classification", rows, threads=2)
    torch.manual_seed(2)
    (done,) = train_together([alone], configs[1:], "classification", rows)
    assert difference(made[1], alone) == 0
    assert done.loop.history[-1]["train_loss"] < done.loop.history[0]["train_loss"]


def test_each_stops_when_it_gets_no_better_and_keeps_its_best_weights() -> None:
    torch.manual_seed(0)
    nets = [SpinalNet(11, 3, 5, 4) for _ in range(2)]
    rows = some_rows(nets[0], "classification", False, 60)
    held_out = some_rows(nets[0], "classification", False, 30)
    config = TrainConfig(epochs=60, batch_size=8, lr=0.03, early_stopping=2, schedule="constant")
    patient = dataclasses.replace(config, early_stopping=0, seed=1)
    hasty, whole = train_together(nets, [config, patient], "classification", rows, held_out)
    assert len(hasty.loop.history) == hasty.best_epoch + 2 < 60
    assert hasty.loop.stopped == "early_stopping"
    assert len(whole.loop.history) == 60
    for done in (hasty, whole):
        found = (done.net(held_out[0]).argmax(1) == held_out[1]).double().mean()
        best = max(row["val_accuracy"] for row in done.loop.history)
        assert float(found) == best == done.loop.history[done.best_epoch - 1]["val_accuracy"]


@pytest.mark.parametrize("kind", ["spinal", "unchained", "mlp", "linear"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_training_goes_on_from_the_state_of_either_learner(optimizer: str, kind: str) -> None:
    net = NETS[kind](dtype=torch.float64)
    rows = some_rows(net, "classification", False)
    config = TrainConfig(epochs=4, batch_size=16, optimizer=optimizer, lr=0.01)
    whole = copy.deepcopy(net)
    train_together([whole], [config], "classification", rows)
    for first, second in (
        (CompiledRowsLearner, CompiledRowsLearner),
        (RowsLearner, CompiledRowsLearner),
        (CompiledRowsLearner, RowsLearner),
    ):
        parts, state = copy.deepcopy(net), None
        for learns, start in ((first, 0), (second, 2)):
            learner = learns(parts, config, "classification", rows)
            if state is not None:
                learner.optimizer.load_state_dict(state)
            loop = Loop(learner, config)
            loop.epoch = start
            for _ in range(2):
                loop.run_epoch()
            state = learner.release()
        assert difference(parts, whole) < 1e-13, (first, second)


def test_how_many_steps_are_made_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = SpinalNet(11, 3, 5, 4, dropout=0.2)
    twin, rows = copy.deepcopy(net), some_rows(net, "classification", True)
    config = TrainConfig(epochs=2, batch_size=4)
    told: list[tuple[int, Any]] = []
    train_together([net], [config], "classification", rows, on_progress=lambda *p: told.append(p))
    monkeypatch.setattr(CompiledRowsLearner, "steps_at_once", 3)
    train_together([twin], [config], "classification", rows)
    assert difference(net, twin) == 0
    steps = [p for _, p in told if p.phase == "train"]
    assert [(p.epoch, p.step, p.steps) for p in steps] == [(1, 11, 11), (2, 11, 11)]
    assert [number for number, _ in told] == [0] * len(told)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("kind", ["spinal", "shared", "mlp", "linear"])
def test_a_large_batch_is_taken_in_parts(kind: str, task: str) -> None:
    net = NETS[kind](dtype=torch.float64)
    twin, rows = copy.deepcopy(net), some_rows(net, task, weighted=True, count=620)
    config = TrainConfig(epochs=2, batch_size=300, lr=0.02, schedule="constant")
    expected = longhand(twin, config, rows)
    (done,) = train_together([net], [config], task, rows)  # type: ignore[arg-type]
    assert [row["train_loss"] for row in done.loop.history] == pytest.approx(expected, abs=1e-12)
    assert difference(net, twin) < 1e-12


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_several_threads_add_up_the_same_bits(task: str) -> None:
    net = SpinalNet(400, 3, 30, 4)
    rows, before = some_rows(net, task, weighted=True, count=620), torch.get_num_threads()
    config = TrainConfig(epochs=2, batch_size=300, lr=0.01)
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            (done,) = train_together([copy.deepcopy(net)], [config], task, rows)  # type: ignore[arg-type]
            found.append((done.net, [row["train_loss"] for row in done.loop.history]))
    finally:
        torch.set_num_threads(before)
    for other, losses in found[1:]:
        assert difference(found[0][0], other) == 0
        assert losses == found[0][1]


def test_numbers_too_small_to_be_normal_are_zero_in_the_steps_and_nowhere_else() -> None:
    net = SpinalNet(11, 3, 5, 4)
    x, targets, _ = some_rows(net, "classification", False)
    config = TrainConfig(batch_size=16, optimizer="sgd", momentum=0.9, lr=0.1, weight_decay=0.0)
    learner = CompiledRowsLearner(net, config, "classification", (x, targets, torch.zeros(len(x))))
    learner.begin_epoch(0)
    learner.train_steps(0, [0.1])
    velocity = learner.optimizer.state[learner.vector]["momentum_buffer"]
    velocity.fill_(1e-39)
    learner.train_steps(1, [0.1])
    assert velocity.count_nonzero() == 0
    assert torch.tensor(1e-39).mul(0.9) > 0


@pytest.mark.parametrize("name", ["baseline", "x86_64_v3", "x86_64_v4"])
def test_every_instruction_set_makes_the_same_steps(name: str) -> None:
    best = native.instruction_set()
    if not native.extension.select(name):
        pytest.skip(f"this processor has no {name}")
    try:
        config = TrainConfig(epochs=2, batch_size=16, lr=0.01, schedule="constant", optimizer="sgd")
        for kind in NETS:
            net = NETS[kind](dtype=torch.float64)
            rough, twin = copy.deepcopy(net).float(), copy.deepcopy(net)
            rows = some_rows(net, "classification", True)
            halved = tuple(t.float() if t.is_floating_point() else t for t in rows)
            longhand(twin, config, rows)
            train_together([net], [config], "classification", rows)
            train_together([rough], [config], "classification", halved)
            assert difference(net, twin) < 1e-12, kind
            assert difference(rough, twin) < 1e-5, kind
    finally:
        native.extension.select(best)


def test_what_is_not_trained_so_is_named() -> None:
    def hooked() -> nn.Module:
        net = SpinalNet(6, 2, 4)
        net.register_forward_hook(lambda *_: None)
        return net

    def tied() -> nn.Module:
        net = SpinalNet(8, 4, 4)
        net.output.bias = net.spine.layers[1].bias
        return net

    def frozen() -> nn.Module:
        net = MLPHead(6, 2, 4)
        net.output.weight.requires_grad_(False)
        return net

    plain = TrainConfig()
    x = torch.randn(5, 6)
    for net, config, reason in (
        (nn.Linear(6, 2), plain, "none of SpinalNet"),
        (SpinalNet(6, 2, 4, norm="batch"), plain, "norms"),
        (SpinalNet(6, 2, 4, activation="silu"), plain, "not relu"),
        (SpinalNet(6, 2, 4, activation="prelu"), plain, "not one of a linear map"),
        (SpinalNet(7, 2, 4, share_weights=True), plain, "unequal length"),
        (SpinalNet(6, 2, 4).flatten_parameters(), plain, "one parameter"),
        (matched_unchained(6, 2, 43), plain, "differ in width"),
        (MLPHead(6, 2, [5, 4]), plain, "not one hidden layer"),
        (hooked(), plain, "hook"),
        (tied(), plain, "shared by two maps"),
        (frozen(), plain, "frozen"),
        (SpinalNet(6, 2, 4).double(), plain, "type of the rows"),
        (SpinalNet(6, 2, 4), TrainConfig(label_smoothing=0.1), "label_smoothing=0.1"),
        (SpinalNet(6, 2, 4), TrainConfig(ema_decay=0.9), "ema_decay"),
        (SpinalNet(6, 2, 4), TrainConfig(trunk_lr=0.1), "different rates"),
    ):
        assert reason in (why_not(net, config, x) or ""), reason
        with pytest.raises(InputError, match=reason):
            CompiledRowsLearner(net, config, "regression", (x, torch.randn(5, 2), None))
    assert "float16" in (why_not(SpinalNet(6, 2, 4).half(), plain, x.half()) or "")


def test_rows_that_do_not_fit_are_refused() -> None:
    net, config = SpinalNet(6, 2, 4), TrainConfig()
    x, classes, values = torch.randn(5, 6), torch.tensor([0, 1, 1, 0, 1]), torch.randn(5, 2)
    for task, rows, reason in (
        ("regression", (torch.randn(5, 7), values, None), r"rows must be \(N, 6\)"),
        ("regression", (torch.randn(0, 6), values[:0], None), "N > 0"),
        ("regression", (x, values[:4], None), r"must be \(5, 2\), got"),
        ("regression", (x, classes, None), "must be floats"),
        ("classification", (x, values, None), "must be integers"),
        ("classification", (x, classes + 1, None), "classes from 0 to 1, got 1 to 2"),
        ("classification", (x, classes, torch.rand(4)), "one for each of 5 rows"),
    ):
        with pytest.raises(InputError, match=reason):
            train_together([net], [config], task, rows)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="2 different nets"):
        train_together([net, net], [config] * 2, "classification", (x, classes, None))
    with pytest.raises(InputError, match="for each of the 1"):
        train_together([net], [config], "classification", [(x, classes, None)] * 2)


def test_the_learner_of_rows_is_the_compiled_one_where_there_is_one() -> None:
    x, targets = torch.randn(20, 6), torch.randint(0, 2, (20,))
    for norm, kind in ((None, CompiledRowsLearner), ("batch", RowsLearner)):
        net = SpinalNet(6, 2, 4, norm=norm)
        learner = rows_learner(net, TrainConfig(), "classification", (x, targets, None))
        assert type(learner) is kind

"""Dropout and batch norm in the compiled kernels: against torch operations with the same masks."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers import TOL, assert_close, relative_rms
from spinalnet import InputError, SpinalLayer, SpinalNet, use_backend
from spinalnet.kernels import masks as masks_module
from spinalnet.kernels import native
from spinalnet.nn import functional, loss_gradient
from test_kernels import DTYPES, build  # noqa: F401  (a fixture)

pytestmark = pytest.mark.skipif(
    native.UNAVAILABLE is not None, reason=native.UNAVAILABLE or "built"
)


def outcome(net: nn.Module, x: Tensor, backend: str) -> dict[str, Tensor]:
    """Outputs, all gradients and buffers after one training step; the masks are always the same."""
    x = x.clone().requires_grad_()
    net.zero_grad()
    torch.manual_seed(7)
    with use_backend(backend):
        y = net(x)
    # A ramp: outputs that change places do not cancel.
    (y * torch.linspace(0.5, 2, y.numel(), dtype=y.dtype).reshape(y.shape)).sum().backward()
    assert x.grad is not None
    found = {"output": y.detach(), "gradient of x": x.grad, **dict(net.named_buffers())}
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        found[f"gradient of {name}"] = parameter.grad
    return found


def assert_same_step(net: nn.Module, x: Tensor) -> None:
    """The kernels against the paper's loop in float64."""
    truth = outcome(copy.deepcopy(net).double(), x.double(), "reference")
    fused = outcome(net, x, "cpp")
    for name, expected in truth.items():
        # The gradient of a bias before a batch norm is zero but for rounding, in any case small.
        scale = max(float(expected.abs().max()), 1.0)
        error = (fused[name].double() - expected.double()).abs().max() if expected.numel() else 0
        assert fused[name].shape == expected.shape
        assert error <= 20 * TOL[x.dtype] * scale, f"{name}: {error:.1e} of {scale:.1e}"


def make(
    features: int, outputs: int, width: int, layers: int, *, affine: bool = True, **options: Any
) -> nn.Module:
    torch.manual_seed(3)
    kind: Any = SpinalNet if outputs else SpinalLayer
    sizes = (features, outputs, width, layers) if outputs else (features, width, layers)
    if not outputs:
        options.pop("output_dropout", None)
    net = kind(*sizes, dtype=torch.float64, **options)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm1d):
            if not affine:
                norm.weight = norm.bias = None
            else:
                nn.init.uniform_(norm.weight, -1.5, 1.5)
                nn.init.uniform_(norm.bias, -1, 1)
    return net


@given(
    rows=st.integers(2, 150),
    features=st.integers(1, 45),
    splits=st.integers(1, 4),
    layers=st.integers(1, 7),
    width=st.integers(1, 35),
    outputs=st.integers(0, 9),
    dropout=st.sampled_from([0.0, 0.2, 0.5]),
    output_dropout=st.sampled_from([0.0, 0.4]),
    norm=st.sampled_from([None, "batch"]),
    affine=st.booleans(),
    shared=st.booleans(),
    bias=st.booleans(),
    flat=st.booleans(),
    threads=st.integers(1, 3),
)
def test_any_step_is_the_papers(
    rows: int, features: int, splits: int, threads: int, outputs: int, flat: bool, **options: Any
) -> None:
    options["share_weights"] = options.pop("shared")
    net = make(
        features,
        outputs,
        options.pop("width"),
        options.pop("layers"),
        num_splits=min(splits, features),
        activation="leaky_relu",
        **options,
    )
    if flat and isinstance(net, SpinalNet):
        net.flatten_parameters()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_step(net, torch.randn(rows, features, dtype=torch.float64))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("shape", [(64, 320, 10, 8, 6), (131, 9, 1, 50, 5), (300, 70, 3, 17, 4)])
def test_every_build_in_both_types(
    build: str,  # noqa: F811
    dtype: torch.dtype,
    norm: str | None,
    shape: tuple[int, ...],
) -> None:
    rows, *sizes = shape
    # In float32 a sum near zero may fall on either side of the kink; the identity has none.
    slope = "relu" if dtype is torch.float64 else "identity"
    net = make(*sizes, norm=norm, dropout=0.3, activation=slope).to(dtype)
    assert_same_step(net, torch.randn(rows, sizes[0], dtype=dtype))


def test_the_dispatch_takes_the_kernels_and_says_so() -> None:
    x = torch.randn(6, 9)
    for options in ({"dropout": 0.5}, {"norm": "batch"}, {"norm": "batch", "dropout": 0.5}):
        layer = SpinalLayer(9, 4, **options)
        assert layer.backend_choice(x).name == "cpp"
        assert layer.eval().backend_choice(x).name == "cpp"
    assert "norms" in SpinalLayer(9, 4, norm="layer").backend_choice(x).reason
    layer = SpinalLayer(9, 4, dropout=0.5)
    state = torch.get_rng_state()
    layer.backend_choice(x)
    assert torch.equal(torch.get_rng_state(), state), "asking draws nothing"
    with torch.autocast("cpu"):
        assert layer.backend_choice(x).name != "cpp"
        assert layer(x).dtype is torch.bfloat16


def test_one_seed_means_one_result_on_every_path() -> None:
    x = torch.randn(12, 9, dtype=torch.float64)
    net = make(9, 3, 4, 5, dropout=0.5)
    results = {}
    for backend in ("cpp", "reference", "packed"):
        with use_backend(backend):
            torch.manual_seed(1)
            results[backend] = net(x).detach()
            assert not torch.equal(net(x), results[backend])
    assert_close("reference", results["reference"], results["cpp"], torch.float64)
    assert_close("packed", results["packed"], results["cpp"], torch.float64)


def test_the_gradient_without_autograd_takes_the_same_step() -> None:
    net = make(9, 3, 4, 5, dropout=0.3, output_dropout=0.5)
    assert isinstance(net, SpinalNet)
    x, targets = torch.randn(20, 9, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    torch.manual_seed(2)
    loss = nn.functional.mse_loss(net(x), targets)
    expected = torch.autograd.grad(loss, list(net.parameters()))
    gradient = loss_gradient.LossGradient(net, classification=False)
    torch.manual_seed(2)
    assert float(gradient(x, targets)) == pytest.approx(float(loss.detach()), rel=1e-12)
    for parameter, truth in zip(net.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert_close("gradient", parameter.grad, truth, torch.float64)


# Masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.5, 0.25, 0.1, 0.9, 0.3, 1 / 3])
def test_masks_are_independent_draws_of_the_right_probability(dropout: float) -> None:
    torch.manual_seed(0)
    masks = masks_module.Masks(2000, [(33,), (64, 7)], dropout, torch.float64)
    kept = torch.cat(list(masks), dim=1) > 0
    assert kept.shape == (2000, 33 + 71)
    keep = 1 - dropout
    deviation = math.sqrt(keep * dropout)

    def assert_rate(sample: Tensor, expected: float, spread: float) -> None:
        # Five standard deviations: once in two million draws, and the seed is fixed.
        assert abs(float(sample.double().mean()) - expected) < 5 * spread / sample.numel() ** 0.5

    assert_rate(kept, keep, deviation)
    for column in kept.T:
        assert_rate(column, keep, deviation)
    # Neighbours, along rows and columns and across words, are independent of each other.
    both = keep**2
    spread = math.sqrt(both * (1 - both))
    assert_rate(kept[:, 1:] & kept[:, :-1], both, 2 * spread)
    assert_rate(kept[1:] & kept[:-1], both, 2 * spread)
    assert_rate(kept[:, 32:] & kept[:, :-32], both, 2 * spread)
    assert {0.0, 1 / keep} == set(torch.cat(list(masks), dim=1).unique().tolist())


def test_masks_repeat_with_the_seed_only() -> None:
    def draw(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return masks_module.Masks(50, [(40,)], 0.5, torch.float32)[0]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    torch.manual_seed(1)
    first, second = (masks_module.Masks(50, [(40,)], 0.5, torch.float32)[0] for _ in range(2))
    assert 0.4 < float((first == second).float().mean()) < 0.6
    none, all_of_them = (
        masks_module.Masks(9, [(70,)], dropout, torch.float32)[0] for dropout in (1 - 1e-12, 1e-12)
    )
    assert not none.any()
    assert (all_of_them > 0).all()


def test_dropping_leaves_the_mean_as_it_is() -> None:
    torch.manual_seed(0)
    layer = SpinalLayer(40, 3, 4, dropout=0.4, activation="identity").double()
    x = torch.randn(1, 40, dtype=torch.float64)
    dropped = layer(x.expand(100_000, -1))
    spread = dropped.std(0) / 100_000**0.5
    assert ((dropped.mean(0) - layer.eval()(x)[0]).abs() < 5 * spread).all()


# Derivatives, special values, norms ----------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "batch"])
def test_gradcheck_and_second_derivatives(norm: str | None) -> None:
    net = make(7, 2, 3, 4, norm=norm, dropout=0.3, activation="leaky_relu")
    assert isinstance(net, SpinalNet)
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    parameters = list(net.parameters())

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(5)
        return net(x)

    assert torch.autograd.gradcheck(call, (x, *parameters))

    def penalty(backend: str) -> list[Tensor]:
        with use_backend(backend):
            (slope,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
            found = torch.autograd.grad(
                slope.square().sum(), [x, *parameters], allow_unused=True, materialize_grads=True
            )
        return list(found)

    for index, (mine, truth) in enumerate(zip(penalty("cpp"), penalty("reference"), strict=True)):
        if truth.abs().max() > 1e-9:
            assert relative_rms(mine, truth) < 1e-9, index
        else:
            assert mine.abs().max() < 1e-9


def test_second_derivatives_by_parameters_that_were_put_in_for_a_call() -> None:
    net = make(7, 2, 3, 4, norm="batch", dropout=0.3, activation="leaky_relu")
    x = torch.randn(6, 7, dtype=torch.float64)
    fast = {
        name: (value.detach() * 1.1 + 0.1).requires_grad_()
        for name, value in net.named_parameters()
    }

    def second(backend: str) -> list[Tensor]:
        torch.manual_seed(5)
        with use_backend(backend):
            loss = torch.func.functional_call(net, fast, (x,)).square().sum()
            first = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            total = sum(gradient.square().sum() for gradient in first)
            return list(torch.autograd.grad(total, list(fast.values()), allow_unused=False))

    for mine, truth in zip(second("cpp"), second("reference"), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_nan_and_inf_go_where_torch_sends_them(value: float, norm: str | None) -> None:
    net = make(9, 2, 4, 4, norm=norm, dropout=0.5, activation="leaky_relu")
    x = torch.randn(40, 9, dtype=torch.float64)
    x[3, 2] = value
    found = outcome(copy.deepcopy(net), x, "cpp"), outcome(net, x, "reference")
    for name in ("output", "gradient of x"):
        assert torch.equal(found[0][name].isnan(), found[1][name].isnan()), name
        assert torch.equal(found[0][name].isinf(), found[1][name].isinf()), name


def test_scratch_memory_never_reaches_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(11, 3, 5, 4, norm="batch", dropout=0.5)
    x = torch.randn(30, 11, dtype=torch.float64)
    expected = outcome(copy.deepcopy(net), x, "cpp")

    def poisoned(make: Any) -> Any:
        def filled(*arguments: Any, **options: Any) -> Tensor:
            made = make(*arguments, **options)
            return made.fill_(float("nan")) if made.is_floating_point() else made.fill_(-1)

        return filled

    for owner, name in ((Tensor, "new_empty"), (torch, "empty_like"), (torch, "empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
    found = outcome(copy.deepcopy(net), x, "cpp")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("track", [True, False])
def test_running_statistics_are_torchs(momentum: float | None, track: bool) -> None:
    net = make(9, 2, 4, 4, norm="batch")
    assert isinstance(net, SpinalNet)
    for index in range(4):
        fresh = nn.BatchNorm1d(4, momentum=momentum, track_running_stats=track, dtype=torch.float64)
        net.spine.norms[index] = fresh
    other = copy.deepcopy(net)
    for _ in range(3):
        x = torch.randn(20, 9, dtype=torch.float64) * 3 + 1
        with use_backend("cpp"):
            mine = net(x).detach()
        with use_backend("reference"):
            truth = other(x).detach()
        assert_close("output", mine, truth, torch.float64)
    for (name, mine), truth in zip(net.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, truth, msg=name)
    net.eval()
    other.eval()
    with torch.no_grad(), use_backend("reference"):
        truth = other(x)
    assert_close("after", net(x).detach(), truth, torch.float64)


def test_some_norms_may_be_fixed() -> None:
    net = make(9, 2, 4, 5, norm="batch", dropout=0.2)
    assert isinstance(net, SpinalNet)
    for index in (0, 3):
        norm: Any = net.spine.norms[index]
        norm.eval()
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(net.spine.norms[0].state_dict())
    assert_same_step(net, torch.randn(30, 9, dtype=torch.float64))
    for name, value in net.spine.norms[0].state_dict().items():
        assert torch.equal(value, before[name])
    # All fixed, as when the statistics of a trained net are kept while it is tuned.
    net.spine.norms.eval()
    assert_same_step(net, torch.randn(1, 9, dtype=torch.float64))


def test_torch_notices_that_statistics_have_changed() -> None:
    net = make(9, 2, 4, 4, norm="batch")
    assert isinstance(net, SpinalNet)
    running: Any = net.spine.norms[0].running_mean
    leaf = torch.ones(4, dtype=torch.float64, requires_grad=True)
    product = (leaf * running).sum()
    net(torch.randn(5, 9, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_single_row_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SpinalNet(9, 2, 4, norm="batch")(torch.randn(1, 9))


@pytest.mark.parametrize("training", [True, False])
def test_hooks_on_norms_and_dropout_are_called(training: bool) -> None:
    net = SpinalNet(9, 2, 4, norm="batch", dropout=0.5).train(training)
    calls = []
    net.spine.norms[1].register_forward_hook(lambda *_: calls.append("norm"))
    net.output_dropout.register_forward_hook(lambda *_: calls.append("dropout"))
    net(torch.randn(5, 9))
    assert calls == ["norm", "dropout"]


def test_another_kind_of_dropout_stays_in_force() -> None:
    net = SpinalNet(9, 2, 4, dropout=0.5)
    net.output_dropout = nn.AlphaDropout(0.5)  # type: ignore[assignment]
    seen = []
    net.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(torch.randn(50, 9))
    assert (seen[0] < 0).any()  # which a relu chain and plain dropout never give


def test_switching_dropout_off_and_on_is_seen_at_once() -> None:
    torch.manual_seed(0)
    net = SpinalNet(9, 2, 4, dropout=0.0, output_dropout=0.0)
    x = torch.randn(8, 9)
    plain = net(x)
    assert torch.equal(net(x), plain)
    net.output_dropout.p = 0.5
    assert not torch.equal(net(x), plain)
    net.output_dropout.p = 0.0
    net.spine.dropout = 0.5
    assert not torch.equal(net(x), plain)
    assert torch.equal(net.eval()(x), plain)
    net.output_dropout.p = 0.5
    net.output_dropout.train()
    assert not torch.equal(net(x), plain)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_the_result_is_the_same_bits_for_any_number_of_threads(norm: str | None) -> None:
    net = make(96, 5, 40, 6, norm=norm, dropout=0.3).float()
    x = torch.randn(900, 96)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(outcome(copy.deepcopy(net), x, "cpp"))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


@pytest.mark.parametrize("norm", [None, "batch"])
def test_compiling_takes_torchs_masks_and_norms(norm: str | None) -> None:
    net = make(9, 2, 4, 4, norm=norm, dropout=0.5)
    compiled = torch.compile(copy.deepcopy(net), backend="aot_eager", fullgraph=True)
    x = torch.randn(30, 9, dtype=torch.float64)
    assert not torch.equal(compiled(x), compiled(x))
    net.eval()
    compiled.eval()
    net.load_state_dict(compiled._orig_mod.state_dict())  # which training has changed
    assert_close("eval", compiled(x).detach(), net(x).detach(), torch.float64)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
@pytest.mark.parametrize("variant", ["", ", dropout", ", batch norm", ", both"])
def test_a_step_takes_less_memory_than_longhand(variant: str) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "memory.py"
    taken = {
        way: float(
            subprocess.run(
                [sys.executable, script, "--one", "320 / 8x6 vs 50", variant, way],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for way in ("ours", "longhand")
    }
    assert taken["ours"] < taken["longhand"]


def test_masks_take_a_bit_per_number() -> None:
    masks = masks_module.Masks(1000, [(160,), (160, 8)], 0.5, torch.float32)
    assert masks.words.nbytes == 1000 * 4 * (5 + 5 + 1)
    assert functional.draw_masks(torch.zeros(3, 4), [(4,)], 0.5)[0].shape == (3, 4)


@pytest.mark.parametrize("options", [{"dropout": 0.5}, {"norm": "batch"}], ids=str)
def test_data_of_another_shape_is_seen(options: dict[str, Any]) -> None:
    net, x = SpinalNet(12, 3, 4, **options), torch.randn(6, 12)
    net(x)
    loss = net(x).square().sum()
    net.output.weight.data, net.output.bias.data = torch.randn(5, 16), torch.randn(5)
    results = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        with use_backend(backend):
            results.append(net(x).detach())
    torch.testing.assert_close(*results)
    with pytest.raises(InputError, match="another shape between forward and backward"):
        loss.backward()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["cpp", "reference"])
def test_a_norm_of_another_width_is_refused(training: bool, backend: str) -> None:
    net = SpinalNet(12, 3, hidden_features=8, norm="batch").train(training)
    net.spine.norms[1] = nn.BatchNorm1d(1).train(training)
    with torch.no_grad(), use_backend(backend), pytest.raises(InputError, match=r"norms\[1\]"):
        net(torch.randn(5, 12))


@pytest.mark.parametrize("training", [True, False])
def test_a_vector_of_a_norm_that_lies_about_its_width_is_refused(training: bool) -> None:
    net = SpinalNet(12, 3, hidden_features=8, norm="batch").train(training)
    norm: Any = net.spine.norms[1]
    norm.running_mean = norm.running_mean[:1]
    with torch.no_grad(), use_backend("cpp"), pytest.raises(InputError, match="8 elements"):
        net(torch.randn(5, 12))
    norm.num_features = 1
    with torch.no_grad(), use_backend("cpp"), pytest.raises(InputError):
        net(torch.randn(5, 12))

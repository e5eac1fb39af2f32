"""Conversion of dense layers, their error bounds, narrowing, and approximation by construction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.data.loading import load_dataset
from spinalnet.nn.activations import ACTIVATIONS
from spinalnet.nn.counting import count_macs
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.layers import SpinalNet
from spinalnet.theory.approximation import (
    TARGETS,
    approximate,
    approximation_errors,
    study_approximation,
)
from spinalnet.theory.conversion import bounds_of, convert, to_spinal
from spinalnet.theory.narrowing import narrow, shrink
from spinalnet.training import fitting
from spinalnet.training.config import TrainConfig


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


EXACT = ["relu", "leaky_relu", "prelu", "elu", "selu", "identity"]
ASYMPTOTIC = ["softplus", "gelu", "silu", "mish"]
LINEARISED = ["sigmoid", "tanh"]


def box_points(n: int, low: Tensor, high: Tensor) -> Tensor:
    """Random points of the box, and as many of its corners."""
    inside = low + (high - low) * torch.rand(n, len(low), dtype=torch.float64)
    corners = torch.where(torch.rand(n, len(low)) < 0.5, low, high)
    return torch.cat([inside, corners])


def dense_net(in_features: int, widths: list[int], activation: str, out: int = 3) -> MLPHead:
    return MLPHead(in_features, out, widths, activation=activation).double().eval()


@given(
    in_features=st.integers(1, 12),
    neurons=st.integers(1, 10),
    width=st.integers(1, 12),
    splits=st.integers(1, 5),
    activation=st.sampled_from(EXACT),
    centre=st.floats(-20, 20),
    reach=st.floats(0, 20),
    seed=st.integers(0, 1000),
)
def test_exact_on_the_box(
    in_features: int,
    neurons: int,
    width: int,
    splits: int,
    activation: str,
    centre: float,
    reach: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    splits = min(splits, in_features)
    dense = dense_net(in_features, [neurons], activation)
    low = centre - reach * torch.rand(in_features, dtype=torch.float64)
    high = centre + reach * torch.rand(in_features, dtype=torch.float64)
    done = convert(dense, splits, (low, high), hidden_features=width)
    x = box_points(50, low, high)
    error = (done.model(x) - dense(x)).abs()
    assert float(error.max()) <= 1e-9
    assert bool((error <= done.error_bound).all())
    assert float(done.error_bound.max()) <= 1e-9  # the bound itself is that small
    assert isinstance(done.model, SpinalNet)
    groups = -(-neurons // min(width, neurons))
    assert done.model.spine.num_layers == groups * splits
    assert done.model.spine.num_splits == splits


@pytest.mark.parametrize("activation", ASYMPTOTIC)
@pytest.mark.parametrize("splits", [2, 3])
def test_smooth_rays_are_exact_to_rounding(activation: str, splits: int) -> None:
    dense = dense_net(7, [5, 4], activation)
    done = convert(dense, splits, (-3, 2), hidden_features=2)
    low, high = torch.full((7,), -3.0).double(), torch.full((7,), 2.0).double()
    x = box_points(500, low, high)
    error = (done.model(x) - dense(x)).abs().amax(0)
    assert bool((error <= done.error_bound).all())
    assert float(done.error_bound.max()) < 1e-9


@pytest.mark.parametrize("activation", LINEARISED)
@pytest.mark.parametrize("splits", [2, 4])
@pytest.mark.parametrize("widths", [[6], [6, 5]])
def test_sigmoid_and_tanh_stay_within_a_bound_of_second_order(
    activation: str, splits: int, widths: list[int]
) -> None:
    dense = dense_net(8, widths, activation)
    low, high = -2 * torch.ones(8).double(), torch.ones(8).double()
    x = box_points(1000, low, high)
    errors, bounds = [], []
    for epsilon in (0.3, 0.1, 0.01, 1e-3):
        done = convert(dense, splits, (low, high), hidden_features=3, epsilon=epsilon)
        error = (done.model(x) - dense(x)).abs().amax(0)
        assert bool((error <= done.error_bound).all())
        errors.append(float(error.max()))
        bounds.append(float(done.error_bound.max()))
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.1)  # ten times finer, 100 times better
    assert errors[2] / errors[3] == pytest.approx(100, rel=0.1)
    assert bounds[2] < 30 * errors[2]  # a bound worth stating
    best = convert(dense, splits, (low, high), hidden_features=3)
    assert float(best.error_bound.max()) < 1e-7
    assert float((best.model(x) - dense(x)).abs().max()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [*EXACT, *ASYMPTOTIC, *LINEARISED])
def test_the_bound_holds_in_every_precision(activation: str, dtype: torch.dtype) -> None:
    dense = dense_net(9, [16, 7], activation).to(dtype)
    done = convert(dense, 3, (-1.0, 1.5), hidden_features=5)
    x = box_points(500, done.low, done.high).to(dtype)
    assert done.model(x).dtype is dtype
    error = (done.model(x).double() - dense(x).double()).abs().amax(0)
    assert bool((error <= done.error_bound).all())


def test_every_named_activation_converts() -> None:
    assert {*EXACT, *ASYMPTOTIC, *LINEARISED} == set(ACTIVATIONS)


def test_a_hidden_layer_alone_keeps_its_outputs() -> None:
    linear = nn.Linear(6, 5).double()
    x = box_points(100, -torch.ones(6).double(), torch.ones(6).double())
    for net in (
        to_spinal(linear, 3, (-1, 1), activation="relu", hidden_features=2),
        to_spinal(nn.Sequential(linear, nn.ReLU()), 3, (-1, 1), hidden_features=2),
    ):
        assert float((net(x) - linear(x).relu()).abs().max()) < 1e-12


def test_norms_fold_and_dropout_goes() -> None:
    dense = MLPHead(
        10, 4, [8, 6], norm="batch", dropout=0.5, activation="leaky_relu", dtype=torch.float64
    )
    dense.train()
    for _ in range(5):  # statistics that are not the initial ones
        dense(torch.randn(32, 10).double() * 3 + 1)
    dense.eval()
    net = to_spinal(dense, 2, (-4.0, 4.0))
    x = box_points(300, -4 * torch.ones(10).double(), 4 * torch.ones(10).double())
    assert float((net(x) - dense(x)).abs().max()) < 1e-9


def test_outside_the_box_the_adders_clip() -> None:
    # One neuron, 1 * a + 1 * b, on [-1, 1]^2: the adder holds a + 1 >= 0 and clips below.
    dense = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    for parameter in dense.parameters():
        parameter.fill_(float(parameter.ndim == 2))  # weights 1, biases 0
    net = to_spinal(dense, 2, (-1, 1))
    below = torch.tensor([[-3.0, 4.0]]).double()
    assert float(dense(below)) == 1.0
    assert float(net(below)) == 3.0  # a is taken for -1: off by the clipped 2
    above = torch.tensor([[5.0, -2.0]]).double()
    assert float(net(above)) == float(dense(above))  # upwards there is no edge


def test_bounds_of_data_cover_it() -> None:
    x = torch.randn(50, 4)
    low, high = bounds_of(x)
    assert bool(((x >= low) & (x <= high)).all())
    wide_low, wide_high = bounds_of(x, slack=0.5)
    assert torch.allclose(wide_high - wide_low, 2 * (high - low))


def test_refusals_say_what_to_do() -> None:
    two_norms = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.ReLU())
    cases = [
        (lambda: to_spinal(nn.Linear(3, 3), 2, (-1, 1)), "pass activation="),
        (lambda: to_spinal(nn.Conv1d(3, 3, 1), 2, (-1, 1)), r"\(Conv1d\) cannot be converted"),
        (lambda: to_spinal(two_norms, 2, (-1, 1)), "LayerNorm"),
        (lambda: to_spinal(nn.Linear(3, 3), 4, (-1, 1), activation="relu"), "num_splits"),
        (lambda: to_spinal(nn.Linear(3, 3), 2, (1, -1), activation="relu"), "low <= high"),
        (lambda: to_spinal(nn.Linear(3, 3), 2, 5, activation="relu"), "bounds must be"),
        (lambda: to_spinal(nn.Linear(3, 3), 2, (-1, float("inf")), activation="relu"), "finite"),
        (lambda: to_spinal(nn.Linear(3, 3), 2, (-1, 1), activation="tanh", epsilon=0.0), "epsilon"),
        (
            lambda: to_spinal(nn.Linear(3, 3), 2, (-1, 1), activation=lambda: nn.Softmax(-1)),
            "affine piece",
        ),
        (lambda: to_spinal(nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), 2, (-1, 1)), "must follow"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()


def test_narrowing_to_the_full_width_changes_nothing() -> None:
    net = SpinalNet(9, 3, 5, 4, num_splits=3, activation="elu", dtype=torch.float64)
    x = torch.randn(40, 9).double()
    assert float((narrow(net, 5, x)(x) - net(x)).abs().max()) < 1e-12


def test_narrowing_drops_constant_neurons_for_free() -> None:
    # 7 neurons in groups of 4 leave one padded neuron per layer of the second group; and a neuron
    # that is dead on the data can go from every other layer.
    dense = dense_net(6, [7], "relu")
    dense.layers[0][0].bias[2] = -1000.0  # type: ignore[index]
    x = box_points(200, -torch.ones(6).double(), torch.ones(6).double())
    net = to_spinal(dense, 2, (-1, 1), hidden_features=4)
    assert isinstance(net, SpinalNet)
    small = narrow(net, 3, x)
    assert float((small(x) - dense(x)).abs().max()) < 1e-9
    assert count_macs(small, (6,)).total < count_macs(net, (6,)).total


def test_narrowing_keeps_what_matters_most() -> None:
    torch.manual_seed(1)
    net = SpinalNet(8, 2, 6, 4, dtype=torch.float64)
    x = torch.randn(200, 8).double()
    errors = [float((narrow(net, w, x)(x) - net(x)).square().mean()) for w in (1, 3, 5, 6)]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(InputError, match="at most 6"):
        narrow(net, 7, x)
    with pytest.raises(InputError, match="norms"):
        narrow(SpinalNet(8, 2, 6, 4, norm="batch"), 3, x.float())


def test_approximation_improves_with_depth_and_with_width() -> None:
    saddle = TARGETS["saddle"]
    by_depth = [
        approximate(saddle, 2, groups=g, hidden_features=2, samples=1000) for g in (1, 8, 64)
    ]
    by_width = [
        approximate(saddle, 2, groups=2, hidden_features=w, samples=1000) for w in (1, 8, 64)
    ]
    for found in (by_depth, by_width):
        errors = [one.rms_error for one in found]
        assert 0.2 * errors[0] > errors[2]
        assert errors[0] > errors[1]
        assert all(one.conversion_error < 1e-9 for one in found)
    assert by_depth[-1].net.spine.num_layers == 128
    assert by_depth[-1].net.spine.hidden_features == 2


def test_the_study_names_its_best_construction(tmp_path: Path) -> None:
    best = study_approximation("sum", 3, tmp_path, num_splits=3, seeds=1)
    numbers = json.loads((tmp_path / "errors.json").read_text())
    errors = {(row["width"], row["layers"]): row["rms_errors"] for row in numbers["errors"]}
    assert best.rms_error == min(value for values in errors.values() for value in values)
    assert errors[best.width, best.layers] == best.rms_errors
    alone = approximation_errors(TARGETS["sum"], 3, groups=(2,), widths=(4,), num_splits=3, seeds=1)
    assert alone == {4: [(6, errors[4, 6])]}
    assert (numbers["target"], numbers["features"], numbers["splits"]) == ("sum", 3, 3)
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("proof.png", "errors.png"))
    with pytest.raises(InputError, match="unknown target 'sums'; did you mean 'sum'"):
        study_approximation("sums", 3, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_trained_head_converts_shrinks_and_is_tuned() -> None:
    splits = load_dataset("digits", limit=300)
    model = nn.Sequential()
    model.add_module("trunk", nn.Flatten())
    model.add_module("head", MLPHead(64, 10, 8))
    with torch.enable_grad():
        fitting.fit(model, splits.train, splits.val, TrainConfig(epochs=20, device="cpu"))
        found = shrink(model, splits.train, splits.val, splits.test, epochs=2, seeds=1)
    assert found.converted == found.dense  # to the last digit
    assert found.dense > 0.5
    assert found.largest_difference < 1e-4
    assert [row.width for row in found.rows] == [8, 4, 2, 1]
    assert found.rows[0].pruned == (found.converted,)
    assert found.rows[0].macs == found.converted_macs
    assert [row.macs for row in found.rows] == sorted((r.macs for r in found.rows), reverse=True)
    assert found.rows[1].tuned[0] > found.rows[1].pruned[0] - 0.05


def test_linear_maps_that_are_more_than_a_matrix_are_refused() -> None:
    class Adapter(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base, self.down, self.up = base, nn.Linear(4, 2), nn.Linear(2, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    bounds = (torch.zeros(4), torch.ones(4))
    hooked = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    hooked[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    adapted = nn.Sequential(Adapter(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    for module in (hooked, adapted):
        with pytest.raises(InputError, match=r"cannot be\s+converted"):
            to_spinal(module, 2, bounds)
    net = SpinalNet(4, 2, 3)
    net.spine.layers[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(InputError, match="do not say what this net computes"):
        narrow(net, 2, torch.randn(5, 4))

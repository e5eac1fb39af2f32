"""The range test: right losses, a copy is trained, a suggestion that trains."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from spinalnet import InputError, TrainConfig, fit
from spinalnet.training import lrfind
from spinalnet.training.lrfind import RangeTest, range_test


def batches(n: int = 64, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(n, 8, generator=generator)
    targets = inputs[:, :3].argmax(1)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))


def config(**options: object) -> TrainConfig:
    return TrainConfig(**({"device": "cpu", "optimizer": "sgd", "momentum": 0.0} | options))  # type: ignore[arg-type]


def test_losses_are_those_of_a_plain_loop_at_rising_rates() -> None:
    found = range_test(network(), batches(), config(), lowest=1e-4, highest=1e-1, steps=10)
    assert found.rates == pytest.approx([1e-4 * 1000 ** (k / 9) for k in range(10)])
    model, data = network(), batches()
    mean, expected, smoothed = 0.0, [], []
    for k, rate in enumerate(found.rates):  # over the end of the data, and on from its start
        inputs, targets = data[k % len(data)]
        loss = nn.functional.cross_entropy(model(inputs), targets)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= rate * parameter.grad
        expected.append(loss.item())
        mean = 0.9 * mean + 0.1 * expected[-1]
        smoothed.append(mean / (1 - 0.9 ** (k + 1)))
    assert found.losses == pytest.approx(expected, rel=1e-5)
    assert found.smoothed == pytest.approx(smoothed, rel=1e-5)
    assert not found.diverged


def test_the_model_and_the_random_streams_stay_as_they_were() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    range_test(model, batches(), config(), steps=20)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_ends_where_training_fails() -> None:
    found = range_test(network(), batches(), config(), highest=1e4, steps=60)
    assert found.diverged
    assert len(found.rates) < 60
    assert max(found.smoothed) <= 4 * min(found.smoothed) or found.smoothed[0] == max(
        found.smoothed
    )
    assert all(math.isfinite(loss) for loss in found.losses)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_suggestion_trains_and_the_edge_does_not(optimizer: str) -> None:
    options = {"optimizer": optimizer, "momentum": 0.9}
    found = range_test(network(), batches(256), config(**options), highest=1e3, steps=80)
    assert found.lowest / 10 == found.suggestion < found.rates[-1] / 10

    def trained(lr: float) -> float:
        settings = config(**options, lr=lr, epochs=5, schedule="constant")
        data = batches(256)
        return fit(network(), data, data, settings).val.accuracy or 0.0

    assert trained(found.suggestion) > 0.9
    assert trained(found.suggestion) > trained(found.suggestion / 1000) + 0.2


def test_the_points_are_read_off_the_smoothed_curve() -> None:
    rates = tuple(10.0**k for k in range(-6, 1))
    smoothed = (2.0, 1.9, 1.8, 1.0, 0.8, 0.7, 3.0)
    found = RangeTest(rates, smoothed, smoothed, True)
    assert found.lowest == pytest.approx(0.1)
    assert found.suggestion == pytest.approx(0.01)
    assert found.steepest == pytest.approx(1e-3)  # 1.8 before, 0.8 after; not the end
    rising = RangeTest(rates, tuple(range(7)), tuple(range(7)), False)
    assert rising.steepest == rising.suggestion == pytest.approx(1e-7)


def test_an_impossible_range_is_one_sentence() -> None:
    with pytest.raises(InputError, match="0 < lowest < highest and at least 10 steps"):
        range_test(network(), batches(), config(), lowest=1.0, highest=0.1)
    with pytest.raises(InputError, match=r"at least 10 steps, got .* steps=5"):
        range_test(network(), batches(), config(), steps=5)
    poisoned = [(inputs * math.inf, targets) for inputs, targets in batches()]
    with pytest.raises(InputError, match="not finite from the start"):
        range_test(network(), poisoned, config())


def test_the_figure_shows_every_test() -> None:
    found = range_test(network(), batches(), config(), steps=12)
    figure = lrfind.draw_range_tests({"spinal": found, "mlp": found}, "title")
    (axes,) = figure.figure.axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["spinal", "mlp"]
    assert axes.get_xscale() == "log"

"""Closed-form derivatives against automatic differentiation, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spinalnet._checks import InputError
from spinalnet.nn import gradients
from spinalnet.nn.activations import ACTIVATIONS
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.gradients import hidden_influence, jacobian
from spinalnet.nn.layers import SpinalLayer, SpinalNet
from spinalnet.nn.loss_gradient import LossGradient
from spinalnet.nn.variants import ReusedSpinalNet, TiledSpinalNet


def autograd_jacobian(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    outputs = net(x)  # rows do not mix, so the gradient of a column's sum is one row of each J
    return torch.stack(
        [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in outputs.unbind(1)], dim=1
    )


def settled(net: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights of a trained net; evaluation mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        if isinstance(module, nn.BatchNorm1d | nn.LayerNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return net.double().eval()


@given(
    in_features=st.integers(1, 9),
    out_features=st.integers(1, 12),
    hidden=st.integers(1, 6),
    layers=st.integers(1, 7),
    splits=st.integers(1, 4),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    norm=st.sampled_from([None, "batch", "layer"]),
    shared=st.booleans(),
    bias=st.booleans(),
)
def test_jacobian_is_that_of_autograd(
    in_features: int,
    out_features: int,
    hidden: int,
    layers: int,
    splits: int,
    activation: str,
    norm: str | None,
    shared: bool,
    bias: bool,
) -> None:
    torch.manual_seed(0)
    net = SpinalNet(
        in_features,
        out_features,
        hidden,
        layers,
        num_splits=min(splits, in_features),
        activation=activation,
        norm=norm,
        share_weights=shared,
        bias=bias,
    )
    settled(net)
    x = torch.randn(3, in_features).double()
    expected = autograd_jacobian(net, x).detach()
    found = jacobian(net, x)
    assert found.shape == (3, out_features, in_features)
    # One neuron after a layer norm is constant: its derivative is pure cancellation.
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= 1e-12 * scale


def test_jacobian_of_a_layer_and_of_the_compatibility_nets() -> None:
    layer = SpinalLayer(7, 3, 5, num_splits=2, activation="tanh", dtype=torch.float64)
    tiled = TiledSpinalNet(7, 3, 4, 5, num_splits=2, activation="elu", dtype=torch.float64)
    reused = ReusedSpinalNet(8, 3, 4, 6, reuse=[(4, 2), (5, 3)], dtype=torch.float64)
    for net, features in ((layer, 7), (tiled, 7), (reused, 8)):
        x = torch.randn(4, features).double()
        expected = autograd_jacobian(net, x).detach()
        assert float((jacobian(net, x) - expected).abs().max()) <= 1e-12


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slopes_are_the_derivatives(name: str) -> None:
    act = ACTIVATIONS[name]().double()
    assert type(act) in gradients.SLOPES
    z = torch.linspace(-30, 30, 4001).double()[1:].requires_grad_()
    expected = torch.autograd.grad(act(z).sum(), z)[0]
    with torch.no_grad():
        assert float((gradients.slope(act, z, act(z)) - expected).abs().max()) < 1e-12


def test_unknown_activations_are_differentiated_and_mixing_ones_refused() -> None:
    net = SpinalNet(4, 2, 3, activation=nn.Softsign, dtype=torch.float64)
    x = torch.randn(5, 4).double()
    assert float((jacobian(net, x) - autograd_jacobian(net, x)).abs().max().detach()) < 1e-12
    mixing = SpinalNet(4, 2, 3, activation=lambda: nn.Softmax(-1), dtype=torch.float64)
    with pytest.raises(InputError, match="each neuron alone"):
        jacobian(mixing, x)
    with pytest.raises(InputError, match="SpinalNet"):
        jacobian(nn.Linear(4, 2), x)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(N, 4\)"):
        jacobian(net, x[:, :3])


def test_hidden_influence_is_the_derivative_by_hidden_values() -> None:
    net = SpinalNet(6, 3, 2, 4, activation="tanh", dtype=torch.float64)
    x = torch.randn(5, 6).double()
    found = hidden_influence(net, x)
    step = 1e-6
    for layer in range(4):
        for neuron in range(2):
            shifted = []
            for sign in (1, -1):
                weights, biases = net.spine.chain()
                assert biases is not None
                # Move the neuron itself: what it feeds sees h + step.
                previous, hidden = None, []
                sizes = net.spine.split_sizes
                for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                    part = x.split(sizes, dim=1)[i % 2]
                    seen = part if previous is None else torch.cat([part, previous], 1)
                    h = torch.tanh(seen @ weight.T + bias)
                    if i == layer:
                        h = h + sign * step * nn.functional.one_hot(torch.tensor(neuron), 2)
                    previous = h
                    hidden.append(h)
                shifted.append(net.output(torch.cat(hidden, 1)))
            slope = (shifted[0] - shifted[1]).detach() / (2 * step)
            assert float((found[layer][:, :, neuron] - slope).abs().max()) < 1e-8


NETS = {
    "spinal": lambda **o: SpinalNet(7, 3, 4, 5, num_splits=2, **o),
    "one layer": lambda **o: SpinalNet(7, 3, 4, 1, **o),
    "shared": lambda **o: SpinalNet(8, 3, 4, 5, share_weights=True, **o),
    "mlp": lambda **o: MLPHead(7, 3, [5, 4], **o),
    "linear": lambda **o: MLPHead(7, 3, [], **o),
}


@pytest.mark.parametrize("kind", sorted(NETS))
@pytest.mark.parametrize("classification", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "identity"])
@pytest.mark.parametrize("compiled", [True, False])
def test_loss_gradient_is_that_of_autograd(
    kind: str,
    classification: bool,
    weighted: bool,
    activation: str,
    compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not compiled:
        monkeypatch.setattr(LossGradient, "_compiled_chain", lambda self, splits: None)
    net = NETS[kind](activation=activation, dtype=torch.float64)
    x = torch.randn(11, net.in_features).double()
    weights = torch.rand(11).double() if weighted else None
    outputs = net(x)
    if classification:
        targets = torch.randint(0, 3, (11,))
        losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    else:
        targets = torch.randn(11, 3).double()
        losses = (outputs - targets).square().mean(1)
    loss = (losses if weights is None else losses * weights).mean()
    expected = torch.autograd.grad(loss, list(net.parameters()))
    gradient = LossGradient(net, classification)
    gradient.gradient.fill_(7.0)  # what was there before must not matter
    found = gradient(x, targets, weights)
    assert float(found) == pytest.approx(float(loss.detach()), abs=1e-13)
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        assert float((parameter.grad - gradient).abs().max()) < 1e-13


def test_loss_gradient_with_dropout_is_that_of_the_same_masks() -> None:
    # With the same seed both draw masks of the same shapes in the same order.
    for net in (
        SpinalNet(6, 2, 4, 3, dropout=0.4, dtype=torch.float64),
        SpinalNet(6, 2, 4, 3, dropout=0.4, activation="silu", dtype=torch.float64),
        MLPHead(6, 2, 5, dropout=0.4, dtype=torch.float64),
        MLPHead(6, 2, [5, 4], dropout=0.4, dtype=torch.float64),
    ):
        gradient = LossGradient(net.train(), classification=False)
        x, targets = torch.randn(9, 6).double(), torch.randn(9, 2).double()
        torch.manual_seed(3)
        gradient(x, targets)
        numeric = []
        weight = net.output.weight
        for index in range(3):
            losses = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    weight.view(-1)[index] += step
                torch.manual_seed(3)
                saved = weight.grad.clone()
                losses.append(float(gradient(x, targets)))
                weight.grad.copy_(saved)
                with torch.no_grad():
                    weight.view(-1)[index] -= step
            numeric.append((losses[0] - losses[1]) / 2e-5)
        torch.manual_seed(3)
        gradient(x, targets)
        found = weight.grad.view(-1)[:3]
        assert torch.allclose(found, torch.tensor(numeric).double(), atol=1e-8)
        first = next(net.parameters())
        torch.manual_seed(3)
        gradient(x, targets)
        analytic = float(first.grad.view(-1)[0])
        losses = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                first.view(-1)[0] += step
            torch.manual_seed(3)
            losses.append(float(gradient(x, targets)))
        assert analytic == pytest.approx((losses[0] - losses[1]) / 2e-5, abs=1e-6)


def test_loss_gradient_says_when_it_cannot() -> None:
    for net, reason in (
        (SpinalNet(6, 2, 4, norm="batch"), "norms"),
        (SpinalNet(6, 2, 4, activation="prelu"), "parameters"),
        (SpinalNet(7, 2, 4, share_weights=True), "unequal"),
        (nn.Linear(3, 2), "neither"),
    ):
        assert reason in (LossGradient.why_not(net) or "")
        with pytest.raises(InputError, match=reason):
            LossGradient(net, True)  # type: ignore[arg-type]


def test_tied_parametrized_and_heard_maps_have_no_closed_gradient() -> None:
    def tied() -> nn.Module:
        net = SpinalNet(8, 4, 4)
        net.output.bias = net.spine.layers[1].bias
        return net

    def parametrized() -> nn.Module:
        net = MLPHead(8, 3, 4)
        nn.utils.parametrizations.weight_norm(net.output)
        return net

    def heard() -> nn.Module:
        net = MLPHead(8, 3, 4)
        net.layers[0][0].register_forward_hook(lambda module, inputs, output: 2 * output)
        return net

    def wrapped() -> nn.Module:
        net = MLPHead(8, 3, 4)
        net.layers[0][0] = nn.Sequential(net.layers[0][0], nn.Linear(4, 4))
        return net

    for make, reason in (
        (tied, "share a parameter"),
        (parametrized, "is parametrized"),
        (heard, "a hook listens"),
        (wrapped, "Sequential is not a plain nn.Linear"),
    ):
        with pytest.raises(InputError, match=reason):
            LossGradient(make(), True)  # type: ignore[arg-type]


def test_an_activation_with_a_hook_is_differentiated_as_it_is_called() -> None:
    net = SpinalNet(6, 2, 3, dtype=torch.float64).eval()
    net.spine.activation.register_forward_hook(lambda module, inputs, output: 3 * output)
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(jacobian(net, x), autograd_jacobian(net, x).detach())

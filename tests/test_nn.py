from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spinalnet import (
    InputError,
    LinearHead,
    MLPHead,
    ProgressiveNet,
    SpinalLayer,
    SpinalNet,
    count_macs,
    count_params,
    make_head,
    matched_mlp,
)
from spinalnet.nn.heads import HEADS

SMALL: dict[str, dict[str, Any]] = {
    "spinal": {"hidden_features": 4},
    "spinal-shared": {"hidden_features": 4},
    "mlp": {"hidden_features": (6, 5)},
    "matched": {"num_params": 120},
    "linear": {},
    "progressive": {"hidden_features": 4},
}


@given(
    in_features=st.integers(2, 40),
    hidden=st.integers(1, 9),
    layers=st.integers(1, 12),
    splits=st.integers(1, 6),
    shared=st.booleans(),
)
def test_every_feature_is_used_and_shapes_hold(
    in_features: int, hidden: int, layers: int, splits: int, shared: bool
) -> None:
    splits = min(splits, in_features)
    layer = SpinalLayer(
        in_features,
        hidden,
        layers,
        num_splits=splits,
        share_weights=shared,
        activation="softplus",  # smooth and never flat: a used feature always has a gradient
        dtype=torch.float64,
    )
    x = torch.randn(3, in_features, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == (3, layers * hidden)
    y.sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_rows_are_independent_and_leading_dimensions_are_free() -> None:
    net = SpinalNet(9, 3, 5, num_layers=4).eval()
    x = torch.randn(2, 7, 9)
    y = net(x)
    assert y.shape == (2, 7, 3)
    torch.testing.assert_close(net(x[1, 3]), y[1, 3])
    torch.testing.assert_close(net(x.flip(1)), y.flip(1))
    assert net(torch.zeros(0, 9)).shape == (0, 3)


def test_one_layer_one_split_is_one_hidden_layer_of_an_mlp() -> None:
    spinal = SpinalNet(7, 3, 11, num_layers=1, num_splits=1)
    mlp = MLPHead(7, 3, 11)
    mlp.load_state_dict(dict(zip(mlp.state_dict(), spinal.state_dict().values(), strict=True)))
    x = torch.randn(5, 7)
    torch.testing.assert_close(spinal(x), mlp(x))


def test_one_layer_sees_all_features_whatever_num_splits_says() -> None:
    layer = SpinalLayer(7, 2, num_layers=1)
    assert layer.num_splits == 1
    assert layer.layers[0].weight.shape == (2, 7)


def test_hundreds_of_layers_run_and_learn() -> None:
    net = SpinalNet(8, 1, 3, num_layers=300, activation="tanh")
    net(torch.randn(4, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("share", [False, True])
def test_slices_say_which_features_each_layer_sees(share: bool) -> None:
    layer = SpinalLayer(
        8, 3, num_layers=5, num_splits=3, share_weights=share, activation="identity"
    )
    for linear in layer.layers[1:]:
        with torch.no_grad():
            linear.weight[:, -3:] = 0  # no layer hears the one before
    hidden = torch.func.jacrev(layer)(torch.randn(8)).reshape(5, 3, 8)
    for index, part in enumerate(layer.slices):
        seen = hidden[index].abs().sum(0) > 0
        assert seen.nonzero().flatten().tolist() == [*range(part.start, part.stop)]


def test_zero_chain_weights_make_the_layers_independent() -> None:
    layer = SpinalLayer(6, 4, num_layers=4)
    with torch.no_grad():
        for linear in layer.layers[1:]:
            linear.weight[:, 3:] = 0
    x = torch.randn(5, 6)
    parts = [x[:, :3], x[:, 3:]] * 2
    expected = [
        torch.relu(part @ linear.weight[:, :3].T + linear.bias)
        for part, linear in zip(parts, layer.layers, strict=True)
    ]
    torch.testing.assert_close(layer(x), torch.cat(expected, dim=1))


def test_shared_weights_are_one_matrix_also_for_unequal_slices() -> None:
    shared = SpinalLayer(7, 3, num_layers=5, share_weights=True)
    assert len(shared.layers) == 2
    weight, bias = shared.layers[1].weight, shared.layers[1].bias
    own = SpinalLayer(7, 3, num_layers=5)
    own.layers[0].load_state_dict(shared.layers[0].state_dict())
    with torch.no_grad():
        for index in range(1, 5):
            size = own.split_sizes[index % 2]
            own.layers[index].weight.copy_(torch.cat([weight[:, :size], weight[:, -3:]], dim=1))
            own.layers[index].bias.copy_(bias)
    x = torch.randn(4, 7)
    torch.testing.assert_close(shared(x), own(x))
    shared(x).sum().backward()
    assert weight.grad is not None


def test_order_is_dropout_linear_norm_activation() -> None:
    net = SpinalNet(6, 2, 4, num_layers=3, norm="batch", dropout=0.4).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    net.eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    hidden: list[torch.Tensor] = []
    for index, (linear, norm) in enumerate(zip(net.spine.layers, net.spine.norms, strict=True)):
        part = x[:, :3] if index % 2 == 0 else x[:, 3:]
        feed = torch.cat([part, hidden[-1]], dim=1) if hidden else part
        hidden.append(torch.relu(norm(linear(feed))))
    torch.testing.assert_close(net(x), net.output(torch.cat(hidden, dim=1)))


def test_dropout_rate_scale_and_modes() -> None:
    layer = SpinalLayer(4000, 1, num_layers=1, dropout=0.25, activation="identity", bias=False)
    nn.init.ones_(layer.layers[0].weight)
    x = torch.ones(200, 4000)
    kept = layer(x).detach()
    assert kept.mean() == pytest.approx(4000, rel=0.01)  # scaled up: the mean is kept
    # The variance of a sum of 4000 Bernoulli draws scaled by 1/keep.
    assert kept.var().sqrt() == pytest.approx((4000 * 0.25 / 0.75) ** 0.5, rel=0.2)
    torch.testing.assert_close(layer.eval()(x), torch.full((200, 1), 4000.0))


def test_output_dropout_defaults_to_dropout_and_can_differ() -> None:
    assert SpinalNet(4, 2, 3, dropout=0.3).output_dropout.p == 0.3
    assert SpinalNet(4, 2, 3, dropout=0.3, output_dropout=0.0).output_dropout.p == 0.0
    assert MLPHead(4, 2, (5, 5), dropout=0.1, output_dropout=0.5).output_dropout.p == 0.5


@pytest.mark.parametrize("name", HEADS)
def test_heads_by_name_train_and_every_parameter_gets_a_gradient(name: str) -> None:
    if name not in SMALL:
        pytest.skip("covered by its own test")
    head = make_head(name, 10, 3, **SMALL[name])
    y = head(torch.randn(6, 2, 10))
    assert y.shape == (6, 2, 3)
    y.square().sum().backward()
    assert all(p.grad is not None for p in head.parameters())


def test_make_head_names_what_is_wrong() -> None:
    with pytest.raises(InputError, match="unknown head 'spinl'; did you mean 'spinal'"):
        make_head("spinl", 4, 2)
    with pytest.raises(InputError, match="did you mean 'hidden_features'"):
        make_head("spinal", 4, 2, hiden_features=3)
    with pytest.raises(InputError, match="needs the option hidden_features"):
        make_head("spinal", 4, 2)
    with pytest.raises(InputError, match="share_weights"):
        make_head("spinal-shared", 4, 2, hidden_features=3, share_weights=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": 0}, "in_features must be an integer >= 1, got 0"),
        ({"hidden_features": -1}, "hidden_features must be an integer >= 1"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1"),
        ({"num_splits": 9}, "num_splits must be between 1 and in_features=8"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"activation": 3}, "activation must be a name or a function"),
        ({"norm": "bach"}, "did you mean 'batch'"),
    ],
)
def test_constructor_refuses_in_one_sentence(options: dict[str, Any], message: str) -> None:
    arguments = {"in_features": 8, "hidden_features": 4, "num_layers": 9} | options
    with pytest.raises(InputError, match=message):
        SpinalLayer(**arguments)


def test_wrong_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"in_features=8, got shape \(3, 7\)"):
        SpinalLayer(8, 4)(torch.zeros(3, 7))


@given(
    in_features=st.integers(2, 60), out_features=st.integers(1, 12), target=st.integers(40, 9000)
)
def test_matched_mlp_is_as_near_as_a_width_can_be(
    in_features: int, out_features: int, target: int
) -> None:
    step = in_features + out_features + 1
    if step + out_features > 2 * target:
        with pytest.raises(InputError, match="no MLP"):
            matched_mlp(in_features, out_features, target)
        return
    found = sum(p.numel() for p in matched_mlp(in_features, out_features, target).parameters())
    assert abs(found - target) <= max(step / 2, step + out_features - target)


def test_parametric_activation_is_one_instance_for_all_layers() -> None:
    layer = SpinalLayer(6, 4, num_layers=3, activation="prelu")
    assert "activation.weight" in dict(layer.named_parameters())
    layer(-torch.ones(2, 6).abs()).sum().backward()
    assert layer.activation.weight.grad is not None


def test_state_dict_keys_are_readable_and_stable() -> None:
    assert list(SpinalNet(6, 2, 4, num_layers=2, norm="batch").state_dict())[:4] == [
        "spine.layers.0.weight",
        "spine.layers.0.bias",
        "spine.layers.1.weight",
        "spine.layers.1.bias",
    ]


def test_counts_split_at_the_head_and_restore_the_mode() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.Flatten())
            self.head = SpinalNet(4 * 36, 10, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.trunk(x))

    model = Model()
    model.trunk[1].eval()
    macs = count_macs(model, (1, 8, 8))
    assert macs.trunk == 36 * 4 * 9
    assert macs.head == 72 * 8 * 4 + 3 * 64 + 320
    assert macs.total == macs.trunk + macs.head
    params = count_params(model)
    assert params.head == sum(p.numel() for p in model.head.parameters())
    assert model.training
    assert not model.trunk[1].training
    assert count_params(LinearHead(3, 2)).trunk == 8


@given(hidden=st.integers(1, 6), layers=st.integers(1, 5), batch=st.integers(0, 4))
def test_progressive_sees_everything_before(hidden: int, layers: int, batch: int) -> None:
    net = ProgressiveNet(5, 3, hidden, layers, input_dropout=0.0).double().eval()
    x = torch.randn(batch, 5, dtype=torch.float64)
    seen = x
    for linear in net.layers:
        seen = torch.cat([seen, torch.relu(linear(seen))], dim=1)
    torch.testing.assert_close(net(x), net.output(seen))


def test_progressive_uses_one_input_mask_and_keeps_layer_one_undropped() -> None:
    net = ProgressiveNet(50, 1, 2, 2, input_dropout=0.5, activation="identity", bias=False)
    seen: list[torch.Tensor] = []
    for linear in [*net.layers, net.output]:
        linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.ones(4, 50)
    net(x)
    torch.testing.assert_close(seen[0], x)
    assert set(seen[1][:, :50].unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(seen[1][:, :50], seen[2][:, :50])

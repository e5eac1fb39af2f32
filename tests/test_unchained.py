"""The control without the chain: what it keeps of a spinal net, and what it cannot learn."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from spinalnet import InputError, SpinalNet, UnchainedNet, count_macs, count_params, create_model
from spinalnet.nn import matched_unchained
from spinalnet.nn.heads import make_head


def longhand(net: UnchainedNet, x: Tensor) -> Tensor:
    """Layer by layer, neuron group by neuron group, as the docstring says it."""
    starts = [0, *itertools.accumulate(net.split_sizes)]
    outputs = []
    for layer in range(net.num_layers):
        split, turn = layer % net.num_splits, layer // net.num_splits
        linear = net.slices[split]
        rows = slice(turn * net.hidden_features, (turn + 1) * net.hidden_features)
        seen = x[:, starts[split] : starts[split + 1]]
        z = seen @ linear.weight[rows].T
        if linear.bias is not None:
            z = z + linear.bias[rows]
        outputs.append(torch.relu(z))
    return torch.cat(outputs, 1) @ net.output.weight.T + (
        0 if net.output.bias is None else net.output.bias
    )


@given(
    features=st.integers(3, 17),
    width=st.integers(1, 5),
    layers=st.integers(1, 7),
    splits=st.integers(1, 3),
    bias=st.booleans(),
)
def test_every_layer_sees_its_slice_alone(
    features: int, width: int, layers: int, splits: int, bias: bool
) -> None:
    net = UnchainedNet(
        features, 2, width, layers, num_splits=splits, bias=bias, dtype=torch.float64
    )
    x = torch.randn(4, features, dtype=torch.float64)
    torch.testing.assert_close(net(x), longhand(net, x))
    torch.testing.assert_close(net(x.view(2, 2, -1)), longhand(net, x).view(2, 2, -1))


def test_it_is_a_spinal_net_whose_chain_carries_nothing() -> None:
    spinal = SpinalNet(9, 3, 4, 5, num_splits=2, dtype=torch.float64)
    net = UnchainedNet(9, 3, 4, 5, num_splits=2, dtype=torch.float64)
    with torch.no_grad():
        for layer, linear in enumerate(spinal.spine.layers):
            columns = spinal.spine.split_sizes[layer % 2]
            linear.weight[:, columns:] = 0
            rows = slice(layer // 2 * 4, (layer // 2 + 1) * 4)
            net.slices[layer % 2].weight[rows] = linear.weight[:, :columns]
            net.slices[layer % 2].bias[rows] = linear.bias
    net.output.load_state_dict(spinal.output.state_dict())
    x = torch.randn(6, 9, dtype=torch.float64)
    torch.testing.assert_close(net(x), spinal(x))
    chain = 4 * (5 - 1) * 4  # what every later layer reads of the one before
    assert count_params(spinal).total - count_params(net).total == chain
    assert count_macs(spinal, (9,)).total - count_macs(net, (9,)).total == chain


@pytest.mark.parametrize("norm", [None, "layer"])
def test_every_logit_is_a_sum_of_functions_of_one_slice(norm: str | None) -> None:
    net = UnchainedNet(8, 3, 5, 6, num_splits=2, activation="tanh", norm=norm).double().eval()
    a, b, c, d = torch.randn(4, 7, 4, dtype=torch.float64)

    def f(left: Tensor, right: Tensor) -> Tensor:
        return net(torch.cat([left, right], dim=1))

    # The mixed difference of such a sum is zero; that of a spinal net is not.
    torch.testing.assert_close(f(a, c) - f(a, d), f(b, c) - f(b, d))
    spinal = SpinalNet(8, 3, 5, 6, num_splits=2, activation="tanh", dtype=torch.float64)
    x = [spinal(torch.cat(pair, 1)).detach() for pair in ((a, c), (a, d), (b, c), (b, d))]
    assert float((x[0] - x[1] - x[2] + x[3]).abs().max()) > 1e-3


def test_dropout_is_drawn_anew_for_every_layer_and_off_in_evaluation() -> None:
    net = UnchainedNet(6, 2, 3, 4, dropout=0.5, output_dropout=0.0)
    x = torch.randn(400, 6)
    torch.manual_seed(0)
    dropped = net(x)
    assert not torch.equal(dropped, net(x))
    net.eval()
    torch.testing.assert_close(net(x), longhand(net, x))
    net.train()
    for linear in net.slices:  # layers 0 and 2 of a slice compute the same
        with torch.no_grad():
            linear.weight[3:] = linear.weight[:3]
            linear.bias[3:] = linear.bias[:3]
    first, second = net._layers_of(net.slices[0], x[:, :3], [3, 3])
    assert not torch.equal(first, second)
    draws = [net._layers_of(net.slices[0], x[:, :3], [3, 3])[0].detach() for _ in range(300)]
    kept = torch.stack(draws).mean(0)
    exact = nn.functional.linear(x[:, :3], net.slices[0].weight[:3], net.slices[0].bias[:3])
    assert float((kept - exact.detach()).abs().mean()) < 0.1


def test_as_a_head_it_takes_the_spinal_heads_size_and_flavour() -> None:
    models = {head: create_model("mnist-cnn", 10, head=head) for head in ("spinal", "unchained")}
    spinal, unchained = models["spinal"].head, models["unchained"].head
    assert isinstance(spinal, SpinalNet)
    assert isinstance(unchained, UnchainedNet)
    assert unchained.num_layers == spinal.spine.num_layers
    assert unchained.hidden_features == spinal.spine.hidden_features
    assert unchained.split_sizes == spinal.spine.split_sizes
    assert unchained.dropout == spinal.spine.dropout


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="num_splits must be between 1 and in_features=1"):
        UnchainedNet(1, 2, 3)
    with pytest.raises(InputError, match="in_features=6"):
        UnchainedNet(6, 2, 3)(torch.randn(2, 5))
    with pytest.raises(InputError, match="share_weights"):
        make_head("unchained", 8, 2, hidden_features=3, share_weights=True)


def test_it_cannot_learn_what_two_slices_say_together() -> None:
    torch.manual_seed(0)
    x = torch.randn(1500, 4)
    signs = (x[:, 0] * x[:, 2] > 0).long()  # one factor in each slice
    scores = {}
    for kind in (SpinalNet, UnchainedNet):
        torch.manual_seed(1)
        net = kind(4, 2, 16, 4)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[:1000]), signs[:1000]).backward()
            optimizer.step()
        scores[kind] = float((net(x[1000:]).argmax(1) == signs[1000:]).float().mean())
    assert scores[SpinalNet] > 0.85
    assert scores[UnchainedNet] < 0.65


@given(
    features=st.integers(4, 40),
    outputs=st.integers(1, 6),
    layers=st.integers(1, 7),
    splits=st.integers(1, 4),
    norm=st.sampled_from([None, "batch"]),
    bias=st.booleans(),
    share=st.floats(1, 9),
)
def test_the_matched_one_is_the_nearest_of_its_kind(
    features: int,
    outputs: int,
    layers: int,
    splits: int,
    norm: str | None,
    bias: bool,
    share: float,
) -> None:
    options = {"num_splits": splits, "norm": norm, "bias": bias}

    def size(widths: list[int]) -> int:
        net = UnchainedNet(features, outputs, widths, layers, **options)
        return sum(p.numel() for p in net.parameters())

    wanted = round(size([1] * layers) * share)
    net = matched_unchained(features, outputs, wanted, layers, **options)
    assert sum(p.numel() for p in net.parameters()) == size(list(net.widths))
    all_of_kind = [
        [width + 1] * wider + [width] * (layers - wider)
        for width in range(1, 11)
        for wider in range(layers)
    ]
    nearest = min(abs(size(widths) - wanted) for widths in all_of_kind)
    assert abs(size(list(net.widths)) - wanted) == nearest


def test_layers_of_unequal_width_are_the_longhand_ones() -> None:
    net = UnchainedNet(7, 3, [4, 3, 3], 3, num_splits=2, dtype=torch.float64)
    x = torch.randn(5, 7, dtype=torch.float64)
    first, second = net.slices  # layers 0 and 2 see the first slice
    z = [first(x[:, :4])[:, :4], second(x[:, 4:]), first(x[:, :4])[:, 4:]]
    torch.testing.assert_close(net(x), net.output(torch.relu(torch.cat(z, 1))))


def test_a_budget_out_of_reach_or_a_width_missing_is_said() -> None:
    with pytest.raises(InputError, match=r"no unchained net of 6 layers on 320 features.*smallest"):
        matched_unchained(320, 10, 300, 6)
    with pytest.raises(InputError, match="one for each of the 3 layers, got 2"):
        UnchainedNet(6, 2, [3, 3], 3)

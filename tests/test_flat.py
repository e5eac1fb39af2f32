"""A spinal net whose parameters are one: `SpinalNet.flatten_parameters`."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers import needs_whole_graphs
from spinalnet import InputError, use_backend
from spinalnet.nn import counting, layers, variants

NETS: dict[str, Callable[[], layers.SpinalNet]] = {
    "plain": lambda: layers.SpinalNet(9, 3, 4, num_layers=5),
    "shared": lambda: layers.SpinalNet(9, 3, 4, num_layers=5, share_weights=True),
    "no bias": lambda: layers.SpinalNet(9, 3, 4, bias=False),
    "normed": lambda: layers.SpinalNet(9, 3, 4, norm="batch"),
    "dropout": lambda: layers.SpinalNet(9, 3, 4, dropout=0.5),
    "tanh": lambda: layers.SpinalNet(9, 3, 4, activation="tanh"),
    "tiled": lambda: variants.TiledSpinalNet(9, 3, 4, num_layers=5),
    "reused": lambda: variants.ReusedSpinalNet(10, 3, 4, reuse=[(4, 2), (5, 3)]),
    "double": lambda: layers.SpinalNet(9, 3, 4, dtype=torch.float64),
}


def own_names(net: layers.SpinalNet) -> list[str]:
    return [name for name, _ in net.named_parameters() if "norms" not in name]


def gradients(net: layers.SpinalNet) -> dict[str, Tensor]:
    """Return every gradient under its state-dict key, for one parameter as for many."""
    mirror = copy.deepcopy(net)
    with torch.no_grad():
        for theirs, ours in zip(mirror.parameters(), net.parameters(), strict=True):
            assert ours.grad is not None
            theirs.copy_(ours.grad)
    state = mirror.state_dict()
    return {name: state[name] for name in state if not name.split(".")[-1].startswith("running")}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("backend", ["auto", "reference", "packed"])
def test_it_computes_the_same(kind: str, backend: str) -> None:
    net = NETS[kind]()
    flat = copy.deepcopy(net).flatten_parameters()
    assert flat.flatten_parameters() is flat
    assert own_names(flat) == ["flat"]
    assert counting.count_params(flat) == counting.count_params(net)
    assert counting.count_macs(flat, (net.in_features,)) == counting.count_macs(
        net, (net.in_features,)
    )
    x = torch.randn(6, net.in_features, dtype=net.output.weight.dtype, requires_grad=True)
    with use_backend(backend):
        for _ in range(3):  # repeated calls take a shorter way
            results = []
            for each in (net, flat):
                torch.manual_seed(0)
                each.zero_grad()
                x.grad = None
                y = each(x)
                y.square().sum().backward()
                assert x.grad is not None
                results.append({"y": y.detach(), "x": x.grad, **gradients(each)})
            torch.testing.assert_close(results[1], results[0])
        net.eval()
        flat.eval()
        with torch.no_grad():
            torch.testing.assert_close(flat(x), net(x))
            torch.testing.assert_close(flat(x.unsqueeze(0)), net(x).unsqueeze(0))


@pytest.mark.parametrize("kind", NETS)
def test_state_dicts_fit_both_ways(kind: str) -> None:
    net, flat = NETS[kind](), NETS[kind]().flatten_parameters()
    assert list(flat.state_dict()) == list(net.state_dict())
    torch.nn.Sequential(flat).load_state_dict(torch.nn.Sequential(net).state_dict())
    torch.testing.assert_close(flat.state_dict(), net.state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        flat.spine.layers[1].weight.mul_(2)
        flat.output.weight[0] = 7
    net.load_state_dict(flat.state_dict())
    assert (net.output.weight[0] == 7).all()
    torch.testing.assert_close(flat.state_dict(), net.state_dict(), rtol=0, atol=0)
    flat.load_state_dict(NETS[kind]().state_dict(), assign=True)
    assert own_names(flat) == ["flat"]
    assert (flat.output.weight[0] != 7).any()


def test_loading_says_what_is_missing_or_does_not_fit() -> None:
    flat = NETS["plain"]().flatten_parameters()
    state = NETS["plain"]().state_dict()
    short = {key: value for key, value in state.items() if key != "output.weight"}
    assert flat.load_state_dict(short, strict=False).missing_keys == ["output.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*output\.weight"):
        flat.load_state_dict(short)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*layers\.9"):
        flat.load_state_dict({**state, "spine.layers.9.weight": torch.ones(1)})
    with pytest.raises(RuntimeError, match=r"size mismatch for spine\.layers\.0\.weight"):
        flat.load_state_dict({**state, "spine.layers.0.weight": torch.ones(1, 1)})


def test_optimizers_do_the_same_to_it() -> None:
    net = NETS["plain"]()
    flat = copy.deepcopy(net).flatten_parameters()
    x, y = torch.randn(20, 9), torch.randint(3, (20,))
    for each in (net, flat):
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(each(x), y).backward()
            torch.nn.utils.clip_grad_norm_(each.parameters(), 0.1)
            optimizer.step()
    torch.testing.assert_close(flat.state_dict(), net.state_dict())


def test_copies_are_independent_and_conversions_reach_it() -> None:
    flat = NETS["plain"]().flatten_parameters()
    x = torch.randn(4, 9)
    expected = flat(x)
    averaged = torch.optim.swa_utils.AveragedModel(flat)
    averaged.update_parameters(flat)
    for other in (copy.deepcopy(flat), pickle.loads(pickle.dumps(flat)), averaged.module):
        assert torch.equal(other(x), expected)
        with torch.no_grad():
            other.spine.layers[0].weight.zero_()
            other.output.bias.add_(1)
        assert not torch.equal(other(x), expected)
        assert torch.equal(flat(x), expected)
    assert flat.double()(x.double()).dtype == torch.float64
    assert not flat.float().requires_grad_(False)(x).requires_grad


def test_transforms_and_second_derivatives() -> None:
    net = NETS["double"]()
    flat = copy.deepcopy(net).flatten_parameters()
    x = torch.randn(4, 9, dtype=torch.float64)

    def run(vector: Tensor, x: Tensor = x) -> Tensor:
        return torch.func.functional_call(flat, {"flat": vector}, (x,))

    assert not torch.equal(run(flat.flat * 2), flat(x))
    assert torch.autograd.gradcheck(run, flat.flat)
    assert torch.autograd.gradgradcheck(run, flat.flat)
    rows = torch.func.vmap(lambda row: run(flat.flat, row[None])[0])(x)
    torch.testing.assert_close(rows, net(x))


@needs_whole_graphs
def test_it_compiles_without_a_graph_break() -> None:
    torch._dynamo.reset()
    flat = NETS["plain"]().flatten_parameters()
    compiled = torch.compile(flat, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 9)
    flat(x).square().sum().backward()
    expected = flat.flat.grad
    flat.zero_grad()
    compiled(x).square().sum().backward()
    torch.testing.assert_close(flat.flat.grad, expected)


def test_a_layer_put_in_the_place_of_a_flat_one_is_used() -> None:
    flat = NETS["plain"]().flatten_parameters()
    x = torch.randn(4, 9)
    assert flat(x).shape == (4, 3)
    flat.spine.layers[1] = torch.nn.Linear(8, 4)
    flat.output = torch.nn.Linear(20, 2)
    with use_backend("reference"):
        expected = flat(x)
    assert expected.shape == (4, 2)
    for _ in range(2):
        torch.testing.assert_close(flat(x), expected)
    flat(x).sum().backward()
    assert all(parameter.grad is not None for parameter in flat.parameters())


def test_what_cannot_be_flattened_is_refused_and_left_alone() -> None:
    tied, frozen, parametrized = NETS["plain"](), NETS["plain"](), NETS["plain"]()
    tied.spine.layers[2].weight = tied.spine.layers[4].weight
    frozen.output.requires_grad_(False)
    torch.nn.utils.parametrizations.weight_norm(parametrized.output)
    for net in (tied, frozen, parametrized):
        names = [name for name, _ in net.named_parameters()]
        with pytest.raises(InputError, match="flatten_parameters needs"):
            net.flatten_parameters()
        assert [name for name, _ in net.named_parameters()] == names


def test_the_gradient_of_a_stretch_nobody_uses_is_zero() -> None:
    net = layers.SpinalNet(12, 3, hidden_features=8, num_layers=4).flatten_parameters()
    unused = net.spine.layers[3].weight.detach().flatten().clone()
    net.spine.layers[3] = net.spine.layers[1]
    x = torch.randn(5, 12)
    found = {}
    for backend in ("auto", "reference"):
        net.zero_grad()
        with use_backend(backend):
            net(x).square().sum().backward()
        assert net.flat.grad is not None
        found[backend] = net.flat.grad.clone()
    torch.testing.assert_close(found["auto"], found["reference"])
    assert int((found["auto"] == 0).sum()) >= len(unused)

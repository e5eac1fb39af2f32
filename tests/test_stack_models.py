"""`stack_models`: E nets in one call, against the nets one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spinalnet._checks import InputError
from spinalnet.nn import LinearHead, MLPHead, SpinalNet, UnchainedNet, stack_models

NETS = {
    "spinal": lambda d, h, layers: SpinalNet(d, 3, h, layers, dtype=torch.float64),
    "shared": lambda d, h, layers: SpinalNet(
        2 * d, 3, h, layers, share_weights=True, dtype=torch.float64
    ),
    "unchained": lambda d, h, layers: UnchainedNet(d, 3, h, layers, dtype=torch.float64),
    "mlp": lambda d, h, layers: MLPHead(d, 3, [h] * layers, activation="silu", dtype=torch.float64),
    "normed": lambda d, h, layers: MLPHead(d, 3, h, norm="layer", dtype=torch.float64),
    "linear": lambda d, h, layers: LinearHead(d, 3, dtype=torch.float64),
}


@given(
    kind=st.sampled_from(sorted(NETS)),
    size=st.integers(1, 4),
    features=st.integers(4, 9),
    hidden=st.integers(1, 6),
    layers=st.integers(1, 5),
    rows=st.integers(1, 7),
    own_rows=st.booleans(),
)
def test_outputs_and_gradients_are_those_of_every_member(
    kind: str, size: int, features: int, hidden: int, layers: int, rows: int, own_rows: bool
) -> None:
    nets = [NETS[kind](features, hidden, layers) for _ in range(size)]
    stack = stack_models(nets)
    width = nets[0].in_features
    x = torch.randn(*((size,) if own_rows else ()), rows, width, dtype=torch.float64)
    found = stack(x)
    weighting = torch.randn_like(found)
    (found * weighting).sum().backward()
    for number, net in enumerate(nets):
        expected = net(x[number] if own_rows else x)
        assert torch.allclose(found[number], expected, atol=1e-12)
        (expected * weighting[number]).sum().backward()
        ours = dict(stack.net.named_parameters())
        for name, parameter in net.named_parameters():
            assert torch.allclose(ours[name].grad[number], parameter.grad, atol=1e-12), name


@pytest.mark.parametrize("kind", NETS)
def test_unstacked_members_have_the_values_of_now_and_memory_of_their_own(kind: str) -> None:
    nets = [NETS[kind](6, 4, 3) for _ in range(3)]
    kept = copy.deepcopy(nets)
    stack = stack_models(nets)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.mul_(2.0)
    for net, before, member in zip(nets, kept, stack.unstack(), strict=True):
        assert type(member) is type(net)
        for name, value in member.state_dict().items():
            assert torch.equal(value, 2 * before.state_dict()[name]), name
            assert torch.equal(net.state_dict()[name], before.state_dict()[name]), name
        member.zero_grad()
        with torch.no_grad():
            next(iter(member.parameters())).zero_()
    assert bool(next(iter(stack.parameters())).any())


def test_each_member_drops_inputs_of_its_own_and_only_in_training() -> None:
    net = SpinalNet(40, 3, 5, dropout=0.5)
    stack = stack_models([net, copy.deepcopy(net)])
    x = torch.randn(8, 40)
    first, second = stack(x)
    assert not torch.equal(first, second)
    stack.eval()
    first, second = stack(x)
    assert torch.allclose(first, second)
    assert torch.allclose(first, net.eval()(x), atol=1e-5)


def test_what_cannot_be_stacked_is_named() -> None:
    net = SpinalNet(6, 2, 4)
    for models, reason in (
        ([], "none"),
        ([net, net], "twice"),
        ([net, SpinalNet(6, 2, 5)], "model 1 is built otherwise"),
        ([net, SpinalNet(6, 2, 4, dropout=0.5)], "model 1 is built otherwise"),
        ([net, SpinalNet(6, 2, 4).double()], "model 1 is unlike"),
        ([net, nn.Linear(6, 2)], "built otherwise"),
        ([SpinalNet(6, 2, 4, norm="batch")], "statistics"),
        ([SpinalNet(6, 2, 4).flatten_parameters()], "stack first"),
    ):
        with pytest.raises(InputError, match=reason):
            stack_models(models)
    with pytest.raises(InputError, match=r"\(1, B, ...\), got \(2, 3, 6\)"):
        stack_models([net])(torch.randn(2, 3, 6))

"""Modules behave the same whichever path computes them, with the compiled kernels or without."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spinalnet import use_backend
from spinalnet.kernels import native
from spinalnet.nn import layers

# What small nets take.
USUAL = "cpp" if native.UNAVAILABLE is None else "reference"


def test_only_wanted_gradients_are_computed() -> None:
    net = layers.SpinalNet(9, 3, 4)
    x = torch.randn(5, 9, requires_grad=True)
    net.requires_grad_(False)
    net(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in net.parameters())
    net.output.requires_grad_(True)
    net(x.detach()).sum().backward()
    assert net.output.weight.grad is not None
    assert all(parameter.grad is None for parameter in net.spine.parameters())


def test_concurrent_calls_do_not_disturb_each_other() -> None:
    net = layers.SpinalNet(64, 5, 12, 6)
    inputs = [torch.randn(rows, 64) for rows in (1, 3, 40, 200)]
    with torch.no_grad():
        expected = [net(x) for x in inputs]
    wrong: list[str] = []

    def work(offset: int) -> None:
        for step in range(60):
            index = (step + offset) % len(inputs)
            y = net(inputs[index])
            if not torch.equal(y.detach(), expected[index]):
                wrong.append(f"rows {inputs[index].shape[0]}")
            torch.autograd.grad(y.sum(), list(net.parameters()))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("flat", [False, True], ids=["many parameters", "one"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_whatever_changes_is_seen_at_once(flat: bool, grad: bool) -> None:
    net = layers.SpinalNet(12, 3, 4)
    if flat:
        net.flatten_parameters()
    x = torch.randn(6, 12)
    seen: list[str] = []

    def check(x: Tensor = x, name: str = USUAL) -> None:
        """Compare net and layer, each called in a row: a call may repeat the one before it."""
        for part in (net, net.spine):
            with torch.set_grad_enabled(grad):
                with use_backend("reference"):
                    expected = part(x)
                assert net.spine.backend_choice(x).name == name
                found = [part(x) for _ in range(3)]
            for actual in found:
                torch.testing.assert_close(actual, expected)
                assert actual.requires_grad == expected.requires_grad

    check()
    with torch.no_grad():
        net.spine.layers[1].weight.add_(1)
    check()
    check(torch.randn(2, 12))
    check(torch.randn(6, 24)[:, ::2])
    check(x.clone().requires_grad_())
    net.load_state_dict({key: value * 2 for key, value in net.state_dict().items()})
    check()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(x).sum().backward()
    optimizer.step()
    check()
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) / 4
        check()
    net.requires_grad_(False)
    check()
    net.requires_grad_(True)
    net.double()
    check(x.double())
    net.float()
    check()
    handle = net.output.register_forward_hook(lambda *_: seen.append("output"))
    net(x)
    handle.remove()
    handle = net.spine.register_forward_pre_hook(lambda *_: seen.append("spine"))
    net(x)
    handle.remove()
    net.register_forward_hook(lambda *_: seen.append("net"))
    net(x)
    assert seen == ["output", "spine", "net"]
    check()
    net.spine.activation = torch.nn.LeakyReLU(0.3)
    check()
    net.spine.activation.negative_slope = 0.6
    check()
    net.spine.activation = torch.nn.Tanh()
    check(name="reference")
    net.spine.activation = torch.nn.ReLU()
    check()
    net.spine.layers[3] = torch.nn.Linear(10, 4)
    check()
    net.output = torch.nn.Linear(16, 5)
    check()
    net.spine.layers[3].weight = torch.nn.Parameter(torch.randn(4, 10) / 4)
    check()
    torch.nn.utils.parametrizations.weight_norm(net.spine.layers[3], "weight")
    check()
    with torch.nn.utils.parametrize.cached():
        check()
    with torch.no_grad():
        net.spine.layers[3].parametrizations.weight.original0.mul_(3)
    check()
    net.spine.norms.extend([torch.nn.LayerNorm(4) for _ in range(4)])
    check(name="reference")
    net.spine.norms = torch.nn.ModuleList()
    net.output_dropout.p = 0.5
    check_dropout = [net(x) for _ in range(2)]
    assert not torch.equal(*check_dropout)
    net.output_dropout.p, net.spine.dropout = 0.0, 0.5
    assert not torch.equal(net(x), net(x))
    net.eval()
    check()


def test_a_folded_batch_norm_is_never_stale() -> None:
    net = layers.SpinalNet(12, 3, 4, norm="batch")
    x = torch.randn(50, 12)
    net(x)  # running statistics move
    net.eval()

    def check(x: Tensor = x) -> None:
        with torch.no_grad():
            with use_backend("reference"):
                expected = net(x)
            assert net.spine.backend_choice(x).name == USUAL
            torch.testing.assert_close(net(x), expected)

    check()
    with torch.no_grad():
        net.spine.norms[1].weight.mul_(3)
        net.spine.norms[2].running_var.fill_(0.3)
    check()
    net.load_state_dict({key: value * 2 for key, value in net.state_dict().items()})
    check()
    net.train()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    net(torch.randn(20, 12))
    net.eval()
    check()
    net.double()
    check(x.double())
    with use_backend("reference"):
        expected = torch.autograd.grad(net(x.double()).square().sum(), net.spine.norms[0].weight)
    found = torch.autograd.grad(net(x.double()).square().sum(), net.spine.norms[0].weight)
    torch.testing.assert_close(found, expected)


def test_copies_and_pickles_are_independent(tmp_path: Path) -> None:
    net = layers.SpinalNet(12, 3, 4)
    x = torch.randn(6, 12)
    expected = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with torch.no_grad():
            net.output.weight.add_(1)
        torch.testing.assert_close(other(x), expected)


def test_hooks_on_the_parts_are_called() -> None:
    net = layers.SpinalNet(12, 3, 4)
    seen: list[str] = []
    net.spine.register_forward_hook(lambda *_: seen.append("spine"))
    net.output.register_forward_hook(lambda *_: seen.append("output"))
    net(torch.randn(2, 12))
    assert seen == ["spine", "output"]


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")  # torch.export's own
def test_transforms_and_modes_take_a_path_that_knows_them() -> None:
    net = layers.SpinalNet(12, 3, 4)
    x = torch.randn(6, 12)
    parameters = dict(net.named_parameters())
    expected = net(x)

    def run(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(net, parameters, (row,))

    torch.testing.assert_close(torch.func.vmap(run, (None, 0))(parameters, x), expected)
    jacobian = torch.func.jacrev(lambda x: run(parameters, x).sum())(x)
    leaf = x.clone().requires_grad_()
    net(leaf).sum().backward()
    torch.testing.assert_close(jacobian, leaf.grad)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(net(dual)).tangent
    torch.testing.assert_close(tangent.sum(), jacobian.sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(x).dtype == torch.bfloat16
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), expected)


@pytest.mark.parametrize("share", [False, True])
def test_compiles_without_a_graph_break(share: bool) -> None:
    torch._dynamo.reset()
    net = layers.SpinalNet(12, 3, 4, share_weights=share)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 12, requires_grad=True)
    net(x).square().sum().backward()
    expected = [x.grad, *(p.grad for p in net.parameters())]
    x.grad = None
    net.zero_grad()
    torch.testing.assert_close(compiled(x), net(x))
    compiled(x).square().sum().backward()
    torch.testing.assert_close([x.grad, *(p.grad for p in net.parameters())], expected)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_computes_the_same() -> None:
    torch._dynamo.reset()
    net = layers.SpinalNet(12, 3, 4)
    compiled = torch.compile(net, fullgraph=True)
    for rows in (6, 9):  # the second makes the batch size a symbol
        x = torch.randn(rows, 12, requires_grad=True)
        leaves = [x, *net.parameters()]
        expected = torch.autograd.grad(net(x).square().sum(), leaves)
        torch.testing.assert_close(compiled(x), net(x))
        torch.testing.assert_close(
            torch.autograd.grad(compiled(x).square().sum(), leaves), expected
        )


def test_nets_of_different_sizes_compile_one_after_the_other() -> None:
    # From the second on, the number of features is a symbol to the compiler.
    for features in (9, 12, 15):
        net = layers.SpinalNet(features, 2, 4, dropout=0.5)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        assert compiled(torch.randn(30, features)).shape == (30, 2)

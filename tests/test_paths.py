"""Modules behave the same whichever path computes them, with the compiled kernels or without."""

from __future__ import annotations

import copy
import pickle
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import prune

from helpers import needs_whole_graphs
from spinalnet import BackendUnavailable, InputError, use_backend
from spinalnet.kernels import native
from spinalnet.nn import backends, counting, gradients, layers, loss_gradient

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
    for part in (net.output, net.spine.layers[0]):  # what clears all hooks
        part._forward_hooks = OrderedDict()
        check()
        handle = part.register_forward_hook(lambda *_: seen.append("late"))
        net(x)
        handle.remove()
    assert seen.count("late") == 2
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


def test_what_is_constant_in_a_graph_is_marked_as_torch_marks_it() -> None:
    def constant() -> None: ...

    torch.compiler.assume_constant_result(constant)
    assert vars(backends._asked_for) == vars(constant)


@needs_whole_graphs
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


@needs_whole_graphs
def test_nets_of_different_sizes_compile_one_after_the_other() -> None:
    # From the second on, the number of features is a symbol to the compiler.
    for features in (9, 12, 15):
        net = layers.SpinalNet(features, 2, 4, dropout=0.5)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        assert compiled(torch.randn(30, features)).shape == (30, 2)


@pytest.mark.parametrize("flat", [False, True], ids=["many parameters", "one"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_data_given_to_a_parameter_is_used_however_it_lies_in_memory(
    flat: bool, grad: bool
) -> None:
    net = layers.SpinalNet(12, 3, 4).double()
    if flat:
        net.flatten_parameters()
    x = torch.randn(6, 12, dtype=torch.float64)

    def results(backend: str) -> list[Tensor]:
        with use_backend(backend), torch.set_grad_enabled(grad):
            y = net(x)
            if not grad:
                return [y]
            return [y.detach(), *torch.autograd.grad(y.square().sum(), list(net.parameters()))]

    def check() -> None:
        expected = results("reference")
        for _ in range(3):
            torch.testing.assert_close(results("auto"), expected)

    for parameter in net.parameters():
        check()
        data = parameter.data
        for change in (
            lambda d: d.t().contiguous().t(),
            lambda d: torch.stack([d, d], -1)[..., 0],
            lambda d: d.repeat_interleave(2, 0)[::2],
            lambda d: d.clone(),
        ):
            if parameter.dim() == 1 and change(data).shape != data.shape:
                continue
            parameter.data = change(data)
            check()


def test_data_that_changes_between_forward_and_backward() -> None:
    net, x = layers.SpinalNet(12, 3, 4), torch.randn(6, 12)
    expected = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    loss = net(x).square().sum()
    for parameter in net.parameters():
        if parameter.dim() == 2:
            parameter.data = parameter.data.t().contiguous().t()
    torch.testing.assert_close(torch.autograd.grad(loss, list(net.parameters())), expected)


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_rows_taken_from_a_parameter_are_seen(grad: bool) -> None:
    net, x = layers.SpinalNet(12, 3, 4), torch.randn(6, 12)
    with torch.set_grad_enabled(grad):
        expected = net(x)
        net(x)
        # Same address, same strides.
        net.output.weight.data = net.output.weight.data[:2]
        with pytest.raises(InputError, match=r"bias of the output row must have shape \(2,\)"):
            net(x)
        net.output.bias.data = net.output.bias.data[:2]
        for _ in range(2):
            torch.testing.assert_close(net(x), expected[:, :2])


@pytest.mark.parametrize("flat", [False, True], ids=["many parameters", "one"])
@pytest.mark.parametrize("backend", ["auto", "reference", "packed"])
def test_an_input_of_another_dtype_is_named(flat: bool, backend: str) -> None:
    net = layers.SpinalNet(12, 3, 4)
    if flat:
        net.flatten_parameters()
    x = torch.randn(6, 12)
    for warm in (False, True):
        with use_backend(backend):
            if warm:
                net(x)
            for part in (net, net.spine):
                with pytest.raises(InputError, match=r"one dtype: x is torch\.float64, .*float32"):
                    part(x.double())


def test_a_parameter_that_a_layer_and_the_output_row_share_collects_both_gradients() -> None:
    net = layers.SpinalNet(8, 4, 4, num_layers=2, dtype=torch.float64)
    net.output.weight, net.output.bias = net.spine.layers[1].weight, net.spine.layers[1].bias
    x = torch.randn(6, 8, dtype=torch.float64)
    for _ in range(2):
        found = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
        with use_backend("reference"):
            expected = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
        torch.testing.assert_close(found, expected)


class Adapter(torch.nn.Module):
    """Around a linear map, as LoRA is."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Linear(base.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, base.out_features, bias=False)
        self.to(base.weight)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Scaled(torch.nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Renamed(torch.nn.Linear):
    """A subclass that computes what every linear map does."""


def scaled(linear: Any) -> Any:
    other = Scaled(linear.in_features, linear.out_features).to(linear.weight)
    other.load_state_dict(linear.state_dict())
    return other


def hooked(linear: Any) -> Any:
    linear.register_forward_hook(lambda module, inputs, output: 2 * output)
    return linear


def prehooked(linear: Any) -> Any:
    linear.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return linear


def patched(linear: Any) -> Any:
    linear.forward = lambda x: torch.nn.Linear.forward(linear, x) * 2
    return linear


def pruned(linear: Any) -> Any:
    return prune.random_unstructured(linear, "weight", 0.5)


REPLACED: dict[str, Callable[[Any], Any]] = {
    "adapter": Adapter,
    "subclass": scaled,
    "hook": hooked,
    "pre-hook": prehooked,
    "other forward": patched,
    "pruned": pruned,
}


def longhand(net: layers.SpinalNet, x: Tensor) -> Tensor:
    """The paper's equation by calls of the modules; no dropout."""
    spine = net.spine
    slices = x.split(spine.split_sizes, dim=-1)
    hidden: list[Tensor] = []
    for layer, index in enumerate(spine.schedule):
        seen = slices[layer % spine.num_splits]
        if hidden and spine.share_weights:
            longest = spine.layers[1].in_features - spine.hidden_features
            seen = F.pad(seen, (0, longest - seen.shape[1]))
        z = spine.layers[index](torch.cat([seen, *hidden[-1:]], dim=-1))
        hidden.append(spine.activation(spine.norms[layer](z) if len(spine.norms) else z))
    return net.output(torch.cat(hidden, dim=-1))


@pytest.mark.parametrize("warm", [False, True], ids=["at once", "after a call"])
@pytest.mark.parametrize("place", ["first", "later", "output"])
@pytest.mark.parametrize("options", [{}, {"share_weights": True}, {"norm": "layer"}], ids=str)
@pytest.mark.parametrize("kind", REPLACED)
def test_a_layer_that_is_more_than_a_matrix_is_called(
    kind: str, options: dict[str, Any], place: str, warm: bool
) -> None:
    net = layers.SpinalNet(9, 3, 4, num_layers=5, dtype=torch.float64, **options)
    x = torch.randn(6, 9, dtype=torch.float64, requires_grad=True)
    if warm:
        net(x)
        net(x)
    before = net(x).detach()
    if place == "output":
        net.output = REPLACED[kind](net.output)
    else:
        index = 0 if place == "first" else 1
        net.spine.layers[index] = REPLACED[kind](net.spine.layers[index])
    leaves = [x, *net.parameters()]
    expected = longhand(net, x)
    assert not torch.allclose(expected, before)
    for _ in range(3):
        found = net(x)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.square().sum(), leaves),
            torch.autograd.grad(longhand(net, x).square().sum(), leaves),
        )
    with torch.no_grad():
        torch.testing.assert_close(net(x.unsqueeze(0)), expected.unsqueeze(0))
    assert "called as a module" in net.backend_choice(x).reason
    if place != "output":
        assert net.spine.backend_choice(x).name == "reference"
        assert "called as a module" in net.spine.backend_choice(x).reason
        with use_backend("reference"):
            torch.testing.assert_close(net(x), expected)
        for name in ("packed", "cpp"):
            with use_backend(name), pytest.raises(BackendUnavailable, match=name):
                net(x)
    with pytest.raises(InputError, match="do not say what this net computes"):
        gradients.jacobian(net, x)
    with pytest.raises(InputError, match="do not say what this net computes"):
        gradients.hidden_influence(net, x)
    assert loss_gradient.LossGradient.why_not(net) is not None


def test_a_subclass_that_only_has_another_name_is_read() -> None:
    net, x = layers.SpinalNet(12, 3, 4), torch.randn(6, 12)
    expected = net(x)
    net.spine.layers[1].__class__ = Renamed
    assert net.backend_choice(x).name == USUAL
    torch.testing.assert_close(net(x), expected)


def test_hooks_on_the_activation_and_on_all_modules_are_called() -> None:
    net, x = layers.SpinalNet(12, 3, 4), torch.randn(6, 12)
    seen: list[str] = []

    def note(module: torch.nn.Module, *_: object) -> None:
        seen.append(type(module).__name__)

    for hooked_part in (net.spine.activation, net.spine.layers[2]):
        for _ in range(3):
            net(x)
        handle = hooked_part.register_forward_hook(note)
        net(x)
        handle.remove()
    assert seen == ["ReLU"] * 4 + ["Linear"]
    seen.clear()
    for _ in range(3):
        net(x)
    handle = torch.nn.modules.module.register_module_forward_hook(note)
    net(x)
    handle.remove()
    assert sorted(seen) == sorted(
        ["Linear"] * 5 + ["ReLU"] * 4 + ["Dropout", "SpinalLayer", "SpinalNet"]
    )
    seen.clear()
    net(x)
    assert not seen


def test_dropout_comes_before_a_layer_that_is_called() -> None:
    net = layers.SpinalNet(
        9, 3, 4, num_layers=5, dropout=0.5, output_dropout=0.3, share_weights=True
    )
    other = copy.deepcopy(net)
    inputs: list[Tensor] = []
    other.spine.layers[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    x = torch.randn(6, 9)
    # The output row is called too where a layer is: its mask is another one.
    net.output_dropout.p = other.output_dropout.p = 0.0
    torch.manual_seed(0)
    expected = net(x)
    torch.manual_seed(0)
    torch.testing.assert_close(other(x), expected)
    assert all((seen == 0).any() for seen in inputs)
    assert len(inputs) == 4


def test_counting_the_operations_of_a_net_does_not_count_its_layers_twice() -> None:
    net = layers.SpinalNet(12, 3, 4)
    macs = counting.count_macs(net, (12,)).total
    assert macs == net.spine.macs() + net.output.weight.numel()
    net.spine.layers[1] = Adapter(net.spine.layers[1])
    assert counting.count_macs(net, (12,)).total == macs + 2 * (10 + 4)


@needs_whole_graphs
@pytest.mark.parametrize("norm", [None, "batch"])
def test_an_adapter_learns_and_compiles(norm: str | None) -> None:
    torch._dynamo.reset()
    net = layers.SpinalNet(12, 3, 4, norm=norm).requires_grad_(False)
    for index, layer in enumerate(net.spine.layers):
        net.spine.layers[index] = Adapter(layer)  # type: ignore[arg-type]
        net.spine.layers[index].base.requires_grad_(False)
    net.eval()
    x = torch.randn(6, 12)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), net(x))
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))
    net(x).square().sum().backward()
    learning = [p for p in net.parameters() if p.requires_grad]
    assert len(learning) == 8
    assert all(p.grad is not None and p.grad.any() for p in learning)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("options", [{}, {"share_weights": True}, {"norm": "batch"}], ids=str)
def test_dynamic_quantization_computes_nearly_the_same(options: dict[str, Any]) -> None:
    net = layers.SpinalNet(41, 3, 16, num_layers=5, **options).eval()
    x = torch.randn(50, 41)
    expected = net(x)
    quantized = torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear}, torch.qint8)
    for _ in range(2):
        found = quantized(x)
        assert not torch.equal(found, expected)
        assert (found - expected).norm() < 0.03 * expected.norm()
    assert "called as a module" in quantized.backend_choice(x).reason
    assert torch.equal(copy.deepcopy(quantized)(x), found)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_quantization_aware_training_is_aware() -> None:
    net = layers.SpinalNet(12, 3, 4)
    net.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    aware = torch.ao.quantization.prepare_qat(net)
    x = torch.randn(6, 12)
    assert type(aware.spine.layers[1]) is torch.ao.nn.qat.Linear
    torch.testing.assert_close(aware(x), longhand(aware, x))
    aware(x).square().sum().backward()
    assert all(p.grad is not None for p in aware.parameters())
    observed = aware.spine.layers[1].weight_fake_quant.activation_post_process
    assert observed.min_val.isfinite().all()


@pytest.mark.parametrize("warm", [False, True], ids=["at once", "after a call"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_bias_taken_from_one_layer_leaves_the_others(index: int, warm: bool) -> None:
    net = layers.SpinalNet(9, 3, hidden_features=4)
    x = torch.randn(5, 9)
    if warm:
        net(x)
    same: Any = copy.deepcopy(net)
    torch.nn.init.zeros_(same.spine.layers[index].bias)
    net.spine.layers[index].bias = None  # type: ignore[assignment]
    torch.testing.assert_close(net(x), same(x))
    assert "only some of them have a bias" in net.backend_choice(x).reason

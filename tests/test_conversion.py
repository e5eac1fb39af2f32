"""The bound of a conversion holds for whatever is converted; what it would not hold for is refused.

The original computes in its own type, so it stands on both sides of the comparison: against the
spinal net, and, in float64, against what it should have computed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from spinalnet._checks import InputError
from spinalnet.nn import LinearHead, MLPHead, SpinalNet
from spinalnet.theory.conversion import convert, to_spinal

SMOOTH = [
    nn.Softplus,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.SiLU,
    nn.Mish,
    lambda: nn.Softplus(2.0, 3.0),
]
EDGED = [
    *(
        nn.ReLU,
        lambda: nn.ReLU(inplace=True),
        lambda: nn.LeakyReLU(0.3),
        lambda: nn.PReLU(init=-0.5),
    ),
    *(lambda: nn.LeakyReLU(-2.0), lambda: nn.ELU(1.7), nn.SELU, nn.Identity),
]
BENT = [nn.Sigmoid, nn.Tanh]


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def points(low: Tensor, high: Tensor, n: int = 60) -> Tensor:
    """Points of a box as float32 and float64 alike can say them: inside, and corners."""
    inside = low + (high - low) * torch.rand(n, len(low), dtype=torch.float64)
    corners = torch.where(torch.rand(n, len(low)) < 0.5, low, high)
    single = torch.cat([inside, corners]).float().double()
    return single.minimum(high.float().double()).maximum(low.float().double())


@st.composite
def plain_nets(draw: st.DrawFn) -> nn.Sequential:
    """Any nesting of what is understood, with the widths, norms and scales of a rough life."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    width = draw(st.integers(1, 9))
    shared = draw(st.sampled_from([*EDGED, *SMOOTH, *BENT]))()
    parts: list[nn.Module] = [nn.Flatten()] if draw(st.booleans()) else []
    depth = draw(st.integers(1, 3))
    for _ in range(depth):
        out = draw(st.integers(1, 9))
        block: list[nn.Module] = [nn.Linear(width, out, bias=draw(st.booleans()))]
        block[0].weight *= draw(st.sampled_from([0.01, 1.0, 30.0]))
        if block[0].bias is not None:
            block[0].bias += draw(st.sampled_from([0.0, 1000.0]))
        if draw(st.booleans()):
            norm = nn.BatchNorm1d(out, affine=draw(st.booleans()))
            norm.running_mean += draw(st.sampled_from([0.0, 1000.0])) + torch.randn(out)
            norm.running_var *= draw(st.sampled_from([1e-4, 1.0, 1e4]))
            if norm.affine:
                norm.weight += torch.randn(out)
                norm.bias += torch.randn(out)
            block.append(norm)
        kind = draw(st.sampled_from(["shared", "own", "none", "idle"]))
        if kind == "idle":
            block.append(nn.Identity())
        if kind in ("own", "idle"):
            block.append(draw(st.sampled_from([*EDGED, *SMOOTH, *BENT]))())
        if kind == "shared":
            block.append(shared)
        block.append(nn.Dropout(0.3))
        parts += [nn.Sequential(*block)] if draw(st.booleans()) else block
        width = out
    parts.append(LinearHead(width, 2) if draw(st.booleans()) else nn.Linear(width, 2))
    return nn.Sequential(*parts).eval()


def in_features(net: nn.Module) -> int:
    return next(m for m in net.modules() if isinstance(m, nn.Linear)).in_features


@given(
    net=plain_nets(),
    splits=st.integers(1, 4),
    width=st.sampled_from([None, 1, 3]),
    centre=st.sampled_from([0.0, 5.0, -300.0]),
    reach=st.sampled_from([0.0, 1.0, 50.0]),
    double=st.booleans(),
)
def test_the_bound_holds_for_random_plain_nets(
    net: nn.Sequential, splits: int, width: int | None, centre: float, reach: float, double: bool
) -> None:
    net = net.double() if double else net
    features = in_features(net)
    low = centre - reach * torch.rand(features).double()
    high = centre + reach * torch.rand(features).double()
    low, high = low.float().double(), high.float().double()
    done = convert(net, min(splits, features), (low, high), hidden_features=width)
    x = points(low, high)
    own = x.to(torch.float64 if double else torch.float32)
    spinal, dense = done.model(own).double(), net(own).double()
    bound = done.error_bound
    assert bool(bound.isfinite().all())
    assert bool(((spinal - dense).abs() <= bound).all())
    # Against the truth as well: the bound has the rounding of both in it, so each is within it.
    truth = copy.deepcopy(net).double()(x)
    slack = 1e-6 * bound if not double else bound
    assert bool(((spinal - truth).abs() <= bound + slack).all())


def test_a_mean_as_large_as_the_bias_leaves_its_rounding() -> None:
    # z = x + 1e6 - 1e6: the original keeps x to 0.03, the folded one exactly.
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1), nn.ReLU(), nn.Linear(1, 1)).eval()
    for tensor, value in (
        (net[0].weight, 1.0), (net[0].bias, 1e6), (net[1].running_mean, 1e6),
        (net[3].weight, 1.0), (net[3].bias, 0.0),
    ):  # fmt: skip
        tensor.fill_(value)
    done = convert(net, 2, (0.0, 1.0))
    x = torch.rand(200, 2)
    error = float((done.model(x) - net(x)).abs().max())
    assert 0.01 < error <= float(done.error_bound)


def test_a_softplus_that_jumps_is_bounded_by_the_jump() -> None:
    jump = math.log1p(math.exp(-0.5))
    net = nn.Sequential(nn.Linear(2, 1), nn.Softplus(threshold=0.5), nn.Linear(1, 1))
    for tensor, value in zip(net.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
        tensor.fill_(value)
    done = convert(net, 2, (0.0, 1.0))
    assert jump < float(done.error_bound) < 1.01 * jump
    away = convert(net, 2, (0.3, 1.0))  # the sum is above 0.6: there is no jump
    assert float(away.error_bound) < 1e-5


def test_what_is_too_small_to_be_represented_is_within_the_bound() -> None:
    net = nn.Sequential(nn.Linear(4, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    net[0].weight.fill_(5e-39)
    net[2].weight.fill_(1.0)
    done = convert(net, 2, (0.0, 1e6))
    x = torch.rand(50, 4) * 1e6
    truth = copy.deepcopy(net).double()(x.double())
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormal numbers")
    try:
        flushed = done.model(x).double()
    finally:
        torch.set_flush_denormal(False)
    error = float((flushed - truth).abs().max())
    assert 1e-33 < error <= float(done.error_bound)


def test_two_linears_in_a_row_are_two_linears() -> None:
    for net in (
        nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2)),
        nn.Sequential(nn.Linear(5, 2), nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3)),
    ):
        done = convert(net, 2, (-2.0, 2.0))
        x = torch.rand(100, 5) * 4 - 2
        assert bool(((done.model(x) - net(x)).abs() <= done.error_bound).all())
        assert float(done.error_bound.max()) < 1e-4


def test_what_is_used_twice_is_called_twice() -> None:
    act, square = nn.ReLU(), nn.Linear(4, 4)
    inner = nn.Sequential(square, act)
    for net in (
        nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 5), act, nn.Linear(5, 2)),
        nn.Sequential(square, act, square, act, nn.Linear(4, 2)),
        nn.Sequential(inner, inner, square),
    ):
        done = convert(net.double(), 2, (-1.0, 1.0))
        x = torch.rand(100, 4).double() * 2 - 1
        assert float((done.model(x) - net(x)).abs().max()) < 1e-12
        assert float(done.error_bound.max()) < 1e-12


def test_a_class_that_only_constructs_is_plain() -> None:
    class Classifier(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(Own(4, 5), nn.ReLU(), Own(5, 2))

    class Own(nn.Linear):
        pass

    net = Classifier().double()
    x = torch.rand(50, 4).double()
    assert float((to_spinal(net, 2, (0, 1))(x) - net(x)).abs().max()) < 1e-12


def test_a_head_whose_part_was_replaced_is_read_as_it_is() -> None:
    head = MLPHead(6, 3, [8, 5], norm="batch").eval()
    head.layers[0] = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    head.unused = nn.Linear(2, 2)
    done = convert(head, 3, (-1, 1))
    x = torch.rand(50, 6) * 2 - 1
    assert bool(((done.model(x) - head(x)).abs() <= done.error_bound).all())


class Residual(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Lowered(nn.Linear):
    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self._parameters["weight"] + self.rank_one

    def __init__(self, *sizes: int) -> None:
        self.__dict__["rank_one"] = 1.0
        nn.Module.__init__(self)
        self.in_features, self.out_features = sizes
        self._parameters["weight"] = nn.Parameter(torch.randn(*reversed(sizes)))
        self.register_parameter("bias", None)


class Called(nn.Sequential):
    def __call__(self, *args: Any) -> Tensor:
        return -super().__call__(*args)


class Backwards(nn.Sequential):
    def __iter__(self) -> Iterator[nn.Module]:
        return reversed(list(super().__iter__()))


class AlwaysDrops(nn.Dropout):
    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.dropout(input, self.p, True)


class Shifted(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((4,), 3.0))
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.scale)


class OwnHead(MLPHead):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(-1)


def hook(register: str, place: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = good()
        target = net if place < 0 else net[place]
        change = {"register_forward_pre_hook": lambda module, given: (given[0] + 1,)}
        getattr(target, register)(change.get(register, lambda module, given, out: out + 1))
        return net

    return make


def good() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3)).eval()


def with_part(place: int, part: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = good()
        net[place] = part()
        return net.eval()

    return make


def changed(change: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net = good()
        change(net)
        return net

    return make


def own_forward(net: nn.Module) -> None:
    net[0].forward = lambda x: x  # type: ignore[method-assign, index]


def not_finite(net: nn.Module) -> None:
    net[3].bias[1] = float("nan")  # type: ignore[index]


def one_bias_for_all(net: nn.Module) -> None:
    net[0].bias = nn.Parameter(torch.ones(1))  # type: ignore[index]


def part_of_nothing(net: nn.Module) -> None:
    net._modules["2"] = None


BROKEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "residual": (with_part(0, lambda: Residual(nn.Linear(4, 4))), r"'0' \(Residual\)"),
    "residual alone": (lambda: Residual(*good()), r"the module \(Residual\)"),
    "subclass of Linear": (with_part(3, lambda: Doubled(4, 3)), r"'3' \(Doubled\)"),
    "matrix that is a property": (with_part(0, lambda: Lowered(4, 4)), r"'0' \(Lowered\)"),
    "own __call__": (lambda: Called(*good()), r"the module \(Called\)"),
    "own order": (lambda: Backwards(*good()), r"the module \(Backwards\)"),
    "own dropout": (with_part(2, lambda: AlwaysDrops(0.5)), r"'2' \(AlwaysDrops\)"),
    "own activation": (with_part(1, Shifted), r"'1' \(Shifted\)"),
    "own head": (lambda: OwnHead(4, 3, 5), r"the module \(OwnHead\)"),
    "buffers": (with_part(0, Buffered), r"'0' \(Buffered\)"),
    "hook on a linear": (hook("register_forward_hook", 0), r"'0' \(Linear\) .*hooks"),
    "hook on an activation": (hook("register_forward_hook", 1), r"'1' \(ReLU\) .*hooks"),
    "hook on a dropout": (hook("register_forward_hook", 2), r"'2' \(Dropout\) .*hooks"),
    "hook on the whole": (hook("register_forward_hook", -1), r"the module .*hooks"),
    "hook before a linear": (hook("register_forward_pre_hook", 3), r"'3' \(Linear\) .*hooks"),
    "hook before the whole": (hook("register_forward_pre_hook", -1), r"the module .*hooks"),
    "forward replaced": (changed(own_forward), r"'0' \(Linear\) .*another forward"),
    "weight norm": (
        changed(lambda net: parametrizations.weight_norm(net[0])), "'0' .*parametrized",
    ),
    "spectral norm": (
        changed(lambda net: parametrizations.spectral_norm(net[0])), "'0' .*parametrized",
    ),
    "pruned": (
        changed(lambda net: prune.random_unstructured(net[0], "weight", 0.5)), "'0' .*hooks",
    ),
    "dropout in training": (changed(lambda net: net.train()), r"'2' \(Dropout\) .*training mode"),
    "norm in training": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)),
        r"'1' \(BatchNorm1d\) .*training mode",
    ),
    "norm without statistics": (
        with_part(1, lambda: nn.BatchNorm1d(4, track_running_stats=False)), "running statistics",
    ),
    "layer norm": (lambda: MLPHead(4, 3, 5, norm="layer"), r"'layers.0.1.norm' \(LayerNorm\)"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.ReLU()), r"'0' \(LazyLinear\).*no size"),
    "too narrow": (with_part(3, lambda: nn.Linear(5, 3)), "takes 5 features .* gives 4"),
    "norm of another width": (
        with_part(1, lambda: nn.BatchNorm1d(3)), "takes 3 features .* gives 4",
    ),
    "half": (changed(lambda net: net.half()), "float16"),
    "bfloat": (changed(lambda net: net.bfloat16()), "bfloat16"),
    "complex": (changed(lambda net: net.to(torch.complex64)), "complex64"),
    "two types": (changed(lambda net: net[3].double()), "one type on one device"),
    "no numbers": (changed(lambda net: net.to("meta")), "'meta'"),
    "not finite": (changed(not_finite), r"'3' \(Linear\) .*NaN"),
    "bias of another shape": (changed(one_bias_for_all), "do not fit together"),
    "flattens the batch": (with_part(2, lambda: nn.Flatten(0)), r"'2' \(Flatten\) .*dimensions"),
    "no outputs": (with_part(3, lambda: nn.Linear(4, 0)), "4 to 0 features"),
    "softplus that turns": (with_part(1, lambda: nn.Softplus(-1.0)), "beta >= 0.01"),
    "no part": (changed(part_of_nothing), "got None at '2'"),
    "activation first": (lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), "must follow"),
    "two activations": (with_part(2, nn.Tanh), r"'2' \(Tanh\) .*must follow"),
    "a list": (lambda: nn.ModuleList(good()), r"the module \(ModuleList\)"),
    "a spinal net": (lambda: SpinalNet(4, 3, 2), r"the module \(SpinalNet\)"),
    "attention": (with_part(0, lambda: nn.MultiheadAttention(4, 2)), r"'0' \(MultiheadAttention\)"),
    "no linear": (lambda: nn.Sequential(nn.Flatten()), "no Linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
@pytest.mark.filterwarnings("ignore:Complex modules:UserWarning")
def test_what_is_not_plain_is_refused_by_name(name: str) -> None:
    make, message = BROKEN[name]
    with pytest.raises(InputError, match=message) as caught:
        convert(make(), 2, (-1.0, 1.0))
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith(".")


@given(
    net=plain_nets(),
    where=st.integers(0, 50),
    kind=st.sampled_from(["wrapped", "forward hook", "pre-hook", "forward", "training"]),
)
def test_a_net_broken_anywhere_is_refused(net: nn.Sequential, where: int, kind: str) -> None:
    owners = [
        (owner, name)
        for owner in net.modules()
        for name in owner._modules
        if type(owner) is nn.Sequential
    ]
    owner, name = owners[where % len(owners)]
    part = owner._modules[name]
    if kind == "wrapped":
        owner._modules[name] = Residual(part)
    elif kind == "forward hook":
        part.register_forward_hook(lambda module, given, out: out + 1)
    elif kind == "pre-hook":
        part.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    elif kind == "forward":
        part.forward = lambda x: x  # type: ignore[method-assign]
    else:
        net.train()  # every block has a dropout
    with pytest.raises(InputError, match="cannot be converted"):
        convert(net, 1, (-1.0, 1.0))


def test_a_hook_for_all_modules_is_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, out: None)
    try:
        with pytest.raises(InputError, match="hooks"):
            convert(good(), 2, (-1.0, 1.0))
    finally:
        handle.remove()


def test_an_activation_given_apart_is_held_to_the_same() -> None:
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda module, given, out: out + 1)
    for activation, message in ((lambda: hooked, "hooks"), (Shifted, "Shifted")):
        with pytest.raises(InputError, match=message):
            convert(nn.Linear(4, 3), 2, (-1.0, 1.0), activation=activation)
    with pytest.raises(InputError, match="left out"):
        convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), 2, (-1.0, 1.0), activation="relu")


def test_values_beyond_the_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="narrower bounds, or convert in float64"):
        convert(good(), 2, (-1e38, 1e38))
    done = convert(good().double(), 2, (-1e38, 1e38))
    assert bool(done.error_bound.isfinite().all())

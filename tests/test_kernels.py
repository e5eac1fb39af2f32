from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import assert_close
from spinalnet import InputError, SpinalnetError, bench, use_backend
from spinalnet.kernels import native, operators, plan
from spinalnet.nn import backends, functional
from spinalnet.nn import layers as layers_module
from test_ops import problem

pytestmark = pytest.mark.skipif(
    native.UNAVAILABLE is not None, reason=native.UNAVAILABLE or "built"
)

BUILDS = ("baseline", "x86_64_v3", "x86_64_v4")
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest) -> Iterator[str]:
    best = native.instruction_set()
    if not native.extension.select(request.param):
        pytest.skip(f"this processor cannot run {request.param}")
    yield request.param
    native.extension.select(best)


def truth_and_fused(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor] | None,
    output: tuple[Tensor, Tensor | None] | None,
    splits: int,
    slope: float,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs and every gradient, from the reference in float64 and from the kernels."""
    found: list[dict[str, Tensor]] = []
    for dtype, backend in ((torch.float64, "reference"), (x.dtype, "cpp")):
        leaves: dict[int, Tensor] = {}

        def leaf(tensor: Tensor, dtype: torch.dtype = dtype, leaves: dict = leaves) -> Tensor:
            fresh = tensor.detach().to(dtype).clone().requires_grad_()
            return leaves.setdefault(id(tensor), fresh)

        row = None
        if output is not None:
            row = leaf(output[0]), None if output[1] is None else leaf(output[1])
        result = functional.spinal(
            leaf(x),
            [leaf(weight) for weight in weights],
            None if biases is None else [leaf(bias) for bias in biases],
            num_splits=splits,
            activation=lambda z: z if slope == 1 else F.leaky_relu(z, slope) if slope else z.relu(),
            negative_slope=slope,
            output=row,
            backend=backend,
        )
        ramp = torch.linspace(0.5, 2, result.numel(), dtype=dtype).reshape(result.shape)
        gradients = torch.autograd.grad((result * ramp).sum(), list(leaves.values()))
        names = [f"gradient {index}" for index in range(len(gradients))]
        found.append({"output": result.detach(), **dict(zip(names, gradients, strict=True))})
    return {name: (found[1][name], found[0][name]) for name in found[0]}


def assert_true(pairs: dict[str, tuple[Tensor, Tensor]], dtype: torch.dtype) -> None:
    for name, (fused, truth) in pairs.items():
        assert_close(name, fused, truth, dtype)


def test_the_tile_and_the_products_around_it(build: str) -> None:
    assert native.extension.check() == ""


SHAPES = [  # rows, features, splits, layers, width, outputs
    (0, 9, 2, 4, 5, 3),
    (1, 9, 2, 4, 5, 3),
    (3, 320, 2, 6, 8, 10),
    (4, 17, 1, 1, 3, 1),
    (5, 5, 5, 9, 1, 2),
    (28, 101, 3, 4, 20, 7),
    (64, 8, 2, 6, 50, 1),
    (131, 64, 2, 8, 50, 10),
    (257, 33, 2, 5, 17, 3),
    (300, 130, 1, 70, 2, 3),  # more layers on one slice than one product takes terms
    (200, 256, 2, 4, 128, 10),
    # So many inputs per neuron that the batch is not laid along the vectors, and some where it is.
    (90, 700, 2, 4, 8, 10),
    (90, 90, 2, 4, 8, 10),
    (131, 1000, 3, 4, 13, 2),
    (131, 100, 3, 4, 13, 2),
    (70, 1200, 2, 2, 35, 3),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_build_matches_the_reference(
    build: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    rows, features, splits, layers, width, outputs = shape
    x, weights, biases = problem(rows, features, splits, layers, width, dtype)
    weights = [weight / 2 for weight in weights]
    # In float32 a sum near zero may fall on either side of the kink; the identity has none.
    large = rows * layers * width > 2000
    slope = 0.0 if dtype == torch.float64 else 1.0 if large else 0.01
    row = torch.randn(outputs, layers * width, dtype=dtype), torch.randn(outputs, dtype=dtype)
    assert_true(truth_and_fused(x, weights, biases, row, splits, slope), dtype)


@given(
    rows=st.integers(0, 140),
    features=st.integers(1, 45) | st.integers(400, 700),
    splits=st.integers(1, 5),
    layers=st.integers(1, 9),
    width=st.integers(1, 35),
    outputs=st.integers(0, 12),
    slope=st.sampled_from([0.0, 0.01, 1.0]),
    shared=st.booleans(),
    bias=st.booleans(),
    threads=st.integers(1, 3),
)
def test_any_shape_matches_the_reference(
    rows: int,
    features: int,
    splits: int,
    layers: int,
    width: int,
    outputs: int,
    slope: float,
    shared: bool,
    bias: bool,
    threads: int,
) -> None:
    splits = min(splits, features)
    x, weights, biases = problem(
        rows, features, splits, layers, width, torch.float64, shared=shared, bias=bias
    )
    row = None
    if outputs:
        matrix = torch.randn(outputs, layers * width, dtype=torch.float64)
        row = matrix, torch.randn(outputs, dtype=torch.float64) if bias else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_true(truth_and_fused(x, weights, biases, row, splits, slope), torch.float64)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0])
@pytest.mark.parametrize(("rows", "features"), [(2, 8), (40, 8), (2, 600), (150, 600)])
def test_nan_and_inf_go_where_torch_sends_them(
    value: float, slope: float, rows: int, features: int
) -> None:
    x, weights, biases = problem(rows, features, 2, 4, 5, torch.float64)
    x[1, 3] = value

    def run(backend: str) -> Tensor:
        return functional.spinal(
            x,
            weights,
            biases,
            num_splits=2,
            activation=lambda z: z if slope == 1 else F.leaky_relu(z, slope) if slope else z.relu(),
            negative_slope=slope,
            backend=backend,
        )

    torch.testing.assert_close(run("cpp"), run("reference"), equal_nan=True)
    assert run("cpp")[0].isfinite().all(), "one row's NaN must not reach another row"


def test_padding_and_scratch_memory_never_reach_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Tensor.new_empty

    def poisoned(self: Tensor, *size: int) -> Tensor:
        return plain(self, *size).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", poisoned)
    for shape in SHAPES:
        rows, features, splits, layers, width, outputs = shape
        x, weights, biases = problem(rows, features, splits, layers, width, torch.float64)
        row = torch.randn(outputs, layers * width, dtype=torch.float64), None
        for slope, shared in ((0.0, row), (0.01, None)):
            pairs = truth_and_fused(x, weights, biases, shared, splits, slope)
            assert all(fused.isfinite().all() for fused, _ in pairs.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a switch of glibc's malloc")
def test_what_the_kernels_allocate_may_hold_anything() -> None:
    test = f"{__file__}::{test_every_build_matches_the_reference.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test],
        env={**os.environ, "MALLOC_PERTURB_": "1"},  # fresh memory is full of huge numbers
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("features", [14, 600])
def test_strided_inputs_and_parameters(features: int) -> None:
    x, weights, biases = problem(133, features, 2, 4, 5, torch.float64)
    assert biases is not None
    wide = torch.randn(133, features + 26, dtype=torch.float64)
    wide[:, 3:-23] = x
    strided = torch.randn(2 * features, 133, dtype=torch.float64).t()[:, ::2]
    transposed = [weight.t().contiguous().t() for weight in weights]
    every_other = [bias.repeat_interleave(2)[::2] for bias in biases]
    for rows in (wide[:, 3:-23], strided, x[:1].expand(133, features)):
        expected = functional.spinal(rows, weights, biases, num_splits=2, backend="reference")
        actual = functional.spinal(rows, transposed, every_other, num_splits=2, backend="cpp")
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_gradcheck_and_second_derivatives(slope: float) -> None:
    x, weights, biases = problem(3, 7, 2, 4, 3, torch.float64)
    assert biases is not None
    row = torch.randn(2, 12, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    leaves = [tensor.requires_grad_() for tensor in [x, *weights, *biases, *row]]

    def run(x: Tensor, *parameters: Tensor, backend: str = "cpp") -> Tensor:
        return functional.spinal(
            x,
            parameters[:4],
            parameters[4:8],
            num_splits=2,
            negative_slope=slope,
            output=(parameters[8], parameters[9]),
            backend=backend,
        )

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)

    def second(backend: str) -> list[Tensor]:
        first = torch.autograd.grad(
            run(*leaves, backend=backend).square().sum(), leaves, create_graph=True
        )
        return [*torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]

    found, expected = second("cpp"), second("reference")
    torch.testing.assert_close(found, expected)
    # The slope counts: with another one the numbers are others.
    slope = 0.6
    assert not torch.allclose(second("cpp")[0], expected[0])
    torch.testing.assert_close(second("cpp"), second("reference"))


@pytest.mark.parametrize(
    ("rows", "features", "width", "layers"),
    [(rows, 120, 20, 6) for rows in (1, 7, 300, 4000)]
    + [(4000, 700, 8, 4), (3, 512, 512, 4), (28, 512, 512, 4)],
)
def test_the_result_is_the_same_bits_for_any_number_of_threads(
    rows: int, features: int, width: int, layers: int
) -> None:
    def results(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        net.zero_grad()
        with use_backend("cpp"):
            y = net(x)
        y.square().sum().backward()
        with torch.no_grad(), use_backend("cpp"):
            assert torch.equal(net(x), y)
        return [y.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    before = torch.get_num_threads()
    for share in (False, True):
        net = layers_module.SpinalNet(features, 10, width, layers, share_weights=share)
        x = torch.randn(rows, features)
        try:
            one, two, many = results(1), results(2), results(4)
        finally:
            torch.set_num_threads(before)
        for other in (two, many):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The backends that have computed, in order; a repeated call computes past them all."""
    names: list[str] = []

    def counted(name: str, backend: backends.Backend) -> backends.Backend:
        def run(*arguments: object, **options: object) -> Tensor:
            names.append(name)
            return backend.run(*arguments, **options)

        return dataclasses.replace(backend, run=run)

    for name, backend in backends.BACKENDS.items():
        monkeypatch.setitem(backends.BACKENDS, name, counted(name, backend))
    return names


@pytest.mark.parametrize("part", ["net", "layer"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_a_backend_asked_for_computes_though_a_repeat_is_known(
    ran: list[str], grad: bool, part: str
) -> None:
    net = layers_module.SpinalNet(12, 3, 4)
    module = net if part == "net" else net.spine
    x = torch.randn(6, 12)
    with torch.set_grad_enabled(grad):
        module(x)
        module(x)
        for name in ("reference", "packed", "cpp", "reference"):
            ran.clear()
            with use_backend(name):
                module(x)
                assert ran == [name]
                with use_backend("auto"):
                    module(x)
            assert {*ran} <= {name, "cpp"}


@pytest.mark.parametrize("part", ["net", "layer"])
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_a_call_on_a_backend_asked_for_is_not_repeated_later(
    ran: list[str], grad: bool, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = backends.BackendChoice("reference", "not the one asked for")
    monkeypatch.setattr(backends, "_known_fastest", lambda call: usual)
    net = layers_module.SpinalNet(12, 3, 4)
    module = net if part == "net" else net.spine
    x = torch.randn(6, 12)
    with torch.set_grad_enabled(grad):
        with use_backend("cpp"):
            module(x)
        module(x)
    assert ran == ["cpp", "reference"]


def test_wrong_shapes_and_types_are_refused() -> None:
    x, weights, biases = problem(3, 8, 2, 4, 5, torch.float32)
    assert biases is not None

    def run(*arguments: object) -> None:
        functional.spinal(*arguments, num_splits=2, backend="cpp")  # type: ignore[arg-type]

    for bad in (
        (x, [*weights[:3], weights[3][:, :-1]], biases),
        (x, [*weights[:3], weights[3][:-1]], biases),
        (x, [*weights[:3], weights[3].double()], biases),
        (x, weights, [*biases[:3], biases[3][:-1]]),
        (x[:, :6], weights, biases),
    ):
        with pytest.raises(InputError):
            run(*bad)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # opcheck looks at non-leaf tensors
def test_the_operators_keep_their_contract() -> None:
    x, weights, biases = problem(4, 7, 2, 3, 3, torch.float64)
    assert biases is not None
    parameters = [tensor.requires_grad_() for tensor in [*weights, *biases]]
    positions = operators.positions_of(plan.Layout((0, 1, 2), (3, 4, 5), ()))
    arguments = (x.requires_grad_(), parameters, positions, 2, 0.01)
    torch.library.opcheck(operators.forward_operator, arguments)


@pytest.mark.parametrize("has_bias", [False, True])
def test_the_operator_differentiates_both_of_its_outputs(has_bias: bool) -> None:
    x, weights, biases = problem(4, 7, 2, 3, 3, torch.float64)
    assert biases is not None
    last = [torch.randn(3, 9, dtype=torch.float64), torch.randn(3, dtype=torch.float64)]
    # The last bias is also that of a layer.
    parameters = [*weights, *biases, last[0]]
    row = (6, 5) if has_bias else (6,)
    positions = operators.positions_of(plan.Layout((0, 1, 2), (3, 4, 5), row))
    leaves = [tensor.requires_grad_() for tensor in [x, *parameters]]

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        return operators.forward_operator(x, [*parameters], positions, 2, 0.3)

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradcheck(lambda *all_: run(*all_)[0], leaves)
    assert torch.autograd.gradcheck(lambda *all_: run(*all_)[1], leaves)
    unused = torch.autograd.grad(run(*leaves)[0].sum(), leaves, allow_unused=True)[7]
    assert unused is None or not unused.any()


TINY = bench.HeadCase("12 / 4x4 vs 6", 12, 3, 4, 4, (6,))


def test_the_benchmark_times_every_way() -> None:
    rows = bench.bench_heads([TINY], [3], seconds=0.0, min_rounds=2)
    assert [row.mode for row in rows] == ["inference", "training"]
    for row in rows:
        assert set(row.microseconds) == {"spinal", "flat", "naive", "packed", "mlp", "linear"}
        assert row.mac_ratio == pytest.approx((4 * (6 * 4 + 3 * 4) + 16 * 3) / (12 * 6 + 6 * 3))
    assert bench.heads_table(rows).count(TINY.name) == 2
    assert "Path cpp, one compiled operation for the whole chain: every row." in (
        bench.heads_table(rows)
    )
    other = dataclasses.replace(rows[0], backend="packed", reason="to see what happens")
    assert f"Path packed, to see what happens: {TINY.name}: 3." in (
        bench.heads_table([other, *rows])
    )


def test_whole_steps_are_timed_against_every_alternative() -> None:
    rows = bench.bench_steps([TINY], [4], seconds=0.0)
    assert len(rows) == 4 * 4
    assert {row.baseline for row in rows} == {"longhand", "packed", "MLP"}
    assert all(row.ratio > 0 for row in rows)


def test_the_benchmark_refuses_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    right = backends.BACKENDS["cpp"]

    def wrong(*arguments: object, **options: object) -> Tensor:
        return right.run(*arguments, **options) * 1.001

    monkeypatch.setitem(
        backends.BACKENDS, "cpp", backends.Backend(wrong, right.why_not, fused=True)
    )
    with pytest.raises(SpinalnetError, match="no time is reported"):
        bench.check_head_parity([TINY])

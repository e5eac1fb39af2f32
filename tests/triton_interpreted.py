"""Compare the Triton kernels with the reference; run with TRITON_INTERPRET=1.

`benchmarks` must be on Python's path.
"""

from __future__ import annotations

import copy
import sys
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from interpreter import repair_bfloat16

from helpers import TOL, assert_close, relative_rms
from spinalnet import InputError, use_backend
from spinalnet.kernels.triton import launching, operators, passes
from spinalnet.nn import functional
from spinalnet.nn.layers import SpinalNet

# rows, features, width, layers, splits, outputs, slope, shared, bias, dtype
CASES = [
    (5, 9, 5, 4, 2, 3, 0.0, False, True, torch.float32),
    (70, 37, 8, 6, 2, 10, 0.0, False, True, torch.float32),
    (3, 8, 17, 3, 2, 0, 0.01, False, True, torch.float32),
    (4, 9, 4, 5, 3, 2, 1.0, True, False, torch.float32),
    (1, 7, 1, 1, 1, 1, 0.0, False, True, torch.float32),
    (0, 9, 5, 4, 2, 3, 0.0, False, True, torch.float32),
    (33, 40, 8, 4, 2, 10, 0.01, False, True, torch.float16),
    (33, 40, 8, 4, 2, 10, 1.0, False, True, torch.bfloat16),
]


def compare(case: tuple) -> None:
    rows, features, width, layers, splits, outputs, slope, shared, bias, dtype = case
    torch.manual_seed(0)
    net = SpinalNet(
        features,
        max(outputs, 1),
        width,
        layers,
        num_splits=splits,
        share_weights=shared,
        bias=bias,
        dtype=dtype,
    )
    weights, biases = net.spine.chain()
    row = (net.output.weight, net.output.bias) if outputs else None
    x = torch.randn(rows, features, dtype=dtype, requires_grad=True)
    truth = {id(p): p.detach().double().requires_grad_() for p in [x, *net.parameters()]}

    def run(backend: str, convert: object) -> torch.Tensor:
        return functional.spinal(
            convert(x),
            [convert(weight) for weight in weights],
            None if biases is None else [convert(b) for b in biases],
            num_splits=splits,
            activation=lambda z: z if slope == 1 else F.leaky_relu(z, slope) if slope else z.relu(),
            negative_slope=slope,
            output=None if row is None else tuple(None if t is None else convert(t) for t in row),
            backend=backend,
        )

    expected = run("reference", lambda t: truth[id(t)])
    actual = run("triton", lambda t: t)
    with torch.no_grad():
        torch.testing.assert_close(run("triton", lambda t: t), actual.detach())
    # float16 gradients add the rounding of every step to that of the outputs.
    assert_close("output", actual.detach(), expected.detach(), dtype)
    ramp = torch.linspace(0.5, 1, actual.numel()).reshape(actual.shape)
    used = [p for p in [x, *net.parameters()] if outputs or p not in set(net.output.parameters())]
    found = torch.autograd.grad((actual * ramp.to(dtype)).sum(), used)
    exact = torch.autograd.grad((expected * ramp.to(dtype)).sum(), [truth[id(p)] for p in used])
    kind = torch.float32 if dtype == torch.float32 else torch.bfloat16
    for index, (ours, theirs) in enumerate(zip(found, exact, strict=True)):
        assert_close(f"gradient {index} of {case}", ours, theirs, kind)


def check_nan() -> None:
    net = SpinalNet(8, 3, 4)
    x = torch.randn(4, 8)
    x[1, 2], x[2, 5], x[3, 1] = float("nan"), float("inf"), -float("inf")
    with torch.no_grad():
        with use_backend("reference"):
            expected = net(x)
        with use_backend("triton"):
            torch.testing.assert_close(net(x), expected, equal_nan=True)


def check_autocast() -> None:
    """Under autocast the products take bfloat16 and sum in float32; gradients come in float32."""
    net = SpinalNet(40, 10, 8, 4)
    exact = copy.deepcopy(net).double()
    x = torch.randn(33, 40, requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    with use_backend("reference"):
        y = exact(x64)
    truth = [y, *torch.autograd.grad(y.square().mean(), [x64, *exact.parameters()])]
    errors = []
    for backend in ("triton", "reference"):
        with use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
            y = net(x)
        assert y.dtype == torch.bfloat16
        gradients = torch.autograd.grad(y.float().square().mean(), [x, *net.parameters()])
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found = zip([y, *gradients], truth, strict=True)
        errors.append([relative_rms(ours.detach(), theirs.detach()) for ours, theirs in found])
    # Rounding may switch a neuron off, on both sides alike.
    for index, (ours, theirs) in enumerate(zip(*errors, strict=True)):
        assert ours <= max(TOL[torch.bfloat16], 1.5 * theirs), (index, ours, theirs)


def check_sources() -> None:
    """Whoever multiplies the slices, the result is the same."""
    for source in ("slices", "layers", "cublas"):
        plan = launching.Plan(source, 16, 16, 4)
        with mock.patch.object(passes, "plan_forward", lambda *_, plan=plan: plan):
            for case in (CASES[1], CASES[2], CASES[3], CASES[6]):
                compare(case)


def check_views() -> None:
    """Rows that are apart, features that are, and more slices than layers."""
    torch.manual_seed(0)
    net = SpinalNet(9, 3, 4, 5, num_splits=3)
    wide = torch.randn(7, 30)
    tall = torch.randn(9, 7)
    for x in (wide[:, 2:11], tall.t(), wide[:1, :9].expand(4, 9), torch.randn(2, 3, 9)):
        x = x.detach().requires_grad_()
        found = []
        for backend in ("triton", "reference"):
            with use_backend(backend):
                y = net(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach())
    few = [torch.randn(4, 3, requires_grad=True), torch.randn(4, 7, requires_grad=True)]
    x = torch.randn(5, 9, requires_grad=True)
    found = []
    for backend in ("triton", "reference"):
        y = functional.spinal(x, few, None, num_splits=3, backend=backend)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *few])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach())


def check_frozen() -> None:
    """What needs no gradient gets none."""
    net = SpinalNet(9, 3, 4)
    x = torch.randn(5, 9, requires_grad=True)
    with use_backend("triton"):
        net(x.detach()).sum().backward()
        assert x.grad is None
        alone = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        net.requires_grad_(False)
        net(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_()
    with use_backend("reference"):
        net(x).sum().backward()
    for ours, p in zip(alone, net.parameters(), strict=True):
        torch.testing.assert_close(ours, p.grad)


def check_refusals() -> None:
    with pytest.raises(InputError, match="one dtype"), use_backend("triton"):
        SpinalNet(9, 3, 4)(torch.randn(2, 9, dtype=torch.float16))
    for width, layers in ((8, launching.MAX_LAYERS + 1), (100, 9)):
        reason = launching.why_not("cuda", torch.float32, width, layers)
        assert reason is not None
        assert f"{layers} layers" in reason
    assert launching.why_not("cuda", torch.float32, 100, 8) is None


def check_second_derivative() -> None:
    net = SpinalNet(8, 3, 4)
    with use_backend("triton"):
        y = net(torch.randn(2, 8))
    with pytest.raises(RuntimeError, match="packed"):
        torch.autograd.grad(y.sum(), list(net.parameters()), create_graph=True)


def check_compiled() -> None:
    """Without a graph break, outputs and gradients as in eager mode."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15):
        return  # torch 2.11 gives the tracer other tensors, which are refused in a sentence
    for outputs in (3, 0):
        net = SpinalNet(11, max(outputs, 1), 5, 4)
        weights, biases = net.spine.chain()
        row = (net.output.weight, net.output.bias) if outputs else None

        def call(
            x: torch.Tensor, weights: list = weights, biases: list = biases, row: tuple | None = row
        ) -> torch.Tensor:
            return functional.spinal(
                x, weights, biases, num_splits=2, output=row, negative_slope=0.0, backend="triton"
            )

        compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
        x = torch.randn(6, 11, requires_grad=True)
        leaves = [x, *weights, *biases, *(row or ())]
        found = []
        for way in (compiled, call):
            y = way(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach())
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), call(x))
    arguments = (
        torch.randn(6, 11),
        [w.detach() for w in weights],
        2,
        0.0,
        False,
        False,
        True,
        torch.float32,
    )
    torch.library.opcheck(operators._forward_operator, arguments)


def check_both_outputs() -> None:
    """The operator differentiates hidden outputs and logits, one of them or both."""
    x = torch.randn(5, 7, requires_grad=True)
    chain = [torch.randn(3, columns, requires_grad=True) for columns in (4, 6, 7)]
    biases = [torch.randn(3, requires_grad=True) for _ in chain]
    row = [torch.randn(2, 9, requires_grad=True), torch.randn(2, requires_grad=True)]
    ramp = torch.linspace(-1, 1, 45).view(5, 9)
    for last in (row, row[:1]):
        leaves = [x, *chain, *biases, *last]
        ours = operators._forward_operator(x, leaves[1:], 2, 0.3, True, True, True, x.dtype)
        hidden = functional.spinal(
            x, chain, biases, num_splits=2, negative_slope=0.3, backend="reference"
        )
        truth = hidden, torch.nn.functional.linear(hidden, *last)
        for factors in ((1.0, 1.0), (0.0, 1.0), (1.0, 0.0)):
            found = []
            for pair in (ours, truth):
                parts = zip(factors, ((pair[0] * ramp).sum(), pair[1].square().sum()), strict=True)
                loss = torch.stack([part for factor, part in parts if factor]).sum()
                found.append(
                    torch.autograd.grad(
                        loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True
                    )
                )
            torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    assert launching.INTERPRETED
    assert repair_bfloat16()
    for one in CASES:
        compare(one)
    check_nan()
    check_autocast()
    check_sources()
    check_views()
    check_frozen()
    check_refusals()
    check_second_derivative()
    check_compiled()
    check_both_outputs()
    sys.stdout.write("all agree")

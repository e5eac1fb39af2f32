"""Heads alone: inference, training and whole steps, against longhand and fully connected ones."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import timing
from spinalnet._checks import SpinalnetError
from spinalnet.bench.longhand import LonghandHead
from spinalnet.bench.rows import Row, compare
from spinalnet.kernels import reference
from spinalnet.kernels.native import peak_gflops
from spinalnet.nn import MLPHead, SpinalNet, backends

Way = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HeadCase:
    """A spinal head and the fully connected layers it replaces, on the same features."""

    name: str
    in_features: int
    out_features: int
    hidden_features: int
    num_layers: int
    mlp: tuple[int, ...]

    def spinal(self) -> SpinalNet:
        """The head, with fresh weights."""
        return SpinalNet(self.in_features, self.out_features, self.hidden_features, self.num_layers)

    def fully_connected(self) -> nn.Sequential:
        """The counterpart as its users write it, with nothing around it."""
        widths = [self.in_features, *self.mlp]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], self.out_features))

    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates per row: spinal, fully connected."""
        widths = [self.in_features, *self.mlp, self.out_features]
        spinal = reference.spinal_macs(
            self.in_features, self.hidden_features, self.num_layers, out_features=self.out_features
        )
        return spinal, sum(a * b for a, b in itertools.pairwise(widths))


HEAD_CASES = (
    HeadCase("320 / 8x6 vs 50", 320, 10, 8, 6, (50,)),
    HeadCase("256 / 128x4 vs 512", 256, 10, 128, 4, (512,)),
    HeadCase("2048 / 20x4 vs one Linear", 2048, 10, 20, 4, ()),
    HeadCase("1440 / 50x8 vs 50", 1440, 10, 50, 8, (50,)),
    HeadCase("8 / 50x6 vs 200-100", 8, 1, 50, 6, (200, 100)),
    HeadCase("512 / 512x4 vs 4096-4096", 512, 10, 512, 4, (4096, 4096)),
)


@dataclass(frozen=True)
class HeadTimes:
    """One head at one batch size: microseconds per batch of every way to compute it.

    `spinal` is the head as it is built, `flat` the same after `flatten_parameters`.

    Times are the shortest of all rounds: other work on a machine only ever adds. The medians and
    quartiles beside them tell how much it added. Training times have the `floor` (the loss alone,
    forward and backward) taken off.
    """

    head: str
    batch: int
    mode: str
    backend: str
    reason: str
    mac_ratio: float
    macs: int
    microseconds: dict[str, float]
    medians: dict[str, float]
    quartiles: dict[str, tuple[float, float]]
    floor: float
    over_mlp: float
    flat_over_mlp: float
    peak_fraction: float
    rounds: int


TRAINING_SLACK = 1.15  # of what multiplications promise; inference has none


def keeps_promise(mode: str, over_mlp: float, mac_ratio: float) -> bool:
    """Whether a head takes no longer than its multiplications promise.

    Args:
        mode: "inference" or "training", which may take `TRAINING_SLACK` times as long.
        over_mlp: Its time, divided by that of the layers it replaces.
        mac_ratio: Its multiply-accumulates, divided by theirs.
    """
    return over_mlp <= (TRAINING_SLACK if mode == "training" else 1.0) * mac_ratio


def check_head_parity(cases: Sequence[HeadCase] = HEAD_CASES) -> None:
    """Compare outputs and every gradient of each head with the reference in float64.

    Raises:
        SpinalnetError: If a head is off; no benchmark is worth reporting then.
    """
    for case in cases:
        net = case.spinal().requires_grad_()
        truth = copy.deepcopy(net).double()
        for batch in (1, 5, 64):
            x = torch.randn(batch, case.in_features, requires_grad=True)
            wide = x.detach().double().requires_grad_()
            with backends.use_backend("reference"):
                expected = truth(wide)
            actual = net(x)
            weighting = torch.randn_like(actual)
            found = torch.autograd.grad(actual, [x, *net.parameters()], weighting)
            exact = torch.autograd.grad(expected, [wide, *truth.parameters()], weighting.double())
            for ours, theirs in [(actual, expected), *zip(found, exact, strict=True)]:
                error = (ours.double() - theirs).square().mean().sqrt()
                # A sum within rounding of the kink of relu can fall on its other side.
                if not error <= 1e-4 * theirs.square().mean().sqrt() + 1e-12:
                    raise SpinalnetError(
                        f"the head {case.name} differs from the reference at batch size {batch}: "
                        "no time is reported for wrong numbers."
                    )


def bench_heads(
    cases: Sequence[HeadCase] = HEAD_CASES,
    batches: Sequence[int] = (1, 28, 64, 100, 1024, 4096),
    *,
    seconds: float = 1.0,
    min_rounds: int = 5,
    compile_batches: Sequence[int] = (),
) -> list[HeadTimes]:
    """Time every head, inference and training step, against its alternatives, in turns.

    Alternatives: `flat` (the same with one parameter), `naive` (longhand), `packed` (plain torch,
    grouped), `mlp` (the layers replaced), `linear` (one linear map). Rows last `seconds` or
    `min_rounds`, whichever is longer; for `compile_batches` there is also `compiled`
    (torch.compile of naive, half a minute each to prepare).

    Raises:
        SpinalnetError: If parity with the reference does not hold (checked first), or without the
            compiled kernels.
    """
    check_head_parity(cases)
    peak = peak_gflops()
    rows: list[HeadTimes] = []
    for case, batch, training in itertools.product(cases, batches, (False, True)):
        net = case.spinal()
        modules: dict[str, nn.Module] = {
            "spinal": net,
            "flat": copy.deepcopy(net).flatten_parameters(),
            "naive": LonghandHead(net),
            "mlp": case.fully_connected(),
            "linear": nn.Linear(case.in_features, case.out_features),
        }
        if batch in compile_batches:
            torch.compiler.reset()
            modules["compiled"] = LonghandHead(net)
            modules["compiled"].compile(dynamic=False)
        x = torch.randn(batch, case.in_features, requires_grad=training)
        ways = _ways(modules, net)
        timed = {name: partial(way, x) for name, (way, _) in ways.items()}
        if training:
            logits = torch.randn(batch, case.out_features, requires_grad=True)
            timed = {name: _backward(*way, x) for name, way in ways.items()}
            timed["floor"] = _backward(nn.Identity(), nn.Identity(), logits)
        with torch.set_grad_enabled(training):
            timings = timing.interleave(timed, seconds=seconds, min_rounds=min_rounds)
        floor = timings.pop("floor").minimum if training else 0.0
        macs, mlp_macs = case.macs()
        passes = 3 if training else 1
        choice = net.spine.backend_choice(x)
        us = {
            name: [1e6 * (t - floor) for t in (times.minimum, times.median, *times.quartiles)]
            for name, times in timings.items()
        }
        rows.append(
            HeadTimes(
                head=case.name,
                batch=batch,
                mode="training" if training else "inference",
                backend=choice.name,
                reason=choice.reason,
                mac_ratio=macs / mlp_macs,
                macs=macs,
                microseconds={name: times[0] for name, times in us.items()},
                medians={name: times[1] for name, times in us.items()},
                quartiles={name: (times[2], times[3]) for name, times in us.items()},
                floor=1e6 * floor,
                over_mlp=us["spinal"][0] / us["mlp"][0],
                flat_over_mlp=us["flat"][0] / us["mlp"][0],
                peak_fraction=2e-3 * macs * batch * passes / us["spinal"][0] / peak,
                rounds=timings["spinal"].rounds,
            )
        )
    return rows


def bench_steps(
    cases: Sequence[HeadCase] = (HEAD_CASES[0], HEAD_CASES[1], HEAD_CASES[4]),
    batches: Sequence[int] = (64,),
    *,
    seconds: float = 1.5,
) -> list[Row]:
    """Time whole training steps: gradients set free, forward, backward, fused Adam.

    Plain heads with many parameters and with one, and heads with dropout and batch norm, against
    the same written longhand, grouped, and an MLP.
    """
    rows = []
    for case, batch in itertools.product(cases, batches):
        x = torch.randn(batch, case.in_features, requires_grad=True)
        sizes = case.in_features, case.out_features
        variants = {"": (0.0, False), ", dropout": (0.5, False)}
        if batch > 1:
            variants |= {", batch norm": (0.0, True), ", both": (0.5, True)}
        for variant, (dropout, norm) in variants.items():
            options: dict[str, Any] = {"dropout": dropout, "norm": "batch" if norm else None}
            net = SpinalNet(*sizes, case.hidden_features, case.num_layers, **options)
            modules: dict[str, nn.Module] = {
                "ours": net,
                "ours, one parameter": copy.deepcopy(net).flatten_parameters(),
                "longhand": LonghandHead(copy.deepcopy(net), dropout, norm),
                "MLP": MLPHead(*sizes, case.mlp, **options),
            }
            steps = {
                name: _step(*way, x) for name, way in _ways(modules, copy.deepcopy(net)).items()
            }
            timings = timing.interleave(steps, seconds=seconds, min_rounds=15)
            name = f"{case.name}, batch {batch}{variant}"
            # A step is so short that one interruption multiplies it: shortest rounds.
            shown = partial(compare, unit="steps/s", work=1, timings=timings, shortest=True)
            rows += [shown(name, baseline) for baseline in ("longhand", "packed", "MLP")]
            one = "ours, one parameter"
            rows.append(shown(f"{name}, one parameter", "MLP", ours=one))
    return rows


def _ways(modules: dict[str, nn.Module], grouped: nn.Module) -> dict[str, tuple[Way, nn.Module]]:
    """Return how each module is called, whose parameters it has, and `grouped` called packed."""

    def packed(x: Tensor) -> Tensor:
        with backends.use_backend("packed"):
            return grouped(x)

    called: dict[str, tuple[Way, nn.Module]] = {name: (m, m) for name, m in modules.items()}
    return {**called, "packed": (packed, grouped)}


def _backward(way: Way, module: nn.Module, x: Tensor) -> Callable[[], object]:
    leaves = [x, *module.parameters()]

    def step() -> object:
        for leaf in leaves:
            leaf.grad = None
        return way(x).square().mean().backward()

    return step


def _step(way: Way, module: nn.Module, x: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        x.grad = None
        optimizer.zero_grad()
        way(x).square().mean().backward()
        optimizer.step()

    return step


def heads_table(rows: Sequence[HeadTimes]) -> str:
    """Return the rows as a Markdown table, and why each path was taken.

    `of MLP` at or below `MACs` keeps the promise.
    """
    lines = [
        "| head | batch | mode | path | MACs | µs | of MLP | faster than naive | than packed "
        "| of peak | one parameter: µs | of MLP | faster than naive |",
        "|---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        us = row.microseconds
        lines.append(
            f"| {row.head} | {row.batch} | {row.mode} | {row.backend} | {row.mac_ratio:.2f} "
            f"| {us['spinal']:,.0f} | {row.over_mlp:.2f} | {us['naive'] / us['spinal']:.1f}x "
            f"| {us['packed'] / us['spinal']:.1f}x | {row.peak_fraction:.0%} "
            f"| {us['flat']:,.0f} | {row.flat_over_mlp:.2f} | {us['naive'] / us['flat']:.1f}x |"
        )
    chosen: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        chosen.setdefault((row.backend, row.reason), []).append(f"{row.head}: {row.batch}")
    lines.append("")
    for (path, reason), served in chosen.items():
        where = "every row" if len(chosen) == 1 else ", ".join(dict.fromkeys(served))
        lines.append(f"- Path {path}, {reason}: {where}.")
    return "\n".join(lines)

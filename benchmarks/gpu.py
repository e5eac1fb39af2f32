"""Measure the Triton kernels of the spinal chain on an NVIDIA card, and check them first.

python benchmarks/gpu.py --minutes 8 --out benchmarks/results/gpu.json

What is done, in this order, as far as the minutes reach:

1. environment: versions, card, copy bandwidth, matrix products at their best
2. checks: 40 heads in three types compiled and compared with float64, many processes at a time;
   memory that is handed out holds no number before it is written
3. inference, training: five heads against longhand, packed and an equal MLP, in eager mode and in
   CUDA graphs
4. compiled: two of the heads against torch.compile of the longhand code
5. variants: other ways to cut the work into programs
6. stacked: ten seeds of a head as one module (`stack_models`) against one after another
7. epochs: two networks of the paper on random images, augmented on the card
8. pairs: full-length runs of VGG-5 with the heads spinal, unchained and mlp on MNIST and
   Fashion-MNIST, whose files are looked for in --data-dir

Every result is appended to OUT with the ending .jsonl as it comes; OUT is written at the end. What
is not likely to end in time is not begun. The runs of step 8 take many minutes each:

python benchmarks/gpu.py --minutes 120 --steps pairs --out pairs.json
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
from command_line import new_parser
from interpreter import repair_bfloat16
from torch import Tensor, nn

from spinalnet import InputError, SpinalNet, spinal, use_backend
from spinalnet.kernels.triton import passes
from spinalnet.kernels.triton.launching import INTERPRETED as DRY
from spinalnet.kernels.triton.launching import Plan
from spinalnet.nn import stack_models

STEPS = (
    *("environment", "checks", "inference", "training", "compiled", "variants"),
    *("stacked", "epochs", "pairs"),
)
DEVICE = "cpu" if DRY else "cuda"

# Relative root-mean-square error against float64: of outputs, of gradients.
TOLERANCE = {torch.float32: (1e-5, 5e-5), torch.bfloat16: (1e-2, 3e-2), torch.float16: (2e-3, 1e-2)}
# In half precision rounding can switch a neuron off or on, in any implementation: beyond the
# tolerance ours may err as much as packed, and never three times as much.
AS_PACKED, AT_MOST = 1.2, 3.0


@dataclass(frozen=True)
class Head:
    """A spinal head and the hidden layers of the MLP that it replaces."""

    features: int
    width: int
    layers: int
    mlp: tuple[int, ...] = ()
    outputs: int = 10  # 0: hidden layers alone
    splits: int = 2
    slope: float = 0.0
    bias: bool = True
    shared: bool = False
    flat: bool = False  # after `flatten_parameters`

    @property
    def name(self) -> str:
        more = [
            f", {self.outputs} outputs" if self.outputs != 10 else "",
            f", {self.splits} slices" if self.splits != 2 else "",
            f", slope {self.slope:g}" if self.slope else "",
            "" if self.bias else ", no bias",
            ", shared" if self.shared else "",
            ", flat" if self.flat else "",
        ]
        return f"{self.features}/{self.width}x{self.layers}{''.join(more)}"

    def net(self, kind: torch.dtype = torch.float32) -> SpinalNet:
        activation = nn.ReLU() if self.slope == 0 else nn.LeakyReLU(self.slope)
        net = SpinalNet(
            self.features,
            max(self.outputs, 1),
            self.width,
            self.layers,
            num_splits=self.splits,
            activation=activation,
            bias=self.bias,
            share_weights=self.shared,
            device=DEVICE,
            dtype=kind,
        )
        return net.flatten_parameters() if self.flat else net

    def equal_mlp(self, kind: torch.dtype) -> nn.Module:
        sizes = [self.features, *self.mlp]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], self.outputs)).to(DEVICE, kind)


HEADS = (
    Head(320, 8, 6, (50,)),
    Head(2048, 20, 4),
    Head(8, 50, 6, (200, 100)),
    Head(256, 128, 4, (512,)),
    Head(1440, 50, 8, (50,)),
)
ODD_HEADS = (
    # Hidden layers alone
    Head(37, 17, 7, outputs=0),
    Head(320, 8, 6, outputs=0),
    Head(6, 5, 2, outputs=0, slope=0.01),
    Head(2, 3, 4, outputs=0, bias=False),
    Head(50, 64, 3, outputs=0),
    # Slices of size 1
    Head(2, 8, 4),
    Head(2, 20, 2, bias=False),
    Head(3, 4, 6),
    Head(3, 8, 3, splits=3),
    Head(5, 6, 7, splits=5),
    # No bias
    Head(320, 8, 6, bias=False),
    Head(16, 31, 4, bias=False, slope=0.01),
    Head(100, 33, 5, bias=False, slope=1.0),
    # One matrix for all layers
    Head(9, 4, 5, splits=3, shared=True),
    Head(40, 16, 8, shared=True),
    Head(7, 5, 3, bias=False, shared=True),
    # Widths that are no power of two, and just above one
    Head(33, 1, 3),
    Head(41, 7, 5),
    Head(19, 15, 6, outputs=1),
    Head(127, 65, 3),
    Head(55, 127, 2),
    # One layer, and as many as are taken
    Head(7, 4, 1, splits=1),
    Head(64, 20, 1),
    Head(9, 5, 1, outputs=0, splits=1),
    Head(10, 4, 16),
    Head(30, 9, 16, splits=3, slope=0.01),
    Head(64, 16, 16, outputs=100),
    # Leaky relu and the identity
    Head(9, 5, 4, outputs=3, slope=0.01),
    Head(24, 12, 4, slope=0.2),
    Head(24, 12, 4, slope=1.0),
    # One parameter
    Head(320, 8, 6, flat=True),
    Head(2, 8, 4, flat=True),
    Head(9, 5, 4, outputs=3, slope=0.01, flat=True),
    Head(37, 17, 7, bias=False, flat=True),
)
# Seeds of these are trained at once; the second is that of frozen features.
STACKED, SEEDS, STACKED_ROWS = (HEADS[0], Head(1280, 20, 4, (512,))), 10, (64, 1024)
PAIR_HEADS, PAIR_DATA, PAIR_SEEDS = ("spinal", "unchained", "mlp"), ("mnist", "fashion-mnist"), 5
ROWS, CHECKED_ROWS = (64, 1024, 65536), (1, 63, 65, 1000, 70001)
KINDS = (torch.bfloat16, torch.float32, torch.float16)
if DRY:
    HEADS = (Head(12, 4, 3, (5,)), Head(8, 20, 2, (6,)))
    ODD_HEADS = (
        Head(5, 4, 2, flat=True),
        Head(6, 5, 2, outputs=0, slope=0.01),
        Head(4, 3, 2, bias=False, slope=1.0, shared=True),
    )
    ROWS, CHECKED_ROWS, KINDS = (5,), (1, 7), (torch.float32, torch.float16)
    if repair_bfloat16():
        KINDS = (*KINDS, torch.bfloat16)
    STACKED, SEEDS, STACKED_ROWS, PAIR_SEEDS = HEADS[:1], 3, (5,), 1


def named(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


class Longhand(nn.Module):
    """The head as its paper writes it: slice, concatenate, linear, activate."""

    def __init__(self, head: Head, net: SpinalNet) -> None:
        super().__init__()
        self.layers, self.output = nn.ModuleList(list(net.spine.layers)), net.output
        self.split = head.features // 2

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            part = x[:, : self.split] if index % 2 == 0 else x[:, self.split :]
            seen = torch.cat([part, outputs[-1]], dim=1) if outputs else part
            outputs.append(torch.relu(layer(seen)))
        return self.output(torch.cat(outputs, dim=1))


def by_backend(name: str, net: nn.Module) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with use_backend(name):
            return net(x)

    return call


# Results and the time there is ----------------------------------------------------------------


class Session:
    """Appends results as they come, and says what there is still time for."""

    def __init__(self, out: Path, minutes: float, commit: str) -> None:
        self.out, self.lines = out, out.with_suffix(".jsonl")
        self.total, self.longest = 60 * minutes, 0.0
        self.end = time.monotonic() + self.total
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.common: dict[str, Any] = {"commit": commit, **versions()}
        self.results: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.unsound: set[tuple[str, str]] = set()  # head and type that did not compile or agree
        out.parent.mkdir(parents=True, exist_ok=True)
        self.lines.write_text("")

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def add(self, step: str, **result: Any) -> None:
        self.results.append({"step": step, **result})
        with self.lines.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **result, **self.common}) + "\n")
        print(f"{self.left:5.0f} s left  {step}  {json.dumps(result)}", flush=True)

    @contextlib.contextmanager
    def piece(self, step: str, name: str, expected: float = 0.0) -> Iterator[bool]:
        """Run a piece of a step if there is time for it; an error ends the piece alone."""
        if self.left < max(1.5 * min(self.longest, 40.0), expected):
            self.skipped.append(f"{step}: {name}")
            yield False
            return
        start = time.monotonic()
        try:
            yield True
        except Exception as error:
            if DRY:
                raise
            self.add(step, case=name, error=f"{type(error).__name__}: {error}"[:600])
        if not DRY:
            torch.cuda.empty_cache()  # what graphs held
        took = time.monotonic() - start
        self.seconds[step] += took
        if step != "checks":
            self.longest = max(self.longest, took)

    def finish(self, command: str) -> None:
        record = {
            "benchmark": "gpu",
            "command": command,
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": self.common["card"],
            **self.common,
            "seconds": {step: round(took, 1) for step, took in self.seconds.items()},
            "skipped": self.skipped,
            "results": self.results,
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(record[key])}" for key in record]
        lines[-1] = '  "results": [\n' + ",\n".join(
            f"    {json.dumps(result)}" for result in self.results
        )
        self.out.write_text("{\n" + ",\n".join(lines) + "\n  ]\n}\n", encoding="utf-8")


def versions() -> dict[str, Any]:
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "card": "none, dry run" if DRY else torch.cuda.get_device_name(),
        "driver": None,
    }
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found["driver"] = subprocess.check_output(query, text=True).split("\n")[0].strip()
    return found


# Timing --------------------------------------------------------------------------------------


def milliseconds(run: Callable[[], object], times: int) -> float:
    if DRY:
        start = time.perf_counter()
        for _ in range(times):
            run()
        return 1e3 * (time.perf_counter() - start) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(times):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / times


def quartiles(samples: Sequence[float]) -> list[float]:
    """Return three numbers between the least and the greatest sample, however few there are."""
    # The other method takes samples for a part of something wider: of two it makes less than both.
    return statistics.quantiles(samples, n=4, method="inclusive")


def compare(cases: dict[str, Callable[[], object]], *, rounds: int = 9) -> dict[str, list[float]]:
    """Return the quartiles of the milliseconds of all cases, which take turns."""
    if DRY:
        rounds = 2
    times = {}
    for name, case in cases.items():
        case()
        times[name] = 1 if DRY else max(1, min(50, round(4 / max(milliseconds(case, 2), 1e-3))))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(rounds):
        order = list(cases) if turn % 2 else list(cases)[::-1]
        for name in order:
            samples[name].append(milliseconds(cases[name], times[name]))
    return {name: quartiles(found) for name, found in samples.items()}


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """Return `run` as a CUDA graph."""
    if DRY:
        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def inputs(head: Head, rows: int, kind: torch.dtype) -> list[Tensor]:
    """Return different inputs: more than the cache holds, but at most 16."""
    cache = 1e6 if DRY else 3 * torch.cuda.get_device_properties(0).L2_cache_size
    size = rows * head.features * kind.itemsize
    count = 2 if DRY else int(max(2, min(16, cache // size + 1)))
    return [torch.randn(rows, head.features, device=DEVICE, dtype=kind) for _ in range(count)]


def training_pass(
    call: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], xs: list[Tensor], dy: Tensor
) -> Callable[[], object]:
    """Return a function that finds the gradients of the parameters, and of x where it has one."""

    def run() -> None:
        for x in xs:
            leaves = [x, *parameters] if x.requires_grad else parameters
            torch.autograd.grad(call(x), leaves, dy)

    return run


def inference_pass(call: Callable[[Tensor], Tensor], xs: list[Tensor]) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            for x in xs:
                call(x)

    return run


# 1. Environment ------------------------------------------------------------------------------


def environment(session: Session) -> None:
    with session.piece("environment", "card") as go:
        if not go:
            return
        side, size = (64, 1 << 16) if DRY else (8192, 1 << 30)
        source = torch.rand(size // 4, device=DEVICE)
        target = torch.empty_like(source)
        [copy] = compare({"copy": lambda: target.copy_(source)}).values()
        session.add("environment", copy_gb_per_s=round(2 * size / copy[1] / 1e6, 1))
        for kind, tf32 in ((torch.bfloat16, False), (torch.float32, False), (torch.float32, True)):
            a, b = (torch.randn(side, side, device=DEVICE, dtype=kind) for _ in range(2))
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = tf32
            [took] = compare({"product": lambda a=a, b=b: a @ b}, rounds=5).values()
            torch.backends.cuda.matmul.allow_tf32 = before
            name = "tf32" if tf32 else named(kind)
            session.add("environment", product=name, tflops=round(2 * side**3 / took[1] / 1e9, 1))
        if not DRY:
            card = torch.cuda.get_device_properties(0)
            session.add(
                "environment",
                multiprocessors=card.multi_processor_count,
                l2_mib=card.L2_cache_size >> 20,
                memory_gib=card.total_memory >> 30,
            )


# 2. Checks -----------------------------------------------------------------------------------


def error_of(actual: Tensor, truth: Tensor) -> float:
    """Root-mean-square error over the root mean square of the truth."""
    scale = truth.square().mean().sqrt()
    error = (actual.double() - truth).square().mean().sqrt()
    return float(error / scale) if scale > 0 else float(error)


def parts(net: SpinalNet, with_row: bool) -> dict[str, Any]:
    weights, biases = net.spine.chain()
    row = (net.output.weight, net.output.bias) if with_row else None
    return {"weights": weights, "biases": biases, "row": row}


def run_head(
    head: Head, x: Tensor, net: SpinalNet, backend: str, ramp: Tensor | None = None
) -> list[Tensor]:
    """Return outputs and, with a gradient of theirs, the gradients of x and all parameters."""
    if head.flat:
        with use_backend(backend):
            y = net(x)
        leaves = [x, *net.parameters()]
    else:
        tensors = parts(net, with_row=head.outputs > 0)
        weights, biases, row = tensors["weights"], tensors["biases"], tensors["row"]
        y = spinal(
            x,
            weights,
            biases,
            num_splits=net.spine.num_splits,  # of one layer there is one slice
            activation=lambda z: F.leaky_relu(z, head.slope) if head.slope else z.relu(),
            negative_slope=head.slope,
            output=row,
            backend=backend,
        )
        # Each once: all layers may have the same.
        every = (x, *weights, *(biases or ()), *(row or ()))
        leaves = list({id(t): t for t in every if t is not None}.values())
    if ramp is None:
        return [y]
    return [y, *torch.autograd.grad(y, leaves, ramp.to(y.dtype).expand_as(y))]


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Hand out memory full of NaN: what a kernel forgets to write, or reads too soon, shows.

    Raises:
        RuntimeError: If torch does not do so.
    """
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = True
    try:
        if not torch.empty(64, device=DEVICE).new_empty(64).isnan().all():
            raise RuntimeError("new memory is not filled: nothing would show what is not written")
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        filling.fill_uninitialized_memory = before[1]


def check(head: Head, kind: torch.dtype, rows: int, autocast: bool = False) -> dict[str, Any]:
    """Compare ours and packed with float64: outputs and all gradients."""
    torch.manual_seed(rows)
    stored = torch.float32 if autocast else kind
    net = head.net(stored)
    exact = head.net(torch.float64)
    exact.load_state_dict(net.state_dict())
    # Apart by more than a row: nothing may depend on rows being next to each other.
    x = torch.randn(rows, head.features + 3, device=DEVICE, dtype=stored)[:, 1 : head.features + 1]
    outputs = head.outputs or head.layers * head.width
    ramp = torch.linspace(0.5, 1, outputs, device=DEVICE)
    x64 = x.double().requires_grad_()
    truth = run_head(head, x64, exact, "reference", ramp)
    errors, same = {}, 0.0
    for backend in ("triton", "packed"):
        leaf = x.detach().requires_grad_()
        with torch.autocast(DEVICE, dtype=kind, enabled=autocast):
            found = run_head(head, leaf, net, backend, ramp)
        errors[backend] = [
            error_of(a.detach(), b.detach()) for a, b in zip(found, truth, strict=True)
        ]
        if backend == "triton":
            with torch.no_grad(), torch.autocast(DEVICE, dtype=kind, enabled=autocast):
                [alone] = run_head(head, leaf, net, backend)
            same = error_of(alone, found[0].double())
    output_limit, gradient_limit = TOLERANCE[kind]
    passed = same <= output_limit
    for index, (ours, theirs) in enumerate(zip(errors["triton"], errors["packed"], strict=True)):
        limit = gradient_limit if index else output_limit
        if kind != torch.float32:
            limit = min(max(limit, AS_PACKED * theirs), max(AT_MOST * theirs, limit / 10))
        passed &= ours <= limit
    return {
        "head": head.name,
        "kind": named(kind) + (", autocast" if autocast else ""),
        "rows": rows,
        "passed": passed,
        "output": errors["triton"][0],
        "output_packed": errors["packed"][0],
        "gradients": max(errors["triton"][1:]),
        "gradients_packed": max(errors["packed"][1:]),
    }


def check_nan(head: Head, kind: torch.dtype) -> dict[str, Any]:
    """No number and infinity come out where they do in packed, and nowhere else."""
    net = head.net(kind)
    x = torch.randn(70, head.features, device=DEVICE, dtype=kind)
    x[3, 0], x[20, -1], x[33, 0], x[69, -1] = float("nan"), float("inf"), -float("inf"), 1.0
    with torch.no_grad():
        ours, theirs = (run_head(head, x, net, b)[0] for b in ("triton", "packed"))
    passed = bool((ours.isfinite() == theirs.isfinite()).all())
    passed &= bool((ours.isnan() == theirs.isnan()).all()) and bool(ours[3].isnan().any())
    finite = theirs.isfinite()
    passed &= error_of(ours[finite], theirs[finite].double()) <= 3 * TOLERANCE[kind][0]
    return {"head": head.name, "kind": named(kind), "case": "not finite", "passed": passed}


def check_graph(head: Head, kind: torch.dtype) -> dict[str, Any]:
    """A replayed graph computes what eager mode does, on what its input then holds."""
    net = head.net(kind)
    rows = 20 if DRY else 1000
    x = torch.randn(rows, head.features, device=DEVICE, dtype=kind, requires_grad=True)
    ramp = torch.linspace(0.5, 1, head.outputs, device=DEVICE)
    found: list[Tensor] = []

    def run() -> None:
        found[:] = run_head(head, x, net, "triton", ramp)

    replay = captured(run)
    in_graph = list(found)
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    replay()
    if DRY:
        in_graph = list(found)
    run()
    passed = torch.equal(in_graph[0], found[0])
    for ours, eager in zip(in_graph[1:], found[1:], strict=True):
        # cuBLAS is free to sum in another order there.
        passed &= error_of(ours, eager.double()) <= TOLERANCE[kind][0]
    return {"head": head.name, "kind": named(kind), "case": "graph replay", "passed": passed}


@contextlib.contextmanager
def compilations() -> Iterator[list[dict[str, Any]]]:
    """List kernels and seconds of the launches that took long enough to have compiled."""
    plain, found = passes.launch, []

    def launch(kernel: Any, device: Any, plan: Any, rows: int, *given: Any, **known: Any) -> None:
        start = time.monotonic()
        plain(kernel, device, plan, rows, *given, **known)
        took = time.monotonic() - start
        if took > 0.3:
            found.append(
                {"kernel": kernel.fn.__name__, "plan": list(plan), "seconds": round(took, 1)}
            )

    passes.launch = launch
    try:
        yield found
    finally:
        passes.launch = plain


def run_job(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Compile and check heads in one type, or compile variants of one."""
    kind = getattr(torch, job["kind"])
    for fields in job["heads"]:
        head = Head(**{**fields, "mlp": ()})
        if "variants" in job:
            yield from compile_variants(head, kind, job["variants"])
        else:
            yield from check_head(head, kind, everything=job["timed"])


def check_head(head: Head, kind: torch.dtype, everything: bool) -> Iterator[dict[str, Any]]:
    with compilations() as compiled, poisoned():
        for rows in CHECKED_ROWS:
            yield check(head, kind, rows)
        if everything:
            yield check_nan(head, kind)
            yield check_graph(head, kind)
            if kind != torch.float32:
                for rows in CHECKED_ROWS[1::3]:
                    yield check(head, kind, rows, autocast=True)
        yield {"head": head.name, "kind": named(kind), "compiled": compiled}


def compile_variants(
    head: Head, kind: torch.dtype, tried: Sequence[tuple[bool, Any]]
) -> Iterator[dict[str, Any]]:
    for forward, plan in tried:
        line = {"head": head.name, "kind": named(kind), "variant": [forward, plan]}
        try:
            variant_pass(head, kind, 64, Plan(*plan), forward)()
        except Exception as error:
            line["error"] = f"{type(error).__name__}: {error}"[:300]
        yield line


def start_job(job: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--job", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # cuBLAS asks for the second where memory is filled, see `poisoned`.
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    )


def run_jobs(
    session: Session, jobs: list[dict[str, Any]], limit: float, processes: int
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Run jobs in processes of their own, as many at a time as there are cores.

    Those that measure nothing that is timed later do not begin after half of the time.
    """
    waiting, running = collections.deque(jobs), {}
    while waiting or running:
        while waiting and len(running) < processes:
            job = waiting.popleft()
            if not job.get("timed", True) and session.left < session.total / 2:
                names = "; ".join(Head(**fields).name for fields in job["heads"])
                session.skipped.append(f"checks: {job['kind']}: {names}")
                continue
            running[id(job)] = job, start_job(job), time.monotonic()
        time.sleep(0.1)
        for key, (job, process, start) in list(running.items()):
            overdue = time.monotonic() - start > limit or session.left < 20
            if process.poll() is None and not overdue:
                continue
            if process.poll() is None:
                process.kill()
            output = process.communicate()[0]
            lines = [json.loads(line[1:]) for line in output.split("\n") if line.startswith("@")]
            if overdue or process.returncode:
                why = f"stopped after {limit:.0f} s" if overdue else output[-600:]
                done = {line["head"] for line in lines if "compiled" in line}
                lines += [
                    {"head": name, "kind": job["kind"], "error": why}
                    for name in (Head(**fields).name for fields in job["heads"])
                    if name not in done
                ]
            del running[key]
            yield job, lines


def jobs_of(heads: Sequence[Head], kind: torch.dtype, timed: bool) -> Iterator[dict[str, Any]]:
    """Yield jobs: a head that is timed by itself, others together, as a process starts slowly."""

    def work(some: Sequence[Head]) -> int:
        return sum(head.layers * (8 if head.width > 32 else 1) for head in some)

    together: list[Head] = []
    for head in heads:
        if together and (timed or work((*together, head)) > 20):
            yield {"heads": list(map(asdict, together)), "kind": named(kind), "timed": timed}
            together = []
        together.append(head)
    if together:
        yield {"heads": list(map(asdict, together)), "kind": named(kind), "timed": timed}


def checks(session: Session, limit: float) -> None:
    jobs = [
        job
        for timed, heads in ((True, (*HEADS, *STACKED[1:])), (False, ODD_HEADS))
        for kind in KINDS
        for job in jobs_of(heads, kind, timed)
    ]

    def urgency(job: dict[str, Any]) -> tuple[bool, bool, bool]:
        # Narrow heads and bfloat16 first: if time is short, something can be measured all the same.
        wide = any(head["width"] > 32 for head in job["heads"])
        return not job["timed"], wide, job["kind"] == "float16"

    jobs.sort(key=urgency)
    processes = 1 if DRY else os.cpu_count() or 1
    with session.piece("checks", "all heads", 30.0) as go:
        if not go:
            return
        if DRY:  # one in a process of its own shows that it works
            for job in jobs[1:]:
                for line in run_job(job):
                    session.add("checks", **line)
            jobs = jobs[:1]
        for job, lines in run_jobs(session, jobs, limit, processes):
            for line in lines:
                session.add("checks", **line)
                if "error" in line or not line.get("passed", True):
                    session.unsound.add((line["head"], job["kind"]))
    failed = [r for r in session.results if r["step"] == "checks" and not r.get("passed", True)]
    session.add("checks", case="summary", failed=len(failed), unsound=sorted(session.unsound))


# 3. Inference and training -------------------------------------------------------------------


def time_head(session: Session, step: str, head: Head, kind: torch.dtype, rows: int) -> None:
    with session.piece(step, f"{head.name} {named(kind)} {rows}") as go:
        if not go:
            return
        torch.manual_seed(0)
        net, mlp = head.net(kind), head.equal_mlp(kind)
        calls: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module]] = {
            "longhand": (Longhand(head, net), net),
            "mlp": (mlp, mlp),
            "packed": (by_backend("packed", net), net),
        }
        if (head.name, named(kind)) not in session.unsound:
            calls["triton"] = by_backend("triton", net), net
        xs = inputs(head, rows, kind)
        dy = torch.randn(rows, head.outputs, device=DEVICE, dtype=kind)
        cases = {}
        for name, (call, module) in calls.items():
            if step == "training":
                leaves = [x.requires_grad_() for x in xs]
                run = training_pass(call, list(module.parameters()), leaves, dy)
            else:
                run = inference_pass(call, xs)
            cases[f"{name} eager"] = run
            cases[f"{name} graph"] = captured(run)
        found = compare(cases)
        per_call = 1e3 / len(xs)
        session.add(
            step,
            head=head.name,
            kind=named(kind),
            rows=rows,
            inputs=len(xs),
            input_mib=round(len(xs) * xs[0].nbytes / 2**20, 1),
            microseconds={name: round(q[1] * per_call, 2) for name, q in found.items()},
            quartiles={
                name: [round(q[0] * per_call, 2), round(q[2] * per_call, 2)]
                for name, q in found.items()
            },
        )


def time_heads(session: Session, step: str) -> None:
    for kind in KINDS[: 1 if DRY else 2]:
        for rows in ROWS:
            for head in HEADS:
                time_head(session, step, head, kind, rows)


# 4. torch.compile ----------------------------------------------------------------------------


def compiled(session: Session) -> None:
    for head in HEADS[:1] if DRY else [HEADS[i] for i in (0, 3)]:
        with session.piece("compiled", head.name, 45.0) as go:
            if not go:
                continue
            kind, rows = torch.float32, ROWS[len(ROWS) // 2]
            net = head.net(kind)
            xs = inputs(head, rows, kind)
            dy = torch.randn(rows, head.outputs, device=DEVICE, dtype=kind)
            torch._dynamo.reset()
            call = torch.compile(
                Longhand(head, net), dynamic=False, backend="eager" if DRY else "inductor"
            )
            parameters = list(net.parameters())
            ours = by_backend("triton", net)
            cases = {
                "compiled longhand": inference_pass(call, xs),
                "triton": inference_pass(ours, xs),
            }
            leaves = [x.detach().clone().requires_grad_() for x in xs]
            cases["compiled longhand training"] = training_pass(call, parameters, leaves, dy)
            cases["triton training"] = training_pass(ours, parameters, leaves, dy)
            for case in cases.values():
                case()
            everything = {f"{name}, eager": case for name, case in cases.items()}
            everything |= {f"{name}, graph": captured(case) for name, case in cases.items()}
            found = compare(everything)
            session.add(
                "compiled",
                head=head.name,
                kind=named(kind),
                rows=rows,
                microseconds={n: round(1e3 * q[1] / len(xs), 2) for n, q in found.items()},
            )


# 5. Variants ---------------------------------------------------------------------------------


def variant_pass(
    head: Head, kind: torch.dtype, rows: int, plan: Any, forward: bool
) -> Callable[[], object]:
    """Return a function that runs one of the kernels by `plan` on several inputs."""
    xs = inputs(head, rows, kind)
    tensors = parts(head.net(kind).requires_grad_(False), with_row=head.outputs > 0)
    parameters = [*tensors["weights"], *tensors["biases"], *tensors["row"]]
    settings = head.splits, head.slope, True, True
    hidden = torch.randn(rows, head.layers * head.width, device=DEVICE, dtype=kind)
    dy = torch.randn(rows, head.outputs, device=DEVICE, dtype=kind)

    def run() -> None:
        name = "plan_forward" if forward else "plan_backward"
        plain = getattr(passes, name)
        setattr(passes, name, lambda *_: plan)
        try:
            for x in xs:
                if forward:
                    passes.forward(x, parameters, settings, False, kind)
                else:
                    passes.backward(x, parameters, settings, hidden, dy, False, False)
        finally:
            setattr(passes, name, plain)

    return run


def variants_of(head: Head, kind: torch.dtype) -> list[tuple[bool, Any]]:
    """Return which kernel, and plans that may be better than the present one."""
    wide = head.width > 32
    forward = [
        Plan("cublas", 16, 32, 4),
        Plan("cublas", 64, 32, 4 if kind != torch.float32 else 8),
        Plan("layers", 16, 64, 4),
        Plan("layers", 64, 32, 8 if wide else 4),
    ]
    if wide:
        forward += [Plan("cublas", 16, 32, 8), Plan("layers", 16, 32, 8)]
        if kind != torch.float32:
            forward += [Plan("layers", 64, 64, 4), Plan("layers", 128, 64, 8)]
    else:
        forward += [
            Plan("slices", 16, 64, 4),
            Plan("slices", 16, 128, 4),
            Plan("slices", 16, 64, 2),
            Plan("slices", 32, 64, 4),
            Plan("slices", 64, 32, 4),
            Plan("slices", 64, 64, 4),
            Plan("slices", 128, 32, 4),
            Plan("slices", 128, 32, 8),
        ]
    if kind == torch.float32:
        forward.append(forward[-1]._replace(precision="tf32"))
    backward = [Plan("", 16, 0, 4), Plan("", 64, 0, 4)]
    if wide:
        backward = [Plan("", 16, 0, 8), Plan("", 32, 0, 8), Plan("", 64, 0, 8)]
    else:
        backward += [Plan("", 16, 0, 1), Plan("", 128, 0, 4)]
    return [*((True, plan) for plan in forward), *((False, plan) for plan in backward)]


def variants(session: Session, limit: float) -> None:
    heads = HEADS[:1] if DRY else HEADS
    jobs, good = [], set()
    for kind in KINDS[:2]:
        for head in heads:
            plans = variants_of(head, kind)[:: 5 if DRY else 1]
            for some in (plans[i : i + 4] for i in range(0, len(plans), 4)):
                jobs.append({"heads": [asdict(head)], "kind": named(kind), "variants": some})
    with session.piece("variants", "compilation", 60.0) as go:
        if not go:
            return
        if DRY:
            found = ((job, run_job(job)) for job in jobs)
        else:
            found = run_jobs(session, jobs, limit, os.cpu_count() or 1)
        for line in itertools.chain.from_iterable(lines for _, lines in found):
            if "error" in line:
                session.add("variants", **line)
            else:
                good.add((line["head"], line["kind"], json.dumps(line["variant"])))
    for kind in KINDS[:2]:
        for head in heads:
            for rows in ROWS:
                with session.piece("variants", f"{head.name} {named(kind)} {rows}") as go:
                    if not go:
                        continue
                    runs = {}
                    for forward, plan in variants_of(head, kind)[:: 5 if DRY else 1]:
                        variant = json.dumps([forward, plan])
                        if (head.name, named(kind), variant) in good:
                            name = ("forward " if forward else "backward ") + " ".join(
                                map(str, (*plan[:4], plan.precision))
                            )
                            run = variant_pass(head, kind, rows, plan, forward)
                            runs[name] = captured(run)
                    count = len(inputs(head, rows, kind))
                    found = compare(runs, rounds=5)
                    session.add(
                        "variants",
                        head=head.name,
                        kind=named(kind),
                        rows=rows,
                        microseconds={n: round(1e3 * q[1] / count, 2) for n, q in found.items()},
                    )


# 6. Many nets at once ------------------------------------------------------------------------


def disagreement(
    stack: nn.Module, nets: Sequence[nn.Module], x: Tensor, dy: Tensor
) -> tuple[float, float]:
    """Return the largest error of outputs and of gradients against the nets one by one."""
    y = stack(x)
    gradients = torch.autograd.grad(y, list(stack.parameters()), dy)
    outputs, found = 0.0, 0.0
    for number, net in enumerate(nets):
        alone = by_backend("packed", net)(x)
        theirs = torch.autograd.grad(alone, list(net.parameters()), dy[number])
        outputs = max(outputs, error_of(y[number].detach(), alone.detach().double()))
        for ours, other in zip(gradients, theirs, strict=True):
            found = max(found, error_of(ours[number], other.double()))
    return outputs, found


def time_stacked(session: Session, head: Head, kind: torch.dtype, rows: int) -> None:
    """Time forward and backward of ten seeds of a head and of its MLP."""
    xs = inputs(head, rows, kind)[:4]  # without a gradient of their own, as features have none
    dy = torch.randn(SEEDS, rows, head.outputs, device=DEVICE, dtype=kind)
    nets, mlps = [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        nets.append(head.net(kind))
        mlps.append(head.equal_mlp(kind))

    def in_turn(
        calls: Sequence[Callable[[Tensor], Tensor]], modules: Sequence[nn.Module]
    ) -> Callable[[], object]:
        passes = [
            training_pass(call, list(module.parameters()), xs, dy[number])
            for number, (call, module) in enumerate(zip(calls, modules, strict=True))
        ]
        return lambda: [run() for run in passes]

    stacks = {"spinal": stack_models(nets), "mlp": stack_models(mlps)}
    errors = {
        name: disagreement(stacks[name], members, xs[0], dy)
        for name, members in (("spinal", nets), ("mlp", mlps))
    }
    cases = {
        "packed, one after another": in_turn([by_backend("packed", net) for net in nets], nets),
        "mlp, one after another": in_turn(mlps, mlps),
    }
    if (head.name, named(kind)) not in session.unsound:
        calls = [by_backend("triton", net) for net in nets]
        cases["triton, one after another"] = in_turn(calls, nets)
    for name, stack in stacks.items():
        cases[f"{name}, stacked"] = training_pass(stack, list(stack.parameters()), xs, dy)
    everything, failed = {f"{name}, eager": run for name, run in cases.items()}, {}
    for name, run in cases.items():
        try:
            everything[f"{name}, graph"] = captured(run)
        except Exception as error:  # then there is the time in eager mode
            if DRY:
                raise
            failed[name] = f"{type(error).__name__}: {error}"[:300]
    found = compare(everything, rounds=5)
    session.add(
        "stacked",
        head=head.name,
        mlp=head.mlp,
        kind=named(kind),
        rows=rows,
        nets=SEEDS,
        # Two ways that both round: each may be off by the tolerance.
        passed=all(
            error <= 2 * limit
            for both in errors.values()
            for error, limit in zip(both, TOLERANCE[kind], strict=True)
        ),
        errors=errors,
        microseconds={name: round(1e3 * q[1] / len(xs), 2) for name, q in found.items()},
        **({"not captured": failed} if failed else {}),
    )


def stacked(session: Session) -> None:
    for kind in KINDS[: 1 if DRY else 2]:
        for head in STACKED:
            for rows in STACKED_ROWS:
                with session.piece("stacked", f"{head.name} {named(kind)} {rows}") as go:
                    if go:
                        time_stacked(session, head, kind, rows)


# 7. Whole networks ---------------------------------------------------------------------------


def epochs(session: Session) -> None:
    from spinalnet import ArrayDataset, TrainConfig, create_model, fit

    count = 128 if DRY else 60_000
    pixels = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    source = ArrayDataset(pixels, torch.randint(0, 10, (count,)), (0.3,), (0.35,))
    for model, batch, optimizer in (("mnist-cnn", 64, "sgd"), ("vgg5", 100, "adam")):
        if DRY and model == "vgg5":
            continue
        for amp in ("off", "bf16"):
            with session.piece("epochs", f"{model} {amp}", 25.0) as go:
                if not go:
                    continue
                config = TrainConfig(
                    epochs=1 if DRY else 3,
                    batch_size=batch,
                    optimizer=optimizer,
                    lr=1e-3,
                    schedule="constant",
                    augment="perspective+rotation:10",
                    amp=amp,
                    device=DEVICE,
                )
                val = source.subset(torch.arange(8 if DRY else 256))
                found = fit(create_model(model, 10, head="spinal", seed=0), source, val, config)
                session.add(
                    "epochs",
                    model=model,
                    batch=batch,
                    amp=amp,
                    images=count,
                    augment=config.augment,
                    seconds=[round(epoch["seconds"], 2) for epoch in found.history],
                )


# 8. Pairs of whole runs ----------------------------------------------------------------------


def load_or_say(session: Session, name: str, data_dir: Path, seed: int) -> Any:
    """Return a data set's parts, or None if its files are not there, which is put down."""
    from spinalnet import load_dataset

    try:
        return load_dataset(name, data_dir, seed=seed, download=False)
    except InputError:
        why = f"the files of {name} are not in the folder that --data-dir names."
        session.skipped.append(f"pairs: {name}: {why}")
        print(why, flush=True)
        return None


def pairs(session: Session, data_dir: Path, epochs: int | None) -> None:
    """Train VGG-5 with each head on the same seeds as the paper's recipe says, as far as it goes.

    Args:
        session: Where the results go.
        data_dir: Where the files of the MNIST family are.
        epochs: Passes of every run; by default as many as the recipe's.
    """
    from spinalnet import create_model, evaluate, fit
    from spinalnet.paper.recipes import RECIPES

    seconds: dict[str, float] = {}  # of an epoch
    missing: set[str] = set()
    for seed, name in itertools.product(range(PAIR_SEEDS), PAIR_DATA):
        if name in missing:
            continue
        if (splits := load_or_say(session, name, data_dir, seed)) is None:
            missing.add(name)
            continue
        config = replace(RECIPES[f"{name}-vgg5"].train, seed=seed, device=DEVICE)
        config = replace(config, epochs=1 if DRY else epochs or config.epochs)
        classes = len(splits.info.class_names)
        for head in PAIR_HEADS:
            case = f"{name} {head}, seed {seed}"
            model = create_model("vgg5", classes, head=head, seed=seed)
            if name not in seconds:
                with session.piece("pairs", f"{name}, one epoch", 20.0) as go:
                    if not go:
                        return
                    probe = create_model("vgg5", classes, head=head, seed=seed)
                    once = fit(probe, splits.train, splits.val, replace(config, epochs=1))
                    seconds[name] = once.seconds
                if name not in seconds:  # it ended in an error, which is put down
                    return
            expected = config.epochs * seconds[name]
            if session.left < 1.5 * expected:
                session.skipped.append(
                    f"pairs: {case} and what follows: {config.epochs} epochs of "
                    f"{seconds[name]:.1f} s are too long for the {session.left:.0f} s left."
                )
                return
            with session.piece("pairs", case) as go:
                if not go:
                    return
                found = fit(model, splits.train, splits.val, config)
                seconds[name] = found.seconds / len(found.history)
                session.add(
                    "pairs",
                    data=name,
                    model="vgg5",
                    head=head,
                    seed=seed,
                    epochs=found.epochs_run,
                    best_epoch=found.best_epoch,
                    selected_on="validation",
                    val_accuracy=found.val.accuracy,
                    test_accuracy=evaluate(found.model, splits.test, device=DEVICE).accuracy,
                    seconds=round(found.seconds, 1),
                )


# ---------------------------------------------------------------------------------------------


def commit_here() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        where = Path(__file__).parent
        command = ["git", "-C", str(where), "rev-parse", "HEAD"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    return "unknown"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="time there is in all")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results" / "gpu.json",
        help="result file; the same with .jsonl grows as results come",
    )
    parser.add_argument("--commit", help="the commit that is measured, where git cannot say")
    parser.add_argument(
        "--steps", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=f"of {STEPS}"
    )
    parser.add_argument(
        "--limit", type=float, default=100, help="seconds after which a compilation is given up"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where the files for the pairs are"
    )
    parser.add_argument(
        "--pair-epochs", type=int, help="epochs of a run of the pairs; by default the recipe's"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="everything once, tiny, on the CPU in Triton's interpreter",
    )
    parser.add_argument("--job", help=argparse.SUPPRESS)  # a process of the checks
    arguments = parser.parse_args()
    if arguments.dry_run and not DRY:
        # The interpreter must be asked for before triton is imported.
        again = [sys.executable, *sys.argv]
        os.execve(sys.executable, again, os.environ | {"TRITON_INTERPRET": "1"})
    if arguments.job:
        for line in run_job(json.loads(arguments.job)):
            print("@" + json.dumps(line), flush=True)
        return
    if not DRY and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry-run needs none")
    minutes = 60 if DRY else arguments.minutes  # tiny, but the interpreter is slow
    session = Session(arguments.out, minutes, arguments.commit or commit_here())
    steps: dict[str, Callable[[], None]] = {
        "environment": lambda: environment(session),
        "checks": lambda: checks(session, arguments.limit),
        "inference": lambda: time_heads(session, "inference"),
        "training": lambda: time_heads(session, "training"),
        "compiled": lambda: compiled(session),
        "variants": lambda: variants(session, arguments.limit),
        "stacked": lambda: stacked(session),
        "epochs": lambda: epochs(session),
        "pairs": lambda: pairs(session, arguments.data_dir, arguments.pair_epochs),
    }
    try:
        for name in STEPS:
            if name in arguments.steps:
                steps[name]()
    finally:
        options = [f"--minutes {arguments.minutes:g}"]
        if set(arguments.steps) != set(STEPS):
            options.append("--steps " + " ".join(arguments.steps))
        if arguments.pair_epochs:
            options.append(f"--pair-epochs {arguments.pair_epochs}")
        if DRY:
            options = ["--dry-run"]
        session.finish("python benchmarks/gpu.py " + " ".join(options))


if __name__ == "__main__":
    main()

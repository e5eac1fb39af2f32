"""Measure the Triton kernels of the spinal chain on an NVIDIA card, and check them first.

python benchmarks/gpu.py --minutes 8 --out benchmarks/results/gpu.json

What is done, in this order, as far as the minutes reach:

1. environment: versions, card, copy bandwidth, matrix products at their best
2. checks: every kernel compiled and compared with float64, many processes at a time
3. inference, training: five heads against longhand, packed and an equal MLP, in eager mode and in
   CUDA graphs
4. compiled: two of the heads against torch.compile of the longhand code
5. variants: other ways to cut the work into programs
6. epochs: two networks of the paper on random images, augmented on the card

Every result is appended to OUT with the ending .jsonl as it comes; OUT is written at the end.
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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from spinalnet import SpinalNet, spinal, use_backend
from spinalnet.kernels import triton as chain

DRY = chain.INTERPRETED
STEPS = ("environment", "checks", "inference", "training", "compiled", "variants", "epochs")
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

    @property
    def name(self) -> str:
        more = [
            f", {self.outputs} outputs" if self.outputs != 10 else "",
            f", {self.splits} slices" if self.splits != 2 else "",
            f", slope {self.slope:g}" if self.slope else "",
            "" if self.bias else ", no bias",
            ", shared" if self.shared else "",
        ]
        return f"{self.features}/{self.width}x{self.layers}{''.join(more)}"

    def net(self, kind: torch.dtype = torch.float32) -> SpinalNet:
        activation = nn.ReLU() if self.slope == 0 else nn.LeakyReLU(self.slope)
        return SpinalNet(
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
    Head(37, 17, 7, outputs=0),
    Head(9, 5, 4, outputs=3, slope=0.01),
    Head(7, 4, 1, splits=1),
    Head(9, 4, 5, splits=3, shared=True),
    Head(3, 8, 3, splits=3),
    Head(100, 33, 5, bias=False, slope=1.0),
    Head(64, 16, 16, outputs=100),
)
ROWS, CHECKED_ROWS = (64, 1024, 65536), (1, 63, 65, 1000, 70001)
KINDS = (torch.bfloat16, torch.float32, torch.float16)
if DRY:
    HEADS, ODD_HEADS = (Head(12, 4, 3, (5,)), Head(8, 20, 2, (6,))), ODD_HEADS[1:2]
    ROWS, CHECKED_ROWS, KINDS = (5,), (1, 7), (torch.float32, torch.float16)


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
        self.end, self.longest = time.monotonic() + 60 * minutes, 0.0
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
        print(f"{600 if DRY else self.left:5.0f} s left  {step}  {json.dumps(result)}", flush=True)

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
    return {name: statistics.quantiles(found, n=4) for name, found in samples.items()}


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
    def run() -> None:
        for x in xs:
            torch.autograd.grad(call(x), [x, *parameters], dy)

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


def run_head(
    head: Head, x: Tensor, tensors: dict[str, Any], backend: str, ramp: Tensor | None = None
) -> list[Tensor]:
    """Return outputs and, with a gradient of theirs, the gradients of x and all parameters."""
    weights, biases, row = tensors["weights"], tensors["biases"], tensors["row"]
    y = spinal(
        x,
        weights,
        biases,
        num_splits=head.splits,
        activation=lambda z: F.leaky_relu(z, head.slope) if head.slope else z.relu(),
        negative_slope=head.slope,
        output=row,
        backend=backend,
    )
    if ramp is None:
        return [y]
    leaves = {id(t): t for t in (x, *weights, *(biases or ()), *(row or ())) if t is not None}
    return [y, *torch.autograd.grad(y, list(leaves.values()), ramp.to(y.dtype).expand_as(y))]


def parts(head: Head, net: SpinalNet) -> dict[str, Any]:
    weights, biases = net.spine.chain()
    row = (net.output.weight, net.output.bias) if head.outputs else None
    return {"weights": weights, "biases": biases, "row": row}


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
    truth = run_head(head, x64, parts(head, exact), "reference", ramp)
    errors, same = {}, 0.0
    for backend in ("triton", "packed"):
        leaf = x.detach().requires_grad_()
        with torch.autocast(DEVICE, dtype=kind, enabled=autocast):
            found = run_head(head, leaf, parts(head, net), backend, ramp)
        errors[backend] = [
            error_of(a.detach(), b.detach()) for a, b in zip(found, truth, strict=True)
        ]
        if backend == "triton":
            with torch.no_grad(), torch.autocast(DEVICE, dtype=kind, enabled=autocast):
                [alone] = run_head(head, leaf, parts(head, net), backend)
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
        ours, theirs = (run_head(head, x, parts(head, net), b)[0] for b in ("triton", "packed"))
    passed = bool((ours.isfinite() == theirs.isfinite()).all())
    passed &= bool((ours.isnan() == theirs.isnan()).all()) and bool(ours[3].isnan().any())
    finite = theirs.isfinite()
    passed &= error_of(ours[finite], theirs[finite].double()) <= 3 * TOLERANCE[kind][0]
    return {"head": head.name, "kind": named(kind), "case": "not finite", "passed": passed}


def check_graph(head: Head, kind: torch.dtype) -> dict[str, Any]:
    """A replayed graph computes what eager mode does, on what its input then holds."""
    net = head.net(kind)
    x = torch.randn(1000, head.features, device=DEVICE, dtype=kind, requires_grad=True)
    ramp = torch.linspace(0.5, 1, head.outputs, device=DEVICE)
    found: list[Tensor] = []

    def run() -> None:
        found[:] = run_head(head, x, parts(head, net), "triton", ramp)

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
    plain, found = chain._launch, []

    def launch(kernel: Any, device: Any, plan: Any, rows: int, *given: Any, **known: Any) -> None:
        start = time.monotonic()
        plain(kernel, device, plan, rows, *given, **known)
        took = time.monotonic() - start
        if took > 0.3:
            found.append(
                {"kernel": kernel.fn.__name__, "plan": list(plan), "seconds": round(took, 1)}
            )

    chain._launch = launch
    try:
        yield found
    finally:
        chain._launch = plain


def run_job(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Compile and check one head in one type, or compile a variant of it."""
    head, kind = Head(**{**job["head"], "mlp": ()}), getattr(torch, job["kind"])
    with compilations() as compiled:
        for forward, plan in job.get("variants", ()):
            line = {"head": head.name, "kind": named(kind), "variant": [forward, plan]}
            try:
                variant_pass(head, kind, 64, chain.Plan(*plan), forward)()
            except Exception as error:
                line["error"] = f"{type(error).__name__}: {error}"[:300]
            yield line
        if "variants" in job:
            return
        for rows in CHECKED_ROWS:
            yield check(head, kind, rows)
        if job["timed"]:
            yield check_nan(head, kind)
            yield check_graph(head, kind)
            if kind != torch.float32:
                for rows in CHECKED_ROWS[1::3]:
                    yield check(head, kind, rows, autocast=True)
        yield {"head": head.name, "kind": named(kind), "compiled": compiled}


def start_job(job: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--job", json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def run_jobs(
    session: Session, jobs: list[dict[str, Any]], limit: float, processes: int
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Run jobs in processes of their own, as many at a time as there are cores."""
    waiting, running = collections.deque(jobs), {}
    while waiting or running:
        while waiting and len(running) < processes:
            job = waiting.popleft()
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
                lines.append({"head": Head(**job["head"]).name, "kind": job["kind"], "error": why})
            del running[key]
            yield job, lines


def checks(session: Session, limit: float) -> None:
    jobs = [
        {"head": asdict(head), "kind": named(kind), "timed": head in HEADS}
        for kind in KINDS
        for head in (*HEADS, *ODD_HEADS)
    ]
    # Narrow heads and bfloat16 first: if time is short, something can be measured all the same.
    jobs.sort(key=lambda job: (job["head"]["width"] > 32, job["kind"] == "float16"))
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
            if any("error" in line or not line.get("passed", True) for line in lines):
                session.unsound.add((Head(**{**job["head"], "mlp": ()}).name, job["kind"]))
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
    tensors = parts(head, head.net(kind).requires_grad_(False))
    parameters = [*tensors["weights"], *tensors["biases"], *tensors["row"]]
    settings = head.splits, head.slope, True, True
    hidden = torch.randn(rows, head.layers * head.width, device=DEVICE, dtype=kind)
    dy = torch.randn(rows, head.outputs, device=DEVICE, dtype=kind)

    def run() -> None:
        name = "plan_forward" if forward else "plan_backward"
        plain = getattr(chain, name)
        setattr(chain, name, lambda *_: plan)
        try:
            for x in xs:
                if forward:
                    chain._forward(x, parameters, settings, False, kind)
                else:
                    chain._backward(x, parameters, settings, hidden, dy, False, False)
        finally:
            setattr(chain, name, plain)

    return run


def variants_of(head: Head, kind: torch.dtype) -> list[tuple[bool, Any]]:
    """Return which kernel, and plans that may be better than the present one."""
    wide = head.width > 32
    Plan = chain.Plan
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
                jobs.append({"head": asdict(head), "kind": named(kind), "variants": some})
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


# 6. Whole networks ---------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------


def commit_here() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        where = Path(__file__).parent
        command = ["git", "-C", str(where), "rev-parse", "HEAD"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    session = Session(arguments.out, arguments.minutes, arguments.commit or commit_here())
    steps: dict[str, Callable[[], None]] = {
        "environment": lambda: environment(session),
        "checks": lambda: checks(session, arguments.limit),
        "inference": lambda: time_heads(session, "inference"),
        "training": lambda: time_heads(session, "training"),
        "compiled": lambda: compiled(session),
        "variants": lambda: variants(session, arguments.limit),
        "epochs": lambda: epochs(session),
    }
    try:
        for name in STEPS:
            if name in arguments.steps:
                steps[name]()
    finally:
        options = [f"--minutes {arguments.minutes:g}"]
        if set(arguments.steps) != set(STEPS):
            options.append("--steps " + " ".join(arguments.steps))
        if DRY:
            options = ["--dry-run"]
        session.finish("python benchmarks/gpu.py " + " ".join(options))


if __name__ == "__main__":
    main()

"""Time what each piece of the fast paths gives where heads are used: networks, tables, features.

    OMP_NUM_THREADS=1 python benchmarks/pays.py [BEGINNING OF A CASE'S NAME ...]

Writes benchmarks/results/pays.json, from which docs/speed.md is made. Each piece is taken away by
itself, all ways in turns within one run:

* "repeat": the remembered call (`nn/repeat.py`); without it every call finds out what it needs.
* "flat": `flatten_parameters()`; without it, which is the default, parameters are per layer.
* "compiled": the compiled path; without it, the paper's loop and masks as torch draws them.

A ratio is the time without the piece divided by the time with it, everything else as by default.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import statistics
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command_line import new_parser
from sklearn.datasets import load_digits
from torch import Tensor, nn

from spinalnet import SpinalClassifier, create_model, files, timing, use_backend
from spinalnet.nn import MLPHead, SpinalLayer, SpinalNet, backends, functional
from spinalnet.nn.repeat import Repeat
from spinalnet.training.environment import describe_environment

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "pays.json"
BATCH = 64
NETWORKS = {
    "MNIST CNN": ("mnist-cnn", 1, 28, {}),
    "Arch2, w = 50": ("arch2", 1, 28, {"hidden_features": 50}),
    "VGG-5": ("vgg5", 1, 28, {}),
    "CIFAR CNN": ("cifar-cnn", 3, 32, {}),
    "ResNet-10, half": ("cifar-resnet10-half", 3, 32, {}),
}
HEADS = {
    "320 / 8x6": (320, 8, 6, 50),
    "256 / 128x4": (256, 128, 4, 512),
    "1280 / 20x4": (1280, 20, 4, 80),
}
Call = Callable[[], object]


class Forgetful(Repeat):
    """Computes every call from scratch."""

    def __call__(self, owner: Any, x: Tensor) -> Tensor:
        return owner.compute(x)


def forgetful(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, SpinalNet | SpinalLayer):
            module._repeat = Forgetful()
    return net


def flat(net: nn.Module) -> nn.Module | None:
    """Flatten every spinal net inside; None if there is none."""
    nets = [module for module in net.modules() if isinstance(module, SpinalNet)]
    for spinal in nets:
        spinal.flatten_parameters()
    return net if nets else None


@contextmanager
def without_kernels() -> Iterator[None]:
    """Compute as if no extension were installed."""
    cpp, can_draw = backends.BACKENDS["cpp"], functional.can_draw
    backends.BACKENDS["cpp"] = dataclasses.replace(cpp, why_not=lambda call: "switched off")
    functional.can_draw = lambda x: False
    try:
        with use_backend("reference"):
            yield
    finally:
        backends.BACKENDS["cpp"], functional.can_draw = cpp, can_draw


def torch_only(call: Call) -> Call:
    def run() -> None:
        with without_kernels():
            call()

    return run


def ways(net: nn.Module, make: Callable[[nn.Module], Call]) -> dict[str, Call]:
    """Return the call for `net` as built, and with one piece taken away or put in."""
    cases = {
        "as built": make(copy.deepcopy(net)),
        "no repeat": make(forgetful(copy.deepcopy(net))),
        "no kernels": torch_only(make(copy.deepcopy(net))),
    }
    flattened = flat(copy.deepcopy(net))
    if flattened is not None:
        cases["flat"] = make(flattened)
    return cases


def step(net: nn.Module, x: Tensor, y: Tensor, lr: float = 1e-5) -> Call:
    """Return a training step with the settings of `fit`: one fused optimiser step."""
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return run


def inference(net: nn.Module, x: Tensor) -> Call:
    net.eval()

    def run() -> None:
        with torch.no_grad():
            net(x)

    return run


PIECES = {
    "repeat": ("no repeat", "as built"),
    "flat": ("as built", "flat"),
    "compiled": ("no kernels", "as built"),
}


@dataclass(frozen=True)
class Case:
    """What is measured, how often, and how long each time."""

    kind: str
    name: str
    make: Callable[[], dict[str, Call]]
    spells: int
    seconds: float
    macs_of_mlp: float | None = None


def measure(case: Case) -> dict[str, Any]:
    """Return, for every piece, median and quartiles of the ratio over several spells.

    A spell is one run of `interleave`, in which the median is taken: the machine is shared.
    """
    found: dict[str, Any] = {"kind": case.kind, "case": case.name, "spells": case.spells}
    cases = case.make()
    runs = [
        timing.interleave(cases, seconds=case.seconds, min_rounds=2) for _ in range(case.spells)
    ]

    def ratio(without: str, having: str) -> dict[str, Any]:
        values = [times[without].median / times[having].median for times in runs]
        low, middle, high = statistics.quantiles(values, n=4)
        return {"ratio": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}

    for piece, (without, having) in PIECES.items():
        if without in cases and having in cases:
            found[piece] = ratio(without, having)
    if "MLP" in cases:
        found["of_mlp"] = {way: ratio(way, "MLP")["ratio"] for way in cases if way != "MLP"}
        found["macs_of_mlp"] = case.macs_of_mlp
    print(found, flush=True)
    return found


def networks() -> Iterator[Case]:
    def make(model: str, channels: int, side: int, options: dict[str, Any]) -> dict[str, Call]:
        net = create_model(model, 10, head="spinal", seed=0, **options)
        x = torch.randn(BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, 10, (BATCH,))
        net = net.to(memory_format=torch.channels_last)
        return ways(net, functools.partial(step, x=x, y=y))

    for name, arguments in NETWORKS.items():
        full = f"{name}, batch {BATCH}"
        yield Case("training step", full, functools.partial(make, *arguments), 5, 2.0)


def tables() -> Case:
    """Five epochs of an estimator, its fit included; it trains past `forward`."""
    X, y = load_digits(return_X_y=True)

    def fit() -> None:
        options = {"ensemble_size": 1, "embedding": None, "early_stopping": False}
        SpinalClassifier(16, epochs=5, batch_size=BATCH, random_state=0, **options).fit(X, y)

    def without_repeat() -> None:
        usual = Repeat.__call__
        Repeat.__call__ = Forgetful.__call__  # type: ignore[method-assign]
        try:
            fit()
        finally:
            Repeat.__call__ = usual  # type: ignore[method-assign]

    cases: dict[str, Call] = {
        "as built": fit,
        "no repeat": without_repeat,
        "no kernels": torch_only(fit),
    }
    name = f"SpinalClassifier(16), digits, batch {BATCH}"
    return Case("estimator, 5 epochs", name, lambda: cases, 9, 3.0)


def features() -> Case:
    def make() -> dict[str, Call]:
        net, x = SpinalNet(1280, 10, 20, num_layers=4), torch.randn(BATCH, 1280)
        return ways(net, functools.partial(step, x=x, y=torch.randint(0, 10, (BATCH,))))

    name = f"head on features, 1280 / 20x4, batch {BATCH}"
    return Case("training step", name, make, 15, 0.7)


def isolated() -> Iterator[Case]:
    def make(net: SpinalNet, dense: int, batch: int) -> dict[str, Call]:
        x = torch.randn(batch, net.in_features)
        cases = ways(net, functools.partial(inference, x=x))
        cases["MLP"] = inference(MLPHead(net.in_features, net.out_features, dense), x)
        return cases

    for name, (inputs, width, layers, dense) in HEADS.items():
        net = SpinalNet(inputs, 10, width, num_layers=layers)
        macs = net.spine.macs() + net.spine.out_features * 10
        promise = round(macs / (inputs * dense + dense * 10), 4)
        for batch in (1, BATCH):
            cases = functools.partial(make, net, dense, batch)
            yield Case("inference", f"{name}, batch {batch}", cases, 15, 0.4, promise)


def write(row: dict[str, Any], commit: str) -> None:
    """Put a row into the file, in the place of an older one of the same kind and case."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if RESULT.exists() else []
    name = (row["kind"], row["case"])
    places = [(old["kind"], old["case"]) for old in rows]
    place = places.index(name) if name in places else len(rows)
    rows[place : place + 1] = [{**row, "commit": commit}]
    protocol = (
        "time without a piece divided by the time with it, everything else as by default; medians "
        "and quartiles over several spells, in each of which all ways take turns and the median "
        "counts; one thread; every row with the commit that it measured"
    )
    record = {
        "benchmark": "pays",
        "command": "OMP_NUM_THREADS=1 python benchmarks/pays.py",
        "protocol": protocol,
        "environment": {**describe_environment(), "commit": commit},
        "rows": rows,
    }
    files.write_mapping(RESULT, record)


def main() -> None:
    """Measure the cases whose names begin with an argument, or all."""
    parser = new_parser(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="beginning of a case's name")
    beginnings = tuple(parser.parse_args().cases)
    warnings.simplefilter("ignore")  # five epochs do not converge
    torch.set_num_threads(1)
    torch.manual_seed(0)
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    for case in (*isolated(), features(), tables(), *networks()):
        if case.name.startswith(beginnings or ""):
            write(measure(case), commit)


if __name__ == "__main__":
    main()

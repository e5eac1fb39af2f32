"""Time what each piece of the fast paths gives where heads are used: networks, tables, features.

    OMP_NUM_THREADS=1 python benchmarks/pays.py

Writes benchmarks/results/pays.json, from which docs/kernels.md is made. Each piece is taken away by
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
import statistics
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
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


def measure(
    kind: str, case: str, cases: dict[str, Call], *, spells: int, seconds: float
) -> dict[str, Any]:
    """Return, for every piece, median and quartiles of the ratio over several spells.

    A spell is one run of `interleave`, in which the median is taken: the machine is shared.
    """
    found: dict[str, Any] = {"kind": kind, "case": case, "spells": spells}
    runs = [timing.interleave(cases, seconds=seconds, min_rounds=3) for _ in range(spells)]

    def ratio(without: str, having: str) -> dict[str, Any]:
        values = [times[without].median / times[having].median for times in runs]
        low, middle, high = statistics.quantiles(values, n=4)
        return {"ratio": round(middle, 4), "quartiles": [round(low, 4), round(high, 4)]}

    for piece, (without, having) in PIECES.items():
        if without in cases and having in cases:
            found[piece] = ratio(without, having)
    if "MLP" in cases:
        found["of_mlp"] = {way: ratio(way, "MLP")["ratio"] for way in cases if way != "MLP"}
    print(found, flush=True)
    return found


def networks() -> Iterator[dict[str, Any]]:
    for name, (model, channels, side, options) in NETWORKS.items():
        net = create_model(model, 10, head="spinal", seed=0, **options)
        net = net.to(memory_format=torch.channels_last)
        x = torch.randn(BATCH, channels, side, side).contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, 10, (BATCH,))
        cases = ways(net, functools.partial(step, x=x, y=y))
        yield measure("training step", f"{name}, batch {BATCH}", cases, spells=7, seconds=3.0)


def tables() -> dict[str, Any]:
    """Time five epochs of an estimator, its fit included; it trains past `forward`."""
    X, y = load_digits(return_X_y=True)

    def fit() -> None:
        SpinalClassifier(16, epochs=5, batch_size=BATCH, random_state=0).fit(X, y)

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
    return measure("estimator, 5 epochs", name, cases, spells=9, seconds=3.0)


def features() -> dict[str, Any]:
    net, x = SpinalNet(1280, 10, 20, num_layers=4), torch.randn(BATCH, 1280)
    cases = ways(net, functools.partial(step, x=x, y=torch.randint(0, 10, (BATCH,))))
    name = f"head on features, 1280 / 20x4, batch {BATCH}"
    return measure("training step", name, cases, spells=15, seconds=0.7)


def isolated() -> Iterator[dict[str, Any]]:
    for name, (inputs, width, layers, dense) in HEADS.items():
        net, mlp = SpinalNet(inputs, 10, width, num_layers=layers), MLPHead(inputs, 10, dense)
        for batch in (1, BATCH):
            x = torch.randn(batch, inputs)
            cases = ways(net, functools.partial(inference, x=x))
            cases["MLP"] = inference(mlp, x)
            case = f"{name}, batch {batch}"
            found = measure("inference", case, cases, spells=15, seconds=0.4)
            macs = net.spine.macs() + net.spine.out_features * 10
            yield {**found, "macs_of_mlp": round(macs / (inputs * dense + dense * 10), 4)}


def main() -> None:
    """Measure every case and write the rows."""
    warnings.simplefilter("ignore")  # five epochs do not converge
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [*isolated(), features(), tables(), *networks()]
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    environment = {**describe_environment(), "commit": commit.stdout.strip()}
    files.write_mapping(
        RESULT,
        {
            "benchmark": "pays",
            "command": "OMP_NUM_THREADS=1 python benchmarks/pays.py",
            "protocol": (
                "time without a piece divided by the time with it, everything else as by default; "
                "medians and quartiles over several spells, in each of which all ways take turns and "
                "the median counts; one thread"
            ),
            "environment": environment,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

"""Time training steps of five of the paper's networks against the same networks written longhand.

    python benchmarks/models.py

Writes benchmarks/results/models.json.

Three comparisons per network, each in turns within one run:

* "same loop": only the module differs. Batches, optimiser, memory format and loop are the same.
* "fit's settings": the same loop once more, with ours as `spinalnet.fit` runs it by default:
  channels-last images and filters, and an optimiser step in one fused operation;
* "bf16": the same, with the forward pass in bf16, against fit's settings.

Neither loads data: the batches are tensors in memory on both sides. Before anything is timed, each
pair must agree in logits and in every gradient, in evaluation mode, with the same weights.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command_line import new_parser
from torch import Tensor, nn

from spinalnet import create_model, timing
from spinalnet._checks import SpinalnetError
from spinalnet.bench.longhand import LonghandChain, LonghandCNN, linear_maps
from spinalnet.bench.rows import Row, compare, rows_table, write_result
from spinalnet.data.batches import ArrayDataset

RESULT = Path(__file__).parent / "results" / "models.json"


# The networks as somebody writes them who has only the paper. Parameters stand in the order of
# `create_model`, so that weights can be copied across.


class Arch2(nn.Module):
    def __init__(self, width: int = 50) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d(0.5)
        self.chain1 = LonghandChain(linear_maps(392, width, 10))
        self.chain2 = LonghandChain(linear_maps(720, width, 8))
        self.chain3 = LonghandChain(linear_maps(160, width, 8))
        self.hidden, self.output = nn.Linear(26 * width, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(torch.max_pool2d(self.conv1(x), 2))
        second = torch.relu(torch.max_pool2d(self.drop(self.conv2(first)), 2))
        depths = [
            self.chain1(x.flatten(1)),
            self.chain2(first.flatten(1)),
            self.chain3(second.flatten(1)),
        ]
        return self.output(torch.relu(self.hidden(torch.cat(depths, dim=1))))


def convolutions(channels: int, stages: Sequence[Sequence[int]]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for widths in stages:
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """VGG-5 with a batch-normed chain, VGG19_bn with a plain one; dropout 0.5 before each layer."""

    def __init__(
        self, channels: int, stages: Sequence[Sequence[int]], chain: LonghandChain
    ) -> None:
        super().__init__()
        self.features = convolutions(channels, stages)
        self.chain = chain
        self.drop: nn.Module = nn.Dropout(0.5)
        self.output = nn.Linear(chain.out_features, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.drop(self.chain(self.features(x).flatten(1))))


def vgg5() -> nn.Module:
    stages = ((64, 64), (128, 128), (256, 256, 256), (256, 256, 256))
    return VGG(1, stages, LonghandChain(linear_maps(128, 128, 4), 0.5, norm=True))


def vgg19_bn() -> nn.Module:
    stages = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
    chain = LonghandChain(linear_maps(256, 512, 4), 0.5)
    net = VGG(3, stages, chain)
    net.drop = nn.Identity()  # there is none before its output row
    return net


class CifarCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for first, second in ((32, 64), (128, 128), (256, 256)):
            layers += [
                nn.Conv2d(channels, first, 3, padding=1),
                nn.BatchNorm2d(first),
                nn.ReLU(),
                nn.Conv2d(first, second, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            if first == 128:
                layers.append(nn.Dropout2d(0.05))
            channels = second
        self.features = nn.Sequential(*layers)
        self.chain = LonghandChain(linear_maps(2048, 128, 4), 0.1)
        self.drop, self.output = nn.Dropout(0.1), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.drop(self.chain(self.features(x).flatten(1))))


@dataclass(frozen=True)
class Case:
    """A network of ours, its longhand twin, and the optimiser and batch size of its recipe."""

    name: str
    model: str
    longhand: Callable[[], nn.Module]
    batch: int
    optimizer: str
    lr: float
    options: tuple[tuple[str, Any], ...] = ()

    def ours(self) -> nn.Module:
        return create_model(self.model, 10, head="spinal", seed=0, **dict(self.options))

    def new_optimizer(self, net: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
        # None, the plain default, is not False: torch may then group the updates.
        how: Any = True if fused else None
        if self.optimizer == "sgd":
            return torch.optim.SGD(net.parameters(), lr=self.lr, momentum=0.5, fused=how)
        return torch.optim.Adam(net.parameters(), lr=self.lr, fused=how)


# Small rates: the same batches come again and again, and a network that dies has fewer to multiply.
CASES = (
    Case("MNIST CNN", "mnist-cnn", LonghandCNN, 64, "sgd", 1e-3),
    Case("Arch2, w = 50", "arch2", Arch2, 64, "sgd", 1e-3, (("hidden_features", 50),)),
    Case("VGG-5", "vgg5", vgg5, 100, "adam", 1e-5),
    Case("CIFAR CNN", "cifar-cnn", CifarCNN, 100, "adam", 1e-5),
    Case("VGG19_bn", "cifar-vgg19-bn", vgg19_bn, 100, "adam", 1e-5),
)


def copy_weights_(twin: nn.Module, net: nn.Module) -> None:
    """Give `twin` the weights of `net`, parameter by parameter in order.

    Raises:
        SpinalnetError: If the two do not have the same parameters.
    """
    pairs = list(zip(twin.parameters(), net.parameters(), strict=True))
    if any(mine.shape != theirs.shape for mine, theirs in pairs):
        raise SpinalnetError("a longhand network does not have the parameters of ours.")
    with torch.no_grad():
        for mine, theirs in pairs:
            mine.copy_(theirs)


def check_parity(case: Case, images: Tensor, targets: Tensor) -> None:
    """Compare logits and every gradient of the pair in float64, without dropout.

    Raises:
        SpinalnetError: If they differ; no time is reported then.
    """
    net, twin = case.ours().double().eval(), case.longhand().double().eval()
    copy_weights_(twin, net)
    found = []
    for each in (net, twin):
        logits = each(images.double())
        loss = nn.functional.cross_entropy(logits, targets)
        found.append([logits, *torch.autograd.grad(loss, list(each.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def loop(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[tuple[Tensor, Tensor]],
    bf16: bool = False,
) -> None:
    net.train()
    for images, targets in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net(images)
        nn.functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()


def measure(case: Case, seconds: float = 6.0) -> list[Row]:
    """Return the three rows of a network."""
    side, channels = (28, 1) if case.model in ("mnist-cnn", "arch2", "vgg5") else (32, 3)
    steps = 16 if case.optimizer == "sgd" else 1
    generator = torch.Generator().manual_seed(0)
    shape = (steps * case.batch, channels, side, side)
    pixels = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    targets = torch.randint(0, 10, (len(pixels),), generator=generator)
    middle = (0.5,) * channels
    source = ArrayDataset(pixels, targets, middle, middle)
    batches = list(source.batches(case.batch))
    check_parity(case, *(part[:8] for part in batches[0]))

    twin = case.longhand()
    copy_weights_(twin, case.ours())
    longhand = functools.partial(loop, twin, case.new_optimizer(twin), batches)
    net = case.ours()
    same = functools.partial(loop, net, case.new_optimizer(net), batches)
    fast = copy.deepcopy(net).to(memory_format=torch.channels_last)
    last = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]
    fit_like = functools.partial(loop, fast, case.new_optimizer(fast, fused=True), last)
    half = copy.deepcopy(fast)
    low = functools.partial(loop, half, case.new_optimizer(half, fused=True), last, bf16=True)
    cases = {"same loop": same, "fit's settings": fit_like, "bf16": low, "longhand": longhand}
    timings = timing.interleave(cases, seconds=seconds, min_rounds=5)
    pairs = {"same loop": "longhand", "fit's settings": "longhand", "bf16": "fit's settings"}
    return [
        compare(
            f"{case.name}, batch {case.batch}, {name}",
            against,
            "images/s",
            len(pixels),
            {"ours": timings[name], against: timings[against]},
        )
        for name, against in pairs.items()
    ]


def main() -> None:
    new_parser(__doc__).parse_args()
    torch.set_num_threads(1)
    protocol = (
        "training steps (forward, cross entropy, backward, optimiser) on random images in memory, "
        "one thread; parity of logits and gradients checked first; both networks in turns; "
        "medians, quartiles of the ratio. same loop: nothing but the module differs; fit's "
        "settings: ours with channels-last memory and a fused optimiser step besides; bf16: these "
        "with the forward pass in bf16"
    )
    rows: list[Row] = []
    for case in CASES:
        rows += measure(case)
        print(rows_table(rows[-3:]), flush=True)
        write_result(RESULT, "models", protocol, rows)


if __name__ == "__main__":
    main()

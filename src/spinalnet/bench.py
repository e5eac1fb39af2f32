"""Benchmarks: ratios within one run, against baselines written here in the plainest way.

Absolute times on a shared machine mean little; every row times its baseline in turn with ours and
reports the ratio. Results go to JSON with hardware and versions, and tables in the docs are made
from those files.
"""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files, timing
from spinalnet._checks import SpinalnetError
from spinalnet.data.batches import ArrayDataset
from spinalnet.data.loading import load_dataset
from spinalnet.deploy import export
from spinalnet.kernels import reference
from spinalnet.kernels.native import peak_gflops
from spinalnet.models.zoo import create_model
from spinalnet.nn import backends
from spinalnet.nn.dense import MLPHead
from spinalnet.nn.layers import SpinalNet
from spinalnet.training import environment, fitting
from spinalnet.training.config import TrainConfig


@dataclass(frozen=True)
class Row:
    """One comparison: `ratio` is baseline time over ours (above 1: ours is faster)."""

    case: str
    baseline: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    rounds: int


def write_result(path: str | Path, name: str, protocol: str, rows: list[Any]) -> None:
    """Write rows with the machine and the protocol that made them."""
    files.write_mapping(
        path,
        {
            "benchmark": name,
            "protocol": protocol,
            "environment": environment.describe_environment(),
            "rows": [asdict(row) for row in rows],
        },
    )


def _row(
    case: str,
    baseline: str,
    unit: str,
    work: int,
    timings: dict[str, timing.Timing],
    *,
    shortest: bool = False,
) -> Row:
    """Compare medians, or the shortest rounds where one is short enough to escape other work."""
    ours, theirs = timings["ours"], timings[baseline]
    our_time, their_time = (t.minimum if shortest else t.median for t in (ours, theirs))
    return Row(
        case=case,
        baseline=baseline,
        unit=unit,
        ours=work / our_time,
        theirs=work / their_time,
        ratio=their_time / our_time,
        ratio_quartiles=(
            theirs.quartiles[0] / ours.quartiles[1],
            theirs.quartiles[1] / ours.quartiles[0],
        ),
        rounds=ours.rounds,
    )


def _images(count: int) -> tuple[Tensor, Tensor, ArrayDataset]:
    """Return `count` real digits at 28 x 28 (repeated), their targets, and our data set of them."""
    pool = load_dataset("digits", image_size=28).train
    assert isinstance(pool, ArrayDataset)
    index = torch.arange(count) % len(pool)
    source = pool.subset(index)
    return source.inputs, source.targets, source


# The paper's scripts: one torchvision pipeline call per image, collated by a DataLoader.
_CLASSIC: dict[str, Callable[[Any], list[Any]]] = {
    "none": lambda transforms: [],
    "perspective+rotation:10": lambda transforms: [
        transforms.RandomPerspective(),
        transforms.RandomRotation(10, fill=(0,)),
    ],
    "rotation:10+resized-crop:0.95,1": lambda transforms: [
        transforms.RandomRotation(10, fill=(0,)),
        transforms.RandomResizedCrop(28, scale=(0.95, 1.0)),
    ],
    "crop:4+flip": lambda transforms: [
        transforms.RandomCrop(28, padding=4),
        transforms.RandomHorizontalFlip(),
    ],
}


class _PerSample(torch.utils.data.Dataset[tuple[Any, int]]):
    """A data set as torchvision's: an image object per index, transformed one by one."""

    def __init__(self, images: Tensor, targets: Tensor, augment: str) -> None:
        from PIL import Image
        from torchvision import transforms

        self.images = [Image.fromarray(image[0].numpy()) for image in images]
        self.targets = targets.tolist()
        self.transform = transforms.Compose(
            [
                *_CLASSIC[augment](transforms),
                transforms.ToTensor(),
                transforms.Normalize((0.3,), (0.35,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.targets[index]


def _classic_loader(
    images: Tensor, targets: Tensor, augment: str, batch_size: int
) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(
        _PerSample(images, targets, augment), batch_size=batch_size, shuffle=True
    )


def bench_augment(*, batch_size: int = 64, count: int = 1280, seconds: float = 6.0) -> list[Row]:
    """Images per second through each augmentation, against torchvision called per sample."""
    images, targets, source = _images(count)
    rows = []
    for augment in _CLASSIC:
        loader = _classic_loader(images, targets, augment, batch_size)

        def classic(loader: Any = loader) -> None:
            for _ in loader:
                pass

        def ours(augment: str = augment) -> None:
            for _ in source.batches(batch_size, shuffle=True, augment=augment):
                pass

        timings = timing.interleave(
            {"ours": ours, "torchvision per sample": classic}, seconds=seconds
        )
        rows.append(_row(augment, "torchvision per sample", "images/s", count, timings))
    return rows


class _LonghandSpinalCNN(nn.Module):
    """The spinal MNIST CNN in the plainest PyTorch: slice, concatenate, linear, activate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d(0.5)
        self.first = nn.Linear(160, 8)
        self.later = nn.ModuleList([nn.Linear(168, 8) for _ in range(5)])
        self.last = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.max_pool2d(self.conv1(x), 2))
        x = torch.relu(torch.max_pool2d(self.drop(self.conv2(x)), 2)).flatten(1)
        halves = x[:, :160], x[:, 160:]
        hidden = [torch.relu(self.first(halves[0]))]
        for index, layer in enumerate(self.later, start=1):
            hidden.append(torch.relu(layer(torch.cat([halves[index % 2], hidden[-1]], dim=1))))
        return self.last(torch.cat(hidden, dim=1))


def bench_epoch(*, batch_size: int = 64, count: int = 1280, seconds: float = 12.0) -> list[Row]:
    """Training images per second of the small CNN: the classic script's loop against `fit`.

    Same network, batch size, optimiser (SGD with momentum) and augmentation. Ours is one whole
    epoch of `fit` with its metrics, less the validation that the classic loop does not do.
    """
    images, targets, source = _images(count)
    rows = []
    for augment in ("none", "perspective+rotation:10"):
        loader = _classic_loader(images, targets, augment, batch_size)
        network = _LonghandSpinalCNN()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.5)

        def classic(
            loader: Any = loader, network: nn.Module = network, optimizer: Any = optimizer
        ) -> None:
            network.train()
            for x, y in loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(network(x), y)
                loss.backward()
                optimizer.step()
                loss.item()  # the scripts log it

        model = create_model("mnist-cnn", 10, head="spinal")
        config = TrainConfig(
            epochs=1,
            batch_size=batch_size,
            optimizer="sgd",
            lr=0.01,
            momentum=0.5,
            schedule="constant",
            augment=augment,
            channels_last=True,
            device="cpu",
        )
        one = source.subset(torch.arange(2))

        def ours(
            model: nn.Module = model, config: TrainConfig = config, one: ArrayDataset = one
        ) -> None:
            fitting.fit(model, source, one, config)

        timings = timing.interleave({"ours": ours, "classic script": classic}, seconds=seconds)
        rows.append(_row(f"mnist-cnn, {augment}", "classic script", "images/s", count, timings))
    return rows


# Heads ---------------------------------------------------------------------------------------


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
            self.in_features,
            self.hidden_features,
            self.num_layers,
            out_features=self.out_features,
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
class HeadRow:
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


class _LonghandHead(nn.Module):
    """The same head as its paper's authors write it: slice, concatenate, linear, relu."""

    def __init__(self, net: SpinalNet) -> None:
        super().__init__()
        self.layers = nn.ModuleList(list(net.spine.layers))
        self.output = net.output
        self.first_half = net.in_features // 2

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            part = x[:, : self.first_half] if index % 2 == 0 else x[:, self.first_half :]
            outputs.append(
                torch.relu(layer(torch.cat([part, outputs[-1]], dim=1) if outputs else part))
            )
        return self.output(torch.cat(outputs, dim=1))


def _on_backend(net: nn.Module, backend: str) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with backends.use_backend(backend):
            return net(x)

    return run


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
            pairs = [(actual, expected), *zip(found, exact, strict=True)]
            for ours, theirs in pairs:
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
) -> list[HeadRow]:
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
    rows: list[HeadRow] = []
    for case, batch, training in itertools.product(cases, batches, (False, True)):
        net = case.spinal()
        naive = _LonghandHead(net)
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "spinal": net,
            "flat": copy.deepcopy(net).flatten_parameters(),
            "naive": naive,
            "packed": _on_backend(net, "packed"),
            "mlp": case.fully_connected(),
            "linear": nn.Linear(case.in_features, case.out_features),
        }
        if batch in compile_batches:
            torch.compiler.reset()
            ways["compiled"] = torch.compile(naive, dynamic=False)
        x = torch.randn(batch, case.in_features, requires_grad=training)
        timed = {name: _timed(way, x, training) for name, way in ways.items()}
        if training:
            logits = torch.randn(batch, case.out_features)
            timed["floor"] = _timed(nn.Identity(), logits, training)
        with torch.set_grad_enabled(training):
            timings = timing.interleave(timed, seconds=seconds, min_rounds=min_rounds)
        floor = timings.pop("floor").minimum if training else 0.0
        spinal, mlp = timings["spinal"].minimum - floor, timings["mlp"].minimum - floor
        macs, mlp_macs = case.macs()
        passes = 3 if training else 1
        choice = net.spine.backend_choice(x)
        rows.append(
            HeadRow(
                head=case.name,
                batch=batch,
                mode="training" if training else "inference",
                backend=choice.name,
                reason=choice.reason,
                mac_ratio=macs / mlp_macs,
                macs=macs,
                microseconds={n: 1e6 * (t.minimum - floor) for n, t in timings.items()},
                medians={n: 1e6 * (t.median - floor) for n, t in timings.items()},
                quartiles={
                    n: (1e6 * (t.quartiles[0] - floor), 1e6 * (t.quartiles[1] - floor))
                    for n, t in timings.items()
                },
                floor=1e6 * floor,
                over_mlp=spinal / mlp,
                flat_over_mlp=(timings["flat"].minimum - floor) / mlp,
                peak_fraction=2e-9 * macs * batch * passes / spinal / peak,
                rounds=timings["spinal"].rounds,
            )
        )
    return rows


class LonghandHead(nn.Module):
    """The parameters of a spinal head with dropout and batch norm as the paper's authors write it.

    Args:
        net: Whose linear maps are used.
        dropout: Probability of dropping an input of any linear map.
        norm: Whether batch norm precedes every activation.
    """

    def __init__(self, net: SpinalNet, dropout: float, norm: bool) -> None:
        super().__init__()
        self.layers, self.output = net.spine.layers, net.output
        width = net.spine.hidden_features
        self.norms = nn.ModuleList(
            [nn.BatchNorm1d(width) if norm else nn.Identity() for _ in self.layers]
        )
        self.drop = nn.Dropout(dropout)
        self.first_half = net.in_features // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map features `(B, in_features)` to logits `(B, out_features)`."""
        halves, hidden = (x[:, : self.first_half], x[:, self.first_half :]), []
        for index, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            part = halves[index % 2]
            seen = self.drop(torch.cat([part, hidden[-1]], dim=1) if hidden else part)
            hidden.append(torch.relu(norm(layer(seen))))
        return self.output(self.drop(torch.cat(hidden, dim=1)))


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
        x, widths = torch.randn(batch, case.in_features, requires_grad=True), case.mlp
        sizes = case.in_features, case.out_features
        variants = {"": (0.0, False), ", dropout": (0.5, False)}
        if batch > 1:
            variants |= {", batch norm": (0.0, True), ", both": (0.5, True)}
        for variant, (dropout, norm) in variants.items():
            options: dict[str, Any] = {"dropout": dropout, "norm": "batch" if norm else None}
            net = SpinalNet(*sizes, case.hidden_features, case.num_layers, **options)
            longhand = LonghandHead(net, dropout, norm)
            ways: dict[str, tuple[Callable[[Tensor], Tensor], nn.Module]] = {}
            for name, module in {
                "ours": net,
                "ours, one parameter": copy.deepcopy(net).flatten_parameters(),
                "longhand": copy.deepcopy(longhand),
                "MLP": MLPHead(*sizes, widths, **options),
            }.items():
                ways[name] = module, module
            grouped = copy.deepcopy(net)
            ways["packed"] = _on_backend(grouped, "packed"), grouped
            steps = {name: _step(way, module, x) for name, (way, module) in ways.items()}
            timings = timing.interleave(steps, seconds=seconds, min_rounds=15)
            name = f"{case.name}, batch {batch}{variant}"
            # A step is so short that one interruption multiplies it: shortest rounds.
            timings = {way: replace(t, median=t.minimum) for way, t in timings.items()}
            rows += [
                _row(name, baseline, "steps/s", 1, timings)
                for baseline in ("longhand", "packed", "MLP")
            ]
            timings["ours"] = timings["ours, one parameter"]
            rows.append(_row(f"{name}, one parameter", "MLP", "steps/s", 1, timings))
    return rows


def _step(way: Callable[[Tensor], Tensor], module: nn.Module, x: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        x.grad = None
        optimizer.zero_grad()
        way(x).square().mean().backward()
        optimizer.step()

    return step


def _timed(way: Callable[[Tensor], Tensor], x: Tensor, training: bool) -> Callable[[], object]:
    if not training:
        return lambda: way(x)
    module = way if isinstance(way, nn.Module) else None
    leaves = [x, *(module.parameters() if module is not None else ())]
    x.requires_grad_()

    def step() -> object:
        for leaf in leaves:
            leaf.grad = None
        return way(x).square().mean().backward()

    return step


def heads_table(rows: Sequence[HeadRow]) -> str:
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


# Exported models -----------------------------------------------------------------------------


def _exported(model: nn.Module, shape: tuple[int, ...]) -> Callable[[Tensor], object]:
    """Return what runs an exported model in ONNX Runtime, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        # Compares its answers with torch's and refuses wrong ones.
        exported = export.export_onnx(model, Path(folder) / "model.onnx", input_shape=shape)
        session = onnxruntime.InferenceSession(
            exported.path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    return lambda inputs: session.run(None, {"inputs": inputs.numpy()})


def bench_export(batches: Sequence[int] = (1, 64), *, seconds: float = 10.0) -> list[Row]:
    """Time ONNX Runtime against torch: the MNIST CNN and its head alone, spinal and MLP.

    "torch" is the plainest module, "torch, ours" the one of this package with its kernels.

    Raises:
        SpinalnetError: If an exported model answers differently (checked first).
    """
    spinal = create_model("mnist-cnn", 10, head="spinal").eval()
    mlp = create_model("mnist-cnn", 10, head="mlp").eval()
    case = HEAD_CASES[0]
    head = case.spinal().eval()
    # name, shape of a sample, ours, the plainest
    models: list[tuple[str, tuple[int, ...], nn.Module, nn.Module]] = [
        ("mnist-cnn, spinal", (1, 28, 28), spinal, _LonghandSpinalCNN().eval()),
        ("mnist-cnn, mlp", (1, 28, 28), mlp, nn.Sequential(mlp.trunk, case.fully_connected())),
        ("head alone, spinal", (case.in_features,), head, _LonghandHead(head)),
        ("head alone, mlp", (case.in_features,), mlp.head, case.fully_connected()),
    ]
    rows: list[Row] = []
    for (name, shape, ours, plain), batch in itertools.product(models, batches):
        inputs = torch.rand(batch, *shape)
        session = _exported(ours, shape)
        ways = {"ours": session, "torch": plain.eval(), "torch, ours": ours}
        timed = {way: functools.partial(run, inputs) for way, run in ways.items()}
        with torch.no_grad():
            timings = timing.interleave(timed, seconds=seconds)
        rows += [
            _row(f"{name}, batch {batch}", baseline, "rows/s", batch, timings, shortest=True)
            for baseline in ("torch", "torch, ours")
        ]
    return rows


# The benchmarks by name ----------------------------------------------------------------------


def _rows_table(rows: Sequence[Row]) -> str:
    lines = ["| case | against | ours | theirs | ratio (quartiles) |", "|---|---|--:|--:|--:|"]
    for row in rows:
        low, high = row.ratio_quartiles
        lines.append(
            f"| {row.case} | {row.baseline} | {row.ours:,.0f} {row.unit} "
            f"| {row.theirs:,.0f} {row.unit} | {row.ratio:.1f}x ({low:.1f} to {high:.1f}) |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Benchmark:
    """One row of `BENCHMARKS`: what is measured how, and how its rows are shown (Markdown)."""

    protocol: str
    run: Callable[[], list[Any]]
    show: Callable[[list[Any]], str]


BENCHMARKS: dict[str, Benchmark] = {
    "augment": Benchmark(
        "28 x 28 images, batch 64; both sides in turns; medians, quartiles of the ratio",
        bench_augment,
        _rows_table,
    ),
    "epoch": Benchmark(
        "one training epoch of the spinal MNIST CNN, batch 64; both sides in turns",
        bench_epoch,
        _rows_table,
    ),
    "heads": Benchmark(
        "all ways in turns within a row, shortest round in microseconds per batch; training is "
        "forward, square().mean() and backward with a gradient for x too, the loss alone taken "
        "off; parity with the float64 reference checked first",
        functools.partial(bench_heads, seconds=0.6),
        heads_table,
    ),
    "export": Benchmark(
        "ONNX Runtime (ours) and torch in turns within a row, inference; the exported model's "
        "answers compared with torch's first; shortest round of about a millisecond, quartiles of "
        "the ratio over all rounds",
        bench_export,
        _rows_table,
    ),
    "steps": Benchmark(
        "whole training steps of heads: zero_grad, forward, square().mean(), backward with a "
        "gradient for x too, fused Adam; all ways in turns; shortest rounds, quartiles of ratios",
        bench_steps,
        _rows_table,
    ),
}

"""Do gradients vanish? The claim, by depth, activation and wiring, at the start and after training.

    OMP_NUM_THREADS=1 python studies/gradients.py           # resumes; finished cells are skipped
    python studies/gradients.py --draw                      # answers and figure of what is there

The claim, of the paper's abstract and section II: every hidden layer of a spinal net feeds the
output row directly, so "the vanishing gradient problem does not exist".

**Design**, written before anything was measured on test examples, but for one cell of the same
design (spinal, depth 2, relu: 0.9752) of a start that was broken off before the commit:

* Data: scikit-learn's digits (64 inputs in 2 slices, 10 classes; the package's split by seed 0:
  1,222 for training, 216 for validation, 359 for testing), centred and scaled by the training part.
* Nets, width 16 throughout, with the initial weights of `nn.Linear` except for the last:
  `spinal` (chain and direct outputs), `unchained` (direct outputs, no chain), `last` (chain, but
  only the last layer feeds the output row), `mlp` (a plain one: the first layer sees the whole
  input), `mlp-scaled` (the same with He's initial weights and no biases; for tanh and sigmoid with
  the gains of torch.nn.init.calculate_gain). Neither chain nor direct outputs would be a net of one
  slice in which all layers but the last have no gradient by construction; it is left out.
* Depths 2, 4, 10, 20, 50 and 100; relu, tanh, sigmoid.
* Training: 400 steps of Adam (0.9, 0.999, 1e-8) on batches of 64, constant rate, no weight decay,
  no selection of an epoch: what stands at the end counts. The rate is chosen for every (net, depth,
  activation) of 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1 by the mean validation accuracy of two runs
  (seeds 100 and 101). Then ten runs with seeds 0 to 9, scored once on the test part. A seed draws
  initial weights and the order of the examples; the order is the same for all nets. Training is in
  float32, what is measured of gradients in float64.
* Gradients: of the mean cross-entropy over the training part by weights and bias of each hidden
  layer, their norm divided by the largest of all layers.
* The price, of nets with a chain and direct outputs: `reach`, the number of links of the chain that
  must be kept until the logits differ by less than 1 % of their variance from those of the whole
  chain (a net of reach k is a sum of nets of k + 1 layers); `through_chain`, the part of their
  variance that is lost when the chain is cut everywhere; `last_half`, the share of the last half of
  the layers in it; `far`, which part of the gradient of the first layer comes from outputs of the
  last half of the layers, through at least half of the chain (norm, of the whole).

**Confirmatory questions**; everything else is exploratory and gets no verdict:

1. In spinal nets of 100 layers at the start, is every layer's gradient at least a tenth of the
   largest, for each activation and every seed?
2. With relu, test accuracy at depth 50, spinal minus `last`, minus `unchained`, minus `mlp`, minus
   `mlp-scaled`, and spinal at depth 50 minus spinal at depth 4: crossed over seeds and test
   examples (`comparison.inference`), margin 1 point, Holm over the five.
"""

from __future__ import annotations

import copy
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
from common import Record, Row
from torch import Tensor
from torch.nn import functional as F

from spinalnet import files
from spinalnet.data import load_dataset
from spinalnet.data.batches import ArrayDataset

NETS = ("spinal", "unchained", "last", "mlp", "mlp-scaled")
DEPTHS = (2, 4, 10, 20, 50, 100)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
# Of torch.nn.init.calculate_gain.
GAINS = {"relu": math.sqrt(2), "tanh": 5 / 3, "sigmoid": 1.0}
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
TUNING_SEEDS, SEEDS = (100, 101), tuple(range(10))
WIDTH, SLICES, STEPS, BATCH = 16, 2, 400, 64
PAIRS = (
    (("spinal", 50), ("last", 50)),
    (("spinal", 50), ("unchained", 50)),
    (("spinal", 50), ("mlp", 50)),
    (("spinal", 50), ("mlp-scaled", 50)),
    (("spinal", 50), ("spinal", 4)),
)
MARGIN, SMALLEST = 0.01, 0.1


@dataclass(frozen=True)
class Data:
    """Inputs `(N, D)` and targets `(N,)` of the three parts."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    def double(self) -> Data:
        """Return the same in float64."""
        train, val, test = ((x.double(), y) for x, y in (self.train, self.val, self.test))
        return Data(train, val, test, self.classes)


def load() -> Data:
    """Return the digits, centred by feature and scaled by one number."""
    splits = load_dataset("digits")
    parts = []
    for part in (splits.train, splits.val, splits.test):
        assert isinstance(part, ArrayDataset)
        parts.append((part.inputs.reshape(len(part), -1).float(), part.targets))
    middle, spread = parts[0][0].mean(0), parts[0][0].std()
    train, val, test = [((x - middle) / spread, y) for x, y in parts]
    return Data(train, val, test, 10)


class Nets:
    """M nets of one shape, computed together: layer by layer.

    Hidden layer `l` is `phi(inner[l] s + chain[l] h_(l-1) + bias[l])` with its slice `s`, or
    nothing in its place; `tests/test_studies.py` holds each kind to the module of the package.

    Args:
        kind: One of `NETS`.
        depth: Number of hidden layers.
        activation: One of `ACTIVATIONS`.
        features: Number of inputs, a multiple of `SLICES`.
        classes: Number of outputs.
        seeds: One per net.
    """

    def __init__(
        self,
        kind: str,
        depth: int,
        activation: str,
        features: int,
        classes: int,
        seeds: tuple[int, ...],
    ) -> None:
        self.kind, self.depth, self.classes = kind, depth, classes
        self.phi, self.activation = ACTIVATIONS[activation], activation
        self.plain = kind.startswith("mlp")
        self.chained, self.direct = kind != "unchained", kind in ("spinal", "unchained")
        self.seen = features if self.plain else features // SLICES
        made = [self._draw(torch.Generator().manual_seed(seed)) for seed in seeds]
        self.parameters = {
            name: torch.stack([one[name] for one in made], dim=1).requires_grad_()
            for name in made[0]
        }

    def _draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the initial weights of one net."""

        def uniform(fan_in: int, *shape: int) -> Tensor:
            return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)

        gain = GAINS[self.activation]

        def drawn(fan_in: int, *shape: int) -> Tensor:
            if self.kind != "mlp-scaled":
                return uniform(fan_in, *shape)
            return torch.randn(shape, generator=generator) * gain / math.sqrt(fan_in)

        rows = 1 if self.plain else self.depth
        behind = WIDTH if self.chained else 0
        inner, chain, bias = [], [], []
        for layer in range(self.depth):
            own = self.seen if layer < rows else 0
            fan_in = own + (behind if layer else 0)
            if own:
                inner.append(drawn(fan_in, WIDTH, own))
            if layer and behind:
                chain.append(drawn(fan_in, WIDTH, WIDTH))
            bias.append(uniform(fan_in, 1, WIDTH) * (self.kind != "mlp-scaled"))
        width = WIDTH * (self.depth if self.direct else 1)
        found = {"inner": torch.stack(inner), "bias": torch.stack(bias)}
        if chain:
            found["chain"] = torch.stack(chain)
        found["row"] = uniform(width, self.classes, width)[None]
        found["shift"] = uniform(width, 1, self.classes)[None]
        return found

    def double(self) -> Nets:
        """Return the same nets in float64."""
        twin = copy.copy(self)
        twin.parameters = {
            name: p.detach().double().requires_grad_() for name, p in self.parameters.items()
        }
        return twin

    def own_terms(self, x: Tensor) -> list[Tensor]:
        """Return what each layer has without the chain, `(M, N, H)` each, for x `(M or 1, N, D)`.

        Layers of the same slice are one product.
        """
        inner, biases = self.parameters["inner"], self.parameters["bias"]
        slices = [x] if self.plain else list(x.split(self.seen, dim=-1))
        terms = list(biases.unbind(0))  # of layers that see no input
        for index, part in enumerate(slices):
            rows = slice(index, len(inner), len(slices))
            if len(inner[rows]) == 0:
                continue
            wide = inner[rows].transpose(0, 1).flatten(1, 2)  # (M, L / S * H, D / S)
            bias = biases[rows].permute(1, 2, 0, 3).flatten(2)
            made = torch.baddbmm(bias, part.expand(len(wide), -1, -1), wide.mT)
            terms[rows] = made.split(WIDTH, dim=-1)
        return terms

    def hidden(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of all layers, `(M, N, H)` each."""
        values: list[Tensor] = []
        chain = self.parameters["chain"].unbind(0) if "chain" in self.parameters else ()
        for layer, term in enumerate(self.own_terms(x)):
            if layer and chain:
                term = torch.baddbmm(term, values[-1], chain[layer - 1].mT)
            values.append(self.phi(term))
        return values

    def logits(self, values: list[Tensor]) -> Tensor:
        """Return the logits `(M, N, K)` of the outputs of all layers."""
        seen = torch.cat(values, dim=-1) if self.direct else values[-1]
        return torch.baddbmm(self.parameters["shift"][0], seen, self.parameters["row"][0].mT)

    def __call__(self, x: Tensor) -> Tensor:
        """Map x `(M or 1, N, D)` to logits `(M, N, K)`."""
        return self.logits(self.hidden(x))


def adam(nets: Nets, data: Data, rates: Tensor, seeds: tuple[int, ...], steps: int) -> None:
    """Train every net with its rate `(M,)`, on its own order of the examples."""
    inputs, targets = data.train
    orders = [_order(seed, len(inputs)) for seed in seeds]
    names = list(nets.parameters)
    first = {name: torch.zeros_like(p) for name, p in nets.parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in nets.parameters.items()}
    for step in range(1, steps + 1):
        chosen = torch.stack([next(order) for order in orders])
        logits = nets(inputs[chosen])
        # A sum over the nets: none of them sees the loss of another.
        loss = F.cross_entropy(logits.flatten(0, 1), targets[chosen].flatten(), reduction="sum")
        grads = torch.autograd.grad(loss / BATCH, list(nets.parameters.values()))
        with torch.no_grad():
            for name, grad in zip(names, grads, strict=True):
                m, v = first[name], second[name]
                m.mul_(0.9).add_(grad, alpha=0.1)
                v.mul_(0.999).addcmul_(grad, grad, value=0.001)
                size = (v / (1 - 0.999**step)).sqrt_().add_(1e-8)
                rate = rates.view(1, -1, *[1] * (grad.ndim - 2)) / (1 - 0.9**step)
                nets.parameters[name] -= rate * m / size


def _order(seed: int, examples: int) -> Iterator[Tensor]:
    """Yield batches of an epoch after the other."""
    generator = torch.Generator().manual_seed(1000 + seed)
    while True:
        order = torch.randperm(examples, generator=generator)
        yield from order[: examples // BATCH * BATCH].split(BATCH)


def correct(nets: Nets, part: tuple[Tensor, Tensor]) -> Tensor:
    """Return whether each net is right, `(M, N)`; never where its logits are no numbers."""
    with torch.no_grad():
        logits = nets(part[0][None])
    return (logits.argmax(-1) == part[1]) & logits.isfinite().all(-1)


def layer_gradients(nets: Nets, data: Data, far_only: bool = False) -> Tensor:
    """Return the norm of the gradient of the loss by each hidden layer, `(L, M)`.

    Args:
        nets: Nets to look at.
        data: The loss is that of its training part.
        far_only: Only what comes by the outputs of the last half of the layers.
    """
    inputs, targets = data.train
    values = nets.hidden(inputs[None])
    logits = nets.logits(values)
    slope = logits.detach().softmax(-1)
    slope = (slope - F.one_hot(targets, nets.classes)) / len(targets)
    if far_only:
        half = nets.depth // 2
        logits = nets.logits([v.detach() for v in values[:half]] + values[half:])
    names = [name for name in ("inner", "chain", "bias") if name in nets.parameters]
    found = torch.autograd.grad((logits * slope).sum(), [nets.parameters[n] for n in names])
    squares = torch.zeros(nets.depth, logits.shape[0], dtype=torch.float64)
    for name, grad in zip(names, found, strict=True):
        own = grad.double().square().flatten(2).sum(2)
        start = 1 if name == "chain" else 0
        squares[start : start + len(own)] += own
    return squares.sqrt()


@torch.no_grad()
def price(nets: Nets, data: Data) -> dict[str, list[float | None]]:
    """Return what depth the function really has; see the head of the file. By net."""
    x = data.train[0][None]
    values = nets.hidden(x)
    whole = _centred(nets.logits(values))
    spread = whole.square().sum((1, 2))
    terms = nets.own_terms(x)
    chain = nets.parameters["chain"]
    kept = [nets.phi(term) for term in terms]  # no link of the chain
    lost = []
    for _ in range(nets.depth):
        lost.append((_centred(nets.logits(kept)) - whole).square().sum((1, 2)) / spread)
        if bool((lost[-1] < 0.01).all()):
            break
        links = zip(terms[1:], kept, chain, strict=False)
        kept = [kept[0], *(nets.phi(torch.baddbmm(own, h, b.mT)) for own, h, b in links)]
    table = torch.stack(lost)  # (links, M)
    half = nets.depth // 2
    late = _centred(nets.logits([torch.zeros_like(v) for v in values[:half]] + values[half:]))
    return {
        "reach": [float(n) for n in (table >= 0.01).sum(0)],
        "through_chain": _short(table[0]),
        "last_half": _short((late * whole).sum((1, 2)) / spread),
    }


def _centred(logits: Tensor) -> Tensor:
    """Take from logits `(M, N, K)` what softmax does not see, and their mean over the examples."""
    logits = logits - logits.mean(-1, keepdim=True)
    return logits - logits.mean(1, keepdim=True)


def _short(values: Tensor) -> list[float | None]:
    """Return three digits of each; None for what is no number."""
    return [float(f"{v:.3g}") if math.isfinite(v) else None for v in values.tolist()]


def look(nets: Nets, data: Data) -> dict[str, Any]:
    """Return what is told of gradients (and of the price) of some nets, computed in float64."""
    nets, data = nets.double(), data.double()
    norms = layer_gradients(nets, data)
    ratios = norms / norms.amax(0)
    places = sorted({round(i * (nets.depth - 1) / 24) for i in range(25)})
    found: dict[str, Any] = {
        "smallest": _short(ratios.amin(0)),
        "first": _short(ratios[0]),
        "layers": [place + 1 for place in places],
        "profile": _short(ratios.median(1).values[places]),
    }
    if nets.kind == "spinal":
        far = layer_gradients(nets, data, far_only=True)[0] / norms[0]
        found |= price(nets, data) | {"far": _short(far)}
    return found


def made(kind: str, depth: int, activation: str, data: Data, seeds: tuple[int, ...]) -> Nets:
    """Return fresh nets for the inputs and classes of some data."""
    return Nets(kind, depth, activation, data.train[0].shape[1], data.classes, seeds)


def start(kind: str, depth: int, activation: str, data: Data) -> dict[str, Any]:
    """Look at nets before training: one row of the results."""
    name = {"net": kind, "depth": depth, "activation": activation}
    return name | look(made(kind, depth, activation, data, SEEDS), data)


def cell(kind: str, depth: int, activation: str, data: Data, steps: int = STEPS) -> dict[str, Any]:
    """Choose the rate, train with the seeds, and measure: one row of the results."""
    began = time.perf_counter()
    seeds = tuple(seed for _ in RATES for seed in TUNING_SEEDS)
    tried = made(kind, depth, activation, data, seeds)
    rates = torch.tensor(RATES).repeat_interleave(len(TUNING_SEEDS))
    adam(tried, data, rates, seeds, steps)
    by_rate = correct(tried, data.val).double().mean(1).view(len(RATES), -1).mean(1)
    rate = RATES[int(by_rate.argmax())]  # of equal ones the smallest

    nets = made(kind, depth, activation, data, SEEDS)
    adam(nets, data, torch.full((len(SEEDS),), rate), SEEDS, steps)
    right = correct(nets, data.test)
    return {
        "net": kind,
        "depth": depth,
        "activation": activation,
        "rate": rate,
        "tuning": {f"{r:g}": round(float(a), 4) for r, a in zip(RATES, by_rate, strict=True)},
        "train": [round(v, 4) for v in correct(nets, data.train).double().mean(1).tolist()],
        "test": [round(v, 4) for v in right.double().mean(1).tolist()],
        "right": [f"{int(''.join(map(str, row.int().tolist())), 2):x}" for row in right],
        "trained": look(nets, data),
        "seconds": round(time.perf_counter() - began, 1),
    }


def unpacked(right: list[str], examples: int) -> Tensor:
    """Return what `cell` wrote as "right": whether each net is right, `(M, N)`."""
    bits = [f"{int(row, 16):0{examples}b}" for row in right]
    return torch.tensor([[int(bit) for bit in row] for row in bits], dtype=torch.float64)


Key = tuple[str, int, str]
KEY = ("net", "depth", "activation")


def answers(record: Record) -> dict[str, Any]:
    """Return the answers to the confirmatory questions; nothing while a cell is missing."""
    from spinalnet.comparison import inference

    starts, by = (common.keyed(record[name], KEY) for name in STUDY.rows)
    of_starts = {("spinal", DEPTHS[-1], act) for act in ACTIVATIONS}
    if not {(*key, "relu") for pair in PAIRS for key in pair} <= by.keys():
        return {}
    if not of_starts <= starts.keys():
        return {}
    smallest = {key[2]: min(starts[key]["smallest"]) for key in sorted(of_starts)}
    estimates = []
    for one, other in PAIRS:
        first, second = (
            unpacked(by[*key, "relu"]["right"], record["test_examples"]) for key in (one, other)
        )
        estimates.append(inference.crossed((first - second).numpy(), MARGIN))
    asked: list[Row] = [{"first": list(one), "second": list(other)} for one, other in PAIRS]
    return {"smallest_at_start": smallest, "pairs": common.judged(asked, estimates)}


def draw(record: Record, path: Path) -> None:
    """Draw gradients by layer at the start, and test accuracy by depth."""
    from matplotlib.figure import Figure

    starts, by = (common.keyed(record[name], KEY) for name in STUDY.rows)
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, len(ACTIVATIONS), sharey="row")
    for column, act in enumerate(ACTIVATIONS):
        above, below = panels[0][column], panels[1][column]
        for index, net in enumerate(NETS):
            colour = f"C{index}"
            if (found := starts.get((net, 50, act))) is not None:
                style = "--" if net == "unchained" else "-"  # it lies on another
                above.plot(found["layers"], found["profile"], style, color=colour, label=net)
            cells = [by[net, d, act] for d in DEPTHS if (net, d, act) in by]
            depths = [c["depth"] for c in cells]
            below.plot(depths, [statistics.fmean(c["test"]) for c in cells], "o-", color=colour)
            low, high = [min(c["test"]) for c in cells], [max(c["test"]) for c in cells]
            below.fill_between(depths, low, high, color=colour, alpha=0.12)
        above.set_title(act, fontsize=10)
        above.set_yscale("log")
        above.set_ylim(1e-20, 10)
        above.set_xlabel("layer of 50")
        below.set_xscale("log")
        below.set_xticks(DEPTHS, [str(d) for d in DEPTHS])
        below.minorticks_off()
        below.set_xlabel("hidden layers")
        for axes in (above, below):
            common.plain(axes, grid="both")
    panels[0][0].set_ylabel("gradient norm / largest, at the start")
    panels[1][0].set_ylabel("test accuracy (mean; band: all seeds)")
    panels[0][0].legend(fontsize=8)
    files.write_figure(path, figure)


def design() -> Record:
    """Return what must not change while cells are added to a file."""
    return {
        "data": "digits",
        "nets": list(NETS),
        "depths": list(DEPTHS),
        "activations": list(ACTIVATIONS),
        "rates": list(RATES),
        "tuning_seeds": list(TUNING_SEEDS),
        "seeds": list(SEEDS),
        "width": WIDTH,
        "slices": SLICES,
        "steps": STEPS,
        "batch": BATCH,
        "margin": MARGIN,
    }


def order() -> list[Key]:
    """Return all cells: first what the questions need, then the cheap ones, the deepest last."""
    keys = [(net, depth, act) for depth in DEPTHS for act in ACTIVATIONS for net in NETS]
    asked = {(*key, "relu") for pair in PAIRS for key in pair}
    return sorted(
        keys, key=lambda key: (key not in asked, key[1] > 50, key[1] * (key[2] != "relu"))
    )


def _start(key: Key, data: Data) -> Row:
    return start(*key, data)


def _cell(key: Key, data: Data) -> Row:
    return cell(*key, data)


def _complete(record: Record, run: common.Run) -> None:
    torch.set_flush_denormal(True)  # vanishing gradients end there, and take twice the time
    try:
        data = load()
        record["test_examples"] = len(data.test[1])
        for name, compute in (("starts", _start), ("cells", _cell)):
            own = functools.partial(compute, data=data)
            common.complete(record, run, KEY, order(), own, STUDY.rows, name)
    finally:
        torch.set_flush_denormal(False)  # of whoever else is in this process


STUDY = common.Study(
    "gradients", __doc__ or "", design, _complete, answers, draw, rows=("starts", "cells")
)

if __name__ == "__main__":
    sys.exit(STUDY.main())

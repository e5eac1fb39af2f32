"""The studies measure what they say: their nets are the package's, their numbers can be redone."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from spinalnet.nn import MLPHead, SpinalNet, UnchainedNet

ROOT = Path(__file__).parents[1]
gradients = SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / "gradients.py")))


def small_data(features: int = 8, examples: int = 200) -> Any:
    x, y = torch.randn(examples, features), torch.randint(0, 3, (examples,))
    return gradients.Data((x, y), (x, y), (x, y), 3)


def module_of(nets: Any, model: int) -> nn.Module:
    """The package's module with the weights of one of the nets."""
    own = {name: p.detach()[:, model] for name, p in nets.parameters.items()}
    depth, width = nets.depth, gradients.WIDTH
    if nets.plain:
        net = MLPHead(nets.seen, 3, [width] * depth, activation=nets.activation)
        linears = [block[0] for block in net.layers]
        weights = [own["inner"][0], *own.get("chain", [])]
    elif nets.chained:
        net = SpinalNet(2 * nets.seen, 3, width, depth, activation=nets.activation)
        linears = list(net.spine.layers)
        behind = [None, *own["chain"]]
        weights = [
            inner if chain is None else torch.cat([inner, chain], 1)
            for inner, chain in zip(own["inner"], behind, strict=True)
        ]
    else:
        net = UnchainedNet(2 * nets.seen, 3, width, depth, activation=nets.activation)
        linears = list(net.slices)
        weights = [torch.cat(list(own["inner"][i::2])) for i in range(2)]
        own["bias"] = torch.stack([own["bias"][i::2].flatten() for i in range(2)])
    with torch.no_grad():
        for linear, weight, bias in zip(linears, weights, own["bias"], strict=True):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias.flatten())
        row = own["row"][0]
        if nets.chained and not nets.plain and not nets.direct:
            row = torch.cat([torch.zeros(3, width * (depth - 1)), row], 1)
        net.output.weight.copy_(row)
        net.output.bias.copy_(own["shift"][0, 0])
    return net


@pytest.mark.parametrize("kind", gradients.NETS)
@pytest.mark.parametrize("activation", gradients.ACTIVATIONS)
def test_the_nets_of_the_study_are_those_of_the_package(kind: str, activation: str) -> None:
    data = small_data()
    nets = gradients.Nets(kind, 4, activation, 8, 3, (3, 4))
    x, y = data.train
    norms = gradients.layer_gradients(nets, data)
    assert norms.shape == (4, 2)
    for model in range(2):
        net = module_of(nets, model)
        torch.testing.assert_close(nets(x[None])[model], net(x))
        nn.functional.cross_entropy(net(x), y).backward()
        if type(net) is UnchainedNet:
            squares = [
                (linear.weight.grad.square().sum(1) + linear.bias.grad.square()).split(16)
                for linear in net.slices.children()
            ]
            found = [float(squares[i % 2][i // 2].sum().sqrt()) for i in range(4)]
        else:
            spine = net.layers if nets.plain else net.spine.layers
            maps = [block[0] if nets.plain else block for block in spine.children()]
            found = [
                math.hypot(float(m.weight.grad.norm()), float(m.bias.grad.norm())) for m in maps
            ]
        expected = torch.tensor(found, dtype=torch.float64)
        torch.testing.assert_close(norms[:, model], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["spinal", "unchained", "mlp"])
def test_initial_weights_are_spread_as_those_of_the_package(kind: str) -> None:
    nets = gradients.Nets(kind, 3, "relu", 64, 10, tuple(range(40)))
    torch.manual_seed(0)
    package = {
        "spinal": lambda: SpinalNet(64, 10, 16, 3).spine.layers,
        "unchained": lambda: [SpinalNet(64, 10, 16, 3).spine.layers[0]] * 3,
        "mlp": lambda: [block[0] for block in MLPHead(64, 10, [16] * 3).layers],
    }[kind]()
    for layer, linear in enumerate(package):
        largest = float(linear.weight.detach().abs().max())
        parts = [nets.parameters["bias"][layer]]
        if layer < len(nets.parameters["inner"]):
            parts.append(nets.parameters["inner"][layer])
        if layer and "chain" in nets.parameters:
            parts.append(nets.parameters["chain"][layer - 1])
        for part in parts:
            assert float(part.detach().abs().max()) == pytest.approx(largest, rel=0.05)


def test_adam_is_torchs_with_a_rate_for_each_net() -> None:
    data = small_data()
    seeds, rates = (0, 1), (1e-3, 1e-2)
    nets = gradients.Nets("spinal", 3, "tanh", 8, 3, seeds)
    twins = [module_of(nets, model) for model in range(2)]
    gradients.adam(nets, data, torch.tensor(rates), seeds, 5)
    for model, (twin, rate) in enumerate(zip(twins, rates, strict=True)):
        optimizer = torch.optim.Adam(twin.parameters(), lr=rate)
        order = gradients._order(seeds[model], 200)
        for _ in range(5):
            chosen = next(order)
            loss = nn.functional.cross_entropy(twin(data.train[0][chosen]), data.train[1][chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        x = data.train[0]
        torch.testing.assert_close(nets(x[None])[model], twin(x), rtol=1e-3, atol=1e-5)


def test_reach_counts_the_links_that_matter() -> None:
    data = small_data().double()
    nets = gradients.Nets("spinal", 6, "tanh", 8, 3, (0,)).double()
    chain = nets.parameters["chain"].detach()
    chain.zero_()
    found = gradients.price(nets, data)
    assert found["reach"] == [0.0]
    assert found["through_chain"] == [0.0]
    chain[0] += torch.eye(16)  # one link, from layer 1 to 2
    assert gradients.price(nets, data)["reach"] == [1.0]
    chain += 2 * torch.eye(16)
    assert gradients.price(nets, data)["reach"][0] >= 3.0
    # All weight of the output row on the last half: nothing of the logits comes from elsewhere.
    nets.parameters["row"].detach()[..., : 3 * 16] = 0
    assert gradients.price(nets, data)["last_half"] == [1.0]
    far = gradients.layer_gradients(nets, data, far_only=True)
    torch.testing.assert_close(far, gradients.layer_gradients(nets, data))


def test_a_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int, str]] = []

    def cell(kind: str, depth: int, activation: str, data: object) -> dict:
        made.append((kind, depth, activation))
        if len(made) == 2:
            raise KeyboardInterrupt
        return gradients.cell(kind, depth, activation, data, 2)

    names = gradients._complete.__globals__
    data = small_data()
    run = gradients.common.Run(tmp_path, tmp_path / "out.json")
    monkeypatch.setitem(names, "cell", cell)
    monkeypatch.setitem(names, "load", lambda: data)
    monkeypatch.setitem(names, "DEPTHS", (2,))
    with pytest.raises(KeyboardInterrupt):
        gradients._complete({"starts": [], "cells": [], "environments": [{}]}, run)
    half = json.loads((tmp_path / "out.json").read_text())
    assert [(c["net"], c["depth"], c["activation"]) for c in half["cells"]] == made[:1]
    gradients._complete(half, run)
    whole = json.loads((tmp_path / "out.json").read_text())
    assert whole["cells"][0] == half["cells"][0]
    assert len(whole["cells"]) == 15
    assert made[1:3] == [made[1]] * 2  # what was interrupted is made anew, and nothing else
    assert len(set(made)) == len(made) - 1
    tiny = torch.tensor([2.0**-1073], dtype=torch.float64)
    assert (tiny / 2).item() > 0  # numbers as small as these are left to other tests


def test_right_answers_are_packed_and_unpacked() -> None:
    row = gradients.cell("unchained", 2, "relu", small_data(), 20)
    right = gradients.unpacked(row["right"], 200)
    assert right.mean(1).tolist() == pytest.approx(row["test"], abs=1e-4)


def test_the_answers_follow_from_the_cells(tmp_path: Path) -> None:
    examples, seeds = 300, 10

    def cell(net: str, depth: int, activation: str) -> dict:
        wrong = {"mlp": 120, "last": 60}.get(net, 30)
        right = (torch.arange(examples) >= wrong).int().expand(seeds, -1).clone()
        for seed in range(seeds):  # each seed errs once more, elsewhere
            right[seed, 150 + 7 * seed + depth % 5] = 0
        smallest = 0.05 if activation == "tanh" else 0.8
        look = {"smallest": [0.9, smallest], "layers": [1, depth], "profile": [1.0, smallest]}
        return {
            "net": net,
            "depth": depth,
            "activation": activation,
            "right": [f"{int(''.join(map(str, row.tolist())), 2):x}" for row in right],
            "test": right.double().mean(1).tolist(),
        } | look

    cells = [cell(n, d, a) for n in gradients.NETS for d in (4, 50, 100) for a in ("relu", "tanh")]
    record = {"cells": cells, "starts": cells, "test_examples": examples}
    assert gradients.answers(record) == {}  # nothing is known of sigmoid
    record["starts"] = [*cells, cell("spinal", 100, "sigmoid")]
    found = gradients.answers(record)
    assert found["smallest_at_start"] == {"relu": 0.8, "tanh": 0.05, "sigmoid": 0.8}
    verdicts = {pair["second"][0]: pair["verdict"] for pair in found["pairs"][:4]}
    assert verdicts == {
        "last": "better", "unchained": "undecided", "mlp": "better", "mlp-scaled": "undecided",
    }  # fmt: skip
    assert found["pairs"][2]["difference"] == pytest.approx(90 / examples)
    gradients.draw(record, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000

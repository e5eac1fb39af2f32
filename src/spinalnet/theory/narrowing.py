"""Narrower spinal nets: a trained dense head converted, pruned, fine-tuned, and compared.

A converted head (`conversion.to_spinal`) equals the dense one, so a trained model can change over
without losing a single prediction. From there `narrow` takes away neurons, and `shrink` measures
what that costs and whether the inherited function was worth more than a fresh start.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, check_positive
from spinalnet.data import ArrayDataset
from spinalnet.nn import SpinalNet, check_read, count_macs, gradients
from spinalnet.randomness import own_generators
from spinalnet.theory.conversion import bounds_of, to_spinal
from spinalnet.training import TrainConfig, evaluate, fit
from spinalnet.training.placement import BatchSource


@torch.no_grad()
def narrow(net: SpinalNet, hidden_features: int, inputs: Tensor) -> SpinalNet:
    """Return a copy of `net` that keeps the `hidden_features` most important neurons per layer.

    The importance of a neuron is how much the outputs change, to first order and in the mean over
    `inputs`, when it is replaced by its mean: `E |h - E h| * |dy/dh|`. The means of the neurons
    that go are added to the biases they fed, so a neuron that is constant on `inputs` (a padded
    one, say) costs nothing.

    Args:
        net: Without norms and shared weights.
        hidden_features: New width, at most the present one.
        inputs: Rows that importance is judged on. Shape `(N, D)`.

    Raises:
        InputError: If the net cannot be narrowed so.
    """
    spine = net.spine
    check_read(net)
    check_positive("hidden_features", hidden_features)
    if hidden_features > spine.hidden_features:
        raise InputError(
            f"hidden_features must be at most {spine.hidden_features}, got {hidden_features}."
        )
    if len(spine.norms) or len(set(spine.schedule)) < spine.num_layers:
        raise InputError("a net with norms or shared weights cannot be narrowed layer by layer.")
    mean, importance = _importance(net, inputs)
    kept = importance.argsort(dim=1, descending=True, stable=True)[:, :hidden_features]
    kept = kept.sort(dim=1).values
    small = _blank(net, hidden_features)
    weights, biases = spine.chain()
    linears = gradients.linears_of(small.spine)
    for layer in range(spine.num_layers):
        linear, weight = linears[layer], weights[layer]
        size = spine.input_parts[layer][0]
        bias = torch.zeros(len(weight)).to(weight) if biases is None else biases[layer]
        columns = torch.arange(size, device=weight.device)
        if layer:
            gone = _without(mean[layer - 1], kept[layer - 1])
            bias = bias + weight[:, size:] @ gone
            columns = torch.cat([columns, size + kept[layer - 1]])
        linear.weight.copy_(weight[kept[layer]][:, columns])
        linear.bias.copy_(bias[kept[layer]])
    anchor = net.output.weight
    offsets = torch.arange(spine.num_layers, device=anchor.device)[:, None] * spine.hidden_features
    gone = torch.cat([_without(m, k) for m, k in zip(mean, kept, strict=True)])
    small.output.weight.copy_(anchor[:, (kept + offsets).flatten()])
    small.output.bias.copy_(
        anchor @ gone if net.output.bias is None else net.output.bias + anchor @ gone
    )
    return small


def _importance(net: SpinalNet, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of every hidden neuron over `inputs` and its importance, `(L, H)` each."""
    spine = net.spine
    hidden = spine(inputs).unflatten(-1, (spine.num_layers, spine.hidden_features))  # (N, L, H)
    effect = torch.stack(gradients.hidden_influence(net, inputs), dim=1)  # (N, L, K, H)
    mean = hidden.mean(0)
    return mean, ((hidden - mean).abs() * effect.norm(dim=2)).mean(0)


def _blank(net: SpinalNet, hidden_features: int) -> SpinalNet:
    """Return a freshly initialised net of this width that is like `net` otherwise."""
    spine, anchor = net.spine, net.output.weight
    return SpinalNet(
        net.in_features,
        net.out_features,
        hidden_features,
        spine.num_layers,
        num_splits=spine.num_splits,
        activation=lambda: copy.deepcopy(spine.activation),
        dropout=spine.dropout,
        output_dropout=net.output_dropout.p,
        device=anchor.device,
        dtype=anchor.dtype,
    ).train(net.training)


def _without(values: Tensor, kept: Tensor) -> Tensor:
    """Return `values` with zeros where a neuron is kept."""
    return values.index_fill(0, kept, 0.0)


@dataclass(frozen=True)
class ShrunkHead:
    """Test accuracies of a spinal head of one width, one per seed; see `shrink`."""

    width: int
    macs: int
    pruned: tuple[float, ...]
    tuned: tuple[float, ...]
    scratch: tuple[float, ...]


@dataclass(frozen=True)
class Shrinking:
    """A dense head, the spinal head that equals it, and narrower ones; see `shrink`."""

    dense: float
    dense_macs: int
    converted: float
    converted_macs: int
    largest_difference: float  # of a logit, dense against converted, on the test data
    rows: tuple[ShrunkHead, ...]


def shrink(
    model: nn.Module,
    train_data: BatchSource,
    val_data: BatchSource,
    test_data: BatchSource,
    *,
    num_splits: int = 2,
    hidden_features: int | None = None,
    epochs: int = 20,
    seeds: int = 3,
) -> Shrinking:
    """Convert the dense head of a trained classifier, then narrow it, fine-tune, and compare.

    The trunk stays as it is: its features are computed once. Widths go down by halves. Every head
    is also trained from scratch in the same shape, with the same settings and seeds, for it is not
    said that starting from a good function helps.

    Args:
        model: With a `trunk` and a dense `head`.
        train_data: For the bounds, the importance of neurons, and fine-tuning.
        val_data: Chooses the epoch.
        test_data: Scores.
        num_splits: Number of slices.
        hidden_features: Width of the converted head; None: as wide as the dense layer.
        epochs: Of fine-tuning and of training from scratch.
        seeds: Number of runs of each.
    """
    check_positive("seeds", seeds)
    head, trunk = model.head, model.trunk
    assert isinstance(head, nn.Module)
    assert isinstance(trunk, nn.Module)
    model.eval()
    fitting, validation, testing = (
        _features(trunk, part) for part in (train_data, val_data, test_data)
    )
    net = to_spinal(head, num_splits, bounds_of(fitting.inputs), hidden_features=hidden_features)
    if not isinstance(net, SpinalNet):
        raise InputError("only a head with one hidden layer can be narrowed; this one has several.")
    with torch.no_grad():
        difference = float((net(testing.inputs) - head(testing.inputs)).abs().max())

    def macs(candidate: nn.Module) -> int:
        return count_macs(candidate, (net.in_features,)).total

    def trained(candidate: SpinalNet, seed: int) -> float:
        config = TrainConfig(epochs=epochs, seed=seed, device="cpu")
        return _accuracy(fit(candidate, fitting, validation, config).model, testing)

    rows = []
    width = net.spine.hidden_features
    while width:
        small = narrow(net, width, fitting.inputs[:2048])
        tuned, scratch = [], []
        for seed in range(seeds):
            tuned.append(trained(copy.deepcopy(small), seed))
            with own_generators():
                torch.manual_seed(seed)
                fresh = _blank(net, width)
            scratch.append(trained(fresh, seed))
        pruned = (_accuracy(small, testing),)
        rows.append(ShrunkHead(width, macs(small), pruned, tuple(tuned), tuple(scratch)))
        width //= 2
    return Shrinking(
        dense=_accuracy(head, testing),
        dense_macs=macs(head),
        converted=_accuracy(net, testing),
        converted_macs=macs(net),
        largest_difference=difference,
        rows=tuple(rows),
    )


def _accuracy(head: nn.Module, data: ArrayDataset) -> float:
    found = evaluate(head, data).accuracy
    assert found is not None
    return found


@torch.no_grad()
def _features(trunk: nn.Module, source: BatchSource) -> ArrayDataset:
    """Run the trunk over the data once."""
    batches = [(trunk(images), targets) for images, targets in source.batches(256)]
    return ArrayDataset(
        torch.cat([features for features, _ in batches]),
        torch.cat([targets for _, targets in batches]),
    )

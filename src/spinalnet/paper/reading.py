"""What a checkpoint of the paper's scripts says of its head, and what has to be assumed.

Shapes tell the widths, the number of layers and classes, and, beside the width of the trunk, the
slices. They do not tell which layers ran, through which activation, and what was dropped: that is
what the scripts with these names did, where they all did the same, and has to be given otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from spinalnet._checks import InputError, some, unknown_name
from spinalnet.models import zoo
from spinalnet.paper.spellings import CHAINS, STACKS, TAPS, TOP, Chain, Stack, attributes_of

WIRINGS = {
    "chain": "spinal",
    "reused": "spinal-reused",
    "tiled": "spinal-tiled",
    "shared": "spinal-shared",
}
"""The head of `nn.HEADS` for every way in which the scripts wire a spinal head."""

# The original's layers 5 and 6 run with the weights of layers 3 and 4 (counted from 1).
_REUSE = [[4, 2], [5, 3]]

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights, the network it is for, and what is known of both beforehand.

    Attributes:
        path: The file, for the sentences of errors.
        weights: What it holds, without prefixes.
        model: Row of `models.MODELS`.
        features: Width of what the trunk makes; None if that is not known.
        wiring: Row of `WIRINGS` that was asked for, if one was.
        options: Options of the head that were given.
    """

    path: str | Path
    weights: Mapping[str, Tensor]
    model: str
    features: int | None = None
    wiring: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> zoo.ModelRow:
        """The row of the model."""
        return zoo.MODELS[self.model]


@dataclass
class Reading:
    """What a checkpoint says about the head it was trained with.

    Attributes:
        head: Row of `nn.HEADS`.
        num_classes: Number of outputs.
        options: Options of the head.
        covered: Number of modules that are explained.
        neck: How the trunk's last map becomes features, where the head needs another than usual.
        in_features: Width of the rows the head reads, if the file says that.
        assumed: Sentences about what the file does not say: `option=value: why`.
    """

    head: str
    num_classes: int
    options: dict[str, Any]
    covered: int
    neck: str | None = None
    in_features: int | None = None
    assumed: list[str] = field(default_factory=list)

    def assume(self, option: str, value: object, why: str) -> None:
        """Take a value for an option of which the file says nothing."""
        self.options[option] = value
        self.assumed.append(f"{option}={value}: {why}")


def read_head(file: Checkpoint) -> Reading:
    """Return the head that explains most of the keys of a file.

    Raises:
        InputError: If no head does, or what the file leaves open was not given.
    """
    if file.wiring is not None and file.wiring not in WIRINGS:
        raise unknown_name("wiring", file.wiring, WIRINGS)
    found: list[tuple[int, Callable[[], Reading]]] = []

    def add(covered: int, read: Callable[..., Reading], *arguments: Any) -> None:
        found.append((covered, lambda: read(file, *arguments)))

    if file.row.spinal == "spinal-taps":
        shapes = shapes_below(file.weights, "")
        if all(_count_layers(shapes, tap) for tap in TAPS) and _is_matrix(shapes, *TOP):
            add(len(shapes), _read_taps, shapes)
    for attribute in attributes_of(file.model):
        shapes = shapes_below(file.weights, attribute)
        for chain in CHAINS:
            length = _count_layers(shapes, chain.layer)
            if length > 1 and _is_matrix(shapes, chain.output):
                normed = chain.norm is not None and chain.norm(0) in shapes
                add(length * (1 + normed) + 1, _read_chain, shapes, chain, attribute)
        for stack in STACKS:
            has_norms = set(stack.norms) <= set(shapes)
            if _is_matrix(shapes, *stack.layers, stack.output) and has_norms:
                add(len(stack.modules), _read_stack, shapes, stack)
        if _is_matrix(shapes, ""):
            add(1, _read_linear, shapes)
    if not found:
        raise InputError(
            f"{file.path} holds no head that the original scripts use: the last keys are "
            f"{some(list(file.weights)[-3:], 3)}."
        )
    return max(found, key=lambda one: one[0])[1]()


def shapes_below(weights: Mapping[str, Tensor], attribute: str) -> _Shapes:
    """Return the shapes of all weights below an attribute, by the names of their modules."""
    start = f"{attribute}." if attribute else ""
    names = {key: key.rpartition(".")[0] for key in weights if key.split(".")[-1] == "weight"}
    return {
        name[len(start) :]: tuple(weights[key].shape)
        for key, name in names.items()
        if f"{name}.".startswith(start)
    }


def _is_matrix(shapes: _Shapes, *names: str) -> bool:
    return all(len(shapes.get(name, ())) == 2 for name in names)


def _count_layers(shapes: _Shapes, layer: Callable[[int], str]) -> int:
    return next(count for count in itertools.count() if not _is_matrix(shapes, layer(count)))


# --- heads without slices -------------------------------------------------------------------------


def _read_linear(file: Checkpoint, shapes: _Shapes) -> Reading:
    # A linear map; the paper pools to one position in front of it.
    neck = "vector" if "vector" in file.row.necks else None
    classes, features = shapes[""]
    return Reading("linear", classes, {"dropout": 0.0}, 1, neck, features)


def _read_stack(file: Checkpoint, shapes: _Shapes, stack: Stack) -> Reading:
    options = {
        "hidden_features": [shapes[name][0] for name in stack.layers],
        "norm": "batch" if stack.norms else None,
    }
    features = shapes[stack.layers[0]][1]
    classes = shapes[stack.output][0]
    reading = Reading("mlp-paper", classes, options, len(stack.modules), in_features=features)
    paper = file.row.heads.get("mlp-paper", {})
    if "activation" not in file.options:
        name = paper.get("activation", "relu")
        reading.assume("activation", name, f"the original's script for {file.model} uses it")
    if "dropout" not in file.options:
        rates = list(stack.dropout) if isinstance(stack.dropout, tuple) else stack.dropout
        reading.assume("dropout", rates, f"the scripts with these names; {_NO_MATTER}")
    return reading


_NO_MATTER = "it matters for further training only"


def _read_taps(file: Checkpoint, shapes: _Shapes) -> Reading:
    lengths = [_count_layers(shapes, tap) for tap in TAPS]
    options = {
        "hidden_features": shapes[TAPS[0](0)][0],
        "layers_per_tap": lengths,
        "top_features": shapes[TOP[0]][0],
    }
    reading = Reading("spinal", shapes[TOP[1]][0], options, sum(lengths) + 2)
    if "activation" not in file.options:
        reading.assume("activation", "relu", "every script with these names uses it")
    return reading


# --- chains ---------------------------------------------------------------------------------------


def _read_chain(file: Checkpoint, shapes: _Shapes, chain: Chain, attribute: str) -> Reading:
    length = _count_layers(shapes, chain.layer)
    width, first = shapes[chain.layer(0)]
    classes, joined = shapes[chain.output]
    norm = "batch" if chain.norm is not None and chain.norm(0) in shapes else None
    options: dict[str, Any] = {"hidden_features": width, "num_layers": length, "norm": norm}
    reading = Reading("spinal", classes, options, length * (1 + bool(norm)) + 1)
    if chain.norm is not None and joined == first + length * width:
        reading.head, reading.in_features = "progressive", first
    else:
        found = _read_wiring(file, reading, shapes, chain, attribute)
        found = _read_splits(file, reading, first, found, is_module=chain.slope is not None)
        reading.head = WIRINGS[found[0]]
        if found[0] != file.wiring:
            reading.assumed.insert(0, "wiring={}: {}".format(*found))
    if "activation" not in file.options:
        _read_activation(file, reading, chain, attribute)
    if "dropout" not in file.options:
        _read_dropout(file, reading, chain)
    return reading


def _read_dropout(file: Checkpoint, reading: Reading, chain: Chain) -> None:
    if not chain.dropout:
        reading.assume("dropout", 0.0, "the scripts with these names have none")
        return
    rate = file.row.heads["spinal"].get("dropout", 0.5) if reading.head != "progressive" else 0.5
    why = "the names leave room for it before every layer, and the original's rate is this one"
    reading.assume("dropout", rate, f"{why}; {_NO_MATTER}")


def _read_wiring(
    file: Checkpoint, reading: Reading, shapes: _Shapes, chain: Chain, attribute: str
) -> tuple[str, str]:
    """Return which layers run with which weights, and why; complete the options it needs."""
    length, width = reading.options["num_layers"], reading.options["hidden_features"]
    joined = shapes[chain.output][1]
    wiring, why = file.wiring, "it was given"
    if wiring is None and chain.slope is not None and length == 2 and joined > 2 * width:
        wiring = "shared"
        why = f"two layers in the file, {joined // width} in what the output row reads"
    elif wiring is None and chain.slope is not None and length == 6:
        wiring, why = _which_ran(file, shapes, chain, attribute)
    elif wiring is None:
        wiring, why = "chain", "the scripts with these names run every layer once, in order"
    if wiring == "shared":
        reading.options["num_layers"] = joined // width
    elif wiring == "reused":
        reading.options["reuse"] = _REUSE
    return wiring, why


def _which_ran(file: Checkpoint, shapes: _Shapes, chain: Chain, attribute: str) -> tuple[str, str]:
    """Tell whether layers 5 and 6 of six ever ran, from whether training has moved them.

    torch draws the values of a linear map of `n` inputs from `1 / sqrt(n)` around zero. A layer
    that never runs gets no gradient and stays there; training moves some value of every other one
    out of it, for some lie next to its edge.
    """
    start = f"{attribute}." if attribute else ""
    names = [chain.layer(layer) for layer in range(6)]
    edges = [shapes[name][1] ** -0.5 for name in names]

    def moved(layer: int) -> bool:
        parts = (file.weights.get(f"{start}{names[layer]}.{part}") for part in ("weight", "bias"))
        largest = max(float(part.abs().max()) for part in parts if part is not None)
        return largest > edges[layer] * 1.001

    ran = [moved(layer) for layer in range(6)]
    edge = f"±{edges[5]:.3g}"
    if ran[4] or ran[5]:
        name = names[4 if ran[4] else 5]
        return "chain", f"all six layers ran: {name} has left {edge}, where its values start"
    if all(ran[1:4]):
        return "reused", (
            f"{names[4]} and {names[5]} still lie within {edge}, where values start, and "
            f"{names[1]} to {names[3]} do not: as in two scripts of the original, {names[2]} and "
            f"{names[3]} ran a second time in their place"
        )
    either = "" if file.options.get("activation") else ", the first with activation=relu or another"
    raise InputError(
        f"{file.path} holds six layers, and nothing in it tells whether all of them ran, or, as in "
        "two scripts of the original, the third and fourth a second time in place of the last two: "
        f"give wiring=chain or wiring=reused{either}."
    )


def _read_splits(
    file: Checkpoint, reading: Reading, first: int, wired: tuple[str, str], *, is_module: bool
) -> tuple[str, str]:
    """Find the number of slices from the width of the first; return the wiring they need, and why.

    Args:
        file: The checkpoint.
        reading: What was read so far; the number of slices is added to it.
        first: Width of the first slice.
        wired: The wiring found so far, and why.
        is_module: Whether it is the customizable module, which takes sizes that do not divide.
    """
    given, features = file.options.get("num_splits"), file.features
    if features is None:  # rows of numbers: the file knows the width of a slice alone
        usual = file.row.input_shape[0]
        if given is None and usual != 2 * first:
            raise InputError(
                f"{file.path}: its first layer reads {first} numbers, but into how many such "
                "slices a row was cut it does not say: give num_splits, or the length of a row as "
                "in_channels."
            )
        features = usual if given is None else given * first
        reading.in_features = features
    if given is not None:
        return wired
    wiring, layers = wired[0], reading.options["num_layers"]
    exact = features % first == 0
    candidates = [features // first] if exact else range(2, features + 1)
    splits = next((n for n in candidates if round(features / n) == first), None)
    if splits is not None and wiring == "chain" and is_module and not (exact and layers >= splits):
        wiring = "tiled"
        uneven = f"{layers} slices of {first} do not fall evenly on {features} features"
        wired = wiring, f"{uneven}; the original's module then leaves some out or reads some twice"
    if splits is None or (wiring != "tiled" and not (exact and layers >= splits)):
        raise InputError(
            f"{file.path}: slices of {first} for {layers} layers do not fall evenly on the "
            f"{features} features that {file.model} makes. Give the in_channels and image_size it "
            "was trained with, or num_splits."
        )
    why = f"the first layer reads {first} of {features} features"
    reading.assume("num_splits", splits, why)
    return wired


def _read_activation(file: Checkpoint, reading: Reading, chain: Chain, attribute: str) -> None:
    slope = ".".join(part for part in (attribute, chain.slope, "weight") if part)
    if chain.activation == "identity":
        reading.assume("activation", "identity", "the scripts with these names have none")
    elif chain.activation is not None:
        reading.assume("activation", chain.activation, "every script with these names uses it")
    elif slope in file.weights:
        reading.assume("activation", "prelu", f"the file holds its slope, {slope}")
    elif reading.head == "spinal-reused":
        reading.assume("activation", "leaky_relu", "both scripts that run layers twice use it")
    elif reading.head == "spinal-shared":
        reading.assume("activation", "relu", "every script that shares a matrix uses it")
    else:
        raise InputError(
            f"{file.path}: nothing in it says which activation stands behind its layers, and the "
            "original's module takes any: give activation=relu, activation=leaky_relu or another."
        )

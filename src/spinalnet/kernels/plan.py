"""What the extension is told of a chain's parameters: where each lies, checked once for many calls.

A plan refers to tensors by the number of a place (`Layout`); the extension finds before every call
that each parameter is still the same tensor of the same type at the same address, or says no, and
then the plan is made anew.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels.native import extension
from spinalnet.kernels.reference import segments

_CPU = torch.device("cpu")


class Layout(NamedTuple):
    """Where every matrix and bias is: numbers of places.

    A place is one tensor of a list that holds every parameter once, or, if there are `shapes`, a
    stretch of the only parameter: one stretch behind the other, in this order.
    """

    weights: tuple[int, ...]  # of each layer
    biases: tuple[int, ...]  # of each layer, or none
    output: tuple[int, ...]  # none, matrix, or matrix and bias
    shapes: tuple[tuple[int, ...], ...] = ()

    def pieces(self, parameters: list[Tensor]) -> list[Tensor]:
        """Return the tensor at every place."""
        if not self.shapes:
            return parameters
        parts = parameters[0].split(_sizes(self.shapes))
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


# layout, num_splits, slope
Settings = tuple[Layout, int, float]


def _sizes(shapes: tuple[tuple[int, ...], ...]) -> list[int]:
    return [math.prod(shape) for shape in shapes]


@lru_cache(maxsize=256)
def _matrix_shapes(
    in_features: int, hidden_features: int, num_layers: int, num_splits: int
) -> tuple[tuple[int, int], ...]:
    """Return the shape of every layer's matrix; a shared one may have more columns."""
    inputs = segments(in_features, hidden_features, num_layers, num_splits)
    return tuple((hidden_features, sum(parts)) for parts in inputs)


def check_matrices(weights: Sequence[Tensor]) -> None:
    """Raise `InputError` if there is no first matrix, which says how wide the layers are."""
    if not len(weights) or weights[0].dim() != 2:
        got = tuple(weights[0].shape) if len(weights) else "none"
        raise InputError(
            f"weights must be matrices (hidden features, columns), one per layer, got {got}."
        )


def check_chain(
    features: int,
    dtype: torch.dtype | None,
    device: torch.device,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    output: Sequence[Tensor],
    num_splits: int,
) -> None:
    """Check that the parameters of a chain fit its input and each other, for every backend.

    Args:
        features: D of the input.
        dtype: Of the input; `None` where autocast will see to it.
        device: Of the input.
        weights: One matrix per layer.
        biases: One vector per layer, or none.
        output: Matrix and, if there is one, bias of the output row.
        num_splits: Number of slices.

    Raises:
        InputError: If one does not fit; says which, what it must be and what it is.
    """
    if not 1 <= num_splits <= features:
        raise InputError(
            f"num_splits must be between 1 and the {features} features of x, got {num_splits}. "
            "Lower num_splits or give more features."
        )
    check_matrices(weights)
    num_layers = len(weights)
    if biases and len(biases) != num_layers:
        raise InputError(
            f"biases must be one vector for each of the {num_layers} weights, got {len(biases)}; "
            "give as many, or None."
        )
    _check_layers(features, weights, biases, num_splits)
    if output:
        _check_output(output, num_layers, weights[0].shape[0])
    for name, group in (("weights", weights), ("biases", biases), ("output", output)):
        for index, tensor in enumerate(group):
            if tensor.device != device:
                raise InputError(
                    f"x and the parameters must be on one device: x is on {device}, "
                    f"{name}[{index}] on {tensor.device}; move one to the other (`.to(device)`)."
                )
            if dtype is not None and tensor.dtype is not dtype:
                raise InputError(
                    f"x and the parameters must have one dtype: x is {dtype}, {name}[{index}] "
                    f"{tensor.dtype}; convert one of them (`.to(dtype)`) or compute under autocast."
                )


def _check_layers(
    features: int, weights: Sequence[Tensor], biases: Sequence[Tensor], num_splits: int
) -> None:
    num_layers, width = len(weights), weights[0].shape[0]
    shapes = _matrix_shapes(features, width, num_layers, num_splits)
    shared = (width, max(shape[1] for shape in shapes[1:])) if num_layers > 1 else shapes[0]
    for layer, (weight, shape) in enumerate(zip(weights, shapes, strict=True)):
        # A matrix that several layers share has the columns of the longest slice.
        if weight.shape != shape and (not layer or weight.shape != shared):
            chained = f", {width} for the layer before" if layer else ""
            raise InputError(
                f"weights[{layer}] must have shape {shape} ({shape[1] - width * (layer > 0)} "
                f"columns for its slice of the {features} features of x{chained}), got "
                f"{tuple(weight.shape)}; give x and weights made for each other, and their "
                "num_splits."
            )
    for layer, bias in enumerate(biases):
        if bias is None:
            raise InputError(
                f"biases must be one vector per layer, or None for all of them, got None for layer "
                f"{layer}; give zeros there."
            )
        if bias.shape != (width,):
            raise InputError(
                f"biases[{layer}] must have shape {(width,)}, an element for every row of "
                f"weights[{layer}], got {tuple(bias.shape)}."
            )


def _check_output(output: Sequence[Tensor], num_layers: int, width: int) -> None:
    matrix, columns = output[0], num_layers * width
    if matrix.dim() != 2 or matrix.shape[1] != columns:
        raise InputError(
            f"the matrix of the output row must have shape (outputs, {columns}), a column for "
            f"every neuron of {num_layers} layers of {width}, got {tuple(matrix.shape)}."
        )
    if len(output) > 1 and output[1].shape != matrix.shape[:1]:
        raise InputError(
            f"the bias of the output row must have shape {tuple(matrix.shape[:1])}, got "
            f"{tuple(output[1].shape)}."
        )


def readable(tensor: Tensor) -> bool:
    """Whether the elements of a row, or of a vector, are next to each other in memory."""
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


def unit_rows(matrix: Tensor) -> Tensor:
    """Return the matrix with the elements of a row next to each other in memory."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def contiguous_like(tensor: Tensor) -> Tensor:
    """Return memory for a gradient, as the kernels write it whatever the strides of `tensor`."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def unit_strides(parameter: Tensor) -> Tensor:
    """Return the parameter, or a copy of it that the kernels can read."""
    return parameter if readable(parameter) else parameter.contiguous()


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A plan and what it was made for."""

    ids: tuple[int, ...]  # of the parameters
    settings: Settings
    dtype: torch.dtype
    features: int
    plan: Any
    hidden: int  # columns of the hidden outputs
    outputs: int  # columns of the result: logits, or hidden outputs
    has_output: bool  # whether the chain ends in an output row


class Served(NamedTuple):
    """A call that depended on nothing but its input and these parameters."""

    known: Known
    parameters: list[Tensor]
    shape: torch.Size  # of x


class Plans:
    """The plan of the last call, kept by a module for its next one. Copies are empty."""

    __slots__ = ("known", "served")

    def __init__(self) -> None:
        self.known: Known | None = None
        self.served: Served | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Plans, ()

    def layout(self, parameters: list[Tensor]) -> Layout | None:
        """Return the layout of the last call if it had the very same parameters."""
        known = self.known
        return known.settings[0] if known and known.ids == tuple(map(id, parameters)) else None

    def find(self, x: Tensor, parameters: list[Tensor], settings: Settings) -> Known:
        """Return the last plan if it was made for such a call, else a new one."""
        known = self.known
        if (
            known is not None
            and known.settings == settings
            and known.dtype is x.dtype
            and known.features == x.shape[1]
        ):
            return known
        return self.renew(x, parameters, settings)

    def renew(self, x: Tensor, parameters: list[Tensor], settings: Settings) -> Known:
        """Make a plan for the parameters as they are now.

        Raises:
            InputError: If they fit neither x nor each other.
        """
        known = _described(x.shape[1], parameters, settings, x.dtype)
        self.known = known
        return known


def _described(
    features: int, parameters: list[Tensor], settings: Settings, dtype: torch.dtype
) -> Known:
    """Check the parameters and describe them to the extension, which trusts the description."""
    layout, num_splits, slope = settings
    pieces = layout.pieces(parameters)
    matrices, biases, output = ([pieces[i] for i in group] for group in layout[:3])
    check_chain(features, dtype, _CPU, matrices, biases, output, num_splits)
    if True in [parameter.is_neg() for parameter in parameters]:
        raise InputError(
            "a parameter is a view that negates what is in memory; give `parameter.resolve_neg()`."
        )
    if not all(map(readable, parameters)):
        raise InputError(
            "the elements of a parameter's rows are not next to each other in memory; give it "
            "contiguous data (`parameter.data = parameter.data.contiguous()`)."
        )
    num_layers, width = len(matrices), matrices[0].shape[0]
    outputs, out_stride = (output[0].shape[0], output[0].stride(0)) if output else (0, 0)
    offsets = itertools.accumulate(_sizes(layout.shapes)[:-1], initial=0) if layout.shapes else ()
    plan = extension.Plan(
        parameters,
        dtype is torch.float64,
        features,
        width,
        num_splits,
        outputs,
        slope,
        layout.weights,
        tuple([matrix.stride(0) for matrix in matrices]),
        tuple([matrix.shape[1] for matrix in matrices]),
        layout.biases,
        layout.output,
        out_stride,
        tuple(offsets),
    )
    hidden = num_layers * width
    ids = tuple(map(id, parameters))
    columns = outputs if output else hidden
    return Known(ids, settings, dtype, features, plan, hidden, columns, bool(output))


@lru_cache(maxsize=64)
def distinct(num_weights: int, num_biases: int, num_output: int) -> Layout:
    """Return the layout of parameters none of which is shared."""
    positions = tuple(range(num_weights + num_biases + num_output))
    with_biases = num_weights + num_biases
    return Layout(
        positions[:num_weights], positions[num_weights:with_biases], positions[with_biases:]
    )


def shared(
    weights: Sequence[Tensor], biases: Sequence[Tensor], output: Sequence[Tensor]
) -> tuple[list[Tensor], Layout]:
    """Return every parameter once, and the layout.

    One that a layer shares with the output row is there twice, for the kernels add up what the
    layers find, and write what the output row does.
    """
    parameters: list[Tensor] = []

    def position(tensor: Tensor) -> int:
        for index, parameter in enumerate(parameters):
            if parameter is tensor:
                return index
        parameters.append(tensor)
        return len(parameters) - 1

    of_layers = [tuple(map(position, group)) for group in (weights, biases)]
    row = [
        tensor.view_as(tensor) if any(tensor is known for known in parameters) else tensor
        for tensor in output
    ]
    return parameters, Layout(of_layers[0], of_layers[1], tuple(map(position, row)))

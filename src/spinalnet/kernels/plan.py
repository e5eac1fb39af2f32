"""TODO(kernels.plan): split from _kernels."""

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
from spinalnet.kernels.native import _native

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

    def piece(self, flat: Tensor, place: int) -> Tensor:
        """Return the tensor at `place` of the only parameter."""
        start = sum(_sizes(self.shapes)[:place])
        shape = self.shapes[place]
        return flat[start : start + math.prod(shape)].view(shape)


# layout, num_splits, slope
Settings = tuple[Layout, int, float]


def _sizes(shapes: tuple[tuple[int, ...], ...]) -> list[int]:
    return [math.prod(shape) for shape in shapes]


@lru_cache(maxsize=256)
def _matrix_shapes(
    in_features: int, hidden_features: int, num_layers: int, num_splits: int
) -> tuple[tuple[int, int], ...]:
    """Return the shape of every layer's matrix; a shared one may have more columns."""
    short, longer = divmod(in_features, num_splits)
    sizes = [short + (split < longer) for split in range(num_splits)]
    return tuple(
        (hidden_features, sizes[layer % num_splits] + (hidden_features if layer else 0))
        for layer in range(num_layers)
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
    num_layers = len(weights)
    if not num_layers or weights[0].dim() != 2:
        got = tuple(weights[0].shape) if num_layers else "none"
        raise InputError(
            f"weights must be matrices (hidden features, columns), one per layer, got {got}."
        )
    if biases and len(biases) != num_layers:
        raise InputError(
            f"biases must be one vector for each of the {num_layers} weights, got {len(biases)}; "
            "give as many, or None."
        )
    width = weights[0].shape[0]
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
        if bias.shape != (width,):
            raise InputError(
                f"biases[{layer}] must have shape {(width,)}, an element for every row of "
                f"weights[{layer}], got {tuple(bias.shape)}."
            )
    if output:
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


def _check_vector(vector: Tensor, size: int, dtype: torch.dtype) -> None:
    fits = vector.numel() == size and vector.is_contiguous()
    if not fits or vector.dtype is not dtype or not vector.is_cpu:
        raise InputError(
            f"a vector of a norm must be a contiguous {dtype} vector of {size} elements on the "
            f"CPU, got {vector.dtype} {tuple(vector.shape)} on {vector.device}."
        )


def _readable(tensor: Tensor) -> bool:
    """Whether the elements of a row, or of a vector, are next to each other in memory."""
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


def _unit_rows(matrix: Tensor) -> Tensor:
    """Return the matrix with the elements of a row next to each other in memory."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _contiguous_like(tensor: Tensor) -> Tensor:
    """Return memory for a gradient, as the kernels write it whatever the strides of `tensor`."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _unit_strides(parameter: Tensor) -> Tensor:
    return parameter if _readable(parameter) else parameter.contiguous()


def _plan(
    features: int,
    parameters: list[Tensor],
    layout: Layout,
    num_splits: int,
    slope: float,
    dtype: torch.dtype,
) -> tuple[Any, int, int]:
    """Check the parameters and describe them to `_native`, which trusts the description.

    Returns:
        The plan, and the number of hidden outputs and of results of a row.
    """
    pieces = layout.pieces(parameters)
    matrices, biases, output = ([pieces[i] for i in group] for group in layout[:3])
    check_chain(features, dtype, _CPU, matrices, biases, output, num_splits)
    if not all(map(_readable, parameters)):
        raise InputError(
            "the elements of a parameter's rows are not next to each other in memory; give it "
            "contiguous data (`parameter.data = parameter.data.contiguous()`)."
        )
    num_layers, width = len(matrices), matrices[0].shape[0]
    outputs, out_stride = (output[0].shape[0], output[0].stride(0)) if output else (0, 0)
    offsets = itertools.accumulate(_sizes(layout.shapes)[:-1], initial=0) if layout.shapes else ()
    plan = _native.Plan(
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
    return plan, hidden, outputs if layout.output else hidden


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A plan and what it was made for."""

    ids: tuple[int, ...]  # of the parameters
    settings: Settings
    dtype: torch.dtype
    features: int
    plan: Any
    hidden: int  # columns of the hidden outputs
    outputs: int  # columns of the result

    @property
    def count(self) -> int:
        """Number of parameters."""
        return len(self.ids)


# The same as operators, for torch.compile. An operator takes no tuples and mistakes empty lists of
# numbers for lists of tensors: the layout travels as one list of numbers.


def _packed(layout: Layout) -> list[int]:
    weights, biases, output, _ = layout
    return [len(weights), len(biases), *weights, *biases, *output]


def _unpacked(positions: list[int]) -> Layout:
    num_weights, num_biases, *rest = positions
    biases_end = num_weights + num_biases
    return Layout(
        tuple(rest[:num_weights]), tuple(rest[num_weights:biases_end]), tuple(rest[biases_end:])
    )


@lru_cache(maxsize=64)
def _distinct(num_weights: int, num_biases: int, num_output: int) -> Layout:
    """Return the layout of parameters none of which is shared."""
    positions = tuple(range(num_weights + num_biases + num_output))
    with_biases = num_weights + num_biases
    return Layout(
        positions[:num_weights], positions[num_weights:with_biases], positions[with_biases:]
    )

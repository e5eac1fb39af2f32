"""TODO(kernels.plan): split from _kernels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels.native import _native


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


def _check_vector(vector: Tensor, size: int, dtype: torch.dtype) -> None:
    fits = vector.numel() == size and vector.is_contiguous()
    if not fits or vector.dtype is not dtype or not vector.is_cpu:
        raise InputError(
            f"a bias must be a contiguous {dtype} vector of {size} elements on the CPU, got "
            f"{vector.dtype} {tuple(vector.shape)} on {vector.device}."
        )


def _check_matrix(
    matrix: Tensor, shape: tuple[int, int], dtype: torch.dtype, wider: bool = False
) -> None:
    actual = matrix.shape
    fits = actual == shape or (wider and actual[0] == shape[0] and actual[1] > shape[1])
    fits = fits and matrix.stride(1) == 1
    if not fits or matrix.dtype is not dtype or not matrix.is_cpu:
        raise InputError(
            f"a weight must be a {dtype} matrix of shape {shape}, rows contiguous, on the CPU, got "
            f"{matrix.dtype} {tuple(actual)} on {matrix.device}."
        )


def _unit_rows(matrix: Tensor) -> Tensor:
    """Return the matrix with the elements of a row next to each other in memory."""
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


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
    num_layers, width = len(layout.weights), pieces[layout.weights[0]].shape[0]
    shapes = _matrix_shapes(features, width, num_layers, num_splits)
    matrices = []
    for layer, (position, shape) in enumerate(zip(layout.weights, shapes, strict=True)):
        matrix = pieces[position]
        _check_matrix(matrix, shape, dtype, wider=layer > 0)
        matrices.append(matrix)
    for position in layout.biases:
        _check_vector(pieces[position], width, dtype)
    outputs = out_stride = 0
    if layout.output:
        matrix = pieces[layout.output[0]]
        outputs, out_stride = matrix.shape[0], matrix.stride(0)
        _check_matrix(matrix, (outputs, num_layers * width), dtype)
    for position in layout.output[1:]:
        _check_vector(pieces[position], outputs, dtype)
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

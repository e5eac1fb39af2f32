"""The spinal chain as one compiled operation on the CPU: the Python side.

`spinal_cpp` is the backend "cpp" of `ops`. In eager mode it is a plain `autograd.Function` around
the extension module `_native`, which takes addresses; `torch.compile` sees the same two functions
as the operators `spinalnet::forward` and `spinalnet::backward` (an operator costs 100 us more per
training step in eager mode).

The extension is built when the package is installed. Without a compiler it is left out, and
`UNAVAILABLE` says so; as it does with `SPINALNET_KERNELS=off` in the environment, which rules the
extension out, and in a checkout whose sources have changed since it was built.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spinalnet._checks import BackendUnavailable, InputError


def _load() -> tuple[Any, str | None]:
    """Return the extension; or None, and why."""
    switch = os.environ.get("SPINALNET_KERNELS", "on")
    if switch not in ("on", "off"):
        raise InputError(f"SPINALNET_KERNELS must be 'on' or 'off', got '{switch}'.")
    if switch == "off":
        return None, "the compiled kernels are switched off (SPINALNET_KERNELS=off)"
    try:
        native = importlib.import_module("spinalnet._kernels._native")
    except ImportError as error:
        return None, f"the compiled kernels are not installed ({error})"
    sources = _digest_of_sources()
    if sources is not None and sources != getattr(native, "SOURCES", None):
        return None, (
            "the compiled kernels were built from other sources than those beside them; build them "
            "again (docs/kernels.md, Building and checking)"
        )
    return native, None


def _digest_of_sources() -> str | None:
    """Return what CMakeLists.txt computes of the C++ files; None where none are installed."""
    folder = Path(__file__).parent
    files = sorted([*folder.glob("*.cpp"), *folder.glob("*.h"), *folder.glob("CMakeLists.txt")])
    listing = "".join(
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files
    )
    return hashlib.sha256(listing.encode()).hexdigest() if files else None


_native, UNAVAILABLE = _load()

DTYPES = (torch.float32, torch.float64)


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


class Masks(Sequence[Tensor]):
    """Dropout masks as bits, which the kernels read; as a sequence, the same as numbers.

    Drawing them takes a few instructions for 512 numbers. Drawn from one number of torch's default
    generator, so `torch.manual_seed` repeats them.

    Args:
        rows: B.
        segments: Of every mask, the numbers of columns that follow each other; each begins a word.
        dropout: Probability of a zero.
        dtype: Of the masks as numbers.
    """

    def __init__(
        self, rows: int, segments: Sequence[tuple[int, ...]], dropout: float, dtype: torch.dtype
    ) -> None:
        self.segments = segments
        self.scale = 1.0 / (1.0 - dropout)
        self.dtype = dtype
        self.words_per_row = sum(_words(width) for mask in segments for width in mask)
        self.words = torch.empty(rows, self.words_per_row, dtype=torch.int32)
        seed = torch.empty((), dtype=torch.int64).random_().item()
        _native.draw(seed, 1.0 - dropout, self.words.data_ptr(), self.words.numel())

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: Any) -> Any:
        """Return a mask as numbers, 0 or 1 / (1 - dropout). Shape `(B, columns)`."""
        start = sum(_words(width) for mask in self.segments[:index] for width in mask)
        parts = []
        for width in self.segments[index]:
            words = self.words[:, start : start + _words(width), None]
            bits = words >> torch.arange(_WORD, dtype=torch.int32) & 1
            parts.append(bits.flatten(1)[:, :width])
            start += _words(width)
        return torch.cat(parts, dim=1).to(self.dtype).mul_(self.scale)


_WORD = 32  # bits


def _words(columns: int) -> int:
    return (columns + _WORD - 1) // _WORD


def can_draw(x: Tensor) -> bool:
    """Whether `Masks` can be drawn for `x`, if nothing is traced or transformed."""
    return _native is not None and x.is_cpu


# layout, num_splits, slope
Settings = tuple[Layout, int, float]


def instruction_set() -> str | None:
    """Return which build of the kernels this processor runs, None without the extension."""
    return None if _native is None else _native.instruction_set()


def peak_gflops(repeats: int = 500, trials: int = 500) -> float:
    """Return 10^9 operations per second of one thread in the kernels' inner loop, at its best.

    Raises:
        BackendUnavailable: Without the extension.
    """
    if UNAVAILABLE is not None:
        raise BackendUnavailable(f"there is no inner loop to measure: {UNAVAILABLE}.")
    best = 0.0
    for _ in range(trials):
        start = time.perf_counter()
        macs = _native.exercise_tile(repeats)
        best = max(best, 2e-9 * macs / (time.perf_counter() - start))
    return best


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


class Watched(NamedTuple):
    """What one call of a module depended on, so that a later one need not look for it again."""

    parameters: list[Tensor]  # each once: weights, biases, output row
    entries: list[tuple[dict[str, Any], str, Any]]  # dictionaries that held a value under a key
    empty: list[dict[Any, Any]]  # dictionaries that held nothing


class Memo:
    """What a module keeps from call to call: a plan, and perhaps a call to be repeated.

    A plan is used only after it has found every parameter to be the same tensor, of the same type
    at the same address, so it is never stale. Copies and pickles are empty.
    """

    __slots__ = ("_candidate", "_known", "_repeat")

    def __init__(self) -> None:
        self._known: _Known | None = None
        self._candidate: tuple[_Known, torch.Size] | None = None
        self._repeat: tuple[Any, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Memo, ()

    def layout(self, parameters: list[Tensor]) -> Layout | None:
        """Return the layout of the last call if it had the very same parameters."""
        known = self._known
        return known.settings[0] if known and known.ids == tuple(map(id, parameters)) else None

    def find(self, x: Tensor, parameters: list[Tensor], settings: Settings) -> _Known:
        """Return the last plan if it was made for such a call, else a new one."""
        known = self._known
        if (
            known is not None
            and known.settings == settings
            and known.dtype is x.dtype
            and known.features == x.shape[1]
        ):
            return known
        return self.renew(x, parameters, settings)

    def renew(self, x: Tensor, parameters: list[Tensor], settings: Settings) -> _Known:
        """Make a plan for the parameters as they are now."""
        features = x.shape[1]
        plan, hidden, outputs = _plan(features, parameters, *settings, x.dtype)
        ids = tuple(map(id, parameters))
        known = _Known(ids, settings, x.dtype, features, plan, hidden, outputs)
        self._known, self._repeat = known, None
        return known

    def may_repeat(self, x: Tensor) -> None:
        """Offer the call just made, which has no norms, for repetition."""
        if self._known is not None and not torch.compiler.is_compiling():
            self._candidate = self._known, x.shape

    def remember(self, owner: object, look: Callable[[], Watched]) -> None:
        """Let `again` repeat for `owner` the call just made, if the kernels served it.

        Args:
            owner: The module that was called.
            look: Says on what the call depended.
        """
        candidate, self._candidate = self._candidate, None
        if candidate is None or torch.compiler.is_compiling():
            return
        known, shape = candidate
        if self._repeat is not None and self._repeat[0] is owner and self._repeat[1].holds():
            _, watch, parameters, *_ = self._repeat
        else:
            watched = look()
            seen = {id(value) for _, _, value in watched.entries}
            if not seen.issuperset(known.ids):
                return  # computed anew in every call, or copied
            watch, parameters = _native.Watch(watched.entries, watched.empty), watched.parameters
        if known.ids == tuple(map(id, parameters)):  # else another thread called in between
            self._repeat = owner, watch, parameters, known, shape

    def again(self, owner: object, x: Tensor) -> Tensor | None:
        """Return the result if the last remembered call was of this kind, else None.

        The caller makes sure that nothing is traced or transformed.
        """
        if self._repeat is None:
            return None
        known_owner, watch, parameters, known, shape = self._repeat
        if (
            owner is not known_owner
            or x.shape != shape
            or x.dtype is not known.dtype
            or not x.is_cpu
            or not watch.holds()
        ):
            return None
        row, unit = x.stride()
        if unit != 1:
            return None
        if torch.is_grad_enabled() and (
            x.requires_grad or True in [parameter.requires_grad for parameter in parameters]
        ):
            return _Chain.apply(self, known, x, *parameters)  # type: ignore[return-value]
        rows = shape[0]
        result = x.new_empty(rows, known.outputs)
        address = result.data_ptr()
        where = (0, address) if known.settings[0].output else (address, 0)
        threads = torch.get_num_threads()
        if known.plan.forward(parameters, rows, x.data_ptr(), row, threads, *where, None):
            return result
        return None


def _forward(
    memo: Memo,
    known: _Known,
    x: Tensor,
    parameters: list[Tensor],
    *,
    keep_hidden: bool,
    norms: list[float | int] | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Compute hidden outputs, where they are kept, and the result: logits, or hidden outputs."""
    has_output = len(known.settings[0].output) > 0
    while True:
        rows = x.shape[0]
        result = x.new_empty(rows, known.outputs)
        hidden = result
        if has_output:
            hidden = x.new_empty(rows, known.hidden) if keep_hidden else None
        if known.plan.forward(
            parameters,
            rows,
            x.data_ptr(),
            x.stride(0),
            torch.get_num_threads(),
            0 if hidden is None else hidden.data_ptr(),
            result.data_ptr() if has_output else 0,
            norms,
        ):
            return hidden, result
        known = memo.renew(x, parameters, known.settings)  # a parameter has moved


def _backward(
    memo: Memo,
    known: _Known,
    x: Tensor,
    parameters: list[Tensor],
    hidden: Tensor,
    gradient: Tensor,
    x_gradient: Tensor | None,
    gradients: Sequence[Tensor] | None,
) -> None:
    """Write the gradients of x and of the parameters, where wanted."""
    gradient = _unit_rows(gradient)
    while not known.plan.backward(
        parameters,
        x.shape[0],
        x.data_ptr(),
        x.stride(0),
        torch.get_num_threads(),
        hidden.data_ptr(),
        0,
        gradient.data_ptr(),
        gradient.stride(0),
        0 if x_gradient is None else x_gradient.data_ptr(),
        None if gradients is None else [part.data_ptr() for part in gradients],
    ):
        known = memo.renew(x, parameters, known.settings)  # a parameter has moved


def _differentiable(
    x: Tensor,
    parameters: list[Tensor],
    settings: Settings,
    step: Regularization | None = None,
    affine: Sequence[Tensor | None] = (),
) -> Tensor:
    """Compute the same from torch operations, for derivatives of the gradients.

    `affine` are gain and bias of every norm of `step`, as the call had them.
    """
    layout, num_splits, slope = settings
    pieces = layout.pieces(parameters)
    slices = x.tensor_split(num_splits, dim=1)  # longer slices first, as ours
    masks = None if step is None else step.masks
    hidden: list[Tensor] = []
    for layer, index in enumerate(layout.weights):
        seen, weight = slices[layer % num_splits], pieces[index]
        mask = None if masks is None else masks[layer]
        bias = pieces[layout.biases[layer]] if layout.biases else None
        seen = seen if mask is None else seen * mask[:, : seen.shape[1]]
        z = F.linear(seen, weight[:, : seen.shape[1]], bias)
        if hidden:
            before = hidden[-1] if mask is None else hidden[-1] * mask[:, seen.shape[1] :]
            z = z + F.linear(before, weight[:, -weight.shape[0] :])
        if step is not None and step.norms is not None:
            norm = step.norms[layer]
            fixed = _is_fixed(norm)
            running = (norm.running_mean, norm.running_var) if fixed else (None, None)
            gain, bias = affine[2 * layer : 2 * layer + 2]
            z = F.batch_norm(z, *running, gain, bias, not fixed, 0.0, norm.eps)
        hidden.append(F.relu(z) if slope == 0 else F.leaky_relu(z, slope))
    output = torch.cat(hidden, dim=1)
    if step is not None and step.output_mask is not None:
        output = output * step.output_mask[0]
    return F.linear(output, *[pieces[i] for i in layout.output]) if layout.output else output


class _Chain(torch.autograd.Function):
    """Forward and backward of the chain in eager mode."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, memo: Memo, known: _Known, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        hidden, result = _forward(memo, known, x, [*parameters], keep_hidden=True)
        ctx.memo, ctx.known = memo, known
        ctx.save_for_backward(hidden, x, *parameters)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        hidden, x, *parameters = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled():
            # `create_graph=True`: the kernels have no second derivative, so the chain is computed
            # once more from torch operations. Slower, but right.
            tensors = [x, *parameters]
            targets = [tensor for tensor, want in zip(tensors, wanted, strict=True) if want]
            output = _differentiable(x, parameters, ctx.known.settings)
            found = iter(torch.autograd.grad(output, targets, gradient, create_graph=True))
            return None, None, *[next(found) if want else None for want in wanted]
        x_gradient = x.new_empty(*x.shape) if wanted[0] else None
        gradients: list[Tensor] | None = None
        if True in wanted[1:]:
            # The last first, as autograd would: freed in the order of the parameters, they leave
            # the heap from its top in portions that malloc keeps, where all at once are given back
            # to the system and have to be mapped again, a microsecond per page.
            gradients = [torch.empty_like(parameter) for parameter in reversed(parameters)][::-1]
        _backward(ctx.memo, ctx.known, x, parameters, hidden, gradient, x_gradient, gradients)
        return None, None, x_gradient, *(gradients or [None] * len(parameters))


class Regularization:
    """What a training step adds to a chain.

    Args:
        masks: Of the inputs of every layer, in segments slice and (not the first) previous layer.
        output_mask: Of the input of the output row, one segment for every layer.
        norms: One batch norm for every layer, in any mode.
    """

    def __init__(
        self,
        masks: Masks | None,
        output_mask: Masks | None,
        norms: Sequence[nn.BatchNorm1d] | None,
    ) -> None:
        self.masks, self.output_mask, self.norms = masks, output_mask, norms
        # Gain and bias of every norm, or None.
        self.affine = [
            # Past `nn.Module.__getattr__`, which takes longer than a layer computes.
            norm._parameters[name]
            for norm in norms or ()
            for name in ("weight", "bias")
        ]
        self._mask_arguments: list[float | int] = []
        for drawn in (masks, output_mask):
            self._mask_arguments += (
                (0, 0, 1.0)
                if drawn is None
                else (drawn.words.data_ptr(), drawn.words_per_row, drawn.scale)
            )
        self._norm_arguments: list[float | int] = []

    def begin(self, dtype: torch.dtype) -> None:
        """Look where the vectors of the norms are, for one pass forward and one backward."""
        changed = []
        for layer, norm in enumerate(self.norms or ()):
            buffers, fixed = norm._buffers, _is_fixed(norm)
            tracked = fixed or norm.track_running_stats
            running = (buffers["running_mean"], buffers["running_var"]) if tracked else (None, None)
            counted = None if fixed or not tracked else buffers["num_batches_tracked"]
            momentum = norm.momentum
            if momentum is None:  # the mean of all batches, this one included
                momentum = 0.0 if counted is None else 1.0 / (1.0 + float(counted))
            self._norm_arguments += [
                _address(vector, norm.num_features, dtype)
                for vector in (*self.affine[2 * layer : 2 * layer + 2], *running)
            ]
            counter = 0 if counted is None else _address(counted, 1, torch.int64)
            self._norm_arguments += (counter, 0, 0, momentum, norm.eps, fixed)
            changed += [v for v in (*running, counted) if v is not None and not fixed]
        if changed:
            torch.autograd.graph.increment_version(changed)  # the kernels write past torch

    def arguments(
        self,
        sums: Tensor | None,
        statistics: Tensor | None,
        gradients: Sequence[Tensor | None] = (),
    ) -> list[Any]:
        """Describe the step to `_native`, `gradients` being those of `affine`."""
        if sums is None or statistics is None:
            return [*self._mask_arguments, 0, 0, None]
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                self._norm_arguments[10 * (i // 2) + 5 + i % 2] = gradient.data_ptr()
        pointers = sums.data_ptr(), statistics.data_ptr()
        return [*self._mask_arguments, *pointers, self._norm_arguments]


def _is_fixed(norm: nn.BatchNorm1d) -> bool:
    """Whether a norm uses its running statistics, not those of the batch."""
    return not norm.training and norm._buffers["running_mean"] is not None


def _address(vector: Tensor | None, size: int, dtype: torch.dtype) -> int:
    if vector is None:
        return 0
    if vector.dtype is not dtype or vector.numel() != size or not vector.is_cpu:
        _check_vector(vector, size, dtype)  # says what is wrong
    return vector.data_ptr()


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What backward needs of a regularized step, besides x and the parameters."""

    known: _Known
    step: Regularization
    hidden: Tensor
    sums: Tensor | None
    statistics: Tensor | None


def _forward_regularized(
    memo: Memo, known: _Known, step: Regularization, x: Tensor, parameters: list[Tensor]
) -> tuple[Tensor, _Seen]:
    """Compute the result, logits or hidden outputs, of a step with dropout or batch norm."""
    rows, has_output = x.shape[0], len(known.settings[0].output) > 0
    hidden = x.new_empty(rows, known.hidden)
    result = x.new_empty(rows, known.outputs) if has_output else hidden
    sums = statistics = None
    if step.norms is not None:
        sums, statistics = x.new_empty(rows, known.hidden), x.new_empty(2, known.hidden)
    step.begin(x.dtype)
    while not known.plan.forward_regularized(
        parameters,
        rows,
        x.data_ptr(),
        x.stride(0),
        torch.get_num_threads(),
        hidden.data_ptr(),
        result.data_ptr() if has_output else 0,
        *step.arguments(sums, statistics),
    ):
        known = memo.renew(x, parameters, known.settings)  # a parameter has moved
    return result, _Seen(known, step, hidden, sums, statistics)


def _backward_regularized(
    memo: Memo,
    seen: _Seen,
    x: Tensor,
    parameters: list[Tensor],
    gradient: Tensor,
    x_gradient: Tensor | None,
    gradients: Sequence[Tensor] | None,
    affine_gradients: Sequence[Tensor | None] = (),
) -> None:
    """Write the gradients of x, of the parameters and of the norms' vectors, where wanted."""
    gradient, known = _unit_rows(gradient), seen.known
    while not known.plan.backward_regularized(
        parameters,
        x.shape[0],
        x.data_ptr(),
        x.stride(0),
        torch.get_num_threads(),
        seen.hidden.data_ptr(),
        0,
        gradient.data_ptr(),
        gradient.stride(0),
        0 if x_gradient is None else x_gradient.data_ptr(),
        None if gradients is None else [part.data_ptr() for part in gradients],
        *seen.step.arguments(seen.sums, seen.statistics, affine_gradients),
    ):
        known = memo.renew(x, parameters, known.settings)  # a parameter has moved


class _RegularizedChain(torch.autograd.Function):
    """A training step with dropout or batch norm in eager mode."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, memo: Memo, known: _Known, step: Regularization, x: Tensor, *tensors: Tensor
    ) -> Tensor:
        result, seen = _forward_regularized(memo, known, step, x, [*tensors[: known.count]])
        ctx.memo, ctx.known, ctx.step = memo, seen.known, step
        ctx.save_for_backward(seen.hidden, seen.sums, seen.statistics, x, *tensors)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        hidden, sums, statistics, x, *tensors = ctx.saved_tensors
        seen = _Seen(ctx.known, ctx.step, hidden, sums, statistics)
        count, wanted = seen.known.count, ctx.needs_input_grad[3:]
        parameters, affine = tensors[:count], tensors[count:]
        if torch.is_grad_enabled():
            inputs = [x, *tensors]
            targets = [tensor for tensor, want in zip(inputs, wanted, strict=True) if want]
            output = _differentiable(x, parameters, seen.known.settings, seen.step, affine)
            found = iter(torch.autograd.grad(output, targets, gradient, create_graph=True))
            return None, None, None, *[next(found) if want else None for want in wanted]
        x_gradient = x.new_empty(*x.shape) if wanted[0] else None
        gradients: list[Tensor] | None = None
        if True in wanted[1 : 1 + count]:
            gradients = [torch.empty_like(parameter) for parameter in parameters]
        of_affine = [None if vector is None else torch.empty_like(vector) for vector in affine]
        _backward_regularized(
            ctx.memo, seen, x, parameters, gradient, x_gradient, gradients, of_affine
        )
        of_parameters = gradients or [None] * count
        return None, None, None, x_gradient, *of_parameters, *of_affine


class UntrackedChain:
    """Forward and backward for a caller that needs no autograd, because it knows the gradients.

    Args:
        weights: One matrix per layer, as `biases` and `output` as in `ops.spinal`, rows contiguous.
        biases: One vector per layer, or none.
        output: Matrix and bias of the output row.
        num_splits: Number of slices.
        negative_slope: Of the activation, 1 for the identity.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        output: Sequence[Tensor],
        *,
        num_splits: int,
        negative_slope: float,
    ) -> None:
        self.parameters, layout = _shared(weights, biases, output)
        self._settings = layout, num_splits, negative_slope
        self._memo = Memo()
        self._seen: _Seen | Tensor | None = None

    def forward(
        self, x: Tensor, masks: Masks | None = None, output_mask: Masks | None = None
    ) -> Tensor:
        """Return the logits `(B, K)` for `x` `(B, D)`, dropping what the masks say."""
        known = self._memo.find(x, self.parameters, self._settings)
        if masks is None and output_mask is None:
            self._seen, logits = _forward(self._memo, known, x, self.parameters, keep_hidden=True)
        else:
            step = Regularization(masks, output_mask, None)
            logits, self._seen = _forward_regularized(self._memo, known, step, x, self.parameters)
        return logits

    def backward(self, x: Tensor, gradient: Tensor, gradients: Sequence[Tensor]) -> None:
        """Overwrite `gradients` with those by each of `parameters`, in their order.

        Args:
            x: Input of the last `forward`.
            gradient: Of the loss by the logits. Shape `(B, K)`.
            gradients: Contiguous tensors like `parameters`.
        """
        seen, self._seen = self._seen, None
        assert seen is not None, "backward comes after forward"
        if isinstance(seen, _Seen):
            _backward_regularized(self._memo, seen, x, self.parameters, gradient, None, gradients)
        else:
            known = self._memo.find(x, self.parameters, self._settings)
            _backward(self._memo, known, x, self.parameters, seen, gradient, None, gradients)


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


@torch.library.custom_op("spinalnet::forward", mutates_args=())
def _forward_operator(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    settings = _unpacked(positions), num_splits, slope
    parameters = [parameter.contiguous() for parameter in parameters]
    x, memo = _unit_rows(x), Memo()
    known = memo.find(x, parameters, settings)
    hidden, result = _forward(memo, known, x, parameters, keep_hidden=True)
    assert hidden is not None
    return hidden, x.new_empty(0) if result is hidden else result


@_forward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
) -> tuple[Tensor, Tensor]:
    layout = _unpacked(positions)
    width = parameters[layout.weights[0]].shape[0]
    hidden = x.new_empty(x.shape[0], len(layout.weights) * width)
    if not layout.output:
        return hidden, x.new_empty(0)
    return hidden, x.new_empty(x.shape[0], parameters[layout.output[0]].shape[0])


@torch.library.custom_op("spinalnet::backward", mutates_args=())
def _backward_operator(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
    hidden: Tensor,
    gradient: Tensor,
) -> list[Tensor]:
    settings = _unpacked(positions), num_splits, slope
    x_gradient, *gradients = [tensor.new_empty(tensor.shape) for tensor in [x, *parameters]]
    x, parameters = _unit_rows(x), [parameter.contiguous() for parameter in parameters]
    memo = Memo()
    known = memo.find(x, parameters, settings)
    _backward(memo, known, x, parameters, hidden, gradient, x_gradient, gradients)
    return [x_gradient, *gradients]


@_backward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    positions: list[int],
    num_splits: int,
    slope: float,
    hidden: Tensor,
    gradient: Tensor,
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in [x, *parameters]]


def _save_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, parameters, *ctx.settings = inputs
    ctx.save_for_backward(output[0], x, *parameters)


def _operator_backward(ctx: Any, of_hidden: Tensor, of_logits: Tensor) -> Any:
    hidden, x, *parameters = ctx.saved_tensors
    has_output = len(_unpacked(ctx.settings[0]).output) > 0
    x_gradient, *gradients = _backward_operator(
        x, parameters, *ctx.settings, hidden, of_logits if has_output else of_hidden
    )
    return x_gradient, gradients, None, None, None


_forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)


def _folded(norms: Sequence[nn.BatchNorm1d], dtype: torch.dtype) -> list[float | int]:
    """Describe eval-mode batch norms to `_native`, which folds them anew in every call."""
    described: list[float | int] = []
    for norm in norms:
        for vector in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            described.append(_address(vector, norm.num_features, dtype))
        described.append(norm.eps)
    return described


@lru_cache(maxsize=64)
def _distinct(num_weights: int, num_biases: int, num_output: int) -> Layout:
    """Return the layout of parameters none of which is shared."""
    positions = tuple(range(num_weights + num_biases + num_output))
    with_biases = num_weights + num_biases
    return Layout(
        positions[:num_weights], positions[num_weights:with_biases], positions[with_biases:]
    )


def _shared(
    weights: Sequence[Tensor], biases: Sequence[Tensor], output: Sequence[Tensor]
) -> tuple[list[Tensor], Layout]:
    """Return every parameter once, and the layout."""
    parameters: list[Tensor] = []

    def position(tensor: Tensor) -> int:
        for index, parameter in enumerate(parameters):
            if parameter is tensor:
                return index
        parameters.append(tensor)
        return len(parameters) - 1

    groups = [tuple(map(position, group)) for group in (weights, biases, output)]
    return parameters, Layout(groups[0], groups[1], groups[2])


def spinal_cpp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    negative_slope: float,
    norms: Sequence[nn.BatchNorm1d] | None = None,
    dropout_masks: Masks | None = None,
    output: tuple[Tensor, Tensor | None] | None = None,
    output_mask: Masks | None = None,
    flat: tuple[Tensor, Layout] | None = None,
    memo: Memo | None = None,
) -> Tensor:
    """Compute hidden outputs, or with `output` the logits, by the compiled kernels.

    Arguments as in `ops.spinal`, except that `norms` are batch norms and masks are bits;
    `ops.choose_backend` makes sure of it.
    """
    last = [tensor for tensor in output if tensor is not None] if output else []
    parameters = [*weights, *biases, *last] if biases else [*weights, *last]
    if torch.compiler.is_compiling():
        parameters, layout = _shared(weights, biases or (), last)
        hidden, logits = _forward_operator(
            x, parameters, _packed(layout), num_splits, negative_slope
        )
        return logits if last else hidden

    memo = memo or Memo()
    if flat is not None:
        parameters, layout = [flat[0]], flat[1]
    else:
        layout = memo.layout(parameters)
    if layout is None:
        weights = [_unit_rows(weight) for weight in weights]
        biases = [bias.contiguous() for bias in biases or ()]
        last = [tensor if tensor.dim() == 1 else _unit_rows(tensor) for tensor in last]
        parameters = [*weights, *biases, *last]
        if len(set(map(id, parameters))) == len(parameters):
            layout = _distinct(len(weights), len(biases), len(last))
        else:
            parameters, layout = _shared(weights, biases, last)
    x = _unit_rows(x)
    known = memo.find(x, parameters, (layout, num_splits, negative_slope))
    step = None
    if norms is not None or dropout_masks is not None or output_mask is not None:
        step = Regularization(dropout_masks, output_mask, norms)
    differentiated = [x, *parameters, *(step.affine if step else ())]
    wants_grad = torch.is_grad_enabled() and True in [
        tensor.requires_grad for tensor in differentiated if tensor is not None
    ]
    folds = norms is not None and all(map(_is_fixed, norms)) and not wants_grad
    if step is not None and not (folds and dropout_masks is None and output_mask is None):
        result: Tensor = _RegularizedChain.apply(memo, known, step, *differentiated)  # type: ignore[assignment]
    elif wants_grad:
        result = _Chain.apply(memo, known, x, *parameters)  # type: ignore[assignment]
    else:
        folded = None if norms is None else _folded(norms, x.dtype)
        _, result = _forward(memo, known, x, parameters, keep_hidden=False, norms=folded)
    return result


def can_warp(images: Tensor) -> bool:
    """Whether `warp` takes these images; torch operations take all others."""
    return (
        _native is not None
        and images.is_cpu
        and images.dtype in (torch.uint8, torch.float32)
        and not images.requires_grad
        and not torch.compiler.is_compiling()
    )


class CoordinateMap(Protocol):
    """What `warp` reads of a map; see `augment._Map`."""

    @property
    def matrix(self) -> Tensor: ...
    @property
    def box(self) -> Tensor | None: ...
    @property
    def projective(self) -> bool: ...
    @property
    def nearest(self) -> bool: ...


def warp(images: Tensor, maps: Sequence[CoordinateMap]) -> Tensor:
    """Warp a batch of images by a chain of coordinate maps, with one sampling.

    Args:
        images: uint8, or float32; see `can_warp`. Shape `(B, C, H, W)`.
        maps: At least one, in the order in which they act on the image.

    Returns:
        The same shape: in the dtype of `images` if the first map is nearest, else float32, uint8
        counting as 0..1 in steps of 1/255.

    Raises:
        InputError: If a map does not have one matrix (and box) per image.
    """
    images = images.contiguous()
    held: list[Tensor] = []  # keeps what is pointed to alive

    def address(tensor: Tensor | None, *shape: int) -> int:
        if tensor is None:
            return 0
        if tensor.shape != (len(images), *shape) or not tensor.is_cpu:
            raise InputError(
                f"a map needs a tensor of shape {(len(images), *shape)} on the CPU, got "
                f"{tuple(tensor.shape)} on {tensor.device}."
            )
        held.append(tensor.to(torch.float32).contiguous())
        return held[-1].data_ptr()

    chain = tuple(
        (address(step.matrix, 3, 3), address(step.box, 4), step.projective, step.nearest)
        for step in maps
    )
    kept = images.dtype if maps[0].nearest else torch.float32
    target = torch.empty_like(images, dtype=kept)
    _native.warp(
        images.data_ptr(),
        images.dtype is torch.uint8,
        tuple(images.shape),
        target.data_ptr(),
        torch.get_num_threads(),
        chain,
    )
    return target

"""The spinal chain on an NVIDIA GPU: one Triton kernel forward, one for the hidden gradients.

A program takes a block of rows through all layers; the hidden state of a layer goes to the next in
registers, and in inference only the logits are written. What a slice contributes to its layers is
computed in one of three ways (`Plan.source`): the kernel reads the slice once for all of its layers
("slices") or once for each ("layers"), or cuBLAS multiplies it beforehand ("cublas"). Weight and
input gradients are plain matrix products of what the second kernel wrote, and those are cuBLAS's
trade: one product per slice, one batched product per slice for what the layers hand on.

Inputs may be float32, bfloat16 or float16; sums are float32. A float32 product is three TF32
products of the operands' halves, which lose nothing that float32 keeps: exact float32 has no matrix
units. Parameters are read in the type they have and converted in the kernel, so that autocast makes
no copies of them.

Checked in Triton's interpreter (`TRITON_INTERPRET=1`) on the CPU and compiled for compute
capability 9.0 (`tests/test_gpu_compile.py`); not run on a card yet (`benchmarks/gpu.py` would check
and time it there). So `nn.backends.choose_backend` takes this path only when asked for it by name,
and the plans below are what register counts and bytes suggest, not what was measured.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false
# (kernels are another language in Python's clothes)

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Wider layers fill a matrix unit by themselves: nothing is left to gain over cuBLAS.
MAX_WIDTH = 128
# The layers are unrolled: 16 compile in 10 s of one core, 32 in a minute and more.
MAX_LAYERS = 16
MAX_NEURONS = 1024  # of all layers, padded
# 3.2 has no tuples as arguments, 3.3 cannot carry them through a loop.
TOO_OLD = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4)


@triton.jit
def _activate(z, SLOPE: tl.constexpr):
    if SLOPE == 0:
        # As in torch: 0 for -inf, NaN for NaN.
        z = tl.where(z < 0, 0.0, z)
    elif SLOPE != 1:
        z = tl.where(z > 0, z, SLOPE * z)
    return z


@triton.jit
def _gate(gradient, output, SLOPE: tl.constexpr):
    # In float32: bfloat16 has no comparison of its own.
    output = output.to(tl.float32)
    if SLOPE == 0:
        gradient = tl.where(output <= 0, 0.0, gradient)
    elif SLOPE != 1:
        gradient = tl.where(output > 0, gradient, SLOPE * gradient)
    return gradient


# In kernels a name that an unrolled loop sets anew must not be a constant: what a layer knows
# when it is compiled stands in functions of their own.


@triton.jit
def _products(
    x,
    weights,
    row,
    in_rows,
    x_stride,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """What one slice contributes to `COUNT` of its layers, from layer `FIRST` on."""
    SPLIT: tl.constexpr = FIRST % SPLITS
    SHORT: tl.constexpr = FEATURES // SPLITS
    LONGER: tl.constexpr = FEATURES % SPLITS
    SIZE: tl.constexpr = SHORT + (1 if SPLIT < LONGER else 0)
    OFFSET: tl.constexpr = SPLIT * SHORT + (SPLIT if SPLIT < LONGER else LONGER)
    neuron = tl.arange(0, BLOCK_WIDTH)[None, :]
    column = tl.arange(0, BLOCK_COLUMNS)
    sums = (tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32),)
    for _ in tl.static_range(COUNT - 1):
        sums = sums + (tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32),)  # noqa: RUF005
    for start in range(0, SIZE, BLOCK_COLUMNS):
        at = start + column
        part = tl.load(
            x + row * x_stride + OFFSET + at[None, :],
            mask=in_rows & (at[None, :] < SIZE),
            other=0.0,
        ).to(KIND)
        added = ()
        for index in tl.static_range(COUNT):
            weight = tl.load(
                weights[FIRST + index * SPLITS]
                + neuron * COLUMNS[FIRST + index * SPLITS]
                + at[:, None],
                mask=(neuron < WIDTH) & (at[:, None] < SIZE),
                other=0.0,
            ).to(KIND)
            added = added + (  # noqa: RUF005
                tl.dot(part, weight, sums[index], input_precision=PRECISION),
            )
        sums = added
    return sums


@triton.jit
def _grouped(
    sums,
    row,
    neuron,
    LAYER: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Where a layer's columns are if those of layers that share a slice stand side by side."""
    SPLIT: tl.constexpr = LAYER % SPLITS
    LONGER: tl.constexpr = LAYERS % SPLITS
    BEFORE: tl.constexpr = SPLIT * (LAYERS // SPLITS) + (SPLIT if SPLIT < LONGER else LONGER)
    PLACE: tl.constexpr = BEFORE + LAYER // SPLITS
    return sums + row * (LAYERS * WIDTH) + PLACE * WIDTH + neuron


@triton.jit
def _link(
    weights,
    neuron,
    previous,
    LAYER: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
):
    """The last columns of a layer's matrix: what it does with the layer before."""
    START: tl.constexpr = COLUMNS[LAYER] - WIDTH
    return tl.load(
        weights[LAYER] + neuron * COLUMNS[LAYER] + START + previous,
        mask=(neuron < WIDTH) & (previous < WIDTH),
        other=0.0,
    ).to(KIND)


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x,
    projected,
    weights,
    biases,
    out_weight,
    out_bias,
    hidden,
    logits,
    rows,
    x_stride,
    FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    SPLITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SLOPE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_OUT_BIAS: tl.constexpr,
    KEEP_HIDDEN: tl.constexpr,
    SOURCE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    neuron = tl.arange(0, BLOCK_WIDTH)[None, :]
    previous = tl.arange(0, BLOCK_WIDTH)[:, None]
    output = tl.arange(0, BLOCK_OUTPUTS)[None, :]
    in_rows = row < rows
    mask = in_rows & (neuron < WIDTH)
    kind = hidden.dtype.element_ty
    h = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), kind)
    result = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.float32)
    slices = ()
    if SOURCE == "slices":
        for split in tl.static_range(SPLITS if SPLITS < LAYERS else LAYERS):
            slices = slices + (  # noqa: RUF005
                _products(
                    x,
                    weights,
                    row,
                    in_rows,
                    x_stride,
                    split,
                    (LAYERS - split + SPLITS - 1) // SPLITS,
                    FEATURES,
                    WIDTH,
                    SPLITS,
                    COLUMNS,
                    kind,
                    PRECISION,
                    BLOCK_ROWS,
                    BLOCK_COLUMNS,
                    BLOCK_WIDTH,
                ),
            )
    # One layer ahead, so that the chain does not wait for memory; wide ones fill the registers.
    AHEAD: tl.constexpr = BLOCK_WIDTH <= 64
    if AHEAD and LAYERS > 1:
        link = _link(weights, neuron, previous, 1, WIDTH, COLUMNS, kind)

    for layer in tl.static_range(LAYERS):
        if SOURCE == "slices":
            z = slices[layer % SPLITS][layer // SPLITS]
        elif SOURCE == "layers":
            z = _products(
                x,
                weights,
                row,
                in_rows,
                x_stride,
                layer,
                1,
                FEATURES,
                WIDTH,
                SPLITS,
                COLUMNS,
                kind,
                PRECISION,
                BLOCK_ROWS,
                BLOCK_COLUMNS,
                BLOCK_WIDTH,
            )[0]
        else:
            place = _grouped(projected, row, neuron, layer, WIDTH, LAYERS, SPLITS)
            z = tl.load(place, mask=mask, other=0.0).to(tl.float32)
        if HAS_BIAS:
            z += tl.load(biases[layer] + neuron, mask=neuron < WIDTH, other=0.0).to(tl.float32)
        if OUTPUTS > 0:
            last = tl.load(
                out_weight + output * (LAYERS * WIDTH) + layer * WIDTH + previous,
                mask=(output < OUTPUTS) & (previous < WIDTH),
                other=0.0,
            ).to(kind)
        if AHEAD and layer + 1 < LAYERS:
            following = _link(weights, neuron, previous, layer + 1, WIDTH, COLUMNS, kind)
        if layer > 0:
            if not AHEAD:
                link = _link(weights, neuron, previous, layer, WIDTH, COLUMNS, kind)
            z = tl.dot(h, link, z, input_precision=PRECISION)
        if AHEAD and layer + 1 < LAYERS:
            link = following
        h = _activate(z, SLOPE).to(kind)
        if BLOCK_WIDTH != WIDTH:
            # Infinity times the zeros that stand beside the matrices would be no number.
            h = tl.where(neuron < WIDTH, h, 0.0)
        if KEEP_HIDDEN:
            tl.store(hidden + row * (LAYERS * WIDTH) + layer * WIDTH + neuron, h, mask=mask)
        if OUTPUTS > 0:
            result = tl.dot(h, last, result, input_precision=PRECISION)
    if OUTPUTS > 0:
        if HAS_OUT_BIAS:
            result += tl.load(out_bias + output, mask=output < OUTPUTS, other=0.0).to(tl.float32)
        tl.store(
            logits + row * OUTPUTS + output, result.to(kind), mask=in_rows & (output < OUTPUTS)
        )


@triton.jit(do_not_specialize=["rows"])
def _hidden_gradient_kernel(
    gradient,
    weights,
    out_weight,
    hidden,
    sums_gradient,
    rows,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    SPLITS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SLOPE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    neuron = tl.arange(0, BLOCK_WIDTH)[None, :]
    in_rows = row < rows
    mask = in_rows & (neuron < WIDTH)
    kind = hidden.dtype.element_ty
    output = tl.arange(0, BLOCK_OUTPUTS)
    following = tl.arange(0, BLOCK_WIDTH)[:, None]
    dz = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), kind)
    if OUTPUTS > 0:
        of_logits = tl.load(
            gradient + row * OUTPUTS + output[None, :],
            mask=in_rows & (output[None, :] < OUTPUTS),
            other=0.0,
        )
    for step in tl.static_range(LAYERS):
        place = row * (LAYERS * WIDTH) + (LAYERS - 1 - step) * WIDTH + neuron
        h = tl.load(hidden + place, mask=mask, other=0.0)
        if step > 0:
            link = _link(weights, following, neuron, LAYERS - step, WIDTH, COLUMNS, kind)
        if OUTPUTS > 0:
            last = tl.load(
                out_weight
                + output[:, None] * (LAYERS * WIDTH)
                + (LAYERS - 1 - step) * WIDTH
                + neuron,
                mask=(output[:, None] < OUTPUTS) & (neuron < WIDTH),
                other=0.0,
            ).to(kind)
            dh = tl.dot(of_logits, last, input_precision=PRECISION)
        else:
            dh = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
        if step > 0:
            dh = tl.dot(dz, link, dh, input_precision=PRECISION)
        dz = _gate(dh, h, SLOPE).to(kind)
        if BLOCK_WIDTH != WIDTH:
            dz = tl.where(neuron < WIDTH, dz, 0.0)
        place = _grouped(sums_gradient, row, neuron, LAYERS - 1 - step, WIDTH, LAYERS, SPLITS)
        tl.store(place, dz, mask=mask)


def _block(width: int, least: int = 16) -> int:
    """Return the padded size of a matrix unit's operand."""
    return max(least, triton.next_power_of_2(width))


class Plan(NamedTuple):
    """How a call is cut into programs.

    Attributes:
        source: Where the slices' products come from: "slices", "layers" or "cublas", see above.
        rows: Rows of a program.
        columns: Columns of x in a step of a program that reads them.
        warps: Warps of a program.
        stages: Steps whose loads are under way at a time.
        precision: How float32 is multiplied.
    """

    source: str
    rows: int
    columns: int
    warps: int
    stages: int = 3
    precision: str = "tf32x3"


FEW_ROWS = 8192  # below, blocks of 64 rows would leave multiprocessors without work


def plan_forward(rows: int, features: int, width: int, layers: int, kind: torch.dtype) -> Plan:
    """Return how the forward kernel cuts a call."""
    block, few = _block(width), rows < FEW_ROWS
    if block * layers <= 128:
        return Plan("slices", 16, 64, 4) if few else Plan("slices", 64, 32, 4)
    warps = 8 if block > 64 or kind == torch.float32 else 4
    source = "cublas" if features > 2 * width * layers else "layers"
    return Plan(source, 16 if few else 64, 32, warps)


def plan_backward(rows: int, features: int, width: int, layers: int, kind: torch.dtype) -> Plan:
    """Return how the backward kernel cuts a call."""
    block, few = _block(width), rows < FEW_ROWS
    if block >= 64 and kind == torch.float32:
        return Plan("", 16 if few else 32, 0, 8)  # 64 rows would not fit into the registers
    return Plan("", 16 if few else 64, 0, 8 if block > 64 else 4)


def launch_options(plan: Plan) -> dict[str, Any]:
    """Return what a plan says to a kernel and to Triton."""
    return {
        "BLOCK_ROWS": plan.rows,
        "PRECISION": plan.precision,
        "num_warps": plan.warps,
        "num_stages": plan.stages,
        "enable_fp_fusion": True,  # Triton is about to change the default
    }


def _launch(
    kernel: Any, device: torch.device, plan: Plan, rows: int, *given: Any, **known: Any
) -> None:
    """Run `kernel` over `rows` rows on the device of its tensors."""
    launch = kernel[(triton.cdiv(rows, plan.rows),)]
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            launch(*given, **known, **launch_options(plan))
    else:
        launch(*given, **known, **launch_options(plan))


# num_splits, slope, has biases, has an output row
Settings = tuple[int, float, bool, bool]


def _unpack(parameters: Sequence[Tensor], settings: Settings) -> tuple[Any, ...]:
    """Return weights, biases, output matrix and output bias (empty or None where absent)."""
    _, _, has_biases, has_output = settings
    rest = list(parameters)
    out_bias = rest.pop() if has_output and rest[-1].dim() == 1 else None
    out_weight = rest.pop() if has_output else None
    layers = len(rest) // 2 if has_biases else len(rest)
    return rest[:layers], rest[layers:], out_weight, out_bias


class _Group(NamedTuple):
    """The layers that share a slice, which stand side by side wherever order is ours to choose."""

    layers: range
    size: int
    columns: slice  # of x
    places: slice  # of sums, before the activation, and of their gradients


def _groups(features: int, num_splits: int, layers: int, width: int) -> list[_Group]:
    short, longer = features // num_splits, features % num_splits
    groups = []
    column = place = 0
    for split in range(min(num_splits, layers)):
        shared = range(split, layers, num_splits)
        size, end = short + (split < longer), place + len(shared) * width
        groups.append(_Group(shared, size, slice(column, column + size), slice(place, end)))
        column, place = column + size, end
    return groups


def _stacked(weights: Sequence[Tensor], group: _Group, kind: torch.dtype) -> Tensor:
    """Return what the layers of a group do with their slice as one matrix."""
    return torch.cat([weights[layer][:, : group.size] for layer in group.layers]).to(kind)


def _forward(
    x: Tensor,
    parameters: Sequence[Tensor],
    settings: Settings,
    keep_hidden: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    num_splits, slope, _, _ = settings
    weights, biases, out_weight, out_bias = _unpack(parameters, settings)
    (rows, features), width, layers = x.shape, weights[0].shape[0], len(weights)
    outputs = 0 if out_weight is None else out_weight.shape[0]
    hidden = x.new_empty((rows, layers * width) if keep_hidden else (0,), dtype=kind)
    logits = x.new_empty(rows, outputs, dtype=kind)
    if not rows:
        return hidden, logits
    plan = plan_forward(rows, features, width, layers, kind)
    projected = hidden
    if plan.source == "cublas":
        projected = x.new_empty(rows, layers * width, dtype=kind)
        same = x.to(kind)
        for group in _groups(features, num_splits, layers, width):
            # Into memory of ours: autocast does not touch such products, and they need no copy.
            torch.mm(
                same[:, group.columns],
                _stacked(weights, group, kind).t(),
                out=projected[:, group.places],
            )
    _launch(
        _forward_kernel,
        x.device,
        plan,
        rows,
        x,
        projected,
        tuple(weights),
        tuple(biases),
        hidden if out_weight is None else out_weight,
        hidden if out_bias is None else out_bias,
        hidden,
        logits,
        rows,
        x.stride(0),
        FEATURES=features,
        WIDTH=width,
        LAYERS=layers,
        SPLITS=num_splits,
        COLUMNS=tuple(weight.shape[1] for weight in weights),
        OUTPUTS=outputs,
        SLOPE=slope,
        HAS_BIAS=len(biases) > 0,
        HAS_OUT_BIAS=out_bias is not None,
        KEEP_HIDDEN=keep_hidden,
        SOURCE=plan.source,
        BLOCK_COLUMNS=plan.columns,
        BLOCK_WIDTH=_block(width),
        # Triton deals the longer side of the first product out to the warps, and so on down the
        # chain: after 16 rows by 16 outputs every warp would compute all of a wide layer.
        BLOCK_OUTPUTS=_block(outputs, 32 if plan.rows < _block(width) else 16),
    )
    return hidden, logits


def _backward(
    x: Tensor,
    parameters: Sequence[Tensor],
    settings: Settings,
    hidden: Tensor,
    gradient: Tensor,
    wants_x: bool,
    wants_parameters: bool,
) -> list[Tensor]:
    """Return the gradient of x, if wanted, and those of the parameters as `_take_apart` takes them.

    No two of them share memory: operators may not return views of one another.
    """
    num_splits, slope, has_biases, _ = settings
    weights, _, out_weight, out_bias = _unpack(parameters, settings)
    (rows, features), width, layers = x.shape, weights[0].shape[0], len(weights)
    kind = hidden.dtype
    gradient = gradient.to(kind).contiguous()
    dz = torch.empty_like(hidden)
    if rows:
        _launch(
            _hidden_gradient_kernel,
            x.device,
            plan_backward(rows, features, width, layers, kind),
            rows,
            gradient,
            tuple(weights),
            hidden if out_weight is None else out_weight,
            hidden,
            dz,
            rows,
            WIDTH=width,
            LAYERS=layers,
            SPLITS=num_splits,
            COLUMNS=tuple(weight.shape[1] for weight in weights),
            OUTPUTS=0 if out_weight is None else out_weight.shape[0],
            SLOPE=slope,
            BLOCK_WIDTH=_block(width),
            BLOCK_OUTPUTS=_block(0 if out_weight is None else out_weight.shape[0]),
        )
    groups = _groups(features, num_splits, layers, width)
    found = []
    if wants_x:
        # With fewer layers than slices some features are seen by nobody.
        make = x.new_zeros if len(groups) < num_splits else x.new_empty
        x_gradient = make(x.shape, dtype=kind)
        for group in groups:
            torch.mm(
                dz[:, group.places],
                _stacked(weights, group, kind),
                out=x_gradient[:, group.columns],
            )
        found.append(x_gradient.to(x.dtype))
    if not wants_parameters:
        return found
    same = x.to(kind)
    by_layer = hidden.view(rows, layers, width)
    for group in groups:
        count, handed_on = len(group.layers), width if layers > 1 else 0
        here = dz[:, group.places]
        both = dz.new_empty(count, width, group.size + handed_on)
        torch.mm(
            here.t(), same[:, group.columns], out=both.view(count * width, -1)[:, : group.size]
        )
        first = 1 if group.layers[0] == 0 else 0  # it has nobody before it
        if count > first:
            before = by_layer[:, group.layers[first] - 1 : layers - 1 : num_splits]
            torch.bmm(
                here.unflatten(1, (count, width))[:, first:].permute(1, 2, 0),
                before.transpose(0, 1),
                out=both[first:, :, group.size :],
            )
        found.append(both.to(weights[0].dtype))
    if has_biases:
        # float32 sums, as everywhere.
        found.append(dz.sum(0, dtype=torch.float32).to(weights[0].dtype))
    if out_weight is not None:
        row = gradient.new_empty(out_weight.shape)
        found.append(torch.mm(gradient.t(), hidden, out=row).to(out_weight.dtype))
        if out_bias is not None:
            found.append(gradient.sum(0, dtype=torch.float32).to(out_bias.dtype))
    return found


def _take_apart(
    found: Sequence[Tensor], features: int, parameters: Sequence[Tensor], settings: Settings
) -> list[Tensor]:
    """Return one gradient per parameter from what `_backward` found."""
    num_splits, _, has_biases, has_output = settings
    weights, _, _, _ = _unpack(parameters, settings)
    width, layers = weights[0].shape[0], len(weights)
    groups = _groups(features, num_splits, layers, width)
    of_weights, of_biases = [weights[0]] * layers, [weights[0]] * layers
    for group, both in zip(groups, found, strict=False):
        for index, layer in enumerate(group.layers):
            columns = weights[layer].shape[1]
            gradient = both[index]
            if layer == 0:
                gradient = gradient[:, : group.size].contiguous()
            elif columns > gradient.shape[1]:
                # Shared by slices of unequal length: the short one has no last column.
                gap = gradient.new_zeros(width, columns - gradient.shape[1])
                parts = gradient[:, : group.size], gap, gradient[:, group.size :]
                gradient = torch.cat(parts, dim=1)
            of_weights[layer] = gradient
    rest = list(found[len(groups) :])
    if has_biases:
        pieces = iter(rest.pop(0).split(width))
        for group in groups:
            for layer in group.layers:
                of_biases[layer] = next(pieces)
    return [*of_weights, *(of_biases if has_biases else ()), *(rest if has_output else ())]


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "the triton kernels have no second derivative; compute under "
            "spinalnet.use_backend('packed'), which has."
        )


class _Chain(torch.autograd.Function):
    """Forward and backward of the chain in eager mode."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, settings: Settings, kind: torch.dtype, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        hidden, logits = _forward(x, parameters, settings, True, kind)
        ctx.settings = settings
        ctx.save_for_backward(hidden, x, *parameters)
        return logits if settings[3] else hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        _refuse_second_derivative()
        hidden, x, *parameters = ctx.saved_tensors
        _, _, wants_x, *wanted = ctx.needs_input_grad
        found = _backward(x, parameters, ctx.settings, hidden, gradient, wants_x, any(wanted))
        x_gradient = found.pop(0) if wants_x else None
        if not any(wanted):
            return None, None, x_gradient, *(None for _ in parameters)
        gradients = _take_apart(found, x.shape[1], parameters, ctx.settings)
        return None, None, x_gradient, *gradients


# The same as operators, for torch.compile and what it does with CUDA graphs.


@torch.library.custom_op("spinalnet::triton_forward", mutates_args=())
def _forward_operator(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    keep_hidden: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return _forward(x, parameters, (num_splits, slope, has_biases, has_output), keep_hidden, kind)


@_forward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    keep_hidden: bool,
    kind: torch.dtype,
) -> tuple[Tensor, Tensor]:
    settings = num_splits, slope, has_biases, has_output
    weights, _, out_weight, _ = _unpack(parameters, settings)
    shape = (x.shape[0], len(weights) * weights[0].shape[0]) if keep_hidden else (0,)
    outputs = 0 if out_weight is None else out_weight.shape[0]
    return x.new_empty(shape, dtype=kind), x.new_empty(x.shape[0], outputs, dtype=kind)


@torch.library.custom_op("spinalnet::triton_backward", mutates_args=())
def _backward_operator(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    hidden: Tensor,
    gradient: Tensor,
    wants_x: bool,
    wants_parameters: bool,
) -> list[Tensor]:
    settings = num_splits, slope, has_biases, has_output
    return _backward(x, parameters, settings, hidden, gradient, wants_x, wants_parameters)


@_backward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    hidden: Tensor,
    gradient: Tensor,
    wants_x: bool,
    wants_parameters: bool,
) -> list[Tensor]:
    settings = num_splits, slope, has_biases, has_output
    weights, _, out_weight, out_bias = _unpack(parameters, settings)
    width, layers, like = weights[0].shape[0], len(weights), weights[0]
    found = [x.new_empty(x.shape)] if wants_x else []
    if wants_parameters:
        for group in _groups(x.shape[1], num_splits, layers, width):
            columns = group.size + (width if layers > 1 else 0)
            found.append(like.new_empty(len(group.layers), width, columns))
        if has_biases:
            found.append(like.new_empty(layers * width))
        found += [
            torch.empty_like(tensor) for tensor in (out_weight, out_bias) if tensor is not None
        ]
    return found


def _save_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, parameters, *settings, _, _ = inputs
    ctx.settings = settings
    ctx.set_materialize_grads(False)  # mostly one of the two outputs is used
    ctx.save_for_backward(output[0], x, *parameters)


def _operator_backward(ctx: Any, of_hidden: Tensor | None, of_logits: Tensor | None) -> Any:
    hidden, x, *parameters = ctx.saved_tensors
    num_splits, slope, has_biases, has_output = ctx.settings
    wants_x, wanted = ctx.needs_input_grad[:2]
    some = any(wanted) if isinstance(wanted, list | tuple) else bool(wanted)
    settings, of_row, gradient = ctx.settings, [], of_logits
    if not has_output or of_hidden is not None or of_logits is None:
        # The kernels take one gradient: that of the hidden outputs, to which the row adds here.
        weights, biases, *row = _unpack(parameters, ctx.settings)
        row = [tensor for tensor in row if tensor is not None]
        gradient = hidden.new_zeros(hidden.shape) if of_hidden is None else of_hidden
        of_row = [torch.zeros_like(tensor) for tensor in row]
        if has_output and of_logits is not None:
            gradient = gradient + of_logits @ row[0].to(of_logits.dtype)
            found = (of_logits.t() @ hidden, of_logits.sum(0))
            of_row = [part.to(own.dtype) for part, own in zip(found, row, strict=False)]
        parameters, settings = [*weights, *biases], (num_splits, slope, has_biases, False)
    found = _backward_operator(x, parameters, *settings, hidden, gradient, wants_x, some)
    x_gradient, *rest = found if wants_x else [None, *found]
    gradients = None
    if some:
        gradients = [*_take_apart(rest, x.shape[1], parameters, settings), *of_row]
    return x_gradient, gradients, None, None, None, None, None, None


_forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)


def why_not(device: str, dtype: torch.dtype, width: int, layers: int = 1) -> str | None:
    """Return why this call cannot be served, or None."""
    if TOO_OLD:
        return f"Triton {triton.__version__} is too old for tuples of tensors; torch 2.8 brings 3.4"
    if device != "cuda" and not INTERPRETED:
        return f"the tensors are on {device}, not on a CUDA device"
    if dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not in {dtype}"
    if width > MAX_WIDTH:
        return f"layers wider than {MAX_WIDTH} are left to cuBLAS"
    if layers > MAX_LAYERS or layers * _block(width) > MAX_NEURONS:
        return f"{layers} layers of {width} take minutes to compile"
    return None


def spinal_triton(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    negative_slope: float,
    norms: None = None,
    dropout_masks: None = None,
    output: tuple[Tensor, Tensor | None] | None = None,
    output_mask: None = None,
) -> Tensor:
    """Compute hidden outputs, or with `output` the logits. Arguments as in `nn.functional.spinal`.

    Norms and masks are `None`: `nn.backends.choose_backend` makes sure of it.
    """
    row = output if output is not None and output[0].shape[0] <= MAX_WIDTH else None
    last = [] if row is None else [tensor for tensor in row if tensor is not None]
    parameters = [tensor.contiguous() for tensor in (*weights, *(biases or ()), *last)]
    kind = x.dtype
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
    elif any(tensor.dtype != kind for tensor in parameters):
        raise RuntimeError(f"x is {kind}, but not all parameters are.")
    if x.stride(1) != 1:
        x = x.contiguous()  # rows may be apart, a row's features not
    settings = num_splits, float(negative_slope), biases is not None, row is not None
    wants_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (x, *parameters))
    if torch.compiler.is_compiling():
        keep_hidden = wants_grad or row is None
        hidden, logits = _forward_operator(x, parameters, *settings, keep_hidden, kind)
        result = hidden if row is None else logits
    elif wants_grad:
        result = _Chain.apply(settings, kind, x, *parameters)  # type: ignore[assignment]
    else:
        hidden, logits = _forward(x, parameters, settings, row is None, kind)
        result = hidden if row is None else logits
    return result if output is None or row is not None else F.linear(result, *output)

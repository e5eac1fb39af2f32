"""The spinal chain on an NVIDIA GPU: one Triton kernel forward, one for the hidden gradients.

A program takes a block of rows through all layers; the hidden state of a layer goes to the next in
registers, the slices of x come from DRAM once (the layers that share a slice find it in the L2
cache), and in inference only the logits are written. Weight and input gradients are plain matrix
products of what the second kernel wrote, and those are cuBLAS's trade.

Inputs may be float32, bfloat16 or float16; sums are float32. float32 products are exact (no TF32).

Checked in Triton's interpreter (`TRITON_INTERPRET=1`) on the CPU; not timed on a card yet, so
`ops.choose_backend` takes this path only when asked for it by name.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false
# (kernels are another language in Python's clothes)

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Wider layers fill a matrix unit by themselves: nothing is left to gain over cuBLAS.
MAX_WIDTH = 128

_BLOCK_ROWS = 64
_BLOCK_COLUMNS = 32  # of x per step


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
    if SLOPE == 0:
        gradient = tl.where(output <= 0, 0.0, gradient)
    elif SLOPE != 1:
        gradient = tl.where(output > 0, gradient, SLOPE * gradient)
    return gradient


@triton.jit
def _forward_kernel(
    x,
    weights,
    columns,
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
    OUTPUTS: tl.constexpr,
    SLOPE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_OUT_BIAS: tl.constexpr,
    KEEP_HIDDEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    neuron = tl.arange(0, BLOCK_WIDTH)[None, :]
    previous = tl.arange(0, BLOCK_WIDTH)[:, None]
    column = tl.arange(0, BLOCK_COLUMNS)
    output = tl.arange(0, BLOCK_OUTPUTS)[None, :]
    in_rows = row < rows
    kind = x.dtype.element_ty
    h = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), kind)
    result = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.float32)

    for layer in tl.static_range(LAYERS):
        split: tl.constexpr = layer % SPLITS
        short: tl.constexpr = FEATURES // SPLITS
        longer: tl.constexpr = FEATURES % SPLITS
        size: tl.constexpr = short + (1 if split < longer else 0)
        first: tl.constexpr = split * short + (split if split < longer else longer)
        matrix = weights[layer]
        stride = columns[layer]
        z = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), tl.float32)
        for start in range(0, size, BLOCK_COLUMNS):
            at = start + column
            part = tl.load(
                x + row * x_stride + first + at[None, :],
                mask=in_rows & (at[None, :] < size),
                other=0.0,
            )
            weight = tl.load(
                matrix + neuron * stride + at[:, None],
                mask=(neuron < WIDTH) & (at[:, None] < size),
                other=0.0,
            )
            z = tl.dot(part, weight, z, input_precision="ieee")
        if layer > 0:
            weight = tl.load(
                matrix + neuron * stride + stride - WIDTH + previous,
                mask=(neuron < WIDTH) & (previous < WIDTH),
                other=0.0,
            )
            z = tl.dot(h, weight, z, input_precision="ieee")
        if HAS_BIAS:
            z += tl.load(biases[layer] + neuron, mask=neuron < WIDTH, other=0.0).to(tl.float32)
        h = _activate(z, SLOPE).to(kind)
        if KEEP_HIDDEN:
            place = hidden + row * (LAYERS * WIDTH) + layer * WIDTH + neuron
            tl.store(place, h, mask=in_rows & (neuron < WIDTH))
        if OUTPUTS > 0:
            weight = tl.load(
                out_weight + output * (LAYERS * WIDTH) + layer * WIDTH + previous,
                mask=(output < OUTPUTS) & (previous < WIDTH),
                other=0.0,
            )
            result = tl.dot(h, weight, result, input_precision="ieee")
    if OUTPUTS > 0:
        if HAS_OUT_BIAS:
            result += tl.load(out_bias + output, mask=output < OUTPUTS, other=0.0).to(tl.float32)
        tl.store(
            logits + row * OUTPUTS + output, result.to(kind), mask=in_rows & (output < OUTPUTS)
        )


@triton.jit
def _hidden_gradient_kernel(
    gradient,
    gradient_stride,
    weights,
    columns,
    out_weight,
    hidden,
    sums_gradient,
    rows,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    SLOPE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    neuron = tl.arange(0, BLOCK_WIDTH)[None, :]
    following = tl.arange(0, BLOCK_WIDTH)[:, None]
    in_rows = row < rows
    kind = hidden.dtype.element_ty
    dz = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), kind)
    if OUTPUTS > 0:
        output = tl.arange(0, BLOCK_OUTPUTS)
        of_logits = tl.load(
            gradient + row * gradient_stride + output[None, :],
            mask=in_rows & (output[None, :] < OUTPUTS),
            other=0.0,
        )
    for step in tl.static_range(LAYERS):
        layer: tl.constexpr = LAYERS - 1 - step
        place = row * (LAYERS * WIDTH) + layer * WIDTH + neuron
        mask = in_rows & (neuron < WIDTH)
        if OUTPUTS > 0:
            weight = tl.load(
                out_weight + output[:, None] * (LAYERS * WIDTH) + layer * WIDTH + neuron,
                mask=(output[:, None] < OUTPUTS) & (neuron < WIDTH),
                other=0.0,
            )
            dh = tl.dot(of_logits, weight, input_precision="ieee")
        else:
            given = gradient + row * gradient_stride + layer * WIDTH + neuron
            dh = tl.load(given, mask=mask, other=0.0).to(tl.float32)
        if step > 0:
            stride = columns[layer + 1]
            weight = tl.load(
                weights[layer + 1] + following * stride + stride - WIDTH + neuron,
                mask=(following < WIDTH) & (neuron < WIDTH),
                other=0.0,
            )
            dh = tl.dot(dz, weight, dh, input_precision="ieee")
        dz = _gate(dh, tl.load(hidden + place, mask=mask, other=0.0), SLOPE).to(kind)
        tl.store(sums_gradient + place, dz, mask=mask)


def _block(width: int) -> int:
    """Return the padded size of a matrix unit's operand."""
    return max(16, triton.next_power_of_2(width))


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


def _forward(
    x: Tensor, parameters: Sequence[Tensor], settings: Settings, keep_hidden: bool
) -> tuple[Tensor, Tensor]:
    num_splits, slope, _, _ = settings
    weights, biases, out_weight, out_bias = _unpack(parameters, settings)
    rows, width, layers = x.shape[0], weights[0].shape[0], len(weights)
    outputs = 0 if out_weight is None else out_weight.shape[0]
    hidden = x.new_empty((rows, layers * width) if keep_hidden else (0,))
    logits = x.new_empty(rows, outputs)
    if rows:
        _forward_kernel[(triton.cdiv(rows, _BLOCK_ROWS),)](
            x,
            tuple(weights),
            tuple(weight.shape[1] for weight in weights),
            tuple(biases),
            x if out_weight is None else out_weight,
            x if out_bias is None else out_bias,
            hidden,
            logits,
            rows,
            x.stride(0),
            FEATURES=x.shape[1],
            WIDTH=width,
            LAYERS=layers,
            SPLITS=num_splits,
            OUTPUTS=outputs,
            SLOPE=slope,
            HAS_BIAS=len(biases) > 0,
            HAS_OUT_BIAS=out_bias is not None,
            KEEP_HIDDEN=keep_hidden,
            BLOCK_ROWS=_BLOCK_ROWS,
            BLOCK_COLUMNS=_BLOCK_COLUMNS,
            BLOCK_WIDTH=_block(width),
            BLOCK_OUTPUTS=_block(outputs),
        )
    return hidden, logits


def _backward(
    x: Tensor, parameters: Sequence[Tensor], settings: Settings, hidden: Tensor, gradient: Tensor
) -> list[Tensor]:
    """Return the gradients of x and of the parameters."""
    num_splits, slope, has_biases, has_output = settings
    weights, _, out_weight, out_bias = _unpack(parameters, settings)
    rows, width, layers = x.shape[0], weights[0].shape[0], len(weights)
    gradient = gradient.contiguous()
    sums_gradient = torch.empty_like(hidden)
    if rows:
        _hidden_gradient_kernel[(triton.cdiv(rows, _BLOCK_ROWS),)](
            gradient,
            gradient.stride(0),
            tuple(weights),
            tuple(weight.shape[1] for weight in weights),
            x if out_weight is None else out_weight,
            hidden,
            sums_gradient,
            rows,
            WIDTH=width,
            LAYERS=layers,
            OUTPUTS=0 if out_weight is None else out_weight.shape[0],
            SLOPE=slope,
            BLOCK_ROWS=_BLOCK_ROWS,
            BLOCK_WIDTH=_block(width),
            BLOCK_OUTPUTS=_block(0 if out_weight is None else out_weight.shape[0]),
        )
    dz = sums_gradient.view(rows, layers, width)
    slices = x.tensor_split(num_splits, dim=1)  # longer slices first, as ours
    found = [torch.zeros_like(weight) for weight in weights]
    for layer in range(layers):
        seen = slices[layer % num_splits]
        found[layer][:, : seen.shape[1]] = dz[:, layer].t() @ seen
    if layers > 1:
        before = hidden.view(rows, layers, width)[:, :-1]
        products = torch.bmm(dz[:, 1:].permute(1, 2, 0), before.transpose(0, 1))
        for layer in range(1, layers):
            found[layer][:, -width:] = products[layer - 1]
    x_gradient = torch.zeros_like(x)
    parts = x_gradient.tensor_split(num_splits, dim=1)
    for split in range(min(num_splits, layers)):
        size = parts[split].shape[1]
        stacked = torch.cat([weight[:, :size] for weight in weights[split::num_splits]])
        parts[split].copy_(dz[:, split::num_splits].flatten(1) @ stacked)
    if has_biases:
        # float32 sums, as everywhere.
        found += [bias.clone() for bias in dz.sum(0, dtype=torch.float32).to(x.dtype)]
    if has_output:
        found.append(gradient.t() @ hidden)
        if out_bias is not None:
            found.append(gradient.sum(0, dtype=torch.float32).to(x.dtype))
    return [x_gradient, *found]


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "the triton kernels have no second derivative; compute under "
            "spinalnet.use_backend('packed'), which has."
        )


class _Chain(torch.autograd.Function):
    """Forward and backward of the chain in eager mode."""

    @staticmethod
    def forward(ctx: Any, settings: Settings, x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        hidden, logits = _forward(x, parameters, settings, keep_hidden=True)
        ctx.settings = settings
        ctx.save_for_backward(hidden, x, *parameters)
        return logits if settings[3] else hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        _refuse_second_derivative()
        hidden, x, *parameters = ctx.saved_tensors
        return None, *_backward(x, parameters, ctx.settings, hidden, gradient)


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
) -> tuple[Tensor, Tensor]:
    return _forward(x, parameters, (num_splits, slope, has_biases, has_output), keep_hidden)


@_forward_operator.register_fake
def _(
    x: Tensor,
    parameters: list[Tensor],
    num_splits: int,
    slope: float,
    has_biases: bool,
    has_output: bool,
    keep_hidden: bool,
) -> tuple[Tensor, Tensor]:
    settings = num_splits, slope, has_biases, has_output
    weights, _, out_weight, _ = _unpack(parameters, settings)
    columns = len(weights) * weights[0].shape[0]
    outputs = 0 if out_weight is None else out_weight.shape[0]
    hidden = x.new_empty(x.shape[0], columns) if keep_hidden else x.new_empty(0)
    return hidden, x.new_empty(x.shape[0], outputs)


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
) -> list[Tensor]:
    return _backward(x, parameters, (num_splits, slope, has_biases, has_output), hidden, gradient)


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
) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in (x, *parameters)]


def _save_for_operator(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, parameters, *settings, _ = inputs
    ctx.settings = settings
    ctx.set_materialize_grads(False)  # mostly one of the two outputs is used
    ctx.save_for_backward(output[0], x, *parameters)


def _operator_backward(ctx: Any, of_hidden: Tensor | None, of_logits: Tensor | None) -> Any:
    hidden, x, *parameters = ctx.saved_tensors
    num_splits, slope, has_biases, has_output = ctx.settings
    if has_output and of_hidden is None and of_logits is not None:
        x_gradient, *gradients = _backward_operator(x, parameters, *ctx.settings, hidden, of_logits)
        return x_gradient, gradients, None, None, None, None, None
    # The kernels take one gradient: that of the hidden outputs, to which the output row adds here.
    weights, biases, *row = _unpack(parameters, ctx.settings)
    row = [tensor for tensor in row if tensor is not None]
    gradient = hidden.new_zeros(hidden.shape) if of_hidden is None else of_hidden
    of_row = [tensor.new_zeros(tensor.shape) for tensor in row]
    if has_output and of_logits is not None:
        gradient = gradient + of_logits @ row[0]
        of_row = [of_logits.t() @ hidden, of_logits.sum(0)][: len(row)]
    x_gradient, *gradients = _backward_operator(
        x, [*weights, *biases], num_splits, slope, has_biases, False, hidden, gradient
    )
    return x_gradient, [*gradients, *of_row], None, None, None, None, None


_forward_operator.register_autograd(_operator_backward, setup_context=_save_for_operator)


def why_not(device: str, dtype: torch.dtype, width: int) -> str | None:
    """Return why this call cannot be served, or None."""
    if device != "cuda" and not INTERPRETED:
        return f"the tensors are on {device}, not on a CUDA device"
    if dtype not in DTYPES:
        return f"it computes in float32, bfloat16 and float16, not in {dtype}"
    if width > MAX_WIDTH:
        return f"layers wider than {MAX_WIDTH} are left to cuBLAS"
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
    flat: object = None,
    memo: object = None,
) -> Tensor:
    """Compute hidden outputs, or with `output` the logits. Arguments as in `ops.spinal`.

    Norms and masks are `None`: `ops.choose_backend` makes sure of it.
    """
    row = output if output is not None and output[0].shape[0] <= MAX_WIDTH else None
    last = [] if row is None else [tensor for tensor in row if tensor is not None]
    tensors = [x, *weights, *(biases or ()), *last]
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
        tensors = [tensor.to(kind) for tensor in tensors]
    x, *parameters = [tensor.contiguous() for tensor in tensors]
    settings = num_splits, float(negative_slope), biases is not None, row is not None
    wants_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if torch.compiler.is_compiling():
        keep_hidden = wants_grad or row is None
        hidden, logits = _forward_operator(x, parameters, *settings, keep_hidden)
        result = hidden if row is None else logits
    elif wants_grad:
        result = _Chain.apply(settings, x, *parameters)  # type: ignore[assignment]
    else:
        hidden, logits = _forward(x, parameters, settings, keep_hidden=row is None)
        result = hidden if row is None else logits
    return result if output is None or row is not None else F.linear(result, *output)

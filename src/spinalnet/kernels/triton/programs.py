"""What runs on the card: the kernels of the two passes, in Triton's language.

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
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportPossiblyUnboundVariable=false
# (kernels are another language in Python's clothes)

from __future__ import annotations

import triton
import triton.language as tl


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
def forward_kernel(
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
    """Take a block of rows through all layers, and the output row."""
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
def hidden_gradient_kernel(
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
    """Take a block of rows back through all layers, to the gradients before the activations."""
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

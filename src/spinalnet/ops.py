"""The spinal recurrence as a function: one meaning, several ways to compute it.

A spinal hidden layer is a chain of `L` narrow layers. Layer `l` sees slice `l mod S` of the
input and the output of layer `l - 1`::

    h_0 = act(A_0 s_0 + b_0)
    h_l = act(A_l s_(l mod S) + B_l h_(l-1) + b_l)         l = 1 ... L-1
    y   = [h_0 | h_1 | ... | h_(L-1)]                      (then, if asked for, C y + d)

Dimensions used throughout: `B` batch, `D` in_features, `S` num_splits, `L` num_layers,
`H` hidden_features, `K` out_features. `W_l = [A_l | B_l]` is one matrix per layer: first the
columns of the slice, last the `H` columns of the previous layer. That order is the paper's and
decides whether published weights load.

Every backend below computes the same numbers; `BACKENDS` is the one table of them and
`choose_backend` the one place that picks, and can say why. MACs are multiply-accumulates
(1 MAC = 2 FLOPs); biases and activations are not counted.

Source: Kabir et al., "SpinalNet: Deep Neural Network with Gradual Input", arXiv:2007.03347.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from spinalnet import _kernels
from spinalnet._checks import BackendUnavailable, InputError, check_positive, unknown_name

Elementwise = Callable[[Tensor], Tensor]
Memo = _kernels.Memo
Layout = _kernels.Layout
Watched = _kernels.Watched
Masks = _kernels.Masks


def split_sizes(in_features: int, num_splits: int) -> tuple[int, ...]:
    """Return the lengths of `num_splits` contiguous slices that cover `in_features` exactly.

    The lengths differ by at most one, longer slices first (9 features in 2 slices: 5 and 4),
    so no feature is dropped and none is used twice.

    Raises:
        InputError: If `num_splits` is not in [1, in_features].

    Example:
        >>> split_sizes(9, 2)
        (5, 4)
    """
    check_positive("in_features", in_features)
    check_positive("num_splits", num_splits)
    if num_splits > in_features:
        raise InputError(
            f"num_splits must be between 1 and in_features={in_features}, got {num_splits}. "
            "Lower num_splits or give more features."
        )
    # To torch.compile both may be symbols, for which there is no divmod.
    short, longer = in_features // num_splits, in_features % num_splits
    return tuple(short + (split < longer) for split in range(num_splits))


def spinal_macs(
    in_features: int,
    hidden_features: int,
    num_layers: int,
    num_splits: int = 2,
    out_features: int = 0,
) -> int:
    """Return the multiply-accumulates of one row through the chain and `out_features` outputs."""
    sizes = split_sizes(in_features, num_splits)
    sliced = sum(sizes[layer % num_splits] for layer in range(num_layers))
    chained = (num_layers - 1) * hidden_features
    return hidden_features * (sliced + chained) + num_layers * hidden_features * out_features


class SpinalCall(NamedTuple):
    """What a backend has to know to say whether, and how fast, it can serve one call."""

    batch: int
    in_features: int
    hidden_features: int
    num_layers: int
    num_splits: int
    negative_slope: float | None  # of a piecewise linear activation, None for any other
    normed: bool
    masked: bool  # drops inputs of a layer or of the output row
    dtype: torch.dtype  # the one computed in: autocast's where it is on
    device: str
    batch_normed: bool = False  # all norms are batch norms, and nobody listens to their calls
    bits: bool = False  # all dropout masks are `Masks`
    plain: bool = True  # ordinary tensors in memory: nothing is traced, transformed or exported


def spinal_reference(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    activation: Elementwise,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compute the chain as the paper writes it: slice, concatenate, linear, norm, activation.

    The slow truth that every other backend is tested against. Arguments as in `spinal`, except
    that `activation` must be callable.
    """
    hidden_features = weights[0].shape[0]
    sizes = split_sizes(x.shape[-1], num_splits)
    slices = x.split(sizes, dim=-1)
    hidden: list[Tensor] = []
    for layer, weight in enumerate(weights):
        size = sizes[layer % num_splits]
        inputs = slices[layer % num_splits]
        if hidden:
            inputs = torch.cat([inputs, hidden[-1]], dim=-1)
            if weight.shape[1] > size + hidden_features:
                # One matrix shared by slices of unequal length: the short slice has no last
                # column, as if it were padded with a zero.
                weight = torch.cat([weight[:, :size], weight[:, -hidden_features:]], dim=1)
        if dropout_masks is not None:
            inputs = inputs * dropout_masks[layer]
        z = F.linear(inputs, weight, None if biases is None else biases[layer])
        if norms is not None:
            z = norms[layer](z)
        hidden.append(activation(z))
    return torch.cat(hidden, dim=-1)


def spinal_packed(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    activation: Elementwise,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
) -> Tensor:
    """Compute the chain with one matrix product per slice plus the small sequential part.

    `A_l s` of all layers that share a slice is known before the chain starts, so it is one
    product per slice; only `B_l h` is sequential. With dropout each layer masks the slice anew,
    so its product stays its own. Plain torch operations: differentiates twice, exports, compiles
    and runs on every device and dtype. Arguments as in `spinal_reference`.
    """
    num_layers, hidden_features = len(weights), weights[0].shape[0]
    sizes = split_sizes(x.shape[-1], num_splits)
    slices = x.split(sizes, dim=-1)
    projected: list[Tensor | None] = [None] * num_layers
    if dropout_masks is None:
        for split in range(min(num_splits, num_layers)):
            layers = range(split, num_layers, num_splits)
            # A shared matrix applied to the same slice is one product, however often it is used.
            distinct = list({id(weights[layer]): weights[layer] for layer in layers}.values())
            column = {id(weight): index for index, weight in enumerate(distinct)}
            packed = torch.cat([weight[:, : sizes[split]] for weight in distinct])
            products = F.linear(slices[split], packed).split(hidden_features, dim=-1)
            for layer in layers:
                projected[layer] = products[column[id(weights[layer])]]

    hidden: list[Tensor] = []
    for layer, weight in enumerate(weights):
        size = sizes[layer % num_splits]
        mask = None if dropout_masks is None else dropout_masks[layer]
        z = projected[layer]
        if z is None:
            assert mask is not None
            z = F.linear(slices[layer % num_splits] * mask[..., :size], weight[:, :size])
        if biases is not None:
            z = z + biases[layer]
        if hidden:
            previous = hidden[-1] if mask is None else hidden[-1] * mask[..., size:]
            z = z + F.linear(previous, weight[:, -hidden_features:])
        if norms is not None:
            z = norms[layer](z)
        hidden.append(activation(z))
    return torch.cat(hidden, dim=-1)


@dataclass(frozen=True)
class Backend:
    """One way to compute the chain: `run`, and `why_not` (None when it can serve the call).

    A `fused` one takes the promise `negative_slope` instead of the activation, and the output row
    along with the chain.
    """

    run: Callable[..., Tensor]
    why_not: Callable[[SpinalCall], str | None]
    fused: bool = False


@dataclass(frozen=True)
class BackendChoice:
    """The backend a call takes and the reason, for people."""

    name: str
    reason: str


def _always(_: SpinalCall) -> str | None:
    return None


def _not_fusable(call: SpinalCall) -> str | None:
    """Return what no fused backend can do."""
    if call.negative_slope is None or call.negative_slope < 0:
        return "its activation is not relu, leaky_relu or the identity"
    if not call.plain:
        return "the tensors are traced, transformed, exported or of another kind than plain ones"
    return None


def _cpp_why_not(call: SpinalCall) -> str | None:
    if _kernels.UNAVAILABLE is not None:
        return _kernels.UNAVAILABLE
    if call.device != "cpu":
        return f"the tensors are on {call.device}, not on the CPU"
    if call.dtype not in _kernels.DTYPES:
        return f"it computes in float32 and float64, not in {call.dtype}"
    if call.normed and not call.batch_normed:
        return (
            "its norms are not all batch norms without hooks, of two rows at least, in eager mode"
        )
    if call.masked and not call.bits:
        return "its dropout masks are tensors, not bits"
    return _not_fusable(call)


def _triton_why_not(call: SpinalCall) -> str | None:
    try:
        from spinalnet import _triton
    except ImportError as error:
        return f"triton is not installed ({error})"
    if call.normed or call.masked:
        return "it knows neither norms nor dropout"
    return _triton.why_not(
        call.device, call.dtype, call.hidden_features, call.num_layers
    ) or _not_fusable(call)


def _spinal_triton(*arguments: Any, **options: Any) -> Tensor:
    from spinalnet import _triton

    return _triton.spinal_triton(*arguments, **options)


BACKENDS: dict[str, Backend] = {
    "reference": Backend(spinal_reference, _always),
    "packed": Backend(spinal_packed, _always),
    "cpp": Backend(_kernels.spinal_cpp, _cpp_why_not, fused=True),
    "triton": Backend(_spinal_triton, _triton_why_not, fused=True),
}

GROUPING_PAYS = 512  # rows from which one product per slice beats one per layer on the CPU

_forced: ContextVar[str | None] = ContextVar("spinalnet_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every spinal layer inside the block with backend `name` ("auto" to choose freely).

    Raises:
        InputError: If there is no such backend.
    """
    if name != "auto" and name not in BACKENDS:
        raise unknown_name("backend", name, ["auto", *BACKENDS])
    token = _forced.set(None if name == "auto" else name)
    try:
        yield
    finally:
        _forced.reset(token)


def choose_backend(call: SpinalCall, requested: str | None = None) -> BackendChoice:
    """Return the backend that serves `call`, and why.

    An explicit `requested` wins, then `use_backend`, then the measured rule.

    Raises:
        InputError: If the requested backend does not exist.
        BackendUnavailable: If the requested backend cannot serve this call.
    """
    name = requested if requested not in (None, "auto") else _forced.get()
    if name is not None:
        if name not in BACKENDS:
            raise unknown_name("backend", name, ["auto", *BACKENDS])
        reason = BACKENDS[name].why_not(call)
        if reason is not None:
            raise BackendUnavailable(f"backend '{name}' cannot serve this call: {reason}")
        return BackendChoice(name, "asked for by name")
    # While torch.compile traces, the batch size may be a symbol, which no cache can hold.
    return _fastest(call) if torch.compiler.is_compiling() else _known_fastest(call)


def _fastest(call: SpinalCall) -> BackendChoice:
    """Return the backend that the measurements in `docs/kernels.md` favour."""
    obstacle = _cpp_why_not(call)
    if obstacle is None:
        return BackendChoice("cpp", "one compiled operation for the whole chain")
    why = f"not cpp: {obstacle}"
    if call.masked:
        return BackendChoice("reference", f"nothing can be grouped, each layer drops others; {why}")
    if call.num_layers <= call.num_splits:
        return BackendChoice("reference", f"no two layers share a slice; {why}")
    # Grouping takes more operations than it saves until the products are large. Not asked of a
    # batch size that may be a symbol, nor where it was not measured.
    if call.plain and call.device == "cpu" and not torch.compiler.is_compiling():
        small = (
            call.batch < GROUPING_PAYS or call.in_features < call.num_splits * call.hidden_features
        )
        if small or call.normed:
            return BackendChoice("reference", f"too small for grouping to pay; {why}")
    return BackendChoice("packed", f"one product per slice; {why}")


_known_fastest = lru_cache(maxsize=1024)(_fastest)

_PLAIN_TYPES = {Tensor, torch.nn.Parameter}


def is_plain(x: Tensor, weights: Sequence[Tensor]) -> bool:
    """Return whether a kernel may read these tensors' memory, or compile to an operator."""
    if torch.compiler.is_compiling():
        return not torch.compiler.is_exporting()
    return _eager(x) and {type(weight) for weight in weights} <= _PLAIN_TYPES


def _eager(x: Tensor) -> bool:
    """Return whether `x` is an ordinary tensor, and nobody traces or transforms operations."""
    return not (
        type(x) not in _PLAIN_TYPES
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


def _computed_dtype(x: Tensor, device: str) -> torch.dtype:
    # torch raises when asked about autocast on the meta device.
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else x.dtype


def _batch_normed(norms: Sequence[Any] | None, rows: int) -> bool:
    """Return whether these are batch norms whose calls nobody would miss."""
    return (
        norms is not None
        and not torch.compiler.is_compiling()
        and all(type(norm) is torch.nn.BatchNorm1d and not hooked(norm) for norm in norms)
        # Of a single row torch refuses to take the statistics, and says so.
        and (rows > 1 or all(not norm.training and norm.running_mean is not None for norm in norms))
    )


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def hooked(*modules: torch.nn.Module) -> bool:
    """Return whether somebody listens to the calls of these modules."""
    return any(getattr(module, name) for module in modules for name in HOOKS)


def draws_bits(x: Tensor) -> bool:
    """Return whether `draw_masks` draws bits for `x`."""
    return not torch.compiler.is_compiling() and _kernels.can_draw(x) and _eager(x)


def draw_masks(x: Tensor, segments: Sequence[tuple[int, ...]], dropout: float) -> Sequence[Tensor]:
    """Return dropout masks whose kept entries are already scaled up, for the rows of `x`.

    Where the compiled kernels can read them, they are bits (`Masks`).

    Args:
        x: Tensor `(B, ...)` on the right device, of the right dtype.
        segments: For every mask the columns of its factor, in parts: a layer's slice and (not the
            first) the previous layer; for the output row every layer.
        dropout: Probability of a zero.
    """
    if draws_bits(x):
        return Masks(x.shape[0], segments, dropout, x.dtype)
    widths = [sum(parts) for parts in segments]
    return keep_mask(x, sum(widths), dropout).split(widths, dim=-1)


def keep_mask(like: Tensor, width: int, dropout: float) -> Tensor:
    """Return a dropout mask `(B, width)` whose kept entries are already scaled up.

    From uniform numbers: on the CPU torch draws these four times as fast as it does `bernoulli_`,
    and drawing is most of what dropout costs.

    Args:
        like: Tensor `(B, ...)` on the right device, of the right dtype.
        width: Number of columns.
        dropout: Probability of a zero.
    """
    keep = 1.0 - dropout
    # In float32: half precision has too few values for a probability.
    return (torch.rand(like.shape[0], width, device=like.device) < keep).to(like.dtype).div_(keep)


def spinal(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor] | None,
    *,
    num_splits: int,
    activation: Elementwise = torch.relu,
    negative_slope: float | None = None,
    norms: Sequence[Elementwise] | None = None,
    dropout_masks: Sequence[Tensor] | None = None,
    output: tuple[Tensor, Tensor | None] | None = None,
    output_mask: Sequence[Tensor] | None = None,
    flat: tuple[Tensor, Layout] | None = None,
    memo: Memo | None = None,
    backend: str | None = None,
) -> Tensor:
    """Run a spinal chain and return the outputs of all its layers side by side, or the logits.

    Args:
        x: Input features. Shape `(B, D)`, any floating dtype.
        weights: One matrix per layer, `(H, D_0)` for the first and `(H, D_s + H)` for the others,
            slice columns first. A matrix shared between layers is passed once per layer, with
            as many slice columns as the longest slice.
        biases: One vector `(H,)` per layer, or `None`.
        num_splits: Number of contiguous slices that the layers cycle through.
        activation: Elementwise function applied to every layer.
        negative_slope: Set it to promise that `activation` is `z if z > 0 else slope * z`: 0 for
            relu, 1 for the identity. Fused backends need that promise.
        norms: One module per layer, applied between the linear map and the activation.
        dropout_masks: One already scaled keep mask `(B, D_s + H)` per layer input, see
            `draw_masks`.
        output: Matrix `(K, L * H)` and bias `(K,)` or `None` of an output row.
        output_mask: The same as `dropout_masks` for the input of the output row: one mask
            `(B, L * H)`, in a sequence.
        flat: The one parameter that holds all of the above, and where. A fused backend then
            differentiates by it alone, which costs less than by each of them.
        memo: Kept by a module from call to call, so that the compiled kernels need not look at
            every parameter from scratch. Never changes the result.
        backend: Name from `BACKENDS`, or `None` to choose (see `choose_backend`).

    Returns:
        Hidden outputs of all layers, shape `(B, L * H)`; with `output` its logits `(B, K)`.

    Raises:
        InputError: If the shapes do not fit or the backend is unknown.
        BackendUnavailable: If the backend asked for cannot serve this call.
    """
    if x.dim() != 2:
        raise InputError(f"x must have shape (batch, features), got {tuple(x.shape)}.")
    if activation is torch.relu:
        negative_slope = 0.0
    call = describe_call(
        x,
        weights,
        num_splits=num_splits,
        negative_slope=negative_slope,
        norms=norms,
        masked=dropout_masks is not None or output_mask is not None,
        bits=all(
            masks is None or isinstance(masks, Masks) for masks in (dropout_masks, output_mask)
        ),
    )
    choice = choose_backend(call, backend)
    chosen = BACKENDS[choice.name]
    if chosen.fused:
        result = chosen.run(
            x,
            weights,
            biases,
            num_splits=num_splits,
            negative_slope=negative_slope,
            norms=norms,
            dropout_masks=dropout_masks,
            output=output,
            output_mask=output_mask,
            flat=flat,
            memo=memo,
        )
        free = backend is None and _forced.get() is None
        repeatable = choice.name == "cpp" and norms is None and not call.masked
        if memo is not None and free and repeatable:
            memo.may_repeat(x)
        return result
    hidden = chosen.run(
        x,
        weights,
        biases,
        num_splits=num_splits,
        activation=activation,
        norms=norms,
        dropout_masks=dropout_masks,
    )
    if output is None:
        return hidden
    return F.linear(hidden if output_mask is None else hidden * output_mask[0], *output)


def again(owner: object, x: Tensor, memo: Memo) -> Tensor | None:
    """Return what `owner(x)` must be, if `memo` knows a call like it, else None.

    Saves finding out once more what the call depends on and which backend serves it, which takes
    longer than a small head computes.
    """
    if torch.compiler.is_compiling() or _forced.get() is not None or not _eager(x):
        return None
    return None if torch._C._is_any_autocast_enabled() else memo.again(owner, x)


def describe_call(
    x: Tensor,
    weights: Sequence[Tensor],
    *,
    num_splits: int,
    negative_slope: float | None = None,
    norms: Sequence[Elementwise] | None = None,
    masked: bool = False,
    bits: bool = False,
) -> SpinalCall:
    """Describe a call of `spinal` for `choose_backend`; arguments as there.

    Args:
        x: Input.
        weights: One matrix per layer.
        num_splits: Number of slices.
        negative_slope: Of the activation, if it has one.
        norms: One per layer.
        masked: Whether inputs of a layer or of the output row are dropped.
        bits: Whether all masks are `Masks`, see `draws_bits`.
    """
    rows, features = x.shape
    device = "cpu" if x.is_cpu else x.device.type
    return SpinalCall(
        rows,
        features,
        weights[0].shape[0],
        len(weights),
        num_splits,
        negative_slope,
        norms is not None,
        masked,
        _computed_dtype(x, device),
        device,
        _batch_normed(norms, rows),
        bits,
        is_plain(x, weights),
    )

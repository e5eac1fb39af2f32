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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from spinalnet import randomness
from spinalnet._checks import BackendUnavailable, unknown_name
from spinalnet.kernels import native
from spinalnet.kernels.backend import spinal_cpp
from spinalnet.kernels.reference import spinal_packed, spinal_reference

if TYPE_CHECKING:
    from spinalnet.kernels.reference import Elementwise


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
    bits: bool = False  # all dropout masks are `masks.Masks`
    plain: bool = True  # ordinary tensors in memory: nothing is traced, transformed or exported
    called: str | None = None  # why the layers are called as modules, not read as matrices


@dataclass(frozen=True)
class Backend:
    """One way to compute the chain: `run`, and `why_not` (None when it can serve the call).

    A `fused` one takes the promise `negative_slope` instead of the activation, and the output row
    along with the chain. One that `keeps` takes what a module keeps from call to call.
    """

    run: Callable[..., Tensor]
    why_not: Callable[[SpinalCall], str | None]
    fused: bool = False
    keeps: bool = False


@dataclass(frozen=True)
class BackendChoice:
    """The backend a call takes and the reason, for people."""

    name: str
    reason: str


def _not_fusable(call: SpinalCall) -> str | None:
    """Return what no fused backend can do."""
    if call.called is not None:
        return call.called
    if call.negative_slope is None or call.negative_slope < 0:
        return "its activation is not relu, leaky_relu or the identity, without hooks"
    if not call.plain:
        return "the tensors are traced, transformed, exported or of another kind than plain ones"
    return None


def _cpp_why_not(call: SpinalCall) -> str | None:
    if native.UNAVAILABLE is not None:
        return native.UNAVAILABLE
    if call.device != "cpu":
        return f"the tensors are on {call.device}, not on the CPU"
    if call.dtype not in native.DTYPES:
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
        from spinalnet.kernels import triton
    except ImportError as error:
        return f"triton is not installed ({error})"
    if call.normed or call.masked:
        return "it knows neither norms nor dropout"
    reason = triton.why_not(call.device, call.dtype, call.hidden_features, call.num_layers)
    return reason or _not_fusable(call)


def _spinal_triton(*arguments: Any, **options: Any) -> Tensor:
    from spinalnet.kernels import triton

    return triton.spinal_triton(*arguments, **options)


BACKENDS: dict[str, Backend] = {
    "reference": Backend(spinal_reference, lambda call: None),
    "packed": Backend(spinal_packed, lambda call: call.called),
    "cpp": Backend(spinal_cpp, _cpp_why_not, fused=True, keeps=True),
    "triton": Backend(_spinal_triton, _triton_why_not, fused=True),
}

GROUPING_PAYS = 512  # rows from which one product per slice beats one per layer on the CPU

_forced: ContextVar[str | None] = ContextVar("spinalnet_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute every spinal layer inside the block with backend `name` ("auto" to choose freely).

    What `torch.compile` has traced keeps the choice of its time.

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


def _asked_for() -> str | None:
    """Return what `use_backend` says; torch 2.11 and before cannot trace a context variable."""
    return _forced.get()


# What `torch.compiler.assume_constant_result` does, which would load the compiler to do it: half of
# the time of `import spinalnet.nn`.
_asked_for._dynamo_marked_constant = True  # type: ignore[attr-defined]


def choose_backend(call: SpinalCall, requested: str | None = None) -> BackendChoice:
    """Return the backend that serves `call`, and why.

    An explicit `requested` wins, then `use_backend`, then the measured rule.

    Raises:
        InputError: If the requested backend does not exist.
        BackendUnavailable: If the requested backend cannot serve this call.
    """
    name = requested if requested not in (None, "auto") else _asked_for()
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
    """Return the backend that the measurements in `docs/speed.md` favour."""
    if call.called is not None:
        return BackendChoice("reference", call.called)
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
    return (
        eager(x)
        and {type(weight) for weight in weights} <= _PLAIN_TYPES
        and not any(weight.is_neg() for weight in weights)
    )


def eager(x: Tensor) -> bool:
    """Return whether `x` is an ordinary tensor, and nobody traces or transforms operations."""
    return not (
        type(x) not in _PLAIN_TYPES
        or x.is_neg()  # what lies in memory has the other sign
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or forward_ad._current_level >= 0
    )


def is_free(x: Tensor) -> bool:
    """Return whether a call may be repeated: in eager mode, no autocast, no backend asked for.

    Nor part of a batch: what is drawn for it depends on the others.
    """
    if randomness.batch_part is not None:
        return False
    if torch.compiler.is_compiling() or _forced.get() is not None or not eager(x):
        return False
    return not torch._C._is_any_autocast_enabled()


def _computed_dtype(x: Tensor, device: str) -> torch.dtype:
    # torch raises when asked about autocast on the meta device.
    autocast = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else x.dtype


def _batch_normed(norms: Sequence[Any] | None, rows: int) -> bool:
    """Return whether these are batch norms whose calls nobody would miss."""
    return (
        norms is not None
        and randomness.batch_part is None  # else the statistics are those of more rows
        and not torch.compiler.is_compiling()
        and all(type(norm) is torch.nn.BatchNorm1d and not hooked(norm) for norm in norms)
        # Of a single row torch refuses to take the statistics, and says so.
        and (rows > 1 or all(not norm.training and norm.running_mean is not None for norm in norms))
    )


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


GLOBAL_HOOKS: list[dict[int, Any]] = [
    getattr(torch.nn.modules.module, f"_global{name}") for name in HOOKS
]


def hooked(*modules: torch.nn.Module) -> bool:
    """Return whether somebody listens to the calls of these modules, or has replaced `forward`."""
    # Not a generator: this is asked of every layer in every call that is not a repetition.
    for hooks in GLOBAL_HOOKS:
        if hooks:
            return True
    for module in modules:
        own = module.__dict__
        if "forward" in own:
            return True
        for name in HOOKS:
            if own[name]:
                return True
    return False


def slope_of(activation: object) -> float | None:
    """Return the slope below zero of an activation that is known to be `z if z > 0 else slope * z`.

    None for every other one, and for a module whose calls somebody listens to.
    """
    kind = type(activation)
    if kind is torch.nn.ReLU:
        slope = 0.0
    elif kind is torch.nn.LeakyReLU:
        slope = float(activation.negative_slope)  # type: ignore[attr-defined]
    elif kind is torch.nn.Identity:
        slope = 1.0
    else:
        if activation is F.leaky_relu:
            return 0.01  # its default
        known = activation is torch.relu or activation is F.relu or activation is Tensor.relu
        return 0.0 if known else None
    return None if hooked(activation) else slope  # type: ignore[arg-type]


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

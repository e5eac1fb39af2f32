"""TODO(kernels.chain): split from _kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spinalnet._checks import InputError
from spinalnet.kernels.derivatives import _differentiable
from spinalnet.kernels.native import _native
from spinalnet.kernels.plan import _contiguous_like, _Known, _plan, _unit_rows, _unit_strides

if TYPE_CHECKING:
    from spinalnet.kernels.plan import Layout, Settings


class Watched(NamedTuple):
    """What one call of a module depended on, so that a later one need not look for it again."""

    parameters: list[Tensor]  # each once: weights, biases, output row
    # Dictionaries that held a value under a key; or, if it is an Ellipsis, nothing.
    entries: list[tuple[dict[str, Any], str, Any]]
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
            try:
                return _Chain.apply(self, known, x, *parameters)  # type: ignore[return-value]
            except InputError:
                return None  # the data of a parameter changed: the long way mends it, or says why
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
    gradient, parameters = _unit_rows(gradient), [*map(_unit_strides, parameters)]
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
            gradients = [_contiguous_like(parameter) for parameter in reversed(parameters)][::-1]
        _backward(ctx.memo, ctx.known, x, parameters, hidden, gradient, x_gradient, gradients)
        return None, None, x_gradient, *(gradients or [None] * len(parameters))

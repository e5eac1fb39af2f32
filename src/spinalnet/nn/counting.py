"""Parameters and multiply-accumulates of a model, trunk and head apart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from spinalnet._checks import InputError, check_positive
from spinalnet.nn.layers import SpinalLayer


def _calls_more(chain: SpinalLayer) -> bool:
    """Whether a layer of the chain is a module around linear maps."""
    return any(
        isinstance(part, nn.Linear)
        for layer in chain.layers
        for part in layer.modules()
        if not isinstance(layer, nn.Linear)
    )


@dataclass(frozen=True)
class Count:
    """A number for the whole model and its two parts, `total = trunk + head`.

    A model without a `head` attribute is all trunk.
    """

    total: int
    trunk: int
    head: int


def count_params(model: nn.Module) -> Count:
    """Count parameters (buffers not included), split at `model.head`."""
    total = sum(parameter.numel() for parameter in model.parameters())
    head = getattr(model, "head", None)
    of_head = sum(p.numel() for p in head.parameters()) if isinstance(head, nn.Module) else 0
    return Count(total, total - of_head, of_head)


@contextmanager
def made_for(weights: Mapping[str, Tensor], *, spare: int = 2**20) -> Iterator[None]:
    """Refuse modules, while they are made, that are too large for weights that are then loaded.

    For networks by a description that anybody may have written: a few bytes can name one that fills
    the memory, but a file that holds the weights of such a one is large itself. What other threads
    make is not counted.

    Args:
        weights: That are there.
        spare: Parameters that may be made beside twice those, for what is replaced again.

    Raises:
        InputError: With the first parameter that is too many, or too large to be had at all.
    """
    here, made = threading.get_ident(), 0
    held = sum(map(Tensor.numel, weights.values()))

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        if parameter is None or threading.get_ident() != here:
            return
        made += parameter.numel()
        if made > 2 * held + spare:
            raise InputError(
                f"it describes a network of {made:,} parameters or more, whose weights {held:,} "
                "numbers cannot be."
            )

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in ("memory", "Storage size", "overflow")):
            raise
        raise InputError("it describes a network that no memory can hold.") from error
    finally:
        handle.remove()


def count_macs(model: nn.Module, input_shape: Sequence[int]) -> Count:
    """Count multiply-accumulates of convolutions and linear maps for ONE input.

    Biases, norms, pooling and activations are not counted, nor are products of two activations
    (attention scores). Counted by forward hooks from actual output shapes: the counter that
    torch ships sees operations, so it would count our fused and packed paths differently from
    the same chain written longhand.

    Args:
        model: Any module; run once in eval mode on zeros. Its mode is restored.
        input_shape: Shape without the batch dimension, for example `(1, 28, 28)`.

    Raises:
        InputError: If the model does not take such an input; the layer is named.
    """
    counts = macs_by_module(model, input_shape)
    head = getattr(model, "head", None)
    in_head = set(head.modules()) if isinstance(head, nn.Module) else set()
    total = sum(counts.values())
    of_head = sum(macs for module, macs in counts.items() if module in in_head)
    return Count(total, total - of_head, of_head)


def macs_by_module(
    model: nn.Module,
    input_shape: Sequence[int],
    seen: Callable[[nn.Module, Tensor], None] | None = None,
) -> dict[nn.Module, int]:
    """Return the multiply-accumulates of every module that has some; see `count_macs`.

    Args:
        model: See `count_macs`.
        input_shape: See `count_macs`.
        seen: Called with every module that is called, and its output, if that is a tensor.

    Raises:
        InputError: See `count_macs`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got a {type(model).__name__}.")
    shape = _checked_shape(input_shape)
    counts: dict[nn.Module, int] = {}

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, SpinalLayer):
            rows = output.numel() // module.out_features
            counts[module] = counts.get(module, 0) + rows * module.macs()
        else:
            per_output = module.weight[0].numel()  # type: ignore[union-attr, index, operator]
            counts[module] = counts.get(module, 0) + output.numel() * per_output

    def tell(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if seen is not None and isinstance(output, Tensor):
            seen(module, output)

    kinds = (SpinalLayer, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    counted = [module for module in model.modules() if isinstance(module, kinds)]
    # A chain is counted as one. But where its layers are called, they may be more than a matrix
    # and are counted one by one.
    chains = [m for m in counted if isinstance(m, SpinalLayer) and not _calls_more(m)]
    parts = {part for chain in chains for part in chain.modules() if part is not chain}
    skipped = {m for m in counted if isinstance(m, SpinalLayer) and m not in chains} | parts
    hooks = [m.register_forward_hook(add) for m in counted if m not in skipped]
    if seen is not None:
        # With a hook on one of its layers a chain would call them, which is another path.
        hooks += [m.register_forward_hook(tell) for m in model.modules() if m not in parts]
    running: list[tuple[nn.Module, tuple[int, ...] | None]] = []  # what has begun and not ended

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0] if inputs else None
        running.append((module, tuple(first.shape) if isinstance(first, Tensor) else None))

    def end(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        running.pop()

    called = [m for m in model.modules() if m not in parts]
    hooks += [m.register_forward_pre_hook(begin) for m in called]
    hooks += [m.register_forward_hook(end) for m in called]
    modes = {module: module.training for module in model.modules()}
    anchor = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *shape, dtype=anchor.dtype, device=anchor.device))
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        raise _not_taken(model, shape, running, error) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return counts


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one input.

    Raises:
        InputError: If it is none.
    """
    try:
        return tuple(check_positive("input_shape", size) for size in input_shape)
    except (TypeError, InputError):
        raise InputError(
            "input_shape must be the sizes of one input without the batch, such as (1, 28, 28) or "
            f"(320,), got {input_shape!r}."
        ) from None


def _not_taken(
    model: nn.Module,
    shape: tuple[int, ...],
    running: Sequence[tuple[nn.Module, tuple[int, ...] | None]],
    error: Exception,
) -> InputError:
    """Say which layer does not take what an input of a shape comes to there."""
    module, got = running[-1] if running else (model, None)
    names = {part: name for name, part in model.named_modules()}
    layer = (
        f"its layer '{names[module]}', a {type(module).__name__}," if names.get(module) else "it"
    )
    got = (1, *shape) if got is None else got
    wants, channels = getattr(module, "in_features", None), getattr(module, "in_channels", None)
    if isinstance(wants, int) and wants != got[-1]:
        said = f"takes {wants} features in the last dimension"
    elif isinstance(channels, int) and channels != (got[1] if len(got) > 1 else None):
        said = f"takes {channels} channels in the second dimension"
    else:
        reason = " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
        said = f"says: {reason}"
    return InputError(
        f"{type(model).__name__} takes no input of shape {shape}: {layer} gets a tensor of shape "
        f"{got}, with the batch first, and {said}. Give the input_shape that it was made for."
    )

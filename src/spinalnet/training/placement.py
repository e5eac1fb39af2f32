"""What may be trained on, and where it runs: sources of batches, devices, precision, layout.

A model is any module that maps a batch of inputs to logits `(B, K)` (integer targets) or to values
shaped like the targets (float targets).
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.training.config import TrainConfig

Task = Literal["classification", "regression"]
Phase = Literal["features", "tuning", "train", "validate", "epoch", "note"]
Batch = tuple[Tensor, Tensor]


@runtime_checkable
class BatchSource(Protocol):
    """Data that makes its own batches, in an order that (seed, epoch) alone decide."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augment: str = "none",
        channels_last: bool = False,
    ) -> Iterator[Batch]:
        """Yield (inputs `(B, ...)`, targets `(B, ...)`) on `device`.

        While shuffling, a single left-over example belongs into the batch before: batch norm cannot
        train on it.
        """
        ...


@runtime_checkable
class HasDepth(Protocol):
    """A model that says which of its parameters are near its output, and which near its input."""

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return all parameters, in groups from the head down to the input."""
        ...


# A source, or any iterable of (inputs, targets) that can be gone through again: a DataLoader, a
# list of batches. An iterable keeps its own batch size and order.
Data = BatchSource | Iterable[Batch]


def tensors_of(model: nn.Module) -> list[Tensor]:
    """Return all parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


@dataclass(frozen=True)
class Placement:
    """Device, precision and memory layout of a model and its batches."""

    device: torch.device
    amp_dtype: torch.dtype | None
    channels_last: bool
    batch_size: int  # where nothing is trained

    def move(self, model: nn.Module) -> nn.Module:
        """Return the model where and as it will compute."""
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        if self.amp_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` (auto, cpu, cuda, mps) means here.

    Raises:
        InputError: If the device asked for by name is not here.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, found in here.items() if found), "cpu")
    elif name not in {"cpu", *here}:
        raise unknown_name("device", name, ["auto", "cpu", *here])
    elif not here.get(name, True):
        raise InputError(f"there is no {name} device here: use device=auto or device=cpu.")
    return torch.device("cuda", _dist.local_rank()) if name == "cuda" else torch.device(name)


def bf16_instructions() -> str | None:
    """Return what the processor has for bf16 products: names, "none", or None if torch can't tell.

    Without them bf16 is computed by way of float32, several times slower than float32 itself.
    """
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        return None
    found = ask()
    names = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")  # x86-64, then Arm
    if not any(name in found for name in names):
        return None
    return ", ".join(name for name in names if found.get(name)) or "none"


def advise(placement: Placement) -> str:
    """Return a sentence for the user if precision and processor do not suit each other."""
    bf16_on_cpu = placement.amp_dtype is torch.bfloat16 and placement.device.type == "cpu"
    if not bf16_on_cpu or bf16_instructions() != "none":
        return ""
    return (
        "amp=bf16: this processor has no bf16 instructions, so each step takes several times as "
        "long as in float32; amp=off is faster here."
    )


def _amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    if amp == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if amp == "fp16" and device.type != "cuda":
        raise InputError(f"amp=fp16 needs a CUDA device, not {device.type}: use amp=bf16 or off.")
    choices = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if amp not in choices:
        raise unknown_name("amp", amp, ["auto", *choices])
    return choices[amp]


def place(
    model: nn.Module, device: str | None, amp: str, channels_last: bool, batch_size: int
) -> Placement:
    """Return where and how a model computes; where it is, if `device` is `None`."""
    check_positive("batch_size", batch_size)
    if device is None:
        first = next(iter(tensors_of(model)), None)
        where = torch.device("cpu") if first is None else first.device
    else:
        where = resolve_device(device)
    return Placement(where, _amp_dtype(amp, where), channels_last, batch_size)


def batches_of(
    data: Any,
    batch_size: int,
    placement: Placement,
    *,
    shuffled_by: TrainConfig | None = None,
    epoch: int = 0,
    first: int = 0,
    own: bool = False,
) -> Iterator[Batch]:
    """Yield batches on the device; for training, in the order of `shuffled_by` and `epoch`.

    Args:
        data: A source, or batches.
        batch_size: Examples per batch of a source.
        placement: Where they go.
        shuffled_by: Whose seed and augmentation are those of the batches.
        epoch: From 0.
        first: Number of the first batch to yield. What makes no source of its own skip batches
            makes them, and they are dropped.
        own: Whether to yield the inputs of this process's rows only, with the targets of all.
    """
    made_whole = own and _dist.world_size() > 1
    if isinstance(data, BatchSource):
        options: dict[str, Any] = {"device": placement.device}
        if placement.channels_last:
            options["channels_last"] = True
        if shuffled_by is not None:
            options |= {"shuffle": True, "seed": shuffled_by.seed, "epoch": epoch}
            options["augment"] = shuffled_by.augment
        known = inspect.signature(data.batches).parameters if first or made_whole else ()
        if first and "first" in known:
            options["first"], first = first, 0
        if made_whole and "share" in known:
            options["share"], made_whole = (_dist.rank(), _dist.world_size()), False
        data = data.batches(batch_size, **options)
    for batch in itertools.islice(data, first, None) if first else data:
        inputs, targets = (batch, batch) if isinstance(batch, Tensor) else batch
        if made_whole:
            inputs = _dist.shard(inputs)
        inputs = inputs.to(placement.device, non_blocking=True)
        if placement.channels_last and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = targets.to(placement.device, non_blocking=True)
        yield inputs, targets if targets.is_floating_point() else targets.long()


def count_batches(data: Data, batch_size: int, what: str, *, shuffled: bool = False) -> int:
    """Return the number of batches; refuse data that is empty or allows one pass only."""
    if isinstance(data, BatchSource):
        count = math.ceil(len(data) / batch_size)
        joins = shuffled and batch_size > 1 and len(data) % batch_size == 1
        count -= joins and count > 1
    elif isinstance(data, Iterator) or not hasattr(data, "__len__"):
        raise InputError(
            f"the {what} must have a length and allow several passes, got {type(data).__name__}: "
            "give a source with batches(), a DataLoader of a sized data set, or a list of batches."
        )
    else:
        count = len(data)  # pyright: ignore[reportArgumentType]
    if count == 0:
        raise InputError(f"the {what} is empty: give at least one example.")
    return count


def check_fit(outputs: Tensor, targets: Tensor, *, values: bool) -> None:
    """Check that outputs and targets may meet in a loss; with `values`, the class numbers too."""
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model must return one tensor, got {type(outputs).__name__}.")
    if targets.is_floating_point():
        if outputs.shape != targets.shape:
            raise InputError(
                f"outputs have shape {tuple(outputs.shape)} but targets {tuple(targets.shape)}: "
                "they must be equal; reshape the targets (nothing is broadcast)."
            )
        return
    if outputs.ndim != 2 or targets.ndim != 1 or len(outputs) != len(targets):
        raise InputError(
            f"class targets (B,) need logits (B, K), got targets {tuple(targets.shape)} and "
            f"outputs {tuple(outputs.shape)}: use float targets for a regression."
        )
    if values:
        check_classes(targets, outputs.shape[1])


def check_classes(targets: Tensor, classes: int) -> None:
    """Check that every target is the number of a class."""
    if len(targets) == 0:
        return
    low, high = targets.aminmax()
    if int(low) < 0 or int(high) >= classes:
        raise InputError(
            f"targets must be class numbers from 0 to {classes - 1} for this model, got {int(low)} "
            f"to {int(high)}: build it with more classes or mend the labels."
        )


def at_least_float32(outputs: Tensor) -> Tensor:
    """Return half precision as float32, all else as it is."""
    return outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own training flag comes back after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True

"""The generators of the process, and draws that do not depend on how a batch is divided.

There is one set of generators, lent to one thread at a time. Where several processes compute parts
of a batch, or one process computes it part by part, every part draws for all rows of the batch and
takes its own (`part_of_batch`, `draw_rows`): what is drawn for a row is then the same however the
batch is divided, and all generators move alike.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_lent = threading.RLock()


@dataclass(frozen=True)
class BatchPart:
    """The rows that are computed here, of a batch that is computed in parts."""

    total: int  # rows of the batch
    rows: Tensor  # those that are here, in their order


batch_part: BatchPart | None = None
"""What is computed now of the batch; None where a batch is computed whole."""


@contextmanager
def part_of_batch(part: BatchPart | None) -> Iterator[None]:
    """Let draws for rows (`draw_rows`) be those of a part of a batch inside."""
    global batch_part
    before, batch_part = batch_part, part
    try:
        yield
    finally:
        batch_part = before


def draw_rows(draw: Callable[[int], Tensor], rows: int, dim: int = 0) -> Tensor:
    """Return what `draw(n)` draws for so many rows of a batch.

    Where they are a part of a batch, everything is drawn for the whole of it, and theirs is taken.
    Several rows here may come of one of the batch, and then lie side by side.

    Args:
        draw: Returns a tensor that has `n` rows along `dim`.
        rows: Number of rows.
        dim: Along which they lie.
    """
    part = batch_part
    if part is None or rows % len(part.rows) or not rows:
        return draw(rows)
    times = rows // len(part.rows)
    with part_of_batch(None):
        drawn = draw(part.total * times)
    each = drawn.unflatten(dim, (part.total, times))
    return each.index_select(dim, part.rows.to(drawn.device)).flatten(dim, dim + 1)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators as plain values and tensors, for a checkpoint."""
    import numpy as np
    import torch

    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    words_of_numpy = torch.from_numpy(np.asarray(keys).astype("int64"))
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, words_of_numpy, *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_generator_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Set all generators to what `generator_states` returned."""
    import numpy as np
    import torch

    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype("uint32"), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: code of users may draw from any of them."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def own_generators(
    devices: Sequence[torch.device] | None = (), *, enabled: bool = True
) -> Iterator[None]:
    """Leave Python's, NumPy's and torch's generators as they were, whatever is drawn inside.

    Layers draw from torch's global generator, which no thread has for itself: another thread that
    comes here waits, so that what is seeded inside is drawn by nobody else.

    Args:
        devices: GPUs whose generators are used too; None for all there are.
        enabled: Whether to do anything at all.
    """
    import numpy as np
    import torch

    if not enabled:
        yield
        return
    with _lent:
        python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            with torch.random.fork_rng(devices=None if devices is None else list(devices)):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002

"""The generators of the process, of which there is one set, lent to one thread at a time."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_lent = threading.RLock()


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

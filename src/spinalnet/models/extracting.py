"""Features made and kept: what is missing in the stores is computed, a part at a time.

After each part it is on the disk, so that an interruption costs one part at most. Processes that
want the same images take turns, part by part, and find what the others have made.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError
from spinalnet.models.engines import Engine, Extractor
from spinalnet.models.stored import FeatureStore
from spinalnet.training.loop import Progress

PART = 2048  # images: some 20 seconds of two cores, 10 MB
_TRIES = 3  # until a cache that loses what is written is given up
_WAIT = 0.5  # seconds between looks at what another process has made

# A store, the keys of the images that are wanted of it, and what reads images by their keys.
Asked = tuple[FeatureStore, list[bytes], Callable[[Sequence[bytes]], Tensor]]


class Extracting:
    """The features of images, from stores or, part by part, from an engine."""

    def __init__(
        self,
        trunk: nn.Module,
        engine: Engine,
        threads: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.trunk, self.engine, self.threads = trunk, engine, threads
        self.on_progress = on_progress
        self.extractor: Extractor | None = None  # built only if anything is missing

    def features(self, asked: Sequence[Asked]) -> list[Tensor]:
        """Return the features `(len(keys), F)` of every request.

        Raises:
            Unfit: If the engine cannot run the trunk; nothing has been computed then.
        """
        for _ in range(_TRIES):
            self._complete(asked)
            found = [store.load(keys) for store, keys, _ in asked]
            if all(features is not None for features in found):
                return [features for features in found if features is not None]
        raise InputError(
            f"the cache {asked[0][0].folder.parent} loses what is written to it: check the disk, "
            "or set XDG_CACHE_HOME to another."
        )

    def _complete(self, asked: Sequence[Asked]) -> None:
        """Compute what is missing, one part after the other, in turns with other processes."""
        pace = _Pace(self.on_progress, sum(len(keys) for _, keys, _ in asked))
        done = 0
        for store, keys, read in asked:
            while missing := store.missing(keys):
                here = done + len(keys) - len(missing)
                with store.turn() as given:
                    if not given:  # another process is computing: what it makes will be here
                        pace.at(here)
                        time.sleep(_WAIT)
                        continue
                    part = store.missing(keys)[:PART]
                    if part:
                        store.add(part, self._compute(part, read, pace, here))
            done += len(keys)

    def _compute(
        self, keys: list[bytes], read: Callable[[Sequence[bytes]], Tensor], pace: _Pace, done: int
    ) -> Tensor:
        size, made = self.engine.batch, []
        batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        with one_thread_each():
            if self.extractor is None:
                self.extractor = self.engine.build(self.trunk)
            pace.start(done)
            reads = [functools.partial(read, batch) for batch in batches]
            extracted = extract_batches(self.extractor, size, reads, self.threads)
            with contextlib.closing(extracted):  # threads end with it, however it ends
                for features in extracted:
                    made.append(features)
                    done += len(features)
                    pace.at(done)
        return torch.cat(made)


# --- progress -------------------------------------------------------------------------------------


class _Pace:
    """Tells how many images are done and how long the rest will take."""

    def __init__(self, on_progress: Callable[[Progress], None] | None, total: int) -> None:
        self.on_progress, self.total = on_progress, total
        self.begun: tuple[float, int] | None = None

    def start(self, done: int) -> None:
        """Begin to measure, if that has not begun, with so many images found done."""
        self.begun = self.begun or (time.monotonic(), done)

    def at(self, done: int) -> None:
        """Say that so many are done."""
        if self.on_progress is None:
            return
        self.start(done)
        assert self.begun is not None
        seconds, made = time.monotonic() - self.begun[0], done - self.begun[1]
        left = ""
        if made > 0:
            left = f", {_in_words(seconds / made * (self.total - done))} left"
        note = f"features: {done:,} of {self.total:,} images{left}"
        self.on_progress(Progress("features", 0, 0, step=done, steps=self.total, note=note))


def _in_words(seconds: float) -> str:
    """Return a time to wait, as exact as such estimates are."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"


# --- many batches at once -------------------------------------------------------------------------


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Let torch use one thread per call, as batches are computed side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def extract_batches(
    extractor: Extractor, batch: int, reads: Sequence[Callable[[], Tensor]], threads: int
) -> Generator[Tensor, None, None]:
    """Yield the features `(n, F)` of several batches, in their order.

    Args:
        extractor: Of whole batches.
        batch: Their size.
        reads: What makes the images `(n, C, H, W)` of each batch, n <= `batch`.
        threads: Batches that are read and computed at once.
    """
    stopped = threading.Event()

    def run(read: Callable[[], Tensor]) -> Tensor:
        if stopped.is_set():
            return torch.empty(0)
        with torch.no_grad():
            images = read()
            count = len(images)
            if count < batch:
                images = torch.cat([images, images.new_zeros(batch - count, *images.shape[1:])])
            return extractor(images)[:count].clone()

    # Each thread is told: OpenMP counts threads for every thread that calls it.
    one_each = functools.partial(torch.set_num_threads, 1)
    with ThreadPoolExecutor(threads, "spinalnet-features", one_each) as pool:
        try:
            yield from pool.map(run, reads)
        finally:
            stopped.set()

"""The processes of one `torchrun` job; with a single process every function is a no-op.

Under `torchrun` all processes run the same program. Each takes its rows of every global batch
(`shard`), gradients are averaged by DistributedDataParallel, and only the main process writes.
Batches may have fewer rows than there are processes: one without rows computes the first row and
counts it for nothing (`is_filler`), so that all take part in what all must take part in.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from spinalnet._checks import SpinalnetError

# The others wait while the main process measures on test data or makes features. A process that
# dies is noticed by its closed connections, long before.
_PATIENCE = timedelta(hours=12)
# One that has not come yet has no connection: it may still be loading, on another machine.
_ASSEMBLY = timedelta(minutes=30)


class ProcessLost(SpinalnetError, RuntimeError):
    """Another process of the job has ended, so that this one cannot go on."""

    exit_code = 1


def world_size() -> int:
    """Return how many processes train together: 1 without `torchrun`."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def rank() -> int:
    """Return this process's number, 0 to `world_size() - 1`."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def local_rank() -> int:
    """Return this process's number on its own machine: the index of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this process is the one that writes files."""
    return rank() == 0


def connect(device: torch.device) -> None:
    """Join the job's process group once: NCCL between GPUs, gloo otherwise.

    Raises:
        ProcessLost: If the others do not come.
    """
    if world_size() > 1 and not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        _join_in_background(lambda: dist.init_process_group(backend, timeout=_PATIENCE))
        atexit.register(_disconnect)


def _join_in_background(join: Callable[[], None]) -> None:
    """Wait for the others in Python: torch waits where no signal is answered.

    `torchrun` tells a process to end whose mate was killed before it came, and kills it half a
    minute later, without a word.
    """
    failed: list[Exception] = []

    def work() -> None:
        try:
            join()
        except Exception as error:
            failed.append(error)

    waiting = threading.Thread(target=work, daemon=True)
    waiting.start()
    until = time.monotonic() + _ASSEMBLY.total_seconds()
    while waiting.is_alive():
        waiting.join(0.1)
        if waiting.is_alive() and time.monotonic() > until:
            raise ProcessLost(
                f"process {rank()} of {world_size()} stops, as not all others have come within "
                f"{_ASSEMBLY.total_seconds() / 60:.0f} minutes: see what they said, and start all "
                "again."
            )
    if failed:
        raise failed[0]


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait until every process has come this far."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Run the block in the main process, then in the others: they find the files it has made.

    If it fails in the main process, the others wait until `torchrun` ends them.
    """
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def own_rows(total: int, number: int, processes: int) -> range:
    """Return which rows of a global batch a process computes: every `processes`-th.

    Args:
        total: Rows of the batch, one at least.
        number: Of the process, from 0.
        processes: How many there are. One beyond the rows gets the first row, see `is_filler`.
    """
    return range(number, total, processes) if number < total else range(1)


def is_filler(total: int) -> bool:
    """Return whether this process has no rows of its own in a batch of so many."""
    return rank() >= total


def shard(batch: Tensor) -> Tensor:
    """Return this process's rows of a global batch, see `own_rows`."""
    if world_size() == 1:
        return batch
    rows = own_rows(len(batch), rank(), world_size())
    return batch[rows.start : rows.stop : rows.step]


def gather_rows(own: Tensor, total: int) -> Tensor:
    """Return the global batch of which every process has its rows.

    Args:
        own: This process's rows, see `own_rows`.
        total: Rows of the batch.
    """
    world = world_size()
    if world == 1:
        return own
    most = -(-total // world)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own
    pieces = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(pieces, padded)
    return torch.stack(pieces, 1).flatten(0, 1)[:total]


def most_of_all(values: list[float], device: torch.device) -> list[float]:
    """Return the largest of each value over all processes."""
    if world_size() == 1:
        return values
    largest = torch.tensor(values, dtype=torch.float32, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def copy_from_main(tensors: Iterable[Tensor]) -> None:
    """Overwrite `tensors` with the main process's."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """Return the elementwise sum of `values` over all processes, on the CPU.

    Args:
        values: The same shape in every process; on the CPU.
        device: Where the process group communicates.
    """
    if world_size() == 1:
        return values
    total = values.to(device)
    dist.all_reduce(total)
    return total.cpu()


_OF_LOST = re.compile(
    r"connection (reset|closed|refused)|broken pipe|socket|peer|NCCL|timed out|gloo", re.IGNORECASE
)


@contextmanager
def telling_of_lost() -> Iterator[None]:
    """Say in a sentence that another process has ended, where torch says which socket has closed.

    Raises:
        ProcessLost: If an operation of all processes fails.
    """
    try:
        yield
    except RuntimeError as error:  # torch has no common class for it
        if (
            world_size() == 1
            or isinstance(error, SpinalnetError)
            or not _OF_LOST.search(str(error))
        ):
            raise
        raise ProcessLost(
            f"process {rank()} of {world_size()} stops, as another has ended (what it said stands "
            "above, if anything; a process that was killed says nothing). Finished epochs are "
            "saved: the same command goes on from there, also with another number of processes."
        ) from error

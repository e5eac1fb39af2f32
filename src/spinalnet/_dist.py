"""The processes of one `torchrun` job; with a single process every function is a no-op.

Under `torchrun` all processes run the same program. Each takes its rows of every global batch
(`shard`), gradients are averaged by DistributedDataParallel, and only the main process writes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


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
    """Join the job's process group once: NCCL between GPUs, gloo otherwise."""
    if world_size() > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_disconnect)


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


def shard(batch: Tensor) -> Tensor:
    """Return this process's rows of a global batch: every `world_size()`-th, from `rank()` on."""
    return batch if world_size() == 1 else batch[rank() :: world_size()]


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

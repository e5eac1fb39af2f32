"""What is drawn of data: seeds of streams, the order of an epoch, stratified choices."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from spinalnet._checks import check_positive


def stream_seed(*key: int | str) -> int:
    """Return a 63-bit seed that differs, without patterns, for every key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def epoch_order(num_samples: int, shuffle: bool, seed: int, epoch: int) -> Tensor:
    """Return the order of one epoch; drawn on the CPU so that it is the same on every device."""
    if not shuffle:
        return torch.arange(num_samples)
    generator = torch.Generator().manual_seed(stream_seed("order", seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def batch_slices(num_samples: int, batch_size: int, shuffle: bool) -> list[slice]:
    """Cut an epoch into batches of `batch_size`; the last one may be smaller."""
    check_positive("batch_size", batch_size)
    starts = list(range(0, num_samples, batch_size))
    # A single left-over sample has no variance, and batch norm cannot train on it: while
    # shuffling (training) it joins the batch before.
    if shuffle and batch_size > 1 and len(starts) > 1 and num_samples - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num_samples], strict=True)]


def stratified(
    targets: Tensor, total: int, *key: int | str, keep_train: int
) -> tuple[Tensor, Tensor]:
    """Pick `total` indices with every class in proportion; return (picked, rest), sorted.

    Every class gives at least one sample and keeps at least `keep_train`, even where that makes
    the picked ones more or fewer than `total`.
    """
    generator = torch.Generator().manual_seed(stream_seed(*key))
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
    _, counts = torch.unique(targets, return_counts=True)
    most = counts - keep_train
    ideal = counts.double() * total / len(targets)
    quota = torch.minimum(ideal.floor().long().clamp(min=1), most)
    while quota.sum() < min(total, int(most.sum())):  # the largest remainders get what is left
        quota[torch.where(quota < most, ideal - quota, -torch.inf).argmax()] += 1
    while quota.sum() > max(total, len(counts)):
        quota[torch.where(quota > 1, ideal - quota, torch.inf).argmin()] -= 1
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(targets)) - torch.repeat_interleave(starts, counts)
    chosen = rank < torch.repeat_interleave(quota, counts)
    return by_class[chosen].sort().values, by_class[~chosen].sort().values

"""Batches that are computed in parts, by processes or one after another as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from spinalnet import _dist
from spinalnet._checks import InputError
from spinalnet.randomness import BatchPart, generator_states, set_generator_states
from spinalnet.training import trouble
from spinalnet.training.together import in_part

if TYPE_CHECKING:
    from spinalnet.training.config import TrainConfig

_NORMS_OF_PARTS = (
    "Batch normalisation takes its statistics from each part of a batch alone, so that the result "
    "with accumulate is not that of whole batches; other norms, or keep_statistics, give the same."
)


class Compute(Protocol):
    """Finds the gradients of some rows of a batch."""

    def __call__(
        self, inputs: Tensor, targets: Tensor, part: Tensor, wanted: Tensor, first: bool, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return (their share of the mean loss, right answers), their gradients being added.

        Args:
            inputs: Of these rows.
            targets: Theirs.
            part: What is wanted of them.
            wanted: What is wanted of the whole batch.
            first: Whether older gradients are dropped before.
            last: Whether no more rows of the batch follow in this process.
        """
        ...


class Parts:
    """Divides batches, and finds out how far they must be divided if it may decide.

    Args:
        config: How to train.
        device: Where.
        notes: Takes sentences for the user, each once.

    Raises:
        InputError: If it should decide for one of several processes.
    """

    def __init__(self, config: TrainConfig, device: torch.device, notes: list[str]) -> None:
        self.config, self.device, self.notes = config, device, notes
        self.count = max(1, config.accumulate)
        self.fewest = 1  # rows of a part
        self.divides = _dist.world_size() > 1 or config.accumulate != 1
        if config.accumulate == 0 and _dist.world_size() > 1:
            raise InputError(
                "of several processes each may find memory short for itself, so that accumulate=0 "
                "cannot choose: give a number of parts, such as accumulate=2."
            )

    def prepare(self, *, normed: bool) -> None:
        """Hear whether statistics of batches are taken in the coming epoch."""
        self.fewest = 2 if normed else 1
        if normed and self.config.accumulate > 1:
            self.note(_NORMS_OF_PARTS)

    def note(self, sentence: str) -> None:
        """Tell the user something, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def find(
        self, compute: Compute, model: nn.Module, inputs: Tensor, targets: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Compute a batch in parts, in more of them if memory is short and this may decide.

        Args:
            compute: See there.
            model: Whose statistics an attempt that fails must leave as they were.
            inputs: Of this process's rows.
            targets: Of all rows, as the next.
            wanted: What is wanted of them.

        Returns:
            This process's share of the mean loss, and of the right answers.

        Raises:
            MemoryShort: If memory does not do.
        """
        most = max(1, len(targets) // (_dist.world_size() * self.fewest))
        automatic = self.config.accumulate == 0
        before = generator_states(self.device) if automatic else None
        statistics = [b.clone() for b in model.buffers()] if automatic else []
        while True:
            count = min(self.count, most)
            try:
                return self._find_in(compute, count, inputs, targets, wanted)
            except Exception as error:
                if not trouble.is_of_memory(error):
                    raise
                if before is None or count == most:
                    raise self.too_large(error, count) from error
                size = trouble.asked_for(error)
            # Here nothing holds the tensors of the attempt any more.
            model.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            set_generator_states(before, self.device)
            for buffer, kept in zip(model.buffers(), statistics, strict=True):
                buffer.copy_(kept)
            self.count = min(2 * count, most)
            self.note(
                f"Memory is short{size}: batches of {self.config.batch_size} are computed in "
                f"{self.count} parts, one after another, to the same gradients. accumulate="
                f"{self.count} begins so."
            )
            if self.fewest > 1:
                self.note(_NORMS_OF_PARTS)

    def _find_in(
        self, compute: Compute, count: int, inputs: Tensor, targets: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Compute this process's rows of a batch in so many parts; gradients add up."""
        own = torch.tensor(_dist.own_rows(len(targets), _dist.rank(), _dist.world_size()))
        targets_here, wanted_here = _dist.shard(targets), _dist.shard(wanted)
        real = not _dist.is_filler(len(targets))
        loss, correct = torch.zeros((), device=self.device), None
        states = generator_states(self.device) if count > 1 else None
        for number, rows in enumerate(torch.arange(len(own)).tensor_split(count)):
            if number and states is not None:  # each part draws for the whole batch
                set_generator_states(states, self.device)
            here = slice(int(rows[0]), int(rows[-1]) + 1)
            with in_part(BatchPart(len(targets), own[here]), real):
                part_loss, right = compute(
                    *(inputs[here], targets_here[here], wanted_here[here], wanted),
                    first=number == 0,
                    last=number == count - 1,
                )
            loss = loss + part_loss
            if right is not None:
                correct = right if correct is None else correct + right
        return loss, correct

    def too_large(self, error: Exception, count: int) -> trouble.MemoryShort:
        """Return what to say of a batch that does not fit in memory in so many parts."""
        config, size = self.config, trouble.asked_for(error)
        advice = (
            f"set accumulate={2 * count}, which computes a batch in {2 * count} parts to the same "
            "gradients, or batch_size=auto, which finds how many; or "
        )
        if config.accumulate == 0:
            advice = "not even the smallest parts fit: take a smaller model or smaller images, or "
        among = f" in {count} parts" if count > 1 else ""
        return trouble.MemoryShort(
            f"out of memory in training at batch_size={config.batch_size}{among}{size}: {advice}"
            "lower batch_size, or run fewer at a time (jobs=1)."
        )

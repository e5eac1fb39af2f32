"""Dropout masks as bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spinalnet.kernels.native import extension
from spinalnet.randomness import draw_rows


class Masks(Sequence[Tensor]):
    """Dropout masks as bits, which the kernels read; as a sequence, the same as numbers.

    Drawing them takes a few instructions for 512 numbers. Drawn from one number of torch's default
    generator, so `torch.manual_seed` repeats them.

    Args:
        rows: B.
        segments: Of every mask, the numbers of columns that follow each other; each begins a word.
        dropout: Probability of a zero.
        dtype: Of the masks as numbers.
    """

    def __init__(
        self, rows: int, segments: Sequence[tuple[int, ...]], dropout: float, dtype: torch.dtype
    ) -> None:
        self.segments = segments
        self.scale = 1.0 / (1.0 - dropout)
        self.dtype = dtype
        self.words_per_row = sum(_words(width) for mask in segments for width in mask)
        seed = torch.empty((), dtype=torch.int64).random_().item()

        def draw(rows: int) -> Tensor:
            words = torch.empty(rows, self.words_per_row, dtype=torch.int32)
            extension.draw(seed, 1.0 - dropout, words.data_ptr(), words.numel())
            return words

        self.words = draw_rows(draw, rows)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, index: Any) -> Any:
        """Return a mask as numbers, 0 or 1 / (1 - dropout). Shape `(B, columns)`."""
        start = sum(_words(width) for mask in self.segments[:index] for width in mask)
        parts = []
        for width in self.segments[index]:
            words = self.words[:, start : start + _words(width), None]
            bits = words >> torch.arange(_WORD, dtype=torch.int32) & 1
            parts.append(bits.flatten(1)[:, :width])
            start += _words(width)
        return torch.cat(parts, dim=1).to(self.dtype).mul_(self.scale)


_WORD = 32  # bits


def _words(columns: int) -> int:
    return (columns + _WORD - 1) // _WORD


def can_draw(x: Tensor) -> bool:
    """Whether `Masks` can be drawn for `x`, if nothing is traced or transformed."""
    return extension is not None and x.is_cpu

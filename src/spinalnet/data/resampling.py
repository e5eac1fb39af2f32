"""Which examples of a data set are its test part, where the parts are drawn anew.

A fold or a random split is a pure function of what is asked, so any process draws the same. No
group (of one patient, one camera, one day) lies in two parts, and nothing is trained on the future.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spinalnet._checks import InputError, check_positive


@dataclass(frozen=True)
class Resample:
    """One way to draw a test part from all examples.

    Attributes:
        kind: "fold": one of `count` parts of equal size, each of which is the test part once;
            "split": a random part of the size `fraction`.
        index: Number of the fold (below `count`), or of the random split.
        count: Number of folds; 0 for random splits.
        repeat: Number of the repetition of all folds, each of which draws them anew.
        fraction: Share of the examples in the test part of a random split.

    Raises:
        InputError: If a number is out of range.
    """

    kind: Literal["fold", "split"]
    index: int
    count: int = 0
    repeat: int = 0
    fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.kind == "fold":
            if check_positive("folds", self.count) < 2:
                raise InputError(f"folds must be at least 2, got {self.count}.")
            if not 0 <= self.index < self.count:
                raise InputError(f"a fold is numbered from 0 to {self.count - 1}: {self.index}.")
        if self.kind == "split" and not 0.0 < self.fraction < 1.0:
            raise InputError(f"the test part must be in (0, 1) of all, got {self.fraction!r}.")

    @property
    def overlap(self) -> float:
        """Test examples over the others, as the corrected resampled t test wants it."""
        if self.kind == "fold":
            return 1.0 / (self.count - 1)
        return self.fraction / (1.0 - self.fraction)

    @property
    def name(self) -> str:
        """As it stands in the name of a run's folder."""
        return f"split{self.index}" if self.kind == "split" else f"r{self.repeat}f{self.index}"

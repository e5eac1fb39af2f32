"""Which examples of a data set are its test part, where the parts are drawn anew.

A fold or a random split is a pure function of what is asked, so any process draws the same. No
group (of one patient, one camera, one day) lies in two parts, and nothing is trained on the future.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

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


def draw_parts(
    resample: Resample,
    count: int,
    *,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the training and the test part of `count` examples; a pure function of its arguments.

    Args:
        resample: Which fold or split.
        count: Number of examples.
        strata: Classes, `(count,)`, whose shares all parts have as far as groups allow; None for a
            regression.
        groups: Groups, `(count,)`, each of which lies in one part.
        times: Times, `(count,)`: fold k of K is tested on the k-th block after the first, in the
            order of time, and trained on what lies before it.

    Returns:
        Places of the training examples and of the test examples, both rising.

    Raises:
        InputError: If there are too few examples, classes' examples or groups, or the kinds do not
            go together.
    """
    from sklearn import model_selection as sk

    if times is not None:
        return _before_and_after(resample, np.asarray(times), groups)
    if groups is not None:
        _, groups = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    _check_counts(resample, count, strata, groups)
    places = np.arange(count)
    if resample.kind == "fold":
        kinds = {
            (False, False): sk.KFold,
            (True, False): sk.StratifiedKFold,
            (False, True): sk.GroupKFold,
            (True, True): sk.StratifiedGroupKFold,
        }
        kind = kinds[strata is not None, groups is not None]
        splitter = kind(resample.count, shuffle=True, random_state=resample.repeat)
        found = list(splitter.split(places, strata, groups))[resample.index]
    elif groups is None:
        splitter = sk.StratifiedShuffleSplit if strata is not None else sk.ShuffleSplit
        drawn = splitter(1, test_size=resample.fraction, random_state=resample.index)
        try:
            found = next(iter(drawn.split(places, strata)))
        except ValueError as error:
            raise InputError(f"the examples cannot be split: {error}") from error
    else:
        drawn = sk.GroupShuffleSplit(1, test_size=resample.fraction, random_state=resample.index)
        found = next(iter(drawn.split(places, strata, groups)))
    train, test = (np.sort(part) for part in found)
    return train, test


def _check_counts(
    resample: Resample, count: int, strata: np.ndarray | None, groups: np.ndarray | None
) -> None:
    needed = resample.count if resample.kind == "fold" else 2
    what = f"{needed} folds need" if resample.kind == "fold" else "a training and a test part need"
    if count < needed:
        raise InputError(f"{what} at least {needed} examples, got {count}.")
    if groups is not None and (found := int(groups.max()) + 1) < needed:
        raise InputError(f"{what} at least {needed} groups, got {found}.")
    if strata is not None:
        classes, counts = np.unique(strata, return_counts=True)
        if counts.min() < needed:
            few = classes.tolist()[int(counts.argmin())]
            raise InputError(
                f"{what} {needed} examples of each class, but class {few!r} has {counts.min()}: "
                "leave it out, join it with another, or add examples."
            )


def _before_and_after(
    resample: Resample, times: np.ndarray, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Train on what lies before a block of time, test on the block; equal times stay together."""
    if groups is not None:
        raise InputError("group and time cannot both decide what lies in a part: give one.")
    if resample.repeat:
        raise InputError("folds in the order of time are the same in every repeat: give repeats=1.")
    blocks = resample.count if resample.kind == "fold" else 1
    share = 1 / (blocks + 1) if resample.kind == "fold" else resample.fraction
    index = resample.index
    if resample.kind == "split" and index:
        raise InputError("one split in the order of time is all there is: give folds instead.")
    order = np.argsort(times, kind="stable")
    ends = [round(len(times) * (1 - share * (blocks - k))) for k in range(blocks + 1)]
    # A border moves back to where its time begins.
    starts = [
        int(np.searchsorted(times[order], times[order][min(e, len(times) - 1)])) for e in ends
    ]
    starts[-1] = len(times)
    train, test = order[: starts[index]], order[starts[index] : starts[index + 1]]
    if not len(train) or not len(test):
        raise InputError(
            f"fold {index} in the order of time has no examples: there are too few different times."
        )
    return np.sort(train), np.sort(test)


def hold_out(
    fraction: float,
    seed: int,
    count: int,
    *,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return places of (the rest, a validation part), by the same rules as `draw_parts`."""
    index = 0 if times is not None else seed
    asked = Resample("split", index, fraction=fraction)
    return draw_parts(asked, count, strata=strata, groups=groups, times=times)

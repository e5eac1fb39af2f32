"""Which examples of a data set are its test part, where the parts are drawn anew.

A fold or a random split is a pure function of what is asked, so any process draws the same. No
group (of one patient, one camera, one day) lies in two parts, and nothing is trained on the future.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

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
    resample: Resample, n: int, *, strata: Any = None, groups: Any = None, times: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the training and the test rows of a fold or a random split; a pure function.

    Args:
        resample: Which fold or split.
        n: Number of examples.
        strata: Class of every example, `(n,)`, whose shares all parts have.
        groups: Group of every example, `(n,)`, no group in two parts.
        times: Time of every example, `(n,)`, as numbers: nothing is trained on what is as late as
            the first test example or later.

    Returns:
        Numbers of the training and of the test examples, both rising.

    Raises:
        InputError: If there are too few examples, groups or times for it.
    """
    if times is not None:
        train, test = _in_time(resample, np.asarray(times), groups)
    else:
        train, test = _at_random(resample, n, strata, groups)
    return np.sort(train), np.sort(test)


def _at_random(
    resample: Resample, n: int, strata: Any, groups: Any
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import model_selection as drawing

    parts = resample.count if resample.kind == "fold" else 2
    what = f"{parts} folds" if resample.kind == "fold" else "a training and a test part"
    found, of_what = (n, "examples") if groups is None else (len(np.unique(groups)), "groups")
    if found < parts:
        raise InputError(f"{what} need at least {parts} {of_what}, got {found}.")
    if resample.kind == "fold":
        kinds = {
            (False, False): drawing.KFold,
            (True, False): drawing.StratifiedKFold,
            (False, True): drawing.GroupKFold,
            (True, True): drawing.StratifiedGroupKFold,
        }
        kind = kinds[strata is not None, groups is not None]
        splitter: Any = kind(resample.count, shuffle=True, random_state=resample.repeat)
    else:
        kind = drawing.ShuffleSplit if strata is None else drawing.StratifiedShuffleSplit
        kind = kind if groups is None else drawing.GroupShuffleSplit
        splitter = kind(1, test_size=resample.fraction, random_state=resample.index)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        try:
            drawn = list(splitter.split(np.zeros(n), strata, groups))
        except ValueError as error:
            raise InputError(f"{what} cannot be drawn of {n} examples: {error}") from error
    return drawn[resample.index if resample.kind == "fold" else 0]


def _in_time(resample: Resample, times: np.ndarray, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Test on a stretch of time, train on what was before."""
    n = len(times)
    if resample.kind == "fold":
        # The first of count + 1 stretches is never a test part: nothing was before it.
        share = n / (resample.count + 1)
        first = round(share * (resample.index + 1))
        last = round(share * (resample.index + 2))
    else:
        size = max(1, round(n * resample.fraction))
        latest = n - size
        drawn = np.random.default_rng(resample.index).random()
        first = latest - int(drawn * (latest / 2))
        last = first + size
    ordered = np.sort(times)
    if n < 2 or first >= n:
        raise InputError(f"a test part in the order of time needs at least 2 examples, got {n}.")
    begin, end = ordered[first], ordered[min(last, n) - 1]
    test = np.flatnonzero((times >= begin) & (times <= end))
    train = np.flatnonzero(times < begin)
    if groups is not None:
        groups = np.asarray(groups)
        train = train[~np.isin(groups[train], groups[test])]
    if not len(train):
        raise InputError(
            "a test part in the order of time needs training examples before it"
            f"{', of other groups' if groups is not None else ''}: there are none. Give fewer "
            "folds or more times."
        )
    return train, test

"""Which examples of a data set are its test part, where the parts are drawn anew.

A fold or a random split is a pure function of what is asked, so any process draws the same. No
group (of one patient, one camera, one day) lies in two parts, and nothing is trained on the future.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from spinalnet._checks import InputError, check_positive
from spinalnet.data.order import stratified, stream_seed

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


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


Rows = np.ndarray
"""Numbers of examples, int64, rising."""


def draw_parts(
    resample: Resample,
    n: int,
    *,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    times: ArrayLike | None = None,
) -> tuple[Rows, Rows]:
    """Draw the training and the test part of one fold or one random split.

    The folds of one repetition are disjoint. Without `times` they cover all examples, and training
    takes all that is not tested. With `times` the examples are cut into count + 1 stretches of
    time: fold k is tested on stretch k + 1 and trained on all before it, so the first stretch is
    never tested.

    Args:
        resample: Which fold or split.
        n: Number of examples.
        strata: Class of each example, `(n,)`: every part holds the classes in proportion, as far
            as groups allow.
        groups: Group of each example, `(n,)`: no group lies in two parts. In the order of time
            earlier examples of a group that is tested are left out.
        times: When each example was taken, `(n,)`, anything that can be sorted. Examples of one
            time are all on one side of a border.

    Returns:
        Rows to train on and rows to test on.

    Raises:
        InputError: If there are fewer examples, groups, times, or examples of a class than parts,
            a class could not be learned, or time is to be drawn at random.
    """
    labels, belongs, when = (
        _column(name, values, n)
        for name, values in (("strata", strata), ("groups", groups), ("times", times))
    )
    parts = resample.count if resample.kind == "fold" else 2
    what = f"{parts} folds" if resample.kind == "fold" else "a training and a test part"
    if n < parts:
        raise InputError(f"{what} need at least {parts} examples, got {n}: give more.")
    if belongs is not None and (found := len(np.unique(belongs))) < parts:
        raise InputError(
            f"{what} need at least {parts} groups, got {found}: give more, or ask for fewer folds."
        )
    if when is not None:
        return _forward(resample, when, belongs)
    if labels is not None:
        _check_classes(labels, belongs, parts if belongs is None else 2, what)
    if resample.kind == "fold":
        train, test = _fold(resample, n, labels, belongs)
    else:
        total = min(n - 1, max(1, round(resample.fraction * n)))
        codes = _codes(labels, n)
        test, train = _some(codes, belongs, total, "split", resample.index)
    if labels is not None:
        _check_learnable(labels, train, what)
    return train, test


def validation_rows(
    train_rows: Rows,
    fraction: float,
    seed: int,
    *,
    strata: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    times: ArrayLike | None = None,
) -> tuple[Rows, Rows]:
    """Take a validation part from a training part, by the rules of `draw_parts`.

    Args:
        train_rows: Numbers of the examples that may be trained on.
        fraction: Share of them to validate on.
        seed: Seed of the draw; without effect where there are `times`.
        strata: Class of each example of all, training or not, `(n,)`.
        groups: Group of each, `(n,)`.
        times: When each was taken, `(n,)`: the last ones validate.

    Returns:
        Rows to train on and rows to validate on, both out of `train_rows`.

    Raises:
        InputError: If all groups, or all times, are needed for one of the parts.
    """
    rows = np.asarray(train_rows)
    total = round(fraction * len(rows))
    belongs = None if groups is None else np.asarray(groups)[rows]
    if times is not None:
        rest, chosen = _last(np.asarray(times)[rows], belongs, max(1, total))
    else:
        codes = _codes(None if strata is None else np.asarray(strata)[rows], len(rows))
        chosen, rest = _some(codes, belongs, total, "val", seed)
    return rows[rest], rows[chosen]


def set_apart(
    strata: ArrayLike, total: int, *key: int | str, groups: ArrayLike | None, keep_train: int
) -> tuple[Rows, Rows]:
    """Pick about `total` rows with every class in proportion and no group divided.

    Args:
        strata: Class of each example, integers, `(n,)`.
        total: Number of rows to pick.
        key: Key of the draw.
        groups: Group of each, `(n,)`, or None.
        keep_train: Examples that every class keeps; with groups it keeps one whole group.

    Returns:
        Picked rows and the others.

    Raises:
        InputError: If no group can be spared.
    """
    belongs = None if groups is None else np.asarray(groups)
    return _some(np.asarray(strata), belongs, total, *key, keep_train=keep_train)


# --- classes and groups ---------------------------------------------------------------------------


def _column(name: str, values: ArrayLike | None, n: int) -> np.ndarray | None:
    if values is None:
        return None
    column = np.asarray(values)
    if column.shape != (n,):
        raise InputError(f"{name} must have one value per example, ({n},), got {column.shape}.")
    return column


def _codes(labels: np.ndarray | None, n: int) -> np.ndarray:
    """Return classes as numbers; without classes all examples are of one."""
    if labels is None:
        return np.zeros(n, dtype=np.int64)
    return np.unique(labels, return_inverse=True)[1]


def _check_classes(labels: np.ndarray, belongs: np.ndarray | None, fewest: int, what: str) -> None:
    """See that every class has as many examples as there are parts, or lies in two groups."""
    names, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    of_what = "example"
    if belongs is not None:
        pairs = np.unique(np.stack([codes, _codes(belongs, len(codes))]), axis=1)
        counts, of_what = np.bincount(pairs[0], minlength=len(names)), "group"
    rare = counts.argmin()
    if counts[rare] < fewest:
        number = int(counts[rare])
        raise InputError(
            f"class {names.tolist()[rare]!r} has {number} {of_what}{'s' * (number != 1)}, but "
            f"{what} need {fewest} of each class: give more, leave the class out, or ask for "
            "fewer folds."
        )


def _check_learnable(labels: np.ndarray, train: Rows, what: str) -> None:
    missing = np.setdiff1d(labels, labels[train]).tolist()
    if missing:
        raise InputError(
            f"class {missing[0]!r} lies in so few groups that {what} leave it a test part and "
            "nothing to train on: give more groups, leave the class out, or ask for other folds."
        )


def _fold(
    resample: Resample, n: int, labels: np.ndarray | None, belongs: np.ndarray | None
) -> tuple[Rows, Rows]:
    from sklearn import model_selection

    options = {"shuffle": True, "random_state": stream_seed("folds", resample.repeat) % 2**32}
    codes = _codes(labels, n)
    if belongs is None:
        splitter: Any = model_selection.StratifiedKFold(resample.count, **options)
        return list(splitter.split(codes, codes))[resample.index]
    splitter = model_selection.StratifiedGroupKFold(resample.count, **options)
    # Where classes cannot be had in proportion they may leave a fold empty, or a class untrained:
    # then the folds are at least of equal size, for all folds of the repetition alike.
    for strata in (codes, np.zeros_like(codes)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class")
            drawn = list(splitter.split(codes, strata, belongs))
        if all(len(test) and len(np.unique(codes[train])) > codes.max() for train, test in drawn):
            break
    return drawn[resample.index]


def _some(
    codes: np.ndarray, belongs: np.ndarray | None, total: int, *key: int | str, keep_train: int = 1
) -> tuple[Rows, Rows]:
    """Pick about `total` rows at random; return them and the rest."""
    if belongs is None:
        picked, rest = stratified(torch.from_numpy(codes), total, *key, keep_train=keep_train)
        return picked.numpy(), rest.numpy()
    group = _codes(belongs, len(codes))
    chosen = np.isin(group, _some_groups(codes, group, total, *key))
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


_DRAWS = 16  # random selections of groups, of which that nearest to the classes' shares is taken


def _some_groups(codes: np.ndarray, group: np.ndarray, total: int, *key: int | str) -> list[int]:
    """Pick groups at random that together hold about `total` rows, classes in proportion."""
    table = np.zeros((group.max() + 1, codes.max() + 1))  # (groups, classes)
    np.add.at(table, (group, codes), 1)
    wanted = table.sum(0) * total / len(codes)
    generator = np.random.default_rng(stream_seed("groups", *key))
    drawn = [_selection(table, wanted, generator.permutation(len(table))) for _ in range(_DRAWS)]
    if not any(drawn):
        raise InputError(
            f"no group can be set apart: with {len(table)} group{'s' * (len(table) > 1)} every one "
            "is the last of some class; give more groups, or leave out group."
        )

    def distance(picked: list[int]) -> float:
        return float((((table[picked].sum(0) - wanted) ** 2) / table.sum(0)).sum())

    return min(filter(None, drawn), key=distance)


def _selection(table: np.ndarray, wanted: np.ndarray, order: np.ndarray) -> list[int]:
    """Pick groups in this order, each that brings the classes nearer to what is wanted.

    Every class keeps a group; and gives one, if need be its smallest, where it can spare it.
    """
    counts, held = table.sum(0), table > 0
    have, left = np.zeros_like(wanted), held.sum(0)  # examples picked; groups not picked
    picked: dict[int, None] = {}

    def pick(one: int) -> None:
        nonlocal have, left
        picked[one] = None
        have, left = have + table[one], left - held[one]

    def spare(one: int) -> bool:
        return one not in picked and bool((left[held[one]] > 1).all())

    for one in order.tolist():
        nearer = ((wanted - have) ** 2 - (wanted - have - table[one]) ** 2) / counts
        if nearer.sum() > 0 and spare(one):
            pick(one)
    by_size = order[np.argsort(table.sum(1)[order], kind="stable")].tolist()
    for kind in range(len(wanted)):
        if have[kind] == 0:
            smallest = next((one for one in by_size if held[one, kind] and spare(one)), None)
            if smallest is not None:
                pick(smallest)
    return list(picked)


# --- time -----------------------------------------------------------------------------------------


def _forward(
    resample: Resample, times: np.ndarray, belongs: np.ndarray | None
) -> tuple[Rows, Rows]:
    """Test on a stretch of time, train on what lies before it."""
    if resample.kind == "split" or resample.repeat:
        asked = "random splits" if resample.kind == "split" else "repeated folds"
        raise InputError(
            f"in the order of time there is one way to draw the parts, so {asked} cannot be had: "
            "give folds, and repeats=1."
        )
    count, n = resample.count, len(times)
    size = n // (count + 1)
    borders = [*_borders(times, [n - (count - k) * size for k in range(count)]), n]
    order = np.argsort(times, kind="stable")
    before, here = borders[resample.index], borders[resample.index + 1]
    return _without_tested(np.sort(order[:before]), np.sort(order[before:here]), belongs)


def _last(times: np.ndarray, belongs: np.ndarray | None, total: int) -> tuple[Rows, Rows]:
    """Cut the last `total` rows off, at a border between two times."""
    border = _borders(times, [len(times) - total])[0]
    order = np.argsort(times, kind="stable")
    return _without_tested(np.sort(order[:border]), np.sort(order[border:]), belongs)


def _borders(times: np.ndarray, wanted: list[int]) -> list[int]:
    """Return rising places in the order of time where it changes, each as near as can be."""
    ordered = np.sort(times)
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    if len(changes) < len(wanted):
        raise InputError(
            f"{len(wanted)} part{'s' * (len(wanted) > 1)} in the order of time need at least "
            f"{len(wanted) + 1} different times, got {len(changes) + 1}: ask for fewer folds."
        )
    found: list[int] = []
    first = 0
    for k, place in enumerate(wanted):
        allowed = changes[first : len(changes) - (len(wanted) - k - 1)]
        nearest = int(np.abs(allowed - place).argmin())
        found.append(int(allowed[nearest]))
        first += nearest + 1
    return found


def _without_tested(train: Rows, test: Rows, belongs: np.ndarray | None) -> tuple[Rows, Rows]:
    """Leave the groups of the test rows out of the training rows."""
    if belongs is not None:
        train = train[~np.isin(belongs[train], belongs[test])]
        if not len(train):
            raise InputError(
                "all that lies before a part in the order of time is of groups that lie in it, so "
                "nothing is left to train on: ask for fewer folds, or leave out group."
            )
    return train, test

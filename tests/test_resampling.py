"""Folds and splits: every example tested once, no group in two parts, no training on the future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinalnet import InputError
from spinalnet.data import Resample, draw_parts, hold_out


def folds(count: int, k: int, **given: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_parts(Resample("fold", i, k), count, **given) for i in range(k)]


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(2, 5),
    per_class=st.integers(10, 20),
    classes=st.integers(1, 4),
    grouped=st.booleans(),
    stratified=st.booleans(),
)
def test_every_example_is_tested_once_and_no_group_is_divided(
    k: int, per_class: int, classes: int, grouped: bool, stratified: bool
) -> None:
    strata = np.tile(np.arange(classes), per_class)
    count = len(strata)
    groups = np.arange(count) // 2 if grouped else None
    found = folds(count, k, strata=strata if stratified else None, groups=groups)
    assert sorted(np.concatenate([test for _, test in found])) == list(range(count))
    for train, test in found:
        assert not set(train) & set(test)
        assert len(train) + len(test) == count
        if groups is not None:
            assert not set(groups[train]) & set(groups[test])
        elif stratified:
            shares = np.bincount(strata[test], minlength=classes)
            assert shares.max() - shares.min() <= 1


def test_parts_are_a_function_of_what_is_asked() -> None:
    strata = np.arange(60) % 3
    one, again, other = (
        draw_parts(Resample("fold", 1, 5, repeat), 60, strata=strata) for repeat in (0, 0, 1)
    )
    assert np.array_equal(one[1], again[1])
    assert not np.array_equal(one[1], other[1])
    train, test = draw_parts(Resample("split", 3, fraction=0.25), 60, strata=strata)
    assert len(test) == 15
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(60))


def test_nothing_is_trained_on_the_future_and_equal_times_stay_together() -> None:
    times = np.array([3, 1, 2, 2, 2, 5, 4, 7, 6, 8, 8, 9])
    tested = []
    for train, test in folds(len(times), 3, times=times):
        assert times[train].max() < times[test].min()
        tested += test.tolist()
    assert len(set(tested)) == len(tested)
    rest, val = hold_out(0.25, 5, len(times), times=times)
    assert times[rest].max() < times[val].min()


def test_the_held_out_part_respects_groups() -> None:
    groups = np.repeat(np.arange(12), 5)
    rest, val = hold_out(0.2, 3, 60, strata=np.arange(60) % 2, groups=groups)
    assert len(val)
    assert not set(groups[rest]) & set(groups[val])


@pytest.mark.parametrize(
    ("asked", "given", "words"),
    [
        (("fold", 0, 5), {"strata": np.array([0] * 9 + [7])}, "class 7 has 1"),
        (("fold", 0, 5), {"groups": np.array([1, 2] * 5)}, "5 groups, got 2"),
        (("fold", 0, 11), {}, "11 examples, got 10"),
        (("split", 0), {"groups": np.zeros(10)}, "2 groups, got 1"),
        (("split", 1), {"times": np.arange(10)}, "one split"),
        (("fold", 0, 3, 1), {"times": np.arange(10)}, "every repeat"),
        (("fold", 0, 3), {"times": np.arange(10), "groups": np.arange(10)}, "give one"),
        (("fold", 0, 3), {"times": np.zeros(10)}, "too few different times"),
    ],
)
def test_what_cannot_be_drawn_is_told(asked: tuple, given: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw_parts(Resample(*asked), 10, **given)


def test_impossible_requests_are_refused() -> None:
    for wrong in (("fold", 0, 1), ("fold", 3, 3), ("fold", -1, 3)):
        with pytest.raises(InputError, match="fold"):
            Resample(*wrong)
    with pytest.raises(InputError, match="test part"):
        Resample("split", 0, fraction=1.0)

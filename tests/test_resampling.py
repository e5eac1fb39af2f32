"""Folds and random splits: who is tested when, with groups, with times, and what is refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.model_selection import TimeSeriesSplit

from spinalnet._checks import InputError
from spinalnet.data import Resample, draw_parts, validation_rows
from spinalnet.data.resampling import set_apart


def folds(count: int, n: int, repeat: int = 0, **columns: object) -> list[tuple]:
    return [draw_parts(Resample("fold", k, count, repeat), n, **columns) for k in range(count)]  # type: ignore[arg-type]


def grouped(seed: int, n: int = 240, groups: int = 30, classes: int = 3) -> tuple:
    """Return classes and groups of very different sizes; most groups hold one class mostly."""
    rng = np.random.default_rng(seed)
    belongs = rng.choice(groups, n, p=rng.dirichlet(np.ones(groups)))
    own = rng.integers(classes, size=groups)
    labels = np.where(rng.random(n) < 0.8, own[belongs], rng.integers(classes, size=n))
    return labels, np.array([f"patient{one}" for one in belongs])


@pytest.mark.parametrize("repeat", [0, 1])
@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.parametrize("with_groups", [False, True])
def test_every_example_is_tested_once_per_repetition(repeat, with_classes, with_groups):
    labels, belongs = grouped(3)
    columns = {}
    columns |= {"strata": labels} if with_classes else {}
    columns |= {"groups": belongs} if with_groups else {}
    drawn = folds(5, 240, repeat, **columns)
    assert np.array_equal(np.sort(np.concatenate([test for _, test in drawn])), np.arange(240))
    for train, test in drawn:
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(240))
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()
        if with_groups:
            assert not set(belongs[train]) & set(belongs[test])
        else:
            assert len(test) == 48


def test_another_repetition_draws_other_folds():
    first, again, other = (folds(4, 100, repeat)[0][1] for repeat in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_folds_and_splits_hold_the_classes_in_proportion():
    labels = np.repeat(["a", "b", "c"], [100, 50, 11])
    for _, test in folds(5, 161, strata=labels):
        found = [int((labels[test] == name).sum()) for name in "abc"]
        assert found in ([20, 10, 2], [20, 10, 3])
    for k in range(5):
        train, test = draw_parts(Resample("split", k, fraction=0.2), 161, strata=labels)
        assert [int((labels[test] == name).sum()) for name in "abc"] == [20, 10, 2]
        assert len(train) + len(test) == 161


def test_a_split_leaves_a_rare_class_in_both_parts():
    labels = np.repeat([0, 1, 2], [90, 8, 2])
    for k in range(10):
        for part in draw_parts(Resample("split", k, fraction=0.1), 100, strata=labels):
            assert set(labels[part]) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_splits_of_groups_keep_groups_whole_and_classes_near_their_share(seed, fraction):
    labels, belongs = grouped(seed, n=600, groups=80)
    train, test = draw_parts(
        Resample("split", seed, fraction=fraction), 600, strata=labels, groups=belongs
    )
    assert not set(belongs[train]) & set(belongs[test])
    assert len(train) + len(test) == 600
    assert set(labels[train]) == set(labels[test]) == {0, 1, 2}
    assert abs(len(test) / 600 - fraction) < 0.08
    for kind in range(3):
        assert abs((labels[test] == kind).sum() / (labels == kind).sum() - fraction) < 0.12


def test_splits_differ():
    _, belongs = grouped(0)
    for columns in ({}, {"groups": belongs}):
        drawn = [draw_parts(Resample("split", k), 240, **columns)[1].tobytes() for k in range(6)]
        assert len(set(drawn)) == 6


def test_folds_in_the_order_of_time_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    times = rng.permutation(103)
    order = np.argsort(times)
    expected = TimeSeriesSplit(5).split(order)
    for (train, test), (before, here) in zip(folds(5, 103, times=times), expected, strict=True):
        assert np.array_equal(train, np.sort(order[before]))
        assert np.array_equal(test, np.sort(order[here]))


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_trained_on_the_future_and_times_are_not_divided(seed):
    rng = np.random.default_rng(seed)
    times = rng.choice(9, 200, p=rng.dirichlet(np.ones(9)))
    times[:9] = range(9)  # each occurs
    tested = []
    for train, test in folds(5, 200, times=times):
        assert times[train].max() < times[test].min()
        assert (times[train].max() < times).sum() == (times >= times[test].min()).sum()
        assert set(np.flatnonzero(np.isin(times, times[test]))) == set(test)
        tested.append(test)
    assert len(np.unique(np.concatenate(tested))) == sum(map(len, tested))
    assert max(times[tested[-1]]) == 8


def test_as_many_times_as_parts_are_enough_however_they_are_spread():
    times = np.repeat([2019, 2020, 2021, 2022], [1, 90, 1, 1])
    drawn = [(set(times[a]), set(times[b])) for a, b in folds(3, 93, times=times)]
    assert drawn == [({2019}, {2020}), ({2019, 2020}, {2021}), ({2019, 2020, 2021}, {2022})]


def test_a_group_that_is_tested_is_not_trained_on_before():
    times = np.arange(40)
    belongs = np.arange(40) % 10
    train, test = folds(7, 40, times=times, groups=belongs)[0]
    assert test.tolist() == [5, 6, 7, 8, 9]
    assert train.tolist() == [0, 1, 2, 3, 4]
    train, test = folds(7, 40, times=times, groups=belongs)[1]
    assert test.tolist() == [10, 11, 12, 13, 14]
    assert train.tolist() == [5, 6, 7, 8, 9]  # 0 to 4 are of groups that are tested


def test_validation_keeps_classes_and_groups_inside_the_training_part():
    labels, belongs = grouped(5, n=600, groups=80)
    train, test = draw_parts(Resample("fold", 1, 4), 600, strata=labels, groups=belongs)
    rest, val = validation_rows(train, 0.2, 3, strata=labels, groups=belongs)
    assert np.array_equal(np.sort(np.concatenate([rest, val])), train)
    parts = [set(belongs[rows]) for rows in (rest, val, test)]
    assert sum(map(len, parts)) == len(set(belongs)) == len(set.union(*parts))
    assert set(labels[val]) == set(labels[rest]) == {0, 1, 2}
    assert abs(len(val) / len(train) - 0.2) < 0.08
    other = validation_rows(train, 0.2, 4, strata=labels, groups=belongs)[1]
    assert not np.array_equal(other, val)
    plain = validation_rows(train, 0.2, 3, strata=labels)[1]
    assert len(plain) == round(0.2 * len(train))


def test_validation_in_the_order_of_time_is_the_last():
    times = np.array([5, 5, 3, 1, 2, 9, 4, 6, 8, 7])
    rest, val = validation_rows(np.array([0, 1, 2, 3, 4, 6]), 0.34, 0, times=times)
    assert (rest.tolist(), val.tolist()) == ([2, 3, 4, 6], [0, 1])
    rest, val = validation_rows(np.array([0, 1, 2, 3, 4, 6]), 0.01, 0, times=times)
    assert val.tolist() == [0, 1]  # one time is not divided
    rest, val = validation_rows(np.arange(10), 0.2, 0, times=times, groups=np.arange(10) % 5)
    assert (rest.tolist(), val.tolist()) == ([1, 2, 4, 6, 7, 9], [5, 8])


def test_a_test_part_set_apart_keeps_groups_whole():
    labels, belongs = grouped(1)
    test, train = set_apart(labels, 48, "test", groups=belongs, keep_train=2)
    assert not set(belongs[train]) & set(belongs[test])
    assert abs(len(test) - 48) < 20
    test, train = set_apart(labels, 48, "test", groups=None, keep_train=2)
    assert len(test) == 48


def test_classes_that_groups_bind_together_are_not_in_proportion_but_drawn():
    # Each class lies in two groups alone: some folds must do without it, and none is empty.
    labels = np.repeat([0, 0, 1, 1], 10)
    belongs = np.repeat([0, 1, 2, 3], 10)
    for train, test in folds(4, 40, strata=labels, groups=belongs):
        assert len(test) == 10
        assert set(labels[train]) == {0, 1}


DRAW = """
import hashlib
import numpy as np
from spinalnet.data import Resample, draw_parts, validation_rows
rng = np.random.default_rng(0)
labels, belongs, times = rng.integers(3, size=200), rng.integers(40, size=200), rng.random(200)
found = hashlib.sha256()
for columns in (
    {}, {"strata": labels}, {"groups": belongs}, {"strata": labels, "groups": belongs},
    {"times": times},
):
    kinds = [Resample("fold", 2, 5)]
    kinds += [] if "times" in columns else [Resample("fold", 2, 5, 1), Resample("split", 3)]
    for kind in kinds:
        for part in draw_parts(kind, 200, **columns):
            found.update(part.tobytes())
        for part in validation_rows(part, 0.2, 0, **columns):
            found.update(part.tobytes())
print(found.hexdigest())
"""


def test_any_process_draws_the_same():
    made = [
        subprocess.run([sys.executable, "-c", DRAW], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert made[0].stdout == made[1].stdout
    assert len(made[0].stdout.strip()) == 2 * hashlib.sha256().digest_size


@pytest.mark.parametrize(
    ("resample", "n", "columns", "reason"),
    [
        (Resample("fold", 0, 5), 4, {}, "5 folds need at least 5 examples, got 4"),
        (
            Resample("fold", 0, 3),
            7,
            {"strata": list("aaaaabb")},
            "class 'b' has 2 examples, but 3 folds need 3 of each class",
        ),
        (
            Resample("split", 0),
            7,
            {"strata": list("aaaaaab")},
            "class 'b' has 1 example, but a training and a test part need 2 of each class",
        ),
        (
            Resample("fold", 0, 3),
            6,
            {"groups": [1, 1, 1, 2, 2, 2]},
            "3 folds need at least 3 groups, got 2",
        ),
        (
            Resample("fold", 0, 2),
            6,
            {"strata": [0, 0, 0, 0, 1, 1], "groups": [1, 1, 2, 2, 3, 3]},
            "class 1 has 1 group, but 2 folds need 2 of each class",
        ),
        (
            Resample("fold", 0, 3),
            6,
            {"times": [1, 1, 1, 2, 2, 3]},
            "3 parts in the order of time need at least 4 different times, got 3",
        ),
        (Resample("split", 0), 9, {"times": range(9)}, "so random splits cannot be had: give fold"),
        (
            Resample("fold", 0, 3, 1),
            9,
            {"times": range(9)},
            "so repeated folds cannot be had: give folds, and repeats=1",
        ),
        (
            Resample("fold", 0, 2),
            9,
            {"times": range(9), "groups": [0, 1] * 4 + [0]},
            "nothing is left to train on",
        ),
        (Resample("fold", 0, 2), 9, {"groups": [1, 2]}, r"groups must have one value per example"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(resample, n, columns, reason):
    with pytest.raises(InputError, match=reason):
        draw_parts(resample, n, **columns)


def test_groups_that_cannot_be_spared_are_one_sentence():
    with pytest.raises(InputError, match="no group can be set apart: with 2 groups every one is"):
        validation_rows(np.arange(6), 0.2, 0, strata=[0, 0, 0, 1, 1, 1], groups=[1, 1, 1, 2, 2, 2])
    with pytest.raises(InputError, match="with 1 group every one is"):
        set_apart(np.zeros(5, int), 1, "test", groups=np.ones(5), keep_train=2)

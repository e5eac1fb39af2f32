"""Folds and random splits: who is tested when, with groups, with times, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import TimeSeriesSplit

from spinalnet._checks import InputError
from spinalnet.data import Resample, Splits, draw_parts, load_dataset, validation_rows
from spinalnet.data.parts import groups_of
from spinalnet.data.resampling import set_apart
from spinalnet.models.features import frozen_splits


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
import contextlib
import hashlib
import io
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
    here, there = of_two_processes(DRAW)
    assert here == there
    assert len(here.strip()) == 2 * hashlib.sha256().digest_size


def of_two_processes(program: str, *words: str) -> tuple[str, str]:
    """What a program prints in this process and in a fresh one, whose hashes are others."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["-c", *words])
        exec(program, {"__name__": "__main__"})
    command = [sys.executable, "-c", program, *words]
    fresh = subprocess.run(command, capture_output=True, text=True, check=True)
    return printed.getvalue(), fresh.stdout


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


# --- images ---------------------------------------------------------------------------------------


def write_patients(folder: Path, counts: dict[str, int], shift: int = 0) -> None:
    """Write images, all different, of patients who have three of each class."""
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixel = (i * 5, k * 20, shift)
            path = folder / name / f"patient{shift + i // 3}_{i}.png"
            Image.new("RGB", (10, 10), pixel).save(path)


def fold_of(source: Path | str, k: int, count: int = 3, seed: int = 0, **options: Any) -> Splits:
    return load_dataset(source, seed=seed, resample=Resample("fold", k, count), **options)


def named(part: Any, folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in part.paths]


def patients(part: Any) -> set[str]:
    return {Path(path).name.partition("_")[0] for path in part.paths}


@pytest.mark.parametrize("with_parts", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_image_of_a_folder_is_tested_once(tmp_path, with_parts, streamed):
    counts = {"a": 12, "b": 24}
    if with_parts:
        for shift, part in enumerate(("train", "val", "test")):
            write_patients(tmp_path / part, {"a": 4, "b": 8}, 20 * shift)
    else:
        write_patients(tmp_path, counts)
    options = {"image_size": 8, "memory_budget": 0 if streamed else 2**30, "num_workers": 0}
    tested, rows = [], []
    for k in range(3):
        splits = fold_of(tmp_path, k, **options)
        assert splits.test_rows is not None
        parts = [named(part, tmp_path) for part in (splits.train, splits.val, splits.test)]
        assert len(set().union(*parts)) == sum(map(len, parts)) == 36
        assert torch.bincount(splits.test.targets).tolist() == [4, 8]
        tested += parts[2]
        rows += splits.test_rows.tolist()
        note = "3 folds over all 36 images"
        note += ", whichever of its 3 parts they lie in." if with_parts else "."
        assert note in splits.info.notes
        assert not any("set apart" in note for note in splits.info.notes)
    assert sorted(rows) == list(range(36))
    assert len(set(tested)) == 36
    # A row means the same image in every fold.
    again = fold_of(tmp_path, 1, count=2, **options)
    by_row = dict(zip(rows, tested, strict=True))
    assert again.test_rows is not None
    assert [by_row[row] for row in again.test_rows.tolist()] == named(again.test, tmp_path)


def test_streamed_folds_are_those_in_memory(tmp_path):
    write_patients(tmp_path, {"a": 15, "b": 15})
    options = {"image_size": 8, "group": r"patient(\d+)", "limit": 6}
    resident = fold_of(tmp_path, 1, **options)
    streamed = fold_of(tmp_path, 1, memory_budget=0, **options)
    assert torch.equal(resident.test_rows, streamed.test_rows)  # type: ignore[arg-type]
    for name in ("train", "val", "test"):
        one, other = getattr(resident, name), getattr(streamed, name)
        assert one.paths == other.paths
        for (x, y), (u, v) in zip(one.batches(7), other.batches(7), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
    assert len(resident.train) == 6


@pytest.mark.parametrize("kind", ["fold", "split"])
def test_no_patient_is_in_two_parts(tmp_path, kind):
    write_patients(tmp_path, {"a": 30, "b": 30, "c": 30})
    for k in range(4):
        resample = Resample("fold", k, 4) if kind == "fold" else Resample("split", k)
        splits = load_dataset(
            tmp_path, seed=k, image_size=8, resample=resample, group="patient[0-9]+"
        )
        held = [patients(part) for part in (splits.train, splits.val, splits.test)]
        assert all(held)
        assert sum(map(len, held)) == 10 == len(set.union(*held))
        assert "'patient[0-9]+' makes 10 groups of images, none of which lies in two parts." in (
            splits.info.notes
        )


def test_a_test_part_set_apart_divides_no_patient_and_is_the_same_for_every_seed(tmp_path):
    write_patients(tmp_path, {"a": 30, "b": 30})
    first, other = (
        load_dataset(tmp_path, seed=seed, image_size=8, group=r"patient(\d+)") for seed in (0, 1)
    )
    assert first.test.paths == other.test.paths  # type: ignore[union-attr]
    assert first.val.paths != other.val.paths  # type: ignore[union-attr]
    assert first.test_rows is None
    for splits in (first, other):
        held = [patients(part) for part in (splits.train, splits.val, splits.test)]
        assert sum(map(len, held)) == 10 == len(set.union(*held))
        assert 6 <= len(splits.test) <= 18


def test_validation_of_given_parts_divides_no_patient(tmp_path):
    write_patients(tmp_path / "train", {"a": 30, "b": 30})
    write_patients(tmp_path / "test", {"a": 6, "b": 6}, 100)
    splits = load_dataset(tmp_path, image_size=8, group=r"patient(\d+)")
    held = [patients(part) for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, held)) == 12 == len(set.union(*held))
    write_patients(tmp_path / "val", {"a": 6, "b": 6}, 103)
    options = {"image_size": 8, "group": r"patient(\d+)"}
    assert len(load_dataset(tmp_path, **options).val) == 12
    (tmp_path / "val" / "a" / "patient3_0.png").write_bytes(
        (tmp_path / "val" / "a" / "patient103_0.png").read_bytes()
    )
    reason = r"no group may lie in two parts, but 1 of .* lies in train and in val \(3\): ask for"
    with pytest.raises(InputError, match=reason):
        load_dataset(tmp_path, **options)
    assert len(fold_of(tmp_path, 0, **options).test) > 0


def test_what_a_pattern_names(tmp_path):
    paths = [str(tmp_path / name) for name in ("a/p1_x.png", "b/p1_y.png", "b/p22_x.png")]
    for pattern, expected in (
        (r"p(\d+)", ["1", "1", "22"]),
        (r"p\d+", ["p1", "p1", "p22"]),
        (r"^\w/p\d", ["a/p1", "b/p1", "b/p2"]),
        (r"(?:x|y)\.png", ["x.png", "y.png", "x.png"]),
    ):
        assert groups_of(paths, str(tmp_path), pattern).tolist() == expected


def test_group_that_cannot_be_is_one_sentence(tmp_path):
    write_patients(tmp_path, {"a": 9, "b": 9})
    for i in range(4):
        Image.new("RGB", (10, 10), (200 + i, 0, 0)).save(tmp_path / "b" / f"other{i}.png")
    reason = (
        r"group must match the name of every image: 'patient\(\\d\+\)' does not match 4 of 22 "
        r"\('b/other0.png', 'b/other1.png', 'b/other2.png' and 1 more\); widen"
    )
    with pytest.raises(InputError, match=reason):
        fold_of(tmp_path, 0, group=r"patient(\d+)")
    with pytest.raises(InputError, match=r"3 folds need at least 3 groups, got 2"):
        fold_of(tmp_path, 0, group="patient|other")
    with pytest.raises(InputError, match=r"group must be a regular expression, .* got '\(x'"):
        load_dataset(tmp_path, group="(x")
    with pytest.raises(InputError, match="and those of 'digits' have none: leave it out"):
        load_dataset("digits", group="x")
    with pytest.raises(InputError, match="class 'a' has 9 examples, but 12 folds need 12 of each"):
        fold_of(tmp_path, 0, 12)


def test_folds_of_arrays_pool_all_examples():
    parts = [fold_of("digits", k, limit=300) for k in range(3)]
    plain = load_dataset("digits")
    whole = torch.cat([p.inputs for p in (plain.train, plain.val, plain.test)])  # type: ignore[union-attr]
    rows = torch.cat([splits.test_rows for splits in parts])  # type: ignore[misc]
    assert rows.sort().values.tolist() == list(range(1797))
    assert [len(splits.train) for splits in parts] == [300] * 3
    assert parts[0].info.notes == (
        "3 folds over all 1797 images, whichever of its 2 parts they lie in.",
        "Training uses 300 of 1018 images; validation and test are complete.",
    )
    tested = torch.cat([splits.test.inputs for splits in parts])  # type: ignore[union-attr]
    assert tested.double().sum() == whole.double().sum()
    other = load_dataset("digits", resample=Resample("split", 2, fraction=0.1))
    assert len(other.test) == 180
    note = "Random test parts of 10 % of all 1797 images, whichever of its 2 parts they lie in."
    assert note in other.info.notes


def test_folds_of_a_regression():
    parts = [fold_of("regression-sum", k) for k in range(3)]
    count = sum(len(splits.test) for splits in parts)
    assert count == len(parts[0].train) + len(parts[0].val) + len(parts[0].test)
    assert parts[0].info.notes[-1].startswith(f"3 folds over all {count} examples")


def test_copies_are_a_note_unless_a_group_holds_them_together(tmp_path):
    write_patients(tmp_path, {"a": 12, "b": 12})
    assert not any("byte for byte" in note for note in fold_of(tmp_path, 0).info.notes)
    source, copy = tmp_path / "a" / "patient1_3.png", tmp_path / "a" / "patient1_99.png"
    copy.write_bytes(source.read_bytes())
    found = {
        note for k in range(3) for note in fold_of(tmp_path, k).info.notes if "byte for" in note
    }
    assert found == {
        f"1 of the 25 images is a copy of another, byte for byte ('{copy}' is '{source}'), and one "
        "may be tested that was trained on: the test results flatter; on_duplicate=skip leaves it "
        "out."
    }
    grouped_notes = fold_of(tmp_path, 0, group=r"patient(\d+)").info.notes
    assert not any("byte for byte" in note for note in grouped_notes)


def test_files_left_out_are_in_no_fold(tmp_path):
    write_patients(tmp_path, {"a": 12, "b": 12})
    (tmp_path / "a" / "patient1_4.png").write_bytes(b"no image")
    parts = [fold_of(tmp_path, k, on_bad_image="skip", image_size=8) for k in range(3)]
    rows = torch.cat([splits.test_rows for splits in parts])  # type: ignore[misc]
    assert rows.sort().values.tolist() == list(range(23))
    assert "3 folds over all 23 images." in parts[0].info.notes


def test_folds_share_the_features_of_a_frozen_trunk(tmp_path):
    write_patients(tmp_path / "set", {"a": 12, "b": 12})
    trunk = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5))
    made = []
    for k in range(3):
        splits = fold_of(tmp_path / "set", k, image_size=8).normalized_by((0.5,) * 3, (0.2,) * 3)
        parts = frozen_splits(trunk, splits, cache=tmp_path / "cache", on_progress=made.append)
        (x, _), (features, y) = next(splits.test.batches(99)), next(parts.test.batches(99))
        torch.testing.assert_close(features, trunk(x).detach())
        assert torch.equal(y, splits.test.targets)
        assert splits.test_rows is not None
    assert [step.step for step in made] == [8, 16, 24]  # computed once, for all folds


LOAD = """
import hashlib, sys
from spinalnet.data import Resample, load_dataset
found = hashlib.sha256()
fold = Resample("fold", 1, 3, 1)
splits = load_dataset(sys.argv[1], image_size=8, resample=fold, group="patient.")
for part in (splits.train, splits.val, splits.test):
    found.update("\\0".join(part.paths).encode())
    for x, y in part.batches(5, shuffle=True):
        found.update(x.numpy().tobytes())
print(found.hexdigest())
"""


def test_any_process_loads_the_same_images(tmp_path):
    write_patients(tmp_path, {"a": 12, "b": 12})
    here, there = of_two_processes(LOAD, str(tmp_path))
    assert here == there != ""

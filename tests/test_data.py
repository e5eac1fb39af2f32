"""Data: where it is found, how it is split, how batches leave, and what errors say."""

from __future__ import annotations

import gzip
import os
import struct
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from helpers import write_images
from spinalnet._checks import InputError
from spinalnet.data import images, order, readers
from spinalnet.data.augment import build_augment
from spinalnet.data.batches import ArrayDataset, DatasetInfo, FolderDataset, Splits, normalize
from spinalnet.data.catalog import DATASETS
from spinalnet.data.folders import iter_images
from spinalnet.data.loading import list_datasets, load_dataset
from spinalnet.training import placement


def arrays(source: placement.BatchSource) -> ArrayDataset:
    assert isinstance(source, ArrayDataset)
    return source


def numbered(count: int, classes: int = 2, size: int = 4) -> ArrayDataset:
    """Images whose every pixel is their own index."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, size, size)
    return ArrayDataset(images.contiguous(), torch.arange(count) % classes)


def fingerprints(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


# --- batches --------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 100),
)
def test_an_epoch_yields_each_sample_once(count, batch_size, shuffle, seed, epoch):
    source = numbered(count)
    seen, sizes = [], []
    for x, y in source.batches(batch_size, shuffle=shuffle, seed=seed, epoch=epoch):
        index = (x[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(y, index % 2)
        assert (x == x[:, :, :1, :1]).all()
        seen += index.tolist()
        sizes.append(len(y))
    assert sorted(seen) == list(range(count))
    assert shuffle or seen == list(range(count))
    assert all(size == batch_size for size in sizes[:-1])
    # Batch norm cannot train on one sample.
    assert not (shuffle and len(sizes) > 1 and batch_size > 1 and sizes[-1] == 1)


def test_order_and_augmentation_are_functions_of_seed_and_epoch():
    source = ArrayDataset(torch.randint(0, 256, (50, 1, 8, 8)).byte(), torch.arange(50))

    def epoch_of(seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        torch.rand(3)  # whatever else happens in between
        options = {"shuffle": True, "seed": seed, "epoch": epoch, "augment": "rotation:30"}
        x, y = zip(*source.batches(16, **options), strict=True)
        return torch.cat(x), torch.cat(y)

    state = torch.get_rng_state()
    list(source.batches(16, shuffle=True, augment="rotation:30"))
    assert torch.equal(torch.get_rng_state(), state)
    x, y = epoch_of(3, 5)
    again_x, again_y = epoch_of(3, 5)
    assert torch.equal(x, again_x)
    assert torch.equal(y, again_y)
    for other in ((3, 6), (4, 5)):
        assert not torch.equal(y, epoch_of(*other)[1])
    # The draws differ too, from epoch to epoch and from batch to batch.
    by_target = x[y.argsort()]
    assert not torch.equal(by_target, epoch_of(3, 6)[0][epoch_of(3, 6)[1].argsort()])
    same = ArrayDataset(source.inputs[:1].expand(4, -1, -1, -1), torch.zeros(4))
    first, second = (x for x, _ in same.batches(2, augment="rotation:30"))
    assert not torch.equal(first, second)


def test_batches_are_augmented_before_they_are_normalised():
    source = ArrayDataset(
        torch.randint(0, 256, (6, 3, 8, 8)).byte(), torch.arange(6), (0.5, 0.4, 0.3), (0.2, 0.3, 1)
    )
    plain = next(source.batches(6))[0]
    truth = (source.inputs / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 1.0]
    ).view(3, 1, 1)
    torch.testing.assert_close(plain, truth)
    turned = next(source.batches(6, augment="rotation:180"))[0]
    black = -torch.tensor([0.5 / 0.2, 0.4 / 0.3, 0.3])
    torch.testing.assert_close(turned.amin((0, 2, 3)), black)


@pytest.mark.parametrize("augment", ["none", "flip", "rotation:10"])
def test_channels_last_changes_the_layout_alone(augment):
    source = ArrayDataset(torch.randint(0, 256, (6, 3, 8, 8)).byte(), torch.arange(6))
    plain = next(source.batches(6, augment=augment))[0]
    other = next(source.batches(6, augment=augment, channels_last=True))[0]
    assert other.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, other)


def test_float_features_and_targets_are_standardised_and_left_intact():
    features, targets = torch.randn(10, 3), torch.randn(10)
    source = ArrayDataset(features, targets, (1.0, 2.0, 3.0), (2.0, 2.0, 2.0))
    before = features.clone()
    x, y = next(source.batches(10, channels_last=True))
    torch.testing.assert_close(x, (before - torch.tensor([1.0, 2.0, 3.0])) / 2)
    assert torch.equal(y, targets)
    assert torch.equal(features, before)
    assert y.dtype == torch.float32
    raw = next(ArrayDataset(features, targets).batches(10))[0]
    assert torch.equal(raw, features)


def test_samples_can_be_normalised_by_the_constants_of_a_model(tmp_path):
    write_images(tmp_path, {"a": 2})
    files = FolderDataset(list(iter_images([tmp_path])), torch.zeros(2), 3, 8, num_workers=0)
    for source in (ArrayDataset(torch.randint(0, 256, (2, 3, 8, 8)).byte(), torch.zeros(2)), files):
        other = source.normalized_by((0.5,) * 3, (0.25,) * 3)
        plain, changed = next(source.batches(2))[0], next(other.batches(2))[0]
        torch.testing.assert_close(changed, (plain - 0.5) / 0.25)
        assert source.mean == ()


def test_samples_are_moved_to_the_device_once():
    source = numbered(4)
    moved = source._resident(torch.device("meta"))
    assert moved[0].device.type == "meta"
    assert source._resident(torch.device("meta"))[0] is moved[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
def test_batches_on_the_gpu_have_the_order_of_the_cpu():
    source = numbered(50)
    options = {"shuffle": True, "seed": 1, "epoch": 2}
    for (x, y), (gx, gy) in zip(
        source.batches(16, **options), source.batches(16, device="cuda", **options), strict=True
    ):
        assert gx.is_cuda
        torch.testing.assert_close(gx.cpu(), x)
        assert torch.equal(gy.cpu(), y)
    assert next(source.batches(16, device="cuda", augment="perspective+rotation:10+crop:1"))[
        0
    ].is_cuda


def test_wrong_arrays_are_refused():
    images = torch.zeros(4, 3, 2, 2)
    with pytest.raises(InputError, match="same length, got 4 and 3"):
        ArrayDataset(images, torch.zeros(3))
    with pytest.raises(InputError, match=r"must be \(N, F\)"):
        ArrayDataset(torch.zeros(4), torch.zeros(4))
    with pytest.raises(InputError, match="one value per channel"):
        ArrayDataset(images, torch.zeros(4), (0.5, 0.5), (1.0, 1.0))
    with pytest.raises(InputError, match="batch_size must be an integer >= 1"):
        next(numbered(3).batches(0))
    with pytest.raises(InputError, match="unknown augmentation 'flop'"):
        next(numbered(3).batches(2, augment="flop"))
    with pytest.raises(InputError, match="same length, got 1 and 2"):
        FolderDataset([Path("a")], torch.zeros(2), 3, 8)


# --- splits ---------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(2, 30), min_size=1, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_stratified_choice_is_disjoint_complete_and_proportional(counts, fraction, seed):
    targets = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))]
    total = round(fraction * len(targets))
    picked, rest = order.stratified(targets, total, "key", seed, keep_train=1)
    assert torch.equal(torch.cat([picked, rest]).sort().values, torch.arange(len(targets)))
    share = torch.bincount(targets[picked], minlength=len(counts))
    size = torch.tensor(counts)
    assert (share >= 1).all()
    assert (share <= size - 1).all()
    possible = min(max(total, len(counts)), int((size - 1).sum()))
    assert share.sum() == possible
    unforced = (share > 1) & (share < size - 1)
    assert ((share - size * total / len(targets)).abs() <= len(counts))[unforced].all()
    again = order.stratified(targets, total, "key", seed, keep_train=1)[0]
    assert torch.equal(picked, again)


def test_small_classes_keep_what_they_must():
    targets = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    for keep, expected in ((0, [3, 4, 3]), (1, [2, 3, 2]), (2, [1, 2, 1])):
        picked, _ = order.stratified(targets, 10, "key", keep_train=keep)
        assert torch.bincount(targets[picked]).tolist() == expected
    picked, _ = order.stratified(targets, 1, "key", keep_train=0)  # one of each at least
    assert torch.bincount(targets[picked]).tolist() == [1, 1, 1]


def test_shares_are_within_one_sample_of_proportional():
    targets = torch.cat([torch.full((n,), k) for k, n in enumerate([100, 50, 37, 13])])
    picked, _ = order.stratified(targets, 60, "key", keep_train=1)
    share = torch.bincount(targets[picked])
    assert share.sum() == 60
    assert ((share - torch.tensor([30.0, 15.0, 11.1, 3.9])).abs() < 1).all()


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


def test_digits_are_complete_disjoint_and_stratified(digits):
    train, val, test = (arrays(part) for part in (digits.train, digits.val, digits.test))
    assert (len(train), len(val), len(test)) == (1222, 216, 359)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    ours = torch.cat([part.inputs for part in (train, val, test)])[:, 0].double() * 16 / 255
    theirs = torch.as_tensor(bunch.images)
    assert sorted(ours.round().flatten(1).tolist()) == sorted(theirs.flatten(1).tolist())
    for part in (val, test):
        share = torch.bincount(part.targets).double() / len(part)
        overall = torch.bincount(torch.as_tensor(bunch.target)).double() / 1797
        assert (share - overall).abs().max() < 0.01
    assert digits.info.num_classes == 10
    assert digits.info.input_shape == (1, 8, 8)
    assert digits.info.notes == ()


def test_the_test_set_is_the_same_for_every_seed_and_validation_is_not(digits):
    other = load_dataset("digits", seed=1)
    assert torch.equal(arrays(other.test).inputs, arrays(digits.test).inputs)
    assert not torch.equal(arrays(other.val).inputs, arrays(digits.val).inputs)
    again = load_dataset("digits", seed=1)
    assert torch.equal(arrays(other.val).inputs, arrays(again.val).inputs)
    # 1797 digits hold no two equal pictures, so pictures identify samples.
    for splits in (digits, other):
        parts = [fingerprints(arrays(p).inputs) for p in (splits.train, splits.val, splits.test)]
        assert len(parts[0] | parts[1] | parts[2]) == 1797


def test_the_constants_of_digits_are_those_of_its_training_images(digits):
    pool = torch.cat([arrays(digits.train).inputs, arrays(digits.val).inputs])
    assert images.channel_statistics(pool) == (digits.info.mean, digits.info.std)
    x, _ = next(digits.train.batches(len(digits.train)))
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01


def test_options_change_size_colour_share_and_number(digits):
    splits = load_dataset("digits", image_size=28, in_channels=3, val_fraction=0.3, limit=100)
    assert splits.info.input_shape == (3, 28, 28)
    assert splits.info.mean == digits.info.mean * 3
    assert (len(splits.train), len(splits.val), len(splits.test)) == (100, 431, 359)
    assert torch.bincount(arrays(splits.train).targets).tolist() == [10] * 10
    assert "Training uses 100 of 1007 images" in splits.info.notes[-1]
    rows = load_dataset("regression-sum", limit=200)
    assert "Training uses 200 of 900 examples" in rows.info.notes[-1]
    assert "from 8x8 to 28x28" in splits.info.notes[0]
    x, _ = next(splits.train.batches(4))
    assert x.shape == (4, 3, 28, 28)
    assert torch.equal(x[:, 0], x[:, 2])
    # Limiting leaves validation and test alone; no limit leaves no note.
    assert load_dataset("digits", limit=5000).info.notes == ()
    limited = load_dataset("digits", limit=100)
    assert torch.equal(arrays(limited.val).inputs, arrays(digits.val).inputs)
    assert fingerprints(arrays(limited.train).inputs) < fingerprints(arrays(digits.train).inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be an integer >= 1, got 0"),
        ({"in_channels": 2}, "in_channels must be 1 or 3, got 2"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1, got 1.0"),
        ({"limit": 9}, "limit must leave an image of each of the 10 classes, got 9"),
        ({"limit": 0}, "limit must be an integer >= 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_dataset("digits", **options)


# --- named data sets ------------------------------------------------------------------------------


def write_idx(path: Path, values: np.ndarray, kind: int = 0x08, zipped: bool = False) -> None:
    header = struct.pack(f">HBB{values.ndim}I", 0, kind, values.ndim, *values.shape)
    payload = header + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(payload))
    else:
        path.write_bytes(payload)


def write_dataset(folder: Path, name: str, zipped: bool = False) -> dict[str, np.ndarray]:
    """Write a tiny data set in the file layout of `name`; return the arrays by file name."""
    spec, rng = DATASETS[name], np.random.default_rng(0)
    classes, written = len(spec.class_names), {}
    for prefix, count in zip(spec.prefixes, (4 * classes, 2 * classes), strict=True):
        labels = np.arange(count) % classes + spec.first_label
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        written[prefix] = images
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images, zipped=zipped)
        label_file = folder / f"{prefix}-{spec.label_suffix}"
        if spec.label_suffix.endswith("int"):  # QMNIST: eight 32-bit columns, the class first
            columns = np.stack([labels, *[np.full(count, 7)] * 7], 1).astype(">i4")
            write_idx(label_file, columns, kind=0x0C, zipped=zipped)
        else:
            write_idx(label_file, labels.astype(np.uint8), zipped=zipped)
    return written


@pytest.mark.parametrize("name", [s.name for s in DATASETS.values() if s.reader == "idx"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_idx_data_set_is_read_from_its_files(tmp_path, name, zipped):
    spec = DATASETS[name]
    written = write_dataset(tmp_path, name, zipped)
    splits = load_dataset(name, tmp_path)
    classes = len(spec.class_names)
    assert len(splits.train) + len(splits.val) == 4 * classes
    assert splits.info.class_names == spec.class_names
    assert (splits.info.mean, splits.info.std) == (spec.mean, spec.std)
    test = arrays(splits.test)
    images = torch.from_numpy(written[spec.prefixes[1]])
    upright = images.transpose(1, 2) if spec.transposed else images
    assert torch.equal(test.inputs[:, 0], upright)
    assert torch.equal(test.targets, torch.arange(2 * classes) % classes)
    assert any("transposed" in note for note in splits.info.notes) == spec.transposed
    assert any("the full set has" in note for note in splits.info.notes)
    assert any("check that the folder holds the right" in note for note in splits.info.notes)
    stored = load_dataset(replace(spec, transposed=False), tmp_path)
    assert torch.equal(arrays(stored.test).inputs[:, 0], images)


@pytest.mark.parametrize("below", [".", "raw", "FashionMNIST/raw"])
def test_files_are_found_in_the_usual_places(tmp_path, below):
    write_dataset(tmp_path / below, "fashion-mnist")
    assert len(load_dataset("fashion-mnist", tmp_path).test) == 20


def test_files_of_mnist_are_not_taken_for_fashion(tmp_path):
    write_dataset(tmp_path / "MNIST" / "raw", "mnist")
    assert len(load_dataset("mnist", str(tmp_path)).test) == 20
    with pytest.raises(InputError, match="no files of 'fashion-mnist' found"):
        load_dataset("fashion-mnist", tmp_path)


def test_a_system_package_is_used_without_a_data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "system", "fashion-mnist", zipped=True)
    spec = replace(DATASETS["fashion-mnist"], system_dirs=(str(tmp_path / "system"),))
    assert len(load_dataset(spec).test) == 20


def test_missing_files_are_explained(tmp_path):
    with pytest.raises(InputError) as caught:
        load_dataset("fashion-mnist", tmp_path)
    message = str(caught.value)
    for folder in (tmp_path, tmp_path / "raw", tmp_path / "FashionMNIST" / "raw"):
        assert str(folder) in message
    assert "download=True" in message
    assert "dataset-fashion-mnist" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["mnist", "qmnist", "emnist-letters"])
@pytest.mark.parametrize("into_cache", [False, True])
def test_a_failed_download_is_explained(tmp_path, monkeypatch, name, into_cache):
    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_dataset(name, None if into_cache else tmp_path, download=True)
    message = str(caught.value)
    assert message.startswith(f"downloading '{name}' to '{tmp_path}")
    assert "as data_dir" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], "is not a complete IDX file"),
        (lambda b: b"", "is not a complete IDX file"),
        (lambda b: b"\x00\x01" + b[2:], "is not a complete IDX file"),
        (lambda b: b[:2] + b"\x0d" + b[3:], "is not a complete IDX file"),
        (lambda b: b[:8] + b"\x07" * (len(b) - 8), "must hold labels of 10 classes"),
    ],
)
def test_broken_idx_files_are_refused(tmp_path, change, message):
    write_dataset(tmp_path, "mnist")
    file = tmp_path / "train-labels-idx1-ubyte"
    broken = change(file.read_bytes())
    if "classes" in message:
        broken = broken[:8] + b"\x63" * (len(broken) - 8)
    file.write_bytes(broken)
    with pytest.raises(InputError, match=message):
        load_dataset("mnist", tmp_path)


def test_a_broken_archive_and_a_wrong_number_of_labels_are_refused(tmp_path):
    write_dataset(tmp_path / "a", "mnist", zipped=True)
    file = tmp_path / "a" / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="is not a complete IDX file"):
        load_dataset("mnist", tmp_path / "a")
    write_dataset(tmp_path / "b", "mnist")
    write_idx(tmp_path / "b" / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(InputError, match="same number of images and labels"):
        load_dataset("mnist", tmp_path / "b")


def test_the_table_is_consistent():
    assert list_datasets() == list(DATASETS)
    for name, spec in DATASETS.items():
        assert name == spec.name
        assert spec.reader in readers.READERS
        assert len(spec.mean) == len(spec.std)
        assert len(spec.mean) in (0, spec.image_shape[0])
        assert len(set(spec.class_names)) == len(spec.class_names)
        assert (spec.num_classes > 0) == (spec.reader != "regression")
        assert spec.source
        assert spec.licence
        assert spec.size
        # Whatever can be missing can be looked for, and somebody says how to get it.
        if spec.reader not in readers.MADE_HERE:
            assert spec.downloads or spec.hint
            assert spec.paths or spec.reader == "idx"
    assert len(DATASETS["emnist-balanced"].class_names) == 47
    assert DATASETS["emnist-letters"].class_names[0] == "A"


# --- colour arrays, photographs, tables -----------------------------------------------------------


def write_arrays(root: Path, name: str) -> dict[str, np.ndarray]:
    """Write a tiny CIFAR, SVHN or STL-10 in the files that torchvision reads."""
    import pickle

    from scipy.io import savemat

    rng = np.random.default_rng(0)
    classes = DATASETS[name].num_classes
    side = 96 if name == "stl10" else 32
    written = {}
    for part, count in (("train", 2 * classes), ("test", classes)):
        images = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
        labels = np.arange(count) % classes
        written[part] = images
        if name == "svhn":
            marks = np.where(labels == 0, 10, labels)[:, None]  # a zero is written as 10
            savemat(root / f"{part}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": marks})
        elif name == "stl10":
            folder = root / "stl10_binary"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
            (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
            (folder / "class_names.txt").write_text("\n".join(DATASETS[name].class_names))
            (folder / "fold_indices.txt").write_text("")
        else:
            folder = root / DATASETS[name].paths[0]
            folder.mkdir(parents=True, exist_ok=True)
            ten = name == "cifar10"
            files = {"train": ["data_batch_1"] if ten else ["train"], "test": ["test_batch"]}
            file = files[part][0] if ten or part == "train" else "test"
            held = {"data": images.reshape(count, -1), "labels" if ten else "fine_labels": labels}
            (folder / file).write_bytes(pickle.dumps(held))
            names = [f"class {k}" for k in range(classes)]
            meta = {"label_names" if ten else "fine_label_names": names}
            (folder / ("batches.meta" if ten else "meta")).write_bytes(pickle.dumps(meta))
    for other in DATASETS[name].contents:  # all that belongs there, where nobody looks inside
        (root / DATASETS[name].paths[0] / other).touch()
    return written


@pytest.fixture
def without_checksums(monkeypatch):
    """Let torchvision take tiny stand-ins: it would refuse them by their checksums."""
    from torchvision import datasets

    for module in ("cifar", "svhn", "stl10"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity",
            lambda path, md5=None: Path(path).is_file(),
        )
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [("data_batch_1", "")])
    monkeypatch.setattr(datasets.STL10, "train_list", datasets.STL10.train_list[:2])


@pytest.mark.parametrize("name", [s.name for s in DATASETS.values() if s.reader == "torchvision"])
@pytest.mark.parametrize("below", [".", "torchvision name"])
def test_colour_arrays_are_read_through_torchvision(tmp_path, without_checksums, name, below):
    spec = DATASETS[name]
    root = tmp_path / (str(spec.torchvision_name) if below != "." else below)
    root.mkdir(exist_ok=True)
    assert not readers.is_present(spec, tmp_path)
    written = write_arrays(root, name)
    assert readers.is_present(spec, tmp_path)
    splits = load_dataset(name, tmp_path)
    assert torch.equal(arrays(splits.test).inputs, torch.from_numpy(written["test"]))
    assert arrays(splits.test).targets.tolist() == list(range(spec.num_classes))
    assert len(splits.info.class_names) == spec.num_classes
    assert splits.info.mean == spec.mean
    assert splits.info.input_shape == spec.image_shape
    assert set(spec.notes) <= set(splits.info.notes)
    grey = load_dataset(name, tmp_path, in_channels=1)
    assert grey.info.input_shape == (1, *spec.image_shape[1:])
    red, green, blue = written["test"].astype(np.float64).transpose(1, 0, 2, 3)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    assert np.abs(arrays(grey.test).inputs[:, 0].numpy() - luma).max() <= 0.501


def test_damaged_colour_arrays_are_one_sentence(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    lacks = r"is there but lacks data_batch_1, .* and 4 more: complete it with download=True"
    with pytest.raises(InputError, match=lacks):
        load_dataset("cifar10", tmp_path)
    for name in DATASETS["cifar10"].contents:
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"?")
    with pytest.raises(InputError, match=r"the files of 'cifar10' in .* are incomplete or damaged"):
        load_dataset("cifar10", tmp_path)


def test_large_sizes_are_made_batch_by_batch_and_look_the_same(tmp_path, without_checksums):
    write_arrays(tmp_path, "cifar10")
    eager = load_dataset("cifar10", tmp_path, image_size=80)
    lazy = load_dataset("cifar10", tmp_path, image_size=80, memory_budget=1000)
    assert arrays(lazy.train).inputs.shape[-1] == 32
    assert lazy.info == eager.info
    assert lazy.info.input_shape == (3, 80, 80)
    options = {"shuffle": True, "augment": "flip"}
    pairs = zip(eager.train.batches(7, **options), lazy.train.batches(7, **options), strict=True)
    for (x, y), (lazy_x, lazy_y) in pairs:
        assert torch.equal(x, lazy_x)
        assert torch.equal(y, lazy_y)
    assert arrays(lazy.train).subset(torch.arange(3)).size == 80


def test_flowers_have_the_authors_parts(tmp_path):
    from scipy.io import savemat

    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = np.repeat(np.arange(1, 103), 3)
    for k in range(1, len(labels) + 1):
        shade = np.full((8, 8, 3), k % 256, np.uint8)
        Image.fromarray(shade).save(folder / "jpg" / f"image_{k:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels})
    numbers = np.arange(1, len(labels) + 1)
    parts = {"trnid": numbers[::3], "valid": numbers[1::3], "tstid": numbers[2::3]}
    savemat(folder / "setid.mat", parts)
    splits = load_dataset("flowers-102", tmp_path, image_size=8)
    for part in (splits.train, splits.val, splits.test):
        assert part.targets.tolist() == list(range(102))
    assert abs(int(arrays(splits.val).inputs[1].float().mean()) - 5) <= 2  # the fifth photograph
    assert splits.info.class_names[:2] == ("1", "2")
    assert any("redistribution" in note for note in splits.info.notes)
    (folder / "setid.mat").write_bytes(b"no")
    with pytest.raises(InputError, match=r"must hold jpg/, setid\.mat and imagelabels\.mat"):
        load_dataset("flowers-102", tmp_path)


def write_photographs(folder: Path, classes: tuple[str, ...], count: int) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = np.full((9, 7, 3), 40 * k, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")


# The names that the redistributions of each data set use.
LAYOUTS = {
    "stanford-cars": ("train", "test"),
    "cinic-10": ("train", "valid", "test"),
    "bird-225": ("train", "valid", "test"),
    "fruits-360": ("Training", "Test"),
    "monkeys": ("training/training", "validation/validation"),
    "hymenoptera": ("train", "val"),
    "caltech-101": ("",),
}


@pytest.mark.parametrize("spec", [s for s in DATASETS.values() if s.reader == "folder"], ids=str)
def test_folder_data_sets_understand_their_own_layout(tmp_path, spec):
    home = tmp_path / spec.paths[0]
    for part in LAYOUTS[spec.name]:
        write_photographs(home / part, ("a", "b"), 4)
    if spec.exclude:
        write_photographs(home, spec.exclude, 4)
    splits = load_dataset(spec.name, tmp_path, image_size=8)
    assert splits.info.name == spec.name
    assert splits.info.class_names == ("a", "b")
    assert set(spec.notes) <= set(splits.info.notes)
    if len(LAYOUTS[spec.name]) == 3:
        assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 8, 8)
    elif len(LAYOUTS[spec.name]) == 2:
        assert (len(splits.train) + len(splits.val), len(splits.test)) == (8, 8)
    # The folder itself may be named too, where its parts give it away.
    if LAYOUTS[spec.name] != ("",):
        assert load_dataset(spec.name, home, image_size=8).info.class_names == ("a", "b")


@pytest.mark.parametrize("name", [s.name for s in DATASETS.values() if s.reader != "digits"])
def test_what_is_missing_is_told_with_the_way_to_get_it(tmp_path, name):
    spec = DATASETS[name]
    if spec.reader == "regression":
        assert readers.is_present(spec, tmp_path)
        return
    assert not readers.is_present(spec, tmp_path)
    with pytest.raises(InputError, match=f"no files of '{name}' found in") as caught:
        readers.ensure_present(spec, tmp_path)
    message = str(caught.value)
    assert ("download=True" in message) == bool(spec.downloads)
    assert spec.hint in message
    assert "\n" not in message


def test_regression_sets_are_the_papers_with_targets_of_the_right_shape():
    product = load_dataset("regression-product", seed=3)
    assert product.info.task == "regression"
    assert product.info.input_shape == (8,)
    assert (len(product.train), len(product.val), len(product.test)) == (900, 100, 20_000)
    x, y = next(product.test.batches(20_000))
    assert y.shape == (20_000, 1)
    noise = y - x.prod(1, keepdim=True)
    assert noise.min() >= 0
    assert noise.max() < 0.2 + 1e-5  # float32
    assert noise.var().item() == pytest.approx(0.04 / 12, rel=0.03)  # the floor that is stated
    # Training data are the script's: eight draws after seed 0, then the noise.
    torch.manual_seed(0)
    columns = torch.cat([torch.randn(1000, 1) for _ in range(8)], 1)
    target = columns.prod(1, keepdim=True) + 0.2 * torch.rand(1000, 1)
    whole = arrays(product.train).joined(arrays(product.val))
    assert fingerprints(whole.inputs) == fingerprints(columns)
    assert fingerprints(whole.targets) == fingerprints(target)
    sine = load_dataset("regression-sin-sum", seed=3)
    assert torch.equal(arrays(sine.test).inputs, x)
    assert torch.allclose(
        arrays(sine.test).targets - x.sum(1, keepdim=True).sin(), noise, atol=1e-5
    )
    other = load_dataset("regression-product", seed=4)
    assert torch.equal(arrays(other.test).inputs, x)
    assert not torch.equal(arrays(other.val).inputs, arrays(product.val).inputs)


def test_joining_puts_two_parts_in_a_row(tmp_path):
    splits = load_dataset("digits")
    both = arrays(splits.train).joined(arrays(splits.val))
    assert len(both) == len(splits.train) + len(splits.val)
    assert torch.equal(both.inputs[len(splits.train) :], arrays(splits.val).inputs)
    assert both.mean == splits.info.mean
    write_photographs(tmp_path, ("a", "b"), 6)
    streamed = load_dataset(tmp_path, image_size=8, memory_budget=1)
    assert isinstance(streamed.train, FolderDataset)
    assert isinstance(streamed.val, FolderDataset)
    joined = streamed.train.joined(streamed.val)
    assert joined.paths == [*streamed.train.paths, *streamed.val.paths]
    assert len(joined.targets) == len(joined.paths)


# --- folders of images ----------------------------------------------------------------------------


def test_a_folder_of_classes_is_split_three_ways(tmp_path):
    write_images(tmp_path, {"cat": 20, "dog": 30})
    splits = load_dataset(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 10)
    assert splits.info.class_names == ("cat", "dog")
    assert splits.info.input_shape == (3, 64, 64)
    assert "set apart as the test set" in splits.info.notes[0]
    assert "64x64" in splits.info.notes[1]
    parts = [fingerprints(arrays(p).inputs) for p in (splits.train, splits.val, splits.test)]
    assert len(parts[0] | parts[1] | parts[2]) == 50
    assert torch.bincount(arrays(splits.test).targets).tolist() == [4, 6]
    other = load_dataset(tmp_path, seed=7)
    assert torch.equal(arrays(other.test).inputs, arrays(splits.test).inputs)
    assert fingerprints(arrays(other.val).inputs) != parts[1]
    assert (other.info.mean, other.info.std) == (splits.info.mean, splits.info.std)


def test_with_train_and_val_alone_val_is_the_test_set(tmp_path):
    write_images(tmp_path / "train", {"a": 20, "b": 20})
    write_images(tmp_path / "val", {"a": 3, "b": 4})
    splits = load_dataset(tmp_path, image_size=8)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 7)
    assert "its validation folder is the untouched test set" in splits.info.notes[0]
    whole = load_dataset(tmp_path / "train", image_size=8)
    trained = fingerprints(arrays(splits.train).inputs) | fingerprints(arrays(splits.val).inputs)
    assert len(whole.train) + len(whole.val) + len(whole.test) == 40 == len(trained)
    assert not trained & fingerprints(arrays(splits.test).inputs)


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("train", "val", "test"), ("Training", "valid", "Test"), ("training", "eval", "testing")],
)
def test_three_parts_are_used_as_given(tmp_path, train, val, test):
    for part, count in ((train, 5), (val, 2), (test, 3)):
        write_images(tmp_path / part, {"a": count, "b": count})
    splits = load_dataset(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 4, 6)
    assert len(splits.info.notes) == 1


def test_train_and_test_give_validation_from_train(tmp_path):
    # Some archives repeat the name: training/training/<class>.
    write_images(tmp_path / "training" / "training", {"a": 20, "b": 20})
    write_images(tmp_path / "test", {"a": 3})
    splits = load_dataset(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 3)
    assert "The test part has no images of b." in splits.info.notes


def test_numeric_classes_are_in_the_order_of_their_values(tmp_path):
    write_images(tmp_path, {str(k): 3 for k in (10, 0, 2, 1, 11)})
    assert load_dataset(tmp_path).info.class_names == ("0", "1", "2", "10", "11")


def test_a_folder_is_found_below_data_dir(tmp_path, monkeypatch):
    write_images(tmp_path / "pets", {"a": 5, "b": 5})
    assert load_dataset("pets", tmp_path).info.name == "pets"
    monkeypatch.chdir(tmp_path)
    assert load_dataset("pets").info.name == "pets"
    assert load_dataset("./pets/").info.name == "pets"


def test_what_is_not_an_image_by_name_is_left_out(tmp_path):
    write_images(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"1")
    (tmp_path / "a" / "._000.png").write_bytes(b"1")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "b" / "more").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "b" / "more" / "deep.JPG", "jpeg")
    splits = load_dataset(tmp_path)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 11


def test_resident_and_streamed_folders_give_the_same_batches(tmp_path):
    write_images(tmp_path, {"a": 12, "b": 12}, size=(30, 24))
    resident = load_dataset(tmp_path, image_size=16)
    streamed = load_dataset(tmp_path, image_size=16, memory_budget=1000, num_workers=2)
    assert isinstance(streamed.train, FolderDataset)
    assert isinstance(resident.train, placement.BatchSource)
    assert isinstance(streamed.train, placement.BatchSource)
    assert "stream from disk" in streamed.info.notes[-1]
    assert streamed.info.mean == resident.info.mean
    options = {"shuffle": True, "seed": 1, "epoch": 2, "augment": "rotation:20+flip"}
    state = torch.get_rng_state()
    pairs = zip(
        resident.train.batches(5, **options), streamed.train.batches(5, **options), strict=True
    )
    for (x, y), (streamed_x, streamed_y) in pairs:
        torch.testing.assert_close(x, streamed_x)
        assert torch.equal(y, streamed_y)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_image_met_while_streaming_is_one_sentence(tmp_path, workers):
    write_images(tmp_path, {"a": 2})
    broken = tmp_path / "a" / "001.png"
    broken.write_bytes(broken.read_bytes()[:60])
    source = FolderDataset(
        sorted(tmp_path.rglob("*.png")), torch.tensor([0, 0]), 3, 8, num_workers=workers
    )
    with pytest.raises(InputError) as caught:
        list(source.batches(2))
    assert str(caught.value).startswith(f"image '{broken}' cannot be decoded")
    assert "\n" not in str(caught.value)


def test_limit_and_splits_work_on_streamed_folders(tmp_path):
    write_images(tmp_path, {"a": 20, "b": 20})
    splits = load_dataset(tmp_path, memory_budget=0, num_workers=0, limit=10)
    resident = load_dataset(tmp_path, limit=10)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (10, 3, 8)
    assert isinstance(splits.train, FolderDataset)
    assert torch.equal(splits.train.targets, arrays(resident.train).targets)
    assert splits.train.paths == resident.train.paths
    for part in (resident.train, resident.val, resident.test):
        names = [Path(path).parent.name for path in part.paths]
        assert names == ["ab"[k] for k in part.targets.tolist()]


def break_folder(tmp_path: Path, case: str) -> Path:
    """Make a folder with one thing wrong; return what to load."""
    counts = {"a": 4, "b": 4}
    match case:
        case "missing":
            return tmp_path / "nowhere"
        case "file":
            (tmp_path / "x.png").write_bytes(b"")
            return tmp_path / "x.png"
        case "one class":
            counts = {"a": 4}
        case "empty":
            counts = {}
        case "one image":
            counts = {"a": 4, "b": 1}
        case "two images":
            counts = {"a": 4, "b": 2}
    write_images(tmp_path, counts)
    match case:
        case "no images in class":
            (tmp_path / "c").mkdir()
            (tmp_path / "c" / "notes.txt").write_text("")
        case "corrupt":
            file = tmp_path / "a" / "000.png"
            file.write_bytes(file.read_bytes()[:60])
        case "not an image":
            (tmp_path / "a" / "000.png").write_text("just text")
        case "empty file":
            (tmp_path / "a" / "000.png").write_bytes(b"")
        case "float image":
            Image.new("F", (9, 9)).save(tmp_path / "a" / "x.tif")
    return tmp_path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "nowhere' does not exist"),
        ("file", "x.png' is a file; a data set is a folder"),
        ("empty", "must hold at least two class folders with images .*, found 0"),
        ("one class", "must hold at least two class folders with images .*, found 1"),
        ("one image", r"class 'b' has 1 training image\(s\), but 3 are needed"),
        ("two images", r"class 'b' has 2 training image\(s\), but 3 are needed"),
        ("no images in class", "c' holds no images .*; fill it or remove it"),
        (
            "corrupt",
            "image '.*000.png' cannot be decoded .*; remove or replace it, or leave such files",
        ),
        ("not an image", "000.png' is not an image; remove or replace it"),
        ("empty file", "000.png' is empty; remove or replace it"),
        ("float image", "x.tif' cannot be decoded .*32-bit float"),
    ],
)
def test_wrong_folders_are_explained_in_one_sentence(tmp_path, case, message):
    folder = tmp_path / "data"
    folder.mkdir()
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(break_folder(folder, case))
    assert "\n" not in str(caught.value)


def test_parts_that_contradict_each_other_are_refused(tmp_path):
    write_images(tmp_path / "x" / "train", {"a": 4, "b": 4})
    write_images(tmp_path / "x" / "test", {"a": 4, "c": 4})
    with pytest.raises(InputError, match=r"class 'c' is in the test folder .* no training images"):
        load_dataset(tmp_path / "x")
    write_images(tmp_path / "y" / "val", {"a": 4, "b": 4})
    write_images(tmp_path / "y" / "test", {"a": 4, "b": 4})
    with pytest.raises(InputError, match="has test and val but no train folder"):
        load_dataset(tmp_path / "y")
    write_images(tmp_path / "x" / "val", {"a": 4})
    write_images(tmp_path / "x" / "valid", {"a": 4})
    with pytest.raises(InputError, match="two folders for val, 'val' and 'valid'"):
        load_dataset(tmp_path / "x")


def test_one_image_per_class_is_enough_when_nothing_is_split(tmp_path):
    for part in ("train", "val", "test"):
        write_images(tmp_path / part, {"a": 1, "b": 1})
    splits = load_dataset(tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (2, 2, 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kminst", "did you mean 'kmnist'.*folder of images is given by its path"),
        ("./kmnist", "folder 'kmnist' does not exist"),
        ("some/folder", "folder 'some/folder' does not exist"),
    ],
)
def test_unknown_names_get_the_nearest_one(name, message):
    with pytest.raises(InputError, match=message):
        load_dataset(name)


@pytest.mark.parametrize("target", ["class", "image", "root", "idx"])
def test_missing_permission_is_explained(tmp_path, monkeypatch, target):
    """As root nothing is forbidden, so the system's answer is put in its mouth."""
    write_images(tmp_path, {"a": 4, "b": 4})
    write_dataset(tmp_path, "mnist")
    forbidden = {
        "class": tmp_path / "a",
        "image": tmp_path / "a" / "000.png",
        "root": tmp_path,
        "idx": tmp_path / "train-images-idx3-ubyte",
    }[target]

    def guard(function):
        def guarded(path, *args, **kwargs):
            if Path(path) == forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            return function(path, *args, **kwargs)

        return guarded

    monkeypatch.setattr(os, "scandir", guard(os.scandir))
    monkeypatch.setattr(Path, "iterdir", guard(Path.iterdir))
    monkeypatch.setattr(Path, "read_bytes", guard(Path.read_bytes))
    monkeypatch.setattr(Path, "open", guard(Path.open))
    with pytest.raises(InputError, match=r"cannot be read: permission denied[.;]") as caught:
        load_dataset("mnist" if target == "idx" else tmp_path, tmp_path)
    assert str(forbidden) in str(caught.value)
    if target in ("class", "root"):
        with pytest.raises(InputError, match=r"cannot be read: permission denied\.$"):
            list(iter_images([tmp_path]))


# --- single images --------------------------------------------------------------------------------


def read_image(path: Path, info: DatasetInfo) -> torch.Tensor:
    """Read one file as it is read for a prediction."""
    pixels, bad = images.read_all([str(path)], *info.input_shape[:2])
    assert not bad
    return pixels[0]


def test_reading_gives_exactly_what_was_trained_on(tmp_path, digits):
    write_images(tmp_path / "set", {"a": 4, "b": 4}, size=(40, 30))
    splits = load_dataset(tmp_path / "set", image_size=12)
    seen = torch.cat([arrays(p).inputs for p in (splits.train, splits.val, splits.test)])
    for path in iter_images([tmp_path / "set"]):
        assert read_image(path, splits.info).numpy().tobytes() in fingerprints(seen)
    large = load_dataset("digits", image_size=20)
    small_image, large_image = arrays(digits.test).inputs[0], arrays(large.test).inputs[0]
    path = tmp_path / "digit.png"
    Image.fromarray(small_image[0].numpy()).save(path)
    assert torch.equal(read_image(path, digits.info), small_image)
    assert torch.equal(read_image(str(path), large.info), large_image)
    batch = normalize(read_image(path, digits.info)[None], digits.info.mean, digits.info.std)
    assert torch.equal(batch, next(digits.test.batches(1))[0])


def test_augmented_batches_are_those_of_the_augment_room():
    source = ArrayDataset(torch.randint(0, 256, (4, 1, 8, 8)).byte(), torch.arange(4))
    x, _ = next(source.batches(4, seed=2, epoch=3, augment="rotation:30"))
    draws = torch.Generator().manual_seed(order.stream_seed("augment", 2, 3, 0))
    truth = build_augment("rotation:30")(source.inputs, draws)
    torch.testing.assert_close(x, truth.float() / 255)

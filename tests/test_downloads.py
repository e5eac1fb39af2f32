"""Every downloader and every folder layout, against a server on this machine.

The archives are small, and laid out as the real ones are. Addresses and checksums are exchanged for
those of the server; the code is what users run.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import signal
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import Started
from local_server import Answer, Served, serving, wait_until
from spinalnet import InputError, load_dataset
from spinalnet.data import fetching, readers
from spinalnet.data.catalog import DATASETS, DatasetRow
from spinalnet.data.sources import Download


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    with serving() as one:
        yield one


def md5_of(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def hidden(folder: Path) -> list[str]:
    """Return what lies anywhere in a folder and does not show."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


# --- small archives as the real ones are laid out -------------------------------------------------


def idx(values: np.ndarray, kind: int = 0x08) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, kind, values.ndim]) + sizes + values.tobytes()


def idx_pair(row: DatasetRow, part: int, seed: int = 0) -> dict[str, bytes]:
    """Return the images and labels of one part of an IDX data set, gzipped, by name."""
    classes = row.num_classes
    count = (4, 2)[part] * classes
    images = np.random.default_rng(seed + part).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    labels = np.arange(count) % classes + row.first_label
    if row.label_suffix.endswith("int"):  # QMNIST: eight 32-bit columns, the class first
        columns = np.stack([labels, *[np.full(count, 7)] * 7], 1).astype(">i4")
        written = idx(columns, 0x0C)
    else:
        written = idx(labels.astype(np.uint8))
    prefix = row.prefixes[part]
    return {
        f"{prefix}-images-idx3-ubyte.gz": gzip.compress(idx(images)),
        f"{prefix}-{row.label_suffix}.gz": gzip.compress(written),
    }


def tarred(held: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, body in held.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return file.getvalue()


def zipped(held: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in held.items():
            archive.writestr(name, body)
    return file.getvalue()


def photograph(tone: int, ending: str = "jpg") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 9), (tone % 256, 80, 20)).save(file, {"jpg": "JPEG"}.get(ending, "PNG"))
    return file.getvalue()


def photographs(
    folder: str, classes: Iterable[str], count: int, ending: str = "jpg"
) -> dict[str, bytes]:
    """Return `count` photographs a class, all different, by their path below `folder`."""
    start = sum(map(ord, folder)) % 97
    return {
        f"{folder}{name}/image_{k:04}.{ending}": photograph(start + 16 * k + 5 * place, ending)
        for place, name in enumerate(classes)
        for k in range(1, count + 1)
    }


def cifar(ten: bool) -> dict[str, bytes]:
    """Return the files of CIFAR's archive for Python."""
    classes = 10 if ten else 100
    folder = "cifar-10-batches-py" if ten else "cifar-100-python"
    parts = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"] if ten else ["train", "test"]
    held = {f"{folder}/readme.html" if ten else f"{folder}/file.txt~": b"<html>"}
    for seed, part in enumerate(parts):
        count = 2 * classes
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [k % classes for k in range(count)]
        known: dict[str, Any] = {"data": pixels, "batch_label": part, "filenames": []}
        known |= {"labels": labels} if ten else {"fine_labels": labels, "coarse_labels": labels}
        held[f"{folder}/{part}"] = pickle.dumps(known, protocol=2)
    names = [f"class {k}" for k in range(classes)]
    meta = {"label_names": names} if ten else {"fine_label_names": names, "coarse_label_names": []}
    held[f"{folder}/{'batches.meta' if ten else 'meta'}"] = pickle.dumps(meta, protocol=2)
    return held


def stl10() -> dict[str, bytes]:
    held: dict[str, bytes] = {}
    for part, count in (("train", 20), ("test", 10), ("unlabeled", 3)):
        shape = (count, 3, 96, 96)
        pixels = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
        held[f"stl10_binary/{part}_X.bin"] = pixels.tobytes()
        if part != "unlabeled":
            labels = np.arange(count, dtype=np.uint8) % 10 + 1
            held[f"stl10_binary/{part}_y.bin"] = labels.tobytes()
    names = "\n".join(DATASETS["stl10"].class_names)
    return held | {"stl10_binary/class_names.txt": names.encode()} | _folds()


def _folds() -> dict[str, bytes]:
    return {"stl10_binary/fold_indices.txt": b"0 1 2\n" * 10}


def mat(**values: np.ndarray) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


def svhn() -> dict[str, bytes]:
    bodies = {}
    for part, count in (("train", 30), ("test", 10)):
        pixels = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        bodies[f"{part}_32x32.mat"] = mat(X=pixels, y=np.arange(count)[:, None] % 10 + 1)
    return bodies


def flowers() -> dict[str, bytes]:
    numbers = np.arange(1, 307)
    images = {f"jpg/image_{k:05}.jpg": photograph(k) for k in numbers.tolist()}
    parts = {"trnid": numbers[::3], "valid": numbers[1::3], "tstid": numbers[2::3]}
    return {
        "102flowers.tgz": tarred(images),
        "imagelabels.mat": mat(labels=np.repeat(np.arange(1, 103), 3)),
        "setid.mat": mat(**parts),
    }


def caltech() -> dict[str, bytes]:
    photos = photographs("101_ObjectCategories/", ("BACKGROUND_Google", "accordion", "yin_yang"), 6)
    held = {
        "caltech-101/": b"",
        "caltech-101/101_ObjectCategories.tar.gz": tarred(photos),
        "caltech-101/Annotations.tar": tarred({"Annotations/accordion/a.mat": b""}, "w"),
        "caltech-101/show_annotation.m": b"% Matlab",
        "__MACOSX/caltech-101/._Annotations.tar": b"junk",
    }
    return {"caltech-101.zip": zipped(held)}


def hymenoptera() -> dict[str, bytes]:
    held = {"hymenoptera_data/": b"", "hymenoptera_data/train/": b""}
    for part, count in (("train", 5), ("val", 3)):
        held |= photographs(f"hymenoptera_data/{part}/", ("ants", "bees"), count)
    return {"hymenoptera_data.zip": zipped(held)}


def cinic(prefix: str = "") -> dict[str, bytes]:
    held = {f"{prefix}README.md": b"CINIC", f"{prefix}imagenet-contributors.csv": b"a,b"}
    for part in ("train", "valid", "test"):
        held |= photographs(f"{prefix}{part}/", ("airplane", "truck"), 3, "png")
    return {"CINIC-10.tar.gz": tarred(held)}


def emnist() -> dict[str, bytes]:
    held = {"gzip/emnist-balanced-mapping.txt": b"0 48"}
    for split in ("digits", "letters", "balanced"):
        for part in (0, 1):
            pair = idx_pair(DATASETS[f"emnist-{split}"], part)
            held |= {f"gzip/{name}": body for name, body in pair.items()}
    held |= {
        f"gzip/emnist-{split}-train-images-idx3-ubyte.gz": b"?" for split in ("mnist", "byclass")
    }
    return {"gzip.zip": zipped(held)}


def bodies_of(row: DatasetRow) -> dict[str, bytes]:
    """Return what the servers of a data set give, by file name."""
    if row.name.startswith("emnist"):
        return emnist()
    if row.reader == "idx":
        return idx_pair(row, 0) | idx_pair(row, 1)
    if row.name in ("cifar10", "cifar100"):
        ten = row.name == "cifar10"
        return {f"cifar-{'10' if ten else '100'}-python.tar.gz": tarred(cifar(ten))}
    if row.name == "stl10":
        return {"stl10_binary.tar.gz": tarred(stl10())}
    made = {"svhn": svhn, "flowers-102": flowers, "caltech-101": caltech}
    made |= {"hymenoptera": hymenoptera, "cinic-10": cinic}
    return made[row.name]()


def place_of(url: str) -> str:
    """Return the path at which the local server keeps the file of an address."""
    parts = urlsplit(url)
    return f"/{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")


def localized(download: Download, served: Served, body: bytes) -> Download:
    """Return a download as it is, but from the local server, which is given the file."""
    for url in download.urls:
        served.files[place_of(url)] = body
    urls = tuple(served.url + place_of(url) for url in download.urls)
    kind = download.digest.partition(":")[0]
    return replace(download, urls=urls, digest=f"{kind}:{hashlib.new(kind, body).hexdigest()}")


def local_row(name: str, served: Served, bodies: dict[str, bytes] | None = None) -> DatasetRow:
    """Return a data set whose files the local server gives."""
    row = DATASETS[name]
    bodies = bodies_of(row) if bodies is None else bodies
    local = tuple(localized(one, served, bodies[one.name]) for one in row.downloads)
    return replace(row, downloads=local)


@pytest.fixture
def small_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell torchvision, which checks what it reads, the checksums of the small archives."""
    from torchvision import datasets

    for kind, ten in ((datasets.CIFAR10, True), (datasets.CIFAR100, False)):
        held = {name.rpartition("/")[2]: md5_of(body) for name, body in cifar(ten).items()}
        for which in ("train_list", "test_list"):
            monkeypatch.setattr(kind, which, [[n, held[n]] for n, _ in getattr(kind, which)])
        monkeypatch.setattr(kind, "meta", kind.meta | {"md5": held[str(kind.meta["filename"])]})
    held = {name.rpartition("/")[2]: md5_of(body) for name, body in stl10().items()}
    for which in ("train_list", "test_list"):
        new = [[name, held[name]] for name, _ in getattr(datasets.STL10, which)]
        monkeypatch.setattr(datasets.STL10, which, new)
    listed = {
        part: [url, name, md5_of(svhn().get(name, b""))]
        for part, (url, name, _) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)


# --- every data set that can be fetched -----------------------------------------------------------

FETCHED = [row.name for row in DATASETS.values() if row.downloads]
SHAPES = {  # training with validation, test, as the archives above hold them
    **{row.name: (4 * row.num_classes, 2 * row.num_classes) for row in DATASETS.values()},
    "cifar10": (100, 20),
    "cifar100": (200, 200),
    "stl10": (20, 10),
    "svhn": (30, 10),
    "flowers-102": (204, 102),
    "caltech-101": (10, 2),
    "hymenoptera": (10, 6),
    "cinic-10": (12, 6),
}


@pytest.mark.parametrize("name", FETCHED)
def test_every_data_set_is_fetched_and_read(tmp_path, served, small_checksums, name):
    row = local_row(name, served)
    root = tmp_path / "data"
    assert not readers.is_present(row, root)
    splits = load_dataset(row, root, download=True, image_size=16)
    assert (len(splits.train) + len(splits.val), len(splits.test)) == SHAPES[name]
    assert not hidden(root)  # no archive, no lock, nothing unpacked stays behind
    asked = len(served.asked)
    assert asked == len(row.downloads)
    again = load_dataset(row, root, download=True, image_size=16)  # found, not fetched again
    assert len(served.asked) == asked
    assert torch.equal(again.test.targets, splits.test.targets)
    served.files.clear()
    assert readers.is_present(row, root)


@pytest.mark.parametrize("name", ["mnist", "qmnist", "emnist-letters", "cifar10", "stl10", "svhn"])
def test_torchvision_finds_what_was_fetched(tmp_path, served, small_checksums, name):
    """One data folder serves both: torchvision's own classes read it, and fetch nothing."""
    from torchvision import datasets

    row = local_row(name, served)
    readers.ensure_present(row, tmp_path, download=True)
    served.files.clear()
    make: Any = getattr(datasets, str(row.torchvision_name))
    options: dict[str, Any] = {"split": "test"} if name in ("stl10", "svhn") else {"train": False}
    if name == "emnist-letters":
        options |= {"split": "letters"}
    theirs = make(tmp_path, download=True, **options)
    assert len(theirs) == len(load_dataset(row, tmp_path).test)


def test_one_archive_serves_all_parts_of_emnist(tmp_path, served):
    bodies = emnist()
    for split in ("digits", "letters", "balanced"):
        row = local_row(f"emnist-{split}", served, bodies)
        assert len(load_dataset(row, tmp_path, download=True).test) == SHAPES[row.name][1]
    assert len(served.asked) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMNIST"]


@pytest.mark.parametrize("prefix", ["", "./"])
def test_archives_may_begin_with_a_dot(tmp_path, served, prefix):
    splits = load_dataset(
        local_row("cinic-10", served, cinic(prefix)), tmp_path, download=True, image_size=8
    )
    assert (len(splits.train), len(splits.val), len(splits.test)) == (6, 6, 6)


def test_the_cache_is_filled_without_a_data_dir(tmp_path, served, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    row = replace(local_row("fashion-mnist", served), system_dirs=())
    assert len(load_dataset(row).test) == 20
    assert (tmp_path / "spinalnet" / "data" / "FashionMNIST" / "raw").is_dir()


def test_checksums_and_addresses_are_those_that_torchvision_knows():
    """What users fetch: the sources of torchvision, which its maintainers try every day."""
    from torchvision import datasets as tv

    def known(kind: Any) -> set[tuple[str, str]]:
        pairs = [*kind.resources] if isinstance(kind.resources, list) else []
        return {(f"{mirror}{name}", md5) for name, md5 in pairs for mirror in kind.mirrors}

    expected = {
        "mnist": known(tv.MNIST),
        "fashion-mnist": known(tv.FashionMNIST),
        "kmnist": known(tv.KMNIST),
        "qmnist": {*tv.QMNIST.resources["train"], *tv.QMNIST.resources["test"]},
        "emnist-letters": {(tv.EMNIST.url, tv.EMNIST.md5)},
        "cifar10": {(tv.CIFAR10.url, tv.CIFAR10.tgz_md5)},
        "cifar100": {(tv.CIFAR100.url, tv.CIFAR100.tgz_md5)},
        "stl10": {(tv.STL10.url, tv.STL10.tgz_md5)},
        "svhn": {(url, md5) for url, _, md5 in list(tv.SVHN.split_list.values())[:2]},
        "flowers-102": {
            (tv.Flowers102._download_url_prefix + name, md5)
            for name, md5 in tv.Flowers102._file_dict.values()
        },
    }
    for name, pairs in expected.items():
        ours = {
            (url, one.digest.removeprefix("md5:"))
            for one in DATASETS[name].downloads
            for url in one.urls
        }
        assert pairs <= ours, name
    for row in DATASETS.values():
        for one in row.downloads:
            kind, _, value = one.digest.partition(":")
            assert len(value) == {"md5": 32, "sha256": 64}[kind]


# --- folders that a person unpacks ----------------------------------------------------------------

# What the archives of those redistributions hold that nobody may fetch without an account.
UNPACKED: dict[str, tuple[str, dict[str, bytes]]] = {
    "stanford-cars": (
        "",
        photographs("car_data/car_data/train/", ("Acura RL Sedan 2012", "Fisker Karma 2012"), 4)
        | photographs("car_data/car_data/test/", ("Acura RL Sedan 2012", "Fisker Karma 2012"), 3)
        | {"anno_train.csv": b"00001.jpg,39,116,569,375,14", "names.csv": b"Acura RL Sedan 2012"},
    ),
    "cinic-10": (
        "cinic-10",
        photographs("train/", ("airplane", "truck"), 4, "png")
        | photographs("valid/", ("airplane", "truck"), 2, "png")
        | photographs("test/", ("airplane", "truck"), 3, "png"),
    ),
    "bird-225": (
        "100-bird-species",
        photographs("train/", ("ALBATROSS", "WOOD DUCK"), 4)
        | photographs("valid/", ("ALBATROSS", "WOOD DUCK"), 2)
        | photographs("test/", ("ALBATROSS", "WOOD DUCK"), 3)
        | photographs("consolidated/", ("ALBATROSS", "WOOD DUCK"), 9)
        | {"bird_species.csv": b"0,ALBATROSS"},
    ),
    "fruits-360": (
        "",
        photographs("fruits-360_dataset/fruits-360/Training/", ("Apple Braeburn", "Walnut"), 4)
        | photographs("fruits-360_dataset/fruits-360/Test/", ("Apple Braeburn", "Walnut"), 3)
        | {
            "fruits-360_dataset/fruits-360/test-multiple_fruits/apple.jpg": photograph(3),
            "fruits-360_dataset/fruits-360/papers/paper.pdf": b"%PDF",
            "fruits-360_dataset/fruits-360/readme.md": b"Fruits",
        },
    ),
    "monkeys": (
        "10-monkey-species",
        photographs("training/training/", ("n0", "n9"), 4)
        | photographs("validation/validation/", ("n0", "n9"), 3)
        | {"monkey_labels.txt": b"n0 , alouatta_palliata"},
    ),
    "hymenoptera": (
        "",
        photographs("hymenoptera_data/train/", ("ants", "bees"), 4)
        | photographs("hymenoptera_data/val/", ("ants", "bees"), 3),
    ),
    "caltech-101": (
        "caltech-101",
        photographs("train/", ("accordion", "yin_yang"), 4)
        | photographs("eval/", ("accordion", "yin_yang"), 2)
        | photographs("test/", ("accordion", "yin_yang"), 3),
    ),
}


@pytest.mark.parametrize("name", [r.name for r in DATASETS.values() if r.reader == "folder"])
def test_every_folder_set_is_read_as_its_archive_unpacks(tmp_path, served, name):
    below, held = UNPACKED[name]
    served.files["/set.zip"] = body = zipped(held)
    fetching.fetch([f"{served.url}/set.zip"], tmp_path / "set.zip", f"md5:{md5_of(body)}")
    zipfile.ZipFile(tmp_path / "set.zip").extractall(tmp_path / "data" / below)
    assert readers.is_present(DATASETS[name], tmp_path / "data")
    splits = load_dataset(name, tmp_path / "data", image_size=8)
    assert len(splits.info.class_names) == 2
    assert not [name for name in splits.info.class_names if name not in str(sorted(held))]
    if any(part in str(sorted(held)) for part in ("valid/", "eval/")):
        assert (len(splits.train), len(splits.val), len(splits.test)) == (8, 4, 6)
    else:
        assert (len(splits.train) + len(splits.val), len(splits.test)) == (8, 6)


# --- what goes wrong ------------------------------------------------------------------------------

BODY = np.random.default_rng(5).integers(0, 256, 1_000_000, dtype=np.uint8).tobytes()
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
PAGE = b"<!DOCTYPE html><html><body>Please log in to the hotel's network.</body></html>"


def ask(served: Served, *hosts: str) -> list[str]:
    """Return addresses of the same file on several mirrors."""
    for host in hosts:
        served.files.setdefault(f"/{host}/file.bin", BODY)
    return [f"{served.url}/{host}/file.bin" for host in hosts]


def test_a_file_is_fetched_once(tmp_path, served, capsys):
    path = tmp_path / "new folder" / "file.bin"
    for _ in range(2):
        assert fetching.fetch(ask(served, "a"), path, DIGEST) == path
        assert path.read_bytes() == BODY
    assert served.ranges("/a/file.bin") == [""]
    assert [one.name for one in path.parent.iterdir()] == ["file.bin"]
    told = capsys.readouterr()
    assert told.out == ""  # what goes to other programs stays clean
    assert "fetching file.bin (1.0 MB) from 127.0.0.1" in told.err


def test_a_transfer_that_breaks_off_goes_on(tmp_path, served):
    served.answers["/a/file.bin"] = [Answer(breaks_after=300_000), Answer(breaks_after=200_000)]
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert served.ranges("/a/file.bin") == ["", "bytes=300000-", "bytes=500000-"]


def test_a_server_without_ranges_begins_anew(tmp_path, served):
    served.answers["/a/file.bin"] = [Answer(breaks_after=300_000), Answer(ranges=False)]
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_without_a_checksum_nothing_is_pieced_together(tmp_path, served):
    served.answers["/a/file.bin"] = [Answer(breaks_after=300_000)]
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert served.ranges("/a/file.bin") == ["", ""]


@pytest.mark.parametrize(
    ("body", "said"), [(PAGE, "answers with a web page"), (b"", "gives an empty file")]
)
def test_without_a_checksum_a_page_in_disguise_and_nothing_are_no_file(
    tmp_path, served, body, said
):
    served.answers["/a/file.bin"] = [Answer(body=body), Answer(body=body)]
    with pytest.raises(fetching.NotFetchedError, match=said):
        fetching.fetch(ask(served, "a"), tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    fetching.fetch(ask(served, "a", "b"), tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == BODY


def test_a_server_that_always_breaks_off_is_given_up(tmp_path, served):
    for digest in (DIGEST, ""):
        served.answers["/a/file.bin"] = [Answer(breaks_after=70_000)] + [
            Answer(breaks_after=0) for _ in range(20)
        ]
        with pytest.raises(fetching.NotFetchedError, match=r"breaks off after [\d,]+ of 1,000,000"):
            fetching.fetch(ask(served, "a"), tmp_path / "file.bin", digest)
        assert not (tmp_path / "file.bin").exists()
    assert len(served.asked) < 15


def test_the_beginning_of_another_file_is_thrown_away(tmp_path, served):
    """The file was exchanged on the server between two tries."""
    (tmp_path / ".file.bin.part").write_bytes(b"x" * 400_000)
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert served.ranges("/a/file.bin") == ["bytes=400000-", ""]


@pytest.mark.parametrize("size", [1_000_000, 1_200_000])
def test_what_is_longer_than_the_file_is_judged_by_its_checksum(tmp_path, served, size):
    (tmp_path / ".file.bin.part").write_bytes((BODY + b"x" * 300_000)[:size])
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    # Whole already (killed before it was renamed): nothing is asked of anybody.
    assert served.ranges("/a/file.bin") == ([] if size == len(BODY) else ["bytes=1200000-", ""])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(body=BODY[:-7]), "gives another file (999,993 bytes with SHA256"),
        (Answer(body=BODY[:-1] + b"?"), "gives another file (1,000,000 bytes with SHA256"),
        (Answer(body=b""), "gives an empty file"),
        (Answer(body=PAGE, kind="text/html"), "answers with a web page instead of the file"),
        (Answer(body=PAGE), "answers with a web page instead of the file"),
        (Answer(status=404), "answers 404"),
        (Answer(status=403), "answers 403"),
        (Answer(status=503), "answers 503"),
    ],
    ids=["truncated", "changed", "empty", "page", "page in disguise", "gone", "refused", "busy"],
)
def test_a_bad_mirror_is_followed_by_the_next(tmp_path, served, answer, said):
    path = tmp_path / "file.bin"
    served.answers["/a/file.bin"] = [answer, replace(answer)]
    with pytest.raises(fetching.NotFetchedError) as caught:
        fetching.fetch(ask(served, "a"), path, DIGEST)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert not (tmp_path / ".file.bin.part").exists()
    fetching.fetch(ask(served, "a", "b"), path, DIGEST)
    assert path.read_bytes() == BODY
    assert served.ranges("/b/file.bin") == [""]


def test_dead_mirrors_are_passed_over_and_all_named_where_none_is_left(tmp_path, served):
    with serving() as gone:
        dead = f"{gone.url}/file.bin"  # its port is closed from here on
    fetching.fetch([dead, *ask(served, "a")], tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    served.files.clear()
    with pytest.raises(fetching.NotFetchedError) as caught:
        fetching.fetch(
            [dead, f"{served.url}/b/x", "http://nowhere.invalid/x"], tmp_path / "x", "md5:00"
        )
    for said in (urlsplit(dead).netloc, "cannot be reached", "answers 404", "nowhere.invalid"):
        assert said in str(caught.value)


def test_a_silent_server_is_not_waited_for_for_ever(tmp_path, served, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.2)
    served.hold_after = 0
    with pytest.raises(fetching.NotFetchedError, match=r"is silent for 0\.2 seconds"):
        fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)


def test_a_damaged_file_in_its_place_is_fetched_again(tmp_path, served):
    path = tmp_path / "file.bin"
    path.write_bytes(BODY[:100])
    fetching.fetch(ask(served, "a"), path, DIGEST)
    assert path.read_bytes() == BODY


def test_no_room_is_said_before_the_transfer(tmp_path, served, monkeypatch):
    small = type("Usage", (), {"free": 400_000})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: small)
    with pytest.raises(InputError, match=r"cannot write .*1 MB are to come, and 0 MB are free"):
        fetching.fetch(ask(served, "a", "b"), tmp_path / "file.bin", DIGEST)
    assert len(served.asked) == 1  # no other mirror makes room


def run_fetch(served: Served, path: Path, before: str = "") -> Started:
    """Start a process that fetches the file, after running some code."""
    script = (
        "import sys\n"
        "from spinalnet.data import fetching\n"
        "from spinalnet import InputError\n"
        f"{before}\n"
        "try:\n"
        f"    fetching.fetch({ask(served, 'a')!r}, {str(path)!r}, {DIGEST!r})\n"
        "except InputError as error:\n"
        "    sys.exit(str(error))\n"
    )
    return Started(code=script)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX systems")
def test_a_disk_that_fills_up_is_one_sentence_and_the_rest_comes_later(tmp_path, served):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    done = run_fetch(served, tmp_path / "file.bin", limit).ended()
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "file.bin").exists()
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)  # there is room again
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert served.ranges("/a/file.bin") == ["", "bytes=300000-"]


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX systems")
def test_of_two_processes_one_fetches_and_the_other_waits(tmp_path, served):
    served.hold_after = 500_000
    path = tmp_path / "file.bin"
    first = run_fetch(served, path)
    wait_until(lambda: len(served.asked) == 1)
    second = run_fetch(served, path)
    wait_until(lambda: "another process fetches it; waiting" in second.told.read_text())
    served.go_on.set()
    assert (first.ended().returncode, second.ended().returncode) == (0, 0)
    assert path.read_bytes() == BODY
    assert len(served.asked) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
def test_a_killed_process_is_followed_by_one_that_goes_on(tmp_path, served):
    served.hold_after = 600_000
    part = tmp_path / ".file.bin.part"
    process = run_fetch(served, tmp_path / "file.bin")
    wait_until(lambda: part.exists() and part.stat().st_size == 600_000)
    process.process.kill()
    process.ended()
    served.go_on.set()
    assert not (tmp_path / "file.bin").exists()
    fetching.fetch(ask(served, "a"), tmp_path / "file.bin", DIGEST)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert served.ranges("/a/file.bin") == ["", "bytes=600000-"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX systems")
@pytest.mark.parametrize("moves", [1, 2, 5])
def test_a_process_killed_while_it_unpacks_leaves_nothing_half(tmp_path, served, moves):
    """Killed at the first rename (of the archive), the second (into its place) or later."""
    row = local_row("emnist-letters", served)
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from spinalnet.data import fetching\n"
        "from spinalnet.data.sources import Download\n"
        "real, count = Path.replace, 0\n"
        "def replace(self, target):\n"
        "    global count\n"
        "    count += 1\n"
        f"    if count == {moves}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, target)\n"
        "Path.replace = replace\n"
        f"fetching.get({row.downloads[0]!r}, Path({str(tmp_path)!r}))\n"
    )
    done = Started(code=script).ended()
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not readers.is_present(row, tmp_path)
    served.files.clear()  # the archive had come, so nobody is asked again
    assert len(load_dataset(row, tmp_path, download=True).test) == 52
    assert not hidden(tmp_path)


def test_a_half_folder_of_somebody_else_is_completed(tmp_path, served, small_checksums):
    """An unpacking that was interrupted, of torchvision's or a person's."""
    row = local_row("cifar10", served)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is there but lacks data_batch_2, .* and 3 more"):
        load_dataset(row, tmp_path)
    assert len(load_dataset(row, tmp_path, download=True).test) == 20
    assert (folder / "notes.txt").read_text() == "mine"
    assert not hidden(tmp_path)


def test_photographs_that_were_half_unpacked_are_completed(tmp_path, served):
    """torchvision was stopped while it unpacked: a few photographs are there, no tables."""
    row = local_row("flowers-102", served)
    (tmp_path / "flowers-102" / "jpg").mkdir(parents=True)
    (tmp_path / "flowers-102" / "jpg" / "image_00001.jpg").write_bytes(b"half")
    splits = load_dataset(row, tmp_path, download=True, image_size=8)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (102, 102, 102)


def test_an_archive_that_is_none_is_one_sentence(tmp_path, served):
    """A checksum that fits and an archive that cannot be unpacked: an error of the table."""
    row = local_row("hymenoptera", served, {"hymenoptera_data.zip": b"PK\x03\x04 no archive"})
    with pytest.raises(InputError, match=r"hymenoptera_data\.zip cannot be unpacked"):
        load_dataset(row, tmp_path, download=True)
    assert not readers.is_present(row, tmp_path)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_an_archive_cannot_write_elsewhere(tmp_path, served, suffix):
    evil = {"hymenoptera_data/train/a/1.jpg": b"", "../../../outside.txt": b"evil"}
    body = zipped(evil) if suffix == "zip" else tarred(evil)
    served.files[f"/set.{suffix}"] = body
    download = Download(
        (f"{served.url}/set.{suffix}",), f"md5:{md5_of(body)}", (("hymenoptera_data", "set"),)
    )
    root = tmp_path / "deep" / "data"
    if suffix == "zip":
        fetching.get(download, root)  # what would land elsewhere is kept below
    else:
        with pytest.raises(InputError, match="cannot be unpacked"):
            fetching.get(download, root)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["data"]


def test_a_failed_download_says_what_each_server_did_and_what_to_do(tmp_path, served, capsys):
    row = local_row("mnist", served)
    served.files.clear()
    with pytest.raises(InputError) as caught:
        load_dataset(row, tmp_path, download=True)
    said = str(caught.value)
    assert said.startswith(f"downloading 'mnist' to '{tmp_path}' failed: train-images-idx3-ubyte")
    assert said.count("answers 404") == 3
    assert "pass that folder as data_dir" in said
    assert "\n" not in said
    assert not hidden(tmp_path)
    capsys.readouterr()


def test_the_command_fetches_a_data_set(tmp_path, served, monkeypatch, capsys):
    from spinalnet.cli import root

    monkeypatch.setitem(DATASETS, "kmnist", local_row("kmnist", served))
    command = ["spinalnet", "datasets", "--get", "kmnist", "--data-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        root.main()
    assert stop.value.code == 0
    assert "kmnist is here" in capsys.readouterr().out
    assert len(load_dataset("kmnist", tmp_path).test) == 20


def test_a_data_folder_that_cannot_be_written_is_one_sentence(tmp_path, served):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(InputError, match="cannot write"):
        load_dataset(local_row("mnist", served), tmp_path / "file", download=True)


# --- pre-trained weights --------------------------------------------------------------------------

SMALL_NET = "shufflenet_v2_x0_5"


@pytest.fixture
def weights(served, tmp_path, monkeypatch) -> tuple[str, Path, torch.Tensor]:
    """Weights of torchvision's on the local server: their path there, in the cache, and a value."""
    import torchvision

    torch.manual_seed(5)
    net = torchvision.models.get_model(SMALL_NET)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    name = f"shufflenetv2_x0.5-{hashlib.sha256(file.getvalue()).hexdigest()[:10]}.pth"
    served.files[f"/models/{name}"] = file.getvalue()
    chosen: Any = torchvision.models.get_model_weights(SMALL_NET)
    monkeypatch.setattr(chosen.DEFAULT.value, "url", f"{served.url}/models/{name}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cached = tmp_path / "torch" / "hub" / "checkpoints" / name
    return f"/models/{name}", cached, net.state_dict()["conv5.0.weight"].clone()


def pretrained(name: str = f"torchvision:{SMALL_NET}") -> dict[str, torch.Tensor]:
    from spinalnet.models import backbones

    return backbones.build_trunk(name, pretrained=True).state_dict()


def test_published_weights_are_fetched_once(served, weights, capsys):
    path, cached, value = weights
    for _ in range(2):
        assert torch.equal(pretrained()["conv5.0.weight"], value)
    assert served.ranges(path) == [""]
    assert [one.name for one in cached.parent.iterdir()] == [cached.name]
    assert capsys.readouterr().out == ""


def test_published_weights_go_on_after_a_broken_transfer(served, weights):
    path, _, value = weights
    served.answers[path] = [Answer(breaks_after=1_000_000)]
    assert torch.equal(pretrained()["conv5.0.weight"], value)
    assert served.ranges(path) == ["", "bytes=1000000-"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(body=PAGE, kind="text/html"), "answers with a web page"),
        (Answer(body=b"PK" * 5000), "gives another file"),
        (Answer(status=404), "answers 404"),
    ],
    ids=["page", "other", "gone"],
)
def test_published_weights_that_cannot_be_had_are_one_sentence(served, weights, answer, said):
    path, cached, value = weights
    served.answers[path] = [answer]
    with pytest.raises(InputError) as caught:
        pretrained()
    for words in (f"published weights of 'torchvision:{SMALL_NET}' cannot be fetched", said):
        assert words in str(caught.value)
    assert "give a file of them with pretrained=FILE" in str(caught.value)
    assert not cached.exists()
    assert torch.equal(pretrained()["conv5.0.weight"], value)  # the next time it works


@pytest.mark.parametrize("left", [b"", b"<html>", b"half"], ids=["empty", "page", "half"])
def test_a_damaged_file_in_the_cache_is_fetched_again(served, weights, left):
    path, cached, value = weights
    cached.parent.mkdir(parents=True)
    cached.write_bytes(served.files[path][:100_000] if left == b"half" else left)
    assert torch.equal(pretrained()["conv5.0.weight"], value)
    assert served.ranges(path) == [""]


def test_no_room_for_weights_is_one_sentence(served, weights, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 4000})())
    with pytest.raises(InputError, match=r"cannot write .* MB are to come, and 0 MB are free"):
        pretrained()


@pytest.fixture
def hub(served, tmp_path, monkeypatch) -> tuple[str, torch.Tensor]:
    """A timm network's weights on a local hub: their path there, and a value."""
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub").constants
    from safetensors.torch import save

    torch.manual_seed(6)
    net = timm.create_model("test_resnet")
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    path = "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    served.files[path] = body = save(state)
    etag = hashlib.sha256(body).hexdigest()
    served.headers[path] = {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40}
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return path, state["conv1.0.weight"]


def test_weights_of_timm_are_fetched_from_a_hub(served, hub, capsys):
    path, value = hub
    for _ in range(2):
        assert torch.equal(pretrained("timm:test_resnet")["conv1.0.weight"], value)
    assert len(served.ranges(path)) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("fault", ["gone", "page", "damaged"])
def test_weights_of_timm_that_cannot_be_had_are_one_sentence(served, hub, fault):
    path, _ = hub
    if fault == "gone":
        served.files.clear()
    elif fault == "page":
        served.files[path], served.headers[path] = PAGE, {}
    else:
        served.files[path] = b"\xff" * 5000
    with pytest.raises(InputError) as caught:
        pretrained("timm:test_resnet")
    said = str(caught.value)
    assert said.startswith("the published weights of 'timm:test_resnet' cannot be fetched (")
    assert "pretrained=FILE" in said
    assert "\n" not in said

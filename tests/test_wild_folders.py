"""Folders as they come from cameras, drives, Kaggle and tools: used rightly, or one sentence.

Every row of the tables makes a small folder. Either it is read, with exactly this note, or it is
refused before anything is trained, with exactly this sentence and exit code 2.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, features

from spinalnet import (
    InputError,
    RunSpec,
    TrainConfig,
    load_dataset,
    load_trained,
    predict_images,
    run_one,
)
from spinalnet.cli import root
from spinalnet.data import Resample, contents
from spinalnet.data.folders import iter_images
from spinalnet.data.layout import part_of
from spinalnet.data.likeness import alike, looks_of, looks_of_files
from spinalnet.data.walking import Tally, Walk
from spinalnet.deploy import evaluate_run
from spinalnet.texts import shown

Make = Callable[[Path], object]
_seeds = itertools.count()


def picture(path: Path, seed: int | None = None, side: int = 20, **options: Any) -> Path:
    """Write noise of an own seed, in the format of the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(next(_seeds) if seed is None else seed)
    image = Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8))
    image.save(path, **options)
    return path


def scene(seed: int, side: int = 160) -> Image.Image:
    """Draw something smooth, as photographs are: a few blobs of light on a slope."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    total = np.zeros((side, side, 3))
    for _ in range(9):
        (cx, cy), width = draw.random(2), 0.05 + 0.2 * draw.random()
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / width**2)
        total += blob[..., None] * draw.normal(size=3) * 70
    total += (x * draw.normal() + y * draw.normal())[..., None] * 60 + 128
    total += draw.normal(size=total.shape) * 3
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def classes(folder: Path, count: int = 5, names: str = "a b") -> Path:
    """Write class folders of a few images each."""
    for name, k in itertools.product(names.split(), range(count)):
        picture(folder / name / f"{k}.png")
    return folder


def parts(folder: Path, names: str = "train test", inside: str = "a b") -> Path:
    """Write parts of class folders."""
    for name in names.split():
        classes(folder / name, names=inside)
    return folder


def text(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def both(*makes: Make) -> Make:
    """Do one after the other."""
    return lambda folder: [make(folder) for make in makes]


def at(name: str, content: bytes = b"x") -> Make:
    return lambda folder: text(folder / name, content)


def image(name: str, **options: Any) -> Make:
    return lambda folder: picture(folder / name, **options)


def listen(path: Path) -> None:
    """Leave the file of a socket."""
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
JXL = b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20)
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(40)

# --- what is read, with the note that tells what is not -------------------------------------------


class Read(NamedTuple):
    make: Make
    sizes: tuple[int, int, int]  # images in train, val, test
    notes: tuple[str, ...]  # all of them, but for how images are cut and how test was set apart
    names: tuple[str, ...] = ("a", "b")
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)


ten, flat = (6, 2, 2), classes
READ: dict[str, Read] = {
    "nothing beside the classes": Read(flat, ten, ()),
    "heic without a reader": Read(
        both(flat, *(at(f"a/{k}.HEIC", HEIC) for k in range(8))),
        ten,
        ("8 files not used: .heic 8 (no reader: pip install pillow-heif).",),
    ),
    "heic in an avif's clothes": Read(
        both(flat, at("a/x.avif", HEIC)),
        ten,
        ("1 file not used: .avif 1 (no reader: pip install pillow-heif).",),
    ),
    "jxl without a reader": Read(
        both(flat, at("a/x.jxl", JXL)),
        ten,
        ("1 file not used: .jxl 1 (no reader: pip install pillow-jxl-plugin).",),
    ),
    "jpeg under rare endings": Read(
        both(
            flat,
            image("a/x.pjpeg", format="jpeg"),
            image("a/y", format="jpeg"),
            image("b/z.jpg_large", format="jpeg"),
        ),
        (8, 2, 3),
        (),
    ),
    "jp2 and tga": Read(both(flat, image("a/x.jp2"), image("b/x.tga")), (8, 2, 2), ()),
    "texts and archives": Read(
        both(flat, at("labels.csv"), at("a/x.txt"), at("b/y.TXT"), at("old.zip")),
        ten,
        ("4 files not used: .txt 2; .csv 1; .zip 1.",),
    ),
    "a text without an ending": Read(
        both(flat, at("LICENSE"), at("a/notes")),
        ten,
        ("2 files not used: 2 files without an ending.",),
    ),
    "an image among the camera's raw files": Read(
        both(flat, at("a/x.nef", b"II*\0" + bytes(60))),
        ten,
        ("1 file not used: .nef 1 (camera raw: export as JPEG or TIFF).",),
    ),
    "backups and unfinished downloads": Read(
        both(flat, image("a/x.jpg~", format="jpeg"), image("a/y.part", format="png")),
        ten,
        ("2 files not used: .jpg~ 1 (backup or unfinished); .part 1 (backup or unfinished).",),
    ),
    "hidden files": Read(
        both(flat, at(".DS_Store"), at("a/._0.png"), image("b/.x.png")),
        ten,
        ("3 files not used: 3 hidden files.",),
    ),
    "folders of a notebook": Read(
        both(flat, image(".ipynb_checkpoints/x.png"), image("a/.ipynb_checkpoints/x.png")),
        ten,
        ("Not used: 2 hidden folders.",),
    ),
    "folders of a drive": Read(
        both(
            flat,
            image("@eaDir/x.png"),
            image("a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg"),
            image("$RECYCLE.BIN/x.png"),
            image("lost+found/x.png"),
            image("__MACOSX/a/x.png"),
            image("System Volume Information/x.png"),
        ),
        ten,
        ("Not used: 6 system folders.",),
    ),
    "files of a system": Read(
        both(flat, at("a/Thumbs.db"), at("desktop.ini")),
        ten,
        ("2 files not used: 2 system files.",),
    ),
    "an image beside the classes": Read(
        both(flat, image("x.png"), image("y.jpg")),
        ten,
        ("2 files not used: 2 images beside the class folders.",),
    ),
    "images beside the classes of a part": Read(
        both(parts, image("train/x.png"), image("y.png")),
        (8, 2, 10),
        ("2 files not used: 1 image beside the class folders; 1 image beside train/.",),
    ),
    "folders beside train": Read(
        both(parts, image("sample/a/x.png"), image("dev/a/x.png"), at("unlabeled/x.txt")),
        (8, 2, 10),
        (
            "3 files not used: folder dev/ beside train/ (1 file); folder sample/ beside train/ "
            "(1 file); folder unlabeled/ beside train/ (1 file).",
        ),
    ),
    "a folder of any name beside two parts": Read(
        both(parts, image("zebra/x.png")),
        (8, 2, 10),
        ("1 file not used: folder zebra/ beside train/ (1 file).",),
    ),
    "train_images and test_images": Read(
        lambda d: parts(d, "train_images test_images"), (8, 2, 10), ()
    ),
    "seg_train in seg_train": Read(
        both(lambda d: classes(d / "seg_train" / "seg_train"), lambda d: classes(d / "seg_test")),
        (8, 2, 10),
        (),
    ),
    "Training Set, Validation Set, Test Set": Read(
        lambda d: parts(d, "Training-Set Validation-Set Test-Set"), (10, 10, 10), ()
    ),
    "a class called train": Read(
        lambda d: classes(d, names="bus car train"),
        (9, 3, 3),
        (
            "train/ is a class like the folders beside, not a part of the data; where that is "
            "wrong, put the classes into a folder train/.",
        ),
        ("bus", "car", "train"),
    ),
    "a class called test": Read(
        lambda d: classes(d, names="control test"),
        ten,
        (
            "test/ is a class like the folders beside, not a part of the data; where that is "
            "wrong, put the classes into a folder train/.",
        ),
        ("control", "test"),
    ),
    "classes called train and val": Read(
        lambda d: classes(d, names="bus train val"),
        (9, 3, 3),
        (
            "train/ and val/ are classes like the folders beside, not parts of the data; where "
            "that is wrong, put the classes into a folder train/.",
        ),
        ("bus", "train", "val"),
    ),
    "a pipe called x.jpg": Read(
        both(flat, lambda d: os.mkfifo(d / "a" / "x.jpg")),
        ten,
        ("1 file not used: 1 pipe, socket or device.",),
    ),
    "a socket": Read(
        both(flat, lambda d: listen(d / "a" / "x.png")),
        ten,
        ("1 file not used: 1 pipe, socket or device.",),
    ),
    "a device behind a link": Read(
        both(flat, lambda d: (d / "a" / "x.png").symlink_to("/dev/zero")),
        ten,
        ("1 file not used: 1 pipe, socket or device.",),
    ),
    "a link to itself": Read(
        both(flat, lambda d: (d / "a" / "me").symlink_to("me")),
        ten,
        ("1 file not used: 1 dead link.",),
    ),
    "a link to the folder it lies in": Read(
        both(flat, lambda d: (d / "loop").symlink_to(".")),
        ten,
        ("Not used: 1 link that leads back up.",),
    ),
    "links that lead up from a class": Read(
        both(
            flat,
            lambda d: (d / "a" / "up").symlink_to(d),
            lambda d: (d / "b" / "up").symlink_to(".."),
        ),
        ten,
        ("Not used: 2 links that lead back up.",),
    ),
    "a name that is no text": Read(
        both(flat, lambda d: (d / "a" / "0.png").rename(d / "a" / "\udcff.png")), ten, ()
    ),
    "a name of two lines": Read(
        both(flat, lambda d: (d / "a" / "0.png").rename(d / "a" / "x\ny.png")), ten, ()
    ),
    "a file of two lines that is no image": Read(
        both(flat, at("a/x\ny.c\nd")), ten, ("1 file not used: .c\\nd 1.",)
    ),
    "classes written as a Mac writes them": Read(
        both(
            lambda d: classes(d / "train", names=unicodedata.normalize("NFD", "café thé")),
            lambda d: classes(d / "test", names=unicodedata.normalize("NFC", "café thé")),
        ),
        (8, 2, 10),
        (),
        ("café", "thé"),
    ),
    "val alone lacks a class": Read(
        both(lambda d: classes(d / "train", names="a b c"), lambda d: classes(d / "valid")),
        (12, 3, 10),
        (
            "The folder has no test part: its validation folder is the untouched test set, and "
            "validation images are split from train.",
            "The test part (valid/) has no images of c.",
        ),
        ("a", "b", "c"),
    ),
    "a flat test part that is left out": Read(
        both(lambda d: classes(d / "train"), image("test/0.png"), image("test/1.png")),
        ten,
        ("2 files not used: folder test/ left out (2 files).",),
        options={"ignore": "test"},
    ),
    "masks that are left out": Read(
        both(flat, image("a/0_mask.png"), image("b/0_mask.png"), image("c/x.png")),
        ten,
        ("3 files not used: 2 files left out by their names; folder c/ left out (1 file).",),
        options={"ignore": "*_mask.png, c/"},
    ),
    "an ignored path below the folder": Read(
        both(flat, image("a/old/x.png"), image("b/old/x.png")),
        (7, 2, 2),
        ("1 file not used: folder old/ left out (1 file).",),
        options={"ignore": "a/old"},
    ),
    "patterns that match nothing": Read(
        both(flat, image("a/old/x.png")),
        ten,
        (
            "Nothing was left out by ignore='nosuch', 'b/old': no file or folder that would be "
            "used has such a name.",
            "1 file not used: folder old/ left out (1 file).",
        ),
        options={"ignore": "nosuch, old, b/old"},
    ),
    "more kinds than a sentence holds": Read(
        both(flat, *(at(f"a/x.k{k}") for k in range(11))),
        ten,
        (
            "11 files not used: .k0 1; .k1 1; .k10 1; .k2 1; .k3 1; .k4 1; .k5 1; .k6 1; "
            "3 more kinds.",
        ),
    ),
    "unused folders among more kinds than a sentence holds": Read(
        both(
            parts,
            *(image(f"{name}/a/x.png") for name in ("dev", "sample", "unlabeled")),
            *(at(f"train/a/x.k{k}") for k in range(6)),
        ),
        (8, 2, 10),
        (
            "9 files not used: folder dev/ beside train/ (1 file); folder sample/ beside train/ "
            "(1 file); folder unlabeled/ beside train/ (1 file); .k0 1; .k1 1; .k2 1; .k3 1; "
            ".k4 1; 1 more kind.",
        ),
    ),
    "more unused folders than a sentence holds": Read(
        both(parts, *(image(f"d{k}/x.png") for k in range(9)), at("train/a/x.txt")),
        (8, 2, 10),
        (
            "10 files not used: "
            + "; ".join(f"folder d{k}/ beside train/ (1 file)" for k in range(9))
            + "; 1 more kind.",
        ),
    ),
    "classes of one to twenty": Read(
        both(lambda d: classes(d, 60, "a"), lambda d: classes(d, 3, "b")),
        (45, 5, 13),
        (
            "Classes are unequal by 1 to 24: 'a' has 48 training images, 'b' 2. Options that help: "
            "class_weights=balanced in training, metric=balanced-accuracy in a comparison.",
        ),
    ),
}


def notes_of(splits: Any) -> tuple[str, ...]:
    """Return the notes but those every folder has."""
    ours = ("Images are cut to their centre square", "The folder has no test part: ")
    kept = [n for n in splits.info.notes if not n.startswith(ours) or "validation folder" in n]
    return tuple(kept)


@pytest.mark.parametrize("case", READ)
def test_a_folder_is_read_and_the_rest_is_told(tmp_path: Path, case: str) -> None:
    row = READ[case]
    row.make(tmp_path)
    splits = load_dataset(tmp_path, image_size=16, **row.options)
    assert notes_of(splits) == row.notes
    assert splits.info.class_names == row.names
    assert tuple(map(len, (splits.train, splits.val, splits.test))) == row.sizes


def test_the_folder_one_stands_in_is_called_by_no_name(tmp_path: Path, monkeypatch) -> None:
    classes(tmp_path / "data")
    text(tmp_path / "data" / "x.txt")
    monkeypatch.chdir(tmp_path / "data")
    splits = load_dataset(".", image_size=16)
    assert Path(min(splits.test.paths)).parts[0] == "a"
    assert splits.unused == ".txt\tx.txt\n"
    assert splits.info.name == "data"


# --- what is refused ------------------------------------------------------------------------------


class Refused(NamedTuple):
    make: Make
    sentence: str  # with {d} for the folder
    options: tuple[str, ...] = ()


REFUSED: dict[str, Refused] = {
    "a flat test part": Refused(
        both(lambda d: classes(d / "train"), image("test/0.png"), image("test/1.png")),
        "'{d}/test' holds 2 images without classes (use: spinalnet predict RUN '{d}/test'); give "
        "every image a folder named after its class, or do without the part: --ignore test.",
    ),
    "flat val and test": Refused(
        both(lambda d: classes(d / "train"), image("Val/0.png"), image("test/1.png")),
        "'{d}/Val' holds 1 image without classes (use: spinalnet predict RUN '{d}/Val') and "
        "'{d}/test' holds 1 image without classes (use: spinalnet predict RUN '{d}/test'); give "
        "every image a folder named after its class, or do without the part: --ignore Val,test.",
    ),
    "a flat train part": Refused(
        both(image("train/0.png"), image("train/1.png"), image("test/x.png")),
        "'{d}/test' holds 1 image without classes (use: spinalnet predict RUN '{d}/test') and "
        "'{d}/train' holds 2 images without classes; give every image a folder named after its "
        "class, or do without the part: --ignore test.",
    ),
    "an empty val": Refused(
        both(lambda d: classes(d / "train"), lambda d: (d / "val").mkdir()),
        "'{d}/val' holds no images (it is empty); fill the folder, or do without the part: "
        "--ignore val.",
    ),
    "a val of empty classes": Refused(
        both(parts, lambda d: (d / "val" / "a").mkdir(parents=True), at("val/b/x.txt")),
        "'{d}/val' holds no images (not used there: .txt 1); fill the folder, or do without the "
        "part: --ignore val.",
    ),
    "a test part of heic": Refused(
        both(lambda d: classes(d / "train"), at("test/a/x.heic", HEIC), at("test/b/y.heic", HEIC)),
        "'{d}/test' holds no images (not used there: .heic 2 (no reader: pip install "
        "pillow-heif)); fill the folder, or do without the part: --ignore test.",
    ),
    "a class with folders called train": Refused(
        both(
            lambda d: classes(d, names="bus car"), lambda d: classes(d / "train", names="2019 2020")
        ),
        "'{d}' can be read in two ways: train/ is the training part, with the classes 2019, 2020, "
        "or it is a class beside bus/, car/; leave out what is no data (--ignore bus,car), or "
        "rename "
        "train/.",
    ),
    "classes beside a test part": Refused(
        both(flat, lambda d: classes(d / "test")),
        "'{d}' holds the class folders a, b beside test/, which has such folders too: move the "
        "training classes into a folder train/, or leave out test/ with --ignore test.",
    ),
    "two empty classes": Refused(
        both(flat, lambda d: (d / "c").mkdir(), at("d/x.heic", HEIC)),
        "2 class folders hold no images: '{d}/c' (it is empty), '{d}/d' (not used there: .heic 1 "
        "(no reader: pip install pillow-heif)); fill or remove them, or leave them out with "
        "--ignore NAME.",
    ),
    "empty classes of several parts": Refused(
        both(parts, lambda d: (d / "train" / "c").mkdir(), lambda d: (d / "test" / "d").mkdir()),
        "2 class folders hold no images: '{d}/test/d' (it is empty), '{d}/train/c' (it is empty); "
        "fill or remove them, or leave them out with --ignore NAME.",
    ),
    "classes that val alone has": Refused(
        both(lambda d: classes(d / "train"), lambda d: classes(d / "val", names="a c d")),
        "the classes 'c', 'd' are in the val folder of '{d}' but have no training images.",
    ),
    "a class in another case": Refused(
        both(lambda d: classes(d / "train"), lambda d: classes(d / "valid", names="A b")),
        "class 'A' is in the valid folder of '{d}' but has no training images; train calls it 'a'.",
    ),
    "classes that two parts have": Refused(
        both(
            lambda d: classes(d / "train"),
            lambda d: classes(d / "val", names="a b c"),
            lambda d: classes(d / "test", names="a b e"),
        ),
        "class 'e' is in the test folder of '{d}' but has no training images; class 'c' is in the "
        "val folder of '{d}' but has no training images.",
    ),
    "several classes of too few images": Refused(
        both(lambda d: classes(d, 1, "a b"), lambda d: classes(d, 5, "c")),
        "2 classes have too few training images ('a' has 1, 'b' has 1), but 3 are needed to split "
        "them; add images or remove the class folders.",
    ),
    "class names in two cases": Refused(
        lambda d: classes(d, names="Cat cat b"),
        "'{d}' has the class folders 'Cat' and 'cat', which differ in case only; move the images "
        "of one into the other, or rename it.",
    ),
    "class names in two forms of Unicode": Refused(
        both(
            lambda d: classes(d, names=unicodedata.normalize("NFD", "é")),
            lambda d: classes(d, names=unicodedata.normalize("NFC", "é b")),
        ),
        "'{d}' has the class folders 'e\u0301' and 'é', which differ only in how Unicode writes "
        "them (NFC, NFD); move the images of one into the other, or rename it.",
    ),
    "a class name that is no text": Refused(
        both(flat, lambda d: (d / "b").rename(d / "caf\udce9")),
        "the name of a class must be UTF-8 text, got '{d}/caf\\xe9': rename the folder.",
    ),
    "a folder in a folder": Refused(
        lambda d: parts(d / "archive"),
        "'{d}' must hold at least two class folders with images (DIR/<class>/ or "
        "DIR/train/<class>/), found 1; did you mean '{d}/archive'?",
    ),
    "images without folders": Refused(
        both(image("0.png"), image("1.png")),
        "'{d}' must hold at least two class folders with images (DIR/<class>/ or "
        "DIR/train/<class>/), found 0; 2 images there lie in no class folder.",
    ),
    "hidden classes": Refused(
        both(image(".a/x.png"), image("b/x.png")),
        "'{d}' must hold at least two class folders with images (DIR/<class>/ or "
        "DIR/train/<class>/), found 1 (not used there: 1 hidden folder).",
    ),
    "one class in every part": Refused(
        lambda d: parts(d, inside="a"),
        "'{d}' must hold at least two class folders with images (DIR/<class>/ or "
        "DIR/train/<class>/), found 1.",
    ),
    "classes called like parts beside a part": Refused(
        both(
            lambda d: classes(d, names="bus car train"), lambda d: classes(d / "val", names="bus")
        ),
        "'{d}' holds the class folder bus beside val/, which has such folders too: move the "
        "training classes into a folder train/, or leave out val/ with --ignore val.",
    ),
    "one folder that may be a class beside train": Refused(
        both(lambda d: classes(d / "train"), image("other/x.png")),
        "'{d}' can be read in two ways: train/ is the training part, with the classes a, b, or it "
        "is a class beside other/; leave out what is no data (--ignore other), or rename train/.",
    ),
    "parts without train": Refused(
        lambda d: parts(d, "val test"), "'{d}' has test and val but no train folder."
    ),
    "two folders of one part": Refused(
        lambda d: parts(d, "train test test_images"),
        "'{d}' has two folders for test, 'test' and 'test_images'; keep one of them, or leave one "
        "out with --ignore NAME.",
    ),
    "heic called jpg": Refused(
        both(flat, at("a/x.jpg", HEIC)),
        "image '{d}/a/x.jpg' is HEIC (no reader: pip install pillow-heif); remove or replace it, "
        "or leave such files out with --on-bad-image skip.",
    ),
    "an image that is a link to itself": Refused(
        both(flat, lambda d: (d / "a" / "x.png").symlink_to("x.png")),
        "image '{d}/a/x.png' is a link to itself; remove or replace it, or leave such files out "
        "with --on-bad-image skip.",
    ),
    "an image that is a dead link": Refused(
        both(flat, lambda d: (d / "a" / "x.png").symlink_to("gone.png")),
        "image '{d}/a/x.png' does not exist; remove or replace it, or leave such files out with "
        "--on-bad-image skip.",
    ),
    "a wrong word for duplicates": Refused(
        flat,
        "unknown choice of --on-duplicate 'drop'; known: keep, skip.",
        ("--on-duplicate", "drop"),
    ),
}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run the command in this process; return the sentence on standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spinalnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            root.main()
    said = capsys.readouterr()
    assert stop.value.code == 2, said.err
    assert said.out == ""
    return said.err


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_is_refused_in_one_sentence_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    row, folder, out = REFUSED[case], tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    row.make(folder)
    said = refusal(capsys, "train", folder, "--image-size", 28, "--out", out, *row.options)
    assert said.removeprefix("error ").rstrip("\n") == row.sentence.replace("{d}", str(folder))
    assert not out.exists()


# --- what a file is -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *(("jpg", "JPEG"), ("png", "PNG"), ("gif", "GIF"), ("bmp", "BMP"), ("tif", "TIFF")),
        *(("webp", "WebP"), ("ppm", "PNM"), ("jp2", "JPEG 2000"), ("tga", "TGA"), ("avif", "AVIF")),
    ],
)
def test_the_first_bytes_tell_the_kind(tmp_path: Path, ending: str, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    head = picture(tmp_path / f"x.{ending}").read_bytes()[: contents.HEAD]
    assert contents.kind_of(head, f".{ending}") == kind
    assert contents.kind_of(head[:3]) in (None, "JPEG")
    assert contents.lacking(kind) is None


def test_what_only_begins_like_an_image_is_none() -> None:
    for head in (
        b"BM is a company",
        b"P5 was a processor",
        b"RIFF....WAVE",
        b"II*",
        b"",
        b"GIF88a",
    ):
        assert contents.kind_of(head.ljust(contents.HEAD, b" "), ".txt") is None
    assert contents.kind_of(HEIC) == "HEIC"
    assert contents.kind_of(JXL) == "JPEG XL"
    assert contents.kind_of(AVIF) == "AVIF"
    assert contents.kind_of(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1") is None  # a film
    assert contents.kind_of(bytes(64), ".tga") is None


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    classes(tmp_path)
    picture(tmp_path / "a" / "x.avif")
    splits = load_dataset(tmp_path, image_size=16)
    assert notes_of(splits) == ()
    assert len(splits.train) + len(splits.val) + len(splits.test) == 11


def test_heic_is_read_where_a_plugin_is_installed(tmp_path: Path, monkeypatch) -> None:
    """The plugin is played by one that reads a PNG behind the HEIC header."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "pillow_heif.py").write_text(
        "import io\n"
        "from PIL import Image, ImageFile\n"
        "class Heic(ImageFile.ImageFile):\n"
        "    format = 'HEIC'\n"
        "    def _open(self):\n"
        "        self.fp.seek(64)\n"
        "        inner = Image.open(io.BytesIO(self.fp.read()))\n"
        "        inner.load()\n"
        "        self._mode, self._size, self.tile = inner.mode, inner.size, []\n"
        "        self.im = inner.im\n"
        "    def load(self):\n"
        "        return self.im.pixel_access(False)\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIC', Heic, lambda head: head[4:12] == b'ftypheic')\n"
    )
    Image.init()  # what is put back afterwards is all that Pillow has
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    contents.lacking.cache_clear()
    try:
        data = classes(tmp_path / "data")
        hidden = picture(tmp_path / "hidden.png").read_bytes()
        for name in ("x.heic", "called.jpg"):
            text(data / "a" / name, HEIC.ljust(64, b"\0")[:64] + hidden)
        splits = load_dataset(data, image_size=16)
    finally:
        contents.lacking.cache_clear()
        sys.modules.pop("pillow_heif", None)
    assert len(splits.train) + len(splits.val) + len(splits.test) == 12
    assert not any("not used" in note for note in splits.info.notes)


def test_files_whose_ending_says_what_they_are_are_not_opened(tmp_path: Path, monkeypatch) -> None:
    classes(tmp_path)
    for name in ("x.txt", "x.xml", "y.heic", "noending"):
        text(tmp_path / "a" / name, HEIC)
    opened = []
    monkeypatch.setattr(
        "spinalnet.data.walking._head", lambda path: opened.append(Path(path).name) or HEIC
    )
    assert len(list(iter_images([tmp_path]))) == 10
    assert opened == ["noending", "y.heic"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(
            ("train", "train"),
            ("TRAINING", "train"),
            ("train_images", "train"),
            ("Train-Set", "train"),
        ),
        *(("trainset", "train"), ("seg_test", "test"), ("test.images", "test"), ("eval", "val")),
        *(("validation_data", "val"), ("valid", "val"), ("trainer", None), ("test_bench", None)),
        *(("train_test", None), ("images", None), ("evaluation", None), ("", None), ("1", None)),
    ],
)
def test_what_folders_are_called(name: str, part: str | None) -> None:
    assert part_of(name) == part


# --- the list in the run folder, prediction, evaluation -------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a folder of three classes, and a run that was trained on it."""
    place = tmp_path_factory.mktemp("wild")
    data = classes(place / "data", 12, "a b c")
    text(data / "a" / "x.heic", HEIC)
    picture(data / "b" / "old" / "n\nl.png")
    os.mkfifo(data / "c" / "pipe.png")
    spec = RunSpec.of(
        str(data), train=TrainConfig(epochs=1, device="cpu"), image_size=28, ignore="old"
    )
    run_one(spec, place / "run")
    return data, place / "run"


def test_the_run_folder_lists_what_was_not_used(trained: tuple[Path, Path]) -> None:
    data, run = trained
    assert (run / "unused-files.txt").read_text(encoding="utf-8") == (
        f".heic (no reader: pip install pillow-heif)\t{data}/a/x.heic\n"
        f"folder old/ left out\t{data}/b/old\n"
        f"pipe, socket or device\t{data}/c/pipe.png\n"
    )
    notes = json.loads((run / "result.json").read_text())["notes"]
    assert (
        "3 files not used: .heic 1 (no reader: pip install pillow-heif); 1 pipe, socket or device; "
        "folder old/ left out (1 file)." in notes
    )
    assert not (run / "bad-images.txt").exists()


def test_predict_reads_by_content_and_tells_the_rest(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    picture(new / "no-ending", format="png")
    picture(new / "x.pjpeg", format="jpeg")
    picture(new / "@eaDir" / "x.png")
    text(new / "y.heic", HEIC)
    os.mkfifo(new / "z.jpg")
    out = tmp_path / "out.csv"
    with pytest.MonkeyPatch.context() as patch:
        words = ["spinalnet", "predict", trained[1], new, "--out", out, "--device", "cpu"]
        patch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as stop:
            root.main()
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code in (0, None), said
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == [
        str(new / "no-ending"),
        str(new / "x.pjpeg"),
    ]
    assert (
        "2 files not used: .heic 1 (no reader: pip install pillow-heif); 1 pipe, socket or device; "
        "1 system folder." in said
    )


def test_a_pipe_given_by_its_name_is_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(
        InputError, match=r"x.jpg' is a folder, a pipe or a device, not a file; remove it"
    ):
        list(predict_images(trained[1], [tmp_path / "x.jpg"], device="cpu"))


class Scored(NamedTuple):
    make: Make
    n: int
    notes: tuple[str, ...]  # with {d} for the folder


SCORED: dict[str, Scored] = {
    "all of a flat folder": Scored(
        lambda d: classes(d, 12, "a b c"), 36, ("Scored on all 36 images of '{d}'.",)
    ),
    "one image of a class is enough": Scored(
        lambda d: classes(d, 1, "a b c"), 3, ("Scored on all 3 images of '{d}'.",)
    ),
    "a subset of the classes": Scored(
        lambda d: classes(d, 2, "a c"),
        4,
        ("Scored on all 4 images of '{d}'.", "There are no images of b."),
    ),
    "one class": Scored(
        lambda d: classes(d, 2, "c"),
        2,
        ("Scored on all 2 images of '{d}'.", "There are no images of a, b."),
    ),
    "the test part of parts": Scored(
        lambda d: parts(d, "train val test", "a b c"),
        15,
        ("Scored on the 15 images of '{d}/test'.",),
    ),
    "the validation part where there is no test part": Scored(
        lambda d: parts(d, "train valid", "a b c"), 15, ("Scored on the 15 images of '{d}/valid'.",)
    ),
    "a test part alone": Scored(
        lambda d: parts(d, "test", "a b c"), 15, ("Scored on the 15 images of '{d}/test'.",)
    ),
    "what is not used is told": Scored(
        both(lambda d: classes(d, 2, "a b c"), at("a/x.heic", HEIC)),
        6,
        (
            "Scored on all 6 images of '{d}'.",
            "1 file not used: .heic 1 (no reader: pip install pillow-heif).",
        ),
    ),
}


@pytest.mark.parametrize("case", SCORED)
def test_evaluation_scores_all_that_has_labels(
    trained: tuple[Path, Path], tmp_path: Path, case: str
) -> None:
    row, said = SCORED[case], []
    row.make(tmp_path)
    found = evaluate_run(trained[1], str(tmp_path), device="cpu", tell=said.append)
    assert found.metrics["n"] == row.n
    assert said == [note.replace("{d}", str(tmp_path)) for note in row.notes]
    by_class = {name: score.support for name, score in found.classes.items()}
    assert list(by_class) == ["a", "b", "c"]
    assert sum(by_class.values()) == row.n


def test_the_scores_are_those_of_the_model_on_the_files(
    trained: tuple[Path, Path], tmp_path
) -> None:
    classes(tmp_path, 9, "a c")
    model = load_trained(trained[1])
    part, info = model.load_test(str(tmp_path))
    assert info.class_names == ("a", "b", "c")
    x, y = next(iter(part.batches(99)))
    assert y.tolist() == [0] * 9 + [2] * 9
    with torch.no_grad():
        right = (model.model(x).argmax(1) == y).double().mean().item()
    found = evaluate_run(trained[1], str(tmp_path), device="cpu")
    assert found.metrics["accuracy"] == pytest.approx(right)


def test_data_of_the_run_itself_is_scored_on_its_test_part(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch
) -> None:
    data, run = trained
    own = evaluate_run(run, device="cpu").metrics
    assert own["n"] == 7
    assert evaluate_run(run, str(data), device="cpu").metrics == own
    monkeypatch.chdir(data.parent)
    assert evaluate_run(run, "data", device="cpu").metrics == own
    said: list[str] = []
    (tmp_path / "copy").symlink_to(data)
    assert evaluate_run(run, str(tmp_path / "copy"), device="cpu").metrics == own
    (data.parent / "more").mkdir(exist_ok=True)
    (data.parent / "more" / "a").symlink_to(data / "a")
    assert (
        evaluate_run(run, str(data.parent / "more"), device="cpu", tell=said.append).metrics["n"]
        == 12
    )
    inside = parts(data / "b" / "old", "test", "a b c").resolve()
    evaluate_run(run, str(inside), device="cpu", tell=said.append)
    assert said[-1] == (
        f"'{inside}' and the data of the run, '{data.resolve()}', lie in one another: images that "
        "the model was trained on may be among them."
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda d: classes(d, 1, "a d B e"),
            "the classes 'B', 'd', 'e' are in '{d}', but the model knows a, b, c; it calls it 'b'; "
            "give data with the same classes, or leave folders out with ignore=NAME.",
        ),
        (
            both(image("0.png"), image("1.png")),
            "'{d}' must hold class folders with images, found 0; 2 images there lie in no class "
            "folder.",
        ),
        (
            both(lambda d: classes(d / "train"), image("test/0.png")),
            "'{d}/test' holds 1 image without classes (use: spinalnet predict RUN '{d}/test'); "
            "give every image a folder named after its class, or do without the part: ignore=test.",
        ),
    ],
)
def test_evaluation_refuses_what_has_no_known_labels(
    trained: tuple[Path, Path], tmp_path: Path, make: Make, sentence: str
) -> None:
    make(tmp_path)
    with pytest.raises(InputError) as caught:
        evaluate_run(trained[1], str(tmp_path), device="cpu")
    assert str(caught.value) == sentence.replace("{d}", str(tmp_path))


def test_names_of_any_bytes_pass_through_a_run(tmp_path: Path) -> None:
    data = classes(tmp_path / "data", 8)
    (data / "a" / "0.png").rename(data / "a" / "\udcff\n.png")
    text(data / "a" / "bad\udcff.png", b"no image")
    spec = RunSpec.of(
        str(data), train=TrainConfig(epochs=1, device="cpu"), image_size=28, on_bad_image="skip"
    )
    record = run_one(spec, tmp_path / "run")
    assert record.result is not None
    listed = (tmp_path / "run" / "bad-images.txt").read_text(encoding="utf-8")
    assert listed == f"'{data}/a/bad\\xff.png' is not an image\n"


# --- the same picture twice -----------------------------------------------------------------------


def scenes(folder: Path, count: int, names: str = "a b", first: int = 0) -> Path:
    """Write class folders of smooth pictures, all different."""
    seeds = itertools.count(first)
    for name, k in itertools.product(names.split(), range(count)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        scene(next(seeds)).save(folder / name / f"{k}.png")
    return folder


def copy(source: Path, to: Path) -> None:
    text(to, source.read_bytes())


def changed(source: Path, to: Path, side: int | None = None, **options: Any) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as read:
        (read if side is None else read.resize((side, side))).save(to, **options)


class Twice(NamedTuple):
    make: Make
    notes: tuple[str, ...]  # with {d} for the folder
    sizes: tuple[int, int, int]  # with on_duplicate=skip: train, val, test
    skipped: tuple[str, ...] = ()  # notes then


def sets(d: Path) -> None:
    scenes(d / "train", 5)
    scenes(d / "test", 3, first=50)


ADVICE = "; on_duplicate=skip leaves the training copies out"
TWICE: dict[str, Twice] = {
    "in train and test": Twice(
        both(sets, lambda d: copy(d / "train/a/0.png", d / "test/a/x.png")),
        (
            "1 of the 7 test images is also in train or val, byte for byte ('{d}/test/a/x.png' is "
            f"'{{d}}/train/a/0.png'): the test result flatters{ADVICE}.",
        ),
        (7, 2, 7),
        (
            "1 of the 7 test images is also in train or val, byte for byte ('{d}/test/a/x.png' is "
            "'{d}/train/a/0.png').",
            "Copies of other pictures are left out (1 that test images have in train or val): "
            "bad-images.txt lists them.",
        ),
    ),
    "in train and test under two labels": Twice(
        both(sets, lambda d: copy(d / "train/a/0.png", d / "test/b/x.png")),
        (
            "1 of the 7 test images is also in train or val under another label, byte for byte "
            "('{d}/test/b/x.png' is '{d}/train/a/0.png'): one of the labels is wrong, and the test "
            f"result means less{ADVICE}.",
        ),
        (7, 2, 7),
    ),
    "within train under two labels": Twice(
        both(sets, lambda d: copy(d / "train/a/0.png", d / "train/b/x.png")),
        (
            "1 of the 11 training images is there under another label too, byte for byte "
            "('{d}/train/b/x.png' is '{d}/train/a/0.png'): one of the labels is wrong; "
            "on_duplicate=skip leaves out every such picture.",
        ),
        (7, 2, 6),
    ),
    "within train under one label": Twice(
        both(sets, lambda d: copy(d / "train/a/0.png", d / "train/a/x.png")),
        (
            "1 of the 11 training images is a copy of another, byte for byte ('{d}/train/a/x.png' "
            "is '{d}/train/a/0.png'), and counts again; on_duplicate=skip leaves it out.",
        ),
        (8, 2, 6),
    ),
    "nearly, within train under two labels": Twice(
        both(sets, lambda d: changed(d / "train/a/0.png", d / "train/b/x.jpg", quality=70)),
        (
            "1 of the 11 training images is there under another label too, re-encoded, resized, "
            "cut or slightly changed ('{d}/train/b/x.jpg' is '{d}/train/a/0.png'): one of the "
            "labels is wrong; on_duplicate=skip leaves out every such picture.",
        ),
        (7, 2, 6),
    ),
    "within test under two labels": Twice(
        both(sets, lambda d: copy(d / "test/a/0.png", d / "test/b/x.png")),
        (
            "1 of the 7 test images is there under another label too, byte for byte "
            "('{d}/test/b/x.png' is '{d}/test/a/0.png'): one of the labels is wrong.",
        ),
        (8, 2, 7),
    ),
    "the same pixels in another format": Twice(
        both(sets, lambda d: changed(d / "train/a/0.png", d / "test/a/x.bmp")),
        (
            "1 of the 7 test images is also in train or val, pixel for pixel ('{d}/test/a/x.bmp' "
            f"is '{{d}}/train/a/0.png'): the test result flatters{ADVICE}.",
        ),
        (7, 2, 7),
    ),
    "re-encoded": Twice(
        both(sets, lambda d: changed(d / "train/a/0.png", d / "test/a/x.jpg", quality=70)),
        (
            "1 of the 7 test images is also in train or val, re-encoded, resized, cut or "
            "slightly changed ('{d}/test/a/x.jpg' is '{d}/train/a/0.png'): the test result flatters"
            f"{ADVICE}.",
        ),
        (7, 2, 7),
    ),
    "resized": Twice(
        both(sets, lambda d: changed(d / "train/b/1.png", d / "test/b/x.png", side=90)),
        (
            "1 of the 7 test images is also in train or val, re-encoded, resized, cut or "
            "slightly changed ('{d}/test/b/x.png' is '{d}/train/b/1.png'): the test result flatters"
            f"{ADVICE}.",
        ),
        (7, 2, 7),
    ),
    "in val and in test, in several ways": Twice(
        both(
            sets,
            lambda d: scenes(d / "val", 2, first=80),
            lambda d: copy(d / "val/a/0.png", d / "test/a/x.png"),
            lambda d: changed(d / "train/b/1.png", d / "test/b/y.jpg", quality=80),
        ),
        (
            "2 of the 8 test images are also in train or val, 1 byte for byte, 1 re-encoded, "
            "resized, cut or slightly changed ('{d}/test/b/y.jpg' is '{d}/train/b/1.png'): the "
            f"test result flatters{ADVICE}.",
        ),
        (9, 3, 8),
    ),
    "in a whole under two labels": Twice(
        both(lambda d: scenes(d, 10), lambda d: copy(d / "a/0.png", d / "b/x.png")),
        (
            "1 of the 21 images is there under another label too, byte for byte ('{d}/b/x.png' is "
            "'{d}/a/0.png'): one of the labels is wrong; on_duplicate=skip leaves out every such "
            "picture.",
        ),
        (13, 2, 4),
        (
            "1 of the 21 images is there under another label too, byte for byte ('{d}/b/x.png' is "
            "'{d}/a/0.png'): one of the labels is wrong.",
            "Copies of other pictures are left out (2 of 21 images): bad-images.txt lists them.",
        ),
    ),
    "blank images": Twice(
        both(
            sets,
            lambda d: Image.new("RGB", (40, 40), (9, 9, 9)).save(d / "train/a/x.png"),
            lambda d: Image.new("RGB", (40, 40), (12, 9, 9)).save(d / "test/b/x.png"),
        ),
        (),
        (9, 2, 7),
    ),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("case", TWICE)
def test_the_same_picture_twice(tmp_path: Path, case: str, streamed: bool) -> None:
    row = TWICE[case]
    row.make(tmp_path)
    options: dict[str, Any] = {"image_size": 32, "memory_budget": 0 if streamed else 2**30}
    kept = load_dataset(tmp_path, **options)
    found = [note for note in notes_of(kept) if "stream from disk" not in note]
    if "whole" in case:  # whether the copies are on both sides is the draw's
        found = [note for note in found if "flatters" not in note and "means less" not in note]
    assert found == [note.replace("{d}", str(tmp_path)) for note in row.notes]
    assert kept.left_out == ()
    skipped = load_dataset(tmp_path, on_duplicate="skip", **options)
    assert tuple(map(len, (skipped.train, skipped.val, skipped.test))) == row.sizes
    if row.skipped:
        said = [note for note in notes_of(skipped) if "stream from disk" not in note]
        assert said == [note.replace("{d}", str(tmp_path)) for note in row.skipped]
    if "whole" not in case:
        assert skipped.test.paths == kept.test.paths  # never changed
    out = {what.path for what in skipped.left_out}
    assert len(out) == sum(map(len, (kept.train, kept.val, kept.test))) - sum(row.sizes)
    assert not out & {*skipped.train.paths, *skipped.val.paths, *skipped.test.paths}


def test_pictures_too_plain_for_their_look_are_known_by_their_pixels(tmp_path: Path) -> None:
    sets(tmp_path)
    rng = np.random.default_rng(0)
    for name, of in (("train/a/p", "train/b/q"), ("train/a/r", "test/a/s")):
        faint = rng.integers(120, 124, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(faint).save(tmp_path / f"{name}.jpg", quality=95)
        Image.open(tmp_path / f"{name}.jpg").save(tmp_path / f"{of}.png")
    notes = " ".join(notes_of(load_dataset(tmp_path, image_size=32)))
    assert "there under another label too, pixel for pixel" in notes
    assert f"('{tmp_path}/train/b/q.png' is '{tmp_path}/train/a/p.jpg')" in notes
    assert f"('{tmp_path}/test/a/s.png' is '{tmp_path}/train/a/r.jpg')" in notes


def test_of_very_many_files_only_the_bytes_are_compared(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("spinalnet.data.likeness._MOST_FILES", 8)
    sets(tmp_path)
    copy(tmp_path / "train/a/0.png", tmp_path / "test/a/x.png")
    changed(tmp_path / "train/a/1.png", tmp_path / "test/a/y.jpg", quality=90)
    notes = load_dataset(tmp_path, image_size=32, memory_budget=0).info.notes
    assert any(note.startswith("1 of the 8 test images is also in train or val") for note in notes)
    assert sum(note.startswith("Pictures that are nearly the same are not") for note in notes) == 1
    held = load_dataset(tmp_path, image_size=32).info.notes
    assert not any(note.startswith("Pictures that are nearly the same are not") for note in held)


@pytest.mark.parametrize("skip", [False, True])
def test_copies_in_folds_are_told_or_left_out(tmp_path: Path, skip: bool) -> None:
    scenes(tmp_path, 12)
    copy(tmp_path / "a/0.png", tmp_path / "a/x.png")
    changed(tmp_path / "b/1.png", tmp_path / "b/y.jpg", quality=80)
    copy(tmp_path / "a/2.png", tmp_path / "b/z.png")
    found = [
        load_dataset(
            tmp_path,
            image_size=32,
            resample=Resample("fold", k, 3),
            on_duplicate="skip" if skip else "keep",
        )
        for k in range(3)
    ]
    notes = notes_of(found[0])
    assert all(notes_of(splits) == notes for splits in found)
    assert sum(len(splits.test) for splits in found) == (23 if skip else 27)
    kept = {path for splits in found for path in splits.test.paths}
    gone = {str(tmp_path / name) for name in ("a/x.png", "b/y.jpg", "a/2.png", "b/z.png")}
    assert not kept & gone if skip else kept > gone
    told = any(
        "2 of the 27 images are copies of others, 1 byte for byte, 1 re-" in n for n in notes
    )
    assert told != skip


def altered(name: str, image: Image.Image) -> Image.Image:
    """Return a picture as people keep a second one of it."""
    (width, height), share = image.size, 0.05
    if name == "square":
        return image.resize((160, 160))
    if name == "wide":
        return image.resize((320, 120))
    if name == "grey":
        return image.convert("L")
    if name == "centre":
        side = min(image.size)
        left, top = (width - side) // 2, (height - side) // 2
        return image.crop((left, top, left + side, top + side))
    x, y = round(share * width), round(share * height)
    cut = image.crop((x, y, width - x, height - y))
    return cut.convert("L") if name == "grey and cut" else cut


def wide_scene(seed: int) -> Image.Image:
    return scene(seed).resize((320, 220)).crop((0, 10, 320, 210))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", ["square", "wide", "grey", "centre", "cut", "grey and cut"])
def test_a_picture_is_known_again_in_another_shape(
    tmp_path: Path, name: str, streamed: bool
) -> None:
    for part, first, count in (("train", 0, 5), ("test", 50, 3)):
        for k, label in enumerate("ab"):
            for seed in range(first, first + count):
                where = tmp_path / part / label / f"{seed}.png"
                where.parent.mkdir(parents=True, exist_ok=True)
                wide_scene(seed + 500 * k).save(where)
    altered(name, wide_scene(1)).save(tmp_path / "test/a/x.jpg", quality=85)
    budget = 0 if streamed else 2**30
    notes = load_dataset(tmp_path, image_size=32, memory_budget=budget).info.notes
    said = [note for note in notes if "test images is also in train or val" in note]
    assert len(said) == 1
    assert f"('{tmp_path}/test/a/x.jpg' is '{tmp_path}/train/a/1.png')" in said[0]


def test_copies_are_listed_in_the_run_folder_though_they_are_kept(tmp_path: Path) -> None:
    sets(tmp_path / "data")
    copy(tmp_path / "data/train/a/0.png", tmp_path / "data/test/a/x.png")
    copy(tmp_path / "data/train/a/1.png", tmp_path / "data/train/b/y.png")
    spec = RunSpec.of(
        str(tmp_path / "data"), train=TrainConfig(epochs=1, device="cpu"), image_size=28
    )
    run_one(spec, tmp_path / "run")
    data = f"'{tmp_path}/data/"
    assert (tmp_path / "run" / "copies.txt").read_text() == (
        f"{data}train/a/0.png' is {data}test/a/x.png': byte for byte\n"
        f"{data}train/b/y.png' is {data}train/a/1.png': byte for byte, under another label\n"
    )
    assert not (tmp_path / "run" / "bad-images.txt").exists()


def test_copies_left_out_are_listed_in_the_run_folder(tmp_path: Path) -> None:
    sets(tmp_path / "data")
    copy(tmp_path / "data/train/a/0.png", tmp_path / "data/test/a/x.png")
    spec = RunSpec.of(
        str(tmp_path / "data"),
        train=TrainConfig(epochs=1, device="cpu"),
        image_size=28,
        on_duplicate="skip",
    )
    run_one(spec, tmp_path / "run")
    assert (tmp_path / "run" / "bad-images.txt").read_text() == (
        f"'{tmp_path}/data/train/a/0.png' is left out: it is the picture of "
        f"'{tmp_path}/data/test/a/x.png'\n"
    )


def test_of_files_of_one_size_few_are_read_whole(tmp_path: Path, monkeypatch) -> None:
    from spinalnet.data import copies

    paths = [str(picture(tmp_path / f"{k}.bmp")) for k in range(9)]
    paths += [str(tmp_path / "x.bmp")]
    copy(tmp_path / "3.bmp", tmp_path / "x.bmp")
    whole, digest = [], copies._digest
    monkeypatch.setattr(
        copies,
        "_digest",
        lambda path, size, all_: (whole.append(path) if all_ else None) or digest(path, size, all_),
    )
    twins = copies.within(copies.Pictures(paths, torch.zeros(10)))
    assert twins == [copies.Twin(9, 3, "bytes", True)]
    assert whole == [paths[3], paths[9]]


def pixels_of(images: list[Image.Image], side: int = 64) -> torch.Tensor:
    arrays = [np.asarray(one.convert("RGB").resize((side, side))) for one in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def test_likeness_by_bands_is_that_of_all_pairs() -> None:
    """Against every pair compared one by one; twins that differ in some bits are among them."""
    originals = [scene(seed) for seed in range(60)]
    draw = np.random.default_rng(0)
    noisy = [
        Image.fromarray(
            (np.asarray(one).astype(int) + draw.integers(-14, 15, (160, 160, 3)))
            .clip(0, 255)
            .astype(np.uint8)
        )
        for one in originals[::2]
    ]
    first, second = looks_of(pixels_of(originals)), looks_of(pixels_of(noisy))
    assert first is not None
    assert second is not None
    found = alike(first, second)
    for j in range(len(noisy)):
        good = []
        for i in range(len(originals)):
            bits = int(first.codes[i, 0] ^ second.codes[j, 0]).bit_count()
            x, y = (
                looks.thumbnails(np.array([row]), 0)[0].double().numpy()
                for looks, row in ((first, i), (second, j))
            )
            x, y = (v - v.mean((1, 2), keepdims=True) for v in (x, y))
            apart = np.sqrt(((x - y) ** 2).mean()) / min(x.std(), y.std())
            limit = min(first.limits[i], second.limits[j])
            good += [i] * int(bits <= (5 if limit > 0.1 else 3) and apart < limit)
        assert (found[j] in good) if good else (found[j] == -1)
    assert (found == np.arange(0, 60, 2)).mean() > 0.9
    assert (alike(first) == -1).all()
    twice = alike(first.joined(second))
    assert (twice[:60] == -1).all()
    assert (twice[60:] == found).all()


def test_looks_of_files_are_those_of_their_pixels(tmp_path: Path) -> None:
    paths = []
    for k in range(20):
        scene(k).save(tmp_path / f"{k}.png")
        paths.append(str(tmp_path / f"{k}.png"))
    from_files, from_memory = (
        looks_of_files(paths),
        looks_of(pixels_of([scene(k) for k in range(20)])),
    )
    assert from_files is not None
    assert from_memory is not None
    assert (alike(from_memory, from_files) == np.arange(20)).mean() > 0.9
    assert looks_of_files([]) is not None
    assert looks_of(torch.zeros(3, 3, 8, 8, dtype=torch.uint8)) is None


def test_frames_of_one_film_take_no_longer_than_they_must(tmp_path: Path) -> None:
    """All alike: the worst that the search can meet."""
    draw = torch.Generator().manual_seed(0)
    frame = pixels_of([scene(3)], 32)
    frames = (frame + torch.randint(0, 3, (3000, 3, 32, 32), generator=draw)).clamp(0, 255).byte()
    looks = looks_of(frames)
    assert looks is not None
    found = alike(looks)
    assert found[0] == -1
    assert (found[1:] >= 0).mean() > 0.99
    assert (found < np.arange(3000)).all()


def test_shown_is_one_line_of_text() -> None:
    assert shown("a/\udcff\n\t é.png") == "a/\\xff\\n\\t é.png"
    shown("a/\udcff").encode()


def test_a_tally_counts_a_path_once(tmp_path: Path) -> None:
    text(tmp_path / "x.txt")
    walk = Walk()
    assert walk.images(str(tmp_path)) == walk.images(str(tmp_path)) == []
    assert walk.tally.note() == "1 file not used: .txt 1."
    assert not Tally()

"""Image files: of every kind, broken in every way, in any folder, by any number of threads."""

from __future__ import annotations

import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers import write_images
from spinalnet._checks import InputError
from spinalnet.data import folders, images
from spinalnet.data.batches import ArrayDataset, FolderDataset
from spinalnet.data.folders import iter_images
from spinalnet.data.images import BadImagesError
from spinalnet.data.loading import load_dataset


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def gradient(height: int = 16, width: int = 16) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 8, columns * 8, rows + columns], 2).astype(np.uint8)


def pixels(path: Path, channels: int = 3, size: int = 16) -> Tensor:
    return images.read_pixels(str(path), channels, size).permute(2, 0, 1)


# --- pixels of one file ---------------------------------------------------------------------------


def test_images_of_every_mode_become_rgb_or_grey(tmp_path):
    colour = gradient()
    rgb = torch.from_numpy(colour).permute(2, 0, 1)
    grey = torch.from_numpy(np.array(Image.fromarray(colour).convert("L")))[None]
    path = save(tmp_path / "rgb.png", colour)
    assert torch.equal(pixels(path), rgb)
    assert torch.equal(pixels(path, 1), grey)
    path = save(tmp_path / "l.png", grey[0].numpy())
    assert torch.equal(pixels(path, 1), grey)
    assert torch.equal(pixels(path), grey.expand(3, -1, -1))
    deep = (grey[0].numpy().astype(np.uint16) * 257).astype(np.uint16)
    assert torch.equal(pixels(save(tmp_path / "16bit.png", deep), 1), grey)
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert (pixels(tmp_path / "cmyk.tif").int() - rgb.int()).abs().max() <= 2
    Image.fromarray(colour).quantize(256).save(tmp_path / "palette.png")
    assert (pixels(tmp_path / "palette.png").int() - rgb.int()).abs().float().mean() < 8
    Image.fromarray(grey[0].numpy() > 60).save(tmp_path / "bilevel.png")
    assert set(pixels(tmp_path / "bilevel.png", 1).unique().tolist()) == {0, 255}


def test_a_photograph_for_print_keeps_its_colours(tmp_path):
    """CMYK JPEGs of printers hold inverted inks, which is marked in the file alone."""
    wide = np.array(Image.fromarray(gradient()).resize((64, 64)))
    Image.fromarray(wide).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    truth = torch.from_numpy(wide).permute(2, 0, 1)
    assert (pixels(tmp_path / "x.jpg", size=64).int() - truth.int()).abs().float().mean() < 3
    grey = pixels(tmp_path / "x.jpg", 1, 64).int()
    luma = torch.from_numpy(np.array(Image.fromarray(wide).convert("L")))
    assert (grey - luma.int()).abs().float().mean() < 3


@pytest.mark.parametrize("mode", ["LA", "PA", "RGBA", "P"])
def test_alpha_of_every_mode_is_shown_on_white(tmp_path, mode):
    rgba = np.dstack([np.repeat(gradient()[:, :, 1:2], 3, 2), np.full((16, 16), 255, np.uint8)])
    rgba[:8, :, 3] = 0
    image = Image.fromarray(rgba)
    if mode == "P":  # transparency of single palette entries
        image.convert("P").save(tmp_path / "x.gif", transparency=0)
        with Image.open(tmp_path / "x.gif") as image:
            image.save(tmp_path / "x.png")
    elif mode == "PA":
        image.convert("PA").save(tmp_path / "x.tif")
        (tmp_path / "x.tif").rename(tmp_path / "x.png")
    else:
        image.convert(mode).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as stored:
        assert stored.mode == mode
        held = stored.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", stored.size, "white"), held)
    truth = torch.from_numpy(np.array(shown.convert("RGB"))).permute(2, 0, 1)
    out = pixels(tmp_path / "x.png")
    assert torch.equal(out, truth)
    if (np.array(held)[:8, :, 3] == 0).all():  # Pillow before 12 makes PA without transparency
        assert (out[:, :8] == 255).all()
    else:
        assert mode in ("P", "PA")


@pytest.mark.parametrize("deep", ["png", "tif", "big-endian tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, deep):
    grey = gradient()[:, :, 0]
    values = grey.astype(np.uint16) * 257 + 128  # what lies between two of 256 levels
    values = values.clip(0, 65535)
    path = tmp_path / ("x.png" if deep == "png" else "x.tif")
    if deep == "big-endian tif":
        Image.frombytes("I;16B", (16, 16), values.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(values).save(path)
    assert torch.equal(pixels(path, 1)[0], torch.from_numpy(grey))


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp"])
def test_an_animation_is_its_first_frame(tmp_path, name):
    frames = [Image.fromarray(np.full((16, 16, 3), k, np.uint8)) for k in (200, 90, 10)]
    options = {"lossless": True} if name == "x.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / name) as stored:
        assert stored.n_frames == 3
    assert (pixels(tmp_path / name) == 200).all()


def test_transparent_pixels_become_white(tmp_path):
    rgba = np.dstack([gradient(), np.full((16, 16), 255, np.uint8)])
    rgba[:8, :, 3] = 0
    out = pixels(save(tmp_path / "rgba.png", rgba))
    assert (out[:, :8] == 255).all()
    assert torch.equal(out[:, 8:], torch.from_numpy(rgba[8:, :, :3]).permute(2, 0, 1))
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.putpixel((3, 3), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    out = pixels(tmp_path / "p.png")
    assert out[:, 0, 0].tolist() == [255, 255, 255]
    assert out[:, 3, 3].tolist() == [200, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
def test_the_camera_orientation_is_applied(tmp_path, name, orientation):
    upright = np.asarray(Image.fromarray(gradient()).resize((48, 32)))
    # What a camera stores so that this turn or mirroring brings it upright.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if name == "x.jpg" else {}
    path = save(tmp_path / name, np.ascontiguousarray(stored), exif=exif, **options)
    truth = torch.from_numpy(upright[:, 8:40].copy()).permute(2, 0, 1)
    error = (pixels(path, size=32).int() - truth.int()).abs()
    assert error.max() <= (6 if name == "x.jpg" else 0)


def test_decoding_a_photograph_at_a_fraction_hardly_changes_it(tmp_path, monkeypatch):
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("flower.jpg")[:416, :416].repeat(2, 0).repeat(2, 1)
    path = save(tmp_path / "x.jpg", photo, quality=90)
    for size, mean, most in ((64, 0.6, 6), (200, 0.6, 6)):  # decoded at 1/4, at 1/2
        small = pixels(path, size=size).int()
        with monkeypatch.context() as patched:
            patched.setattr(images, "_DRAFT_MARGIN", 10_000)
            whole = pixels(path, size=size).int()
        error = (small - whole).abs().float()
        assert 0 < error.mean() < mean
        assert error.flatten().quantile(0.999) <= most


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 33), (1, 500), (7, 7), (3000, 2)])
def test_images_of_any_size_are_cut_to_the_centre_square(tmp_path, height, width):
    image = np.zeros((height, width, 3), np.uint8)
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    image[top : top + short, left : left + short] = 200
    out = pixels(save(tmp_path / "x.png", image), size=16)
    assert out.shape == (3, 16, 16)
    assert (out == 200).all()


def test_large_jpegs_decode_small_and_look_the_same(tmp_path, monkeypatch):
    size = 512
    axis = np.linspace(0, 150, size)
    wave = 127 + 100 * np.sin(axis)[:, None] * np.cos(axis)
    image = np.repeat(wave.astype(np.uint8)[:, :, None], 3, 2)
    save(tmp_path / "x.png", image)
    save(tmp_path / "x.jpg", image, quality=95)
    truth = pixels(tmp_path / "x.png", size=128).int()
    decoded = []
    fit = images.squeezed
    monkeypatch.setattr(images, "squeezed", lambda x, size: decoded.append(x.shape) or fit(x, size))
    difference = pixels(tmp_path / "x.jpg", size=128).int() - truth
    assert decoded == [(1, 3, 256, 256)]
    assert difference.abs().float().mean() < 3


def test_iter_images_takes_files_and_folders(tmp_path):
    write_images(tmp_path, {"a": 2, "b": 1})
    single = tmp_path / "b" / "000.png"
    found = list(iter_images([single, tmp_path / "a", str(tmp_path)]))
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["b/000.png", *["a/000.png", "a/001.png"] * 2, "b/000.png"]
    with pytest.raises(InputError, match=r"'.*gone' does not exist"):
        list(iter_images([tmp_path / "gone"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"'.*empty' holds no images"):
        list(iter_images([tmp_path / "empty"]))


def test_resizing_whole_sets_equals_resizing_one_by_one():
    batch = torch.randint(0, 256, (5, 3, 13, 9)).byte()
    together = images.fit_to(batch, 6)
    for image, small in zip(batch, together, strict=True):
        assert torch.equal(images.fit_to(image, 6), small)
    square = batch[..., :9, :]
    assert torch.equal(images.fit_to(square, 9), square)


def test_an_ending_is_not_taken_for_a_format(tmp_path):
    save(tmp_path / "x.png", gradient()).rename(tmp_path / "x.jpg")
    assert torch.equal(pixels(tmp_path / "x.jpg"), torch.from_numpy(gradient()).permute(2, 0, 1))


# --- files that cannot be used --------------------------------------------------------------------


def photograph(path: Path, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return save(path, noise, **({"quality": 90} if path.suffix == ".jpg" else {}))


def bomb(path: Path) -> None:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def cut(path: Path) -> None:
    whole = photograph(path).read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


# What is wrong, how to make it, and what is said.
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "bomb.png": (bomb, "is refused (Image size (3600000000 pixels) exceeds limit"),
    "cut.jpg": (cut, "cannot be decoded (image file is truncated"),
    "cut.png": (cut, "cannot be decoded ("),
    "empty.jpg": (lambda path: path.write_bytes(b""), "is empty"),
    "float.tif": (
        lambda path: Image.new("F", (9, 9)).save(path),
        "cannot be decoded (32-bit float",
    ),
    "text.jpg": (lambda path: path.write_text("<html>404</html>"), "is not an image"),
}


def messy(folder: Path, per_class: int = 12) -> list[Path]:
    """Write photographs of two classes and, in the first, a file broken in every way."""
    for k, name in enumerate(("ants", "bees")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            photograph(folder / name / f"{i:03}.jpg", 100 * k + i)
    for name, (make, _) in BROKEN.items():
        make(folder / "ants" / name)
    return [folder / "ants" / name for name in BROKEN]


@pytest.mark.parametrize("streamed", [False, True])
def test_all_files_that_cannot_be_used_are_in_one_report(tmp_path, streamed):
    broken = messy(tmp_path)
    with pytest.raises(BadImagesError) as caught:
        load_dataset(tmp_path, image_size=16, memory_budget=0 if streamed else 2**30)
    first, *rows = str(caught.value).split("\n")
    assert first == (
        "6 image files cannot be used; remove or replace them, or leave such files out "
        "with on_bad_image=skip:"
    )
    assert len(rows) == len(broken)
    for row, path, (_, reason) in zip(rows, broken, BROKEN.values(), strict=True):
        assert row.startswith(f"'{path}' {reason}")
    assert [what.path for what in caught.value.bad] == [str(path) for path in broken]


@pytest.mark.parametrize("streamed", [False, True])
def test_skipping_is_as_if_the_files_were_not_there(tmp_path, streamed):
    broken = messy(tmp_path)
    middle = bytearray(photograph(tmp_path / "bees" / "rot.png", 5).read_bytes())
    middle[len(middle) // 2] ^= 255  # its beginning and its end are fine
    (tmp_path / "bees" / "rot.png").write_bytes(middle)
    broken.append(tmp_path / "bees" / "rot.png")
    options = {"image_size": 16, "memory_budget": 0 if streamed else 2**30}
    skipped = load_dataset(tmp_path, on_bad_image="skip", **options)
    assert [what.path for what in skipped.left_out] == [str(path) for path in broken]
    assert (
        f"7 of 31 image files cannot be used and are left out: '{broken[0]}', '{broken[1]}', "
        f"'{broken[2]}' and 4 more (bad-images.txt lists all)." in skipped.info.notes
    )
    for path in broken:
        path.unlink()
    clean = load_dataset(tmp_path, **options)
    assert clean.left_out == ()
    assert skipped.info.mean == clean.info.mean
    for part in ("train", "val", "test"):
        ours, theirs = getattr(skipped, part), getattr(clean, part)
        assert isinstance(ours, FolderDataset if streamed else ArrayDataset)
        assert ours.paths == theirs.paths
        for (x, y), (clean_x, clean_y) in zip(ours.batches(5), theirs.batches(5), strict=True):
            assert torch.equal(x, clean_x)
            assert torch.equal(y, clean_y)


def test_a_class_of_broken_files_alone_is_refused(tmp_path):
    write_images(tmp_path, {"a": 4, "b": 4})
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"class 'b' has 0 training image\(s\), but 3 are needed"):
        load_dataset(tmp_path, on_bad_image="skip")
    with pytest.raises(InputError, match="on_bad_image must be error or skip, got 'warn'"):
        load_dataset(tmp_path, on_bad_image="warn")  # type: ignore[arg-type]


def test_a_file_checked_once_is_checked_again_when_it_changes(tmp_path, monkeypatch):
    path = str(photograph(tmp_path / "x.jpg"))
    looked = []
    defect = images._defect
    monkeypatch.setattr(images, "_defect", lambda *args: looked.append(args) or defect(*args))
    assert images.find_bad([path], thorough=False) == []
    assert images.find_bad([path], thorough=False) == []
    assert len(looked) == 1
    Path(path).write_bytes(Path(path).read_bytes()[:-2])
    assert [row for row, _ in images.find_bad([path], thorough=False)] == [0]
    # Bytes after the end do no harm.
    Path(path).write_bytes(photograph(tmp_path / "x.jpg").read_bytes() + b"camera maker's notes")
    assert images.find_bad([path], thorough=False) == []


# --- threads --------------------------------------------------------------------------------------


def reading_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("spinalnet-images")]


def folder_of(tmp_path: Path, count: int, threads: int) -> FolderDataset:
    paths = [str(photograph(tmp_path / f"{i:03}.jpg", i)) for i in range(count)]
    return FolderDataset(paths, torch.arange(count), 3, 16, num_workers=threads)


@pytest.fixture
def many_cpus(monkeypatch):
    monkeypatch.setattr("spinalnet.data.batches.usable_cpus", lambda: 8)


def test_batches_are_the_same_with_any_number_of_threads(tmp_path, many_cpus):
    options = {"shuffle": True, "seed": 3, "epoch": 4, "augment": "rotation:20+flip"}
    alone = list(folder_of(tmp_path, 45, 0).batches(4, **options))
    assert sum(len(y) for _, y in alone) == 45
    for threads in (1, 2, 5):
        together = folder_of(tmp_path, 45, threads).batches(4, **options)
        for (x, y), (alone_x, alone_y) in zip(together, alone, strict=True):
            assert torch.equal(x, alone_x)
            assert torch.equal(y, alone_y)


@pytest.mark.parametrize("ending", ["left early", "interrupted", "error"])
def test_threads_end_with_the_epoch_however_it_ends(tmp_path, many_cpus, monkeypatch, ending):
    source = folder_of(tmp_path, 60, 3)
    read = []
    whole = images.read_pixels
    monkeypatch.setattr(images, "read_pixels", lambda *args: read.append(args) or whole(*args))
    if ending == "error":
        Path(source.paths[9]).write_bytes(b"")
    batches = source.batches(4)
    next(batches)
    assert 1 <= len(reading_threads()) <= 3
    if ending == "left early":
        batches.close()
    elif ending == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt())
    else:
        with pytest.raises(BadImagesError, match=r"009\.jpg' is empty; remove or replace it\.$"):
            list(batches)
    assert reading_threads() == []
    # What was read ahead is a few batches, not the epoch.
    assert len(read) <= 30


def test_reading_ahead_stops_where_nobody_takes_the_batches(tmp_path):
    taken = []

    def batches():
        for k in range(50):
            taken.append(k)
            yield [str(tmp_path / "x.jpg")]

    photograph(tmp_path / "x.jpg")
    reading = images.read_batches(batches(), 3, 8, threads=2)
    next(reading)
    assert len(taken) == 1 + images._BATCHES_AHEAD
    reading.close()


# --- folders --------------------------------------------------------------------------------------


def test_class_folders_that_differ_in_case_alone_are_refused(tmp_path):
    write_images(tmp_path, {"ants": 4, "bees": 4})
    (tmp_path / "Ants").mkdir(exist_ok=True)
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system takes both for one")
    photograph(tmp_path / "Ants" / "0.jpg")
    with pytest.raises(InputError, match="'Ants' and 'ants', which differ in case only; move"):
        load_dataset(tmp_path)


def test_a_class_spelt_otherwise_in_another_part_is_pointed_out(tmp_path):
    write_images(tmp_path / "train", {"ants": 4, "bees": 4})
    write_images(tmp_path / "val", {"Ants": 2, "bees": 2})
    with pytest.raises(InputError, match=r"'Ants' is in the val folder .*train calls it 'ants'"):
        load_dataset(tmp_path)


def test_a_class_missing_in_a_part_is_a_note(tmp_path):
    write_images(tmp_path / "train", {"a": 4, "b": 4})
    write_images(tmp_path / "val", {"a": 2})
    assert "The test part (val/) has no images of b." in load_dataset(tmp_path).info.notes


@pytest.mark.parametrize("with_val", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_test_images_that_are_trained_on_are_a_note(tmp_path, streamed, with_val):
    write_images(tmp_path / "train", {"a": 6, "b": 6})
    write_images(tmp_path / "test", {"a": 4, "b": 4}, size=(10, 10))
    options = {"memory_budget": 0 if streamed else 2**30}
    assert not any("byte for byte" in note for note in load_dataset(tmp_path, **options).info.notes)
    source = tmp_path / "train"
    if with_val:
        write_images(tmp_path / "val", {"a": 4, "b": 4}, size=(11, 11))
        source = tmp_path / "val"
    for name in ("000.png", "002.png"):
        content = (source / "a" / name).read_bytes()
        (tmp_path / "test" / "a" / f"copy-{name}").write_bytes(content)
    notes = load_dataset(tmp_path, **options).info.notes
    twin, original = tmp_path / "test" / "a" / "copy-000.png", source / "a" / "000.png"
    assert (
        f"2 of the 10 test images are also in train or val, byte for byte ('{twin}' is "
        f"'{original}'): the test result flatters; on_duplicate=skip leaves the training copies "
        "out." in notes
    )


def test_files_are_in_the_order_of_their_names_folder_by_folder(tmp_path):
    names = ["a/b/1.png", "a/b-c/1.png", "a/b.png", "a/10.png", "a/9.PNG", "a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in iter_images([tmp_path])]
    assert found == ["a/10.png", "a/9.PNG", "a/b/1.png", "a/b-c/1.png", "a/b.png", "a.png"]
    assert found == [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*.*"))]


def test_a_link_to_a_folder_above_does_not_go_round(tmp_path):
    write_images(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "also").symlink_to(tmp_path / "b")  # the images of b, once more
    assert len(list(iter_images([tmp_path / "a"]))) == 6


def test_classes_of_digits_and_letters_are_in_the_order_of_text():
    assert folders._class_order(["10", "2", "a"]) == ["10", "2", "a"]


def test_a_file_more_takes_little_more_memory(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for k in range(1500):
            (tmp_path / name / f"photograph-{k:06}.jpg").touch()
    tracemalloc.start()
    try:
        found = folders.index_folder(tmp_path)
        paths, targets = found.parts["train"]
        source = FolderDataset(paths, targets, 3, 8)
        half = source.subset(torch.arange(0, len(source), 2))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(half) == 1500
    # The text of a path and a few references to it.
    assert held / len(source) < 100 + len(paths[0])


@pytest.mark.parametrize("budget", [0, 2**30])
def test_values_outside_a_stated_range_are_told(tmp_path, budget):
    for label in "ab":
        (tmp_path / label).mkdir()
        for k in range(6):
            values = np.full((16, 16), 1000, np.uint16)
            values[:4] = 3000 if (label, k) == ("a", 0) else 1000
            values[8:] = 20 * k + 10
            Image.fromarray(values).save(tmp_path / label / f"{k}.png")
    options = {"pixel_range": (0, 2000), "memory_budget": budget}
    notes = load_dataset(tmp_path, **options).info.notes
    assert any(
        "Values outside of it are cut off in 1 of the files, in the worst 25 %" in note
        for note in notes
    )
    wide = load_dataset(tmp_path, pixel_range=(0, 2e6), memory_budget=budget).info.notes
    assert any("0 becomes black and 2000000 white." in note for note in wide)
    assert not any("cut off" in note for note in wide)


def test_where_no_image_can_be_used_it_is_said(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for k in range(4):
            (tmp_path / label / f"{k}.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(40))
    with pytest.raises(InputError, match="none of the 8 image files can be used") as error:
        load_dataset(tmp_path, on_bad_image="skip")
    assert "\n" not in str(error.value)

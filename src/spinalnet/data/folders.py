"""Image files in folders: which there are, of which class, in which part.

By names alone: what the files hold is for `images`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from spinalnet._checks import InputError

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class FoundImages:
    """The image files of a data set, part by part.

    Attributes:
        classes: Class names in label order.
        parts: (Paths, class indices) of "train" and, where they exist, "val" and "test".
        notes: Sentences the user must see.
        folder: Where they lie.
        groups: Group of every path, where a table of labels has a column of them.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[list[str], Tensor]]
    notes: tuple[str, ...] = ()
    folder: str = ""
    groups: Mapping[str, str] | None = None

    def pooled(self) -> FoundImages:
        """Return the same images as one part, "train": those of train, of val, of test."""
        brought = [self.parts[part] for part in _PARTS if part in self.parts]
        paths = [path for paths, _ in brought for path in paths]
        targets = torch.cat([targets for _, targets in brought])
        notes = tuple(note for note in self.notes if note != _VAL_IS_TEST)
        return replace(self, parts={"train": (paths, targets)}, notes=notes)


_VAL_IS_TEST = (
    "The folder has no test part: its validation folder is the untouched test set, and validation "
    "images are split from train."
)


@contextlib.contextmanager
def permission_explained() -> Iterator[None]:
    """Turn a refusal of the operating system into a sentence."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"'{error.filename}' cannot be read: permission denied.") from error


def suffixes() -> str:
    """Name the file name endings that count as images."""
    return " ".join(_SUFFIXES)


def _walk(folder: Path) -> list[str]:
    """Return the image files below `folder`, sorted folder by folder; hidden ones are skipped."""
    return list(_below(str(folder), frozenset(map(_identity, folder.resolve().parents))))


def _identity(folder: str | Path) -> tuple[int, int]:
    """Return what tells a folder from all others, whatever path leads to it."""
    status = os.stat(folder)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _below(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Yield the image files below `folder`, which lies in the folders `above`."""
    identity = _identity(folder)
    if identity in above:  # a link that leads back up
        return
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_dir():
            yield from _below(entry.path, above | {identity})
        elif entry.name.lower().endswith(_SUFFIXES):
            yield entry.path


def iter_images(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Yield the image files that `paths` name: files as they are, folders with all below them.

    Raises:
        InputError: If a path does not exist, or a folder holds no images.
    """
    for path in map(Path, paths):
        with permission_explained():
            if not path.exists():
                raise InputError(f"'{path}' does not exist.")
            files = _walk(path) if path.is_dir() else [str(path)]
        if not files:
            raise InputError(f"'{path}' holds no images ({suffixes()}).")
        yield from map(Path, files)


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in `folder`."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "__"))
    )


def _find_parts(folder: Path) -> dict[str, Path]:
    """Return the folders of train, val and test; all of `folder` as train if it has no parts."""
    found: dict[str, Path] = {}
    for sub in _subfolders(folder):
        for part, names in _PARTS.items():
            if sub.name.lower() in names:
                if part in found:
                    raise InputError(
                        f"'{folder}' has two folders for {part}, '{found[part].name}' and "
                        f"'{sub.name}'; keep one of them."
                    )
                inner = _subfolders(sub)  # some archives hold training/training/<class>
                nested = len(inner) == 1 and inner[0].name.lower() == sub.name.lower()
                found[part] = inner[0] if nested else sub
    if "train" not in found:
        if found and len(found) == len(_subfolders(folder)):
            raise InputError(f"'{folder}' has {' and '.join(sorted(found))} but no train folder.")
        return {"train": folder}
    return found


def has_parts(folder: Path) -> bool:
    """Return whether a folder holds folders of parts (train, test, ...)."""
    known = {name for names in _PARTS.values() for name in names}
    return folder.is_dir() and any(sub.name.lower() in known for sub in _subfolders(folder))


def _class_order(names: Iterable[str]) -> list[str]:
    """Sort class names: by value if all are numbers (0, 1, 2, 10), else as text."""
    names = list(names)
    return sorted(names, key=int) if all(n.isdecimal() for n in names) else sorted(names)


def _scan_classes(folder: Path, exclude: Sequence[str]) -> dict[str, list[str]]:
    """Return the image files of every class folder in `folder`."""
    classes = {sub.name: _walk(sub) for sub in _subfolders(folder) if sub.name not in exclude}
    alike: dict[str, str] = {}
    for name, files in classes.items():
        other = alike.setdefault(name.casefold(), name)
        if other != name:
            raise InputError(
                f"'{folder}' has the class folders '{other}' and '{name}', which differ in case "
                "only; move the images of one into the other, or rename it."
            )
        if not files:
            raise InputError(
                f"class folder '{folder / name}' holds no images ({suffixes()}); fill it or "
                "remove it."
            )
    return classes


def index_folder(folder: Path, exclude: Sequence[str] = ()) -> FoundImages:
    """Find the images of a folder, its classes and its parts, by their names alone.

    Args:
        folder: `DIR/<class>/*`, or `DIR/train/<class>/*` with `val` and `test` beside it or not.
        exclude: Folders that are no classes.

    Raises:
        InputError: If that is not how the folder looks.
    """
    if not folder.exists():
        raise InputError(f"folder '{folder}' does not exist.")
    if not folder.is_dir():
        raise InputError(f"'{folder}' is a file; a data set is a folder with one folder per class.")
    found = {part: _scan_classes(path, exclude) for part, path in _find_parts(folder).items()}
    classes = _class_order(found["train"])
    if len(classes) < 2:
        raise InputError(
            f"'{folder}' must hold at least two class folders with images "
            f"(DIR/<class>/ or DIR/train/<class>/), found {len(classes)}."
        )
    notes = []
    if "val" in found and "test" not in found:
        found["test"] = found.pop("val")
        notes.append(_VAL_IS_TEST)
    parts: dict[str, tuple[list[str], Tensor]] = {}
    for part, files in found.items():
        unknown = sorted(set(files) - set(classes))
        if unknown:
            close = [name for name in classes if name.casefold() == unknown[0].casefold()]
            hint = f"; train calls it '{close[0]}'" if close else ""
            raise InputError(
                f"class '{unknown[0]}' is in the {part} folder of '{folder}' but has no training "
                f"images{hint}."
            )
        counts = torch.tensor([len(files.get(name, ())) for name in classes])
        targets = torch.repeat_interleave(torch.arange(len(classes)), counts)
        parts[part] = [path for name in classes for path in files.get(name, ())], targets
    return FoundImages(tuple(classes), parts, tuple(notes), str(folder))

"""Image files in folders: which there are, of which class, in which part.

By names and first bytes alone: what the files hold is for `images`. What is in none of the parts
is put down in a tally; what can be read in two ways is refused, with all that is wrong at once.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from spinalnet._checks import InputError, some
from spinalnet.data import contents
from spinalnet.data.layout import PARTS, Layout, base_name, images_in_words, part_of
from spinalnet.data.walking import Tally, Walk, instead
from spinalnet.texts import is_text, shown


@dataclass(frozen=True)
class FoundImages:
    """The image files of a data set, part by part.

    Attributes:
        classes: Class names in label order.
        parts: (Paths, class indices) of "train" and, where they exist, "val" and "test".
        notes: Sentences the user must see.
        folder: Where they lie.
        names: What the folder of a part is called, where the part has one.
        unused: What else lies there.
        groups: Group of every path, where a table of labels has a column of them.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[list[str], Tensor]]
    notes: tuple[str, ...] = ()
    folder: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    unused: Tally = field(default_factory=Tally)
    groups: Mapping[str, str] | None = None

    def pooled(self) -> FoundImages:
        """Return the same images as one part, "train": those of train, of val, of test."""
        brought = [self.parts[part] for part in PARTS if part in self.parts]
        paths = [path for paths, _ in brought for path in paths]
        targets = torch.cat([targets for _, targets in brought])
        notes = tuple(note for note in self.notes if note != _VAL_IS_TEST)
        return replace(self, parts={"train": (paths, targets)}, notes=notes, names={})


_VAL_IS_TEST = (
    "The folder has no test part: its validation folder is the untouched test set, and validation "
    "images are split from train."
)


_Found = dict[str, dict[str, list[str]]]  # by part, then by class: files


@contextlib.contextmanager
def permission_explained() -> Iterator[None]:
    """Turn a refusal of the operating system into a sentence."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"'{error.filename}' cannot be read: permission denied.") from error


def iter_images(
    paths: Iterable[str | os.PathLike[str]], unused: Tally | None = None
) -> Iterator[Path]:
    """Yield the image files that `paths` name: files as they are, folders with all below them.

    Args:
        paths: Files and folders.
        unused: Gets what of the folders is not used.

    Raises:
        InputError: If a path does not exist, or a folder holds no images.
    """
    contents.prepare()
    walk = Walk(tally=Tally() if unused is None else unused)
    for path in map(Path, paths):
        with permission_explained():
            if not path.exists():
                raise InputError(f"'{path}' does not exist.")
            files = walk.images(str(path)) if path.is_dir() else [str(path)]
        if not files:
            raise InputError(f"'{path}' holds no images ({instead(walk, str(path))}).")
        yield from map(Path, files)


# --- classes --------------------------------------------------------------------------------------


def _class_order(names: Iterable[str]) -> list[str]:
    """Sort class names: by value if all are numbers (0, 1, 2, 10), else as text."""
    names = list(names)
    return sorted(names, key=int) if all(n.isdecimal() for n in names) else sorted(names)


def same_name(name: str) -> str:
    """Return a class name in the one form (NFC) of what Unicode can write in two."""
    return unicodedata.normalize("NFC", name)


def _scan_classes(walk: Walk, folder: str, paths: Sequence[str]) -> dict[str, list[str]]:
    """Return the image files of every class folder, empty ones too.

    Raises:
        InputError: If names are no text, or differ by what does not count.
    """
    unreadable = [f"'{shown(path)}'" for path in paths if not is_text(base_name(path))]
    if unreadable:
        raise InputError(
            f"the name of a class must be UTF-8 text, got {some(unreadable, 20)}: rename the "
            f"folder{'s' * (len(unreadable) > 1)}."
        )
    alike: dict[str, list[str]] = {}
    for path in paths:
        alike.setdefault(same_name(base_name(path)).casefold(), []).append(base_name(path))
    twins = [names for names in alike.values() if len(names) > 1]
    if twins:
        pairs = " and of ".join(" and ".join(f"'{name}'" for name in names) for names in twins)
        how = "in case only"
        if any(len({same_name(name) for name in names}) == 1 for names in twins):
            how = "only in how Unicode writes them (NFC, NFD)"
        raise InputError(
            f"'{folder}' has the class folders {pairs}, which differ {how}; move the images of one "
            "into the other, or rename it."
        )
    return {same_name(base_name(path)): walk.images(path) for path in paths}


def _refuse_empty(walk: Walk, layout: Layout, found: _Found) -> None:
    """Refuse class folders without images, all at once."""
    empty = [
        path
        for part, level in layout.levels.items()
        for path in level.folders
        if not found[part][same_name(base_name(path))]
    ]
    if not empty:
        return
    if len(empty) == 1:
        said = f"class folder '{shown(empty[0])}' holds no images ({instead(walk, empty[0])})"
        raise InputError(f"{said}; fill it or remove it, or leave it out with ignore=NAME.")
    named = some([f"'{shown(path)}' ({instead(walk, path)})" for path in empty], 20)
    raise InputError(
        f"{len(empty)} class folders hold no images: {named}; fill or remove them, or leave them "
        "out with ignore=NAME."
    )


def _unknown(known: Sequence[str], names: Iterable[str], knower: str) -> tuple[str, str]:
    """Return which classes are not known, as the subject of a sentence, and a hint behind it."""
    unknown = [name for name in names if name not in known]
    alike = {name.casefold(): name for name in known}
    close = [f"'{alike[name.casefold()]}'" for name in unknown if name.casefold() in alike]
    named = some([f"'{shown(name)}'" for name in unknown], 20)
    subject = f"class {named} is" if len(unknown) == 1 else f"the classes {named} are"
    hint = f"; {knower} {some(close, 5)}" if close else ""
    return (subject, hint) if unknown else ("", "")


def _refuse_unknown(folder: Path, layout: Layout, classes: Sequence[str], found: _Found) -> None:
    """Refuse classes that another part than train has alone, all at once."""
    wrong = []
    for part, files in found.items():
        subject, hint = _unknown(classes, files, "train calls it")
        if subject:
            has = "has" if subject.endswith("is") else "have"
            where = f"in the {layout.name_of(part)} folder of '{folder}'"
            wrong.append(f"{subject} {where} but {has} no training images{hint}")
    if wrong:
        raise InputError(f"{'; '.join(wrong)}.")


def _parts_of(classes: Sequence[str], found: _Found) -> dict[str, tuple[list[str], Tensor]]:
    """Return paths and class indices of every part."""
    parts: dict[str, tuple[list[str], Tensor]] = {}
    for part, files in found.items():
        counts = torch.tensor([len(files.get(name, ())) for name in classes])
        targets = torch.repeat_interleave(torch.arange(len(classes)), counts)
        parts[part] = [path for name in classes for path in files.get(name, ())], targets
    return parts


def _look(folder: Path, ignore: Sequence[str], *, trains: bool) -> tuple[Walk, Layout, _Found]:
    """Return what a folder holds, part by part and class by class."""
    if not folder.exists():
        raise InputError(f"folder '{folder}' does not exist.")
    if not folder.is_dir():
        raise InputError(f"'{folder}' is a file; a data set is a folder with one folder per class.")
    contents.prepare()
    walk = Walk(ignore, str(folder))
    layout = Layout(str(folder), walk, trains=trains)
    found = {
        part: _scan_classes(walk, layout.parts.get(part, str(folder)), level.folders)
        for part, level in layout.levels.items()
    }
    _refuse_empty(walk, layout, found)
    return walk, layout, found


def _hint(layout: Layout) -> str:
    """End a sentence on a folder without classes by what may have been meant."""
    if layout.top.images and not layout.top.folders:
        return f"; {images_in_words(len(layout.top.images))} there lie in no class folder."
    if len(layout.top.folders) == 1:
        inner = layout.top.folders[0]
        below = Walk().level(inner).folders
        if len(below) > 1 or any(part_of(base_name(path)) for path in below):
            return f"; did you mean '{inner}'?"
    there = layout.walk.tally
    return f" (not used there: {there.said()})." if there else "."


def index_folder(folder: Path, ignore: Sequence[str] = (), *, tells: bool = True) -> FoundImages:
    """Find the images of a folder, its classes and its parts, without decoding any.

    Args:
        folder: `DIR/<class>/*`, or `DIR/train/<class>/*` with `val` and `test` beside it or not.
        ignore: Patterns of names of files and folders that are left out, see `Walk`.
        tells: Whether a note tells of patterns that nothing was left out by.

    Raises:
        InputError: If that is not how the folder looks.
    """
    walk, layout, found = _look(folder, ignore, trains=True)
    classes = _class_order(found["train"])
    if len(classes) < 2:
        raise InputError(
            f"'{folder}' must hold at least two class folders with images "
            f"(DIR/<class>/ or DIR/train/<class>/), found {len(classes)}{_hint(layout)}"
        )
    _refuse_unknown(folder, layout, classes, found)
    names = {part: layout.name_of(part) for part in layout.parts}
    notes = list(layout.notes)
    if "val" in found and "test" not in found:
        found["test"], names["test"] = found.pop("val"), names.pop("val")
        notes.append(_VAL_IS_TEST)
    idle = [f"'{shown(pattern)}'" for pattern in ignore if pattern not in walk.met]
    if idle and tells:
        notes.append(
            f"Nothing was left out by ignore={some(idle, 20)}: no file or folder that would be "
            "used has such a name."
        )
    if walk.tally:
        notes.append(walk.tally.note())
    parts = _parts_of(classes, found)
    return FoundImages(tuple(classes), parts, tuple(notes), str(folder), names, walk.tally)


def index_labelled(folder: Path, classes: Sequence[str], ignore: Sequence[str] = ()) -> FoundImages:
    """Find the images that a model of known classes is to be scored on, as the part "test".

    Of a folder with parts its test part, without one its validation part, is taken; of any other
    all images. Classes may be missing, and one image of a class is enough.

    Args:
        folder: As for `index_folder`.
        classes: Names that the model knows, in label order.
        ignore: As for `index_folder`.

    Raises:
        InputError: If the folder looks otherwise, or has other classes.
    """
    walk, layout, found = _look(folder, ignore, trains=False)
    part = next(part for part in ("test", "val", "train") if part in found)
    by_form = {same_name(name): name for name in classes}
    files = {by_form.get(name, name): paths for name, paths in found[part].items()}
    if not files:
        raise InputError(f"'{folder}' must hold class folders with images, found 0{_hint(layout)}")
    subject, hint = _unknown(classes, files, "it calls it")
    if subject:
        raise InputError(
            f"{subject} in '{layout.parts.get(part, folder)}', but the model knows "
            f"{some(classes, 5)}{hint}; give data with the same classes, or leave folders out with "
            "ignore=NAME."
        )
    count = images_in_words(sum(map(len, files.values())))
    names = {"test": layout.name_of(part)} if part in layout.parts else {}
    where = f"the {count} of '{layout.parts[part]}'" if names else f"all {count} of '{folder}'"
    notes = [*layout.notes, f"Scored on {where}."]
    absent = [shown(name) for name in classes if name not in files]
    if absent:
        notes.append(f"There are no images of {some(absent, 5)}.")
    if walk.tally:
        notes.append(walk.tally.note())
    parts = _parts_of(classes, {"test": files})
    return FoundImages(tuple(classes), parts, tuple(notes), str(folder), names, walk.tally)

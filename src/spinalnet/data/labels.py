"""What a table says of image files: their classes or values, their parts and groups."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spinalnet._checks import InputError, some
from spinalnet.data.columns import NOTHING, rows_in_words
from spinalnet.data.folders import FoundImages
from spinalnet.data.named_files import (
    Every,
    Index,
    Sheet,
    image_column_of,
    resolved,
    table_path,
    true_path,
    unused,
)
from spinalnet.data.table_files import read_table_file
from spinalnet.data.table_targets import check_typo, typed_targets
from spinalnet.data.typed_columns import is_number
from spinalnet.data.walking import ignored_by

Task = Literal["auto", "classification", "regression"]
TASKS = ("auto", "classification", "regression")

_PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test", "testing"),
}
_LABEL_NAMES = ("label", "class", "target", "category", "labels", "class_name", "y")
# 'None' may be a class: no defect, no disease.
_NO_LABEL = NOTHING - {"None", "NONE"}
_FEWEST = 10  # images of a regression: less cannot be divided into three parts
_WORST = 5  # names in a sentence


@dataclass(frozen=True)
class Labels:
    """Where the labels of image files stand.

    Attributes:
        file: A table with one row for each image.
        image_column: Names the file: its path below the folder of images or of the table, with or
            without its ending, or its bare name where that is the only one. None: the column whose
            cells are files.
        label_column: What is predicted; None: the only other column, or one called "label", ...
        split_column: Part of the row, "train", "val" or "test"; None: parts are drawn.
        group: A column whose images of one value all lie in one part; anything else is a pattern
            over the names of files.
        task: "regression" for numbers; "auto": numbers that are not whole, else classes.
        ignore: Patterns of names of files and folders whose rows are left out, as of `Walk`.
    """

    file: str
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group: str | None = None
    task: Task = "auto"
    ignore: Sequence[str] = ()


def find_labelled(
    folder: Path,
    labels: Labels,
    *,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
    keep_missing: bool = False,
) -> FoundImages:
    """Find the images that a table names, and what it says of them.

    Args:
        folder: Folder of the images; what the table does not name is told.
        labels: The table and its columns.
        classes: To evaluate a trained model: names of its classes, in its order, of which the table
            may hold a part; empty for a regression. All rows then are the part "test", or those
            that are called so, or else "val". None to train one.
        task: What is known already; None for `labels.task`.
        keep_missing: Return the paths of missing files too: whoever reads them tells.

    Returns:
        Images with class numbers, `(N,)`, or values, float32, `(N, 1)`; `groups` by path, where
        `labels.group` is a column.

    Raises:
        InputError: If a column is missing or cannot be told from others; if files are missing, all
            at once; if an image has several labels, a row cannot be used, or classes are unknown.
    """
    path = table_path(folder, labels.file)
    index = Index(folder, path.parent)
    sheet = Sheet.read(path, index)
    image = _image_column(sheet, labels, index)
    label = _label_column(sheet, labels, image)
    parts_said = _part_of_rows(sheet, labels, train=classes is None)
    rows = _Rows.of(sheet, image, label, parts_said, classes or ())
    if classes is not None and labels.split_column is None:
        rows = replace(rows, parts=["test"] * len(rows.parts))
    elif classes is not None:
        tested = "test" if "test" in rows.parts else "val"  # as in training
        rows = rows.at([i for i, part in enumerate(rows.parts) if part == tested])
        rows = replace(rows, parts=["test"] * len(rows.parts))
    found, by_name = resolved(index, rows.images, image, sheet, keep_missing=keep_missing)
    rows, ignored = _not_ignored(replace(rows, paths=found), labels.ignore, index, path.name)
    values = _values(sheet, label, rows, task or labels.task)
    rows, repeated = _each_once(rows, sheet, image, label, values.told)
    notes = [*sheet.notes, *rows.notes, *_told_columns(sheet, labels, image, label)]
    notes += [*values.notes, *by_name, *ignored, *repeated]
    notes += unused(index, rows.paths, path.name, labels.ignore)
    if values.numbers is None:
        order, targets = _as_classes(rows, path.name, label, classes)
        of_row: dict[int, float] = dict(zip(rows.places, targets, strict=True))
    else:
        order, of_row = [], {place: values.numbers[place] for place in rows.places}
        _check_numbers(list(of_row.values()), path.name, label, evaluated=classes is not None)
    parts = _parts(rows, of_row, is_regression=values.numbers is not None)
    grouped = None
    if labels.group is not None and labels.group in sheet.columns:
        grouped = _groups(sheet, labels.group, rows)
    return FoundImages(tuple(order), parts, tuple(notes), str(folder), groups=grouped)


# --- the table ------------------------------------------------------------------------------------


def _image_column(sheet: Sheet, labels: Labels, index: Index) -> str:
    taken = {labels.label_column, labels.split_column}
    return image_column_of(sheet, labels.image_column, taken, index)


def _label_column(sheet: Sheet, labels: Labels, image: str) -> str:
    if labels.label_column is not None:
        label = sheet.column("label_column", labels.label_column)
        if label == image:
            raise InputError(
                f"image_column and label_column must be two columns of {sheet.path.name}, got "
                f"'{label}' for both."
            )
        return label
    taken = {image, labels.split_column, labels.group}
    rest = [name for name in sheet.columns if name not in taken]
    named = [name for name in rest if name.strip().casefold() in _LABEL_NAMES]
    if len(rest) == 1 or len(named) == 1:
        return (named if len(named) == 1 else rest)[0]
    if not rest:
        raise InputError(
            f"{sheet.path.name} has no column of labels beside '{image}': its columns are "
            f"{sheet.listed()}."
        )
    raise InputError(
        f"name the column of {sheet.path.name} that is to be predicted, with label_column: it has "
        f"{some([repr(name) for name in rest], 12)}. Several columns of labels (one for each "
        "class) cannot be used: make one column of them."
    )


def _told_columns(sheet: Sheet, labels: Labels, image: str, label: str) -> list[str]:
    """Say which columns were taken, where they were not named."""
    if labels.image_column is not None and labels.label_column is not None:
        return []
    return [f"{sheet.path.name}: images by column '{image}', labels by column '{label}'."]


# --- its rows -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """The rows that are used, as parallel lists."""

    places: list[int]  # in the table, from 0
    images: list[str]
    labels: list[str]
    parts: list[str]
    paths: list[str]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, sheet: Sheet, image: str, label: str, parts: Sequence[str], known: Collection[str] = ()
    ) -> _Rows:
        """Return the rows with an image and a label; those without are told.

        Words for nothing, such as 'n/a', are no labels, unless a model knows them as classes, or
        there is but one label beside them.
        """
        images = sheet.columns[image]
        written = {cell for cell in sheet.columns[label] if cell is not None}
        words = sorted((written & _NO_LABEL) - set(known)) if len(written - _NO_LABEL) > 1 else []
        said = [None if cell in words else cell for cell in sheet.columns[label]]
        unlabelled = f"no label (or {some([repr(w) for w in words], 3)})" if words else "no label"
        gaps = {
            "no image": [i for i, cell in enumerate(images) if cell is None],
            unlabelled: [
                i for i, cell in enumerate(said) if cell is None and images[i] is not None
            ],
        }
        gone = {place for places in gaps.values() for place in places}
        kept = [i for i in range(len(sheet)) if i not in gone]
        if not kept:
            raise InputError(
                f"no row of {sheet.path.name} has an image in '{image}' and a label in '{label}'."
            )
        notes = tuple(
            f"{rows_in_words(places)} of {sheet.path.name} with {what}: left out."
            for what, places in gaps.items()
            if places
        )
        return cls(
            kept,
            [images[i] or "" for i in kept],
            [said[i] or "" for i in kept],
            [parts[i] for i in kept],
            [],
            notes,
        )

    def at(self, chosen: Sequence[int]) -> _Rows:
        """Return some of them."""
        columns = (self.images, self.labels, self.parts)
        places = [self.places[i] for i in chosen]
        images, labels, parts = ([column[i] for i in chosen] for column in columns)
        paths = [self.paths[i] for i in chosen] if self.paths else []
        return _Rows(places, images, labels, parts, paths, self.notes)


def _part_of_rows(sheet: Sheet, labels: Labels, *, train: bool) -> list[str]:
    """Return the part of every row; all are "train" without a column of parts."""
    if labels.split_column is None:
        return ["train"] * len(sheet)
    column = sheet.column("split_column", labels.split_column)
    known = {word: part for part, words in _PARTS.items() for word in words}
    said = sheet.columns[column]
    parts = [known.get((cell or "").casefold()) for cell in said]
    wrong = [i for i, part in enumerate(parts) if part is None]
    if wrong:
        words = sorted({said[i] or "" for i in wrong})
        raise InputError(
            f"split_column '{column}' of {sheet.path.name} must say train, val or test, got "
            f"{some([repr(word) for word in words], _WORST)} in {rows_in_words(wrong)}."
        )
    needed = ("train",) if train else ("test", "val")
    if not set(needed) & set(parts):
        raise InputError(f"split_column '{column}' of {sheet.path.name} has no {needed[0]} row.")
    return [part or "" for part in parts]


# --- files ----------------------------------------------------------------------------------------


# --- what the rows say ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Values:
    """What is predicted: numbers by row of the table, or, where there are none, classes."""

    numbers: Mapping[int, float] | None
    notes: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """What one is called."""
        return "label" if self.numbers is None else "value"


def _values(sheet: Sheet, label: str, rows: _Rows, task: str) -> _Values:
    """Return numbers, where they are to be predicted; refuse several labels in a cell."""
    _check_several(rows.labels, label, sheet.path.name)
    if task == "classification":
        return _Values(None)
    read = read_table_file(sheet.path, text=Every({label}), targets={label}, named=sheet.named)
    column = read.frame[[label]].iloc[rows.places]
    if task == "regression":
        check_typo(label, column[label], "regression")
    typed = typed_targets(column, [label])[label]
    if typed.dtype.kind not in "iuf":
        if task == "auto":
            return _Values(None, _mostly_numbers(rows.labels, label))
        raise InputError(
            f"a regression needs numbers in column '{label}' of {sheet.path.name}, got "
            f"'{rows.labels[0]}': give the column of numbers with label_column, or "
            "task=classification."
        )
    numbers = {
        place: float(value)
        for place, value in zip(rows.places, typed.tolist(), strict=True)
        if value == value
    }
    if len(numbers) < len(rows.places):  # words for nothing among numbers
        gone = [place for place in rows.places if place not in numbers]
        raise InputError(
            f"column '{label}' of {sheet.path.name} has no number in {rows_in_words(gone)}: leave "
            "the cells empty, and the rows are left out."
        )
    if task == "regression":
        return _Values(numbers)
    if any(value % 1 for value in numbers.values()):
        told = f"The labels in column '{label}' are numbers that are not whole: a regression"
        return _Values(numbers, (f"{told} (override: task=classification).",))
    kinds = len(set(numbers.values()))
    if kinds > 20:
        told = (
            f"The labels in column '{label}' are {kinds} different whole numbers, taken as "
            "classes; if they are amounts, such as an age, use task=regression."
        )
        return _Values(None, (told,))
    return _Values(None)


def _mostly_numbers(labels: Sequence[str], label: str) -> tuple[str, ...]:
    """Return a note if labels that are taken as classes are numbers but for a few."""
    words = [one for one in labels if not is_number(one)]
    if not words or 2 * len(words) > len(labels):
        return ()
    shown = some([repr(word) for word in dict.fromkeys(words)], 3)
    return (
        f"The labels in column '{label}' are numbers but for {shown}, and taken as classes; if "
        "they are amounts, mend or empty those cells and use task=regression.",
    )


def _not_ignored(
    rows: _Rows, patterns: Sequence[str], index: Index, table: str
) -> tuple[_Rows, list[str]]:
    """Leave out the rows of files that are to be ignored; tell, also of patterns without effect."""
    if not patterns:
        return rows, []
    by = [ignored_by(path, index.folder, patterns) for path in rows.paths]
    kept = [i for i, met in enumerate(by) if not met]
    if not kept:
        raise InputError(f"ignore={','.join(patterns)} leaves out every row of {table}.")
    notes = []
    if gone := len(by) - len(kept):
        notes.append(f"{gone} rows of {table} are left out by ignore={','.join(patterns)}.")
    idle = [f"'{one}'" for one in patterns if one not in set().union(*by)]
    if idle:
        notes.append(
            f"Nothing was left out by ignore={some(idle, 20)}: {table} names no such file."
        )
    return rows.at(kept), notes


def _check_several(labels: Sequence[str], column: str, table: str) -> None:
    """Refuse cells with several labels each, such as 'cat dog', 'cat;dog' or ['cat', 'dog']."""
    wholes = Counter(labels)
    for separator in (r"\s*[,;|]\s*", r"\s+"):
        pieces = {whole: [p for p in re.split(separator, whole) if p] for whole in wholes}
        several = [whole for whole, found in pieces.items() if len(found) > 1]
        if not several:
            continue
        vocabulary = {piece for found in pieces.values() for piece in found}
        alone = {found[0] for found in pieces.values() if len(found) == 1}
        recurring = all(piece in alone for whole in several for piece in pieces[whole])
        combined = 2 * len(vocabulary) < len(wholes) and len(set(map(len, pieces.values()))) > 1
        listed = all(whole[:1] + whole[-1:] in ("[]", "{}", "()") for whole in several)
        fewer = separator != r"\s+" and len(vocabulary) < len(wholes)
        if recurring or combined or fewer or listed:
            raise InputError(
                f"column '{column}' of {table} has several labels per image ({several[0]!r}, in "
                f"{sum(wholes[whole] for whole in several)} rows), which cannot be learned here: "
                "give one label per image, or a column for one of them with label_column."
            )


def _each_once(
    rows: _Rows, sheet: Sheet, image: str, label: str, what: str
) -> tuple[_Rows, list[str]]:
    """Return every image once; refuse one with two labels or in two parts."""
    first: dict[str, int] = {}
    repeated, torn, split = [], [], []
    for i, path in enumerate(rows.paths):
        before = first.setdefault(true_path(path), i)
        if before == i:
            continue
        repeated.append(i)
        if rows.labels[before] != rows.labels[i]:
            both = f"'{rows.labels[before]}' and '{rows.labels[i]}'"
            torn.append(f"'{rows.images[i]}' ({both})")
        elif rows.parts[before] != rows.parts[i]:
            split.append(f"'{rows.images[i]}' ({rows.parts[before]} and {rows.parts[i]})")
    if torn:
        raise InputError(
            f"{sheet.path.name} has several labels per image: {len(torn)} rows repeat an image of "
            f"column '{image}' with another {what} in '{label}': {some(torn, 3)}. Give one label "
            "per image."
        )
    if split:
        raise InputError(
            f"{sheet.path.name} puts {len(split)} images into two parts: {some(split, 3)}."
        )
    if not repeated:
        return rows, []
    places = [rows.places[i] for i in repeated]
    told = f"{rows_in_words(places)} of {sheet.path.name} repeat an image: it counts once."
    return rows.at(sorted(first.values())), [told]


def _as_classes(
    rows: _Rows, table: str, column: str, known: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Return the names of the classes, and the number of every row's."""
    names = list(known) if known is not None else _in_order(set(rows.labels))
    if known is None:
        _check_names(names, rows.labels, table, column)
    place = {name: number for number, name in enumerate(names)}
    unknown = _in_order(set(rows.labels) - set(names))
    if unknown:
        raise InputError(
            f"column '{column}' of {table} has {len(unknown)} classes that the model does not know "
            f"({some([repr(name) for name in unknown], 10)}); it knows {some(names, 10)}."
        )
    return names, [place[label] for label in rows.labels]


def _check_names(names: list[str], labels: Sequence[str], table: str, column: str) -> None:
    if len(names) < 2:
        raise InputError(
            f"column '{column}' of {table} must hold at least two classes, got only '{names[0]}'."
        )
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise InputError(
                f"column '{column}' of {table} has the classes '{other}' and '{name}', which "
                "differ in case or in how accents are coded only: write one of them."
            )
    once = [name for name, count in Counter(labels).items() if count == 1]
    if len(names) == len(labels) or 2 * len(once) > len(labels) > 20:
        raise InputError(
            f"column '{column}' of {table} has {len(names)} different labels in {len(labels)} "
            f"rows, such as '{once[0]}': it names no classes; give another with label_column, or "
            "task=regression for numbers."
        )


def _in_order(names: Collection[str]) -> list[str]:
    """Sort class names: by value if all are whole numbers, else as text; as folders are."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)
    return sorted(names)


def _check_numbers(values: list[float], table: str, column: str, *, evaluated: bool) -> None:
    if evaluated:
        return
    if len(values) < _FEWEST:
        raise InputError(
            f"a regression needs at least {_FEWEST} images to be divided into parts, but {table} "
            f"has {len(values)} with a number in '{column}'."
        )
    if len(set(values)) < 2:
        raise InputError(
            f"column '{column}' of {table} holds {values[0]:g} in every row: there is nothing to "
            "predict."
        )


def _parts(
    rows: _Rows, of_row: Mapping[int, float], *, is_regression: bool
) -> dict[str, tuple[list[str], Tensor]]:
    """Return (paths, targets) of every part that there is."""
    parts: dict[str, tuple[list[str], Tensor]] = {}
    for part in _PARTS:
        chosen = [i for i, name in enumerate(rows.parts) if name == part]
        if not chosen:
            continue
        said = [of_row[rows.places[i]] for i in chosen]
        kind = torch.float32 if is_regression else torch.int64
        targets = torch.tensor(said, dtype=kind)
        parts[part] = (
            [rows.paths[i] for i in chosen],
            targets[:, None] if is_regression else targets,
        )
    return parts


def _groups(sheet: Sheet, column: str, rows: _Rows) -> dict[str, str]:
    """Return the group of every file."""
    cells = sheet.columns[column]
    gaps = [place for place in rows.places if cells[place] is None]
    if gaps:
        raise InputError(
            f"the group column '{column}' of {sheet.path.name} has no value in "
            f"{rows_in_words(gaps)}: fill in a group of its own for each, or leave the rows out."
        )
    pairs = zip(rows.paths, rows.places, strict=True)
    return {path: cells[place] or "" for path, place in pairs}

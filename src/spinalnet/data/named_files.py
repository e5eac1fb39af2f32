"""Which image files the rows of a table mean.

The table is read as every other one (`table_files`), but its cells stay text: '007' is a name.
"""

from __future__ import annotations

import functools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinalnet._checks import InputError, some, unknown_name
from spinalnet.data.columns import rows_in_words, texts
from spinalnet.data.folders import iter_images
from spinalnet.data.images import BadImage, BadImagesError
from spinalnet.data.table_files import Read, read_table_file
from spinalnet.data.walking import ignored_by

_NAMES = ("image", "file", "filename", "file_name", "path", "filepath", "image_id", "id")
_SAMPLE = 200  # rows that are looked at to see which column names files


def table_path(folder: Path, file: str) -> Path:
    """Return the table: as named, or below the folder of images."""
    path = Path(file).expanduser()
    below = folder / path
    return below if not path.is_file() and below.is_file() else path


class Every(frozenset[str]):
    """All names, but for those it holds."""

    # Which columns a table has is known when it is read, and then they are text already.
    def __contains__(self, name: object) -> bool:
        return not super().__contains__(name)


@dataclass(frozen=True)
class Sheet:
    """The cells of a table as text, column by column.

    Attributes:
        path: The file.
        columns: Cells by the name of their column; None where there is none.
        notes: A sentence for every decision.
        hint: A sentence, if the first line looks like a row of data.
        named: Whether the first line names the columns; else they are called 1, 2, ...
    """

    path: Path
    columns: Mapping[str, list[str | None]]
    notes: tuple[str, ...]
    hint: str
    named: bool = True

    @classmethod
    def read(cls, path: Path, index: Index | None = None) -> Sheet:
        """Read a table; errors as of `read_table_file`.

        A first line that holds the path of an image in `index` is a row like all others.
        """
        read = read_table_file(path, text=Every())
        names = [str(name) for name in read.frame.columns]
        named = index is None or _is_packed(path) or not any(map(index.is_file, names))
        notes = [note for note in read.notes if note != read.no_header]
        if not named:
            read = read_table_file(path, text=Every(), named=False)
            count = len(read.frame.columns)
            notes = [
                *read.notes,
                f"The first line of {path.name} ({some(names, 4)}) names an image: it is a row, "
                f"and the columns are called {' and '.join(map(str, range(1, count + 1)))}.",
            ]
        columns = {str(name): _texts(read, name) for name in read.frame.columns}
        return cls(path, columns, tuple(notes), read.no_header, named)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, what: str, name: str) -> str:
        """Return a column's name as the table writes it."""
        plain = unicodedata.normalize("NFC", name)
        same = [one for one in self.columns if unicodedata.normalize("NFC", one) == plain]
        if name in self.columns or same:
            return name if name in self.columns else same[0]
        error = unknown_name(f"column of {self.path.name} ({what})", name, self.columns)
        raise InputError(f"{error} {self.hint}") if self.hint else error

    def listed(self) -> str:
        """Return the columns for a sentence."""
        return some([f"'{name}'" for name in self.columns], 12)


def _is_packed(path: Path) -> bool:
    """Whether a table is of a format whose columns always have names."""
    return path.suffix.lower() in (".xlsx", ".parquet", ".arrow", ".feather")


def _texts(read: Read, name: Any) -> list[str | None]:
    return [text and (text.strip() or None) for text in texts(read.frame[name])]


def image_column_of(
    sheet: Sheet, named: str | None, taken: Collection[str | None], index: Index
) -> str:
    """Return the column that names files: as asked, or the one whose cells are files.

    Args:
        sheet: The table.
        named: The column, as it was asked for.
        taken: Columns that hold something else.
        index: The files.

    Raises:
        InputError: If there is no such column, none names files, or several do.
    """
    if named is not None:
        return sheet.column("image_column", named)
    open_to = [name for name in sheet.columns if name not in taken]
    files = {name: index.sample(sheet.columns[name]) for name in open_to}
    fitting = [name for name in open_to if files[name] is not None]
    distinct = [name for name in fitting if _are_distinct(sheet.columns[name])]
    fitting = distinct or fitting
    if len(fitting) == 1 or (fitting and all(files[n] == files[fitting[0]] for n in fitting)):
        return fitting[0]
    if fitting:
        raise InputError(
            f"more than one column of {sheet.path.name} names images: "
            f"{some([repr(name) for name in fitting], 5)}; say which with image_column."
        )
    likely = [name for name in open_to if name.strip().casefold() in _NAMES]
    if len(likely) == 1 or len(open_to) == 1:
        return (likely or open_to)[0]
    raise InputError(
        f"no column of {sheet.path.name} names files in '{index.folder}' or beside the table: give "
        f"the folder that its paths are relative to, and the column with image_column; its columns "
        f"are {sheet.listed()}.{' ' + sheet.hint if sheet.hint else ''}"
    )


def _are_distinct(cells: Sequence[str | None]) -> bool:
    held = [cell for cell in cells if cell is not None]
    return len(set(held)) == len(held)


class Index:
    """The files that cells of a table can mean."""

    def __init__(self, folder: Path, beside: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"'{folder}' must be the folder of the images; it is none.")
        self.folder, self.beside = str(folder), str(beside)
        self.files = [str(path) for path in iter_images([folder])]
        self._by: list[dict[str, list[str]]] = [defaultdict(list) for _ in range(3)]
        for file in self.files:
            below = _plain(os.path.relpath(file, folder))
            name = below.rpartition("/")[2]
            for table, key in zip(self._by, (_stem(below), name, _stem(name)), strict=True):
                table[key].append(file)

    def find(self, cell: str) -> tuple[list[str], bool]:
        """Return the files that a cell may mean, and whether by their names alone."""
        written = cell.replace("\\", "/").removeprefix("./")
        for folder in (self.folder, self.beside):
            path = os.path.join(folder, written)  # noqa: PTH118 (an absolute path stays as it is)
            if os.path.isfile(path):  # noqa: PTH113
                return [path], False
        key = _plain(written)
        below, name, stem = self._by
        found = below.get(key, [])
        if not found and not _has_ending(written):
            found = _beside(self.beside, written)
        if found:
            return found, False
        last = key.rpartition("/")[2]
        found = name.get(last, []) or stem.get(last, [])
        return found, bool(found) and last != key

    def is_file(self, name: str) -> bool:
        """Return whether a text is surely the path of an image: with its ending, or a number."""
        is_path = _has_ending(name) or name.isdecimal()
        return is_path and bool(self.find(name)[0])

    def sample(self, cells: Sequence[str | None]) -> list[str] | None:
        """Return the files of some cells, or None if half of them are no files."""
        held = [cell for cell in cells if cell is not None]
        chosen = held[:: max(1, len(held) // _SAMPLE)]
        found = [self.find(cell)[0] for cell in chosen]
        files = [paths[0] for paths in found if paths]
        return files if chosen and 2 * len(files) >= len(chosen) else None


def _plain(path: str) -> str:
    """Return a path as it is compared, where it is not found as it is written."""
    return unicodedata.normalize("NFC", path.replace(os.sep, "/")).casefold()


@functools.lru_cache(maxsize=4096)
def _true_folder(folder: str) -> str:
    return os.path.realpath(folder)


def true_path(path: str) -> str:
    """Return the same text for all paths of a file, but for links to the file itself."""
    folder, name = os.path.split(path)
    return f"{_true_folder(folder)}{os.sep}{name}"


def _stem(path: str) -> str:
    return os.path.splitext(path)[0]  # noqa: PTH122 (a Path per file costs more)


def _has_ending(name: str) -> bool:
    return re.search(r"\.[A-Za-z]{2,4}$", name) is not None


def _beside(folder: str, written: str) -> list[str]:
    """Return the images beside a table whose path without its ending is `written`."""
    parent, name = os.path.split(os.path.join(folder, written))  # noqa: PTH118
    if not os.path.isdir(parent):  # noqa: PTH112
        return []
    return [
        entry.path
        for entry in os.scandir(parent)
        if _stem(entry.name) == name and entry.is_file() and _has_ending(entry.name)
    ]


def resolved(
    index: Index, cells: Sequence[str], column: str, sheet: Sheet, *, keep_missing: bool
) -> tuple[list[str], list[str]]:
    """Return the file of every cell, and a note if some were found by their names alone.

    Raises:
        InputError: If a cell means several files, or, without `keep_missing`, none: all are named.
    """
    found, missing, unsure, alone = [], [], [], 0
    for cell in cells:
        paths, by_name = index.find(cell)
        if len(paths) > 1:
            unsure.append(f"'{cell}' ({some([repr(path) for path in paths], 2)})")
        if not paths:
            missing.append(cell)
        found.append(paths[0] if paths else os.path.join(index.folder, cell))  # noqa: PTH118
        alone += by_name
    if unsure:
        raise InputError(
            f"{len(unsure)} cells of column '{column}' of {sheet.path.name} mean more than one "
            f"file: {some(unsure, 3)}; write their paths with folders and endings."
        )
    missing = list(dict.fromkeys(missing))
    if missing and len(missing) == len(set(cells)):
        raise InputError(
            f"none of the {len(missing)} images in column '{column}' of {sheet.path.name} is in "
            f"'{index.folder}' or beside the table, such as '{missing[0]}': give the folder that "
            "its paths are relative to, or name the column of the images with image_column."
        )
    if missing and not keep_missing:
        bad = [BadImage(cell, f"of {sheet.path.name} does not exist") for cell in missing]
        raise BadImagesError(
            bad, f"looked for {{them}} in '{index.folder}' and beside the table; add {{them}}, or "
            "leave such rows out with on_bad_image=skip",
        )  # fmt: skip
    told = f"{alone} images of {sheet.path.name} are found by their names alone, in the folders "
    return found, [f"{told}below '{index.folder}'."] if alone else []


def unused(
    index: Index, used: Collection[str], table: str, ignore: Sequence[str] = ()
) -> list[str]:
    """Return a note on the images that the table does not name."""
    known = {true_path(path) for path in used}
    left = [path for path in index.files if true_path(path) not in known]
    left = [path for path in left if not ignored_by(path, index.folder, ignore)]
    if not left:
        return []
    shown = some([repr(os.path.relpath(path, index.folder)) for path in left], 3)
    are = "images in '{}' are" if len(left) > 1 else "image in '{}' is"
    return [f"{len(left)} {are.format(index.folder)} not used: {table} lacks {shown}."]


@dataclass(frozen=True)
class Named:
    """The images that a table names, in its order.

    Attributes:
        rows: Every file, and what stands in its row in `column`.
        column: Name of that column.
    """

    rows: list[tuple[str, str]]
    column: str


def find_named(
    folder: Path,
    file: str,
    image_column: str | None = None,
    id_column: str | None = None,
    *,
    keep_missing: bool = False,
) -> Named:
    """Find the images that a table names, labelled or not.

    Args:
        folder: What its paths are relative to.
        file: The table.
        image_column: Column that names the files; None: `id_column` if its cells are files, or the
            one whose cells are.
        id_column: Column that is returned beside the files; None for that of the files.
        keep_missing: Return the paths of missing files too: whoever reads them tells.

    Raises:
        InputError: If a column is missing, a cell names no file or several, or is empty.
    """
    path = table_path(folder, file)
    index = Index(folder, path.parent)
    sheet = Sheet.read(path, index)
    called = None if id_column is None else sheet.column("id_column", id_column)
    if image_column is None and called is not None and index.sample(sheet.columns[called]):
        image_column = called
    image = image_column_of(sheet, image_column, (), index)
    called = called or image
    pairs = list(zip(sheet.columns[image], sheet.columns[called], strict=True))
    if gaps := [row for row, pair in enumerate(pairs) if None in pair]:
        raise InputError(
            f"{rows_in_words(gaps)} of {path.name} must have a cell in '{image}' and '{called}': "
            "fill it in, or leave the rows out."
        )
    cells = [str(cell) for cell, _ in pairs]
    files, _ = resolved(index, cells, image, sheet, keep_missing=keep_missing)
    return Named([(f, str(one)) for f, (_, one) in zip(files, pairs, strict=True)], called)

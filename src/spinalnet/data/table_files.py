"""Table files of every format as data frames, each decision on the way told.

Text (csv and its kin, packed or not) comes as text, cell by cell, and is typed in `typed_columns`;
so nothing is guessed by a parser that does not say so.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import zipfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from spinalnet._checks import InputError, pandas_for, some
from spinalnet.data.columns import MOST_EXACT, check_names, rows_in_words
from spinalnet.data.typed_columns import is_number, typed

FORMATS = (".csv", ".tsv", ".parquet", ".arrow", ".feather")
"""Endings of tables."""

ALSO = (".txt", ".xlsx", ".csv.gz", ".csv.zip", ".tsv.gz", ".tsv.zip")
"""Further ones; a table's name is asked for where they could be something else."""

ENDINGS = (*FORMATS, *ALSO[1:])
"""Those by which a file is known as a table."""

_PACKED = (".gz", ".zip")
_TEXTS = (".csv", ".tsv", ".txt")
_SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class Read:
    """What was read.

    Attributes:
        frame: A data frame of pandas, whose columns have names that are text and differ.
        notes: A sentence for every decision.
        no_header: A sentence if the names of the columns look like a row of data, else "".
        date_orders: What comes first, "day" or "month", in columns of dates written so.
    """

    frame: Any
    notes: list[str] = field(default_factory=list)
    no_header: str = ""
    date_orders: dict[str, str] = field(default_factory=dict)


def is_table_file(source: str) -> bool:
    """Return whether a name ends as that of a table."""
    name = PurePath(source).name.lower()
    return name.endswith(ENDINGS)


def read_table_file(
    path: Path, *, text: Collection[str] = (), targets: Collection[str] = (), named: bool = True
) -> Read:
    """Read a table file.

    Args:
        path: The file.
        text: Columns of a text file that stay text, whatever they look like.
        targets: Columns whose words for nothing, such as 'NA', may be classes: left as written.
        named: Whether the first line of a text file names its columns; else they are 1, 2, ...

    Raises:
        InputError: If the file is missing, of no known format, broken or empty, or if two columns
            have one name.
    """
    pandas_for("reading tables")
    if not path.is_file():
        raise InputError(f"table '{path}' does not exist.")
    try:
        suffix, data = _unpacked(path)
        if suffix in _TEXTS:
            read = _read_text(data, path, suffix, text, targets, named)
        elif suffix == ".xlsx":
            read = _read_sheet(data, path)
        else:
            read = _read_columns(data, path, suffix)
    except InputError:
        raise
    except ImportError as error:
        wanted = "openpyxl" if path.suffix.lower() == ".xlsx" else "pyarrow"
        raise InputError(
            f"reading '{path}' needs {wanted}, which is not installed: pip install {wanted}."
        ) from error
    except Exception as error:  # parsers raise almost anything on broken files
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"table '{path}' cannot be read: {reason}.") from error
    if len(read.frame) == 0:
        raise InputError(f"table '{path}' has no rows.")
    return read


def _unpacked(path: Path) -> tuple[str, bytes]:
    """Return the format of a table, and its bytes."""
    name = path.name.lower()
    suffix = PurePath(name).suffix
    known = ", ".join((*FORMATS, *ALSO))
    if suffix not in (*FORMATS, *_TEXTS, ".xlsx", *_PACKED):
        raise InputError(f"'{path}' must be one of {known}.")
    data = path.read_bytes()
    if suffix == ".gz":
        data, name = gzip.decompress(data), name.removesuffix(".gz")
    elif suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            inside = [
                one.filename
                for one in packed.infolist()
                if not one.is_dir() and not one.filename.startswith("__MACOSX/")
            ]
            if len(inside) != 1:
                raise InputError(
                    f"'{path}' must hold one table, got {len(inside)} files ({some(inside, 5)}): "
                    "unpack it and give one of them."
                )
            data, name = packed.read(inside[0]), inside[0].lower()
    suffix = PurePath(name).suffix
    if suffix not in (*FORMATS, *_TEXTS, ".xlsx"):
        raise InputError(f"'{path}' must hold one of {known}, got '{name}'.")
    return suffix, data


# -- text --


def _decoded(data: bytes, path: Path, notes: list[str]) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            if encoding != "utf-8-sig":
                notes.append(f"{path.name} is read as {encoding.upper()}.")
            return data.decode(encoding)
    begin = data[:1000]
    low, high = (begin[start::2].count(0) > len(begin) / 8 for start in (1, 0))
    if low or high:  # half of the bytes of most letters are zero
        encoding = "utf-16-le" if low else "utf-16-be"
        notes.append(f"{path.name} is read as {encoding.upper()}.")
        return data.decode(encoding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        notes.append(
            f"{path.name} is not UTF-8; it is read as latin-1 (Windows-1252): look at names with "
            "accents."
        )
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _separator(text: str) -> str:
    """Return what stands between the cells: what divides the first lines most evenly."""
    import csv

    lines = io.StringIO(text[:200_000], newline="").readlines()[:200]
    if len(text) > 200_000:
        lines = lines[:-1] or lines
    best, found = (0.0, 1), ","
    for separator in _SEPARATORS:
        try:
            rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        except csv.Error:
            continue
        width = len(rows[0]) if rows else 1
        if width < 2:
            continue
        alike = sum(len(row) in (width, width + 1) for row in rows) / len(rows)
        if (alike, width) > best:
            best, found = (alike, width), separator
    return found


def _said(content: str) -> tuple[str, str | None]:
    """Return the text without a first line `sep=;`, as spreadsheets write it, and what it says."""
    found = re.match(r'"?sep=([,;|\t])"?\s*?\r?\n', content)
    return (content, None) if found is None else (content[found.end() :], found[1])


def _read_text(
    data: bytes,
    path: Path,
    suffix: str,
    text: Collection[str],
    targets: Collection[str],
    named: bool,
) -> Read:
    import pandas as pd

    notes: list[str] = []
    content = _decoded(data, path, notes)
    if not content.strip():
        raise InputError(f"table '{path}' is empty: its first line must hold names of columns.")
    content, separator = _said(content)
    if separator is None:
        separator = "\t" if suffix == ".tsv" else _separator(content)
    if separator != ("\t" if suffix == ".tsv" else ","):
        notes.append(f"Columns of {path.name} are divided by {_SEPARATORS[separator]}.")
    rows = _rows(content, separator, path)
    header = rows.pop(0) if named else [str(1 + place) for place in range(len(rows[0]))]
    if not rows:
        raise InputError(f"table '{path}' has no rows.")
    cells = pd.DataFrame(_even(rows, len(header), path, notes), dtype=object)
    cells = _with_names(cells, header, path, notes)
    no_header = _looks_like_data(cells, path) if named else ""
    frame, orders = typed(cells, separator, notes, text=text, targets=targets)
    return Read(frame, notes + ([no_header] if no_header else []), no_header, orders)


def _rows(content: str, separator: str, path: Path) -> list[list[str]]:
    """Return the cells of all rows that are not blank."""
    import csv

    limit = csv.field_size_limit(sys.maxsize)
    try:
        rows = list(csv.reader(io.StringIO(content, newline=""), delimiter=separator))
    finally:
        csv.field_size_limit(limit)
    rows = [row for row in rows if len(row) > 1 or (row and row[0].strip())]
    if content.count('"') % 2 and any("\n" in cell for cell in rows[-1]):
        raise InputError(
            f"table '{path}' cannot be read: a quotation mark is opened and never closed, last in "
            f"row {max(1, len(rows) - 1)}."
        )
    return rows


def _even(rows: list[list[str]], width: int, path: Path, notes: list[str]) -> list[list[str]]:
    """Give every row as many cells as there are names; what is behind them must be empty."""
    longer = [i for i, row in enumerate(rows) if len(row) > width]
    for place in longer:
        row = rows[place]
        if any(cell.strip() for cell in row[width:]):
            raise InputError(
                f"row {place + 1} of '{path}' has {len(row)} fields, but its header has {width} "
                f"name{'s' * (width > 1)}: give every column a name, or mend the row."
            )
        rows[place] = row[:width]
    if longer:
        which = "Rows" if len(longer) == len(rows) else rows_in_words(longer).capitalize()
        notes.append(
            f"{which} of {path.name} end with a separator that its header lacks: it is ignored."
        )
    shorter = [i for i, row in enumerate(rows) if len(row) < width]
    for place in shorter:
        rows[place] = rows[place] + [""] * (width - len(rows[place]))
    if shorter:
        notes.append(
            f"Fewer fields than there are columns in {rows_in_words(shorter)} of {path.name}: what "
            "is lacking counts as missing."
        )
    return rows


def _with_names(cells: Any, header: list[str], path: Path, notes: list[str]) -> Any:
    """Give the columns their names; drop those without a name that say nothing."""
    drop = []
    for place, name in enumerate(header):
        if name.strip():
            continue
        column = cells[place]
        if (column == "").all():
            drop.append(place)
            where = "last " if place == len(header) - 1 else ""
            notes.append(f"The {where}column of {path.name} has no name and no value: left out.")
        elif place == 0 and _counts_rows(column):
            drop.append(place)
            notes.append(
                f"The first column of {path.name} has no name and counts the rows: left out."
            )
        else:
            header[place] = f"Unnamed: {place}"
            notes.append(
                f"Column {place + 1} of {path.name} has no name: it is called '{header[place]}'."
            )
    kept = [place for place in range(len(header)) if place not in drop]
    names = [header[place] for place in kept]
    check_names(names, f"'{path}'")
    cells = cells.iloc[:, kept]
    cells.columns = names
    return cells


def _counts_rows(column: Any) -> bool:
    for first in (0, 1):
        if (column == np.arange(first, first + len(column)).astype(str).astype(object)).all():
            return True
    return False


def _looks_like_data(cells: Any, path: Path) -> str:
    """Return a sentence if the names look like a row of the table."""
    names = list(cells.columns)
    numbers = [name for name in names if is_number(name)]
    years = all(re.fullmatch(r"(19|20)\d\d", name) for name in numbers)
    below = [all(map(is_number, cells[name].iloc[:20])) for name in numbers]
    if not numbers or years or not all(below) or 2 * len(numbers) < len(names):
        return ""
    return (
        f"The first line of {path.name} ({some(names, 4)}) was taken as the names of its columns, "
        "but looks like data: if it is, write a line with names above it."
    )


# -- other formats --


def _read_sheet(data: bytes, path: Path) -> Read:
    import pandas as pd

    with pd.ExcelFile(io.BytesIO(data), engine="openpyxl") as book:
        names = [str(name) for name in book.sheet_names]
        frame: Any = pd.read_excel(book, sheet_name=names[0], header=None)
    notes = []
    if len(names) > 1:
        notes.append(f"{path.name} has {len(names)} sheets; the first, '{names[0]}', is read.")
    if len(frame) == 0:
        raise InputError(f"table '{path}' has no rows.")
    header = ["" if value != value else str(value) for value in frame.iloc[0]]
    frame = frame.iloc[1:].reset_index(drop=True)
    empty = [p for p, name in enumerate(header) if not name and frame.iloc[:, p].isna().all()]
    frame = frame.drop(columns=[frame.columns[place] for place in empty])
    header = [
        name or f"Unnamed: {place}" for place, name in enumerate(header) if place not in empty
    ]
    check_names(header, f"'{path}'")
    frame.columns = header
    return Read(frame.infer_objects(), notes)


def _read_columns(data: bytes, path: Path, suffix: str) -> Read:
    import pyarrow as pa
    import pyarrow.parquet

    if suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        check_names(file.schema_arrow.names, f"'{path}'")
        table = file.read()
    else:
        try:
            table = pa.ipc.open_file(io.BytesIO(data)).read_all()
        except pa.ArrowInvalid:  # the streaming form has no footer
            table = pa.ipc.open_stream(io.BytesIO(data)).read_all()
    check_names(table.column_names, f"'{path}'")
    table.validate(full=True)  # else bytes that are no text are noticed by whoever uses them
    frame, notes = table.to_pandas(), []
    for name in table.column_names:
        column = table.column(name)
        if column.null_count and pa.types.is_integer(column.type) and name in frame:
            exact = column.to_pandas(integer_object_nulls=True)
            if max((abs(value) for value in exact if value is not None), default=0) > MOST_EXACT:
                frame[name] = exact.to_numpy()  # float64 would round them
    frame, told = _with_index_told(frame, path.name)
    notes += told
    frame.columns = [str(name) for name in frame.columns]
    check_names(frame.columns, f"'{path}'")
    return Read(frame, notes)


def _with_index_told(frame: Any, where: str) -> tuple[Any, list[str]]:
    """Return a frame whose index counts its rows; one with names becomes columns, and is told."""
    import pandas as pd

    index = frame.index
    named = [name for name in index.names if name is not None]
    if named and not set(map(str, named)) & set(map(str, frame.columns)):
        shown = some([f"'{name}'" for name in named], 5)
        count = "s" * (len(named) > 1)
        return frame.reset_index(), [f"The index of {where} is taken as column{count} {shown}."]
    if isinstance(index, pd.RangeIndex) and not named:
        return frame, []
    what = f"'{some(named, 3)}'" if named else f"of {index.dtype} without a name"
    told = f"The index of {where} ({what}) is left out: make it a column if it says something."
    return frame.reset_index(drop=True), [told]

"""Tables as they lie: every way they are written is read, told, or refused in one sentence."""

from __future__ import annotations

import datetime
import gzip
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from typer.testing import CliRunner

from spinalnet._checks import InputError
from spinalnet.cli.root import app
from spinalnet.comparison.tables.fitting import estimator_of, fit, predicted
from spinalnet.comparison.tables.on_columns import OnColumns
from spinalnet.comparison.tables.rows import rows_of
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data.frames import Table, is_table, load_table, read_frame
from spinalnet.data.resampling import Resample

pd = pytest.importorskip("pandas")


def csv(path: Path, *lines: str, encoding: str = "utf-8", rows: int = 12) -> str:
    """Write a header and lines, again and again until there are `rows`."""
    header, *body = lines
    body = (body * rows)[: max(rows, len(body))]
    path.write_bytes(("\n".join([header, *body]) + "\n").encode(encoding))
    return str(path)


def told(table: Table, *pieces: str) -> bool:
    return all(any(piece in note for note in table.notes) for piece in pieces)


PLAIN = ("size,colour,price", "1.5,red,2.25", "2.5,blue,3.5", "4,red,7.125")


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_separators_are_found(tmp_path: Path, sign: str) -> None:
    expected = load_table(csv(tmp_path / "a.csv", *PLAIN), "price")
    other = load_table(
        csv(tmp_path / "b.csv", *(line.replace(",", sign) for line in PLAIN)), "price"
    )
    assert expected.X.equals(other.X)
    assert expected.y.tolist() == other.y.tolist()
    assert told(other, "Columns of b.csv are divided by")
    assert not told(expected, "divided by")


def test_a_comma_in_text_is_no_separator(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "note;y", '"a, b, c";1', "d, e, f;2", "g, h;3")
    found = load_table(path, "y", "classification")
    assert list(found.X.columns) == ["note"]
    assert found.X["note"].tolist()[:3] == ["a, b, c", "d, e, f", "g, h"]


def test_decimal_commas(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "x;big;n;y", "1,5;1.234,5;3;-0,25", "-2;2.000;4;1,75")
    found = load_table(path, "y")
    assert found.task == "regression"
    assert found.X.iloc[:2].to_numpy().tolist() == [[1.5, 1234.5, 3], [-2.0, 2000.0, 4]]
    assert found.y[:2].tolist() == [-0.25, 1.75]
    assert told(found, "decimal comma: columns 'x', 'big'")
    # With commas between the cells, one inside quotation marks is one between thousands.
    path = csv(tmp_path / "b.csv", "x,y", '"1,234",0.5', '"12,345,678.5",0.25')
    found = load_table(path, "y")
    assert found.X["x"].tolist()[:2] == [1234, 12345678.5]
    assert told(found, "marks between thousands: column 'x'")


def test_quoted_decimal_commas_between_commas(tmp_path: Path) -> None:
    lines = ('"39,9",1.234,"1,250","0,05"', '"-7",2.500,"2,500","0,125"', '"8,25",3,"3","1,375"')
    found = load_table(csv(tmp_path / "a.csv", "x,point,both,y", *lines), "y")
    assert found.task == "regression"
    assert found.y[:3].tolist() == [0.05, 0.125, 1.375]
    assert found.X.iloc[:3].to_numpy().tolist() == [
        [39.9, 1.234, 1.25], [-7.0, 2.5, 2.5], [8.25, 3.0, 3.0]
    ]  # fmt: skip
    assert told(found, "decimal comma: columns 'x', 'both', 'y'")
    # Without a leading zero to tell, three digits after a comma are a thousand, as before.
    zero = load_table(csv(tmp_path / "b.csv", "x,y", '"0,125",0.5', '"1,250",1.5'), "y")
    assert zero.X["x"].tolist()[:2] == [0.125, 1.25]


@pytest.mark.parametrize(
    ("cells", "values", "sentence"),
    [
        (("$2", "$3.50", "-$1"), (2, 3.5, -1), "Numbers without their '$': column 'a'"),
        (("2 €", "1.234,5 €", "3,5 €"), (2, 1234.5, 3.5), "Numbers without their '€'"),
        (("5 %", "7.5%", "10 %"), (5, 7.5, 10), "Numbers without their '%'"),
        (("1'000", "12'345'678", "5"), (1000, 12345678, 5), "marks between thousands"),
        (("1 000", "12 345,5", "5"), (1000, 12345.5, 5), "marks between thousands"),
        (("1\u202f000", "2\u00a0500", "3"), (1000, 2500, 3), "marks between thousands"),
        (("\u22121.5", "2", "\u22123"), (-1.5, 2, -3), ""),
        (("$1,234.50", "$7", "$12"), (1234.5, 7, 12), "Numbers without their '$'"),
    ],
)
def test_numbers_are_numbers_however_they_are_dressed(
    tmp_path: Path, cells: tuple[str, ...], values: tuple[float, ...], sentence: str
) -> None:
    lines = [f"{cell}\t{i}.5" for i, cell in enumerate(cells)]
    found = load_table(csv(tmp_path / "a.tsv", "a\ty", *lines), "y")
    assert found.X["a"].tolist()[:3] == list(values)
    assert found.X["a"].dtype.kind in "if"
    if sentence:
        assert told(found, sentence)


def test_a_target_of_prices_is_a_regression_and_few_are_classes(tmp_path: Path) -> None:
    many = load_table(csv(tmp_path / "a.csv", "a,y", *(f"{i},${i}.5" for i in range(30))), "y")
    assert (many.task, many.y[3]) == ("regression", 3.5)
    few = load_table(csv(tmp_path / "b.csv", "a,y", *(f"{i},${i % 3}" for i in range(30))), "y")
    assert (few.task, sorted(set(few.y))) == ("classification", ["$0", "$1", "$2"])


@pytest.mark.parametrize(
    "cells",
    [
        ("$2", "5 %", "7"),
        ("$2", "2 €", "7"),
        ("12 34", "1 2", "x"),
        ("$", "$2", "$3"),
        ("1'00", "2'000", "3"),
        ("A 1", "B 2", "C 3"),
    ],
)
def test_what_is_dressed_differently_stays_text(tmp_path: Path, cells: tuple[str, ...]) -> None:
    lines = [f"{cell}\t{i}.5" for i, cell in enumerate(cells)]
    found = load_table(csv(tmp_path / "a.tsv", "a\ty", *lines), "y")
    assert found.X["a"].tolist()[:3] == list(cells)


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "sep=;\r"])
def test_the_separator_that_a_spreadsheet_says_is_taken(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"{line}\na;y\n1,5;2,5\n2,5;3,5\n".encode())
    found = load_table(str(path), "y")
    assert list(found.X.columns) == ["a"]
    assert found.X["a"].tolist() == [1.5, 2.5]
    assert told(found, "divided by ';'")


def test_an_empty_cell_among_numbers_of_a_frame_is_missing() -> None:
    from spinalnet.data.columns import numbers

    for cells in ([True, "", False], ["1", " ", "0"]):
        found = numbers("a", pd.Series(cells, dtype=object))
        assert np.isnan(found[1])
        assert found[[0, 2]].tolist() == [1.0, 0.0]


def test_classes_with_digits_stay_classes(tmp_path: Path) -> None:
    for names in ("Q1 Q2 Q3", "1st 2nd 3rd", "10% 20% 30%", "$5 $10 $20", "v1.5 v1.6 v2"):
        rows = [f"{i / 7},{names.split()[i % 3]}" for i in range(60)]
        found = load_table(csv(tmp_path / "a.csv", "x,y", *rows), "y")
        assert found.task == "classification"
        assert sorted(set(found.y)) == sorted(names.split())


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [
        ("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "read as UTF-16"),
        ("utf-16-le", "read as UTF-16-LE"), ("utf-16-be", "read as UTF-16-BE"),
        ("utf-32", "read as UTF-32"), ("latin-1", "read as latin-1"),
    ],
)  # fmt: skip
def test_encodings(tmp_path: Path, encoding: str, sentence: str) -> None:
    path = csv(tmp_path / "a.csv", "größe,ÿ", "à,1", "é,2", encoding=encoding)
    found = load_table(path, "ÿ", "classification")
    assert found.X["größe"].tolist()[:2] == ["à", "é"]
    assert told(found, sentence) if sentence else not told(found, "read as")


def test_packed_files(tmp_path: Path) -> None:
    expected = load_table(csv(tmp_path / "a.csv", *PLAIN), "price")
    content = (tmp_path / "a.csv").read_bytes()
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as packed:
        packed.writestr("inner.csv", content)
    for name in ("b.csv.gz", "c.zip"):
        assert load_table(str(tmp_path / name), "price").X.equals(expected.X)
    assert is_table("b.csv.gz")
    assert is_table("b.xlsx")
    assert not is_table("photographs.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "a") as packed:
        packed.writestr("other.csv", content)
    for name, message in (("c.zip", "must hold one table, got 2 files"), ("d.dat", "one of .csv")):
        (tmp_path / "d.dat").write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_table(str(tmp_path / name), "price")
    (tmp_path / "e.csv.gz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        load_table(str(tmp_path / "e.csv.gz"), "price")


def test_sheets(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    try:
        import openpyxl
    except ImportError:
        path.write_bytes(b"nothing")
        with pytest.raises(InputError, match=r"needs openpyxl.*pip install openpyxl"):
            load_table(str(path), "price")
        return
    book = openpyxl.Workbook()
    sheet = book.active
    day = datetime.datetime(2026, 1, 1)
    body = [[i + 0.5, day + datetime.timedelta(i), "ab"[i % 2], None] for i in range(12)]
    for row in [["x", "day", "y", None], *body]:
        sheet.append(row)
    book.create_sheet("more")
    book.save(path)
    found = load_table(str(path), "y")
    assert found.X["x"].tolist() == [i + 0.5 for i in range(12)]
    assert found.X["day"].tolist() == [row[1] for row in body]
    assert list(found.X.columns) == ["x", "day"]
    assert told(found, "has 2 sheets")


def test_a_trailing_separator_shifts_nothing(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "x,colour,y", "1,red,5,", "2,blue,6,", "4,red,8,")
    found = load_table(path, "y", "regression")
    assert list(found.X.columns) == ["x", "colour"]
    assert found.X["x"].tolist()[:3] == [1, 2, 4]
    assert found.y[:3].tolist() == [5, 6, 8]
    assert told(found, "end with a separator that its header lacks")
    # In the header too: a column without a name or a value.
    both = load_table(
        csv(tmp_path / "b.csv", "x,colour,y,", "1,red,5,", "2,blue,6,", "4,red,8,"), "y",
        "regression",
    )  # fmt: skip
    assert both.X.equals(found.X)
    assert told(both, "last column of b.csv has no name and no value")
    mixed = load_table(
        csv(tmp_path / "c.csv", "x,colour,y", "1,red,5", "2,blue,6,", "4,red", rows=3), "y"
    )
    assert mixed.y.tolist() == ["5", "6"] or mixed.y.tolist() == [5, 6]
    assert told(mixed, "1 row (2) of c.csv end", "Fewer fields than there are columns in 1 row (3)")
    with pytest.raises(InputError, match=r"row 2 of .* has 4 fields, but its header has 3 names"):
        load_table(csv(tmp_path / "d.csv", "x,colour,y", "1,red,5", "2,blue,6,7"), "y")


def test_a_column_that_counts_the_rows_without_a_name_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [0.5, 1.5] * 6, "y": ["a", "b"] * 6})
    frame.to_csv(tmp_path / "a.csv")
    found = load_table(str(tmp_path / "a.csv"), "y")
    assert list(found.X.columns) == ["x"]
    assert told(found, "has no name and counts the rows")
    frame.assign(z=[3, 4] * 6)[["z", "x", "y"]].rename(columns={"z": ""}).to_csv(
        tmp_path / "b.csv", index=False
    )
    found = load_table(str(tmp_path / "b.csv"), "y")
    assert list(found.X.columns) == ["Unnamed: 0", "x"]
    assert told(found, "it is called 'Unnamed: 0'")


def test_a_file_without_a_header_is_told(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "5.1,3.5,setosa", "4.9,3.0,setosa", "6.2,2.9,virginica")
    with pytest.raises(InputError, match=r"unknown column 'kind'.*looks like data.*line with name"):
        load_table(path, "kind")
    assert told(load_table(path, "setosa"), "looks like data")
    years = csv(tmp_path / "b.csv", "2019,2020,y", "1,2,a", "3,4,b")
    assert not told(load_table(years, "y"), "looks like data")


def test_a_late_letter_makes_text_not_a_mixture(tmp_path: Path) -> None:
    rows = [f"{i},{i % 7 + 0.5}" for i in range(300)] + ["A1,1.5"]
    found = load_table(csv(tmp_path / "a.csv", "code,y", *rows), "y")
    values = found.X["code"]
    assert {type(value) for value in values} == {str}
    assert told(found, "Column 'code' is text, since 'A1' in row 301 is no number (1 of 301")


def test_signs_for_nothing_among_numbers_are_missing_and_told(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "x,z,note,y", "1.5,?,None,1", "?,3,b,2", "NA,4,b,3")
    found = load_table(path, "y", "classification")
    assert found.X["x"].isna().tolist()[:3] == [False, True, True]
    assert found.X["z"].isna().tolist()[:3] == [True, False, False]
    assert found.X["note"].isna().tolist()[:3] == [True, False, False]
    assert told(found, "'?' counts as missing: columns 'x', 'z'", "'NA' counts as missing: column")
    assert told(found, "'None' counts as missing: column 'note'")


def test_targets_are_found_by_their_exact_names(tmp_path: Path) -> None:
    header = 'x,"price, EUR", y ,café'
    path = csv(tmp_path / "a.csv", header, "1,2.5,3.5,4.5", "2,3.25,4.5,5", "5,1.5,2,9.5")
    for target, first in (("price, EUR", 2.5), (" y ", 3.5), ("café", 4.5), ("cafe\u0301", 4.5)):
        found = load_table(path, target)
        assert found.y[0] == first
        assert len(found.targets) == 1
    both = load_table(path, "x, y ")
    assert both.targets == ("x", " y ")
    assert both.y[0].tolist() == [1, 3.5]
    assert load_table(path, "x , café").y[0].tolist() == [1, 4.5]
    with pytest.raises(InputError, match="unknown column 'cafe'; did you mean 'café'"):
        load_table(path, "cafe")
    with pytest.raises(InputError, match="several are called 'x'"):
        load_table(path, "x,x")


@pytest.mark.parametrize("word", ["NA", "null", "None", "nan"])
def test_a_class_that_is_a_word_for_nothing_stays_one(tmp_path: Path, word: str) -> None:
    path = csv(tmp_path / "a.csv", "x,y", "1.5,yes", f"2.5,{word}", "3.5,no")
    found = load_table(path, "y")
    assert sorted(set(found.y)) == sorted({"yes", "no", word})
    assert told(found, f"'{word}' in the target column 'y' is a class (4 rows (2, 5, 8, …))")
    numbers = load_table(csv(tmp_path / "b.csv", "x,y", "1,0.5", f"2,{word}", "3,1.5"), "y")
    assert numbers.task == "regression"
    assert told(numbers, "4 rows without a target are left out", f"'{word}' counts as missing")


def test_a_typo_among_numbers_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [f"{i},{i * 0.37:.2f}" for i in range(40)]
    rows[16] = "16,n/k"
    path = csv(tmp_path / "a.csv", "x,price", *rows)
    for task in ("auto", "regression"):
        with pytest.raises(InputError, match="'price' holds numbers, but 'n/k' in row 17: mend"):
            load_table(path, "price", task)
    assert load_table(path, "price", "classification").task == "classification"
    words = csv(tmp_path / "b.csv", "x,y", "1,yes", "2,no")
    with pytest.raises(InputError, match=r"'y' holds numbers, but 'yes' in row 1 .and 11 more"):
        load_table(words, "y", "regression")
    grades = csv(tmp_path / "c.csv", "x,y", "1,1", "2,2", "3,fail", "4,3", rows=60)
    assert load_table(grades, "y").task == "classification"


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    sentence = "several are called 'x'"
    with pytest.raises(InputError, match=sentence):
        load_table(csv(tmp_path / "a.csv", "x,x,y", "1,2,a", "3,4,b"), "y")
    frame = pd.DataFrame([[1, 2], [3, 4]] * 6, columns=["x", "x"])
    with pytest.raises(InputError, match=sentence):
        Table("t", frame, np.arange(12), "regression").ready()
    pa = pytest.importorskip("pyarrow")
    table = pa.table([[1, 2], [3, 4], [5, 6]], names=["x", "x", "y"])
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as sink:
        sink.write_table(table)
    with pytest.raises(InputError, match=sentence):
        load_table(str(tmp_path / "a.arrow"), "y")
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=sentence):
        load_table(str(tmp_path / "a.parquet"), "y")


def arrow_types() -> dict[str, tuple[Any, list[Any], str]]:
    pa = pytest.importorskip("pyarrow")
    return {
        "list": (pa.list_(pa.int64()), [[1], [2, 3]], "a list"),
        "struct": (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 2}], "mapping|several"),
        "map": (pa.map_(pa.string(), pa.int64()), [[("a", 1)], [("b", 2)]], "a list|mapping"),
        "binary": (pa.binary(), [b"a", b"b"], "bytes"),
        "duration": (pa.duration("s"), [datetime.timedelta(1)] * 2, "a length of time"),
    }


@pytest.mark.parametrize("kind", ["list", "struct", "map", "binary", "duration"])
def test_columns_of_no_use_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    arrow, values, message = arrow_types()[kind]
    table = pa.table({"bad": pa.array(values * 6, arrow), "y": [1.5, 2.5] * 6})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=f"column 'bad' has .*({message})"):
        load_table(str(tmp_path / "a.parquet"), "y")


@pytest.mark.parametrize("library", ["pandas", "arrow", "nullable", "polars"])
def test_frames_of_every_library_are_the_same_table(library: str) -> None:
    values = {
        "whole": [1, None, 3, 4] * 5,
        "real": [0.5, 1.5, None, 2.5] * 5,
        "flag": [True, False, None, True] * 5,
        "word": ["a", "b", None, "a"] * 5,
        "day": [datetime.date(2024, 1, 3), None, datetime.date(2024, 2, 1), None] * 5,
        "price": [Decimal("1.5"), None, Decimal(2), Decimal(3)] * 5,
    }
    frame = pd.DataFrame(values)
    expected = Table("t", frame, np.arange(20) / 7, "regression").ready()
    if library == "polars":
        frame = pytest.importorskip("polars").DataFrame(values)
    elif library == "arrow":
        pa = pytest.importorskip("pyarrow")
        frame = pa.table(values).to_pandas(types_mapper=pd.ArrowDtype)
    elif library == "nullable":
        frame = frame.convert_dtypes()
    found = Table("t", frame, np.arange(20) / 7, "regression").ready()
    pd.testing.assert_frame_equal(found.X, expected.X)
    kinds = {name: dtype.kind for name, dtype in found.X.dtypes.items()}
    assert kinds == {"whole": "f", "real": "f", "flag": "f", "word": "O", "day": "M", "price": "f"}
    assert found.ready().X.equals(found.X)


def test_every_type_of_polars(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    types = [
        pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32,
        pl.UInt64, pl.Float32, pl.Float64, pl.Decimal(10, 2),
    ]  # fmt: skip
    frame = pl.DataFrame({f"c{i}": [1, 2, None] * 8 for i in range(len(types))})
    frame = frame.with_columns(pl.col(f"c{i}").cast(kind) for i, kind in enumerate(types))
    words = ["a", "b", "a"] * 8
    frame = frame.with_columns(
        *(pl.Series(f"w{i}", words, dtype=kind)
          for i, kind in enumerate((pl.String, pl.Categorical, pl.Enum(["a", "b"])))),
        pl.Series("none", [None] * 24),
        pl.Series("on", [True, False, None] * 8),
        pl.Series("at", [datetime.datetime(2024, 1, 1, i) for i in range(24)]),
    )  # fmt: skip
    found = Table("t", frame, np.arange(24) / 7, "regression").ready()
    for i in range(len(types)):
        assert found.X[f"c{i}"].tolist()[:2] == [1, 2]
        assert np.isnan(found.X[f"c{i}"][2])
    assert all(found.X[f"w{i}"].tolist() == words for i in range(3))
    assert "none" not in found.X
    assert told(found, "Column 'none' has no value in any row")
    for kind in (pl.Duration, pl.Time, pl.List(pl.Int64), pl.Binary):
        column = pl.Series("bad", [None] * 24, dtype=kind)
        with pytest.raises(InputError, match="column 'bad' has type"):
            Table("t", frame.with_columns(column), np.arange(24) / 7, "regression").ready()


def test_the_index_of_a_parquet_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"x": [1.5, 2.5] * 10, "y": ["a", "b"] * 10})
    days = pd.date_range("2026-01-01", periods=20, name="day")
    frame.set_index(days).to_parquet(tmp_path / "a.parquet")
    found = load_table(str(tmp_path / "a.parquet"), "y")
    assert list(found.X.columns) == ["day", "x"]
    assert told(found, "The index of a.parquet is taken as column 'day'")
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "b.parquet")
    found = load_table(str(tmp_path / "b.parquet"), "y")
    assert list(found.X.columns) == ["x"]
    assert told(found, "The index of b.parquet (of int64 without a name) is left out")
    held = Table("t", frame.set_index(days)[["x"]], frame["y"], "classification").ready()
    assert list(held.X.columns) == ["x"]
    assert told(held, "The index of t ('day') is no feature")
    frame.to_parquet(tmp_path / "c.parquet")
    assert not told(load_table(str(tmp_path / "c.parquet"), "y"), "index")


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (["2024-03-01", "2024-02-29", "2023-12-31"], "2024-03-01 2024-02-29 2023-12-31"),
        (["01.03.2024", "29.02.2024", "31.12.2023"], "2024-03-01 2024-02-29 2023-12-31"),
        (["3/1/2024", "2/29/2024", "12/31/2023"], "2024-03-01 2024-02-29 2023-12-31"),
        (["1/3/2024", "29/2/2024", "31/12/2023"], "2024-03-01 2024-02-29 2023-12-31"),
        (["3/1/24", "2/29/24", "12/31/23"], "2024-03-01 2024-02-29 2023-12-31"),
        (["2024-03-01T01:00+02:00", "2024-02-29T00:00Z", ""], "2024-02-29T23:00 2024-02-29 NaT"),
        (["2024/3/1", "2024/2/29", "2023/12/31"], "2024-03-01 2024-02-29 2023-12-31"),
        (["2024-03-01T12:30", "2024-02-29", ""], "2024-03-01T12:30 2024-02-29 NaT"),
        (["01.03.2024 12:30", "29.02.2024 01:00", ""], "2024-03-01T12:30 2024-02-29T01:00 NaT"),
    ],
)
def test_dates_in_text_are_read_and_told(tmp_path: Path, cells: list[str], days: str) -> None:
    rows = [f"{cell},{i}.5" for i, cell in enumerate(cells)]
    found = load_table(csv(tmp_path / "a.csv", "day,y", *rows), "y")
    expected = np.array(days.split(), dtype="datetime64[us]")
    assert np.array_equal(found.X["day"].to_numpy()[:3], expected, equal_nan=True)
    assert told(found, "Read as dates: column 'day'")
    assert not told(found, "to be sure")
    assert told(found, "read as UTC") == ("Z" in "".join(cells))


@pytest.mark.parametrize("zone", ["+05:00", "Europe/Berlin", ""])
def test_times_with_offsets_are_utc_however_they_come(tmp_path: Path, zone: str) -> None:
    pytest.importorskip("pyarrow")
    naive = pd.Series(pd.date_range("2024-03-30 22:30", periods=20, freq="7h"))
    at = naive.dt.tz_localize(zone) if zone else naive
    expected = at.dt.tz_convert("UTC").dt.tz_localize(None) if zone else naive
    frame = pd.DataFrame({"at": at, "y": np.arange(20) / 7})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    objects = frame.assign(at=at.astype(object))
    arrow = frame.convert_dtypes(dtype_backend="pyarrow")
    tables = [
        load_table(str(tmp_path / "a.csv"), "y"),
        load_table(str(tmp_path / "a.parquet"), "y"),
        *(Table("t", one[["at"]], frame["y"], "regression").ready() for one in (objects, arrow)),
    ]
    for table in tables:
        assert table.X["at"].tolist() == expected.tolist()
        assert told(table, "'at' have offsets: they are read as UTC") == bool(zone)
        assert sum("UTC" in note for note in table.notes) <= 1


@pytest.mark.parametrize(
    ("cell", "form"),
    [("unknown", "%Y-%m-%d"), ("2020-02-30", "%Y-%m-%d"), ("30.02.2020", "%d.%m.%Y"),
     ("?", "%m/%d/%Y"), ("2020-03", "%Y-%m-%d"),
     ("31/2/20", "%d/%m/%y")],
)  # fmt: skip
def test_what_keeps_a_column_from_dates_is_named_with_its_row(
    tmp_path: Path, cell: str, form: str
) -> None:
    days = pd.date_range("2020-01-05", periods=120).strftime(form).tolist()
    for place in (0, 7):
        cells = [*days[:place], cell, *days[place + 1 :]]
        rows = (f"{day},{i}.5" for i, day in enumerate(cells))
        found = load_table(csv(tmp_path / "a.csv", "day,y", *rows), "y")
        assert {type(value) for value in found.X["day"]} == {str}
        assert told(found, f"Column 'day' is text, since '{cell}' in row {place + 1} is no date")
        assert told(found, "(1 of 120 cells are none)")
    words = [*days[:7], *["later"] * 113]
    rows = (f"{day},{i}.5" for i, day in enumerate(words))
    assert not told(load_table(csv(tmp_path / "b.csv", "day,y", *rows), "y"), "no date")


def test_dates_that_can_be_read_two_ways_say_how_they_were(tmp_path: Path) -> None:
    found = load_table(csv(tmp_path / "a.csv", "day,y", "3/1/2024,1.5", "2/4/2024,2.5"), "y")
    assert found.X["day"].iloc[0] == pd.Timestamp("2024-03-01")
    assert told(found, "with the month first, '3/1/2024' as 2024-03-01")
    assert found.date_orders == {"day": "month"}
    for cells, order in ((("3/1/2024", "17/4/2024"), "day"), (("1/1/2024", "2/2/2024"), None)):
        rows = (f"{cell},{i}.5" for i, cell in enumerate(cells))
        again = load_table(csv(tmp_path / "c.csv", "day,y", *rows), "y")
        assert again.date_orders.get("day") == order
    numbers = load_table(csv(tmp_path / "b.csv", "v,y", "1.2.3,1.5", "1.2.4,2.5"), "y")
    assert numbers.X["v"].tolist()[:2] == ["1.2.3", "1.2.4"]  # versions, no dates
    with pytest.raises(InputError, match="target column 'day' holds dates"):
        load_table(csv(tmp_path / "a.parquet.csv", "x,day", "1,2024-01-02", "2,2024-01-03"), "day")


def test_columns_that_can_stay_text_do(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", "zip,x", "00123,1", "04567,2")
    assert read_frame(Path(path))[0]["zip"].tolist()[:2] == [123, 4567]
    frame, notes = read_frame(Path(path), text=("zip",))
    assert frame["zip"].tolist()[:2] == ["00123", "04567"]
    assert frame["x"].tolist()[:2] == [1, 2]
    assert notes == []


@pytest.mark.parametrize(
    ("values", "first"),
    [
        (lambda pa: pa.array([1, 2, None, 4], pa.int64()), [1, 2, 4]),
        (lambda pa: pa.array([Decimal("1.5"), Decimal(2), None, Decimal("2.25")]), [1.5, 2, 2.25]),
        (lambda pa: pa.array([True, False, None, True]), ["True", "False", "True"]),
        (lambda pa: pa.array(["a", "b", None, "a"]).dictionary_encode(), ["a", "b", "a"]),
        (lambda pa: pa.array([1.5, 2, None, 4], pa.float32()), [1.5, 2, 4]),
    ],
)
def test_targets_of_every_type(tmp_path: Path, values: Any, first: list[Any]) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    table = pa.table({"x": pa.array(range(40)), "y": pa.concat_arrays([values(pa)] * 10)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = load_table(str(tmp_path / "a.parquet"), "y")
    assert found.y.tolist() == first * 10
    assert told(found, "10 rows without a target are left out")


@pytest.mark.parametrize("top", [2**53, 2**60, 2**63 - 2, 2**66])
def test_large_whole_classes_stay_apart(tmp_path: Path, top: int) -> None:
    classes = [top, top + 1, 7, None] * 10
    frame = pd.DataFrame({"x": np.arange(40) / 7, "y": np.array(classes, dtype=object)})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.dropna().to_csv(tmp_path / "b.csv", index=False)
    names = ["a.csv", "b.csv"]
    if top < 2**63:
        pytest.importorskip("pyarrow")
        frame.assign(y=frame["y"].astype("Int64")).to_parquet(tmp_path / "a.parquet")
        names.append("a.parquet")
    for name in names:
        found = load_table(str(tmp_path / name), "y", "classification")
        assert sorted(map(str, found.y)) == sorted(map(str, [top, top + 1, 7] * 10))
        again = read_frame(tmp_path / name)[0]["y"].dropna()
        assert sorted(set(map(str, again))) == sorted(map(str, {top, top + 1, 7}))
    numbers = load_table(str(tmp_path / "a.csv"), "y", "regression")
    assert numbers.y.dtype == np.float64
    features = load_table(str(tmp_path / "a.csv"), "x")
    assert features.X["y"].tolist()[:3] == [float(top), float(top + 1), 7.0]


def frame_of(n: int = 60) -> Any:
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "kind": np.where(x + rng.normal(size=n) > 0, "a", "b")})


@pytest.mark.parametrize(
    ("name", "values", "piece"),
    [
        ("user", [f"u{i:03d}" for i in range(60)], "'user' looks like an identifier"),
        ("patient_id", np.random.default_rng(1).permutation(60) * 3, "'patient_id' looks like an"),
        ("n", np.random.default_rng(1).permutation(60), "'n' looks like an identifier"),
        ("row", np.arange(60), "'row' counts the rows: it says nothing"),
        ("copy", None, "'copy' gives the target away"),
        ("words", None, "'words' gives the target away"),
    ],
)
def test_columns_to_look_at_are_noted_by_name(name: str, values: Any, piece: str) -> None:
    frame = frame_of()
    if name == "copy":
        values = (frame["kind"] == "a") * 2.0 + np.random.default_rng(0).random(60)
    if name == "words":
        values = frame["kind"].map({"a": "alpha", "b": "beta"})
    before = Table("t", frame[["x"]], frame["kind"], "classification").ready()
    found = Table(
        "t", frame.assign(**{name: values})[["x", name]], frame["kind"], "classification"
    ).ready()
    assert told(found, piece)
    more = ["Text, not categories, for its many different values: column 'user'."]
    assert len(found.notes) == len(before.notes) + 1 + (more[0] in found.notes)
    assert (name == "user") == (more[0] in found.notes)


def test_a_survey_weight_is_noted_where_it_is_unrelated() -> None:
    rows = np.arange(60)
    frame = pd.DataFrame({"fnlwgt": 10_000 + 137 * (rows // 2), "x": np.sin(rows)})
    found = Table("t", frame, rows % 2, "classification").ready()
    assert told(found, "'fnlwgt' looks like a survey weight")
    heavy = Table("t", frame, rows // 30, "classification").ready()  # as the weight of a car
    assert not told(heavy, "survey weight")
    assert not told(Table("t", frame, rows / 7, "regression").ready(), "survey weight")


def test_rows_sorted_by_the_target_and_copies_are_noted() -> None:
    frame = frame_of().sort_values("kind").reset_index(drop=True).assign(row=range(60))
    found = Table("t", frame[["x", "row"]], frame["kind"], "classification").ready()
    assert told(found, "'row' counts the rows, which are sorted by the target")
    y = np.arange(60) ** 2 / 7.0
    found = Table("t", frame[["x"]].assign(copy=3 - 2 * y), y, "regression").ready()
    assert told(found, "'copy' gives the target away")
    again = pd.concat([frame_of(), frame_of().iloc[:4]])
    found = Table("t", again[["x"]], again["kind"], "classification").ready()
    assert told(found, "4 rows repeat an earlier one")
    plain = Table("t", frame_of()[["x"]], frame_of()["kind"], "classification").ready()
    assert plain.notes == ()


def test_what_cannot_be_compared_on_is_refused(tmp_path: Path) -> None:
    def refused(*lines: str, rows: int = 12, task: str = "auto", unit: Any = None) -> str:
        path = csv(tmp_path / "t.csv", *lines, rows=rows)
        with pytest.raises(InputError) as caught:
            rows_of(TableSpec(path, "y", task=task, resample=unit or Resample("split", 0)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "constant in the training rows" in refused("x,y", "1,5", "2,5", task="regression")
    assert "only one class, 'a'" in refused("x,y", "1,a", "2,a")
    assert "4 rows: too few" in refused("x,y", "1,a", "2,b", rows=4)
    assert "12 rows and split 13" in refused("x,y", "1,a", "2,b", unit=Resample("split", 12))
    assert "column 'x' of t holds infinite numbers in 6 rows (1, 3, 5, …)" in refused(
        "x,y", "inf,a", "2,b"
    )
    assert "'y' is infinite in 6 rows (2, 4, 6, …)" in refused("x,y", "1,1.5", "2,-inf")
    assert "all of them are empty: x" in refused("x,y", ",a", ",b")
    assert "has no value in any row" in refused("x,y", "1,", "2,")
    assert "never closed" in refused("x,y", '1,"a', "2,b", rows=1)


def test_a_column_that_is_empty_in_a_training_part_ends_no_model(tmp_path: Path) -> None:
    frame = frame_of().assign(late=np.nan, word=None, day=pd.NaT)
    fold = Resample("fold", 0, 3)
    table = Table("t", frame[["x"]], frame["kind"].to_numpy(), "classification")
    test = rows_of(TableSpec(table.name, frame=table, resample=fold)).test
    frame.loc[test[:3], "late"] = 1.5
    frame.loc[test[:3], "word"] = "new"
    frame.loc[test[:3], "day"] = pd.Timestamp("2026-01-01")
    table = Table("t", frame.drop(columns="kind"), frame["kind"].to_numpy(), "classification")
    for head in ("linear", "spinal", "trees"):
        asked = TableSpec(table.name, frame=table, resample=fold, head=head)
        rows = rows_of(asked)
        assert rows.table.X.shape[1] == 4
        model = fit(estimator_of(asked, rows), rows, rows.train)
        assert predicted(model, rows, rows.test).targets.shape == (20,)


def test_trees_know_what_nets_know() -> None:
    frame = frame_of().assign(
        day=pd.date_range("2026-01-01", periods=60),
        word=["a"] * 30 + ["b"] * 28 + ["c", "d"],
        note=[f"thing number {i}" for i in range(60)],
    )
    model = OnColumns(HistGradientBoostingClassifier(categorical_features="from_dtype"))
    model.fit(frame.drop(columns="kind"), frame["kind"])
    shared = model.encoder_.shared(frame)
    assert list(shared)[:5] == ["x", "day elapsed", "day month", "day day", "day weekday"]
    assert shared["word"].cat.categories.tolist() == ["a", "b", "(rare)"]
    assert model.estimator_.is_categorical_.sum() == 1
    assert shared["x"].tolist() == frame["x"].tolist()
    text = [name for name in shared if name.startswith("note text")]
    encoded = pd.DataFrame(model.encoder_.transform(frame), columns=model.encoder_.names([]))
    assert shared[text].equals(encoded[text])
    assert model.score(frame, frame["kind"]) > 0.8
    assert model.predict_proba(frame).shape == (60, 2)


def test_everything_at_once_from_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = 80
    x = rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "id": [f"A-{i:05d}" for i in range(n)],
            "day": [f"{1 + i % 28:02d}.{1 + i % 12:02d}.2024" for i in range(n)],
            "text": [f"{'good' if v > 0 else 'bad'} thing number {i}" for i, v in enumerate(x)],
            "x": [f"{v:.3f}".replace(".", ",") for v in x],
            "nothing": [""] * n,
            "flag": rng.random(n) < 0.5,
            "city": rng.choice(["Rome", "Oslo", "Bonn"], n),
            "y": np.where(x + rng.normal(0, 0.3, n) > 0, "yes", "no"),
        }
    )
    frame.to_csv(tmp_path / "t.csv", sep=";", index=False, encoding="utf-16")
    options = ["--target", "y", "--heads", "spinal,linear,trees", "--seeds", "2", "--jobs", "1"]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["compare", str(tmp_path / "t.csv"), *options, "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert (out / "summary.json").exists()
    for head in ("spinal", "linear", "trees"):
        assert list(out.glob(f"runs/*{head}*/DONE"))

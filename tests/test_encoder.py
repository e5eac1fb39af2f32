"""How columns become numbers: against scikit-learn and longhand, and what is kept of it."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from spinalnet._checks import InputError
from spinalnet.data.columns import dates
from spinalnet.tabular import SpinalClassifier
from spinalnet.tabular.column_encodings import MOST_INPUTS, TEXT_WIDTH
from spinalnet.tabular.encoder import Encoder

pd = pytest.importorskip("pandas")

FIVE = datetime.timezone(datetime.timedelta(hours=5))

PLAIN = (str, int, float, bool, type(None), np.ndarray)


def mixed(n: int = 120) -> Any:
    rng = np.random.default_rng(3)
    size = rng.normal(size=n)
    size[::7] = np.nan
    days = pd.date_range("2020-01-30", periods=n, freq="37h").to_series(index=range(n))
    days[3] = pd.NaT
    return pd.DataFrame(
        {
            "note": [f"word{i % 50} of the {i}th row, which is long" for i in range(n)],
            "colour": rng.choice(["red", "blue", "green", None], n),
            "day": days,
            "size": size,
            "ok": rng.random(n) < 0.5,
            "empty": [None] * n,
            "count": rng.integers(0, 9, n),
        }
    )


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and is_plain(v) for key, v in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    return type(value) in PLAIN


def test_the_state_is_plain_and_gives_the_same_bits() -> None:
    frame = mixed()
    encoder = Encoder(frame, None)
    state = encoder.state()
    assert is_plain(state)
    again = Encoder.from_state(state)
    new = mixed(200).iloc[120:]
    new.loc[new.index[0], "colour"] = "violet"
    for X in (frame, new):
        assert encoder.transform(X).tobytes() == again.transform(X).tobytes()
        assert encoder.shared(X).equals(again.shared(X))
    assert again.names([]) == encoder.names([])
    kinds = {c.name: c.kind for c in again.columns}
    assert kinds == {
        "size": "number", "empty": "number", "count": "number", "ok": "boolean",
        "day": "date", "colour": "category", "note": "text",
    }  # fmt: skip
    ends = [c.outputs.stop for c in again.columns]
    assert [c.outputs.start for c in again.columns] == [0, *ends[:-1]]
    assert ends[-1] == encoder.transform(frame).shape[1] == len(encoder.names([]))
    array = np.random.default_rng(0).normal(size=(9, 3))
    plain = Encoder(array, None)
    other = Encoder.from_state(plain.state())
    assert other.transform(array).tobytes() == plain.transform(array).tobytes()
    assert [c.outputs for c in other.columns] == [slice(0, 1), slice(1, 2), slice(2, 3)]
    for version in (2, 0, True, None):
        with pytest.raises(InputError, match=f"version 1, got {version}"):
            Encoder.from_state({**state, "version": version})


def test_numbers_are_those_of_scikit_learn() -> None:
    frame = mixed()[["size", "count", "ok"]]
    weights = np.linspace(0.5, 2, len(frame))
    made = Encoder(frame, weights).transform(frame)
    raw = np.column_stack(
        [
            frame["size"].fillna(frame["size"].median()),
            frame["size"].isna(),
            frame["count"],
            frame["ok"],
        ]
    ).astype(float)
    expected = StandardScaler().fit(raw, sample_weight=weights).transform(raw)
    assert np.array_equal(made, expected)
    array = raw.astype(np.float32)
    made = Encoder(array, weights).transform(array)
    assert made.dtype == np.float32
    expected = StandardScaler().fit(array, sample_weight=weights).transform(array)
    np.testing.assert_allclose(made, expected, rtol=3e-7, atol=1e-7)  # earlier ones round otherwise


def test_categories_are_those_of_scikit_learn() -> None:
    frame = mixed()[["colour"]].dropna()
    oracle = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(frame)
    encoder = Encoder(frame, None)
    new = pd.DataFrame({"colour": ["green", "violet", None, "red"]})
    assert np.array_equal(encoder.transform(frame), oracle.transform(frame))
    assert np.array_equal(encoder.transform(new)[[0, 3]], oracle.transform(new)[[0, 3]])
    assert not encoder.transform(new)[1:3].any()  # never met, where nothing was rare or missing
    assert encoder.names([]) == ["colour_blue", "colour_green", "colour_red"]


def test_rare_and_unknown_levels_share_an_input() -> None:
    levels = ["a"] * 5 + ["b"] * 5 + ["c", "d", None]
    encoder = Encoder(pd.DataFrame({"x": levels}), None)
    assert encoder.names([]) == ["x_a", "x_b", "x_(rare)", "missing x"]
    made = encoder.transform(pd.DataFrame({"x": ["b", "c", "d", "new", None]}))
    assert made.argmax(axis=1).tolist() == [1, 2, 2, 2, 3]
    assert (made.sum(axis=1) == 1).all()
    shared = encoder.shared(pd.DataFrame({"x": ["b", "new", None]}))["x"]
    assert shared.tolist()[:2] == ["b", "(rare)"]
    assert pd.isna(shared[2])
    one = Encoder(pd.DataFrame({"x": ["a", "a", "b"]}), None)  # "rare" would be b alone
    assert one.names([]) == ["x_a", "x_b"]
    assert Encoder(pd.DataFrame({"x": ["(rare)", "(rare)", "b", "c"]}), None).names([]) == [
        "x_(rare)",
        "x_((rare))",
    ]


def test_many_levels_are_bounded() -> None:
    rng = np.random.default_rng(0)
    codes = [f"c{int(i)}" for i in rng.zipf(1.3, 3000) % 900]
    category = pd.DataFrame({"x": pd.Series(codes, dtype="category")})
    encoder = Encoder(category, None)
    assert encoder.columns[0].kind == "category"
    assert encoder.transform(category).shape[1] == MOST_INPUTS + 1
    kept = set(pd.Series(codes).value_counts().index[:50])
    assert kept <= set(encoder.shared(category)["x"].cat.categories)
    assert Encoder(pd.DataFrame({"x": codes}), None).columns[0].kind == "text"


def test_dates_are_their_calendar() -> None:
    days = pd.Series(
        pd.to_datetime(["2024-02-29 06:00", "1969-12-31", None, "2026-11-28 18:30"], format="mixed")
    )
    encoder = Encoder(pd.DataFrame({"t": days}), None)
    assert encoder.names([]) == [
        "t elapsed", "t month", "t day", "t weekday", "t hour", "missing t"
    ]  # fmt: skip
    shared = encoder.shared(pd.DataFrame({"t": days}))
    known = days.dropna()
    assert shared["t month"].dropna().tolist() == known.dt.month.tolist()
    assert shared["t day"].dropna().tolist() == known.dt.day.tolist()
    assert shared["t weekday"].dropna().tolist() == [day.weekday() for day in known]
    assert shared["t hour"].dropna().tolist() == [6, 0, 18.5]
    epoch = (known - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)
    assert np.allclose(shared["t elapsed"].dropna(), epoch, atol=1e-9)
    made = encoder.transform(pd.DataFrame({"t": days}))
    values = shared.fillna(shared.median()).assign(gone=days.isna()).to_numpy(float)
    assert np.allclose(made, StandardScaler().fit_transform(values))
    # What never changes is left out, the time of plain days for one.
    firsts = pd.DataFrame({"t": pd.date_range("2020-01-01", periods=5, freq="MS")})
    assert Encoder(firsts, None).names([]) == ["t elapsed", "t month", "t weekday"]


@pytest.mark.parametrize(
    "days",
    [
        pd.date_range("2020-01-01 01:00", periods=6, tz="Europe/Berlin").to_series(),
        pd.Series([datetime.datetime(2020, 1, i, 5, tzinfo=FIVE) for i in range(1, 7)], dtype="O"),
        pd.Series([f"2020-01-0{i}T05:00:00+05:00" for i in range(1, 7)]),
        pd.Series([datetime.date(2020, 1, i) for i in range(1, 7)]),
        pd.Series([datetime.datetime(2020, 1, i) for i in range(1, 7)], dtype=object),
    ],
)
def test_every_type_of_date(days: Any) -> None:
    plain = Encoder(pd.DataFrame({"t": pd.date_range("2020-01-01", periods=6)}), None)
    text = pd.DataFrame({"t": [f"2020-01-0{i}" for i in range(1, 7)]})
    frame = pd.DataFrame({"t": days.to_list()}, dtype=days.dtype)
    made = plain.transform(frame)
    if not isinstance(days.iloc[0], str):  # text becomes dates where a model was fitted to dates
        made = Encoder(frame, None).transform(frame)
    assert made.tobytes() == plain.transform(frame).tobytes() == plain.transform(text).tobytes()


@pytest.mark.parametrize(
    ("text", "order", "day"),
    [
        ("17/1/2020", "day", "2020-01-17"), ("4/1/2020", "day", "2020-01-04"),
        ("4/1/2020", "month", "2020-04-01"), ("4.1.69 07:30", "day", "1969-01-04T07:30"),
        ("4-1-2020 7:30:05", "month", "2020-04-01T07:30:05"), ("2020/1/4", "month", "2020-01-04"),
        ("2020-01-04", "day", "2020-01-04"), ("NA", "day", "NaT"), ("", None, "NaT"),
        ("17/1/2020", "month", None), ("1/17/2020", "day", None), ("4/1/2020", None, None),
        ("30/2/2020", "day", None), ("4/1/2020 soon", "day", None), ("123/1/2020", "day", None),
    ],
)  # fmt: skip
def test_dates_in_text_keep_to_one_order(text: str, order: str | None, day: str | None) -> None:
    column = pd.Series(["2020-05-06", text])
    if day is not None:
        found = dates("t", column, order)
        assert np.array_equal(found[1:], np.array([day], "datetime64[us]"), equal_nan=True)
        return
    how = f"with the {order} first" if order else "2026-01-31"
    with pytest.raises(InputError, match=rf"'t' must hold dates \(.*{how}.*got '{text}' in row 2"):
        dates("t", column, order)


def test_text_that_is_alike_gets_numbers_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    fruit, tools = ["apple", "pear", "plum", "cherry"], ["hammer", "saw", "pliers", "drill"]
    notes = [
        " ".join(rng.choice(words, 6)) + f" {i}" for i in range(60) for words in (fruit, tools)
    ]
    frame = pd.DataFrame({"note": notes})
    encoder = Encoder(frame, None)
    made = encoder.transform(frame)
    assert made.shape == (120, TEXT_WIDTH)
    assert made.std(axis=0).max() == pytest.approx(1)
    new = encoder.transform(pd.DataFrame({"note": ["pear plum apples 7", "the hammers, a saw 5"]}))
    centres = np.stack([made[::2].mean(axis=0), made[1::2].mean(axis=0)])
    near = ((new[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert near.tolist() == [0, 1]
    assert np.isfinite(encoder.transform(pd.DataFrame({"note": [None, ""]}))).all()


def test_an_identifier_of_every_row_stays_small() -> None:
    import tracemalloc

    frame = pd.DataFrame({"id": [f"user-{i:06d}" for i in range(20_000)], "x": range(20_000)})
    tracemalloc.start()
    made = Encoder(frame, None).transform(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.shape == (20_000, TEXT_WIDTH + 1)
    assert peak < 200e6  # an input for every level would ask for 3.2 GB


def test_columns_that_are_empty_in_fit_say_nothing() -> None:
    fitted = pd.DataFrame({"x": [1.0, 2, 3], "gone": [np.nan] * 3, "no": pd.Series([None] * 3)})
    encoder = Encoder(fitted, None)
    assert encoder.names([]) == ["x"]
    later = pd.DataFrame({"x": [2.0], "gone": [5.0], "no": ["a"]})
    assert encoder.transform(later).tolist() == [[0.0]]
    assert list(encoder.shared(later)) == ["x"]
    with pytest.raises(InputError, match="all of them are empty: gone, no"):
        Encoder(fitted[["gone", "no"]], None)


def test_mixed_types_are_text_and_the_same_however_they_are_held() -> None:
    frame = pd.DataFrame({"x": [1, "1", 1.0, "A1", None, "A1"]}, dtype=object)
    encoder = Encoder(frame, None)
    assert encoder.names([]) == ["x_1", "x_A1", "missing x"]
    numbers = pd.DataFrame({"x": [1.0, np.nan]})
    assert encoder.transform(numbers).tolist() == [[1, 0, 0], [0, 0, 1]]
    decimals = pd.DataFrame({"x": [Decimal("1.5"), None, Decimal(2)]})
    assert Encoder(decimals, None).shared(decimals)["x"].tolist()[::2] == [1.5, 2.0]


@pytest.mark.parametrize("library", ["pandas", "arrow", "nullable", "polars"])
def test_every_kind_of_frame_gives_the_same_numbers(library: str) -> None:
    values = {
        "whole": [1, 2, None, 4, 5, 2],
        "real": [0.5, None, 1.5, 2.0, 2.5, 3.0],
        "flag": [True, None, False, True, False, True],
        "word": ["a", "b", None, "a", "b", "a"],
        "day": [datetime.date(2024, 1, i + 1) if i else None for i in range(6)],
        "price": [Decimal("1.10"), None, Decimal("2.20"), Decimal(3), Decimal(4), Decimal(5)],
    }
    expected = Encoder(pd.DataFrame(values), None)
    if library == "polars":
        polars = pytest.importorskip("polars")
        frame = polars.DataFrame(values)
        for kind in (polars.Categorical, polars.Enum(["a", "b"])):
            other = frame.with_columns(polars.col("word").cast(kind))
            assert np.array_equal(
                Encoder(other, None).transform(other), Encoder(frame, None).transform(frame)
            )
        small = frame.with_columns(polars.col("whole").cast(polars.UInt8))
        assert np.array_equal(Encoder(small, None).transform(small), expected.transform(frame))
    elif library == "arrow":
        pa = pytest.importorskip("pyarrow")
        frame = pa.table(values).to_pandas(types_mapper=pd.ArrowDtype)
    else:
        frame = pd.DataFrame(values)
        frame = frame.convert_dtypes() if library == "nullable" else frame
    encoder = Encoder(frame, None)
    assert [c.kind for c in encoder.columns] == [c.kind for c in expected.columns]
    assert np.array_equal(encoder.transform(frame), expected.transform(pd.DataFrame(values)))
    assert np.array_equal(expected.transform(frame), encoder.transform(frame))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [2]], r"'x' has values of type list, which is a list in each row"),
        ([{"a": 1}, None], "which is a mapping"),
        ([b"a", b"b"], "which is bytes"),
        ([datetime.timedelta(1), datetime.timedelta(2)], "a length of time .*number \\(of seconds"),
        ([datetime.time(1), datetime.time(2)], "a time of day"),
        ([1j, 2j], "Complex data not supported: column 'x'"),
    ],
)
def test_columns_of_no_use_are_named(values: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoder(pd.DataFrame({"x": values, "y": [1, 2]}), None)


@pytest.mark.parametrize(
    ("arrow_type", "values", "message"),
    [
        ("list", [[1], None], "'x' has type .*a list"),
        ("struct", [{"a": 1}, None], "'x' has type .*several values"),
        ("map", [[("a", 1)], None], "'x' has type .*a mapping"),
        ("binary", [b"a", None], "'x' has type .*bytes"),
        ("duration", [datetime.timedelta(1), None], "'x' has type .*a length of time"),
    ],
)
def test_arrow_types_of_no_use_are_named(arrow_type: str, values: Any, message: str) -> None:
    pa = pytest.importorskip("pyarrow")
    types = {
        "list": pa.list_(pa.int64()),
        "struct": pa.struct([("a", pa.int64())]),
        "map": pa.map_(pa.string(), pa.int64()),
        "binary": pa.binary(),
        "duration": pa.duration("s"),
    }
    table = pa.table({"x": pa.array(values, types[arrow_type]), "y": [1, 2]})
    with pytest.raises(InputError, match=message):
        Encoder(table.to_pandas(types_mapper=pd.ArrowDtype), None)
    polars = pytest.importorskip("polars")
    if arrow_type != "map":  # which polars does not know
        with pytest.raises(InputError, match=message):
            Encoder(polars.from_arrow(table), None)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_estimators_take_dates_and_text(library: str) -> None:
    frame = mixed()
    y = np.where(frame["count"] > 4, "much", "little")
    if library == "polars":
        polars = pytest.importorskip("polars")
        columns = {name: frame[name].astype(object) for name in frame}
        frame = polars.DataFrame(
            {name: [None if pd.isna(v) else v for v in held] for name, held in columns.items()},
            strict=False,
        )
    model = SpinalClassifier(epochs=40, random_state=0).fit(frame, y)
    assert model.score(frame, y) > 0.9
    assert model.prepare(frame).shape[1] == len(model.prepared_names())
    assert {"note text 1", "day month", "missing size"} <= set(model.prepared_names())


def test_what_is_not_as_in_fit_is_named() -> None:
    numbers = Encoder(pd.DataFrame({"x": [1.0, 2]}), None)
    cases = [
        (numbers, {"x": ["1", "n/k"]}, "'x' must hold numbers, got 'n/k' in row 2"),
        (numbers, {"x": [1, math.inf]}, r"'x' holds infinity .* 1 row \(2\)"),
        (
            Encoder(pd.DataFrame({"x": pd.date_range("2020", periods=3)}), None),
            {"x": ["2020-01-01", "soon"]},
            "'x' must hold dates .*, got 'soon' in row 2",
        ),
    ]
    for encoder, values, message in cases:
        with pytest.raises(InputError, match=message):
            encoder.transform(pd.DataFrame(values))
    assert numbers.transform(pd.DataFrame({"x": ["1", "2"]})).tolist() == [[-1], [1]]
    twice = pd.DataFrame([[1, 2], [3, 4]], columns=["x", "x"])
    with pytest.raises(InputError, match="several are called 'x'"):
        Encoder(twice, None)
    with pytest.raises(InputError, match="data frame with the columns c"):
        Encoder(pd.DataFrame({"c": ["a", "a", "b"]}), None).transform(np.zeros((2, 1)))


def test_parts_of_a_date_and_a_column_of_their_name_are_both_kept():
    days = pd.date_range("2026-01-01", periods=40, freq="7D")
    X = pd.DataFrame({"day": days, "day month": np.arange(40.0) + 100})
    encoder = Encoder(X, None)
    shared = encoder.shared(X)
    alone = Encoder(X[["day"]], None).shared(X[["day"]])
    assert shared.shape[1] == alone.shape[1] + 1
    assert any((shared[name] == X["day month"]).all() for name in shared)
    assert (shared["day month"] == alone["day month"]).all()

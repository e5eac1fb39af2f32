"""Tables from files, task detection, the paired statistics, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spinalnet._checks import InputError
from spinalnet.cli.root import app
from spinalnet.comparison import load_summary
from spinalnet.comparison.findings import short_rows
from spinalnet.data import frames
from spinalnet.data.frames import detect_task, load_table

pd = pytest.importorskip("pandas")


def frame(n: int = 80) -> object:
    rng = np.random.default_rng(0)
    size = rng.normal(size=n)
    colour = rng.choice(["red", "blue"], n)
    return pd.DataFrame(
        {
            "size": np.where(rng.random(n) < 0.1, np.nan, size),
            "colour": colour,
            "kind": np.where((size > 0) == (colour == "red"), "yes", "no"),
            "weight": 3 * size + (colour == "red"),
        }
    )


def write(table: object, path: Path) -> None:
    suffix = path.suffix
    if suffix in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    elif suffix == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    else:
        pa = pytest.importorskip("pyarrow")
        arrow = pa.Table.from_pandas(table)
        kind = pa.ipc.new_file if suffix == ".feather" else pa.ipc.new_stream
        with kind(str(path), arrow.schema) as sink:
            sink.write_table(arrow)


@pytest.mark.parametrize("suffix", frames.FORMATS)
def test_every_format_holds_the_same_table(suffix: str, tmp_path: Path) -> None:
    write(frame(), tmp_path / f"t{suffix}")
    found = load_table(str(tmp_path / f"t{suffix}"), "kind")
    assert found.task == "classification"
    assert list(found.X.columns) == ["size", "colour", "weight"]
    assert set(found.y) == {"yes", "no"}
    assert found.X["size"].isna().sum() == frame()["size"].isna().sum()
    assert frames.is_table(str(tmp_path / f"t{suffix}"))
    many = load_table(str(tmp_path / f"t{suffix}"), "weight")
    assert many.task == "regression"
    assert "override: task=classification" in many.notes[0]


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([0, 1] * 50, "classification"),
        ([0.0, 1.0] * 50, "classification"),
        ([True, False] * 50, "classification"),
        (["a", "b"] * 50, "classification"),
        (list(range(100)), "regression"),
        ([0.5, 1.0] * 50, "regression"),
        ([1, 2, 3, 4, 5] * 20, "classification"),
    ],
)
def test_the_task_is_read_off_the_target(values: list, task: str) -> None:
    assert detect_task(pd.Series(values)) == task


def test_bad_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    write(frame(), path)
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "broken.parquet").write_text("nonsense")
    write(frame().assign(day=pd.timedelta_range("1h", periods=80)), tmp_path / "day.parquet")
    cases = [
        (lambda: load_table(str(tmp_path / "day.parquet"), "kind"), "'day' has type timedelta"),
        (lambda: load_table(str(path)), "target=COLUMN; the columns are size, colour"),
        (lambda: load_table(str(path), "knd"), "did you mean 'kind'"),
        (lambda: load_table(str(path), "kind", "regression"), "use task=classification"),
        (lambda: load_table(str(path), "kind", "clas"), "unknown task"),
        (lambda: load_table(str(path), "kind,size", "classification"), "one target column"),
        (lambda: load_table(str(tmp_path / "no.csv"), "kind"), "does not exist"),
        (lambda: load_table(str(tmp_path / "empty.csv"), "a"), "no rows"),
        (lambda: load_table(str(tmp_path / "broken.parquet"), "a"), "cannot be read"),
        (lambda: load_table("sklearn:wein"), "did you mean 'wine'"),
        (
            lambda: load_table("sklearn:wine", group="a"),
            "no columns with names, so none can be its",
        ),
        (lambda: load_table(str(path), "kind", group="colou"), "did you mean 'colour'"),
        (lambda: load_table(str(path), "kind", group="kind"), "group=kind is the target"),
        (lambda: load_table(str(path), "kind", time="colour"), "must hold numbers or dates"),
        (lambda: load_table(str(path), "kind", time="size"), "'size' has no value in"),
        (lambda: load_table(str(path), "kind", group="size"), "'size' has no value in"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("task", ["auto", "classification", "regression"])
@pytest.mark.parametrize(
    ("infinite", "rows"), [([3], "1 row .4."), ([3, 5, 7], "3 rows .4, 6, 8.:")]
)
def test_infinite_targets_are_counted(
    tmp_path: Path, task: str, infinite: list[int], rows: str
) -> None:
    table = frame().assign(price=np.arange(80) / 7)
    table.loc[infinite, "price"] = -np.inf
    write(table, tmp_path / "t.csv")
    with pytest.raises(InputError, match=f"target column 'price' is infinite in {rows}"):
        load_table(str(tmp_path / "t.csv"), "price", task)


def test_groups_and_times_are_columns_that_are_no_features(tmp_path: Path) -> None:
    table = frame(6)
    table["size"] = range(6)
    table["patient"] = ["b", "a", "b", "c", "a", "a"]
    days = ["2026-03-01", "2026-01-31", "2026-02-01", "2025-12-31", "2026-02-01", "2026-02-02"]
    table["day"] = days
    table.loc[4, "weight"] = np.nan
    write(table, tmp_path / "t.csv")
    found = load_table(str(tmp_path / "t.csv"), "weight", group="patient", time="day")
    assert list(found.X.columns) == ["size", "colour", "kind"]
    assert found.X["size"].tolist() == [0, 1, 2, 3, 5]
    assert found.groups.tolist() == [0, 1, 0, 2, 1]
    assert np.argsort(found.times).tolist() == [3, 1, 2, 4, 0]
    table["day"] = pd.to_datetime(table["day"]).dt.tz_localize("Europe/Berlin")
    table["hour"] = [5.5, 1, 2, 0, 3, 4]
    write(table, tmp_path / "t.parquet")
    dates, hours = (
        load_table(str(tmp_path / "t.parquet"), "size", time=name, group=other).times
        for name, other in (("day", "hour"), ("hour", "day"))
    )
    assert np.argsort(dates, kind="stable").tolist() == [3, 1, 2, 4, 5, 0]
    assert hours.tolist() == [5.5, 1, 2, 0, 3, 4]


def test_a_comparison_does_not_overwrite_another(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def compare(source: str, *options: str) -> str:
        before = (out / "summary.json").read_bytes() if (out / "summary.json").exists() else None
        done = CliRunner().invoke(app, ["compare", source, *options, "--out", str(out)])
        if done.exception is None:
            return ""
        assert isinstance(done.exception, InputError)
        assert before is None or (out / "summary.json").read_bytes() == before
        return str(done.exception)

    table = ["--heads", "linear,matched", "--seeds", "1", "--jobs", "1"]
    images = [*table, "--limit", "60", "--epochs", "1", "--device", "cpu"]
    assert not compare("sklearn:wine", *table)
    assert not compare("sklearn:wine", *table)
    assert "comparison on the table 'sklearn:wine'" in compare("sklearn:iris", *table)
    assert "which one on the data 'digits' would overwrite" in compare("digits", *images)
    shutil.rmtree(out)
    assert not compare("digits", *images)
    for source, options in (("sklearn:wine", table), ("mnist", images)):
        assert "holds a comparison on the data 'digits'" in compare(source, *options)
    (out / "summary.json").unlink()  # as of one that is not finished
    assert "holds a comparison on the data 'digits'" in compare("sklearn:wine", *table)


def test_the_same_comparison_of_a_table_file_goes_on_and_another_file_s_does_not(tmp_path):
    for name in ("t.csv", "u.csv"):
        write(frame(), tmp_path / name)
    words = ["--target", "size", "--heads", "linear,ridge", "--jobs", "1", "--seeds"]

    def compare(name: str, seeds: int) -> object:
        command = ["compare", str(tmp_path / name), *words, str(seeds), "--out"]
        return CliRunner().invoke(app, [*command, str(tmp_path / "out")]).exception

    assert compare("t.csv", 1) is None
    assert compare("t.csv", 2) is None
    assert "comparison on the table 't'" in str(compare("u.csv", 2))


def test_rows_without_a_target_are_left_out(tmp_path: Path) -> None:
    table = frame()
    table.loc[[1, 5], "weight"] = np.nan
    write(table, tmp_path / "t.csv")
    found = load_table(str(tmp_path / "t.csv"), "weight,size")
    gone = int(table[["weight", "size"]].isna().any(axis=1).sum())
    assert found.y.shape == (80 - gone, 2)
    assert found.notes[0] == f"{gone} rows without a target are left out."


def test_the_command_compares_a_file(tmp_path: Path) -> None:
    write(frame(), tmp_path / "t.csv")
    out = tmp_path / "out"
    options = ["--target", "kind", "--heads", "spinal,trees", "--seeds", "2", "--out", str(out)]
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "t.csv"), *options])
    assert done.exit_code == 0, done.output
    summary = json.loads((out / "summary.json").read_text())
    assert [row["head"] for row in summary["heads"]] == ["spinal", "trees"]
    assert summary["headline"] in " ".join(done.output.split())
    assert summary["environment"]["torch"]
    lines = (out / "scores.csv").read_text().splitlines()
    assert lines[0] == "unit,spinal,trees"
    assert len(lines) == 3
    assert (out / "scores.svg").stat().st_size > 1000
    assert (out / "report.html").stat().st_size > 10_000
    assert summary["schema"] == 3
    header, rows = short_rows(load_summary(out / "summary.json"))
    assert [row[0] for row in rows] == ["spinal", "trees", "baseline"]
    (score,) = [i for i, title in enumerate(header) if "mean ± std" in title]
    shown = [float(number) for number in rows[0][score].split(" ± ")]
    spinal = summary["heads"][0]
    assert shown == pytest.approx([100 * spinal["mean"], 100 * spinal["std"]], abs=0.05)


def test_the_theory_commands_write_figures(tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(
        app, ["theory", "approximate", "--seeds", "1", "--out", str(tmp_path / "a")]
    )
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "proof.png",
        "errors.png",
        "errors.json",
    }
    write(frame(), tmp_path / "t.csv")
    done = runner.invoke(
        app,
        ["theory", "sensitivity", str(tmp_path / "t.csv"), "--target", "kind", "--out",
         str(tmp_path / "s")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = (tmp_path / "s" / "sensitivity.csv").read_text().splitlines()
    assert rows[0] == "output,input,mean,std,mean_absolute"
    assert {row.split(",")[1] for row in rows[1:]} == {
        "size", "missing size", "weight", "colour_red", "colour_blue",
    }  # fmt: skip

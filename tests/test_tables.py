"""Tables from files, task detection, the paired statistics, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from spinalnet.comparison.table_summary import (
    ModelScore,
    TableComparison,
    load_table_summary,
    summarize_table,
    table_rows,
    write_results,
)
from typer.testing import CliRunner

from spinalnet._checks import InputError
from spinalnet.cli.root import app
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
    write(frame().assign(day=pd.date_range("2020", periods=80)), tmp_path / "day.parquet")
    cases = [
        (lambda: load_table(str(tmp_path / "day.parquet"), "kind"), "'day' has type datetime"),
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
@pytest.mark.parametrize(("infinite", "rows"), [([3], "1 row:"), ([3, 5, 7], "3 rows:")])
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

    table = ["--heads", "linear", "--seeds", "1"]
    images = [*table, "--limit", "60", "--epochs", "1", "--device", "cpu"]
    assert not compare("sklearn:wine", *table)
    assert not compare("sklearn:wine", *table)
    assert "comparison on the table 'sklearn:wine'" in compare("sklearn:iris", *table)
    assert "which one on the data 'digits' would overwrite" in compare("digits", *images)
    for path in out.iterdir():  # of files alone: nothing was trained
        path.unlink()
    assert not compare("digits", *images)
    for source, options in (("sklearn:wine", table), ("mnist", images)):
        assert "holds a comparison on the data 'digits'" in compare(source, *options)
    assert not compare("digits", *images)
    (out / "summary.json").unlink()  # as of one that is not finished
    assert "holds a comparison on the data 'digits'" in compare("sklearn:wine", *table)


def test_rows_without_a_target_are_left_out(tmp_path: Path) -> None:
    table = frame()
    table.loc[[1, 5], "weight"] = np.nan
    write(table, tmp_path / "t.csv")
    found = load_table(str(tmp_path / "t.csv"), "weight,size")
    gone = int(table[["weight", "size"]].isna().any(axis=1).sum())
    assert found.y.shape == (80 - gone, 2)
    assert found.notes[0] == f"{gone} rows without a target are left out."


def scored(task: str = "classification", **scores: list[float]) -> TableComparison:
    """Make a result of these scores, judged."""
    return summarize_table(
        TableComparison(
            "t", task, 80, 3, 1, "accuracy" if task == "classification" else "R²",
            len(next(iter(scores.values()))), 0.25, False, 0,
            tuple(ModelScore(name, tuple(values), None, 0.1, None)
                  for name, values in scores.items()),
            "", (), {},
        )
    )  # fmt: skip


def test_verdicts_are_corrected_for_their_number() -> None:
    spinal = [0.975, 0.96, 0.99, 0.98, 0.97]
    weak = [0.965, 0.954, 0.973, 0.972, 0.956]
    alone = scored(spinal=spinal, trees=weak).models[1].difference
    assert alone.outcome == "better"
    assert 0.025 < alone.p_value == alone.p_holm < 0.05
    several = scored(spinal=spinal, trees=weak, dense=spinal[::-1])
    together = several.models[1].difference
    assert together.p_value == alone.p_value
    assert together.p_holm == pytest.approx(2 * alone.p_value)
    assert together.outcome == "none"
    assert "spinal (0.975 ± 0.011) is not distinguishable from trees" in several.verdict


def test_what_no_test_can_judge_is_no_verdict() -> None:
    result = scored(
        spinal=[0.9, 0.8, 0.7], dense=[0.8, 0.7, 0.6], linear=[0.9, 0.8, 0.7], trees=[1.0, 0.9, 0.8]
    )
    assert {row.difference.outcome for row in result.models[1:]} == {"untested"}
    assert result.verdict.endswith(
        "is ahead of dense by the same in every split, which no test can judge; identical to "
        "linear in every split; behind trees by the same in every split, which no test can judge."
    )
    single = scored(spinal=[0.9], dense=[0.8])
    assert "single split: spinal ahead by 10.0 points" in single.models[1].difference.verdict
    assert single.verdict.endswith("is that of spinal: 0.900.")


def test_scores_that_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    nan = float("nan")
    result = scored(
        "regression", spinal=[0.5, 0.6, 0.55], dense=[0.4, nan, 0.48], trees=[nan, nan, nan]
    )
    _, dense, trees = result.models
    assert (dense.values, dense.mean) == ((0.4, None, 0.48), pytest.approx(0.44))
    assert dense.difference.n == 2
    assert (trees.mean, trees.difference.mean) == (None, None)
    assert "no split that both models finished" in trees.difference.verdict
    assert result.notes[0].startswith("1 of the scores of dense is not finite and left out")
    assert result.notes[1].startswith("3 of the scores of trees are not finite")
    write_results(result, tmp_path)
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert not {"NaN", "Infinity"} & set(re.findall(r"\w+", text))
    assert load_table_summary(tmp_path / "summary.json") == result
    assert (tmp_path / "scores.csv").read_text().splitlines()[2] == "1,0.600000,,"
    assert table_rows(result)[1][2][:5] == ["trees", "–", "–", "–", "–"]
    with pytest.raises(InputError, match="no model has a finite R² on t"):
        scored("regression", spinal=[nan, nan])


def test_results_from_before_the_version_are_judged_anew() -> None:
    results = Path(__file__).parents[1] / "results" / "tables"
    old = json.loads((results / "breast_cancer" / "summary.json").read_text(encoding="utf-8"))
    result = load_table_summary(results / "breast_cancer" / "summary.json")
    for row, before in zip(result.models, old["models"], strict=True):
        assert list(row.values) == before["scores"]
        assert (row.mean, row.std) == pytest.approx((before["mean"], before["std"]))
        if row.difference is not None:
            assert row.difference.p_value == pytest.approx(before["difference"]["p_value"])
    assert old["models"][3]["difference"]["verdict"] == "better"
    assert result.models[3].difference.outcome == "none"
    assert TableComparison.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_command_compares_a_file(tmp_path: Path) -> None:
    write(frame(), tmp_path / "t.csv")
    out = tmp_path / "out"
    options = ["--target", "kind", "--heads", "spinal,trees", "--seeds", "2", "--out", str(out)]
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "t.csv"), *options])
    assert done.exit_code == 0, done.output
    assert "the highest mean accuracy is that of" in done.output.replace("\n", " ")
    summary = json.loads((out / "summary.json").read_text())
    assert [row["model"] for row in summary["models"]] == ["spinal", "trees"]
    assert summary["rows"] == 80
    assert summary["environment"]["torch"]
    lines = (out / "scores.csv").read_text().splitlines()
    assert lines[0] == "seed,spinal,trees"
    assert len(lines) == 3
    assert (out / "scores.png").stat().st_size > 1000
    assert summary["schema"] == 3
    _, rows = table_rows(load_table_summary(out / "summary.json"))
    assert rows[0][0] == "spinal"
    assert rows[0][1].startswith(f"{summary['models'][0]['mean']:.3f} ± ")


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

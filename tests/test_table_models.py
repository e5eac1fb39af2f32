"""A table's model is a model: kept as data, used on other tables, explained, exported."""

from __future__ import annotations

import csv
import errno
import json
import math
import pickle
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import helpers
import spinalnet
from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison import Comparison, TableModel, TableSpec
from spinalnet.comparison.layered import LayeredEstimator
from spinalnet.comparison.packing import pack, unpack
from spinalnet.comparison.tables import store as table_store
from spinalnet.comparison.tables.columns import Column
from spinalnet.comparison.tables.forest import Forest, ForestEstimator
from spinalnet.comparison.tables.model import load_table_model
from spinalnet.comparison.tables.running import run_table
from spinalnet.comparison.tables.spec import training_of
from spinalnet.deploy import evaluate_run, predict_rows, write_table_predictions
from spinalnet.deploy.table_explain import explain_table_model
from spinalnet.training import runs

pd = pytest.importorskip("pandas")

KEPT = (
    *("spinal", "unchained", "unchained-matched", "matched", "mlp", "linear"),
    *("trees", "ridge", "sklearn-mlp"),
)
NETS = KEPT[:6]
# One of every way to a file, by every kind of answer; the others are slow.
EXPORTED = {(table, "spinal") for table in ("kinds", "plain", "grades", "two")}
EXPORTED |= {("kinds", head) for head in ("unchained", "linear", "trees", "ridge", "sklearn-mlp")}


def homes(rows: int = 160, seed: int = 0) -> Any:
    """Make a table with numbers, truth, categories, dates, text, an id, and holes in all."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"u{row:04}" for row in range(rows)],
            "size": rng.normal(60, 15, rows).round(1),
            "rooms": rng.integers(1, 6, rows),
            "garden": rng.random(rows) > 0.5,
            "city": rng.choice(["Berlin", "Paris", "Rome"], rows),
            "built": pd.date_range("1990-01-01", periods=rows, freq="31D").strftime("%Y-%m-%d"),
            "about": [
                f"{w} house number {k}" for k, w in enumerate(rng.choice(["old", "new"], rows))
            ],
        }
    )
    noise = rng.normal(0, 4, rows)
    frame["price"] = (
        frame["size"] * 3 + frame["rooms"] * 20 + 60 * (frame["city"] == "Paris") + noise
    ).round(2)
    frame["kind"] = np.where(frame["price"] > frame["price"].median(), "dear", "cheap")
    frame["grade"] = np.digitize(frame["price"], frame["price"].quantile([0.33, 0.66]))
    for column, step in (("size", 9), ("city", 11), ("built", 13), ("about", 17)):
        frame.loc[::step, column] = None
    return frame


PLAIN = ["size", "rooms", "garden", "city"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    frame = homes()
    frame[[*PLAIN, "price"]].to_csv(out / "plain.csv", index=False)
    frame[[*PLAIN, "kind"]].to_csv(out / "kinds.csv", index=False)
    frame[[*PLAIN, "grade"]].to_csv(out / "grades.csv", index=False)
    frame.drop(columns=["kind", "grade"]).to_csv(out / "all.csv", index=False)
    two = frame[[*PLAIN, "price"]].assign(tax=frame["price"] * 0.1 + frame["rooms"])
    two.to_csv(out / "two.csv", index=False)
    homes(40, seed=9)[["garden", "city", "about", "built", "rooms", "size", "id"]].to_csv(
        out / "new.csv", index=False
    )
    return out


ASKED = {"plain": "price", "kinds": "kind", "grades": "grade", "all": "price", "two": "price,tax"}


def trained(folder: Path, table: str, head: str, **more: Any) -> Path:
    """Return the folder of a short run, made once."""
    name = "-".join([table, head, *(f"{k}{v}" for k, v in more.items())])
    train = {"epochs": 8} if head in NETS else {}
    options = more or ({"max_iter": 20} if head == "trees" else {})
    spec = TableSpec(
        str(folder / f"{table}.csv"), ASKED[table], head=head, train=train, head_options=options
    )
    run_table(spec, folder / name)
    return folder / name


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# -- kept as data --


@pytest.mark.parametrize("head", KEPT)
@pytest.mark.parametrize("table", ["plain", "kinds", "grades", "two", "all"])
def test_a_model_out_of_its_folder_answers_as_it_did(folder: Path, table: str, head: str) -> None:
    run = trained(folder, table, head)
    record = runs.load_runs(run)[0]
    assert record.result is not None
    assert record.result["model_kept"], record.result["model_not_kept"]
    model = load_table_model(run)
    assert model.refitted is None
    found = evaluate_run(run)
    for name, value in record.result["test"].items():
        if name != "confusion":
            assert found.metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert found.metrics.get("confusion") == record.result["test"].get("confusion")
    # Its file alone is a model too, without the run, the table or the library it was fitted with.
    alone = load_table_model(run / "model.safetensors")
    new = pd.read_csv(folder / "new.csv")
    assert np.array_equal(alone.predict(new), model.predict(new))


def test_the_file_holds_no_code_and_none_is_run(folder: Path, monkeypatch) -> None:
    run = trained(folder, "kinds", "trees")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle is read")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    assert load_table_model(run).classes == ("cheap", "dear")
    header = json.loads((run / "model.safetensors").read_bytes()[8:][: _header_size(run)])
    about = json.loads(header["__metadata__"]["spinalnet"])
    assert (about["format"], about["head"], about["targets"]) == ("table", "trees", ["kind"])
    # A file that names another class is refused, whatever that class would do.
    said = json.dumps(about["arrays"]).replace("ForestEstimator", "Popen")
    with pytest.raises(InputError, match="damaged"):
        unpack(json.loads(said), {}, {"Forest": Forest})


def _header_size(run: Path) -> int:
    return int.from_bytes((run / "model.safetensors").read_bytes()[:8], "little")


def test_plain_values_come_back_as_they_were() -> None:
    value = {
        "numbers": [1, 2.5, float("nan"), -math.inf, None, True],
        "arrays": (np.arange(3, dtype=np.uint32), np.array([], dtype="datetime64[us]")),
        "words": np.array(["a", None, 3], dtype=object),
        1: {"nested": np.float32(0.5)},
        "tensor": torch.ones(2, dtype=torch.float32),
    }
    plain, tensors = pack(value, "x")
    back = unpack(json.loads(json.dumps(plain, allow_nan=False)), tensors)
    assert back.keys() == value.keys()
    assert back["numbers"][:2] == [1, 2.5]
    assert math.isnan(back["numbers"][2])
    assert back["numbers"][3:] == [-math.inf, None, True]
    assert isinstance(back["arrays"], tuple)
    for one, other in zip(back["arrays"], value["arrays"], strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    assert back["words"].tolist() == ["a", None, 3]
    assert back[1] == {"nested": 0.5}
    with pytest.raises(TypeError, match=r"x\.a\.0 is a object, which is no plain value"):
        pack({"a": [object()]}, "x")


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "log_loss"])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_forest_says_what_scikit_learn_says(loss: str, classes: int) -> None:
    from sklearn import ensemble

    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {
            "a": rng.normal(size=400),
            "c": pd.Categorical(rng.choice(list("xyzwvu"), 400)),
            "b": rng.normal(size=400),
        }
    )
    X.loc[::7, "a"] = np.nan
    X.loc[::5, "c"] = None
    y = ((X["a"].fillna(0) > 0.3) ^ X["c"].isin(["x", "w"])).astype(int)
    y = y + (X["b"] > 1) * (classes - 2)
    kind = "Classifier" if loss == "log_loss" else "Regressor"
    given = {} if loss == "log_loss" else {"loss": loss}
    theirs = getattr(ensemble, f"HistGradientBoosting{kind}")(
        max_iter=15, categorical_features="from_dtype", **given
    ).fit(X, y)
    forest = Forest.of(theirs, list(X.columns))
    new = X.sample(100, random_state=1).reset_index(drop=True)
    new.loc[:20, "b"] = np.nan  # it had no gaps in training
    new["c"] = new["c"].astype(object)
    new.loc[10:30, "c"] = "never seen"
    new["c"] = new["c"].astype("category")
    with warnings.catch_warnings():  # of unknown categories, where trees ask for one
        warnings.simplefilter("ignore")
        truth = theirs.predict_proba(new) if loss == "log_loss" else theirs.predict(new)[:, None]
    assert np.allclose(forest.answers(new), truth, rtol=1e-12, atol=1e-14)
    # It is not one answer for all rows, nor blind to the categories.
    assert len(np.unique(truth)) > 5
    assert not np.allclose(forest.answers(new.assign(c=new["c"].cat.codes * 0)), truth)


def test_what_cannot_be_kept_says_why_and_is_fitted_again(
    folder: Path, tmp_path: Path, monkeypatch
) -> None:
    def fails(*_: Any) -> Any:
        raise InputError("the trees of this version of scikit-learn cannot be read as numbers.")

    spec = TableSpec(str(folder / "plain.csv"), "price", head="trees", head_options={"max_iter": 5})
    with monkeypatch.context() as broken:
        broken.setattr(Forest, "of", fails)
        record = run_table(spec, tmp_path / "run")
    assert record.result is not None
    assert not record.result["model_kept"]
    assert "cannot be read as numbers" in record.result["model_not_kept"]
    told: list[str] = []
    rows = write_table_predictions(
        tmp_path / "run", folder / "new.csv", tmp_path / "p.csv", tell=told.append
    )
    assert rows == 40
    assert any("was fitted again to its training rows" in line for line in told)
    run_table(spec, tmp_path / "whole")
    write_table_predictions(tmp_path / "whole", folder / "new.csv", tmp_path / "q.csv")
    assert rows_in(tmp_path / "p.csv") == rows_in(tmp_path / "q.csv")
    with pytest.raises(InputError, match="does not hold its model"):
        load_table_model(tmp_path / "run" / "model.safetensors")
    (folder / "plain.csv").rename(folder / "moved.csv")
    try:
        with pytest.raises(InputError, match="does not exist"):
            load_table_model(tmp_path / "run")
        # What is kept needs its table no more.
        assert len(load_table_model(tmp_path / "whole").predict(homes(5))) == 5
    finally:
        (folder / "moved.csv").rename(folder / "plain.csv")


def test_a_model_that_answers_differently_is_not_kept(tmp_path: Path, monkeypatch) -> None:
    homes()[[*PLAIN, "price"]].to_csv(tmp_path / "t.csv", index=False)
    right = ForestEstimator.predict
    monkeypatch.setattr(ForestEstimator, "predict", lambda self, X: right(self, X) + 1e-3)
    spec = TableSpec(str(tmp_path / "t.csv"), "price", head="trees", head_options={"max_iter": 5})
    record = run_table(spec, tmp_path / "run")
    assert record.result is not None
    assert record.result["model_not_kept"] == "what was kept answers differently"


def test_an_earlier_run_whose_file_has_weights_alone_is_fitted_again(folder, tmp_path) -> None:
    run = trained(folder, "kinds", "mlp")
    new = pd.read_csv(folder / "new.csv")
    truth = load_table_model(run).predict_proba(new)
    kept, _ = runs.RunFolder(run).load_model()
    old = {
        name.removeprefix("module_."): value
        for name, value in kept.items()
        if name.startswith("module_.")
    }
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "result.json", "DONE"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    runs.RunFolder(tmp_path).save_model(old, {"table": "kinds", "head": "mlp"})
    model = load_table_model(tmp_path)
    assert model.refitted is not None
    assert np.array_equal(model.predict_proba(new), truth)


def test_an_ensemble_with_an_embedding_comes_back(folder: Path) -> None:
    run = trained(folder, "all", "spinal", ensemble_size=2, embedding="quantile+piecewise")
    model = load_table_model(run)
    new = pd.read_csv(folder / "new.csv")
    said, spread = model.estimator.predict(model.aligned(new), return_std=True)
    assert np.array_equal(said, model.predict(new))
    assert (spread > 0).all()


# -- used on another table --


def test_columns_may_lie_in_any_order_with_gaps_and_new_levels(folder, tmp_path) -> None:
    run = trained(folder, "all", "spinal")
    model = spinalnet.load(run)
    assert isinstance(model, TableModel)
    new = pd.read_csv(folder / "new.csv")
    truth = model.predict(new)
    assert np.array_equal(model.predict(new[sorted(new.columns)]), truth)
    told: list[str] = []
    more = new.assign(colour="red", price=1.0)
    ready = model.aligned(more, data="new", tell=told.append)
    assert list(ready.columns) == [column.name for column in model.about.columns]
    assert told == ["new: columns that the model does not know are ignored: colour."]
    for column in new.columns:
        empty = model.predict(new.assign(**{column: None}))
        assert np.isfinite(empty).all()
    strange = new.assign(city="Oslo")
    told.clear()
    assert np.isfinite(model.predict(strange)).all()
    model.aligned(strange, data="new", tell=told.append)
    assert told == [  # of text every value may be new
        "new: column 'city' has values that the model has never seen, 'Oslo': they count as "
        "unknown."
    ]
    # Truth and whole numbers may come as text, as a file with gaps gives them.
    assert np.array_equal(model.predict(new.assign(garden=new["garden"].astype(str))), truth)
    assert np.array_equal(model.predict(new.assign(rooms=new["rooms"].astype(float))), truth)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.drop(columns="size"), "lacks the column 'size', which the model takes"),
        (lambda f: f.rename(columns={"rooms": "room"}), r"'rooms'.*\(is it 'room'\?\)"),
        (lambda f: f[["city"]], "lacks the columns .*'size', 'rooms', 'garden'"),
        (lambda f: f.assign(size="n/k"), "'size' must hold numbers, got 'n/k' in row 1"),
        (lambda f: f.assign(rooms=np.inf), "'rooms' holds infinity"),
        (lambda f: f.assign(built="soon"), r"'built' must hold dates \(2026-01-31\), got 'soon'"),
    ],
)
def test_what_cannot_be_predicted_is_named_before_anything_is_written(
    folder: Path, tmp_path: Path, change: Any, sentence: str
) -> None:
    run = trained(folder, "all", "spinal")
    change(pd.read_csv(folder / "new.csv")).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(InputError, match=sentence):
        write_table_predictions(run, tmp_path / "new.csv", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_times_with_offsets_are_the_same_hour_in_every_way_to_predict(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    hours, days = rng.integers(0, 24, 200), rng.integers(1, 29, 200)
    at = [f"2020-03-{d:02}T{h:02}:00:00+05:00" for d, h in zip(days, hours, strict=True)]
    frame = pd.DataFrame({"at": at, "x": rng.normal(size=200)})
    frame.assign(y=hours + frame["x"]).to_csv(tmp_path / "a.csv", index=False)
    run_table(TableSpec(str(tmp_path / "a.csv"), "y", head="trees"), tmp_path / "run")
    model = load_table_model(tmp_path / "run")
    typed = frame.assign(at=pd.to_datetime(frame["at"]))
    typed.to_parquet(tmp_path / "b.parquet")
    notes: list[str] = []
    said = [model.predict(one) for one in (frame, typed)]
    for name in ("a.csv", "b.parquet"):
        out = tmp_path / "said.csv"
        write_table_predictions(model, tmp_path / name, out, tell=notes.append)
        said.append(np.array([float(row["prediction"]) for row in rows_in(out)]))
    assert all(np.allclose(one, said[0], rtol=1e-9) for one in said)
    assert np.corrcoef(said[0], hours)[0, 1] > 0.9
    assert sum("'at' have offsets: they are read as UTC" in note for note in notes) == 2


def test_the_order_of_day_and_month_is_that_of_the_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    days, months = rng.integers(1, 29, 200), rng.integers(1, 13, 200)
    when = [f"{d}/{m}/2020" for d, m in zip(days, months, strict=True)]
    frame = pd.DataFrame({"when": when, "x": rng.normal(size=200)})
    frame["y"] = months + frame["x"]
    frame.to_csv(tmp_path / "a.csv", index=False)
    run_table(TableSpec(str(tmp_path / "a.csv"), "y", head="ridge"), tmp_path / "run")
    model = load_table_model(tmp_path / "run")
    every = model.predict(frame)
    doubtful = days <= 12  # nothing in these rows alone says what comes first
    part = frame[doubtful].reset_index(drop=True)
    part.to_csv(tmp_path / "b.csv", index=False)
    assert np.allclose(model.predict(part), every[doubtful])
    write_table_predictions(model, tmp_path / "b.csv", tmp_path / "said.csv")
    said = [float(row["prediction"]) for row in rows_in(tmp_path / "said.csv")]
    assert np.allclose(said, every[doubtful])
    assert evaluate_run(tmp_path / "run", tmp_path / "b.csv").metrics["r2"] > 0.9
    part.loc[4, "when"] = "1/17/2020"
    part.to_csv(tmp_path / "c.csv", index=False)
    for ask in (
        lambda: model.predict(part),
        lambda: write_table_predictions(model, tmp_path / "c.csv", tmp_path / "no.csv"),
    ):
        with pytest.raises(InputError, match=r"with the day first.*got '1/17/2020' in row 5"):
            ask()
    # What an earlier version kept says nothing of it, and is read as before.
    held = [column.to_dict() for column in model.about.columns]
    assert [one.pop("order", None) for one in held] == ["day", None]
    old = replace(model.about, columns=tuple(map(Column.from_dict, held)))
    earlier = replace(model, about=old)
    write_table_predictions(earlier, tmp_path / "a.csv", tmp_path / "said.csv")
    said = [float(row["prediction"]) for row in rows_in(tmp_path / "said.csv")]
    assert np.allclose(said, every)
    with pytest.raises(InputError, match=r"must hold dates \(2026-01-31\), got"):
        earlier.predict(frame)


def test_predictions_of_classes_are_written_with_their_probabilities(folder, tmp_path) -> None:
    run = trained(folder, "grades", "mlp")
    model = load_table_model(run)
    new = pd.read_csv(folder / "new.csv")
    truth = model.predict_proba(new)
    done = write_table_predictions(
        run, folder / "new.csv", tmp_path / "p.csv", top_k=2, keep=["id", "built"]
    )
    assert done == 40
    rows = rows_in(tmp_path / "p.csv")
    assert list(rows[0]) == [
        *("row", "id", "built", "prediction", "probability", "prediction_2", "probability_2"),
        *("p_0", "p_1", "p_2"),
    ]
    assert [row["id"] for row in rows] == new["id"].tolist()
    assert rows[0]["built"] == ""  # a gap stays one
    assert rows[3]["row"] == "4"
    for row, p in zip(rows, truth, strict=True):
        assert row["prediction"] == str(p.argmax())
        assert float(row["probability"]) == pytest.approx(p.max(), abs=1e-6)
        assert float(row["probability_2"]) == pytest.approx(np.sort(p)[-2], abs=1e-6)
        assert [float(row[f"p_{k}"]) for k in range(3)] == pytest.approx(p.tolist(), abs=1e-6)
    write_table_predictions(run, folder / "new.csv", tmp_path / "p.jsonl", top_k=2, keep=["id"])
    first = json.loads((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["row"], first["id"], first["prediction"]) == (1, "u0000", rows[0]["prediction"])
    assert first["probabilities"]["1"] == pytest.approx(truth[0, 1], abs=1e-6)
    assert [name for name, _ in first["top"]] == [rows[0]["prediction"], rows[0]["prediction_2"]]
    with pytest.raises(InputError, match=r"unknown column of .*'idd'; did you mean 'id'"):
        write_table_predictions(run, folder / "new.csv", tmp_path / "x.csv", keep=["idd"])


def test_predictions_of_values_are_in_the_units_of_the_target(folder, tmp_path) -> None:
    run = trained(folder, "two", "trees")
    write_table_predictions(run, folder / "new.csv", tmp_path / "p.csv")
    rows = rows_in(tmp_path / "p.csv")
    assert list(rows[0]) == ["row", "prediction_price", "prediction_tax"]
    truth = homes(40, seed=9)["price"]
    said = np.array([float(row["prediction_price"]) for row in rows])
    assert np.corrcoef(said, truth)[0, 1] > 0.8
    assert abs(said.mean() - truth.mean()) < truth.std()
    with pytest.raises(InputError, match="a regression predicts values"):
        write_table_predictions(run, folder / "new.csv", tmp_path / "q.csv", top_k=2)


def test_rows_are_the_same_in_parts_as_together(folder, monkeypatch) -> None:
    model = load_table_model(trained(folder, "kinds", "spinal"))
    new = pd.read_csv(folder / "new.csv")
    whole = list(predict_rows(model, new))
    monkeypatch.setattr("spinalnet.deploy.tables._AT_ONCE", 7)
    parts = list(predict_rows(model, new))
    for one, other in zip(parts, whole, strict=True):  # a sum may differ in its last bit
        assert one.row == other.row
        assert one.probabilities == pytest.approx(other.probabilities, rel=1e-12)
    assert [row.row for row in whole] == list(range(1, 41))


def test_evaluate_scores_another_table_and_tells_what_it_leaves_out(folder, tmp_path) -> None:
    run = trained(folder, "grades", "trees")
    other = homes(50, seed=3)
    other["grade"] = other["grade"].astype(float)  # as a column of whole numbers with a gap comes
    other.loc[3, "grade"] = None
    other.to_csv(tmp_path / "other.csv", index=False)
    told: list[str] = []
    found = evaluate_run(run, str(tmp_path / "other.csv"), tell=told.append)
    kept = homes(50, seed=3).drop(index=3)
    said = load_table_model(run).predict(pd.read_csv(tmp_path / "other.csv").drop(index=3))
    assert found.metrics["n"] == 49
    assert found.metrics["accuracy"] == pytest.approx((said == kept["grade"]).mean())
    assert sum(score.support for score in found.classes.values()) == 49
    assert "other.csv: 1 rows without a target are left out." in told
    other.assign(grade=7).to_csv(tmp_path / "seven.csv", index=False)
    with pytest.raises(InputError, match="the target holds '7', but the model knows 0, 1, 2"):
        evaluate_run(run, str(tmp_path / "seven.csv"))
    other.drop(columns="grade").to_csv(tmp_path / "without.csv", index=False)
    with pytest.raises(InputError, match=r"unknown column of without\.csv \(the target\) 'grade'"):
        evaluate_run(run, str(tmp_path / "without.csv"))


def test_a_table_that_has_changed_has_no_test_rows(folder, tmp_path) -> None:
    table = tmp_path / "t.csv"
    frame = homes()[[*PLAIN, "price"]]
    frame.to_csv(table, index=False)
    run_table(TableSpec(str(table), "price", head="ridge"), tmp_path / "run")
    frame.assign(rooms=frame["rooms"] + 1).to_csv(table, index=False)
    with pytest.raises(InputError, match="has changed since the training"):
        evaluate_run(tmp_path / "run")


def test_a_comparison_stands_for_its_best_run(folder, tmp_path) -> None:
    out = tmp_path / "c"
    found = spinalnet.compare(
        str(folder / "plain.csv"), "trees,ridge", seeds=2, target="price", out=out
    )
    assert found.best_run() == out / "runs" / "ridge-split0-seed0"  # prices are linear in all
    best = found.best()
    assert isinstance(best, TableModel)
    new = pd.read_csv(folder / "new.csv")
    told: list[str] = []
    write_table_predictions(out, folder / "new.csv", tmp_path / "p.csv", tell=told.append)
    said = [float(row["prediction"]) for row in rows_in(tmp_path / "p.csv")]
    assert said == pytest.approx(best.predict(new).tolist(), rel=1e-9)
    assert told[0].endswith("the run used is ridge-split0-seed0 (best mean on its test parts).")
    assert evaluate_run(out).metrics["r2"] == pytest.approx(
        Comparison.load(out).scores()["ridge"].iloc[0], rel=1e-6
    )


def test_a_model_of_an_array_takes_columns_in_their_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run_table(TableSpec("sklearn:iris", head="trees", head_options={"max_iter": 5}), tmp_path / "a")
    run_table(TableSpec("sklearn:iris", head="spinal", train={"epochs": 3}), tmp_path / "b")
    X = rng.normal(3, 1, (6, 4))
    for name in ("a", "b"):
        model = load_table_model(tmp_path / name)
        truth = model.predict_proba(X)
        assert np.array_equal(model.predict_proba(pd.DataFrame(X, columns=list("abcd"))), truth)
        with pytest.raises(InputError, match="must have 4 columns"):
            model.predict(X[:, :3])
        with pytest.raises(InputError, match=r"column 'b' .* has no value in row 2"):
            model.predict(pd.DataFrame(X, columns=list("abcd")).mask(np.eye(6, 4) == 1).iloc[:2, :]
                          .fillna({"a": 0.0}))  # fmt: skip


# -- explained --


def test_an_explanation_is_in_the_units_of_target_and_column(folder, tmp_path) -> None:
    frame = pd.DataFrame({"x": np.linspace(0, 10, 200), "z": np.tile([0.0, 5.0], 100)})
    frame["u"] = np.random.default_rng(0).normal(size=200)
    frame["y"] = 1000 + 30 * frame["x"] - 8 * frame["z"]
    frame.to_csv(tmp_path / "line.csv", index=False)
    spec = TableSpec(str(tmp_path / "line.csv"), "y", head="linear", train={"epochs": 300})
    run_table(spec, tmp_path / "run")
    found = explain_table_model(tmp_path / "run", tmp_path / "out", exchanges=20)
    by_name = {effect.column: effect for effect in found.effects}
    assert [effect.column for effect in found.effects] == ["x", "z", "u"]
    assert by_name["x"].slope == pytest.approx(30, rel=0.02)
    assert by_name["z"].slope == pytest.approx(-8, rel=0.02)
    assert abs(by_name["u"].slope or 0.0) < 0.3
    # Of two rows drawn at random |x - x'| is a third of the range, on average.
    assert by_name["x"].effect == pytest.approx(30 * 10 / 3, rel=0.1)
    assert by_name["z"].effect == pytest.approx(8 * 5 / 2, rel=0.15)
    assert found.unit == "units of the target"
    lines = (tmp_path / "out" / "effects.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("output,column,kind,effect,error,slope,slope_std")
    assert (tmp_path / "out" / "effects.png").stat().st_size > 1000


def test_trees_and_classes_have_effects_of_columns_and_no_slopes(folder: Path) -> None:
    found = explain_table_model(trained(folder, "kinds", "trees"))
    assert {effect.output for effect in found.effects} == {"dear"}
    assert {effect.column for effect in found.effects} == set(PLAIN)
    assert all(effect.slope is None for effect in found.effects)
    assert found.effects[0].column == "size"
    assert all(0 <= effect.effect <= 1 for effect in found.effects)
    grades = explain_table_model(trained(folder, "grades", "mlp"))
    assert {effect.output for effect in grades.effects} == {"0", "1", "2"}
    slopes: dict[str, float] = {}
    for effect in grades.effects:
        if effect.slope is not None:
            slopes[effect.column] = slopes.get(effect.column, 0.0) + effect.slope
    assert slopes.keys() == {"size", "rooms", "garden"}
    assert all(abs(total) < 1e-9 for total in slopes.values())  # probabilities add up to 1


# -- exported --


def session_of(path: Path) -> Any:
    ort = pytest.importorskip("onnxruntime")
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("table", "head"),
    [
        pytest.param(table, head, marks=() if (table, head) in EXPORTED else pytest.mark.slow)
        for table in ("kinds", "plain", "grades", "two")
        for head in KEPT
    ],
)
def test_an_exported_model_takes_columns_as_they_are(
    folder: Path, tmp_path: Path, table: str, head: str
) -> None:
    load_onnx = pytest.importorskip("onnx").load
    from spinalnet.deploy.table_export import export_table

    run = trained(folder, table, head)
    told: list[str] = []
    done = export_table(run, tmp_path / "m.onnx", tell=told.append)
    assert done.inputs == {"size": "number", "rooms": "number", "garden": "number", "city": "text"}
    assert told == []
    assert done.largest_difference < 1e-4
    names = [node.name for node in load_onnx(tmp_path / "m.onnx").graph.node]
    assert all(names)  # ONNX Runtime 1.20 calls what it fuses after them
    assert len(set(names)) == len(names)
    new = homes(30, seed=4)[PLAIN]
    new.loc[2:5, "city"] = "Oslo"
    feeds = {name: new[[name]].to_numpy(dtype=np.float64) for name in ("size", "rooms", "garden")}
    feeds["city"] = new[["city"]].astype(object).where(new[["city"]].notna(), "").to_numpy(object)
    said = session_of(tmp_path / "m.onnx").run(None, feeds)
    model = load_table_model(run)
    if model.task == "regression":
        assert done.outputs == ("values",)
        assert np.allclose(said[0], model.predict(new).reshape(30, -1), rtol=1e-4)
        return
    assert done.outputs == ("label", "probabilities")
    assert np.allclose(said[1], model.predict_proba(new), atol=1e-5)
    labels, truth = np.array(said[0]), model.predict(new)
    assert labels.dtype.kind == ("i" if table == "grades" else "O")
    sure = np.sort(said[1], axis=1)[:, -1] > 0.51
    assert (labels == truth)[sure].all()


@pytest.mark.parametrize("table", ["plain", pytest.param("two", marks=pytest.mark.slow)])
def test_a_net_that_float32_cannot_follow_is_written_in_float64(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    pytest.importorskip("onnx")
    from spinalnet.deploy import table_export

    run = trained(folder, table, "mlp")
    assert table_export.export_table(run, tmp_path / "m.onnx").precision == "float32"
    monkeypatch.setattr(table_export, "TOLERANCE", 1e-12)
    done = table_export.export_table(run, tmp_path / "m.onnx")
    assert done.precision == "float64"
    assert done.largest_difference < 1e-12


def test_dates_and_text_come_as_numbers_and_the_command_says_so(folder, tmp_path) -> None:
    pytest.importorskip("onnx")
    from spinalnet.deploy.table_export import export_table, onnx_inputs

    run = trained(folder, "all", "spinal")
    told: list[str] = []
    done = export_table(run, tmp_path / "m.onnx", tell=told.append)
    assert done.outside["built"] == "date"
    assert "text" in done.outside.values()
    assert any("'built'" in line and "a date comes as its parts" in line for line in told)
    assert {"built elapsed", "built month"} <= done.inputs.keys()
    about = session_of(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["encoded_outside"]) == done.outside
    assert json.loads(about["inputs"]) == done.inputs
    new = pd.read_csv(folder / "new.csv")
    feeds = onnx_inputs(run, new)
    days = (pd.to_datetime(new["built"]) - pd.Timestamp("1970-01-01")).dt.days
    assert np.array_equal(feeds["built elapsed"][:, 0], days, equal_nan=True)
    assert feeds["id text"].shape == (40, 30)
    said = session_of(tmp_path / "m.onnx").run(None, feeds)[0]
    assert np.allclose(said[:, 0], load_table_model(run).predict(new), rtol=1e-4)
    # Trees see the same columns, one number at a time.
    trees = export_table(trained(folder, "all", "trees"), tmp_path / "t.onnx")
    assert trees.inputs == done.inputs


XS = np.linspace(-1.0, 1.0, 120)


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (1e-8, 0.0),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [(1.0, 1e9), (1e3, 0.0)]),
    ],
)
def test_the_check_of_a_file_is_in_the_spread_of_the_target(
    tmp_path, monkeypatch, size: float, offset: float, wrong: bool
) -> None:
    pytest.importorskip("onnx")
    from spinalnet.deploy import table_export

    frame = pd.DataFrame({"x": XS, "y": offset + size * (XS + np.sin(9 * XS))})
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = tmp_path / "run"
    run_table(TableSpec(str(tmp_path / "t.csv"), "y", head="mlp", train={"epochs": 5}), run)
    if wrong:  # by a hundredth of the spread
        right = table_export._in_units
        monkeypatch.setattr(
            table_export,
            "_in_units",
            lambda graph, said, center, scale: right(graph, said, center + 0.01 * scale, scale),
        )
        with pytest.raises(spinalnet.SpinalnetError, match=r"by 1\.0e-02 of the target's standard"):
            table_export.export_table(run, tmp_path / "m.onnx")
        return
    done = table_export.export_table(run, tmp_path / "m.onnx")
    said = session_of(tmp_path / "m.onnx").run(None, {"x": frame[["x"]].to_numpy()})[0]
    truth = load_table_model(run).predict(frame)
    spread = frame["y"].std()
    assert np.abs(said[:, 0] - truth).max() < max(1e-4 * spread, 1e-6 * (offset > 0))
    assert done.largest_difference < 1e-4


def test_a_file_of_classes_answers_far_outside_as_the_model_does(tmp_path) -> None:
    pytest.importorskip("onnx")
    from spinalnet.deploy.table_export import export_table

    kinds = np.digitize(XS, [-0.3, 0.3])
    pd.DataFrame({"x": XS, "kind": kinds}).to_csv(tmp_path / "t.csv", index=False)
    spec = TableSpec(str(tmp_path / "t.csv"), "kind", task="classification", head="linear")
    run_table(replace(spec, train={"epochs": 30}), tmp_path / "run")
    assert export_table(tmp_path / "run", tmp_path / "m.onnx").precision == "float32"
    far = pd.DataFrame({"x": [1e30, -1e39, 1e300, -1e300]})
    said = session_of(tmp_path / "m.onnx").run(None, {"x": far.to_numpy()})[1]
    truth = load_table_model(tmp_path / "run").predict_proba(far)
    assert np.isfinite(truth).all()
    assert np.allclose(said, truth)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_kept_column_is_not_called_as_what_is_written(folder, tmp_path, form: str) -> None:
    run = trained(folder, "kinds", "ridge")
    new = pd.read_csv(folder / "new.csv").assign(prediction=1, row=2, p_dear=3, top=4)
    new.to_csv(tmp_path / "new.csv", index=False)
    out: dict[str, Any] = {"out": tmp_path / f"p.{form}"}
    for name in ("prediction", "row", "p_dear" if form == "csv" else "top"):
        with pytest.raises(InputError, match=f"got '{name}', the name of .*: rename it"):
            write_table_predictions(run, tmp_path / "new.csv", **out, keep=[name], top_k=2)
    with pytest.raises(InputError, match="every column once, got 'id' twice"):
        write_table_predictions(run, tmp_path / "new.csv", **out, keep=["id", "id"])
    assert not out["out"].exists()
    free = "top" if form == "csv" else "p_dear"
    assert write_table_predictions(run, tmp_path / "new.csv", **out, keep=["id", free]) == 40


@pytest.mark.parametrize("head", ["ridge", "trees"])
def test_a_part_of_a_column_is_not_taken_for_a_column_of_its_name(tmp_path, head: str) -> None:
    pytest.importorskip("onnx")
    from spinalnet.deploy.table_export import export_table, onnx_inputs

    rng = np.random.default_rng(0)
    when = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, 120), unit="D")
    frame = pd.DataFrame(
        {
            "when": when,
            "when month": rng.normal(size=120),
            "about": [
                f"house {k} by the {w}" for k, w in enumerate(rng.choice(["sea", "rail"], 120))
            ],
            "about text": rng.choice(["a", "b"], 120),
        }
    )
    frame["y"] = frame["when month"] + when.month + 3 * (frame["about text"] == "a")
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"max_iter": 10} if head == "trees" else {}
    run = tmp_path / "run"
    run_table(TableSpec(str(tmp_path / "t.csv"), "y", head=head, head_options=options), run)
    done = export_table(run, tmp_path / "m.onnx")
    assert {"when month", "when month (date)", "when day"} <= done.inputs.keys()
    assert done.inputs["about text"] == "text"
    assert done.inputs["about text (text)"] == "numbers"
    feeds = onnx_inputs(run, frame)
    assert np.array_equal(feeds["when month"][:, 0], frame["when month"])
    assert np.array_equal(feeds["when month (date)"][:, 0], when.month)
    said = session_of(tmp_path / "m.onnx").run(None, feeds)[0]
    assert np.allclose(said[:, 0], load_table_model(run).predict(frame), rtol=1e-6)


def test_a_file_that_would_answer_differently_is_not_written(folder, tmp_path, monkeypatch) -> None:
    pytest.importorskip("onnx")
    from spinalnet.deploy import table_export

    model = load_table_model(trained(folder, "plain", "ridge"))
    assert isinstance(model.estimator, LayeredEstimator)
    wrong = replace(model.estimator, biases=tuple(b + 0.1 for b in model.estimator.biases))
    answers = table_export._answers

    def other(graph: Any, asked: Any, *rest: Any) -> str:
        return answers(graph, replace(asked, estimator=wrong), *rest)

    monkeypatch.setattr(table_export, "_answers", other)
    with pytest.raises(spinalnet.SpinalnetError, match="nothing was written"):
        table_export.export_table(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


# -- three commands --


def command(*arguments: object, cwd: Path, code: int = 0) -> str:
    done = helpers.command(*arguments, cwd=cwd)
    assert done.returncode == code, done.stderr
    return done.stdout + " ".join(done.stderr.split())


def test_three_commands_from_a_table_to_predictions(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "homes.csv").write_bytes((folder / "all.csv").read_bytes())
    (tmp_path / "new.csv").write_bytes((folder / "new.csv").read_bytes())
    quick = ("--heads", "spinal,trees:max_iter=10", "--seeds", 2)
    said = command("compare", "homes.csv", "--target", "price", *quick, cwd=tmp_path)
    assert "spinal" in said
    said = command("train", "homes.csv", "--target", "price", "--out", "run", cwd=tmp_path)
    assert "Run folder: run" in said
    said = command("predict", "run", "new.csv", "--out", "p.csv", "--keep", "id", cwd=tmp_path)
    assert "40 predictions: p.csv" in said
    rows = rows_in(tmp_path / "p.csv")
    truth = homes(40, seed=9)["price"]
    assert [row["id"] for row in rows] == [f"u{k:04}" for k in range(40)]
    assert np.corrcoef([float(row["prediction"]) for row in rows], truth)[0, 1] > 0.7
    said = command("train", "homes.csv", "--target", "price", "--out", "run", cwd=tmp_path)
    assert "run is already done; nothing to train" in said
    said = command("predict", "runs/compare-homes", "new.csv", "--format", "jsonl", cwd=tmp_path)
    assert len([line for line in said.splitlines() if line.startswith('{"row"')]) == 40
    assert "is a comparison; the run used is" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "train plain.csv --target price --image-size 8",
            "--image-size has no meaning for a table",
        ),
        ("train plain.csv --target price --amp bf16", "--amp has no meaning on a table"),
        ("train plain.csv --target price --head trees --lr 0.1", "--lr has no meaning for 'trees'"),
        ("train digits --target price", "--target has no meaning for 'digits', which is no table"),
        ("train plain.csv", "name the column to predict: --target COLUMN"),
        ("predict RUN new.csv --batch-size 3", "--batch-size has no meaning for the model of a"),
        ("predict RUN new.csv new.csv", "predicts one table at a time, got 2 paths"),
        ("predict RUN none.csv", "does not exist"),
        ("export RUN m.pt2", "the model of a table is written as .onnx"),
        ("export RUN m.onnx --inputs float", "--inputs has no meaning for the model of a table"),
        ("evaluate RUN --device cpu", "has no meaning for a table"),
        ("theory explain RUN", "holds the model of a table"),
    ],
)
def test_what_has_no_meaning_is_refused_in_a_sentence(
    folder: Path, arguments: str, sentence: str
) -> None:
    run = trained(folder, "plain", "ridge")
    words = [str(run) if word == "RUN" else word for word in arguments.split()]
    assert sentence in command(*words, cwd=folder, code=2)
    assert not (folder / "runs").exists()


def test_options_of_training_mean_the_same_on_a_table() -> None:
    given = {"epochs": 7, "lr": 0.1, "early_stopping": 5, "class_weights": "balanced", "seed": 3}
    assert training_of(given, "mlp") == {
        "train": {"epochs": 7, "lr": 0.1, "early_stopping": True, "n_iter_no_change": 5},
        "seed": 3,
        "head_options": {"class_weight": "balanced"},
    }
    assert training_of({"early_stopping": 0}, "mlp")["train"] == {"early_stopping": False}
    assert training_of({"seed": 2}, "trees") == {"train": {}, "seed": 2}


def test_a_model_is_written_once_and_read_as_text(folder: Path) -> None:
    """The description of a model can be read by anyone, without this package."""
    from safetensors import safe_open

    run = trained(folder, "kinds", "spinal")
    with safe_open(run / "model.safetensors", framework="np") as file:
        about = json.loads(file.metadata()["spinalnet"])
        names = set(file.keys())
    assert [column["name"] for column in about["columns"]] == PLAIN
    assert about["columns"][3]["levels"] == ["Berlin", "Paris", "Rome"]
    assert any(name.startswith("module_.") for name in names)
    assert {"encoder_.mean", "encoder_.scale"} <= names
    assert table_store.is_table_model(about)


def test_a_full_disk_leaves_no_finished_run_without_its_model(tmp_path: Path, monkeypatch) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    save = files.save_weights

    def once(path: Path, *rest: Any) -> None:
        if path.name != table_store.MODEL_FILE:
            return save(path, *rest)
        monkeypatch.setattr(files, "save_weights", save)
        raise files.not_written(Path(path), full, 200_000) from full

    monkeypatch.setattr(files, "save_weights", once)
    spec = TableSpec("sklearn:iris", head="linear")
    with pytest.raises(InputError, match=r"No space left on device, 200,000 bytes needed"):
        run_table(spec, tmp_path / "run")
    assert not runs.is_done(tmp_path / "run")
    record = run_table(spec, tmp_path / "run")
    assert record.result is not None
    assert record.result["model_kept"]

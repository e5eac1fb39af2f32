"""Runs on tables: every head leaves a folder, has its model again, and cheats on nobody."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers import without_digests
from spinalnet._checks import InputError, TrainingError
from spinalnet.cli import root
from spinalnet.comparison import spaces
from spinalnet.comparison.metrics import find_metric
from spinalnet.comparison.outputs import OUTPUTS_FILE, Outputs, load_outputs
from spinalnet.comparison.question import ComparisonSpec
from spinalnet.comparison.spec import Unit
from spinalnet.comparison.tables import rows as table_rows
from spinalnet.comparison.tables import running as table_running
from spinalnet.comparison.tables import tuning as table_tuning
from spinalnet.comparison.tables.heads import TABLE_MODELS, make_estimator, option_names
from spinalnet.comparison.tables.model import load_table_model
from spinalnet.comparison.tables.rows import rows_of
from spinalnet.comparison.tables.running import check_specs, refit, run_table
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data import Resample, Table, draw_parts
from spinalnet.deploy import verify
from spinalnet.deploy.evaluation import evaluate_table
from spinalnet.deploy.tables import predict_rows
from spinalnet.tabular import ControlClassifier, ControlRegressor, SpinalClassifier, SpinalRegressor
from spinalnet.training import Progress, runs, stopping

pd = pytest.importorskip("pandas")

NETS = tuple(head for head, row in TABLE_MODELS.items() if row.kind)
HEADS = (*NETS, "ridge", "sklearn-mlp", "trees")  # other libraries need not be installed
SHORT = {"epochs": 5}


def flowers(rows: int = 60, *, classes: int = 3, seed: int = 0) -> Table:
    """Make a table with numbers, categories and holes, whose classes can be told apart."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(rows) < 0.1, np.nan, y + rng.normal(0, 0.4, rows)),
            "shape": rng.normal(size=rows),
            "colour": np.where(rng.random(rows) < 0.3, "grey", np.array(list("rgb"))[y % 3]),
            "garden": [f"g{row // 5}" for row in range(rows)],
            "day": pd.date_range("2026-01-01", periods=rows),
        }
    )
    return Table("flowers", frame, y, "classification")


def prices(rows: int = 60, outputs: int = 1) -> Table:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(rows, 4))
    y = X[:, :2] @ np.array([[1.0, 2.0], [0.5, -1.0]]) + rng.normal(0, 0.1, (rows, 2))
    return Table("prices", X, y if outputs == 2 else y[:, 0], "regression")


def spec(table: Table, **asked: Any) -> TableSpec:
    """Ask for a short run; columns that only divide the rows are left out where they do not."""
    asked = {"train": SHORT} | asked
    if isinstance(table.X, pd.DataFrame):
        used = {asked.get("group"), asked.get("time"), *(["garden"] if "group" in asked else [])}
        unused = [name for name in ("garden", "day") if name in table.X and name not in used]
        table = replace(table, X=table.X.drop(columns=unused))
    return TableSpec(table.name, frame=table, **asked)


def bits(folder: Path) -> dict[str, bytes]:
    """Return what a run found, without its times."""
    names = [OUTPUTS_FILE, "model.safetensors", "config.yaml"]
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    del result["train_seconds"]
    result.pop("tune_seconds", None)
    return found | {"result": json.dumps(result).encode()}


def kept_of(row: Mapping[str, Any]) -> list[str]:
    """Return what of a told epoch is written down: not what only a bar needs, nor what is None."""
    of_bars = ("nets", "epochs", "is_last")
    return [name for name, value in row.items() if name not in of_bars and value is not None]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("table", [flowers(), prices(), prices(outputs=2)], ids=["3", "1", "2"])
def test_every_head_leaves_a_folder_and_has_its_model_again(
    head: str, table: Table, tmp_path: Path
) -> None:
    asked = spec(table, head=head, seed=3, resample=Resample("fold", 1, 4))
    told = []
    record = run_table(asked, tmp_path / "run", on_progress=lambda *what: told.append(what))
    assert record.done
    assert all(one == asked for one, _ in told)
    assert {(step.epoch, step.epochs) for _, step in told} == {(1, 1)}
    is_net = head in NETS
    rows = [step.row for _, step in told if step.row is not None]
    assert told[-1][1].row is None  # the fit, after the epochs of its nets
    assert len(rows) == len(told) - 1
    assert bool(rows) == is_net
    assert [row["epoch"] for row in rows] == [*range(1, len(rows) + 1)]
    assert sum(row["is_last"] for row in rows) == (rows[0]["nets"] if rows else 0)
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert kept == {
        *("config.yaml", "environment.json", "result.json", OUTPUTS_FILE, "DONE"),
        "model.safetensors",
        *(["metrics.jsonl"] if is_net else []),
    }
    # What was told of an epoch is written down, in the columns that a run on images has too.
    assert record.metrics == [{name: row[name] for name in kept_of(row)} for row in rows]
    assert record.result.get("epochs_run") == (len(rows) or None)
    if is_net:
        columns = {"epoch", "lr", "train_loss", "seconds", "net", "epoch_of_net"}
        assert columns <= set(record.metrics[0])
    assert TableSpec.from_dict(record.config) == replace(asked, frame=None)
    assert record.environment["scikit-learn"]
    result = record.result
    assert result["unit"] == {
        "seed": 3,
        "resample": {"kind": "fold", "index": 1, "count": 4, "repeat": 0, "fraction": 0.25},
        "name": "r0f1-seed3",
    }
    assert (result["head"], result["label"], result["data"]) == (head, head, table.name)
    assert (result["rows"], result["train_size"], result["test"]["n"]) == (60, 45, 15)
    assert (result["params"] is not None) == (result["macs"] is not None) == is_net

    rows = rows_of(asked)
    outputs = load_outputs(tmp_path / "run" / OUTPUTS_FILE)
    assert outputs.rows.tolist() == rows.test.tolist()
    assert not set(rows.test) & set(rows.train)
    again = refit(tmp_path / "run", asked.frame)
    X, y = rows.features(rows.test), np.asarray(rows.targets(rows.test))
    if table.task == "classification":
        assert (again.predict(X) == outputs.predicted.numpy()).all()
        assert result["test"]["accuracy"] == pytest.approx((again.predict(X) == y).mean())
        assert result["baseline"] == {"class_counts": np.bincount(y_of(rows)).tolist()}
        assert result["class_names"] == ["0", "1", "2"]
    else:
        said = outputs.predictions.numpy().reshape(y.shape)
        assert np.array_equal(again.predict(X), said)
        assert result["test"]["mse"] == pytest.approx(np.square(said - y).mean())
        train = y_of(rows).reshape(45, -1)
        assert result["baseline"]["mean"] == pytest.approx(train.mean(0).tolist())
        assert result["baseline"]["median"] == pytest.approx(np.median(train, axis=0).tolist())
    if is_net:
        weights, _ = runs.RunFolder(tmp_path / "run").load_model()
        learned = [weights[f"module_.{name}"] for name, _ in again.module_.named_parameters()]
        assert sum(value.numel() for value in learned) == result["params"]


def y_of(rows: table_rows.TableRows) -> np.ndarray:
    return np.asarray(rows.targets(rows.train))


def test_a_finished_run_is_returned_and_an_unfinished_one_done_again(tmp_path: Path) -> None:
    asked = spec(flowers(), head="linear")
    first = run_table(asked, tmp_path / "a")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    assert run_table(asked, tmp_path / "a") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()} == before
    found = bits(tmp_path / "a")
    (tmp_path / "a" / "DONE").unlink()
    (tmp_path / "a" / "result.json").unlink()
    (tmp_path / "a" / OUTPUTS_FILE).write_bytes(b"torn")
    run_table(asked, tmp_path / "a")
    assert bits(tmp_path / "a") == found
    with pytest.raises(InputError, match="holds a run with seed = 0, not 1"):
        run_table(replace(asked, seed=1), tmp_path / "a")
    other = replace(asked, frame=replace(asked.frame, y=1 - (asked.frame.y > 1)))
    with pytest.raises(InputError, match="a run on another table called 'flowers'"):
        run_table(other, tmp_path / "a")
    with pytest.raises(InputError, match="its table has changed since"):
        refit(tmp_path / "a", other.frame)
    with pytest.raises(InputError, match="holds no finished run"):
        refit(tmp_path / "b", other.frame)


def test_a_lost_epoch_is_seen_and_a_run_of_before_is_read(tmp_path: Path) -> None:
    run_table(spec(flowers(), head="linear"), tmp_path / "a")
    path, result = tmp_path / "a" / "metrics.jsonl", tmp_path / "a" / "result.json"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    without_digests(tmp_path / "a")  # which would see it too
    for kept, said in ((lines[:-1], "should have"), (lines[:1] * len(lines), "epoch 2 in line 2")):
        path.write_text("".join(kept), encoding="utf-8")
        (found,) = verify(tmp_path / "a", models=False)
        assert any(said in sentence for sentence in found.damage)
    path.unlink()  # as a version left it that wrote none
    held = json.loads(result.read_text(encoding="utf-8"))
    del held["epochs_run"]
    result.write_text(json.dumps(held), encoding="utf-8")
    (found,) = verify(tmp_path / "a", models=False)
    assert not found.damage
    assert runs.load_run(tmp_path / "a").metrics == []


def test_a_run_that_is_done_again_has_the_epochs_of_one_fit(tmp_path: Path) -> None:
    asked = spec(flowers(), head="linear")
    first = run_table(asked, tmp_path / "a").metrics
    (tmp_path / "a" / "DONE").unlink()
    with (tmp_path / "a" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 7')
    again = run_table(asked, tmp_path / "a").metrics
    timeless = [[{**row, "seconds": 0} for row in rows] for rows in (first, again)]
    assert timeless[0] == timeless[1]


class Stop(BaseException):
    """Ends a run as a signal does."""


def broken_off(asked: TableSpec, folder: Path, *, net: int) -> None:
    """Leave a run in the second epoch of a net."""

    def stop(_: TableSpec, step: Progress) -> None:
        row = step.row or {}
        if (row.get("net"), row.get("epoch_of_net")) == (net, 2):
            raise Stop

    with pytest.raises(Stop):
        run_table(asked, folder, on_progress=stop)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_table_goes_on_after_the_last_net_that_is_done(tmp_path, monkeypatch, at_once) -> None:
    monkeypatch.setattr(table_running, "_BETWEEN_WRITES", 0.0 if at_once else 1e9)
    train = {"epochs": 4, "batch_size": 8, "ensemble_size": 4, "early_stopping": False}
    asked = spec(flowers(), head="spinal", train=train)
    whole = run_table(asked, tmp_path / "whole")
    for net, said in ((2, "1 finished net is"), (4, "3 finished nets are")):
        broken_off(asked, tmp_path / "run", net=net)
        assert stopping.saved is not None
        assert stopping.saved() == f"{said} saved in {tmp_path / 'run'}"
    (found,) = verify(tmp_path / "run", models=False)
    assert not found.damage
    seen = []

    def see(_: TableSpec, step: Progress) -> None:
        seen.append((step.row or {}).get("net"))

    again = run_table(asked, tmp_path / "run", on_progress=see)
    assert seen == [4] * 4 + [None]
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")
    timeless = [[{**row, "seconds": 0} for row in one.metrics] for one in (whole, again)]
    assert timeless[0] == timeless[1]
    assert not runs.states.exists(tmp_path / "run")


def test_a_table_says_that_it_goes_on_from_the_state_before(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(table_running, "_BETWEEN_WRITES", 0.0)
    train = {"epochs": 3, "batch_size": 8, "ensemble_size": 4, "early_stopping": False}
    asked = spec(flowers(), head="spinal", train=train)
    broken_off(asked, tmp_path / "run", net=4)
    state = tmp_path / "run" / runs.states.STATE_FILE
    state.write_bytes(state.read_bytes()[:-100])
    said = []
    again = run_table(asked, tmp_path / "run", on_progress=lambda _, step: said.append(step.note))
    notes = [note for note in again.result["notes"] if "went on from state-before.pt" in note]
    assert len(notes) == 1
    assert said.count(notes[0]) == 1


def test_a_table_that_has_changed_since_begins_anew(tmp_path: Path) -> None:
    train = {"epochs": 3, "batch_size": 8, "ensemble_size": 2, "early_stopping": False}
    other = spec(flowers(seed=1), head="mlp", train=train)
    broken_off(spec(flowers(), head="mlp", train=train), tmp_path / "run", net=2)
    run_table(other, tmp_path / "whole")
    run_table(other, tmp_path / "run")
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_trials_of_a_table_that_are_done_are_not_made_again(tmp_path, monkeypatch) -> None:
    asked, made = spec(flowers(), head="linear", tune=3), []
    try_ = table_tuning._try
    whole = run_table(asked, tmp_path / "whole")

    def tried(*args: Any) -> Any:
        made.append(args[2])
        if len(made) == 3:
            raise Stop
        return try_(*args)

    monkeypatch.setattr(table_tuning, "_try", tried)
    with pytest.raises(Stop):
        run_table(asked, tmp_path / "run")
    again = run_table(asked, tmp_path / "run")
    assert len(made) == 4
    assert again.result["trials"] == whole.result["trials"]
    assert bits(tmp_path / "run") == bits(tmp_path / "whole")


def test_nets_of_another_fit_are_refused_in_a_sentence(tmp_path: Path) -> None:
    train = {"epochs": 3, "batch_size": 8, "ensemble_size": 2, "early_stopping": False}
    asked = spec(flowers(), head="mlp", train=train)
    broken_off(asked, tmp_path / "run", net=2)
    folder = runs.RunFolder(tmp_path / "run")
    state = folder.load_state()
    state["nets"][0]["net"] = {"weight": torch.zeros(2)}
    folder.save_state(state)
    with pytest.raises(InputError, match="net 1 that was kept is none of this fit"):
        run_table(asked, tmp_path / "run")


def test_a_model_that_cannot_be_had_again_is_not_given(tmp_path: Path) -> None:
    asked = spec(flowers(), head="mlp")
    run_table(asked, tmp_path / "a")
    folder = runs.RunFolder(tmp_path / "a")
    weights, about = folder.load_model()
    weights[next(name for name in weights if name.endswith("output.bias"))] += 1e-7
    folder.save_model(weights, about)
    path = tmp_path / "a" / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8")) | {"torch": "1.0"}
    path.write_text(json.dumps(environment), encoding="utf-8")
    without_digests(tmp_path / "a")
    with pytest.raises(
        InputError, match=rf"torch was 1.0 and is {torch.__version__}".split("+")[0]
    ):
        refit(tmp_path / "a", asked.frame)


def test_a_file_is_read_again_only_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    flowers().X.assign(kind=list("ab") * 30).to_csv(path, index=False)
    read = []
    load = table_rows.load_table
    monkeypatch.setattr(
        table_rows, "load_table", lambda *args, **how: read.append(args) or load(*args, **how)
    )
    fold = Resample("fold", 0, 3)
    asked = TableSpec(str(path), "kind", group="garden", time="day", resample=fold)
    first = rows_of(asked)
    assert rows_of(replace(asked, head="mlp")).table is first.table
    assert len(read) == 1
    assert list(first.table.X.columns) == ["size", "shape", "colour"]
    flowers(50).X.assign(kind=list("ab") * 25).to_csv(path, index=False)
    assert len(rows_of(asked).table.y) == 50
    rows_of(replace(asked, group=None, time="day"))
    assert len(read) == 3


def test_equal_runs_give_equal_bits_whatever_runs_beside_them(tmp_path: Path) -> None:
    heads = ("spinal:dropout=0.2", "unchained:dropout=0.2", "matched", "trees")
    question = ComparisonSpec(spec(flowers(), train={"epochs": 25}), heads, seeds=2)
    cells = question.cells()

    def run(place: str, own: list[TableSpec]) -> None:
        for cell in own:
            run_table(cell, tmp_path / place / cell.name)

    run("alone", cells)
    pairs = [(f"beside{k}", cells[k::2]) for k in range(2)]
    workers = [threading.Thread(target=run, args=pair) for pair in pairs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for k, cell in enumerate(cells):
        assert bits(tmp_path / f"beside{k % 2}" / cell.name) == bits(tmp_path / "alone" / cell.name)


def size(estimator: Any) -> int:
    return sum(parameter.numel() for parameter in estimator.module_.parameters())


@pytest.mark.parametrize("options", [{}, {"num_layers": 7, "hidden_features": 9, "num_splits": 3}])
def test_controls_are_made_after_the_spinal_net(options: dict[str, Any]) -> None:
    X = np.random.default_rng(0).normal(size=(40, 11))
    y = X[:, 0]
    bare = {"ensemble_size": 1, "embedding": None, "early_stopping": False}
    fixed = {"epochs": 1, "random_state": 0, **bare, **options}
    spinal = SpinalRegressor(**fixed).fit(X, y)
    plain, alike, dense = (
        ControlRegressor(control=name, **fixed).fit(X, y)
        for name in ("unchained", "unchained-matched", "matched")
    )
    assert size(plain) < size(spinal)
    assert size(alike) == pytest.approx(size(spinal), rel=0.02)
    assert size(dense) == pytest.approx(size(spinal), rel=0.02)
    width, layers = options.get("hidden_features", 16), options.get("num_layers", 4)
    chain, slices, other = (model.module_ for model in (spinal, plain, alike))
    assert slices.output.in_features == chain.output.in_features == width * layers
    assert slices.split_sizes == chain.spine.split_sizes
    # Logits of a net without a chain are sums of functions of one slice each.
    cut = slices.split_sizes[0]
    a, b = torch.from_numpy(X[:20]), torch.from_numpy(X[20:])

    def mixed_effect(net: torch.nn.Module) -> float:
        ab, ba = (torch.cat([p[:, :cut], q[:, cut:]], 1) for p, q in ((a, b), (b, a)))
        with torch.no_grad():
            return float((net(a) + net(b) - net(ab) - net(ba)).abs().max())

    assert mixed_effect(slices) < 1e-12
    assert mixed_effect(other) < 1e-12
    assert mixed_effect(chain) > 1e-4
    with pytest.raises(InputError, match="did you mean 'unchained'"):
        ControlClassifier(control="unchaned").fit(X, y > 0)


def test_controls_follow_the_first_row_and_options_belong_to_their_row() -> None:
    base = spec(flowers(), head_options={"hidden_features": 12})
    heads = "spinal:num_layers=6,spinal,matched,unchained-matched:num_layers=3,mlp,linear,dense"
    with pytest.raises(InputError, match="got matched twice"):
        ComparisonSpec(base, heads)
    question = ComparisonSpec(base, heads.removesuffix(",dense"), seeds=1)
    found = {cell.name: dict(cell.head_options) for cell in question.cells()}
    assert found == {
        "spinal_num_layers=6-split0-seed0": {"hidden_features": 12, "num_layers": 6},
        "spinal-split0-seed0": {"hidden_features": 12},
        "matched-split0-seed0": {"hidden_features": 12, "num_layers": 6},
        "unchained-matched_num_layers=3-split0-seed0": {"hidden_features": 12, "num_layers": 3},
        "mlp-split0-seed0": {},
        "linear-split0-seed0": {},
    }
    sizes = {}
    for cell in question.cells():
        assert isinstance(cell, TableSpec)
        rows = rows_of(cell)
        task = rows.table.task
        model = make_estimator(cell.head, {**cell.train, **cell.head_options, "epochs": 1}, task, 0)
        sizes[cell.label or cell.head] = size(model.fit(rows.features(rows.train), y_of(rows)))
    assert sizes["matched"] == pytest.approx(sizes["spinal:num_layers=6"], rel=0.05)
    assert sizes["matched"] > 1.2 * sizes["spinal"]
    rows = "trees:max_leaf_nodes=7,mlp:hidden_features=[8,4],matched"
    trees = ComparisonSpec(spec(flowers()), rows, seeds=1)
    assert [dict(cell.head_options) for cell in trees.cells()] == [
        {"max_leaf_nodes": 7}, {"hidden_features": (8, 4)}, {},
    ]  # fmt: skip
    with pytest.raises(InputError, match="unknown option of head 'trees'"):
        ComparisonSpec(base, rows, seeds=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head": "spinl"}, "unknown head of tables 'spinl'; did you mean 'spinal'"),
        ({"head_options": {"layers": 3}}, "unknown option of head 'spinal' on a table 'layers'"),
        ({"head_options": {"num_layer": 3}}, "did you mean 'num_layers'"),
        ({"head": "trees", "head_options": {"max_leaf_node": 3}}, "did you mean 'max_leaf_nodes'"),
        ({"head": "linear", "head_options": {"hidden_features": 3}}, "unknown option of head"),
        ({"head_options": {"random_state": 3}}, "is the seed of the run: give seed="),
        ({"train": {"epoch": 3}}, "option of training on a table 'epoch'; did you mean 'epochs'"),
        ({"tune": -1}, "tune must be a number of trials"),
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"metric": "r2", "task": "classification"}, "r2 is not for a classification"),
    ],
)
def test_what_cannot_be_asked_is_said_at_once(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TableSpec("t", **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"head_options": {"num_layers": 0}}, "num_layers must be an integer >= 1, got 0"),
        ({"head_options": {"dropout": "much"}}, "head 'spinal' cannot be made on a table"),
        ({"head_options": {"activation": "rellu"}}, "did you mean 'relu'"),
        ({"train": {"epochs": 0}}, "epochs must be an integer >= 1"),
        ({"train": {"schedule": "divide-on-plateau"}}, "follows the validation score"),
        ({"head": "trees", "head_options": {"max_leaf_nodes": "few"}}, "'max_leaf_nodes' param"),
        ({"head": "trees", "head_options": {"learning_rate": -1}}, "'learning_rate' param"),
        ({"metric": "r2"}, "r2 is not for a classification"),
        (
            {"head": "linear", "tune": 3, "train": {"lr": 1, "weight_decay": 0, "dropout": 0}},
            "unknown option of training on a table 'dropout'",
        ),
        (
            {
                "head": "linear",
                "tune": 3,
                "head_options": {"lr": 1.0, "weight_decay": 0.0, "dropout": 0.0},
            },
            "nothing is left to tune of head 'linear'",
        ),
    ],
)
def test_impossible_values_are_refused_before_anything_is_written(
    asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        check_specs([spec(flowers(), **asked)])
    with pytest.raises(InputError, match=message):
        run_table(spec(flowers(), **asked), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def with_y(table: Table, y: Any) -> Table:
    return replace(table, y=np.asarray(y))


def grouped(*groups: int) -> Table:
    """Make rows of two classes in groups, class 1 in the last group alone."""
    groups = np.repeat(np.arange(len(groups)), groups)
    y = (groups == groups.max()).astype(int)
    return Table("t", np.arange(2.0 * len(y)).reshape(-1, 2), y, "classification", groups=groups)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("table", "asked", "message"),
    [
        (with_y(flowers(), ["a"] * 60), {}, "has only one class, 'a'"),
        (with_y(flowers(), ["a"] * 59 + ["b"]), {}, "class 'b' of flowers has 1 row, but"),
        (
            with_y(flowers(), ["a"] * 57 + ["b"] * 3),
            {"tune": 2},
            "class 'b' of flowers has 3 rows, but .* with tune need 4 of each class",
        ),
        (with_y(flowers(), [None, "a", "b"] * 20), {}, "has no class in 20 rows"),
        (with_y(flowers(), np.array([1, "a"] * 30, dtype=object)), {}, "all text or all numbers"),
        (with_y(flowers(), np.zeros((60, 2))), {}, "must be a column"),
        (with_y(prices(), [1.0] * 60), {}, "constant in the training rows"),
        (with_y(prices(), [NAN, INF, *range(58)]), {}, "not finite in 2 rows .1, 2."),
        (with_y(prices(), range(59)), {}, "60 rows of features but 59 targets"),
        (prices(3), {}, "prices has 3 rows: too few"),
        (prices(4), {}, "prices has 4 rows: too few"),
        (prices(12), {"resample": Resample("split", 12)}, "got 12 rows and split 13"),
        (prices(7), {"tune": 2}, "too few to divide .* and the training rows for tune"),
        (prices(6), {"resample": Resample("fold", 0, 7)}, "6 rows: too few to divide into 7 folds"),
        (prices(12), {"resample": Resample("fold", 0, 12)}, "R² needs at least 2 test rows, got 1"),
        (
            replace(prices(), groups=np.arange(60) % 2),
            {"resample": Resample("fold", 0, 3)},
            "prices cannot be divided .r0f0-seed0.: 3 folds need at least 3 groups, got 2",
        ),
        (
            replace(prices(), groups=np.arange(60)[:, None]),
            {},
            r"must have one value per example, \(60,\)",
        ),
        (grouped(4, 4, 4), {"resample": Resample("fold", 2, 3)}, "t cannot be divided .*: class 1"),
        (
            replace(grouped(4, 4, 4), groups=None, times=np.arange(12)),
            {"resample": Resample("fold", 1, 3)},
            "class 1 of t is in the test rows but not in the training rows .r0f1-seed0.*first come",
        ),
        (
            replace(grouped(4, 4, 4), groups=None, times=np.arange(12)),
            {"resample": Resample("fold", 0, 3)},
            "training rows of t have only one class, 0 .r0f0-seed0",
        ),
        (replace(prices(), X=np.full((60, 2), NAN)), {}, "numbers that are not finite"),
        (replace(prices(), X=np.full((60, 2), "a")), {}, "must be a data frame, or numbers"),
        (
            replace(prices(), X=pd.DataFrame({"a": [INF] * 60})),
            {},
            "column 'a' of prices holds inf",
        ),
        (prices(), {"group": "a"}, "has no columns with names, so none can be its group"),
        (flowers(), {"group": "gardn"}, "unknown column .group. 'gardn'; did you mean 'garden'"),
        (flowers(), {"time": "colour"}, "time column 'colour' must hold numbers or dates"),
        (flowers(), {"time": "size"}, "time column 'size' has no value in"),
        (flowers(), {"time": "day", "group": "day"}, "must be two columns"),
    ],
)
def test_tables_that_cannot_be_compared_on_are_refused(
    table: Table, asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run_table(spec(table, **asked), tmp_path / "run")
    assert str(caught.value).count("\n") == 0
    assert not (tmp_path / "run").exists()


FOLDS = [Resample("fold", index, 4) for index in range(4)]
DIVISIONS = [
    *((resample, {"group": "garden"}) for resample in (*FOLDS, Resample("split", 3))),
    *((resample, {"time": "day"}) for resample in FOLDS),
    *((resample, {"group": "garden", "time": "day"}) for resample in FOLDS),
]


@pytest.mark.parametrize(("resample", "columns"), DIVISIONS, ids=str)
def test_no_group_is_in_two_parts_and_nothing_is_trained_on_the_future(
    resample: Resample, columns: dict[str, str]
) -> None:
    asked = spec(with_y(flowers(150), np.arange(150) % 2), tune=2, resample=resample, **columns)
    rows = rows_of(asked)
    inner = rows.inner()
    assert all(set(train) | set(test) <= set(rows.train) for train, test in inner)
    parts = [(rows.train, rows.test), *inner]
    for train, test in parts:
        assert len(train) >= 2
        assert len(test) >= 1
        assert not set(train) & set(test)
        if asked.group:
            groups = rows.table.groups
            assert not set(groups[train]) & set(groups[test])
        if asked.time:
            assert rows.table.times[train].max() < rows.table.times[test].min()
    if not asked.time:
        scored = np.concatenate([test for _, test in inner])
        assert sorted(scored) == rows.train.tolist()
    assert list(rows.table.X.columns) == ["size", "shape", "colour"]


def test_every_row_is_tested_once_in_the_folds_of_a_repeat() -> None:
    strata = np.arange(50) % 3
    for repeat in range(2):
        folds = [draw_parts(Resample("fold", k, 5, repeat), 50, strata=strata) for k in range(5)]
        assert sorted(np.concatenate([test for _, test in folds])) == list(range(50))
        for train, test in folds:
            assert sorted([*train, *test]) == list(range(50))
            assert np.ptp(np.bincount(strata[test])) <= 1
    first, other = (draw_parts(Resample("fold", 0, 5, repeat), 50)[1] for repeat in range(2))
    assert first.tolist() != other.tolist()


@pytest.mark.parametrize(
    ("head", "division"),
    [
        ("trees", {"group": "garden"}),
        ("spinal", {}),
        *(
            pytest.param(head, division, marks=pytest.mark.slow)
            for head, division in [
                ("trees", {}),
                ("trees", {"time": "day"}),
                ("spinal", {"group": "garden"}),
                ("spinal", {"time": "day"}),
            ]
        ),
    ],
    ids=str,
)
def test_tuning_never_sees_the_test_rows(
    head: str, division: dict[str, str], tmp_path: Path
) -> None:
    frame = flowers().X
    table = Table("t", frame, frame["shape"].to_numpy() * 2.0 + 1.0, "regression")
    asked = spec(table, head=head, tune=4, resample=Resample("fold", 1, 3), **division)
    test = rows_of(asked).test
    X, y = asked.frame.X.copy(), asked.frame.y.copy()
    rng = np.random.default_rng(9)
    for name in ("size", "shape"):
        X.loc[test, name] = rng.normal(1e3, 1e3, len(test))
    y[test] = rng.normal(-1e4, 1e3, len(test))
    poisoned = replace(asked, frame=replace(asked.frame, X=X, y=y))
    clean, other = (
        run_table(one, tmp_path / place).result
        for one, place in ((asked, "clean"), (poisoned, "poisoned"))
    )
    assert clean["trials"] == other["trials"]
    assert clean["chosen"] == other["chosen"]
    assert clean["baseline"] == other["baseline"]
    assert clean["test"]["mse"] < other["test"]["mse"]
    if head == "spinal":
        weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in
                   ("clean", "poisoned")]  # fmt: skip
        assert weights[0] == weights[1]


LATER = pytest.mark.slow  # the same by another way


@pytest.mark.parametrize(
    "metric", [None, *(pytest.param(one, marks=LATER) for one in ("log-loss", "balanced-accuracy"))]
)
def test_the_best_trial_is_chosen_and_all_are_kept(metric: str | None, tmp_path: Path) -> None:
    asked = spec(flowers(), head="mlp", tune=5, metric=metric, head_options={"lr": 0.02})
    told: list[Any] = []
    record = run_table(asked, tmp_path / "run", on_progress=lambda _, step: told.append(step))
    trials = [step for step in told if step.phase == "tuning"]
    assert [step.epoch for step in trials] == [1, 2, 3, 4, 5]
    assert {step.epoch for step in told[len(trials) :]} == {6}  # the fit with what was chosen
    result = record.result
    assert len(result["trials"]) == 5
    assert all(set(trial["settings"]) == {"weight_decay", "dropout", "width"} for trial in
               result["trials"])  # fmt: skip
    sign = find_metric(metric or "accuracy").higher_is_better * 2 - 1
    scores = [sign * trial["score"] for trial in result["trials"]]
    best = max(scores)
    assert result["chosen"] in [
        trial["settings"]
        for trial, score in zip(result["trials"], scores, strict=True)
        if score == best
    ]
    assert set(result["space"]) == {"weight_decay", "dropout", "width"}
    # The score is that of cross-validation by hand, all held-out rows together.
    rows = rows_of(asked)
    trial = result["trials"][0]["settings"]
    options = {
        **SHORT, "lr": 0.02, "weight_decay": trial["weight_decay"], "dropout": trial["dropout"],
        "hidden_features": max(1, round(64 * trial["width"])),
    }  # fmt: skip
    if metric is None:
        from spinalnet.data.order import stream_seed

        seed = stream_seed("tune", 0, asked.unit.name) % 2**31
        right = [
            make_estimator("mlp", options, "classification", seed)
            .fit(rows.features(train), np.asarray(rows.targets(train)))
            .predict(rows.features(test)) == rows.targets(test)
            for train, test in rows.inner()
        ]  # fmt: skip
        assert result["trials"][0]["score"] == pytest.approx(np.concatenate(right).mean())
    again = refit(tmp_path / "run", asked.frame)
    width = max(1, round(64 * result["chosen"]["width"]))
    assert {net.hidden_features for net in again.module_.members} == {(width,)}


def test_what_a_row_is_given_is_not_tuned(tmp_path: Path) -> None:
    own = {"head_options": {"hidden_features": 7}, "train": {**SHORT, "weight_decay": 0.5}}
    asked = spec(flowers(), head="mlp", tune=2, **own)
    result = run_table(asked, tmp_path / "run").result
    assert set(result["chosen"]) == {"lr", "dropout"}
    again = refit(tmp_path / "run", asked.frame)
    assert {net.hidden_features for net in again.module_.members} == {(7,)}
    assert (again.weight_decay, again.lr) == (0.5, result["chosen"]["lr"])


def test_a_trial_that_diverges_is_kept_without_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spec(prices(), head="mlp", tune=4, train={"epochs": 20, "optimizer": "sgd"})
    monkeypatch.setitem(
        spaces.SPACES, "mlp", {"lr": spaces.Choice((1e-3, 1e9)), "width": spaces.Choice((1.0,))}
    )
    result = run_table(asked, tmp_path / "run").result
    lost = [trial for trial in result["trials"] if trial["settings"]["lr"] == 1e9]
    assert len(lost) == 2
    assert all(trial["score"] is None and trial["reason"] for trial in lost)
    assert result["chosen"]["lr"] == 1e-3
    monkeypatch.setitem(spaces.SPACES, "mlp", {"lr": spaces.Choice((1e9,))})
    with pytest.raises(TrainingError, match="no trial of tune came to a finite score"):
        run_table(asked, tmp_path / "other")


def test_heads_try_the_same_values_of_what_they_share() -> None:
    every = {head: spaces.sample(spaces.space_of(head), 20, 5) for head in HEADS}
    for head in NETS:
        assert [t["lr"] for t in every[head]] == [t["lr"] for t in every["spinal"]]
        assert set(every[head][0]) - {spaces.WIDTH} <= set(option_names(head))
    assert set(every["trees"][0]) <= set(option_names("trees"))
    assert every["spinal"] == spaces.sample(spaces.space_of("spinal"), 20, 5)
    assert every["spinal"] != spaces.sample(spaces.space_of("spinal"), 20, 6)
    assert every["spinal"] != every["unchained"] or spaces.SPACES["spinal"]
    for name, part in spaces.space_of("spinal").items():
        values = [trial[name] for trial in every["spinal"]]
        assert min(values) >= part.low
        assert max(values) <= part.high
    # One value in each twentieth of the range, in an order without a pattern.
    logs = np.log([trial["lr"] for trial in every["spinal"]])
    places = np.floor((logs - np.log(3e-4)) / np.log(100) * 20 + 1e-9).astype(int)
    assert sorted(np.clip(places, 0, 19)) == list(range(20))
    firsts = [spaces.sample({"a": spaces.Range(0, 1)}, 4, seed)[0]["a"] for seed in range(400)]
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.05)


def test_whole_numbers_are_tried_alike_and_edges_are_named() -> None:
    layers = spaces.Range(2, 8, whole=True)
    counts = np.bincount([layers.at(place) for place in np.linspace(0, 1, 7001)])
    assert counts[:2].tolist() == [0, 0]
    assert np.ptp(counts[2:]) < 5
    space = {"lr": spaces.Range(1e-4, 1e-2, log=True), "n": layers,
             "p": spaces.Range(0, 0.3, least=True), "c": spaces.Choice((1, 2, 3))}  # fmt: skip
    assert spaces.edges(space, {"lr": 9.9e-3, "n": 2, "p": 0.0, "c": 2}) == ["lr (high)", "n (low)"]
    assert spaces.edges(space, {"lr": 1e-3, "n": 5, "p": 0.3, "c": 3}) == ["p (high)", "c (high)"]
    with pytest.raises(InputError, match="unknown setting of the space 'm'"):
        spaces.edges(space, {"m": 1})
    with pytest.raises(InputError, match="trials must be"):
        spaces.sample(space, 0, 1)


def test_the_expected_best_of_k_is_that_of_all_subsets() -> None:
    import itertools

    values = [0.3, 0.9, 0.1, 0.5, 0.5]
    for better, pick in ((True, max), (False, min)):
        curve = spaces.best_of(values, higher_is_better=better)
        for k in range(1, 6):
            subsets = [pick(one) for one in itertools.combinations(values, k)]
            assert curve[k - 1] == pytest.approx(np.mean(subsets))
    assert spaces.still_rising([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.1)
    assert not spaces.still_rising([0.1, 0.5, 0.58, 0.59, 0.6, 0.6], 0.1)


def test_classes_that_are_text_and_frames_of_polars(tmp_path: Path) -> None:
    pl = pytest.importorskip("polars")
    table = flowers()
    names = np.array(["rose", "lily", "iris"], dtype=object)[table.y]
    X = table.X.drop(columns=["garden", "day"])
    text = Table("t", X, names, "classification")
    columns = {name: [None if v != v else v for v in X[name].tolist()] for name in X.columns}
    other = replace(text, X=pl.DataFrame(columns))
    for head in ("spinal", "trees"):
        found = [
            run_table(spec(one, head=head), tmp_path / f"{head}{k}")
            for k, one in enumerate((text, other))
        ]
        assert found[0].result["class_names"] == ["iris", "lily", "rose"]
        assert found[0].result["test"] == found[1].result["test"]
    outputs = load_outputs(tmp_path / "trees0" / OUTPUTS_FILE)
    assert isinstance(outputs, Outputs)
    assert outputs.num_classes == 3
    assert Unit(0, Resample("split", 0)).name == "split0-seed0"
    assert isinstance(refit(tmp_path / "spinal0", spec(text).frame), SpinalClassifier)


def patients(path: Path, *without: str) -> Path:
    """Write a table with an identifier and a column that no model can take, less some columns."""
    rng, rows = np.random.default_rng(0), 60
    y = np.arange(rows) % 2
    frame = pd.DataFrame(
        {
            "id": rng.permutation(rows) * 3,
            "clinic, ward": rng.integers(0, 9, rows),
            "x": y + rng.normal(0, 0.4, rows),
            "kind": np.where(y, "a", "b"),
        }
    )
    frame.drop(columns=list(without)).to_csv(path, index=False)
    return path


def test_ignored_columns_are_no_features(tmp_path: Path) -> None:
    table, bare = patients(tmp_path / "t.csv"), patients(tmp_path / "bare.csv", "id")
    ignore = ("id", "clinic, ward")
    asked = TableSpec(str(table), "kind", head="linear", train=SHORT, ignore=ignore)
    rows = rows_of(asked)
    assert list(rows.table.X.columns) == ["x"]
    assert not any("identifier" in note for note in rows.table.notes)
    told = [note for note in rows_of(replace(asked, ignore=())).table.notes if "identifier" in note]
    assert told
    assert all("(ignore=id)" in note for note in told)
    assert list(rows_of(replace(asked, ignore="id,x")).table.X.columns) == ["clinic, ward"]  # type: ignore[arg-type]
    run_table(asked, tmp_path / "run")
    assert run_table(asked, tmp_path / "run").result  # the same question again
    kept = runs.read_config(tmp_path / "run")
    assert kept["ignore"] == list(ignore)
    del kept["ignore"]  # as earlier versions wrote it
    assert TableSpec.from_dict(kept).ignore == ()
    model = load_table_model(tmp_path / "run")
    assert [column.name for column in model.about.columns] == ["x"]
    answers = [list(predict_rows(model, pd.read_csv(one))) for one in (table, bare)]
    assert answers[0] == answers[1]
    scores = [evaluate_table(model, one).metrics for one in (table, bare)]
    assert scores[0] == scores[1]
    assert evaluate_table(model).metrics["n"] == 15


@pytest.mark.parametrize(
    ("ignore", "asked", "message"),
    [
        ("idd", {}, "unknown column (ignore) 'idd'; did you mean 'id'?"),
        ("kind", {}, "ignore=kind is the target"),
        ("id", {"group": "id"}, "ignore=id is the column of group="),
        ("x,id", {"time": "id"}, "ignore=id is the column of time="),
        ("id,clinic,x", {}, "unknown column (ignore) 'clinic'"),
    ],
)
def test_what_cannot_be_ignored_is_refused_by_name(
    ignore: str, asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    table = patients(tmp_path / "t.csv")
    with pytest.raises(InputError, match=re.escape(message)):
        rows_of(TableSpec(str(table), "kind", ignore=(ignore,), **asked))
    with pytest.raises(InputError, match="no columns with names, so none can be ignored"):
        rows_of(TableSpec("sklearn:iris", ignore=("x",)))


def command(*words: object) -> int | str | None:
    """Run the command in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spinalnet", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            root.main()
    return stop.value.code


def test_the_command_ignores_columns_of_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = patients(tmp_path / "t.csv")
    asked = (table, "--target=kind", "--epochs=1", "--head=linear")
    assert not command("train", *asked, "--out", tmp_path / "all")
    said = " ".join(capsys.readouterr().err.split())
    assert "leave it out (--ignore id)" in said
    both = ("--ignore", "id", "--ignore", "clinic, ward")
    assert not command("train", *asked, *both, "--out", tmp_path / "a")
    again = ("--config", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b")
    assert not command("train", table, *again)
    (tmp_path / "c.yaml").write_text("ignore: id\n")
    assert not command("train", *asked, "--config", tmp_path / "c.yaml", "--out", tmp_path / "c")
    kept = [runs.read_config(tmp_path / one)["ignore"] for one in "abc"]
    assert kept == [["id", "clinic, ward"], ["id", "clinic, ward"], ["id"]]
    capsys.readouterr()
    assert command("compare", table, "--target=kind", "--ignore=idd", "--dry-run") == 2
    assert "did you mean 'id'?" in capsys.readouterr().err

"""What happens in runs is told to a user's watcher and to trackers, by their own clients."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import spinalnet
from helpers import command
from spinalnet import Watcher
from spinalnet._checks import InputError, TrainingError
from spinalnet.cli import app
from spinalnet.comparison.trackers import TRACKERS, Guarded, flat, open_trackers
from spinalnet.training import stopping


class Diary(Watcher):
    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.best: dict[str, int] = {}
        self.results: dict[str, Any] = {}

    def run_started(self, run, config):
        self.told.append(("started", run))
        assert config["train"]["epochs"] == 3

    def epoch_ended(self, run, row, *, best):
        self.rows.setdefault(run, []).append(dict(row))
        if best:
            self.best[run] = row["epoch"]

    def run_finished(self, run, result):
        self.told.append(("finished", run))
        self.results[run] = result

    def run_failed(self, run, reason):
        self.told.append(("failed", run, reason))

    def comparison_finished(self, summary, folder):
        self.told.append(("answer", summary.headline, folder))

    def close(self):
        self.told.append(("closed",))


def compared(folder: Path, *watchers: Watcher, heads: str = "spinal,linear", **more: Any):
    return spinalnet.compare(
        "digits", heads, seeds=1, epochs=3, limit=100, out=folder, jobs=1, watch=watchers, **more
    )


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    diary, heard, folder = Diary(), [], tmp_path_factory.mktemp("watched") / "d"
    return compared(folder, heard.append, diary), diary, heard, folder


def test_a_watcher_is_told_what_the_run_folders_hold(watched):
    found, diary, _, place = watched
    names = ["spinal-seed0", "linear-seed0"]
    assert [one for one in diary.told if one[0] == "started"] == [("started", n) for n in names]
    assert diary.told[-2:] == [("answer", found.summary.headline, place), ("closed",)]
    for name in names:
        folder = place / "runs" / name
        kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        told = [{key: row[key] for key in kept[0]} for row in diary.rows[name]]
        assert told == kept
        result = json.loads((folder / "result.json").read_text())
        assert diary.results[name]["test"] == result["test"]
        assert diary.best[name] == result["best_epoch"]


def test_a_function_is_told_the_same_as_events(watched):
    found, diary, heard, place = watched
    kinds = [event.kind for event in heard if event.run == "spinal-seed0"]
    assert (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    assert kinds.count("epoch_ended") == 3
    rows = [dict(event.data) for event in heard if event.kind == "epoch_ended"]
    assert rows == [row for rows in diary.rows.values() for row in rows]
    best = {e.run: e.data["epoch"] for e in heard if e.kind == "best_found"}
    assert best == diary.best
    bests = [event.data for event in heard if event.kind == "epoch_ended" and event.best]
    assert bests == [event.data for event in heard if event.kind == "best_found"]
    assert heard[-1].kind == "comparison_finished"
    assert heard[-1].data["headline"] == found.summary.headline == heard[-1].summary.headline
    assert heard[-1].folder == place
    assert "epoch_ended" in str(heard[1])
    again = []
    compared(place, again.append)  # all is done
    assert {event.kind for event in again} == {"run_finished", "comparison_finished"}


def test_one_run_is_watched_and_its_failure_told(tmp_path):
    heard = []
    spec = spinalnet.RunSpec.of("digits", train=spinalnet.TrainConfig(epochs=2), limit=100)
    spinalnet.run_one(spec, tmp_path / "r", watch=heard.append)
    kinds = [event.kind for event in heard]
    assert kinds[:3] == ["run_started", "epoch_ended", "best_found"]
    assert kinds[-1] == "run_finished"

    def breaks(event):
        heard.append(event)
        if event.kind == "epoch_ended":
            raise LookupError("no more")

    with pytest.raises(LookupError):
        spinalnet.run_one(spec, tmp_path / "other", watch=[breaks])
    assert heard[-1].kind == "run_failed"
    assert heard[-1].data == {"reason": "no more"}
    # It goes on after its first epoch, whose best is the one to beat.
    heard.clear()
    spinalnet.run_one(spec, tmp_path / "other", watch=heard.append)
    rows = [
        json.loads(line) for line in (tmp_path / "other/metrics.jsonl").read_text().splitlines()
    ]
    (ended,) = [event for event in heard if event.kind == "epoch_ended"]
    first, second = [(row["val_accuracy"], -row["val_loss"]) for row in rows]
    assert ended.data["epoch"] == 2
    assert ended.best == (second > first)


def test_a_table_s_nets_have_bests_of_their_own(tmp_path):
    heard = []
    spec = spinalnet.TableSpec("sklearn:iris", head_options={"epochs": 3, "ensemble_size": 2})
    from spinalnet.comparison.tables.running import run_table

    run_table(spec, tmp_path / "r", watch=heard.append)
    best = [event.data for event in heard if event.kind == "best_found"]
    assert {row["net"] for row in best} == {1, 2}
    assert {row["epoch_of_net"] for row in best if row["epoch_of_net"] == 1} == {1}
    assert heard[-1].kind == "run_finished"


def test_a_run_begins_where_trackers_were_told_first(tmp_path):
    pytest.importorskip("tensorboard")
    spec = spinalnet.RunSpec.of("digits", train=spinalnet.TrainConfig(epochs=1), limit=100)
    place = tmp_path / "r"
    watch = open_trackers("tensorboard", place, print)
    record = spinalnet.run_one(spec, place, watch=watch)
    assert record.result
    assert {one.name for one in (place / "tensorboard").iterdir()} == {spec.name}
    (tmp_path / "other" / "photos").mkdir(parents=True)
    with pytest.raises(InputError, match="it holds 'photos'"):
        spinalnet.run_one(spec, tmp_path / "other")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingError("the loss is\nnan"), "the loss is nan"),
        (KeyboardInterrupt(), "stopped by SIGINT"),
        (stopping.Interrupted(signal.SIGTERM), "stopped by SIGTERM"),
    ],
)
def test_trackers_are_told_how_a_run_has_ended(tmp_path, monkeypatch, error, reason):
    class Ends(Diary):
        def run_started(self, run, config):
            self.told.append(("started", run))

        def epoch_ended(self, run, row, *, best):
            raises()

    def raises():
        raise error

    runs = {"digits": "spinal-seed0", "sklearn:iris": "spinal-split0-seed0"}
    for data, name in runs.items():
        diary = Ends()
        row = TRACKERS["mlflow"]
        monkeypatch.setitem(TRACKERS, "mlflow", replace(row, open=lambda _, diary=diary: diary))
        monkeypatch.setattr(Guarded, "epoch_ended", lambda *_, **__: raises())
        out = tmp_path / name
        done = command("train", data, "--epochs", 2, "--out", out, "--log", "mlflow")
        assert done.returncode in (2, 130, 143), done.stderr
        assert diary.told[:3] == [("started", name), ("failed", name, reason), ("closed",)]
    diary = Diary()
    with pytest.raises(type(error)):
        compared(tmp_path / "d", diary, Ends())
    assert diary.told[-2:] == [("failed", "spinal-seed0", reason), ("closed",)]


@pytest.mark.parametrize(
    ("watch", "said"),
    [
        (Diary, r"not its class: give Diary\(\)"),
        ([lambda: None], "a function of one event, a spinalnet.WatchEvent, got .*too many"),
        (lambda a, b: None, "function of one event.*missing a required argument"),
        ("tensorboard", "got 'tensorboard' .trackers by name: comparison.trackers.open_trackers"),
        ({"epoch": print}, "watch must be a spinalnet.Watcher, or a function"),
        (3, "got 3"),
        ([None], "got None"),
    ],
)
def test_what_cannot_watch_is_refused_before_anything_runs(tmp_path, watch, said):
    with pytest.raises(InputError, match=said):
        spinalnet.compare("digits", "spinal,linear", out=tmp_path / "d", watch=watch)
    assert not (tmp_path / "d").exists()


def test_workers_tell_too(tmp_path):
    diary = Diary()
    spinalnet.compare(
        *("digits", "spinal,linear"),
        **{"seeds": 1, "epochs": 3, "limit": 100, "out": tmp_path / "d", "jobs": 2},
        watch=[diary],
    )
    assert sorted(diary.results) == ["linear-seed0", "spinal-seed0"]
    assert all(len(rows) == 3 for rows in diary.rows.values())


def test_what_a_watcher_raises_ends_the_comparison(tmp_path):
    class Breaks(Watcher):
        def epoch_ended(self, run, row, *, best):
            raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        compared(tmp_path / "d", Breaks())


def test_a_tracker_that_fails_ends_nothing_and_is_told_nothing_more(tmp_path):
    class Lost(Watcher):
        calls = 0

        def epoch_ended(self, run, row, *, best):
            Lost.calls += 1
            raise ConnectionError("no route\nto host")

    told: list[str] = []
    found = compared(tmp_path / "d", Guarded("mlflow", Lost(), told.append))
    assert Lost.calls == 1
    assert len(told) == 1
    assert told[0].startswith("mlflow is told nothing more, for it failed (no route to host)")
    assert all(head.n == 1 for head in found.summary.heads)


def test_unknown_and_missing_trackers_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'mlflow'"):
        open_trackers("mlfow", tmp_path, print)

    def missing(folder):
        raise ModuleNotFoundError("No module named 'mlflow'")

    row = TRACKERS["mlflow"]
    monkeypatch.setitem(TRACKERS, "mlflow", type(row)(missing, row.package, row.summary))
    with pytest.raises(InputError, match="needs mlflow-skinny, which is not installed"):
        open_trackers("mlflow", tmp_path, print)
    assert open_trackers("", tmp_path, print) == []

    def unreachable(folder):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(TRACKERS, "mlflow", replace(row, open=unreachable))
    with pytest.raises(InputError, match=r"mlflow cannot be opened \(no route to host\); where it"):
        open_trackers("mlflow", tmp_path, print)


def test_settings_are_flat_and_plain():
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": (1, 2), "f": {}}) == {
        **{"a.b": 1, "a.c.d": "None"},
        **{"e": "(1, 2)", "f": "{}"},
    }


def test_tensorboard_has_every_epoch_and_the_test(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    diary = Diary()
    compared(tmp_path / "d", diary, *open_trackers("tensorboard", tmp_path / "d", print))
    kept = EventAccumulator(str(tmp_path / "d" / "tensorboard" / "spinal-seed0"))
    kept.Reload()
    told = [(one.step, one.value) for one in kept.Scalars("val_accuracy")]
    rows = diary.rows["spinal-seed0"]
    assert told == [(row["epoch"], pytest.approx(row["val_accuracy"])) for row in rows]
    accuracy = diary.results["spinal-seed0"]["test"]["accuracy"]
    assert kept.Scalars("test_accuracy")[0].value == pytest.approx(accuracy)
    answer = EventAccumulator(str(tmp_path / "d" / "tensorboard" / "answer"))
    answer.Reload()
    assert "answer/text_summary" in answer.Tags()["tensors"]


@pytest.mark.parametrize(
    ("words", "run"),
    [
        (["compare", "digits", "--heads", "spinal,linear", "--seeds", "1"], "runs/linear-seed0"),
        (["train", "digits"], ""),
    ],
)
def test_the_command_tells_trackers(tmp_path, words, run):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    small = ["--epochs", "2", "--limit", "80", "--out", str(out), "--log", "tensorboard"]
    done = CliRunner().invoke(app, [*words, *small])
    assert done.exit_code == 0, done.output
    kept = EventAccumulator(str(out / "tensorboard" / (run or "spinal-seed0").split("/")[-1]))
    kept.Reload()
    assert [one.step for one in kept.Scalars("val_loss")] == [1, 2]
    result = json.loads((out / run / "result.json").read_text())
    assert kept.Scalars("test_accuracy")[0].value == pytest.approx(result["test"]["accuracy"])
    again = CliRunner().invoke(app, [*words, *small])  # trackers' files are no run's
    assert again.exit_code == 0, again.output


def test_the_command_tells_trackers_of_a_table(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "out"
    words = ["train", "sklearn:iris", "--epochs", "2", "--head-option", "ensemble_size=2"]
    done = CliRunner().invoke(app, [*words, "--out", str(out), "--log", "tensorboard"])
    assert done.exit_code == 0, done.output
    (written,) = (out / "tensorboard").iterdir()
    kept = EventAccumulator(str(written))
    kept.Reload()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["net"], row["epoch_of_net"]) for row in rows] == [
        *((1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2))
    ]
    drawn = kept.Scalars("val_loss")
    assert [one.step for one in drawn] == [1, 2, 3, 4]
    assert [one.value for one in drawn] == pytest.approx([row["val_loss"] for row in rows])
    told = set(kept.Tags()["scalars"])
    assert {"train_loss", "test_accuracy"} <= told
    assert not told & {"net", "epochs", "is_last"}  # which are no measurements


def test_of_a_net_without_rows_held_out_every_epoch_is_kept(tmp_path):
    class Brief(Diary):
        def run_started(self, run, config):
            """Of a table the epochs are an option of the head."""

    diary, options = Brief(), "epochs=3,early_stopping=false"
    heard = []
    heads = [f"spinal:{options},ensemble_size=1", f"linear:{options}"]
    spinalnet.compare(
        "sklearn:iris", heads, seeds=1, out=tmp_path / "d", jobs=1, watch=[diary, heard.append]
    )
    assert sum(event.kind == "best_found" for event in heard) == 6
    assert [len(rows) for rows in diary.rows.values()] == [3, 3]
    assert [*diary.best.values()] == [3, 3]


def test_the_command_refuses_what_it_cannot_tell(tmp_path):
    for words, said in (
        (["compare", "digits", "--log", "tensorbord"], "did you mean 'tensorboard'"),
        (["train", "sklearn:iris", "--log", "wanb"], "did you mean 'wandb'"),
    ):
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "o")])
        assert said in str(done.exception) + done.output
        assert not (tmp_path / "o" / "runs").exists()


def test_mlflow_has_every_epoch_and_the_test(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    diary = Diary()
    compared(tmp_path / "d", diary, *open_trackers("mlflow", tmp_path / "d", print))
    client = mlflow.tracking.MlflowClient()
    experiment = client.get_experiment_by_name("d")
    assert experiment.tags["answer"] == diary.told[-2][1]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"spinal-seed0", "linear-seed0"}
    run = runs["linear-seed0"]
    assert run.info.status == "FINISHED"
    assert run.data.params["model.head"] == "linear"
    accuracy = diary.results["linear-seed0"]["test"]["accuracy"]
    assert run.data.metrics["test_accuracy"] == pytest.approx(accuracy)
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert [one.step for one in history] == [1, 2, 3]


@pytest.mark.parametrize(
    ("reason", "status"), [("the loss is nan", "FAILED"), ("stopped by SIGINT", "KILLED")]
)
def test_mlflow_and_tensorboard_keep_how_a_run_has_failed(tmp_path, monkeypatch, reason, status):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    for tracker in open_trackers("mlflow,tensorboard", tmp_path / "d", print):
        tracker.run_started("a", {"lr": 0.1})
        tracker.run_failed("a", reason)
        tracker.close()
    client = mlflow.tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("d").experiment_id])
    assert (run.info.status, run.data.tags["reason"]) == (status, reason)
    kept = EventAccumulator(str(tmp_path / "d" / "tensorboard" / "a"))
    kept.Reload()
    assert kept.Tensors("failed/text_summary")[0].tensor_proto.string_val == [reason.encode()]


@pytest.mark.slow
def test_wandb_writes_its_files_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    compared(tmp_path / "d", *open_trackers("wandb", tmp_path / "d", print))
    kept = list((tmp_path / "d" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 2
    assert all(b"val_accuracy" in path.read_bytes() for path in kept)


@pytest.mark.slow
def test_trackio_has_every_epoch(tmp_path, monkeypatch):
    trackio = pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    compared(tmp_path / "d", *open_trackers("trackio", tmp_path / "d", print))
    assert trackio is not None
    assert list((tmp_path / "store").rglob("*.db"))

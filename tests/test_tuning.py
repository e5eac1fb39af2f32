"""Equal tuning: as many trials for every head, on validation data alone, and what is told of it."""

from __future__ import annotations

import copy
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from spinalnet import InputError, files
from spinalnet.comparison import comparing, spaces, tuning
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.comparing import compare
from spinalnet.comparison.question import DEFAULT_HEADS, ComparisonSpec
from spinalnet.comparison.result import Comparison
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.summary import Summary
from spinalnet.comparison.tuned import Tuned, of_table, read_tuning, tuning_notes
from spinalnet.deploy import verify
from spinalnet.files import to_json

ALL = (
    *DEFAULT_HEADS,
    *("unchained-matched", "spinal-shared", "progressive", "mlp-paper", "spinal:num_layers=8"),
)
SMALL: dict[str, Any] = {"seeds": 2, "epochs": 1, "limit": 100, "jobs": 1}
HEADS = "spinal,matched,linear"


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of heads take longer than all else here, and are tested elsewhere."""
    monkeypatch.setattr(comparing, "time_heads", lambda *_, **__: {})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A comparison tuned by three trials."""
    out = tmp_path_factory.mktemp("tuned") / "cmp"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparing, "time_heads", lambda *_, **__: {})
        return compare("digits", HEADS, tune=3, out=out, **SMALL)


def question(heads: Any = ALL, **options: Any) -> ComparisonSpec:
    return ComparisonSpec(RunSpec.of("digits", epochs=1, limit=100, **options), heads)


def configs(folder: Path, pattern: str) -> dict[str, dict[str, Any]]:
    paths = sorted(folder.glob(f"{pattern}/config.yaml"))
    return {path.parent.name: yaml.safe_load(path.read_text()) for path in paths}


def chosen(folder: Path) -> dict[str, Any]:
    kept = read_tuning(folder)
    assert kept is not None
    return {row.label: row.chosen for row in kept.rows}


def test_every_head_tries_what_it_has_and_every_trial_can_be_built(tmp_path: Path) -> None:
    asked = question()
    assert isinstance(asked.base, RunSpec)
    info = load_splits(asked.base).info
    tried = {}
    for label in ALL:
        tried[label] = set(tuning.space_of(asked, label))
        for trial in tuning._plan(asked, label, 6, tmp_path, 10, ()):
            assert isinstance(trial.cell.spec, RunSpec)
            assert trial.cell.spec.train.seed == tuning.TUNING_SEED
            assert not trial.cell.spec.tested
            assert trial.cell.spec.train.lr == trial.settings["lr"]
            build_model(trial.cell.spec, info)
    shared = {"lr", "weight_decay", "dropout"}
    chain = shared | {"width", "num_layers", "num_splits"}
    for label in ("spinal", "unchained", "unchained-matched", "matched", "spinal-shared"):
        assert tried[label] == chain
    assert tried["progressive"] == shared | {"width", "num_layers"}
    assert tried["mlp"] == tried["mlp-paper"] == shared | {"width"}
    assert tried["linear"] == shared
    assert tried["spinal:num_layers=8"] == chain - {"num_layers"}


def test_a_control_has_the_size_of_the_spinal_net_it_was_tried_over(tmp_path: Path) -> None:
    asked = question()
    plans = {name: tuning._plan(asked, name, 4, tmp_path, 10, ()) for name in ALL}
    assert isinstance(asked.base, RunSpec)
    info = load_splits(asked.base).info

    def params(label: str, k: int) -> int:
        spec = plans[label][k].cell.spec
        assert isinstance(spec, RunSpec)
        return sum(p.numel() for p in build_model(spec, info).head.parameters())

    sizes = {params("spinal", k) for k in range(4)}
    assert len(sizes) == 4
    for k in range(4):
        options = plans["unchained"][k].model.head_options
        assert (
            options["match_options"]["hidden_features"]
            == (plans["spinal"][k].model.head_options["hidden_features"])
        )
        assert params("matched", k) == pytest.approx(params("spinal", k), rel=0.05)


def test_what_is_given_is_not_tuned() -> None:
    given = question(("spinal", "unchained", "mlp:hidden_features=30", "matched:num_params=900"),
                     head_options={"num_layers": 3, "dropout": 0.1}, lr=7e-3)  # fmt: skip
    spaces_of = {label: set(tuning.space_of(given, label)) for label in given.heads}
    # What the first row was given holds for its controls.
    assert spaces_of["spinal"] == spaces_of["unchained"] == {"weight_decay", "width", "num_splits"}
    assert spaces_of["mlp:hidden_features=30"] == {"weight_decay", "dropout"}
    assert spaces_of["matched:num_params=900"] == {"weight_decay"}
    assert "weight_decay" not in tuning.space_of(given, "spinal", given={"weight_decay"})
    # A value that is the default, but asked for by name, is a given one too.
    assert "lr" not in tuning.space_of(question(), "linear", given={"lr"})


def test_the_first_draws_of_many_are_those_of_few_and_are_uniform() -> None:
    space = spaces.space_of("spinal")
    many = spaces.draw(space, 200, 5)
    assert spaces.draw(space, 7, 5) == many[:7]
    assert spaces.draw(space, 7, 6) != many[:7]
    assert [t["lr"] for t in spaces.draw(spaces.space_of("linear"), 200, 5)] == [
        t["lr"] for t in many
    ]
    logs = np.log([trial["lr"] for trial in many])
    places = np.sort((logs - np.log(3e-4)) / np.log(100))
    grid = np.arange(1, 201) / 200
    assert np.abs(places - grid).max() < 1.63 / np.sqrt(200)  # Kolmogorov and Smirnov at 1 %
    other = np.array([trial["dropout"] for trial in many])
    assert abs(np.corrcoef(logs, other)[0, 1]) < 0.2
    with pytest.raises(InputError, match="trials must be"):
        spaces.draw(space, 0, 1)


def test_runs_have_what_was_found_and_fresh_seeds(done: Comparison) -> None:
    found = chosen(done.folder)
    trials = configs(done.folder / "tuning", "*")
    assert len(trials) == 9  # as many for every head
    assert {c["train"]["seed"] for c in trials.values()} == {tuning.TUNING_SEED}
    made = configs(done.folder / "runs", "*")
    assert len(made) == 6
    for name, config in made.items():
        head = config["model"]["head"]
        assert config["train"]["seed"] in (0, 1)
        assert config["train"]["lr"] == found[head]["lr"], name
        assert config["train"]["weight_decay"] == found[head]["weight_decay"]
        assert config["model"]["head_options"]["dropout"] == found[head]["dropout"]
        if head != "linear":
            size = config["model"]["head_options"]
            size = size if head == "spinal" else size["match_options"]
            assert size["num_layers"] == found[head]["num_layers"]
    for row in json.loads((done.folder / "tuning.json").read_text())["rows"]:
        best = max(trial["value"] for trial in row["tried"])
        assert row["chosen"] in [t["settings"] for t in row["tried"] if t["value"] == best]
        assert row["curve"][-1] == best
        assert row["curve"][0] == pytest.approx(np.mean([t["value"] for t in row["tried"]]))
    for path in (done.folder / "tuning").iterdir():
        result = json.loads((path / "result.json").read_text())
        assert "test" not in result
        assert result["val"]["accuracy"] is not None
        left = {file.name for file in path.iterdir()}
        assert not left & {"test-outputs.safetensors", "model.safetensors"}


def test_what_tuning_tells_is_held_against_its_trials(done: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "cmp"
    shutil.copytree(done.folder, folder)
    path = folder / "tuning.json"
    whole = json.loads(path.read_text())

    def damage(change: Callable[[dict[str, Any]], object] | None) -> str:
        """Change the file by hand, digest included, and verify."""
        values = copy.deepcopy(whole)
        if change is None:
            path.unlink()
        else:
            change(values["rows"][0])
            files.write_kept(path, values)
        *_, found = verify(folder, models=False)
        assert found.kind == "comparison"
        return " ".join(found.damage)

    assert not damage(lambda row: None)
    assert "settings chosen for spinal are not the best" in damage(
        lambda row: row["chosen"].update(lr=row["chosen"]["lr"] * 2)
    )
    with pytest.raises(InputError, match="settings chosen for spinal are not the best"):
        compare("digits", HEADS, tune=3, out=folder, **SMALL)

    def both(row: dict[str, Any]) -> None:
        for one in row["tried"]:
            one["settings"]["lr"] *= 2
        row["chosen"]["lr"] *= 2

    trial = "tells otherwise of spinal-seed100000-trial0 than its folder"
    assert trial in damage(both)
    assert trial in damage(lambda row: [one.update(value=1.0) for one in row["tried"]])
    assert "otherwise" in damage(lambda row: row["tried"][0].update(run="linear-seed100000-trial0"))
    asked = folder / "runs" / "spinal-seed0" / "config.yaml"
    text = asked.read_text()
    asked.write_text(text.replace("weight_decay: ", "weight_decay: 3"))
    (asked.parent / "DONE").unlink()
    assert "tells of other settings than spinal-seed0 has" in damage(lambda row: None)
    asked.write_text(text)
    # Gone, it is made again of the trials.
    assert "tuning.json is gone" in damage(None)
    compare("digits", HEADS, tune=3, out=folder, **SMALL)
    assert json.loads(path.read_text()) == whole


def test_the_test_part_decides_nothing(
    done: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(spec: RunSpec, **options: Any) -> Any:
        splits = load_splits(spec, **options)
        test = splits.test
        noise = torch.full_like(test.inputs, 255)  # type: ignore[union-attr]
        wrong = (test.targets + 1) % 10
        return replace(splits, test=type(test)(noise, wrong))  # type: ignore[call-arg]

    monkeypatch.setattr(comparing.building, "load_splits", poisoned)
    other = compare("digits", HEADS, tune=3, out=tmp_path / "cmp", **SMALL)
    assert other.summary.heads[0].values != done.summary.heads[0].values
    ours, theirs = ((folder / "tuning.json").read_text() for folder in (done.folder, other.folder))
    assert ours == theirs


def test_two_jobs_find_the_same_bits(done: Comparison, tmp_path: Path) -> None:
    compare("digits", HEADS, tune=3, out=tmp_path / "cmp", **SMALL | {"jobs": 2})
    assert (tmp_path / "cmp/tuning.json").read_text() == (done.folder / "tuning.json").read_text()


@pytest.mark.slow
def test_killed_it_goes_on_and_done_it_repeats_nothing(
    done: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "cmp", []

    def stop(event: Any) -> None:
        if event.kind == "started":
            seen.append(event.cell.folder.name)
            if len(seen) == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare("digits", HEADS, tune=3, out=out, on_event=stop, **SMALL)
    assert not (out / "tuning.json").exists()
    assert not (out / "runs").exists()
    again: list[str] = []
    note = lambda e: again.append(e.cell.folder.name) if e.kind == "started" else None  # noqa: E731
    compare("digits", HEADS, tune=3, out=out, on_event=note, **SMALL)
    assert len([name for name in again if "trial" in name]) == 5
    assert not set(again) & set(seen[:4])
    assert (out / "tuning.json").read_text() == (done.folder / "tuning.json").read_text()
    again.clear()
    compare("digits", HEADS, tune=3, out=out, on_event=note, **SMALL)
    assert not again
    # More trials: the first are kept, runs whose settings changed are made again, and it is told.
    more = compare("digits", HEADS, tune=6, out=out, on_event=note, **SMALL)
    assert len([name for name in again if "trial" in name]) == 9
    fresh = compare("digits", HEADS, tune=6, out=tmp_path / "fresh", **SMALL)
    assert chosen(out) == chosen(tmp_path / "fresh")
    assert [head.values for head in more.summary.heads] == [
        head.values for head in fresh.summary.heads
    ]
    changed = [label for label, row in chosen(done.folder).items() if row != chosen(out)[label]]
    assert changed
    before = sorted(path.name for path in (out / "tuning/before").iterdir())
    assert before == sorted(f"{label}-seed{seed}" for label in changed for seed in (0, 1))
    assert any("extended from 3 to 6 trials" in note for note in more.summary.notes)
    assert not any("extended" in note for note in fresh.summary.notes)


def test_a_diverged_trial_is_a_failed_one_and_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spaces.SPACES, "linear", {"lr": spaces.Choice((1e-3, 1e30))})
    again: list[str] = []
    note = lambda e: again.append(e.cell.folder.name) if e.kind == "started" else None  # noqa: E731
    options = SMALL | {"seeds": 1, "optimizer": "sgd", "on_event": note}
    out = tmp_path / "cmp"
    found = compare("digits", "linear,matched", tune=4, out=out, **options)
    row = found.summary.tuning[0]
    assert (row.trials, 0 < row.failed < 4) == (4, True)
    assert row.chosen == {"lr": 1e-3}
    assert len(row.curve) == 4 - row.failed
    tried = json.loads((out / "tuning.json").read_text())["rows"][0]["tried"]
    assert all(bool(t.get("reason")) == (t["settings"]["lr"] > 1) for t in tried)
    assert any("Some trials failed, of linear" in note for note in found.summary.notes)
    again.clear()
    compare("digits", "linear,matched", tune=4, out=out, **options)
    assert not again


def test_a_trial_that_meets_a_fault_of_the_disk_is_no_failed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be left out of the choice, and change it when it is tried again."""
    unlink = Path.unlink

    def broken(self: Path, missing_ok: bool = False) -> None:
        if self.name == "model.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", broken)
    out = tmp_path / "cmp"
    with pytest.raises(files.NotWritten, match="Input/output error"):
        compare("digits", "linear,matched", tune=2, out=out, **SMALL | {"jobs": 1})
    assert not (out / "tuning.json").exists()
    assert not list(out.rglob("failed.json"))


def test_a_head_whose_every_trial_fails_keeps_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(spaces.SPACES, "matched", {"lr": spaces.Choice((1e30,))})
    out = tmp_path / "cmp"
    options = SMALL | {"seeds": 1, "optimizer": "sgd", "model": "arch2"}
    found = compare("digits", "linear,matched", tune=1, out=out, **options)
    assert found.summary.heads[1].chosen is None
    assert found.summary.tuning[1].untuned
    assert configs(out / "runs", "matched*")["matched-seed0"]["train"]["lr"] < 1
    assert any("Every trial failed of matched" in note for note in found.summary.notes)


def test_the_report_tells_space_choice_and_curve(done: Comparison) -> None:
    page = done.report().read_text(encoding="utf-8")
    assert 'id="tuning"' in page
    assert "(0.0003 to 0.03, by factors)" in page
    assert (done.folder / "tuning.svg").stat().st_size > 1000
    axes = done.plot_tuning()
    lines = {line.get_label(): line for line in axes.lines}
    for row in done.summary.tuning:
        assert list(lines[row.label].get_ydata()) == list(row.curve)
        assert lines[row.label].get_linestyle() == ("--" if row.untuned else "-")
    assert done.summary.heads[2].chosen == done.summary.tuning[2].chosen
    kept = done.summary.to_dict()
    assert to_json(Summary.from_dict(json.loads(to_json(kept))).to_dict()) == to_json(kept)
    untuned = replace(done, summary=replace(done.summary, tuning=()))
    with pytest.raises(InputError, match="nothing was tuned"):
        untuned.plot_tuning()


def test_notes_name_edges_and_the_untuned() -> None:
    flat = Tuned("a", {}, 9, 0, {"lr": 1}, (0.5, 0.9, 0.9), ("lr (high)",), False)
    rising = replace(flat, label="b", edges=(), untuned=True, failed=2)
    notes = " ".join(tuning_notes([flat, rising]))
    assert "for a (lr high)" in notes
    assert "Untuned: b." in notes
    assert "of b (2)" in notes
    assert "as many trials" in tuning_notes([flat, replace(rising, trials=8)])[0]
    assert spaces.still_rising([0.5, 0.6, 0.70, 0.72], 0.01)
    assert not spaces.still_rising([0.5, 0.6, 0.72, 0.72], 0.01)
    assert spaces.still_rising([0.9, 0.5, 0.3], 0.1)  # a loss


def test_tables_join_what_their_units_found() -> None:
    def unit(lr: float, *scores: float | None, edges: tuple[str, ...] = ()) -> dict[str, Any]:
        trials = [{"score": score, "settings": {"lr": lr}} for score in scores]
        return {"trials": trials, "chosen": {"lr": lr}, "edges": list(edges)}

    units = [
        unit(0.01, 0.5, 0.7, edges=("lr (high)",)),
        unit(0.02, 0.6, None, edges=("lr (high)",)),
        unit(0.03, 0.4, 0.4),
    ]
    row = of_table("mlp", "mlp", units, 0.005, higher_is_better=True)
    assert row is not None
    assert row.chosen == {"lr": [0.01, 0.02, 0.03]}
    assert row.edges == ("lr (high)",)
    assert (row.trials, row.failed) == (2, 1)
    assert row.curve == (pytest.approx((0.6 + 0.6 + 0.4) / 3),)
    assert of_table("mlp", "mlp", [{"trials": []}], 0.005, higher_is_better=True) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tune": -1}, "tune must be a number of trials"),
        ({"tune": True}, "tune must be a number of trials"),
        ({"tune": 2, "folds": 3}, "leave out folds or tune"),
        ({"tune": 2, "seed": tuning.TUNING_SEED}, "is that of tuning"),
        (
            {"tune": 2, "lr": 1e-2, "weight_decay": 0.0, "heads": "spinal,linear:dropout=0"},
            "nothing is left to tune for linear:dropout=0",
        ),
    ],
)
def test_bad_input_is_told_before_anything_is_written(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    asked = {"heads": HEADS, "out": tmp_path / "cmp", **SMALL, **options}
    with pytest.raises(InputError, match=said):
        compare("digits", **asked)
    assert not (tmp_path / "cmp").exists()


def test_a_tuned_folder_is_not_mixed_with_others(done: Comparison, tmp_path: Path) -> None:
    for wrong, said in ((0, "give tune=3 again"), (2, "was tuned by 3 trials")):
        with pytest.raises(InputError, match=said):
            compare("digits", HEADS, tune=wrong, out=done.folder, **SMALL)
    with pytest.raises(InputError, match="holds a run with"):
        compare("digits", HEADS, tune=3, out=done.folder, **SMALL | {"epochs": 2})
    compare("digits", "linear,matched", out=tmp_path / "plain", **SMALL)
    with pytest.raises(InputError, match="was not tuned"):
        compare("digits", "linear,matched", tune=2, out=tmp_path / "plain", **SMALL)

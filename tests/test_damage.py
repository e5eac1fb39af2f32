"""What does not hold what was written to it is noticed, and stops only who needs it."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from helpers import command, without_digests
from spinalnet import InputError, RunSpec, compare, files, run_one, summarize
from spinalnet.cli import app
from spinalnet.comparison import load_trained
from spinalnet.comparison.outputs import OUTPUTS_FILE, load_outputs
from spinalnet.comparison.schema import read_mapping
from spinalnet.deploy import evaluate_run, verify
from spinalnet.files import DamagedFile
from spinalnet.models import features
from spinalnet.training import runs, states

SPEC = RunSpec.of("digits", limit=60, epochs=3, lr=3e-3, device="cpu", seed=0)
MODEL = "model.safetensors"


class Stop(BaseException):
    """Ends a run as a kill does."""


def stop_in_third_epoch(spec, progress):
    if (progress.phase, progress.epoch, progress.step) == ("train", 3, 1):
        raise Stop


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_one(SPEC, folder)
    return folder


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken") / "run"
    with pytest.raises(Stop):
        run_one(SPEC, folder, on_progress=stop_in_third_epoch)
    return folder


def copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))


def flip(path: Path, draw: random.Random) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return files.load_weights(folder / MODEL)[0]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# One bit anywhere


def test_no_bit_of_a_model_changes_unseen(whole, tmp_path):
    draw, expected, refused = random.Random(1), weights(whole), 0
    for _ in range(60):
        path = Path(shutil.copy(whole / MODEL, tmp_path / MODEL))
        flip(path, draw)
        try:
            found = files.load_weights(path)[0]
        except InputError:
            refused += 1
        else:
            assert same(found, expected)  # a space of the header, such as one between two names
    assert refused > 50


def test_no_bit_of_what_was_said_of_the_test_changes_unseen(whole, tmp_path):
    draw, expected = random.Random(2), load_outputs(whole / OUTPUTS_FILE)
    for _ in range(40):
        path = Path(shutil.copy(whole / OUTPUTS_FILE, tmp_path / OUTPUTS_FILE))
        flip(path, draw)
        try:
            found = load_outputs(path)
        except InputError:
            continue
        assert torch.equal(found.probabilities, expected.probabilities)
        assert torch.equal(found.targets, expected.targets)


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "config.yaml"])
def test_no_bit_of_a_finished_runs_text_changes_unseen(whole, tmp_path, name):
    draw = random.Random(3)
    for _ in range(15):
        run = copy(whole, tmp_path / "run")
        flip(run / name, draw)
        with pytest.raises(InputError):  # the first line of config.yaml makes it a run at all
            runs.load_runs(run)


# The state


def test_a_damaged_state_is_never_gone_on_from(broken_off, tmp_path):
    draw = random.Random(4)
    newest = states.load(broken_off)[0]["epoch"]
    assert newest == 2
    for _ in range(60):
        run = copy(broken_off, tmp_path / "run")
        flip(run / states.STATE_FILE, draw)
        state, notes = states.load(run)
        assert state["epoch"] == 1
        assert len(notes) == 1
        assert "state.pt was damaged" in notes[0]


def test_a_run_goes_on_from_the_state_before_and_ends_the_same(whole, broken_off, tmp_path):
    run = copy(broken_off, tmp_path / "run")
    (run / states.STATE_FILE).write_bytes((run / states.STATE_FILE).read_bytes()[:-100])
    said: list[str] = []
    record = run_one(SPEC, run, on_progress=lambda spec, progress: said.append(progress.note))
    assert any("went on from state-before.pt" in note for note in said)
    assert any("went on from state-before.pt" in note for note in record.result["notes"])
    assert same(weights(run), weights(whole))
    assert [row["epoch"] for row in record.metrics] == [1, 2, 3]


def test_two_damaged_states_are_one_sentence(broken_off, tmp_path):
    run = copy(broken_off, tmp_path / "run")
    for name in (states.STATE_FILE, states.BEFORE_FILE):
        (run / name).write_bytes(b"PK")
    with pytest.raises(DamagedFile, match=r"state\.pt .*state-before\.pt .*no state is whole"):
        run_one(SPEC, run)


def test_a_state_of_an_earlier_version_is_used_with_a_word(broken_off, whole, tmp_path):
    run = copy(broken_off, tmp_path / "run")
    torch.save(states.load(run)[0], run / states.STATE_FILE)  # which writes no digest
    (run / states.BEFORE_FILE).unlink()
    record = run_one(SPEC, run)
    assert any("had no digest" in note for note in record.result["notes"])
    assert same(weights(run), weights(whole))


def test_a_state_is_what_torch_reads(broken_off):
    read = torch.load(broken_off / states.STATE_FILE, weights_only=True)
    assert read["epoch"] == 2


def test_a_state_that_is_none_of_ours_is_one_sentence(broken_off, tmp_path):
    for content in ({"epoch": 2}, {"config": 7}, [1, 2], {"config": SPEC.train.to_dict()}):
        run = copy(broken_off, tmp_path / "run")
        (run / states.BEFORE_FILE).unlink()
        torch.save(content, run / states.STATE_FILE)
        with pytest.raises(InputError, match="state"):
            run_one(SPEC, run)


# The rows


@pytest.mark.parametrize(
    "wrong",
    [
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: lines[1:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0].replace(b'"epoch": 1', b'"epoch": "1"'), *lines[1:]],
    ],
    ids=["doubled", "missing", "out of order", "text"],
)
def test_rows_that_are_not_one_for_every_epoch_are_refused(broken_off, whole, tmp_path, wrong):
    for folder in (broken_off, whole):
        run = copy(folder, tmp_path / "run")
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        (run / "metrics.jsonl").write_bytes(b"".join(wrong(lines)))
        if folder is whole:  # as an earlier version left it: without digests
            without_digests(run)
        with pytest.raises(DamagedFile, match=r"metrics\.jsonl should have"):
            runs.load_runs(run)
        if folder is broken_off:
            with pytest.raises(DamagedFile, match=r"metrics\.jsonl should have"):
                run_one(SPEC, run)


# Only who needs it is stopped


@pytest.mark.parametrize("name", ["environment.json", "result.json", "metrics.jsonl"])
def test_what_an_evaluation_does_not_need_does_not_stop_it(whole, tmp_path, name):
    run = copy(whole, tmp_path / "run")
    (run / name).write_bytes(b"{broken")
    assert evaluate_run(run).metrics == evaluate_run(whole).metrics
    with pytest.raises(InputError, match=name):
        summarize(run)


def test_a_result_that_is_gone_is_said(whole, tmp_path):
    run = copy(whole, tmp_path / "run")
    (run / "result.json").unlink()
    with pytest.raises(DamagedFile, match="is gone"):
        runs.load_runs(run)


def test_a_run_of_an_earlier_version_has_no_digests_and_is_read(whole, tmp_path):
    run = copy(whole, tmp_path / "run")
    without_digests(run)
    assert summarize(run).heads[0].n == 1
    assert evaluate_run(run).metrics == evaluate_run(whole).metrics
    (found,) = verify(run)
    assert found.damage == ()
    assert any("earlier version" in note for note in found.notes)


# What no training has made


def rewritten(whole: Path, to: Path, **about) -> Path:
    """Return a run whose model says something else of itself, with a digest that fits."""
    run = copy(whole, to)
    tensors, kept = files.load_weights(run / MODEL)
    files.save_weights(run / MODEL, tensors, kept | about)
    return run


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"std": [0.0]}, r"std must be numbers above 0, got \[0\.0\]"),
        ({"mean": [1e400]}, "mean must be finite"),
        ({"std": [0.5, 0.5], "mean": [0.1, 0.1]}, "mean and std must be of every channel"),
        ({"class_names": ["a", "b"]}, "do not fit the network"),
        ({"input_shape": [1, 90000, 90000]}, "inputs of 8,100,000,000 numbers"),
        ({"head_options": {"hidden_features": 10**9}}, r"a size of 1,000,000,000"),
        ({"head_options": {"hidden_features": 10**4}}, r"a network of [\d,]+ parameters or more"),
        ({"head_options": {"num_layers": 10**4, "hidden_features": 90}}, "parameters or more"),
        ({"schema": 99}, "Update spinalnet"),
        ({"class_names": None}, "class_names"),
    ],
    ids=str,
)
def test_what_no_training_can_have_written_is_refused_by_name(whole, tmp_path, about, sentence):
    run = copy(whole, tmp_path / "run")
    tensors, kept = files.load_weights(run / MODEL)
    from safetensors.torch import save_file

    save_file(tensors, run / MODEL, metadata={"spinalnet": json.dumps(kept | about)})
    with pytest.raises(InputError, match=sentence):
        load_trained(run / MODEL)


def test_weights_that_are_no_numbers_are_refused_by_name(whole, tmp_path):
    run = copy(whole, tmp_path / "run")
    tensors, about = files.load_weights(run / MODEL)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = math.nan
    files.save_weights(run / MODEL, tensors, about)
    with pytest.raises(InputError, match=f"'{name}' hold numbers that are not finite"):
        evaluate_run(run)


def test_a_trunk_that_was_changed_in_the_cache_reaches_no_run(tmp_path):
    trunk = nn.Linear(3, 2)
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    features.keep_trunk(trunk, tmp_path / "a", cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").glob("trunk-*")
    changed = {name: value + 1 for name, value in files.load_weights(kept)[0].items()}
    files.save_weights(kept, changed)  # with a digest of its own
    features.keep_trunk(trunk, tmp_path / "b", cache=tmp_path / "cache")
    flip(kept, random.Random(0))
    features.keep_trunk(trunk, tmp_path / "c", cache=tmp_path / "cache")
    for name in ("a", "b", "c"):
        assert torch.equal(features.load_trunk(tmp_path / name)["trunk.weight"], trunk.weight)
    data = bytearray((tmp_path / "b" / features.TRUNK_FILE).read_bytes())
    data[-1] ^= 1
    (tmp_path / "b" / features.TRUNK_FILE).write_bytes(data)
    with pytest.raises(DamagedFile, match=r"trunk\.safetensors is damaged"):
        features.load_trunk(tmp_path / "b")


# verify


def test_a_whole_run_is_found_whole(whole):
    (found,) = verify(whole)
    assert found.damage == ()
    assert {"config.yaml", "result.json", MODEL, OUTPUTS_FILE} <= set(found.checked)
    assert sum("test metrics" in what for what in found.checked) == 2


@pytest.mark.parametrize(
    "name", ["config.yaml", "environment.json", "metrics.jsonl", "result.json", MODEL, OUTPUTS_FILE]
)
def test_damage_to_any_file_is_found_and_named(whole, tmp_path, name):
    run = copy(whole, tmp_path / "run")
    data = bytearray((run / name).read_bytes())
    data[-3] ^= 1
    (run / name).write_bytes(data)
    (found,) = verify(run, models=False)
    assert any(name in sentence for sentence in found.damage)
    (run / name).unlink()
    if name != "config.yaml":  # without which it is no run
        (found,) = verify(run, models=False)
        assert any(name in sentence and "gone" in sentence for sentence in found.damage)


def test_a_result_that_is_not_the_models_is_found_whatever_its_digest(whole, tmp_path):
    run = copy(whole, tmp_path / "run")
    result = json.loads((run / "result.json").read_text())
    result["test"]["accuracy"] += 0.05
    (run / "result.json").write_text(json.dumps(result))
    done = json.loads((run / "DONE").read_text())
    done["digests"]["result.json"] = files.digest_of((run / "result.json").read_bytes())
    files.write_kept(run / "DONE", done)
    (found,) = verify(run, models=False)
    assert any("what the model said" in sentence for sentence in found.damage)
    (found,) = verify(run)
    assert any("accuracy is" in sentence for sentence in found.damage)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="emptied"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut off"),
        pytest.param(lambda data: b"{}", id="of nothing"),
        pytest.param(lambda data: data.replace(b"result.json", b"sesult.json"), id="changed"),
    ],
)
def test_a_damaged_mark_of_completion_is_a_fault(whole, tmp_path, damage):
    run = copy(whole, tmp_path / "run")
    (run / "DONE").write_bytes(damage((run / "DONE").read_bytes()))
    (found,) = verify(run, models=False)
    assert any("DONE is damaged" in sentence for sentence in found.damage)
    for use in (summarize, evaluate_run, lambda path: run_one(SPEC, path)):
        with pytest.raises(DamagedFile, match=r"DONE is damaged.*delete the folder"):
            use(run)


def test_rows_that_an_interrupted_run_did_not_write_are_never_gone_on_from(broken_off, tmp_path):
    run = copy(broken_off, tmp_path / "run")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[0]["train_loss"] += 0.25
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = verify(run)
    assert any("metrics.jsonl is damaged" in sentence for sentence in found.damage)
    with pytest.raises(DamagedFile, match=r"metrics\.jsonl is damaged"):
        run_one(SPEC, run)


def test_an_interrupted_run_is_verified_by_its_states(broken_off, tmp_path):
    (found,) = verify(broken_off)
    assert found.damage == ()
    assert states.STATE_FILE in found.checked
    run = copy(broken_off, tmp_path / "run")
    flip(run / states.BEFORE_FILE, random.Random(5))
    (found,) = verify(run)
    assert [states.BEFORE_FILE in sentence for sentence in found.damage] == [True]


def test_the_command_says_which_run_of_a_folder_is_damaged(whole, tmp_path):
    for name in ("a", "b"):
        copy(whole, tmp_path / name)
    run = CliRunner().invoke(app, ["verify", str(tmp_path), "--no-models"])
    assert run.exit_code == 0, run.output
    flip(tmp_path / "b" / "result.json", random.Random(6))
    run = CliRunner().invoke(app, ["verify", str(tmp_path), "--no-models", "--json"])
    assert run.exit_code == 2
    said = [json.loads(line) for line in run.stdout.splitlines()]
    found = [one for one in said if one["event"] == "run_checked"]
    assert said[-1] == {"event": "result", "runs": 2, "whole": 1, "comparisons_damaged": 0}
    assert [bool(one["damage"]) for one in found] == [False, True]


# --- comparisons ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "c"
    compare("digits", "spinal,linear", 1, epochs=1, limit=60, device="cpu", jobs=1, tune=1, out=out)
    return out


def test_a_comparison_is_checked_beside_its_runs(compared: Path) -> None:
    assert [(one.kind, one.damage) for one in verify(compared, models=False)] == [
        *[("run", ())] * (len(list(compared.rglob("DONE")))),
        ("comparison", ()),
    ]


def test_a_summary_that_counts_a_run_which_is_not_done_is_told(
    compared: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "c"
    shutil.copytree(compared, whole)
    first, second = sorted((whole / "runs").rglob("DONE"))
    first.unlink()
    *_, found = verify(whole, models=False)
    assert "counts 1 run of linear, of which 0 are done" in " ".join(found.damage)
    second.unlink()
    *_, found = verify(whole, models=False)
    assert "counts 1 run of spinal, of which 0 are done" in " ".join(found.damage)


@pytest.mark.parametrize(
    "name", ["comparison.yaml", "timing.json", "looks.json", "tuning.json", "summary.json"]
)
def test_half_a_file_of_a_comparison_is_damage(compared: Path, tmp_path: Path, name: str) -> None:
    whole = tmp_path / "c"
    shutil.copytree(compared, whole)
    target = whole / name
    target.write_text('{"heads": [' if name.endswith("json") else "data: [")
    *_, found = verify(whole, models=False)
    assert found.kind == "comparison"
    assert name in " ".join(found.damage)
    done = command("verify", whole, "--no-models")
    assert done.returncode == 2
    assert "The runs' comparison is damaged." in done.stderr


KEPT = {
    "comparison.yaml": (b"epochs: 1", b"epochs: 2"),
    "timing.json": (b'"rounds": 5', b'"rounds": 9'),
    "looks.json": (b"1", b"2"),
    "tuning.json": (b'"trials": 1', b'"trials": 3'),
    "summary.json": (b'"mean": 0.', b'"mean": 1.'),
}


@pytest.mark.parametrize("name", KEPT)
def test_no_number_of_a_comparison_changes_unseen(
    compared: Path, tmp_path: Path, name: str
) -> None:
    whole = tmp_path / "c"
    shutil.copytree(compared, whole)
    target = whole / name
    target.write_bytes(target.read_bytes().replace(*KEPT[name], 1))
    assert target.read_bytes() != (compared / name).read_bytes()
    *_, found = verify(whole, models=False)
    assert f"{name} is damaged" in " ".join(found.damage)
    with pytest.raises(DamagedFile, match=re.escape(name)):
        read_mapping(target)


def test_kept_values_come_back_without_their_digest(tmp_path: Path) -> None:
    values = {"a": [1.5e-05, float("nan"), "\udcff", None], "b": {"1": (1, 2)}}
    for name in ("a.json", "a.yaml"):
        if name == "a.yaml":  # YAML says what no text can
            values["a"] = [1e-05, "x"]
        files.write_kept(tmp_path / name, values)
        back = read_mapping(tmp_path / name)
        assert back == json.loads(json.dumps(files._strict(values)))
        assert "blake2b" in (tmp_path / name).read_text()
    (tmp_path / "a.json").write_text('{"a": 1}')  # of an earlier version
    assert read_mapping(tmp_path / "a.json") == {"a": 1}


def test_a_summary_that_tells_something_else_than_the_runs_is_damage(
    compared: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "c"
    shutil.copytree(compared, whole)
    told = json.loads((whole / "summary.json").read_text())
    told["heads"][1]["mean"] += 0.01
    files.write_kept(whole / "summary.json", told)
    *_, found = verify(whole, models=False)
    assert "tells another result of linear than its runs" in found.damage[0]


def test_a_comparison_none_of_whose_runs_is_done_is_not_damaged(
    compared: Path, tmp_path: Path
) -> None:
    begun = tmp_path / "c"
    shutil.copytree(compared, begun)
    for mark in (begun / "runs").rglob("DONE"):
        mark.unlink()
    for name in ("summary.json", "report.html"):
        (begun / name).unlink()
    *_, found = verify(begun, models=False)
    assert (found.kind, found.damage) == ("comparison", ())
    assert "none of its runs is done" in found.notes[0]

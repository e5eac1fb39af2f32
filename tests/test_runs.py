import errno
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.training.environment import cpu_model, describe_environment
from spinalnet.training.runs import RunFolder, is_done, is_run, load_runs

CONFIG = {"model": "tiny", "seed": 0, "train": {"lr": 1e-5, "phases": [[0.1, 2]]}}
ROWS = [{"epoch": epoch, "val_loss": 1.0 / epoch} for epoch in (1, 2, 3)]


@pytest.fixture
def run(tmp_path):
    return RunFolder.start(tmp_path / "deep" / "run", CONFIG)


def test_start_writes_config_and_environment(run):
    record = load_runs(run.path)[0]
    assert record.config == CONFIG
    assert record.environment["torch"] == torch.__version__
    expected = {"spinalnet", "commit", "python", "torchvision", "numpy", "platform", "cpu"}
    expected |= {"torch", "cores", "threads", "kernels", "bf16", "cuda_device", "started"}
    assert set(record.environment) == expected
    assert record.result is None
    assert not record.done


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "processor: 0\ncpu family : 6\nmodel : 207\nmodel name : Intel(R) Xeon\nstepping : 2\n"
            "processor: 1\nmodel name : Another\n",
            "Intel(R) Xeon (family 6, model 207, stepping 2)",
        ),
        ("model name : One\n", "One"),
        ("CPU implementer : 0x41\n", None),
    ],
)
def test_a_processor_is_named_with_its_numbers(tmp_path, text, name):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_model(tmp_path / "cpuinfo") == (name or cpu_model(tmp_path / "not-there"))
    assert cpu_model(tmp_path / "not-there")


def test_start_takes_up_the_same_request_and_keeps_its_environment(run):
    before = (run.path / "environment.json").read_bytes()
    tupled = CONFIG | {"train": {"lr": 1e-5, "phases": ((0.1, 2),)}}
    assert RunFolder.start(run.path, tupled).path == run.path
    assert (run.path / "environment.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": 1}, r"seed = 0, not 1"),
        ({"train": {"lr": 2e-5, "phases": [[0.1, 2]]}}, r"train\.lr = 1e-05, not 2e-05"),
        ({"extra": "x"}, r"extra = None, not 'x'"),
    ],
)
def test_start_refuses_a_changed_request_by_field(run, changed, sentence):
    before = sorted(run.path.iterdir())
    with pytest.raises(InputError, match=sentence):
        RunFolder.start(run.path, CONFIG | changed)
    assert sorted(run.path.iterdir()) == before


@pytest.mark.parametrize("name", ["holiday.jpg", "config.yaml", ".hidden"])
def test_start_refuses_a_folder_that_holds_something_else(tmp_path, name):
    (tmp_path / name).write_text("seed: 0\n")
    with pytest.raises(InputError, match="not a run of spinalnet"):
        RunFolder.start(tmp_path, CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_start_refuses_names_that_are_no_text(tmp_path):
    """Neither YAML nor safetensors could read them again, after all the training."""
    odd = CONFIG | {"data": {"name": "photos \udcff"}}
    with pytest.raises(InputError, match=r"'photos \\xff' is no UTF-8 text"):
        RunFolder.start(tmp_path / "run", odd)
    with pytest.raises(InputError, match=r"run\\xfe' is no UTF-8 text"):
        RunFolder.start(tmp_path / "run\udcfe", CONFIG)
    assert not list(tmp_path.iterdir())


def test_start_accepts_what_a_kill_in_the_first_moment_leaves(tmp_path):
    (tmp_path / ".config.yaml.tmp").write_text("# A sp")
    assert is_run(RunFolder.start(tmp_path, CONFIG).path)


def test_a_run_taken_up_loses_what_a_kill_in_the_middle_of_a_write_left(run):
    run.save_state({"epoch": 1})
    kept = sorted(path.name for path in run.path.iterdir())
    with files.replacing(run.path / "state.pt"):
        (aside,) = (path for path in run.path.iterdir() if path.name not in kept)
        torn = run.path / aside.name.replace("state.pt", "model.safetensors")
        torn.write_bytes(b"half a mod")  # as a killed process leaves it: there, and never renamed
    RunFolder.start(run.path, CONFIG)
    assert sorted(path.name for path in run.path.iterdir()) == kept


def test_start_refuses_a_path_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"cannot (use|write)"):
            RunFolder.start(path, CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_no_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        RunFolder.start(tmp_path / "run", CONFIG)


def test_full_disk_is_one_sentence_and_leaves_the_old_file(run, monkeypatch):
    run.save_state({"epoch": 1})
    run.save_model({"w": torch.ones(1)})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writes = [
        lambda: run.save_state({"epoch": 2}),
        lambda: run.save_model({"w": torch.zeros(1)}),
        lambda: run.finish({}),
        lambda: run.append_metrics(ROWS[0]),
    ]
    for write in writes:
        with pytest.raises(InputError, match="No space left on device"):
            write()
    assert run.load_state() == {"epoch": 1}
    assert run.load_model()[0]["w"].item() == 1.0
    assert not list(run.path.glob(".*"))
    assert not is_done(run.path)


def test_full_disk_while_torch_writes_is_one_sentence(run, monkeypatch):
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: save(state, "/dev/full"))
    with pytest.raises(InputError, match=r"cannot write .*state\.pt"):
        run.save_state({"w": torch.ones(3)})


def test_metrics_round_trip_and_drop_what_is_beyond_the_saved_epoch(run):
    for row in ROWS:
        run.append_metrics(row)
    assert run.metrics() == ROWS
    assert run.keep_metrics(2) == ROWS[:2]
    assert run.metrics() == ROWS[:2]
    run.append_metrics(ROWS[2])
    assert run.metrics() == ROWS


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "val_l', b'{"epoch": 3}', b"\x00\x00\n", b"7\n"])
def test_a_torn_last_line_is_repaired(run, torn):
    for row in ROWS[:2]:
        run.append_metrics(row)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert run.metrics() == ROWS[:2]
    run.keep_metrics(2)
    run.append_metrics(ROWS[2])
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == ROWS


def test_missing_metrics_are_refused(run):
    run.append_metrics(ROWS[0])
    with pytest.raises(InputError, match="should have 2 rows but has 1"):
        run.keep_metrics(2)


def test_metrics_hold_finite_numbers_only(run):
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_metrics({"val_loss": float("nan")})


def test_state_round_trips_and_is_free_of_code(run):
    assert run.load_state() is None
    state = {"epoch": 2, "list": [1.5, "a", None], "w": {"a": torch.arange(3.0)}}
    run.save_state(state)
    loaded = run.load_state()
    assert torch.equal(loaded["w"].pop("a"), state["w"].pop("a"))
    assert loaded == state


def test_damaged_state_is_one_sentence(run):
    run.save_state({"epoch": 1})
    whole = (run.path / "state.pt").read_bytes()
    (run.path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        run.load_state()


def test_model_round_trips_with_its_description(run):
    weights = {"a.weight": torch.randn(3, 4).t(), "n": torch.tensor(3)}
    run.save_model(weights, {"class_names": ["ø", "b"], "mean": (0.5,)})
    loaded, description = run.load_model()
    assert description == {"class_names": ["ø", "b"], "mean": [0.5]}
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_a_foreign_or_damaged_checkpoint_is_one_sentence(run):
    from safetensors.torch import save_file

    with pytest.raises(InputError, match="there is no file"):
        run.load_model()
    (run.path / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match="not a checkpoint of spinalnet"):
        run.load_model()
    save_file({"w": torch.ones(1)}, run.path / "model.safetensors")
    with pytest.raises(InputError, match="not a checkpoint of spinalnet"):
        run.load_model()


def test_finish_writes_strict_json_then_done_and_removes_the_state(run):
    run.save_state({"epoch": 1})
    run.finish({"accuracy": float("nan"), "nested": [{"x": float("inf")}, (1, 2)]})

    def refuse(constant):
        raise AssertionError(constant)

    text = (run.path / "result.json").read_text()
    result = json.loads(text, parse_constant=refuse)
    assert result == {"accuracy": None, "nested": [{"x": None}, [1, 2]]}
    assert not (run.path / "state.pt").exists()
    assert is_done(run.path)
    assert load_runs(run.path)[0].result == result


def test_done_is_written_after_the_result_and_before_the_state_goes(run, monkeypatch):
    run.save_state({"epoch": 1})
    order = []
    write = files.write_bytes
    monkeypatch.setattr(
        files, "write_bytes", lambda path, data: (order.append(path.name), write(path, data))
    )
    unlink = type(run.path).unlink

    def record(path, missing_ok=False):
        order.append(f"remove {path.name}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(run.path), "unlink", record)
    run.finish({})
    assert order == ["result.json", "DONE", "remove state.pt", "remove state-before.pt"]


def test_load_runs_finds_all_by_path_and_ignores_the_rest(tmp_path):
    for name in ("runs/b", "runs/a"):
        RunFolder.start(tmp_path / name, CONFIG | {"name": name}).append_metrics(ROWS[0])
    RunFolder(tmp_path / "runs" / "b").finish({"x": 1})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text("a: 1\n")
    found = load_runs(tmp_path)
    assert [(r.config["name"], r.done, r.result) for r in found] == [
        ("runs/a", False, None),
        ("runs/b", True, {"x": 1}),
    ]
    assert [r.metrics for r in found] == [ROWS[:1]] * 2


def test_load_runs_without_any_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        load_runs(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        load_runs(tmp_path / "absent")


def test_write_mapping_chooses_the_format_by_the_name(tmp_path):
    values = {"b": 1, "a": [0.5, float("nan")], "ø": None}
    files.write_mapping(tmp_path / "new" / "x.json", values)
    assert json.loads((tmp_path / "new" / "x.json").read_text("utf-8")) == values | {
        "a": [0.5, None]
    }
    files.write_mapping(tmp_path / "x.yaml", {"b": 1, "ø": (2,)})
    assert (tmp_path / "x.yaml").read_text("utf-8") == "b: 1\nø:\n- 2\n"


def test_two_processes_write_one_file_at_once(tmp_path):
    path = tmp_path / "x.json"
    with files.replacing(path) as ours:
        ours.write(b"{")
        files.write_text(path, "the other process was faster")
        ours.write(b"}")
    assert path.read_text() == "{}"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_the_commit_of_a_checkout_is_known():
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or not Path(files.__file__).is_relative_to(root / "src"):
        pytest.skip("not a checkout")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    )
    assert describe_environment()["commit"] == head.stdout.strip()

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from helpers import command
from spinalnet import TrainConfig, files
from spinalnet.cli import options as options_module
from spinalnet.cli import root


def spinalnet(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which has all loaded."""
    done = command(*arguments)
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def answered(done: object) -> dict:
    """Return the answer of a command that was asked for JSON: its last line."""
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer.pop("event") == "result"
    return answer


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run in this process (fast); return the sentence on standard error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spinalnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            root.main()
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert said.out == ""
    return re.sub(r"\s+", " ", said.err)


STUDY = """data: [{{data: {place}/a.csv, target: y}}, {{data: {place}/b.csv, target: y}}]
heads: linear,spinal
seeds: 2
options: {{preset: quick}}
"""
NO_ROOM = {
    "images": "compare digits --limit 60 --epochs 1 --device cpu",
    "a table": "compare {place}/a.csv --target y --preset quick",
    "a study": "study {place}/study.yaml",
}


@pytest.mark.parametrize("words", NO_ROOM.values(), ids=NO_ROOM)
def test_a_run_without_room_ends_a_comparison_in_a_sentence(tmp_path, capsys, monkeypatch, words):
    rows = "".join(f"{k},{k % 7},{'ny'[k % 2]}\n" for k in range(60))
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(f"p,q,y\n{rows}")
    (tmp_path / "study.yaml").write_text(STUDY.format(place=tmp_path))
    out = tmp_path / "out"
    command = [*words.format(place=tmp_path).split(), "--jobs", "1", "--out", out]
    if words.startswith("compare"):
        command += ["--heads", "linear,spinal", "--seeds", "2"]
    write, places = files.write_bytes, []

    def full(path, data):
        if Path(path).name == "result.json":
            places.append(path)
            if len(places) == 2:
                raise files.not_written(Path(path), OSError(errno.ENOSPC, "No space left"), 4321)
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", full)
    said = refusal(capsys, *command)
    assert "No space left, 4,321 bytes needed" in said
    assert "run the same command again" in said
    assert len(places) == 2
    assert len(list(out.rglob("DONE"))) == 1
    assert not list(out.rglob("failed.json"))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "cmp"
    done = spinalnet(
        *("compare", "digits", "--heads", "spinal,mlp", "--seeds", 2, "--epochs", 1),
        *("--limit", 200, "--device", "cpu", "--out", out),
    )
    assert "spinal" in done.stdout
    assert "report.html" in done.stdout
    assert "spinal-seed0: val accuracy" in done.stderr
    return out


def test_compare_leaves_the_promised_files(comparison: Path) -> None:
    names = {path.name for path in comparison.iterdir()}
    assert names >= {
        "summary.json",
        "summary.csv",
        "comparison.yaml",
        "timing.json",
        "learning_curves.svg",
        "cost.svg",
        "confusion.svg",
        "report.html",
        "runs",
    }
    assert {path.name for path in (comparison / "runs").iterdir()} == {
        f"{head}-seed{seed}" for head in ("spinal", "mlp") for seed in (0, 1)
    }
    summary = json.loads((comparison / "summary.json").read_text())
    for head in summary["heads"]:
        assert head.keys() >= {"head", "params", "head_macs", "mean", "std", "n"}
    assert summary["command"].startswith("spinalnet compare digits --heads spinal,mlp")


def test_train_evaluate_predict_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    arguments = ("train", "digits", "--model", "mnist-cnn", "--head", "spinal", "--epochs", 1)
    options = ("--seed", 3, "--limit", 200, "--head-option", "num_layers=3", "--device", "cpu")
    spinalnet(*arguments, *options, "--out", run)
    assert {path.name for path in run.iterdir()} == {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "test-outputs.safetensors",
        "samples.png",
        "result.json",
        "DONE",
    }
    evaluated = answered(spinalnet("evaluate", run, "--json"))
    result = json.loads((run / "result.json").read_text())
    classes = evaluated.pop("classes")
    assert evaluated == result["test"]
    assert list(classes) == list("0123456789")
    assert sum(row["support"] for row in classes.values()) == 359
    shown = spinalnet("evaluate", run).stdout
    assert "adaptive_ece" in shown
    assert shown.count("0.") >= 10 * 3
    Image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    predicted = spinalnet("predict", run, tmp_path / "white.png").stdout.splitlines()
    assert predicted[0].startswith("path,prediction,probability,p_0")
    assert len(predicted) == 2
    (tmp_path / "names").write_text(f"{tmp_path / 'white.png'}\0" * 2)
    with (tmp_path / "names").open() as names, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", names)
        listed = spinalnet("predict", run, "-", "--format=jsonl", "--top-k=2")
    records = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [record["prediction"] for record in records] == [predicted[1].split(",")[1]] * 2
    assert len(records[0]["top"]) == 2


def test_rates_are_found_for_several_heads(tmp_path: Path) -> None:
    done = spinalnet(
        *("lr-find", "digits", "--heads", "spinal,linear", "--limit", 200, "--steps", 20),
        *("--device", "cpu", "--out", tmp_path / "rates"),
    )
    assert {path.name for path in (tmp_path / "rates").iterdir()} == {"lr-find.png", "lr-find.json"}
    found = json.loads((tmp_path / "rates" / "lr-find.json").read_text())
    for head in ("spinal", "linear"):
        assert f"{head}: --lr {found['heads'][head]['suggestion']:.1e}" in done.stdout
        assert len(found["heads"][head]["losses"]) <= 20


def test_of_several_processes_the_main_one_alone_writes_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinalnet import _dist
    from spinalnet.comparison import running

    monkeypatch.setattr(running, "find_rates", lambda *_, **__: {})
    monkeypatch.setattr(_dist, "is_main", lambda: False)
    out = tmp_path / "rates"
    done = CliRunner().invoke(root.app, ["lr-find", "digits", "--out", str(out)])
    assert done.exit_code == 0, done.exception
    assert not out.exists()


def test_arguments_in_a_sentence_become_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["spinalnet", "compare", "digits"])
    for argument, option in (
        ("pass data_dir", "pass --data-dir"),
        ("with download=True, or", "with --download, or"),
        ("at image_size=28.", "at --image-size 28."),
        ("the column: target=COLUMN; all", "the column: --target COLUMN; all"),
        ("a class (override: task=regression).", "a class (override: --task regression)."),
        ("in '/a/data_dir/b' or /my_data_dir", "in '/a/data_dir/b' or /my_data_dir"),
        ("the model and hidden_features=3", "the model and hidden_features=3"),
        ("give a file with pretrained=FILE.", "give a file with --weights FILE."),
    ):
        assert root.as_options(argument) == option
    monkeypatch.setattr(sys, "argv", ["spinalnet", "report", "runs/x"])  # which trains nothing
    assert root.as_options("set class_weights=balanced.") == "set --class-weights balanced."


def test_list_names_everything_as_json() -> None:
    tables = answered(spinalnet("list", "--json"))
    assert {"digits", "mnist", "emnist-letters"} <= set(tables["data sets"])
    assert {"mnist-cnn", "vgg5"} <= set(tables["models"])
    assert {"spinal", "mlp", "matched", "linear"} <= set(tables["heads"])
    assert all(summary for rows in tables.values() for summary in rows.values())


def test_version_and_env() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", spinalnet("--version").stdout)
    environment = json.loads(spinalnet("env").stdout)
    assert environment["torch"]
    builds = ("x86_64_v4", "x86_64_v3", "baseline")
    assert environment["kernels"].startswith("none: ") or environment["kernels"] in builds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "digts"], "did you mean 'digits'"),
        (["compare", "digits", "--heads", "spinal,mpl"], "did you mean 'mlp'"),
        (["compare", "digits", "--model", "vgg"], "did you mean 'vgg5'"),
        (["compare", "digits", "--optimizer", "adm"], "did you mean 'adam'"),
        (["compare", "digits", "--schedule", "cosin"], "did you mean 'cosine'"),
        (["compare", "digits", "--augment", "rotaton:10"], "did you mean 'rotation'"),
        (["compare", "digits", "--lr", "0"], "lr must be a positive number"),
        (["compare", "digits", "--image-size", "9"], "at least 16 x 16"),
        (["compare", "digits", "--head-option", "num_layers"], "must look like NAME=VALUE"),
        (["compare", "digits", "--head-option", "hidden_features=0"], "hidden_features must be"),
        (["compare", "digits", "--head-option", "hidden_features=big"], "hidden_features must be"),
        (["compare", "./nowhere"], "nowhere"),
        (["evaluate", "nowhere"], "is not the folder of a run"),
        (["predict", "nowhere", "x.png"], "is not the folder of a run"),
        (["compare", "sklearn:iris", "--lr", "0.1"], "--lr has no meaning for a table"),
        (["compare", "sklearn:iris", "--model=vgg5", "--limit=9"], "--limit, --model has no"),
        (["compare", "sklearn:iris", "--lr", "0.003"], "--lr has no meaning for a table"),
        (["compare", "sklearn:iris", "--heads", ""], "heads must name at least two heads"),
        (
            ["compare", "sklearn:iris", "--heads=linear,linear"],
            "heads must differ, got linear twice",
        ),
        (["compare", "sklearn:iris", "--heads=matched,dense"], "got matched twice"),
        (["compare", "sklearn:iris", "--heads=spinal,tres"], "did you mean 'trees'"),
        (["compare", "sklearn:iris", "--heads=spinal"], "nothing to compare with spinal"),
        (["compare", "sklearn:iris", "--until-decided"], "folds and random splits"),
        (["compare", "digits", "--heads", "spinal"], "nothing to compare with spinal"),
        (["compare", "digits", "--heads", "spinal,trees"], "unknown head 'trees'"),
        (["compare", "digits", "--heads", "spinal,mlp,spinal"], "got spinal twice"),
        (["compare", "digits", "--margin", "-1"], "margin must be a number above 0, got -1.0"),
        (["compare", "digits", "--margin", "nan"], "margin must be a number above 0, got nan"),
        (["compare", "digits", "--seeds", "0"], "seeds must be an integer >= 1"),
        (["compare", "digits", "--folds", "1"], "folds must be at least 2"),
        (["compare", "digits", "--repeats", "3"], "repeats repeat the folds"),
        (["compare", "digits", "--metric", "acuracy"], "did you mean 'accuracy'"),
        (["compare", "digits", "--folds=3", "--until-decided"], "folds and random splits"),
        (["compare", "digits", "--jobs", "many"], "jobs must be a number"),
        (["compare", "digits", "--out", "s3://a/b"], "give an address as storage"),
        (["compare", "digits", "--heads=spinal,spinal:num_layers=6"], "are the same network here"),
        (["compare", "digits", "--heads=mlp,mlp:dropout=0"], "are the same network here"),
        (["compare", "digits", "--metric", "r2"], "metric r2 is not for a classification"),
        (["compare", "digits", "--margin", "2"], "is a share below 1, got 2"),
        (["compare", "sklearn:iris", "--heads=mlp,mlp:hidden_features=64"], "same model here"),
        (["compare", "sklearn:iris", "--metric", "mse"], "metric mse is not for a classification"),
        (["compare", "digits", "--engine", "rey"], "unknown choice of --engine 'rey'"),
        (["lr-find", "digits", "--lr", "0.1", "--epochs=3"], "--epochs, --lr has no meaning for"),
        (["compare", "digits", "--task", "auto"], "--task has no meaning for"),
        (["compare", "digits", "--target", "x"], "'digits', which is no table: leave it out"),
        (["compare", "digits", "--backbone=alexnet", "--model=vgg5"], "--model has no meaning"),
        (["train", "digits", "--probe-lr", "0.1"], "has no meaning without --probe-epochs"),
        (["compare", "digits", "--head-epochs", "20"], "--head-epochs and --unfreeze-every must"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(capsys, *arguments)
    assert message in said
    assert said.count("error ") == 1
    assert list(tmp_path.iterdir()) == []


def test_missing_data_says_where_it_looked_and_how_to_get_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refusal(capsys, "compare", "kmnist", "--data-dir", tmp_path, "--out", tmp_path / "out")
    assert str(tmp_path) in said
    assert "--download" in said
    assert not (tmp_path / "out").exists()


def test_every_broken_image_is_in_the_refusal_whatever_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(4):
            Image.new("L", (8, 8), k).save(tmp_path / "set" / name / f"{k}.png")
    for name in ("[bold]x.png", "y [red].jpg"):  # no markup
        (tmp_path / "set" / "b" / name).write_bytes(b"")
    said = refusal(capsys, "compare", tmp_path / "set", "--out", tmp_path / "out")
    assert "2 image files cannot be used; remove or replace them, or leave such files out" in said
    assert "[bold]x.png' is empty" in said
    assert "y [red].jpg' is empty" in said
    said = refusal(capsys, "compare", tmp_path / "set", "--on-bad-image", "skp")
    assert "unknown choice of --on-bad-image 'skp'; did you mean 'skip'" in said
    assert not (tmp_path / "out").exists()


def test_unwritable_out_is_refused_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    said = refusal(capsys, "compare", "digits", "--epochs", 1, "--out", tmp_path / "file")
    assert "cannot write" in said
    assert "file" in said


def test_every_training_option_is_a_flag() -> None:
    import dataclasses

    flags = {parameter.name for parameter in options_module.train_parameters()}
    of_recipes = {"phases", "redraw_power", "ties_improve", "restart_from", "divide_by"}
    assert flags == {field.name for field in dataclasses.fields(TrainConfig)} - of_recipes
    help_text = spinalnet("train", "--help-all").stdout
    assert "--label-smoothing" in help_text
    assert "--channels-last" in help_text


def test_a_frozen_trunk_that_should_learn_is_refused_in_options(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said = refusal(
        *(capsys, "train", "digits", "--backbone", "resnet18", "--freeze", "--trunk-lr", 0.1),
        *("--out", tmp_path / "run"),
    )
    assert "leave out --freeze, or --probe-epochs" in said


def test_help_lists_what_a_newcomer_needs_before_what_is_rare() -> None:
    help_text = spinalnet("--help").stdout
    found = [re.search(rf"(?m)^\W*{name} ", help_text) for name in ("compare", "predict", "bench")]
    places = [match.start() for match in found if match]
    assert len(places) == 3
    assert places == sorted(places)


def test_interrupting_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinalnet.comparison import comparing

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_comparison", interrupted)
    monkeypatch.setattr(sys, "argv", ["spinalnet", "compare", "digits", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        root.main()
    assert stop.value.code == 130
    assert "' continues: finished runs are kept" in capsys.readouterr().err


def test_converted_weights_of_the_original_classify_images(tmp_path: Path) -> None:
    import torch

    shapes = {"conv1": (10, 1, 5, 5), "conv2": (20, 10, 5, 5), "fc1": (8, 160)}
    shapes |= {f"fc1_{layer}": (8, 168) for layer in range(1, 6)} | {"fc2": (10, 48)}
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    weights |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    ordered = {
        f"{name}.{kind}": weights[f"{name}.{kind}"]
        for name in shapes
        for kind in ("weight", "bias")
    }
    torch.save(ordered, tmp_path / "old.pth")
    out = tmp_path / "new.safetensors"
    said = spinalnet("convert", tmp_path / "old.pth", out, "--model", "mnist-cnn").stderr
    assert "13,818 parameters" in said
    assert "--activation relu: every script with these names uses it" in said
    assert "--num-splits 2: the first layer reads 160 of 320 features" in said
    given = ("--activation", "tanh", "--wiring", "chain", "--num-splits", 2, "--mean", 0.13)
    options = (*given, "--std", 0.3, "--dropout", 0.1)
    said = spinalnet("convert", tmp_path / "old.pth", out, "--model", "mnist-cnn", *options).stderr
    assert len(said.splitlines()) == 1  # nothing is left to assume
    Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
    predicted = spinalnet("predict", out, tmp_path / "white.png").stdout.splitlines()
    assert len(predicted) == 2


def test_every_command_that_reads_images_says_what_happens_to_bad_ones() -> None:
    for name in ("train", "compare", "lr-find", "predict"):
        command = typer.main.get_command(root.app).commands[name]  # type: ignore[attr-defined]
        assert "on_bad_image" in {parameter.name for parameter in command.params}, name

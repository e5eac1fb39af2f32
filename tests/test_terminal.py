"""What the command says: help pages, near misses, options out of files, lines of JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import helpers
from helpers import write_images
from spinalnet import TrainConfig
from spinalnet.cli import help as pages
from spinalnet.cli import names, output, root
from spinalnet.comparison import (
    ComparisonSpec,
    RunSpec,
    TableSpec,
    building,
    comparing,
    cost,
    planning,
)
from spinalnet.comparison.wording import as_rich, plain_number
from test_cli import answered, refusal, spinalnet

COMMANDS = typer.main.get_command(root.app).commands
SMALL = ("--limit", 100, "--epochs", 2, "--device", "cpu")


class Seen(Exception):
    """Carries what a command asked for out of it."""


def asked(monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    """Return the run, or the question, that a command comes to."""

    def seen(what: Any, *_: Any, **__: Any) -> None:
        raise Seen(what)

    monkeypatch.setattr(building, "load_splits", seen)
    monkeypatch.setattr(comparing, "run_comparison", seen)
    monkeypatch.setattr("spinalnet.comparison.tables.running.run_table", seen)
    with pytest.raises(Seen) as found:
        spinalnet(*words)
    return found.value.args[0]


def lines_of(done: Any) -> list[dict]:
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_a_help_page_fits_the_terminal(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.out_console, "_width", width)
    everything = "--help-all" if name not in ("", "theory") else "--help"
    for option in ("--help", everything):
        page = spinalnet(*filter(None, [name, option])).stdout
        assert max(map(len, page.splitlines())) <= width
        assert "Usage: spinalnet" in page
        words = re.findall(r"[^\W\d_]{2,}", page)  # broken words would leave single letters
        assert len(words) > 0.5 * len(page.split())


@pytest.mark.parametrize("name", list(pages.EVERYDAY))
def test_a_page_shows_about_fifteen_options_and_names_the_rest(name: str) -> None:
    command = COMMANDS[name]
    known = {one.name for one in command.params}
    assert set(pages.EVERYDAY[name]) <= known
    short, full = (spinalnet(name, option).stdout for option in ("--help", "--help-all"))
    assert 13 <= len(re.findall(r"^│ --\w", short, re.M)) <= 17
    assert "--help-all" in short
    assert "--label-smoothing" not in short
    assert "--label-smoothing" in full
    assert "--redraw-power" not in full  # of recipes alone
    assert "adamw|adam|sgd" in full


def test_what_answers_at_once_does_not_load_torch() -> None:
    code = (
        "import sys, io, contextlib\n"
        "from spinalnet.cli import root\n"
        "for words in (['--help'], [], ['train', '--help'], ['compare', '--help-all'],\n"
        "              ['digits', 'compare'], ['train', 'digits', '--learning-rate', '1'],\n"
        "              ['demo', '--help'], ['--version']):\n"
        "    sys.argv = ['spinalnet', *words]\n"
        "    hidden = io.StringIO()\n"
        "    with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):\n"
        "        try:\n"
        "            root.app(words, standalone_mode=False)\n"
        "        except root._WrongUse as error:\n"
        "            from spinalnet.cli import advice\n"
        "            import typer\n"
        "            advice.explain(error, typer.main.get_command(root.app), words)\n"
        "print(sorted(sys.modules.keys() & {'torch', 'numpy', 'gradio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_alone_it_says_in_ten_lines_what_one_can_do() -> None:
    said = spinalnet().stdout.splitlines()
    assert len(said) == 10
    for command in ("compare digits", "train", "predict", "demo", "list", "recipes", "--help"):
        assert any(f"spinalnet {command}" in line for line in said), command


# --- completion -----------------------------------------------------------------------------------


def test_the_names_that_are_completed_are_those_there_are() -> None:
    assert names.known() == names.all_names(), "Run: make tables"


def completed(line: str, **environment: str) -> list[str]:
    words = line.split(" ")
    variables = {
        "_SPINALNET_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "from spinalnet.cli import app; app(prog_name='spinalnet')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **variables, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_names() -> None:
    assert "compare" in completed("spinalnet comp")
    assert completed("spinalnet compare fash") == ["fashion-mnist"]
    assert completed("spinalnet train digits --optimizer ad") == ["adamw", "adam"]


def test_names_are_completed_in_lists_and_runs_by_what_they_hold(tmp_path: Path) -> None:
    assert "mlp" in names.one("heads")("m")
    assert "spinal,linear" in names.several("heads")("spinal,lin")
    assert "mnist-cnn" in names.one("recipes")("mnist-c")
    assert "sklearn:iris" in names.one("datasets")("sk")
    for folder, mark in (("done", "DONE"), ("cmp", "comparison.yaml"), ("other", "x")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / mark).touch()
    found = names.runs(f"{tmp_path}/")
    assert found == [f"{tmp_path}/cmp", f"{tmp_path}/done"]


# --- near misses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "digits compare --seeds 2",
            "the command comes first: spinalnet compare digits --seeds 2.",
        ),
        ("compar digits", "there is no command 'compar'; did you mean spinalnet compare digits?"),
        ("fit digits", "did you mean spinalnet train digits?"),
        ("digits", "a command comes before the data: spinalnet compare digits."),
        ("mnist-cnn", "a command comes before the recipe: spinalnet reproduce mnist-cnn."),
        ("theory aproximate", "did you mean spinalnet theory approximate?"),
        (
            "train digits --learning-rate 0.1",
            "no option --learning-rate; did you mean --lr? spinalnet train digits --lr 0.1",
        ),
        ("train digits --learning-rate=0.1", "spinalnet train digits --lr=0.1"),
        ("train digits --batch_size 4", "did you mean --batch-size?"),
        ("train sklearn:iris --heads mlp", "spinalnet train sklearn:iris --head mlp"),
        ("train digits --seeds 3", "did you mean --seed?"),
        (
            "compare a.csv --ensemble-size 2",
            "no option --ensemble-size: --preset quick, standard or thorough sets it.",
        ),
        ("compare digits --num-layers 4", "--head-option num_layers=VALUE sets it."),
        ("train sklearn:iris --num-layers 4", "--head-option num_layers=VALUE sets it."),
        ("compare x --labels t.csv --dropout .1", "--head-option dropout=VALUE sets it."),
        ("compare t.csv --num-layers 4", ": --heads spinal:num_layers=4,mlp sets it on tables."),
        ("compare iris --dropout", ": --heads spinal:dropout=VALUE,mlp sets it on tables."),
        (
            "compare t.csv --head-option num_layers=4 --head-option dropout=0.1",
            "options stand behind a head: --heads spinal:num_layers=4,dropout=0.1,mlp.",
        ),
        (
            "compare t.csv --heads spinal:lr=0.1,tabm --head-option num_layers=4",
            "--heads spinal:lr=0.1,num_layers=4,tabm.",
        ),
        ("compare digits --thing-size 2", "no option --thing-size; spinalnet compare --help-all"),
        ("compare digits --redraw-power 2", "is a setting of the paper's experiments"),
        ("report x --tta flip", "--tta is an option of evaluate and predict, not of"),
        ("train digits --epochs x", "--epochs must be a whole number, got 'x'."),
        (
            "train digits --lr",
            "--lr needs a value behind it, a number; spinalnet train --help says more.",
        ),
        ("train --epochs", "a whole number; spinalnet train --help says more."),
        ("compare digits --engine", "behind it, local|ray|print; spinalnet compare --help"),
        ("theory approximate --seeds", "spinalnet theory approximate --help says more."),
        ("list heds", "did you mean 'heads'"),
        ("list heads mlp", "spinalnet list takes no 'mlp'"),
        ("train nothere", "unknown dataset 'nothere'; known: "),
        ("train nothere.csv --target y", "'nothere.csv'"),
        ("train fashion-mnst", "did you mean 'fashion-mnist'"),
        ("evalute x", "did you mean spinalnet evaluate x?"),
        ("train", "spinalnet train needs DATA, such as spinalnet train digits."),
        ("compare iris", "comes with scikit-learn: spinalnet compare sklearn:iris."),
        ("compare iris --target x", "spinalnet compare sklearn:iris --target x."),
        ("compare iris --heads trees,mlp", "spinalnet compare sklearn:iris --heads trees,mlp."),
        ("train iris --head trees", "spinalnet train sklearn:iris --head trees."),
        ("train --out iris iris", "spinalnet train --out iris sklearn:iris."),
        ("train -q iris", "spinalnet train -q sklearn:iris."),
        ("lr-find iris", "spinalnet train sklearn:iris."),
        ("lr-find sklearn:iris", "spinalnet train sklearn:iris --lr RATE sets another."),
        ("evaluate a --data iris", "spinalnet evaluate a --data sklearn:iris."),
        ("evaluate a --data=iris", "spinalnet evaluate a --data=sklearn:iris."),
        ("predict a iris", "spinalnet predict a sklearn:iris."),
        ("export a a.onnx --data iris", "spinalnet export a a.onnx --data sklearn:iris."),
        ("iris", "a command comes before the data: spinalnet compare sklearn:iris."),
        ("iris train --epochs 2", "first: spinalnet train sklearn:iris --epochs 2."),
        ("train iris --data-dir data", "comes with scikit-learn: sklearn:iris."),
        ("evaluate {run} --data sklearn:iris", "is a table, and images are asked for here."),
        ("predict {run} sklearn:iris", "'sklearn:iris' is a table, not an image"),
        ("compare sklearn:iris --heads mlp", "--heads spinal,mlp"),
        ("reproduce mnst-cnn", "did you mean mnist-cnn"),
        ("train digits --head spnal", "did you mean 'spinal'"),
        ("train digits --model mnst-cnn", "did you mean 'mnist-cnn'"),
    ],
)
def test_a_near_miss_gets_the_right_command(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(__file__).parent / "frozen_run"
    said = refusal(capsys, *words.format(run=run).split())
    assert sentence in said
    assert said.startswith("error ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train digits --log tensorbord", "unknown tracker 'tensorbord'; did you mean 'tensorbo"),
        ("train sklearn:iris --log tensorboard,nothing", "unknown tracker 'nothing'; known: "),
        ("train digits --optimizer admw", "unknown choice of --optimizer 'admw'; did you mean 'ad"),
        ("train digits --schedule cosin", "did you mean 'cosine'"),
        ("train digits --device gpu", "unknown choice of --device 'gpu'"),
        ("train digits --augment rotate:10", "unknown augmentation 'rotate'; did you mean 'rota"),
        ("train digits --mix mixip:1", "mix must be none, mixup:ALPHA"),
        ("train digits --on-bad-image skp", "did you mean 'skip'"),
        ("train digits --model mnist-cn", "did you mean 'mnist-cnn'"),
        ("train digits --head-option num_layer=4", "did you mean 'num_layers'"),
        ("compare digits --head-option num_layer=4", "did you mean 'num_layers'"),
        ("compare digits --heads spinal:num_layer=4,mlp", "did you mean 'num_layers'"),
        ("train sklearn:iris --task regresion", "did you mean 'regression'"),
        ("train sklearn:iris --head spinl", "did you mean 'spinal'"),
        ("compare digits --log mlflo", "did you mean 'mlflow'"),
        ("compare digits --metric acuracy", "did you mean 'accuracy'"),
        ("compare digits --engine slurm", "unknown choice of --engine 'slurm'"),
        ("compare digits --preset quik", "did you mean 'quick'"),
        ("compare digits --heads spinal,mpl", "did you mean 'mlp'"),
        ("compare sklearn:iris --metric auc", "unknown metric 'auc'"),
        ("predict {run} a.png --format cvs", "did you mean 'csv'"),
        ("predict {run} a.png --device gpu", "unknown choice of --device 'gpu'"),
        ("evaluate {run} --tta flop", "did you mean 'flip'"),
        ("evaluate {run} --device gpu", "unknown choice of --device 'gpu'"),
        ("export {run} a.onnx --inputs uint8-hcw", "did you mean 'uint8-hwc'"),
        ("export {run} a.onnx --output probability", "did you mean 'probabilities'"),
        ("report {run} --metric acuracy", "did you mean 'accuracy'"),
        ("reproduce mnist-cnn --budget ful", "did you mean 'full'"),
        ("lr-find digits --device gpu", "unknown choice of --device 'gpu'"),
        ("theory approximate --target sins", "did you mean 'sin-sum'"),
    ],
)
def test_a_wrong_choice_is_refused_before_anything_is_loaded(
    words: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("data are loaded")

    monkeypatch.setattr(building, "load", loaded)
    monkeypatch.setattr("spinalnet.comparison.tables.rows.rows_of", loaded)
    run = Path(__file__).parent / "frozen_run"
    monkeypatch.chdir(tmp_path)
    assert sentence in refusal(capsys, *words.format(run=run).split())
    assert not list(tmp_path.rglob("*.yaml"))


def test_a_folder_or_file_alone_gets_the_command_that_is_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cmp/comparison.yaml", "mine/config.yaml", "photos/a/1.png", "t.csv", "a.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for word, meant in {
        "cmp": "report cmp",
        "mine": "report mine",
        "photos": "compare photos",
        "t.csv": "compare t.csv",
        "a.jpg": "predict RUN a.jpg",
    }.items():
        assert f": spinalnet {meant}." in refusal(capsys, word)


def test_a_run_behind_its_images_is_put_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    said = refusal(capsys, "predict", "a.jpg", "b.jpg", "run")
    assert "the run comes first: spinalnet predict run a.jpg b.jpg." in said


# --- options out of a file ------------------------------------------------------------------------


def as_file(path: Path, values: Any) -> Path:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(values))))
    return path


RUNS = [
    RunSpec.of("digits"),
    RunSpec.of(
        "digits", "vgg5", head="mlp", limit=300, lr=1e-3, epochs=7, seed=3, deterministic=True
    ),
    RunSpec.of(
        "digits",
        head_options={"hidden_features": 9, "num_layers": 3},
        in_channels=3,
        augment="rotation:5",
    ),
    RunSpec.of("digits", phases=((0.1, 2), (0.01, 3)), schedule="redraw", redraw_power=5.0),
]


@pytest.mark.parametrize("spec", RUNS)
def test_what_a_run_was_asked_for_can_be_given_back(
    spec: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = as_file(tmp_path / "config.yaml", spec.to_dict())
    given = asked(monkeypatch, "train", "--config", file, "--out", tmp_path / "run")
    assert given.to_dict() == json.loads(json.dumps(spec.to_dict()))
    other = asked(
        monkeypatch, "train", "--config", file, "--head", "linear", "--out", tmp_path / "r"
    )
    assert other.model.head == "linear"
    assert other.train == given.train


def test_so_can_a_run_on_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TableSpec("sklearn:iris", head="mlp", train={"epochs": 9}, seed=2)
    file = as_file(tmp_path / "config.yaml", spec.to_dict())
    given = asked(monkeypatch, "train", "--config", file, "--out", tmp_path / "run")
    assert given.to_dict() == spec.to_dict()


def test_so_can_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = RunSpec.of("digits", epochs=4, lr=0.002)
    question = ComparisonSpec(base, ("spinal:num_layers=8", "linear"), seeds=3, metric="macro-f1")
    file = as_file(tmp_path / "comparison.yaml", question.to_dict())
    given = asked(monkeypatch, "compare", "--config", file, "--out", tmp_path / "c")
    assert given.to_dict() == question.to_dict()
    given = asked(monkeypatch, "compare", "--config", file, "--seeds", 2, "--out", tmp_path / "c")
    assert given.seeds == 2


def test_plain_names_and_values_do_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 3\nbatch-size: 16\nfreeze: false\n")
    given = asked(monkeypatch, "train", "digits", "--config", file, "--out", tmp_path / "run")
    assert given.train == TrainConfig(epochs=3, batch_size=16)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch: 3", "did you mean 'epochs'"),
        ("data: {name: digits}\ntrain: {epocs: 3}", "did you mean 'epochs'"),
        ("- 3", "must hold names and values"),
        ("a: [", "cannot be read as YAML"),
        ("epochs: 1\nepochs: 2\n", "the name 'epochs' stands there again in line 2."),
        ("data: {name: digits}\nselected_on: test", "spinalnet reproduce runs those"),
    ],
)
def test_a_file_of_options_is_refused_by_name(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o.yaml").write_text(text)
    said = refusal(capsys, "train", "digits", "--config", tmp_path / "o.yaml")
    assert sentence in said
    assert "o.yaml" in said


def test_what_is_no_file_of_options_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    places = (tmp_path, "a folder"), (tmp_path / "pipe", "no file"), ("/dev/zero", "no file")
    for place, what in places:
        said = " ".join(refusal(capsys, "train", "digits", "--config", place).split())
        assert f"{place} cannot be read: it is {what}." in said
        assert ".." not in said
        assert said.count("cannot") == 1


# --- what is told ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("terminal") / "run"
    done = spinalnet("train", "digits", *SMALL, "--out", folder, "--json")
    return folder, lines_of(done)


def test_json_is_lines_of_events_and_the_answer_the_last(run: tuple[Path, list[dict]]) -> None:
    folder, lines = run
    kinds = [line["event"] for line in lines]
    assert kinds.count("epoch_ended") == 2
    assert kinds.index("run_started") < kinds.index("epoch_ended")
    assert kinds.count("run_finished") == 1
    assert kinds.index("run_finished") > kinds.index("epoch_ended")
    assert kinds.index("result") == len(kinds) - 1
    kept = json.loads((folder / "result.json").read_text())
    assert lines[-1]["result"]["test"] == kept["test"]
    assert next(line for line in lines if line["event"] == "run_finished")["result"] == kept
    again = answered(spinalnet("evaluate", folder, "--json"))
    assert again["accuracy"] == kept["test"]["accuracy"]


@pytest.mark.parametrize(
    "words",
    [
        "train digits --limit 100 --epochs 2 --device cpu --out {run}",  # it is done
        "train {table} --target c --head linear --out {tmp}/run",
        "evaluate {run}",
        "predict {run} {images}",
        "predict {run} {images} --out {tmp}/p.csv",
        "export {run} {tmp}/m.pt2",
        "explain {run} --out {tmp}",
        "report {run}",
        "verify {run}",
        "lr-find digits --limit 60 --steps 10 --device cpu --out {tmp}",
        "compare {digits} --seeds 1 --out {tmp}/c --only linear-seed0",
        "compare {digits} --seeds 1 --engine print --out {tmp}/c",
        "reproduce mnist-cnn-default --budget smoke --seeds 1 --out {tmp}/r",
        "recipes --page {tmp}/r.md",
        "datasets",
        "datasets --get digits",
        "list",
        "env",
    ],
)
def test_with_json_every_line_is_an_object_and_the_last_the_result(
    words: str, run: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    write_images(tmp_path / "i", {"a": 2})
    table = tmp_path / "t.csv"
    table.write_text("x,y,c\n" + "".join(f"{k % 7},{k % 5},{'ab'[k % 2]}\n" for k in range(60)))
    places = {"run": run[0], "tmp": tmp_path, "images": tmp_path / "i" / "a"}
    digits = "digits --heads linear,mlp --limit 60 --epochs 1 --device cpu"
    asked = words.format(digits=digits, table=table, **places).split()
    done = helpers.command(*asked, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    kinds = [line.get("event") for line in lines]
    assert kinds.count("result") == 1
    assert kinds[-1] == "result"
    if words.startswith("train"):
        assert kinds.count("run_finished") == 1


def test_json_and_csv_are_not_mixed(
    run: tuple[Path, list[dict]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        words = ["spinalnet", "predict", str(run[0]), "a.png", "--json", "--format", "csv"]
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit):
            root.main()
    said = capsys.readouterr().out
    assert json.loads(said)["event"] == "error"
    assert "leave out --format csv" in said


def test_quiet_gives_the_answer_alone_and_verbose_the_time(run: tuple[Path, list[dict]]) -> None:
    folder, _ = run
    done = spinalnet("train", "digits", *SMALL, "--out", folder, "-q")
    assert done.stderr == ""
    assert re.fullmatch(r"run: val accuracy .*\nRun folder: .*\n", done.stdout)
    loud = spinalnet("train", "digits", *SMALL, "--out", folder, "--verbose")
    assert re.match(r"\d\d:\d\d:\d\d .*already done", loud.stderr)


def test_an_error_is_a_line_of_json_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spinalnet", "train", "digits", "--head", "spnal", "--json"])
        with pytest.raises(SystemExit) as stop:
            root.main()
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert json.loads(said.out)["event"] == "error"
    assert said.err.startswith("error unknown head")


def test_a_comparison_tells_epochs_and_phases_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compare", "digits", "--heads", "spinal,linear", "--seeds", 1, "--jobs", 1)
    with monkeypatch.context() as patch:  # the heads are timed as for a user, by one process
        patch.setattr(comparing, "Stopwatches", cost.Stopwatches)
        patch.setattr(cost, "_PROCESSES", {"cpu": 1})
        done = spinalnet(*words, *SMALL, "--out", tmp_path / "c")
    assert "spinal-seed0: epoch 2/2, val accuracy" in done.stderr
    assert "timing 2 heads side by side" in done.stderr
    assert "timing: 1 of 1 processes have measured" in done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note ")]
    assert len(notes) == len(set(notes))

    def gone(*_: object, **__: object) -> None:
        raise AssertionError("data are loaded")

    monkeypatch.setattr(building, "load_splits", gone)
    again = spinalnet(*words, *SMALL, "--out", tmp_path / "c")
    assert "2 of 2 runs are done already." in again.stderr
    assert "epoch" not in again.stderr.replace("best epoch", "")
    assert again.stdout == done.stdout
    lines = lines_of(spinalnet(*words, *SMALL, "--out", tmp_path / "c", "--json"))
    assert [line["event"] for line in lines].index("result") == len(lines) - 1
    assert [head["head"] for head in lines[-1]["summary"]["heads"]] == ["spinal", "linear"]
    judged = spinalnet("report", tmp_path / "c", "--metric", "macro-f1").stderr
    assert "The metric macro-f1 was chosen when the report was written" in judged
    judged = spinalnet("report", tmp_path / "c", "--metric", "accuracy").stderr
    assert "was chosen when the report was written" not in judged


def test_a_table_tells_epochs_of_its_nets_and_trials_without_a_terminal(tmp_path: Path) -> None:
    words = ("train", "sklearn:iris", "--out", tmp_path / "run", "--head-option", "epochs=4")
    done = spinalnet(*words, "--head-option", "ensemble_size=2")
    for net in (1, 2):  # short epochs are not all told; the last of each net is
        assert f": net {net}/2, epoch 4/4, val accuracy " in done.stderr
    tuned = ("compare", "sklearn:iris", "--heads", "mlp,linear", "--seeds", "1", "--tune", "2")
    lines = lines_of(spinalnet(*tuned, "--jobs", "1", "--out", tmp_path / "c", "--json"))
    trials = [line for line in lines if line.get("phase") == "tuning"]
    assert [(line["done"], line["of"]) for line in trials] == [(1, 2), (2, 2)] * 2
    assert trials[0]["text"].endswith("mlp-split0-seed0: trial 1 of 2")
    told = [line for line in lines if line["event"] == "epoch_ended"]
    rows = [line["row"] for line in told if line["run"].startswith("mlp")]
    assert [row["epoch"] for row in rows] == [*range(1, len(rows) + 1)]  # of all nets
    assert {row["net"] for row in rows} == set(range(1, rows[0]["nets"] + 1))
    assert all(row["epoch_of_net"] <= row["epochs"] for row in rows)


def test_already_done_and_error_are_never_told_together(
    run: tuple[Path, list[dict]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "train", "digits", "--limit", 50, "--epochs", 2, "--out", run[0])
    assert "already done" not in said
    table = tmp_path / "t.csv"
    table.write_text("x,y,c\n" + "".join(f"{k % 7},{k % 5},{'ab'[k % 2]}\n" for k in range(60)))
    words = ("train", table, "--target", "c", "--head", "linear", "--out", tmp_path / "run")
    spinalnet(*words)
    said = refusal(capsys, *words[:-2], "--seed", 1, "--out", tmp_path / "run")
    assert "already done" not in said
    table.unlink()
    assert "already done" in spinalnet(*words).stderr


def test_what_somebody_wrote_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "[bold]x[/] [red]"
    output.out_console.print(output.listed((), [(hostile, f"{hostile} [K]")], hostile))
    output.out_console.print(as_rich(("a", "b"), [(hostile, "1")], hostile))
    with output.speaking(as_json=False, quiet=False, verbose=False):
        output.note(hostile)
        output.answer({}, hostile)
    said = capsys.readouterr()
    assert said.out.count("[bold]x[/] [red]") >= 5
    assert hostile in said.err


def test_other_programs_keep_their_logging() -> None:
    import logging

    logger = logging.getLogger("spinalnet")
    before = (logger.level, list(logger.handlers), logger.propagate)
    with output.speaking(as_json=True, quiet=False, verbose=False):
        assert logger.handlers != before[1]
    assert (logger.level, logger.handlers, logger.propagate) == before


# --- small things ---------------------------------------------------------------------------------


def test_recipes_know_what_was_found_wherever_they_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = answered(spinalnet("recipes", "--json"))["recipes"]
    row = next(row for row in rows if row["name"] == "mnist-cnn")
    assert row["status"].startswith("done: ")
    assert {fact["protocol"] for fact in row["found"]} == {"paper", "honest"}
    assert all(fact["answer"] and fact["means"]["spinal"] for fact in row["found"])


def test_what_cannot_be_planned_is_refused_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "compare", "digits", "--tune", 4, "--engine", "print")
    assert "the settings before the runs are known, and --engine print needs them" in said
    assert " only " not in said.replace("--only", "")


def test_a_study_is_planned_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = planning.Measured(1.0, 0.1, 1000, None)  # tests/test_engine.py has it measured
    monkeypatch.setattr(planning, "_in_a_worker", lambda specs, *_: [measured] * len(specs))
    file = tmp_path / "s.yaml"
    file.write_text("data: [sklearn:iris, sklearn:wine]\nheads: spinal,linear\nseeds: 2\n")
    done = spinalnet("study", file, "--out", tmp_path / "s", "--jobs", 1, "--dry-run")
    assert "what would run on sklearn" in " ".join(done.stdout.split())
    assert done.stdout.count("4 of 4 runs are missing") == 2
    assert not (tmp_path / "s").exists()


def test_smoke_runs_tell_no_scores(tmp_path: Path) -> None:
    done = spinalnet(
        *("reproduce", "mnist-cnn-default", "--budget", "smoke", "--seeds", 1),
        *("--out", tmp_path / "out"),
    )
    assert "it fits, on random data" in done.stderr
    assert "accuracy 0." not in done.stderr.replace("epoch", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.012342, "0.01234"), (1.5, "1.5"), (123456.7, "123,457"), (3.2e12, "3.2e+12")],
)
def test_large_errors_are_printed_as_people_write_numbers(value: float, text: str) -> None:
    assert plain_number(value) == text


def test_explain_draws_the_layers_of_a_model_of_images(
    run: tuple[Path, list[dict]], tmp_path: Path
) -> None:
    figure = answered(spinalnet("explain", run[0], "--out", tmp_path, "--json"))["figure"]
    assert Path(figure).stat().st_size > 1000


def test_a_byte_of_a_name_that_is_no_text_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python's half of a pair of UTF-16 would be none of the user's, or an error of its own."""
    output.complain("there is no 'a\udcff.jpg'.")
    output.answer({}, "b\udcfe", output.listed(("file", "class"), [("c\udcc3", "d\udc80")]))
    said = capsys.readouterr()
    assert "there is no 'a\\xff.jpg'." in said.err
    assert "b\\xfe" in said.out
    assert re.search(r"c\\xc3 +d\\x80", said.out)

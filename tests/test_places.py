"""Where files lie: `~`, one path for many; folders that have moved, are missing or refuse."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import spinalnet
from helpers import no_times
from spinalnet import (
    InputError,
    RunSpec,
    compare,
    evaluate_run,
    load_runs,
    load_trained,
    predict_images,
    run_one,
    write_predictions,
)
from spinalnet.cli import root, theory
from spinalnet.comparison import moved
from spinalnet.data import DataSpec, places
from spinalnet.deploy import verify
from spinalnet.deploy.mirrored import MirrorAveraged
from spinalnet.models import backbones

SMALL: dict[str, Any] = {"image_size": 16, "in_channels": 1, "device": "cpu", "batch_size": 8}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, and a current folder elsewhere."""
    for name in ("home", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def pets(folder: Path, each: int = 8) -> Path:
    """Write noise, no image of which is its own mirror image, in files of one size."""
    for place, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for k in range(each):
            noise = torch.randint(0, 256, (16, 20), generator=_seeded(100 * place + k))
            image = Image.fromarray(noise.to(torch.uint8).numpy())
            image.save(folder / name / f"{k:03}.png", compress_level=0)
    return folder


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it said."""
    sys.argv = ["spinalnet", *map(str, words)]
    with pytest.raises(SystemExit) as stop:
        root.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), said.out + said.err


@pytest.fixture(autouse=True)
def _same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


# --- the home folder ------------------------------------------------------------------------------


def test_the_home_folder_in_every_command(home, capsys):
    pets(home / "pets")
    fast = ("--epochs", 1, "--image-size", 16, "--in-channels", 1, "--device", "cpu")
    code, said = call(capsys, "train", "~/pets", *fast, "--out=~/run")
    assert code == 0, said
    assert (home / "run" / "DONE").exists()
    code, said = call(capsys, "evaluate", "~/run", "--data=~/pets")
    assert code == 0, said
    code, said = call(capsys, "predict", "~/run", "~/pets/cat/000.png", "--out=~/said.csv")
    assert code == 0, said
    assert str(home / "pets" / "cat" / "000.png") in (home / "said.csv").read_text()
    code, said = call(capsys, "report", "~/run")
    assert code == 0, said
    assert (home / "run" / "report.html").exists()
    heads = ("--heads", "spinal,linear", "--seeds", 1, "--jobs", 1)
    code, said = call(capsys, "compare", "pets", "--data-dir=~", *fast, *heads, "--out=~/c")
    assert code == 0, said
    assert (home / "c" / "report.html").exists()
    assert list(Path.cwd().iterdir()) == []  # no folder called ~


def test_two_ways_to_write_a_path_are_one_request(home):
    pets(home / "pets")
    first = run_one(RunSpec.of("~/pets", epochs=1, **SMALL), "~/run")
    again = run_one(RunSpec.of(str(home / "pets"), epochs=1, **SMALL), home / "run")
    assert first.path == again.path == home / "run"
    spec = RunSpec.of("digits", pretrained="~/x.pth", data_dir="~/files")
    assert (spec.model.pretrained, spec.data.data_dir) == (f"{home}/x.pth", f"{home}/files")
    assert spinalnet.TableSpec("~/t.csv").table == f"{home}/t.csv"


def test_the_home_folder_in_python(home):
    pets(home / "pets")
    spec = RunSpec.of("~/pets", epochs=1, **SMALL)
    found = compare(spec, "spinal,linear", 1, out="~/c", jobs=1)
    assert found.folder == home / "c"
    assert spinalnet.load("~/c").spec.data.name == str(home / "pets")
    assert spinalnet.load_trained(f"~/c/runs/{spec.name}").info.class_names == ("cat", "dog")
    assert len(load_runs("~/c")) == 2
    assert spinalnet.summarize("~/c").units
    assert spinalnet.load_summary("~/c/summary.json").units
    assert spinalnet.write_report("~/c") == home / "c" / "report.html"
    assert found.report("~/page.html") == home / "page.html"
    assert evaluate_run("~/c", "~/pets").data == "pets"
    assert len(list(predict_images("~/c/runs/spinal-seed0", ["~/pets/cat"]))) == 8
    assert write_predictions("~/c/runs/spinal-seed0", "~/pets/dog", "~/p.jsonl") == 8
    assert len(spinalnet.load_dataset("~/pets").test) > 0
    exported = spinalnet.export_program("~/c/runs/spinal-seed0", "~/net.pt2")
    assert exported.path == home / "net.pt2"
    for made in ("page.html", "p.jsonl", "net.pt2"):
        assert (home / made).is_file()
    assert list(Path.cwd().iterdir()) == []


def test_the_home_folder_for_tables(home, capsys):
    rows = [f"{k},{k % 7},{'yes' if k % 3 else 'no'}" for k in range(60)]
    (home / "t.csv").write_text("\n".join(["a,b,y", *rows]))
    code, said = call(capsys, "train", "~/t.csv", "--target=y", "--head=linear", "--out=~/t-run")
    assert code == 0, said
    code, said = call(capsys, "predict", "~/t-run", "~/t.csv", "--out=~/t-said.csv")
    assert code == 0, said
    code, said = call(capsys, "evaluate", "~/t-run", "--data=~/t.csv")
    assert code == 0, said
    assert (home / "t-said.csv").is_file()
    assert list(Path.cwd().iterdir()) == []


def test_every_path_of_a_command_knows_the_home_folder(home):
    """Whatever option is added later: what is declared as a path is one."""
    seen: dict[str, Any] = {}
    app = root.App()

    @app.command("look")
    def look(
        run: Path, more: list[Path], out: Path | None = None, to: Path = Path("~/d"), word: str = ""
    ) -> None:
        seen.update(run=run, more=more, out=out, to=to, word=word)

    done = CliRunner().invoke(app, ["~/a", "~/b", "c", "--out=~/o", "--word=~/w"])
    assert done.exit_code == 0, done.output
    assert seen == {
        "run": home / "a",
        "more": [home / "b", Path("c")],
        "out": home / "o",
        "to": home / "d",
        "word": "~/w",
    }
    for one in (root.app, theory.theory_app):
        assert isinstance(one, root.App)


# --- one path -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of images that is then moved away."""
    base = tmp_path_factory.mktemp("places")
    pets(base / "pets", 10)
    run_one(RunSpec.of(str(base / "pets"), epochs=1, **SMALL), base / "run")
    return base / "run"


def test_a_string_is_one_path(run, tmp_path):
    file = run.parent / "pets" / "cat" / "000.png"
    rows = list(predict_images(run, str(file)))
    assert [row.path for row in rows] == [file]
    assert list(predict_images(run, file)) == rows
    assert len(list(predict_images(run, str(file.parent)))) == 10
    assert write_predictions(run, str(file), tmp_path / "x.csv") == 1
    with pytest.raises(InputError, match=r"nowhere\.png' does not exist"):
        list(predict_images(run, "nowhere.png"))


# --- an image and its mirror image ----------------------------------------------------------------


def test_flip_averages_the_probabilities_of_an_image_and_its_mirror(run, tmp_path):
    folder, mirrored = tmp_path / "one", tmp_path / "two"
    for place in (folder, mirrored):
        place.mkdir()
    for k in range(4):
        pixels = torch.randint(0, 256, (16, 16), dtype=torch.uint8, generator=_seeded(k))
        Image.fromarray(pixels.numpy()).save(folder / f"{k}.png")
        Image.fromarray(pixels.flip(1).numpy()).save(mirrored / f"{k}.png")
    plain, other = (list(predict_images(run, place)) for place in (folder, mirrored))
    assert any(a.probabilities != b.probabilities for a, b in zip(plain, other, strict=True))
    averaged = list(predict_images(run, folder, tta="flip"))
    for a, b, both in zip(plain, other, averaged, strict=True):
        expected = [(p + q) / 2 for p, q in zip(a.probabilities, b.probabilities, strict=True)]
        assert both.probabilities == pytest.approx(expected, abs=1e-6)
        assert (a.tta, both.tta) == ("none", "flip")
    # It is the same for the mirror images.
    for a, b in zip(averaged, predict_images(run, mirrored, tta="flip"), strict=True):
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-6)
    write_predictions(run, folder, tmp_path / "x.jsonl", tta="flip")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["tta"] for line in lines] == ["flip"] * 4


def test_flip_is_measured_only_when_asked_for_and_then_recorded(run):
    told: list[str] = []
    plain, flipped = evaluate_run(run), evaluate_run(run, tta="flip", tell=told.append)
    record = load_runs(run)[0].result
    assert record is not None
    assert plain.metrics == record["test"]
    assert "tta" not in plain.to_dict()
    assert flipped.to_dict()["tta"] == "flip"
    assert any("not trained on (augment=flip)" in said for said in told)
    trained = load_trained(run)
    test = trained.load_data().test
    inputs, targets = next(iter(test.batches(len(test))))
    with torch.no_grad():
        both = [trained.model(x).softmax(1) for x in (inputs, inputs.flip(-1))]
    right = (sum(both).argmax(1) == targets).float().mean()  # type: ignore[union-attr]
    assert flipped.metrics["accuracy"] == pytest.approx(float(right))
    assert flipped.metrics["loss"] != plain.metrics["loss"]


def test_values_are_averaged_as_they_are():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 1))
    images = torch.randn(5, 3, 4, 4)
    expected = (model(images) + model(images.flip(-1))) / 2
    torch.testing.assert_close(MirrorAveraged(model, classes=False)(images), expected)


@pytest.mark.parametrize("tta", ["flp", ""])
def test_a_misspelt_averaging_is_refused(run, tta, tmp_path):
    for asked in (
        lambda: evaluate_run(run, tta=tta),
        lambda: predict_images(run, [], tta=tta),
        lambda: write_predictions(run, [], tmp_path / "x.csv", tta=tta),
    ):
        with pytest.raises(InputError, match="unknown averaging at test time"):
            asked()
    assert not (tmp_path / "x.csv").exists()


def test_rows_have_no_mirror_image(tmp_path, capsys):
    run_one(RunSpec.of("regression-sum", "regression-net", epochs=1, device="cpu"), tmp_path / "r")
    with pytest.raises(InputError, match="this model takes rows: leave it out"):
        evaluate_run(tmp_path / "r", tta="flip")
    spinalnet.comparison.tables.run_table(  # type: ignore[attr-defined]
        spinalnet.TableSpec("sklearn:iris", head="linear"), tmp_path / "t"
    )
    with pytest.raises(InputError, match=r"tta=flip has no meaning for a table"):
        evaluate_run(tmp_path / "t", tta="flip")
    code, said = call(capsys, "predict", tmp_path / "t", "sklearn:iris", "--tta", "flip")
    assert code == 2
    assert "--tta has no meaning for the model of a table" in said


# --- data that has moved --------------------------------------------------------------------------


def stopped(spec: RunSpec, out: Path) -> None:
    """Begin a run and stop it behind its first epoch."""

    def stop(_: object, progress: Any) -> None:
        if progress.epoch >= 1 and (out / "state.pt").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(spec, out, on_progress=stop)
    assert (out / "state.pt").exists()


def test_an_interrupted_run_goes_on_where_the_same_files_lie_now(tmp_path):
    old, new, out = pets(tmp_path / "old" / "pets"), tmp_path / "disk" / "animals", tmp_path / "run"
    whole = run_one(RunSpec.of(str(old), epochs=3, **SMALL), tmp_path / "whole")
    stopped(RunSpec.of(str(old), epochs=3, **SMALL), out)
    new.parent.mkdir()
    shutil.move(old, new)
    record = run_one(RunSpec.of(str(new), epochs=3, **SMALL), out)
    assert record.result is not None
    assert whole.result is not None
    assert no_times(record.result["test"]) == no_times(whole.result["test"])
    (note,) = [one for one in record.result["notes"] if "has moved" in one]
    assert f"from {old} to {new}" in note
    assert "16 files" in note
    assert record.config["data"]["name"] == str(new)
    assert evaluate_run(out).metrics == record.result["test"]  # all that comes later knows


def test_data_that_is_gone_is_said_before_anything_else(tmp_path, capsys):
    old, out = pets(tmp_path / "pets"), tmp_path / "run"
    stopped(RunSpec.of(str(old), epochs=2, **SMALL), out)
    question: dict[str, Any] = {"epochs": 1, "jobs": 1, "out": tmp_path / "c", **SMALL}
    compare(str(old), "spinal,linear", 1, **question)
    shutil.move(old, tmp_path / "moved")
    gone = rf"cannot go on: the data of this run lay in {old}, which is not there any more\. Name"
    with pytest.raises(InputError, match=gone):
        run_one(RunSpec.of(str(old), epochs=2, **SMALL), out)
    done = compare(str(old), "spinal,linear", 1, **question)  # there is nothing left to do
    assert done.summary.units == ("seed0",)
    with pytest.raises(InputError, match=gone):
        compare(str(old), "spinal,linear", 2, **question)
    code, said = call(capsys, "train", old, "--epochs=2", "--out", out)
    assert code == 2
    assert "cannot go on" in said


def test_other_files_are_refused(tmp_path):
    old, out = pets(tmp_path / "pets"), tmp_path / "run"
    stopped(RunSpec.of(str(old), epochs=2, **SMALL), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    changes: dict[str, Any] = {
        "more": lambda at: Image.new("RGB", (9, 9)).save(at / "cat" / "new.png"),
        "renamed": lambda at: (at / "cat" / "000.png").rename(at / "cat" / "zzz.png"),
        "changed": lambda at: _exchange(at / "dog" / "003.png", at / "dog" / "004.png"),
        "fewer": lambda at: (at / "dog" / "007.png").unlink(),
    }
    for name, change in changes.items():
        new = tmp_path / name
        shutil.copytree(old, new)
        change(new)
        with pytest.raises(InputError, match=r"holds a run on the data in .* not in") as caught:
            run_one(RunSpec.of(str(new), epochs=2, **SMALL), out)
        assert str(new) in str(caught.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def _exchange(one: Path, other: Path) -> None:
    bodies = one.read_bytes(), other.read_bytes()
    assert len(bodies[0]) == len(bodies[1])
    other.write_bytes(bodies[0])
    one.write_bytes(bodies[1])


def test_another_setting_beside_another_place_is_another_run(tmp_path):
    old, out = pets(tmp_path / "pets"), tmp_path / "run"
    stopped(RunSpec.of(str(old), epochs=2, **SMALL), out)
    shutil.move(old, tmp_path / "moved")
    with pytest.raises(InputError, match=r"holds a run with data\.name"):
        run_one(RunSpec.of(str(tmp_path / "moved"), epochs=2, lr=0.5, **SMALL), out)


def test_a_run_of_an_earlier_version_cannot_be_followed(tmp_path):
    old, out = pets(tmp_path / "pets"), tmp_path / "run"
    stopped(RunSpec.of(str(old), epochs=2, **SMALL), out)
    (out / "data-fingerprint.json").unlink()
    shutil.move(old, tmp_path / "moved")
    with pytest.raises(InputError, match="nobody noted what its files were"):
        run_one(RunSpec.of(str(tmp_path / "moved"), epochs=2, **SMALL), out)


@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_a_comparison_goes_on_where_the_same_files_lie_now(tmp_path, on_bad_image):
    old, new, out = pets(tmp_path / "pets"), tmp_path / "disk" / "pets", tmp_path / "c"
    question: dict[str, Any] = {"epochs": 1, "jobs": 1, "out": out, **SMALL}
    question["on_bad_image"] = on_bad_image
    if on_bad_image == "skip":
        (old / "cat" / "000.png").write_bytes(b"none")
    compare(str(old), "spinal,linear", 1, **question)
    shutil.rmtree(out / "runs" / "linear-seed0")
    new.parent.mkdir()
    shutil.move(old, new)
    found = compare(str(new), "spinal,linear", 1, **question)
    assert not found.failed
    assert {record.config["data"]["name"] for record in load_runs(out)} == {str(new)}
    for listed in out.rglob("bad-images.txt"):
        assert str(new) in listed.read_text()
        assert str(old) not in listed.read_text()


def test_a_finished_run_says_so_in_one_message(tmp_path, capsys):
    old, new, out = pets(tmp_path / "pets"), tmp_path / "moved", tmp_path / "run"
    words = ("--epochs", 1, "--image-size", 16, "--in-channels", 1, "--device", "cpu", "--out", out)
    assert call(capsys, "train", old, *words)[0] == 0
    shutil.move(old, new)
    code, said = call(capsys, "train", old, *words)  # nothing is read for what is done
    assert code == 0, said
    assert said.count("already done") == 1
    code, said = call(capsys, "evaluate", out)
    assert code == 2
    assert f"the data of this run lay in {old}, which is not there any more" in said
    assert "--data NEW" in said
    assert call(capsys, "evaluate", out, "--data", new)[0] == 0
    code, said = call(capsys, "train", new, *words)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if "already done" in line]
    assert f"has moved from {old} to {new}" in line
    assert call(capsys, "evaluate", out)[0] == 0


def test_after_a_move_evaluate_scores_the_test_part_of_the_run(tmp_path):
    old, new, out = pets(tmp_path / "pets"), tmp_path / "moved", tmp_path / "run"
    record = run_one(RunSpec.of(str(old), epochs=1, **SMALL), out)
    told: list[str] = []
    assert evaluate_run(out, str(old), tell=told.append).metrics == record.result["test"]
    assert not any("own test part" in one for one in told)
    shutil.move(old, new)
    for data, data_dir in ((str(new), None), ("moved", str(tmp_path))):
        told.clear()
        found = evaluate_run(out, data, data_dir, tell=told.append)
        assert found.metrics == record.result["test"]
        assert "the run's own test part is scored" in told[0]
    (new / "cat" / "000.png").unlink()  # other files: all of them
    told.clear()
    assert evaluate_run(out, str(new), tell=told.append).metrics["n"] == 15
    assert not any("own test part" in one for one in told)


def test_a_finished_run_that_has_followed_its_data_is_whole(tmp_path):
    old, new, out = pets(tmp_path / "pets"), tmp_path / "moved", tmp_path / "run"
    (old / "cat" / "broken.png").write_text("no image")
    asked = SMALL | {"on_bad_image": "skip"}
    run_one(RunSpec.of(str(old), epochs=1, **asked), out)
    shutil.move(old, new)
    assert moved.follow(out, RunSpec.of(str(new), epochs=1, **asked)) is not None
    (found,) = verify(out, models=False)
    assert found.damage == ()
    assert str(new) in (out / "bad-images.txt").read_text()


def test_evaluate_has_the_options_that_it_advises(run, tmp_path, capsys):
    other = pets(tmp_path / "other", 4)
    (other / "cat" / "000.png").write_text("no image")
    (other / "notes").mkdir()
    (other / "notes" / "a.png").write_bytes((other / "cat" / "001.png").read_bytes())
    words = ("evaluate", run, "--data", other, "--json")
    code, said = call(capsys, *words)
    assert (code, "ignore" in said) == (2, True), said
    code, said = call(capsys, *words, "--ignore", "notes")
    assert (code, "on-bad-image skip" in said or "on_bad_image=skip" in said) == (2, True), said
    code, said = call(capsys, *words, "--ignore=notes", "--on-bad-image=skip")
    assert (code, '"n": 7' in said) == (0, True), said
    table = tmp_path / "table.csv"
    table.write_text("image,label\ncat/000.png,cat\ncat/001.png,cat\ndog/000.png,dog\n")
    words = ("evaluate", run, "--data", other, "--labels", table, "--json")
    code, said = call(capsys, *words)
    assert code == 2, said
    code, said = call(capsys, *words, "--on-bad-image=skip")
    assert (code, '"n": 2' in said) == (0, True), said
    assert call(capsys, *words, "--ignore=notes")[0] == 2
    code, said = call(capsys, *words[:4], "--on-bad-image=never")
    assert (code, "known: error, skip" in said) == (2, True), said


def test_the_own_data_of_a_run_is_read_as_in_training(tmp_path):
    old, new, out = pets(tmp_path / "pets"), tmp_path / "moved", tmp_path / "run"
    run_one(RunSpec.of(str(old), epochs=1, **SMALL), out)
    for data in (None, str(old), str(new)):
        if data == str(new):
            shutil.move(old, new)
        for options in ({"on_bad_image": "skip"}, {"ignore": "dog"}):
            with pytest.raises(InputError, match="as in training"):
                evaluate_run(out, data, **options)


def test_the_fingerprint_knows_files_by_name_size_and_content(tmp_path):
    one = places.fingerprint(DataSpec(str(pets(tmp_path / "one"))))
    assert one is not None
    assert one.files == 16
    (tmp_path / "one" / ".hidden").write_text("not counted")
    assert places.fingerprint(DataSpec(str(tmp_path / "one"))) == one
    assert places.fingerprint(DataSpec("one", str(tmp_path))) == one
    assert places.fingerprint(DataSpec(str(tmp_path / "none"))) is None
    assert places.fingerprint(DataSpec("digits")) is None


# --- missing, of the wrong kind, unreadable -------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "./gone"], "folder 'gone' does not exist"),
        (["train", "./file.txt"], "'file.txt' is a file; a data set is a folder"),
        (["train", "mnist", "--data-dir", "gone"], "no files of 'mnist' found in gone"),
        (["train", "mnist", "--data-dir", "file.txt"], "no files of 'mnist' found in file.txt"),
        (["train", "digits", "--epochs=1", "--out", "file.txt/run"], "Not a directory"),
        (["train", "PETS", "--backbone=alexnet", "--weights=gone.pth"], "weights gone.pth"),
        (["evaluate", "gone"], "gone is not the folder of a run"),
        (["evaluate", "file.txt"], "file.txt is not a checkpoint"),
        (["predict", "gone", "x.png"], "gone is not the folder of a run"),
        (["predict", "RUN", "gone.png"], "'gone.png' does not exist"),
        (["predict", "RUN", "empty"], "'empty' holds no images"),
        (["predict", "RUN", "PETS", "--out", "file.txt/x.csv"], "cannot write file.txt/x.csv"),
        (["evaluate", "RUN", "--data", "./gone"], "folder 'gone' does not exist"),
        (["report", "gone"], "there is no folder gone"),
        (["report", "empty"], "empty holds no run"),
        (["export", "RUN", "file.txt/x.pt2"], "cannot write file.txt/x.pt2"),
        (["convert", "gone.pth", "x.safetensors", "--model=vgg5"], "no file of weights gone.pth"),
        (["compare", "./gone.csv"], "gone.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_there_is_one_sentence(run, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("a file")
    (tmp_path / "empty").mkdir()
    named = {"RUN": run, "PETS": run.parent / "pets"}
    code, told = call(capsys, *(named.get(word, word) for word in words))
    assert code == 2, told
    assert said in told
    assert told.count("error ") == 1
    assert "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_what_cannot_be_read_is_one_sentence(run, tmp_path, capsys):
    shut = pets(tmp_path / "shut")
    shut.chmod(0)
    try:
        for words in (["train", shut], ["predict", run, shut], ["evaluate", run, "--data", shut]):
            code, told = call(capsys, *words)
            assert code == 2, told
            assert "permission denied" in told
    finally:
        shut.chmod(0o755)


def test_a_folder_that_refuses_is_one_sentence(run, tmp_path, monkeypatch, capsys):
    """As above, for those whom no permission binds."""
    shut, real = pets(tmp_path / "shut"), os.scandir

    def refusing(path: Any = ".") -> Any:
        if str(path).startswith(str(shut)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for words in (["train", shut], ["predict", run, shut], ["evaluate", run, "--data", shut]):
        code, told = call(capsys, *words)
        assert code == 2, told
        assert "cannot be read: permission denied" in told
    with pytest.raises(InputError, match="permission denied"):
        places.fingerprint(DataSpec(str(shut)))


# --- without a network ----------------------------------------------------------------------------


def test_weights_are_not_fetched_where_that_is_forbidden(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torchvision")
    tried: list[object] = []

    def offline(*args: object, **kwargs: object) -> None:
        tried.append(args)
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("socket.create_connection", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    data = pets(tmp_path / "pets")
    out = tmp_path / "out"
    names = ["resnet18", *(["timm:resnet18"] if importlib.util.find_spec("timm") else [])]
    for name in names:
        words = (data, "--backbone", name, "--no-download", "--device", "cpu", "--epochs", 1)
        for command in ("train", "compare"):
            code, said = call(capsys, command, *words, "--out", out)
            assert code == 2, said
            said = " ".join(said.split())
            assert "are not here, and they must not be fetched: allow it with --download," in said
            assert said.count("error") == 1
    assert not tried
    spec = RunSpec.of(str(data), model="torchvision:resnet18", pretrained=True, **SMALL)
    with pytest.raises(InputError, match="must not be fetched: allow it with download=True"):
        compare(spec, "linear,mlp", 1, out=out, jobs=1, download=False)
    kept = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    assert backbones.is_here("torchvision:resnet18")
    assert not backbones.is_here("torchvision:resnet50")

"""Labels of images out of a table: which file is which row, what it says, and what comes of it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import spinalnet
from spinalnet import InputError
from spinalnet.comparison import asking, comparing
from spinalnet.comparison.engine import Effort
from spinalnet.comparison.outputs import OUTPUTS_FILE, RegressionOutputs, joined, load_outputs
from spinalnet.comparison.report.page import write_report
from spinalnet.comparison.running import run_one
from spinalnet.comparison.spec import RunSpec
from spinalnet.data import DataSpec
from spinalnet.data.images import BadImagesError
from spinalnet.data.labels import Labels, find_labelled
from spinalnet.data.loading import load, load_dataset
from spinalnet.deploy import evaluate_run, predict
from test_cli import answered, refusal
from test_cli import spinalnet as command

SIDE = 16


def picture(path: Path, tone: float, side: int = SIDE) -> Path:
    """Write an image whose brightness is `tone` (0 to 1) in a random pattern."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).integers(0, 40, (side, side, 3))
    Image.fromarray((noise + 200 * tone).astype(np.uint8)).save(path)
    return path


def table(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], sign: str = ","
) -> Path:
    path.write_text("\n".join(sign.join(map(str, row)) for row in (header, *rows)) + "\n")
    return path


@pytest.fixture
def cats(tmp_path: Path) -> Path:
    """A flat folder of 24 images, dark cats and bright dogs, and its table."""
    rows = []
    for i in range(24):
        kind = "cat" if i % 2 else "dog"
        picture(tmp_path / "images" / f"{i:03}.png", 0.1 if i % 2 else 0.9)
        rows.append((f"{i:03}.png", kind))
    table(tmp_path / "train.csv", ("image", "label"), rows)
    return tmp_path


def found(folder: Path, file: str = "train.csv", **options: Any) -> Any:
    return find_labelled(folder / "images", Labels(str(folder / file), **options))


def names(what: Any, part: str = "train") -> dict[str, str]:
    paths, targets = what.parts[part]
    pairs = zip(paths, targets.tolist(), strict=True)
    return {Path(path).name: what.classes[number] for path, number in pairs}


# --- which file is which row ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["{name}", "{stem}", "./{name}", "images/{name}", "images\\{name}", "old/place/{name}"]
)
def test_rows_name_files_in_all_the_usual_ways(cats: Path, cell: str) -> None:
    rows = [
        (cell.format(name=f"{i:03}.png", stem=f"{i:03}"), "cat" if i % 2 else "dog")
        for i in range(24)
    ]
    table(cats / "other.csv", ("file", "species"), rows)
    what = found(cats, "other.csv")
    assert what.classes == ("cat", "dog")
    assert names(what) == {f"{i:03}.png": "cat" if i % 2 else "dog" for i in range(24)}
    assert any("by their names alone" in note for note in what.notes) == cell.startswith("old")


def test_absolute_paths_and_sub_folders_are_found(cats: Path) -> None:
    deep = [picture(cats / "images" / "deep" / f"d{i}.png", 0.5) for i in range(4)]
    rows = [(path, "x" if i % 2 else "y") for i, path in enumerate(deep)]
    table(cats / "absolute.csv", ("path", "label"), rows)
    assert set(names(found(cats, "absolute.csv"))) == {path.name for path in deep}
    rows = [(path.stem, "x" if i % 2 else "y") for i, path in enumerate(deep)]
    table(cats / "ids.csv", ("id", "label"), rows)
    assert set(names(found(cats, "ids.csv"))) == {path.name for path in deep}


def test_the_table_is_read_as_all_others_are(cats: Path) -> None:
    rows = [(i, f"{i:03}", "Kätzchen" if i % 2 else "NA") for i in range(24)]
    text = "\n".join(";".join(map(str, row)) for row in (("nr", "bild", "art"), *rows))
    (cats / "german.csv").write_bytes(text.encode("cp1252"))
    what = found(cats, "german.csv", label_column="art")
    assert what.classes == ("Kätzchen", "NA")
    assert names(what)["001.png"] == "Kätzchen"
    assert any("latin-1" in note for note in what.notes)


def test_leading_zeros_and_numbers_stay_names(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / "images" / f"{i:02}.png", 0.5)
    table(tmp_path / "train.csv", ("id", "digit"), [(f"{i:02}", 8 + i % 3) for i in range(8)])
    what = found(tmp_path)
    assert what.classes == ("8", "9", "10")  # by value, as class folders are
    assert names(what)["07.png"] == "9"


def test_missing_files_are_listed_all_at_once(cats: Path) -> None:
    rows = [(f"{i:03}.png", "cat" if i % 2 else "dog") for i in range(30)]
    table(cats / "long.csv", ("image", "label"), rows)
    with pytest.raises(BadImagesError) as error:
        found(cats, "long.csv")
    assert [bad.path for bad in error.value.bad] == [f"{i:03}.png" for i in range(24, 30)]
    assert "029.png' of long.csv does not exist" in str(error.value)
    spec = DataSpec(str(cats / "images"), labels=str(cats / "long.csv"), on_bad_image="skip")
    splits = load(spec)
    assert len(splits.left_out) == 6
    assert len(splits.train) + len(splits.val) + len(splits.test) == 24


def test_what_the_table_does_not_name_is_told(cats: Path) -> None:
    picture(cats / "images" / "extra.png", 0.5)
    (note,) = [note for note in found(cats).notes if "not used" in note]
    assert note.startswith("1 image in ")
    assert note.endswith("is not used: train.csv lacks 'extra.png'.")


def test_rows_without_a_label_are_left_out_and_told(cats: Path) -> None:
    with (cats / "train.csv").open("a") as file:
        file.write("extra.png,\n,cat\n")
    notes = found(cats).notes
    assert "1 row (25) of train.csv with no label: left out." in notes
    assert "1 row (26) of train.csv with no image: left out." in notes


def test_columns_are_found_or_asked_for(cats: Path) -> None:
    rows = [(f"{i:03}", i % 3, "cat" if i % 2 else "dog", i) for i in range(24)]
    table(cats / "wide.csv", ("image_id", "camera", "class", "nr"), rows)
    what = found(cats, "wide.csv")
    assert what.classes == ("cat", "dog")
    assert "wide.csv: images by column 'image_id', labels by column 'class'." in what.notes
    assert found(cats, "wide.csv", label_column="camera").classes == ("0", "1", "2")
    table(cats / "hot.csv", ("image_id", "cat", "dog"), [("000", 1, 0), ("001", 0, 1)])
    with pytest.raises(InputError, match=r"name the column .* has 'cat', 'dog'"):
        found(cats, "hot.csv")
    with pytest.raises(InputError, match=r"unknown column of wide.csv \(label_column\) 'clas'"):
        found(cats, "wide.csv", label_column="clas")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("x1", "a"), ("x2", "b")], "none of the 2 images in column 'image'"),
        ([("000", "cat"), ("001", "Cat"), ("002", "cat"), ("003", "Cat")], "differ in case"),
        ([("000", "cat"), ("001", "cat")], "at least two classes, got only 'cat'"),
        ([("000", "cat"), ("001", "dog"), ("000", "dog")], "several labels per image: 1 rows"),
        ([("000", "cat dog"), ("001", "dog"), ("002", "cat")], "('cat dog', in 1 rows)"),
        ([("000", "a;b"), ("001", "b;c"), ("002", "a;c"), ("003", "a;b;c")], "'a;b', in 4 rows"),
        ([("000", "['a']"), ("001", "['a' 'b']"), ("002", "['c']")], "several labels per image"),
        ([(f"{i:03}", f"w{i}") for i in range(9)], "9 different labels in 9 rows"),
    ],
)
def test_what_cannot_be_learned_is_one_sentence(
    cats: Path, rows: list[tuple[str, str]], message: str
) -> None:
    table(cats / "odd.csv", ("image", "label"), rows)
    with pytest.raises(InputError) as error:
        found(cats, "odd.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_classes_of_several_words_are_classes(cats: Path) -> None:
    kinds = ["golden retriever", "fire truck", "truck"]
    table(cats / "w.csv", ("image", "label"), [(f"{i:03}", kinds[i % 3]) for i in range(24)])
    assert found(cats, "w.csv").classes == ("fire truck", "golden retriever", "truck")
    kinds = ["Portland, Oregon", "Salem, Oregon", "Boston"]
    quoted = [(f"{i:03}", f'"{kinds[i % 3]}"') for i in range(24)]
    table(cats / "q.csv", ("image", "label"), quoted)
    assert "Salem, Oregon" in found(cats, "q.csv").classes


def test_a_repeated_row_counts_once(cats: Path) -> None:
    with (cats / "train.csv").open("a") as file:
        file.write("000.png,dog\n")
    what = found(cats)
    assert len(what.parts["train"][0]) == 24
    assert "1 row (25) of train.csv repeat an image: it counts once." in what.notes


# --- parts ----------------------------------------------------------------------------------------


def split_rows(words: Sequence[str]) -> list[tuple[str, str, str]]:
    return [(f"{i:03}", "cat" if i % 2 else "dog", words[(i // 2) % len(words)]) for i in range(24)]


def test_a_column_of_parts_divides(cats: Path) -> None:
    header = ("image", "label", "part")
    table(cats / "s.csv", header, split_rows(["Train", "train", "valid", "test"]))
    spec = DataSpec(str(cats / "images"), labels=str(cats / "s.csv"), split_column="part")
    splits = load(spec)
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [12, 6, 6]
    assert {Path(path).stem for path in splits.test.paths} == {
        "006",
        "007",
        "014",
        "015",
        "022",
        "023",
    }
    table(cats / "v.csv", header, split_rows(["train", "train", "val"]))
    splits = load(DataSpec(str(cats / "images"), labels=str(cats / "v.csv"), split_column="part"))
    assert len(splits.test) == 8
    assert any("its validation rows are the untouched test set" in n for n in splits.info.notes)
    table(cats / "bad.csv", header, split_rows(["train", "hidden"]))
    with pytest.raises(InputError, match=r"must say train, val or test, got 'hidden' in 12 rows"):
        found(cats, "bad.csv", split_column="part")
    table(cats / "both.csv", header, [("000", "cat", "train"), ("000", "cat", "test")])
    with pytest.raises(InputError, match=r"puts 1 images into two parts: '000' \(train and test\)"):
        found(cats, "both.csv", split_column="part")


def test_folds_and_groups_of_a_column(cats: Path) -> None:
    rows = [(f"{i:03}", "cat" if i % 2 else "dog", f"p{i // 4}") for i in range(24)]
    table(cats / "g.csv", ("image", "label", "patient"), rows)
    group_of = {f"{i:03}.png": f"p{i // 4}" for i in range(24)}
    tested: list[str] = []
    for fold in range(3):
        from spinalnet.data import Resample

        splits = load(
            DataSpec(
                str(cats / "images"),
                labels=str(cats / "g.csv"),
                label_column="label",
                group="patient",
                resample=Resample("fold", fold, 3),
            )
        )
        of_part = [
            {group_of[Path(path).name] for path in part.paths}
            for part in (splits.train, splits.val, splits.test)
        ]
        assert sum(map(len, of_part)) == 6  # no group in two parts
        tested += [Path(path).name for path in splits.test.paths]
    assert sorted(tested) == sorted(group_of)
    splits = load_dataset(
        cats / "images", labels=cats / "g.csv", label_column="label", group=r"^(\d\d)"
    )
    assert any("makes 3 groups" in note for note in splits.info.notes)


# --- options --------------------------------------------------------------------------------------


def test_labels_belong_to_a_folder(cats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="labels belong to a folder of images"):
        DataSpec("digits", labels="train.csv")
    with pytest.raises(InputError, match="says how labels=TABLE is read"):
        DataSpec(str(cats), label_column="x")
    said = refusal(capsys, "train", cats / "train.csv", "--labels", cats / "train.csv")
    assert "is a table: give the folder first" in said
    said = refusal(capsys, "train", cats / "images", "--task", "regression")
    assert "give the table that holds them (--labels FILE)" in said
    said = refusal(capsys, "train", cats / "images", "--labels", cats / "nowhere.csv")
    assert "nowhere.csv' does not exist" in said


def test_a_table_beside_the_images_is_found_by_its_name(cats: Path) -> None:
    (cats / "train.csv").rename(cats / "images" / "inside.csv")
    splits = load_dataset(cats / "images", labels=Path("inside.csv"))
    assert splits.info.class_names == ("cat", "dog")


# --- from the command to predictions --------------------------------------------------------------

SMALL = ("--epochs", 2, "--image-size", 16, "--model", "mnist-cnn")


def test_classes_from_a_table_to_predictions(
    cats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = cats / "run"
    command("train", cats / "images", "--labels", cats / "train.csv", *SMALL, "--out", out)
    result = json.loads((out / "result.json").read_text())
    assert result["class_names"] == ["cat", "dog"]
    first = answered(command("evaluate", out, "--json"))
    assert first["n"] == 5

    rows = [(f"{i:03}", "cat" if i % 2 else "dog") for i in range(0, 24, 3)]
    test = table(cats / "test.csv", ("image", "label"), rows)
    asked = ("evaluate", out, "--data", cats / "images", "--labels", test)
    scored = answered(command(*asked, "--json"))
    assert scored["n"] == 8  # all rows, not a part that is kept back

    sheet = table(cats / "sub.csv", ("image_id", "label"), [(f"{i:03}", 0) for i in (5, 2, 9)])
    pred = cats / "pred.csv"
    command("predict", out, sheet, cats / "images", "--id-column", "image_id", "--out", pred)
    said = refusal(capsys, "predict", out, sheet)
    assert "is a table, not an image: with --id-column COLUMN the images that it names" in said
    with pred.open() as file:
        lines = list(csv.DictReader(file))
    assert [line["image_id"] for line in lines] == ["005", "002", "009"]
    assert list(lines[0])[:4] == ["image_id", "path", "prediction", "probability"]
    plain = {
        one.path.name: one.class_name for one in predict.predict_images(out, [cats / "images"])
    }
    assert [line["prediction"] for line in lines] == [plain[f"{i:03}.png"] for i in (5, 2, 9)]


def test_one_evaluates_on_some_of_the_classes_and_refuses_new_ones(cats: Path) -> None:
    spec = RunSpec.of(str(cats / "images"), labels=str(cats / "train.csv"), epochs=1, image_size=16)
    run_one(spec, cats / "run")
    table(cats / "cats.csv", ("image", "label"), [("001", "cat"), ("003", "cat")])
    evaluation = evaluate_run(cats / "run", labels=cats / "cats.csv")
    assert evaluation.metrics["n"] == 2
    table(cats / "new.csv", ("image", "label"), [("001", "cat"), ("003", "cow"), ("005", "pig")])
    with pytest.raises(
        InputError, match=r"2 classes that the model does not know \('cow', 'pig'\)"
    ):
        evaluate_run(cats / "run", labels=cats / "new.csv")
    parts = [("001", "cat", "train"), ("003", "cat", "test"), ("004", "dog", "test")]
    table(cats / "parts.csv", ("image", "label", "part"), parts)
    evaluation = evaluate_run(
        cats / "run", labels=cats / "parts.csv", label_column="label", split_column="part"
    )
    assert evaluation.metrics["n"] == 2
    for words, count in ((["train", "val"], 1), (["train", "train"], 0)):
        parts = [("001", "cat", words[0]), ("004", "dog", words[1])]
        table(cats / "parts.csv", ("image", "label", "part"), parts)
        asked = {"labels": cats / "parts.csv", "label_column": "label", "split_column": "part"}
        if count:
            assert evaluate_run(cats / "run", **asked).metrics["n"] == count
        else:
            with pytest.raises(InputError, match=r"'part' of parts.csv has no test row"):
                evaluate_run(cats / "run", **asked)


def test_ids_beside_predictions(cats: Path) -> None:
    run_one(
        RunSpec.of(str(cats / "images"), labels=str(cats / "train.csv"), epochs=1, image_size=16),
        cats / "run",
    )
    rows = [(17 + i, f"{i:03}.png") for i in (4, 1, 4)]
    sheet = table(cats / "ids.csv", ("nr", "file"), rows)
    ids = predict.named_by_table([sheet, cats / "images"], "nr")
    assert predict.write_predictions(cats / "run", (), cats / "o.jsonl", ids=ids) == 3
    lines = [json.loads(line) for line in (cats / "o.jsonl").read_text().splitlines()]
    assert [line["nr"] for line in lines] == ["21", "18", "21"]
    assert Path(lines[1]["path"]).name == "001.png"
    (cats / "images" / "004.png").write_bytes(b"no image")
    ids = predict.named_by_table([sheet, cats / "images"], "nr")
    options = {"ids": ids, "on_bad_image": lambda _: None}
    assert predict.write_predictions(cats / "run", (), cats / "o.csv", **options) == 1
    assert (cats / "o.csv").read_text().splitlines()[1].startswith("18,")
    with pytest.raises(InputError, match="give one table, and the folder"):
        predict.named_by_table([cats / "images"], "nr")
    table(cats / "clash.csv", ("prediction", "file"), rows)
    with pytest.raises(InputError, match="id_column must not have the name of a column"):
        predict.named_by_table([cats / "clash.csv", cats / "images"], "prediction")


# --- regression -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images whose brightness is an age from 20 to 79."""
    folder = tmp_path_factory.mktemp("ages")
    rows = []
    for i in range(60):
        picture(folder / "images" / f"{i:03}.png", i / 60)
        rows.append((f"{i:03}", 20 + i))
    table(folder / "ages.csv", ("id", "age"), rows)
    return folder


def of_ages(folder: Path, **options: Any) -> RunSpec:
    return RunSpec.of(
        str(folder / "images"),
        labels=str(folder / "ages.csv"),
        **{"task": "regression", "image_size": 16, "epochs": 12, "batch_size": 16, **options},
    )


@pytest.fixture(scope="module")
def age_run(ages: Path) -> Path:
    run_one(of_ages(ages), ages / "run")
    return ages / "run"


def test_values_are_learned_in_units_of_their_spread(ages: Path) -> None:
    splits = load(of_ages(ages).data, seed=1)
    assert splits.info.task == "regression"
    assert splits.train.targets.shape == (len(splits.train), 1)
    torch.testing.assert_close(splits.train.targets.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(splits.train.targets.std(correction=0), torch.tensor(1.0))
    truth = torch.tensor([[20.0 + int(Path(path).stem)] for path in splits.test.paths])
    torch.testing.assert_close(splits.info.in_units(splits.test.targets), truth)


def test_a_regression_on_images_is_scored_in_its_units(ages: Path, age_run: Path) -> None:
    result = json.loads((age_run / "result.json").read_text())
    assert result["task"] == "regression"
    said = {}
    for one in predict.predict_images(age_run, [ages / "images"]):
        said[one.path.stem] = one.value
    splits = load(of_ages(ages).data)
    for part in ("train", "val", "test"):
        stems = [Path(path).stem for path in getattr(splits, part).paths]
        errors = np.array([said[stem] - (20 + int(stem)) for stem in stems])
        assert result[part]["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-3)
        assert result[part]["mse"] == pytest.approx((errors**2).mean(), rel=1e-3)
    values = [20 + int(Path(path).stem) for path in splits.train.paths]
    assert result["baseline"]["mean"] == pytest.approx([np.mean(values)], rel=1e-5)
    assert result["test"]["mae"] < 8  # the mean of all would be off by 15
    again = evaluate_run(age_run)
    assert again.metrics["mae"] == pytest.approx(result["test"]["mae"], rel=1e-5)


def test_the_largest_residuals_are_shown_with_their_files(ages: Path, age_run: Path) -> None:
    outputs = load_outputs(age_run / OUTPUTS_FILE)
    assert isinstance(outputs, RegressionOutputs)
    assert outputs.shown is not None
    assert outputs.thumbnails is not None
    gaps = (outputs.predictions - outputs.targets)[:, 0].abs()
    assert outputs.shown.tolist() == gaps.argsort(descending=True)[:16].tolist()
    for row, pixels in zip(outputs.shown.tolist(), outputs.thumbnails, strict=True):
        with Image.open(outputs.paths[row]) as image:
            grey = float(np.asarray(image).mean())
        assert float(pixels.float().mean()) == pytest.approx(grey, abs=1)
    page = write_report(age_run).read_text(encoding="utf-8")
    (head,) = json.loads((age_run / "residuals.json").read_text())["heads"]
    images = head["largest_residuals"]
    assert [image["row"] for image in images] == outputs.shown.tolist()
    for image in images:
        (true,), (said,), (gap,) = image["true"], image["predicted"], image["residual"]
        assert true == pytest.approx(20 + int(Path(image["path"]).stem))
        assert gap == pytest.approx(said - true)
        assert abs(gap) == pytest.approx(float(gaps[image["row"]]), rel=1e-5)
    shown = re.findall(r'alt="(.*?) taken for (.*?)">.*?<span class="soft">(.*?)</span>', page)
    assert shown == [
        (f"{i['true'][0]:.4g}", f"{i['predicted'][0]:.4g}", Path(i["path"]).name) for i in images
    ]


def test_values_of_several_columns_count_by_their_spread() -> None:
    true = torch.tensor([[0.0, 0.0], [1.0, 1000.0], [2.0, 2000.0]])
    off = torch.tensor([[0.0, 500.0], [2.0, 0.0], [torch.nan, 0.0]])
    outputs = RegressionOutputs.of(true + off, true)
    assert outputs.worst(3).tolist() == [1, 0]  # what is no number has no place


def test_all_rows_of_another_table_are_scored_in_the_models_units(
    ages: Path, age_run: Path
) -> None:
    table(ages / "few.csv", ("id", "age"), [("000", 20), ("059", 79)])
    metrics = evaluate_run(age_run, labels=ages / "few.csv").metrics
    said = {p.path.stem: p.value for p in predict.predict_images(age_run, [ages / "images"])}
    errors = [abs(said["000"] - 20), abs(said["059"] - 79)]
    assert metrics["n"] == 2
    assert metrics["mae"] == pytest.approx(np.mean(errors), rel=1e-4)


def test_predictions_of_values_are_written(ages: Path, age_run: Path) -> None:
    sheet = table(ages / "new.csv", ("id", "age"), [("010", ""), ("050", "")])
    out = ages / "out.csv"
    command("predict", age_run, sheet, ages / "images", "--id-column", "id", "--out", out)
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["id", "path", "prediction"]
    assert float(lines[1]["prediction"]) > float(lines[0]["prediction"]) + 15
    with pytest.raises(InputError, match="predicts values, not classes"):
        predict.write_predictions(age_run, [ages / "images"], top_k=2)


def test_an_exported_regression_answers_in_its_units(ages: Path, age_run: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    spinalnet.export_onnx(age_run, ages / "age.onnx")
    session = onnxruntime.InferenceSession(str(ages / "age.onnx"))
    with Image.open(ages / "images" / "040.png") as image:
        pixels = np.array(image)[None]
    (answer,) = session.run(None, {"inputs": pixels})
    (one,) = predict.predict_images(age_run, [ages / "images" / "040.png"])
    assert answer.shape == (1, 1)
    assert answer[0, 0] == pytest.approx(one.value, rel=1e-4)


def test_the_program_beside_an_exported_regression_says_what_predict_says(
    ages: Path, age_run: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = spinalnet.export_onnx(age_run, ages / "alone.onnx")
    assert done.preprocessing is not None
    paths = sorted((ages / "images").glob("*.png"))[::6]
    for i, path in enumerate(paths[:4]):  # off-centre, larger, turned as cameras write it
        exif = Image.Exif()
        exif[0x0112] = (6, 3, 8, 1)[i]
        with Image.open(path) as image:
            wide = ImageOps.expand(image.resize((90, 60)), (0, 0, 30 * i, 0), "white")
        paths.append(ages / f"wide{i}.png")
        wide.save(paths[-1], exif=exif)
    alone = subprocess.run(
        [
            sys.executable,
            "-c",
            "import runpy, sys\n"
            "sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'spinalnet', 'scipy')))\n"
            "sys.argv = sys.argv[1:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')",
            *map(str, [done.preprocessing, *paths]),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    said = [one.value for one in predict.predict_images(age_run, paths)]
    values = [
        float(line.removeprefix(f"{path}: ")) for path, line in zip(paths, alone, strict=True)
    ]
    assert values == pytest.approx(said, abs=0.3)  # years; rounding of resized pixels
    assert values[:10] == pytest.approx(said[:10], rel=1e-3)
    assert max(said) - min(said) > 15, "nothing was told apart"


def test_heads_are_compared_on_values(ages: Path) -> None:
    base = of_ages(ages, epochs=2)
    found = spinalnet.compare(base, "spinal,linear", seeds=2, jobs=1, out=ages / "compared")
    assert found.summary.metric == "mse"
    assert (ages / "compared" / "report.html").is_file()
    with pytest.raises(InputError, match="not for a regression"):
        spinalnet.compare(base, "spinal,linear", metric="accuracy", out=ages / "no")
    assert not (ages / "no").exists()


def test_folds_of_values_test_every_image_once(ages: Path) -> None:
    question = asking.ask(of_ages(ages, epochs=1), "spinal", 1, folds=3)
    effort = Effort(jobs=1)
    out = comparing.run_comparison(question, ages / "f", effort, timed=False, reported=False)
    parts = [load_outputs(path / OUTPUTS_FILE) for path in sorted((out / "runs").iterdir())]
    whole = joined(parts)
    assert isinstance(whole, RegressionOutputs)
    assert len(parts) == 3
    assert sorted(Path(path).stem for path in whole.paths) == [f"{i:03}" for i in range(60)]
    truth = torch.tensor([[20.0 + int(Path(path).stem)] for path in whole.paths])
    torch.testing.assert_close(whole.targets, truth)


@pytest.mark.parametrize(
    "option", [{"label_smoothing": 0.1}, {"class_weights": "balanced"}, {"mix": "mixup:0.2"}]
)
def test_what_needs_classes_is_refused_for_values(ages: Path, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(option))}=.* needs classes"):
        run_one(of_ages(ages, **option), ages / "never")
    assert not (ages / "never").exists()


def test_values_are_told_from_classes(ages: Path) -> None:
    rows = [(f"{i:03}", 20.5 + i) for i in range(60)]
    table(ages / "halves.csv", ("id", "age"), rows)
    what = find_labelled(ages / "images", Labels(str(ages / "halves.csv")))
    assert what.classes == ()
    assert any("a regression (override: task=classification)" in note for note in what.notes)
    comma = [(f"{i:03}", f"{20 + i},5") for i in range(60)]
    table(ages / "comma.csv", ("id", "age"), comma, sign=";")
    what = find_labelled(ages / "images", Labels(str(ages / "comma.csv"), task="regression"))
    assert what.parts["train"][1][:2].tolist() == [[20.5], [21.5]]
    whole = [(f"{i:03}", i % 30) for i in range(60)]
    table(ages / "whole.csv", ("id", "age"), whole)
    what = find_labelled(ages / "images", Labels(str(ages / "whole.csv")))
    assert len(what.classes) == 30
    assert any("30 different whole numbers, taken as classes" in note for note in what.notes)
    words = [(f"{i:03}", "old" if i == 7 else i) for i in range(60)]
    table(ages / "words.csv", ("id", "age"), words)
    with pytest.raises(InputError, match="holds numbers, but 'old' in row 8"):
        find_labelled(ages / "images", Labels(str(ages / "words.csv"), task="regression"))
    table(ages / "same.csv", ("id", "age"), [(f"{i:03}", 7) for i in range(60)])
    with pytest.raises(InputError, match="holds 7 in every row"):
        find_labelled(ages / "images", Labels(str(ages / "same.csv"), task="regression"))


def test_files_that_stream_have_the_same_values(ages: Path) -> None:
    spec = of_ages(ages).data
    kept, streamed = load(spec), load(spec, memory_budget=1)
    assert torch.equal(kept.test.targets, streamed.test.targets)
    one, other = (
        torch.cat([y for _, y in part.batches(7)]) for part in (kept.train, streamed.train)
    )
    assert torch.equal(one, other)


# --- tables as people have them -------------------------------------------------------------------


def test_rows_of_ignored_files_are_left_out_and_told(cats: Path) -> None:
    picture(cats / "images" / "old" / "x.png", 0.5)
    what = found(cats, ignore=("00[0-3].png", "old", "gone"))
    assert {"000.png", "003.png"}.isdisjoint(names(what))
    assert len(names(what)) == 20
    notes = " ".join(what.notes)
    assert "4 rows of train.csv are left out by ignore=00[0-3].png,old,gone." in notes
    assert "ignore='old', 'gone': train.csv names no such file." in notes
    assert "x.png" not in notes
    with pytest.raises(InputError, match="leaves out every row of train"):
        found(cats, ignore=("*",))


def test_a_first_line_that_names_an_image_is_a_row(cats: Path) -> None:
    lines = (cats / "train.csv").read_text().splitlines()[1:]
    (cats / "bare.csv").write_text("\n".join(lines))
    what = found(cats, "bare.csv")
    assert names(what) == names(found(cats))
    assert any(
        "names an image: it is a row, and the columns are called 1 and 2" in n for n in what.notes
    )
    values = [f"{i:03}.png,{i + 0.5}" for i in range(24)]
    (cats / "values.csv").write_text("\n".join(values))
    assert len(found(cats, "values.csv", task="regression").parts["train"][0]) == 24


def test_words_for_nothing_are_no_labels(cats: Path) -> None:
    rows = [(f"{i:03}.png", ("n/a", "NaN", "cat", "dog")[i % 4]) for i in range(24)]
    table(cats / "gaps.csv", ("image", "label"), rows)
    what = found(cats, "gaps.csv")
    assert what.classes == ("cat", "dog")
    assert any("with no label (or 'NaN', 'n/a'): left out." in note for note in what.notes)
    table(
        cats / "none.csv",
        ("image", "label"),
        [(r[0], "None" if r[1] == "n/a" else r[1]) for r in rows],
    )
    assert found(cats, "none.csv").classes == ("None", "cat", "dog")


def test_numbers_with_some_words_are_classes_with_a_note(cats: Path) -> None:
    labels = ["1", "2", "3", "much"]
    rows = [(f"{i:03}.png", labels[i % 4]) for i in range(24)]
    table(cats / "words.csv", ("image", "label"), rows)
    what = found(cats, "words.csv")
    assert what.classes == ("1", "2", "3", "much")
    assert any("are numbers but for 'much'" in n and "task=regression" in n for n in what.notes)
    rows = [(f"{i:03}.png", f"{i},5") for i in range(24)]
    table(cats / "commas.csv", ("image", "label"), rows, sign=";")
    values = found(cats, "commas.csv", task="regression").parts["train"][1]
    assert values[:, 0].tolist() == [i + 0.5 for i in range(24)]


def test_labels_that_change_under_a_run_are_noticed(cats: Path) -> None:
    from spinalnet.comparison.moved import keep_labels

    data = DataSpec(str(cats / "images"), labels=str(cats / "train.csv"))
    run = cats / "run"
    run.mkdir()
    keep_labels(run, data, begun=False)
    keep_labels(run, data, begun=True)
    text = (cats / "train.csv").read_text()
    (cats / "train.csv").write_text(text.replace("000.png,dog", "000.png,cat"))
    with pytest.raises(InputError, match="begun with other labels"):
        keep_labels(run, data, begun=True)

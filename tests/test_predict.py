from __future__ import annotations

import csv
import io
import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers import write_images
from spinalnet import (
    InputError,
    RunSpec,
    TrainConfig,
    evaluate_run,
    load_runs,
    load_trained,
    predict_images,
    run_one,
    write_predictions,
)
from spinalnet.comparison import building
from spinalnet.data.images import BadImage
from spinalnet.deploy.predict import read_paths

MANY = [f"{i:05}.png" for i in range(20_000)]
SPEC = RunSpec.of("digits", epochs=1, device="cpu", limit=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "run"
    run_one(SPEC, out)
    return out


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test digits as files, one folder per class."""
    out = tmp_path_factory.mktemp("digits")
    test = building.load_splits(SPEC).test
    for index, (image, target) in enumerate(zip(test.inputs, test.targets, strict=True)):  # type: ignore[union-attr]
        for part in ("train", "test"):
            folder = out / part / str(int(target))
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{index}.png")
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_evaluate_repeats_the_result_and_other_data_uses_the_models_constants(run, digits):
    record = load_runs(run)[0]
    assert record.result is not None
    own = evaluate_run(run)
    assert own.metrics == record.result["test"]
    assert {"ece", "brier", "loss", "top5_accuracy"} <= set(own.metrics)
    # The same digits as files: resized by the same code, they must be classified alike.
    on_files = evaluate_run(run, data=str(digits))
    assert on_files.metrics["accuracy"] == own.metrics["accuracy"]
    assert on_files.metrics["confusion"] == own.metrics["confusion"]
    assert on_files.classes == own.classes
    seven = own.classes["7"]
    counts = own.metrics["confusion"]
    assert seven.support == sum(counts[7])
    assert seven.recall == counts[7][7] / sum(counts[7])
    assert on_files.to_dict()["classes"]["7"]["recall"] == seven.recall


def test_evaluate_refuses_other_classes(run, tmp_path):
    for part in ("train", "test"):
        write_images(tmp_path / part, {"ant": 5, "bee": 5})
    with pytest.raises(
        InputError, match=r"the classes 'ant', 'bee' are in .*, but the model knows 0, 1"
    ):
        evaluate_run(run, data=str(tmp_path))


def test_evaluate_and_predict_on_numbers(tmp_path):
    config = TrainConfig(epochs=1, device="cpu")
    record = run_one(
        RunSpec.of("regression-sum", "regression-net", train=config, limit=100), tmp_path
    )
    evaluation = evaluate_run(tmp_path)
    assert record.result is not None
    assert evaluation.to_dict() == record.result["test"]
    with pytest.raises(InputError, match="cannot predict image files"):
        predict_images(tmp_path, ["x.png"])


def test_files_are_classified_as_the_data_set_was(run, digits, tmp_path):
    out = tmp_path / "predictions.csv"
    assert write_predictions(run, [digits / "test"], out, batch_size=50) == 359
    rows = rows_of(out)
    correct = sum(row["prediction"] == Path(row["path"]).parent.name for row in rows)
    assert correct / 359 == pytest.approx(evaluate_run(run).metrics["accuracy"])
    assert list(rows[0]) == ["path", "prediction", "probability", *(f"p_{k}" for k in range(10))]
    for row in rows[:20]:
        shares = [float(row[f"p_{k}"]) for k in range(10)]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == max(shares) == shares[int(row["prediction"])]


def test_a_checkpoint_file_is_enough(run, digits, tmp_path):
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    files = sorted((digits / "test" / "3").glob("*.png"))[:5]
    assert list(predict_images(alone, files)) == list(predict_images(run, files))


def test_top_k_and_all_probabilities(run, digits, tmp_path):
    files = sorted((digits / "test" / "3").glob("*.png"))[:4]
    write_predictions(run, files, tmp_path / "x.csv", top_k=3, all_probabilities=False)
    rows = rows_of(tmp_path / "x.csv")
    assert list(rows[0])[3:] == ["prediction_2", "probability_2", "prediction_3", "probability_3"]
    write_predictions(run, files, tmp_path / "x.jsonl", top_k=3)
    records = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    for row, record in zip(rows, records, strict=True):
        top = [[row["prediction"], float(row["probability"])]]
        top += [[row[f"prediction_{i}"], float(row[f"probability_{i}"])] for i in (2, 3)]
        assert record["top"] == top
        assert record["prediction"] == top[0][0]
        everything = record["probabilities"]
        assert sorted(everything.values(), reverse=True)[:3] == [p for _, p in top]
        assert record["path"] == row["path"]


def test_with_many_classes_not_every_probability_is_written(run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("spinalnet.deploy.predict.FEW_CLASSES", 9)
    write_predictions(run, [digits / "test" / "3"], tmp_path / "x.csv")
    assert list(rows_of(tmp_path / "x.csv")[0]) == ["path", "prediction", "probability"]


def test_images_are_taken_as_they_come(run, digits):
    """An endless stream is answered: nothing waits for its end, and threads end when we do."""
    file = next((digits / "test" / "3").glob("*.png"))
    taken = itertools.count()

    def endless() -> Iterator[Path]:
        for _ in taken:
            yield file

    rows = predict_images(run, endless(), batch_size=4)
    first = list(itertools.islice(rows, 10))
    assert [row.path for row in first] == [file] * 10
    assert next(taken) <= 10 + 5 * 4  # what is read ahead
    rows.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("spinalnet-images")]


def test_bad_files_are_told_all_at_once_or_left_out(run, tmp_path):
    write_images(tmp_path, {"a": 5})
    for k in (1, 2):
        (tmp_path / "a" / f"{k:03}.png").write_bytes(b"")
    paths = [tmp_path, tmp_path / "gone.png"]
    with pytest.raises(InputError, match="3 image files cannot be used; remove them, or leave"):
        write_predictions(run, paths, tmp_path / "out.csv", batch_size=2)
    assert not (tmp_path / "out.csv").exists()
    told: list[BadImage] = []
    options: dict[str, Any] = {"batch_size": 2, "on_bad_image": told.append}
    found = list(predict_images(run, paths, **options))
    bad = [tmp_path / "a" / "001.png", tmp_path / "a" / "002.png", tmp_path / "gone.png"]
    assert [what.path for what in told] == [str(path) for path in bad]
    good = [tmp_path / "a" / f"{k:03}.png" for k in (0, 3, 4)]
    assert [row.path for row in found] == good
    for row, alone in zip(found, predict_images(run, good), strict=True):
        # Not bit by bit: they came in batches of other sizes.
        assert row.probabilities == pytest.approx(alone.probabilities, rel=1e-5)


def test_an_interruption_leaves_the_old_file(run, digits, tmp_path):
    out = tmp_path / "x.csv"
    out.write_text("old")

    def stop(_: object) -> None:
        if list(tmp_path.glob(".x.csv.*.tmp")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(run, [digits / "test"], out, on_row=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    assert out.read_text() == "old"


def test_formats_are_known_by_name_or_ending(run, digits, tmp_path):
    files = [next((digits / "test" / "3").glob("*.png"))]
    write_predictions(run, files, tmp_path / "x.txt", form="jsonl")
    assert json.loads((tmp_path / "x.txt").read_text())["path"] == str(files[0])
    with pytest.raises(InputError, match=r"says no format: use \.csv or \.jsonl"):
        write_predictions(run, files, tmp_path / "x.txt")
    with pytest.raises(InputError, match="did you mean 'jsonl'"):
        write_predictions(run, files, form="jsnl")  # type: ignore[arg-type]


def test_a_name_that_is_no_text_survives(run, digits, tmp_path):
    odd = tmp_path / "ä\udcff\n.png"
    odd.write_bytes(next((digits / "test" / "3").glob("*.png")).read_bytes())
    for name in ("x.csv", "x.jsonl"):
        assert write_predictions(run, [odd], tmp_path / name) == 1
    assert json.loads((tmp_path / "x.jsonl").read_text(encoding="utf-8"))["path"] == str(odd)
    text = (tmp_path / "x.csv").read_text(encoding="utf-8", errors="surrogateescape")
    assert next(csv.DictReader(io.StringIO(text, newline="")))["path"] == str(odd)


@pytest.mark.parametrize(
    ("said", "paths"),
    [
        (b"a.png\nb c.png\r\n\nd.png", ["a.png", "b c.png", "d.png"]),
        (b"a\nb.png\0c.png\0", ["a\nb.png", "c.png"]),
        (b"one.png", ["one.png"]),
        (b"", []),
        ("\n".join(MANY).encode(), MANY),
    ],
    ids=["lines", "nul", "no newline", "nothing", "many chunks"],
)
def test_paths_on_standard_input(said, paths):
    for size in (1 << 16, 100):
        chunks = (said[start : start + size] for start in range(0, len(said), size))
        assert list(read_paths(chunks)) == paths


def test_a_model_in_hand_serves_too(run, digits):
    file = next((digits / "test" / "3").glob("*.png"))
    trained = load_trained(run)
    (row,) = predict_images(trained, [file])
    assert row == next(iter(predict_images(run, [str(file)])))
    assert row.top(2)[0] == (row.class_name, row.probability)
    silent = replace(trained, model=torch.nn.Identity())
    with pytest.raises(InputError, match="batch_size"):
        predict_images(silent, [file], batch_size=0)


def test_a_file_that_is_there_is_not_replaced_unasked(run, tmp_path, capsys) -> None:
    from test_cli import refusal

    out = tmp_path / "p.csv"
    out.write_text("mine")
    said = refusal(capsys, "predict", run, "x.png", "--out", out)
    assert "exists already: name another file, or replace it with --force" in " ".join(said.split())
    assert out.read_text() == "mine"

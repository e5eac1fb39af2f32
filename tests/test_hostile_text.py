"""Any file is data: whatever it holds, it costs one sentence, little time and little memory."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trials import mutate, samples
from trials.mutate import MARK

from helpers import command, without_digests
from make_frozen_run import FROZEN, TEST_ACCURACY
from spinalnet import InputError, RunSpec, files, run_one, summarize, texts, write_report
from spinalnet._checks import SpinalnetError
from spinalnet.comparison import load_trained, wording
from spinalnet.comparison.schema import read_mapping
from spinalnet.data.frames import load_table
from spinalnet.deploy import evaluate_run, verify
from spinalnet.models.checkpoints import read_weights
from spinalnet.training import runs, states

SPEC = RunSpec.of("digits", limit=60, epochs=2, lr=3e-3, device="cpu", seed=0)
DEEP_JSON, DEEP_YAML = "[" * 100_000, "a: " + "[" * 20_000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """One file of every kind that is read."""
    folder = tmp_path_factory.mktemp("whole")
    samples.make(folder)
    return folder


def copy(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(folder, to))


def sentence_of(read: Callable[[Path], Any], folder: Path) -> str | None:
    """Return what a reader refuses a folder with; None if it reads it."""
    try:
        read(folder)
    except SpinalnetError as error:
        return str(error)
    return None


# Texts


@pytest.mark.parametrize(
    "text",
    [
        DEEP_YAML,
        "- " * 5000 + "a",
        BOMB,
        "a: *b",
        "a: 2001-01-01",
        "1: 2",
        "? [a]\n: b",
        "a: !!python/object/apply:os.system [echo]",
        "a: !!binary aGk=",
        "a: " + "9" * 6000,
        "a: \x00",
        "a: b: c",
        "!!set {a, b}",
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_is_no_plain_data_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 (the reason is libyaml's, or ours)
        texts.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "because"), [(DEEP_YAML, "deeper"), ("- " * 5000 + "a", "deeper"), (BOMB, "aliases")]
)
def test_yaml_that_would_take_for_ever_is_refused_before_it_is_built(text, because, monkeypatch):
    import yaml

    monkeypatch.setattr(yaml, "load", lambda *_: pytest.fail("it was built"))
    with pytest.raises(ValueError, match=because):
        texts.from_yaml(text)


@pytest.mark.parametrize("text", [DEEP_JSON, '{"a":' * 200 + "1" + "}" * 200, "9" * 6000, "{", ""])
def test_json_that_is_no_plain_data_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        texts.from_json(text)


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_what_is_written_is_read(tmp_path, name):
    values = {"a": [1, 2.5, None, True, "ø: *x &y"], "b": {"c": []}, "2001-01-01": "2001-01-01"}
    files.write_mapping(tmp_path / name, values)
    assert read_mapping(tmp_path / name) == values


HOSTILE = {
    "config.yaml": [
        MARK + DEEP_YAML,
        MARK + BOMB,
        MARK + "- 1",
        MARK + "7",
        MARK + "a: 2001-01-01",
    ],
    "result.json": [DEEP_JSON, "[1]", "null", "{}", '{"test": 7, "seed": 0, "head": "spinal"}'],
    "environment.json": [DEEP_JSON, "[1]", "7", "\udcff"],
    "metrics.jsonl": [DEEP_JSON + "\n", "[1]\n", '{"epoch": {}}\n'],
}


@pytest.mark.parametrize(
    ("name", "text"),
    [(name, text) for name, some in HOSTILE.items() for text in some],
    ids=lambda value: str(value).removeprefix(MARK)[:14],
)
def test_a_text_that_is_none_of_ours_is_one_sentence(whole, tmp_path, name, text):
    folder = copy(whole / samples.COMPARISON, tmp_path / "copy")
    run = folder / "runs" / "spinal-seed0"
    (run / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    for read in (summarize, lambda path: load_trained(path / "runs" / "spinal-seed0")):
        said = sentence_of(read, folder)
        assert said is None or len(said) < 1500


# Anything anywhere


@pytest.mark.parametrize(
    ("readers", "count"), [(samples.OF_RUNS, 300), (samples.OF_OTHERS, 150)], ids=["runs", "others"]
)
def test_hundreds_of_damaged_and_invented_files_end_in_a_sentence(whole, tmp_path, readers, count):
    seen = {"read": 0, "refused": 0}
    for number, name, data, found in mutate.hunt(copy(whole, tmp_path / "copy"), readers, count, 0):
        assert not found.fault, (name, number, data[:300], found.fault)
        seen["refused" if found.sentence else "read"] += 1
    assert min(seen.values()) > 15


@pytest.mark.parametrize("name", ["a.feather", "a.parquet"])
def test_bytes_in_a_table_that_are_no_text_are_refused_when_it_is_read(tmp_path, name):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": ["x" * 40, "y" * 40], "y": [0.5, 1.5]})
    path = tmp_path / name
    write = frame.to_feather if name == "a.feather" else frame.to_parquet
    write(path, compression="uncompressed" if name == "a.feather" else None)
    path.write_bytes(path.read_bytes().replace(b"x" * 40, b"\xff" * 40))
    with pytest.raises(InputError, match=f"table '.*{name}' cannot be read"):
        load_table(str(path), "y")


@pytest.mark.parametrize("column", ["a", "y"])
def test_a_whole_number_of_hundreds_of_digits_is_too_large(tmp_path, column):
    rows = {"a": ["1", "2", "3"], "y": ["4", "6", "9"]}
    rows[column][1] = "9" * 400
    lines = ["a,y", *map(",".join, zip(*rows.values(), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=rf"{column}.* 1 row \(2\)"):
        load_table(str(tmp_path / "t.csv"), "y", task="regression")


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path):
    torch.save({"w": torch.zeros(5_000_000)}, tmp_path / "plain.pt")
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert packed.stat().st_size < 100_000
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_weights(packed)
    shutil.copy(packed, tmp_path / states.STATE_FILE)
    with pytest.raises(InputError, match="damaged or not ours"):
        states.load(tmp_path)
    assert read_weights(tmp_path / "plain.pt")["w"].shape == (5_000_000,)


# What others open


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3+cmd", "'-2+3+cmd"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("-0.5", "-0.5"),
        ("-1e-05", "-1e-05"),
        (-0.5, -0.5),
        ("a=b", "a=b"),
        ("", ""),
        (None, None),
    ],
)
def test_what_a_spreadsheet_would_run_is_quoted_and_numbers_stay(value, cell):
    assert texts.spreadsheet_cell(value) == cell


def test_tables_quote_names_of_rows_and_columns():
    text = wording.as_csv([{"=name": "@x", "value": -1.5, "also": "-2"}])
    assert list(csv.reader(io.StringIO(text))) == [
        ["'=name", "value", "also"],
        ["'@x", "-1.5", "-2"],
    ]


def test_predictions_quote_the_names_of_files_and_classes(tmp_path):
    from helpers import write_images
    from spinalnet import write_predictions

    write_images(tmp_path / "data", {"=1+1": 12, "ok": 12})
    spec = RunSpec.of(str(tmp_path / "data"), epochs=1, device="cpu", image_size=28, in_channels=1)
    run_one(spec, tmp_path / "run")
    (tmp_path / "new").mkdir()
    for place, image in enumerate(sorted((tmp_path / "data" / "ok").iterdir())[:2]):
        shutil.copy(image, tmp_path / "new" / f"{place}.png")
    write_predictions(tmp_path / "run", [tmp_path / "new"], tmp_path / "out.csv")
    rows = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert {row[1] for row in rows[1:]} <= {"'=1+1", "ok"}
    assert rows[0][3:] == ["p_=1+1", "p_ok"]
    write_predictions(tmp_path / "run", [tmp_path / "new"], tmp_path / "out.jsonl")
    said = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {one["prediction"] for one in said} <= {"=1+1", "ok"}


def test_a_name_in_markdown_is_shown_and_not_read():
    name = wording.as_plain_markdown("[x](javascript:y)|<b>*z*\n# t")
    assert name == r"\[x\](javascript:y)\|\<b\>\*z\* # t"
    table = wording.as_markdown(["a", "b"], [["one|two\nthree", r"four\|five"]])
    assert table.splitlines()[2] == r"| one\|two three | four\|five |"


def test_the_name_of_a_row_leads_no_file_out_of_the_folder(tmp_path):
    folder = tmp_path / "deep" / "folder"
    run_one(SPEC, folder / "runs" / "spinal-seed0")
    path = folder / "runs" / "spinal-seed0" / "result.json"
    result = json.loads(path.read_text()) | {"label": "x/../../../evil"}
    path.write_text(json.dumps(result))
    without_digests(path.parent)
    write_report(folder)
    assert [one.name for one in tmp_path.iterdir()] == ["deep"]
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["folder"]
    assert "x/../../../evil" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "aliases"),
        ("a: {b: 1, 'b': 2}\n", "stands there again"),
        ("epochs: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        (f"a: {'[' * 3000}{']' * 3000}\n", "nested deeper"),
        ("heads: [a, [b]]\n", "heads must be a list of names"),
        ("heads: [null]\n", "heads must be a list of names"),
        ("model: {head_options: 7}\n", "head_options must hold names and values"),
        ("table: a.csv\ntrain: [1]\n", "train must hold names and values"),
        ("data: {pixel_range: [a, b]}\n", "pixel-range must be a list of numbers"),
        ("image_size: 18446744073709551615\n", "size must be at most 16,384 pixels"),
        ("epochs: 99999999999999999999999999\n", "more than 64 bits"),
        ("lr: .nan\n", "lr must be a positive number"),
    ],
)
def test_a_hostile_config_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    words = ("train", "digits", "--config", tmp_path / "c.yaml", "--out", tmp_path / "o")
    ended = command(*words)
    assert ended.returncode == 2
    assert sentence in " ".join(ended.stderr.split())
    assert not (tmp_path / "o").exists()


# A run of another time


def test_a_run_folder_of_the_version_that_began_digests_is_read(tmp_path):
    run = copy(FROZEN, tmp_path / "run")
    (record,) = runs.load_runs(run)
    assert record.done
    assert [row["epoch"] for row in record.metrics] == [1, 2]
    assert RunSpec.from_dict(record.config).train.epochs == 2
    (found,) = verify(run, models=False)
    assert found.damage == ()
    assert evaluate_run(run).metrics["accuracy"] == pytest.approx(TEST_ACCURACY, abs=0.01)
    assert summarize(run).heads[0].mean == pytest.approx(TEST_ACCURACY, abs=1e-9)
    assert run_one(RunSpec.from_dict(record.config), run).result == record.result


def test_a_run_of_a_newer_version_is_refused_by_its_version(tmp_path):
    run = copy(FROZEN, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("schema: 3", "schema: 99"))
    without_digests(run)
    with pytest.raises(InputError, match=r"schema 3, got 99. Update spinalnet"):
        load_trained(run)

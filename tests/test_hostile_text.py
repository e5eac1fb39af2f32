"""Any file is data: whatever it holds, it costs one sentence, little time and little memory."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from make_frozen_run import FROZEN, TEST_ACCURACY
from spinalnet import InputError, RunSpec, files, run_one, summarize, texts, write_report
from spinalnet._checks import SpinalnetError
from spinalnet.comparison import TableSpec, load_trained, loading, tables, wording
from spinalnet.comparison.outputs import OUTPUTS_FILE, load_outputs
from spinalnet.comparison.schema import read_mapping
from spinalnet.comparison.summary import load_summary
from spinalnet.deploy import evaluate_run, verify
from spinalnet.models.checkpoints import read_weights
from spinalnet.paper.records import load_records
from spinalnet.training import runs, states

SPEC = RunSpec.of("digits", limit=60, epochs=2, lr=3e-3, device="cpu", seed=0)
MARK = "# A spinalnet run: what was asked for. Do not edit.\n"
RECORD = Path(__file__).parents[1] / "results" / "recipes" / "customizable-mnist-honest.json"
TABLE_RUN = "runs/linear-split0-seed0"
DEEP_JSON, DEEP_YAML = "[" * 100_000, "a: " + "[" * 20_000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A comparison of one finished run, without digests: what holds then holds with them."""
    folder = tmp_path_factory.mktemp("whole")
    run_one(SPEC, folder / "runs" / "spinal-seed0")
    (folder / "runs" / "spinal-seed0" / "DONE").write_bytes(b"")
    question = {"heads": ["spinal"], "seeds": [0], "units": ["seed0"], "data": "digits"}
    files.write_mapping(folder / "comparison.yaml", question | {"model": "mnist-cnn"})
    files.write_mapping(folder / "looks.json", {"looks": [1], "stopping": False})
    files.write_mapping(folder / "summary.json", summarize(folder).to_dict())
    failed = runs.RunFolder.start(folder / "runs" / "mlp-seed0", {"head": "mlp"})
    told = {"kind": "error", "reason": "x", "label": "mlp", "unit": {"seed": 0, "name": "seed0"}}
    files.write_mapping(failed.path / "failed.json", told)
    times = {"inference": 1.0, "training": 2.0, "inference_quartiles": [0.9, 1.1]}
    timing = {"schema": 2, "batch_size": 64, "device": "cpu", "heads": {"spinal": times}}
    files.write_mapping(folder / "timing.json", timing)
    row = {"label": "spinal", "space": {"lr": "0.1 to 1"}, "trials": 2, "failed": 0}
    row |= {"chosen": {"lr": 0.1}, "curve": [0.5, 0.6], "edges": [], "untuned": False}
    tuning = {"schema": 3, "seed": 1, "trials": 2, "metric": "accuracy", "rows": [row]}
    files.write_mapping(folder / "tuning.json", tuning | {"looked": []})
    with pytest.raises(KeyboardInterrupt):
        run_one(SPEC, folder / "broken", on_progress=stop)
    shutil.copy(folder / "broken" / states.STATE_FILE, folder / states.STATE_FILE)
    shutil.rmtree(folder / "broken")
    shutil.copy(RECORD, folder / "recipe.json")
    return folder


@pytest.fixture(scope="module")
def of_table(whole) -> Path:
    """A tuned run on a table, of the same comparison's folder."""
    run = whole.with_name(f"{whole.name}-table")
    tables.run_table(TableSpec("sklearn:iris", head="linear", tune=2), run / TABLE_RUN)
    (run / TABLE_RUN / "DONE").write_bytes(b"")
    return run


def stop(spec, progress):
    if (progress.phase, progress.epoch) == ("train", 2):
        raise KeyboardInterrupt


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
def test_yaml_that_is_no_plain_data_is_refused_quickly(text):
    began = time.monotonic()
    with pytest.raises(ValueError):  # noqa: PT011 (the reason is libyaml's, or ours)
        texts.from_yaml(text)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("text", [DEEP_JSON, '{"a":' * 200 + "1" + "}" * 200, "9" * 6000, "{", ""])
def test_json_that_is_no_plain_data_is_refused_quickly(text):
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
    folder = copy(whole, tmp_path / "copy")
    run = folder / "runs" / "spinal-seed0"
    (run / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    for read in (summarize, lambda path: load_trained(path / "runs" / "spinal-seed0")):
        said = sentence_of(read, folder)
        assert said is None or len(said) < 1500


# Anything anywhere


READERS: dict[str, Callable[[Path], Any]] = {
    "runs/spinal-seed0/config.yaml": summarize,
    "runs/spinal-seed0/environment.json": summarize,
    "runs/spinal-seed0/metrics.jsonl": summarize,
    "runs/spinal-seed0/result.json": summarize,
    "comparison.yaml": summarize,
    "looks.json": summarize,
    "timing.json": summarize,
    "tuning.json": summarize,
    "runs/mlp-seed0/failed.json": summarize,
    "recipe.json": lambda folder: load_records(folder, "recipe.json"),
    "summary.json": lambda folder: load_summary(folder / "summary.json"),
    "runs/spinal-seed0/model.safetensors": lambda f: load_trained(f / "runs" / "spinal-seed0"),
    f"runs/spinal-seed0/{OUTPUTS_FILE}": lambda f: load_outputs(
        f / "runs/spinal-seed0" / OUTPUTS_FILE
    ),
    "state.pt": states.load,
    "best": lambda folder: loading.run_of(folder),
}
OF_TABLE: dict[str, Callable[[Path], Any]] = {
    f"{TABLE_RUN}/result.json": summarize,
    f"{TABLE_RUN}/model.safetensors": lambda f: loading.load(f / TABLE_RUN / "model.safetensors"),
}
WORDS = (
    *("null", "[]", "{}", "-1", "1e999", "99999999999999999999", '"x"', "true", "NaN", "[[[]]]"),
    *("", "\x00", "*a", "&a", "!!set", ": ", "\n- ", "ø", "\ud800", "0", '{"a": 1}'),
)


VALUES: tuple[Any, ...] = (
    *(None, [], {}, -1, 0, 1.5, 2**70, 2**62, math.nan, "", "x", True, [[]], [None], {"a": None}),
    *([-1], ["x"], [0] * 3, {"accuracy": "x"}, "seed0", "../../x", "=1", "\x1b[31m"),
)


def restructured(values: Any, draw: random.Random) -> Any:
    """Return plain values with one of them, at any depth, exchanged, removed or renamed."""
    made = json.loads(json.dumps(values))
    places: list[tuple[Any, Any]] = []
    layer = [made]
    while layer:
        one = layer.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        places += [(one, key) for key in keys]
        layer += [one[key] for key in keys if isinstance(one[key], dict | list)]
    holder, key = draw.choice(places)
    how = draw.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[draw.choice(("x", "", "schema", "__class__"))] = holder.pop(key)
    else:
        holder[key] = draw.choice(VALUES)
    return made


def mutated_file(name: str, data: bytes, draw: random.Random) -> bytes:
    """Return the content of a file with something changed, in its bytes or in what they say."""
    if draw.random() < 0.5 or name.endswith((".pt", ".jsonl", OUTPUTS_FILE)):
        return mutated(data, draw)
    if name.endswith(".json"):
        return json.dumps(restructured(json.loads(data), draw)).encode()
    if name.endswith(".yaml"):
        first = MARK if data.startswith(MARK.encode()) else ""
        changed = restructured(texts.from_yaml(data.decode()), draw)
        return (first + files.to_yaml(changed)).encode()
    size = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["spinalnet"])
    about.pop("blake2b")
    # Without a digest, which whoever changes a file on purpose can make too.
    return save(load(data), metadata={"spinalnet": json.dumps(restructured(about, draw))})


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Return a file with something changed: bits, bytes, pieces, or whole values."""
    how = draw.randrange(6)
    if how == 0 or len(data) < 4:
        changed = bytearray(data or b"x")
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    a, b = sorted(draw.randrange(len(data)) for _ in range(2))
    if how == 1:
        return data[:a]
    if how == 2:
        return data[:a] + data[b:]
    if how == 3:
        return data[:b] + data[a:b] + data[b:]
    word = draw.choice(WORDS).encode("utf-8", "surrogatepass")
    if how == 4:
        return data[:a] + word + data[min(b, a + 8) :]
    # A value in a text: what stands between a colon and the end of the line.
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    head, colon, _ = lines[place].partition(b":")
    comma = b"," if lines[place].rstrip().endswith(b",") else b""
    lines[place] = head + colon + b" " + word + comma
    return b"\n".join(lines)


def hunt(
    whole: Path, tmp_path: Path, count: int, seed: int, known: dict[str, Callable[[Path], Any]]
) -> dict[str, int]:
    """Read mutated files; whatever happens must be a sentence, and quick."""
    draw, seen = random.Random(seed), {"read": 0, "refused": 0}
    folder = copy(whole, tmp_path / "copy")
    names = [name for name in known if name != "best"]
    for number in range(count):
        name = names[number % len(names)]
        path, before = folder / name, (whole / name).read_bytes()
        data = mutated_file(name, before, draw)
        path.write_bytes(data)
        readers = [known[name]]
        if "best" in known and name.endswith(("result.json", "config.yaml", "comparison.yaml")):
            readers.append(READERS["best"])
        for read in readers:
            began = time.monotonic()
            try:
                said = sentence_of(read, folder)
            except Exception as error:
                raise AssertionError(f"{name}, {number}: {data[:3000]!r}") from error
            assert said is None or "\n" not in said.strip(), (name, said)
            seen["read" if said is None else "refused"] += 1
            assert time.monotonic() - began < 10, (name, number)
        path.write_bytes(before)
    return seen


def test_hundreds_of_mutated_files_end_in_a_sentence(whole, tmp_path):
    seen = hunt(whole, tmp_path, 300, 0, READERS)
    assert min(seen.values()) > 20


def test_mutated_runs_on_tables_end_in_a_sentence(of_table, tmp_path):
    seen = hunt(of_table, tmp_path, 60, 0, OF_TABLE)
    assert min(seen.values()) > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_mutated_files_end_in_a_sentence(whole, of_table, tmp_path, seed):
    hunt(whole, tmp_path, 1600, seed, READERS)
    hunt(of_table, tmp_path / "table", 400, seed, OF_TABLE)


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
    (path.parent / "DONE").write_bytes(b"")
    write_report(folder)
    assert [one.name for one in tmp_path.iterdir()] == ["deep"]
    assert [one.name for one in (tmp_path / "deep").iterdir()] == ["folder"]
    assert "x/../../../evil" in (folder / "report.html").read_text(encoding="utf-8")


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
    (run / "DONE").write_bytes(b"")
    with pytest.raises(InputError, match=r"schema 3, got 99. Update spinalnet"):
        load_trained(run)

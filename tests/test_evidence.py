"""Every number that README and docs show is from a committed file that says how it was made."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import claims
import compared
import pytest

from spinalnet.training import describe_origin

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("results", "benchmarks/results")
    for path in (ROOT / folder).rglob("*.json")
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _environments(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The circumstances of a file: of its own, of its summary, or one for each time it was run."""
    own = record.get("environment") or record.get("summary", {}).get("environment")
    return record.get("environments") or [own or {}]


def _said(value: object) -> bool:
    """Whether something is said, by one or by each of several runs."""
    return bool(value) and (not isinstance(value, list) or all(map(_said, value)))


def missing(record: Mapping[str, Any]) -> set[str]:
    """What a file of results does not say of how it was made."""
    summary = record.get("summary", {})
    found = _environments(record)
    needed = {
        "commit": ("commit",),
        "hardware": ("cpu", "threads"),
        "versions": ("python", "torch"),
    }
    lacks = {
        what
        for what, keys in needed.items()
        for one in found
        for key in keys
        if not _said(one.get(key))
    }
    if not _said(record.get("command") or summary.get("command")):
        lacks.add("command")
    compares = "heads" in record and "selected_on" in {**record, **summary}
    seeds = record.get("seeds") or summary.get("seeds")
    if compares and not seeds:
        lacks.add("seeds")
    return lacks


def _record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_results_says_how_it_was_made(name: str):
    assert not missing(_record(name))


@pytest.mark.parametrize("word", ["commit", "cpu", "torch", "command", "seeds"])
def test_a_file_that_leaves_one_thing_out_is_found(word: str):
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(one) for key, one in value.items() if key != word}
        return value

    assert not missing(_record("results/digits.json"))
    assert missing(without(_record("results/digits.json")))


needs_checkout = pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs git and a checkout"
)


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@needs_checkout
def test_a_commit_that_is_named_is_in_the_history():
    if _git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("the history is cut off")
    known = set(_git("rev-list", "--all", "HEAD").splitlines())
    named = {
        (name, commit)
        for name in FILES
        if "commit_note" not in (record := _record(name))
        for one in _environments(record)
        for commit in ([one["commit"]] if isinstance(one["commit"], str) else one["commit"])
    }
    lost = {place for place in named if not any(c.startswith(place[1]) for c in known)}
    assert not lost


@needs_checkout
def test_the_files_are_committed():
    listed = _git("ls-files", "results", "benchmarks/results")
    assert set(FILES) <= set(listed.splitlines())


def _opened() -> Iterator[set[str]]:
    """The files of results that are opened while the block runs."""
    seen: set[str] = set()
    on = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if on and event == "open" and isinstance(arguments[0], str):
            path = Path(arguments[0])
            of_packages = "site-packages" in path.parts  # a virtual environment in the checkout
            if path.suffix == ".json" and path.is_relative_to(ROOT) and not of_packages:
                seen.add(path.relative_to(ROOT).as_posix())

    sys.addaudithook(watch)  # it cannot be taken off again, but told to look away
    try:
        yield seen
    finally:
        on = False


opened = pytest.fixture(_opened)


# Facts of the recipes; nothing measured.
NOTHING_YET = ("Not measured yet", "The questions asked beforehand are not answered yet")
OF_THE_ORIGINAL = {"claims-records", "claims-printed", "claims-chart", "migration"}


def test_every_block_of_numbers_is_made_from_such_files(
    opened: set[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(ROOT / "docs")
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))["TABLES"]
    shown = {
        name
        for page in PAGES
        for name in re.findall(r"<!-- table:([\w-]+) -->", page.read_text(encoding="utf-8"))
    }
    assert shown <= set(tables)
    for name in sorted(shown - OF_THE_ORIGINAL):
        opened.clear()
        told = tables[name]()
        if not opened:  # a study that is designed and not begun
            assert told.startswith(NOTHING_YET), f"the table '{name}' is made from no file"
        assert opened <= set(FILES), name


def test_a_benchmark_says_its_command_and_circumstances(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "heads.py"), "--only", "a b"])
    made = describe_origin()
    # Of an installed package it is not known where the checkout is.
    assert made["command"].endswith("heads.py --only 'a b'")
    assert {"cpu", "threads", "torch", "python"} <= set(made["environment"])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/spinalnet", "bench", "augment"])
    assert describe_origin()["command"] == "spinalnet bench augment"


def test_no_cell_of_the_claims_is_empty() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "claims.md").read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    assert len(rows) > 100
    assert [row for row in rows if not all(cell.strip() for cell in row.split("|")[1:-1])] == []


def test_no_table_shows_a_value_that_is_not_there() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = re.findall(r"<!-- table:.*?<!-- /table -->", text, re.DOTALL)
        assert [word for table in made for word in re.findall(r"\b(?:None|nan)\b", table)] == []


@pytest.mark.parametrize(
    ("value", "examples", "right"),
    [
        (0.9588, 20_800, 19_943),
        (0.99, 100, 99),
        (0.995, 100, None),  # between 99 and 100 of them
        (0.9956, 1_125, 1_120),
        (0.9955, 1_125, None),  # 1,120 of them are 99.5556 %
    ],
)
def test_an_accuracy_that_is_printed_is_a_count_of_images(
    value: float, examples: int, right: int | None
) -> None:
    assert claims.fits(value, examples) == right


@pytest.mark.parametrize(
    ("bars", "answer", "error"),
    [
        ((99.7, 99.5, 10_000), "no difference to be read", 0.089),  # each misread by up to 0.1
        ((95.9, 95.4, 20_800), "within reading and chance", 0.2),
        ((60, 50, 100), "within reading and chance", 7),  # 10 points, of which 13.7 would be chance
        ((99.8, 97.75, 40_000), "ahead", 0.077),
        ((90, 91, 100), "within reading and chance", 4.15),
        ((88.3, 93.5, 10_000), "behind", 0.405),
        ((100, 90, None), "ahead", None),
    ],
)
def test_a_lead_in_the_chart_is_set_against_chance(
    bars: tuple[float, float, int | None], answer: str, error: float | None
) -> None:
    said, found = claims.chart_says(*bars)
    assert said == answer
    assert found == (None if error is None else pytest.approx(error, rel=0.02))


def _compared(*codes: str | None, claim: str = "accuracy", asked: bool = True) -> list[Any]:
    """Comparisons minus *mlp* with these answers, each with an interval that fits it."""
    ends = {"better": (0.01, 0.02), "worse": (-0.02, -0.01), "equal": (0.001, 0.004)}
    return [
        compared.Compared(
            *("made up", claim, 0.005, asked, "5", "100", 0.9),
            {"mlp": compared.Difference(0.0, *ends.get(code or "", (-0.1, 0.1)), code)},
        )
        for code in codes
    ]


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        (["better", "better", "equal"], "confirmed"),
        (["better", "equal", "undecided"], "not confirmed"),  # one of three may be luck
        (["better", "better", "better", "worse"], "not confirmed"),
        (["equal", "equal"], "not confirmed"),
        (["better", "equal"], "not confirmed"),
    ],
)
def test_a_claim_of_higher_accuracy_needs_most_and_no_contradiction(
    codes: list[str], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = _compared(None, None, asked=False)  # never counted, whatever their intervals say
    made = (*_compared(*codes), *seen, *_compared("worse", claim="transfer"))
    monkeypatch.setattr(compared, "comparisons", lambda: made)
    said, numbers = claims.accuracy()
    assert said == verdict
    assert f"in {len(codes)} comparisons" in numbers
    assert "beside 2 more that were not asked" in numbers


def test_answers_are_counted_and_what_equal_hides_is_told() -> None:
    ours = _compared("equal", "equal", "better", "undecided", None)
    ours[1].minus["mlp"] = compared.Difference(-0.002, -0.003, -0.001, "equal")
    ours += _compared("equal")
    ours[-1].minus["mlp"] = compared.Difference(0.0, -0.003, 0.001, "equal")
    assert compared.counted(ours, "mlp") == (
        "better in 1, equal in 3 (1 ahead and 1 behind by less than the margin), worse in 0, "
        "undecided in 1"
    )


OF_NO_DATA = {  # studies and groups of them that ask about made-up functions, or nets of no use
    *("gradients", "regression", "universality", "tables"),
    "interactions: kind",
    "interactions_again: order",
    "interactions_again: overlap",
    "interactions_rates: order",
}


def test_what_studies_asked_of_images_is_in_the_list_once() -> None:
    asked = [one for one in compared.comparisons() if one.asked]
    assert len({one.words() for one in asked}) == len(asked)
    answers, met = 6, set()  # of tuned heads: three questions on two data sets
    for path in sorted((ROOT / "results" / "studies").glob("*.json")):
        rows = _record(f"results/studies/{path.name}")["answers"]
        for row in rows if isinstance(rows, list) else []:
            if row.get("other") in compared.RIVALS and row["verdict"] is not None:
                group = f"{path.stem}: {row['group']}" if "group" in row else path.stem
                met.add(group)
                answers += group not in OF_NO_DATA
    assert {group for group in OF_NO_DATA if ":" in group} <= met
    shown = [d.code for one in asked if one.mean is not None for d in one.minus.values()]
    assert sum(code is not None for code in shown) == answers
    seen = [d for one in compared.comparisons() if not one.asked for d in one.minus.values()]
    assert not any(d.code for d in seen)


def test_every_result_of_a_comparison_is_in_the_list() -> None:
    """Beside those of which a later file holds the answer."""
    files = {path.stem for path in (ROOT / "results").glob("*.json")}
    summaries = {name for name in files if "heads" in _record(f"results/{name}.json")}
    tuned = {f"tuned-{data}" for data in ("mnist", "fashion-mnist")}
    none = {"transfer-hymenoptera-tuned-dropout"}  # it has neither an MLP nor a linear head
    assert summaries - none == tuned | set(compared.SEEN)

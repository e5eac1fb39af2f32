"""Files of results of the studies: of the design that stands in the script, with its answers."""

from __future__ import annotations

import functools
import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spinalnet import files

ROOT = Path(__file__).parents[1]
NAMES = ("universality", "regression", "transfer", "transfer_large", "transfer_folds")
NAMES += ("transfer_settings", "interactions", "interactions_again", "interactions_rates")


def script(name: str) -> Any:
    return SimpleNamespace(**runpy.run_path(str(ROOT / "studies" / f"{name}.py")))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_of_this_design_and_answers_follow(name: str, tmp_path: Path) -> None:
    study = script(name)
    path = study.common.RESULTS / f"{name}.json"
    record = json.loads(path.read_text("utf-8"))
    assert record["design"] == json.loads(json.dumps(study.design()))
    assert record["answers"]
    for one, other in zip(study.STUDY.answers(record), record["answers"], strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (pytest.approx(value) if isinstance(value, float) else value)
    study.STUDY.draw(record, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert path.with_suffix(".png").exists()
    if not any("right" in cell for cell in record["cells"]):  # which holds hits of all seeds
        assert max(map(len, path.read_text("utf-8").splitlines())) < 3_000


def compute(key: tuple[int], made: list[int], fail_at: int) -> dict[str, Any]:
    if len(made) == fail_at:
        raise KeyboardInterrupt
    made.append(key[0])
    return {"number": key[0], "test": [0.5], "seconds": 0.0}


def small(name: str, made: list[int], fail_at: int) -> Any:
    """A study of four cells that is interrupted at one of them."""
    common = script("universality").common

    def complete(record: dict[str, Any], run: Any) -> None:
        computed = functools.partial(compute, made=made, fail_at=fail_at)
        common.complete(record, run, ("number",), ((n,) for n in range(4)), computed)

    return common.Study(
        name,
        "A study.",
        lambda: {"cells": 4, "seeds": (0, 1)},
        complete,
        lambda record: [len(record["cells"])],
        lambda record, path: path.write_bytes(b"drawn"),
    )


def test_a_study_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, made = tmp_path / "out.json", []
    with pytest.raises(KeyboardInterrupt):
        small("some", made, 2).main(["--out", str(out)])
    assert [row["number"] for row in json.loads(out.read_text())["cells"]] == [0, 1]
    made.clear()
    assert small("some", made, 9).main(["--out", str(out)]) == 0
    assert made == [2, 3]
    whole = json.loads(out.read_text())
    assert whole["answers"] == [4]
    assert [row["environment"] for row in whole["cells"]] == [0, 0, 1, 1]
    assert whole["command"] == "python studies/some.py"
    assert all("commit" in env for env in whole["environments"])  # an installed package has none
    assert out.with_suffix(".png").read_bytes() == b"drawn"

    several = tmp_path / "several.json"
    assert small("some", [], 9).main(["--out", str(several), "--jobs", "2"]) == 0
    assert [row["number"] for row in json.loads(several.read_text())["cells"]] == [0, 1, 2, 3]

    whole["design"]["seeds"] = [0, 1, 2]
    whole = files.sealed(whole)
    out.write_text(json.dumps(whole))
    capsys.readouterr()
    assert small("some", made, 9).main(["--out", str(out)]) == 2
    assert "of another design" in capsys.readouterr().err
    assert json.loads(out.read_text()) == whole  # and is left as it is


def test_a_row_that_was_changed_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers of cells that are done are not computed again."""
    out, made = tmp_path / "out.json", []
    with pytest.raises(KeyboardInterrupt):
        small("some", made, 2).main(["--out", str(out)])
    whole = out.read_text()
    made.clear()

    def said(text: str) -> str:
        out.write_text(text)
        for more in ([], ["--draw"]):
            assert small("some", made, 9).main(["--out", str(out), *more]) == 2
        assert out.read_text() == text  # it is left as it is
        assert not made
        return capsys.readouterr().err

    changed = whole.replace('"number": 1', '"number": 3')
    assert changed != whole
    assert f"{out} is damaged (its content does not match its digest)" in said(changed)
    assert f"{out} cannot be read: it is damaged" in said(whole[:-20])
    assert "a mapping of names to values belongs there" in said("[]")
    values = json.loads(whole)
    del values["blake2b"]
    for cells in (3, [3]):
        assert "cells must be" in said(json.dumps(values | {"cells": cells}))
    out.write_text(json.dumps(values | {"cells": [{}]}))
    assert small("some", made, 9).main(["--out", str(out)]) == 2
    assert "a row of cells lacks number" in capsys.readouterr().err
    out.write_text(json.dumps(values))  # of an earlier version
    assert small("some", made, 9).main(["--out", str(out)]) == 0
    assert made == [2, 3]


def test_a_figure_needs_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small("some", [], 9).main(["--out", str(tmp_path / "none.json"), "--draw"]) == 2
    assert "is not there" in capsys.readouterr().err

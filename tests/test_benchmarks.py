"""Every command of `benchmarks` says what it does before it does it."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
COMMANDS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run a command in this process; return what it exits with."""
    if name == "gpu":
        pytest.importorskip("triton")
    script = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize("name", COMMANDS)
def test_every_benchmark_has_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, ["--help"], monkeypatch) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {name}.py")
    first = (FOLDER / f"{name}.py").read_text(encoding="utf-8").removeprefix('"""').splitlines()[0]
    assert first.removesuffix('"""') in said


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("images", ["nowhere"]),
        ("transfer", ["nowhere"]),
        ("features", ["nowhere"]),
        ("many_files", ["nowhere"]),
        ("table_defaults", ["--tables", "nowhere"]),
        ("table_reach", ["--tables", "nowhere"]),
        ("tables", ["--tables", "nowhere"]),
    ],
)
def test_a_folder_that_is_not_there_is_one_sentence(
    name: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(name, arguments, monkeypatch) == 2
    assert "there is no folder 'nowhere'" in capsys.readouterr().err


def test_a_folder_without_training_images_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("images", [str(tmp_path)], monkeypatch) == 2
    assert f"there is no folder '{tmp_path / 'train'}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        ([], ["measure", "measure_fit", "write_table"]),
        (["--fit-only"], ["measure_fit", "write_table"]),
        (["--table-only"], ["write_table"]),
    ],
)
def test_heads_measures_what_is_asked_for(
    asked: list[str], done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heads, called = runpy.run_path(str(FOLDER / "heads.py")), []
    for name in ("measure", "measure_fit", "write_table"):
        heads["main"].__globals__[name] = lambda name=name: called.append(name)
    monkeypatch.setattr(sys, "argv", ["heads.py", *asked])
    heads["main"]()
    assert called == done


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_many_files_measures_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the processes do that it starts."""
    script = FOLDER / "many_files.py"
    many_files = runpy.run_path(str(script))
    monkeypatch.setitem(many_files["main"].__globals__, "DISTINCT", 40)
    many_files["write_folder"](tmp_path, 60)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    many_files["main"]()
    assert json.loads(capsys.readouterr().out)["files"] == 60

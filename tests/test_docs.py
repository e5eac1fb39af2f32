"""README, docs and docstrings say what is true: their code runs, their tables are the measured."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import pkgutil
import re
import runpy
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from typer.main import get_command

import spinalnet
from spinalnet.cli import root
from spinalnet.models import MODELS as NETWORKS
from test_architecture import LINES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [page for page in PAGES if page.parent.name != "tutorials"]  # these are run as a whole
SOURCE = Path(spinalnet.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if not path.stem.startswith("__")
)


# Modules of the time before the wings.
FORMER = {
    *("backbones", "catalog", "classification", "config", "estimators", "experiment", "export"),
    *("figures", "gradients", "images", "lrfind", "narrowing", "ops", "original", "predict"),
    *("recipes", "reproduce", "runs", "scores", "sensitivity", "surgery", "train", "transfer"),
}


def found(name: str) -> bool:
    """Whether a dotted name can be imported, or is an attribute of what can."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def blocks(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compare = spinalnet.compare

    def shorter(data: object, *arguments: Any, **options: Any) -> spinalnet.Comparison:
        """What is shown of an answer does not need a good one, which takes a minute."""
        brief = {"epochs": 1, "limit": 200} if data == "digits" else {}
        return compare(data, *arguments, **brief, **options)

    monkeypatch.setattr(spinalnet, "compare", shorter)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with mock.patch.dict(NETWORKS):  # a network of the reader's own is no other test's
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_their_options(page: Path) -> None:
    group = get_command(root.app)
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for command in re.findall(r"(?:^|&& )(?:\.venv/bin/)?spinalnet (.*?)(?=$| && )", line):
                words = shlex.split(command.split("  #")[0], comments=True)
                while words[0] == "--own-head":  # an option of the command itself, with its value
                    words = words[2:]
                context = group.make_context("spinalnet", words[:1], resilient_parsing=True)
                _, sub, rest = group.resolve_command(context, words)
                assert sub is not None
                while hasattr(sub, "commands"):
                    context = sub.make_context(sub.name, rest[:1], resilient_parsing=True)
                    _, sub, rest = sub.resolve_command(context, rest)
                if "--help" not in rest:
                    sub.make_context(sub.name, list(rest), parent=context)


def test_readme_starts_with_the_two_commands() -> None:
    first = blocks(ROOT / "README.md", "bash")[0].splitlines()
    assert len(first) == 2
    assert all(line.startswith("python3 -m venv .venv && ") for line in first)
    assert first[0].endswith("&& .venv/bin/spinalnet compare digits")
    assert first[1].endswith("&& .venv/bin/pytest")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m1 -E '(.*?)' README\.md", script)
    assert pattern is not None
    assert re.search(pattern[1], first[1])


def test_tables_are_made_from_the_committed_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    code = runpy.run_path(str(ROOT / "docs" / "tables.py"))["main"]()
    assert code == 0, capsys.readouterr().out + "Run: make tables"


def test_the_table_of_heads_is_made_from_the_committed_results() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "heads.py"))["section"]()
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    assert made in page, "Run: python benchmarks/heads.py --table-only"


def test_the_table_of_wings_is_the_enforced_one() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.*?) \|", guide, flags=re.MULTILINE)
    assert [int(line) for line, _ in rows] == list(range(len(LINES)))
    assert [set(re.findall(r"`(\w+)`", wings)) for _, wings in rows] == LINES


def test_files_that_the_guide_names_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:src|tests|docs)/[\w/.]+\w", guide))
    assert len(named) > 12
    for name in named:
        assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), name


@pytest.mark.parametrize(
    "sketch", blocks(ROOT / "CONTRIBUTING.md", "py"), ids=lambda text: text.splitlines()[0]
)
def test_rows_that_the_guide_sketches_fit_their_tables(sketch: str) -> None:
    place = re.match(r"# src/([\w/]+?)(?:/__init__)?(?:\.py)?: (\w+)\n(?:\"[\w-]+\": )?", sketch)
    assert place is not None, "a sketch begins with '# FILE: TABLE'"
    table = getattr(importlib.import_module(place[1].replace("/", ".")), place[2])
    row = next(iter(table.values()))
    made = ast.parse(sketch[place.end() :], mode="eval").body
    if isinstance(made, ast.Call):
        fields = dataclasses.fields(row)
        known = [field.name for field in fields]
        given = {*known[: len(made.args)], *(keyword.arg for keyword in made.keywords)}
        assert given <= set(known)
        free = dataclasses.MISSING
        needed = {f.name for f in fields if f.default is free and f.default_factory is free}
        assert needed <= given
    elif isinstance(made, ast.Dict):  # a row of settings by name: those of some row
        named = {key.value for key in made.keys if isinstance(key, ast.Constant)}
        assert named <= {name for settings in table.values() for name in settings}
    else:
        assert callable(row)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_names_of_the_package_exist(page: Path) -> None:
    for name in re.findall(r"`((?:\w+\.)+\w+)(?:\(\))?`", page.read_text(encoding="utf-8")):
        first, *_, last = name.split(".")
        if last in ("csv", "html", "json", "onnx", "png", "py", "safetensors", "yaml"):
            continue
        assert first not in FORMER, f"{page.name}: {name} has moved"
        if first in set().union(*LINES):
            assert found(f"spinalnet.{name}") or found(f"torch.{name}"), f"{page.name}: {name}"
        if first == "spinalnet":
            assert found(name), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_of_the_house_stay_in_its_guide(page: Path) -> None:
    if page.name != "CONTRIBUTING.md":
        assert not re.search(r"\bwings?\b|\bthe house\b", page.read_text(encoding="utf-8"))


def test_extras_are_installed_from_a_checkout_until_there_is_a_release() -> None:
    known = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )
    told = "\n".join(page.read_text(encoding="utf-8") for page in [*PAGES, *SOURCE.rglob("*.py")])
    assert not re.search(r"pip install '?spinalnet\[", told)
    extras = set(re.findall(r"pip install (?:-\S+ )*'\.\[([\w,]+)\]'", told))
    assert len(extras) > 4
    assert extras <= known
    assert set(re.findall(r"install_extra\('(\w+)'\)", told)) <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_extra_is_told_with_the_place_where_it_installs(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for told in re.finditer(r"pip install '\.\[\w+\]'", text):
        around = " ".join(text[max(0, told.start() - 100) : told.end() + 20].split())
        assert "in a checkout" in around, f"{page.name}: {told[0]}"


def test_whoever_begins_is_told_to_activate_the_environment() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))):
        assert "`. .venv/bin/activate`" in page.read_text(encoding="utf-8"), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    for file, test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", page.read_text(encoding="utf-8")):
        source = (Path(__file__).parent / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{page.name}: {file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_headings_go_down_one_level_at_a_time(page: Path) -> None:
    """The site's builder refuses a page that skips one."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", prose, re.MULTILINE)]
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to missing {target}"


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("spinalnet"):
            raise
        pytest.skip(f"needs {error.name}")
    names = {name: getattr(spinalnet, name) for name in spinalnet.__all__}
    result = doctest.testmod(
        module, extraglobs={"torch": torch, **names}, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.failed == 0

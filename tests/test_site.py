"""The site is built without a fault, and its reference leaves no public name out."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import public_api

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
book = SimpleNamespace(**runpy.run_path(str(DOCS / "book.py")))
reference = SimpleNamespace(**runpy.run_path(str(DOCS / "reference.py")))

HIDDEN = {"spinalnet compare --only"}  # what jobs of a cluster are started with; no help shows it
with_sphinx = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("sphinx", "myst_parser", "furo"))),
    reason="needs the extra docs",
)


@pytest.fixture(scope="module")
def described() -> str:
    """What is public, asked of the package and not of the list that the reference is made from."""
    return public_api.describe()


def test_every_public_name_is_in_the_reference(described: str) -> None:
    pages = reference.pages()
    wanted = reference.public_names(described)
    assert sum(map(len, wanted.values())) > 120
    for module, names in wanted.items():
        for name, attributes in names.items():
            entry = re.search(
                rf"^\.\. (autoclass|autofunction|py:data):: {module}\.{name}\n(.*?)(?=^\.\. |\Z)",
                pages[f"{module}.rst"],
                flags=re.DOTALL | re.MULTILINE,
            )
            assert entry is not None, f"{module}.{name}"
            listed = re.findall(r"\w+", entry[2].partition(":members:")[2])
            assert listed == attributes, f"{module}.{name}"
        assert f"{module}" in pages["index.rst"]


def test_every_command_and_option_is_in_the_reference(described: str) -> None:
    page = reference.pages()["command.rst"]
    sections = dict(re.findall(r"^(spinalnet[\w -]+)\n-+\n(.*?)(?=^\.\. _|\Z)", page, re.M | re.S))
    lines = described.partition("# command\n")[2].split("\n")
    assert len(lines) > 300
    for line in filter(None, lines):
        words, _, option = line.rpartition(" ")
        if words == "spinalnet":  # of the command itself: --version and completion
            continue
        if not option.startswith("-"):  # shown under the word that stands for it in the help
            assert ".. rubric:: Arguments" in sections[words], line
            continue
        asked = option.split("/")[0]
        flag = rf"^``.*(?<![\w-]){re.escape(asked)}(?![\w-])"
        assert f"{words} {asked}" in HIDDEN or re.search(flag, sections[words], re.M), line


def test_names_are_read_with_what_belongs_to_them() -> None:
    text = "# spinalnet.nn\nHEADS: dict\nNew(x)\nNew.width: property\n\n# command\nspinalnet a B\n"
    assert reference.public_names(text) == {"spinalnet.nn": {"HEADS": [], "New": ["width"]}}


def test_versions_lie_side_by_side_and_the_newest_is_latest(tmp_path: Path) -> None:
    for name in ("0.9.0", "0.10.0", "dev"):
        (tmp_path / name).mkdir()
        for file in ("objects.inv", "which"):
            (tmp_path / name / file).write_text(name, encoding="utf-8")
    (tmp_path / "notes").mkdir()
    assert book.arrange(tmp_path) == ["0.10.0", "0.9.0", "dev"]
    assert book.arrange(tmp_path) == ["0.10.0", "0.9.0", "dev"]  # "latest" is no version
    assert (tmp_path / "latest" / "which").read_text(encoding="utf-8") == "0.10.0"
    assert json.loads((tmp_path / "versions.json").read_text(encoding="utf-8"))[0] == "0.10.0"
    assert "latest/docs/index.html" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_state_between_versions_is_not_latest(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "objects.inv").touch()
    assert book.arrange(tmp_path) == ["dev"]
    assert not (tmp_path / "latest").exists()
    assert "dev/docs/index.html" in (tmp_path / "index.html").read_text(encoding="utf-8")


@with_sphinx
@pytest.mark.slow
def test_the_site_is_built_without_a_fault(tmp_path: Path, described: str) -> None:
    from sphinx.util.inventory import InventoryFile

    done = subprocess.run(
        [sys.executable, str(DOCS / "book.py"), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "latest"
    known = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    objects = {name for kind in known.data if kind.startswith("py:") for name in known.data[kind]}
    for module, names in reference.public_names(described).items():
        for name, attributes in names.items():
            assert {f"{module}.{name}"} <= objects
            assert {f"{module}.{name}.{one}" for one in attributes} <= objects
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(ROOT)).with_suffix(".html").exists()
        assert str(page.relative_to(ROOT).with_suffix("")) in index

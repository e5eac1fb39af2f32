"""A release is made by steps that are written down, some by a program; this tries the program."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import spinalnet

ROOT = Path(__file__).parents[1]
release = SimpleNamespace(**runpy.run_path(str(ROOT / "release" / "release.py")))
package_page = SimpleNamespace(**runpy.run_path(str(ROOT / "release" / "package_page.py")))

LOG = "# Changelog\n\nWords.\n\n## Unreleased\n\n### Fixed\n\n- A thing.\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    source = tmp_path / release.VERSION_FILE
    source.parent.mkdir(parents=True)
    source.write_text('"""Face."""\n\n__version__ = "0.1.0"\n', encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(LOG, encoding="utf-8")
    return tmp_path


def test_a_release_is_prepared_and_then_has_no_faults(tree: Path):
    assert release.faults("v0.2.0", tree)
    release.prepare("0.2.0", "2027-01-31", tree)
    assert release.faults("v0.2.0", tree) == []
    assert release.version(tree) == "0.2.0"
    text = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased\n\n## 0.2.0 - 2027-01-31\n\n### Fixed\n\n- A thing.\n" in text


@pytest.mark.parametrize("tag", ["0.1.0", "v0.1.0", "v0.2", "latest"])
def test_a_tag_that_does_not_fit_is_refused(tree: Path, tag: str):
    assert release.faults(tag, tree)


def test_nothing_is_released_twice_or_without_a_change(tree: Path):
    with pytest.raises(SystemExit, match=r"looks like 0\.2\.0"):
        release.prepare("two", "2027-01-31", tree)
    release.prepare("0.2.0", "2027-01-31", tree)
    with pytest.raises(SystemExit, match="nothing to release"):
        release.prepare("0.3.0", "2027-02-01", tree)


def test_the_version_of_this_tree_is_one():
    assert release.version() == spinalnet.__version__ == package_page.version()


# --- the page of the package ----------------------------------------------------------------------


def test_links_of_the_page_lead_to_files_of_the_version_or_are_none():
    text = (
        "See [the guide](docs/guide.md), [part](README.md#part), [paper](https://arxiv.org/abs/1) "
        "and ![a picture](docs/a.svg).\n\n```bash\ncat [not](a-link)\n```\n"
    )
    led = package_page.page(text, "https://example.org/x", "1.2.3")
    assert "[the guide](https://example.org/x/blob/v1.2.3/docs/guide.md)" in led
    assert "![a picture](https://example.org/x/raw/v1.2.3/docs/a.svg)" in led
    alone = package_page.page(text, "", "1.2.3")
    assert alone.startswith(
        "See the guide, part, [paper](https://arxiv.org/abs/1) and *a picture*."
    )
    for made in (led, alone):
        assert "cat [not](a-link)" in made


def test_the_readme_has_no_link_that_is_lost_on_the_page(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPINALNET_REPOSITORY", "https://example.org/x/")
    text = package_page.dynamic_metadata("readme")["text"]
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    places = re.findall(r"\]\(([^)\s]+)\)", outside)
    assert len(places) > 20
    assert all(place.startswith("https://") for place in places)
    for place in places:
        if place.startswith("https://example.org/x/"):
            path = re.sub(r"^https://example.org/x/(blob|raw)/v[\d.]+/", "", place)
            assert (ROOT / path.partition("#")[0]).exists(), path
    assert set(package_page.dynamic_metadata("urls")) >= {"Repository", "Changelog", "Paper"}
    monkeypatch.delenv("SPINALNET_REPOSITORY")
    assert "](docs/" not in package_page.dynamic_metadata("readme")["text"]
    assert set(package_page.dynamic_metadata("urls")) == {"Paper"}


# --- workflows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=str)
def test_a_workflow_runs_what_there_is(path: Path):
    text = path.read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for job in jobs.values():
        assert {
            *([job.get("needs", [])] if isinstance(job.get("needs"), str) else job.get("needs", []))
        } <= set(jobs)
        for step in job["steps"]:
            command = step.get("run", "")
            assert set(re.findall(r"\bmake (\w+)", command)) <= targets
            for named in re.findall(r"(?:tests|release|constraints)/[\w.]+\w|\.ci/run", command):
                assert (ROOT / named).exists(), named

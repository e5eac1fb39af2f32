"""Build the site of this version: strictly, with search, beside the versions built before.

    python docs/book.py                       # build/site/VERSION, and build/site/latest the same
    python docs/book.py --name dev --out DIR  # a state between versions, which is not "latest"

A warning is an error: a link that leads nowhere, a picture that is not there, a page that no other
leads to, a docstring that cannot be read. Sphinx and its parts are the extra `docs`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import spinalnet

ROOT = Path(__file__).parents[1]
START = "docs/index.html"
LATEST = "latest"
_RELEASE = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_TO = '<!doctype html><meta charset="utf-8"><title>spinalnet</title>\n'
_TO += '<meta http-equiv="refresh" content="0; url={place}">\n<a href="{place}">spinalnet</a>\n'


def build(out: Path, name: str = spinalnet.__version__) -> Path:
    """Build the site into a folder of its name, and return that.

    Raises:
        SystemExit: If Sphinx is not installed, or has something to say.
    """
    if not all(map(find_spec, ("sphinx", "myst_parser", "furo"))):
        raise SystemExit("the site needs Sphinx: pip install -c constraints/tested.txt '.[docs]'")
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "-W", "--keep-going"]
    command += ["-d", str(ROOT / "build" / "doctrees"), "-c", str(ROOT / "docs")]
    done = subprocess.run([*command, str(ROOT), str(folder)], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"the site has faults, see above; what was built lies in {folder}.")
    (folder / "index.html").write_text(_TO.format(place=START), encoding="utf-8")
    return folder


def arrange(out: Path) -> list[str]:
    """Make `latest`, the list of versions and the first page; return the versions, newest first."""
    names = [path.name for path in out.iterdir() if (path / "objects.inv").exists()]
    released = sorted(filter(_RELEASE.fullmatch, names), key=_numbers, reverse=True)
    if released:
        shutil.rmtree(out / LATEST, ignore_errors=True)
        shutil.copytree(out / released[0], out / LATEST)
    others = sorted({*names} - {*released, LATEST})
    versions = [*released, *others]
    (out / "versions.json").write_text(json.dumps(versions) + "\n", encoding="utf-8")
    first = LATEST if released else versions[0]
    (out / "index.html").write_text(_TO.format(place=f"{first}/{START}"), encoding="utf-8")
    return versions


def _numbers(version: str) -> tuple[int, ...]:
    found = _RELEASE.fullmatch(version)
    return tuple(map(int, found.groups())) if found else ()


def main() -> None:
    """Build, arrange, and say where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--name", default=spinalnet.__version__, help="the folder's name")
    asked = parser.parse_args()
    if asked.name == LATEST:
        parser.error(f"'{LATEST}' is made of the newest version.")
    folder = build(asked.out, asked.name)
    print(f"versions: {', '.join(arrange(asked.out))}; read {folder / START}")


if __name__ == "__main__":
    main()

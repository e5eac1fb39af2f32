"""The steps of a release that need no account of anybody; docs/releasing.md has all of them.

python release/release.py ready           # whether a release can be made of what is here
python release/release.py prepare 0.2.0   # version, heading of the changelog, citation
python release/release.py dist            # archive and wheel, as they will be published
python release/release.py check           # whether all is as a release must be; the tag's commands
python release/release.py notes v0.2.0    # what the changelog says of a version
python release/release.py next            # main goes on under a version of its own
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION_FILE = "src/spinalnet/__init__.py"
LOG = "tests/full.log"
BRANCH = "main"
NEEDED = ("build", "twine")
# With the archive a wheel of Python alone, for systems that no other wheel is for.
PURE = ("wheel.cmake=false", "wheel.platlib=false", "wheel.py-api=py3")
_VERSION = re.compile(r'^__version__ = "(.+)"$', flags=re.MULTILINE)
_WANTED = re.compile(r"\d+\.\d+\.\d+(rc\d+)?")
_OPEN = "## Unreleased\n"
_SECTION = re.compile(r"^## (\d\S*) - (\d{4}-\d\d-\d\d)\n", flags=re.MULTILINE)
_KIND = "type: software\n"  # the line of CITATION.cff after which version and date stand
# Words for who has a checkout alone. Lines that name the constraints are for developers, who do.
_CHECKOUT = re.compile(r"pip install '?\.(?=[\[\s'`])|\bneeds? a checkout")


def version(root: Path = ROOT) -> str:
    """Return the version that stands in the source."""
    found = _VERSION.search(_read(root, VERSION_FILE))
    if found is None:
        raise SystemExit(f"{VERSION_FILE} says no version.")
    return found[1]


def released(root: Path = ROOT) -> dict[str, str]:
    """Return the versions of the changelog and their dates, in its order: the newest first."""
    return dict(_SECTION.findall(_read(root, "CHANGELOG.md")))


def notes(wanted: str, root: Path = ROOT) -> str:
    """Return what the changelog says of a version, without its heading.

    Raises:
        SystemExit: If it has no section of that version.
    """
    text = _read(root, "CHANGELOG.md")
    for match in _SECTION.finditer(text):
        if match[1] == wanted:
            return re.split(r"^## ", text[match.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip()
    raise SystemExit(f"CHANGELOG.md has no section '## {wanted} - DATE'.")


def prepare(wanted: str, today: str, root: Path = ROOT) -> None:
    """Write a version into source and citation, and close the changelog's open section under it.

    Raises:
        SystemExit: If it is no version, not a later one, or there is nothing to release. Nothing is
            written then.
    """
    from packaging.version import Version

    if not _WANTED.fullmatch(wanted):
        raise SystemExit(f"a version looks like 0.2.0 or 0.2.0rc1, got '{wanted}'.")
    last = max(released(root), key=Version, default=None)
    if last is not None and Version(wanted) <= Version(last):
        raise SystemExit(f"{wanted} is not later than {last}, which CHANGELOG.md has as released.")
    if Version(wanted) < Version(version(root)):
        raise SystemExit(f"{wanted} is before {version(root)}, which {VERSION_FILE} says.")
    before, opened, after = _read(root, "CHANGELOG.md").partition(_OPEN)
    if not opened or not re.match(r"\s*### ", after):
        raise SystemExit(
            "CHANGELOG.md has nothing under 'Unreleased': there is nothing to release."
        )
    citation = re.sub(
        r"^(version|date-released):.*\n", "", _read(root, "CITATION.cff"), flags=re.MULTILINE
    )
    if _KIND not in citation:
        raise SystemExit(f"CITATION.cff has no line '{_KIND.strip()}', after which the version is.")
    stands = f'{_KIND}version: "{wanted}"\ndate-released: "{today}"\n'
    _write(root, "CITATION.cff", citation.replace(_KIND, stands, 1))
    _write(root, "CHANGELOG.md", f"{before}{_OPEN}\n## {wanted} - {today}\n{after}")
    _set_version(root, wanted)


def go_on(root: Path = ROOT) -> str:
    """Write the version that main has after a release, and return it.

    It is the first that may follow (0.2.0 -> 0.2.1.dev0, 0.2.0rc1 -> 0.2.0rc2.dev0), so that any
    later one can be the next release, and results of main are not taken for those of a release.

    Raises:
        SystemExit: If the version in the source is not released.
    """
    here = version(root)
    if here not in released(root):
        raise SystemExit(f"{VERSION_FILE} says {here}, which CHANGELOG.md has not as released.")
    found = re.fullmatch(r"(.*?)(\d+)", here)
    assert found is not None  # as `prepare` wrote it
    following = f"{found[1]}{int(found[2]) + 1}.dev0"
    _set_version(root, following)
    return following


def faults(tag: str, root: Path = ROOT) -> list[str]:
    """Return what keeps the tree from being the release of a tag, a sentence for each."""
    found = []
    wanted = tag.removeprefix("v")
    if tag != f"v{wanted}" or not _WANTED.fullmatch(wanted):
        found.append(f"a tag looks like v0.2.0, got '{tag}'.")
    if version(root) != wanted:
        found.append(f"{VERSION_FILE} says {version(root)}, the tag {tag}.")
    date = released(root).get(wanted)
    if date is None:
        found.append(f"CHANGELOG.md has no section '## {wanted} - DATE'.")
    if re.search(r"^## Unreleased\n+(?!## )\S", _read(root, "CHANGELOG.md"), flags=re.MULTILINE):
        found.append("CHANGELOG.md has changes that belong to no version, under 'Unreleased'.")
    cited = _read(root, "CITATION.cff").splitlines()
    if f'version: "{wanted}"' not in cited or f'date-released: "{date}"' not in cited:
        found.append(f"CITATION.cff does not say version {wanted} and its date.")
    return [*found, *checkouts(root)]


def checkouts(root: Path = ROOT) -> list[str]:
    """Return the places that tell a user to install from a checkout, as no release may."""
    found = []
    paths = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("src/**/*.py")]
    for path in sorted(paths):
        place = path.relative_to(root)
        if place.parts[:2] in {("docs", "reference"), ("docs", "releasing.md")}:
            continue  # made of docstrings; about releases
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if _CHECKOUT.search(line) and "constraints/" not in line:
                found.append(f"{place}:{number} speaks of a checkout: {line.strip()}")
    return found


def unready(root: Path = ROOT) -> list[str]:
    """Return what must be done before a release is prepared, a sentence for each."""
    found = []
    if not re.search(rf"^{_OPEN}\s*### ", _read(root, "CHANGELOG.md"), flags=re.MULTILINE):
        found.append("CHANGELOG.md has nothing under 'Unreleased': there is nothing to release.")
    return [*found, *untried(root), *checkouts(root)]


def untried(root: Path = ROOT) -> list[str]:
    """Return the parts of `make full` that its log does not say to have passed."""
    parts = re.findall(
        r"^([\w-]+):.*\n(?:\t.*\n)*?\t\$\(call logged,([^,]+),", _read(root, "Makefile"), re.M
    )
    text = _read(root, LOG) if (root / LOG).exists() else ""
    titles = "|".join(re.escape(title) for _, title in parts)
    pieces = re.split(rf"^({titles})\b", text, flags=re.MULTILINE)
    said = dict(zip(pieces[1::2], pieces[2::2], strict=True))
    found = []
    for target, title in parts:
        ends = re.findall(r"^=+ (.*) in [\d.]+s.* =+$", said.get(title, ""), flags=re.MULTILINE)
        if not ends or re.search(r"\b(failed|errors?)\b", ends[-1]) or "passed" not in ends[-1]:
            ended = f"ended with: {ends[-1]}" if ends else "has no result"
            found.append(f"{LOG}: '{title}' {ended}; `make {target}` runs it.")
    return found


def uncommitted(root: Path = ROOT) -> list[str]:
    """Return a sentence for every file that differs from the commit."""
    return [f"not committed: {line.strip()}" for line in _git(root, "status", "--porcelain")]


def off_branch(root: Path = ROOT) -> list[str]:
    """Return what keeps this commit from being the end of the branch that all have.

    What the remote has is what was last fetched or pushed; nothing is asked over the network.
    """
    (here,) = _git(root, "rev-parse", "--abbrev-ref", "HEAD")
    if here != BRANCH:
        return [f"a release is made on {BRANCH}, this is {here}."]
    there = _git(root, "for-each-ref", "--format=%(objectname)", f"refs/remotes/origin/{BRANCH}")
    if there and there != _git(root, "rev-parse", "HEAD"):
        return [f"this commit is not the one of origin/{BRANCH}: pull or push first."]
    return []


def names_changed(root: Path = ROOT) -> str:
    """Return in a sentence how the public names differ from those of the last release."""
    tags = _git(root, "tag", "--list", "v*", "--merged", "HEAD", "--sort=-version:refname")
    if not tags:
        return "There is no earlier release: all public names are new."
    lines = _git(root, "diff", tags[0], "--", "tests/public_api.txt")
    more, fewer = (
        sum(bool(re.match(rf"\{sign}(?!\{sign})", one)) for one in lines) for sign in "+-"
    )
    read = f"`git diff {tags[0]} -- tests/public_api.txt`"
    return f"Public names since {tags[0]}: {more} lines more, {fewer} fewer; read {read}."


def dist(out: Path, root: Path = ROOT, *, isolated: bool = True) -> list[Path]:
    """Make the archive and the wheel of Python alone, and see whether an index would take them.

    Args:
        out: Folder for both. All in it of this version is looked at: other wheels too.
        root: The tree.
        isolated: Whether what builds is fetched afresh, or is that of this environment.

    Raises:
        SystemExit: If a tool is missing, or a step fails.
    """
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise SystemExit(f"needs {' and '.join(missing)}: `make dist` installs them.")
    base = ["build", *([] if isolated else ["--no-isolation"]), "--outdir", str(out), str(root)]
    _run([*base, "--sdist"])
    _run([*base, "--wheel", *(f"-C{setting}" for setting in PURE)])
    made = sorted(out.glob(f"spinalnet-{version(root)}[-.]*"))
    _run(["twine", "check", "--strict", *map(str, made)])
    return made


def _set_version(root: Path, wanted: str) -> None:
    text = _VERSION.sub(f'__version__ = "{wanted}"', _read(root, VERSION_FILE))
    _write(root, VERSION_FILE, text)


def _read(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="utf-8")


def _write(root: Path, name: str, text: str) -> None:
    (root / name).write_text(text, encoding="utf-8", newline="\n")


def _git(root: Path, *words: str) -> list[str]:
    command = ["git", "-C", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {words[0]} failed: {done.stderr.strip()}")
    return done.stdout.splitlines()


def _run(words: list[str]) -> None:
    if subprocess.run([sys.executable, "-m", *words], check=False).returncode:
        raise SystemExit(f"{words[0]} failed: see above.")


def _end(found: list[str]) -> None:
    for fault in found:
        print(fault)
    if found:
        sys.exit(1)


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(
        description="Do one step of a release; docs/releasing.md has all of them."
    )
    steps = parser.add_subparsers(dest="step", required=True)

    def step(name: str, does: str) -> argparse.ArgumentParser:
        return steps.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")

    step("version", "say the version of the source")
    step("ready", "say what is left to do before a release is prepared")
    one = step(
        "prepare", "write the version into source and citation, close the changelog's section"
    )
    one.add_argument("version", help="such as 0.2.0 or 0.2.0rc1")
    one = step("dist", "build the archive and the wheel of Python alone, and check both with twine")
    one.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder (%(default)s)")
    one.add_argument("--no-isolation", action="store_true", help="build with what is here")
    one = step(
        "check",
        "say what keeps this commit from being a release; without a tag, the tag's commands",
    )
    one.add_argument("tag", nargs="?", help="the tag that is there (default: the one to be made)")
    one = step("notes", "say what the changelog has of a version")
    one.add_argument("tag", help="such as v0.2.0")
    step("next", "write the version that main has after a release")
    asked = parser.parse_args()

    if asked.step == "version":
        print(version())
    elif asked.step == "ready":
        _end([*unready(), *uncommitted(), *off_branch()])
        print(f"Ready. {names_changed()}")
    elif asked.step == "prepare":
        prepare(asked.version, datetime.datetime.now(datetime.UTC).date().isoformat())
        print(f"Written: {VERSION_FILE}, CHANGELOG.md, CITATION.cff. Read them, then commit:")
        print(f"    git commit -am 'release: {asked.version}' && git push origin {BRANCH}")
    elif asked.step == "dist":
        print(*dist(asked.out, isolated=not asked.no_isolation), sep="\n")
        if not os.environ.get("SPINALNET_REPOSITORY"):
            print("SPINALNET_REPOSITORY is not set: their page has no links to the repository.")
    elif asked.step == "check":
        tag = asked.tag or f"v{version()}"
        _end([*faults(tag), *uncommitted(), *([] if asked.tag else off_branch())])
        print(f"All is as {tag} must be.")
        if not asked.tag:
            print("When the workflow release, started by hand, has passed on this commit:")
            print(f"    git tag -s {tag} -m {tag} && git push origin {tag}")
    elif asked.step == "notes":
        print(notes(asked.tag.removeprefix("v")))
    else:
        following = go_on()
        print(f"Written: {VERSION_FILE}. Commit:")
        print(f"    git commit -am 'release: {following}' && git push origin {BRANCH}")


if __name__ == "__main__":
    main()

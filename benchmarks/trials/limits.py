"""Few open files, and folders that are not there or cannot be written: works, or one sentence.

Each command is a fresh Python, because what is missing is missing from its first moment.
"""

from __future__ import annotations

import ctypes
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from trials import forked, scenarios
from trials.record import Record
from trials.scenarios import BY_NAME, Attempt, Straight

NAMES = ("train", "train --freeze", "train, a table", "compare --jobs 2", "predict", "export")
FEW = (16, 24, 32, 48, 64, 128)
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS: mounts of this process alone
NOWHERE = "/dev/null/nowhere"
# Heads are timed here, unlike in what they are held against; runs have files of their own.
_OF_TIMES = ("timing.json", "summary.json")


def _few_files(count: int) -> Callable[[], None]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))

    return limit


def _shadowed(path: str, *options: str) -> Callable[[], None]:
    """Return what lays an empty, read-only file system over a folder, for one process."""

    def shadow() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
            raise OSError("no mounts of its own")
        commands = (
            ["mount", "--make-rprivate", "/"],
            ["mount", "-t", "tmpfs", "-o", ",".join(("size=4k", *options)), "tmpfs", path],
        )
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)

    return shadow


Surroundings = tuple[Callable[[], None] | None, Mapping[str, str | None]]
SURROUNDINGS: dict[str, Surroundings] = {
    **{f"{count} open files": (_few_files(count), {}) for count in FEW},
    "no HOME": (None, {"HOME": None, "XDG_CACHE_HOME": None}),
    "HOME that is not there": (None, {"HOME": NOWHERE, "XDG_CACHE_HOME": None}),
    "HOME that cannot be written": (None, {"HOME": "/proc", "XDG_CACHE_HOME": None}),
    "TMPDIR that is not there": (None, {"TMPDIR": NOWHERE}),
    "TMPDIR that cannot be written": (None, {"TMPDIR": "/proc"}),
    "no /tmp": (_shadowed("/tmp", "ro"), {"TMPDIR": None}),
    "no /dev/shm": (_shadowed("/dev/shm", "ro"), {}),
}


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Run every command in every surrounding."""
    folder = Path(shutil.copytree(folder, Path.cwd() / ".reliability", dirs_exist_ok=True))
    try:
        _run(record, folder, quick)  # not below /tmp, which is taken away
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(record: Record, folder: Path, quick: bool) -> None:
    place = scenarios.prepare(folder, quick=quick)
    for name in NAMES[:1] if quick else record.wanted(NAMES):
        straight = scenarios.undisturbed(BY_NAME[name], place, folder / "straight")
        for where in ("32 open files", "no HOME") if quick else SURROUNDINGS:
            if record.is_over:
                break
            _surrounded(Attempt(BY_NAME[name], place, folder / "one"), where, straight, record)
        record.save()


def _surrounded(attempt: Attempt, where: str, straight: Straight, record: Record) -> None:
    """Run a command in a surrounding."""
    before, lacks = SURROUNDINGS[where]
    given = attempt.environment | dict(lacks)
    if where == "no /tmp" and attempt.folder.is_relative_to("/tmp"):
        record.add(where, not_tried=1)  # all would be gone with it
        return
    try:
        process = forked.fresh(
            attempt.words, attempt.log, before=before, environment=given, cwd=attempt.folder
        )
    except subprocess.SubprocessError:
        record.add(where, not_tried=1)  # only root has mounts of its own
        return
    with process:
        try:
            code = process.wait(forked.LONGEST)
        except subprocess.TimeoutExpired:  # a command that hangs
            process.kill()
            code = process.wait()
    ended = forked.Ended(code, attempt.log.read_text(errors="replace"), 0.0)
    record.add(where, tries=1, **{"refused" if code else "works": 1})
    name = attempt.scenario.name
    if not ended.is_in_order:
        record.add(where, not_a_sentence=1)
        record.tell(f"{name}, {where}: exit code {code}: {ended.said[-700:]}")
    different = [
        one
        for one in scenarios.differences(straight.content, scenarios.content(attempt.out))
        if Path(one).name not in _OF_TIMES
    ]
    if not code and different:
        record.add(where, differing=1)
        record.tell(f"{name}, {where}: other files: {different}")

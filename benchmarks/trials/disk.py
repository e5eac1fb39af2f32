"""A full disk: a limit to the size of a file, and a small file system in memory that is enlarged.

The command must say that there is no space left and how many bytes are needed; after room is made
it ends with the bits of one that always had room.
"""

from __future__ import annotations

import functools
import random
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from trials import scenarios
from trials.record import Record
from trials.scenarios import Attempt, Scenario, Straight

SHARES = (0.2, 0.5, 0.9)  # of the largest file, or of all files
SENTENCES = ("bytes needed", "No space left", "File too large")


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Try every command with too little room."""
    place = scenarios.prepare(folder, quick=quick)
    draw = random.Random(record.seed())
    for scenario in scenarios.chosen(record.commands, draw, quick=quick, figures=False):
        if record.is_over:
            break
        straight = scenarios.undisturbed(scenario, place, folder / "straight")
        left = folder / "straight" / scenario.name / "out"
        sizes = [path.stat().st_size for path in left.rglob("*.*")]
        for share in SHARES[1:2] if quick else SHARES:
            attempt = Attempt(scenario, place, folder / "one")
            _limited(attempt, int(share * max(sizes)), straight, record)
            if not scenario.has_workers:
                _small(scenario, int(share * sum(sizes)), straight, place, folder / "two", record)
        record.save()


def _judge(
    row: str,
    where: str,
    attempt: Attempt,
    straight: Straight,
    record: Record,
    *,
    before: Callable[[], object] = lambda: None,
    enlarge: Callable[[], object] = lambda: None,
) -> None:
    """Run a command with too little room, then with room; enter what it has said and left."""
    ended = attempt.run(before)
    record.add(row, tries=1, **{"refused" if ended.code else "did_without": 1})
    says = any(sentence in ended.said for sentence in SENTENCES)
    if not ended.is_in_order or (ended.code and not says):
        record.add(row, not_a_sentence=1)
        record.tell(f"{where}: exit code {ended.code}: {ended.said[-800:]}")
    if damage := attempt.damage():
        record.add(row, damaged=1)
        record.tell(f"{where}: {damage}")
    enlarge()
    if wrong := attempt.repeated(straight):
        record.add(row, differing=1)
        record.tell(f"{where}: with room again it {wrong}")


def _limited(attempt: Attempt, size: int, straight: Straight, record: Record) -> None:
    """No file may be larger than `size` bytes, at first."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    where = f"{attempt.scenario.name}, files of at most {size:,} bytes"
    _judge("files of a limited size", where, attempt, straight, record, before=limit)


def _small(
    scenario: Scenario, size: int, straight: Straight, place: Path, folder: Path, record: Record
) -> None:
    """All lies on a file system of `size` bytes, which is enlarged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    row = "a small file system"
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 8192)}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        record.add(row, not_tried=1)  # only root may mount
        return
    larger = ["mount", "-o", "remount,size=100%", str(folder)]
    try:
        try:
            attempt = Attempt(scenario, place, folder / "disk")
        except OSError:
            return  # not even what is there before the command has room
        attempt.log = folder.with_suffix(".txt")  # on another disk
        where = f"{scenario.name}, a file system of {size:,} bytes"
        enlarge = functools.partial(subprocess.run, larger, capture_output=True, check=True)
        _judge(row, where, attempt, straight, record, enlarge=enlarge)
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)

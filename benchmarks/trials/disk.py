"""A full disk: a limit to the size of a file, and a small file system in memory that is enlarged.

The command must say that there is no space left and how many bytes are needed; after room is made
it ends with the bits of one that always had room.
"""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
from pathlib import Path

from trials import forked, scenarios
from trials.record import Record
from trials.scenarios import Scenario, Straight

SHARES = (0.2, 0.5, 0.9)  # of the largest file, or of all files
SENTENCES = ("bytes needed", "No space left", "File too large")


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Try every command with too little room."""
    place = folder / "place"
    scenarios.prepare(place, quick=quick)
    draw = random.Random(record.seed())
    for scenario in scenarios.chosen(quick, draw):
        if record.is_over:
            break
        scratch = folder / "straight" / scenario.name
        scratch.mkdir(parents=True)
        straight = scenarios.undisturbed(scenario, place, scratch)
        of_files = [path.stat().st_size for path in (scratch / "straight-0").rglob("*.*")]
        for share in SHARES[1:2] if quick else SHARES:
            _limited(scenario, int(share * max(of_files)), straight, place, folder / "one", record)
            if not scenario.has_workers:
                size = int(share * sum(of_files))
                _small(scenario, size, straight, place, folder / "two", record)
        record.save()


def _judge(
    row: str, where: str, ended: forked.Ended, straight: Straight, out: Path, record: Record
) -> None:
    """Enter what a command with too little room has said."""
    record.add(row, tries=1, **{"refused" if ended.code else "did_without": 1})
    says = any(sentence in ended.said for sentence in SENTENCES)
    if not ended.is_in_order or (ended.code and not says):
        record.add(row, not_a_sentence=1)
        record.tell(f"{where}: exit code {ended.code}: {ended.said[-800:]}")
    if damage := scenarios.damage_in(out):
        record.add(row, damaged=1)
        record.tell(f"{where}: {damage}")


def _judge_again(
    row: str, where: str, again: forked.Ended, straight: Straight, out: Path, record: Record
) -> None:
    different = scenarios.differences(straight.content, scenarios.content(out))
    if again.code or different:
        record.add(row, differing=1)
        record.tell(
            f"{where}: with room again {again.code}, other files: {different}; {again.said[-600:]}"
        )


def _limited(
    scenario: Scenario, size: int, straight: Straight, place: Path, folder: Path, record: Record
) -> None:
    """No file may be larger than `size` bytes, at first."""
    shutil.rmtree(folder, ignore_errors=True)
    out, log = folder / "out", folder / "log.txt"
    scenarios.set_out(scenario, place, out)
    words, surroundings = scenario.command(place), scenarios.environment(out)

    def before() -> None:
        scenario.before()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    where = f"{scenario.name}, files of at most {size:,} bytes"
    ended = forked.run(words, log, before=before, environment=surroundings, cwd=out.parent)
    _judge("files of a limited size", where, ended, straight, out, record)
    again = forked.run(words, log, before=scenario.before, environment=surroundings, cwd=out.parent)
    _judge_again("files of a limited size", where, again, straight, out, record)


def _small(
    scenario: Scenario, size: int, straight: Straight, place: Path, folder: Path, record: Record
) -> None:
    """All lies on a file system of `size` bytes, which is enlarged."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    disk, row = folder / "disk", "a small file system"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 8192)}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        record.add(row, not_tried=1)  # only root may mount
        return
    try:
        out, log = disk / "out", folder / "log.txt"
        try:
            scenarios.set_out(scenario, place, out)
        except OSError:
            return  # not even what is there before the command has room
        words, surroundings = scenario.command(place), scenarios.environment(out)
        where = f"{scenario.name}, a file system of {size:,} bytes"
        ended = forked.run(
            words, log, before=scenario.before, environment=surroundings, cwd=out.parent
        )
        _judge(row, where, ended, straight, out, record)
        larger = ["mount", "-o", "remount,size=100%", str(disk)]
        subprocess.run(larger, capture_output=True, check=True)
        again = forked.run(
            words, log, before=scenario.before, environment=surroundings, cwd=out.parent
        )
        _judge_again(row, where, again, straight, out, record)
    finally:
        subprocess.run(["umount", "-l", str(disk)], capture_output=True, check=False)

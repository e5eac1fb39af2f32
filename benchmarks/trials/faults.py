"""Every call by which a command changes files fails once: a disk with a fault, or one that is full.

The command must say so in a sentence, or do without; what was whole before is still there; and the
same command, on a disk that works again, ends with the same bits. Every third time the disk stays
full to the end.
"""

from __future__ import annotations

import errno
import json
import random
import shutil
from pathlib import Path

from trials import forked, scenarios
from trials.meddling import Meddling, failing
from trials.record import Record
from trials.scenarios import Scenario, Straight

KINDS = (("EIO", errno.EIO, False), ("ENOSPC", errno.ENOSPC, False), ("full", errno.ENOSPC, True))


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Let one call after the other fail, of every command in turns, until the time is up."""
    place = folder / "place"
    scenarios.prepare(place, quick=quick)
    draw = random.Random(record.seed())
    known: dict[str, tuple[Straight, list[int]]] = {}
    left = scenarios.chosen(quick, draw)
    while left and not record.is_over:
        for scenario in list(left):
            if record.is_over:
                break
            if scenario.name not in known:
                scratch = folder / "straight" / scenario.name
                scratch.mkdir(parents=True)
                straight = scenarios.undisturbed(scenario, place, scratch)
                known[scenario.name] = straight, _calls(record, scenario, straight, draw, quick)
            straight, calls = known[scenario.name]
            for _ in range(min(5, len(calls))):
                _fault(scenario, calls.pop(), straight, place, folder / "fault", record)
            if not calls:
                left.remove(scenario)
            record.save(now=False)
    record.save()


def _calls(
    record: Record, scenario: Scenario, straight: Straight, draw: random.Random, quick: bool
) -> list[int]:
    """Return the numbers of the calls that were not tried yet, in any order."""
    row = record.row(scenario.name)
    row["calls"] = straight.calls
    tried = set(row.setdefault("tried", []))
    calls = [number for number in range(straight.calls) if number not in tried]
    draw.shuffle(calls)
    return calls[:3] if quick else calls


def _fault(
    scenario: Scenario, at: int, straight: Straight, place: Path, folder: Path, record: Record
) -> None:
    """Let one call fail, look, and repeat the command."""
    shutil.rmtree(folder, ignore_errors=True)
    out, log = folder / "out", folder / "log.txt"
    scenarios.set_out(scenario, place, out)
    words = scenario.command(place)
    name, number, sticky = KINDS[at % len(KINDS)]
    meddling = Meddling([out, out.with_name("cache")], at, failing(number), sticky=sticky)

    def before() -> None:
        scenario.before()
        meddling.install()

    def after() -> None:
        (folder / "kept.json").write_text(json.dumps(meddling.kept()))

    surroundings = scenarios.environment(out)
    ended = forked.run(
        words, log, before=before, after=after, environment=surroundings, cwd=out.parent
    )
    where = f"{scenario.name}, {name} at call {at}"
    record.row(scenario.name)["tried"].append(at)
    record.add(scenario.name, faults=1, **{"refused" if ended.code else "did_without": 1})
    if not ended.is_in_order:
        record.add(scenario.name, not_a_sentence=1)
        record.tell(f"{where}: exit code {ended.code}: {ended.said[-800:]}")
    if (folder / "kept.json").is_file():
        kept = map(Path, json.loads((folder / "kept.json").read_text()))
        if lost := [path.name for path in kept if path.parent.exists() and not path.exists()]:
            record.add(scenario.name, lost=len(lost))
            record.tell(f"{where}: lost {lost}")
    if damage := scenarios.damage_in(out):
        record.add(scenario.name, damaged=1)
        record.tell(f"{where}: {damage}")
    again = forked.run(words, log, before=scenario.before, environment=surroundings, cwd=out.parent)
    different = scenarios.differences(straight.content, scenarios.content(out))
    if again.code or "Traceback" in again.said or different:
        record.add(scenario.name, differing=1)
        record.tell(
            f"{where}: repeated, it ended with {again.code}, other files: {different}; "
            f"{again.said[-600:]}"
        )

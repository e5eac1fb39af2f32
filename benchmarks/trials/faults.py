"""Every call by which a command changes files fails once: a disk with a fault, or one that is full.

The command must say so in a sentence, or do without; what was whole before is still there; and the
same command, on a disk that works again, ends with the same bits. Every third time the disk stays
full to the end. One call of every kind of file comes first, then all others, as time allows.
"""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

from trials import scenarios
from trials.meddling import Meddling, failing
from trials.record import Record
from trials.scenarios import Attempt, Scenario, Straight

KINDS = (("EIO", errno.EIO, False), ("ENOSPC", errno.ENOSPC, False), ("full", errno.ENOSPC, True))


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Let one call after the other fail, of every command in turns, until the time is up."""
    place = folder / "place"
    scenarios.prepare(place, quick=quick)
    draw = random.Random(record.seed())
    known: dict[str, tuple[Straight, list[int]]] = {}
    left = scenarios.chosen(record.commands, draw, quick=quick)
    while left and not record.is_over:
        for scenario in list(left):
            if record.is_over:
                break
            if scenario.name not in known:
                straight = scenarios.undisturbed(scenario, place, folder / "straight")
                known[scenario.name] = straight, _calls(record, scenario, straight, draw, quick)
            straight, calls = known[scenario.name]
            for _ in range(min(5, len(calls))):
                attempt = Attempt(scenario, place, folder / "fault")
                _fault(attempt, calls.pop(), straight, record)
            if not calls:
                left.remove(scenario)
            record.save(now=False)
    record.save()


def _calls(
    record: Record, scenario: Scenario, straight: Straight, draw: random.Random, quick: bool
) -> list[int]:
    """Return the numbers of the calls that were not tried yet, the next one last.

    First comes one of every site, a call of a file of one name; then all others.
    """
    record.put(scenario.name, calls=straight.calls, sites=len(set(straight.sites)))
    tried = set(record.row(scenario.name).get("tried", []))
    calls = [number for number in range(straight.calls) if number not in tried]
    draw.shuffle(calls)
    seen = {straight.sites[number] for number in tried}
    first, others = [], []
    for number in calls:
        (others if straight.sites[number] in seen else first).append(number)
        seen.add(straight.sites[number])
    return calls[:3] if quick else others + first


def _fault(attempt: Attempt, at: int, straight: Straight, record: Record) -> None:
    """Let one call fail, look, and repeat the command."""
    row = attempt.scenario.name
    name, number, sticky = KINDS[at % len(KINDS)]
    meddling = Meddling(attempt.watched, at, failing(number), sticky=sticky)
    kept_file = attempt.folder / "kept.json"

    def after() -> None:
        kept_file.write_text(json.dumps(meddling.kept()))

    ended = attempt.run(meddling.install, after=after)
    where = f"{row}, {name} at call {at}"
    record.add(row, tried=[at])
    tried = {straight.sites[number] for number in record.row(row)["tried"]}
    record.put(row, sites_tried=len(tried))
    record.add(row, faults=1, **{"refused" if ended.code else "did_without": 1})
    if not ended.is_in_order:
        record.add(row, not_a_sentence=1)
        record.tell(f"{where}: exit code {ended.code}: {ended.said[-800:]}")
    if kept_file.is_file():
        kept = map(Path, json.loads(kept_file.read_text()))
        if lost := [path.name for path in kept if path.parent.exists() and not path.exists()]:
            record.add(row, lost=len(lost))
            record.tell(f"{where}: lost {lost}")
    if damage := attempt.damage():
        record.add(row, damaged=1)
        record.tell(f"{where}: {damage}")
    if wrong := attempt.repeated(straight):
        record.add(row, differing=1)
        record.tell(f"{where}: repeated, it {wrong}")

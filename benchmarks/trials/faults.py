"""Calls by which a command changes files fail: a disk with a fault, or one that is full.

A command is started, one call fails, and the same command is started again and meets the next fault
where it goes on, up to forty times; then it runs undisturbed. Each time it must say in a sentence
what failed, or do without; what was whole before is still there; and it must end with the same
bits. First the calls of every site fail once, which is a kind of call of a file of one name (the
rename of `state.pt`), then every site in all three ways, then calls drawn at random.
"""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trials import scenarios
from trials.meddling import Meddling, failing
from trials.record import Record
from trials.scenarios import Attempt, Straight

QUICK = ("replace model.safetensors", "write .state.pt.*.tmp", "fsync .result.json.*.tmp")
MOST = 40  # faults of one sequence, so that what they lead to can be found


class Kind(NamedTuple):
    """How calls fail: with an error number, once or, if they need room, from then on."""

    name: str
    number: int
    sticky: bool


KINDS = (
    Kind("EIO", errno.EIO, False),
    Kind("ENOSPC", errno.ENOSPC, False),
    Kind("full", errno.ENOSPC, True),
)


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Let calls of every command fail, in turns, until the time is up."""
    place = scenarios.prepare(folder, quick=quick)
    draw = random.Random(record.seed())
    chosen = scenarios.chosen(record.commands, draw, quick=quick, figures=False)
    while not record.is_over:
        behind = [one for one in chosen if not _is_covered(record.row(one.name))]
        for scenario in behind or chosen:
            if record.is_over:
                break
            straight = scenarios.undisturbed(scenario, place, folder / "straight")
            attempt = Attempt(scenario, place, folder / "fault")
            sites = set(QUICK if quick else straight.sites)
            _sequence(attempt, sites, straight, draw, record)
            record.save(now=False)
        if quick:
            break
    record.save()


def _is_covered(row: Mapping[str, Any]) -> bool:
    """Return whether every site of a command has failed."""
    return row.get("sites_tried", 0) >= row.get("sites", 1)


def _sequence(
    attempt: Attempt,
    sites: Collection[str],
    straight: Straight,
    draw: random.Random,
    record: Record,
) -> None:
    """Let a command meet one fault after the other at some sites, then end, and compare."""
    row, told = attempt.scenario.name, []
    record.put(row, calls=straight.calls, sites=len(set(straight.sites)))
    while len(told) < min(MOST, len(sites)) and not record.is_over:
        kind = draw.choice(KINDS)
        tried = {(name, site) for name, site in record.row(row).get("tried", [])}
        wanted = set(sites) - {site for _, site in tried}
        wanted = wanted or {site for site in sites if (kind.name, site) not in tried}
        at = -1 if wanted else draw.randrange(straight.calls)
        meddling = Meddling(
            attempt.watched, at, failing(kind.number), sites=wanted, sticky=kind.sticky
        )
        site = _fault(attempt, meddling, kind.name, record)
        if site is None:
            break  # it has ended, undisturbed
        told.append(f"{kind.name} at {site}")
        if site in sites and (kind.name, site) not in tried:
            record.add(row, tried=[[kind.name, site]])
            tried.add((kind.name, site))
        ways = {(name, one) for name, one in tried if one in sites}
        record.put(row, sites_tried=len({one for _, one in ways}), ways_tried=len(ways))
    if wrong := attempt.repeated(straight):
        record.add(row, differing=1)
        record.tell(f"{row}, {', '.join(told)}: at last it {wrong}")


def _fault(attempt: Attempt, meddling: Meddling, kind: str, record: Record) -> str | None:
    """Run the command, which meets a fault, and look; return where it did, or None."""
    row, seen = attempt.scenario.name, attempt.folder / "seen.json"

    def after() -> None:
        seen.write_text(json.dumps([meddling.where, meddling.kept()]))

    seen.unlink(missing_ok=True)
    ended = attempt.run(meddling.install, after=after)
    site, kept = json.loads(seen.read_text())
    if site is None and not ended.code:
        return None
    where = f"{row}, {kind} at {site}"
    record.add(row, faults=1, **{"refused" if ended.code else "did_without": 1})
    if not ended.is_in_order:
        record.add(row, not_a_sentence=1)
        record.tell(f"{where}: exit code {ended.code}: {ended.said[-800:]}")
    if lost := [path.name for path in map(Path, kept) if path.parent.exists() > path.exists()]:
        record.add(row, lost=len(lost))
        record.tell(f"{where}: lost {lost}")
    if damage := attempt.damage():
        record.add(row, damaged=1)
        record.tell(f"{where}: {damage}")
    return str(site)

"""SIGKILL at any moment, before and within any write; then the same command, to the same bits.

Every other kill comes at a call drawn at random of those by which files are changed, the first of
a command among them, so that there is one on a machine of any speed; the others come after a time
drawn at random, by which a command may have ended. A command is killed up to eight times before it
may end; as it goes on where it was, early moments are drawn more often, and late ones come all the
same.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

from spinalnet import files
from trials import forked, scenarios
from trials.meddling import Meddling, kill
from trials.record import Record
from trials.scenarios import Attempt, Straight

WANTED = 240
MOST = 8  # kills of one command


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Kill, and go on, until enough kills are counted or the time is up."""
    place = scenarios.prepare(folder, quick=quick)
    start = record.total("kills")
    while record.total("kills") - start < WANTED and not record.is_over:
        draw = random.Random(record.seed())
        for scenario in scenarios.chosen(record.commands, draw, quick=quick):
            if record.is_over:
                break
            straight = scenarios.undisturbed(scenario, place, folder / "straight")
            kills = 4 if quick else draw.randrange(1, MOST + 1)
            attempt = Attempt(scenario, place, folder / "chain")
            _chain(attempt, kills, draw, straight, record)
            record.save(now=False)
        if quick:
            break
    record.save()


def _chain(
    attempt: Attempt, kills: int, draw: random.Random, straight: Straight, record: Record
) -> None:
    """Kill a command so often, at most, let it end, and compare."""
    name, told = attempt.scenario.name, []
    record.add(name, kills=0)
    for _ in range(kills):
        share = draw.random() ** 2
        at, after = int(straight.calls * share), forked.LONGEST
        if len(told) % 2:
            at, after = -1, straight.seconds * share
        meddling = Meddling(attempt.watched, at, kill)
        code = forked.wait(attempt.start(meddling.install), after)
        told.append(f"at call {at}" if at >= 0 else f"after {after:.2f} s")
        if code != -signal.SIGKILL:
            break
        record.add(name, kills=1, **{"at_a_call" if at >= 0 else "at_a_moment": 1})
        if damage := attempt.damage():
            record.tell(f"{name}, killed {', '.join(told)}: {damage}")
            record.add(name, damaged=1)
    wrong = attempt.repeated(straight)
    record.add(name, continued=1)
    left = [path for path in attempt.out.rglob(".*") if files.is_aside(path.name)]
    record.worst(name, files_left_aside=len(left))
    if wrong:
        record.add(name, differing=1)
        record.tell(f"{name}, killed {', '.join(told)}: {wrong}")

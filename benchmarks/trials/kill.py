"""SIGKILL at any moment, before and within any write; then the same command, to the same bits.

Half of the kills come after a time drawn at random, half at a call drawn at random of those by
which files are changed. A command is killed up to three times before it may end.
"""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

from spinalnet import files
from trials import forked, scenarios
from trials.meddling import Meddling, kill
from trials.record import Record
from trials.scenarios import Scenario, Straight

WANTED = 200


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Kill, and go on, until enough kills are counted or the time is up."""
    place = folder / "place"
    scenarios.prepare(place, quick=quick)
    known: dict[str, Straight] = {}
    wanted = 4 if quick else WANTED
    start = record.total("kills")
    while record.total("kills") - (start if quick else 0) < wanted and not record.is_over:
        draw = random.Random(record.seed())
        for scenario in scenarios.chosen(quick, draw):
            if record.is_over:
                break
            if scenario.name not in known:
                scratch = folder / "straight" / scenario.name
                scratch.mkdir(parents=True)
                known[scenario.name] = scenarios.undisturbed(scenario, place, scratch)
            _chain(scenario, draw, known[scenario.name], place, folder / "chain", record)
            record.save(now=False)
    record.save()


def _chain(
    scenario: Scenario,
    draw: random.Random,
    straight: Straight,
    place: Path,
    folder: Path,
    record: Record,
) -> None:
    """Kill a command up to three times, let it end, and compare."""
    shutil.rmtree(folder, ignore_errors=True)
    out, log = folder / "out", folder / "log.txt"
    scenarios.set_out(scenario, place, out)
    words, told = scenario.command(place), []
    record.add(scenario.name, kills=0)
    for _ in range(draw.randrange(1, 4)):
        at, after = -1, straight.seconds * draw.random()
        if draw.random() < 0.5:
            at, after = draw.randrange(max(1, straight.calls)), forked.LONGEST
        meddling = Meddling([out, out.with_name("cache")], at, kill)

        def before(meddling: Meddling = meddling) -> None:
            scenario.before()
            meddling.install()

        pid = forked.start(
            words, log, before=before, environment=scenarios.environment(out), cwd=out.parent
        )
        code = forked.wait(pid, after)
        told.append(f"at call {at}" if at >= 0 else f"after {after:.2f} s")
        if code != -signal.SIGKILL:
            break
        record.add(scenario.name, kills=1, **{"at_a_call" if at >= 0 else "at_a_moment": 1})
        if damage := scenarios.damage_in(out):
            record.tell(f"{scenario.name}, killed {', '.join(told)}: {damage}")
            record.add(scenario.name, damaged=1)
    ended = forked.run(
        words, log, before=scenario.before, environment=scenarios.environment(out), cwd=out.parent
    )
    record.add(scenario.name, continued=1)
    left = [path for path in out.rglob(".*") if files.is_aside(path.name)]
    record.worst(scenario.name, files_left_aside=len(left))
    for path in left:  # which cost room only
        path.unlink()
    different = scenarios.differences(straight.content, scenarios.content(out))
    if ended.code or "Traceback" in ended.said or different:
        record.add(scenario.name, differing=1)
        said = ended.said[-600:]
        record.tell(
            f"{scenario.name}, killed {', '.join(told)}: ended with {ended.code}, "
            f"other files: {different}; {said}"
        )

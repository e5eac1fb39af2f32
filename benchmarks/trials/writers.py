"""Two commands that write to one place, started at once, again and again.

One may be refused, in a sentence; what is there at the end is what one alone leaves.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from trials import forked, scenarios
from trials.record import Record
from trials.scenarios import BY_NAME, Attempt, Straight

NAMES = ("train", "train, a table", "train --freeze", "compare", "predict", "export", "report")
ROUNDS = 10


def run(record: Record, folder: Path, *, quick: bool = False) -> None:
    """Start pairs, of each command in turns, until there were enough or the time is up."""
    place = scenarios.prepare(folder, quick=quick)
    names = NAMES[:1] if quick else record.wanted(NAMES)
    for name in [name for _ in range(2 if quick else ROUNDS) for name in names]:
        if record.is_over:
            break
        straight = scenarios.undisturbed(BY_NAME[name], place, folder / "straight")
        draw = random.Random(record.seed())
        _pair(Attempt(BY_NAME[name], place, folder / "pair"), draw, straight, record)
    record.save()


def _pair(attempt: Attempt, draw: random.Random, straight: Straight, record: Record) -> None:
    """Start a command twice, a moment apart."""
    logs, pids = [attempt.folder / "one.txt", attempt.folder / "two.txt"], []
    for log in logs:
        pids.append(attempt.start(log=log))
        time.sleep(draw.choice([0.0, draw.random() * straight.seconds]))
    codes = [forked.wait(pid) for pid in pids]
    said = [log.read_text(errors="replace") for log in logs]
    told = [
        code == 2 and "in use by process" in text for code, text in zip(codes, said, strict=True)
    ]
    name = attempt.scenario.name
    record.add(name, pairs=1, refused=sum(told), both_wrote=int(codes == [0, 0]))
    fine = all(code == 0 or was for code, was in zip(codes, told, strict=True)) and 0 in codes
    if not fine or any("Traceback" in text for text in said):
        record.add(name, not_a_sentence=1)
        record.tell(f"{name}: exit codes {codes}: {said[0][-400:]} | {said[1][-400:]}")
    different = scenarios.differences(straight.content, scenarios.content(attempt.out))
    if wrong := different + attempt.damage():
        record.add(name, differing=1)
        record.tell(f"{name}: exit codes {codes}, but {wrong}")

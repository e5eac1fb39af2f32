"""What to do after a comparison: commands that make sense now, with its own folder in them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from spinalnet.comparison.answer import Summary
from spinalnet.comparison.finished import FinishedRuns
from spinalnet.comparison.wording import listing

_MANY_SEEDS = 100  # more are not asked for in one go
_EXACT_SEEDS = 20  # beyond, an estimate is rounded up to a multiple of 5
_TRIALS = 16
_OUT = r""" (?:--out|-o)[ =](?:'[^']*'|\S)+"""  # as the shell is told it, with its quotes


class NextStep(NamedTuple):
    """A command, and what it is good for."""

    purpose: str
    command: str


def next_steps(comparison: FinishedRuns, summary: Summary, folder: Path) -> list[NextStep]:
    """Return at most four commands, the one that would settle most first."""
    found = []
    if summary.command and len(summary.heads) > 1:
        found += _of_comparison(summary, summary.command, folder)
    run = _run_to_use(comparison, summary)
    if run is not None:
        data = "NEW.csv" if summary.is_table else "PHOTOS/"
        predictions = shlex.join(["spinalnet", "predict", str(run), data, "--out", "out.csv"])
        if summary.is_table or not summary.task.startswith("regression"):
            found.append(NextStep("Predict with one of its models", predictions))
        model = str(folder / "model.onnx")
        exported = shlex.join(["spinalnet", "export", str(run), model])
        found.append(NextStep("Take it to another program", exported))
    return found[:4]


def _of_comparison(summary: Summary, command: str, folder: Path) -> list[NextStep]:
    """More seeds while they can decide anything; equal tuning, where there was none.

    More splits are a comparison of its own: no interval of this one allows for added ones.
    """
    if not command.startswith("spinalnet compare "):
        return []
    found = []
    done = len(summary.units)
    needed = {d.minus: done + d.more for h in summary.heads if (d := h.difference) and d.more}
    elsewhere = re.sub(_OUT, "", command)  # a folder holds one question
    if needed and summary.unit_kind in ("seed", "split") and done < _MANY_SEEDS:
        purpose, asked = _seeds_for(needed)
        more = command if summary.unit_kind == "seed" else elsewhere
        more = _with(re.sub(r" --until-decided| --max-seeds[ =]\d+", "", more), "seeds", asked)
        if summary.unit_kind == "split":
            purpose += ", in a fresh comparison"
            more += f" --out {shlex.quote(f'{folder}-{asked}-splits')}"
        found.append(NextStep(purpose, more))
    if not summary.tuning:
        tuned = elsewhere
        found.append(NextStep("Tune every head equally", _with(tuned, "tune", _TRIALS)))
    return found


def _seeds_for(needed: Mapping[str, int]) -> tuple[str, int]:
    """Return what so many seeds are good for, and their number.

    Args:
        needed: By head, the seeds in all that would probably decide against it.
    """
    beyond = [head for head, seeds in needed.items() if seeds > _MANY_SEEDS]
    most = max((seeds for seeds in needed.values() if seeds <= _MANY_SEEDS), default=_MANY_SEEDS)
    asked = most if most <= _EXACT_SEEDS else 5 * math.ceil(most / 5)
    if not beyond:
        return "Decide what is open", asked
    far = listing([f"about {needed[head]:,} against {head}" for head in beyond])
    what = "Come nearer to an answer" if len(beyond) == len(needed) else "Decide a part"
    return f"{what} (it would probably take {far})", asked


def _with(command: str, option: str, value: int) -> str:
    """Return a command with an option set."""
    given = re.compile(rf"--{option}[ =]\d+")
    if given.search(command):
        return given.sub(f"--{option} {value}", command)
    return f"{command} --{option} {value}"


def _run_to_use(comparison: FinishedRuns, summary: Summary) -> Path | None:
    """Return a finished run of the cheapest of the best, else of the first row."""
    for head in (summary.cheapest, summary.heads[0].head):
        for record in comparison.runs.get(head or "", {}).values():
            if (record.path / "model.safetensors").exists():
                return record.path
    return None

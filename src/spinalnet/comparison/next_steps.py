"""What to do after a comparison: commands that make sense now, with its own folder in them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from spinalnet.comparison.answer import Summary
from spinalnet.comparison.finished import FinishedRuns
from spinalnet.comparison.wording import listing

_MANY_SEEDS = 100  # more are not asked for in one go
_EXACT_SEEDS = 20  # beyond, an estimate is rounded up to a multiple of 5
_TRIALS = 16
_OF_SPEECH = re.compile("--json|--quiet|--verbose|-[qv]+")  # how a command tells, not what it does
_CALLED = {"seed": "seeds", "split": "splits", "fold": "repeats"}  # what there are more of


class NextStep(NamedTuple):
    """A command, and what it is good for."""

    purpose: str
    command: str


def next_steps(comparison: FinishedRuns, summary: Summary, folder: Path) -> list[NextStep]:
    """Return at most four commands, the one that would settle most first."""
    found = []
    words = _words(summary.command or "")
    if words[:2] == ["spinalnet", "compare"] and len(summary.heads) > 1:
        found += _of_comparison(comparison, summary, words, folder)
    elif words[:2] == ["spinalnet", "reproduce"]:
        found += _of_recipe(comparison, summary, words, folder)
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


def _words(command: str) -> list[str]:
    """Return the words of a command, but for those that say how it tells."""
    try:
        words = shlex.split(command)
    except ValueError:  # a file that somebody has changed
        return []
    return [word for word in words if not _OF_SPEECH.fullmatch(word)]


def _of_recipe(
    comparison: FinishedRuns, summary: Summary, words: list[str], folder: Path
) -> list[NextStep]:
    """The original's length after a part of it; else more seeds while they can decide anything."""
    words = _with(words, "--out", folder.parent)
    if "short" in words:
        whole = _with(words, "--budget", "full")
        return [NextStep("Run it at the original's length", shlex.join(whole))]
    asked = _more_of(comparison, summary)
    return [NextStep(asked[0], shlex.join(_with(words, "--seeds", asked[1])))] if asked else []


def _of_comparison(
    comparison: FinishedRuns, summary: Summary, words: list[str], folder: Path
) -> list[NextStep]:
    """More seeds, or folds drawn again, while they can decide anything; tuning, if there was none.

    More splits or folds are a comparison of its own: no interval of this one allows for added ones.
    """
    elsewhere = _without(words, "--out")  # a folder holds one question
    found = []
    if asked := _more_of(comparison, summary):
        purpose, count = asked
        if summary.unit_kind == "seed":
            more = _with(_without(words, "--until-decided", "--max-seeds"), "--seeds", count)
        else:
            purpose += ", in a fresh comparison"
            option = "--repeats" if summary.unit_kind == "fold" else "--seeds"
            more = _with(elsewhere, option, count)
            more = _with(more, "--out", f"{folder}-{count}-{_CALLED[summary.unit_kind]}")
        found.append(NextStep(purpose, shlex.join(more)))
    if not summary.tuning:
        tuned = _with(elsewhere, "--tune", _TRIALS)
        found.append(NextStep("Tune every head equally", shlex.join(tuned)))
    return found


def _more_of(comparison: FinishedRuns, summary: Summary) -> tuple[str, int] | None:
    """Return what more seeds, splits or repetitions are good for, and how many; None if nothing."""
    more = {d.minus: d.more for h in summary.heads if (d := h.difference) and d.more}
    drawn = [unit.resample for unit in comparison.units.values() if unit.resample is not None]
    # Of folds those are counted that one repetition has; several seeds of a fold are one.
    size = max(1, drawn[0].count) if drawn else 1
    done = len({one.name for one in drawn}) if drawn else len(summary.units)
    most = _MANY_SEEDS // size
    if not more or done // size >= most:
        return None
    needed = {head: math.ceil((done + further) / size) for head, further in more.items()}
    return _units_for(needed, most, _CALLED[summary.unit_kind])


def _units_for(needed: Mapping[str, int], most: int, called: str) -> tuple[str, int]:
    """Return what so many seeds, splits or repetitions are good for, and their number.

    Args:
        needed: By head, how many in all would probably decide against it.
        most: How many are asked for in one go.
        called: What they are.
    """
    beyond = [head for head, count in needed.items() if count > most]
    asked = max((count for count in needed.values() if count <= most), default=most)
    if asked > _EXACT_SEEDS:
        asked = min(most, 5 * math.ceil(asked / 5))
    if not beyond:
        return "Decide what is open", asked
    far = listing([f"about {needed[head]:,} {called} against {head}" for head in beyond])
    what = "Come nearer to an answer" if len(beyond) == len(needed) else "Decide a part"
    return f"{what} (it would probably take {far})", asked


_FLAGS = {"--until-decided"}  # options without a value, of those that are set or left out here


def _without(words: Sequence[str], *options: str) -> list[str]:
    """Return a command without options."""
    kept: list[str] = []
    skip = False
    for word in words:
        name, equals, _ = word.partition("=")
        if skip:
            skip = False
        elif name in options:
            skip = not equals and name not in _FLAGS
        else:
            kept.append(word)
    return kept


def _with(words: Sequence[str], option: str, value: object) -> list[str]:
    """Return a command with an option set."""
    return [*_without(words, option), option, str(value)]


def _run_to_use(comparison: FinishedRuns, summary: Summary) -> Path | None:
    """Return a finished run of the cheapest of the best, else of the first row."""
    for head in (summary.cheapest, summary.heads[0].head):
        for record in comparison.runs.get(head or "", {}).values():
            if (record.path / "model.safetensors").exists():
                return record.path
    return None

"""The commands that are tried, what they work on, and what must be the same however they end."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spinalnet import files, locks
from spinalnet.training import runs
from trials import forked


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: In the tables.
        words: Of the command; `{out}` is the folder it writes to, `{place}` that of its inputs.
        before: What is done in the process first.
        has_workers: Whether it starts processes of its own.
    """

    name: str
    words: str
    before: Callable[[], None] = _nothing
    has_workers: bool = False

    def command(self, place: Path, out: str = "out") -> list[str]:
        """Return the words for a process whose folder is that above `out`.

        What keeps its command keeps the same one wherever it was tried.
        """
        return [word.format(place=place, out=out) for word in self.words.split()]


def _without_times() -> None:
    """Let a comparison not time its heads, which starts processes and takes seconds."""
    from spinalnet.comparison import comparing

    comparing._is_known = lambda *_: True


def _emptied(before: Callable[[], None]) -> None:
    """Let figures hold nothing, and do what is done before a command."""
    from spinalnet.comparison.report import drawing

    def draw(name: str, title: str, caption: str, *_: object) -> drawing.Drawn:
        return drawing.Drawn(name, title, caption, '<svg viewBox="0 0 9 9"></svg>')

    drawing.draw = draw
    before()


def _shorter_recipe() -> None:
    """Let a recipe of the paper be done in a second, in its own protocol."""
    from spinalnet.paper.recipes import RECIPES

    row = RECIPES[RECIPE]
    short = replace(row, train=replace(row.train, epochs=5), short=(5, 600))
    RECIPES[RECIPE] = short  # type: ignore[index]  # the table of this process


RECIPE = "regression-sum"
TABLES = ("numbers.csv", "others.csv")
_DIGITS = "digits --device cpu --limit"
_TIMM = "--backbone timm:test_efficientnet.r160_in1k --weights {place}/trunk.pt --image-size 64"
_HEADS = "--heads spinal,linear --seeds 2 --out {out}/comparison"

SCENARIOS = (
    Scenario("train", f"train {_DIGITS} 300 --epochs 6 --batch-size 16 --out {{out}}/run"),
    Scenario(
        "train --save-every",
        f"train {_DIGITS} 300 --epochs 3 --batch-size 4 --save-every 0.03 --augment rotation:10 "
        "--mix both --ema-decay 0.9 --out {out}/run",
    ),
    Scenario(
        "train --freeze",
        f"train {{place}}/images {_TIMM} --freeze --device cpu --epochs 4 --out {{out}}/run",
    ),
    Scenario(
        "train --probe-epochs",
        f"train {{place}}/images {_TIMM} --probe-epochs 2 --device cpu --epochs 2 "
        "--out {out}/run",
    ),
    Scenario("train, a table", "train {place}/numbers.csv --target y --out {out}/run"),
    Scenario("compare", f"compare {_DIGITS} 120 --epochs 2 --jobs 1 {_HEADS}", _without_times),
    Scenario(
        "compare, a table",
        f"compare {{place}}/numbers.csv --target y --jobs 1 --preset quick {_HEADS}",
        _without_times,
    ),
    Scenario(
        "compare --tune",
        f"compare {_DIGITS} 120 --epochs 2 --jobs 1 --tune 2 {_HEADS}",
        _without_times,
    ),
    Scenario(
        "compare --jobs 2",
        f"compare {_DIGITS} 120 --epochs 3 --jobs 2 {_HEADS}",
        _without_times,
        has_workers=True,
    ),
    Scenario(
        "reproduce --protocol paper",
        f"reproduce {RECIPE} --protocol paper --budget short --seeds 1 --out {{out}}/recipes",
        before=_shorter_recipe,
    ),
    Scenario("study", "study {place}/study.yaml --jobs 1 --out {out}/study", before=_without_times),
    Scenario(
        "predict", "predict {place}/run {place}/new --batch-size 4 --force --out {out}/said.csv"
    ),
    Scenario("export", "export {place}/run {out}/model.onnx"),
    Scenario("report", "report {out}/comparison"),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
QUICK = Scenario(
    "train",
    "train regression-sum --model regression-net --device cpu --limit 60 --epochs 2 "
    "--batch-size 16 --out {out}/run",
)
"""What a test has the time for: it needs nothing of `prepare`, and loads no scikit-learn."""


def prepare(folder: Path, *, quick: bool = False) -> Path:
    """Make what the commands work on, by commands of this process's forks; return its folder."""
    place = folder / "place"
    if quick or (place / "comparison").exists():
        return place
    import numpy as np
    from PIL import Image

    place.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, count, side in (("images/a", 20, 64), ("images/b", 20, 64), ("new", 60, 8)):
        folder = place / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:03}.png")
    for name in TABLES:
        with (place / name).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["a", "b", "kind", "y"])
            for _ in range(150):
                a, b = draw.normal(size=2).round(4)
                rows.writerow([a, b, "xyz"[int(draw.integers(3))], ("no", "yes")[int(a + b > 0)]])
    asked = {"data": [{"data": str(place / name), "target": "y"} for name in TABLES]}
    asked |= {"heads": "spinal,linear", "seeds": 2, "options": {"preset": "quick"}}
    files.write_mapping(place / "study.yaml", asked)
    train = f"train {_DIGITS} 120 --epochs 2 --out {place}/run".split()
    compare = BY_NAME["compare"].command(place, ".")
    for words in (train, compare):
        save = functools.partial(_save_trunk, place / "trunk.pt")
        options = {"before": _without_times, "after": save, "cwd": place}
        if (ended := forked.run(words, place / "log.txt", **options)).code:
            raise RuntimeError(ended.said)
    return place


def _save_trunk(path: Path) -> None:
    """Write weights of a small network, drawn at random."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet.r160_in1k", pretrained=False)
    torch.save(model.state_dict(), path)


def set_out(scenario: Scenario, place: Path, out: Path) -> None:
    """Make the folder that a command writes to, with what it needs to be there."""
    out.mkdir(parents=True)
    if scenario.name == "report":
        shutil.copytree(place / "comparison", out / "comparison")
        for name in ("report.html", "summary.json"):
            (out / "comparison" / name).unlink()


# --- what must be the same ------------------------------------------------------------------------

# What a clock or the machine has said, in JSON; and files that say it throughout.
_TIMES = {
    "seconds",
    "train_seconds",
    "hours",
    "started",
    "cost",
    "environment",
    "timing",
    "command",
    "blake2b",  # a digest of these too
}
_OF_TIMES = {
    "environment.json",
    "timing.json",
    runs.DONE_FILE,
    "summary.csv",
    "report.html",
    "cost.svg",
}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        timed = {name for name in value if name in _TIMES or "seconds" in name}
        return {name: _timeless(one) for name, one in value.items() if name not in timed}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def content(out: Path) -> dict[str, str]:
    """Return a digest of every file below a folder, without what a clock has said."""
    found: dict[str, str] = {}
    for path in sorted(out.rglob("*")):
        if not path.is_file() or path.name in locks.LOCK_FILES:  # which mean nothing by being there
            continue
        name = str(path.relative_to(out))
        if path.name in _OF_TIMES:
            found[name] = "is there"
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_timeless(json.loads(data)), sort_keys=True).encode()
        elif path.suffix == ".jsonl":
            rows = [_timeless(json.loads(line)) for line in data.splitlines()]
            data = json.dumps(rows, sort_keys=True).encode()
        found[name] = hashlib.blake2b(data, digest_size=16).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names of files that only one of two folders has, or that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


# --- one try of a command -------------------------------------------------------------------------


@dataclass(frozen=True)
class Straight:
    """What a command leaves and takes when nothing disturbs it."""

    content: dict[str, str]
    seconds: float
    sites: list[str]  # of the calls by which it changes files: which call, of which file

    @property
    def calls(self) -> int:
        """The number of calls by which it changes files."""
        return len(self.sites)


class Attempt:
    """A command in a folder of its own, made anew, where it can be run again and again.

    Args:
        scenario: The command.
        place: Of its inputs.
        folder: Its own; what lies there is removed.

    Attributes:
        out: The folder that it writes to.
        log: The file that holds what it says.
        words: Of the command.
    """

    def __init__(self, scenario: Scenario, place: Path, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.scenario, self.folder = scenario, folder
        self.out, self.log = folder / "out", folder / "log.txt"
        self.words = scenario.command(place)
        set_out(scenario, place, self.out)

    @property
    def watched(self) -> list[Path]:
        """The folders in which what it changes counts: its own, and that of its cache."""
        return [self.out, self.out.with_name("cache")]

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which it keeps its cache beside its folder."""
        return {"XDG_CACHE_HOME": str(self.out.with_name("cache"))}

    def start(self, before: Callable[[], object] = _nothing, *, log: Path | None = None) -> int:
        """Start it in a fork; return its number. `before` is called there first."""
        return forked.start(self.words, log or self.log, **self._options(before))

    def run(self, before: Callable[[], object] = _nothing, **options: Any) -> forked.Ended:
        """Run it in a fork to its end. `options` are those of `forked.start`."""
        return forked.run(self.words, self.log, **self._options(before), **options)

    def _options(self, before: Callable[[], object]) -> dict[str, Any]:
        def first() -> None:
            self.scenario.before()
            before()

        return {"before": first, "environment": self.environment, "cwd": self.folder}

    def repeated(self, straight: Straight) -> str:
        """Run it again, undisturbed; return what is not as it should be then, or nothing."""
        again = self.run()
        different = differences(straight.content, content(self.out))
        if not again.code and "Traceback" not in again.said and not different:
            return ""
        return f"ended with {again.code}, other files: {different}; {again.said[-600:]}"

    def damage(self) -> list[str]:
        """Return what `spinalnet verify` finds wrong with its runs, finished or not."""
        from spinalnet.deploy import verify

        if not any(runs.is_run(file.parent) for file in self.out.rglob(runs.CONFIG_FILE)):
            return []
        return [
            f"{found.run.name}: {sentence}"
            for found in verify(self.out, models=False)
            for sentence in found.damage
        ]


@functools.cache
def undisturbed(scenario: Scenario, place: Path, folder: Path) -> Straight:
    """Run a command twice, see that it leaves the same, and load what it has loaded.

    What is known of one is asked no more in this process.
    """
    from trials.meddling import Meddling

    seen: list[dict[str, str]] = []
    sites: list[str] = []
    seconds = 0.0
    for _ in range(2):
        attempt = Attempt(scenario, place, folder / scenario.name)
        told, modules = attempt.folder / "sites.json", attempt.folder / "modules.txt"
        meddling = Meddling(attempt.watched)

        def after(meddling: Meddling = meddling, told: Path = told) -> None:
            told.write_text(json.dumps(meddling.sites))

        ended = attempt.run(meddling.install, after=after, modules=modules)
        if ended.code:
            raise RuntimeError(f"{scenario.name}: {ended.said}")
        forked.learn(modules)
        seen.append(content(attempt.out))
        sites, seconds = json.loads(told.read_text()), ended.seconds
    if different := differences(*seen):
        raise RuntimeError(f"{scenario.name} does not repeat itself: {different}")
    return Straight(seen[0], seconds, sites)


def chosen(
    commands: Sequence[str], draw: random.Random, *, quick: bool = False, figures: bool = True
) -> list[Scenario]:
    """Return the scenarios, those of some names or all, in the order in which they take turns.

    Without `figures` those of reports hold nothing, which saves most of the time of a command.
    Their files are written as ever.
    """
    kept = [QUICK] if quick else [BY_NAME[name] for name in commands or BY_NAME]
    if not figures:
        kept = [replace(one, before=functools.partial(_emptied, one.before)) for one in kept]
    draw.shuffle(kept)
    return kept

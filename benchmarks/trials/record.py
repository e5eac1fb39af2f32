"""What was found: kept in one file after every few tries, added to when a part is run again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spinalnet import files, locks
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parents[1] / "results" / "reliability.json"


class Record:
    """The findings of a part: rows of counts and worst cases, and sentences.

    Several processes may find things of one part, of other commands each: what one has found since
    it saved last is added to what the file holds then.

    Args:
        part: Its name.
        path: The file of all parts.
        minutes: After which the part shall end.
        afresh: Whether what was found before is forgotten.
        commands: Names of those that are tried; all if empty.
    """

    def __init__(
        self,
        part: str,
        path: Path = RESULT,
        minutes: float = 60.0,
        *,
        afresh: bool = False,
        commands: Sequence[str] = (),
    ) -> None:
        self.part, self.path, self.commands = part, path, commands
        self._until = time.monotonic() + 60 * minutes
        self._since = self._saved = time.monotonic()
        self._new: list[Callable[[dict[str, Any]], None]] = []
        self.found = dict[str, Any](seconds=0.0, commits=[], seeds=0, rows={}, found=[])
        if not afresh:
            self.found |= self._all().get("parts", {}).get(part, {})
        elif path.is_file():
            self._write(dict(self._all()["environment"]), self.found)

    def _all(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def _find(self, change: Callable[[dict[str, Any]], None]) -> None:
        change(self.found)
        self._new.append(change)

    def seed(self) -> int:
        """Return a seed that no try of this part has had."""

        def count(found: dict[str, Any]) -> None:
            found["seeds"] += 1

        self._find(count)
        self.save()  # so that no other process has it too
        return self.found["seeds"]

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._until

    def wanted(self, names: Sequence[str]) -> list[str]:
        """Return those of some commands that are to be tried."""
        return [name for name in names if not self.commands or name in self.commands]

    def row(self, name: str) -> Mapping[str, Any]:
        """Return a row of numbers, to be looked at."""
        return self.found["rows"].get(name, {})

    def put(self, row: str, **values: Any) -> None:
        """Set numbers of a row."""
        self._find(lambda found: found["rows"].setdefault(row, {}).update(values))

    def add(self, row: str, **numbers: Any) -> None:
        """Add to the counts, or to the lists, of a row."""

        def add(found: dict[str, Any]) -> None:
            held = found["rows"].setdefault(row, {})
            for name, number in numbers.items():
                held[name] = held[name] + number if name in held else number

        self._find(add)

    def worst(self, row: str, **numbers: float) -> None:
        """Keep the largest of each number of a row."""

        def keep(found: dict[str, Any]) -> None:
            held = found["rows"].setdefault(row, {})
            for name, number in numbers.items():
                held[name] = round(max(held.get(name, number), number), 3)

        self._find(keep)

    def total(self, name: str) -> float:
        """Return the sum of a count over all rows."""
        return sum(row.get(name, 0) for row in self.found["rows"].values())

    def tell(self, sentence: str) -> None:
        """Keep what should not have been."""
        print(f"{self.part}: {sentence}", flush=True)
        self._find(lambda found: found["found"].append(sentence[:1000]))

    def save(self, *, now: bool = True) -> None:
        """Write the file, if it is time."""
        moment = time.monotonic()
        if not now and moment - self._saved < 15:
            return
        took, self._since, self._saved = moment - self._since, moment, moment
        environment = describe_environment()
        commit = environment.pop("commit")

        def made(found: dict[str, Any]) -> None:
            found["seconds"] = round(found["seconds"] + took, 1)
            if commit not in found["commits"]:
                found["commits"].append(commit)
            if (processor := environment["cpu"]) not in found.setdefault("processors", []):
                found["processors"].append(processor)

        self._find(made)
        with locks.FolderLock(self.path.parent, wait=True):
            found = self._all().get("parts", {}).get(self.part)
            if found is not None:
                for change in self._new:
                    change(found)
                self.found = found
            self._new = []
            self._write(environment, self.found)

    def _write(self, environment: dict[str, Any], found: dict[str, Any]) -> None:
        parts = self._all().get("parts", {}) | {self.part: found}
        # Parts were run at different times: the file is of all their commits.
        commits = dict.fromkeys(one for part in parts.values() for one in part["commits"])
        environment["commit"] = list(commits)
        made = {"command": "python benchmarks/reliability.py", "environment": environment}
        files.write_mapping(self.path, made | {"parts": dict(sorted(parts.items()))})

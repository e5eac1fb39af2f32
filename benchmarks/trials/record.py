"""What was found: kept in one file after every few tries, added to when a part is run again."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from spinalnet import files, locks
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parents[1] / "results" / "reliability.json"


class Record:
    """The findings of a part: rows of counts and worst cases, and sentences.

    Args:
        part: Its name.
        path: The file of all parts.
        minutes: After which the part shall end.
        afresh: Whether what it has found before is forgotten.
    """

    def __init__(
        self, part: str, path: Path = RESULT, minutes: float = 60.0, *, afresh: bool = False
    ) -> None:
        self.part, self.path = part, path
        self._until = time.monotonic() + 60 * minutes
        self._since = self._saved = time.monotonic()
        held = self._all().get("parts", {}).get(part)
        self.found: dict[str, Any] = (None if afresh else held) or {
            "seconds": 0.0,
            "commits": [],
            "seeds": 0,
            "rows": {},
            "found": [],
        }

    def _all(self) -> dict[str, Any]:
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}

    def seed(self) -> int:
        """Return a seed that no try of this part has had."""
        self.found["seeds"] += 1
        return self.found["seeds"]

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self._until

    def row(self, name: str) -> dict[str, Any]:
        """Return a row of numbers, to be changed."""
        return self.found["rows"].setdefault(name, {})

    def add(self, row: str, **numbers: float) -> None:
        """Add to the counts of a row."""
        held = self.row(row)
        for name, number in numbers.items():
            held[name] = held.get(name, 0) + number

    def worst(self, row: str, **numbers: float) -> None:
        """Keep the largest of each number of a row."""
        held = self.row(row)
        for name, number in numbers.items():
            held[name] = max(held.get(name, number), round(number, 3))

    def total(self, name: str) -> float:
        """Return the sum of a count over all rows."""
        return sum(row.get(name, 0) for row in self.found["rows"].values())

    def tell(self, sentence: str) -> None:
        """Keep what should not have been."""
        print(f"{self.part}: {sentence}", flush=True)
        self.found["found"].append(sentence[:1000])

    def save(self, *, now: bool = True) -> None:
        """Write the file, if it is time."""
        moment = time.monotonic()
        if not now and moment - self._saved < 15:
            return
        self.found["seconds"] = round(self.found["seconds"] + moment - self._since, 1)
        self._since = self._saved = moment
        environment = describe_environment()
        if (commit := environment.pop("commit")) not in self.found["commits"]:
            self.found["commits"].append(commit)
        with locks.FolderLock(self.path.parent, wait=True):  # parts may be tried side by side
            self._write(environment)

    def _write(self, environment: dict[str, Any]) -> None:
        everything = self._all()
        parts = everything.get("parts", {}) | {self.part: self.found}
        # Parts were run at different times: the file is of all their commits.
        commits = dict.fromkeys(one for part in parts.values() for one in part["commits"])
        environment["commit"] = list(commits)
        made = {"command": "python benchmarks/reliability.py", "environment": environment}
        files.write_mapping(self.path, made | {"parts": dict(sorted(parts.items()))})

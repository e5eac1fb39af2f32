"""What `compare` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spinalnet.comparison.engine import Failure
from spinalnet.comparison.report import write_report
from spinalnet.comparison.summary import Summary, summarize


@dataclass(frozen=True)
class Comparison:
    """A comparison that ran, as its folder holds it.

    Attributes:
        folder: Where its runs and its report are.
        failed: Why runs did not finish, by the name of their folders; empty if all did.
    """

    folder: Path
    failed: Mapping[str, Failure] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """Take up the folder of a comparison.

        Raises:
            InputError: If it holds no finished run.
        """
        summarize(folder)
        return cls(Path(folder))

    @property
    def summary(self) -> Summary:
        """All that its tables say."""
        return summarize(self.folder)

    @property
    def verdict(self) -> str:
        """The answer in words."""
        return self.summary.verdict

    def report(self) -> Path:
        """Write summary, figures and page; return the path of the page."""
        return write_report(self.folder)

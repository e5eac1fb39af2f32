"""What others have published of a comparison's heads, shown beside what was found here.

It lies in the folder of the comparison, so that a report can be written again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from spinalnet import files
from spinalnet._checks import read_fields
from spinalnet.comparison.schema import read_mapping

PUBLISHED_FILE = "published.json"


@dataclass(frozen=True)
class PublishedValue:
    """One number that somebody published.

    Attributes:
        head: The row that it is of.
        what: What it measures.
        value: The number; of a share a fraction.
        where: Where it stands.
        here: The same quantity as found here, one per seed; empty where it was not measured.
    """

    head: str
    what: str
    value: float
    where: str
    here: tuple[float, ...] = ()


@dataclass(frozen=True)
class Published:
    """What was published, and of what.

    Attributes:
        title: Of the experiment.
        marks: What a reader must know of the numbers here, in a few words each.
        setting: Sentences about how the experiment was done there and here.
        values: The numbers; empty where none was published.
        in_points: Whether they are shares, printed in per cent.
    """

    title: str
    marks: tuple[str, ...]
    setting: tuple[str, ...]
    values: tuple[PublishedValue, ...]
    in_points: bool

    def save(self, folder: Path) -> None:
        """Write it into the folder of a comparison."""
        files.write_kept(folder / PUBLISHED_FILE, asdict(self))


def read_published(folder: Path) -> Published | None:
    """Return what `save` wrote; None where nothing was.

    Raises:
        InputError: If the file is mangled.
    """
    kept = read_mapping(folder / PUBLISHED_FILE)
    if kept is None:
        return None
    with files.reading(folder / PUBLISHED_FILE):
        return Published(**read_fields(Published, kept, "field"))

"""The list of data sets for people: what each is, where from, how large, whether it is here."""

from __future__ import annotations

from typing import Any

from spinalnet.data import readers
from spinalnet.data.catalog import DATASETS, DatasetRow


def describe_datasets(data_dir: str | None = None) -> list[dict[str, Any]]:
    """Return one row per data set: what it is, where from, how large, whether it is here."""
    return [
        {
            "name": row.name,
            "summary": row.summary,
            "source": row.source,
            "licence": row.licence,
            "size": row.size,
            "present": readers.is_present(row, data_dir),
            "get": _how_to_get(row, data_dir or "DIR"),
        }
        for row in DATASETS.values()
    ]


def _how_to_get(row: DatasetRow, place: str) -> str:
    if row.reader in readers.MADE_HERE:
        return "nothing to do"
    if row.downloads:
        return f"spinalnet datasets --get {row.name} --data-dir {place}"
    return row.hint

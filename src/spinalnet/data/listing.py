"""TODO(data.listing): split from reproduce."""

from __future__ import annotations

from typing import Any

from spinalnet.data import readers
from spinalnet.data.catalog import DATASETS


def describe_datasets(data_dir: str | None = None) -> list[dict[str, Any]]:
    """Return one row per data set: what it is, where from, how large, whether it is here."""
    rows = []
    for spec in DATASETS.values():
        place = data_dir or "DIR"
        if spec.reader in ("digits", "regression"):
            how = "nothing to do"
        elif spec.torchvision_name is not None:
            how = f"spinalnet datasets --get {spec.name} --data-dir {place}"
        else:
            how = spec.hint
        rows.append(
            {
                "name": spec.name,
                "summary": spec.summary,
                "source": spec.source,
                "licence": spec.licence,
                "size": spec.size,
                "present": readers.is_present(spec, data_dir),
                "get": how,
            }
        )
    return rows

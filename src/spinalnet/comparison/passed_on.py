"""Folders of models that are passed on (`deploy.hub` writes them): which file holds the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison.tables.store import MODEL_FILE
from spinalnet.training import runs

CONFIG_FILE = "config.json"
KIND = "spinalnet"  # the entry of the configuration that says what a folder holds


def config_of(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of a model that is passed on; None if a folder holds none."""
    if not (folder / CONFIG_FILE).is_file() or runs.is_run(folder):
        return None
    config = files.read_json(folder / CONFIG_FILE)
    return config if config is not None and KIND in config else None


def file_of(path: str | Path) -> Path:
    """Return the model's file in such a folder; any other path as it is.

    Raises:
        InputError: If it is a network or a head alone, which says nothing of data.
    """
    path = files.expanded(path)
    config = config_of(path) if path.is_dir() else None
    if config is None:
        return path
    if config[KIND] not in ("image", "table"):
        raise InputError(
            f"{path} holds a {config[KIND]} alone, which knows neither classes nor how its data is "
            "read: load it in Python with spinalnet.from_pretrained."
        )
    return path / MODEL_FILE

"""Folders of models that are passed on (`deploy.hub` writes them): which file holds the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, check_values
from spinalnet.comparison.tables.store import MODEL_FILE
from spinalnet.models.features import TRUNK_FILE
from spinalnet.training import runs

CONFIG_FILE = "config.json"
KIND = "spinalnet"  # the entry of the configuration that says what a folder holds


_DIGESTS = "digests"  # the entry that says which weights lie beside it


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration of the weights in a folder, which must be there already."""
    values = {**config, _DIGESTS: _digests_in(folder)}
    files.write_text(folder / CONFIG_FILE, files.to_json(files.sealed(values)))


def read_config(folder: Path) -> dict[str, Any] | None:
    """Return the configuration in a folder, whose weights are those that it was written with.

    None if there is no such file.

    Raises:
        InputError: If it is damaged, or the weights are others.
    """
    again = "copy the whole folder again from where it comes"
    try:
        config = files.read_json(folder / CONFIG_FILE)
    except files.DamagedFile as error:
        raise files.damaged(folder / CONFIG_FILE, again) from error
    if config is None:
        return None
    with files.reading(folder / CONFIG_FILE):
        check_values(config, {_DIGESTS: Mapping[str, str | None] | None})
    digests = config.pop(_DIGESTS, None)  # an earlier version wrote none
    for name, digest in _digests_in(folder).items():
        if digests is not None and digests.get(name) != digest:
            raise files.DamagedFile(
                f"{folder / name} is not what {CONFIG_FILE} beside it was written with: {again}."
            )
    return config


def _digests_in(folder: Path) -> dict[str, str | None]:
    return {name: files.digest_in(folder / name) for name in (MODEL_FILE, TRUNK_FILE)}


def config_of(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of a model that is passed on; None if a folder holds none."""
    if not (folder / CONFIG_FILE).is_file() or runs.is_run(folder):
        return None
    config = read_config(folder)
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

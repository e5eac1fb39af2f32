"""Runs whose data lie elsewhere now: what their files were is noted, and so they are known again.

`data-fingerprint.json` lies in the folder of a run, or in that of the comparison it belongs to.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.comparison.spec import RunSpec
from spinalnet.data import DataSpec, places
from spinalnet.data.named_files import table_path
from spinalnet.data.request import find_folder
from spinalnet.training import runs

DATA_FILE = "data-fingerprint.json"
LABELS_FILE = "labels-digest.txt"
LEFT_OUT_FILE = "bad-images.txt"
_NEAR = 3  # folders between a run and its comparison, at most


def keep_data(folder: Path, data: DataSpec) -> None:
    """Note in a folder what the files of its data are, unless that is known.

    The folder of a comparison follows data that has moved; its runs do so by `follow`.

    Raises:
        InputError: If the data cannot be read, or the folder cannot be written.
    """
    known, place = _known(folder), _place(data)
    if known is not None and known["place"] == place:
        return
    found = places.fingerprint(data)
    if found is None:
        return
    noted: dict[str, Any] = {"place": place, **asdict(found)}
    if known is not None and _is_same(known, found):
        _rename_left_out(folder, known["place"], place)
        noted["moved_from"] = known["place"]
    files.write_kept(folder / DATA_FILE, noted)


def keep_labels(folder: Path, data: DataSpec, *, begun: bool) -> None:
    """Note in a folder what the table of labels holds, and see that it is what it was.

    Raises:
        InputError: If what the folder holds was begun with other labels.
    """
    if data.labels is None:
        return
    table = table_path(find_folder(data), data.labels)
    digest = hashlib.blake2b(table.read_bytes(), digest_size=16).hexdigest()
    noted = folder / LABELS_FILE
    if begun and noted.exists() and noted.read_bytes().strip() != digest.encode():
        raise InputError(
            f"{folder} was begun with other labels than {table} holds now: bring the file back to "
            "what it was, or choose another folder."
        )
    files.write_text(noted, digest + "\n")


def follow(folder: str | Path, spec: RunSpec) -> str | None:
    """Let the folder of a run follow its data to another place, if the files there are the same.

    Args:
        folder: Folder of a run, or one that does not exist.
        spec: The run as it is asked for now.

    Returns:
        A sentence if the data has moved; None if it lies where it was, or if more than its place
        is asked for otherwise.

    Raises:
        InputError: If the files are others, or nobody noted what they were.
    """
    folder = files.expanded(folder)
    if not runs.is_run(folder):
        return None
    config = runs.read_config(folder)
    with files.reading(folder / "config.yaml"):
        kept = RunSpec.from_dict(config)
    old, new = _place(kept.data), _place(spec.data)
    is_folder = kept.data.row is None
    if old == new or is_folder != (spec.data.row is None) or not _differ_in_place(kept, spec):
        return None
    known, found = _known(folder), places.fingerprint(spec.data)
    if found is None:
        return None  # whoever loads it says that it is not there
    if known is None or not _is_same(known, found):
        before = (
            "nobody noted what its files were"
            if known is None
            else f"its files were {known['files']} with {known['bytes']:,} bytes, and those there "
            f"are {found.files} with {found.bytes:,} bytes or other names or contents"
        )
        raise InputError(
            f"{folder} holds a run on the data in {old}, not in {new}; {before}: give the folder "
            "with the same files, or choose another folder for a run on these."
        )
    noted = {**known, "place": new, "moved_from": old}
    others = {
        LEFT_OUT_FILE: lambda: _rename_left_out(folder, old, new),
        DATA_FILE: lambda: files.write_kept(folder / DATA_FILE, noted),
    }
    runs.RunFolder(folder).replace_config(spec.to_dict(), others)
    return moved_note(folder)


def moved_note(folder: Path) -> str | None:
    """Return a sentence if the data of a run was moved after it had begun."""
    known = _known(folder)
    if known is None or "moved_from" not in known:
        return None
    return (
        f"The data has moved from {known['moved_from']} to {known['place']} since the run began: "
        f"the same {known['files']} files, by their names, sizes and samples of their contents."
    )


def is_own_elsewhere(folder: Path, own: DataSpec, asked: DataSpec) -> bool:
    """Return whether a folder is another than that of a run's data, but with the same files.

    Args:
        folder: Folder of the run.
        own: Its data.
        asked: The folder that is asked about.

    Raises:
        InputError: If the folder cannot be read.
    """
    there = places.places_of(asked)
    if own.row is not None or asked.row is not None or not there or not own.name:
        return False
    known = _known(folder)
    if known is None or [one.resolve() for one in places.places_of(own)] == [there[0].resolve()]:
        return False
    found = places.fingerprint(asked)
    return found is not None and _is_same(known, found)


def gone_note(data: DataSpec) -> str | None:
    """Return what to say of the folder of a run's data if it is not where it was; else None."""
    if data.row is not None or not data.name or places.places_of(data):
        return None
    return f"the data of this run lay in {_place(data)}, which is not there any more"


def check_there(folder: Path, data: DataSpec) -> None:
    """See that the data of a run or a comparison that has begun is still there.

    Raises:
        InputError: If not.
    """
    begun = runs.is_run(folder) or (folder / "comparison.yaml").is_file()
    if begun and (gone := gone_note(data)):
        raise InputError(
            f"{folder} cannot go on: {gone}. Name the folder where it lies now in its place; if "
            "the files are the same, it goes on with them."
        )


def _place(data: DataSpec) -> str:
    """Return where data lies, as a person would say it."""
    if data.row is not None:
        return data.data_dir or "the cache"
    inside = data.data_dir is not None and not Path(data.name).is_absolute()
    return str(Path(data.data_dir or "") / data.name) if inside else data.name


def _differ_in_place(kept: RunSpec, spec: RunSpec) -> bool:
    """Return whether two runs differ in nothing but the place of their data."""
    values = []
    for one in (kept, spec):
        plain = json.loads(json.dumps(one.to_dict()))  # lists, no tuples
        if one.data.row is None:  # of a named data set the name is what is asked for
            del plain["data"]["name"]
        del plain["data"]["data_dir"]
        values.append(plain)
    return values[0] == values[1]


def _known(folder: Path) -> Mapping[str, Any] | None:
    """Return what was noted of the data of a run, in its folder or in that of its comparison."""
    for place in (folder, *list(folder.absolute().parents)[:_NEAR]):
        found = files.read_json(place / DATA_FILE)
        if found is not None and {"place", "files", "bytes", "digest"} <= set(found):
            return found
    return None


def _is_same(known: Mapping[str, Any], found: places.Fingerprint) -> bool:
    return all(known.get(name) == value for name, value in asdict(found).items())


def _rename_left_out(folder: Path, old: str, new: str) -> None:
    """Let the list of the files that are left out name them where they lie now."""
    listed = folder / LEFT_OUT_FILE
    if listed.exists():
        text = files.read_text(listed)
        files.write_text(listed, text.replace(f"'{old}{os.sep}", f"'{new}{os.sep}"))

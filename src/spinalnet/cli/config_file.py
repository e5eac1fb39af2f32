"""Options out of a file: `--config FILE.yaml`, which options in the command override.

A file holds names and values: options of the command, or what a run has in its `config.yaml`, or a
comparison in its `comparison.yaml`, which so can be given back.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from spinalnet import texts
from spinalnet._checks import InputError, unknown_name
from spinalnet.training import TrainConfig
from spinalnet.training.presets import of_tables

REST = "spinalnet.rest"
"""Where a context keeps settings of a run that no option has, such as "phases"."""

_PARTS = ("data", "model", "train")
# What a run or a comparison notes beside what it was asked for, or repeats of it.
_NOTES = {"schema", "chosen", "label", "tested", "units", "command", "selected_on", "frame"}
_NOTES |= {"resample", "other", "blake2b"}  # the last is the digest of the file
_BY_PYTHON_ALONE = {
    "neck",
    *(o.name for o in dataclasses.fields(TrainConfig) if o.metadata["recipe"]),
}


# What stands in files of runs and comparisons where nothing was asked for.
_USUAL = {"probe_epochs": 0, "folds": 0, "repeats": 1, "preset": "", "label": ""}


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take the options in a file as the defaults of the command that is parsed.

    Raises:
        InputError: If it cannot be read, or has a name that no option has.
    """
    if path is None or ctx.resilient_parsing:
        return path
    from spinalnet import files  # which loads torch

    path = path.expanduser()
    text = files.read_text(path)
    try:
        values = texts.from_yaml(text)
    except ValueError as error:
        raise InputError(f"'{path}' cannot be read as YAML: {error}.") from error
    if not isinstance(values, Mapping):
        raise InputError(f"'{path}' must hold names and values, such as epochs: 10.")
    written = [name.replace("-", "_") for name in values]
    if twice := next((name for name in written if written.count(name) > 1), None):
        raise InputError(f"'{path}' has the setting {twice} twice: leave one out.")
    params = {one.name: one for one in ctx.command.params if one.name not in ("config", None)}
    _refuse_other_questions(path, values)
    options, rest = {}, {}
    with files.reading(path):
        found = list(_flat(values))
    for name, value in found:
        name = name.replace("-", "_")
        if value is None or name in _NOTES:
            continue
        if name in _BY_PYTHON_ALONE:
            rest[name] = value
        elif name in params:
            if not getattr(params[name], "is_flag", False):
                _refuse_words(path, name, value)
            given = _as_given(value)
            several = getattr(params[name], "multiple", False) and not isinstance(given, list)
            options[name] = [given] if several else given
        elif name not in _known():
            raise InputError(f"'{path}': {unknown_name('setting', name, {*params, *_known()})}")
    ctx.default_map = options
    ctx.meta[REST] = rest
    return path


def _refuse_other_questions(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse the settings of what none of these commands can do again."""
    if values.get("selected_on", "validation") != "validation":
        raise InputError(
            f"'{path}' is of a run that chose on its {values['selected_on']} data, as an "
            "experiment of the paper: spinalnet reproduce runs those."
        )
    if values.get("other"):
        raise InputError(
            f"'{path}' is of a comparison whose heads have settings of their own (it was tuned, or "
            "made in Python): give back the config.yaml of one of its runs to train."
        )


def _known() -> Collection[str]:
    """Return the names of what runs and comparisons are asked for, whether or not it is here."""
    from spinalnet.comparison import ComparisonSpec, TableSpec
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.data import DataSpec
    from spinalnet.models import ModelSpec

    kinds = (RunSpec, TableSpec, DataSpec, ModelSpec, TrainConfig, ComparisonSpec)
    return {one.name for kind in kinds for one in dataclasses.fields(kind)} | {"table"}


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield names and values as options have them."""
    values = dict(values)
    if isinstance(base := values.pop("base", None), Mapping):  # of a comparison
        for name in ("data", "model", "epochs", "table", "target", "units"):
            values.pop(name, None)
        yield from _flat(base)
    if isinstance(values.get("seeds"), list):
        values["seeds"] = len(values["seeds"])
    if isinstance(values.get("heads"), list):
        values["heads"] = ",".join(_texts("heads", values["heads"]))
    if "table" in values:
        yield from _of_table(values)
        return
    if not values.get("probe_epochs"):
        values.pop("probe_lr", None)
    for name, value in values.items():
        if name in _PARTS and isinstance(value, Mapping):
            yield from _of_part(name, value)
        elif value == _USUAL.get(name, ...):
            continue
        elif name == "head_options":
            yield "head_option", _pairs(value)
        else:
            yield name, value


def _of_part(part: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options that one part of a run's settings stands for."""
    values = dict(values)
    if part == "model":
        learned = values.pop("pretrained", False)
        name = values.pop("name", None)
        yield ("backbone" if learned is True else "model"), name
        if isinstance(learned, str):
            yield "weights", learned
        yield "head_option", _pairs(values.pop("head_options", None))
        if values.get("freeze") is False:
            del values["freeze"]
    elif part == "data":
        yield "data", values.pop("name", None)
        if isinstance(values.get("pixel_range"), list):
            ends = _numbers("pixel_range", values["pixel_range"])
            values["pixel_range"] = ",".join(f"{one:g}" for one in ends)
        usual = {"task": "auto", "on_bad_image": "error", "on_duplicate": "keep"}
        values = {k: v for k, v in values.items() if usual.get(k) != v}
    elif not values.get("phases"):
        values.pop("phases", None)
    else:  # which set them
        values.pop("epochs", None)
        values.pop("lr", None)
    yield from values.items()


def _of_table(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options that the settings of a run on a table stand for."""
    values = dict(values)
    yield "data", values.pop("table")
    yield "head_option", _pairs(values.pop("head_options", None))
    train = _mapping("train", values.pop("train", None))
    patience = train.pop("n_iter_no_change", 20)
    if "early_stopping" in train:
        train["early_stopping"] = patience if train["early_stopping"] else 0
    preset = values.get("preset") or None
    for name in of_tables(preset, ()):
        train.pop(name, None)
    yield from train.items()
    usual = {"task": "auto", "tune": 0, "preset": "", "label": "", "ignore": []}
    yield from ((name, value) for name, value in values.items() if usual.get(name, ...) != value)


def _pairs(options: Any) -> list[str] | None:
    options = _mapping("head_options", options)
    return [f"{name}={json.dumps(value)}" for name, value in options.items()] or None


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping | None):
        raise InputError(f"{name} must hold names and values, got {reprlib.repr(value)}.")
    return dict(value or {})


def _texts(name: str, values: list[Any]) -> list[str]:
    if not all(isinstance(one, str) for one in values):
        raise InputError(f"{name} must be a list of names, got {reprlib.repr(values)}.")
    return values


def _numbers(name: str, values: list[Any]) -> list[float]:
    if not all(isinstance(one, int | float) for one in values):
        raise InputError(f"{name} must be a list of numbers, got {reprlib.repr(values)}.")
    return values


def _refuse_words(path: Path, name: str, value: Any) -> None:
    """Refuse `augment: off`, which YAML reads as false, and a column called `no`."""
    if any(isinstance(one, bool) for one in (value if isinstance(value, list) else [value])):
        raise InputError(
            f"'{path}': {name} is no switch, and YAML reads yes, no, on and off as true and false: "
            "write what you mean in quotes."
        )


def _as_given(value: Any) -> Any:
    """Return a value as it would stand in the command."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [str(one) for one in value]
    return str(value)

"""The files of results: their version, and reading those of earlier ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from spinalnet import files
from spinalnet._checks import InputError, check_values, read_fields
from spinalnet.texts import from_json, from_yaml

Loaded = TypeVar("Loaded")

SCHEMA = 3
"""Version of `summary.json`, `classification.json`, `recipe.json`, `config.yaml` and of what a
checkpoint says of itself; files of 1 do not say it, nor did the last two before 3."""

# Up to version 2 the head "mlp" was the paper's on these networks, with its dropout and norm; that
# is "mlp-paper" now. On any other network it was what "mlp" still is.
_PAPERS_MLP = {
    *("mnist-cnn", "arch2", "mnist-pixels", "vgg5", "cifar-cnn", "regression-net"),
    *("cifar-vgg11-bn", "cifar-vgg13-bn", "cifar-vgg16-bn", "cifar-vgg19-bn"),
    *("alexnet", "resnet18", "resnet101", "resnext50_32x4d", "vgg19_bn", "wide_resnet101_2"),
}
_MLP = re.compile(r"(?<![\w/-])mlp(?![\w-])")


def with_paper_mlp(value: Any) -> Any:
    """Return what an older file says with the head "mlp" called "mlp-paper" in all its words."""
    if isinstance(value, str):
        return _MLP.sub("mlp-paper", value)
    if isinstance(value, Mapping):
        return {with_paper_mlp(key): with_paper_mlp(one) for key, one in value.items()}
    return [with_paper_mlp(one) for one in value] if isinstance(value, list | tuple) else value


def with_present_heads(record: Mapping[str, Any], model: Any) -> Mapping[str, Any]:
    """Return a record of any version with its heads called as they are now.

    Args:
        record: What the file holds; "schema" is its version.
        model: Name of its network, which decides what "mlp" was.
    """
    is_old = check_version(record) < 3 and isinstance(model, str) and model in _PAPERS_MLP
    return with_paper_mlp(record) if is_old else record


def check_version(record: Mapping[str, Any], latest: int = SCHEMA) -> int:
    """Return the version of a file.

    Args:
        record: What it holds; one of version 1 does not say so.
        latest: The last version of its kind.

    Raises:
        InputError: If it is later than this one, or no number from 1, or the record no mapping.
    """
    check_values(record, {})
    if "schema" not in record:
        return 1
    check_values(record, {"schema": int})
    version: int = record["schema"]
    if version < 1:
        raise InputError(f"schema must be a whole number from 1, got {version}.")
    if version > latest:
        raise InputError(
            f"this version reads results up to schema {latest}, got {version}. Update spinalnet."
        )
    return version


def read_mapping(path: Path) -> dict[str, Any] | None:
    """Read a YAML or JSON mapping (NaN as None); None if there is no such file.

    Raises:
        InputError: If it is damaged.
    """
    if not path.is_file():
        return None
    text = files.read_text(path)
    try:  # YAML reads 1e-05 as a string
        loaded = from_json(text, nan=None) if path.suffix == ".json" else from_yaml(text)
    except ValueError as error:
        raise InputError(
            f"{path} cannot be read: it is damaged ({error}); restore or delete it."
        ) from error
    if not isinstance(loaded, dict):
        raise InputError(f"{path} must hold a mapping: it is damaged; restore or delete it.")
    return files.checked(path, loaded)


def check_replaceable(folder: Path) -> None:
    """See that no later version has written the report in a folder, which this would overwrite.

    What is damaged is written anew.

    Raises:
        InputError: If one has.
    """
    path = folder / "summary.json"
    try:  # not `read_mapping`: the digest may be another there
        held = from_json(files.read_text(path))
    except ValueError:
        return
    version = held.get("schema") if isinstance(held, dict) else None
    if type(version) is int and version > SCHEMA:
        with files.reading(path):
            check_version({"schema": version})


def check_folder(folder: Path, kind: Literal["data", "table"], name: str) -> None:
    """See that a folder holds no comparison on anything else, which one on this would overwrite.

    Raises:
        InputError: If it does; data in folders are known by their own names.
    """
    check_replaceable(folder)
    summary = read_mapping(folder / "summary.json") or {}
    question = read_mapping(folder / "comparison.yaml") or {}
    # A summary calls the table of a file as the file, without its ending.
    names = {Path(name).name, Path(name).stem} if kind == "table" else {Path(name).name}
    for other, value in map(_data_of, (summary, question)):
        if value is not None and (other != kind or Path(str(value)).name not in names):
            raise InputError(
                f"{folder} holds a comparison on the {other} '{value}', which one on the {kind} "
                f"'{name}' would overwrite: choose another folder."
            )


def _data_of(record: Mapping[str, Any]) -> tuple[str, Any]:
    """Return what a summary or a question is about: since version 3 a table is "data" too."""
    is_table = record.get("model") == "table" or "table" in record
    return ("table" if is_table else "data"), record.get("table") or record.get("data")


def load(path: str | Path, make: Callable[[dict[str, Any]], Loaded], what: str) -> Loaded:
    """Return what `make` makes of a file of results.

    Raises:
        InputError: If the file is missing, damaged, or not of that kind.
    """
    record = read_mapping(files.expanded(path))
    if record is None:
        raise InputError(f"there is no {what} '{path}': give the file that spinalnet wrote.")
    try:
        with files.reading(Path(path)):
            return make(record)
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"'{path}' is not a {what} of this version ({error}).") from error


def upgraded(record: Mapping[str, Any], row: type, difference: type) -> dict[str, Any]:
    """Return the fields of a summary, of images or a table, as the present version has them.

    The first version named columns after the metric ("accuracies", "mse_mean"). The second called
    the paper's MLP "mlp", summaries of tables were of another kind, and differences covered the
    seeds alone and knew no margin: their numbers are kept, and no more is concluded from them than
    whether a difference was seen.

    Args:
        record: Content of a `summary.json`.
        row: The dataclass of a row.
        difference: That of a difference.

    Raises:
        InputError: If it was written by a later version, or is mangled.
        KeyError: If an earlier one lacks something.
    """
    check_version(record)
    if not {"heads", "models"} & record.keys():
        raise InputError("it is not a summary of a comparison: it has no heads.")
    record = with_present_heads(record, record.get("model"))
    if is_earlier(record):
        rows = "models" if "models" in record else "heads"
        listed = {rows: tuple[Mapping[str, Any], ...], "seeds": tuple[int, ...] | None}
        check_values(record, listed | {"metric": str})
        record = _as_of_three(record)
    check_values(record, {"heads": tuple[Mapping[str, Any], ...]})
    found = []
    for one in record["heads"]:
        columns = dict(one)
        if columns.get("difference") is not None:
            columns["difference"] = difference(
                **read_fields(difference, columns["difference"], "column")
            )
        found.append(row(**read_fields(row, columns, "column")))
    return {key: value for key, value in record.items() if key != "schema"} | {"heads": found}


def is_earlier(record: Mapping[str, Any]) -> bool:
    """Return whether a summary is of before there were units and margins, whatever it says."""
    return check_version(record) < 3 or "units" not in record


def earlier_overlap(record: Mapping[str, Any]) -> float:
    """Return test over training examples of an earlier summary of a table; 0 of images."""
    part = record.get("test_fraction")
    return float(part / (1 - part)) if part else 0.0


def _as_of_three(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary of an earlier version with the names of the third."""
    made = dict(record)
    is_table = "models" in record
    old = str(record["metric"])
    metric = {"R²": "r2"}.get(old, old)
    seeds: list[int] = list(record.get("seeds") or ())
    if is_table:
        seeds = list(range(record["seed"], record["seed"] + record["repeats"]))
        gone = ("table", "rows", "columns", "outputs", "repeats", "test_fraction", "tuned", "seed")
        made = {key: value for key, value in made.items() if key not in (*gone, "models")}
        made |= {"data": record["table"], "model": "table", "epochs": None, "timing": None}
        made |= {"selected_on": "training", "test_size": None, "unit_kind": "split"}
    units = [f"split{seed}-seed{seed}" if is_table else f"seed{seed}" for seed in seeds]
    names = {f"{old}_mean": "mean", f"{old}_std": "std", f"{old}_values": "values"}
    names |= {"accuracies": "values", "scores": "values", "model": "head"}
    names |= {"fit_seconds": "train_seconds_mean"}
    rows = []
    for one in record["models" if is_table else "heads"]:
        columns: dict[str, Any] = {str(names.get(key, key)): value for key, value in one.items()}
        if is_table:
            columns["head_params"] = columns.get("params")
            chosen = columns.pop("chosen", None)
            columns["chosen"] = chosen
            missing = ("macs", "head_macs", "inference_us", "training_us", "mean", "std")
            columns = dict.fromkeys(missing) | columns
        columns["n"] = len([v for v in columns["values"] if v is not None])
        columns["difference"] = _old_difference(columns.get("difference"), str(columns["head"]))
        rows.append(columns)
    return made | {"heads": rows, "metric": metric, "seeds": seeds, "units": units}


def _old_difference(kept: Mapping[str, Any] | None, minus: str) -> dict[str, Any] | None:
    """Return a difference of an earlier version: what was seen, not what was equal."""
    if kept is None or "minus" not in kept:
        return None
    outcome = kept.get("outcome")
    names = ("of", "minus", "mean", "low", "high", "n", "p_value", "p_holm", "verdict")
    found = {name: kept.get(name) for name in names}
    code = outcome if outcome in ("better", "worse") else "undecided"
    return found | {
        "code": code,
        "method": "seeds",
        "seeds_low": kept.get("low"),
        "seeds_high": kept.get("high"),
        "reason": None if code == outcome else "no-margin",
    }

"""From what a caller names, data and heads and numbers, to the question that is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.comparison.defaults import SMALL, default_network, of_frozen
from spinalnet.comparison.question import DEFAULT_HEADS, TABLE_HEADS, ComparisonSpec, read_heads
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.tables.heads import TABLE_MODELS
from spinalnet.comparison.tables.spec import TableSpec
from spinalnet.data import Table, frames
from spinalnet.training import presets

Source = str | Path | Table | RunSpec | TableSpec

_TABLE_OPTIONS = ("task", "head_options", "seed", "ignore")


def names_table(data: object, target: str | None = None) -> bool:
    """Return whether `data` is a table or names one."""
    if isinstance(data, str | Path):
        return frames.is_table(str(data)) or (target is not None and files.expanded(data).is_file())
    return isinstance(data, Table | TableSpec)


def ask(
    data: Source,
    heads: str | Iterable[str] | None = None,
    seeds: int | None = None,
    *,
    model: str | None = None,
    target: str | None = None,
    folds: int = 0,
    repeats: int = 1,
    metric: str | None = None,
    margin: float | None = None,
    tune: int = 0,
    group: str | None = None,
    time: str | None = None,
    preset: str | None = None,
    download: bool | None = None,
    **options: Any,
) -> ComparisonSpec:
    """Return the question; arguments as for `compare`.

    Raises:
        InputError: If a name is unknown, a number out of range, or an argument has no meaning for
            such data.
    """
    if isinstance(tune, bool) or not isinstance(tune, int) or tune < 0:
        raise InputError(f"tune must be a number of trials, or 0 for none, got {tune!r}.")
    if names_table(data, target):
        base: RunSpec | TableSpec = _table(data, target, model, tune, group, time, preset, options)
        default = TABLE_HEADS
    else:
        base = _images(data, model, target, group, time, preset, download, options)
        default = DEFAULT_HEADS
    if seeds is None:
        seeds = presets.count_units(preset, is_table=isinstance(base, TableSpec))
    rows = heads if heads is None or isinstance(heads, str) else tuple(heads)
    if isinstance(rows, str):
        rows = tuple(row.label for row in read_heads(rows))
    question = ComparisonSpec(
        base,
        default if rows is None else rows,
        seeds,
        folds=folds,
        repeats=repeats,
        metric=metric,
        margin=margin,
    )
    if isinstance(base, TableSpec):
        for row in question.rows:
            if row.head not in TABLE_MODELS:
                raise unknown_name("head of a table", row.head, TABLE_MODELS)
    return question


def _table(
    data: Any,
    target: str | None,
    model: str | None,
    tune: int,
    group: str | None,
    time: str | None,
    preset: str | None,
    options: dict[str, Any],
) -> TableSpec:
    own = {"model": model} if model is not None else {}
    if unused := sorted((own | options).keys() - {*_TABLE_OPTIONS}):
        raise InputError(f"{', '.join(unused)} has no meaning for a table: leave it out.")
    if isinstance(data, TableSpec):
        return data
    if isinstance(data, Table):
        if target is not None:
            raise InputError("a Table knows its target: leave out target.")
        options = {"task": data.task, **options, "frame": data}
    name = data.name if isinstance(data, Table) else str(data)
    train = presets.of_tables(preset, options.get("head_options", ()))
    set_by = {"train": train, "preset": preset or ""}
    return TableSpec(name, target, group=group, time=time, tune=tune, **set_by, **options)


def _images(
    data: Any,
    model: str | None,
    target: str | None,
    group: str | None,
    time: str | None,
    preset: str | None,
    download: bool | None,
    options: dict[str, Any],
) -> RunSpec:
    of_tables = {"target": target, "time": time}
    if unused := sorted(name for name, value in of_tables.items() if value is not None):
        named = data.data.name if isinstance(data, RunSpec) else data
        raise InputError(
            f"{', '.join(unused)} has no meaning for '{named}', which is no table: leave it out."
        )
    own = {} if group is None else {"group": group}
    if isinstance(data, RunSpec):
        if model is not None or options:
            raise InputError("a RunSpec knows its model and options: leave them out.")
        return data.having(**own) if own else data
    options = {**presets.of_images(preset, options), **options}
    is_rate_open = not options.keys() & {"lr", "phases", "train"}
    if options.get("pretrained"):
        if options.get("freeze"):
            taken = of_frozen(is_rate_open=is_rate_open)
            options = {"chosen": taken.why, **taken.options, **options}
    else:
        plain = RunSpec.of(str(data), model or SMALL, **own, **options)
        taken = default_network(
            plain.data,
            plain.train,
            model=model,
            is_rate_open=is_rate_open,
            probe_epochs=plain.probe_epochs,
            download=download,
        )
        options = {"chosen": taken.why, **taken.options, **options}
        model = options.pop("model")
    return RunSpec.of(str(data), model or SMALL, **own, **options)


def default_folder(question: ComparisonSpec) -> Path:
    """Return the folder of a comparison for which none is named."""
    base = question.base
    if isinstance(base, TableSpec):
        return Path("runs") / f"compare-{_label(base)}"
    return Path("runs") / f"compare-{Path(base.data.name).name}-{base.model.name}"


def default_run_folder(spec: TableSpec) -> Path:
    """Return the folder of one run on a table for which none is named."""
    return Path("runs") / f"{_label(spec)}-{spec.name}"


def _label(spec: TableSpec) -> str:
    named = spec.table if spec.table.startswith("sklearn:") else Path(spec.table).stem
    return re.sub("[^A-Za-z0-9_.-]+", "-", named)


MAX_SEEDS = 30
"""Most seeds of `until_decided`, where none are given."""


def check_worth_asking(
    question: ComparisonSpec, until_decided: bool, max_seeds: int | None
) -> int | None:
    """Refuse what can be asked but not answered; return the most seeds of `until_decided`.

    Raises:
        InputError: If there is one head only, or seeds cannot be added until all is decided.
    """
    if len(question.heads) < 2:
        raise InputError(
            f"there is nothing to compare with {', '.join(question.heads)} alone: name a second "
            "head, such as heads=spinal,mlp, or train it with `spinalnet train`."
        )
    if not until_decided:
        if max_seeds is not None:
            raise InputError(
                "max_seeds is the limit of until_decided: give that too, or leave it out."
            )
        return None
    most = check_positive("max_seeds", MAX_SEEDS if max_seeds is None else max_seeds)
    if question.units()[0].resample is not None:
        raise InputError(
            "until_decided adds seeds, which are independent; folds and random splits share "
            "examples and are not: leave out until_decided, or the folds."
        )
    if most < question.seeds:
        raise InputError(f"max_seeds must be at least seeds={question.seeds}, got {most}.")
    return most

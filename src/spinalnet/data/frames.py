"""Tables as data frames: files of many formats, those of scikit-learn, and their task.

Read for `spinalnet compare` on a table and for the theory's sensitivities.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spinalnet import files
from spinalnet._checks import InputError, some, unknown_name
from spinalnet.data.columns import (
    MOST_LEVELS,
    as_objects,
    check_names,
    dates,
    has_offsets,
    is_frame,
    kind_of,
    numbers,
    texts,
    told_offsets,
)
from spinalnet.data.table_files import FORMATS as FORMATS  # what others know formats by
from spinalnet.data.table_files import Read, is_table_file, read_table_file
from spinalnet.data.table_notes import empty_columns, notes_on, told_empty, told_text
from spinalnet.data.table_targets import (
    Task,
    check_typo,
    detect_task,
    find_columns,
    find_targets,
    names_in,
    target_values,
    typed_targets,
)

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""Tables that come with scikit-learn, as `sklearn:<name>`."""


@dataclass(frozen=True)
class Table:
    """Rows and what to predict of them.

    Attributes:
        name: Name for people.
        X: Data frame or array `(N, columns)`.
        y: Classes or values `(N,)`, or values `(N, outputs)`.
        task: "classification" or "regression".
        notes: Sentences the user must see.
        groups: Group of every row, `(N,)`, where rows of one group belong into one part.
        times: Time of every row as a number, `(N,)`, where nothing may be trained on the future.
        targets: Names of the columns that were predicted, where they have some.
        date_orders: Of columns of dates that were text what came first in it, "day" or "month".
    """

    name: str
    X: Any
    y: Any
    task: Task
    notes: tuple[str, ...] = ()
    groups: Any = None
    times: Any = None
    targets: tuple[str, ...] = ()
    date_orders: Mapping[str, str] = field(default_factory=dict)

    def ready(
        self, group: str | None = None, time: str | None = None, ignore: Sequence[str] = ()
    ) -> Table:
        """Return the table as nets and trees alike know it.

        Every column holds numbers, truths, dates, categories of text, or text; those without any
        value are left out. `notes` gains what the user should look at. The columns of groups and
        times are features no more: what is tested lies outside of the times that were trained on.

        Args:
            group: Name of a column of a data frame; None for `groups` as they are.
            time: Column of numbers or dates; None for `times` as they are.
            ignore: Columns that are left out as if they were not there, whatever they hold; each
                a name, or several with commas.

        Raises:
            InputError: If there is no such column, or it has missing values, or is no time; if two
                columns have one name, one is of no use, or none holds a value; if a column to
                ignore is the target, or divides the rows.
        """
        given = {"group": group, "time": time}
        columns = list(map(str, getattr(self.X, "columns", ())))
        for what, name in (*given.items(), *(("ignore", name) for name in ignore)):
            if name is not None and not columns:
                means = "can be ignored" if what == "ignore" else f"can be its {what}"
                raise InputError(
                    f"{self.name} has no columns with names, so none {means}: leave out "
                    f"{what}={name}."
                )
            if what != "ignore" and name is not None and name not in columns:
                raise unknown_name(f"column ({what})", name, columns)
        left_out = _to_ignore(ignore, columns, self.targets, given)
        if group is not None and group == time:
            raise InputError(f"group and time must be two columns, got '{group}' for both.")
        if not is_frame(self.X):
            return self
        check_names(columns, self.name)
        X, notes = _as_pandas(self.X, self.name)
        groups = self.groups if group is None else _as_groups(group, X[group])
        times = self.times if time is None else _as_times(time, X[time])
        taken = [name for name in given.values() if name is not None] + left_out
        X = X.drop(columns=taken)
        if X.shape[1] == 0:
            raise InputError(f"{self.name} has no column besides {' and '.join(taken)}.")
        given, X = X, _with_types(X)
        dated = [name for name in X.columns if X[name].dtype.kind == "M"]
        notes += [told_offsets(name) for name in dated if has_offsets(given[name])]
        if len(empty := empty_columns(X)) == X.shape[1]:
            raise InputError(
                f"{self.name} must have a column that holds a value besides its target, but all of "
                f"them are empty: {some(empty, 5)}."
            )
        notes += told_empty(empty)
        X = X.drop(columns=empty)
        notes += told_text(X)
        notes += notes_on(X, self.y, self.task)
        told = tuple(dict.fromkeys([*self.notes, *notes]))
        return replace(self, X=X, groups=groups, times=times, notes=told)


def _to_ignore(
    ignore: Sequence[str],
    columns: list[str],
    targets: Sequence[str],
    given: Mapping[str, str | None],
) -> list[str]:
    """Return the columns to leave out, each once.

    Raises:
        InputError: If one is not there, or is needed.
    """
    needed = dict.fromkeys(targets, "the target")
    needed |= {name: f"the column of {what}=" for what, name in given.items() if name is not None}
    known = [*columns, *(name for name in targets if name not in columns)]
    named = [one for names in ignore for one in find_columns(names, known, "column (ignore)")]
    for name in named:
        if name in needed:
            raise InputError(
                f"ignore={name} is {needed[name]}: that cannot be left out; choose another column."
            )
    return list(dict.fromkeys(named))


def is_table(source: str) -> bool:
    """Return whether `source` names a bundled table or a table file."""
    return source.startswith("sklearn:") or is_table_file(source)


def load_table(
    source: str,
    target: str | None = None,
    task: str = "auto",
    *,
    group: str | None = None,
    time: str | None = None,
    ignore: Sequence[str] = (),
) -> Table:
    """Read a table as it lies; `Table.notes` has a sentence for every decision.

    Args:
        source: `sklearn:<name>` (see `BUNDLED`), or a file: csv, tsv or txt, packed or not,
            parquet, arrow, feather or xlsx.
        target: The column to predict, by its exact name, whatever that holds; else several for a
            regression, comma separated. Bundled tables know theirs.
        task: "classification", "regression", or "auto": numbers that are not all whole, or whole
            ones with many values, are a regression; everything else are classes.
        group: Column whose rows of one value belong into one part; it is no feature.
        time: Column of numbers or dates that orders the rows; it is no feature either, since what
            is tested on lies outside of what was trained on.
        ignore: Columns that are left out, see `Table.ready`.

    Raises:
        InputError: If the file or the column is missing or unusable.
    """
    if task not in ("auto", "classification", "regression"):
        raise unknown_name("task", task, ["auto", "classification", "regression"])
    if source.startswith("sklearn:"):
        return _bundled(source.removeprefix("sklearn:")).ready(group, time, ignore)
    read, names = _read_with_target(files.expanded(source), target)
    for what, name in (("group", group), ("time", time)):
        if name in names:
            raise InputError(f"{what}={name} is the target: what is predicted cannot divide rows.")
    frame, notes = _with_targets(read.frame, names)
    y = typed_targets(frame[names], names)
    for name in names:
        check_typo(name, y[name], "regression" if len(names) > 1 and task == "auto" else task)
    y = y[names[0]] if len(names) == 1 else y
    found = detect_task(y) if task == "auto" else task
    if task == "auto":
        other = "regression" if found == "classification" else "classification"
        notes.append(f"Task detected from the target column: {found} (override: task={other}).")
    X = frame.drop(columns=names)
    if X.shape[1] == 0:
        raise InputError(f"{source} has no column besides the target.")
    values = target_values(y, found)
    table = Table(
        Path(source).stem,
        X.reset_index(drop=True),
        values,
        found,  # type: ignore[arg-type]
        (*notes, *read.notes),
        targets=tuple(names),
        date_orders=read.date_orders,
    )
    return table.ready(group, time, ignore)


def _with_targets(frame: Any, names: list[str]) -> tuple[Any, list[str]]:
    """Leave out rows that lack a target, and tell."""
    kept = frame[names].notna().all(axis=1)
    if not kept.any():
        raise InputError(f"the target {some([repr(n) for n in names], 3)} has no value in any row.")
    if kept.all():
        return frame, []
    gone = int((~kept).sum())
    told = "1 row without a target is" if gone == 1 else f"{gone} rows without a target are"
    return frame[kept], [f"{told} left out."]


def read_frame(path: Path, *, text: Collection[str] = ()) -> tuple[Any, list[str]]:
    """Return a table file as `load_table` reads it, without a target.

    Args:
        path: The file.
        text: Columns of a text file that stay text, whatever they look like ('007').

    Returns:
        A data frame of pandas, and a sentence for every decision.

    Raises:
        InputError: If it is missing, broken or empty, or two columns have one name.
    """
    read = read_table_file(path, text=text)
    return read.frame, read.notes


def _read_with_target(path: Path, target: str | None) -> tuple[Read, list[str]]:
    """Read a file, and find the columns to predict in it."""
    if target is None:
        read = read_table_file(path)
        columns = some(list(read.frame.columns), 10)
        raise InputError(f"name the column to predict: target=COLUMN; the columns are {columns}.")
    read = read_table_file(path, targets=names_in(target))
    return read, find_targets(target, list(read.frame.columns), read.no_header)


def _as_pandas(X: Any, name: str) -> tuple[Any, list[str]]:
    """Return a frame of pandas with names that are text; of one of polars the same values."""
    import pandas as pd

    if not hasattr(X, "iloc"):
        made = {}
        for one in X.columns:
            values = as_objects(X[one].to_list())
            category = kind_of(str(one), X[one]) == "category"
            made[str(one)] = pd.Categorical(values) if category else pd.Series(values)
        return pd.DataFrame(made), []
    named = [f"'{one}'" for one in X.index.names if one is not None]
    told = (
        f"The index of {name} ({some(named, 3)}) is no feature: make it a column if it says much."
    )
    return X.rename(columns=str), [told] if named else []


def _as_groups(name: str, column: Any) -> Any:
    """Return a number for every group."""
    import numpy as np
    import pandas as pd

    codes, _ = pd.factorize(np.asarray(column, dtype=object), use_na_sentinel=True)
    if count := int((codes < 0).sum()):
        raise InputError(
            f"the group column '{name}' has no value in {count} row{'s' * (count > 1)}: fill in a "
            "group of its own for each, or leave the rows out."
        )
    return codes


def _as_times(name: str, column: Any) -> Any:
    """Return numbers in the order of a column of numbers or dates."""
    import numpy as np
    import pandas as pd

    values = pd.Series(np.asarray(column))
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        try:
            values = pd.to_datetime(values, format="ISO8601", utc=True)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the time column '{name}' must hold numbers or dates (2026-01-31), and not all "
                f"of it can be read as such: {str(error).splitlines()[0]}"
            ) from error
    if count := int(values.isna().sum()):
        raise InputError(
            f"the time column '{name}' has no value in {count} row{'s' * (count > 1)}: leave "
            "them out."
        )
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return values.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)


def _with_types(X: Any) -> Any:
    """Give every column one of the types that nets and trees alike know.

    Numbers of NumPy, bool, datetime64, categories of text, and text as objects.
    """
    import pandas as pd

    made = {str(name): _with_type(str(name), X[name]) for name in X.columns}
    return pd.DataFrame(made, index=pd.RangeIndex(len(X)))


def _with_type(name: str, column: Any) -> Any:
    import numpy as np
    import pandas as pd

    kind = kind_of(name, column)
    if kind == "category":
        values = texts(column)
        if len(set(values) - {None}) <= MOST_LEVELS:
            return pd.Categorical(as_objects(values))
        kind = "text"
    if kind == "text":
        return as_objects(texts(column))
    if kind == "date":
        return dates(name, column)
    plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"
    return column.to_numpy() if plain else numbers(name, column)


def _bundled(name: str) -> Table:
    from sklearn import datasets

    if name not in BUNDLED:
        raise unknown_name("table that comes with scikit-learn", name, BUNDLED)
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    task: Task = "regression" if name in ("diabetes", "linnerud") else "classification"
    return Table(f"sklearn:{name}", X, y, task)

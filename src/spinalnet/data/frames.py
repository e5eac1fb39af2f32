"""Tables as data frames: csv, parquet and arrow files, those of scikit-learn, and their task.

Read for `spinalnet compare` on a table and for the theory's sensitivities.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from spinalnet._checks import InputError, some, unknown_name

Task = Literal["classification", "regression"]

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""Tables that come with scikit-learn, as `sklearn:<name>`."""

FORMATS = (".csv", ".tsv", ".parquet", ".arrow", ".feather")


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
    """

    name: str
    X: Any
    y: Any
    task: Task
    notes: tuple[str, ...] = ()
    groups: Any = None
    times: Any = None

    def ready(self, group: str | None = None, time: str | None = None) -> Table:
        """Return the table as nets and trees alike know it.

        Columns that are no numbers become categories. The columns of groups and times are features
        no more: what is tested lies outside of the times that were trained on.

        Args:
            group: Name of a column of a data frame; None for `groups` as they are.
            time: Column of numbers or dates; None for `times` as they are.

        Raises:
            InputError: If there is no such column, or it has missing values, or is no time.
        """
        given = {"group": group, "time": time}
        columns = list(map(str, getattr(self.X, "columns", ())))
        for what, name in given.items():
            if name is not None and name not in columns:
                if not columns:
                    raise InputError(
                        f"{self.name} has no columns with names, so none can be its {what}: leave "
                        f"out {what}={name}."
                    )
                raise unknown_name(f"column ({what})", name, columns)
        if group is not None and group == time:
            raise InputError(f"group and time must be two columns, got '{group}' for both.")
        groups = self.groups if group is None else _as_groups(group, self.X[group])
        times = self.times if time is None else _as_times(time, self.X[time])
        taken = [name for name in given.values() if name is not None]
        X = self.X
        if columns:
            X = _as_pandas(X).drop(columns=taken)
            if X.shape[1] == 0:
                raise InputError(f"{self.name} has no column besides {' and '.join(taken)}.")
            X = _with_categories(X)
        return replace(self, X=X, groups=groups, times=times)


def is_table(source: str) -> bool:
    """Return whether `source` names a bundled table or a table file."""
    return source.startswith("sklearn:") or Path(source).suffix.lower() in FORMATS


def load_table(
    source: str,
    target: str | None = None,
    task: str = "auto",
    *,
    group: str | None = None,
    time: str | None = None,
) -> Table:
    """Read a table.

    Args:
        source: `sklearn:<name>` (see `BUNDLED`), or a csv, tsv, parquet, arrow or feather file.
        target: The column to predict; several for a regression, comma separated. Bundled tables
            know theirs.
        task: "classification", "regression", or "auto": numbers that are not all whole, or whole
            ones with many values, are a regression; everything else are classes.
        group: Column whose rows of one value belong into one part; it is no feature.
        time: Column of numbers or dates that orders the rows; it is no feature either, since what
            is tested on lies outside of what was trained on.

    Raises:
        InputError: If the file or the column is missing or unusable.
    """
    if task not in ("auto", "classification", "regression"):
        raise unknown_name("task", task, ["auto", "classification", "regression"])
    if source.startswith("sklearn:"):
        return _bundled(source.removeprefix("sklearn:")).ready(group, time)
    frame = _read_frame(Path(source))
    if target is None:
        columns = some(list(frame.columns), 10)
        raise InputError(f"name the column to predict: target=COLUMN; the columns are {columns}.")
    names = [name.strip() for name in target.split(",")]
    for name in names:
        if name not in frame.columns:
            raise unknown_name("column", name, map(str, frame.columns))
    notes = []
    kept = frame[names].notna().all(axis=1)
    if not kept.all():
        notes.append(f"{int((~kept).sum())} rows without a target are left out.")
        frame = frame[kept]
    _check_finite(frame[names])
    y = frame[names[0]] if len(names) == 1 else frame[names]
    found = detect_task(y) if task == "auto" else task
    if task == "auto":
        other = "regression" if found == "classification" else "classification"
        notes.append(f"Task detected from the target column: {found} (override: task={other}).")
    X = frame.drop(columns=names)
    if X.shape[1] == 0:
        raise InputError(f"{source} has no column besides the target.")
    for what, name in (("group", group), ("time", time)):
        if name in names:
            raise InputError(f"{what}={name} is the target: what is predicted cannot divide rows.")
    values = _target_values(y, found)
    table = Table(Path(source).stem, X, values, found, tuple(notes))  # type: ignore[arg-type]
    return table.ready(group, time)


def _as_pandas(X: Any) -> Any:
    """Return a frame of pandas; of one of polars the same values."""
    import pandas as pd

    if hasattr(X, "iloc"):
        return X
    return pd.DataFrame({str(name): X[name].to_list() for name in X.columns})


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


def _with_categories(X: Any) -> Any:
    """Give columns that are no numbers the type that nets and trees alike know categories by."""
    from spinalnet.data.columns import column_kind

    try:
        kinds = {name: column_kind(str(name), X[name].dtype) for name in X.columns}
    except ValueError as error:
        raise InputError(str(error)) from error
    return X.astype({name: "category" for name, kind in kinds.items() if kind == "categorical"})


def _check_finite(targets: Any) -> None:
    """Refuse targets that are infinite."""
    import numpy as np

    for name, column in targets.select_dtypes("number").items():
        if count := int(np.isinf(column.to_numpy(dtype=float)).sum()):
            raise InputError(
                f"the target column '{name}' is infinite in {count} row{'s' * (count > 1)}: "
                "leave them out, or mend their values."
            )


def _target_values(y: Any, task: str) -> Any:
    if task == "classification":
        if y.ndim > 1:
            raise InputError("a classification has one target column; task=regression takes many.")
        return y.astype(str).to_numpy() if y.dtype.kind not in "iu" else y.to_numpy()
    try:
        return y.to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(
            "a regression needs a target of numbers; use task=classification."
        ) from error


def read_frame(path: Path, *, text: Any = ()) -> Any:
    """Return a table file as a data frame of pandas, and notes."""
    return _read_frame(path), ()


def _read_frame(path: Path) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError(
            "reading tables needs pandas (and pyarrow for parquet and arrow): "
            "pip install 'spinalnet[tables]'."
        ) from error
    if not path.is_file():
        raise InputError(f"table '{path}' does not exist.")
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise InputError(f"'{path}' must be one of {', '.join(FORMATS)}.")
    try:
        if suffix in (".csv", ".tsv"):
            frame = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",")
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = _read_arrow(path)
    except ImportError as error:
        raise InputError("parquet and arrow files need pyarrow: pip install pyarrow.") from error
    except Exception as error:  # parsers raise almost anything on broken files
        raise InputError(f"table '{path}' cannot be read: {error}") from error
    if len(frame) == 0:
        raise InputError(f"table '{path}' has no rows.")
    return frame


def _read_arrow(path: Path) -> Any:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all().to_pandas()
        except pa.ArrowInvalid:  # the streaming form has no footer
            return pa.ipc.open_stream(source).read_all().to_pandas()


def detect_task(y: Any) -> Task:
    """Say whether a target column (or several) holds classes or numbers to predict."""
    import pandas as pd

    columns = [y] if y.ndim == 1 else [y[name] for name in y.columns]
    if len(columns) > 1:
        return "regression"
    column = columns[0]
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return "classification"
    values = column.to_numpy(dtype=float)
    whole = bool((values == values.round()).all())
    few = len(set(values.tolist())) <= max(2, min(20, len(values) // 10))
    return "classification" if whole and few else "regression"


def _bundled(name: str) -> Table:
    from sklearn import datasets

    if name not in BUNDLED:
        raise unknown_name("table that comes with scikit-learn", name, BUNDLED)
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    task: Task = "regression" if name in ("diabetes", "linnerud") else "classification"
    return Table(f"sklearn:{name}", X, y, task)

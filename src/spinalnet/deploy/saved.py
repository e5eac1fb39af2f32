"""Which model a path means: one of images or one of a table; a run's, or the best of many."""

from __future__ import annotations

from pathlib import Path

from spinalnet._checks import InputError
from spinalnet.comparison import TableModel
from spinalnet.comparison.loading import run_of
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.tables.model import is_table_run, load_table_model


def is_of_table(path: str | Path) -> bool:
    """Return whether a path means the model of a table."""
    return is_table_run(run_of(path))


def table_model(path: str | Path, tell: Tell | None = None) -> TableModel:
    """Read the model of a table.

    Args:
        path: Folder of a run or of a comparison, or a `model.safetensors`.
        tell: Called with a sentence for everything the user should know: which run of a comparison
            it is, and whether the model had to be fitted again.

    Raises:
        InputError: If the model is one of images, or cannot be had.
    """
    found = run_of(path, tell)
    if not is_table_run(found):
        raise InputError(f"{found} is no finished run on a table: give the folder of one.")
    model = load_table_model(found)
    if tell is not None and model.refitted is not None:
        tell(
            f"the model of {found} does not lie there as data ({model.refitted}): it was fitted "
            "again to its training rows."
        )
    return model

"""A trained model out of whatever folder or file holds one."""

from __future__ import annotations

from pathlib import Path

from spinalnet.comparison.passed_on import file_of
from spinalnet.comparison.result import Comparison
from spinalnet.comparison.tables.columns import Tell
from spinalnet.comparison.tables.model import TableModel, is_table_run, load_table_model
from spinalnet.comparison.trained import TrainedModel, load_trained


def load(path: str | Path) -> TrainedModel | TableModel:
    """Read a trained model, of images or of a table.

    Args:
        path: Folder of a run, of a comparison, whose best run is taken, or one that
            `save_pretrained` wrote; or a checkpoint file.

    Raises:
        InputError: If there is no finished run, or its files cannot be used.
    """
    path = run_of(path)
    return load_table_model(path) if is_table_run(path) else load_trained(path)


def run_of(path: str | Path, tell: Tell | None = None) -> Path:
    """Return the run, or the file of a model, that a path means; of a comparison the best run.

    Args:
        path: Folder of a run or of a comparison, or of a model that is passed on; or a checkpoint
            file.
        tell: Called with a sentence that says which run of a comparison it is.

    Raises:
        InputError: If a comparison has no finished run.
    """
    path = file_of(path)
    if not (path / "comparison.yaml").is_file():
        return path
    found = Comparison.load(path)
    best = found.best_run()
    if tell is not None:
        chosen = "best mean on its test parts" if found.summary.is_table else "best on validation"
        tell(f"{path} is a comparison; the run used is {best.name} ({chosen}).")
    return best

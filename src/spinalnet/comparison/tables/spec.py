"""What is asked of one run on a table, and how that stands in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from spinalnet import files
from spinalnet._checks import InputError, read_fields, unknown_name
from spinalnet.comparison.metrics import find_metric
from spinalnet.comparison.tables.heads import (
    FOLLOWING,
    SIZE,
    check_options,
    head_row,
    training_options,
)
from spinalnet.comparison.units import Contestant, Unit, run_name
from spinalnet.data import Resample, Table

_SPINAL = ("spinal", *FOLLOWING)


@dataclass(frozen=True)
class TableSpec:
    """Everything that decides the result of one run on a table; what `config.yaml` holds.

    Attributes:
        table: `sklearn:NAME`, or the path of a file (see `load_table`).
        target: The column to predict, or several with commas.
        task: "classification", "regression", or "auto".
        group: Column whose rows of one value all lie in one part; it is no feature.
        time: Column that orders the rows: nothing is trained on rows later than those of the test
            part. It is no feature.
        ignore: Columns that are no features either, as if the table lacked them: an identifier,
            say. Each is a name, or several with commas; text is one such.
        head: A head of tables: spinal, unchained, unchained-matched, matched, mlp, linear, trees.
        head_options: What the estimator is given beside its defaults.
        train: Options of training that all nets of a comparison are given (epochs, batch_size,
            ...); trees, which are not trained so, are not.
        metric: Row of `METRICS` by which `tune` chooses; None for the task's own.
        tune: Number of trials in which the head's settings are chosen, inside the training rows;
            0 for its defaults.
        resample: Which rows are the test part.
        seed: Of the estimator.
        label: What its row in a comparison is called; empty for the head's name.
        preset: Row of `training.presets.PRESETS` that settings come from; they stand here.
        frame: The table itself, where it lies in memory and not in a file; not written.

    Raises:
        InputError: If a value is impossible.
    """

    table: str
    target: str | None = None
    task: Literal["auto", "classification", "regression"] = "auto"
    group: str | None = None
    time: str | None = None
    ignore: tuple[str, ...] = ()
    head: str = "spinal"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    tune: int = 0
    resample: Resample = field(default_factory=lambda: Resample("split", 0))
    seed: int = 0
    label: str = ""
    preset: str = ""
    frame: Table | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.table.startswith("~"):
            object.__setattr__(self, "table", str(files.expanded(self.table)))
        given: Any = self.ignore or ()
        object.__setattr__(self, "ignore", (given,) if isinstance(given, str) else tuple(given))
        if self.tune < 0:
            raise InputError(f"tune must be a number of trials, or 0 for none, got {self.tune}.")
        check_options(self.head, self.head_options)
        known = training_options() if self.train else ()
        for name in self.train:
            if name not in known:
                raise unknown_name("option of training on a table", name, known)
        if self.metric is not None:
            find_metric(self.metric, None if self.task == "auto" else self.task)

    @property
    def name(self) -> str:
        """Name of the run's folder within a comparison."""
        return run_name(self.label or self.head, self.unit)

    @property
    def unit(self) -> Unit:
        """What it is a repetition of."""
        return Unit(self.seed, self.resample)

    def as_cell(self, row: Contestant, unit: Unit, first: Contestant) -> TableSpec:
        """Return the run of a row of a comparison in a unit; see `RunSpec.as_cell`.

        A control takes over what is said of the size of the first row, if that is a spinal net.
        """
        shared: Mapping[str, Any] = self.head_options if row.head == first.head else {}
        if row.head in FOLLOWING and row.head != first.head and first.head in _SPINAL:
            lead = {**self.head_options, **first.options}
            shared = {name: value for name, value in lead.items() if name in SIZE}
        return replace(
            self,
            head=row.head,
            head_options={**shared, **row.options},
            resample=unit.resample or self.resample,
            seed=unit.seed,
            label="" if row.label == row.head else row.label,
        )

    def question(self) -> dict[str, Any]:
        """Return what stands in `comparison.yaml` of what all runs share."""
        base = self.to_dict()
        del base["head"]
        return {"table": self.table, "target": self.target, "base": base}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `config.yaml`."""
        values = asdict(replace(self, frame=None))
        del values["frame"]
        return {**values, "ignore": list(self.ignore)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TableSpec:
        """Read what `to_dict` gave.

        Raises:
            InputError: If a setting is unknown or missing, or its value wrong.
        """
        return cls(**read_fields(cls, values, "setting"))


_SAME_IN_TABLES = (
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "schedule",
    "clip_norm",
)
_KNOWN_TO_TABLES = {*_SAME_IN_TABLES, "early_stopping", "class_weights", "seed"}


def training_of(given: Mapping[str, Any], head: str) -> dict[str, Any]:
    """Return options of training, as `TrainConfig` calls them, as fields of a `TableSpec`.

    Args:
        given: Those that somebody has named; all others keep the defaults of tables.
        head: Head of the run.

    Raises:
        InputError: If one has no meaning on a table, or for this head.
    """
    named = {name: "--" + name.replace("_", "-") for name in given}
    if unused := sorted(named[name] for name in given.keys() - _KNOWN_TO_TABLES):
        raise InputError(f"{', '.join(unused)} has no meaning on a table: leave it out.")
    if not head_row(head).kind:
        of_nets = sorted(named[name] for name in given.keys() - {"seed", "class_weights"})
        if of_nets:
            raise InputError(
                f"{', '.join(of_nets)} has no meaning for '{head}', which is not trained in "
                "epochs: leave it out, or give its own options by --head-option."
            )
    train = {name: given[name] for name in _SAME_IN_TABLES if name in given}
    if "early_stopping" in given:
        patience = given["early_stopping"]
        train["early_stopping"] = patience > 0
        if patience > 0:
            train["n_iter_no_change"] = patience
    found: dict[str, Any] = {"train": train, "seed": given.get("seed", 0)}
    if given.get("class_weights", "none") != "none":
        found["head_options"] = {"class_weight": given["class_weights"]}
    return found

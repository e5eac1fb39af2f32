"""What is asked of a run, and how that stands in files.

A run is three requests, each of which visits one wing: `DataSpec` (data), `ModelSpec` (models) and
`TrainConfig` (training); beside them stands what belongs to no single one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from spinalnet._checks import InputError, check_positive, read_fields, unknown_name
from spinalnet.comparison.schema import SCHEMA, with_present_heads
from spinalnet.comparison.units import Contestant, Unit, run_name
from spinalnet.data import DataSpec
from spinalnet.models import ModelSpec
from spinalnet.training import TrainConfig

if TYPE_CHECKING:
    from spinalnet.training import Progress

OnProgress = Callable[["RunSpec", "Progress"], None]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the result of one run; what `config.yaml` holds.

    Attributes:
        data: Which data, at which size.
        model: Which network, with which head.
        train: How to train; its seed is the seed of the run.
        selected_on: What every choice in training is made on: "validation", or, in a repetition
            of the paper's procedure, "test" or "training". The caller's `load` sees to it.
        probe_epochs: Train the head so long on features of the plain images first, then both from
            its best weights. The best epoch may be one of either stage.
        probe_lr: Learning rate of that first stage; all else is as in `train`.
        label: What its row in a comparison is called; empty for the head's name.
        tested: Whether the test part is touched at the end; False for a trial in tuning.
        preset: Row of `training.presets.PRESETS` that settings come from; they stand here.
        chosen: Why the network or its rate was taken, where nobody has named one.

    Raises:
        InputError: If the parts do not go together.
    """

    data: DataSpec
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainConfig = field(default_factory=TrainConfig)
    selected_on: Literal["validation", "test", "training"] = "validation"
    probe_epochs: int = 0
    probe_lr: float = 3e-3
    label: str = ""
    tested: bool = True
    preset: str = ""
    chosen: str = ""

    def __post_init__(self) -> None:
        if self.model.freeze and self.train.mix != "none":
            raise InputError(
                "mix mixes images, but a frozen trunk is given every image once: leave out "
                "freeze or mix."
            )
        if self.probe_epochs:
            check_positive("probe_epochs", self.probe_epochs)
            if not self.model.pretrained:
                raise InputError(
                    "probe_epochs trains a head on what a network has learned: give it published "
                    "weights or a file of them, or leave it out."
                )
        if self.model.freeze and (self.probe_epochs or self.train.uses_depth):
            raise InputError(
                "a frozen trunk does not learn: leave out freeze=True, or probe_epochs, trunk_lr, "
                "layer_decay, head_epochs, unfreeze_every and keep_statistics."
            )

    @classmethod
    def of(cls, data: str, model: str = "mnist-cnn", **options: Any) -> RunSpec:
        """Return a run of a data set and a network, with any fields of its parts side by side.

        Raises:
            InputError: If there is no such field, or its value is impossible.

        Example:
            >>> RunSpec.of("digits", head="mlp", limit=300, epochs=2, seed=1).name
            'mlp-seed1'
        """
        return cls(DataSpec(data), ModelSpec(model)).having(**options)

    def having(self, **options: Any) -> RunSpec:
        """Return this run with other values of fields, whichever part they belong to.

        Raises:
            InputError: If there is no such field, or its value is impossible.
        """
        own = {name: options.pop(name) for name in _OWN if name in options}
        parts: dict[str, dict[str, Any]] = {}
        for name, value in options.items():
            if name not in _PART_OF:
                raise unknown_name("setting of a run", name, [*_OWN, *_PART_OF])
            parts.setdefault(_PART_OF[name], {})[name] = value
        changed = {
            part: replace(own.get(part, getattr(self, part)), **values)
            for part, values in parts.items()
        }
        return replace(self, **(own | changed))

    @property
    def name(self) -> str:
        """Name of the run's folder within a comparison."""
        return run_name(self.label or self.model.head, self.unit)

    @property
    def unit(self) -> Unit:
        """What it is a repetition of."""
        return Unit(self.train.seed, self.data.resample)

    def as_cell(self, row: Contestant, unit: Unit, first: Contestant) -> RunSpec:
        """Return the run of a row of a comparison in a unit.

        The head options of this run are those of the row `first`, which the controls follow.
        """
        shared = self.model.head_options
        leader = replace(self.model, head=first.head, head_options={**shared, **first.options})
        if row.head == first.head:  # the first row itself, or a variant of it
            model = replace(leader, head_options={**shared, **row.options})
        else:
            model = leader.control(row.head)
            model = replace(model, head_options={**model.head_options, **row.options})
        return replace(
            self,
            data=replace(self.data, resample=unit.resample),
            model=model,
            train=replace(self.train, seed=unit.seed, **row.train),
            label="" if row.label == row.head else row.label,
        )

    def question(self) -> dict[str, Any]:
        """Return what stands in `comparison.yaml` of what all runs share."""
        base = self.to_dict()
        del base["model"]["head"]
        return {
            "data": self.data.name,
            "model": self.model.name,
            "epochs": self.train.epochs,
            "base": base,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `config.yaml`."""
        return asdict(self) | {"train": self.train.to_dict(), "schema": SCHEMA}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Read what `to_dict` gave, now or before the parts had mappings of their own.

        Raises:
            InputError: If a setting is unknown or missing, or its value wrong.
        """
        return cls(**read_fields(cls, _with_present_heads(_in_parts(values)), "setting"))


_OWN = tuple(one.name for one in fields(RunSpec))
_PART_OF = {
    one.name: part
    for part, kind in (("data", DataSpec), ("model", ModelSpec), ("train", TrainConfig))
    for one in fields(kind)
    if one.name != "name"
}


def _in_parts(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings as they are written now: those of data and network used to lie flat."""
    if not isinstance(values, Mapping) or not isinstance(values.get("data"), str):
        return values
    flat = dict(values)
    parts: dict[str, dict[str, Any]] = {
        part: {"name": flat.pop(part)} for part in ("data", "model") if part in flat
    }
    if flat.get("trunk") in (None, "frozen"):
        flat["freeze"] = flat.pop("trunk", None) is not None
    for name in [name for name in flat if _PART_OF.get(name) in ("data", "model")]:
        parts.setdefault(_PART_OF[name], {})[name] = flat.pop(name)
    return parts | flat


def _with_present_heads(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings of any version, their head called as it is now, without the version."""
    if not isinstance(values, Mapping):
        return values
    version = {name: value for name, value in values.items() if name == "schema"}
    parts = {name: value for name, value in values.items() if name != "schema"}
    if isinstance(model := parts.get("model"), Mapping):
        renamed = with_present_heads({**model, **version}, model.get("name"))
        parts["model"] = {name: value for name, value in renamed.items() if name != "schema"}
    return parts

"""What is asked of a run and of a comparison, and how that stands in files.

A run is three requests, each of which visits one wing: `DataSpec` (data), `ModelSpec` (models) and
`TrainConfig` (training); beside them stands what belongs to no single one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from spinalnet._checks import InputError, check_positive, read_fields, unknown_name
from spinalnet.comparison.schema import SCHEMA, with_present_heads
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

    Raises:
        InputError: If the parts do not go together.
    """

    data: DataSpec
    model: ModelSpec = field(default_factory=ModelSpec)
    train: TrainConfig = field(default_factory=TrainConfig)
    selected_on: Literal["validation", "test", "training"] = "validation"
    probe_epochs: int = 0
    probe_lr: float = 3e-3

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
        return f"{self.model.head}-seed{self.train.seed}"

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
    version = values.get("schema")
    parts = {name: value for name, value in values.items() if name != "schema"}
    if isinstance(model := parts.get("model"), Mapping):
        renamed = with_present_heads({**model, "schema": version}, model.get("name"))
        parts["model"] = {name: value for name, value in renamed.items() if name != "schema"}
    return parts


DEFAULT_HEADS = ("spinal", "unchained", "matched", "mlp", "linear")
"""The spinal head; without its chain; an MLP of its size; one of the paper's width; no layer."""


@dataclass(frozen=True)
class Comparison:
    """A question: which of these heads is better on this data, over how many seeds?

    Attributes:
        base: The run that all share; its head and seed are replaced in turn.
        heads: Names of heads; the first is compared with each of the others.
        seeds: Number of paired seeds, counted from the seed of `base`.
        other: What one head's network has of its own, by head: `head_options`, `neck`.

    Raises:
        InputError: If a head is unknown or named twice, or the runs would not be comparable.
    """

    base: RunSpec
    heads: tuple[str, ...] = DEFAULT_HEADS
    seeds: int = 5
    other: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive("seeds", self.seeds)
        if not self.heads:
            raise InputError("heads must name at least one head, for example spinal,mlp.")
        for head, own in self.other.items():
            if head not in self.heads:
                raise unknown_name("head with fields of its own", head, self.heads)
            for name in own:
                if name not in ("head_options", "neck"):
                    raise unknown_name(f"field of head '{head}'", name, ("head_options", "neck"))
        if len(set(self.heads)) < len(self.heads):
            raise InputError(f"heads must differ, got {', '.join(self.heads)}.")
        self.of_seed(self.base.train.seed)  # an unknown head is told now

    def of_seed(self, seed: int) -> list[RunSpec]:
        """Return the runs of one seed, one for each head.

        The head options of `base` belong to the first head, and the controls made after it follow
        it (`ModelSpec.control`); the others keep their own, unless `other` says more.
        """
        first = replace(self.base.model, head=self.heads[0])
        train = replace(self.base.train, seed=seed)
        models = [replace(first.control(head), **self.other.get(head, {})) for head in self.heads]
        return [replace(self.base, model=model, train=train) for model in models]

    def specs(self) -> Iterator[RunSpec]:
        """Yield every run, all heads of one seed before the next seed."""
        first = self.base.train.seed
        for seed in range(first, first + self.seeds):
            yield from self.of_seed(seed)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `comparison.yaml`."""
        base = self.base.to_dict()
        del base["model"]["head"]
        first = self.base.train.seed
        return {
            "data": self.base.data.name,
            "model": self.base.model.name,
            "heads": list(self.heads),
            "seeds": list(range(first, first + self.seeds)),
            "epochs": self.base.train.epochs,
            "base": base,
            "other": {head: dict(own) for head, own in self.other.items()},
        }

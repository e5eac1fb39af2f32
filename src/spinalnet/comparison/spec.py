"""TODO(comparison.spec): split from experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.nn.heads import HEADS
from spinalnet.training import loop
from spinalnet.training.config import TrainConfig

OnProgress = Callable[["RunSpec", loop.Progress], None]


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides the result of one run; what `config.yaml` holds.

    Attributes:
        data: Name of a data set, or a folder of images.
        model: Row of `models.MODELS`.
        head: Row of `nn.HEADS`.
        head_options: Options that override the paper's.
        train: How to train; its seed is the seed of the run.
        data_dir: Where the data set's files are.
        image_size: Side in pixels that images are brought to; `None` for the data's own, or the
            model's where the data's is too small.
        in_channels: 1 for grey, 3 for colour; `None` for the data's own (3 for folders).
        limit: Use only so many training images.
        on_bad_image: Whether image files that cannot be used are refused ("error") or left out
            ("skip").
        neck: How the trunk's last map becomes features, where the model has a choice.
        pretrained: Start the trunk from published weights, or from those in the file of this path.
        selected_on: What every choice in training is made on: "validation", or, in a repetition
            of the paper's procedure, "test" or "training". The caller's `load` sees to it.
        trunk: "frozen" to train the head only, on features that the trunk makes once (see
            `transfer`); None to train both.
        probe_epochs: Train the head so long on features of the plain images first, then both from
            its best weights. The best epoch may be one of either stage.
        probe_lr: Learning rate of that first stage; all else is as in `train`.
    """

    data: str
    model: str = "mnist-cnn"
    head: str = "spinal"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)
    data_dir: str | None = None
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    limit: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    neck: str | None = None
    pretrained: bool | str = False
    selected_on: Literal["validation", "test", "training"] = "validation"
    trunk: Literal["frozen"] | None = None
    probe_epochs: int = 0
    probe_lr: float = 3e-3

    def __post_init__(self) -> None:
        if self.trunk == "frozen" and self.train.mix != "none":
            raise InputError(
                "mix mixes images, but a frozen trunk is given every image once: leave out "
                "--freeze or mix."
            )
        if self.probe_epochs:
            check_positive("probe_epochs", self.probe_epochs)
            if not self.pretrained:
                raise InputError(
                    "probe_epochs trains a head on what a network has learned: give it published "
                    "weights or a file of them (--backbone or --weights), or leave it out."
                )
        if self.trunk == "frozen" and (self.probe_epochs or self.train.uses_depth):
            raise InputError(
                "a frozen trunk does not learn: leave out --freeze, or probe_epochs, trunk_lr, "
                "layer_decay, head_epochs, unfreeze_every and keep_statistics."
            )

    @property
    def name(self) -> str:
        """Name of the run's folder within a comparison."""
        return f"{self.head}-seed{self.train.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `config.yaml`."""
        return {**asdict(self), "head_options": dict(self.head_options)} | {
            "train": self.train.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """Read what `to_dict` gave."""
        return cls(**{**values, "train": TrainConfig.from_dict(values["train"])})


@dataclass(frozen=True)
class Comparison:
    """A question: which of these heads is better on this data, over how many seeds?

    Attributes:
        base: The run that all share; its head and seed are replaced in turn.
        heads: Names of heads; the first is compared with each of the others.
        seeds: Number of paired seeds, counted from the seed of `base`.
        other: Fields of a head's runs that differ from `base`, by head; `head_options` for one.
    """

    base: RunSpec
    heads: tuple[str, ...] = ("spinal", "mlp", "matched", "linear")
    seeds: int = 5
    other: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_positive("seeds", self.seeds)
        if not self.heads:
            raise InputError("heads must name at least one head, for example spinal,mlp.")
        for head in self.heads:
            if head not in HEADS:
                raise unknown_name("head", head, HEADS)
        for head in self.other:
            if head not in self.heads:
                raise unknown_name("head with fields of its own", head, self.heads)
        if len(set(self.heads)) < len(self.heads):
            raise InputError(f"heads must differ, got {', '.join(self.heads)}.")

    def specs(self) -> Iterator[RunSpec]:
        """Yield every run, all heads of one seed before the next seed.

        The head options of `base` belong to the first head; the others keep the paper's, unless
        `other` says more.
        """
        first = self.base.train.seed
        for seed in range(first, first + self.seeds):
            for head in self.heads:
                options = self.base.head_options if head == self.heads[0] else {}
                if head == "matched" and self.heads[0] != "matched":
                    options = {"match": self.heads[0], "match_options": self.base.head_options}
                own = {"head_options": options} | dict(self.other.get(head, {}))
                config = replace(self.base.train, seed=seed)
                yield replace(self.base, head=head, train=config, **own)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as they stand in `comparison.yaml`."""
        base = self.base.to_dict()
        first = self.base.train.seed
        return {
            "data": base.pop("data"),
            "model": base.pop("model"),
            "heads": list(self.heads),
            "seeds": list(range(first, first + self.seeds)),
            "epochs": self.base.train.epochs,
            "base": base,
            "other": {head: dict(fields) for head, fields in self.other.items()},
        }

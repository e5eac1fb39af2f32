"""From the request of a run to its data and its network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from spinalnet import _dist
from spinalnet._checks import InputError, unknown_name
from spinalnet.data import build_augment, load
from spinalnet.data.batches import Units
from spinalnet.models import assembly, zoo
from spinalnet.nn import is_own
from spinalnet.nn.heads import head_arguments
from spinalnet.training import placement

if TYPE_CHECKING:
    from spinalnet.comparison.spec import RunSpec
    from spinalnet.data import DatasetInfo, Splits
    from spinalnet.training import TrainConfig


def load_splits(
    spec: RunSpec,
    *,
    constants: tuple[Sequence[float], Sequence[float]] | None = None,
    download: bool | None = None,
    units: Units | None = None,
) -> Splits:
    """Load the data of a run as its network takes them.

    Args:
        spec: The run.
        constants: (mean, std) to normalise by, if not those the network's weights expect.
        download: Whether missing data may be fetched; with False the weights that the network
            starts from may not, either.
        units: (mean, std) of the values of a regression, if not those of its training part.

    Raises:
        InputError: If a name is unknown, the data is missing or unusable, or weights are missing
            that may not be fetched.
    """
    build_augment(spec.train.augment)  # a misspelt step is told now, not in the first epoch
    _check_head_options(spec.model)
    data, expected = assembly.complete(spec.model, spec.data)
    if download is False and spec.model.pretrained is True:
        zoo.check_weights_here(spec.model.name)
    with one_after_another(spec.train):  # a download is for one
        constants = constants or expected
        splits = load(data, spec.train.seed, constants=constants, download=download, units=units)
    if splits.info.task == "regression":
        _refuse_classes(spec.train)
    return splits


def _check_head_options(model: assembly.ModelSpec) -> None:
    """Refuse an option that the head does not have, before the data are read."""
    if is_own(model.head):
        return
    known = [*head_arguments(model.head), *_OF_TWINS]
    for name in model.head_options:
        if name not in known:
            raise unknown_name(f"option of head '{model.head}'", name, known)


_OF_TWINS = ("match", "match_options")  # see `ModelSpec.control`

# What has a meaning for classes alone, and its value that asks for nothing.
_OF_CLASSES = {"label_smoothing": 0.0, "class_weights": "none", "mix": "none"}


def _refuse_classes(config: TrainConfig) -> None:
    asked = [
        f"{n}={getattr(config, n)}" for n, off in _OF_CLASSES.items() if getattr(config, n) != off
    ]
    if asked:
        raise InputError(
            f"{' and '.join(asked)} needs classes, but the targets are numbers: leave it out, or "
            "use task=classification."
        )


def one_after_another(config: TrainConfig) -> AbstractContextManager[None]:
    """Join the job's processes; the main one goes through the block before the others."""
    _dist.connect(placement.resolve_device(config.device))
    return _dist.main_first()


def build_model(spec: RunSpec, info: DatasetInfo) -> assembly.ImageModel:
    """Build the network of a run, initialised from its seed.

    Raises:
        InputError: If it takes images and the data are rows of numbers, or as `create_model`.
    """
    channels, *sides = info.input_shape
    outputs = info.num_classes or 1  # a regression has one
    if not sides and len(zoo.model_row(spec.model.name, outputs).input_shape) > 1:
        raise InputError(
            f"model '{spec.model.name}' takes images, and {info.name} has rows of {channels} "
            "numbers: choose model=regression-net."
        )
    side = sides[0] if sides else None
    return assembly.build(spec.model, outputs, channels, side, seed=spec.train.seed)

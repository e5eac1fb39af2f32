"""TODO(comparison.building): split from experiment."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spinalnet import _dist
from spinalnet.data import batches, catalog, loading
from spinalnet.data.augment import build_augment
from spinalnet.models import zoo
from spinalnet.training import placement

if TYPE_CHECKING:
    from spinalnet.comparison.spec import RunSpec


def load_splits(spec: RunSpec, *, download: bool | None = None) -> batches.Splits:
    """Load the data of a run at a size its model can take.

    Raises:
        InputError: If a name is unknown, the data is missing or unusable.
    """
    row = zoo.model_row(spec.model)
    build_augment(spec.train.augment)  # a misspelt step is told now, not in the first epoch
    size, channels = spec.image_size, spec.in_channels
    known = catalog.DATASETS.get(spec.data)
    is_image = known is None or len(known.image_shape) == 3
    if size is None and row.mean and is_image:
        size = row.input_shape[1]  # a backbone knows what it was trained on
    elif size is None and known is not None and is_image and known.image_shape[1] < row.min_size:
        size = row.input_shape[1]
    if channels is None and row.mean and spec.pretrained:
        channels = 3
    with _one_after_another(spec):  # a download is for one
        splits = loading.load_dataset(
            spec.data,
            spec.data_dir,
            spec.train.seed,
            image_size=size,
            in_channels=channels,
            limit=spec.limit,
            download=download,
            on_bad_image=spec.on_bad_image,
        )
    if not row.mean or not spec.pretrained:
        return splits
    train_part, val, test = (
        part.normalized_by(row.mean, row.std) for part in (splits.train, splits.val, splits.test)
    )
    info = replace(splits.info, mean=row.mean, std=row.std)
    return replace(splits, train=train_part, val=val, test=test, info=info)


def _one_after_another(spec: RunSpec) -> AbstractContextManager[None]:
    """Join the job's processes; the main one goes through the block before the others."""
    _dist.connect(placement.resolve_device(spec.train.device))
    return _dist.main_first()


def build_model(spec: RunSpec, info: batches.DatasetInfo) -> zoo.ImageModel:
    """Build the network of a run, initialised from its seed."""
    channels, *sides = info.input_shape
    return zoo.create_model(
        spec.model,
        info.num_classes or 1,  # a regression has one output
        in_channels=channels,
        input_size=sides[0] if sides else None,
        head=spec.head,
        neck=spec.neck,
        pretrained=spec.pretrained,
        seed=spec.train.seed,
        **spec.head_options,
    )


def describe_model(spec: RunSpec, info: batches.DatasetInfo) -> dict[str, Any]:
    """Return what a checkpoint must carry so that it can be used without anything else."""
    return {
        "model": spec.model,
        "head": spec.head,
        "head_options": dict(spec.head_options),
        "neck": spec.neck,
        "trunk": spec.trunk,
        "task": info.task,
        "class_names": list(info.class_names),
        "input_shape": list(info.input_shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "data": info.name,
        "seed": spec.train.seed,
    }

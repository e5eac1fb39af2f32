"""The parts of a data set as the original had them, and its pictures as the scripts made them."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import torch

from spinalnet._checks import InputError
from spinalnet.comparison import RunSpec
from spinalnet.data import ArrayDataset, DatasetInfo, FolderDataset, Splits, loading, parts
from spinalnet.data.catalog import DatasetRow
from spinalnet.data.order import stratified
from spinalnet.paper.pictures import Pictures
from spinalnet.paper.recipes import Recipe

# What loading says of images that are brought to one size, which these are not.
_OF_LOADING = ("Images are cut to", "Images stream from disk")


def load_originals(
    recipe: Recipe, spec: RunSpec, row: DatasetRow, *, download: bool | None = None
) -> Splits:
    """Load the images of a recipe as they lie, in parts of the original's sizes.

    Args:
        recipe: One with `pictures`.
        spec: The run.
        row: Its data set.
        download: As in `load_dataset`.

    Raises:
        InputError: If the data cannot be had, or are too few for those parts.
    """
    asked = replace(spec.data, image_size=None)
    pool = loading.load_pool(asked, row=row, download=download, memory_budget=0)
    notes = tuple(note for note in pool.info.notes if not note.startswith(_OF_LOADING))
    pool = replace(pool, info=replace(pool.info, notes=notes))
    if recipe.parts:
        pool = _of_sizes(pool, recipe.parts)
    if recipe.validation is not None:
        pool = _every(pool, *recipe.validation)
    return pool.split(spec.data.limit, spec.train.seed, None)


def _noted(pool: parts.Pool, note: str) -> DatasetInfo:
    return replace(pool.info, notes=(*pool.info.notes, note))


def _of_sizes(pool: parts.Pool, sizes: tuple[int, ...]) -> parts.Pool:
    """Draw parts of these sizes (train and test, or train, val and test), if it has not got them.

    The original trained on redistributions whose lists are not part of the data: their sizes are
    all that is known. The draw is the same for every seed, as their parts were.
    """
    brought = [part for part in (pool.train, pool.val, pool.test) if part is not None]
    if tuple(map(len, brought)) == sizes:
        return pool
    whole = reduce(lambda one, other: one.joined(other), brought)  # pyright: ignore[reportArgumentType]  # of one kind
    if len(whole) < sum(sizes):
        raise InputError(
            f"the original's parts hold {sum(sizes):,} images, but '{pool.info.name}' has "
            f"{len(whole):,} here: get the whole data set."
        )
    rest, drawn = torch.arange(len(whole)), []
    for number, size in enumerate(reversed(sizes)):
        picked = torch.arange(len(rest))
        if size < len(rest):
            left = int(number + 1 < len(sizes))  # of each class, for the parts that follow
            key = "original part", number
            picked, _ = stratified(whole.targets[rest], size, *key, keep_train=left)
        drawn.append(rest[picked])
        rest = rest[~torch.isin(torch.arange(len(rest)), picked)]
    test, *val, train = (whole.subset(rows) for rows in drawn)
    named = ", ".join(f"{size:,}" for size in sizes)
    note = (
        f"Parts of the original's sizes ({named}), drawn by class from all {len(whole):,} images: "
        "which image lay in which of its parts is not known."
    )
    return replace(
        pool, train=train, val=val[0] if val else None, test=test, info=_noted(pool, note)
    )


def _every(pool: parts.Pool, step: int, first: int) -> parts.Pool:
    """Validate on every `step`-th training image, from `first` on, as the notebooks do."""
    numbers = torch.arange(len(pool.train))
    chosen = numbers % step == first
    note = (
        f"Validation is every {step}th training image from number {first} on, as in the original, "
        "the same for every seed."
    )
    return replace(
        pool,
        train=pool.train.subset(numbers[~chosen]),
        val=pool.train.subset(numbers[chosen]),
        info=_noted(pool, note),
    )


def as_pictures(recipe: Recipe, splits: Splits) -> Splits:
    """Send the pictures of all parts through the transforms of the original's script."""
    assert recipe.pictures is not None
    assert recipe.image_size is not None
    train, test = recipe.pictures
    channels, side = splits.info.input_shape[0], recipe.image_size
    note = f"Transforms as in the original: {train} in training, {test} in validation and test."
    info = replace(
        splits.info, input_shape=(channels, side, side), notes=(*splits.info.notes, note)
    )

    def of(part: ArrayDataset | FolderDataset) -> Pictures:
        return Pictures(part, train, test, channels, side)

    made = {name: of(getattr(splits, name)) for name in ("train", "val", "test")}
    return replace(splits, **made, info=info)

"""Frozen trunks: features are computed once, kept on disk, and heads are trained on them.

A frozen trunk in evaluation mode makes the same features of an image in every epoch, so there is
no reason to compute them twice. They are kept under a key of the weights, the images and what is
done to the images; all heads, and all seeds (whose validation parts are other choices from the same
images), share one file. A file appears whole or not at all, so runs side by side are safe: at worst
they compute the same features twice.

With augmentation there are several *views* of the training images; epoch `e` sees view
`e mod views`. They are drawn once, the same for every seed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.data import ArrayDataset, FolderDataset, Splits
from spinalnet.data.augment import STREAM
from spinalnet.data.images import RECIPE

TRUNK_FILE = "trunk.safetensors"  # beside the head's `model.safetensors` in a run folder
AUGMENTED_VIEWS = 8  # more cost a pass over the images each; a head sees little new in them


class FeatureDataset:
    """Features in memory, one view of them per epoch; a `BatchSource`.

    Args:
        views: Shape `(V, N, F)`.
        targets: Class indices, `(N,)`.
    """

    def __init__(self, views: Tensor, targets: Tensor) -> None:
        self.targets = targets
        self._views = [ArrayDataset(view, targets) for view in views]

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self,
        batch_size: int,
        *,
        device: str | torch.device = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        augment: str = "none",
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features `(B, F)` and targets `(B,)`; `augment` is in the features already."""
        view = self._views[epoch % len(self._views)]
        return view.batches(batch_size, device=device, shuffle=shuffle, seed=seed, epoch=epoch)


@dataclass(frozen=True)
class FeatureSplits:
    """The three parts of a data set as features."""

    train: FeatureDataset
    val: FeatureDataset
    test: FeatureDataset


def frozen_splits(
    trunk: nn.Module,
    splits: Splits,
    *,
    augment: str = "none",
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    cache: str | os.PathLike[str] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> FeatureSplits:
    """Return the features that `trunk` makes of a data set, from the cache if they are there.

    Args:
        trunk: Maps images to features `(B, F)`; put in evaluation mode and moved to `device`.
        splits: The images.
        augment: Augmentation of the training images; see `augment.build_augment`.
        device: Where features are computed.
        batch_size: Images per forward pass.
        cache: Folder of the cache; by default the user's.
        on_batch: Called with (images done, images in all) while features are computed.
    """
    parts = (splits.train, splits.val, splits.test)
    trunk = trunk.to(device).eval()
    folder = files.cache_folder("features") if cache is None else Path(cache)
    base = trunk_key(trunk), str(torch.device(device).type), torch.__version__
    transform = (splits.info.input_shape, splits.train.mean, splits.train.std)
    keys = [_sample_keys(part) for part in parts]

    def views(pool: tuple[int, ...], augment: str, count: int) -> tuple[dict[bytes, int], Tensor]:
        """Return the place of every image of these parts, and the features `(V, M, F)`."""
        order = sorted({key for part in pool for key in keys[part]})
        how = augment if augment == "none" else f"{augment} #{STREAM}"
        name = _digest(*map(repr, (*base, *transform, how, count)), *order)

        def compute() -> dict[str, Tensor]:
            images = _joined([parts[part] for part in pool])
            first = {key: i for i, key in enumerate(k for part in pool for k in keys[part])}
            rows = images.subset(torch.tensor([first[key] for key in order]))
            total = count * len(order)
            made: list[Tensor] = []
            for view in range(count):
                for inputs, _ in rows.batches(
                    batch_size, device=device, epoch=view, augment=augment
                ):
                    made.append(trunk(inputs).float().cpu())
                    if on_batch is not None:
                        on_batch(sum(map(len, made)), total)
            features = torch.cat(made)
            return {"features": features.view(count, len(order), -1)}

        with torch.no_grad():
            held = _kept(folder / f"features-{name}.safetensors", compute)
        return {key: i for i, key in enumerate(order)}, held["features"]

    plain, features = views((0, 1, 2), "none", 1)
    learned, learned_features = plain, features
    if augment != "none":
        learned, learned_features = views((0, 1), augment, AUGMENTED_VIEWS)

    def dataset(part: int, places: Mapping[bytes, int], features: Tensor) -> FeatureDataset:
        rows = torch.tensor([places[key] for key in keys[part]])
        return FeatureDataset(features[:, rows], parts[part].targets)

    return FeatureSplits(
        dataset(0, learned, learned_features),
        dataset(1, plain, features),
        dataset(2, plain, features),
    )


def keep_trunk(
    trunk: nn.Module, run: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None
) -> None:
    """Put the weights of a frozen trunk into a run folder, so that it needs nothing else.

    Runs with the same trunk share one file on the disk, where it can have several names.
    """
    target = Path(run) / TRUNK_FILE
    if target.exists():
        return
    folder = files.cache_folder("features") if cache is None else Path(cache)
    source = folder / f"trunk-{trunk_key(trunk)}.safetensors"
    _kept(source, lambda: {f"trunk.{name}": value for name, value in trunk.state_dict().items()})
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without such links
        shutil.copyfile(source, target)


def load_trunk(run: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the weights that `keep_trunk` put into a run folder, under names of the whole model.

    Raises:
        InputError: If they are not there.
    """
    path = Path(run) / TRUNK_FILE
    try:
        return files.read_weights(path)
    except InputError as error:
        raise InputError(
            f"{path} is missing or damaged: it holds the frozen trunk of the run; copy the whole "
            "folder of the run."
        ) from error


# --- keys -----------------------------------------------------------------------------------------


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def trunk_key(trunk: nn.Module) -> str:
    """Return a key of a trunk: its modules as they print, and every number of its state."""
    parts: list[str | bytes] = [repr(trunk)]
    for name, value in trunk.state_dict().items():
        parts += [name, str(value.dtype), str(tuple(value.shape)), _bytes(value)]
    return _digest(*parts)


# Hashing the images of a large set takes seconds, and a comparison asks once per head.
_KNOWN: weakref.WeakKeyDictionary[Any, list[bytes]] = weakref.WeakKeyDictionary()


def _sample_keys(part: ArrayDataset | FolderDataset) -> list[bytes]:
    """Return a key of every sample, equal for equal images wherever they stand."""
    if part not in _KNOWN:
        if isinstance(part, ArrayDataset):
            _KNOWN[part] = [
                hashlib.blake2b(_bytes(row), digest_size=16).digest() for row in part.inputs
            ]
        else:
            _KNOWN[part] = [_file_key(path) for path in part.paths]
    return _KNOWN[part]


def _file_key(path: str) -> bytes:
    """Return a key of the pixels of an image file, which changes with the file, without reading it.

    Pixels depend on how files are read too, so the recipe of that is in the key.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise InputError(f"image '{path}' cannot be read: {error.strerror}.") from error
    file = f"{Path(path).resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    text = f"{RECIPE}\0{file}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _joined(parts: list[Any]) -> Any:
    """Return the samples of all parts, one part after the other."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    return whole


# --- files ----------------------------------------------------------------------------------------


def _kept(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a file of the cache; compute and write them if need be."""
    with contextlib.suppress(InputError):  # missing or damaged
        return files.read_weights(path)
    made = {name: value.detach().cpu().contiguous() for name, value in compute().items()}
    try:
        files.save_weights(path, made)
    except InputError as error:
        raise InputError(f"{error} (XDG_CACHE_HOME says where the cache is.)") from error
    return made

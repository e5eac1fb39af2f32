"""Frozen trunks: features are computed once, kept on disk, and heads are trained on them.

A frozen trunk in evaluation mode makes the same features of an image in every epoch, so there is
no reason to compute them twice. They are kept image by image, in a folder whose name is a key of
the weights, of what is done to the images, and of the engine that computes; all heads, seeds and
limits share them, and images that are added are the only ones to be computed.

With augmentation there are several *views* of the training images; epoch `e` sees view
`e mod views`. They are drawn once, the same for every seed, and depend on the image alone.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.data import ArrayDataset, FolderDataset, Splits
from spinalnet.data.augment import STREAM
from spinalnet.data.images import RECIPE, usable_cpus
from spinalnet.data.order import stream_seed
from spinalnet.models import head_steps
from spinalnet.models.engines import Unfit, engines
from spinalnet.models.extracting import Asked, Extracting
from spinalnet.models.stored import KEY_BYTES, FeatureStore
from spinalnet.training.learner import ModelLearner
from spinalnet.training.loop import Progress

if TYPE_CHECKING:
    from spinalnet.training.config import TrainConfig
    from spinalnet.training.placement import Data

_Part = ArrayDataset | FolderDataset

TRUNK_FILE = "trunk.safetensors"  # beside the head's `model.safetensors` in a run folder
AUGMENTED_VIEWS = 8  # more cost a pass over the images each; a head sees little new in them


class FeatureDataset:
    """Features in memory, one view of them per epoch; a `BatchSource`.

    Args:
        views: Features `(N, F)` of each view.
        targets: Class indices, `(N,)`.
    """

    def __init__(self, views: Sequence[Tensor], targets: Tensor) -> None:
        self.targets = targets
        self._views = [ArrayDataset(view, targets) for view in views]

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, indices: Tensor) -> FeatureDataset:
        """Return the samples at `indices` as a data set of their own."""
        return FeatureDataset([view.inputs[indices] for view in self._views], self.targets[indices])

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
        first: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features `(B, F)` and targets `(B,)`; `augment` is in the features already."""
        view = self._views[epoch % len(self._views)]
        return view.batches(
            batch_size,
            device=device,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            first=first,
            share=share,
        )

    def learner(self, model: nn.Module, val: Data, config: TrainConfig) -> ModelLearner:
        """Return how `fit` trains a head on these features: by compiled steps where it can."""
        rows = [(view.inputs.float(), view.targets) for view in self._views]  # no copy, mostly
        if head_steps.why_not(model, config, rows[0]) is not None:
            return ModelLearner(model, self, val, config)
        return head_steps.HeadLearner(model, rows, self, val, config)


@dataclass(frozen=True)
class FeatureSplits:
    """The three parts of a data set as features, all made by one engine."""

    train: FeatureDataset
    val: FeatureDataset
    test: FeatureDataset
    engine: str  # row of `engines.ENGINES`


def frozen_splits(
    trunk: nn.Module,
    splits: Splits,
    *,
    augment: str = "none",
    device: str | torch.device = "cpu",
    engine: str = "auto",
    threads: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> FeatureSplits:
    """Return the features that `trunk` makes of a data set, computing those not in the cache.

    Args:
        trunk: Maps images to features `(B, F)`; put in evaluation mode and moved to `device`.
        splits: The images.
        augment: Augmentation of the training images; see `augment.build_augment`.
        device: Where features are computed.
        engine: What computes them, a row of `engines.ENGINES`; "auto" for the first that
            fits and computes in full precision. All features of one call come from one engine.
        threads: Batches that are read and computed at once; by default one per processor.
        cache: Folder of the cache; by default the user's.
        on_progress: Called while features are computed, with phase "features": steps are images,
            and the note is a sentence.

    Raises:
        InputError: If an image cannot be read or the cache cannot be written.
    """
    trunk = trunk.to(device).eval()
    folder = files.cache_folder("features") if cache is None else files.expanded(cache)
    samples = _Samples((splits.train, splits.val, splits.test))
    learned, everything = (_unique(samples.keys[:count]) for count in (2, 3))
    views = range(0 if augment == "none" else AUGMENTED_VIEWS)
    total = len(everything) + len(views) * len(learned)
    transform = splits.info.input_shape, splits.train.mean, splits.train.std
    of_trunk = trunk_key(trunk)
    for way in engines(torch.device(device), splits.info.input_shape, total, engine):
        base = (of_trunk, way.key, *map(repr, transform))
        unfit = folder / f"unfit-{_digest(*base)}.txt"
        if unfit.exists():
            continue

        def asked(
            augment: str, view: int, keys: list[bytes], base: tuple[str, ...] = base
        ) -> Asked:
            how = augment if augment == "none" else f"{augment} #{STREAM} view {view}"
            store = FeatureStore(folder / _digest(*base, how))
            return store, keys, samples.reader(augment, view, device)

        wanted = [asked("none", 0, everything), *(asked(augment, view, learned) for view in views)]
        extracting = Extracting(trunk, way, threads or usable_cpus(), on_progress)
        try:
            plain, *seen = extracting.features(wanted)
        except Unfit as error:
            files.write_text(unfit, f"{error}\n")  # so that it is tried once
            continue
        return samples.as_features(everything, plain, learned, seen, way.name)
    raise AssertionError("the last engine fits every trunk")


class _Samples:
    """The images of the three parts by their keys."""

    def __init__(self, parts: tuple[_Part, _Part, _Part]) -> None:
        self.parts = tuple(copy.copy(part) for part in parts)
        for part in self.parts:
            if isinstance(part, FolderDataset):
                part.num_workers = 0  # who computes a batch reads it
        self.keys = [_sample_keys(part) for part in parts]
        self._places = {
            key: (part, row)
            for part in reversed(range(len(parts)))
            for row, key in reversed(list(enumerate(self.keys[part])))
        }

    def reader(
        self, augment: str, view: int, device: str | torch.device
    ) -> Callable[[Sequence[bytes]], Tensor]:
        """Return what reads images `(n, C, H, W)`, normalised, as they are or in a view."""

        def read(keys: Sequence[bytes]) -> Tensor:
            pieces = []
            for part, group in itertools.groupby((self._places[key] for key in keys), _first):
                chosen = self.parts[part].subset(torch.tensor([row for _, row in group]))
                pieces += [x for x, _ in chosen.batches(len(chosen), device=device)]
            return torch.cat(pieces)

        def draw(keys: Sequence[bytes]) -> Tensor:
            # What is drawn depends on the image alone, not on others that are read with it.
            pieces = []
            for key in keys:
                part, row = self._places[key]
                image, seed = self.parts[part].subset(torch.tensor([row])), key.hex()
                drawn = stream_seed("view", seed)
                with _DRAWING:
                    options = {"device": device, "seed": drawn, "epoch": view}
                    pieces += [x for x, _ in image.batches(1, augment=augment, **options)]
            return torch.cat(pieces)

        return read if augment == "none" else draw

    def as_features(
        self,
        everything: list[bytes],
        plain: Tensor,
        learned: list[bytes],
        views: list[Tensor],
        engine: str,
    ) -> FeatureSplits:
        """Return the parts with features in place of images."""
        places = {key: row for row, key in enumerate(everything)}
        in_views = {key: row for row, key in enumerate(learned)}

        def dataset(part: int, augmented: bool) -> FeatureDataset:
            of = in_views if augmented else places
            rows = torch.tensor([of[key] for key in self.keys[part]], dtype=torch.int64)
            chosen = views if augmented else [plain]
            return FeatureDataset([view[rows] for view in chosen], self.parts[part].targets)

        return FeatureSplits(
            dataset(0, bool(views)), dataset(1, False), dataset(2, False), engine=engine
        )


# Some augmentations draw from torch's global generator, which threads share.
_DRAWING = threading.Lock()


def keep_trunk(
    trunk: nn.Module, run: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None
) -> None:
    """Put the weights of a frozen trunk into a run folder, so that it needs nothing else.

    Where the disk can, the runs of one trunk share the bytes of one file; each has a file of its
    own, so that what happens to one does not happen to the others.
    """
    target = Path(run) / TRUNK_FILE
    weights = {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    if target.exists() and _holds(target, weights):
        return
    folder = files.cache_folder("features") if cache is None else files.expanded(cache)
    source = folder / f"trunk-{trunk_key(trunk)}.safetensors"
    if not _holds(source, weights):
        with files.writing_cache():
            files.save_weights(source, weights)
    files.clone(source, target)


def load_trunk(run: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the weights that `keep_trunk` put into a run folder, under names of the whole model.

    Raises:
        InputError: If they are not there.
    """
    path = Path(run) / TRUNK_FILE
    try:
        return files.load_weights(path)[0]
    except files.DamagedFile:
        raise
    except InputError as error:
        raise InputError(
            f"{path} is missing or damaged: it holds the frozen trunk of the run; copy the whole "
            "folder of the run."
        ) from error


# --- keys -----------------------------------------------------------------------------------------


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
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
                hashlib.blake2b(_bytes(row), digest_size=KEY_BYTES).digest() for row in part.inputs
            ]
        else:
            scale = "" if part.pixel_range is None else f"\0{part.pixel_range}"
            _KNOWN[part] = [_file_key(path, scale) for path in part.paths]
    return _KNOWN[part]


@functools.lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    """Return where a folder really lies; asking that of every file takes seconds in large sets."""
    return str(Path(folder).resolve()).rstrip(os.sep)


def _file_key(path: str, scale: str) -> bytes:
    """Return a key of the pixels of an image file, which changes with the file, without reading it.

    Pixels depend on how files are read too, so the recipe of that and the scale are in the key.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 (a Path per file costs more than the call)
    except OSError as error:
        raise InputError(f"image '{path}' cannot be read: {error.strerror}.") from error
    folder, name = os.path.split(path)
    real = str(Path(path).resolve()) if os.path.islink(path) else f"{_real(folder)}{os.sep}{name}"  # noqa: PTH114
    file = f"{real}\0{status.st_size}\0{status.st_mtime_ns}"
    text = f"{RECIPE}{scale}\0{file}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def _unique(parts: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Return every key once, in the order of the parts."""
    return list(dict.fromkeys(itertools.chain.from_iterable(parts)))


def _first(place: tuple[int, int]) -> int:
    return place[0]


# --- files ----------------------------------------------------------------------------------------


def _holds(path: Path, weights: dict[str, Tensor]) -> bool:
    """Return whether a file is there, whole, and holds these weights."""
    try:
        found, _ = files.load_weights(path)
    except InputError:  # missing or damaged
        return False
    return found.keys() == weights.keys() and all(
        torch.equal(value, weights[name].detach().cpu()) for name, value in found.items()
    )

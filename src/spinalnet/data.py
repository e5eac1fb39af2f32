"""Data sets: where they are found, how they are split, and how batches leave them.

`load_dataset` returns `Splits(train, val, test, info)`. Validation always comes from the training
data, by a stratified, seeded split; the test set is the same for every seed. Small data sets stay
on the device as uint8 tensors (`ArrayDataset`); a folder of images that does not fit the memory
budget streams from disk (`FolderDataset`) behind the same `batches` iterator. Order and
augmentation are pure functions of (seed, epoch, batch index), so a resumed run, and both members
of a pair, see the same batches.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.augment import build_augment

# --- what a data set is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetInfo:
    """What a model, a checkpoint and a report need to know about a data set.

    Attributes:
        name: Name in `DATASETS`, or the folder's own name.
        task: `"classification"` or `"regression"`.
        class_names: Class names in label order; empty for regression.
        input_shape: Shape of one sample, `(C, H, W)` for images, `(F,)` for tables.
        mean: Mean per channel on the 0..1 scale, subtracted from every batch.
        std: Standard deviation per channel on the 0..1 scale.
        notes: Sentences the user must see, such as a limit or an unusual split.
    """

    name: str
    task: Literal["classification", "regression"]
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes (0 for regression)."""
        return len(self.class_names)


@runtime_checkable
class BatchSource(Protocol):
    """Anything `fit` and `evaluate` can draw batches from."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

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
        """Yield every sample once as normalised inputs `(B, ...)` and targets `(B,)`."""
        ...


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; `test` is for one final evaluation only."""

    train: BatchSource
    val: BatchSource
    test: BatchSource
    info: DatasetInfo


# --- batches --------------------------------------------------------------------------------------


def _stream_seed(*key: int | str) -> int:
    """Return a 63-bit seed that differs, without patterns, for every key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _order(num_samples: int, shuffle: bool, seed: int, epoch: int) -> Tensor:
    """Return the order of one epoch; drawn on the CPU so that it is the same on every device."""
    if not shuffle:
        return torch.arange(num_samples)
    generator = torch.Generator().manual_seed(_stream_seed("order", seed, epoch))
    return torch.randperm(num_samples, generator=generator)


def _batch_slices(num_samples: int, batch_size: int, shuffle: bool) -> list[slice]:
    """Cut an epoch into batches of `batch_size`; the last one may be smaller."""
    check_positive("batch_size", batch_size)
    starts = list(range(0, num_samples, batch_size))
    # A single left-over sample has no variance, and batch norm cannot train on it: while
    # shuffling (training) it joins the batch before.
    if shuffle and batch_size > 1 and len(starts) > 1 and num_samples - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num_samples], strict=True)]


def normalize(inputs: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return `(inputs - mean) / std` as float32.

    Args:
        inputs: Shape `(B, C, ...)`; uint8 is first brought to the 0..1 scale.
        mean: One value per channel, on the 0..1 scale; empty for no normalisation.
        std: One value per channel; empty for no normalisation.
    """
    inputs = inputs.float() / 255 if inputs.dtype == torch.uint8 else inputs.float()
    if not mean:
        return inputs
    shape = (-1,) + (1,) * (inputs.ndim - 2)
    centre = torch.tensor(mean, device=inputs.device).view(shape)
    scale = torch.tensor(std, device=inputs.device).view(shape)
    return (inputs - centre).div_(scale)


def _finish(
    inputs: Tensor, mean: Sequence[float], std: Sequence[float], augment: str, key: tuple[int, ...]
) -> Tensor:
    """Augment (before normalisation, so that fill is black) and normalise one batch."""
    if augment != "none":
        generator = torch.Generator(inputs.device).manual_seed(_stream_seed("augment", *key))
        inputs = build_augment(augment)(inputs, generator)
    return normalize(inputs, mean, std)


class ArrayDataset:
    """Samples that live on the device: uint8 images or float features.

    Args:
        inputs: Images, uint8 or float, shape `(N, C, H, W)`; or features, float, `(N, F)`.
        targets: Class indices (int64) or regression targets (float), `N` rows.
        mean: Mean per channel or feature (uint8 images: on the 0..1 scale); empty for none.
        std: Standard deviation per channel or feature; empty for none.

    Raises:
        InputError: If the lengths differ, or `mean` and `std` do not fit the inputs.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
    ) -> None:
        if len(inputs) != len(targets):
            raise InputError(
                f"inputs and targets must have the same length, got {len(inputs)} and "
                f"{len(targets)}."
            )
        if inputs.ndim < 2:
            raise InputError(f"inputs must be (N, F) or (N, C, H, W), got {tuple(inputs.shape)}.")
        if len(mean) != len(std) or (mean and len(mean) not in (1, inputs.shape[1])):
            raise InputError(
                f"mean and std must have one value per channel ({inputs.shape[1]}), got "
                f"{len(mean)} and {len(std)}."
            )
        self.inputs = inputs
        self.targets = targets if targets.is_floating_point() else targets.long()
        self.mean = tuple(mean)
        self.std = tuple(std)
        self._on_device: tuple[torch.device, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices` as a data set of their own."""
        return ArrayDataset(self.inputs[indices], self.targets[indices], self.mean, self.std)

    def _resident(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return inputs and targets on `device`, moved at the first call only."""
        if self._on_device is None or self._on_device[0] != device:
            self._on_device = (device, self.inputs.to(device), self.targets.to(device))
        return self._on_device[1:]

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
        """Yield every sample once; order and augmentation depend on (seed, epoch) alone.

        Args:
            batch_size: Samples per batch. The last batch may be smaller; with `shuffle`, a
                single left-over sample joins the batch before it.
            device: Where the samples live and the batches are made.
            shuffle: Whether to draw a new order for this epoch.
            seed: Seed of order and augmentation.
            epoch: Epoch number, part of both streams.
            augment: Augmentation spec, see `spinalnet.augment.build_augment`.
            channels_last: Whether image batches get the channels-last memory format.

        Yields:
            Inputs, float32, normalised, `(B, C, H, W)` or `(B, F)`; targets, `(B,)`.
        """
        inputs, targets = self._resident(torch.device(device))
        order = _order(len(self), shuffle, seed, epoch).to(inputs.device) if shuffle else None
        for number, rows in enumerate(_batch_slices(len(self), batch_size, shuffle)):
            index = rows if order is None else order[rows]
            x = _finish(inputs[index], self.mean, self.std, augment, (seed, epoch, number))
            if channels_last and x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, targets[index]


# --- stratified choice ----------------------------------------------------------------------------


def _stratified(
    targets: Tensor, total: int, *key: int | str, keep_one: bool
) -> tuple[Tensor, Tensor]:
    """Pick about `total` indices with every class in proportion; return (picked, rest), sorted.

    Every class gives at least one sample, and with `keep_one` keeps at least one.
    """
    generator = torch.Generator().manual_seed(_stream_seed(*key))
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = shuffled[torch.argsort(targets[shuffled], stable=True)]
    _, counts = torch.unique(targets, return_counts=True)
    most = counts - 1 if keep_one else counts
    ideal = counts.double() * total / len(targets)
    quota = torch.minimum(ideal.floor().long().clamp(min=1), most)
    while quota.sum() < min(total, int(most.sum())):  # the largest remainders get what is left
        quota[torch.where(quota < most, ideal - quota, -torch.inf).argmax()] += 1
    while quota.sum() > max(total, len(counts)):
        quota[torch.where(quota > 1, ideal - quota, torch.inf).argmin()] -= 1
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(targets)) - torch.repeat_interleave(starts, counts)
    chosen = rank < torch.repeat_interleave(quota, counts)
    return by_class[chosen].sort().values, by_class[~chosen].sort().values


# --- named data sets ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetSpec:
    """One row of `DATASETS`: a data set of grey images and all that is particular to it.

    Attributes:
        name: The name given to `load_dataset`.
        summary: One line for lists.
        class_names: Class names in label order.
        image_shape: `(C, H, W)` as stored.
        mean: Mean per channel of the training images on the 0..1 scale.
        std: Standard deviation per channel of the training images on the 0..1 scale.
        sizes: Number of training and test images.
        source: Where the data comes from.
        torchvision_name: The torchvision class that downloads it; `None` if bundled.
        torchvision_options: Further arguments of that class.
        prefixes: How the names of the training and the test files begin.
        label_suffix: How the names of the label files end.
        first_label: The label of class 0 in the files.
        transposed: Whether images are stored with rows and columns exchanged; if so they are put
            upright. `dataclasses.replace(spec, transposed=False)` keeps them as stored.
        val_fraction: Share of the training images used for validation.
        system_dirs: Folders searched when no `data_dir` is given (operating system packages).
        hint: A further way to get the data, told when it is missing.
    """

    name: str
    summary: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: tuple[int, int]
    source: str
    torchvision_name: str | None = None
    torchvision_options: tuple[tuple[str, Any], ...] = ()
    prefixes: tuple[str, str] = ("train", "t10k")
    label_suffix: str = "labels-idx1-ubyte"
    first_label: int = 0
    transposed: bool = False
    val_fraction: float = 0.1
    system_dirs: tuple[str, ...] = ()
    hint: str = ""


_DIGITS = tuple("0123456789")
_UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_EMNIST_SOURCE = "Cohen et al., EMNIST, arXiv:1702.05373"


def _emnist(
    split: str,
    summary: str,
    class_names: tuple[str, ...],
    mean: float,
    std: float,
    sizes: tuple[int, int],
    first_label: int = 0,
) -> DatasetSpec:
    """Return the row of one EMNIST split."""
    return DatasetSpec(
        name=f"emnist-{split}",
        summary=summary,
        class_names=class_names,
        image_shape=(1, 28, 28),
        mean=(mean,),
        std=(std,),
        sizes=sizes,
        source=_EMNIST_SOURCE,
        torchvision_name="EMNIST",
        torchvision_options=(("split", split),),
        prefixes=(f"emnist-{split}-train", f"emnist-{split}-test"),
        first_label=first_label,
        transposed=True,
    )


# How the constants were obtained: "computed" = mean and standard deviation over all pixels of all
# training images, from the files; "published" = the figure in common use, not recomputed.
DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="digits",
            summary="8x8 handwritten digits bundled with scikit-learn",
            class_names=_DIGITS,
            image_shape=(1, 8, 8),
            mean=(0.3058,),  # computed on all that is not the fixed test part
            std=(0.3764,),
            sizes=(1438, 359),
            source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI)",
            val_fraction=0.15,  # few images: a tenth would leave 14 per class
        ),
        DatasetSpec(
            name="mnist",
            summary="28x28 handwritten digits",
            class_names=_DIGITS,
            image_shape=(1, 28, 28),
            mean=(0.1307,),  # computed: 0.13066, 0.30811
            std=(0.3081,),
            sizes=(60_000, 10_000),
            source="LeCun, Cortes and Burges, The MNIST database",
            torchvision_name="MNIST",
        ),
        DatasetSpec(
            name="fashion-mnist",
            summary="28x28 photographs of clothing",
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            image_shape=(1, 28, 28),
            mean=(0.2860,),  # computed: 0.28604, 0.35302
            std=(0.3530,),
            sizes=(60_000, 10_000),
            source="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747",
            torchvision_name="FashionMNIST",
            system_dirs=("/usr/share/datasets/fashion-mnist",),
            hint="on Debian, the package dataset-fashion-mnist also holds it",
        ),
        DatasetSpec(
            name="kmnist",
            summary="28x28 cursive Japanese characters",
            class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            image_shape=(1, 28, 28),
            mean=(0.1918,),  # published
            std=(0.3483,),
            sizes=(60_000, 10_000),
            source="Clanuwat et al., Kuzushiji-MNIST, arXiv:1812.01718",
            torchvision_name="KMNIST",
        ),
        DatasetSpec(
            name="qmnist",
            summary="MNIST with its full test set of 60,000 digits",
            class_names=_DIGITS,
            image_shape=(1, 28, 28),
            mean=(0.1307,),  # its training images are MNIST's, so are the constants
            std=(0.3081,),
            sizes=(60_000, 60_000),
            source="Yadav and Bottou, Cold Case: the Lost MNIST Digits, arXiv:1905.10498",
            torchvision_name="QMNIST",
            prefixes=("qmnist-train", "qmnist-test"),
            label_suffix="labels-idx2-int",
        ),
        # EMNIST: all published.
        _emnist("digits", "28x28 handwritten digits", _DIGITS, 0.1733, 0.3317, (240_000, 40_000)),
        _emnist(
            "letters",
            "28x28 handwritten letters, both cases merged",
            _UPPER,
            0.1722,
            0.3309,
            (124_800, 20_800),
            first_label=1,
        ),
        _emnist(
            "balanced",
            "28x28 handwritten digits and letters, similar cases merged",
            (*_DIGITS, *_UPPER, *"abdefghnqrt"),
            0.1751,
            0.3332,
            (112_800, 18_800),
        ),
    )
}


def list_datasets() -> list[str]:
    """Return the names `load_dataset` knows besides folders of images."""
    return list(DATASETS)


def _read_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scikit-learn's digits as (train images, labels, test images, labels)."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # 16 grey levels plus zero become 0..255.
    images = (torch.as_tensor(bunch.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    targets = torch.as_tensor(bunch.target).long()
    # The set has no test part of its own: a fifth is set apart, the same one for every seed.
    test, train = _stratified(targets, round(0.2 * len(targets)), "digits test", keep_one=True)
    return images[train], targets[train], images[test], targets[test]


def _read_idx(path: Path) -> Tensor:
    """Read an IDX file, gzipped or not, of bytes or 32-bit integers."""
    import numpy as np

    types = {0x08: np.dtype("u1"), 0x0C: np.dtype(">i4")}
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, rank = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{rank}I", raw, 4)
        values = np.frombuffer(raw, types[kind], offset=4 + 4 * rank).reshape(shape)
        if zero != 0:
            raise ValueError("bad magic number")
    except PermissionError as error:
        raise InputError(f"'{path}' cannot be read: permission denied.") from error
    except (OSError, EOFError, ValueError, KeyError, struct.error) as error:
        raise InputError(
            f"'{path}' is not a complete IDX file; delete it and fetch the data again."
        ) from error
    native = values.astype(values.dtype.newbyteorder("="))
    return torch.from_numpy(native)


def _find_idx(spec: DatasetSpec, folders: Iterable[Path]) -> list[Path] | None:
    """Return the four files (images and labels of train and test) from the first full folder."""
    names = [
        f"{p}-{kind}" for p in spec.prefixes for kind in ("images-idx3-ubyte", spec.label_suffix)
    ]
    for folder in folders:
        found = [p for n in names for p in (folder / n, folder / f"{n}.gz") if p.is_file()]
        by_name = {p.name.removesuffix(".gz"): p for p in reversed(found)}
        if len(by_name) == len(names):
            return [by_name[name] for name in names]
    return None


def _download(spec: DatasetSpec, root: Path) -> None:
    """Fetch and check the files of a data set with torchvision's own downloader."""
    from torchvision import datasets

    make: Callable[..., Any] = getattr(datasets, str(spec.torchvision_name))
    for train in (True, False):
        try:
            make(root, train=train, download=True, **dict(spec.torchvision_options))
        except (OSError, RuntimeError) as error:  # URLError is an OSError
            hint = f"; {spec.hint}" if spec.hint else ""
            reason = str(error).splitlines()[0]
            raise InputError(
                f"downloading '{spec.name}' to '{root}' failed ({reason}); check the network, or "
                f"copy its IDX files there and pass that folder as data_dir (--data-dir){hint}."
            ) from error


def _default_cache() -> Path:
    """Return the package's own data folder, where downloads go unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spinalnet" / "data"


def _read_idx_dataset(
    spec: DatasetSpec, data_dir: Path | None, download: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find, or download, and read a data set kept in IDX files."""
    root = data_dir or _default_cache()
    name = str(spec.torchvision_name)
    below = [root, root / "raw", root / name / "raw"]
    folders = below if data_dir else [*below, *map(Path, spec.system_dirs)]
    files = _find_idx(spec, folders)
    if files is None and download:
        _download(spec, root)
        files = _find_idx(spec, folders)
    if files is None:
        hint = f"; {spec.hint}" if spec.hint else ""
        raise InputError(
            f"no files of '{spec.name}' found in {', '.join(map(str, folders))}; pass the "
            f"folder that holds its IDX files (--data-dir), or download it (--download){hint}."
        )
    parts = [_read_idx(file) for file in files]
    for k in (0, 2):
        images, labels = parts[k], parts[k + 1]
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: class, then its origin
        if images.ndim != 3 or len(images) != len(labels) or len(images) == 0:
            raise InputError(
                f"'{files[k]}' and '{files[k + 1]}' must hold the same number of images and "
                f"labels, got shapes {tuple(images.shape)} and {tuple(labels.shape)}."
            )
        labels = labels.long() - spec.first_label
        if labels.min() < 0 or labels.max() >= len(spec.class_names):
            raise InputError(
                f"'{files[k + 1]}' must hold labels of {len(spec.class_names)} classes from "
                f"{spec.first_label} on; these are not the files of '{spec.name}'."
            )
        if spec.transposed:
            images = images.transpose(1, 2)
        parts[k], parts[k + 1] = images[:, None].contiguous(), labels
    return parts[0], parts[1], parts[2], parts[3]


# --- images of any size ---------------------------------------------------------------------------


def _fit_to(images: Tensor, size: int) -> Tensor:
    """Bring uint8 images `(..., C, H, W)` to `size` x `size`.

    The shorter side is resized (bilinear, antialiased) and the centre cut out: the shape of things
    is kept, where stretching both sides would turn circles into ellipses, and every image comes
    out in the same size whatever its format.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images
    short = min(height, width)
    target = (max(size, round(height * size / short)), max(size, round(width * size / short)))
    batch = images if images.ndim == 4 else images[None]
    resized = torch.cat(
        [functional.interpolate(part, target, mode="bilinear", antialias=True)
         for part in batch.split(4096)]
    )  # fmt: skip
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    cut = resized[..., top : top + size, left : left + size]
    return cut.contiguous() if images.ndim == 4 else cut[0].contiguous()


# --- the door -------------------------------------------------------------------------------------


def _val_fraction(value: float) -> float:
    """Check the share of training images used for validation."""
    if not 0.0 < value < 1.0:
        raise InputError(f"val_fraction must be between 0 and 1 (both excluded), got {value!r}.")
    return value


def load_dataset(
    spec: str | os.PathLike[str] | DatasetSpec,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    *,
    image_size: int | None = None,
    val_fraction: float | None = None,
    limit: int | None = None,
    download: bool | None = None,
) -> Splits:
    """Load a data set and split it into training, validation and test part."""
    if isinstance(spec, DatasetSpec):
        row = spec
    elif str(spec) in DATASETS:
        row = DATASETS[str(spec)]
    else:
        raise unknown_name("dataset", str(spec), DATASETS)
    root = None if data_dir is None else Path(data_dir).expanduser()
    if row.torchvision_name is None:
        train_x, train_y, test_x, test_y = _read_digits()
    else:
        fetch = data_dir is None if download is None else download
        train_x, train_y, test_x, test_y = _read_idx_dataset(row, root, fetch)
    notes: list[str] = []
    if image_size is not None:
        check_positive("image_size", image_size)
        train_x, test_x = _fit_to(train_x, image_size), _fit_to(test_x, image_size)
    fraction = _val_fraction(row.val_fraction if val_fraction is None else val_fraction)
    val, train = _stratified(train_y, round(fraction * len(train_y)), "val", seed, keep_one=True)
    pool = ArrayDataset(train_x, train_y, row.mean, row.std)
    train_set = pool.subset(train)
    info = DatasetInfo(
        row.name,
        "classification",
        row.class_names,
        tuple(train_x.shape[1:]),
        row.mean,
        row.std,
        tuple(notes),
    )
    test_set = ArrayDataset(test_x, test_y, row.mean, row.std)
    return Splits(train_set, pool.subset(val), test_set, info)

"""The files of the named data sets: where they lie, how they are fetched, how they are read."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError, some
from spinalnet.data.catalog import DatasetRow
from spinalnet.data.folders import FoundImages, index_folder
from spinalnet.data.layout import has_parts
from spinalnet.data.order import stratified, stream_seed
from spinalnet.data.sources import Download


@dataclass(frozen=True)
class Arrays:
    """A data set as read into memory, part by part.

    Attributes:
        classes: Class names in label order; empty for a regression.
        parts: (Inputs, targets) of "train" and "test".
        notes: What was found on the way.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[Tensor, Tensor]]
    notes: tuple[str, ...] = ()


def _read_digits(row: DatasetRow, roots: Sequence[Path]) -> Arrays:
    """Read scikit-learn's digits."""
    values = _digits_table()  # (N, 64 + 1): pixels, and the class
    # 16 grey levels plus zero become 0..255.
    images = (values[:, :-1] * (255 / 16)).round().to(torch.uint8).view(-1, 1, 8, 8)
    targets = values[:, -1].long()
    # The set has no test part of its own: a fifth is set apart, the same one for every seed.
    test, train = stratified(targets, round(0.2 * len(targets)), "digits test", keep_train=1)
    parts = {part: (images[i], targets[i]) for part, i in (("train", train), ("test", test))}
    return Arrays(row.class_names, parts)


def _digits_table() -> Tensor:
    """Return scikit-learn's table of digits, from its file: importing it all takes a second."""
    import numpy as np

    found = importlib.util.find_spec("sklearn")
    table = Path(found.origin if found and found.origin else "").parent / "datasets/data"
    path = table / "digits.csv.gz"
    if path.is_file():
        return torch.from_numpy(np.loadtxt(path, delimiter=","))
    from sklearn.datasets import load_digits  # of a version that keeps it elsewhere

    bunch: Any = load_digits()
    return torch.from_numpy(np.column_stack((bunch.data, bunch.target)))


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
    except PermissionError:
        raise
    except (OSError, EOFError, ValueError, KeyError, struct.error) as error:
        raise InputError(
            f"'{path}' is not a complete IDX file; delete it and fetch the data again."
        ) from error
    native = values.astype(values.dtype.newbyteorder("="))
    return torch.from_numpy(native)


def _find_idx(row: DatasetRow, folders: Iterable[Path]) -> list[Path] | None:
    """Return the four files (images and labels of train and test) from the first full folder."""
    names = [
        f"{p}-{kind}" for p in row.prefixes for kind in ("images-idx3-ubyte", row.label_suffix)
    ]
    for folder in folders:
        found = [p for n in names for p in (folder / n, folder / f"{n}.gz") if p.is_file()]
        by_name = {p.name.removesuffix(".gz"): p for p in reversed(found)}
        if len(by_name) == len(names):
            return [by_name[name] for name in names]
    return None


def _read_idx_dataset(row: DatasetRow, roots: Sequence[Path]) -> Arrays | None:
    """Read a data set kept in IDX files."""
    files = _find_idx(row, roots)
    if files is None:
        return None
    values = [_read_idx(file) for file in files]
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for part, k in (("train", 0), ("test", 2)):
        images, labels = values[k], values[k + 1]
        labels = labels[:, 0] if labels.ndim == 2 else labels  # QMNIST: class, then its origin
        if images.ndim != 3 or len(images) != len(labels) or len(images) == 0:
            raise InputError(
                f"'{files[k]}' and '{files[k + 1]}' must hold the same number of images and "
                f"labels, got shapes {tuple(images.shape)} and {tuple(labels.shape)}."
            )
        labels = labels.long() - row.first_label
        if labels.min() < 0 or labels.max() >= len(row.class_names):
            raise InputError(
                f"'{files[k + 1]}' must hold labels of {len(row.class_names)} classes from "
                f"{row.first_label} on; these are not the files of '{row.name}'."
            )
        if row.transposed:
            images = images.transpose(1, 2)
        parts[part] = images[:, None].contiguous(), labels
    notes = ("The files hold the images transposed; here they are upright.",)
    return Arrays(row.class_names, parts, notes if row.transposed else ())


def _find_path(row: DatasetRow, roots: Sequence[Path]) -> Path | None:
    """Return the first of the row's paths that is there."""
    return next((r / path for r in roots for path in row.paths if (r / path).exists()), None)


def _make_torchvision(row: DatasetRow, root: Path, train: bool) -> Any:
    """Make the torchvision object of one part; it checks the files' checksums."""
    from torchvision import datasets

    by_name = {"split": "train" if train else "test"}
    part: dict[str, Any] = (
        by_name if row.torchvision_name in ("SVHN", "STL10") else {"train": train}
    )
    make: Callable[..., Any] = getattr(datasets, str(row.torchvision_name))
    return make(root, **part, download=False)


def _read_torchvision(row: DatasetRow, roots: Sequence[Path]) -> Arrays | None:
    """Read a data set that torchvision holds as one array of images."""
    found = _find_path(row, roots)
    if found is None:
        return None
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    classes = row.class_names
    for part in ("train", "test"):
        try:
            held = _make_torchvision(row, found.parent, part == "train")
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"the files of '{row.name}' in '{found.parent}' are incomplete or damaged; delete "
                "them and fetch them again."
            ) from error
        images = torch.as_tensor(held.data)
        if images.shape[-1] == 3:  # CIFAR: channels last
            images = images.permute(0, 3, 1, 2)
        labels = held.targets if hasattr(held, "targets") else held.labels
        parts[part] = images.contiguous(), torch.as_tensor(labels).long()
        classes = classes or tuple(held.classes)
    return Arrays(classes, parts)


def _read_flowers(row: DatasetRow, roots: Sequence[Path]) -> FoundImages | None:
    """List the photographs of Flowers-102 with the authors' three parts."""
    from scipy.io import loadmat

    found = _find_path(row, roots)
    if found is None:
        return None
    try:
        rows = loadmat(found / "setid.mat", squeeze_me=True)
        labels = torch.as_tensor(loadmat(found / "imagelabels.mat", squeeze_me=True)["labels"])
        numbers = {
            part: torch.as_tensor(rows[key]).long()
            for part, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
        }
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise InputError(
            f"'{found}' must hold jpg/, setid.mat and imagelabels.mat of Flowers-102; delete it "
            "and fetch it again."
        ) from error
    parts = {
        part: (
            [str(found / "jpg" / f"image_{number:05d}.jpg") for number in chosen.tolist()],
            labels[chosen - 1].long() - 1,
        )
        for part, chosen in numbers.items()
    }
    return FoundImages(row.class_names, parts, folder=str(found))


def _read_folder(row: DatasetRow, roots: Sequence[Path]) -> FoundImages | None:
    """List the images of a data set that lies as a folder: one below the roots, or a root."""
    found = _find_path(row, roots) or next(
        (root for root in roots if root.is_dir() and has_parts(root)), None
    )
    return None if found is None else index_folder(found, row.exclude, tells=False)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "regression-product": lambda x: x.prod(1, keepdim=True),
    "regression-sin-product": lambda x: x.prod(1, keepdim=True).sin(),
    "regression-sum": lambda x: x.sum(1, keepdim=True),
    "regression-sin-sum": lambda x: x.sum(1, keepdim=True).sin(),
}


def _draw_regression(row: DatasetRow, roots: Sequence[Path]) -> Arrays:
    """Draw a regression set of the paper: its 1,000 samples, and fresh ones to test on."""
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    for (part, count), seed in zip(
        (("train", row.sizes[0]), ("test", row.sizes[1])), (0, stream_seed("fresh")), strict=True
    ):
        generator = torch.Generator().manual_seed(seed)
        # Paper: eight separate draws after seed 0, then the noise.
        columns = [torch.randn(count, 1, generator=generator) for _ in range(row.image_shape[0])]
        inputs = torch.cat(columns, 1)
        # Paper: noise of shape (count,) spreads over a (count, 1) target; the shape here does not.
        noise = 0.2 * torch.rand(count, 1, generator=generator)
        parts[part] = inputs, _FUNCTIONS[row.name](inputs) + noise
    return Arrays((), parts)


READERS: dict[str, Callable[[DatasetRow, Sequence[Path]], Arrays | FoundImages | None]] = {
    "digits": _read_digits,
    "idx": _read_idx_dataset,
    "torchvision": _read_torchvision,
    "flowers": _read_flowers,
    "folder": _read_folder,
    "regression": _draw_regression,
}
MADE_HERE = frozenset(("digits", "regression"))  # readers that need no files


def _root(data_dir: str | os.PathLike[str] | None) -> Path:
    return files.expanded(data_dir) if data_dir is not None else files.cache_folder("data")


def _roots(row: DatasetRow, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders that the files of a data set may lie in."""
    root = _root(data_dir)
    name = row.torchvision_name
    below = [root, root / "raw", *([root / name / "raw", root / name] if name else [])]
    return below if data_dir is not None else [*below, *map(Path, row.system_dirs)]


def is_present(row: DatasetRow, data_dir: str | os.PathLike[str] | None = None) -> bool:
    """Return whether the files of a data set are there, without reading them."""
    roots = _roots(row, data_dir)
    if row.reader in MADE_HERE:
        return True
    if row.reader == "idx":
        return _find_idx(row, roots) is not None
    has_root = row.reader == "folder" and data_dir is not None and has_parts(roots[0])
    found = _find_path(row, roots)
    return has_root or (found is not None and not _lacks(row, found))


def places(row: DatasetRow, data_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the files or the folder that a data set is read from; empty if it is not there."""
    roots = _roots(row, data_dir)
    if row.reader in MADE_HERE:
        return []
    if row.reader == "idx":
        return _find_idx(row, roots) or []
    found = _find_path(row, roots)
    if found is None and row.reader == "folder" and data_dir is not None and has_parts(roots[0]):
        found = roots[0]
    return [] if found is None else [found]


def _lacks(row: DatasetRow, found: Path) -> list[str]:
    """Return what does not lie in the folder of a data set although it belongs there."""
    return [name for name in row.contents if not (found / name).exists()]


def ensure_present(
    row: DatasetRow, data_dir: str | os.PathLike[str] | None = None, *, download: bool | None = None
) -> None:
    """Fetch a data set that is missing, if that is allowed and possible.

    Args:
        row: The data set.
        data_dir: As in `load_dataset`.
        download: As in `load_dataset`.

    Raises:
        InputError: If it is missing still; the sentence says how to get it.
    """
    if is_present(row, data_dir):
        return
    allowed = data_dir is None if download is None else download
    if allowed and row.downloads:
        _download(row, data_dir)
        return
    roots = _roots(row, data_dir)
    partly = _find_path(row, roots)
    if partly is not None:
        raise InputError(
            f"'{partly}' is there but lacks {some(_lacks(row, partly), 3)}: "
            + ("complete it with download=True" if row.downloads else "unpack it again")
            + ", or pass the folder that holds all of it as data_dir."
        )
    places = ", ".join(map(str, roots if row.reader == "idx" else roots[:1]))
    them = "its IDX files" if row.reader == "idx" else "them"
    ways = f"pass the folder that holds {them} as data_dir"
    if row.downloads:
        ways += ", or download it with download=True"
    raise InputError(
        f"no files of '{row.name}' found in {places}; "
        + "; ".join(filter(None, [ways, row.hint]))
        + "."
    )


def read(
    row: DatasetRow, data_dir: str | os.PathLike[str] | None = None, *, download: bool | None = None
) -> Arrays | FoundImages:
    """Read a named data set, fetching it as `ensure_present` does.

    Raises:
        InputError: If it is missing, incomplete or damaged.
    """
    ensure_present(row, data_dir, download=download)
    found = READERS[row.reader](row, _roots(row, data_dir))
    if found is None:  # the folder was there, but not all that belongs in it
        raise InputError(f"the files of '{row.name}' are incomplete; fetch them again.")
    if isinstance(found, FoundImages):
        found = replace(found, notes=(*found.notes, *row.notes))
    return found


def _is_got(row: DatasetRow, download: Download, data_dir: str | os.PathLike[str] | None) -> bool:
    """Return whether a part of a data set need not be fetched.

    A folder counts with the whole set only: others may have been stopped while they unpacked it.
    """
    root = _root(data_dir)
    files_only = all((root / place).is_file() for _, place in download.moves)
    return files_only or is_present(row, data_dir)


def _download(row: DatasetRow, data_dir: str | os.PathLike[str] | None) -> None:
    """Fetch, check and unpack the files of a data set."""
    from spinalnet.data import fetching

    root = _root(data_dir)
    for download in row.downloads:
        try:
            fetching.get(download, root, functools.partial(_is_got, row, download, data_dir))
        except fetching.NotFetchedError as error:
            hint = f"; {row.hint}" if row.hint else ""
            kind = "IDX files" if row.reader == "idx" else "files"
            raise InputError(
                f"downloading '{row.name}' to '{root}' failed: {str(error).rstrip('.')}; check the "
                "network and try again, which goes on where it broke off, or copy its "
                f"{kind} there and pass that folder as data_dir{hint}."
            ) from error

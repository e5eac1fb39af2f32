"""Which data is asked for: `DataSpec`, and where it lies."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spinalnet import files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.data.catalog import DATASETS, DatasetRow
from spinalnet.data.depths import PixelRange, check_range
from spinalnet.data.frames import BUNDLED
from spinalnet.data.labels import TASKS, Labels, Task
from spinalnet.data.resampling import Resample

_LARGEST_SIDE = 2**14  # pixels; one such image is three gigabytes of numbers


@dataclass(frozen=True)
class DataSpec:
    """Which data, at which size.

    Attributes:
        name: Name of a data set, or the path of a folder of images.
        data_dir: Where a named data set's files are (`DIR`, `DIR/raw` or
            `DIR/<torchvision name>/raw`), or where a relative folder of images is.
        image_size: Side in pixels that images are brought to; `None` for the data's own, 64 for
            folders, or the model's where the data's is too small for it.
        in_channels: 1 for grey, 3 for colour; `None` for the data's own, 3 for folders.
        limit: Train on this many examples only, in the classes' proportions.
        on_bad_image: Whether image files that cannot be used are refused ("error"), all in one
            report, or left out as if they were not there ("skip").
        resample: Draw the test part from all examples; None for the data's own test part.
        group: A regular expression over the paths of image files below the data's folder (see
            `parts.groups_of`): what it matches is the group, of which all lie in one part. With
            `labels` it may be a column of theirs.
        ignore: Names of files and folders that are left out of a folder of images, comma separated;
            "*" stands for any text: "test,*_mask.png".
        on_duplicate: Whether pictures that are there twice are told ("keep"), or left out ("skip")
            by the rule that stands in `copies`.
        labels: A table that says what is to be predicted of which image of the folder; see
            `labels.Labels` for this and the following.
        image_column: Its column that names the files.
        label_column: Its column of labels.
        split_column: Its column of parts: train, val, test.
        task: "classification", "regression", or "auto".
        pixel_range: Values that become black and white in image files with more than 8 bits per
            channel; None for 0 and 65535 of 16-bit files (see `data.depths`).

    Raises:
        InputError: If a value is impossible.
    """

    name: str
    data_dir: str | None = None
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    limit: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"
    resample: Resample | None = None
    group: str | None = None
    ignore: str | None = None
    on_duplicate: Literal["keep", "skip"] = "keep"
    labels: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    task: Task = "auto"
    pixel_range: PixelRange | None = None

    def __post_init__(self) -> None:
        for name in ("name", "data_dir"):  # two ways to write a path are one request
            if str(getattr(self, name)).startswith("~"):
                object.__setattr__(self, name, str(files.expanded(getattr(self, name))))
        self._check_labels()
        for name in ("image_size", "limit"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if (self.image_size or 0) > _LARGEST_SIDE:
            raise InputError(
                f"image_size must be at most {_LARGEST_SIDE:,} pixels, got {self.image_size:,}."
            )
        if self.in_channels not in (None, 1, 3):
            raise InputError(f"in_channels must be 1 or 3, got {self.in_channels!r}.")
        if self.on_bad_image not in ("error", "skip"):
            raise InputError(f"on_bad_image must be error or skip, got {self.on_bad_image!r}.")
        if self.on_duplicate not in ("keep", "skip"):
            raise InputError(f"on_duplicate must be keep or skip, got {self.on_duplicate!r}.")
        check_range(self.pixel_range)
        if self.group is not None and self.labels is None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise InputError(
                    f"group must be a regular expression, such as 'patient(\\d+)', got "
                    f"'{self.group}': {error}."
                ) from error

    def _check_labels(self) -> None:
        if self.task not in TASKS:
            raise unknown_name("task", self.task, TASKS)
        if self.labels is not None:
            object.__setattr__(self, "labels", os.fspath(self.labels))  # as a file holds it
            if self.row is not None:
                raise InputError(
                    f"labels belong to a folder of images, and '{self.name}' is a data set with "
                    "its own: leave them out, or give the folder."
                )
            return
        given = [f"{name}={getattr(self, name)}" for name in _OF_LABELS if getattr(self, name)]
        if self.task != "auto":
            given.append(f"task={self.task}")
        if given:
            raise InputError(
                f"{given[0]} says how labels=TABLE is read, which is not given: name the table, or "
                f"leave out {given[0].partition('=')[0]}."
            )

    @property
    def ignored(self) -> tuple[str, ...]:
        """The patterns in `ignore`."""
        return tuple(filter(None, map(str.strip, (self.ignore or "").split(","))))

    @property
    def row(self) -> DatasetRow | None:
        """The row of `DATASETS`; None if this is a folder."""
        return DATASETS.get(self.name)


_OF_LABELS = ("image_column", "label_column", "split_column")


def find_folder(spec: DataSpec) -> Path:
    """Return the folder of images that is asked for, alone or below `data_dir`.

    Raises:
        InputError: If a bare name is neither a data set nor a folder.
    """
    folder = Path(spec.name).expanduser()
    if spec.data_dir is not None and not folder.exists():
        below = Path(spec.data_dir).expanduser() / spec.name
        if below.is_dir():
            return below
    looks_like_path = folder.exists() or len(folder.parts) != 1 or spec.name.startswith((".", "~"))
    if not looks_like_path:
        if spec.name.startswith("sklearn:"):
            raise InputError(f"'{spec.name}' is a table, and images are asked for here.")
        if spec.name in BUNDLED:
            raise InputError(
                f"'{spec.name}' is a table that comes with scikit-learn: sklearn:{spec.name}."
            )
        raise InputError(
            f"{unknown_name('dataset', spec.name, DATASETS)} A folder of images is given by its "
            "path; there is none of this name."
        )
    return folder


def labels_of(spec: DataSpec) -> Labels:
    """Return the labels that are asked for; `spec.labels` is given."""
    columns = (getattr(spec, name) for name in _OF_LABELS)
    return Labels(
        spec.labels or "", *columns, group=spec.group, task=spec.task, ignore=spec.ignored
    )

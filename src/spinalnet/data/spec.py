"""What is asked of data: `DataSpec`, the third of a run that visits this wing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spinalnet._checks import InputError, check_positive
from spinalnet.data.catalog import DATASETS, DatasetRow


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

    Raises:
        InputError: If a value is impossible.
    """

    name: str
    data_dir: str | None = None
    image_size: int | None = None
    in_channels: Literal[1, 3] | None = None
    limit: int | None = None
    on_bad_image: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        for name in ("image_size", "limit"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.in_channels not in (None, 1, 3):
            raise InputError(f"in_channels must be 1 or 3, got {self.in_channels!r}.")
        if self.on_bad_image not in ("error", "skip"):
            raise InputError(f"on_bad_image must be error or skip, got {self.on_bad_image!r}.")

    @property
    def row(self) -> DatasetRow | None:
        """The row of `DATASETS`; None if this is a folder."""
        return DATASETS.get(self.name)

"""A trained model and what it needs to be used: written into its checkpoint, read back from it."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError, read_fields, some
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.moved import gone_note
from spinalnet.comparison.notebook import as_html, names_of, test_of
from spinalnet.comparison.passed_on import file_of
from spinalnet.comparison.schema import SCHEMA, with_present_heads
from spinalnet.comparison.spec import RunSpec
from spinalnet.data import (
    ArrayDataset,
    DatasetInfo,
    DataSpec,
    FolderDataset,
    Splits,
    find_folder,
    load_scored,
)
from spinalnet.data.doubles import Part
from spinalnet.data.folders import same_name
from spinalnet.data.loading import load_labelled
from spinalnet.models import ImageModel, ModelSpec, features, zoo
from spinalnet.nn import count_params, largest_size, made_for, spine_diagram, wiring_in
from spinalnet.training import runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from spinalnet.wiring import Drawing


@dataclass(frozen=True)
class Description:
    """What a checkpoint carries in its header, so that it can be used without anything else."""

    model: str
    head: str
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] | None = None
    head_options: Mapping[str, Any] = field(default_factory=dict)
    neck: str | None = None
    freeze: bool = False
    task: Literal["classification", "regression"] = "classification"
    data: str | None = None
    seed: int | None = None
    converted_from: str | None = None
    units: tuple[float, float] | None = None
    schema: int = SCHEMA

    @classmethod
    def of(cls, spec: RunSpec, info: DatasetInfo) -> Description:
        """Return that of a run on data."""
        known = asdict(spec.model) | asdict(info)
        known |= {"model": spec.model.name, "data": info.name, "seed": spec.train.seed}
        return cls(**{one.name: known[one.name] for one in fields(cls) if one.name in known})

    @classmethod
    def read(cls, header: Mapping[str, Any]) -> Description:
        """Read a header, of now or of any earlier version.

        Raises:
            InputError: If a field is unknown or missing, or its value wrong.
        """
        if isinstance(header, Mapping) and header.get("trunk", "") in (None, "frozen"):
            header = {**header, "freeze": header["trunk"] is not None}
            del header["trunk"]
        if isinstance(header, Mapping):
            header = {**with_present_heads(header, header.get("model")), "schema": SCHEMA}
        about = cls(**read_fields(cls, header, "field of the checkpoint"))
        if len(about.input_shape) not in (1, 3) or min(about.input_shape) < 1:
            raise InputError(
                "input_shape must be 1 or 3 positive numbers, (features) or (channels, height, "
                f"width), got {list(about.input_shape)}."
            )
        if not all(math.isfinite(one) and one > 0 for one in about.std):
            raise InputError(f"std must be numbers above 0, got {list(about.std)}.")
        if not all(map(math.isfinite, about.mean)):
            raise InputError(f"mean must be finite numbers, got {list(about.mean)}.")
        if len(about.mean) not in (0, 1, about.input_shape[0]):
            raise InputError(
                f"mean and std must be of every channel of input_shape {list(about.input_shape)}, "
                f"got {len(about.mean)} numbers."
            )
        if len(about.mean) != len(about.std):
            raise InputError(
                f"mean and std must be of one length, got {list(about.mean)} and {list(about.std)}."
            )
        return about

    @property
    def info(self) -> DatasetInfo:
        """What the model knows of its data."""
        shape, mean, std = self.input_shape, self.mean, self.std
        about = self.task, self.class_names, shape, mean, std
        units, pixel_range = self.units, self.pixel_range
        return DatasetInfo(self.data or "", *about, units=units, pixel_range=pixel_range)

    @property
    def spec(self) -> RunSpec:
        """The run, as far as the checkpoint alone says."""
        model = ModelSpec(self.model, self.head, self.head_options, self.neck, freeze=self.freeze)
        return RunSpec(DataSpec(self.data or ""), model)


@dataclass(frozen=True)
class TrainedModel:
    """A model out of a run folder, with all it needs to read images and name classes.

    Attributes:
        model: The network, in evaluation mode.
        info: What it takes, and its classes.
        spec: The run it comes from, as far as its file says.
        source: The folder or file that it was read from; None of one made otherwise.
    """

    model: ImageModel
    info: DatasetInfo
    spec: RunSpec
    source: Path | None = None

    @overload
    def spine_diagram(self) -> Drawing: ...
    @overload
    def spine_diagram(self, *, ax: Axes) -> Axes: ...
    def spine_diagram(self, *, ax: Axes | None = None) -> Drawing | Axes:
        """Draw the head to scale; see `spinalnet.spine_diagram`, also for errors.

        Args:
            ax: Axes of matplotlib to draw it on.
        """
        return spine_diagram(self.model, self.spec.model.head, ax=ax)

    def _repr_html_(self) -> str:
        """Show in a notebook what it is, what its run reached, and the drawn head."""
        info, spec = self.info, self.spec
        params = count_params(self.model)
        frozen = " (frozen)" if spec.model.freeze else ""
        rows = {
            "network": f"{spec.model.name}{frozen}, {params.total:,} parameters",
            "head": f"{spec.model.head}, {params.head:,} parameters",
            "data": info.name,
            "input": " x ".join(map(str, info.input_shape)),
            "task": info.task,
            "classes": names_of(info.class_names),
            "read from": self.source,
        }
        title = f"{spec.model.head} on {info.name or spec.model.name}"
        drawing = "" if wiring_in(self.model) is None else self.spine_diagram()
        return as_html(title, rows, test_of(self.source), drawing)

    def load_data(
        self, data: str | None = None, data_dir: str | None = None, device: str | None = None
    ) -> Splits:
        """Load the data it was trained on, or others, in its size and normalised as it expects.

        Args:
            data: Another data set with the same classes: a name, or a folder of images.
            data_dir: Where that data set's files are.
            device: What the processes of one job meet on; None for the run's.

        Raises:
            InputError: If the data cannot be had, or have other classes.
        """
        info = self.info
        if not data and data_dir is None and (gone := gone_note(self.spec.data)):
            raise InputError(f"{gone}: name where it lies now with data=NEW.")
        spec = self._asked_of(data, data_dir, device)
        if len(info.input_shape) == 3:
            channels, side, _ = info.input_shape
            spec = spec.having(in_channels=channels, image_size=side)
            spec = spec.having(pixel_range=info.pixel_range)
        splits = load_splits(spec, constants=(info.mean, info.std), units=info.units)
        if list(map(same_name, splits.info.class_names)) != list(map(same_name, info.class_names)):
            raise InputError(
                f"{spec.data.name} has the classes {some(splits.info.class_names, 5)}, but the "
                f"model knows {some(info.class_names, 5)}; give data with the same classes."
            )
        return splits

    def load_test(
        self,
        data: str | None = None,
        data_dir: str | None = None,
        device: str | None = None,
        *,
        on_bad_image: Literal["error", "skip"] | None = None,
        ignore: str | None = None,
    ) -> tuple[Part, DatasetInfo]:
        """Load what the model is to be scored on, in its size and normalised as it expects.

        Args:
            data: Nothing for the test part of its own data; a name, whose test part is taken; or a
                folder of images, see `load_scored`.
            data_dir: Where that data set's files are.
            device: As for `load_data`.
            on_bad_image: As in `DataSpec`, for other data; None for that of the run.
            ignore: The same.

        Raises:
            InputError: If the data cannot be had, or have classes that the model does not know; or
                if its own data is to be read otherwise than in training.
        """
        given = {"on_bad_image": on_bad_image, "ignore": ignore}
        asked_for = {name: value for name, value in given.items() if value is not None}
        if data is None and data_dir is None:
            refuse_for_own(asked_for)
        own, info = self.spec.data, self.info
        is_folder = data is not None and DataSpec(data).row is None
        if not is_folder or len(info.input_shape) != 3 or info.task != "classification":
            trained = replace(self, spec=self.spec.having(**asked_for)) if asked_for else self
            splits = trained.load_data(data, data_dir, device)
            return splits.test, splits.info
        channels, side, _ = info.input_shape
        asked = replace(
            DataSpec(str(data), data_dir, side, on_bad_image=on_bad_image or own.on_bad_image),
            ignore=ignore,
            in_channels=channels,
            pixel_range=info.pixel_range,
        )
        place, home = find_folder(asked).resolve(), self._home()
        if place == home:  # its own folder: what it was trained on tests nothing
            refuse_for_own(asked_for)
            splits = self.load_data(device=device)
            return splits.test, splits.info
        part, about = load_scored(asked, info.class_names, (info.mean, info.std))
        if home is not None and (place.is_relative_to(home) or home.is_relative_to(place)):
            note = (
                f"'{place}' and the data of the run, '{home}', lie in one another: images that the "
                "model was trained on may be among them."
            )
            about = replace(about, notes=(*about.notes, note))
        return part, about

    def _home(self) -> Path | None:
        """Return the folder of images that it was trained on, if it was one and is named."""
        own = self.spec.data
        with contextlib.suppress(InputError):  # a checkpoint alone knows the folder's name only
            return find_folder(own).resolve() if own.name and own.row is None else None
        return None

    def load_labelled(
        self,
        labels: Mapping[str, str | None],
        data: str | None,
        data_dir: str | None = None,
        *,
        on_bad_image: Literal["error", "skip"] | None = None,
    ) -> tuple[ArrayDataset | FolderDataset, tuple[str, ...]]:
        """Load all images that a table of labels names, or those of its test part.

        Args:
            labels: "labels", the table, and what else `DataSpec` has to say of it; the columns of
                images and labels are those of training, if none are named.
            data: Folder of the images; None for that of the run.
            data_dir: Where that folder is.
            on_bad_image: As in `DataSpec`; None for that of the run.

        Returns:
            The images, and sentences for the user.

        Raises:
            InputError: If files are missing or cannot be used, or a class is unknown to the model.
        """
        if len(self.info.input_shape) != 3:
            raise InputError(
                "a table of labels names images, and this model was trained on rows: leave it out."
            )
        own, spec = self.spec.data, self._asked_of(data, data_dir, None).data
        named = {"image_column": own.image_column, "label_column": own.label_column}
        given = {name: value for name, value in labels.items() if value is not None}
        columns = {"split_column": None, "ignore": None, **named, **given, "task": self.info.task}
        columns["on_bad_image"] = on_bad_image or spec.on_bad_image
        return load_labelled(replace(spec, **columns), self.info)

    def _asked_of(self, data: str | None, data_dir: str | None, device: str | None) -> RunSpec:
        """Return the run on other data, which are not labelled by the table of its own."""
        own = self.spec.data
        if not (data or own.name):
            raise InputError(
                "the model does not say which data it belongs to; name some with data=NAME."
            )
        if data:
            unlabelled = dict.fromkeys(("labels", "image_column", "label_column", "split_column"))
            group = own.group if own.labels is None else None  # it may be a column of theirs
            own = replace(own, name=data, data_dir=None, task="auto", group=group, **unlabelled)
        return self.spec.having(
            data=replace(own, data_dir=data_dir or own.data_dir),
            device=device or self.spec.train.device,
        )


def refuse_for_own(options: Mapping[str, str]) -> None:
    """Refuse to read a run's own data otherwise than in training: its parts would be others.

    Raises:
        InputError: If there is any option.
    """
    for name, value in options.items():
        raise InputError(
            f"{name}={value} is for other data: that of the run is read as in training, or its "
            "test part would be another; leave it out."
        )


_LARGEST_INPUT = 2**27  # numbers: an image of 6,700 pixels a side in three channels
_USUAL_INPUT = 2**22  # which a network of any size may take: 1,180 pixels a side


def _check_sizes(
    file: Path, about: Description, spec: RunSpec, weights: Mapping[str, Tensor]
) -> None:
    """Refuse a network that cannot have these weights before it is built: it may fill the memory.

    Raises:
        InputError: If a size is beyond what the weights can be of.
    """
    channels, *sides = about.input_shape
    inputs = channels * max(sides, default=1) ** 2  # images are square, whatever is named there
    held = sum(map(Tensor.numel, weights.values()))
    # A head on a map of all pixels grows with them, and would be made before its weights are read.
    if inputs > min(_LARGEST_INPUT, max(_USUAL_INPUT, 100 * held)):
        raise InputError(f"{file} cannot be used: it names inputs of {inputs:,} numbers each.")
    for options in (about.head_options, spec.model.head_options):
        if (size := largest_size(options)) > max(held, 1024):
            raise InputError(
                f"{file} cannot be used: it names a head with a size of {size:,}, but holds "
                f"{held:,} numbers."
            )


def load_trained(path: str | Path) -> TrainedModel:
    """Rebuild a model from the folder of a run (its best weights) or from a checkpoint file.

    Args:
        path: The folder of a run, or one that `save_pretrained` wrote; or a checkpoint file.

    Raises:
        InputError: If `path` is none of them, or the run has no weights yet.
    """
    path = file_of(path)
    is_file = path.is_file()
    if not is_file and not runs.is_run(path):
        raise InputError(f"{path} is not the folder of a run, nor a checkpoint: give one of them.")
    file = path if is_file else path / "model.safetensors"
    weights, header = files.load_weights(file)
    if isinstance(header, Mapping) and header.get("format") == "table":
        raise InputError(f"{path} holds the model of a table: read it with spinalnet.load.")
    with files.reading(file):
        about = Description.read(header)
        spec = about.spec
    if not is_file:
        with files.reading(path / runs.CONFIG_FILE):
            spec = RunSpec.from_dict(runs.read_config(path))
    if about.freeze:
        weights |= features.load_trunk(file.parent)
    _check_sizes(file, about, spec, weights)
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise InputError(
                f"{file}: its weights '{name}' hold numbers that are not finite: it is damaged, or "
                "its training has diverged; train again."
            )
    spec = spec.having(pretrained=False, probe_epochs=0)  # the weights are here
    with files.reading(file), made_for(weights, spare=zoo.spare_parameters(spec.model.name)):
        model = build_model(spec, about.info)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # torch says it in several lines, of which the first is a title
        reason = str(error).splitlines()[1:2] or [str(error)]
        raise InputError(
            f"{file}: its weights do not fit the network it names "
            f"({textwrap.shorten(reason[0], 200, placeholder=' ...').rstrip('.')})."
        ) from error
    return TrainedModel(model.eval(), about.info, spec, path)

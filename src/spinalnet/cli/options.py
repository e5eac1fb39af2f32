"""The options that commands share; those of training are made from the fields of `TrainConfig`.

typer reads the options of a command from the signature of a function. `with_run_options` makes one
of three parts, so that an option of `train`, `compare` and `lr-find` is written down once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinalnet._checks import InputError
from spinalnet.cli.root import say_stopped
from spinalnet.training import TrainConfig
from spinalnet.training.presets import PRESETS, of_images

if TYPE_CHECKING:
    from spinalnet.comparison import RunSpec


Data = Annotated[
    str,
    typer.Argument(
        help="A data set (see 'spinalnet list'), a folder of images, or, to compare on, a table."
    ),
]
DataDir = Annotated[
    str | None, typer.Option(help="Where the data set's files are. Without it: a cache, filled.")
]
Download = Annotated[
    bool | None,
    typer.Option(
        "--download/--no-download", help="Fetch missing data and weights. Default: into the cache."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Network (see 'spinalnet list'). Default: mnist-cnn; for a folder of colour "
        "photographs of more than 64 pixels a pre-trained one, frozen, if one can be had.",
        show_default=False,
    ),
]
PresetOf = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="|".join(PRESETS),
        help="Settings by one name, those that are given apart. "
        + " ".join(f"{name}: {row.in_words()}." for name, row in PRESETS.items()),
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="Pre-trained network instead of --model: efficientnet_lite0, or any of torchvision "
        "or timm (torchvision:NAME, timm:NAME).",
        rich_help_panel="Transfer",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="File of weights of the network, instead of the published ones.",
        rich_help_panel="Transfer",
    ),
]
Freeze = Annotated[
    bool,
    typer.Option(
        "--freeze",
        help="Train the head only, on features that the network makes once.",
        rich_help_panel="Transfer",
    ),
]
ProbeEpochs = Annotated[
    int,
    typer.Option(
        help="First train the head so long on features of the plain images, then everything.",
        min=0,
        rich_help_panel="Transfer",
    ),
]
ProbeLr = Annotated[
    float, typer.Option(help="Learning rate of the --probe-epochs.", rich_help_panel="Transfer")
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side in pixels that images are brought to.", min=1)
]
Channels = Annotated[
    int | None, typer.Option("--in-channels", help="1: grey images, 3: colour.", min=1, max=3)
]
PixelRange = Annotated[
    str | None,
    typer.Option(
        metavar="LOW,HIGH",
        help="Image files with more than 8 bits: the values that become black and white, such as "
        "0,4095 for 12 bits. Default: 0,65535 for 16 bits.",
    ),
]
Limit = Annotated[int | None, typer.Option(help="Use only so many training images.", min=1)]
OnBadImage = Annotated[
    str,
    typer.Option(
        metavar="error|skip",
        help="Image files that cannot be used: refuse (all in one report), or leave out.",
    ),
]
Ignore = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Files and folders of an image folder that are left out, comma separated: "
        "test,*_mask.png.",
    ),
]
OnDuplicate = Annotated[
    str,
    typer.Option(
        metavar="keep|skip",
        help="Pictures that are there twice: keep and tell, or leave copies out of training.",
    ),
]
LabelsOf = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        help="Table (csv, tsv, xlsx, parquet) that says what to predict of which image of the "
        "folder; paths as in it, with or without their endings.",
        rich_help_panel="Labels",
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        help="Its column that names the images. Default: the one whose cells are files.",
        rich_help_panel="Labels",
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        help="Its column of labels. Default: the only other one, or one called label, class, "
        "target or category.",
        rich_help_panel="Labels",
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        help="Its column that says train, val or test. Default: parts are drawn.",
        rich_help_panel="Labels",
    ),
]
HeadOption = Annotated[
    list[str] | None,
    typer.Option(
        "--head-option",
        metavar="NAME=VALUE",
        help="Option of the (first) head, repeatable: hidden_features=16, num_layers=8.",
    ),
]
Target = Annotated[str | None, typer.Option(help="Column to predict.", rich_help_panel="Tables")]
TaskOf = Annotated[
    str,
    typer.Option(
        help="classification, regression, or auto; of a table, or of --labels.",
        rich_help_panel="Tables",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="What must not lie in two parts: a column of a table or of --labels, or a pattern "
        "over the names of image files.",
        rich_help_panel="Tables",
    ),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        "--time", help="Column of time: nothing is trained on the future.", rich_help_panel="Tables"
    ),
]
Tta = Annotated[
    str,
    typer.Option(
        metavar="none|flip",
        help="flip: average over every image and its mirror image (photographs, not digits).",
    ),
]
Log = Annotated[
    str,
    typer.Option(
        "--log",
        metavar="NAMES",
        help="Trackers that are told everything, comma separated: tensorboard, mlflow, wandb, "
        "trackio.",
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="Where another process writes into the folder, wait until it has ended."
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(help="Folder of a finished run, or a checkpoint file.", metavar="RUN")
]


def train_parameters() -> list[inspect.Parameter]:
    """Return one keyword-only parameter per field of `TrainConfig`, as typer reads them."""
    parameters = []
    for option in dataclasses.fields(TrainConfig):
        about = option.metadata
        if option.name == "phases":
            continue  # a list of pairs: for recipes and Python
        kind = str if about["also"] else type(option.default)
        choices = about["choices"]
        help_text = about["help"] + (f" One of: {', '.join(choices)}." if choices else "")
        flag = "--" + option.name.replace("_", "-")
        names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        parameters.append(
            inspect.Parameter(
                option.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=Annotated[
                    kind, typer.Option(*names, help=help_text, rich_help_panel="Training")
                ],
            )
        )
    return parameters


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `train`, `compare` and `lr-find` all ask of a run."""

    data: Data
    model: Model = None
    preset: PresetOf = None
    backbone: Backbone = None
    weights: Weights = None
    freeze: Freeze = False
    head_option: HeadOption = None
    data_dir: DataDir = None
    download: Download = None
    image_size: ImageSize = None
    in_channels: Channels = None
    pixel_range: PixelRange = None
    limit: Limit = None
    on_bad_image: OnBadImage = "error"
    ignore: Ignore = None
    on_duplicate: OnDuplicate = "keep"
    labels: LabelsOf = None
    image_column: ImageColumn = None
    label_column: LabelColumn = None
    split_column: SplitColumn = None
    training: TrainConfig  # one option per field
    given: frozenset[str]  # the options that stand in the command

    def spec(self, **fields: Any) -> RunSpec:
        """Return the run asked for; `fields` are those that one command alone knows."""
        from spinalnet.comparison import RunSpec

        network = self._network(fields.get("probe_epochs", 0))
        if self.freeze and not network["pretrained"]:
            raise InputError(
                "--freeze keeps what a network has learned: give --backbone or --weights."
            )
        if not fields.get("probe_epochs"):
            self.refuse({"probe_lr"}, "without --probe-epochs")
        kept = ("data_dir", "image_size", "in_channels", "limit", "on_bad_image")
        kept += ("ignore", "on_duplicate", "image_column", "label_column", "split_column")
        return RunSpec.of(
            self.data,
            head_options=head_options(self.head_option),
            train=self.training,
            labels=None if self.labels is None else str(self.labels),
            **{name: getattr(self, name) for name in kept},
            pixel_range=two_numbers("--pixel-range", self.pixel_range),
            **of_images(self.preset, self.given),
            **network,
            **fields,
        )

    def _network(self, probe_epochs: int) -> dict[str, Any]:
        """Return the network that is asked for, or a default with why it is this one."""
        from spinalnet.comparison.defaults import SMALL, default_network
        from spinalnet.data import DataSpec

        if self.backbone is not None:
            from spinalnet.models import find_backbone

            self.refuse({"model"}, "beside --backbone, which takes its place")
            named: dict[str, Any] = {"model": find_backbone(self.backbone).name}
            pretrained = True if self.weights is None else str(self.weights)
            return {**named, "pretrained": pretrained, "freeze": self.freeze}
        if self.model is not None or self.weights is not None:
            pretrained = False if self.weights is None else str(self.weights)
            return {"model": self.model or SMALL, "pretrained": pretrained, "freeze": self.freeze}
        channels: Any = self.in_channels
        data = DataSpec(self.data, self.data_dir, self.image_size, channels)
        taken = default_network(
            data, self.training, probe_epochs=probe_epochs, download=self.download
        )
        found = {k: v for k, v in taken.options.items() if k not in self.given}
        return {"pretrained": False, "freeze": self.freeze, **found, "chosen": taken.why}

    def check_labels(self, is_table: bool) -> None:
        """Refuse a table in place of the folder that its labels belong to."""
        if self.labels is not None and is_table:
            raise InputError(
                f"--labels says what the images of a folder are, and '{self.data}' is a table: "
                f"give the folder first (spinalnet ... FOLDER --labels {self.labels})."
            )

    def refuse_of_tables(self, options: Set[str]) -> None:
        """Refuse options of tables, for images; a task they have where a table labels them."""
        from spinalnet.data import DataSpec

        if "task" in self.given and self.labels is None and DataSpec(self.data).row is None:
            raise InputError(
                f"--task of '{self.data}', which is no table, is that of its labels: give the "
                "table that holds them (--labels FILE)."
            )
        unused = options | (set() if self.labels is not None else {"task"})
        self.refuse(unused, f"for '{self.data}', which is no table")

    def refuse(self, options: Set[str], why: str) -> None:
        """Refuse options that stand in the command but have no meaning here."""
        if unused := sorted(self.given & options):
            named = ", ".join("--" + name.replace("_", "-") for name in unused)
            raise InputError(f"{named} has no meaning {why}: leave it out.")


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` the options of `RunOptions` and of `TrainConfig`; it receives `asked`."""

    def parameters_of(function: Callable[..., Any], *without: str) -> list[inspect.Parameter]:
        found = inspect.signature(function, eval_str=True).parameters
        return [parameter for name, parameter in found.items() if name not in without]

    training = train_parameters()
    shared = parameters_of(RunOptions, "training", "given")
    own = parameters_of(command, "asked")

    @functools.wraps(command)
    def wrapper(ctx: typer.Context, **values: Any) -> None:
        def take(parameters: list[inspect.Parameter]) -> dict[str, Any]:
            return {parameter.name: values.pop(parameter.name) for parameter in parameters}

        sources = {name: ctx.get_parameter_source(name) for name in values}
        given = frozenset(name for name, s in sources.items() if s and s.name != "DEFAULT")
        asked = RunOptions(training=TrainConfig(**take(training)), given=given, **take(shared))
        try:
            command(asked, **values)
        except KeyboardInterrupt as error:  # a signal as `stopping` knows it goes on to `main`
            say_stopped(error)
            raise typer.Exit(130) from None

    # In the help, a command's own options come behind those of the network.
    place = [parameter.name for parameter in shared].index("head_option")
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *shared[:place], *own, *shared[place:], *training]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


def two_numbers(option: str, text: str | None) -> tuple[float, float] | None:
    """Return the numbers in a text such as "0,4095".

    Raises:
        InputError: If it holds anything else.
    """
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"{option} must be two numbers LOW,HIGH, got '{text}'.") from error
    return low, high


def head_options(pairs: list[str] | None) -> dict[str, Any]:
    """Return the options in pairs NAME=VALUE, values read as YAML.

    Raises:
        InputError: If a pair is none.
    """
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--head-option must look like NAME=VALUE, got '{pair}'.")
        try:
            options[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--head-option {name} has an unreadable value '{value}'.") from error
    return options

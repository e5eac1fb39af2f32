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
from spinalnet.cli.root import err_console
from spinalnet.training import TrainConfig

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
    typer.Option("--download/--no-download", help="Fetch missing data. Default: into the cache."),
]
Model = Annotated[str, typer.Option(help="Network (see 'spinalnet list').")]
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
Limit = Annotated[int | None, typer.Option(help="Use only so many training images.", min=1)]
OnBadImage = Annotated[
    str,
    typer.Option(
        metavar="error|skip",
        help="Image files that cannot be used: refuse (all in one report), or leave out.",
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
    str, typer.Option(help="classification, regression, or auto.", rich_help_panel="Tables")
]
Group = Annotated[
    str | None,
    typer.Option(help="Column whose rows of one value lie in one part.", rich_help_panel="Tables"),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        "--time", help="Column of time: nothing is trained on the future.", rich_help_panel="Tables"
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
        kind = type(option.default)
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
    model: Model = "mnist-cnn"
    backbone: Backbone = None
    weights: Weights = None
    freeze: Freeze = False
    head_option: HeadOption = None
    data_dir: DataDir = None
    download: Download = None
    image_size: ImageSize = None
    in_channels: Channels = None
    limit: Limit = None
    on_bad_image: OnBadImage = "error"
    training: TrainConfig  # one option per field
    given: frozenset[str]  # the options that stand in the command

    def spec(self, **fields: Any) -> RunSpec:
        """Return the run asked for; `fields` are those that one command alone knows."""
        from spinalnet.comparison import RunSpec

        model = self.model
        if self.backbone is not None:
            from spinalnet.models import find_backbone

            self.refuse({"model"}, "beside --backbone, which takes its place")
            model = find_backbone(self.backbone).name
        if self.freeze and self.backbone is None and self.weights is None:
            raise InputError(
                "--freeze keeps what a network has learned: give --backbone or --weights."
            )
        if not fields.get("probe_epochs"):
            self.refuse({"probe_lr"}, "without --probe-epochs")
        kept = ("freeze", "data_dir", "image_size", "in_channels", "limit", "on_bad_image")
        return RunSpec.of(
            self.data,
            model,
            pretrained=self.backbone is not None if self.weights is None else str(self.weights),
            head_options=head_options(self.head_option),
            train=self.training,
            **{name: getattr(self, name) for name in kept},
            **fields,
        )

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
        except KeyboardInterrupt:
            err_console.print(
                "stopped; the same command continues from the last finished epoch.", highlight=False
            )
            raise typer.Exit(130) from None

    # In the help, a command's own options come behind those of the network.
    place = [parameter.name for parameter in shared].index("head_option")
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *shared[:place], *own, *shared[place:], *training]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


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

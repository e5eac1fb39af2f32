"""The options that commands share; those of training are made from the fields of `TrainConfig`.

typer reads the options of a command from the signature of a function. `with_run_options` makes one
of three parts, so that an option of `train`, `compare` and `lr-find` is written down once.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinalnet._checks import InputError, unknown_name
from spinalnet.cli import advice
from spinalnet.cli import names as complete
from spinalnet.cli.config_file import REST, read_config
from spinalnet.texts import from_yaml
from spinalnet.training import SCHEDULES, TrainConfig
from spinalnet.training.presets import PRESETS, of_images

if TYPE_CHECKING:
    from spinalnet.comparison import RunSpec


def option(
    panel: str, help_text: str, *names: str, choices: Collection[str] = (), **more: Any
) -> Any:
    """Return an option in a panel of the help page; `choices` are shown, completed and enforced."""
    if choices:
        shown, more = "|".join(choices), {"autocompletion": complete.of(tuple(choices)), **more}
        more = {"callback": _one_of(choices), **more}
        if len(shown) > _WIDEST_CHOICES:
            shown, help_text = "NAME", f"{help_text} One of: {', '.join(choices)}."
        more = {"metavar": shown, **more}
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


def _one_of(choices: Collection[str]) -> Callable[..., str | None]:
    """Return what refuses another value, before anything is read that takes its time."""

    def check(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in choices and not ctx.resilient_parsing:
            raise unknown_name(f"choice of {param.opts[0]}", value, choices)
        return value

    return check


def _known_trackers(ctx: typer.Context, value: str) -> str:
    """Return names of trackers that there are."""
    known = complete.known()["trackers"]
    for name in filter(None, (one.strip() for one in value.split(","))):
        if name not in known and not ctx.resilient_parsing:
            raise unknown_name("tracker", name, known)
    return value


_WIDEST_CHOICES = 34  # characters behind the name of an option
DATA, NETWORK, TRAINING, OUTPUT = "Data", "Network", "Training", "Output"
FILES, LABELS, TABLES, TRANSFER = "Image files", "Labels", "Tables", "Transfer"
TASKS = ("auto", "classification", "regression")


def in_full(ctx: typer.Context, value: Any) -> Any:
    """Return what data are called; refuse a table of scikit-learn without its "sklearn:"."""
    bare = next(filter(advice.is_bundled, [value] if isinstance(value, str) else value or ()), None)
    # Below a --data-dir, which may not be read yet, it could be a folder.
    below = "data_dir" in (ctx.default_map or {}) or any(
        word.partition("=")[0] == "--data-dir" for word in sys.argv
    )
    if bare is not None and not ctx.resilient_parsing and not below:
        other = "train" if ctx.command.name == "lr-find" else ""
        raise InputError(advice.in_full(bare, sys.argv[1:], other))
    return value


Data = Annotated[
    str,
    typer.Argument(
        help="A data set (spinalnet list), a folder of images, or a table (csv, parquet, xlsx, "
        "sklearn:NAME).",
        autocompletion=complete.one("datasets"),
        callback=in_full,
    ),
]
DataDir = Annotated[
    str | None,
    option(DATA, "Where the data set's files are. Without it: a cache, filled.", metavar="FOLDER"),
]
Download = Annotated[
    bool | None,
    option(
        DATA, "Fetch missing data and weights. Default: into the cache.", "--download/--no-download"
    ),
]
Model = Annotated[
    str | None,
    option(
        NETWORK,
        "Network (spinalnet list), or mymodule:MyNet, your own. Default: mnist-cnn; for colour "
        "photographs of more than 64 pixels a pre-trained one, frozen, if one can be had.",
        metavar="NAME",
        show_default=False,
        autocompletion=complete.one("models"),
    ),
]
PresetOf = Annotated[
    str | None,
    option(
        NETWORK,
        "Settings by one name: "
        + ", ".join(f"{name} ({row.in_words()})" for name, row in PRESETS.items())
        + "; what is given beside it counts.",
        "--preset",
        choices=PRESETS,
    ),
]
Backbone = Annotated[
    str | None,
    option(
        NETWORK,
        "Pre-trained network instead of --model: efficientnet_lite0, or any of torchvision or timm "
        "(torchvision:NAME, timm:NAME).",
        metavar="NAME",
    ),
]
Weights = Annotated[
    Path | None, option(TRANSFER, "File of weights of the network, instead of the published ones.")
]
Freeze = Annotated[
    bool,
    option(NETWORK, "Train the head only, on features that the network makes once.", "--freeze"),
]
ProbeEpochs = Annotated[
    int,
    option(
        TRANSFER,
        "First train the head so long on features of the plain images, then everything.",
        min=0,
    ),
]
ProbeLr = Annotated[float, option(TRANSFER, "Learning rate of the --probe-epochs.")]
ImageSize = Annotated[int | None, option(DATA, "Side in pixels that images are brought to.", min=1)]
Channels = Annotated[
    int | None, option(FILES, "1: grey images, 3: colour.", "--in-channels", min=1, max=3)
]
PixelRange = Annotated[
    str | None,
    option(
        FILES,
        "Image files with more than 8 bits: the values that become black and white, such as "
        "0,4095 for 12 bits. Default: 0,65535 for 16 bits.",
        metavar="LOW,HIGH",
    ),
]
Limit = Annotated[int | None, option(DATA, "Use only so many training images.", min=1)]
OnBadImage = Annotated[
    str,
    option(
        FILES,
        "Image files that cannot be used: refuse (all in one report), or leave out.",
        choices=("error", "skip"),
    ),
]
Ignore = Annotated[
    list[str] | None,
    option(
        FILES,
        "Files and folders of an image folder that are left out (test,*_mask.png), or columns of "
        "a table (id); comma separated, or several times.",
        metavar="NAMES",
    ),
]
OnDuplicate = Annotated[
    str,
    option(
        FILES,
        "Pictures that are there twice: keep and tell, or leave copies out of training.",
        choices=("keep", "skip"),
    ),
]
LabelsOf = Annotated[
    Path | None,
    option(
        DATA,
        "Table (csv, tsv, xlsx, parquet) that says what to predict of which image of the folder; "
        "paths as in it, with or without their endings.",
        "--labels",
        metavar="TABLE",
    ),
]
ImageColumn = Annotated[
    str | None,
    option(
        LABELS,
        "Its column that names the images. Default: the one whose cells are files.",
        metavar="COLUMN",
    ),
]
LabelColumn = Annotated[
    str | None,
    option(
        LABELS,
        "Its column of labels. Default: the only other one, or one called label, class, target or "
        "category.",
        metavar="COLUMN",
    ),
]
SplitColumn = Annotated[
    str | None,
    option(
        LABELS,
        "Its column that says train, val or test. Default: parts are drawn.",
        metavar="COLUMN",
    ),
]
HeadOption = Annotated[
    list[str] | None,
    option(
        NETWORK,
        "Option of the (first) head, repeatable: hidden_features=16, num_layers=8.",
        "--head-option",
        metavar="NAME=VALUE",
    ),
]
Target = Annotated[str | None, option(DATA, "Column of a table to predict.", metavar="COLUMN")]
TaskOf = Annotated[
    str, option(TABLES, "What is predicted; of a table, or of --labels.", choices=TASKS)
]
Group = Annotated[
    str | None,
    option(
        TABLES,
        "What must not lie in two parts: a column of a table or of --labels, or a pattern over the "
        "names of image files.",
        metavar="COLUMN",
    ),
]
TimeColumn = Annotated[
    str | None,
    option(TABLES, "Column of time: nothing is trained on the future.", "--time", metavar="COLUMN"),
]
Tta = Annotated[
    str,
    option(
        "Options",
        "flip: average over every image and its mirror image (photographs, not digits).",
        choices=("none", "flip"),
    ),
]
Log = Annotated[
    str,
    option(
        OUTPUT,
        "Trackers that are told everything, comma separated: tensorboard, mlflow, wandb, trackio.",
        "--log",
        metavar="NAMES",
        autocompletion=complete.several("trackers"),
        callback=_known_trackers,
    ),
]
Wait = Annotated[
    bool,
    option(
        OUTPUT, "Where another process writes into the folder, wait until it has ended.", "--wait"
    ),
]
ConfigFile = Annotated[
    Path | None,
    option(
        OUTPUT,
        "Options out of a file: names and values, or the config.yaml of a run. Those in the "
        "command override it.",
        "--config",
        metavar="FILE.yaml",
        is_eager=True,
        callback=read_config,
    ),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        help="Folder of a finished run, or a checkpoint file.",
        metavar="RUN",
        autocompletion=complete.runs,
    ),
]


# How the values of some training options are shown and completed.
_SHOWN: Mapping[str, Mapping[str, Any]] = {
    "augment": {"metavar": "NAME:NUMBER", "autocompletion": complete.one("augmentations")},
    "mix": {"metavar": "NAME:ALPHA", "autocompletion": complete.of(("mixup", "cutmix", "both"))},
    "save_every": {"metavar": "TIME"},
}


def train_parameters() -> list[inspect.Parameter]:
    """Return a keyword-only parameter per field of `TrainConfig` that not only recipes have."""
    parameters = []
    for one in dataclasses.fields(TrainConfig):
        about = one.metadata
        if about["recipe"]:
            continue
        kind = str if about["also"] else type(one.default)
        choices = tuple(SCHEDULES) if one.name == "schedule" else about["choices"]
        more = dict(_SHOWN.get(one.name, {}))
        if about["also"]:
            more["metavar"] = f"N|{about['also']}"
        flag = "--" + one.name.replace("_", "-")
        names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
        made = option(TRAINING, about["help"], *names, choices=choices, **more)
        parameters.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=one.default,
                annotation=Annotated[kind, made],
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
    config: ConfigFile = None
    training: TrainConfig  # one option per field
    given: frozenset[str]  # the options that stand in the command, or in its --config
    typed: frozenset[str]  # the options that stand in the command
    rest: Mapping[str, Any]  # settings of a run that stand in --config and have no option

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
        kept += ("on_duplicate", "image_column", "label_column", "split_column")
        spec = RunSpec.of(
            self.data,
            head_options=head_options(self.head_option),
            train=self.training,
            labels=None if self.labels is None else str(self.labels),
            **{name: getattr(self, name) for name in kept},
            ignore=patterns(self.ignore),
            pixel_range=two_numbers("--pixel-range", self.pixel_range),
            **of_images(self.preset, self.given),
            **network,
            **fields,
        )
        return spec.having(**self.rest)

    def _network(self, probe_epochs: int) -> dict[str, Any]:
        """Return the network that is asked for, or a default with why it is this one."""
        from spinalnet.comparison.defaults import SMALL, default_network, of_frozen
        from spinalnet.data import DataSpec
        from spinalnet.models import find_backbone, use_model, zoo

        is_rate_open = not self.given & {"lr", "phases"}
        frozen: dict[str, Any] = {"freeze": self.freeze}
        if self.freeze:
            rate = of_frozen(is_rate_open=is_rate_open)
            frozen |= {**rate.options, "chosen": rate.why}
        if self.backbone is not None:
            self.refuse({"model"}, "beside --backbone, which takes its place")
            named: dict[str, Any] = {"model": find_backbone(self.backbone).name}
            pretrained = True if self.weights is None else str(self.weights)
            return {**named, "pretrained": pretrained, **frozen}
        if self.model is not None and zoo.is_own_model(self.model):
            use_model(self.model)
        if self.weights is not None:
            pretrained = str(self.weights)
            return {"model": self.model or SMALL, "pretrained": pretrained, **frozen}
        channels: Any = self.in_channels
        data = DataSpec(self.data, self.data_dir, self.image_size, channels)
        taken = default_network(
            data,
            self.training,
            model=self.model,
            is_rate_open=is_rate_open,
            probe_epochs=probe_epochs,
            download=self.download,
        )
        return {
            "pretrained": False,
            "freeze": self.freeze,
            **{k: v for k, v in taken.options.items() if k not in self.given - {"model"}},
            "chosen": taken.why,
        }

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

        unused = options | (set() if self.labels is not None else {"task"})
        if "task" in self.given & unused and DataSpec(self.data).row is None:
            raise InputError(
                f"--task of '{self.data}', which is no table, is that of its labels: give the "
                "table that holds them (--labels FILE)."
            )
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
    shared = parameters_of(RunOptions, "training", "given", "typed", "rest")
    own = parameters_of(command, "asked")

    @functools.wraps(command)
    def wrapper(ctx: typer.Context, **values: Any) -> None:
        def take(parameters: list[inspect.Parameter]) -> dict[str, Any]:
            return {parameter.name: values.pop(parameter.name) for parameter in parameters}

        sources = {name: ctx.get_parameter_source(name) for name in values}
        named = {name: s.name for name, s in sources.items() if s and s.name != "DEFAULT"}
        asked = RunOptions(
            training=TrainConfig(**take(training)),
            given=frozenset(named),
            typed=frozenset(name for name, source in named.items() if source != "DEFAULT_MAP"),
            rest=ctx.meta.get(REST, {}),
            **take(shared),
        )
        command(asked, **values)

    # In the help, a command's own options come behind those of the network.
    place = [parameter.name for parameter in shared].index("head_option")
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *shared[:place], *own, *shared[place:], *training]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


def patterns(given: list[str] | None) -> str | None:
    """Return what --ignore says of an image folder as one text, as `DataSpec` has it."""
    return ",".join(given) if given else None


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
    options: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--head-option must look like NAME=VALUE, got '{pair}'.")
        try:
            options[name] = from_yaml(value)
        except ValueError as error:
            raise InputError(f"--head-option {name} has an unreadable value '{value}'.") from error
    return options

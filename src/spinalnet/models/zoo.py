"""The paper's networks: a trunk that makes features, and any head on top of it.

`MODELS` is the one table. A row says how the trunk is built and which options the paper gave
each head; head sizes are computed from the trunk's real output, so any large enough image and
any number of classes fit. `create_model` builds from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.data import DataSpec
from spinalnet.models import backbones, channels, surgery
from spinalnet.models.trunks import (
    PAPER_WEIGHTS,
    MultiTapTrunk,
    PooledPositions,
    arch2_trunk,
    cifar_cnn_trunk,
    cifar_vgg_trunk,
    half_resnet_trunk,
    mnist_cnn_trunk,
    no_trunk,
    torchvision_trunk,
    vgg5_trunk,
    vit_trunk,
)
from spinalnet.nn import head_arguments, head_row, is_own, make_head, use_head
from spinalnet.randomness import own_generators


class ImageModel(nn.Module):
    """Trunk and head: images `(B, C, H, W)` to features `(B, F)` to logits `(B, num_classes)`.

    The trunk of a network for tables leaves its rows `(B, F)` as they are.

    Attributes:
        name: The row of `MODELS` it was built from.
        notes: Sentences the user must see, such as what of a file of weights was not used.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, trunk: nn.Module, head: nn.Module, name: str = "") -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(B, num_classes)`."""
        return self.head(self.trunk(images))

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return all parameters in groups, from the head down to the trunk's first stage."""
        return [list(self.head.parameters()), *reversed(backbones.stages(self.trunk))]


CONTROLS = ("matched", "unchained", "unchained-matched")
"""The heads that are made after another one, whatever its options are."""


@dataclass(frozen=True)
class ModelSpec:
    """Which network, with which head.

    Attributes:
        name: Row of `models.MODELS`, or full name of a backbone (`timm:NAME`, ...).
        head: Row of `nn.HEADS`, or "mymodule:MyHead" (see `nn.use_head`).
        head_options: Options of the head that override the paper's.
        neck: How the trunk's last map becomes features, where the model has a choice.
        pretrained: Start the trunk from published weights, or from those in the file of this path.
        freeze: Train the head only, on features that the trunk makes once (see `features`).

    Raises:
        InputError: If there is no such head.
    """

    name: str = "mnist-cnn"
    head: str = "spinal"
    head_options: Mapping[str, Any] = field(default_factory=dict)
    neck: str | None = None
    pretrained: bool | str = False
    freeze: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.pretrained, str) and self.pretrained.startswith("~"):
            object.__setattr__(self, "pretrained", str(files.expanded(self.pretrained)))
        if not is_own(self.head):  # which is asked for when the network is built
            head_row(self.head)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Come from another process of one command, which uses the head that it was told of."""
        self.__dict__.update(state)
        if is_own(self.head):
            use_head(self.head)

    def control(self, head: str = "matched") -> ModelSpec:
        """Return the same network with another head, to compare this one with.

        "matched", "unchained" and "unchained-matched" are controls of this very head: they have
        its size, and the norm, dropout and activation that it was given. Any other head has its
        own options.

        Raises:
            InputError: If there is no such head.
        """
        if head == self.head:
            return self
        twin = {"match": self.head, "match_options": dict(self.head_options)}
        return replace(self, head=head, head_options=twin if head in CONTROLS else {})


@dataclass(frozen=True)
class ModelRow:
    """One row of `MODELS`.

    Attributes:
        trunk: Builds the trunk from the number of input channels.
        input_shape: The paper's `(C, H, W)`, or `(F,)` for rows of numbers.
        min_size: Smallest image side that leaves at least one feature position.
        heads: The paper's options per head name. "mlp" is derived from "mlp-paper", and other
            heads from the spinal one: see `mlp_options` and `_first_options`.
        summary: One line for people.
        spinal: The row of `nn.HEADS` that "spinal" means on this trunk.
        necks: How a trunk that ends in a map makes features of it, the default first.
        zero_head_bias: The biases of the head start at zero.
        pretrained: The trunk can start from published ImageNet weights, or from a file of weights.
        published: Full name of the backbone whose published weights those are.
        mean: Mean per channel that published weights expect images normalised by, where that is
            known; otherwise the data's own is used.
        std: The same for the standard deviation.
    """

    trunk: Callable[..., nn.Module]
    input_shape: tuple[int, ...]
    min_size: int
    heads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summary: str = ""
    spinal: str = "spinal"
    necks: Mapping[str, Callable[[], nn.Module]] = field(default_factory=dict)
    zero_head_bias: bool = False
    pretrained: bool = False
    published: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def _vit(name: str, summary: str) -> ModelRow:
    shared = {"hidden_features": 20, "num_layers": 8, "num_splits": 8}
    return ModelRow(
        trunk=vit_trunk(name),
        input_shape=(3, 224, 224),
        min_size=16,
        heads={"spinal": shared, "spinal-shared": shared},
        pretrained=True,
        published=f"timm:{name}",
        summary=summary,
    )


# The paper compares a spinal head on 2 x 2 positions (1,024 features) with a linear map on one
# (256 features): heads and pooling change at once, and the comparison measures the pooling. Here
# every head gets the 2 x 2 positions; the paper's plain network is head="linear", neck="vector".
_RESNET_NECKS: dict[str, Callable[[], nn.Module]] = {
    "positions": lambda: PooledPositions(2),
    "vector": lambda: PooledPositions(1),
}
_RESNET_HEADS = {"spinal": {"hidden_features": 256, "num_layers": 4, "num_splits": 4}}


def _half_resnet(depth: int, *blocks: int) -> ModelRow:
    return ModelRow(
        trunk=half_resnet_trunk(*blocks),
        input_shape=(3, 32, 32),
        min_size=9,
        heads=_RESNET_HEADS,
        necks=_RESNET_NECKS,
        zero_head_bias=True,
        summary=f"{depth} layers, half as wide as a ResNet and without its last ReLUs (CIFAR)",
    )


_FULLY_CONNECTED = {"hidden_features": (4096, 4096), "dropout": (0.0, 0.5, 0.5)}


def _cifar_vgg(depth: int, *convs: int) -> ModelRow:
    return ModelRow(
        trunk=cifar_vgg_trunk(*convs),
        input_shape=(3, 32, 32),
        min_size=32,
        heads={
            "spinal": {"hidden_features": 512, "num_layers": 4, "dropout": 0.5},
            "mlp-paper": _FULLY_CONNECTED,
        },
        summary=f"VGG with {depth} layers and batch norm for 32 x 32 images (CIFAR)",
    )


def _backbone(
    name: str, classifier: str, min_size: int, size: int, **heads: Mapping[str, Any]
) -> ModelRow:
    return ModelRow(
        trunk=torchvision_trunk(name, classifier),
        input_shape=(3, size, size),
        min_size=min_size,
        heads={"mlp-paper": _FULLY_CONNECTED, **{k.replace("_", "-"): v for k, v in heads.items()}},
        pretrained=True,
        published=f"torchvision:{name}",
        summary=f"torchvision's {name} (transfer learning)",
    )


# The three flavours of the transfer scripts. A fourth has no activation at all, which makes the
# head one linear map: it is the bare one with activation="identity".
_BARE = {"hidden_features": 20, "num_layers": 4}
_DROPOUT_NORM = {"hidden_features": 512, "num_layers": 4, "norm": "batch", "dropout": 0.5}
_LEAKY = {"hidden_features": 5, "num_layers": 6, "activation": "leaky_relu"}
# The original's layers 5 and 6 run with the weights of layers 3 and 4 (counted from 1).
_REUSE = {"reuse": ((4, 2), (5, 3))}

MODELS: dict[str, ModelRow] = {
    "mnist-cnn": ModelRow(
        trunk=mnist_cnn_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 8, "num_layers": 6},
            "mlp-paper": {"hidden_features": 50, "output_dropout": 0.5},
        },
        summary="two 5x5 convolutions (paper: MNIST)",
    ),
    "arch2": ModelRow(
        trunk=arch2_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 30, "layers_per_tap": (10, 8, 8)},
            # The counterpart by the paper's rule: as many hidden neurons as all chains have.
            "mlp-paper": {"hidden_features": (780, 50)},
        },
        spinal="spinal-taps",
        summary="a spinal chain each on pixels, first and second convolution (paper: MNIST family)",
    ),
    "mnist-pixels": ModelRow(
        trunk=no_trunk,
        input_shape=(1, 28, 28),
        min_size=2,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "norm": "batch"},
            "progressive": {"hidden_features": 128, "norm": "batch"},
            "mlp-paper": {"hidden_features": 512, "norm": "batch"},
        },
        summary="no convolutions: the head sees the pixels (Progressive SpinalNet: MNIST)",
    ),
    "vgg5": ModelRow(
        trunk=vgg5_trunk,
        input_shape=(1, 28, 28),
        min_size=16,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "norm": "batch", "dropout": 0.5},
            "mlp-paper": {"hidden_features": 512, "norm": "batch", "dropout": 0.5},
            "progressive": {"hidden_features": 64},
        },
        summary="ten 3x3 convolutions in four blocks (paper: MNIST family, state of the art rows)",
    ),
    "cifar-cnn": ModelRow(
        trunk=cifar_cnn_trunk,
        input_shape=(3, 32, 32),
        min_size=8,
        heads={
            "spinal": {"hidden_features": 128, "num_layers": 4, "dropout": 0.1},
            "mlp-paper": {"hidden_features": (1024, 512), "dropout": (0.1, 0.0, 0.1)},
        },
        summary="six 3x3 convolutions in three blocks (paper: CIFAR)",
    ),
    "cifar-resnet10-half": _half_resnet(10, 1, 1, 1, 1),
    "cifar-resnet18-half": _half_resnet(18, 2, 2, 2, 2),
    "cifar-resnet34-half": _half_resnet(34, 3, 4, 6, 3),
    "cifar-vgg11-bn": _cifar_vgg(11, 1, 1, 2, 2, 2),
    "cifar-vgg13-bn": _cifar_vgg(13, 2, 2, 2, 2, 2),
    "cifar-vgg16-bn": _cifar_vgg(16, 2, 2, 3, 3, 3),
    "cifar-vgg19-bn": _cifar_vgg(19, 2, 2, 4, 4, 4),
    "alexnet": _backbone("alexnet", "classifier", 63, 300, spinal=_BARE),
    "resnet18": _backbone(
        "resnet18", "fc", 32, 224, spinal=_LEAKY, spinal_reused={**_LEAKY, **_REUSE}
    ),
    "resnet101": _backbone("resnet101", "fc", 32, 128, spinal=_DROPOUT_NORM),
    "resnext50_32x4d": _backbone(
        "resnext50_32x4d", "fc", 32, 224, spinal=_BARE, mlp_paper={"hidden_features": (204, 204)}
    ),
    "vgg19_bn": _backbone(
        "vgg19_bn", "classifier", 32, 112, spinal={**_DROPOUT_NORM, "hidden_features": 1024}
    ),
    "wide_resnet101_2": _backbone(
        "wide_resnet101_2",
        "fc",
        32,
        224,
        spinal=_DROPOUT_NORM,
        progressive={"hidden_features": 1024},
        spinal_shared={"hidden_features": 20, "num_layers": 8, "num_splits": 8},
    ),
    "vit_tiny_patch16_224": _vit("vit_tiny_patch16_224", "timm's vision transformer ViT-Ti/16"),
    "vit_large_patch16_224": _vit(
        "vit_large_patch16_224",
        "timm's vision transformer ViT-L/16 (shared-weight spinal heads: STL-10)",
    ),
    "regression-net": ModelRow(
        trunk=no_trunk,
        input_shape=(8,),
        min_size=1,
        heads={
            "spinal": {**_LEAKY, "hidden_features": 50},
            "spinal-reused": {**_LEAKY, "hidden_features": 50, **_REUSE},
            "mlp-paper": {"hidden_features": (200, 100), "activation": "leaky_relu"},
        },
        summary="no trunk: the head sees rows of numbers (paper: regression)",
    ),
}


def list_models() -> list[str]:
    """Return the names that `create_model` knows, besides backbones."""
    return sorted(MODELS)


def model_row(name: str, num_classes: int = 2) -> ModelRow:
    """Return the row of `MODELS`, or the row that a backbone (`timm:NAME`, ...) would have there.

    Args:
        name: Row of `MODELS`, or full name of a backbone (`backbones.find_backbone`).
        num_classes: Number of outputs, which the width of a backbone's spinal head depends on.

    Raises:
        InputError: If there is neither.
    """
    if name in MODELS:
        return MODELS[name]
    if not backbones.is_backbone(name):
        raise unknown_name("model", name, MODELS)
    backbone = backbones.find_backbone(name)
    return ModelRow(
        trunk=functools.partial(backbones.build_trunk, backbone.name),
        input_shape=backbone.input_shape,
        min_size=1,  # not declared anywhere: told when the trunk is tried
        heads={"spinal": surgery.spinal_options(num_classes)},
        pretrained=True,
        published=backbone.name,
        summary=f"{backbone.name} (transfer learning)",
        mean=backbone.mean,
        std=backbone.std,
    )


def check_weights_here(name: str, way: str = "give a file of them with pretrained=FILE") -> None:
    """See that the published weights of a network can be had without a network.

    Args:
        name: Row of `MODELS`, or full name of a backbone; one without such weights needs none.
        way: What else may be done, for the sentence.

    Raises:
        InputError: If not, or there is no such network.
    """
    published = model_row(name).published
    which = PAPER_WEIGHTS if name in MODELS else "DEFAULT"
    if published and not backbones.is_here(published, which):
        raise InputError(
            f"the published weights of '{name}' are not here, and they must not be fetched: allow "
            f"it with download=True, or {way}."
        )


def complete(
    spec: ModelSpec, data: DataSpec
) -> tuple[DataSpec, tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """Return what a network needs of data: size and channels, where `data` leaves them open.

    A backbone wants the size it was trained on and, with its weights, colour; any other network
    takes images as they are, or of its paper's size where they are too small for it.

    Returns:
        The data to load, and the constants (mean, std) to normalise it by, if not its own.

    Raises:
        InputError: If there is no such network.
    """
    row, known = model_row(spec.name), data.row
    size, channels = data.image_size, data.in_channels
    if size is None and (known is None or len(known.image_shape) == 3):
        is_small = known is not None and known.image_shape[1] < row.min_size
        size = row.input_shape[1] if row.mean or is_small else None
    uses_weights = bool(row.mean and spec.pretrained)
    if channels is None and uses_weights:
        channels = 3
    constants = (row.mean, row.std) if uses_weights else None
    if constants and channels == 1:  # the weights see one grey value in place of three colours
        mean, std = ((sum(values) / len(values),) for values in constants)
        constants = mean, std
    return replace(data, image_size=size, in_channels=channels), constants


_FLAVOUR = ("norm", "dropout", "output_dropout", "activation")


def mlp_options(paper: Mapping[str, Any], spinal: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the head "mlp" on a trunk.

    The widths are the paper's. Its norm and dropout were often not those of the spinal head beside
    it (a dropout of 0.5 against none on MNIST), so that a comparison of the two measured the
    dropout: here they are the spinal head's.

    Args:
        paper: Options of the paper's own MLP there, "mlp-paper"; empty where it had none.
        spinal: Options of the spinal head.
    """
    widths = {key: value for key, value in paper.items() if key not in _FLAVOUR}
    return widths | flavour_of(spinal)


def flavour_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of a head that are its flavour: norm, dropout and activation."""
    return {key: value for key, value in options.items() if key in _FLAVOUR}


def starting_width(spec: ModelSpec, num_classes: int) -> int | tuple[int, ...] | None:
    """Return `hidden_features` of a head before anything is tuned; None if it has no such thing."""
    row = model_row(spec.name, num_classes)
    kind = row.spinal if spec.head == "spinal" else spec.head
    accepted = head_arguments(kind)
    if "hidden_features" not in accepted:
        return None
    options = {**_first_options(row, spec.head, accepted), **spec.head_options}
    return options.get("hidden_features", accepted["hidden_features"].default)


def _choose_head(
    row: ModelRow,
    head: str,
    num_classes: int,
    tap_features: Sequence[int],
    given: Mapping[str, Any],
) -> tuple[str, dict[str, Any]]:
    """Return the row of `HEADS` and its options: the paper's where it has them, then those given.

    The heads of `CONTROLS` are made after the spinal head, or after the head `match` with its
    `match_options` (see `ModelSpec.control`).
    """
    kind, given = row.spinal if head == "spinal" else head, dict(given)
    accepted = head_arguments(kind)
    chosen = _first_options(row, head, accepted)
    if head in CONTROLS:
        name, asked = given.pop("match", "spinal"), given.pop("match_options", {})
        twin, options = _choose_head(row, name, num_classes, tap_features, asked)
        if head != "matched" and "num_splits" in head_arguments(twin):
            chosen = {key: value for key, value in options.items() if key in accepted}
        if "num_params" in accepted and "num_params" not in given:
            chosen |= surgery.matched_options(twin, sum(tap_features), num_classes, options)
        # A control for the wiring: a norm or dropout given to the twin is given to it too.
        chosen |= flavour_of(asked)
    if "tap_features" in accepted:
        chosen["tap_features"] = tuple(tap_features)
    chosen |= given
    if head == "mlp-paper" and "hidden_features" not in chosen:
        raise InputError(
            "the paper has no MLP on this network, so there is no head 'mlp-paper': take 'mlp', or "
            "give hidden_features."
        )
    return kind, chosen


def _first_options(row: ModelRow, head: str, accepted: Collection[str]) -> dict[str, Any]:
    """Return the options of a head of which nothing is asked.

    Those of the paper's heads are the paper's. A head that the paper never put on this trunk starts
    from the spinal head's size and flavour (norm, dropout, activation), so that a comparison
    changes the wiring and nothing else.
    """
    spinal, paper = row.heads["spinal"], row.heads.get("mlp-paper", {})
    if head in row.heads:
        return dict(row.heads[head])
    if head == "mlp":
        return mlp_options(paper, spinal)
    flavour = flavour_of(spinal)
    if head == "linear":
        rate = flavour.get("output_dropout", flavour.get("dropout"))
        return {} if rate is None else {"dropout": rate}
    # Every chain, and what takes the chain away, starts as long and as narrow as the spinal one.
    same_size = head == "progressive" or head.startswith(("spinal", "unchained"))
    inherited = spinal if same_size else flavour
    return {key: value for key, value in inherited.items() if key in accepted}


def _check_input(
    name: str, row: ModelRow, in_channels: int | None, image_size: int | None
) -> tuple[int, ...]:
    """Return the shape of one input, without the batch dimension."""
    channels = row.input_shape[0] if in_channels is None else in_channels
    check_positive("in_channels", channels)
    if len(row.input_shape) == 1:
        if image_size is not None:
            raise InputError(
                f"model '{name}' takes rows of numbers, not images: give their number as "
                "in_channels and leave out image_size."
            )
        return (channels,)
    size = row.input_shape[1] if image_size is None else image_size
    if size < row.min_size:
        raise InputError(
            f"model '{name}' needs images of at least {row.min_size} x {row.min_size} pixels, "
            f"got {size} x {size}. Enlarge them with image_size={row.input_shape[1]}."
        )
    return (channels, size, size)


def _build_trunk(spec: ModelSpec, row: ModelRow, in_channels: int) -> nn.Module:
    if spec.neck is not None and spec.neck not in row.necks:
        raise unknown_name(f"neck of model '{spec.name}'", spec.neck, row.necks)
    if not spec.pretrained:
        trunk = row.trunk(in_channels)
    elif not row.pretrained:
        raise InputError(
            f"model '{spec.name}' starts neither from published weights nor from a file of them: "
            "leave them out, or take a backbone."
        )
    else:
        if spec.pretrained is True:
            channels.check_colours(f"model '{spec.name}'", in_channels)
        trunk = row.trunk(in_channels, pretrained=spec.pretrained)
    if row.necks:
        trunk = nn.Sequential(trunk, row.necks[spec.neck or next(iter(row.necks))]())
    return trunk


def _tap_features(name: str, trunk: nn.Module, input_shape: Sequence[int]) -> list[int]:
    """Number of features the trunk makes of one input, tap by tap."""
    trunk.eval()
    example = torch.zeros(1, *input_shape)
    try:
        with torch.no_grad():
            taps = trunk.taps(example) if isinstance(trunk, MultiTapTrunk) else [trunk(example)]
    except (RuntimeError, AssertionError, ValueError) as error:
        if name in MODELS:  # whose sizes are checked beforehand
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(
            f"model '{name}' does not take images of shape {tuple(input_shape)} ({reason[:160]}); "
            "leave out the image size to use its own."
        ) from error
    trunk.train()
    return [tap.shape[1] for tap in taps]


def create_model(
    name: str,
    num_classes: int,
    in_channels: int | None = None,
    image_size: int | None = None,
    head: str = "spinal",
    *,
    neck: str | None = None,
    pretrained: bool | str = False,
    seed: int | None = None,
    **options: Any,
) -> ImageModel:
    """Build a network of the paper with the head of your choice.

    Args:
        name: Row of `MODELS` (see `list_models`), or a backbone: `timm:NAME`, `torchvision:NAME`
            or a row of `backbones.PACKAGED`.
        num_classes: Number of outputs.
        in_channels: Channels of the images, or numbers in a row; the paper's if `None`.
        image_size: Side of the (square) images in pixels; the paper's if `None`.
        head: Name of a head (see `spinalnet.nn.HEADS`).
        neck: How the last map becomes features, where the model has a choice (`ModelRow.necks`).
            The default gives every head the same features.
        pretrained: Start the trunk from the published ImageNet weights (downloads them), or from
            those in the file of this path.
        seed: Initialise from this seed without touching the global generator. The trunk is made
            first and the head from a stream of its own, so models that differ only in the head
            have the same trunk, bit by bit.
        options: Options of the head; they override the paper's.

    Returns:
        The model. Input `(B, in_channels, image_size, image_size)`, output logits
        `(B, num_classes)`.

    Raises:
        InputError: If a name is unknown, the images are too small for the trunk, or there are no
            published weights for it.

    Example:
        >>> model = create_model("mnist-cnn", num_classes=10, head="spinal")
        >>> model(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    spec = ModelSpec(name, head, options, neck, pretrained)
    return build(spec, num_classes, in_channels, image_size, seed=seed)


def build(
    spec: ModelSpec,
    num_classes: int,
    in_channels: int | None = None,
    image_size: int | None = None,
    *,
    seed: int | None = None,
) -> ImageModel:
    """Build the network that is asked for; arguments and errors as for `create_model`."""
    check_positive("num_classes", num_classes)
    row = model_row(spec.name, num_classes)
    input_shape = _check_input(spec.name, row, in_channels, image_size)
    with own_generators(None, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        trunk = _build_trunk(spec, row, input_shape[0])
        tap_features = _tap_features(spec.name, trunk, input_shape)
        if seed is not None:
            torch.manual_seed(seed + 1_000_003)
        kind, options = _choose_head(row, spec.head, num_classes, tap_features, spec.head_options)
        head = make_head(kind, sum(tap_features), num_classes, **options)
    model = ImageModel(trunk, head, spec.name)
    model.notes = getattr(trunk, "notes", ())
    if row.zero_head_bias:
        for module in model.head.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return model

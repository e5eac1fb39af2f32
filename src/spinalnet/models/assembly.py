"""A network put together: a trunk, the head of your choice, and what it needs of its data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError, check_positive, unknown_name
from spinalnet.data import DataSpec
from spinalnet.models import backbones, channels, surgery
from spinalnet.models.own_models import check_repeats, check_trunk, use_model
from spinalnet.models.trunks import MultiTapTrunk
from spinalnet.models.zoo import MODELS, ModelRow, is_own_model, model_row
from spinalnet.nn import Drawn, count_macs, head_arguments, head_row, is_own, make_head, use_head
from spinalnet.randomness import own_generators, seed_generators

CONTROLS = ("matched", "unchained", "unchained-matched")
"""The heads that are made after another one, whatever its options are."""


class ImageModel(Drawn, nn.Module):
    """Trunk and head: images `(B, C, H, W)` to features `(B, F)` to logits `(B, num_classes)`.

    The trunk of a network for tables leaves its rows `(B, F)` as they are.

    Attributes:
        name: The row of `MODELS` it was built from.
        notes: Sentences the user must see, such as what of a file of weights was not used.
        trunk_of: What its trunk was made of, see `make_trunk`; None of one made otherwise.
    """

    notes: tuple[str, ...] = ()
    trunk_of: Mapping[str, Any] | None = None

    def __init__(self, trunk: nn.Module, head: nn.Module, name: str = "") -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.name = name

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape `(B, num_classes)`."""
        return self.head(self.trunk(images))

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one input as it was built for, such as `(1, 28, 28)`; None if not known."""
        made = self.trunk_of or {}
        channels, size = made.get("in_channels"), made.get("image_size")
        if channels is None:
            return None
        return (channels,) if size is None else (channels, size, size)

    def total_macs(self) -> int | None:
        """Return the multiplications of one input; None if its shape is not known."""
        if self.input_shape is None:
            return None
        with suppress(InputError, RuntimeError):
            return count_macs(self, self.input_shape).total
        return None

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """Return all parameters in groups, from the head down to the trunk's first stage."""
        return [list(self.head.parameters()), *reversed(backbones.stages(self.trunk))]


@dataclass(frozen=True)
class ModelSpec:
    """Which network, with which head.

    Attributes:
        name: Row of `models.MODELS`, full name of a backbone (`timm:NAME`, ...), or
            "mymodule:MyNet" (see `models.use_model`).
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
        """Come from another process of one command, which uses what it was told of."""
        self.__dict__.update(state)
        if is_own(self.head):
            use_head(self.head)
        if is_own_model(self.name):
            use_model(self.name)

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
    if not row.input_shape and in_channels is None:
        raise InputError(
            f"model '{name}' is your own, and nobody else knows what it reads: give in_channels, "
            "and for images image_size."
        )
    channels = row.input_shape[0] if in_channels is None else in_channels
    check_positive("in_channels", channels)
    if not row.input_shape and image_size is None:
        return (channels,)
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


def _build_trunk(spec: ModelSpec, row: ModelRow, input_shape: Sequence[int]) -> nn.Module:
    in_channels = input_shape[0]
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
    if is_own_model(spec.name):
        check_trunk(spec.name, trunk, input_shape)
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
            or a row of `backbones.PACKAGED`; or "mymodule:MyNet", a network of your own, after
            `models.use_model`.
        num_classes: Number of outputs.
        in_channels: Channels of the images, or numbers in a row; the paper's if `None`. A network
            of your own must be told.
        image_size: Side of the (square) images in pixels; the paper's if `None`. A network of
            your own then reads rows.
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
            seed_generators(seed)
        trunk = _build_trunk(spec, row, input_shape)
        if seed is not None and is_own_model(spec.name):
            seed_generators(seed)
            check_repeats(spec.name, trunk, _build_trunk(spec, row, input_shape))
        tap_features = _tap_features(spec.name, trunk, input_shape)
        if seed is not None:
            seed_generators(seed + 1_000_003)
        kind, options = _choose_head(row, spec.head, num_classes, tap_features, spec.head_options)
        head = make_head(kind, sum(tap_features), num_classes, **options)
    model = ImageModel(trunk, head, spec.name)
    model.notes = getattr(trunk, "notes", ())
    channels, size = input_shape[0], input_shape[1] if len(input_shape) == 3 else None
    model.trunk_of = {"neck": spec.neck, "in_channels": channels, "image_size": size}
    if row.zero_head_bias:
        for module in model.head.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def make_trunk(
    name: str, *, neck: str | None = None, in_channels: int, image_size: int | None = None
) -> nn.Module:
    """Return the trunk of a network, with weights of its own, to load others into.

    Raises:
        InputError: As `create_model`.
    """
    row = model_row(name)
    input_shape = _check_input(name, row, in_channels, image_size)
    with own_generators():
        return _build_trunk(ModelSpec(name, neck=neck), row, input_shape)

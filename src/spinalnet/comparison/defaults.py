"""The network that is taken where nobody names one, and the learning rate of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spinalnet._checks import InputError, install_extra
from spinalnet.data import DataSpec
from spinalnet.data.photographs import look_at
from spinalnet.data.request import find_folder
from spinalnet.models.available import available_backbone
from spinalnet.training import TrainConfig

SMALL = "mnist-cnn"
"""The network of named data sets and of small or grey images."""

FROZEN_RATE = 1e-3
"""Learning rate of heads on features of a frozen network.

`benchmarks/default_rate.py --images frozen` chose it, on validation parts.
"""

COLOUR_RATE = 3e-3
"""Learning rate of networks that learn colour images from scratch.

`benchmarks/default_rate.py --images colour` chose it, on validation parts.
"""

LARGE_FROM = 65
"""Pixels of the shorter side from which on a photograph is more than the small network sees."""


@dataclass(frozen=True)
class Network:
    """A network that was chosen for somebody.

    Attributes:
        options: Fields of a run: model, with a pre-trained one pretrained and freeze, and lr where
            it was open and is not the usual one.
        why: Sentences that are told and that a run keeps; empty where there was nothing to choose.
    """

    options: Mapping[str, Any] = field(default_factory=lambda: {"model": SMALL})
    why: str = ""


def default_network(
    data: DataSpec,
    train: TrainConfig | None = None,
    *,
    model: str | None = None,
    is_rate_open: bool = True,
    probe_epochs: int = 0,
    download: bool | None = None,
) -> Network:
    """Choose a network for data of which none was named, and the rate of one that starts anew.

    For a folder of colour photographs larger than 64 pixels it is a pre-trained one that is here or
    can be had, frozen; a small network learns little from some hundred photographs. For all else it
    is the small one, as ever. What learns colour images from scratch does so at `COLOUR_RATE`.

    Args:
        data: The data; a folder is looked at.
        train: How it is to be trained, which may need a network that learns.
        model: The network that was named, which is not pre-trained.
        is_rate_open: Whether nobody has named the learning rate.
        probe_epochs: As of the run.
        download: Whether weights may be fetched; by default they may.
    """
    if data.row is not None:
        rate = _rate_of(data.row.image_shape[0] == 3 and is_rate_open)
        return Network({"model": model or SMALL, **rate.options}, rate.why)
    try:
        looks = look_at(find_folder(data))
    except InputError:
        looks = None  # whoever loads it tells
    if looks is None:
        return Network({"model": model or SMALL})
    is_colour = looks.is_colour and data.in_channels != 1
    scratch = _rate_of(is_colour and is_rate_open)
    if model is not None:
        return Network({"model": model, **scratch.options}, scratch.why)
    reason = _why_small(looks.side, is_colour, data, train, probe_epochs)
    found = None if reason is not None else available_backbone(download=download is not False)
    if found is None:
        why = (
            f"No network was named, and {reason}: {SMALL} is trained from scratch."
            if reason is not None
            else f"No network was named, and no pre-trained one is here: {SMALL} is trained from "
            "scratch. On photographs a pre-trained one is usually far better: "
            f"{install_extra('transfer')} brings one."
        )
        return Network({"model": SMALL, **scratch.options}, f"{why} {scratch.why}".strip())
    rate = of_frozen(is_rate_open=is_rate_open).options
    said = f" --lr {FROZEN_RATE:g}" if rate else ""
    return Network(
        {"model": found.name, "pretrained": True, "freeze": True, **rate},
        "No network was named, and these are colour photographs of more than "
        f"{LARGE_FROM - 1} pixels: heads are trained on features of {found.name}, pre-trained and "
        f"frozen (what --backbone {found.name} --freeze{said} asks for; --model {SMALL} "
        f"trains a small one from scratch). It is this one, {found.reason}.",
    )


def of_frozen(*, is_rate_open: bool) -> Network:
    """Return the rate of heads on a frozen network, which was named; nothing if it was named too.

    Args:
        is_rate_open: Whether nobody has named the learning rate.
    """
    if not is_rate_open:
        return Network({})
    told = f"Heads learn on a frozen network: the learning rate is {FROZEN_RATE:g} (--lr)."
    return Network({"lr": FROZEN_RATE}, told)


def _rate_of(learns_colour: bool) -> Network:
    """Return the rate of a network that learns all of its weights, where it is not the usual."""
    if not learns_colour:
        return Network({})
    told = f"It learns colour images from scratch: the learning rate is {COLOUR_RATE:g} (--lr)."
    return Network({"lr": COLOUR_RATE}, told)


def _why_small(
    side: int, is_colour: bool, data: DataSpec, train: TrainConfig | None, probe_epochs: int
) -> str | None:
    """Return a clause that says why the small network is taken; None if it is not."""
    if data.image_size is not None and data.image_size < LARGE_FROM:
        return f"images of {data.image_size} pixels are asked for"
    if side < LARGE_FROM:
        return f"the images are small (half of them at most {side} pixels)"
    if not is_colour:
        return "the images are grey"
    if train is not None and train.mix != "none":
        return "mix needs a network that learns"
    if probe_epochs or (train is not None and train.uses_depth):
        return "what is asked for needs a network that learns"
    return None

"""Networks of the user's own, by the place where they are written: "mymodule:MyNet".

See `own_code`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import own_code
from spinalnet._checks import InputError
from spinalnet.models.zoo import MODELS, ModelRow


def use_model(place: str) -> None:
    """Import a network and make it a row of `MODELS`, under the name of its place.

    The module may be installed or lie in the current folder. The network is a class of modules, or
    a function that returns one, with `in_channels` as its first argument: the channels of images,
    or how many numbers stand in a row; other arguments need defaults. What it makes is a trunk: it
    maps images `(B, in_channels, H, W)`, or rows `(B, in_channels)`, to features `(B, ...)`, which
    are flattened for the head. It has no classifier. How many features there are is seen by trying
    it on two batches in evaluation, which tells lazy layers their sizes too.

    With every head of a seed it must start from the same weights: a run seeds the generators of
    Python, NumPy and torch before it is made, from which alone it may draw, and makes it twice to
    see that it does.

    Args:
        place: Module and name, as "mymodule:MyNet" or "package.module:MyNet".

    Raises:
        InputError: If there is no such module or name in it, or its arguments do not fit.
    """
    if place in MODELS:
        return
    made = own_code.imported(place, "model", ["in_channels"])
    others = list(inspect.signature(made).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for one in others:
        if one.kind in named and one.default is inspect.Parameter.empty:
            raise InputError(
                f"model '{place}' is made of in_channels alone, but its argument {one.name} has no "
                "default: give it one, or write a function that calls it."
            )
    build = functools.partial(_build, made, place)
    MODELS[place] = ModelRow(build, (), 1, summary=own_code.summary(made, place))


def _build(made: Callable[..., Any], place: str, in_channels: int) -> nn.Module:
    try:
        network = made(in_channels)
    except InputError:  # what it says is meant for people
        raise
    except Exception as error:  # it may do anything
        raise InputError(
            f"model '{place}' cannot be made for in_channels={in_channels} "
            f"({own_code.said(error)})."
        ) from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"model '{place}' must make a torch.nn.Module, got {type(network).__name__}."
        )
    return nn.Sequential(network, nn.Flatten())


def check_trunk(place: str, trunk: nn.Module, input_shape: Sequence[int]) -> None:
    """See that a network of the user's own makes features, and let its lazy layers see their sizes.

    Args:
        place: Its name.
        trunk: What its row made.
        input_shape: Shape of one input.

    Raises:
        InputError: If it does not take such inputs, or does not make one row of features of each.
    """
    network = next(trunk.children())
    trains = network.training
    network.eval()
    reads = ", ".join(map(str, ("B", *input_shape)))
    try:
        with torch.no_grad():
            made = [network(torch.zeros(rows, *input_shape)) for rows in (2, 3)]
    except Exception as error:  # it may do anything
        raise InputError(
            f"model '{place}' does not take inputs of shape ({reads}): {own_code.said(error)}."
        ) from error
    finally:
        network.train(trains)
    shapes = [
        one.shape if isinstance(one, Tensor) and one.is_floating_point() and one.ndim > 1 else None
        for one in made
    ]
    if None in shapes:
        raise InputError(
            f"model '{place}' must return one tensor of features, (B, ...) in floats: of inputs "
            f"({reads}) it makes {_described(made[0])}."
        )
    rest = [tuple(shape)[1:] for shape in shapes if shape is not None]
    if [shape[0] for shape in shapes if shape is not None] != [2, 3] or rest[0] != rest[1]:
        two, three = (tuple(one.shape) for one in made)
        raise InputError(
            f"model '{place}' must return as many rows as it is given, all of one shape: of 2 "
            f"inputs it makes {two}, of 3 inputs {three}."
        )


def check_repeats(place: str, trunk: nn.Module, again: nn.Module) -> None:
    """See that a network, made twice after the same seeding, has the same weights.

    Raises:
        InputError: If not: the heads of a comparison would not start from one trunk.
    """
    first, second = trunk.state_dict(), again.state_dict()
    for name, value in first.items():
        other = second.get(name)
        if isinstance(value, Tensor) and not (
            isinstance(other, Tensor) and torch.equal(value, other)
        ):
            raise InputError(
                f"model '{place}' starts from other weights each time it is made with one seed "
                f"(see {name.partition('.')[2]}), so its heads could not be compared: draw them "
                "from the global generators of Python, NumPy or torch."
            )


def _described(made: Any) -> str:
    if not isinstance(made, Tensor):
        return f"a {type(made).__name__}"
    return f"{str(made.dtype).removeprefix('torch.')} of shape {tuple(made.shape)}"

"""Reading weights that the paper's own scripts have trained.

The scripts name the same parts differently from file to file (`spellings`), and their files do not
say everything (`reading`). Nothing is loaded unless everything fits, and no file is opened in a way
that could run code.

The networks of the scripts end in log-softmax where ours return logits; the weights are the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet import files
from spinalnet._checks import InputError, some, unknown_name
from spinalnet.comparison.schema import SCHEMA
from spinalnet.models import assembly, checkpoints, zoo
from spinalnet.nn.activations import ACTIVATIONS
from spinalnet.nn.dense import LinearHead, ProgressiveNet
from spinalnet.nn.heads import head_arguments
from spinalnet.nn.layers import SpinalLayer
from spinalnet.paper.reading import WIRINGS, Checkpoint, Reading, read_head
from spinalnet.paper.spellings import candidates


def _head_of(model: nn.Module) -> nn.Module:
    return model.head if isinstance(model, assembly.ImageModel) else model


def _describe(model: nn.Module) -> str:
    name = f"model '{model.name}' with " if isinstance(model, assembly.ImageModel) else ""
    return f"{name}head {type(_head_of(model)).__name__}"


def _check_tensors(state_dict: Mapping[str, Any]) -> None:
    what = f"got {type(state_dict).__name__}"
    if isinstance(state_dict, Mapping):
        other = [str(key) for key, value in state_dict.items() if not isinstance(value, Tensor)]
        if state_dict and not other:
            return
        what = f"but {some(other, 3)} is not a tensor" if other else "but it is empty"
    raise InputError(
        f"a state dict must map names to tensors, {what}. "
        "Save model.state_dict() where the weights were trained."
    )


def load_original_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> nn.Module:
    """Copy weights trained by the paper's scripts into `model`, all of them or none.

    Args:
        model: A model of `create_model`, or a head on its own. A head may come from a whole
            network's checkpoint with its keys still below `fc.`, `classifier.` or `head.`.
        state_dict: The original's tensors by their original names. Counters of batch norms may be
            missing. Two kinds of dead tensors are left out: the layers that a `ReusedSpinalNet`
            stands in for, and the `fc.*` that two scripts put on a VGG-19 and never call.

    Returns:
        `model`.

    Raises:
        InputError: If a key is missing or left over, a shape differs, or the weights were trained
            with another activation. Nothing has been copied then.

    The keys cannot tell whether layers were run twice (see `ReusedSpinalNet`): weights of the
    regression and the hymenoptera script need that head.
    """
    _check_tensors(state_dict)
    _fit(model, checkpoints.without_prefixes(state_dict))
    return model


def _fit(
    model: nn.Module, weights: Mapping[str, Tensor], *, any_activation: bool = False
) -> list[str]:
    """Copy weights into a model, all of them or none; return the names of dead ones left out."""
    found = list(candidates(model))
    if not found:
        raise InputError(
            f"the original scripts have no {_describe(model)}: build it with the sizes and the "
            "norm the weights were trained with."
        )
    names = max(found, key=lambda one: sum(key in weights for key in one.keys.values()))
    ours = model.state_dict()
    wanted = {key: ours[own] for own, key in names.keys.items()}
    ignored = set(names.dead)
    if isinstance(model, assembly.ImageModel) and model.name == "vgg19_bn":
        ignored |= {key for key in weights if key.startswith("fc.")} - wanted.keys()
    problems = checkpoints.differences(
        [key for key in wanted if key not in weights and not key.endswith(checkpoints.COUNTER)],
        [key for key in weights if key not in wanted and key not in ignored],
        [
            f"{key} {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
            for key, value in wanted.items()
            if key in weights and weights[key].shape != value.shape
        ],
    )
    if problems:
        raise InputError(
            f"these weights do not fit {_describe(model)}: {problems}. "
            "Build it with the head and the sizes they were trained with."
        )
    checkpoints.check_numbers(
        {key: weights[key] for key in wanted if key in weights}, wanted, "these weights are useless"
    )
    if not any_activation:
        _check_activation(model, names.activation)
    ours.update({own: weights[key] for own, key in names.keys.items() if key in weights})
    model.load_state_dict(ours)
    return [key for key in weights if key in ignored]


def _check_activation(model: nn.Module, name: str | None) -> None:
    if name is None:
        return
    for module in _head_of(model).modules():
        if not isinstance(module, SpinalLayer | ProgressiveNet):
            continue
        if type(module.activation) is not ACTIVATIONS[name]:
            raise InputError(
                f"these weights were trained with activation='{name}', but the head has "
                f"{type(module.activation).__name__}. Build it with activation='{name}'."
            )


def convert_checkpoint(
    path: str | Path,
    model_name: str,
    out: str | Path,
    *,
    head: str | None = None,
    wiring: str | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    on_assumption: Callable[[str], None] | None = None,
    **options: Any,
) -> assembly.ImageModel:
    """Turn a checkpoint of the original scripts into one of ours.

    Head, widths, slices and number of classes are read from the shapes in the file. What they leave
    open (wiring, activation, dropout, normalisation) is what all scripts with these names did, and
    said to `on_assumption`, or has to be given.

    Args:
        path: The original's file; see `models.checkpoints.read_weights`.
        model_name: Row of `models.MODELS`.
        out: File to write, safetensors with the same header as the `model.safetensors` of a run.
        head: Name of a head, if the one read from the file is not wanted.
        wiring: How the layers of a spinal head run: "chain", all of them once; "reused", the third
            and fourth of six a second time in place of the last two; "shared", one matrix for all
            but the first; "tiled", on the slices of the original's module where these do not fall
            evenly. Read from the file where it tells.
        in_channels: Channels of the images; read from the file if there are convolutions. Of a
            network for tables the length of a row.
        image_size: Side of the images in pixels; the paper's if `None`.
        class_names: One name per output; numbers if `None`.
        mean: Channel means that images were normalised with, on the 0..1 scale; 0 if `None`.
        std: The deviations; 1 if `None`.
        on_assumption: Called with a sentence for everything that is assumed, and why:
            "activation=relu: every script with these names uses it".
        options: Options of the head (`activation`, `num_splits`, `dropout`, ...); they override
            what was read or assumed.

    Returns:
        The model with its weights, in evaluation mode.

    Raises:
        InputError: If the file cannot be read, does not fit, leaves something open that was not
            given, or `out` cannot be written.
    """
    if model_name not in zoo.MODELS:
        raise unknown_name("model", model_name, zoo.MODELS)
    old, new = files.expanded(path), files.expanded(out)
    if new.exists() and old.exists() and new.samefile(old):
        raise InputError(f"{out} is the file to convert, which would be lost: give another name.")
    reading, model, about = _build(path, model_name, head, wiring, in_channels, image_size, options)
    outputs, channels = len(about["class_names"]), about["input_shape"][0]
    if class_names is not None and len(class_names) != outputs:
        raise InputError(
            f"class_names must have {outputs} names, one per output of {path}, got "
            f"{len(class_names)}."
        )
    if class_names is not None and (len({*class_names}) < outputs or not all(class_names)):
        raise InputError(f"class_names must differ, and none be empty, got {list(class_names)}.")
    is_image = len(about["input_shape"]) == 3
    constants = {
        name: _constants(name, values, channels, usual, is_image=is_image)
        for name, values, usual in (("mean", mean, 0.0), ("std", std, 1.0))
    }
    if mean is None and std is None and is_image:
        reading.assumed.append(
            "mean=0, std=1: the file does not say how images were normalised, so that pixels are "
            "taken as they are, from 0 to 1"
        )
    about |= {
        "class_names": list(class_names or about["class_names"]),
        **constants,
        "data": None,
        "seed": None,
        "converted_from": Path(path).name,
        "schema": SCHEMA,
    }
    files.save_weights(out, model.state_dict(), about)
    if on_assumption is not None:
        for sentence in reading.assumed:
            on_assumption(sentence)
    return model.eval()


def _constants(
    name: str, values: Sequence[float] | None, channels: int, usual: float, *, is_image: bool
) -> list[float]:
    if values is not None and len(values) not in (1, channels):
        raise InputError(
            f"{name} must have one number per channel ({channels}), got {len(values)}."
        )
    given = [usual] if values is None else [float(value) for value in values]
    if not all(math.isfinite(value) and (name == "mean" or value > 0) for value in given):
        kind = "a number" if name == "mean" else "a positive number"
        raise InputError(f"{name} must be {kind} per channel, got {given}.")
    if is_image and any(abs(value) > 1 for value in given):
        raise InputError(
            f"{name} must be on the scale of pixels from 0 to 1, got {given}: divide what is on "
            "that of 0 to 255 by 255."
        )
    return given if len(given) == channels else given * channels


def _build(
    path: str | Path,
    model_name: str,
    head: str | None,
    wiring: str | None,
    in_channels: int | None,
    image_size: int | None,
    options: Mapping[str, Any],
) -> tuple[Reading, assembly.ImageModel, dict[str, Any]]:
    """Return what a file says, its network with its weights, and what to keep of both."""
    weights = checkpoints.read_weights(path)
    checkpoints.check_numbers(weights, {}, f"{path} is useless")
    usual, *size = zoo.MODELS[model_name].input_shape
    if in_channels is None and size:
        kernels = (value.shape[1] for value in weights.values() if value.dim() == 4)
        in_channels = next(kernels, usual)
    wiring = _one_wiring(head, wiring)
    features = _features(model_name, in_channels, image_size) if size else in_channels
    reading = read_head(Checkpoint(path, weights, model_name, features, wiring, options))
    if not size:
        in_channels = in_channels or reading.in_features
    head = head or reading.head
    accepted = head_arguments(head)
    chosen = {key: value for key, value in reading.options.items() if key in accepted}
    chosen |= options
    model = assembly.create_model(
        model_name, reading.num_classes, in_channels, image_size, head, neck=reading.neck, **chosen
    )
    if dead := _fit(model, weights, any_activation="activation" in options):
        reading.assumed.append(f"{len(dead)} weights not used, which never ran: {some(dead, 4)}")
    return (
        reading,
        model,
        {
            "model": model_name,
            "head": head,
            "head_options": chosen,
            "neck": reading.neck,
            "class_names": [str(k) for k in range(reading.num_classes)],
            "input_shape": [
                in_channels or usual,
                *(size if image_size is None else (image_size, image_size)),
            ],
        },
    )


def _one_wiring(head: str | None, wiring: str | None) -> str | None:
    """Return the wiring that is asked for, by its own name or by that of a head."""
    of_head = next((name for name, kind in WIRINGS.items() if kind == head), None)
    if wiring is not None and head is not None and wiring != of_head:
        raise InputError(
            f"wiring={wiring} belongs to the head '{WIRINGS.get(wiring, '?')}', got head={head}: "
            "give one of them."
        )
    return wiring or of_head


def _features(model_name: str, in_channels: int | None, image_size: int | None) -> int:
    """Return how many features the trunk of a model makes, from a twin without numbers."""
    build = functools.partial(
        assembly.create_model, model_name, 2, in_channels, image_size, "linear"
    )
    try:
        with torch.device("meta"):
            model = build()
    except (RuntimeError, NotImplementedError):  # it needs its numbers
        model = build()
    assert isinstance(model.head, LinearHead)
    return model.head.output.in_features

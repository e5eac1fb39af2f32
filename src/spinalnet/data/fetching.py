"""Files from the network: whole and checked in their place, or not there at all.

A transfer goes to a file aside, is taken up where it broke off, checked, and only then renamed;
archives are unpacked aside and what belongs to a data set is renamed into its place. A process may
end at any moment: the next one goes on. Of several processes that want the same file one fetches
it, and the others wait (where the system has locks).
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import gzip
import hashlib
import http.client
import os
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from spinalnet import files
from spinalnet._checks import InputError
from spinalnet.data.sources import Download

try:
    import fcntl
except ImportError:  # not on Windows: two processes may then disturb each other, which is noticed
    fcntl: ModuleType | None = None

TIMEOUT = 30.0
"""Seconds that a server may be silent."""
TRIES = 4
"""How often in a row a server may break off without a new byte."""
PAUSE = 1.0
"""Seconds before the second try; doubled for every further one."""

_CHUNK = 1 << 18
_WORTH_WAITING = frozenset((408, 425, 429, 500, 502, 503, 504))  # "not now" in HTTP


class NotFetchedError(InputError):
    """No server gave the file; the message says what each did."""


class _RefusedError(Exception):
    """A server does not give the file that was asked for: the next one is tried."""


def fetch(urls: Sequence[str], path: str | os.PathLike[str], digest: str = "") -> Path:
    """Fetch one file, unless it is there and whole.

    Args:
        urls: Addresses of the same file, tried in this order.
        path: Where it goes. While it is on its way it lies beside that, hidden.
        digest: Its checksum, "md5:..." or "sha256:..."; the beginning is enough. Without one the
            file is taken as it comes, and a transfer that broke off begins anew.

    Returns:
        `path`.

    Raises:
        NotFetchedError: If no server gives the file; what has come stays for the next try.
        InputError: If the file cannot be written.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}.lock")
    with _alone(lock, path.name):
        if not is_whole(path, digest):
            _fetch_alone(urls, path, digest)
        with contextlib.suppress(OSError):  # who waits for it finds the file in its place
            lock.unlink()
    return path


def is_whole(path: Path, digest: str = "") -> bool:
    """Return whether a file is there and has the checksum, where one is known."""
    if not path.is_file():
        return False
    kind, _, begins = digest.partition(":")
    return not begins or _checksum(path, kind).startswith(begins)


def get(download: Download, root: Path, done: Callable[[], bool] | None = None) -> None:
    """Fetch a file of a data set, unpack it, and put what belongs to the set in its place.

    Args:
        download: What, from where, and where it goes.
        root: The data folder.
        done: Whether nothing is left to do; asked when no other process is at it. Without it,
            what lies in its place is taken for whole.

    Raises:
        NotFetchedError: If no server gives the file.
        InputError: If something cannot be written or unpacked.
    """
    # One folder per file of the network: two data sets may come out of one archive.
    place = root / f".download-{download.digest.partition(':')[2][:12]}"
    with _alone(place / "lock", download.name):
        if (done or functools.partial(download.is_here, root))():
            return
        try:
            archive = fetch(download.urls, place / download.name, download.digest)
        except NotFetchedError:
            if not any(place.glob("*.part")):  # nothing that the next try could go on with
                shutil.rmtree(place, ignore_errors=True)
            raise
        unpacked = place / "unpacked"
        with _unpacking(archive):
            shutil.rmtree(unpacked, ignore_errors=True)  # what a killed process left
            unpacked.mkdir()
            _unpack(archive, unpacked, download.inner)
            for inside, target in download.moves:
                _put(unpacked / inside, root / target)
        shutil.rmtree(place, ignore_errors=True)


def _fetch_alone(urls: Sequence[str], path: Path, digest: str) -> None:
    """Fetch a file that no other process is fetching."""
    part = path.with_name(f".{path.name}.part")
    failures = []
    for url in urls:
        try:
            with _Progress(path.name, url) as progress:
                _transfer(url, part, path, digest, progress)
        except _RefusedError as error:
            failures.append(f"{urllib.parse.urlsplit(url).netloc} {error}")
            continue
        with files.writing(path):
            with part.open("rb+") as file:
                files.flush_to_disk(file)
            part.replace(path)
        return
    raise NotFetchedError(f"{path.name} cannot be fetched: {'; '.join(failures)}.")


def _transfer(url: str, part: Path, path: Path, digest: str, progress: _Progress) -> None:
    """Bring `part` to the whole file, going on with what is there.

    Raises:
        _RefusedError: If this server does not give the file.
    """
    resumed = digest != "" and part.exists()
    if resumed and is_whole(part, digest):
        return
    idle = most = 0
    while True:
        try:
            _receive(url, part, path, part.stat().st_size if resumed else 0, progress)
        except _BrokenError as error:
            now = part.stat().st_size if part.exists() else 0
            idle, most = (0, now) if now > most else (idle + 1, most)
            if idle >= TRIES or not progress.begun:  # who never answered is not waited for
                raise _RefusedError(str(error)) from error
            time.sleep(PAUSE * 2**idle)
            resumed = digest != "" and now > 0
            continue
        seen = _instead_of_a_file(part)
        if is_whole(part, digest) and not seen:
            return
        seen = seen or _what_came(part, digest)
        with files.writing(part):
            part.unlink(missing_ok=True)
        if not resumed:
            raise _RefusedError(seen)
        resumed, idle = False, 0  # the beginning was of another file: once more, all of it


class _BrokenError(Exception):
    """A transfer broke off; what has come is of use."""


def _receive(url: str, part: Path, path: Path, start: int, progress: _Progress) -> None:
    """Append to `part` what a server sends from byte `start` on.

    Raises:
        _BrokenError: If the transfer breaks off.
        _RefusedError: If the server does not give the file.
    """
    headers = {"User-Agent": "Mozilla/5.0 (compatible; spinalnet)"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        ) as response:
            goes_on = response.status == 206 and _starts_at(response) == start
            if response.headers.get_content_type() == "text/html":
                raise _RefusedError("answers with a web page instead of the file")
            begin = start if goes_on else 0
            length = response.headers.get("Content-Length")
            total = begin + int(length) if length is not None else None
            with files.writing(path):
                file = part.open("rb+" if goes_on else "wb", buffering=0)
            with file:
                file.seek(begin)
                _check_room(path, (total or 0) - begin)
                progress.begin(begin, total)
                _copy(response, file, path, progress)
                end = file.tell()
            if total is not None and end < total:
                raise _BrokenError(f"breaks off after {end:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing comes behind what is here: the checksum will tell
            return
        said = f"answers {error.code} {error.reason}"
        raise (_BrokenError if error.code in _WORTH_WAITING else _RefusedError)(said) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if isinstance(reason, TimeoutError):
            raise _BrokenError(f"is silent for {TIMEOUT:g} seconds") from error
        if isinstance(reason, OSError):
            reason = reason.strerror or reason
        raise _BrokenError(f"cannot be reached ({str(reason) or type(error).__name__})") from error


def _copy(response: http.client.HTTPResponse, file: IO[bytes], path: Path, bar: _Progress) -> None:
    while chunk := response.read1(_CHUNK):  # what is there: progress shows on slow lines too
        with files.writing(path):
            if file.write(chunk) < len(chunk):  # how some systems say that the disk is full
                raise files.not_written(path, OSError(errno.ENOSPC, "the disk is full"))
        bar.add(len(chunk))


def _starts_at(response: Any) -> int | None:
    """Return the first byte that a partial answer says it holds."""
    unit, _, span = str(response.headers.get("Content-Range", "")).partition(" ")
    first = span.partition("-")[0]
    return int(first) if unit == "bytes" and first.isdecimal() else None


def _check_room(path: Path, needed: int) -> None:
    """Refuse before the transfer what cannot fit on the disk."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        said = f"{needed / 1e6:,.0f} MB are to come, and {free / 1e6:,.0f} MB are free"
        raise files.not_written(path, OSError(said))


def _checksum(path: Path, kind: str) -> str:
    new = functools.partial(hashlib.new, kind, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, new).hexdigest()


def _instead_of_a_file(part: Path) -> str:
    """Say what came if it is no file of data, whatever its checksum should be; "" if it may be."""
    with part.open("rb") as file:
        head = file.read(256)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "answers with a web page instead of the file"
    return "" if head else "gives an empty file"


def _what_came(part: Path, digest: str) -> str:
    """Say what is wrong with a file whose checksum is not the one it should have."""
    kind, _, begins = digest.partition(":")
    found = _checksum(part, kind)[: len(begins)]
    return (
        f"gives another file ({part.stat().st_size:,} bytes with {kind.upper()} {found}, "
        f"expected {begins})"
    )


@contextlib.contextmanager
def _alone(lock: Path, what: str) -> Iterator[None]:
    """Run the block while no other process runs it; wait for one that does."""
    with contextlib.ExitStack() as stack:
        with files.writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(lock.open("ab"))
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    _say(f"{what}: another process fetches it; waiting ...\n")
                    fcntl.flock(held, fcntl.LOCK_EX)
        yield


# --- archives -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _unpacking(archive: Path) -> Iterator[None]:
    """Turn what an archive can do wrong into a sentence."""
    damaged = (
        *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
        *(FileNotFoundError, NotImplementedError),
    )
    try:
        yield
    except damaged as error:
        raise InputError(
            f"{archive} cannot be unpacked ({str(error) or type(error).__name__}): delete it, and "
            "fetch it again."
        ) from error
    except OSError as error:
        raise files.not_written(archive.parent, error) from error


def _unpack(archive: Path, into: Path, inner: Sequence[str] = ()) -> None:
    """Unpack an archive, or of it the archives that match a pattern, and these in their turn.

    What is no archive is moved as it is.
    """
    name = archive.name
    if name.endswith(".zip"):
        with zipfile.ZipFile(archive) as held:
            names = [one for one in held.namelist() if not inner or _matches(one, inner)]
            held.extractall(into, names)  # it keeps what it unpacks below `into`
    elif name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(archive) as held:
            # Refuses what would land elsewhere; from Python 3.11.4 on.
            safe: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            members = [one for one in held if not inner or _matches(one.name, inner)]
            held.extractall(into, members, **safe)
    elif name.endswith(".gz"):
        with gzip.open(archive) as source, (into / name.removesuffix(".gz")).open("wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
    else:
        archive.replace(into / name)
    for pattern in inner:
        for found in sorted(into.glob(pattern)):
            _unpack(found, into)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.removeprefix("./"), pattern) for pattern in patterns)


def _put(source: Path, target: Path) -> None:
    """Rename a file or folder into its place; into a folder that is there, file by file."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _put(path, target / path.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


# --- what a person sees ---------------------------------------------------------------------------


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


class _Progress:
    """Says on standard error what comes, and how far it has got where that is a terminal."""

    def __init__(self, name: str, url: str) -> None:
        self._name, self._host = name, urllib.parse.urlsplit(url).netloc
        self._done, self._total, self._shown, self.begun = 0, 0, 0.0, False

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.begun and sys.stderr.isatty():
            _say("\n")

    def begin(self, done: int, total: int | None) -> None:
        """Take note that a transfer begins, or goes on behind `done` bytes."""
        self._done, self._total = done, total or 0
        if not self.begun:
            size = f" ({self._total / 1e6:,.1f} MB)" if total else ""
            rest = f", going on behind {done / 1e6:,.1f} MB" if done else ""
            _say(f"fetching {self._name}{size} from {self._host}{rest}\n")
        self.begun = True

    def add(self, count: int) -> None:
        """Take note of so many further bytes."""
        self._done += count
        now = time.monotonic()
        if sys.stderr.isatty() and (now > self._shown + 0.2 or self._done == self._total):
            share = f" of {self._total / 1e6:,.1f}" if self._total else ""
            _say(f"\r  {self._done / 1e6:,.1f}{share} MB ")
            self._shown = now

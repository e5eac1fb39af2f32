"""Commands in forks of this process, which has loaded everything, so that they start at once.

A fork is a process of its own in all that a run does: its files, its locks, its signals, its end.
What it leaves out is loading Python's modules, which writes nothing; what starts in a fresh Python
all the same are workers of a comparison, and whatever `fresh` starts.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_FORKABLE = "jemalloc_bg_thd"  # of pyarrow's allocator, which knows of forks
_NOT_LEARNED = ("__", "triton", "onnxruntime")  # the last starts threads when it is loaded
LONGEST = 900.0  # seconds after which a command counts as one that hangs


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, below 0 for a signal, what it said, how long it took."""

    code: int
    said: str
    seconds: float

    @property
    def is_in_order(self) -> bool:
        """Whether it succeeded, or refused in a sentence."""
        return self.code in (0, 2) and "Traceback" not in self.said


_LATE = ("yaml", "safetensors.torch")  # of all commands
_OF_MANY = ("pandas", "jinja2", "sklearn.datasets", "PIL.Image")


def warm_up(*, quick: bool = False) -> None:
    """Load the command and what it loads late, and compute nothing: forks have no threads."""
    from spinalnet.cli.root import command

    command()
    for name in _LATE if quick else _LATE + _OF_MANY:
        importlib.import_module(name)
    check_single()


def learn(names: Path) -> None:
    """Load what a fork had loaded at its end."""
    for name in names.read_text(encoding="utf-8").split():
        if name not in sys.modules and not name.startswith(_NOT_LEARNED):
            with suppress(Exception):  # made by hand, or of another platform
                importlib.import_module(name)
    check_single()


def check_single() -> None:
    """See that this process has one thread: a fork would lack the others, and wait for them."""
    tasks = Path("/proc/self/task")
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()]
    others = [name for name in names[1:] if name != _FORKABLE]
    if others:
        raise RuntimeError(f"this process has other threads and cannot be forked: {others}.")


def start(
    words: Sequence[str],
    log: Path,
    *,
    before: Callable[[], None] | None = None,
    after: Callable[[], None] | None = None,
    modules: Path | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> int:
    """Start `spinalnet WORDS` in a fork; return its number.

    Args:
        words: Of the command.
        log: What it says is added to this file.
        before: Called in the fork first.
        after: Called there last, if it comes to that.
        modules: Where it writes the names of the modules that it has loaded.
        environment: Variables that it has beside ours.
        cwd: Its folder.
    """
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.setsid()
        os.environ.update({"COLUMNS": "200"} | dict(environment or {}))
        sys.argv = ["spinalnet", *words]
        if cwd is not None:
            os.chdir(cwd)
        if before is not None:
            before()
        from spinalnet.cli.root import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            if modules is not None:
                modules.write_text("\n".join(sorted(sys.modules)), encoding="utf-8")
            if after is not None:
                after()
        os._exit(code)


def fresh(
    words: Sequence[str],
    log: Path,
    *,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str | None] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `spinalnet WORDS` in a Python of its own.

    Args:
        words: Of the command.
        log: What it says is added to this file.
        before: Called in the process before Python starts.
        environment: Variables that it has beside ours; None for one that it lacks.
        cwd: Its folder.
    """
    # Of torch, loaded here: where a Python that has another folder for it may not write.
    ours = {name: one for name, one in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    wanted = {**ours, "COLUMNS": "200", **(environment or {})}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "spinalnet", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in wanted.items() if value is not None},
            preexec_fn=before,
            cwd=cwd,
        )


def wait(pid: int, seconds: float = LONGEST, *, kill: bool = True) -> int | None:
    """Wait so long for a fork, then kill it.

    Returns:
        Its exit code, below 0 for a signal; None if it still runs, where it is not to be killed.
    """
    ended = os.pidfd_open(pid)
    try:
        if not select.select([ended], [], [], seconds)[0]:
            if not kill:
                return None
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(words: Sequence[str], log: Path, **options: object) -> Ended:
    """Run a command in a fork to its end; what it says also comes back."""
    began, before = time.perf_counter(), log.stat().st_size if log.exists() else 0
    code = wait(start(words, log, **options))  # type: ignore[arg-type]  # those of `start`
    assert code is not None
    said = log.read_bytes()[before:].decode(errors="replace")
    return Ended(code, said, time.perf_counter() - began)

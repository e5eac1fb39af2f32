"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

# One thread, here and in subprocesses: on small tensors a second one is slower, and on a busy
# machine very much so. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from helpers import stay_in_one_process

# A shell that starts the tests in the background has them, and all they start, ignore Ctrl-C; nohup
# has them ignore the end of the terminal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("ci", max_examples=40, derandomize=True, deadline=None)
settings.register_profile("deep", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Files that start jobs of several processes, or compilers on all cores, never run at once.
PROCESSES = ("test_builds.py", "test_dist.py", "test_engine.py", "test_train.py")
PROCESSES += ("test_interruptions.py", "test_processes.py")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Share whole runs among the cores; chosen tests, or a single core, take no workers."""
    chosen = config.args_source == pytest.Config.ArgsSource.ARGS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return 0 if chosen or cores == 1 else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Keep a file in one worker: its tests share fixtures that train."""

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "processes" if file.endswith(PROCESSES) else file

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _comparisons_stay_in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stay_in_one_process(patch)
        yield


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command that was one of several processes leaves signals ignored: it ends then."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
    yield
    for number, answer in before.items():
        signal.signal(number, answer)


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)

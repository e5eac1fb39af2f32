"""The inside of a process that times heads: it loads little, so that it is soon ready.

Where the system can copy a process, one loads and its copies measure, each with its memory laid
out anew. Their times differ as much as those of processes that load for themselves, and copies of
one process are no more alike than those of two: `benchmarks/stopwatches.py`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import random
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spinalnet import timing

_SECONDS = 0.08  # of each head: some 40 rounds of five small ones
_ROUNDS = 5  # at least


@dataclass(frozen=True)
class TimedHead:
    """A head, and the features of one batch `(B, F)` that it is timed on."""

    head: nn.Module
    features: Tensor


def serve(copies: int) -> None:
    """Say that all is loaded, wait for an order, and answer with the seconds of every round.

    Args:
        copies: Of this process, that measure one after another; 0 to measure in itself.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by anyone else is no answer
    import spinalnet.nn  # noqa: F401 (the order names its classes)

    def say(line: bytes) -> None:
        answers.write(line + b"\n")
        answers.flush()

    say(b"ready")
    order = sys.stdin.buffer.read()
    if not order:
        return  # the caller has ended
    if copies == 0:
        say(_measured(order))
    for number in range(copies):
        _in_a_copy(lambda number=number: say(_measured(order, layout=number)))


def _in_a_copy(function: Callable[[], None]) -> None:
    """Call a function in a copy of this process; end as it ends, unless all went well."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        with contextlib.suppress(OSError):  # of what cannot be caught anyway
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    if code:
        os._exit(abs(code))


def _measured(order: bytes, layout: int | None = None) -> bytes:
    gaps = [] if layout is None else _gaps(layout)
    heads, device, threads = pickle.loads(order)
    torch.set_num_threads(threads)
    found = measure(heads, device)
    del gaps
    return json.dumps(found).encode()


def _gaps(layout: int) -> list[Tensor]:
    """Return memory in pieces of many sizes, between which what comes later lies elsewhere."""
    draw = random.Random(layout)
    pieces = [torch.empty(draw.randrange(1, 5_000)) for _ in range(200)]
    pieces += [torch.empty(draw.randrange(40_000, 400_000)) for _ in range(10)]
    draw.shuffle(pieces)
    return pieces[:100]


def measure(heads: dict[str, TimedHead], device: str) -> dict[str, dict[str, list[float]]]:
    """Time heads in turns; return the seconds of every round, by mode and label."""
    cases: dict[str, Callable[[], object]] = {}
    for label, timed in heads.items():
        head, features = timed.head.to(device), timed.features.to(device)
        # A module of its own for either mode: to change it takes as long as a small head does.
        cases[f"inference {label}"] = _inference(copy.deepcopy(head).eval(), features)
        cases[f"training {label}"] = _training(head.train(), features)
    rounds, _ = timing.take_turns(
        cases, seconds=_SECONDS * len(heads), min_rounds=_ROUNDS, device=device
    )
    return {
        mode: {label: rounds[f"{mode} {label}"] for label in heads}
        for mode in ("inference", "training")
    }


def _inference(head: nn.Module, features: Tensor) -> Callable[[], object]:
    def case() -> object:
        with torch.no_grad():
            return head(features)

    return case


def _training(head: nn.Module, features: Tensor) -> Callable[[], object]:
    inputs = features.clone().requires_grad_()

    def case() -> object:
        head.zero_grad(set_to_none=True)
        inputs.grad = None
        return head(inputs).square().mean().backward()

    return case

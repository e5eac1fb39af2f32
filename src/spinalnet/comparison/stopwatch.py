"""The inside of a process that times heads: it loads little, so that it is soon ready."""

from __future__ import annotations

import json
import os
import pickle
import sys
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


def serve() -> None:
    """Say that all is loaded, wait for an order, and answer it with the seconds of every round."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what is printed by anyone else is no answer
    import spinalnet.nn  # noqa: F401 (the order names its classes)

    answers.write(b"ready\n")
    answers.flush()
    order = sys.stdin.buffer.read()
    if not order:
        return  # the caller has ended
    heads, device, threads = pickle.loads(order)
    torch.set_num_threads(threads)
    answers.write(json.dumps(measure(heads, device)).encode())
    answers.flush()


def measure(heads: dict[str, TimedHead], device: str) -> dict[str, dict[str, list[float]]]:
    """Time heads in turns; return the seconds of every round, by mode and label."""
    cases: dict[str, Callable[[], object]] = {}
    for label, timed in heads.items():
        head, features = timed.head.to(device), timed.features.to(device)
        cases[f"inference {label}"] = _inference(head, features)
        cases[f"training {label}"] = _training(head, features)
    rounds, _ = timing.take_turns(
        cases, seconds=_SECONDS * len(heads), min_rounds=_ROUNDS, device=device
    )
    return {
        mode: {label: rounds[f"{mode} {label}"] for label in heads}
        for mode in ("inference", "training")
    }


def _inference(head: nn.Module, features: Tensor) -> Callable[[], object]:
    def case() -> object:
        head.eval()
        with torch.no_grad():
            return head(features)

    return case


def _training(head: nn.Module, features: Tensor) -> Callable[[], object]:
    inputs = features.clone().requires_grad_()

    def case() -> object:
        head.train()
        head.zero_grad(set_to_none=True)
        inputs.grad = None
        return head(inputs).square().mean().backward()

    return case

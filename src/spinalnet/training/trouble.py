"""Trouble with numbers and memory: noticed, and explained with what to try."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from spinalnet._checks import SpinalnetError, some
from spinalnet.training.evaluation import Answers

_NO_MEMORY = re.compile("(can't allocate|not enough|out of) memory")  # torch's words
_BYTES = re.compile(r"tried to allocate (\d+) bytes", re.IGNORECASE)
_SIZE = re.compile(r"tried to allocate ([\d.]+ [KMGT]i?B)", re.IGNORECASE)
_FEWEST = 5  # examples of a class, so that never to answer it means something
_EXPLODED = 10.0  # times


class MemoryShort(SpinalnetError, MemoryError):
    """What is to be computed at once does not fit in memory; one sentence says what to try."""


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def asked_for(error: BaseException) -> str:
    """Return what an allocator says was asked for at once, for a sentence; maybe nothing."""
    if found := _BYTES.search(str(error)):
        return f" ({int(found[1]) / 2**30:,.3g} GiB at once)"
    found = _SIZE.search(str(error))
    return f" ({found[1]} at once)" if found else ""


def silent(names: Sequence[str], gradients: Sequence[Tensor]) -> set[str]:
    """Return the names of the matrices whose gradient is zero throughout, while others learn."""
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients))]).tolist()
    if not any(norms):
        return set()  # nothing is left to learn, or nothing was seen
    return {
        name
        for name, gradient, norm in zip(names, gradients, norms, strict=True)
        if gradient.ndim >= 2 and norm == 0.0
    }


def of_silent(names: set[str]) -> str:
    """Explain matrices that get no gradient."""
    return (
        f"{some(sorted(names), 3)} learned nothing for two epochs: no gradient reaches it, as "
        "where every unit of a ReLU is dead (below zero for every input). Lower lr, set "
        "warmup_epochs or clip_norm, or take another activation, such as leaky_relu."
    )


def of_validation(answers: Answers) -> str:
    """Explain validation data that cannot tell models apart; empty if they can."""
    if answers.present is None or int((answers.present > 0).sum()) != 1 or len(answers.present) < 2:
        return ""
    only = int(answers.present.argmax())
    return (
        f"The validation data hold one class only (class {only}, {int(answers.present[only])} "
        "examples): the model that always answers it looks perfect, and the best epoch means "
        "nothing. Give data with examples of every class, mixed, or another seed for the split."
    )


def of_answers(answers: Answers) -> str:
    """Explain classes that the best model never answers; empty without any."""
    if answers.present is None or answers.given is None:
        return ""
    never = ((answers.given == 0) & (answers.present >= _FEWEST)).nonzero().flatten().tolist()
    if not never or int((answers.present > 0).sum()) < 2:
        return ""
    examples, among = int(answers.present[never].sum()), f"of {len(answers.present)}"
    which, them = f"Class {never[0]} ({among}) was", "it"
    if len(never) > 1:
        which, them = f"Classes {some(never, 5)} ({among}) were", "them"
    return (
        f"{which} never predicted in the best epoch, though the validation data hold {examples} "
        f"examples of {them}: train longer, lower lr, or set class_weights=balanced if they are "
        "rare."
    )


def of_losses(losses: Sequence[float], classes: int | None) -> str:
    """Explain a training loss that explodes without ceasing to be finite; empty if it does not.

    Args:
        losses: Mean of every epoch so far.
        classes: Number of classes; None in a regression.
    """
    last, before = losses[-1], losses[:-1]
    guessing = math.log(max(classes, 2)) if classes else 0.0
    of_start = before[0] if before else guessing
    if not of_start or last <= _EXPLODED * of_start or last <= guessing:
        return ""
    was = f"{min(before):.3g} in an earlier epoch" if before else f"{guessing:.3g} for guessing"
    return (
        f"The training loss has exploded: {last:.3g} in epoch {len(losses)}, against {was}. Lower "
        "lr, set clip_norm (1 is usual) or warmup_epochs, and look for extreme values in the data."
    )

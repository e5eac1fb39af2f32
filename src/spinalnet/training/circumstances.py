"""What the last digits of a result may depend on: processes, threads, precision, device, parts.

They are no part of what a run is asked for. A run may go on under others; it is told, as sums are
then rounded in another order. Another precision is another training, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spinalnet import _dist, files
from spinalnet._checks import InputError
from spinalnet.training.placement import Placement

_FILE = "environment.json"


def present(placement: Placement, dtype: torch.dtype, accumulate: int) -> dict[str, Any]:
    """Return the circumstances of a training here.

    Args:
        placement: Where and how it computes.
        dtype: Of the parameters.
        accumulate: Parts in which a batch is computed; 0 for as many as the memory asks for.
    """
    return {
        "processes": _dist.world_size(),
        "threads": torch.get_num_threads(),
        "precision": str(placement.amp_dtype or dtype).removeprefix("torch."),
        "device": placement.device.type,
        "accumulate": accumulate,
    }


def check_same(kept: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for the user if a run goes on under other circumstances.

    Raises:
        InputError: If its precision is another.
    """
    other = [name for name in now if name in kept and kept[name] != now[name]]
    if "precision" in other:
        raise InputError(
            f"the interrupted run was trained in {kept['precision']} (on {kept.get('device')}), "
            f"and would go on in {now['precision']} (on {now['device']}): go on where it can be "
            "trained as it was begun, or choose another folder."
        )
    if not other:
        return []
    changes = ", ".join(f"{name} {now[name]}, not {kept[name]}" for name in other)
    return [
        f"The run goes on under other circumstances than it was begun ({changes}): what is drawn "
        "is the same, but sums are rounded in another order, so that the last digits may differ."
    ]


def keep(folder: Path, now: Mapping[str, Any]) -> None:
    """Write into the folder of a run under what circumstances it was trained."""
    try:
        environment = files.read_json(folder / _FILE) or {}
    except InputError:
        return  # it is damaged, and needed by nobody who trains
    if "precision" not in environment:
        environment |= now
    elif any(environment.get(name) != value for name, value in now.items()):
        environment["continued"] = [*environment.get("continued", []), dict(now)]
    else:
        return
    with files.replacing(folder / _FILE, durable=False) as file:  # the run needs it not
        file.write(files.to_json(files.sealed(environment)).encode())

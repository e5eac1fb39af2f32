"""What a comparison would take, without running it; and the script that runs it under Slurm."""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spinalnet import files
from spinalnet.comparison import engine
from spinalnet.comparison.building import build_model, load_splits
from spinalnet.comparison.spec import RunSpec
from spinalnet.comparison.wording import three_digits
from spinalnet.training import fitting, runs

if TYPE_CHECKING:
    from spinalnet.comparison.comparing import How
    from spinalnet.comparison.question import ComparisonSpec
    from spinalnet.data import Splits

_STEPS = 5  # measured of each head, after as many to warm up


@dataclass(frozen=True)
class PlannedRow:
    """What one head would take: runs done and missing, seconds and bytes of one run."""

    label: str
    done: int
    missing: int
    seconds: float | None
    memory: int | None
    disk: int | None


@dataclass(frozen=True)
class Plan:
    """What a comparison would take."""

    planned: tuple[PlannedRow, ...]
    jobs: int
    units: int

    @property
    def seconds(self) -> float | None:
        """Estimated wall time of all that is missing."""
        parts = [row.seconds * row.missing for row in self.planned if row.seconds is not None]
        return sum(parts) / self.jobs if len(parts) == len(self.planned) else None

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Return it as text: header, and a row per head."""
        header = ["head", "done", "missing", "seconds\na run", "memory\na worker", "disk\na run"]
        return header, [
            [
                row.label,
                str(row.done),
                str(row.missing),
                "" if row.seconds is None else three_digits(row.seconds),
                _bytes(row.memory),
                _bytes(row.disk),
            ]
            for row in self.planned
        ]

    def sentences(self) -> list[str]:
        """Say it in all."""
        missing = sum(row.missing for row in self.planned)
        found = [
            f"{len(self.planned)} heads x {self.units} units; {missing} runs are missing, "
            f"{self.jobs} at a time."
        ]
        if self.seconds is not None:
            found.append(
                f"About {_duration(self.seconds)} in all, from a few measured training steps of "
                "each head on this machine as it is now."
            )
        disk = [row.disk * row.missing for row in self.planned if row.disk is not None]
        if disk:
            found.append(f"About {_bytes(sum(disk))} on the disk.")
        return found


def plan(question: ComparisonSpec, folder: Path, how: How) -> Plan:
    """Measure a few training steps of every head, and count what is done; write nothing.

    Raises:
        InputError: If anything asked for is impossible.
    """
    cells = question.cells()
    base = question.base
    device = base.train.device if isinstance(base, RunSpec) else "cpu"
    jobs = engine.choose_jobs(how.jobs, how.threads or 1, device)
    first = question.of_unit(question.units()[0])
    splits = load_splits(first[0], download=how.download) if isinstance(first[0], RunSpec) else None
    planned = []
    with engine.limited_threads(how.threads):
        for place, one in enumerate(first):
            own = cells[place :: len(first)]
            done = sum(runs.is_done(folder / "runs" / cell.name) for cell in own)
            known = (None, None, None)
            if isinstance(one, RunSpec) and splits is not None:
                known = _measure(one, splits)
            label = question.heads[place]
            planned.append(PlannedRow(label, done, len(own) - done, *known))
    return Plan(tuple(planned), min(jobs, max(1, len(cells))), len(question.units()))


def _measure(spec: RunSpec, splits: Splits) -> tuple[float, int, int]:
    """Return seconds, peak bytes and bytes on the disk of a run, from a few steps."""
    model = build_model(spec, splits.info)
    batch = spec.train.batch_size
    steps = math.ceil(len(splits.train) / batch)
    if spec.model.freeze:  # the head alone, on features; these are computed once for all runs
        from spinalnet.models import ImageModel

        with torch.no_grad():
            images, targets = next(iter(splits.train.batches(min(8, batch))))
            width = model.trunk.eval()(images).shape[1]
        data = [(torch.randn(batch, width), targets.repeat(batch)[:batch])]
        model = ImageModel(torch.nn.Identity(), model.head, model.name)
    else:
        data = [next(iter(splits.train.batches(batch, augment=spec.train.augment)))]
    with fitting.trial(model, data, spec.train) as step:
        for _ in range(_STEPS):
            step(1e-9)
        began = time.perf_counter()
        for _ in range(_STEPS):
            step(1e-9)
        seconds = (time.perf_counter() - began) / _STEPS
    weights = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    held = sum(
        part.inputs.nbytes
        for part in (splits.train, splits.val, splits.test)
        if hasattr(part, "inputs")
    )
    # A validation pass costs about a third of a training pass over as many examples.
    passes = len(splits.train) + len(splits.val) / 3
    memory = _resident() if held else held
    disk = weights + 70 * len(splits.test) + 20_000
    return seconds * steps * passes / len(splits.train) * spec.train.epochs, memory, disk


def _resident() -> int:
    """Return the peak bytes of this process, which has loaded the data and made the steps."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


_SCRIPT = """\
#!/bin/bash
# {count} runs of a comparison, one an array task:  sbatch {path}
# When all are done, the report:  {report}
#SBATCH --job-name=spinalnet
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={threads}
#SBATCH --output={folder}/slurm-%A_%a.log
names=(
{names}
)
{command} --only "${{names[$SLURM_ARRAY_TASK_ID]}}"
"""


def slurm_script(
    question: ComparisonSpec, folder: Path, arguments: Sequence[str], threads: int
) -> Path:
    """Write a script whose array tasks are the runs that are missing; return its path.

    Args:
        question: What is compared.
        folder: Its folder.
        arguments: Of the command `spinalnet`, as given.
        threads: Processors of a task.
    """
    names = [
        cell.name for cell in question.cells() if not runs.is_done(folder / "runs" / cell.name)
    ]
    kept = []
    skip = False
    for argument in arguments:
        if not skip and argument != "--engine" and not argument.startswith("--engine="):
            kept.append(argument)
        skip = argument == "--engine"
    command = shlex.join(["spinalnet", *kept])
    if "--out" not in kept and not any(one.startswith("--out=") for one in kept):
        command += f" --out {shlex.quote(str(folder))}"
    text = _SCRIPT.format(
        count=len(names),
        path=shlex.quote(str(folder / "slurm.sh")),
        report=command,
        last=max(0, len(names) - 1),
        threads=threads,
        folder=shlex.quote(str(folder)),
        names="\n".join(f"  {shlex.quote(name)}" for name in names),
        command=command,
    )
    files.write_text(folder / "slurm.sh", text)
    return folder / "slurm.sh"

"""What a result may depend on besides the request: versions, hardware, commit."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import spinalnet
from spinalnet.kernels import native
from spinalnet.training.placement import bf16_instructions


def describe_environment() -> dict[str, Any]:
    """Return what a result may depend on besides the request: versions, processor, commit."""
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "spinalnet": spinalnet.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version("torchvision"),
        "numpy": _version("numpy"),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": native.instruction_set() or f"none: {native.UNAVAILABLE}",
        "bf16": bf16_instructions(),
        "cuda_device": cuda,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe_origin() -> dict[str, Any]:
    """Return what made a file of results: the command that runs now, and its circumstances."""
    checkout, program = Path(__file__).resolve().parents[3], Path(sys.argv[0]).resolve()
    if program.suffix == ".py" and program.is_relative_to(checkout):
        start = ["python", program.relative_to(checkout).as_posix()]
    else:
        start = [program.name]
    if program.name == "__main__.py":
        start = [program.parent.name]
    command = shlex.join([*start, *sys.argv[1:]])
    return {"command": command, "environment": describe_environment()}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and, as virtual machines call many by one name, its numbers."""
    try:
        lines = info.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    said = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    said = {name.strip(): value.strip() for name, value in said.items()}  # of the first processor
    name = said.get("model name")
    if name is None:
        return platform.processor() or platform.machine()
    numbers = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    known = [f"{word} {said[key]}" for word, key in numbers.items() if said.get(key)]
    return f"{name} ({', '.join(known)})" if known else name


def _commit() -> str | None:
    """Return the commit of the checkout this file runs from; None when installed elsewhere."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()

"""Measure the memory that one training step of a head adds, compiled, longhand and as an MLP.

    python benchmarks/memory.py

Writes benchmarks/results/memory.json.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from command_line import new_parser
from torch import nn

from spinalnet import MLPHead, SpinalNet, files
from spinalnet.bench.heads import HEAD_CASES, HeadCase
from spinalnet.bench.longhand import LonghandHead
from spinalnet.training import environment

RESULT = Path(__file__).parent / "results" / "memory.json"
ROWS = 16_384
WAYS = ("ours", "longhand", "MLP")
VARIANTS = {
    "": (0.0, None),
    ", dropout": (0.5, None),
    ", batch norm": (0.0, "batch"),
    ", both": (0.5, "batch"),
}
CASES = HEAD_CASES[:-1]  # the MLP of the last takes minutes
PROTOCOL = (
    f"peak resident memory during one forward and backward of {ROWS:,} rows above that before it, "
    "the gradients of x and of all parameters included; a process for every number, after a step "
    "on two rows; dropout 0.5; one thread"
)


def resident(field: str) -> float:
    """Return the resident memory of this process in MiB: now (VmRSS), or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def measure(case: HeadCase, variant: str, way: str) -> float:
    """Return what one step adds to this process, in MiB."""
    torch.set_num_threads(1)
    dropout, norm = VARIANTS[variant]
    sizes = case.in_features, case.out_features
    net = SpinalNet(*sizes, case.hidden_features, case.num_layers, dropout=dropout, norm=norm)
    module: nn.Module = net
    if way == "longhand":
        module = LonghandHead(net, dropout, norm is not None)
    elif way == "MLP":
        module = MLPHead(*sizes, case.mlp, dropout=dropout, norm=norm)
    module(torch.randn(2, case.in_features, requires_grad=True)).sum().backward()
    module.zero_grad()
    x = torch.randn(ROWS, case.in_features, requires_grad=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = resident("VmRSS")
    module(x).square().mean().backward()
    return resident("VmHWM") - before


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--one",
        nargs=3,
        metavar=("HEAD", "VARIANT", "WAY"),
        help="measure one number in this process, print it and write nothing",
    )
    if one := parser.parse_args().one:
        name, variant, way = one
        print(measure(next(case for case in CASES if case.name == name), variant, way))
        return
    rows = []
    for case in CASES:
        for variant in VARIANTS:
            if variant and not case.mlp:
                continue  # the MLP is one linear map
            row: dict[str, object] = {"head": case.name + variant}
            for way in WAYS:
                command = [sys.executable, __file__, "--one", case.name, variant, way]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row[way] = float(done.stdout)
            rows.append(row)
            print(row, flush=True)
    record = {
        "benchmark": "memory",
        "protocol": PROTOCOL,
        **environment.describe_origin(),
        "rows": rows,
    }
    files.write_mapping(RESULT, record)


if __name__ == "__main__":
    main()

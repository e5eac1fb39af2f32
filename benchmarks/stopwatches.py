"""Whether copies of a process measure heads as independently as processes of their own.

    python benchmarks/stopwatches.py

A comparison times its heads in five processes, as times differ between processes by more than
within one. Each of them had to load torch; now one loads, and is copied
(`comparison/stopwatch.py`). For that to be as good, copies of one process must be no more alike
than copies of two. Here several processes are copied in turns, so that the machine's own drift
meets all of them alike, and the log ratios to the first head are divided into what differs between
processes and between copies (one-way analysis of variance; `F` near 1 says that it makes no
difference whose copy it is). As a yardstick the spread of processes that load for themselves.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import new_parser
from scipy import stats
from torch import nn

import spinalnet
from spinalnet.comparison import cost, stopwatch
from spinalnet.files import write_mapping
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "stopwatches.json"
MODES = ("inference", "training")


def order() -> bytes:
    """Return the heads of the small MNIST CNN, the first of them the one to divide by."""
    torch.manual_seed(0)
    x = torch.randn(64, 320)

    def hidden(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(320, width), nn.ReLU(), nn.Linear(width, 10))

    heads = {
        "mlp": hidden(50),
        "spinal": spinalnet.SpinalNet(320, 10, 8, num_layers=6),
        "matched": hidden(26),
        "linear": nn.Linear(320, 10),
    }
    timed = {name: stopwatch.TimedHead(head, x) for name, head in heads.items()}
    return pickle.dumps((timed, "cpu", 1))


def serve_copies() -> None:
    """In a process of its own: measure in a copy of it, for every line of the input."""
    import spinalnet.nn  # noqa: F401 (as the stopwatch loads it)

    asked = order()
    print("ready", flush=True)
    for line in sys.stdin:
        layout = int(line)
        stopwatch._in_a_copy(
            lambda layout=layout: print(stopwatch._measured(asked, layout).decode(), flush=True)
        )


def ratios(measured: Mapping[str, Mapping[str, list[float]]]) -> dict[str, float]:
    """Return the median log ratio of each head to the first, by mode and name."""
    return {
        f"{mode} {name}": float(
            np.median(np.log(np.array(times) / np.array(measured[mode]["mlp"])))
        )
        for mode in MODES
        for name, times in measured[mode].items()
        if name != "mlp"
    }


def copies(processes: int, each: int) -> list[list[dict[str, float]]]:
    """Return the ratios of `each` copies of every process, which take turns."""
    started = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    found: list[list[dict[str, float]]] = [[] for _ in started]
    draw = random.Random(0)
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for _ in range(each):
        for number in draw.sample(range(processes), processes):
            process = started[number]
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{draw.randrange(2**31)}\n")
            process.stdin.flush()
            found[number].append(ratios(json.loads(process.stdout.readline())))
    for process in started:
        process.communicate()
    return found


def fresh(processes: int) -> list[dict[str, float]]:
    """Return the ratios of processes that each load for themselves."""
    found = []
    for _ in range(processes):
        watch = cost._Stopwatch(0)
        watch.is_ready()
        found += [ratios(one) for one in watch.measure(order())]
        watch.end()
    return found


def rows(copied: list[list[dict[str, float]]], loaded: list[dict[str, float]]) -> list[Any]:
    """Return what differs between processes and between their copies, for each ratio."""
    found = []
    for name in loaded[0]:
        table = np.array([[one[name] for one in of_process] for of_process in copied])
        groups, each = table.shape
        within = table.var(axis=1, ddof=1).mean()
        between = table.mean(axis=1).var(ddof=1) * each
        f = between / within
        found.append(
            {
                "ratio": name,
                "sd of copies of one process": round(float(within**0.5), 4),
                "sd that processes add": round(float(max(0, (between - within) / each) ** 0.5), 4),
                "F": round(float(f), 2),
                "p": round(float(stats.f.sf(f, groups - 1, groups * (each - 1))), 3),
                "sd of processes that load": round(
                    float(np.std([one[name] for one in loaded], ddof=1)), 4
                ),
            }
        )
    return found


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--processes", type=int, default=12)
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.serve:
        serve_copies()
        return
    found = rows(copies(asked.processes, asked.copies), fresh(asked.processes * 2))
    for row in found:
        print(json.dumps(row))
    write_mapping(
        asked.out,
        {
            "benchmark": "stopwatches",
            "command": " ".join(["python", "benchmarks/stopwatches.py", *sys.argv[1:]]),
            "protocol": f"{asked.copies} copies of each of {asked.processes} processes, in turns; "
            f"{asked.processes * 2} processes that load; medians of the log ratios to the MLP "
            "head, 320 features, batch 64, one thread",
            "rows": found,
            "environment": describe_environment(),
        },
    )


if __name__ == "__main__":
    main()

"""How much sooner a comparison is done with two runs at a time than one by one, or on two threads.

    python benchmarks/jobs.py

A grid of digits, in turns within one run of this script: one at a time here, on one thread and on
two; two at a time in worker processes (whose start is counted), a thread each. The results of one
thread must be the same bits. Needs two free processors.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from command_line import new_parser

from spinalnet import ComparisonSpec, RunSpec
from spinalnet.comparison.comparing import cells_of
from spinalnet.comparison.engine import run_cells
from spinalnet.files import write_mapping
from spinalnet.training import load_runs
from spinalnet.training.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "jobs.json"
ROUNDS = 2
QUESTION = ComparisonSpec(
    RunSpec.of("digits", epochs=20, device="cpu"), ("spinal", "mlp", "linear"), seeds=6
)


def seconds(jobs: int, folder: Path, threads: int = 1) -> float:
    """Run the grid; return its wall seconds."""
    began = time.perf_counter()
    assert not any(run_cells(cells_of(QUESTION, folder), jobs=jobs, threads=threads))
    return time.perf_counter() - began


def scores(folder: Path) -> dict[str, object]:
    """Return what the runs of a folder reached."""
    return {run.path.name: (run.result or {})["test"] for run in load_runs(folder)}


def main() -> None:
    new_parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for k in range(ROUNDS):
            one, two = Path(place) / f"one{k}", Path(place) / f"two{k}"
            row = {"one": seconds(1, one), "two": seconds(2, two)}
            row["two threads"] = seconds(1, Path(place) / f"threads{k}", threads=2)
            assert scores(one) == scores(two)
            trained = sum((run.result or {})["train_seconds"] for run in load_runs(one))
            ratios = {"ratio": row["one"] / row["two"], "threads": row["two threads"] / row["two"]}
            rows.append(row | {"training": trained} | ratios)
            print(rows[-1], flush=True)
    record = {
        "benchmark": "jobs",
        "command": "python benchmarks/jobs.py",
        "protocol": "wall seconds of the grid in turns: one by one on a thread, two at a time on a "
        "thread each (the workers' start included), one by one on two threads; the results of the "
        "first two were compared and are the same",
        "grid": QUESTION.to_dict()["heads"],
        "seeds": QUESTION.to_dict()["seeds"],
        "rows": rows,
        "ratio": median(row["ratio"] for row in rows),
        "threads": median(row["threads"] for row in rows),
        "environment": describe_environment(),
    }
    write_mapping(RESULT, record)


if __name__ == "__main__":
    main()

"""Where the time of a whole comparison goes: `spinalnet compare digits` from an empty process.

    python benchmarks/whole.py
    python benchmarks/whole.py --against ../other-checkout/src   # the same there, in turns
    python benchmarks/whole.py --against 8b2dc0b --seconds --case "8 short runs" --out FILE

Each case is the command in a fresh process, with clocks around public functions. Runs of several
workers lie side by side; what they do is summed and divided by the number of workers, so that all
parts of a case add up to the seconds of the whole. Needs two free processors.

Of a commit whose inside is another, --seconds compares the time from the command to its report.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

from command_line import new_parser

RESULT = Path(__file__).parent / "results" / "whole.json"
HERE = Path(__file__).resolve().parents[1] / "src"
CASES = {
    "25 runs, as by default": [],
    "20 runs": ["--heads", "spinal,matched,mlp,linear"],
    "8 short runs": ["--heads", "spinal,mlp,matched,linear", "--seeds", "2", "--epochs", "5"],
}


class Clock:
    """Seconds inside functions, and the moments at which runs begin, go on and end."""

    def __init__(self, began: float) -> None:
        self.began = began  # of the process, by the clock of the system
        self.parts: dict[str, float] = {}
        self.moments: list[tuple[float, str, int, str]] = []  # (when, what, worker, run)
        self.trained = 0.0

    def now(self) -> float:
        return time.time() - self.began

    def around(self, module: Any, name: str, part: str) -> None:
        """Add the seconds of a function to a part."""
        if not hasattr(module, name):  # of another version
            return
        function: Callable[..., Any] = getattr(module, name)

        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent = time.perf_counter() - began
                self.parts[part] = self.parts.get(part, 0.0) + spent

        setattr(module, name, timed)

    def listen(self, comparing: Any) -> None:
        """Note what a comparison tells of its runs."""
        run_comparison = comparing.run_comparison

        def listened(question: Any, out: Any, effort: Any, **options: Any) -> Any:
            self.parts["imports"] = self.now()

            def on_event(event: Any) -> None:
                self.moments.append((self.now(), event.kind, event.worker, event.cell.spec.name))
                if event.kind == "done":
                    self.trained += event.record.result["train_seconds"]
                if effort.on_event is not None:
                    effort.on_event(event)

            return run_comparison(question, out, replace(effort, on_event=on_event), **options)

        comparing.run_comparison = listened


def watched(began: float, arguments: list[str], result: Path) -> None:
    """Be the command, and write where its seconds went."""
    clock = Clock(began)
    from spinalnet.cli import main
    from spinalnet.comparison import comparing, engine
    from spinalnet.comparison.report import drawing

    clock.around(comparing, "prepare", "data and checks")
    clock.around(engine, "run_cells", "runs")
    clock.around(comparing, "time_heads", "timing of heads")
    clock.around(drawing, "draw", "figures")
    clock.around(comparing, "draw_figures", "figures and what they show")
    clock.around(comparing, "write_report", "report")
    clock.listen(comparing)
    sys.argv = ["spinalnet", *arguments]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
    result.write_text(json.dumps({**split(clock), "whole": clock.now()}))


def split(clock: Clock) -> dict[str, Any]:
    """Return the parts of the whole, each once."""
    parts, started, first = clock.parts, {}, {}
    runs: list[tuple[int, float, float]] = []  # worker, seconds until the first step, seconds
    for when, what, worker, name in clock.moments:
        if what == "started":
            started[name] = when
        elif what == "progress":
            first.setdefault(name, when)
        else:
            runs.append((worker, first[name] - started[name], when - started[name]))
    workers = len({worker for worker, _, _ in runs})
    later = runs[workers:]  # the first run of a worker waits for the process
    usual = median(wait for _, wait, _ in later)
    start = sum(wait - usual for _, wait, _ in runs[:workers])
    inside = sum(seconds for _, _, seconds in runs)
    figures = parts.get("figures", 0.0)
    report = parts["report"] + parts.get("figures and what they show", 0.0) - figures
    whole_of_runs = parts["runs"]
    found = {
        "imports": parts["imports"],
        "data and checks": parts["data and checks"],
        "process starts": start / workers,
        "training": clock.trained / workers,
        "evaluation and files": (inside - start - clock.trained) / workers,
        "waiting for the last run": whole_of_runs - inside / workers,
        "timing of heads": parts.get("timing of heads", 0.0),
        "figures": figures,
        "report": report,
    }
    whole = clock.now()
    found["rest"] = whole - sum(found.values())
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    shown = next(when for when, what, _, _ in clock.moments if what == "progress")
    done = next(when for when, what, _, _ in clock.moments if what == "done")
    return {
        "workers": workers,
        "runs": len(runs),
        "first loss": shown,
        "first accuracy": done,
        "parts": found,
        "overhead": whole / found["training"] - 1,
        "processor seconds": sum(one.ru_utime + one.ru_stime for one in usage),
    }


def measure(source: Path, arguments: list[str]) -> dict[str, Any]:
    """Run the command once in a fresh process; return where its seconds went."""
    with tempfile.TemporaryDirectory() as place:
        out, result = Path(place) / "out", Path(place) / "result.json"
        command = ["compare", "digits", "--out", str(out), *arguments]
        subprocess.run(
            [sys.executable, __file__, "--watched", repr(time.time()), str(result), *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
        summary = json.loads((out / "summary.json").read_text())
        values = {head["head"]: head["values"] for head in summary["heads"]}
        return {**json.loads(result.read_text()), "accuracies": values}


def seconds(source: Path, arguments: list[str]) -> dict[str, Any]:
    """Run the command once in a fresh process; return how long it took to its report."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        command = ["compare", "digits", "--out", str(out), *arguments]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "spinalnet", *command],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(source)},
        )
        whole, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (out / "report.html").exists()
        summary = json.loads((out / "summary.json").read_text())
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    values = {head["head"]: head["values"] for head in summary["heads"]}
    return {"whole": whole, "processor seconds": used, "accuracies": values}


def source_of(place: str, folder: Path) -> Path:
    """Return the `src` that is asked for: a folder, or that of a commit, which is unpacked."""
    if Path(place).is_dir():
        return Path(place).resolve()
    archive = subprocess.run(
        ["git", "archive", place, "src"], check=True, capture_output=True, cwd=HERE.parent
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder / "src"


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--against", help="src of another checkout, or a commit")
    parser.add_argument("--seconds", action="store_true", help="only how long it takes")
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    from spinalnet.files import write_mapping
    from spinalnet.training.environment import describe_environment

    with tempfile.TemporaryDirectory() as place:
        sources = {"this": HERE}
        if asked.against:
            sources["other"] = source_of(asked.against, Path(place))
        rows = in_turns(sources, asked.case or list(CASES), asked.repeats, parts=not asked.seconds)
    record = {
        "benchmark": "whole",
        "command": " ".join(["python", "benchmarks/whole.py", *map(shlex.quote, sys.argv[1:])]),
        "protocol": "wall seconds of `spinalnet compare digits` in a fresh process; parts of runs "
        "are divided by the number of workers; overhead is the whole over training, less 1; seeds "
        "from 0, one thread a run; the accuracies of all repeats are the same",
        "kernels": os.environ.get("SPINALNET_KERNELS", "on"),
        "rows": rows,
        "medians": medians(rows),
        "environment": describe_environment(),
    }
    write_mapping(asked.out, record)


def in_turns(
    sources: dict[str, Path], cases: list[str], repeats: int, *, parts: bool
) -> list[dict[str, Any]]:
    """Run all cases, every source in turn; return a row for each."""
    rows: list[dict[str, Any]] = []
    for case in cases:
        accuracies: dict[str, Any] = {}
        for repeat in range(repeats):
            for which, source in sources.items():
                row = (measure if parts else seconds)(source, CASES[case])
                found = row.pop("accuracies")
                # Of a commit whose inside is another the results may be, too.
                known = accuracies.setdefault("all" if parts else which, found)
                assert found == known, f"{which} gives other results"
                rows.append({"case": case, "source": which, "repeat": repeat, **row})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def medians(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each number by case and source."""
    found: dict[str, Any] = {}
    for row in rows:
        alike = [r for r in rows if (r["case"], r["source"]) == (row["case"], row["source"])]
        numbers = ("whole", "first loss", "first accuracy", "overhead", "processor seconds")
        parts = row.get("parts", {})
        found.setdefault(row["case"], {})[row["source"]] = {
            **{name: median(r[name] for r in alike) for name in numbers if name in row},
            **(
                {"parts": {n: median(r["parts"][n] for r in alike) for n in parts}} if parts else {}
            ),
        }
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watched"]:
        watched(float(sys.argv[2]), sys.argv[4:], Path(sys.argv[3]))
    else:
        main()

"""Try to break runs in every way that must do no harm; writes results/reliability.json.

    python benchmarks/reliability.py [--parts kill,faults,...] [--commands "train; export"]
        [--minutes N] [--quick] [--afresh]

Every part adds to what it has found before, with seeds of its own, so that it can be stopped and
run again, and by several processes at once, with `--commands` of their own each; `--afresh` forgets
what it has found. `--minutes` is the time for each part. Linux only.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path

from command_line import new_parser
from trials import forked, scenarios
from trials.record import RESULT, Record

PARTS = ("kill", "mutate", "faults", "reports", "disk", "limits", "writers", "soak")


def run_part(record: Record, scratch: Path, *, quick: bool = False) -> None:
    """Try one part; `quick` where seconds must be enough, as in a test.

    What commands work on, and how they end undisturbed, is made once for all parts in `scratch`.
    """
    importlib.import_module(f"trials.{record.part}").run(record, scratch, quick=quick)
    record.save()


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--commands", default="", help="those that are tried; divided by ;")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--afresh", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    asked = parser.parse_args()
    commands = [name.strip() for name in asked.commands.split(";") if name.strip()]
    if unknown := set(commands) - scenarios.BY_NAME.keys():
        parser.error(f"no commands: {', '.join(unknown)}; there are {'; '.join(scenarios.BY_NAME)}")
    forked.warm_up(quick=asked.quick)
    with tempfile.TemporaryDirectory(prefix="reliability-") as scratch:
        for name in asked.parts.split(","):
            began = time.perf_counter()
            record = Record(name, asked.out, asked.minutes, afresh=asked.afresh, commands=commands)
            run_part(record, Path(scratch), quick=asked.quick)
            took = time.perf_counter() - began
            print(f"{name}: {took:.0f} s, {len(record.found['found'])} faults", flush=True)
            for row, numbers in record.found["rows"].items():
                print(f"  {row}: {numbers}", flush=True)


if __name__ == "__main__":
    main()

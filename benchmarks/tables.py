"""Compare on all 28 tables as a user would; write their summaries and a figure.

    python benchmarks/tables.py --tables FOLDER           # one to two hours on one core
    python benchmarks/tables.py --tables FOLDER --figure  # the figure alone, from results/tables
    python benchmarks/tables.py --tables FOLDER --rare    # rare classes, from runs/tables
    python docs/tables.py                                 # then, the tables of docs/tables.md

Every table is compared by `spinalnet compare` with nothing but its target (see `table_halves`): ten
random splits, a quarter of the rows for the test, all heads on the same splits, their defaults. A
comparison is kept in `runs/tables`, so an interrupted one goes on; what is committed of it is its
summary, `results/tables/NAME.json`.

Half of the tables had a part in choosing the defaults of the nets (the development half; it is
marked in the page): for them the rows against other programs flatter the nets, those between nets,
which all have these defaults, do not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import table_halves
from command_line import existing_folder, new_parser

import spinalnet
from spinalnet.comparison import Summary, load_summary, summarize
from spinalnet.data import load_table
from spinalnet.files import write_mapping

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "tables"
RESULTS = ROOT / "results" / "tables"
FIGURE = ROOT / "docs" / "tables.svg"
SPLITS = 10
COMMAND = "python benchmarks/tables.py --tables FOLDER"
RARE = ("mammography", "hypothyroid")  # 97.7 and 92 % of the rows are of one class
RARE_FILE = ROOT / "benchmarks" / "results" / "tables-rare.json"
SHOWN = ("unchained", "mlp", "linear", "trees")


def file_of(name: str) -> Path:
    return RESULTS / f"{name.replace(':', '-')}.json"


def run(folder: Path, chosen: list[str], jobs: int) -> None:
    """Run every comparison that is not yet there."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = (*table_halves.DEVELOPMENT, *table_halves.DECIDING)
    for name, where in table_halves.sources(names, folder).items():
        if chosen and name not in chosen:
            continue
        out = RUNS / name.replace(":", "-")
        table = load_table(**where)
        found = spinalnet.compare(table, seeds=SPLITS, out=out, jobs=jobs, command=COMMAND)
        shutil.copy(out / "summary.json", file_of(name))
        print(f"{name}: {found.verdict}", flush=True)


def write_rare() -> None:
    """Write what the runs on tables with rare classes say by metrics that accuracy hides."""
    found = {}
    for name in RARE:
        for metric in ("balanced-accuracy", "log-loss"):
            summary = summarize(RUNS / name, metric=metric)
            found[f"{name}, {metric}"] = {
                head.head: {"mean": head.mean, "answer": head.difference and head.difference.code}
                for head in summary.heads
            }
    environment = load_summary(file_of(RARE[0])).environment
    write_mapping(RARE_FILE, {"rows": found, "command": COMMAND, "environment": environment})


def draw() -> None:
    """Draw the differences of all tables, a panel per rival."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "tables"
    import matplotlib.pyplot as plt

    names = sorted((*table_halves.DEVELOPMENT, *table_halves.DECIDING))
    found = {name: load_summary(file_of(name)) for name in names if file_of(name).exists()}
    figure, panels = plt.subplots(
        1, len(SHOWN), sharey=True, figsize=(11, 0.24 * len(found) + 1.2), layout="constrained"
    )
    for axes, rival in zip(panels, SHOWN, strict=True):
        _panel(axes, found, rival)
    figure.savefig(FIGURE, metadata={"Date": None})


_LIMIT = 0.12  # wider than this would hide all but the few tables of some dozen rows


def _panel(axes, found: dict[str, Summary], rival: str) -> None:
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, summary in enumerate(found.values()):
        if summary.margin:
            axes.plot([-summary.margin, summary.margin], [place] * 2, color="0.85", linewidth=6)
        difference = next((h.difference for h in summary.heads if h.head == rival), None)
        if difference is None or difference.mean is None:
            continue
        decided = difference.code in ("better", "worse", "equal")
        style = {"color": "tab:blue" if decided else "0.45", "clip_on": True}
        if difference.low is not None and difference.high is not None:
            axes.plot([difference.low, difference.high], [place] * 2, linewidth=1.4, **style)
        axes.plot(difference.mean, place, "o", markersize=4, **style)
    axes.set(xlim=(-_LIMIT, _LIMIT), title=f"spinal minus {rival}")
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.invert_yaxis() if not axes.yaxis_inverted() else None
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument(
        "--tables", type=existing_folder, required=True, help="folder of the CSV files"
    )
    parser.add_argument("--only", nargs="*", default=[], help="names of tables; all without it")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--figure", action="store_true", help="draw the figure, run nothing")
    parser.add_argument("--rare", action="store_true", help="write rare classes, run nothing")
    asked = parser.parse_args()
    if asked.rare:
        write_rare()
        return
    if not asked.figure:
        run(asked.tables, asked.only, asked.jobs)
    draw()


if __name__ == "__main__":
    main()

"""The tables that come with scikit-learn: run the comparisons, write `docs/tables.md`.

python benchmarks/tables.py          # everything: some hours on one core, most of them for tuning
python benchmarks/tables.py --page   # the page alone, from results/tables

Runs are kept in `runs/tables`, so an interrupted comparison goes on; what is committed of one is
its summary.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import spinalnet
from spinalnet.comparison import Summary, load_summary
from spinalnet.comparison.findings import head_rows
from spinalnet.comparison.wording import as_markdown, digits
from spinalnet.data import frames

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "tables"
RESULTS = ROOT / "results" / "tables"
PAGE = ROOT / "docs" / "tables.md"
SPLITS = 10
TRIALS = 20

INTRODUCTION = """Made by `python benchmarks/tables.py` from here on; do not edit.

Do spinal nets help on tables? Every row below is the mean test score of one head over repeated
random splits, the same splits for all heads. *unchained* is the *spinal* net without its chain:
the same slices, widths and output row. *matched* has one hidden layer and as many parameters as
*spinal*, *mlp* has one of 64, *linear* has none; all of them are trained by the same code. *trees*
are scikit-learn's `HistGradientBoosting`.

Intervals and p-values are those of the corrected resampled t test, which allows for the splits
sharing rows, and is an approximation. Verdicts are corrected for the number of comparisons of a
table. With tuning, every head chooses among the same number of settings, by cross-validation inside
the training rows, so that the test rows decide nothing.

Any table of your own: `spinalnet compare table.csv --target COLUMN [--tune 20]`.
"""


def run() -> None:
    """Run every comparison: default settings, and settings chosen inside the training rows."""
    for name in frames.BUNDLED:
        for trials in (0, TRIALS):
            if trials and name == "digits":
                continue  # hours of boosted trees with ten classes
            place = f"{name}-tuned" if trials else name
            found = spinalnet.compare(
                f"sklearn:{name}", seeds=SPLITS, out=RUNS / place, tune=trials, jobs="auto"
            )
            (RESULTS / place).mkdir(parents=True, exist_ok=True)
            shutil.copy(RUNS / place / "summary.json", RESULTS / place / "summary.json")
            print(f"{place}: {found.verdict}", flush=True)


def section(place: str, summary: Summary) -> str:
    """Return the result as a section of a Markdown page."""
    tuned = place.endswith("-tuned")
    name = place.removesuffix("-tuned")
    settings = f"settings chosen in {TRIALS} trials" if tuned else "default settings"
    command = f"spinalnet compare sklearn:{name} --seeds {SPLITS}"
    lines = [
        f"## sklearn:{name}{', tuned' if tuned else ''}",
        "",
        f"{summary.task.capitalize()}, {len(summary.units)} splits, a quarter of the rows for the "
        f"test; {settings}.",
        "",
        as_markdown(*head_rows(summary)),
        "",
        summary.verdict,
        *(f"Note: {note}" for note in summary.notes),
        "",
        f"Command: `{command}{f' --tune {TRIALS}' if tuned else ''}`",
        "",
    ]
    return "\n".join(lines)


def page() -> None:
    """Write the results into the page, below what it says of reading and encoding."""
    found = {
        place: load_summary(RESULTS / place / "summary.json")
        for name in frames.BUNDLED
        for place in (name, f"{name}-tuned")
        if (RESULTS / place / "summary.json").exists()
    }
    environment = next(iter(found.values())).environment
    shown = "\n".join(f"- {key}: {value}" for key, value in environment.items())
    parts = [INTRODUCTION, *(section(place, summary) for place, summary in found.items())]
    speed = RESULTS / "speed.json"
    if speed.exists():
        parts.append(_speed(json.loads(speed.read_text(encoding="utf-8"))))
    parts += ["## Where this was measured\n", shown, ""]
    kept, mark, _ = PAGE.read_text(encoding="utf-8").partition("## Results\n\n")
    PAGE.write_text(kept + mark + "\n".join(parts), encoding="utf-8")


def _speed(result: dict) -> str:
    header = ("case", "baseline", "ours, ms per epoch", "baseline, ms", "baseline / ours")
    rows = [
        [
            row["case"],
            row["baseline"],
            *digits(".1f", 1e3)(row["ours"], row["theirs"]),
            f"{row['ratio']:.2f}",
        ]
        for row in result["rows"]
    ]
    table = as_markdown(header, rows, left=2)
    command = "Command: `python benchmarks/estimators.py`"
    return "\n".join(["## Speed\n", f"{result['protocol']}\n", table, "", command, ""])


if __name__ == "__main__":
    if "--page" not in sys.argv:
        run()
    page()

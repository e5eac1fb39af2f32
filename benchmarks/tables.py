"""The tables that come with scikit-learn: run the comparisons, write `docs/tables.md`.

python benchmarks/tables.py          # everything: a quarter of an hour on one core
python benchmarks/tables.py --page   # the page alone, from results/tables
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from spinalnet.comparison import table_summary, tables
from spinalnet.comparison.wording import as_markdown, digits
from spinalnet.data import frames

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "tables"
REPEATS = 10

INTRODUCTION = """# Tables

Made by `python benchmarks/tables.py`; do not edit.

Do spinal nets help on tables? Every row below is the mean test score of one model over repeated
random splits, the same splits for all models (see `spinalnet.comparison.tables`). The *dense* net
has one hidden layer and as many parameters as the *spinal* net and is trained by the same code;
*linear* has no hidden layer; *trees* are scikit-learn's `HistGradientBoosting`. The p-value is that
of the corrected resampled t test, which allows for the splits sharing rows; the one beside it has
Holm's correction for the comparisons of the table, and where it is below 0.05, the sentence below
the table says "better" or "worse".

Any table of your own: `spinalnet compare table.csv --target COLUMN [--tune]`.
"""


def run() -> None:
    """Run every comparison: default settings, and settings chosen inside the training rows."""
    torch.set_num_threads(1)
    for name in frames.BUNDLED:
        for tune in (False, True):
            if tune and name == "digits":
                continue  # hours of boosted trees with ten classes
            folder = RESULTS / (f"{name}-tuned" if tune else name)
            if (folder / "summary.json").exists():
                continue
            result = tables.compare_table(
                frames.load_table(f"sklearn:{name}"), repeats=REPEATS, tune=tune
            )
            command = f"spinalnet compare sklearn:{name} --seeds {REPEATS}"
            table_summary.write_results(result, folder, command + (" --tune" if tune else ""))
            print(result.verdict, flush=True)


def section(result: table_summary.TableComparison) -> str:
    """Return the result as a section of a Markdown page."""
    tuned = (
        "settings chosen by 3-fold cross-validation inside the training rows"
        if result.tuned
        else "default settings"
    )
    lines = [
        f"## {result.table}{', tuned' if result.tuned else ''}",
        "",
        f"{result.task.capitalize()}, {result.rows} rows, {result.columns} columns, "
        f"{result.outputs} target(s). {result.repeats} splits, {result.test_fraction:.0%} "
        f"of the rows for the test, seeds from {result.seed}; {tuned}.",
        "",
        as_markdown(*table_summary.table_rows(result)),
        "",
        result.verdict,
        *(f"Note: {note}" for note in result.notes),
        "",
    ]
    if result.command:
        lines += [f"Command: `{result.command}`", ""]
    return "\n".join(lines)


def page() -> None:
    """Write the page and its figure from the results."""
    found = [
        table_summary.load_table_summary(RESULTS / folder / "summary.json")
        for name in frames.BUNDLED
        for folder in (name, f"{name}-tuned")
        if (RESULTS / folder / "summary.json").exists()
    ]
    default = [result for result in found if not result.tuned]
    table_summary.draw(default).savefig(RESULTS / "overview.png", dpi=110)
    environment = found[0].environment
    shown = "\n".join(f"- {key}: {value}" for key, value in environment.items())
    sections = "\n".join(section(result) for result in found)
    speed = RESULTS / "speed.json"
    parts = [
        INTRODUCTION,
        "![Test scores of every split](../results/tables/overview.png)\n",
        "Default settings. A dot is one split, a bar the mean.\n",
        sections,
    ]
    if speed.exists():
        parts.append(_speed(json.loads(speed.read_text(encoding="utf-8"))))
    parts += ["## Where this was measured\n", shown, ""]
    (ROOT / "docs" / "tables.md").write_text("\n".join(parts), encoding="utf-8")


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

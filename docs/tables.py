"""Rewrite the measured tables of README.md and docs/*.md from committed result files.

Run `python docs/tables.py` (or `make tables`); `--check` only says whether a file would change.
What the package carries of it (`packaged`) is written too.
Between `<!-- table:NAME -->` and `<!-- /table -->` stands what `TABLES[NAME]` makes, between
`<!-- house -->` and `<!-- /house -->` the first sentence of every wing's docstring and its files.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import itertools
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import claims
import compared
import study_blocks
from study_blocks import ROOT, load

from spinalnet.bench.heads import TRAINING_SLACK, keeps_promise
from spinalnet.comparison.wording import as_markdown


def comparison(name: str) -> str:
    """Return the table of results/NAME.json with the command and the machine that made it."""
    from spinalnet.comparison.findings import head_rows
    from spinalnet.comparison.summary import load_summary

    summary = load_summary(ROOT / "results" / f"{name}.json")
    environment = summary.environment
    examples = f"; {summary.test_size:,} test examples" if summary.test_size else ""
    chosen = "" if summary.is_table else f", epoch selected on {summary.selected_on}"
    made = (
        f"`{summary.command}` on {environment.get('cpu')}, "
        f"{environment.get('threads')} thread(s), torch {environment.get('torch')}, "
        f"commit "
        f"{(environment.get('commit') or 'unknown')[:7]}, "
        f"seeds {min(summary.seeds)} to {max(summary.seeds)}{examples}{chosen}."
    )
    verdicts = "\n".join(
        f"- {summary.heads[0].head} against {head.head}: {head.difference.verdict}"
        for head in summary.heads[1:]
        if head.difference is not None
    )
    answer = f"**{summary.headline}**\n\n" if summary.headline else ""
    return f"{as_markdown(*head_rows(summary))}\n\n{answer}{verdicts}\n\n{made}"


def tuned() -> str:
    """Return the answers of the study of tuned heads, corrected over both of its data sets."""
    rows = []
    summaries, pairs = compared.tuned_pairs()
    for pair in pairs:
        cells = [f"spinal minus {pair.minus}"]
        for name, summary in summaries.items():
            (d,) = [head.difference for head in summary.heads if head.head == pair.minus]
            assert d is not None
            assert d.mean is not None
            assert d.low is not None
            assert d.high is not None
            numbers = f"{100 * d.mean:+.2f} ({100 * d.low:+.2f} to {100 * d.high:+.2f})"
            cells.append(numbers + (f": **{pair.answers[name]}**" if pair.confirmatory else ""))
        rows.append(cells)
    names = (compared.NAMES[name.removeprefix("tuned-")] for name in summaries)
    return as_markdown(("", *names), rows, left=1)


def draw_pictures() -> None:
    """Draw the pictures of the README: what was asked of images, and the layer."""
    from spinalnet.nn import SpinalNet

    compared.draw(ROOT / "docs/answer.svg")
    spine = SpinalNet(320, 10, hidden_features=8, num_layers=6).spine_diagram()
    (ROOT / "docs/spine.svg").write_text(spine + "\n", encoding="utf-8")


def benchmark(*names: str, note: str = "") -> str:
    """Return the ratios of benchmarks/results/NAME.json, and the commands that made them."""
    rows, env, commands = [], {}, []
    for name in names:
        record = load(f"benchmarks/results/{name}.json")
        env = record["environment"]
        commands.append(f"`{record['command']}`")
        for row in record["rows"]:
            low, high = row["ratio_quartiles"]
            times = [f"{row[side]:,.0f} {row['unit']}" for side in ("ours", "theirs")]
            ratio = f"**{row['ratio']:.1f}x** ({low:.1f} to {high:.1f})"
            rows.append([row["case"], row["baseline"], *times, ratio])
    table = as_markdown(("case", "against", "ours", "theirs", "ratio (quartiles)"), rows, left=2)
    cpu = env["cpu"]
    if any("bf16" in row[0] for row in rows) and "bf16" in env:
        cpu += f" (bf16 instructions: {env['bf16']})"
    return (
        f"{table}\n\n{' and '.join(dict.fromkeys(commands))}{note} on {cpu}, "
        f"{env['threads']} thread(s), torch {env['torch']}. Ratios within one run."
    )


def jobs() -> str:
    """Return how long a grid of runs takes by two processors, from benchmarks/results/jobs.json."""
    record = load("benchmarks/results/jobs.json")
    ways = {
        "one by one, a thread": "one",
        "one by one, two threads": "two threads",
        "two at a time, a thread each": "two",
    }
    rows = [[words, *(f"{row[key]:.1f}" for row in record["rows"])] for words, key in ways.items()]
    env = record["environment"]
    runs = len(record["grid"]) * len(record["seeds"])
    return (
        f"{as_markdown((f'{runs} runs of digits', 'seconds', 'again'), rows, left=1)}\n\n"
        f"`{record['command']}` on {env['cpu']}, torch {env['torch']}: two at a time is "
        f"**{record['ratio']:.2f}x** as quick as one by one, and **{record['threads']:.2f}x** as "
        "quick as one by one on two threads; medians, all in turns; the workers' start is counted."
    )


def jacobians() -> str:
    """Return the table of results/theory/jacobian.json."""
    record = load("results/theory/jacobian.json")
    header = ("inputs", "outputs", "rows", "ours, µs", "jacrev, µs", "jacrev / ours")
    rows = [
        [f"{row[key]}" for key in ("inputs", "outputs", "rows")]
        + [f"{row[key]:,.0f}" for key in ("ours_us", "jacrev_us")]
        + [f"**{row['ratio']:.1f}x**"]
        for row in record["rows"]
    ]
    env = record["environment"]
    made = f"`python benchmarks/jacobian.py` on {env['cpu']}, torch {env['torch']}. "
    return f"{as_markdown(header, rows, left=0)}\n\n{made}{record['protocol']}"


def copies() -> str:
    """Return how many copies of photographs are found, from benchmarks/results/copies.json."""
    record = load("benchmarks/results/copies.json")
    found = record["copies"]
    rows = [
        [way, f"{row['found']} of {found['looked_for']}", f"{row['false']}"]
        for way, row in found["by_way"].items()
    ]
    pairs, same = record["others"]["pairs"], record["others"]["taken_for_the_same"]
    note = (
        f"`{record['command']}`; each is looked for among {found['photographs']} photographs. Of "
        f"{pairs / 1e6:.0f} million pairs of CIFAR-10 {len(same['as they are'])} are taken for the "
        f"same picture, {len(same['inner parts too'])} if borders are looked at "
        f"({' and '.join(same['inner parts too'][0])}, which are)."
    )
    table = as_markdown(("copy", "found", "taken for another"), rows)
    return f"{table}\n\n{note}"


RELIABILITY = {  # part: what a row is called, and its numbers by column
    "kill": (
        "command",
        {
            "killed": "kills",
            "at a moment": "at_a_moment",
            "at a write": "at_a_call",
            "taken to the end": "continued",
            "damaged": "damaged",
            "other bits": "differing",
            "left aside": "files_left_aside",
        },
    ),
    "faults": (
        "command",
        {
            "its calls": "calls",
            "its sites": "sites",
            "sites made to fail": "sites_tried",
            "ways": "ways_tried",
            "faults": "faults",
            "one sentence": "refused",
            "did without": "did_without",
            "anything else": "not_a_sentence",
            "files lost": "lost",
            "damaged": "damaged",
            "other bits": "differing",
        },
    ),
    "disk": (
        "what is full",
        {
            "tries": "tries",
            "one sentence": "refused",
            "had room": "did_without",
            "anything else": "not_a_sentence",
            "damaged": "damaged",
            "other bits": "differing",
        },
    ),
    "mutate": (
        "file",
        {
            "files": "files",
            "read": "read",
            "refused": "refused",
            "anything else": "faults",
            "reader died": "died",
            "seconds": "seconds",
            "MB": "megabytes",
        },
    ),
    "writers": (
        "command, twice at once",
        {
            "pairs": "pairs",
            "one refused": "refused",
            "both went through": "both_wrote",
            "anything else": "not_a_sentence",
            "other bits": "differing",
        },
    ),
    "limits": (
        "what is missing",
        {
            "tries": "tries",
            "works": "works",
            "one sentence": "refused",
            "anything else": "not_a_sentence",
            "other bits": "differing",
            "not tried": "not_tried",
        },
    ),
    "soak": (
        "",
        {
            "rounds": "rounds",
            "minutes": "minutes",
            "MB at first": "megabytes_at_first",
            "MB at last": "megabytes_at_last",
            "MB a minute": "megabytes_a_minute",
            "open files at first": "files_at_first",
            "open files at last": "files_at_last",
        },
    ),
    "reports": (
        "folder",
        {
            "seconds": "seconds",
            "processor seconds": "processor_seconds",
            "page, MB": "page_megabytes",
        },
    ),
}
_NOT_ADDED = {"seconds", "megabytes", "files_left_aside"}  # the worst of a column stands below


def reliability(part: str) -> str:
    """Return what a part of benchmarks/results/reliability.json has found."""
    record = load("benchmarks/results/reliability.json")
    found = record["parts"].get(part)
    if found is None:
        return f"Not tried yet: `python benchmarks/reliability.py --parts {part}`."
    what, columns = RELIABILITY[part]
    rows = [
        [name, *(f"{numbers.get(key, 0):,.6g}" for key in columns.values())]
        for name, numbers in sorted(found["rows"].items())
    ]
    if len(rows) > 1 and part != "reports":
        ends = [
            (max if key in _NOT_ADDED else sum)(row.get(key, 0) for row in found["rows"].values())
            for key in columns.values()
        ]
        rows.append(["**all**", *(f"**{end:,.6g}**" for end in ends)])
    env, commits = record["environment"], [str(commit)[:7] for commit in found["commits"]]
    processors = ", ".join(found.get("processors", [env["cpu"]]))
    seeds = f"seeds 1 to {found['seeds']}, " if found["seeds"] else ""
    made = (
        f"`python benchmarks/reliability.py --parts {part}`, {found['seconds'] / 60:.0f} minutes "
        f"of its processes on {processors}, torch {env['torch']}, {seeds}"
        f"commit {', '.join(commits)}."
    )
    wrong = len(found["found"])
    told = f" Faults found: {wrong} (see below)." if wrong else " No fault was found."
    return f"{as_markdown((what, *columns), rows)}\n\n{made}{told}"


def draft() -> str:
    """Return what draft decoding costs in pixels, from benchmarks/results/images.json."""
    header = ("from 1024 to", "decoded to at least", "mean difference", "99 % below", "time")
    rows = [
        [
            f"{row['size']}",
            f"{row['margin']:g} x {row['size']}",
            f"{row['mean_difference']:.2f}",
            f"{row['p99_difference']:.0f}",
            f"{row['time_of_full']:.2f}",
        ]
        for row in load("benchmarks/results/images.json")["draft"]
    ]
    return as_markdown(header, rows, left=0) + (
        "\n\nDifferences in levels of 255, and time, against decoding whole; same run as above."
    )


def many_files() -> str:
    """Return the table of benchmarks/results/many-files.json."""
    record = load("benchmarks/results/many-files.json")
    rows = [
        [
            f"{row['files']:,}",
            f"{row['scan_seconds']:.1f}",
            f"{row['scan_mib']:.0f} MiB",
            f"{row['epoch_seconds']:.1f}",
            f"{row['epoch_mib']:.0f} MiB",
        ]
        for row in record["rows"]
    ]
    header = ("files", "loading, s", "more memory", "epoch, s", "more memory")
    return as_markdown(header, rows, left=0) + (
        f"\n\n`python benchmarks/many_files.py` on {record['environment']['cpu']}: peak memory "
        "above what a process with torch in it takes "
        f"({record['rows'][-1]['base_mib']:,.0f} MiB)."
    )


def heads() -> str:
    """Return the gist of benchmarks/results/heads{,-fit}.json: times as parts of the MLP's."""
    record = load("benchmarks/results/heads.json")
    by_case = {(row["head"], row["batch"], row["mode"]): row for row in record["rows"]}
    fitted = {
        (row["head"], row["batch"]): row
        for row in load("benchmarks/results/heads-fit.json")["rows"]
    }
    header = ("spinal head", "multiplications", "longhand, batch 64", "inference, batch 1", "64")
    rows = []
    for head in dict.fromkeys(row["head"] for row in record["rows"]):
        one = by_case[head, 64, "inference"]
        us = one["microseconds"]
        parts = [one["mac_ratio"], one["over_mlp"] * us["naive"] / us["spinal"]]
        parts += [by_case[head, batch, "inference"]["over_mlp"] for batch in (1, 64, 1024)]
        by_fit = [fitted[head, batch] for batch in (64, 1024)]
        steps = [
            f"{row['of_mlp']:.2f}{'' if len(set(row['ways'])) == 1 else '*'}" for row in by_fit
        ]
        rows.append([head, *(f"{part:.2f}" for part in parts), *steps])
    env = record["environment"]
    return as_markdown((*header, "1,024", "`fit`, batch 64", "1,024"), rows) + (
        f"\n\n`python benchmarks/heads.py` on {env['cpu']}, 1 thread, torch {env['torch']}. *: "
        "the MLP has two hidden layers, and `fit` trains it batch by batch."
    )


def memory() -> str:
    """Return the table of benchmarks/results/memory.json."""
    record = load("benchmarks/results/memory.json")
    rows = [
        [row["head"]]
        + [f"{row[key]:.0f} MiB" for key in ("ours", "longhand", "MLP")]
        + [f"**{row['ours'] / row['longhand']:.2f}**"]
        for row in record["rows"]
    ]
    env = record["environment"]
    made = f"`python benchmarks/memory.py` on {env['cpu']}, torch {env['torch']}: "
    table = as_markdown(("head", "compiled", "longhand", "MLP", "of longhand"), rows)
    return f"{table}\n\n{made}{record['protocol']}."


def scale() -> str:
    """Return the table of benchmarks/results/scale.json: several processes against one."""
    record = load("benchmarks/results/scale.json")
    rows = [
        [
            row["case"],
            f"{row['processes']}",
            f"{row['speedup']:.2f}",
            f"**{row['efficiency']:.2f}**",
        ]
        for row in record["rows"]
        if row["processes"] > 1
    ]
    header = ("case", "processes", "times as fast", "efficiency")
    env = record["environment"]
    made = (
        f"`python benchmarks/scale.py` on {env['cpu']} ({env['cores']} cores, load average "
        f"{record['load_average']:.1f} at the end), torch {env['torch']}: {record['protocol']}."
    )
    return f"{as_markdown(header, rows)}\n\n{made}"


def stacked() -> str:
    """Return the tables of benchmarks/results/stacked.json: seeds together, and eight nets."""
    record = load("benchmarks/results/stacked.json")
    tables: dict[int, list[list[str]]] = {10: [], 8: [], 1: []}
    for row in record["rows"]:
        us = [f"{row[key]:,.0f} µs" for key in ("ours", "theirs")]
        entries = [row["case"], row["baseline"], *us, f"**{row['ratio']:.2f}**", row["target"]]
        tables[row["nets"]].append(entries)
    heads = {
        10: ("ten seeds", "against", "together", "one after the other", "times as fast", "target"),
        8: ("eight nets", "one", "one", "eight", "ratio", "target"),
        1: ("head", "against", "MLP", "spinal", "of MLP", "target"),
    }
    parts = [as_markdown(heads[nets], rows) for nets, rows in tables.items()]
    env = record["environment"]
    made = f"`python benchmarks/stacked.py` on {env['cpu']}, torch {env['torch']}. "
    return "\n\n".join([*parts, made + record["protocol"]])


def whole() -> str:
    """Return where the time of a comparison goes, from benchmarks/results/whole*.json."""
    record = load("benchmarks/results/whole.json")
    before = load("benchmarks/results/whole-before.json")
    found = {case: of["this"] for case, of in record["medians"].items()}
    cases = sorted(found, key=lambda case: -found[case]["whole"])
    numbers = ("whole", "first loss", "first accuracy", "processor seconds")
    rows = [
        *([name, *(f"{found[case][name]:.1f}" for case in cases)] for name in numbers),
        ["of the whole, training", *(f"{found[case]['parts']['training']:.1f}" for case in cases)],
        *(
            [name, *(f"{found[case]['parts'][name]:.1f}" for case in cases)]
            for name in found[cases[0]]["parts"]
            if name != "training"
        ),
        ["overhead beyond training", *(f"{found[case]['overhead']:.0%}" for case in cases)],
    ]
    ((case, both),) = before["medians"].items()
    ours, theirs = both["this"], both["other"]
    ratios = [ours[name] / theirs[name] for name in ("whole", "processor seconds")]
    return (
        as_markdown(["seconds", *cases], rows)
        + f"\n\n`{record['command']}` on {_where(record)}: {record['protocol']}.\n\n"
        f"Against the package of before the work on its speed (commit 8b2dc0b, installed "
        f"into a folder of its own), {case} in turns: "
        f"{ours['whole']:.1f} and {theirs['whole']:.1f} s, a ratio of **{ratios[0]:.2f}**; of "
        f"processor time **{ratios[1]:.2f}**. `{before['command']}` on {_where(before)}."
    )


def _where(record: dict[str, Any]) -> str:
    env = record["environment"]
    return (
        f"{env['cpu']}, {env['cores']} cores, torch {env['torch']}, {env['started'][:10]}, "
        f"commit {env['commit'][:7]}"
    )


def stopwatches() -> str:
    """Return whether copies of a process measure as well, from benchmarks/results."""
    record = load("benchmarks/results/stopwatches.json")
    keys = list(record["rows"][0])
    rows = [[str(row[key]) for key in keys] for row in record["rows"]]
    return (
        as_markdown(keys, rows)
        + f"\n\n`{record['command']}` on {_where(record)}: {record['protocol']}."
    )


def targets() -> str:
    """Return what was aimed at in speed, and what the committed measurements say of it."""
    of_runs = {
        case: both["this"] for case, both in load(_RESULTS + "whole.json")["medians"].items()
    }
    default, twenty = (of_runs[case] for case in ("25 runs, as by default", "20 runs"))
    rows: list[tuple[str, str, str, bool]] = [
        ("`compare digits`, first loss on the screen", "6 s", *_at_most(default["first loss"], 6)),
        ("the same of its 20 runs", "6 s", *_at_most(twenty["first loss"], 6)),
        ("20 runs with report, two cores", "35 s", *_at_most(twenty["whole"], 35)),
        ("25 runs with report, two cores", "45 s", *_at_most(default["whole"], 45)),
        (
            "what is not training, over training",
            "25 %",
            f"{default['overhead']:.0%}",
            default["overhead"] <= 0.25,
        ),
    ]

    def by_case(name: str) -> dict[str, dict[str, Any]]:
        found = load(f"{_RESULTS}{name}.json")["rows"]
        return {f"{row['case']} | {row['baseline']}": row for row in found}

    def ratios(name: str) -> dict[str, float]:
        return {case: row["ratio"] for case, row in by_case(name).items()}

    def times(words: str, target: float, ratio: float) -> None:
        rows.append((words, f"{target:g}x", f"{ratio:.2f}x", ratio >= target))

    features, stacked_ = map(ratios, ("features", "stacked"))
    as_it_is = "1 thread(s) | trunk as it is"
    times("frozen features, ONNX Runtime", 3.5, features[f"onnxruntime, {as_it_is}"])
    times("frozen features, without it", 3.5, features[f"torch-folded, {as_it_is}"])
    words = "the same in bf16, when asked for, with instructions"
    times(words, 3.5, features[f"torch-folded-bf16, {as_it_is}"])
    for head in ("spinal 1280 / 20x4", "mlp 1280 / 512"):
        by_fit, by_torch = (
            stacked_[f"{head} | {other}"] for other in ("fit, batch by batch", "RowsLearner")
        )
        times(f"ten seeds of {head} together, over `fit` batch by batch", 3, by_fit)
        times("the same over the same loop in PyTorch", 3, by_torch)
    for words, other in (("one in PyTorch", "RowsLearner"), ("one by the same steps", "compiled")):
        eight = stacked_[f"table, 8 / 50x6: time of eight over that of | one, {other}"]
        rows.append((f"eight nets of a table, over {words}", "2.5", f"{eight:.2f}", eight <= 2.5))
    single, fitted = (load(f"{_RESULTS}{name}.json")["rows"] for name in ("heads", "heads-fit"))

    def kept(of: list[Any], mode: str, key: str) -> int:
        return sum(keeps_promise(mode, row[key], row["mac_ratio"]) for row in of)

    def counted(words: str, found: int, of: int, more: str = "") -> None:
        rows.append((words, f"{of}", f"{found}{more}", found == of))

    alike = [row for row in fitted if len(set(row["ways"])) == 1]
    said = f" ({kept(alike, 'training', 'of_mlp')} of the {len(alike)} whose MLP is trained alike)"
    words = "training by `fit`: rows that keep the promise"
    counted(words, kept(fitted, "training", "of_mlp"), len(fitted), said)
    for mode in ("inference", "training"):
        own = [row for row in single if row["mode"] == mode]
        said = f"; with one parameter {kept(own, mode, 'flat_over_mlp')}"
        words = f"{mode} as built: rows that keep the promise"
        counted(words, kept(own, mode, "over_mlp"), len(own), said)
    for words, ours in (("as built", "spinal"), ("with one parameter", "flat")):
        fast = sum(row["microseconds"][ours] <= row["microseconds"]["naive"] for row in single)
        counted(f"{words}: rows not slower than longhand", fast, len(single))
    plain, script = "plain tensor loop", "classic script"
    intel, amd = by_case("epoch"), by_case("with-bf16/epoch")
    in_bf16 = f"vgg5, none, bf16 | {script}"
    for epochs, words, key, target in (
        (
            intel,
            "an epoch of the small CNN, augmented, over the classic script",
            f"mnist-cnn, perspective+rotation:10 | {script}",
            4,
        ),
        (intel, "the same without augmentation", f"mnist-cnn, none | {script}", 2.2),
        (intel, "an epoch of the small CNN, over a plain loop", f"mnist-cnn, none | {plain}", 1.3),
        (intel, "an epoch of VGG-5, over the classic script", f"vgg5, none | {script}", 2),
        (intel, "the same with `amp=bf16`, without instructions", in_bf16, 2),
        (amd, "the same with `amp=bf16`, with instructions", in_bf16, 2),
        (intel, "an epoch of VGG-5, over a plain loop", f"vgg5, none | {plain}", 1.3),
        (amd, "the same with `amp=bf16`, with instructions", f"vgg5, none, bf16 | {plain}", 1.3),
    ):
        ratio, (low, high) = epochs[key]["ratio"], epochs[key]["ratio_quartiles"]
        found = f"{ratio:.2f}x ({low:.2f} to {high:.2f})"
        rows.append((words, f"{target:g}x", found, ratio >= target))
    reached = ("**missed**", "reached")
    shown = [[what, aim, found, reached[is_kept]] for what, aim, found, is_kept in rows]
    return as_markdown(("what", "aimed at", "measured", ""), shown, left=1) + (
        "\n\nA row keeps the promise if its part of the time of the layers replaced is at most its "
        f"part of their multiplications, in training {TRAINING_SLACK:g} times that. Ratios of "
        "epochs are medians, with quartiles."
    )


_RESULTS = "benchmarks/results/"


def _at_most(seconds: float, limit: float) -> tuple[str, bool]:
    return f"{seconds:.1f} s", seconds <= limit


def pays() -> str:
    """Return what each piece of the fast paths gives, from benchmarks/results/pays.json."""
    path = ROOT / "benchmarks" / "results" / "pays.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| what | case | remembered call | one parameter | compiled path |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for row in record["rows"]:
        cells = [row["kind"], row["case"]]
        for piece in ("repeat", "flat", "compiled"):
            found = row.get(piece)
            low, high = found["quartiles"] if found else (0, 0)
            cells.append(f"**{found['ratio']:.2f}** ({low:.2f} to {high:.2f})" if found else "-")
        lines.append("| " + " | ".join(cells) + " |")
    heads = [
        f"{row['case']}: {row['of_mlp']['as built']:.2f} as built, "
        f"{row['of_mlp']['no repeat']:.2f} without the remembered call, "
        f"promised {row['macs_of_mlp']:.2f}"
        for row in record["rows"]
        if "of_mlp" in row
    ]
    env = record["environment"]
    return "\n".join(lines) + (
        f"\n\nInference as part of the MLP's time: {'; '.join(heads)}.\n\n`{record['command']}` on "
        f"{env['cpu']}, {env['threads']} thread(s), torch {env['torch']}, {env['started'][:10]}: "
        f"{record['protocol']}."
    )


def _worst(rows: list[dict[str, Any]], key: str, at: int | None = None) -> str:
    """Return the highest rate of some cells in percent, of their entry `at` or of all."""
    found = [row[key] if at is None else row[key][at : at + 1] for row in rows if key in row]
    return f"{100 * max(map(max, found)):.1f}" if found else "-"


def _held(rows: list[dict[str, Any]], at: int | None = None) -> str:
    """Return the lowest and highest coverage of some cells, in percent."""
    found = [v for r in rows for i, v in enumerate(r.get("coverage", [])) if at in (None, i)]
    return f"{100 * min(found):.1f} to {100 * max(found):.1f}" if found else "-"


def verdict_errors() -> str:
    """Return the worst cells of benchmarks/results/verdict-errors.json, by kind of comparison."""
    record = load("benchmarks/results/verdict-errors.json")
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in record["rows"]:
        kind = re.split(r", (?:m|example)=", row["cell"])[0]
        if "m" in row and row["cell"].startswith("losses"):
            kind += f", {row['m']:,} examples"
        kinds.setdefault(row.get("scheme", kind), []).append(row)
    header = ("comparisons", "cells", "false better or worse", "false equal", "interval holds")
    rows = []
    for n, at in zip((2, 3, 5, 10, 20), range(5), strict=True):
        cells = kinds["fixed"]
        errors = [_worst(cells, f"false_{kind}", at) for kind in ("difference", "equal")]
        rows.append([f"{n} seeds", f"{len(cells)}", *errors, _held(cells, at)])
    for kind, cells in kinds.items():
        if kind == "fixed":
            continue
        errors = []
        for claim, case in (("difference", "null"), ("equal", "margin")):
            name = f"{case}_false_{claim}" if kind.startswith("family") else f"false_{claim}"
            # Some cells are of a fourth of the level, which Holm asks of four comparisons.
            errors.append(_worst([c for c in cells if c.get("level", 0.05) == 0.05], name))
        rows.append([SIMULATED.get(kind, kind), f"{len(cells)}", *errors, _held(cells)])
    again = sum("first" in row for row in record["rows"])
    over = [row["cell"] for row in record["rows"] if row.get("exceeds")]
    mixed = _worst(kinds.get("family", []), "mixed_false_any")
    limit = 5 + 200 * (0.05 * 0.95 / 10_000) ** 0.5
    return as_markdown(header, rows) + (
        f"\n\n`{record['command']}` on {record['environment']['cpu']}, 1 thread, "
        f"{record['seconds'] / 60:.0f} minutes. In percent, the worst cell of each row. At least "
        f"10,000 comparisons a cell, so that the limit is {limit:.1f}; {again} of "
        f"{len(record['rows'])} cells were beyond it and drawn again, {len(over)} still are. Of "
        f"four comparisons, two without a difference and two that differ by the margin, any claim "
        f"was false in {mixed} at most."
    )


SIMULATED = {
    "stopped, normal gaps": "normal gaps, a look after every seed up to 10,000",
    "stopped": "a look after every seed, 3 to 60",
    "family": "any of four comparisons",
    "family, stopped": "any of four, a look after every seed",
}


def verdict_power() -> str:
    """Return how often heads that do not differ are called equal, from the same file."""
    record = load("benchmarks/results/verdict-errors.json")
    groups: dict[tuple[int, float, float], list[dict[str, Any]]] = {}
    for row in record["rows"]:
        if row["cell"].startswith("fixed"):
            groups.setdefault((row["m"], row["accuracy"], row["margin"]), []).append(row)
    rows = []
    for (m, accuracy, margin), cells in sorted(groups.items()):
        said = [
            [100 * row["equal_at_0"][row["n"].index(n)] for row in cells] for n in (3, 5, 10, 20)
        ]
        parts = [f"{min(part):.0f} to {max(part):.0f}" for part in said]
        rows.append([f"{m:,}", f"{100 * accuracy:g}", f"{100 * margin:g}", *parts])
    header = ("test examples", "accuracy", "margin, points", "3 seeds", "5", "10", "20")
    return as_markdown(header, rows, left=0) + (
        "\n\nPercent of comparisons called equal where the true difference is 0: the lowest and "
        "the highest cell, by the variances of seeds, examples and the rest. Same run."
    )


def _ratio(values: list[float | None]) -> str:
    """Return the median of ratios that may be as small as a float can be."""
    middle = median(value or 0.0 for value in values)
    return f"{middle:.2f}" if middle >= 0.01 else f"{middle:.0e}".replace("e-0", "e-")


def gradients() -> str:
    """Return the gradients by layer and the accuracies of results/studies/gradients.json."""
    record = load("results/studies/gradients.json")
    design = record["design"]
    starts, cells = (
        {(row["activation"], row["net"], row["depth"]): row for row in record[name]}
        for name in ("starts", "cells")
    )
    rows = []
    for key in itertools.product(design["activations"], design["nets"]):
        start = [_ratio(starts[*key, depth]["smallest"]) for depth in DEEP]
        trained = [cells.get((*key, depth)) for depth in design["depths"]]
        deep = cells.get((*key, 50))
        after = _ratio(deep["trained"]["smallest"]) if deep else "-"
        accuracy = [f"{100 * fmean(c['test']):.1f}" if c else "-" for c in trained]
        rows.append([*key, *start, after, *accuracy])
    header = ["activation", "net", *(f"start, {depth}" for depth in DEEP), "trained, 50"]
    header += [f"accuracy, {depth}" for depth in design["depths"]]
    made = record["environments"]
    left = len(starts) - len(cells)
    missing = f" ({left} of {len(starts)} cells are not trained yet: -)" if left else ""
    return as_markdown(header, rows, left=2) + (
        f"\n\nGradient of the layer with the smallest, as part of the largest (median of "
        f"{len(design['seeds'])} seeds), at the start and after training, and mean test "
        f"accuracy in percent, by number of layers{missing}.\n\n{_answers(record)}\n\n"
        f"`{record['command']}` on {made[0]['cpu']}, 1 thread, torch {made[0]['torch']}, "
        f"commits {' and '.join(dict.fromkeys(env['commit'][:7] for env in made))}; digits, "
        f"{record['test_examples']} test examples; design, rates and seeds at the head of the file."
    )


DEEP = (4, 50, 100)


def _answers(record: dict[str, Any]) -> str:
    """Return the answers to the questions that were asked beforehand, a line each."""
    found = record.get("answers")
    if not found:
        return "The questions asked beforehand are not answered yet."
    worst = min(found["smallest_at_start"].values())
    each = ", ".join(f"{act} {value:.2f}" for act, value in found["smallest_at_start"].items())
    lines = [
        f"- **Does every layer of a spinal net of {record['design']['depths'][-1]} layers start "
        f"with at least a tenth of the largest gradient, in every seed? "
        f"{'Yes' if worst >= 0.1 else 'No'}** (least: {each})."
    ]
    for pair in found["pairs"]:
        names = [f"`{net}` of {depth} layers" for net, depth in (pair["first"], pair["second"])]
        said = VERDICTS[pair["verdict"]].format(other=names[1])
        numbers = "{difference:+.1f} points ({low:+.1f} to {high:+.1f})".format(
            **{name: 100 * pair[name] for name in ("difference", "low", "high")}
        )
        lines.append(f"- {names[0]}, relu: {said}, {numbers}.")
    return "\n".join(lines)


VERDICTS = {
    "better": "**better** than {other}",
    "worse": "**worse** than {other}",
    "equal": "**equal** to {other} within a point",
    "undecided": "undecided against {other}",
}


def depth_that_counts() -> str:
    """Return what the chain of spinal nets carries, from the same file."""
    record = load("results/studies/gradients.json")
    starts, cells = (
        {(row["activation"], row["depth"]): row for row in record[name] if row["net"] == "spinal"}
        for name in ("starts", "cells")
    )
    rows = []
    for activation, depth in itertools.product(record["design"]["activations"], DEEP):
        cell = cells.get((activation, depth))
        row = [activation, f"{depth}"]
        for name in ("reach", "through_chain", "last_half", "far"):
            texts = []
            for looked in (starts[activation, depth], cell and cell["trained"]):
                middle = median(value or 0.0 for value in looked[name]) if looked else None
                texts.append(_share(middle) if name != "reach" or middle is None else f"{middle:g}")
            row.append(" → ".join(texts))
        rows.append(row)
    header = ("activation", "layers", "links that matter", "variance by the chain")
    return as_markdown((*header, "by the last half", "gradient from afar"), rows, left=1) + (
        f"\n\nAt the start → after training; medians of {len(record['design']['seeds'])} seeds, "
        "same run."
    )


def _share(share: float | None) -> str:
    """Return a share in percent."""
    if share is None:
        return "-"
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def table_defaults() -> str:
    """Return what was tried to choose the estimators' defaults, and what was taken."""
    record = load("benchmarks/results/table-defaults.json")
    rows = [
        [
            stage["stage"],
            stage["group"],
            label,
            f"{seen['gain']:+.4f} ± {seen['error']:.4f}",
            "taken" if label == stage["taken"] else "",
        ]
        for stage in record["stages"]
        for label, seen in stage["variations"].items()
    ]
    header = ("stage", "tables", "variation", "gain ± standard error", "")
    env = record["environment"]
    made = (
        f"`python benchmarks/table_defaults.py --tables FOLDER` on {env['cpu']}, "
        f"{env['threads']} thread(s), torch {env['torch']}. Accuracy or R², mean over the tables "
        "and all four nets, against the settings chosen so far."
    )
    return f"{as_markdown(header, rows, left=3)}\n\n{made}"


def table_reach() -> str:
    """Return how the defaults did on the tables that had no part in choosing them."""
    if not (ROOT / "benchmarks/results/table-reach.json").exists():
        return "Not measured yet: `python benchmarks/table_reach.py --tables FOLDER`."
    found = load("benchmarks/results/table-reach.json")
    heads, rope, env = found["heads"], found["rope"], found["environment"]
    by_table = [
        [name, *("" if row[head] is None else f"{row[head]:.3f}" for head in heads)]
        for name, row in found["tables"].items()
    ]
    by_table.append(["mean rank", *(f"{found['mean_ranks'][head]:.2f}" for head in heads)])
    test = [
        [
            head,
            *(f"{row[name]:.3f}" for name in ("better", "equal", "worse")),
            f"{row['mean_difference']:+.3f}",
            f"{row['wins']} / {row['losses']}",
        ]
        for head, row in found["against"].items()
    ]
    header = (
        *("spinal against", "P(better)", f"P(within {rope:g})", "P(worse)", "mean difference"),
        f"tables above {rope:g} / below",
    )
    made = (
        f"`python benchmarks/table_reach.py --tables FOLDER`, {found['splits']} splits, on "
        f"{env['cpu']}, {env['threads']} thread(s), torch {env['torch']}. Accuracy or R² with "
        "defaults on the deciding half; probabilities of the Bayesian signed-rank test."
    )
    parts = as_markdown(("table", *heads), by_table), as_markdown(header, test), made
    return "\n\n".join(parts)


def _tables_compared() -> dict[str, dict[str, Any]]:
    found = sorted((ROOT / "results/tables").glob("*.json"))
    of = {path.stem: load(str(path.relative_to(ROOT))) for path in found}
    return {name.replace("sklearn-", "sklearn:"): summary for name, summary in of.items()}


def tables_compared() -> str:
    """Return the scores of all heads on every table, and what is concluded of them."""
    tables = _tables_compared()
    reach = load("benchmarks/results/table-reach.json")["tables"]  # of the deciding half
    if not tables:
        return "Not measured yet: `python benchmarks/tables.py --tables FOLDER`."
    names = [head["head"] for head in next(iter(tables.values()))["heads"]]
    scores, answers = [], {name: Counter() for name in names[1:]}
    for name, summary in tables.items():
        of = {head["head"]: head for head in summary["heads"]}
        cells = []
        for head in names:
            mean = of[head]["mean"] if head in of else None
            said = ((of.get(head) or {}).get("difference") or {}).get("code", "")
            cells.append(("" if mean is None else f"{mean:.3f}") + SIGNS.get(said, ""))
            if head in answers:
                answers[head][said or "not run"] += 1
        half = "" if name in reach else "*"
        scores.append([name + half, *cells])
    codes = ("better", "equal", "worse", "undecided", "nothing-learned", "not run")
    shown = [code for code in codes if any(count[code] for count in answers.values())]
    counted = [[head, *(str(count[code]) for code in shown)] for head, count in answers.items()]
    env = next(iter(tables.values()))["environment"]
    made = (
        f"`python benchmarks/tables.py --tables FOLDER`, ten splits, {len(tables)} tables, on "
        f"{env['cpu']}, {env['threads']} thread(s), torch {env['torch']}. Mean accuracy or R² with "
        "defaults. Signs: the answer for spinal against that column, ▲ better, ▼ worse, = equal "
        "within the margin, none undecided. `*`: of the development half."
    )
    parts = as_markdown(("spinal against", *shown), counted), as_markdown(("table", *names), scores)
    return "\n\n".join((*parts, made))


def tables_rare() -> str:
    """Return what tables with rare classes say by balanced accuracy and log loss."""
    found = load("benchmarks/results/tables-rare.json")
    heads = list(next(iter(found["rows"].values())))
    rows = [
        [
            name,
            *(
                f"{row[head]['mean']:.3f}{SIGNS.get(row[head]['answer'] or '', '')}"
                for head in heads
            ),
        ]
        for name, row in found["rows"].items()
    ]
    made = "`python benchmarks/tables.py --tables FOLDER --rare`; of a loss less is better."
    return f"{as_markdown(('table', *heads), rows)}\n\n{made}"


def tables_together() -> str:
    """Return what the comparisons of all tables say together."""
    from spinalnet.comparison.study import read_folders, together

    paths = sorted((ROOT / "results/tables").glob("*.json"))
    found = together(read_folders(paths))
    rows = []
    for pair in found.pairs:
        assert pair.chances is not None
        assert pair.improvement is not None
        chances = (pair.chances.better, pair.chances.equal, pair.chances.worse)
        won = pair.improvement
        rows.append(
            [
                *(pair.minus, *(f"{one:.3f}" for one in chances)),
                f"{won.value:.2f} ({won.low:.2f} to {won.high:.2f})",
            ]
        )
    header = ("spinal against", "P(better)", f"P(within {found.rope:g})", "P(worse)")
    return "\n\n".join(
        [
            as_markdown((*header, "a run beats one of it"), rows),
            f"`spinalnet study results/tables/*.json`, {len(found.means)} tables, development half "
            "included.",
        ]
    )


SIGNS = {"better": " ▲", "worse": " ▼", "equal": " ="}


def table_speed() -> str:
    """Return how fast the estimators train."""
    result = load("benchmarks/results/estimators.json")
    header = ("case", "baseline", "ours, ms per epoch", "baseline, ms", "baseline / ours")
    rows = [
        [
            *(row["case"], row["baseline"], f"{1e3 * row['ours']:.1f}"),
            *(f"{1e3 * row['theirs']:.1f}", f"{row['ratio']:.2f}"),
        ]
        for row in result["rows"]
    ]
    env = result["environment"]
    made = (
        f"`python benchmarks/estimators.py` on {env['cpu']}, {env['threads']} thread(s), torch "
        f"{env['torch']}. {result['protocol']}"
    )
    return f"{as_markdown(header, rows, left=2)}\n\n{made}"


TABLES: dict[str, Callable[[], str]] = {
    "answers": compared.table,
    "answers-together": compared.together,
    "digits": lambda: comparison("digits"),
    "cifar10-features": lambda: comparison("cifar10-features"),
    "cifar10-features-again": lambda: comparison("cifar10-features-again"),
    "fashion-mnist": lambda: comparison("fashion-mnist"),
    "tuned-fashion-mnist": lambda: comparison("tuned-fashion-mnist"),
    "tuned-mnist": lambda: comparison("tuned-mnist"),
    "tuned-both": tuned,
    "hymenoptera": lambda: comparison("hymenoptera"),
    "transfer-hymenoptera": lambda: comparison("transfer-hymenoptera"),
    "transfer-hymenoptera-dropout": lambda: comparison("transfer-hymenoptera-dropout"),
    "transfer-hymenoptera-160": lambda: comparison("transfer-hymenoptera-160"),
    "transfer-hymenoptera-tuned": lambda: comparison("transfer-hymenoptera-tuned"),
    "transfer-hymenoptera-tuned-dropout": lambda: comparison("transfer-hymenoptera-tuned-dropout"),
    "bench": functools.partial(benchmark, "augment", "epoch"),
    "bench-with-bf16": functools.partial(benchmark, "with-bf16/epoch"),
    "bench-jobs": jobs,
    "bench-export": functools.partial(benchmark, "export"),
    "bench-steps": functools.partial(benchmark, "steps"),
    "bench-heads": heads,
    "bench-memory": memory,
    "bench-pays": pays,
    "bench-stacked": stacked,
    "bench-whole": whole,
    "speed-targets": targets,
    "bench-stopwatches": stopwatches,
    "bench-scale": scale,
    "bench-models": functools.partial(benchmark, "models"),
    "bench-features": functools.partial(benchmark, "features", note=" (CIFAR-10, JPEG copies)"),
    "bench-transfer": functools.partial(benchmark, "transfer"),
    "bench-images": functools.partial(benchmark, "images"),
    **{f"reliability-{part}": functools.partial(reliability, part) for part in RELIABILITY},
    "draft": draft,
    "copies": copies,
    "many-files": many_files,
    "jacobian": jacobians,
    "gradients": gradients,
    "depth-that-counts": depth_that_counts,
    "verdict-errors": verdict_errors,
    "verdict-power": verdict_power,
    "table-defaults": table_defaults,
    "table-reach": table_reach,
    "table-compare": tables_compared,
    "table-study": tables_together,
    "table-rare": tables_rare,
    "table-speed": table_speed,
    **claims.BLOCKS,
    **study_blocks.BLOCKS,
}


def migration() -> str:
    """Return a row for every script and notebook of the original: what runs it here."""
    from spinalnet.paper import RECIPES

    by_source: dict[str, list[Any]] = {}
    for recipe in RECIPES.values():
        for source in recipe.sources:
            by_source.setdefault(source, []).append(recipe)
    rows = [
        [
            f"`{source}`" if "." in source.rpartition("/")[2] else source,
            ", ".join(f"`{one.name}`" for one in recipes),
            ", ".join(dict.fromkeys(f"`{one.model}`" for one in recipes)),
            ", ".join(
                dict.fromkeys(head for one in recipes for head in one.original_heads or one.heads)
            ),
        ]
        for source, recipes in by_source.items()
    ]
    return as_markdown(
        ["script or notebook of the original", "recipes", "network here", "heads it trains"],
        rows,
        left=4,
    )


TABLES["migration"] = migration

WINGS = (
    *("nn", "models", "data", "training", "comparison", "tabular", "theory", "paper", "deploy"),
    *("kernels", "cli", "bench", "files", "own_code", "timing", "wiring"),
    *("_checks", "_dist", "_lazy"),
)


def house() -> str:
    """Return the wings in reading order, each with the first sentence of its face and its files."""
    source = ROOT / "src" / "spinalnet"
    lines: list[str] = []
    for wing in WINGS:
        folder = source / wing
        face = folder / "__init__.py" if folder.is_dir() else source / f"{wing}.py"
        text = ast.get_docstring(ast.parse(face.read_text(encoding="utf-8"))) or ""
        sentence = " ".join(text.split("\n\n")[0].split()).rstrip(".")
        lines.append(f"{wing + '/' * folder.is_dir():<12} {sentence}")
        if folder.is_dir():
            files = [path.stem for path in sorted(folder.glob("*.py")) if path != face]
            files += [f"{path.parent.name}/" for path in sorted(folder.glob("*/__init__.py"))]
            lines += textwrap.wrap(
                ", ".join(files), 98, initial_indent=" " * 13, subsequent_indent=" " * 13
            )
    return "```\n" + "\n".join(lines) + "\n```"


def rewrite(text: str) -> str:
    """Return `text` with all marked parts made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table:{match[1]} -->\n{TABLES[match[1]]()}\n<!-- /table -->"

    text = re.sub(r"<!-- table:([\w-]+) -->.*?<!-- /table -->", table, text, flags=re.DOTALL)
    return re.sub(
        r"<!-- house -->.*?<!-- /house -->",
        lambda _: f"<!-- house -->\n{house()}\n<!-- /house -->",
        text,
        flags=re.DOTALL,
    )


def packaged() -> dict[Path, str]:
    """Return the files that the package carries of what is known elsewhere.

    Names are there to be completed without loading torch; what recipes have found lies in
    `results/`, which is not installed.
    """
    from spinalnet.cli import names
    from spinalnet.paper import records

    facts = records.facts_of(records.load_records(ROOT / records.RESULTS))
    found = {"facts": [dataclasses.asdict(fact) for fact in facts]}
    return {
        ROOT / "src/spinalnet/cli/names.json": json.dumps(names.all_names(), indent=1) + "\n",
        ROOT / "src/spinalnet/paper/found.json": json.dumps(found, indent=1) + "\n",
    }


def main() -> int:
    """Rewrite, or with `--check` report; return the exit code."""
    stale = []
    if "--check" not in sys.argv:
        draw_pictures()
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    made = packaged()
    for path in [*pages, *made]:
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = made[path] if path in made else rewrite(old)
        if new != old:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print("stale:" if "--check" in sys.argv else "rewritten:", path)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
